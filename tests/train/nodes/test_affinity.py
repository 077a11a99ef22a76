"""Which CPUs a rank is bound to, read from a sysfs tree as the kernel writes it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.train.nodes.affinity import Node, bind_near_gpu, cpus_for, format_cpus, parse_cpus

ADDRESSES = [f"0000:{bus:02x}:00.0" for bus in (0x07, 0x0F, 0x47, 0x4E, 0x87, 0x90, 0xB7, 0xBD)]
MINE = os.sched_getaffinity(0)


def tree(
    folder: Path, near: Sequence[str], *, numa: Sequence[int] | None = None, siblings: Mapping[int, str] | None = None
) -> Path:
    """A sysfs tree of GPUs at `ADDRESSES`, each near some CPUs."""
    for place, cpus in enumerate(near):
        device = folder / "bus" / "pci" / "devices" / ADDRESSES[place]
        device.mkdir(parents=True)
        (device / "local_cpulist").write_text(f"{cpus}\n")
        (device / "numa_node").write_text(f"{numa[place] if numa else 0}\n")
    for cpu, text in (siblings or {}).items():
        topology = folder / "devices" / "system" / "cpu" / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{text}\n")
    return folder


def dgx_a100() -> Node:
    """128 cores of two threads in 8 NUMA nodes; pairs of GPUs are near nodes 3, 1, 7 and 5."""
    near = {}
    for pair, numa in enumerate((3, 1, 7, 5)):
        cpus = {*range(16 * numa, 16 * numa + 16), *range(128 + 16 * numa, 128 + 16 * numa + 16)}
        near[2 * pair] = near[2 * pair + 1] = cpus
    siblings = {cpu: {cpu % 128, cpu % 128 + 128} for cpu in range(256)}
    return Node(allowed=set(range(256)), near=near, siblings=siblings, share=256)


def test_two_gpus_of_a_numa_node_share_its_cores() -> None:
    node = dgx_a100()
    assert format_cpus(cpus_for(0, node) or set()) == "48-55,176-183"
    assert format_cpus(cpus_for(1, node) or set()) == "56-63,184-191"
    assert format_cpus(cpus_for(7, node) or set()) == "88-95,216-223"


def test_ranks_stay_inside_a_mask_with_holes() -> None:
    allowed = {0, 3, 4, 9, 12, 13}
    node = Node(allowed, {0: set(range(8)), 1: set(range(8)), 2: set(range(8, 16))}, {})
    assert [cpus_for(rank, node) for rank in range(3)] == [{0}, {3, 4}, {9, 12, 13}]


def test_half_a_core_stays_with_the_rank_that_has_it() -> None:
    siblings = {cpu: {cpu % 4, cpu % 4 + 4} for cpu in range(8)}
    node = Node({0, 1, 2, 5, 6}, {0: set(range(8)), 1: set(range(8))}, siblings)
    assert [cpus_for(rank, node) for rank in range(2)] == [{0}, {1, 2, 5, 6}]


def test_more_ranks_than_cores_share_what_is_near() -> None:
    node = Node(set(range(8)), {rank: {2, 3} for rank in range(3)}, {})
    assert [cpus_for(rank, node) for rank in range(3)] == [{2, 3}] * 3


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(Node({0, 1}, {}, {}), id="no GPU is known"),
        pytest.param(Node({0, 1}, {1: {0, 1}}, {}), id="the own GPU is not known"),
        pytest.param(Node({0, 1}, {0: {2, 3}}, {}), id="the job has no CPU near the GPU"),
        pytest.param(Node({0, 1}, {0: {0}}, {}, share=4), id="Slurm has bound the task to a part"),
        pytest.param(Node({0, 1, 2, 3}, {0: {0}}, {}, share=2), id="other jobs' CPUs are in the mask"),
    ],
)
def test_nothing_is_done_if_something_is_unknown_or_done_already(node: Node) -> None:
    assert cpus_for(0, node) is None


@pytest.mark.parametrize("share", [2, 4])
def test_slurm_may_count_cores_or_threads(share: int) -> None:
    node = Node({0, 1, 2, 3}, {0: {0, 2}}, {cpu: {cpu % 2, cpu % 2 + 2} for cpu in range(4)}, share=share)
    assert cpus_for(0, node) == {0, 2}


def test_cpus_that_no_task_got_may_lie_in_the_mask() -> None:
    """Three tasks of 5 CPUs on a node of 16: Slurm tells the step that it has 15."""
    near = {rank: set(range(16)) for rank in range(3)}
    shares = [cpus_for(rank, Node(set(range(16)), near, {}, share=15)) or set() for rank in range(3)]
    assert [len(share) for share in shares] == [5, 5, 6]
    assert cpus_for(0, Node(set(range(16)), near, {}, share=13)) is None


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    """Nodes of one to four NUMA nodes with cores of one or two threads, and any mask."""
    threads = draw(st.sampled_from([1, 2]))
    cores_each, numa = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    cores = cores_each * numa
    siblings = {cpu: {cpu % cores + cores * thread for thread in range(threads)} for cpu in range(cores * threads)}
    local = [{cpu for cpu in siblings if cpu % cores // cores_each == place} for place in range(numa)]
    ranks = draw(st.integers(1, 8))
    near = {rank: local[draw(st.integers(0, numa - 1))] for rank in range(ranks)}
    allowed = draw(st.sets(st.sampled_from(sorted(siblings)), min_size=1))
    return Node(allowed, near, siblings)


def cores_in(cpus: set[int], node: Node) -> int:
    return len({min(node.siblings[cpu]) for cpu in cpus})


@given(nodes())
def test_shares_are_near_allowed_disjoint_fair_and_whole_cores(node: Node) -> None:
    for rank, near in node.near.items():
        usable, cpus = node.allowed & near, cpus_for(rank, node)
        if not usable:
            assert cpus is None
            continue
        assert cpus
        assert cpus <= usable
        assert all(node.siblings[cpu] & node.allowed <= cpus for cpu in cpus), "hardware threads stay together"
        beside = [other for other, its in node.near.items() if its == near]
        shares = [cpus_for(other, node) or set() for other in beside]
        if cores_in(usable, node) < len(beside):
            assert cpus == usable
        else:
            assert sum(map(len, shares)) == len(set().union(*shares)), "no CPU twice"
            assert set().union(*shares) == usable
            sizes = [cores_in(share, node) for share in shares]
            assert max(sizes) - min(sizes) <= 1


@given(
    st.dictionaries(st.integers(0, 7), st.sets(st.integers(0, 31)), max_size=8),
    st.sets(st.integers(0, 31)),
    st.dictionaries(st.integers(0, 31), st.sets(st.integers(0, 31))),
)
def test_whatever_sysfs_says_ranks_stay_inside_the_mask(
    near: dict[int, set[int]], allowed: set[int], siblings: dict[int, set[int]]
) -> None:
    node = Node(allowed, near, siblings)
    for rank in range(8):
        cpus = cpus_for(rank, node)
        assert (cpus is None) == (not allowed & near.get(rank, set()))
        assert cpus is None or (cpus and cpus <= allowed & near[rank])


@given(st.sets(st.integers(0, 1000)))
def test_lists_of_cpus_are_read_as_they_are_written(cpus: set[int]) -> None:
    assert parse_cpus(format_cpus(cpus) + "\n") == cpus


def test_the_kernels_lists() -> None:
    assert parse_cpus("0-2,8,10-11\n") == {0, 1, 2, 8, 10, 11}
    assert format_cpus({0, 1, 2, 8, 10, 11}) == "0-2,8,10-11"
    with pytest.raises(ValueError, match="x"):
        parse_cpus("0-x")


@pytest.fixture
def affinity() -> Iterator[None]:
    """This process's CPUs are restored afterwards."""
    yield
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), MINE)


