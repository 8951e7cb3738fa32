"""What `status` tells and what `wait` waits for, against real instances and real pages."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.config import settings
from launcher.instances import survey as discovery
from launcher.instances.record import instance_name
from launcher.operations import instance as running
from launcher.system import lock as locks
from tests.support.apps import (
    START_APP,
    WEBUI,
    AppFolder,
    Processes,
    alive,
    clean_environment,
    eventually,
    free_port,
    get,
    launcher,
    make_app,
    program,
)


def test_status_of_nothing_tells_what_a_launch_would_use(app: AppFolder) -> None:
    app.write_env("HF_HOME=./cache_hub\nHF_ENDPOINT=https://hf-mirror.com\n")
    document = launcher("status", "--json", *app.arguments).json
    assert document["version"] == 1
    assert document["state"] == "not running"
    assert document["instance"] is None
    assert document["answers"] is False
    assert document["endpoint"] == "https://hf-mirror.com"
    assert document["cache_roots"] == [str(app.path / "cache_hub" / "hub")]
    assert not (app.path / ".start_app").exists()


@pytest.mark.slow
def test_status_tells_all_of_a_running_instance(app: AppFolder, processes: Processes) -> None:
    app.write_env("HF_HOME=./cache_hub\nHF_ENDPOINT=https://hf-mirror.com\n")
    sibling = AppFolder(app.path, free_port())
    other = processes.launch(*sibling.arguments)
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port) and get(sibling.port), what="pages")
    document = launcher("status", "--json", *app.arguments).json
    assert document["state"] == "running"
    assert document["instance"]["pid"] == running.pid
    assert document["instance"]["user"] == psutil.Process(running.pid).username()
    assert 0 < document["instance"]["uptime_seconds"] < 60
    assert document["port"] == app.port
    assert document["answers"] is True
    assert document["page"] == {"url": f"http://127.0.0.1:{app.port}", "status": 200}
    assert document["interpreter"] == sys.executable
    assert document["endpoint"] == "https://hf-mirror.com"
    assert document["cache_roots"] == [str(app.path / "cache_hub" / "hub")]
    assert 1_000_000 < document["memory_bytes"] < 1_000_000_000
    assert [(s["pid"], s["port"]) for s in document["siblings"]] == [(other.pid, sibling.port)]
    text = launcher("status", *app.arguments)
    assert text.status == 0
    assert f"pid: {running.pid}\n" in text.out
    assert f"page: http://127.0.0.1:{app.port} answers 200\n" in text.out
    assert text.err == ""


def test_an_instance_that_ends_while_it_is_looked_for_leaves_the_port_free(
    app: AppFolder, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    survey = discovery.survey

    def late(*arguments: Any) -> discovery.Survey:
        started.process.kill()
        started.process.wait()
        return survey(*arguments)

    monkeypatch.setattr(discovery, "survey", late)
    found = settings.load({"APP_DIR": str(app.path), "GRADIO_SERVER_PORT": str(app.port)}, {}, settings.Call(app.path))
    seen = running.observe(found)
    assert started.process.returncode == -signal.SIGKILL
    assert (seen.survey.stale, seen.survey.holders) == ((), ())


def test_status_tells_the_settings_the_process_has_not_those_of_today(app: AppFolder, processes: Processes) -> None:
    app.write_env("HF_ENDPOINT=https://old.example\nHF_HOME=/var/old\n")
    processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    app.write_env("HF_ENDPOINT=https://new.example\n")
    document = launcher("status", "--json", *app.arguments).json
    assert document["endpoint"] == "https://old.example"
    assert document["cache_roots"] == ["/var/old/hub"]


def test_status_of_an_instance_that_still_loads(app: AppFolder, processes: Processes) -> None:
    running = processes.launch(*app.arguments, "--", "--load", "600")
    running.hello()
    document = launcher("status", "--json", *app.arguments).json
    assert (document["state"], document["instance"]["pid"], document["answers"]) == ("loading", running.pid, False)


def test_status_tells_who_holds_the_port_if_not_us(app: AppFolder, processes: Processes) -> None:
    server = processes.start((sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), what="page")
    document = launcher("status", "--json", *app.arguments).json
    assert document["state"] == "not running"
    (holder,) = document["port_held_by"]
    assert (holder["pid"], holder["address"]) == (server.pid, "127.0.0.1")
    assert f"port held by: pid {server.pid}, " in launcher("status", *app.arguments).out


# A process that leaves the app's tree with the socket of the app.
INHERIT = """\
server.socket.set_inheritable(True)
if os.fork() == 0:
    if os.fork():
        os._exit(0)
    os.setsid()
    with open("daemon", "w") as file:
        file.write(f"{os.getpid()}\\n")
    os.execlp("sleep", "sleep", "600")
