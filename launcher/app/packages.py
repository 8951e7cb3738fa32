"""Find the installed packages of an interpreter in its folders, without importing or running anything."""

from __future__ import annotations

from pathlib import Path


def packages(interpreter: str) -> tuple[str, ...]:
    """Return the names of an environment's metadata folders, which contain its packages and their versions."""
    prefix = Path(interpreter).parent.parent
    return tuple(sorted(folder.name for folder in prefix.glob("lib/python3*/*-packages/*.dist-info")))


def version(interpreter: str, package: str) -> str | None:
    """Return the version of a package in an environment, None if it is not found.

    `package` is spelled as in the metadata folder, `python_dotenv` for python-dotenv:
    https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    prefix = Path(interpreter).parent.parent
    for folder in prefix.glob(f"lib/python3*/*-packages/{package}-[0-9]*.dist-info"):
        return folder.name.removeprefix(f"{package}-").removesuffix(".dist-info")
    return None
