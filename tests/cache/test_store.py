"""The shared store of 1.32 and later really shrinks, and never loses what a repo still links to, whatever the version.

Each test that can meets two caches: one that huggingface_hub has downloaded, where it has such a store, and one made by
hand in exactly that layout, which an older huggingface_hub in the app's environment may find as well.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cache import planning, remove, store, trash
from launcher.cache.names import TRASH
from launcher.cache.plan import Item
from launcher.cache.planning import Request
from tests.support.apps import AppFolder, Done, Processes, eventually, launcher
from tests.support.caches import HAS_STORE, A, B, add_ref, condemn, disk, make_repo, make_trash, root_of, share
from tests.support.hub import Hub
from tests.support.hub_cache import Library, Loads, Wanted, download_many, hf
from tests.support.playground import tree

needs_store = pytest.mark.skipif(not HAS_STORE, reason="no shared blob store in this huggingface_hub")
WEIGHTS, MORE, CONFIG = os.urandom(300_000), os.urandom(200_000), b'{"layers": 2}'
ONE, TWO, THREE = "a/one", "a/two", "a/three"
OLD = {"model.safetensors": MORE, "config.json": CONFIG}
FILES = {
    ONE: {"model.safetensors": WEIGHTS, "config.json": CONFIG},
    TWO: {"sub/copy.safetensors": WEIGHTS, "config.json": CONFIG},
    THREE: {"config.json": CONFIG},
}
MAIN: tuple[Wanted, ...] = tuple((repo, "main", "model") for repo in FILES)
V1: Wanted = (ONE, "v1", "model")


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A cache of three repos, the first of them in two revisions, as huggingface_hub 1.32 and later write it."""
    if not HAS_STORE:
        return None
    cache = tmp_path_factory.mktemp("downloaded") / "hub"
    with Hub(xet=True) as hub:
        hub.commit(ONE, OLD)
        hub.tag(ONE, "v1", hub.head(ONE))
        for repo, files in FILES.items():
            hub.commit(repo, files)
        download_many(hub, cache, [V1, *MAIN])
    return cache


def by_hand(cache: Path) -> Path:
    """Make the same cache by hand."""
    repos = {repo: make_repo(cache, folder(repo), {A: files}) for repo, files in list(FILES.items())[1:]}
    repos[ONE] = make_repo(cache, folder(ONE), {A: FILES[ONE], B: OLD}, {"main": A, "v1": B})
    for data in (WEIGHTS, MORE):
        blobs = [path for repo in repos.values() for path in (repo / "blobs").iterdir() if path.read_bytes() == data]
        share(cache, data, *blobs)
    return cache


@pytest.fixture(params=["by huggingface_hub", "by hand"])
def cache(request: pytest.FixtureRequest, app: AppFolder, downloaded: Path | None) -> Path:
    cache = app.path / "cache_hub"
    if request.param == "by hand":
        return by_hand(cache)
    if downloaded is None:
        pytest.skip("no shared blob store in this huggingface_hub")
    return Path(shutil.copytree(downloaded, cache, symlinks=True))


@pytest.fixture
def made(app: AppFolder) -> Path:
    return by_hand(app.path / "cache_hub")


def folder(repo: str) -> str:
    return f"models--{repo.replace('/', '--')}"


def payload(cache: Path, data: bytes) -> Path:
    """Return the payload that holds some data; fail where it is not there."""
    (found,) = (path for path in cache.glob("blobs/??/*") if not path.suffix and path.read_bytes() == data)
    return found


def run(app: AppFolder, *arguments: str | Path) -> Done:
    return launcher("cache", *arguments, "--app-dir", app.path, timeout=50)


def assert_nothing_left_over(cache: Path) -> None:
    """Have the library's own command look for what a removal has left in the store."""
    if HAS_STORE:
        status, out, err = hf(cache, "cache", "prune", "--dry-run")
        assert (status, "Nothing to prune" in out + err) == (0, True), out + err


