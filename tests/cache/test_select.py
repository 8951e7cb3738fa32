"""What a person types means one thing or nothing, and where it means nothing, nothing is removed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from launcher.cache import entries, layout
from launcher.cache import targets as select
from launcher.errors import ExitStatus, LauncherError
from tests.support.apps import AppFolder, Done, launcher, program
from tests.support.caches import add_ref, make_repo, unprivileged

V22, V23, VOICES = "models--koge--index-tts-v22", "models--koge--index-tts-v23", "datasets--koge--voices"
MAIN, TAGGED, DETACHED = "a1b2c3d" + "0" * 33, "a1b2c3e" + "1" * 33, "d" * 40
OTHER = "e" * 40
HEX = "beef123"


def fill(root: Path) -> Path:
    """Make a cache of repos of every type, one of them with revisions of every sort."""
    files = {"config.json": b"{}"}
    refs = {"main": MAIN, "v1.0": TAGGED, "refs/pr/1": TAGGED, HEX: MAIN}
    make_repo(root, V22, {MAIN: files, TAGGED: files, DETACHED: files}, refs)
    for folder in (V23, "models--IndexTeam--IndexTTS-2", "models--gpt2", VOICES, "spaces--koge--demo"):
        make_repo(root, folder, {OTHER[:30] + f"{len(folder):010}": files})
    make_repo(root, "kernels--koge--index-tts-v22", {HEX + "0" * 33: files})
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("cache"))


def place(root: Path) -> select.Place:
    real = os.path.realpath(root)
    return select.Place(entries.contents(real).entries, lambda folder: layout.read(real, folder))


def chosen(root: Path, *targets: str) -> list[str]:
    """Return what targets mean: folders, and folders with a commit's first digit."""
    (found,) = select.select(targets, [place(root)], "hint")
    return [f"{one.folder}@{commit[:7]}" for one in found for commit in one.commits] + [
        one.folder for one in found if not one.commits
    ]


def refused(root: Path, *targets: str) -> str:
    with pytest.raises(LauncherError) as caught:
        select.select(targets, [place(root)], "hint")
    assert (caught.value.status, bool(caught.value.hint)) == (ExitStatus.USAGE, True)
    return caught.value.message


@pytest.mark.parametrize(
    ("target", "folder"),
    [
        ("koge/index-tts-v22", V22),
        (V22, V22),
        ("models/koge/index-tts-v22", V22),
        ("model/koge/index-tts-v22", V22),
        ("gpt2", "models--gpt2"),
        ("datasets/koge/voices", VOICES),
        ("dataset/koge/voices", VOICES),
        (VOICES, VOICES),
        ("spaces/koge/demo", "spaces--koge--demo"),
        ("space/koge/demo", "spaces--koge--demo"),
        ("kernels/koge/index-tts-v22", "kernels--koge--index-tts-v22"),
        ("IndexTeam/IndexTTS-2", "models--IndexTeam--IndexTTS-2"),
    ],
)
def test_a_repo_is_meant_by_its_name_with_or_without_its_type_and_by_its_folder(
    target: str, folder: str, cache: Path
) -> None:
    assert chosen(cache, target) == [folder]


@pytest.mark.parametrize(
    ("target", "commit"),
    [
        ("koge/index-tts-v22@main", MAIN),
        (f"{V22}@main", MAIN),
        ("model/koge/index-tts-v22@v1.0", TAGGED),
        ("koge/index-tts-v22@refs/pr/1", TAGGED),
        (f"koge/index-tts-v22@{TAGGED}", TAGGED),
        ("koge/index-tts-v22@a1b2c3e", TAGGED),
        ("koge/index-tts-v22@dddddd", DETACHED),
        (DETACHED, DETACHED),
        ("dddddd", DETACHED),
        ("a1b2c3d", MAIN),
    ],
)
def test_a_revision_is_meant_by_a_ref_or_by_a_commits_first_digits(target: str, commit: str, cache: Path) -> None:
    assert chosen(cache, target) == [f"{V22}@{commit[:7]}"]


def test_a_ref_that_looks_like_a_commit_is_a_ref(cache: Path) -> None:
    assert chosen(cache, f"koge/index-tts-v22@{HEX}") == [f"{V22}@{MAIN[:7]}"]
    assert chosen(cache, HEX) == [f"kernels--koge--index-tts-v22@{HEX}"]


@pytest.mark.parametrize(
    ("target", "folders"),
    [
        ("koge/*", [V22, V23]),
        ("koge/index-tts-v2[23]", [V22, V23]),
        ("koge/index-tts-v2?", [V22, V23]),
        ("models--koge--*", [V22, V23]),
        ("datasets/koge/*", [VOICES]),
        ("dataset/*/*", [VOICES]),
        ("spaces--*", ["spaces--koge--demo"]),
        ("*/index-tts-v23", [V23]),
        ("koge/*@main", [f"{V22}@{MAIN[:7]}", f"{V23}@{OTHER[:7]}"]),
        ("koge/*@v1.0", [f"{V22}@{TAGGED[:7]}"]),
    ],
)
def test_a_glob_means_repos_of_one_type_and_models_unless_it_says_another(
    target: str, folders: list[str], cache: Path
) -> None:
    assert chosen(cache, target) == folders


