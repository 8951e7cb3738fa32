"""`models check` tells in words how what is here stands to what the mirror and the Hub say, each asked for itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.apps import START_APP, AppFolder, clean_environment
from tests.support.hub_cache import Library
from tests.support.models import (
    CONFIG,
    DONE,
    NEW,
    NEW_DAY,
    OLD,
    OLD_DAY,
    STALE,
    USAGE,
    V22,
    V23,
    VOICES,
    World,
    cells,
    detail,
    put,
    verdict,
    verdicts,
    world_of,
)
from tests.support.removal import everything

OLD_DATE, NEW_DATE = f"{OLD_DAY:%Y-%m-%d}", f"{NEW_DAY:%Y-%m-%d}"


@pytest.fixture
def world(app: AppFolder) -> Iterator[World]:
    with world_of(app) as found:
        yield found


def test_what_both_hubs_say_is_the_newest_is_up_to_date(world: World) -> None:
    _, new = world.publish()
    world.put(new)
    before = everything(world.cache)
    done = world.check()
    assert done.status == DONE
    assert cells(done) == {
        "MODEL": ["REVISION", "LOCAL", "MIRROR", "HUB", "VERDICT"],
        V23: ["main", new[:7], new[:7], new[:7], "up to date"],
    }
    assert done.err.splitlines() == [f"mirror: {world.mirror.endpoint}", f"hub: {world.hub.endpoint}"]
    assert everything(world.cache) == before
    assert {asked.method for hub in (world.hub, world.mirror) for asked in hub.requests} == {"GET", "HEAD"}
    assert world.hub.count("/cdn/", None) == world.hub.count("/resolve/") == 0


def test_json_is_one_object_with_the_whole_commits_and_the_dates(world: World) -> None:
    old, new = world.publish()
    world.put(old)
    said = {"commit": new, "date": NEW_DATE, "files_commit": new, "error": None}
    done = world.check("--json")
    assert done.json == {
        "version": 1,
        "offline": False,
        "locked": False,
        "mirror": world.mirror.endpoint,
        "hub": world.hub.endpoint,
        "models": [
            {
                "repo": V23,
                "name": V23,
                "revision": "main",
                "local": old,
                "pinned": None,
                "mirror": said,
                "hub": said,
                "verdict": "local behind",
                "stale": True,
                "detail": f"{old[:7]} of {OLD_DATE}, {new[:7]} of {NEW_DATE} upstream",
                "missing_files": [],
                "extra_files": [],
            }
        ],
        "exit_status": STALE,
    }
    assert (done.status, len(done.out.splitlines())) == (STALE, 1)


def test_an_older_commit_here_is_local_behind_with_both_dates_and_the_way_out(world: World) -> None:
    old, new = world.publish()
    world.put(old)
    done = world.check()
    assert done.status == STALE
    assert cells(done)[V23] == [
        "main", old[:7], new[:7], new[:7],
        f"local behind: {old[:7]} of {OLD_DATE}, {new[:7]} of {NEW_DATE} upstream",
    ]  # fmt: skip
    hint = done.err.splitlines()[-1]
    assert hint.startswith("hint: ") and " models pull; " in hint and " --force-refresh" in hint


def test_a_mirror_that_lags_behind_an_up_to_date_disk_is_named_and_no_failure(world: World) -> None:
    old, new = world.publish()
    world.put(new)
    world.mirror.freeze(V23, sha=old)
    done = world.check()
    assert done.status == DONE
    assert cells(done)[V23] == [
        "main", new[:7], old[:7], new[:7], f"mirror behind the Hub: it says {old[:7]} of {OLD_DATE}"
    ]  # fmt: skip


def test_where_the_mirror_lags_too_the_hub_tells_that_the_disk_is_behind(world: World) -> None:
    old, new = world.publish()
    world.put(old)
    world.mirror.freeze(V23, sha=old)
    done = world.check("--json")
    assert (done.status, verdict(done)) == (STALE, "local behind")
    assert NEW_DATE in detail(done)


@pytest.mark.parametrize("stale", ["api", "files"])
def test_a_mirror_whose_api_and_files_are_of_different_commits_is_inconsistent(world: World, stale: str) -> None:
    old, new = world.publish()
    world.put(new)
    world.mirror.freeze(V23, **{stale: old})
    done = world.check()
    assert done.status == DONE
    api, files = (old, new) if stale == "api" else (new, old)
    assert cells(done)[V23] == [
        "main", new[:7], f"{api[:7]}/{files[:7]}", new[:7],
        f"mirror inconsistent: its API says {api[:7]}, its files are {files[:7]}: a pull by commit is not affected",
    ]  # fmt: skip
    said = world.check("--json").json["models"][0]["mirror"]
    assert (said["commit"], said["files_commit"]) == (api, files)


@pytest.mark.slow
def test_what_is_newest_here_and_another_commit_in_the_lock_is_pinned_elsewhere(world: World) -> None:
    old, new = world.publish()
    world.hub.freeze(V23, sha=old)
    world.pin(V23)
    world.hub.thaw()
    world.put(new)
    done = world.check("--json")
    assert (done.status, verdict(done)) == (DONE, "pinned elsewhere")
    assert detail(done) == f"what is pinned is {old[:7]}"
    assert (done.json["models"][0]["local"], done.json["models"][0]["pinned"]) == (new, old)


@pytest.mark.slow
def test_a_disk_that_is_behind_the_hub_and_not_what_is_pinned_is_behind_and_says_both(world: World) -> None:
    old, new = world.publish()
    world.pin(V23)
    newest = world.hub.commit(V23, {"config.json": b"3"})
    world.put(old)
    done = world.check("--json")
    assert (done.status, verdict(done)) == (STALE, "local behind")
    assert newest[:7] in detail(done) and f"what is pinned is {new[:7]}" in detail(done)


def test_a_file_that_upstream_has_deleted_is_no_reason_not_to_compare(world: World) -> None:
    gone = world.hub.commit(V23, {"a.json": b"1", "config.json": b"1"}, date=OLD_DAY)
    new = world.hub.commit(V23, {"config.json": b"1"}, date=NEW_DAY)
    world.put(gone)
    world.mirror.freeze(V23, api=gone)
    said = world.check("--json").json["models"][0]
    assert (said["verdict"], said["hub"]["files_commit"], said["hub"]["error"]) == ("local behind", new, None)
    assert (said["mirror"]["commit"], said["mirror"]["files_commit"]) == (gone, new)


@pytest.mark.parametrize("lacking", ["a blob", "a file of the lock", "the snapshot", "the ref", "a file that was cut"])
def test_what_is_not_whole_here_is_incomplete_whatever_the_hubs_say(world: World, lacking: str) -> None:
    _, new = world.publish()
    if lacking in ("a file of the lock", "a file that was cut"):
        world.pin(V23)
    repo = world.put(new)
    path = repo / "snapshots" / new / "gpt.safetensors"
    if lacking == "a blob":
        path.resolve().unlink()
    elif lacking == "a file of the lock":
        path.unlink()
    elif lacking == "a file that was cut":
        os.truncate(path, 10)
    elif lacking == "the snapshot":
        (repo / "snapshots").rename(repo / "gone")
    else:
        (repo / "refs" / "main").write_text("e" * 40)
    done = world.check("--json")
    assert (done.status, verdict(done)) == (STALE, "incomplete locally")
    assert ("gpt.safetensors" in detail(done)) == (lacking not in ("the snapshot", "the ref"))


@pytest.mark.slow
def test_a_locked_model_that_is_not_here_beside_one_that_is_is_incomplete(world: World) -> None:
    _, new = world.publish()
    world.publish(V22)
    world.pin(V22, V23)
    world.put(new)
    done = world.check("--json")
    assert (done.status, verdicts(done)) == (STALE, {V22: "incomplete locally", V23: "up to date"})
    assert "not downloaded" in done.out


@pytest.mark.slow
def test_with_nothing_of_the_lock_here_the_lock_is_what_is_compared(world: World) -> None:
    _, new = world.publish()
    world.pin(V23)
    done = world.check()
    assert done.status == DONE
    assert cells(done)[V23] == ["main", "-", new[:7], new[:7], "up to date"]
    assert "none of the locked models is on this machine: comparing models.lock itself" in done.err
    newest = world.hub.commit(V23, {"config.json": b"3"})
    behind = world.check("--json")
    assert (behind.status, verdict(behind)) == (STALE, "local behind")
    assert new[:7] in detail(behind) and newest[:7] in detail(behind)


def test_what_upstream_has_deleted_is_gone_and_so_is_a_branch(world: World) -> None:
    _, new = world.publish()
    world.put(new)
    branch = world.hub.commit(V22, NEW, branch="v2")
    world.put(branch, V22, ref="v2")
    world.hub.remove(V23)
    del world.hub.repo(V22).branches["v2"]
    done = world.check("--json")
    assert done.status == STALE
    assert verdicts(done) == {V22: "gone or renamed upstream", V23: "gone or renamed upstream"}
    assert "no such revision" in done.out and "the repo does not exist, or is private" in done.out


@pytest.mark.slow
def test_a_repo_that_has_another_name_upstream_is_followed_and_told_by_it(world: World) -> None:
    _, new = world.publish()
    voice = world.publish(VOICES)[1]
    world.put(new)
    world.put(voice, VOICES)
    world.hub.rename(V23, "koge/index-tts-2.3")
    world.hub.rename("koge/voices", "koge/all-voices", repo_type="dataset")
    with Library(world.hub) as library:  # as the real hub, it leads from the old name to the new one
        assert library.api("model_info", V23)["id"] == "koge/index-tts-2.3"
        assert library.download(world.cache, V23).endswith(new)
    done = world.check()
    assert done.status == DONE
    assert cells(done)[V23][-1] == "up to date: it is called koge/index-tts-2.3 there"
    assert cells(done)[VOICES][-1] == "up to date: it is called datasets/koge/all-voices there"
    newest = world.hub.commit("koge/index-tts-2.3", {"config.json": b"3"})
    behind = world.check("--json", V23)
    assert (behind.status, verdict(behind)) == (STALE, "local behind")
    assert newest[:7] in detail(behind) and "koge/index-tts-2.3" in detail(behind)


@pytest.mark.slow
def test_what_is_gated_and_not_for_this_user_is_told_as_such(world: World) -> None:
    _, new = world.publish()
    world.put(new)
    world.hub.gate(V23)
    done = world.check("--json")
    assert (done.status, verdict(done)) == (STALE, "gated, no access")
    world.hub.gate(V23, granted=False)
    assert verdict(world.check("--json", env={"HF_TOKEN": world.hub.token})) == "gated, no access"
    world.hub.gate(V23)
    granted = world.check("--json", env={"HF_TOKEN": world.hub.token})
    assert (granted.status, verdict(granted)) == (DONE, "up to date")


def test_a_private_repo_is_gone_without_a_token_and_compared_with_one(world: World) -> None:
    _, new = world.publish()
    world.put(new)
    world.hub.gate(V23, gated=False, private=True)
    assert verdict(world.check("--json")) == "gone or renamed upstream"
    granted = world.check("--json", env={"HF_TOKEN": world.hub.token})
    assert (granted.status, verdict(granted)) == (DONE, "up to date")


def test_a_commit_that_was_forced_away_upstream_is_behind_with_the_date_that_is_known(world: World) -> None:
    _, new = world.publish()
    world.put(new)
    forced = world.hub.commit(V23, {"config.json": b"forced"}, date=NEW_DAY)
    del world.hub.repo(V23).commits[new]
    done = world.check("--json")
    assert (done.status, verdict(done)) == (STALE, "local behind")
    assert detail(done) == f"{new[:7]}, {forced[:7]} of {NEW_DATE} upstream"


def test_a_ref_with_any_other_text_than_a_commit_leads_to_nothing(world: World) -> None:
    """No app can load `main` by it, so the commit beside it is not what counts."""
    _, new = world.publish()
    ref = world.put(new) / "refs" / "main"
    ref.write_text(new.upper())
    done = world.check("--json")
    assert (done.status, verdict(done)) == (STALE, "incomplete locally")
    assert detail(done) == "no snapshot of it"


def test_an_older_copy_in_another_cache_of_the_app_is_behind_and_the_hint_helps(world: World) -> None:
    """An app whose code names its own cache loads that one."""
    old, new = world.publish()
    world.put(new)
    other = world.app.path / "checkpoints" / "hf_cache"
    put(world.hub, other, old)
    done = world.check("--json")
    name = f"{V23} in {other}"
    assert (done.status, verdicts(done)) == (STALE, {V23: "up to date", name: "local behind"})
    told = world.check(V23)
    assert f"cache remove {V23}@{old} removes {name}" in told.err and "models pull" not in told.err
    put(world.hub, other, new)
    shutil.rmtree(other / "models--koge--index-tts-v23" / "snapshots" / old)
    assert verdicts(world.check("--json")) == {V23: "up to date"}


def test_without_a_lock_each_cached_repo_is_checked_by_each_of_its_refs_else_by_its_commit(world: World) -> None:
    old, new = world.publish()
    world.hub.tag(V23, "v1.0", old)
    world.put(new)
    world.put(old, ref="v1.0")
    branch = world.publish(V22)[0]
    world.hub.commit(V22, {**OLD, "config.json": b"half"}, branch="fp16")
    world.put(branch, V22, ref="fp16")
    world.put(branch, V22, ref="start_app")
    world.put(world.publish(VOICES)[1], VOICES)
    lone = world.publish("gpt2")[0]
    world.put(lone, "gpt2", ref=None)
    done = world.check("--json")
    assert done.status == STALE
    assert [(one["repo"], one["revision"], one["verdict"]) for one in done.json["models"]] == [
        (VOICES, "main", "up to date"),
        ("gpt2", lone, "up to date"),
        (V22, "fp16", "local behind"),
        (V23, "main", "up to date"),
        (V23, "v1.0", "up to date"),
    ]
    named = world.check("--json", f"{V23}@v1.0")
    assert [one["revision"] for one in named.json["models"]] == ["v1.0"]


@pytest.mark.slow
def test_what_huggingface_hub_itself_has_cached_is_judged_the_same(world: World) -> None:
    old, new = world.publish()
    voice = world.publish(VOICES)[1]
    ours = world.app.path / "ours"
    put(world.hub, ours, new)
    put(world.hub, ours, voice, VOICES)
    with Library(world.hub) as library:
        library.download(world.cache, V23)
        library.download(world.cache, "koge/voices", repo_type="dataset")
        for repo, kind in ((V23, "model"), ("koge/voices", "dataset")):
            assert library.load(ours, repo, repo_type=kind) == library.load(world.cache, repo, repo_type=kind) == NEW
    done = world.check("--json")
    assert (done.status, verdicts(done)) == (DONE, {V23: "up to date", VOICES: "up to date"})


def test_a_ref_that_a_download_to_a_folder_left_is_no_model_of_the_cache(world: World) -> None:
    _, new = world.publish()
    with Library(world.hub, env={"HF_HUB_CACHE": str(world.cache)}) as library:
        library.ask("api", "snapshot_download", (V23,), {"local_dir": str(world.app.path / "checkpoints")})
    left = world.cache / "models--koge--index-tts-v23"
    if not left.is_dir():
        pytest.skip("this huggingface_hub leaves nothing in the cache")
    assert not (left / "snapshots").exists()
    done = world.check("--json")
    assert (done.status, verdicts(done)) == (DONE, {f"{V23} in checkpoints": "up to date"})


@pytest.mark.slow
def test_a_model_in_a_folder_of_the_apps_is_checked_where_it_lies(world: World) -> None:
    _, new = world.publish()
    world.pin(V23, "--local-dir", "checkpoints")
    with Library(world.hub) as library:
        library.ask("api", "snapshot_download", (V23,), {"local_dir": str(world.app.path / "checkpoints")})
    done = world.check("--json")
    assert (done.status, verdicts(done)) == (DONE, {f"{V23} in checkpoints": "up to date"})
    (world.app.path / "checkpoints" / "gpt.safetensors").unlink()
    torn = world.check("--json")
    assert (torn.status, verdict(torn)) == (STALE, "incomplete locally")
    assert "gpt.safetensors" in detail(torn)


@pytest.mark.slow
def test_repos_that_are_named_are_checked_and_no_others_beside_a_lock_too(world: World) -> None:
    for repo in (V22, V23, VOICES):
        world.put(world.publish(repo)[1], repo)
    assert verdicts(world.check("--json", V23, VOICES)) == {V23: "up to date", VOICES: "up to date"}
    world.pin(V22)
    assert verdicts(world.check("--json")) == {V22: "up to date"}
    assert verdicts(world.check("--json", "models--koge--index-tts-v23")) == {V23: "up to date"}
    world.hub.forget()
    world.check(V22)
    assert world.hub.count(V22, None) == len(world.hub.requests) > 0


@pytest.mark.parametrize("named", ["koge/index-tts-v24", "koge/index-tts", "../etc", "koge/*", "nothing"])
def test_a_repo_that_is_not_here_is_refused_with_the_nearest_before_any_hub_is_asked(world: World, named: str) -> None:
    world.put(world.publish()[1])
    done = world.check(named)
    assert (done.status, done.out) == (USAGE, "")
    assert done.err.startswith(f"{named} is not in the cache")
    assert ("; the nearest: koge/index-tts-v23" in done.err) == named.startswith("koge/index")
    assert world.asked == 0


def test_a_revision_that_is_named_is_checked_or_refused_but_not_another_in_its_place(world: World) -> None:
    old, new = world.publish()
    world.hub.tag(V23, "v1.0", old)
    world.put(new)
    world.put(old, ref="v1.0")
    done = world.check("--json", f"{V23}@v1.0")
    assert done.status == USAGE or done.json["models"][0]["revision"] == "v1.0"


def test_offline_no_hub_is_asked_and_only_what_is_not_whole_counts(world: World) -> None:
    old, _ = world.publish()
    repo = world.put(old)
    world.configure(HF_HUB_OFFLINE="1")
    done = world.check("--json")
    assert (done.status, verdict(done)) == (DONE, "not compared")
    assert (done.json["offline"], done.json["models"][0]["hub"], done.json["models"][0]["mirror"]) == (True, None, None)
    assert "HF_HUB_OFFLINE is set: no hub was asked" in done.err
    (repo / "snapshots" / old / "config.json").resolve().unlink()
    torn = world.check()
    assert torn.status == STALE
    assert cells(torn)[V23] == ["main", old[:7], "-", "-", "incomplete locally: 1 of 3 files missing: config.json"]
    assert world.asked == 0


def test_nothing_to_check_is_told_and_is_no_failure(world: World) -> None:
    done = world.check()
    assert (done.status, done.out) == (DONE, "")
    assert f"no models: no models.lock, and nothing in {world.cache}" in done.err
    world.lock.write_text('{"version": 1, "models": []}')
    empty = world.check()
    assert (empty.status, empty.out) == (DONE, "")
    assert "neither a models.lock" not in empty.err
    assert world.asked == 0


def test_a_lock_that_is_nonsense_is_refused_before_any_hub_is_asked(world: World) -> None:
    world.put(world.publish()[1])
    world.lock.write_text(json.dumps({"version": 1, "models": [{"repo": "../../etc"}]}))
    done = world.check()
    assert (done.status, done.out, world.asked) == (CONFIG, "", 0)
    assert done.err.startswith(f"{world.lock}: models[0].repo: '../../etc' is not the name of a repo")
    assert "hint: git checkout models.lock" in done.err


def test_in_a_log_that_takes_both_streams_the_hint_stands_behind_the_table(world: World) -> None:
    old, _ = world.publish()
    world.put(old)
    words = (sys.executable, START_APP, "models", "check", "--app-dir", world.app.path)
    done = subprocess.run(words, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    beginnings = [line.split()[0] for line in done.stdout.splitlines()]
    assert beginnings == ["mirror:", "hub:", "MODEL", V23, "hint:"]