@pytest.mark.slow
def test_a_removal_frees_what_only_that_repo_held_and_the_next_one_the_rest(
    app: AppFolder, cache: Path, loads: Loads
) -> None:
    weights, more = payload(cache, WEIGHTS), payload(cache, MORE)
    before = disk(cache)
    done = run(app, "remove", ONE, "--json")
    freed = before - disk(cache)
    assert done.status == 0
    assert len(MORE) < freed < len(MORE) + 2000
    assert abs(done.json["freed_bytes"] - freed) < 500
    assert weights.exists() and not more.exists() and not more.with_name(f"{more.name}.refs").exists()
    assert loads(cache, *MAIN) == [None, FILES[TWO], FILES[THREE]]
    assert_nothing_left_over(cache)
    assert run(app, "remove", TWO).status == 0
    assert disk(cache / "blobs") == len(b"1\n")
    assert loads(cache, *MAIN) == [None, None, FILES[THREE]]
    assert_nothing_left_over(cache)
    if HAS_STORE:
        status, out, err = hf(cache, "cache", "ls")
        assert (status, THREE in out, "unreferenced" in out + err) == (0, True, False), out + err


def test_a_clear_leaves_no_byte_of_the_store(app: AppFolder, cache: Path) -> None:
    before = disk(cache)
    done = run(app, "clear", "--json")
    assert (done.status, done.json["failures"]) == (0, [])
    assert not (cache / "blobs").exists()
    assert disk(cache) < 500
    assert abs(done.json["freed_bytes"] - (before - disk(cache))) < 500
    assert_nothing_left_over(cache)


def test_a_clear_keeps_the_payloads_of_a_repo_in_use(
    app: AppFolder, cache: Path, processes: Processes, loads: Loads
) -> None:
    reader = processes.start(("tail", "-f", next((cache / folder(TWO) / "snapshots").glob("*/config.json"))))
    eventually(lambda: reader.out)
    assert run(app, "clear").status == 75
    assert payload(cache, WEIGHTS).exists()
    assert disk(cache / "blobs") < len(WEIGHTS) + 1000
    assert loads(cache, *MAIN) == [None, FILES[TWO], None]


def test_a_payload_that_is_open_itself_keeps_every_repo_that_links_to_it(
    app: AppFolder, made: Path, processes: Processes, loads: Loads
) -> None:
    reader = processes.start(("tail", "-c", "1", "-f", payload(made, WEIGHTS)))
    eventually(lambda: reader.stdout.stat().st_size)
    done = run(app, "clear")
    assert done.status == 75
    for repo in (ONE, TWO):
        assert f"skipped: {made / folder(repo)}, " in done.err
    assert loads(made, *MAIN) == [FILES[ONE], FILES[TWO], None]


def test_a_revision_takes_its_own_payload_with_it_and_no_other(app: AppFolder, cache: Path, loads: Loads) -> None:
    more = payload(cache, MORE)
    assert run(app, "remove", f"{ONE}@v1").status == 0
    assert not more.exists()
    assert loads(cache, V1, *MAIN) == [None, *FILES.values()]
    assert_nothing_left_over(cache)


def test_prune_frees_the_payloads_of_what_no_ref_points_to(app: AppFolder, cache: Path, loads: Loads) -> None:
    more = payload(cache, MORE)
    (cache / folder(ONE) / "refs" / "v1").unlink()
    (cache / folder(TWO) / "refs" / "main").unlink()
    assert run(app, "prune").status == 0
    assert not more.exists() and payload(cache, WEIGHTS).exists()
    assert loads(cache, *MAIN) == [FILES[ONE], None, FILES[THREE]]
    # Of a repo without a ref, nobody knows which commit is loaded by its hash.
    assert payload(cache, WEIGHTS).exists() and len(os.listdir(cache / folder(TWO) / "snapshots")) == 1


def test_prune_takes_a_payload_that_an_older_client_has_left_behind(app: AppFolder, cache: Path, loads: Loads) -> None:
    shutil.rmtree(cache / folder(ONE))
    more = payload(cache, MORE)
    done = run(app, "prune", "--json")
    assert done.status == 0
    assert str(more) in [item["path"] for item in done.json["removed"]]
    assert len(MORE) <= done.json["freed_bytes"] < len(MORE) + 500
    assert not more.exists()
    assert loads(cache, *MAIN) == [None, FILES[TWO], FILES[THREE]]


