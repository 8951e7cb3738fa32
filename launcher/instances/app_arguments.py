"""Read an app's own arguments: which of its commands it runs, and on which port.

Everything here is pure. Apps parse arguments in many ways, so an uncertain result counts as unknown: see `Told`. Option
names are compared as in argparse, click and typer, which often accept both `_` and `-`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from ..ui.text import whole_number

# The port options of Gradio apps, with `_` written as `-`; the app's own option is added.
_PORT_OPTIONS = (
    "--port",
    "--server-port",
    "--listen-port",
    "--gradio-port",
    "--gradio-server-port",
    "--http-port",
    "--web-port",
    "--webui-port",
    "--ui-port",
)
_HOST_OPTIONS = ("--host", "--server-name", "--listen", "--listen-host", "--bind", "--address", "--addr", "--server")
_PORT_VARIABLES = ("GRADIO_SERVER_PORT", "PORT")
_SHORT = r"-p=?([0-9]+)"
_ASSIGNMENT = r"(?i)(?:\w+\.)*(?:\w+_)?port=([0-9]+)"  # hydra, fire
_ADDRESS = r"(?:https?://)?(?:[0-9]+(?:\.[0-9]+){3}|\[[0-9A-Fa-f:.]*\]|localhost|\*)?:([0-9]+)/?"
_COMMAND = r"[A-Za-z][\w-]*(?::[\w-]+)*"
# A bare number below this is more often a count than a port.
_LOWEST = 1024
# The range in which Gradio searches for a free port: such a number after a flag is almost surely a port.
_GRADIO_PORTS = range(7860, 7960)


class Told(NamedTuple):
    """Hold the port in an app's arguments, and its source; `port` is None without one.

    `doubt` says why the port is uncertain; then `port` is None too.
    """

    port: int | None = None
    by: str = ""
    doubt: str = ""


def told_port(
    words: Sequence[str],
    environ: Mapping[str, str] | None,
    options: Collection[str] = (),
    variables: Collection[str] = (),
    own_environ: Mapping[str, str] | None = None,
) -> Told:
    """Return the port from an app's own arguments, or else from its environment.

    `options` and `variables` are the app's own names for it in addition to the usual ones. Another variable whose name
    ends in PORT makes the port unknown, unless the launcher has it too (`own_environ`).
    """
    return _by_words(words, options) or _by_environment(environ, (*variables, *_PORT_VARIABLES), own_environ or {})


def command_words(words: Sequence[str], skipped: Collection[str], is_file: Callable[[str], bool]) -> tuple[str, ...]:
    """Return the command of an app that runs: its words before the first option that are not a file, port or path.

    `skipped` are options with a value that may come first, such as the launcher's own: `app.py --port 7860 run`.
    """
    command = []
    options = {_dashed(option) for option in (*skipped, *_PORT_OPTIONS, "--host", "--server-name")}
    position = 0
    while position < len(words):
        name, equals, _ = words[position].partition("=")
        following = words[position + 1] if position + 1 < len(words) else ""
        if _dashed(name) in options or (name == "-p" and following.isdecimal()):
            position += 1 if equals else 2
            continue
        if name.startswith("-"):
            break
        if re.fullmatch(_COMMAND, words[position]) and not is_file(words[position]):
            command.append(words[position])
        position += 1
    return tuple(command)


def _by_words(words: Sequence[str], options: Collection[str]) -> Told | None:
    told: Told | None = None
    positional: Told | None = None
    names = {_dashed(option) for option in (*options, *_PORT_OPTIONS)}
    before = ""
    for position, word in enumerate(words):
        if word == "--":
            break
        if word.startswith("-"):
            # As in argparse, the last one counts.
            told = _by_option(word, words[position + 1] if position + 1 < len(words) else "", names) or told
        elif match := re.fullmatch(_ASSIGNMENT, word):
            told = _number(match[1], word) or told
        elif not before.startswith("-") or "=" in before:
            positional = _by_position(word) or positional
        elif (number := _number(word, word)) and number.port in _GRADIO_PORTS:
            positional = positional or Told(doubt=f"{before} {word} may be its port")
        before = word
    return told or positional


def _by_option(word: str, following: str, names: Collection[str]) -> Told | None:
    if match := re.fullmatch(_SHORT, word):
        return _number(match[1], word)
    option, equals, value = word.partition("=")
    value, shown = (value, word) if equals else (following, f"{word} {following}")
    told = _number(value, shown)
    dashed = _dashed(option)
    if dashed in names:
        return told or Told(doubt=f"{shown} does not give a port number")
    if told and (option == "-p" or _abbreviates(dashed, names, told)):
        return told
    match = re.fullmatch(_ADDRESS, value) if dashed in _HOST_OPTIONS else None
    return _number(match[1], shown) if match else None


def _by_position(word: str) -> Told | None:
    match = re.fullmatch(_ADDRESS, word)
    told = _number(match[1] if match else word, word)
    return told if told and told.port and told.port >= _LOWEST else None


def _by_environment(
    environ: Mapping[str, str] | None, variables: Sequence[str], own_environ: Mapping[str, str]
) -> Told:
    if environ is None:
        return Told(doubt="its environment cannot be read")
    for name in variables:
        told = _number(environ.get(name, ""), f"{name}={environ.get(name)}")
        if told:
            return told
    for name, value in environ.items():
        if name.upper().endswith("PORT") and _number(value, name) and own_environ.get(name) != value:
            return Told(doubt=f"{name}={value} may be its port")
    return Told()


def _number(value: str, by: str) -> Told | None:
    port = whole_number(value.strip())
    return Told(port, by) if port is not None and port < 1 << 16 else None


def _abbreviates(dashed: str, names: Collection[str], told: Told) -> bool:
    # argparse accepts any prefix of an option's name, and options of other meaning do not start with this one.
    likely = "--port".startswith(dashed) and len(dashed) >= len("--p")
    possible = len(dashed) >= len("--por") and any(name.startswith(dashed) for name in names)
    return (likely or possible) and (told.port or 0) >= (0 if dashed == "--por" else _LOWEST)


def _dashed(option: str) -> str:
    # Some people write `-port` for `--port`; a single letter stays a short option.
    name = option.replace("_", "-")
    return f"-{name}" if re.match("-[^-].", name) else name
