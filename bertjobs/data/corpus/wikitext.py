"""Wikitext to prose: what an article says in its paragraphs.

Left out: headers, lists, tables, templates (except those that stand for words inside a sentence: see `templates`),
references, formulas, files, categories, comments. Nothing is expanded: that takes MediaWiki itself. Syntax:
https://www.mediawiki.org/wiki/Help:Formatting and https://www.mediawiki.org/wiki/Help:Links.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bertjobs.data.corpus.templates import words_of_template

HOLE = "\ue000"
"""Stands for a template that left no words, where someone asks for that; a line of these alone is a blank line."""

MEDIA_NAMES = frozenset({"file", "image", "media", "category"})
"""Lower-case namespaces whose links are not text, in every wiki; a wiki has its own names besides them."""

_DROPPED = (
    "ref|references|gallery|math|chem|ce|score|timeline|source|syntaxhighlight|pre|imagemap|hiero|table|graph|mapframe"
    "|maplink|templatedata|categorytree|inputbox|templatestyles|section|noinclude|includeonly|indicator|style|script"
)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_NOWIKI = re.compile(r"<nowiki\s*>(.*?)</nowiki\s*>", re.DOTALL | re.IGNORECASE)
_ELEMENT = re.compile(rf"<({_DROPPED})\b[^<>]*>", re.IGNORECASE)
_BRACKET = re.compile(r"^[ \t:*#]*(?:<[a-z]+>)?(\{\|)|^[ \t]*(\|\})|(\{\{|\}\}|\[\[|\]\])", re.MULTILINE)
_LINE_BREAK = re.compile(r"<br\b[^<>]*>", re.IGNORECASE)
_BLOCK = re.compile(r"</?(?:p|div|blockquote|center|poem)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)
_EXTERNAL = re.compile(
    r"\[(?:[a-z]+:)?//[^\s\[\]]*[ \t]*([^\[\]\n]*)\]|\[mailto:\S*[ \t]*([^\[\]\n]*)\]", re.IGNORECASE
)
_URL = re.compile(r"\b(?:https?|ftp)://[^\s<>\[\]|]+")
_QUOTES = re.compile(r"'{2,}")
_SWITCH = re.compile(r"__[A-Z]+__")
_NOT_PROSE = ("*", "#", ":", ";", "|", "!", "=", "----", "{|", "}")
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*\Z")
_SHORT = 50  # characters
# Thai, Lao, Tibetan, Burmese, Khmer, kana and ideographs: scripts that end sentences without a mark, or say in few
# characters what others say in fifty.
_DENSE = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_SPACES = re.compile(r"[ \t\xa0\u2009\u202f]+")
_EMPTY = re.compile(r"[(\[]\s*(?:[,;:/\u2013-]\s*)*[)\]]")
_AFTER_OPENING = re.compile(r"\(\s*(?:[,;:]\s*)*")
_COMMAS = re.compile(r",(?:\s?,)+")
_BEFORE_CLOSING = re.compile(r"(?:\s*[,;:])*\s*\)")
_BEFORE_STOP = re.compile(r" +([,.])(?=\s|$)")
_LITERAL = str.maketrans({character: f"&#{ord(character)};" for character in "&<>[]{}|'=*#:;_"})

_EQUALS = "&#61;"  # "=" in what was rendered, which a template around it must not take for an argument's name
_ONLY_HOLES = re.compile(rf"^[ \t{HOLE}]*{HOLE}[ \t{HOLE}]*$", re.MULTILINE)


class Article(NamedTuple):
    """An article's paragraphs, one per line, and how many others were left out as titles or captions."""

    text: str
    short: int


def read_article(
    wikitext: str,
    media_names: frozenset[str] = MEDIA_NAMES,
    language: str = "en",
    in_place_of: Callable[[str], str] = lambda _content: "",
) -> Article:
    """The paragraphs of an article.

    Args:
        wikitext: its source, with XML's own escapes resolved.
        media_names: lower-case names of the namespaces of files and categories.
        language: of the wiki, as "en".
        in_place_of: what to write for a template that leaves no words, given its content: nothing, or ``HOLE``.
    """

    def template(content: str) -> str:
        words = words_of_template(content, language)
        return words.replace("=", _EQUALS) if words else in_place_of(content)

    text = _COMMENT.sub("", wikitext)
    text = _NOWIKI.sub(lambda match: match[1].translate(_LITERAL), text)
    text = _without_elements(text)
    text = _without_brackets(text, media_names, template)
    text = _EXTERNAL.sub(lambda match: match[1] or match[2] or "", text)
    text = _URL.sub("", text)
    text = _BLOCK.sub("\n\n", _LINE_BREAK.sub("\n", text))
    text = _TAG.sub("", text)
    text = _SWITCH.sub("", _QUOTES.sub(_apostrophes, text))
    if HOLE in text:
        text = _ONLY_HOLES.sub("", text)
    paragraphs = [line for line in map(_tidy, _paragraphs(text)) if any(map(str.isalnum, line))]
    kept = [line for line in paragraphs if _says_something(line)]
    return Article("\n".join(kept), len(paragraphs) - len(kept))


