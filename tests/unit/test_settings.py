from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.config import settings
from launcher.config.paths import fallbacks
from launcher.errors import ExitStatus, LauncherError
from tests.support.apps import AppFolder, clean_environment, free_port, launcher
from tests.support.launched import received


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "webui.py").touch()
    return tmp_path / "app"


def load(
    folder: Path, flags: dict[str, str] | None = None, environ: dict[str, str] | None = None, file: str | None = None,
    app_args: tuple[str, ...] = (), cwd: Path | None = None,
) -> settings.Settings:  # fmt: skip
    if file is not None:
        (folder / ".env").write_text(file)
    return settings.load(flags or {}, environ or {}, settings.Call(cwd or folder.parent, (folder,), app_args=app_args))


PORT = "GRADIO_SERVER_PORT"


@pytest.mark.parametrize(
    ("flag", "environ", "file", "port", "origin"),
    [
        ("1", "2", "3", 1, "--port"),
        (None, "2", "3", 2, "environment"),
        (None, None, "3", 3, ".env line 1"),
        (None, None, None, 7860, "default"),
        ("", "2", "3", 2, "environment"),
        ("  ", "", "3", 3, ".env line 1"),
        (None, "\t", "", 7860, "default"),
        (None, " 2 ", None, 2, "environment"),
        ("007861", None, None, 7861, "--port"),
    ],
)
def test_the_highest_level_that_is_not_blank_gives_the_value_and_its_origin(
    folder: Path, flag: str | None, environ: str | None, file: str | None, port: int, origin: str
) -> None:
    found = load(
        folder,
        {PORT: flag} if flag is not None else {},
        {PORT: environ} if environ is not None else {},
        f"{PORT}={file}\n" if file is not None else None,
    )
    assert (found.port, found.origins[PORT].origin) == (port, origin)


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("GRADIO_SERVER_NAME", "0.0.0.0", "host", "0.0.0.0"),
        ("GRADIO_SERVER_NAME", "[::1]", "host", "::1"),
        ("APP_PORT_FLAG", "--server-port", "port_flag", "--server-port"),
        ("APP_PORT_FLAG", "None", "port_flag", None),
        ("APP_HOST_FLAG", "none", "host_flag", None),
        ("APP_ARGS", "--fp16 --model_dir 'my models'", "app_args", ("--fp16", "--model_dir", "my models")),
        ("APP_SCRIPT", "app.py", "entry", ("app.py",)),
    ],
)
def test_each_setting_is_read_from_the_file_and_from_the_environment(
    folder: Path, name: str, value: str, attribute: str, expected: object
) -> None:
    (folder / "app.py").touch()
    assert getattr(load(folder, environ={name: value}), attribute) == expected
    quoted = '"' + value + '"'
    assert getattr(load(folder, file=f"{name}={quoted}\n"), attribute) == expected


def test_the_apps_arguments_are_those_of_the_settings_then_those_of_the_command_line(folder: Path) -> None:
    found = load(folder, file="APP_ARGS=--fp16 --verbose\n", app_args=("--fp16", "--", "--x"))
    assert found.app_args == ("--fp16", "--verbose", "--fp16", "--", "--x")


@pytest.mark.parametrize(
    ("environ", "file", "expected", "origin"),
    [
        ({}, "HF_HOME=./cache_hub\n", "APP/cache_hub", ".env line 1"),
        ({}, "HF_HOME=../shared\n", "PARENT/shared", ".env line 1"),
        ({"HF_HOME": "cache_hub"}, "", "APP/cache_hub", "environment"),
        ({"HF_HOME": "/data"}, "HF_HOME=other\n", "/data", "environment"),
        ({"HF_HOME": " "}, "HF_HOME=other\n", "APP/other", ".env line 1"),
        ({"HOME": "/home/me"}, "HF_HOME=~/hf\n", "/home/me/hf", ".env line 1"),
        ({"HOME": "/"}, "HF_HOME=~/hf\n", "/hf", ".env line 1"),
        ({"HOME": "/home/me"}, "HF_HOME=${HOME}/hf\n", "/home/me/hf", ".env line 1"),
        ({"HOME": "/home/me", "ROOT": "/env"}, "ROOT=/file\nHF_HOME=${ROOT}/hf\n", "/env/hf", ".env line 2"),
        ({}, "ROOT=/file\nHF_HOME=$ROOT/hf\n", "/file/hf", ".env line 2"),
        ({"ROOT": "/env"}, "ROOT=/file\nHF_HOME=$ROOT/hf\n", "/env/hf", ".env line 2"),
        ({}, "HF_HOME='two words'\n", "APP/two words", ".env line 1"),
    ],
)
def test_a_path_is_anchored_where_its_level_says(
    folder: Path, environ: dict[str, str], file: str, expected: str, origin: str
) -> None:
    found = load(folder, environ=environ, file=file).variables["HF_HOME"]
    assert found.value == expected.replace("APP", str(folder)).replace("PARENT", str(folder.parent))
    assert found.origin == origin


