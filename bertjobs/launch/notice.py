"""Telling a webhook that a run is done, stopped or restarted: one POST of JSON, of a few seconds at most.

The address is a secret. It is read at the last moment, from a variable or a file that only its owner can read, and is
in no message of ours: what goes wrong is told without it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bertjobs.errors import BertjobsError, InputError
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.run.causes import Cause
from bertjobs.run.checkpoints import step_of, steps
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.notify import RunEvent

PATIENCE_S = 5.0
"""How long a webhook may take, name look-up included. No requeue waits for it: it is called after the requeue."""

_VERBS = {RunEvent.DONE: "is done", RunEvent.STOPPED: "has stopped", RunEvent.RESTARTED: "restarts"}


@dataclass(frozen=True)
class Notice:
    """What a webhook is told.

    Attributes:
        run, phase, job, attempt: what ended.
        cause: why, a word of `bertjobs.run.causes`, or "".
        why: why nothing follows, in words, or "".
        step, steps: of the newest checkpoint, and how many the phase has; None if it is not known.
    """

    event: RunEvent
    run: str
    phase: int
    job: str
    attempt: int
    cause: str = ""
    why: str = ""
    step: int | None = None
    steps: int | None = None

    @property
    def text(self) -> str:
        """One sentence."""
        place = f"phase {self.phase}, job {self.job}, attempt {self.attempt}"
        step = "" if self.step is None else f", step {self.step:,}" + (f" of {self.steps:,}" if self.steps else "")
        why = "; ".join(dict.fromkeys(filter(None, (self.cause, self.why))))
        return f"run {self.run} {_VERBS[self.event]} ({place}{step})" + (f": {why}" if why else "")

    def body(self) -> bytes:
        """The POST's JSON. ``text`` and ``content`` are where Slack, Mattermost and Discord look for the sentence."""
        return json.dumps({**asdict(self), "text": self.text, "content": self.text}).encode()


def notice_of(
    event: RunEvent, run: RunDirectory, phase: int, job: str, attempt: int, *, cause: Cause | None, why: str
) -> Notice:
    """What there is to tell of an attempt that ended; its steps are read from the run's folder."""
    step = planned = None
    with suppress(BertjobsError, OSError):
        if saved := steps(run.phase(phase).checkpoints):
            step = step_of(saved[-1])
    with suppress(BertjobsError, OSError, KeyError):
        planned = read_lockfile(run.lockfile).phase(phase).steps
    return Notice(event, run.name, phase, job, attempt, cause.plain if cause else "", why, step, planned)


def address(place: str, environ: Mapping[str, str]) -> str:
    """A webhook's address.

    Args:
        place: the name of a variable, or the absolute path of a file.

    Raises:
        InputError: it is not there, others can read the file, or it is not an http address; never shows it.
    """
    if not place.startswith("/"):
        if not (value := environ.get(place, "")):
            raise InputError(
                f"the variable {place}, which holds the webhook's address, is not set", where="notify.webhook"
            )
        return _checked(value, place)
    try:
        file = Path(place)
        mode, value = file.stat().st_mode, file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the file with the webhook's address cannot be read: {type(error).__name__}", where=place
        ) from None
    if mode & 0o077:
        raise InputError("others may read the file with the webhook's address", where=place, hint=f"chmod 600 {place}")
    return _checked(value, place)


def _checked(value: str, place: str) -> str:
    text = value.strip()
    if not text.startswith(("https://", "http://")) or not text.isprintable() or " " in text:
        raise InputError("the webhook's address does not begin with https:// or http://", where=place)
    return text


def send(notice: Notice, place: str, environ: Mapping[str, str]) -> str:
    """Tell a webhook; returns in words for a log how that went. Raises nothing, takes `PATIENCE_S` seconds at most."""
    try:
        url = address(place, environ)
    except InputError as error:
        return f"no notice was sent: {error.what} ({error.where})"
    answers: list[str] = []
    # A thread: looking up a name has no time limit, and a server may send its answer byte by byte.
    thread = threading.Thread(target=lambda: answers.append(_post(url, notice.body())), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return answers[0] if answers else f"no notice was sent: the webhook did not answer within {PATIENCE_S:g} s"


def _post(url: str, body: bytes) -> str:
    import urllib.error  # here: most runs notify nobody
    import urllib.request

    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=2 * PATIENCE_S):
            return "notice sent"
    except urllib.error.HTTPError as error:
        return f"no notice was sent: the webhook answered with HTTP status {error.code}"
    except Exception as error:  # its text may contain the address
        reason = getattr(error, "reason", error)
        words = os.strerror(reason.errno) if isinstance(reason, OSError) and reason.errno else type(reason).__name__
        return f"no notice was sent: the webhook cannot be reached ({words})"
