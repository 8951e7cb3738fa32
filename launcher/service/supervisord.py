"""The text of a program section for supervisord: http://supervisord.org/configuration.html#program-x-section-settings.

A program counts as running from its first second, so a slow load is not a failed start. An ended program is restarted
after a growing pause, and the launcher itself refuses starts that cannot succeed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from ..config.settings import Settings
from ..errors import ExitStatus, LauncherError
from .unit import NEVER_AGAIN, STOP_SECONDS, Machine, Unit, left_out, name_of, words_of

_RETRIES = 100_000
_START_SECONDS = 10


def program(settings: Settings, machine: Machine) -> Unit:
    """Return the section that keeps this app running.

    Raises LauncherError for a path that no section can contain.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", name_of(settings.app_dir))
    own, _ = words_of(settings, machine.app_args)
    final = " ".join(str(int(status)) for status in (ExitStatus.DONE, *NEVER_AGAIN)).replace(" ", ",")
    lines = (
        f"; {machine.typed} | sudo tee /etc/supervisor/conf.d/{name}.conf",
        "; sudo supervisorctl update",
        "",
        f"[program:{name}]",
        f"command={command((*machine.launcher, *own))}",
        f"user={machine.user}",
        "; Gradio closes its page on SIGINT. What the app has started is stopped with it.",
        "stopsignal=INT",
        f"stopwaitsecs={STOP_SECONDS}",
        "killasgroup=true",
        "; After a failed start, the next one runs the last good set. After five, nothing starts until a change.",
        "autostart=true",
        "autorestart=unexpected",
        f"exitcodes={final}",
        f"startsecs={_START_SECONDS}",
        f"startretries={_RETRIES}",
        "redirect_stderr=true",
    )
    return Unit(f"{name}.conf", "\n".join((*lines, "")), left_out(settings))


def command(words: Sequence[str]) -> str:
    """Return a command line in supervisord's syntax: split like a shell's, `%` doubled, no ` ;` or ` #` in it."""
    return " ".join(map(_word, words))


def _word(word: str) -> str:
    quoted = shlex.quote(_line(word))
    # A blank before these starts a comment, even in quotes; a backslash outside of quotes prevents that.
    return re.sub(r"(?<=\s)([;#])", r"'\\\1'", quoted)


def _line(value: str) -> str:
    if not value.isprintable():
        raise LauncherError(f"supervisord cannot contain {value!r}", "start_app.py unit --help", ExitStatus.CONFIG)
    return value.replace("%", "%%")
