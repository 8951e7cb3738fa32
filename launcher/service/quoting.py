"""Quote words and paths so that systemd reads them unchanged: systemd.syntax(7), systemd.service(5).

systemd reads a command line in three passes: it splits words and C escapes, expands `%` specifiers, and expands `$`
variables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import LauncherError

_PLAIN = re.compile(r"[A-Za-z0-9_./:@+,=-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
# What systemd rejects or reads differently in the path of a program.
_NO_PROGRAM = re.compile(r"""[\x00-\x1f\x7f"'\\$]""")
# An absolute path that runs the program named by its arguments.
_SHELL = ("/bin/sh", "-c", 'exec "$0" "$@"')


class Raw(str):
    """A word that systemd expands: a specifier or a variable."""

    __slots__ = ()


def command(words: Sequence[str]) -> str:
    """Return a command line for Exec…=.

    The first word is the program's absolute path. A path that systemd rejects is run through `sh -c 'exec …'`.
    """
    odd = _NO_PROGRAM.search(words[0]) or any("\udc80" <= letter <= "\udcff" for letter in words[0])
    program, *arguments = (*_SHELL, *words) if odd else words
    return " ".join((_quoted(program), *(_argument(word) for word in arguments)))


def path(value: str) -> str | None:
    """Return a path for a setting that takes a list of paths, or None if no such setting can hold it."""
    return _quoted(value) if value.isprintable() and not set(value) & set("\"'\\") else None


def line(value: str) -> str:
    """Return free text for a setting that takes a whole line."""
    return "".join(letter if letter.isprintable() else "?" for letter in value).strip().replace("%", "%%")


def _argument(word: str) -> str:
    return word if isinstance(word, Raw) else _quoted(word).replace("$", "$$")


def _quoted(word: str) -> str:
    if "\0" in word:
        raise LauncherError("no word of a command can contain a NUL", "start_app.py unit --help")
    if _PLAIN.fullmatch(word):
        return word
    return f'"{"".join(map(_escaped, word))}"'.replace("%", "%%")


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    # A name that is not valid text (surrogateescape) is written byte for byte, and so are control characters.
    return "".join(f"\\x{byte:02x}" for byte in letter.encode(errors="surrogateescape"))
