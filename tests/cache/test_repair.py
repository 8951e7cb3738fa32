"""`cache verify --repair` removes what is damaged, so that the next download fetches just that; the rest stays."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.apps import AppFolder, Processes, clean_environment, eventually, launcher
from tests.support.caches import (
    HAS_STORE,
    VERSION,
    A,
    B,
    add_blob,
    add_link,
    flip,
    make_repo,
    make_trash,
    share,
    unprivileged,
    verify,
)
from tests.support.hub import Hub
from tests.support.hub_cache import Library, Loads, Wanted, download_many
from tests.support.hub_files import make_file
from tests.support.playground import tree

has_trees = pytest.mark.skipif(VERSION < (1, 22), reason="this huggingface_hub notes no trees/<commit>.json")
WEIGHTS, MORE = os.urandom(300_000), os.urandom(200_000)
CONFIG, TOKENS = b'{"layers": 2}', b"a b c\n"
FILES = {"config.json": CONFIG, "sub/tokens.txt": TOKENS, "model.safetensors": WEIGHTS}
OLD = {"config.json": CONFIG, "model.safetensors": MORE}
ONE, TWO = "koge/index-tts-v22", "koge/index-tts-v23"
V1: Wanted = (ONE, "v1", "model")
MAIN: tuple[Wanted, ...] = ((ONE, "main", "model"), (TWO, "main", "model"))


@pytest.fixture(scope="module")
def loopback() -> Iterator[Hub]:
    with Hub() as hub:
        hub.commit(ONE, OLD)
        hub.tag(ONE, "v1", hub.head(ONE))
        hub.commit(ONE, FILES)
        hub.commit(TWO, FILES)
        yield hub


@pytest.fixture(scope="module")
def written(loopback: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of two repos, one of them in two revisions, as huggingface_hub writes it."""
    cache = tmp_path_factory.mktemp("written") / "hub"
    download_many(loopback, cache, [V1, *MAIN])
    return cache


@pytest.fixture
def hub(loopback: Hub) -> Hub:
    loopback.forget()
    return loopback


@pytest.fixture
def cache(app: AppFolder, written: Path) -> Path:
    return Path(shutil.copytree(written, app.path / "cache_hub", symlinks=True))


def blob(cache: Path, data: bytes, repo: str = ONE) -> Path:
    name = make_file("model.safetensors" if data in (WEIGHTS, MORE) else "x", data).etag
    return cache / f"models--{repo.replace('/', '--')}" / "blobs" / name


def fetched(hub: Hub) -> set[str]:
    """Return the names of the files whose content has left the hub since it was last asked to forget."""
    names = {make_file("model.safetensors", data).etag: "model.safetensors" for data in (WEIGHTS, MORE)}
    found = set()
    for asked in hub.requests:
        if asked.method == "GET" and asked.status in (200, 206):
            if "/resolve/" in asked.path:
                found.add(asked.path.partition("/resolve/")[2].partition("/")[2])
            elif "/cdn/" in asked.path:
                found |= {name for digest, name in names.items() if digest in asked.path}
    return found


def repair(app: AppFolder, *arguments: str | Path) -> tuple[int, str]:
    done = verify(app, "--repair", *arguments)
    return done.status, done.out + done.err


def again(hub: Hub, cache: Path, *wanted: Wanted) -> list[dict[str, bytes] | None]:
    """Download in new processes, and return what then loads offline."""
    with Library(hub) as library:
        for repo, revision, _ in wanted:
            library.download(cache, repo, revision)
        return [library.load(cache, repo, revision) for repo, revision, _ in wanted]


