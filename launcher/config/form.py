"""The form of the app's command line: the words around its script, and its options for port and address.

Most apps have `--port` and `--host`. Others have options of another name, variables of their own, or a command line
that `APP_COMMAND` spells out.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import LauncherError
from ..ui import redact
from .sources import Setting, Sources

NAMES = ("APP_COMMAND", "APP_PREFIX", "APP_PRESTART", "APP_PORT_ENV", "APP_HOST_ENV", "APP_UNSET")
PYTHON, SCRIPT, PORT, HOST = "{python}", "{script}", "{port}", "{host}"
_PLACES = (PYTHON, SCRIPT, PORT, HOST)
_OPTION = r"--?[A-Za-z0-9][\w.-]*=?|[A-Za-z_][\w.]*="
_VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
# They start the app's Python themselves.
_PYTHON_RUNNERS = ("accelerate", "accelerate-launch", "torchrun")
_LOOPBACK = "127.0.0.1"  # Gradio's own default


class Form(NamedTuple):
    """Hold how an app is started.

    `before` are the words before its Python, which is omitted if `python` is false; `options` are that Python's own.
    `after` are the words after the script, placeholders included; None means the options for port and address.
    `port_flags` and `host_flags` are their spellings, the first is used; a spelling that ends in `=` has its value in
    the same word. `port_variables` and `host_variables` are the app's own variables for them. `unset` are variables
    that the app must not get. `prestart` is a command to run before anything is stopped. `script` is the script that
    the command names in place of `APP_SCRIPT`.
    """

    before: tuple[str, ...] = ()
    python: bool = True
    options: tuple[str, ...] = ()
    after: tuple[str, ...] | None = None
    port_flags: tuple[str, ...] = ("--port",)
    host_flags: tuple[str, ...] = ("--host",)
    port_variables: tuple[str, ...] = ()
    host_variables: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()
    prestart: Setting | None = None
    script: Setting | None = None

    def argv(self, python: str, entry: Sequence[str], port: int, host: str | None) -> tuple[str, ...]:
        """Return the words that start the app, without `APP_ARGS`."""
        start = (*self.before, *((python, *self.options) if self.python else ()), *entry)
        if self.after is not None:
            return (*start, *self.told(port, host))
        words = [*start, *_given(self.port_flags, str(port))]
        return (*words, *(_given(self.host_flags, host) if host else ()))

    def told(self, port: int, host: str | None) -> tuple[str, ...]:
        """Return the words of `APP_COMMAND` after the script, filled in.

        Without an address, the placeholder for it is omitted, with the option before it.
        """
        words: list[str] = []
        for word in self.after or ():
            if HOST in word and host is None and PORT not in word:
                if word == HOST and words and words[-1].startswith("-"):
                    words.pop()
                continue
            words.append(word.replace(PORT, str(port)).replace(HOST, host or _LOOPBACK))
        return tuple(words)


def read(sources: Sources) -> Form:
    """Return how the app is started, according to the settings.

    Raises LauncherError for an invalid setting.
    """
    variables = tuple(_names(sources, "APP_PORT_ENV"))
    port_flags = _flags(sources, "APP_PORT_FLAG", () if variables else ("--port",))
    host_variables = tuple(_names(sources, "APP_HOST_ENV"))
    form = Form(
        port_flags=port_flags,
        # An app without an option for its port is unlikely to have one for its address.
        host_flags=_flags(sources, "APP_HOST_FLAG", () if host_variables or not port_flags else ("--host",)),
        port_variables=variables,
        host_variables=host_variables,
        unset=tuple(_names(sources, "APP_UNSET")),
        prestart=sources.find("APP_PRESTART"),
    )
    prefix = sources.find("APP_PREFIX")
    if prefix:
        words = split(prefix, "APP_PREFIX")
        form = form._replace(before=words, python=os.path.basename(words[0]) not in _PYTHON_RUNNERS)
    command = sources.find("APP_COMMAND")
    return _commanded(form, split(command, "APP_COMMAND"), command) if command else form


def split(setting: Setting, name: str) -> tuple[str, ...]:
    """Return the words of a setting, split as a shell would.

    Raises LauncherError for an unclosed quote.
    """
    try:
        return tuple(shlex.split(setting.value))
    except ValueError as error:
        raise LauncherError(
            f"{name} cannot be split into arguments: {str(error).lower()} ({setting.origin})",
            f"close every quote in {name}, as for a shell",
            setting.bad,
        ) from error


def _commanded(form: Form, words: tuple[str, ...], setting: Setting) -> Form:
    """Return the form of a whole command line."""
    for word in words:
        for place in re.findall(r"\{[A-Za-z_]\w*\}", word):
            if place not in _PLACES:
                raise _wrong(f"{place} is not known", setting)
    if SCRIPT in words:
        at = words.index(SCRIPT)
        start, script, after = words[:at], None, words[at + 1 :]
    elif PYTHON in words:
        start, named, after = _script(words, words.index(PYTHON) + 1)
        if not named:
            raise _wrong("it names no script", setting)
        script = Setting(shlex.join(named), setting.origin, setting.level)
    else:
        start, script, after = (), Setting(shlex.quote(words[0]), setting.origin, setting.level), words[1:]
    python = PYTHON in start or not start
    at = start.index(PYTHON) if PYTHON in start else len(start)
    if SCRIPT in after or PYTHON in (*start[:at], *start[at + 1 :], *after):
        raise _wrong("a placeholder for the Python or the script appears twice", setting)
    if HOST in " ".join(start) or PORT in " ".join(start):
        raise _wrong("port and address come after the script", setting)
    port_flags, host_flags = tuple(_options(after, PORT)), tuple(_options(after, HOST))
    return form._replace(
        before=(*form.before, *start[:at]),
        python=python,
        options=start[at + 1 :],
        after=after,
        port_flags=port_flags,
        host_flags=host_flags,
        script=script,
    )


def _script(words: tuple[str, ...], begin: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the words before a Python's own options, its script or module, and the rest."""
    at = begin
    while at < len(words) and words[at].startswith("-") and not words[at].startswith("-m"):
        at += 2 if words[at] in ("-W", "-X") else 1
    length = 2 if words[at : at + 1] == ("-m",) else 1
    return words[:at], words[at : at + length], words[at + length :]


