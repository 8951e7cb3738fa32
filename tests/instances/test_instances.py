"""Who is taken for an instance of the app, tried on real processes: the launcher is run, then it is seen who lives."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from launcher.instances.command_line import wrapped_argument
from launcher.instances.port import another, probe
from tests.support.apps import (
    START_APP,
    WEBUI,
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

Start = Callable[[AppFolder, Processes], Running]

# Where a test waits for a program that prints nothing, what it waits for is its command line.
RUNNER = """\
import subprocess, sys
sys.exit(subprocess.call([sys.executable, *sys.argv[sys.argv.index("launch") + 1:]]))
"""


def python(app: AppFolder, processes: Processes, *command: str | Path, cwd: Path | None = None) -> Running:
    """Start an instance and wait until it serves."""
    running = processes.start((sys.executable, *command, "--port", str(app.port)), cwd=cwd or app.path)
    eventually(lambda: get(app.port), what=running.err)
    return running


def relative(app: AppFolder, processes: Processes) -> Running:
    return python(app, processes, "webui.py")


def absolute_from_elsewhere(app: AppFolder, processes: Processes) -> Running:
    return python(app, processes, app.script, cwd=Path("/"))


def with_dots(app: AppFolder, processes: Processes) -> Running:
    return python(app, processes, f"../{app.path.name}/./webui.py")


def with_options(app: AppFolder, processes: Processes) -> Running:
    return python(app, processes, "-u", "-X", "dev", "-W", "ignore", "webui.py")


def with_joined_options(app: AppFolder, processes: Processes) -> Running:
    return python(app, processes, "-BuWignore", "-Xdev", "--check-hash-based-pycs", "default", "webui.py")


def as_module(app: AppFolder, processes: Processes) -> Running:
    return python(app, processes, "-m", "webui")


def as_joined_module(app: AppFolder, processes: Processes) -> Running:
    return python(app, processes, "-umwebui")


def through_linked_folder(app: AppFolder, processes: Processes) -> Running:
    link = app.path.parent / "link"
    link.symlink_to(app.path)
    return python(app, processes, link / "webui.py", cwd=link)


def through_linked_script(app: AppFolder, processes: Processes) -> Running:
    link = app.path / "other_name.py"
    link.symlink_to("webui.py")
    return python(app, processes, "other_name.py")


def in_background_shell(app: AppFolder, processes: Processes) -> Running:
    command = f"cd {app.path}; {sys.executable} webui.py --port {app.port}; echo after $?"
    running = processes.start(("bash", "-c", command))
    eventually(lambda: get(app.port), what="page")
    return running


@pytest.mark.parametrize(
    "start",
    [
        relative,
        absolute_from_elsewhere,
        with_dots,
        with_options,
        with_joined_options,
        as_module,
        as_joined_module,
        through_linked_folder,
        through_linked_script,
    ],
)
def test_an_instance_is_found_however_it_was_started(start: Start, app: AppFolder, processes: Processes) -> None:
    running = start(app, processes)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert running.wait(1) == -signal.SIGTERM
    assert f"stopping: pid {running.pid}, " in done.err
    assert f"terminated pid {running.pid} (" in done.err
    assert get(app.port) is None


def test_a_path_with_spaces_is_one_path(tmp_path: Path, processes: Processes) -> None:
    app = make_app(tmp_path / "my app ü")
    running = python(app, processes, app.script)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert running.wait(1) == -signal.SIGTERM


def test_an_instance_started_through_a_link_is_found_from_the_link_and_from_the_folder(
    app: AppFolder, processes: Processes
) -> None:
    link = app.path.parent / "current"
    link.symlink_to(app.path)
    for start_in, look_from in ((link, app.path), (app.path, link)):
        running = python(app, processes, "webui.py", cwd=start_in)
        done = launcher("stop", "--app-dir", look_from, "--port", str(app.port))
        assert done.status == 0
        assert running.wait(1) == -signal.SIGTERM


def test_the_shell_around_an_instance_is_not_touched(app: AppFolder, processes: Processes) -> None:
    shell = in_background_shell(app, processes)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert shell.wait(5) == 0
    assert "after 143" in shell.out  # it saw its child die of SIGTERM, and went on
    assert f"stopping: pid {shell.pid}," not in done.err


@pytest.mark.parametrize("program", ["vim", "less", "tail", "grep"])
def test_a_program_that_only_reads_the_script_is_left(program: str, app: AppFolder, processes: Processes) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    options = {"tail": ("-f", "webui.py"), "grep": ("x", "webui.py", "-")}.get(program, ("webui.py",))
    controller, terminal = pty.openpty()
    streams = {} if program in ("tail", "grep") else {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    if program == "grep":
        streams = {"stdin": terminal}
    running = processes.start((program, *options), cwd=app.path, env=clean_environment(TERM="xterm"), **streams)
    eventually(lambda: "webui.py" in psutil.Process(running.pid).cmdline(), what=program)
    done = launcher("--no-launch", "-v", *app.arguments)
    assert done.status == 0
    assert alive(running.pid)
    assert "terminated" not in done.err
    assert f"no instance: pid {running.pid}, {program}" in done.err
    assert "not a Python" in done.err
    os.close(controller)
    os.close(terminal)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-c", "import time; time.sleep(600)  # python webui.py", "webui.py"), "a Python that runs no script"),
        (("-Ic", "import time; time.sleep(600)", "webui.py"), "a Python that runs no script"),
        (("-mtimeit", "-s", "import time", "time.sleep(600)", "webui.py"), "it runs another file"),
        (("sleeper.py", "webui.py"), "it runs another file"),
        (("sleeper.py", "--script=webui.py"), "it runs another file"),
    ],
)
def test_a_python_that_only_mentions_the_script_is_left(
    arguments: tuple[str, ...], reason: str, app: AppFolder, processes: Processes
) -> None:
    (app.path / "sleeper.py").write_text("import time; time.sleep(600)")
    running = processes.start((sys.executable, *arguments), cwd=app.path)
    eventually(lambda: "webui.py" in " ".join(psutil.Process(running.pid).cmdline()[-1:]), what="exec")
    done = launcher("--no-launch", "-v", *app.arguments)
    assert done.status == 0
    assert alive(running.pid)
    line = next(line for line in done.err.splitlines() if f"pid {running.pid}," in line)
    assert line.startswith("no instance: ")
    assert line.endswith(reason)


def test_a_stranger_that_calls_itself_python_webui_is_left(app: AppFolder, processes: Processes) -> None:
    running = processes.start(("bash", "-c", "exec -a python sleep 600 # webui.py"), cwd=app.path)
    titled = processes.start(("bash", "-c", "exec -a 'python webui.py' sleep 600"), cwd=app.path)
    eventually(lambda: psutil.Process(titled.pid).name() == "sleep", what="exec")
    done = launcher("--no-launch", "-v", *app.arguments)
    assert done.status == 0
    assert alive(running.pid)
    assert alive(titled.pid)


@pytest.mark.parametrize("copy", ["copied", "hard-linked"])
def test_another_checkout_is_left(copy: str, app: AppFolder, processes: Processes, tmp_path: Path) -> None:
    other = AppFolder(tmp_path / "other", free_port())
    other.path.mkdir()
    (shutil.copy if copy == "copied" else os.link)(app.script, other.script)
    running = python(other, processes, "webui.py")
    done = launcher("--no-launch", "-v", *app.arguments)
    assert done.status == 0
    assert alive(running.pid)
    assert f"no instance: pid {running.pid}, " in done.err
    assert "it runs another file" in done.err


def test_another_checkout_on_our_port_is_refused_and_named(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    other = AppFolder(make_app(tmp_path / "other").path, app.port)
    running = python(other, processes, "webui.py")
    done = launcher(*app.arguments)
    assert done.status == 69
    assert f"port {app.port} is held on 127.0.0.1 by pid {running.pid}, " in done.err
    assert "which is not this app's instance" in done.err
    assert f"/start_app.py --app-dir {app.path} --port {app.port} --take-port; " in done.err
    assert "hint: to stop it first: " in done.err
    assert "; to leave it alone: " in done.err
    assert alive(running.pid)
    status = launcher("status", *app.arguments)
    assert status.status == 0
    assert "hint: to stop it first: " in status.err
    assert " --take-port; to leave it alone: " in status.err


def test_the_other_port_of_a_hint_is_free_and_not_that_of_a_sibling(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    port = next(port for port in iter(free_port, None) if probe(None, port + 1) == "free")
    python(AppFolder(make_app(tmp_path / "other").path, port), processes, "webui.py")
    loading = processes.start((sys.executable, "webui.py", "--port", str(port + 1), "--load", "600"), cwd=app.path)
    eventually(lambda: "--load" in psutil.Process(loading.pid).cmdline(), what="exec")
    done = launcher("--app-dir", str(app.path), "--port", str(port))
    assert done.status == 69
    named = re.search(rf" leave it alone: .* --app-dir {app.path} --port (\d+)$", done.err, re.MULTILINE)
    assert named and int(named[1]) > port + 1
    assert probe(None, int(named[1])) == "free"


def test_another_port_is_a_valid_one_at_either_end() -> None:
    assert 1024 < another((), 65535) < 65535
    assert another((65534,), 65535) < 65534
    assert 1 < another((), 1) < 102


def test_a_folder_deleted_and_made_anew_is_still_the_apps(app: AppFolder, processes: Processes) -> None:
    running = python(app, processes, "webui.py")
    shutil.rmtree(app.path)
    make_app(app.path)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert running.wait(1) == -signal.SIGTERM


def test_a_folder_that_only_ends_in_deleted_is_another_folder(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    other = make_app(tmp_path / "app (deleted)")
    running = python(other, processes, "webui.py")
    done = launcher("--no-launch", "-v", *app.arguments)
    assert done.status == 0
    assert alive(running.pid)


def test_a_folder_moved_away_is_another_checkout(app: AppFolder, processes: Processes, tmp_path: Path) -> None:
    running = python(app, processes, "webui.py")
    app.path.rename(tmp_path / "old")
    make_app(app.path)
    done = launcher(*app.arguments)
    assert done.status == 69
    assert alive(running.pid)


def test_an_app_that_went_to_another_folder_is_not_taken_for_the_app_there(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    wanderer = make_app(tmp_path / "wanderer", f"import os; os.chdir({str(app.path)!r})\n" + WEBUI)
    env = clean_environment(PWD=str(wanderer.path))
    running = processes.start((sys.executable, "webui.py", "--port", str(wanderer.port)), cwd=wanderer.path, env=env)
    eventually(lambda: get(wanderer.port), what="page")
    done = launcher("--no-launch", "-v", *app.arguments)
    assert done.status == 0
    assert alive(running.pid)
    assert "name different scripts" in done.err


def test_an_app_launched_by_us_is_known_by_its_lock_when_it_changed_folder_and_name(
    app: AppFolder, processes: Processes
) -> None:
    body = "import os, ctypes\nos.chdir('/')\n" + WEBUI
    app.script.write_text(body)
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert running.wait(1) == -signal.SIGTERM


def test_uv_run_goes_with_its_app(app: AppFolder, processes: Processes) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert uv, "uv belongs to the test requirements"
    command = (uv, "run", "--no-project", "--offline", "--python", sys.executable, "webui.py", "--port", str(app.port))
    running = processes.start(command, cwd=app.path)
    eventually(lambda: get(app.port), what=running.err)
    below = psutil.Process(running.pid).children(recursive=True)
    assert below, "uv is expected to be the parent of the app"
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert f"stopping: pid {running.pid}, {uv} run" in done.err
    assert f"terminated pid {running.pid} and {len(below)} below it" in done.err
    running.wait(5)
    assert not any(alive(process.pid) for process in below)


NOT_WRAPPED = (
    "uv run -n vim webui.py",
    "uv run vim webui.py",
    "uv run --some-new-option x webui.py",
    "uv pip install webui.py",
    "uv add --script webui.py x",
    "conda run -n tts vim webui.py",
    "poetry run grep x webui.py",
    "python bin/gradio sketch webui.py",
    "python bin/gradio deploy --app-file webui.py",
    "python bin/torchrun train.py --page webui.py",
    "python bin/accelerate launch train.py webui.py",
    "python bin/accelerate config --file webui.py",
    "python -m torch.distributed.run train.py webui.py",
    "python bin/other webui.py",
)
WRAPPED = (
    "uv run webui.py --port 7860",
    "uv run -n --with x --python=3.11 webui.py",
    "uv run --no-sync python -u webui.py",
    "uv run -- webui.py",
    "conda run -n tts --no-capture-output python webui.py",
    "poetry run python webui.py",
    "pixi run -e gpu python webui.py",
    "python bin/accelerate launch --num_processes 1 --config_file x.yaml webui.py --port 7860",
    "python -m accelerate.commands.launch webui.py",
    "python bin/torchrun --nproc_per_node=1 --rdzv_id x webui.py train.py",
    "python -m torch.distributed.run webui.py",
    "python bin/gradio webui.py --watch-dirs x",
)


@pytest.mark.parametrize(("line", "wrapped"), [*((w, True) for w in WRAPPED), *((w, False) for w in NOT_WRAPPED)])
def test_a_wrapper_is_one_only_if_what_it_was_told_to_run_is_the_script(line: str, wrapped: bool) -> None:
    argv = line.split()
    found = wrapped_argument(argv, python=argv[0] == "python")
    assert (found is not None and found.text == "webui.py") is wrapped


def test_an_editor_under_uv_run_is_left(app: AppFolder, processes: Processes) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert uv
    running = processes.start((uv, "run", "--no-project", "--offline", "tail", "-f", "webui.py"), cwd=app.path)
    eventually(lambda: psutil.Process(running.pid).children(), what="tail")
    done = launcher("--no-launch", "-v", *app.arguments)
    assert done.status == 0
    assert alive(running.pid)


@pytest.mark.parametrize("loading", [False, True])
def test_a_runner_like_accelerate_goes_with_its_app(loading: bool, app: AppFolder, processes: Processes) -> None:
    runner = app.path / "accelerate"
    runner.write_text("import time; time.sleep(600)" if loading else RUNNER)
    command = (sys.executable, runner, "launch", "webui.py", "--port", str(app.port))
    running = processes.start(command, cwd=app.path)
    if loading:
        eventually(lambda: psutil.Process(running.pid).cmdline()[-1:] == [str(app.port)], what="exec")
    else:
        eventually(lambda: get(app.port), what=running.err)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert f"stopping: pid {running.pid}, " in done.err
    running.wait(5)
    assert get(app.port) is None


def test_a_sibling_on_another_port_is_left_and_named(app: AppFolder, processes: Processes) -> None:
    sibling = AppFolder(app.path, free_port())
    running = python(sibling, processes, "webui.py")
    ours = python(app, processes, "webui.py")
    done = launcher("--no-launch", *app.arguments)
    assert done.status == 0
    assert ours.wait(1) == -signal.SIGTERM
    assert get(sibling.port) == f"pid {running.pid}"
    assert f"left: pid {running.pid}, " in done.err
    assert f"this app's instance on port {sibling.port}" in done.err


@pytest.mark.parametrize("command", ["status", "stop"])
def test_the_wrong_port_is_answered_with_that_of_the_other_instance(
    command: str, app: AppFolder, processes: Processes
) -> None:
    sibling = AppFolder(app.path, free_port())
    python(sibling, processes, "webui.py")
    done = launcher(command, *app.arguments)
    assert done.status == 0
    (hint,) = [line for line in done.err.splitlines() if line.startswith("hint: ")]
    assert hint.endswith(f" {command} --port {sibling.port}")
    assert f"--port {app.port}" not in hint
    right = launcher(command, *sibling.arguments)
    assert right.status == 0
    assert "hint" not in right.err


@pytest.mark.parametrize("how", ["argument", "joined argument", "environment"])
def test_a_sibling_that_still_loads_is_known_by_the_port_it_was_told(
    how: str, app: AppFolder, processes: Processes
) -> None:
    port = free_port()
    told = {"argument": ("--port", str(port)), "joined argument": (f"--port={port}",), "environment": ()}[how]
    env = clean_environment(GRADIO_SERVER_PORT=str(port)) if how == "environment" else clean_environment()
    running = processes.start((sys.executable, "webui.py", "--load", "600", *told), cwd=app.path, env=env)
    running.hello()
    done = launcher("--no-launch", *app.arguments)
    assert done.status == 0
    assert alive(running.pid)
    assert f"this app's instance on port {port}" in done.err


def test_an_instance_that_still_loads_is_stale_if_it_was_told_our_port(app: AppFolder, processes: Processes) -> None:
    port = ("--port", str(app.port))
    running = processes.start((sys.executable, "webui.py", "--load", "600", *port), cwd=app.path)
    running.hello()
    done = launcher("--no-launch", *app.arguments)
    assert done.status == 0
    assert running.wait(1) == -signal.SIGTERM


def test_an_instance_that_was_told_no_port_is_left_by_a_launch_on_a_port_that_was_chosen(
    app: AppFolder, processes: Processes
) -> None:
    running = processes.start((sys.executable, "webui.py", "--load", "600"), cwd=app.path)
    running.hello()
    done = launcher("--no-launch", *app.arguments)
    assert done.status == 0
    assert alive(running.pid)
    assert f"left: pid {running.pid}, " in done.err
    assert (
        f"this app's instance, it was started without a port, and this launch's port {app.port} is not the default"
        in done.err
    )


def test_a_zombie_is_gone_and_costs_no_time(app: AppFolder, processes: Processes) -> None:
    running = processes.start((sys.executable, "webui.py", "--exit", "0", "--port", str(app.port)), cwd=app.path)
    eventually(lambda: psutil.Process(running.pid).status() == psutil.STATUS_ZOMBIE, what="zombie")
    done = launcher("stop", *app.arguments, "--stop-timeout", "30", timeout=10)
    assert done.status == 0
    assert "not running" in done.err


def test_the_launcher_and_its_ancestors_are_no_instances_whatever_they_are_called(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    # An outer python webui.py (another file) starts a bash called "python webui.py", which starts the launcher.
    other = tmp_path / "outer"
    other.mkdir()
    command = (
        f"exec -a '{sys.executable} webui.py' {sys.executable} {START_APP} --no-launch -v {' '.join(app.arguments)}"
    )
    (other / "webui.py").write_text(f"import subprocess, sys; sys.exit(subprocess.call(['bash', '-c', {command!r}]))")
    outer = processes.start((sys.executable, "webui.py"), cwd=other)
    assert outer.wait() == 0
    assert "terminated" not in outer.err
    assert "not launched" in outer.err


def test_a_launcher_started_from_inside_the_instance_on_its_port_refuses(app: AppFolder, processes: Processes) -> None:
    arguments = [sys.executable, str(START_APP), *app.arguments]
    app.script.write_text(
        "import subprocess, sys, time\n"
        f"done = subprocess.run({arguments!r}, capture_output=True, text=True)\n"
        "print('{\"status\": %d}' % done.returncode, done.stderr, flush=True)\n"
        "time.sleep(600)\n"
    )
    running = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
    eventually(lambda: "hint:" in running.out, what="refusal")
    assert '{"status": 69}' in running.out
    assert f"started from inside the instance on port {app.port}: pid {running.pid}" in running.out
    assert alive(running.pid)


def test_a_launcher_started_from_inside_a_sibling_may_go_on(app: AppFolder, processes: Processes) -> None:
    arguments = [sys.executable, str(START_APP), "--no-launch", *app.arguments]
    app.script.write_text(
        "import subprocess, sys, time\n"
        f"done = subprocess.run({arguments!r}, capture_output=True, text=True)\n"
        "print('{\"status\": %d}' % done.returncode, done.stderr, flush=True)\n"
        "time.sleep(600)\n"
    )
    running = processes.start((sys.executable, "webui.py", "--port", str(free_port())), cwd=app.path)
    eventually(lambda: "not launched" in running.out, what="end")
    assert '{"status": 0}' in running.out
    assert alive(running.pid)


def test_a_foreign_process_on_the_port_is_refused_and_named(app: AppFolder, processes: Processes) -> None:
    server = processes.start((sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), what="page")
    stale = processes.start((sys.executable, "webui.py", "--load", "600", "--port", str(app.port)), cwd=app.path)
    stale.hello()
    done = launcher(*app.arguments)
    assert done.status == 69
    assert f"by pid {server.pid}, " in done.err
    assert "http.server" in done.err
    assert alive(server.pid)
    assert alive(stale.pid)  # nothing is stopped when the launch must refuse anyway


def test_a_listener_on_another_address_does_not_stand_in_the_way(app: AppFolder, processes: Processes) -> None:
    server = processes.start((sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.2"))
    eventually(lambda: get(app.port, "127.0.0.2"), what="page")
    assert launcher("--no-launch", *app.arguments, "--host", "127.0.0.1").status == 0
    assert launcher("--no-launch", *app.arguments, "--host", "127.0.0.2").status == 69
    assert launcher("--no-launch", *app.arguments).status == 69  # an unknown host may be every interface
    assert alive(server.pid)


def test_hostile_command_lines_are_shown_escaped_and_without_secrets(app: AppFolder, processes: Processes) -> None:
    token = "hf_" + "a" * 30
    running = processes.start(
        (sys.executable, "webui.py", "--port", str(app.port), "--load", "600", "\x1b[31mred\n", token), cwd=app.path
    )
    running.hello()
    done = launcher("--dry-run", *app.arguments)
    assert done.status == 0
    assert f"would terminate pid {running.pid}" in done.out
    assert "\x1b" not in done.out
    assert token not in done.out
    assert alive(running.pid)
