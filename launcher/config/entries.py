"""Resolve the entries in `APP_SCRIPT` that start the app: a script, `-m MODULE`, or an installed console script.

An app may have several entries, separated by blanks: the first is started, and an instance of any of them is the app's.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import LauncherError
from ..system.programs import installed_folders
from .paths import absolute
from .sources import Setting


class AppEntry(NamedTuple):
    """Hold one way to start the app: the arguments of its Python, and the file that Python then runs."""

    words: tuple[str, ...]
    path: Path


def read(setting: Setting, app_dir: Path, prefixes: Sequence[str]) -> tuple[AppEntry, ...]:
    """Return the entries of a setting; include a missing path if it can be nothing else.

    `prefixes` are the environments that the app may run in, the likeliest first. Raises LauncherError for a setting
    that cannot be split into words, and for a module that is not found.
    """
    value = setting.value
    if os.path.exists(absolute(app_dir, value)):
        return (AppEntry((value,), absolute(app_dir, value)),)  # a name may contain blanks
    try:
        words = iter(shlex.split(value))
    except ValueError as error:
        raise LauncherError(
            f"APP_SCRIPT cannot be split into words: {str(error).lower()} ({setting.origin})",
            "quote as a shell would: APP_SCRIPT=\"'my app.py'\"",
            setting.bad,
        ) from error
    entries = []
    for word in words:
        if word.startswith("-m"):
            entries.append(_module(word[2:] or next(words, ""), setting, app_dir, prefixes))
        else:
            entries.append(_script(word, app_dir, prefixes))
    return tuple(entries) or (AppEntry((value,), absolute(app_dir, value)),)


def _script(word: str, app_dir: Path, prefixes: Sequence[str]) -> AppEntry:
    path = absolute(app_dir, word)
    if os.sep not in word and not path.exists():
        for prefix in prefixes:
            installed = Path(prefix, "bin", word)
            if installed.is_file():
                return AppEntry((str(installed),), installed)
    return AppEntry((word,), path)


def _module(name: str, setting: Setting, app_dir: Path, prefixes: Sequence[str]) -> AppEntry:
    for path in _module_paths(name, app_dir, prefixes):
        if path.is_file():
            return AppEntry(("-m", name), path)
    raise LauncherError(
        f"no module {name or 'named'} in {app_dir} or in the app's environment (APP_SCRIPT, {setting.origin})",
        "APP_SCRIPT='-m PACKAGE.MODULE' as the app's documentation has it, or the path of a script",
        setting.bad,
    )


def _module_paths(name: str, app_dir: Path, prefixes: Sequence[str]) -> Iterator[Path]:
    if not all(part.isidentifier() for part in name.split(".")):
        return
    folders = [str(app_dir), *(folder for prefix in prefixes for folder in installed_folders(prefix))]
    for folder in folders:
        base = os.path.join(folder, *name.split("."))
        yield Path(base, "__main__.py")  # a package comes before a module of the same name
        yield Path(f"{base}.py")
