"""What LDDL 0.1.0's preprocessor computes, in plain Python on today's packages: the yardstick where LDDL is missing.

    python benchmarks/lddl/baseline.py --source DIR --vocab FILE --output DIR --length 128 --duplicates 5 --masking

The algorithm is LDDL's (which is BERT's `create_pretraining_data.py`): NLTK's sentence splitter, the Hugging Face
tokenizer called once per sentence, a loop over sentences that draws pairs, a loop over tokens that masks, rows as
dictionaries, pandas, and one Parquet file per bin and block. What is left out is Dask and MPI; blocks go to
processes by `multiprocessing`. As with LDDL the files are not balanced. `benchmarks/data.py` records how it compares.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import multiprocessing
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Sentence = list[str]
Document = list[Sentence]
Row = dict[str, Any]

SHORT_SHARE = 0.1
MASKED_SHARE = 0.15


@dataclass(frozen=True)
class Settings:
    """What one block is made with; lengths in tokens."""

    vocab: Path
    output: Path
    length: int
    bin_size: int
    duplicates: int
    masking: bool
    seed: int


def main() -> None:
    """Read the source, assign its documents to blocks at random, and make each block's files."""
    parser = argparse.ArgumentParser(description="LDDL's preprocessing in plain Python", allow_abbrev=False)
    option = parser.add_argument
    option("--source", type=Path, required=True, metavar="DIR", help="*.txt files, one document per line, id first")
    option("--vocab", type=Path, required=True, metavar="FILE", help="vocab.txt")
    option("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    option("--length", type=int, default=128, metavar="TOKENS")
    option("--bin-size", type=int, default=64, metavar="TOKENS")
    option("--duplicates", type=int, default=5, metavar="N")
    option("--masking", action="store_true", help="static masks")
    option("--processes", type=int, default=1, metavar="N")
    option("--blocks", type=int, default=8, metavar="N")
    option("--seed", type=int, default=42, metavar="N")
    args = parser.parse_args()
    args.output.mkdir(parents=True)
    settings = Settings(args.vocab, args.output, args.length, args.bin_size, args.duplicates, args.masking, args.seed)
    texts = [
        line for path in sorted(args.source.rglob("*.txt")) for line in path.open(encoding="utf-8") if line.strip()
    ]
    random.Random(args.seed).shuffle(texts)
    jobs = [(settings, number, texts[number :: args.blocks]) for number in range(args.blocks)]
    if args.processes == 1:
        for job in jobs:
            make_block(*job)
    else:
        with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
            pool.starmap(make_block, jobs, chunksize=1)


def make_block(settings: Settings, number: int, texts: Sequence[str]) -> None:
    """Tokenise some documents, draw their pairs, and write one file per bin."""
    draw = random.Random(f"{settings.seed}/{number}")
    tokenizer = _tokenizer(settings.vocab)
    documents = [document for document in (tokenise(text, tokenizer) for text in texts) if document]
    words = list(tokenizer.get_vocab())
    rows: list[Row] = []
    for _ in range(settings.duplicates):
        for place in range(len(documents)):
            for a, b, is_random in pairs(documents, place, settings.length, draw):
                rows.append(_row(a, b, is_random, words if settings.masking else None, draw))
    draw.shuffle(rows)
    _write(rows, number, settings)


def _tokenizer(vocab: Path) -> Any:
    from transformers import BertTokenizerFast

    return BertTokenizerFast(str(vocab))


def tokenise(text: str, tokenizer: Any) -> Document:
    """The sentences of a source line as WordPiece tokens, without the document's id."""
    from nltk.tokenize import sent_tokenize

    body = text.strip().split(maxsplit=1)
    sentences = [sentence.strip() for sentence in sent_tokenize(body[1])] if len(body) == 2 else []
    tokens = (tokenizer.tokenize(sentence, max_length=512, truncation=True) for sentence in sentences if sentence)
    return [sentence for sentence in tokens if sentence]


def pairs(
    documents: Sequence[Document], place: int, length: int, draw: random.Random
) -> Iterator[tuple[Sentence, Sentence, bool]]:
    """BERT's next-sentence pairs of one document: A, B, and whether B comes from another document."""
    document, limit = documents[place], length - 3
    target = draw.randint(2, limit) if draw.random() < SHORT_SHARE else limit
    first = 0
    while first < len(document):
        last, size = first, 0
        while last < len(document) and size < target:
            size += len(document[last])
            last += 1
        chunk = document[first:last]
        split = draw.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
        a = [token for sentence in chunk[:split] for token in sentence]
        is_random = len(chunk) == 1 or draw.random() < 0.5
        if is_random:
            other = _other(len(documents), place, draw)
            is_random = other != place
            b: Sentence = []
            for sentence in documents[other][draw.randint(0, len(documents[other]) - 1) :]:
                b.extend(sentence)
                if len(b) >= target - len(a):
                    break
            last = first + split  # the rest of the chunk was not used: it comes again
        else:
            b = [token for sentence in chunk[split:] for token in sentence]
        _truncate(a, b, limit, draw)
        yield a, b, is_random
        first = last


def _other(documents: int, place: int, draw: random.Random) -> int:
    for _ in range(10):
        other = draw.randint(0, documents - 1)
        if other != place:
            break
    return other


def _truncate(a: Sentence, b: Sentence, limit: int, draw: random.Random) -> None:
    while len(a) + len(b) > limit:
        longer = a if len(a) > len(b) else b
        if draw.random() < 0.5:
            del longer[0]
        else:
            longer.pop()


def _row(a: Sentence, b: Sentence, is_random: bool, words: Sequence[str] | None, draw: random.Random) -> Row:
    row: Row = {}
    if words is not None:
        a, b, positions, labels = mask(a, b, words, draw)
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(positions, dtype=np.uint16))
        row = {"masked_lm_positions": buffer.getvalue(), "masked_lm_labels": " ".join(labels)}
    common = {"A": " ".join(a), "B": " ".join(b), "is_random_next": is_random, "num_tokens": len(a) + len(b) + 3}
    return common | row