@pytest.mark.parametrize("name", settings.PATH_NAMES)
def test_every_variable_that_holds_a_path_reaches_the_app_absolute(folder: Path, name: str) -> None:
    assert load(folder, file=f"{name}=relative\n").variables[name].value == str(folder / "relative")


def test_an_env_file_elsewhere_anchors_its_own_paths(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "etc"
    other.mkdir()
    (other / "app.env").write_text(f"APP_DIR=../app\nHF_HOME=cache\n{PORT}=1234\n")
    found = settings.load({}, {}, settings.Call(tmp_path, env_file="etc/app.env"))
    assert (found.app_dir, found.port) == (folder, 1234)
    assert found.variables["HF_HOME"].value == str(other / "cache")
    assert found.origins[PORT].origin == "app.env line 3"


def test_a_blank_of_visible_devices_is_a_value_in_the_environment_only(folder: Path) -> None:
    found = load(folder, environ={"CUDA_VISIBLE_DEVICES": ""}, file="CUDA_VISIBLE_DEVICES=0\n")
    assert found.variables["CUDA_VISIBLE_DEVICES"].value == ""
    assert load(folder, file="CUDA_VISIBLE_DEVICES=1\n").variables["CUDA_VISIBLE_DEVICES"].value == "1"
    assert "CUDA_VISIBLE_DEVICES" not in load(folder, file="CUDA_VISIBLE_DEVICES=\n").variables


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://hf-mirror.com",
        "http://127.0.0.1:8090",
        "http://[::1]:8090/hf",
        "https://user:pw@mirror.example/",
        "http://hub_cache.internal:80",
    ],
)
def test_an_address_that_a_request_can_go_to_is_an_endpoint(folder: Path, endpoint: str) -> None:
    assert load(folder, environ={"HF_ENDPOINT": endpoint}).variables["HF_ENDPOINT"].value == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://hf-mirror.com # comment",
        "https://hf-mirror.com#x",
        "https://hf-mirror.com/?x=1",
        "hf-mirror.com",
        "ftp://hf-mirror.com",
        "https://",
        "https:///x",
        "https://hf-mirror.com:0",
        "https://hf-mirror.com:65536",
        "https://hf-mirror.com:port",
        " https://hf-mirror.com",
    ],
)
def test_anything_else_is_none(folder: Path, endpoint: str) -> None:
    with pytest.raises(LauncherError, match=r"is not an http\(s\) address \(HF_ENDPOINT, environment\)") as caught:
        load(folder, environ={"HF_ENDPOINT": endpoint})
    assert caught.value.status == ExitStatus.CONFIG
    assert "HF_ENDPOINT=https://hf-mirror.com" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["0", "65536", "abc", "-1", "7860.0", "٧٨٦٠", "7 860", "9" * 5000, "1e4", "0x1F"])
