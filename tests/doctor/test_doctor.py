"""`doctor` finds what is wrong, on any machine, and its exit status tells how wrong it is."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.doctor.finding import ORDER, SECONDS, Check, Finding, examine, odd, problem, status_of
from launcher.errors import ExitStatus, LauncherError
from tests.support.apps import (
    ROOT,
    START_APP,
    AppFolder,
    Done,
    Processes,
    clean_environment,
    eventually,
    get,
    launcher,
    make_app,
    program,
)
from tests.support.models import NEW_DAY, OLD, V23, World, deaf, world_of
from tests.support.readme_world import copied

LONG = ("--timeout", "50")
"""Long enough for every check, on a machine that is busy."""
SECRET = "hunter2-and-more"
needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or subprocess.run(("unshare", "-mpf", "true")).returncode != 0,
    reason="needs root and namespaces",
)


@pytest.fixture
def world(app: AppFolder) -> Iterator[World]:
    with world_of(app) as found:
        yield found


@pytest.fixture
def open_box() -> Iterator[Path]:
    """Lend a folder that other users can enter; another run of pytest would close those of this one."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def doctor(app: AppFolder, *arguments: str, **changes: str) -> Done:
    return launcher("doctor", *app.arguments, *LONG, *arguments, env=clean_environment(**changes))


def offline(app: AppFolder, *lines: str) -> None:
    """Write a `.env` that asks no hub, and has a cache of its own."""
    app.write_env("".join(f"{line}\n" for line in ("HF_HUB_OFFLINE=1", "HF_HOME=./hf", *lines)))


def findings(done: Done, level: str, topic: str = "") -> list[str]:
    """Return the texts of a level, as the JSON has them."""
    assert done.status != ExitStatus.BUG, done.err
    assert "findings" in done.json, done.out
    found = [one for one in done.json["findings"] if one["level"] == level and topic in ("", one["topic"])]
    assert all(one["hint"] for one in found if level != "fact"), found
    assert not [one for one in done.json["findings"] if "this check failed" in one["text"]]
    return [one["text"] for one in found]


def test_a_healthy_app_has_no_problem(app: AppFolder, processes: Processes) -> None:
    offline(app)
    processes.launch(*app.arguments)
    eventually(lambda: get(app.port), 30, what="page")
    done = doctor(app)
    assert (done.status, done.err) == (0, "")
    assert len(done.out.splitlines()) <= 6, done.out
    assert "problem" not in done.out.splitlines()[0]


@pytest.mark.slow
def test_it_changes_nothing(app: AppFolder) -> None:
    offline(app)
    before = sorted(app.path.rglob("*"))
    assert doctor(app).status == 0
    assert sorted(app.path.rglob("*")) == before


def test_the_status_is_that_of_the_worst_problem_and_an_oddity_has_none() -> None:
    assert [int(status) for status in ORDER] == [78, 77, 74, 65, 69, 80, 75]
    assert status_of([odd("a", "b", "c"), Finding("fact", "a", "b")]) == 0
    for number, status in enumerate(ORDER):
        assert status_of([problem("a", "b", "c", other) for other in reversed(ORDER[number:])]) == status
    assert problem("a", "b", "c", ExitStatus.USAGE).status == ExitStatus.CONFIG


def test_a_check_that_hangs_or_fails_does_not_hide_the_others() -> None:
    def hangs(context: object) -> Iterator[Finding]:
        yield odd("slow", "first", "c")
        time.sleep(60)

    def breaks(context: object) -> Iterator[Finding]:
        raise ValueError("odd")

    def refuses(context: object) -> Iterator[Finding]:
        raise LauncherError("no", None, ExitStatus.TAKEN)

    def denied(context: object) -> Iterator[Finding]:
        raise PermissionError(13, "Permission denied", "/x")

    checks = [
        Check("slow", hangs, "late", ExitStatus.RETRY),
        *(Check("other", look, "late") for look in (breaks, refuses, denied)),
    ]
    found = examine(None, checks, 1)  # type: ignore[arg-type]
    assert [one.text for one in found[:2]] == ["first", "no answer within 1 s"]
    assert [int(one.status) for one in found] == [0, 75, 0, 69, 77]
    assert all(one.hint for one in found)