def cut(path: Path) -> None:
    os.truncate(path, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "data", "file"),
    [
        (flip, WEIGHTS, "model.safetensors"),
        (cut, WEIGHTS, "model.safetensors"),
        (flip, TOKENS, "sub/tokens.txt"),
        (os.unlink, WEIGHTS, "model.safetensors"),
    ],
    ids=["flipped", "cut", "flipped git blob", "gone"],
)
def test_after_a_repair_the_next_download_fetches_the_damaged_file_alone(
    harm: Callable[[Path], None], data: bytes, file: str, app: AppFolder, hub: Hub, cache: Path
) -> None:
    harm(blob(cache, data))
    status, told = repair(app)
    assert status == 0
    assert f"cache: removing {ONE}@{hub.head(ONE)[:7]}\n" in told
    assert not os.path.lexists(blob(cache, data))
    assert again(hub, cache, *MAIN, V1) == [FILES, FILES, OLD]
    assert fetched(hub) == {file}
    assert verify(app, "--full").status == 0


def test_whole_blobs_other_revisions_and_other_repos_stay(app: AppFolder, hub: Hub, cache: Path, loads: Loads) -> None:
    flip(blob(cache, WEIGHTS))
    before = tree(cache)
    assert repair(app)[0] == 0
    gone = before.keys() - tree(cache).keys()
    repo = f"models--{ONE.replace('/', '--')}"
    commit = hub.head(ONE)
    snapshot = {f"{repo}/snapshots/{commit}{part}" for part in ("", "/sub", *(f"/{file}" for file in FILES))}
    lock = f".locks/{repo}/{blob(cache, WEIGHTS).name}.lock"
    assert gone - snapshot - {f"{repo}/trees/{commit}.json", lock} == {
        str(blob(cache, WEIGHTS).relative_to(cache)),
        f"{repo}/refs/main",
    }
    assert loads(cache, V1, MAIN[1]) == [OLD, FILES]
    assert verify(app).status == 0


def test_a_damaged_blob_of_two_revisions_takes_both_with_it(
    app: AppFolder, hub: Hub, cache: Path, loads: Loads
) -> None:
    flip(blob(cache, CONFIG))
    assert repair(app)[0] == 0
    assert loads(cache, MAIN[0], V1) == [None, None]
    assert again(hub, cache, MAIN[0], V1) == [FILES, OLD]
    assert fetched(hub) == {"config.json"}


def test_a_dry_run_shows_it_and_changes_nothing(app: AppFolder, cache: Path) -> None:
    flip(blob(cache, WEIGHTS))
    before = tree(cache)
    status, told = repair(app, "-n")
    assert status == 65
    assert f"would remove {blob(cache, WEIGHTS)}, 300.0 kB: it is damaged\n" in told
    assert tree(cache) == before


def test_with_nothing_damaged_a_repair_changes_nothing(app: AppFolder, cache: Path) -> None:
    before = tree(cache)
    assert repair(app)[0] == 0
    assert tree(cache) == before


def test_what_cannot_be_verified_is_not_damaged_and_stays(app: AppFolder, tmp_path: Path) -> None:
    repo = make_repo(app.path / "cache_hub", "models--a--b", {A: {"x.bin": WEIGHTS}})
    add_link(repo, A, "odd.txt", add_blob(repo, b"odd", "no-hash"))
    (tmp_path / "mine").touch()
    add_link(repo, A, "mine.txt", "", str(tmp_path / "mine"))
    before = tree(app.path / "cache_hub")
    assert repair(app)[0] == 0
    assert tree(app.path / "cache_hub") == before


def test_what_a_killed_run_left_goes_with_a_repair_and_is_told_beforehand(app: AppFolder) -> None:
    repo = make_repo(app.path / "cache_hub", "models--koge--a", {A: {"x": b"x"}})
    left = make_trash(app.path / "cache_hub")
    flip(next((repo / "blobs").iterdir()))
    dry = verify(app, "--repair", "--dry-run", "--json")
    assert str(left) in [item["path"] for item in dry.json["roots"][0]["remove"]]
    assert left.exists()
    verify(app, "--repair")
    assert not left.exists()


