"""How an instance is ended: whole, gently first, without a wasted wait, and with the port proved free."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from launcher.instances import process as looks
from launcher.instances.app_arguments import Told
from launcher.instances.family import Bounds
from launcher.instances.match import Verdict
from launcher.instances.pidfd import Handle
from launcher.instances.stop import relatives_of, stop
from launcher.instances.survey import Instance, Survey
from launcher.instances.table import ProcessTable
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
)

# A child that is neither Python nor in the app's command line, as Gradio's node is.
TREE = """
import subprocess, sys
child = subprocess.Popen(["bash", "-c", "sleep 600 & wait"])
open("children", "w").write(str(child.pid))
"""


def start(app: AppFolder, processes: Processes, *arguments: str, prefix: str = "") -> Running:
    if prefix:
        app.script.write_text(prefix + app.script.read_text())
    running = processes.start((sys.executable, "webui.py", "--port", str(app.port), *arguments), cwd=app.path)
    eventually(lambda: get(app.port), what=running.err)
    return running


def test_an_instance_that_dies_at_once_costs_no_wait(app: AppFolder, processes: Processes) -> None:
    running = start(app, processes)
    handle = looks.look(running.pid)
    assert handle is not None
    (stopped,) = stop((handle,), timeout=30, spare=frozenset(), say=print)
    assert running.wait(1) == -signal.SIGTERM
    assert not stopped.killed
    assert stopped.seconds < 5  # thirty would be the time-out


@pytest.mark.parametrize("runs", [True, False])
def test_what_runs_the_app_below_its_wrapper_goes_however_young_it_is(runs: bool, processes: Processes) -> None:
    child = "import time; print('up', flush=True); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    running = processes.start((sys.executable, "-c", parent))
    eventually(lambda: "up" in running.out, what="the child")
    wrapper = looks.look(running.pid)
    app = looks.look(psutil.Process(running.pid).children()[0].pid)
    assert wrapper and app
    instance = Instance(
        wrapper, (app,) if runs else (), (wrapper.pid, app.pid), Told(), frozenset(), Verdict("stale", "a test says so")
    )
    bounds = Bounds((), os.getpid(), os.geteuid())
    survey = Survey(1, (instance,), (), (), (), None, (), bounds)
    family = relatives_of(survey)(wrapper, frozenset((wrapper.pid,)), ProcessTable())
    assert [process.pid for process in family] == ([app.pid] if runs else [])
    processes.end_also(app.pid)


def test_the_whole_tree_goes(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(TREE + app.script.read_text())
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what=running.err)
    below = psutil.Process(running.pid).children(recursive=True)
    assert len(below) == 2
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert f"terminated pid {running.pid} and 2 below it" in done.err
    assert not any(alive(process.pid) for process in below)


def test_an_instance_that_ignores_sigterm_is_killed_after_the_time_out(app: AppFolder, processes: Processes) -> None:
    running = start(app, processes, "--ignore-term")
    begun = time.monotonic()
    done = launcher("stop", *app.arguments, "--stop-timeout", "0.5")
    assert done.status == 0
    assert time.monotonic() - begun >= 0.5
    assert running.wait(1) == -signal.SIGKILL
    assert f"killed pid {running.pid} (still there after 0.5 s)" in done.err


@pytest.mark.slow
def test_children_that_fork_while_they_are_killed_are_swept(app: AppFolder, processes: Processes) -> None:
    forking = """
import os, signal, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def spawn():
    for _ in range(200):
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        with open("children", "a") as file:
            file.write(f"{pid}\\n")
        time.sleep(0.01)
threading.Thread(target=spawn, daemon=True).start()
"""
    running = start(app, processes, prefix=forking)
    done = launcher("stop", *app.arguments, "--stop-timeout", "0.3")
    children = [processes.end_also(int(line)) for line in (app.path / "children").read_text().split()]
    assert done.status == 0
    assert running.wait(1) == -signal.SIGKILL
    assert children
    assert not [pid for pid in children if alive(pid)]


def test_what_a_dying_parent_forks_last_is_swept(app: AppFolder, processes: Processes) -> None:
    last_words = """
