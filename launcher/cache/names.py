"""A repo's folder in a hub cache tells its type and its name, which can hold no two dashes in a row."""

from __future__ import annotations

_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space", "kernels": "kernel"}


def kind(folder: str) -> str:
    """Return the type of repo that a folder's name stands for."""
    return _KINDS[folder.partition("--")[0]]


def name(folder: str) -> str:
    """Return the repo's name that a folder's name stands for, its type in front where it is no model."""
    prefix, _, rest = folder.partition("--")
    plain = rest.replace("--", "/")
    return plain if prefix == "models" else f"{prefix}/{plain}"
