"""Where the app's model cache is, by huggingface_hub's own rules and without importing it, and whose it is."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..config.paths import HUB_ENTRY, absolute, expand, home_of_user
from ..config.settings import HUB_CACHE_NAMES, Settings
from ..errors import LauncherError

TRASH = ".start_app-trash-"


class Root(NamedTuple):
    """Hold a hub cache: its path as it is named, links resolved, why it is one, and whether it is this app's own."""

    path: Path
    real: str
    origin: str
    owned: bool


def hub_cache(environment: Mapping[str, str], folder: Path) -> Path:
    """Return the hub cache that a process with this environment and current folder uses.

    The rule is `huggingface_hub.constants`: HF_HUB_CACHE > HUGGINGFACE_HUB_CACHE > HF_HOME/hub >
    XDG_CACHE_HOME/huggingface/hub > ~/.cache/huggingface/hub.
    """
    home = environment.get("HOME") or home_of_user()
    default = os.path.join(_hf_home(environment, home), "hub")
    chosen = environment.get("HF_HUB_CACHE", environment.get("HUGGINGFACE_HUB_CACHE", default))
    return absolute(folder, expand(chosen, environment.get, home))


def hf_home(environment: Mapping[str, str], folder: Path) -> Path:
    """Return the HF home that a process with this environment and current folder uses."""
    return absolute(folder, _hf_home(environment, environment.get("HOME") or home_of_user()))


def _hf_home(environment: Mapping[str, str], home: str) -> str:
    base = environment.get("XDG_CACHE_HOME", os.path.join(home, ".cache"))
    return expand(environment.get("HF_HOME", os.path.join(base, "huggingface")), environment.get, home)


def folders(environment: Mapping[str, str], app_dir: Path) -> tuple[Path, ...]:
    """Return the hub cache first, then the caches in the app's own folder that hold anything in hub layout."""
    conventional = (
        app_dir / "cache_hub",
        app_dir / "cache_hub" / "hub",
        app_dir / "checkpoints" / "hf_cache",
    )
    found = [hub_cache(environment, app_dir), *(path for path in conventional if _holds_entries(path))]
    return tuple({os.path.realpath(path): path for path in reversed(found)}.values())[::-1]


def roots(settings: Settings, environment: Mapping[str, str]) -> tuple[Root, ...]:
    """Return every cache that an app with this environment uses, its hub cache first.

    A cache is the app's own when it lies in the app's folder or this app's `.env` names it. A user-wide default, ours
    or of whom it belongs to, is shared with other programs even then.
    """
    paths = folders(environment, settings.app_dir)
    named = next((settings.variables[name] for name in HUB_CACHE_NAMES if name in settings.variables), None)
    inside = os.path.realpath(settings.app_dir) + os.sep
    found = []
    for number, path in enumerate(paths):
        real = os.path.realpath(path)
        by_file = number == 0 and named is not None and named.level == "file"
        origin = (named.origin if named else "default") if number == 0 else "in the app's folder"
        own = (by_file or real.startswith(inside)) and real not in _everybodys(real, environment.get("HOME"))
        found.append(Root(path, real, origin, own))
    return tuple(found)


def _everybodys(real: str, home: str | None) -> frozenset[str]:
    """Return the user-wide caches: of this user by either name of the home, and of the cache's owner."""
    homes = [home_of_user(), *((home,) if home else ())]
    try:
        homes.append(pwd.getpwuid(os.stat(real).st_uid).pw_dir)
    except (OSError, KeyError):
        pass  # it is not there, or its owner has no name
    return frozenset(os.path.realpath(f"{one}/.cache/huggingface/hub") for one in homes)


def trashed(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the roots, links resolved, that hold what an interrupted removal has left, in themselves or in a repo."""
    return tuple(os.path.realpath(path) for path in paths if _holds_trash(path))


def _holds_trash(root: Path) -> bool:
    names = _names(root)
    repos = (name for name in names if HUB_ENTRY.match(name))
    return any(name.startswith(TRASH) for name in names) or any(
        name.startswith(TRASH) for repo in repos for name in _names(root / repo)
    )


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def refuse_unsafe(found: Iterable[Root], app_dir: Path, home: str | None) -> None:
    """Refuse to remove anything where a mistake in a setting has made a whole system, home or app the cache.

    Raises LauncherError for a root that is `/`, a home folder, the app's folder, or a folder above one of these.
    """
    for root in found:
        for folder in (home, home_of_user(), str(app_dir)):
            real = os.path.realpath(folder) if folder else os.sep
            if root.real == real or f"{real}{os.sep}".startswith(root.real.rstrip(os.sep) + os.sep):
                raise LauncherError(
                    f"{root.path} is no place for a model cache ({root.origin}): it holds {real}",
                    "set HF_HOME to a folder of its own, such as HF_HOME=./cache_hub in .env",
                )


def _holds_entries(folder: Path) -> bool:
    return any(HUB_ENTRY.match(name) for name in _names(folder))
