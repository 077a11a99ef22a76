"""Characters that end sentences, as the insides of a regular expression's class.

From Unicode's property Sentence_Break (UAX #29, Unicode 17); ``tests/data/text/test_unicode_sentences.py`` compares
them with the tables of the package ``regex`` and prints what has changed. The characters beyond U+FFFF are apart:
Python looks up a class without them in one step, and tries their ranges one after the other.
"""

from __future__ import annotations

ENDS = (
    r"!?\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u104a\u104b\u1362\u1367\u1368"
    r"\u166e\u1735\u1736\u17d4\u17d5\u1803\u1809\u1944\u1945\u1aa8-\u1aab\u1b4e\u1b4f\u1b5a\u1b5b\u1b5e\u1b5f\u1b7d-"
    r"\u1b7f\u1c3b\u1c3c\u1c7e\u1c7f\u203c\u203d\u2047-\u2049\u2cf9-\u2cfb\u2e2e\u2e3c\u2e53\u2e54\u2e60\u2e61\u3002"
    r"\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb\ufe12"
    r"\ufe15\ufe16\ufe56\ufe57\uff01\uff1f\uff61"
)
"""STerm up to U+FFFF: these always end a sentence."""
RARE_ENDS = (
    r"\U00010a56\U00010a57\U00010f55-\U00010f59\U00010f86-\U00010f89\U00011047\U00011048\U000110be-\U000110c1"
    r"\U00011141-\U00011143\U000111c5\U000111c6\U000111cd\U000111de\U000111df\U00011238\U00011239\U0001123b\U0001123c"
    r"\U000112a9\U000113d4\U000113d5\U0001144b\U0001144c\U000115c2\U000115c3\U000115c9-\U000115d7\U00011641\U00011642"
    r"\U0001173c-\U0001173e\U00011944\U00011946\U00011a42\U00011a43\U00011a9b\U00011a9c\U00011c41\U00011c42\U00011ef7"
    r"\U00011ef8\U00011f43\U00011f44\U00016a6e\U00016a6f\U00016af5\U00016b37\U00016b38\U00016b44\U00016d6e\U00016d6f"
    r"\U00016e98\U0001bc9f\U0001da88"
)
"""STerm beyond U+FFFF."""
RARE_RANGE = r"\U00010a56-\U0001da88"
"""All of ``RARE_ENDS`` and much else, in one range."""
MORE_ENDS = r"\u05c3\u0df4\u0e5a\u0e5b\u0f0d-\u0f11\u0f14\u17da"
"""Not STerm, but they end what is a sentence in Hebrew verse, old Sinhala, Thai, Tibetan and Khmer."""
PERIODS = ".\u2024\ufe52\uff0e"
"""ATerm: these end a sentence or not."""
CLOSING = (
    r"\"')\]}\xbb\u0f3b\u0f3d\u169c\u2019\u201d\u203a\u2046\u207e\u208e\u2309\u230b\u232a\u275b-\u2760\u2769\u276b"
    r"\u276d\u276f\u2771\u2773\u2775\u27c6\u27e7\u27e9\u27eb\u27ed\u27ef\u2984\u2986\u2988\u298a\u298c\u298e\u2990"
    r"\u2992\u2994\u2996\u2998\u29d9\u29db\u29fd\u2e00\u2e01\u2e03\u2e05-\u2e08\u2e0a\u2e0b\u2e0d\u2e1d\u2e21\u2e23"
    r"\u2e25\u2e27\u2e29\u2e56\u2e58\u2e5a\u2e5c\u2e63\u3009\u300b\u300d\u300f\u3011\u3015\u3017\u3019\u301b"
    r"\u301e\u301f\ufd3e\ufe18\ufe36\ufe38\ufe3a\ufe3c\ufe3e\ufe40\ufe42\ufe44\ufe48\ufe5a\ufe5c\ufe5e\uff09\uff3d"
    r"\uff5d\uff60\uff63\U0001f676-\U0001f678"
)
"""Close without opening brackets (category Ps) and ``QUOTES``: they belong to the sentence before them."""
QUOTES = r"\xab\u2018\u201b\u201c\u201f\u2039\u2e02\u2e04\u2e09\u2e0c\u2e1c\u2e20"
"""Close of category Pi: quotation marks that open in one language and close in another."""
CONTINUING = (
    r",\-:;\u037e\u055d\u060c\u060d\u07f8\u1802\u1808\u2013\u2014\u3001\ufe10\ufe11\ufe13\ufe14\ufe31\ufe32\ufe50\ufe51"
    r"\ufe54\ufe55\ufe58\ufe63\uff0c\uff0d\uff1a\uff1b\uff64"
)
"""SContinue: no sentence begins with these."""
INVISIBLE = r"\xad\u0300-\u036f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff"
"""Those of Extend and Format that may stand between a sentence's end and what closes it, in any script."""
LINE_ENDS = r"\n\r\x85\u2028\u2029"
"""Sep, CR and LF: a line's end ends a sentence."""
