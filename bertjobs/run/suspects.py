"""The register of suspect nodes, ``RESULTS/suspect-nodes.jsonl``, which all runs below RESULTS share.

A node check records in it what was wrong; the launcher excludes such nodes from the next jobs until the entry
expires. One JSON line per entry, appended by a single write.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertjobs.files.json_lines import append_line, read_lines
from bertjobs.files.reading import DamagedFileError, record_of

FILE = "suspect-nodes.jsonl"
EXPIRY_S = 24 * 3600.0
WARNINGS = 2
"""A node is excluded after this many jobs have warned of it, or after one fatal finding."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # goes into sbatch's --exclude


@dataclass(frozen=True)
class Suspect:
    """A node that a job had trouble with.

    Attributes:
        node: its name in Slurm.
        reason: what was wrong, for people.
        fatal: whether training was refused there; otherwise the node was slow, or the like.
        run, job: which reported it.
        time_unix_s, expires_unix_s: when it was reported, and until when it counts.
    """

    node: str
    reason: str
    fatal: bool
    run: str
    job: str
    time_unix_s: float
    expires_unix_s: float


def record(
    results: Path, node: str, reason: str, *, fatal: bool, run: str, job: str, now: float, expiry_s: float = EXPIRY_S
) -> Suspect:
    """Add a node to the register; ``now`` in seconds since 1970.

    Raises:
        OSError: the register cannot be written.
    """
    suspect = Suspect(node, reason, fatal, run, job, round(now, 3), round(now + expiry_s, 3))
    append_line(results / FILE, asdict(suspect))
    return suspect


def suspects(results: Path, now: float) -> list[Suspect]:
    """The entries that have not expired, oldest first; [] if there is no register or it cannot be read. Lines that
    are not ours are skipped: the file may be edited, or truncated by a full disk."""
    try:
        lines = read_lines(results / FILE)
    except DamagedFileError:
        return []
    current = [suspect for line in lines if (suspect := _parsed(line)) and now < suspect.expires_unix_s]
    return sorted(current, key=lambda suspect: suspect.time_unix_s)


def excluded(entries: Sequence[Suspect], spare: int) -> list[str]:
    """The nodes to pass to ``sbatch --exclude``, sorted by name.

    These are the nodes with a fatal finding and those that several jobs have warned of, but at most ``spare``, the
    worst and latest first: a job that excludes more than the partition can spare would wait forever.
    """
    worst: dict[str, tuple[bool, float]] = {}
    for node in {suspect.node for suspect in entries}:
        own = [suspect for suspect in entries if suspect.node == node]
        fatal = any(suspect.fatal for suspect in own)
        if fatal or len({(suspect.run, suspect.job) for suspect in own}) >= WARNINGS:
            worst[node] = (fatal, max(suspect.time_unix_s for suspect in own))
    ordered = sorted(worst, key=lambda node: worst[node], reverse=True)
    return sorted(ordered[: max(0, spare)])


def _parsed(line: Any) -> Suspect | None:
    try:
        suspect = record_of(Suspect, line)
    except ValueError:
        return None
    return suspect if _NAME.fullmatch(suspect.node) else None
