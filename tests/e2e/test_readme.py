"""Every command in the READMEs is run as it stands there, in the world that its reader has, and does what they say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.support import readme, systemd
from tests.support.apps import ROOT, AppFolder, Processes, alive, eventually, get
from tests.support.environments import make_venv, skip_where_unreachable
from tests.support.models import V22, V23
from tests.support.readme_world import (
    TTS,
    TTS_FILES,
    World,
    copied,
    made,
    runs,
    shows,
)

RESTART = "cd /root/index-tts && .venv/bin/python start_app.py"
BACKGROUND, HISTORY = ".venv/bin/python start_app.py --background", ".venv/bin/python start_app.py history"


@pytest.fixture
def world(tmp_path: Path, processes: Processes) -> Iterator[World]:
    with made(tmp_path, processes) as found:
        yield found


@pytest.fixture
def installed(world: World) -> World:
    world.install()
    return world


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a clone of this repository, as far as it is installed and run."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("start_app.py", "launcher", ".env.example", "pyproject.toml", "README.md"):
        copied(ROOT / name, folder / name)
    return folder


@runs(RESTART)
def test_the_first_transcript_is_what_a_restart_prints(installed: World, world: World) -> None:
    world.cache(V23, world.publish(V23)[0])
    old = world.by_hand()
    running = world.processes.start(world.script(RESTART), Path("/"), world.environment())
    world.await_page(running, world.app.port, before=old.pid)
    assert old.wait() == -signal.SIGTERM
    assert get(world.app.port) == f"pid {running.pid}"
    shows(RESTART, world.shown(running.out))


GUIDE = "cp -r start_app.py launcher .env.example /root/index-tts/"


@runs(*readme.fence_of(readme.ENGLISH, GUIDE))
def test_copied_into_the_apps_folder(world: World) -> None:
    pip = pytest.importorskip("pip")
    shutil.rmtree(world.app.path / ".venv")
    make_venv(world.app.path / ".venv", (Path(pip.__file__).parent,))
    words = world.script(*readme.fence_of(readme.ENGLISH, GUIDE))
    running = world.processes.start(words, ROOT, world.environment(HF_ENDPOINT=world.mirror.endpoint))
    eventually(lambda: running.process.poll() is not None or get(world.app.port), 90, "page")
    if running.process.poll() is not None:
        skip_where_unreachable(running.out)
    seen = running.hello()
    assert seen["argv"] == ["webui.py", "--port", str(world.app.port)]
    assert seen["env"]["HF_HOME"] == str(world.app.path / "cache_hub")
    assert (world.app.path / ".env").read_text() == (ROOT / ".env.example").read_text()
    plan, _, launched = world.shown(running.out).partition("would exec: .venv/bin/python webui.py --port 7860\n")
    assert "setting: GRADIO_SERVER_PORT=7860 (environment)" in launched
    assert plan.count("endpoint: ") == 1


@runs("[ -e .env ] || cp .env.example .env")
def test_an_apps_own_settings_stay(installed: World, world: World) -> None:
    world.app.write_env("APP_ARGS=--fp16\n")
    shutil.copy(ROOT / ".env.example", world.app.path)
    world.fine("[ -e .env ] || cp .env.example .env")
    assert (world.app.path / ".env").read_text() == "APP_ARGS=--fp16\n"


BESIDE = readme.fence_of(readme.ENGLISH, "~/start-app/bin/start-app --app-dir /root/index-tts")


@runs(*BESIDE)
def test_beside_the_app_in_an_environment_of_its_own(world: World, checkout: Path) -> None:
    before = set(os.listdir(world.app.path))
    running = world.processes.start(world.script(*BESIDE), checkout, world.with_quick_venv())
    eventually(lambda: running.process.poll() is not None or get(world.app.port), 100, "page")
    if running.process.poll() is not None:
        skip_where_unreachable(running.out)
    assert get(world.app.port) == f"pid {running.pid}", running.out
    assert set(os.listdir(world.app.path)) - before == {".start_app"}
    assert psutil.Process(running.pid).cmdline()[0] == f"{world.app.path}/.venv/bin/python"


UV = "uv run --with 'python-dotenv>=1.0' start_app.py"
UV_PIP, UV_SYNC = "uv pip install --python .venv/bin/python 'psutil>=6' 'python-dotenv>=1.0'", "uv sync"


@runs(UV, UV_PIP, UV_SYNC, "cd /root/index-tts")
def test_under_uv_run_a_second_one_takes_the_place_of_the_first_and_of_its_uv(installed: World, world: World) -> None:
    pytest.importorskip("uv")
    shutil.rmtree(world.app.path / ".venv")
    (world.app.path / "pyproject.toml").write_text(
        '[project]\nname = "indextts"\nversion = "2.0.0"\nrequires-python = ">=3.10"\ndependencies = ["psutil>=6"]\n'
    )
    env = {"UV_PYTHON": sys.executable}
    done = world.run(UV_SYNC, env=env)
    if done.status:
        skip_where_unreachable(done.out)
    first = world.start("cd /root/index-tts", UV, env=env, cwd=Path("/"))
    app = get(world.app.port)
    second = world.processes.start(world.script(UV), world.app.path, world.environment(**env))
    world.await_page(second, world.app.port, before=int(str(app).removeprefix("pid ")))
    assert first.wait() != 0
    assert not alive(first.pid)
    assert psutil.Process(second.pid).name() == "uv"
    assert get(world.app.port) == f"pid {world.app.lock_holder()}" != app
    # What uv made for one run is gone after it: a hint calls uv again, and a unit is not made of it.
    refused = world.run(f"{UV} stop --fp16", env=env)
    assert f"hint: if it is the app's own, put it after --: {UV} " in refused.out
    no_unit = world.run(f"{UV} unit", env=env)
    assert no_unit.status == 78
    assert "a unit needs a Python that stays" in no_unit.out and "[Service]" not in no_unit.out
    stopped = world.fine(f"{UV} stop", env=env)
    assert "terminated pid" in stopped
    second.wait()
    # The other way: into the app's own environment, which has no pip, until uv tidies it up.
    plain = ".venv/bin/python start_app.py -n"
    lacking = world.run(plain)
    assert (lacking.status, lacking.out.splitlines()[1].split()[:4]) == (78, ["hint:", "uv", "pip", "install"])
    world.fine(UV_PIP, plain, env=env)
    world.fine(UV_SYNC, env=env)
    assert world.run(plain).status == 78


OTHER = readme.fence_of(readme.ENGLISH, "cd /srv/my-app")
GRADIO = "import gradio as gr\n\nwith gr.Blocks() as demo:\n    gr.Markdown('hello')\ndemo.launch()\n"


@runs(*OTHER)
def test_any_other_gradio_app(installed: World, world: World) -> None:
    pytest.importorskip("gradio")
    world.app.script.unlink()
    (world.app.path / "app.py").write_text(GRADIO)
    world.app.write_env("HF_HOME=./cache_hub\nGRADIO_ANALYTICS_ENABLED=False\n")
    running = world.start(*OTHER, cwd=Path("/"), port=world.other_port)
    assert psutil.Process(running.pid).cmdline()[1:] == ["app.py"]
    assert "gradio" in str(get(world.other_port))
    assert "terminated pid" in world.fine(".venv/bin/python start_app.py --port 7861 stop")


PIN = readme.fence_of(
    readme.ENGLISH, ".venv/bin/python start_app.py models lock IndexTeam/IndexTTS-2 --local-dir checkpoints"
)


@runs(*PIN)
@pytest.mark.parametrize("has", [(), ("gpt.pth",), tuple(TTS_FILES)])
def test_a_model_that_the_app_keeps_itself_is_pinned_and_brought(
    installed: World, world: World, has: tuple[str, ...]
) -> None:
    """What a download by hand left is kept, completed or brought anew."""
    world.hub.commit(TTS, TTS_FILES)
    for path in set(TTS_FILES) - set(has):
        (world.app.path / "checkpoints" / path).unlink()
    running = world.start(*PIN)
    out = world.shown(running.out)
    assert f"{TTS} in checkpoints main: new → " in out
    assert f"model: {TTS} @ {world.hub.head(TTS)[:7]} (locked)" in out
    assert {path: (world.app.path / "checkpoints" / path).read_bytes() for path in TTS_FILES} == TTS_FILES
    assert running.hello()["env"]["HF_HUB_OFFLINE"] == "1"


@runs(BACKGROUND, HISTORY)
def test_the_transcript_in_the_background_is_what_it_and_the_history_print(installed: World, world: World) -> None:
    world.background()
    history = world.app.path / ".start_app" / "history.jsonl"
    controller, terminal = os.openpty()
    try:
        done = world.run(BACKGROUND, env={"SUDO_USER": "alice"}, stdin=terminal)
        assert world.app.lock_holder()
        shows(BACKGROUND, done.out)
        lines = [json.loads(line) for line in history.read_text().splitlines()]
        assert [line["action"] for line in lines] == ["start", "ready", "stop", "start", "ready"]
        history.write_text("".join(f"{json.dumps(line)}\n" for line in lines[2:]))
        told = world.fine(HISTORY).replace(f"{psutil.Process().username()} (", "root (")
        shows(HISTORY, told)
    finally:
        os.close(controller)
        os.close(terminal)


LIST, REMOVE = (
    ".venv/bin/python start_app.py cache list",
    ".venv/bin/python start_app.py --remove-model koge/index-tts-v22",
)


@runs(LIST, REMOVE)
def test_the_caches_transcript_is_what_it_prints_and_the_model_goes(installed: World, world: World) -> None:
    world.cache(V23, world.publish(V23)[1])
    old, new = world.publish(V22)
    gone = world.cache(V22, old, ref=None)
    world.cache(V22, new)
    shows(LIST, world.fine(LIST))
    running = world.start(REMOVE)
    assert "cache: removing koge/index-tts-v22" in running.out
    assert not gone.exists()
    assert V22 not in world.fine(LIST)


CHECK, LOCK, LOCKED = (
    ".venv/bin/python start_app.py models check",
    ".venv/bin/python start_app.py models lock koge/index-tts-v23",
    ".venv/bin/python start_app.py --locked",
)


@runs(CHECK, LOCK, LOCKED, tells=("local behind", "mirror inconsistent"))
def test_the_models_transcript_is_what_checking_pinning_and_a_locked_launch_print(
    installed: World, world: World
) -> None:
    old, new = world.publish(V23)
    world.cache(V23, old)
    world.mirror.freeze(V23, api=old, files=new)
    by_hand = world.by_hand()
    done = world.run(CHECK)
    assert done.status == 80
    shows(CHECK, done.out)
    world.tells("local behind", done.out)
    shows(LOCK, world.fine(LOCK))
    running = world.processes.start(world.script(LOCKED), world.app.path, world.environment())
    world.await_page(running, world.app.port, before=by_hand.pid)
    shows(LOCKED, world.shown(running.out))
    world.cache(V23, new)
    world.tells("mirror inconsistent", world.run(CHECK).out)


UNIT = ".venv/bin/python start_app.py unit | sudo tee /etc/systemd/system/index-tts.service"
STATUS, RESTART_UNIT = "systemctl status index-tts.service", "systemctl restart index-tts.service"
INSTANCE = "systemctl enable --now index-tts@7861"


SERVICE = readme.fence_of(readme.ENGLISH, UNIT)


@runs(*SERVICE, STATUS, RESTART_UNIT, INSTANCE, tells=("… runs inside index-tts.service",))
def test_as_a_service(installed: World, world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    with world.app.path.joinpath(".env").open("a") as file:
        file.write(f"GRADIO_SERVER_PORT={world.app.port}\n")
    for machine in systemd.boot(tmp_path_factory.mktemp("machine")):
        serve(world, machine)


def serve(world: World, machine: systemd.Machine) -> None:
    """Follow the section about systemd in a machine of its own."""
    port, other = world.app.port, f"index-tts@{world.other_port}.service"
    folder = machine.folder / "srv" / "index-tts"
    shutil.copytree(world.app.path, folder, symlinks=True)
    shutil.rmtree(folder / ".venv")
    (folder / ".venv").symlink_to("/srv/python")
    # Units are the machine's own, but links to them would be made out here.
    machine.run("mount", "--bind", "/run/units", "/etc/systemd/system")
    there = replace(world, app=AppFolder(Path("/srv/index-tts"), port), units=Path("/etc/systemd/system"))

    def run(*commands: str, status: int = 0) -> str:
        done = machine.run(*there.script("cd /root/index-tts", *commands), check=False)
        assert done.status == status, done.out + machine.told("index-tts.service") + machine.told(other)
        return there.shown(done.out)

    run(*SERVICE)
    assert machine.show("index-tts.service", "ActiveState") == "active"
    main = machine.show("index-tts.service", "MainPID")
    assert get(port) == f"pid {main}"
    assert 'Status: "ready: pid' in run(STATUS)
    refused = run(".venv/bin/python start_app.py", status=69)
    world.tells("… runs inside index-tts.service", refused)
    assert f"hint: {RESTART_UNIT}" in refused
    run(RESTART_UNIT)
    assert machine.show("index-tts.service", "MainPID") not in (main, "0")
    run(".venv/bin/python start_app.py unit --template >/etc/systemd/system/index-tts@.service")
    run("systemctl daemon-reload", INSTANCE)
    assert get(world.other_port) == f"pid {machine.show(other, 'MainPID')}"
    assert get(port) == f"pid {machine.show('index-tts.service', 'MainPID')}"


DEMO = readme.fences(readme.ENGLISH)[1]
TESTS = readme.fences(readme.ENGLISH)[2]


@pytest.mark.timeout(180)
@runs(*DEMO.commands, ".venv/bin/python start_app.py --demo status")
def test_the_playground_is_all_that_is_left_of_it(world: World, checkout: Path) -> None:
    pytest.importorskip("gradio")
    before = set(os.listdir(checkout))
    environment = world.with_quick_venv()
    (command,) = DEMO.commands
    running = world.processes.start(world.script(command), checkout, environment)
    eventually(lambda: running.process.poll() is not None or get(world.app.port), 150, "page")
    if running.process.poll() is not None:
        skip_where_unreachable(running.out)
    told = world.fine(".venv/bin/python start_app.py --demo status", cwd=checkout)
    assert "state: running\n" in told
    assert "terminated pid" in world.fine(".venv/bin/python start_app.py --demo stop", cwd=checkout)
    running.wait()
    shutil.rmtree(checkout / "start_app_demo")
    assert set(os.listdir(checkout)) - before <= {".venv", "start_app.egg-info", "build"}
    assert not (world.home / ".local").exists() and not (world.home / ".cache" / "huggingface").exists()


@runs(*TESTS.commands)
def test_the_command_that_runs_the_tests_runs_them(world: World, checkout: Path) -> None:
    tests = (path.name for path in (ROOT / "tests").iterdir() if path.name.startswith("test_"))
    others = [name for name in tests if name != "test_sd_notify.py"]  # .ci/run has all of them run
    shutil.copytree(ROOT / "tests", checkout / "tests", ignore=shutil.ignore_patterns("__pycache__", *others))
    done = subprocess.run(
        world.script(*TESTS.commands), cwd=checkout, env=world.with_quick_venv(), stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        skip_where_unreachable(done.stdout)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


COMPLETION = 'eval "$(start-app --print-completion bash)"'


@runs(COMPLETION)
def test_the_shell_completes_the_installed_command(world: World, checkout: Path) -> None:
    done = world.run("pip install .", COMPLETION, "complete -p start-app", cwd=checkout)
    if done.status:
        skip_where_unreachable(done.out)
    assert done.status == 0, done.out
    assert done.out.splitlines()[-1].endswith(" start-app")
