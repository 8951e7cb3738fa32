"""Find the source files of an app's folder within limits, so that a large or hostile folder costs little.

Links to folders are not followed, and a link to a file counts only if it stays in the app's folder. Environments,
hidden folders and installed packages are not the app's code.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from ..system.files import read_regular

MOST_BYTES = 1 << 20
_MOST_ENTRIES = 40_000
_DEEPEST = 4
_SKIPPED = frozenset(
    "node_modules site-packages dist-packages __pycache__ build dist checkpoints outputs output results logs "
    "start_app_demo".split()
)
_ENVIRONMENT = ("pyvenv.cfg", "conda-meta")
LAUNCHER_FILES = ("__main__.py", "cli.py", "errors.py", "context.py")
"""The files that identify a folder named `launcher` as this launcher's."""


def is_launcher(folder: str) -> bool:
    """Return whether a folder is the package of this launcher, or a copy of it."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in LAUNCHER_FILES)


def python_files(app_dir: Path) -> Iterator[Path]:
    """Yield the Python files of a folder, those nearest to its top first."""
    root = os.path.realpath(app_dir)
    pending = deque([(os.fspath(app_dir), 0)])
    left = _MOST_ENTRIES
    while pending and left > 0:
        folder, depth = pending.popleft()
        try:
            with os.scandir(folder) as entries:
                names = sorted((entry for entry, _ in zip(entries, range(left), strict=False)), key=lambda e: e.name)
        except OSError:
            continue
        left -= len(names)
        if depth and any(entry.name in _ENVIRONMENT for entry in names):
            continue
        for entry in names:
            if entry.name.endswith(".py"):
                if _is_inside(entry, root) and not (depth == 0 and entry.name == "start_app.py"):
                    yield Path(entry.path)
            elif depth < _DEEPEST and _is_source_folder(entry):
                pending.append((entry.path, depth + 1))


def _is_inside(entry: os.DirEntry[str], root: str) -> bool:
    try:
        if not entry.is_symlink():
            return entry.is_file()
        target = os.path.realpath(entry.path)
        return target.startswith(root + os.sep) and stat.S_ISREG(os.stat(target).st_mode)
    except (OSError, ValueError):
        return False


def _is_source_folder(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name in _SKIPPED:
        return False
    try:
        return entry.is_dir(follow_symlinks=False) and not (entry.name == "launcher" and is_launcher(entry.path))
    except OSError:
        return False


def content(path: Path) -> bytes:
    """Return the content of a file; blank if it cannot be read or is too large for a source file."""
    try:
        data = read_regular(path, MOST_BYTES + 1, follow=True)
    except (OSError, ValueError):
        return b""
    return data if len(data) <= MOST_BYTES else b""
