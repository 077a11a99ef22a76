"""One verdict for each thing that ends or stalls a run, from what torch, Slurm, pyxis and enroot print; real
workers are in test_causes.py."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.cli import doctor as command
from bertjobs.launch.doctor.diagnose import diagnose
from bertjobs.launch.doctor.evidence import AttemptEvidence, AttemptLog, Evidence, PhaseEvidence
from bertjobs.launch.doctor.log_errors import errors_in
from bertjobs.launch.doctor.verdict import Standing, Verdict
from bertjobs.launch.start import write_run
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.causes import Cause
from bertjobs.run.journal import Attempt, Failure, SlowRank
from bertjobs.slurm.jobs import Job
from bertjobs.slurm.reasons import reason_words

NOW = 1_000_000.0


# What other programs print


NODES = ("node1", "node2", "node3", "node4")
ATTEMPT = Attempt(1, "7", started_unix_s=NOW - 500)
FAILED = Job("7", state="FAILED", source="sacct", exit_code=70, nodes=NODES, time_limit="1-00:00:00")


def logged(attempt: Attempt, log: str) -> AttemptEvidence:
    lines = log.splitlines()
    path = f"phase1/logs/{attempt.job}-{attempt.number}.out"
    return AttemptEvidence(attempt, AttemptLog(path, NOW - 100, errors_in(lines), tuple(lines[-3:])))


def judged(
    spec: RunSpec, job: Job | None = FAILED, log: str = "", *, attempt: Attempt = ATTEMPT, **phase: object
) -> Verdict:
    """The verdict on a run whose only job has written ``log``."""
    attempts = (logged(attempt, log),)
    known = {"jobs": (job,) if job else (), "attempts": attempts, **phase}
    first = PhaseEvidence(1, 7038, **known)  # type: ignore[arg-type]
    return diagnose(Evidence(spec, Path("/results/big"), "big", NOW, (first, PhaseEvidence(2, 1563)), 10**9))


OUT_OF_MEMORY = """\
rank 3: Traceback (most recent call last):
  File "/opt/bertjobs/train/step.py", line 88, in train_step
    loss.backward()
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.70 GiB. GPU 3 has a total capacity of 79.15 GiB of \
which 1.06 GiB is free. Including non-PyTorch memory, this process has 78.08 GiB memory in use. Of the \
allocated memory 74.90 GiB is allocated by PyTorch, and 1.94 GiB is reserved by PyTorch but unallocated.

error: another rank is gone; what it printed, if anything, says why ([gloo/transport/tcp/pair.cc:553] Connection closed)
  cause: lost rank