@pytest.mark.parametrize(
    ("level", "status", "origin"),
    [("flag", 2, "--port"), ("environment", 78, "environment"), ("file", 78, ".env line 1")],
)
def test_a_bad_port_is_usage_from_a_flag_and_configuration_from_elsewhere(
    folder: Path, text: str, level: str, status: int, origin: str
) -> None:
    found = {PORT: text}
    with pytest.raises(LauncherError, match="is not a valid port") as caught:
        load(
            folder,
            flags=found if level == "flag" else None,
            environ=found if level == "environment" else None,
            file=f"{PORT}={text}\n" if level == "file" else None,
        )
    assert caught.value.status == status
    assert f"({PORT}, {origin})" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"GRADIO_SERVER_NAME": "0.0.0.0; rm"}, "is not a host name or address"),
        ({"APP_PORT_FLAG": "port"}, "is not an option name"),
        ({"APP_PORT_FLAG": "--port 7"}, "is not an option name"),
        ({"APP_ARGS": "--x 'open"}, "cannot be split into arguments: no closing quotation"),
        ({"APP_ARGS": "--port 7861"}, "the app would get --port 7861 (APP_ARGS, environment)"),
        ({"APP_ARGS": "--port=7861"}, "the app would get --port 7861 (APP_ARGS, environment)"),
        ({"HF_HOME": "webui.py"}, "webui.py is not a folder (HF_HOME, environment)"),
        ({"HF_HOME": "webui.py/cache"}, "cannot be made"),
        ({"HF_HUB_CACHE": "dangling"}, "is a dangling link (HF_HUB_CACHE, environment)"),
        ({"APP_DIR": "webui.py"}, "is not a folder (APP_DIR, environment)"),
        ({"APP_DIR": "nowhere"}, "does not exist (APP_DIR, environment)"),
        ({"APP_SCRIPT": "start_app.py"}, "is the launcher itself"),
        ({"APP_SCRIPT": "sub"}, "is a folder, not a script"),
        ({"APP_SCRIPT": "dangling"}, "is a dangling link"),
        ({"APP_SCRIPT": "none.py"}, "no none.py in"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_a_hint(folder: Path, environ: dict[str, str], said: str) -> None:
    (folder / "dangling").symlink_to("gone")
    (folder / "sub").mkdir()
    (folder / "start_app.py").touch()
    with pytest.raises(LauncherError) as caught:
        load(folder, environ=environ, cwd=folder)
    assert said in caught.value.message
    assert caught.value.status == ExitStatus.CONFIG
    assert caught.value.hint


def test_the_same_port_twice_is_no_contradiction(folder: Path) -> None:
    assert load(folder, {PORT: "7861"}, app_args=("--port", "7861")).port == 7861
    with pytest.raises(LauncherError, match=r"--port 7862 \(after --\)") as caught:
        load(folder, {PORT: "7861"}, app_args=("--port", "7861", "--port=7862"))
    assert caught.value.status == ExitStatus.USAGE


def test_another_script_that_is_there_is_pointed_at(folder: Path) -> None:
    (folder / "webui.py").rename(folder / "app.py")
    with pytest.raises(LauncherError) as caught:
        load(folder)
    assert "app.py is there: set APP_SCRIPT=app.py" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ((".env",), ("webui.py",), "here"),
        (("webui.py",), (".env", "webui.py"), "here"),
        ((), ("webui.py",), "there"),
        ((), ("webui.py", ".env"), "there"),
    ],
)
def test_without_a_name_the_apps_folder_is_where_the_launcher_lies_else_where_one_stands(
    tmp_path: Path, here: tuple[str, ...], there: tuple[str, ...], expected: str
) -> None:
    for folder, names in (("here", here), ("there", there)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    (tmp_path / expected / "webui.py").touch()
    found = settings.load({}, {}, settings.Call(tmp_path / "there", (tmp_path / "here",)))
    assert found.app_dir == tmp_path / expected


def test_the_ladder_holds_in_a_real_launch(app: AppFolder) -> None:
    app.write_env("FROM=file\nONLY=file\nBLANK=file\nEMPTY=\nCUDA_VISIBLE_DEVICES=0\nHF_HOME=./cache_hub\n")
    outside = {"FROM": "environment", "BLANK": "", "OUTSIDE": " ", "CUDA_VISIBLE_DEVICES": "", "TORCH_HOME": "torch"}
    env = received(app, env=clean_environment(**outside))["env"]
    assert env["FROM"] == "environment"
    assert env["ONLY"] == env["BLANK"] == "file"
    assert not {"EMPTY", "OUTSIDE"} & set(env)
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert env["HF_HOME"] == str(app.path / "cache_hub")
    assert env["TORCH_HOME"] == str(app.path / "torch")


def test_a_verbose_dry_run_and_its_json_tell_each_origin(app: AppFolder, tmp_path: Path) -> None:
    app.write_env(f"HF_ENDPOINT=https://hf-mirror.com\nAPP_ARGS=--fp16\n{PORT}=1\n")
    env = clean_environment(HF_HOME=str(tmp_path))
    done = launcher(*app.arguments, "-n", "-v", env=env)
    assert done.status == 0, done.err
    for line in (
        f"setting: APP_DIR={app.path} (--app-dir)",
        "setting: APP_SCRIPT=webui.py (default)",
        f"setting: {PORT}={app.port} (--port)",
        "setting: APP_ARGS=--fp16 (.env line 2)",
        "environment: HF_ENDPOINT=https://hf-mirror.com (.env line 1)",
        f"environment: HF_HOME={tmp_path} (environment)",
        "endpoint: https://hf-mirror.com (.env line 1)",
        f"cache: {tmp_path}/hub (environment)",
    ):
        assert line in done.out.splitlines()
    told = launcher(*app.arguments, "-n", "--json", env=env).json
    assert told["version"] == 1
    assert told["port"] == app.port
    assert told["settings"]["HF_ENDPOINT"] == {"value": "https://hf-mirror.com", "origin": ".env line 1"}
    assert told["settings"]["HF_HOME"] == {"value": str(tmp_path), "origin": "environment"}
    assert told["settings"][PORT] == {"value": str(app.port), "origin": "--port"}
    assert (told["error"], told["exit_status"]) == (None, 0)


def test_a_dry_run_changes_nothing(app: AppFolder) -> None:
    for extra in ((), ("-v",), ("--json",)):
        assert launcher(*app.arguments, "-n", *extra).status == 0
    assert os.listdir(app.path) == ["webui.py"]


def test_without_launch_nothing_is_started(app: AppFolder) -> None:
    done = launcher(*app.arguments, "--no-launch")
    assert (done.status, done.out) == (0, "")
    assert f"not launched: port {app.port} is free" in done.err
    assert launcher(*app.arguments, "--no-launch", "--json").json == {
        "version": 1,
        "stopped": [],
        "launched": False,
        "cache": [],
    }


def test_a_quiet_launch_says_nothing_but_what_must_be_said(app: AppFolder) -> None:
    app.write_env("not a line\n")
    done = launcher(*app.arguments, "-q", "--", "--exit", "0")
    assert done.err == f"{app.path}/.env line 1 cannot be parsed and is ignored\n"


def test_facts_go_to_stderr_and_the_handoff_to_stdout_only_when_asked(app: AppFolder) -> None:
    done = launcher(*app.arguments, "--json", "--", "--exit", "0")
    first, second = done.out.splitlines()
    told = json.loads(first)
    assert (told["version"], told["launched"], told["stopped"]) == (1, True, [])
    assert told["pid"] == json.loads(second)["pid"]
    plain = launcher(*app.arguments, "--", "--exit", "0")
    assert plain.out.startswith('{"pid"')
    assert [line.split(":")[0] for line in plain.err.splitlines()] == ["interpreter", "endpoint", "cache", "exec"]


def test_the_port_of_the_environment_is_the_port_of_the_app(app: AppFolder) -> None:
    port = free_port()
    done = launcher("--app-dir", app.path, "--", "--exit", "0", env=clean_environment(GRADIO_SERVER_PORT=str(port)))
    assert json.loads(done.out.splitlines()[0])["argv"][:3] == ["webui.py", "--port", str(port)]


def test_help_and_version_answer_even_where_nothing_is_in_order(tmp_path: Path) -> None:
    for arguments in (("--help",), ("-h",), ("help",)):
        done = launcher(*arguments, cwd=tmp_path)
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith("usage: start_app.py")
        for word in ("examples:", "commands:", "options:", "exit status:", "--take-port", "stop", "78 configuration"):
            assert word in done.out
    done = launcher("--version", cwd=tmp_path)
    assert (done.status, done.out.split()[0], done.err) == (0, "start_app.py", "")


def test_options_stand_before_or_after_the_command(app: AppFolder) -> None:
    for arguments in ((*app.arguments, "status"), ("status", *app.arguments), ("--json", "status", *app.arguments)):
        assert launcher(*arguments).status == 0


def test_dots_behind_a_linked_folder_lead_where_the_kernel_goes(tmp_path: Path) -> None:
    # Deployed behind a link, as current -> v23: what the app would find from its folder is what the setting must mean.
    (tmp_path / "data" / "v23").mkdir(parents=True)
    (tmp_path / "current").symlink_to(tmp_path / "data" / "v23")
    (tmp_path / "current" / "webui.py").touch()
    (tmp_path / "current" / ".env").write_text("HF_HOME=../cache\n")
    found = settings.load({"APP_DIR": str(tmp_path / "current")}, {}, settings.Call(tmp_path))
    assert found.variables["HF_HOME"].value == str(tmp_path / "data" / "cache")


QUOTED = [
    ("HF_HOME", '"/models"'),
    ("HF_HOME", "'/models'"),
    ("HF_HOME", "“/models”"),
    ("HF_HOME", "„/models“"),
    ("HF_HOME", "＂/models＂"),
    ("GRADIO_TEMP_DIR", '"/tmp/gradio"'),
    ("APP_PYTHON", '"/opt/python"'),
    ("HF_ENDPOINT", "'https://hf-mirror.com'"),
    ("APP_ARGS", '"--fp16 --model_dir checkpoints"'),
    ("APP_ARGS", "“--fp16”"),
    ("APP_SCRIPT", '"webui.py"'),
]


@pytest.mark.parametrize(("name", "value"), QUOTED)
def test_quotes_that_a_container_engine_hands_over_are_refused(folder: Path, name: str, value: str) -> None:
    with pytest.raises(LauncherError, match=f"{name} .*has quotes around it .environment") as caught:
        load(folder, environ={name: value})
    assert caught.value.status == ExitStatus.CONFIG
    assert f"{name}=VALUE without quotes" in str(caught.value.hint)


def test_quotes_that_a_shell_takes_off_are_kept_for_it(folder: Path) -> None:
    assert load(folder, environ={"APP_ARGS": '"--fp16"'}).app_args == ("--fp16",)
    assert load(folder, environ={"APP_ARGS": "--prompt 'a b'"}).app_args == ("--prompt", "a b")
    (folder / ".env").write_text('HF_HOME="/models"\n')
    assert load(folder).variables["HF_HOME"].value == "/models"


def test_a_secret_with_quotes_is_warned_of_and_not_shown(folder: Path) -> None:
    (warning,) = load(folder, environ={"HF_TOKEN": '"hf_' + "s" * 34 + '"'}).warnings
    assert warning == "HF_TOKEN (environment) has quotes around its value, and the app reads them as part of the value"
    with pytest.raises(LauncherError) as caught:
        load(folder, environ={"APP_NOTIFY_URL": "'https://hooks.example/secret'"})
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "value", "said", "hint"),
    [
        ("HF_HOME", r"D:\models\hf", "is a path of Windows", "HF_HOME=/mnt/d/models/hf under WSL"),
        ("HF_HOME", "d:/models", "is a path of Windows", "HF_HOME=/mnt/d/models under WSL"),
        ("HF_HOME", r"\\nas\models", "is a path of Windows", "HF_HOME=/PATH"),
        ("APP_DIR", r"C:\app", "is a path of Windows", "APP_DIR=/mnt/c/app under WSL"),
        ("HF_HOME", "/models\r", "has a line end", "sed -i"),
        ("APP_ARGS", "--fp16\r", "has a line end", "sed -i"),
        ("HF_HOME", "/models”", "begins or ends with a typographic quote", "HF_HOME=VALUE"),
        ("APP_ARGS", "--prompt “two words” --fp16", "is neither a hyphen nor a quote", "write it with a plain -"),
        ("APP_ARGS", "–fp16", "is neither a hyphen nor a quote", "write it with a plain -"),
        ("APP_ARGS", "——model_dir x", "is neither a hyphen nor a quote", "write it with a plain -"),
        ("HF_HOME", "# where the models go", "has a comment in it", "EnvironmentFile="),
        ("HF_HOME", "/models # the big disk", "has a comment in it", "EnvironmentFile="),
        ("APP_ARGS", "--fp16 # small cards", "has a comment in it", "EnvironmentFile="),
        ("HF_HOME", "$(pwd)/models", "is more than a value", "HF_HOME=VALUE"),
        ("HF_HOME", "/models; export HF_HUB_OFFLINE=1", "is more than a value", "HF_HOME=VALUE"),
    ],
)
def test_what_windows_and_word_processors_leave_is_refused(
    folder: Path, name: str, value: str, said: str, hint: str
) -> None:
    with pytest.raises(LauncherError) as caught:
        load(folder, environ={name: value})
    assert said in caught.value.message
    assert hint in str(caught.value.hint)
    assert caught.value.status == ExitStatus.CONFIG


