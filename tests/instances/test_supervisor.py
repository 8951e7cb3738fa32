"""An instance that somebody else would start again is left, and the command that really stops it is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from launcher.instances.supervisor import starter, supervisor
from launcher.instances.unit import Supervisor, of_cgroup
from tests.support.apps import START_APP, AppFolder, Processes, alive, eventually, get, launcher
from tests.support.table import Box, MadeUp, one

CONTAINER = "4f5e6d7c8b9a" * 5 + "abcd"


@pytest.mark.parametrize(
    ("cgroup", "name", "command"),
    [
        ("0::/system.slice/indextts.service", "indextts.service", "systemctl stop indextts.service"),
        ("0::/system.slice/indextts.service/sub", "indextts.service", "systemctl stop indextts.service"),
        ("0::/system.slice/system-app.slice/app@7860.service", "app@7860.service", "systemctl stop app@7860.service"),
        (
            "12:pids:/x\n1:name=systemd:/system.slice/indextts.service\n0::/",
            "indextts.service",
            "systemctl stop indextts.service",
        ),
        (
            "9:name=systemd:/\n4:memory:/x/y\n0::/system.slice/indextts.service",
            "indextts.service",
            "systemctl stop indextts.service",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/tts.service",
            "tts.service",
            "systemctl --user stop tts.service",
        ),
        (f"0::/system.slice/docker-{CONTAINER}.scope", "container 4f5e6d7c8b9a", "docker stop 4f5e6d7c8b9a"),
        (f"1:name=systemd:/docker/{CONTAINER}\n0::/", "container 4f5e6d7c8b9a", "docker stop 4f5e6d7c8b9a"),
        (
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{CONTAINER}.scope/container",
            "container 4f5e6d7c8b9a",
            "podman stop 4f5e6d7c8b9a",
        ),
        (
            f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{CONTAINER}.scope",
            "container 4f5e6d7c8b9a",
            "crictl stop 4f5e6d7c8b9a",
        ),
        (f"1:name=systemd:/kubepods/besteffort/pod1/{CONTAINER}", "container 4f5e6d7c8b9a", "crictl stop 4f5e6d7c8b9a"),
        ("0::/lxc/box", "container box", "lxc-stop box"),
        ("0::/machine.slice/machine-box.scope", "machine box", "machinectl terminate box"),
    ],
)
def test_a_unit_or_container_of_its_own_is_a_supervisor(cgroup: str, name: str, command: str) -> None:
    found = of_cgroup(cgroup)
    assert found is not None
    assert (found.name, found.stop) == (name, command)


@pytest.mark.parametrize(
    "cgroup",
    [
        "",
        "0::/",
        "0::/init.scope",
        "0::/user.slice/user-0.slice/session-7.scope",
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope",
        "0::/user.slice/user-1000.slice/user@1000.service/init.scope",
        "0::/system.slice/cron.service",
        "0::/system.slice/crond.service",
        "0::/system.slice/ssh.service",
        "0::/system.slice/system-ssh.slice/ssh@12-10.0.0.1:22-10.0.0.2:5555.service",
        "0::/system.slice/system-getty.slice/getty@tty1.service",
        "0::/system.slice/run-u12.scope",
        "garbage",
    ],
)
def test_a_login_a_job_and_a_scope_supervise_nothing(cgroup: str) -> None:
    assert of_cgroup(cgroup) is None


SYSTEMD = one(1, 0, "/sbin/init", name="systemd")
LOGIN = one(5, 1, "-bash", 5)
SUPERVISORD = one(30, 1, "/usr/bin/python3 /usr/bin/supervisord -n -c /etc/s.conf")
PROGRAM = {"SUPERVISOR_ENABLED": "1", "SUPERVISOR_PROCESS_NAME": "web", "SUPERVISOR_GROUP_NAME": "web"}
APP = "python webui.py"
ANY = {"A": "b"}
PM_ID = {"pm_id": "0"}
PM2 = one(30, 1, "node", name="PM2 v5.3.0: God", argv=("PM2 v5.3.0: God Daemon (/root/.pm2)",), environ=ANY)


def of(pid: int, *processes: MadeUp, own: int | None = None) -> Supervisor | None:
    return supervisor(pid, Box(*processes), own)


@pytest.mark.parametrize(
    ("processes", "name", "stop"),
    [
        ((SYSTEMD, SUPERVISORD, one(99, 30, APP)), "supervisord", "supervisorctl -c /etc/s.conf stop NAME"),
        (
            (SYSTEMD, SUPERVISORD, one(99, 30, APP, environ=PROGRAM)),
            "supervisord",
            "supervisorctl -c /etc/s.conf stop web",
        ),
        (
            (SYSTEMD, one(30, 1, "python -m supervisor.supervisord"), one(99, 30, APP, environ=PROGRAM)),
            "supervisord",
            "supervisorctl stop web",
        ),
        (
            (one(1, 0, "supervisord"), one(99, 1, APP, environ={**PROGRAM, "SUPERVISOR_GROUP_NAME": "ui"})),
            "supervisord",
            "supervisorctl stop ui:web",
        ),
        # Under another name it is known by the variables that it has given and has not itself.
        (
            (SYSTEMD, one(30, 1, "python sv.py", environ=ANY), one(99, 30, APP, environ=PROGRAM)),
            "supervisord",
            "supervisorctl stop web",
        ),
        (
            (SYSTEMD, SUPERVISORD, one(40, 30, "bash run.sh"), one(50, 40, f"uv run {APP}"), one(99, 50, APP)),
            "supervisord",
            "supervisorctl -c /etc/s.conf stop NAME",
        ),
        ((SYSTEMD, PM2, one(99, 30, APP, 99, environ={"pm_id": "3"})), "pm2", "pm2 stop 3"),
        ((SYSTEMD, PM2.but(name="node", argv=("node",)), one(99, 30, APP, environ=PM_ID)), "pm2", "pm2 stop 0"),
        ((SYSTEMD, one(30, 1, "python circusd c.ini"), one(99, 30, APP, 99)), "circusd", "circusctl stop NAME"),
        ((SYSTEMD, one(30, 1, "python honcho start"), one(40, 30, "sh -c x"), one(99, 40, APP)), "honcho", "kill 30"),
        ((SYSTEMD, one(30, 1, "runsv web", folder="/sv/web"), one(99, 30, APP)), "runsv", "sv down /sv/web"),
        ((SYSTEMD, one(30, 1, "s6-supervise w", folder="/w"), one(99, 30, APP, 99)), "s6-supervise", "s6-svc -d /w"),
        ((SYSTEMD, one(30, 1, "supervise-daemon w"), one(99, 30, APP)), "supervise-daemon", "rc-service w stop"),
    ],
)  # fmt: skip
def test_who_has_started_it_with_nothing_but_wrappers_between_is_its_supervisor(
    processes: tuple[MadeUp, ...], name: str, stop: str
) -> None:
    found = of(99, *processes)
    assert found is not None
    assert found.name == name
    assert found.stop.endswith(stop)


NOTEBOOK = one(40, 30, "python -m notebook", environ=PROGRAM)
TERMINAL = one(50, 40, "/bin/bash -l", 50, environ=PROGRAM)


@pytest.mark.parametrize(
    "processes",
    [
        (SYSTEMD, LOGIN, one(99, 5, APP, 5)),
        (SYSTEMD, one(99, 1, APP, 99)),
        # A notebook's terminal, where the variables are inherited.
        (SYSTEMD, SUPERVISORD, NOTEBOOK, TERMINAL, one(99, 50, APP, 50, environ=PROGRAM)),
        (SYSTEMD, SUPERVISORD, NOTEBOOK, one(50, 40, "bash -c x", 50), one(99, 50, APP, 50, environ=PROGRAM)),
        # Its orphan, adopted by pid 1: where that is supervisord, only the session tells.
        (SYSTEMD, SUPERVISORD, one(99, 1, APP, 50, environ=PROGRAM)),
        (one(1, 0, "supervisord"), one(99, 1, APP, 50, environ=PROGRAM)),
        (one(1, 0, "supervisord"), one(99, 1, APP, 99, environ=PROGRAM)),
        (one(1, 0, "node /usr/bin/pm2-runtime", environ=ANY), one(99, 1, APP, 50, environ={"pm_id": "1"})),
        (one(1, 0, "pm2"), one(99, 1, APP, 99)),
        # A job beside what the script waits for.
        (SYSTEMD, SUPERVISORD, one(40, 30, "bash run.sh"), one(50, 40, "jupyter"), one(99, 40, APP, background=True)),
        # Typed into an interactive shell, with the variable before it.
        (SYSTEMD, one(5, 1, "-bash", 5, environ=ANY), one(99, 5, APP, 5, environ=PROGRAM)),
    ],
)
def test_what_merely_runs_below_a_supervisor_or_was_adopted_by_it_is_not_supervised(
    processes: tuple[MadeUp, ...],
) -> None:
    assert of(99, *processes) is None


@pytest.mark.parametrize(
    "first",
    [
        "tini -- python webui.py",
        "/sbin/docker-init -- bash start.sh",
        "dumb-init bash",
        "sh -c run",
        "bash /entrypoint.sh",
        "python entrypoint.py",
        "python start_app.py",
    ],
)
@pytest.mark.parametrize("between", [False, True])
def test_what_pid_1_waits_for_ends_the_container(first: str, between: bool) -> None:
    init = one(1, 0, first)
    app = one(99, 7 if between else 1, APP)
    for launcher_above in (0, 200):  # from docker exec, or from a terminal of the container's own
        launcher = one(300, launcher_above, "python start_app.py", 300)
        terminal = one(200, 60, "bash -i", 200)
        jupyter = one(60, 7 if between else 1, "python -m jupyter", background=True)
        shell = one(7, 1, "bash start.sh")
        found = (
            of(99, init, shell, app, jupyter, terminal, launcher, own=300) if between else of(99, init, app, own=300)
        )
        assert found is not None
        assert found.name == f"pid 1, {init.name}"
        assert "restart the container" in found.hint
    assert of(1, init) is not None


@pytest.mark.parametrize(
    "processes",
    [
        # The entrypoint has started it beside what keeps the container alive.
        (one(1, 0, "bash /start.sh"), one(99, 1, APP, background=True), one(50, 1, "sleep infinity")),
        (one(1, 0, "sleep infinity"), one(99, 1, APP, background=True)),
        (one(1, 0, "tail -f /dev/null"), one(99, 1, APP)),
        (one(1, 0, "/usr/sbin/sshd -D"), one(99, 1, APP, 60)),
        # docker run -it IMAGE bash: somebody types there.
        (one(1, 0, "bash"), one(99, 1, APP)),
        (one(1, 0, "/bin/bash -l"), one(99, 1, APP)),
        # Adopted: in a session of its own, or younger than the one child that an init starts.
        (one(1, 0, "bash /start.sh"), one(50, 1, "sleep infinity"), one(99, 1, APP, 99)),
        (one(1, 0, "python -m jupyter"), one(99, 1, APP, 60)),
        (one(1, 0, "tini -- bash start.sh"), one(50, 1, "bash start.sh"), one(99, 1, APP)),
        (one(1, 0, "dumb-init bash start.sh"), one(50, 1, "bash start.sh", 50), one(99, 1, APP, 99)),
        # Of the same session, and younger than what pid 1 runs: left there by somebody who has ended.
        (one(1, 0, "bash /start.sh"), one(50, 1, "python train.py"), one(99, 1, APP)),
        (one(1, 0, "python entrypoint.py"), one(50, 1, "python train.py", background=True), one(99, 1, APP)),
    ],
)
def test_what_pid_1_does_not_wait_for_may_be_stopped(processes: tuple[MadeUp, ...]) -> None:
    assert of(99, *processes) is None


@pytest.mark.parametrize(
    "processes",
    [
        (one(1, 0, "bash /start.sh"), one(99, 1, APP), one(120, 1, "python left.py")),
        (one(1, 0, "bash /start.sh"), one(50, 1, "python api.py", background=True), one(99, 1, APP)),
        (one(1, 0, "bash /start.sh"), one(50, 1, "python api.py", background=True), one(99, 1, APP, background=True)),
        (one(1, 0, "python entrypoint.py"), one(50, 1, "python daemon.py", 50), one(99, 1, APP)),
    ],
)
def test_what_others_have_left_to_pid_1_does_not_hide_its_own_child(processes: tuple[MadeUp, ...]) -> None:
    found = of(99, *processes)
    assert found is not None and found.name.startswith("pid 1, ")


def test_the_script_that_runs_the_launcher_may_restart_its_own_app() -> None:
    script = (SYSTEMD, SUPERVISORD, one(40, 30, "bash run.sh"), one(99, 40, APP, background=True))
    assert of(99, *script, one(60, 40, "python start_app.py"), own=60) is None
    assert of(99, *script, one(50, 40, "bash -c x", background=True), own=50) is None
    # From elsewhere it is the supervisor's.
    assert of(99, *script, LOGIN, one(60, 5, "python start_app.py", 5), own=60) is not None
    # What is not below a script but a program of it does not count as run by it.
    jupyter = one(41, 40, "jupyter", background=True)
    assert of(99, *script, jupyter, one(60, 41, "python start_app.py"), own=60) is not None


LAUNCHER = "python start_app.py --background"
BOOT = "0::/system.slice/boot.service"


@pytest.mark.parametrize(
    ("processes", "name", "by_script"),
    [
        ((one(1, 0, "tini -- python start_app.py"), one(99, 1, LAUNCHER, 99)), "pid 1, tini", False),
        ((one(1, 0, "tini -- sh run.sh"), one(7, 1, "sh run.sh"), one(99, 7, LAUNCHER)), "pid 1, tini", True),
        ((one(1, 0, "bash start.sh"), one(99, 1, LAUNCHER)), "pid 1, bash", True),
        ((one(1, 0, "python entrypoint.py"), one(99, 1, LAUNCHER)), "pid 1, python", True),
        ((SYSTEMD, SUPERVISORD, one(99, 30, LAUNCHER, environ=PROGRAM)), "supervisord", False),
        ((SYSTEMD, SUPERVISORD, one(40, 30, "sh run.sh"), one(99, 40, LAUNCHER)), "supervisord", True),
        ((SYSTEMD, one(50, 1, "bash boot.sh", cgroup=BOOT), one(99, 50, LAUNCHER, cgroup=BOOT)), "boot.service", True),
        ((SYSTEMD, one(99, 1, LAUNCHER, 99, cgroup=BOOT)), "boot.service", False),
    ],
)  # fmt: skip
def test_what_ends_with_the_launcher_is_named(processes: tuple[MadeUp, ...], name: str, by_script: bool) -> None:
    found = starter(99, Box(*processes))
    assert found is not None
    assert (found.supervisor.name, found.by_script) == (name, by_script)


@pytest.mark.parametrize(
    "processes",
    [
        (SYSTEMD, LOGIN, one(99, 5, LAUNCHER, 5)),
        (SYSTEMD, one(50, 1, "cron", cgroup="0::/system.slice/cron.service"), one(99, 50, LAUNCHER, 99)),
        # A container that merely holds it goes on.
        (one(5, 0, "bash", 5), one(99, 5, LAUNCHER, 5, cgroup=f"0::/system.slice/docker-{'a' * 64}.scope")),
        (one(1, 0, "bash"), one(99, 1, LAUNCHER)),
        (one(1, 0, "sleep infinity"), one(99, 1, LAUNCHER, 99)),
        (SYSTEMD, SUPERVISORD, NOTEBOOK, TERMINAL, one(99, 50, LAUNCHER, 50, environ=PROGRAM)),
    ],
)
def test_what_goes_on_without_the_launcher_is_not(processes: tuple[MadeUp, ...]) -> None:
    assert starter(99, Box(*processes)) is None


UNIT = "0::/system.slice/web.service"
NOTEBOOKS = "9:name=systemd:/\n0::/system.slice/notebook.service"


def unit_member(pid: int, ppid: int, command: str, exec_pid: int | None = None, cgroup: str = UNIT) -> MadeUp:
    environ = {"INVOCATION_ID": "x"} if exec_pid is None else {"INVOCATION_ID": "x", "SYSTEMD_EXEC_PID": str(exec_pid)}
    return one(pid, ppid, command, 50, environ=environ, cgroup=cgroup)


JUPYTER = unit_member(50, 1, "python -m jupyter", 50)


@pytest.mark.parametrize(
    ("processes", "main"),
    [
        ((unit_member(99, 1, APP, 99),), True),
        ((unit_member(99, 1, APP),), True),  # before systemd 248
        ((unit_member(50, 1, "/bin/sh -c x", 50), unit_member(99, 50, APP, 50)), True),
        ((unit_member(50, 1, "uv run webui.py"), unit_member(99, 50, APP)), True),
        ((JUPYTER, unit_member(99, 50, APP, 50)), False),
        ((JUPYTER, unit_member(60, 50, "bash", 50), unit_member(99, 60, APP, 50)), False),
        ((JUPYTER, unit_member(99, 1, APP, 50)), False),  # an orphan of its terminal
        ((unit_member(50, 1, "python -m jupyter"), unit_member(99, 1, APP)), False),
        ((unit_member(99, 1, APP, 50),), True),  # it has made a daemon of itself, and its parent has ended
        # An orphan of the notebook server that ran before this one: KillMode=process.
        ((unit_member(99, 1, APP, 50), unit_member(100, 1, "python -m jupyter", 100)), False),
    ],
)  # fmt: skip
def test_only_the_main_process_of_a_unit_is_supervised(processes: tuple[MadeUp, ...], main: bool) -> None:
    for cgroup in (UNIT, NOTEBOOKS):
        members = [process.but(cgroup=cgroup) for process in processes]
        found = of(99, SYSTEMD, *members)
        assert (found is not None) is main
        # Our own unit is in nobody's way.
        assert of(99, SYSTEMD, *members, unit_member(70, 1, "python start_app.py", cgroup=cgroup), own=70) is None


def test_a_main_process_whose_cgroup_has_no_name_is_known_by_its_environment() -> None:
    def found(process: MadeUp, *between: MadeUp) -> Supervisor | None:
        return of(99, SYSTEMD, *between, process.but(cgroup="0::/"))

    main = unit_member(99, 1, APP, 99).but(session=99)
    assert found(main) is not None
    assert found(main.but(environ={"INVOCATION_ID": "x"})) is not None
    shell = unit_member(50, 1, "sh -c x", 50, "0::/")
    assert found(main.but(ppid=50, environ=shell.environ), shell) is not None
    assert found(main.but(session=50, environ={"INVOCATION_ID": "x"})) is None
    # Its own pid in the variable proves it, whoever its parent is; our own unit is in nobody's way.
    assert of(99, main.but(ppid=50, cgroup="0::/"), one(50, 1, "containerd-shim")) is not None
    launcher_ = one(60, 50, "python start_app.py", environ=main.environ)
    assert of(99, main.but(ppid=50, cgroup="0::/"), one(50, 1, "containerd-shim"), launcher_, own=60) is None
    assert found(unit_member(99, 1, APP, 50)) is None
    assert found(main.but(ppid=50, environ={"INVOCATION_ID": "x"}), LOGIN.but(pid=50)) is None
    assert found(unit_member(99, 50, APP, 40), LOGIN.but(pid=50)) is None


def hierarchy() -> Path:
    """Return where units' cgroups lie on this machine."""
    for folder in (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup")):
        if (folder / "cgroup.procs").exists():
            return folder
    pytest.skip("no cgroup hierarchy is mounted here")


@pytest.mark.slow
def test_an_instance_in_a_real_cgroup_of_a_unit_is_refused_with_that_units_commands(
    app: AppFolder, processes: Processes
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make a cgroup")
    unit = hierarchy() / f"start-app-test-{os.getpid()}.service"
    try:
        unit.mkdir()
    except OSError as error:
        pytest.skip(f"cgroups cannot be made here: {error.strerror}")
    running = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
    try:
        (unit / "cgroup.procs").write_text(str(running.pid))
        eventually(lambda: get(app.port), what=running.err)
        for command in ((), ("stop",), ("--take-port",), ("-n",)):
            done = launcher(*command, *app.arguments)
            assert done.status == 69, done.err
            assert f"pid {running.pid}, " in done.err
            assert f"runs inside {unit.name}" in done.err
            assert f"systemctl restart {unit.name}" in done.err
            assert f"systemctl stop {unit.name}" in done.err
        assert alive(running.pid)
        # The same from within that unit: its own instance is ours.
        script = (
            f"echo $$ > {unit}/cgroup.procs; exec {sys.executable} {START_APP} --no-launch {' '.join(app.arguments)}"
        )
        inside = subprocess.run(("bash", "-c", script), check=False, capture_output=True, text=True, timeout=60)
        assert inside.returncode == 0, inside.stderr
        assert f"terminated pid {running.pid}" in inside.stderr
    finally:
        running.process.kill()
        running.wait(5)
        eventually(lambda: not (unit / "cgroup.procs").read_text(), what="empty cgroup")
        unit.rmdir()


def test_an_instance_under_supervisord_is_refused(app: AppFolder, processes: Processes) -> None:
    # comm(5) of a script that the kernel runs by its first line is the script's name, as with the real supervisord.
    script = app.path.parent / "supervisord"
    script.write_text(
        f"#!{sys.executable}\nimport subprocess\n"
        f"subprocess.call(['bash', '-c', '{sys.executable} webui.py --port {app.port}; true'], cwd={str(app.path)!r})\n"
    )
    script.chmod(0o755)
    parent = processes.start((script,))
    eventually(lambda: get(app.port), what=parent.err)
    assert psutil.Process(parent.pid).name() == "supervisord"
    done = launcher("stop", *app.arguments)
    assert done.status == 69
    assert "runs inside supervisord" in done.err
    assert "supervisorctl stop" in done.err
    assert get(app.port)
