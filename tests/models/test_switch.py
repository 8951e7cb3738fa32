"""A switch that cannot be done is undone, and what a killed one has left never keeps the app from being launched."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.system import state
from tests.models.test_local_dir import STAGING, dies
from tests.support.apps import AppFolder, Processes, alive, eventually, get
from tests.support.pulled import FOLDER, NEW, OLD, Pulled, pulled_app
from tests.support.removal import everything, mounted, needs_mounts


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        made.bring_to_folder()
        made.lock_new(local_dir=FOLDER)
        yield made


@contextmanager
def immutable(*paths: Path) -> Iterator[None]:
    if not shutil.which("chattr") or subprocess.run(("chattr", "+i", *paths), capture_output=True).returncode:
        pytest.skip("files cannot be made immutable here")
    try:
        yield
    finally:
        subprocess.run(("chattr", "-i", *paths), check=True)


def journals(pulled: Pulled) -> tuple[str, ...]:
    return state.listed(pulled.app.path, "switch-")


def notes(pulled: Pulled) -> dict[str, str]:
    folder = pulled.folder / ".cache/huggingface/download"
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.metadata")}


def interrupted(pulled: Pulled, renames: int = 5) -> None:
    """Leave the folder half switched."""
    dies(renames, f"/{FOLDER}/", "models", "pull", "--app-dir", pulled.app.path)
    assert journals(pulled)
    assert pulled.in_folder() not in (OLD, NEW)


@pytest.mark.parametrize("path", ["config.json", "qwen", "gone/gone.txt", "."])
def test_what_cannot_be_switched_is_found_out_before_the_stop(path: str, pulled: Pulled, processes: Processes) -> None:
    old = processes.launch(*pulled.app.arguments)
    eventually(lambda: get(pulled.app.port), what="page")
    before = notes(pulled)
    with immutable(pulled.folder / path):
        done = pulled.run("--locked", "--background")
        assert done.status == 74
        assert "cannot " in done.err
        assert "not permitted: " in done.err
        assert alive(old.pid)
        assert get(pulled.app.port) == f"pid {old.pid}"
    assert pulled.in_folder() == OLD
    assert notes(pulled) == before
    assert not journals(pulled)


def test_a_file_that_something_is_mounted_on_is_found_out_before_the_stop(
    pulled: Pulled, processes: Processes, tmp_path: Path
) -> None:
    needs_mounts()
    (tmp_path / "mine").write_text("mine")
    old = processes.launch(*pulled.app.arguments)
    eventually(lambda: get(pulled.app.port), what="page")
    with mounted(pulled.folder / "config.json", "--bind", str(tmp_path / "mine")):
        done = pulled.run("--locked", "--background")
        assert done.status == 74
        assert "something is mounted there: " in done.err
        assert get(pulled.app.port) == f"pid {old.pid}"
    assert pulled.in_folder() == OLD


@pytest.mark.parametrize("path", ["config.json", "gpt.safetensors", "qwen"])
def test_a_pull_that_fails_half_way_leaves_the_folder_as_it_was(path: str, pulled: Pulled) -> None:
    before = notes(pulled)
    with immutable(pulled.folder / path):
        assert pulled.pull().status == 74
    assert pulled.in_folder() == OLD
    assert notes(pulled) == before
    assert not journals(pulled)
    pulled.mirror.forget()
    assert pulled.pull().status == 0
    assert pulled.in_folder() == NEW
    assert not [asked for asked in pulled.mirror.requests if "/cdn/" in asked.path], "it was downloaded already"


@pytest.mark.parametrize("where", ["staged", "in place"])
@pytest.mark.parametrize("how", ["launch", "pull"])
def test_what_is_not_the_new_commit_by_its_hash_is_undone(how: str, where: str, pulled: Pulled) -> None:
    """Power may fail: a file has its name then, and its size, and not its content."""
    interrupted(pulled)
    staged = [path for path in (pulled.folder / STAGING / pulled.new).rglob("*") if path.is_file()]
    came = [path for path in NEW if (pulled.folder / path).exists() and pulled.in_folder()[path] != OLD.get(path)]
    damaged = staged[0] if where == "staged" else pulled.folder / came[0]
    damaged.write_bytes(b"\0" * damaged.stat().st_size)
    if how == "launch":
        done = pulled.run("--", "--exit", "0")
        assert done.status == 0, done.err
        assert f"undid in {pulled.folder} what an interrupted pull had begun: " in done.err
        assert pulled.in_folder() == OLD
        assert not journals(pulled)
    assert pulled.pull().status == 0
    assert pulled.in_folder() == NEW
    assert not (pulled.folder / STAGING).exists()


def test_what_can_be_neither_finished_nor_undone_is_named_and_the_app_is_launched(pulled: Pulled) -> None:
    interrupted(pulled)
    half = pulled.in_folder()
    with immutable(pulled.folder, pulled.folder / "qwen"):
        done = pulled.run("--", "--exit", "0")
        assert done.status == 0, done.err
        assert (
            f"{pulled.folder} has some files of {pulled.new[:7]}, and can be neither completed nor restored: "
            in done.err
        )
        assert f"models pull completes it; rm {pulled.app.path}/.start_app/switch-" in done.err
    assert pulled.in_folder() == half
    done = pulled.run("--", "--exit", "0")
    assert "finished in " in done.err
    assert pulled.in_folder() == NEW


def test_what_has_lost_both_its_old_and_its_new_files_is_made_whole_by_a_pull(pulled: Pulled) -> None:
    interrupted(pulled)
    shutil.rmtree(pulled.folder / STAGING)
    assert pulled.run("--", "--exit", "0").status == 0
    assert journals(pulled)
    assert pulled.pull().status == 0
    assert pulled.in_folder() == NEW
    assert not journals(pulled)


def test_the_hint_to_leave_it_as_it_is_ends_the_warning(pulled: Pulled) -> None:
    interrupted(pulled)
    shutil.rmtree(pulled.folder / STAGING)
    done = pulled.run("--", "--exit", "0")
    command = next(line for line in done.err.splitlines() if "; rm " in line).partition("; rm ")[2]
    Path(command.removesuffix(" leaves it as it is")).unlink()
    assert "neither finished" not in pulled.run("--", "--exit", "0").err


def test_what_somebody_has_made_in_between_is_kept(pulled: Pulled) -> None:
    interrupted(pulled)
    staged = next(p for p in (pulled.folder / STAGING / pulled.new).rglob("*") if p.is_file())
    path = staged.relative_to(pulled.folder / STAGING / pulled.new)
    if (pulled.folder / path).exists():
        (pulled.folder / path).unlink()
    (pulled.folder / path).parent.mkdir(exist_ok=True)
    (pulled.folder / path).write_bytes(b"mine")
    assert pulled.pull().status == 0
    mine = {name: data for name, data in pulled.in_folder().items() if data == b"mine"}
    assert {**NEW, **mine} == pulled.in_folder()
    assert list(mine) in ([], [f"{path}.before-{pulled.new[:7]}"])


def test_a_journal_of_an_earlier_version_is_finished(pulled: Pulled) -> None:
    interrupted(pulled)
    (name,) = journals(pulled)
    journal = pulled.app.path / ".start_app" / name
    document = json.loads(journal.read_text())
    incoming = [path for path, _, staged in document["changes"] if staged.startswith(f"{STAGING}/{pulled.new}/")]
    going = [path for path, _, staged in document["changes"] if not staged and not path.endswith(".metadata")]
    kept = ("local_dir", "commit", "hashes")
    old = {**{key: document[key] for key in kept}, "incoming": incoming, "going": going, "own": []}
    journal.write_text(json.dumps(old))
    done = pulled.run("--", "--exit", "0")
    assert done.status == 0, done.err
    assert "finished in " in done.err
    assert pulled.in_folder() == NEW
    assert pulled.pull().status == 0
    assert pulled.in_folder() == NEW


def test_a_launch_that_the_rehearsal_refuses_leaves_the_folder_as_it_was(pulled: Pulled, processes: Processes) -> None:
    old = processes.launch(*pulled.app.arguments)
    eventually(lambda: get(pulled.app.port), what="page")
    before = everything(pulled.folder)
    pulled.app.script.write_text("if True\n")
    done = pulled.run("--locked", "--background")
    assert done.status == 78
    assert get(pulled.app.port) == f"pid {old.pid}"
    after = {path: what for path, what in everything(pulled.folder).items() if STAGING not in str(path)}
    assert after == {path: what for path, what in before.items() if STAGING not in str(path)}
    assert not journals(pulled)
