"""Stand-ins for pyxis and Apptainer, which no package contains here: what they are given is checked against their
documented options, and the command really runs in another root, where only what was mounted is visible.

An image is a file or folder that says which variables it sets and which folders of this machine are its own (`Image`).
Beside those it has this machine's /usr and /etc, read-only, and an empty /tmp; neither a home nor the checkout.

Only the standard library: the program that `install` makes runs this file.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

PYTHON = "/opt/python"
"""Where images have a Python with everything but bertjobs."""

# apptainer-exec(1) of Apptainer 1.4 and the user guides of SingularityCE: options with a value, and those without.
APPTAINER_VALUES = {
    *("--add-caps", "--app", "--apply-cgroups", "--authfile", "-B", "--bind", "--cwd", "--dns", "--drop-caps", "--env"),
    *(
        "--env-file",
        "--fusemount",
        "-H",
        "--home",
        "--hostname",
        "--mount",
        "--network",
        "--network-args",
        "--no-mount",
    ),
    *(
        "-o",
        "--overlay",
        "--pem-path",
        "--pwd",
        "-S",
        "--scratch",
        "--security",
        "-W",
        "--workdir",
        "--cpus",
        "--memory",
    ),
}
APPTAINER_FLAGS = {
    *("--allow-setuid", "-e", "--cleanenv", "--compat", "-c", "--contain", "-C", "--containall", "--disable-cache"),
    *("-f", "--fakeroot", "-i", "--ipc", "--keep-privs", "-n", "--net", "--no-eval", "--no-home", "--no-init"),
    *("--no-privs", "--no-umask", "--nv", "--nvccli", "-p", "--pid", "--rocm", "-u", "--userns", "--uts", "-w"),
    *("--writable", "--writable-tmpfs", "--underlay", "--unsquash"),
}
# pyxis's README, 0.20 and later.
PYXIS_VALUES = {
    *("--container-image", "--container-mounts", "--container-workdir", "--container-name", "--container-save"),
    *("--container-env", "--container-unshare"),
}
PYXIS_FLAGS = {
    *("--container-mount-home", "--no-container-mount-home", "--container-remap-root", "--no-container-remap-root"),
    *("--container-entrypoint", "--no-container-entrypoint", "--container-writable", "--container-readonly"),
}
MARK = ".stand-in"
NOT_FORWARDED = ("HOME", "PATH", "LD_LIBRARY_PATH")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAGIC = {".sqsh": b"hsqs", ".sif": b"#!/usr/bin/env run-singularity\n\0" + b"SIF_MAGIC\0"}


@dataclass(frozen=True)
class Image:
    """What an image sets, and target -> folder of this machine for what it holds."""

    variables: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        """Write it as a .sqsh or .sif file, or as a sandbox folder; returns ``path``."""
        content = json.dumps({"variables": dict(self.variables), "folders": dict(self.folders)}).encode()
        if path.suffix in MAGIC:
            path.write_bytes(MAGIC[path.suffix] + content)
        else:
            (path / "bin").mkdir(parents=True)
            (path / "bin" / "sh").touch()
            (path / "image.json").write_bytes(content)
        return path

    @classmethod
    def read(cls, path: Path) -> Image:
        raw = (path / "image.json").read_bytes() if path.is_dir() else path.read_bytes()
        return cls(**json.loads(raw[raw.index(b"{") :]))


def full_image(**variables: str) -> Image:
    """An image with this environment's packages."""
    folders = {PYTHON: sys.prefix}
    if not sys.base_prefix.startswith("/usr"):
        folders[sys.base_prefix] = sys.base_prefix
    return Image({"PATH": f"{PYTHON}/bin:/usr/bin:/bin", **variables}, folders)