"""


@pytest.mark.slow
def test_a_daemon_that_keeps_the_port_open_is_found_before_the_stop(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(WEBUI.replace("try:\n    server.serve", f"{INHERIT}try:\n    server.serve"))
    running = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
    eventually(lambda: get(app.port), what="page")
    noted = app.path / "daemon"
    daemon = psutil.Process(int(eventually(lambda: noted.exists() and noted.read_text().strip(), what="daemon")))
    eventually(lambda: daemon.name() == "sleep", what="its exec")
    try:
        done = launcher("--no-launch", *app.arguments)
        assert done.status == 69
        assert f"port {app.port} is held on 127.0.0.1 by pid {daemon.pid}, sleep 600" in done.err
        assert get(app.port) == f"pid {running.pid}"
        assert launcher("--no-launch", "--take-port", *app.arguments).status == 0
        assert (alive(running.pid), alive(daemon.pid)) == (False, False)
    finally:
        with suppress(psutil.NoSuchProcess):
            daemon.kill()


@pytest.mark.slow
def test_status_adds_up_what_nvidia_smi_says_of_the_whole_tree(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    # There is no GPU here: a program of this name prints what the real one prints for two processes on two cards.
    running = processes.launch(*app.arguments, "--", "--worker")
    eventually(lambda: get(app.port), what="page")
    (worker,) = eventually(lambda: psutil.Process(running.pid).children(), what="worker")
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(
        '#!/bin/sh\n[ "$1" = --query-compute-apps=pid,used_memory ] || exit 2\n'
        f"echo '{running.pid}, 1000'; echo '{worker.pid}, 20'; echo '1, 5000'; echo '{running.pid}, 4'\n"
    )
    smi.chmod(0o755)
    env = clean_environment(PATH=f"{smi.parent}:{os.environ['PATH']}")
    document = launcher("status", "--json", *app.arguments, env=env).json
    assert document["gpu_memory_bytes"] == 1024 * 1024 * 1024
    assert "gpu memory: 1.1 GB\n" in launcher("status", *app.arguments, env=env).out
    # WSL does not say how much; a container names the host's pids; a broken driver fails.
    for text in (f"echo '{running.pid}, 4'; echo '{worker.pid}, [N/A]'", "echo '4000001, 5000'", "exit 9"):
        smi.write_text(f"#!/bin/sh\n{text}\n")
        assert launcher("status", "--json", *app.arguments, env=env).json["gpu_memory_bytes"] is None
        assert "gpu memory: unknown\n" in launcher("status", *app.arguments, env=env).out
    smi.write_text(f"#!/bin/sh\necho '{os.getpid()}, 5000'\n")
    assert launcher("status", "--json", *app.arguments, env=env).json["gpu_memory_bytes"] == 0


@pytest.mark.slow
def test_wait_returns_when_our_page_answers_and_goes_on_answering(app: AppFolder, processes: Processes) -> None:
    running = processes.launch(*app.arguments, "--", "--load", "0.5")
    done = launcher("wait", "--timeout", "30", *app.arguments)
    assert done.status == 0
    assert f"ready: pid {running.pid} answers at http://127.0.0.1:{app.port}" in done.err
    assert get(app.port) == f"pid {running.pid}"


@pytest.mark.slow
def test_wait_of_a_settled_instance_returns_within_a_second(app: AppFolder, processes: Processes) -> None:
    running = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
    eventually(lambda: get(app.port), what=running.err)
    eventually(lambda: time.time() - psutil.Process(running.pid).create_time() > 10.5, what="age")
    # A page that had to settle first could not do so within this time-out, however often it is asked.
    done = eventually(
        lambda: next(
            (one for one in [launcher("wait", "--timeout", "1", "--json", *app.arguments)] if not one.status), None
        )
    )
    assert done.json["seconds"] < 1.5
    assert done.json["instance"]["pid"] == running.pid
    assert done.json["url"] == f"http://127.0.0.1:{app.port}"


@pytest.mark.parametrize("after", ["0.5", "1.0"])
def test_wait_is_not_taken_in_by_an_app_that_answers_and_then_dies(
    after: str, app: AppFolder, processes: Processes
) -> None:
    app.script.write_text(
        app.script.read_text().replace(
            "        self.wfile.write(body)\n",
            "        self.wfile.write(body)\n"
            f"        import threading; threading.Timer({after}, lambda: os._exit(3)).start()\n",
        )
    )
    running = processes.launch(*app.arguments)
    done = launcher("wait", "--timeout", "30", *app.arguments)
    assert done.status == 75
    assert f"the instance has ended before its page answered: pid {running.pid}, " in done.err
    assert running.wait() == 3


def holds_pidfd(pid: int) -> bool:
    """Return whether a process holds another one by a pidfd, as `wait` does once it has found its instance."""
    folder = Path(f"/proc/{pid}/fd")
    with suppress(OSError):
        return any("pidfd" in os.readlink(descriptor) for descriptor in folder.iterdir())
    return False


def test_wait_returns_at_once_when_the_instance_dies(app: AppFolder, processes: Processes) -> None:
    running = processes.launch(*app.arguments, "--", "--load", "600")
    running.hello()
    waiting = processes.start((sys.executable, START_APP, "wait", "--timeout", "300", *app.arguments))
    eventually(lambda: holds_pidfd(waiting.pid), what="wait at work")
    running.process.kill()
    assert waiting.wait(10) == 75
    assert "has ended" in waiting.err


def test_wait_gives_up_after_its_time_out_and_says_what_is_missing(app: AppFolder, processes: Processes) -> None:
    running = processes.launch(*app.arguments, "--", "--load", "600")
    running.hello()
    done = launcher("wait", "--timeout", "1", *app.arguments)
    assert done.status == 75
    assert f"not ready after 1 s, it has not opened the port yet: pid {running.pid}, " in done.err
    assert "hint: " in done.err
    assert alive(running.pid)


def test_wait_for_nothing_says_so(app: AppFolder) -> None:
    done = launcher("wait", "--timeout", "0.5", *app.arguments)
    assert done.status == 75
    assert f"no instance of {app.script} runs on port {app.port}" in done.err


@pytest.mark.slow
def test_wait_does_not_take_a_strangers_page_for_ours(app: AppFolder, processes: Processes) -> None:
    server = processes.start((sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), what="page")
    ours = processes.start((sys.executable, "webui.py", "--load", "600", "--port", str(app.port)), cwd=app.path)
    ours.hello()
    done = launcher("wait", "--timeout", "2", *app.arguments)
    assert done.status == 75
    assert "it has not opened the port yet" in done.err
    assert alive(server.pid)


@pytest.mark.slow
def test_wait_waits_for_the_new_instance_while_a_launcher_replaces_the_old(
    app: AppFolder, processes: Processes
) -> None:
    old = processes.launch(*app.arguments, "--", "--ignore-term")
    eventually(lambda: get(app.port) == f"pid {old.pid}", what="old page")
    new = processes.launch(*app.arguments, "--stop-timeout", "2")
    eventually(lambda: f"stale: pid {old.pid}" in new.err, what="stop")
    done = launcher("wait", "--timeout", "30", "--json", *app.arguments)
    assert done.status == 0
    assert done.json["instance"]["pid"] == new.pid
    assert old.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_wait_beside_a_launcher_that_has_not_begun_follows_the_new_instance(
    app: AppFolder, processes: Processes
) -> None:
    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port) == f"pid {old.pid}", what="old page")
    waiting = processes.start((sys.executable, START_APP, "wait", "--timeout", "60", "--json", *app.arguments))
    eventually(lambda: holds_pidfd(waiting.pid), what="wait at work")
    new = processes.launch(*app.arguments)
    assert waiting.wait(30) == 0, waiting.err
    assert f'"pid": {new.pid}' in waiting.out


@pytest.mark.slow
def test_a_running_instance_is_told_of_and_stopped_on_an_address_that_has_gone(
    app: AppFolder, processes: Processes
) -> None:
    running = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
    eventually(lambda: get(app.port), what="page")
    env = clean_environment(GRADIO_SERVER_NAME="192.0.2.1")
    assert launcher("status", "--json", *app.arguments, env=env).json["instance"]["pid"] == running.pid
    assert launcher(*app.arguments, env=env).status == 78
    assert alive(running.pid)
    assert launcher("stop", *app.arguments, env=env).status == 0
    assert running.wait(1) == -signal.SIGTERM


def test_stop_names_the_instance_that_runs_on_another_port(app: AppFolder, processes: Processes) -> None:
    sibling = AppFolder(app.path, free_port())
    running = processes.launch(*sibling.arguments)
    eventually(lambda: get(sibling.port), what="page")
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert f"left: pid {running.pid}, " in done.err
    assert f"this app's instance on port {sibling.port}" in done.err
    assert alive(running.pid)


@pytest.mark.parametrize("flag", ["--port", "none"])
def test_an_app_that_listens_on_another_port_than_it_was_told_is_told_of(
    flag: str, app: AppFolder, processes: Processes
) -> None:
    other = free_port()
    app.write_env(f"APP_PORT_FLAG={flag}\n")
    app.script.write_text(app.script.read_text().replace("(args.host, args.port)", f"(args.host, {other})"))
    processes.launch(*app.arguments)
    eventually(lambda: get(other), what="page")
    done = launcher("wait", "--timeout", "1", *app.arguments)
    assert done.status == 75
    message, hint = done.err.splitlines()
    assert f"it listens on {other} instead" in message
    way = f"where its code names that port: {program()} --app-dir {app.path} --port {other}"
    unknown = "where --port is none of its options: APP_PORT_FLAG=none in .env; "
    assert hint == f"hint: {'' if flag == 'none' else unknown}{way}"
    assert f"listens on: {other}\n" in launcher("status", *app.arguments).out


@pytest.mark.slow
def test_wait_asks_the_page_directly_whatever_proxy_is_set(app: AppFolder, processes: Processes) -> None:
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    env = clean_environment(**proxy)
    processes.launch(*app.arguments, env=env)
    done = launcher("wait", "--timeout", "20", *app.arguments, env=env)
    assert done.status == 0


@pytest.mark.slow
def test_an_error_page_is_not_ready_and_a_login_page_is(app: AppFolder, processes: Processes) -> None:
    for status, expected in ((500, 75), (401, 0)):
        text = app.script.read_text().replace("self.send_response(200)", f"self.send_response({status})")
        folder = make_app(app.path.parent / str(status), text)
        processes.launch(*folder.arguments)
        eventually(lambda: get(folder.port), what="page")  # noqa: B023
        assert launcher("wait", "--timeout", "4", *folder.arguments).status == expected


@pytest.mark.slow
def test_a_page_behind_tls_is_found(app: AppFolder, processes: Processes, tmp_path: Path) -> None:
    import subprocess

    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "2")
    files = ("-keyout", tmp_path / "key", "-out", tmp_path / "cert")
    try:
        subprocess.run((*command, *files), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    app.script.write_text(
        app.script.read_text().replace(
            "try:\n    server.serve",
            "import ssl\ncontext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
            f"context.load_cert_chain({str(tmp_path / 'cert')!r}, {str(tmp_path / 'key')!r})\n"
            "server.socket = context.wrap_socket(server.socket, server_side=True)\ntry:\n    server.serve",
        )
    )
    processes.launch(*app.arguments)
    done = launcher("wait", "--timeout", "20", "--json", *app.arguments)
    assert done.status == 0, done.err
    assert done.json["url"] == f"https://127.0.0.1:{app.port}"


@pytest.mark.slow
def test_an_ipv6_instance_is_found_and_replaced(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(
        app.script.read_text().replace(
            "server = http",
            "import socket\nhttp.server.ThreadingHTTPServer.address_family = socket.AF_INET6\nserver = http",
        )
    )
    first = processes.launch(*app.arguments, "--host", "::1")
    done = launcher("wait", "--timeout", "20", "--json", "--host", "::1", *app.arguments)
    assert done.status == 0, done.err
    assert done.json["url"] == f"http://[::1]:{app.port}"
    second = processes.launch(*app.arguments, "--host", "::1")
    eventually(lambda: get(app.port, "::1") == f"pid {second.pid}", what=second.err)
    assert first.wait() == -signal.SIGTERM


def test_no_launch_stops_what_is_stale_and_starts_nothing(app: AppFolder, processes: Processes) -> None:
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    done = launcher("--no-launch", "--json", *app.arguments)
    assert done.status == 0
    assert [stopped["pid"] for stopped in done.json["stopped"]] == [running.pid]
    assert done.json["launched"] is False
    assert get(app.port) is None
    assert next(locks.held(app.path, instance_name(app.port)), None) is None


def test_dry_run_tells_the_plan_and_changes_nothing(app: AppFolder, processes: Processes) -> None:
    running = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
    eventually(lambda: get(app.port), what="page")
    done = launcher("-n", *app.arguments)
    assert done.status == 0
    assert f"would terminate pid {running.pid}, " in done.out
    assert f"would exec: {sys.executable} webui.py --port {app.port}\n" in done.out
    document = launcher("-n", "--json", *app.arguments).json
    assert [process["pid"] for process in document["terminate"]] == [running.pid]
    assert document["argv"] == [sys.executable, "webui.py", "--port", str(app.port)]
    assert document["exit_status"] == 0
    assert alive(running.pid)
    assert sorted(path.name for path in app.path.iterdir()) == ["webui.py"]


@pytest.mark.slow
def test_dry_run_is_refused_as_the_real_run_would_be(app: AppFolder, processes: Processes) -> None:
    server = processes.start((sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), what="page")
    for flags in ((), ("--json",)):
        dry = launcher("-n", *flags, *app.arguments)
        real = launcher(*app.arguments)
        assert dry.status == real.status == 69
        refusal = next(line for line in real.err.splitlines() if line.startswith("port "))
        pid = f"pid {server.pid}, "
        assert pid in refusal
        assert pid in (dry.json["error"] if flags else dry.err)


def test_a_real_launch_tells_in_json_what_it_did_before_the_app_speaks(app: AppFolder, processes: Processes) -> None:
    import json

    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    running = processes.launch(*app.arguments, "--json")
    eventually(lambda: running.out.count("\n") >= 2, what="two lines")
    first = json.loads(running.out.splitlines()[0])
    assert first["launched"] is True
    assert first["pid"] == running.pid
    assert [stopped["pid"] for stopped in first["stopped"]] == [old.pid]


@pytest.mark.slow
def test_wait_for_a_process_does_not_take_another_instances_page_for_its_own(
    app: AppFolder, processes: Processes
) -> None:
    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port) == f"pid {old.pid}", what="old page")
    new = processes.start((sys.executable, "webui.py", "--load", "600", "--port", str(app.port)), cwd=app.path)
    new.hello()
    done = launcher("wait", "--timeout", "1", "--pid", str(new.pid), *app.arguments)
    assert done.status == 75
    assert f"it has not opened the port yet: pid {new.pid}, " in done.err
    told = clean_environment(MAINPID=str(old.pid))
    done = launcher("wait", "--timeout", "20", "--json", *app.arguments, env=told)
    assert (done.status, done.json["instance"]["pid"]) == (0, old.pid)
    # A flag comes before what systemd says.
    assert launcher("wait", "--timeout", "1", "--pid", str(new.pid), *app.arguments, env=told).status == 75


def test_wait_for_a_process_ends_after_it_and_not_before_its_parent_knows(app: AppFolder, processes: Processes) -> None:
    running = processes.launch(*app.arguments, "--", "--load", "600")
    running.hello()
    command = (sys.executable, START_APP, "wait", "--pid", str(running.pid), "--timeout", "300", *app.arguments)
    waiting = processes.start(command)

    def watches() -> bool:
        for link in Path(f"/proc/{waiting.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it closes others meanwhile
                if os.readlink(link) == "anon_inode:[pidfd]":
                    return True
        return False

    eventually(watches, what="wait at work")
    running.process.kill()
    # It has seen the end, and stays for as long as the zombie does.
    eventually(lambda: alive(waiting.pid) and not watches(), what="the end seen")
    assert waiting.process.poll() is None
    running.wait()
    assert waiting.wait(10) == 75
    assert f"the instance has ended before its page answered: pid {running.pid}, " in waiting.err


def test_wait_for_a_process_that_is_not_there_says_so(app: AppFolder, processes: Processes) -> None:
    gone = processes.start(("true",))
    gone.wait()
    done = launcher("wait", "--pid", str(gone.pid), *app.arguments)
    assert done.status == 75
    assert f"the instance has ended before its page answered: pid {gone.pid}" in done.err
