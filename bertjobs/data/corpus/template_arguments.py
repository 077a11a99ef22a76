"""The arguments of a wiki template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

_PLACES = 40  # arguments by number at most


class Arguments(NamedTuple):
    """A template's arguments: those by place, from 0, and those by name; and the language of the wiki."""

    placed: tuple[str, ...]
    named: Mapping[str, str]
    language: str

    @classmethod
    def parse(cls, text: str, language: str) -> Arguments:
        """The arguments that ``text`` lists, separated by ``|``; "2=x" is the second by place."""
        placed: list[str] = []
        numbered: dict[int, str] = {}
        named: dict[str, str] = {}
        for part in text.split("|") if text else ():
            name, equals, value = part.partition("=")
            name = name.strip()
            if not equals:
                placed.append(part.strip())
            elif name.isdecimal() and 0 < (place := int(name[:4])) <= _PLACES:
                numbered[place] = value.strip()
            else:
                named[name.lower()] = value.strip()
        for place in sorted(numbered):
            placed += [""] * (place - len(placed))
            placed[place - 1] = numbered[place]
        return cls(tuple(placed), named, language)

    def at(self, place: int, *names: str) -> str:
        """The argument of this place, or of one of these names; "" if there is none."""
        by_place = self.placed[place] if place < len(self.placed) else ""
        return by_place or self.called(*names)

    def called(self, *names: str) -> str:
        """The first argument that has one of these names; "" if there is none."""
        return next((self.named[name] for name in names if self.named.get(name)), "")

    def says(self, name: str) -> bool:
        """Whether an argument of this name is a yes."""
        return self.named.get(name, "").lower() in ("y", "yes", "on", "1", "true")


Shown = Callable[[Arguments], str]
"""What a reader sees of a template, by its arguments."""
