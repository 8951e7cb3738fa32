"""The app on the page for app authors is a whole one: it shows its model, and its health endpoint answers."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

from launcher.demo import HUB_CACHE, make_playground
from tests.support import readme
from tests.support.apps import AppFolder, Processes, free_port, launcher
from tests.support.playground import NEWEST, needs_gradio, needs_hub, repo_folder

PAGE = "docs/gradio.md"


def asked(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


@needs_gradio
@needs_hub
@pytest.mark.slow
def test_the_app_of_the_page_shows_its_model_and_is_healthy(tmp_path: Path, processes: Processes) -> None:
    line, whole = re.findall(r"^```python\n(.*?)^```$", readme.read(PAGE), re.MULTILINE | re.DOTALL)
    assert line.strip().replace("{REPO} @ {os.path.basename(path)[:7]}", "{model}") in whole
    make_playground(tmp_path / "demo")
    commit = (repo_folder(tmp_path / "demo", NEWEST) / "refs" / "main").read_text()
    app = AppFolder(tmp_path / "app", free_port())
    app.path.mkdir()
    (app.path / "app.py").write_text(whole)
    lines = ("APP_SCRIPT=app.py", "APP_PORT_FLAG=none", "HF_HUB_OFFLINE=1", "GRADIO_ANALYTICS_ENABLED=False")
    app.write_env("\n".join((*lines, f"HF_HUB_CACHE={tmp_path / 'demo' / HUB_CACHE}", "")))
    done = launcher("--background", *app.arguments, timeout=100)
    try:
        assert done.status == 0, done.err
        health = json.loads(asked(f"http://127.0.0.1:{app.port}/health"))
        assert health == {"model": f"{NEWEST} @ {commit[:7]}", "pid": app.lock_holder()}
        assert f"model: {NEWEST} @ {commit[:7]}" in asked(f"http://127.0.0.1:{app.port}/config")
        assert launcher("wait", *app.arguments, "--timeout", "60").status == 0
    finally:
        holder = app.lock_holder()
        if holder:
            processes.end_also(holder)
        assert launcher("stop", *app.arguments).status == 0
