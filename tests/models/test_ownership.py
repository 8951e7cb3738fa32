"""What root brings into another user's folder is that user's; what was there before stays whose it is."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.models import ownership
from tests.support.apps import AppFolder
from tests.support.pulled import FOLDER, MODEL, NEW, Pulled, pulled_app

USER, GROUP = 4321, 4322
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for somebody else")


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


def _give(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, GROUP, follow_symlinks=False)


def _others(folder: Path) -> list[str]:
    """Return what does not belong to the user, of what a pull may have written."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return [str(path) for path, status in found.items() if (status.st_uid, status.st_gid) != (USER, GROUP)]


@pytest.mark.parametrize("local_dir", [None, FOLDER])
@pytest.mark.parametrize("fresh", [True, False])
def test_what_a_pull_of_root_s_brings_belongs_to_whom_the_folder_belongs_to(
    local_dir: str | None, fresh: bool, pulled: Pulled
) -> None:
    if fresh:  # not even the cache is there
        shutil.rmtree(pulled.app.path / "hf")
    pulled.lock_new(local_dir=local_dir)
    _give(pulled.app.path)
    done = pulled.pull()
    assert done.status == 0, done.err
    assert (pulled.in_folder() if local_dir else pulled.loads()) == NEW
    assert not _others(pulled.app.path)


@pytest.mark.slow
def test_a_pull_that_failed_half_way_leaves_nothing_of_root_s(pulled: Pulled) -> None:
    pulled.lock_new()
    _give(pulled.app.path)
    pulled.mirror.fault("gpt.safetensors", 500)
    pulled.mirror.fault("/cdn/", "truncate")
    assert pulled.pull().status == 75
    assert not _others(pulled.app.path)


def test_in_a_folder_of_a_group_files_are_the_group_s_and_the_umask_is_kept(pulled: Pulled) -> None:
    _give(pulled.app.path)
    for path in (pulled.app.path, *pulled.app.path.rglob("*")):
        if path.is_dir():
            path.chmod(0o2775)
    pulled.lock_new()
    before = os.umask(0o002)
    try:
        pulled.pulled()
    finally:
        os.umask(before)
    for ref in ("main", "start_app"):
        status = (pulled.repo() / "refs" / ref).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (USER, GROUP, 0o664)


def test_files_that_are_older_have_another_name_or_lie_behind_a_link_stay_root_s(tmp_path: Path) -> None:
    folder, outside = tmp_path / "theirs", tmp_path / "ours"
    for path in (folder, outside):
        path.mkdir()
    os.chown(folder, USER, GROUP)
    (folder / "secret").write_text("moved here by the user")
    os.utime(folder / "secret", (1_000_000_000,) * 2)
    (outside / "file").write_text("ours")
    (folder / "link").symlink_to(outside)
    with ownership.handed_over((str(folder), str(folder / "new"))):
        (outside / "shadow").write_text("ours")
        os.link(outside / "shadow", folder / "shadow")
        (folder / "new").mkdir()
        (folder / "new" / "file").write_text("theirs")
    owners = {path.relative_to(tmp_path).as_posix(): path.lstat().st_uid for path in tmp_path.rglob("*")}
    assert owners == {
        "theirs": USER,
        "theirs/secret": 0,
        "theirs/link": USER,
        "theirs/shadow": 0,
        "theirs/new": USER,
        "theirs/new/file": USER,
        "ours": 0,
        "ours/file": 0,
        "ours/shadow": 0,
    }


def test_a_lock_of_another_user_s_is_named_by_its_path(pulled: Pulled) -> None:
    """Whoever may not pass over permissions meets the download locks of the user who pulled first."""
    pulled.lock_new()
    locks = pulled.cache / ".locks"
    locks.mkdir(exist_ok=True)
    (locks / f"models--{MODEL.replace('/', '--')}").mkdir(exist_ok=True)
    for path in (locks, *locks.rglob("*")):
        os.chown(path, USER, GROUP)
        path.chmod(0o700 if path.is_dir() else 0o600)
    ordinary = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    done = pulled.pull(python=(*ordinary, sys.executable))
    assert done.status == 74, done.err
    assert f"permission denied: {locks}" in done.err
    assert "ls -ld" in done.err.splitlines()[-1]


def test_a_repo_that_was_moved_to_another_disk_is_pulled_through_our_own_link_only(pulled: Pulled) -> None:
    disk = pulled.app.path.parent / "disk"
    pulled.repo().rename(disk)
    pulled.repo().symlink_to(disk)
    pulled.lock_new()
    os.chown(pulled.repo(), USER, GROUP, follow_symlinks=False)
    done = pulled.pull()
    assert done.status == 74, done.err
    assert "is another user's link" in done.err
    os.chown(pulled.repo(), 0, 0, follow_symlinks=False)
    pulled.pulled()
    assert pulled.loads() == NEW
    assert (disk / "refs" / "main").read_text() == pulled.new