def test_a_star_stays_within_its_part_of_the_name_and_within_its_type(tmp_path: Path) -> None:
    for folder in (
        "models--gpt2",
        "models--a--squad",
        "datasets--squad",
        "datasets--a--b",
        "spaces--x",
        "kernels--a--k",
    ):
        make_repo(tmp_path, folder)
    assert chosen(tmp_path, "*") == ["models--gpt2"]
    for target in ("*/*", "*/squad", "models/*/*", "model/a/*"):
        assert chosen(tmp_path, target) == ["models--a--squad"], target
    assert chosen(tmp_path, "datasets/*") == ["datasets--squad"]
    assert chosen(tmp_path, "datasets/*/*") == ["datasets--a--b"]
    for target in ("*/*/*", "kernels/*", "*/k", "space*/x", "[ds]*/*"):
        refused(tmp_path, target)


def test_a_repo_whose_name_looks_like_a_type_or_a_glob_is_still_meant_by_its_name(tmp_path: Path) -> None:
    make_repo(tmp_path, "models--datasets--x")
    make_repo(tmp_path, "models--koge--[ab]")
    make_repo(tmp_path, "models--koge--a")
    assert chosen(tmp_path, "datasets/x") == ["models--datasets--x"]
    assert chosen(tmp_path, "koge/[ab]") == ["models--koge--[ab]"]
    make_repo(tmp_path, "datasets--x")
    assert chosen(tmp_path, "datasets/x") == ["datasets--x"]


@pytest.mark.parametrize(
    "target",
    ["", "/", "@", "@main", "koge", "koge/", "index-tts-v22", "koge/voices", "../..", ".", "koge/nothing-*", "d" * 5]
    + ["D" * 7, "f" * 40, "koge/index-tts-v22@", "koge/index-tts-v22@nope", "koge/index-tts-v22@MAIN"]
    + ["koge/index-tts-v22@ffffff", "koge/index-tts-v22@a1b2c", "koge/index-tts-v22@*", "nope/nope@main", ".locks"]
    + ["koge\n/index-tts-v22", f"{V22}/", f"../{V22}", "models--koge--index-tts-v22/blobs", "datasets/gpt2"],
)
def test_what_is_not_there_or_too_short_means_nothing(target: str, cache: Path) -> None:
    assert "; nothing was removed" in refused(cache, target)
    refused(cache, "koge/index-tts-v22", target)


def test_the_beginning_of_several_commits_is_none_of_them(cache: Path, tmp_path: Path) -> None:
    both = f"koge/index-tts-v22@{MAIN}, koge/index-tts-v22@{TAGGED}"
    assert refused(cache, "a1b2c3") == f"a1b2c3 is the beginning of 2 commits: {both}"
    message = refused(cache, "koge/index-tts-v22@a1b2c3")
    assert message == f"koge/index-tts-v22@a1b2c3 is the beginning of 2 commits: {MAIN}, {TAGGED}"
    for folder in (V22, V23):  # a repo and its copy under another name have the same commits
        make_repo(tmp_path, folder, {MAIN: {"a": b"a"}})
    assert "2 commits" in refused(tmp_path, MAIN)
    assert chosen(tmp_path, f"koge/index-tts-v23@{MAIN}") == [f"{V23}@{MAIN[:7]}"]


def test_a_repo_and_its_revision_named_together_are_the_whole_repo(cache: Path) -> None:
    for targets in (("koge/index-tts-v22", "a1b2c3d"), ("a1b2c3d", "koge/index-tts-v22", "koge/*@v1.0")):
        assert V22 in chosen(cache, *targets)
        assert not [one for one in chosen(cache, *targets) if one.startswith(f"{V22}@")]
    named = chosen(cache, "a1b2c3d", "koge/index-tts-v22@v1.0", "koge/index-tts-v22@main")
    assert named == [f"{V22}@{MAIN[:7]}", f"{V22}@{TAGGED[:7]}"]


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        ("koge/index-tts-v2", "koge/index-tts-v22"),
        ("koge/indextts-v23", "koge/index-tts-v23"),
        ("voices", "datasets/koge/voices"),
        ("koge/voices", "datasets/koge/voices"),
        ("indexteam/indextts", "IndexTeam/IndexTTS-2"),
        ("indexteam/indextts-3", "IndexTeam/IndexTTS-2"),
        ("gtp2", "gpt2"),
        ("koge/index-tts-v32@main", "koge/index-tts-v23"),
    ],
)
def test_the_nearest_names_are_told_as_they_are_written(target: str, nearest: str, cache: Path) -> None:
    message = refused(cache, target)
    assert message.startswith(f"{target} is not in the cache; the nearest: ")
    assert nearest in message


def test_of_a_repo_that_is_there_the_revision_is_told_to_be_missing(cache: Path) -> None:
    message = refused(cache, "IndexTeam/IndexTTS-2@nope")
    assert message == "no revision nope of IndexTeam/IndexTTS-2 is cached; nothing was removed"


