"""Every family of apps: init --yes, a launch in the background, status, a restart, and a stop."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apps import Done, Processes, clean_environment, free_port, get, launcher
from tests.support.families import APPS, FAKES
from tests.unit.test_families import make, with_port

QUICK = ("argparse", "plain launch", "argparse with a subcommand")


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    yield clean_environment(PYTHONPATH=str(FAKES))


def pid_of(done: Done) -> int:
    assert done.status == 0, done.err
    match = re.search(r"^background: pid (\d+), ", done.err, re.MULTILINE)
    assert match, done.err
    return int(match[1])


def page(port: int) -> str:
    return get(port) or ""


def live(name: str, folder: Path, processes: Processes, environment: dict[str, str]) -> None:
    """Go through the life of an app, as its user would."""
    app, port = APPS[name], free_port()
    make(folder, app, str(port))

    def run(*words: str) -> Done:
        return launcher("--app-dir", folder, *words, *(() if app.own_port else ("--port", str(port))), env=environment)

    done = launcher("--app-dir", folder, "init", "--yes", env=environment)
    assert done.status == 0, done.err
    if app.by_hand:
        assert "yourself" in done.err
        with open(folder / ".env", "a") as file:
            file.write(with_port(app.by_hand, str(port)))
    first = processes.end_also(pid_of(run("--background", "--timeout", "40")))
    assert f"pid {first}" in page(port)
    status = run("status", "--json").json
    assert (status["state"], status["port"], status["instance"]["pid"]) == ("running", port, first)
    again = run("--background", "--timeout", "40")
    second = processes.end_also(pid_of(again))
    assert f"terminated pid {first}" in again.err
    assert f"pid {second}" in page(port)
    assert run("stop").status == 0
    assert run("status", "--json").json["state"] == "not running"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    assert os.path.exists(folder / ".env") or not app.lines


@pytest.mark.parametrize("name", QUICK)
def test_an_app_of_a_usual_family_lives(
    name: str, tmp_path: Path, processes: Processes, environment: dict[str, str]
) -> None:
    live(name, tmp_path, processes, environment)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", [name for name in APPS if name not in QUICK])
def test_an_app_of_any_family_lives(
    name: str, tmp_path: Path, processes: Processes, environment: dict[str, str]
) -> None:
    live(name, tmp_path, processes, environment)
