"""`models export`: copy the pinned files into a folder, from which `models pull` on another machine can take them."""

from __future__ import annotations

from ..context import Answer, Context, Report
from ..errors import quoted
from ..operations import export
from ..ui import text


def run(context: Context) -> Report:
    """Write every pinned file below a folder, verified, and the lock next to them."""
    (folder,) = context.arguments.repos
    dry_run = context.arguments.dry_run
    done = export.export(context, folder)
    verb = "would write" if dry_run else "wrote"
    line = f"{verb} {done.folder}: {text.count(done.written, 'file')}, {text.size(done.size)}"
    line += f"; {text.count(done.present, 'file')} there already" if done.present else ""
    document = {
        "folder": done.folder,
        "files": done.written,
        "present": done.present,
        "size_bytes": done.size,
        "dry_run": dry_run,
    }
    hint = f"HF_ENDPOINT_FALLBACK={quoted(done.folder)} in .env on the other machine, then start_app.py models pull"
    return Answer(text=(line,), data=document, hint=None if dry_run else hint)
