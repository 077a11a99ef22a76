"""The whole of ``bertjobs data prepare``: plan, run the stages, write MANIFEST.json."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bertjobs.data.corpus import Source, UnreadFiles, named_on_disk, refuse_sources_without_text, scan
from bertjobs.data.corpus.changes import CorpusChangedError
from bertjobs.data.corpus.persistent import UnavailableError
from bertjobs.data.corpus.soundness import most_odd
from bertjobs.data.prepare.bucket_index import BucketIndex
from bertjobs.data.prepare.document_keys import with_repeated_ids
from bertjobs.data.prepare.held_out import settle_split
from bertjobs.data.prepare.limit import OverLimitError
from bertjobs.data.prepare.on_this_machine import Done, Runner, ThisMachine
from bertjobs.data.prepare.pair_counts import refuse_poor_pairs
from bertjobs.data.prepare.resumption import compared, written_since
from bertjobs.data.prepare.settings import PrepareOptions
from bertjobs.data.prepare.source_tally import source_counts
from bertjobs.data.prepare.split_rows import refuse_splits_without_rows
from bertjobs.data.prepare.stage_duplicates import duplicate_report
from bertjobs.data.prepare.stage_pairs import counted_pairs
from bertjobs.data.prepare.unknown_share import EarlyCheck, check_unknown, unknown_counts
from bertjobs.data.prepare.work_folder import DUPLICATES, FOLDER_NAME, PreparePlan, WorkFolder, make_plan
from bertjobs.data.shards.manifest import FORMAT, MANIFEST_NAME, SPLITS, VERSION, DataManifest
from bertjobs.data.shards.manifest_form import write_manifest
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import remove_leftovers, sync_folder, write_json
from bertjobs.files.lock import locked
from bertjobs.slurm.shell import quote
from bertjobs.wording import harmless

Progress = Callable[[str, float, float, str], None]
"""Called with a stage's name, how much of it is done, how much there is, and the unit."""

PIECE_BYTES = 4_000_000
_WORDS = {"tokenise": "sentences and tokens", DUPLICATES: "duplicates", "pairs": "pairs", "shards": "shards"}


def prepare(options: PrepareOptions, progress: Progress, runner: Runner | None = None) -> bool:
    """Make a data folder: vocab.txt, phaseN/{train,validation}/shard-*, and MANIFEST.json, which is written last.

    Equal input, options and seed give equal bytes, on any number of processes or nodes. What a killed prepare has
    done is kept in OUTPUT/.prepare, and the next one continues from there.

    Args:
        runner: where the tasks run; in this process by default.

    Returns:
        False if the folder was complete already.

    Raises:
        InputError: bad options, corpus or vocabulary, too many [UNK], or an output of other settings.
        UnavailableError: the corpus cannot be read at present; what was done is kept.
        BertjobsError: another prepare is working on the output, it cannot be written, or a task failed; the same.
    """
    options.check()
    vocabulary = options.chosen_vocabulary.vocabulary
    options = replace(options, corpora=tuple(map(named_on_disk, options.corpora)))
    progress("scan", 0, 1, "corpus")
    sources = [Source.parse(text) for text in options.corpora]
    unread = UnreadFiles()
    pieces = scan(sources, PIECE_BYTES, unread)
    plan = make_plan(options, pieces, vocabulary)
    output = Path(options.output)
    if _is_complete(output, plan):
        if path := written_since(pieces, (output / MANIFEST_NAME).stat().st_mtime_ns):
            print(f"note: {harmless(path)} was written after this data was made, and has the same size. If its text "
                  "has changed, prepare it into another folder", file=sys.stderr, flush=True)  # fmt: skip
        return False
    refuse_sources_without_text(sources, pieces)
    try:
        with _removed_after_bad_input(output), locked(_open(output)):
            work = WorkFolder.create(options, plan, with_repeated_ids(pieces, sources))
            work = compared(work, pieces, partial(_compared, progress))
            vocabulary.write(work.folder)
            _run_stages(work, options, runner or ThisMachine(1), progress)
            _finish(work, vocabulary, options.max_unknown_share, unread)
    except UnavailableError as error:
        raise UnavailableError(
            error.what, where=error.where, hint=f"finished tasks are kept: {error.hint or 'run the same command again'}"
        ) from error
    except OSError as error:
        mended = "there is space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "that is mended"
        raise BertjobsError(
            f"cannot write {str(output)!r}: {error.strerror or error}",
            where=str(error.filename or output),
            hint=f"finished tasks are kept: once {mended}, run the same command again",
        ) from error
    return True


