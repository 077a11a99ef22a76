"""What a student begins with: the layers that it learns from, or the components of its teacher's embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.distill.student import add_projections, load_beside, principal, projected, start_from_teacher
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import TRAINING_ONLY_FILE
from bertjobs.recipe.bert_config import read_model_spec
from bertjobs.recipe.distillation import Matching
from bertjobs.recipe.spec import ModelSpec
from tests.distill.conftest import TEACHER

WORDS = "bert.embeddings.word_embeddings.weight"


def matching(*layers: int, hidden: float = 1.0) -> Matching:
    return Matching(0, 1, hidden, 0, 1, layers, 4, 2)


def a_student(teacher: ModelSpec, **changes: int) -> BertForPreTraining:
    torch.manual_seed(7)
    return BertForPreTraining(replace(teacher, **changes), next_sentence=False)


def test_a_student_of_the_same_widths_begins_with_its_layers(teacher: Path) -> None:
    shape = read_model_spec(teacher)
    student = a_student(shape, num_hidden_layers=2)
    assert start_from_teacher(student, student.spec, teacher, shape, matching(1, 4)) == ()
    theirs = load_file(teacher / "model.safetensors")
    for name, tensor in student.named_parameters():
        source = name.replace("layer.1.", "layer.3.") if "layer.1." in name else name
        assert torch.equal(tensor, theirs[source]), name


@pytest.mark.parametrize("changes", [{"num_attention_heads": 8}, {"intermediate_size": 32}])
def test_a_student_as_wide_as_its_teacher_begins_with_its_embeddings(teacher: Path, changes: dict[str, int]) -> None:
    """Their hidden states are compared as they are: principal components would turn the axes."""
    shape = read_model_spec(teacher)
    student = a_student(shape, **changes)
    fresh = start_from_teacher(student, student.spec, teacher, shape, matching(1, 2, 3, 4))
    theirs = load_file(teacher / "model.safetensors")
    embeddings = {name for name in theirs if name.startswith("bert.embeddings.")}
    assert len(embeddings) == 5
    parameters = dict(student.named_parameters())
    assert all(torch.equal(parameters[name], theirs[name]) for name in embeddings)
    assert set(fresh) == parameters.keys() - embeddings


def test_a_narrower_student_begins_with_the_components_of_the_embeddings(teacher: Path, data: DataManifest) -> None:
    shape = read_model_spec(teacher)
    student = a_student(shape, hidden_size=16, num_attention_heads=2)
    add_projections(student, student.spec, shape, matching(1, 2, 3, 4))
    fresh = start_from_teacher(student, student.spec, teacher, shape, matching(1, 2, 3, 4))
    parameters = dict(student.named_parameters())
    assert "bert.encoder.layer.0.attention.self.query.weight" in fresh
    assert not [name for name in fresh if "word_embeddings" in name or name.startswith("training_only.")]
    ours, theirs = parameters[WORDS].detach(), load_file(teacher / "model.safetensors")[WORDS]
    back = ours @ parameters["training_only.embeddings.weight"].T
    lost = (theirs - back.detach()).square().sum()
    assert len(ours) == data.vocabulary_size
    singular = torch.linalg.svdvals(theirs.double())
    assert float(lost) == pytest.approx(float(singular[16:].square().sum()), rel=1e-3)  # as little as can be
    torch.testing.assert_close(projected(student, ours, 0), back)
    assert torch.equal(projected(student, ours, 2), projected(student, ours, 1))


def test_a_basis_is_orthonormal() -> None:
    basis = principal(torch.randn(50, 12), 5)
    torch.testing.assert_close(basis.T @ basis, torch.eye(5), atol=1e-5, rtol=0)


def test_a_wider_student_begins_at_random(teacher: Path) -> None:
    shape = read_model_spec(teacher)
    student = a_student(shape, hidden_size=64)
    fresh = start_from_teacher(student, student.spec, teacher, shape, matching(1, 2, 3, 4))
    assert set(fresh) == {name for name, _ in student.named_parameters()}


def test_projections_are_only_where_hidden_states_of_another_width_are_compared(teacher: Path) -> None:
    shape = read_model_spec(teacher)
    same, narrow = a_student(shape), a_student(shape, hidden_size=16, num_attention_heads=2)
    add_projections(same, same.spec, shape, matching(1, 2, 3, 4))
    add_projections(narrow, narrow.spec, shape, matching(1, 2, 3, 4, hidden=0))
    for student in (same, narrow):
        assert not [name for name, _ in student.named_parameters() if name.startswith("training_only.")]
        vectors = torch.randn(3, student.spec.hidden_size)
        assert projected(student, vectors, 1) is vectors


def test_projections_of_another_teacher_are_not_taken(teacher: Path, tmp_path: Path) -> None:
    shape = read_model_spec(teacher)
    student = a_student(shape, hidden_size=16, num_attention_heads=2)
    add_projections(student, student.spec, shape, matching(1, 2, 3, 4))
    names = ("training_only.embeddings.weight", "training_only.layers.weight")
    assert load_beside(student, tmp_path, ("cls.predictions.bias", *names)) == ("cls.predictions.bias", *names)
    stored = {names[0]: torch.ones(32, 16), names[1]: torch.ones(48, 16)}
    save_file(stored, tmp_path / TRAINING_ONLY_FILE)
    assert load_beside(student, tmp_path, names) == names[1:]
    assert torch.equal(dict(student.named_parameters())[names[0]], stored[names[0]])
    assert TEACHER.hidden_size == 32
