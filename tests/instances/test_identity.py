"""Script and command are the identity: each way to tell two processes apart is tried on real ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from launcher.instances import candidates
from launcher.instances.command_line import wrapped_argument
from launcher.instances.process import look
from launcher.instances.record import instance_name
from launcher.instances.script import Entry, own_file
from launcher.operations import replace as instances
from tests.support.apps import (
    START_APP,
    WEBUI,
    AppFolder,
    Done,
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

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace")
# Serves its page where `rest` begins with `run`, and works for hours otherwise.
COMMANDS = WEBUI.replace("time.sleep(args.load)", "time.sleep(args.load if args.rest[:1] == ['run'] else 600)")


def serve(app: AppFolder, processes: Processes, *words: str, cwd: Path | None = None, **environ: str) -> Running:
    """Start an instance with a Python and wait until it serves."""
    cwd = cwd or app.path
    env = clean_environment(PWD=str(cwd), **environ)
    running = processes.start((sys.executable, *words), cwd=cwd, env=env)
    eventually(lambda: get(app.port), what=running.err)
    return running


def stop(app: AppFolder, **environ: str) -> Done:
    return launcher("stop", "-v", *app.arguments, env=clean_environment(**environ))


# --- the command ---


@pytest.mark.parametrize("command", [("train", "config.yaml"), ("--port", "{port}", "train")])
def test_another_command_of_the_script_is_left(command: tuple[str, ...], app: AppFolder, processes: Processes) -> None:
    app.script.write_text(COMMANDS)
    words = [word.format(port=app.port) for word in command]
    job = processes.start((sys.executable, "webui.py", *words), cwd=app.path)
    job.hello()
    done = launcher("--no-launch", "-v", *app.arguments, env=clean_environment(APP_ARGS="run"))
    assert (done.status, alive(job.pid)) == (0, True)
    assert "it runs another command of the script: train, and this launch's is run" in done.err
    done = launcher("--no-launch", *app.arguments)
    assert (done.status, alive(job.pid)) == (0, True)


DECLARED = """
parser = __import__("argparse").ArgumentParser()
parser.add_argument("--verbose", action="store_true")
commands = parser.add_subparsers()
commands.add_parser("train", aliases=["fit"])
commands.add_parser("webui")
parser.parse_args()
print("{}", flush=True)
__import__("time").sleep(600)
"""


@pytest.mark.parametrize(
    ("words", "arguments", "lives"),
    [("fit", "", True), ("train", "--verbose webui", True), ("webui", "--verbose webui", False)],
)
def test_a_declared_command_after_an_option_is_a_command_too(
    words: str, arguments: str, lives: bool, app: AppFolder, processes: Processes
) -> None:
    app.script.write_text(DECLARED)
    environ = {"GRADIO_SERVER_PORT": str(app.port)}
    job = processes.start(
        (sys.executable, "webui.py", "--verbose", words), cwd=app.path, env=clean_environment(**environ)
    )
    job.hello()
    done = launcher("--no-launch", *app.arguments, env=clean_environment(APP_ARGS=arguments))
    assert (done.status, alive(job.pid)) == (0, lives), done.err


def test_another_command_that_listens_on_our_port_is_refused_and_named(app: AppFolder, processes: Processes) -> None:
    running = serve(app, processes, "webui.py", "--port", str(app.port), "api")
    done = launcher(*app.arguments, env=clean_environment(APP_ARGS="run"))
    assert (done.status, alive(running.pid)) == (69, True)
    assert f"by pid {running.pid}, " in done.err
    assert "it runs another command of the script: api, and this launch's is run" in done.err


@pytest.mark.parametrize(
    "words", [("run", "--port", "{port}"), ("--port", "{port}", "run"), ("--port={port}", "run", "model.bin")]
)
def test_the_same_command_is_the_instance_wherever_its_port_stands(
    words: tuple[str, ...], app: AppFolder, processes: Processes
) -> None:
    app.script.write_text(COMMANDS)
    (app.path / "model.bin").touch()
    running = serve(app, processes, "webui.py", *(word.format(port=app.port) for word in words))
    assert stop(app, APP_ARGS="run").status == 0
    assert running.wait(1) == -signal.SIGTERM


# --- the record ---


def other_script(app: AppFolder) -> Path:
    return Path(shutil.copy(app.script, app.path / "api.py"))


def test_a_lock_of_another_script_of_the_folder_lets_nobody_stop_it(app: AppFolder, processes: Processes) -> None:
    other_script(app)
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what=running.err)
    environ = clean_environment(APP_SCRIPT="api.py")
    for arguments in ((), ("--no-launch",), ("--dry-run",)):
        done = launcher(*app.arguments, *arguments, env=environ)
        assert done.status == 69, done.err
        assert f"pid {running.pid}, " in done.err
    assert launcher("stop", *app.arguments, env=environ).status == 0
    assert get(app.port) == f"pid {running.pid}"
    assert launcher("stop", *app.arguments).status == 0
    assert running.wait(1) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("environ", "named"),
    [({"APP_SCRIPT": "api.py"}, "webui.py"), ({"APP_ARGS": "train"}, "webui.py")],
)
def test_what_is_still_loading_with_the_lock_of_our_port_is_left_and_named(
    environ: dict[str, str], named: str, app: AppFolder, processes: Processes
) -> None:
    other_script(app)
    running = processes.launch(*app.arguments, "--", "--load", "600", env=clean_environment(APP_ARGS="run"))
    running.hello()
    done = launcher(*app.arguments, env=clean_environment(**environ))
    assert (done.status, alive(running.pid)) == (69, True)
    assert f"the lock of port {app.port} is held by pid {running.pid}, " in done.err
    assert named in done.err
    assert f"kill {running.pid} ends it" in done.err
    status = launcher("status", *app.arguments, env=clean_environment(**environ))
    assert f"is held by pid {running.pid}, " in status.out


def test_an_instance_that_an_earlier_version_started_is_known_by_its_command_line(
    app: AppFolder, processes: Processes
) -> None:
    other_script(app)
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what=running.err)
    lock = app.path / ".start_app" / instance_name(app.port)
    record = json.loads(lock.read_text())
    for name in ("script", "command", "network"):
        del record[name]
    lock.write_text(json.dumps(record) + "\n")
    done = launcher(*app.arguments, env=clean_environment(APP_SCRIPT="api.py"))
    assert (done.status, alive(running.pid)) == (69, True)
    assert launcher("stop", *app.arguments).status == 0
    assert running.wait(1) == -signal.SIGTERM


def test_an_instance_is_known_by_its_record_whatever_its_words_after_the_command(
    app: AppFolder, processes: Processes
) -> None:
    running = processes.launch(*app.arguments, "--", "words", "of", "this", "start")
    eventually(lambda: get(app.port), what=running.err)
    assert launcher("stop", *app.arguments).status == 0
    assert running.wait(1) == -signal.SIGTERM


# --- what a Python is ---


@pytest.mark.parametrize("name", ["python-tail", "python3", "python3.11"])
def test_a_program_that_is_called_like_a_python_is_left(
    name: str, app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    tail = tmp_path / name
    shutil.copy(shutil.which("tail") or "/usr/bin/tail", tail)
    running = processes.start((tail, "-f", "webui.py"), cwd=app.path)
    done = launcher("--no-launch", "-v", *app.arguments)
    assert (done.status, alive(running.pid)) == (0, True)
    assert "not a Python" in done.err


@pytest.mark.parametrize(
    "line",
    [
        "torchrun --no-python vim webui.py",
        "torchrun --no_python webui.py",
        "torchrun train.sh webui.py",
        "torchrun --standalone train.sh webui.py",
        "torchrun --nproc_per_node 2 train.sh webui.py",
        "accelerate launch --no_python webui.py",
        "accelerate launch --multi_gpu train.sh webui.py",
        "accelerate launch --num_processes=1 vim webui.py",
    ],
)
def test_a_runner_that_runs_no_python_script_is_left(line: str) -> None:
    assert wrapped_argument(("python", *line.split()), python=True) is None


# --- the file ---


@pytest.mark.parametrize("path", ["/proc/self/cwd/webui.py", "/proc/thread-self/cwd/webui.py", "/proc/self/cwd"])
def test_self_is_the_process_and_not_the_launcher(
    path: str, app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    other = make_app(tmp_path / "other")
    for one in (app, other):
        (one.path / "__main__.py").write_text("import runpy; runpy.run_path('webui.py', run_name='__main__')")
    if path == "/proc/self/cwd":
        app.write_env("APP_SCRIPT=__main__.py\n")
    ours = serve(app, processes, path, "--port", str(app.port))
    theirs = serve(other, processes, path, "--port", str(other.port))
    for one, port in ((other, app.port), (app, other.port)):
        done = launcher("--no-launch", "--app-dir", one.path, "--port", str(port), cwd=one.path)
        assert done.status == 69, done.err
    assert launcher("stop", *app.arguments, cwd=app.path).status == 0
    assert ours.wait(1) == -signal.SIGTERM
    assert alive(theirs.pid)


def test_a_script_that_came_by_a_descriptor_is_known(app: AppFolder, processes: Processes, tmp_path: Path) -> None:
    other = make_app(tmp_path / "other")
    started = []
    for one in (app, other):
        command = f"exec {sys.executable} /dev/fd/9 --port {one.port} 9< webui.py"
        started.append(processes.start(("bash", "-c", command), cwd=one.path))
        eventually(lambda one=one: get(one.port), what=started[-1].err)
    assert stop(app).status == 0
    assert started[0].wait(1) == -signal.SIGTERM
    assert alive(started[1].pid)


def test_an_app_that_went_into_its_own_folder_is_known_by_where_it_was_started(
    app: AppFolder, processes: Processes
) -> None:
    app.script.write_text("import os; os.chdir(os.path.dirname(os.path.abspath(__file__)))\n" + WEBUI)
    running = serve(app, processes, "app/webui.py", "--port", str(app.port), cwd=app.path.parent)
    assert stop(app).status == 0
    assert running.wait(1) == -signal.SIGTERM


def test_a_folder_of_birth_that_was_only_inherited_proves_nothing(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    # subprocess.Popen(cwd=…) leaves PWD as it was.
    other = make_app(tmp_path / "other")
    env = clean_environment(PWD=str(app.path))
    running = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=other.path, env=env)
    eventually(lambda: get(app.port) == f"pid {running.pid}", what=running.err)
    done = launcher(*app.arguments)
    assert (done.status, alive(running.pid)) == (69, True)
    assert "name different scripts" in done.err


def releases(tmp_path: Path) -> AppFolder:
    """Make two releases, and the link that leads to the first."""
    for number in ("1", "2"):
        make_app(tmp_path / "releases" / number)
    (tmp_path / "current").symlink_to("releases/1")
    return AppFolder(tmp_path / "current", free_port())


def flip(app: AppFolder) -> None:
    """Have the link lead to the second release, as deployments do: in one rename."""
    new = app.path.with_name("new")
    new.symlink_to("releases/2")
    new.rename(app.path)


@pytest.mark.parametrize("by_hand", [True, False])
def test_what_was_started_through_a_release_link_is_replaced_after_the_link_was_moved(
    by_hand: bool, processes: Processes, tmp_path: Path
) -> None:
    app = releases(tmp_path)
    if by_hand:
        running = serve(app, processes, "webui.py", "--port", str(app.port))
    else:
        running = processes.launch(*app.arguments)
        eventually(lambda: get(app.port), what=running.err)
    eventually(lambda: (seen := look(running.pid)) and seen.age > 1, what="a deployment is not as fast as a test")
    flip(app)
    assert stop(app).status == 0
    assert running.wait(1) == -signal.SIGTERM


def test_a_folder_that_the_link_never_led_to_is_another_checkout(processes: Processes, tmp_path: Path) -> None:
    app = releases(tmp_path)
    stranger = make_app(tmp_path / "elsewhere" / "stranger")
    env = clean_environment(PWD=str(app.path))
    running = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=stranger.path, env=env)
    eventually(lambda: get(app.port), what=running.err)
    flip(app)
    assert (launcher(*app.arguments).status, alive(running.pid)) == (69, True)


def test_a_release_beside_a_link_that_was_not_moved_is_another_checkout(processes: Processes, tmp_path: Path) -> None:
    app = releases(tmp_path)
    flip(app)
    env = clean_environment(PWD=str(app.path))
    command = (sys.executable, "webui.py", "--port", str(app.port))
    running = processes.start(command, cwd=tmp_path / "releases" / "1", env=env)
    eventually(lambda: get(app.port), what=running.err)
    assert (launcher(*app.arguments).status, alive(running.pid)) == (69, True)


# --- several entries ---


def package(app: AppFolder) -> None:
    """Make a package whose module serves the page, and a script that only imports it."""
    (app.path / "pkg").mkdir()
    (app.path / "pkg" / "__init__.py").touch()
    (app.path / "pkg" / "web.py").write_text("from . import __name__ as relative\n" + WEBUI)
    app.script.write_text("import runpy\nrunpy.run_module('pkg.web', run_name='__main__')\n")


def test_a_module_is_started_as_one_and_known_by_its_file(app: AppFolder, processes: Processes) -> None:
    package(app)
    app.write_env("APP_SCRIPT=-m pkg.web\n")
    by_hand = serve(app, processes, "-m", "pkg.web", "--port", str(app.port))
    ours = processes.launch(*app.arguments)
    eventually(lambda: get(app.port) == f"pid {ours.pid}", what=ours.err)
    assert by_hand.wait(1) == -signal.SIGTERM
    assert launcher("stop", *app.arguments).status == 0
    assert ours.wait(1) == -signal.SIGTERM


@pytest.mark.parametrize(("listed", "known"), [("webui.py", False), ("webui.py -m pkg.web", True)])
def test_two_entries_of_one_app_know_each_other_where_both_are_listed(
    listed: str, known: bool, app: AppFolder, processes: Processes
) -> None:
    package(app)
    app.write_env(f"APP_SCRIPT={listed}\n")
    running = serve(app, processes, "-m", "pkg.web", "--port", str(app.port))
    done = launcher("--no-launch", *app.arguments)
    assert (done.status, alive(running.pid)) == ((0, False) if known else (69, True)), done.err


def installed(app: AppFolder, *, editable: bool) -> Path:
    """Make an environment with the app installed in it, with a console script; return its Python."""
    prefix = app.path / ".venv"
    site = prefix / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    for folder in (site, prefix / "bin"):
        folder.mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    python = prefix / "bin" / "python"
    python.symlink_to(Path(sys.executable).resolve())
    source = app.path / "source" if editable else site
    (source / "pkg").mkdir(parents=True)
    shutil.copytree(app.path / "pkg", source / "pkg", dirs_exist_ok=True)
    shutil.rmtree(app.path / "pkg")
    if editable:
        (site / "app.pth").write_text(f"{source}\n")
    script = prefix / "bin" / "serve-app"
    script.write_text(f"#!{python}\nimport runpy\nrunpy.run_module('pkg.web', run_name='__main__')\n")
    script.chmod(0o755)
    return python


@pytest.mark.parametrize("editable", [True, False])
@pytest.mark.parametrize("entry", ["-m pkg.web", "serve-app"])
def test_an_app_that_is_installed_is_known_by_its_module_or_its_console_script(
    entry: str, editable: bool, app: AppFolder, processes: Processes
) -> None:
    package(app)
    python = installed(app, editable=editable)
    app.write_env(f"APP_SCRIPT={entry}\n")
    command = [python, "-m", "pkg.web"] if entry.startswith("-m") else [python.parent / "serve-app"]
    running = processes.start([*command, "--port", str(app.port)], cwd=app.path.parent)
    eventually(lambda: get(app.port), what=running.err)
    plan = launcher("--dry-run", "--json", *app.arguments).json
    assert [one["pid"] for one in plan["terminate"]] == [running.pid]
    words = ["-m", "pkg.web"] if entry.startswith("-m") else [str(python.parent / "serve-app")]
    assert plan["argv"][1 : 1 + len(words)] == words
    assert launcher("stop", *app.arguments).status == 0
    assert running.wait(1) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("-m pkg.missing", "no module pkg.missing in {folder} or in the app's environment (APP_SCRIPT, .env line 1)"),
        ("-m", "no module named in {folder}"),
        ("webui.py missing.py", "no missing.py in {folder} (APP_SCRIPT, .env line 1)"),
        ("'webui.py", "APP_SCRIPT cannot be split into words: no closing quotation"),
    ],
)
def test_an_entry_that_is_nowhere_is_refused(entry: str, message: str, app: AppFolder) -> None:
    (app.path / ".env").write_text(f"APP_SCRIPT={entry}\n" if "'" not in entry else 'APP_SCRIPT="\'webui.py"\n')
    done = launcher("status", *app.arguments)
    assert done.status == 78
    assert message.format(folder=app.path) in done.err


def test_a_script_with_a_blank_in_its_name_is_one(app: AppFolder, processes: Processes) -> None:
    app.script.rename(app.path / "my app.py")
    app.write_env("APP_SCRIPT=my app.py\n")
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port) == f"pid {running.pid}", what=running.err)
    assert launcher("stop", *app.arguments).status == 0


# --- the port ---


@pytest.mark.parametrize("words", [("-p", "{port}"), ("--por={port}",), ("--server_port", "{port}"), ("{port}",)])
def test_a_sibling_that_loads_is_left_however_it_was_told_its_port(
    words: tuple[str, ...], app: AppFolder, processes: Processes
) -> None:
    app.script.write_text("import sys, time\nprint('{\"up\": 1}', flush=True)\ntime.sleep(600)\n")
    port = free_port()
    told = [word.format(port=port) for word in words]
    running = processes.start((sys.executable, "webui.py", *told), cwd=app.path)
    running.hello()
    done = launcher("--no-launch", "-v", *app.arguments)
    assert (done.status, alive(running.pid)) == (0, True)
    assert f"this app's instance on port {port}" in done.err
    assert f"sibling: pid {running.pid}: it was started with {' '.join(told)}" in done.err
    assert launcher("stop", "--app-dir", app.path, "--port", str(port)).status == 0
    assert running.wait(1) == -signal.SIGTERM


def in_own_network(*command: str | Path) -> Done:
    """Run a command where nobody else has a port."""
    words = ("unshare", "--net", "bash", "-c", 'ip link set lo up; exec "$@"', "-", *map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=clean_environment())
    return Done(done.returncode, done.stdout, done.stderr)


@as_root
@pytest.mark.parametrize(("chosen", "stopped"), [((), True), (("--port", "7860"), False)])
def test_an_instance_that_was_told_no_port_is_ours_only_where_nobody_chose_one(
    chosen: tuple[str, ...], stopped: bool, app: AppFolder
) -> None:
    script = (
        f"cd {app.path}; {sys.executable} webui.py --load 600 > hello & sleep 0; "
        "until grep -q pid hello; do sleep 0.1; done; "
        f"{sys.executable} {START_APP} --app-dir {app.path} --no-launch {' '.join(chosen)}; echo status $?; "
        "sleep 0.2; kill -0 $! && echo lives; kill -9 $!"
    )
    done = in_own_network("bash", "-c", script)
    assert "status 0" in done.out, done.err
    assert ("lives" not in done.out) is stopped, done.err


@as_root
def test_a_port_of_another_network_is_not_ours(app: AppFolder, processes: Processes) -> None:
    command = f"ip link set lo up; cd {app.path}; exec {sys.executable} webui.py --port {app.port}"
    running = processes.start(("unshare", "--net", "bash", "-c", command))
    running.hello()
    done = launcher("--no-launch", *app.arguments)
    assert (done.status, alive(running.pid)) == (0, True)
    assert "in another network" in done.err


# --- what changes meanwhile, and what cannot be read ---


def test_a_process_that_became_another_program_since_it_was_seen_is_no_target(
    app: AppFolder, processes: Processes
) -> None:
    script = app.path / "changes.py"
    script.write_text("import os, sys; print('{\"up\": 1}', flush=True); input(); os.execvp('sleep', ['sleep', '600'])")
    running = processes.start((sys.executable, script), stdin=subprocess.PIPE)
    running.hello()
    seen = look(running.pid)
    assert seen and not instances.changed(seen, None)
    assert running.process.stdin
    running.process.stdin.write(b"\n")
    running.process.stdin.close()
    eventually(lambda: psutil.Process(running.pid).name() == "sleep", what="exec")
    assert instances.changed(seen, None)


def test_what_psutil_cannot_read_is_named_and_no_target(
    app: AppFolder, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve(app, processes, "webui.py", "--port", str(app.port))
    monkeypatch.setattr(candidates, "look", lambda pid: None)
    identity = own_file(str(app.script))
    assert identity
    seen = candidates.candidates(candidates.App((Entry(str(app.script), identity),)), None)
    assert (seen.proven, seen.unread) == ({}, (running.pid,))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_a_zombie_that_a_debugger_keeps_is_gone(app: AppFolder, processes: Processes) -> None:
    thread = "import threading, time as t; threading.Thread(target=t.sleep, args=(999,), daemon=True).start()\n"
    app.script.write_text(thread + WEBUI)
    running = serve(app, processes, "webui.py", "--port", str(app.port))
    debugger = (
        "gdb",
        "-q",
        "-nx",
        "-ex",
        "set debuginfod enabled off",
        "-p",
        str(running.pid),
        "-ex",
        "shell sleep 60",
    )
    processes.start(debugger)
    eventually(lambda: psutil.Process(running.pid).status() == psutil.STATUS_TRACING_STOP, 60, what="gdb")
    done = launcher("stop", *app.arguments, "--stop-timeout", "1")
    assert done.status == 0, done.err
    assert f"killed pid {running.pid}" in done.err