@pytest.mark.parametrize(
    "host", ["[::]:7860", "[::", "127.0.0.1:7860", "::1/128", "http://0.0.0.0", "[box]", "1::2::3"]
)
def test_an_address_with_more_than_an_address_is_refused(folder: Path, host: str) -> None:
    with pytest.raises(LauncherError, match="is not a host name or address"):
        load(folder, environ={"GRADIO_SERVER_NAME": host})


@pytest.mark.parametrize(
    ("host", "read"), [("[::]", "::"), ("::", "::"), ("fe80::1%eth0", "fe80::1%eth0"), ("my-box", "my-box")]
)
def test_an_address_is_understood_as_people_write_it(folder: Path, host: str, read: str) -> None:
    assert load(folder, environ={"GRADIO_SERVER_NAME": host}).host == read


def test_a_folder_with_a_hash_in_its_name_is_one(folder: Path) -> None:
    (folder / "models #1").mkdir()
    assert load(folder, environ={"HF_HOME": str(folder / "models #1")}).variables["HF_HOME"].value.endswith("#1")


def test_a_windows_path_with_an_escape_in_double_quotes_is_still_one(folder: Path) -> None:
    (folder / ".env").write_text('HF_HOME="D:\\new"\n')  # dotenv makes a line end of it
    with pytest.raises(LauncherError, match="is a path of Windows"):
        load(folder)


