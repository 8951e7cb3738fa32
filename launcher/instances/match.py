"""A process is ours only if its own command line runs this app's script; text that merely mentions it proves nothing.

Everything here is a pure predicate over a command line that was read elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from ..config.validation import option_value

# https://docs.python.org/3/using/cmdline.html: the one-letter options that swallow the next word.
_OPTIONS_WITH_VALUE = "WX"
_LONG_OPTIONS_WITH_VALUE = ("--check-hash-based-pycs",)
_PYTHON_NAME = re.compile(r"\.?(python|pypy|graalpy)", re.IGNORECASE)
# Programs that run any command after the word `run`: their options that take a value, and those that take none.
# After an option that is not known here nobody can tell what is run.
_COMMAND_RUNNERS: Mapping[str, tuple[str, str]] = {
    "uv": (
        "-p --python --with --with-editable --with-requirements --extra --no-extra --group --no-group --only-group "
        "--package --directory --project --env-file --index --default-index -i --index-url --extra-index-url "
        "--config-file --cache-dir",
        "-n --no-cache -q --quiet -v --verbose -s --script --no-project --offline --no-sync --frozen --locked "
        "--isolated --active --exact --all-extras --all-groups --dev --no-dev --native-tls --no-progress "
        "--no-config --no-env-file",
    ),
    "conda": ("-n --name -p --prefix --cwd", "-v --verbose --dev --no-capture-output --live-stream"),
    "mamba": ("-n --name -p --prefix --cwd", "-v --verbose --dev --no-capture-output --live-stream"),
    "micromamba": ("-n --name -p --prefix --cwd", ""),
    "poetry": ("", ""),
    "pdm": ("", ""),
    "pipenv": ("", ""),
    "pixi": ("-e --environment --manifest-path", "-q --quiet -v --verbose --frozen --locked"),
}
# Programs that run nothing but a Python script, named among their own options after this word, if any.
_SCRIPT_RUNNERS: Mapping[str, str | None] = {
    "accelerate": "launch",
    "accelerate-launch": None,
    "accelerate.commands.launch": None,
    "torchrun": None,
    "torch.distributed.run": None,
    "torch.distributed.launch": None,
}
# Gradio's reloader takes the script first; behind other words it does other things with it.
_RELOADER = "gradio"


class ScriptArgument(NamedTuple):
    """Hold what a Python was told to run: a script's path, or a module's dotted name.

    `options` are the one-letter options that stood before it: some of them say where a module is looked for.
    """

    kind: Literal["script", "module"]
    text: str
    options: frozenset[str] = frozenset()

    def paths(self) -> tuple[str, ...]:
        """Return the paths that this can mean, the first that is there; a package goes before a module of its name."""
        if self.kind == "script":
            return (self.text, os.path.join(self.text, "__main__.py"))
        path = self.text.replace(".", "/")
        return (path + "/__init__.py", path + ".py", path + "/__main__.py")

    def can_be(self, path: str) -> bool:
        """Return whether it can lead to this file, by its name; a script's path can be a link of any name."""
        name = self.text.rpartition(".")[2]
        ends = (f"/{name}.py", f"/{name}/__main__.py", f"/{name}/__init__.py")
        return self.kind == "script" or path.endswith(ends)

    def folders(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Return the folders that those paths are looked for in, relative to the one it was started in.

        https://docs.python.org/3/library/sys_path_init.html: that folder itself goes first, unless -P, -I or
        PYTHONSAFEPATH takes it away. What is installed beside the interpreter comes last, and is nobody's app.
        """
        if self.kind == "script":
            return ("",)
        heeded = {} if self.options & frozenset("EI") else environ
        safe = self.options & frozenset("PI") or heeded.get("PYTHONSAFEPATH")
        path = heeded.get("PYTHONPATH")
        return (*(() if safe else ("",)), *(path.split(":") if path else ()))


def is_python(exe: str | None) -> bool:
    """Return whether an executable is a Python, by its file's name; an upgrade under its feet leaves ` (deleted)`."""
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
    seen: set[str] = set()
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
                return len(argv), ScriptArgument("module", module, frozenset(seen)) if module else None
            seen.add(letter)
            if letter in _OPTIONS_WITH_VALUE:
                position += 0 if word[index + 1 :] else 1
                break
        position += 1
    return position, None


def wrapped_argument(argv: Sequence[str], python: bool) -> ScriptArgument | None:
    """Return what a wrapper such as `uv run` or `accelerate launch` was told to run, or None for any other program.

    A wrapper lives as long as what it runs and may start it again, so it goes with it. `uv run vim webui.py` runs vim.
    """
    found = _wrapped(argv, python) if argv else None
    return found if found and found.text else None


def _wrapped(argv: Sequence[str], python: bool) -> ScriptArgument | None:
    name, rest = os.path.basename(argv[0]), argv[1:]
    if python:
        script = script_argument(argv)
        if script is None or script.text not in argv:
            return None
        name = os.path.basename(script.text) if script.kind == "script" else script.text
        rest = argv[argv.index(script.text) + 1 :]
    if name in _COMMAND_RUNNERS:
        return _run_by_command_runner(rest, *(frozenset(options.split()) for options in _COMMAND_RUNNERS[name]))
    if name in _SCRIPT_RUNNERS:
        return _run_by_script_runner(rest, _SCRIPT_RUNNERS[name])
    if name == _RELOADER and rest and not rest[0].startswith("-"):
        return ScriptArgument("script", rest[0])
    return None


def _run_by_command_runner(
    rest: Sequence[str], with_value: frozenset[str], without: frozenset[str]
) -> ScriptArgument | None:
    if "run" not in rest:
        return None
    position = rest.index("run") + 1
    while position < len(rest) and rest[position].startswith("-"):
        option, equals, _ = rest[position].partition("=")
        if option == "--":
            position += 1
            break
        if option in ("-m", "--module"):
            return ScriptArgument("module", rest[position + 1]) if position + 1 < len(rest) else None
        if option not in with_value and option not in without:
            return None
        position += 2 if option in with_value and not equals else 1
    if position >= len(rest):
        return None
    if is_python(rest[position]):
        return script_argument(rest[position:])
    return ScriptArgument("script", rest[position])


def _run_by_script_runner(rest: Sequence[str], word: str | None) -> ScriptArgument | None:
    # What follows the script are the script's own arguments; only an option's value could come before it.
    if word is not None:
        rest = rest[rest.index(word) + 1 :] if word in rest else ()
    for position, argument in enumerate(rest):
        if argument in ("-m", "--module") and position + 1 < len(rest):
            return ScriptArgument("module", rest[position + 1])
        if argument.endswith(".py") and not argument.startswith("-"):
            return ScriptArgument("script", argument)
    return None


def declared_port(argv: Sequence[str], environ: Mapping[str, str], port_flags: Sequence[str]) -> int | None:
    """Return the port that a command line, or else its environment, tells the app to use."""
    for flag in port_flags:
        told = option_value(argv[1:], flag)
        if told is not None and _is_number(told):
            return int(told)
    told = environ.get("GRADIO_SERVER_PORT", "").strip()
    return int(told) if _is_number(told) else None


def _is_number(text: str) -> bool:
    # Python refuses to make a number of thousands of digits, and anybody's command line may have them.
    return text.isdecimal() and len(text) < 10
