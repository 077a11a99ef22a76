"""A checkpoint of another program made into a Hugging Face folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from bertjobs.conversion.checkpoint import ForeignCheckpoint
from bertjobs.conversion.find import read_checkpoint
from bertjobs.data.text.normalisation import CONFIG_FILE
from bertjobs.data.text.vocabulary import TOKENS_FILE, beside
from bertjobs.data.text.vocabulary_choice import NO_WISHES, ChosenVocabulary, Wishes, choose_vocabulary
from bertjobs.errors import InputError
from bertjobs.files.output_folder import check_output, output_folder
from bertjobs.model.huggingface import (
    TIED,
    WEIGHTS_FILE,
    WEIGHTS_METADATA,
    canonical_name,
    fitted,
    parameter_shapes,
    write_description,
)
from bertjobs.recipe.bert_config import model_spec_from_config, read_config_file
from bertjobs.recipe.spec import ModelSpec
from bertjobs.wording import counted

CONFIGS = ("bert_config.json", "config.json")
"""Names of a model's configuration beside its checkpoint."""

WORDS = "bert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder.weight"
PER_TOKEN = (WORDS, DECODER, "cls.predictions.bias", "cls.predictions.decoder.bias")
"""Parameters with a row for each token of the vocabulary."""

PADDED_TO = 8
"""NVIDIA's programs add rows up to a multiple of this, for which GPUs are faster."""

MASKED_WORDS, NEXT_SENTENCE = "cls.predictions.", ("cls.seq_relationship.", "bert.pooler.")
_POSITIONS = "bert.embeddings.position_ids"  # a buffer of older versions


@dataclass(frozen=True)
class ImportOptions:
    """What is imported.

    Attributes:
        checkpoint: as for `read_checkpoint`.
        output: the folder to make.
        config: the model's configuration (bert_config.json); None: the one beside the checkpoint, or that it names.
        vocabulary: its vocab.txt; None: likewise.
        wishes: what flags say of the vocabulary's text.
    """

    checkpoint: Path
    output: Path
    config: Path | None = None
    vocabulary: Path | None = None
    wishes: Wishes = NO_WISHES


@dataclass(frozen=True)
class Imported:
    """What was made.

    Attributes:
        origin: what wrote the checkpoint, in words.
        spec: the model's shape.
        text: how the vocabulary changes text, in words.
        has_masked_words, has_next_sentence: whether the heads were there.
        missing: parameters of the heads and the pooler that were not there; the folder does not have them either.
        left_out: what else the checkpoint holds.
        notes: what a person should know, a line each.
    """

    origin: str
    spec: ModelSpec
    text: str
    has_masked_words: bool
    has_next_sentence: bool
    missing: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def import_checkpoint(options: ImportOptions) -> Imported:
    """Make the Hugging Face folder ``options.output`` of a checkpoint: config, float32 weights, tokenizer files.

    Raises:
        InputError: the output exists; as `read_checkpoint`; no configuration or vocabulary is found, or they do not fit
            the weights; weights that are not finite, or whose decoder is not tied to the word embeddings.
        BertjobsError: the folder cannot be written.
    """
    check_output(options.output)
    checkpoint = read_checkpoint(options.checkpoint)
    spec, lowercase = _configured(options, checkpoint)
    vocabulary = _vocabulary(options, checkpoint, lowercase)
    spec = replace(spec, vocab_size=vocabulary.vocabulary.size)
    shapes = parameter_shapes(spec)
    named = {canonical_name(name, shapes): tensor for name, tensor in checkpoint.tensors.items()}
    _check_depth(named, spec, checkpoint.path)
    cut, notes = _without_padding(named, spec.vocab_size, checkpoint.path)
    _check_tied(cut, checkpoint.path)
    state, missing = fitted(cut, shapes, str(checkpoint.path))
    notes += _numbers(state, checkpoint.path)
    words = not any(name.startswith(MASKED_WORDS) for name in missing)
    sentences = not any(name.startswith(NEXT_SENTENCE) for name in missing)
    with output_folder(options.output) as folder:
        _write(folder, spec, vocabulary, state, words, sentences)
    known = {*shapes, *TIED, _POSITIONS}
    unknown = [name for name in checkpoint.tensors if canonical_name(name, shapes) not in known]
    return Imported(
        origin=checkpoint.origin,
        spec=spec,
        text=str(vocabulary.vocabulary.normalisation),
        has_masked_words=words,
        has_next_sentence=sentences,
        missing=missing,
        left_out=(*sorted(unknown), *checkpoint.others),
        notes=(*notes, *vocabulary.notes),
    )


