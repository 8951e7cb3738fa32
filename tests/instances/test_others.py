"""Another user's instance and another namespace's file are never ours; the same file in a namespace of its own is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.instances.proof import start_of
from launcher.instances.record import instance_name, read
from tests.support.apps import (
    START_APP,
    AppFolder,
    Processes,
    Running,
    alive,
    clean_environment,
    eventually,
    free_port,
    get,
    launcher,
    make_app,
    open_to_all,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user or in another namespace")
NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": ()}


def pythons_for_nobody(*needed: str) -> tuple[str, ...]:
    """Return the command of a Python that another user may run and that can import what is needed."""
    candidates = (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3")
    packages = Path(psutil.__file__).parent.parent
    for candidate in candidates:
        probe = (candidate, "-c", f"import sys; sys.path.append({str(packages)!r}); import {','.join(('os', *needed))}")
        with suppress(OSError):
            if subprocess.run(probe, check=False, capture_output=True, cwd="/", **NOBODY).returncode == 0:
                return (candidate,)
    pytest.skip(f"there is no Python here that another user may run with {needed or 'nothing more'}")


def as_nobody(app: AppFolder, processes: Processes, *arguments: str) -> Running:
    open_to_all(app.path)
    return processes.start((*pythons_for_nobody(), "webui.py", *arguments), cwd=app.path, **NOBODY)


@pytest.mark.slow
@as_root
@pytest.mark.parametrize("loading", [False, True])
def test_another_users_instance_is_named_and_never_stopped(loading: bool, app: AppFolder, processes: Processes) -> None:
    running = as_nobody(app, processes, "--port", str(app.port), *(("--load", "600") if loading else ()))
    running.hello()
    if not loading:
        eventually(lambda: get(app.port), what=running.err)
    for flags, status in (((), 69), (("--take-port",), 69)):
        done = launcher(*app.arguments, *flags)
        assert done.status == status
        assert f"this app's instance of another user: pid {running.pid}, user nobody, " in done.err
        assert f"hint: ask nobody, or kill {running.pid}; " in done.err
    status = launcher("status", "--json", *app.arguments).json
    assert status["state"] == "another user's"
    assert [other["pid"] for other in status["others"]] == [running.pid]
    assert launcher("stop", *app.arguments).status == 69
    assert alive(running.pid)


@pytest.mark.slow
@as_root
def test_another_users_process_on_the_port_is_never_taken(app: AppFolder, processes: Processes, tmp_path: Path) -> None:
    other = AppFolder(make_app(tmp_path / "other").path, app.port)
    running = as_nobody(other, processes, "--port", str(app.port))
    eventually(lambda: get(app.port), what=running.err)
    assert launcher(*app.arguments).status == 69
    done = launcher("--take-port", *app.arguments)
    assert done.status == 77
    assert "another user's process is never stopped" in done.err
    assert alive(running.pid)


@pytest.mark.slow
@as_root
def test_an_ordinary_user_is_told_whose_hidden_process_holds_the_port(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    open_to_all(tmp_path)
    shutil.copytree(START_APP.parent / "launcher", copy / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(START_APP, copy)
    shutil.copy(app.script, copy)
    root_owned = processes.start((sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), what="page")
    packages = Path(psutil.__file__).parent.parent
    python_command = pythons_for_nobody("psutil", "dotenv")
    env = clean_environment(PYTHONPATH=str(packages))
    start_app = copy / "start_app.py"
    done = launcher("--port", str(app.port), python=python_command, start_app=start_app, cwd=copy, env=env, **NOBODY)
    assert done.status == 69
    assert "by a process that cannot be seen from here, user root" in done.err
    assert alive(root_owned.pid)


@as_root
@pytest.mark.parametrize("inside", [False, True], ids=["here", "in a container"])
def test_a_loading_app_of_another_user_that_hides_its_file_keeps_its_port(
    inside: bool, app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    open_to_all(tmp_path)
    shutil.copytree(START_APP.parent / "launcher", copy / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(START_APP, copy)
    shutil.copy(app.script, copy)
    container = ("unshare", "--pid", "--fork", "--kill-child") if inside else ()
    words = (*container, sys.executable, "webui.py", "--port", str(app.port), "--load", "600")
    other = processes.start(words, cwd=copy)
    other.hello()
    env = clean_environment(PYTHONPATH=str(Path(psutil.__file__).parent.parent))
    python_command = pythons_for_nobody("psutil", "dotenv")
    call = {"python": python_command, "start_app": copy / "start_app.py", "cwd": copy, "env": env, **NOBODY}
    done = launcher("--port", str(app.port), "-n", **call)
    if inside:
        assert done.status == 0, done.err  # its port is another one, as far as can be seen
        return
    assert done.status == 69
    assert f"port {app.port} belongs to a webui.py of another user: pid {other.pid}, user root, " in done.err
    assert launcher("--port", str(free_port()), "-n", **call).status == 0
    assert launcher("status", "--port", str(app.port), "--json", **call).json["state"] == "another user's"
    assert alive(other.pid)


def namespaced(app: AppFolder, processes: Processes, setup: str, script_argument: object = "webui.py") -> Running:
    script = f"set -e\n{setup}\ncd {app.path}\nexec {sys.executable} {script_argument} --port {app.port}"
    command = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script)
    if subprocess.run(("unshare", "--mount", "--pid", "--fork", "true"), check=False).returncode:
        pytest.skip("namespaces cannot be made here")
    running = processes.start(command)
    eventually(lambda: get(app.port), what=running.err)
    return running


def below(running: Running) -> int:
    """Return the pid, as seen from here, of the app within its namespace."""
    return psutil.Process(running.pid).children(recursive=True)[-1].pid


@as_root
@pytest.mark.parametrize("shape", ["folder", "behind an absolute link"])
def test_a_container_with_the_same_paths_and_another_file_is_not_ours(
    shape: str, app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    other = make_app(tmp_path / "other")
    inside = AppFolder(app.path, app.port)
    if shape == "behind an absolute link":
        # The kernel would follow this absolute link in *our* root, and find our file.
        real = app.path.rename(tmp_path / "real")
        app.path.symlink_to(real)
        running = namespaced(inside, processes, f"mount --bind {other.path} {real}", app.script)
    else:
        running = namespaced(inside, processes, f"mount --bind {other.path} {app.path}")
    pid = below(running)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert "not running" in done.err
    assert alive(pid)
    refused = launcher(*app.arguments)
    assert refused.status == 69
    assert f"by pid {pid}, " in refused.err
    assert alive(pid)


@pytest.mark.slow
@as_root
def test_a_process_with_namespaces_of_its_own_that_runs_our_file_is_ours(app: AppFolder, processes: Processes) -> None:
    running = namespaced(app, processes, ":")
    pid = below(running)
    forked = processes.start(("nsenter", "--target", str(pid), "--pid", "sleep", "600"))
    (stranger,) = eventually(lambda: psutil.Process(forked.pid).children(), what="a process in the namespace")
    done = launcher("stop", *app.arguments)
    assert (done.status, alive(pid)) == (69, True)
    assert f"is pid 1 of a pid namespace, and pid {stranger.pid} there would end with it" in done.err
    stranger.kill()
    forked.wait()
    done = launcher("stop", *app.arguments)
    assert done.status == 0, done.err
    assert f"stopping: pid {pid}, " in done.err
    eventually(lambda: not alive(pid), what="end")


@pytest.mark.slow
@as_root
def test_a_record_that_another_user_may_have_written_lets_nobody_stop_a_process(
    app: AppFolder, processes: Processes
) -> None:
    lock = app.path / ".start_app" / instance_name(app.port)
    assert launcher(*app.arguments, "--", "--exit", "0").status == 0
    record = read(lock)
    assert record
    code = "import fcntl, sys, time; file = open(sys.argv[1], 'r+'); fcntl.flock(file, 2); print('{}', flush=True)"
    daemon = processes.start((sys.executable, "-c", f"{code}; time.sleep(600)", str(lock)))
    daemon.hello()
    lock.write_bytes(record._replace(pid=daemon.pid, start=start_of(daemon.pid) or 0.0).line())
    for path in (app.path, lock.parent, lock):
        os.chown(path, NOBODY["user"], NOBODY["group"])
    for command in (("stop",), ("--no-launch",), ("-n",)):
        done = launcher(*command, *app.arguments)
        assert (done.status, alive(daemon.pid)) == (69, True), done.err
        assert f"{lock} names pid {daemon.pid}, " in done.err


@as_root
def test_an_instance_of_ours_in_another_users_folder_is_known_by_its_marker(
    app: AppFolder, processes: Processes
) -> None:
    os.chown(app.path, NOBODY["user"], NOBODY["group"])
    running = processes.launch(*app.arguments, "--", "--load", "600")
    running.hello()
    assert (app.path / ".start_app" / instance_name(app.port)).stat().st_uid == NOBODY["user"]
    done = launcher("--no-launch", "-v", *app.arguments)
    assert done.status == 0, done.err
    assert f"pid {running.pid}: a launcher started it for port {app.port}" in done.err
