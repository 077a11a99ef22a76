"""Which encoding bytes that are not UTF-8 are likely in, or which kind of binary file they begin."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from bertjobs.errors import InputError, nearest

_BOMS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BINARY = (
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a zip archive or an Office document"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"\x7fELF", "a program"),
)
_COMPRESSED = ((b"\x1f\x8b\x08", ".gz"), (b"BZh9", ".bz2"), (b"\xfd7zXZ\0", ".xz"), (b"\x28\xb5\x2f\xfd", ".zst"))
_STARTS = tuple(start for start, _ in (*_BOMS, *_BINARY, *_COMPRESSED))

# Encodings that texts are still met in. A subset of what the detector knows: it confuses rare ones with these.
_CANDIDATES = (
    "cp1252", "cp1250", "cp1251", "koi8_r", "cp932", "euc_jp", "gb18030", "big5", "cp949", "cp1253", "cp1254", "cp1255",
    "cp1256", "cp1257", "cp874", "iso8859_2",
)  # fmt: skip
_NOT_FOR_FILES = {"charmap", "idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"}
_SYMBOL = re.compile(rb"[A-Za-z][\xa1-\xa9\xab-\xb4\xb6\xb8\xb9\xbb-\xbf]")
_HIGH = bytes(range(128, 256))
_MANY_HIGH = 64  # such bytes say enough before a file's end
_CONTROLS = bytes(set(range(32)) - set(b"\0\t\n\f\r\x1b")) + b"\x7f"


@dataclass(frozen=True)
class Foreign:
    """What bytes are, as far as one can tell: ``words`` after "it looks like" (text) or "it is" (anything else).

    Attributes:
        encodings: the likely ones, the likeliest first; none for a binary file, or where there is no telling.
        remedy: what to do about a file that is not text; empty for text.
    """

    words: str
    encodings: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def text(self) -> bool:
        return not self.remedy


def of_start(head: bytes) -> Foreign | None:
    """What a file is that begins as no UTF-8 text does: with another encoding's byte order mark, or as a binary file.

    None for all others. Fast: it is asked of each file.
    """
    if not head.startswith(_STARTS):
        return None
    for mark, name in _BOMS:
        if head.startswith(mark):
            return Foreign(name.upper(), (name,))
    for start, suffix in _COMPRESSED:
        if head.startswith(start):
            return Foreign(f"compressed, but its name does not end in {suffix}", remedy=f"add {suffix} to its name")
    return _binary(next(words for start, words in _BINARY if head.startswith(start)))


def _binary(words: str) -> Foreign:
    return Foreign(f"{words}, not text", remedy="leave it out of the corpus")


def likely(sample: bytes) -> Foreign:
    """What a stretch of a file is likely to be that is not UTF-8; it may begin and end inside a character."""
    if (known := of_start(sample)) is not None:
        return known
    if b"\0" not in sample and (share := _share_of_utf8(sample)) > 0.5:
        return Foreign("UTF-8" if share == 1 else "UTF-8 that was damaged", ("utf-8",))
    if wide := _wide(sample):
        return Foreign(wide.upper(), (wide,))
    controls = len(sample) - len(sample.translate(None, _CONTROLS + b"\0"))
    if controls * 100 > len(sample):
        return _binary("binary data")
    if names := _detected(sample):
        others = f" (or {', '.join(names[1:])})" if names[1:] else ""
        return Foreign(names[0] + others, names)
    return Foreign("text in an unknown encoding")


def _share_of_utf8(sample: bytes) -> float:
    """Share of the sequences that are not ASCII which are characters of UTF-8, 0 to 1; 1 if there are none."""
    text = codecs.utf_8_decode(sample, "replace", False)[0]
    wide, bad = sum(1 for character in text if character > "\x7f"), text.count("\ufffd")
    return (wide - bad) / wide if wide else 1


def _wide(sample: bytes) -> str:
    """The encoding of text in units of two or four bytes without a byte order mark; "" if it is not."""
    quarter = max(1, len(sample) // 4)
    zeros = [sample[place::4].count(0) / quarter for place in range(4)]
    if sum(zeros) == 0:
        return ""
    for name, high in (("utf-32-le", zeros[2:]), ("utf-32-be", zeros[:2]), ("utf-16-le", ()), ("utf-16-be", ())):
        if min(high, default=1) > 0.9 and _reads_as(sample, name):
            return name
    return ""


def _reads_as(sample: bytes, name: str) -> bool:
    """Whether nearly all of the characters are letters, marks, digits, punctuation or white space of living scripts."""
    try:
        text = codecs.getincrementaldecoder(name)().decode(sample)[:4000]
    except UnicodeDecodeError:
        return False
    plain = sum(map(_is_usual, text))
    return bool(text) and plain >= 0.97 * len(text) and any(character.isspace() for character in text)


def _is_usual(character: str) -> bool:
    code = ord(character)
    if code < 0x80:
        return character.isprintable() or character in "\t\n\r"
    usual = code < 0x1200 or 0x1E00 <= code < 0x2070 or 0x3000 <= code < 0xA000 or 0xAC00 <= code < 0xD7A4
    return (usual or 0xFF00 <= code < 0xFFF0) and unicodedata.category(character)[0] in "LMNPSZ"


def _detected(sample: bytes) -> tuple[str, ...]:
    """The encodings that give the most plausible text, at most three of them."""
    from charset_normalizer import from_bytes  # here: good files need none

    # A cut character at either end would count against encodings of several bytes.
    first, last = sample.find(b"\n"), sample.rfind(b"\n")
    trimmed = sample[first + 1 : last] if 0 <= first < last and last - first > len(sample) // 2 else sample
    matches = list(from_bytes(trimmed, cp_isolation=list(_CANDIDATES)))
    if not matches:
        return ()
    best = matches[0]
    near = [match for match in matches if match.chaos <= best.chaos + 0.01 and match.coherence >= best.coherence - 0.05]
    names = list(dict.fromkeys(name for match in near for name in (match.encoding, *match.could_be_from_charset)))
    # By far the most usual of those that differ little.
    western = ["cp1252"] if "cp1252" in names and not _has_symbols_in_words(trimmed) else []
    return tuple(western + [name for name in names if name not in western])[:3]


def _has_symbols_in_words(text: bytes) -> bool:
    """Whether bytes that are symbols in Western encodings stand where letters do, as those of Polish."""
    symbols, high = len(_SYMBOL.findall(text)), len(text) - len(text.translate(None, _HIGH))
    return symbols > 0.15 * high


def canonical(name: str, where: str = "--encoding") -> str:
    """Python's name of an encoding of text; "" for UTF-8, which needs none.

    Raises:
        InputError: there is no such encoding, or it is not one of text files.
    """
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError):
        codec = None
    unfit = codec is None or codec.name in _NOT_FOR_FILES or codec.incrementaldecoder is None
    if codec is None or unfit or not codec._is_text_encoding:
        names = ("utf-8", "utf-16", "utf-32", "latin-1", "shift_jis", "koi8_r", "euc_kr", *_CANDIDATES)
        raise InputError(f"there is no encoding {name!r}", where=where, hint=nearest(name, names))
    return "" if codec.name in ("utf-8", "utf-8-sig") else codec.name


def refusal(
    path: str, what: Foreign, share: float = 0, given: str = "", others_are_utf8: bool | None = None
) -> InputError:
    """The error that refuses a file.

    Args:
        share: how much of it is not text in its encoding, 0 to 1; 0 where the file's beginning says enough.
        given: the encoding that the user named; "" for UTF-8.
        others_are_utf8: some of the corpus's other files are UTF-8, which another encoding would spoil; None: nobody
            has looked.
    """
    if not what.text:
        return InputError(f"{path!r} is {what.words}", where="--corpus", hint=what.remedy)
    name = given or "UTF-8"
    hint = "convert it to UTF-8, or name its encoding with --encoding"
    if what.encodings == ("utf-8",) and given:
        hint = f"leave --encoding out, and convert what is in {given} to UTF-8"
    elif what.encodings == ("utf-8",):
        hint = "repair it, or drop what is not UTF-8: iconv -c -f utf-8 -t utf-8"
    elif what.encodings and others_are_utf8 is not False:
        hint = f"convert this file from {what.encodings[0]} to UTF-8"
        hint += "; other files are UTF-8" if others_are_utf8 else (
            f", or if all files of the corpus are in it, add --encoding {what.encodings[0]}")  # fmt: skip
    elif what.encodings:
        hint = (f"if that is right, add --encoding {what.encodings[0]}; for one corpus of several, "
                f"#encoding={what.encodings[0]} after its path")  # fmt: skip
    part = f": {_percent(share)} of its bytes cannot be read as {name}" if share else ""
    return InputError(f"{path!r} is not {name}{part}; it looks like {what.words}", where="--corpus", hint=hint)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{100 * share:.2g}%"


_MARK = "\udcff"  # encoded with "surrogateescape" it is the byte FF, which UTF-8 does not have


def _marked(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _MARK, error.end


codecs.register_error("bertjobs-marked", _marked)


def as_utf8(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The same text as UTF-8. Each sequence that is not of the encoding becomes a byte FF, to be counted as such."""
    decoder = codecs.getincrementaldecoder(encoding)("bertjobs-marked")
    for chunk in chunks:
        yield decoder.decode(chunk).encode("utf-8", "surrogateescape")
    yield decoder.decode(b"", True).encode("utf-8", "surrogateescape")


