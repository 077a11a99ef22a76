"""Runs whose nodes a person starts, a command on each: here two commands on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertjobs.cli.main import main
from bertjobs.errors import InputError
from bertjobs.launch.by_hand import check_host, hetseq_groups, parse_address, place
from bertjobs.launch.local import LocalRanks, free_port
from bertjobs.launch.start import write_run
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from tests.cluster.slurm import PATIENCE_S
from tests.conftest import Bertjobs, wait_until

NODES = (1, 4, 2)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("node1:29400", ("node1", 29400)),
        ("tcp://10.0.0.1:11111", ("10.0.0.1", 11111)),
        ("[fe80::1]:29400", ("fe80::1", 29400)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, "--rendezvous") == address


@pytest.mark.parametrize("text", ["node1", "node1:", ":29400", "fe80::1:29400", "http://a:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not an address"):
        parse_address(text, "--rendezvous")


@pytest.mark.parametrize("text", ["node1:0", "node1:65535", "node1:70000"])
def test_a_port_leaves_room_for_the_next_phase_s(text: str) -> None:
    with pytest.raises(InputError, match="is not from 1 to 65,534: a second phase uses the next one"):
        parse_address(text, "--rendezvous")


def test_a_host_that_nobody_knows_is_refused_at_once() -> None:
    check_host("127.0.0.1", 29400, "--rendezvous")
    with pytest.raises(InputError, match=r"no host .* is known here"):
        check_host("nosuchhost.invalid", 29400, "--rendezvous")


def test_a_node_is_named_by_its_number_or_its_first_rank() -> None:
    assert place(NODES, "a", 7, node=1) == place(NODES, "a", 7, rank=1) == LocalRanks(1, range(1, 5), "a", 7)
    assert place(NODES, "a", 7, rank=5).ranks == range(5, 7)
    assert [LocalRanks(0, range(1), "a", 7).port_of(phase) for phase in (1, 2)] == [7, 8]
    with pytest.raises(InputError, match="there is no node 3 among 1 node x 1 task"):
        place(NODES, "a", 7, node=3)
    with pytest.raises(InputError, match="rank 3 is not the first rank of a node in 1 node x 1 task") as error:
        place(NODES, "a", 7, rank=3)
    assert "their first ranks 0, 1, 5" in str(error.value.hint)


def test_hetseq_s_numbers_are_groups_of_equal_nodes() -> None:
    assert hetseq_groups(16, 4, 8) == "4x4"
    for numbers in ((16, 5, 5), (16, 4, 6), (16, 4, 16), (16, 0, 0), (16, 4, -4)):
        with pytest.raises(InputError, match="if all nodes have as many") as error:
            hetseq_groups(*numbers)
        assert "--groups" in str(error.value.hint)


class Node:
    """One node's command."""

    def __init__(self, folder: Path, data: Path, *words: object) -> None:
        words = ("--recipe", "laptop-scratch", "--data", data, "--phase", 1, "--model", "bert-nano", "--run", "hand",
                 "--set", "phase1.global_batch=12", *words)  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bertjobs", "worker", *map(str, words)],
            cwd=folder,
            env={**os.environ, "XDG_CONFIG_HOME": str(folder / ".config")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> tuple[int, str]:
        printed, _ = self._process.communicate(timeout=PATIENCE_S)
        return self._process.returncode, printed


@pytest.mark.slow
def test_nodes_started_by_hand_train_one_run_and_continue_it_as_other_nodes(
    tmp_path: Path, speeches_data: Path
) -> None:
    hetseq = ("--distributed-init-method", f"tcp://127.0.0.1:{free_port()}", "--distributed-world-size", 2,
              "--distributed-gpus", 1)  # fmt: skip
    directory = RunDirectory(tmp_path / "results" / "hand")
    node0 = Node(tmp_path, speeches_data, *hetseq, "--distributed-rank", 0)
    wait_until(directory.lockfile.exists)  # a node that comes late sees a run that has begun, and keeps its own limit
    node1 = Node(tmp_path, speeches_data, *hetseq, "--distributed-rank", 1, "--steps-this-run", 10)
    (first, said), (second, followed) = node0.end(), node1.end()
    assert (first, second) == (75, 75), said + followed
    assert "node 1 of 2 nodes x 1 task: rank 1; rank 0 listens at 127.0.0.1:" in followed
    assert len(directory.phase(1).metrics.read_text().splitlines()) == 10

    ours = ("--rendezvous", f"127.0.0.1:{free_port()}", "--groups", "1x1/2,1x2")
    nodes = [Node(tmp_path, speeches_data, *ours, "--node-rank", number) for number in (1, 0)]
    (second, followed), (first, said) = [node.end() for node in nodes]
    assert (first, second) == (0, 0), said + followed
    assert directory.phase(1).done()
    assert len(directory.phase(1).metrics.read_text().splitlines()) == 20
    first_deal = next(event for event in directory.events() if event["event"] == "dealt")
    assert first_deal["step"] == 11, "by the speeds that were given, before any was measured"
    assert max(first_deal["packs"]) == first_deal["packs"][0]
    logs = "".join(log.read_text() for log in directory.phase(1).logs.glob("local-*.out"))
    assert "world size 2 = 2 nodes x 1 task" in logs
    assert "world size 3 = 1 node x 1 task + 1 node x 2 tasks" in logs


def test_a_run_that_exists_takes_the_settings_that_may_change(
    tmp_path: Path, speeches_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[RunSpec] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bertjobs.launch.start.start_here", lambda spec, *_: started.append(spec) or 0)
    words = ["worker", "--rendezvous", "127.0.0.1:29400", "--node-rank", "0", "--nodes", "2", "--model", "bert-nano",
             "--data", str(speeches_data), "--recipe"]  # fmt: skip
    assert main([*words, "laptop-scratch"]) == 0, capsys.readouterr().err
    write_run(started[0])
    assert main([*words, "laptop-scratch", "--set", "phase1.gradient_steps=4", "--keep-checkpoints", "9"]) == 0
    before, after = started
    assert (before.phase(1).gradient_steps, after.phase(1).gradient_steps) == (1, 4)
    assert (before.keep_checkpoints, after.keep_checkpoints) == (3, 9)
    assert after.phase(2) == before.phase(2)
    monkeypatch.setenv("PHASE", "2")
    monkeypatch.setenv("LR", "0.5")
    assert main([*words, "laptop-scratch"]) == 0
    assert [phase.phase for phase in started[-1].phases] == [2]
    assert started[-1].phase(2).lr == 0.5
    assert main([*words, "h200", "--run", "laptop-scratch"]) == 64
    assert "run 'laptop-scratch' exists, with the recipe laptop-scratch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--rendezvous is missing"),
        (("--rendezvous", "a:1"), "--node-rank is missing"),
        (("--node-rank", 0, "--distributed-rank", 0), "say the same in two ways"),
        (("--rendezvous", "a", "--node-rank", 0), "'a' is not an address"),
        (("--rendezvous", "a:1", "--node-rank", 2, "--nodes", 2), "there is no node 2 among 2 nodes"),
        (("--distributed-init-method", "tcp://a:1", "--distributed-world-size", 4, "--distributed-gpus", 2,
          "--distributed-rank", 2, "--groups", "1x1,1x3"), "rank 2 is not the first rank of a node in"),
        (("--distributed-init-method", "tcp://a:1", "--distributed-world-size", 8, "--distributed-gpus", 3,
          "--distributed-rank", 1, "--groups", "1x1,1x3"), "--distributed-world-size 8 contradicts the groups"),
    ],
)  # fmt: skip
def test_a_node_that_is_not_named_well_starts_nothing(
    inside: Bertjobs, tmp_path: Path, speeches_data: Path, words: tuple[object, ...], message: str
) -> None:
    done = inside("worker", "--recipe", "laptop-scratch", "--data", speeches_data, *words)
    assert done.returncode == 64
    assert message in done.stderr
    assert not (tmp_path / "results").exists()
