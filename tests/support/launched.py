"""What a launched app says of itself: the only witness of what really reached it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.support.apps import AppFolder, Done, clean_environment, launcher


def hello(done: Done) -> dict[str, Any]:
    """Return what the small app told on its first line before it exited."""
    assert done.status == 0, done.err
    document: dict[str, Any] = json.loads(next(line for line in done.out.splitlines() if line.startswith('{"pid"')))
    return document


def received(app: AppFolder, *arguments: str, env: Mapping[str, str] | None = None, **keywords: Any) -> dict[str, Any]:
    """Launch the app for one moment and return what reached it."""
    words = list(arguments)
    split = words.index("--") if "--" in words else len(words)
    ours, theirs = words[:split], words[split + 1 :]
    everything = (*app.arguments, *ours, "--", *theirs, "--exit", "0")
    return hello(launcher(*everything, env=clean_environment() if env is None else env, **keywords))
