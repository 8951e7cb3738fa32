"""What is installed beside an interpreter, as its folders say; nothing is imported or run."""

from __future__ import annotations

from pathlib import Path


def packages(interpreter: str) -> tuple[str, ...]:
    """Return the names of the metadata folders of an environment, which tell its packages and their versions."""
    prefix = Path(interpreter).parent.parent
    return tuple(sorted(folder.name for folder in prefix.glob("lib/python3*/*-packages/*.dist-info")))


def version(interpreter: str, package: str) -> str | None:
    """Return the version of a package of an environment, None where it is not there or cannot be seen.

    `package` is written as the metadata folder has it, `python_dotenv` for python-dotenv:
    https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    prefix = Path(interpreter).parent.parent
    for folder in prefix.glob(f"lib/python3*/*-packages/{package}-[0-9]*.dist-info"):
        return folder.name.removeprefix(f"{package}-").removesuffix(".dist-info")
    return None
