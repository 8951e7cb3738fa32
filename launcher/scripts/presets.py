"""Know the apps that cannot be read automatically: their files and their settings, in `presets.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Preset(NamedTuple):
    """Hold one app: its files, its settings, and the reasons."""

    name: str
    files: tuple[str, ...]
    lines: Mapping[str, str]
    reason: str


@cache
def presets() -> tuple[Preset, ...]:
    """Return every preset."""
    document = json.loads(Path(__file__).with_name("presets.json").read_text(encoding="utf-8"))
    return tuple(Preset(one["name"], tuple(one["files"]), one["lines"], one["reason"]) for one in document)


def recognized(app_dir: Path) -> Preset | None:
    """Return the preset whose files are all in a folder, None without one."""
    return next((one for one in presets() if all((app_dir / name).is_file() for name in one.files)), None)
