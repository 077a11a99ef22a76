"""What a run of fine-tuning has reached, in words."""

from __future__ import annotations

from typing import Any

from bertjobs.files.reading import read_json
from bertjobs.run.directory import RunDirectory
from bertjobs.run.result import result_of

RESULT = "RESULT.json"


def task_result(directory: RunDirectory) -> dict[str, Any]:
    """RESULT.json of a run's last phase; {} while there is none.

    Raises:
        DamagedFileError: it cannot be read.
    """
    folders = directory.phases()
    return (read_json(folders[-1].root / RESULT, lambda value: dict(value)) if folders else None) or {}


def result_text(directory: RunDirectory) -> str:
    """Best step, its dev measures, and where the checkpoint lies."""
    result = task_result(directory)
    scores = {key: value for key, value in (result.get("dev") or {}).items() if isinstance(value, float)}
    scores.pop("validation_s", None)
    words = ", ".join(f"{key} {value:.4g}" for key, value in scores.items()) or "not measured: no labelled dev data"
    best = f"best by {result['measure']}" if result.get("measure") else "the last one"
    return f"step {result.get('step')} ({best}): dev {words}\ncheckpoint {result_of(directory)}"
