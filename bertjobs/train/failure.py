"""What an exception that ends a rank means: its cause, its exit code, and what the log and the journal say of it."""

from __future__ import annotations

import errno
import traceback

import torch
from torch import distributed

from bertjobs.errors import CAUSE, EXIT_FAILURE, BertjobsError, InputError
from bertjobs.run.causes import Cause
from bertjobs.run.foreign import foreign_cause

LONGEST = 500  # characters of an error that the journal keeps


def cause_of(error: Exception) -> Cause:
    """Why the attempt that fails with ``error`` ended: our own errors carry it; others are judged by class and text."""
    if isinstance(error, BertjobsError):
        default = Cause.BAD_INPUT if isinstance(error, InputError) else Cause.CRASHED
        return Cause(error.cause) if error.cause else default
    if is_lost_connection(error):
        return Cause.LOST_RANK
    if isinstance(error, torch.OutOfMemoryError):
        return Cause.GPU_MEMORY
    if isinstance(error, MemoryError):
        return Cause.HOST_MEMORY
    if isinstance(error, OSError):
        return Cause.DISK if error.errno in (errno.ENOSPC, errno.EDQUOT) else Cause.CRASHED
    # torch raises most of its failures as one class; only their text tells them apart.
    return (isinstance(error, RuntimeError) and foreign_cause(str(error))) or Cause.CRASHED


def exit_code(error: Exception) -> int:
    """The exit code that an error stands for."""
    return error.exit_code if isinstance(error, BertjobsError) else EXIT_FAILURE


def is_lost_connection(error: Exception) -> bool:
    """Whether ``error`` means that another rank is gone, and not that this one failed."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def explanation(error: Exception, rank: int = 0) -> str:
    """An error as the user reads it, with its cause: a traceback only where nothing better is known."""
    name = f"rank {rank}: " if rank else ""
    cause = cause_of(error)
    expected = _expected(error, cause)
    if expected is None:
        return f"{name}{''.join(traceback.format_exception(error)).rstrip()}\n  {CAUSE}: {cause}"
    return name + expected.render() + ("" if expected.cause else f"\n  {CAUSE}: {cause}")


def kept(error: Exception, rank: int = 0) -> dict[str, str | int]:
    """What the journal keeps of an error: ``what``, the rank, and any ``where``, ``hint`` and further fields."""
    expected = _expected(error, cause_of(error))
    if expected is None:
        expected = BertjobsError(f"{type(error).__name__}: {error}")
    facts = {name: text for name, text in expected.facts().items() if name != CAUSE}
    fields = {"what": expected.what, "where": expected.where, "hint": expected.hint, **facts}
    return {"rank": rank, **{name: text[:LONGEST] for name, text in fields.items() if text}}


def _expected(error: Exception, cause: Cause) -> BertjobsError | None:
    """An error as one of ours; None for an unexpected one."""
    if isinstance(error, BertjobsError):
        return error
    if cause is Cause.LOST_RANK:
        reason = str(error).strip().splitlines()[0]
        return BertjobsError(
            f"another rank is gone; what it printed, if anything, says why ({reason})", cause=Cause.LOST_RANK
        )
    if isinstance(error, OSError) and error.filename:
        return BertjobsError(error.strerror or type(error).__name__, where=str(error.filename), cause=cause)
    return None
