"""What `cache verify` says of caches that huggingface_hub itself wrote, and of what has happened to them since."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.apps import AppFolder
from tests.support.caches import (
    VERSION,
    A,
    add_blob,
    add_link,
    add_plain,
    flip,
    make_repo,
    share,
    unprivileged,
    verdicts,
    verify,
)
from tests.support.hub import Hub
from tests.support.hub_cache import download, download_many
from tests.support.hub_files import make_file
from tests.support.playground import tree

has_trees = pytest.mark.skipif(VERSION < (1, 22), reason="this huggingface_hub notes no trees/<commit>.json")
WEIGHTS = os.urandom(300_000)
CONFIG, TOKENS, VOICES = b'{"layers": 2}', b"a b c\n", b"1,2\n"
FILES = {"config.json": CONFIG, "sub/tokens.txt": TOKENS, "model.safetensors": WEIGHTS}
OLD = {"config.json": b"{}", "model.safetensors": WEIGHTS}
ALL = (*FILES.values(), b"{}", VOICES)
NAMES = {data: make_file("model.safetensors" if data is WEIGHTS else "x", data).etag for data in ALL}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache as huggingface_hub writes it: two revisions of one repo that share a blob, another repo, a dataset."""
    cache = tmp_path_factory.mktemp("written") / "hub"
    with Hub() as hub:
        old = hub.commit("koge/index-tts-v22", OLD)
        hub.commit("koge/index-tts-v22", FILES)
        hub.commit("koge/index-tts-v23", {"config.json": CONFIG})
        hub.commit("koge/voices", {"voices.csv": VOICES}, repo_type="dataset")
        wanted = [
            ("koge/index-tts-v22", old, "model"),
            ("koge/index-tts-v22", "main", "model"),
            ("koge/index-tts-v23", "main", "model"),
            ("koge/voices", "main", "dataset"),
        ]
        download_many(hub, cache, wanted)
    return cache


@pytest.fixture
def cache(app: AppFolder, written: Path) -> Path:
    return Path(shutil.copytree(written, app.path / "cache_hub", symlinks=True))


def blob(cache: Path, data: bytes, folder: str = "models--koge--index-tts-v22") -> Path:
    return cache / folder / "blobs" / NAMES[data]


@pytest.mark.slow
def test_what_huggingface_hub_wrote_is_whole(app: AppFolder, cache: Path) -> None:
    before = tree(cache)
    done = verify(app)
    size = sum(map(len, ALL)) + len(CONFIG)
    assert (done.status, done.err) == (0, "")
    assert done.out == f"verified: 6 files whole; {size / 1000:.1f} kB\n"
    found = verify(app, "--json").json
    assert {(file["repo"], file["path"].rpartition("/")[2], file["verdict"]) for file in found["files"]} == {
        ("koge/index-tts-v22", NAMES[WEIGHTS], "ok"),
        ("koge/index-tts-v22", NAMES[CONFIG], "ok"),
        ("koge/index-tts-v22", NAMES[TOKENS], "ok"),
        ("koge/index-tts-v22", NAMES[b"{}"], "ok"),
        ("koge/index-tts-v23", NAMES[CONFIG], "ok"),
        ("datasets/koge/voices", NAMES[VOICES], "ok"),
    }
    assert (found["whole"], found["damaged"], found["size_bytes"], found["exit_status"]) == (6, 0, size, 0)
    assert tree(cache) == before


def test_a_blob_of_two_revisions_is_hashed_once_and_both_are_named(app: AppFolder, cache: Path) -> None:
    (weights,) = [file for file in verify(app, "--json").json["files"] if file["path"].endswith(NAMES[WEIGHTS])]
    assert weights["revisions"] == sorted(
        path.name for path in (cache / "models--koge--index-tts-v22/snapshots").iterdir()
    )


