"""An ONNX file in place of torch's forward pass, so that a task's own measures can be taken of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bertjobs.export.onnx_file import run
from bertjobs.export.padded import as_batch
from bertjobs.finetune.batches import TaskBatch
from bertjobs.finetune.forward import TaskForward
from bertjobs.finetune.loading import TrainedModel
from bertjobs.tasks.rows import Row

if TYPE_CHECKING:
    import onnxruntime


class OnnxForward(TaskForward):
    """A `TaskForward` whose outputs a session of ONNX Runtime computes, from the pack's sequences padded."""

    def __init__(self, forward: TaskForward, session: onnxruntime.InferenceSession) -> None:
        super().__init__(forward.model, forward.attention)
        self._session = session

    def outputs(self, batch: TaskBatch) -> Tensor:
        lengths = batch.lengths.tolist()
        inputs = as_batch([
            Row(ids.tolist(), length - int(types.sum()))
            for ids, types, length in zip(
                batch.input_ids.split(lengths), batch.token_type_ids.split(lengths), lengths, strict=True
            )
        ])  # fmt: skip
        outputs = run(self._session, inputs)
        if self.model.head.kind == "sequence":
            return torch.from_numpy(outputs[0])
        of_tokens = np.stack(outputs, axis=-1) if self.model.head.kind == "span" else outputs[0]
        return torch.from_numpy(of_tokens[inputs[1].bool().numpy()])[batch.read]


def with_session(model: TrainedModel, session: onnxruntime.InferenceSession) -> TrainedModel:
    """The same model, computed by the session."""
    return replace(model, forward=OnnxForward(model.forward, session))
