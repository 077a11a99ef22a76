"""Templates as a reader of the article sees them; the expected words are those that the wikis' own pages show."""

from __future__ import annotations

import time

import pytest

from bertjobs.data.corpus.templates import words_of_template
from bertjobs.data.corpus.wikitext import HOLE, read_article

ENGLISH = [
    ("formatnum:3", "3"),
    ("formatnum: 3003", "3,003"),
    ("formatnum:1234567.891", "1,234,567.891"),
    ("formatnum:many", "many"),
    ("lang|fr|mot", "mot"),
    ("lang|fr", ""),
    ("langx|de|Wort", "German: Wort"),
    ("lang-ru|Москва|Moskva", "Russian: Москва, romanized: Moskva"),
    ("langx|ru|Москва|Moskva|lit=place", "Russian: Москва, romanized: Moskva, lit. 'place'"),
    ("langx|de|Wort|label=none", "Wort"),
    ("lang-qqq|word", "word"),
    ("transl|ar|ALA|kitab", "kitab"),
    ("transliteration|ar|kitab", "kitab"),
    ("nowrap|a b", "a b"),
    ("nowrap|1=a = b", "a = b"),
    ("abbr|TV|television", "TV"),
    ("val|3.5|u=km", "3.5 km"),
    ("val|3.5|0.2|ul=km", "3.5±0.2 km"),
    ("val|3.5|+0.2|-0.1", "3.5+0.2\u22120.1"),
    ("val|6.241|e=18", "6.241\u00d710¹⁸"),
    ("val|12345|u=m|up=s", "12,345 m/s"),
    ("val|5|u=%", "5%"),
    ("frac|1|2", "1/2"),
    ("frac|3|1|2", "3 1/2"),
    ("frac|3", "1/3"),
    ("sfrac|1|4", "1/4"),
    ("convert|5|km|mi", "5 km"),
    ("convert|5|km|mi|abbr=on", "5 km"),
    ("convert|5|km|mi|adj=on", "5-km"),
    ("convert|3|to|4|ft|m", "3 to 4 ft"),
    ("convert|3|xx|4|m", "3 \u00d7 4 m"),
    ("convert|5|ft|10|in|m", "5 ft 10 in"),
    ("convert|5|km2|sqmi", "5 km²"),
    ("convert|20|C|F", "20 °C"),
    ("birth date and age|1960|5|3", "May 3, 1960"),
    ("Birth date|df=yes|1960|05|03", "3 May 1960"),
    ("death date and age|1960|5|3|1900|1|1", "May 3, 1960"),
    ("birth-date|3 May 1960", "3 May 1960"),
    ("start date|1960|5", "May 1960"),
    ("date|1960-05-03", "May 3, 1960"),
    ("as of|2010", "As of 2010"),
    ("as of|2010|5|lc=y", "as of May 2010"),
    ("as of|2010|alt=in 2010", "in 2010"),
    ("circa", "c."),
    ("circa|1900|1910", "c. 1900 \u2013 c. 1910"),
    ("OldStyleDate|February 2|1905|January 20", "February 2 [O.S. January 20] 1905"),
    ("USS|Hornet|CV-12", "USS Hornet (CV-12)"),
    ("USS|Hornet|CV-12|6", "USS Hornet"),
    ("HMS|Victory||2", "Victory"),
    ("sclass|Nimitz|aircraft carrier", "Nimitz-class aircraft carrier"),
    ("coord|51|30|N|0|7|W", "51°30\u2032N 0°7\u2032W"),
    ("coord|51.5|-0.12", "51.5°N 0.12°W"),
    ("coord|51.5|-0.12|display=title", ""),
    ("ill|Name|de|Fremder Name", "Name"),
    ("ill|de|Name|Fremder Name", "Name"),
    ("interlanguage link|Name|de|lt=label", "label"),
    ("nihongo|bayonet|銃剣|jūken", "bayonet (銃剣, jūken)"),
    ("zh|t=臺灣|s=台湾|p=Táiwān", "traditional Chinese: 臺灣; simplified Chinese: 台湾; pinyin: Táiwān"),
    ("chem|H|2|O", "H2O"),
    ("US$|5 million", "US$5 million"),
    ("font color|red|words", "words"),
    ("gloss|word", "'word'"),
    ("convert|230|acre|ha", "230 acres"),
    ("convert|1|acre|ha", "1 acre"),
    ("bibleverse|Mark|3:25|KJV", "Mark 3:25"),
]
FRENCH = [
    ("date|3|mai|1960", "3 mai 1960"),
    ("date|1|1|2000", "1er janvier 2000"),
    ("date de naissance|3|mai|1960", "3 mai 1960"),
    ("s|XIX", "XIXe siècle"),
    ("s|I", "Ier siècle"),
    ("s2|XVI|XVII", "XVIe et XVIIe siècles"),
    ("sp|XIX|e|au|XX|e", "XIXe au XXe siècle"),
    ("-s|V", "Ve siècle av. J.-C."),
    ("XIXe siècle", "XIXe siècle"),
    ("unité|3|km", "3 km"),
    ("unité|35000|km|2", "35 000 km²"),
    ("unité|12|m|3|s|-1", "12 m³ s⁻¹"),
    ("unité|12500.5|m", "12 500,5 m"),
    ("unité|de 3 à 35000 habitants", "de 3 à 35 000 habitants"),
    ("nombre|1234|habitants", "1 234 habitants"),
    ("formatnum:12345.6", "12 345,6"),
    ("citation|mot", "« mot »"),
    ("citation étrangère|en|word", "« word »"),
    ("lang|en|word", "word"),
    ("lang|en|texte=word", "word"),
    ("M.|Dupont", "M. Dupont"),
    ("référence nécessaire|un texte|date=2010", "un texte"),
    ("lien|langue=en|trad=Name|fr=Nom|texte=le nom", "le nom"),
    ("heure|12|30", "12 h 30"),
    ("1er", "1er"),
    ("e", "e"),
    ("incise|comme ici", "\u2013 comme ici \u2013"),
]
GERMAN = [
    ("Datum|3|5|1960", "3. Mai 1960"),
    ("lang|en|word", "word"),
    ("enS|word", "englisch word"),
    ("frS|mot|de=Wort", "französisch mot \u201aWort\u2018"),
    ("Höhe|1234|DE-NHN", "1234 m ü. NHN"),
    ("formatnum:12345.6", "12.345,6"),
    ("§|5|BGB", "§ 5 BGB"),
    ("ZahlExp|5|24|post=kg", "5·10²⁴ kg"),
]
SPANISH = [
    ("fecha|3|5|1960", "3 de mayo de 1960"),
    ("unidad|3|km", "3 km"),
    ("unidad|35000|km|2", "35 000 km²"),
    ("siglo|XIX||s", "siglo XIX"),
    ("siglo|I|a|s", "siglo I a. C."),
    ("esd|10 km", "10 km"),
    ("cita|palabra", "«palabra»"),
    ("formatnum:1234", "1234"),
    ("lang-en|word", "word"),
]
ITALIAN = [
    ("M|5|ul=km", "5 km"),
    ("inglese|word", "in inglese word"),
    ("Data|1960|5|3", "3 maggio 1960"),
    ("formatnum:12345", "12.345"),
    ("converti|5|km|mi", "5 km"),
]
CASES = [
    (language, template, words)
    for language, cases in (("en", ENGLISH), ("fr", FRENCH), ("de", GERMAN), ("es", SPANISH), ("it", ITALIAN))
    for template, words in cases
]


