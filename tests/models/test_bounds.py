"""What a hub sends is bounded by what it announced, and a slow line is told from one on which nothing comes."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from launcher.models import worker_http
from tests.support.apps import AppFolder, launcher
from tests.support.caches import HAS_STORE
from tests.support.hub import Hub
from tests.support.hub_answers import Request, Response
from tests.support.pulled import MODEL, NEW, OLD, Pulled, clear_cache, pulled_app

LARGE = 600 << 20


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


def _bomb() -> bytes:
    """Return a few hundred kB that unpack to 600 MiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    blanks = b" " * (1 << 20)
    return b"".join([*(packer.compress(blanks) for _ in range(LARGE >> 20)), packer.flush()])


def _packed(pattern: str, body: Callable[[bytes], bytes], coding: str) -> Callable[[Request, Response], Response]:
    def spoil(request: Request, response: Response) -> Response:
        if pattern not in request.path or request.method != "GET" or response.status != 200:
            return response
        return replace(response, headers={**response.headers, "Content-Encoding": coding}, body=body(response.body))

    return spoil


@pytest.mark.slow
def test_an_answer_that_unpacks_to_hundreds_of_megabytes_is_given_up_at_once(pulled: Pulled) -> None:
    bomb = _bomb()
    for hub in (pulled.hub, pulled.mirror):
        hub.spoil = _packed("/api/", lambda _: bomb, "gzip")
    peak = (
        "import resource, subprocess, sys; status = subprocess.run(sys.argv[1:]).returncode; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10); sys.exit(status)"
    )
    done = launcher("models", "check", *pulled.app.arguments, python=(sys.executable, "-c", peak, sys.executable))
    assert done.status == 75, done.err
    assert "more than the 8388608 bytes" in done.out + done.err
    assert int(done.out.splitlines()[-1]) < 300


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_an_answer_that_is_packed_is_read_all_the_same(coding: str, pulled: Pulled) -> None:
    pulled.mirror.spoil = pulled.hub.spoil = _packed("/", gzip.compress if coding == "gzip" else zlib.compress, coding)
    pulled.pulled(MODEL)
    assert pulled.loads() == NEW


def test_an_answer_that_is_packed_otherwise_is_not_taken_for_the_file(pulled: Pulled) -> None:
    pulled.lock_new()
    pulled.mirror.spoil = _packed("/config.json", lambda body: body, "zstd")
    done = pulled.pull()
    assert done.status == 75, done.err
    assert "packed as 'zstd'" in done.err
    assert pulled.loads() == OLD


@pytest.mark.parametrize("pattern", ["/config.json", "/cdn/"])
def test_a_body_without_an_end_is_cut_off_and_the_next_hub_serves(pattern: str, pulled: Pulled) -> None:
    pulled.lock_new()
    pulled.set(HF_ENDPOINT_FALLBACK=pulled.hub.endpoint)
    pulled.mirror.fault(pattern, "endless", method="GET")
    document = pulled.pulled()
    assert document["served"][0]["endpoint"] == pulled.hub.endpoint
    assert pulled.loads() == NEW
    assert sum(path.stat().st_size for path in (pulled.repo() / "blobs").iterdir()) < 3 << 20


def test_a_body_without_an_end_of_the_only_hub_is_damage_and_not_a_full_disk(pulled: Pulled) -> None:
    pulled.lock_new()
    pulled.mirror.fault("/cdn/", "endless", method="GET")
    done = pulled.pull()
    assert done.status == 65, done.err
    assert "that were announced" in done.err
    assert pulled.loads() == OLD


@pytest.mark.slow
@pytest.mark.skipif(not HAS_STORE, reason="the tests' Xet hub speaks to hf_xet of huggingface_hub 1.32 and later")
def test_a_slow_download_by_xet_is_no_stall(pulled: Pulled) -> None:
    """What hf_xet receives lies in memory for long; on the disk nothing moves meanwhile."""
    clear_cache(pulled)
    with Hub(xet=True) as hub:
        weights = os.urandom(900_000)
        pulled.new = hub.commit(MODEL, {"gpt.safetensors": weights})
        pulled.set(HF_ENDPOINT=hub.endpoint, HF_OFFICIAL_ENDPOINT=hub.endpoint)
        pulled.hub = hub
        pulled.lock_new()
        hub.slow("/xorbs/", 100_000)
        done = pulled.pull("--timeout", "3")
        assert done.status == 0, done.err
        assert hub.count("/xorbs/") == 1
        assert pulled.loads() == {"gpt.safetensors": weights}


def test_a_body_is_unpacked_piece_by_piece_up_to_its_bound() -> None:
    seen = 0
    with pytest.raises(worker_http.TooMuchError, match="more than the 5000000 bytes"):
        for piece in worker_http.bounded([_bomb()], "gzip", 5_000_000):
            seen += len(piece)
            assert len(piece) <= 1 << 20
    assert seen <= 5_000_000
    whole = os.urandom(3_000_000)
    packed = gzip.compress(whole)
    chunks = [packed[start : start + 1000] for start in range(0, len(packed), 1000)]
    assert b"".join(worker_http.bounded(chunks, "gzip", len(whole))) == whole
