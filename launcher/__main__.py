"""Where the launcher is entered: `python -m launcher`, the installed `start-app`, and `start_app.py`.

An interrupt ends with 130 and one line, also while modules are still being imported.
"""

from __future__ import annotations

import gc
import sys


def main(launcher_file: str | None = None) -> int:
    """Run the launcher where it can run, and return its exit status."""
    if sys.platform == "win32":
        sys.stderr.write("start_app.py runs on Linux and macOS\nhint: on Windows, run it inside WSL\n")
        return 78
    # The garbage collector would run dozens of times during the imports, and find nothing.
    gc.set_threshold(50_000)
    try:
        sys.unraisablehook = _end_if_interrupted
        # Not above: on Windows half of what it imports is missing.
        from .cli import main as run

        status = run(launcher_file=launcher_file)
        _ignore_interrupts()
    except KeyboardInterrupt:
        _ignore_interrupts()
        return interrupted()
    return status


def interrupted() -> int:
    """Print that the run was interrupted, and return its exit status."""
    if sys.stderr is not None:
        try:
            sys.stderr.write("interrupted\n")
        except OSError:
            pass  # nobody is left to tell
    return 130  # ExitStatus.INTERRUPTED, which may not have been imported yet


def _ignore_interrupts() -> None:
    """Let what has ended end: while Python itself exits, an interrupt would be a traceback."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_if_interrupted(unraisable: sys.UnraisableHookArgs) -> None:
    """End the process where Python would print a traceback and go on: an interrupt in a destructor or a callback."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    import os

    os._exit(interrupted())


if __name__ == "__main__":
    sys.exit(main())
