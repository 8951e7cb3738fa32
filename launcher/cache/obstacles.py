"""Find every obstacle to a removal before the removal begins, and before a launch stops anything.

A repo is removed by one rename of its folder into another folder of the same root. Both must be writable, see
path_resolution(7) and rename(2); access(2) also reports immutable files, even to root.
"""

from __future__ import annotations

import os
import stat

_PARTS = ("", "/blobs", "/snapshots", "/refs")


def of_repo(root: str, folder: str) -> str:
    """Return why a repo cannot be removed as a whole; blank without a known reason."""
    path = f"{root}/{folder}"
    try:
        status, above = os.lstat(path), os.stat(root)
    except OSError:
        return ""
    if above.st_mode & stat.S_ISVTX and os.geteuid() not in (0, status.st_uid, above.st_uid):
        return f"it belongs to uid {status.st_uid}, and only that user may remove it from a sticky folder"
    return "" if stat.S_ISLNK(status.st_mode) else _protection(path, status)


def of_parts(root: str, folder: str) -> str:
    """Return why parts of a repo cannot be removed; blank without a known reason."""
    for path in (f"{root}/{folder}{part}" for part in _PARTS):
        try:
            status = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode) and (problem := _protection(path, status)):
            return f"{path}: {problem}"
    return ""


def _protection(path: str, status: os.stat_result) -> str:
    if os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return ""
    try:
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return "it is on a read-only file system"
    except OSError:
        pass  # the answer of access(2) stands
    if os.geteuid() in (0, status.st_uid) and status.st_mode & stat.S_IWUSR:
        return "it is immutable (chattr +i)"
    return f"its folder is write-protected (uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o})"