@pytest.mark.parametrize("command", [("prune",), ("remove", ONE)])
def test_a_repo_that_the_hint_does_not_name_keeps_its_payload(
    command: tuple[str, ...], app: AppFolder, made: Path, loads: Loads
) -> None:
    # Whoever renames or copies a repo's folder leaves a hint that knows nothing of it.
    (made / folder(TWO)).rename(made / folder("b/renamed"))
    if command == ("prune",):
        shutil.rmtree(made / folder(ONE))
    assert run(app, *command).status == 0
    assert loads(made, ("b/renamed", "main", "model")) == [FILES[TWO]]


def missing(refs: Path) -> None:
    refs.unlink()


def garbage(refs: Path) -> None:
    refs.write_bytes(b"\xff\xfe\n")


def link(refs: Path) -> None:
    os.rename(refs, f"{refs}.elsewhere")
    refs.symlink_to(f"{refs}.elsewhere")


def folder_in_its_place(refs: Path) -> None:
    refs.unlink()
    refs.mkdir()


@pytest.mark.parametrize("harm", [missing, garbage, link, folder_in_its_place])
def test_a_payload_whose_refs_cannot_be_read_is_left_and_named_until_everything_goes(
    harm: Callable[[Path], None], app: AppFolder, made: Path, loads: Loads
) -> None:
    weights = payload(made, WEIGHTS)
    harm(weights.with_name(f"{weights.name}.refs"))
    done = run(app, "remove", ONE)
    assert done.status == 0
    assert f"skipped: {weights}, 300.0 kB: which repos link to it cannot be read\n" in done.err
    assert loads(made, MAIN[1]) == [FILES[TWO]]
    done = run(app, "remove", TWO, "--json")
    assert [(left["path"], left["size_bytes"]) for left in done.json["left"]] == [(str(weights), len(WEIGHTS))]
    assert weights.read_bytes() == WEIGHTS
    assert run(app, "prune").status == 0
    assert weights.exists()
    assert run(app, "clear").status == 0
    assert list(store.payloads(str(made))) == []


def test_a_link_in_place_of_refs_is_never_removed_through(app: AppFolder, made: Path, tmp_path: Path) -> None:
    weights = payload(made, WEIGHTS)
    refs = weights.with_name(f"{weights.name}.refs")
    (tmp_path / "mine").write_bytes(refs.read_bytes())
    refs.unlink()
    refs.symlink_to(tmp_path / "mine")
    for command in (("remove", ONE), ("remove", TWO), ("clear",)):
        assert run(app, *command).status == 0
    assert (tmp_path / "mine").exists()


@pytest.mark.slow
def test_a_payload_that_somebody_has_locked_is_waited_for_but_not_for_ever(
    app: AppFolder, made: Path, loads: Loads
) -> None:
    more = payload(made, MORE)
    with open(f"{more}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        done = run(app, "remove", ONE)
        assert time.monotonic() - began < 20
    assert done.status == 74
    assert f"cannot remove {more}: " in done.err
    assert more.exists()
    assert loads(made, *MAIN) == [None, FILES[TWO], FILES[THREE]]
    assert run(app, "prune").status == 0
    assert not more.exists()


def test_a_planted_link_in_place_of_a_lock_is_not_followed(app: AppFolder, made: Path, tmp_path: Path) -> None:
    more = payload(made, MORE)
    lock = more.with_name(f"{more.name}.lock")
    lock.unlink()
    lock.symlink_to(tmp_path / "planted")
    done = run(app, "remove", ONE)
    assert done.status == 74
    assert f"cannot remove {more}: " in done.err
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("marker", [None, "2\n", "1", "link"])
def test_a_store_in_no_format_that_is_known_is_never_touched(
    marker: str | None, app: AppFolder, made: Path, tmp_path: Path
) -> None:
    path = made / "blobs" / ".huggingface-shared-blobs"
    path.unlink()
    if marker == "link":
        (tmp_path / "marker").write_text("1\n")
        path.symlink_to(tmp_path / "marker")
    elif marker:
        path.write_text(marker)
    before = tree(made / "blobs")
    assert "not huggingface_hub's, never touched: blobs\n" in run(app, "list").out
    for command in (("remove", ONE), ("prune",), ("clear",)):
        assert run(app, *command).status == 0
    assert tree(made / "blobs") == before
    assert not (made / folder(TWO)).exists()


@pytest.mark.parametrize("path", ["mine", "mine/x", "ab/mine", ".hidden"])
def test_what_a_stranger_keeps_in_the_store_outlives_a_clear(path: str, app: AppFolder, made: Path) -> None:
    kept = made / "blobs" / path
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    done = run(app, "clear")
    assert done.status == 0, done.err
    assert kept.read_text() == "mine"
    assert list(store.payloads(str(made))) == []
    assert not [name for name in os.listdir(made) if name.startswith("models--")]


def test_a_store_that_is_a_link_is_not_followed(app: AppFolder, made: Path, tmp_path: Path) -> None:
    os.rename(made / "blobs", tmp_path / "elsewhere")
    (made / "blobs").symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path / "elsewhere")
    assert run(app, "clear").status == 0
    assert (tree(tmp_path / "elsewhere"), (made / "blobs").is_symlink()) == (before, True)


