"""Recognize a Python and its module folders by their files, without running anything."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

# Every CPython and PyPy executable defines or imports one of these: Py_UnixMain up to 3.7, Py_BytesMain since 3.8.
_PYTHON_SYMBOLS = (b"Py_BytesMain", b"Py_RunMain", b"Py_Main", b"Py_UnixMain", b"pypy_main")
EXECUTABLE_MAGIC = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


def is_python_program(path: str) -> bool:
    """Return whether an executable file is a Python.

    Raises OSError if it cannot be read: it may still be executable.
    """
    with open(path, "rb") as file:
        if not file.read(4).startswith(EXECUTABLE_MAGIC):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
            return any(image.find(symbol) >= 0 for symbol in _PYTHON_SYMBOLS)


def installed_folders(prefix: str) -> Iterator[str]:
    """Yield the folders of installed modules in the environment with this prefix.

    The lines of a `.pth` file are further folders, used by editable installs:
    https://docs.python.org/3/library/site.html.
    """
    for folder in sorted(Path(prefix).glob("lib/python*/site-packages")):
        yield str(folder)
        for file in sorted(folder.glob("*.pth")):
            yield from (line for line in _lines(file) if os.path.isabs(line) and os.path.isdir(line))


def _lines(path: Path) -> list[str]:
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read(1 << 16).splitlines()
    except OSError:
        return []
