"""The container that tasks run in: what it is, and what starts it.

How it is started is bash, in run.sub between two marks (`container_part`), as a node may have no Python of ours; other
batch scripts take the same lines from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bertjobs
from bertjobs.errors import InputError
from bertjobs.recipe.names import check_mounted
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.shell import export_lines, quote, shell_line

PYXIS, APPTAINER, AUTO = "pyxis", "apptainer", "auto"
BEGIN, END = "# The container, up to `# container: end`", "# container: end\n"


@dataclass(frozen=True)
class Container:
    """What a task runs in.

    Attributes:
        image: for pyxis a .sqsh file or an enroot URI; for Apptainer a .sif file, a sandbox folder or a URI.
        mounts: further ones, SRC:DST[:FLAGS]; who starts a task adds those that it needs.
        starter: "pyxis", "apptainer", or "auto" for what the node has.
        environment: names of further variables that win over the image's.
        code: the folder of the package that runs inside instead of the image's own; "" for the image's.
    """

    image: str
    mounts: tuple[str, ...] = ()
    starter: str = AUTO
    environment: tuple[str, ...] = ()
    code: str = ""

    def variables(self) -> dict[str, str]:
        """What `container_part` reads, by name."""
        values = {
            "IMAGE": self.image,
            "MOUNTS": ",".join(self.mounts),
            "CONTAINER": "" if self.starter == AUTO else self.starter,
            "BERTJOBS_CODE": self.code,
            "BERTJOBS_ENVIRONMENT": ",".join(self.environment),
        }
        return {name: value for name, value in values.items() if value}

    def flags(self) -> list[str]:
        """The flags of bertjobs that ask for it."""
        return [f"--image={self.image}", f"--mounts={','.join(self.mounts)}", f"--container={self.starter}"]


def run_sub() -> Path:
    """The batch script as shipped: inside the package in a wheel, at the root of a checkout."""
    package = Path(bertjobs.__file__).parent
    return next(path for path in (package / "run.sub", package.parent / "run.sub") if path.is_file())


def container_part() -> str:
    """The lines of run.sub that find out what starts a container, and with which words."""
    _, _, rest = run_sub().read_text(encoding="utf-8").partition(BEGIN)
    lines, mark, _ = rest.partition(END)
    assert mark
    return BEGIN + lines + mark


def step_script(
    container: Container,
    *,
    srun: Sequence[str],
    readable: Sequence[str] = (),
    writable: Sequence[str] = (),
    gpus: int = 0,
) -> str:
    """A bash script that runs its arguments with the Python of the container, in the present folder.

    Args:
        srun: further options of srun.
        readable, writable: paths that are visible inside.
        gpus: those that srun asks for, where the script itself is not in a job.
    """
    lines = [
        "#!/bin/bash",
        "# Runs Python in a container.",
        "set -uo pipefail",
        *([f"SLURM_GPUS_ON_NODE={gpus}"] if gpus else []),
        export_lines(container.variables()) + container_part().rstrip("\n"),
        'mount "$PWD" :ro',
        *(f"mount {quote(path)} :ro" for path in readable),
        *(f"mount {quote(path)} ''" for path in writable),
        "enter IMAGE,MOUNTS",
        f"exec {shell_line(['srun', '--export=ALL', '--mpi=none', *srun])} "
        + '"${container[@]}" "${inside[@]}" "${BERTJOBS_PYTHON:-python3}" "$@"',
    ]
    return "\n".join(lines) + "\n"


def starter_of(asked: str, slurm: Slurm) -> str:
    """What starts containers on this cluster, as run.sub will find on the node.

    Args:
        asked: "pyxis", "apptainer" or "auto".

    Raises:
        InputError: the cluster does not have it, or neither of the two.
    """
    if asked in (AUTO, PYXIS) and slurm.has_pyxis():
        return PYXIS
    # Nodes may have an apptainer that a login host lacks, but then somebody must say so.
    if asked == APPTAINER or (asked == AUTO and slurm.has_apptainer()):
        return APPTAINER
    raise InputError(
        "the run asks for a container image, but srun here has no pyxis (--container-image)"
        + ("" if asked == PYXIS else ", and neither apptainer nor singularity is on the PATH"),
        where="image",
        hint="load Apptainer's module before you submit; if only the nodes have it: --container apptainer; "
        "or leave the image out",
    )


def submitting_code() -> str:
    """The folder of the package that runs now, to be mounted into an image.

    Raises:
        InputError: it cannot be mounted.
    """
    package = Path(bertjobs.__file__).resolve().parent
    if not (package / "__init__.py").is_file():
        raise InputError(
            "bertjobs runs from an archive here, which cannot be mounted into an image",
            where=str(package),
            hint="install it with pip, which unpacks it, or submit from a checkout",
        )
    return check_mounted(str(package.parent), "the folder of bertjobs", str(package))
