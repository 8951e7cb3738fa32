"""The log is made before the stop: where it cannot be, the old instance goes on, and its log is where it was."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.app import logs
from launcher.config import settings
from launcher.system import renames
from tests.support.apps import AppFolder, Processes, eventually, get, launcher
from tests.support.removal import mounted, needs_mounts


def loaded(folder: Path) -> settings.Settings:
    return settings.load({"APP_DIR": str(folder)}, {}, settings.Call(folder), needs_script=False)


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    if not shutil.which("chattr") or subprocess.run(("chattr", "+i", path), capture_output=True).returncode:
        pytest.skip("files cannot be made immutable here")
    try:
        yield
    finally:
        subprocess.run(("chattr", "-i", path), check=True)


def started(app: AppFolder, processes: Processes, log: Path) -> str:
    old = processes.launch(*app.arguments, "--log-file", log)
    eventually(lambda: get(app.port), what="page")
    return f"pid {old.pid}"


@pytest.mark.parametrize("extra", [(), ("--background",)], ids=["foreground", "background"])
@pytest.mark.parametrize("name", ["x.log", "x.log.1", "x.log.5"])
def test_a_log_that_cannot_be_moved_is_found_out_before_the_stop(
    name: str, extra: tuple[str, ...], app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = folder / "x.log"
    old = started(app, processes, log)
    if name != log.name:
        (folder / name).write_text("# start_app.py: an older one\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with immutable(folder / name):
        done = launcher(*app.arguments, *extra, "--log-file", log)
    assert done.status == 74
    assert f"cannot make a log: {log}: operation not permitted\n" in done.err
    assert get(app.port) == old
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_without_room_is_found_out_before_the_stop(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    needs_mounts()
    folder = tmp_path / "full"
    folder.mkdir()
    old = started(app, processes, tmp_path / "x.log")
    with mounted(folder, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        (folder / "filler").write_bytes(b"x" * 65536)
        done = launcher(*app.arguments, "--log-file", folder / "x.log")
        assert [path.name for path in folder.iterdir()] == ["filler"]
    assert done.status == 74
    assert "no space left on device" in done.err
    assert get(app.port) == old


def test_what_is_refused_after_the_log_was_made_leaves_the_old_log(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    target = logs.target(loaded(app.path), str(tmp_path / "x.log"), tmp_path)
    (tmp_path / "x.log").write_text("# start_app.py: the one before\n")
    staged = target.stage()
    assert (tmp_path / "x.log").read_text() == "# start_app.py: the one before\n"
    staged.discard()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app", "x.log"]
    path, descriptor = target.stage().commit()
    os.close(descriptor)
    assert path == tmp_path / "x.log"
    assert (tmp_path / "x.log.1").read_text() == "# start_app.py: the one before\n"


def test_what_a_killed_launcher_has_left_is_removed_and_a_users_own_file_is_not(tmp_path: Path) -> None:
    target = logs.target(loaded(tmp_path), str(tmp_path / "x.log"), tmp_path)
    killed = target.stage()
    os.close(killed.descriptor)
    os.close(killed.folder)
    assert (tmp_path / killed.name).exists()
    own = {".x.log.start_app-0123abcd": "mine", "x.log.0123abcd": "mine too"}
    for name, text in own.items():
        (tmp_path / name).write_text(text)
    living = target.stage()
    target.stage().discard()
    assert not (tmp_path / killed.name).exists()
    assert (tmp_path / living.name).exists()
    assert {name: (tmp_path / name).read_text() for name in own} == own
    living.discard()


def test_the_probe_of_a_killed_launcher_is_removed_and_a_young_or_full_one_is_not(tmp_path: Path) -> None:
    old, full, young = (tmp_path / f"{renames.PREFIX}0123abc{number}" for number in range(3))
    for path in (old, full, young):
        (path / "full" / "inside").mkdir(parents=True)
    (full / "file").write_text("precious")
    for path in (old, full):
        os.utime(path, (0, 0))
    with renames.probe(str(tmp_path)):
        pass
    assert sorted(tmp_path.iterdir()) == sorted((full, young))
    assert (full / "file").read_text() == "precious"


def test_a_rename_is_tried_without_one(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    with renames.probe(str(tmp_path / "into"), (str(tmp_path / "folder" / "file"),)) as probe:
        probe.leave(str(tmp_path / "folder"))
        with pytest.raises(FileNotFoundError):
            probe.leave(str(tmp_path / "missing"))
        with pytest.raises(OSError, match="busy") as caught:
            probe.leave(str(tmp_path / "folder" / "file"))
        assert caught.value.errno == errno.EBUSY
        with immutable(tmp_path / "folder"), pytest.raises(PermissionError):
            probe.leave(str(tmp_path / "folder"))
        probe.enter(str(tmp_path / "folder"))
        with immutable(tmp_path / "folder"), pytest.raises(PermissionError):
            probe.enter(str(tmp_path / "folder"))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]
    assert not list((tmp_path / "into").iterdir())
