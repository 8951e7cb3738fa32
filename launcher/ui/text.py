"""Wording of facts: one format each for command lines, time spans, sizes, users and tables."""

from __future__ import annotations

import pwd
import re
import shlex
from collections.abc import Collection, Iterable, Sequence

from . import redact


def clean(text: str) -> str:
    """Return `text` without secrets and with every unprintable character escaped."""
    scrubbed = redact.scrub(text)
    if scrubbed.isprintable():
        return scrubbed
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in scrubbed)


def command_line(argv: Iterable[str]) -> str:
    """Return a command line in shell syntax, secrets masked."""
    return shlex.join(redact.arguments(argv))


def duration(seconds: float) -> str:
    """Return a time span in its two largest units: `0.4 s`, `42s`, `3h12m`, `5d4h`."""
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


def count(number: int, noun: str) -> str:
    """Return a count with its noun: `1 file`, `3 files`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(names: Sequence[str], most: int) -> str:
    """Return the first of these names, and the number of the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def user(uid: int | None) -> str:
    """Return a user's name, or the number without one."""
    if uid is None:
        return "unknown"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def width(line: str) -> int:
    """Return the number of terminal columns of a line; East Asian wide letters take two, combining marks none."""
    if line.isascii():
        return len(line)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in line)
    return len(line) + wide - sum(bool(unicodedata.combining(letter)) for letter in line)


def fitting(line: str, columns: int) -> str:
    """Return the part of a line that fits into this many columns of a terminal."""
    if line.isascii():
        return line[: max(0, columns)]
    kept = ""
    for letter in line:
        if width(kept + letter) > columns:
            break
        kept += letter
    return kept


def table(rows: Sequence[Sequence[str]], *, right: Collection[int] = (), columns: int | None = None) -> tuple[str, ...]:
    """Return rows as lines with aligned columns; the columns in `right` are aligned to the right.

    If a row does not fit into `columns` of a terminal, its last cells follow on indented lines: nothing is cut off,
    because users copy names and commits.
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    kept = _fitting_columns(widths, columns)
    lines: list[str] = []
    for row in cells:
        aligned = (_padded(cell, widths[at], right=at in right) for at, cell in enumerate(row[:kept]))
        lines.append("  ".join(aligned).rstrip())
        for cell in filter(None, row[kept:]):
            lines += _folded(cell, columns or width(cell))
    return tuple(lines)


def _fitting_columns(widths: Sequence[int], columns: int | None) -> int:
    """Return how many of the leading columns of a table fit, at least one."""
    if columns is None:
        return len(widths)
    used = -2
    for number, wide in enumerate(widths):
        used += wide + 2
        if used > columns and number:
            return number
    return len(widths)


def _folded(cell: str, columns: int) -> list[str]:
    """Return a cell on indented lines of its own, broken between words if possible."""
    lines = [""]
    for word in cell.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and width(longer) > columns - 4:
            lines.append(word)
        else:
            lines[-1] = longer
    return [f"    {line}" for line in lines]


def _padded(cell: str, wide: int, *, right: bool) -> str:
    space = " " * (wide - width(cell))
    return space + cell if right else cell + space


def parsed_duration(text: str) -> float:
    """Return the seconds of a time span such as `30d`, `12h` or `2w`; only zero needs no unit.

    Raises ValueError.
    """
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*(m|min|h|d|w)?", text.strip().lower(), re.ASCII)
    if not match or not (match[2] or float(match[1]) == 0):
        raise ValueError(text)
    return float(match[1]) * {"m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}[match[2] or "d"]


def parsed_size(text: str) -> int:
    """Return the bytes of a size such as `50G`, `500 MB` or `1.5TiB`, decimal like `size`; only zero needs no unit.

    Raises ValueError.
    """
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,6})?)\s*(?:([kmgt])(i)?)?(b)?", text.strip().lower(), re.ASCII)
    if not match or not (match[2] or match[4] or float(match[1]) == 0):
        raise ValueError(text)
    power = "kmgt".index(match[2]) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def whole_number(text: str) -> int | None:
    """Return the number of a few ASCII digits, None for any other text: Python refuses thousands of digits."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def parsed_port(text: str) -> int:
    """Return the number of a port. Raises ValueError."""
    if re.fullmatch("0{0,9}[0-9]{1,5}", text.strip()) and 0 < int(text) < 65536:
        return int(text)
    raise ValueError(text)
