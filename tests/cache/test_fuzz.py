"""Whatever lies in a cache: only what the plan names goes, and nothing of a stranger's, in the root or outside it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher import cli
from launcher.cache.names import TRASH
from tests.support import caches
from tests.support.apps import Done, clean_environment, make_app
from tests.support.caches import A, B, add_blob, add_ref
from tests.support.fuzz import examples
from tests.support.removal import Contents, everything

REPO = "models--koge--odd"
OUT = "outside"
STRAY = "a file among the snapshots"


class Oddity(NamedTuple):
    """Hold something that may lie in a cache: what makes it, and the paths in it that are nobody's to remove."""

    name: str
    make: Callable[[Path], object]
    foreign: tuple[str, ...] = ()


def file(path: str, data: bytes = b"mine") -> Callable[[Path], object]:
    def make(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(root / path):
            (root / path).write_bytes(data)

    return make


def link(path: str, target: str) -> Callable[[Path], object]:
    """Make a link to something outside, `{out}` standing for that."""

    def make(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(root / path):
            (root / path).symlink_to(target.format(out=root.parent / OUT))

    return make


def hard(path: str) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(root / path):
            os.link(root.parent / OUT / "file", root / path)

    return make


def shared(*blobs: str, payload: bytes = b"payload") -> Callable[[Path], object]:
    def make(root: Path) -> None:
        for blob in blobs:
            (root / blob).parent.mkdir(parents=True, exist_ok=True)
        if not (root / "blobs").is_symlink():
            caches.share(root, payload, *(root / blob for blob in blobs))

    return make


def condemned(root: Path) -> None:
    trash = root / REPO / f"{TRASH}{A}-0123456789abcdef"
    blob = add_blob(root / REPO, b"condemned", "d" * 64)
    trash.mkdir(parents=True)
    (trash / "x").symlink_to(f"../../blobs/{blob}")
    (trash / "y").symlink_to(root.parent / OUT / "file")


NAME = "d" * 64
ODDITIES = (
    Oddity("notes", file("notes.txt"), ("notes.txt",)),
    Oddity("token", file("token"), ("token",)),
    Oddity("folder", file("mine/models--a--b/blobs/x"), ("mine", "mine/models--a--b", "mine/models--a--b/blobs/x")),
    Oddity("short name", file("models--/x"), ("models--", "models--/x")),
    Oddity("foreign link", link("there", "{out}"), ("there",)),
    Oddity("repo is a link", link("models--koge--link", "{out}/repo")),
    Oddity("repo is a file", file("datasets--koge--file"), ("datasets--koge--file",)),
    Oddity("empty repo", lambda root: (root / "models--koge--empty").mkdir(exist_ok=True)),
    Oddity("only blobs", file(f"models--koge--bare/blobs/{NAME}")),
    Oddity("only refs", file("models--koge--ref/refs/main", A.encode())),
    Oddity("a repo that is only notes", file("models--koge--notes/notes.txt"), ("models--koge--notes/notes.txt",)),
    Oddity("notes in a repo", file(f"{REPO}/notes.txt"), (f"{REPO}/notes.txt",)),
    Oddity("a folder in a repo", file(f"{REPO}/mine/snapshots/x"), (f"{REPO}/mine/snapshots/x",)),
    Oddity("a link in a repo", link(f"{REPO}/there", "{out}"), (f"{REPO}/there",)),
    Oddity("a file among snapshots", file(f"{REPO}/snapshots/stray"), (f"{REPO}/snapshots/stray",)),
    Oddity("a link among snapshots", link(f"{REPO}/snapshots/{B}", "{out}/repo")),
    Oddity("a name among blobs", file(f"{REPO}/blobs/strange"), (f"{REPO}/blobs/strange",)),
    Oddity("a folder among blobs", file(f"{REPO}/blobs/folder/x"), (f"{REPO}/blobs/folder/x",)),
    Oddity("snapshots elsewhere", link(f"{REPO}/snapshots", "{out}/repo")),
    Oddity("blobs elsewhere", link(f"{REPO}/blobs", "{out}/repo")),
    Oddity("refs elsewhere", link(f"{REPO}/refs", "{out}/repo")),
    Oddity("parts dangling", link(f"{REPO}/blobs", "nowhere")),
    Oddity("locks of a repo elsewhere", link(f".locks/{REPO}", "{out}")),
    Oddity("all locks elsewhere", link(".locks", "{out}")),
    Oddity("a lock", file(f".locks/{REPO}/{NAME}.lock", b"")),
    Oddity("locks alone", file(f".locks/models--koge--gone/{NAME}.lock", b"")),
    Oddity("a lock link", link(f".locks/{REPO}/{NAME}.lock", "{out}/file")),
    Oddity("notes among locks", file(".locks/notes"), (".locks/notes",)),
    Oddity("a link out", link(f"{REPO}/snapshots/{A}/out", "{out}/file")),
    Oddity("a link out to a folder", link(f"{REPO}/snapshots/{A}/folder", "{out}/repo")),
    Oddity("a link to itself", link(f"{REPO}/snapshots/{A}/self", "self")),
    Oddity("a long link", link(f"{REPO}/snapshots/{A}/deep/er", "../../../blobs/../../../" + OUT + "/file")),
    Oddity("a blob out", link(f"{REPO}/blobs/{NAME}", "{out}/file")),
    Oddity("a blob hard-linked", hard(f"{REPO}/blobs/{NAME}")),
    Oddity("a file hard-linked", hard(f"{REPO}/snapshots/{A}/plain")),
    Oddity("a partial out", link(f"{REPO}/blobs/{NAME}.incomplete", "{out}/file")),
    Oddity("a ref out", link(f"{REPO}/refs/out", "{out}/file")),
    Oddity("a ref folder out", link(f"{REPO}/refs/pr", "{out}")),
    Oddity("a deep ref", file(f"{REPO}/refs/refs/pr/1", A.encode())),
    Oddity("an odd ref", file(f"{REPO}/refs/odd", b"\xff\n" + b"x" * 5000)),
    Oddity("a known gap", file(f"{REPO}/.no_exist/{A}/nothing.json", b"")),
    Oddity("a gap out", link(f"{REPO}/.no_exist", "{out}")),
    Oddity("a tree", file(f"{REPO}/trees/{A}.json", b"{}")),
    Oddity("trees out", link(f"{REPO}/trees", "{out}")),
    Oddity("trash", file(f"{TRASH}0000000000000000/models--koge--t/blobs/x")),
    Oddity("trash that links out", link(f"{TRASH}1111111111111111/there", "{out}/repo")),
    Oddity("trash that is a link", link(f"{TRASH}2222222222222222", "{out}"), (f"{TRASH}2222222222222222",)),
    Oddity("trash that is a file", file(f"{TRASH}3333333333333333")),
    Oddity("trash in a repo", condemned),
    Oddity("trash in a repo that links out", link(f"{REPO}/{TRASH}{B}-0123456789abcdef", "{out}")),
    Oddity("a store", shared(f"{REPO}/blobs/{'5' * 64}")),
    Oddity("a store of two", shared(f"{REPO}/blobs/{'6' * 64}", "models--koge--two/blobs/" + "6" * 64, payload=b"two")),
    Oddity("a store of nobody", shared(payload=b"nobody's")),
    Oddity("no store", file("blobs/mine"), ("blobs", "blobs/mine")),
    Oddity("a store elsewhere", link("blobs", "{out}"), ("blobs",)),
    Oddity("the system's", file(f"{REPO}/snapshots/.DS_Store")),
    Oddity("a tag", file("CACHEDIR.TAG"), ("CACHEDIR.TAG",)),
)
HOSTILE = (
    "models--..--..",
    "models--two\nlines",
    "models--\x1b[31m",
    "models--\udcff",
    "spaces--a b--$(x)",
    "kernels--*",
)
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("clear",), ("clear", "--force"), ("remove", "models--*"), ("remove", REPO), ("remove", f"koge/odd@{A}"),
    ("remove", "koge/odd@main"), ("remove", "*"), ("prune",), ("prune", "--max-size", "0"),
    ("prune", "--older-than", "0d"), ("prune", "--max-size", "0", "--keep", "koge/odd"), ("prune", "--unlocked"),
    ("verify", "--repair"),
)  # fmt: skip
trees = st.tuples(
    caches.generated,
    st.lists(st.sampled_from(ODDITIES), max_size=6, unique_by=lambda one: one.name),
    st.lists(st.sampled_from(HOSTILE), max_size=2, unique=True),
)


def build(
    folder: Path, tree: tuple[Mapping[str, caches.Generated], Sequence[Oddity], Sequence[str]]
) -> tuple[Path, list[str]]:
    """Write a cache beside what is outside it, and return its root, and what in it is nobody's to remove."""
    repos, oddities, hostile = tree
    outside = folder / OUT
    for path in ("file", "repo/snapshots/x", f"repo/{A}/x", f"repo/{NAME}", f"{A}/x", f"{NAME}.lock", "1", "main"):
        (outside / path).parent.mkdir(parents=True, exist_ok=True)
        (outside / path).write_bytes(A.encode())
    root = folder / "hub"
    root.mkdir()
    for name in hostile:
        caches.make_repo(root, name)
    strange = [f"{name}/snapshots/broken" for name, one in repos.items() if one.broken == STRAY]
    for one in oddities:
        strange += [path for path in one.foreign if not os.path.lexists(root / path)]
        with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
            one.make(root)
    for name, repo in repos.items():
        repo.write(root / name)
    if oddities and (root / REPO).is_dir() and not (root / REPO / "snapshots").is_symlink():
        with contextlib.suppress(OSError):
            caches.add_file(root / REPO, A, "config.json", b"odd")
            add_ref(root / REPO, "main", A)
    for place, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(OSError):
                caches.age(Path(place, name))
    return root, strange


def run(folder: Path, *arguments: str) -> Done:
    """Run a `cache` command in this process, which must not fail by a fault of its own."""
    out, err = io.StringIO(), io.StringIO()
    environment = clean_environment(HF_HUB_CACHE=str(folder / "hub"), HF_HUB_OFFLINE="1")
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = cli.main(["cache", *arguments, "--yes", "--app-dir", str(folder / "app")])
    assert status in (0, 2, 65, 74, 75, 78), err.getvalue()
    return Done(int(status), out.getvalue(), err.getvalue())


def traces(item: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what goes with an item besides itself, and all below: what only told of it."""
    path, kind = item["path"], item["kind"]
    repo, _, last = path.rpartition("/")
    if kind in ("revision", "snapshot"):
        base = path.rpartition("/snapshots/")[0]
        return (f"{base}/trees/{last}.json", f"{base}/.no_exist/{last}")
    if kind in ("blob", "partial"):
        root, _, name = repo.removesuffix("/blobs").rpartition("/")
        return (f"{root}/.locks/{name}/{last.partition('.')[0]}.lock",)
    if kind == "trash":
        linked = [os.path.basename(os.readlink(one)) for one in Path(path).rglob("*") if one.is_symlink()]
        return tuple(f"{repo}/{place}" for one in linked for place in (f"blobs/{one}",))
    return (f"{path}.refs",) if kind in ("payload", "damaged") else ()


@pytest.mark.slow
@given(tree=trees, command=st.sampled_from(COMMANDS))
@examples(60, shrink=False)
def test_only_what_the_plan_names_goes_and_nothing_of_a_strangers(
    tree: tuple[dict[str, caches.Generated], list[Oddity], list[str]], command: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "tree"
    shutil.rmtree(folder, ignore_errors=True)
    make_app(folder / "app")
    (folder / "app" / "models.lock").write_bytes(LOCK)
    root, strange = build(folder, tree)
    real = os.path.realpath(root)
    before = everything(folder)
    foreign = {path: before[f"hub/{path}"] for path in strange if f"hub/{path}" in before}

    dry = run(folder, *command, "--dry-run", "--json")
    assert everything(folder) == before
    planned = [item for one in dry.json.get("roots", ()) for item in one["remove"]]
    named = [path for item in planned for path in (item["path"], *traces(item))]
    done = run(folder, *command, "--json")
    after = everything(folder)

    def kept(contents: Contents) -> Contents:
        return {path: found for path, found in contents.items() if not path.startswith("hub/")}

    assert kept(after) == kept(before)
    assert {path: after.get(f"hub/{path}") for path in foreign} == foreign
    gone = {path for path in before if path not in after}
    assert {path: found for path, found in after.items() if path in before and found != before[path]} == {}
    assert all(path.endswith(".lock") for path in after if path not in before)
    if "roots" not in dry.json:
        assert not gone, done.err
        return
    for path in gone:
        full = f"{real}/{path.removeprefix('hub/')}"
        below = any(full == one or full.startswith(f"{one}/") for one in named)
        assert below or is_empty_folder(full, named) or is_loose(path, after), path
    failed = {failure["path"] for failure in done.json["failures"]}
    # A plain file beside links may be the user's own: what such files keep is named, path by path.
    mine = [left["path"] for left in done.json["left"]]
    for item in planned:
        repo = item["path"].replace("/.locks/", "/")  # its locks stay with it
        if any(path.startswith(f"{repo}/") and os.path.lexists(path) for path in mine):
            continue
        told = failed.intersection((item["path"], item["path"].replace("/.locks/", "/")))
        if item["kind"] in ("store", "payload") and (failed or foreign):
            continue  # it stays with what somebody keeps in it, or with a repo that could not go
        assert told or not os.path.lexists(item["path"]) or has_foreign(item["path"], real, foreign), item
    if command[0] == "verify":
        return
    again = run(folder, *command, "--json")
    assert everything(folder) == after
    if command[0] != "remove" and not failed:
        removed = [
            item
            for item in again.json["removed"]
            if not has_foreign(item["path"], real, foreign)
            and not any(path.startswith(f"{item['path']}/") for path in mine)
        ]
        assert [item for item in removed if not (item["kind"] == "store" and foreign)] == []


def is_empty_folder(path: str, named: Sequence[str]) -> bool:
    """Tell whether everything in this folder was named: the folders of a ref or a shared store go with it."""
    store = re.fullmatch(r"(.*/hub/blobs)(/[0-9a-f]{2}|/\.huggingface-shared-blobs)?", path)
    folder = store[1] if store and path.endswith("-blobs") else path
    return bool(store or "/refs/" in path) and any(one.startswith(f"{folder}/") for one in named)


def is_loose(path: str, contents: Contents) -> bool:
    """Tell whether this is a payload that nothing links to, or what tells of it: any removal sweeps what one left."""
    payload = re.fullmatch(r"hub/blobs/[0-9a-f]{2}/([0-9a-f]{64})(\.refs|\.lock)?", path)
    return bool(payload) and not any(payload[1].encode() in data for kind, data in contents.values() if kind[0] == "l")


def has_foreign(path: str, root: str, foreign: Mapping[str, object]) -> bool:
    """Tell whether a stranger's file keeps a path."""
    return any(f"{root}/{one}".startswith(f"{path}/") for one in foreign)


LOCK = json.dumps(
    {
        "version": 1,
        "models": [
            {
                "repo": "koge/odd",
                "revision": "main",
                "commit": A,
                "files": {"config.json": {"size": 3, "git_sha1": "0" * 40}},
            }
        ],
    }
).encode()
