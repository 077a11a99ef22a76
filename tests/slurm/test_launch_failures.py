"""What users of Slurm report when their ranks do not start, as srun and slurmstepd print it."""

from __future__ import annotations

import pytest

from bertjobs.run.causes import Cause
from bertjobs.run.foreign import foreign_cause
from bertjobs.slurm.launch_failures import LaunchFailure, launch_failure, launch_wait

MISSING = """\
slurmstepd: error: execve(): /opt/bertjobs/bin/python: No such file or directory
srun: error: gpu07: tasks 8-15: Exited with exit code 2
"""
PROLOG = """\
srun: error: Task launch for 23.0 failed on node hpc: Job prolog failed
srun: error: Application launch failed: Job prolog failed
srun: Job step aborted: Waiting up to 32 seconds for job step to finish.
srun: error: Timed out waiting for job step to complete
"""
EXPIRED = """\
srun: error: Task launch for StepId=23547462.4 failed on node u20-chiivm0-607: Job credential expired
srun: error: Application launch failed: Job credential expired
"""
INVALID = "srun: error: Task launch for 47.0 failed on node n-c122: Invalid job credential\n"
SILENT = "srun: error: Task launch for StepId=7.0 failed on node gpu3: Communication connection failure\n"
LAYOUT = """\
srun: error: JobId=125452 failed to distribute tasks (bind_type:threads,mask_cpu,one_thread) - this should never happen
srun: error: Task launch for StepId=125452.4 failed on node c14: Unable to layout tasks on given cpus
srun: error: Application launch failed: Unable to layout tasks on given cpus
"""
MEMORY = """\
srun: Job 29986033 step creation temporarily disabled, retrying (Requested nodes are busy)
srun: Job 29986033 step creation still disabled, retrying (Requested nodes are busy)
srun: error: Unable to create step for job 29986033: Memory required by task is not available
"""
GRES = "srun: error: Unable to create step for job 41: Invalid generic resource (gres) specification\n"
SPOOL = "slurmstepd: error: execve(): /tmp/slurmd/job2997814/slurm_script: No such file or directory\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            MISSING,
            LaunchFailure(
                "node gpu07 cannot start /opt/bertjobs/bin/python: no such file or directory; BERTJOBS_PYTHON names "
                "another Python",
                command="srun -N1 -w gpu07 ls -l /opt/bertjobs/bin/python",
            ),
        ),
        (
            "slurmstepd: error: execve(): python3: Permission denied\n",
            LaunchFailure(
                "a node cannot start python3: permission denied; BERTJOBS_PYTHON names another Python",
                command="srun -N1 ls -l python3",
            ),
        ),
        (
            PROLOG,
            LaunchFailure(
                "the ranks could not be started on node hpc: the site's prolog failed there, and Slurm drains the node "
                "(Job prolog failed)",
                exclude="hpc",
                command="sinfo -R",
            ),
        ),
        (
            EXPIRED,
            LaunchFailure(
                "the ranks could not be started on node u20-chiivm0-607: it does not accept the job's credential: its "
                "clock, or munge's key, is not the controller's (Job credential expired)",
                exclude="u20-chiivm0-607",
                command="munge -n | ssh u20-chiivm0-607 unmunge",
            ),
        ),
        (
            SILENT,
            LaunchFailure(
                "the ranks could not be started on node gpu3: its slurmd does not answer (Communication connection "
                "failure)",
                exclude="gpu3",
            ),
        ),
        (
            LAYOUT,
            LaunchFailure(
                "the ranks could not be started on node c14: Unable to layout tasks on given cpus", exclude="c14"
            ),
        ),
        (
            MEMORY,
            LaunchFailure(
                "Slurm has no room for the ranks within the job's own allocation: Memory required by task is not "
                "available",
                memory=True,
            ),
        ),
        (
            GRES,
            LaunchFailure(
                "Slurm has no room for the ranks within the job's own allocation: Invalid generic resource (gres) "
                "specification"
            ),
        ),
        (
            SPOOL,
            LaunchFailure("the node lost the job's batch script before it started it: its spool folder is broken"),
        ),
        ("srun: error: node1: task 0: Killed\n", None),
    ],
)
def test_slurm_s_words_become_a_sentence_and_what_to_do(text: str, expected: LaunchFailure | None) -> None:
    assert launch_failure(text) == expected


@pytest.mark.parametrize("text", [MISSING, PROLOG, EXPIRED, INVALID, SILENT, LAYOUT, MEMORY, GRES, SPOOL])
def test_all_of_them_are_one_cause(text: str) -> None:
    assert foreign_cause(text) is Cause.LAUNCH
    assert launch_failure(text) is not None


@pytest.mark.parametrize("text", ["srun: error: node1: task 0: Killed\n", "srun: Job step aborted: Waiting up to 62 s"])
def test_what_follows_from_another_failure_is_not_one(text: str) -> None:
    assert foreign_cause(text) is None


def test_a_step_that_waits_says_for_what() -> None:
    older = "srun: Job step creation temporarily disabled, retrying\n"
    assert "what ran before them has not left the nodes; this passes by itself" in launch_wait(older)
    newer = "\n".join(MEMORY.splitlines()[:2])
    assert "has not left the nodes (Requested nodes are busy)" in launch_wait(newer)
    assert launch_wait(PROLOG) == ""
