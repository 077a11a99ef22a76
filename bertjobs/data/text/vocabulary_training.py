"""A new WordPiece vocabulary from text: vocab.txt, and beside it how text is normalised for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordPiece

from bertjobs.data.text.marks import Marks, marks_of
from bertjobs.data.text.normalisation import CONFIG_FILE, Normalisation
from bertjobs.data.text.vocabulary import (
    BERTS_WORD_LIMIT,
    SPECIAL_TOKENS,
    TOKENIZER_FILE,
    TOKENS_FILE,
    Vocabulary,
    bert_tokenizer,
    beside,
)
from bertjobs.errors import InputError
from bertjobs.files.atomic import write_json, write_text
from bertjobs.files.faults import not_written
from bertjobs.slurm.shell import quote

_ALPHABET = 1000  # most frequent characters that a trained vocabulary holds
_COVERAGE = 0.9995  # of a text's characters, by more characters than these or by longer words where it needs them
_COUNTED_WORDS = 2_000_000  # distinct words that training remembers
_REPEATED = 1000  # occurrences of a word in one text for the trainer
_WORD_LIMITS = (BERTS_WORD_LIMIT, 200, 400, 800, 1600)


def train_vocabulary(
    sources: Sequence[str], size: int, lowercase: bool, output: Path | str, strip_accents: bool | None = None
) -> list[str]:
    """Train a WordPiece vocabulary on corpora and write vocab.txt, tokenizer.json and tokenizer_config.json.

    Args:
        sources: as ``corpus.documents`` takes them.
        size: tokens at most, the special ones included.
        lowercase: make an uncased vocabulary.
        output: vocab.txt, or a file of another name; neither it nor a file beside it that would be written may exist.
        strip_accents: of the text; None: as BERT does, which is where it is lowercased, unless the corpus would lose
            vowel signs and tone marks.

    Returns:
        What was decided by the corpus and what a person should know of it, a line each.

    Raises:
        InputError: bad sources, a size without room for the special tokens, an output that exists, cannot be written
            or is named like a tokenizer.
    """
    if Path(output).suffix.lower() == ".json":
        raise InputError(
            f"{str(output)!r} is the name of a tokenizer, and a list of tokens is written",
            where="--output",
            hint=f"tokenizer.json is written beside it: --output {quote(str(Path(output).with_name(TOKENS_FILE)))}",
        )
    files = [beside(Path(output), name) for name in (TOKENIZER_FILE, CONFIG_FILE)] + [Path(output)]
    for path in files:
        if path.exists():
            raise InputError(f"{str(path)!r} exists", where="--output", hint="choose another file or remove it")
    words, unread = _count_words(sources, lowercase)
    marks = marks_of(words)
    normalisation = Normalisation.berts(lowercase, _strips(lowercase, strip_accents, marks))
    if normalisation.strip_accents:
        words = _stripped(words)
    pieces = _pieces(words)
    limit = _word_limit(pieces)
    tokens = _train(words, pieces, size)
    _write(tokens, bert_tokenizer(tokens, normalisation, limit), files)
    return [*_words_on_marks(marks, normalisation, strip_accents), *_words_on_limit(limit, _too_long(pieces, limit)),
            *([unread] if unread else [])]  # fmt: skip


def _strips(lowercase: bool, wish: bool | None, marks: Marks) -> bool:
    if wish is not None:
        return wish
    return lowercase and not marks.is_many(marks.vowel_count)


def _words_on_marks(marks: Marks, normalisation: Normalisation, wish: bool | None) -> Iterator[str]:
    """What the text loses, or why it keeps it, unless it was asked for."""
    if wish is not None or not normalisation.lowercase:
        return
    of_all = f"of {marks.characters:,} characters"
    vowels = f"{marks.vowel_count:,} {of_all} are or hold vowel signs, tone or voicing marks ({marks.scripts})"
    if not normalisation.strip_accents:
        yield f"accents are kept: {vowels}, which stripping would remove. --strip-accents yes strips them"
        return
    if marks.vowel_count:
        yield f"stripped with the accents: {vowels}. --strip-accents no keeps them"
    if marks.is_many(marks.accent_count):
        most = min(marks.accents, key=lambda character: (-marks.accents[character], character))
        lost = f"{marks.accent_count:,} {of_all} lose one, such as {most!r}"
        yield f"accents are stripped, as BERT does: {lost}. --strip-accents no keeps them"


def _words_on_limit(limit: int, too_long: float) -> Iterator[str]:
    if limit > BERTS_WORD_LIMIT:
        yield (f"words of up to {limit} characters are encoded, as tokenizer.json says: the text has long ones, as "
               f"scripts without spaces do. Hugging Face's class BertTokenizer makes [UNK] of those over "
               f"{BERTS_WORD_LIMIT}: load AutoTokenizer")  # fmt: skip
    if too_long > 1 - _COVERAGE:
        yield (f"{too_long:.1%} of the text's characters are in words of over {limit:,} characters, each of which "
               "becomes one [UNK]: put spaces between words, with a word segmenter, before you use it")  # fmt: skip


def _write(tokens: Sequence[str], tokenizer: Tokenizer, files: Sequence[Path]) -> None:
    """Write the three files, vocab.txt last: where it is, the others are."""
    whole, config, path = files
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(whole, tokenizer.to_str(pretty=True) + "\n")
        stated = Vocabulary.read(whole)
        if tokenizer.model.max_input_chars_per_word == BERTS_WORD_LIMIT:
            stated = replace(stated, tokenizer_file=None)
        write_json(config, stated.config())
        write_text(path, "".join(f"{token}\n" for token in tokens))
    except OSError as error:
        raise not_written(str(path), error, "--output") from error


def _train(words: Mapping[str, int], pieces: Mapping[str, int], size: int) -> list[str]:
    """The tokens by id."""
    from tokenizers.trainers import WordPieceTrainer

    alphabet, continuing = _characters(pieces, size)
    # The trainer breaks ties by token id and numbers "##x" in the order of a hash table, which changes from
    # run to run. Naming these tokens beforehand fixes their ids, and so the whole vocabulary.
    first = [*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in continuing)]
    if size <= len(first):
        raise InputError(
            f"a vocabulary of {size} tokens is too small: special tokens and single characters take {len(first)}",
            where="--size",
            hint=f"try {max(8000, 2 * len(first))}",
        )
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=first,
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(_repeated(words), trainer)
    return [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])]


def _count_words(sources: Sequence[str], lowercase: bool) -> tuple[Counter[str], str]:
    """How often each word occurs, its accents kept, and which files were not read. If there are too many words, the
    rarest are dropped."""
    from bertjobs.data.corpus import UnreadFiles, documents  # here: reading a vocabulary needs no corpus

    normaliser = Normalisation(lowercase, strip_accents=False).normaliser()
    words: Counter[str] = Counter()
    unread = UnreadFiles()
    for source in sources:
        for document in documents(source, unread):
            words.update(normaliser.normalize_str(document.text).split())
            if len(words) > _COUNTED_WORDS:
                words = _most_frequent(words, _COUNTED_WORDS // 2)
    return words, unread.words()


def _most_frequent(words: Counter[str], at_most: int) -> Counter[str]:
    least = 1
    while len(words) > at_most:
        words = Counter({word: count for word, count in words.items() if count > least})
        least *= 2
    return words


def _stripped(words: Mapping[str, int]) -> Counter[str]:
    """The words without accents. That they were lowercased before makes no difference: no character's small letter
    has other parts than its capital one."""
    normaliser = Normalisation(lowercase=False, strip_accents=True).of_letters()
    stripped: Counter[str] = Counter()
    for word, count in words.items():
        if plain := word if word.isascii() else normaliser.normalize_str(word):
            stripped[plain] += count
    return stripped


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Each word as often as it was counted, in texts of bounded length: the trainer takes no counts."""
    for word, count in words.items():
        for done in range(0, count, _REPEATED):
            yield f"{word} " * min(_REPEATED, count - done)


