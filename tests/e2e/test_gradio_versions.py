"""A real page of whichever Gradio is installed: started, replaced and stopped. CI runs it with every major version."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from tests.support.apps import AppFolder, alive, launcher
from tests.support.playground import page_config

PAGE = """\
import gradio as gr

with gr.Blocks() as demo:
    gr.Textbox(label="text")
    gr.Button("Generate")

demo.launch()
"""
SECONDS = "150"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_page_of_the_installed_gradio_is_started_replaced_and_stopped(app: AppFolder) -> None:
    pytest.importorskip("gradio")
    app.script.unlink()
    (app.path / "app.py").write_text(PAGE)
    app.write_env("GRADIO_ANALYTICS_ENABLED=False\nGRADIO_SERVER_NAME=127.0.0.1\n")
    # Its code names the script, and shows that the port is Gradio's own variable.
    assert launcher(*app.arguments, "init", "--yes").status == 0
    assert "APP_SCRIPT=app.py\n" in (app.path / ".env").read_text()
    pids = []
    for _ in range(2):
        done = launcher(*app.arguments, "--background", "--timeout", SECONDS, "--json", timeout=300)
        assert done.status == 0, done.err
        pids.append(done.json["pid"])
        assert page_config(app.port)["version"] == version("gradio")
        assert launcher(*app.arguments, "status", "--json").json["instance"]["pid"] == pids[-1]
    assert not alive(pids[0])
    assert launcher(*app.arguments, "stop").status == 0
    assert not alive(pids[1])
