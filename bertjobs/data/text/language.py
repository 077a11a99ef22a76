"""A guess of the language that texts are written in, by CLD2 (some 160 languages, by letter sequences and scripts)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

UNSURE = "an unknown language"

_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # CLD2 refuses these
_NAMES = {
    "CHINESET": "Chinese",
    "LAOTHIAN": "Lao",
    "NORWEGIAN_N": "Norwegian",
    "ORIYA": "Odia",
    "SINHALESE": "Sinhala",
    "UIGHUR": "Uyghur",
    "UNKNOWN": UNSURE,
}


def guess_languages(texts: Iterable[str]) -> dict[str, int]:
    """How many of the texts seem to be in which language, by its English name; most first.

    Texts that CLD2 is not sure of are in ``UNSURE``. Nothing is guessed where pycld2 is missing, as in some images.
    """
    try:
        import pycld2
    except ImportError:
        return {}
    counts: Counter[str] = Counter()
    for text in texts:
        try:
            is_sure, _, languages = pycld2.detect(_NOT_TEXT.sub(" ", text))
        except pycld2.error:
            is_sure, languages = False, ()
        name = languages[0][0].upper() if is_sure else "UNKNOWN"
        counts[_NAMES.get(name) or name.replace("_", " ").title()] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
