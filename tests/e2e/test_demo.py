"""The playground is what it says: a real hub cache, a real Gradio app, whole or not there."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.demo import HUB_CACHE, MARKER, make_playground
from launcher.errors import ExitStatus, LauncherError
from tests.support.apps import launcher
from tests.support.playground import (
    NEWEST,
    OLDER,
    PORTABLE_LINE,
    ROOT,
    needs_hub,
    repo_folder,
    run_python,
    settings_of,
    tree,
)


def test_every_blob_is_named_by_the_hash_of_its_content(playground: Path) -> None:
    for repo in (NEWEST, OLDER):
        blobs = list((repo_folder(playground, repo) / "blobs").iterdir())
        assert sorted(len(blob.name) for blob in blobs) == [40, 40, 64]
        for blob in blobs:
            data = blob.read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            assert blob.name == (hashlib.sha256(data).hexdigest() if len(blob.name) == 64 else git)


def test_the_snapshot_of_main_links_to_every_blob(playground: Path) -> None:
    for repo in (NEWEST, OLDER):
        folder = repo_folder(playground, repo)
        commit = (folder / "refs/main").read_text()
        assert re.fullmatch(r"[0-9a-f]{40}", commit)
        snapshot = folder / "snapshots" / commit
        assert {path.name for path in snapshot.iterdir()} == {"README.md", "config.json", "model.safetensors"}
        assert {path.readlink().parts[:3] for path in snapshot.iterdir()} == {("..", "..", "blobs")}
        assert {path.resolve() for path in snapshot.iterdir()} == {blob.resolve() for blob in folder.glob("blobs/*")}


def test_only_the_newest_model_has_emotions(playground: Path) -> None:
    def config(repo: str) -> dict[str, Any]:
        (path,) = repo_folder(playground, repo).glob("snapshots/*/config.json")
        loaded: dict[str, Any] = json.loads(path.read_bytes())
        return loaded

    assert len(config(NEWEST)["emotion"]["dimensions"]) == 8
    assert "emotion" not in config(OLDER)


@pytest.mark.parametrize("repo", [NEWEST, OLDER])
def test_the_weights_are_a_valid_safetensors_file(playground: Path, repo: str) -> None:
    (path,) = repo_folder(playground, repo).glob("snapshots/*/model.safetensors")
    data = path.read_bytes()
    assert 10_000 < len(data) < 100_000
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 8 == 0
    header = json.loads(data[8:start])
    end = 0
    for tensor in (tensor for name, tensor in header.items() if name != "__metadata__"):
        size = 4
        for dimension in tensor["shape"]:
            size *= dimension
        assert tensor["dtype"] == "F32"
        assert tensor["data_offsets"] == [end, end + size]
        end += size
    assert start + end == len(data)


@needs_hub
def test_huggingface_hub_reads_the_cache_without_a_warning(playground: Path) -> None:
    output = run_python(
        "import json, huggingface_hub as hub\n"
        "report = hub.scan_cache_dir('cache_hub/hub')\n"
        "print(json.dumps([hub.__version__, {r.repo_id: sorted(r.refs) for r in report.repos},"
        " [str(w) for w in report.warnings]]))",
        playground,
        {},
    )
    version, repos, warnings = json.loads(output)
    assert repos == {NEWEST: ["main"], OLDER: ["main"]}
    if tuple(map(int, version.split(".")[:2])) < (1, 9):
        # Older ones take every file in the cache for a broken repo, also the CACHEDIR.TAG of their successors.
        warnings = [warning for warning in warnings if "CACHEDIR.TAG" not in warning]
    assert warnings == []


@needs_hub
def test_huggingface_hub_resolves_both_models_offline(playground: Path) -> None:
    output = run_python(
        "import json, sys, huggingface_hub as hub\n"
        f"for repo in {[NEWEST, OLDER]}:\n"
        "    print(hub.snapshot_download(repo, local_files_only=True, cache_dir='cache_hub/hub'))\n"
        "    print(hub.snapshot_download(repo, local_files_only=True))\n"
        "    print(hub.try_to_load_from_cache(repo, 'config.json'))",
        playground,
        settings_of(playground),
    )
    for repo, (given, default, config) in zip((NEWEST, OLDER), _threes(output.splitlines()), strict=True):
        commit = (repo_folder(playground, repo) / "refs/main").read_text()
        snapshot = repo_folder(playground, repo) / "snapshots" / commit
        assert (playground / given).samefile(snapshot)
        assert (playground / default).samefile(snapshot)
        assert (playground / config).samefile(snapshot / "config.json")


def _threes(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    return zip(lines[0::3], lines[1::3], lines[2::3], strict=True)


def test_cachedir_tag_is_the_one_that_backup_programs_know(playground: Path) -> None:
    # https://bford.info/cachedir/: the first 43 bytes decide.
    tag = (playground / HUB_CACHE / "CACHEDIR.TAG").read_bytes()
    assert tag.startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")


def test_env_lines_are_portable_and_each_says_why(playground: Path) -> None:
    lines = (playground / ".env").read_text("ascii").splitlines()
    assert [line for line in lines if not PORTABLE_LINE.match(line)] == []
    assert all(before.startswith("# ") for before, line in itertools.pairwise(lines) if "=" in line)
    settings = settings_of(playground)
    assert settings["HF_HOME"] == "./cache_hub"
    assert settings["HF_ENDPOINT"] == f"{settings['HF_OFFICIAL_ENDPOINT']}/mirror"
    assert settings["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_two_playgrounds_are_the_same_to_the_byte(playground: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from launcher.demo import make_playground as m; m(Path(sys.argv[1]))"
    other = tmp_path / "other"
    # Another process with another hash seed: no order of a set or a dict may leak into the bytes.
    subprocess.run(
        [sys.executable, "-c", code, other], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "4242"}, check=True
    )
    assert tree(other) == tree(playground)


def test_a_playground_that_is_there_stays_as_its_user_left_it(playground: Path) -> None:
    shutil.rmtree(repo_folder(playground, NEWEST))
    (playground / ".env").write_text("HF_HOME=./elsewhere\n")
    before = tree(playground)
    assert make_playground(playground) is False
    assert tree(playground) == before


def test_an_alien_folder_is_refused_untouched(tmp_path: Path) -> None:
    folder = tmp_path / "my-app"
    folder.mkdir()
    (folder / "webui.py").write_text("print('mine')\n")
    before = tree(tmp_path)
    with pytest.raises(LauncherError) as caught:
        make_playground(folder)
    assert str(folder) in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.status is ExitStatus.CONFIG
    assert tree(tmp_path) == before


def test_a_marker_of_somebody_else_makes_no_playground(tmp_path: Path) -> None:
    folder = tmp_path / "my-app"
    folder.mkdir()
    (folder / MARKER).write_text("mine\n")
    with pytest.raises(LauncherError):
        make_playground(folder)
    assert tree(folder) == {MARKER: b"mine\n"}


@pytest.mark.parametrize("kind", ["file", "fifo", "broken link to a file's inside", "link loop"])
def test_what_is_no_folder_is_refused_untouched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "file":
        path.write_text("mine\n")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link loop":
        path.symlink_to(path)
    else:
        (tmp_path / "file").write_text("mine\n")
        path.symlink_to(tmp_path / "file/inside")
    before = sorted((entry.name, os.lstat(entry).st_ino) for entry in tmp_path.iterdir())
    with pytest.raises(LauncherError) as caught:
        make_playground(path)
    assert caught.value.status is ExitStatus.CONFIG
    assert sorted((entry.name, os.lstat(entry).st_ino) for entry in tmp_path.iterdir()) == before


def test_an_empty_folder_is_used_and_keeps_its_mode(tmp_path: Path, playground: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    folder.chmod(0o750)
    assert make_playground(folder)
    assert tree(folder) == tree(playground)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_the_current_folder_is_not_pulled_from_under_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(LauncherError, match="current folder"):
        make_playground(Path())
    assert list(tmp_path.iterdir()) == [folder]
    assert folder.samefile(os.curdir)


def test_a_link_to_a_folder_is_followed_and_missing_parents_are_made(tmp_path: Path, playground: Path) -> None:
    target = tmp_path / "disk/demos/one"
    link = tmp_path / "link"
    link.symlink_to(target)
    assert make_playground(link)
    assert link.is_symlink()
    assert tree(target) == tree(playground)
    assert make_playground(link) is False


def test_a_parent_that_takes_no_folder_is_named_with_the_reason() -> None:
    # /proc refuses new entries to everybody, root included.
    with pytest.raises(LauncherError) as caught:
        make_playground(Path("/proc/playground"))
    assert "/proc/playground" in caught.value.message
    assert "No such file or directory" in caught.value.message
    assert caught.value.status is ExitStatus.CONFIG


def test_a_parent_that_is_a_file_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine\n")
    with pytest.raises(LauncherError, match="file"):
        make_playground(tmp_path / "file/playground")
    assert tree(tmp_path) == {"file": b"mine\n"}


def test_a_parent_without_write_permission_is_named_with_the_reason() -> None:
    # Not in tmp_path: that is closed to the user which root becomes here, as root may write anywhere.
    code = (
        "import os, sys; from pathlib import Path\n"
        "from launcher.demo import make_playground; from launcher.errors import LauncherError\n"
        "warm, locked = map(Path, sys.argv[1:])\n"
        "make_playground(warm)\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: make_playground(locked / 'playground')\n"
        "except LauncherError as error: print(error.status.name, error.message)\n"
    )
    with tempfile.TemporaryDirectory() as parent:
        locked = Path(parent) / "locked"
        locked.mkdir()
        locked.chmod(0o555)
        Path(parent).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", code, Path(parent) / "warm", locked],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert list(locked.iterdir()) == []
    assert done.stdout.startswith(f"CONFIG cannot make the demo folder {locked}/playground: Permission denied")


def test_a_build_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    # A real limit on the size of files: the small ones are written, the weights are not.
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from launcher.demo import make_playground; from launcher.errors import LauncherError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "try: make_playground(Path(sys.argv[1]))\n"
        "except LauncherError as error: print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "playground"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a folder of another user")
@pytest.mark.parametrize("arguments", [("cache", "clear"), ("status",)])
def test_a_playground_of_another_user_is_not_used(playground: Path, arguments: tuple[str, ...]) -> None:
    os.chown(playground, 2002, 2002)
    with pytest.raises(LauncherError, match="belongs to user 2002"):
        make_playground(playground)
    done = launcher("--demo", *arguments, "--app-dir", playground)
    assert done.status == ExitStatus.CONFIG
    assert "belongs to user 2002" in done.err
