"""Real supervisors: each keeps an instance that is then refused with the command that stops it there."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.apps import (
    START_APP,
    AppFolder,
    Done,
    Processes,
    alive,
    eventually,
    free_port,
    get,
    launcher,
)
from tests.support.systemd import PYTHON, Machine, boot
from tests.support.systemd import START_APP as MACHINE_START_APP

pytestmark = pytest.mark.slow
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a pid namespace")
APP = f"{sys.executable} webui.py --port"


WEB = """\
import http.server, os, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"pid {os.getpid()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Page).serve_forever()
"""


def program(name: str, package: str) -> str:
    """Return a program of this environment or of the system."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{name} is not installed: {package}")
    return path


def from_package(name: str) -> str:
    return program(name, "pip install -e '.[supervisors]'")


def refused(app: AppFolder, name: str) -> str:
    """Try everything that would stop the instance, and return the hint of the refusal."""
    pid = (get(app.port) or "").removeprefix("pid ")
    for command in (("-n",), ("stop",), ("--no-launch",), ("--background",)):
        done = launcher(*command, *app.arguments)
        assert done.status == 69, done.err
        assert f"runs inside {name}" in done.err
    assert get(app.port) == f"pid {pid}"
    return done.err.rpartition("hint: ")[2].strip()


def supervisord(app: AppFolder, processes: Processes, command: str, more: str = "") -> Path:
    """Start a supervisord with one program, `web`, and return its configuration."""
    folder = app.path.parent / "supervisor"
    folder.mkdir()
    configuration = folder / "s.conf"
    configuration.write_text(
        textwrap.dedent(f"""\
        [supervisord]
        nodaemon=true
        logfile={folder}/log
        pidfile={folder}/pid
        [unix_http_server]
        file={folder}/sock
        [rpcinterface:supervisor]
        supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
        [supervisorctl]
        serverurl=unix://{folder}/sock
        [program:web]
        command={command}
        directory={app.path}
        startsecs=0
        stdout_logfile={folder}/web.log
        redirect_stderr=true
        {more}
        """)
    )
    environment = {"PYTHONWARNINGS": "ignore", "PATH": os.environ["PATH"], "HOME": str(folder)}
    processes.start(
        (sys.executable, from_package("supervisord"), "-c", "s.conf"),
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    return configuration


def supervisorctl(configuration: Path, *words: str) -> str:
    command = (from_package("supervisorctl"), "-c", str(configuration), *words)
    environment = {"PYTHONWARNINGS": "ignore", "PATH": os.environ["PATH"], "HOME": "/"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("how", ["itself", "through a shell", "through the launcher"])
def test_a_program_of_supervisord_is_refused_and_the_hint_stops_it(
    how: str, app: AppFolder, processes: Processes
) -> None:
    command = {
        "itself": f"{APP} {app.port}",
        "through a shell": f"bash -c 'cd {app.path}; {APP} {app.port}; true'",
        "through the launcher": f"{sys.executable} {START_APP} {shlex.join(app.arguments)}",
    }[how]
    configuration = supervisord(app, processes, command)
    eventually(lambda: get(app.port), 30, what="page")
    hint = refused(app, "supervisord")
    assert hint == f"supervisorctl -c {configuration} stop web stops it for good"
    assert "web: stopped" in supervisorctl(configuration, "stop", "web")
    if how == "through a shell":  # stopasgroup= is off by default, and what the shell was waiting for is an orphan
        assert launcher("stop", *app.arguments).status == 0
    eventually(lambda: get(app.port) is None, what="the end")


def test_what_a_shell_below_supervisord_has_started_is_not_supervised(app: AppFolder, processes: Processes) -> None:
    # The program waits for something else; the app is a job beside it, then an orphan.
    job = f"bash -c 'nohup {APP} {app.port} & echo $! > pid; sleep 600'"
    configuration = supervisord(app, processes, job)
    eventually(lambda: get(app.port), 30, what="page")
    pid = int((app.path / "pid").read_text())
    processes.end_also(pid)
    done = launcher("-n", *app.arguments)
    assert done.status == 0, done.err
    assert f"would terminate pid {pid}, " in done.out
    assert launcher("stop", *app.arguments).status == 0
    assert "RUNNING" in supervisorctl(configuration, "status")


def test_an_unattended_start_spares_a_job_in_a_session_of_its_own(app: AppFolder, processes: Processes) -> None:
    (app.path / "train.py").write_text("import time; time.sleep(600)")
    app.script.write_text(
        "import os, subprocess, sys\n"
        "if not os.path.exists('started'):\n"
        "    open('started', 'w').close()\n"
        "    job = subprocess.Popen([sys.executable, 'train.py'], start_new_session=True)\n"
        "    worker = subprocess.Popen(['sleep', '600'])\n"
        "    open('pids', 'w').write(f'{job.pid} {worker.pid}')\n" + app.script.read_text()
    )
    supervisord(app, processes, f"{sys.executable} {START_APP} {shlex.join(app.arguments)}", "stopasgroup=false")
    first = eventually(lambda: get(app.port), 30, what="page")
    job, worker = (processes.end_also(int(pid)) for pid in (app.path / "pids").read_text().split())
    os.kill(int(first.removeprefix("pid ")), signal.SIGKILL)
    eventually(lambda: get(app.port) not in (None, first), 30, what="the next start")
    assert not alive(worker)
    assert alive(job)
    log = (app.path.parent / "supervisor" / "web.log").read_text()
    assert f"left over: pid {worker}, sleep 600" in log
    assert f"left: pid {job}, " in log
    assert "in a session of its own" in log


def test_a_watcher_of_circus_is_refused(app: AppFolder, processes: Processes) -> None:
    circusd = from_package("circusd")
    endpoints = "".join(
        f"{name} = tcp://127.0.0.1:{free_port()}\n" for name in ("endpoint", "pubsub_endpoint", "stats_endpoint")
    )
    (app.path / "circus.ini").write_text(
        f"[circus]\n{endpoints}\n[watcher:web]\ncmd = {APP} {app.port}\nworking_dir = {app.path}\ncopy_env = True\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONWARNINGS": "ignore"}
    running = processes.start((sys.executable, circusd, "circus.ini"), cwd=app.path, env=environment)
    eventually(lambda: get(app.port), 30, what=running.err)
    assert "circusctl stop NAME" in refused(app, "circusd")


def test_a_process_of_honcho_is_refused_and_the_hint_stops_it(app: AppFolder, processes: Processes) -> None:
    (app.path / "Procfile").write_text(f"web: exec {APP} {app.port}\nother: sleep 600\n")
    running = processes.start((sys.executable, from_package("honcho"), "start"), cwd=app.path)
    eventually(lambda: get(app.port), 30, what=running.err)
    hint = refused(app, "honcho")
    command = hint.partition(" stops it")[0].split()
    assert command[0] == "kill"
    subprocess.run(command, check=True)
    eventually(lambda: get(app.port) is None, what="the end")


def test_a_service_of_runit_is_refused_with_its_folder(app: AppFolder, processes: Processes) -> None:
    runsv = program("runsv", "apt-get install runit")
    service = app.path.parent / "sv" / "web"
    service.mkdir(parents=True)
    (service / "run").write_text(f"#!/bin/sh\ncd {app.path}\nexec {APP} {app.port}\n")
    (service / "run").chmod(0o755)
    running = processes.start((runsv, "web"), cwd=service.parent)
    eventually(lambda: get(app.port), 30, what=running.err)
    assert refused(app, "runsv") == f"sv down {service} stops it for good"
    subprocess.run((program("sv", "apt-get install runit"), "down", service), check=True, capture_output=True)
    eventually(lambda: get(app.port) is None, what="the end")


class Container:
    """Hold a pid namespace with an init of its own."""

    def __init__(self, processes: Processes, *init: str, cwd: Path) -> None:
        words = ("unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child", *init)
        self.running = processes.start(words, cwd=cwd)
        self._outer = self.running.pid
        self.pid = eventually(lambda: next(iter(psutil.Process(self._outer).children()), None), what="init").pid

    def launcher(self, *words: str) -> Done:
        inside = ("nsenter", "-t", str(self.pid), "--pid", "--mount", "--", sys.executable)
        return launcher(*words, python=inside)


@as_root
@pytest.mark.parametrize("init", ["tini --", "tini -s --", "dumb-init", "sh -c", "bash -c"])
def test_what_a_containers_init_waits_for_is_refused(init: str, app: AppFolder, processes: Processes) -> None:
    name, *options = init.split()
    command = f"{APP} {app.port}"
    words = [f"{command}; true"] if "-c" in options else command.split()
    container = Container(processes, program(name, f"apt-get install {name}"), *options, *words, cwd=app.path)
    eventually(lambda: get(app.port), 30, what=container.running.err)
    for words in (["-n"], ["stop"], ["--background"]):
        done = container.launcher(*words, *app.arguments)
        assert done.status == 69, done.err
        assert "restart the container" in done.err
    assert get(app.port)


@as_root
@pytest.mark.parametrize("init", ["tini --", "dumb-init", ""])
def test_what_the_launcher_put_into_the_background_of_a_container_is_restarted(
    init: str, app: AppFolder, processes: Processes
) -> None:
    words = init.split()
    if words:
        words[0] = program(words[0], f"apt-get install {words[0]}")
    container = Container(processes, *words, "bash", "-c", "sleep 600; true", cwd=app.path)
    for _ in range(2):
        done = container.launcher("--background", *app.arguments)
        assert done.status == 0, done.err
    assert container.launcher("stop", *app.arguments).status == 0
    assert get(app.port) is None


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield from boot(tmp_path)


def write_unit(machine: Machine, name: str, *lines: str) -> None:
    text = "\n".join(("[Unit]", "Description=test", "DefaultDependencies=no", "[Service]", *lines, ""))
    machine.write_unit(name, text)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", name)


def test_only_the_main_process_of_a_unit_is_refused(machine: Machine) -> None:
    app = machine.app("app", WEB)
    arguments = ("--app-dir", "/srv/app", "--port", str(app.port))
    web = f"{PYTHON} webui.py --port {app.port}"

    def hand(*words: str) -> Done:
        return machine.launcher(*words, *arguments)

    folder = "WorkingDirectory=/srv/app"
    for number, start in enumerate((web, f'/bin/sh -c "{web}; true"')):
        write_unit(machine, f"web{number}.service", folder, f"ExecStart={start}", "Restart=always")
        eventually(lambda: get(app.port), 30, what="page")
        done = hand("stop")
        assert done.status == 69, done.err
        assert f"systemctl restart web{number}.service" in done.err
        machine.systemctl("stop", f"web{number}.service")
    # It makes a daemon of itself.
    script = machine.folder / "srv" / "app" / "daemon.sh"
    script.write_text(f"#!/bin/sh\n{web} > /dev/null 2>&1 &\nsleep 0.2\n")
    write_unit(machine, "forking.service", folder, "Type=forking", "ExecStart=/bin/sh /srv/app/daemon.sh")
    eventually(lambda: get(app.port), 30, what="page")
    done = hand("stop")
    assert (done.status, "forking.service" in done.err) == (69, True), done.err
    machine.systemctl("stop", "forking.service")
    # A notebook, with a terminal in which the app was started: as its child, and as its orphan.
    below = f"import os, pty, time; pty.fork()[0] or os.execlp('bash', 'bash', '-c', '{web} & sleep 1000')"
    for ending in ("time.sleep(1000)",):
        notebook = machine.folder / "srv" / "app" / "notebook.py"
        notebook.write_text(f"{below}\n{ending}\n")
        write_unit(machine, "notebook.service", folder, f"ExecStart={PYTHON} notebook.py", "Restart=always")
        eventually(lambda: get(app.port), 30, what="page")
        done = hand("-n")
        assert done.status == 0, done.err
        assert hand("--background").status == 0
        main = machine.show("notebook.service", "MainPID")
        assert hand("stop").status == 0
        assert machine.show("notebook.service", "MainPID") == main


def test_the_launcher_as_a_unit_spares_a_job_in_a_session_of_its_own(machine: Machine) -> None:
    job = "import subprocess, os\nif not os.path.exists('started'):\n    open('started', 'w').close()\n"
    job += "    job = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
    job += "    worker = subprocess.Popen(['sleep', '1001'])\n"
    app = machine.app("app", job + WEB)
    start = f"ExecStart={PYTHON} {MACHINE_START_APP} --app-dir /srv/app"
    write_unit(machine, "web.service", "KillMode=process", start, "Restart=always", "RestartSec=0.1")
    first = eventually(lambda: get(app.port), 30, what=machine.told("web.service"))
    machine.run("kill", "-9", first.removeprefix("pid "))
    eventually(lambda: get(app.port) not in (None, first), 30, what="the next start")
    sleeping = machine.run("ps", "-eo", "args").out
    assert "sleep 1000" in sleeping
    assert "sleep 1001" not in sleeping
    assert "in a session of its own" in machine.journal("web.service")