def mask(
    a: Sentence, b: Sentence, words: Sequence[str], draw: random.Random
) -> tuple[Sentence, Sentence, list[int], list[str]]:
    """A and B with 15% of the places chosen: 80% [MASK], 10% any word, 10% unchanged; places and originals."""
    tokens = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
    places = [place for place, token in enumerate(tokens) if token not in ("[CLS]", "[SEP]")]
    draw.shuffle(places)
    chosen = sorted(places[: max(1, round(len(tokens) * MASKED_SHARE))])
    labels = [tokens[place] for place in chosen]
    for place in chosen:
        if draw.random() < 0.8:
            tokens[place] = "[MASK]"
        elif draw.random() < 0.5:
            tokens[place] = words[draw.randint(0, len(words) - 1)]
    return tokens[1 : 1 + len(a)], tokens[2 + len(a) : -1], chosen, labels


def _write(rows: Sequence[Row], number: int, settings: Settings) -> None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("A", pa.string()), ("B", pa.string()), ("is_random_next", pa.bool_()), ("num_tokens", pa.uint16())]
    if settings.masking:
        fields += [("masked_lm_positions", pa.binary()), ("masked_lm_labels", pa.string())]
    schema = pa.schema([*fields, ("bin_id", pa.int64())])
    bins = settings.length // settings.bin_size
    members: list[list[Row]] = [[] for _ in range(bins)]
    for row in rows:
        members[min((row["num_tokens"] - 1) // settings.bin_size, bins - 1)].append(row)
    for bin_id, inside in enumerate(members):
        frame = pd.DataFrame(inside, columns=[name for name, _ in fields])
        frame["bin_id"] = bin_id
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
        pq.write_table(table, settings.output / f"part.{number}.parquet_{bin_id}")


def punkt_folder() -> Path | None:
    """A folder of NLTK data with Punkt, inside the package llama-index-core where that is installed."""
    spec = importlib.util.find_spec("llama_index.core") if importlib.util.find_spec("llama_index") else None
    places = [Path(place) / "_static/nltk_cache" for place in (spec.submodule_search_locations or ())] if spec else []
    return next((place for place in places if (place / "tokenizers/punkt_tab/english").is_dir()), None)


if __name__ == "__main__":
    if folder := punkt_folder():  # NLTK looks here, in this process and in those it starts
        os.environ["NLTK_DATA"] = str(folder)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main()
