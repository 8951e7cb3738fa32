"""Open a browser in a process of its own, so that its output and its lifetime do not affect the launcher."""

from __future__ import annotations

import subprocess

_SECONDS = 10.0
_CODE = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))"


def open_page(url: str, python: str) -> bool:
    """Open a page in the user's browser, and return whether one exists; a browser that keeps running has opened it."""
    try:
        browser = subprocess.Popen(
            (python, "-c", _CODE, url),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    try:
        return browser.wait(_SECONDS) == 0
    except subprocess.TimeoutExpired:
        browser.returncode = 0  # it runs on unattended
        return True
