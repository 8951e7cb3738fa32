"""A cache moves to another disk: copied, compared, named in `.env`, then removed; at every instant one is whole."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cache import journal
from launcher.cache.copying import retargeted
from launcher.cache.journal import Journal
from launcher.config.env_write import Edit
from launcher.config.paths import MOVE
from launcher.errors import LauncherError
from tests.cache.test_killed import Driver
from tests.support.apps import AppFolder, Done, Processes, clean_environment, eventually, free_port, get
from tests.support.hub_cache import Library
from tests.support.removal import CODEC, PRIVATE, V22, V23, VOICES, Cached, everything

SHM = Path("/dev/shm")


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder on another file system than the one that tests use."""
    if not SHM.is_dir() or os.stat(SHM).st_dev == os.stat(tmp_path_factory.getbasetemp()).st_dev:
        pytest.skip("there is no second file system")
    folder = SHM / f"move-{os.getpid()}-{os.urandom(4).hex()}"
    folder.mkdir()
    yield folder  # type: ignore[misc]
    shutil.rmtree(folder, ignore_errors=True)


def move(cached: Cached, target: Path, *more: str, **keywords: object) -> Done:
    return cached.run("move", target, *more, **keywords)


def loads_all(cached: Cached, hub: Path) -> bool:
    """Return whether everything that loaded from the old cache loads from this one."""
    with Library() as library:
        return all(
            library.load(hub, repo, revision, repo_type=kind) == files
            for (repo, revision, kind), files in cached.written.loads.items()
        )


def times(hub: Path) -> dict[str, tuple[int, int]]:
    """Return mode and mtime of every file and folder in the repos of a cache."""
    found = {}
    for folder, _, names in os.walk(hub):
        for path in (folder, *(f"{folder}/{name}" for name in names)):
            status = os.lstat(path)
            inner = os.path.relpath(path, hub)
            if "--" in inner.partition("/")[0] and ".lock" not in path:
                found[inner] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    return found


def test_a_cache_moves_to_another_disk_and_the_token_stays(cached: Cached, disk: Path) -> None:
    env = cached.app.path / ".env"
    env.write_bytes(b"# mine\r\nHF_HOME=./hf\r\nAPP_ARGS='--fp16'  # fast")
    env.chmod(0o640)
    before = times(cached.hub)
    models = cached.app.path / "checkpoints"
    models.mkdir()
    weights = cached.repo(V23) / "snapshots" / cached.new(V23) / "gpt.safetensors"
    (models / "gpt.pth").symlink_to(weights)
    (models / "bpe.bin").symlink_to(os.path.relpath(weights.with_name("bpe.model.bin"), models))
    target = disk / "a new place" / "hub"
    done = move(cached, target)
    assert done.status == 0, done.err
    assert env.read_bytes() == (
        b"# mine\r\nHF_HOME=./hf\r\nAPP_ARGS='--fp16'  # fast\r\nHF_HUB_CACHE='%s'\r\n" % os.fsencode(target)
    )
    assert stat.S_IMODE(env.stat().st_mode) == 0o640
    assert loads_all(cached, target)
    assert times(target) == before
    assert {path: (cached.home / path).read_bytes() for path in PRIVATE} == dict(PRIVATE)
    assert not list(cached.hub.glob("*--*/refs"))
    assert not [name for name in os.listdir(target) if name.startswith(MOVE)]
    assert (models / "gpt.pth").read_bytes() == (models / "bpe.bin").parent.joinpath("gpt.pth").read_bytes()
    assert str(target) in str((models / "bpe.bin").resolve())
    assert f"cache: {target}" in cached.run("list").out
    again = move(cached, target)
    assert again.status == 0
    assert "already" in again.err


