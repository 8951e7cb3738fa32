"""An instance in the background has its own session: it survives closing the terminal or ssh.

It is the launcher's child while the launcher waits for it, so that its exit status is known. It inherits only its
streams and the lock, and every signal has its default action. Helpers of a launch are detached from the beginning.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import NoReturn

from ..errors import ExitStatus, LauncherError
from ..system.detach import TERMINAL_SIGNALS, enter_session, reset_signals
from ..system.files import above_streams


@contextmanager
def shielded() -> Iterator[None]:
    """Block the terminal's signals while the body runs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spawn(prepare: Callable[[], None], become: Callable[[], NoReturn], output: int, keep: Collection[int]) -> int:
    """Start a program in a session of its own, with its output in `output`, and return its pid once it runs.

    Call it shielded: a Ctrl-C must not reach the program before it has left the terminal. In the new process, `prepare`
    is called with the launcher's streams, then `become`, which ends in an exec. Of the other descriptors it keeps those
    in `keep`. Raises the LauncherError that either of them raises.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it were ignored, the exit status would be lost
    read_end, write_end = (above_streams(end) for end in os.pipe())
    try:
        pid = os.fork()
        if not pid:
            _be(prepare, become, output, keep, write_end)
    finally:
        os.close(write_end)
    with open(read_end, "rb") as told:  # it closes at the exec, or after an error
        problem = told.read()
    if problem:
        ended(pid)
        message, hint, status = json.loads(problem)
        raise LauncherError(message, hint, ExitStatus(status))
    return pid


def ended(pid: int) -> int | None:
    """Wait for the end of a child and return its exit status, or the negative number of the signal that ended it."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


def told_end(status: int | None) -> str:
    """Return in words how a process has ended."""
    if status is None:
        return "has ended"
    if status >= 0:
        return f"has ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _be(
    prepare: Callable[[], None], become: Callable[[], NoReturn], output: int, keep: Collection[int], pipe: int
) -> NoReturn:
    try:
        os.setsid()
        reset_signals()
        prepare()
        enter_session(output, output, (pipe, *keep))
        become()
    except LauncherError as error:
        problem = (error.message, error.hint, int(error.status))
    except BaseException as error:  # the parent must receive any error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        few = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
        hint = "ulimit -n 1024" if few else None
        problem = (f"cannot start in the background: {reason.lower()}", hint, int(ExitStatus.IO))
    try:
        os.write(pipe, json.dumps(problem).encode())
    finally:
        os._exit(errno.ENOEXEC)
