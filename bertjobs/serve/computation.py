"""A request as work for the model: rows, and what becomes of their outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from bertjobs.serve.asks import Ask, Texts
from bertjobs.serve.engine import Outputs, Scorer
from bertjobs.serve.limits import Limits, check_words
from bertjobs.serve.refusal import Refusal
from bertjobs.tasks.rows import Row
from bertjobs.tasks.task import Prediction
from bertjobs.wording import counted

JSON_TYPE = "application/json"


@dataclass(frozen=True)
class Reply:
    """The body of an answer, and what its head says besides."""

    body: bytes
    content_type: str = JSON_TYPE
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Computation:
    """Rows for a scorer, at least one, and the answer that is made of their outputs."""

    scorer: Scorer
    rows: Sequence[Row]
    finish: Callable[[Outputs], Reply]


def reply(content: Any) -> Reply:
    """An answer in JSON."""
    return Reply(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())


def text_computation(
    ask: Ask, texts: Sequence[Texts], answer: Callable[[list[Prediction]], Reply], limits: Limits, *, truncate: bool
) -> Computation:
    """Texts as work.

    Raises:
        Refusal: one cannot be asked, or is too long and may not be cut; or all together are far too long.
    """
    check_words((text for one in texts for text in one.values()), limits, truncate=truncate)
    encoded = ask.encode(texts)
    if encoded.cut and not truncate:
        raise Refusal(
            f"{counted(encoded.cut, 'text')} of {len(texts):,} would lose tokens: too long for the model",
            hint='shorten them, or allow it: "truncate": true',
        )

    def finish(outputs: Outputs) -> Reply:
        rest = iter(outputs)
        grouped = [list(islice(rest, len(of_text))) for of_text in encoded.rows]
        return answer(ask.decode(encoded, grouped))

    return Computation(ask.scorer, [row for of_text in encoded.rows for row in of_text], finish)
