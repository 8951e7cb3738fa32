"""A shell loop that starts the app again is noticed within the launch, and named; other shells cost no wait."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.support.apps import AppFolder, Processes, Running, alive, clean_environment, eventually, get, launcher


def loop(app: AppFolder, processes: Processes, pause: str) -> Running:
    """Start the app in a loop of a script and wait until it serves."""
    command = f"{sys.executable} webui.py --port {app.port}"
    (app.path / "run.sh").write_text(f"while true; do {command}; echo again; {pause}; done\n")
    running = processes.start(("bash", "run.sh"), cwd=app.path)
    eventually(lambda: get(app.port), what=running.err)
    return running


def instance(app: AppFolder) -> int:
    return int((get(app.port) or "pid 0").removeprefix("pid "))


@pytest.mark.parametrize("pause", ["sleep 1", "true"])
@pytest.mark.parametrize("command", ["--background", "stop", "--no-launch"])
def test_a_loop_that_starts_the_app_again_is_named_with_the_command_that_ends_it(
    pause: str, command: str, app: AppFolder, processes: Processes
) -> None:
    running = loop(app, processes, pause)
    first = instance(app)
    done = launcher(command, *app.arguments)
    assert done.status == 69, done.err
    assert f"pid {running.pid}, bash run.sh, " in done.err
    assert "has started the app again: pid " in done.err
    hint = done.err.splitlines()[-1]
    assert hint.startswith(f"hint: kill {running.pid} ends that loop; then ")
    assert command in hint.split()
    assert not alive(first)
    again = eventually(lambda: instance(app), what="the loop")
    processes.end_also(again)
    running.process.send_signal(signal.SIGTERM)
    running.wait()
    assert launcher("stop", *app.arguments).status == 0
    assert not alive(again)


@pytest.mark.slow
def test_a_loop_that_was_typed_into_a_terminal_is_noticed(app: AppFolder, processes: Processes) -> None:
    controller, terminal = pty.openpty()
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    shell = processes.start(("bash", "--norc", "-i"), cwd=app.path, start_new_session=True, **streams)
    os.write(controller, f"while true; do {sys.executable} webui.py --port {app.port}; sleep 2; done\n".encode())
    eventually(lambda: get(app.port), what="page")
    done = launcher("stop", *app.arguments)
    assert done.status == 69, done.err
    assert f"pid {shell.pid}, " in done.err
    for child in psutil.Process(shell.pid).children():
        processes.end_also(child.pid)
    os.close(controller)
    os.close(terminal)


@pytest.mark.slow
def test_a_shell_that_shows_its_prompt_or_ends_costs_no_wait(app: AppFolder, processes: Processes) -> None:
    command = f"{sys.executable} webui.py --port {app.port}"
    controller, terminal = pty.openpty()
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    interactive = processes.start(("bash", "--norc", "-i"), cwd=app.path, start_new_session=True, **streams)
    os.write(controller, f"{command}\n".encode())
    eventually(lambda: get(app.port), what="page")
    begun = time.monotonic()
    assert launcher("stop", *app.arguments).status == 0
    once = time.monotonic() - begun
    assert alive(interactive.pid)
    ending = processes.start(("bash", "-c", f"{command}; true"), cwd=app.path)
    eventually(lambda: get(app.port), what=ending.err)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert "may start the app again" not in done.err
    ending.wait(5)
    begun = time.monotonic()
    subprocess.run((sys.executable, "-c", "pass"), env=clean_environment(), check=True)
    assert once < 3 + 20 * (time.monotonic() - begun)  # a busy machine starts nothing in milliseconds
    os.close(controller)
    os.close(terminal)
