"""Files of a corpus's folders that are not read, as their names are not those of its kind: they are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

_EXAMPLES = 3


@dataclass
class UnreadFiles:
    """How many there are, and of the first few suffixes the first file each, by its path below the folder.

    "First" is by name, not by the order in which a folder lists them: the manifest has them.
    """

    count: int = 0
    by_suffix: dict[str, str] = field(default_factory=dict)

    def add(self, path: str) -> None:
        """Count a file."""
        self.count += 1
        self._offer(PurePosixPath(path).suffix.lower(), path)

    def add_all(self, other: UnreadFiles) -> None:
        """Count those of another folder."""
        self.count += other.count
        for suffix, path in other.by_suffix.items():
            self._offer(suffix, path)

    def _offer(self, suffix: str, path: str) -> None:
        self.by_suffix[suffix] = min(path, self.by_suffix.get(suffix, path))
        if len(self.by_suffix) > _EXAMPLES:
            del self.by_suffix[max(self.by_suffix)]

    @property
    def examples(self) -> list[str]:
        """Some of the files."""
        return [path for _, path in sorted(self.by_suffix.items())]

    def words(self) -> str:
        """As ``unread_words``."""
        return unread_words(self.count, self.examples)


def unread_words(count: int, examples: Sequence[str]) -> str:
    """``3 files with other names were not read, such as 'a.md'``; "" where there are none."""
    if not count:
        return ""
    were = "file with another name was" if count == 1 else "files with other names were"
    return f"{count:,} {were} not read, such as {', '.join(map(repr, examples))}"
