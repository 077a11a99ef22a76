"""What a submit would write and queue, byte for byte; nothing is done."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjobs.launch.script import Submission, submissions
from bertjobs.launch.source import write_source
from bertjobs.launch.start import next_chain, without_suspects
from bertjobs.launch.study import array_submission
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.run.settings import settings_text
from bertjobs.run.study import Study
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.options import SlurmOptions
from bertjobs.slurm.shell import shell_line
from bertjobs.wording import harmless

SHOWN_BYTES = 20_000
"""Of a longer file, such as a large diff of the code, only the name and the size are shown."""


@dataclass(frozen=True)
class WrittenFile:
    """A file that would be written; if its ``content`` is not known beforehand (None), ``note`` describes it."""

    path: Path
    content: str | None
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes of the content in UTF-8."""
        return len((self.content or "").encode())

    def render(self) -> str:
        """A line with the path and the size, then the content, with a line end added if it lacks one."""
        if self.content is None:
            return f"==> {self.path} ({self.note})\n"
        if self.size > SHOWN_BYTES:
            return f"==> {self.path} ({self.size} bytes: too long to show)\n"
        return f"==> {self.path} ({self.size} bytes)\n{self.content}" + "\n" * (not self.content.endswith("\n"))

    def as_json(self) -> dict[str, Any]:
        """``content`` is null if it is not known beforehand."""
        size = None if self.content is None else self.size
        return {"path": str(self.path), "bytes": size, "content": self.content, "note": self.note}


@dataclass(frozen=True)
class DryRun:
    """Files in the order in which they are written, and the command lines that queue the jobs.

    In the latter, ``phase1`` stands for the id that the job of phase 1 will get.
    """

    directory: Path
    files: tuple[WrittenFile, ...]
    commands: tuple[tuple[str, ...], ...]

    def render(self) -> str:
        """For people."""
        files = "\n".join(file.render() for file in self.files)
        lines = [shell_line(words) for words in self.commands]
        heading = "This would be queued, in this order" if lines else "Nothing would be queued by a command line."
        if any(":phase" in line for line in lines):
            heading += "; phase1 stands for the id of phase 1's job"
        commands = "\n".join([f"{heading}\n", *lines] if lines else [heading])
        return harmless(f"This would be written\n\n{files}\n{commands}")

    def as_json(self) -> dict[str, Any]:
        return {
            "run_directory": str(self.directory),
            "files": [file.as_json() for file in self.files],
            "commands": [list(words) for words in self.commands],
        }


def dry_run(
    spec: RunSpec, backend: str, options: SlurmOptions, python: str, slurm: Slurm, after: Sequence[str]
) -> DryRun:
    """What `write_run` and `queue` would do for a run; writes nothing below its folder.

    Args:
        spec: resolved, its paths absolute.
        backend: "slurm", "submitit" or "local".
        python: the interpreter of the jobs.
        after: ids of jobs that the first job waits for.
    """
    directory = RunDirectory(Path(spec.results) / spec.run)
    files = [WrittenFile(directory.lockfile, settings_text(directory, spec)), *source_files(directory.source)]
    jobs = queued(directory, spec, options, python, slurm, after) if backend != "local" else []
    files += [WrittenFile(job.path, job.script) for job in jobs]
    if backend == "submitit":
        note = "submitit's own files: a batch script and a pickled call for each phase, named by ids"
        files.append(WrittenFile(directory.root / "submitit", None, note))
    note = "a line for each job, with its id and the time"
    return DryRun(
        directory.root,
        (*files, WrittenFile(directory.journal, None, note)),
        tuple(tuple(job.command({})) for job in jobs if backend == "slurm"),
    )


def study_dry_run(
    study: Study,
    specs: Sequence[RunSpec],
    backend: str,
    options: SlurmOptions,
    slurm: Slurm,
    *,
    at_once: int | None,
    after: Sequence[str],
) -> DryRun:
    """What starting these runs of a study would write and queue, the source of each run left out.

    Raises:
        InputError: they need jobs of different kinds.
    """
    directories = [RunDirectory(Path(spec.results) / spec.run) for spec in specs]
    files = [WrittenFile(study.file, json.dumps(study.as_json(), indent=2) + "\n")]
    for directory, spec in zip(directories, specs, strict=True):
        files.append(WrittenFile(directory.lockfile, settings_text(directory, spec)))
    if backend == "local":
        return DryRun(study.results, tuple(files), ())
    options = without_suspects(specs[0], options, slurm)
    chain = next_chain(*directories)
    array = array_submission(study, specs, options, chain=chain, at_once=at_once, after=after)
    return DryRun(study.results, (*files, WrittenFile(array.path, array.script)), (tuple(array.command({})),))


def queued(
    directory: RunDirectory,
    spec: RunSpec,
    options: SlurmOptions,
    python: str,
    slurm: Slurm,
    after: Sequence[str] = (),
) -> list[Submission]:
    """The jobs that would be queued for a run by sbatch."""
    options = without_suspects(spec, options, slurm)
    return submissions(spec, options, python, chain=next_chain(directory), after=after)


def source_files(folder: Path) -> list[WrittenFile]:
    """What the snapshot of the code in ``folder`` would hold: the same function writes it elsewhere, to be read."""
    with tempfile.TemporaryDirectory() as scratch:
        write_source(Path(scratch))
        written = sorted(file for file in Path(scratch).rglob("*") if file.is_file())
        return [WrittenFile(folder / file.relative_to(scratch), file.read_text(encoding="utf-8")) for file in written]
