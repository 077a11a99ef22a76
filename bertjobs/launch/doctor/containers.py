"""Why a container did not start, from what pyxis, enroot and Apptainer print, and what to type next. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bertjobs.launch.doctor.log_errors import LogError, short
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.causes import Cause
from bertjobs.run.foreign import APPTAINER
from bertjobs.slurm.shell import quote

_BEFORE = re.compile(rf"^.*pyxis:\s*|^{APPTAINER}|^(?=(\S*/)?env: )")
_TELLING = re.compile(
    r"ERROR|FATAL|enroot-|nvidia-container-cli|No space|No such|denied|cannot |curl: \(|Could not resolve"
)
_UNREACHABLE = re.compile(r"Could not resolve|curl: \((6|7|28|35)\)|dial tcp|pinging|i/o timeout|no such host")
_NO_FILE = re.compile(r"[Nn]o such file or directory")
_NO_COMMAND = re.compile(
    r'"(?P<fatal>\S+)": executable file not found|enroot-switchroot: failed to execute: (?P<enroot>\S+):'
    r"|env: .*?(?P<env>[\w./+-]+)\W*: No such file"
)
_NODE = re.compile(r"slurmstepd-(\S+?): |srun: error: (\S+?): tasks? [\d,\- ]+: Exited")
_MODULE = re.compile(r"No module named '?(\w+)")


@dataclass(frozen=True)
class Advice:
    """A verdict's sentence and the command to type next."""

    sentence: str
    command: str


def first_telling(errors: Sequence[LogError]) -> LogError | None:
    """Of all that containers printed, the first that gives a reason: where one node's container fails, Slurm kills the
    other nodes', which then "exited too soon"."""
    of_containers = [error for error in errors if error.cause is Cause.CONTAINER]
    return next((error for error in of_containers if _reasons(error)), next(iter(of_containers), None))


def _reasons(error: LogError) -> list[str]:
    of_containers = [line for line in error.lines if _BEFORE.search(line)]
    return [_BEFORE.sub("", line) for line in of_containers if _TELLING.search(line)]


def node_of_error(error: LogError | None, errors: Sequence[LogError]) -> str:
    """The node that an error of Slurm's or pyxis' names, or else the first whose task ended; "" if none is named."""
    for one in [error, *errors] if error else errors:
        for line in one.lines:
            if match := _NODE.search(line):
                return match[1] or match[2]
    return ""


def advice(spec: RunSpec, error: LogError | None, node: str) -> Advice:
    """What is wrong with a container that did not start.

    Args:
        error: what was printed; None if only the journal has the cause.
        node: where, or "".
    """
    lines = _reasons(error) if error else []
    other = [_BEFORE.sub("", line) for line in error.lines] if error else []
    why = short((lines or other or ["nothing was printed"])[0])
    on, at = (f" on {node}", f" -w {quote(node)}") if node else ("", "")
    is_apptainer = error is not None and re.match(APPTAINER, error.text) is not None
    if _UNREACHABLE.search(why):
        sentence = f"the image's registry cannot be reached{on}: {why}; fetch the image once where there is a network, "
        return Advice(sentence + "and name the file as the image", _fetch(spec.image, is_apptainer))
    if spec.image.startswith("/") and _NO_FILE.search(why) and spec.image in why:
        sentence = f"the image is not visible{on or ' on a node'}: {why}; put it where all nodes see it"
        return Advice(sentence, f"srun -N1{at} ls -l {quote(spec.image)}")
    if missing := _NO_COMMAND.search(why):
        command = next(filter(None, missing.groups()))
        sentence = f"the image has no {command}{on}: {why}; BERTJOBS_PYTHON names the interpreter inside"
        return Advice(sentence, check_command(spec))
    sentence = f"the container does not start{on}: {why}; try the image and the mounts on their own"
    mounts = quote(",".join(spec.mounts))
    if is_apptainer:
        bind = f" --bind {mounts}" if spec.mounts else ""
        return Advice(sentence, f"srun -N1{at} apptainer exec{bind} {quote(spec.image)} true")
    option = f" --container-mounts={mounts}" if spec.mounts else ""
    return Advice(sentence, f"srun -N1{at} --container-image={quote(spec.image)}{option} true")


def _fetch(image: str, is_apptainer: bool) -> str:
    address = image if "://" in image else f"docker://{image}"
    return (
        f"apptainer build image.sif {quote(address)}"
        if is_apptainer
        else f"enroot import -o image.sqsh {quote(address)}"
    )


def module_advice(spec: RunSpec, error: LogError | None, node: str) -> Advice:
    """What to do about a Python that lacks a module; arguments as for `advice`."""
    match = _MODULE.search(error.text) if error else None
    module = f"module {match[1]!r}" if match else "a module"
    on = f" on {node}" if node else ""
    if spec.image:
        return Advice(f"the Python of the image has no {module}{on}: add it to the image", check_command(spec))
    sentence = f"the worker's Python has no {module}{on}: install it there, or name another Python in BERTJOBS_PYTHON"
    return Advice(sentence, f"srun -N1{f' -w {quote(node)}' if node else ''} bertjobs image --here")


def check_command(spec: RunSpec) -> str:
    """The command that checks what a run's image holds."""
    words = ["bertjobs image", quote(spec.image)]
    words += [f"--mounts {quote(','.join(spec.mounts))}"] if spec.mounts else []
    words += [f"--container {spec.container}"] if spec.container != "auto" else []
    words += ["--gpus 1"] if spec.gpus else []
    return " ".join(words)
