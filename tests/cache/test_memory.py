"""What was found whole is not read again until something has touched it; and a run leaves the cache as it found it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from launcher.cache.memory import Memory, line_of
from launcher.cache.verify import Candidate, Verification
from launcher.system import state
from tests.support.apps import AppFolder, Done, Processes, eventually
from tests.support.caches import A, B, flip, make_repo, settle, unprivileged, verdicts, verify

FILES = {"a.bin": os.urandom(50_000), "b.bin": b"2" * 1000, "sub/c.txt": b"3"}
NAMES = {data: hashlib.sha256(data).hexdigest() for data in FILES.values()}
FIRST, SECOND, THIRD = FILES.values()


@pytest.fixture
def cache(app: AppFolder) -> Path:
    """Two repos, four files."""
    root = app.path / "cache_hub"
    make_repo(root, "models--a--b", {A: FILES, B: {"a.bin": FIRST}})
    make_repo(root, "models--c--d", {A: {"b.bin": SECOND}})
    settle(root)
    return root


@pytest.fixture
def known(app: AppFolder, cache: Path) -> Path:
    """The memory of a first run, which found everything whole."""
    assert verify(app).status == 0
    return app.path / ".start_app" / "verified"


def blob(cache: Path, data: bytes, folder: str = "models--a--b") -> Path:
    return cache / folder / "blobs" / NAMES[data]


def again(done: Done) -> set[str]:
    """Return the names of the files that were read, and not remembered."""
    assert done.json["remembered"] == sum(file["remembered"] for file in done.json["files"])
    return {file["path"].rpartition("/")[2] for file in done.json["files"] if not file["remembered"]}


def sparse(path: Path, size: int) -> Path:
    """Make a file that takes its time to be read and no space on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, size)
    return path


def sparse_for_each_core(cache: Path, folder: str) -> None:
    """Keep every core busy for longer than any test lasts."""
    for number in range(os.cpu_count() or 1):
        sparse(cache / folder / "blobs" / hashlib.sha256(bytes((number,))).hexdigest(), 1 << 36)


