"""How wiki templates show their arguments: each form takes a template's arguments and the wiki's language.

Names and arguments are those of the templates' own documentation, for instance
https://en.wikipedia.org/wiki/Template:Convert/doc. What a form cannot make sense of leaves no words.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bertjobs.data.corpus.template_arguments import Arguments, Shown
from bertjobs.data.corpus.written_dates import written_date

_LONGEST_NUMBER = 50  # characters
_RANGE_WORDS = {
    "to": "to", "and": "and", "or": "or", "by": "by", "x": "x", "xx": "\u00d7", "\u00d7": "\u00d7", "-": "-",
    "\u2013": "\u2013", "to(-)": "to", "and(-)": "and", "+/-": "±", "±": "±", "+": "+",
}  # fmt: skip
_UNITS = {"km2": "km²", "m2": "m²", "cm2": "cm²", "mm2": "mm²", "sqmi": "sq mi", "sqft": "sq ft", "sqkm": "km²",
          "sqm": "m²", "sqin": "sq in", "sqyd": "sq yd", "m3": "m³", "km3": "km³", "cm3": "cm³", "cuft": "cu ft",
          "cumi": "cu mi", "cuin": "cu in", "C": "°C", "F": "°F", "C-change": "°C", "F-change": "°F", "USgal": "US gal",
          "impgal": "imp gal", "ftlb": "ft lb", "lbf": "lbf", "ft3": "cu ft", "nmi": "nmi", "acre": "acres",
          "foot": "ft", "/sqkm": "/km²", "/km2": "/km²", "/sqmi": "/sq mi"}  # fmt: skip
_SUPERSCRIPT = str.maketrans("0123456789-\u2212+", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻⁺")
_NUMBER_MARKS = {"en": ",.", "zh": ",.", "ja": ",.", "de": ".,", "nl": ".,", "it": ".,", "pt": ".,", "id": ".,",
                 "tr": ".,", "fr": " ,", "es": " ,", "pl": " ,", "ru": " ,", "uk": " ,", "sv": " ,", "cs": " ,",
                 "fi": " ,"}  # fmt: skip
_FROM_FIVE_DIGITS = ("es", "it", "pl", "pt")  # languages that leave 1234 as it is
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?\Z")
_DIGITS = re.compile(r"(?<![\d.,])\d{4,}(?![.,]?\d)")
_SHIP_FORMAT_NAME, _SHIP_FORMAT_NO_HULL, _SHIP_FORMAT_NO_PREFIX = "2", "6", "3"

_LANGUAGE_NAMES = {
    "af": "Afrikaans", "sq": "Albanian", "am": "Amharic", "ar": "Arabic", "hy": "Armenian", "az": "Azerbaijani",
    "eu": "Basque", "be": "Belarusian", "bn": "Bengali", "ber": "Berber languages", "bs": "Bosnian",
    "bg": "Bulgarian", "my": "Burmese", "ca": "Catalan", "zh": "Chinese", "hr": "Croatian", "cs": "Czech",
    "da": "Danish", "nl": "Dutch", "en": "English", "eo": "Esperanto", "et": "Estonian", "fi": "Finnish",
    "fr": "French", "gl": "Galician", "ka": "Georgian", "de": "German", "el": "Greek", "grc": "Ancient Greek",
    "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian", "is": "Icelandic", "id": "Indonesian",
    "ga": "Irish", "it": "Italian", "ja": "Japanese", "kk": "Kazakh", "km": "Khmer", "ko": "Korean", "ku": "Kurdish",
    "la": "Latin", "lv": "Latvian", "lt": "Lithuanian", "mk": "Macedonian", "ms": "Malay", "mt": "Maltese",
    "mr": "Marathi", "mn": "Mongolian", "ne": "Nepali", "no": "Norwegian", "nb": "Norwegian", "nn": "Norwegian",
    "ang": "Old English", "fa": "Persian", "pl": "Polish", "pt": "Portuguese", "pa": "Punjabi", "ro": "Romanian",
    "ru": "Russian", "rus": "Russian", "sa": "Sanskrit", "gd": "Scottish Gaelic", "sr": "Serbian", "sk": "Slovak",
    "sl": "Slovene", "so": "Somali", "es": "Spanish", "sw": "Swahili", "sv": "Swedish", "tl": "Tagalog",
    "ta": "Tamil", "te": "Telugu", "th": "Thai", "bo": "Tibetan", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu",
    "uz": "Uzbek", "vi": "Vietnamese", "cy": "Welsh", "yi": "Yiddish", "zu": "Zulu",
}  # fmt: skip
_GERMAN_LANGUAGE_NAMES = {
    "ar": "arabisch", "bg": "bulgarisch", "cs": "tschechisch", "da": "dänisch", "de": "deutsch", "el": "griechisch",
    "en": "englisch", "es": "spanisch", "fa": "persisch", "fi": "finnisch", "fr": "französisch",
    "grc": "altgriechisch", "he": "hebräisch", "hr": "kroatisch", "hu": "ungarisch", "it": "italienisch",
    "ja": "japanisch", "ka": "georgisch", "ko": "koreanisch", "la": "lateinisch", "nl": "niederländisch",
    "no": "norwegisch", "pl": "polnisch", "pt": "portugiesisch", "ro": "rumänisch", "ru": "russisch",
    "sk": "slowakisch", "sl": "slowenisch", "sr": "serbisch", "sv": "schwedisch", "tr": "türkisch",
    "uk": "ukrainisch", "zh": "chinesisch",
}  # fmt: skip
_GERMAN_HEIGHTS = {"DE-NN": " ü. NN", "DE-NHN": " ü. NHN", "AT": " ü. A.", "CH": " ü. M.", "": " Höhe"}


def fixed(text: str) -> Shown:
    """Always the same text."""
    return lambda _arguments: text


def after(text: str) -> Shown:
    """A text, and the first argument."""
    return lambda arguments: text + arguments.at(0)


def changed(change: Callable[[str], str]) -> Shown:
    """The first argument, changed."""
    return lambda arguments: change(arguments.at(0))


def joined(by: str, at_most: int | None = None) -> Shown:
    """The arguments by place."""
    return lambda arguments: by.join(argument for argument in arguments.placed[:at_most] if argument)


def quoted(opening: str, closing: str, place: int = 0) -> Shown:
    """An argument in quotation marks; the last where this place has none."""

    def show(arguments: Arguments) -> str:
        text = arguments.at(place, "texte", "text") or last(arguments)
        return f"{opening}{text}{closing}" if text else ""

    return show


def first(arguments: Arguments) -> str:
    """The first argument by place."""
    return arguments.at(0, "text", "texte")


def last(arguments: Arguments) -> str:
    """The last argument by place."""
    return arguments.placed[-1] if arguments.placed else ""


def last_of_several(arguments: Arguments) -> str:
    """The last argument of at least two: the first is a language."""
    return arguments.placed[-1] if len(arguments.placed) > 1 else arguments.at(1, "text", "texte")


def interlanguage_link(arguments: Arguments) -> str:
    """{{ill|Name|de|Fremder Name|lt=label}}; until 2016 the language came first."""
    old = len(arguments.placed) > 1 and re.fullmatch(r"[a-z]{2,3}", arguments.at(0)) is not None
    return arguments.named.get("lt") or arguments.at(int(old))


# ---------------------------------------------------------------- numbers and units


def number(arguments: Arguments) -> str:
    """{{formatnum:1234.5}} in the language's way."""
    return _grouped(arguments.at(0), arguments.language)


