"""Where the app's model cache is, by huggingface_hub's own rules and without importing it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .paths import HUB_ENTRY, absolute, expand, home_of_user


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


def roots(environment: Mapping[str, str], app_dir: Path) -> tuple[Path, ...]:
    """Return the hub cache first, then the caches in the app's own folder that hold anything in hub layout."""
    conventional = (
        app_dir / "cache_hub",
        app_dir / "cache_hub" / "hub",
        app_dir / "checkpoints" / "hf_cache",
    )
    found = [hub_cache(environment, app_dir), *(path for path in conventional if _holds_entries(path))]
    return tuple({os.path.realpath(path): path for path in reversed(found)}.values())[::-1]


def _holds_entries(folder: Path) -> bool:
    try:
        return any(HUB_ENTRY.match(name) for name in os.listdir(folder))
    except OSError:
        return False
