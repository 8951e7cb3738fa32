"""What another process reads, maps or downloads stays and is named, and a launch refuses before it stops anything."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.apps import WEBUI, AppFolder, Processes, Running, alive, eventually, get, launcher
from tests.support.hub import Hub
from tests.support.hub_cache import Library, download, start_download
from tests.support.removal import CODEC, V22, V23, VOICES, Cached, as_root, everything, needs_store, partial_of, trash

READER = """\
import mmap, os, sys, time
how, path = sys.argv[1:]
if how == "folder":
    handle = os.open(path, os.O_RDONLY)
else:
    file = open(path, "rb")
    if how == "maps":
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        file.close()
print("ready", flush=True)
time.sleep(600)
"""


def reading(processes: Processes, how: str, path: Path, prefix: tuple[str, ...] = ()) -> Running:
    """Start a process that holds a file."""
    running = processes.start((*prefix, sys.executable, "-c", READER, how, path))
    eventually(lambda: "ready" in running.out, what=running.err)
    return running


def file_of(cached: Cached, repo: str, name: str = "gpt.safetensors") -> Path:
    return cached.repo(repo) / "snapshots" / cached.new(repo) / name


COMMANDS = (("clear",), ("remove", V22), ("remove", f"{V22}@main"), ("prune", "--older-than", "0d"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["opens", "maps"])
@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_repo_that_is_read_stays_and_the_rest_goes(
    arguments: tuple[str, ...], how: str, cached: Cached, processes: Processes
) -> None:
    reader = reading(processes, how, file_of(cached, V22, "config.json"))
    before = everything(cached.repo(V22))
    done = cached.run(*arguments)
    assert done.status == 75, done.err
    told = f"skipped: {cached.repo(V22)}"
    assert any(
        line.startswith(told) and f"it is in use by pid {reader.pid}, {sys.executable} -c " in line
        for line in done.err.splitlines()
    ), done.err
    assert everything(cached.repo(V22)) == before
    rest = () if arguments[0] == "remove" else (V23, CODEC, VOICES)
    assert cached.loading() == cached.all_but(*rest)
    assert trash(cached.hub) == []
    forced = cached.run(*arguments, "--force")
    assert forced.status == 0, forced.err
    assert f"{V22}@main" not in cached.loading()
    assert alive(reader.pid)


def test_a_cache_that_stays_too_big_because_of_what_is_in_use_is_told(cached: Cached, processes: Processes) -> None:
    reader = reading(processes, "opens", file_of(cached, V22))
    done = cached.run("prune", "--max-size", "1B")
    assert cached.loading() == cached.all_but(V23, CODEC, VOICES)
    assert done.status == 75, done.err
    assert f"skipped: {cached.repo(V22)}" in done.err
    assert f"it is in use by pid {reader.pid}, " in done.err


def test_what_the_app_itself_uses_leaves_a_hint_that_removes_it(cached: Cached, processes: Processes) -> None:
    reading(processes, "opens", file_of(cached, V23))
    for words, flags in (("prune",), "--prune-cache"), (("remove", V23), f"--remove-model {V23}"):
        done = cached.run(*words)
        assert done.status == 75, done.err
        assert "nothing to remove" not in done.err
        assert f" {flags}; else try again when it has ended" in done.err.splitlines()[-1], done.err


def test_json_names_what_stays_because_it_is_in_use(cached: Cached, processes: Processes) -> None:
    reader = reading(processes, "maps", file_of(cached, V22, "config.json"))
    done = cached.run("clear", "--json")
    assert done.status == 75
    document = done.json
    assert document["exit_status"] == 75
    (left,) = document["left"]
    assert (left["path"], left["in_use"]) == (str(cached.repo(V22)), True)
    assert f"pid {reader.pid}," in left["reason"]


def test_a_dry_run_tells_what_will_stay(cached: Cached, processes: Processes) -> None:
    reading(processes, "opens", file_of(cached, V22))
    done = cached.run("clear", "-n")
    assert done.status == 75
    assert f"skipped: {cached.repo(V22)}" in done.out
    assert f"would remove {cached.repo(V22)}," not in done.out


def test_who_only_looks_into_a_folder_is_in_nobodys_way(cached: Cached, processes: Processes) -> None:
    """Another launcher at the same work does, and a shell, and whatever watches for changes."""
    reading(processes, "folder", cached.repo(V22) / "blobs")
    done = cached.run("clear")
    assert done.status == 0, done.err
    assert not any(cached.loads().values())


def test_a_repo_whose_name_only_begins_alike_is_not_in_use(cached: Cached, processes: Processes) -> None:
    other = cached.repo(V22).with_name(f"{cached.repo(V22).name}-vocoder")
    (other / "blobs").mkdir(parents=True)
    (other / "blobs" / "x").write_text("x")
    reading(processes, "opens", other / "blobs" / "x")
    assert cached.run("remove", V22).status == 0
    assert f"{V22}@main" not in cached.loading()


@pytest.mark.slow
@needs_store
@pytest.mark.parametrize("how", ["opens", "maps"])
def test_who_reads_a_payload_of_the_store_uses_every_repo_that_links_to_it(
    how: str, cached: Cached, processes: Processes
) -> None:
    payload = file_of(cached, V22, "codec.safetensors").resolve()
    assert payload.parent.parent == cached.hub / "blobs"
    reading(processes, how, payload)
    done = cached.run("clear", "--json")
    assert done.status == 75
    assert [left["path"] for left in done.json["left"] if left["in_use"]] == [
        str(cached.repo(CODEC)),
        str(cached.repo(V22)),
    ]
    assert cached.loading() == cached.all_but(V23, VOICES)
    assert cached.run("remove", CODEC).status == 75
    assert payload.exists()


def _namespaces(*flags: str) -> tuple[str, ...]:
    command = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    if subprocess.run((*command, "true"), capture_output=True).returncode:
        pytest.skip("namespaces cannot be made here")
    return (*command, "sh", "-ec", *flags)


@pytest.mark.slow
@as_root
@pytest.mark.parametrize("how", ["opens", "maps"])
def test_a_container_that_reads_the_cache_under_another_path_is_seen(
    how: str, cached: Cached, processes: Processes, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    prefix = _namespaces(f'mount --bind {cached.hub} {elsewhere}; exec "$@"', "sh")
    inside = elsewhere / file_of(cached, V22).relative_to(cached.hub)
    reader = reading(processes, how, inside, prefix)
    pid = psutil.Process(reader.pid).children(recursive=True)[-1].pid
    done = cached.run("clear")
    assert done.status == 75, done.err
    assert f"it is in use by pid {pid}, " in done.err
    assert f"{V22}@main" in cached.loading()
    assert f"{V23}@main" not in cached.loading()


@as_root
@pytest.mark.parametrize("how", ["opens", "maps"])
def test_a_container_with_another_cache_at_the_same_path_is_in_nobodys_way(
    how: str, cached: Cached, processes: Processes, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    subprocess.run(("cp", "-a", cached.hub, other), check=True)
    prefix = _namespaces(f'mount --bind {other} {cached.hub}; exec "$@"', "sh")
    reading(processes, how, file_of(cached, V22), prefix)
    done = cached.run("clear")
    assert done.status == 0, done.err
    assert not any(cached.loads().values())


NEW = "koge/index-tts-v24"
FILES = {"a.json": b"{}", "model.safetensors": bytes(range(256)) * 2000}


@contextmanager
def half_way(cached: Cached, processes: Processes, hub: Hub) -> Iterator[Running]:
    """Hold a download when half a file has arrived."""
    hub.commit(NEW, FILES)
    with hub.held("model.safetensors", 200_000) as hold:
        running = start_download(processes, hub, cached.hub, NEW)
        assert hold.reached.wait(30), running.err
        repo = cached.hub / f"models--{NEW.replace('/', '--')}"
        eventually(lambda: any(size(path) >= 65536 for path in (repo / "blobs").glob("*.incomplete")), what=running.err)
        yield running


def size(path: Path) -> int:
    """Return the size of a file, 0 once it has been renamed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("clear",), ("remove", NEW), ("prune",), ("prune", "--older-than", "0d")])
