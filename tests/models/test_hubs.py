"""Whatever a hub does, `models check` ends with what the other says, and no secret goes where it does not belong."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import psutil
import pytest

from tests.support.apps import AppFolder, Done, Processes, alive, eventually, free_port
from tests.support.hub import Hub, Kind
from tests.support.hub_answers import Request, Response
from tests.support.hub_files import Repo, Store
from tests.support.models import (
    CONFIG,
    DONE,
    NEW_DAY,
    OLD_DAY,
    RETRY,
    STALE,
    V22,
    V23,
    World,
    deaf,
    detail,
    verdict,
    verdicts,
    world_of,
)

USER, PASSWORD = "kogeuser", "s3cr3t-pa55"
TIMEOUT = ("--timeout", "3")
"""Long enough for a hub that does answer, on a machine that is busy."""


SLOW_DISK = """\
import sys, time

class Disk:
    def find_spec(self, name, path=None, target=None):
        if name == "huggingface_hub.hf_api":
            time.sleep(4)

sys.meta_path.insert(0, Disk())
"""


@pytest.fixture
def world(app: AppFolder) -> Iterator[World]:
    with world_of(app) as found:
        yield found


@pytest.fixture
def new(world: World) -> str:
    """Have the newest commit published, and cached."""
    _, new = world.publish()
    world.put(new)
    return new


def said(done: Done, who: str) -> str:
    """Return what kept the only model from being compared with the `mirror` or the `hub`."""
    (one,) = done.json["models"]
    return one[who]["error"] or ""


def tokens(hub: Hub) -> set[str | None]:
    """Return what a hub was sent to tell who asks."""
    assert hub.requests
    return {asked.authorization for asked in hub.requests}


@pytest.mark.slow
def test_what_can_be_compared_with_nobody_is_unreachable_and_to_be_tried_again(world: World, new: str) -> None:
    world.put(world.publish(V22)[0], V22)
    for hub in (world.hub, world.mirror):
        hub.fault(V23, 500)
    both = world.check("--json")
    assert (both.status, verdicts(both)) == (STALE, {V22: "local behind", V23: "unreachable"})
    alone = world.check("--json", V23)
    assert (alone.status, verdict(alone)) == (RETRY, "unreachable")
    assert detail(alone) == "the Hub: it answers 500; the mirror: it answers 500"


@pytest.mark.slow
def test_where_the_hub_does_not_answer_the_mirrors_word_counts_as_far_as_dates_tell(world: World, new: str) -> None:
    old = world.hub.repo(V23).commits[new].parent
    assert old
    world.hub.fault("/", 500)
    same = world.check("--json")
    assert (same.status, verdict(same)) == (DONE, "up to date")
    assert detail(same) == "with the mirror; the Hub: it answers 500"
    world.mirror.freeze(V23, sha=old)
    lags = world.check("--json")
    assert (lags.status, verdict(lags)) == (DONE, "mirror behind the Hub")
    world.mirror.thaw()
    world.put(old)
    behind = world.check("--json")
    assert (behind.status, verdict(behind)) == (STALE, "local behind")
    assert f"{OLD_DAY:%Y-%m-%d}" in detail(behind) and f"{NEW_DAY:%Y-%m-%d}" in detail(behind)
    del world.hub.repo(V23).commits[old]
    unknown = world.check("--json")
    assert (unknown.status, verdict(unknown)) == (RETRY, "unreachable")


@pytest.mark.slow
def test_a_mirror_that_ignores_the_asked_commit_dates_nothing_and_takes_nothing_back(world: World, new: str) -> None:
    old = world.hub.repo(V23).commits[new].parent
    assert old
    world.hub.fault("/", 500)
    world.mirror.freeze(V23, sha=old)
    world.mirror.freeze(V23, new, old)
    done = world.check("--json")
    assert (done.status, verdict(done)) == (RETRY, "unreachable")
    assert f"does not know {new[:7]}" in detail(done)
    pulled = world.run("pull")
    assert pulled.status == RETRY, pulled.err
    assert (world.cache / "models--koge--index-tts-v23" / "refs" / "main").read_text() == new


@pytest.mark.slow
@pytest.mark.parametrize("listed", [(), ("other.bin",)])
def test_a_list_of_files_that_cannot_be_the_commits_makes_nothing_complete(
    listed: tuple[str, ...], world: World, new: str
) -> None:
    commit = world.hub.repo(V23).commits[new]
    lying = replace(commit, files=dict.fromkeys(listed, next(iter(commit.files.values()))))
    store = Store(world.hub.token, False, {("model", V23): Repo(V23, "model", {new: lying}, {"main": new})})
    world.hub.fault("/", 500)
    with Hub(store=store) as liar:
        world.configure(HF_ENDPOINT=liar.endpoint)
        done = world.check("--json")
        assert (done.status, verdict(done)) == (RETRY, "unknown")
        pinned = world.run("lock", V23)
    assert listed or (pinned.status == RETRY and "it lists no files" in pinned.err), pinned.err


FAULTS: list[tuple[Kind, str]] = [
    (500, "it answers 500"),
    (403, "it answers 403"),
    (404, "it answers 404"),
    (401, "it answers 401"),
    (429, "it answers 429, too many requests: try again in 1 s"),
    ("html", "it answers with something other than JSON"),
    ("reset", ""),
    ("truncate", ""),
    ("hang", "no answer"),
]


@pytest.mark.parametrize(("kind", "words"), FAULTS, ids=[str(kind) for kind, _ in FAULTS])
@pytest.mark.parametrize("who", ["hub", "mirror"])
def test_a_hub_that_fails_is_told_why_and_the_other_ones_answer_comes(
    who: str, kind: Kind, words: str, world: World, new: str
) -> None:
    failing: Hub = getattr(world, who)
    failing.fault("/", kind)
    done = world.check("--json", *TIMEOUT)
    (one,) = done.json["models"]
    assert (done.status, one["verdict"]) == (DONE, "up to date")
    assert one["mirror" if who == "hub" else "hub"]["commit"] == new
    assert one[who]["commit"] is None
    assert one[who]["error"] and words in one[who]["error"]
    assert one[who]["error"] in one["detail"]


@pytest.mark.parametrize("kind", [500, 401, 403, 404, 429, "html", "reset", "truncate", "hang"])
def test_where_both_fail_it_is_unreachable_and_never_gone_or_up_to_date(kind: Kind, world: World, new: str) -> None:
    for hub in (world.hub, world.mirror):
        hub.fault("/", kind)
    done = world.check("--json", "--timeout", "1")
    assert (done.status, verdict(done)) == (RETRY, "unreachable")
    assert done.err == ""


@pytest.mark.parametrize("stage", ["connecting", "/api/", "the body", "/resolve/", "dates", "/"])
@pytest.mark.parametrize("who", ["hub", "mirror"])
def test_a_hub_that_hangs_at_any_stage_hangs_nobody(who: str, stage: str, world: World, new: str) -> None:
    hanging: Hub = getattr(world, who)
    old = world.hub.repo(V23).commits[new].parent
    assert old
    with ExitStack() as stack:
        if stage == "dates":
            world.put(old)
            hanging.fault(old, "hang")
        elif stage == "connecting":
            name = "HF_OFFICIAL_ENDPOINT" if who == "hub" else "HF_ENDPOINT"
            world.configure(**{name: stack.enter_context(deaf())})
        elif stage == "the body":
            stack.enter_context(hanging.held("/api/", 10))
        else:
            hanging.fault(stage, "hang")
        done = world.check("--json", *TIMEOUT)
    (one,) = done.json["models"]
    other = one["mirror" if who == "hub" else "hub"]
    assert (other["commit"], other["error"]) == (new, None)
    if stage == "dates":
        assert (done.status, one["verdict"]) == (STALE, "local behind")
    else:
        assert (done.status, one["verdict"]) == (DONE, "up to date")


@pytest.mark.slow
def test_a_hub_that_takes_every_question_and_answers_none_hangs_nobody_whatever_the_number(world: World) -> None:
    names = [f"koge/model-{number}x" for number in range(40)]
    for name in names:
        world.put(world.hub.commit(name, {"config.json": name.encode()}), name)
    world.hub.fault("/", "hang")
    done = world.check("--json", *TIMEOUT)
    assert (done.status, set(verdicts(done).values())) == (DONE, {"up to date"})
    assert len(verdicts(done)) == len(names)
    assert all("no answer within 3 s" in one["hub"]["error"] for one in done.json["models"])


def test_a_hub_that_hangs_for_one_model_only_answers_for_the_others(world: World, new: str) -> None:
    world.put(world.publish(V22)[0], V22)
    for hub in (world.hub, world.mirror):
        hub.fault(V23, "hang")
    done = world.check("--json", *TIMEOUT)
    assert (done.status, verdicts(done)) == (STALE, {V22: "local behind", V23: "unreachable"})


def test_what_is_no_commit_is_not_believed(world: World, new: str) -> None:
    repo = world.hub.repo(V23)
    odd = "../../../etc"
    repo.commits[odd] = replace(repo.commits[new], sha=odd)
    world.mirror.freeze(V23, sha=odd)
    done = world.check("--json")
    assert (done.status, verdict(done)) == (DONE, "up to date")
    assert said(done, "mirror") == "it names no commit"


@pytest.mark.parametrize("who", ["HF_ENDPOINT", "HF_OFFICIAL_ENDPOINT", "both"])
@pytest.mark.parametrize("how", ["nobody listens", "no such name", "no such folder"])
def test_an_address_where_no_hub_is_says_so_and_the_other_ones_answer_comes(
    how: str, who: str, world: World, new: str
) -> None:
    address = {
        "nobody listens": f"http://127.0.0.1:{free_port()}",
        "no such name": "http://mirror.invalid",
        "no such folder": f"{world.hub.endpoint}/hf",
    }[how]
    for name in ("HF_ENDPOINT", "HF_OFFICIAL_ENDPOINT"):
        if who in (name, "both"):
            world.configure(**{name: address})
    done = world.check("--json")
    (one,) = done.json["models"]
    told = one["mirror" if who == "HF_ENDPOINT" else "hub"]
    assert told["commit"] is None and told["error"]
    assert "refused" in told["error"].lower() or how != "nobody listens"
    if who == "both":
        assert (done.status, one["verdict"], one["mirror"]) == (RETRY, "unreachable", None)
    else:
        assert (done.status, one["verdict"]) == (DONE, "up to date")


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_proxy_is_used_as_the_app_would_and_no_proxy_obeyed(place: str, world: World, new: str) -> None:
    proxy = {"http_proxy": f"http://127.0.0.1:{free_port()}"}
    direct = {**proxy, "no_proxy": "localhost,127.0.0.1"}

    def check(settings: dict[str, str]) -> Done:
        if place == "environment":
            return world.check("--json", *TIMEOUT, env=settings)
        world.configure(**settings)
        return world.check("--json", *TIMEOUT)

    dead = check(proxy)
    assert (dead.status, verdict(dead), world.asked) == (RETRY, "unreachable", 0)
    done = check(direct)
    assert (done.status, verdict(done)) == (DONE, "up to date")


@pytest.mark.slow
def test_without_a_mirror_there_is_no_column_for_one_and_the_hub_is_asked_once_for_each(world: World, new: str) -> None:
    for settings in ({"HF_ENDPOINT": None}, {"HF_ENDPOINT": f"{world.hub.endpoint}/"}):
        world.configure(**settings)
        world.hub.forget()
        done = world.check()
        assert done.status == DONE
        assert done.out.splitlines()[0].split() == ["MODEL", "REVISION", "LOCAL", "HUB", "VERDICT"]
        assert done.err == f"hub: {world.hub.endpoint}\n"
        assert [world.hub.count(what, None) for what in ("/revision/", "/resolve/", "/tree/")] == [1, 1, 1]
        assert len(world.hub.requests) == 3
    assert world.check("--json").json["mirror"] is None
    assert world.mirror.requests == ()


@pytest.mark.parametrize("place", ["environment", ".env", "file"])
def test_a_token_goes_to_the_official_hub_alone(place: str, world: World, new: str) -> None:
    environment = {}
    if place == "environment":
        environment = {"HF_TOKEN": world.hub.token}
    elif place == ".env":
        world.configure(HF_TOKEN=world.hub.token)
    else:
        (world.app.path / "hf" / "token").write_text(world.hub.token)
    done = world.check("--json", env=environment)
    assert (done.status, verdict(done)) == (DONE, "up to date")
    assert tokens(world.hub) == {f"Bearer {world.hub.token}"}
    assert tokens(world.mirror) == {None}
    assert world.hub.token not in done.out + done.err


def test_a_token_goes_to_the_mirror_where_the_settings_say_so(world: World, new: str) -> None:
    world.hub.gate(V23)
    world.configure(HF_TOKEN=world.hub.token, HF_TOKEN_FOR_MIRROR="1")
    done = world.check("--json")
    assert (done.status, verdict(done)) == (DONE, "up to date")
    assert tokens(world.hub) == tokens(world.mirror) == {f"Bearer {world.hub.token}"}
    world.mirror.forget()
    world.configure(HF_TOKEN_FOR_MIRROR="0")
    world.check()
    assert tokens(world.mirror) == {None}


def test_a_token_that_the_hub_refuses_is_no_model_that_is_gone(world: World, new: str) -> None:
    done = world.check("--json", env={"HF_TOKEN": "hf_expired"})
    assert (done.status, verdict(done)) == (DONE, "up to date")
    assert said(done, "hub") == "it answers 401: the token is wrong or has expired, or there is none"
    world.configure(HF_ENDPOINT=None)
    alone = world.check("--json", env={"HF_TOKEN": "hf_expired"})
    assert verdict(alone) in ("unreachable", "gated, no access")
    assert "hf_expired" not in done.out + done.err + alone.out + alone.err


def test_a_token_does_not_follow_a_redirect_of_the_hub_to_the_mirror(world: World, new: str) -> None:
    world.hub.send_on("/api/", world.mirror.endpoint)
    world.check("--json", env={"HF_TOKEN": world.hub.token})
    assert tokens(world.hub) == {f"Bearer {world.hub.token}"}
    assert tokens(world.mirror) == {None}


def test_a_token_does_not_follow_a_list_of_files_to_another_host(
    world: World, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long list continues at the address in its Link header, and huggingface_hub sends all headers there."""
    answers = world.hub._answers
    answer = answers.answer

    def elsewhere(request: Request) -> Response:
        response = answer(request)
        more = {"Link": f'<{world.mirror.endpoint}{request.path}>; rel="next"'} if "/tree/" in request.path else {}
        return replace(response, headers={**response.headers, **more})

    world.configure(HF_ENDPOINT=None)
    monkeypatch.setattr(answers, "answer", elsewhere)
    done = world.check("--json", env={"HF_TOKEN": world.hub.token})
    assert (done.status, verdict(done)) == (DONE, "up to date")
    assert world.mirror.count("/tree/") == 1
    assert tokens(world.hub) == {f"Bearer {world.hub.token}"}
    assert tokens(world.mirror) == {None}


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["nothing", "status", "hang", "refused", "html", "name", "redirects"])
def test_the_password_of_an_address_is_used_and_never_shown(failing: str, world: World, new: str) -> None:
    secret = f"{USER}:{PASSWORD}@"
    for name, hub in (("HF_ENDPOINT", world.mirror), ("HF_OFFICIAL_ENDPOINT", world.hub)):
        scheme, _, host = hub.endpoint.partition("://")
        if failing == "refused":
            host = f"127.0.0.1:{free_port()}"
        elif failing == "name":
            host = f"{'x' * 60}.{'y' * 60}.{name.lower().replace('_', '-')}.invalid"
        elif failing == "redirects":
            hub.send_on("/", f"{scheme}://{secret}{host}")
        elif failing != "nothing":
            hub.fault("/", {"status": 500, "hang": "hang", "html": "html"}[failing])  # type: ignore[arg-type]
        world.configure(**{name: f"{scheme}://{secret}{host}"})
    for arguments in ((), ("--json",), ("-v",)):
        done = world.check(*arguments, *TIMEOUT)
        shown = done.out + done.err
        assert done.status == (DONE if failing == "nothing" else RETRY), shown
        assert PASSWORD not in shown and USER not in shown
        assert "://***@" in shown
    if failing == "nothing":
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        assert tokens(world.mirror) == {f"Basic {basic}"}


