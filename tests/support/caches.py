"""Caches made by hand, file by file: for every state in which a crash, an old version or a stranger can leave one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st

from launcher.cache import entries
from launcher.cache.names import TRASH
from launcher.cache.roots import Root
from tests.support.apps import AppFolder, Done, clean_environment, launcher
from tests.support.hub_files import make_file

A, B, C = "a" * 40, "b" * 40, "c" * 40
"""Commits."""
MISSING = "0" * 64
"""The name of a blob that is nowhere, unless a test makes it."""
VERSION = tuple(int(number) for number in re.findall(r"\d+", version("huggingface_hub"))[:2])
HAS_STORE = VERSION >= (1, 32) and find_spec("hf_xet") is not None


def commit(seed: object) -> str:
    """Return a commit that follows from the seed."""
    return hashlib.sha1(str(seed).encode()).hexdigest()


def root_of(folder: Path, *, owned: bool = True) -> Root:
    """Return a folder as the root that the launcher would make of it."""
    return Root(folder, os.path.realpath(folder), "test", owned)


def add_blob(repo: Path, data: bytes, name: str | None = None) -> str:
    """Write a blob and return its name, its hash unless it is given."""
    name = name or hashlib.sha256(data).hexdigest()
    (repo / "blobs").mkdir(parents=True, exist_ok=True)
    (repo / "blobs" / name).write_bytes(data)
    return name


def add_link(repo: Path, revision: str, file: str, blob: str, target: str | None = None) -> Path:
    """Link a file of a snapshot to a blob, as huggingface_hub does unless a target is given."""
    path = repo / "snapshots" / revision / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target or f"{'../' * (file.count('/') + 2)}blobs/{blob}")
    return path


def add_file(repo: Path, revision: str, file: str, data: bytes) -> str:
    """Add a file to a snapshot, with its blob, and return the blob's name."""
    blob = add_blob(repo, data)
    add_link(repo, revision, file, blob)
    return blob


def add_plain(repo: Path, revision: str, file: str, data: bytes) -> Path:
    """Add a file to a snapshot itself, as where there are no links."""
    path = repo / "snapshots" / revision / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def add_list(repo: Path, commit: str, files: Mapping[str, bytes]) -> None:
    """Write the list of the files of a commit as huggingface_hub 1.22 and later do."""
    entries = {}
    for path, data in files.items():
        file = make_file(path, data)
        entries[path] = {"size": len(data), "blob_id": file.blob}
        if file.sha256:
            entries[path] |= {"lfs_sha256": file.sha256, "lfs_size": len(data)}
    (repo / "trees").mkdir(exist_ok=True)
    (repo / "trees" / f"{commit}.json").write_text(json.dumps({"format_version": 1, "files": entries}))


def add_ref(repo: Path, ref: str, text: str) -> Path:
    """Write a ref, an hour old: one that is new and leads to nothing is a download that has just begun."""
    path = repo / "refs" / ref
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    age(path)
    return path


def age(path: Path) -> None:
    """Make a file an hour older."""
    os.utime(path, (time.time() - 3600,) * 2, follow_symlinks=False)


def make_repo(
    root: Path,
    folder: str,
    revisions: Mapping[str, Mapping[str, bytes]] | None = None,
    refs: Mapping[str, str] | None = None,
) -> Path:
    """Make a repo of these files by revision, and of these refs; by default, `main` names the first revision."""
    repo = root / folder
    found = {A: {"config.json": b"{}"}} if revisions is None else revisions
    (repo / "snapshots").mkdir(parents=True)
    for revision, files in found.items():
        (repo / "snapshots" / revision).mkdir()
        for file, data in files.items():
            add_file(repo, revision, file, data)
    for ref, text in ({"main": next(iter(found))} if refs is None else refs).items():
        add_ref(repo, ref, text)
    return repo


