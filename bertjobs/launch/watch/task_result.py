"""What a run of fine-tuning has reached."""

from __future__ import annotations

from typing import Any

from bertjobs.files.reading import object_of, read_json
from bertjobs.run.directory import RunDirectory


def task_result(directory: RunDirectory) -> dict[str, Any]:
    """RESULT.json of a run's last phase; {} while there is none.

    Raises:
        DamagedFileError: it cannot be read.
    """
    folders = directory.phases()
    return (read_json(folders[-1].result, object_of) if folders else None) or {}
