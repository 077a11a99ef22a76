"""Distances from a teacher: zero where both are the same, the same however sequences are packed, and as defined."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bertjobs.distill.losses import divergence, relation_divergence, squared_error, task_divergence
from bertjobs.finetune.batches import TaskBatch, make_batch
from bertjobs.tasks.rows import NOT_SCORED
from tests.finetune.nano import HEADS, made_rows, written


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_squared_error_is_a_mean_over_the_width_summed_over_rows() -> None:
    ours, theirs = drawn(7, 12), drawn(7, 12, seed=1)
    torch.testing.assert_close(squared_error(ours, theirs), 7 * F.mse_loss(ours, theirs))
    assert squared_error(ours, ours) == 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_divergence_is_that_of_softened_probabilities(temperature: float) -> None:
    ours, theirs = drawn(5, 9) * 3, drawn(5, 9, seed=1) * 3
    p, q = ((logits / temperature).softmax(1) for logits in (theirs, ours))
    expected = (p * (p / q).log()).sum() * temperature**2
    torch.testing.assert_close(divergence(ours, theirs, temperature), expected, rtol=1e-4, atol=1e-5)
    assert divergence(ours, ours, temperature) == 0


def test_the_gradient_of_a_divergence_hardly_depends_on_the_temperature() -> None:
    ours, theirs = drawn(5, 9).requires_grad_(), drawn(5, 9, seed=1)
    norms = [
        float(torch.autograd.grad(divergence(ours, theirs, temperature), ours)[0].norm()) for temperature in (4.0, 40.0)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.3)


def relations_by_hand(ours: list[Tensor], theirs: list[Tensor], lengths: list[int], heads: int) -> float:
    """Sequence by sequence, head by head."""
    total, first = 0.0, 0
    for length in lengths:
        for mine, its in zip(ours, theirs, strict=True):
            for head in range(heads):
                logs = []
                for vectors in (mine, its):
                    size = vectors.shape[1] // heads
                    part = vectors[first : first + length, head * size : (head + 1) * size].double()
                    logs.append((part @ part.T / math.sqrt(size)).log_softmax(1))
                total += float((logs[1].exp() * (logs[1] - logs[0])).sum())
        first += length
    return total / heads / len(ours)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_relations_are_those_of_each_sequence_by_itself(lengths: list[int], heads: int, tail: int) -> None:
    rows = sum(lengths) + tail  # what comes after the sequences does not count
    ours, theirs = ([drawn(rows, width, seed=seed + width) for seed in range(3)] for width in (8, 12))
    apart = relation_divergence(ours, theirs, np.array(lengths), heads)
    assert float(apart) == pytest.approx(relations_by_hand(ours, theirs, lengths, heads), rel=1e-3, abs=1e-5)
    assert relation_divergence(ours, ours, np.array(lengths), heads) == 0


def test_relations_of_many_sequences_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.array([3, 8, 1, 5, 8])
    ours, theirs = ([drawn(25, 8, seed=seed) for seed in seeds] for seeds in ((0, 1, 2), (3, 4, 5)))
    whole = relation_divergence(ours, theirs, lengths, 2)
    monkeypatch.setattr("bertjobs.distill.losses.CHUNK", 130)
    torch.testing.assert_close(relation_divergence(ours, theirs, lengths, 2), whole)


def test_relations_of_nothing_are_nothing() -> None:
    vectors = [drawn(4, 8)] * 3
    assert relation_divergence(vectors, vectors, np.zeros(0, dtype=np.int64), 2) == 0


def a_batch(folder: Path, name: str) -> TaskBatch:
    head = HEADS[name]
    folder.mkdir(exist_ok=True)
    return make_batch(written(folder / "split", made_rows(head, 6)), np.arange(6), head)


def outputs_for(batch: TaskBatch, name: str, seed: int) -> Tensor:
    return drawn(len(batch.read), HEADS[name].outputs, seed=seed) * 3


@pytest.mark.parametrize("name", HEADS)
def test_a_student_that_says_the_same_is_nowhere_apart(tmp_path: Path, name: str) -> None:
    batch = a_batch(tmp_path, name)
    outputs = outputs_for(batch, name, 1)
    assert task_divergence(outputs, outputs, batch, HEADS[name], 2.0) == 0
    assert task_divergence(outputs, outputs_for(batch, name, 2), batch, HEADS[name], 2.0) > 0.1


def test_classes_diverge_by_example_and_tags_by_labelled_word(tmp_path: Path) -> None:
    batch = a_batch(tmp_path, "class")
    ours, theirs = (outputs_for(batch, "class", seed) for seed in (1, 2))
    torch.testing.assert_close(task_divergence(ours, theirs, batch, HEADS["class"], 2.0), divergence(ours, theirs, 2.0))
    batch = a_batch(tmp_path / "tags", "token")
    ours, theirs = (outputs_for(batch, "token", seed) for seed in (1, 2))
    scored = batch.targets != NOT_SCORED
    assert 0 < int(scored.sum()) < len(scored)
    torch.testing.assert_close(
        task_divergence(ours, theirs, batch, HEADS["token"], 1.0), divergence(ours[scored], theirs[scored], 1.0)
    )


def test_numbers_are_apart_by_their_squares_and_labels_each_by_itself(tmp_path: Path) -> None:
    batch = a_batch(tmp_path, "number")
    ours, theirs = (outputs_for(batch, "number", seed) for seed in (1, 2))
    torch.testing.assert_close(
        task_divergence(ours, theirs, batch, HEADS["number"], 2.0), (ours - theirs).square().sum()
    )
    batch = a_batch(tmp_path / "several", "several")
    ours, theirs = (outputs_for(batch, "several", seed) for seed in (1, 2))
    both = [torch.stack([logits, torch.zeros_like(logits)], -1) for logits in (ours, theirs)]  # sigmoid as softmax
    torch.testing.assert_close(
        task_divergence(ours, theirs, batch, HEADS["several"], 3.0), divergence(*both, 3.0) / 4, rtol=1e-4, atol=1e-5
    )


def test_answers_diverge_by_the_places_of_their_ends(tmp_path: Path) -> None:
    batch = a_batch(tmp_path, "span")
    ours, theirs = (outputs_for(batch, "span", seed) for seed in (1, 2))
    expected, first = 0.0, 0
    for length in batch.lengths.tolist():
        rows = slice(first, first + length)
        expected += sum(float(divergence(ours[rows, side], theirs[rows, side], 2.0)) for side in (0, 1)) / 2
        first += length
    assert float(task_divergence(ours, theirs, batch, HEADS["span"], 2.0)) == pytest.approx(expected, rel=1e-4)