def test_every_wrong_setting_is_named_not_only_the_first(app: AppFolder) -> None:
    app.write_env("GRADIO_SERVER_PORT=many\nHF_ENDPOINT=mirror\nAPP_LOCKED=perhaps\nHF_HUB_OFFLINE=1\n")
    done = launcher("doctor", "--app-dir", app.path, *LONG, "--json")
    told = " ".join(findings(done, "problem", "settings"))
    assert done.status == ExitStatus.CONFIG
    assert all(name in told for name in ("GRADIO_SERVER_PORT", "HF_ENDPOINT", "APP_LOCKED")), told


@pytest.mark.slow
def test_an_env_that_cannot_be_read_hides_nothing_else(app: AppFolder) -> None:
    (app.path / ".env").mkdir()
    (app.path / "models.lock").write_text("{")
    done = doctor(app, "--json", HF_HUB_OFFLINE="1")
    assert done.status == ExitStatus.CONFIG
    assert any("it is a folder" in text for text in findings(done, "problem", "settings"))
    assert findings(done, "problem", "models")


@pytest.mark.slow
def test_a_missing_script_and_one_that_python_refuses(app: AppFolder) -> None:
    offline(app)
    app.script.write_text("def broken(:\n")
    done = doctor(app, "--json")
    assert done.status == ExitStatus.CONFIG
    assert any("cannot run" in text for text in findings(done, "problem", "start"))
    app.script.unlink()
    done = doctor(app, "--json")
    assert done.status == ExitStatus.CONFIG
    assert any("no webui.py in" in text for text in findings(done, "problem", "settings"))
    assert findings(done, "problem", "port") == findings(done, "problem", "log-out") == []  # it is reported once


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_folder_that_is_none_is_not_exchanged_for_another_one(app: AppFolder, kind: str) -> None:
    folder = app.path / kind
    if kind == "file":
        folder.write_text("")
    done = launcher("doctor", "--app-dir", folder, *LONG, "--json", cwd=app.path, env=clean_environment())
    assert done.status == ExitStatus.CONFIG
    (told,) = findings(done, "problem")
    assert str(folder) in told
    assert findings(done, "fact", "container")


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None or not os.path.exists("/usr/bin/python3"),
    reason="needs root, setpriv and a Python that other users can run",
)
def test_folders_that_another_user_may_not_use(open_box: Path) -> None:
    import psutil

    box = open_box
    app = make_app(box / "app")
    for name in ("start_app.py", "launcher"):
        copied(ROOT / name, box / name)
    for name in ("psutil", "dotenv"):
        copied(Path(psutil.__file__).parents[1] / name, box / name)
    offline(app)
    closed = app.path / "hf" / "hub" / "models--a--b"
    closed.mkdir(parents=True)
    closed.chmod(0)
    python = "/usr/bin/python3"
    words = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, box / "start_app.py", "doctor")
    more = ("--app-dir", app.path, "--json", *LONG)
    environment = clean_environment(PYTHONDONTWRITEBYTECODE="1", HOME="/nonexistent")

    def run() -> Done:
        done = subprocess.run((*words, *more), env=environment, cwd="/", capture_output=True, text=True, timeout=60)
        return Done(done.returncode, done.stdout, done.stderr)

    done = run()
    if "psutil" in " ".join(findings(done, "problem", "python")):
        pytest.skip("psutil is not for the Python of the system")
    assert done.status == ExitStatus.DENIED
    assert any(f"cannot use {app.path}: " in text for text in findings(done, "problem", "folders"))
    assert any("models--a--b" in text for text in findings(done, "problem", "cache"))
    app.path.chmod(0o700)
    done = run()
    assert done.status in (ExitStatus.DENIED, ExitStatus.CONFIG)
    assert any(str(app.path) in text for text in findings(done, "problem", "settings"))


