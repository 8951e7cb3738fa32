"""Interpret names in a hub cache: repo folders, commits and blobs, refs, and our own trash.

A ref of our own pins a commit, and huggingface_hub's prune respects that.
"""

from __future__ import annotations

import errno
import os
import re

from ..system.files import read_regular

PIN = "start_app"
TRASH = ".start_app-trash-"
# Suffixes that hub clients in other languages, aria2 and browsers add to the name of a partial file.
UNFINISHED = "part|partial|download|downloadInProgress|crdownload|tmp|temp|aria2|aria2__temp|st"
# The name of a commit or a blob: git's SHA-1, or SHA-256.
HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_TRASH_NAME = re.compile(re.escape(TRASH) + r"[0-9a-f]{16}")
_NEW_REF = re.compile(re.escape(TRASH) + r"ref-[0-9a-f]{16}")
REF_BYTES = 4096
_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space", "kernels": "kernel"}


def kind(folder: str) -> str:
    """Return the type of repo that a folder name means."""
    return _KINDS[folder.partition("--")[0]]


def name(folder: str) -> str:
    """Return the repo name that a folder name means, prefixed with its type unless it is a model."""
    prefix, _, rest = folder.partition("--")
    plain = rest.replace("--", "/")
    return plain if prefix == "models" else f"{prefix}/{plain}"


def read_ref(path: str) -> str:
    """Return the commit that a ref names; blank if the ref names none.

    Raises OSError for an unreadable ref: its revision must not look unreferenced.
    """
    return ref_text(path).strip()


def ref_text(path: str) -> str:
    """Return the content of a ref, including blanks."""
    try:
        return read_regular(path, REF_BYTES, follow=True).decode("ascii", "replace")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):  # a pipe, for example, names no commit
            return ""
        raise


def new_trash() -> str:
    """Return a unique name for a trash folder."""
    return f"{TRASH}{os.urandom(8).hex()}"


def is_trash(entry: str) -> bool:
    """Return whether an entry of a root has the name of a trash folder; only its mark proves that it is ours."""
    return _TRASH_NAME.fullmatch(entry) is not None


def new_ref() -> str:
    """Return a name in a repo's folder for a ref that is being written."""
    return f"{TRASH}ref-{os.urandom(8).hex()}"


def new_scrap() -> str:
    """Return a name in the trash for what certainly goes: no later run judges it again."""
    return f".scrap-{os.urandom(8).hex()}"


def is_new_ref(entry: str) -> bool:
    """Return whether an entry of a repo's folder is a temporary ref of an interrupted run."""
    return entry.startswith(TRASH) and _NEW_REF.fullmatch(entry) is not None
