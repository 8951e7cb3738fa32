"""`doctor`: show everything that is wrong or odd, each with the command that helps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .. import __version__
from ..context import Answer, Context, Report
from ..doctor.checks import CHECKS
from ..doctor.finding import SECONDS, Finding, examine, status_of
from ..ui import redact, text

_SHORTEST_SECRET = 4
# For redact, `pwd` is the short word for a password.
_FOLDERS = ("PWD", "OLDPWD")
_TITLES = {"problem": "Problems", "odd": "Oddities", "fact": "Facts"}


def run(context: Context) -> Report:
    """Run every check, and report the findings as lines, as JSON, or as Markdown for a bug report."""
    secrets = _secrets(context)
    readable = os.access(context.settings.app_dir, os.R_OK | os.X_OK)
    checks = [check for check in CHECKS if readable or check.machine]
    found = examine(context, checks, context.timeout(SECONDS))
    findings = tuple(_masked(one._replace(hint=context.console.hinted(one.hint)), secrets) for one in found)
    status = status_of(findings)
    shown = [one for one in findings if one.level != "fact" or context.arguments.verbose]
    lines = _report(findings) if context.arguments.report else _lines(shown)
    return Answer(status, tuple(lines), _document(findings, status))


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.level}: {finding.topic}: {finding.text}"
        if finding.hint:
            yield f"hint: {finding.hint}"
    yield _summary(findings)


def _summary(findings: Sequence[Finding]) -> str:
    levels = [finding.level for finding in findings]
    problems, oddities = levels.count("problem"), levels.count("odd")
    if not problems and not oddities:
        return "nothing is wrong"
    return f"{text.count(problems, 'problem')}, {oddities} odd {'fact' if oddities == 1 else 'facts'}"


def _report(findings: Sequence[Finding]) -> Iterator[str]:
    yield f"# start_app.py {__version__}: doctor"
    for level, title in _TITLES.items():
        chosen = [finding for finding in findings if finding.level == level]
        yield ""
        yield f"## {title}"
        yield ""
        for finding in chosen:
            yield f"- **{finding.topic}**: {_code(finding.text)}" + (
                f" -> {_code(finding.hint)}" if finding.hint else ""
            )
        if not chosen:
            yield "none"
    yield ""
    yield _summary(findings)


def _code(text: str) -> str:
    """Return a text as a code span of Markdown: nothing in it is markup."""
    fence = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def _document(findings: Sequence[Finding], status: int) -> Mapping[str, Any]:
    return {
        "launcher": __version__,
        "findings": [finding.document() for finding in findings],
        "problems": sum(finding.level == "problem" for finding in findings),
        "oddities": sum(finding.level == "odd" for finding in findings),
        "exit_status": int(status),
    }


def _secrets(context: Context) -> tuple[str, ...]:
    """Return the values that no output may contain, the longest first."""
    named: dict[str, str] = {**context.environ, **{name: one.value for name, one in context.settings.variables.items()}}
    values = {value for name, value in named.items() if name not in _FOLDERS and redact.is_secret(name, value)}
    return tuple(sorted((one for one in values if len(one) >= _SHORTEST_SECRET), key=len, reverse=True))


def _masked(finding: Finding, secrets: Sequence[str]) -> Finding:
    """Return a finding without secrets, in whatever form a message repeats one."""
    return finding._replace(text=_without(finding.text, secrets), hint=_without(finding.hint, secrets))


def _without(line: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        line = line.replace(secret, redact.MASK)
    return text.clean(line)
