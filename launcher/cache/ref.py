"""A ref is a small file that names a commit; one of our own pins it, and huggingface_hub's prune respects that."""

from __future__ import annotations

import os

PIN = "start_app"
_REF_BYTES = 4096


def read_ref(path: str) -> str:
    """Return the commit that a ref names, blank for one that leads to nothing.

    Raises OSError for one that cannot be read: what hangs on it must not look as if nothing did.
    """
    return ref_text(path).strip()


def ref_text(path: str) -> str:
    """Return what a ref holds as it is, blanks and all."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        return os.read(descriptor, _REF_BYTES).decode("ascii", "replace")
    finally:
        os.close(descriptor)
