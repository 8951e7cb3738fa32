"""Propose the settings for the app of a folder: from a running instance, its start script, or its code.

Every line has its reason. Uncertain settings are not proposed but named, so that the user can write them.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..config.settings import DEFAULT_PORT, DEFAULT_SCRIPT, Settings
from ..instances.app_arguments import command_words, told_port
from ..instances.command_line import ScriptArgument, script_argument, wrapped_argument
from ..scripts import presets, project, shell
from ..scripts.candidates import Candidate, Folder
from ..scripts.reading import Reading, Way, read_off
from ..ui import text
from .by_hand import Started, is_telling, started

_DECIDED = ("GRADIO_SERVER_PORT", "GRADIO_SERVER_NAME")
# Variables in start scripts for the shell and for Python's environment, which the launcher sets itself.
_SHELLS = ("PATH", "PWD", "HOME", "PS1", "SHELL", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHON")
_USERS_SCRIPT = "webui-user.sh"  # where a user of Stable Diffusion web UI keeps settings
_NAMED_AT_MOST = 5
_HOST_OPTIONS = ("--host", "--server-name", "--server_name", "--listen-host", "--listen", "--ip", "--address", "--bind")


class Line(NamedTuple):
    """Hold one proposed setting, and the reason."""

    name: str
    value: str
    reason: str


class Proposal(NamedTuple):
    """Hold the proposed lines, and what the user must know or write."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


class _Origin(NamedTuple):
    """Hold an earlier start of the app: its command, its environment, and the source of this information."""

    argument: ScriptArgument
    before: tuple[str, ...]
    environment: Mapping[str, str]
    python: str
    folder: Path
    what: str


def propose(settings: Settings) -> Proposal:
    """Return the settings for the app in this folder, without running any of it."""
    return _Proposing(settings).proposal()