import os, signal, sys, time
def forking(number, frame):
    pid = os.fork()
    if pid:
        open("child", "w").write(str(pid))
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(600)
signal.signal(signal.SIGTERM, forking)
"""
    start(app, processes, prefix=last_words)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    child = processes.end_also(int((app.path / "child").read_text()))
    assert not alive(child)
    assert get(app.port) is None


def test_a_stranger_that_a_dying_session_leader_starts_last_is_swept(app: AppFolder, processes: Processes) -> None:
    # Its parent is dead and its command line says nothing: only the session that it inherited gives it away.
    last_words = """
import os, signal, subprocess
def starting(number, frame):
    child = subprocess.Popen(["sleep", "600"])
    open("child", "w").write(str(child.pid))
    os._exit(0)
signal.signal(signal.SIGTERM, starting)
"""
    app.script.write_text(last_words + app.script.read_text())
    command = (sys.executable, "webui.py", "--port", str(app.port))
    running = processes.start(command, cwd=app.path, start_new_session=True)
    eventually(lambda: get(app.port), what=running.err)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    child = processes.end_also(int((app.path / "child").read_text()))
    assert not alive(child)


def test_the_other_side_of_a_pipe_is_left(app: AppFolder, processes: Processes) -> None:
    # An interactive shell gives a pipeline one process group, which its first process leads; what the other side does
    # when the pipe closes comes after the stop has begun.
    slow = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(0)))\n"
    app.script.write_text(slow + app.script.read_text())
    command = (sys.executable, "webui.py", "--port", str(app.port))
    running = processes.start(command, cwd=app.path, preexec_fn=os.setpgrp)
    eventually(lambda: get(app.port), what=running.err)
    loop = "trap 'exit 3' TERM; for i in $(seq 600); do sleep 0.1 || exit 4; echo $i; done"
    other_side = processes.start(("bash", "-c", loop), preexec_fn=lambda: os.setpgid(0, running.pid))
    eventually(lambda: other_side.out, what="loop")
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert running.wait(1) == 0
    before = other_side.out
    eventually(lambda: other_side.out != before, what="the loop to go on")
    assert "below it" not in done.err


def test_a_worker_that_keeps_the_port_after_its_parents_death_is_stopped(app: AppFolder, processes: Processes) -> None:
    running = start(app, processes, "--worker")
    (worker,) = eventually(lambda: psutil.Process(running.pid).children(), what="worker")
    running.process.kill()
    running.wait(5)
    processes.end_also(worker.pid)
    assert get(app.port) == f"pid {worker.pid}"
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert f"stopping: pid {worker.pid}, " in done.err
    assert not alive(worker.pid)
    assert get(app.port) is None


def test_a_suspended_instance_ends_without_the_time_out(app: AppFolder, processes: Processes) -> None:
    running = start(app, processes)
    running.process.send_signal(signal.SIGSTOP)
    eventually(lambda: psutil.Process(running.pid).status() == psutil.STATUS_STOPPED, what="stop")
    done = launcher("stop", *app.arguments, "--stop-timeout", "30", timeout=15)
    assert done.status == 0
    assert running.wait(1) == -signal.SIGTERM


def test_an_unreaped_instance_counts_as_gone(app: AppFolder, processes: Processes) -> None:
    # Its parent, this test, does not wait for it: it stays a zombie all through the stop.
    running = start(app, processes)
    done = launcher("stop", *app.arguments, "--stop-timeout", "30", timeout=15)
    assert done.status == 0
    assert psutil.Process(running.pid).status() == psutil.STATUS_ZOMBIE


def test_stop_is_idempotent(app: AppFolder, processes: Processes) -> None:
    start(app, processes)
    assert "terminated" in launcher("stop", *app.arguments).err
    for _ in range(2):
        done = launcher("stop", *app.arguments)
        assert (done.status, done.out) == (0, "")
        assert done.err == f"not running: no instance of {app.script} on port {app.port}\n"


def test_stop_tells_in_json_what_it_did(app: AppFolder, processes: Processes) -> None:
    running = start(app, processes)
    (stopped,) = launcher("stop", "--json", *app.arguments).json["stopped"]
    assert stopped["pid"] == running.pid
    assert stopped["killed"] is False
    assert launcher("stop", "--json", *app.arguments).json == {"version": 1, "stopped": []}


def test_a_dry_stop_stops_nothing(app: AppFolder, processes: Processes) -> None:
    running = start(app, processes)
    done = launcher("stop", "-n", *app.arguments)
    assert done.status == 0
    assert done.out.startswith(f"would terminate pid {running.pid}, ")
    assert alive(running.pid)
    assert not (app.path / ".start_app").exists()


def test_stop_leaves_a_stranger_on_the_port(app: AppFolder, processes: Processes) -> None:
    server = processes.start((sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), what="page")
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert "not running" in done.err
    assert alive(server.pid)


def test_take_port_stops_a_stranger_of_the_same_user(app: AppFolder, processes: Processes) -> None:
    server = processes.start((sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), what="page")
    done = launcher("--take-port", "--no-launch", *app.arguments)
    assert done.status == 0
    assert f"taking the port from: pid {server.pid}, " in done.err
    assert server.wait(5) == -signal.SIGTERM


@pytest.mark.slow
def test_take_port_leaves_another_instance_below_the_holder_and_names_the_rest(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    other = make_app(tmp_path / "other")
    script = (
        "import socket, subprocess, sys, time\n"
        f"held = socket.create_server(('127.0.0.1', {app.port}))\n"
        f"subprocess.Popen({[sys.executable, str(START_APP), *other.arguments]!r}, start_new_session=True)\n"
        "job = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print('job', job.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    holder = processes.start((sys.executable, "-c", script))
    eventually(lambda: get(other.port), what="the other app")
    found = eventually(lambda: re.search(r"job (\d+)", holder.out), what="job")
    assert found
    job = int(found[1])
    pid = int(str(get(other.port)).split()[1])
    try:
        plan = launcher("--take-port", "-n", *app.arguments)
        assert f"would terminate pid {job}, sleep 600, " in plan.out
        assert f"pid {pid}, " not in plan.out
        assert launcher("--take-port", "--no-launch", *app.arguments).status == 0
        assert (alive(job), alive(pid)) == (False, True)
    finally:
        psutil.Process(pid).kill()


def test_take_port_never_stops_what_the_launcher_runs_below(app: AppFolder, processes: Processes) -> None:
    words = [sys.executable, str(START_APP), "--take-port", "--no-launch", *app.arguments]
    script = (
        "import socket, subprocess, sys, time\n"
        f"held = socket.create_server(('127.0.0.1', {app.port}))\n"
        f"done = subprocess.run({words!r}, capture_output=True, text=True)\n"
        "print('status', done.returncode, done.stderr, flush=True)\n"
        "time.sleep(600)\n"
    )
    holder = processes.start((sys.executable, "-c", script))
    eventually(lambda: "hint:" in holder.out, what="refusal")
    assert "status 69" in holder.out
    assert "but the launcher runs below it" in holder.out
    assert alive(holder.pid)


def test_something_that_starts_again_and_again_ends_in_75(app: AppFolder, processes: Processes) -> None:
    # A phoenix: before it dies of SIGTERM, it leaves a fork of itself in a session of its own.
    phoenix = """
