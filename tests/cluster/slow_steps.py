"""Workers whose steps take a while on every machine, as they do for users: a fast one would be at its end meanwhile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_CODE = """\
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path

LEAST_S = {seconds!r}
BRAKE = Path({brake!r})


def slowed(step):
    def wrapper(trainer):
        started = time.monotonic()
        cause = step(trainer)
        if BRAKE.exists():
            time.sleep(max(0.0, started + LEAST_S - time.monotonic()))
        return cause

    return wrapper


class SlowSteps(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "bertjobs.train.loop":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_slow(module):
            execute(module)
            module.Trainer._step = slowed(module.Trainer._step)

        spec.loader.exec_module = execute_and_slow
        return spec


sys.meta_path.insert(0, SlowSteps())
"""


class SlowSteps:
    """Python's own start-up file, for the head of a PYTHONPATH.

    Args:
        folder: a new one.
        environment: to which it is added.
        seconds: the least that a step takes, until `release`.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], seconds: float) -> None:
        folder.mkdir()
        self._brake = folder / "brake"
        self._brake.touch()
        (folder / "sitecustomize.py").write_text(_CODE.format(seconds=seconds, brake=str(self._brake)))
        paths = [str(folder), *filter(None, [environment.get("PYTHONPATH")])]
        self.environment = {**environment, "PYTHONPATH": os.pathsep.join(paths)}

    def release(self) -> None:
        self._brake.unlink(missing_ok=True)
