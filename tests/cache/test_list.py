"""`cache list` shows what is in every cache of the app, and what is wrong with it, and changes nothing."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pytest

from tests.support.apps import ROOT, AppFolder, Done, clean_environment, launcher, program
from tests.support.caches import (
    MISSING,
    A,
    B,
    add_blob,
    add_link,
    add_plain,
    make_repo,
    make_trash,
    share,
    unprivileged,
)

V22, VOICES = "models--koge--index-tts-v22", "datasets--koge--voices"
HEADINGS = ["REPO", "REFS", "COMMIT", "SIZE", "LAST", "USED"]
USAGE = 2
IO = 74
CONFIG = 78


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Make a cache with a large repo, a small one, and one with much to say of it."""
    hub = tmp_path / "hub"
    make_repo(hub, VOICES, {A: {"voices.tar": b"v" * 3_100_000}})
    make_repo(hub, "models--koge--small", {A: {"config.json": b"{}"}})
    repo = make_repo(hub, V22, {A: {"s2/model.bin": b"n" * 40_000}, B: {"s2/model.bin": b"o" * 2_000}})
    add_blob(repo, b"p" * 500, f"{MISSING}.incomplete")
    used = time.time() - 3 * 86400 - 7200
    for path in hub.glob("*/blobs/*"):
        os.utime(path, (used, used))
    return hub


def listed(hub: Path, *arguments: str, xet: str = "", **keywords: object) -> Done:
    environment = clean_environment(HF_HUB_CACHE=str(hub), HOME=str(hub.parent), HF_XET_CACHE=xet)
    return launcher("cache", "list", "--app-dir", hub.parent, *arguments, env=environment, **keywords)