def test_what_is_being_downloaded_stays_and_arrives(
    arguments: tuple[str, ...], cached: Cached, processes: Processes
) -> None:
    with Hub() as hub:
        with half_way(cached, processes, hub) as running:
            done = cached.run(*arguments)
            if arguments == ("prune",):
                assert done.status in (0, 75), done.err
            else:
                assert done.status == 75, done.err
                assert f"it is being downloaded by pid {running.pid}, " in done.err
            assert running.process.poll() is None
        assert running.wait() == 0, running.err
    with Library() as library:
        assert library.load(cached.hub, NEW) == FILES
    if arguments[0] != "remove":
        assert f"{V23}@{cached.old(V23)}" not in cached.loading()


@pytest.mark.slow
def test_an_insisted_removal_under_a_download_leaves_nothing_broken(cached: Cached, processes: Processes) -> None:
    with Hub() as hub:
        with half_way(cached, processes, hub) as running:
            done = cached.run("remove", NEW, "--force")
            assert done.status == 0, done.err
        running.wait()
        with Library() as library:
            assert library.load(cached.hub, NEW) in (None, FILES, {"a.json": b"{}"}, {})
        download(hub, cached.hub, NEW)
    with Library() as library:
        assert library.load(cached.hub, NEW) == FILES


@pytest.mark.slow
@needs_store
def test_a_download_by_xet_stays_and_arrives(cached: Cached, processes: Processes) -> None:
    with Hub(xet=True) as hub:
        hub.commit(NEW, {"model.safetensors": bytes(range(256)) * 20000})
        with hub.held("xorb", 70_000) as hold:
            running = start_download(processes, hub, cached.hub, NEW)
            if not eventually(lambda: hold.reached.is_set() or running.process.poll() is not None):
                pytest.skip("the hub's Xet answers were not asked for")
            if not hold.reached.is_set():
                pytest.skip("nothing was fetched by Xet")
            done = cached.run("clear")
            assert done.status == 75, done.err
            assert "it is being downloaded" in done.err
        assert running.wait() == 0, running.err
    with Library() as library:
        assert library.load(cached.hub, NEW) == {"model.safetensors": bytes(range(256)) * 20000}


