"""Against olah, the mirror that people run: it serves old metadata for a while, and its files are new already.

It lives in an environment of its own, since it pins what a web server pins: OLAH names its command.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.apps import AppFolder, Done, Processes, clean_environment, eventually, free_port, launcher
from tests.support.hub import Hub

OLAH = os.environ.get("OLAH") or shutil.which("olah-cli")
REPO = "koge/index-tts-v23"
pytestmark = pytest.mark.skipif(not OLAH, reason="no olah here: OLAH=/path/to/olah-cli")


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture
def official() -> Iterator[Hub]:
    with Hub() as hub:
        hub.commit(REPO, {"config.json": b'{"v": 22}', "model.safetensors": b"old" * 50_000})
        yield hub


@pytest.fixture
def mirror(official: Hub, processes: Processes, tmp_path: Path) -> str:
    """Run olah in front of the hub and return its address."""
    port = free_port()
    assert OLAH
    processes.start(
        (OLAH, "--host", "127.0.0.1", "--port", str(port), "--hf-scheme", "http")
        + ("--hf-netloc", urlsplit(official.endpoint).netloc, "--hf-lfs-netloc", urlsplit(official.cdn).netloc)
        + ("--mirror-scheme", "http", "--mirror-netloc", f"127.0.0.1:{port}")
        + ("--mirror-lfs-netloc", f"127.0.0.1:{port}", "--repos-path", str(tmp_path / "repos"))
        + ("--log-path", str(tmp_path / "logs")),
        cwd=tmp_path,
        env=clean_environment(HF_HOME=str(tmp_path / "olah-home")),
    )
    eventually(lambda: listens(port), 60, "olah")
    return f"http://127.0.0.1:{port}"


def models(app: AppFolder, *arguments: str) -> Done:
    return launcher("models", *arguments, "--app-dir", app.path)


@pytest.mark.slow
def test_a_real_mirror_that_lags_is_seen_through_and_a_pull_by_commit_gets_the_new_one(
    app: AppFolder, official: Hub, mirror: str
) -> None:
    app.write_env(f"HF_HOME=./hf\nHF_ENDPOINT={mirror}\nHF_OFFICIAL_ENDPOINT={official.endpoint}\n")
    assert models(app, "lock", REPO).status == 0
    done = models(app, "pull")
    assert done.status == 0, done.err
    assert f"from {mirror}, verified" in done.err
    old = official.head(REPO)
    assert models(app, "check", "--json").json["models"][0]["verdict"] == "up to date"

    new = official.commit(REPO, {"config.json": b'{"v": 23}', "model.safetensors": b"new" * 50_000})
    checked = models(app, "check", "--json")
    assert (checked.status, checked.json["models"][0]["verdict"]) == (80, "local behind")
    said = checked.json["models"][0]["mirror"]
    assert (said["commit"], said["files_commit"]) == (old, new)  # its API lags, its files do not

    assert models(app, "lock").status == 0
    assert models(app, "pull").status == 0
    snapshot = app.path / "hf" / "hub" / f"models--{REPO.replace('/', '--')}" / "snapshots" / new
    assert (snapshot / "model.safetensors").read_bytes() == b"new" * 50_000
    checked = models(app, "check", "--json")
    assert (checked.status, checked.json["models"][0]["verdict"]) == (0, "mirror inconsistent")
