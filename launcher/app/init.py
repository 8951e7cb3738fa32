"""As pid 1 the launcher stays as a minimal init, and the app runs below it.

The kernel withholds every signal without a handler from pid 1, so an app that became pid 1 could not be stopped by
SIGTERM, and nothing would reap orphans: signal(7), pid_namespaces(7).
"""

from __future__ import annotations

import os
import signal

ADVICE = 'docker run --init; or "tini", "--" before it in ENTRYPOINT, or init: true in compose.yaml'
# Signals that concern only this process, signals of job control, and signals that cannot be caught.
_OWN = tuple(f"SIG{name}" for name in "CHLD KILL STOP SEGV BUS FPE ILL TRAP SYS ABRT TTIN TTOU".split())


def stand_above() -> int | None:
    """Fork, return None in the child, and in the parent the child's exit status after its end.

    Until then the parent forwards every signal and reaps every orphan. Call it before any lock is taken or written: the
    child's pid counts.
    """
    passed = signal.valid_signals() - {getattr(signal, name) for name in _OWN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*passed, signal.SIGCHLD))
    # If it were ignored, the kernel would reap the app itself, and its exit status would be lost.
    child_handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, child_handler)
        _take_terminal()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    while True:
        # Blocked signals are never withheld: sigwait receives them all, in the order of their numbers.
        number = signal.sigwait((*passed, signal.SIGCHLD))
        if number != signal.SIGCHLD:
            os.kill(child, number)  # it is not reaped yet, so the pid is still its own
            continue
        status = _collect(child)
        if status is not None:
            return status if status >= 0 else 128 - status


def _collect(child: int) -> int | None:
    """Reap all ended children, and return the app's exit code (negative: a signal) if it is among them."""
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
    """Put the child into a group of its own, in the foreground: Ctrl-C must reach it exactly once."""
    try:
        os.setpgid(0, 0)
        if os.isatty(0):
            stopped = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(0, os.getpgrp())
            signal.signal(signal.SIGTTOU, stopped)
    except OSError:
        pass  # it already leads a session, or the terminal belongs to another session
