"""What README's table of everyday commands, the cache page and the service page promise is what their commands do."""

from __future__ import annotations

import os
import time

import pytest

from tests.support import readme
from tests.support.apps import eventually, get
from tests.support.models import OLD, V22, V23
from tests.support.readme_world import TTS, TTS_FILES, World, runs

pytestmark = pytest.mark.usefixtures("installed")


@runs("start_app.py --help", "start_app.py cache prune --help")
def test_help_names_the_commands_of_the_readme(world: World) -> None:
    told = world.fine("start_app.py --help")
    assert "--older-than SPAN" in world.fine("start_app.py cache prune --help")
    for row in readme.tables(readme.ENGLISH)[0][1:]:
        for span in readme.spans(row[1]):
            for word in span.replace("start_app.py", "").split():
                assert word in told or not word.isalpha(), f"{word}: {told}"


PRUNE_OLD, PRUNE_LARGE = "start_app.py cache prune --older-than 30d", "start_app.py cache prune --max-size 50G"
REMOVE, CLEAR = "start_app.py cache remove koge/index-tts-v22", "start_app.py cache clear"


@runs(PRUNE_OLD, PRUNE_LARGE, REMOVE, CLEAR, "start_app.py cache verify", "start_app.py --clear-cache")
def test_each_command_of_the_cache_page_removes_what_the_page_says(world: World) -> None:
    commit = world.publish(V22)[1]
    newest = world.publish(V23)[1]
    cache = world.cache(V22, commit).parent
    world.cache(V23, newest)

    def repos() -> list[str]:
        return sorted(path.name.rpartition("--")[2] for path in cache.glob("models--*"))

    assert "2 repos" in world.fine("start_app.py cache verify") or repos() == ["index-tts-v22", "index-tts-v23"]
    world.fine(PRUNE_LARGE)
    assert repos() == ["index-tts-v22", "index-tts-v23"]
    long_ago = time.time() - 40 * 86_400
    for blob in cache.joinpath("models--koge--index-tts-v22").rglob("*"):
        os.utime(blob, (long_ago, long_ago), follow_symlinks=False)
    world.fine(PRUNE_OLD)
    assert repos() == ["index-tts-v23"]
    world.cache(V22, commit)
    world.fine(REMOVE)
    assert repos() == ["index-tts-v23"]
    world.fine(CLEAR)
    assert repos() == []
    world.cache(V23, newest)
    world.start("start_app.py --clear-cache")
    assert repos() == []


REMOVE_FILE = "start_app.py cache remove koge/index-tts-v22 --file '*.onnx'"


@runs(REMOVE_FILE)
def test_a_single_file_goes_as_the_cache_page_says(world: World) -> None:
    commit = world.hub.commit(V22, {"config.json": b"{}", "gpt.onnx": b"gpt"})
    repo = world.cache(V22, commit)
    world.fine(REMOVE_FILE)
    assert [path.name for path in repo.glob("snapshots/*/*")] == ["config.json"]
    assert len(list(repo.glob("blobs/*"))) == 1


MOVE = "start_app.py cache move ../models"


@runs(MOVE, "start_app.py stop")
def test_the_cache_moves_as_the_cache_page_says(world: World) -> None:
    repo = world.cache(V22, world.publish(V22)[1])
    names = sorted(path.name for path in repo.glob("snapshots/*/*"))
    world.fine("start_app.py stop", MOVE)
    target = world.app.path.parent / "models"
    assert f"HF_HUB_CACHE={target}" in (world.app.path / ".env").read_text()
    assert sorted(path.name for path in target.glob("models--*/snapshots/*/*")) == names
    assert not repo.exists()


LOCK_TTS = "start_app.py models lock IndexTeam/IndexTTS-2 --local-dir checkpoints"
TAKE_OUT = "start_app.py models lock koge/index-tts-v23 --remove"


