"""Run a script that is killed at a step on the file system or between processes: `step.py STEP WHERE SCRIPT …`.

Only steps count in whose arguments the text WHERE is; a blank is in all. What it forks goes on counting, so that a
child can be the one that is killed; an exec ends the counting.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys

STEPS = {
    "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.fork", "os.exec",
    "fcntl.flock", "subprocess.Popen", "signal.pthread_kill",
}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def die_at(step: int, where: str) -> None:
    """Have this process killed at this step, counted from 0."""
    left = step

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event == "open":
            flags = arguments[2]
            if not (isinstance(flags, int) and flags & WRITING):
                return
        elif event not in STEPS:
            return
        if where and not any(where in str(argument) for argument in arguments):
            return
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    sys.addaudithook(hook)


if __name__ == "__main__":
    die_at(int(sys.argv[1]), sys.argv[2])
    del sys.argv[:3]
    runpy.run_path(sys.argv[0], run_name="__main__")