class Utf8Sign:
    """Tells UTF-8 that would be read as an encoding of single bytes: that takes any bytes, and nobody would notice.

    What is not ASCII and valid UTF-8 throughout is UTF-8: text in another encoding is so by accident only.
    """

    def __init__(self, encoding: str) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._may_be = len(bytes(range(256)).decode(encoding, "replace")) == 256
        self._high = 0

    def sees(self, chunk: bytes, final: bool = False) -> bool:
        """Whether the file is UTF-8 by its bytes until now; ``final``: with this chunk it ends."""
        if not self._may_be:
            return False
        try:
            self._decoder.decode(chunk, final)
        except UnicodeDecodeError:
            self._may_be = False
            return False
        self._high += len(chunk) - len(chunk.translate(None, _HIGH))
        return self._high > (0 if final else _MANY_HIGH)


def refuse_utf8(is_utf8: bool, encoding: str, path: str) -> None:
    """InputError for a file that is UTF-8 where another encoding was given."""
    if is_utf8:
        raise refusal(path, Foreign("UTF-8", ("utf-8",)), given=encoding)


def check_byte_order(head: bytes, encoding: str, path: str) -> None:
    """InputError for UTF-16 or UTF-32 of which neither the name nor a mark says in which order its bytes are."""
    if head and encoding in ("utf-16", "utf-32") and not head.startswith(tuple(mark for mark, _ in _BOMS)):
        what = likely(head)
        name = what.encodings[0] if what.encodings else f"{encoding}-le or {encoding}-be"
        raise InputError(
            f"{path!r} has no byte order mark; it looks like {what.words}",
            where=f"--encoding {encoding}",
            hint=f"name the encoding with its byte order: --encoding {name}",
        )