import os, signal, time
def rise(number, frame):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # Python drops what comes right after a fork
    pid = os.fork()
    if pid:
        with open("children", "a") as file:
            file.write(f"{pid}\\n")
        os._exit(0)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
signal.signal(signal.SIGTERM, rise)
print("{}", flush=True)
while True:
    time.sleep(600)
"""
    app.script.write_text(phoenix)
    for _ in range(20):
        running = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
        running.hello()
        done = launcher("--no-launch", *app.arguments)
        for line in (app.path / "children").read_text().split():
            processes.end_also(int(line))
        if "and 1 below it" not in done.err:
            break  # else a fork was seen before its setsid, and went with its parent: nothing started again
    assert done.status == 75
    assert "as fast as they are stopped" in done.err
    assert "hint:" in done.err


def test_another_users_process_below_an_instance_is_left_and_named(app: AppFolder, processes: Processes) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to start a child as another user")
    other = 'import subprocess\nsubprocess.Popen(["sleep", "600"], user=65534, group=65534, extra_groups=())\n'
    running = start(app, processes, prefix=other)
    (child,) = psutil.Process(running.pid).children()
    processes.end_also(child.pid)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert f"left: pid {child.pid}, user nobody, sleep 600" in done.err
    assert alive(child.pid)


@pytest.mark.slow
def test_an_instance_below_another_one_on_another_port_is_another_instance(
    app: AppFolder, processes: Processes
) -> None:
    # One app that starts the same app on a second port: each goes without the other.
    second = free_port()
    child = f"""
