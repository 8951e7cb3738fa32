"""The entry of the launcher: `python -m launcher`, the installed `start-app`, and `start_app.py`.

An interrupt ends with 130 and one line, also while modules are still being imported.
"""

from __future__ import annotations

import gc
import sys


def main(launcher_file: str | None = None) -> int:
    """Run the launcher on a supported system, and return its exit status."""
    if sys.platform == "win32":
        sys.stderr.write("start_app.py runs on Linux and macOS\nhint: on Windows, run it inside WSL\n")
        return 78
    # The garbage collector would run dozens of times during the imports without any effect.
    gc.set_threshold(50_000)
    try:
        sys.unraisablehook = _end_if_interrupted
        # Import here: on Windows, half of its imports are missing.
        from .cli import main as run

        status = run(launcher_file=launcher_file)
        _ignore_interrupts()
        gc.freeze()  # at its end, Python would search every object for cycles once more, which takes 5 ms
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
            pass  # there is no other way to report it
    return 130  # ExitStatus.INTERRUPTED may not be imported yet


def _ignore_interrupts() -> None:
    """Ignore further interrupts: while Python itself exits, one would print a traceback."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_if_interrupted(unraisable: sys.UnraisableHookArgs) -> None:
    """End the process if Python would print a traceback and continue: an interrupt in a destructor or a callback."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    import os

    os._exit(interrupted())


if __name__ == "__main__":
    sys.exit(main())
