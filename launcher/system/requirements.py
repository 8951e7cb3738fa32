"""Check the launcher's requirements: the app's own environment may lack them, and one line says how to get them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import LauncherError, quoted

# By import name; no launch needs huggingface_hub, so its absence stops none.
REQUIREMENTS: Mapping[str, str] = {"psutil": "psutil>=6", "dotenv": "python-dotenv>=1.0"}

# Hints must not adapt this name to the call of the launcher: that would use the wrong Python again.
START_APP = "./start_app.py"


def check(app_dirs: Iterable[Path], again: str) -> None:
    """Check that everything that a launch imports is installed, without importing it.

    `app_dirs` are the folders whose environments the user may have meant, `again` are the arguments for its Python.
    Raises LauncherError with the command that helps.
    """
    absent = [requirement for name, requirement in REQUIREMENTS.items() if importlib.util.find_spec(name) is None]
    if not absent:
        return
    error = missing(absent, "not installed")
    for folder in app_dirs:
        for name in (".venv", "venv"):
            python = folder / name / "bin" / "python"
            if python.exists() and os.path.realpath(folder / name) != os.path.realpath(sys.prefix):
                error.hint = f"run it with the app's own Python: {quoted(python)} {again}; or {error.hint}"
                raise error
    raise error


def missing(requirements: Iterable[str], problem: str) -> LauncherError:
    """Return the error for packages that this interpreter lacks."""
    packages = list(requirements)
    names = " and ".join(packages)
    return LauncherError(f"{names}: {problem} for {sys.executable}", install_command(packages))


def install_command(requirements: Iterable[str]) -> str:
    """Return the command that installs these where that is allowed.

    Environments made by uv have no pip, and a distribution's own Python refuses it (PEP 668).
    """
    packages, python = " ".join(f"'{requirement}'" for requirement in requirements), quoted(sys.executable)
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install --python {python} {packages}"
    if sys.prefix == sys.base_prefix and (Path(os.__file__).parent / "EXTERNALLY-MANAGED").exists():
        return f"{python} -m venv .venv && .venv/bin/pip install {packages}, then .venv/bin/python {START_APP}"
    return f"{python} -m pip install {packages}"
