"""model.py of a model that takes text: Triton's Python backend makes a `TritonPythonModel` of it.

It holds the tokenizer, asks the model that computes (Triton's business logic scripting), and turns outputs into
answers. Requests that wait together are computed together.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # in a model repository: what was copied beside this file

import numpy as np
import triton_python_backend_utils as pb_utils

from bertjobs.errors import InputError
from bertjobs.export.triton.answering import Answering, AskedRows, Inputs, Raw, answers, open_answering, texts_of

COMPUTING_MODEL = "computing_model"
"""The parameter of config.pbtxt that names the model that computes."""


class TritonPythonModel:
    """Text in, answers out."""

    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._answering: Answering = open_answering(Path(__file__).parent)
        self._computing = config["parameters"][COMPUTING_MODEL]["string_value"]
        self._inputs = [one["name"] for one in config["input"]]
        self._outputs = {one["name"]: pb_utils.triton_string_to_numpy(one["data_type"]) for one in config["output"]}

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; a request that cannot be answered gets an error of its own."""
        asked = [self._asked(request) for request in requests]
        every = [one for of_request in asked if not isinstance(of_request, InputError) for one in of_request]
        try:
            answered = iter(list(answers(self._answering, every, self._compute)))
        except Exception as error:
            return [_refusal(f"the model did not answer: {error}") for _ in requests]
        return [
            _refusal(str(one)) if isinstance(one, InputError) else self._response([next(answered) for _ in one])
            for one in asked
        ]

    def _asked(self, request: Any) -> list[AskedRows] | InputError:
        columns = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self._inputs}
        try:
            texts = texts_of({name: tensor and tensor.as_numpy() for name, tensor in columns.items()})
            return [self._answering.ask(one) for one in texts]
        except InputError as error:
            return error

    def _compute(self, inputs: Inputs) -> Raw:
        names = self._answering.raw
        request = pb_utils.InferenceRequest(
            model_name=self._computing,
            requested_output_names=list(names),
            inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
            # On a GPU, outputs would stay there, where `as_numpy` cannot read them.
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise RuntimeError(response.error().message())
        return {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in names}

    def _response(self, answered: list[dict[str, Any]]) -> Any:
        tensors = []
        for name, kind in self._outputs.items():
            values = [self._answering.output(name, one) for one in answered]
            array = np.array(values, dtype=kind)
            tensors.append(pb_utils.Tensor(name, array.reshape(len(answered), -1)))
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _refusal(words: str) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(words))
