from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dotenv
import psutil
import pytest

from tests.support.apps import (
    ROOT,
    START_APP,
    AppFolder,
    Done,
    Processes,
    alive,
    clean_environment,
    eventually,
    get,
    launcher,
    make_app,
    program,
)
from tests.support.launched import hello, received


def said(done: Done) -> tuple[str, str]:
    """Return the one line of the error and its hint, and see that nothing else was said but what the app would use."""
    assert done.out == ""
    *facts, message, hint = done.err.splitlines()
    assert not [line for line in facts if not line.startswith(("interpreter: ", "endpoint: ", "cache: "))], done.err
    assert hint.startswith("hint: ")
    return message, hint


BAD_FLAGS = [
    (("--port", "0"), 2, "'0' is not a valid port"),
    (("--port", "65536"), 2, "'65536' is not a valid port"),
    (("--port", "abc"), 2, "'abc' is not a valid port"),
    (("--port",), 2, "argument -p/--port: expected one argument"),
    (("--host", "a b"), 2, "'a b' is not a host name or address"),
    (("--host", "192.0.2.1"), 2, "host 192.0.2.1 is not an address of this machine"),
    (("--python", "/bin/true"), 2, "/bin/true is not a Python interpreter"),
    (("--python", "/nowhere/python"), 2, "no such file"),
    (("--env-file", "/nowhere/.env"), 2, "cannot read /nowhere/.env: No such file"),
    (("--env-file", "/"), 2, "cannot read /: it is a folder"),
    (("--app-dir", "/nowhere"), 2, "the app's folder /nowhere does not exist"),
    (("--app-dir", "/bin/true"), 2, "the app's folder /bin/true is not a folder"),
    (("--app-dir", "/proc"), 78, "no webui.py in /proc"),
    (("--stop-timeout", "soon"), 2, "--stop-timeout: 'soon' is not a number of seconds"),
    (("--stop-timeout", "-1"), 2, "is not a number of seconds"),
    (("--stop-timeout", "nan"), 2, "is not a number of seconds"),
    (
        ("--timeout", "5"),
        2,
        "--timeout needs --background: in the foreground",
    ),
    (("--model_dir", "checkpoints"), 2, "unknown option --model_dir"),
    (("--model_dir=checkpoints",), 2, "unknown option --model_dir=checkpoints"),
    (("--fp16",), 2, "unknown option --fp16"),
    (("--pyth", "x"), 2, "unknown option --pyth"),
    (("-x",), 2, "unknown option -x"),
    (("checkpoints",), 2, "unknown command 'checkpoints'"),
    (("status", "stop"), 2, "one command at a time: status stop"),
    (("status", "--take-port"), 2, "--take-port does not go with status"),
    (("status", "--", "--fp16"), 2, "status takes no arguments for the app"),
    (("-q", "-v"), 2, "-q and -v cannot be used together"),
    (("--", "--port", "1"), 2, "the app would get --port 1 (after --)"),
    (("--", "--por=1"), 2, "the app would get --port 1 (after --)"),
    (("status", "-vn"), 2, "--dry-run does not go with status"),
]


@pytest.mark.slow
def test_a_bad_flag_is_one_line_and_a_hint_and_touches_no_running_app(app: AppFolder, processes: Processes) -> None:
    (app.path / "cache_hub" / "models--a--b").mkdir(parents=True)
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    for arguments, status, message in BAD_FLAGS:
        done = launcher(*app.arguments, *arguments)
        assert done.status == status, (arguments, done.err)
        assert message in said(done)[0]
    assert alive(running.pid)
    assert get(app.port) == f"pid {running.pid}"
    assert (app.path / "cache_hub" / "models--a--b").is_dir()


BAD_VARIABLES = [
    ("GRADIO_SERVER_PORT", "0", "'0' is not a valid port"),
    ("GRADIO_SERVER_PORT", "65536", "'65536' is not a valid port"),
    ("GRADIO_SERVER_PORT", "abc", "'abc' is not a valid port"),
    ("GRADIO_SERVER_NAME", "a b", "is not a host name or address"),
    ("HF_ENDPOINT", "hf-mirror.com", "'hf-mirror.com' is not an http(s) address"),
    ("HF_HOME", "webui.py", "is not a folder"),
    ("APP_PYTHON", "/bin/true", "/bin/true is not a Python interpreter: another program"),
    ("APP_SCRIPT", "none.py", "no none.py in"),
    ("APP_PORT_FLAG", "port", "is not an option name"),
    ("APP_ARGS", "--x 'y", "cannot be split"),
]