def _options(words: Sequence[str], place: str) -> Iterator[str]:
    """Yield the options whose value is a placeholder."""
    for position, word in enumerate(words):
        if word == place and position and words[position - 1].startswith("-"):
            yield words[position - 1]
        elif word.endswith(f"={place}"):
            yield word.removesuffix(place)


def _given(flags: Sequence[str], value: str) -> tuple[str, ...]:
    if not flags:
        return ()
    return (f"{flags[0]}{value}",) if flags[0].endswith("=") else (flags[0], value)


def _flags(sources: Sources, name: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """Return the spellings of an option; empty if the setting is `none`."""
    setting = sources.find(name)
    if setting is None:
        return otherwise
    words = setting.value.split()
    if [word.lower() for word in words] == ["none"]:
        return ()
    if all(re.fullmatch(_OPTION, word) for word in words):
        return tuple(words)
    raise LauncherError(
        f"{redact.scrub(setting.value.strip())!r} is not an option name ({name}, {setting.origin})",
        f"{name}=--port, or {name}=none when the app takes it from the environment only",
        setting.bad,
    )


def _names(sources: Sources, name: str) -> Iterator[str]:
    """Yield the variable names in a setting."""
    setting = sources.find(name)
    for word in setting.value.replace(",", " ").split() if setting else ():
        if not re.fullmatch(_VARIABLE, word):
            assert setting
            raise LauncherError(
                f"{redact.scrub(word)!r} is not the name of a variable ({name}, {setting.origin})",
                f"{name}=NAME, several with blanks between them",
                setting.bad,
            )
        yield word


def _wrong(problem: str, setting: Setting) -> LauncherError:
    return LauncherError(
        f"APP_COMMAND: {problem} ({setting.origin})",
        "APP_COMMAND={python} {script} serve --port {port} --host {host}",
        setting.bad,
    )
