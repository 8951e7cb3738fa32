"""Change a `.env` line by line: all other lines stay the same, byte for byte, and so do its mode and owner.

One rename replaces the old file: if the process is killed at any instant, one complete file is there.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import LauncherError, quoted
from ..system import files
from . import env_file

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]+")
_MARK = "\ufeff"


class Edit:
    """Hold a `.env` before and after the change."""

    def __init__(self, path: Path, values: Mapping[str, str]) -> None:
        """Read the file, which may be missing, and assign these values in it.

        Raises LauncherError (78) for a value that could not be read back unchanged.
        """
        self.path = Path(os.path.realpath(path))
        self.values = values
        self.before: bytes | None = None
        with suppress(FileNotFoundError):
            # A new file in place of a pipe or device would cut off its server.
            self.before = files.read_regular(self.path, env_file.MAX_BYTES)
        self.after = _assigned((self.before or b"").decode(), values).encode()
        read = env_file.parse(path, self.after.decode().removeprefix(_MARK), {})
        if not values.items() <= read.values.items():
            raise LauncherError(f"{path} cannot hold {' and '.join(values)} unchanged", f"$EDITOR {quoted(path)}")
        self.lines = {name: read.lines[name] for name in values}

    def write(self) -> None:
        """Replace the old file by the new one.

        Raises OSError; ESTALE if the file has changed since it was read.
        """
        folder = files.open_folder(self.path.parent, follow=True)
        try:
            status = self._status(folder)
            files.write_whole(
                self.path.name,
                self.after,
                folder,
                durable=True,
                owner=None if status else os.fstat(folder),
                mode=0o600 if status else 0o666,
                prepare=(lambda descriptor: _like(descriptor, status, self.path)) if status else None,
            )
        finally:
            os.close(folder)

    def _status(self, folder: int) -> os.stat_result | None:
        """Return the status of the file to be replaced, None without one."""
        try:
            descriptor = files.open_regular(self.path.name, dir_fd=folder)
        except FileNotFoundError:
            if self.before is None:
                return None
            raise
        with open(descriptor, "rb") as file:
            if file.read(env_file.MAX_BYTES) != self.before:
                raise OSError(errno.ESTALE, "it was changed meanwhile", str(self.path))
            return os.fstat(descriptor)


def _assigned(text: str, values: Mapping[str, str]) -> str:
    """Return the text with these values: each replaces the last line with its name, or is appended."""
    from dotenv.parser import parse_stream

    mark = _MARK if text.startswith(_MARK) else ""
    parts = [
        [binding.original.string, None if binding.error else binding.key]
        for binding in parse_stream(io.StringIO(text.removeprefix(_MARK), newline=""))
    ]
    newline = "\r\n" if "\r\n" in text else "\n"
    for name, value in values.items():
        at = next((number for number in reversed(range(len(parts))) if parts[number][1] == name), None)
        if at is None:
            if parts and not (parts[-1][0] or "").endswith(("\n", "\r")):
                parts[-1][0] = f"{parts[-1][0]}{newline}"
            parts.append([f"{name}={_quoted(value)}{newline}", name])
            continue
        old = parts[at][0] or ""
        begin = re.match(r"\s*(?:export[^\S\r\n]+)?", old)
        end = re.search(r"[\r\n]*\Z", old)
        parts[at][0] = f"{begin[0] if begin else ''}{name}={_quoted(value)}{end[0] if end else ''}"
    return mark + "".join(part or "" for part, _ in parts)


def _quoted(value: str) -> str:
    """Return a value in the form that dotenv reads back unchanged.

    Raises LauncherError (78) if no line can contain it: it would be expanded, or is not text.
    """
    if not value.isprintable() or "$" in value:
        raise LauncherError(
            f"a .env cannot hold the path {value!r}", "rename the folder: no $ and no control characters"
        )
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _like(descriptor: int, status: os.stat_result, path: Path) -> None:
    """Give a new file the owner, the mode, the access lists and the labels of the old one."""
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) != (status.st_uid, status.st_gid):
        os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    with suppress(OSError, AttributeError):  # some systems and file systems lack them
        for name in os.listxattr(path):
            with suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(path, name))