def _paragraphs(text: str) -> Iterator[str]:
    """Lines that follow each other are one paragraph; a blank line, a header, a list or a rule ends it."""
    paragraph: list[str] = []
    for line in text.split("\n"):
        bare = line.strip()
        if bare and not bare.startswith(_NOT_PROSE):
            paragraph.append(bare)
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []
    if paragraph:
        yield " ".join(paragraph)


def _says_something(line: str) -> bool:
    """Whether a paragraph with letters or digits is more than a title not marked as a header, or the name in a caption.

    It ends in a mark, is long, or ends in a script in which these two say nothing.
    """
    return bool(len(line) >= _SHORT or not line[-1].isalnum() or _DENSE.match(line[-1]))


def _apostrophes(quotes: re.Match[str]) -> str:
    """Runs of 2, 3 and 5 are italic, bold and both; what a run has beyond bold is apostrophes."""
    length = len(quotes[0])
    return "'" * {2: 0, 3: 0, 4: 1}.get(length, length - 5)


def _tidy(line: str) -> str:
    """A paragraph without the marks that a removed template or formula leaves."""
    line = html.unescape(line)
    line = _SPACES.sub(" ", line)
    if "(" in line or "[" in line:
        line = _EMPTY.sub("", line)
        line = _AFTER_OPENING.sub("(", line)
        line = _BEFORE_CLOSING.sub(")", line)
        line = _SPACES.sub(" ", line)
    if ",," in line or ", ," in line:
        line = _COMMAS.sub(",", line)
    return _BEFORE_STOP.sub(r"\1", line).lstrip(" ,;").rstrip()


def _without_elements(text: str) -> str:
    """The text without the elements that are not text; one that is never closed stays, except for its tag."""
    kept: list[str] = []
    unclosed: set[str] = set()
    kept_to = place = 0
    while match := _ELEMENT.search(text, place):
        name, place = match[1].lower(), match.end()
        if name in unclosed:
            continue
        if not match[0].endswith("/>"):
            closing = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(text, place)
            if closing is None:
                unclosed.add(name)
                continue
            place = closing.end()
        kept.append(text[kept_to : match.start()])
        kept_to = place
    return "".join(kept) + text[kept_to:]


def _without_brackets(text: str, media_names: frozenset[str], template: Callable[[str], str]) -> str:
    """The text with links as their labels and templates as their words, without tables; brackets without a partner are
    dropped.

    One pass with a stack: a frame is the mark that opened it and what has been written since. What an unclosed bracket
    holds is text of the frame around it.
    """
    frames: list[tuple[str, list[str]]] = [("", [])]
    depth = {"{{": 0, "{|": 0, "[[": 0}
    place = 0
    while match := _BRACKET.search(text, place):
        group = match.lastindex or 0
        mark, (innermost, written) = match[group], frames[-1]
        written.append(text[place : match.start(group)])
        place = match.end()
        if mark in depth:
            frames.append((mark, []))
            depth[mark] += 1
        elif mark == "|}" and innermost != "{|":  # of "|}}", the end of a template
            written.append("|")
            place -= 1
        elif (opening := _OPENING[mark]) == innermost or (mark == "}}" and depth[opening]):
            inside: list[list[str]] = []
            opened = ""
            while opened != opening:
                opened, written = frames.pop()
                depth[opened] -= 1
                inside.append(written)
            content = "".join(stretch for written in reversed(inside) for stretch in written)
            frames[-1][1].append(_rendered(opening, content, media_names, template))
    frames[-1][1].append(text[place:])
    return "".join(stretch for _, written in frames for stretch in written)


_OPENING = {"}}": "{{", "|}": "{|", "]]": "[["}


def _rendered(opening: str, content: str, media_names: frozenset[str], template: Callable[[str], str]) -> str:
    if opening == "[[":
        return _link(content, media_names).replace("=", _EQUALS)
    return template(content) if opening == "{{" else ""


def _link(content: str, media_names: frozenset[str]) -> str:
    target, *labels = content.split("|")
    prefix, colon, name = target.partition(":")
    prefix = prefix.strip().lower()
    if len(labels) > 1 or (colon and prefix in media_names):  # only files take several arguments
        return ""
    if labels and labels[0].strip():
        return labels[0]
    if colon and prefix and _LANGUAGE_LINK.match(prefix) and not labels:
        return ""
    return name if colon and not prefix else target
