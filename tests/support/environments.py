"""Python environments that tests make: with nothing in them, with some packages, or with all that this one has."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import dotenv
import psutil
import pytest

PSUTIL, DOTENV = (Path(str(module.__file__)).parent for module in (psutil, dotenv))

# What installers say when they cannot get a package, which is no fault of the project.
UNREACHABLE = (
    "No matching distribution",
    "Failed to fetch",
    "error sending request",
    "not found in the package registry",
)


def make_venv(folder: Path, packages: Iterable[Path] = ()) -> Path:
    """Make an environment that has nothing, link the packages into it, and return where they lie."""
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", folder), check=True, capture_output=True)
    site = site_of(folder)
    for package in packages:
        (site / package.name).symlink_to(package)
    return site


def make_seeing_venv(folder: Path) -> Path:
    """Make an environment that has everything that this one has, and return where its own packages lie."""
    site = make_venv(folder)
    (site / "seen.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    for name in ("pip", "pytest"):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m {name} "$@"\n')
        script.chmod(0o755)
    return site


def site_of(folder: Path) -> Path:
    """Return where an environment has its packages."""
    scheme = "venv" if sys.version_info >= (3, 11) else "posix_prefix"
    return Path(sysconfig.get_path("purelib", scheme, {"base": str(folder), "platbase": str(folder)}))


def skip_where_unreachable(told: str) -> None:
    """Skip a test whose installer could not reach a package index."""
    if any(text in told for text in UNREACHABLE):
        pytest.skip("no package index can be reached")
