"""What keeps a repo from being removed is found before the removal begins, and before a launch stops anything.

A repo goes by one rename of its folder into another one of the same root. For that both must be writable, by
path_resolution(7) and rename(2); access(2) denies writing to what is immutable, also for root.
"""

from __future__ import annotations

import os
import stat

_PARTS = ("", "/blobs", "/snapshots", "/refs")


def of_repo(root: str, folder: str) -> str:
    """Return why a repo cannot be removed whole, blank where nothing is known to keep it."""
    path = f"{root}/{folder}"
    try:
        status, above = os.lstat(path), os.stat(root)
    except OSError:
        return ""
    if above.st_mode & stat.S_ISVTX and os.geteuid() not in (0, status.st_uid, above.st_uid):
        return f"it belongs to uid {status.st_uid}, and only that user may remove it from a folder that is sticky"
    return "" if stat.S_ISLNK(status.st_mode) else _protection(path, status)


def of_parts(root: str, folder: str) -> str:
    """Return why parts of a repo cannot be removed, blank where nothing is known to keep them."""
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
        pass  # what access(2) said is all there is to say
    if os.geteuid() in (0, status.st_uid) and status.st_mode & stat.S_IWUSR:
        return "it is immutable (chattr +i)"
    return f"its folder is write-protected (uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o})"
