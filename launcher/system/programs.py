"""Whether a program is a Python, by what is in its file: it is looked at, never run."""

from __future__ import annotations

import mmap

# Every CPython and PyPy executable defines or imports one of these: Py_UnixMain up to 3.7, Py_BytesMain since 3.8.
_PYTHON_SYMBOLS = (b"Py_BytesMain", b"Py_RunMain", b"Py_Main", b"Py_UnixMain", b"pypy_main")
EXECUTABLE_MAGIC = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


def is_python_program(path: str) -> bool:
    """Return whether an executable file is a Python.

    Raises OSError where it cannot be read: it may be executable even so.
    """
    with open(path, "rb") as file:
        if not file.read(4).startswith(EXECUTABLE_MAGIC):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
            return any(image.find(symbol) >= 0 for symbol in _PYTHON_SYMBOLS)
