"""A cache is cleared while the app already starts, listed in one pass, changed by a rename, and verified by all cores.

What stands beside each is what a user would type in its place: `hf cache`, or the same launch with nothing to clear.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from launcher.cache import entries, layout, planning
from launcher.cache.memory import Memory
from launcher.cache.names import TRASH
from launcher.cache.planning import Request
from launcher.cache.roots import Root
from launcher.cache.verify import Verification, candidates

from .caches import Big, Shape, big_size, folder, hub, make_big, name, refuse_too_many
from .launch import PRINTS_AND_ENDS, App, temporary_app
from .measure import (
    BenchmarkError,
    Claim,
    Measured,
    Result,
    Say,
    Scale,
    in_turn,
    running,
    temporary_folder,
    to_end,
    to_first_line,
)

REVISIONS, FILES = 2, 20
BIG_FILES = 8
SETTLED_SECONDS = 0.5  # what is younger is not remembered
DELETION_SECONDS = 120
CLEARED = "cache: freed "


class Peer(NamedTuple):
    """Hold the `hf` of this environment, kept from asking a network anything that a benchmark has not set up."""

    hf: Path
    variables: Mapping[str, str]

    def cache(self, command: str, root: Path, *words: str) -> tuple[str | Path, ...]:
        """Return a command of it for a cache."""
        return (self.hf, "cache", command, *words, "--cache-dir", root)


def results(scale: Scale, say: Say) -> Iterator[Result]:
    """Measure the claims about the model cache, one after the other."""
    many = Shape(scale.repos, REVISIONS, FILES)
    with temporary_folder() as home:
        peer = _peer(home)
        # Not in the app's folder: a clear looks there for links into the cache.
        with temporary_app(PRINTS_AND_ENDS) as app, temporary_folder() as spare:
            say(f"clear: {scale.slow_repetitions} repetitions, {many.entries} files")
            yield from clear(scale, many, app, spare)
        with temporary_app(PRINTS_AND_ENDS) as app:
            say(f"list and remove: {scale.slow_repetitions} repetitions, {many.repos} repos")
            many.make(_root(app))
            yield from listing(scale, many, app, peer)
            yield from remove(scale, many, app, peer)
        with temporary_app(PRINTS_AND_ENDS) as app:
            size = big_size(app.folder, BIG_FILES, scale.big_bytes)
            less = f", as for {scale.big_bytes >> 20} MiB each there is no memory" if size < scale.big_bytes else ""
            say(f"verify: {scale.slow_repetitions} repetitions, {BIG_FILES} x {size >> 20} MiB{less}")
            yield from verify(scale, make_big(_root(app), BIG_FILES, size), app, peer)
    for shape, what in _huge_shapes(scale.huge_files):
        say(f"list {shape.entries} files, {what}")
        yield from huge(scale, shape, what)


def clear(scale: Scale, many: Shape, app: App, spare: Path) -> Iterator[Result]:
    """Measure a launch to the app's first line, with a full cache to clear and with an empty one.

    Every full cache was made beforehand, and every deletion in the background has ended before anything else begins.
    """
    root = _root(app)
    takes = 2 * (scale.slow_repetitions + 1)
    refuse_too_many(app.folder, takes * many.entries)
    for number in range(takes):
        many.make(spare / str(number))
    full = iter(range(takes))

    def put() -> None:
        subprocess.run(("rm", "-rf", root), check=True)  # a clear leaves an empty folder or two
        os.rename(spare / str(next(full)), root)

    def cleared() -> float:
        put()
        with running(app.start_app("--clear-cache"), app.folder) as measured:
            seconds = measured.first_line_after()
            _wait_for_deletion(root, measured)
            return seconds

    def removed() -> float:
        put()
        seconds = to_end(("rm", "-rf", root), app.folder)
        root.mkdir()
        return seconds

    ours, empty, plain, rm = in_turn(
        scale.slow_repetitions,
        cleared,
        lambda: to_first_line(app.start_app("--clear-cache"), app.folder),
        lambda: to_first_line(app.start_app(), app.folder),
        removed,
    )
    what = f"clear {many.entries} files"
    yield Claim(what, "start_app.py --clear-cache", "the same, empty cache", "difference", 0.05).judge(ours, empty)
    yield Claim(what, "start_app.py --clear-cache", "start_app.py", "difference", None).judge(ours, plain)
    yield Claim(what, "start_app.py --clear-cache", "rm -rf, no launch", "ratio", None).judge(ours, rm)


def listing(scale: Scale, many: Shape, app: App, peer: Peer) -> Iterator[Result]:
    """Measure listing a cache of many repos, whole processes."""
    root = _root(app)
    what, command = f"list {many.repos} repos", "start_app.py cache list"
    ours, hf, find = in_turn(
        scale.slow_repetitions,
        lambda: to_end(app.start_app("cache", "list"), app.folder, f"{many.repos} repos, "),
        lambda: to_end(peer.cache("ls", root), app.folder, name(many.repos - 1), variables=peer.variables),
        lambda: to_end(("find", root, "-printf", "%s %l\n"), app.folder),
    )
    yield Claim(what, command, "hf cache ls", "ratio", 0.2).judge(ours, hf)
    yield Claim(what, command, "limit: find -printf '%s %l'", "ratio", None).judge(ours, find)


def remove(scale: Scale, many: Shape, app: App, peer: Peer) -> Iterator[Result]:
    """Measure removing one repo of many; it is made anew before each, and must be gone afterwards."""
    root = _root(app)
    path = root / folder(0)

    def gone(take: Callable[[], float]) -> Callable[[], float]:
        def taken() -> float:
            if not path.exists():
                many.make_repo(root, 0)
            seconds = take()
            if len(_entries(root)) != many.repos - 1:
                raise BenchmarkError(f"{path} is still there, or more than it is gone")
            return seconds

        return taken

    ours, inside, hf, rm = in_turn(
        scale.slow_repetitions,
        gone(lambda: to_end(app.start_app("cache", "remove", name(0)), app.folder)),
        gone(lambda: _seconds(lambda: _remove(root, name(0)))),
        gone(lambda: to_end(peer.cache("rm", root, "-y", f"model/{name(0)}"), app.folder, variables=peer.variables)),
        gone(lambda: to_end(("rm", "-rf", path), app.folder)),
    )
    what = f"remove 1 of {many.repos} repos"
    yield Claim(what, "start_app.py cache remove", "hf cache rm -y", "ratio", 0.05).judge(ours, hf)
    yield Claim(what, "the same, in process", "hf cache rm -y", "ratio", None).judge(inside, hf)
    yield Claim(what, "start_app.py cache remove", "rm -rf", "ratio", None).judge(ours, rm)


def verify(scale: Scale, big: Big, app: App, peer: Peer) -> Iterator[Result]:
    """Measure hashing large files that lie in memory, and looking at them again when they are known."""
    whole = f"{big.files} files whole"
    memory = Memory()
    time.sleep(SETTLED_SECONDS)

    def first() -> float:
        nonlocal memory
        memory = Memory()
        return _seconds(lambda: _verify(big, memory))

    def again() -> float:
        return _seconds(lambda: _verify(big, Memory(memory.data(everything=True)), remembered=big.files))

    with hub(big) as endpoint:
        variables = {**peer.variables, "HF_ENDPOINT": endpoint}
        ours, hf, repeated = in_turn(
            scale.slow_repetitions,
            lambda: to_end(app.start_app("cache", "verify", "--full"), app.folder, whole),
            lambda: to_end(
                peer.cache("verify", big.root, big.repo),
                app.folder,
                f"Verified {big.files} file(s)",
                variables=variables,
            ),
            lambda: to_end(app.start_app("cache", "verify"), app.folder, f"{big.files} of them unchanged"),
        )
    inside, known = in_turn(scale.slow_repetitions, first, again)
    what = f"verify {big.files} x {big.size >> 20} MiB"
    yield Claim(what, "start_app.py cache verify", "hf cache verify", "ratio", 0.5).judge(ours, hf)
    yield Claim(f"{what} again", "in process, remembered", "in process, hashed", "ratio", 0.01).judge(known, inside)
    yield Claim(f"{what} again", "start_app.py cache verify", "the same, --full", "ratio", None).judge(repeated, ours)


def huge(scale: Scale, shape: Shape, what: str) -> Iterator[Result]:
    """Measure the memory that listing very many files takes, and the time for each, next to a tenth of them.

    The time does not include that of listing nothing, which would hide a growth.
    """
    small = _tenth(shape)
    with temporary_app(PRINTS_AND_ENDS) as large_app, temporary_app(PRINTS_AND_ENDS) as small_app:
        refuse_too_many(large_app.folder, shape.entries + small.entries)
        try:
            for app, made in ((large_app, shape), (small_app, small)):
                made.make(_root(app))
            with temporary_app(PRINTS_AND_ENDS) as none:
                peaks: list[float] = []
                small_peaks: list[float] = []
                large, tenth, nothing = in_turn(
                    max(3, scale.slow_repetitions // 3),
                    lambda: _list(large_app, shape, peaks),
                    lambda: _list(small_app, small, small_peaks),
                    lambda: to_end(none.start_app("cache", "list"), none.folder, "no"),
                )
        finally:
            # A million names, one by one from Python, would take longer than all that was measured.
            subprocess.run(("rm", "-rf", _root(large_app), _root(small_app)), check=False)
    start = min(nothing)
    told = f"list {shape.entries} files, {what}"
    beside = f"{small.entries} files"
    yield Claim(f"{told}: memory", "start_app.py cache list", beside, "value", 500, "MB").judge(peaks, small_peaks)
    yield Claim(f"{told}: time a file", "start_app.py cache list", beside, "ratio", 1.5, "us").judge(
        [(seconds - start) / shape.entries * 1e6 for seconds in large],
        [(seconds - start) / small.entries * 1e6 for seconds in tenth],
    )


def _huge_shapes(files: int) -> Iterator[tuple[Shape, str]]:
    yield Shape(files // (2 * REVISIONS * FILES), REVISIONS, FILES), f"{FILES} a revision"
    yield Shape(1, REVISIONS, files // (2 * REVISIONS)), "all of one repo"


def _tenth(shape: Shape) -> Shape:
    if shape.repos == 1:
        return shape._replace(files=shape.files // 10)
    return shape._replace(repos=shape.repos // 10)


def _peer(home: Path) -> Peer:
    variables = {
        "HF_HOME": str(home),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    hf = Path(sys.executable).with_name("hf")
    for command in ("ls", "rm", "verify"):
        try:
            to_end((hf, "cache", command, "--help"), home, variables=variables)
        except (OSError, BenchmarkError) as error:
            raise BenchmarkError(
                f"{hf} knows no `cache {command}`: huggingface_hub 2.x is what is measured against"
            ) from error
    return Peer(hf, variables)


def _root(app: App) -> Path:
    root = app.folder / "cache_hub" / "hub"
    root.mkdir(parents=True, exist_ok=True)
    return root


def _entries(root: Path) -> list[str]:
    """Return the repos in a cache, and the trash."""
    return [entry for entry in os.listdir(root) if entry.startswith((TRASH, "models--"))]


def _wait_for_deletion(root: Path, measured: Measured) -> None:
    deadline = time.monotonic() + DELETION_SECONDS
    while CLEARED not in measured.errors or _entries(root):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the cache is not deleted after {DELETION_SECONDS} s:\n{measured.errors}")
        time.sleep(0.02)


def _seconds(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def _remove(root: Path, target: str) -> None:
    planned = planning.plan(Request("remove", (target,)), (_as_root(root),))
    planning.finish(planned, planning.condemn(planned, lambda _plan, _item: None), None)


def _verify(big: Big, memory: Memory, remembered: int = 0) -> None:
    found = entries.contents(str(big.root)).entries
    done = Verification(memory)
    done.run(candidates(layout.read(str(big.root), entry) for entry in found))
    if (done.whole, done.remembered) != (big.files, remembered):
        raise BenchmarkError(f"{done.whole} files whole, {done.remembered} remembered of {big.files}")


def _list(app: App, shape: Shape, peaks: list[float]) -> float:
    expected = f"{shape.repos} repo"
    with running(app.start_app("cache", "list"), app.folder) as measured:
        seconds = measured.end_after()
        if expected not in measured.output:
            raise BenchmarkError(f"no {expected!r} in what cache list prints:\n{measured.errors}")
        peaks.append(measured.peak)
        return seconds


def _as_root(root: Path) -> Root:
    return Root(root, str(root.resolve()), "a benchmark", owned=True)
