"""The page of the demo plays its story: each command in its order, and what it says of each is so."""

from __future__ import annotations

import json

import pytest

from tests.support import readme
from tests.support.playground import needs_gradio, needs_hub
from tests.support.readme_world import World, runs, shows

PAGE = "docs/demo.md"
DEMO = ".venv/bin/python start_app.py --demo"
COMMANDS = tuple(dict.fromkeys(command for fence in readme.fences(PAGE) for command in fence.commands))

pytestmark = pytest.mark.usefixtures("installed")


def commits(world: World) -> tuple[str, str]:
    """Return the commits of V23 that the mirror and the Hub have."""
    index = json.loads((world.app.path / "start_app_demo" / "hub" / "index.json").read_text())
    repo = index["koge/index-tts-v23"]
    return repo["mirror"], repo["hub"]


@needs_gradio
@needs_hub
@pytest.mark.slow
@pytest.mark.timeout(400)
@runs(*COMMANDS)
def test_the_story_of_the_demo_can_be_played(world: World) -> None:
    start, check, lock, locked, status, back, remove, pull, damage, verify, repair, stop, end = COMMANDS
    world.fine(start)
    try:
        old, new = commits(world)
        checked = world.run(check)
        assert checked.status == 80
        shows(check, checked.out)
        world.fine(lock)
        world.fine(locked)
        assert f"koge/index-tts-v23 @ {new[:7]} (mapped" in world.fine(status)
        world.fine(back)
        assert f"koge/index-tts-v23 @ {old[:7]} (mapped" in world.fine(status)
        world.fine(remove)
        assert "koge/index-tts-v22 @ 6210c00 (mapped" in world.fine(status)
        assert f"{new[:7]}: 3 files" in world.fine(pull)
        world.fine(start)
        assert f"koge/index-tts-v23 @ {new[:7]} (mapped" in world.fine(status)
        world.fine(damage)
        assert world.run(verify).status == 65
        assert "1 file, " in world.fine(repair)
        world.fine(verify)
    finally:
        world.fine(stop)
    world.fine(end)
