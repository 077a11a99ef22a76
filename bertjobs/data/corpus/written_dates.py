"""Dates as an article of some language writes them."""

from __future__ import annotations

_MONTHS = {
    "en": "January February March April May June July August September October November December",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "pt": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
    "nl": "januari februari maart april mei juni juli augustus september oktober november december",
}
_OF = {"es": " de ", "pt": " de "}


def written_date(year: str, month: str, day: str, language: str, *, day_first: bool = False) -> str:
    """A date in words.

    Args:
        month: its number, or a name, which stays; "" for the year alone.
        day: "" for the month alone.
        language: of the article; the month's name is English where it is not one of those known here.
        day_first: in English, "3 May 1960" instead of "May 3, 1960".
    """
    name = month
    if month.isdecimal() and 1 <= int(month[:3]) <= 12:
        name = _MONTHS.get(language, _MONTHS["en"]).split()[int(month) - 1]
    of = _OF.get(language, " ")
    if not name or not day:
        return of.join(part for part in (name, year) if part)
    day = day.lstrip("0") or day
    if language in ("en", "") and not day_first:
        return f"{name} {day}, {year}" if year else f"{name} {day}"
    marked = {"de": f"{day}.", "fr": "1er" if day == "1" else day}.get(language, day)
    return of.join(part for part in (f"{marked} {name}" if of == " " else f"{marked}{of}{name}", year) if part)
