"""How sbatch's complaints are handled."""

from __future__ import annotations

import pytest

from bertjobs.errors import BertjobsError, InputError
from bertjobs.slurm.refusals import Hints, NoAnswer, NotNow, refusal
from bertjobs.slurm.start_estimate import StartEstimate, parse_start_estimate

WAITS = Hints(no_answer="try again", refused="change it", limit="wait for room")
LIMIT = "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting"
SILENT = [
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
    "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
    "sbatch: fatal: Could not establish a configuration source",
    "sbatch: error: slurm_persist_conn_open: failed to open persistent connection to host:d:6819: Connection refused",
]


@pytest.mark.parametrize("complaint", SILENT)
def test_silence_is_not_the_user_s_fault(complaint: str) -> None:
    error = refusal(complaint, WAITS, "sbatch run.sub")
    assert isinstance(error, NoAnswer)
    assert (error.exit_code, error.hint, error.where) == (70, "try again", "sbatch run.sub")
    assert parse_start_estimate(complaint) == StartEstimate()


@pytest.mark.parametrize(
    ("hints", "kind", "hint", "code"),
    [(WAITS, NotNow, "wait for room", 70), (Hints(refused="change it"), InputError, "change it", 64)],
)
def test_a_limit_on_jobs_is_waited_out_by_callers_that_can(
    hints: Hints, kind: type[BertjobsError], hint: str, code: int
) -> None:
    error = refusal(LIMIT, hints)
    assert type(error) is kind
    assert (error.hint, error.exit_code) == (hint, code)


@pytest.mark.parametrize(("complaint", "shown"), [("sbatch: error: Invalid qos\n", "Invalid qos"), (" ", "no reason")])
def test_any_other_complaint_is_shown(complaint: str, shown: str) -> None:
    error = refusal(complaint, WAITS)
    assert isinstance(error, InputError)
    assert shown in error.what
    assert error.hint == "change it"
