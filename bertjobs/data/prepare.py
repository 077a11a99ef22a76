"""Corpus to shards: documents, sentences, WordPiece ids, pairs, bins, and a manifest written last."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.corpus import Document, corpus_size, documents
from bertjobs.data.manifest import FORMAT, MANIFEST_NAME, SPLITS, VERSION
from bertjobs.data.pairs import TokenizedCorpus, sample_pairs
from bertjobs.data.ragged import gather, offsets_of
from bertjobs.data.sentences import split_sentences
from bertjobs.data.shards import ShardWriter, StaticMasking
from bertjobs.data.vocabulary import Vocabulary
from bertjobs.errors import InputError
from bertjobs.run.atomic import sync_file, sync_folder, write_json

Int64s = NDArray[np.int64]

Progress = Callable[[str, float, float, str], None]
"""Called with a stage's name, how much of it is done, how much there is, and the unit."""

_BATCH_BYTES = 2_000_000  # text tokenised at a time


@dataclass(frozen=True)
class PhaseShape:
    """What a phase's sequences look like: tokens at most, and masked tokens at most."""

    phase: int
    sequence_length: int
    max_predictions: int


PHASES = {1: PhaseShape(1, 128, 20), 2: PhaseShape(2, 512, 80)}


@dataclass(frozen=True)
class PrepareOptions:
    """What ``bertjobs data prepare`` is asked for.

    Attributes:
        corpora: sources, as ``corpus.documents`` takes them.
        vocabulary: path of vocab.txt.
        output: folder to make.
        duplicates: times that pairs are drawn from each training document; validation is drawn once.
        bin_size: tokens a length bin spans; each phase's sequence length is a multiple.
        shards: files a bin; at least ranks x loader workers.
        masking: "dynamic" (none stored) or "static".
        masked_share: share of the tokens that are masked, where masking is static.
        short_sequence_share: share of the documents whose target length is drawn at random.
        held_out: share of the documents kept for validation, at least one document.
    """

    corpora: tuple[str, ...]
    vocabulary: str
    output: str
    phases: tuple[int, ...] = (1, 2)
    duplicates: int = 5
    bin_size: int = 64
    shards: int = 8
    masking: str = "dynamic"
    masked_share: float = 0.15
    short_sequence_share: float = 0.1
    held_out: float = 0.05
    seed: int = 42


def prepare(options: PrepareOptions, progress: Progress) -> None:
    """Make a data folder: vocab.txt, phaseN/{train,validation}/shard-*, MANIFEST.json.

    The folder appears complete or not at all. Equal input, options and seed give equal bytes. The
    tokenised corpus and a phase's pairs are held in memory: 0.2 GB for 12 MB of text with the defaults.

    Raises:
        InputError: bad options, corpus or vocabulary, or an output that exists or cannot be written.
    """
    _check(options)
    vocabulary = Vocabulary.read(options.vocabulary)
    with _new_folder(Path(options.output)) as folder:
        shutil.copyfile(options.vocabulary, folder / "vocab.txt")
        sync_file(folder / "vocab.txt")
        splits, summary = _tokenize(options, vocabulary, progress)
        phases: dict[int, dict[str, Any]] = {
            number: {key: value for key, value in asdict(PHASES[number]).items() if key != "phase"}
            for number in options.phases
        }
        steps = len(SPLITS) * len(phases)
        for name, corpus in splits.items():
            writer = ShardWriter(corpus, vocabulary)
            for number in options.phases:
                done = sum(len(entry) - 2 for entry in phases.values())
                progress("pairs and shards", done, steps, "splits")
                phases[number][name] = _write_split(options, PHASES[number], name, corpus, writer, folder)
        progress("pairs and shards", steps, steps, "splits")
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "vocabulary": {
                "sha256": vocabulary.sha256,
                "size": vocabulary.size,
                "lowercase": vocabulary.lowercase,
            },
            "settings": {key: value for key, value in asdict(options).items() if key != "output"},
            **summary,
            "phases": phases,
        }
        write_json(folder / MANIFEST_NAME, manifest)
        sync_folder(folder)


