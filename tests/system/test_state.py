"""Where state is kept: the next place where one cannot be written or locked, and never through a link."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.instances.record import instance_name, launch_name, read
from launcher.system import lock as locks
from launcher.system import state
from tests.support.apps import START_APP, AppFolder, Processes, clean_environment, eventually, get, launcher

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user or to mount")
NAME = "some.lock"
ALICE = 2001


def without_flock(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Have every flock on a file below `folder` fail as file systems without it do."""
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(folder)):
            raise OSError(number, os.strerror(number))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, ...]]:
    """Return the state folders of an app, all of them below the test's folder."""
    app_dir = tmp_path / "app"
    app_dir.mkdir()
    monkeypatch.setattr(state, "_SHARED", (str(tmp_path / "shared"),))
    monkeypatch.setattr(state.pwd, "getpwuid", lambda _: type("User", (), {"pw_dir": str(tmp_path / "home")}))
    yield state.folders(app_dir)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_lock_goes_to_the_next_place_where_there_is_no_flock(
    number: int, places: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch, tmp_path / "app", number)
    lock = locks.open_lock(tmp_path / "app", NAME)
    assert lock.path == places[1] / NAME
    assert lock.acquire(0)
    assert next(locks.held(tmp_path / "app", NAME), None) == lock.path
    lock.close()
    without_flock(monkeypatch, tmp_path, number)
    with pytest.raises(LauncherError) as caught:
        locks.open_lock(tmp_path / "app", NAME)
    for place in places:
        assert f"{place / NAME}: {os.strerror(number)}" in caught.value.message


def test_every_place_that_cannot_be_written_is_passed_over(places: tuple[Path, ...], tmp_path: Path) -> None:
    for place in places[:-1]:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("a file in place of the folder")
    state.write(tmp_path / "app", "name", b"data")
    assert (places[-1] / "name").read_bytes() == b"data"
    assert state.read(tmp_path / "app", "name") == b"data"
    assert locks.open_lock(tmp_path / "app", NAME).path == places[-1] / NAME


def test_nothing_is_read_listed_or_removed_through_a_link(places: tuple[Path, ...], tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "name").write_text("keep me")
    places[0].symlink_to(precious)
    app_dir = tmp_path / "app"
    assert state.read(app_dir, "name") == b""
    assert state.listed(app_dir, "na") == ()
    state.forget(app_dir, "name")
    state.write(app_dir, "name", b"data")
    assert (precious / "name").read_text() == "keep me"
    assert state.read(app_dir, "name") == b"data"
    state.forget(app_dir, "name")
    assert state.read(app_dir, "name") == b""


@as_root
def test_an_owner_that_cannot_be_named_here_keeps_nobody_from_writing(app: AppFolder) -> None:
    # In a user namespace that maps only root, the app's owner is nobody whom a file could be given to.
    os.chown(app.path, 2002, 2002)
    app.path.chmod(0o777)
    words = ("unshare", "--user", "--map-root-user", sys.executable, START_APP, *app.arguments, "--no-launch")
    done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@as_root
@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH], ids=["exclusive", "shared"])
def test_a_user_who_may_only_read_a_lock_cannot_keep_a_launcher_waiting(
    kind: int, app: AppFolder, processes: Processes
) -> None:
    assert launcher(*app.arguments, "--no-launch").status == 0
    lock = app.path / ".start_app" / launch_name(app.port)
    descriptor = os.open(lock, os.O_RDONLY)
    holder = processes.start(
        (
            "python3",
            "-c",
            f"import fcntl, time; fcntl.flock({descriptor}, {kind}); print(1, flush=True); time.sleep(600)",
        ),
        user=65534,
        group=65534,
        extra_groups=(),
        pass_fds=(descriptor,),
    )
    os.close(descriptor)
    eventually(lambda: holder.out or None, what="lock")
    assert locks.held_by_reader(lock)
    done = launcher(*app.arguments, "--no-launch")
    assert done.status == 0
    assert "another launcher" not in done.err
    # Whoever may write it may be a launcher.
    lock.chmod(0o666)
    assert not locks.held_by_reader(lock)


@as_root
def test_an_instance_of_another_network_is_not_in_the_way(app: AppFolder, processes: Processes) -> None:
    inner = ("unshare", "--pid", "--net", "--mount", "--fork", "--mount-proc", "--kill-child", "bash", "-c")
    container = (*inner, 'ip link set lo up; exec "$@"', "container")
    there = processes.start((*container, sys.executable, START_APP, *app.arguments))
    there.hello()
    lock = app.path / ".start_app" / instance_name(app.port)
    record = read(lock)
    assert record
    assert record.network != os.readlink("/proc/self/ns/net")
    here = processes.start((*container, sys.executable, START_APP, *app.arguments))
    here.hello()
    assert read(lock) == record
    assert len(list(locks.held(app.path, lock.name))) == 2
    assert there.process.poll() is None
    # The machine itself sees its process, which is on a port of another network.
    outside = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what=outside.err)
    assert f"this app's instance, in another network, which has its own port {app.port}\n" in outside.err
    assert there.process.poll() is here.process.poll() is None
    outside.process.terminate()
    # One network and two pid namespaces: it may well be on the port, and is left alone.
    lock.write_text(lock.read_text().replace(record.network, os.readlink("/proc/self/ns/net")))
    refused = subprocess.run(
        ("unshare", "--pid", "--mount", "--fork", "--mount-proc", sys.executable, START_APP, *app.arguments),
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 69
    assert "its process cannot be seen from here" in refused.stderr


def test_launchers_with_locks_in_different_places_meet(
    places: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = locks.open_lock(tmp_path / "app", NAME)
    assert first.acquire(0)
    without_flock(monkeypatch, tmp_path / "nowhere", errno.ENOSYS)
    second = locks.open_lock(tmp_path / "app", NAME, [first.path])
    assert second.path == places[1] / NAME
    assert second.acquire(0)
    assert list(locks.held(tmp_path / "app", NAME)) == [first.path, second.path]
    assert locks.preferred(tmp_path / "app", first.path, second.path)


def opened(app_dir: Path) -> os.stat_result:
    folder = app_dir / state.FOLDER
    os.close(state.open_folder(folder, app_dir))
    return folder.stat()


def test_a_state_folder_of_a_launcher_that_was_killed_after_mkdir_is_ignored_by_git(tmp_path: Path) -> None:
    (tmp_path / state.FOLDER).mkdir()
    opened(tmp_path)
    assert (tmp_path / state.FOLDER / ".gitignore").read_text() == "*\n"


@as_root
def test_a_state_folder_that_root_has_half_made_goes_to_the_apps_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, ALICE, ALICE)
    (tmp_path / state.FOLDER).mkdir()
    assert opened(tmp_path).st_uid == ALICE
    assert (tmp_path / state.FOLDER / ".gitignore").stat().st_uid == ALICE


@as_root
def test_a_folder_of_roots_with_something_in_it_is_never_given_away(tmp_path: Path) -> None:
    os.chown(tmp_path, ALICE, ALICE)
    (tmp_path / state.FOLDER).mkdir(0o700)
    (tmp_path / state.FOLDER / "secret").write_text("root's alone")
    assert opened(tmp_path).st_uid == 0
