"""The journal of a move is in the new cache: it names the old cache, and lists the copied entries after the copy.

Only our own journal is trusted, because it decides what is removed from the old cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..config.paths import MOVE
from ..system import files
from . import entries
from .copying import PART, fingerprint
from .dirs import opened
from .roots import Root

_MOST_BYTES = 1 << 26
_VERSION = 1


class Journal(NamedTuple):
    """Hold a move: the old cache's configured path, and its path without links.

    `prints` are the copied entries, each with its fingerprint after the whole copy, blank before.
    """

    path: str
    source: str
    prints: Mapping[str, str]

    @property
    def whole(self) -> bool:
        """Return whether everything is copied."""
        return all(self.prints.values())

    @property
    def root(self) -> Root:
        """Return the old cache as a root."""
        return Root(Path(self.path), self.source, "moved", True)

    def unchanged(self) -> tuple[str, ...]:
        """Return the entries of the old cache that still match their copies; missing ones do not."""
        same = []
        for name, known in self.prints.items():
            with suppress(OSError):
                if fingerprint(self.source, name) == known:
                    same.append(name)
        return tuple(same)


def read(target: str) -> Journal | None:
    """Return the journal of a move to this folder, None without one, or if it is another user's."""
    try:
        descriptor = files.open_regular(f"{target}/{MOVE}")
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_nlink > 1 or status.st_mode & 0o022:
            return None
        try:
            document = json.loads(file.read(_MOST_BYTES))
            prints = {str(name): str(known) for name, known in document["entries"].items()}
            journal = Journal(str(document["path"]), str(document["source"]), prints)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
    own = document.get("version") == _VERSION and os.path.isabs(journal.source)
    return journal if own and os.path.realpath(journal.source) == journal.source else None


def write(target: str, journal: Journal) -> None:
    """Write the journal of a move to this folder atomically, synced to the disk before all later writes."""
    text = json.dumps(
        {"version": _VERSION, "path": journal.path, "source": journal.source, "entries": dict(journal.prints)}
    )
    with opened(target) as folder:
        files.write_whole(MOVE, f"{text}\n".encode(), folder, durable=True, mode=0o600)


def drop(target: str) -> None:
    """Remove the journal of a completed move, and the temporary copy of the last file."""
    for name in (PART, MOVE):
        with suppress(FileNotFoundError):
            os.unlink(f"{target}/{name}")


def unfinished(root: Root) -> Journal | None:
    """Return the move to this cache whose old cache is not yet removed."""
    journal = read(root.real)
    return journal if journal and journal.whole and entries.contents(journal.source).entries else None
