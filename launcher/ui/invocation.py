"""Repeat the user's way of calling the launcher in hints, so that their commands can be pasted."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import REPEAT

START_APP = "start_app.py"
# The environment that `uv run --with …` creates for one run and removes at its end, in uv's cache.
_PASSING = r"/(?:builds|archive|environments)-v\d+/"
_COMMAND = r"(?<![\w./-])start_app\.py(?![\w.])((?:(?!; |, or ).)*"
_REPEATED = rf"{_COMMAND}?){REPEAT}"
_PLACES = {"--app-dir": "--app-dir", "--env-file": "--env-file", "--port": "--port", "-p": "--port"}


class Invocation(NamedTuple):
    """Hold the user's call: the words that call the launcher again, and the options for the app and the port.

    `options` are (name, shell text) pairs; `launcher_file` is the called `start_app.py`, as it was named. `repeat`
    returns the options of a hint together with the typed ones.
    """

    program: str = START_APP
    options: tuple[tuple[str, str], ...] = ()
    launcher_file: str | None = None
    words: tuple[str, ...] = ()
    repeat: Callable[[str], str] = str

    def pasteable(self, hint: str) -> str:
        """Return a hint whose commands can be pasted: with the user's call and options."""
        whole = re.sub(_REPEATED, lambda match: START_APP + self.repeat(match[1]), hint)
        return pasteable(whole, self.program, self.options)

    def again(self) -> str:
        """Return the arguments for another Python to do the same."""
        return again(self.launcher_file, self.words)


def program(launcher_file: str | None, name: str) -> str:
    """Return the shell words that call the launcher again from here; `name` is the name of the call."""
    if launcher_file is None:
        if not name.endswith("start-app"):
            return f"{shlex.quote(sys.executable)} -m launcher"
        import shutil

        path = shutil.which(os.path.basename(name))
        same = path is not None and os.path.realpath(path) == os.path.realpath(name)
        return os.path.basename(name) if same else shlex.quote(_from_here(name))
    return shlex.join((*(_uv_run() or (_from_here(sys.executable),)), _from_here(launcher_file)))


def again(launcher_file: str | None, words: Sequence[str]) -> str:
    """Return the arguments for another Python to do the same: the launcher's file and the typed words."""
    path = _from_here(launcher_file or START_APP)
    return shlex.join((path if "/" in path else f"./{path}", *words))


def typed(words: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the typed options for the app and the port, also from words that cannot be parsed."""
    options: dict[str, str] = {}
    own = own_words(words)
    for position, word in enumerate(own):
        name, equals, value = word.partition("=")
        if word == "--demo":
            options["--demo"] = "--demo"
        elif name in _PLACES and (equals or position + 1 < len(own)):
            name = _PLACES[name]
            options[name] = shlex.join((name, value if equals else own[position + 1]))
    return tuple(options.items())


def own_words(words: Sequence[str]) -> tuple[str, ...]:
    """Return the launcher's own words: what follows `--` is for the app."""
    return tuple(words[: words.index("--")] if "--" in words else words)


def passing_python() -> bool:
    """Return whether this Python disappears when the launcher ends (`uv run --with`)."""
    return bool(_uv_run())


def _uv_run() -> tuple[str, ...]:
    """Return the words of the `uv run` that created this temporary Python; empty for a permanent one."""
    if not re.search(_PASSING, sys.executable):
        return ()
    try:
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read().rstrip(b"\0").split(b"\0")]
    except OSError:
        return ()
    if os.path.basename(words[0]) != "uv":
        return ()
    script = next((number for number, word in enumerate(words) if os.path.basename(word) == START_APP), None)
    return ("uv", *words[1:script]) if script else ()


def _from_here(path: str) -> str:
    try:
        here = os.getcwd() + os.sep
    except OSError:
        here = os.sep
    return os.path.abspath(path).removeprefix(here)


def pasteable(hint: str, program: str, context: Sequence[tuple[str, str]]) -> str:
    """Return a hint whose commands can be pasted: with the user's call of the launcher and its options.

    `context` contains the given options as (name, shell text); an option that the hint's command sets itself is
    omitted.
    """

    def called(match: re.Match[str]) -> str:
        own = match[1]
        options = [text for name, text in context if not re.search(rf"{name}\b", own)]
        return " ".join((program, *options)) + own

    return re.sub(rf"{_COMMAND})", called, hint)