def test_a_download_that_was_killed_is_abandoned(cached: Cached, processes: Processes) -> None:
    with Hub() as hub, half_way(cached, processes, hub) as running:
        psutil.Process(running.pid).kill()
        running.process.wait(10)
        repo = cached.hub / f"models--{NEW.replace('/', '--')}"
        assert list((repo / "blobs").glob("*.incomplete"))
        done = cached.run("prune")
        assert done.status == 0, done.err
        assert not list((repo / "blobs").glob("*.incomplete"))


@pytest.mark.slow
def test_a_lock_that_is_held_makes_a_partial_download_one_in_progress(cached: Cached) -> None:
    partial = partial_of(cached, V22)
    lock = cached.hub / ".locks" / cached.repo(V22).name / f"{partial.name.partition('.')[0]}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = cached.run("prune")
        assert done.status == 75, done.err
        assert f"it is being downloaded by pid {os.getpid()}, " in done.err
        assert partial.exists()
        assert cached.run("clear").status == 75
        assert partial.exists() and f"{V22}@main" in cached.loading()
    assert cached.run("prune").status == 0
    assert not partial.exists()


def test_a_lock_that_is_held_without_a_partial_download_is_never_removed(cached: Cached) -> None:
    """Its download is just beginning."""
    lock = cached.hub / ".locks" / cached.repo(V22).name / f"{'b' * 64}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cached.run("prune").status in (0, 75)
        assert lock.exists()
    gone = cached.hub / ".locks" / "models--new--one" / f"{'b' * 64}.lock"
    gone.parent.mkdir()
    with gone.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for arguments in (("prune",), ("clear",)):
            assert cached.run(*arguments).status in (0, 75)
            assert gone.exists(), arguments


# An app that keeps its model mapped and answers only when it has it.
MAPPING = WEBUI.replace(
    "class Page",
    """\
import glob, mmap
kept = []
for path in glob.glob(os.environ["HF_HOME"] + "/hub/models--*/snapshots/*/*"):
    if os.path.isfile(path):
        kept.append(open(path, "rb"))
        kept.append(mmap.mmap(kept[-1].fileno(), 0, prot=mmap.PROT_READ))


class Page""",
    1,
)
FLAGS = (("--clear-cache",), ("--remove-model", V22), ("--prune-cache", "--older-than", "0d"))