def _write(
    folder: Path, spec: ModelSpec, chosen: ChosenVocabulary, state: Mapping[str, Tensor], words: bool, sentences: bool
) -> None:
    chosen.vocabulary.write(folder)
    write_description(
        spec,
        folder / TOKENS_FILE,
        folder,
        lowercase=chosen.vocabulary.lowercase,
        next_sentence=sentences,
        masked_words=words,
    )
    tensors = {name: tensor.float().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata=WEIGHTS_METADATA)


def _configured(options: ImportOptions, checkpoint: ForeignCheckpoint) -> tuple[ModelSpec, bool | None]:
    """The shape that the configuration says, and whether it says that text is lowercased."""
    beside_it = [checkpoint.path.with_name(name) for name in CONFIGS]
    path = _chosen_file(options.config, [checkpoint.config, *beside_it])
    if path is None:
        raise InputError(
            "the checkpoint does not say the model's shape, and no bert_config.json lies beside it",
            where=str(checkpoint.path),
            hint="--config FILE, such as NVIDIA's bert_configs/large.json",
        )
    content = read_config_file(path)
    stated = content.get("do_lower_case")
    return model_spec_from_config(content, str(path)), stated if isinstance(stated, bool) else None


def _vocabulary(options: ImportOptions, checkpoint: ForeignCheckpoint, lowercase: bool | None) -> ChosenVocabulary:
    path = _chosen_file(options.vocabulary, [checkpoint.vocabulary, checkpoint.path.with_name(TOKENS_FILE)])
    if path is None:
        raise InputError(
            "no vocab.txt lies beside the checkpoint",
            where=str(checkpoint.path),
            hint="--vocab FILE, the vocabulary that it was trained with",
        )
    wishes = options.wishes
    if wishes.lowercase is None and not beside(path, CONFIG_FILE).exists():
        wishes = replace(wishes, lowercase=lowercase)
    return choose_vocabulary(path, wishes)


def _chosen_file(given: Path | None, candidates: list[Path | None]) -> Path | None:
    """The file that was given, else the first candidate that exists."""
    return given or next((path for path in candidates if path and path.is_file()), None)


_LAYER = re.compile(r"bert\.encoder\.layer\.([0-9]+)\.")


def _check_depth(named: Mapping[str, Tensor], spec: ModelSpec, path: Path) -> None:
    """InputError if the checkpoint has more layers than the configuration: they must not be left out as unknown."""
    numbers = {int(match[1]) for match in map(_LAYER.match, named) if match}
    if numbers and max(numbers) >= spec.num_hidden_layers:
        what = f"the checkpoint has {max(numbers) + 1} layers, but its config says {spec.num_hidden_layers}"
        raise InputError(what, where=str(path), hint="give the checkpoint's own configuration with --config")


def _without_padding(named: Mapping[str, Tensor], tokens: int, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without rows that stand for no token, and a line about them.

    Raises:
        InputError: they have fewer rows than tokens, or more than padding explains.
    """
    rows = named[WORDS].shape[0] if WORDS in named and named[WORDS].dim() else tokens
    if rows == tokens:
        return dict(named), []
    if not (tokens < rows < tokens + PADDED_TO and rows % PADDED_TO == 0):
        raise InputError(
            f"the checkpoint was trained with {rows:,} tokens, but the vocabulary has {tokens:,}",
            where=str(path),
            hint="give the vocabulary that it was trained with: --vocab FILE",
        )
    cut = {name: tensor[:tokens] if name in PER_TOKEN and tensor.dim() else tensor for name, tensor in named.items()}
    note = f"the vocabulary has {tokens:,} tokens: {counted(rows - tokens, 'row')} of padding after them cut off"
    return cut, [note]


def _check_tied(named: Mapping[str, Tensor], path: Path) -> None:
    """InputError if the decoder has weights of its own, which BERT's does not."""
    decoder, words = named.get(DECODER), named.get(WORDS)
    if decoder is not None and words is not None and not (decoder.shape == words.shape and decoder.equal(words)):
        what = "the masked-word decoder's weights are not those of the word embeddings, as in BERT"
        raise InputError(what, where=str(path), hint="such a model cannot be represented")


def _numbers(state: Mapping[str, Tensor], path: Path) -> list[str]:
    """A line about the type of the numbers, if it is not float32; InputError if some are not finite."""
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise InputError(
                f"{name} has values that are not finite", where=str(path), hint="take an earlier checkpoint"
            )
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()} - {"float32"})
    return [f"the weights are stored as {', '.join(kinds)}, and written as float32"] if kinds else []
