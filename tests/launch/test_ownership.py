"""Taking a run, with Slurm's word about whoever has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.launch.ownership import claimed, lives_by, take_for_job
from bertjobs.run.directory import RunDirectory
from bertjobs.run.owner import Owner, Owners
from bertjobs.slurm.client import Slurm
from tests.slurm.conftest import Tool

US = Owner("8", 1, "here", 0, "slurm", "chain-1")


def of_job(job: str, attempt: int = 0, chain: str = "chain-1") -> Owner:
    return Owner(job, attempt, "node1", 0, "slurm", chain)


@pytest.fixture
def slurm(tool: Tool, tmp_path: Path) -> Slurm:
    """The queue has job 7, which runs, and job 9, which waits."""
    tool("squeue", "echo '7|RUNNING|None|node1|1:00:00|N/A'; echo '9|PENDING|Priority||1:00:00|N/A'")
    return Slurm({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        (of_job("7"), True), (of_job("9"), False), (of_job("99"), None),
        (of_job("8", 0), False), (of_job("8", 1), True), (of_job("8", 2), True),
        (Owner("x", 0, "elsewhere", 1, "local"), None), (Owner("x", 0, "here", 2**22 - 1, "local"), False),
    ],
)  # fmt: skip
def test_whether_an_owner_lives(slurm: Slurm, owner: Owner, expected: bool | None) -> None:
    assert lives_by(slurm, US)(owner) is expected


SILENT_QUEUE = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"


@pytest.mark.parametrize(
    ("queue", "state", "expected"),
    [
        ("true", "PENDING", None),
        ("true", "RUNNING", None),  # it is in no queue: accounting lost its end
        ("true", "TIMEOUT", False),
        (SILENT_QUEUE, "PENDING", None),
        (SILENT_QUEUE, "RUNNING", True),
    ],
)
def test_accounting_alone_says_nothing_by_an_older_state(
    tool: Tool, tmp_path: Path, queue: str, state: str, expected: bool | None
) -> None:
    tool("squeue", queue)
    tool("sacct", f"echo '7|{state}|0:0|None|node1|1:00:00|Unknown|Unknown'")
    slurm = Slurm({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    assert lives_by(slurm, US)(of_job("7")) is expected


@pytest.mark.parametrize("complaint", ["slurm_load_jobs error: Unable to contact slurm controller", "Socket timed out"])
def test_no_answer_is_not_no_job(tool: Tool, tmp_path: Path, complaint: str) -> None:
    tool("squeue", f"echo '{complaint}' >&2; exit 1")
    slurm = Slurm({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    assert lives_by(slurm, US)(of_job("7")) is None
    owners = Owners(tmp_path / "owners")
    owners.take(of_job("7", chain="another"), lambda _: None)
    other = take_for_job(owners, US, slurm)
    assert other is not None, "its signs of life are fresh"
    assert other.job == "7"


def test_a_link_waits_for_another_job_of_its_chain_and_others_leave(slurm: Slurm, tmp_path: Path) -> None:
    owners = Owners(tmp_path / "owners")
    seven, _ = owners.take(of_job("7"), lambda _: None)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            owners.release(seven)

    stranger = Owner("8", 0, "here", 0, "slurm", "8")
    assert take_for_job(owners, stranger, slurm, sleep=sleep) == seven
    assert waited == []
    assert take_for_job(owners, US, slurm, sleep=sleep) is None
    assert len(waited) == 3
    assert owners.owns("8", 1)


def test_a_link_does_not_wait_forever(slurm: Slurm, tmp_path: Path) -> None:
    owners = Owners(tmp_path / "owners")
    seven, _ = owners.take(of_job("7"), lambda _: None)
    assert take_for_job(owners, US, slurm, wait_s=0.0) == seven


def test_a_claim_lasts_as_long_as_its_block(slurm: Slurm, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "first")
    with claimed(directory, slurm, chain="chain-1") as claim:
        assert Owners(directory.owners).last() == claim.owner
        with pytest.raises(InputError, match="is being trained, or queued, by job") as refused:
            take_as_another_process(directory, slurm)
        assert refused.value.hint == "wait, or stop it first: bertjobs cancel first"
    take_as_another_process(directory, slurm)


def take_as_another_process(directory: RunDirectory, slurm: Slurm) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertjobs.launch.ownership.os.getpid", lambda: 1)
        with claimed(directory, slurm):
            pass
