"""On what kind of file system a folder lies, and whether other machines see it too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SHARED_FILE_SYSTEMS = frozenset((
    "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "juicefs", "lustre", "nfs", "nfs4", "orangefs", "panfs",
    "pvfs2", "quobyte", "smb3", "smbfs", "wekafs",
))  # fmt: skip
LOCAL_FILE_SYSTEMS = frozenset(
    ("btrfs", "devtmpfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs")
)


@dataclass(frozen=True)
class FileSystem:
    """Where a folder lies; ``shared`` tells whether other machines can see it, None if its type does not say."""

    mount: str
    kind: str
    shared: bool | None


def file_system_of(folder: Path) -> FileSystem:
    """The file system of a folder of this machine."""
    return parse_mounts(Path("/proc/mounts").read_text(encoding="utf-8"), str(folder.resolve()))


def parse_mounts(text: str, folder: str) -> FileSystem:
    """The file system of ``folder`` (absolute, without links) from what /proc/mounts holds."""
    best = FileSystem("/", "unknown", None)
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # proc(5): blanks in a path are written in octal.
        mount = re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), fields[1])
        inside = folder == mount or folder.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best.mount):  # of two on one point, the later hides the earlier
            best = FileSystem(mount, fields[2], _shared(fields[2]))
    return best


def _shared(kind: str) -> bool | None:
    bare = kind.removeprefix("fuse.")
    return True if bare in SHARED_FILE_SYSTEMS else False if bare in LOCAL_FILE_SYSTEMS else None
