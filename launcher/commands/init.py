"""`init`: write the settings that start the app in this folder into `.env`; existing lines stay unchanged."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import env_file
from ..config.settings import CHECKED_NAMES, Call, Settings, load
from ..context import Context, Report
from ..errors import ExitStatus, LauncherError, quoted
from ..operations.proposal import Line, propose
from ..system.files import give_to_owner, open_regular
from ..ui import redact, text

_PLAIN = r"[\w./:@%+,=~{}\[\]-]+(?: [\w./:@%+,=~{}\[\]-]+)*"
_ASKED = {
    "HF_HOME": "where does the app keep its models (HF_HOME)? blank: the library's default",
    "HF_ENDPOINT": "where do its models come from (HF_ENDPOINT)? blank: https://huggingface.co",
}
_PRIVATE = 0o600


class Written(NamedTuple):
    """Hold the proposed and the written settings, and the reason if none were written.

    `gap` separates them from the existing lines.
    """

    path: Path
    lines: tuple[Line, ...]
    kept: tuple[str, ...]
    notes: tuple[str, ...]
    written: bool = False
    refused: LauncherError | None = None
    gap: str = ""

    @property
    def status(self) -> ExitStatus:
        """Return the exit status."""
        return self.refused.status if self.refused else ExitStatus.DONE

    @property
    def problem(self) -> LauncherError | None:
        """Return why nothing was written."""
        return self.refused

    @property
    def hint(self) -> str | None:
        """Return the next steps."""
        return "start_app.py -n -v shows what a launch would do" if self.written or not self.lines else None

    def shown(self) -> Iterator[str]:
        """Yield the written lines, secrets masked, each below its reason."""
        for line in self.lines:
            yield f"# {line.reason}"
            yield _assignment(line.name, redact.value(line.name, line.value)) or ""

    def lines_of_file(self) -> str:
        """Return the text to add to the file."""
        return self.gap + "".join(
            f"# {text.clean(line.reason)}\n{_assignment(line.name, line.value)}\n" for line in self.lines
        )

    def document(self) -> Mapping[str, Any]:
        """Return the document for `--json`."""
        return {
            "file": str(self.path),
            "lines": [
                {"name": line.name, "value": redact.value(line.name, line.value), "reason": line.reason}
                for line in self.lines
            ],
            "kept": list(self.kept),
            "notes": list(self.notes),
            "written": self.written,
        }


class _Shown(NamedTuple):
    """Hold a report whose lines were already shown."""

    made: Written

    @property
    def status(self) -> ExitStatus:
        return self.made.status

    @property
    def problem(self) -> LauncherError | None:
        return self.made.problem

    @property
    def hint(self) -> str | None:
        return self.made.hint

    def lines(self) -> Sequence[str]:
        return ()

    def document(self) -> Mapping[str, Any]:
        return self.made.document()


def run(context: Context) -> Report:
    """Show the lines with their reasons, ask on a terminal, and write them.

    Raises LauncherError: 78 if `.env` is not a regular file, 74 if it cannot be written.
    """
    console, settings = context.console, context.settings
    made = _proposed(context)
    for name in made.kept:
        console.say(f"kept: {name} is in {made.path} already")
    for note in made.notes:
        console.warn(f"note: {note}")
    if not made.lines:
        console.say("nothing to write: the defaults and the existing settings start this app")
        return _Shown(made)
    if not console.as_json:
        for line in made.shown():
            console.out(line)
        console.flush()
    if context.arguments.dry_run:
        return _Shown(made)
    if not context.arguments.yes:
        if not console.interactive:
            refused = LauncherError(
                "nothing was written: there is no terminal to ask on", "start_app.py init --yes", ExitStatus.USAGE
            )
            return _Shown(made._replace(refused=refused))
        if not console.confirm(f"write these {text.count(len(made.lines), 'line')} into {made.path}?"):
            console.say("nothing was written")
            return _Shown(made)
    _append(made, settings)
    console.say(f"wrote {text.count(len(made.lines), 'line')} into {made.path}")
    return _Shown(made._replace(written=True))


def _proposed(context: Context) -> Written:
    """Return the settings to write: from flags, from the proposal, and from the user's answers."""
    settings = context.settings
    path = settings.env_file or settings.app_dir / ".env"
    before, present = _present(path, context.environ)
    proposal = propose(settings)
    given = [Line(name, one.value, one.origin) for name, one in settings.origins.items() if one.level == "flag"]
    lines = {line.name: line for line in (*given, *proposal.lines) if line.name != "APP_DIR"}
    lines.update((line.name, line) for line in given if line.name != "APP_DIR")
    notes = [*proposal.notes]
    for name in [name for name in lines if _assignment(name, lines[name].value) is None]:
        notes.append(f"{name} has a value that .env cannot hold: write it yourself")
        del lines[name]
    secrets = [name for name in lines if redact.is_secret_name(name) and name not in present]
    if secrets and _is_open_to_others(path):
        notes.append(f"not written, because other users can read {path}: {', '.join(secrets)}")
        lines = {name: line for name, line in lines.items() if name not in secrets}
    if context.console.interactive and not context.arguments.yes and not context.console.as_json:
        for name, question in _ASKED.items():
            if name not in lines and name not in present and (answer := context.console.ask(question)):
                lines[name] = Line(name, answer, "your answer")
    kept = tuple(name for name in lines if name in present)
    new = [line for name, line in lines.items() if name not in present]
    taken, refused = _loadable(context, path, before, new)
    return Written(path, taken, kept, (*notes, *refused), gap=_gap(before))