def test_of_named_repos_alone_is_anything_removed(app: AppFolder, cache: Path) -> None:
    for repo in (ONE, TWO):
        flip(blob(cache, WEIGHTS, repo))
    broken = make_repo(cache, "models--z--broken", {A: {"x.bin": b"x", "y.bin": b"y"}})
    share(cache, b"x", *(path for path in (broken / "blobs").iterdir() if path.read_bytes() == b"x")).unlink()
    others = [cache / f"models--{name}" for name in (TWO.replace("/", "--"), "z--broken")]
    before = [tree(other) for other in others]
    assert repair(app, ONE)[0] == 0
    assert not blob(cache, WEIGHTS).exists()
    assert [tree(other) for other in others] == before
    assert verify(app).status == 65


def test_a_damaged_blob_that_no_revision_links_to_goes_alone(app: AppFolder, loads: Loads) -> None:
    repo = make_repo(app.path / "cache_hub", "models--a--b", {A: {"x.bin": WEIGHTS}})
    orphan = repo / "blobs" / add_blob(repo, MORE)
    flip(orphan)
    before = tree(repo)
    assert repair(app)[0] == 0
    assert before.keys() - tree(repo).keys() == {str(orphan.relative_to(repo))}
    assert loads(app.path / "cache_hub", ("a/b", "main", "model")) == [{"x.bin": WEIGHTS}]


def test_a_repo_in_use_is_left_until_it_is_insisted_on(app: AppFolder, cache: Path, processes: Processes) -> None:
    flip(blob(cache, WEIGHTS))
    flip(blob(cache, TOKENS, TWO))
    reader = processes.start(("tail", "-f", blob(cache, CONFIG)))
    eventually(lambda: reader.out)
    before = tree(blob(cache, WEIGHTS).parent.parent)
    status, told = repair(app)
    assert status == 75
    assert f"skipped: {blob(cache, WEIGHTS).parent.parent}, " in told
    assert f": it is in use by pid {reader.pid}, " in told
    assert tree(blob(cache, WEIGHTS).parent.parent) == before
    assert not blob(cache, TOKENS, TWO).exists()
    assert repair(app, "--force")[0] == 0
    assert not blob(cache, WEIGHTS).exists()


