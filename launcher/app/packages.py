"""Find the installed packages of an interpreter in its folders, without importing or running anything."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..system.files import names_in

_SUFFIX = ".dist-info"


def packages(interpreter: str) -> tuple[str, ...]:
    """Return the names of an environment's metadata folders, which contain its packages and their versions."""
    return tuple(sorted(_metadata(interpreter)))


def _metadata(interpreter: str) -> Iterator[str]:
    """Yield the names of the metadata folders; `Path.glob` would take ten times as long at each launch."""
    library = os.path.join(os.path.dirname(os.path.dirname(interpreter)), "lib")
    for python in (name for name in names_in(library) if name.startswith("python3")):
        for folder in (name for name in names_in(f"{library}/{python}") if name.endswith("-packages")):
            yield from (name for name in names_in(f"{library}/{python}/{folder}") if name.endswith(_SUFFIX))


def version(interpreter: str, package: str) -> str | None:
    """Return the version of a package in an environment, None if it is not found.

    `package` is spelled as in the metadata folder, `python_dotenv` for python-dotenv:
    https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    start = f"{package}-"
    found = (name[len(start) :].removesuffix(_SUFFIX) for name in _metadata(interpreter) if name.startswith(start))
    return next((version for version in found if version[:1].isdigit()), None)
