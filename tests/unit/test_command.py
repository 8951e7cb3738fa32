from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.app import command
from launcher.config import settings
from launcher.errors import ExitStatus, LauncherError
from tests.support.apps import ROOT, AppFolder, clean_environment, launcher
from tests.support.launched import hello, received


def make_environment(folder: Path, marker: str = "pyvenv.cfg") -> Path:
    """Make what looks like an environment and starts as the interpreter of the tests."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    if marker == "pyvenv.cfg":
        home = os.path.dirname(os.path.realpath(sys.executable))
        (folder / marker).write_text(f"home = {home}\nversion = {sys.version.split()[0]}\n")
    else:
        (folder / marker).mkdir()
    return folder


def build(
    app: AppFolder, flags: dict[str, str] | None = None, environ: dict[str, str] | None = None, *app_args: str
) -> command.Command:
    found = settings.load(
        {"APP_DIR": str(app.path), **(flags or {})}, environ or {}, settings.Call(app.path.parent, app_args=app_args)
    )
    return command.build(found, environ or {}, sys.executable)


LADDER = ("--python", "APP_PYTHON", ".venv", "venv", "VIRTUAL_ENV", "CONDA_PREFIX")


@pytest.mark.parametrize("present", [LADDER[i:] for i in range(len(LADDER) + 1)])
def test_the_interpreter_is_the_first_of_the_ladder(app: AppFolder, tmp_path: Path, present: tuple[str, ...]) -> None:
    flags, environ, expected = {}, {}, {}
    for name in present:
        home = (app.path if name in (".venv", "venv") else tmp_path) / name.strip("-")
        if name in (".venv", "venv"):
            home = app.path / name
        make_environment(home, "conda-meta" if name == "CONDA_PREFIX" else "pyvenv.cfg")
        expected[name] = str(home / "bin" / "python")
        if name == "--python":
            flags["APP_PYTHON"] = str(home)
        elif name not in (".venv", "venv"):
            environ[name] = str(home)
    made = build(app, flags, environ)
    first = present[0] if present else None
    assert made.interpreter == (expected[first] if first else sys.executable)
    assert made.argv[0] == made.interpreter


@pytest.mark.parametrize(
    ("level", "value", "expected"),
    [
        ("flag", "env", "CWD/env/bin/python"),
        ("flag", "./env", "CWD/env/bin/python"),
        ("flag", "env/bin/python", "CWD/env/bin/python"),
        ("environment", "env", "APP/env/bin/python"),
        ("environment", "env/bin/python", "APP/env/bin/python"),
        ("environment", "~/env", "CWD/env/bin/python"),
        ("file", "env", "APP/env/bin/python"),
        ("file", "env/bin/python", "APP/env/bin/python"),
        ("file", "../env", "CWD/env/bin/python"),
    ],
)
def test_an_environment_or_its_interpreter_is_anchored_where_its_level_says(
    app: AppFolder, level: str, value: str, expected: str
) -> None:
    cwd = app.path.parent
    make_environment(cwd / "env")
    make_environment(app.path / "env")
    environ = {"HOME": str(cwd)}
    if level == "file":
        app.write_env(f"APP_PYTHON={value}\n")
    elif level == "environment":
        environ["APP_PYTHON"] = value
    made = build(app, {"APP_PYTHON": value} if level == "flag" else {}, environ)
    assert made.interpreter == expected.replace("APP", str(app.path)).replace("CWD", str(cwd))


def test_a_bare_name_is_found_on_the_path_and_made_absolute(
    app: AppFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "python3.99").symlink_to(os.path.realpath(sys.executable))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "tools")
    assert build(app, {"APP_PYTHON": "python3.99"}).interpreter == str(tmp_path / "tools" / "python3.99")


def test_a_blank_or_broken_environment_variable_does_not_count_as_an_environment(app: AppFolder) -> None:
    assert build(app, {}, {"VIRTUAL_ENV": " ", "CONDA_PREFIX": "/nowhere"}).interpreter == sys.executable


@pytest.mark.parametrize("name", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_the_demo_runs_where_gradio_was_looked_for_and_not_in_the_environment_that_the_shell_has_active(
    name: str, playground: Path, tmp_path: Path
) -> None:
    active = make_environment(tmp_path / "active")
    env = clean_environment(**{name: str(active)})
    assert launcher("--app-dir", playground, "-n", "--json", env=env).json["interpreter"] == f"{active}/bin/python"
    assert launcher("--demo", "--app-dir", playground, "-n", "--json", env=env).json["interpreter"] == sys.executable


def test_a_broken_environment_of_the_app_is_named_and_not_passed_over(app: AppFolder, tmp_path: Path) -> None:
    (app.path / ".venv" / "bin").mkdir(parents=True)
    (app.path / ".venv" / "bin" / "python").symlink_to("/usr/bin/python3.8-removed")
    make_environment(tmp_path / "other")
    done = launcher(*app.arguments, env=clean_environment(VIRTUAL_ENV=str(tmp_path / "other")))
    assert done.status == 78
    assert f"{app.path}/.venv/bin/python is not a Python interpreter: a dangling link" in done.err


@pytest.mark.parametrize(
    ("folder", "entries", "said"),
    [
        (".venv", ("Scripts/python.exe", "Lib/x", "pyvenv.cfg"), "it was made on Windows"),
        (".venv", ("lib/x", "pyvenv.cfg"), "parts of it are missing"),
        (".venv", ("lib/x",), "parts of it are missing"),
        ("venv", ("bin/activate",), "parts of it are missing"),
    ],
)
def test_an_environment_of_the_app_without_a_python_is_named(
    folder: str, entries: tuple[str, ...], said: str, app: AppFolder, tmp_path: Path
) -> None:
    for entry in entries:
        (app.path / folder / entry).parent.mkdir(parents=True, exist_ok=True)
        (app.path / folder / entry).touch()
    env = clean_environment(VIRTUAL_ENV=str(make_environment(tmp_path / "other")))
    done = launcher(*app.arguments, "-n", env=env)
    assert done.status == 78
    assert f"{app.path / folder} has no bin/python: {said}\n" in done.err
    assert launcher(*app.arguments, "-n", "--python", sys.executable, env=env).status == 0


def test_a_dangling_link_in_place_of_the_environment_is_named(app: AppFolder) -> None:
    (app.path / ".venv").symlink_to("/mnt/gone/.venv")
    done = launcher(*app.arguments, "-n")
    assert done.status == 78
    assert f"{app.path / '.venv'} is a dangling link to /mnt/gone/.venv\n" in done.err


def test_a_folder_that_is_no_environment_does_not_count_as_one(app: AppFolder) -> None:
    (app.path / ".venv").mkdir()
    (app.path / "venv").mkdir()
    (app.path / "venv" / "__init__.py").touch()
    assert build(app, {}, {}).interpreter == sys.executable


def _text(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_what_is_no_interpreter_is_found_by_looking_and_never_run(app: AppFolder, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    foreign = tmp_path / "foreign"
    image = bytearray(Path(os.path.realpath(sys.executable)).read_bytes()[:64])
    image[18:20] = b"\xf3\x00"  # RISC-V
    foreign.write_bytes(bytes(image) + b"Py_BytesMain")
    foreign.chmod(0o755)
    for path, reason in (
        (Path("/bin/true"), "another program"),
        (Path("/bin/sh"), "another program"),
        (tmp_path / "none", "no such file"),
        (tmp_path, "no such file"),
        (_text(tmp_path / "plain", "print()", 0o644), "not executable"),
        (_text(tmp_path / "text", "hello"), "neither a program nor a script"),
        (_text(tmp_path / "empty", ""), "neither a program nor a script"),
        (_text(tmp_path / "run.sh", f"#!/bin/sh\ntouch {ran}\n"), "a script of another name"),
        (_text(tmp_path / "python3", f"#!/no/such/sh\ntouch {ran}\n"), "a script whose own interpreter is missing"),
        (foreign, "built for another kind of processor"),
        (Path("/dev/null"), "not a regular file"),
    ):
        with pytest.raises(LauncherError) as caught:
            build(app, {"APP_PYTHON": str(path)})
        assert reason in caught.value.message, path
        assert caught.value.status == ExitStatus.USAGE
        assert caught.value.hint
    assert not ran.exists()


def test_a_wrapper_script_by_the_name_of_python_is_one(app: AppFolder, tmp_path: Path) -> None:
    _text(tmp_path / "python3", f'#!/bin/sh\nWRAPPED=1 exec {sys.executable} "$@"\n')
    assert received(app, "--python", str(tmp_path / "python3"))["env"]["WRAPPED"] == "1"


def test_every_python_of_this_machine_is_an_interpreter(app: AppFolder) -> None:
    found = {shutil.which(f"python3.{minor}") for minor in range(10, 16)} | {"/usr/bin/python3", sys.executable}
    for path in sorted(path for path in found if path and os.path.exists(path)):
        assert build(app, {"APP_PYTHON": path}).interpreter == path


def test_a_bad_interpreter_of_the_file_is_configuration_and_of_a_flag_usage(app: AppFolder) -> None:
    done = launcher(*app.arguments, "--python", "/bin/true")
    assert done.status == 2
    assert "/bin/true is not a Python interpreter: another program (APP_PYTHON, --python)" in done.err
    app.write_env("APP_PYTHON=/bin/true\n")
    done = launcher(*app.arguments)
    assert done.status == 78
    assert "(APP_PYTHON, .env line 1)" in done.err
    assert "--python PATH, or APP_PYTHON=PATH in .env" in done.err


@pytest.mark.parametrize(
    ("file", "flags", "expected", "environment"),
    [
        ("", {}, ["--port", "PORT"], {"GRADIO_SERVER_PORT": "PORT"}),
        ("APP_PORT_FLAG=--server_port\n", {}, ["--server_port", "PORT"], {"GRADIO_SERVER_PORT": "PORT"}),
        ("APP_PORT_FLAG=none\n", {}, [], {"GRADIO_SERVER_PORT": "PORT"}),
        (
            "",
            {"GRADIO_SERVER_NAME": "0.0.0.0"},
            ["--port", "PORT", "--host", "0.0.0.0"],
            {"GRADIO_SERVER_NAME": "0.0.0.0"},
        ),
        (
            "APP_HOST_FLAG=--listen\n",
            {"GRADIO_SERVER_NAME": "::1"},
            ["--port", "PORT", "--listen", "::1"],
            {"GRADIO_SERVER_NAME": "::1"},
        ),
        (
            "APP_HOST_FLAG=none\n",
            {"GRADIO_SERVER_NAME": "::1"},
            ["--port", "PORT"],
            {"GRADIO_SERVER_NAME": "::1"},
        ),
        (
            "APP_PORT_FLAG=none\n",
            {"GRADIO_SERVER_NAME": "::1"},
            [],
            {"GRADIO_SERVER_NAME": "::1", "GRADIO_SERVER_PORT": "PORT"},
        ),
        ("APP_ARGS=--fp16\n", {}, ["--port", "PORT", "--fp16"], {}),
    ],
)
def test_port_and_host_reach_the_app_by_flag_and_by_environment(
    app: AppFolder, file: str, flags: dict[str, str], expected: list[str], environment: dict[str, str]
) -> None:
    app.write_env(file)
    made = build(app, {"GRADIO_SERVER_PORT": str(app.port), **flags}, {}, "--last")
    assert list(made.argv[1:]) == ["webui.py", *(w.replace("PORT", str(app.port)) for w in expected), "--last"]
    for name, value in environment.items():
        assert made.environment[name] == value.replace("PORT", str(app.port))
    assert ("GRADIO_SERVER_NAME" in made.environment) == ("GRADIO_SERVER_NAME" in flags)


def test_the_port_reaches_a_real_app_that_reads_its_environment_only(app: AppFolder) -> None:
    app.write_env("APP_PORT_FLAG=none\n")
    seen = received(app)
    assert seen["argv"] == ["webui.py", "--exit", "0"]
    assert seen["env"]["GRADIO_SERVER_PORT"] == str(app.port)
    assert "GRADIO_SERVER_NAME" not in seen["env"]


def test_everything_after_the_dashes_reaches_the_app_untouched(app: AppFolder) -> None:
    strange = ["--fp 16", "", "$HOME", "'", "--", "*", "模型", "--help", "a\nb"]
    app.script.write_text("import json, os, sys; print(json.dumps({'pid': os.getpid(), 'argv': sys.argv}))")
    seen = hello(launcher(*app.arguments, "--", *strange))
    assert seen["argv"] == ["webui.py", "--port", str(app.port), *strange]


def test_bytes_that_are_no_text_reach_the_app_as_they_are(app: AppFolder) -> None:
    app.script.write_text(
        "import os, sys\n"
        "for data in (os.fsencode(sys.argv[-1]), os.environb[b'RAW'], os.getcwdb()):\n"
        "    print(data.hex())\n"
    )
    odd = os.fsencode(app.path.parent) + b"/caf\xe9"
    os.rename(app.path, odd)
    done = subprocess.run(
        (sys.executable, "start_app.py", "--app-dir", odd, "-p", str(app.port), "--", b"\xff\xfe"),
        env={**{os.fsencode(k): os.fsencode(v) for k, v in clean_environment().items()}, b"RAW": b"\x80=\xff"},
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [b"fffe", b"803dff", odd.hex().encode()]
    assert b"\xe9" not in done.stderr


def test_the_app_runs_in_its_own_folder_as_this_very_process(app: AppFolder, tmp_path: Path) -> None:
    seen = received(app, cwd=tmp_path)
    assert seen["cwd"] == seen["env"]["PWD"] == str(app.path)
    assert seen["argv"][0] == "webui.py"
    assert seen["exe"] == sys.executable


def test_output_is_unbuffered_unless_somebody_says_otherwise(app: AppFolder) -> None:
    assert build(app).environment["PYTHONUNBUFFERED"] == "1"
    assert build(app, {}, {"PYTHONUNBUFFERED": ""}).environment["PYTHONUNBUFFERED"] == "1"
    assert build(app, {}, {"PYTHONUNBUFFERED": "0"}).environment["PYTHONUNBUFFERED"] == "0"
    app.write_env("PYTHONUNBUFFERED=2\n")
    assert build(app).environment["PYTHONUNBUFFERED"] == "2"


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_proxy_is_told_to_spare_this_machine(app: AppFolder, name: str, where: str) -> None:
    if where == "file":
        app.write_env(f"{name}=http://proxy:3128\n")
    environ = {name: "http://proxy:3128"} if where == "environment" else {}
    environment = build(app, {}, environ).environment
    assert environment["no_proxy"] == environment["NO_PROXY"] == "localhost,127.0.0.1"


@pytest.mark.parametrize(
    ("given", "lower", "upper"),
    [
        ({"no_proxy": "a.example"}, "a.example,localhost,127.0.0.1", "a.example,localhost,127.0.0.1"),
        ({"NO_PROXY": "a.example , b"}, "a.example,b,localhost,127.0.0.1", "a.example,b,localhost,127.0.0.1"),
        ({"no_proxy": "localhost,x"}, "localhost,x,127.0.0.1", "localhost,x,127.0.0.1"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "a,localhost,127.0.0.1", "b,localhost,127.0.0.1"),
        ({"no_proxy": "*"}, "*", "*"),
        ({"no_proxy": ""}, "localhost,127.0.0.1", "localhost,127.0.0.1"),
    ],
)
def test_what_the_proxy_spared_before_is_kept(app: AppFolder, given: dict[str, str], lower: str, upper: str) -> None:
    environment = build(app, {}, {"http_proxy": "http://proxy:3128", **given}).environment
    assert (environment["no_proxy"], environment["NO_PROXY"]) == (lower, upper)


@pytest.mark.parametrize(
    ("host", "spared"),
    [
        ("0.0.0.0", "localhost,127.0.0.1"),
        ("192.168.1.7", "localhost,127.0.0.1,192.168.1.7"),
        ("::1", "localhost,127.0.0.1,::1"),
        ("[::]", "localhost,127.0.0.1,::1"),
    ],
)
def test_the_address_that_the_app_listens_on_is_spared_too(app: AppFolder, host: str, spared: str) -> None:
    # An IPv6 address in any other no_proxy ends an app with an old httpx.
    environment = build(app, {"GRADIO_SERVER_NAME": host}, {"http_proxy": "http://10.9.9.9:3128"}).environment
    assert environment["no_proxy"] == spared


@pytest.mark.parametrize("typed", ["::", "[::]"])
def test_gradio_is_given_an_ipv6_address_in_brackets_and_by_its_option_only(app: AppFolder, typed: str) -> None:
    made = build(app, {"GRADIO_SERVER_NAME": typed}, {"GRADIO_SERVER_NAME": typed})
    assert (made.argv[-1], made.environment["GRADIO_SERVER_NAME"]) == ("::", "::")
    app.script.write_text("import os\nimport gradio as gr\n")
    made = build(app, {"GRADIO_SERVER_NAME": typed}, {"GRADIO_SERVER_NAME": typed})
    assert made.argv[-1] == "[::]"
    assert "GRADIO_SERVER_NAME" not in made.environment


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_socks_proxy_that_httpx_cannot_use_is_named(app: AppFolder, tmp_path: Path, name: str) -> None:
    prefix = make_environment(tmp_path / "env")
    packages = prefix / "lib" / "python3.11" / "site-packages"
    (packages / "httpx-0.28.1.dist-info").mkdir(parents=True)
    env = clean_environment(**{name: "socks5h://127.0.0.1:1080"})
    python = ("--python", str(prefix))
    done = launcher(*app.arguments, *python, "-n", env=env)
    assert (
        f"note: {name} is a SOCKS proxy, and httpx 0.28.1 of the app's environment needs socksio for it: "
        f"{prefix}/bin/python -m pip install 'httpx[socks]'\n"
    ) in done.out
    (packages / "socksio-1.0.0.dist-info").mkdir()
    assert "SOCKS" not in launcher(*app.arguments, *python, "-n", env=env).out


def test_without_a_proxy_nothing_is_spared(app: AppFolder) -> None:
    environment = build(app, {}, {"http_proxy": "", "no_proxy": "a"}).environment
    assert environment["no_proxy"] == "a"
    assert not {"NO_PROXY", "http_proxy"} & set(environment)


def test_the_environment_of_the_interpreter_is_activated(app: AppFolder, tmp_path: Path) -> None:
    home = make_environment(app.path / ".venv")
    seen = received(app, env=clean_environment(PYTHONHOME="", VIRTUAL_ENV=str(tmp_path)))
    assert seen["env"]["VIRTUAL_ENV"] == str(home)
    assert seen["env"]["PATH"].split(":")[0] == str(home / "bin")
    assert seen["exe"] == str(home / "bin" / "python")
    conda = make_environment(tmp_path / "conda", "conda-meta")
    environment = build(app, {"APP_PYTHON": str(conda)}, {"PATH": "/usr/bin", "PYTHONHOME": "/x"}).environment
    assert environment["CONDA_PREFIX"] == str(conda)
    assert environment["PATH"] == f"{conda}/bin:/usr/bin"
    assert "PYTHONHOME" not in environment


def test_another_environment_that_was_active_is_left_first(app: AppFolder, tmp_path: Path) -> None:
    # Its ninja and python would run for the wrong packages, and pip would install into it.
    other = make_environment(tmp_path / "other")
    given = {"VIRTUAL_ENV": str(other), "PATH": f"{other}/bin:/usr/bin"}
    base = os.path.realpath(sys.executable)
    environment = build(app, {"APP_PYTHON": base}, given).environment
    assert "VIRTUAL_ENV" not in environment
    assert environment["PATH"].split(":")[-1] == "/usr/bin"
    assert f"{other}/bin" not in environment["PATH"].split(":")
    home = make_environment(app.path / ".venv")
    environment = build(app, {}, given).environment
    assert environment["VIRTUAL_ENV"] == str(home)
    assert environment["PATH"] == f"{home}/bin:/usr/bin"


def test_a_path_that_is_active_already_is_left_as_it_is(app: AppFolder) -> None:
    home = make_environment(app.path / ".venv")
    path = f"{home}/bin:/usr/bin"
    assert build(app, {}, {"PATH": path}).environment["PATH"] == path


def test_nothing_of_the_launcher_is_left_behind_in_the_app(app: AppFolder) -> None:
    before = clean_environment(KEPT="1")
    seen = received(app, env=before)
    lock = [link for fd, link in seen["fds"].items() if link.endswith(f"/.start_app/instance-{app.port}.lock")]
    assert len(lock) == 1
    assert set(seen["fds"]) - {"0", "1", "2"} <= {
        fd for fd, link in seen["fds"].items() if link in lock or "/fd" in link
    }
    added = {"GRADIO_SERVER_PORT", "PYTHONUNBUFFERED", "PWD", "VIRTUAL_ENV", "PATH", "LC_CTYPE", "START_APP_MODELS"}
    added |= {"START_APP_INSTANCE", "START_APP_MODELS_TEXT"}
    assert {n: v for n, v in seen["env"].items() if n not in added} == {
        n: v for n, v in before.items() if n not in added and v.strip()
    }


def test_signals_are_as_a_shell_leaves_them(app: AppFolder) -> None:
    app.script.write_text(
        "import json, os; print(json.dumps({'pid': os.getpid(), 'status': open('/proc/self/status').read()}))"
    )
    ignored, alone = (
        int(next(line for line in done.splitlines() if line.startswith("SigIgn")).split()[1], 16)
        for done in (
            hello(launcher(*app.arguments))["status"],
            json.loads(subprocess.run((sys.executable, app.script), capture_output=True, check=True).stdout)["status"],
        )
    )
    real = (1 << 31) - 1  # posix_spawn(3) of glibc may leave its two internal signals ignored
    assert ignored & real == alone & real  # what Python itself ignores, and nothing more


@pytest.mark.parametrize("status", [0, 1, 3, 78])
def test_the_exit_status_is_the_apps(app: AppFolder, status: int) -> None:
    assert launcher(*app.arguments, "--", "--exit", str(status)).status == status


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_closed_standard_streams_are_not_filled_with_the_lock_file(app: AppFolder, closed: tuple[int, ...]) -> None:
    told = app.path / "told"
    app.script.write_text(
        "import json, os\n"
        "links = {fd: os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')}\n"
        f"open({str(told)!r}, 'w').write(json.dumps(links))\n"
    )
    words = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in closed)
    shell = ("sh", "-c", f'exec "$@" {words}', "sh", sys.executable)
    done = launcher(*app.arguments, python=shell)
    assert done.status == 0, done.err
    links = json.loads(told.read_text())
    assert not [fd for fd, path in links.items() if int(fd) < 3 and ".start_app" in path]
    assert [path for fd, path in links.items() if int(fd) >= 3 and path.endswith(f"instance-{app.port}.lock")]
