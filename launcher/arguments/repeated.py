"""Repeat the typed command in a hint, with the options that the hint adds or changes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..errors import LauncherError
from ..ui import redact
from .line import Given, named, own_options, take_apart
from .options import DRY_RUN
from .parsing import read
from .table import TABLE
from .typed import LAUNCH, LAUNCHING, BadValueError


def repeated(argv: Sequence[str], options: str) -> str:
    """Return the words of a launch with these options, the typed ones that fit them, and the arguments of the app.

    `options` is shell text. If the typed command starts nothing, the words are those of a launch. `--dry-run` is left
    out, because the hint tells how to act. Arguments of the app that have a secret are not shown.
    """
    split = list(argv).index("--") if "--" in argv else len(argv)
    line, app_args = take_apart(argv[:split]), tuple(argv[split + 1 :])
    typed = named(line.words) or LAUNCH
    name = typed if typed in LAUNCHING else LAUNCH
    try:
        own = take_apart(shlex.split(options)).given
    except ValueError:  # the hint has a name with a quote of its own
        return options
    if not _fits(name, own):
        name = LAUNCH
    new = {DRY_RUN.names, *(given.option.names for given in own)}
    given = line.given if typed in LAUNCHING else own_options(line)
    kept = _fitting(name, [word for word in given if word.option.names not in new], own)
    command = () if name == LAUNCH else (name,)
    shown = app_args if redact.arguments(app_args) == app_args else ("...",)
    end = ("--", *shown) if app_args and typed == name == LAUNCH else ()
    parts = (shlex.join((*command, *_words(kept))), options.strip(), shlex.join(end))
    return "".join(f" {part}" for part in parts if part)


def _fitting(name: str, typed: Sequence[Given], own: Sequence[Given]) -> list[Given]:
    """Return the typed options that a command accepts together with its own; one may need another that comes later."""
    kept: list[int] = []
    waiting = list(range(len(typed)))
    while True:
        number = next((n for n in waiting if _fits(name, [*(typed[k] for k in (*kept, n)), *own])), None)
        if number is None:
            return [typed[n] for n in sorted(kept)]
        kept.append(number)
        waiting.remove(number)


def _fits(name: str, given: Sequence[Given]) -> bool:
    """Return whether a command accepts these options together."""
    try:
        read(TABLE[name], (), _words(given), ())
    except BadValueError:
        return True  # the value in a hint may be a placeholder
    except LauncherError:
        return False
    return True


def _words(given: Sequence[Given]) -> list[str]:
    return [text for word in given for text in (word.option.names[-1], *word.values)]
