"""Identify this app: compare the script and command of its settings with those in a record."""

from __future__ import annotations

import os
import shlex

from ..config.settings import Settings
from ..errors import LauncherError
from ..instances.app_arguments import command_words
from ..instances.candidates import App
from ..instances.command_line import script_argument
from ..instances.match import Wanted
from ..instances.record import Record
from ..instances.script import Entry, own_file


def app_of(settings: Settings) -> App:
    """Return the properties that make a process an instance of this app.

    Raises LauncherError if its script does not exist.
    """
    paths = (str(settings.script), *map(str, settings.other_entries))
    entries = tuple(Entry(path, identity) for path in paths if (identity := own_file(path)))
    if not entries:
        raise LauncherError(f"there is no {settings.script}", "start_app.py --app-dir DIR")
    return App(
        entries=entries,
        command=command_of(settings),
        words=_words(settings),
        port_options=tuple(flag.rstrip("=") for flag in settings.form.port_flags if flag.startswith("-")),
        port_variables=settings.form.port_variables,
        options=_options(settings),
        folders=tuple(os.path.realpath(folder) for folder in (settings.app_dir, os.path.dirname(settings.script))),
    )


def command_of(settings: Settings) -> tuple[str, ...]:
    """Return the words of `APP_COMMAND` and `APP_ARGS` that name the served command of the script."""
    return command_words(
        _words(settings), _options(settings), lambda word: os.path.isfile(os.path.join(settings.app_dir, word))
    )


def _words(settings: Settings) -> tuple[str, ...]:
    told = settings.origins.get("APP_ARGS")
    return (*settings.form.told(settings.port, settings.host), *(shlex.split(told.value) if told else ()))


def wanted_port(settings: Settings) -> Wanted:
    """Return the port of a launch, and whether the user chose it."""
    return Wanted(settings.port, settings.origins["GRADIO_SERVER_PORT"].level != "default")


def is_of(record: Record, app: App) -> bool:
    """Return whether a record names this app: a lock of another script of the folder proves nothing.

    Records of earlier versions have the whole command line in place of script and command. It may contain words after
    `--` of that start, so commands are compared only if both sides name one.
    """
    started = script_argument(record.argv)
    script = record.script or (os.path.join(record.app_dir, started.text) if started else "")
    same = os.path.normpath(script) in [os.path.normpath(entry.path) for entry in app.entries]
    if not same and own_file(script) not in [entry.identity for entry in app.entries]:
        return False
    if record.command is not None:
        return record.command == app.command
    command = command_words(
        started.rest if started else (), app.options, lambda word: os.path.isfile(os.path.join(record.app_dir, word))
    )
    return not command or not app.command or command == app.command


def _options(settings: Settings) -> tuple[str, ...]:
    return tuple(flag.rstrip("=") for flag in (*settings.form.port_flags, *settings.form.host_flags))