@pytest.mark.slow
def test_a_foreign_holder_of_the_port(app: AppFolder, processes: Processes) -> None:
    offline(app)
    processes.start((sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), 30, what="holder")
    done = doctor(app, "--json")
    assert done.status == ExitStatus.TAKEN
    assert any("is held" in text for text in findings(done, "problem", "port"))


@pytest.mark.slow
def test_a_start_that_has_failed(app: AppFolder) -> None:
    offline(app)
    launcher("--background", *app.arguments, "--", "--exit", "3")
    done = doctor(app, "--json")
    assert done.status == ExitStatus.RETRY
    assert any("exit status 3" in text for text in findings(done, "problem", "last start"))


@pytest.mark.slow
def test_what_the_environment_overrides_is_odd(app: AppFolder) -> None:
    offline(app, "HF_HUB_DOWNLOAD_TIMEOUT=30", f"HF_TOKEN={SECRET}")
    done = doctor(app, "--json", HF_HUB_DOWNLOAD_TIMEOUT="5", HF_TOKEN=f"{SECRET}-other")
    assert done.status == 0
    told = findings(done, "odd", "settings")
    assert any("HF_HUB_DOWNLOAD_TIMEOUT is 5 in the environment and 30 in" in text for text in told), told
    assert any("other users can read" in text and "HF_TOKEN" in text for text in told), told
    assert SECRET not in done.out


@pytest.mark.slow
@pytest.mark.parametrize("output", [("--json",), ("--report",), ("-v",)])
def test_no_output_has_a_secret(app: AppFolder, output: tuple[str, ...]) -> None:
    offline(
        app,
        f"HF_TOKEN={SECRET}",
        f"MY_API_KEY={SECRET}2",
        f"APP_ARGS='--auth me:{SECRET}'",
        f"HTTPS_PROXY=http://me:{SECRET}@127.0.0.1:9",
        f"HF_ENDPOINT=https://me:{SECRET}@127.0.0.1:9/x y",
        f"APP_NOTIFY_URL=https://hooks.slack.com/{SECRET}",
    )
    done = doctor(app, *output)
    assert done.status == ExitStatus.CONFIG
    assert SECRET not in done.out + done.err
    if output == ("--report",):
        assert done.out.startswith("# start_app.py ")
        assert all(f"\n## {title}\n" in done.out for title in ("Problems", "Oddities", "Facts"))


@pytest.mark.slow
def test_a_token_that_the_app_would_send_to_a_mirror(app: AppFolder) -> None:
    app.write_env(f"HF_HOME=./hf\nHF_TOKEN={SECRET}\nHF_ENDPOINT=http://127.0.0.1:9\n")
    told = findings(doctor(app, "--json"), "odd", "token")
    assert any("will send the token of HF_TOKEN to http://127.0.0.1:9" in text for text in told), told


@pytest.mark.slow
def test_a_model_that_is_behind_and_a_mirror_that_lags(world: World) -> None:
    old, new = world.publish()
    world.put(old)
    done = doctor(world.app, "--json")
    assert done.status == ExitStatus.STALE
    assert any("local behind" in text for text in findings(done, "problem", "models"))
    world.put(new)
    world.mirror.freeze(V23, sha=old)
    done = doctor(world.app, "--json")
    assert done.status == 0
    told = findings(done, "odd", "models")
    assert any(f"mirror behind the Hub: it says {old[:7]}" in text for text in told), told
    assert mirror_hint(done).endswith(f" models lock {V23}; {program()} {shlex.join(world.app.arguments)} --locked")
    world.pin(V23)
    assert mirror_hint(doctor(world.app, "--json")).endswith(" --locked loads only what models.lock pins")
    done = doctor(world.app, "--json", APP_LOCKED="1")
    assert findings(done, "odd", "models") == []


def mirror_hint(done: Done) -> str:
    """Return the hint for the mirror that is behind."""
    return next(one["hint"] for one in done.json["findings"] if "mirror behind the Hub" in one["text"])


