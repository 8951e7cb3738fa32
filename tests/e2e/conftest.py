from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apps import Processes
from tests.support.readme_world import World, made


@pytest.fixture
def world(tmp_path: Path, processes: Processes) -> Iterator[World]:
    with made(tmp_path, processes) as world:
        yield world


@pytest.fixture
def installed(world: World) -> World:
    """Return a world in which the launcher was copied into the app's folder, with the settings of the quick start."""
    world.install()
    return world
