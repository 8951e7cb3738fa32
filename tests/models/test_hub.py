"""The loopback hub is true: huggingface_hub itself cannot tell it from the real one, and each fault is what it says."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.apps import Processes, eventually
from tests.support.hub import Hub
from tests.support.hub_cache import (
    Library,
    LibraryError,
    download,
    download_many,
    hf,
    loads_offline,
    scan,
    start_download,
)

VERSION = tuple(int(number) for number in re.findall(r"\d+", version("huggingface_hub"))[:2])
WEIGHTS = os.urandom(300_000)
FILES = {"config.json": b'{"layers": 2}', "sub/tokens with space.txt": b"a b c\n", "model.safetensors": WEIGHTS}


def has_xet() -> bool:
    try:
        return bool(version("hf-xet"))
    except PackageNotFoundError:
        return False


shared = pytest.mark.skipif(VERSION < (1, 32) or not has_xet(), reason="no shared blob store in this huggingface_hub")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    folder = tmp_path / "processes"
    folder.mkdir()
    processes = Processes(folder)
    yield processes
    processes.close()


class Client:
    """Ask a hub with nothing in between."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
        self.path = parts.path

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        self.connection.request(method, self.path, headers=headers)
        response = self.connection.getresponse()
        return response, response.read()


def resolve(hub: Hub, repo: str, path: str, revision: str = "main") -> str:
    return f"{hub.endpoint}/{repo}/resolve/{revision}/{path}"


@pytest.mark.slow
def test_a_snapshot_by_branch_tag_and_commit_is_whole_and_its_blobs_bear_their_hashes(hub: Hub, tmp_path: Path) -> None:
    old = hub.commit("a/b", {"config.json": b"{}"})
    new = hub.commit("a/b", FILES)
    other = hub.commit("a/b", {"config.json": b"[]"}, branch="refs/pr/1")
    hub.commit("a/b", {"data.csv": b"1,2\n"}, repo_type="dataset")
    hub.tag("a/b", "v1", old)
    wanted = [
        ("a/b", "main", "model"),
        ("a/b", "v1", "model"),
        ("a/b", other, "model"),
        ("a/b", "refs/pr/1", "model"),
        ("a/b", "main", "dataset"),
    ]
    paths = download_many(hub, tmp_path / "hub", wanted)
    assert [Path(path).name for path in paths[:4]] == [new, old, other, other]
    with Library() as library:
        assert library.load(tmp_path / "hub", "a/b") == FILES
        assert library.load(tmp_path / "hub", "a/b", old) == {"config.json": b"{}"}
        assert library.load(tmp_path / "hub", "a/b", "refs/pr/1") == {"config.json": b"[]"}
        assert library.load(tmp_path / "hub", "a/b", repo_type="dataset") == {"data.csv": b"1,2\n"}
        assert library.load(tmp_path / "hub", "a/missing") is None
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    git = {hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() for data in (b"{}", b"[]", *FILES.values())}
    assert {blob.name for blob in blobs.iterdir()} <= git | {hashlib.sha256(WEIGHTS).hexdigest()}
    assert (blobs / hashlib.sha256(WEIGHTS).hexdigest()).read_bytes() == WEIGHTS


def test_the_api_tells_what_was_committed(hub: Hub) -> None:
    old = hub.commit("a/b", {"config.json": b"{}"})
    sha = hub.commit("a/b", FILES)
    hub.tag("a/b", "v/1", old)
    with Library(hub) as library:
        info = library.api("model_info", "a/b", files_metadata=True)
        assert info["sha"] == sha
        assert {file["rfilename"]: file["size"] for file in info["siblings"]} == {
            path: len(data) for path, data in FILES.items()
        }
        assert library.api("model_info", "a/b", revision="v/1", expand=["sha"])["sha"] == old
        tree = {entry["path"]: entry for entry in library.api("list_repo_tree", "a/b", recursive=True, expand=True)}
        assert set(tree) == {"sub", *FILES}
        assert tree["model.safetensors"]["lfs"]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
        assert {entry["path"] for entry in library.api("list_repo_tree", "a/b")} == {
            "config.json",
            "model.safetensors",
            "sub",
        }
        assert [entry["path"] for entry in library.api("list_repo_tree", "a/b", "sub")] == ["sub/tokens with space.txt"]
        refs = library.api("list_repo_refs", "a/b")
        assert refs["branches"] == [{"name": "main", "ref": "refs/heads/main", "target_commit": sha}]
        assert refs["tags"] == [{"name": "v/1", "ref": "refs/tags/v/1", "target_commit": old}]
        assert [file["size"] for file in library.api("get_paths_info", "a/b", ["config.json", "none"])] == [13]
        metadata = library.api("get_hf_file_metadata", url=resolve(hub, "a/b", "model.safetensors"))
        assert (metadata["commit_hash"], metadata["size"]) == (sha, len(WEIGHTS))


