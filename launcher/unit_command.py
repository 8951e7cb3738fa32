"""`unit` as a command: what this machine and this user decide is looked up here, and the text is made of it."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from . import text
from .cache.roots import folders
from .console import Console
from .errors import ExitStatus
from .options import Arguments
from .service import unit
from .settings import Settings

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def run(
    arguments: Arguments, found: Settings, environ: Mapping[str, str], console: Console, launcher_file: str | None
) -> ExitStatus:
    """Print the unit, and warn of what only this shell has."""
    uid = _user(found)
    machine = unit.Machine(
        launcher=_launcher(launcher_file),
        user=text.user(uid),
        helper=unit.gpu_helper(shutil.which("nvidia-modprobe"), len(_names(_NVIDIA))),
        caches=tuple(str(path) for path in folders(_environment(found, environ, uid), found.app_dir)),
        app_args=arguments.app_args,
    )
    made = unit.unit(found, machine, template=arguments.template, user_manager=arguments.user)
    for name in made.left_out:
        console.warn(f"{name} is set in this shell only, and the unit will not have it: put it into .env")
    if console.as_json:
        console.json({"name": made.name, "unit": made.text, "left_out": list(made.left_out)})
    else:
        console.text(made.text)
    return ExitStatus.DONE


def _user(found: Settings) -> int:
    # Root prints units for others: an app in a user's folder is that user's, and so are its other instances.
    return os.geteuid() or os.stat(found.app_dir).st_uid


def _environment(found: Settings, environ: Mapping[str, str], uid: int) -> Mapping[str, str]:
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        home = environ.get("HOME", "/")
    kept = {name: one.value for name, one in found.variables.items() if one.level != "environment"}
    return {"HOME": home, **kept}


def _launcher(launcher_file: str | None) -> tuple[str, ...]:
    if launcher_file is not None:
        return sys.executable, os.path.abspath(launcher_file)
    beside = Path(__file__).resolve().parent.parent / "start_app.py"
    return (sys.executable, str(beside)) if beside.is_file() else (sys.executable, "-m", "launcher")


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
