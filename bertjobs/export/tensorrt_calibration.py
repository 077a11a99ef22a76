"""calibrate.py: let TensorRT see real text, so that it can choose the scales of eight-bit activations.

Writes calibration.cache, which trtexec --calib reads, and model.plan, the engine. Needs a GPU, and the Python packages
tensorrt and torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
import torch

FOLDER = Path(__file__).parent
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MOST_SEQUENCES = 64


class Calibrator(trt.IInt8EntropyCalibrator2):
    """Gives TensorRT one batch after the other; ``batches`` are ``[batches, sequences, tokens]`` by input."""

    def __init__(self, batches: Mapping[str, Any], cache: Path) -> None:
        super().__init__()
        self._batches, self._cache, self._next = batches, cache, 0
        self._held: list[torch.Tensor] = []

    def get_batch_size(self) -> int:
        return int(self._batches["input_ids"].shape[1])

    def get_batch(self, names: Sequence[str]) -> list[int] | None:
        if self._next == len(self._batches["input_ids"]):
            return None
        self._held = [torch.from_numpy(self._batches[name][self._next]).cuda().contiguous() for name in names]
        self._next += 1
        return [tensor.data_ptr() for tensor in self._held]

    def read_calibration_cache(self) -> bytes | None:
        return self._cache.read_bytes() if self._cache.is_file() else None

    def write_calibration_cache(self, content: bytes) -> None:
        self._cache.write_bytes(content)


def main() -> None:
    """Calibrate and build.

    Raises:
        SystemExit: the file cannot be read, or no engine can be built of it.
    """
    batches = dict(np.load(FOLDER / "calibration.npz"))
    _, sequences, tokens = batches["input_ids"].shape  # the model itself reads up to "longest"
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(str(FOLDER / "model.onnx")):
        raise SystemExit("\n".join(str(parser.get_error(number)) for number in range(parser.num_errors)))
    profile = builder.create_optimization_profile()
    for name in INPUTS:
        profile.set_shape(name, (1, 2), (sequences, tokens), (MOST_SEQUENCES, int(batches["longest"])))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    config.set_calibration_profile(profile)
    for flag in (trt.BuilderFlag.INT8, trt.BuilderFlag.FP16):
        config.set_flag(flag)
    config.int8_calibrator = Calibrator(batches, FOLDER / "calibration.cache")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit("TensorRT built no engine: see what it printed")
    (FOLDER / "model.plan").write_bytes(engine)


if __name__ == "__main__":
    main()
