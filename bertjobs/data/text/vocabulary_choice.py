"""The vocabulary that a person names. How its text is normalised is in the files beside it, in flags, or guessed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bertjobs.data.text.normalisation import CONFIG_FILE, Normalisation, read_config
from bertjobs.data.text.normalisation_guess import VocabularyCounts, impossible_tokens, some_of
from bertjobs.data.text.vocabulary import SPECIAL_TOKENS, TOKENIZER_FILE, Vocabulary, beside, check_lines
from bertjobs.errors import InputError
from bertjobs.files.reading import read_json


@dataclass(frozen=True)
class Wishes:
    """What flags say about a vocabulary's text; None is left open."""

    lowercase: bool | None = None
    strip_accents: bool | None = None

    @classmethod
    def of_flags(cls, cased: bool, uncased: bool, strip_accents: str) -> Wishes:
        """Of ``--cased``, ``--uncased`` and ``--strip-accents yes|no`` ("": not given).

        Raises:
            InputError: the first two are both given, or the third is neither yes nor no.
        """
        if cased and uncased:
            raise InputError("a vocabulary is cased or uncased, not both", where="--cased, --uncased")
        if strip_accents not in ("", "yes", "no"):
            raise InputError(f"{strip_accents!r} is not yes or no", where="--strip-accents")
        return cls(uncased if cased or uncased else None, strip_accents == "yes" if strip_accents else None)


NO_WISHES = Wishes()


@dataclass(frozen=True)
class ChosenVocabulary:
    """A vocabulary with its normalisation settled, and what a person should know about it, a line each."""

    vocabulary: Vocabulary
    notes: tuple[str, ...]


def choose_vocabulary(path: Path | str, wishes: Wishes = NO_WISHES) -> ChosenVocabulary:
    """Read a vocabulary and settle how text is normalised for it.

    What tokenizer.json or tokenizer_config.json beside a vocab.txt states counts, then the flags, then the tokens.

    Raises:
        InputError: as ``Vocabulary.read``; lines of a vocab.txt that cannot be tokens; files or flags that contradict
            each other; tokens that do not show how text was normalised.
    """
    path = Path(path)
    if path.suffix == ".json":
        vocabulary = Vocabulary.read(path)
        _check_wishes(wishes, vocabulary.normalisation, path)
        return ChosenVocabulary(vocabulary, tuple(_impossible(vocabulary)))
    vocabulary = Vocabulary.read(path, lowercase=True)
    check_lines(vocabulary.tokens, str(path))
    written, where = _written(vocabulary, path)
    if written is not None:
        _check_wishes(wishes, written.normalisation, where)
        return ChosenVocabulary(written, tuple(_impossible(written)))
    normalisation, guess = _settle(vocabulary, wishes, path)
    settled = replace(vocabulary, normalisation=normalisation)
    return ChosenVocabulary(settled, (*guess, *_impossible(settled)))


def _written(vocabulary: Vocabulary, path: Path) -> tuple[Vocabulary | None, Path]:
    """The vocabulary as the files beside it state it, and the file; None where they state nothing.

    Raises:
        InputError: they contradict each other.
    """
    config_path, tokenizer_path = beside(path, CONFIG_FILE), beside(path, TOKENIZER_FILE)
    config = read_config(config_path)
    plain = read_json(tokenizer_path, partial(_plain, vocabulary.tokens))
    if plain is None:
        if whole := vocabulary.tokenizer_beside(tokenizer_path):
            return whole, tokenizer_path
        return (replace(vocabulary, normalisation=config), config_path) if config else (None, path)
    if config not in (None, plain):
        raise InputError(
            f"{tokenizer_path.name} says that text is {plain}, but {config_path.name} says {config}",
            where=str(path.parent),
            hint="remove the one that is wrong, or give tokenizer.json itself as --vocab",
        )
    return replace(vocabulary, normalisation=plain), tokenizer_path


