"""Files: the hardened open, whole writes, hashes and locks, with real files and real processes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.system import files
from tests.support.apps import eventually


def folder(path: Path) -> int:
    return files.open_folder(path)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (lambda path: os.symlink("other", path), errno.ELOOP),
        (os.mkfifo, errno.EINVAL),
        (os.mkdir, errno.EISDIR),
        (bound, errno.ENXIO),
    ],
    ids=["link", "fifo", "folder", "socket"],
)
def test_only_a_regular_file_is_opened_and_nothing_is_waited_for(
    make: Callable[[Path], None], number: int, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("precious")
    make(tmp_path / "name")
    with pytest.raises(OSError) as caught:
        files.open_regular(tmp_path / "name")
    assert caught.value.errno == number


def test_a_link_is_followed_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    assert files.read_regular(tmp_path / "link", 100, follow=True) == b"text"
    assert files.read_regular(tmp_path / "file", 2) == b"te"


def test_a_closed_standard_stream_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    code = (
        "import os, sys; os.close(0); from launcher.system import files;"
        "sys.exit(files.open_regular(sys.argv[1]) < 3 or files.open_folder(sys.argv[2]) < 3)"
    )
    root = Path(__file__).resolve().parents[2]
    assert (
        subprocess.run([sys.executable, "-c", code, tmp_path / "file", tmp_path], cwd=root, check=False).returncode == 0
    )


def test_a_file_is_written_whole_and_a_link_of_its_name_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep me")
    (tmp_path / "name").symlink_to("precious")
    files.write_whole("name", b"new", folder(tmp_path), durable=True)
    assert (tmp_path / "name").read_bytes() == b"new"
    assert not (tmp_path / "name").is_symlink()
    assert (tmp_path / "precious").read_text() == "keep me"
    assert sorted(os.listdir(tmp_path)) == ["name", "precious"]


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()  # no file can take its place
    with pytest.raises(IsADirectoryError):
        files.write_whole("name", b"new", folder(tmp_path))
    assert os.listdir(tmp_path) == ["name"]


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    (tmp_path / "name.start_app-0123abcd").write_text("half")
    (tmp_path / "name.start_app-89abcdef").write_text("half")
    (tmp_path / "name.json").write_text("another file")
    with (tmp_path / "name.start_app-89abcdef").open() as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        files.write_whole("name", b"new", folder(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["name", "name.json", "name.start_app-89abcdef"]


@pytest.mark.parametrize("name", [".env", "models.lock", "name"])
def test_a_users_own_copies_beside_a_file_are_never_removed(name: str, tmp_path: Path) -> None:
    own = [name, f"{name}.0123abcd", f"{name}.20261129", f"{name}.start_app", f"{name}.start_app-0123abcde"]
    for copy in own:
        (tmp_path / copy).write_text("precious")
    files.write_whole(name, b"new", folder(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(own)


def test_where_there_is_no_flock_files_are_written_and_nothing_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / "name.start_app-0123abcd").write_text("half, or still being written")
    files.write_whole("name", b"new", folder(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["name", "name.start_app-0123abcd"]


def test_hashes_are_those_of_the_hub(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    blob = hashlib.sha1(b"blob 3000000\0" + data).hexdigest()
    for digest in (sha256, blob):
        with (tmp_path / "file").open("rb") as file:
            assert files.content_hash(file.fileno(), digest) == digest
    counts: list[int] = []
    with (tmp_path / "file").open("rb") as file:
        assert files.content_hash(file.fileno(), sha256, proceed=lambda count: bool(counts.append(count))) is None
    assert counts == [1 << 20]


def test_a_lock_is_waited_for_as_long_as_was_said(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); input()",
            path,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    holder.stdout.readline()
    with path.open("rb+") as file:
        begun = time.monotonic()
        assert not files.lock_within(file.fileno(), 0.1)
        assert time.monotonic() - begun >= 0.1
        holder.send_signal(signal.SIGKILL)
        assert files.lock_within(file.fileno(), 30)
        assert eventually(lambda: files.try_lock(file.fileno()))
    holder.communicate()


def test_the_room_below_a_path_is_known_only_where_its_file_system_tells(tmp_path: Path) -> None:
    assert (files.free_bytes(tmp_path) or 0) > 0
    assert files.free_bytes("/proc") is None  # like a tmpfs without a limit, it has no blocks
