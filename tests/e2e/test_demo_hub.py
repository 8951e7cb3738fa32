"""The Hub of the demo speaks the protocol, ends by itself, and shares its port with nobody else's server."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from launcher.demo import HUB, hub, make_playground
from tests.support.apps import eventually, free_port

REPO = "koge/index-tts-v23"


def start(folder: Path, port: int, idle: float = 20) -> int:
    command = (sys.executable, "-I", hub.__file__, str(folder), str(port), str(idle))
    return subprocess.run(command, timeout=60).returncode


def is_running(port: int) -> bool:
    """Tell whether the process of a Hub lives; a request would keep it running."""
    lines = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return any(hub.__file__ in line and str(port) in line for line in lines)


def get(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    make_playground(folder)
    port = free_port()
    assert start(folder / HUB, port) == 0
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        (folder / HUB).rename(folder / "gone")
        eventually(lambda: get(f"http://127.0.0.1:{port}/")[0] == 0, 30, "the end of the Hub")


@pytest.mark.slow
def test_the_mirror_lags_by_name_and_serves_every_commit_by_hash(tmp_path: Path) -> None:
    with serving(tmp_path / "demo") as base:
        new = json.loads(get(f"{base}/api/models/{REPO}")[1])["sha"]
        old = json.loads(get(f"{base}/mirror/api/models/{REPO}/revision/main")[1])["sha"]
        assert old != new
        assert json.loads(get(f"{base}/mirror/api/models/{REPO}/revision/{new}")[1])["sha"] == new
        status, data = get(f"{base}/mirror/{REPO}/resolve/{new}/config.json")
        assert (status, json.loads(data)["version"]) == (200, "2.3.1")
        assert get(f"{base}/{REPO}/resolve/{new}/config.json", Range="bytes=2-5") == (206, data[2:6])
        assert get(f"{base}/{REPO}/resolve/{new}/config.json", Range=f"bytes={len(data)}-")[0] == 416
        for missing in (f"/{REPO}/resolve/{new}/../index.json", f"/{REPO}/resolve/{new}/no", "/api/models/a/b", "/x"):
            assert get(f"{base}{missing}")[0] == 404


@pytest.mark.slow
def test_it_ends_when_nobody_asks_and_starts_again(tmp_path: Path) -> None:
    make_playground(tmp_path / "demo")
    port = free_port()
    for _ in range(2):
        assert start(tmp_path / "demo" / HUB, port, idle=1) == 0
        eventually(lambda: not is_running(port), 30, "the end of the Hub")


@pytest.mark.slow
def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    make_playground(tmp_path / "demo")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        assert start(tmp_path / "demo" / HUB, other.server_address[1]) == hub.TAKEN
        other.shutdown()
