"""The form in which an app is started: options, variables, a whole command line, and what stands before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.config import settings
from launcher.errors import LauncherError
from launcher.operations.identity import command_of
from tests.support.apps import AppFolder, clean_environment, launcher

PYTHON = "/env/bin/python"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("webui.py", "launch.py", ".venv/bin/llama-cli", "pkg/web.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def load(folder: Path, lines: str, host: str | None = None) -> settings.Settings:
    (folder / ".env").write_text(lines)
    flags = {"GRADIO_SERVER_NAME": host} if host else {}
    return settings.load({"GRADIO_SERVER_PORT": "7861", **flags}, {}, settings.Call(folder, (folder,)))


def argv(loaded: settings.Settings) -> list[str]:
    words = loaded.form.argv(PYTHON, loaded.entry, loaded.port, loaded.host)
    return [word.replace(str(loaded.app_dir), "APP") for word in (*words, *loaded.app_args)]


@pytest.mark.parametrize(
    ("lines", "host", "expected"),
    [
        ("", None, "P webui.py --port 7861"),
        ("", "::1", "P webui.py --port 7861 --host ::1"),
        ("APP_PORT_FLAG=-p\nAPP_HOST_FLAG=--listen\n", "a.b", "P webui.py -p 7861 --listen a.b"),
        ("APP_PORT_FLAG=--server_port --server-port -p\n", None, "P webui.py --server_port 7861"),
        ("APP_PORT_FLAG=--port=\nAPP_HOST_FLAG=server.host=\n", "a.b", "P webui.py --port=7861 server.host=a.b"),
        ("APP_PORT_FLAG=none\n", "a.b", "P webui.py"),
        ("APP_PORT_FLAG=none\nAPP_HOST_FLAG=--ip\n", "a.b", "P webui.py --ip a.b"),
        ("APP_PORT_ENV=PORT\n", "a.b", "P webui.py"),
        ("APP_PORT_ENV=PORT\nAPP_PORT_FLAG=--port\n", "a.b", "P webui.py --port 7861 --host a.b"),
        ("APP_HOST_ENV=HOST\n", "a.b", "P webui.py --port 7861"),
        ("APP_COMMAND={python} {script} serve --port {port}\n", None, "P webui.py serve --port 7861"),
        ("APP_COMMAND={script} {port}\nAPP_ARGS=--x\n", None, "P webui.py 7861 --x"),
        ("APP_COMMAND=llama-cli webui --port={port}\n", None, "P APP/.venv/bin/llama-cli webui --port=7861"),
        ("APP_COMMAND={python} -u -X dev -m pkg.web {port}\n", None, "P -u -X dev -m pkg.web 7861"),
        ("APP_COMMAND={python} launch.py --listen {host}:{port}\n", "0.0.0.0", "P launch.py --listen 0.0.0.0:7861"),
        ("APP_COMMAND={python} launch.py --listen {host}:{port}\n", None, "P launch.py --listen 127.0.0.1:7861"),
        ("APP_COMMAND={script} --port {port} --host {host} x\n", None, "P webui.py --port 7861 x"),
        ("APP_COMMAND={script} --port {port} --host={host} x\n", None, "P webui.py --port 7861 x"),
        ("APP_COMMAND={script} --port {port} --host {host}\n", "::1", "P webui.py --port 7861 --host ::1"),
        ("APP_PREFIX=numactl -N 0\n", None, "numactl -N 0 P webui.py --port 7861"),
        ("APP_PREFIX=accelerate launch --cpu\n", None, "accelerate launch --cpu webui.py --port 7861"),
        ("APP_COMMAND=torchrun {script} --port {port}\n", None, "torchrun webui.py --port 7861"),
        ("APP_PREFIX=nice\nAPP_COMMAND=numactl -N 0 {python} {script}\n", None, "nice numactl -N 0 P webui.py"),
        ('APP_COMMAND={script} \'{"a": {"b": 1}}\' {port}\n', None, 'P webui.py {"a": {"b": 1}} 7861'),
    ],
)
def test_each_form_makes_its_command_line(lines: str, host: str | None, expected: str, folder: Path) -> None:
    made = " ".join("P" if word == PYTHON else word for word in argv(load(folder, lines, host)))
    assert made == expected


@pytest.mark.parametrize(
    ("lines", "entry", "others", "command"),
    [
        ("APP_COMMAND={python} launch.py a --port {port}\nAPP_SCRIPT=webui.py\n", "launch.py", ["webui.py"], ("a",)),
        ("APP_SCRIPT=launch.py webui.py\n", "launch.py", ["webui.py"], ()),
        ("APP_COMMAND=llama-cli webui {port} --x y\n", ".venv/bin/llama-cli", [], ("webui",)),
        ("APP_COMMAND={script} --port {port} run\nAPP_ARGS=fast --x\n", "webui.py", [], ("run", "fast")),
    ],
)  # fmt: skip
def test_a_command_names_the_script_and_the_words_that_are_its_identity(
    lines: str, entry: str, others: list[str], command: tuple[str, ...], folder: Path
) -> None:
    loaded = load(folder, lines)
    assert loaded.script == folder / entry
    assert loaded.other_entries == tuple(folder / name for name in others)
    assert command_of(loaded) == command


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("APP_COMMAND={python} {script} --port {prt}\n", "APP_COMMAND: {prt} is not known (.env line 1)"),
        ("APP_COMMAND={python}\n", "APP_COMMAND: it names no script"),
        ("APP_COMMAND={script} {script}\n", "appears twice"),
        ("APP_COMMAND={python} {script} {python}\n", "appears twice"),
        ("APP_COMMAND=x --port {port} {python} {script}\n", "port and address come after the script"),
        ("APP_COMMAND={script} 'x\n", "APP_COMMAND cannot be split into arguments"),
        ("APP_PORT_ENV=MY-PORT\n", "'MY-PORT' is not the name of a variable (APP_PORT_ENV"),
        ("APP_UNSET=A=1\n", "'A=1' is not the name of a variable (APP_UNSET"),
        ("APP_PORT_FLAG=port\n", "is not an option name"),
        ("APP_COMMAND={script} $(id)\n", "is more than a value, and no shell interprets it"),
        ("APP_COMMAND=nowhere-cli web {port}\n", "no nowhere-cli in"),
        ("APP_COMMAND={script} --port {port}\nAPP_ARGS=--port 7000\n", "the app would get --port 7000"),
    ],
)
def test_what_cannot_be_a_form_is_refused_with_its_line(lines: str, said: str, folder: Path) -> None:
    with pytest.raises(LauncherError) as caught:
        load(folder, lines)
    assert said in caught.value.message
    assert caught.value.status == 78


@pytest.mark.parametrize(
    ("lines", "environ", "port"),
    [
        ("APP_PORT_ENV=PORT\nPORT=8000\n", {}, 8000),
        ("APP_PORT_ENV=PORT\n", {"PORT": "8001"}, 8001),
        ("APP_PORT_ENV=PORT\nPORT=8000\nGRADIO_SERVER_PORT=7\n", {}, 7),
        ("APP_PORT_ENV=PORT\n", {}, 7860),
        ("PORT=8000\n", {}, 7860),
    ],
)
def test_the_apps_own_variable_says_which_port_it_is(
    lines: str, environ: dict[str, str], port: int, folder: Path
) -> None:
    (folder / ".env").write_text(lines)
    assert settings.load({}, environ, settings.Call(folder, (folder,))).port == port


def test_the_app_gets_its_port_in_its_own_variables_and_none_that_is_to_be_unset(app: AppFolder) -> None:
    from tests.support.launched import hello

    app.write_env(
        "APP_PORT_ENV=PORT MY_PORT\nAPP_HOST_ENV=MY_HOST\nAPP_UNSET=PYTHONPATH,LEFT SET_HERE\nSET_HERE=1\n"
        "APP_PREFIX=env INSIDE=1\n"
    )
    env = clean_environment(PYTHONPATH="/nowhere", LEFT="1", KEPT="1")
    got = hello(launcher(*app.arguments, "--host", "127.0.0.1", "--", "--exit", "0", env=env))["env"]
    assert (got["PORT"], got["MY_PORT"], got["MY_HOST"]) == (str(app.port), str(app.port), "127.0.0.1")
    assert (got["KEPT"], got["INSIDE"]) == ("1", "1")
    assert {"PYTHONPATH", "LEFT", "SET_HERE"}.isdisjoint(got)


def test_a_program_before_the_app_that_is_nowhere_is_refused(app: AppFolder) -> None:
    app.write_env("APP_PREFIX=nowhere-to-be-found -N 0\n")
    done = launcher(*app.arguments)
    assert done.status == 78
    assert "nowhere-to-be-found is not a program that can be run (.env line 1)" in done.err
