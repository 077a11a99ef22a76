"""Who is told when a run is done, stopped or restarted: by Slurm's mail, by a webhook. What a site file's ``notify``
says, and how a batch script passes it on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class RunEvent(StrEnum):
    """What a person wants to know about a run, which its single jobs do not show."""

    DONE = "done"
    STOPPED = "stopped"
    RESTARTED = "restarted"


ALL_EVENTS = tuple(RunEvent)

MAIL_TYPES: Mapping[RunEvent, str] = {RunEvent.STOPPED: "FAIL", RunEvent.RESTARTED: "REQUEUE"}
"""The events that Slurm itself mails for any link. That a run is done only its last link knows: it asks for `DONE_MAIL`
before it ends."""
DONE_MAIL = "END"

_EVENTS, _MAIL, _WEBHOOK = "BERTJOBS_NOTIFY", "BERTJOBS_MAIL", "BERTJOBS_WEBHOOK"


@dataclass(frozen=True)
class Notify:
    """Who is told, and of what.

    Attributes:
        mail: address, or a user's name, for Slurm's mail; "" for none.
        webhook: where its address is kept, which is a secret: the name of an environment variable, or an absolute path;
            "" for none.
        events: of what.
    """

    mail: str = ""
    webhook: str = ""
    events: tuple[RunEvent, ...] = ALL_EVENTS

    def sbatch_options(self) -> list[tuple[str, str]]:
        """The options of a job's header, name and value: mail for the events that Slurm knows."""
        if not self.mail:
            return []
        types = [MAIL_TYPES[event] for event in self.events if event in MAIL_TYPES]
        return [("mail-user", self.mail), ("mail-type", ",".join(types) or "NONE")]

    def variables(self) -> dict[str, str]:
        """What a batch script exports for the link; {} if nobody is told. No secret is among them."""
        if not self.mail and not self.webhook:
            return {}
        values = {_EVENTS: ",".join(self.events), _MAIL: self.mail, _WEBHOOK: self.webhook}
        return {name: value for name, value in values.items() if value}

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Notify:
        """What the environment of a job says: the inverse of `variables`."""
        words = environ.get(_EVENTS, "").split(",")
        return cls(environ.get(_MAIL, ""), environ.get(_WEBHOOK, ""), tuple(one for one in RunEvent if one in words))


NOBODY = Notify()
