"""The length of a phase of pretraining that is given in epochs: it follows from the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bertjobs.errors import InputError

if TYPE_CHECKING:
    from bertjobs.recipe.resolve import Resolved
    from bertjobs.recipe.spec import RunSpec


def resolved_with_data(resolve: Callable[..., Resolved]) -> Resolved:
    """What ``resolve()`` gives; if it pretrains for epochs, ``resolve(training_rows=...)`` with those of its data.

    Raises:
        InputError: as ``resolve``, or the data of such a run cannot be read.
    """
    resolved = resolve()
    spec = resolved.spec
    if spec.task or all(phase.steps for phase in spec.phases):
        return resolved
    return resolve(training_rows=_rows(spec))


def _rows(spec: RunSpec) -> Callable[[int], int]:
    from bertjobs.data.shards.manifest import DataManifest  # here: other runs need not load it

    try:
        return DataManifest.read(spec.data).training_sequences
    except InputError as error:
        what = f"the length of a phase in epochs follows from the data: {error.what}"
        raise InputError(what, where=error.where, hint=error.hint or "give steps instead of epochs") from error