class _Proposing:
    """Collect lines: the first source that names a setting counts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app_dir = settings.app_dir
        self._folder = Folder(settings.app_dir)
        self._lines: dict[str, Line] = {}
        self._notes: list[str] = []

    def proposal(self) -> Proposal:
        scripts = shell.read_all(self._app_dir)
        starting = self._start_script(scripts)
        origin = self._origin(starting)
        preset = presets.recognized(self._app_dir)
        entry, candidate = self._entry(origin, preset)
        reading = read_off(candidate) if candidate else None
        if origin:
            self._started(origin, reading)
        users = [script for script in scripts if script.path.name == _USERS_SCRIPT]
        named = [script for script in scripts if shell.is_start_script(script.path)]
        for script in (*([starting] if starting else named[:1]), *users):
            self._exported(script)  # once more changes nothing
        for name, value in preset.lines.items() if preset else ():
            self._add(name, value, f"{preset.name}: {preset.reason}" if preset else "")
        if entry:
            self._add("APP_SCRIPT", *entry)
        if reading and candidate and not preset:
            self._read(reading, candidate)
        if entry is None and preset is None:
            self._notes.append("no script here imports gradio and launches a page: write APP_SCRIPT=FILE yourself")
        return Proposal(tuple(line for line in self._lines.values() if not _is_default(line)), tuple(self._notes))

    def _add(self, name: str, value: str, reason: str) -> None:
        self._lines.setdefault(name, Line(name, value, reason))

    def _origin(self, script: shell.StartScript | None) -> _Origin | None:
        running = started(self._app_dir)
        if running:
            what = f"from the running pid {running.pid}"
            return _Origin(running.argument, (), running.environment, _python_of(running), running.folder, what)
        argument = _argument(script) if script else None
        if script and argument:
            what = f"from {script.path.name}"
            return _Origin(argument, script.before, script.exports, script.python, self._app_dir, what)
        return None

    def _start_script(self, scripts: Sequence[shell.StartScript]) -> shell.StartScript | None:
        """Return the script that starts a page of this folder, in any case rather than under a condition."""
        starting = []
        for script in scripts:
            argument = _argument(script)
            path = self._path(argument, self._app_dir) if argument else None
            if path and self._folder.candidate(path):
                starting.append(script)
        return min(starting, key=lambda script: script.nested, default=None)

    def _path(self, argument: ScriptArgument, folder: Path) -> Path | None:
        """Return the file of this folder that was run, None for a file of another folder."""
        for name in argument.paths():
            path = Path(os.path.normpath(folder / name))
            if path.is_file() and (self._app_dir in path.parents):
                return path
        return None

    def _entry(
        self, origin: _Origin | None, preset: presets.Preset | None
    ) -> tuple[tuple[str, str] | None, Candidate | None]:
        """Return the value of `APP_SCRIPT` with its reason, and the script to read the other settings from."""
        if self._settings.origins["APP_SCRIPT"].level != "default":
            return None, self._folder.candidate(self._settings.script)
        path = self._path(origin.argument, origin.folder) if origin else None
        if origin and path:
            is_module = origin.argument.kind == "module"
            named = f"-m {origin.argument.text}" if is_module else path.relative_to(self._app_dir).as_posix()
            return (named, origin.what), self._folder.candidate(path)
        if preset:
            first = self._app_dir / preset.lines["APP_SCRIPT"].split()[0]
            return None, self._folder.candidate(first) if first.is_file() else None
        candidates = self._folder.candidates
        console = self._console(candidates)
        if console:
            return console
        if candidates:
            first_candidate = candidates[0]
            if len(candidates) > 1:
                others = ", ".join(self._folder.entry(one.path) for one in candidates[1:4])
                self._notes.append(f"also possible: APP_SCRIPT={others}")
            named = self._folder.entry(first_candidate.path)
            return (named, f"{first_candidate.path.name} {first_candidate.reason}"), first_candidate
        return None, None

    def _console(self, candidates: Sequence[Candidate]) -> tuple[tuple[str, str], Candidate] | None:
        """Return the project's console script if it is installed and no script at the top is the app."""
        if candidates and len(candidates[0].path.relative_to(self._app_dir).parts) == 1 and candidates[0].script.runs:
            return None
        for script in project.console_scripts(self._app_dir):
            path = project.file_of(self._app_dir, script)
            candidate = self._folder.candidate(path) if path else None
            installed = [self._app_dir / name / "bin" / script.name for name in (".venv", "venv")]
            if candidate and any(one.is_file() for one in installed):
                return (script.name, f"pyproject.toml: it calls {script.module}, which launches a page"), candidate
        return None

    def _started(self, origin: _Origin, reading: Reading | None) -> None:
        """Add the settings from a command line and an environment."""
        rest = tuple(word for word in origin.argument.rest if word)
        known = [*(reading.port.option.names if reading and reading.port.option else ())]
        told = told_port(rest, {}, known)
        command = command_words(rest, (*known, *_HOST_OPTIONS), lambda word: (origin.folder / word).is_file())
        if told.port is not None and told.by.startswith("-"):
            flag = told.by.partition("=")[0].partition(" ")[0]
            if flag not in known and not command:
                self._add("APP_PORT_FLAG", flag, origin.what)
            self._add("GRADIO_SERVER_PORT", str(told.port), origin.what)
        hosts = [*(reading.host.option.names if reading and reading.host.option else _HOST_OPTIONS)]
        host = _value_of(rest, hosts)
        if host:
            self._add("GRADIO_SERVER_NAME", host[1], origin.what)
            if not command and (reading is None or reading.host.option is None):
                self._add("APP_HOST_FLAG", host[0], origin.what)
        left = _without(rest, told.by, f"{host[0]} {host[1]}" if host else "")
        if command:
            self._add("APP_COMMAND", _with_places(rest, told.by, host), origin.what)
        elif left:
            self._add("APP_ARGS", _joined(left), origin.what)
        if origin.before:
            self._add("APP_PREFIX", shlex.join(origin.before), origin.what)
        if origin.python and not self._is_own(origin.python):
            self._add("APP_PYTHON", origin.python, origin.what)
        self._environment(origin)

    def _environment(self, origin: _Origin) -> None:
        own = told_port((), origin.environment)
        if own.port is not None:
            self._add("GRADIO_SERVER_PORT", str(own.port), origin.what)
        if origin.environment.get("GRADIO_SERVER_NAME", "").strip():
            self._add("GRADIO_SERVER_NAME", origin.environment["GRADIO_SERVER_NAME"], origin.what)
        for name, value in origin.environment.items():
            if is_telling(name) and value.strip():
                self._add(name, self._anchored(value, origin.folder), origin.what)

    def _exported(self, script: shell.StartScript) -> None:
        """Add the settings that a start script exports."""
        for name, value in script.exports.items():
            if name not in _SHELLS and name not in (*_DECIDED, "PORT") and value.strip():
                self._add(name, value, f"{script.path.name} exports it")
        unknown = [name for name in script.unknown if name not in _SHELLS]
        if unknown:
            names = text.some(unknown, _NAMED_AT_MOST)
            self._notes.append(f"{script.path.name} computes {names} or sets it under a condition: not proposed")

    def _anchored(self, value: str, folder: Path) -> str:
        """Return an absolute path for one of another folder: `.env` resolves a relative one from the app's folder."""
        relative = value.startswith(("./", "../")) and folder != self._app_dir
        return os.path.normpath(folder / value) if relative else value

    def _is_own(self, python: str) -> bool:
        """Return whether a Python is in the app's own environment, which is the default anyway."""
        full = os.path.join(self._app_dir, python)
        own = (f"{self._app_dir / name}{os.sep}" for name in (".venv", "venv"))
        return any(f"{full}{os.sep}".startswith(folder) for folder in own) or os.sep not in python

    def _read(self, reading: Reading, candidate: Candidate) -> None:
        """Add the port, address and command from the code."""
        where = candidate.path.name
        port, host = reading.port, reading.host
        self._port_number(port, where)
        if "APP_COMMAND" in self._lines:
            return
        positional = port.kind == "argument"
        if (reading.command and port.kind == "option") or positional:
            self._add("APP_COMMAND", _command(reading), f"{where}: {_reason(port, 'port')}")
            return
        if reading.command:
            self._add("APP_ARGS", reading.command, f"{where} launches the page in this command")
        self._way(port, "PORT", where)
        if port.kind == "option" or host.kind in ("option", "variable"):
            self._way(host, "HOST", where)

    def _port_number(self, port: Way, where: str) -> None:
        if 0 < (text.whole_number(port.value) or 0) < 1 << 16 and port.kind != "argument":
            self._add("GRADIO_SERVER_PORT", port.value, f"{where}: {_reason(port, 'port')}")

    def _way(self, way: Way, name: str, where: str) -> None:
        reason = f"{where}: {_reason(way, name.lower())}"
        if way.kind == "option" and way.option:
            self._add(f"APP_{name}_FLAG", way.option.name, reason)
        elif way.kind == "variable":
            self._add(f"APP_{name}_ENV", way.variable, reason)
        else:
            self._add(f"APP_{name}_FLAG", "none", reason)
        if way.kind == "unknown" and name == "PORT":
            self._notes.append(
                f"how {where} takes its port cannot be read (line {way.line}): if its page is not on {DEFAULT_PORT}, "
                "write GRADIO_SERVER_PORT=NUMBER yourself; if it has an option for its port, APP_PORT_FLAG=OPTION"
            )


