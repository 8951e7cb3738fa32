"""A browser is opened by a program of its own, so that what it prints and how long it stays are not the launcher's."""

from __future__ import annotations

import subprocess

_SECONDS = 10.0
_CODE = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))"


def open_page(url: str, python: str) -> bool:
    """Open a page in the user's browser, and tell whether there is one; one that stays at work has opened it."""
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
        browser.returncode = 0  # it is left to itself
        return True
