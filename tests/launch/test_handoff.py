"""From the launcher to the app: the lock that says it runs, and an exec that leaves nothing of the launcher behind."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from launcher.instances.record import instance_name, launch_name, read
from launcher.system import lock as locks
from launcher.system import state
from tests.support.apps import START_APP, AppFolder, Processes, alive, clean_environment, eventually, get, launcher

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount or to act as another user")


def test_the_app_has_the_launchers_pid_streams_and_nothing_more(app: AppFolder, processes: Processes) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"for the app")
    os.close(write_end)
    app.script.write_text("import sys\nprint('stdin', sys.stdin.read(), flush=True)\n" + app.script.read_text())
    running = processes.launch(*app.arguments, stdin=read_end)
    hello = running.hello()
    assert hello["pid"] == running.pid
    assert hello["cwd"] == str(app.path)
    assert hello["env"]["PWD"] == str(app.path)
    assert "stdin for the app" in running.out
    files = {int(fd): link for fd, link in hello["fds"].items() if int(fd) > 2 and not link.startswith("/proc/")}
    assert list(files.values()) == [str(app.path / ".start_app" / f"instance-{app.port}.lock")]
    os.close(read_end)


def test_descriptors_that_the_caller_passed_reach_the_app(app: AppFolder, processes: Processes) -> None:
    read_end, write_end = os.pipe()
    running = processes.launch(*app.arguments, pass_fds=(read_end,))
    assert running.hello()["fds"][str(read_end)].startswith("pipe:")
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("status", [0, 1, 3, 69, 137])
def test_the_exit_status_is_the_apps(status: int, app: AppFolder) -> None:
    assert launcher(*app.arguments, "--", "--exit", str(status)).status == status


def test_a_signal_reaches_the_app_and_kills_it_as_itself(app: AppFolder, processes: Processes) -> None:
    for number, status in ((signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0), (signal.SIGHUP, -signal.SIGHUP)):
        running = processes.launch(*app.arguments)
        eventually(lambda: get(app.port), what=running.err)
        running.process.send_signal(number)
        assert running.wait(5) == status


def test_signals_are_left_as_the_caller_had_them(app: AppFolder, processes: Processes) -> None:
    app.script.write_text("print(open('/proc/self/status').read())")
    shell = processes.start(
        ("bash", "-c", f"trap '' HUP; exec {sys.executable} {START_APP} {' '.join(app.arguments)}"), cwd=app.path
    )
    assert shell.wait() == 0
    ignored = int(next(line for line in shell.out.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    assert ignored & 1 << (signal.SIGHUP - 1)
    plain = processes.launch(*app.arguments)
    assert plain.wait() == 0
    ignored = int(next(line for line in plain.out.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    assert not ignored & 1 << (signal.SIGHUP - 1)


def test_the_signals_that_python_ignores_for_itself_are_not_ignored_in_the_app(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    # A Python would ignore SIGPIPE again; what it is started as shows only in an interpreter that is a shell script.
    interpreter = tmp_path / "python3"
    interpreter.write_text("#!/bin/sh\nexec grep SigIgn /proc/self/status\n")
    interpreter.chmod(0o755)
    running = processes.launch(*app.arguments, "--python", interpreter)
    assert running.wait() == 0
    internal = 0b11 << 31  # 32 and 33 are the C library's own
    assert int(running.out.split()[1], 16) & ~internal == 0


def test_the_lock_is_held_exactly_as_long_as_the_app_lives(app: AppFolder, processes: Processes) -> None:
    running = processes.launch(*app.arguments, "--", "--load", "600")
    running.hello()
    path = app.path / ".start_app" / f"instance-{app.port}.lock"
    assert next(locks.held(app.path, path.name), None) == path
    assert locks.holds(running.pid, path)
    assert locks.holders(path) == (running.pid,)
    running.process.kill()
    running.wait(5)
    assert next(locks.held(app.path, path.name), None) is None


def test_a_child_of_the_app_does_not_keep_the_lock(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(
        "import subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\nprint(child.pid, flush=True)\ntime.sleep(600)"
    )
    running = processes.launch(*app.arguments)
    child = processes.end_also(int(eventually(lambda: running.out, what="child")))
    running.process.kill()
    running.wait(5)
    assert alive(child)
    assert next(locks.held(app.path, instance_name(app.port)), None) is None


@pytest.mark.slow
def test_what_the_app_started_through_a_shell_keeps_the_lock_and_is_no_instance(
    app: AppFolder, processes: Processes
) -> None:
    # C's system() closes nothing: a daemon that the app started has its lock. Without its environment, and with no
    # parent, nothing else proves whose it is.
    app.script.write_text("import os\nos.system('env -i setsid sleep 600 & echo $!')\n" + app.script.read_text())
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what=running.err)
    daemon = processes.end_also(int(running.out.split()[0]))
    path = app.path / ".start_app" / instance_name(app.port)
    assert locks.holds(daemon, path)

    replaced = processes.launch(*app.arguments)
    eventually(lambda: get(app.port) == f"pid {replaced.pid}", what=replaced.err)
    assert running.wait() == -signal.SIGTERM
    assert f"left: pid {daemon}, sleep 600" in replaced.err
    assert alive(daemon)
    assert app.lock_holder() == replaced.pid
    processes.end_also(int(replaced.out.split()[0]))

    replaced.process.kill()
    replaced.wait(5)
    document = launcher("status", "--json", *app.arguments).json
    assert document["state"] == "not running"
    assert "not running" in launcher("stop", *app.arguments).err
    assert launcher("wait", "--timeout", "0.2", *app.arguments).status == 75
    last = processes.launch(*app.arguments, "--", "--exit", "0")
    assert last.wait() == 0
    processes.end_also(int(last.out.split()[0]))
    assert alive(daemon)


def test_the_record_names_the_instance_without_secrets(app: AppFolder, processes: Processes) -> None:
    token = "hf_" + "b" * 34
    app.script.write_text("import time; time.sleep(600)")
    env = clean_environment(HF_TOKEN=token)
    running = processes.launch(*app.arguments, "--", "--auth", "me:secret", f"--hf-token={token}", env=env)
    path = app.path / ".start_app" / f"instance-{app.port}.lock"
    record = eventually(lambda: read(path), what="record")
    assert record is not None
    eventually(lambda: psutil.Process(running.pid).cmdline()[1:2] == ["webui.py"], what="exec")
    assert record.pid == running.pid
    assert record.port == app.port
    assert record.app_dir == str(app.path)
    text = path.read_text()
    assert token not in text
    assert "secret" not in text
    assert token not in running.err
    assert "me:secret" not in running.err
    assert list(record.argv[-3:]) == ["--auth", "***", "--hf-token=***"]


def test_the_state_folder_ignores_itself_in_git(app: AppFolder, processes: Processes) -> None:
    subprocess.run(("git", "init", "-q", app.path), check=True)
    processes.launch(*app.arguments).hello()
    listed = subprocess.run(
        ("git", "-C", app.path, "status", "--porcelain"), check=True, capture_output=True, text=True
    ).stdout
    assert ".start_app" not in listed


@pytest.mark.parametrize(
    "environment",
    [{}, {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "XDG_STATE_HOME": "/nonexistent", "XDG_RUNTIME_DIR": "/x"}],
)
def test_shell_cron_and_a_unit_with_private_folders_agree_on_the_place(
    environment: dict[str, str], app: AppFolder, processes: Processes
) -> None:
    # Cron and systemd give next to no environment, and a unit may have a /var/tmp of its own.
    command: tuple[str | Path, ...] = (sys.executable, START_APP, *app.arguments)
    if os.geteuid() == 0 and not subprocess.run(("unshare", "--mount", "true"), check=False).returncode:
        words = " ".join(map(str, command))
        command = ("/usr/bin/unshare", "--mount", "/bin/bash", "-c", f"mount -t tmpfs none /var/tmp; exec {words}")
    running = processes.start(command, env=environment, cwd=Path("/"))
    running.hello()
    assert app.lock_holder() == running.pid
    done = launcher("--no-launch", *app.arguments)
    assert done.status == 0, done.err
    assert f"terminated pid {running.pid}" in done.err


def test_a_launcher_killed_while_it_replaced_a_lock_stops_nobody(app: AppFolder) -> None:
    lock = locks.open_lock(app.path, instance_name(app.port))
    lock.path.with_name(f"{lock.path.name}.new").write_text("half")
    lock.replace()
    assert next(locks.held(app.path, lock.path.name), None) == lock.path
    assert sorted(path.name for path in lock.path.parent.iterdir()) == [".gitignore", lock.path.name]
    lock.close()


def test_two_launchers_at_once_leave_one_app(app: AppFolder, processes: Processes) -> None:
    first = processes.launch(*app.arguments)
    second = processes.launch(*app.arguments)
    eventually(lambda: any(r.process.poll() is not None for r in (first, second)), what="one of them to be replaced")
    survivor = first if second.process.poll() is not None else second
    replaced = second if survivor is first else first
    eventually(lambda: get(app.port) == f"pid {survivor.pid}", what="page")
    assert replaced.wait() == -signal.SIGTERM
    assert f"terminated pid {replaced.pid}" in survivor.err


@pytest.mark.slow
def test_many_launchers_at_once_leave_one_app_and_never_two(app: AppFolder, processes: Processes) -> None:
    log = app.path / "log"
    app.script.write_text(
        "import fcntl, os\n"
        "mark = open('mark', 'w')\n"
        "try:\n    fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        f"except BlockingIOError:\n    open({str(log)!r}, 'a').write('two at once\\n')\n" + app.script.read_text()
    )
    started = [processes.launch(*app.arguments) for _ in range(8)]
    eventually(lambda: sum(r.process.poll() is None for r in started) == 1, timeout=60, what="one left")
    (survivor,) = (r for r in started if r.process.poll() is None)
    eventually(lambda: get(app.port) == f"pid {survivor.pid}", what="page")
    assert not log.exists()
    assert {r.wait() for r in started if r is not survivor} == {-signal.SIGTERM}


@pytest.mark.slow
def test_a_launcher_that_finds_another_at_work_gives_up_after_a_bound(app: AppFolder) -> None:
    lock = locks.open_lock(app.path, launch_name(app.port))
    assert lock.acquire(0)
    begun = time.monotonic()
    done = launcher(*app.arguments, "--stop-timeout", "0", env=clean_environment(), timeout=60)
    lock.close()
    assert done.status == 75
    assert 19 < time.monotonic() - begun < 40
    assert f"another launcher is at work on port {app.port}" in done.err
    assert "hint: " in done.err


@pytest.mark.slow
@as_root
def test_launchers_with_locks_in_different_folders_meet(app: AppFolder, processes: Processes) -> None:
    # One of them sees the app's folder read-only, as in a unit with ProtectSystem=strict.
    if subprocess.run(("unshare", "--mount", "true"), check=False).returncode:
        pytest.skip("mount namespaces cannot be made here")
    words = f"{sys.executable} {START_APP} {' '.join(app.arguments)}"
    confined = f"mount --bind {app.path} {app.path}; mount -o remount,ro,bind {app.path}; exec {words}"
    slow = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(0)))\n"
    app.script.write_text(slow + app.script.read_text())
    for _ in range(3):
        old = processes.launch(*app.arguments)
        eventually(lambda: get(app.port) == f"pid {old.pid}", what=old.err)  # noqa: B023
        both = [
            processes.start(("unshare", "--mount", "bash", "-c", confined)),
            processes.launch(*app.arguments),
        ]
        eventually(lambda: sum(r.process.poll() is None for r in both) == 1, timeout=30, what="one left")  # noqa: B023
        (survivor,) = (r for r in both if r.process.poll() is None)
        eventually(lambda: get(app.port) == f"pid {survivor.pid}", what=survivor.err)  # noqa: B023
        assert launcher("stop", *app.arguments).status == 0


def test_a_probe_of_the_lock_is_not_taken_for_a_launcher(app: AppFolder) -> None:
    lock = locks.open_lock(app.path, launch_name(app.port))
    assert lock.acquire(0)
    timer = threading.Timer(0.05, lock.close)
    timer.start()
    done = launcher("stop", *app.arguments)
    timer.join()
    assert done.status == 0
    assert "waiting" not in done.err


@as_root
def test_a_lock_that_another_user_made_in_a_folder_for_everybody_counts_for_nothing(app: AppFolder) -> None:
    folder = next(path for path in state.folders(app.path) if path.parts[:3] == ("/", "var", "tmp"))
    if folder.parent.exists():
        pytest.skip(f"{folder.parent} is in use")
    try:
        folder.mkdir(parents=True)
        lock = folder / instance_name(app.port)
        lock.touch()
        for path in (folder.parent, folder, lock):
            os.chown(path, 65534, 65534)
        with lock.open("rb") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            assert launcher(*app.arguments, "--", "--exit", "0").status == 0
    finally:
        shutil.rmtree(folder.parent)


@as_root
@pytest.mark.skipif(psutil.version_info < (7,), reason="psutil 6 reads /proc/stat for the time of the start")
def test_a_unit_that_sees_nothing_of_proc_but_processes_can_restart(app: AppFolder, processes: Processes) -> None:
    old = processes.start((sys.executable, "webui.py", "--load", "600", "--port", str(app.port)), cwd=app.path)
    old.hello()
    done = mounted(
        f"mount -t proc -o subset=pid proc /proc; {sys.executable} {START_APP} {' '.join(app.arguments)} -- --exit 0"
    )
    assert done.returncode == 0, done.stderr
    assert f"terminated pid {old.pid}" in done.stderr


def test_a_launcher_waits_for_another_one_and_goes_on(app: AppFolder, processes: Processes) -> None:
    lock = locks.open_lock(app.path, launch_name(app.port))
    assert lock.acquire(0)
    running = processes.launch(*app.arguments)
    eventually(lambda: "waiting: another launcher" in running.err, what="waiting")
    lock.close()
    eventually(lambda: get(app.port) == f"pid {running.pid}", what="page")


@pytest.mark.slow
def test_a_launcher_killed_at_any_instant_leaves_nothing_that_stops_the_next(
    app: AppFolder, processes: Processes
) -> None:
    for step in range(25):
        running = processes.launch(*app.arguments)
        threading.Event().wait(step * 0.008)  # a different instant each time; which one does not matter
        running.process.kill()
        running.wait(5)
    survivor = processes.launch(*app.arguments)
    eventually(lambda: get(app.port) == f"pid {survivor.pid}", what=survivor.err)


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b'{"pid": "x"}\n', b"\xff\xfe\n", b"null\n" + b"x" * 70000])
def test_a_record_cut_short_or_edited_is_no_record(content: bytes, app: AppFolder, processes: Processes) -> None:
    state = app.path / ".start_app"
    state.mkdir()
    path = state / f"instance-{app.port}.lock"
    path.write_bytes(content)
    assert read(path) is None
    with path.open("rb") as holder:  # held by this very test: whose the lock is, no record tells
        fcntl.flock(holder, fcntl.LOCK_EX)
        for command in ((), ("--dry-run",), ("stop",)):
            done = launcher(*command, *app.arguments)
            assert done.status == 69
            assert f"an instance holds {path}, but its process cannot be seen from here" in done.err
        assert launcher("status", "--json", *app.arguments).json["state"] == "unseen"
    running = processes.launch(*app.arguments)
    running.hello()
    assert app.lock_holder() == running.pid


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "fifo", "folder", "hard link"])
def test_a_hostile_lock_file_is_never_written_through(kind: str, app: AppFolder, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    state = app.path / ".start_app"
    lock = state / f"launch-{app.port}.lock"
    if kind == "link to a folder":
        (tmp_path / "elsewhere").mkdir()
        state.symlink_to(tmp_path / "elsewhere")
    else:
        state.mkdir()
        {
            "link to a file": lambda: lock.symlink_to(precious),
            "fifo": lambda: os.mkfifo(lock),
            "folder": lock.mkdir,
            "hard link": lambda: os.link(precious, lock),
        }[kind]()
    done = launcher(*app.arguments, "--", "--exit", "0", timeout=20)
    assert "Traceback" not in done.err
    assert done.status in (0, 74)
    assert precious.read_text() == "keep me"
    assert not list(tmp_path.glob("elsewhere/*"))


def mounted(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = ("unshare", "--mount", "bash", "-ec", script, "bash", *map(str, arguments))
    if subprocess.run(("unshare", "--mount", "true"), check=False).returncode:
        pytest.skip("mount namespaces cannot be made here")
    return subprocess.run(command, check=False, capture_output=True, text=True, env=clean_environment(), timeout=60)


@as_root
def test_a_read_only_app_folder_has_its_lock_in_the_users_state_folder(app: AppFolder) -> None:
    home = Path(os.path.expanduser("~root"))
    script = f"""
        mount --bind {app.path} {app.path}; mount -o remount,ro,bind {app.path}
        {sys.executable} {START_APP} {" ".join(app.arguments)} -- --exit 0
    """
    state = home / ".local" / "state" / "start_app"
    before = set(state.iterdir()) if state.is_dir() else set()
    done = mounted(script)
    assert done.returncode == 0, done.stderr
    fds = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))["fds"]
    (lock,) = [link for link in fds.values() if link.endswith(".lock")]
    assert lock.startswith(str(state))
    assert not (app.path / ".start_app").exists()
    for folder in set(state.iterdir()) - before:
        shutil.rmtree(folder)


@as_root
def test_a_full_disk_is_told_and_does_not_stop_a_launch(app: AppFolder, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    script = f"""
        mount -t tmpfs -o size=64k none {small}
        cp {app.script} {small}/webui.py; mkdir {small}/.start_app
        touch {small}/.start_app/instance-{app.port}.lock {small}/.start_app/launch-{app.port}.lock
        dd if=/dev/zero of={small}/fill bs=1k 2>/dev/null || true
        {sys.executable} {START_APP} --app-dir {small} --port {app.port} -- --exit 0
    """
    done = mounted(script)
    assert done.returncode == 0, done.stderr
    assert "cannot write the record" in done.stderr
    assert "No space left on device" in done.stderr


@as_root
def test_files_that_root_makes_belong_to_the_folders_owner(app: AppFolder) -> None:
    os.chown(app.path, 65534, 65534)
    assert launcher(*app.arguments, "--", "--exit", "0").status == 0
    for path in (app.path / ".start_app", *(app.path / ".start_app").iterdir()):
        assert path.stat().st_uid == 65534
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0


def test_a_replaced_interpreter_that_the_kernel_refuses_is_told(app: AppFolder, tmp_path: Path) -> None:
    # It passes every look, and only the kernel finds out: its own interpreter line is a folder.
    fake = tmp_path / "python3"
    fake.write_text("#!/etc\n")
    fake.chmod(0o755)
    done = launcher(*app.arguments, "--python", fake)
    assert done.status == 78
    assert f"cannot start {fake} in {app.path}" in done.err
    assert "hint:" in done.err
