"""Fingerprints of documents: equal for the same text, similar for nearly the same.

The hash is of the text without white space, in Unicode's composed form (NFC): other line breaks or indentation do not
make another document. The signature is MinHash's (Broder, 1997) over runs of words: the share of places at which two
signatures agree estimates how alike two texts are, their Jaccard similarity, which is the share of runs in both among
the runs in either.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.batches.masking import splitmix64
from bertjobs.data.ragged import gather, in_batches, offsets_of
from bertjobs.errors import InputError

Int64s = NDArray[np.int64]
UInt32s = NDArray[np.uint32]
UInt64s = NDArray[np.uint64]

PLACES = 128  # of a signature: an estimate is off by 0.035 (one standard deviation) at a similarity of 0.8
HASH_BYTES = 16

_SIGNATURE_SEED = 1
_BLOCK = 1 << 18  # characters whose words are hashed together
_ASCII_SPACE = b"\t\n\v\f\r\x1c\x1d\x1e\x1f "
_OTHER_SPACES = (
    "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_TABLE = 0x20000  # code points in the table of kinds; those above are ideographs
_BETWEEN, _LETTER, _WORD_OF_ITS_OWN = range(3)
_WITHOUT_SPACES = (  # scripts in which no space parts the words: each character counts as a word
    (0x0E00, 0x1000),  # Thai, Lao, Tibetan
    (0x1000, 0x10A0),  # Burmese
    (0x1780, 0x1800),  # Khmer
    (0x3040, 0x3100),  # kana
    (0x31F0, 0x3200),
    (0x3400, 0xA000),  # ideographs
    (0xF900, 0xFB00),
    (0xFF66, 0xFF9E),  # kana of half width
)


def text_hash(text: str) -> bytes:
    """128 bits that are equal for texts that differ in white space alone."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        for space in _OTHER_SPACES:
            if space in text:  # seldom: much faster than a pattern
                text = text.replace(space, "")
    return blake2b(text.encode("utf-8", "surrogatepass").translate(None, _ASCII_SPACE), digest_size=HASH_BYTES).digest()


def signatures(texts: Sequence[str], words: int) -> tuple[UInt32s, Int64s]:
    """MinHash signatures over the runs of ``words`` words, and how many runs each text has.

    Case and punctuation do not count. A text of fewer words has no run, and a signature that says nothing.

    Returns:
        Signatures ``[texts, PLACES]`` and runs ``[texts]``.
    """
    parts = [_signatures(block, words) for block in in_batches(texts, len, _BLOCK)]
    if not parts:
        return np.zeros((0, PLACES), dtype=np.uint32), np.zeros(0, dtype=np.int64)
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([runs for _, runs in parts])


def word_runs(texts: Sequence[str], words: int) -> tuple[UInt64s, Int64s]:
    """A hash of each run of ``words`` words, text after text, and how many each text has: ``[runs]``, ``[texts]``."""
    hashes, counts = _words(texts)
    runs = hashes[: max(0, len(hashes) - words + 1)]
    for place in range(1, words):
        runs = splitmix64(runs) + hashes[place : place + len(runs)]
    whole = np.maximum(counts - words + 1, 0)  # the others reach into the next text
    return gather(runs, offsets_of(counts)[:-1], whole), whole


def _signatures(texts: Sequence[str], words: int) -> tuple[UInt32s, Int64s]:
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise InputError("near duplicates are found with rensa, which is not installed", where="near",
                         hint="pip install rensa") from error  # fmt: skip
    runs, counts = word_runs(texts, words)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(runs, offsets_of(counts).tolist(), PLACES, _SIGNATURE_SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(texts), PLACES), counts


def _words(texts: Sequence[str]) -> tuple[UInt64s, Int64s]:
    """A hash of each word in lower case, and how many words each text has."""
    lowered = [text.lower() for text in texts]
    codes = np.frombuffer("\n".join(lowered).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    kinds = _kinds()[np.minimum(codes, _TABLE)]
    before = np.zeros_like(kinds)
    before[1:] = kinds[:-1]
    begins = (kinds == _WORD_OF_ITS_OWN) | ((kinds == _LETTER) & (before != _LETTER))
    places = np.flatnonzero(kinds)  # of characters in words
    firsts = np.flatnonzero(begins[places])
    if not len(firsts):
        return np.zeros(0, dtype=np.uint64), np.zeros(len(texts), dtype=np.int64)
    lengths = np.diff(firsts, append=len(places))
    within = np.arange(len(places)) - np.repeat(firsts, lengths)
    letters = codes[places].astype(np.uint64) | within.astype(np.uint64) << np.uint64(32)
    hashes = splitmix64(np.add.reduceat(splitmix64(letters), firsts))
    starts = offsets_of(np.array([len(text) + 1 for text in lowered]))
    owners = np.searchsorted(starts, places[firsts], side="right") - 1
    return hashes, np.bincount(owners, minlength=len(texts))


@cache
def _kinds() -> NDArray[np.uint8]:
    """What each code point is to a word; the last entry is for all that are not in the table."""
    table = np.zeros(_TABLE + 1, dtype=np.uint8)
    for code in range(_TABLE):
        if chr(code).isalnum() or unicodedata.category(chr(code)).startswith("M"):
            table[code] = _LETTER
    for first, end in _WITHOUT_SPACES:
        table[first:end][table[first:end] == _LETTER] = _WORD_OF_ITS_OWN
    table[_TABLE] = _WORD_OF_ITS_OWN
    return table
