"""Work in a process that is nobody's child and holds nothing of the launcher's."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NoReturn


def beside(work: Callable[[], None], seconds: int = 0, *, streams: Collection[int] = ()) -> None:
    """Do some work in a process that is nobody's child and holds nothing of ours but these standard streams.

    It ends after `seconds` at the latest, unless these are 0, and ignores SIGHUP, SIGINT and SIGTERM unless the work
    says otherwise. Raises OSError when no process can be started.
    """
    child = os.fork()
    if not child:
        _detach(work, seconds, streams)
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        return  # whoever started us has the kernel reap them: how it ended is unknown
    if status:
        raise OSError(status, os.strerror(status))


def _detach(work: Callable[[], None], seconds: int, streams: Collection[int]) -> NoReturn:
    status = 0
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in {0, 1, 2}.difference(streams):
                os.dup2(null, stream)
            close_others(range(3))
            # The end of a unit's main process must not cut short what is told about it.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            signal.alarm(seconds)
            os.chdir("/")  # the folder it was called from may be unmounted meanwhile
            work()
    except OSError as error:
        status = error.errno or errno.EAGAIN
    finally:
        os._exit(status)


def close_others(kept: Collection[int]) -> None:
    """Close every descriptor but these."""
    for name in os.listdir("/dev/fd"):
        if int(name) not in kept:
            with suppress(OSError):  # the one that the listing itself was read by
                os.close(int(name))
