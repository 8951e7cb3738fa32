"""What the tests of the playground share."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.demo import HUB_CACHE

ROOT = Path(__file__).resolve().parents[2]
NEWEST, OLDER = "koge/index-tts-v23", "koge/index-tts-v22"
DEADLINE_S = 60.0
# The lines that python-dotenv and systemd's EnvironmentFile= read in the same way.
PORTABLE_LINE = re.compile(r"^(#.*|[A-Z_][A-Z0-9_]*=[A-Za-z0-9_./:@%+,=-]+)?$")

needs_hub = pytest.mark.skipif(not importlib.util.find_spec("huggingface_hub"), reason="huggingface_hub is not there")
needs_gradio = pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="gradio is not there")


def fetch(url: str, data: bytes | None = None, timeout: float = DEADLINE_S) -> bytes:
    """Fetch `url` past any proxy of the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    with opener.open(request, timeout=timeout) as response:
        body: bytes = response.read()
        return body


def page_config(port: int) -> Any:
    """Return what a Gradio page tells of itself."""
    return json.loads(fetch(f"http://127.0.0.1:{port}/config", timeout=10))


def tree(folder: Path) -> dict[str, bytes | str]:
    """Read a folder whole: the bytes of its files, the text of its symlinks, `dir` for folders.

    The port of its Hub follows from its place, so it is not compared.
    """
    found: dict[str, bytes | str] = {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else ("dir" if path.is_dir() else path.read_bytes())
        for path in folder.rglob("*")
    }
    settings = found.get(".env")
    if isinstance(settings, bytes):
        found[".env"] = re.sub(rb"(?<=127\.0\.0\.1:)\d+", b"PORT", settings)
    return found


def repo_folder(playground: Path, repo: str) -> Path:
    return playground / HUB_CACHE / f"models--{repo.replace('/', '--')}"


def settings_of(playground: Path) -> dict[str, str]:
    lines = (playground / ".env").read_text("ascii").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def run_python(code: str, cwd: Path, settings: Mapping[str, str]) -> str:
    """Run `code` in a new Python in `cwd`, as the app would be; return its stdout."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **settings, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
