"""Work in a process that is nobody's child and holds nothing of the launcher's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress


def beside(work: Callable[[], None], seconds: int) -> None:
    """Do some work in a process that is nobody's child, holds nothing of ours and ends after `seconds` at the latest.

    Raises OSError when no process can be started.
    """
    child = os.fork()
    if child:
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(null, stream)
            close_others(range(3))
            # The end of a unit's main process must not cut short what is told about it.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            signal.alarm(seconds)
            os.chdir("/")
            work()
    finally:
        os._exit(0)


def close_others(kept: Collection[int]) -> None:
    """Close every descriptor but these."""
    for name in os.listdir("/dev/fd"):
        if int(name) not in kept:
            with suppress(OSError):  # the one that the listing itself was read by
                os.close(int(name))
