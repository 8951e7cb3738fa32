"""Decide which hubs are asked, in which order, and which may receive the user's token: only the official one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from ..config.paths import fallbacks, is_folder

OFFICIAL = "https://huggingface.co"
TRUE = frozenset(("1", "true", "yes", "on"))


class Endpoint(NamedTuple):
    """Hold a hub's address, and whether it is the official one, which may receive the token."""

    url: str
    official: bool
    token: bool


class Endpoints(NamedTuple):
    """Hold the hub that the app uses, the official one, and the fallbacks."""

    used: Endpoint
    official: Endpoint
    fallback: tuple[Endpoint, ...]
    folders: tuple[str, ...] = ()
    """The folders with models in HF_ENDPOINT_FALLBACK."""

    @property
    def mirrored(self) -> bool:
        """Return whether the app uses another hub than the official one."""
        return not self.used.official

    @property
    def chain(self) -> tuple[Endpoint, ...]:
        """Return the hubs to download from, in order."""
        return tuple(dict.fromkeys((self.used, *self.fallback)))


def of(environment: Mapping[str, str]) -> Endpoints:
    """Return the hubs that an app with this environment uses; blank variables are already unset in it."""
    official = _plain(environment.get("HF_OFFICIAL_ENDPOINT", OFFICIAL))
    trusted = is_true(environment.get("HF_TOKEN_FOR_MIRROR"))

    def endpoint(url: str) -> Endpoint:
        plain = _plain(url)
        return Endpoint(plain, plain == official, plain == official or trusted)

    fallback = fallbacks(environment.get("HF_ENDPOINT_FALLBACK", ""))
    return Endpoints(
        endpoint(environment.get("HF_ENDPOINT", OFFICIAL if official == OFFICIAL else official)),
        endpoint(official),
        tuple(endpoint(entry) for entry in fallback if not is_folder(entry)),
        tuple(filter(is_folder, fallback)),
    )


def sends_token(environment: Mapping[str, str], hf_home: str) -> str | None:
    """Return the third-party hub to which the app itself will send the user's token; None without one.

    huggingface_hub sends it with every request, unless HF_HUB_DISABLE_IMPLICIT_TOKEN is set:
    https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    """
    hubs = of(environment)
    if hubs.used.token or is_true(environment.get("HF_HUB_DISABLE_IMPLICIT_TOKEN")) or is_offline(environment):
        return None
    if any(environment.get(name, "").strip() for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")):
        return hubs.used.url
    try:
        has_token = os.stat(environment.get("HF_TOKEN_PATH", f"{hf_home}/token")).st_size > 0
    except OSError:
        has_token = False
    return hubs.used.url if has_token else None


def is_offline(environment: Mapping[str, str]) -> bool:
    """Return whether the settings forbid all requests to hubs, as huggingface_hub reads them."""
    return is_true(environment.get("HF_HUB_OFFLINE") or environment.get("TRANSFORMERS_OFFLINE"))


def is_true(text: str | None) -> bool:
    """Return whether a variable is true, as huggingface_hub reads it."""
    return (text or "").strip().lower() in TRUE


def _plain(url: str) -> str:
    return url.strip().rstrip("/")
