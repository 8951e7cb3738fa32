"""A hub may answer anything: what comes of it is told in words, and nothing moves that is not whole and right."""

from __future__ import annotations

import contextlib
import json
import queue
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("huggingface_hub")

from launcher.cache.names import HASH
from launcher.models import hub as asking
from launcher.models import repo_id, worker
from launcher.models.endpoints import Endpoint
from launcher.models.hub import Question
from tests.support.apps import AppFolder, clean_environment
from tests.support.caches import A, B
from tests.support.fuzz import examples, json_values
from tests.support.hub import PAGE, Hub
from tests.support.hub_answers import Request, Response
from tests.support.pulled import MODEL, NEW, OLD, Pulled, pulled_app
from tests.support.removal import everything

TOKEN = "hf_loopback"
values = json_values(
    ("\ud800", "\x1b[31m", "../x", "/etc/x", "x" * 3000, A, B, "5" * 64, 10**400, 1 << 63, -1, 0, "a\\b", "..",
     "0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z", "2026-11-20T12:00:00.000Z", "datasets/x", MODEL),
    6,
)  # fmt: skip
header_values = st.one_of(
    st.sampled_from(
        ("", A, B, "5" * 64, f'"{A}"', f'W/"{A}"', "../../x", "/etc/x", "-1", "0", "1", "NaN", "1e9", "9" * 30,
         "x" * 3000,
         "{cdn}/x", "{other}/x", "/x", "//x", "http://127.0.0.1:1/x", "gzip", "chunked", "text/html", "RepoNotFound",
         "RevisionNotFound", "EntryNotFound", "GatedRepo")
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8),
)  # fmt: skip
HEADERS = (
    "ETag", "X-Linked-Etag", "X-Repo-Commit", "X-Linked-Size", "Content-Length", "Location", "Content-Type",
    "Content-Encoding", "X-Error-Code", "X-Error-Message", "Link", "Content-Range", "X-Xet-Hash", "Retry-After",
)  # fmt: skip
STATUSES = (200, 203, 206, 301, 302, 307, 401, 403, 404, 416)
PLACES = ("/revision/", "/tree/", "/resolve/", "/cdn/")


class Spoiling(NamedTuple):
    """Hold what is done to the answers to some requests: a status, headers, and another value in the JSON or bytes."""

    where: str
    method: str | None
    status: int | None
    headers: Mapping[str, str]
    place: int | None
    value: Any
    body: bytes | None

    def fits(self, request: Request) -> bool:
        return self.where in request.path and self.method in (None, request.method)

    def spoiled(self, response: Response, addresses: Mapping[str, str]) -> Response:
        filled = {
            name: re.sub(r"\{(\w+)\}", lambda match: addresses.get(match[1], match[0]), text)
            for name, text in self.headers.items()
        }
        body = response.body if self.body is None else self.body
        if self.place is not None and body[:1] in (b"{", b"["):
            with contextlib.suppress(ValueError, RecursionError):  # it is spoiled otherwise already
                body = other_value(body, self.place, self.value)
        return replace(
            response, status=self.status or response.status, headers={**response.headers, **filled}, body=body
        )


def other_value(body: bytes, place: int, value: Any) -> bytes:
    """Return a JSON document with another value in one of its places."""
    document = [json.loads(body)]
    places: list[tuple[Any, Any]] = [(document, 0)]
    for into, key in places:
        inner = into[key]
        if isinstance(inner, dict):
            places += [(inner, one) for one in inner]
        elif isinstance(inner, list):
            places += [(inner, one) for one in range(len(inner))]
    into, key = places[place % len(places)]
    into[key] = value
    return json.dumps(document[0]).encode()


spoilings = st.builds(
    Spoiling,
    where=st.sampled_from(PLACES),
    method=st.sampled_from((None, None, "HEAD", "GET")),
    status=st.one_of(st.none(), st.none(), st.sampled_from(STATUSES)),
    headers=st.dictionaries(st.sampled_from(HEADERS), header_values, max_size=2),
    place=st.one_of(st.none(), st.integers(0, 40)),
    value=values,
    body=st.one_of(
        st.none(), st.none(), st.none(), st.binary(max_size=20), st.just(PAGE), st.just(b"[" * 5000), st.just(b"{}")
    ),
)


