"""What is wrong with a run that has not begun: collected, so that all is told at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bertjobs.errors import InputError


@dataclass(frozen=True)
class Problem:
    """Something wrong with a run that has not begun; the words are those of `InputError`.

    ``is_warning``: it may still run.
    """

    what: str
    where: str | None = None
    hint: str | None = None
    is_warning: bool = False

    def render(self) -> str:
        """As `InputError` renders itself."""
        text = InputError(self.what, where=self.where, hint=self.hint).render()
        return text.replace("error:", "warning:", 1) if self.is_warning else text


class RefusedError(InputError):
    """Several problems at once, each as if it were alone."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__(f"{len(problems)} problems")

    def __reduce__(self) -> tuple[Any, ...]:
        return RefusedError, (self.problems,)

    def render(self) -> str:
        return "\n".join(problem.render() for problem in self.problems)


def caught(check: Callable[..., Any], *arguments: Any) -> list[Problem]:
    """What a check that raises InputError finds, as a list of one problem or none."""
    try:
        check(*arguments)
    except InputError as error:
        return [Problem(error.what, error.where, error.hint)]
    return []
