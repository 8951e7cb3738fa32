"""What is missing of a commit is a gap where something speaks of it, and a choice of the app's where nothing does."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from launcher.cache.completeness import Copy, Files, copy_of, gaps, tree
from tests.support.apps import AppFolder, launcher
from tests.support.caches import (
    A,
    B,
    add_blob,
    add_file,
    add_link,
    add_list,
    add_plain,
    add_ref,
    flip,
    make_repo,
    verdicts,
    verify,
)
from tests.support.playground import tree as tree_of

BIG = 5_000


def listed(*paths: str) -> Files:
    return {path: (hashlib.sha256(path.encode()).hexdigest(), BIG) for path in paths}


def copy(*paths: str, **evidence: object) -> Copy:
    return Copy(A, dict.fromkeys(paths, BIG), **evidence)  # type: ignore[arg-type]


TRANSFORMERS = listed(
    ".gitattributes", "README.md", "config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin",
    "flax_model.msgpack", "tf_model.h5", "onnx/model.onnx",
)  # fmt: skip
DIFFUSERS = listed(
    ".gitattributes", "README.md", "model_index.json", "sd.safetensors", "unet/config.json",
    "unet/model.safetensors", "unet/model.fp16.safetensors", "vae/config.json", "vae/model.safetensors",
)  # fmt: skip
TTS = listed("config.yaml", "gpt.pth", "s2mel.pth", "bpe.model")
GGUF = listed("README.md", "x-Q4_K_M.gguf", "x-Q8_0.gguf", "x-F16.gguf")
PIECES = tuple(f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
SHARDS = listed("config.json", "model.safetensors.index.json", *PIECES)


@pytest.mark.parametrize(
    ("here", "files"),
    [
        (copy("config.json", "tokenizer.json", "model.safetensors"), TRANSFORMERS),
        (copy("config.json", "tokenizer.json"), TRANSFORMERS),
        (copy(".gitattributes", "README.md", "config.json", "tokenizer.json", "model.safetensors"), TRANSFORMERS),
        (copy("model_index.json", "unet/config.json", "unet/model.fp16.safetensors", listed=True), DIFFUSERS),
        (
            copy("README.md", "model_index.json", "unet/config.json", "unet/model.safetensors", "sd.safetensors"),
            DIFFUSERS,
        ),
        (copy("x-Q4_K_M.gguf", listed=True), GGUF),
        (copy("README.md", "x-Q4_K_M.gguf"), GGUF),
        (copy("gpt.pth"), TTS),
        (copy("config.json", partial=frozenset({"0" * 64})), TRANSFORMERS),
    ],
)
def test_what_a_library_never_asked_for_is_no_gap(here: Copy, files: Files) -> None:
    assert gaps(here, files) == ()


@pytest.mark.parametrize(
    ("here", "files", "missing"),
    [
        (copy(), TTS, sorted(TTS)),
        (copy(siblings=frozenset({"gpt.pth", "other"})), TTS, ["gpt.pth"]),
        (copy("config.yaml", dangling=frozenset({"gpt.pth"})), TTS, ["gpt.pth"]),
        (copy("gpt.pth", siblings=frozenset(TTS)), TTS, ["bpe.model", "config.yaml", "s2mel.pth"]),
        (copy("config.yaml", "bpe.model", "gpt.pth"), TTS, ["s2mel.pth"]),
        (copy("config.yaml", "bpe.model"), TTS, ["gpt.pth", "s2mel.pth"]),
        (copy("s2mel.pth", "gpt.pth", listed=True), TTS, ["bpe.model", "config.yaml"]),
        (copy("config.json", PIECES[1]), SHARDS, None),
        (copy("config.yaml", partial=frozenset({TTS["gpt.pth"][0]})), TTS, ["bpe.model", "gpt.pth", "s2mel.pth"]),
        (copy(*(TRANSFORMERS.keys() - {"model.safetensors", "pytorch_model.bin"})), TRANSFORMERS, None),
        (copy("config.json", siblings=frozenset({"config.json", "old.bin"})), TRANSFORMERS, None),
        (copy("bpe.model", siblings=frozenset({"x"}), replaces_whole=True), TTS, None),
        (copy(siblings=frozenset({"gpt.pth"}), replaces_whole=True), TTS, sorted(TTS)),
    ],
)  # fmt: skip
def test_what_something_speaks_of_is_a_gap(here: Copy, files: Files, missing: list[str] | None) -> None:
    found = gaps(here, files)
    if missing is not None:
        assert list(found) == missing
    assert found and not set(found) & set(here.files)


@pytest.mark.parametrize("form", ["data/{}.npz", "model-{:05}-of-20000.safetensors"])
def test_twenty_thousand_files_are_compared_at_once(form: str) -> None:
    """Each was compared with each: that took minutes."""
    paths = [form.format(number) for number in range(20_000)]
    files = {"README.md": ("0" * 40, 1), **dict.fromkeys(paths, ("0" * 64, BIG))}
    here = {"README.md": 1, **dict.fromkeys(paths[1::2], BIG)}
    began = time.process_time()
    assert len(gaps(Copy(A, here), files)) == len(paths) // 2
    assert time.process_time() - began < 10


def test_a_file_that_is_cut_short_is_a_gap() -> None:
    assert gaps(Copy(A, {**dict.fromkeys(TTS, BIG), "gpt.pth": 130}), TTS) == ("gpt.pth",)


@pytest.mark.parametrize(
    "here", [copy(*TTS), copy(*TTS, siblings=frozenset({"old.pth"}), partial=frozenset({"0" * 40}))]
)
def test_where_every_file_is_here_nothing_else_counts(here: Copy) -> None:
    assert gaps(here, TTS) == ()


def test_what_is_here_of_a_commit_is_read_from_the_disk(tmp_path: Path) -> None:
    repo = make_repo(tmp_path, "models--a--b", {A: {"config.json": b"{}"}, B: {"w.bin": b"12345"}})
    add_link(repo, A, "sub/lost.bin", "0" * 64)
    for name in ("1" * 64 + ".incomplete", "2" * 64 + ".0123abcd.incomplete", "3" * 64 + ".part", "4" * 64 + ".lock"):
        add_blob(repo, b"part", name)
    add_blob(repo, b"left", f"{hashlib.sha256(b'12345').hexdigest()}.incomplete")
    found = copy_of(str(repo), A)
    assert found == Copy(
        A,
        {"config.json": 2},
        frozenset({"sub/lost.bin"}),
        frozenset({"w.bin"}),
        frozenset({"1" * 64, "2" * 64, "3" * 64}),
        listed=False,
        replaces_whole=False,
    )
    add_plain(repo, B, "README.md", b"# it was whole")
    assert copy_of(str(repo), A).replaces_whole
    add_ref(repo, "fp16", B)
    assert not copy_of(str(repo), A).siblings, "a branch that is used beside it is not what it replaced"
    add_ref(repo, "fp16", A)
    add_ref(repo, "start_app", B)
    assert copy_of(str(repo), A).siblings


def test_verify_names_a_file_of_which_not_even_a_link_is_left(app: AppFolder) -> None:
    files = {"config.json": b"{}", "gpt.pth": b"1" * 900, "s2mel.pth": b"2" * 900}
    repo = make_repo(app.path / "cache_hub", "models--a--b", {A: files})
    add_list(repo, A, files)
    assert set(tree(str(repo / "trees" / f"{A}.json"))) == set(files)
    assert verify(app).status == 0
    link = repo / "snapshots" / A / "s2mel.pth"
    link.resolve().unlink()
    link.unlink()
    done = verify(app)
    assert done.status == 65
    assert f"missing: a/b s2mel.pth, {link}: the list of the files of {A[:7]} has it" in done.out


def _own(repo: Path, path: str, data: bytes) -> Path:
    """Add a file that a mirror announced by an ETag of its own."""
    name = hashlib.sha1(f"own {path}".encode()).hexdigest()
    add_blob(repo, data, name)
    add_link(repo, A, path, name)
    return repo / "blobs" / name


def test_an_etag_that_is_no_hash_is_told_from_damage_by_the_list_of_files(app: AppFolder) -> None:
    files = {"config.json": b"{}", "w.safetensors": b"1" * 900}
    repo = make_repo(app.path / "cache_hub", "models--a--b", {A: {}})
    blobs = [_own(repo, path, data) for path, data in files.items()]
    unknown = verify(app, "--json")
    assert (unknown.status, set(verdicts(unknown).values())) == (0, {"unverifiable"})
    assert {"no list of its commit's files is known" in file["reason"] for file in unknown.json["files"]} == {True}
    assert verify(app, "--repair").status == 0
    assert all(map(os.path.exists, blobs))
    add_list(repo, A, files)
    known = verify(app, "--json").json
    assert (known["whole"], known["damaged"]) == (2, 0)
    flip(blobs[1])
    damaged = verify(app)
    assert damaged.status == 65
    assert f"corrupt: a/b w.safetensors, {blobs[1]}" in damaged.out


def test_a_name_is_believed_where_another_file_of_the_repo_is_what_its_name_says(app: AppFolder) -> None:
    repo = make_repo(app.path / "cache_hub", "models--a--b", {A: {}})
    names = [hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() for data in (b"{}", b"a b c\n")]
    for path, data, name in zip(("config.json", "tokens.txt"), (b"{}", b"a b c\n"), names, strict=True):
        add_link(repo, A, path, add_blob(repo, data, name))
    flip(repo / "blobs" / names[1])
    assert verdicts(verify(app, "--json")) == {names[0]: "ok", names[1]: "corrupt"}
    flip(repo / "blobs" / names[0])
    assert set(verdicts(verify(app, "--json")).values()) == {"unverifiable"}


def test_a_list_that_contradicts_a_file_which_is_what_its_name_says_condemns_nothing(app: AppFolder) -> None:
    repo = make_repo(app.path / "cache_hub", "models--a--b", {A: {}})
    blob = add_file(repo, A, "w.safetensors", b"1" * 900)
    add_list(repo, A, {"w.safetensors": b"2" * 900})
    assert verdicts(verify(app, "--json")) == {blob: "unverifiable"}
    done = verify(app)
    assert done.status == 0
    assert "its hash matches its name" in done.out


@pytest.mark.parametrize("ending", [".incomplete", ".0a1b2c3d.incomplete", ".part", ".crdownload", ".aria2"])
def test_without_a_list_a_download_that_broke_off_fails_the_verification(ending: str, app: AppFolder) -> None:
    repo = make_repo(app.path / "cache_hub", "models--a--b", {A: {"config.json": b"{}"}})
    digest = hashlib.sha256(b"weights").hexdigest()
    (repo / "blobs" / f"{digest}{ending}").write_bytes(b"wei")
    done = verify(app)
    assert done.status == 65
    assert f"incomplete: a/b {A[:7]}, {repo}/snapshots/{A}: a download broke off: 1 file arrived in part\n" in done.out
    assert "; 1 revision incomplete\n" in done.out
    before = tree_of(repo)
    assert verify(app, "--repair").status == 65  # offline nothing can be told of it, and nothing is removed
    assert tree_of(repo) == before


def test_without_a_list_a_shard_that_others_count_is_missing(app: AppFolder) -> None:
    """Each shard's name says how many there are; a prune removes partial downloads, which say it otherwise."""
    shards = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    repo = make_repo(app.path / "cache_hub", "models--a--b", {A: {shards[0]: b"1", shards[2]: b"3"}})
    done = verify(app)
    assert (done.status, f"1 file missing: {shards[1]}" in done.out) == (65, True)
    add_file(repo, A, shards[1], b"2")
    assert verify(app).status == 0


def test_a_commit_that_nothing_loads_is_not_blamed_for_a_download_of_another(app: AppFolder) -> None:
    repo = make_repo(app.path / "cache_hub", "models--a--b", {A: {"config.json": b"{}"}, B: {"config.json": b"[]"}})
    (repo / "blobs" / f"{'c' * 64}.incomplete").touch()
    named = [file["path"].rpartition("/")[2] for file in verify(app, "--json").json["files"] if file["verdict"] != "ok"]
    assert named == [(repo / "refs" / "main").read_text()]


@pytest.mark.parametrize("part", ["snapshots", f"snapshots/{A}"])
def test_a_moved_snapshot_whose_links_lead_to_nothing_is_missing_and_its_blobs_stay(
    part: str, app: AppFolder, tmp_path: Path
) -> None:
    repo = make_repo(app.path / "cache_hub", "models--a--b", {A: {"config.json": b"{}", "w.bin": b"weights"}})
    (repo / part).rename(tmp_path / "moved")
    (repo / part).symlink_to(tmp_path / "moved")
    assert set(verdicts(verify(app, "--json")).values()) == {"ok", "missing"}
    assert launcher("cache", "prune", "--app-dir", app.path).status == 0
    assert len(list((repo / "blobs").iterdir())) == 2