@pytest.mark.parametrize("odd", ["%2F", ":", "'", '"', "$", "ä", "\\", "[", "]"])
def test_a_password_with_odd_characters_works_or_is_refused_but_is_not_shown(odd: str, world: World, new: str) -> None:
    host = world.mirror.endpoint.removeprefix("http://")
    endpoint = f"http://{USER}:s3cr3t{odd}pa55@{host}"
    for arguments in ((), ("--json",)):
        done = world.check(*arguments, *TIMEOUT, env={"HF_ENDPOINT": endpoint})
        shown = done.out + done.err
        assert not any(part in shown for part in (USER, "s3cr3t", "pa55")), shown
        assert done.status in (DONE, CONFIG), shown


@pytest.mark.slow
def test_the_time_for_an_answer_begins_when_the_library_is_imported(world: World, new: str) -> None:
    folder = world.app.path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOW_DISK)
    done = world.check("--json", *TIMEOUT, env={"PYTHONPATH": str(folder)})
    assert (done.status, verdict(done)) == (DONE, "up to date")


def test_what_a_library_prints_while_it_is_imported_is_no_answer(world: World, new: str) -> None:
    folder = world.app.path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import sys\nif '-c' in sys.orig_argv:\n    print('Error importing it')\n")
    done = world.check("--json", env={"PYTHONPATH": str(folder)})
    assert (done.status, verdict(done)) == (DONE, "up to date")


