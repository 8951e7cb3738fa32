"""A word or a path survives systemd's own reading of a unit file unchanged: systemd.syntax(7), systemd.service(5).

Three readers come one after another: the words are split and C escapes undone, `%` begins a specifier, and in a command
line `$` begins a variable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import LauncherError

_PLAIN = re.compile(r"[A-Za-z0-9_./:@+,=-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
# What systemd refuses in the path of a program itself, or reads as something else there.
_NO_PROGRAM = re.compile(r"""[\x00-\x1f\x7f"'\\$]""")
# An absolute path for systemd that runs whatever its arguments name.
_SHELL = ("/bin/sh", "-c", 'exec "$0" "$@"')


class Raw(str):
    """Be a word that systemd itself is to read: a specifier or a variable."""

    __slots__ = ()


def command(words: Sequence[str]) -> str:
    """Return a command line for Exec…=.

    The first word is the program's absolute path. One that systemd would not take is run by a shell, which becomes it.
    """
    odd = _NO_PROGRAM.search(words[0]) or any("\udc80" <= letter <= "\udcff" for letter in words[0])
    program, *arguments = (*_SHELL, *words) if odd else words
    return " ".join((_quoted(program), *(_argument(word) for word in arguments)))


def path(value: str) -> str | None:
    """Return a path for a setting that takes a list of paths, or None for one that no such setting can hold."""
    return _quoted(value) if value.isprintable() and not set(value) & set("\"'\\") else None


def line(value: str) -> str:
    """Return free text for a setting that takes a whole line."""
    return "".join(letter if letter.isprintable() else "?" for letter in value).strip().replace("%", "%%")


def _argument(word: str) -> str:
    return word if isinstance(word, Raw) else _quoted(word).replace("$", "$$")


def _quoted(word: str) -> str:
    if "\0" in word:
        raise LauncherError("no word of a command can hold a NUL", "start_app.py unit --help")
    if _PLAIN.fullmatch(word):
        return word
    return f'"{"".join(map(_escaped, word))}"'.replace("%", "%%")


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    # A name that is no text (surrogateescape) goes byte for byte, as do control characters.
    return "".join(f"\\x{byte:02x}" for byte in letter.encode(errors="surrogateescape"))
