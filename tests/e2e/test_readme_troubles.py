"""What the troubleshooting page explains is what the launcher says, and each way out that it names helps."""

from __future__ import annotations

import shutil
import sys

import pytest

from tests.support.apps import alive, eventually, get
from tests.support.models import NEW, OLD, V23
from tests.support.readme_world import INDEXTTS, World, needs_root_and, runs

pytestmark = pytest.mark.usefixtures("installed")


@pytest.mark.slow
@runs(
    ".venv/bin/python start_app.py -n -v",
    "start_app.py status",
    "start_app.py -- --fp16",
    "start_app.py -- --model_dir checkpoints",
    "start_app.py logs --lines 200",
    tells=(
        "unknown option --model_dir",
        "the instance … has no log",
        "the app has ended with exit status … before its page answered",
    ),
)
def test_what_is_the_apps_own_reaches_it(world: World) -> None:
    refused = world.run("start_app.py --model_dir checkpoints")
    assert refused.status == 2
    world.tells("unknown option --model_dir", refused.out)
    assert "start_app.py -- --model_dir checkpoints" in refused.out
    running = world.start("start_app.py -- --fp16")
    assert running.hello()["argv"][-1:] == ["--fp16"]
    world.tells("the instance … has no log", world.run("start_app.py logs --lines 200").out)
    assert "state: running\n" in world.fine("start_app.py status")
    assert f"would terminate pid {running.pid}, " in world.fine("start_app.py -n")
    assert "environment: HF_HOME=/root/index-tts/cache_hub (.env line 1)" in world.fine(
        ".venv/bin/python start_app.py -n -v"
    )
    words = world.script("start_app.py -- --model_dir checkpoints")
    second = world.processes.start(words, world.app.path, world.environment())
    world.await_page(second, world.app.port, before=running.pid)
    assert second.hello()["argv"][-2:] == ["--model_dir", "checkpoints"]
    (world.app.path / "checkpoints" / "gpt.pth").unlink()
    failed = world.run(".venv/bin/python start_app.py --background")
    assert failed.status == 75
    assert "| Required file gpt.pth does not exist." in failed.out
    world.tells("the app has ended with exit status … before its page answered", failed.out)
    assert "Required file gpt.pth" in world.fine("start_app.py logs --lines 200")


@pytest.mark.slow
@runs("start_app.py doctor", "start_app.py doctor --report")
def test_the_doctor_names_what_is_wrong_and_hands_over_a_report(world: World) -> None:
    found = world.run("start_app.py doctor --timeout 50", env={"HF_HUB_OFFLINE": "1"})
    assert found.status == 0, found.out
    assert "problem: " not in world.run("start_app.py doctor", env={"HF_HUB_OFFLINE": "1"}).out
    with (world.app.path / ".env").open("a") as file:
        file.write("APP_LOCKED=perhaps\nHF_TOKEN=a-secret-token\n")
    found = world.run("start_app.py doctor --report")
    assert found.status == 78
    assert "is neither yes nor no (APP_LOCKED" in found.out
    assert "a-secret-token" not in found.out


@pytest.mark.slow
@runs(
    ".venv/bin/python start_app.py --port 7861",
    tells=("port 7860 is held … which is not this app's instance",),
)
def test_who_holds_the_port_is_left_unless_it_may_go(world: World) -> None:
    stranger = world.processes.start((sys.executable, "-m", "http.server", str(world.app.port)))
    eventually(lambda: get(world.app.port), what="page")
    refused = world.run(".venv/bin/python start_app.py")
    assert refused.status == 69
    world.tells("port 7860 is held … which is not this app's instance", refused.out)
    world.start(".venv/bin/python start_app.py --port 7861", port=world.other_port)
    assert alive(stranger.pid)
    taken = world.processes.start(world.script("start_app.py --take-port"), world.app.path, world.environment())
    eventually(lambda: get(world.app.port) == f"pid {taken.pid}", what="page")
    assert not alive(stranger.pid)


@pytest.mark.slow
@runs(tells=("unrecognized arguments: --port", "unrecognized arguments: --host"))
def test_an_app_without_these_options_takes_both_from_the_environment(world: World) -> None:
    settings = world.app.write_env("HF_HOME=./cache_hub\nGRADIO_SERVER_NAME=127.0.0.1\n")
    for name, option, told in (
        ("port", ", type=int, default=7860)", "int(os.environ['GRADIO_SERVER_PORT'])"),
        ("host", ', default="0.0.0.0")', "os.environ['GRADIO_SERVER_NAME']"),
    ):
        option = f'parser.add_argument("--{name}"{option}'
        assert option in INDEXTTS
        script = INDEXTTS.replace(option, f"parser.set_defaults({name}={told})")
        world.app.script.write_text(script)
        failed = world.run(".venv/bin/python start_app.py --background")
        assert failed.status == 75
        world.tells(f"unrecognized arguments: --{name}", failed.out)
        before = settings.read_text()
        settings.write_text(f"{before}APP_{name.upper()}_FLAG=none\n")
        world.background()
        settings.write_text(before)


