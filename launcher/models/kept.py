"""The files that a switch replaces in a folder of the app's stay until the new files have been used successfully.

They are not copies: the switch has renamed them. A rollback stages them, so no hub has to send them again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ..system import files
from . import placement
from .local_dir import STAGING
from .lockfile import LockedFile, LockedModel

KEPT = "kept-"


def is_there(folder: str) -> bool:
    """Return whether any replaced files of a switch still exist."""
    return bool(folders(folder))


def gather(app_dir: Path, model: LockedModel) -> None:
    """Stage the files of a commit that switches have kept, so that no hub has to send them; skip missing ones.

    Call it under the lock of a pull.
    """
    assert model.local_dir
    folder = str(app_dir / model.local_dir)
    for path, file in model.files.items():
        staged = f"{folder}/{STAGING}/{model.commit}/{path}"
        if os.path.lexists(staged) or _is(f"{folder}/{path}", file):
            continue
        source = next((f"{kept}/{path}" for kept in folders(folder) if _is(f"{kept}/{path}", file)), None)
        if source:
            with suppress(OSError):
                os.makedirs(os.path.dirname(staged), exist_ok=True)
                os.link(source, staged)


def folders(folder: str) -> list[str]:
    """Return the folders with the replaced files of switches."""
    try:
        names = sorted(os.listdir(f"{folder}/{STAGING}"))
    except OSError:
        return []
    return [f"{folder}/{STAGING}/{name}" for name in names if name.startswith(KEPT)]


def _is(path: str, file: LockedFile) -> bool:
    """Return whether a file has exactly this content."""
    try:
        descriptor = files.open_regular(path)
    except OSError:
        return False
    try:
        same_size = file.size in (placement.ANY_SIZE, os.fstat(descriptor).st_size)
        return same_size and files.content_hash(descriptor, file.hash) == file.hash
    except OSError:
        return False
    finally:
        os.close(descriptor)
