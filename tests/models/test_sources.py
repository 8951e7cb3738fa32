"""Bytes that are on this machine are not downloaded again, and what is pinned can be carried to another one."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.cache.memory import Memory
from launcher.models import lockfile, sources
from launcher.models.lockfile import Lock, LockedFile
from launcher.models.placement import Memories
from tests.support.apps import AppFolder
from tests.support.pulled import FOLDER, MODEL, NEW, Pulled, clear_cache, pulled_app


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


def fetched(pulled: Pulled) -> list[str]:
    """Return which contents the hubs were asked for."""
    return [request.path for hub in (pulled.hub, pulled.mirror) for request in hub.requests if "/cdn/" in request.path]


def write(folder: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


@pytest.mark.slow
def test_what_is_in_a_cache_comes_into_a_folder_without_a_download(pulled: Pulled) -> None:
    pulled.lock_new()
    pulled.pulled()
    pulled.lock_new(local_dir=FOLDER)
    pulled.hub.forget()
    pulled.mirror.forget()
    done = pulled.pull()
    assert done.status == 0, done.err
    assert pulled.in_folder() == NEW
    assert not fetched(pulled)
    assert f"from {pulled.cache}, verified: " in done.err


@pytest.mark.slow
def test_what_is_in_a_folder_comes_into_the_cache_without_a_hub(pulled: Pulled) -> None:
    write(pulled.folder, dict(NEW))
    pulled.lock_new()
    pulled.set(HF_HUB_OFFLINE="1", HF_ENDPOINT_FALLBACK=f"./{FOLDER}")
    done = pulled.pull()
    assert done.status == 0, done.err
    assert pulled.loads() == dict(NEW)
    assert not pulled.hub.requests and not pulled.mirror.requests
    blob = (pulled.repo() / "snapshots" / pulled.new / "gpt.safetensors").resolve()
    # The app may write to its own file: that must not change the cache.
    assert blob.stat().st_nlink == 1


@pytest.mark.slow
def test_a_wrong_file_of_the_right_size_is_not_taken(pulled: Pulled) -> None:
    wrong = bytes((NEW["gpt.safetensors"][0] ^ 1,)) + NEW["gpt.safetensors"][1:]
    write(pulled.app.path / "usb", {**NEW, "gpt.safetensors": wrong})
    clear_cache(pulled)
    pulled.set(HF_ENDPOINT_FALLBACK="./usb")
    pulled.lock_new()
    assert pulled.pull().status == 0
    assert pulled.loads() == dict(NEW)
    assert len(fetched(pulled)) == 1


@pytest.mark.parametrize("mode", [0o444, 0o644])
@pytest.mark.parametrize("blob", [True, False])
def test_only_blobs_that_nobody_may_write_to_are_one_file(mode: int, blob: bool, tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"weights")
    (tmp_path / "from").chmod(mode)
    how = sources.bring(sources.Source(str(tmp_path / "from"), blob, ""), str(tmp_path / "a" / "to"), blob=True)
    assert (tmp_path / "a" / "to").read_bytes() == b"weights"
    assert ((tmp_path / "from").stat().st_nlink == 2) == (how == "hard link") == (blob and mode == 0o444)
    assert os.listdir(tmp_path / "a") == ["to"]


@pytest.mark.slow
def test_what_is_exported_is_pulled_where_there_is_no_network(pulled: Pulled, tmp_path: Path) -> None:
    write(pulled.folder, {"own.pth": b"own" * 999})
    assert pulled.run("models", "lock", "--freeze").status == 0
    usb = tmp_path / "my usb"
    assert "would write" in pulled.run("models", "export", "-n", str(usb)).out
    assert not usb.exists()
    done = pulled.run("models", "export", str(usb))
    assert done.status == 0, done.err
    assert (usb / "files" / FOLDER / "own.pth").read_bytes() == b"own" * 999
    assert (usb / "models.lock").read_bytes() == (pulled.app.path / "models.lock").read_bytes()
    assert not [path for path in usb.rglob("*") if path.is_symlink()]
    assert (
        f"{len([p for p in usb.rglob('*') if p.is_file()]) - 1} files there already"
        in pulled.run("models", "export", str(usb)).out
    )
    clear_cache(pulled)
    (pulled.folder / "own.pth").unlink()
    pulled.set(HF_HUB_OFFLINE="1", HF_ENDPOINT_FALLBACK=str(usb))
    assert pulled.run("--locked", "--", "--exit", "0").status == 65
    done = pulled.pull()
    assert done.status == 0, done.err
    assert (pulled.folder / "own.pth").read_bytes() == b"own" * 999
    assert pulled.run("--locked", "--", "--exit", "0").status == 0


@pytest.mark.slow
def test_a_renamed_file_comes_back_from_its_repo_and_what_was_there_is_kept(pulled: Pulled) -> None:
    data = NEW["gpt.safetensors"]
    path, digest = f"{FOLDER}/renamed.safetensors", pulled.locked(pulled.new).files["gpt.safetensors"].hash
    origin = f"{MODEL}@{pulled.new}/gpt.safetensors"
    lockfile.write(pulled.app.path, Lock((), {path: LockedFile(len(data), digest, origin)}, frozen=True))
    write(pulled.app.path, {path: b"mine"})
    done = pulled.pull()
    assert done.status == 0, done.err
    assert (pulled.app.path / path).read_bytes() == data
    assert [p.read_bytes() for p in pulled.folder.glob("renamed.safetensors.before-*")] == [b"mine"]


@pytest.mark.slow
def test_a_damaged_file_that_no_hub_makes_right_is_refused_before_the_stop(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old))
    blob = (pulled.repo() / "snapshots" / pulled.old / "gpt.safetensors").resolve()
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    pulled.set(HF_ENDPOINT="http://127.0.0.1:9", HF_OFFICIAL_ENDPOINT="http://127.0.0.1:9")
    done = pulled.run("--locked", "--", "--exit", "0")
    assert done.status == 65, done.err
    assert f"not what models.lock pins: {MODEL}: gpt.safetensors" in done.err
    assert os.path.exists(blob)


def test_a_folder_with_thousands_of_files_of_one_size_is_read_once(tmp_path: Path) -> None:
    """Each file was compared with each wanted hash, and the whole memory was read for each: that took hours."""
    number = 1500
    write(tmp_path, {f"{n}.json": f"{n:08}".encode() for n in range(number)})
    blobs = {n: f"blob 8\0{n:08}".encode() for n in range(number)}
    wanted = [LockedFile(8, hashlib.sha1(blob).hexdigest()) for blob in blobs.values()]
    memories = Memories(Memory(), Memory())
    began = time.process_time()
    found = sources.Sources((), (), (str(tmp_path),), memories).find(wanted)
    assert len(found) == number
    assert time.process_time() - began < 10
