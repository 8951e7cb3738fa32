"""How facts are worded: one form for a command line, a time span, a size, a user, wherever they appear."""

from __future__ import annotations

import pwd
import re
import shlex
from collections.abc import Iterable, Sequence

from . import redact


def clean(text: str) -> str:
    """Return `text` without secrets and with every unprintable character escaped."""
    scrubbed = redact.scrub(text)
    if scrubbed.isprintable():
        return scrubbed
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in scrubbed)


def command_line(argv: Iterable[str]) -> str:
    """Return a command line as a shell would take it, secrets masked."""
    return shlex.join(redact.arguments(argv))


def duration(seconds: float) -> str:
    """Return a time span in the two largest units that matter: `0.4 s`, `42s`, `3h12m`, `5d4h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{whole}s" if minutes else f"{whole}s"


def size(count: int) -> str:
    """Return a byte count in decimal units, as huggingface_hub shows them: `3.1 GB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def user(uid: int | None) -> str:
    """Return a user's name, or the number where it has none."""
    if uid is None:
        return "unknown"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def pasteable(hint: str, program: str, context: Sequence[tuple[str, str]]) -> str:
    """Return a hint whose commands can be pasted: as the launcher was called, with the options that led here.

    `context` holds the given options as (name, shell text); one that the command in the hint gives itself is left out.
    """

    def called(match: re.Match[str]) -> str:
        own = match[1]
        options = [text for name, text in context if not re.search(rf"{name}\b", own)]
        return " ".join((program, *options)) + own

    return re.sub(r"(?<![\w./-])start_app\.py(?![\w.])((?:(?!; |, or ).)*)", called, hint)