def test_what_is_not_there_is_told_apart_by_its_code(hub: Hub, tmp_path: Path) -> None:
    sha = hub.commit("a/b", FILES)
    with Library(hub, env={"HF_TOKEN": hub.token}) as library:
        for arguments, error in {
            ("a/missing",): "RepositoryNotFoundError",
            ("a/b", "no-branch"): "RevisionNotFoundError",
        }.items():
            with pytest.raises(LibraryError) as raised:
                library.download(tmp_path, *arguments)
            assert raised.value.name == error
        with pytest.raises(LibraryError, match="EntryNotFound"):
            library.api("get_hf_file_metadata", url=resolve(hub, "a/b", "none.txt"))
    for path, status, code in (
        (resolve(hub, "a/missing", "x"), 401, "RepoNotFound"),
        (resolve(hub, "a/b", "x", "no-branch"), 404, "RevisionNotFound"),
        (resolve(hub, "a/b", "none.txt"), 404, "EntryNotFound"),
    ):
        with Client(path) as client:
            response, _ = client.ask("HEAD")
            assert (response.status, response.getheader("X-Error-Code")) == (status, code)
            assert response.getheader("X-Repo-Commit") == (sha if code == "EntryNotFound" else None)


@pytest.mark.slow
def test_a_gated_repository_gives_its_files_to_the_token_only_and_no_token_leaves_for_another_origin(
    hub: Hub, tmp_path: Path
) -> None:
    hub.commit("a/b", FILES)
    hub.gate("a/b")
    with pytest.raises(LibraryError) as raised:
        download(hub, tmp_path, "a/b")
    assert raised.value.name == "GatedRepoError"
    hub.forget()
    download(hub, tmp_path, "a/b", env={"HF_TOKEN": hub.token})
    assert loads_offline(tmp_path, "a/b") == FILES
    assert {asked.authorization for asked in hub.requests} == {f"Bearer {hub.token}", None}
    assert {asked.authorization for asked in hub.requests if asked.path.startswith("/cdn/")} == {None}
    for authorization, status, code in (
        ({}, 401, "GatedRepo"),
        ({"Authorization": "Bearer wrong"}, 401, None),
        ({"Authorization": f"Bearer {hub.token}"}, 200, None),
    ):
        with Client(resolve(hub, "a/b", "config.json")) as client:
            response, _ = client.ask(**authorization)
            assert (response.status, response.getheader("X-Error-Code")) == (status, code)
    hub.gate("a/b", granted=False)
    with Client(resolve(hub, "a/b", "config.json")) as client:
        response, _ = client.ask(Authorization=f"Bearer {hub.token}")
        assert (response.status, response.getheader("X-Error-Code")) == (403, "GatedRepo")


def test_a_range_is_honoured_to_the_byte(hub: Hub) -> None:
    hub.commit("a/b", {"numbers.txt": b"0123456789"})
    for asked, status, body, told in (
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("lines=1-2", 200, b"0123456789", None),
    ):
        with Client(resolve(hub, "a/b", "numbers.txt")) as client:
            response, got = client.ask(Range=asked)
            assert (response.status, response.getheader("Content-Range")) == (status, told)
            assert got == body if body else True


def test_a_download_that_was_cut_is_resumed_by_a_range(hub: Hub, tmp_path: Path, processes: Processes) -> None:
    hub.commit("a/b", FILES)
    if VERSION >= (1, 18):
        hub.fault("/cdn/", "truncate", times=1)
    else:
        with hub.held("/cdn/", after=100_000) as hold:
            running = start_download(processes, hub, tmp_path / "hub", "a/b")
            assert hold.reached.wait(30)
            name = f"{hashlib.sha256(WEIGHTS).hexdigest()}.incomplete"
            partial = tmp_path / "hub" / "models--a--b" / "blobs" / name
            eventually(lambda: partial.exists() and partial.stat().st_size)
            running.process.kill()
            running.wait()
    download(hub, tmp_path / "hub", "a/b")
    assert loads_offline(tmp_path / "hub", "a/b") == FILES
    resumed = [asked for asked in hub.requests if asked.range]
    assert [asked.status for asked in resumed] == [206]