@pytest.mark.parametrize("command", [("prune",), ("remove", THREE)])
def test_the_payloads_of_a_repo_that_a_killed_run_left_in_the_trash_are_swept_by_the_next(
    command: tuple[str, ...], app: AppFolder, cache: Path, loads: Loads
) -> None:
    more = payload(cache, MORE)
    killed = make_trash(cache, approved=f"payload {more.name}\n")
    os.rename(cache / folder(ONE), killed / folder(ONE))
    assert run(app, *command).status == 0
    assert not more.exists() and payload(cache, WEIGHTS).exists()
    assert not list(cache.glob(f"{TRASH}*"))
    assert loads(cache, MAIN[1]) == [FILES[TWO]]
    assert_nothing_left_over(cache)


def test_the_payload_of_a_revision_that_a_killed_run_left_condemned_is_swept_by_the_next(
    app: AppFolder, cache: Path, loads: Loads
) -> None:
    more, repo = payload(cache, MORE), cache / folder(ONE)
    commit = (repo / "refs" / "v1").read_text()
    (repo / "refs" / "v1").unlink()
    condemn(cache, folder(ONE), commit, f"payload {more.name}\n")
    assert run(app, "prune").status == 0
    assert not more.exists() and not list(cache.glob(f"{TRASH}*"))
    assert loads(cache, *MAIN) == list(FILES.values())
    assert_nothing_left_over(cache)


def test_a_repo_that_comes_while_a_clear_runs_keeps_its_payload(made: Path, loads: Loads) -> None:
    root = root_of(made)
    (plan,) = planning.plan(Request("clear"), [root])
    spare = made.parent / "spare"
    shutil.copytree(made / folder(TWO), spare, symlinks=True)

    def come(item: Item) -> None:
        if item.kind == "payload" and spare.exists():
            os.rename(spare, made / folder(TWO))

    done = remove.condemn(plan, come)
    assert done.failures == ()
    trash.finish(str(made))
    assert loads(made, *MAIN) == [None, FILES[TWO], None]
    assert disk(made / "blobs") < len(WEIGHTS) + 500


@pytest.mark.slow
@needs_store
def test_what_is_downloaded_after_a_removal_is_shared_again(app: AppFolder, loads: Loads) -> None:
    cache = app.path / "cache_hub"
    with Hub(xet=True) as hub:
        for repo, files in FILES.items():
            hub.commit(repo, files)
        with Library(hub) as online:
            for command in (("list",), ("remove", ONE), ("clear",)):
                assert run(app, *command).status == 0
                for repo in FILES:
                    online.download(cache, repo)
                assert loads(cache, *MAIN) == list(FILES.values())
                assert disk(cache / "blobs") < len(WEIGHTS) + 500


def test_a_pin_keeps_a_payload_that_prune_would_take(app: AppFolder, made: Path, loads: Loads) -> None:
    (made / folder(ONE) / "refs" / "v1").unlink()
    add_ref(made / folder(ONE), "start_app", B)
    assert run(app, "prune").status == 0
    assert payload(made, MORE).exists()
    assert loads(made, (ONE, B, "model")) == [OLD]