@pytest.mark.slow
def test_a_bad_value_from_elsewhere_is_configuration_and_touches_no_running_app(
    app: AppFolder, processes: Processes
) -> None:
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    port = ("--port", str(app.port))
    for name, value, message in BAD_VARIABLES:
        arguments = () if name == "GRADIO_SERVER_PORT" else port
        outside = launcher("--app-dir", app.path, *arguments, env=clean_environment(**{name: value}))
        quoted = '"' + value + '"'
        app.write_env(f"# settings\n{name}={quoted}\n")
        inside = launcher("--app-dir", app.path, *arguments)
        (app.path / ".env").unlink()
        for done, origin in ((outside, "environment"), (inside, ".env line 2")):
            assert done.status == 78, (name, value, done.err)
            assert message in said(done)[0]
            assert origin in done.err or name == "APP_SCRIPT"
    assert get(app.port) == f"pid {running.pid}"


def test_a_missing_script_stops_nothing(app: AppFolder, processes: Processes) -> None:
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    app.script.rename(app.path / "moved.py")
    for done in (launcher(*app.arguments), launcher("stop", *app.arguments), launcher(*app.arguments, "--no-launch")):
        assert done.status == 78
        assert said(done)[0] == f"no webui.py in {app.path}"
    app.script.mkdir()
    done = launcher(*app.arguments)
    assert (done.status, said(done)[0]) == (78, f"{app.script} is a folder, not a script")
    assert get(app.port) == f"pid {running.pid}"


def test_a_comment_behind_the_endpoint_is_fine_in_the_file_and_named_with_its_cause_elsewhere(app: AppFolder) -> None:
    line = "https://hf-mirror.com # comment"
    done = launcher(*app.arguments, env=clean_environment(HF_ENDPOINT=line))
    assert done.status == 78
    message, hint = said(done)
    assert message == f"'{line}' is not an http(s) address (HF_ENDPOINT, environment)"
    assert "HF_ENDPOINT=https://hf-mirror.com with nothing after it on the line" in hint
    assert "systemd's EnvironmentFile= keeps comments" in hint
    app.write_env(f"HF_ENDPOINT={line}\n")
    assert received(app)["env"]["HF_ENDPOINT"] == "https://hf-mirror.com"


@pytest.mark.parametrize(
    ("arguments", "unknown", "shown"),
    [
        (("--model_dir", "checkpoints"), "--model_dir", "start_app.py -- --model_dir checkpoints"),
        (("--model_dir=checkpoints",), "--model_dir=checkpoints", "start_app.py -- --model_dir=checkpoints"),
        (("--fp16",), "--fp16", "start_app.py -- --fp16"),
        (("--fp16", "--model_dir", "x"), "--fp16", "start_app.py -- --fp16 --model_dir x"),
        (("-v", "--fp16", "--", "--lang", "zh"), "--fp16", "start_app.py --verbose -- --fp16 --lang zh"),
        (("unit", "--fp16"), "--fp16", "start_app.py unit -- --fp16"),
    ],
)
def test_an_unknown_option_is_named_and_shown_in_its_right_place(
    arguments: tuple[str, ...], unknown: str, shown: str
) -> None:
    done = launcher(*arguments)
    assert done.status == 2
    pasteable = shown.replace("start_app.py", program())
    assert said(done) == (f"unknown option {unknown}", f"hint: if it is the app's own, put it after --: {pasteable}")


