"""A run that hangs is ended, with the stacks of all threads and the names of the ranks that the others waited for."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, nn
from torch.distributed import TCPStore
from torch.nn.parallel import DistributedDataParallel

from bertjobs.launch.local import free_port
from bertjobs.train.placement import read_placement
from bertjobs.train.ranks import Ranks, joined
from bertjobs.train.watchdog import (
    GRACE_S,
    AwakeClock,
    Post,
    Watchdog,
    absent_ranks,
    hang,
    silent_ranks,
    window_s,
)
from tests.cluster.slurm import PATIENCE_S
from tests.forkserver import CONTEXT, preload

preload(__name__)

TIMEOUT_S = 3.0
AT = 5  # the step that hangs


def stop_itself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_once_arrived(watchdog: Watchdog, ranks: Ranks) -> None:
    """Stop this rank from outside, after it has begun the operation in which the others wait, and has posted that."""

    def stop() -> None:
        while ranks.arrivals() == begun:
            time.sleep(0.01)
        seen = watchdog._posted
        while watchdog._posted < seen + 2:
            time.sleep(0.01)
        stop_itself()

    begun = ranks.arrivals()
    threading.Thread(target=stop, daemon=True).start()


def sleep_for_ever(*_: object) -> None:
    time.sleep(1000)


def loop_for_ever(*_: object) -> None:
    while True:
        pass


def hold_python(*_: object) -> None:
    """C code that never lets another thread run."""
    ctypes.PyDLL(None).sleep(1000)


def hang_in_backward(*_: object) -> None:
    """A gradient that never comes, while the other rank is in DDP's all-reduce."""
    model = DistributedDataParallel(nn.Linear(4, 4))
    if distributed.get_rank() == 1:
        next(model.parameters()).register_hook(lambda _: sleep_for_ever())
    model(torch.ones(2, 4)).sum().backward()


def slow(*_: object) -> None:
    time.sleep(1.5)


class LatePoster(Watchdog):
    """The watchdog of a rank that gets so little CPU that each post takes longer than the shortest window."""

    def _send(self, store: TCPStore) -> None:
        time.sleep(7)
        super()._send(store)


class LateTalker(Watchdog):
    """The watchdog of a rank that gets no CPU for a while when it begins."""

    def _talk(self) -> None:
        time.sleep(2)
        super()._talk()


class LateJudge(Watchdog):
    """The watchdog of a rank that gets no CPU for a while once there is an alarm."""

    def _judge(self, store: TCPStore) -> None:
        time.sleep(7)
        super()._judge(store)


@dataclass(frozen=True)
class Scene:
    """What the ``victims`` do at step `AT`, and the number of ranks; ``ends``: each rank's exit code, None for none.

    ``timeout_s`` is the run's; the ranks in ``watchdogs`` have special watchdogs.
    """

    fault: Callable[[Watchdog, Ranks], None]
    victims: tuple[int, ...]
    world_size: int
    ends: tuple[int | None, ...]
    timeout_s: float = TIMEOUT_S
    watchdogs: Mapping[int, type[Watchdog]] = field(default_factory=dict)


def sleep_or_stop_once_arrived(watchdog: Watchdog, ranks: Ranks) -> None:
    sleep_for_ever() if ranks.rank == 1 else stop_once_arrived(watchdog, ranks)


SCENES = {
    "stopped": Scene(stop_itself, (1,), 3, (70, None, 70)),
    "stopped-host": Scene(stop_itself, (0,), 2, (None, 70)),
    "never-answered": Scene(stop_itself, (0,), 2, (None, 70), watchdogs={1: LateTalker}),
    "sleep": Scene(sleep_for_ever, (2,), 3, (70, 70, 70)),
    "sleep-host": Scene(sleep_for_ever, (0,), 2, (70, 70)),
    "sleep-and-stopped": Scene(sleep_or_stop_once_arrived, (1, 2), 3, (70, 70, None), 6.0),
    "loop": Scene(loop_for_ever, (1,), 2, (70, 70)),
    "C": Scene(hold_python, (1,), 2, (70, 1)),
    "backward": Scene(hang_in_backward, (0, 1), 2, (70, 70)),
    "all": Scene(sleep_for_ever, (0, 1), 2, (70, 70)),
    "all-late": Scene(sleep_for_ever, (0, 1), 2, (70, 70), 15.0, {1: LatePoster}),
    "late-judge": Scene(sleep_for_ever, (1,), 3, (70, 70, 70), watchdogs={2: LateJudge}),
    "alone": Scene(sleep_for_ever, (0,), 1, (70,)),
    "slow": Scene(slow, (1,), 2, (0, 0), 6.0),
}


