"""`cache move`: move the app's hub cache to another folder, on any disk; the token stays at its place."""

from __future__ import annotations

import os

from ..cache import journal
from ..config.paths import absolute, current_folder
from ..context import Answer, Context, Report
from ..errors import ExitStatus, LauncherError, quoted
from ..operations import held, move, move_plan
from ..operations import pull as pulling
from ..operations.move_plan import Move
from ..ui import text


def run(context: Context) -> Report:
    """Move the hub cache, or continue an interrupted move, and report the new place."""
    target = os.path.realpath(absolute(current_folder(), os.path.expanduser(context.arguments.repos[0])))
    root = context.roots[0]
    if context.arguments.dry_run:
        return _plan(context, target)
    lock = held.take_launch_lock(context)
    try:
        with pulling.pull_lock(context):
            held.refuse_edited(context)
            if root.real == target:
                return _finish(context, target)
            planned = move_plan.prepare(context, target)
            _confirm(context, planned)
            move.apply(context, planned)
            return _done(context, target, root.real)
    finally:
        lock.close()


def _finish(context: Context, target: str) -> Report:
    begun = journal.read(target)
    if begun is None:
        context.console.say(f"the cache is {target} already")
        return Answer(data={"from": target, "to": target, "moved": False, "left": []})
    if not begun.whole:
        raise LauncherError(
            f"{target} is an unfinished copy of {begun.source}, and HF_HUB_CACHE names it",
            f"set HF_HUB_CACHE={quoted(begun.path)} in .env; start_app.py cache move {quoted(target)}",
        )
    move.finish(context, target, begun)
    return _done(context, target, begun.source)


def _done(context: Context, target: str, source: str) -> Report:
    left = move.remains(source) if os.path.isdir(source) else ()
    status = ExitStatus.RETRY if left else ExitStatus.DONE
    context.console.say(f"cache: moved to {target}" + (f"; {source} still holds {text.some(left, 3)}" if left else ""))
    hint = f"start_app.py cache move {quoted(target)} removes the rest" if left else None
    document = {"from": source, "to": target, "moved": True, "left": list(left), "exit_status": int(status)}
    return Answer(status, data=document, hint=hint)


def _confirm(context: Context, planned: Move) -> None:
    """Ask before a cache is moved that is not this app's own.

    Raises LauncherError if asking is not possible, or if the answer is no.
    """
    root, console = planned.root, context.console
    if root.owned or context.arguments.yes:
        return
    shared = f"{root.path} ({root.origin}) is shared with other programs, which will not find the models afterwards"
    if not console.interactive or console.as_json:
        raise LauncherError(
            f"{shared}; nothing was changed",
            f"start_app.py cache move {quoted(planned.target)} --yes",
            ExitStatus.USAGE,
        )
    console.warn(shared)
    if not console.confirm(f"move {text.size(planned.measured.size)} to {planned.target}?"):
        raise LauncherError("nothing was changed", None, ExitStatus.INTERRUPTED)


def _plan(context: Context, target: str) -> Report:
    """Return the plan of a move."""
    root = context.roots[0]
    if root.real == target:
        begun = journal.read(target)
        line = f"would remove the rest of {begun.source}" if begun and begun.whole else f"the cache is {target} already"
        return Answer(text=(line,), data={"dry_run": True, "from": begun.source if begun else target, "to": target})
    planned = move_plan.prepare(context, target)
    amount = f"{text.count(planned.measured.files, 'file')}, {text.size(planned.measured.size)}"
    how = "rename" if planned.link else "copy"
    room = f"; {text.size(planned.free)} free there" if planned.free is not None else ""
    lines = [f"would {how} {root.path} to {target}: {amount}{room}"]
    lines += [
        f"would write {planned.edit.path} line {line}: {name}={planned.edit.values[name]}"
        for name, line in planned.edit.lines.items()
    ]
    lines.append(f"would remove {root.real}")
    document = {
        "dry_run": True,
        "from": str(root.path),
        "to": target,
        "files": planned.measured.files,
        "size_bytes": planned.measured.size,
        "free_bytes": planned.free,
        "same_disk": planned.link,
        "env_file": str(planned.edit.path),
        "env": dict(planned.edit.values),
    }
    return Answer(text=tuple(lines), data=document)
