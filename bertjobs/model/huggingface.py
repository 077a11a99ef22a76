"""Hugging Face model folders: written for any reader, and read back from any writer of BERT."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertjobs.errors import InputError, first_line
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.tokenizer import write_tokenizer
from bertjobs.recipe.bert_config import SHAPE_FIELDS, config_from_model_spec, read_model_spec
from bertjobs.recipe.spec import ModelSpec
from bertjobs.run.weights import WEIGHTS, weights_file

TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Second names of tied parameters, which are not written, and the names that are."""

WEIGHTS_FILE = WEIGHTS[0]
WEIGHTS_METADATA = {"format": "pt"}  # transformers refuses files that do not say it

ARCHITECTURES = {
    (True, True): "BertForPreTraining",
    (True, False): "BertForMaskedLM",
    (False, True): "BertForNextSentencePrediction",
    (False, False): "BertModel",
}
"""Heads for masked words and next sentences -> the class of Hugging Face's that has them."""

TRAINING_ONLY, TRAINING_ONLY_FILE = "training_only", "training_only.safetensors"
"""The module of a model whose parameters only training needs, and the file of a checkpoint that has them. Beside the
model's own weights they would be unknown to every other reader."""

OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class LoadedWeights:
    """Weights read from a folder.

    Attributes:
        spec: the model's shape.
        state: float32 tensors on the CPU by parameter name of ``BertForPreTraining``, each tied one once.
        missing: parameters that the folder does not hold: of heads, never of the encoder.
    """

    spec: ModelSpec
    state: dict[str, Tensor]
    missing: tuple[str, ...]


def save_pretrained(
    model: BertForPreTraining, vocabulary_path: str | Path, folder: str | Path, *, lowercase: bool
) -> None:
    """Write ``model`` as a Hugging Face folder: config, float32 weights and tokenizer files.

    The same model and vocabulary give the same bytes. The files are written in place and not flushed: a
    caller that needs them whole or not at all writes to a temporary folder and renames it.

    Args:
        model: unwrapped, on any device.
        vocabulary_path: the ``vocab.txt`` that the model was trained with.
        folder: exists.
        lowercase: whether the vocabulary's text is lower-cased.

    Raises:
        InputError: a vocabulary that cannot be read or holds more tokens than the model.
    """
    folder = Path(folder)
    write_description(model.spec, vocabulary_path, folder, lowercase=lowercase, next_sentence=model.next_sentence)
    state = {name: p.detach().float().cpu().contiguous() for name, p in model.named_parameters()}
    save_file(state, folder / WEIGHTS_FILE, metadata=WEIGHTS_METADATA)


def write_description(
    spec: ModelSpec,
    vocabulary_path: str | Path,
    folder: Path,
    *,
    lowercase: bool,
    next_sentence: bool = True,
    masked_words: bool = True,
) -> None:
    """Write all files of a Hugging Face folder but the weights: config and tokenizer. As in `save_pretrained`;
    ``next_sentence`` and ``masked_words`` say which heads the weights have."""
    max_length = spec.max_position_embeddings
    tokens = write_tokenizer(folder, Path(vocabulary_path), lowercase=lowercase, max_length=max_length)
    if tokens > spec.vocab_size:
        what = f"the vocabulary holds {tokens} tokens, but the model's vocab_size is {spec.vocab_size}"
        raise InputError(what, where=str(vocabulary_path))
    content = config_from_model_spec(spec) | {"architectures": [ARCHITECTURES[masked_words, next_sentence]]}
    config = json.dumps(content, indent=2, sort_keys=True)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")


def load_pretrained(
    folder: str | Path, spec: ModelSpec | None = None, wanted: Mapping[str, torch.Size] | None = None
) -> LoadedWeights:
    """Read a Hugging Face BERT folder, with or without heads and the ``bert.`` prefix, as float32.

    Args:
        folder: holds config.json and model.safetensors or pytorch_model.bin.
        spec: the shape that the weights must have; None takes what config.json says.
        wanted: names and shapes of the parameters that are read; None: those of ``BertForPreTraining``.

    Raises:
        InputError: a file missing, unreadable or truncated; a shape other than ``spec``; no BERT encoder.
    """
    folder = Path(folder)
    stored = read_model_spec(folder)
    if spec is not None:
        _check_same_shape(stored, spec, folder)
    file, tensors = _read_tensors(folder)
    state, missing = fitted(tensors, parameter_shapes(stored) if wanted is None else wanted, str(file))
    return LoadedWeights(spec or stored, {name: tensor.float() for name, tensor in state.items()}, missing)


