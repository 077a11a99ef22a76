"""Workers that take a while on every machine, as they do for users: a fast one would be at its end meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

_PATCHER = """\
import json
import sys
import time
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path

{patch}

class Patched(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != {module!r}:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_patch(module):
            execute(module)
            patch(module)

        spec.loader.exec_module = execute_and_patch
        return spec


sys.meta_path.insert(0, Patched())
"""

_STEP = """
LEAST_S = {seconds!r}
BRAKE = Path({brake!r})


def patch(module):
    step = module.Trainer._step

    def slowed(trainer):
        started = time.monotonic()
        cause = step(trainer)
        if BRAKE.exists():
            time.sleep(max(0.0, started + LEAST_S - time.monotonic()))
        return cause

    module.Trainer._step = slowed
"""

_PASS = """
SECONDS = Path({seconds!r})


def patch(module):
    timed = module.Pace.timed

    @contextmanager
    def slowed(pace):
        with timed(pace):
            yield
            time.sleep(json.loads(SECONDS.read_text())[pace._rank])

    module.Pace.timed = slowed
"""


_TASK = """
def patch(module):
    run_task = module.run_task

    def slowed(*words):
        time.sleep({seconds!r})
        return run_task(*words)

    module.run_task = slowed
"""


def with_slow_tasks(folder: Path, environment: Mapping[str, str], seconds: float) -> dict[str, str]:
    """``environment``, in which each task of a preparation that Slurm runs takes at least so many seconds, so that it
    can be met in the middle. ``folder`` is new."""
    folder.mkdir()
    return _start_up(folder, environment, "bertjobs.data.prepare.array_job", _TASK.format(seconds=seconds))


def _start_up(folder: Path, environment: Mapping[str, str], module: str, patch: str) -> dict[str, str]:
    """``environment`` with Python's own start-up file, in the new ``folder``, which patches a module once it is
    imported."""
    (folder / "sitecustomize.py").write_text(_PATCHER.format(module=module, patch=patch))
    paths = [str(folder), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}


class SlowSteps:
    """Steps of a least duration.

    Args:
        folder: a new one.
        environment: to which it is added.
        seconds: the least that a step takes, until `release`.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], seconds: float) -> None:
        folder.mkdir()
        self._brake = folder / "brake"
        self._brake.touch()
        patch = _STEP.format(seconds=seconds, brake=str(self._brake))
        self.environment = _start_up(folder, environment, "bertjobs.train.loop", patch)

    def release(self) -> None:
        self._brake.unlink(missing_ok=True)


class SlowPasses:
    """Forward passes of unequal GPUs: each rank sleeps in its own, which leaves the processors to the others.

    Args:
        folder: a new one.
        environment: to which it is added.
        seconds: of each rank.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *seconds: float) -> None:
        folder.mkdir()
        self._seconds = folder / "seconds.json"
        self.set(*seconds)
        patch = _PASS.format(seconds=str(self._seconds))
        self.environment = _start_up(folder, environment, "bertjobs.train.pace", patch)

    def set(self, *seconds: float) -> None:
        """From now on."""
        new = self._seconds.with_suffix(".new")
        new.write_text(json.dumps(seconds))
        new.rename(self._seconds)
