"""The start is tried while the old instance serves: what cannot be started stops nothing, and says what is wrong."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.app import rehearsal
from launcher.app.command import Command
from launcher.errors import ExitStatus, LauncherError
from launcher.system import marker
from tests.support.apps import (
    START_APP,
    AppFolder,
    Processes,
    alive,
    clean_environment,
    eventually,
    get,
    launcher,
    open_to_all,
)

LOADER = b"/lib64/ld-linux-x86-64.so.2"


def history_of(app: AppFolder) -> list[dict[str, str]]:
    lines = (app.path / ".start_app" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def no_loader(app: AppFolder, tmp_path: Path) -> Path:
    """Return a Python whose loader is not on this machine, as one built for another libc."""
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    data = Path(sys.executable).resolve().read_bytes()
    if LOADER not in data:
        pytest.skip("this Python has another loader")
    python.write_bytes(data.replace(LOADER, LOADER.replace(b"linux", b"none!"), 1))
    python.chmod(0o755)
    return python


FAULTS: dict[str, tuple[Callable[[AppFolder, Path], tuple[str, ...]], str]] = {
    "variable too long": (
        lambda app, _: (app.write_env(f"# a key\nBIG={'x' * 140_000}\n"), ())[1],
        r"BIG \(\.env line 2\) has 140,004 bytes, and the kernel takes 131,071",
    ),
    "argument too long": (
        lambda app, _: (app.write_env(f"APP_ARGS={'x' * 140_000}\n"), ())[1],
        r"APP_ARGS \(\.env line 1\) has 140,\d{3} bytes, and the kernel takes 131,071 in one string\n"
        r"hint: shorten APP_ARGS in \.env\n",
    ),
    "loader missing": (
        lambda app, tmp_path: ("--python", str(no_loader(app, tmp_path))),
        r"its loader /lib64/ld-none!-x86-64.so.2 is missing",
    ),
    "a setting that Python refuses": (
        lambda app, _: (app.write_env("PYTHONHASHSEED=chance\n"), ())[1],
        r"does not run: .*PYTHONHASHSEED must be .*\(exit status 1\)",
    ),
    "shell script": (
        lambda app, _: (app.script.write_text('#!/bin/bash\nexec python other.py "$@"\n'), ())[1],
        r"webui.py is not a Python script: it begins with #!/bin/bash",
    ),
    "script with a mistake": (
        lambda app, _: (app.script.write_text("print(1)\nif True\n    pass\n"), ())[1],
        r"Python 3\.\d+ cannot run .*webui.py: SyntaxError: expected ':', line 2",
    ),
}


@pytest.mark.parametrize("extra", [(), ("--background",)], ids=["foreground", "background"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_started_stops_nothing(
    fault: str, extra: tuple[str, ...], app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    prepare, message = FAULTS[fault]
    done = launcher(*app.arguments, *extra, *prepare(app, tmp_path))
    assert done.status == ExitStatus.CONFIG, done.err
    assert done.err.splitlines()[-1].startswith("hint: ")
    assert re.search(message, done.err), done.err
    assert alive(old.pid)
    assert get(app.port) == f"pid {old.pid}"
    assert [line["action"] for line in history_of(app)][-1] == "refuse"


def test_an_environment_too_big_as_a_whole_stops_nothing(app: AppFolder, processes: Processes) -> None:
    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    app.write_env("".join(f"BIG_{number}={'x' * 40_000}\n" for number in range(8)))

    def small_stack() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))  # a quarter of it is for both: execve(2)

    done = launcher(*app.arguments, preexec_fn=small_stack)
    assert done.status == ExitStatus.CONFIG
    assert "more than the kernel takes; the longest is BIG_0 (" in done.err
    assert get(app.port) == f"pid {old.pid}"


NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": ()}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_without_a_place_for_a_process_only_the_background_is_refused(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    """The foreground needs none: the launcher becomes the app."""
    open_to_all(tmp_path)
    for path in (app.path, app.script):
        os.chown(path, 65534, 65534)
    python = "/usr/bin/python3"
    env = clean_environment(PYTHONPATH=str(Path(psutil.__file__).parents[1]), HOME=str(tmp_path))
    if subprocess.run((python, "-c", "import psutil, dotenv"), env=env, **NOBODY).returncode:
        pytest.skip("another user cannot run the launcher here")
    old = processes.start((python, START_APP, *app.arguments), env=env, **NOBODY)
    eventually(lambda: get(app.port), 60, what="page")
    command = ("prlimit", "--nproc=1", python, START_APP, *app.arguments)
    done = launcher("--background", *app.arguments, python=command[:3], env=env, **NOBODY)
    assert done.status == ExitStatus.RETRY
    assert "no process can be started: the limit of user nobody, " in done.err
    assert get(app.port) == f"pid {old.pid}"
    new = processes.start(command, env=env, **NOBODY)
    assert new.hello()["pid"] == new.pid


@pytest.mark.parametrize("kind", ["folder", "zip", "compiled", "not here"])
def test_what_python_runs_without_compiling_it_is_left_to_python(kind: str, tmp_path: Path) -> None:
    name = {"folder": "app", "zip": "app.pyz", "compiled": "app.pyc", "not here": "not/here.py"}[kind]
    if kind == "folder":
        (tmp_path / "app").mkdir()
        (tmp_path / "app" / "__main__.py").write_text("pass\n")
    elif kind == "zip":
        with (tmp_path / "app.pyz").open("wb") as file:
            file.write(b"#!/usr/bin/env python3\n")
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("__main__.py", "pass\n")
    elif kind == "compiled":
        import py_compile

        (tmp_path / "source.py").write_text("pass\n")
        py_compile.compile(str(tmp_path / "source.py"), cfile=str(tmp_path / "app.pyc"))
    rehearsed = rehearsal.rehearse(command(tmp_path, name), {})
    assert rehearsed
    rehearsed.close()


def command(folder: Path, script: str, python: str = sys.executable, **environment: str) -> Command:
    argv = (python, script, "--port", "1")
    return Command(python, "a test", argv, clean_environment(**environment), folder, python, (script,))


def as_module(folder: Path, **environment: str) -> Command:
    words = ("-m", "pkg.web")
    plain = command(folder, "pkg.web", **environment)
    return plain._replace(argv=(plain.interpreter, *words, "--port", "1"), script=words)


MODULE_FAULTS = {
    "a mistake in the module": (
        {"pkg/__init__.py": "", "pkg/web.py": "if True\n"},
        r"/pkg/web\.py: SyntaxError: .*, line 1",
    ),
    "a mistake in its package": ({"pkg/__init__.py": "if True\n", "pkg/web.py": ""}, r"/pkg/__init__\.py: SyntaxError"),
    "a mistake in its main": ({"pkg/web/__main__.py": "1 +\n"}, r"/pkg/web/__main__\.py: SyntaxError"),
    "no package": ({}, r"ImportError: No module named 'pkg'"),
}


@pytest.mark.parametrize("fault", MODULE_FAULTS)
def test_a_module_is_searched_and_compiled_as_python_would_run_it(fault: str, tmp_path: Path) -> None:
    files, message = MODULE_FAULTS[fault]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(LauncherError, match=f"cannot run -m pkg.web: .*{message}") as caught:
        rehearsal.rehearse(as_module(tmp_path), {})
    assert caught.value.status == ExitStatus.CONFIG
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_module_without_a_mistake_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    for name in ("__init__.py", "web.py"):
        (tmp_path / "pkg" / name).write_text("open('was run', 'w')\n")
    rehearsed = rehearsal.rehearse(as_module(tmp_path), {})
    assert rehearsed
    rehearsed.close()
    assert not (tmp_path / "was run").exists()
    if sys.version_info >= (3, 11):  # then -m does not search the current folder
        with pytest.raises(LauncherError, match="No module named 'pkg'"):
            rehearsal.rehearse(as_module(tmp_path, PYTHONSAFEPATH="1"), {})


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("#!/gone/python\n", "there is no /gone/python, which its first line names"),
        ("exec python\n", "is neither a program"),
    ],
)
def test_a_program_in_place_of_the_python_is_checked_and_not_run(first: str, message: str, tmp_path: Path) -> None:
    program = tmp_path / "torchrun"
    program.write_text(first)
    program.chmod(0o755)
    (tmp_path / "webui.py").write_text("pass\n")
    plain = command(tmp_path, "webui.py")
    runner = plain._replace(argv=("torchrun", "webui.py"), program=str(program))
    with pytest.raises(LauncherError, match=f"cannot start {program}: .*{message}") as caught:
        rehearsal.rehearse(runner, {})
    assert caught.value.status == ExitStatus.CONFIG
    program.write_text(f"#!{sys.executable}\nopen('was run', 'w')\n")
    rehearsed = rehearsal.rehearse(runner, {})
    assert rehearsed
    rehearsed.close()
    assert not (tmp_path / "was run").exists()


@pytest.mark.slow
def test_a_python_that_does_not_come_up_is_not_waited_for_without_end(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(60)\n")
    (tmp_path / "webui.py").write_text("pass\n")
    with pytest.raises(LauncherError, match="is not up after 0.5 s") as caught:
        rehearsal.rehearse(command(tmp_path, "webui.py", PYTHONPATH=str(tmp_path)), {}, seconds=0.5)
    assert caught.value.status == ExitStatus.RETRY


def test_what_an_environment_prints_at_its_start_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('x' * 1_000_000)\n")
    (tmp_path / "webui.py").write_text("pass\n")
    rehearsed = rehearsal.rehearse(command(tmp_path, "webui.py", PYTHONPATH=str(tmp_path)), {})
    assert rehearsed
    rehearsed.close()


def test_a_wrapper_that_does_not_quote_its_arguments_is_no_obstacle(tmp_path: Path) -> None:
    wrapper = tmp_path / "python3"
    wrapper.write_text(f"#!/bin/sh\nexec {sys.executable} $@\n")
    wrapper.chmod(0o755)
    (tmp_path / "webui.py").write_text("pass\n")
    rehearsed = rehearsal.rehearse(command(tmp_path, "webui.py", str(wrapper)), {})
    assert rehearsed
    rehearsed.close()


def test_nothing_of_the_script_is_run_and_its_place_is_free_again(tmp_path: Path) -> None:
    (tmp_path / "webui.py").write_text("open('was run', 'w')\n")
    rehearsed = rehearsal.rehearse(command(tmp_path, "webui.py", **{marker.NAME: "x"}), {})
    assert rehearsed
    pid = rehearsed.pid
    assert alive(pid)
    assert marker.NAME not in psutil.Process(pid).environ()
    rehearsed.close()
    assert not alive(pid)
    assert not (tmp_path / "was run").exists()


def test_a_launch_with_nothing_to_stop_rehearses_nothing(app: AppFolder, processes: Processes) -> None:
    options = (sys.executable, "-X", "importtime")
    first = launcher(*app.arguments, "--", "--exit", "0", python=options)
    assert first.status == 0
    assert "launcher.app.rehearsal" not in first.err
    processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    assert "launcher.app.rehearsal" in launcher(*app.arguments, "--", "--exit", "0", python=options).err


def test_what_stands_before_the_app_is_tried_too(app: AppFolder, processes: Processes) -> None:
    old = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
    eventually(lambda: get(app.port), what="page")
    prefix = app.path / "prefix"
    prefix.write_text("#!/bin/sh\necho 'prefix: no such node' >&2\nexit 1\n")
    prefix.chmod(0o755)
    app.write_env("APP_PREFIX=./prefix --node 0\n")
    done = launcher(*app.arguments, "--", "--exit", "0")
    assert done.status == 78
    assert "./prefix --node 0" in done.err
    assert "does not run: prefix: no such node (exit status 1)" in done.err
    assert alive(old.pid)
    prefix.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    done = launcher(*app.arguments, "--", "--exit", "0")
    assert f"terminated pid {old.pid}" in done.err
    assert done.status == 0, done.err
