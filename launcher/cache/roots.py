"""Find the app's model caches by huggingface_hub's own rules, without importing it, and their owners."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..config.paths import HUB_ENTRY, MOVE, absolute, expand, home_of_user
from ..config.settings import HUB_CACHE_NAMES, Settings
from ..errors import LauncherError, quoted
from ..system.files import names_in

# transformers before version 5 uses the first of these that is set, and it overrides every other setting.
TRANSFORMERS_NAMES = ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE")
_TRANSFORMERS = r"transformers-(\d+)\..*\.dist-info"


class Root(NamedTuple):
    """Hold a hub cache: its configured path, its path without links, the reason why it is one, and its ownership.

    It is `owned` if it is in the app's folder or if this user's or root's `.env` names it, and `inside` only if it is
    in the app's folder.
    """

    path: Path
    real: str
    origin: str
    owned: bool
    inside: bool = True


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
    """Return the hub cache first, then transformers' own, then those in the app's folder that have the hub's layout."""
    conventional = (
        app_dir / "cache_hub",
        app_dir / "cache_hub" / "hub",
        app_dir / "checkpoints" / "hf_cache",
    )
    named = transformers_cache(environment, app_dir)
    paths = [
        hub_cache(environment, app_dir),
        *((named[1],) if named else ()),
        *(path for path in conventional if _holds_entries(path)),
    ]
    return tuple({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1]


def transformers_cache(environment: Mapping[str, str], app_dir: Path) -> tuple[str, Path] | None:
    """Return the variable that gives transformers a cache of its own, and that cache.

    Return None without such a variable, or if the app's transformers is version 5 or later, which ignores them.
    """
    name = next((name for name in TRANSFORMERS_NAMES if environment.get(name)), None)
    if name is None or (_transformers(environment, app_dir) or 0) >= 5:
        return None
    home = environment.get("HOME") or home_of_user()
    return name, absolute(app_dir, expand(environment[name], environment.get, home))


def _transformers(environment: Mapping[str, str], app_dir: Path) -> int | None:
    """Return the major version of the app's transformers, None if it is not installed."""
    prefixes = (app_dir / ".venv", app_dir / "venv", environment.get("VIRTUAL_ENV"), environment.get("CONDA_PREFIX"))
    packages = [path for prefix in prefixes if prefix for path in Path(prefix).glob("lib/python*/site-packages")]
    for folder in (*packages, *(Path(path) for path in sys.path if path)):
        version = next(filter(None, (re.fullmatch(_TRANSFORMERS, name) for name in names_in(folder))), None)
        if version:
            return int(version[1])
    return None


def roots(settings: Settings, environment: Mapping[str, str]) -> tuple[Root, ...]:
    """Return every cache that an app with this environment uses, its hub cache first.

    A cache is the app's own if it is in the app's folder or if the `.env` of this user or root names it. Other programs
    share the default cache of a user, ours or that of the cache's owner, so it is never the app's own.
    """
    paths = folders(environment, settings.app_dir)
    hub = next((settings.variables[name] for name in HUB_CACHE_NAMES if name in settings.variables), None)
    legacy = transformers_cache(environment, settings.app_dir)
    app = os.path.realpath(settings.app_dir) + os.sep
    listing = []
    for number, path in enumerate(paths):
        real = os.path.realpath(path)
        named = hub if number == 0 else settings.variables.get(legacy[0]) if legacy and path == legacy[1] else None
        origin = named.origin if named else "in the app's folder" if number else "default"
        inside = real.startswith(app)
        by_file = named is not None and named.level == "file"
        own = (by_file or inside) and real not in _everybodys(real, environment.get("HOME"))
        listing.append(Root(path, real, origin, own, inside))
    return tuple(listing)


def misplaced(environment: Mapping[str, str], app_dir: Path) -> tuple[str, str] | None:
    """Return the problem of an HF_HOME that is itself a hub cache, and a hint; None without a problem.

    The library appends `hub` to HF_HOME, so it does not find the models there.
    """
    if not environment.get("HF_HOME") or any(environment.get(name) for name in HUB_CACHE_NAMES if name != "HF_HOME"):
        return None
    home, cache = hf_home(environment, app_dir), hub_cache(environment, app_dir)
    if _holds_entries(cache) or not (_holds_entries(home) or home.name == "hub"):
        return None
    advice = f"HF_HOME={quoted(home.parent)}" if home.name == "hub" else f"HF_HUB_CACHE={quoted(home)}"
    return f"HF_HOME is {home}, so the hub cache is {cache}, and it holds no models", f"set {advice}"


def _everybodys(real: str, home: str | None) -> frozenset[str]:
    """Return the default caches: of this user by either name of the home, and of the cache's owner."""
    homes = [home_of_user(), *((home,) if home else ())]
    try:
        homes.append(pwd.getpwuid(os.stat(real).st_uid).pw_dir)
    except (OSError, KeyError):
        pass  # it does not exist, or its owner has no name
    return frozenset(os.path.realpath(f"{folder}/.cache/huggingface/hub") for folder in homes)


def refuse_unsafe(caches: Iterable[Root], app_dir: Path, home: str | None) -> None:
    """Refuse to remove anything if a wrong setting makes a whole system, home or app folder the cache.

    Raises LauncherError for a root that is `/`, a home folder, the app's folder, or a folder above one of these.
    """
    for root in caches:
        for folder in (home, home_of_user(), str(app_dir)):
            real = os.path.realpath(folder) if folder else os.sep
            if root.real == real or f"{real}{os.sep}".startswith(root.real.rstrip(os.sep) + os.sep):
                raise LauncherError(
                    f"{root.path} is not a place for a model cache ({root.origin}): it holds {real}",
                    "set HF_HOME to a folder of its own, such as HF_HOME=./cache_hub in .env",
                )


def _holds_entries(folder: Path) -> bool:
    names = names_in(folder)
    return MOVE not in names and any(map(HUB_ENTRY.match, names))
