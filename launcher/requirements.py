"""The launcher lives in the app's own environment, which may lack what it needs: one line says how to get it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping

from .errors import LauncherError

# By the name that is imported; huggingface_hub is needed by no launch, so its absence stops none.
REQUIREMENTS: Mapping[str, str] = {"psutil": "psutil>=6", "dotenv": "python-dotenv>=1.0"}


def check() -> None:
    """Look whether everything a launch imports is installed, without importing it.

    Raises LauncherError with the command that installs what is missing.
    """
    absent = [requirement for name, requirement in REQUIREMENTS.items() if importlib.util.find_spec(name) is None]
    if absent:
        raise missing(absent, "not installed")


def missing(requirements: Iterable[str], what: str) -> LauncherError:
    """Return the error for packages that this interpreter lacks."""
    packages = list(requirements)
    names = " and ".join(packages)
    return LauncherError(f"{names}: {what} for {sys.executable}", install_command(packages))


def install_command(requirements: Iterable[str]) -> str:
    """Return the command that installs these into the running interpreter; environments made by uv have no pip."""
    packages = " ".join(f"'{requirement}'" for requirement in requirements)
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install --python {sys.executable} {packages}"
    return f"{sys.executable} -m pip install {packages}"
