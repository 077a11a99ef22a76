"""The edge to Slurm: the only place that starts its commands. Pure functions in its sibling modules read the output."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bertjobs.errors import BertjobsError, InputError
from bertjobs.slurm.environment import CLUSTERS, clean_environment, unfiltered
from bertjobs.slurm.jobs import (
    ELEMENTS_FORMAT,
    PENDING_FORMAT,
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    Job,
    JobReport,
    JobStart,
    Pending,
    elements_of_squeue,
    is_link,
    jobs_of_sacct,
    jobs_of_squeue,
    leader,
    name_in_array,
    pending_of_squeue,
    record_of_scontrol,
    rows,
    starts_of_sacct,
    states_of_sacct,
    submitted_id,
    without_runaways,
)
from bertjobs.slurm.refusals import RUN_HINTS, Hints, NoAnswer, is_no_answer, refusal, silence_hint
from bertjobs.slurm.shell import shell_line
from bertjobs.slurm.start_estimate import StartEstimate, parse_start_estimate

_ENDED = ("already", "invalid job id specified")
"""In what scancel says of a job that has ended, a while ago or long ago."""

TIMEOUT_S = 60
"""Seconds that one of Slurm's commands may take."""


class Slurm:
    """The cluster that ``environ`` leads to. Jobs that are submitted get this environment."""

    def __init__(self, environ: Mapping[str, str]):
        # All commands ask one cluster, this machine's own: a job's id means nothing on another.
        self._environ = {name: value for name, value in environ.items() if name not in CLUSTERS}

    # The runner

    def has(self, program: str) -> bool:
        """Whether one of Slurm's commands is on this machine."""
        return shutil.which(program, path=self._environ.get("PATH")) is not None

    def run(self, words: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands, whether it succeeds or fails. All but sbatch, which passes its environment on to
        the job, run without the user's filters and write dates as seconds since 1970.

        Raises:
            NoAnswer: the command is missing, or takes longer than `TIMEOUT_S`.
        """
        environ = self._environ if words[0] == "sbatch" else unfiltered(self._environ) | {"SLURM_TIME_FORMAT": "%s"}
        try:
            return subprocess.run(
                list(words),
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                env=environ,
                timeout=TIMEOUT_S,
                check=False,
            )
        except OSError as error:
            raise NoAnswer(f"{words[0]} cannot be started: {error.strerror}", where=shell_line(words)) from error
        except subprocess.TimeoutExpired as error:
            raise NoAnswer(
                f"{words[0]} did not answer within {TIMEOUT_S} s",
                where=shell_line(words),
                hint="the cluster's controller is busy or down: see `scontrol ping`, and try again later",
            ) from error

    def shown(self, script: str, arguments: Sequence[str]) -> int:
        """Run a bash script that starts srun, with the terminal's own input and output; returns its exit code."""
        words = ["bash", "-c", script, "bash", *arguments]
        return subprocess.run(words, env=self._environ, check=False).returncode

    def printed(self, words: Sequence[str]) -> str | None:
        """What a command prints; None if it is missing, fails or does not answer."""
        try:
            done = self.run(words)
        except NoAnswer:
            return None
        return None if done.returncode else done.stdout

    def answered(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """As `run`, of a command that a daemon has answered, even if by a refusal.

        Raises:
            NoAnswer: it is missing, takes too long, or reaches no daemon.
        """
        done = self.run(words)
        if done.returncode and is_no_answer(done.stderr):
            otherwise = "the controller is busy or down: see `scontrol ping`, and try again later"
            hint = silence_hint(done.stderr, otherwise)
            what = f"{words[0]} could not reach the cluster: {done.stderr.strip()}"
            raise NoAnswer(what, where=shell_line(words), hint=hint)
        return done

    def needed(self, words: Sequence[str]) -> str:
        """What a command prints.

        Raises:
            NoAnswer: it is missing, takes too long, or reaches no daemon.
            BertjobsError: it fails; its own words are shown.
        """
        done = self.answered(words)
        if not done.returncode:
            return done.stdout
        complaint = done.stderr.strip() or f"exit code {done.returncode}"
        raise BertjobsError(f"{words[0]} failed: {complaint}", where=shell_line(words))

    # What this machine has

    @property
    def present(self) -> bool:
        """Whether this machine can submit at all."""
        return self.has("sbatch")

    def require(self, programs: Sequence[str], hint: str, where: str | None = None) -> None:
        """Raise InputError, with this hint, for the first of these commands that is missing."""
        for program in programs:
            if not self.has(program):
                raise InputError(
                    f"{program} was not found on the PATH: this machine cannot queue jobs", where=where, hint=hint
                )

    def check(self) -> None:
        """Make sure that jobs can be queued.

        Raises:
            InputError: sbatch is missing.
        """
        self.require(["sbatch"], "log in to a submit host of the cluster, or train here with --backend local")

    def has_pyxis(self) -> bool:
        """Whether srun itself can start containers."""
        return "--container-image" in (self.printed(["srun", "--help"]) or "")

    def has_apptainer(self) -> bool:
        """Whether Apptainer, or Singularity, is on the PATH of this machine."""
        return self.has("apptainer") or self.has("singularity")

    def node_count(self, partition: str) -> int:
        """Nodes of a partition (of all if it is "") that are not down or drained; 0 if sinfo says nothing."""
        words = ["sinfo", "-h", "-r", "-o", "%D", "-t", "idle,alloc,mix", *(["-p", partition] if partition else [])]
        return sum(int(count) for count in (self.printed(words) or "").split() if count.isdigit())

    # Queueing

    def submit(self, words: Sequence[str], stdin: str = "", hints: Hints = RUN_HINTS) -> str:
        """Queue a job with ``words``, a call of ``sbatch --parsable``; returns its id.

        Args:
            stdin: the batch script, if ``words`` names no file.

        Raises:
            InputError: sbatch refused; its own words are shown.
            NotNow: Slurm's controller gave no answer, or sbatch printed no id; or the user has too many jobs, and
                ``hints`` has a hint for that.
        """
        done = self.run(words, stdin)
        if done.returncode:
            raise refusal(done.stderr.strip() or done.stdout, hints, shell_line(words))
        if not (job := submitted_id(done.stdout)):
            raise NoAnswer(f"sbatch printed no job id: {done.stdout.strip()[-200:]!r}", where=shell_line(words))
        return job

    def submit_follower(self, job: str, script: str | Path, *, name: str, options: Sequence[str] = ()) -> str:
        """Queue ``script`` to start after ``job`` ends, however it ends; returns the new job's id.

        It may be called inside a job: the new one does not inherit that job's sizes, bindings and settings.

        Args:
            options: further options of sbatch, such as ``--exclude=node1``.

        Raises:
            InputError: sbatch refused; its own words are shown.
            NoAnswer: Slurm's controller gave no answer.
        """
        words = ["sbatch", "--parsable", f"--job-name={name}", f"--dependency=afterany:{job}", *options, str(script)]
        return Slurm(clean_environment(self._environ)).submit(words)

    def start_estimate(self, script: str) -> StartEstimate:
        """When and where a job with this batch script would start, or why it never will; queues nothing."""
        try:
            done = self.run(["sbatch", "--test-only"], script)
        except NoAnswer:
            return StartEstimate()
        return parse_start_estimate(f"{done.stdout}\n{done.stderr}")

    # Changing

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs; those that have ended are not an error.

        Raises:
            BertjobsError: Slurm refused, or gave no answer.
        """
        done = self.run(["scancel", *ids])
        lines = done.stderr.strip().splitlines()
        complaints = [line for line in lines if not any(ended in line.lower() for ended in _ENDED)]
        if done.returncode and (complaints or not lines):
            raise BertjobsError(f"scancel refused: {'; '.join(complaints)}", where=", ".join(ids))

    def requeue(self, job: str) -> None:
        """Have a job (it may be the one that this runs in) end and wait in the queue again under the same id.

        Raises:
            BertjobsError: Slurm refused, or gave no answer.
        """
        self.needed(["scontrol", "requeue", job])

    def update(self, job: str, **fields: str) -> None:
        """Change fields of a waiting job by scontrol's names: ``update("7", ExcNodeList="node1,node2")``.

        Raises:
            BertjobsError: Slurm refused, or gave no answer.
        """
        self.needed(["scontrol", "update", f"JobId={job}", *(f"{name}={value}" for name, value in fields.items())])

    # Asking about jobs

    def states(self, ids: Sequence[str]) -> tuple[dict[str, str], str]:
        """State of each known job (``RUNNING``, ``COMPLETED``, ...), elements of arrays one by one, and the commands
        that reported them.

        sacct knows all jobs, but with a delay; squeue only those that wait, run or have just ended, but without delay.
        If neither is installed, there is only the run directory.

        Raises:
            NoAnswer: one of them does not say.
        """
        states: dict[str, str] = {}
        sources = []
        for source, words in (
            ("sacct", ["sacct", "-X", "-n", "-P", "-j", ",".join(ids), "-o", "JobID,State"]),
            ("squeue", ["squeue", "-h", "-r", "-t", "all", "-j", ",".join(ids), "-o", "%i|%T"]),
        ):
            if not ids or not self.has(source):
                continue
            pairs = [(leader(id), state) for id, state in rows(self.answered(words).stdout, 2)]
            states |= {id: state.split()[0] for (id, is_own), state in pairs if is_own}
            sources += [source] if pairs else []
        return states, "+".join(sources) or "run directory"

    def ask(self, ids: Sequence[str], *, steps: bool = False) -> JobReport:
        """What sacct and squeue know about jobs; squeue's answer is newer and wins.

        Args:
            steps: also ask for the states of their job steps, which is a larger query.

        Raises:
            NoAnswer: one of them did not answer in time.
        """
        if not ids:
            return JobReport()
        known: dict[str, Job] = {}
        starts: dict[str, tuple[JobStart, ...]] = {}
        sources, complaints = [], []
        asked = ",".join(ids)
        if self.has("sacct"):
            done = self.run(["sacct", "-nPD", *(() if steps else ("-X",)), "-j", asked, "-o", SACCT_FORMAT])
            known, starts = jobs_of_sacct(done.stdout), starts_of_sacct(done.stdout)
            sources += ["sacct"] if known else []
            complaints += _complaint(done)
        if self.has("squeue"):
            done = self.run(["squeue", "-h", "-r", "-t", "all", "-j", asked, "-o", SQUEUE_FORMAT])
            known = jobs_of_squeue(done.stdout, known)
            sources += ["squeue"] if "|" in done.stdout else []
            silence = _complaint(done)
            known = known if silence else without_runaways(known)
            complaints += silence
        return JobReport(
            {id: job for id, job in known.items() if id in ids},
            starts,
            "+".join(sources) or "run directory",
            *complaints[:1],
        )

    def jobs(self, ids: Sequence[str]) -> dict[str, Job]:
        """What `ask` knows about jobs and their steps, with the names of their nodes one by one."""
        known = self.ask(ids, steps=True).jobs
        return {id: replace(job, nodes=self._hosts(job.nodes)) for id, job in known.items()}

    def _hosts(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        """``node[1-2],gpu7`` as the names of its nodes."""
        if not nodes or not set("[,") & set(nodes[0]) or not self.has("scontrol"):
            return nodes
        return tuple(self.run(["scontrol", "show", "hostnames", nodes[0]]).stdout.split())

    def jobs_of_run(self, run: str, folder: Path) -> dict[str, str]:
        """This user's jobs in the queue that are named like a link of ``run`` and write to its folder, by id.

        The name alone is not enough: runs in other results folders may have the same name.

        Returns:
            The jobs' names: ``RUN-phaseN`` or ``RUN-spare``.

        Raises:
            NoAnswer: Slurm does not say.
        """
        if not self.has("squeue"):
            return {}
        listed = rows(self.needed(["squeue", "-h", "-r", "--me", "-o", "%i|%j"]), 2)
        own = [(leader(id), name if is_link(name, run) else name_in_array(id, name)) for id, name in listed]
        named = {id: name for (id, is_own), name in own if is_own and is_link(name, run)}
        return {id: name for id, name in named.items() if self._writes_into(id, folder)}

    def _writes_into(self, job: str, folder: Path) -> bool | None:
        """Whether a job's log is in a folder; None if the controller does not know the job."""
        output = self.job_record(job).get("StdOut")
        if not output:
            return None
        return any(
            _shown(place).fullmatch(str(Path(output).resolve())) for place in (folder.absolute(), folder.resolve())
        )

    def elements(self, name: str) -> dict[str, Job] | None:
        """This user's waiting or running jobs called ``name``, by id ``JOB`` or ``ARRAY_INDEX``; None if squeue does
        not answer."""
        printed = self.printed(["squeue", "-h", "-r", f"--user={os.getuid()}", "-o", ELEMENTS_FORMAT])
        return None if printed is None else elements_of_squeue(printed, name)

    def pending_of_user(self) -> tuple[Pending, ...]:
        """This user's jobs that are waiting in the queue.

        Raises:
            BertjobsError: squeue failed or gave no answer.
        """
        return pending_of_squeue(self.needed(["squeue", "-h", "--me", "-t", "PENDING", "-o", PENDING_FORMAT]))

    def followers(self, job: str) -> tuple[Pending, ...]:
        """This user's jobs that wait for ``job`` to end; raises the same errors as `pending_of_user`."""
        return tuple(one for one in self.pending_of_user() if one.is_behind(job))

    def links_behind(self, job: str, run: str, folder: Path, kind: str = "") -> list[str]:
        """Ids of the links of a run (see `is_link`) that wait for ``job`` to end, less those of a run of the same name
        in another results folder.

        Raises:
            NoAnswer: Slurm does not say.
        """
        links = [one.id for one in self.followers(job) if is_link(one.name, run, kind)]
        return [id for id in links if self._writes_into(id, folder) is not False]

    def job_record(self, job: str, *, details: bool = False) -> dict[str, str]:
        """The fields of ``scontrol show job``; {} for a job that the controller does not know or no longer knows.

        Args:
            details: also what a running job was given (``JOB_GRES``).

        Raises:
            NoAnswer: it does not say.
        """
        return self._record(["job", *(["--details"] if details else []), job])

    def node_record(self, node: str) -> dict[str, str]:
        """The fields of ``scontrol show node``; {} for a node that the controller does not know.

        Raises:
            NoAnswer: it does not say.
        """
        return self._record(["node", node])

    def _record(self, words: Sequence[str]) -> dict[str, str]:
        if not self.has("scontrol"):  # as inside a container
            return {}
        done = self.answered(["scontrol", "show", *words])
        return {} if done.returncode else record_of_scontrol(done.stdout)

    def was_preempted(self, job: str) -> bool:
        """Whether the controller says that the job's current start was preempted."""
        return self.job_record(job).get("PreemptTime", "")[:1].isdigit()

    def start_states(self, job: str) -> tuple[str, ...]:
        """The states of a job's starts, oldest first, including the current one; () if accounting has none."""
        return states_of_sacct(self.printed(["sacct", "-nXDP", "-j", job, "-o", "JobID,State"]) or "")

    def last_state(self, job: str, *, is_running: bool = False) -> str:
        """The state in which a job's last start ended, such as TIMEOUT; "" if accounting does not say.

        Args:
            is_running: the job is running now; its current start has not ended and does not count.
        """
        states = self.start_states(job)
        return next(iter(reversed(states[:-1] if is_running else states)), "")


def _shown(folder: Path) -> re.Pattern[str]:
    """What scontrol may show as a file in ``folder``. A "%" that sbatch was given twice, to stand for itself, it shows
    twice, once, or of a running job with the letter behind it replaced, as in "%17" for "%%j"."""
    pieces = re.split("(%.?)", str(folder))
    return re.compile("".join(".*" if piece[:1] == "%" else re.escape(piece) for piece in pieces) + "/.*", re.DOTALL)


def _complaint(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Why a command had no answer, unless it merely knows no such job."""
    complaint = done.stderr.strip()
    return [f"{done.args[0]}: {complaint.splitlines()[0]}"] if done.returncode and is_no_answer(complaint) else []
