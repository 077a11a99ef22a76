"""A tracker, whichever it is: what it can do, where its Python package comes from, and how its failures are told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Protocol

from bertjobs.errors import BertjobsError, InputError, first_line, install_hint
from bertjobs.track.replay import Replay

SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
"""Variables that trackers' clients read by themselves; their values are never written or shown."""

_USER_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")


class Tracker(Protocol):
    """One run in a tracker."""

    def add(self, replay: Replay) -> int:
        """Add the points that the tracker has not got, and bring settings, tags and state up to date; returns how many
        were added. May raise whatever the tracker's client raises: then it can be called again."""

    def close(self) -> None:
        """Send what is still under way, and let go of the connection."""

    @property
    def place(self) -> str:
        """Where to look at the run: an address or a folder."""


class TrackerError(BertjobsError):
    """A tracker refused, or could not be reached."""


def client(module: str, extra: str) -> ModuleType:
    """The tracker's own Python package.

    Raises:
        InputError: it is not installed; says how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{module} is not installed here: {error}",
            where=f"--to {extra}",
            hint=install_hint(extra),
        ) from error


@contextmanager
def tracker_errors(name: str, run: str, environ: Mapping[str, str]) -> Iterator[None]:
    """What a tracker's client raises, as an error of ours, without secrets.

    Raises:
        TrackerError: in place of anything that the block raises, except our own errors.
    """
    try:
        yield
    except BertjobsError:
        raise
    except Exception as error:
        reason = without_secrets(first_line(error), environ)
        raise TrackerError(
            f"{name} rejected run {run!r}: {reason}",
            where=name,
            hint="give the same command again: what it already has is not sent twice",
        ) from None


def without_secrets(text: str, environ: Mapping[str, str]) -> str:
    """A foreign text without the values of `SECRETS` and without user and password in addresses."""
    for name in SECRETS:
        if value := environ.get(name):
            text = text.replace(value, f"${name}")
    return _USER_IN_URL.sub("", text)
