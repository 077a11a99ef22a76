"""One family of errors. Each says what was wrong, where, and what to do next.

Exit codes: 0 done, 75 stopped early and can be continued,
64 bad input or configuration (do not retry), 70 anything else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from bertjobs.wording import harmless

EXIT_DONE = 0
EXIT_BAD_INPUT = 64
EXIT_FAILURE = 70
EXIT_CONTINUE = 75

CAUSE = "cause"
"""The name of the field that states an error's cause in a log: if the disk is full, the log may be all that is left."""


class BertjobsError(Exception):
    """An expected failure, shown to the user without a traceback.

    Args:
        what: one sentence that says what is wrong, with the value at fault.
        where: the file, line, setting or host at fault.
        hint: what to do next, or the nearest right thing.
        cause: why the attempt that fails with this error ended, a word of `bertjobs.run.causes`; None: the error's
            class or its exit code says enough.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None, cause: str | None = None):
        self.what, self.where, self.hint, self.cause = what, where, hint, cause
        super().__init__(self.render())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles all the parts, so that another process gets the same error."""
        return _rebuilt, (type(self), self.what, self.where, self.hint, self.cause)

    def facts(self) -> dict[str, str]:
        """What programs read from the error, by name: its cause; some errors have more."""
        return {CAUSE: self.cause} if self.cause else {}

    def render(self) -> str:
        """The error as a user reads it, harmless to a terminal: one line each for what, where, hint and the `facts`."""
        lines = [f"error: {self.what}"]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  hint:  {self.hint}")
        lines += [f"  {name}: {text}" for name, text in self.facts().items()]
        return harmless("\n".join(lines))


def _rebuilt(
    kind: type[BertjobsError], what: str, where: str | None, hint: str | None, cause: str | None
) -> BertjobsError:
    return kind(what, where=where, hint=hint, cause=cause)


class InputError(BertjobsError):
    """Bad input or configuration: retrying without a change would fail again."""

    exit_code = EXIT_BAD_INPUT


class InputErrors(InputError):
    """Several at once, each shown as if it were the only one."""

    def __init__(self, errors: Sequence[InputError]):
        self.errors = tuple(errors)
        super().__init__(f"{len(errors)} problems")

    def __reduce__(self) -> tuple[Any, ...]:
        return InputErrors, (self.errors,)

    def render(self) -> str:
        return "\n".join(error.render() for error in self.errors)


def raise_all(errors: Sequence[InputError]) -> None:
    """Raise the error, or several as one; do nothing if the list is empty."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InputErrors(errors)


def first_line(error: Exception) -> str:
    """What a foreign error says, cut to one line; its kind if it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """A hint that names the choice closest in spelling to ``word``, or lists all when none is close.

    ``word`` itself is never suggested: what was typed did not work.
    """
    names = sorted({str(choice) for choice in choices} - {str(word)})
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose one of: {', '.join(names)}" if names else None


def install_hint(extra: str) -> str:
    """A hint at how the packages of an extra are installed."""
    return f"pip install 'bertjobs[{extra}]', or from a clone: pip install '.[{extra}]'"