def _check(options: PrepareOptions) -> None:
    for name, value in (("duplicates", options.duplicates), ("shards", options.shards)):
        if value < 1:
            raise InputError(f"{value} is too small: at least 1", where=f"--{name}")
    unknown = [number for number in options.phases if number not in PHASES]
    if unknown or not options.phases or len(set(options.phases)) != len(options.phases):
        given = ",".join(map(str, options.phases))
        raise InputError(f"phases {given!r} cannot be prepared", where="--phases", hint="1, 2 or 1,2")
    for number in options.phases:
        if options.bin_size < 1 or PHASES[number].sequence_length % options.bin_size:
            raise InputError(
                f"bins of {options.bin_size} tokens do not divide phase {number}'s "
                f"{PHASES[number].sequence_length} tokens",
                where="--bin-size",
                hint="32, 64 or 128",
            )
    for name, share, least in (
        ("held-out", options.held_out, 0),
        ("masked-share", options.masked_share, 0),
        ("short-sequence-share", options.short_sequence_share, -1),
    ):
        if not least < share < 1:
            raise InputError(f"{share} is not a share between 0 and 1", where=f"--{name}")
    if options.masking not in ("dynamic", "static"):
        raise InputError(f"unknown masking {options.masking!r}", where="--masking", hint="dynamic or static")
    if not options.corpora:
        raise InputError("no corpus is given", where="--corpus", hint="for instance --corpus text:DIR")


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` that takes its name when the block ends well, and is removed otherwise."""
    if (output / MANIFEST_NAME).exists():
        raise InputError(f"{str(output)!r} holds data already", where="--output", hint="choose another folder")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(
            f"{str(output)!r} exists and is not empty", where="--output", hint="remove it or choose another"
        )
    temporary = output.with_name(f".{output.name}.partial-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        try:
            yield temporary
            temporary.rename(output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write {str(output)!r}: {error.strerror}", where="--output") from error


def _tokenize(
    options: PrepareOptions, vocabulary: Vocabulary, progress: Progress
) -> tuple[dict[str, TokenizedCorpus], dict[str, Any]]:
    """All documents as ids, by split, and what the manifest says about them."""
    total = sum(corpus_size(source) for source in options.corpora)
    progress("sentences and tokens", 0, total / 1e6, "MB")
    encoder = vocabulary.encoder()
    names: list[str] = []
    ids, sentence_lengths, sentence_counts = [], [], []
    done = replaced = 0
    for batch in _batches(options.corpora):
        split = [split_sentences(document.text) for document in batch]
        batch_ids, lengths = encoder.encode([sentence for sentences in split for sentence in sentences])
        ids.append(batch_ids)
        sentence_lengths.append(lengths[lengths > 0])
        owner = np.repeat(np.arange(len(batch)), [len(sentences) for sentences in split])
        sentence_counts.append(np.bincount(owner[lengths > 0], minlength=len(batch)))
        names += [document.id for document in batch]
        done += sum(document.size for document in batch)
        replaced += sum(document.replaced for document in batch)
        progress("sentences and tokens", done / 1e6, total / 1e6, "MB")

    counts = np.concatenate(sentence_counts)
    kept = np.flatnonzero(counts)
    if len(kept) < 2:
        raise InputError(
            f"the corpus has {len(kept)} document(s) with text, at least two are needed: one is held out",
            where="--corpus",
            hint="with text:DIR each *.txt file is a document",
        )
    held_out = choose_held_out([names[place] for place in kept], options.held_out, options.seed)
    flat, lengths, sentence_starts = np.concatenate(ids), np.concatenate(sentence_lengths), offsets_of(counts)
    members = {"train": kept[~held_out], "validation": kept[held_out]}
    splits = {name: _select(flat, lengths, sentence_starts[places], counts[places]) for name, places in members.items()}
    return splits, {
        "documents": {name: len(places) for name, places in members.items()},
        "held_out": [names[place] for place in members["validation"]],
        "replaced_bytes": replaced,
    }


def _select(flat: NDArray[np.int32], lengths: Int64s, starts: Int64s, counts: Int64s) -> TokenizedCorpus:
    """The documents whose sentences begin at ``starts`` and are ``counts`` many."""
    token_offsets = offsets_of(lengths)
    chosen_lengths = gather(lengths, starts, counts)
    ids = gather(flat, gather(token_offsets[:-1], starts, counts), chosen_lengths)
    return TokenizedCorpus(ids, offsets_of(chosen_lengths), offsets_of(counts))


def _batches(corpora: tuple[str, ...]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for source in corpora:
        for document in documents(source):
            batch.append(document)
            size += document.size
            if size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def choose_held_out(names: list[str], share: float, seed: int) -> NDArray[np.bool_]:
    """Which documents are held out, ``[documents]``: those whose hash of (seed, id) falls in the share.

    So a document's split does not depend on the other documents, except that at least one is held out
    and one is not.
    """
    hashes = np.array([_number(seed, "held out", name) for name in names], dtype=np.uint64)
    chosen = hashes < np.uint64(share * 2.0**64)
    if not chosen.any():
        chosen[hashes.argmin()] = True
    if chosen.all():
        chosen[hashes.argmax()] = False
    return chosen


def _write_split(
    options: PrepareOptions,
    phase: PhaseShape,
    name: str,
    corpus: TokenizedCorpus,
    writer: ShardWriter,
    folder: Path,
) -> dict[str, Any]:
    seed = f"{options.seed}/phase{phase.phase}/{name}"
    duplicates = options.duplicates if name == "train" else 1
    pairs = sample_pairs(corpus, phase.sequence_length, options.short_sequence_share, duplicates, seed)
    masking = None
    if options.masking == "static":
        masking = StaticMasking(options.masked_share, phase.max_predictions, _number(seed, "mask"))
    files, tokens = writer.write(
        folder / f"phase{phase.phase}" / name,
        pairs,
        phase.sequence_length,
        options.bin_size,
        options.shards,
        masking,
        _number(seed, "shuffle"),
    )
    return {"tokens": tokens, "files": [asdict(file) for file in files]}


def _number(*parts: object) -> int:
    """A 64-bit number that depends on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")