def tree(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return everything below a folder by its path, with what would tell a change."""
    found = ((path, path.lstat()) for path in root.rglob("*"))
    return {str(path): (status.st_ino, status.st_size, status.st_mtime_ns) for path, status in found}


def test_the_table_names_the_root_then_the_repos_by_size_then_the_total(hub: Path) -> None:
    before = tree(hub)
    done = listed(hub)
    assert (done.status, done.err) == (0, "")
    root, head, *rows, total = done.out.splitlines()
    assert root == f"cache: {hub} (environment)"
    assert head.split() == [*HEADINGS, "PROBLEM"]
    assert [row.split() for row in rows] == [
        ["datasets/koge/voices", "main", A[:7], "3.1", "MB", "3d2h", "ago"],
        ["koge/index-tts-v22", "main", A[:7], "+1", "42.0", "kB", "3d2h", "ago"]
        + f"{B[:7]}: no ref points to it; 1 partial download, 500 B".split(),
        ["koge/small", "main", A[:7], "2", "B", "3d2h", "ago"],
    ]
    prune = f"{program()} --app-dir {hub.parent} cache prune"
    assert total.startswith(f"3 repos, 3.1 MB, of which {prune} would free 2.5 kB; disk: ")
    assert total.endswith("B free")
    assert tree(hub) == before


def test_sizes_stand_in_a_column_and_there_is_none_for_what_is_wrong_where_nothing_is(tmp_path: Path) -> None:
    for name, size in (("a", 7), ("b", 4_200_000_000), ("c", 999)):
        path = add_plain(make_repo(tmp_path / "hub", f"models--{name}", {A: {}}), A, "x", b"")
        os.truncate(path, size)  # a file of holes: it has the size and takes no space
    _, head, *rows, total = listed(tmp_path / "hub").out.splitlines()
    assert head.split() == HEADINGS
    assert [row.split()[3:5] for row in rows] == [["4.2", "GB"], ["999", "B"], ["7", "B"]]
    end = head.index("SIZE") + len("SIZE")
    assert [row[:end].endswith(("4.2 GB", "999 B", "7 B")) for row in rows] == [True, True, True]
    assert total.startswith("3 repos, 4.2 GB; disk: ")


def test_with_revisions_each_has_a_line_with_its_whole_commit_and_its_own_size(hub: Path) -> None:
    done = listed(hub, "--revisions", "koge/index-tts-v22")
    _, _, *rows, total = done.out.splitlines()
    assert [row.split() for row in rows] == [
        ["koge/index-tts-v22", "main", A, "40.0", "kB", "3d2h", "ago"],
        ["koge/index-tts-v22", "-", B, "2.0", "kB", "3d2h", "ago", *"no ref points to it".split()],
        ["koge/index-tts-v22", "-", "-", "500", "B", "3d2h", "ago", *"1 partial download, 500 B".split()],
    ]
    assert total.startswith("1 repo, 42.5 kB, ")


def test_the_json_is_one_versioned_object_with_every_number(hub: Path) -> None:
    share(hub, b"s" * 70, hub / "models--koge--small" / "blobs" / ("1" * 64))
    add_link(hub / "models--koge--small", A, "shared.bin", "1" * 64)
    (hub / "mine").touch()
    (hub / "models--link").symlink_to("nowhere")
    make_trash(hub)
    done = listed(hub, "--json")
    assert (done.status, done.err, done.out.count("\n")) == (0, "", 1)
    document = done.json
    assert document["version"] == 1
    (root,) = document["roots"]
    assert document["size_bytes"] == root["size_bytes"] == 3_100_000 + 42_500 + 2 + 70
    assert root["reclaimable_bytes"] == 2_500
    assert {name: root[name] for name in ("path", "origin", "owned", "exists", "foreign", "trash", "unreadable")} == {
        "path": str(hub),
        "origin": "environment",
        "owned": True,
        "exists": True,
        "foreign": ["mine"],
        "trash": [".start_app-trash-0123456789abcdef"],
        "unreadable": [],
    }
    assert root["not_repos"] == {"models--link": "it is a link to nowhere, which is not there"}
    voices, repo, small = root["repos"]
    assert (voices["repo"], voices["type"], voices["size_bytes"]) == ("datasets/koge/voices", "dataset", 3_100_000)
    assert (small["size_bytes"], small["files"]) == (72, 2)
    blobs = [path.stat() for path in (hub / V22 / "blobs").iterdir() if path.suffix != ".incomplete"]
    revisions = repo.pop("revisions")
    assert repo == {
        "repo": "koge/index-tts-v22",
        "type": "model",
        "path": str(hub / V22),
        "size_bytes": 42_000,
        "files": 2,
        "refs": ["main"],
        "last_accessed": max(status.st_atime for status in blobs),
        "last_modified": max(status.st_mtime for status in blobs),
        "wrong": [f"{B[:7]}: no ref points to it", "1 partial download, 500 B"],
    }
    facts = ("commit", "refs", "size_bytes", "files", "wrong")
    assert [[revision[fact] for fact in facts] for revision in revisions] == [
        [A, ["main"], 40_000, 1, []],
        [B, [], 2_000, 1, ["no ref points to it"]],
    ]


def test_in_the_json_a_fact_has_one_name_wherever_it_stands(hub: Path) -> None:
    (root,) = listed(hub, "--json").json["roots"]
    repo = root["repos"][0]
    (revision,) = repo["revisions"]
    assert revision.keys() == {"commit", "refs", "size_bytes", "files", "last_modified", "wrong"}
    assert revision.keys() - {"commit"} <= repo.keys()


@pytest.mark.parametrize(
    ("patterns", "repos"),
    [
        (("koge/index-tts-v22",), ["koge/index-tts-v22"]),
        (("koge/*",), ["koge/index-tts-v22", "koge/small"]),
        (("datasets/*/*", "models--koge--small"), ["datasets/koge/voices", "koge/small"]),
    ],
)
def test_only_the_repos_that_are_named_are_listed_and_summed_up(
    patterns: tuple[str, ...], repos: list[str], hub: Path
) -> None:
    (root,) = listed(hub, "--json", *patterns).json["roots"]
    assert [repo["repo"] for repo in root["repos"]] == repos
    sizes = {"koge/index-tts-v22": 42_500, "koge/small": 2, "datasets/koge/voices": 3_100_000}
    assert root["size_bytes"] == sum(sizes[repo] for repo in repos)


@pytest.mark.parametrize("names", [("koge/index-tts-v2",), ("koge/small", "koge/index-tts-v2")])
def test_an_unknown_repo_is_refused_with_the_nearest_named(names: tuple[str, ...], hub: Path) -> None:
    done = listed(hub, *names)
    assert (done.status, done.out) == (USAGE, "")
    error, hint = done.err.splitlines()
    assert error.startswith("koge/index-tts-v2 is not in the cache; the nearest: koge/index-tts-v22")
    assert hint == f"hint: {program()} --app-dir {hub.parent} cache list"
    assert "removed" not in done.err  # nobody wanted to
    problem = listed(hub, "--json", *names)
    assert (problem.status, problem.json["exit_status"], problem.json["version"]) == (USAGE, USAGE, 1)


def test_a_revision_that_is_there_is_not_called_missing_only_because_a_list_is_of_repos(hub: Path) -> None:
    done = listed(hub, "koge/small@main")
    assert "no revision main" not in done.err
    assert "is not in the cache" not in done.err
    assert done.status in (0, USAGE)


def roots(app: AppFolder) -> dict[str, list[str]]:
    """Return the roots that are listed, by their paths in the app's folder, with the repos in them."""
    done = launcher("cache", "list", "--app-dir", app.path, "--json", env=clean_environment(HOME=str(app.path.parent)))
    assert done.status == 0, done.err
    return {
        os.path.relpath(root["path"], app.path): [repo["repo"] for repo in root["repos"]] for root in done.json["roots"]
    }


def test_the_caches_in_the_apps_folder_are_listed_each_for_itself(app: AppFolder) -> None:
    make_repo(app.path / "cache_hub", V22)
    assert roots(app) == {"cache_hub": ["koge/index-tts-v22"]}
    (app.path / "checkpoints" / "hf_cache" / "w2v-bert-2.0").mkdir(parents=True)
    assert roots(app) == {"cache_hub": ["koge/index-tts-v22"]}
    make_repo(app.path / "checkpoints" / "hf_cache", VOICES)
    assert roots(app) == {"cache_hub": ["koge/index-tts-v22"], "checkpoints/hf_cache": ["datasets/koge/voices"]}


def test_a_cache_hub_that_is_the_home_of_the_library_is_listed_by_its_hub(app: AppFolder) -> None:
    make_repo(app.path / "cache_hub" / "hub", V22)
    (app.path / "cache_hub" / "token").write_text("hf_secretsecretsecretsecret")
    assert roots(app) == {"cache_hub/hub": ["koge/index-tts-v22"]}
    make_repo(app.path / "cache_hub", VOICES)
    assert roots(app) == {"cache_hub/hub": ["koge/index-tts-v22"], "cache_hub": ["datasets/koge/voices"]}


def test_several_roots_have_a_table_and_a_total_each(app: AppFolder) -> None:
    app.write_env("HF_HOME=./own\n")
    make_repo(app.path / "cache_hub", V22)
    done = launcher("cache", "list", "--app-dir", app.path)
    assert done.status == 0
    first, second = done.out.split("\n\n")
    assert first.splitlines() == [f"cache: {app.path}/own/hub (.env line 1)", "does not exist"]
    assert second.splitlines()[0] == f"cache: {app.path}/cache_hub (in the app's folder)"
    assert second.splitlines()[-1].startswith("1 repo, 2 B; disk: ")


def test_a_cache_that_is_not_there_and_an_empty_one_are_told_apart(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    done = listed(hub)
    assert (done.status, done.out) == (0, f"cache: {hub} (environment)\ndoes not exist\n")
    assert listed(hub, "--json").json["roots"][0]["exists"] is False
    hub.mkdir()
    done = listed(hub)
    assert done.status == 0
    assert done.out.startswith(f"cache: {hub} (environment)\nno repos; disk: ")
    assert listed(hub, "--json").json["roots"][0]["exists"] is True
    done = listed(hub, "koge/index-tts-v22")
    assert (done.status, done.err.splitlines()[0].split(";")[0]) == (USAGE, "koge/index-tts-v22 is not in the cache")


def test_a_cache_that_is_no_folder_is_a_mistake_in_a_setting(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    hub.write_text("")
    done = listed(hub)
    assert (done.status, done.out) == (CONFIG, "")
    assert done.err.splitlines()[0].startswith(f"{hub} is ")
    hub.unlink()
    hub.symlink_to("nowhere")
    done = listed(hub)
    assert (done.status, done.out) == (CONFIG, "")
    assert done.err.splitlines()[0] == f"{hub} is a dangling link (HF_HUB_CACHE, environment)"


def test_a_cache_that_may_not_be_read_is_not_taken_for_an_empty_one(hub: Path) -> None:
    hub.chmod(0)
    try:
        done = listed(hub, python=(*unprivileged(), sys.executable))
    finally:
        hub.chmod(0o755)
    assert (done.status, done.out) == (IO, "")
    assert done.err.splitlines()[0] == f"cannot read or write {hub}: permission denied"


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--revisions",), ("koge/index-tts-v22",)])
def test_a_repo_that_cannot_be_read_is_named_among_the_others_and_is_a_failure(
    arguments: tuple[str, ...], hub: Path
) -> None:
    (hub / V22 / "snapshots").rename(hub / V22 / "trees")
    (hub / V22 / "snapshots").touch()
    done = listed(hub, *arguments)
    assert done.status == IO
    assert f"{hub}/{V22}" in done.out
    assert "it cannot be read: not a directory" in done.out
    if "koge/index-tts-v22" not in arguments:
        assert "koge/small" in done.out


def test_no_app_is_needed_to_look_at_its_cache(tmp_path: Path) -> None:
    make_repo(tmp_path / "cache_hub", V22)
    env = clean_environment(HOME=str(tmp_path), PYTHONPATH=str(ROOT))
    done = launcher("cache", "list", cwd=tmp_path, python=(sys.executable, "-m"), start_app=Path("launcher"), env=env)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0] == f"cache: {tmp_path}/cache_hub (default: cache_hub in the app's folder)"


def test_a_hostile_name_does_not_drive_the_terminal(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    hostile = "\x1b[2J\x1b]0;owned\x07\r\n\u202e\udcff\x9b31m"
    repo = make_repo(hub, f"models--a--{hostile}", {A: {"x": b"x"}, f"c{hostile}": {"y": b"y"}}, {f"r{hostile}": A})
    add_link(repo, A, hostile, MISSING)
    (repo / f"foreign{hostile}").touch()
    (hub / f"mine{hostile}").touch()
    (hub / f"models--link{hostile}").symlink_to(f"nowhere{hostile}")
    unreadable = make_repo(hub, f"models--b--{hostile}")
    (unreadable / "snapshots").rename(unreadable / "x")
    (unreadable / "snapshots").touch()
    for arguments in ((), ("--revisions",), (f"nope{os.fsencode(hostile).decode('latin-1')}",), ("--json",)):
        done = listed(hub, *arguments)
        assert (done.out + done.err).replace("\n", "").isprintable(), arguments
    assert len(listed(hub).out.splitlines()) == 7
    assert "a/\\x1b[2J\\x1b]0;owned\\x07\\r\\n\\u202e\\udcff\\x9b31m" in listed(hub).out
    name = listed(hub, "--json").json["roots"][0]["repos"][0]["repo"]
    assert name == f"a/{hostile}"


def test_a_token_beside_the_cache_is_never_shown(tmp_path: Path) -> None:
    secret = "hf_" + "s3cr3t" * 5
    home = tmp_path / "home"
    for name in ("token", "stored_tokens", "hub/token", "hub/models--koge--index-tts-v22/token"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(secret)
    make_repo(home / "hub", f"models--koge--{secret}")
    env = clean_environment(HF_HOME=str(home), HF_TOKEN=secret)
    for arguments in ((), ("--json",), ("-v",), ("--revisions",), (f"koge/{secret[:-1]}",)):
        done = launcher("cache", "list", "--app-dir", tmp_path, *arguments, env=env)
        assert "s3cr3t" not in done.out + done.err
        assert done.status == (USAGE if secret[:-1] in str(arguments) else 0)


WRONG = (
    ("cache --older-than 3d", "cache needs a command: list, remove, clear, prune, verify", "--older-than 3d"),
    ("cache frob", "unknown command 'cache frob'", "cache --help"),
    ("cache lst", "unknown command 'cache lst'", "cache --help"),
    ("frob list", "unknown command 'frob'", "-- frob list"),
    ("cache list --older-than 3d", "--older-than does not go with cache list, only with cache prune", "--help"),
    ("cache list --older-than=3d", "--older-than does not go with cache list, only with cache prune", "--help"),
    ("--max-size 3G cache list", "--max-size does not go with cache list, only with cache prune", "--help"),
    ("cache list --keep x", "--keep does not go with cache list, only with cache prune", "--help"),
    ("cache list -n", "--dry-run does not go with cache list, only with cache clear", "--help"),
    ("cache list -qy", "--yes does not go with cache list", "--help"),
    ("cache list --clear-cache", "--clear-cache does not go with cache list, only with launch", "--help"),
    ("cache clear --revisions", "--revisions does not go with cache clear, only with cache list", "--help"),
    ("cache remove x --older-than 3d", "--older-than does not go with cache remove, only with cache prune", "--help"),
    ("cache list -- --fp16", "cache list takes no arguments for the app", "-- --fp16"),
    ("cache list --frob", "unknown option --frob", "-- --frob"),
    ("--older-than 3d", "--older-than, --max-size, --keep and --unlocked have no effect without", "--prune-cache"),
    ("--max-size 3G -n", "--older-than, --max-size, --keep and --unlocked have no effect without", "--prune-cache"),
    ("--keep x", "--older-than, --max-size, --keep and --unlocked have no effect without", "--prune-cache"),
    ("--clear-cache --prune-cache", "--clear-cache removes every model", "--clear-cache"),
    ("--remove-model", "argument --remove-model: expected at least one argument", "--help"),
    *(
        (f"{command}={value}", f"--older-than: '{value}' is not a time span such as 30d", "--help")
        for command in ("cache prune --older-than", "--prune-cache --older-than")
        for value in ("", "soon", "3y", "-3d", "3d4h", "1e3", "nan", "inf", "d")
    ),
    *(
        (f"cache prune --max-size={value}", f"--max-size: '{value}' is not a size such as 50G", "--help")
        for value in ("", "much", "5X", "-1G", "1e9", "nan", "G", "9" * 400)
    ),
)


@pytest.mark.parametrize(("line", "error", "hint"), WRONG, ids=[line[:40] for line, _, _ in WRONG])
def test_a_command_line_that_means_nothing_is_refused_with_a_hint(
    line: str, error: str, hint: str, tmp_path: Path
) -> None:
    make_repo(tmp_path / "cache_hub", V22)
    done = launcher("--app-dir", tmp_path, *line.split(" "))
    assert (done.status, done.out) == (USAGE, ""), done.err
    told, help_ = done.err.splitlines()
    assert told.startswith(error)
    assert help_.startswith("hint: ") and help_.endswith(hint)
    assert (tmp_path / "cache_hub" / V22 / "refs" / "main").read_text() == A


def test_the_list_has_the_xet_cache_and_what_old_versions_left(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    add_plain(make_repo(hub, "models--a", {A: {}}), A, "x", b"12")
    left, other = hub / "tmpa1b2c3_4", hub / "tmpa1b2c3_5"
    left.write_bytes(b"1" * 700)
    left.chmod(0o600)
    other.write_text("somebody's")
    other.chmod(0o644)
    chunks = tmp_path / "xet" / "chunk-cache" / "x"
    chunks.parent.mkdir(parents=True)
    chunks.write_bytes(b"1" * 3000)
    done = listed(hub, xet=str(tmp_path / "xet"))
    assert f"1 partial download, 700 B, of huggingface_hub 0.22 or older: {left}\n" in done.out
    assert "not huggingface_hub's, never touched: tmpa1b2c3_5\n" in done.out
    assert f"xet: {tmp_path}/xet, 3.0 kB, chunks for later downloads, not models" in done.out
    found = listed(hub, "--json", xet=str(tmp_path / "xet")).json
    assert found["xet"] == {"path": str(tmp_path / "xet"), "size_bytes": 3000}
    assert found["roots"][0]["free_bytes"] > 0
    assert found["roots"][0]["temporary"] == [{"path": str(left), "size_bytes": 700}]


def test_what_a_hard_link_keeps_is_not_announced_as_freed(tmp_path: Path) -> None:
    """A copy by `cp -al`, and a blob that two repos share, keep their bytes until the last name goes."""
    hub = tmp_path / "hub"
    first = make_repo(hub, V22, {A: {"gpt.pth": b"x" * 50_000}})
    second = make_repo(hub, VOICES, {A: {"gpt.pth": b"x" * 50_000, "own.pth": b"o" * 7_000}})
    third = make_repo(hub, "models--koge--plain", {A: {}})
    plain = add_plain(third, A, "s2mel.pth", b"p" * 9_000)
    os.link(plain, tmp_path / "s2mel.pth")
    for path in (second / "blobs").iterdir():
        other = first / "blobs" / path.name
        if other.exists():
            path.unlink()
            os.link(other, path)

    def sizes(*arguments: str) -> list[int]:
        environment = clean_environment(HF_HUB_CACHE=str(hub), HOME=str(tmp_path))
        dry = ("--dry-run", "--json", "--yes", "--app-dir", tmp_path)
        done = launcher("cache", *arguments, *dry, env=environment)
        assert done.status == 0, done.err
        return [root["size_bytes"] for root in done.json["roots"]]

    assert sizes("clear") == [57_000]
    assert sizes("remove", "koge/index-tts-v22") == [0]
    assert sizes("remove", "koge/plain") == [0]
    os.link(first / "blobs" / next((first / "blobs").iterdir()).name, tmp_path / "backup.pth")
    assert sizes("clear") == [7_000]
    assert listed(hub, "--json").json["roots"][0]["size_bytes"] == 66_000


def test_no_size_in_the_list_of_revisions_is_below_zero(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    repo = make_repo(hub, V22, {A: {"gpt.pth": b"x" * 5_000}})
    add_plain(repo, A, "voice.wav", b"mine" * 100)
    add_blob(repo, b"orphan" * 10)
    done = listed(hub, "--revisions")
    assert done.status == 0 and "not huggingface_hub's" in done.out
    assert not re.search(r" -\d", done.out)
    assert "60 B" in done.out
