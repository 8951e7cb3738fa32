"""Read paths in settings as huggingface_hub does, but from a given environment instead of our own."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import LauncherError

# The entries of a hub cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
HUB_ENTRY = re.compile(r"(models|datasets|spaces|kernels)--.")
# The journal of a move, in the new cache: until the move is complete, that folder must not count as a cache.
MOVE = ".start_app-move"
_VARIABLE = r"(?a)\$(\w+|\{[^}]*\})"


def expand(value: str, variable: Callable[[str], str | None], home: str | None) -> str:
    """Expand `~` and then `$NAME`, as `os.path.expandvars(os.path.expanduser(…))` would; an unknown name stays."""

    def replaced(match: re.Match[str]) -> str:
        value = variable(match[1].strip("{}"))
        return match[0] if value is None else value

    if value == "~" or value.startswith("~/"):
        # A container's nameless user has HOME=/.
        value = ((home or home_of_user()).rstrip("/") + value[1:]) or "/"
    else:
        value = os.path.expanduser(value)
    return re.sub(_VARIABLE, replaced, value)


def fallbacks(text: str) -> tuple[str, ...]:
    """Return the addresses and folders in HF_ENDPOINT_FALLBACK, separated by commas or blanks.

    A blank separates only where the next word begins an address or a path, so the name of a folder may have blanks.
    """
    parts = re.split(r"\s*,\s*|\s+(?=https?://|file:///|/|\.{1,2}/|~/)", text.strip())
    return tuple(part for part in parts if part)


def is_folder(text: str) -> bool:
    """Return whether an entry of HF_ENDPOINT_FALLBACK is a folder, not the address of a hub."""
    return text.startswith(("/", "./", "../", "~/", "file:///"))


def unexpanded(value: str) -> str | None:
    """Return the first unknown `$NAME`, or None."""
    match = re.search(_VARIABLE, value)
    return match[0] if match else None


def absolute(folder: Path, value: str) -> Path:
    """Return the absolute path of `value` in `folder`, as the kernel would resolve it from there.

    `..` after a link leads out of the folder that the link points to, so a lexical clean-up is wrong. The last
    component is never resolved: the `python` of an environment is a link, and must stay one.
    """
    path = folder / value
    if ".." not in path.parts:
        return path
    if path.name == "..":
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent), path.name)


def home_of_user() -> str:
    """Return the home in the password database; an instance may run without our HOME."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "~"


def current_folder() -> Path:
    """Return the current folder.

    Raises LauncherError (78) if it was removed.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise LauncherError("the current folder was removed", "cd to an existing folder, and try again") from error
