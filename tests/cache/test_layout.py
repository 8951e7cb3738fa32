"""A cache is read as huggingface_hub reads it, and what hides a repo from huggingface_hub is named and not hidden."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from launcher.cache import entries, layout, listing
from launcher.cache.layout import Repo
from launcher.cache.listing import Listing, RepoRow
from tests.support import caches, hub_cache
from tests.support.apps import ROOT
from tests.support.caches import (
    MISSING,
    A,
    B,
    C,
    add_blob,
    add_file,
    add_link,
    add_plain,
    add_ref,
    make_repo,
    make_trash,
)
from tests.support.fuzz import examples
from tests.support.hub import Hub

MODEL = "models--koge--index-tts-v22"
NAME = "koge/index-tts-v22"


def shown(root: Path, *patterns: str) -> Listing:
    return listing.listing(caches.root_of(root), patterns)


def row(root: Path, name: str = NAME) -> RepoRow:
    return next(one for one in shown(root).repos if one.name == name)


def read(root: Path, folder: str = MODEL) -> Repo:
    return layout.read(os.path.realpath(root), folder)


def wrong(root: Path) -> str:
    return "; ".join(row(root).problems)


def facts(one: RepoRow) -> dict[str, Any]:
    return {
        "repo_id": one.name if one.kind == "model" else one.name.partition("/")[2],
        "repo_type": one.kind,
        "size_on_disk": one.size,
        "nb_files": one.files,
        "last_accessed": one.accessed,
        "last_modified": one.modified,
        "revisions": [
            {
                "commit_hash": revision.commit,
                "refs": list(revision.refs),
                "size_on_disk": revision.size,
                "nb_files": revision.files,
                "last_modified": revision.modified,
            }
            for revision in one.revisions
        ],
    }


@pytest.fixture(scope="module")
def unknown_kinds(library: hub_cache.Library) -> frozenset[str]:
    """Return the types of repo that are younger than the library that is asked."""
    return frozenset(("kernel",)) if tuple(map(int, library.version().split(".")[:2])) < (1, 10) else frozenset()


@pytest.mark.slow
@given(cache=caches.generated)
@examples(60)
def test_every_cache_is_read_as_huggingface_hub_reads_it(
    cache: dict[str, caches.Generated], library: hub_cache.Library, unknown_kinds: frozenset[str]
) -> None:
    with tempfile.TemporaryDirectory(prefix="cache-") as folder:
        root = Path(os.path.realpath(folder))
        for name, repo in cache.items():
            repo.write(root / name)
        caches.set_times(root)
        ours = shown(root)
        theirs = library.scan(root)
        seen = {(one["repo_type"], one["repo_id"]): one for one in theirs["repos"]}
        told = [(one, facts(one)) for one in ours.repos]
        both = [one for one, known in told if (known["repo_type"], known["repo_id"]) in seen]
        hidden = [one for one in ours.repos if one not in both]
        for known in (known for one, known in told if one in both):
            assert known == seen.pop((known["repo_type"], known["repo_id"]))
        assert not seen
        assert {os.path.basename(one.path) for one in ours.repos} == cache.keys()
        assert len(hidden) == len(theirs["warnings"])
        assert all(one.problems for one in hidden if one.kind not in unknown_kinds)
        loose = sum(cache[os.path.basename(one.path)].loose for one in both)
        assert not both or shown(root, *(one.name for one in both)).size == theirs["size_on_disk"] + loose


@pytest.mark.slow
@pytest.mark.parametrize("symlinks", [True, False])
def test_what_huggingface_hub_has_downloaded_itself_is_read_as_it_reads_it(tmp_path: Path, symlinks: bool) -> None:
    pytest.importorskip("huggingface_hub")
    weights = os.urandom(200_000)
    with Hub(xet=True) as hub:
        old = hub.commit("koge/one", {"config.json": b"{}", "s2/model.safetensors": weights})
        hub.commit("koge/one", {"config.json": b"[]", "s2/model.safetensors": weights})
        hub.commit("koge/two", {"model.safetensors": weights, "extra.txt": b"extra"})
        hub.commit("koge/voices", {"a/b/c.wav": b"RIFF"}, repo_type="dataset")
        wanted = [("koge/one", old, "model"), *(("koge/" + name, "main", "model") for name in ("one", "two"))]
        wanted += [("koge/voices", "main", "dataset")]
        hub_cache.download_many(hub, tmp_path, wanted, symlinks=symlinks)
    theirs = hub_cache.scan(tmp_path)
    ours = shown(tmp_path)
    assert theirs["warnings"] == []
    told = sorted((facts(one) for one in ours.repos), key=lambda one: (one["repo_type"], one["repo_id"]))
    assert told == theirs["repos"]
    assert ours.size == theirs["size_on_disk"]
    assert not ours.foreign and not ours.lookalikes and not ours.trash


def test_a_partial_download_of_any_version_is_told_with_its_bytes_and_is_no_blob(tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    names = (f"{MISSING}.incomplete", f"{MISSING}.1a2b3c4d.incomplete", f".{MISSING}.1a2b3c4d.shared")
    for name in names:
        add_blob(repo, b"half", name)
        os.utime(repo / "blobs" / name, (0, 0))  # a young one may still grow
    assert read(tmp_path).partial == dict.fromkeys(names, 4)
    assert "3 partial downloads, 12 B" in wrong(tmp_path)
    assert (shown(tmp_path).size, row(tmp_path).size, shown(tmp_path).reclaimable) == (14, 2, 12)


def test_of_a_detached_revision_only_what_no_ref_needs_would_be_freed(tmp_path: Path) -> None:
    both, old, new = b"both" * 10, b"old" * 10, b"new" * 10
    make_repo(tmp_path, MODEL, {A: {"both": both, "own": new}, B: {"both": both, "own": old}})
    assert wrong(tmp_path) == f"{B[:7]}: no ref points to it"
    assert (shown(tmp_path).size, shown(tmp_path).reclaimable) == (100, 30)
    assert [revision.size for revision in row(tmp_path).revisions] == [70, 70]


def test_a_blob_that_no_revision_links_to_is_told_and_counted_as_disk_space_only(tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    orphan = add_blob(repo, b"orphan")
    assert read(tmp_path).orphans == (orphan,)
    assert wrong(tmp_path) == "1 blob that no revision links to, 6 B"
    assert (row(tmp_path).size, shown(tmp_path).size, shown(tmp_path).reclaimable) == (2, 8, 6)


def test_a_broken_link_hides_neither_its_revision_nor_its_repo(tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    add_link(repo, A, "s2/model.bin", MISSING)
    (revision,) = read(tmp_path).revisions
    assert (revision.dangling, revision.files, revision.size) == (("s2/model.bin",), 2, 2)
    assert wrong(tmp_path) == f"{A[:7]}: 1 file missing"


@pytest.mark.parametrize("text", ["", C, C[:9], "\0" * 40])
def test_a_ref_to_no_revision_is_named_and_hides_nothing(text: str, tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    add_ref(repo, "refs/pr/1", text)
    assert list(read(tmp_path).broken_refs) == ["refs/pr/1"]
    assert row(tmp_path).refs == ("main",)
    assert wrong(tmp_path) == "refs to a missing commit: refs/pr/1"


def test_a_ref_that_huggingface_hub_cannot_follow_for_a_newline_is_told(tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    add_ref(repo, "main", f"{A}\n")  # it would look for a revision of that name, newline and all
    assert row(tmp_path).problems


def test_a_ref_that_is_a_pipe_or_a_link_to_something_else_is_broken_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    (repo / "refs" / "link").symlink_to("/etc/hostname")
    os.mkfifo(repo / "refs" / "pipe")
    os.mkfifo(repo / "blobs" / "pipe")
    os.mkfifo(repo / "snapshots" / A / "pipe")
    assert sorted(read(tmp_path).broken_refs) == ["link", "pipe"]
    assert row(tmp_path).size == 2


def test_what_is_not_huggingface_hubs_is_named_and_what_the_system_leaves_is_not(tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    for name in ("notes.txt", "models--", "version.txt", "CACHEDIR.TAG", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "blobs").mkdir()  # a folder of that name, but no marker in it
    for path in ("README", ".DS_Store", "snapshots/stray", "refs/.DS_Store", "trees/x.json", ".no_exist/x"):
        (repo / path).parent.mkdir(exist_ok=True)
        (repo / path).write_text("mine")
    assert shown(tmp_path).foreign == ("blobs", "models--", "notes.txt", "version.txt")
    assert read(tmp_path).foreign == ("README", "snapshots/stray", ".no_exist/x", "trees/x.json")
    assert wrong(tmp_path).startswith("not huggingface_hub's: README, snapshots/stray, .no_exist/x")


@pytest.mark.parametrize("text", ["to do", f"{A} is the good one", "\xff"])
def test_a_file_among_the_refs_that_names_no_commit_is_foreign(text: str, tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    add_ref(repo, "notes", text)
    assert read(tmp_path).foreign == ("refs/notes",)
    assert not read(tmp_path).broken_refs


def test_a_file_among_the_blobs_that_bears_no_hash_is_somebodys_own(tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    add_blob(repo, b"mine", "notes.txt")
    assert read(tmp_path).orphans == ()
    assert read(tmp_path).foreign == ("blobs/notes.txt",)
    assert shown(tmp_path).reclaimable == 0


def test_a_repo_that_is_a_link_is_read_and_what_only_looks_like_a_repo_is_named_with_the_reason(tmp_path: Path) -> None:
    elsewhere = make_repo(tmp_path / "elsewhere", MODEL)
    root = tmp_path / "hub"
    root.mkdir()
    (root / MODEL).symlink_to(elsewhere)
    (root / "models--dangling").symlink_to("nowhere")
    (root / "datasets--file").write_text("")
    (root / "spaces--link").symlink_to("datasets--file")
    (linked,) = shown(root).repos
    assert (linked.name, linked.size, linked.besides) == (NAME, 2, 0)
    assert linked.problems == (f"a link to {elsewhere}",)
    assert shown(root).size == 0
    assert shown(root).lookalikes == {
        "models--dangling": "it is a link to nowhere, which is not there",
        "datasets--file": "it is not a folder",
        "spaces--link": "it is a link to datasets--file, which is not a folder",
    }


def test_locks_are_told_from_repos_and_from_what_somebody_else_keeps_there(tmp_path: Path) -> None:
    make_repo(tmp_path, MODEL)
    for name in (MODEL, "models--koge--gone", "mine"):
        (tmp_path / ".locks" / name).mkdir(parents=True)
    (tmp_path / ".locks" / "models--file").touch()
    found = entries.contents(str(tmp_path))
    assert (found.entries, found.locks, found.foreign) == ((MODEL,), ("models--koge--gone", MODEL), ())


def test_what_an_interrupted_removal_left_is_told_and_is_no_repo(tmp_path: Path) -> None:
    make_repo(tmp_path, MODEL)
    make_repo(make_trash(tmp_path), "models--koge--gone")
    (tmp_path / ".start_app-trash-1111111111111111" / "thesis").mkdir(parents=True)
    (tmp_path / ".start_app-trash-..-0123456789abcdef").mkdir()
    assert shown(tmp_path).trash == (".start_app-trash-0123456789abcdef",)
    assert [one.name for one in shown(tmp_path).repos] == [NAME]
    assert shown(tmp_path).foreign == (".start_app-trash-..-0123456789abcdef", ".start_app-trash-1111111111111111")
    assert wrong(tmp_path) == ""


def test_a_blob_with_several_names_is_counted_once_on_the_disk(tmp_path: Path) -> None:
    data = b"x" * 1000
    one = make_repo(tmp_path, MODEL, {A: {"a": data}})
    blob = one / "blobs" / add_blob(one, data)
    os.link(blob, one / "blobs" / MISSING)
    add_link(one, A, "b", MISSING)
    two = make_repo(tmp_path, "models--koge--two", {A: {"a": b"y" * 10}})
    os.link(blob, two / "blobs" / blob.name)
    add_link(two, A, "b", blob.name)
    assert shown(tmp_path).size == 1010
    assert (row(tmp_path).size, row(tmp_path, "koge/two").size) == (2000, 1010)  # as huggingface_hub counts


def test_a_plain_file_with_several_names_is_counted_once_on_the_disk(tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL, {A: {}})
    plain = add_plain(repo, A, "a", b"x" * 1000)
    (repo / "snapshots" / B).mkdir()
    os.link(plain, repo / "snapshots" / B / "a")
    assert shown(tmp_path).size == 1000


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (b"models--..--..", "../.."),
        (b"models--.", "."),
        (b"models--a\nb--c\x1b[31m", "a\nb/c\x1b[31m"),
        (b"models--a--\xff", "a/\udcff"),
        (b"datasets--" + b"x" * 245, f"datasets/{'x' * 245}"),
        (b"models--a--b--c--d", "a/b/c/d"),
        (b"models-- --'$(id)'", " /'$(id)'"),
    ],
)
def test_a_repo_of_a_hostile_name_is_read_like_any_other(folder: bytes, name: str, tmp_path: Path) -> None:
    make_repo(tmp_path, os.fsdecode(folder), {A: {"a\udcff\n.bin": b"12345"}})
    (one,) = shown(tmp_path).repos
    assert (one.name, one.size, one.files, one.problems, one.refs) == (name, 5, 1, (), ("main",))
    assert shown(tmp_path).foreign == ()


def test_a_link_out_of_the_repo_is_told_and_what_it_leads_to_is_not_counted(tmp_path: Path) -> None:
    other = make_repo(tmp_path, "models--koge--other", {A: {"a": b"x" * 1000}})
    (tmp_path / "folder").mkdir()
    repo = make_repo(tmp_path, MODEL)
    for number, target in enumerate(("/etc/passwd", str(next((other / "blobs").iterdir())), str(tmp_path / "folder"))):
        add_link(repo, A, f"s2/{number}", "", target)
    (revision,) = read(tmp_path).revisions
    assert revision.outside == ("s2/0", "s2/1", "s2/2")
    assert (revision.size, row(tmp_path).size) == (2, 2)
    assert wrong(tmp_path) == f"{A[:7]}: 3 links out of the cache"


def test_a_blob_that_is_a_link_out_of_the_cache_takes_no_space_in_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"x" * 1000)
    root = tmp_path / "hub"
    repo = make_repo(root, MODEL)
    (repo / "blobs" / MISSING).symlink_to(tmp_path / "elsewhere")
    add_link(repo, B, "model.bin", MISSING)
    assert shown(root).size == 2
    assert shown(root).reclaimable == 0


def test_a_payload_that_repos_share_is_counted_once(tmp_path: Path) -> None:
    data = b"x" * 1000
    blobs = []
    for name in ("one", "two"):
        repo = make_repo(tmp_path, f"models--koge--{name}", {A: {"a": data, "b": b"y"}})
        blobs.append(repo / "blobs" / add_blob(repo, data))
    caches.share(tmp_path, data, *blobs)
    unused = caches.share(tmp_path, b"z" * 50)
    found = shown(tmp_path)
    assert ([one.size for one in found.repos], found.size, found.reclaimable) == ([1001, 1001], 1052, 50)
    assert (shown(tmp_path, "koge/one").size, found.foreign) == (1001, ())
    assert unused.name not in read(tmp_path, "models--koge--one").shared


def test_a_blob_whose_shared_payload_is_gone_is_missing_from_its_revision(tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    blob = add_file(repo, A, "model.bin", b"x" * 1000)
    caches.share(tmp_path, b"x" * 1000, repo / "blobs" / blob).unlink()
    assert read(tmp_path).missing_payloads == (blob,)
    assert wrong(tmp_path) == f"{A[:7]}: 1 file missing; 1 link to nothing in the shared store"


@pytest.mark.parametrize("part", ["blobs", "snapshots", "refs"])
def test_a_repo_that_links_to_a_disk_which_is_not_there_is_named_and_not_hidden(part: str, tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    (repo / part).rename(tmp_path / "unmounted")
    (repo / part).symlink_to("/mnt/nowhere")
    (left,) = shown(tmp_path).unreadable
    assert left.path == str(repo)


@pytest.mark.parametrize("part", ["", "blobs", "snapshots", f"snapshots/{A}", "refs"])
def test_a_repo_that_may_not_be_read_is_named_and_not_taken_for_empty(part: str, tmp_path: Path) -> None:
    repo = make_repo(tmp_path, MODEL)
    make_repo(tmp_path, "models--koge--other")
    (repo / part).chmod(0)
    try:
        done = as_everybody(tmp_path)
    finally:
        (repo / part).chmod(0o755)
    assert done == f"['koge/other'] [('{repo}', 'it cannot be read: permission denied')]\n"


def test_what_may_not_be_looked_at_is_not_taken_for_missing(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    repo = make_repo(root, MODEL)
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "weights").write_bytes(b"x")
    add_link(repo, A, "outside", "", str(locked / "weights"))
    blob = add_file(repo, A, "model.bin", b"x" * 1000)
    prefix = caches.share(root, b"x" * 1000, repo / "blobs" / blob).parent
    for folder in (locked, prefix):
        folder.chmod(0)
    try:
        done = as_everybody(root)
    finally:
        for folder in (locked, prefix):
            folder.chmod(0o755)
    assert "missing" not in done and "to nothing" not in done


def as_everybody(root: Path) -> str:
    """Return what a process that file permissions bite sees: names, what is wrong, what cannot be read."""
    script = (
        "import sys\nfrom launcher.cache import listing, roots\n"
        "found = listing.listing(roots.Root(sys.argv[1], sys.argv[1], 'test', True))\n"
        "print([one.name for one in found.repos], *(one.problems for one in found.repos if one.problems),"
        " [(one.path, one.reason) for one in found.unreadable])"
    )
    command = (*caches.unprivileged(), sys.executable, "-c", script, str(root))
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("part", "depth"), [(f"snapshots/{A}", 1500), ("refs", 1500), (f"snapshots/{A}", 5000)])
def test_a_deep_nest_of_folders_is_read_or_named_and_breaks_nothing(part: str, depth: int, tmp_path: Path) -> None:
    make_repo(tmp_path, "models--koge--other")
    repo = make_repo(tmp_path, MODEL)
    descriptor = os.open(repo / part, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=descriptor)
            inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        found = shown(tmp_path)
    finally:
        os.close(descriptor)
        subprocess.run(("rm", "-rf", repo), check=True)  # no Python of ours can
    assert "koge/other" in [one.name for one in found.repos]
    named = [one.path for one in found.unreadable] if depth > 4096 else [one.path for one in found.repos]
    assert str(repo) in named


@pytest.mark.slow
def test_a_repo_that_vanishes_meanwhile_is_whole_or_not_there(tmp_path: Path) -> None:
    root, away = tmp_path / "hub", tmp_path / "away"
    away.mkdir()
    count = 100
    for number in range(count):
        make_repo(
            root, f"models--koge--{number}", {A: {"a": b"x" * 10, "s2/b": b"y" * 10}, B: {"a": b"z"}}, {"main": A}
        )
    whole = {(21, 3, ("main",), (f"{B[:7]}: no ref points to it",))}
    assert len(shown(root).repos) == count

    def remove() -> None:
        for number in range(count):
            (root / f"models--koge--{number}").rename(away / str(number))

    thread = threading.Thread(target=remove)
    thread.start()
    while found := shown(root).repos:
        assert {(one.size, one.files, one.refs, one.problems) for one in found} == whole
    thread.join()
    with pytest.raises(FileNotFoundError):
        read(root, "models--koge--0")