def test_a_hint_for_a_command_line_that_cannot_be_read_means_the_same_app(tmp_path: Path) -> None:
    folder = tmp_path / "my app"
    given = ("--demo", "--app-dir", str(folder), "-p", "7901", "--env-file=x.env")
    kept = f"--demo --app-dir '{folder}' --port 7901 --env-file x.env"
    for words, own in ((("--fp16",), "-- --fp16"), (("--fp16", "--", "--lang", "zh"), "-- --fp16 --lang zh")):
        assert said(launcher(*given, *words))[1].endswith(f"{program()} {kept} {own}")
    assert f"{program()} {kept}; " in said(launcher(*given, "start"))[1]
    contradiction = launcher("--port", "7901", "--background", "--no-launch")
    assert f"{program()} --port 7901 " in said(contradiction)[1]


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("start",), "to restart the app, give no command: {program}; "),
        (("--stop",), "did you mean stop? {program} stop; "),
        (("--prot", "1"), "did you mean --port? {program} --port 1; "),
        (("statsu",), "did you mean status? {program} status; "),
    ],
)
def test_a_word_that_is_nearly_one_of_ours_is_guessed(arguments: tuple[str, ...], meant: str) -> None:
    done = launcher(*arguments)
    assert done.status == 2
    assert said(done)[1].startswith("hint: " + meant.format(program=program()))


def test_a_hint_can_be_pasted_as_it_is(app: AppFolder, processes: Processes) -> None:
    app.write_env("GRADIO_SERVER_NAME=127.0.0.1\n")
    server = processes.start((sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), what="page")
    hint = said(launcher(*app.arguments))[1].removeprefix("hint: ")
    assert launcher("-n", "--json", *app.arguments).json["hint"].replace(" --json", "") == hint
    command = hint.removeprefix("to stop it first: ").partition("; ")[0]
    assert command == f"{program()} --app-dir {app.path} --port {app.port} --take-port"
    words = [*shlex.split(command), "--no-launch"]
    done = subprocess.run(words, cwd=ROOT.parent, env=clean_environment(), check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert server.wait(5) == -signal.SIGTERM


@pytest.mark.parametrize("line", ["HF_HOME ./cache_hub", "set HF_HOME=./cache_hub", 'HF_HOME="./cache_hub'])
def test_a_broken_line_about_a_setting_is_refused_and_not_passed_over(app: AppFolder, line: str) -> None:
    # The app would start with another cache, and fill another disk.
    app.write_env(f"# first\n{line}\n")
    done = launcher(*app.arguments)
    assert done.status == 78
    assert said(done) == (
        f"{app.path / '.env'} line 2 is about HF_HOME, but it is not HF_HOME=VALUE",
        "hint: write it as HF_HOME=VALUE, with every quote closed",
    )


def test_a_path_with_a_variable_that_is_not_set_is_refused(app: AppFolder) -> None:
    app.write_env("HF_HOME=$NOPE/cache\n")
    done = launcher(*app.arguments)
    assert done.status == 78
    assert said(done)[0] == "$NOPE is not set, and HF_HOME needs it (.env line 1)"


def test_a_setting_that_is_nearly_one_of_ours_is_named(app: AppFolder) -> None:
    app.write_env("APP_ARG=--fp16\nAPP_SECRET_KEY=x\n")
    done = launcher("-n", *app.arguments)
    assert done.status == 0
    assert done.err == f"{app.path / '.env'} line 1: APP_ARG is not a setting of the launcher; APP_ARGS is\n"


def test_a_number_of_thousands_of_digits_is_no_number_and_no_traceback(app: AppFolder, tmp_path: Path) -> None:
    app.write_env("APP_ARGS=--x\n")  # the owner of the file is compared with SUDO_UID
    env = clean_environment(SUDO_UID="9" * 5000, MAINPID="9" * 5000)
    assert launcher("-n", *app.arguments, env=env).status == 0
    done = launcher("wait", "--timeout", "0", *app.arguments, env=env)
    assert (done.status, "no instance of" in done.err) == (75, True)
    option = f"import argparse\nargparse.ArgumentParser().add_argument('--port', default='{'9' * 5000}')\n"
    (tmp_path / "page.py").write_text(f"{option}import gradio\ngradio.Blocks().launch(server_port=args.port)\n")
    assert "APP_SCRIPT=page.py\n" in launcher("--app-dir", tmp_path, "init", "-n").out


@pytest.mark.parametrize(
    ("name", "meant"),
    [("HF_ENDPIONT", "HF_ENDPOINT"), ("HF_HOEM", "HF_HOME"), ("GRADIO_SERVER_PORTS", "GRADIO_SERVER_PORT")],
)
def test_a_misspelled_name_of_another_program_is_named_too(name: str, meant: str, app: AppFolder) -> None:
    app.write_env(f"{name}=1\nGRADIO_NODE_SERVER_NAME=x\nHF_HUB_OFFLINE=1\nHF_HUB_DISABLE_XET=1\n")
    done = launcher("-n", *app.arguments)
    assert done.status == 0
    assert done.err == f"{app.path / '.env'} line 1: {name} is not a setting of the launcher; {meant} is\n"


def test_a_dry_run_without_a_launch_tells_of_none(app: AppFolder) -> None:
    done = launcher("-n", "--no-launch", *app.arguments)
    assert done.status == 0
    assert done.out.endswith("\nwould start nothing\n")
    assert "would exec" not in done.out


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x7fELF\x02\x01\x01\x00\xff\xfe", "line 1 is not UTF-8 text"),
        ("HF_HOME=x\n".encode("utf-16-le") + b"\0", "cannot"),
        (b"HF_HOME=/a\0b\n", "HF_HOME holds a NUL byte"),
        (b"x" * 2_000_000, "a .env has at most"),
        (None, "it is a folder"),
    ],
)
def test_a_file_that_is_no_env_file_is_configuration(app: AppFolder, data: bytes | None, message: str) -> None:
    path = app.path / ".env"
    path.mkdir() if data is None else path.write_bytes(data)
    done = launcher(*app.arguments, "-n")
    if message == "cannot":  # UTF-16 text without a mark can be read as UTF-8: full of NUL bytes, no line makes sense
        assert "cannot be parsed and is ignored" in done.err or done.status == 78
        return
    assert done.status == 78
    assert message in said(done)[0]


