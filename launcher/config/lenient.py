"""Load the settings even if they are wrong: collect every problem, and go on without what is invalid.

Without the app's folder there is nothing to go on with, and another folder would be another app: the settings are then
the defaults, for that folder.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import ExitStatus, LauncherError, quoted
from . import settings
from .paths import absolute
from .settings import CHECKED_NAMES, Call, Settings

_MOST_PROBLEMS = 30


class _Tolerance(NamedTuple):
    """Hold what does not count: names of settings, the script, and the whole `.env`."""

    ignored: frozenset[str] = frozenset()
    script: bool = False
    file: bool = False


def load(
    flags: Mapping[str, str], environ: Mapping[str, str], call: Call
) -> tuple[Settings, tuple[LauncherError, ...]]:
    """Return the settings without the invalid ones, and the error for each of these."""
    problems: list[LauncherError] = []
    tolerance = _Tolerance()
    for _ in range(_MOST_PROBLEMS):
        loaded, error = _load(flags, environ, call, tolerance)
        if loaded is not None:
            return loaded, tuple(problems)
        assert error
        if all(error.message != other.message for other in problems):
            problems.append(error)
        if "APP_DIR" in error.message:
            break
        tolerance = _more_tolerant(flags, environ, call, tolerance, error)
    return _defaults(flags, environ, call), tuple(problems)


def _defaults(flags: Mapping[str, str], environ: Mapping[str, str], call: Call) -> Settings:
    """Return the default settings for a folder that cannot be used."""
    named = flags.get("APP_DIR", "").strip() or environ.get("APP_DIR", "").strip()
    nowhere = Call(Path(os.sep), no_file=True)
    loaded = settings.load({}, {}, nowhere, needs_script=False)
    folder = absolute(call.cwd, named) if named else next(iter(call.folders), call.cwd)
    return loaded._replace(app_dir=folder, script=folder / settings.DEFAULT_SCRIPT, variables={}, origins={})


def load_needed(
    flags: Mapping[str, str], environ: Mapping[str, str], call: Call, needs: Collection[str], *, needs_script: bool
) -> tuple[Settings, tuple[LauncherError, ...]]:
    """Return the settings without the invalid ones that are not needed, and the error for each of these.

    Raises LauncherError for one that is needed, and for one from a flag.
    """
    problems: list[LauncherError] = []
    ignored: frozenset[str] = frozenset()
    while True:
        try:
            given, present = _without(ignored, flags), _without(ignored, environ)
            called = call._replace(ignored=ignored)
            return settings.load(given, present, called, needs_script=needs_script), tuple(problems)
        except LauncherError as error:
            named = _named(error) - ignored - {*needs}
            if error.status != ExitStatus.CONFIG or not named:
                raise
            ignored |= named
            problems.append(error)


def _load(
    flags: Mapping[str, str], environ: Mapping[str, str], call: Call, tolerance: _Tolerance
) -> tuple[Settings | None, LauncherError | None]:
    given, present = _without(tolerance.ignored, flags), _without(tolerance.ignored, environ)
    call = call._replace(ignored=tolerance.ignored, no_file=tolerance.file)
    try:
        return settings.load(given, present, call, needs_script=not tolerance.script), None
    except LauncherError as error:
        return None, error
    except ImportError as error:  # python-dotenv is not installed
        return None, LauncherError(f"cannot read .env: {error}", "start_app.py --version -v")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        status = ExitStatus.DENIED if error.errno in (errno.EACCES, errno.EPERM) else ExitStatus.CONFIG
        path = error.filename or "."
        return None, LauncherError(f"cannot read {path}: {reason}", f"ls -ld {quoted(os.path.dirname(path))}", status)


def _more_tolerant(
    flags: Mapping[str, str], environ: Mapping[str, str], call: Call, tolerance: _Tolerance, error: LauncherError
) -> _Tolerance:
    """Return the first tolerance that leads to another result than this error: names, the script, or the file."""
    named = _named(error) - tolerance.ignored
    script = tolerance._replace(script=True)
    names = tolerance._replace(ignored=tolerance.ignored | named)
    first = (names, script) if named - {"APP_SCRIPT"} else (script, names)
    choices: tuple[_Tolerance, ...] = (*first, tolerance._replace(file=True))
    for choice in choices:
        loaded, other = _load(flags, environ, call, choice)
        if loaded is not None or (other and other.message != error.message):
            return choice
    return _Tolerance(tolerance.ignored | named, script=True, file=True)


def _named(error: LauncherError) -> frozenset[str]:
    """Return the settings that an error names."""
    names = (*CHECKED_NAMES, "HF_ENDPOINT_FALLBACK")
    return frozenset(name for name in names if re.search(rf"\b{name}\b", error.message))


def _without(ignored: Collection[str], values: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in values.items() if name not in ignored}