@pytest.mark.parametrize(("language", "template", "words"), CASES)
def test_a_template_as_its_words(language: str, template: str, words: str) -> None:
    assert words_of_template(template, language) == words


@pytest.mark.parametrize(
    "template",
    [
        "IPA|x",
        "IPAc-en|x",
        "citation needed|date=May 2010",
        "cite book|title=x",
        "Infobox|a=b",
        "#if:x|y|z",
        "sfn|A|1",
        "",
    ],
)
def test_others_leave_nothing(template: str) -> None:
    assert words_of_template(template) is None
    assert read_article(f"Before{{{{{template}}}}} and after it.").text == "Before and after it."


def test_an_equals_sign_inside_a_template_is_no_name_of_an_argument_around_it() -> None:
    assert (
        read_article("So {{nowrap|''Z'' {{=}} 1}} and {{nowrap|[[x|a = b]] c}} hold.").text
        == "So Z = 1 and a = b c hold."
    )


def test_templates_within_templates_and_links() -> None:
    text = "It ({{lang-el|{{script|Grek|Ἀθῆναι}}}}, {{c.|{{formatnum:1200}}}}) is [[x|{{nowrap|a b}}]]:"
    assert read_article(f"{text} {{{{lang|fr|[[mot]]}}}}.").text == "It (Greek: Ἀθῆναι, c. 1,200) is a b: mot."


def test_a_hole_is_marked_where_someone_asks_for_it() -> None:
    text = "A {{a}} b.{{b|x}}\n{{Infobox|x}} {{c}}\nC {{nowrap|d}}.\n\n{{d}}\nE."
    asked: list[str] = []

    def mark(content: str) -> str:
        asked.append(content)
        return "" if content.startswith("b") else HOLE

    assert read_article(text, in_place_of=mark).text == f"A {HOLE} b.\nC d.\nE."
    assert asked == ["a", "b|x", "Infobox|x", "c", "d"]
    assert read_article(text).text == "A b.\nC d.\nE."


@pytest.mark.parametrize(
    "unit", ["{{val|", "{{convert|1|", "{{lang|fr|", "{{1=", "{{nowrap|9999=", "{{formatnum:", "{{date|"]
)
def test_hostile_templates_take_no_longer_than_their_length_allows(unit: str) -> None:
    started = time.process_time()
    for end in ("", "}}" * (100_000 // len(unit))):
        read_article(unit * (100_000 // len(unit)) + end + " and a sentence at the end.")
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "arguments", ["", "|", "||||", "|x", "|=", "|1=", "|1000000=x", "|" + "9" * 5000, "|-|-|-|-", "|a|b|c|d|e|f"]
)
def test_every_template_takes_any_arguments(arguments: str) -> None:
    from bertjobs.data.corpus import templates

    for language, table in (*templates._BY_LANGUAGE.items(), ("en", templates._EVERYWHERE)):
        for name in table:
            assert isinstance(words_of_template(name + arguments, language), str), (language, name)
