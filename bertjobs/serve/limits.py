"""What a server takes on at most."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from bertjobs.errors import InputError
from bertjobs.serve.refusal import Refusal
from bertjobs.wording import counted

if TYPE_CHECKING:
    from bertjobs.tasks.rows import Row


@dataclass(frozen=True)
class Limits:
    """The bounds of a request, and of all that wait.

    Attributes:
        body_bytes: a request's body.
        rows: texts, or sequences of ids, in a request.
        tokens: of all sequences of a request, with [CLS] and [SEP].
        queue_tokens: of all sequences that wait for the model.
        requests: requests that are being read or answered.
        body_s: how long a client may take to send a head, and then how long for the body.
        drain_s: how long a server that was told to end waits for its answers.
    """

    body_bytes: int = 2 << 20
    rows: int = 256
    tokens: int = 32768
    queue_tokens: int = 131072
    requests: int = 1000
    body_s: float = 10.0
    drain_s: float = 30.0


def check_limits(limits: Limits, flag: Callable[[str], str] = str) -> None:
    """Make sure that they can be kept.

    Args:
        flag: what a limit is called on the command line.

    Raises:
        InputError: one is not above 0, or a request that is allowed would never be taken.
    """
    for name, value in vars(limits).items():
        if not 0 < value < float("inf"):
            raise InputError(f"{value} is not a number above 0", where=flag(name))
    if limits.queue_tokens < limits.tokens:
        raise InputError(
            f"the queue takes {limits.queue_tokens:,} tokens, and one request may have {limits.tokens:,}",
            where=flag("queue_tokens"),
            hint=f"{flag('queue_tokens')} {limits.tokens}, or more",
        )


_SINGLE = r"!-/:-@\[-`{-~\u2010-\u2027\u3000-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # characters that are words
_WORD = re.compile(f"[{_SINGLE}]|[^\\s{_SINGLE}]+")
_CUT = 8
"""Times the tokens of a request that its texts may have if they may be cut."""


def check_words(texts: Iterable[str], limits: Limits, *, truncate: bool) -> None:
    """Make sure that a request is not far too large, before its texts are encoded, which takes seconds for a full body:
    each word is a token at least.

    Args:
        truncate: whether the model may cut texts.

    Raises:
        Refusal: it is.
    """
    most = limits.tokens * (_CUT if truncate else 1)
    words = chain.from_iterable(map(_WORD.finditer, texts))
    if next(islice(words, most, None), None):
        raise _too_large(f"more than {counted(most, 'token')}", limits)


def _too_large(size: str, limits: Limits) -> Refusal:
    return Refusal(
        f"the request has {size}, and at most {limits.tokens:,} are taken at a time",
        hint="send fewer or shorter texts per request",
    )


def check_size(rows: Sequence[Row], limits: Limits) -> None:
    """Make sure that a request is not too large.

    Raises:
        Refusal: it is; says by how much.
    """
    tokens = sum(len(row.ids) for row in rows)
    if tokens > limits.tokens:
        raise _too_large(counted(tokens, "token"), limits)
