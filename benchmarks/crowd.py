"""Many processes that end on request, with the process that started them, and in any case after a while."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .measure import ROOT, BenchmarkError, running

_LIFETIME_SECONDS = 900  # should even their parent be killed


@contextmanager
def crowd(count: int) -> Iterator[None]:
    """Have `count` other processes run meanwhile, children of one parent that ends and reaps them.

    Raises BenchmarkError when the machine does not allow so many.
    """
    program = (sys.executable, "-c", f"from benchmarks.crowd import gather; gather({count})")
    with running(program, ROOT, stdin=subprocess.PIPE) as parent:
        assert parent.process.stdin
        try:
            line = parent.line()
            if line != "ready":
                raise BenchmarkError(f"{count} processes are more than this machine allows, {line}; ulimit -u")
            yield
        finally:
            # Killed together, its children would be left to pid 1, which may reap nobody.
            parent.process.stdin.close()
            os.waitid(os.P_PID, parent.process.pid, os.WEXITED | os.WNOWAIT)


def gather(count: int) -> None:
    """Start `count` sleeping children, say so, and end them when stdin closes, as it does when our parent dies."""
    sleep = shutil.which("sleep") or "/bin/sleep"
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    children: list[int] = []
    try:
        for _ in range(count):
            if select.select((sys.stdin,), (), (), 0)[0]:
                return
            children.append(os.posix_spawn(sleep, ("sleep", str(_LIFETIME_SECONDS)), {}, file_actions=quiet))
        print("ready", flush=True)
        sys.stdin.read()
    except OSError as error:
        print(f"only {len(children)}: {error}", flush=True)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)  # unreaped, so the number is still theirs
        for pid in children:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