def bind(sys: Path, *, local_rank: int = 0, tasks: int = 1, gpus: int = 1, **environ: str) -> str | None:
    return bind_near_gpu(local_rank, tasks, environ, gpus=gpus, address=ADDRESSES.__getitem__, sys=sys)


@pytest.mark.usefixtures("affinity")
def test_a_process_is_bound_with_its_present_and_future_threads(tmp_path: Path) -> None:
    last, begun, end = max(MINE), threading.Event(), threading.Event()
    seen: list[set[int]] = []

    def wait() -> None:
        begun.set()
        end.wait(10)
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait(10)
    words = bind(tree(tmp_path, [str(last)]))
    end.set()
    thread.join()
    later = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
    later.start()
    later.join()
    assert words == f"bound to CPUs {last}, near GPU {ADDRESSES[0]}"
    assert [os.sched_getaffinity(0), *seen] == [{last}] * 3
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == str({last})


@pytest.mark.usefixtures("affinity")
@pytest.mark.skipif(len(MINE) < 2, reason="needs two CPUs")
def test_two_ranks_divide_a_numa_node_by_what_each_reads(tmp_path: Path) -> None:
    sys = tree(tmp_path, [format_cpus(MINE)] * 2, siblings={cpu: str(cpu) for cpu in MINE})
    shares = []
    for rank in range(2):
        bind(sys, local_rank=rank, tasks=2, gpus=2)
        shares.append(os.sched_getaffinity(0))
        os.sched_setaffinity(0, MINE)
    assert shares[0] | shares[1] == MINE
    assert not shares[0] & shares[1]


@pytest.mark.usefixtures("affinity")
def test_a_rank_that_sees_only_its_own_gpu_takes_all_cpus_near_it(tmp_path: Path) -> None:
    words = bind(tree(tmp_path, [format_cpus(MINE)]), local_rank=1, tasks=2, gpus=1)
    assert words == f"bound to CPUs {format_cpus(MINE)}, near GPU {ADDRESSES[0]}"


def unbound(words: str | None, expected: str | None = None) -> None:
    assert os.sched_getaffinity(0) == MINE
    assert words is None if expected is None else words is not None and expected in words


def test_a_gpu_of_an_unknown_numa_node_binds_no_rank(tmp_path: Path) -> None:
    unbound(bind(tree(tmp_path, [str(min(MINE))], numa=[-1])))


def test_a_binding_by_slurm_is_left_alone(tmp_path: Path) -> None:
    unbound(bind(tree(tmp_path, [str(min(MINE))]), SLURM_CPUS_ON_NODE=str(len(MINE) + 1)))


def test_without_a_gpu_nothing_is_read(tmp_path: Path) -> None:
    unbound(bind(tmp_path / "absent", gpus=0))


def test_whatever_goes_wrong_is_reported_in_one_line(tmp_path: Path) -> None:
    unbound(bind(tmp_path), "not bound to the CPUs near the GPU: [Errno 2]")
    unbound(bind(tree(tmp_path / "a", ["0-x"])), "not bound to the CPUs near the GPU: invalid literal")
    unbound(bind(tree(tmp_path / "b", ["0"]), SLURM_CPUS_ON_NODE="16(x2)"), "not bound to the CPUs near the GPU")


def test_a_real_sysfs_without_gpus_is_left_alone() -> None:
    unbound(bind_near_gpu(0, 1, {}))
