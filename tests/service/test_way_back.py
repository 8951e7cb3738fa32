"""Under a real systemd and a real supervisord: what fails leads back to what ran well, and is not repeated for ever."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.service import outcomes
from tests.instances.test_supervisors import from_package, supervisorctl
from tests.support import systemd
from tests.support.apps import WEBUI, AppFolder, Processes, alive, clean_environment, eventually, get, launcher
from tests.support.systemd import Machine

# It loads its model from a file, and dies of a bad one as a loader in C does.
APP = WEBUI.replace(
    "time.sleep(args.load)\n",
    "time.sleep(args.load)\nif os.environ.get('MODEL') == 'bad':\n    print('cannot load', flush=True)\n"
    "    os.kill(os.getpid(), signal.SIGSEGV)\n",
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield from systemd.boot(tmp_path)


def known(app: AppFolder) -> outcomes.Outcomes:
    return outcomes.read(app.path, app.port)


def page_pid(app: AppFolder) -> str:
    return eventually(lambda: get(app.port), 40, what="page").removeprefix("pid ")


def starts(app: AppFolder) -> list[str]:
    entries = launcher("history", "--json", "--lines", "500", *app.arguments).json["entries"]
    return [entry["action"] for entry in entries if entry["action"] in ("start", "rollback")]


@pytest.mark.slow
def test_a_unit_is_back_within_two_starts_after_an_upgrade_that_kills_the_app(machine: Machine) -> None:
    app = machine.app("app", APP, "APP_ARGS=--load 0\n")
    name = machine.install(app)
    machine.systemctl("start", name)
    first = page_pid(app)
    assert known(app).good
    (app.path / ".env").write_text(f"HF_HOME=./cache_hub\nGRADIO_SERVER_PORT={app.port}\nAPP_ARGS=--nonsense\n")
    machine.systemctl("restart", name, check=False)
    pid = page_pid(app)
    assert pid != first
    eventually(lambda: machine.show(name, "ActiveState") == "active", 40, what=machine.told(name))
    assert machine.show(name, "MainPID") == pid
    assert starts(app) == ["start", "start", "rollback"]
    journal = machine.journal(name)
    assert "has ended with exit status 2 before its page answered" in journal
    assert "rolling back to what ran well" in journal
    told = machine.launcher("history", "--app-dir", "/srv/app").out
    assert "unrecognized arguments" in told, told  # the last line, from the journal
    machine.systemctl("kill", "--kill-who=main", "--signal=SIGKILL", name)
    eventually(lambda: page_pid(app) != pid, 40, what="another instance")
    assert "was ended by SIGKILL" in machine.launcher("history", "--app-dir", "/srv/app").out
    assert starts(app) == ["start", "start", "rollback", "rollback"]
    (app.path / ".env").write_text(f"HF_HOME=./cache_hub\nGRADIO_SERVER_PORT={app.port}\nAPP_ARGS=--load 0.1\n")
    machine.systemctl("restart", name)
    assert starts(app)[-1] == "start"
    assert get(app.port)


@pytest.mark.slow
def test_a_unit_that_never_came_up_is_parked_and_started_once_it_is_repaired(machine: Machine) -> None:
    app = machine.app("app", APP, "MODEL=bad\n")
    name = machine.install(app)
    machine.systemctl("start", "--no-block", name)
    eventually(lambda: "5 unattended starts failed" in machine.journal(name), 90, what=machine.told(name))
    count = int(machine.show(name, "NRestarts"))
    eventually(lambda: int(machine.show(name, "NRestarts")) > count + 2, 40, what="further tries")
    assert len(starts(app)) == 5
    assert "SIGSEGV" in machine.journal(name)
    (app.path / ".env").write_text(f"HF_HOME=./cache_hub\nGRADIO_SERVER_PORT={app.port}\n")
    eventually(lambda: machine.show(name, "ActiveState") == "active", 40, what=machine.told(name))
    assert len(starts(app)) == 6
    assert known(app).doomed == 0


@pytest.mark.slow
def test_what_a_unit_was_stopped_at_is_no_failure(machine: Machine) -> None:
    app = machine.app("app", APP, "APP_ARGS=--load 30\n")
    name = machine.install(app)
    machine.systemctl("start", "--no-block", name)
    eventually(lambda: '"argv"' in machine.journal(name), 40, what="the app's first line")
    machine.systemctl("stop", name)
    record = known(app)
    assert record.last
    assert (record.last.stage, record.failed, record.doomed) == ("stopped", None, 0)


def supervised(app: AppFolder, processes: Processes) -> Path:
    """Keep the app by a real supervisord, with the section that the launcher prints, and return the configuration."""
    folder = app.path.parent / "supervisor"
    folder.mkdir()
    configuration = folder / "s.conf"
    head = f"""\
