"""Which wiki templates leave words in a sentence, and which: a table by name for each language of a wiki.

Nothing is expanded, that takes MediaWiki itself: a template that is not listed leaves nothing. A wiki's own table comes
first, then the one of all wikis, which is the English Wikipedia's: others copy its templates. How a listed one becomes
words is in `template_words`. Pronunciations (IPA and its kin) are left out on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bertjobs.data.corpus import template_words as shown
from bertjobs.data.corpus.template_arguments import Arguments, Shown

_PART_OF_NAME = re.compile(r"lang-([a-z-]+)\Z")
_GERMAN_LANGUAGE = re.compile(r"([a-z]{2,3})S\Z")  # {{enS|word}}
_FRENCH_NUMERAL = re.compile(r"[IVXLC]+(?:e|er|re|ère|ème)?(?: siècle)?\Z")  # {{XIXe siècle}}


def words_of_template(content: str, language: str = "en") -> str | None:
    """The words that a reader sees of a template; None for one that is not listed.

    Args:
        content: what is between its braces, nested templates and links already as their words.
        language: of the wiki, as "en".
    """
    written, _, rest = content.partition("|")
    written = " ".join(written.replace("_", " ").split())
    name = written.lower()
    function, colon, _ = name.partition(":")
    if colon:  # "formatnum: 3003" is no template but a function of MediaWiki's parser
        on_value = _FUNCTIONS.get(function)
        value = Arguments((written[len(function) + 1 :].strip(),), {}, language)
        return on_value(value) if on_value else None
    form = _BY_LANGUAGE.get(language, {}).get(name) or _EVERYWHERE.get(name) or _by_pattern(written, name, language)
    return form(Arguments.parse(rest, language)) if form else None


def _by_pattern(written: str, name: str, language: str) -> Shown | None:
    """What is shown of a template whose name has a language or a number in it."""
    if match := _PART_OF_NAME.match(name):
        return shown.foreign_of(match[1])
    if name.startswith("transl"):
        return shown.last_of_several
    if language == "de" and (match := _GERMAN_LANGUAGE.match(written)):
        return shown.german_foreign_of(match[1])
    if language == "fr" and _FRENCH_NUMERAL.match(written):
        return shown.fixed(written)
    return None


def _named(form: Shown, names: str) -> dict[str, Shown]:
    """A form under several names, which are separated by commas."""
    return {name.strip(): form for name in names.split(",")}


_FUNCTIONS: Mapping[str, Shown] = {
    "formatnum": shown.number,
    "lc": shown.changed(str.lower),
    "uc": shown.changed(str.upper),
    "lcfirst": shown.changed(lambda text: text[:1].lower() + text[1:]),
    "ucfirst": shown.changed(lambda text: text[:1].upper() + text[1:]),
}

_FIXED = {
    "ndash": "\u2013", "en dash": "\u2013", "endash": "\u2013", "spaced ndash": " \u2013 ", "snd": " \u2013 ",
    "snds": " \u2013 ", "spnd": " \u2013 ", "spaced en dash": " \u2013 ", "mdash": "\u2014", "em dash": "\u2014",
    "emdash": "\u2014", "mdashb": "\u2014", "spaced mdash": " \u2014 ", "nbsp": " ", "nnbsp": " ", "spaces": " ",
    "space": " ", "thinsp": " ", "hair space": " ", "'": "'", "'s": "'s", "' \"": "' \"", "\" '": "\" '", "'\"": "'\"",
    "\"'": "\"'", "-\"": '"', "=": "=", "!": "|", "eqm": "=", "minus": "\u2212", "times": "\u00d7", "\\": " / ",
    "\u00b7": " \u00b7 ", "dot": " \u00b7 ", "middot": " \u00b7 ", "bull": " \u2022 ", "okina": "\u02bb",
    "hamza": "\u02be", "ayin": "\u02bf", "pi": "\u03c0", "degree": "\u00b0", "half": "1/2", "1/2": "1/2", "1/4": "1/4",
    "3/4": "3/4", "dagger": "\u2020",
}  # fmt: skip

_PREFIXES = {
    "us$": "US$", "usd": "US$", "gbp": "\u00a3", "\u00a3": "\u00a3", "euro": "\u20ac", "eur": "\u20ac",
    "\u20ac": "\u20ac", "a$": "A$", "aud": "A$", "cad": "C$", "c$": "C$", "inr": "\u20b9", "indian rupee": "\u20b9",
    "\u00a5": "\u00a5", "jpy": "\u00a5", "sqrt": "\u221a", "radic": "\u221a", "floruit": "fl. ", "fl.": "fl. ",
    "literal translation": "lit. ", "no.": "No. ", "us patent": "U.S. Patent ",
}  # fmt: skip

_EVERYWHERE: Mapping[str, Shown] = {
    **{name: shown.fixed(text) for name, text in _FIXED.items()},
    **{name: shown.after(text) for name, text in _PREFIXES.items()},
    **_named(
        shown.first,
        "nowrap, nobr, nobold, noitalic, nobreak, small, smaller, big, large, larger, resize, em, strong, "
        "abbr, tooltip, hover title, sup, sub, quote, blockquote, cquote, angbr, angle bracket, sic, not a "
        "typo, as written, sc, smallcaps, small caps, smcaps, var, mvar, math, code, tt, mono, chem2, "
        "vanchor, visible anchor, unicode, polytonic, nihongo2, nastaliq, nq, iast, birth-date, birth-date "
        "and age, death-date, death-date and age, birth year and age, death year and age, bibleref2, flag, "
        "flagcountry, flagu, citation needed span, cn-span, underline, notatypo, hebrew",
    ),
    **_named(
        shown.last,
        "highlight, font color, fontcolor, color, colour, background color, sort, script/hebrew, "
        "script/arabic, script/greek",
    ),
    **_named(shown.last_of_several, "lang, lang2, rtl-lang, langue, tlit, script, native name, wikt-lang"),
    **_named(shown.joined(""), "chem, linktext"),
    **_named(shown.joined(" "), "gaps"),
    **_named(shown.joined(" ", 2), "sortname, bibleverse, bibleref"),
    **_named(shown.interlanguage_link, "ill, interlanguage link, link-interwiki"),
    **_named(shown.convert, "convert, cvt"),
    **_named(
        shown.date_of_numbers,
        "birth date, birth date and age, bda, dob, death date, death date and age, dda, start date, start "
        "date and age, end date, end date and age, film date, release date, date, dts",
    ),
    "langx": shown.foreign,
    "formatnum": shown.number,
    "format price": shown.number,
    "nts": shown.number,
    "val": shown.value,
    "frac": shown.fraction,
    "sfrac": shown.fraction,
    "fraction": shown.fraction,
    "e": shown.power_of_ten,
    "x10^": shown.power_of_ten,
    "as of": shown.as_of,
    "circa": shown.circa,
    "c.": shown.circa,
    "ca.": shown.circa,
    "reign": shown.reign,
    "oldstyledate": shown.old_style_date,
    "coord": shown.coordinates,
    "nihongo": shown.with_readings,
    "zh": shown.chinese,
    "lang-zh": shown.chinese,
    "gloss": shown.quoted("'", "'"),
    "\"": shown.quoted('"', '"'),
    **{name.lower(): shown.ship(name) for name in (
        "USS", "HMS", "SS", "RMS", "MV", "HMAS", "HMCS", "HMNZS", "USNS", "USCGC", "SMS", "INS", "ORP")},
    **_named(shown.ship_class, "sclass, sclass-, sclass2, sclass2-"),
}  # fmt: skip

_GERMAN: Mapping[str, Shown] = {
    **_named(shown.date_of_numbers, "datum, formatdate"),
    **_named(shown.first, "polytonisch, zitat"),
    **_named(shown.fraction, "bruch"),
    "höhe": shown.german_height,
    "§": shown.german_paragraph,
    "zahlexp": shown.german_power,
}

_FRENCH: Mapping[str, Shown] = {
    **{name: shown.fixed(text) for name, text in {
        "er": "er", "e": "e", "re": "re", "ère": "re", "ème": "e", "nd": "nd", "nde": "nde", "1er": "1er",
        "av jc": "av. J.-C.", "-av jc": "av. J.-C.", "ap jc": "apr. J.-C.", "apr jc": "apr. J.-C.",
    }.items()},
    **{name: shown.after(text) for name, text in {
        "m.": "M. ", "mme": "Mme ", "mlle": "Mlle ", "dr": "Dr ", "pr": "Pr ", "mgr": "Mgr ", "no": "no ",
        "nos": "nos ", "numéro": "no ", "n°": "no ", "page": "p. ", "p.": "p. ", "pp.": "p. ", "vol.": "vol. ",
        "tome": "t. ", "t.": "t. ", "chap.": "chap. "}.items()},
    **_named(
        shown.first,
        "exp, exposant, ind, indice, référence nécessaire, refnec, référence souhaitée, refsou, pas clair, "
        "terme défini, abréviation, abréviation discrète, abrd, petites capitales, pc, petit, lnobr, "
        "souligner, citation bloc",
    ),
    **_named(shown.unit, "unité, nombre, nb, tunité"),
    **_named(
        shown.date_of_numbers,
        "date, date-, date de naissance, date de naissance-, date de décès, date de décès-, date naissance, "
        "date décès, date rapide",
    ),
    **_named(shown.french_century(""), "s, s-, siècle, sp, sp-, s2, s2-"),
    **_named(shown.french_century(" av. J.-C."), "-s, -s-, -sp, -sp-"),
    **_named(shown.quoted("« ", " »"), "citation, guil, guillemets"),
    "citation étrangère": shown.quoted("« ", " »", place=1),
    **_named(shown.with_readings, "japonais, coréen, chinois"),
    **_named(shown.joined(""), "fchim, formule chimique"),
    "incise": shown.french_aside,
    "lien": shown.french_link,
    "heure": shown.french_time,
    "convertir": shown.convert,
}  # fmt: skip

_SPANISH: Mapping[str, Shown] = {
    **_named(shown.unit, "unidad, número, num"),
    **_named(
        shown.date_of_numbers,
        "fecha, fecha de inicio, fecha de fin, fecha de nacimiento, fecha de fallecimiento",
    ),
    **_named(shown.first, "esd, versalita, versalitas, enlace interlingüe"),
    **_named(shown.quoted("«", "»"), "cita, comillas"),
    "siglo": shown.spanish_century,
    "convertir": shown.convert,
}

_ITALIAN: Mapping[str, Shown] = {
    **{name: shown.after(f"in {name} ") for name in (
        "inglese", "francese", "tedesco", "spagnolo", "latino", "greco", "russo", "giapponese", "cinese", "arabo",
        "portoghese", "polacco", "turco")},
    **_named(shown.first, "tutto attaccato, ta, maiuscoletto, chiarire"),
    **_named(shown.date_of_numbers, "data"),
    "m": shown.value,
    "converti": shown.convert,
}  # fmt: skip

_PORTUGUESE: Mapping[str, Shown] = {
    **_named(shown.unit, "fmtn"),
    **_named(shown.date_of_numbers, "dtlink, dtext, data, dni, nascimento"),
    **_named(shown.after("século "), "séc, século"),
    "converter": shown.convert,
}

_BY_LANGUAGE: Mapping[str, Mapping[str, Shown]] = {
    "de": _GERMAN,
    "fr": _FRENCH,
    "es": _SPANISH,
    "it": _ITALIAN,
    "pt": _PORTUGUESE,
}