def serving(app: AppFolder, processes: Processes) -> Running:
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what=running.err)
    return running


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("how", ["maps", "opens"])
def test_a_launch_refuses_while_a_stranger_reads_and_the_old_instance_serves_on(
    how: str, flags: tuple[str, ...], cached: Cached, processes: Processes
) -> None:
    cached.app.script.write_text(MAPPING)
    old = serving(cached.app, processes)
    reader = reading(processes, how, file_of(cached, V22))
    before = everything(cached.home)
    done = launcher(*cached.app.arguments, *flags, timeout=20)
    assert done.status == 75, done.err
    assert f"it is in use by pid {reader.pid}, " in done.err
    assert "nothing was stopped or removed" in done.err
    assert "--force" in done.err.splitlines()[-1]
    assert get(cached.app.port) == f"pid {old.pid}"
    assert everything(cached.home) == before
    dry = launcher(*cached.app.arguments, *flags, "-n", "--json")
    assert dry.status == dry.json["exit_status"] == 75


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS)
def test_what_the_old_instance_itself_has_mapped_is_in_nobodys_way(
    flags: tuple[str, ...], cached: Cached, processes: Processes
) -> None:
    cached.app.script.write_text(MAPPING)
    old = serving(cached.app, processes)
    assert cached.run("clear").status == 75
    new = processes.launch(*cached.app.arguments, *flags)
    eventually(lambda: get(cached.app.port) == f"pid {new.pid}", what=new.err)
    assert not alive(old.pid)
    assert f"{V22}@main" not in cached.loading()
    eventually(lambda: not trash(cached.hub))


@pytest.mark.slow
def test_a_launch_refuses_while_a_download_goes_on(cached: Cached, processes: Processes) -> None:
    old = serving(cached.app, processes)
    with Hub() as hub:
        with half_way(cached, processes, hub) as running:
            done = launcher(*cached.app.arguments, "--clear-cache")
            assert done.status == 75, done.err
            assert f"it is being downloaded by pid {running.pid}, " in done.err
            assert get(cached.app.port) == f"pid {old.pid}"
        assert running.wait() == 0, running.err
    assert cached.loading() == cached.all_but()


def test_an_insisted_launch_clears_what_is_in_use(cached: Cached, processes: Processes) -> None:
    reader = reading(processes, "maps", file_of(cached, V22))
    new = processes.launch(*cached.app.arguments, "--clear-cache", "--force")
    eventually(lambda: get(cached.app.port), what=new.err)
    assert not any(cached.loads().values())
    assert alive(reader.pid)


def test_the_cache_of_another_app_is_not_asked_about(cached: Cached, processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(("cp", "-a", cached.hub, tmp_path / "elsewhere"), check=True)
    other = file_of(cached, V22).relative_to(cached.home)
    reading(processes, "maps", tmp_path / "elsewhere" / other)
    done = cached.run("clear", "--json")
    assert done.status == 0, done.err
    assert [left["path"] for left in json.loads(done.out)["left"]] == [str(cached.repo(V22) / "notes.txt")]


@pytest.mark.slow
def test_the_list_counts_nothing_as_free_that_a_prune_would_leave(cached: Cached, processes: Processes) -> None:
    partial = partial_of(cached, V23)

    def promised() -> int:
        return int(json.loads(cached.run("list", "--json").out)["roots"][0]["reclaimable_bytes"])

    before = promised()
    assert before >= partial.stat().st_size
    reader = reading(processes, "opens", file_of(cached, V23, "config.json"))
    busy = promised()
    assert busy <= before - partial.stat().st_size
    assert json.loads(cached.run("prune", "--dry-run", "--json").out)["roots"][0]["size_bytes"] == busy
    reader.process.kill()
    reader.process.wait()
    assert promised() == before
    for ref in (cached.repo(V23) / "refs").iterdir():
        ref.write_text("f" * 40)  # as a download does that has just begun
    assert promised() == busy
