"""What a run of fine-tuning has reached: steps, validations, result, and what its model says of the dev examples."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.json_lines import read_lines
from bertjobs.files.reading import DamagedFileError, parse_json
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.report.ranked import Beaten, beaten
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from bertjobs.run.journal import Attempt, read_story
from bertjobs.run.result import result_of, task_result
from bertjobs.tasks.example import Candidate, Question, Sentences, Words
from bertjobs.tasks.metrics.scores import scores_of
from bertjobs.tasks.prepared import PreparedTask

WORST = 20
"""How many mistakes are shown."""


@dataclass(frozen=True)
class Mistake:
    """An example that the model is most wrong about: its text, what is true, what was said, and how sure it was."""

    id: str
    text: str
    gold: str
    guess: str
    confidence: float | None


@dataclass(frozen=True)
class TaskSummary:
    """A run of fine-tuning.

    Attributes:
        steps, validations: lines of metrics.jsonl and validation.jsonl.
        result: RESULT.json; {} while the run is not done.
        confusion: (gold, guess) -> examples, of classes; empty for other tasks.
        kinds: kind of mistake -> how many, of tags, questions and rankings.
        mistakes: the worst ones, the surest first.
        notes: what was odd in the data, what of the measures is undefined, and what the report lacks, and why.
        asked: the keys of the texts that the task is asked; () if its data are gone.
    """

    root: Path
    spec: RunSpec
    prepared: PreparedTask | None
    steps: tuple[Mapping[str, Any], ...]
    validations: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any]
    confusion: Mapping[tuple[str, str], int]
    kinds: Mapping[str, int]
    mistakes: tuple[Mistake, ...]
    attempts: tuple[Attempt, ...]
    checkpoint: Path | None
    notes: tuple[str, ...]
    asked: tuple[str, ...] = ()

    @property
    def phase(self) -> PhaseSpec:
        return self.spec.phases[0]

    @property
    def has_dev(self) -> bool:
        """Whether there are dev data with labels."""
        dev = self.prepared.splits.get("dev") if self.prepared else None
        return dev is not None and dev.facts.labelled

    def scores(self) -> dict[str, dict[str, float]]:
        """The dev measures of the result and of the last validation, by name."""
        lines = {"result": self.result.get("dev") or {}, "last": self.validations[-1] if self.validations else {}}
        return {name: scores_of(line) for name, line in lines.items() if line}


def summarise_task(directory: RunDirectory) -> TaskSummary:
    """The summary of a run that may still be running.

    Raises:
        InputError: run.yml cannot be read, or no step has been made yet.
    """
    spec = read_lockfile(directory.lockfile)
    folder = directory.phase(spec.phases[0].phase)
    steps = tuple(read_lines(folder.metrics))
    if not steps:
        raise InputError(f"run {directory.name!r} has not made a step yet", where=str(directory.root))
    notes: list[str] = []
    prepared, checkpoint = None, None
    confusion: Counter[tuple[str, str]] = Counter()
    kinds: Counter[str] = Counter()
    mistakes: list[Mistake] = []
    asked: tuple[str, ...] = ()
    try:
        prepared = PreparedTask.read(Path(spec.data))
        asked = prepared.open_task().text_keys
        mistakes = _judge(folder, prepared, confusion, kinds)
        notes += prepared.notes
    except (BertjobsError, OSError, KeyError) as error:
        notes.append(f"no mistakes are shown: {error.what if isinstance(error, BertjobsError) else error}")
    try:
        checkpoint = result_of(directory)
    except BertjobsError as error:
        notes.append(error.what)
    result = task_result(directory)
    notes += map(str, (result.get("dev") or {}).get("notes") or ())
    return TaskSummary(
        root=directory.root,
        spec=spec,
        prepared=prepared,
        steps=steps,
        validations=tuple(read_lines(folder.validation)),
        result=result,
        confusion=confusion,
        kinds=kinds,
        mistakes=tuple(mistakes),
        attempts=tuple(read_story(directory.events()).attempts),
        checkpoint=checkpoint,
        notes=tuple(notes),
        asked=asked,
    )


def _judge(
    folder: PhaseDirectory, prepared: PreparedTask, confusion: Counter[tuple[str, str]], kinds: Counter[str]
) -> list[Mistake]:
    """Count in what the predictions are wrong; returns the worst."""
    dev = prepared.splits.get("dev")
    if dev is None or not folder.predictions.is_file():
        return []
    scored = zip(dev.examples(), _predictions(folder.predictions), strict=False)
    if isinstance(next(dev.examples(), None), Candidate):
        return [_of_query(one) for one in beaten(scored, WORST, kinds)]
    worst: list[tuple[float, int, Mistake]] = []
    for number, (example, line) in enumerate(scored):
        for mistake in _mistakes(example, line, confusion, kinds):
            entry = (mistake.confidence or 0.0, -number, mistake)
            (heapq.heappush if len(worst) < WORST else heapq.heappushpop)(worst, entry)
    return [mistake for *_, mistake in sorted(worst, key=lambda entry: entry[:2], reverse=True)]


def _predictions(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of predictions.jsonl, one by one."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield parse_json(line)
            except ValueError as error:
                raise DamagedFileError(f"line {number:,} of {path.name} is damaged", where=str(path)) from error


def _of_query(one: Beaten) -> Mistake:
    relevant, first = one.relevant, one.first
    gold = f"rank {one.rank:,}, score {relevant.score:.3g}: {relevant.text}"
    return Mistake(one.query_id, one.query, gold, f"rank 1, score {first.score:.3g}: {first.text}", None)


def _mistakes(
    example: Any, line: Mapping[str, Any], confusion: Counter[tuple[str, str]], kinds: Counter[str]
) -> Iterator[Mistake]:
    """What is wrong with one prediction: nothing, or one mistake."""
    if isinstance(example, Sentences):
        text = example.text if example.second is None else f"{example.text} / {example.second}"
        if "value" in line:
            true = float(example.label)  # type: ignore[arg-type]
            yield Mistake(example.id, text, f"{true:g}", f"{line['value']:.3g}", abs(line["value"] - true))
        elif "labels" in line:
            names = example.label if isinstance(example.label, tuple) else (str(example.label),)
            if set(line["labels"]) != set(names):
                gold, guess = (", ".join(each) or "none" for each in (names, line["labels"]))
                yield Mistake(example.id, text, gold, guess, None)
        else:
            confusion[str(example.label), line["label"]] += 1
            if line["label"] != example.label:
                sure = line["probabilities"][line["label"]]
                yield Mistake(example.id, text, str(example.label), line["label"], sure)
    elif isinstance(example, Words) and example.tags is not None:
        wrong = [(w, t, g) for w, t, g in zip(example.words, example.tags, line["tags"], strict=True) if t != g]
        for _, gold, guess in wrong:
            kinds[_tag_error(gold, guess)] += 1
            confusion[gold, guess] += 1
        for tag, guess in zip(example.tags, line["tags"], strict=True):
            confusion[tag, guess] += tag == guess
        if wrong:
            gold = " ".join(f"{word}/{tag}" for word, tag, _ in wrong)
            guess = " ".join(f"{word}/{tag}" for word, _, tag in wrong)
            yield Mistake(example.id, " ".join(example.words), gold, guess, float(len(wrong)))
    elif isinstance(example, Question) and example.answers is not None:
        answers = [answer.text for answer in example.answers]
        guess = line["answer"]
        if guess not in answers and (guess or answers):
            kinds[_answer_error(guess, answers)] += 1
            text = f"{example.question} / {example.context}"
            yield Mistake(example.id, text, answers[0] if answers else "none", guess or "none", line.get("probability"))


def _answer_error(guess: str, answers: list[str]) -> str:
    if not answers:
        return "an answer where there is none"
    if not guess:
        return "no answer where there is one"
    return "overlaps an answer" if any(guess in one or one in guess for one in answers) else "elsewhere in the text"


def _tag_error(gold: str, guess: str) -> str:
    if gold == "O":
        return "a tag where there is none"
    if guess == "O":
        return "no tag where there is one"
    return "another boundary" if gold[2:] == guess[2:] and gold[1:2] == "-" else "another type"
