"""What `unit` prints keeps a real app running under a real systemd."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from configparser import RawConfigParser
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support import systemd
from tests.support.apps import (
    START_APP,
    WEBUI,
    AppFolder,
    Processes,
    clean_environment,
    eventually,
    free_port,
    get,
    launcher,
    make_app,
    program,
)
from tests.support.systemd import Machine

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


def waits(app: AppFolder) -> bool:
    """Tell whether the `wait` of a unit has loaded what it asks the page with."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if "wait" in words and f"/srv/{app.path.name}" in words:
            with suppress(OSError):
                return "_socket" in Path(f"/proc/{process.pid}/maps").read_text()
    return False


def by_hand(machine: Machine, processes: Processes, app: AppFolder, *arguments: str) -> str:
    """Start the app in the machine as a person does, without the launcher, and return its pid there."""
    shell = f"cd /srv/{app.path.name} && exec {systemd.PYTHON} webui.py --port {app.port} {' '.join(arguments)}"
    processes.start((*machine.inside, "sh", "-c", shell))
    return page_pid(app.port)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_stop_while_it_still_starts_is_no_failure(machine: Machine) -> None:
    app = machine.app("app", PATIENT)
    (app.path / "wait").touch()
    name = machine.install(app)
    machine.systemctl("start", "--no-block", name)
    eventually(lambda: '"argv"' in machine.journal(name), what="the app's first line")
    # Not while Python itself still starts, where SIGINT is a fatal error.
    eventually(lambda: waits(app), what="wait")
    machine.systemctl("stop", name)
    assert (machine.show(name, "ActiveState"), machine.show(name, "Result")) == ("inactive", "success")


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "status"),
    [("GRADIO_SERVER_PORT=http\n", "78"), ("APP_ARGS=--exit 65\n", "65"), ("APP_PYTHON=/none\n", "78")],
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


@pytest.mark.slow
def test_what_may_pass_by_itself_is_tried_again(machine: Machine) -> None:
    app = machine.app("app", WEBUI, "APP_ARGS=--exit 75\n")
    name = machine.install(app)
    machine.systemctl("start", "--no-block", name)
    eventually(lambda: int(machine.show(name, "NRestarts")) >= 2, what="two restarts")
    app.write_env(f"HF_HOME=./cache_hub\nGRADIO_SERVER_PORT={app.port}\n")
    eventually(lambda: machine.show(name, "ActiveState") == "active", what=machine.told(name))


@pytest.mark.slow
def test_a_stranger_on_the_port_is_left_and_not_tried_for_again(machine: Machine, processes: Processes) -> None:
    app = machine.app("app", WEBUI)
    processes.start((*machine.inside, systemd.PYTHON, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), what="page")
    name = machine.install(app)
    assert machine.systemctl("start", name, check=False).status != 0
    assert (machine.show(name, "ActiveState"), machine.show(name, "ExecMainStatus")) == ("failed", "69")
    assert f"port {app.port} is held" in machine.show(name, "StatusText")
    assert get(app.port)


@pytest.mark.slow
def test_the_unit_replaces_an_instance_that_was_started_by_hand(machine: Machine, processes: Processes) -> None:
    app = machine.app("app", WEBUI)
    old = by_hand(machine, processes, app)
    name = machine.install(app)
    machine.systemctl("start", name)
    assert page_pid(app.port) == machine.show(name, "MainPID") != old
    assert f"terminated pid {old}" in machine.journal(name)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


ODD = 'o\'dd "%n" $ 5$ \\x41 \\ é; #'


@pytest.mark.slow
def test_a_path_with_anything_in_it_reaches_the_launcher_unchanged(machine: Machine) -> None:
    app = machine.app(ODD, WEBUI)
    # The environment's folder is a link of an odd name: systemd would not take such a path as a program.
    environment = machine.folder / "srv" / "venv '$HOME' %n=\\"
    environment.symlink_to("/srv/python")
    interpreter = f"/srv/{environment.name}/bin/python"
    arguments = ("--app-dir", f"/srv/{ODD}", "--", "--", "a\nb", "$MAINPID", "%i", "\udcff", ";")
    printed = machine.run(interpreter, systemd.START_APP, "unit", *arguments)
    machine.write_unit("odd.service", printed.out)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "odd.service")
    main = page_pid(app.port)  # systemctl cannot show a unit whose command line is no text
    words = machine.run("cat", f"/proc/{main}/cmdline").out.split("\0")
    assert words[0] == interpreter
    assert words[4:-1] == ["--", "a\nb", "$MAINPID", "%i", "\ufffd", ";"]
    # A second start finds the first one by the same path.
    assert machine.launcher("--app-dir", f"/srv/{ODD}").status == 69