def _grouped(text: str, language: str) -> str:
    match, marks = _NUMBER.match(text), _NUMBER_MARKS.get(language)
    if match is None or marks is None or len(text) > _LONGEST_NUMBER:
        return text
    minus, whole, decimals = match[1], match[2], match[3]
    if len(whole) > (4 if language in _FROM_FIVE_DIGITS else 3):
        whole = f"{int(whole):,}".replace(",", marks[0])
    return minus + whole + (f"{marks[1]}{decimals}" if decimals else "")


def unit(arguments: Arguments) -> str:
    """{{unité|3|km|2}}: a number, then units, each with an exponent or without."""
    amount, language = arguments.at(0), arguments.language
    words = [_grouped(amount, language) if _NUMBER.match(amount)
             else _DIGITS.sub(lambda match: _grouped(match[0], language), amount)]  # fmt: skip
    for place in range(1, len(arguments.placed), 2):
        exponent = arguments.at(place + 1).translate(_SUPERSCRIPT)
        words.append(arguments.at(place) + ("" if exponent == "¹" else exponent))
    return " ".join(word for word in words if word)


def value(arguments: Arguments) -> str:
    """{{val|3.5|0.2|u=km}}: a number, its uncertainty, a power of ten, a unit."""
    measured, *spread = arguments.placed[:3] or ("",)
    plain = arguments.named.get("fmt") == "none" or len(measured) < 5
    text = measured if plain else _grouped(measured, arguments.language)
    if len(spread) == 1 and spread[0]:
        text += spread[0] if spread[0][0] in "+-\u2212(" else f"±{spread[0]}"
    elif len(spread) == 2:
        text += "+" + spread[0].lstrip("+") + "\u2212" + spread[1].lstrip("-\u2212")
    if arguments.named.get("e"):
        text += _power_of_ten(arguments.named["e"])
    of = arguments.called("u", "ul")
    per = arguments.called("up", "upl")
    suffix = of + (f"/{per}" if per else "")
    return arguments.named.get("p", "") + text + (suffix if suffix in ("%", "°") else f" {suffix}" if suffix else "")