def _loadable(
    context: Context, path: Path, before: str, lines: Sequence[Line]
) -> tuple[tuple[Line, ...], tuple[str, ...]]:
    """Return the lines with which the settings load, and notes about the others.

    Raises LauncherError (78) if lines at the end of this file would not be read.
    """
    problem = _problem(context, path, before)
    old = env_file.parse(path, before, {}).values
    taken: list[Line] = []
    notes = []
    for line in lines:
        after = before + Written(path, (*taken, line), (), (), gap=_gap(before)).lines_of_file()
        new = env_file.parse(path, after, {}).values
        if new != {**old, **{one.name: one.value for one in (*taken, line)}}:
            raise LauncherError(
                f"nothing was written: {path} ends within a quote or a line, so that nothing after it is read",
                f"$EDITOR {quoted(path)}",
            )
        told = problem or _problem(context, path, after)
        if told and not problem:
            notes.append(f"{line.name} is not proposed: {told}")
        else:
            taken.append(line)
    return tuple(taken), tuple(notes)


def _problem(context: Context, path: Path, text: str) -> str:
    """Return why settings with this content of `.env` do not load, blank if they do."""
    environ = {name: value for name, value in context.environ.items() if name not in CHECKED_NAMES}
    app_dir = context.settings.app_dir
    try:
        load({"APP_DIR": str(app_dir)}, environ, Call(app_dir, env_file=str(path), text=text), needs_script=False)
    except LauncherError as error:
        return error.message
    return ""


def _gap(before: str) -> str:
    """Return what separates new lines from the old ones."""
    return "" if not before or before.endswith("\n") else "\n"


def _present(path: Path, environ: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """Return the text of `.env`, and its settings, blanks included."""
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return "", {}
    if not stat.S_ISREG(kind):
        raise LauncherError(f"{path} is not a regular file", f"ls -l {quoted(path)}")
    values = env_file.read(path, environ).values
    return path.read_bytes().decode("utf-8-sig"), values


def _is_open_to_others(path: Path) -> bool:
    try:
        return bool(os.stat(path).st_mode & 0o077)
    except OSError:
        return False


def _assignment(name: str, value: str) -> str | None:
    """Return a line that python-dotenv reads as this value, None if there is none."""
    if re.fullmatch(_PLAIN, value, re.ASCII):
        return f"{name}={value}"
    if "${" in value or not value.isprintable():
        return None  # it would be expanded, or end the line
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{escaped}'"


def _append(made: Written, settings: Settings) -> None:
    """Append the lines to the file, which keeps its owner and mode; a new file with a secret is private."""
    private = any(redact.is_secret_name(line.name) for line in made.lines)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    try:
        is_new = not os.path.lexists(made.path)
        descriptor = open_regular(made.path, flags, _PRIVATE if private else 0o666)
        with open(descriptor, "r+b", buffering=0) as file:
            if is_new:
                give_to_owner(descriptor, os.stat(settings.app_dir))
            file.write(made.lines_of_file().encode())
    except OSError as error:
        raise LauncherError(
            f"cannot write {made.path}: {(error.strerror or str(error)).lower()}",
            f"ls -ld {quoted(made.path.parent)} {quoted(made.path)}",
            ExitStatus.IO,
        ) from error