def test_a_cache_that_others_use_too_is_repaired_only_on_demand(app: AppFolder, cache: Path, tmp_path: Path) -> None:
    shared = Path(shutil.copytree(cache, tmp_path / "home" / "hub", symlinks=True))
    shutil.rmtree(cache)
    flip(blob(shared, WEIGHTS))
    before = tree(shared)
    env = clean_environment(HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1")
    arguments = ("cache", "verify", "--repair", "--app-dir", app.path)
    done = launcher(*arguments, env=env)
    assert done.status == 2
    assert f"{shared} (environment) is shared with other programs: " in done.err
    assert "nothing was changed\n" in done.err and "--yes removes it" in done.err
    assert tree(shared) == before
    assert launcher(*arguments, "--yes", env=env).status == 0
    assert not blob(shared, WEIGHTS).exists()


@pytest.mark.parametrize("place", ["/", "home", "app"])
def test_what_is_no_place_for_a_cache_is_not_repaired(place: str, app: AppFolder, tmp_path: Path) -> None:
    folder = {"/": Path("/"), "home": tmp_path / "home", "app": app.path}[place]
    if place != "/":
        flip(make_repo(folder, "models--a--b", {A: {"x.bin": WEIGHTS}}) / "blobs" / make_file("x.bin", WEIGHTS).etag)
    before = tree(tmp_path)
    env = clean_environment(HF_HUB_CACHE=str(folder), HOME=str(tmp_path / "home"))
    done = launcher("cache", "verify", "--repair", "--yes", "--app-dir", app.path, env=env)
    assert done.status == 78
    assert f"{folder} is not a place for a model cache" in done.err
    shutil.rmtree(app.path / ".start_app")  # the history, which tells of the refusal
    assert tree(tmp_path) == before


@pytest.mark.parametrize("dry", [False, True])
def test_json_is_one_object_that_has_the_verdicts_and_what_was_removed(dry: bool, app: AppFolder, cache: Path) -> None:
    flip(blob(cache, WEIGHTS))
    done = verify(app, "--repair", "--json", *(("-n",) if dry else ()))
    assert (done.status, len(done.out.splitlines())) == (65 if dry else 0, 1)
    assert {file["verdict"] for file in done.json["files"]} == {"ok", "corrupt"}
    removed = done.json["roots"][0]["remove"] if dry else done.json["removed"]
    assert str(blob(cache, WEIGHTS)) in [item["path"] for item in removed]
    assert blob(cache, WEIGHTS).exists() is dry


def test_what_is_in_the_way_of_a_repair_is_told_and_the_rest_is_repaired(app: AppFolder) -> None:
    root = app.path / "cache_hub"
    repos = [make_repo(root, f"models--a--{name}", {A: {"x.bin": WEIGHTS}}) for name in ("one", "two")]
    for repo in ("a/one", "a/two"):
        flip(blob(root, WEIGHTS, repo))
    python = (*unprivileged(), sys.executable)
    (repos[0] / "blobs").chmod(0o555)
    try:
        done = verify(app, "--repair", python=python)
    finally:
        (repos[0] / "blobs").chmod(0o755)
    assert done.status == 74
    assert f"cannot remove {repos[0]}: {repos[0] / 'blobs'}: its folder is write-protected" in done.err
    assert (repos[0] / "refs" / "main").exists()  # nothing of it went
    assert not blob(root, WEIGHTS, "a/two").exists()
    assert verify(app).status == 65


def test_repos_that_have_the_same_commit_are_repaired_in_one_run(app: AppFolder) -> None:
    root = app.path / "cache_hub"
    for repo in ("a/one", "a/copy-of-one"):
        make_repo(root, f"models--{repo.replace('/', '--')}", {A: {"x.bin": WEIGHTS}})
        flip(blob(root, WEIGHTS, repo))
    done = verify(app, "--repair")
    assert (done.status, verify(app).status) == (0, 0), done.err
    assert not [path for path in root.rglob("*") if path.name in (A, blob(root, WEIGHTS).name)]


def test_what_cannot_be_read_is_told_by_the_status_although_all_damage_is_repaired(app: AppFolder) -> None:
    repo = make_repo(app.path / "cache_hub", "models--a--b", {A: {"x.bin": WEIGHTS}, B: {"y.bin": MORE}})
    flip(repo / "blobs" / make_file("x.bin", WEIGHTS).etag)
    (repo / "blobs" / make_file("y.bin", MORE).etag).chmod(0)
    done = verify(app, "--repair", python=(*unprivileged(), sys.executable))
    assert not (repo / "snapshots" / A).exists()
    assert (repo / "snapshots" / B).exists()
    assert done.status == 74


@pytest.mark.slow
@has_trees
def test_a_damaged_file_of_a_cache_without_links_takes_its_snapshot_with_it(
    app: AppFolder, hub: Hub, loads: Loads
) -> None:
    cache = app.path / "cache_hub"
    path = Path(download_many(hub, cache, MAIN, symlinks=False)[0])
    flip(path / "sub" / "tokens.txt")
    assert repair(app)[0] == 0
    assert not path.exists()
    download_many(hub, cache, [MAIN[0]], symlinks=False)
    assert loads(cache, *MAIN) == [FILES, FILES]
    assert verify(app, "--full").status == 0


def test_a_library_that_holds_no_memory_of_it_sees_a_repaired_cache_as_sound(
    app: AppFolder, hub: Hub, cache: Path, library: Library
) -> None:
    flip(blob(cache, WEIGHTS))
    assert repair(app)[0] == 0
    found = library.scan(cache)
    assert found["warnings"] == []
    revisions = {one["repo_id"]: [rev["commit_hash"] for rev in one["revisions"]] for one in found["repos"]}
    assert revisions == {ONE: [hub.repo(ONE).tags["v1"]], TWO: [hub.head(TWO)]}


@pytest.fixture(scope="module")
def xet() -> Iterator[Hub]:
    if not HAS_STORE:
        pytest.skip("no shared blob store in this huggingface_hub")
    with Hub(xet=True) as hub:
        hub.commit(ONE, {**FILES, "own.safetensors": MORE})
        hub.commit(TWO, {"copy.safetensors": WEIGHTS})
        yield hub


@pytest.fixture
def store(app: AppFolder, xet: Hub) -> Path:
    """Two repos that share a payload, as 1.32 and later write them; return the payload."""
    cache = app.path / "cache_hub"
    download_many(xet, cache, MAIN)
    xet.forget()
    return blob(cache, WEIGHTS).resolve()


def nothing(payload: Path) -> None:
    pass


def garbage(payload: Path) -> None:
    payload.with_name(f"{payload.name}.refs").write_bytes(b"\xff\n")


def unlink_refs(payload: Path) -> None:
    payload.with_name(f"{payload.name}.refs").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "hint", "named"),
    [
        (flip, nothing, ()),
        (flip, nothing, (TWO,)),
        (cut, nothing, ()),
        (os.unlink, nothing, ()),
        (os.unlink, nothing, (TWO,)),
        (flip, garbage, ()),
        (flip, unlink_refs, ()),
    ],
    ids=["flipped", "only one repo named", "cut", "gone", "gone, one named", "refs unreadable", "refs gone"],
)
def test_a_damaged_payload_does_not_come_back_by_a_new_link(
    harm: Callable[[Path], None],
    hint: Callable[[Path], None],
    named: tuple[str, ...],
    app: AppFolder,
    xet: Hub,
    store: Path,
) -> None:
    harm(store)
    hint(store)
    assert verify(app, *named).status == 65
    assert repair(app, *named)[0] == 0
    assert not os.path.lexists(store)
    cache = app.path / "cache_hub"
    assert again(xet, cache, *MAIN) == [{**FILES, "own.safetensors": MORE}, {"copy.safetensors": WEIGHTS}]
    assert store.read_bytes() == WEIGHTS == blob(cache, WEIGHTS, TWO).read_bytes()
    assert sum("/xorbs/" in asked.path for asked in xet.requests) <= 1
    assert verify(app, "--full").status == 0