def train(scene: Scene, rank: int, port: int, log: Path) -> None:
    """One rank: steps that add up a number, one of which hangs."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(scene.world_size)}
    placement = read_placement({**os.environ, "MASTER_PORT": str(port)})
    kind = scene.watchdogs.get(rank, Watchdog)
    with joined(placement, PATIENCE_S) as ranks:
        ranks.set_timeout(scene.timeout_s)
        with kind(scene.timeout_s, placement, ranks.arrivals) as watchdog:
            for step in range(1, 2 * AT):
                watchdog.beat(step, "training")
                time.sleep(0.1)
                if step == AT:
                    log.with_suffix(".reached").touch()
                if step >= AT and rank in scene.victims:
                    scene.fault(watchdog, ranks)
                ranks.sum_on_host(1)
    os._exit(0)


@dataclass(frozen=True)
class Ended:
    """A scene's end: exit codes, what each rank wrote, and seconds from the fault to the end of each rank."""

    codes: tuple[int | None, ...]
    logs: tuple[str, ...]
    seconds: tuple[float, ...]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All scenes, played at the same time."""
    folder = tmp_path_factory.mktemp("scenes")
    ranks: dict[tuple[str, int], ForkServerProcess] = {}
    for name, scene in SCENES.items():
        (folder / name).mkdir()
        port = free_port()
        for rank in range(scene.world_size):
            arguments = (scene, rank, port, folder / name / f"{rank}.log")
            ranks[name, rank] = CONTEXT.Process(target=train, args=arguments)
            ranks[name, rank].start()
    ends = wait_for(ranks, PATIENCE_S)
    for process in ranks.values():
        process.kill()  # those that were stopped, or still hang
    return {name: end_of(scene, folder / name, name, ranks, ends) for name, scene in SCENES.items()}


def wait_for(ranks: dict[tuple[str, int], ForkServerProcess], patience: float) -> dict[tuple[str, int], float]:
    """When each rank that has to end ended, as Unix time."""
    deadline = time.monotonic() + patience
    must = {(name, rank) for name, rank in ranks if SCENES[name].ends[rank] is not None}
    ends: dict[tuple[str, int], float] = {}
    while ends.keys() < must and time.monotonic() < deadline:
        now = time.time()
        ends |= {key: now for key in must - ends.keys() if ranks[key].exitcode is not None}
        time.sleep(0.02)
    return ends


def end_of(
    scene: Scene, folder: Path, name: str, ranks: dict[tuple[str, int], ForkServerProcess],
    ends: dict[tuple[str, int], float],
) -> Ended:  # fmt: skip
    hung = max(path.stat().st_mtime for path in folder.glob("*.reached"))
    keys = [(name, rank) for rank in range(scene.world_size)]
    return Ended(
        tuple(ranks[key].exitcode if key in ends else None for key in keys),
        tuple((folder / f"{rank}.log").read_text() for _, rank in keys),
        tuple(ends.get(key, float("inf")) - hung for key in keys),
    )


@pytest.mark.parametrize("name", SCENES)
def test_each_rank_ends_as_it_must(ended: dict[str, Ended], name: str) -> None:
    assert ended[name].codes == SCENES[name].ends, "\n".join(ended[name].logs)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("stopped", "rank 1 did not arrive"),
        ("stopped-host", "rank 0 did not arrive"),
        ("never-answered", "rank 0 did not arrive"),
        ("sleep", "rank 2 did not arrive"),
        ("sleep-host", "rank 0 did not arrive"),
        ("sleep-and-stopped", "rank 1 did not arrive"),
        ("loop", "rank 1 did not arrive"),
        ("C", "rank 1 did not arrive"),
        ("backward", "rank 1 did not arrive"),
        ("all", "all 2 ranks wait at the same point"),
        ("all-late", "all 2 ranks wait at the same point"),
        ("alone", "nothing moved for 3 s (hang_timeout_s)"),
    ],
)
def test_every_rank_that_ends_with_70_names_the_ranks_that_did_not_arrive(
    ended: dict[str, Ended], name: str, says: str
) -> None:
    end, scene = ended[name], SCENES[name]
    for rank, (code, log, seconds) in enumerate(zip(end.codes, end.logs, end.seconds, strict=True)):
        if code == 70:
            assert log.count(says) == 1, log
            assert log.count("did not arrive") == int("did not arrive" in says), log
            assert f"step {AT}, training, for" in log
            assert "in train" in log, "the stack of the main thread"
            assert "Traceback" not in log
            prefix = f"rank {rank}: " if scene.world_size > 1 else ""
            assert f"{prefix}error: nothing moved for {scene.timeout_s:g} s" in log
            assert seconds > scene.timeout_s * 0.9


def test_stacks_show_what_hangs(ended: dict[str, Ended]) -> None:
    assert "in sleep_for_ever" in ended["sleep"].logs[2]
    assert "in loop_for_ever" in ended["loop"].logs[1]
    assert "in Ranks.sum_on_host" in ended["sleep"].logs[0]
    assert "in hold_python" in ended["C"].logs[1]
    assert "in sleep_for_ever" in ended["backward"].logs[1]
    assert "in sleep_for_ever" not in ended["backward"].logs[0]


def test_a_silent_rank_is_distinguished_from_a_late_one(ended: dict[str, Ended]) -> None:
    assert "and no longer answers" in ended["stopped"].logs[0]
    assert "and no longer answers" in ended["stopped-host"].logs[1]
    assert "and no longer answers" in ended["never-answered"].logs[1]
    assert "no longer answers" not in ended["sleep"].logs[0]


def test_a_rank_that_arrived_is_not_blamed_for_its_silence(ended: dict[str, Ended]) -> None:
    """It may get no CPU, and another has not arrived."""
    for log in ended["sleep-and-stopped"].logs[:2]:
        assert log.count("no longer answers") == 1
        assert f"rank 2: step {AT}, training, for" in log
        assert "; it has arrived, but no longer answers" in log


def test_a_rank_that_asks_late_blames_no_rank(ended: dict[str, Ended]) -> None:
    """Rank 0 and its store may be gone by then, since it has ended the hang."""
    assert "rank 1 did not arrive" in ended["late-judge"].logs[0]
    late = ended["late-judge"].logs[2]
    assert "rank 0 did not arrive" not in late
    assert "rank 1 did not arrive" in late or "rank 2 could not find out in time which ranks are missing" in late


def test_a_run_that_makes_progress_is_left_alone(ended: dict[str, Ended]) -> None:
    assert ended["slow"].seconds[0] > SCENES["slow"].timeout_s
    assert "nothing moved" not in "".join(ended["slow"].logs)


def test_without_a_timeout_nothing_is_watched() -> None:
    placement = read_placement({})
    with Watchdog(0, placement, Ranks(placement).arrivals) as watchdog:
        watchdog.beat(1, "training")
        assert not watchdog._threads


def test_a_beat_costs_nothing() -> None:
    watchdog = Watchdog(1.0, read_placement({}), lambda: 0)
    began = time.thread_time()  # CPU time: other processes may use the CPU too
    for step in range(10_000):
        watchdog.beat(step, "training")
    assert time.thread_time() - began < 0.1


class Clock:
    """Stands still unless it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=30))
