"""Where the launcher is entered: `python -m launcher`, the installed `start-app`, and `start_app.py`."""

from __future__ import annotations

import sys


def main(launcher_file: str | None = None) -> int:
    """Run the launcher where it can run, and return its exit status."""
    if sys.platform == "win32":
        sys.stderr.write("start_app.py runs on Linux and macOS\nhint: on Windows, run it inside WSL\n")
        return 78
    # Not above: on Windows half of what it imports is missing.
    from .cli import main as run

    return run(launcher_file=launcher_file)


if __name__ == "__main__":
    sys.exit(main())
