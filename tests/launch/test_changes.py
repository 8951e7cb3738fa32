"""A restart says what it would change for an instance that somebody started by hand."""

from __future__ import annotations

import sys

import pytest

from tests.support.apps import AppFolder, Processes, clean_environment, eventually, get, launcher
from tests.support.environments import make_venv

STARTED = "started by hand,"


def by_hand(app: AppFolder, processes: Processes, *words: str, python: str = sys.executable, **variables: str) -> int:
    env = clean_environment(**variables)
    running = processes.start((python, "webui.py", *words), cwd=app.path, env=env)
    eventually(lambda: get(app.port), what="page")
    return running.pid


def test_what_the_new_instance_will_not_have_is_said_before_the_stop(app: AppFolder, processes: Processes) -> None:
    app.write_env("APP_ARGS=--load 0\nHF_HOME=./models\n")
    words = ("--load=0", "--port", str(app.port), "--host=127.0.0.1", "--ignore-term", "a word")
    secret = "hf_abcdefghijklmnopqrstuvwxyz"
    variables = {"CUDA_VISIBLE_DEVICES": "1", "HF_HOME": "models", "HF_TOKEN": secret, "OTHER": "x"}
    pid = by_hand(app, processes, *words, **variables)
    plan = launcher(*app.arguments, "-n", "--stop-timeout", "0")
    done = launcher(*app.arguments, "--stop-timeout", "0", "--", "--exit", "0")
    assert done.status == 0, done.err
    for text in (plan.out, done.err):
        assert f"note: pid {pid}, {STARTED} runs with --ignore-term 'a word', and the new instance will not\n" in text
        assert f"note: pid {pid}, {STARTED} has CUDA_VISIBLE_DEVICES=1 where the new instance has none\n" in text
        assert f"note: pid {pid}, {STARTED} has HF_TOKEN=*** where the new instance has none\n" in text
        assert "HF_HOME=" not in text.replace("environment: HF_HOME=", "")
        assert "the new instance on" not in text
        assert secret not in text
    assert done.err.index("will not\n") < done.err.index("stale: pid")
    assert " init, while it runs, writes what it has into .env\n" in done.err


@pytest.mark.slow
def test_another_python_is_said_and_one_by_another_name_is_not(app: AppFolder, processes: Processes) -> None:
    make_venv(app.path / "other")
    python = f"{app.path}/other/bin/python"
    pid = by_hand(app, processes, "--port", str(app.port), python=python)
    said = f"note: pid {pid}, {STARTED} runs on the Python in {app.path}/other/bin, and the new instance on "
    assert said in launcher(*app.arguments, "-n").out
    assert said not in launcher(*app.arguments, "-n", "--python", f"{python}3").out


@pytest.mark.slow
def test_nothing_is_said_of_what_a_launcher_started_or_what_stays_the_same(
    app: AppFolder, processes: Processes
) -> None:
    by_hand(app, processes, "--port", str(app.port))
    assert STARTED not in launcher(*app.arguments, "-n").out
    done = launcher("--background", *app.arguments, "--", "--load", "0")
    assert done.status == 0
    pid = app.lock_holder()
    assert pid
    processes.end_also(pid)
    assert STARTED not in launcher(*app.arguments, "-n").out
