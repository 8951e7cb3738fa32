"""What keeps an app from being ready where it was asked to be, said within seconds and not at the time-out."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from launcher.app.command import Command
from launcher.config import settings
from launcher.context import Context
from launcher.instances.record import instance_name, read
from launcher.operations import closed_connections
from tests.support.apps import WEBUI, AppFolder, Done, Processes, alive, eventually, free_port, get, launcher

# Far above what any of these may take, and far below the time-out that is not to be waited for.
SOON = 60


def background(app: AppFolder, processes: Processes, *arguments: str) -> Done:
    begun = time.monotonic()
    done = launcher("--background", "--timeout", "500", *app.arguments, *arguments, timeout=400)
    assert time.monotonic() - begun < SOON, done.err
    pid = app.lock_holder()
    if pid is not None:
        processes.end_also(pid)
    return done


def with_other_port(app: AppFolder, words: str) -> int:
    """Have the app open another port first, which answers with `words`, and its own after 6 seconds."""
    other = free_port()
    head = f"""
import http.server, threading, time
class Other(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.wfile.write({words.encode()!r})
    def log_message(self, *words): pass
threading.Thread(target=http.server.HTTPServer(("127.0.0.1", {other}), Other).serve_forever, daemon=True).start()
time.sleep(6)
"""
    app.script.write_text(head + WEBUI)
    return other


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "HTTP/1.0 404 Not Found\r\n\r\n",
        'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"status": "ok"}',
        "nothing that is HTTP, at some length\r\n",
    ],
)
def test_an_auxiliary_port_that_opens_first_is_worth_a_note(words: str, app: AppFolder, processes: Processes) -> None:
    other = with_other_port(app, words)
    done = background(app, processes)
    assert done.status == 0, done.err
    assert done.err.count(f"note: the app listens on port {other}; waiting for its page on port {app.port}\n") == 1


@pytest.mark.slow
def test_a_page_on_a_port_that_its_code_names_is_said_soon(app: AppFolder, processes: Processes) -> None:
    other = free_port()
    app.script.write_text(WEBUI.replace("(args.host, args.port), Page", f"(args.host, {other}), Page"))
    done = background(app, processes)
    assert done.status == 75
    pid = app.lock_holder()
    assert f"the app's page is on port {other}, not on port {app.port}: pid {pid}, " in done.err
    assert f"--port {other}" in done.err
    assert f"left running: pid {pid}, " in done.err


@pytest.mark.slow
def test_a_page_that_slid_to_the_next_port_is_said_with_who_has_its_own(app: AppFolder, processes: Processes) -> None:
    held = processes.folder / "held"
    slide = (
        f"open({str(held)!r}, 'w').close()\n"
        f"while os.path.exists({str(held)!r}): time.sleep(0.01)\n"
        f"args.port = {free_port()}\nserver ="
    )
    app.script.write_text(WEBUI.replace("\nserver =", f"\n{slide}"))
    other = processes.start((sys.executable, "-c", _hold(held, app.port)))
    done = background(app, processes)
    assert done.status in (69, 75)  # which of the two is seen first is left to chance
    assert f"pid {other.pid}, " in done.err


def _hold(held: Path, port: int) -> str:
    return (
        "import http.server, os, time\n"
        f"while not os.path.exists({str(held)!r}): time.sleep(0.01)\n"
        f"server = http.server.HTTPServer(('127.0.0.1', {port}), http.server.SimpleHTTPRequestHandler)\n"
        f"os.unlink({str(held)!r})\nserver.serve_forever()\n"
    )


@pytest.mark.slow
def test_a_port_that_goes_to_somebody_else_while_the_app_loads_is_said_soon(
    app: AppFolder, processes: Processes
) -> None:
    held = processes.folder / "held"
    other = processes.start((sys.executable, "-c", _hold(held, app.port)))
    app.script.write_text(f"open({str(held)!r}, 'w').close()\n" + WEBUI)
    done = background(app, processes, "--", "--load", "600")
    assert done.status == 69
    assert f"pid {other.pid}, " in done.err
    assert f" took port {app.port} while the app was loading: pid {app.lock_holder()}, " in done.err


@pytest.mark.slow
def test_a_page_on_every_interface_is_warned_of(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(WEBUI.replace("(args.host, args.port), Page", '("0.0.0.0", args.port), Page'))
    done = background(app, processes, "--host", "127.0.0.1")
    assert done.status == 0
    where = "it listens on every interface (0.0.0.0), not on 127.0.0.1 only"
    assert f"note: {where}\n" in done.err
    status = launcher("status", "--host", "127.0.0.1", *app.arguments)
    assert f"address: {where}\n" in status.out
    assert f"note: {where}\n" in launcher("wait", "--host", "127.0.0.1", *app.arguments).err
    assert launcher("status", "--json", *app.arguments).json["addresses"] == ["0.0.0.0"]


@pytest.mark.slow
def test_a_page_on_another_address_is_asked_for_there(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(WEBUI.replace("(args.host, args.port), Page", '("127.0.0.5", args.port), Page'))
    done = background(app, processes)
    assert done.status == 0, done.err
    assert f"answers at http://127.0.0.5:{app.port} (" in done.err
    assert f"page: http://127.0.0.5:{app.port} answers 200\n" in launcher("status", *app.arguments).out


@pytest.mark.slow
@pytest.mark.parametrize("twice", [False, True])
def test_an_app_that_goes_into_the_background_itself_is_ready(
    twice: bool, app: AppFolder, processes: Processes
) -> None:
    fork = "import os\nif os.fork(): os._exit(0)\n"
    app.script.write_text((f"{fork}os.setsid()\n{fork}" if twice else fork) + WEBUI)
    done = background(app, processes)
    assert done.status == 0, done.err
    page = get(app.port)
    record = read(app.path / ".start_app" / instance_name(app.port))
    assert page
    assert record
    assert page == f"pid {record.pid}"
    assert f"ready: pid {record.pid} answers" in done.err
    assert launcher("status", "--json", *app.arguments).json["state"] == "running"
    assert launcher("stop", *app.arguments).status == 0
    assert not alive(record.pid)


def test_a_server_that_left_the_apps_session_serves_its_page(app: AppFolder, processes: Processes) -> None:
    server = app.path / "server.py"
    server.write_text(WEBUI)
    app.script.write_text(
        "import subprocess, sys, time\n"
        f"words = [sys.executable, {str(server)!r}, *sys.argv[1:]]\n"
        "subprocess.run(['sh', '-c', 'setsid \"$@\" & sleep 0.1', 'x', *words])\n"
        "time.sleep(600)\n"
    )
    done = background(app, processes)
    assert done.status == 0, done.err
    pid = int((get(app.port) or "").removeprefix("pid "))
    processes.end_also(pid)
    assert f"ready: pid {app.lock_holder()} answers at " in done.err
    assert pid != app.lock_holder()


def test_an_app_that_ends_well_and_leaves_nothing_is_not_ready(app: AppFolder, processes: Processes) -> None:
    done = background(app, processes, "--", "--exit", "0")
    assert done.status == 75
    assert "the app has ended with exit status 0 before its page answered" in done.err


@pytest.mark.slow
def test_wait_for_one_second_just_after_ready(app: AppFolder, processes: Processes) -> None:
    assert background(app, processes).status == 0
    assert launcher("wait", "--timeout", "1", *app.arguments).status == 0
    assert launcher("wait", "--timeout", "0", *app.arguments).status == 0


@pytest.mark.slow
def test_a_slow_page_is_ready_when_it_has_answered(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(WEBUI.replace("    def do_GET(self):\n", "    def do_GET(self):\n        time.sleep(3)\n"))
    done = background(app, processes)
    assert done.status == 0, done.err


def closed_connection(port: int) -> None:
    """Leave a connection in TIME_WAIT on a port of this machine."""
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)) as client:
        served, _ = server.accept()
        served.close()
        client.recv(1)


def context_of(app: AppFolder, said: list[str]) -> Context:
    loaded = settings.load({"APP_DIR": str(app.path), "GRADIO_SERVER_PORT": str(app.port)}, {}, settings.Call(app.path))
    console = type("Console", (), {"say": said.append})()
    return Context(None, loaded, {}, console, lambda _: None)  # type: ignore[arg-type]


def test_closed_connections_are_waited_out_for_a_plain_binder_only(
    app: AppFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closed_connections, "_SECONDS", 0.3)
    closed_connection(app.port)
    said: list[str] = []
    python = tmp_path / "env" / "bin" / "python"
    command = Command(str(python), "", (), {}, app.path, str(python), ())
    closed_connections.wait_out(context_of(app, said), command)
    assert said == []  # most apps bind with SO_REUSEADDR

    log = app.path / ".start_app" / "logs" / f"webui-{app.port}.log"
    log.parent.mkdir(parents=True)
    log.with_name(f"{log.name}.2").write_text(f"OSError: Port {app.port} is in use.\n")
    log.touch()
    closed_connections.wait_out(context_of(app, said), command)
    assert said == [
        f"waiting: closed connections keep port {app.port} for up to a minute, "
        "and a start of this app ended because the port was in use"
    ]
    log.with_name(f"{log.name}.2").unlink()

    for version in ("5.45.0", "3.23.0"):
        installed = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / f"gradio-{version}.dist-info"
        installed.mkdir(parents=True)
        said.clear()
        closed_connections.wait_out(context_of(app, said), command)
        installed.rmdir()
        assert bool(said) == (version == "3.23.0")


def test_the_local_port_of_a_connection_is_named_as_what_passes(app: AppFolder, processes: Processes) -> None:
    code = (
        "import socket, time\n"
        "server = socket.create_server(('127.0.0.1', 0)); client = socket.socket()\n"
        f"client.bind(('127.0.0.1', {app.port})); client.connect(server.getsockname())\n"
        "print(server.getsockname()[1], flush=True); time.sleep(600)"
    )
    client = processes.start((sys.executable, "-c", code))
    far = eventually(lambda: client.out or None).strip()
    for words in (("--background",), ("--take-port",), ("-n",)):
        done = launcher(*app.arguments, *words)
        assert done.status == 75, done.err
        assert (
            f"port {app.port} is the local port of a connection to 127.0.0.1:{far}: pid {client.pid}, " in done.err
        ), done.err
    assert alive(client.pid)
    assert f", connected to 127.0.0.1:{far}\n" in launcher("status", *app.arguments).out


@pytest.mark.slow
def test_a_listener_on_another_address_is_passed_by(app: AppFolder, processes: Processes) -> None:
    listen = f"s = socket.create_server(('127.0.0.9', {app.port}))"
    code = f"import socket, time; {listen}; print(1, flush=True); time.sleep(600)"
    relay = processes.start((sys.executable, "-c", code))
    eventually(lambda: relay.out or None)
    refused = launcher(*app.arguments)
    assert refused.status == 69
    assert " --host 127.0.0.1; " in refused.err
    done = background(app, processes, "--host", "127.0.0.1")
    assert done.status == 0, done.err
    assert alive(relay.pid)
