"""A run has one owner: taken atomically, given up, outlived, and never two at once."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.run.owner import SILENT_S, Owner, Owners, process_lives


def slurm_job(job: str, attempt: int = 0, chain: str = "chain-1") -> Owner:
    return Owner(job, attempt, f"host-of-{job}", 0, "slurm", chain)


def nobody_says(_: Owner) -> None:
    return None


def age(owners: Owners, seconds: float) -> None:
    """Make all that is in the folder this much older."""
    for file in owners.folder.iterdir():
        then = file.stat().st_mtime - seconds
        os.utime(file, (then, then))


@pytest.fixture
def owners(tmp_path: Path) -> Owners:
    return Owners(tmp_path / "owners")


def test_the_first_to_come_owns_the_run(owners: Owners) -> None:
    owner, is_ours = owners.take(slurm_job("7"), nobody_says)
    assert is_ours
    assert (owner.number, owner.job) == (1, "7")
    assert abs(owner.taken_unix_s - time.time()) < 60
    assert owners.take(slurm_job("8"), nobody_says) == (owner, False)
    assert (owners.owns("7", 0), owners.owns("8", 0)) == (True, False)


def test_who_owns_it_keeps_it(owners: Owners) -> None:
    first = owners.take(slurm_job("7"), nobody_says)
    assert owners.take(slurm_job("7"), nobody_says) == first
    assert len(owners.all()) == 1


def test_two_processes_are_two_owners_even_under_one_name(owners: Owners) -> None:
    ours = Owner("local-1", 0, "here", 100, "local")
    owners.take(ours, nobody_says)
    assert owners.take(Owner("local-1", 0, "here", 101, "local"), nobody_says)[1] is False


def test_a_released_run_is_free(owners: Owners) -> None:
    first, _ = owners.take(slurm_job("7"), nobody_says)
    owners.release(first)
    owners.release(first)
    assert owners.current(nobody_says) is None
    assert owners.take(slurm_job("8"), nobody_says)[0].number == 2
    owners.release(first)  # late: it takes nothing from its successor
    assert owners.owns("8", 0)
    assert owners.take(slurm_job("9"), nobody_says)[1] is False


def test_an_owner_without_signs_of_life_is_dead_unless_somebody_says_otherwise(owners: Owners) -> None:
    owners.take(slurm_job("7"), nobody_says)
    age(owners, SILENT_S - 20)
    assert owners.take(slurm_job("8"), nobody_says)[1] is False
    age(owners, 30)
    assert owners.take(slurm_job("8"), lambda _: True)[1] is False
    owner, is_ours = owners.take(slurm_job("8"), nobody_says)
    assert (owner.number, is_ours) == (2, True)
    assert not owners.owns("7", 0), "the one that seemed dead learns that it is not the owner any more"


def test_a_sign_of_life_keeps_it_alive(owners: Owners) -> None:
    owner, _ = owners.take(slurm_job("7"), nobody_says)
    age(owners, SILENT_S + 20)
    owners.beat(owner)
    assert owners.take(slurm_job("8"), nobody_says)[1] is False


def test_an_owner_that_is_known_to_be_dead_is_followed_at_once(owners: Owners) -> None:
    owners.take(slurm_job("7"), nobody_says)
    assert owners.take(slurm_job("8"), lambda owner: owner.job != "7")[1] is True


def test_signs_of_life_are_judged_by_the_file_system_s_clock(owners: Owners, monkeypatch: pytest.MonkeyPatch) -> None:
    owners.take(slurm_job("7"), nobody_says)
    monkeypatch.setattr(time, "time", lambda: 4e9)  # this host's clock is decades ahead
    assert owners.take(slurm_job("8"), nobody_says)[1] is False


@pytest.mark.parametrize(
    "content",
    ["", "{", "[" * 100_000, '{"job": 1}', '"text"', "null",
     '{"job": ["7"], "attempt": 0, "host": "h", "pid": 0, "scheduler": "slurm"}',
     '{"job": "7", "attempt": "x", "host": "h", "pid": 0, "scheduler": "slurm"}',
     '{"job": "7", "attempt": 0, "host": "h", "pid": "../../etc", "scheduler": "local"}'],
)  # fmt: skip
def test_a_damaged_record_is_an_owner_without_a_name(owners: Owners, content: str) -> None:
    owners.take(slurm_job("7"), nobody_says)
    (owners.folder / "000001.json").write_text(content)
    assert owners.take(slurm_job("8"), nobody_says)[1] is False
    age(owners, SILENT_S + 20)
    assert owners.take(slurm_job("8"), nobody_says)[0].number == 2


def test_records_are_for_their_owner_alone_and_keep_their_history(owners: Owners) -> None:
    for job in ("7", "8"):
        owners.release(owners.take(slurm_job(job), nobody_says)[0])
    assert [owner.job for owner in owners.all()] == ["7", "8"]
    assert json.loads((owners.folder / "000002.json").read_text())["chain"] == "chain-1"
    modes = {oct(file.stat().st_mode & 0o077) for file in [owners.folder, *owners.folder.iterdir()]}
    assert modes == {"0o0"}
    assert not [file for file in owners.folder.iterdir() if file.name.startswith(".")], "no drafts are left"


def test_without_hard_links_a_run_has_one_owner_too(owners: Owners, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    assert owners.take(slurm_job("7"), nobody_says)[1] is True
    assert owners.take(slurm_job("8"), nobody_says)[1] is False
    assert owners.last() == owners.all()[0]


def test_of_many_that_come_at_once_one_gets_it(owners: Owners) -> None:
    start, winners = threading.Barrier(16), []

    def come(number: int) -> None:
        start.wait()
        if owners.take(slurm_job(str(number)), nobody_says)[1]:
            winners.append(number)

    threads = [threading.Thread(target=come, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1


def test_a_process_is_known_on_its_own_host() -> None:
    ours = Owner("x", 0, "here", os.getpid(), "local")
    assert process_lives(ours, "here") is True
    assert process_lives(ours, "elsewhere") is None
    assert process_lives(Owner("x", 0, "here", 2**22 - 1, "local"), "here") is False


events = st.lists(
    st.tuples(st.sampled_from(["come", "die", "leave", "silence", "slow"]), st.integers(0, 4), st.integers(0, 4)),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(events=events)
def test_never_two_owners_under_any_order_of_kills_and_late_comers(events: list[tuple[str, int, int]]) -> None:
    """Jobs come, leave, die, are silent for long; a slow one looks at the owner, and claims only after another came.

    Whoever believes to own the run and lives must be the one that the records name, and there is at most one, unless it
    was silent so long that it counts as dead: then it learns that it has lost the run before it writes anything.
    """
    with TemporaryDirectory() as folder:
        owners, alive, dead, count = Owners(Path(folder) / "owners"), {}, set(), 0
        for event, who, other in events:
            name = str(who)
            if event in ("come", "slow") and name not in alive:
                count += 1
                candidate = slurm_job(f"{name}-{count}")

                def lives(owner: Owner, event: str = event, other: int = other) -> bool | None:
                    if event == "slow":  # between its look and its claim another job comes and takes what is free
                        rival = slurm_job(f"rival-{other}-{count}")  # noqa: B023
                        if owners.take(rival, lambda one: None if one.job not in dead else False)[1]:  # noqa: B023
                            alive[f"rival-{other}"] = owners.last()
                    return False if owner.job in dead else None

                owner, is_ours = owners.take(candidate, lives)
                if is_ours:
                    alive[name] = owner
            elif event == "die" and name in alive:
                dead.add(alive.pop(name).job)
            elif event == "leave" and name in alive:
                owners.release(alive.pop(name))
            elif event == "silence" and owners.folder.is_dir():
                age(owners, SILENT_S + 20)
            believers = [one for one in alive.values() if owners.owns(one.job, one.attempt)]
            assert len(believers) <= 1
            numbers = [owner.number for owner in owners.all()]
            assert numbers == list(range(1, len(numbers) + 1)), "no record is skipped or taken away"
        last = slurm_job("last")
        if owners.folder.is_dir():
            age(owners, SILENT_S + 20)
        assert owners.take(last, nobody_says)[1] is True, "a run is never lost for good"


def test_no_sign_of_life_is_led_into_another_file(owners: Owners, tmp_path: Path) -> None:
    owner, _ = owners.take(slurm_job("7"), nobody_says)
    beat, other = owners.folder / "7-0.beat", tmp_path / "other"
    beat.unlink()
    beat.symlink_to(other)
    owners.beat(owner)
    assert not other.exists()
