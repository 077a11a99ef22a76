"""Names of languages, and which way of splitting sentences a corpus gets."""

from __future__ import annotations

import pytest

from bertjobs.data.corpus import SENTENCES
from bertjobs.data.text.languages import language_name
from bertjobs.data.text.sentences import LANGUAGES, split_sentences
from bertjobs.data.text.splitters import AUTO, SPLITTERS, chosen_splitter, splitter
from bertjobs.data.text.unicode_sentences import split_unicode
from bertjobs.errors import InputError

TEXT = " One by Mr. Smith. Two\nthree.\n\n \nFour。five "


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("zh", "chinese"),
        ("zh-Hant", "chinese"),
        ("ja", "japanese"),
        ("th", "thai"),
        ("my", "burmese"),
        ("Myanmar", "burmese"),
        ("fa", "persian"),
        ("farsi", "persian"),
        ("pt_BR", "portuguese"),
        ("Slovenian", "slovene"),
        ("nb", "norwegian"),
        (" English ", "english"),
        ("haitian creole", "haitian"),
    ],
)
def test_languages_have_names_and_codes(given: str, name: str) -> None:
    assert language_name(given) == name


ISO_639_1 = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es
et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj
kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv
ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti
tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""


@pytest.mark.parametrize("code", ISO_639_1.split())
def test_the_codes_of_iso_639_1_are_known(code: str) -> None:
    assert len(language_name(code)) > 2
    assert language_name(language_name(code)) == language_name(code)


@pytest.mark.parametrize("name", LANGUAGES)
def test_punkts_languages_keep_punkts_names(name: str) -> None:
    assert language_name(name) == name


@pytest.mark.parametrize(("given", "hint"), [("germn", "did you mean 'german'?"), ("chinees", "'chinese'")])
def test_a_misspelled_language_gets_the_nearest_name(given: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        language_name(given)
    assert hint in str(caught.value)


@pytest.mark.parametrize("given", ["xx", "qz", "klingon", "", "?"])
def test_a_language_that_is_like_no_other_is_not_taken_for_one(given: str) -> None:
    with pytest.raises(InputError) as caught:
        language_name(given)
    assert "did you mean" not in str(caught.value)
    assert "--sentences unicode" in str(caught.value)


def test_the_language_and_the_kind_of_corpus_choose() -> None:
    assert {chosen_splitter(AUTO, language, None) for language in LANGUAGES} == {"punkt"}
    for code in ("zh", "ar", "hi", "uk", "sw"):
        assert chosen_splitter(AUTO, language_name(code), None) == "unicode"
    assert chosen_splitter(AUTO, "english", SENTENCES["bert"]) == "lines"
    for asked in SPLITTERS:
        assert chosen_splitter(asked, "english", SENTENCES["bert"]) == asked


def test_punkt_is_refused_for_a_language_that_it_was_not_trained_for() -> None:
    with pytest.raises(InputError, match="not trained for chinese"):
        chosen_splitter("punkt", "chinese", None)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'unicode'"):
        chosen_splitter("unicod", "english", None)


def test_each_way_splits_as_it_says() -> None:
    assert splitter("punkt", "english")([TEXT]) == [split_sentences(TEXT, "english")]
    assert splitter("unicode", "english")([TEXT]) == [split_unicode(TEXT)]
    assert splitter("lines", "english")([TEXT]) == [["One by Mr. Smith. Two", "three.", "Four。five"]]
    assert splitter("none", "english")([TEXT]) == [["One by Mr. Smith. Two\nthree.", "Four。five"]]
    assert splitter("punkt", "german")(["Das ist z.B. Montag."]) == [["Das ist z.B. Montag."]]


@pytest.mark.parametrize("name", SPLITTERS)
@pytest.mark.parametrize("text", ["", " \n\n\t", "\u2029"])
def test_text_without_words_has_no_sentences(name: str, text: str) -> None:
    assert splitter(name, "english")([text]) == [[]]