def share(root: Path, data: bytes, *blobs: Path) -> Path:
    """Put a payload into the shared store as 1.32 and later do, turn these blobs into links to it, and return it."""
    name = hashlib.sha256(b"xet " + data).hexdigest()
    payload = root / "blobs" / name[:2] / name
    payload.parent.mkdir(parents=True, exist_ok=True)
    (root / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    payload.write_bytes(data)
    payload.chmod(0o444)
    payload.with_name(f"{name}.lock").touch()
    for blob in blobs:
        blob.unlink(missing_ok=True)
        blob.symlink_to(os.path.relpath(payload, blob.parent))
    lines = "".join(f"{blob.relative_to(root)}\n" for blob in blobs)
    payload.with_name(f"{name}.refs").write_text(lines)
    return payload


def make_trash(root: Path, name: str = "0123456789abcdef", approved: str = "") -> Path:
    """Make a trash folder as a removal that was killed leaves it; `approved` is what it may delete besides."""
    path = root / f"{TRASH}{name}"
    path.mkdir(parents=True)
    folder = os.open(path, os.O_RDONLY)
    entries.mark(folder, path.stat())
    os.close(folder)
    if approved:
        (path / ".approved").write_text(approved)
    return path


def condemn(root: Path, folder: str, revision: str, approved: str = "") -> Path:
    """Leave a revision as a removal does that was killed just after it had taken the snapshot; return the trash."""
    repo = root / folder
    blobs = {
        os.path.basename(os.readlink(path)) for path in (repo / "snapshots" / revision).rglob("*") if path.is_symlink()
    }
    trash = make_trash(root, approved="".join(f"blob {folder}/blobs/{blob}\n" for blob in sorted(blobs)) + approved)
    (repo / "snapshots" / revision).rename(trash / f"@{revision}@{folder}")
    return trash


def unprivileged() -> tuple[str, ...]:
    """Return what to put before a command for file permissions to bite it, as they do everybody but root."""
    if os.geteuid():
        return ()
    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if not shutil.which("setpriv") or subprocess.run((*prefix, sys.executable, "-c", "")).returncode:
        pytest.skip("file permissions do not bite root, and setpriv(1) cannot make them")
    return prefix


def flip(path: Path) -> None:
    """Change the last byte of a file in place; the size stays."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        (last,) = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes((last ^ 1,)))


def settle(folder: Path) -> None:
    """Wait until every file below is old enough to be remembered: nobody can set a ctime."""
    while True:
        youngest = max((path.lstat().st_ctime for path in folder.rglob("*")), default=0)
        if time.time() - youngest > 0.15:
            return
        time.sleep(0.01)


def disk(folder: Path) -> int:
    """Return the bytes of all files below, each inode once."""
    found = {(status.st_dev, status.st_ino): status for path in folder.rglob("*") if (status := path.lstat())}
    return sum(status.st_size for status in found.values() if stat.S_ISREG(status.st_mode))


def verify(app: AppFolder, *arguments: str | Path, **keywords: Any) -> Done:
    """Run `cache verify` on an app's caches; unless an environment says so, no hub may be asked."""
    environment = {"env": clean_environment(HF_HUB_OFFLINE="1"), **keywords}
    return launcher("cache", "verify", "--app-dir", app.path, *arguments, **environment)


def verdicts(done: Done) -> dict[str, str]:
    """Return what `cache verify --json` says of each file, by the last part of its path."""
    return {file["path"].rpartition("/")[2]: file["verdict"] for file in done.json["files"]}


# What is generated: a repo is revisions that hold files, refs that name revisions by number, and what is odd in it.
FILES = ("config.json", ".hidden", "s2/codec.bin", "s2/deep/er/weights.bin", "ä ö/模型.bin", "new\nline", ".DS_Store")
DATA = tuple(bytes([number]) * size for number, size in enumerate((0, 1, 1000, 1000, 70_000)))
REFS = ("main", "v1.0", "refs/pr/1", "refs/convert/parquet", "分支", "start_app")
NAMES = ("gpt2", "koge--index-tts-v22", "koge--a.b_c-d", "koge--模型")
WAYS = ("link", "absolute", "roundabout", "plain")


class File(NamedTuple):
    data: bytes
    way: str

    def __repr__(self) -> str:
        return f"File({self.data[:1]!r} * {len(self.data)}, {self.way!r})"


class Generated(NamedTuple):
    revisions: list[dict[str, File]]
    refs: dict[str, int]
    orphans: list[bytes]
    partial: list[bytes]
    broken: str

    def write(self, path: Path) -> None:
        (path / "snapshots").mkdir(parents=True)
        for number, files in enumerate(self.revisions):
            revision = commit(number)
            (path / "snapshots" / revision).mkdir()
            for file, (data, way) in files.items():
                if way == "plain":
                    add_plain(path, revision, file, data)
                    continue
                blob = add_blob(path, data)
                steps = "../" * (file.count("/") + 2)
                targets = {"absolute": f"{path}/blobs/{blob}", "roundabout": f"{steps}./refs/../blobs/{blob}"}
                (path / "refs").mkdir(exist_ok=True)
                add_link(path, revision, file, blob, targets.get(way))
        for ref, number in self.refs.items():
            if number < len(self.revisions):
                add_ref(path, ref, commit(number))
        for data in self.orphans:
            add_blob(path, data, commit(data))
        for number, data in enumerate(self.partial):
            add_blob(path, data, f"{commit(data)}{('', '.1a2b3c4d')[number % 2]}.incomplete")
        if self.broken == "a ref to a missing commit":
            add_ref(path, "broken", C)
        elif self.broken == "an empty ref":
            add_ref(path, "broken", "")
        elif self.broken == "a link to nothing":
            add_link(path, commit(0), "broken", MISSING)
        elif self.broken == "a file among the snapshots":
            (path / "snapshots" / "broken").touch()
        elif self.broken == "no snapshots":
            (path / "snapshots").rename(path / "trees")

    @property
    def loose(self) -> int:
        """Return the bytes that only we count: blobs of no snapshot, and what there is of partial downloads."""
        return sum(map(len, (*set(self.orphans), *self.partial)))


_files = st.dictionaries(st.sampled_from(FILES), st.builds(File, st.sampled_from(DATA), st.sampled_from(WAYS)))
BROKEN = (
    "a ref to a missing commit",
    "an empty ref",
    "a link to nothing",
    "a file among the snapshots",
    "no snapshots",
)
_repos = st.builds(
    Generated,
    st.lists(_files, max_size=3),
    st.dictionaries(st.sampled_from(REFS), st.integers(0, 2), max_size=4),
    st.lists(st.binary(min_size=3, max_size=9), max_size=2),
    st.lists(st.binary(min_size=3, max_size=9), max_size=2, unique=True),
    st.sampled_from(("",) * 7 + BROKEN),
)
_folders = st.tuples(st.sampled_from(("models", "datasets", "spaces", "kernels")), st.sampled_from(NAMES))
generated = st.dictionaries(_folders.map("--".join), _repos, max_size=5)


def set_times(root: Path) -> None:
    """Give everything times of its own; an access in the future is not moved by a look, whatever the mount says."""
    soon = time.time_ns() + 3_600_000_000_000
    for folder, _, names in os.walk(root):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            if not os.path.islink(path):
                offset = zlib.crc32(os.fsencode(os.path.relpath(path, root)))
                os.utime(path, ns=(soon + offset * 100, 1_500_000_000_000_000_000 + offset * 10_000_001))
