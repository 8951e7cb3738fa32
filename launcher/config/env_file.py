"""A `.env` means what python-dotenv says it means, with the process environment winning inside `${…}` as well.

`dotenv_values()` lets the file win there and `load_dotenv()` writes to `os.environ`; merging either by hand can name
another cache than the one the app uses. So dotenv's own parser reads the lines, and the values are resolved here.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..errors import ExitStatus, LauncherError, quoted

MAX_BYTES = 1 << 20
# What Python itself may touch before the app sees it: a variable name must survive execve.
_FORBIDDEN_IN_NAMES = "=\0"
_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
_WORDS = r"[A-Z][A-Z0-9_]+"
# `NAME= # comment` is a blank value; python-dotenv before 1.2.4 takes the comment for it.
_COMMENT_ONLY = r"[^=]*=[^\S\r\n]+#"


class EnvFile(NamedTuple):
    """Hold what one `.env` says: values with their line, and the lines nobody could parse.

    Of such a line only the words that look like names are kept: the rest may be a secret. `odd` are lines that dotenv
    takes, but not as `NAME=VALUE` was meant: with a full-width sign, a colon, or quotes around the name. `owner` is the
    user that another user's file belongs to, None for one that decides.
    """

    path: Path
    values: Mapping[str, str]
    lines: Mapping[str, int]
    unparsable: Mapping[int, tuple[str, ...]]
    owner: int | None = None
    odd: Mapping[int, tuple[str, ...]] = MappingProxyType({})


def read(
    path: Path,
    environ: Mapping[str, str],
    *,
    bad: ExitStatus = ExitStatus.CONFIG,
    trusted: Collection[int] | None = None,
) -> EnvFile:
    """Read the `.env` at `path` as UTF-8 (a byte order mark is allowed); one of no `trusted` uid has an owner.

    Raises LauncherError with status `bad` when there is nothing readable there. A FIFO is read as a file: password
    managers serve a `.env` that way.
    """
    text, uid = _text(path, bad)
    file = parse(path, text, environ)
    return file if trusted is None or uid in trusted else file._replace(owner=uid)


def parse(path: Path, text: str, environ: Mapping[str, str]) -> EnvFile:
    """Resolve the lines of a `.env`, expanding `${NAME}` and `${NAME:-default}` from `environ` first, then from above.

    A blank in `environ` is unset. Raises LauncherError for a value that no process environment can hold.
    """
    from dotenv.parser import parse_stream
    from dotenv.variables import parse_variables

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
            values[name] = None  # `NAME` without a `=` takes an earlier value back
        elif name is not None and binding.value is not None:
            known = {**values, **present}
            # The environment holds bytes; under a locale that is not UTF-8, Python's text for them differs from ours.
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


def _leading_blank_lines(original: str) -> int:
    # dotenv counts the blank lines before a binding as its own.
    blank = original[: len(original) - len(original.lstrip())]
    return len(re.findall(r"\r\n|\n|\r", blank))


def _text(path: Path, bad: ExitStatus) -> tuple[str, int]:
    """Return the text of a file and the uid that it belongs to."""
    try:
        # Not blocking on a FIFO that nobody serves would need a deadline; a FIFO is only there by its owner's wish.
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
            uid = os.fstat(file.fileno()).st_uid
    except IsADirectoryError as error:
        raise LauncherError(f"cannot read {path}: it is a folder", f"ls -ld {quoted(path)}", bad) from error
    except OSError as error:
        raise LauncherError(f"cannot read {path}: {error.strerror}", f"ls -l {quoted(path)}", bad) from error
    if len(data) > MAX_BYTES:
        raise LauncherError(f"cannot read {path}: more than {MAX_BYTES} bytes is no .env", f"ls -l {quoted(path)}", bad)
    try:
        return data.decode("utf-8-sig"), uid
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise LauncherError(
            f"cannot read {path}: line {line} is not UTF-8 text", f"file {quoted(path)} (save it as UTF-8)", bad
        ) from error
