"""`APP_PRESTART` runs before the stop, in the app's folder and environment; when it fails, nothing is stopped."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.apps import AppFolder, Processes, alive, eventually, get, launcher
from tests.support.launched import hello


def test_a_command_that_fails_stops_nothing_and_one_that_works_lets_the_launch_go_on(
    app: AppFolder, processes: Processes
) -> None:
    old = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
    eventually(lambda: get(app.port), what="page")
    app.write_env('FLAVOUR=plain\nAPP_PRESTART=echo "$FLAVOUR" "$PWD" >said && echo out; test -e allowed\n')
    done = launcher(*app.arguments, "-n")
    assert done.status == 0
    assert "would run first: echo" in done.out
    assert not (app.path / "said").exists()
    done = launcher(*app.arguments)
    assert (done.status, done.out) == (75, "")
    assert "out\n" in done.err
    assert "APP_PRESTART has ended with exit status 1: echo" in done.err
    assert (app.path / "said").read_text() == f"plain {app.path}\n"
    assert alive(old.pid)
    (app.path / "allowed").touch()
    done = launcher(*app.arguments, "--", "--exit", "0")
    assert f"terminated pid {old.pid}" in done.err
    assert hello(done)
    assert done.err.index("running first: ") < done.err.index("terminated")


def test_nothing_runs_first_where_nothing_is_started(app: AppFolder) -> None:
    app.write_env("APP_PRESTART=touch ran\n")
    assert launcher(*app.arguments, "--no-launch").status == 0
    assert not (app.path / "ran").exists()


@pytest.mark.parametrize(
    ("child", "number"),
    [("sleep 300", signal.SIGINT), ("sleep 300", signal.SIGTERM), ("(trap '' TERM; sleep 300)", signal.SIGINT)],
    ids=["interrupt", "terminate", "deaf"],
)
def test_a_signal_ends_the_command_and_what_it_has_started(
    app: AppFolder, processes: Processes, tmp_path: Path, child: str, number: signal.Signals
) -> None:
    app.write_env(f"APP_PRESTART={child} & echo $! >{tmp_path / 'pid'}; sleep 300\n")
    running = processes.launch(*app.arguments)
    pid = eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), what="its child")
    running.process.send_signal(number)
    assert running.wait() == (130 if number == signal.SIGINT else -number)
    eventually(lambda: not psutil.pid_exists(int(pid)) or not alive(int(pid)), what="its end")
