"""Files are read into the page cache where they are not, and only as far as there is memory for that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.system import page_cache

SIZE = 20 << 20


@pytest.fixture
def cold(tmp_path: Path) -> int:
    """Return a descriptor of a file that the page cache has dropped."""
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(SIZE))
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    if not list(page_cache.missing(descriptor, SIZE)):
        pytest.skip("this file system keeps its files in memory")
    return descriptor


def test_what_is_not_in_memory_is_read_once(cold: int) -> None:
    parts = [(cold, *part) for part in page_cache.missing(cold, SIZE)]
    steps: list[int] = []
    wanted = sum(count for _, _, count in parts)  # the kernel may keep some of it: that it drops a page is no promise
    assert page_cache.read(parts, 60, steps.append) == sum(steps) == wanted
    assert not list(page_cache.missing(cold, SIZE))


def test_nothing_is_read_when_the_time_is_up(cold: int) -> None:
    assert page_cache.read([(cold, 0, SIZE)], 0, lambda _: None) == 0


def test_a_limit_of_a_cgroup_counts_and_what_is_cached_in_it_makes_way(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 100\nactive_file 300\ninactive_file 200\n")
    names = ("memory.max", "memory.current", ("active_file", "inactive_file"))
    assert page_cache._left(str(tmp_path), *names) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert page_cache._left(str(tmp_path), *names) is None
    assert (page_cache.available() or 0) > 0