@pytest.mark.slow
def test_what_the_unit_keeps_the_app_from_leaves_devices_and_processes_in_sight(machine: Machine) -> None:
    app = machine.app("app", WEBUI)
    name = machine.install(app)
    machine.systemctl("start", name)
    shown = {
        option: machine.show(name, option)
        for option in ("PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "ProtectProc", "ProcSubset")
    }
    assert shown == {
        "PrivateDevices": "no",
        "DevicePolicy": "auto",
        "DeviceAllow": "",
        "ProtectClock": "no",
        "ProtectProc": "default",
        "ProcSubset": "all",
    }
    assert machine.show(name, "MemoryDenyWriteExecute") == "no"
    assert machine.show(name, "PrivateTmp") == "yes"
    main = machine.show(name, "MainPID")
    status = machine.run("cat", f"/proc/{main}/status").out
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    # Its lock lies where a launch by hand looks for it, and the cache can be written.
    assert app.lock_holder() == int(main)
    probe = "import os; open('/srv/app/cache_hub', 'w').close(); print(sorted(os.listdir('/dev')))"
    inside = machine.run("nsenter", "-t", main, "-m", systemd.PYTHON, "-c", probe).out
    assert inside == f"{sorted(os.listdir('/dev'))}\n"
    read_only = machine.run("nsenter", "-t", main, "-m", "touch", "/usr/x", check=False)
    assert read_only.status != 0


@pytest.mark.slow
def test_an_app_in_a_folder_that_units_may_not_write_gets_its_own_folder_back(machine: Machine) -> None:
    app = machine.app("app", WEBUI)
    home = "/usr/local/app"
    machine.run("sh", "-c", f"mount -t tmpfs tmpfs /usr/local && mkdir {home} && mount --bind /srv/app {home}")
    printed = machine.launcher("unit", "--app-dir", home, check=True).out
    assert f"ReadWritePaths=-{home}\n" in printed
    machine.write_unit("app.service", printed)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "app.service")
    assert app.lock_holder() == int(machine.show("app.service", "MainPID"))


@pytest.mark.slow
def test_a_unit_of_a_users_own_manager_runs_in_it(machine: Machine) -> None:
    app = machine.app("app", WEBUI)
    machine.write_unit(
        "user@0.service",
        "[Service]\nType=notify\nDelegate=yes\nEnvironment=XDG_RUNTIME_DIR=/run/user/0 HOME=/run/user/0\n"
        "Environment=SYSTEMD_UNIT_PATH=/run/units\n"
        "ExecStartPre=mkdir -p -m 700 /run/user/0\nExecStart=/lib/systemd/systemd --user --unit=test.target\n",
    )
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "user@0.service")
    printed = machine.launcher("unit", "--user", "--app-dir", "/srv/app", check=True).out
    machine.write_unit("app.service", printed)
    ours = ("env", "XDG_RUNTIME_DIR=/run/user/0", "systemctl", "--user")
    machine.run(*ours, "daemon-reload")
    machine.run(*ours, "start", "app.service")
    main = machine.run(*ours, "show", "--value", "--property=MainPID", "app.service").out.strip()
    assert get(app.port) == f"pid {main}"
    done = machine.launcher("--app-dir", "/srv/app")
    assert done.status == 69
    assert "systemctl --user restart app.service" in done.err
    machine.run(*ours, "stop", "app.service")
    assert get(app.port) is None


@pytest.mark.parametrize("kind", [("--user",), ("--supervisord",)])
def test_the_first_line_prints_the_unit_again_as_it_was_called(app: AppFolder, kind: tuple[str, ...]) -> None:
    words = ("--app-dir", app.path, "unit", *kind)
    done = launcher(*words, "-v", "--", "--fp16", "a b", cwd=app.path)
    first = done.out.splitlines()[0].lstrip("#; ").partition("|" if kind == ("--supervisord",) else ">")[0]
    assert first.strip() == f"{program(app.path)} --app-dir {app.path} unit {kind[0]} -- --fp16 'a b'"
    again = subprocess.run(("sh", "-c", first), cwd=app.path, env=clean_environment(), capture_output=True, timeout=60)
    assert again.stdout.decode() == done.out
    hidden = launcher(*words, "--", "--auth", "me:hunter2", cwd=app.path)
    assert "hunter2" not in hidden.out


