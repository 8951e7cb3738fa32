"""What the chaos does is decided beforehand, by the seed and the number of the step and by nothing that happens."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from tests.support.hub import Kind

CACHED, UNLOCKED, LOCAL = "koge/index-tts-v23", "amphion/MaskGCT", "koge/voices"
"""A model that is locked, one in the cache beside it, and one in a folder of the app's own."""
FOLDER = "checkpoints"

Next = Literal["prune", "launch", "pull", "freeze", "fail", "move", "everything"]

LAUNCHES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (5, ()),
    (6, ("--background",)),
    (2, ("--locked",)),
    (4, ("--locked", "--background")),
    (3, ("--force-refresh", "--background")),
    (2, ("--clear-cache",)),
    (2, ("--clear-cache", "--background")),
    (2, ("--prune-cache", "--background")),
    (1, ("--prune-cache", "--locked", "--background")),
    (1, ("--remove-model", UNLOCKED, "--background")),
    (1, ("--remove-model", CACHED)),
    (1, ("--verify", "--background")),
    (1, ("--force-refresh", "--no-launch")),
    (1, ("--no-launch",)),
    (1, ("--clear-cache", "--no-launch")),
    (3, ("--if-down", "--background")),
    (2, ("rollback", "--background")),
    (1, ("rollback",)),
)
COMMANDS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (5, ("stop",)),
    (3, ("cache", "clear")),
    (2, ("cache", "remove", CACHED)),
    (1, ("cache", "remove", UNLOCKED)),
    (4, ("cache", "prune")),
    (1, ("cache", "prune", "--unlocked")),
    (2, ("cache", "verify")),
    (4, ("cache", "verify", "--repair")),
    (8, ("models", "pull", "--timeout", "3")),
    (3, ("models", "lock", "--timeout", "3")),
    (1, ("models", "check", "--timeout", "2")),
    (3, ("status", "--json")),
    (2, ("wait", "--timeout", "5")),
    (1, ("history",)),
    (1, ("cache", "list")),
    (1, ("--dry-run", "--force-refresh")),
    (2, ("doctor", "--json", "--timeout", "5")),
    (2, ("models", "lock", "--freeze", "--timeout", "3")),
    (2, ("models", "export", "{export}")),
    (3, ("cache", "move", "--yes", "{place}")),
    (1, ("init", "--yes")),
)
APP: tuple[tuple[str, ...], ...] = (
    (), (), (), ("--load", "0.4"), ("--load", "1.5"), ("--ignore-term",), ("--die",), ("--helper",), ("--helper",),
)  # fmt: skip
KINDS: tuple[Kind, ...] = (404, 403, 429, 500, 503, "reset", "truncate", "hang", "wrong-bytes", "html", "no-length")
CRITICAL = (
    f"/{FOLDER}/",
    "switch-",
    "ref-",
    "trash-",
    "locked-",
    "verified",
    "models.lock",
    "instance-",
    "launch-",
    "outcomes",
    ".env",
    ".start_app-move",
)
"""What is in the paths of those steps between which the most is half done."""
PLACES = ("", "/api/", "/resolve/", "/cdn/", ".safetensors", "config.json", "/hook/")


@dataclass(frozen=True)
class Death:
    """Hold when a launcher is sent a signal: some seconds after its start, or SIGKILL at a step that it takes.

    Of steps, those count in which `where` is part of a path.
    """

    seconds: float | None = None
    step: int | None = None
    where: str = ""
    signal: int = 9


@dataclass(frozen=True)
class Action:
    """Hold one thing that is done `delay` seconds after the burst's begin; `words` are a launcher's.

    Besides launchers there are what kills the app, or a child that speaks to hubs, and another program that downloads.
    """

    delay: float
    second_port: bool
    what: Literal["launcher", "kill app", "kill worker", "download"]
    words: tuple[str, ...] = ()
    death: Death | None = None


@dataclass(frozen=True)
class Spoil:
    """Hold a fault of the hub or of its mirror, as long as the burst lasts."""

    mirror: bool
    place: str
    kind: Kind
    times: int | None


