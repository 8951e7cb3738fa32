"""On a box where anything is broken, what only looks says so: it changes nothing, and no check of the doctor fails."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher import cli
from launcher.errors import ExitStatus
from tests.support.apps import clean_environment, free_port, make_app
from tests.support.fuzz import examples, json_values
from tests.support.removal import everything

STATE = ".start_app"
COMMIT = "a" * 40
REPO = "hf/hub/models--koge--odd"
SHAPES = {
    "outcomes": {
        "version": 1,
        "key": "00",
        "doomed": 5,
        "wish": "x",
        "told_parked": False,
        "failed": None,
        "last": {
            "pid": 1,
            "start": 1.0,
            "boot_id": "",
            "pid_namespace": "",
            "at": "",
            "by": "hand",
            "wish": "",
            "ran": {
                "argv": ["x"],
                "interpreter": "",
                "program": "",
                "script": [],
                "models": [["koge/odd", "main", COMMIT, "/x"]],
                "folders": "",
                "environment": [],
                "variables": {},
                "at": "",
                "locked": False,
            },
            "rollback": False,
            "stage": "ended",
            "seen": False,
            "how": "",
            "line": "",
            "ended_at": "",
            "log": None,
            "unit": "",
        },
        "good": [],
    },
    "lock": {
        "version": 2,
        "models": [
            {
                "repo": "koge/odd",
                "revision": "main",
                "commit": COMMIT,
                "local_dir": "checkpoints",
                "files": {"x.safetensors": {"size": 1, "sha256": "0" * 64}},
            }
        ],
        "frozen": True,
        "files": {},
    },
    "record": {
        "pid": 1,
        "start": 1.0,
        "boot_id": "",
        "pid_namespace": "",
        "user": "root",
        "port": 7860,
        "argv": ["x"],
        "app_dir": "/",
        "started_at": "",
        "models": {},
        "locked": False,
        "log": None,
        "weights": {},
    },
    "move": {"version": 1, "path": "/x", "source": "/x", "entries": {"models--koge--odd": "print"}},
    "tree": {"files": {"x": {"blob_id": "0" * 40, "size": 1}}},
}
PLACES = {
    f"{STATE}/outcomes-PORT.json": "outcomes",
    "models.lock": "lock",
    f"{STATE}/instance-PORT.lock": "record",
    f"{STATE}/launch-PORT.lock": "record",
    f"{STATE}/history.jsonl": "record",
    f"{STATE}/history.jsonl.1": "record",
    f"{STATE}/verified": "tree",
    f"{STATE}/verified-local": "tree",
    f"{STATE}/commits": "tree",
    f"{STATE}/pull.lock": "record",
    f"{STATE}/switch-{'0' * 16}": "lock",
    f"{STATE}/outcomes.lock": "record",
    f"{STATE}/logs/webui-PORT.log": "record",
    "hf/hub/.start_app-move": "move",
    f"{REPO}/trees/{COMMIT}.json": "tree",
    f"{REPO}/refs/main": "tree",
    f"{REPO}/snapshots/{COMMIT}/x.safetensors": "tree",
    f"{REPO}/blobs/{'0' * 64}": "tree",
    "hf/token": "tree",
    "checkpoints/.cache/huggingface/download/x.safetensors.metadata": "tree",
    "checkpoints/x.safetensors": "tree",
    "checkpoints/.cache/start_app/kept-0/x": "tree",
    ".env": "tree",
    "webui.py": "tree",
}
FOLDERS = (
    STATE,
    f"{STATE}/logs",
    "hf",
    "hf/hub",
    REPO,
    f"{REPO}/refs",
    f"{REPO}/snapshots",
    "checkpoints",
    "hf/hub/.locks",
)
ODD = json_values(("x", 5, [], {}, -1, "main", COMMIT, 1e400, 1 << 70, "\0", "../..", True), leaves=5)


def whole(kind: str) -> bytes:
    return json.dumps(SHAPES[kind]).encode()


def cut(data: bytes, share: float) -> bytes:
    return data[: int(share * len(data))]


def spoiled(kind: str, key: int, value: object) -> bytes:
    """Return a document of this kind in which one value somewhere is another one."""
    document = json.loads(json.dumps(SHAPES[kind]))
    places = list(_places(document))
    holder, name = places[key % len(places)]
    holder[name] = value
    return json.dumps(document).encode()


def _places(value: object) -> list[tuple[object, object]]:
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, name) for name, _ in pairs] + [one for _, inner in pairs for one in _places(inner)]


Damage = Callable[[Path, int], None]


def written(place: str, data: bytes) -> Damage:
    def damage(app: Path, port: int) -> None:
        path = app / place.replace("PORT", str(port))
        _free(path)
        path.write_bytes(data.replace(b"7860", str(port).encode()))

    return damage


def replaced(place: str, kind: str) -> Damage:
    def damage(app: Path, port: int) -> None:
        path = app / place.replace("PORT", str(port))
        _free(path)
        if kind == "folder":
            path.mkdir()
        elif kind == "fifo" and place != ".env":  # of a FIFO there the owner serves his settings
            os.mkfifo(path)
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "dangling":
            path.symlink_to("/nowhere/at/all")
        elif kind == "away":
            path.symlink_to("/etc/passwd")
        elif kind == "closed":
            path.write_bytes(b"x")
            path.chmod(0)

    return damage


def _free(path: Path) -> None:
    with contextlib.suppress(FileExistsError, NotADirectoryError):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


FILE, FOLDER = st.sampled_from(sorted(PLACES)), st.sampled_from(FOLDERS)
KIND = st.sampled_from(("folder", "fifo", "loop", "dangling", "away", "closed", "gone"))
DAMAGES = st.one_of(
    st.builds(
        lambda place, key, value: written(place, spoiled(PLACES[place], key, value)), FILE, st.integers(0, 60), ODD
    ),
    st.builds(
        lambda place, share: written(place, cut(json.dumps(SHAPES[PLACES[place]]).encode(), share)),
        FILE,
        st.floats(0, 1),
    ),
    st.builds(written, FILE, st.one_of(st.binary(max_size=30), st.just(b"[" * 100_000), st.just(b"\xff\xfe\0x"))),
    st.builds(replaced, st.one_of(FILE, FOLDER), KIND),
    st.builds(written, st.just(".env"), st.sampled_from((b"HF_HOME=./hf\n", b"HF_HOME=\n", b"APP_SCRIPT=/\n", b"A='"))),
)
# They only look: the doctor, which must also name everything, and what people type on a broken box.
COMMANDS = (
    ("doctor",),
    ("doctor",),
    ("doctor",),
    ("status",),
    ("history",),
    ("models", "list"),
    ("cache", "list"),
    ("--dry-run",),
    ("cache", "prune", "--dry-run"),
    ("models", "lock", "--freeze", "--dry-run"),
    ("rollback", "--dry-run"),
    ("init", "--dry-run"),
    ("cache", "move", "--dry-run", "/nowhere/hub"),
    ("models", "export", "--dry-run", "/nowhere/x"),
)


@pytest.mark.slow
@given(damages=st.lists(DAMAGES, min_size=1, max_size=4), command=st.sampled_from(COMMANDS))
@examples(8, shrink=False)
def test_what_only_looks_at_a_broken_box_changes_nothing_and_fails_at_nothing(
    damages: list[Damage], command: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "app"
    shutil.rmtree(folder, ignore_errors=True)
    make_app(folder).write_env("HF_HOME=./hf\n")
    port = free_port()
    for place, kind in PLACES.items():
        if place not in (".env", "webui.py"):
            written(place, whole(kind))(folder, port)
    for damage in damages:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, FileExistsError, OSError):
            damage(folder, port)
    look(folder, port, "status")  # what looks first notes how the last start has ended
    before = everything(folder), state_of(folder)
    status, out, err = look(folder, port, *command)
    assert "Traceback" not in out + err
    assert (everything(folder), state_of(folder)) == before
    if command == ("doctor",):
        findings = json.loads(out)["findings"]
        assert not [one for one in findings if "this check failed" in one["text"]], findings
        assert all(one["hint"] for one in findings if one["level"] != "fact"), findings
    assert status != ExitStatus.BUG, err


def state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return what the launcher keeps beside the app: mode, size and time of each file."""
    found = {str(path): path.lstat() for path in (folder / STATE).rglob("*") if not path.is_dir()}
    return {path: (status.st_mode, status.st_size, status.st_mtime_ns) for path, status in found.items()}


def look(folder: Path, port: int, *command: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    environment = clean_environment(HF_HUB_OFFLINE="1", HOME=str(folder.parent))
    words = [*command, "--json", "--app-dir", str(folder), "--port", str(port)]
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = cli.main([*words, *(("--timeout", "30") if command == ("doctor",) else ())])
    return int(status), out.getvalue(), err.getvalue()
