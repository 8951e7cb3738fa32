"""An instance that somebody else would start again is left, and the command that really stops it is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from launcher.instances.supervisor import supervisor
from tests.support.apps import START_APP, AppFolder, Processes, alive, eventually, get, launcher

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
    found = supervisor(cgroup, "0::/user.slice/user-0.slice/session-3.scope", ["bash"])
    assert found is not None
    assert (found.name, found.stop_command) == (name, command)
    assert supervisor(cgroup, cgroup, ["bash"]) is None  # our own unit is no stranger


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
    assert supervisor(cgroup, "0::/system.slice/other.service", ["bash"]) is None


@pytest.mark.parametrize(
    ("parent", "command"), [("supervisord", "supervisorctl"), ("runsv", "sv down"), ("PM2 v5.3.0: God Daemon", "pm2")]
)
def test_a_supervisor_without_cgroups_is_known_by_its_name(parent: str, command: str) -> None:
    found = supervisor("0::/", "0::/", ["bash", parent, "systemd"])
    assert found is not None
    assert command in found.stop_command


def hierarchy() -> Path:
    """Return where units' cgroups lie on this machine."""
    for folder in (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup")):
        if (folder / "cgroup.procs").exists():
            return folder
    pytest.skip("no cgroup hierarchy is mounted here")


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
