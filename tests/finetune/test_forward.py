"""The loss of a pack is that of Hugging Face's classes on the same sequences, padded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from bertjobs.finetune.batches import make_batch
from bertjobs.finetune.outputs import TILE, outputs_of, recurring
from bertjobs.recipe.bert_config import config_from_model_spec
from bertjobs.tasks.rows import Head, Row
from tests.finetune.nano import HEADS, NANO, made_rows, nano_forward, written

PROBLEMS = {"class": "single_label_classification", "number": "regression", "several": "multi_label_classification"}


def their_loss(model: torch.nn.Module, rows: list[Row], head: Head) -> torch.Tensor:
    """The mean loss of Hugging Face's model; for spans row by row, as its softmax takes padding for candidates."""
    if head.kind == "span" and len(rows) > 1:
        return torch.stack([their_loss(model, [row], head) for row in rows]).mean()
    width = max(len(row.ids) for row in rows)

    def padded(values: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([value + [filler] * (width - len(value)) for value in values])

    inputs = {
        "input_ids": padded([list(row.ids) for row in rows], 0),
        "token_type_ids": padded([[int(place >= row.second) for place in range(len(row.ids))] for row in rows], 0),
        "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
    }
    if head.kind == "span":
        firsts, lasts = (torch.tensor([int(row.target[side]) for row in rows]) for side in (0, 1))
        return model(**inputs, start_positions=firsts, end_positions=lasts).loss
    if head.kind == "token":
        tags = [[-100] * len(row.ids) for row in rows]
        for tags_of_row, row in zip(tags, rows, strict=True):
            for place, tag in zip(row.read, row.target, strict=True):
                tags_of_row[place] = int(tag) if tag >= 0 else -100
        return model(**inputs, labels=padded(tags, -100)).loss
    targets = torch.tensor([list(row.target) for row in rows])
    return model(**inputs, labels=targets[:, 0].long() if head.loss == "cross_entropy" else targets.float()).loss


@pytest.mark.parametrize("name", HEADS)
def test_loss_and_gradients_are_hugging_faces(tmp_path: Path, name: str) -> None:
    head = HEADS[name]
    rows = made_rows(head, 7)
    forward = nano_forward(head)
    config = config_from_model_spec(NANO) | {"num_labels": head.outputs, "problem_type": PROBLEMS.get(name)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = getattr(transformers, head.architecture)(transformers.BertConfig.from_json_file(tmp_path / "config.json"))
    theirs.load_state_dict(forward.model.state_dict(), strict=True)
    theirs.train()

    batch = make_batch(written(tmp_path / "split", rows), np.arange(len(rows)), head)
    (term,) = forward(batch)
    loss, expected = term.loss_sum / term.count, their_loss(theirs, rows, head)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    expected.backward()
    gradients = dict(theirs.named_parameters())
    for parameter_name, parameter in forward.model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[parameter_name].grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_sums_do_not_depend_on_how_rows_are_packed(tmp_path: Path, name: str) -> None:
    head = HEADS[name]
    split = written(tmp_path / "split", made_rows(head, 9))
    forward = nano_forward(head)
    (whole,) = forward(make_batch(split, np.arange(9), head))
    parts = [forward(make_batch(split, rows, head))[0] for rows in (np.arange(4), np.arange(4, 9))]
    torch.testing.assert_close(whole.loss_sum, parts[0].loss_sum + parts[1].loss_sum)
    assert int(whole.count) == sum(int(part.count) for part in parts)
    assert float(whole.score_sums[0]) == pytest.approx(sum(float(part.score_sums[0]) for part in parts))


@pytest.mark.parametrize("name", HEADS)
def test_a_rank_without_sequences_gives_every_parameter_a_gradient_of_zero(tmp_path: Path, name: str) -> None:
    head = HEADS[name]
    forward = nano_forward(head)
    split = written(tmp_path / "split", made_rows(head, 2))
    (term,) = forward(make_batch(split, np.zeros(0, dtype=np.int64), head))
    term.loss_sum.backward()
    assert int(term.count) == 0
    assert all(not parameter.grad.any() for parameter in forward.model.parameters() if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in forward.model.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_tokens_of_no_sequence_change_no_output(tmp_path: Path, name: str) -> None:
    head = HEADS[name]
    rows = made_rows(head, 7)
    batch, forward = make_batch(written(tmp_path / "split", rows), np.arange(len(rows)), head), nano_forward(head)
    filled = batch.filled(TILE)
    assert len(filled.input_ids) % TILE == 0 < len(filled.input_ids) - len(batch.input_ids)
    torch.testing.assert_close(forward.outputs(filled), forward.outputs(batch), rtol=1e-5, atol=1e-5)


def test_in_16_bits_few_numbers_of_tokens_are_computed(tmp_path: Path) -> None:
    head, cpu = HEADS["class"], torch.device("cpu")
    split = written(tmp_path / "split", made_rows(head, 30))
    batches = [make_batch(split, np.arange(last), head) for last in range(1, 31)]
    assert {len(recurring(batch, "bf16", cpu).input_ids) % TILE for batch in batches} == {0}
    assert all(recurring(batch, "fp32", cpu) is batch for batch in batches)
    assert all(recurring(batch, "bf16", torch.device("cuda")) is batch for batch in batches)
    seen: list[int] = []
    forward = nano_forward(head)
    exact = outputs_of(forward, split, precision="fp32", budget=100)
    computed = outputs_of(
        forward, split, precision="bf16", budget=100, each=lambda one, _: seen.append(len(one.input_ids))
    )
    np.testing.assert_allclose(computed, exact, atol=0.02)
    assert len(seen) > 5
    assert set(seen) <= {TILE, 2 * TILE}