def install(folder: Path, starter: str) -> None:
    """Make what ``starter``, "pyxis" or "apptainer", adds to a cluster: a program in ``folder``."""
    folder.mkdir()
    (folder / MARK).touch()
    name = {"pyxis": "srun", "apptainer": "apptainer"}[starter]
    program = folder / name
    program.write_text(f'#!/bin/sh\nexec /usr/bin/python3 -E {__file__} {name} "$@"\n')
    program.chmod(0o755)


# The root that a command runs in

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNS, _RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18


def _mount(source: str, target: Path, kind: str | None, flags: int) -> None:
    words = (source.encode(), str(target).encode(), kind.encode() if kind else None)
    if _LIBC.mount(*words, ctypes.c_ulong(flags), None):
        raise OSError(ctypes.get_errno(), f"mount {source} at {target}")


def _bind(root: Path, source: str, target: str, read_only: bool) -> None:
    place = root / target.lstrip("/")
    if Path(source).is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(source, place, None, _BIND | _REC)
    if read_only:
        _mount("none", place, None, _BIND | _REMOUNT | _RDONLY)


def enter(
    image: Image, mounts: Sequence[Sequence[str]], folder: str, environ: dict[str, str], command: Sequence[str]
) -> NoReturn:
    """Become ``command`` in an image; ``mounts`` are source, target and, perhaps, flags."""
    if _LIBC.unshare(_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("none", Path("/"), None, _REC | _PRIVATE)
    root = Path("/mnt")
    _mount("tmpfs", root, "tmpfs", 0)
    for name in ("bin", "lib", "lib64", "sbin"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
    for name in ("/usr", "/etc"):
        _bind(root, name, name, True)
    for name in ("/proc", "/dev", "/sys"):
        _bind(root, name, name, False)
    (root / "tmp").mkdir(mode=0o1777)
    for target, source in image.folders.items():
        _bind(root, source, target, True)
    for source, target, *flags in mounts:
        _bind(root, source, target, flags[:1] == ["ro"])
    os.chroot(root)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    os.execvp(command[0], list(command))


def _split(
    words: Sequence[str], values: set[str], flags: set[str], refuse: str
) -> tuple[dict[str, list[str]], list[str]]:
    """Options, each with its values, and the words after them."""
    options: dict[str, list[str]] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if name in values:
            options.setdefault(name, []).append(value if equals else rest.pop(0))
        elif name in flags and not equals:
            options.setdefault(name, []).append("")
        else:
            sys.exit(refuse.format(name))
    return options, rest


# Apptainer: the process that was started stays, and passes signals on to the one inside.


def apptainer(words: Sequence[str]) -> NoReturn:
    """``apptainer exec OPTIONS IMAGE COMMAND``."""
    assert words[0] == "exec", words
    options, rest = _split(words[1:], APPTAINER_VALUES, APPTAINER_FLAGS, 'Error for command "exec": unknown flag: {}')
    name, *command = rest
    if not Path(name).exists():
        _fatal(
            f"could not open image {name}: failed to retrieve path for {name}: lstat {name}: no such file or directory"
        )
    mounts = [mount.split(":") for bind in options.get("--bind", []) for mount in bind.split(",")]
    mounts = [mount if len(mount) > 1 else mount * 2 for mount in mounts]
    for source, target, *_ in mounts:
        if not Path(source).exists():
            start = f"container creation failed: mount {source}->{target} error: while mounting {source}: "
            _fatal(start + f"mount source {source} doesn't exist")
    image = Image.read(Path(name))
    child = os.fork()
    if not child:
        environ = apptainer_environment(image, os.environ)
        if shutil.which(command[0], path=_inside(image, environ["PATH"])) is None:
            _fatal(f'"{command[0]}": executable file not found in $PATH')
        enter(image, mounts, options.get("--pwd", ["/"])[0], environ, command)

    def pass_on(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):  # Slurm signals the child, too: it may have ended
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, pass_on)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(status if status >= 0 else 128 - status)


def _inside(image: Image, path: str) -> str:
    """A PATH inside an image as this machine sees it."""
    return ":".join(next((source + part[len(target) :] for target, source in image.folders.items()
                          if part.startswith(target)), part) for part in path.split(":"))  # fmt: skip


def _fatal(message: str) -> NoReturn:
    print(f"FATAL:   {message}", file=sys.stderr, flush=True)
    os._exit(255)


def apptainer_environment(image: Image, outside: Mapping[str, str]) -> dict[str, str]:
    """The host's variables, over them the image's, over them those with the prefix, whose text a shell evaluates."""
    prefix = "APPTAINERENV_"
    kept = {name: value for name, value in outside.items() if not name.startswith(("APPTAINER_", prefix))}
    kept = {name: value for name, value in kept.items() if name not in NOT_FORWARDED}
    given = {name.removeprefix(prefix): text for name, text in outside.items() if name.startswith(prefix)}
    return {"PATH": DEFAULT_PATH, "HOME": outside.get("HOME", "/"), **kept, **image.variables,
            **{name: _evaluated(text) for name, text in given.items()}}  # fmt: skip


def _evaluated(text: str) -> str:
    quoted = text.replace('"', '\\"')
    done = subprocess.run(["/bin/bash", "-c", f'printf %s "{quoted}"'], capture_output=True, text=True, check=True)
    return done.stdout


# pyxis: srun's own options; the task becomes the command.


def srun(words: Sequence[str]) -> NoReturn:
    """srun with pyxis's options, which the task's own start obeys."""
    parts = os.environ["PATH"].split(os.pathsep)
    path = os.pathsep.join(part for part in parts if not (Path(part) / MARK).exists())
    real = shutil.which("srun", path=path)
    assert real is not None
    if list(words) == ["--help"]:
        print(subprocess.run([real, "--help"], capture_output=True, text=True, check=True).stdout)
        print("      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH")
        sys.exit(0)
    end = next((place for place, word in enumerate(words) if not word.startswith("-")), len(words))
    ours = [word for word in words[:end] if "-container-" in word]
    others = [word for word in words[:end] if "-container-" not in word]
    if not ours:
        os.execv(real, [real, *words])
    options, _ = _split(ours, PYXIS_VALUES, PYXIS_FLAGS, "srun: unrecognized option '{}'")
    start = ["/usr/bin/python3", "-E", __file__, "task", json.dumps(options)]
    os.execv(real, [real, *others, *start, *words[end:]])


def pyxis_task(given: str, command: Sequence[str]) -> NoReturn:
    """What pyxis does in a task: enter the image, or say why not."""
    options: dict[str, list[str]] = json.loads(given)
    (name,) = options["--container-image"]
    if not Path(name).exists():
        _refuse(f"[ERROR] No such file or directory: {name}")
    mounts = [mount.split(":") for mount in options.get("--container-mounts", [""])[0].split(",")]
    for source, target, *_ in mounts:
        if not Path(source).exists():
            _refuse(f"enroot-mount: failed to mount: {source} at {target}: No such file or directory")
    image = Image.read(Path(name))
    named = options.get("--container-env", [""])[0].split(",")
    environ = {**os.environ, **image.variables, **{name: os.environ[name] for name in named if name in os.environ}}
    if "PYTORCH_VERSION" in image.variables:
        environ |= {"RANK": os.environ["SLURM_PROCID"], "LOCAL_RANK": os.environ["SLURM_LOCALID"]}
    try:
        enter(image, mounts, options.get("--container-workdir", ["/"])[0], environ, command)
    except FileNotFoundError:
        print(f"slurmstepd: error: execve(): {command[0]}: No such file or directory", file=sys.stderr)
        sys.exit(2)


def _refuse(why: str) -> NoReturn:
    for line in ("container start failed with error code: 1", "printing enroot log file:", f"    {why}",
                 "couldn't start container"):  # fmt: skip
        print(f"slurmstepd: error: pyxis: {line}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    if program == "task":
        pyxis_task(arguments[0], arguments[1:])
    {"apptainer": apptainer, "srun": srun}[program](arguments)
