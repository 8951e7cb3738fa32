"""A copy of this launcher in the app's folder must not hide a module `launcher` of the app's own.

Python searches the folder of the script first, and a package comes before a module of the same name.
"""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path

from ..config.settings import Settings
from ..errors import LauncherError, quoted
from ..scripts.folder import content, is_launcher, python_files

_PACKAGE = "launcher"
_MODULE = r"launcher(\.[\w-]+)?\.(py|pyc|so)"
_IMPORT = (
    rb"(?m)^[ \t]*(?:from[ \t]+launcher((?:\.\w+)*)[ \t]+import[ \t]+\(?\s*(\w+)|import[ \t]+launcher((?:\.\w+)*)\b)"
)
_MOST_READ = 200


def refuse_clash(settings: Settings, python: str) -> None:
    """Refuse to start an app whose own `launcher` is hidden by a copy of this one; `python` runs the launcher.

    Raises LauncherError (78).
    """
    for folder in dict.fromkeys((Path(os.path.realpath(settings.script)).parent, settings.app_dir)):
        copy = folder / _PACKAGE
        if not is_launcher(os.fspath(copy)):
            continue
        module = _module_beside(folder)
        if module:
            raise LauncherError(
                f"{module} is the app's, and the copy of this launcher in {copy} hides it from the app",
                f"mkdir -p ~/start-app && mv {quoted(folder / 'start_app.py')} {quoted(copy)} ~/start-app; then "
                f"{quoted(python)} ~/start-app/start_app.py --app-dir {quoted(settings.app_dir)}"
                f"; or install it with pipx, uv tool or pip: start-app --app-dir {quoted(settings.app_dir)}",
            )
        importer = _importer(folder, copy)
        if importer:
            raise LauncherError(
                f"{importer} imports a module launcher of the app's, and the copy of this launcher in {copy} is in "
                "its place",
                "pipx install . in a clone of this launcher; restore the app's own launcher; "
                f"start-app --app-dir {quoted(settings.app_dir)}",
            )


def _module_beside(folder: Path) -> Path | None:
    try:
        names = sorted(name for name in os.listdir(folder) if re.fullmatch(_MODULE, name))
    except OSError:
        return None
    return folder / names[0] if names else None


def _importer(folder: Path, copy: Path) -> Path | None:
    """Return a file of the app's that imports a name from `launcher` that this launcher does not have."""
    for path in islice(python_files(folder), _MOST_READ):
        data = content(path)
        if b"launcher" not in data:
            continue
        for match in re.finditer(_IMPORT, data):
            parts = (match[1] or match[3] or b"").decode().split(".")[1:]
            names = [*parts, *([match[2].decode()] if match[2] else [])]
            if not names or not any((copy / names[0]).with_suffix(end).exists() for end in (".py", "")):
                return path
    return None
