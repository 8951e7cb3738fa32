"""`cache verify`: hash the cached files offline, and with `--repair` fetch the damaged ones again."""

from __future__ import annotations

from contextlib import nullcontext

from ..cache import roots
from ..cache.verify import Names, Verification
from ..context import Answer, Context, Report
from ..errors import ExitStatus
from ..operations import held, removal, repair, verification
from ..operations import pull as pulling


def run(context: Context) -> Report:
    """Verify the caches, name each file that differs from the hub's, and with `--repair` fetch it again."""
    arguments, console = context.arguments, context.console
    if arguments.repair:
        roots.refuse_unsafe(context.roots, context.settings.app_dir, context.home)
    keep_whole = console.as_json or console.verbose
    done = verification.check(context, arguments.repos, full=arguments.full, keep_whole=keep_whole)
    failing = [checked for checked in done.checked if checked.fails]
    unread = ExitStatus.IO if any(checked.denied for checked in done.checked) else ExitStatus.DONE
    if failing and arguments.repair:
        return _repair(context, done, unread)
    status = ExitStatus.DAMAGED if failing else unread
    hint = "start_app.py cache verify --repair downloads what is damaged or missing" if failing else None
    return Answer(status, _lines(done), {**verification.document(done), "exit_status": int(status)}, hint)


def _repair(context: Context, done: Verification, unread: ExitStatus) -> Report:
    console = context.console
    if not console.as_json:
        for line in _lines(done):
            console.out(line)
    failing = [checked for checked in done.checked if checked.fails]
    ready = repair.prepare(failing, context)
    applied = Answer()
    fetches = bool(ready.fetched) and not context.arguments.dry_run
    with pulling.pull_lock(context) if fetches else nullcontext():
        held.refuse_edited(context)
        if ready.planned:
            applied = removal.apply(ready.planned, "repair", context, lambda: repair.fetch(ready, context))
        elif fetches:
            applied = Answer(data=repair.fetch(ready, context))
    incomplete = any(checked.verdict == "incomplete" for checked in failing) and context.offline
    unsolved = ExitStatus.RETRY if ready.skipped else ExitStatus.DAMAGED if incomplete else unread
    status = applied.status or (ExitStatus.DAMAGED if context.arguments.dry_run else unsolved)
    return applied._replace(status=status, data={**verification.document(done), **(applied.data or {})})


def _lines(done: Verification) -> tuple[str, ...]:
    names = Names()
    ordered = sorted(done.checked, key=lambda checked: (not checked.fails, checked.candidate.path))
    return (*(verification.line(checked, names) for checked in ordered), verification.summary(done))
