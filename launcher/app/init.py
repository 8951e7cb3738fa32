"""As pid 1 the launcher stays, as the smallest init there can be, and the app runs below it.

The kernel withholds from pid 1 every signal that it has no handler for, so an app that became pid 1 could not be
stopped by SIGTERM, and nobody would collect what its children leave: signal(7), pid_namespaces(7).
"""

from __future__ import annotations

import os
import signal

ADVICE = 'docker run --init; or "tini", "--" before it in ENTRYPOINT, or init: true in compose.yaml'
# What is sent to the process itself because of what it does, what stops a terminal's jobs, and what cannot be caught.
_OWN = tuple(f"SIG{name}" for name in "CHLD KILL STOP SEGV BUS FPE ILL TRAP SYS ABRT TTIN TTOU".split())


def stand_above() -> int | None:
    """Fork, return None in the child, and in the parent the child's exit status once it has ended.

    Until then the parent passes every signal on and collects whatever ends below it. To be called before any lock is
    taken or written: the child's pid is the one that counts.
    """
    passed = signal.valid_signals() - {getattr(signal, name) for name in _OWN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*passed, signal.SIGCHLD))
    # Where it is ignored, the kernel collects by itself, and how the app ended is lost.
    child_handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, child_handler)
        _take_terminal()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    while True:
        # Blocked signals are never withheld: sigwait has them all, in the order of their numbers.
        number = signal.sigwait((*passed, signal.SIGCHLD))
        if number != signal.SIGCHLD:
            os.kill(child, number)  # nobody has collected it yet, so the pid is still its own
            continue
        status = _collect(child)
        if status is not None:
            return status if status >= 0 else 128 - status


def _collect(child: int) -> int | None:
    """Collect all that has ended, and return the child's exit code (negative: a signal) when it is among them."""
    status_of_child = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status_of_child
        if pid == 0:
            return status_of_child
        if pid == child:
            status_of_child = os.waitstatus_to_exitcode(status)


def _take_terminal() -> None:
    """Put the child into a group of its own, in the foreground: Ctrl-C must reach it once and not twice."""
    try:
        os.setpgid(0, 0)
        if os.isatty(0):
            stopped = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(0, os.getpgrp())
            signal.signal(signal.SIGTTOU, stopped)
    except OSError:
        pass  # it leads a session already, or the terminal is another session's