[supervisord]
nodaemon=true
logfile={folder}/log
pidfile={folder}/pid
childlogdir={folder}
[unix_http_server]
file={folder}/sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/sock
"""
    configuration.write_text(head + launcher("unit", "--supervisord", *app.arguments).out)
    environment = {"PYTHONWARNINGS": "ignore", "PATH": os.environ["PATH"], "HOME": str(folder)}
    command = (sys.executable, from_package("supervisord"), "-c", "s.conf")
    processes.start(command, cwd=folder, env=environment, start_new_session=True)
    return configuration


@pytest.mark.slow
def test_supervisord_is_back_within_two_starts(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(APP)
    app.write_env("APP_ARGS=--load 0\n")
    configuration = supervised(app, processes)
    first = page_pid(app)
    processes.end_also(int(first))
    eventually(lambda: known(app).good, 40, what="seen by the watcher")
    app.write_env("APP_ARGS=--exit 3\n")
    os.kill(int(first), signal.SIGKILL)
    eventually(lambda: not alive(int(first)), what="death")
    second = page_pid(app)
    processes.end_also(int(second))
    assert starts(app) == ["start", "start", "rollback"]
    eventually(lambda: known(app).last and known(app).last.seen, 40, what="seen by the watcher")  # type: ignore[union-attr]
    app.write_env("APP_ARGS=--load 0.1\n")
    os.kill(int(second), signal.SIGKILL)
    eventually(lambda: not alive(int(second)), what="death")
    processes.end_also(int(page_pid(app)))
    assert starts(app)[-1] == "start"
    eventually(lambda: (last := known(app).last) and last.seen, 40, what="seen by the watcher")
    app.write_env("APP_ARGS=--load 60\n")
    supervisorctl(configuration, "restart", "app")
    eventually(lambda: (last := known(app).last) and "60" in last.ran.argv, 40, what="the next start")
    supervisorctl(configuration, "stop", "app")
    eventually(lambda: (last := known(app).last) and last.over, 40, what="noted")
    record = known(app)
    assert record.last
    assert (record.last.stage, record.failed) == ("stopped", None)  # a person has ended it


@pytest.mark.slow
def test_supervisord_repeats_no_doomed_start_until_it_is_repaired(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(APP)
    app.write_env("MODEL=bad\n")
    folder = supervised(app, processes).parent

    def parked() -> int:
        logs = folder.glob(f"{app.path.name}-stdout*.log")
        return sum(path.read_text().count("5 unattended starts failed") for path in logs)

    eventually(parked, 90, what="five failed starts")
    count = parked()
    eventually(lambda: parked() > count, 60, what="another try")
    assert starts(app) == ["start"] * 5
    app.write_env("APP_ARGS=--load 0\n")
    processes.end_also(int(page_pid(app)))
    assert starts(app) == ["start"] * 6


@pytest.mark.parametrize(("version", "steps"), [("systemd 254 (254.26-1)", True), ("systemd 252 (252.38-1)", False)])
def test_pauses_between_restarts_grow_where_systemd_can_do_that(
    version: str, steps: bool, app: AppFolder, tmp_path: Path
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "systemctl").write_text(f"#!/bin/sh\necho '{version}'\necho +PAM\n")
    (programs / "systemctl").chmod(0o755)
    done = launcher("unit", *app.arguments, env=clean_environment(PATH=f"{programs}:{os.environ['PATH']}"))
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert "RestartSec=10" in lines
    assert ("RestartSteps=6" in lines, "RestartMaxDelaySec=300" in lines) == (steps, steps)
    assert next(line for line in lines if line.startswith("ExecStopPost=-")).count(" ended ") == 1
