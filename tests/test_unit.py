"""What `unit` prints keeps a real app running under a real systemd."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import systemd
from tests.support import (
    START_APP,
    WEBUI,
    AppFolder,
    Processes,
    clean_environment,
    eventually,
    free_port,
    get,
    launcher,
)
from tests.systemd import Machine

# The app waits for a file before it opens its port, and leaves one when it is closed as Ctrl-C closes it.
PATIENT = WEBUI.replace("time.sleep(args.load)\n", "while os.path.exists('wait'):\n    time.sleep(0.02)\n").replace(
    "except KeyboardInterrupt:\n", "except KeyboardInterrupt:\n    open('closed', 'w').close()\n"
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield from systemd.boot(tmp_path)


def page_pid(port: int) -> str:
    """Return the pid that the page tells, once it answers."""
    return eventually(lambda: get(port), what="page").removeprefix("pid ")


def by_hand(machine: Machine, processes: Processes, app: AppFolder, *arguments: str) -> str:
    """Start the app in the machine as a person does, without the launcher, and return its pid there."""
    shell = f"cd /srv/{app.path.name} && exec {sys.executable} webui.py --port {app.port} {' '.join(arguments)}"
    processes.start((*machine.inside, "sh", "-c", shell))
    return page_pid(app.port)


def test_a_unit_is_active_when_its_page_answers_and_not_before(machine: Machine) -> None:
    app = machine.app("app", PATIENT)
    (app.path / "wait").touch()
    name = machine.install(app)
    assert name == "app.service"
    machine.systemctl("start", "--no-block", name)
    eventually(lambda: '"argv"' in machine.journal(name), what="the app's first line")
    eventually(lambda: machine.show(name, "StatusText").startswith("exec: "), what="status")
    assert machine.show(name, "SubState") == "start-post"
    assert get(app.port) is None
    (app.path / "wait").unlink()
    eventually(lambda: machine.show(name, "ActiveState") == "active", what=machine.told(name))
    main = machine.show(name, "MainPID")
    assert get(app.port) == f"pid {main}"
    assert machine.show(name, "StatusText").startswith(f"ready: pid {main} answers at http://127.0.0.1:{app.port}")


def test_a_restart_replaces_the_instance_and_a_stop_closes_it_as_ctrl_c_does(machine: Machine) -> None:
    app = machine.app("app", PATIENT)
    name = machine.install(app)
    machine.systemctl("start", name)
    first = page_pid(app.port)
    machine.systemctl("restart", name)
    assert page_pid(app.port) == machine.show(name, "MainPID") != first
    assert (app.path / "closed").exists()
    (app.path / "closed").unlink()
    machine.systemctl("stop", name)
    assert (app.path / "closed").exists()
    assert (machine.show(name, "ActiveState"), machine.show(name, "Result")) == ("inactive", "success")
    assert machine.show(name, "ExecMainStatus") == "0"
    assert get(app.port) is None


def test_a_stop_while_it_still_starts_is_no_failure(machine: Machine) -> None:
    app = machine.app("app", PATIENT)
    (app.path / "wait").touch()
    name = machine.install(app)
    machine.systemctl("start", "--no-block", name)
    eventually(lambda: '"argv"' in machine.journal(name), what="the app's first line")
    machine.systemctl("stop", name)
    assert (machine.show(name, "ActiveState"), machine.show(name, "Result")) == ("inactive", "success")


def test_a_crash_starts_it_again(machine: Machine) -> None:
    app = machine.app("app", PATIENT)
    name = machine.install(app)
    machine.systemctl("start", name)
    first = machine.show(name, "MainPID")
    machine.systemctl("kill", "--kill-who=main", "--signal=SIGKILL", name)
    eventually(lambda: machine.show(name, "MainPID") not in (first, "0"), what="another main process")
    eventually(lambda: machine.show(name, "ActiveState") == "active", what=machine.told(name))
    assert machine.show(name, "NRestarts") == "1"
    assert page_pid(app.port) == machine.show(name, "MainPID") != first


@pytest.mark.parametrize(
    ("env", "status"),
    [("GRADIO_SERVER_PORT=http\n", "78"), ("APP_ARGS=--exit 2\n", "2"), ("APP_ARGS=--unknown\n", "2")],
)
def test_a_configuration_error_is_told_once_and_not_tried_again(env: str, status: str, machine: Machine) -> None:
    app = machine.app("app", WEBUI, "")
    name = machine.install(app)
    with (app.path / ".env").open("a") as file:
        file.write(env)
    assert machine.systemctl("start", name, check=False).status != 0
    # A restart to come would show as activating.
    assert machine.show(name, "ActiveState") == "failed", machine.told(name)
    assert (machine.show(name, "ExecMainStatus"), machine.show(name, "NRestarts")) == (status, "0")


def test_what_may_pass_by_itself_is_tried_again(machine: Machine) -> None:
    app = machine.app("app", WEBUI, "APP_ARGS=--exit 75\n")
    name = machine.install(app)
    machine.systemctl("start", "--no-block", name)
    eventually(lambda: int(machine.show(name, "NRestarts")) >= 2, what="two restarts")
    app.write_env(f"HF_HOME=./cache_hub\nGRADIO_SERVER_PORT={app.port}\n")
    eventually(lambda: machine.show(name, "ActiveState") == "active", what=machine.told(name))


def test_a_stranger_on_the_port_is_left_and_not_tried_for_again(machine: Machine, processes: Processes) -> None:
    app = machine.app("app", WEBUI)
    processes.start((*machine.inside, sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), what="page")
    name = machine.install(app)
    assert machine.systemctl("start", name, check=False).status != 0
    assert (machine.show(name, "ActiveState"), machine.show(name, "ExecMainStatus")) == ("failed", "69")
    assert f"port {app.port} is held" in machine.show(name, "StatusText")
    assert get(app.port)


def test_the_unit_replaces_an_instance_that_was_started_by_hand(machine: Machine, processes: Processes) -> None:
    app = machine.app("app", WEBUI)
    old = by_hand(machine, processes, app)
    name = machine.install(app)
    machine.systemctl("start", name)
    assert page_pid(app.port) == machine.show(name, "MainPID") != old
    assert f"terminated pid {old}" in machine.journal(name)


def test_the_page_of_an_instance_still_to_be_replaced_does_not_count(machine: Machine, processes: Processes) -> None:
    app = machine.app("app", PATIENT)
    old = by_hand(machine, processes, app, "--ignore-term")
    (app.path / "wait").touch()
    name = machine.install(app)
    text = (machine.folder / "units" / name).read_text()
    (start,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    machine.write_unit(f"{name}.d/slow.conf", f"[Service]\nExecStart=\nExecStart={start} --stop-timeout 3\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "--no-block", name)
    eventually(lambda: f"stale: pid {old}" in machine.journal(name), what="stop")
    while get(app.port) == f"pid {old}":
        assert machine.show(name, "ActiveState") == "activating"
    eventually(lambda: '"argv"' in machine.journal(name), what="the app's first line")
    assert machine.show(name, "SubState") == "start-post"
    (app.path / "wait").unlink()
    eventually(lambda: machine.show(name, "ActiveState") == "active", what=machine.told(name))
    assert get(app.port) == f"pid {machine.show(name, 'MainPID')}"


def test_a_launch_by_hand_leaves_the_units_instance_and_names_its_restart(machine: Machine) -> None:
    app = machine.app("app", WEBUI)
    name = machine.install(app)
    machine.systemctl("start", name)
    main = machine.show(name, "MainPID")
    for command in ((), ("stop",), ("--take-port",)):
        done = machine.launcher(*command, "--app-dir", f"/srv/{app.path.name}")
        assert done.status == 69, done.err
        assert f"pid {main}, " in done.err
        assert f"systemctl restart {name}" in done.err
    assert get(app.port) == f"pid {main}"
    done = machine.launcher("status", "--app-dir", f"/srv/{app.path.name}")
    assert f"supervisor: {name}\n" in done.out


def test_two_instances_of_a_template_never_touch_one_another(machine: Machine) -> None:
    app = machine.app("my app", PATIENT)
    other = AppFolder(app.path, free_port())
    template = machine.install(app, "--template", changes=("RestartSec=0.1", "Restart=always"))
    assert template == "my-app@.service"
    names = [template.replace("@", f"@{one.port}") for one in (app, other)]
    machine.systemctl("start", *names)
    pids = [machine.show(name, "MainPID") for name in names]
    assert [page_pid(one.port) for one in (app, other)] == pids
    machine.systemctl("kill", "--kill-who=main", "--signal=SIGKILL", names[0])
    eventually(lambda: get(app.port) not in (None, f"pid {pids[0]}"), what=machine.told(names[0]))
    machine.systemctl("restart", names[0])
    assert (machine.show(names[0], "NRestarts"), machine.show(names[1], "NRestarts")) == ("0", "0")
    assert machine.show(names[1], "MainPID") == pids[1]
    assert get(other.port) == f"pid {pids[1]}"
    done = machine.launcher("--app-dir", f"/srv/{app.path.name}", "--port", str(other.port))
    assert done.status == 69
    assert f"systemctl restart {names[1]}" in done.err