def test_a_dangling_env_file_is_named_and_not_taken_for_none(app: AppFolder) -> None:
    (app.path / ".env").symlink_to("/nowhere/.env")
    done = launcher(*app.arguments)
    assert (done.status, said(done)[0]) == (78, f"cannot read {app.path}/.env: No such file or directory")


def test_an_error_is_an_object_on_stdout_when_json_was_asked_for(app: AppFolder) -> None:
    for arguments, status in ((("--port", "0"), 2), (("--model_dir", "x"), 2), (("--app-dir", "/proc"), 78)):
        done = launcher(*app.arguments, "--json", *arguments)
        assert done.status == status
        assert set(done.json) == {"version", "error", "hint", "exit_status"}
        assert done.json["exit_status"] == status
        assert done.json["error"] in done.err


@dataclass(frozen=True)
class OrdinaryUser:
    """Hold how to run the launcher as somebody who is not root, and an app of theirs."""

    app: AppFolder
    launcher: Path
    python: str
    env: dict[str, str]
    keywords: dict[str, object]

    def launch(self, *arguments: str) -> Done:
        return launcher(
            *self.app.arguments,
            *arguments,
            python=(self.python,),
            start_app=self.launcher / "start_app.py",
            env=self.env,
            cwd=self.launcher,
            **self.keywords,
        )


@pytest.fixture
def ordinary() -> Iterator[OrdinaryUser]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    app = make_app(folder / "app")
    env, keywords, python = clean_environment(HOME=str(folder)), {}, sys.executable
    try:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            keywords = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            python = _readable_python(keywords)
            packages = folder / "packages"
            for package in (psutil, dotenv):
                source = Path(str(package.__file__)).parent
                shutil.copytree(source, packages / source.name, ignore=shutil.ignore_patterns("__pycache__"))
            env["PYTHONPATH"] = str(packages)
            os.chown(app.path, nobody.pw_uid, nobody.pw_gid)
        shutil.copytree(ROOT / "launcher", folder / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(START_APP, folder / "start_app.py")
        subprocess.run(("chmod", "-R", "go+rX", folder), check=True)
        yield OrdinaryUser(app, folder, python, env, keywords)
    finally:
        shutil.rmtree(folder)


def _readable_python(keywords: dict[str, object]) -> str:
    same = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}", "/usr/bin/python3"):
        try:
            done = subprocess.run((python, "-c", same), cwd="/", capture_output=True, **keywords)  # type: ignore[call-overload]
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return pytest.skip("no Python of this version that the user nobody may run")


