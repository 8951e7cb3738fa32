"""What a download shows of its progress: the file that arrives, and never more than there is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.models.progress import Watch

BIG, SMALL, HERE = "a" * 64, "b" * 64, "c" * 64
FILES = {
    "big.bin": SimpleNamespace(hash=BIG, size=100),
    "a_small.json": SimpleNamespace(hash=SMALL, size=10),
    "here.bin": SimpleNamespace(hash=HERE, size=50),
}


@pytest.mark.parametrize("cached", [True, False])
def test_the_unfinished_file_is_named_and_what_was_here_does_not_count(cached: bool, tmp_path: Path) -> None:
    folder = tmp_path / "blobs" if cached else tmp_path
    folder.mkdir(exist_ok=True)
    place = SimpleNamespace(root="root" if cached else None, path=str(tmp_path))
    task: Any = SimpleNamespace(
        model=SimpleNamespace(files=FILES), place=place, base=str(tmp_path), lacking=tuple(FILES)
    )
    (folder / (HERE if cached else "here.bin")).write_bytes(b"x" * 50)
    told: list[tuple[int, str]] = []
    watch = Watch(task, ("big.bin", "a_small.json"), lambda count, name: told.append((count, name)))
    watch.look(0)
    partial = folder / f"{BIG}.0123abcd.incomplete"
    partial.write_bytes(b"x" * 99)
    watch.look(0)
    (folder / (SMALL if cached else "a_small.json")).write_bytes(b"x" * 10)
    watch.look(0)
    partial.rename(folder / (BIG if cached else "big.bin"))
    (folder / (BIG if cached else "big.bin")).write_bytes(b"x" * 100)
    watch.look(0)
    assert told == [(0, ""), (99, "big.bin"), (10, "big.bin"), (1, "big.bin")]