def test_a_damaged_payload_takes_nothing_from_repos_that_do_not_link_to_it(app: AppFolder, loads: Loads) -> None:
    root = app.path / "cache_hub"
    one = make_repo(root, "models--a--one", {A: {"x.bin": WEIGHTS}})
    two = make_repo(root, "models--a--two", {A: {"x.bin": WEIGHTS, "y.bin": MORE}, B: {"y.bin": MORE}})
    make_repo(root, "models--a--three", {A: {"y.bin": MORE}})
    bad = share(root, WEIGHTS, blob(root, WEIGHTS, "a/one"), blob(root, WEIGHTS, "a/two"))
    good = share(root, MORE, blob(root, MORE, "a/two"), blob(root, MORE, "a/three"))
    flip(bad)
    assert repair(app)[0] == 0
    assert not bad.exists()
    assert good.read_bytes() == MORE
    assert [sorted(path.name for path in (repo / "snapshots").iterdir()) for repo in (one, two)] == [[], [B]]
    wanted: list[Wanted] = [("a/two", B, "model"), ("a/three", "main", "model")]
    assert loads(root, *wanted) == [{"y.bin": MORE}] * 2


def test_a_damaged_payload_of_a_repo_in_use_stays_and_the_status_says_so(app: AppFolder, processes: Processes) -> None:
    root = app.path / "cache_hub"
    make_repo(root, "models--a--one", {A: {"x.bin": WEIGHTS}})
    make_repo(root, "models--a--two", {A: {"x.bin": WEIGHTS, "y.bin": MORE}})
    bad = share(root, WEIGHTS, blob(root, WEIGHTS, "a/one"), blob(root, WEIGHTS, "a/two"))
    flip(bad)
    reader = processes.start(("tail", "-f", blob(root, MORE, "a/two")))
    eventually(lambda: reader.out)
    assert repair(app)[0] == 75
    assert bad.exists()
    reader.process.kill()
    reader.wait()
    assert repair(app)[0] == 0
    assert not bad.exists()