def fitted(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], where: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The wanted tensors under today's names, each tied one once, and the names of those that are missing.

    Args:
        tensors: under the names of any writer of Hugging Face folders.
        wanted: names and shapes.
        where: the file, for errors.

    Raises:
        InputError: a part of BERT's encoder is missing, or a shape is not the wanted one.
    """
    state = _canonical(tensors, wanted)
    missing = tuple(name for name in wanted if name not in state)
    lost = [name for name in missing if name.startswith(("bert.embeddings.", "bert.encoder."))]
    if lost:
        hint = "give the weights of a whole BERT model"
        what = f"the file lacks {len(lost)} parameters of BERT's encoder, {lost[0]} among them"
        raise InputError(what, where=where, hint=hint)
    for name, tensor in state.items():
        if tensor.shape != wanted[name]:
            what = f"{name} has shape {list(tensor.shape)}, but the model's config says {list(wanted[name])}"
            raise InputError(what, where=where)
    return state, missing


@torch.no_grad()
def initialise_from(model: BertForPreTraining, folder: str | Path) -> tuple[str, ...]:
    """Copy a folder's weights into ``model`` and return the parameters that keep their random start.

    Raises:
        InputError: as in ``load_pretrained``; the model is then unchanged.
    """
    weights = load_pretrained(folder, model.spec)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if name in weights.state:
            parameter.copy_(weights.state[name])
    return tuple(name for name in weights.missing if name in parameters)


@torch.no_grad()
def load_training_only(model: nn.Module, folder: Path) -> tuple[str, ...]:
    """Copy what a checkpoint holds of the parameters that only training needs; returns those that it lacks.

    Raises:
        InputError: its file cannot be read.
    """
    prefix, file = f"{TRAINING_ONLY}.", folder / TRAINING_ONLY_FILE
    parameters = {name: tensor for name, tensor in model.named_parameters() if name.startswith(prefix)}
    stored = _tensors_in(file) if parameters and file.is_file() else {}
    # Those of another teacher may have other shapes.
    state = {
        name: stored[name] for name, own in parameters.items() if name in stored and stored[name].shape == own.shape
    }
    for name, tensor in state.items():
        parameters[name].copy_(tensor)
    return tuple(name for name in parameters if name not in state)


def _check_same_shape(stored: ModelSpec, wanted: ModelSpec, folder: Path) -> None:
    for field in SHAPE_FIELDS:
        theirs, ours = getattr(stored, field), getattr(wanted, field)
        if theirs != ours:
            what = f"{field} is {theirs} in the folder and {ours} in model {wanted.name!r}"
            hint = "choose a model of the folder's shape, or weights of the model's"
            raise InputError(what, where=str(folder / "config.json"), hint=hint)


def _read_bin(file: Path) -> dict[str, Tensor]:
    return torch.load(file, map_location="cpu", weights_only=True)


READERS: Mapping[str, Callable[[Path], dict[str, Tensor]]] = dict(zip(WEIGHTS, (load_file, _read_bin), strict=True))


def _read_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The first weights file that exists, and what is in it."""
    file = weights_file(folder)
    return file, _tensors_in(file)


def _tensors_in(file: Path) -> dict[str, Tensor]:
    """What a file of weights holds, by name.

    Raises:
        InputError: it cannot be read.
    """
    try:
        tensors = READERS.get(file.name, load_file)(file)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = first_line(error)
        what = f"the weights cannot be read: {reason}"
        raise InputError(what, where=str(file), hint="truncated or damaged? copy it again") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise InputError("the file does not hold named tensors", where=str(file))
    return tensors


def parameter_shapes(spec: ModelSpec) -> dict[str, torch.Size]:
    """Names and shapes of the parameters of a model, without making one."""
    with torch.device("meta"):
        return {name: p.shape for name, p in BertForPreTraining(spec).named_parameters()}


def canonical_name(name: str, wanted: Container[str]) -> str:
    """Today's name of a parameter that a Hugging Face folder may have under an older one, or without ``bert.``."""
    if name not in wanted and not name.startswith(("bert.", "cls.")):
        name = f"bert.{name}"
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def _canonical(tensors: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The wanted tensors under today's names; a parameter's own name wins over its tied second name."""
    state: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = canonical_name(key, wanted)
        if name in TIED:
            second[TIED[name]] = tensor
        elif name in wanted:
            state[name] = tensor
    return second | state
