"""A model repository of two models: NAME_onnx computes, and NAME takes text and asks it."""

from __future__ import annotations

import ast
import inspect
import shutil
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.export.huggingface import write_description
from bertjobs.export.source import ExportedModel
from bertjobs.export.triton.answering import SETTINGS_FILE, Answering, open_answering
from bertjobs.export.triton.carried import PACKAGE, carry, imports
from bertjobs.export.triton.config import computing_config, text_config
from bertjobs.files.atomic import write_json
from bertjobs.finetune.loading import TrainedModel

ANSWERING = "bertjobs.export.triton.answering"
CONFIG_FILE, MODEL_FILE = "config.pbtxt", "model.py"
VERSION = "1"
"""The folder of a model's version."""


def computing_name(name: str) -> str:
    """The name of the model that computes."""
    return f"{name}_onnx"


def check_servable(source: ExportedModel) -> None:
    """Make sure that a server can be asked in text.

    Raises:
        InputError: the model fills masks.
    """
    if source.module.kind == "fill-mask":
        raise InputError(
            "a model that fills masks has no server model here",
            where=str(source.folder),
            hint="--features serves its vectors; --to onnx writes the model alone",
        )


def write_computing(source: ExportedModel, name: str, onnx_file: Path, repository: Path, *, in_python: bool) -> None:
    """Write the model that computes; moves the file ``onnx_file`` (and weights beside it) into the repository."""
    folder = repository / computing_name(name)
    (folder / VERSION).mkdir(parents=True)
    for file in onnx_file.parent.glob(f"{onnx_file.name}*"):  # large weights lie beside it
        file.rename(folder / VERSION / file.name.replace(onnx_file.name, "model.onnx", 1))
    config = computing_config(computing_name(name), source.output_dims, in_python=in_python, threads=0)
    (folder / CONFIG_FILE).write_text(config.render(), encoding="utf-8")
    if in_python:
        shutil.copyfile(Path(__file__).with_name("session_model.py"), folder / VERSION / MODEL_FILE)


def write_text_model(source: ExportedModel, name: str, repository: Path) -> Answering:
    """Write the model that takes text, with the part of bertjobs that it needs; returns what it answers with.

    Raises:
        InputError: the task cannot be asked in text, or its class has no file of its own.
    """
    folder = repository / name
    version = folder / VERSION
    version.mkdir(parents=True)
    write_description(source, version)
    if source.task is None:
        content = {"max_length": source.encoder.max_length, "hidden_size": source.spec.hidden_size}
        write_json(version / SETTINGS_FILE, content)
    carry(ANSWERING, version)
    if source.trained is not None:
        _carry_task(source.trained, version)
    shutil.copyfile(Path(__file__).with_name("text_model.py"), version / MODEL_FILE)
    answering = open_answering(version)
    config = text_config(name, computing_name(name), answering)
    (folder / CONFIG_FILE).write_text(config.render(), encoding="utf-8")
    return answering


def _carry_task(model: TrainedModel, folder: Path) -> None:
    """Copy the module of the model's task, which is loaded by its name: the package's, or one of the user's own."""
    kind = type(model.task)
    module = kind.__module__
    if module.split(".")[0] == PACKAGE:
        carry(module, folder)
        return
    file = inspect.getsourcefile(kind)
    if file is None or "." in module:
        raise InputError(f"the class of task {model.name} does not lie in a file of its own", where="--to triton",
                         hint="put it into one module, without packages")  # fmt: skip
    for imported in imports(ast.parse(Path(file).read_text(encoding="utf-8")).body):
        carry(imported, folder)
    shutil.copyfile(file, folder / f"{module}.py")
