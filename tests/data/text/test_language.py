"""The guess of a language, on sentences whose language is known."""

# ruff: noqa: RUF001  (other scripts have letters and marks that look like Latin ones)

from __future__ import annotations

import sys

import pytest

from bertjobs.data.text.language import UNSURE, guess_languages

SENTENCES = {
    "English": "The committee met on Tuesday to discuss the new railway line, but no decision was taken.",
    "German": "Der Ausschuss hat am Dienstag über die neue Bahnstrecke beraten, aber nichts entschieden.",
    "French": "La commission s'est réunie mardi pour discuter de la nouvelle ligne, sans prendre de décision.",
    "Finnish": "Valiokunta kokoontui tiistaina keskustelemaan uudesta rautatiestä, mutta päätöstä ei tehty.",
    "Turkish": "Komisyon salı günü yeni demiryolu hattını görüşmek üzere toplandı, ancak karar alınmadı.",
    "Russian": "Комитет собрался во вторник, чтобы обсудить новую железную дорогу, но решения не принял.",
    "Greek": "Η επιτροπή συνεδρίασε την Τρίτη για τη νέα σιδηροδρομική γραμμή, αλλά δεν πήρε απόφαση.",
    "Arabic": "اجتمعت اللجنة يوم الثلاثاء لمناقشة خط السكة الحديد الجديد ولكن لم يتخذ أي قرار.",
    "Hindi": "समिति ने मंगलवार को नई रेल लाइन पर चर्चा की, लेकिन कोई निर्णय नहीं लिया गया।",
    "Thai": "คณะกรรมการประชุมเมื่อวันอังคารเพื่อหารือเรื่องทางรถไฟสายใหม่ แต่ยังไม่มีการตัดสินใจ",
    "Chinese": "委员会星期二开会讨论了新的铁路线，但是没有作出决定。",
    "Japanese": "委員会は火曜日に新しい鉄道について話し合いましたが、決定には至りませんでした。",
    "Korean": "위원회는 화요일에 새로운 철도 노선을 논의했지만 결정을 내리지 못했다.",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_is_of_its_language(language: str) -> None:
    assert guess_languages([SENTENCES[language]]) == {language: 1}


def test_all_texts_are_counted_the_most_frequent_first() -> None:
    german, french = SENTENCES["German"], SENTENCES["French"]
    texts = [french, german, "12 + 7 = 19", german, "", "\x00\ud800" + german, french]
    assert list(guess_languages(texts).items()) == [("German", 3), ("French", 2), (UNSURE, 2)]
    assert guess_languages([]) == {}


def test_nothing_is_guessed_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycld2", None)
    assert guess_languages([SENTENCES["German"]]) == {}