"""


def test_gpu_memory_suggests_the_next_gradient_steps_that_divide_the_rank_batch(spec: RunSpec) -> None:
    verdict = judged(spec, log=OUT_OF_MEMORY, has_script=True)
    phase = spec.phase(1)
    assert verdict.cause is Cause.GPU_MEMORY
    assert verdict.sentence.startswith("rank 3 ran out of GPU memory with a micro-batch of")
    assert verdict.evidence[0].startswith("rank 3: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate")
    steps = int(verdict.command.rpartition("=")[2])
    assert steps > phase.gradient_steps
    assert phase.rank_batch % steps == 0
    assert not [n for n in range(phase.gradient_steps + 1, steps) if phase.rank_batch % n == 0]
    assert verdict.command == f"bertjobs resume big --set phase1.gradient_steps={steps}"
    by_hand = judged(spec, log=OUT_OF_MEMORY).command
    assert by_hand.startswith(f"RUN=big PHASE=1 RESULTS=/results GRADIENT_STEPS={steps} sbatch -N4 ")
    assert by_hand.endswith("--ntasks-per-node=8 --gpus-per-node=8 run.sub")


def test_a_suspended_job_waits_for_slurm(spec: RunSpec) -> None:
    verdict = judged(spec, replace(FAILED, state="SUSPENDED", source="squeue", exit_code=None))
    assert verdict.cause is Standing.QUEUED
    assert verdict.sentence.startswith("job 7 is suspended by Slurm")
    assert verdict.command == "bertjobs status big"


def test_nodes_that_a_person_started_are_started_again_in_the_same_way(spec: RunSpec) -> None:
    by_hand = Attempt(1, "local-1", started_unix_s=NOW - 500)
    jobs = (Job("local-1", "local", "FAILED", exit_code=70),)
    first = PhaseEvidence(1, 7038, jobs=jobs, attempts=(logged(by_hand, OUT_OF_MEMORY),))
    evidence = Evidence(spec, Path("/results/big"), "big", NOW, (first, PhaseEvidence(2, 1563)), 10**9, by_hand=True)
    command = diagnose(evidence).command
    worker = (
        f"bertjobs worker --rendezvous HOST:PORT --node-rank N --recipes /results/big/run.yml --recipe {spec.recipe}"
    )
    assert command.startswith(f"{worker} --run big --results /results --set phase1.gradient_steps=")


def test_if_one_sequence_does_not_fit_gradient_steps_do_not_help(spec: RunSpec) -> None:
    phase = replace(spec.phase(1), micro_batch=1, gradient_steps=spec.phase(1).rank_batch)
    verdict = judged(replace(spec, phases=(phase, spec.phase(2))), log=OUT_OF_MEMORY)
    assert verdict.cause is Cause.GPU_MEMORY
    assert "GRADIENT_STEPS" not in verdict.command
    assert "--set activation_checkpointing=true" in verdict.command


MOUNT = """\
pyxis: importing docker image: nvcr.io#nvidia/pytorch:25.08-py3
pyxis: imported docker image: nvcr.io#nvidia/pytorch:25.08-py3
slurmstepd: error: pyxis: container start failed with error code: 1
slurmstepd: error: pyxis: printing enroot log file:
slurmstepd: error: pyxis:     enroot-mount: failed to mount: /scratch/data at /tmp/enroot-data/pyxis_7.0/data: No such \
file or directory
slurmstepd: error: pyxis: couldn't start container
slurmstepd: error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1
slurmstepd: error: Failed to invoke spank plugin stack
srun: error: node1: task 0: Exited with exit code 1
"""
IMPORT = """\
pyxis: importing docker image: registry.example/bert:1
slurmstepd: error: pyxis: child 1022281 failed with error code: 1
slurmstepd: error: pyxis: failed to import docker image
slurmstepd: error: pyxis: printing enroot log file:
slurmstepd: error: pyxis:     [INFO] Fetching image manifest
slurmstepd: error: pyxis:     [ERROR] URL https://registry.example/v2/bert/manifests/1 returned error code: 401 \
Unauthorized
slurmstepd: error: pyxis: couldn't start container
"""
FULL = """\
slurmstepd: error: pyxis: failed to import docker image
slurmstepd: error: pyxis:     Write failed because No space left on device
"""


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (MOUNT, " on node1: enroot-mount: failed to mount: /scratch/data at"),
        (IMPORT, ": [ERROR] URL https://registry.example/v2/bert/manifests/1 returned error code: 401"),
        (FULL, ": Write failed because No space left on device"),
    ],
)
def test_a_container_that_does_not_start_is_to_be_tried_on_its_own(spec: RunSpec, log: str, why: str) -> None:
    spec = replace(spec, image="/images/bert.sqsh", mounts=("/scratch/my data:/data",))
    verdict = judged(spec, log=log)
    assert verdict.cause is Cause.CONTAINER
    assert f"the container does not start{why}" in verdict.sentence
    node = " -w node1" if log is MOUNT else ""
    words = "--container-image=/images/bert.sqsh --container-mounts='/scratch/my data:/data' true"
    assert verdict.command == f"srun -N1{node} {words}"


@pytest.mark.parametrize(
    ("log", "job"),
    [
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.\n"
            "srun: error: node2: task 9: Out Of Memory\n",
            FAILED,
        ),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in step 7.0 cgroup.", FAILED),
        ("", replace(FAILED, state="OUT_OF_MEMORY")),
        ("", replace(FAILED, steps=("FAILED", "OUT_OF_MEMORY"))),
        ("", replace(FAILED, exit_code=137)),
        ("error: another rank is gone; (x)\n  cause: lost rank\nsrun: error: node2: task 9: Killed\n", FAILED),
        ("Traceback (most recent call last):\n  File x\nMemoryError\n", FAILED),
    ],
)
def test_host_memory_as_slurm_and_the_kernel_report_it(spec: RunSpec, log: str, job: Job) -> None:
    verdict = judged(spec, job, log)
    assert verdict.cause is Cause.HOST_MEMORY
    assert verdict.command == "bertjobs resume big --sbatch mem=0"


@pytest.mark.parametrize("rebalance", [False, True])
def test_a_slow_rank_is_named_with_the_way_around_it(spec: RunSpec, rebalance: bool) -> None:
    attempt = replace(ATTEMPT, slow_ranks=(SlowRank(3, "node2", 1.4, 812),))
    running = replace(FAILED, state="RUNNING", exit_code=None)
    verdict = judged(replace(spec, rebalance=rebalance), running, attempt=attempt, alive_unix_s=NOW - 5)
    assert verdict.cause is Standing.RUNNING
    text = "\n".join(verdict.evidence)
    assert "rank 3 on node2 takes 1.4 times as long as others per micro-batch since step 812" in text
    assert ("bertjobs cancel big && bertjobs resume big --set rebalance=true" in text) == (not rebalance)


def test_a_failed_node_is_left_out_next_time(spec: RunSpec) -> None:
    log = (
        "rank 4: error: another rank is gone; (x)\n  cause: lost rank\n"
        "srun: error: Node failure on node3\nsrun: error: n1: task 0: Killed"
    )
    verdict = judged(spec, replace(FAILED, state="NODE_FAIL"), log)
    assert verdict.cause is Cause.NODE_FAILURE
    assert "node node3 failed under job 7" in verdict.sentence
    assert verdict.command == "bertjobs resume big --sbatch exclude=node3"
    assert judged(spec, replace(FAILED, state="NODE_FAIL")).command == "bertjobs resume big"


def test_the_node_of_a_rank_that_hangs_is_left_out_next_time(spec: RunSpec) -> None:
    log = "rank 0: error: nothing moved\nrank 0:   where: x\nrank 0:   cause: hang\nrank 0:   absent ranks: 9, 10"
    verdict = judged(spec, log=log)
    assert verdict.sentence == "the run hung: the others waited for ranks 9, 10 (on node2)"
    assert verdict.command == "bertjobs resume big --sbatch exclude=node2"


def test_the_only_node_is_not_left_out(spec: RunSpec) -> None:
    log = "error: nothing moved\n  cause: hang\n  absent ranks: 1"
    assert judged(spec, replace(FAILED, nodes=("node1",)), log).command == "bertjobs resume big"


@pytest.mark.parametrize("what", ["No space left on device", "Disk quota exceeded", "Input/output error"])
def test_a_checkpoint_that_cannot_be_written(spec: RunSpec, what: str) -> None:
    log = (
        f"warning: rank 0: error: the checkpoint of step 20 cannot be written: [Errno 28] {what}\n  cause: disk\n"
        f"error: the checkpoint of step 40 cannot be written: [Errno 28] {what}\n  where: /results/big\n  cause: disk\n"
    )
    verdict = judged(spec, log=log, checkpoint="step-00000010", checkpoint_bytes=4 * 10**9)
    assert verdict.cause is Cause.DISK
    assert "step 40" in verdict.evidence[0]
    assert any("1.0 GB free" in line and "a checkpoint takes 4.0 GB" in line for line in verdict.evidence)
    assert "step-00000010" in verdict.sentence


def test_a_checkpoint_that_was_written_later_is_not_the_cause(spec: RunSpec) -> None:
    log = "warning: rank 0: error: the checkpoint of step 20 cannot be written: disk full\n  cause: disk\n"
    assert judged(spec, log=log + OUT_OF_MEMORY).cause is Cause.GPU_MEMORY


def test_a_time_limit_that_was_too_short_is_doubled(spec: RunSpec) -> None:
    job = replace(FAILED, state="TIMEOUT", time_limit="00:30:00")
    log = "slurmstepd: error: *** STEP 7.0 ON node1 CANCELLED AT 2026-11-21T09:09:37 DUE TO TIME LIMIT ***"
    verdict = judged(spec, job, log)
    assert verdict.cause is Cause.TIME_LIMIT
    assert verdict.command == "bertjobs resume big --time 60"
    assert judged(spec, job, log, checkpoint_unix_s=NOW - 100).command == "bertjobs resume big"


def test_slurm_s_words_about_an_earlier_start_do_not_count(spec: RunSpec) -> None:
    log = (
        "slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-21T09:09:37 DUE TO PREEMPTION ***\n" + OUT_OF_MEMORY
    )
    assert judged(spec, log=log).cause is Cause.GPU_MEMORY


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "PREEMPTED"])
def test_preempted_attempts_without_a_checkpoint_are_a_loop(spec: RunSpec, state: str) -> None:
    job = replace(FAILED, state=state, past=("PREEMPTED", "PREEMPTED"), reason="BeginTime")
    starts = [Attempt(1, "7", n, 2, NOW - 900 + 100 * n, word="SIGTERM", exit_code=75) for n in (0, 1)]
    attempts = tuple(AttemptEvidence(start) for start in starts)
    verdict = judged(spec, job, attempts=attempts, checkpoint_unix_s=NOW - 1000)
    if state == "RUNNING":
        assert verdict.cause is Standing.RUNNING, "it may get further this time"
        return
    assert verdict.cause is Standing.PREEMPTION_LOOP
    assert "the last 2 attempts of phase 1 were preempted" in verdict.sentence
    assert judged(spec, job, attempts=attempts, checkpoint_unix_s=NOW - 850).cause is not Standing.PREEMPTION_LOOP


REFUSAL = """\
error: job 7 was refused in words that nothing parses
  where: /results/big/jobs.jsonl
  cause: not restarted
  restarts used up by: out of GPU memory
