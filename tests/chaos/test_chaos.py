"""For two minutes launchers do what they can to one another, to the app and to the cache, and what must hold holds.

`CHAOS_SECONDS` makes it shorter or longer, `CHAOS_SEED` does the same things again; without it each run does others.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from tests.chaos import upgrades
from tests.chaos.plan import plan
from tests.chaos.run import run

SECONDS = float(os.environ.get("CHAOS_SECONDS", "120"))
SEED = int(os.environ.get("CHAOS_SEED", secrets.randbelow(1 << 32)))


@pytest.mark.slow
def test_a_seed_and_a_number_are_always_the_same_step() -> None:
    steps = [plan(7, number) for number in range(1, 30)]
    assert steps == [plan(7, number) for number in range(1, 30)]
    assert steps != [plan(8, number) for number in range(1, 30)]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
def test_whatever_happens_at_once_what_must_hold_holds(tmp_path: Path) -> None:
    print(f"CHAOS_SEED={SEED}")
    print(run(tmp_path, SEED, SECONDS, say=lambda line: None))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.parametrize("in_folder", [False, True])
def test_after_an_upgrade_that_fails_something_good_serves_again(tmp_path: Path, in_folder: bool) -> None:
    print(f"CHAOS_SEED={SEED}")
    print(upgrades.run(tmp_path, SEED, 10_000, SECONDS / 2, in_folder=in_folder))
