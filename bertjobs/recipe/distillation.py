"""What a student learns, and from which of its teacher's layers: arithmetic of shapes, before any tensor exists."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bertjobs.errors import InputError
from bertjobs.recipe.spec import ModelSpec, RunSpec

HEAD_SIZE = 64
"""Numbers per attention head of a student whose heads are not given, where it divides the width: that of every BERT
that Google published (Turc et al., arXiv 1908.08962)."""

_SHAPE = re.compile(r"([1-9]\d*)x([1-9]\d*)(?:x([1-9]\d*)(?:x([1-9]\d*))?)?")
_LAYERS = re.compile(r"\s*\d{1,4}\s*(,\s*\d{1,4}\s*)*")


@dataclass(frozen=True)
class Matching:
    """What of a student is compared with what of its teacher.

    Attributes:
        labels, logits, hidden, relations: weights in the loss; what has the weight 0 is not compared.
        temperature: that logits are divided by.
        layers: for each of the student's layers the teacher's, both counted from 1.
        relation_layer: the teacher's layer whose relations the student's last one learns, counted from 1.
        relation_heads: parts that queries, keys and values are cut into for them.
    """

    labels: float
    logits: float
    hidden: float
    relations: float
    temperature: float
    layers: tuple[int, ...]
    relation_layer: int
    relation_heads: int

    @property
    def student_layers(self) -> frozenset[int]:
        """The student's hidden states that are compared, as in `pairs`; none if they have no weight."""
        return frozenset(mine for mine, _ in self.pairs) if self.hidden else frozenset()

    @property
    def teacher_layers(self) -> frozenset[int]:
        """The teacher's, likewise."""
        return frozenset(its for _, its in self.pairs) if self.hidden else frozenset()

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The hidden states that are compared, (student's, teacher's): 0 for the embeddings, then layers."""
        return ((0, 0), *enumerate(self.layers, 1))


def student_shape(text: str, teacher: ModelSpec) -> ModelSpec:
    """The student that ``LAYERSxWIDTH[xHEADS[xINNER]]`` stands for, such as 6x768 or 4x312x12x1200.

    Heads are 64 wide unless their number is given, or the teacher's number of heads where 64 does not divide the width;
    the feed-forward part is 4 times as wide as the model. All else is the teacher's.

    Raises:
        InputError: it is not a shape, or no number of heads follows from it.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise InputError(
            f"{text!r} is not the shape of a student", where="--student", hint="LAYERSxWIDTH, such as 6x768 or 3x192"
        )
    layers, width, heads, inner = (int(number) if number else 0 for number in match.groups())
    if not heads:
        heads = width // HEAD_SIZE if width % HEAD_SIZE == 0 else teacher.num_attention_heads
    if width % heads:
        fitting = [number for number in range(1, width + 1) if width % number == 0 and width // number >= 8]
        raise InputError(
            f"{heads} attention heads do not divide a width of {width}",
            where=f"--student {text}",
            hint=f"give their number as {layers}x{width}xHEADS, one of {', '.join(map(str, fitting[-8:])) or width}",
        )
    return replace(
        teacher,
        name=f"bert-{text}",
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=inner or 4 * width,
    )


def matched_layers(students: int, teachers: int, given: str = "") -> tuple[int, ...]:
    """The teacher's layer, counted from 1, for each of the student's.

    Args:
        students, teachers: how many layers they have.
        given: them, as ``2,4,6``; "": layer m of M learns from layer floor(m N / M) of N, the last from the last
            (TinyBERT's uniform mapping; Jiao et al., arXiv 1909.10351).

    Raises:
        InputError: the student is deeper than the teacher, or these are not as many of its layers in ascending order.
    """
    if students > teachers:
        raise InputError(
            f"the student has {students} layers and its teacher {teachers}: a student cannot be deeper",
            where="model.num_hidden_layers",
            hint=f"choose a student of at most {teachers} layers",
        )
    if not given.strip():
        return tuple(number * teachers // students for number in range(1, students + 1))
    where, example = "teacher_layers", ",".join(map(str, matched_layers(students, teachers)))
    if not _LAYERS.fullmatch(given):
        raise InputError(f"{given!r} is not a list of layers", where=where, hint=f"such as {example}")
    layers = tuple(int(number) for number in given.split(","))
    if len(layers) != students:
        raise InputError(
            f"{len(layers)} of the teacher's layers are named, but the student has {students}",
            where=where,
            hint=f"one for each, such as {example}",
        )
    ascending = all(one < other for one, other in itertools.pairwise(layers))
    if not ascending or layers[0] < 1 or layers[-1] > teachers:
        raise InputError(
            f"{given} are not layers of the teacher in ascending order: it has 1 to {teachers}",
            where=where,
            hint=f"such as {example}",
        )
    return layers


def relation_heads(asked: int, student: int, teacher: ModelSpec) -> int:
    """Parts that queries, keys and values are cut into; ``student``: its width.

    Raises:
        InputError: what was ``asked`` does not divide both widths.
    """
    both = [number for number in range(1, student + 1) if student % number == 0 and teacher.hidden_size % number == 0]
    if not asked:
        return max(number for number in both if number <= teacher.num_attention_heads)
    if asked not in both:
        raise InputError(
            f"{asked} relation heads do not divide both widths, {student} and {teacher.hidden_size}",
            where="relation_heads",
            hint=f"one of {_words(both[-8:])}, or 0",
        )
    return asked


def matching_of(spec: RunSpec, teacher: ModelSpec) -> Matching:
    """What a run's settings say of a student of its model's shape and a teacher of this one.

    Raises:
        InputError: nothing is learnt; a layer or a number of heads does not fit; or the run is not of a kind that is
            distilled.
    """
    _check_kind(spec)
    for phase in spec.phases:
        if phase.sequence_length > teacher.max_position_embeddings:
            raise InputError(
                f"sequence_length {phase.sequence_length} is longer than the {teacher.max_position_embeddings} "
                "positions of the teacher",
                where=f"phase {phase.phase}",
                hint=f"--set phase{phase.phase}.sequence_length={teacher.max_position_embeddings}",
            )
    if spec.relation_layer > teacher.num_hidden_layers:
        raise InputError(
            f"relation_layer is {spec.relation_layer}, but the teacher has {teacher.num_hidden_layers} layers",
            where="relation_layer",
            hint="0 takes the last",
        )
    return Matching(
        labels=spec.distill_labels,
        logits=spec.distill_logits,
        hidden=spec.distill_hidden,
        relations=spec.distill_relations,
        temperature=spec.distill_temperature,
        layers=matched_layers(spec.model.num_hidden_layers, teacher.num_hidden_layers, spec.teacher_layers),
        relation_layer=spec.relation_layer or teacher.num_hidden_layers,
        relation_heads=relation_heads(spec.relation_heads, spec.model.hidden_size, teacher),
    )


def check_taught(spec: RunSpec) -> None:
    """Make sure that a run whose recipe is one of distillation has a teacher: without one it would be another run.

    Raises:
        InputError: it has none.
    """
    if spec.is_distilled and not spec.teacher:
        raise InputError(
            f"recipe {spec.recipe!r} learns from a teacher, and none was given",
            where="teacher",
            hint=f"bertjobs distill --teacher RUN --recipe {spec.recipe}",
        )


def _check_kind(spec: RunSpec) -> None:
    if spec.task and not spec.distill_logits + spec.distill_labels:
        raise InputError(
            "the student's head would learn nothing: distill_logits and distill_labels are both 0",
            where=f"recipe {spec.recipe}",
            hint="--set distill_logits=1",
        )
    if spec.task:
        return
    if not spec.distill_logits + spec.distill_labels + spec.distill_hidden + spec.distill_relations:
        raise InputError(
            "the student would learn nothing: all weights are 0",
            where=f"recipe {spec.recipe}",
            hint="set distill_hidden, distill_relations, distill_logits or distill_labels",
        )
    if spec.next_sentence:
        raise InputError(
            "a student does not learn to predict next sentences",
            where="next_sentence",
            hint="--set next_sentence=false; pairs in the data are then read as text",
        )
    if not spec.is_unpadded:
        raise InputError(
            "distillation trains on packs without padding",
            where="unpad, loader, loss_normalization",
            hint="leave them at true, bertjobs and global",
        )


def _words(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