def _pieces(words: Mapping[str, int]) -> Counter[str]:
    """What BERT cuts the words into at punctuation, with counts."""
    split = pre_tokenizers.BertPreTokenizer()
    pieces: Counter[str] = Counter()
    for word, count in words.items():
        for piece, _ in split.pre_tokenize_str(word):
            pieces[piece] += count
    return pieces


def _characters(pieces: Mapping[str, int], size: int) -> tuple[list[str], list[str]]:
    """The text's most frequent characters, and those of them that occur inside words; both sorted.

    A thousand of them; more where these leave out over 0.05% of a text of many ideographs, as SentencePiece
    does (Kudo and Richardson, arXiv 1808.06226), up to half of the vocabulary.
    """
    counts: Counter[str] = Counter()
    continuing: set[str] = set()
    for piece, count in pieces.items():
        continuing.update(piece[1:])
        for character in piece:
            counts[character] += count
    frequent = sorted(sorted(counts), key=counts.__getitem__, reverse=True)
    covered = np.cumsum([counts[character] for character in frequent])
    needed = int(np.searchsorted(covered, _COVERAGE * counts.total())) + 1
    alphabet = frequent[: max(_ALPHABET, min(needed, size // 2))]
    return sorted(alphabet), sorted(continuing.intersection(alphabet))


def _word_limit(pieces: Mapping[str, int]) -> int:
    """Characters of the longest word that has to be encoded: BERT's 100, or more where over 0.05% of the text would
    be lost, as in scripts that write no spaces. Long words of ASCII are no text: addresses, numbers, encoded files."""
    fitting = (limit for limit in _WORD_LIMITS if _too_long(pieces, limit) <= 1 - _COVERAGE)
    return next(fitting, _WORD_LIMITS[-1])


def _too_long(pieces: Mapping[str, int], limit: int) -> float:
    """The share of the text's characters that is in longer words, those of ASCII left aside."""
    total = sum(len(piece) * count for piece, count in pieces.items())
    long = (len(piece) * count for piece, count in pieces.items()
            if len(piece) > limit and not piece.isascii() and piece[0].isalpha())  # fmt: skip
    return sum(long) / max(1, total)