"""


def test_a_job_that_may_not_restart_is_judged_by_the_attempt_before(spec: RunSpec) -> None:
    refused = Attempt(1, "7", 1, word="not restarted", exit_code=64)
    attempts = (logged(ATTEMPT, OUT_OF_MEMORY), logged(refused, REFUSAL))
    verdict = judged(spec, replace(FAILED, exit_code=64), attempts=attempts, has_script=True)
    assert verdict.cause is Cause.GPU_MEMORY
    assert verdict.command.startswith("bertjobs resume big --set phase1.gradient_steps=")
    assert verdict.evidence[-1] == "rank 0: error: job 7 was refused in words that nothing parses"


def test_if_only_the_refusal_is_left_its_field_names_the_cause(spec: RunSpec) -> None:
    refused = logged(Attempt(1, "7", 1), REFUSAL)
    verdict = judged(spec, replace(FAILED, exit_code=64), attempts=(refused,), has_script=True)
    assert verdict.cause is Cause.GPU_MEMORY
    assert verdict.command.startswith("bertjobs resume big --set phase1.gradient_steps=")


def test_if_the_link_refused_another_attempt_the_evidence_says_so(spec: RunSpec) -> None:
    attempt = replace(ATTEMPT, refusal="2 attempts ran out of memory; the recipe allows 1 restart")
    verdict = judged(spec, log=OUT_OF_MEMORY, attempt=attempt)
    assert verdict.cause is Cause.GPU_MEMORY
    assert "not restarted: 2 attempts ran out of memory; the recipe allows 1 restart" in verdict.evidence


def test_an_older_log_names_no_causes_but_its_journal_does(spec: RunSpec) -> None:
    log = "error: training would be useless: node2: GPU 3: 2 uncorrected ECC errors\n  where: node check"
    assert judged(spec, log=log, attempt=replace(ATTEMPT, word="unfit nodes")).cause is Cause.UNFIT_NODE
    full = "error: the checkpoint of step 40 is not written\n  where: /results/big\n"
    assert judged(spec, log=full, attempt=replace(ATTEMPT, word="disk full")).cause is Cause.DISK


def test_another_rank_s_error_in_the_journal_counts_if_its_log_is_lost(spec: RunSpec) -> None:
    failure = Failure("OutOfMemoryError: CUDA out of memory", rank=3)
    lost = "error: another rank is gone; (x)\n  cause: lost rank\n"
    attempt = replace(ATTEMPT, word="out of GPU memory", failure=failure)
    verdict = judged(spec, log=lost, attempt=attempt)
    assert verdict.cause is Cause.GPU_MEMORY
    assert verdict.evidence[0] == "rank 3: error: OutOfMemoryError: CUDA out of memory"


def test_a_refused_batch_script_is_bad_input(spec: RunSpec) -> None:
    verdict = judged(
        spec, replace(FAILED, exit_code=64), "error: IMAGE is set, but srun has no pyxis (--container-image)"
    )
    assert verdict.cause is Cause.BAD_INPUT
    assert verdict.sentence.startswith("IMAGE is set, but srun has no pyxis")


def test_a_node_that_the_check_refuses(spec: RunSpec) -> None:
    log = "error: refusing: node2: GPU 3: 2 uncorrected ECC errors\n  where: node check\n  cause: unfit node"
    verdict = judged(spec, log=log)
    assert verdict.cause is Cause.UNFIT_NODE
    assert "node2: GPU 3" in verdict.sentence


@pytest.mark.parametrize("job", [replace(FAILED, state="CANCELLED"), replace(FAILED, state="UNKNOWN", cancelled=True)])
def test_a_cancelled_job(spec: RunSpec, job: Job) -> None:
    verdict = judged(
        spec,
        job,
        "error: another rank is gone; (x)\n  cause: lost rank\nslurmstepd: error: *** STEP 7.0 ON n CANCELLED ***",
    )
    assert verdict.cause is Cause.CANCELLED
    assert verdict.command == "bertjobs resume big"


def test_ranks_that_slurm_did_not_start(spec: RunSpec) -> None:
    missing = "slurmstepd: error: execve(): /opt/python: No such file or directory\n"
    verdict = judged(spec, log=missing + "srun: error: node2: tasks 8-15: Exited with exit code 2\n")
    assert verdict.cause is Cause.LAUNCH
    assert verdict.sentence.startswith("node node2 cannot start /opt/python: no such file or directory")
    assert verdict.command == "srun -N1 -w node2 ls -l /opt/python"
    assert "then: bertjobs resume big" in verdict.evidence

    expired = "srun: error: Task launch for StepId=7.0 failed on node node3: Job credential expired"
    verdict = judged(spec, log=expired)
    assert (verdict.cause, verdict.command) == (Cause.LAUNCH, "munge -n | ssh node3 unmunge")
    assert "then: bertjobs resume big --sbatch exclude=node3" in verdict.evidence

    verdict = judged(spec, log="srun: error: Unable to create step for job 7: Memory required by task is not available")
    assert (verdict.cause, verdict.command) == (Cause.LAUNCH, "bertjobs resume big --sbatch mem=0")


def test_a_job_whose_ranks_wait_for_their_nodes_says_so(spec: RunSpec) -> None:
    busy = "srun: Job 7 step creation still disabled, retrying (Requested nodes are busy)"
    verdict = judged(spec, replace(FAILED, state="RUNNING"), busy, attempt=Attempt(1, "7"))
    assert (verdict.cause, verdict.command) == (Standing.RUNNING, "bertjobs status big")
    assert "job 7 has its nodes, but Slurm does not start the ranks yet" in verdict.sentence


def test_an_unknown_cause_is_reported_as_unknown(spec: RunSpec) -> None:
    verdict = judged(spec, log="something\nquite new")
    assert verdict.cause is Standing.UNKNOWN
    assert "| quite new" in verdict.evidence
    assert verdict.command == "bertjobs logs big --phase 1"


# Jobs that are queued or running


@pytest.mark.parametrize(
    ("reason", "words", "command"),
    [
        ("Resources", "the nodes that it asks for are busy", "bertjobs status big"),
        ("QOSMaxJobsPerUserLimit", "you have as many jobs", "bertjobs status big"),
        ("AssocGrpGRES", "your account has reached its limit", "bertjobs status big"),
        ("AssocMaxJobsLimit", "it starts when one of them ends", "bertjobs status big"),
        ("ReqNodeNotAvail, UnavailableNodes:node[1-2]", "down, drained or reserved", "sinfo -R"),
        ("ReqNodeNotAvail, Reserved for maintenance", "a shorter --time may fit", "scontrol show reservation"),
        ("launch_failed_requeued_held", "a node failed to start it", "scontrol release 7"),
        ("JobHeldUser", "it is held", "scontrol release 7"),
        ("PartitionTimeLimit", "more time than its", "bertjobs cancel big && bertjobs resume big --time TIME"),
        ("SomethingNew", "Slurm says SomethingNew", "bertjobs status big"),
        ("", "Slurm has not said why yet", "bertjobs status big"),
    ],
)
def test_a_waiting_job_is_explained(spec: RunSpec, reason: str, words: str, command: str) -> None:
    job = Job("7", state="PENDING", source="squeue", reason=reason, start="2026-11-22T08:00:00")
    verdict = judged(spec, job, attempts=())
    assert verdict.cause is Standing.QUEUED
    assert words in verdict.sentence
    assert verdict.command == command
    assert any("2026-11-22T08:00:00" in line for line in verdict.evidence)


def test_a_requeued_job_shows_how_its_last_attempt_ended(spec: RunSpec) -> None:
    job = Job("7", state="PENDING", reason="BeginTime", past=("NODE_FAIL",), nodes=NODES)
    verdict = judged(spec, job, "srun: error: Node failure on node3")
    assert verdict.cause is Standing.QUEUED
    assert any("its last attempt: node failure: node node3 failed" in line for line in verdict.evidence)


def test_a_dependency_that_can_never_be_met(spec: RunSpec) -> None:
    job = Job("7", state="PENDING", source="squeue", reason="DependencyNeverSatisfied")
    verdict = judged(spec, job, attempts=())
    assert verdict.cause is Standing.DEPENDENCY
    assert verdict.command == "bertjobs cancel big && bertjobs resume big"
    assert "never start" in reason_words("(DependencyNeverSatisfied)")


def test_a_follower_that_can_never_start_is_seen_while_the_first_runs(spec: RunSpec) -> None:
    stuck = Job("8", state="PENDING", source="squeue", reason="DependencyNeverSatisfied")
    first = PhaseEvidence(
        1, 7038, step=10, step_unix_s=NOW - 2, alive_unix_s=NOW - 2, step_time_s=2.0,
        jobs=(replace(FAILED, state="RUNNING"),), attempts=(AttemptEvidence(ATTEMPT),),
    )  # fmt: skip
    second = PhaseEvidence(2, 1563, jobs=(stuck,))
    verdict = diagnose(Evidence(spec, Path("/r"), "big", NOW, (first, second)))
    assert verdict.cause is Standing.DEPENDENCY
    assert verdict.command == "scancel 8"
    follows = replace(second, jobs=(replace(stuck, reason="Dependency"),))
    assert diagnose(Evidence(spec, Path("/r"), "big", NOW, (first, follows))).cause is Standing.RUNNING


@pytest.mark.parametrize(
    ("age", "step_time", "cause", "command"),
    [
        (20.0, 2.0, Standing.RUNNING, "bertjobs status big"),
        (299.0, 2.0, Standing.RUNNING, "bertjobs status big"),
        (400.0, 2.0, Standing.STALLED, "bertjobs logs --follow big"),
        (400.0, 60.0, Standing.RUNNING, "bertjobs status big"),
        (1000.0, 60.0, Standing.STALLED, "bertjobs cancel big && bertjobs resume big"),
    ],
)
def test_running_is_not_progressing(spec: RunSpec, age: float, step_time: float, cause: Cause, command: str) -> None:
    attempt = replace(ATTEMPT, started_unix_s=NOW - 5000)
    verdict = judged(
        spec, replace(FAILED, state="RUNNING"), attempt=attempt, step=10, step_unix_s=NOW - age,
        alive_unix_s=NOW - age, step_time_s=step_time,
    )  # fmt: skip
    assert (verdict.cause, verdict.command) == (cause, command)


def test_a_new_attempt_is_given_time_for_its_first_step(spec: RunSpec) -> None:
    steps = {"step": 10, "step_unix_s": NOW - 9000, "alive_unix_s": NOW - 9000, "step_time_s": 2.0}
    running = replace(FAILED, state="RUNNING")
    fresh = judged(spec, running, attempt=replace(ATTEMPT, started_unix_s=NOW - 600), **steps)
    assert fresh.cause is Standing.RUNNING
    assert "before its first step" in fresh.sentence
    stale = judged(spec, running, attempt=replace(ATTEMPT, started_unix_s=NOW - 1600), **steps)
    assert stale.cause is Standing.STALLED


def test_a_run_that_is_done(spec: RunSpec) -> None:
    phases = (PhaseEvidence(1, 7038, is_done=True), PhaseEvidence(2, 1563, is_done=True, checkpoint="step-00001563"))
    verdict = diagnose(Evidence(spec, Path("/r"), "big", NOW, phases))
    assert verdict.cause is Standing.DONE
    assert verdict.command == "bertjobs report big"


def test_for_gradients_that_are_not_finite_half_the_learning_rate_is_suggested(spec: RunSpec) -> None:
    verdict = judged(spec, log="error: 25 steps in a row, of 1 of 2 parameters: x\n  cause: gradients not finite")
    assert verdict.cause is Cause.GRADIENTS
    assert verdict.command.endswith("--recipe dgxa100-80g --run big-2 --set phase1.lr=0.003")


def test_a_later_phase_that_runs_is_the_one_reported(spec: RunSpec) -> None:
    second = PhaseEvidence(2, 1563, jobs=(Job("8", state="RUNNING"),), alive_unix_s=NOW, step_unix_s=NOW, step=3)
    verdict = diagnose(Evidence(spec, Path("/r"), "big", NOW, (PhaseEvidence(1, 7038, jobs=(FAILED,)), second)))
    assert verdict.cause is Standing.RUNNING
    assert "phase 2 is training, at step 3 of 1,563" in verdict.sentence


def test_a_phase_without_a_job(spec: RunSpec) -> None:
    assert judged(spec, None, attempts=()).cause is Standing.NOT_STARTED


def test_the_text_fits_one_screen(spec: RunSpec) -> None:
    text = judged(spec, log=OUT_OF_MEMORY * 20).text()
    assert len(text.splitlines()) < 24
    assert max(map(len, text.splitlines())) < 300


def test_the_command_prints_the_verdict_and_its_json(
    spec: RunSpec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    folder = write_run(replace(spec, results=f"{spec.results}/results#1")).root
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    words = ["doctor", "big", "--results", str(folder.parent)]
    for arguments in (words, [*words, "--json"]):
        args = parser.parse_args(arguments)
        assert args.handler(args) == 0
    text, _, printed = capsys.readouterr().out.partition("{")
    answer = json.loads("{" + printed)
    assert list(answer) == ["run", "cause", "sentence", "evidence", "command"]
    assert answer["cause"] == "not started"
    assert answer["command"] == f"bertjobs resume big --results '{folder.parent}'"
    assert "not started: phase 1 is not done, and has no job" in text
    assert text.rstrip().endswith(answer["command"])
