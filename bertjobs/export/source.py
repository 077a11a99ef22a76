"""What is exported: a run's result or a folder, fine-tuned or not, with its tokenizer and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertjobs.export.padded import Padded
from bertjobs.finetune.description import task_config
from bertjobs.finetune.loading import TrainedModel, is_fine_tuned, load_trained
from bertjobs.model.bert import Bert, BertForPreTraining
from bertjobs.model.huggingface import ARCHITECTURES, LoadedWeights, load_pretrained
from bertjobs.recipe.bert_config import config_from_model_spec, read_model_spec
from bertjobs.recipe.spec import ModelSpec
from bertjobs.run.result import measured_of
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.metrics.scores import scores_of

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ExportedModel:
    """A model that is exported.

    Attributes:
        folder: where it was read from.
        spec: its shape.
        encoder: its tokenizer, and how many tokens it reads at most.
        module: on padded batches; float32, on the CPU, in evaluation mode.
        state: its weights, under the names of Hugging Face's class.
        config: the content of config.json.
        trained: the fine-tuned model; None if it has no task.
        task: the content of task.json; None if it has no task.
        scores: the task's measures on the dev data of its run, by name; {} where they are not known.
    """

    folder: Path
    spec: ModelSpec
    encoder: TextEncoder
    module: Padded
    state: Mapping[str, Tensor]
    config: Mapping[str, Any]
    trained: TrainedModel | None = None
    task: Mapping[str, Any] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """Hugging Face's class for it."""
        return str(self.config["architectures"][0])

    @property
    def output_dims(self) -> dict[str, tuple[int, ...]]:
        """The sizes of each output of `module` without the batch's; -1 is the tokens of the longest sequence."""
        names, kind = self.module.outputs, self.module.kind
        if kind == "span":
            return dict.fromkeys(names, (-1,))
        if self.trained is not None:
            size = self.trained.head.outputs
        else:
            size = self.spec.vocab_size if kind == "fill-mask" else self.spec.hidden_size
        return dict.fromkeys(names, (size,) if kind == "sequence" else (-1, size))


def open_source(folder: Path, *, features: bool = False) -> ExportedModel:
    """Load what is exported.

    Args:
        features: the encoder alone, whatever head the model has.

    Raises:
        InputError: the folder has no BERT or no tokenizer, or they do not fit each other.
    """
    if features or not is_fine_tuned(folder):
        return _pretrained(folder, features)
    trained = load_trained(folder, CPU)
    model = trained.forward.model
    return ExportedModel(
        folder=folder,
        spec=model.spec,
        encoder=trained.encoder,
        module=Padded(model).eval(),
        state={name: parameter.detach() for name, parameter in model.named_parameters()},
        config=task_config(model.spec, trained.head, trained.fitted.labels),
        trained=trained,
        task=trained.as_description(),
        scores=scores_of(measured_of(folder)),
    )


def _pretrained(folder: Path, features: bool) -> ExportedModel:
    spec = read_model_spec(folder)
    encoder = TextEncoder.of_folder(folder, spec.max_position_embeddings)
    encoder.check_fits(spec.vocab_size, str(folder))
    weights = load_pretrained(folder, spec)
    model: Bert | BertForPreTraining
    if features or _lacks(weights, "cls.predictions."):
        model = Bert(spec, False, pooled=False)  # the vectors do not need one
        state = {name.removeprefix("bert."): one for name, one in weights.state.items() if name.startswith("bert.")}
        architecture = ARCHITECTURES[False, False]
    else:
        model = BertForPreTraining(spec, next_sentence=not _lacks(weights, "cls.seq_relationship.", "bert.pooler."))
        state = {name: weights.state[name] for name, _ in model.named_parameters()}
        architecture = ARCHITECTURES[True, model.next_sentence]
    _fill(model, state)
    config = config_from_model_spec(spec) | {"architectures": [architecture]}
    return ExportedModel(folder, spec, encoder, Padded(model).eval(), state, config)


def _lacks(weights: LoadedWeights, *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in weights.missing)


@torch.no_grad()
def _fill(model: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(state[name])
