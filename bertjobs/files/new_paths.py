"""Files and folders that a command makes, and takes back where it fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class New:
    """What was not there before: ``own`` files and folders, and ``shared`` folders, the innermost first, into which
    others may put something."""

    own: tuple[Path, ...]
    shared: tuple[Path, ...]

    @classmethod
    def of(cls, own: Sequence[Path], shared: Sequence[Path]) -> New:
        """Those of these paths that are not there now."""
        return cls(*(tuple(path for path in paths if not path.exists()) for paths in (own, shared)))

    @contextmanager
    def removed_on_failure(self, *, unless: type[Exception]) -> Iterator[None]:
        """All of it is gone again if what is done here fails, but for shared folders with anything else in them; after
        errors of the type ``unless`` it stays."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, unless):
                self._remove()
            raise

    def _remove(self) -> None:
        for path in self.own:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for folder in self.shared:
            with suppress(OSError):
                folder.rmdir()
