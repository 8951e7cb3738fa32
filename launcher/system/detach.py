"""Run a process that nothing waits for: in a session of its own, detached, without the launcher's descriptors."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NoReturn

from .files import above_streams

# The signals that a terminal sends to its processes.
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN)
_MOST_TRIED = 1 << 12


def beside(work: Callable[[], None], *, seconds: int | None = None, stderr: bool = False) -> None:
    """Do some work in a process of its own that outlives the launcher, and return as soon as that process runs.

    With `seconds` it ignores SIGTERM and ends after that time at the latest. It prints nothing unless it keeps
    `stderr`. Raises OSError if no process can be started.
    """
    child = os.fork()
    if not child:
        _start(work, seconds, stderr)
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        return  # our parent made the kernel reap all children: the exit status is unknown
    if status:
        raise OSError(status, os.strerror(status) if status > 0 else "it was killed")


def enter_session(output: int, error: int, kept: Collection[int]) -> None:
    """Detach this forked process from its parent's terminal and descriptors, except those in `kept`.

    stdin becomes /dev/null, stdout and stderr become `output` and `error`. The caller sets the signals.
    """
    null = above_streams(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # descriptor 0 would keep O_CLOEXEC
    for stream, descriptor in enumerate((null, output, error)):
        if descriptor != stream:
            os.dup2(descriptor, stream)
    close_others((0, 1, 2, *kept))


def reset_signals() -> None:
    """Set every signal to the state after log-in, and drop pending signals of the terminal."""
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # this drops pending signals
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):  # the C library reserves a few
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def close_others(kept: Collection[int]) -> None:
    """Close every descriptor except these."""
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:  # there is no /proc behind it
        numbers = list(range(_MOST_TRIED))
    for number in numbers:
        if number not in kept:
            with suppress(OSError):  # the listing's own descriptor
                os.close(number)


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
    os.chdir("/")  # the current folder may be unmounted meanwhile
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _work(work: Callable[[], None], seconds: int | None) -> NoReturn:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        # A stop of the unit must not kill this process, which ends soon by itself.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL if seconds is None else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if seconds is not None:
            signal.alarm(seconds)
        work()
    finally:
        os._exit(0)
