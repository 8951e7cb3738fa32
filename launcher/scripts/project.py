"""Read a project's console scripts from `pyproject.toml`.

Python 3.10 has no reader for TOML, and only the lines of one table are needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .folder import content

_TABLES = ("[project.scripts]", "[project.gui-scripts]", "[tool.poetry.scripts]")
_LINE = r"""["']?([\w.-]+)["']?\s*=\s*["']([\w.]+)\s*:\s*([\w.]+)["']"""


class ConsoleScript(NamedTuple):
    """Hold a console script: its name, and the module and function that it calls."""

    name: str
    module: str
    function: str


def console_scripts(app_dir: Path) -> Iterator[ConsoleScript]:
    """Yield the console scripts that a folder's project declares."""
    within = False
    for line in content(app_dir / "pyproject.toml").decode("utf-8", "replace").splitlines():
        text = line.strip()
        if text.startswith("["):
            within = text.replace(" ", "") in _TABLES
        elif within and (match := re.match(_LINE, text)):
            yield ConsoleScript(match[1], match[2], match[3])


def file_of(app_dir: Path, script: ConsoleScript) -> Path | None:
    """Return the file that a console script calls, if it is in the folder."""
    parts = script.module.split(".")
    for folder in (app_dir, app_dir / "src"):
        base = folder.joinpath(*parts)
        for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None