def test_both_hubs_are_asked_at_once(world: World, new: str, processes: Processes) -> None:
    with world.hub.held("/api/", 0) as one, world.mirror.held("/api/", 0) as other:
        running = processes.launch("models", "check", "--app-dir", world.app.path)
        eventually(lambda: one.reached.is_set() and other.reached.is_set())
        assert running.process.poll() is None
    assert running.wait() == DONE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whoever_ends_a_check_ends_its_child_with_it(
    number: signal.Signals, world: World, new: str, processes: Processes
) -> None:
    for hub in (world.hub, world.mirror):
        hub.fault("/", "hang")
    running = processes.launch("models", "check", "--timeout", "300", "--app-dir", world.app.path)
    eventually(lambda: world.asked >= 4)
    (child,) = psutil.Process(running.pid).children()
    processes.end_also(child.pid)
    running.process.send_signal(number)
    assert running.wait() == (130 if number == signal.SIGINT else -number)
    eventually(lambda: not alive(child.pid))
    assert running.err.splitlines()[-1:] == (["interrupted"] if number == signal.SIGINT else [])


@pytest.mark.slow
def test_nothing_of_a_check_stays_behind(world: World, new: str) -> None:
    world.hub.fault("/", "hang")
    before = sorted(os.listdir(world.app.path))
    world.check(*TIMEOUT)
    assert sorted(os.listdir(world.app.path)) == before
    assert sorted(os.listdir(world.app.path / "hf")) == ["hub"]
