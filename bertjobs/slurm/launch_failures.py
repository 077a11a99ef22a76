"""What Slurm prints when it has a job's nodes and cannot start the ranks on them, in plain words. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ON_NODE = re.compile(r"[Ll]aunch for (?:StepId=)?\S+ failed on node (?P<node>[^\s:]+): (?P<why>.+)")
_NO_STEP = re.compile(r"Unable to create step for job \S+: (?P<why>.+)")
_MISSING = re.compile(r"execve\(\): (?P<program>.+): (?P<why>[A-Z][a-z ]+)$", re.MULTILINE)
_BATCH = re.compile(r"execve\(\): \S*/slurm_script: No such file")
_WAITING = re.compile(r"step creation (?:temporarily|still) disabled, retrying(?: \((?P<why>.+)\))?")
_TASK = re.compile(r"srun: error: (?P<node>[^\s:]+): tasks? [\d,\- ]+: Exited with exit code")

_REASONS = (
    (r"[Pp]rolog", "the site's prolog failed there, and Slurm drains the node", "sinfo -R"),
    (
        r"credential|authentication",
        "it does not accept the job's credential: its clock, or munge's key, is not the controller's",
        "munge -n | ssh {node} unmunge",
    ),
    (r"Communication connection failure|[Ss]ocket timed out|Unable to contact", "its slurmd does not answer", ""),
)
"""Slurm's reasons that point to the node, the same in plain words, and the command that shows more, or ""."""


@dataclass(frozen=True)
class LaunchFailure:
    """Why the ranks were not started.

    Attributes:
        sentence: in plain words, with Slurm's own.
        exclude: the node that is to blame, "" if none is known to be.
        command: what to type to see more; "": nothing more can be seen.
        memory: whether the step asked for more memory than the job has.
    """

    sentence: str
    exclude: str = ""
    command: str = ""
    memory: bool = False


def launch_failure(text: str) -> LaunchFailure | None:
    """What an error message says of it; None if it says nothing.

    Args:
        text: adjacent lines of srun and slurmstepd.
    """
    if _BATCH.search(text):
        return LaunchFailure("the node lost the job's batch script before it started it: its spool folder is broken")
    if match := _MISSING.search(text):
        task = _TASK.search(text)
        node = task["node"] if task else ""
        sentence = f"{f'node {node}' if node else 'a node'} cannot start {match['program']}: {match['why'].lower()}"
        look = f"srun -N1{f' -w {node}' if node else ''} ls -l {match['program']}"
        return LaunchFailure(f"{sentence}; BERTJOBS_PYTHON names another Python", command=look)
    if match := _ON_NODE.search(text):
        node, why = match["node"], match["why"].strip()
        known = next(((words, look) for sign, words, look in _REASONS if re.search(sign, why)), None)
        words, command = (f"{known[0]} ({why})", known[1].format(node=node)) if known else (why, "")
        return LaunchFailure(f"the ranks could not be started on node {node}: {words}", exclude=node, command=command)
    if match := _NO_STEP.search(text):
        why = match["why"].strip()
        sentence = f"Slurm has no room for the ranks within the job's own allocation: {why}"
        return LaunchFailure(sentence, memory="emory" in why)
    return None


def launch_wait(text: str) -> str:
    """What an srun that still tries to start the ranks waits for; "" if it does not wait."""
    matches = list(_WAITING.finditer(text))
    if not matches:
        return ""
    why = f" ({matches[-1]['why']})" if matches[-1]["why"] else ""
    what = f"what ran before them has not left the nodes{why}"
    return f"Slurm does not start the ranks yet: {what}; this passes by itself"
