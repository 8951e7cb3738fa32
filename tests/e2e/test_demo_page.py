"""The page of the playground is a real Gradio app that tells which model it runs."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.demo import make_playground
from tests.support.apps import START_APP, free_port
from tests.support.playground import (
    DEADLINE_S,
    NEWEST,
    OLDER,
    fetch,
    needs_gradio,
    needs_hub,
    repo_folder,
    run_python,
    settings_of,
)


def poll(probe: Callable[[], bytes], alive: Callable[[], bool]) -> bytes:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and alive():
        try:
            return probe()
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the app died or never answered")


def component(config: dict[str, Any], elem_id: str) -> dict[str, Any]:
    (found,) = (each for each in config["components"] if each["props"].get("elem_id") == elem_id)
    return dict(found)


def call_refresh(base: str) -> list[Any]:
    """Press the button by Gradio's HTTP API: https://www.gradio.app/guides/querying-gradio-apps-with-curl."""
    event = json.loads(fetch(f"{base}/gradio_api/call/refresh", b'{"data": []}'))["event_id"]
    stream = fetch(f"{base}/gradio_api/call/refresh/{event}").decode()
    assert "event: complete" in stream, stream
    result: list[Any] = json.loads(stream.split("data: ", 1)[1].splitlines()[0])
    return result


def bars(plot: dict[str, Any]) -> dict[str, str]:
    repo, state = plot["columns"].index("repo"), plot["columns"].index("state")
    return {row[repo]: row[state] for row in plot["data"]}


@pytest.mark.slow
@needs_gradio
def test_the_page_says_which_model_runs_and_what_lies_in_the_cache(playground: Path) -> None:
    commit = (repo_folder(playground, NEWEST) / "refs/main").read_text()
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    app = subprocess.Popen(
        [sys.executable, "webui.py", "--port", str(port)],
        cwd=playground,
        env={**os.environ, **settings_of(playground)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        poll(lambda: fetch(f"{base}/"), lambda: app.poll() is None)
        config = json.loads(fetch(f"{base}/config"))
        card = component(config, "version")["props"]["value"]
        assert f"running {NEWEST} @ {commit[:7]}" in card
        assert "emotion control: happy" in card
        process = component(config, "process")["props"]["value"]
        for fact in (str(app.pid), settings_of(playground)["HF_ENDPOINT"], "./cache_hub"):
            assert fact in process
        table = component(config, "cache-table")
        assert table["type"] == "dataframe"
        assert [row[:2] for row in table["props"]["value"]["data"]] == [[OLDER, "main"], [NEWEST, "main"]]
        assert table["props"]["value"]["data"][1][2:] == [commit[:7], "70.5 kB"]
        chart = component(config, "cache-chart")
        assert chart["type"] == "nativeplot"
        assert bars(chart["props"]["value"]) == {OLDER: "not loaded", NEWEST: "running here"}

        shutil.rmtree(repo_folder(playground, NEWEST))
        card, rows, plot, _, steps = call_refresh(base)
        assert "--remove-model" in steps
        assert f"running {NEWEST} @ {commit[:7]}" in card
        assert "a restart runs another model" in card
        assert [row[0] for row in rows["data"]] == [OLDER]
        assert bars(plot["value"]) == {OLDER: "not loaded"}

        shutil.rmtree(playground / "cache_hub")
        _, rows, plot, _, steps = call_refresh(base)
        assert "--remove-model" not in steps
        assert rows["data"] == []
        assert bars(plot["value"]) == {}

        app.send_signal(signal.SIGINT)
        output, _ = app.communicate(timeout=DEADLINE_S)
    finally:
        if app.poll() is None:
            app.kill()
            app.communicate()
    # Gradio ends with 0, the app with 130 when SIGINT came before Gradio was ready for it.
    assert app.returncode in {0, 130}
    assert output.splitlines()[0] == f"model: {NEWEST} @ {commit[:7]}"
    assert "Traceback" not in output and "Warning" not in output


def load_in(playground: Path) -> str:
    """Load the model as the app does, without the page that costs seconds."""
    code = (
        "import webui\n"
        "try: model = webui.load_newest_model()\n"
        "except webui.DamagedModelError as error: print('damaged:', error)\n"
        "else: print(webui.version_card(model, 7861, webui.scan_cache()[0]))"
    )
    return run_python(code, playground, settings_of(playground))


@needs_hub
def test_without_the_newest_model_the_older_one_runs(playground: Path) -> None:
    shutil.rmtree(repo_folder(playground, NEWEST))
    card = load_in(playground)
    assert f"running {OLDER} @ " in card
    assert "emotion control not available" in card


@needs_hub
def test_without_a_model_the_page_says_so_and_names_the_command(playground: Path) -> None:
    shutil.rmtree(playground / "cache_hub")
    card = load_in(playground)
    assert "no model" in card
    assert "python start_app.py --demo --app-dir new-playground --port 7862" in card


@needs_hub
def test_a_truncated_model_is_not_loaded(playground: Path) -> None:
    (weights,) = repo_folder(playground, NEWEST).glob("snapshots/*/model.safetensors")
    os.truncate(weights, 40_000)
    assert load_in(playground).startswith(f"damaged: {NEWEST} @ ")


@needs_hub
def test_a_newer_commit_in_the_cache_is_announced(playground: Path) -> None:
    folder = repo_folder(playground, NEWEST)
    commit = (folder / "refs/main").read_text()
    code = (
        "import os, webui\n"
        "model = webui.load_newest_model()\n"
        f"os.rename('{folder}/snapshots/{commit}', '{folder}/snapshots/{'f' * 40}')\n"
        f"open('{folder}/refs/main', 'w').write('{'f' * 40}')\n"
        "print(webui.version_card(model, 7861, webui.scan_cache()[0]))"
    )
    card = run_python(code, playground, settings_of(playground))
    assert f"running {NEWEST} @ {commit[:7]}" in card
    assert "another <code>main</code>" in card


def commands_in(playground: Path, port: int) -> list[str]:
    """Return the commands that the page of an app on `port` offers."""
    steps = run_python(
        f"import webui; print(webui.things_to_try({port}, webui.scan_cache()[0]))", playground, settings_of(playground)
    )
    return [html.unescape(command) for command in re.findall("<code>(.+?)</code>", steps)]


def test_the_commands_on_the_page_can_be_pasted_where_the_demo_was_started(tmp_path: Path) -> None:
    playground, port = tmp_path / "start_app_demo", free_port()
    make_playground(playground)
    (tmp_path / "start_app.py").symlink_to(START_APP)
    assert commands_in(playground, 7860)[0] == f"{sys.executable} start_app.py --demo status"
    command = commands_in(playground, port)[0]
    assert command == f"{sys.executable} start_app.py --demo --port {port} status"
    done = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert f"app: {playground}/webui.py" in done.stdout


def test_the_commands_on_the_page_name_a_playground_that_was_put_elsewhere(playground: Path) -> None:
    assert commands_in(playground, 7860)[0] == f"python start_app.py --demo --app-dir {playground} status"


def test_an_option_that_the_app_does_not_know_is_rejected(playground: Path) -> None:
    done = subprocess.run(
        [sys.executable, "webui.py", "--no-such-option"],
        cwd=playground,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-option" in done.stderr


def test_the_app_knows_nothing_of_the_launcher(playground: Path) -> None:
    source = (playground / "webui.py").read_text("utf-8")
    assert not re.search(r"^\s*(from|import)\s+(launcher|\.)", source, re.MULTILINE)
