"""Which of the teacher's layers a student learns from, its shape, and what is refused before anything is read."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.distillation import check_taught, matched_layers, matching_of, relation_heads, student_shape
from bertjobs.recipe.lockfile import recipe_hash
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import ModelSpec, RunSpec

BASE = ModelSpec("base", 768, 12, 12, 3072, vocab_size=30522)
MINILM = ModelSpec("minilm", 384, 6, 12, 1536, vocab_size=30522)


def run(recipe: str = "distill", *sets: str) -> RunSpec:
    return resolve(load_catalogue([builtin_file()]), flags={"recipe": recipe}, environ={}, sets=sets).spec


@given(st.integers(1, 60), st.integers(0, 60))
def test_uniform_layers_ascend_to_the_last(students: int, more: int) -> None:
    teachers = students + more
    layers = matched_layers(students, teachers)
    assert len(layers) == students
    assert layers[0] >= 1
    assert layers[-1] == teachers
    assert all(0 < later - earlier <= teachers // students + 1 for earlier, later in pairwise((0, *layers)))


@given(st.integers(1, 40))
def test_a_student_as_deep_as_its_teacher_learns_from_every_layer(depth: int) -> None:
    assert matched_layers(depth, depth) == tuple(range(1, depth + 1))


@given(st.data())
def test_given_layers_are_taken_as_they_are(data: st.DataObject) -> None:
    teachers = data.draw(st.integers(1, 30))
    layers = sorted(data.draw(st.sets(st.integers(1, teachers), min_size=1)))
    assert matched_layers(len(layers), teachers, ",".join(map(str, layers))) == tuple(layers)


@pytest.mark.parametrize(
    ("students", "teachers", "given_layers", "what", "hint"),
    [
        (7, 6, "", "the student has 7 layers and its teacher 6", "at most 6 layers"),
        (3, 6, "2,4", "2 of the teacher's layers are named, but the student has 3", "such as 2,4,6"),
        (3, 6, "4,2,6", "in ascending order", "such as 2,4,6"),
        (3, 6, "2,2,6", "in ascending order", "such as 2,4,6"),
        (3, 6, "0,2,6", "it has 1 to 6", "such as 2,4,6"),
        (3, 6, "2,4,7", "it has 1 to 6", "such as 2,4,6"),
        (3, 6, "two", "'two' is not a list of layers", "such as 2,4,6"),
        (3, 6, "2;4;6", "is not a list of layers", "such as 2,4,6"),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    students: int, teachers: int, given_layers: str, what: str, hint: str
) -> None:
    with pytest.raises(InputError) as refused:
        matched_layers(students, teachers, given_layers)
    assert what in refused.value.what
    assert hint in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("text", "teacher", "expected"),
    [
        ("6x768", BASE, (6, 768, 12, 3072)),
        ("3x192", MINILM, (3, 192, 3, 768)),
        ("4x312", BASE, (4, 312, 12, 1248)),  # 64 does not divide it: the teacher's number of heads
        ("4x312x12x1200", BASE, (4, 312, 12, 1200)),
        ("3x192x6", MINILM, (3, 192, 6, 768)),
    ],
)
def test_a_shape_becomes_a_model_that_is_else_the_teachers(
    text: str, teacher: ModelSpec, expected: tuple[int, ...]
) -> None:
    student = student_shape(text, teacher)
    shape = student.num_hidden_layers, student.hidden_size, student.num_attention_heads, student.intermediate_size
    assert shape == expected
    same = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "name")
    assert replace(student, **{field: getattr(teacher, field) for field in same}) == teacher


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("6", "'6' is not the shape of a student"),
        ("6x", "is not the shape"),
        ("0x768", "is not the shape"),
        ("6 x 768", "is not the shape"),
        ("6x768x12x3072x1", "is not the shape"),
        ("3x192x5", "5 attention heads do not divide a width of 192"),
        ("3x200", "12 attention heads do not divide a width of 200"),
    ],
)
def test_what_is_no_shape_is_refused(text: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as refused:
        student_shape(text, BASE)
    assert refused.value.hint


@given(st.integers(1, 1024), st.integers(1, 64), st.integers(1, 16))
def test_relation_heads_divide_both_widths(student: int, size: int, heads: int) -> None:
    teacher = replace(BASE, hidden_size=size * heads, num_attention_heads=heads)
    parts = relation_heads(0, student, teacher)
    assert student % parts == teacher.hidden_size % parts == 0
    assert parts <= heads


def test_relation_heads_that_do_not_divide_both_widths_are_refused() -> None:
    assert relation_heads(48, 384, BASE) == 48
    with pytest.raises(InputError, match="48 relation heads do not divide both widths, 312 and 768") as refused:
        relation_heads(48, 312, BASE)
    assert "12, 24" in (refused.value.hint or "")


def having(**changes: Any) -> RunSpec:
    spec = run()
    return replace(spec, model=student_shape("3x192", MINILM), **changes)


def test_a_run_says_what_is_compared() -> None:
    matching = matching_of(having(distill_labels=0.5, relation_layer=5), MINILM)
    assert matching.layers == (2, 4, 6)
    assert matching.pairs == ((0, 0), (1, 2), (2, 4), (3, 6))
    assert (matching.labels, matching.relation_layer, matching.relation_heads) == (0.5, 5, 12)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"distill_labels": 0.0, "distill_logits": 0.0, "distill_hidden": 0.0, "distill_relations": 0.0},
         "the student would learn nothing"),
        ({"task": "sst2", "distill_labels": 0.0, "distill_logits": 0.0}, "the student's head would learn nothing"),
        ({"next_sentence": True}, "does not learn to predict next sentences"),
        ({"unpad": False}, "trains on packs"),
        ({"loader": "lddl"}, "trains on packs"),
        ({"relation_layer": 7}, "relation_layer is 7, but the teacher has 6 layers"),
    ],
)  # fmt: skip
def test_runs_that_cannot_be_distilled_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        matching_of(having(**changes), MINILM)


def test_sequences_that_the_teacher_cannot_read_are_refused() -> None:
    with pytest.raises(InputError, match="sequence_length 128 is longer than the 64 positions of the teacher"):
        matching_of(having(), replace(MINILM, max_position_embeddings=64))


def test_a_recipe_of_distillation_needs_a_teacher() -> None:
    with pytest.raises(InputError, match="recipe 'distill' learns from a teacher, and none was given") as refused:
        check_taught(run())
    assert "bertjobs distill --teacher RUN" in (refused.value.hint or "")
    check_taught(replace(run(), teacher="/models/bert"))
    check_taught(run("laptop"))


def test_runs_without_a_teacher_keep_the_hash_that_they_had() -> None:
    plain, taught = run("laptop-scratch"), run("laptop-scratch", "distill_hidden=1")
    assert recipe_hash(plain, 1) == recipe_hash(replace(plain, teacher="/elsewhere"), 1)
    assert recipe_hash(plain, 1) != recipe_hash(taught, 1)
    assert recipe_hash(plain, 1) != recipe_hash(replace(plain, teacher_sha256="0" * 64), 1)
