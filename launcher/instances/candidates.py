"""Find the processes that run this app: the same script, as they see it, and the same command of the app.

The first look at every process reads only /proc, so that a machine without instances needs no further imports.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..ui import text
from .app_arguments import Told, command_words, told_port
from .command_line import ScriptArgument, has_python_name, script_argument, wrapped_argument
from .process import Process, environment, look
from .proof import command_lines, namespace_depth, owner_of, start_of, words
from .script import Entry, files_run, is_python, names_file, why_not


class App(NamedTuple):
    """Hold the properties that make a process an instance of this app.

    `entries` are the files that start it. `command` are the words of the served command, `words` all words of its
    settings. `port_options` and `port_variables` are its own names for the port, `options` those that a launcher puts
    before its command. `folders` are the app's, links resolved: a script in them that the app starts is a part of it.
    """

    entries: tuple[Entry, ...]
    command: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    port_options: tuple[str, ...] = ()
    port_variables: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


class Claim(NamedTuple):
    """Hold the process that a launcher became: the record in the instance lock names it, and it holds that lock."""

    pid: int
    start: float
    port: int


class Candidate(NamedTuple):
    """Hold a process that runs the app, and the port in its arguments; a launcher `recorded` it for our port."""

    process: Process
    told: Told
    recorded: bool = False


class Candidates(NamedTuple):
    """Hold the processes that run the app.

    `left` are the pids of processes that mention it without running it, each with the reason. `unread` are processes
    that run its script and that psutil cannot read. `hidden` are another user's processes that run a script of its name
    and have a port in their arguments.
    """

    proven: dict[int, Candidate]
    left: tuple[tuple[int, str], ...]
    unread: tuple[int, ...]
    hidden: tuple[Candidate, ...] = ()


def candidates(app: App, claim: Claim | None) -> Candidates:
    """Check every visible process except this one."""
    names = {os.fsencode(os.path.basename(entry.path)) for entry in app.entries}
    names |= {os.fsencode(os.path.basename(os.path.realpath(entry.path))) for entry in app.entries}
    proven: dict[int, Candidate] = {}
    left: list[tuple[int, str]] = []
    unread: list[int] = []
    hidden: list[Candidate] = []
    for pid, line in command_lines():
        mentions = any(name in line for name in names)
        if pid == os.getpid() or not (mentions or has_python_name(os.fsdecode(line.split(b"\0", 1)[0]))):
            continue
        argv = words(line)
        if not mentions and not _may_run(app, pid, argv):
            continue
        start = start_of(pid)
        argument = runs(app, pid, argv)
        process = None if isinstance(argument, str) else look(pid)
        if process and process.argv != argv:  # it has become another program meanwhile, or has set a title
            argument = runs(app, pid, process.argv)
        if isinstance(argument, str):
            if mentions:
                left.append((pid, argument))
                hidden += _hidden(app, pid, argv)
        elif process and not process.gone:
            proven[pid] = Candidate(process, told(app, pid, argument))
        elif process is None and start is not None and start_of(pid) == start:
            unread.append(pid)
    claimed = look(claim.pid) if claim and claim.pid != os.getpid() else None
    if claim and claimed and claimed.start == claim.start and not claimed.gone:
        proven[claim.pid] = Candidate(claimed, Told(claim.port, "by the record"), recorded=True)
    rejected = tuple((pid, reason) for pid, reason in left if pid not in proven)
    return Candidates(proven, rejected, tuple(unread), tuple(hidden))


def _hidden(app: App, pid: int, argv: Sequence[str]) -> Iterator[Candidate]:
    """Yield another user's process with a port argument that may be this app: the kernel hides which file it runs.

    A process in another pid namespace is in a container, which has its own ports.
    """
    if owner_of(pid) in (None, os.geteuid()) or namespace_depth(pid) != namespace_depth(os.getpid()):
        return
    argument = script_argument(argv) if is_python(pid, argv) else None
    if argument is None or not any(argument.can_be(entry.path) for entry in app.entries):
        return
    try:
        why_not(pid, argument, app.entries)
    except PermissionError:
        pass
    else:
        return  # its file is visible, and is another one
    port = told(app, pid, argument)
    process = look(pid)
    if port.port is not None and process and process.argv == argv and not process.gone:
        yield Candidate(process, port)


def runs(app: App, pid: int, argv: Sequence[str]) -> ScriptArgument | str:
    """Return the evidence that a process runs the app, or the reason why it does not."""
    python = is_python(pid, argv)
    reason = "a Python that runs no script" if python else "not a Python"
    for argument in (script_argument(argv) if python else None, wrapped_argument(argv, python)):
        if argument is None:
            continue
        try:
            another_file = why_not(pid, argument, app.entries)
        except PermissionError:
            return f"user {text.user(owner_of(pid))} hides which file it runs"
        if another_file is None:
            command = command_words(argument.rest, app.options, lambda word: names_file(pid, word))
            if command != app.command:
                return _another_command(command, app.command)
            later, ours = _declared_command(app, argument.rest), _declared_command(app, app.words)
            return argument if later == ours else _another_command(later, ours)
        reason = another_file
    return reason


def told(app: App, pid: int, argument: ScriptArgument) -> Told:
    """Return the port in the arguments of a process that runs the app."""
    own = environment(os.getpid()) or {}
    return told_port(argument.rest, environment(pid), app.port_options, app.port_variables, own)


def _may_run(app: App, pid: int, argv: Sequence[str]) -> bool:
    """Return whether a command line without the script's name can lead to it: most Pythons run something else."""
    arguments = (script_argument(argv), wrapped_argument(argv, python=True), wrapped_argument(argv, python=False))
    identities = frozenset(entry.identity for entry in app.entries)
    paths = [os.path.realpath(entry.path) for entry in app.entries]
    try:
        return any(
            argument
            and any(argument.can_be(path) for path in paths)
            and not identities.isdisjoint(files_run(pid, argument))
            for argument in arguments
        )
    except PermissionError:
        return True


def _declared_command(app: App, words: Sequence[str]) -> tuple[str, ...]:
    """Return the first word that the app's own code declares as a command, wherever it is: `app.py --verbose train`."""
    if all(word.startswith("-") or word.isdecimal() for word in words):
        return ()
    declared = _commands(tuple(entry.path for entry in app.entries))
    return tuple(word for word in words if word in declared)[:1]


@cache
def _commands(paths: Sequence[str]) -> frozenset[str]:
    from ..scripts import options  # a syntax tree is rarely needed
    from ..scripts.module import read

    modules = (read(Path(path)) for path in paths)
    return frozenset[str]().union(*(options.command_words(module) for module in modules if module))


def _another_command(command: Sequence[str], wanted: Sequence[str]) -> str:
    shown, ours = (text.command_line(words) if words else "none" for words in (command, wanted))
    return f"it runs another command of the script: {shown}, and this launch's is {ours}"
