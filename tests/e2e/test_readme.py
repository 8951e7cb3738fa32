"""What README and docs/ show is what the commands in them print, in the world that their reader has."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.support import readme, systemd
from tests.support.apps import AppFolder, get
from tests.support.models import V22, V23
from tests.support.readme_world import (
    TTS,
    TTS_FILES,
    World,
    runs,
    shows,
)

RESTART = "cd /root/index-tts && .venv/bin/python start_app.py"
BACKGROUND, HISTORY = ".venv/bin/python start_app.py --background", ".venv/bin/python start_app.py history"


@runs(RESTART)
def test_the_first_transcript_is_what_a_restart_prints(installed: World, world: World) -> None:
    world.cache(V23, world.publish(V23)[0])
    old = world.by_hand()
    running = world.processes.start(world.script(RESTART), Path("/"), world.environment())
    world.await_page(running, world.app.port, before=old.pid)
    assert old.wait() == -signal.SIGTERM
    assert get(world.app.port) == f"pid {running.pid}"
    shows(RESTART, world.shown(running.out))


PIN = readme.fence_of(".venv/bin/python start_app.py models lock IndexTeam/IndexTTS-2 --local-dir checkpoints")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


SERVICE = readme.fence_of(UNIT)


@pytest.mark.slow
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
