"""Remember verified files next to the app: those of caches in one file, those of the app's folders in another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..cache.memory import Memory
from ..system import state
from .placement import Memories

CACHED = "verified"
LOCAL = "verified-local"


def load(app_dir: Path) -> Memories:
    """Return the remembered files."""
    return Memories(Memory(state.read(app_dir, CACHED)), Memory(state.read(app_dir, LOCAL)))


def save(app_dir: Path, memories: Memories, detail: Callable[[str], None]) -> None:
    """Save the newly verified files; a failure only costs time, so it is a detail message."""
    for name, memory in ((CACHED, memories.cached), (LOCAL, memories.local)):
        if not memory.grown:
            continue
        try:
            state.write(app_dir, name, memory.data(everything=False))
        except OSError as error:
            detail(f"cannot save which files are whole: {error.strerror}")
