"""A hint that repeats the user's command keeps what was typed, as far as it fits what the hint adds."""

from __future__ import annotations

import shlex
from functools import partial

import pytest

from launcher.arguments import parse
from launcher.arguments.repeated import repeated
from launcher.errors import REPEAT, LauncherError
from launcher.ui.invocation import Invocation


@pytest.mark.parametrize(
    ("typed", "options", "hinted"),
    [
        ("--background", "--take-port", "--background --take-port"),
        ("-p 7861 --background --timeout 5", "--take-port", "--port 7861 --background --timeout 5 --take-port"),
        ("--port 7861 --host 10.0.0.1", "--port 7862", "--host 10.0.0.1 --port 7862"),
        ("--keep a/b --keep c/d --prune-cache", "--take-port", "--keep a/b --keep c/d --prune-cache --take-port"),
        ("--background -- --fp16 'a b'", "--take-port", "--background --take-port -- --fp16 'a b'"),
        ("--background", "", "--background"),
        ("-- --fp16", "", "-- --fp16"),
        ("", "", ""),
        # The hint of a rule: what contradicts its option goes.
        ("--background --clear-cache --prune-cache", "--clear-cache", "--background --clear-cache"),
        ("--older-than 30d -q", "--prune-cache", "--older-than 30d --quiet --prune-cache"),
        ("rollback --open", "--background --open", "rollback --background --open"),
        # An option that only a launch has.
        ("rollback --background --port 7861", "--python PATH", "--background --port 7861 --python PATH"),
        # The hint tells how to act, and what is shown instead of done would not help.
        ("-n --background", "--take-port", "--background --take-port"),
        # Another command: what a launch accepts too, and not how the answer was to be shown.
        ("cache prune --older-than 30d --json -n", "--prune-cache", "--older-than 30d --prune-cache"),
        ("doctor --timeout 5", "--port 7861", "--port 7861"),
        ("unit --user -- --fp16", "--python PATH", "--python PATH"),
        # A secret is in no message, and half of the arguments would be a trap.
        ("--background -- --auth me:pw --fp16", "--take-port", "--background --take-port -- ..."),
        # A name with a quote, which is not ours to take apart.
        ("--background", "--env-file it's", "--env-file it's"),
    ],
)
def test_what_was_typed_is_kept(typed: str, options: str, hinted: str) -> None:
    assert repeated(shlex.split(typed), options).strip() == hinted


def test_only_the_marked_command_of_a_hint_is_repeated() -> None:
    words = ("--background", "--port", "7861", "--", "--fp16")
    called = Invocation(
        program="start-app", options=(("--port", "--port 7861"),), words=words, repeat=partial(repeated, words)
    )
    hint = f"to stop it: start_app.py --take-port{REPEAT}; start_app.py --port 7862{REPEAT}, or start_app.py status"
    assert called.pasteable(hint) == (
        "to stop it: start-app --background --port 7861 --take-port -- --fp16; "
        "start-app --background --port 7862 -- --fp16, or start-app --port 7861 status"
    )


@pytest.mark.parametrize(
    "typed",
    [
        "--clear-cache --prune-cache --background",
        "--locked --force-refresh --background",
        "--if-down --take-port --host 127.0.0.1",
        "--no-launch --background --timeout 3 --stop-timeout 5",
        "--open --log-file a.log",
        "rollback --log-file /",
    ],
)
def test_the_hint_of_a_rule_can_be_typed(typed: str) -> None:
    words = shlex.split(typed)
    with pytest.raises(LauncherError) as caught:
        parse(words)
    shown = Invocation(repeat=partial(repeated, words)).pasteable(caught.value.hint or "")
    assert REPEAT not in shown
    for command in shown.split("; "):
        parse(shlex.split(command.partition("start_app.py")[2]))
