"""Find the script or module in a command line, by the rules of the program that reads it.

Everything here is pure. Other modules prove that a process is a Python, and which file the words lead to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

# https://docs.python.org/3/using/cmdline.html: the one-letter options that take the next word as a value.
_OPTIONS_WITH_VALUE = "WX"
_LONG_OPTIONS_WITH_VALUE = ("--check-hash-based-pycs",)
_OWN_FOLDER = "/proc/self/cwd/"
_PYTHON_NAME = r"(?i)\.?(python|pypy|graalpy)"
# Programs that run any command after the word `run`: their options with a value, and those without. After an unknown
# option, the command cannot be determined.
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
# Its options without a value: the word after one of these, or after a value, is the script.
_ACCELERATE = frozenset(
    "-h --help -q --quiet --debug --cpu --use_cpu --multi_gpu --tpu --tpu_cluster --no_tpu_cluster --tpu_use_sudo "
    "--ipex --use_xpu --use_mps_device --use_deepspeed --use_fsdp --use_parallelism_config --use_megatron_lm "
    "--same_network --dynamo_use_fullgraph --dynamo_use_dynamic --enable_cpu_affinity".split()
)
_TORCHRUN = frozenset("-h --help --standalone --use-env --use_env --run-path --run_path --virtual-local-rank".split())
# Programs that run a Python script, which follows this word, if any, among their own options.
_SCRIPT_RUNNERS: Mapping[str, tuple[str | None, frozenset[str]]] = {
    "accelerate": ("launch", _ACCELERATE),
    "accelerate-launch": (None, _ACCELERATE),
    "accelerate.commands.launch": (None, _ACCELERATE),
    "torchrun": (None, _TORCHRUN),
    "torch.distributed.run": (None, _TORCHRUN),
    "torch.distributed.launch": (None, _TORCHRUN),
}
_NO_PYTHON = "--no[-_]p"  # in full --no-python; argparse accepts any prefix
# Gradio's reloader takes the script first; after other words it does not run a script.
_RELOADER = "gradio"


class ScriptArgument(NamedTuple):
    """Hold the script or module of a Python command line: a path, or a dotted name.

    `options` are the one-letter options before it: some decide where a module is searched. `rest` are the script's own
    arguments.
    """

    kind: Literal["script", "module"]
    text: str
    options: frozenset[str] = frozenset()
    rest: tuple[str, ...] = ()

    def paths(self) -> tuple[str, ...]:
        """Return the possible paths, in order of preference; a package comes before a module of the same name."""
        if self.kind == "script":
            return (self.text, os.path.join(self.text, "__main__.py"))
        path = self.text.replace(".", "/")
        return (path + "/__init__.py", path + ".py", path + "/__main__.py")

    def can_be(self, path: str) -> bool:
        """Return whether its name allows it to lead to this file; a script's path can be a link of any name."""
        name = self.text.rpartition(".")[2]
        ends = (f"/{name}.py", f"/{name}/__main__.py", f"/{name}/__init__.py")
        return self.kind == "script" or path.endswith(ends)

    def folders(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Return the folders in which those paths are searched, relative to the start folder.

        https://docs.python.org/3/library/sys_path_init.html: the start folder comes first, unless -P, -I or
        PYTHONSAFEPATH removes it. The interpreter's installed packages come last.
        """
        if self.kind == "script":
            return ("",)
        heeded = {} if self.options & frozenset("EI") else environ
        safe = self.options & frozenset("PI") or heeded.get("PYTHONSAFEPATH")
        path = heeded.get("PYTHONPATH")
        return (*(() if safe else ("",)), *(path.split(":") if path else ()))


def has_python_name(program: str | None) -> bool:
    """Return whether a program has the name of a Python; that is not a proof."""
    return bool(program and re.match(_PYTHON_NAME, os.path.basename(program)))


def script_argument(argv: Sequence[str]) -> ScriptArgument | None:
    """Return the script or module of a Python command line, or None for `-c`, standard input and no command at all."""
    # This follows CPython's own getopt.
    position = 1
    letters: set[str] = set()
    while position < len(argv):
        word = argv[position]
        if word == "--":
            return _script(argv, position + 1)
        if not word.startswith("-") or word == "-":
            return _script(argv, position)
        if word.startswith("--"):
            position += 2 if word in _LONG_OPTIONS_WITH_VALUE else 1
            continue
        for index, letter in enumerate(word[1:], start=1):
            if letter == "c":
                return None
            if letter == "m":
                joined, rest = word[index + 1 :], argv[position + 1 :]
                return _module(joined, rest, letters) if joined else _module_of(rest, letters)
            letters.add(letter)
            if letter in _OPTIONS_WITH_VALUE:
                position += 0 if word[index + 1 :] else 1
                break
        position += 1
    return None


def _script(argv: Sequence[str], position: int) -> ScriptArgument | None:
    if position >= len(argv) or argv[position] in ("", "-"):
        return None
    # `self` means the other process there, and its current folder is used anyway.
    text = argv[position].removeprefix(_OWN_FOLDER)
    return ScriptArgument("script", text or ".", rest=tuple(argv[position + 1 :]))


def _module_of(words: Sequence[str], options: Iterable[str] = ()) -> ScriptArgument | None:
    return _module(words[0], words[1:], options) if words else None


def _module(name: str, rest: Sequence[str], options: Iterable[str]) -> ScriptArgument | None:
    return ScriptArgument("module", name, frozenset(options), tuple(rest)) if name else None


def wrapped_argument(argv: Sequence[str], python: bool) -> ScriptArgument | None:
    """Return what a wrapper such as `uv run` or `accelerate launch` runs, or None for any other program.

    A wrapper lives as long as its command and may restart it, so both are one instance. `uv run vim webui.py` runs vim.
    """
    wrapped = _wrapped(argv, python) if argv else None
    return wrapped if wrapped and wrapped.text else None


def _wrapped(argv: Sequence[str], python: bool) -> ScriptArgument | None:
    name, rest = os.path.basename(argv[0]), tuple(argv[1:])
    if python:
        script = script_argument(argv)
        if script is None:
            return None
        name = os.path.basename(script.text) if script.kind == "script" else script.text
        rest = script.rest
    if name in _COMMAND_RUNNERS:
        return _run_by_command_runner(rest, *(frozenset(options.split()) for options in _COMMAND_RUNNERS[name]))
    if name in _SCRIPT_RUNNERS:
        return _run_by_script_runner(rest, *_SCRIPT_RUNNERS[name])
    if name == _RELOADER and rest and not rest[0].startswith("-"):
        return ScriptArgument("script", rest[0], rest=rest[1:])
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
            return _module_of(rest[position + 1 :])
        if option not in with_value and option not in without:
            return None
        position += 2 if option in with_value and not equals else 1
    if position >= len(rest):
        return None
    if has_python_name(rest[position]):
        return script_argument(rest[position:])
    return ScriptArgument("script", rest[position], rest=tuple(rest[position + 1 :]))


def _run_by_script_runner(rest: Sequence[str], word: str | None, without: frozenset[str]) -> ScriptArgument | None:
    # Words after the script are the script's own arguments; only an option's value can come before it.
    if word is not None:
        rest = rest[rest.index(word) + 1 :] if word in rest else ()
    value = False  # whether the next word can be an option's value
    for position, argument in enumerate(rest):
        if argument in ("-m", "--module"):
            return _module_of(rest[position + 1 :])
        if argument.startswith("-"):
            if re.match(_NO_PYTHON, argument):
                return None
            value = "=" not in argument and argument not in without
        elif argument.endswith(".py"):
            return ScriptArgument("script", argument, rest=tuple(rest[position + 1 :]))
        elif not value:
            return None  # this word is the command
        else:
            value = False
    return None
