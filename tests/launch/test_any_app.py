"""Every family of apps: init --yes, a launch in the background, status, a restart, and a stop."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apps import Done, Processes, clean_environment, eventually, free_port, get, launcher
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


ACCELERATE = """\
import subprocess, sys
at = next(number for number, word in enumerate(sys.argv) if word.endswith(".py"))
sys.exit(subprocess.call([sys.executable, *sys.argv[at:]]))
"""


@pytest.mark.slow
def test_what_starts_the_python_itself_is_stopped_with_the_app(
    tmp_path: Path, processes: Processes, environment: dict[str, str]
) -> None:
    app, port = make(tmp_path, APPS["argparse"]), free_port()
    program = tmp_path / "bin" / "accelerate"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{ACCELERATE}")
    program.chmod(0o755)
    (app / ".env").write_text("APP_PREFIX=accelerate launch --cpu\n")
    env = {**environment, "PATH": f"{program.parent}:{environment['PATH']}"}
    words = ("--app-dir", app, "--port", str(port))
    first = processes.end_also(pid_of(launcher(*words, "--background", env=env)))
    served = page(port)
    assert served and f"pid {first}" not in served  # its child serves
    again = launcher(*words, "--background", env=env)
    second = processes.end_also(pid_of(again))
    assert f"terminated pid {first} and 1 below it" in again.err
    assert page(port) not in ("", served)
    assert launcher(*words, "stop", env=env).status == 0
    assert (page(port), second != first) == ("", True)


@pytest.mark.slow
def test_two_entries_of_one_app_know_each_other(
    tmp_path: Path, processes: Processes, environment: dict[str, str]
) -> None:
    name = "a launcher script that runs another one"
    folder, port = make(tmp_path, APPS[name]), free_port()
    (folder / ".env").write_text("APP_SCRIPT=launch.py webui.py\nAPP_HOST_FLAG=none\n")
    old = processes.start((sys.executable, "webui.py", "--port", str(port)), cwd=folder, env=environment)
    eventually(lambda: page(port), what="page")
    done = launcher("--app-dir", folder, "--port", str(port), "--background", env=environment)
    new = processes.end_also(pid_of(done))
    assert f"terminated pid {old.pid}" in done.err
    assert f"pid {new}" in page(port)


WIDE = """\
import argparse, http.server, socket
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--host")
args = parser.parse_args()
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
Server((HOST, args.port), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "bound", "said"),
    [
        ("127.0.0.1", '"::"', "it listens on every interface (::), not on 127.0.0.1 only"),
        ("::1", '"::"', "it listens on every interface (::), not on ::1 only"),
        ("[::1]", "args.host", None),
    ],
)
def test_an_app_that_listens_wider_than_asked_on_ipv6_is_named(
    asked: str, bound: str, said: str | None, tmp_path: Path, processes: Processes, environment: dict[str, str]
) -> None:
    (tmp_path / "webui.py").write_text(WIDE.replace("HOST", bound))
    port = free_port()
    words = ("--app-dir", tmp_path, "--port", str(port), "--host", asked)
    done = launcher(*words, "--background", env=environment)
    processes.end_also(pid_of(done))
    status = launcher(*words, "status", env=environment).out
    assert f"answers at http://[::1]:{port} (" in done.err
    if said:
        assert f"note: {said}\n" in done.err
        assert f"address: {said}\n" in status
    else:
        assert "note: " not in done.err
        assert "address: " not in status