def verified(folder: Path, name: str, text: str, *flags: str) -> str:
    """Return what systemd-analyze has to say of a unit; nothing is the best that it says."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = folder / name
    path.write_text(text, errors="surrogateescape")
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        ("systemd-analyze", "verify", "--man=no", *flags, str(path)),
        env=clean_environment(XDG_RUNTIME_DIR=str(runtime)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    # Other units of this machine that it comes across on the way are not ours to judge.
    return "".join(line for line in done.stderr.splitlines(keepends=True) if name in line)


@pytest.mark.parametrize("flags", [(), ("--template",), ("--user",), ("--template", "--user")])
@pytest.mark.parametrize("folder", ["app", ODD])
def test_systemd_analyze_has_nothing_to_say_of_any_unit(flags: tuple[str, ...], folder: str, tmp_path: Path) -> None:
    app = make_app(tmp_path / folder)
    app.write_env("HF_HOME=./cache hub\n")
    done = launcher("unit", "--json", *flags, "--app-dir", app.path, "--host", "0.0.0.0", "--locked", "--", "--fp16")
    assert (done.status, done.err) == (0, "")
    name = done.json["name"].replace("@.", "@7860.")
    assert verified(tmp_path, name, done.json["unit"], *(("--user",) if "--user" in flags else ())) == ""


def test_a_section_of_supervisord_has_nothing_that_it_would_take_for_a_comment(tmp_path: Path) -> None:
    app = make_app(tmp_path / "my ;1 #2 app")
    text = launcher("unit", "--supervisord", "--app-dir", app.path, "--", "# ;").out
    whole, cut = (RawConfigParser(inline_comment_prefixes=prefixes) for prefixes in (None, (";", "#")))
    for parser in (whole, cut):  # the second is supervisord's
        parser.read_string(text)
    (section,) = cut.sections()
    assert dict(cut.items(section)) == dict(whole.items(section))
    assert shlex.split(cut.get(section, "command"))[3] == str(app.path)


def test_the_unit_has_what_flags_and_this_shell_say_and_leaves_the_rest_to_the_env_file(app: AppFolder) -> None:
    env_file = app.write_env("GRADIO_SERVER_NAME=0.0.0.0\nAPP_LOCKED=1\n")
    plain = launcher("unit", "--app-dir", app.path).out
    starts = re.findall(r"^ExecStart(?:Post)?=(.*)$", plain, re.MULTILINE)
    called = f"{sys.executable} {START_APP}"
    where = f"--app-dir {app.path} --env-file {env_file}"
    assert starts == [f"{called} {where}", f"{called} wait {where} --timeout 21600 --pid $MAINPID"]
    assert "EnvironmentFile" not in plain
    env = clean_environment(GRADIO_SERVER_PORT="7999", HF_HOME="/models", HF_ENDPOINT="https://hf-mirror.com")
    done = launcher("unit", "--app-dir", app.path, "--python", sys.executable, "--locked", "--", "--fp16", env=env)
    (start,) = re.findall(r"^ExecStart=(.*)$", done.out, re.MULTILINE)
    assert start == f"{called} {where} --port 7999 --python {sys.executable} --locked -- --fp16"
    for name in ("HF_HOME", "HF_ENDPOINT"):
        assert f"{name} is set in this shell only: put it into .env" in done.err
    assert "GRADIO_SERVER_PORT" not in done.err
    template = launcher("unit", "--template", "--app-dir", app.path, env=env).out
    assert len(re.findall(r" --port %i(?: |$)", template, re.MULTILINE)) == 3


def test_root_prints_a_unit_for_whom_the_app_belongs_to(app: AppFolder) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    assert "\nUser=root\n" in launcher("unit", "--app-dir", app.path).out
    os.chown(app.path, 65534, 65534)
    assert re.search(r"^User=(nobody|65534)$", launcher("unit", "--app-dir", app.path).out, re.MULTILINE)
    assert "User=" not in launcher("unit", "--user", "--app-dir", app.path).out


def test_a_unit_whose_user_cannot_reach_the_launcher_is_warned_of(app: AppFolder, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    closed = tmp_path / "closed"
    shutil.copytree(START_APP.parent / "launcher", closed / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(START_APP, closed)
    closed.chmod(0o700)
    arguments = ("unit", "--app-dir", app.path)
    assert "keeps that user" not in launcher(*arguments, start_app=closed / "start_app.py").err
    os.chown(app.path, 65534, 65534)
    told = launcher(*arguments, start_app=closed / "start_app.py").err
    assert re.search(rf"and /\S+ keeps that user from {closed}/start_app\.py$", told, re.MULTILINE)


@pytest.mark.parametrize("arguments", [("--template",), ("status", "--user"), ("wait", "--pid", "0"), ("unit", "x")])
def test_options_of_the_unit_go_with_it_alone(arguments: tuple[str, ...], app: AppFolder) -> None:
    assert launcher(*arguments, *app.arguments).status == 2


@pytest.mark.slow
def test_where_the_driver_has_a_helper_it_makes_the_device_files_before_the_app_may_gain_no_privileges(
    machine: Machine,
) -> None:
    # There is no GPU here: a program of that name tells how it was called, and what it may do.
    app = machine.app("app", WEBUI)
    helper = machine.folder / "srv" / "bin" / "nvidia-modprobe"
    helper.parent.mkdir()
    helper.write_text('#!/bin/sh\n(echo "$@"; grep NoNewPrivs /proc/self/status) > /srv/called\nexit 1\n')
    helper.chmod(0o755)
    printed = machine.run(
        "env", f"PATH=/srv/bin:{os.environ['PATH']}", systemd.PYTHON, systemd.START_APP, "unit", "--app-dir", "/srv/app"
    )
    machine.write_unit("app.service", printed.out)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "app.service")  # that it fails is no reason not to start
    assert (machine.folder / "srv" / "called").read_text().split() == ["-u", "-c=0", "NoNewPrivs:", "0"]
    assert get(app.port)