@needs_root_and("unshare", "ss")
@runs("sudo ss -ltnp 'sport = :7860'", tells=("… by a process that cannot be seen from here", "pid 1"))
def test_a_holder_that_cannot_be_seen_is_shown_by_who_may_see_it(world: World) -> None:
    stranger = world.processes.start((sys.executable, "-m", "http.server", str(world.app.port)))
    eventually(lambda: get(world.app.port), what="page")
    inside = "unshare --mount --pid --fork --kill-child --mount-proc .venv/bin/python start_app.py"
    refused = world.run(inside)
    if refused.status == 1:
        pytest.skip("namespaces cannot be made here")
    assert refused.status == 69, refused.out
    world.tells("pid 1", refused.out)
    world.tells("… by a process that cannot be seen from here", refused.out)
    assert f"pid={stranger.pid}," in world.fine("sudo ss -ltnp 'sport = :7860'")


@pytest.mark.slow
@runs(
    "start_app.py models check",
    "start_app.py models lock",
    "start_app.py models pull",
    "start_app.py --locked",
    "start_app.py --force-refresh",
    "start_app.py cache list",
    tells=("mirror behind the Hub", "unreachable", "cannot be resolved"),
)
def test_the_old_model_is_replaced_in_each_way_that_is_told(world: World) -> None:
    old, new = world.publish(V23)
    snapshots = world.cache(V23, old) / "snapshots"
    ref = snapshots.parent / "refs" / "main"
    assert f"{old[:7]}" in world.fine("start_app.py cache list")
    assert world.run("start_app.py models check").status == 80
    running = world.start("start_app.py --force-refresh")
    assert ref.read_text() == new
    assert f"model: {V23} @ {new[:7]} (cached)" in running.out
    world.fine("start_app.py stop")
    world.fine("start_app.py models lock koge/index-tts-v23")
    newest = world.hub.commit(V23, OLD)
    world.mirror.freeze(V23, sha=new)
    assert world.run("start_app.py models check").status == 80
    world.fine("start_app.py models lock", "start_app.py models pull")
    assert ref.read_text() == newest
    running = world.start("start_app.py --locked")
    assert f"model: {V23} @ {newest[:7]} (locked)" in running.out
    world.tells("mirror behind the Hub", world.run("start_app.py models check").out)
    world.mirror.close()
    done = world.run("start_app.py models check")
    world.tells("unreachable", done.out)
    world.hub.close()
    world.tells("cannot be resolved", world.run("start_app.py models lock koge/index-tts-v23").out)


@pytest.mark.slow
@runs("start_app.py --prune-cache", tells=("skipped: … it is in use by pid …",))
def test_leftovers_of_a_model_that_the_app_has_open_go_with_a_restart(world: World) -> None:
    old, new = world.publish(V23)
    folder = world.cache(V23, old, ref=None)
    weights = world.cache(V23, new) / "snapshots" / new / "gpt.safetensors"
    world.app.script.write_text(INDEXTTS.replace("import ", f"held = open({str(weights)!r}, 'rb')\nimport ", 1))
    first = world.start(".venv/bin/python start_app.py")
    kept = world.run("start_app.py cache prune")
    assert kept.status == 75
    world.tells("skipped: … it is in use by pid …", kept.out)
    assert (folder / "snapshots" / old).exists()
    second = world.processes.start(world.script("start_app.py --prune-cache"), world.app.path, world.environment())
    world.await_page(second, world.app.port, before=first.pid)
    assert not (folder / "snapshots" / old).exists()
    assert weights.exists()


@pytest.mark.slow
@runs(
    "start_app.py cache verify --repair",
    "start_app.py cache prune",
    "start_app.py cache prune -n",
    tells=("is damaged", "… is shared with other programs"),
)
def test_a_damaged_or_full_cache_is_mended(world: World) -> None:
    old, new = world.publish(V23)
    folder = world.cache(V23, old, ref=None)
    world.cache(V23, new)
    weights = folder / "snapshots" / new / "gpt.safetensors"
    weights.resolve().write_bytes(b"damaged")
    world.fine("start_app.py cache verify --repair")
    assert weights.read_bytes() == NEW["gpt.safetensors"]
    assert "would free" in world.fine("start_app.py cache prune -n")
    assert (folder / "snapshots" / old).exists()
    world.fine("start_app.py cache prune")
    assert not (folder / "snapshots" / old).exists()
    shutil.rmtree(folder)
    world.cache(V23, old)
    for hub in (world.mirror, world.hub):
        hub.fault("gpt.safetensors", "wrong-bytes")
    failed = world.run("start_app.py models pull")
    assert failed.status == 65
    world.tells("is damaged", failed.out)
    world.app.write_env("")
    (world.home / ".cache").mkdir()
    (world.app.path / "cache_hub").rename(world.home / ".cache" / "huggingface")
    refused = world.run("start_app.py cache clear")
    assert refused.status == 2
    world.tells("… is shared with other programs", refused.out)


@pytest.mark.slow
@runs(tells=("the app's page is on port …",))
def test_an_app_that_is_on_another_port_than_asked_is_started_on_its_own(world: World) -> None:
    option = 'parser.add_argument("--port", type=int, default=7860)'
    assert option in INDEXTTS
    world.app.script.write_text(INDEXTTS.replace(option, f"parser.set_defaults(port={world.other_port})"))
    world.app.write_env("HF_HOME=./cache_hub\nAPP_PORT_FLAG=none\n")
    failed = world.run("start_app.py --background")
    assert failed.status == 75
    world.tells("the app's page is on port …", failed.out)
    world.fine("start_app.py stop")
    world.fine("start_app.py --background --port 7861")
    world.fine("start_app.py stop --port 7861")
