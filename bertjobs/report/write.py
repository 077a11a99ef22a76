"""From a run directory to its report.html and the text for the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import write_text
from bertjobs.report import masked_words
from bertjobs.report import summary as numbers
from bertjobs.report.curves import draw
from bertjobs.report.gains import Gain, gain_table, gains_of
from bertjobs.report.masked_words import MaskedWord
from bertjobs.report.page import page
from bertjobs.report.summary import Summary
from bertjobs.run.directory import RunDirectory
from bertjobs.wording import columns, harmless


@dataclass(frozen=True)
class Report:
    """A report that has been written to ``path``; ``notes`` say what it lacks, and why."""

    path: Path
    summary: Summary
    guesses: tuple[MaskedWord, ...]
    notes: tuple[str, ...]
    gains: tuple[Gain, ...] = ()

    def text(self) -> str:
        """Summary, guesses and path, as lines for a terminal of 100 columns."""
        parts = [numbers.text(self.summary)]
        if self.guesses:
            parts.append("Masked words in held-out sentences\n" + masked_words.text(self.guesses))
        if self.gains:
            parts.append("Tasks fine-tuned from this run\n" + "\n".join(columns(gain_table(self.gains))))
        parts += self.notes
        parts.append(f"report {self.path}")
        return harmless("\n\n".join(parts))


def write_report(directory: RunDirectory) -> Report:
    """Write a run's report.html; what is unavailable (guesses without data, say) is left out with a note.

    Raises:
        InputError: no step has been made yet, or the run directory cannot be written.
    """
    summary = numbers.summarise(directory)
    svg = draw(directory, "svg").decode()
    gains = gains_of(directory)
    data, answers, notes = None, [], []
    try:
        data = DataManifest.read(Path(summary.spec.data))
        answers = _guesses(summary, data)
    except BertjobsError as error:
        notes.append(f"no guesses for masked words: {error.what}")
    try:
        write_text(directory.report, page(summary, svg, answers, data, [*summary.damage, *notes], gains))
    except OSError as error:
        raise InputError(f"the report cannot be written: {error.strerror}", where=str(directory.report)) from error
    return Report(directory.report, summary, tuple(answers), tuple(notes), tuple(gains))


def _guesses(summary: Summary, data: DataManifest) -> list[MaskedWord]:
    saved = summary.last_saved
    if saved is None or saved.checkpoint is None:
        raise BertjobsError("there is no checkpoint yet")
    from bertjobs.report.guesses import guess  # torch takes seconds to import

    data.check_vocabulary(summary.spec.vocabulary)
    answers = guess(saved.checkpoint, data, saved.spec.phase, seed=summary.spec.seed)
    if not answers:
        raise BertjobsError("the held-out text has no suitable sentence")
    return answers