def test_a_name_means_the_repo_in_each_root_that_has_it(cache: Path, tmp_path: Path) -> None:
    make_repo(tmp_path, V22, {MAIN: {"a": b"a"}})
    both = select.select(["koge/index-tts-v22@main", "gpt2"], [place(cache), place(tmp_path)], "hint")
    assert [[(one.folder, one.commits) for one in found] for found in both] == [
        [("models--gpt2", ()), (V22, (MAIN,))],
        [(V22, (MAIN,))],
    ]


def test_one_commit_of_one_repo_in_two_roots_is_no_matter_of_doubt(cache: Path, tmp_path: Path) -> None:
    make_repo(tmp_path, V22, {MAIN: {"a": b"a"}})
    for target in (MAIN, "a1b2c3d"):
        both = select.select([target], [place(cache), place(tmp_path)], "hint")
        assert [one.commits for found in both for one in found] == [(MAIN,), (MAIN,)]


@pytest.mark.parametrize("target", ["dddddd", "koge/index-tts-v22@dddddd"])
def test_the_beginning_of_different_commits_in_two_roots_is_none_of_them(
    target: str, cache: Path, tmp_path: Path
) -> None:
    make_repo(tmp_path, V22, {"dddddd" + "0" * 34: {"a": b"a"}})
    with pytest.raises(LauncherError, match="2 commits"):
        select.select([target], [place(cache), place(tmp_path)], "hint")


@pytest.fixture
def filled(app: AppFolder) -> AppFolder:
    fill(app.path / "cache_hub")
    return app


def left(app: AppFolder) -> set[str]:
    """Return every path in the app's cache."""
    root = app.path / "cache_hub"
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def remove(app: AppFolder, *targets: str) -> Done:
    return launcher("cache", "remove", "--app-dir", app.path, *targets)


def test_remove_takes_what_was_meant_and_nothing_else(filled: AppFolder) -> None:
    before = left(filled)
    done = remove(filled, "datasets/koge/*", "koge/index-tts-v22@v1.0", "gpt2")
    assert (done.status, done.out) == (0, ""), done.err
    gone = before - left(filled)
    assert {path.split("/")[0] for path in gone} == {VOICES, "models--gpt2", V22}
    kept = {path for path in gone if path.startswith(V22)}
    assert kept == {
        f"{V22}/{path}"
        for path in (f"snapshots/{TAGGED}", f"snapshots/{TAGGED}/config.json", "refs/refs/pr/1", "refs/refs/pr")
        + ("refs/refs", "refs/v1.0")
    }
    assert left(filled) <= before


@pytest.mark.parametrize("targets", [("koge/index-tts-v2",), ("gpt2", "koge/index-tts-v2"), ("koge/*", "a1b2c3")])
def test_one_unknown_or_doubtful_target_among_several_removes_nothing_at_all(
    targets: tuple[str, ...], filled: AppFolder
) -> None:
    before = left(filled)
    done = remove(filled, *targets)
    assert (done.status, done.out) == (2, "")
    assert "koge/index-tts-v22" in done.err
    assert done.err.splitlines()[1].startswith("hint: ")
    if "a1b2c3" not in targets:
        assert done.err.splitlines()[1] == f"hint: {program()} --app-dir {filled.path} cache list"
    assert left(filled) == before


def test_remove_without_a_target_asks_what(filled: AppFolder) -> None:
    done = launcher("cache", "remove", "--app-dir", filled.path)
    assert (done.status, done.err.splitlines()[0]) == (2, "cache remove needs at least one REPO")


def test_a_commit_that_may_be_in_a_repo_which_cannot_be_read_is_not_guessed(filled: AppFolder) -> None:
    locked = filled.path / "cache_hub" / V23 / "snapshots"
    locked.chmod(0)
    try:
        python = (*unprivileged(), sys.executable)
        done = launcher("cache", "remove", "--app-dir", filled.path, "dddddd", python=python)
    finally:
        locked.chmod(0o755)
    assert done.status == 74
    assert (filled.path / "cache_hub" / V22 / "snapshots" / DETACHED).is_dir()
    assert str(locked) in done.err


def test_a_launch_flag_means_the_same_as_the_command(filled: AppFolder) -> None:
    add_ref(filled.path / "cache_hub" / V22, "old", DETACHED)
    flag = launcher(*filled.arguments, "-n", "--json", "--remove-model", "koge/*@old", "datasets/koge/*")
    command = launcher("cache", "remove", "--app-dir", filled.path, "-n", "--json", "koge/*@old", "datasets/koge/*")
    assert command.status == flag.status == 0
    paths = [item["path"] for item in command.json["roots"][0]["remove"]]
    assert f"{filled.path}/cache_hub/{V22}/snapshots/{DETACHED}" in paths
    assert all(path in flag.out for path in paths)
    done = launcher(*filled.arguments, "-n", "--remove-model", "nope/nope")
    assert done.status == 2
