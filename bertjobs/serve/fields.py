"""A request's JSON, read strictly: what is not known is refused, with the nearest name that is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bertjobs.errors import nearest
from bertjobs.files.reading import parse_json
from bertjobs.serve.refusal import MALFORMED, Refusal
from bertjobs.wording import counted, shown


def parsed(body: bytes) -> Any:
    """The value of a body.

    Raises:
        Refusal: it is not JSON in UTF-8.
    """
    if not body:
        raise Refusal("the body is empty", status=MALFORMED, hint="send an object of JSON")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"the body is not UTF-8: byte {error.start + 1:,} is {body[error.start]:#04x}"
        raise Refusal(what, status=MALFORMED) from None
    try:
        return parse_json(text, finite=True)
    except ValueError as error:
        raise Refusal(f"the body is not JSON: {error}", status=MALFORMED) from None


@dataclass(frozen=True)
class Fields:
    """An object of JSON that has no unknown field.

    Attributes:
        where: of the object in the request, "" for the whole of it.
    """

    content: Mapping[str, Any]
    where: str = ""

    @classmethod
    def of(cls, value: Any, known: Collection[str], where: str = "") -> Fields:
        """Read an object.

        Raises:
            Refusal: it is something else, or has a field that is not ``known``.
        """
        if not isinstance(value, dict):
            raise Refusal(f"{where or 'the request'} is not an object: {shown(value)}", where=where or None,
                          hint=f"its fields are {', '.join(sorted(known))}")  # fmt: skip
        for name in value:
            if name not in known:
                raise Refusal(f"there is no field {shown(name)} here", where=where or None, hint=nearest(name, known))
        return cls(value, where)

    def __contains__(self, name: str) -> bool:
        """Whether it has a value other than null."""
        return self.content.get(name) is not None

    def place(self, name: str) -> str:
        """Where a field is in the request."""
        return f"{self.where}.{name}" if self.where else name

    def __getitem__(self, name: str) -> Any:
        """A field's value.

        Raises:
            Refusal: there is none.
        """
        if name not in self:
            raise Refusal(f"there is no {name!r}", where=self.where or None)
        return self.content[name]

    def text(self, name: str) -> str:
        """A text that is not empty."""
        return text_of(self[name], self.place(name))

    def texts(self, name: str, most: int) -> list[str]:
        """One to ``most`` texts."""
        place = self.place(name)
        values = self.items(name, most)
        return [text_of(value, f"{place}[{number}]") for number, value in enumerate(values)]

    def items(self, name: str, most: int) -> list[Any]:
        """A list of one to ``most`` values."""
        values = self[name]
        if not isinstance(values, list):
            raise Refusal(f"{name!r} is not a list: {shown(values)}", where=self.place(name))
        return counted_list(values, self.place(name), most)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self.content.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise Refusal(f"{name!r} is neither true nor false: {shown(value)}", where=self.place(name))
        return value

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number in a range."""
        value = self.content.get(name)
        if value is None:
            return default
        if type(value) is not int or not least <= value <= most:
            raise Refusal(f"{name!r} is not a whole number from {least} to {most}: {shown(value)}",
                          where=self.place(name))  # fmt: skip
        return value

    def choice(self, name: str, choices: Collection[str]) -> str:
        """One of some words, by default the first."""
        value = self.content.get(name)
        if value is None:
            return next(iter(choices))
        if not isinstance(value, str) or value not in choices:
            raise Refusal(f"{name!r} is not known: {shown(value)}", where=self.place(name),
                          hint=nearest(str(value)[:100], choices))  # fmt: skip
        return value


def counted_list(values: list[Any], where: str, most: int) -> list[Any]:
    """The list, if it has one to ``most`` elements.

    Raises:
        Refusal: it has none, or more.
    """
    if not values:
        raise Refusal("the list is empty", where=where)
    if len(values) > most:
        raise Refusal(f"the list has {counted(len(values), 'element')}, and at most {most:,} are taken at a time",
                      where=where, hint="send several requests")  # fmt: skip
    return values


def text_of(value: Any, where: str) -> str:
    """The value, if it is a text that can be read.

    Raises:
        Refusal: it is not text, is blank, or has half of a character.
    """
    if not isinstance(value, str):
        raise Refusal(f"this is not text: {shown(value)}", where=where)
    if not value.strip():
        raise Refusal("the text is empty", where=where)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refusal(f"character {error.start + 1:,} of the text is half of a pair: \\u{ord(value[error.start]):04x}",
                      where=where) from None  # fmt: skip
    return value
