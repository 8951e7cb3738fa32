"""Compare a launch with an instance that was started by hand: arguments, interpreter, environment."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ..app.command import Command
from ..config.settings import PATH_NAMES, Settings
from ..instances.app_arguments import told_port
from ..instances.command_line import script_argument, wrapped_argument
from ..instances.process import Process, environment
from ..instances.script import own_script
from ..system import marker
from ..ui import redact, text
from .by_hand import is_telling

_NAMED_AT_MOST = 4


def changes(process: Process, command: Command, settings: Settings) -> tuple[str, ...]:
    """Return in words what a launch of this command would not keep of a process that no launcher has started."""
    variables = environment(process.pid)
    script = own_script(process)
    ours = [os.path.realpath(path) for path in (settings.script, *settings.other_entries)]
    if variables is None or marker.NAME in variables or script not in ours:
        return ()
    name = f"pid {process.pid}, started by hand,"
    lines = []
    dropped = list(_dropped(process.argv, command.argv, settings))
    if dropped:
        words = text.command_line([word for group in dropped for word in group])
        lines.append(f"{name} runs with {words}, and the new instance will not")
    before = _folder_of(process.argv[0], variables)
    if before and os.path.realpath(before) != os.path.realpath(os.path.dirname(command.interpreter)):
        lines.append(f"{name} runs on the Python in {before}, and the new instance on {command.interpreter}")
    changed = [name for name, value in variables.items() if is_telling(name) and _differs(name, value, command)]
    for variable in changed[:_NAMED_AT_MOST]:
        new = command.environment.get(variable)
        shown = f"has {redact.value(variable, new)}" if new else "has none"
        value = redact.value(variable, variables[variable])
        lines.append(f"{name} has {variable}={value} where the new instance {shown}")
    if len(changed) > _NAMED_AT_MOST:
        lines.append(f"{name} has {len(changed) - _NAMED_AT_MOST} more variables that the new instance will not have")
    return tuple(lines)


def _differs(name: str, value: str, command: Command) -> bool:
    new = command.environment.get(name, "")
    if name in PATH_NAMES and new:  # the launcher makes a relative path absolute
        return os.path.normpath(os.path.join(command.folder, value)) != os.path.normpath(new)
    return value.strip() != new.strip()


def _dropped(old: Sequence[str], new: Sequence[str], settings: Settings) -> Iterator[tuple[str, ...]]:
    """Yield the options, each with its values, and the other words that only the old command line has."""
    left = Counter(_groups(_rest(new), settings))
    for group in _groups(_rest(old), settings):
        if left[group] > 0:
            left[group] -= 1
        else:
            yield group


def _rest(argv: Sequence[str]) -> tuple[str, ...]:
    argument = wrapped_argument(argv, python=True) or wrapped_argument(argv, python=False) or script_argument(argv)
    return argument.rest if argument else ()


def _groups(words: Sequence[str], settings: Settings) -> Iterator[tuple[str, ...]]:
    """Yield options with their following words, except port and address; `--a=b` counts as `--a b`."""
    own = {flag.rstrip("=") for flag in (*settings.form.port_flags, *settings.form.host_flags)}
    group: list[str] = []
    for word in (*words, "-"):
        if not word.startswith("-") and group:
            group.append(word)
            continue
        if group and group[0] not in own and not told_port(group, {}).by:
            yield tuple(group)
        option, equals, value = word.partition("=")
        group = ([option, value] if equals else [word]) if word.startswith("-") else []
        if not word.startswith("-") and not told_port((word,), {}).by:
            yield (word,)


def _folder_of(python: str, variables: Mapping[str, str]) -> str | None:
    """Return the environment folder of an interpreter, as far as its name or its PATH shows it."""
    if os.path.isabs(python):
        return os.path.dirname(python)
    if os.sep in python:
        folder = os.path.dirname(os.path.join(variables.get("PWD", ""), python))
        return folder if os.path.isabs(folder) else None
    found = shutil.which(python, path=variables.get("PATH"))
    return os.path.dirname(found) if found else None