@pytest.mark.parametrize(("data", "name"), [(WEIGHTS, "model.safetensors"), (TOKENS, "sub/tokens.txt")])
def test_a_flipped_bit_is_corrupt_by_sha256_and_by_git_sha1(
    data: bytes, name: str, app: AppFolder, cache: Path
) -> None:
    path = blob(cache, data)
    flip(path)
    real = make_file(name, path.read_bytes()).etag
    done = verify(app)
    assert done.status == 65
    assert done.out.startswith(
        f"corrupt: koge/index-tts-v22 {name}, {path}: its content has the hash {real}\nverified: 5 files whole; "
    )
    assert done.out.endswith("; 1 damaged\n")
    assert done.err.startswith("hint: ") and "cache verify --repair" in done.err
    done = verify(app, "--json")
    assert (done.status, done.json["exit_status"], done.json["damaged"]) == (65, 65, 1)
    assert {name for name, verdict in verdicts(done).items() if verdict != "ok"} == {NAMES[data]}


@pytest.mark.parametrize("size", [0, 100_000, len(WEIGHTS) + 1])
def test_another_size_than_the_hub_told_is_damage(size: int, app: AppFolder, cache: Path) -> None:
    os.truncate(blob(cache, WEIGHTS), size)
    done = verify(app, "--json")
    assert done.status == 65
    (found,) = [file for file in done.json["files"] if file["verdict"] != "ok"]
    if VERSION >= (1, 22):
        assert (found["verdict"], found["reason"]) == ("size differs", f"{size} bytes instead of {len(WEIGHTS)}")
    else:
        assert found["verdict"] == "corrupt"  # nothing offline tells what size it was
    assert found["size_bytes"] == size


def test_a_link_to_a_blob_that_is_gone_is_missing(app: AppFolder, cache: Path) -> None:
    blob(cache, TOKENS).unlink()
    done = verify(app)
    (link,) = cache.rglob("tokens*")
    expected = f"missing: koge/index-tts-v22 sub/tokens.txt, {link}: the blob it links to is missing\n"
    assert done.out.startswith(expected)
    assert done.status == 65
    assert verdicts(verify(app, "--json"))["tokens.txt"] == "missing"


def test_a_link_to_a_payload_that_is_gone_is_missing(app: AppFolder) -> None:
    root = app.path / "cache_hub"
    repo = make_repo(root, "models--a--b")
    share(root, b"payload", repo / "blobs" / add_blob(repo, b"payload")).unlink()
    add_link(repo, A, "model.safetensors", hashlib.sha256(b"payload").hexdigest())
    done = verify(app, "--json")
    assert (done.status, verdicts(done)["model.safetensors"]) == (65, "missing")


def test_what_has_no_hash_or_leads_out_of_the_cache_is_unverifiable_and_no_damage(
    app: AppFolder, cache: Path, tmp_path: Path
) -> None:
    repo = cache / "models--koge--index-tts-v23"
    (commit,) = (path.name for path in (repo / "snapshots").iterdir())
    add_link(repo, commit, "odd.txt", add_blob(repo, b"odd", "no-hash"))
    (tmp_path / "mine").write_text("mine")
    add_link(repo, commit, "mine.txt", "", str(tmp_path / "mine"))
    done = verify(app, "koge/index-tts-v23")
    assert done.status == 0
    assert done.out == (
        f"unverifiable: koge/index-tts-v23 odd.txt, {repo}/blobs/no-hash: its name is not a hash\n"
        f"unverifiable: koge/index-tts-v23 mine.txt, {repo}/snapshots/{commit}/mine.txt: "
        "it is a link that leads out of the cache\n"
        "verified: 1 file whole; 13 B; 2 unverifiable\n"
    )
    assert verdicts(verify(app, "--json"))["no-hash"] == "unverifiable"


@pytest.fixture
def plain(app: AppFolder) -> Path:
    """A snapshot as huggingface_hub writes it where there are no links."""
    with Hub() as hub:
        hub.commit("koge/index-tts-v22", FILES)
        return Path(download(hub, app.path / "cache_hub", "koge/index-tts-v22", symlinks=False))


def test_a_cache_without_links_is_verified_by_its_trees(app: AppFolder, plain: Path) -> None:
    done = verify(app, "--json")
    assert done.status == 0
    if VERSION >= (1, 22):
        assert verdicts(done) == {"config.json": "ok", "tokens.txt": "ok", "model.safetensors": "ok"}
    else:
        why = "its hash is not known offline: this cache has no links, and no list of its files"
        assert {(file["verdict"], file["reason"]) for file in done.json["files"]} == {("unverifiable", why)}
        assert (len(done.json["files"]), done.json["whole"]) == (3, 0)


