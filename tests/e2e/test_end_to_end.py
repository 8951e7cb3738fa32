"""The whole way, as the README says it: a real Gradio page on a playground, waited for, replaced and stopped."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path

import pytest

from tests.support.apps import Processes, clean_environment, eventually, free_port, launcher
from tests.support.playground import page_config


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_real_gradio_page_is_launched_restarted_and_stopped_behind_a_proxy_that_does_not_answer(
    processes: Processes, tmp_path: Path
) -> None:
    assert importlib.util.find_spec("gradio"), "gradio belongs to the test requirements"
    port = free_port()
    folder = tmp_path / "demo"
    words = ("--demo", "--app-dir", str(folder), "--port", str(port))
    # What kills a Gradio that was started by hand; and the user's own cache, which a playground must not show.
    env = clean_environment(http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    first = processes.launch(*words, env=env)
    eventually(folder.exists, what="playground")
    waited = launcher("wait", "--timeout", "120", "--json", *words, env=env, timeout=150)
    assert waited.status == 0, waited.err + first.err
    assert waited.json["instance"]["pid"] == first.pid
    assert "model: koge/index-tts-v23 @ " in first.out
    kinds = {component["type"] for component in page_config(port)["components"]}
    assert {"dataframe", "nativeplot"} <= kinds or {"dataframe", "barplot"} <= kinds, kinds

    document = launcher("status", "--json", *words, env=env).json
    assert document["state"] == "running"
    assert document["cache_roots"] == [str(folder / "cache_hub" / "hub")]

    second = processes.launch(*words, env=env)
    waited = launcher("wait", "--pid", str(second.pid), "--timeout", "120", "--json", *words, env=env, timeout=150)
    assert waited.status == 0, waited.err + second.err
    assert waited.json["instance"]["pid"] == second.pid
    assert first.wait() == -signal.SIGTERM

    assert launcher("stop", *words, env=env).status == 0
    assert second.wait(10) == -signal.SIGTERM
    assert launcher("status", "--json", *words, env=env).json["state"] == "not running"
