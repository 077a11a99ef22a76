"""The thin edge to Slurm: sbatch, sacct, squeue, scancel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence

from bertjobs.errors import BertjobsError, InputError
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
