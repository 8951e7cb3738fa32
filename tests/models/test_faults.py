"""Whatever a hub does, the old instance serves, the old commit loads, and the launch says why it did not go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.apps import AppFolder, Processes, eventually, free_port
from tests.support.hub import Hub, Kind
from tests.support.hub_files import Repo, Store
from tests.support.pulled import FOLDER, MODEL, NEW, OLD, Pulled, blobs, children_of, pulled_app


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


def _at_files(kind: Kind) -> Callable[[Pulled], None]:
    """Spoil what comes after the commit is known, at each of the addresses that files come from."""

    def spoil(pulled: Pulled) -> None:
        for pattern in ("/resolve/", "/cdn/"):
            pulled.mirror.fault(pattern, kind)

    return spoil


def _at_api(kind: Kind) -> Callable[[Pulled], None]:
    def spoil(pulled: Pulled) -> None:
        pulled.hub.fault("/api/", kind)
        pulled.mirror.fault("/api/", kind)

    return spoil


def _pushed_away(pulled: Pulled) -> None:
    """Have both hubs forget the new commit; what names it was read before."""
    del pulled.hub.repo(MODEL).commits[pulled.new]


def _no_such_host(pulled: Pulled) -> None:
    pulled.set(HF_ENDPOINT="http://no-such-host.invalid", HF_OFFICIAL_ENDPOINT="http://neither.invalid")


def _dead_proxy(pulled: Pulled) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    pulled.set(HTTP_PROXY=dead, http_proxy=dead, NO_PROXY="nowhere.invalid", no_proxy="nowhere.invalid")


def _both_gone(pulled: Pulled) -> None:
    pulled.hub.close()
    pulled.mirror.close()


FILE_FAULTS: dict[str, tuple[Callable[[Pulled], None], int, str]] = {
    "500": (_at_files(500), 75, "500"),
    "reset": (_at_files("reset"), 75, ""),
    "truncate": (_at_files("truncate"), 75, ""),
    "wrong bytes": (_at_files("wrong-bytes"), 65, "is damaged"),
    "html": (_at_files("html"), 75, ""),
    "401": (_at_files(401), 75, ""),
    "403": (_at_files(403), 75, "403"),
    "404": (_at_files(404), 75, ""),
    "429": (_at_files(429), 75, "429"),
    "no such host": (_no_such_host, 75, ""),
    "dead proxy": (_dead_proxy, 75, ""),
    "nobody listens": (_both_gone, 75, ""),
}
API_FAULTS: dict[str, tuple[Callable[[Pulled], None], int, str]] = {
    "500": (_at_api(500), 75, "500"),
    "html": (_at_api("html"), 75, "JSON"),
    "403": (_at_api(403), 77, "403"),
    "429": (_at_api(429), 75, "429"),
}


def _old_serves_on(pulled: Pulled, processes: Processes, flag: str, wanted: int, text: str) -> None:
    old = pulled.start(processes)
    before = blobs(pulled.repo())
    done = pulled.run(flag)
    assert done.status == wanted, done.err
    assert text in done.err
    assert pulled.serves(old)
    assert pulled.loads() == OLD
    assert pulled.ref("start_app") is None
    listed = {name for name in blobs(pulled.repo()) - before if not name.endswith(".incomplete")}
    good = {file.etag for file in pulled.hub.repo(MODEL).commits[pulled.new].files.values()}
    assert listed <= good


@pytest.mark.slow
@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_a_locked_launch_that_cannot_get_its_files_leaves_the_old_instance_serving(
    fault: str, pulled: Pulled, processes: Processes
) -> None:
    spoil, wanted, text = FILE_FAULTS[fault]
    pulled.lock_new()
    spoil(pulled)
    _old_serves_on(pulled, processes, "--locked", wanted, text)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "reset", "truncate", "wrong bytes", "html", "dead proxy"])
def test_a_refresh_that_cannot_get_its_files_leaves_the_old_instance_serving(
    fault: str, pulled: Pulled, processes: Processes
) -> None:
    spoil, wanted, text = FILE_FAULTS[fault]
    spoil(pulled)
    _old_serves_on(pulled, processes, "--force-refresh", wanted, text)


@pytest.mark.slow
@pytest.mark.parametrize("fault", API_FAULTS)
def test_a_refresh_that_cannot_learn_the_newest_commit_leaves_the_old_instance_serving(
    fault: str, pulled: Pulled, processes: Processes
) -> None:
    spoil, wanted, text = API_FAULTS[fault]
    old = pulled.start(processes)
    spoil(pulled)
    done = pulled.run("--force-refresh")
    assert done.status == wanted, done.err
    assert text in done.err
    assert pulled.serves(old)
    assert pulled.loads() == OLD


@pytest.mark.slow
def test_a_pinned_commit_that_was_pushed_away_leaves_the_old_instance_serving(
    pulled: Pulled, processes: Processes
) -> None:
    pulled.lock_new()
    pulled.set(HF_ENDPOINT_FALLBACK=pulled.hub.endpoint)
    old = pulled.start(processes)
    _pushed_away(pulled)
    done = pulled.run("--locked")
    assert done.status == 75, done.err
    assert done.err.count(f"it does not have the commit {pulled.new[:7]}") >= 2
    assert pulled.serves(old)
    assert pulled.loads() == OLD


@pytest.mark.slow
def test_wrong_bytes_of_the_right_length_are_gone_afterwards_and_right_ones_come(pulled: Pulled) -> None:
    pulled.lock_new()
    fault = pulled.mirror.fault("/cdn/", "wrong-bytes")
    done = pulled.pull()
    assert done.status == 65, done.err
    large = {file.etag for file in pulled.hub.repo(MODEL).commits[pulled.new].files.values() if file.sha256}
    kept = {file.etag for file in pulled.hub.repo(MODEL).commits[pulled.old].files.values()}
    assert not blobs(pulled.repo()) & (large - kept)
    assert pulled.loads() == OLD
    fault.clear()
    pulled.pulled()
    assert pulled.loads() == NEW


@pytest.mark.slow
def test_a_mirror_that_gives_old_files_as_the_new_commit_costs_the_old_commit_nothing(pulled: Pulled) -> None:
    """Its hashes and its bytes agree, and are those of files that the old commit has."""
    repo = pulled.hub.repo(MODEL)
    lying = replace(repo.commits[pulled.new], files={**repo.commits[pulled.old].files})
    store = Store(pulled.hub.token, False, {("model", MODEL): Repo(MODEL, "model", {pulled.new: lying})})
    store.contents.update(pulled.hub.store.contents)
    pulled.lock_new()
    with Hub(store=store) as liar:
        pulled.set(HF_ENDPOINT=liar.endpoint)
        done = pulled.pull()
    assert done.status == 65, done.err
    assert pulled.loads() == OLD
    pulled.set(HF_ENDPOINT=pulled.mirror.endpoint)
    pulled.pulled()
    assert pulled.loads() == NEW
    assert pulled.loads(pulled.old) == OLD


@pytest.mark.slow
def test_a_mirror_that_takes_the_new_commit_for_the_old_one_costs_nothing(pulled: Pulled) -> None:
    pulled.lock_new()
    pulled.mirror.freeze(MODEL, pulled.new, pulled.old)
    before = sorted(path.name for path in (pulled.repo() / "refs").iterdir())
    done = pulled.pull()
    assert done.status in (65, 75), done.err
    assert pulled.loads() == OLD
    pulled.mirror.thaw()
    pulled.pulled()
    assert pulled.loads() == NEW
    after = sorted(path.name for path in (pulled.repo() / "refs").iterdir())
    assert after == sorted([*before, "start_app"])
    assert not pulled.library.scan(pulled.cache)["warnings"]


@pytest.mark.slow
def test_a_mirror_that_went_back_meanwhile_does_not_take_the_model_back(pulled: Pulled) -> None:
    pulled.pulled()
    assert pulled.loads() == NEW
    pulled.mirror.freeze(MODEL, sha=pulled.old)
    pulled.hub.close()  # the mirror alone is to be asked
    pulled.pull()
    assert pulled.loads() == NEW


@pytest.mark.slow
@pytest.mark.parametrize("at", ["api", "files"])
def test_of_a_mirror_whose_files_and_api_disagree_the_newest_commit_comes(at: str, pulled: Pulled) -> None:
    pulled.mirror.freeze(MODEL, **{at: pulled.old})
    pulled.pulled()
    assert pulled.loads() == NEW


def test_without_a_length_a_file_comes_all_the_same(pulled: Pulled) -> None:
    pulled.lock_new()
    pulled.mirror.fault("/", "no-length")
    pulled.pulled()
    assert pulled.loads() == NEW


@pytest.mark.slow
@pytest.mark.parametrize("kind", [500, "reset", "truncate", 429])
def test_the_next_hub_is_asked_after_each_of_them(kind: Kind, pulled: Pulled) -> None:
    pulled.lock_new()
    pulled.set(HF_ENDPOINT_FALLBACK=pulled.hub.endpoint)
    _at_files(kind)(pulled)
    assert pulled.pulled()["served"][0]["endpoint"] == pulled.hub.endpoint
    assert pulled.loads() == NEW
    # Where another hub can be asked, the one that fails is not asked again and again.
    assert pulled.mirror.count("/resolve/", "HEAD") <= 2 * len(NEW)


HANGS = {
    "head of a revision": ("/revision/", None),
    "tree of a commit": ("/tree/", None),
    "head of a file": ("/resolve/", "HEAD"),
    "plain file": ("/config.json", "GET"),
    "large file": ("/cdn/", "GET"),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", HANGS)
def test_a_hub_that_hangs_at_any_stage_is_given_up(stage: str, pulled: Pulled, processes: Processes) -> None:
    old = pulled.start(processes)
    pattern, method = HANGS[stage]
    pulled.mirror.fault(pattern, "hang", method=method)
    if "/resolve/" not in pattern and method is None:
        pulled.hub.fault(pattern, "hang")
    done = pulled.pull("--timeout", "1")
    assert done.status == 75, done.err
    assert pulled.serves(old)
    assert pulled.loads() == OLD


@pytest.mark.slow
def test_a_hub_that_hangs_in_the_middle_of_a_file_is_given_up(pulled: Pulled) -> None:
    pulled.lock_new()
    with pulled.mirror.held("/cdn/", 1000):
        done = pulled.pull("--timeout", "1")
    assert done.status == 75, done.err
    assert "no data for 1 s" in done.err
    assert pulled.loads() == OLD


@pytest.mark.slow
def test_where_only_the_hub_hangs_the_mirror_s_word_is_taken_and_told(pulled: Pulled) -> None:
    pulled.hub.fault("/", "hang")
    done = pulled.pull("--timeout", "1")
    assert done.status == 0, done.err
    assert f"is confirmed by {pulled.mirror.endpoint} only" in done.err
    assert pulled.loads() == NEW


@pytest.mark.parametrize("local_dir", [None, FOLDER])
def test_while_a_launch_waits_for_a_hub_the_old_instance_serves_and_dies_with_no_child_left(
    local_dir: str | None, pulled: Pulled, processes: Processes
) -> None:
    pulled.lock_new(local_dir=local_dir)
    old = pulled.start(processes)
    with pulled.mirror.held("/cdn/", 1000) as hold:
        launch = processes.launch(*pulled.app.arguments, "--locked")
        assert hold.reached.wait(30)
        workers = children_of(launch.pid)
        assert workers
        for pid in workers:
            processes.end_also(pid)
        for _ in range(20):
            assert pulled.serves(old)
        launch.process.kill()
        launch.wait()
        eventually(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers), what="the worker's end")
    assert pulled.serves(old)
    assert pulled.loads() == OLD


def test_a_refresh_keeps_a_model_whose_newest_commit_was_pushed_away(pulled: Pulled) -> None:
    _pushed_away(pulled)
    done = pulled.run("--force-refresh", "--no-launch")
    assert done.status == 0, done.err
    assert f"skipped: {MODEL}@main: no such revision" in done.err
    assert pulled.loads() == OLD


def test_a_gated_repo_without_access_is_not_permitted(pulled: Pulled) -> None:
    pulled.lock_new()
    pulled.hub.gate(MODEL)
    done = pulled.pull()
    assert done.status == 77, done.err
    assert "HF_TOKEN" in done.err
    assert pulled.loads() == OLD
