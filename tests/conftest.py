from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import AppFolder, Processes, make_app


@pytest.fixture
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    started = Processes(tmp_path_factory.mktemp("output"))
    yield started
    started.close()


@pytest.fixture
def app(tmp_path: Path) -> AppFolder:
    return make_app(tmp_path / "app")
