"""The thin edge to Slurm: sbatch, sacct, squeue, scancel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bertjobs.errors import BertjobsError, InputError
from bertjobs.slurm.environment import clean_environment
from bertjobs.slurm.jobs import PENDING_FORMAT, Pending, pending_of_squeue, record_of_scontrol, states_of_sacct
from bertjobs.slurm.shell import shell_line

TIMEOUT_S = 60
NO_CONTROLLER = ("Unable to contact", "timed out", "configuration source")


class Slurm:
    """The cluster that ``environ`` leads to."""

    def __init__(self, environ: Mapping[str, str]):
        self._environ = dict(environ)

    def _has(self, program: str) -> bool:
        return shutil.which(program, path=self._environ.get("PATH")) is not None

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                list(words), capture_output=True, text=True, env=self._environ, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BertjobsError(
                f"{words[0]} did not answer within {TIMEOUT_S} s",
                where=shell_line(words),
                hint="the cluster's controller is busy or down: see `scontrol ping`, and try again later",
            ) from error

    @property
    def present(self) -> bool:
        """Whether this machine can submit at all."""
        return self._has("sbatch")

    def check(self, image: str) -> None:
        """Make sure that jobs can be queued, and containers started where ``image`` asks for one.

        Raises:
            InputError: sbatch is missing, or srun has no pyxis.
        """
        if not self.present:
            raise InputError(
                "sbatch was not found on the PATH: this machine cannot queue jobs",
                hint="log in to a submit host of the cluster, or train here with --backend local",
            )
        if image and "--container-image" not in self._run(["srun", "--help"]).stdout:
            raise InputError(
                f"an image is asked for ({image}), but srun here has no pyxis (--container-image)",
                where="image",
                hint="ask the cluster's admin for pyxis, or leave IMAGE out",
            )

    def submit(self, words: Sequence[str]) -> str:
        """Queue a job by ``words``, a call of ``sbatch --parsable``; returns its id.

        Raises:
            InputError: sbatch refused; its own words are shown.
            BertjobsError: Slurm's controller gave no answer.
        """
        done = self._run(words)
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip() or "no reason given"
            if any(sign in said for sign in NO_CONTROLLER):
                raise BertjobsError(
                    f"sbatch found no cluster: {said}",
                    where=shell_line(words),
                    hint="nothing was queued; see `scontrol ping`, or train on this machine with --backend local",
                )
            raise InputError(
                f"sbatch refused: {said}",
                where=shell_line(words),
                hint="nothing was queued; give what the cluster asks for by --partition, --account, --time or --sbatch",
            )
        return done.stdout.strip().split(";")[0]

    def node_count(self, partition: str) -> int:
        """Nodes of a partition, of all where it is "", that are not down or drained; 0 where sinfo says nothing."""
        words = ["sinfo", "-h", "-r", "-o", "%D", "-t", "idle,alloc,mix", *(["-p", partition] if partition else [])]
        counts = self._run(words).stdout.split() if self._has("sinfo") else []
        return sum(int(count) for count in counts if count.isdigit())

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs; those that have ended are no error."""
        done = self._run(["scancel", *jobs])
        if done.returncode and "already" not in done.stderr.lower():
            raise BertjobsError(f"scancel refused: {done.stderr.strip()}", where=", ".join(jobs))

    def states(self, jobs: Sequence[str]) -> tuple[dict[str, str], str]:
        """State of each job that is known (``RUNNING``, ``COMPLETED``, ...), and who said so.

        sacct knows all jobs, but late; squeue only those that wait, run or have just ended, but at once. Where
        both are silent, the run directory is all there is.
        """
        states: dict[str, str] = {}
        sources = []
        for source, words in (
            ("sacct", ["sacct", "-X", "-n", "-P", "-j", ",".join(jobs), "-o", "JobID,State"]),
            ("squeue", ["squeue", "-h", "-t", "all", "-j", ",".join(jobs), "-o", "%i|%T"]),
        ):
            if not jobs or not self._has(source):
                continue
            rows = [line.split("|") for line in self._run(words).stdout.splitlines() if "|" in line]
            states |= {row[0]: row[1].split()[0] for row in rows}
            sources += [source] if rows else []
        return states, "+".join(sources) or "run directory"

    def submit_follower(self, job: str, script: str | Path, *, name: str, options: Sequence[str] = ()) -> str:
        """Queue ``script`` behind the end, of any kind, of ``job``; returns the new job's id.

        From inside a job too: the new one inherits nothing of its sizes, bindings and settings.

        Args:
            options: further ones of sbatch, such as ``--exclude=node1``.

        Raises:
            InputError: sbatch refused; its own words are shown.
            BertjobsError: Slurm's controller gave no answer.
        """
        words = ["sbatch", "--parsable", f"--job-name={name}", f"--dependency=afterany:{job}", *options, str(script)]
        return Slurm(clean_environment(self._environ)).submit(words)

    def pending_of_user(self) -> tuple[Pending, ...]:
        """This user's jobs that wait in the queue.

        Raises:
            BertjobsError: squeue failed or gave no answer.
        """
        return pending_of_squeue(self._checked(["squeue", "-h", "--me", "-t", "PENDING", "-o", PENDING_FORMAT]))

    def followers(self, job: str, name: str = "") -> tuple[Pending, ...]:
        """This user's waiting jobs behind the end of ``job`` whose names begin with ``name``; raises as
        `pending_of_user` does."""
        return tuple(one for one in self.pending_of_user() if one.is_behind(job) and one.name.startswith(name))

    def requeue(self, job: str) -> None:
        """Have a job, also the one that this runs in, end and wait in the queue again under the same id.

        Raises:
            BertjobsError: Slurm refused or gave no answer.
        """
        self._checked(["scontrol", "requeue", job])

    def update(self, job: str, **fields: str) -> None:
        """Change fields of a waiting job by scontrol's names: ``update("7", ExcNodeList="node1,node2")``.

        Raises:
            BertjobsError: Slurm refused or gave no answer.
        """
        self._checked(["scontrol", "update", f"JobId={job}", *(f"{name}={value}" for name, value in fields.items())])

    def job_record(self, job: str) -> dict[str, str]:
        """The fields of ``scontrol show job``; {} for a job that the controller does not know (any more)."""
        return record_of_scontrol(self._run(["scontrol", "show", "job", job]).stdout) if self._has("scontrol") else {}

    def was_preempted(self, job: str) -> bool:
        """Whether the controller says that the job's present start was preempted."""
        return self.job_record(job).get("PreemptTime", "")[:1].isdigit()

    def start_states(self, job: str) -> tuple[str, ...]:
        """The states of a job's starts, oldest first, the present one included; () where accounting has none."""
        return states_of_sacct(
            self._run(["sacct", "-nXDP", "-j", job, "-o", "State"]).stdout if self._has("sacct") else ""
        )

    def last_state(self, job: str, *, is_running: bool = False) -> str:
        """The state in which a job's last start ended, such as TIMEOUT; "" where accounting does not say.

        Args:
            is_running: the job is in a start now, which does not count: it has not ended.
        """
        states = self.start_states(job)
        return next(iter(reversed(states[:-1] if is_running else states)), "")

    def _checked(self, words: Sequence[str]) -> str:
        """What a command prints; BertjobsError with its own words where it fails."""
        try:
            done = self._run(words)
        except OSError as error:
            raise BertjobsError(f"{words[0]} cannot be started: {error.strerror}", where=shell_line(words)) from error
        if done.returncode:
            reason = done.stderr.strip() or f"exit code {done.returncode}"
            raise BertjobsError(f"{words[0]} failed: {reason}", where=shell_line(words))
        return done.stdout
