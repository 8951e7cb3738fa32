"""Trash is deleted beside the app, by a process that the app neither waits for nor owns.

It is forked twice, so that it is nobody's child, in a session of its own, and it keeps nothing open but stderr: the
locks that the app inherits are not its to hold. Killed at any time, it leaves the rest to the next run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from ..text import clean, size
from . import trash

_NICENESS = 10


def finish_later(roots: Sequence[str], *, quiet: bool) -> None:
    """Delete the trash of these roots in the background, and tell on stderr what that freed unless `quiet`.

    Raises OSError when no process can be started; the trash then waits for the next run.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        _detach()
        if os.fork() == 0:
            _delete(roots, quiet)
    finally:
        os._exit(0)


def _detach() -> None:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.closerange(3, max(int(name) for name in os.listdir("/dev/fd")) + 1)
    os.nice(_NICENESS)
    os.chdir("/")  # the folder it was called from may be unmounted meanwhile


def _delete(roots: Sequence[str], quiet: bool) -> None:
    for root in roots:
        done = trash.finish(root)
        for failure in done.failures:
            _tell(f"cannot remove {failure.path}: {failure.reason}")
        if not quiet:
            _tell(f"cache: freed {size(done.freed)} in {root}")


def _tell(line: str) -> None:
    try:
        os.write(2, f"{clean(line)}\n".encode(errors="backslashreplace"))
    except OSError:
        pass  # whoever read it has gone
