"""Models, and what `export` makes of them, once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bertjobs.export.export import ExportOptions, Target, export
from tests.export.models import make_model
from tests.finetune.models import their_folder

Export = Callable[[str, Target], Path]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this folder's tests."""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model: one of `KINDS`, "fill-mask" or "features"."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("model") / name
            if name == "fill-mask":
                their_folder(made[name], "BertForPreTraining")
            elif name == "features":
                their_folder(made[name], "BertModel")
            else:
                make_model(made[name], name)
        return made[name]

    return of


@pytest.fixture(scope="session")
def exported(model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The folder of an export with all defaults, to "hf" or "onnx"."""
    made: dict[tuple[str, Target], Path] = {}

    def of(name: str, to: Target) -> Path:
        if (name, to) not in made:
            output = tmp_path_factory.mktemp(to) / name
            export(model(name), ExportOptions(to, output))
            made[name, to] = output
        return made[name, to]

    return of
