"""What huggingface_hub 1.22 and later notes of a commit: `trees/<commit>.json` has the hash and size of every file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from errno import EFBIG

from ..system.files import open_regular
from .names import HASH

_MOST_BYTES = 1 << 28

Tree = Mapping[str, tuple[str, int]]
"""Hash and size in bytes, by path."""


def path_of(repo: str, commit: str) -> str:
    """Return where the tree of a commit is noted, below the repo's folder."""
    return f"{repo}/trees/{commit}.json"


def tree(path: str) -> Tree:
    """Return the files that a commit has; empty where that is not noted, or not as any version writes it."""
    try:
        with open(open_regular(path), "rb") as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise OSError(EFBIG, os.strerror(EFBIG))
            files = json.load(file)["files"]
        pairs = {
            name: (entry.get("lfs_sha256") or entry["blob_id"], entry.get("lfs_size") or entry["size"])
            for name, entry in files.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: pair for name, pair in pairs.items() if _is_entry(name, *pair)}


def _is_entry(name: str, digest: object, size: object) -> bool:
    """Return whether a line can be one: in a cache that others share, anybody may have written it."""
    inside = not any(part in ("", ".", "..") for part in name.split("/"))
    return inside and isinstance(digest, str) and bool(HASH.fullmatch(digest)) and type(size) is int and size >= 0
