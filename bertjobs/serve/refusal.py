"""A request that gets no answer: which status it gets instead, and what is said, in the form of each protocol."""

from __future__ import annotations

from typing import Any

from bertjobs.errors import BertjobsError, InputError

MALFORMED = 400
UNAUTHORISED = 401
NOT_FOUND = 404
TOO_SLOW = 408
TOO_LARGE = 413
ENCODED = 415
UNFIT = 422
BUSY = 429
GONE = 499
"""nginx's code for a client that hung up: nobody receives it, but the metrics count it."""
FAILED = 500
STOPPING = 503


class Refusal(BertjobsError):
    """Why a request is not answered.

    Args:
        status: of HTTP; the most usual one says that the JSON is right, and what it asks is not.
        retry_after_s: when another try may succeed; 0: it will not.
        closes: whether the connection is closed, as some of the request was not read.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int = UNFIT,
        where: str | None = None,
        hint: str | None = None,
        retry_after_s: int = 0,
        closes: bool = False,
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.status, self.retry_after_s, self.closes = status, retry_after_s, closes


def refused(error: InputError, where: str = "") -> Refusal:
    """What the package refuses as bad input, as an answer; ``where`` in the request, if the error does not say it."""
    return Refusal(error.what, where=error.where or where or None, hint=error.hint)


def sentence(refusal: Refusal) -> str:
    """All of it in one line, for clients that show nothing else."""
    where = f" ({refusal.where})" if refusal.where else ""
    hint = f"; {refusal.hint}" if refusal.hint else ""
    return f"{refusal.what}{where}{hint}"


def as_json(refusal: Refusal, path: str) -> dict[str, Any]:
    """The body of the answer, as clients of the route expect it: OpenAI's, KServe's, or all parts by name."""
    if path == "/v1/embeddings":
        kind = "invalid_request_error" if refusal.status < FAILED else "server_error"
        return {"error": {"message": sentence(refusal), "type": kind, "param": refusal.where, "code": None}}
    if path.startswith("/v2"):
        return {"error": sentence(refusal)}
    return {"error": refusal.what, "where": refusal.where, "hint": refusal.hint}


def headers(refusal: Refusal) -> dict[str, str]:
    """What the answer's head says about another try."""
    made = {}
    if refusal.status == UNAUTHORISED:
        made["www-authenticate"] = "Bearer"
    if refusal.retry_after_s:
        made["retry-after"] = str(refusal.retry_after_s)
    if refusal.closes:
        made["connection"] = "close"
    return made