def _compared(progress: Progress, done: int, total: int) -> None:
    progress("what was read, compared", done, total, "pieces")


def _open(output: Path) -> Path:
    """The work folder below ``output``, made where the output is new."""
    folder = output / FOLDER_NAME
    if not folder.is_dir() and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(
            f"{str(output)!r} exists and is not empty", where="--output", hint="remove it or choose another"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _removed_after_bad_input(output: Path) -> Iterator[None]:
    """After an InputError other input is needed: what this prepare made until then is useless. No task runs any more.

    Except where a file has changed, which may be as it was after all, and where only a limit is in the way.
    """
    was_there, was_begun = output.exists(), (output / FOLDER_NAME).exists()
    try:
        yield
    except (CorpusChangedError, OverLimitError):
        raise
    except InputError:
        if not was_begun:
            shutil.rmtree(output / FOLDER_NAME, ignore_errors=True)
        if not was_there and output.is_dir() and not any(output.iterdir()):
            output.rmdir()
        raise


def _is_complete(output: Path, plan: PreparePlan) -> bool:
    """Whether the output is complete, and made by exactly this plan.

    Raises:
        InputError: it was made by a different plan; names the difference.
    """
    if not (output / MANIFEST_NAME).exists():
        return False
    data = DataManifest.read(output)
    changed = PreparePlan.of_json(data.plan).difference(plan) if data.plan else "they were adopted"
    if changed:
        raise InputError(
            f"{str(data.folder)!r} holds data made with other settings: {changed}",
            where="--output",
            hint=f"choose another folder, or start over: rm -r {quote(str(data.folder))}",
        )
    return True


def _run_stages(work: WorkFolder, options: PrepareOptions, runner: Runner, progress: Progress) -> None:
    for stage in work.stages:
        missing = work.missing(stage)
        if stage == "pairs" and missing:
            BucketIndex.of(work)
        done: Done = _StageProgress(work, stage, missing, progress)
        if stage == "tokenise":
            done = EarlyCheck(work, options.max_unknown_share, done)
        runner.run(work, stage, missing, done)
        if stage == "tokenise":
            check_unknown(unknown_counts(work), options.max_unknown_share)
        elif stage == "pairs":
            refuse_splits_without_rows(work)
            _check_pairs(work, options)
        if still := work.missing(stage):
            raise BertjobsError(f"{len(still)} tasks of the stage {stage!r} are not done", where=str(work.folder))


def _check_pairs(work: WorkFolder, options: PrepareOptions) -> None:
    """OverLimitError if a phase's pairs are useless by the options now given, which may not be those it began with."""
    results = work.results("pairs")
    for shape in options.phases:
        counts = counted_pairs(work, results, shape.phase, "train")
        refuse_poor_pairs(shape.phase, counts, options.most_unpaired, options.least_used)


class _StageProgress:
    """Turns tasks that are done into progress of a stage."""

    def __init__(self, work: WorkFolder, stage: str, missing: list[int], progress: Progress) -> None:
        self._weights, self._unit = _weights(work, stage)
        self._words, self._progress = _WORDS[stage], progress
        self._total = sum(self._weights)
        self._done = self._total - sum(self._weights[number] for number in missing)
        progress(self._words, self._done, self._total, self._unit)

    def __call__(self, number: int) -> None:
        self._done += self._weights[number]
        self._progress(self._words, self._done, self._total, self._unit)


def _weights(work: WorkFolder, stage: str) -> tuple[list[float], str]:
    """How much work each task of a stage is, and the unit."""
    if stage == "tokenise":
        return [piece.text_bytes / 1e6 for piece in work.pieces], "MB"
    return [1.0] * work.tasks(stage), "buckets" if stage == "pairs" else "tasks"


def _finish(work: WorkFolder, vocabulary: Vocabulary, most_unknown: float, unread: UnreadFiles) -> None:
    """Write the manifest, and only then remove the work folder. ``most_unknown`` is the limit that was checked last."""
    tokenised, duplicates = work.tokenised(), duplicate_report(work)
    moved = settle_split(tokenised)
    documents = sum(result["documents"] for result in tokenised)
    held_out = sum(result["held_out"] for result in tokenised)
    vocabulary.write(work.output)
    names = [name for result in tokenised for name in result["names"]]
    odd = most_odd(result.get("odd", {}) for result in tokenised)
    without_id = most_odd(result.get("files_without_id", {}) for result in tokenised)
    if moved:
        held_out += 1 if moved.to == "validation" else -1
        names = [moved.name] if moved.to == "validation" else [name for name in names if name != moved.name]
    write_manifest(
        work.output,
        {
            "format": FORMAT,
            "version": VERSION,
            "shard_format": work.options.format,
            "vocabulary": vocabulary.facts(),
            # The flag is needed only where nothing beside the vocabulary says it. In the plan, by which a folder is
            # known again, it stays as it was given.
            "settings": work.plan.settings | {"cased": not vocabulary.lowercase},
            "documents": {"train": documents - held_out, "validation": held_out},
            "held_out": names[:1000],
            "corpus": {name: sum(result.get(name, 0) for result in tokenised)
                       for name in _SUMMED}
            | {"with_equal_ids": len({piece.source for piece in work.pieces if piece.ids_repeat}),
               "unread_files": unread.count},
            "sources": [counts.as_json() for counts in source_counts(work, duplicates)],
            "duplicates": duplicates.as_json(),
            **({"odd_files": odd} if odd else {}),
            **({"unread_files": unread.examples} if unread.count else {}),
            **({"files_without_id": without_id} if without_id else {}),
            "limits": {"max_unknown_share": most_unknown},
            "phases": _phases(work),
            "plan": vars(work.plan),
        },
    )  # fmt: skip
    sync_folder(work.output)
    work.remove()


_SUMMED = ("bytes", "tokens", "left_out", "empty", "skipped_pages", "short_paragraphs", "without_id", "replaced",
           "halves", "nul")  # fmt: skip


def _phases(work: WorkFolder) -> dict[int, dict[str, Any]]:
    """The manifest's entry of each phase. Tidies the folders, and writes LDDL's ``.num_samples.json``, on the way."""
    files: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for task, result in zip(work.shard_tasks, work.results("shards"), strict=True):
        files.setdefault((task.shape.phase, task.split), []).extend(result)
    drawn = work.results("pairs")
    entries: dict[int, dict[str, Any]] = {}
    for shape in work.options.phases:
        entry: dict[str, Any] = {
            "sequence_length": shape.sequence_length,
            "max_predictions": shape.max_predictions,
        }
        for split in SPLITS:
            folder = work.output / f"phase{shape.phase}" / split
            remove_leftovers(folder)  # of tasks that were killed
            listed = sorted(files[shape.phase, split], key=lambda file: file["bin"])  # stable: shards stay in order
            entry[split] = {"files": listed, "pairs": counted_pairs(work, drawn, shape.phase, split).to_json()}
            if work.options.format == "lddl":
                write_json(folder / ".num_samples.json", {file["name"]: file["rows"] for file in listed})
        entries[shape.phase] = entry
    return entries
