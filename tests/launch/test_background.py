"""An app in the background: apart from its terminal, seen to be ready, and told of when it is not."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.instances.record import instance_name, read
from launcher.system import lock as locks
from launcher.system import state
from tests.support.apps import (
    START_APP,
    AppFolder,
    Done,
    Processes,
    alive,
    clean_environment,
    eventually,
    get,
    launcher,
    program,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a pid namespace")


def log_of(app: AppFolder) -> Path:
    return app.path / ".start_app" / "logs" / f"webui-{app.port}.log"


def lock_of(app: AppFolder) -> Path:
    return app.path / ".start_app" / f"instance-{app.port}.lock"


def background(app: AppFolder, processes: Processes, *arguments: str, **keywords: Any) -> Done:
    done = launcher("--background", *app.arguments, *arguments, **keywords)
    pid = app.lock_holder()
    if pid is not None:
        processes.end_also(pid)
    return done


def hello(log: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(next(line for line in log.read_text().splitlines() if line.startswith("{")))
    return document


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_returns_when_the_page_answers_and_tells_url_pid_and_log(app: AppFolder, processes: Processes) -> None:
    done = background(app, processes)
    assert (done.status, done.out) == (0, "")
    pid = app.lock_holder()
    assert get(app.port) == f"pid {pid}"
    assert f"background: pid {pid}, {sys.executable} webui.py --port {app.port}\n" in done.err
    assert f"ready: pid {pid} answers at http://127.0.0.1:{app.port} (" in done.err
    assert done.err.endswith(f"log: {log_of(app)}\n")
    assert hello(log_of(app))["pid"] == pid
    assert launcher("status", "--json", *app.arguments).json["log"] == str(log_of(app))


def test_the_app_has_left_the_terminal_and_holds_its_lock_alone(app: AppFolder, processes: Processes) -> None:
    read_end, write_end = os.pipe()
    # What the caller ignores or blocks, and what it has open, is not the app's.
    call = f"trap '' HUP INT QUIT TERM CHLD; exec {shlex.join((sys.executable, str(START_APP)))} --background"
    done = subprocess.run(
        ("bash", "-c", f"{call} {shlex.join(app.arguments)}"),
        env=clean_environment(),
        capture_output=True,
        pass_fds=(read_end,),
    )
    os.close(read_end)
    os.close(write_end)
    assert done.returncode == 0, done.stderr
    pid = app.lock_holder()
    assert pid
    processes.end_also(pid)
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert psutil.Process(pid).terminal() is None
    found = status_of(pid)
    assert int(found["SigBlk"], 16) == 0
    ignored = {number for number in range(1, 32) if int(found["SigIgn"], 16) & 1 << (number - 1)}
    assert ignored <= {signal.SIGPIPE, signal.SIGXFSZ}  # Python's own, in the app
    links = {fd: link for fd, link in hello(log_of(app))["fds"].items() if not link.startswith("/proc/")}
    assert links.pop("0") == "/dev/null"
    assert links.pop("1") == links.pop("2") == str(log_of(app))
    assert list(links.values()) == [str(lock_of(app))]
    assert locks.holders(lock_of(app)) == (pid,)
    record = read(lock_of(app))
    assert record
    assert (record.pid, record.log) == (pid, str(log_of(app)))
    assert record.start == int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    assert stat.S_IMODE(log_of(app).stat().st_mode) == 0o600
    assert stat.S_IMODE(log_of(app).parent.stat().st_mode) == 0o700


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_of_the_caller_are_no_streams_of_the_app(
    closed: str, app: AppFolder, processes: Processes
) -> None:
    command = shlex.join((sys.executable, str(START_APP), "--background", *app.arguments))
    assert subprocess.run(("bash", "-c", f"exec {command} {closed}"), env=clean_environment()).returncode == 0
    pid = app.lock_holder()
    assert pid
    processes.end_also(pid)
    links = {fd: link for fd, link in hello(log_of(app))["fds"].items() if not link.startswith("/proc/")}
    assert [links.pop(fd) for fd in "012"] == ["/dev/null", str(log_of(app)), str(log_of(app))]
    assert list(links.values()) == [str(lock_of(app))]
    assert get(app.port) == f"pid {pid}"


def test_it_survives_the_end_of_its_terminal_which_shows_how_it_loads(app: AppFolder, processes: Processes) -> None:
    main, terminal = pty.openpty()
    running = processes.start(
        (sys.executable, START_APP, "--background", *app.arguments, "--", "--load", "600"),
        env=clean_environment(TERM="xterm"),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )
    os.close(terminal)
    shown = b""

    def loading() -> bool:
        nonlocal shown
        shown += os.read(main, 65536)
        return b"loading: " in shown

    eventually(loading, what="progress")
    pid = app.lock_holder()
    assert pid
    processes.end_also(pid)
    os.close(main)
    assert launcher("status", "--json", *app.arguments).json["instance"]["pid"] == pid
    assert alive(pid)
    assert alive(running.pid)  # it waits for the page all the same, and history will know of it
    running.process.terminate()
    assert running.wait() == -signal.SIGTERM
    assert alive(pid)


def test_an_app_that_exits_first_is_told_of_at_once_with_its_last_lines(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(
        "import sys\nfor n in range(100): print('line', n)\n"
        "print('50%\\r100%')\nprint('no module \\x1b[31mtorch', file=sys.stderr)\nsys.exit(3)\n"
    )
    done = background(app, processes)
    assert done.status == 75
    lines = done.err.splitlines()
    assert "| line 99" in lines
    assert "| line 50" not in lines
    assert "| 100%" in lines
    assert "| no module \\x1b[31mtorch" in lines
    assert lines[-2].startswith("the app has ended with exit status 3 before its page answered: pid ")
    assert lines[-2].endswith(f", log {log_of(app)}")
    assert lines[-1] == f"hint: {program()} --app-dir {app.path} --port {app.port} logs --lines 200"
    assert launcher("status", "--json", *app.arguments).json["state"] == "not running"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_an_app_that_a_signal_ends_is_told_of_by_its_name(name: str, app: AppFolder, processes: Processes) -> None:
    app.script.write_text(f"import os, signal\nos.kill(os.getpid(), signal.{name})\n")
    done = background(app, processes, "--json")
    assert done.status == 75
    assert done.json["error"].startswith(f"the app was ended by {name} before its page answered: pid ")
    assert ("dmesg" in done.json["hint"]) == (name == "SIGKILL")


def test_one_that_still_loads_at_the_time_out_is_left_running(app: AppFolder, processes: Processes) -> None:
    done = background(app, processes, "--timeout", "0.3", "--", "--load", "600")
    pid = app.lock_holder()
    assert done.status == 75
    assert f"left running: pid {pid}, log {log_of(app)}\n" in done.err
    assert "not ready after 0.3 s, it has not opened the port yet" in done.err
    assert "wait --timeout 600" in done.err.splitlines()[-1]
    assert pid
    assert alive(pid)


def test_ctrl_c_while_it_loads_leaves_it_running(app: AppFolder, processes: Processes) -> None:
    running = processes.launch("--background", *app.arguments, "--", "--load", "600", start_new_session=True)
    eventually(lambda: "background: pid" in running.err, what=running.err)
    pid = app.lock_holder()
    assert pid
    processes.end_also(pid)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does, to all that was started from it
    assert running.wait() == 130
    assert f"left running: pid {pid}, log {log_of(app)}\ninterrupted\n" in running.err
    assert alive(pid)


def test_a_launcher_that_is_killed_while_it_waits_takes_nothing_with_it(app: AppFolder, processes: Processes) -> None:
    running = processes.launch("--background", *app.arguments, "--", "--load", "1")
    eventually(lambda: "background: pid" in running.err, what=running.err)
    pid = app.lock_holder()
    assert pid
    processes.end_also(pid)
    running.process.kill()
    running.wait()
    eventually(lambda: get(app.port) == f"pid {pid}", what="page")


def test_a_second_one_replaces_the_first(app: AppFolder, processes: Processes) -> None:
    assert background(app, processes).status == 0
    first = app.lock_holder()
    done = background(app, processes, "--json")
    assert done.status == 0, done.err
    document = done.json
    assert document["pid"] == app.lock_holder() != first
    assert document["url"] == f"http://127.0.0.1:{app.port}"
    assert document["log"] == str(log_of(app))
    assert [one["pid"] for one in document["stopped"]] == [first]
    assert get(app.port) == f"pid {document['pid']}"


def test_an_exec_that_the_kernel_refuses_is_told_to_the_user(app: AppFolder, tmp_path: Path) -> None:
    fake = tmp_path / "python3"
    fake.write_text("#!/etc\n")
    fake.chmod(0o755)
    for extra in (("--background",), ("--log-file", "webui.log")):
        done = launcher(*extra, *app.arguments, "--python", fake, cwd=tmp_path)
        assert done.status == 78
        assert f"cannot start {fake} in {app.path}" in done.err
        assert "hint:" in done.err
        assert next(locks.held(app.path, instance_name(app.port)), None) is None
    assert (tmp_path / "webui.log").read_text().splitlines()[1:] == []


def test_in_the_foreground_a_log_file_gets_all_that_the_app_prints(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    app.script.write_text("import sys\nprint('to stderr', file=sys.stderr)\n" + app.script.read_text())
    running = processes.launch(*app.arguments, "--log-file", "out.log", cwd=tmp_path)
    log = tmp_path / "out.log"
    eventually(lambda: get(app.port), what="page")
    assert hello(log)["pid"] == running.pid
    assert "to stderr" in log.read_text()
    assert running.out == ""
    assert f"log: {log}\nexec: " in running.err
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert locks.holders(lock_of(app)) == (running.pid,)


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "folder", "device", "no folder"])
def test_a_log_that_cannot_be_is_refused_before_anything_is_stopped(
    kind: str, app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    log = tmp_path / "x.log"
    if kind == "device":
        log = Path("/dev/null")
    elif kind == "no folder":
        log = tmp_path / "missing" / "x.log"
    else:
        {
            "link": lambda: log.symlink_to(precious),
            "dangling link": lambda: log.symlink_to(tmp_path / "new"),
            "fifo": lambda: os.mkfifo(log),
            "folder": log.mkdir,
        }[kind]()
    for extra in ((), ("--background",), ("-n",)):
        done = launcher(*app.arguments, "--log-file", log, *extra)
        assert done.status == 2, done.err
        assert "--log-file" in done.err
    assert alive(old.pid)
    assert precious.read_text() == "keep me"
    assert not (tmp_path / "new").exists()


def test_a_link_in_the_place_of_the_usual_log_is_never_followed(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    log_of(app).parent.mkdir(parents=True)
    log_of(app).symlink_to(precious)
    done = launcher("--background", *app.arguments)
    assert done.status == 74
    assert f"{log_of(app)} is a link, and the log is never written through a link\n" in done.err
    log_of(app).unlink()
    log_of(app).parent.rmdir()
    (tmp_path / "elsewhere").mkdir()
    log_of(app).parent.symlink_to(tmp_path / "elsewhere")
    done = background(app, processes, "--json")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert done.json["log"].startswith(str(state.folders(app.path)[1]))


@pytest.mark.slow
def test_the_logs_of_the_last_five_starts_are_kept(app: AppFolder, tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    for number in range(7):
        app.script.write_text(f"print('start {number}')")
        assert launcher(*app.arguments, "--log-file", log).status == 0
    logs = [log, *(tmp_path / f"x.log.{number}" for number in range(1, 6))]
    assert [path.read_text().splitlines()[1:] for path in logs] == [[f"start {6 - n}"] for n in range(6)]
    assert not (tmp_path / "x.log.6").exists()


def browser(tmp_path: Path) -> dict[str, str]:
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho noise\necho "$1" >{tmp_path}/opened\n')
    script.chmod(0o755)
    return clean_environment(BROWSER=f"{script} %s")


@pytest.mark.slow
def test_open_shows_the_page_in_a_browser(app: AppFolder, processes: Processes, tmp_path: Path) -> None:
    done = background(app, processes, "--open", "--json", env=browser(tmp_path))
    assert done.status == 0, done.err
    assert (tmp_path / "opened").read_text() == done.json["url"] + "\n"
    (tmp_path / "opened").unlink()
    done = launcher("wait", "--open", "--json", *app.arguments, env=browser(tmp_path))
    assert (tmp_path / "opened").read_text() == done.json["url"] + "\n"


@pytest.mark.slow
def test_without_a_browser_open_says_where_the_page_is(app: AppFolder, processes: Processes) -> None:
    assert background(app, processes).status == 0
    done = launcher("wait", "--open", *app.arguments, env=clean_environment(BROWSER="/bin/false %s", PATH="/nowhere"))
    assert done.status == 0
    assert f"open: no browser found; the page is at http://127.0.0.1:{app.port}\n" in done.err


def test_a_dry_run_tells_where_the_log_would_be_and_makes_nothing(app: AppFolder) -> None:
    done = launcher("-n", "--background", *app.arguments)
    assert done.status == 0
    assert f"would log: {log_of(app)}\nwould start in the background: {sys.executable} webui.py" in done.out
    assert not (app.path / ".start_app").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--open",), "--open needs --background: in the foreground"),
        (("--timeout", "5"), "--timeout needs --background: in the foreground"),
        (("--background", "--no-launch"), "--background and --log-file have no effect with --no-launch"),
        (("--log-file", "x", "--no-launch"), "--background and --log-file have no effect with --no-launch"),
        (("--log-file", ""), "--log-file needs the name of a file"),
        (("logs", "-f", "--json"), "-f prints the log as it grows"),
        (("logs", "--lines", "-1"), "--lines"),
        (("status", "--background"), "--background does not go with status"),
    ],
)
def test_what_says_nothing_together_is_refused(arguments: tuple[str, ...], told: str, app: AppFolder) -> None:
    done = launcher(*arguments, *app.arguments)
    assert done.status == 2
    assert told in done.err
    assert "hint:" in done.err


def test_a_background_that_systemd_would_end_is_refused(app: AppFolder) -> None:
    call = (
        f"export SYSTEMD_EXEC_PID=$$; exec {shlex.join((sys.executable, str(START_APP), *app.arguments))} --background"
    )
    done = subprocess.run(("bash", "-c", call), env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "--background in a systemd unit: systemd would stop the app when the launcher ends\n" in done.stderr


@as_root
def test_a_background_as_pid_1_is_refused(app: AppFolder) -> None:
    command = ("unshare", "--pid", "--fork", "--mount-proc", sys.executable, str(START_APP), *app.arguments)
    if subprocess.run(("unshare", "--pid", "--fork", "--mount-proc", "true")).returncode:
        pytest.skip("pid namespaces cannot be made here")
    done = subprocess.run((*command, "--background"), env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "--background as pid 1: the container would end with the launcher" in done.stderr


@as_root
@pytest.mark.parametrize("script", [False, True], ids=["the only command", "a script"])
def test_a_background_that_ends_with_its_container_is_refused_or_told(
    script: bool, app: AppFolder, tmp_path: Path
) -> None:
    if subprocess.run(("unshare", "--pid", "--fork", "--mount-proc", "true")).returncode:
        pytest.skip("pid namespaces cannot be made here")
    (tmp_path / "tini").symlink_to(sys.executable)
    tini = (tmp_path / "tini", "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))")
    command = shlex.join((sys.executable, str(START_APP), *app.arguments, "--background"))
    words = ("bash", "-c", f"{command}; exit $?") if script else shlex.split(command)
    call = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *tini, *words)
    done = subprocess.run(call, env=clean_environment(), capture_output=True, text=True)
    what = "the script that runs this" if script else "the launcher"
    assert f"the app would end with the container when {what} ends: pid 1, tini, waits for it\n" in done.stderr
    assert "hint: " in done.stderr
    assert done.returncode == (0 if script else 2)


@pytest.mark.slow
@as_root
@pytest.mark.parametrize("mount", ["-t proc -o subset=pid proc", "-t tmpfs tmpfs"], ids=["ProcSubset=pid", "no /proc"])
def test_a_background_where_proc_shows_little_is_ready_or_told_in_time(mount: str, app: AppFolder) -> None:
    python, call = shlex.quote(sys.executable), shlex.join((sys.executable, str(START_APP), *app.arguments))
    script = (
        f"mount {mount} /proc || exit 99; {python} -c 'import psutil; psutil.Process()' 2>/dev/null; echo $?;"
        f"for _ in 1 2; do {call} --background --timeout 40; echo $?; done; {call} stop; echo $?"
    )
    command = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script)
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=120)
    if done.returncode == 99 or not done.stdout:
        pytest.skip(f"it cannot be mounted here: {done.stderr}")
    readable, first, *more = done.stdout.split()
    if readable == "0":
        assert [first, *more] == ["0", "0", "0"], done.stderr
    else:  # psutil 6 fails there
        assert first == "75", done.stderr
        assert "processes cannot be read here: whether its page answers is not known\n" in done.stderr
