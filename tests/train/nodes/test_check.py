"""What the node check finds, which node is to blame, and whether training is refused."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed

from bertjobs.errors import EXIT_FAILURE, BertjobsError
from bertjobs.launch.local import free_port
from bertjobs.run.suspects import FILE, suspects
from bertjobs.train.nodes import measure as node_measure
from bertjobs.train.nodes.check import (
    NOISE_S,
    SENT_BYTES,
    Clock,
    Disk,
    Findings,
    GpuHealth,
    NetworkTimes,
    NodeFacts,
    NodeProblem,
    UnfitNodesError,
    granted,
    parse_gpus,
    problems,
    settle,
    visible,
)
from bertjobs.train.nodes.measure import link_of, look_at_nodes, measure_network, partners
from bertjobs.train.placement import Placement, read_placement
from bertjobs.train.ranks import FirstRankFailedError, Ranks, joined
from tests.cluster.slurm import PATIENCE_S
from tests.conftest import wait_until
from tests.forkserver import CONTEXT, preload

preload(__name__)
TOO_MUCH = 10**18  # more bytes than any disk has

HEALTHY = """\
0, GPU-5c1fd6a5-0001, 81559, 81038, 0
1, GPU-5c1fd6a5-0002, 81559, 81038, 0
"""
FACTS = NodeFacts("node1", 2, 2, parse_gpus(HEALTHY), "", (Disk("/tmp", 10, False, free=20),))


def fatal(what: str, node: str = "node1") -> NodeProblem:
    return NodeProblem(node, what, True)


def warning(what: str, node: str = "node1") -> NodeProblem:
    return NodeProblem(node, what, False)


def test_a_healthy_node_has_no_problem() -> None:
    assert problems(Findings(nodes=(FACTS,))) == []
    assert problems(Findings()) == []


def test_what_nvidia_smi_prints() -> None:
    text = HEALTHY + "2, GPU-ab, 24564, 12000.5, [N/A]\n3, GPU-cd, [Unknown Error], [GPU is lost], 4\nNo, devices\n\n"
    assert parse_gpus(text) == (
        GpuHealth(0, "GPU-5c1fd6a5-0001", 81559, 81038, 0),
        GpuHealth(1, "GPU-5c1fd6a5-0002", 81559, 81038, 0),
        GpuHealth(2, "GPU-ab", 24564, 12000.5, None),
        GpuHealth(3, "GPU-cd", None, None, 4),
    )
    assert parse_gpus("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") == ()


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse_gpus(text)
    parse_gpus(f"0, {text}, {text}, {text}, {text}")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, [0, 1]),
        ("", []),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-5c1fd6a5-0002", [1]),
        ("0,-1,1", [0]),
        ("GPU-5c1fd6a5", []),  # names two
        ("MIG-1", []),
    ],
)
def test_only_gpus_of_the_job_are_judged(setting: str | None, expected: list[int]) -> None:
    assert [gpu.index for gpu in visible(parse_gpus(HEALTHY), setting)] == expected


@pytest.mark.parametrize(
    ("setting", "number"),
    [("0,1,2,3", 4), ("GPU-ab,GPU-cd", 2), ("MIG-1", 1), ("NoDevFiles", 0), ("", 0), ("-1", 0)],
)
def test_gpus_that_the_job_was_given(setting: str, number: int) -> None:
    assert granted({"CUDA_VISIBLE_DEVICES": setting}) == number
    assert granted({}) == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gpus_seen": 1}, fatal("1 of 2 GPUs seen")),
        ({"gpus": parse_gpus("0, GPU-a, 81559, 81038, 3")}, fatal("GPU 0 has 3 uncorrected ECC errors")),
        (
            {"gpus": parse_gpus("0, GPU-a, 80000, 10000, 0")},
            warning("GPU 0 has 10000 of 80000 MiB free: another process uses it"),
        ),
        ({"complaint": "no answer within 3 s"}, warning("nvidia-smi: no answer within 3 s")),
        ({"disks": (Disk("/tmp", 2 * 10**9, False, 10**8),)}, fatal("/tmp: 0.1 GB free, 2.0 GB needed")),
        ({"disks": (Disk("/data", 1, True, 0, "Stale file handle"),)}, warning("/data: Stale file handle")),
    ],
)
def test_what_is_wrong_with_a_node(change: dict[str, object], expected: NodeProblem) -> None:
    ill = replace(FACTS, **change)  # type: ignore[arg-type]
    assert problems(Findings(nodes=(replace(FACTS, node="node0"), ill))) == [expected]


def with_disks(*, shared: bool = True, **free: int) -> Findings:
    """A disk on which each node sees this many bytes free, and 100 are needed."""
    return Findings(nodes=tuple(replace(FACTS, node=n, disks=(Disk("/r", 100, shared, f),)) for n, f in free.items()))


FULL = "/r: 0.0 GB free, 0.0 GB needed"


def test_a_disk_that_is_full_for_all_is_not_a_nodes_fault() -> None:
    assert problems(with_disks(a=9, b=8, c=9)) == [fatal(FULL, node="")]
    assert problems(with_disks(a=9)) == [fatal(FULL, node="")]
    assert problems(with_disks(a=9, b=8, shared=False)) == [fatal(FULL, node="")]


def test_a_full_disk_of_its_own_is_the_nodes_fault() -> None:
    assert problems(with_disks(a=9, shared=False)) == [fatal(FULL, node="a")]
    assert problems(with_disks(a=9, b=1000, c=9, shared=False)) == [fatal(FULL, node="a"), fatal(FULL, node="c")]


def test_a_node_that_alone_sees_another_disk_lacks_the_mount() -> None:
    assert problems(with_disks(a=1000, b=9, c=1000)) == [fatal(FULL, node="b")]


def clocks(*ahead_s: float, round_trip_s: float = 0.0) -> list[NodeProblem]:
    all_clocks = tuple(Clock(f"node{place}", seconds) for place, seconds in enumerate(ahead_s))
    return problems(Findings(clocks=all_clocks, round_trip_s=round_trip_s))


def test_a_clock_that_differs_from_most_is_named() -> None:
    assert clocks(0, 0.1, -0.2, 1.9) == []
    assert clocks(0, 0.1, 30, 0) == [warning("its clock is 29.9 s ahead", "node2")]
    assert clocks(0, 12, 12, 12.5) == [warning("its clock is 12.0 s behind", "node0")]


def test_of_two_clocks_either_may_be_wrong() -> None:
    assert clocks(0, 30) == [warning("the clocks of node0 and node1 are 30.0 s apart", "")]
    assert clocks(0, -1) == clocks(5) == clocks() == []


def test_clocks_are_compared_as_precisely_as_the_network_allows() -> None:
    assert clocks(0, 0, 5, round_trip_s=4) == []
    assert len(clocks(0, 0, 7, round_trip_s=4)) == 1


def network(exchange_s: Mapping[str, float | None], device: str = "cpu") -> Findings:
    return Findings(links=tuple(NetworkTimes(name, 2.0, s) for name, s in exchange_s.items()), ranks=4, device=device)


@given(st.integers(3, 60), st.data())
def test_a_slow_node_is_named_and_no_other(nodes: int, data: st.DataObject) -> None:
    """Each exchange takes what the slower of the two needs."""
    slow = data.draw(st.sets(st.integers(0, nodes - 1), max_size=1))
    best = {
        f"node{node}": min(4.0 if {node, other} & slow else 1.0 for other in partners(node, nodes) if other is not None)
        for node in range(nodes)
    }
    reported = problems(network(best))
    assert reported == [
        warning("slow network: 4000 ms for what takes 1000 ms elsewhere", f"node{node}") for node in slow
    ]


@given(st.integers(3, 200))
def test_nodes_pair_off_with_several_partners_each(nodes: int) -> None:
    columns = [partners(node, nodes) for node in range(nodes)]
    for node, own in enumerate(columns):
        assert len({other for other in own if other is not None}) >= 2
        assert all(columns[other][turn] == node for turn, other in enumerate(own) if other is not None)


def test_the_slowest_rank_of_a_node_and_its_fastest_partner_count() -> None:
    assert link_of("a", [[1.0, 5.0, None, 2.0], [3.0, 4.0, None, 6.0]]) == NetworkTimes("a", 3.0, 5.0)
    assert link_of("a", [[1.0]]) == NetworkTimes("a", 1.0, None)


def test_differences_within_the_noise_say_nothing() -> None:
    times = {"a": 0.9 * NOISE_S["cpu"], "b": 0.001, "c": 0.001}
    assert problems(network(times)) == []
    assert [problem.node for problem in problems(network(times, "cuda"))] == ["a"]


def test_of_two_nodes_neither_is_slow() -> None:
    assert problems(network({"a": None, "b": None})) == []


def test_bandwidth_is_defined_as_in_nccl_tests() -> None:
    links = (NetworkTimes("a", 0.01), NetworkTimes("b", 0.02))
    assert Findings(links=links, ranks=4, device="cuda").bandwidth_gb_per_s == pytest.approx(1.5 * 64e6 / 0.02 / 1e9)
    assert Findings().bandwidth_gb_per_s == 0


@dataclass(frozen=True)
class Scene:
    """Ranks on several nodes, each with its own faults."""

    nodes: int
    tasks: int
    folder: Path
    ahead_s: Mapping[int, float] = field(default_factory=dict)  # by rank: how far its clock is ahead
    needed: Mapping[int, int] = field(default_factory=dict)  # by rank: bytes of disk that its node needs

    def environ(self, rank: int, port: int) -> dict[str, str]:
        names = {"PROCID": rank, "LOCALID": rank % self.tasks, "NTASKS": self.nodes * self.tasks, "NNODES": self.nodes}
        return {
            **{f"SLURM_{name}": str(value) for name, value in names.items()},
            "SLURM_JOB_ID": "77",
            "SLURMD_NODENAME": f"node{rank // self.tasks}",
            "MASTER_PORT": str(port),
        }

    def disks(self, rank: int) -> list[Disk]:
        return [Disk(str(self.folder / "not" / "yet"), self.needed.get(rank, 1), False)]


@dataclass(frozen=True)
class RankReport:
    """What one rank found and how it ended."""

    looked: Findings
    measured: Findings
    error: str
    seconds: float


def one_rank(scene: Scene, rank: int, port: int) -> None:
    torch.set_num_threads(1)
    environ = scene.environ(rank, port)
    placement = read_placement(environ)
    with joined(placement) as ranks:
        began = time.monotonic()
        ahead_s = scene.ahead_s.get(rank, 0.0)
        looked = look_at_nodes(ranks, placement, 0, scene.disks(rank), environ, clock=lambda: time.time() + ahead_s)
        measured = measure_network(ranks, torch.device("cpu"), environ)
        seconds, error = time.monotonic() - began, ""
        try:
            settle(ranks, looked, placement, scene.folder, "bert")
        except (UnfitNodesError, FirstRankFailedError) as raised:
            error = f"{type(raised).__name__} {raised}"
        (scene.folder / f"report-{rank}").write_bytes(pickle.dumps(RankReport(looked, measured, error, seconds)))
    os._exit(0)


def played(scene: Scene) -> list[RankReport]:
    """What each rank, a real process, reports."""
    port, ranks = free_port(), range(scene.nodes * scene.tasks)
    processes = [CONTEXT.Process(target=one_rank, args=(scene, rank, port)) for rank in ranks]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0] * len(ranks)
    return [pickle.loads((scene.folder / f"report-{rank}").read_bytes()) for rank in ranks]


def test_healthy_nodes_are_measured_and_trained_on(tmp_path: Path) -> None:
    reports = played(Scene(4, 1, tmp_path))
    first = reports[0]
    assert {(one.looked, one.measured) for one in reports} == {(first.looked, first.measured)}, "all ranks agree"
    assert [node.node for node in first.looked.nodes] == [clock.node for clock in first.looked.clocks]
    assert [link.node for link in first.measured.links] == ["node0", "node1", "node2", "node3"]
    assert all(clock.ahead_s < 1 for clock in first.looked.clocks)
    for link in first.measured.links:
        assert link.exchange_s is not None
        assert 0 < link.exchange_s < 10
    assert first.measured.bandwidth_gb_per_s > 0
    assert problems(first.looked) == []
    assert {one.error for one in reports} == {""}
    assert not (tmp_path / FILE).exists()


def test_unfit_nodes_are_named_recorded_and_refused(tmp_path: Path) -> None:
    reports = played(Scene(3, 1, tmp_path, ahead_s={2: 600.0}, needed={1: TOO_MUCH}))
    assert reports[0].error.startswith("UnfitNodesError error: refusing to train on these nodes: node1: ")
    assert "1000000000.0 GB needed" in reports[0].error
    assert "node2" not in reports[0].error
    assert str(tmp_path / FILE) in reports[0].error
    assert [one.error.split()[0] for one in reports[1:]] == ["FirstRankFailedError"] * 2
    register = {suspect.node: suspect for suspect in suspects(tmp_path, time.time())}
    assert {node: suspect.fatal for node, suspect in register.items()} == {"node1": True, "node2": False}
    assert "its clock is 600." in register["node2"].reason
    assert {(suspect.run, suspect.job) for suspect in register.values()} == {("bert", "77")}


def test_several_ranks_of_a_node_give_one_result(tmp_path: Path) -> None:
    reports = played(Scene(2, 2, tmp_path, ahead_s={2: -60.0, 3: -60.0}))
    looked, measured = reports[3].looked, reports[3].measured
    assert [node.node for node in looked.nodes] == ["node0", "node1"]
    assert [round(clock.ahead_s) for clock in looked.clocks] == [0, -60]
    assert [(link.node, link.exchange_s) for link in measured.links] == [("node0", None), ("node1", None)]
    assert problems(looked) == [warning("the clocks of node0 and node1 are 60.0 s apart", "")]
    assert {one.error for one in reports} == {""}, "a warning does not end a run"


def one_of_two(rank: int, port: int, folder: Path) -> None:
    """Rank 1 opens the network, and then does nothing."""
    environ = Scene(2, 1, folder).environ(rank, port)
    with joined(read_placement(environ)) as ranks:
        if rank:
            distributed.all_gather_object([None, None], "node1")
            distributed.all_reduce(torch.zeros(SENT_BYTES["cpu"] // 4))
            time.sleep(PATIENCE_S)
        try:
            measure_network(ranks, torch.device("cpu"), environ, limit_s=0.5)
        except BertjobsError as error:
            (folder / "error").write_text(str(error))
    os._exit(0)


def test_a_network_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    port = free_port()
    first, second = (CONTEXT.Process(target=one_of_two, args=(rank, port, tmp_path)) for rank in range(2))
    first.start()
    second.start()
    wait_until((tmp_path / "error").exists)
    second.kill()
    first.join(PATIENCE_S)
    second.join(PATIENCE_S)
    error = (tmp_path / "error").read_text()
    assert "a test of the network between 2 ranks did not end within 0.5 s" in error
    assert "node0, rank 0, cpu" in error


Look = Callable[..., Findings]


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """One rank looks at a machine whose nvidia-smi is a shell script; it may take its time."""
    monkeypatch.setattr(node_measure, "LOOK_S", PATIENCE_S)
    monkeypatch.setattr(node_measure, "SMI_S", PATIENCE_S)

    def run(script: str, gpus: int = 2, disks: tuple[Disk, ...] = (), **environ: str) -> Findings:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        placement = read_placement({})
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURMD_NODENAME": "node1"}
        return look_at_nodes(Ranks(placement), placement, gpus, disks, {**path, **environ})

    return run


def test_nvidia_smi_is_asked(look: Look, tmp_path: Path) -> None:
    findings = look(f'echo "$@" > {tmp_path}/asked; cat <<END\n{HEALTHY}END', CUDA_VISIBLE_DEVICES="1")
    assert [gpu.uuid for gpu in findings.nodes[0].gpus] == ["GPU-5c1fd6a5-0002"]
    assert findings.nodes[0].complaint == ""
    assert (tmp_path / "asked").read_text() == (
        "--query-gpu=index,uuid,memory.total,memory.free,ecc.errors.uncorrected.volatile.total "
        "--format=csv,noheader,nounits\n"
    )


def test_missing_gpus_are_fatal_only_if_the_job_was_given_them(look: Look) -> None:
    if torch.cuda.device_count():
        pytest.skip("this machine has GPUs")
    assert problems(look(":", CUDA_VISIBLE_DEVICES="0,1")) == [fatal("0 of 2 GPUs seen")]
    assert problems(look(":")) == [], "the job did not request them: bad input, not a bad node"


def test_what_nvidia_smi_complains_of_is_reported(look: Look) -> None:
    lost = "Unable to determine the device handle for GPU 0000:C1:00.0: GPU is lost."
    assert problems(look(f"echo '{lost}'; exit 15")) == [warning(f"nvidia-smi: {lost}")]
    assert problems(look("exit 9")) == [warning("nvidia-smi: exit code 9")]


def test_an_nvidia_smi_that_hangs_is_not_waited_for(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_measure, "SMI_S", 1.0)
    assert problems(look("exec sleep 3600")) == [warning("nvidia-smi: no answer within 1 s")]


def test_a_machine_without_nvidia_smi_is_not_blamed(tmp_path: Path) -> None:
    placement = read_placement({})
    findings = look_at_nodes(Ranks(placement), placement, 2, [], {"PATH": str(tmp_path)})
    assert problems(findings) == []


def test_a_run_on_the_cpu_asks_for_no_gpu(look: Look, tmp_path: Path) -> None:
    findings = look(f"touch {tmp_path}/asked", gpus=0, CUDA_VISIBLE_DEVICES="0,1")
    assert problems(findings) == []
    assert not (tmp_path / "asked").exists()


def test_free_disk_is_that_of_the_nearest_folder_that_exists(look: Look, tmp_path: Path) -> None:
    disks = (Disk(str(tmp_path / "a" / "b"), 1, False), Disk("/proc", 1, False))
    first, second = look(":", gpus=0, disks=disks).nodes[0].disks
    stat = os.statvfs(tmp_path)
    assert first.free == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.1)
    assert (second.free, second.trouble) == (0, "")


def alone() -> tuple[Ranks, Placement]:
    placement = read_placement({})
    return Ranks(placement), placement


def test_a_single_rank_measures_no_network() -> None:
    ranks, _ = alone()
    findings = measure_network(ranks, torch.device("cpu"), {})
    assert findings.links == ()
    assert problems(findings) == []


def test_this_machine_is_not_written_into_slurms_register(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks, placement = alone()
    with pytest.raises(UnfitNodesError) as caught:
        settle(ranks, Findings(nodes=(replace(FACTS, gpus_seen=0),)), placement, tmp_path, "bert")
    assert caught.value.exit_code == EXIT_FAILURE
    assert not (tmp_path / FILE).exists()
    assert capsys.readouterr().out == "node check: node1: 0 of 2 GPUs seen\n"


def test_a_full_shared_disk_says_what_to_do(tmp_path: Path) -> None:
    ranks, placement = alone()
    with pytest.raises(UnfitNodesError, match="on these nodes: /r: 0") as caught:
        settle(ranks, with_disks(a=9, b=9), placement, tmp_path, "bert")
    assert "free the space" in str(caught.value.hint)


def test_a_register_that_cannot_be_written_stops_no_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    placement = read_placement({"SLURM_PROCID": "0", "SLURM_JOB_ID": "77"})
    findings = Findings(nodes=(replace(FACTS, complaint="slow"),))
    settle(Ranks(placement), findings, placement, tmp_path / "absent", "bert")
    assert "cannot be written: No such file or directory" in capsys.readouterr().out