@dataclass(frozen=True)
class Step:
    """Hold one burst: what is changed before it, what goes wrong in it, what is done in it, and what comes next.

    `publish` are repos that get a new commit, which is `locked` or not; of `lag` the mirror stays at the old one.
    `damage` is a repo and where in a file of it, as a share, bytes are overwritten. `rest` is how long the faults last
    after the last action. If a move comes next, `kills` are the deaths of the runs before the one that ends it.
    """

    number: int
    publish: tuple[str, ...]
    locked: bool
    lag: str | None
    damage: tuple[str, float] | None
    spoils: tuple[Spoil, ...]
    actions: tuple[Action, ...]
    rest: float
    next: Next
    kills: tuple[Death, ...] = ()


def plan(seed: int, number: int) -> Step:
    """Return a step, which depends on the seed and on its number only."""
    rng = random.Random(f"{seed}/{number}")
    publish = tuple(repo for repo in (CACHED, LOCAL, UNLOCKED) if rng.random() < 0.35)
    locked = rng.random() < 0.7
    first: tuple[Action, ...] = ()
    if rng.random() < 0.25:
        publish, locked, first = (CACHED, LOCAL), True, (_interrupted_switch(rng),)
    lag = rng.choice((CACHED, LOCAL)) if rng.random() < 0.15 else None
    damage = (rng.choice((CACHED, CACHED, UNLOCKED)), rng.random()) if rng.random() < 0.15 else None
    spoils = tuple(
        Spoil(rng.random() < 0.6, rng.choice(PLACES), rng.choice(KINDS), rng.choice((1, 2, 4, None)))
        for _ in range(rng.choice((0, 0, 1, 1, 2)))
    )
    rush = 0.03 if rng.random() < 0.35 else 1.0
    others = tuple(_action(rng, rush) for _ in range(rng.randint(2, 6)))
    actions = tuple(sorted((*first, *others), key=lambda one: one.delay))
    following: tuple[Next, ...] = ("prune", "launch", "pull", "freeze", "fail", "move")
    then: Next = "everything" if number % 4 == 0 else rng.choice(following)
    rest = rng.uniform(0.5, 2.5)
    # A move of these caches takes some 350 steps on the file system, most of them in the copy.
    kills = tuple(Death(step=rng.choice((rng.randrange(60), rng.randrange(400)))) for _ in range(rng.randrange(4)))
    return Step(number, publish, locked, lag, damage, spoils, actions, rest, then, kills)


def _interrupted_switch(rng: random.Random) -> Action:
    """Return a pull, by itself or in a launch, that is killed while it changes a folder's files or a ref."""
    words = rng.choice((("models", "pull"), ("--locked", "--background"), ("--force-refresh", "--background")))
    where, steps = rng.choice(((f"/{FOLDER}/", 30), (f"/{FOLDER}/", 30), ("ref-", 5), ("switch-", 2)))
    return Action(0.0, False, "launcher", words, Death(step=rng.randrange(steps), where=where))


def _action(rng: random.Random, rush: float) -> Action:
    delay = rng.choice((0.0, rng.uniform(0, 0.3), rng.uniform(0, 2))) * rush
    second = rng.random() < 0.15
    kind = rng.random()
    if kind < 0.1:
        return Action(delay, second, "kill app")
    if kind < 0.14:
        return Action(delay, second, "kill worker")
    if kind < 0.18:
        return Action(delay, second, "download", (), _death(rng))
    table = LAUNCHES if kind < 0.55 else COMMANDS
    words = rng.choices([words for _, words in table], [weight for weight, _ in table])[0]
    if table is LAUNCHES:
        app = rng.choice(APP) if "rollback" not in words else ()
        words = (*words, "--stop-timeout", rng.choice(("0.5", "5")), *(("--", *app) if app else ()))
    return Action(delay, second, "launcher", words, _death(rng))


def _death(rng: random.Random) -> Death | None:
    chance = rng.random()
    if chance < 0.45:
        return None
    if chance < 0.6:
        return Death(step=rng.randrange(8), where=rng.choice(CRITICAL))
    if chance < 0.75:
        # A launch takes some 30 steps, a prune or a pull that brings something up to 110.
        return Death(step=rng.choice((int(rng.expovariate(1 / 12)), rng.randrange(40), rng.randrange(110))))
    return Death(seconds=rng.choice((rng.uniform(0, 0.4), rng.uniform(0, 2.5))), signal=rng.choice((9, 9, 9, 9, 15, 2)))
