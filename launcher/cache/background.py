"""Trash is deleted beside the app, by a process that the app neither waits for nor owns.

It keeps nothing open but stderr: the locks that the app inherits are not its to hold. Killed at any time, it leaves
the rest to the next run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from ..system.detach import beside
from ..ui.text import clean, size
from . import trash

_NICENESS = 10
# The app's first moments are its own: on few cores, deleting beside them would only delay it.
_GRACE_SECONDS = 0.5


def finish_later(roots: Sequence[str], *, quiet: bool) -> None:
    """Delete the trash of these roots in the background, and tell on stderr what that freed unless `quiet`.

    Raises OSError when no process can be started; the trash then waits for the next run.
    """
    beside(lambda: _delete(roots, quiet), stderr=True)


def _delete(roots: Sequence[str], quiet: bool) -> None:
    os.nice(_NICENESS)
    time.sleep(_GRACE_SECONDS)
    for root in roots:
        try:
            done = trash.finish(root)
        except Exception as error:  # nobody else would tell of it
            _tell(f"cannot delete the trash in {root}: {error}")
            continue
        for failure in done.failures:
            _tell(f"cannot remove {failure.path}: {failure.reason}")
        if not quiet:
            _tell(f"cache: freed {size(done.freed)} in {root}")


def _tell(line: str) -> None:
    try:
        os.write(2, f"{clean(line)}\n".encode(errors="backslashreplace"))
    except OSError:
        pass  # whoever read it has gone