def power_of_ten(arguments: Arguments) -> str:
    """{{e|24}}."""
    return _power_of_ten(arguments.at(0))


def _power_of_ten(exponent: str) -> str:
    return f"\u00d710{exponent.translate(_SUPERSCRIPT)}"


def fraction(arguments: Arguments) -> str:
    """{{frac|1|2}}, {{frac|3|1|2}} (three and a half), {{frac|3}} (a third)."""
    match arguments.placed[:3]:
        case (below,):
            return f"1/{below}"
        case (above, below):
            return f"{above}/{below}"
        case (whole, above, below):
            return f"{whole} {above}/{below}"
    return ""


def convert(arguments: Arguments) -> str:
    """{{convert|5|km|mi}}, {{convert|3|to|4|ft|m}}, {{convert|5|ft|10|in|m}}: what is converted, not its result."""
    given = [argument for argument in arguments.placed if argument]
    if len(given) < 2:
        return ""
    if len(given) >= 4 and given[1] in _RANGE_WORDS:
        quantity = [given[0], _RANGE_WORDS[given[1]], given[2], given[3]]
    elif len(given) >= 5 and (given[1], given[3]) in (("ft", "in"), ("lb", "oz"), ("st", "lb"), ("m", "cm")):
        quantity = given[:4]
    else:
        quantity = given[:2]
    if quantity != ["1", "acre"]:
        quantity[-1] = _UNITS.get(quantity[-1], quantity[-1])
    if arguments.named.get("adj") == "on" and len(quantity) == 2:
        return "-".join(quantity)
    return " ".join(quantity)


def coordinates(arguments: Arguments) -> str:
    """{{coord|51|30|N|0|7|W}}, {{coord|51.5|-0.12}}; nothing where they stand at the top of the page only."""
    display = arguments.named.get("display", "inline").lower()
    if "inline" not in display and display != "it":
        return ""
    sides: list[str] = []
    numbers: list[str] = []
    for argument in arguments.placed[:8]:
        if argument.upper() in ("N", "S", "E", "W", "O"):
            marks = zip(numbers, "°\u2032\u2033", strict=False)
            sides.append("".join(number + mark for number, mark in marks) + argument.upper())
            numbers = []
        elif re.fullmatch(r"-?\d+(?:\.\d+)?", argument):
            numbers.append(argument)
    if len(sides) == 2:
        return " ".join(sides)
    if not sides and len(numbers) == 2:
        signs = zip(numbers, ("NS", "EW"), strict=True)
        return " ".join(f"{number.lstrip('-')}°{side[number.startswith('-')]}" for number, side in signs)
    return ""


