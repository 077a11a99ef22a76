"""Text that a limit of the user refuses."""

from __future__ import annotations

from bertjobs.errors import InputError


class OverLimitError(InputError):
    """The text can be used all the same, with another limit: what was done is kept for that."""