def test_a_held_download_stands_half_way_until_it_is_released(hub: Hub, tmp_path: Path, processes: Processes) -> None:
    hub.commit("a/b", FILES)
    with hub.held("model.safetensors", after=200_000) as hold:
        running = start_download(processes, hub, tmp_path / "hub", "a/b")
        assert hold.reached.wait(30)
        blobs = tmp_path / "hub" / "models--a--b" / "blobs"
        assert eventually(lambda: list(blobs.glob("*.incomplete")))
        assert running.process.poll() is None
        hold.release()
        assert running.wait() == 0, running.err
    assert loads_offline(tmp_path / "hub", "a/b") == FILES
    assert hub.count("/cdn/") == 1


def test_a_lagging_mirror_names_the_old_commit_in_its_api_and_the_new_one_in_its_files(hub: Hub) -> None:
    old = hub.commit("a/b", {"config.json": b"{}"})
    new = hub.commit("a/b", FILES)
    with hub.mirror() as mirror, Library(mirror) as library:
        mirror.freeze("a/b", api=old)
        assert library.api("model_info", "a/b")["sha"] == old
        assert library.api("get_hf_file_metadata", url=resolve(mirror, "a/b", "config.json"))["commit_hash"] == new
        mirror.freeze("a/b", "main", old)
        assert library.api("get_hf_file_metadata", url=resolve(mirror, "a/b", "config.json"))["commit_hash"] == old
        mirror.thaw()
        assert library.api("model_info", "a/b")["sha"] == hub.head("a/b") == new
        assert mirror.requests
        assert not hub.requests


def test_a_fault_of_a_status_is_answered_as_often_as_asked_for(hub: Hub) -> None:
    hub.commit("a/b", FILES)
    hub.fault("config.json", 429, times=1)
    hub.fault("config.json", 500, times=1)
    for status, wait in ((429, "1"), (500, None), (200, None)):
        with Client(resolve(hub, "a/b", "config.json")) as client:
            response, _ = client.ask()
            assert (response.status, response.getheader("Retry-After")) == (status, wait)
    assert [asked.status for asked in hub.requests] == [429, 500, 200]


def test_a_fault_can_be_of_one_method_and_be_cleared(hub: Hub) -> None:
    hub.commit("a/b", FILES)
    fault = hub.fault("config.json", 404, method="HEAD")
    with Client(resolve(hub, "a/b", "config.json")) as client:
        assert client.ask()[0].status == 200
        assert client.ask("HEAD")[0].status == 404
        fault.clear()
        assert client.ask("HEAD")[0].status == 200


def test_a_reset_is_an_error_and_no_end_of_file(hub: Hub) -> None:
    hub.commit("a/b", FILES)
    hub.fault("config.json", "reset")
    with Client(resolve(hub, "a/b", "config.json")) as client:
        assert client.ask("HEAD")[0].status == 200
        with pytest.raises(ConnectionResetError):
            client.ask()


def test_a_truncated_body_ends_before_its_length(hub: Hub) -> None:
    hub.commit("a/b", FILES)
    hub.fault("config.json", "truncate")
    with Client(resolve(hub, "a/b", "config.json")) as client, pytest.raises(http.client.IncompleteRead) as raised:
        client.ask()
    assert raised.value.partial == FILES["config.json"][:6]


def test_wrong_bytes_have_the_right_length(hub: Hub) -> None:
    hub.commit("a/b", FILES)
    hub.fault("config.json", "wrong-bytes")
    with Client(resolve(hub, "a/b", "config.json")) as client:
        _, body = client.ask()
    assert len(body) == len(FILES["config.json"])
    assert body != FILES["config.json"]


def test_a_page_comes_instead_of_json(hub: Hub) -> None:
    hub.commit("a/b", FILES)
    hub.fault("/api/", "html")
    with Client(f"{hub.endpoint}/api/models/a/b") as client:
        response, body = client.ask()
    assert response.status == 200
    assert body.startswith(b"<!DOCTYPE html>")