def test_the_time_in_which_a_process_was_stopped_does_not_count(moves: list[tuple[float, bool]]) -> None:
    """Each move is a number of seconds, after which there is a tick or only a look at the clock."""
    clock = Clock()
    awake = AwakeClock(10, clock)
    since_tick, counted = 0.0, 0.0
    for seconds, ticks in moves:
        clock.now += seconds
        since_tick += seconds
        assert awake.now() == pytest.approx(counted + min(since_tick, 10))
        if ticks:
            awake.tick()
            counted, since_tick = counted + min(since_tick, 10), 0.0
            assert awake.now() == pytest.approx(counted)


def test_a_run_that_was_suspended_and_continues_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its processes at once, as when Slurm suspends a job: no rank had time for a beat."""
    clock = Clock()
    watchdog = Watchdog(20, read_placement({}), lambda: 0)
    watchdog._clock = AwakeClock(5, clock)
    ends: list[float] = []
    monkeypatch.setattr(watchdog, "_end", lambda: ends.append(clock.now))
    ticks = iter([1.0, 1.0, 500.0, 1.0, 1.0, 4.0, 4.0, 5.0])
    monkeypatch.setattr(watchdog, "_closed", SimpleNamespace(wait=lambda _: move_on(clock, ticks)))
    monkeypatch.setattr(watchdog, "_arm", lambda: None)
    watchdog.beat(1, "training")
    watchdog._watch()
    assert ends == [517.0], "once 20 s have counted: 1 + 1 + 5 + 1 + 1 + 4 + 4 + 5"


def move_on(clock: Clock, ticks: Iterator[float]) -> bool:
    """Move to the next tick; returns whether no tick was left."""
    step = next(ticks, None)
    clock.now += step or 0.0
    return step is None


@given(st.lists(st.one_of(st.none(), st.floats(0, 60)), min_size=1))
def test_ranks_that_were_late_before_are_waited_for_longer(gaps: list[float | None]) -> None:
    window = window_s([None if gap is None else Post(1, 10, 17, "training", 3.0, gap) for gap in gaps])
    latest = max((gap for gap in gaps if gap is not None), default=0.0)
    assert 5 <= window <= 15
    assert window == 15 or window >= 2 * latest
    assert GRACE_S > 15 + 2, "the verdict must be written before the process is ended anyway"


def post(arrivals: int, number: int = 1) -> Post:
    return Post(number, arrivals, 17, "training", 3.0)


@given(st.lists(st.integers(10, 12), min_size=1, max_size=20), st.data())
def test_ranks_that_began_the_fewest_collectives_are_absent(arrivals: list[int], data: st.DataObject) -> None:
    """Silent ranks count only if all ranks have begun the same number."""
    silent = data.draw(st.lists(st.integers(0, len(arrivals) - 1), unique=True).map(sorted))
    absent = absent_ranks([post(count) for count in arrivals], silent)
    together = len(set(arrivals)) == 1
    assert absent == (silent if together else [rank for rank, count in enumerate(arrivals) if count == min(arrivals)])


@given(st.lists(st.sampled_from(["posts", "stops", "never", "late"]), min_size=1, max_size=20))
def test_ranks_that_stop_posting_are_silent(kinds: list[str]) -> None:
    before = {"posts": post(5), "stops": post(5), "never": None, "late": None}
    after = {"posts": post(5, 2), "stops": post(5), "never": None, "late": post(0)}
    silent = silent_ranks([before[kind] for kind in kinds], [after[kind] for kind in kinds])
    assert silent == [rank for rank, kind in enumerate(kinds) if kind in ("stops", "never")]


def test_many_absent_ranks_are_counted() -> None:
    posts: list[Post | None] = [post(10) for _ in range(30)]
    assert absent_ranks([*posts, None], []) == [30], "it never began"
    posts[0], posts[7] = post(11), None
    text = hang(posts, [7], 900).render()
    assert "rank 7 did not arrive" in text
    assert "rank 7: never began, and no longer answers" in text
    posts[7] = post(10)
    text = hang(posts, [], 900).render()
    assert "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 21 more did not arrive" in text
    assert "rank 8: step 17, training, for 3 s" in text
    assert "rank 9:" not in text
