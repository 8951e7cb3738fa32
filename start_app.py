#!/usr/bin/env python3
"""Restart a Gradio web UI safely; start_app.py --help shows how.

This file must run on any Python far enough to say which one is needed, so it keeps to the oldest syntax.
"""

import os
import sys


def run():
    """Run the launcher of this file's own folder, and return its exit status."""
    if sys.version_info < (3, 10):
        sys.stderr.write(
            "start_app.py needs Python 3.10 or newer, and %s is Python %d.%d\n"
            "hint: run it with the app's own interpreter: .venv/bin/python start_app.py\n"
            % (sys.executable, sys.version_info[0], sys.version_info[1])
        )
        return 78
    folder = os.path.dirname(os.path.realpath(__file__))
    if not os.path.isdir(os.path.join(folder, "launcher")):
        sys.stderr.write(
            "the folder launcher/ is missing beside %s\n"
            "hint: copy it from where start_app.py came from: cp -r launcher %s\n"
            % (os.path.realpath(__file__), folder)
        )
        return 78
    if not all(os.path.isfile(os.path.join(folder, "launcher", name)) for name in ("__main__.py", "cli.py")):
        sys.stderr.write(
            "%s is another program's, and start_app.py needs its own folder of that name beside it\n"
            "hint: install the launcher beside the app, with pipx, uv tool or pip; then: start-app --app-dir '%s'\n"
            % (os.path.join(folder, "launcher"), folder.replace("'", "'\\''"))
        )
        return 78
    # `python -I` and PYTHONSAFEPATH omit the script's folder; through a link, launcher/ is next to the real file.
    sys.path.insert(0, folder)
    from launcher.__main__ import main

    return main(launcher_file=__file__)


if __name__ == "__main__":
    try:
        status = run()
    except KeyboardInterrupt:  # the launcher was not yet able to report it
        sys.stderr.write("interrupted\n")
        status = 130
    sys.exit(status)
