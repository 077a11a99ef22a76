"""Why a job waits in Slurm's queue, in plain words. Pure."""

from __future__ import annotations

from bertjobs.slurm.jobs import NEVER, Job

# https://slurm.schedmd.com/job_reason_codes.html
REASONS = {
    "Resources": "the nodes that it asks for are busy; it is next in line",
    "Priority": "jobs with a higher priority are ahead of it",
    "Dependency": "it waits for another job to end",
    NEVER: "it depends on a job that did not end as required; it will never start",
    "BeginTime": "its start time has not come yet; after a requeue Slurm waits about two minutes",
    "JobHeldUser": "it is held, by you or on your behalf",
    "JobHeldAdmin": "an administrator holds it",
    "JobLaunchFailure": "it could not be launched, and is held",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "Nodes required for job are DOWN": "nodes that it needs are down, drained or reserved by jobs of higher partitions",
    "Reserved for maintenance": "its nodes are reserved for maintenance: a shorter --time may fit before it",
    "launch failed requeued held": "a node failed to start it, most often in the site's prolog, and Slurm holds it "
    "until it is released",
    "user env retrieval failed requeued held": "a node could not read your login environment, and Slurm holds it until "
    "it is released",
    "JobHoldMaxRequeue": "it was requeued as often as the cluster allows, and is held",
    "Prolog": "its nodes are being prepared by the site's prolog",
    "AssocMaxJobsLimit": "you have as many jobs as your account allows at once; it starts when one of them ends",
    "QOSMaxJobsPerUserLimit": "you have as many jobs as its QOS allows at once; it starts when one of them ends",
    "PartitionDown": "its partition accepts jobs but starts none at the moment",
    "PartitionInactive": "its partition starts no jobs at the moment",
    "Licenses": "licenses that it asks for are in use",
    "Reservation": "its reservation has not begun",
    "Cleaning": "it was requeued, and its previous start is still being cleaned up",
}
FAULTS = {
    "PartitionTimeLimit": "it asks for more time than its partition allows",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows",
    "BadConstraints": "no node has what it asks for",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
    "AccountNotAllowed": "its partition is closed to its account",
}
"""Reasons that do not go away by waiting: the job must be changed."""

LIMITS = (
    ("MaxJobsPerUser", "you have as many jobs as you are allowed at once"),
    ("AssocGrp", "your account has reached its limit"),
    ("AssocMax", "it asks for more than your account allows"),
    ("QOSGrp", "its QOS has reached its limit"),
    ("QOSMax", "it asks for more than its QOS allows, or you have reached the QOS's limit"),
    ("MaxNodePerAccount", "your account has as many nodes as it is allowed"),
)


# What shows more, or what to type; the first that is found in a reason counts.
COMMANDS = {
    "launch failed requeued held": "scontrol release {job}",
    "user env retrieval failed requeued held": "scontrol release {job}",
    "JobLaunchFailure": "scontrol release {job}",
    "JobHoldMaxRequeue": "scontrol release {job}",
    "JobHeldUser": "scontrol release {job}",
    "Reserved for maintenance": "scontrol show reservation",
    "Nodes required for job are DOWN": "sinfo -R",
    "ReqNodeNotAvail": "sinfo -R",
    "NodeDown": "sinfo -R",
}


def reason_command(job: Job) -> str:
    """What to type about a job that waits; "" if there is nothing to do but wait."""
    reason = _plain(job.reason)
    command = next((command for sign, command in COMMANDS.items() if sign in reason), "")
    if job.state == "REQUEUE_HOLD":
        command = COMMANDS["JobHeldUser"]
    return command.format(job=job.id)


def reason_words(reason: str) -> str:
    """One of squeue's reasons in plain words, with Slurm's own word in brackets."""
    word = _code(reason)
    if not word:
        return "Slurm has not said why yet"
    if sentence := next((text for start, text in REASONS.items() if " " in start and start in _plain(reason)), ""):
        return f"{sentence} ({reason})"
    if must_be_changed(reason):
        return f"{FAULTS[word]}; it will not start as it is ({reason})"
    words = REASONS.get(word) or next((text for part, text in LIMITS if part in word), "")
    return f"{words} ({reason})" if words else f"Slurm says {reason}"


def must_be_changed(reason: str) -> bool:
    """Whether a job that waits for this reason will never start unless it is changed."""
    return _code(reason) in FAULTS


def _plain(reason: str) -> str:
    """Newer versions of Slurm join the words of a sentence by underscores."""
    return reason.replace("_", " ")


def _code(reason: str) -> str:
    """``ReqNodeNotAvail`` of ``(ReqNodeNotAvail, UnavailableNodes:node1)``."""
    return next(iter(reason.strip("()").split(",")[0].split()), "")


def job_line(job: Job) -> str:
    """What is known about a job, and its source, as evidence."""
    parts = [f"job {job.id}: {job.state}"]
    parts += [f"reason {job.reason}"] if job.reason else []
    parts += [f"exit code {job.exit_code}"] if job.exit_code else []
    return ", ".join(parts) + f" (source: {job.source})"
