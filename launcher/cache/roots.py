"""Where the app's model cache is, by huggingface_hub's own rules and without importing it, and whose it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import LauncherError
from ..paths import HUB_ENTRY, absolute, expand, home_of_user
from ..settings import HUB_CACHE_NAMES, Settings

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
    base = environment.get("XDG_CACHE_HOME", os.path.join(home, ".cache"))
    hf_home = environment.get("HF_HOME", os.path.join(base, "huggingface"))
    default = os.path.join(expand(hf_home, environment.get, home), "hub")
    chosen = environment.get("HF_HUB_CACHE", environment.get("HUGGINGFACE_HUB_CACHE", default))
    return absolute(folder, expand(chosen, environment.get, home))


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

    A cache is the app's own when it lies in the app's folder or this app's `.env` names it. The user-wide default is
    shared with other programs even then.
    """
    paths = folders(environment, settings.app_dir)
    named = next((settings.variables[name] for name in HUB_CACHE_NAMES if name in settings.variables), None)
    inside = os.path.realpath(settings.app_dir) + os.sep
    plain = {name: value for name, value in environment.items() if name not in HUB_CACHE_NAMES}
    everybodys = os.path.realpath(hub_cache(plain, settings.app_dir))
    found = []
    for number, path in enumerate(paths):
        real = os.path.realpath(path)
        by_file = number == 0 and named is not None and named.level == "file" and real != everybodys
        origin = (named.origin if named else "default") if number == 0 else "in the app's folder"
        found.append(Root(path, real, origin, by_file or real.startswith(inside)))
    return tuple(found)


def trashed(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the roots, links resolved, that hold what an interrupted removal has left."""
    return tuple(os.path.realpath(path) for path in paths if _holds(path, TRASH))


def _holds(folder: Path, prefix: str) -> bool:
    try:
        return any(name.startswith(prefix) for name in os.listdir(folder))
    except OSError:
        return False


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
    try:
        return any(HUB_ENTRY.match(name) for name in os.listdir(folder))
    except OSError:
        return False
