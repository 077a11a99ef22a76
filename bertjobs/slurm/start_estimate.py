"""What ``sbatch --test-only`` says. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bertjobs.slurm.refusals import is_no_answer

_STARTS = re.compile(r"Job \S+ to start at (?P<time>\S+) using \d+ processors on (?:nodes )?(?P<nodes>\S+)")
_REFUSED = re.compile(r"(?:allocation failure: |error: |sbatch: (?=unrecognized))(.+)")


@dataclass(frozen=True)
class StartEstimate:
    """What ``sbatch --test-only`` says: when and where the job would start, or why never; "" if it does not say."""

    starts_at: str = ""
    nodes: str = ""
    refusal: str = ""


def parse_start_estimate(text: str) -> StartEstimate:
    """What ``sbatch --test-only`` printed, on either stream, as a value; all "" if no controller answered."""
    if starts := _STARTS.search(text):
        return StartEstimate(starts_at=starts["time"], nodes=starts["nodes"])
    if is_no_answer(text):
        return StartEstimate()
    reasons = dict.fromkeys(reason.strip() for reason in _REFUSED.findall(text))
    return StartEstimate(refusal="; ".join(reasons))