def read_bytes(pid: int) -> int:
    """Return how much a process has read so far; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return int(lines[0].partition(": ")[2]) if lines else 0


def interrupted(processes: Processes, app: AppFolder) -> None:
    """Interrupt a run that reads something huge."""
    running = processes.launch("cache", "verify", "--app-dir", app.path)
    eventually(lambda: read_bytes(running.pid) > 100_000_000)
    running.process.send_signal(signal.SIGINT)
    assert running.wait(3) == 130
    assert (running.out, running.err) == ("", "interrupted\n")


def test_a_second_run_reads_nothing_and_says_so(app: AppFolder, known: Path) -> None:
    done = verify(app)
    size = sum(map(len, FILES.values())) + len(SECOND)
    assert (done.status, done.err) == (0, "")
    assert done.out == (f"verified: 4 files whole, 4 of them unchanged since the last read; {size / 1000:.1f} kB\n")
    assert again(verify(app, "--json")) == set()
    assert "ok: a/b a.bin, " in verify(app, "-v").out and " (remembered)\n" in verify(app, "-v").out


def test_what_is_remembered_lies_in_the_apps_own_folder_which_git_ignores(app: AppFolder, known: Path) -> None:
    assert known.is_file() and not known.is_symlink()
    assert known.with_name(".gitignore").read_text() == "*\n"
    assert [path.name for path in known.parent.iterdir() if path.name.startswith("verified")] == ["verified"]


def test_full_reads_everything_again(app: AppFolder, known: Path) -> None:
    assert again(verify(app, "--full", "--json")) == set(NAMES.values())
    assert again(verify(app, "--json")) == set()


def test_a_file_changed_in_place_is_read_again_although_size_and_mtime_are_as_before(
    app: AppFolder, cache: Path, known: Path
) -> None:
    before = blob(cache, FIRST).stat()
    flip(blob(cache, FIRST))
    os.utime(blob(cache, FIRST), ns=(before.st_atime_ns, before.st_mtime_ns))
    after = blob(cache, FIRST).stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    done = verify(app, "--json")
    assert (done.status, again(done), verdicts(done)[NAMES[FIRST]]) == (65, {NAMES[FIRST]}, "corrupt")


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_another_took_the_place_of_is_read_again(
    whole: bool, app: AppFolder, cache: Path, known: Path
) -> None:
    new = Path(shutil.copy2(blob(cache, FIRST), cache / "new"))
    if not whole:
        flip(new)
        shutil.copystat(blob(cache, FIRST), new)
    os.rename(new, blob(cache, FIRST))
    done = verify(app, "--json")
    assert again(done) == {NAMES[FIRST]}
    assert (done.status, verdicts(done)[NAMES[FIRST]]) == ((0, "ok") if whole else (65, "corrupt"))


def test_damage_is_never_remembered(app: AppFolder, cache: Path) -> None:
    flip(blob(cache, FIRST))
    settle(cache)
    for _ in range(2):
        done = verify(app, "--json")
        assert (done.status, verdicts(done)[NAMES[FIRST]]) == (65, "corrupt")
    assert again(done) == {NAMES[FIRST]}
    flip(blob(cache, FIRST))
    assert verify(app).status == 0


def test_what_a_full_run_finds_damaged_is_no_longer_remembered(app: AppFolder, cache: Path, known: Path) -> None:
    # As when the disk itself loses a bit: no time changes. The line is what a run would have left of the whole file.
    flip(blob(cache, FIRST))
    found = blob(cache, FIRST).stat()
    line = f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {NAMES[FIRST]}"
    known.write_text(known.read_text() + f"\n{line}")
    assert again(verify(app, "--json")) == set()
    assert verify(app, "--full").status == 65
    assert verify(app).status == 65


def test_a_file_that_was_written_just_now_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    candidate = Candidate("models--a--b", str(path), NAMES[FIRST], (A,), NAMES[FIRST])
    for young in (True, False):
        path.write_bytes(FIRST)
        if not young:
            settle(tmp_path)
        done = Verification(Memory())
        done.run([candidate])
        assert (done.whole, done.checked) == (1, [])
        assert bool(done.memory.data(everything=True)) is not young


def test_a_spoiled_line_of_the_memory_is_no_hash(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(FIRST)
    status, digest = path.stat(), hashlib.sha256(FIRST).hexdigest()
    line = line_of(status, digest)
    assert Memory(line).hash_of(status, digest) == digest
    for spoiled in (line[:-9] + b"\x81" + line[-8:], line[:-1] + b"g", b"\xff" * 90):
        assert Memory(spoiled).hash_of(status, digest) is None


def test_a_run_over_some_repos_forgets_nothing_of_the_others(app: AppFolder, known: Path) -> None:
    assert again(verify(app, "c/d", "--full", "--json")) == {NAMES[SECOND]}
    assert again(verify(app, "--json")) == set()


def test_what_is_gone_is_forgotten(app: AppFolder, cache: Path, known: Path) -> None:
    before = known.read_bytes().splitlines()
    shutil.rmtree(cache / "models--c--d")
    verify(app)
    assert len(before) == 4
    assert len(known.read_bytes().splitlines()) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        bytes(range(256)) * 50,
        b'{"version": 2, "files": {}}\n',
        b"1 2 3 4 5 " + b"f" * 64,
        b"\xff\n" * 9,
    ],
)
def test_a_memory_that_says_nothing_is_ignored(content: bytes, app: AppFolder, known: Path) -> None:
    known.write_bytes(content)
    done = verify(app, "--json")
    assert (done.status, done.json["remembered"], done.err) == (0, 0, "")
    assert verify(app, "--json").json["remembered"] == 4


@pytest.mark.parametrize("kind", ["directory", "fifo", "link to nothing", "unreadable"])
def test_what_lies_in_place_of_the_memory_stops_no_run(kind: str, app: AppFolder, known: Path) -> None:
    if kind == "unreadable":
        known.chmod(0)
    else:
        known.unlink()
    if kind == "directory":
        known.mkdir()
        (known / "mine").touch()
    elif kind == "fifo":
        os.mkfifo(known)
    elif kind == "link to nothing":
        known.symlink_to("nothing")
    done = verify(app, "--json", python=(*unprivileged(), sys.executable), timeout=20)
    assert (done.status, done.json["whole"], done.json["remembered"]) == (0, 4, 0)
    assert (known / "mine").exists() is (kind == "directory")
    assert not known.with_name("nothing").exists()
    assert [path.name for path in known.parent.iterdir() if path.name.startswith("verified.")] == []


def test_a_planted_link_is_neither_believed_nor_written_through(app: AppFolder, known: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    os.rename(known, target)
    known.symlink_to(target)
    before = (target.read_bytes(), target.stat().st_mtime_ns)
    assert again(verify(app, "--json")) == set(NAMES.values())
    assert (target.read_bytes(), target.stat().st_mtime_ns) == before
    assert known.is_file() and not known.is_symlink()


def test_a_memory_folder_of_another_user_is_not_believed(app: AppFolder, known: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can make another user's folder")
    os.chown(known.parent, 65534, 65534)
    assert again(verify(app, "--json")) == set(NAMES.values())


@pytest.mark.parametrize("before", [False, True])
def test_in_a_folder_that_cannot_be_written_the_memory_lies_elsewhere(
    before: bool, app: AppFolder, cache: Path
) -> None:
    python = (*unprivileged(), sys.executable)
    if before:
        flip(blob(cache, FIRST))
        assert verify(app).status == 65  # a memory of its own, in which the restored file is missing
        flip(blob(cache, FIRST))
        settle(cache)
        (app.path / ".start_app").chmod(0o555)
    app.path.chmod(0o555)
    try:
        assert verify(app, python=python).status == 0
        assert again(verify(app, "--json", python=python)) == set()
        assert [(folder / "verified").exists() for folder in state.folders(app.path)][:2] == [before, True]
    finally:
        app.path.chmod(0o755)
        if before:
            (app.path / ".start_app").chmod(0o755)


def test_an_interrupted_run_ends_at_once_and_keeps_what_it_found_whole(
    app: AppFolder, cache: Path, processes: Processes
) -> None:
    sparse_for_each_core(cache, "models--z--big")
    interrupted(processes, app)
    assert again(verify(app, "a/b", "c/d", "--json")) == set()


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_it_knew_of_files_that_it_did_not_come_to(
    app: AppFolder, cache: Path, known: Path, processes: Processes
) -> None:
    sparse_for_each_core(cache, "models--a--a")
    many = {f"{number}.txt": str(number).encode() for number in range(600)}
    make_repo(cache, "models--a--many", {A: many})
    interrupted(processes, app)
    assert again(verify(app, "a/b", "c/d", "--json")) == set()


@pytest.mark.slow
def test_a_file_that_changes_while_it_is_read_is_unverifiable(
    app: AppFolder, cache: Path, processes: Processes
) -> None:
    path = sparse(cache / "models--z--big" / "blobs" / ("f" * 64), 1 << 28)
    settle(cache)
    running = processes.launch("cache", "verify", "--app-dir", app.path, "--json", "z/big")
    eventually(lambda: read_bytes(running.pid) > 30_000_000)
    os.utime(path)
    assert running.wait() == 0
    assert '"verdict": "unverifiable", "reason": "it changed while it was read"' in running.out


def test_two_runs_at_once_do_not_disturb_each_other(app: AppFolder, cache: Path, processes: Processes) -> None:
    both = [processes.launch("cache", "verify", "--app-dir", app.path, "--full") for _ in range(2)]
    assert [running.wait() for running in both] == [0, 0]
    assert [running.err for running in both] == ["", ""]
    assert verify(app, "--json").json["remembered"] == 4


def test_to_verify_is_not_to_use(app: AppFolder, cache: Path) -> None:
    long_ago = 1_700_000_000
    paths = list(cache.glob("*/blobs/*"))
    for path in paths:
        os.utime(path, (long_ago, long_ago))
    assert verify(app).out.startswith("verified: 4 files whole; ")
    assert [path.stat().st_atime for path in paths] == [long_ago] * 4
    paths[0].read_bytes()
    if paths[0].stat().st_atime == long_ago:
        pytest.skip("nothing is noted on this file system, so nothing is proved by it")


def test_another_users_files_are_verified_although_reading_them_is_noted(app: AppFolder, cache: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can make another user's file")
    os.chown(blob(cache, FIRST), 65534, 65534)
    unprivileged()
    # O_NOATIME is for the owner of a file, and for CAP_FOWNER.
    done = verify(app, "--json", python=("setpriv", "--bounding-set=-all", sys.executable))
    assert (done.status, done.json["whole"]) == (0, 4)


def test_the_progress_names_each_file_with_its_bytes(app: AppFolder, cache: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, str]] = []
    own = tmp_path / "own.bin"
    own.write_bytes(FIRST)
    blob = Candidate(str(cache / "models--a--b"), str(own), NAMES[FIRST], (A,), NAMES[FIRST])
    for candidate in (blob, blob._replace(name="own.bin")):
        Verification(Memory()).run([candidate], lambda count, name: steps.append((count, name)))
    assert steps == [(len(FIRST), "models--a--b"), (len(FIRST), "own.bin")]