def spoil(hub: Hub, how: list[Spoiling], other: str) -> None:
    """Have a hub answer so."""
    addresses = {"cdn": hub.cdn, "other": other}

    def spoiled(request: Request, response: Response) -> Response:
        for one in how:
            response = one.spoiled(response, addresses) if one.fits(request) else response
        return response

    hub.spoil = spoiled


@pytest.fixture(scope="module")
def hubs() -> Iterator[tuple[Hub, Hub, str]]:
    with Hub() as hub, hub.mirror() as other:
        yield hub, other, hub.commit(MODEL, {"config.json": b"{}", "sub/gpt.safetensors": b"gpt" * 500})


@pytest.mark.slow
@given(how=st.lists(spoilings, min_size=1, max_size=2), what=st.sampled_from(("head", "file", "tree")))
@examples(80)
def test_any_answer_to_a_question_is_data_of_one_shape_or_a_trouble_in_words(
    how: list[Spoiling], what: Any, hubs: tuple[Hub, Hub, str]
) -> None:
    hub, other, commit = hubs
    spoil(hub, how, other.endpoint)
    other.forget()
    question = Question(Endpoint(hub.endpoint, True, True), what, MODEL, commit, "sub/gpt.safetensors")
    answers: queue.Queue[tuple[int, Mapping[str, Any]]] = queue.Queue()
    worker._answer(asking._asked(0, question), 3.0, answers)
    number, told = answers.get_nowait()
    line = json.dumps({"id": number, **told}).encode()
    assert b"\n" not in line
    event = asking._event(line)
    assert event is not None
    answer = asking._answer(event, question)
    assert len(answer.text) < 1000
    assert answer.commit is None or repo_id.COMMIT.fullmatch(answer.commit)
    assert answer.date is None or isinstance(answer.date, int | float)
    assert answer.repo is None or repo_id.is_name(answer.repo)
    for path, file in (answer.files or {}).items():
        assert repo_id.is_path(path)
        assert 0 <= file.size < 1 << 63
        assert HASH.fullmatch(file.hash)
    if answer.trouble:
        assert answer.text and answer.commit is None and answer.files is None
    assert not any(asked.authorization for asked in other.requests)


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


COMMANDS = (("check", "--json"), ("lock", MODEL), ("pull",), ("pull",), ("pull", MODEL))


def elsewhere(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return what no `models` command may change: all but the cache, the lock and the state."""
    found = everything(folder)
    return {path: one for path, one in found.items() if not path.startswith("hf/hub") and path != "models.lock"}


@pytest.mark.slow
@given(
    how=st.lists(spoilings, min_size=1, max_size=2),
    also=st.lists(spoilings, max_size=1),
    command=st.sampled_from(COMMANDS),
    locked=st.booleans(),
)
@examples(6, shrink=False)
def test_whatever_hubs_answer_a_command_ends_as_documented_and_what_loads_is_whole(
    how: list[Spoiling],
    also: list[Spoiling],
    command: tuple[str, ...],
    locked: bool,
    pulled: Pulled,
) -> None:
    spoil(pulled.mirror, how, pulled.hub.endpoint)
    spoil(pulled.hub, also, pulled.mirror.endpoint)
    pulled.hub.forget()
    pulled.mirror.forget()
    (pulled.app.path / "models.lock").unlink(missing_ok=True)
    if locked:
        pulled.lock_new()
    before = elsewhere(pulled.app.path)
    done = pulled.run("models", *command, "--timeout", "2", env=clean_environment(HF_TOKEN=TOKEN))
    assert done.status in (0, 2, 65, 74, 75, 77, 80), done.err
    assert "Traceback" not in done.err
    assert elsewhere(pulled.app.path) == before
    assert not any(asked.authorization for asked in pulled.mirror.requests)
    assert TOKEN not in done.out + done.err
    assert pulled.loads() in (OLD, NEW)
    assert pulled.loads(pulled.old) == OLD
    if command[0] == "pull" and done.status == 0 and locked:
        assert pulled.loads() == NEW