@runs(LOCK_TTS, TAKE_OUT)
def test_the_commands_of_the_models_page_write_the_lock(world: World) -> None:
    world.hub.commit(TTS, TTS_FILES)
    world.hub.commit(V23, OLD)
    world.fine(LOCK_TTS, "start_app.py models lock koge/index-tts-v23")
    lock = world.app.path / "models.lock"
    assert '"checkpoints"' in lock.read_text() and V23 in lock.read_text()
    world.fine(TAKE_OUT)
    assert TTS in lock.read_text() and V23 not in lock.read_text()


LIST, FREEZE = "start_app.py models list", "start_app.py models lock --freeze"
FREEZE_TTS = "start_app.py models lock --freeze IndexTeam/IndexTTS-2"


CHECK_TTS = "start_app.py models check IndexTeam/IndexTTS-2 --local-dir checkpoints"
EXPORT = "start_app.py models export /mnt/usb/models"


@pytest.mark.slow
@runs(LIST, FREEZE, FREEZE_TTS, CHECK_TTS)
def test_what_is_on_the_disk_is_listed_and_frozen(world: World) -> None:
    world.hub.commit(TTS, TTS_FILES)
    folder = world.app.path / "checkpoints"
    folder.mkdir(exist_ok=True)
    for path, data in {**TTS_FILES, "own.pth": b"own"}.items():
        folder.joinpath(path).write_bytes(data)
    assert "unknown" in world.fine(LIST)
    world.fine(FREEZE)
    lock = world.app.path / "models.lock"
    assert '"checkpoints/gpt.pth"' in lock.read_text()
    world.fine(FREEZE_TTS)
    assert TTS in lock.read_text() and '"checkpoints/own.pth"' in lock.read_text()
    assert "unknown  unknown" not in world.fine(LIST)
    assert "up to date" in world.fine(CHECK_TTS)
    assert "own.pth" in os.listdir(world.app.path / "checkpoints")


@runs(EXPORT)
def test_what_is_pinned_is_exported(world: World) -> None:
    commit = world.publish(V23)[1]
    world.cache(V23, commit)
    world.fine("start_app.py models lock koge/index-tts-v23")
    assert "wrote " in world.fine(EXPORT)
    assert (world.app.path / "usb" / "models" / "models.lock").is_file()


LOGS, FOLLOW, WAIT = "start_app.py logs", "start_app.py logs -f", "start_app.py wait --timeout 1"


@pytest.mark.slow
@runs(LOGS, FOLLOW, WAIT, "start_app.py --background", "start_app.py status", "start_app.py history")
def test_an_instance_in_the_background_is_waited_for_and_its_log_is_shown(world: World) -> None:
    assert world.run(WAIT).status == 75
    pid = world.background()
    world.fine(WAIT)
    assert f"pid: {pid}\n" in world.fine("start_app.py status")
    assert '"argv"' in world.fine(LOGS)
    followed = world.processes.start(world.script(FOLLOW), world.app.path, world.environment())
    eventually(lambda: '"argv"' in followed.out, what="log")
    world.fine("start_app.py stop")
    assert followed.wait() == 0
    assert "stop" in world.fine("start_app.py history")


SECOND, LOOK_AT_SECOND = "start_app.py --port 7861", "start_app.py status --port 7861"


@runs("start_app.py", "start_app.py -n", "start_app.py stop", SECOND, LOOK_AT_SECOND)
def test_a_second_instance_runs_beside_the_first(world: World) -> None:
    first = world.start("start_app.py")
    second = world.start(SECOND, port=world.other_port)
    assert get(world.app.port) == f"pid {first.pid}"
    assert get(world.other_port) == f"pid {second.pid}"
    assert f"pid: {second.pid}\n" in world.fine(LOOK_AT_SECOND)
    assert f"would terminate pid {first.pid}" in world.fine("start_app.py -n")
    world.fine("start_app.py stop")
    assert get(world.app.port) is None
    assert get(world.other_port) == f"pid {second.pid}"


@runs("start_app.py unit")
def test_a_unit_is_printed_for_a_look(world: World) -> None:
    assert "\n[Service]\n" in world.fine("start_app.py unit")
