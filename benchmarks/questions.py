"""What a user waits for an answer: which settings this app needs, and what is wrong here."""

from __future__ import annotations

import shutil
import socket
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager

from .launch import PRINTS_AND_ENDS, App, temporary_app
from .measure import BenchmarkError, Claim, Result, Say, Scale, in_turn, to_end

ASKS = """\
from huggingface_hub import HfApi
try:
    HfApi().model_info("koge/a", timeout=10)
except Exception:
    print("no answer")
"""
PAGE = """\
import argparse

import gradio as gr
from vendor.asyncio import events
from vendor.email import message
from vendor.http import client
from vendor.xml import dom

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=7860)
arguments = parser.parse_args()
with gr.Blocks() as demo:
    gr.Markdown("hello")
demo.launch(server_port=arguments.port)
"""
# What is in the standard library besides the library.
_NOT_COPIED = ("test", "tests", "site-packages", "dist-packages", "__pycache__", "*.so")


def results(scale: Scale, say: Say) -> Iterator[Result]:
    """Measure the claims about questions, one after the other."""
    with temporary_app(PRINTS_AND_ENDS) as app:
        say(f"init: {scale.slow_repetitions} repetitions")
        yield init(scale, app)
    with temporary_app(PRINTS_AND_ENDS) as app:
        say(f"doctor: {scale.slow_repetitions} repetitions, a hub that never answers")
        yield doctor(scale, app)


def init(scale: Scale, app: App) -> Result:
    """Measure reading off the settings of a large app: its page imports a copy of Python's standard library."""
    (app.folder / ".env").unlink()
    (app.folder / app.script).unlink()
    (app.folder / "webui.py").write_text(PAGE)
    vendor = app.folder / "vendor"
    shutil.copytree(sysconfig.get_path("stdlib"), vendor, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    files = sum(1 for _ in vendor.rglob("*.py"))
    if files < 400:
        raise BenchmarkError(f"only {files} files of Python's standard library are here")
    by_hand = ("grep", "-rnE", "--include=*.py", "gradio|launch\\(|add_argument", ".")
    claim = Claim(f"init, an app of {files} files", "start_app.py init --dry-run", " ".join(by_hand[:3]), "value", 0.5)
    return claim.judge(
        *in_turn(
            scale.slow_repetitions,
            lambda: to_end(app.start_app("init", "--dry-run"), app.folder, "APP_HOST_FLAG=none"),
            lambda: to_end(by_hand, app.folder, "gradio"),
        )
    )


def doctor(scale: Scale, app: App) -> Result:
    """Measure all checks while the hub accepts connections and never answers."""
    claim = Claim("doctor, the hub hangs", "start_app.py doctor", "model_info(timeout=10)", "value", 3.0)
    with _silent() as url:
        hub = {"HF_ENDPOINT": url, "HF_OFFICIAL_ENDPOINT": url}
        ours, beside = in_turn(
            max(1, scale.slow_repetitions // 3),
            lambda: to_end(app.start_app("doctor"), app.folder, "problem: hub: ", status=75, variables=hub),
            lambda: to_end((sys.executable, "-c", ASKS), app.folder, "no answer", variables=hub),
        )
    return claim.judge(ours, beside)


@contextmanager
def _silent() -> Iterator[str]:
    """Accept connections by the kernel's own queue, and never read from one."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
