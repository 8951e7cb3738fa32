"""What README and the quick start say of trying, installing and copying the launcher is done as it is written there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support import readme
from tests.support.apps import ROOT, alive, eventually, get
from tests.support.environments import make_venv, skip_where_unreachable
from tests.support.readme_world import SETTINGS, World, copied, runs

HOME, COPY = (
    "[ -e .env ] || printf '%s\\n' HF_HOME=./cache_hub HF_ENDPOINT=https://hf-mirror.com >.env",
    'ls "$app" | grep -xE \'start_app\\.py|launcher|launcher\\.py\' || cp -r start_app.py launcher "$app"',
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a clone of this repository, as far as it is installed and run."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("start_app.py", "launcher", "pyproject.toml", "README.md"):
        copied(ROOT / name, folder / name)
    return folder


PLACE = readme.fence_of(HOME, "start-app")


@runs(*PLACE)
def test_installed_beside_the_app_it_takes_the_place_of_start_app_sh(world: World) -> None:
    running = world.start(*PLACE, cwd=Path("/"))
    seen = running.hello()
    assert seen["argv"] == ["webui.py", "--port", str(world.app.port)]
    assert seen["env"]["HF_HOME"] == str(world.app.path / "cache_hub")
    assert seen["env"]["HF_ENDPOINT"] == "https://hf-mirror.com"
    assert (world.app.path / ".env").read_text() == SETTINGS
    plan = world.shown(running.out).partition("would exec: ")[0]
    assert "/root/index-tts/cache_hub/hub (.env line 1)" in plan


@runs(HOME)
def test_an_apps_own_settings_stay(world: World) -> None:
    world.app.write_env("APP_ARGS=--fp16\n")
    world.fine(HOME)
    assert (world.app.path / ".env").read_text() == "APP_ARGS=--fp16\n"


GUIDE = readme.fence_of(COPY, HOME)


@runs(*GUIDE)
def test_copied_into_the_apps_folder(world: World) -> None:
    pip = pytest.importorskip("pip")
    shutil.rmtree(world.app.path / ".venv")
    make_venv(world.app.path / ".venv", (Path(pip.__file__).parent,))
    words = world.script(*GUIDE)
    running = world.processes.start(words, ROOT, world.environment(HF_ENDPOINT=world.mirror.endpoint))
    eventually(lambda: running.process.poll() is not None or get(world.app.port), 90, "page")
    if running.process.poll() is not None:
        skip_where_unreachable(running.out)
    seen = running.hello()
    assert seen["argv"] == ["webui.py", "--port", str(world.app.port)]
    assert seen["env"]["HF_HOME"] == str(world.app.path / "cache_hub")
    assert (world.app.path / ".env").read_text() == SETTINGS
    plan, _, launched = world.shown(running.out).partition("would exec: .venv/bin/python webui.py --port 7860\n")
    assert "setting: GRADIO_SERVER_PORT=7860 (environment)" in launched
    assert plan.count("endpoint: ") == 1


COPIED = next(
    commands
    for fence in readme.fences(readme.ENGLISH)
    if COPY in (commands := tuple(fence.commands)) and HOME not in commands
)


@runs(*COPIED)
def test_copied_beside_an_environment_that_uv_made(world: World) -> None:
    uv = pytest.importorskip("uv").find_uv_bin()
    environment = world.app.path / ".venv"
    shutil.rmtree(environment)
    subprocess.run((uv, "venv", "-q", "--python", sys.executable, environment), check=True)
    done = world.run(*COPIED, ".venv/bin/python start_app.py -n", cwd=ROOT)
    if done.status:
        skip_where_unreachable(done.out)
    assert done.status == 0, done.out
    assert "would exec: .venv/bin/python webui.py" in done.out


@pytest.mark.parametrize("name", ["launcher", "launcher.py", "start_app.py"])
@runs(*COPIED[:2])
def test_a_file_of_the_apps_own_is_never_copied_over(world: World, name: str) -> None:
    own = world.app.path / name
    own.mkdir() if name == "launcher" else own.write_text("print('mine')\n")
    before = {path: path.read_text() if path.is_file() else "" for path in world.app.path.iterdir()}
    told = world.fine(*COPIED[:2], cwd=ROOT)
    assert told == f"{name}\n"
    assert {path: path.read_text() if path.is_file() else "" for path in world.app.path.iterdir()} == before


BESIDE = readme.fence_of("~/start-app/bin/start-app --app-dir /root/index-tts")
UPGRADE = "~/start-app/bin/pip install --upgrade ."


@pytest.mark.slow
@runs(*BESIDE, UPGRADE)
def test_beside_the_app_in_an_environment_of_its_own(world: World, checkout: Path) -> None:
    before = set(os.listdir(world.app.path))
    environment = world.with_quick_venv()
    running = world.processes.start(world.script(*BESIDE), checkout, environment)
    eventually(lambda: running.process.poll() is not None or get(world.app.port), 100, "page")
    if running.process.poll() is not None:
        skip_where_unreachable(running.out)
    assert get(world.app.port) == f"pid {running.pid}", running.out
    assert set(os.listdir(world.app.path)) - before == {".start_app"}
    assert psutil.Process(running.pid).cmdline()[0] == f"{world.app.path}/.venv/bin/python"
    subprocess.run(world.script(UPGRADE), cwd=checkout, env=environment, check=True)
    assert get(world.app.port) == f"pid {running.pid}"


TOOL, TOOL_AGAIN = "uv tool install .", "uv tool install --force ."


@pytest.mark.slow
@runs(TOOL, TOOL_AGAIN)
def test_as_a_tool_of_uv(world: World, checkout: Path) -> None:
    pytest.importorskip("uv")
    python = {"UV_PYTHON": sys.executable}
    done = world.run(TOOL, TOOL_AGAIN, cwd=checkout, env=python)
    if done.status:
        skip_where_unreachable(done.out)
    assert done.status == 0, done.out
    told = world.fine("~/.local/bin/start-app --app-dir /root/index-tts -n", cwd=Path("/"))
    assert "would exec: .venv/bin/python webui.py --port 7860" in told


UV = "uv run --with 'python-dotenv>=1.0' start_app.py"
UV_PIP, UV_SYNC = "uv pip install --python .venv/bin/python 'psutil>=6' 'python-dotenv>=1.0'", "uv sync"


@pytest.mark.slow
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
    assert f"hint: {UV} stop --help; to start the app with it: {UV} -- --fp16\n" in refused.out
    no_unit = world.run(f"{UV} unit", env=env)
    assert no_unit.status == 78
    assert "a unit needs a permanent Python" in no_unit.out and "[Service]" not in no_unit.out
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


OTHER = readme.fence_of("cd /srv/my-app")
GRADIO = "import gradio as gr\n\nwith gr.Blocks() as demo:\n    gr.Markdown('hello')\ndemo.launch()\n"


@pytest.mark.slow
@runs(*OTHER)
def test_any_other_gradio_app(installed: World, world: World) -> None:
    pytest.importorskip("gradio")
    world.app.script.unlink()
    (world.app.path / "app.py").write_text(GRADIO)
    world.app.write_env("HF_HOME=./cache_hub\nGRADIO_ANALYTICS_ENABLED=False\n")
    running = world.start(*OTHER, cwd=Path("/"))
    assert psutil.Process(running.pid).cmdline()[1:] == ["app.py"]
    assert "gradio" in str(get(world.app.port))
    assert "terminated pid" in world.fine(".venv/bin/python start_app.py stop")


DEMO, TESTS = (
    next(command for fence in readme.fences(readme.ENGLISH) for command in fence.commands if command.endswith(end))
    for end in (" --demo", "/pytest")
)
DEMO_STATUS, DEMO_STOP = ".venv/bin/python start_app.py --demo status", ".venv/bin/python start_app.py --demo stop"


@pytest.mark.slow
@pytest.mark.timeout(180)
@runs(DEMO, DEMO_STATUS, DEMO_STOP)
def test_the_playground_is_all_that_is_left_of_it(world: World, checkout: Path) -> None:
    pytest.importorskip("gradio")
    before = set(os.listdir(checkout))
    environment = world.with_quick_venv()
    running = world.processes.start(world.script(DEMO), checkout, environment)
    eventually(lambda: running.process.poll() is not None or get(world.app.port), 150, "page")
    if running.process.poll() is not None:
        skip_where_unreachable(running.out)
    told = world.fine(DEMO_STATUS, cwd=checkout)
    assert "state: running\n" in told
    assert "(mapped: model.safetensors)\n" in told and "(on the disk when it started)\n" in told
    assert "terminated pid" in world.fine(DEMO_STOP, cwd=checkout)
    running.wait()
    shutil.rmtree(checkout / "start_app_demo")
    assert set(os.listdir(checkout)) - before <= {".venv", "start_app.egg-info", "build"}
    assert not (world.home / ".local").exists() and not (world.home / ".cache" / "huggingface").exists()


@pytest.mark.slow
@runs(TESTS)
def test_the_command_that_runs_the_tests_runs_them(world: World, checkout: Path) -> None:
    """Run it on one test, which is quick: .ci/run runs it on all of them."""
    for name in ("conftest.py", "support", "service/test_sd_notify.py"):
        (checkout / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        copied(ROOT / "tests" / name, checkout / "tests" / name)
    for folder in ("tests", "tests/service"):
        (checkout / folder / "__init__.py").touch()
    environment = world.with_quick_venv()
    done = subprocess.run(world.script(TESTS), cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        skip_where_unreachable(done.stdout)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


COMPLETION = 'eval "$(start-app --print-completion bash)"'


@pytest.mark.slow
@runs(COMPLETION)
def test_the_shell_completes_the_installed_command(world: World, checkout: Path) -> None:
    done = world.run("pip install .", COMPLETION, "complete -p start-app", cwd=checkout)
    if done.status:
        skip_where_unreachable(done.out)
    assert done.status == 0, done.out
    assert done.out.splitlines()[-1].endswith(" start-app")