@pytest.mark.slow
def test_a_pinned_file_of_another_size(world: World) -> None:
    newest = world.hub.commit(V23, OLD, date=NEW_DAY)
    folder = world.put(newest)
    world.pin(V23)
    (folder / "snapshots" / newest / "config.json").resolve().write_bytes(b"{}")
    done = doctor(world.app, "--json")
    assert done.status == ExitStatus.DAMAGED
    assert any(
        "another size than models.lock pins: config.json" in text for text in findings(done, "problem", "models")
    )


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_a_hub_that_hangs_takes_no_longer_than_the_deadline(world: World, cached: bool) -> None:
    if cached:
        world.put(world.publish()[1])
    with deaf() as address:
        world.configure(HF_ENDPOINT=address, HF_OFFICIAL_ENDPOINT=address)
        began = time.monotonic()
        done = launcher("doctor", *world.app.arguments, "--json")
        took = time.monotonic() - began
    assert done.status == ExitStatus.RETRY
    told = findings(done, "problem", "hub")
    assert any("does not answer" in text or f"no answer within {SECONDS:g} s" in text for text in told), told
    assert took < 15  # 2.2 s for the checks; the rest is a busy machine that starts a Python


@pytest.mark.slow
def test_a_driver_that_hangs_and_a_full_gpu(app: AppFolder, tmp_path: Path) -> None:
    offline(app)
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    path = f"{tool.parent}:{os.environ['PATH']}"
    tool.write_text("#!/bin/sh\nsleep 60\n")
    tool.chmod(0o755)
    done = doctor(app, "--json", PATH=path)
    assert done.status == 0
    assert any("nvidia-smi fails or does not answer" in text for text in findings(done, "odd", "gpu"))
    tool.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034, 22990, 550.1'\n")
    done = doctor(app, "--json", PATH=path, CUDA_VISIBLE_DEVICES="")
    told = findings(done, "odd", "gpu")
    assert any("NVIDIA L4" in text and "in use" in text for text in told), told
    assert any("hides every GPU" in text for text in told), told


@pytest.mark.slow
def test_missing_packages_hide_nothing_else(app: AppFolder) -> None:
    offline(app)
    done = launcher("doctor", *app.arguments, *LONG, "--json", python=(sys.executable, "-S"))
    assert done.status == ExitStatus.CONFIG
    assert any(
        "psutil>=6 and python-dotenv>=1.0: not installed" in text for text in findings(done, "problem", "python")
    )
    assert findings(done, "fact", "disk")


@pytest.mark.slow
def test_a_current_folder_that_was_removed(app: AppFolder, tmp_path: Path) -> None:
    offline(app)
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && exec {sys.executable} {START_APP} doctor --app-dir {app.path} --timeout 50"
    done = subprocess.run(("sh", "-c", script), env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == ExitStatus.CONFIG, done.stdout + done.stderr
    assert "the current folder was removed" in done.stdout


@needs_namespaces
@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    ["true", "mount -t tmpfs tmpfs /proc", "mount -t tmpfs -o size=1m tmpfs {app}/hf"],
    ids=("pid 1", "no proc", "full"),
)
def test_it_works_as_pid_1_without_proc_and_on_a_full_disk(app: AppFolder, before: str) -> None:
    offline(app)
    (app.path / "hf").mkdir()
    call = f"{sys.executable} {START_APP} doctor --app-dir {app.path} --port {app.port} --json --timeout 50"
    command = f"{before.format(app=app.path)} && exec {call}"
    words = ("unshare", "-mpf", "--mount-proc", "sh", "-c", command)
    done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=100)
    document = json.loads(done.stdout)
    assert not [one for one in document["findings"] if "this check failed" in one["text"]], done.stdout
    if "size=1m" in before:
        assert done.returncode == ExitStatus.IO
        assert any(one["topic"] == "disk" and one["level"] == "problem" for one in document["findings"])
    else:
        assert done.returncode == 0, done.stdout
