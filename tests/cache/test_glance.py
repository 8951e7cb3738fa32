"""A repo that was looked at once is looked at again when anything in it may have changed since."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from launcher.cache import glance, planning
from launcher.cache.planning import Request
from tests.support.caches import make_repo, root_of

REPO = "models--koge--index-tts-v22"


def made(root: Path) -> Path:
    """Make a repo in which nothing has changed for an hour."""
    repo = make_repo(root, REPO)
    for path in (repo, repo / "blobs", repo / "snapshots"):
        os.utime(path, (time.time() - 3600,) * 2)
    return repo


def test_a_settled_repo_without_strangers_is_clean(tmp_path: Path) -> None:
    repo = made(tmp_path)
    seen = glance.glance(str(repo))
    assert seen.clean == glance.stamp_of(str(repo), repo.lstat())
    assert seen.partial == ()


@pytest.mark.parametrize("part", [".", "blobs", "snapshots"])
def test_what_comes_into_it_later_is_seen(tmp_path: Path, part: str) -> None:
    repo = made(tmp_path)
    before = glance.glance(str(repo)).clean
    (repo / part / "mine.txt").write_text("mine")
    assert before != glance.stamp_of(str(repo), repo.lstat())
    assert glance.glance(str(repo)).clean is None
    assert glance.has_strangers(str(repo))


def test_a_repo_that_may_just_be_changing_is_not_clean(tmp_path: Path) -> None:
    assert glance.glance(str(make_repo(tmp_path, REPO))).clean is None


def test_a_partial_download_is_seen_and_no_stranger(tmp_path: Path) -> None:
    repo = made(tmp_path)
    (repo / "blobs" / f"{'f' * 64}.incomplete").write_bytes(b"half")
    os.utime(repo / "blobs", (time.time() - 3600,) * 2)
    seen = glance.glance(str(repo))
    assert seen.partial == (f"{'f' * 64}.incomplete",)
    assert seen.clean is not None


@pytest.mark.parametrize("part", [".", "blobs", "snapshots"])
def test_a_strangers_file_that_comes_after_the_plan_stays(tmp_path: Path, part: str) -> None:
    repo = made(tmp_path)
    planned = planning.plan(Request("clear"), (root_of(tmp_path),))
    assert planned[0].items[0].clean is not None
    mine = repo / part / "mine.txt"
    mine.write_text("mine")
    result = planning.finish(planned, planning.condemn(planned, lambda _plan, _item: None), None)
    assert not result.failures
    assert mine.read_text() == "mine"
    assert not (repo / "snapshots" / ("a" * 40)).exists()
