"""What must be true after one command that nothing disturbs: freeze, export, move, doctor, and a failed upgrade."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from launcher.models import lockfile, repo_id
from tests.chaos import checks
from tests.chaos.checks import ViolationError
from tests.chaos.plan import CACHED, FOLDER, LOCAL, UNLOCKED, Step

if TYPE_CHECKING:
    from tests.chaos.run import Chaos

REPOS = (CACHED, UNLOCKED)


def freeze(chaos: Chaos) -> None:
    """Freeze what is there, start locked to that, export it, and put the usual lock back. Raises ViolationError."""
    chaos.pull()
    path = lockfile.path_of(chaos.app.path)
    before = path.read_bytes()
    chaos.run("models", "lock", "--freeze")
    lock = lockfile.read(chaos.app.path)
    frozen = {(one.repo, one.local_dir) for one in lock or ()}
    if lock is None or not frozen >= {(CACHED, None), (LOCAL, FOLDER)}:
        raise ViolationError(f"frozen are {frozen}")
    chaos.none(checks.false_pins(lock, chaos.hub))
    for name, file in lock.files.items():
        if file.hash != checks.sha256((chaos.app.path / name).read_bytes()):
            raise ViolationError(f"frozen is {name} as {file}, and that is not what is there")
    chaos.run("--background", "--locked")
    page = chaos.page(chaos.app.port)
    pinned = {one.repo: one.commit for one in lock if (one.repo, one.revision) in ((CACHED, "main"), (LOCAL, "main"))}
    if not page or not page["offline"] or not page["models"].items() >= pinned.items():
        raise ViolationError(f"started locked to what was frozen, {pinned}, and the app: {page}")
    chaos.run("models", "export", str(chaos.export))
    if (chaos.export / lockfile.path_of(chaos.app.path).name).read_bytes() != path.read_bytes():
        raise ViolationError("another lock was exported")
    chaos.none(wrong_in_export(chaos))
    path.write_bytes(before)


def wrong_in_export(chaos: Chaos) -> Iterator[str]:
    """Yield each file that an exported lock pins, and the export has not or has otherwise."""
    try:
        lock = lockfile.parse((chaos.export / lockfile.path_of(chaos.app.path).name).read_bytes())
    except FileNotFoundError:
        return
    for model in lock:
        known = chaos.hub.repo(model.repo).commits[model.commit].files
        for name in model.files:
            path = chaos.export / repo_id.folder(model.repo) / model.commit / name
            if not path.is_file() or path.read_bytes() != known[name].data:
                yield f"the export's lock pins {path}, and that is {'damaged' if path.is_file() else 'lacking'}"


def fail(chaos: Chaos) -> None:
    """Have a start fail where another one serves: that one must serve again. Raises ViolationError."""
    chaos.run("--background")
    good = chaos.page(chaos.app.port)
    chaos.run("--background", "--", "--die", allow=(75,))
    page = chaos.page(chaos.app.port)
    if not good or not page or page["loaded"] != good["loaded"]:
        raise ViolationError(f"rolled back to {page}, and before there was {good}")
    chaos.await_alone()
    chaos.look_at_port(chaos.app.port)


def move(chaos: Chaos, one: Step) -> None:
    """Move the cache, killed some times: at each instant the named one is whole, and in the end the only one."""
    chaos.stop()
    target, source = chaos.place(one.number), chaos.cache
    before = checks.loadable(source, REPOS)
    words = ("cache", "move", "--yes", str(target))
    for death in one.kills if before else ():
        chaos.run(*words, death=death)
        chaos.await_alone()
        compare(chaos, before)
    if chaos.run(*words, allow=(0,) if before else (0, 2)).status:
        return  # there is nothing to move
    if chaos.cache != target:
        raise ViolationError(f"moved to {target}, and .env names {chaos.cache}")
    compare(chaos, before)
    left = [name for name in os.listdir(target) if name.startswith(".start_app")]
    if source != target and source.is_dir():
        left += [path.name for path in source.iterdir() if (path / "refs").exists() or (path / "snapshots").exists()]
    if left:
        raise ViolationError(f"moved from {source} to {target}, and there is {left}")


def compare(chaos: Chaos, before: dict[str, str]) -> None:
    """Compare the cache that `.env` names with an earlier one. Raises ViolationError."""
    now = checks.loadable(chaos.cache, REPOS)
    if now != before:
        odd = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
        raise ViolationError(f"{chaos.cache} is named and not whole: {odd}")


def doctor(chaos: Chaos) -> None:
    """Have the doctor look: it changes nothing, and no check of it fails. Raises ViolationError."""
    chaos.run("status", "--json")  # whatever looks notes how the last start has ended
    before = checks.contents(chaos.app.path)
    done = chaos.run("doctor", "--json", "--timeout", "20", allow=(0, 65, 69, 74, 75, 77, 78, 80))
    now = checks.contents(chaos.app.path)
    odd = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    if odd:
        raise ViolationError(f"the doctor has changed {odd}")
    for finding in done.json["findings"]:
        if finding["level"] != "fact" and not finding["hint"]:
            raise ViolationError(f"the doctor knows no help: {finding}")
