"""The run that the doctor is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    flags = {"recipe": "dgxa100-80g", "results": str(tmp_path), "run": "big", "nodes": "4"}
    return resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec
