"""What is wrong with a run that has not begun: collected, so that all of it is reported at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bertjobs.errors import InputError, InputErrors


@dataclass(frozen=True)
class Problem:
    """Something wrong with a run that has not begun; the words are those of `InputError`.

    ``is_warning``: it may still run.
    """

    what: str
    where: str | None = None
    hint: str | None = None
    is_warning: bool = False

    def error(self) -> InputError:
        """The problem as an error."""
        return InputError(self.what, where=self.where, hint=self.hint)

    def render(self) -> str:
        """As `InputError` renders itself."""
        text = self.error().render()
        return text.replace("error:", "warning:", 1) if self.is_warning else text


def caught(check: Callable[..., Any], *arguments: Any) -> list[Problem]:
    """Run a check that may raise InputError; that error, or the several that it stands for, as problems."""
    try:
        check(*arguments)
    except InputError as raised:
        errors = raised.errors if isinstance(raised, InputErrors) else (raised,)
        return [Problem(error.what, error.where, error.hint) for error in errors]
    return []