# ---------------------------------------------------------------- dates


def date_of_numbers(arguments: Arguments) -> str:
    """{{birth date|1960|5|3}}, {{date|3|mai|1960}}, {{date|1960-05-03}}; another text as it is."""
    given = [argument for argument in arguments.placed[:3] if argument]
    if len(given) == 1 and (iso := re.fullmatch(r"(\d{4})-(\d\d?)-(\d\d?)", given[0])):
        given = list(iso.groups())
    if len(given) == 3 and len(given[0]) < 3 <= len(given[2]):
        given.reverse()
    match given:
        case [year, month, day]:
            return written_date(year, month, day, arguments.language, day_first=arguments.says("df"))
        case [year, month] if year[:3].isdecimal() and len(year) > 2:
            return written_date(year, month, "", arguments.language)
        case _:
            return " ".join(given)


def as_of(arguments: Arguments) -> str:
    """{{as of|2010|5|lc=y}}."""
    if alternative := arguments.named.get("alt"):
        return alternative
    words = "since" if arguments.says("since") else "as of"
    words = words if arguments.says("lc") else words.capitalize()
    if not arguments.at(0):
        return words
    day_first = arguments.named.get("df", "").lower() != "us"
    return f"{words} {written_date(arguments.at(0), arguments.at(1), arguments.at(2), 'en', day_first=day_first)}"


def circa(arguments: Arguments) -> str:
    """{{circa|1900|1910}}."""
    return " \u2013 ".join(f"c. {year}" for year in arguments.placed[:2] if year) or "c."


def reign(arguments: Arguments) -> str:
    """{{reign|1500|1520}}."""
    return "r. " + "\u2013".join(arguments.placed[:2])


def old_style_date(arguments: Arguments) -> str:
    """{{OldStyleDate|February 2|1905|January 20}}."""
    day, year, old = arguments.at(0), arguments.at(1), arguments.at(2)
    return f"{day} [O.S. {old}] {year}".strip() if old else f"{day} {year}".strip()


# ---------------------------------------------------------------- other languages


def foreign(arguments: Arguments) -> str:
    """{{langx|ru|Москва|Moskva|Moscow}}."""
    return foreign_of(arguments.at(0))(arguments._replace(placed=arguments.placed[1:]))


def foreign_of(code: str) -> Shown:
    """{{lang-ru|Москва|Moskva|Moscow}}; on other wikis than the English one the word alone."""

    def show(arguments: Arguments) -> str:
        word = arguments.at(0, "text")
        name = _LANGUAGE_NAMES.get(code) or _LANGUAGE_NAMES.get(code.split("-")[0], "")
        label = arguments.named.get("label") or name
        if arguments.language != "en" or not label or label == "none" or not word:
            return word
        romanised = arguments.at(1, "translit", "r")
        meaning = arguments.at(2, "lit", "translation")
        return (
            f"{label}: {word}"
            + (f", romanized: {romanised}" if romanised else "")
            + (f", lit. '{meaning}'" if meaning else "")
        )

    return show


def german_foreign_of(code: str) -> Shown:
    """{{enS|word|de=Wort}}."""

    def show(arguments: Arguments) -> str:
        name, meaning = _GERMAN_LANGUAGE_NAMES.get(code), arguments.named.get("de")
        words = [name or "", arguments.at(0), f"\u201a{meaning}\u2018" if meaning else ""]
        return " ".join(word for word in words if word) if arguments.at(0) else ""

    return show


def with_readings(arguments: Arguments) -> str:
    """{{nihongo|bayonet|銃剣|jūken}}."""
    word, *readings = [argument for argument in arguments.placed if argument] or [""]
    return f"{word} ({', '.join(readings)})" if readings else word


