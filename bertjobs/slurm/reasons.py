"""Why Slurm lets a job wait, in plain words. Pure."""

from __future__ import annotations

from bertjobs.slurm.jobs import NEVER, Job

# https://slurm.schedmd.com/job_reason_codes.html
REASONS = {
    "Resources": "the nodes that it asks for are busy; it is next in line",
    "Priority": "jobs of a higher priority wait before it",
    "Dependency": "it waits for the end of another job",
    NEVER: "it waits for a job that did not end as it had to; it will never start",
    "BeginTime": "its start time has not come yet; after a requeue Slurm waits about two minutes",
    "JobHeldUser": "it is held, by you or in your name",
    "JobHeldAdmin": "an administrator holds it",
    "JobLaunchFailure": "it could not be launched, and is held",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "PartitionDown": "its partition takes jobs but starts none at the moment",
    "PartitionInactive": "its partition starts no jobs at the moment",
    "PartitionTimeLimit": "it asks for more time than its partition allows; it will not start as it is",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows; it will not start as it is",
    "BadConstraints": "no node has what it asks for; it will not start as it is",
    "InvalidAccount": "its account is not valid; it will not start as it is",
    "InvalidQOS": "its QOS is not valid; it will not start as it is",
    "AccountNotAllowed": "its partition is closed to its account; it will not start as it is",
    "Licenses": "licenses that it asks for are in use",
    "Reservation": "its reservation has not begun",
    "Cleaning": "it was requeued, and its last start is still being cleaned up",
}
LIMITS = (
    ("MaxJobsPerUser", "you have as many jobs as you may have at once"),
    ("AssocGrp", "your account has reached its limit"),
    ("AssocMax", "it asks for more than your account allows"),
    ("QOSGrp", "its QOS has reached its limit"),
    ("QOSMax", "it asks for more than its QOS allows, or you have reached the QOS's limit"),
    ("MaxNodePerAccount", "your account has as many nodes as it may have"),
)


def reason_words(reason: str) -> str:
    """A reason of squeue's in plain words, with Slurm's own in brackets."""
    word = reason.strip("()").split(",")[0].split()[0] if reason.strip("() ") else ""
    words = REASONS.get(word) or next((text for sign, text in LIMITS if sign in word), "")
    if not word:
        return "Slurm has not said why yet"
    return f"{words} ({reason})" if words else f"Slurm says {reason}"


def job_line(job: Job) -> str:
    """What is known of a job and who said so, as evidence."""
    parts = [f"job {job.id}: {job.state}"]
    parts += [f"reason {job.reason}"] if job.reason else []
    parts += [f"exit code {job.exit_code}"] if job.exit_code else []
    return ", ".join(parts) + f" (told by {job.source})"
