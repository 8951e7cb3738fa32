"""A signal between the stop and the start leaves no silent half state."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.apps import AppFolder, Processes, Running, alive, eventually, get, launcher

# It ends a while after SIGTERM, as an app that saves something does.
SLOW = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit(0)))\n"
FOREVER = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
ENDING = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"]


def actions(app: AppFolder) -> list[tuple[str, str]]:
    lines = (app.path / ".start_app" / "history.jsonl").read_text().splitlines()
    return [(line["action"], line["result"]) for line in map(json.loads, lines)]


def old_one(app: AppFolder, processes: Processes, how: str) -> Running:
    body = app.script.read_text()
    app.script.write_text(how + body)
    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    app.script.write_text(body)
    return old


def stopping(app: AppFolder, processes: Processes, *extra: str) -> Running:
    new = processes.launch(*app.arguments, *extra)
    eventually(lambda: "stale: " in new.err, what="the stop has begun")
    return new


@pytest.mark.parametrize("extra", [(), ("--background",), ("--no-launch",)], ids=["foreground", "background", "none"])
@pytest.mark.parametrize("name", ENDING)
def test_a_signal_while_the_old_instance_ends_is_told_and_recorded(
    name: str, extra: tuple[str, ...], app: AppFolder, processes: Processes
) -> None:
    old = old_one(app, processes, SLOW)
    new = stopping(app, processes, *extra)
    os.kill(new.pid, signal.Signals[name])
    if name == "SIGHUP" and extra == ("--background",):
        assert new.wait() == 0
        pid = app.lock_holder()
        assert pid
        processes.end_also(pid)
        assert get(app.port) == f"pid {pid}"
        return
    assert new.wait() == (130 if name == "SIGINT" else -signal.Signals[name])
    assert not alive(old.pid)
    assert get(app.port) is None
    assert f"{name}: ending after this step; a second signal ends it at once\n" in new.err
    assert f"terminated pid {old.pid} (" in new.err
    assert f"stopped before: pid {old.pid}; no new instance was started on port {app.port}\n" in new.err
    assert [action for action, _ in actions(app)] == ["start", "stop", "refuse"]
    assert actions(app)[-1][1].startswith(f"interrupted by {name}; stopped before: pid {old.pid}")


def test_a_second_signal_ends_the_wait(app: AppFolder, processes: Processes) -> None:
    old = old_one(app, processes, FOREVER)
    new = stopping(app, processes, "--stop-timeout", "60")
    os.kill(new.pid, signal.SIGTERM)
    eventually(lambda: "a second signal" in new.err, what="the first one noted")
    os.kill(new.pid, signal.SIGTERM)
    assert new.wait(10) == -signal.SIGTERM
    assert alive(old.pid)
    assert "stopped before" not in new.err
    assert launcher("status", *app.arguments).status == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGQUIT", "SIGTERM"])
def test_a_signal_while_the_new_one_loads_leaves_it_running_and_says_so(
    name: str, app: AppFolder, processes: Processes
) -> None:
    new = processes.launch("--background", *app.arguments, "--", "--load", "600")
    eventually(lambda: "background: pid " in new.err, what="the start")
    pid = app.lock_holder()
    assert pid
    processes.end_also(pid)
    eventually(lambda: signal_caught(new.pid, signal.Signals[name]), what="the wait for the page")
    os.kill(new.pid, signal.Signals[name])
    assert new.wait() == (130 if name == "SIGINT" else -signal.Signals[name])
    assert f"left running: pid {pid}, log " in new.err
    assert alive(pid)


def signal_caught(pid: int, number: signal.Signals) -> bool:
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << (number - 1))


def test_an_error_after_the_stop_names_what_was_stopped(app: AppFolder, processes: Processes) -> None:
    """Somebody else takes the port as soon as the old instance leaves it."""
    old = old_one(app, processes, SLOW)
    taker = (
        "import socket, sys, time\n"
        "while True:\n"
        "    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "    try: s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); break\n"
        "    except OSError: s.close()\n"
        "print('taken', flush=True)\n"
        "time.sleep(60)\n"
    )
    import sys

    processes.start((sys.executable, "-c", taker, str(app.port)))
    new = stopping(app, processes)
    assert new.wait() == 75
    assert not alive(old.pid)
    assert f"stopped before: pid {old.pid}; no new instance was started on port {app.port}\n" in new.err
    assert [action for action, _ in actions(app)] == ["start", "stop", "refuse"]
    assert f"stopped before: pid {old.pid}" in actions(app)[-1][1]
