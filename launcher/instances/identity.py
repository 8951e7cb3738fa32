"""A process is ours only if its own command line runs this app's script; text that merely mentions it proves nothing.

Everything here is a pure predicate over a command line that was read elsewhere.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# https://docs.python.org/3/using/cmdline.html: the one-letter options that swallow the next word.
_OPTIONS_WITH_VALUE = "WX"
_LONG_OPTIONS_WITH_VALUE = ("--check-hash-based-pycs",)
_PYTHON_NAME = re.compile(r"\.?(python|pypy|graalpy)", re.IGNORECASE)
# Programs that run any command after this word; what they were told to run must be read, it may be an editor.
_COMMAND_RUNNERS: Mapping[str, str] = dict.fromkeys(
    ("uv", "conda", "mamba", "micromamba", "poetry", "pdm", "pipenv", "pixi"), "run"
)
_RUNNER_OPTIONS_WITH_VALUE = frozenset(
    "-n --name -p --prefix --cwd --with --with-editable --with-requirements --extra --group --only-group --package "
    "--python --directory --project --env-file --index --index-url --config-file --cache-dir -e --environment "
    "--manifest-path -C".split()
)
# Programs that run nothing but a Python script named somewhere among their own options, after this word if any.
_SCRIPT_RUNNERS: Mapping[str, str | None] = {
    "accelerate": "launch",
    "accelerate-launch": None,
    "accelerate.commands.launch": None,
    "torchrun": None,
    "torch.distributed.run": None,
    "torch.distributed.launch": None,
    "gradio": None,
}


@dataclass(frozen=True, slots=True)
class ScriptArgument:
    """Hold what a Python was told to run: a script's path, or a module's dotted name."""

    kind: Literal["script", "module"]
    text: str

    def paths(self) -> tuple[str, ...]:
        """Return the paths that this can mean, relative to the folder it was started in."""
        if self.kind == "script":
            return (self.text, os.path.join(self.text, "__main__.py"))
        path = self.text.replace(".", "/")
        return (path + ".py", path + "/__main__.py")


def is_python(exe: str | None) -> bool:
    """Tell whether an executable is a Python, by its file's name; an upgrade under its feet leaves ` (deleted)`."""
    return bool(exe and _PYTHON_NAME.match(os.path.basename(exe)))


def script_argument(argv: Sequence[str]) -> ScriptArgument | None:
    """Return what a Python command line runs, or None for `-c`, standard input and no command at all."""
    position, found = _after_options(argv)
    if found is not None:
        return found
    if position < len(argv) and argv[position] not in ("", "-"):
        return ScriptArgument("script", argv[position])
    return None


def _after_options(argv: Sequence[str]) -> tuple[int, ScriptArgument | None]:
    # The same walk that CPython's own getopt does; returns where the script stands, or the module that -m names.
    position = 1
    while position < len(argv):
        word = argv[position]
        if word == "--":
            return position + 1, None
        if not word.startswith("-") or word == "-":
            return position, None
        if word.startswith("--"):
            position += 2 if word in _LONG_OPTIONS_WITH_VALUE else 1
            continue
        for index, letter in enumerate(word[1:], start=1):
            if letter == "c":
                return len(argv), None
            if letter == "m":
                module = word[index + 1 :] or (argv[position + 1] if position + 1 < len(argv) else "")
                return len(argv), ScriptArgument("module", module) if module else None
            if letter in _OPTIONS_WITH_VALUE:
                position += 0 if word[index + 1 :] else 1
                break
        position += 1
    return position, None


def wrapped_arguments(argv: Sequence[str], python: bool) -> tuple[ScriptArgument, ...]:
    """Return what a wrapper such as `uv run` or `accelerate launch` was told to run; none for other programs.

    A wrapper lives as long as what it runs and may start it again, so it goes with it. `uv run vim webui.py` runs vim.
    """
    if not argv:
        return ()
    name, rest = os.path.basename(argv[0]), list(argv[1:])
    if python:
        script = script_argument(argv)
        if script is None or script.text not in argv:
            return ()
        name = os.path.basename(script.text) if script.kind == "script" else script.text
        rest = list(argv[argv.index(script.text) + 1 :])
    if name in _COMMAND_RUNNERS:
        found = _command_after(_COMMAND_RUNNERS[name], rest)
        return (found,) if found else ()
    if name not in _SCRIPT_RUNNERS:
        return ()
    word = _SCRIPT_RUNNERS[name]
    if word is not None:
        rest = rest[rest.index(word) + 1 :] if word in rest else []
    modules = [ScriptArgument("module", after) for before, after in itertools.pairwise(rest) if before == "-m"]
    return (*modules, *(ScriptArgument("script", word) for word in rest if word and not word.startswith("-")))


def _command_after(word: str, rest: Sequence[str]) -> ScriptArgument | None:
    if word not in rest:
        return None
    position = rest.index(word) + 1
    while position < len(rest) and rest[position].startswith("-"):
        if rest[position] == "--":
            position += 1
            break
        if rest[position] in ("-m", "--module") and position + 1 < len(rest):
            return ScriptArgument("module", rest[position + 1])
        position += 2 if rest[position] in _RUNNER_OPTIONS_WITH_VALUE else 1
    if position >= len(rest):
        return None
    if is_python(rest[position]):
        return script_argument(rest[position:])
    return ScriptArgument("script", rest[position])


def declared_port(argv: Sequence[str], environ: Mapping[str, str], port_flags: Sequence[str]) -> int | None:
    """Return the port that a command line, or else its environment, tells the app to use."""
    for flag in port_flags:
        for position in range(len(argv) - 1, 0, -1):
            word = argv[position]
            value = word[len(flag) + 1 :] if word.startswith(flag + "=") else None
            if argv[position - 1] == flag:
                value = word
            if value is not None and value.isdecimal():
                return int(value)
    value = environ.get("GRADIO_SERVER_PORT", "").strip()
    return int(value) if value.isdecimal() else None