import subprocess, sys
if '{second}' not in sys.argv:
    child = subprocess.Popen([sys.executable, 'webui.py', '--port', '{second}'])
"""
    app.script.write_text(child + app.script.read_text())
    for stop_first in (second, app.port):
        running = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
        eventually(lambda: get(app.port) and get(second), what=running.err)
        (below,) = psutil.Process(running.pid).children()
        processes.end_also(below.pid)
        done = launcher("stop", "--app-dir", app.path, "--port", str(stop_first))
        assert done.status == 0
        assert f"terminated pid {below.pid if stop_first == second else running.pid} (" in done.err
        assert bool(get(app.port)) is (stop_first == second)
        assert bool(get(second)) is (stop_first != second)
        launcher("stop", *app.arguments)
        launcher("stop", "--app-dir", app.path, "--port", str(second))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_an_interrupt_while_killing_leaves_nothing_half_killed(
    number: signal.Signals, status: int, app: AppFolder, processes: Processes
) -> None:
    # Enough processes that the freezing takes a while; the interrupt comes at the first one that is frozen.
    many = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(250):
    if os.fork() == 0:
        time.sleep(600)
"""
    running = start(app, processes, prefix=many)
    tree = [running.pid, *(child.pid for child in psutil.Process(running.pid).children())]
    stopping = processes.start((sys.executable, START_APP, "stop", "--stop-timeout", "0.2", *app.arguments))

    def frozen() -> bool:
        return any(seen.state == "T" for pid in tree if (seen := looks.look(pid)))

    eventually(lambda: frozen() or stopping.process.poll() is not None, what="a frozen process")
    stopping.process.send_signal(number)
    assert stopping.wait(20) in (status, 0)  # 0 where the kill was over before the signal came
    eventually(lambda: not any(alive(pid) for pid in tree), what="the end of all")


@pytest.mark.parametrize("pidfd", [True, False])
def test_a_signal_never_reaches_a_process_that_only_has_the_pid(pidfd: bool, processes: Processes) -> None:
    stranger = processes.start(("sleep", "600"))
    seen = eventually(lambda: looks.look(stranger.pid), what="look")
    earlier = seen._replace(start=seen.start - 1)
    handle = Handle(earlier, pidfd=pidfd)
    handle.send(signal.SIGKILL)
    assert handle.ended()
    assert handle.reused()
    assert alive(stranger.pid)
    handle.close()


@pytest.mark.parametrize("ignores", [False, True])
def test_a_python_without_pidfd_stops_as_well(
    ignores: bool, app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; del os.pidfd_open")
    running = start(app, processes, *(("--ignore-term",) if ignores else ()))
    env = clean_environment(PYTHONPATH=str(tmp_path))
    done = launcher("stop", *app.arguments, "--stop-timeout", "0.5" if ignores else "30", env=env, timeout=15)
    assert done.status == 0
    assert running.wait(1) == -(signal.SIGKILL if ignores else signal.SIGTERM)
