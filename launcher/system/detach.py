"""A process that nobody waits for: in a session of its own, nobody's child, holding nothing of the launcher's."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NoReturn

from .files import above_streams

# What a terminal sends to everything that was started from it.
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN)


def beside(work: Callable[[], None], *, seconds: int | None = None, stderr: bool = False) -> None:
    """Do some work in a process of its own that outlives the launcher, and return as soon as that process runs.

    With `seconds` it ignores SIGTERM and ends after so many at the latest. It prints nowhere unless it keeps `stderr`.
    Raises OSError when no process can be started.
    """
    child = os.fork()
    if not child:
        _start(work, seconds, stderr)
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        return  # whoever started us has the kernel reap them: how it ended is unknown
    if status:
        raise OSError(status, os.strerror(status) if status > 0 else "it was killed")


def enter_session(output: int, error: int, kept: Collection[int]) -> None:
    """Make this forked process leave its parent's terminal and descriptors; of these it keeps those in `kept`.

    stdin becomes /dev/null, stdout and stderr become `output` and `error`. The caller sets the signals.
    """
    null = above_streams(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # in its own place the exec would close it
    for stream, descriptor in enumerate((null, output, error)):
        if descriptor != stream:
            os.dup2(descriptor, stream)
    close_others((0, 1, 2, *kept))


def reset_signals() -> None:
    """Set every signal as a newly logged-in user has it, and drop what a terminal has sent meanwhile."""
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # which forgets what is pending
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):  # a few are the C library's own
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def close_others(kept: Collection[int]) -> None:
    """Close every descriptor but these."""
    for name in os.listdir("/dev/fd"):
        if int(name) not in kept:
            with suppress(OSError):  # the one that the listing itself was read by
                os.close(int(name))


def _start(work: Callable[[], None], seconds: int | None, stderr: bool) -> NoReturn:
    status = errno.EAGAIN
    try:
        _leave(stderr)
        if os.fork() == 0:
            _work(work, seconds)
        status = 0
    except OSError as error:
        status = error.errno or status
    finally:
        os._exit(status)


def _leave(stderr: bool) -> None:
    os.setsid()
    null = above_streams(os.open(os.devnull, os.O_RDWR))
    enter_session(null, 2 if stderr else null, ())
    os.chdir("/")  # the folder it was called from may be unmounted meanwhile
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _work(work: Callable[[], None], seconds: int | None) -> NoReturn:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        # The end of a unit's main process must not cut short what ends soon by itself.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL if seconds is None else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if seconds is not None:
            signal.alarm(seconds)
        work()
    finally:
        os._exit(0)