def test_an_ordinary_user_launches_from_a_launcher_that_they_may_only_read(ordinary: OrdinaryUser) -> None:
    seen = hello(ordinary.launch("--", "--exit", "0"))
    assert seen["cwd"] == str(ordinary.app.path)


def test_a_port_below_1024_without_the_right_is_not_permitted(ordinary: OrdinaryUser) -> None:
    first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not first.exists() or int(first.read_text()) <= 81:
        pytest.skip("every user may bind port 81 here")
    done = ordinary.launch("--port", "81")
    assert done.status == 77
    assert said(done)[0].startswith("port 81 may not be bound by user ")


def test_what_may_not_be_read_is_named(ordinary: OrdinaryUser) -> None:
    app = ordinary.app
    secret = app.write_env("HF_TOKEN=x\n")
    secret.chmod(0)
    done = ordinary.launch()
    assert (done.status, said(done)[0]) == (78, f"cannot read {secret}: Permission denied")
    secret.unlink()
    app.script.chmod(0)
    done = ordinary.launch()
    assert (done.status, said(done)[0]) == (78, f"{app.script} is not readable")
    app.path.chmod(0)
    try:
        done = ordinary.launch()
    finally:
        app.path.chmod(0o755)
    assert done.status in (74, 77, 78)
    assert "Traceback" not in done.err


def test_a_folder_that_may_not_be_written_does_not_keep_its_app_from_starting(ordinary: OrdinaryUser) -> None:
    ordinary.app.path.chmod(0o555)
    ordinary.launcher.chmod(0o777)
    try:
        hello(ordinary.launch("--", "--exit", "0"))
        assert not (ordinary.app.path / ".start_app").exists()
    finally:
        ordinary.app.path.chmod(0o755)


HOSTILE = "\x1b]0;owned\x07\x1b[31m\nfake: line \u202e\u0085"


@pytest.mark.slow
def test_a_hostile_folder_never_reaches_the_terminal_raw(tmp_path: Path, processes: Processes) -> None:
    app = make_app(tmp_path / HOSTILE)
    app.write_env(f"not a line\nHF_HOME='{HOSTILE}'\nODD=\"{HOSTILE}\"\n")
    running = processes.launch(*app.arguments, "-v", "--", HOSTILE)
    assert running.hello()["cwd"] == str(app.path)
    told = [running.err]
    for arguments in (("-n", "-v"), ("-n", "--json"), ("status",), ("stop", "-n"), ("--port", "0"), ("stop",)):
        done = launcher(*app.arguments, *arguments)
        told += [done.out, done.err]
    (app.path / "webui.py").unlink()
    told.append(launcher(*app.arguments).err)
    for one in told:
        assert not [c for c in one if c != "\n" and not c.isprintable()], one
        assert not [line for line in one.splitlines() if line.startswith("fake")]
    assert any("\\x1b" in one for one in told)


def test_a_name_that_is_no_text_never_reaches_the_terminal_raw(app: AppFolder) -> None:
    odd = os.fsencode(app.path) + b"\xff\xfe\x1b[31m"
    os.rename(app.path, odd)
    for extra in ((), ("-n", "-v"), ("-n", "--json"), ("status",)):
        words = (sys.executable, START_APP, "--app-dir", odd, "-p", str(app.port), *extra)
        tail = ("--", "--exit", "0") if not extra else ()
        done = subprocess.run((*words, *tail), env=clean_environment(), capture_output=True)
        assert done.returncode == 0, done.stderr
        assert not [byte for byte in (b"\xff", b"\xfe", b"\x1b") if byte in done.stderr]
        if extra:
            assert not [byte for byte in (b"\xff", b"\xfe", b"\x1b") if byte in done.stdout]


