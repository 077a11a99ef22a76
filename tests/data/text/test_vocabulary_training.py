"""Training a vocabulary: the same each time, no [UNK] in any script, its normalisation written beside it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertTokenizer, BertTokenizerFast

from bertjobs.data.text import vocabulary_training as module
from bertjobs.data.text.vocabulary import SPECIAL_TOKENS, Vocabulary
from bertjobs.data.text.vocabulary_choice import choose_vocabulary
from bertjobs.data.text.vocabulary_training import train_vocabulary
from bertjobs.errors import InputError
from tests.data.text.scripts import TEXTS, VOWELS_ARE_MARKS

FILES = {"vocab.txt", "tokenizer.json", "tokenizer_config.json"}


def _encode(vocabulary: Vocabulary, text: str) -> list[int]:
    return vocabulary.encoder().encode([text])[0].tolist()


def _reference(path: Path, lowercase: bool, text: str) -> list[int]:
    tokenizer = BertTokenizerFast(vocab=str(path), do_lower_case=lowercase)
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_a_trained_vocabulary_is_reproducible_and_begins_with_the_special_tokens(
    corpus: Path, vocabulary: Vocabulary, vocabulary_path: Path, tmp_path: Path
) -> None:
    train_vocabulary([f"text:{corpus}"], 500, True, tmp_path / "vocab.txt")
    assert (tmp_path / "vocab.txt").read_bytes() == vocabulary_path.read_bytes()
    assert vocabulary.tokens[:5] == SPECIAL_TOKENS
    assert vocabulary.sha256 == hashlib.sha256(vocabulary_path.read_bytes()).hexdigest()
    assert vocabulary.size <= 500
    assert vocabulary.lowercase
    assert {file.name for file in tmp_path.iterdir()} == FILES


def test_a_cased_vocabulary_keeps_case(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    train_vocabulary([f"text:{corpus}"], 500, False, path)
    cased = Vocabulary.read(path)
    assert not cased.lowercase
    assert _encode(cased, "Zürich") == _reference(path, False, "Zürich")


def test_training_refuses_what_it_cannot_do(corpus: Path, vocabulary_path: Path, tmp_path: Path) -> None:
    source = [f"text:{corpus}"]
    for size, output, says in (
        (5, tmp_path / "new.txt", "too small"),
        (100, vocabulary_path, "exists"),
        (100, vocabulary_path / "vocab.txt", "cannot write"),
        (100, tmp_path / "new/tokenizer.json", f"--output {tmp_path}/new/vocab.txt"),
    ):
        with pytest.raises(InputError) as caught:
            train_vocabulary(source, size, True, output)
        assert says in str(caught.value)
    assert not (tmp_path / "new").exists()


SCRIPTS = {
    "Cyrillic": "мир народ правительство закон свобода Республика Ёлка хлеб",
    "Chinese": "中華人民共和國 漢字，新聞。 今天天氣很好 學校 中文",  # noqa: RUF001
    "Arabic": "السلام عليكم كِتَابٌ الكتاب مدرسة شمس قمر ٣٤",
    "German": "Straße Bürger Übermut größer Öl Haus Häuser",
}


@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_other_scripts_are_trained_the_same_each_time_and_encoded_without_unknowns(
    tmp_path: Path, script: str, lowercase: bool
) -> None:
    words = SCRIPTS[script].split()
    (tmp_path / "a.txt").write_text(" ".join(words[i * i % len(words)] + words[i % 3] for i in range(600)), "utf-8")
    source = [f"text:{tmp_path}"]
    paths = [tmp_path / f"vocab-{number}" for number in range(3)]
    for path in paths:
        train_vocabulary(source, 120, lowercase, path)
    assert len({path.read_bytes() for path in paths}) == 1
    vocabulary = Vocabulary.read(paths[0], lowercase)
    text = (tmp_path / "a.txt").read_text("utf-8")
    ids = _encode(vocabulary, text)
    assert vocabulary.unk_id not in ids
    assert ids == _reference(paths[0], lowercase, text)
    assert len(ids) < len(text.replace(" ", "")) or script == "Chinese", "only ideographs stay alone"


def test_training_in_another_process_gives_the_same_bytes(corpus: Path, vocabulary_path: Path, tmp_path: Path) -> None:
    code = "import sys; from bertjobs.data.text.vocabulary_training import train_vocabulary as train; "
    code += "train([sys.argv[1]], 500, True, sys.argv[2])"
    path = tmp_path / "vocab.txt"
    subprocess.run([sys.executable, "-c", code, f"text:{corpus}", path], check=True, env={"PYTHONHASHSEED": "77"})
    assert path.read_bytes() == vocabulary_path.read_bytes()


def test_rare_words_are_dropped_when_there_are_too_many(
    corpus: Path, vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COUNTED_WORDS", 60)
    train_vocabulary([f"text:{corpus}"], 500, True, tmp_path / "vocab.txt")
    tokens = Vocabulary.read(tmp_path / "vocab.txt").tokens
    assert len(tokens) < vocabulary.size
    assert {"the", "congress", "peace"} <= set(tokens)


def test_more_than_a_thousand_characters_are_kept_if_the_text_needs_them(tmp_path: Path) -> None:
    ideographs = [chr(0x4E00 + number) for number in range(1500)]
    (tmp_path / "a.txt").write_text(" ".join(ideographs * 3), "utf-8")
    for size, kept in ((4000, 1500), (2200, 1100), (1100, 1000)):
        path = tmp_path / f"vocab-{size}"
        train_vocabulary([f"text:{tmp_path}"], size, True, path)
        assert len(set(Vocabulary.read(path).tokens) & set(ideographs)) == kept


def _corpus(folder: Path, text: str, times: int = 30) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text("\n\n".join([text] * times), encoding="utf-8")
    return [f"text:{folder}"]


@pytest.mark.parametrize("language", TEXTS)
def test_accents_are_stripped_unless_they_are_vowels_or_tones(tmp_path: Path, language: str) -> None:
    path = tmp_path / "made" / "vocab.txt"
    notes = train_vocabulary(_corpus(tmp_path / "text", TEXTS[language]), 600, True, path)
    vocabulary = choose_vocabulary(path).vocabulary
    kept = language in VOWELS_ARE_MARKS
    assert vocabulary.normalisation.strip_accents == (not kept)
    assert any(note.startswith("accents are kept") for note in notes) == kept
    assert vocabulary.unk_id not in _encode(vocabulary, TEXTS[language])
    joined = "".join(vocabulary.tokens[number].removeprefix("##") for number in _encode(vocabulary, TEXTS[language]))
    lower = "".join(TEXTS[language].lower().split())
    assert (joined == lower) == (kept or language in ("Chinese", "Amharic")), "nothing is lost where marks are kept"


@pytest.mark.parametrize(
    ("text", "cased", "wish", "strips", "says"),
    [
        (TEXTS["Hindi"], False, None, False, "accents are kept: 1,020 of 4,650 characters are or hold vowel signs"),
        (TEXTS["Hindi"], False, True, True, ""),
        (TEXTS["Hindi"], False, False, False, ""),
        (TEXTS["Hindi"], True, None, False, ""),
        (TEXTS["Hindi"], True, True, True, ""),
        (TEXTS["German"], False, None, True, "accents are stripped, as BERT does: 90 of 2,280 characters lose one"),
        (TEXTS["English"], False, None, True, "such as 'ï'. --strip-accents no keeps them"),
        ("peace and war. " * 2000 + "हिन्दी", False, None, True, "stripped with the accents: 30 of 720,180 characters"),
        ("peace and war. " * 100, False, None, True, ""),
    ],
)
def test_what_the_text_loses_is_said_unless_it_was_asked_for(
    tmp_path: Path, text: str, cased: bool, wish: bool | None, strips: bool, says: str
) -> None:
    path = tmp_path / "made" / "vocab.txt"
    notes = train_vocabulary(_corpus(tmp_path / "text", text), 600, not cased, path, wish)
    assert len(notes) == bool(says)
    assert says in "".join(notes)
    assert choose_vocabulary(path).vocabulary.normalisation.strip_accents == strips


@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize("wish", [None, False, True])
def test_hugging_face_reads_the_folder_as_we_do(tmp_path: Path, cased: bool, wish: bool | None) -> None:
    text = " ".join(TEXTS.values())
    train_vocabulary(_corpus(tmp_path / "text", text), 1500, not cased, tmp_path / "made" / "vocab.txt", wish)
    chosen = choose_vocabulary(tmp_path / "made" / "vocab.txt")
    assert chosen.notes == (), "nothing is guessed, and no token is impossible"
    ids = _encode(chosen.vocabulary, text)
    for kind in (AutoTokenizer, BertTokenizer, BertTokenizerFast):
        theirs = kind.from_pretrained(tmp_path / "made")
        assert theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids
        assert type(theirs) is BertTokenizer
    config = json.loads((tmp_path / "made" / "tokenizer_config.json").read_text())
    assert config["do_lower_case"] is not cased
    assert config["tokenize_chinese_chars"] is True


@pytest.mark.parametrize("language", ["Thai", "Khmer", "Burmese"])
def test_words_of_scripts_without_spaces_are_encoded_however_long_they_are(tmp_path: Path, language: str) -> None:
    one = "".join(TEXTS[language].replace("။", "").replace("។", "").replace("၊", "").split())
    text = f"{TEXTS[language]} {one} {one[: len(one) // 2]}"
    assert len(one) > 100
    path = tmp_path / "made" / "vocab.txt"
    notes = train_vocabulary(_corpus(tmp_path / "text", text), 400, True, path)
    assert any("words of up to" in note for note in notes)
    vocabulary = choose_vocabulary(path).vocabulary
    ids = _encode(vocabulary, text)
    assert vocabulary.unk_id not in ids
    by_name = BertTokenizer.from_pretrained(path.parent)(text, add_special_tokens=False)["input_ids"]
    assert by_name.count(vocabulary.unk_id) == sum(len(word) > 100 for word in text.split())
    loaded = AutoTokenizer.from_pretrained(path.parent)
    assert loaded(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids
    vocabulary.write(tmp_path)
    assert _encode(Vocabulary.of_folder(tmp_path), text) == ids


@pytest.mark.parametrize("text", ["A" * 300, "é" + "x" * 90, "░" * 300])
def test_long_words_that_are_not_text_do_not_change_the_limit(tmp_path: Path, text: str) -> None:
    path = tmp_path / "made" / "vocab.txt"
    train_vocabulary(_corpus(tmp_path / "text", f"peace and war {text}"), 200, True, path)
    assert choose_vocabulary(path).vocabulary.tokenizer_file is None


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_file_is_overwritten(corpus: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="exists"):
        train_vocabulary([f"text:{corpus}"], 500, True, tmp_path / "vocab.txt")
    assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_vocabularies_of_other_names_share_a_folder(corpus: Path, tmp_path: Path) -> None:
    for name, lowercase in (("one.txt", True), ("two", False)):
        train_vocabulary([f"text:{corpus}"], 500, lowercase, tmp_path / name)
        chosen = choose_vocabulary(tmp_path / name)
        assert (chosen.vocabulary.lowercase, chosen.notes) == (lowercase, ())
    made = {"one.txt", "one.tokenizer.json", "one.tokenizer_config.json",
            "two", "two.tokenizer.json", "two.tokenizer_config.json"}  # fmt: skip
    assert {file.name for file in tmp_path.iterdir()} == made


def test_the_share_of_text_in_words_above_the_last_limit_is_said(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(f"{'กข' * 1000} {'กข ' * 500}", encoding="utf-8")
    notes = train_vocabulary([f"text:{tmp_path / 'long.txt'}"], 100, True, tmp_path / "vocab.txt")
    assert any(note.startswith("66.7% of the text's characters are in words of over 1,600 char") for note in notes)
