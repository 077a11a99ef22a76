"""Masked words: which are chosen, how they are shown, what the model predicts for them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bertjobs.data.batches.batches import token_counts
from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.errors import InputError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.report.guesses import guess
from bertjobs.report.masked_words import MaskedWord, join, readable, sentences, text, word_to_mask
from tests.report.conftest import WORDS


def test_guesses_on_a_real_model(data: DataManifest, tiny: BertForPreTraining, checkpoint: Path) -> None:
    guesses = guess(checkpoint, data, 1, count=3, top=5, seed=1)
    assert len(guesses) == 3
    assert len({one.truth for one in guesses}) == 3
    vocabulary = data.vocabulary_path.read_text(encoding="utf-8").split("\n")[:-1]
    for one in guesses:
        assert one.truth in WORDS  # not "that", "which", "have" or "alone"
        pattern = r"the \w+ of the \w+ is that which we have for our \w+, and it is not the \w+ alone\."
        assert re.fullmatch(pattern, join(one, one.truth))
        assert len(one.top) == 5
        # The same by hand: what the model predicts at the mask's place.
        words = [*re.findall(r"\w+|[.,]", one.before), "[MASK]", *re.findall(r"\w+|[.,]", one.after)]
        ids = torch.tensor([[vocabulary.index(word) for word in ("[CLS]", *words, "[SEP]")]])
        with torch.inference_mode():
            logits = tiny.logits(ids, torch.zeros_like(ids), torch.ones_like(ids))[0]
        probabilities = logits[0, words.index("[MASK]") + 1].softmax(-1)
        order = probabilities.argsort(descending=True)
        assert [token for token, _ in one.top] == [vocabulary[number] for number in order[:5]]
        assert one.top[0][1] == pytest.approx(float(probabilities.max()), abs=1e-6)
        truth = vocabulary.index(one.truth)
        assert one.rank == order.tolist().index(truth) + 1
        assert one.probability == pytest.approx(float(probabilities[truth]), abs=1e-6)


def test_the_seed_alone_decides_the_sentences(data: DataManifest, checkpoint: Path) -> None:
    assert guess(checkpoint, data, 1, seed=1) == guess(checkpoint, data, 1, seed=1)
    assert guess(checkpoint, data, 1, seed=1) != guess(checkpoint, data, 1, seed=2)


def test_the_sentences_are_held_out(data: DataManifest, checkpoint: Path) -> None:
    shards = ShardSet.load(data, 1, "validation")
    all_text = " ".join(shards.vocabulary.tokens[number] for number in original_ids(shards))
    for one in guess(checkpoint, data, 1, count=5):
        assert " ".join(re.findall(r"\w+|[.,]", join(one, one.truth))) in all_text


def test_a_checkpoint_without_the_masked_lm_head_is_refused(
    data: DataManifest, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    state = load_file(checkpoint / "model.safetensors")
    save_file(
        {name: value for name, value in state.items() if name.startswith("bert.")}, tmp_path / "model.safetensors"
    )
    with pytest.raises(InputError, match="no masked-LM head"):
        guess(tmp_path, data, 1)


def original_ids(shards: ShardSet) -> np.ndarray:
    return np.concatenate([segment for row in range(shards.rows) for segment in shards.segments(row)])


def test_static_masks_are_undone(data: DataManifest, tmp_path: Path) -> None:
    settings = data.settings
    options = PrepareOptions(
        tuple(settings["corpora"]), str(data.vocabulary_path), str(tmp_path / "static"), duplicates=1, shards=2,
        masking="static",
    )  # fmt: skip
    prepare(options, lambda *_: None)
    static = ShardSet.load(DataManifest.read(tmp_path / "static"), 1, "validation")
    assert any((shard.ids == static.vocabulary.mask_id).any() for shard in static.shards)
    original = original_ids(static)
    assert not (original == static.vocabulary.mask_id).any()
    assert np.array_equal(np.bincount(original, minlength=static.vocabulary.size), token_counts(static))
    assert np.array_equal(original, original_ids(ShardSet.load(data, 1, "validation")))


def tokens(text: str) -> list[str]:
    return text.split()


FILLER = tokens("a plain sentence of ten words that goes before this .")


def test_sentences_lie_between_two_ends() -> None:
    whole = tokens("the united states are at peace with all the world .")
    cut = tokens("rest of some earlier sentence that was cut off here .")
    assert list(sentences([*cut, *whole, *FILLER[:5]])) == [tuple(whole)]
    assert list(sentences(whole)) == []  # may have been cut off at its front


@pytest.mark.parametrize(
    "sentence",
    [
        "too short a sentence .",
        " ".join(["long"] * 30) + " .",
        "in the year 1898 the war with spain came to its end .",
        "the word [UNK] is not one that anybody can read or guess .",
        'he said " never " and went away from all of them again .',
    ],
)
def test_unreadable_sentences_are_skipped(sentence: str) -> None:
    assert list(sentences([*FILLER, *tokens(sentence)])) == []


def test_an_abbreviation_does_not_end_a_sentence() -> None:
    sentence = tokens("we thank mr . adams for what he has done for the country .")
    assert list(sentences([*FILLER, *sentence])) == [tuple(sentence)]


def test_the_rarest_learnable_whole_word_is_masked() -> None:
    sentence = tokens("the com ##merce of our treasury with that treaty and treaty law rose ##s .")
    shares = {
        "the": 0.07, "of": 0.04, "our": 0.01, "with": 0.006, "that": 0.01, "and": 0.05, "treasury": 0.001,
        "treaty": 0.0005, "law": 0.0004, "rose": 0.0003, "com": 0.0003,
    }  # fmt: skip
    # Not treaty (it occurs twice), law (too short), com and rose (a piece follows).
    assert sentence[word_to_mask(sentence, shares) or 0] == "treasury"
    assert sentence[word_to_mask(sentence, {**shares, "treasury": 0.00001}) or 0] == "with"  # hardly ever seen
    assert word_to_mask(tokens("of our law and the sea ."), shares) is None


@pytest.mark.parametrize(
    ("joined", "expected"),
    [
        ("com ##mer ##ce , and peace .", "commerce, and peace."),
        ("don ' t give up the nation ' s well - being", "don't give up the nation's well-being"),
        ("the nations ' rights : both", "the nations' rights: both"),
        ("", ""),
    ],
)
def test_tokens_read_as_text(joined: str, expected: str) -> None:
    assert readable(tokens(joined)) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("so much for", "and for peace.", "so much for war and for peace."),
        ("so much for", ", and peace.", "so much for war, and peace."),
        ("", "is over.", "war is over."),
        ("post-", "", "post-war"),
    ],
)
def test_the_mask_is_spaced_in_the_sentence_like_a_word(before: str, after: str, expected: str) -> None:
    assert join(MaskedWord(before, after, "war", 0.5, 1, ()), "war") == expected


def test_the_text_fits_the_terminal() -> None:
    one = MaskedWord("word " * 30, "more " * 20, "truth", 0.0001, 1234, (("first", 0.5), ("second", 0.25)))
    shown = text([one, replace(one, truth="other")])
    assert max(map(len, shown.splitlines())) <= 100
    assert "truth:   truth (rank 1,234, <0.1%)" in shown
    assert "guesses: first 50.0%, second 25.0%" in shown
    assert "[____]" in shown