def test_on_the_same_disk_nothing_is_copied(cached: Cached, tmp_path: Path) -> None:
    blob = next(path for path in (cached.repo(V22) / "blobs").iterdir() if not path.is_symlink())
    inode = blob.stat().st_ino
    target = tmp_path / "new" / "hub"
    shown = json.loads(move(cached, target, "--dry-run", "--json").out)
    assert shown["same_disk"] is True
    assert not target.exists()
    done = move(cached, target, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["left"] == []
    assert (target / cached.repo(V22).name / "blobs" / blob.name).stat().st_ino == inode
    assert loads_all(cached, target)


def test_absolute_links_lead_to_the_new_cache(cached: Cached, tmp_path: Path, disk: Path) -> None:
    snapshot = cached.repo(V22) / "snapshots" / cached.new(V22)
    for link in [path for path in snapshot.rglob("*") if path.is_symlink()]:  # as huggingface_hub 0.13 wrote them
        absolute = os.path.normpath(link.parent / os.readlink(link))
        link.unlink()
        link.symlink_to(absolute)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(cached.repo(CODEC), elsewhere)
    cached.repo(CODEC).symlink_to(os.path.relpath(elsewhere, cached.hub))
    blobs = cached.repo(VOICES) / "blobs"
    first = next(path for path in blobs.iterdir() if not path.is_symlink())
    os.link(first, blobs / ("a" * 64))
    done = move(cached, disk / "hub")
    assert done.status == 0, done.err
    shutil.rmtree(cached.hub)
    target = disk / "hub"
    assert all(str(path.resolve()).startswith(str(target)) for path in (target / cached.repo(V22).name).rglob("*"))
    copied = target / cached.repo(VOICES).name / "blobs"
    assert (copied / first.name).stat().st_ino == (copied / ("a" * 64)).stat().st_ino
    with Library() as library:
        for repo in (V22, VOICES):
            kind = "dataset" if repo == VOICES else "model"
            assert library.load(target, repo, "main", repo_type=kind) == cached.written.loads[repo, "main", kind]


def test_a_cache_of_the_apps_folder_keeps_its_home(cached: Cached, tmp_path: Path) -> None:
    (cached.app.path / ".env").unlink()
    home = cached.home.rename(cached.app.path / "cache_hub")
    (home / "token").write_text("hf_secret")
    done = move(cached, tmp_path / "new")
    assert done.status == 0, done.err
    assert cached.app.path.joinpath(".env").read_text() == f"HF_HOME={home}\nHF_HUB_CACHE={tmp_path / 'new'}\n"
    assert (home / "token").read_text() == "hf_secret"
    assert loads_all(cached, tmp_path / "new")


@pytest.mark.parametrize(
    ("kind", "status", "says"),
    [
        ("not empty", 2, "is not empty: it holds mine.txt"),
        ("inside", 2, "is inside the cache"),
        ("above", 2, "holds the cache"),
        ("file", 2, "is not a folder"),
        ("environment", 78, "HF_HUB_CACHE is set in the environment, which wins over .env"),
        ("open", 75, "is in use by pid"),
        ("shared", 2, "is shared with other programs"),
        ("transformers", 78, "names the cache too"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_moves(
    cached: Cached, tmp_path: Path, kind: str, status: int, says: str
) -> None:
    env = {}
    target = tmp_path / "new"
    reader = None
    if kind == "not empty":
        target.mkdir()
        (target / "mine.txt").write_text("x")
    elif kind == "inside":
        target = cached.hub / "deep" / "er"
    elif kind == "above":
        target = cached.home
    elif kind == "file":
        target.write_text("x")
    elif kind == "environment":
        env = {"HF_HUB_CACHE": str(cached.hub)}
    elif kind == "shared":
        (cached.app.path / ".env").unlink()
        env = {"HF_HOME": str(cached.home.rename(tmp_path / "hf"))}
    elif kind == "transformers":
        env = {"TRANSFORMERS_CACHE": str(cached.hub)}
    before = everything(tmp_path)
    try:
        if kind == "open":
            blob = next((cached.repo(V23) / "blobs").iterdir())
            reader = subprocess.Popen(
                (sys.executable, "-c", "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()", blob),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert reader.stdout
            reader.stdout.readline()
        done = move(cached, target, env=env)
    finally:
        if reader:
            reader.communicate()
    assert done.status == status, done.err
    assert says in done.err
    assert everything(tmp_path) == before


def test_a_users_own_file_in_an_unfinished_copy_stays(cached: Cached, tmp_path: Path) -> None:
    target = tmp_path / "new" / "hub"
    notes = target / f"models--{V22.replace('/', '--')}" / "own notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    names = [path.name for path in cached.hub.iterdir() if "--" in path.name]
    journal.write(str(target), Journal(str(cached.hub), str(cached.hub), dict.fromkeys(names, "")))
    done = move(cached, target)
    assert done.status == 75
    assert f"{notes} appeared while the cache was copied" in done.err
    assert notes.read_text() == "mine"
    notes.rename(tmp_path / "notes.txt")
    done = move(cached, target)
    assert done.status == 0, done.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_disk_that_is_too_small_is_refused_with_both_sizes(cached: Cached, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(("mount", "-t", "tmpfs", "-o", "size=64k", "none", small), capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        done = move(cached, small / "hub")
        assert done.status == 74
        assert "are to be copied, and" in done.err
        assert "has room for 65.5 kB" in done.err
        assert not os.listdir(small)
        assert cached.loading() == cached.all_but()
    finally:
        subprocess.run(("umount", small), check=True)


@pytest.mark.slow
def test_nothing_starts_with_a_cache_that_has_moved_meanwhile(
    cached: Cached, tmp_path: Path, processes: Processes
) -> None:
    fifo, begun = tmp_path / "fifo", tmp_path / "begun"
    os.mkfifo(fifo)
    other = AppFolder(cached.app.path, free_port())
    prestart = clean_environment(APP_PRESTART=f"touch {begun}; cat {fifo}")
    at_work = processes.launch(*other.arguments, env=prestart)
    eventually(begun.exists, 30, what=at_work.err)
    done = move(cached, tmp_path / "new" / "hub", *cached.app.arguments[2:])
    assert done.status == 75
    assert f"a launcher, pid {at_work.pid}, is at work on another port" in done.err
    waiting = processes.launch(*other.arguments)
    eventually(lambda: "waiting: " in waiting.err, 30, what=waiting.err)
    with (cached.app.path / ".env").open("a") as env:
        env.write("HF_HUB_CACHE=./elsewhere\n")  # as a move on another port does
    at_work.process.kill()
    os.close(os.open(fifo, os.O_RDWR))
    assert waiting.wait() == 75
    assert f"{cached.app.path}/.env has changed since this command read it" in waiting.err


@pytest.mark.slow
def test_an_old_cache_stays_while_an_instance_with_the_old_settings_runs(
    cached: Cached, tmp_path: Path, processes: Processes
) -> None:
    target = tmp_path / "new" / "hub"
    # As after a kill between the change of `.env` and the removal of the old cache.
    shutil.copytree(cached.hub, target, symlinks=True)
    (cached.app.path / ".env").write_text(f"HF_HOME=./hf\nHF_HUB_CACHE={target}\n")
    journal.write(str(target), Journal(str(cached.hub), str(cached.hub), dict.fromkeys(os.listdir(target), "print")))
    running = processes.launch(*cached.app.arguments, env=clean_environment(HF_HUB_CACHE=str(cached.hub)))
    eventually(lambda: get(cached.app.port), 30, what=running.err)
    done = move(cached, target, *cached.app.arguments[2:])
    assert done.status == 75
    assert f"pid {running.pid} of the app still uses {cached.hub}" in done.err
    assert list(cached.hub.glob("*--*/refs"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("where", ["another disk", "same disk"])
def test_killed_at_any_instant_one_cache_is_whole_and_named(
    where: str, cached: Cached, library: Library, tmp_path: Path, disk: Path
) -> None:
    target = (disk if where == "another disk" else tmp_path) / "new" / "hub"
    argv = ["cache", "move", str(target), "--app-dir", str(cached.app.path)]
    template = tmp_path / "template"
    shutil.move(cached.home, template)
    env = cached.app.path / ".env"

    def restore() -> None:
        for folder in (cached.home, target):
            shutil.rmtree(folder, ignore_errors=True)
        env.write_text("HF_HOME=./hf\n")
        shutil.copytree(template, cached.home, symlinks=True)

    def used() -> Path:
        return target if "HF_HUB_CACHE" in env.read_text() else cached.hub

    def lost(hub: Path) -> list[str]:
        return [
            f"{repo}@{revision}"
            for (repo, revision, kind), files in cached.written.loads.items()
            if library.load(hub, repo, revision, repo_type=kind) != files
        ]

    with Driver(cached, tmp_path / "log") as driver:
        restore()
        whole = driver.run(argv)
        restore()
        whole = driver.run(argv)
        assert whole and whole[0] == 0, (tmp_path / "log").read_text()
        rng = random.Random(f"moved {where}")
        instants: list[dict[str, float]] = [{"step": step} for step in rng.sample(range(whole[1]), min(whole[1], 30))]
        instants += [{"seconds": rng.uniform(0, whole[2] * 1.05)} for _ in range(12)]
        wrong: list[str] = []
        killed = 0
        for instant in instants:
            restore()
            killed += driver.run(argv, **instant) is None  # type: ignore[arg-type]
            wrong += [f"{instant}: {used()}: {one} is not whole" for one in lost(used())]
            again = driver.run(argv)
            log = (tmp_path / "log").read_text()
            left = [name for name in os.listdir(target) if name.startswith(".start_app")]
            old = list(cached.hub.glob("*--*/refs"))
            if again is None or again[0] or used() != target or lost(target) or left or old:
                wrong.append(f"{instant}: again: {again}, {used()}, {lost(target)}, {left}, {old}: {log}")
        assert not wrong, f"{len(wrong)} of {len(instants)}:\n" + "\n".join(wrong[:6])
        assert killed >= len(instants) // 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"A='/x y'\n"),
        (b"B=1", b"B=1\nA='/x y'\n"),
        (b"\xef\xbb\xbfexport A=1 # old\r\nB=2\r\n", b"\xef\xbb\xbfexport A='/x y'\r\nB=2\r\n"),
        (b"A=1\n\n# c\n  A=2\nB='a\nb'\n", b"A=1\n\n# c\n  A='/x y'\nB='a\nb'\n"),
        (b"A\nB=\xc3\xa4\n", b"A='/x y'\nB=\xc3\xa4\n"),
    ],
)
def test_a_line_of_env_is_written_and_the_others_stay(tmp_path: Path, before: bytes, after: bytes) -> None:
    real = tmp_path / "real"
    real.write_bytes(before)
    env = tmp_path / ".env"
    env.symlink_to(real)
    Edit(env, {"A": "/x y"}).write()
    assert env.is_symlink()
    assert real.read_bytes() == after
    assert {path.name for path in tmp_path.iterdir()} == {"real", ".env"}


@pytest.mark.parametrize("value", ["/a$B", "/a\nb"])
def test_what_a_line_of_env_cannot_hold_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(LauncherError):
        Edit(tmp_path / ".env", {"A": value})


def test_a_link_leads_to_the_same_place_after_a_move(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    (root / "m" / "blobs").mkdir(parents=True)
    (tmp_path / "way").symlink_to(root)
    where = "m/snapshots/c/x"
    assert retargeted(str(root), where, "../../blobs/b") == "../../blobs/b"
    assert retargeted(str(root), where, f"{root}/m/blobs/b") == "../../blobs/b"
    assert retargeted(str(root), where, f"{tmp_path}/way/m/blobs/b") == "../../blobs/b"
    assert retargeted(str(root), "m", "../big/m") == f"{tmp_path}/big/m"
    assert retargeted(str(root), "m", "/big/m") == "/big/m"