def chinese(arguments: Arguments) -> str:
    """{{zh|t=...|s=...|p=...}}."""
    labels = {"c": "Chinese", "t": "traditional Chinese", "s": "simplified Chinese", "p": "pinyin",
              "w": "Wade\u2013Giles", "j": "Jyutping", "l": "lit."}  # fmt: skip
    if arguments.says("labels") or arguments.named.get("labels") == "no":
        labels = dict.fromkeys(labels, "")
    shown = [f"{label}: {arguments.named[key]}" if label else arguments.named[key]
             for key, label in labels.items() if arguments.named.get(key)]  # fmt: skip
    return "; ".join(shown) or arguments.at(0)


# ---------------------------------------------------------------- ships, and what single languages have


def ship(prefix: str) -> Shown:
    """{{USS|Hornet|CV-12|6}}."""

    def show(arguments: Arguments) -> str:
        name, hull, form = arguments.at(0), arguments.at(1), arguments.at(2)
        words = [] if form in (_SHIP_FORMAT_NAME, _SHIP_FORMAT_NO_PREFIX) else [prefix]
        words.append(name)
        if hull and form not in (_SHIP_FORMAT_NAME, _SHIP_FORMAT_NO_HULL):
            words.append(f"({hull})")
        return " ".join(words)

    return show


def ship_class(arguments: Arguments) -> str:
    """{{sclass|Nimitz|aircraft carrier}}."""
    return f"{arguments.at(0)}-class {arguments.at(1)}".strip()


def german_height(arguments: Arguments) -> str:
    """{{Höhe|1234|DE-NHN}}."""
    return f"{arguments.at(0)} m{_GERMAN_HEIGHTS.get(arguments.at(1), '')}" if arguments.at(0) else ""


def german_paragraph(arguments: Arguments) -> str:
    """{{§|5|BGB}}."""
    return f"§ {' '.join(arguments.placed[:2])}".strip()


def german_power(arguments: Arguments) -> str:
    """{{ZahlExp|5|24|post=kg}}."""
    power = f"{arguments.at(0)}·10{arguments.at(1).translate(_SUPERSCRIPT)}"
    return f"{power} {arguments.named.get('post', '')}".strip()


def french_century(era: str) -> Shown:
    """{{s|XIX}}, {{s|XIX|e}}, {{s2|XVI|XVII}}, {{sp|XIX|e|au|XX|e}}; ``era`` comes after them."""

    def show(arguments: Arguments) -> str:
        numerals, between = [], " et "
        for argument in arguments.placed:
            if re.fullmatch(r"[IVXLC]+", argument):
                numerals.append(argument)
            elif argument in ("au", "et", "-", "\u2013", "à", "ou", "du"):
                between = f" {argument} "
        text = between.join(f"{numeral}{'er' if numeral == 'I' else 'e'}" for numeral in numerals)
        together = len(numerals) > 1 and between == " et "
        return f"{text} siècle{'s' if together else ''}{era}" if text else ""

    return show


def spanish_century(arguments: Arguments) -> str:
    """{{siglo|XIX||s}}; the third argument adds the word, the second the era."""
    word = {"s": "siglo ", "S": "Siglo "}.get(arguments.at(2), "")
    era = {"a": " a. C.", "d": " d. C."}.get(arguments.at(1)[:1].lower(), "")
    return f"{word}{arguments.at(0)}{era}"


def french_aside(arguments: Arguments) -> str:
    """{{incise|texte}}; with "stop" a stop follows, and no dash."""
    return f"\u2013 {arguments.at(0)}" + ("" if arguments.at(1).startswith("stop") else " \u2013")


def french_link(arguments: Arguments) -> str:
    """{{lien|langue=en|trad=Name|fr=Nom|texte=texte}}."""
    return arguments.named.get("texte") or arguments.named.get("fr") or arguments.at(0, "trad")


def french_time(arguments: Arguments) -> str:
    """{{heure|12|30}}."""
    return f"{arguments.at(0)} h {arguments.at(1)}".strip() if arguments.at(0) else ""
