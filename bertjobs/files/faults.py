"""What an OSError is due to: a name or permissions, which stay, or a disk or a network, whose trouble may pass."""

from __future__ import annotations

import errno

from bertjobs.errors import BertjobsError, InputError, first_line

_LASTING = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
            errno.EINVAL, errno.ENXIO, errno.ENODEV, errno.EEXIST, errno.ENOTEMPTY, errno.EROFS}  # fmt: skip


def may_pass(error: OSError) -> bool:
    """Whether the same call may succeed another time; an error without a number says nothing of that."""
    return error.errno is not None and error.errno not in _LASTING


def not_written(path: str, error: OSError, where: str, hint: str | None = None) -> BertjobsError:
    """The error of a file or folder that could not be written: bad input only where another try fails again."""
    kind = BertjobsError if may_pass(error) else InputError
    return kind(f"cannot write {path!r}: {error.strerror or first_line(error)}", where=where, hint=hint)
