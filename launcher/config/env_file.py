"""Read a `.env` as python-dotenv does, except that the process environment also wins inside `${…}`.

`dotenv_values()` prefers the file there and `load_dotenv()` writes to `os.environ`; merging either one afterwards can
name another cache than the app's. So dotenv's own parser reads the lines, and the values are resolved here.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, NamedTuple

from ..errors import ExitStatus, LauncherError, quoted

if TYPE_CHECKING:
    from dotenv.parser import Binding
    from dotenv.variables import Atom

MAX_BYTES = 1 << 20
# A variable name must survive execve, and Python may read it before the app does.
_FORBIDDEN_IN_NAMES = "=\0"
_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
_WORDS = r"[A-Z][A-Z0-9_]+"
# `NAME= # comment` is a blank value; python-dotenv before 1.2.4 returns the comment.
_COMMENT_ONLY = r"[^=]*=[^\S\r\n]+#"

Stamp = tuple[int, int]
"""Time in nanoseconds and size of a file; inode numbers are not stable on every FUSE file system."""


class EnvFile(NamedTuple):
    """Hold the content of one `.env`: values with their lines, and the lines that cannot be parsed.

    Of such a line only the words that look like names are kept: the rest may be a secret. `odd` are lines that dotenv
    accepts, but not as the intended `NAME=VALUE`: with a full-width sign, a colon, or quotes around the name. `owner`
    is the user that another user's file belongs to, None for a trusted file. `stamp` changes with the file.
    """

    path: Path
    values: Mapping[str, str]
    lines: Mapping[str, int]
    unparsable: Mapping[int, tuple[str, ...]]
    owner: int | None = None
    odd: Mapping[int, tuple[str, ...]] = MappingProxyType({})
    stamp: Stamp | None = None


def stamp(path: Path) -> Stamp | None:
    """Return what changes when a file is written or replaced, None without a regular file."""
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None


def _stamp(status: os.stat_result) -> Stamp | None:
    is_file = stat.S_ISREG(status.st_mode)
    return (status.st_mtime_ns, status.st_size) if is_file else None


def read(
    path: Path,
    environ: Mapping[str, str],
    *,
    bad: ExitStatus = ExitStatus.CONFIG,
    trusted: Collection[int] | None = None,
) -> EnvFile:
    """Read the `.env` at `path` as UTF-8 (a byte order mark is allowed); a file of no `trusted` uid has an owner.

    Raises LauncherError with status `bad` if it cannot be read. A FIFO is read as a file: password managers serve a
    `.env` that way.
    """
    text, status = _text(path, bad)
    file = parse(path, text, environ)._replace(stamp=_stamp(status))
    return file if trusted is None or status.st_uid in trusted else file._replace(owner=status.st_uid)


def parse(path: Path, text: str, environ: Mapping[str, str]) -> EnvFile:
    """Resolve the lines of a `.env`, expanding `${NAME}` and `${NAME:-default}` from `environ` first, then from above.

    A blank in `environ` is unset. Raises LauncherError for a value that no process environment can contain.
    """
    parse_stream, parse_variables = _dotenv()
    present = {name: value for name, value in environ.items() if value.strip()}
    values: dict[str, str | None] = {}
    lines: dict[str, int] = {}
    unparsable: dict[int, tuple[str, ...]] = {}
    odd: dict[int, tuple[str, ...]] = {}
    for binding in parse_stream(io.StringIO(text)):
        line = binding.original.line + _leading_blank_lines(binding.original.string)
        name = binding.key
        if binding.error or (name is not None and (not name or any(c in name for c in _FORBIDDEN_IN_NAMES))):
            unparsable[line] = tuple(re.findall(_WORDS, binding.original.string))
            continue
        if name is not None and not re.fullmatch(_NAME, name):
            odd[line] = tuple(re.findall(_WORDS, binding.original.string))
        if name is not None and binding.value is None:
            values[name] = None  # `NAME` without a `=` removes an earlier value
        elif name is not None and binding.value is not None:
            known = {**values, **present}
            # The environment contains bytes; under a locale other than UTF-8, Python decodes them differently.
            comment_only = binding.value.startswith("#") and re.match(_COMMENT_ONLY, binding.original.string)
            literal = "" if comment_only else os.fsdecode(binding.value.encode())
            value = "".join(atom.resolve(known) for atom in parse_variables(literal))
            if "\0" in value:
                raise LauncherError(
                    f"{name} holds a NUL byte ({path} line {line})",
                    f"write the file again as plain text: $EDITOR {quoted(path)}",
                )
            values[name], lines[name] = value, line
    given = {name: value for name, value in values.items() if value is not None}
    return EnvFile(path, given, lines, unparsable, odd=odd)


def _dotenv() -> tuple[Callable[[IO[str]], Iterable[Binding]], Callable[[str], Iterable[Atom]]]:
    """Import python-dotenv's parser alone.

    The package imports logging and tempfile for what is not used here, which would be a tenth of a launch's time. So
    the package is there without having run while its two modules are imported, and is gone again after that.
    """
    name = "dotenv"
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec:
        sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        from dotenv.parser import parse_stream
        from dotenv.variables import parse_variables
    finally:
        if spec:
            sys.modules.pop(name, None)
    return parse_stream, parse_variables


def _leading_blank_lines(original: str) -> int:
    # dotenv includes the blank lines before a binding.
    blank = original[: len(original) - len(original.lstrip())]
    return len(re.findall(r"\r\n|\n|\r", blank))


def _text(path: Path, bad: ExitStatus) -> tuple[str, os.stat_result]:
    """Return the text of a file and its status."""
    try:
        # This may block on a FIFO without a writer; its owner created it on purpose.
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
            status = os.fstat(file.fileno())
    except IsADirectoryError as error:
        raise LauncherError(f"cannot read {path}: it is a folder", f"ls -ld {quoted(path)}", bad) from error
    except OSError as error:
        raise LauncherError(f"cannot read {path}: {error.strerror}", f"ls -l {quoted(path)}", bad) from error
    if len(data) > MAX_BYTES:
        raise LauncherError(f"cannot read {path}: a .env has at most {MAX_BYTES} bytes", f"ls -l {quoted(path)}", bad)
    try:
        return data.decode("utf-8-sig"), status
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise LauncherError(
            f"cannot read {path}: line {line} is not UTF-8 text", f"file {quoted(path)} (save it as UTF-8)", bad
        ) from error
