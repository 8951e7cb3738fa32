"""Trash is deleted beside the app, by a process that the app neither waits for nor owns.

It is forked twice, so that it is nobody's child, in a session of its own, and it keeps nothing open but stderr: the
locks that the app inherits are not its to hold. Killed at any time, it leaves the rest to the next run.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Sequence
from typing import NoReturn

from ..ui.text import clean, size
from . import trash

_NICENESS = 10
# The app's first moments are its own: on few cores, deleting beside them would only delay it.
_GRACE_SECONDS = 0.5


def finish_later(roots: Sequence[str], *, quiet: bool) -> None:
    """Delete the trash of these roots in the background, and tell on stderr what that freed unless `quiet`.

    Raises OSError when no process can be started; the trash then waits for the next run.
    """
    child = os.fork()
    if not child:
        _start(roots, quiet)
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        return  # whoever started us has the kernel reap them: how it ended is not told
    if status:
        raise OSError(status, os.strerror(status))


def _start(roots: Sequence[str], quiet: bool) -> NoReturn:
    status = errno.EAGAIN
    try:
        _detach()
        if os.fork() == 0:
            _delete(roots, quiet)
        status = 0
    except OSError as error:
        status = error.errno or status
    finally:
        os._exit(status)


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
