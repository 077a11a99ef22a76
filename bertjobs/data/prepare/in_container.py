"""Array jobs whose tasks run in a container: the script that starts it, and what it must see."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bertjobs.data.prepare.work_folder import WorkFolder
from bertjobs.files.atomic import write_text
from bertjobs.slurm.container import Container, step_script
from bertjobs.slurm.shell import quote

NAME = "container.sh"


def python_in(container: Container, work: WorkFolder, folder: Path, processes: int) -> str:
    """Write a script that runs Python in the container; return the shell command that runs it.

    Args:
        work: its tasks read the corpus and write to its output.
        folder: where the script goes; absolute, and seen by all nodes.
        processes: tasks that a job runs at a time.
    """
    text = step_script(
        container,
        srun=["--ntasks=1", f"--cpus-per-task={processes}"],
        readable=folders_of(path for piece in work.pieces for path in piece.paths),
        writable=[str(work.output.absolute())],
    )
    write_text(folder / NAME, text)
    return f"exec bash {quote(str(folder / NAME))}"


def folders_of(paths: Iterable[str]) -> list[str]:
    """The folders that must be visible so that these files are, and what links among them lead to; without those inside
    others of them. URLs have none."""
    files = [Path(path).absolute() for path in paths if "://" not in path]
    folders = {file.parent for file in files} | {file.resolve().parent for file in files}
    return sorted(str(folder) for folder in folders if folders.isdisjoint(folder.parents))