def _plain(tokens: Sequence[str], content: Any) -> Normalisation | None:
    """The normalisation of a tokenizer.json that says no more than it and vocab.txt do; None if it says more.

    Looked up in the JSON: the library takes a fifth of a second for it.
    """
    match content:
        case {
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": bool(ideographs),
                "strip_accents": bool() | None as strip_accents,
                "lowercase": bool(lowercase),
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "vocab": dict(ids),
                "max_input_chars_per_word": 100,
            },
            "added_tokens": list(added),
        } if ids == dict(zip(tokens, range(len(tokens)), strict=True)) and all(_is_special(one) for one in added):
            return Normalisation.berts(lowercase, strip_accents, ideographs)
    return None


def _is_special(added: Any) -> bool:
    """Whether an added token is one of BERT's, which text never becomes."""
    return isinstance(added, dict) and added.get("content") in SPECIAL_TOKENS and added.get("special") is True


def _check_wishes(wishes: Wishes, written: Normalisation, where: Path) -> None:
    """InputError if a flag contradicts what is written."""
    for flag, wish, stated, words in (
        ("--cased, --uncased", wishes.lowercase, written.lowercase, ("keeps capitals", "lowercases text")),
        ("--strip-accents", wishes.strip_accents, written.strip_accents, ("keeps accents", "strips accents")),
    ):
        if wish not in (None, stated):
            raise InputError(
                f"the vocabulary's tokenizer {words[stated]}, the flag says otherwise",
                where=f"{flag}, {where}",
                hint="leave the flag out: a vocabulary is used as it was made; another one: `bertjobs data vocab`",
            )


def _settle(vocabulary: Vocabulary, wishes: Wishes, path: Path) -> tuple[Normalisation, list[str]]:
    """What the flags say and, where they are silent, the tokens; and in words what was guessed.

    Raises:
        InputError: the tokens do not show it.
    """
    evidence = VocabularyCounts.of(vocabulary.tokens)
    guesses, flags = [], []
    lowercase, strip_accents = wishes.lowercase, wishes.strip_accents
    if lowercase is None:
        lowercase = evidence.lowercase
        if lowercase is None:
            raise InputError(
                f"nothing says whether the vocabulary is cased: {evidence.words_on_capitals}",
                where=str(path),
                hint="give --cased or --uncased",
            )
        guesses.append(f"{'uncased' if lowercase else 'cased'} ({evidence.words_on_capitals})")
        flags.append("--cased" if lowercase else "--uncased")
    if strip_accents is None:
        strip_accents = evidence.strip_accents if lowercase else False
        if strip_accents is None:
            raise InputError(
                f"nothing says whether accents are stripped: {evidence.words_on_accents}",
                where=str(path),
                hint="give --strip-accents yes or --strip-accents no",
            )
        if lowercase:
            guesses.append(f"with accents {'stripped' if strip_accents else 'kept'} ({evidence.words_on_accents})")
            flags.append(f"--strip-accents {'no' if strip_accents else 'yes'}")
    normalisation = Normalisation(lowercase, strip_accents)
    if not guesses:
        return normalisation, []
    silent = f"there is no {beside(path, CONFIG_FILE).name} that states it"
    guess = f"guessed: {path.name} is {', '.join(guesses)}; {silent}. If that is wrong: {' or '.join(flags)}"
    return normalisation, [guess]


def _impossible(vocabulary: Vocabulary) -> Iterator[str]:
    """A line on tokens that never occur."""
    normalisation = vocabulary.normalisation
    if dead := impossible_tokens(vocabulary.tokens, normalisation):
        does = [word for word, done in (("lowercased", normalisation.lowercase),
                                        ("stripped of accents", normalisation.strip_accents)) if done]  # fmt: skip
        yield (f"{len(dead):,} of {vocabulary.size:,} tokens can never occur, because text is {' and '.join(does)}: "
               f"{some_of(dead)}")  # fmt: skip