def _command(reading: Reading) -> str:
    """Return a command line with placeholders for a command of the script, or for a port without an option."""
    parent, own = ["{python}", "{script}"], [reading.command] if reading.command else []
    for way, place in ((reading.port, "{port}"), (reading.host, "{host}")):
        if way.kind == "option" and way.option:
            (own if way.option.command or not reading.command else parent).extend((way.option.name, place))
        elif way.kind == "argument" and place == "{port}":
            own.append(place)
    return " ".join((*parent, *own))


def _reason(way: Way, what: str) -> str:
    kinds: Mapping[str, Callable[[], str]] = {
        "option": lambda: f"its option for the {what} is {way.option.name if way.option else ''} (line {way.line})",
        "variable": lambda: f"it takes the {what} from {way.variable}",
        "code": lambda: f"the {what} is in its code (line {way.line})",
        "argument": lambda: f"it takes the {what} as an argument (line {way.line})",
        "gradio": lambda: f"it has no option for the {what}, Gradio takes it from the environment",
        "unknown": lambda: f"it has no option for the {what} that can be read",
    }
    return kinds[way.kind]()


def _is_default(line: Line) -> bool:
    usual = {"APP_SCRIPT": DEFAULT_SCRIPT, "GRADIO_SERVER_PORT": DEFAULT_PORT}
    usual |= {"APP_PORT_FLAG": "--port", "APP_HOST_FLAG": "--host"}
    return usual.get(line.name) == line.value


def _python_of(running: Started) -> str:
    """Return the absolute path of a running app's interpreter, as it was named."""
    if os.path.isabs(running.python):
        return running.python
    if os.sep in running.python:
        return os.path.normpath(running.folder / running.python)
    environment = running.environment.get("VIRTUAL_ENV") or running.environment.get("CONDA_PREFIX")
    return environment or ""


def _argument(script: shell.StartScript) -> ScriptArgument | None:
    """Return what the command of a start script runs."""
    if not script.words:
        return None
    words = ("python", *script.words) if script.words[0].endswith(".py") else script.words
    return wrapped_argument(words, python=False) or script_argument(words)


def _value_of(words: Sequence[str], flags: Iterable[str]) -> tuple[str, str] | None:
    """Return the first of these options that has a value in a command line, with the value."""
    for position, word in enumerate(words):
        name, equals, value = word.partition("=")
        following = words[position + 1] if position + 1 < len(words) else "-"
        if name in flags and (equals or not following.startswith("-")):
            return name, value if equals else following
    return None


def _joined(words: Sequence[str]) -> str:
    """Return arguments as one text; a single one with blanks stays unquoted: `.env` would drop the quotes."""
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", words[0]) if len(words) == 1 else shlex.join(words)


def _with_places(words: Sequence[str], port: str, host: tuple[str, str] | None) -> str:
    """Return a command line with placeholders in place of its port and address."""
    line = ["{python}", "{script}"]
    for position, word in enumerate(words):
        before = words[position - 1] if position else ""
        if port in (f"{before} {word}", word):
            line.append(f"{word.rpartition('=')[0]}={{port}}" if port == word and "=" in word else "{port}")
        elif host and (before, word) == host:
            line.append("{host}")
        elif host and word == "=".join(host):
            line.append(f"{host[0]}={{host}}")
        else:
            line.append(shlex.quote(word))
    return " ".join(line)


def _without(words: Sequence[str], *parts: str) -> list[str]:
    """Return a command line without these options and their values, both `--port 7860` and `--port=7860`."""
    left = list(words)
    for part in filter(None, parts):
        pair = part.split(" ", 1)
        for position in range(len(left)):
            if left[position : position + len(pair)] == pair:
                del left[position : position + len(pair)]
                break
            if left[position] == "=".join(pair):
                del left[position]
                break
    return left
