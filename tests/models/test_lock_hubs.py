"""`models lock` takes the official Hub's word before a mirror's, that before none, and a stranger's for nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.apps import AppFolder, free_port
from tests.support.hub import Hub
from tests.support.models import (
    CONFIG,
    DENIED,
    DONE,
    OLD,
    OLD_DAY,
    RETRY,
    USAGE,
    V22,
    V23,
    World,
    expected,
    world_of,
)

TIMEOUT = ("--timeout", "3")
"""Long enough for a hub that does answer, on a machine that is busy."""


@pytest.fixture
def world(app: AppFolder) -> Iterator[World]:
    with world_of(app) as found:
        yield found


def test_the_hubs_word_wins_over_a_mirror_that_lags(world: World) -> None:
    old, new = world.publish()
    world.mirror.freeze(V23, sha=old)
    done = world.pin(V23)
    assert world.models == [expected(world.hub, V23, new)]
    assert "does not have" not in done.err and "only" not in done.err


def test_a_mirror_that_lacks_the_commit_is_warned_of(world: World) -> None:
    old, new = world.publish()
    with Hub() as other:
        assert other.commit(V23, OLD, date=OLD_DAY) == old
        world.configure(HF_ENDPOINT=other.endpoint)
        done = world.pin(V23)
    assert world.models == [expected(world.hub, V23, new)]
    (warning,) = (line for line in done.err.splitlines() if "does not have" in line)
    assert warning.startswith(f"{other.endpoint} does not have {V23} @ {new[:7]}: ")
    assert "HF_ENDPOINT_FALLBACK" in warning


@pytest.mark.parametrize("how", [500, "hang", "html", "refused"])
def test_where_the_hub_does_not_answer_the_mirrors_word_is_taken_with_a_warning(how: int | str, world: World) -> None:
    old, _ = world.publish()
    world.mirror.freeze(V23, sha=old)
    if how == "refused":
        world.configure(HF_OFFICIAL_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    else:
        world.hub.fault("/", how)  # type: ignore[arg-type]
    done = world.pin(V23, *TIMEOUT)
    assert world.models == [expected(world.hub, V23, old)]
    assert f"{V23} @ {old[:7]} is confirmed by {world.mirror.endpoint} only" in done.err


@pytest.mark.slow
def test_a_hub_that_did_not_answer_is_not_waited_for_again(world: World) -> None:
    world.publish()
    world.mirror.fault("/", "hang")
    done = world.run("lock", V23, *TIMEOUT)
    assert done.status == DONE
    assert world.mirror.count("/revision/") == 1
    assert world.mirror.count("/tree/") == 0
    assert "no answer within 3 s" in done.err


def test_a_fallback_is_asked_where_neither_answers_and_the_files_of_a_commit_are_anybodys_to_tell(world: World) -> None:
    _, new = world.publish()
    with world.hub.mirror() as third:
        world.configure(HF_ENDPOINT_FALLBACK=f"http://127.0.0.1:{free_port()}, {third.endpoint}")
        for hub in (world.hub, world.mirror):
            hub.fault("/", 500)
        done = world.pin(V23, *TIMEOUT)
        assert f"is confirmed by {third.endpoint} only" in done.err
    assert world.models == [expected(world.hub, V23, new)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [500, "hang", "html", "truncate", 404])
def test_where_the_hub_tells_the_commit_and_not_its_files_the_mirror_does(kind: int | str, world: World) -> None:
    _, new = world.publish()
    world.hub.fault("/tree/", kind)  # type: ignore[arg-type]
    world.pin(V23, *TIMEOUT)
    assert world.models == [expected(world.hub, V23, new)]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["/", "/tree/"])
@pytest.mark.parametrize("kind", [500, 429, "hang", "html", "reset"])
def test_where_nobody_answers_it_is_to_be_tried_again_and_the_lock_stays(
    kind: int | str, stage: str, world: World
) -> None:
    world.publish()
    world.pin(V23)
    data = world.lock.read_bytes()
    world.hub.commit(V23, {"config.json": b"3"})
    for hub in (world.hub, world.mirror):
        hub.fault(stage, kind)  # type: ignore[arg-type]
    done = world.run("lock", *TIMEOUT)
    assert (done.status, world.lock.read_bytes() == data) == (RETRY, True)
    assert world.hub.endpoint in done.err and world.mirror.endpoint in done.err
    assert V23 in done.err


@pytest.mark.slow
def test_one_of_many_that_cannot_be_resolved_leaves_the_whole_lock_as_it_was(world: World) -> None:
    world.publish(V22)
    world.pin(V22)
    data = world.lock.read_bytes()
    world.hub.commit(V22, {"config.json": b"3"})
    done = world.run("lock", V22, "koge/nothing")
    assert (done.status, world.lock.read_bytes() == data) == (USAGE, True)
    assert "koge/nothing@main" in done.err


@pytest.mark.slow
def test_what_is_not_there_or_has_another_name_or_is_not_for_this_user_is_told_apart(world: World) -> None:
    world.publish()
    world.publish(V22)
    world.hub.rename(V22, "koge/index-tts-2.2")
    gone = world.run("lock", "koge/nothing")
    assert (gone.status, "the repo does not exist, or is private" in gone.err) == (USAGE, True)
    revision = world.run("lock", f"{V23}@v9")
    assert (revision.status, "no such revision" in revision.err) == (USAGE, True)
    world.hub.fault(V23, 403)
    assert world.run("lock", V23).status == DENIED
    assert not world.lock.exists()


def test_a_repo_that_was_renamed_is_pinned_under_the_name_that_the_app_uses_and_told_by_the_new_one(
    world: World,
) -> None:
    _, new = world.publish()
    world.hub.rename(V23, "koge/index-tts-2.3")
    done = world.pin(V23)
    assert f"{V23} is called koge/index-tts-2.3 upstream" in done.err
    assert [(model["repo"], model["commit"]) for model in world.models] == [(V23, new)]
    pulled = world.run("pull")
    assert pulled.status == DONE, pulled.err
    assert (world.cache / "models--koge--index-tts-v23" / "refs" / "main").read_text() == new
    assert world.run("lock", "koge/index-tts-2.3").status == DONE


def test_a_token_goes_to_the_official_hub_alone_and_no_password_into_the_lock(world: World) -> None:
    _, new = world.publish()
    world.hub.gate(V23, private=True)
    secret = "kogeuser:s3cr3t"
    for name, hub in (("HF_ENDPOINT", world.mirror), ("HF_ENDPOINT_FALLBACK", world.mirror)):
        world.configure(**{name: hub.endpoint.replace("://", f"://{secret}@")})
    done = world.run("lock", V23, "--json", env={"HF_TOKEN": world.hub.token})
    assert done.status == DONE
    assert world.models == [expected(world.hub, V23, new)]
    assert {asked.authorization for asked in world.hub.requests} == {f"Bearer {world.hub.token}"}
    assert all("Bearer" not in (asked.authorization or "") for asked in world.mirror.requests)
    assert world.mirror.requests
    shown = done.out + done.err + world.lock.read_text()
    assert "://***@" in shown
    assert not any(part in shown for part in ("kogeuser", "s3cr3t", world.hub.token))


def test_a_hub_that_names_a_file_outside_the_repo_is_not_believed(world: World) -> None:
    world.hub.commit(V23, {"../webui.py": b"evil", "config.json": b"{}"})
    done = world.run("lock", V23)
    assert (done.status, world.lock.exists()) == (RETRY, False)
    assert "'../webui.py', which leads out of the repo" in done.err


def test_offline_nothing_is_resolved_and_no_hub_is_asked(world: World) -> None:
    world.publish()
    done = world.run("lock", V23, env={"HF_HUB_OFFLINE": "1"})
    assert (done.status, world.asked, world.lock.exists()) == (CONFIG, 0, False)
    assert "needs a hub, and HF_HUB_OFFLINE is set" in done.err
