"""Which file system a folder is on, according to /proc/mounts."""

from __future__ import annotations

import pytest

from bertjobs.files.file_system import FileSystem, parse_mounts

MOUNTS = """\
/dev/sda2 / ext4 rw,relatime 0 0
tmpfs /tmp tmpfs rw 0 0
10.0.0.1@o2ib:/work /lustre lustre rw 0 0
nas:/home /home nfs4 rw 0 0
nas:/my\\040projects /home/my\\040projects nfs rw 0 0
ceph-fuse /ceph fuse.ceph rw 0 0
bucket /bucket fuse.s3fs rw 0 0
tmpfs /stacked tmpfs rw 0 0
nas:/s /stacked nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/lustre/me/runs", FileSystem("/lustre", "lustre", True)),
        ("/lustre", FileSystem("/lustre", "lustre", True)),
        ("/lustrework/x", FileSystem("/", "ext4", False)),
        ("/home/me", FileSystem("/home", "nfs4", True)),
        ("/home/my projects/a", FileSystem("/home/my projects", "nfs", True)),
        ("/ceph/x", FileSystem("/ceph", "fuse.ceph", True)),
        ("/bucket/x", FileSystem("/bucket", "fuse.s3fs", None)),
        ("/stacked/x", FileSystem("/stacked", "nfs", True)),
        ("/tmp", FileSystem("/tmp", "tmpfs", False)),
    ],
)
def test_the_file_system_of_a_folder(folder: str, expected: FileSystem) -> None:
    assert parse_mounts(MOUNTS, folder) == expected


def test_without_mounts_nothing_is_known() -> None:
    assert parse_mounts("", "/x") == FileSystem("/", "unknown", None)
