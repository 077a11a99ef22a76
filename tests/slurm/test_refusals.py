"""How sbatch's complaints are handled."""

from __future__ import annotations

import pytest

from bertjobs.errors import BertjobsError, InputError
from bertjobs.slurm.refusals import Hints, NoAnswer, NotNow, is_no_answer, refusal
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


UNTRUSTED = [
    # As users report them; the first when munged is not running, the others when its key or a clock differs.
    "sbatch: error: If munged is up, restart with --num-threads=10\n"
    'sbatch: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory\n'
    "sbatch: error: slurm_send_node_msg: auth_g_create: REQUEST_SUBMIT_BATCH_JOB has authentication error\n"
    "sbatch: error: Batch job submission failed: Protocol authentication error",
    "squeue: error: slurm_receive_msg: auth_g_verify: RESPONSE_JOB_INFO has authentication error: Expired credential",
    "sacct: error: Munge decode failed: Rewound credential",
    "scontrol: error: Invalid credential",
]


@pytest.mark.parametrize("complaint", UNTRUSTED)
def test_a_broken_munge_is_no_answer_and_not_no_job(complaint: str) -> None:
    assert is_no_answer(complaint)
    error = refusal(complaint)
    assert isinstance(error, NoAnswer)
    assert "munge -n | unmunge" in str(error.hint)


@pytest.mark.parametrize(
    ("complaint", "hint"),
    [
        ("Invalid account or account/partition combination specified", "sacctmgr show associations user=$USER"),
        ("invalid partition specified: gpux", "sinfo -s"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "sinfo -o '%P %l'"),
        ("Invalid generic resource (gres) specification", "--gpus N or TYPE:N"),
        ("Requested node configuration is not available", "no node has all that is asked for"),
        ("Memory specification can not be satisfied", "--sbatch mem=0"),
        ("Required node not available (down, drained or reserved)", "sinfo -R"),
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "a limit of your account or QOS",
        ),
        ("Invalid qos specification", "nothing was queued; give what the cluster asks for"),
    ],
)
def test_what_sbatch_refuses_comes_with_what_to_do(complaint: str, hint: str) -> None:
    error = refusal(f"sbatch: error: Batch job submission failed: {complaint}")
    assert isinstance(error, InputError)
    assert hint in str(error.hint)