def test_a_body_without_a_length_ends_with_the_connection(hub: Hub) -> None:
    hub.commit("a/b", FILES)
    hub.fault("config.json", "no-length")
    with Client(resolve(hub, "a/b", "config.json")) as client:
        response, body = client.ask()
        assert response.getheader("Content-Length") is None
        assert body == FILES["config.json"]


@pytest.mark.parametrize("hang", [True, False])
def test_closing_releases_whoever_hangs_or_is_held(hang: bool) -> None:
    with Hub() as hub:
        hub.commit("a/b", FILES)
        with Client(resolve(hub, "a/b", "config.json")) as client, hub.held("config.json", 3) as hold:
            if hang:
                hub.fault("config.json", "hang")
            client.connection.request("GET", client.path)
            eventually((lambda: bool(hub.requests)) if hang else hold.reached.is_set)
            started = time.monotonic()
            hub.close()
            with suppress(http.client.HTTPException, ConnectionError):
                client.connection.getresponse().read()
            assert time.monotonic() - started < 1
        with Client(hub.endpoint) as client, pytest.raises(ConnectionRefusedError):
            client.ask()


def test_without_symlinks_a_snapshot_holds_plain_files(hub: Hub, tmp_path: Path) -> None:
    hub.commit("a/b", FILES)
    snapshot = Path(download(hub, tmp_path / "hub", "a/b", symlinks=False))
    assert not [path for path in snapshot.rglob("*") if path.is_symlink()]
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS
    assert not any((tmp_path / "hub" / "models--a--b" / "blobs").iterdir())


def test_scans_tell_the_sizes_and_what_is_broken(hub: Hub, tmp_path: Path) -> None:
    sha = hub.commit("a/b", FILES)
    cache = tmp_path / "hub"
    with Library(hub) as library:
        library.download(cache, "a/b")
        found = library.scan(cache)
        assert found["size_on_disk"] == sum(len(data) for data in FILES.values())
        assert found["repos"][0]["repo_id"] == "a/b"
        assert [(one["commit_hash"], one["refs"]) for one in found["repos"][0]["revisions"]] == [(sha, ["main"])]
        assert not found["warnings"]
        (cache / "models--a--b" / "blobs" / hashlib.sha256(WEIGHTS).hexdigest()).unlink()
        assert [len(library.scan(cache)[part]) for part in ("repos", "warnings")] == [0, 1]
        subprocess.run(("rm", "-r", cache / "models--a--b"), check=True)
        library.download(cache, "a/b")
        assert library.load(cache, "a/b") == FILES
        assert (cache / "models--a--b" / "trees").exists() == (VERSION >= (1, 22))


def test_the_libraries_own_command_lists_the_cache(hub: Hub, tmp_path: Path) -> None:
    hub.commit("a/b", FILES)
    download(hub, tmp_path / "hub", "a/b")
    command = "cache ls" if VERSION >= (1, 0) else "cache scan" if VERSION >= (0, 34) else "scan-cache"
    status, out, err = hf(tmp_path / "hub", *command.split())
    assert status == 0, err
    assert "a/b" in out


@shared
def test_the_real_xet_client_downloads_a_file_of_many_xorbs(tmp_path: Path) -> None:
    weights = os.urandom(1 << 20) * 40 + b"the end"
    with Hub(xet=True) as hub:
        hub.commit("a/b", {"model.safetensors": weights})
        path = download(hub, tmp_path / "hub", "a/b")
        assert (Path(path) / "model.safetensors").read_bytes() == weights
        assert hub.count("/v1/reconstructions/")
        assert hub.count("/xorbs/")
        assert not hub.count("/cdn/")


@pytest.mark.slow
@shared
def test_two_repositories_with_the_same_file_share_one_blob(tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    with Hub(xet=True) as hub:
        hub.commit("a/one", FILES)
        hub.commit("a/two", {"copy.safetensors": WEIGHTS})
        download_many(hub, cache, [("a/one", "main", "model")])
        hub.forget()
        download_many(hub, cache, [("a/two", "main", "model")])
        assert not hub.count("/xorbs/")
    name = hashlib.sha256(WEIGHTS).hexdigest()
    stored = {(cache / f"models--a--{repo}" / "blobs" / name).resolve() for repo in ("one", "two")}
    assert len(stored) == 1
    references = stored.pop().with_suffix(".refs").read_text().splitlines()
    assert references == [f"models--a--{repo}/blobs/{name}" for repo in ("one", "two")]
    assert scan(cache)["size_on_disk"] == sum(len(data) for data in FILES.values())