@pytest.mark.parametrize(
    "line",
    [
        "HF_HOME＝/mnt/models",
        "HF_HOME:/mnt/models",
        "HF_HOME：/mnt/models",
        '"HF_HOME"=/mnt/models',
        "HF_HOME /mnt/models",
        "set HF_HOME=/mnt/models",
        "$env:HF_HOME = '/mnt/models'",
        "\u200bHF_HOME=/mnt/models",
    ],
)
def test_a_line_that_was_meant_to_set_something_is_refused(folder: Path, line: str) -> None:
    (folder / ".env").write_text(f"\n{line}\n")
    with pytest.raises(LauncherError, match=r"\.env line 2 is about HF_HOME, but it is not HF_HOME=VALUE"):
        load(folder)
    (folder / ".env").write_text(line.replace("HF_HOME", "MY_OWN"))
    assert any(".env line 1 " in warning for warning in load(folder).warnings)


def test_windows_line_ends_are_line_ends(folder: Path) -> None:
    (folder / ".env").write_bytes(b"HF_HOME=/models\r\nAPP_ARGS=--fp16\r\n")
    assert load(folder).variables["HF_HOME"].value == "/models"
    assert load(folder).app_args == ("--fp16",)


@pytest.mark.parametrize("line", ["PATH=/opt/tools:$PATH", "PATH=/opt/tools:${PATH}", "PATH=/opt/tools:/usr/bin"])
def test_a_path_of_the_file_reaches_the_app(folder: Path, line: str) -> None:
    (folder / ".env").write_text(f"{line}\n")
    variables = load(folder, environ={"PATH": "/usr/bin"}).variables
    assert variables["PATH"] == ("/opt/tools:/usr/bin", ".env line 1", "file")


