"""Mirrors that are no copies of the Hub, and a library that lacks something: what they say is kept, and judged once."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from tests.support.apps import AppFolder, free_port
from tests.support.hub_answers import Request, Response
from tests.support.pulled import MODEL, NEW, OLD, Pulled, blobs, pulled_app
from tests.support.removal import HUB


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


def _own_etags(request: Request, response: Response) -> Response:
    """Announce each file by an ETag of 40 digits that says nothing of its content, as some mirrors do."""
    names = {name: hashlib.sha1(value.encode()).hexdigest() for name, value in response.headers.items()}
    own = {name: f'"{names[name]}"' for name in ("ETag", "X-Linked-ETag") if name in names}
    return replace(response, headers={**response.headers, **own}) if own else response


def test_a_file_is_taken_by_its_content_whatever_a_mirror_calls_it(pulled: Pulled) -> None:
    pulled.lock_new()
    pulled.mirror.spoil = _own_etags
    pulled.pulled()
    assert pulled.loads() == NEW
    files = pulled.hub.repo(MODEL).commits[pulled.new].files.values()
    assert {file.etag for file in files} <= blobs(pulled.repo())
    assert pulled.run("cache", "verify").status == 0


def test_a_mirror_that_sends_the_client_on_to_another_host_serves_what_it_is_said_to_have(pulled: Pulled) -> None:
    """A redirect to another origin: what the API says always followed it, the files did not."""
    with pulled.hub.mirror() as moved:
        moved.send_on("/", pulled.mirror.endpoint)
        pulled.set(HF_ENDPOINT=moved.endpoint, HF_TOKEN=pulled.hub.token, HF_TOKEN_FOR_MIRROR="1")
        check = pulled.run("models", "check", "--json", MODEL)
        mirror = check.json["models"][0]["mirror"]
        assert (mirror["commit"], mirror["files_commit"], mirror["error"]) == (pulled.new, pulled.new, None)
        pulled.pulled(MODEL)
        assert pulled.loads() == NEW
        assert not [asked for asked in pulled.mirror.requests if asked.authorization]


@pytest.mark.parametrize("command", [("check",), ("lock", MODEL), ("pull", MODEL)])
def test_a_token_that_is_kept_from_a_mirror_is_said_to_be_kept(command: tuple[str, ...], pulled: Pulled) -> None:
    pulled.hub.close()
    pulled.mirror.fault("/", 401)
    pulled.set(HF_TOKEN="hf_right")
    done = pulled.run("models", *command)
    assert done.status == 75, done.err
    said = done.out + done.err
    assert "it answers 401: your token is not sent to this hub; HF_TOKEN_FOR_MIRROR in .env sends it" in said
    assert "wrong or has expired" not in said and "hf_right" not in said
    assert pulled.loads() == OLD


@pytest.mark.skipif(importlib.util.find_spec("socksio") is not None, reason="socksio is installed")
@pytest.mark.skipif(HUB < (1, 0), reason="this huggingface_hub asks by requests")
@pytest.mark.parametrize("command", [("check",), ("lock", MODEL), ("pull", MODEL)])
def test_what_the_library_lacks_is_said_in_its_words_and_is_no_reason_to_try_again(
    command: tuple[str, ...], pulled: Pulled
) -> None:
    proxy = f"socks5://127.0.0.1:{free_port()}"
    settings: Mapping[str, str] = {"ALL_PROXY": proxy, "HTTP_PROXY": proxy, "NO_PROXY": "nowhere.invalid"}
    pulled.set(**settings, **{name.lower(): value for name, value in settings.items()})
    done = pulled.run("models", *command)
    assert done.status == 78, done.err
    assert "Using SOCKS proxy, but the 'socksio' package is not installed" in done.err
    assert "pip install 'httpx" in done.err.splitlines()[-1]
