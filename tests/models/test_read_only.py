"""What is complete on a read-only disk is used as it is; what cannot be written there is said as that."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.apps import AppFolder
from tests.support.pulled import MODEL, OLD, OTHER, Pulled, pulled_app
from tests.support.removal import everything, mounted, needs_mounts


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


@contextmanager
def read_only(pulled: Pulled) -> Iterator[None]:
    needs_mounts()
    with mounted(pulled.cache, "--bind", str(pulled.cache)):
        subprocess.run(("mount", "-o", "remount,bind,ro", pulled.cache), check=True)
        yield


@pytest.mark.slow
def test_a_complete_model_on_a_read_only_disk_needs_no_pin(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old))
    before = everything(pulled.cache)
    with read_only(pulled):
        done = pulled.pull()
        assert done.status == 0, done.err
        launched = pulled.run("--locked", "--", "--exit", "0")
        assert launched.status == 0, launched.err
    assert everything(pulled.cache) == before


def test_a_download_to_a_read_only_disk_blames_the_disk(pulled: Pulled) -> None:
    with read_only(pulled):
        done = pulled.pull(MODEL)
        assert done.status == 74, done.err
        assert "read-only file system" in done.err
        assert f" ls -ld {pulled.cache}" in done.err
        assert pulled.pull(OTHER).status == 0
    assert pulled.loads() == OLD