def _with_stream(app: AppFolder, redirection: str, *arguments: str, **environ: str) -> Done:
    shell = ("sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable)
    return launcher(*app.arguments, *arguments, python=shell, env=clean_environment(**environ))


QUESTIONS = [("--help",), ("--version",), ("status",), ("status", "--json"), ("-n",), ("-n", "--json")]


@pytest.mark.parametrize("arguments", QUESTIONS)
def test_an_answer_that_cannot_be_written_is_an_error_and_no_traceback(
    app: AppFolder, arguments: tuple[str, ...]
) -> None:
    done = _with_stream(app, ">/dev/full", *arguments)
    assert done.status == 74
    assert done.err.splitlines()[0] == "cannot read or write: no space left on device"
    assert "Traceback" not in done.err


@pytest.mark.parametrize("arguments", QUESTIONS)
def test_a_reader_who_has_gone_is_no_traceback(app: AppFolder, arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            (sys.executable, START_APP, *app.arguments, *arguments),
            env=clean_environment(),
            stdout=write,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (74, b"")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_or_full_stream_keeps_no_app_from_starting(app: AppFolder, redirection: str) -> None:
    app.script.write_text("open('started', 'w').close()")
    for extra in ((), ("-v", "--json")):
        done = _with_stream(app, redirection, *extra)
        assert done.status == 0, done.err
        assert (app.path / "started").exists()
        (app.path / "started").unlink()


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("arguments", [*QUESTIONS, ("--port", "0"), ("--port", "0", "--json")])
def test_a_closed_stream_changes_no_exit_status(app: AppFolder, redirection: str, arguments: tuple[str, ...]) -> None:
    done = _with_stream(app, redirection, *arguments)
    assert done.status == (2 if "--port" in arguments else 0)
    assert "Traceback" not in done.err


def test_a_full_disk_behind_the_json_of_a_launch_does_not_leave_the_user_without_an_app(
    app: AppFolder, processes: Processes
) -> None:
    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    app.script.write_text("open('started', 'w').close()")
    done = _with_stream(app, ">/dev/full", "--json")
    assert done.status == 0, done.err
    assert (app.path / "started").exists()
    assert not alive(old.pid)


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C.UTF-8"},
    ],
)
def test_a_folder_that_is_not_ascii_works_under_any_locale(
    tmp_path: Path, processes: Processes, locale: dict[str, str]
) -> None:
    app = make_app(tmp_path / "模型 é")
    app.write_env("HF_HOME=缓存\n")
    env = clean_environment(**locale)
    running = processes.launch(*app.arguments, env=env)
    seen = running.hello()
    assert os.fsencode(seen["cwd"]) == os.fsencode(app.path)
    assert eventually(app.lock_holder) == running.pid
    status = launcher("status", *app.arguments, "--json", env=env)
    assert status.status == 0, status.err
    assert status.json["instance"]["pid"] == running.pid
    done = launcher("stop", *app.arguments, env=env)
    assert done.status == 0, done.err
    assert not alive(running.pid)


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("HF_ENDPOINT=hub mirror", ("status", "history", "logs")),
        pytest.param("HF_ENDPOINT_FALLBACK=ftp://x", ("status", "history", "logs"), marks=pytest.mark.slow),
        pytest.param("APP_NOTIFY_URL=nowhere", ("status", "history", "logs"), marks=pytest.mark.slow),
        pytest.param("APP_LOCKED=perhaps", ("status", "history", "logs"), marks=pytest.mark.slow),
        pytest.param("HF_HUB_CACHE=$NOWHERE/hub", ("status", "history", "logs"), marks=pytest.mark.slow),
        pytest.param("GRADIO_SERVER_NAME=a b", ("status", "history", "logs"), marks=pytest.mark.slow),
        pytest.param("HF_HOME='/mnt/hf", ("status", "history", "logs"), marks=pytest.mark.slow),
        pytest.param("GRADIO_SERVER_PORT=many", ("history",), marks=pytest.mark.slow),
        ("APP_ARGS=--name 'x", ("history",)),
    ],
)
def test_what_only_shows_something_ignores_an_invalid_setting_that_it_does_not_need(
    line: str, commands: tuple[str, ...], app: AppFolder
) -> None:
    port = () if "PORT=" in line else ("--port", str(app.port))
    log = app.path / ".start_app" / "logs" / f"webui-{app.port}.log"
    log.parent.mkdir(mode=0o700, parents=True)
    log.write_text("loaded\n")
    (app.path / ".env").write_text(f"{line}\n")
    for command in ("status", "history", "logs"):
        done = launcher(command, "--app-dir", app.path, *port)
        if command in commands:
            assert done.status == 0, (command, done.err)
            assert "line 1" in done.err
        else:
            assert done.status == 78, (command, done.err)
    assert launcher("--no-launch", "--app-dir", app.path, *port).status == 78
