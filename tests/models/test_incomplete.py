"""A download that broke off is called incomplete, never up to date, and a pull completes it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.apps import AppFolder, Processes, eventually
from tests.support.hub_cache import Library, start_download
from tests.support.pulled import FOLDER, MODEL, NEW, OTHER, Pulled, pulled_app

STALE, RETRY = 80, 75


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


def _said(pulled: Pulled, *arguments: str) -> tuple[int, str, str]:
    """Return what a check says of the model: its status, the verdict, and the rest."""
    done = pulled.run("models", "check", "--json", *arguments)
    (one,) = [one for one in done.json["models"] if one["repo"] == MODEL]
    return done.status, one["verdict"], one["detail"] or ""


def _snapshot(pulled: Pulled, commit: str | None = None) -> Path:
    return pulled.repo() / "snapshots" / (commit or pulled.old)


def test_the_download_of_a_new_commit_that_was_killed_is_incomplete_until_a_pull_completes_it(
    pulled: Pulled, processes: Processes
) -> None:
    with pulled.mirror.held("gpt.safetensors", 1000) as hold:
        download = start_download(processes, pulled.mirror, pulled.cache, MODEL)
        assert hold.reached.wait(60)
        eventually((_snapshot(pulled, pulled.new) / "config.json").exists)
        os.kill(download.pid, signal.SIGKILL)
        download.wait()
    assert pulled.ref() == pulled.new
    status, verdict, detail = _said(pulled)
    assert (status, verdict) == (STALE, "incomplete locally")
    assert "gpt.safetensors" in detail
    done = pulled.pull()
    assert done.status == 0, done.err
    assert pulled.loads() == NEW
    assert _said(pulled)[:2] == (0, "up to date")


@pytest.mark.slow
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("lost", [("gpt.pth",), ("gpt.pth", "s2mel.pth"), ("config.json",)])
def test_a_blob_and_its_link_that_are_gone_are_missed_and_brought_again(
    lost: tuple[str, ...], listed: bool, pulled: Pulled
) -> None:
    whole = {"README.md": b"# a model\n", "config.json": b"{}", "gpt.pth": b"gpt" * 9_000, "s2mel.pth": b"mel" * 9_000}
    newest = pulled.hub.commit(MODEL, whole)
    shutil.rmtree(pulled.repo())
    with Library(pulled.hub) as library:
        library.download(pulled.cache, MODEL)
    if not listed:
        shutil.rmtree(pulled.repo() / "trees", ignore_errors=True)
    assert _said(pulled)[:2] == (0, "up to date")
    for path in lost:
        link = _snapshot(pulled, newest) / path
        link.resolve().unlink()
        link.unlink()
    status, verdict, detail = _said(pulled)
    assert (status, verdict) == (STALE, "incomplete locally")
    assert detail == f"{len(lost)} of 4 files missing: {', '.join(lost)}"
    done = pulled.pull()
    assert done.status == 0, done.err
    assert pulled.loads() == whole
    assert _said(pulled)[:2] == (0, "up to date")


@pytest.mark.slow
def test_of_a_repo_of_which_a_library_wanted_one_file_that_one_is_up_to_date(pulled: Pulled) -> None:
    shutil.rmtree(pulled.repo())
    with Library(pulled.hub) as library:
        library.ask("api", "hf_hub_download", (MODEL, "gpt.safetensors"), {"cache_dir": str(pulled.cache)})
    assert _said(pulled) == (0, "up to date", f"1 of {len(NEW)} files are here")
    pulled.pulled(MODEL)
    assert not pulled.mirror.count("/cdn/")


@pytest.mark.slow
def test_a_list_of_files_that_nobody_tells_leaves_it_unknown(pulled: Pulled) -> None:
    shutil.rmtree(pulled.repo() / "trees", ignore_errors=True)
    pulled.pulled(MODEL)
    shutil.rmtree(pulled.repo() / "trees", ignore_errors=True)
    for hub in (pulled.hub, pulled.mirror):
        hub.fault("/tree/", 500)
    assert _said(pulled, MODEL) == (RETRY, "unknown", "no hub tells which files it has")
    (pulled.repo() / "blobs" / f"{'0' * 64}.incomplete").write_bytes(b"part")
    status, verdict, detail = _said(pulled, MODEL)
    assert (status, verdict) == (STALE, "incomplete locally")
    assert "a download broke off" in detail
    pulled.set(HF_HUB_OFFLINE="1")
    assert _said(pulled, MODEL)[:2] == (STALE, "incomplete locally")


def test_a_commit_without_the_weights_that_the_one_before_has_is_incomplete(pulled: Pulled) -> None:
    with Library(pulled.hub) as library:
        library.ask("api", "hf_hub_download", (MODEL, "config.json"), {"cache_dir": str(pulled.cache)})
    assert pulled.ref() == pulled.new
    status, verdict, detail = _said(pulled)
    assert (status, verdict) == (STALE, "incomplete locally")
    assert "gpt.safetensors" in detail
    done = pulled.pull()
    assert done.status == 0, done.err
    loaded = pulled.loads()
    assert loaded and loaded.items() <= NEW.items() and "gpt.safetensors" in loaded
    # Without a list of the commit's files (huggingface_hub < 1.22 notes none), what an older copy had is pulled.
    assert loaded == NEW or not list(pulled.repo().glob("trees/*.json"))


def test_an_empty_snapshot_is_incomplete_and_is_filled(pulled: Pulled) -> None:
    for path in list(_snapshot(pulled).rglob("*")):
        if not path.is_dir():
            path.unlink()
    assert _said(pulled)[:2] == (STALE, "incomplete locally")
    done = pulled.pull()
    assert done.status == 0, done.err
    assert pulled.loads() == NEW
    assert pulled.loads(name=OTHER) is not None


def _pointer(path: Path, data: bytes, digest: str) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n")


def _zeros(path: Path, data: bytes, _: str) -> None:
    path.write_bytes(bytes(len(data)))
    path.with_name(f"{path.name}.aria2").write_bytes(b"\0\1")


@pytest.mark.parametrize(("make", "word"), [(_pointer, "Git LFS pointers"), (_zeros, "gpt.safetensors.aria2")])
def test_what_git_or_aria2_have_left_in_a_folder_is_no_model_until_a_pull(
    make: Callable[[Path, bytes, str], None], word: str, pulled: Pulled
) -> None:
    pulled.lock_new(local_dir=FOLDER)
    files = pulled.hub.repo(MODEL).commits[pulled.new].files
    for path, data in NEW.items():
        target = pulled.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path == "gpt.safetensors":
            make(target, data, files[path].etag)
        else:
            target.write_bytes(data)
    status, verdict, detail = _said(pulled)
    assert (status, verdict) == (STALE, "incomplete locally")
    assert word in detail
    done = pulled.pull()
    assert done.status == 0, done.err
    assert {**pulled.in_folder(), **NEW} == pulled.in_folder()
    assert not list(pulled.folder.glob("gpt.safetensors.aria2"))
    assert _said(pulled)[:2] == (0, "up to date")
    kept = {path for path in pulled.in_folder() if "before" in path}
    before = f"gpt.safetensors.before-{pulled.new[:7]}"
    assert kept == (set() if make is _pointer else {before, f"{before}.aria2"})


def test_files_that_were_copied_by_hand_are_read(pulled: Pulled) -> None:
    pulled.lock_new(local_dir=FOLDER)
    for path, data in NEW.items():
        (pulled.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (pulled.folder / path).write_bytes(data)
    assert _said(pulled)[:2] == (0, "up to date")
    pulled.pulled()
    assert not pulled.mirror.count("/cdn/")
    assert _said(pulled)[:2] == (0, "up to date")
