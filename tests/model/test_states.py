"""A model's inside on a pack: Hugging Face's hidden states, and the vectors that attention reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from bertjobs.finetune.batches import TaskBatch, make_batch
from bertjobs.finetune.model import BertForTask
from bertjobs.model.attention import per_sequence
from bertjobs.model.packed import encode, rows_read
from bertjobs.model.states import states_of
from bertjobs.recipe.bert_config import config_from_model_spec
from tests.finetune.nano import HEADS, NANO, made_rows, written


@pytest.fixture
def pack(tmp_path: Path) -> TaskBatch:
    rows = made_rows(HEADS["class"], 4)
    return make_batch(written(tmp_path / "split", rows), np.arange(4), HEADS["class"])


def a_model(**changes: float) -> BertForTask:
    torch.manual_seed(0)
    return BertForTask(replace(NANO, initializer_range=0.3, **changes), HEADS["class"])


def test_hidden_states_are_hugging_faces(pack: TaskBatch) -> None:
    model = a_model().eval()
    theirs = transformers.BertModel(transformers.BertConfig(**config_from_model_spec(model.spec)), False).eval()
    theirs.load_state_dict({name.removeprefix("bert."): p for name, p in model.named_parameters() if "bert." in name},
                           strict=False)  # fmt: skip
    states = states_of(model.bert, pack, per_sequence, (0, 1, 2))
    ends = pack.cumulative_lengths.tolist()
    for first, last in zip(ends, ends[1:], strict=False):  # noqa: RUF007
        rows = slice(first, last)
        inputs = {"input_ids": pack.input_ids[None, rows], "token_type_ids": pack.token_type_ids[None, rows]}
        expected = theirs(**inputs, output_hidden_states=True).hidden_states
        for layer, hidden in enumerate(expected):
            torch.testing.assert_close(states.hidden[layer][rows], hidden[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(states.last, states.hidden[2])


def test_attention_reads_projections_of_the_layer_below(pack: TaskBatch) -> None:
    model = a_model().eval()
    states = states_of(model.bert, pack, per_sequence, (1,), attended=2)
    attention = model.bert.encoder.layer[1].attention.self  # type: ignore[union-attr]
    for vectors, linear in zip(states.attended, (attention.query, attention.key, attention.value), strict=True):
        torch.testing.assert_close(vectors, linear(states.hidden[1]))
    assert set(states.hidden) == {1}


def test_the_last_layer_is_that_of_the_usual_pass(pack: TaskBatch) -> None:
    model = a_model(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1).eval()
    states = states_of(model.bert, pack, per_sequence, ())
    torch.testing.assert_close(
        states.last.index_select(0, pack.read), encode(model.bert, pack, rows_read(pack, pack.read), per_sequence)
    )


def test_recomputing_layers_gives_the_same_gradients(pack: TaskBatch) -> None:
    gradients = []
    for recompute in (False, True):
        model = a_model(hidden_dropout_prob=0.1)
        model.bert.encoder.activation_checkpointing = recompute
        torch.manual_seed(3)
        states = states_of(model.bert, pack, per_sequence, (1,), attended=2)
        sum(vectors.square().sum() for vectors in (*states.attended, *states.hidden.values(), states.last)).backward()
        gradients.append({name: p.grad for name, p in model.bert.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])
