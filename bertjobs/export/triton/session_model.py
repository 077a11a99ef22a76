"""model.py of the model that computes, where Triton has no backend for ONNX: ONNX Runtime, called from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Token ids in, raw outputs out, as Triton's own backend for ONNX does it."""

    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._inputs = [one["name"] for one in config["input"]]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["intra_op_thread_count"]["string_value"])
        providers = onnxruntime.get_available_providers() if args["model_instance_kind"] == "GPU" else []
        self._session = onnxruntime.InferenceSession(
            str(Path(__file__).with_name("model.onnx")), options, providers=[*providers, "CPUExecutionProvider"]
        )
        self._outputs = [one.name for one in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; Triton gives only requests of one shape together, which are computed as one."""
        arrays = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs]
            for request in requests
        ]
        feed = {
            name: np.concatenate([of_request[number] for of_request in arrays])
            for number, name in enumerate(self._inputs)
        }
        outputs = self._session.run(self._outputs, feed)
        ends = np.cumsum([len(of_request[0]) for of_request in arrays])[:-1]
        parts = [np.split(output, ends) for output in outputs]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(*one) for one in zip(self._outputs, of_request, strict=True)])
            for of_request in zip(*parts, strict=True)
        ]
