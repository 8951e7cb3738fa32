"""Measure the branches that a run of the tests takes, in every launcher that it starts; an app is not measured.

A launcher becomes the app or ends at once: what it did is kept before. Nothing is put into its environment, which
tests compare. Its own `.pth` file calls this at the start of every Python of the environment.
"""

from __future__ import annotations

import os
import sys
from typing import Any

VARIABLE = "MEASURED_BY"
"""Where the settings of coverage lie; COVERAGE_FILE is where the data go."""
LAUNCHERS = ("start_app.py", "start-app", "launcher", "worker.py")
TESTS = ("pytest", "stdin.readline")  # the latter is a worker of pytest-xdist


def begin() -> None:
    """Measure this process if it is a launcher or runs tests."""
    settings = os.environ.get(VARIABLE)
    if settings is None or not any(part in word for word in sys.orig_argv for part in (*LAUNCHERS, *TESTS)):
        return
    import atexit

    import coverage

    measured = coverage.Coverage(config_file=settings, data_suffix=True)
    measured.start()

    def keep() -> None:
        measured.stop()
        measured.save()

    atexit.register(keep)
    for name in ("execve", "_exit"):
        setattr(os, name, _after(keep, getattr(os, name)))


def _after(keep: Any, what: Any) -> Any:
    def do(*arguments: Any) -> None:
        keep()
        what(*arguments)

    return do