def test_another_list_counts_where_it_extends_the_environments(folder: Path) -> None:
    (folder / ".env").write_text("LD_LIBRARY_PATH=$LD_LIBRARY_PATH:/opt/lib\nPYTHONPATH=/opt/py\n")
    loaded = load(folder, environ={"LD_LIBRARY_PATH": "/cuda", "PYTHONPATH": "/site"})
    assert loaded.variables["LD_LIBRARY_PATH"].value == "/cuda:/opt/lib"
    assert loaded.variables["PYTHONPATH"].value == "/site"
    (warning,) = loaded.warnings
    assert ".env line 2: PYTHONPATH has no effect" in warning
    assert load(folder).variables["PYTHONPATH"].value == "/opt/py"


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("/mnt/my usb/models", ["/mnt/my usb/models"]),
        ("/mnt/my usb/models, https://hf-mirror.com", ["/mnt/my usb/models", "https://hf-mirror.com"]),
        ("https://hf-mirror.com /mnt/a b /mnt/c", ["https://hf-mirror.com", "/mnt/a b", "/mnt/c"]),
        (" ./usb  ~/my models ,../x,", ["./usb", "~/my models", "../x"]),
        ("https://a.b https://c.d", ["https://a.b", "https://c.d"]),
        ("https://a.b and more", ["https://a.b and more"]),
    ],
)
def test_a_folder_among_the_fallbacks_may_have_blanks_in_its_name(text: str, entries: list[str]) -> None:
    assert list(fallbacks(text)) == entries
