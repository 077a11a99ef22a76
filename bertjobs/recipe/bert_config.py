"""config.json of a Hugging Face BERT: the shape of a model, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertjobs.errors import InputError
from bertjobs.files.reading import parse_json
from bertjobs.recipe.spec import ModelSpec

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh")
"""Names of ``hidden_act`` that are known; the last two are the same function."""

SHAPE_FIELDS: dict[str, int] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
"""Fields that two models must share to share weights, with ``BertConfig``'s defaults."""

OTHER_FIELDS: dict[str, float] = {
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
}


def classes_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Hugging Face's classes that a config.json names under ``architectures``; () if it names none.

    Raises:
        InputError: they are not names.
    """
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"architectures is {classes!r}; it must be a list of names", where="config.json")
    return tuple(classes)


def config_from_model_spec(spec: ModelSpec) -> dict[str, Any]:
    """The content of config.json for a model of this shape."""
    fields = [*SHAPE_FIELDS, *OTHER_FIELDS, "hidden_act"]
    return {field: getattr(spec, field) for field in fields} | {
        "architectures": ["BertForPreTraining"],
        "classifier_dropout": None,
        "dtype": "float32",
        "model_type": "bert",
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
    }


def model_spec_from_config(config: Mapping[str, Any], name: str) -> ModelSpec:
    """The shape that a config.json describes; fields it leaves out are ``BertConfig``'s defaults.

    Raises:
        InputError: not a BERT, or a field's value that this model does not have.
    """
    for field, supported in (("model_type", "bert"), ("position_embedding_type", "absolute")):
        if config.get(field, supported) != supported:
            what = f"{field} is {config[field]!r}; only {supported!r} is supported"
            raise InputError(what, where=f"config of {name}")
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        what = f"hidden_act is {activation!r}; supported: {', '.join(ACTIVATIONS)}"
        raise InputError(what, where=f"config of {name}")
    shape = {field: config.get(field, default) for field, default in SHAPE_FIELDS.items()}
    other = {field: config.get(field, default) for field, default in OTHER_FIELDS.items()}
    for field, value in shape.items():
        if type(value) is not int or value < 1:
            raise InputError(f"{field} is {value!r}; it must be a whole number above 0", where=f"config of {name}")
    for field, value in other.items():
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise InputError(f"{field} is {value!r}; it must be from 0 to below 1", where=f"config of {name}")
    return ModelSpec(name=name, hidden_act=activation, **shape, **other)


def read_model_spec(folder: Path) -> ModelSpec:
    """The shape that a folder's config.json describes.

    Raises:
        InputError: it cannot be read, or as in `model_spec_from_config`.
    """
    return model_spec_from_config(read_bert_config(folder), folder.name)


def read_bert_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
        InputError: it is missing or cannot be read.
    """
    if not (file := folder / "config.json").exists():
        hint = "give the folder of a Hugging Face BERT model"
        raise InputError("config.json is missing", where=str(folder), hint=hint)
    return read_config_file(file)


def read_config_file(file: Path) -> dict[str, Any]:
    """The content of a config.json, or of a bert_config.json as NVIDIA, HetSeq and Google have it.

    Raises:
        InputError: it is missing or cannot be read.
    """
    try:
        config = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file.name} is missing", where=str(file)) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file.name} cannot be read: {error}", where=str(file)) from error
    if not isinstance(config, dict):
        raise InputError(f"{file.name} does not hold an object", where=str(file))
    return config