@has_trees
def test_damage_in_a_cache_without_links_is_found(app: AppFolder, plain: Path) -> None:
    flip(plain / "sub" / "tokens.txt")
    os.truncate(plain / "model.safetensors", 7)
    done = verify(app, "--json")
    assert done.status == 65
    assert verdicts(done) == {"config.json": "ok", "tokens.txt": "corrupt", "model.safetensors": "size differs"}
    assert f"corrupt: koge/index-tts-v22 sub/tokens.txt, {plain}/sub/tokens.txt: " in verify(app).out


@has_trees
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"files": [1]}', b'{"files": {"config.json": {}}}', b"\xff" * 9])
def test_a_tree_that_says_nothing_makes_files_unverifiable(text: bytes, app: AppFolder, plain: Path) -> None:
    (plain.parent.parent / "trees" / f"{plain.name}.json").write_bytes(text)
    assert set(verdicts(verify(app, "--json")).values()) == {"unverifiable"}


@has_trees
@pytest.mark.parametrize("folder", ["snapshots", "blobs"])
def test_a_file_in_a_folder_that_is_called_as_a_part_of_the_cache_is_told_apart(folder: str, app: AppFolder) -> None:
    with Hub() as hub:
        hub.commit("a/b", {f"{folder}/x/model.safetensors": WEIGHTS})
        cache = app.path / "cache_hub"
        path = Path(download(hub, cache, "a/b", symlinks=False), folder, "x", "model.safetensors")
    os.truncate(path, 5)
    assert f"size differs: a/b {folder}/x/model.safetensors, {path}: 5 bytes instead of 300000\n" in verify(app).out


