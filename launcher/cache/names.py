"""A repo's folder is named after its type and name; a ref is a small file that names a commit.

A ref of our own pins a commit, and huggingface_hub's prune respects that.
"""

from __future__ import annotations

import errno

from ..system.files import read_regular

PIN = "start_app"
_REF_BYTES = 4096
_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space", "kernels": "kernel"}


def kind(folder: str) -> str:
    """Return the type of repo that a folder's name stands for."""
    return _KINDS[folder.partition("--")[0]]


def name(folder: str) -> str:
    """Return the repo's name that a folder's name stands for, its type in front where it is no model."""
    prefix, _, rest = folder.partition("--")
    plain = rest.replace("--", "/")
    return plain if prefix == "models" else f"{prefix}/{plain}"


def read_ref(path: str) -> str:
    """Return the commit that a ref names, blank for one that leads to nothing.

    Raises OSError for one that cannot be read: what hangs on it must not look as if nothing did.
    """
    return ref_text(path).strip()


def ref_text(path: str) -> str:
    """Return what a ref holds as it is, blanks and all."""
    try:
        return read_regular(path, _REF_BYTES, follow=True).decode("ascii", "replace")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):  # a pipe, for one, names no commit
            return ""
        raise
