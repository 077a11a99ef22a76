"""The ONNX file of a model: made by torch's exporter, compared with torch, and held to a limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bertjobs.errors import BertjobsError, InputError, first_line, install_hint
from bertjobs.export.padded import Padded
from bertjobs.export.padding import INPUTS

if TYPE_CHECKING:
    import onnxruntime

ONNX_FILE = "model.onnx"
OPSET = 20
"""The operators' version: the first with GELU as one operator, which ONNX Runtime 1.17 and TensorRT 10 read."""
LIMIT = 1e-4
"""How far an output may be from torch's: absolute, or as a share of the largest output where that is above 1."""
ONE_FILE_BYTES = 2**31 - 2**24
"""A protobuf file holds less than 2 GB; larger weights lie beside it."""

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""The three `INPUTS`."""


@dataclass(frozen=True)
class Difference:
    """How far outputs are from torch's: ``largest`` over ``batches`` batches, whose shapes are ``[B, S]``."""

    largest: float
    shapes: tuple[tuple[int, int], ...]


def check_packages(where: str, names: Sequence[str] = ("onnx", "onnxscript", "onnxruntime")) -> None:
    """Make sure that the packages of the extra ``export`` are installed.

    Raises:
        InputError: one is not; says how to install it.
    """
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise InputError(
                f"{name} is not installed here: {error}",
                where=where,
                hint=install_hint("export"),
            ) from error


def write_onnx(module: Padded, longest: int, file: Path) -> None:
    """Write ``module`` with any number of sequences and any length from 2 to ``longest`` tokens.

    Args:
        module: on the CPU, in evaluation mode.
        file: a new one; weights of 2 GB and more go into ``NAME.data`` beside it.

    Raises:
        BertjobsError: torch's exporter failed.
    """
    example = random_batch(3, min(7, longest), vocabulary=8, seed=0)  # sizes 0 and 1 would be taken for constants
    dims = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=2, max=longest)}
    parameters = sum(parameter.nbytes for parameter in module.parameters())
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                dynamic_shapes=tuple(dict(dims) for _ in INPUTS),
                input_names=list(INPUTS),
                output_names=list(module.outputs),
                opset_version=OPSET,
                verbose=False,
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise BertjobsError(f"torch's ONNX exporter failed: {first_line(error)}", where=str(file)) from error
    assert program is not None
    program.save(str(file), external_data=parameters > ONE_FILE_BYTES)


def open_session(file: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """ONNX Runtime with a file, on the CPU; ``threads`` 0: as many as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = threads or torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, batch: Batch) -> list[NDArray[np.float32]]:
    """The outputs of a batch, in the order of the file's."""
    feed = {name: tensor.numpy() for name, tensor in zip(INPUTS, batch, strict=True)}
    return list(session.run(None, feed))


@torch.inference_mode()
def difference(module: Padded, session: onnxruntime.InferenceSession, batches: Sequence[Batch]) -> Difference:
    """How far the session's outputs are from the module's, where there is no padding."""
    largest = 0.0
    for batch in batches:
        mask = batch[1].bool().numpy()
        for wanted, got in zip(module(*batch), run(session, batch), strict=True):
            expected = wanted.numpy()
            if expected.shape != got.shape:
                return Difference(float("inf"), _shapes(batches))
            if expected.shape[:2] == mask.shape and module.kind != "sequence":
                expected, got = expected[mask], got[mask]
            scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
            off = np.abs(expected - got).max(initial=0.0) / scale
            largest = max(largest, float(off) if np.isfinite(off) else float("inf"))
    return Difference(largest, _shapes(batches))


def check(module: Padded, session: onnxruntime.InferenceSession, batches: Sequence[Batch]) -> Difference:
    """As `difference`, held to `LIMIT`.

    Raises:
        BertjobsError: it is above the limit.
    """
    comparison = difference(module, session, batches)
    if not comparison.largest <= LIMIT:
        raise BertjobsError(
            f"the ONNX file's outputs differ from torch's by {comparison.largest:.2g}; the limit is {LIMIT:g}",
            where="the check of the export",
            hint="no file was left; please report it with the versions of torch, onnxscript and onnxruntime",
        )
    return comparison


def random_batches(longest: int, vocabulary: int) -> Iterator[Batch]:
    """Batches of random ids of the shapes that break exports: one sequence, two tokens, the longest, padding."""
    shapes = ((1, 2), (1, 7), (1, longest), (2, longest), (3, 33), (17, 8))
    for seed, (sequences, length) in enumerate(shapes, 1):
        yield random_batch(sequences, min(length, longest), vocabulary, seed)


def random_batch(sequences: int, length: int, vocabulary: int, seed: int) -> Batch:
    """Random ids of two segments; every sequence but the first is padded, each more than the one before."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (sequences, length), generator=draw)
    lengths = torch.tensor([max(1, length - number) for number in range(sequences)])
    places = torch.arange(length)[None, :]
    mask = (places < lengths[:, None]).long()
    return ids, mask, ((places >= length // 2) & mask.bool()).long()


def _shapes(batches: Sequence[Batch]) -> tuple[tuple[int, int], ...]:
    return tuple((int(ids.shape[0]), int(ids.shape[1])) for ids, _, _ in batches)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own log lines and warnings, which are about itself."""
    import logging
    import warnings

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