def test_a_cache_below_a_folder_called_snapshots_names_its_files_as_any_other(
    app: AppFolder, cache: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "snapshots" / "blobs" / "hub"
    shutil.copytree(cache, moved, symlinks=True)
    app.write_env(f"HF_HUB_CACHE={moved}\n")
    shutil.rmtree(cache)
    blob(moved, TOKENS).unlink()
    os.truncate(blob(moved, WEIGHTS), 5)
    out = verify(app).out
    (link,) = moved.rglob("tokens*")
    assert f"koge/index-tts-v22 model.safetensors, {blob(moved, WEIGHTS)}: " in out
    assert f"koge/index-tts-v22 sub/tokens.txt, {link}: " in out


def test_a_file_that_cannot_be_read_is_neither_whole_nor_damaged(app: AppFolder, cache: Path) -> None:
    blob(cache, TOKENS).chmod(0)
    python = (*unprivileged(), sys.executable)
    done = verify(app, "--json", python=python)
    assert (done.status, done.json["exit_status"]) == (74, 74)
    (found,) = [file for file in done.json["files"] if file["verdict"] != "ok"]
    assert (found["verdict"], found["reason"]) == ("unverifiable", "permission denied")
    flip(blob(cache, WEIGHTS))
    assert verify(app, python=python).status == 65


@pytest.mark.parametrize("part", ["", "blobs", "snapshots"])
def test_a_repo_that_cannot_be_looked_into_is_named_and_the_others_are_verified(
    part: str, app: AppFolder, cache: Path
) -> None:
    python = (*unprivileged(), sys.executable)
    (cache / "models--koge--index-tts-v22" / part).chmod(0)
    done = verify(app, python=python)
    (cache / "models--koge--index-tts-v22" / part).chmod(0o755)
    assert done.status == 74
    assert f"{cache}/models--koge--index-tts-v22" in done.out + done.err
    assert "verified: 2 files whole" in done.out
    flip(blob(cache, VOICES, "datasets--koge--voices"))
    (cache / "models--koge--index-tts-v22" / part).chmod(0)
    done = verify(app, python=python)
    (cache / "models--koge--index-tts-v22" / part).chmod(0o755)
    # Without a list of the commit's files, the name of the only blob of a repo proves nothing.
    status, verdict = (65, "corrupt") if VERSION >= (1, 22) else (74, "unverifiable")
    assert done.status == status
    assert f"{verdict}: datasets/koge/voices voices.csv, " in done.out


@pytest.mark.parametrize(
    ("pattern", "repos"),
    [
        ("koge/index-tts-v23", {"koge/index-tts-v23"}),
        ("models--koge--index-tts-v23", {"koge/index-tts-v23"}),
        ("koge/index-*", {"koge/index-tts-v22", "koge/index-tts-v23"}),
        ("datasets/koge/voices", {"datasets/koge/voices"}),
    ],
)
def test_only_the_repos_that_are_named_are_read(pattern: str, repos: set[str], app: AppFolder, cache: Path) -> None:
    flip(blob(cache, WEIGHTS))
    done = verify(app, pattern, "--json")
    assert {file["repo"] for file in done.json["files"]} == repos
    assert done.status == (65 if "koge/index-tts-v22" in repos else 0)


def test_a_repo_that_is_not_there_is_a_usage_error_that_names_the_nearest(app: AppFolder, cache: Path) -> None:
    flip(blob(cache, WEIGHTS))
    done = verify(app, "koge/index-tts-v24", "koge/index-tts-v22")
    assert (done.status, done.out) == (2, "")
    assert "koge/index-tts-v24 is not in the cache; the nearest: koge/index-tts-v2" in done.err


def test_every_cache_of_the_app_is_verified(app: AppFolder, cache: Path) -> None:
    make_repo(app.path / "checkpoints" / "hf_cache", "models--a--b", {A: {"x.bin": WEIGHTS}})
    flip(app.path / "checkpoints/hf_cache/models--a--b/blobs" / NAMES[WEIGHTS])
    done = verify(app, "--json")
    assert (done.status, done.json["whole"], done.json["damaged"]) == (65, 6, 1)


def test_no_cache_at_all_is_whole(app: AppFolder) -> None:
    app.write_env("HF_HOME=./none\n")
    done = verify(app)
    assert (done.status, done.out) == (0, "verified: 0 files whole; 0 B\n")


def test_a_payload_that_repos_share_is_read_once(app: AppFolder) -> None:
    root = app.path / "cache_hub"
    repos = [make_repo(root, f"models--a--{name}", {A: {"x.bin": WEIGHTS}}) for name in ("one", "two")]
    payload = share(root, WEIGHTS, *(repo / "blobs" / NAMES[WEIGHTS] for repo in repos))
    done = verify(app, "--json")
    assert (done.status, done.json["whole"], done.json["size_bytes"]) == (0, 1, len(WEIGHTS))
    flip(payload)
    assert verify(app).status == verify(app, "a/two").status == 65


def test_a_hostile_name_is_escaped_and_its_file_is_verified(app: AppFolder) -> None:
    root = app.path / "cache_hub"
    evil = os.fsdecode(b"models--a--\x1b[31mred\nverified: all is well\xff")
    repo = make_repo(root, evil, {A: {"\x1b]0;title\x07\n.bin": WEIGHTS}})
    flip(repo / "blobs" / NAMES[WEIGHTS])
    done = verify(app)
    assert done.status == 65
    assert not set(done.out + done.err) & {"\x1b", "\x07"}
    assert [line.partition(":")[0] for line in done.out.splitlines()] == ["corrupt", "verified"]
    (found,) = verify(app, "--json").json["files"]
    assert os.fsencode(found["path"]) == os.fsencode(str(repo / "blobs" / NAMES[WEIGHTS]))


def test_what_is_no_plain_file_is_left_alone(app: AppFolder, cache: Path) -> None:
    repo = cache / "models--koge--index-tts-v23"
    os.mkfifo(repo / "blobs" / ("f" * 64))
    (commit,) = (path.name for path in (repo / "snapshots").iterdir())
    add_link(repo, commit, "pipe.bin", "f" * 64)
    done = verify(app, "--json", timeout=20)
    assert (done.status, verdicts(done)["pipe.bin"]) == (0, "unverifiable")


def test_a_file_in_place_of_a_link_is_held_against_the_tree(app: AppFolder, cache: Path) -> None:
    repo = cache / "models--koge--index-tts-v23"
    (commit,) = (path.name for path in (repo / "snapshots").iterdir())
    link = repo / "snapshots" / commit / "config.json"
    link.unlink()
    add_plain(repo, commit, "config.json", b"edited by hand")
    done = verify(app, "koge/index-tts-v23", "--json")
    expected = "size differs" if VERSION >= (1, 22) else "unverifiable"
    assert verdicts(done)["config.json"] == expected
