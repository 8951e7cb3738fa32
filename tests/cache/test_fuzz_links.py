"""What loads before a removal, and is not removed itself, loads after it; a link of the app's never breaks.

The trees have what the hub's clients and people leave: absolute links (huggingface_hub 0.13 to 0.22), plain files, lost
blobs, commits with a list of their files and without one, notes of a user, and links from the app's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cache.test_fuzz import run
from tests.support import caches
from tests.support.apps import make_app
from tests.support.fuzz import examples

COMMITS = ("1" * 40, "2" * 40, "3" * 40)
REPOS = ("models--koge--one", "datasets--koge--two")
LOADS = ("relative", "absolute", "plain")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("prune",),
    ("prune", "--max-size", "0"),
    ("prune", "--older-than", "0d"),
    ("clear",),
    ("remove", "koge/one"),
)


class Kept(NamedTuple):
    """Hold a file of a revision: its content, how the snapshot has it, and whether the app's folder links to it."""

    content: int
    how: str
    linked: str


class Commit(NamedTuple):
    """Hold a revision: its files, whether a ref names it, and what its list of files is like."""

    files: Sequence[Kept]
    ref: bool
    listed: str
    notes: bool


kept = st.builds(
    Kept,
    st.integers(0, 5),
    st.sampled_from((*LOADS, "relative", "lost")),
    st.sampled_from(("", "", "", "snapshot", "blob", "relative")),
)
commit = st.builds(
    Commit,
    st.lists(kept, min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from(("", "whole", "more")),
    st.booleans(),
)
repos = st.dictionaries(st.sampled_from(REPOS), st.lists(commit, min_size=1, max_size=3), min_size=1)


def write(folder: Path, tree: Mapping[str, Sequence[Commit]]) -> dict[str, bytes]:
    """Write a cache and the links into it, and return the user's own files."""
    mine: dict[str, bytes] = {}
    checkpoints = folder / "app" / "checkpoints"
    checkpoints.mkdir()
    for name, revisions in tree.items():
        repo = folder / "hub" / name
        (repo / "blobs").mkdir(parents=True)
        (repo / "refs").mkdir()
        for sha, one in zip(COMMITS, revisions, strict=False):
            snapshot = repo / "snapshots" / sha
            snapshot.mkdir(parents=True)
            listed = {}
            for number, file in enumerate(one.files):
                data = f"{name} {file.content}".encode() * 50
                path, blob = snapshot / f"file-{number}.bin", repo / "blobs" / hashlib.sha256(data).hexdigest()
                listed[path.name] = (blob.name, len(data))
                if file.how == "plain":
                    path.write_bytes(data)
                else:
                    path.symlink_to(blob if file.how == "absolute" else f"../../blobs/{blob.name}")
                    if file.how != "lost":
                        blob.write_bytes(data)
                target = {"snapshot": path, "blob": blob, "relative": os.path.relpath(path, checkpoints)}
                if file.linked and os.path.exists(path):
                    link = checkpoints / f"{name}-{sha[0]}-{number}"
                    link.symlink_to(target[file.linked] if os.path.exists(target["blob"]) else path)
            if one.listed == "more":
                listed["never-arrived.bin"] = ("f" * 64, 9)
            if one.listed:
                entries = {path: {"blob_id": digest, "size": size} for path, (digest, size) in listed.items()}
                (repo / "trees").mkdir(exist_ok=True)
                (repo / "trees" / f"{sha}.json").write_text(json.dumps({"files": entries}))
            if one.ref:
                (repo / "refs" / f"r{sha[0]}").write_text(sha)
            if one.notes:
                (snapshot / "notes.txt").write_text("mine")
                if one.listed or any(file.how != "plain" for file in one.files):  # else it looks like a download
                    mine[str(snapshot / "notes.txt")] = b"mine"
    for place, _, names in os.walk(folder / "hub"):
        for name in names:
            if not os.path.islink(os.path.join(place, name)):
                caches.age(Path(place, name))
    return mine


def content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


@pytest.mark.slow
@given(tree=repos, command=st.sampled_from(COMMANDS))
@examples(60, shrink=False)
def test_what_stays_loads_as_before_and_no_link_of_the_app_breaks(
    tree: dict[str, list[Commit]], command: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "tree"
    shutil.rmtree(folder, ignore_errors=True)
    make_app(folder / "app")
    mine = write(folder, tree)
    snapshots = list((folder / "hub").glob("*/snapshots/*/*"))
    before = {path: content(path) for path in snapshots}
    links = {path: content(path) for path in (folder / "app" / "checkpoints").iterdir()}
    wanted = {
        path
        for name, revisions in tree.items()
        for sha, one in zip(COMMITS, revisions, strict=False)
        if one.ref and command == ("prune",)
        for path in before
        if path.parent == folder / "hub" / name / "snapshots" / sha
    }
    done = run(folder, *command, "--json")
    assert {path: content(path) for path in links} == links, done.out
    assert {path: content(path) for path in wanted} == {path: before[path] for path in wanted}, done.out
    assert {path: content(Path(path)) for path in mine} == mine, done.out
    stays = {path: found for path, found in before.items() if os.path.lexists(path)}
    assert {path: content(path) for path in stays} == stays, done.out
