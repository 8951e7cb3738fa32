"""Several hosts mount one cache: each has its own processes, mounts and locks, and none breaks what another uses.

A host is a container here. What it shares with the others is the file system, and `flock` on it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.apps import WEBUI, Processes, eventually, get
from tests.support.container import Image, make_image
from tests.support.hub import Hub
from tests.support.hub_cache import DOWNLOAD
from tests.support.removal import trash

pytest.importorskip("huggingface_hub")

REPO, OTHER = "koge/index-tts-v23", "koge/index-tts-v22"
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 2000}
START_APP = ("python", "start_app.py")
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}
# Like a real app: it reads its model when it starts, tells which, and keeps it open.
READER = WEBUI.replace(
    "time.sleep(args.load)\n",
    "import glob\n"
    "pattern = os.path.join(os.environ['HF_HUB_CACHE'], 'models--*', 'snapshots', '*', 'model.safetensors')\n"
    "(path,) = glob.glob(pattern)\n"
    "model = open(path, 'rb')\n",
).replace('f"pid {os.getpid()}".encode()', "model.seek(0) or model.read(4)")


@pytest.fixture
def hosts(tmp_path: Path, processes: Processes) -> tuple[Image, Image]:
    return make_image(tmp_path, processes, READER), make_image(tmp_path, processes, READER, name="other")


def download(repo: str) -> tuple[str, ...]:
    return ("python", "-c", DOWNLOAD, "1", "/models/hub", repo, "main", "model")


def fill(host: Image, hub: Hub, *repos: str) -> None:
    for repo in repos:
        hub.commit(repo, FILES)
        done = host.run(
            ("python", "-c", DOWNLOAD, "1", "/models/hub", repo, "main", "model"), HF_ENDPOINT=hub.endpoint, **QUIET
        )
        assert done.status == 0, done.err


@pytest.mark.slow
def test_a_clear_by_one_host_leaves_what_another_downloads(hosts: tuple[Image, Image]) -> None:
    here, there = hosts
    with Hub() as hub:
        fill(here, hub, OTHER)
        hub.commit(REPO, FILES)
        with hub.held("model.safetensors", 200_000) as hold:
            downloading = here.start(download(REPO), HF_ENDPOINT=hub.endpoint, **QUIET)
            assert hold.reached.wait(30), downloading.running.err
            for command in (("cache", "clear"), ("cache", "remove", REPO), ("--clear-cache", "--no-launch")):
                done = there.run((*START_APP, *command, "--yes"))
                assert done.status == 75, (command, done.err)
                assert "it is being downloaded" in done.err
            assert downloading.running.process.poll() is None
        assert downloading.running.wait() == 0, downloading.running.err
    snapshot = here.models / "hub" / downloading.running.out.strip().removeprefix("/models/hub/")
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == FILES
    assert trash(here.models / "hub") == []


@pytest.mark.slow
def test_two_hosts_that_clear_at_once_both_end_well(hosts: tuple[Image, Image]) -> None:
    here, there = hosts
    repos = [f"koge/model-{number}" for number in range(6)]
    with Hub() as hub:
        fill(here, hub, *repos)
    both = [host.start((*START_APP, "cache", "clear", "--yes")).running for host in (here, there)]
    assert [running.wait() for running in both] == [0, 0], [running.err for running in both]
    hub_cache = here.models / "hub"
    assert trash(hub_cache) == []
    assert not list(hub_cache.glob("models--*"))


@pytest.mark.slow
def test_a_rollout_of_a_new_commit_leaves_the_old_replica_its_model(hosts: tuple[Image, Image]) -> None:
    old, new = hosts
    with Hub() as hub:
        told = {"HF_ENDPOINT": hub.endpoint, "HF_OFFICIAL_ENDPOINT": hub.endpoint, **QUIET}
        pages = []
        for host, letters in ((old, b"old!"), (new, b"new!")):
            hub.commit(REPO, {"config.json": b"{}", "model.safetensors": letters * 50_000})
            # The lock is made where the image is built, the pull is the init container's, and the app only reads.
            assert host.run((*START_APP, "models", "lock", REPO), **told).status == 0
            done = host.run((*START_APP, "models", "pull"), **told)
            assert done.status == 0, done.err
            container = host.start((*START_APP, "--locked"), writable=False, **told)
            eventually(lambda: get(host.app.port), what=container.running.err)  # noqa: B023
            assert container.run((*START_APP, "wait", "--timeout", "5")).status == 0, container.running.err
            pages.append(container)
        assert [get(host.app.port) for host in hosts] == ["old!", "new!"]
        # Neither can change what the other reads, whatever it is told.
        done = pages[1].run((*START_APP, "cache", "clear", "--yes", "--force"))
        assert done.status == 74, done.err
        assert [get(host.app.port) for host in hosts] == ["old!", "new!"]
        # A restart of the old replica still finds the old commit.
        pages[0].running.process.kill()
        pages[0].running.wait()
        again = old.start((*START_APP, "--locked"), writable=False, **told)
        eventually(lambda: get(old.app.port) == "old!", what=again.running.err)
