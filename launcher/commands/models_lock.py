"""`models lock`: pin models in `models.lock`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cache import entries, targets
from ..cache.names import name
from ..context import Answer, Context, Report
from ..errors import ExitStatus, LauncherError, quoted
from ..models import LOCKFILE, hub, lockfile, repo_id, resolve, subjects
from ..models.lockfile import Lock, LockedModel
from ..operations import freeze, held, pull, weights
from ..operations.instance import observe
from ..service import history
from ..ui import text

if TYPE_CHECKING:
    from collections.abc import Iterator


def run(context: Context) -> Report:
    """Pin models in `models.lock`, or resolve all of them again, or with `--remove` remove some."""
    if context.arguments.dry_run:
        return _relock(context)
    with pull.pull_lock(context):
        held.refuse_edited(context)
        context.forget_lockfile()  # another run may have written it meanwhile
        return _relock(context)


def _relock(context: Context) -> Report:
    arguments, console = context.arguments, context.console
    before = context.lockfile or Lock()
    if arguments.freeze:
        after = freeze.frozen(context, _instance(context))
        resolved: tuple[resolve.Resolved, ...] = ()
    elif arguments.remove:
        after = _without(arguments.repos, before)
        resolved = ()
    else:
        pull.refuse_offline(context, "models lock")
        requirements = _requirements(context)
        timeout = context.timeout(hub.DEFAULT_SECONDS)
        outcomes = resolve.resolve(requirements, context.endpoints, context.own_environment, timeout)
        resolved = tuple(resolve.only_resolved(outcomes))
        after = before.replaced(_with(before, [one.model for one in resolved]))
    for one in resolved:
        for warning in one.warnings:
            console.warn(warning)
    moved = [*_moves(before, after), *_moved_files(before, after)]
    lines = tuple(line for line, _ in moved)
    for line in () if arguments.dry_run else lines:
        console.say(line)
    cached = [name(e) for root in context.roots for e in entries.contents(root.real).entries]
    for trap in repo_id.traps([model.repo for model in after], cached):
        console.warn(trap)
    changed = lockfile.differs(context.settings.app_dir, after)
    if not arguments.dry_run:
        changed = _write(context, after)
        if changed:
            history.record(context.settings, "lock", text.some(lines, 3) or "models.lock")
        if arguments.remove:
            pull.unpin(
                context, [one.repo for one in before if one.repo not in {a.repo for a in after if not a.local_dir}]
            )
    console.say(_lock_summary(context, after, changed=changed, dry_run=arguments.dry_run))
    document = {
        "dry_run": arguments.dry_run,
        "changed": changed,
        "frozen": after.frozen,
        "models": [pull.model_document(one) for one in after],
        "files": [
            {"file": path, "size_bytes": file.size, "hash": file.hash, "origin": file.origin or None}
            for path, file in after.files.items()
        ],
        "moved": [document for _, document in moved],
    }
    hint = "start_app.py models pull downloads it; start_app.py --locked downloads it and restarts the app"
    return Answer(text=lines if arguments.dry_run else (), data=document, hint=hint if changed and resolved else None)


def _lock_summary(context: Context, after: Lock, *, changed: bool, dry_run: bool) -> str:
    path = lockfile.path_of(context.settings.app_dir)
    count = text.count(len(after), "model") + (f", {text.count(len(after.files), 'file')}" if after.files else "")
    if not changed:
        return f"unchanged: {path}, {count}"
    return f"{'would write' if dry_run else 'wrote'} {path}: {count}"


def _with(before: Sequence[LockedModel], models: Sequence[LockedModel]) -> Iterator[LockedModel]:
    """Yield the models of a lock; these replace those with the same repo in a place, or the same revision."""
    new = {_slot(one, before): one for one in models}
    yield from (one for one in before if _slot(one, before) not in new)
    yield from new.values()


def _slot(model: LockedModel, models: Iterable[LockedModel]) -> tuple[str, ...]:
    """Return what another pin of a model would replace: a repo in a place, or a revision if several are pinned."""
    revisions = {one.revision for one in models if (one.repo, one.local_dir) == (model.repo, model.local_dir)}
    return model.key if len(revisions) > 1 else model.key[:2]


def _write(context: Context, models: Lock) -> bool:
    try:
        return lockfile.write(context.settings.app_dir, models)
    except OSError as error:
        path = lockfile.path_of(context.settings.app_dir)
        raise LauncherError(
            f"cannot write {path}: {(error.strerror or str(error)).lower()}",
            f"ls -ld {quoted(path.parent)}",
            ExitStatus.IO,
        ) from error


def _requirements(context: Context) -> list[resolve.Requirement]:
    arguments = context.arguments
    before = {model.key: model for model in context.lockfile or ()}
    if not arguments.repos:
        if not before:
            cached = list(dict.fromkeys(model.repo for model in subjects.of_cache(context.roots)))
            raise LauncherError(
                f"{lockfile.path_of(context.settings.app_dir)} pins no model, and none was given",
                f"start_app.py models lock {' '.join(cached[:3]) if cached else 'REPO'}",
                ExitStatus.USAGE,
            )
        return [resolve.requirement_of(model) for model in before.values()]
    folder = _local_dir(arguments.local_dir)
    for glob in (*(arguments.include or ()), *(arguments.exclude or ())):
        if not glob or not glob.isprintable():
            raise LauncherError(f"{glob!r} is not a valid glob", "--include '*.json'", ExitStatus.USAGE)
    requirements: dict[tuple[str, ...], resolve.Requirement] = {}
    for text_ in arguments.repos:
        target = repo_id.target(text_)
        if target is None:
            raise LauncherError(
                f"{text_!r} is not a valid repo", "start_app.py models lock OWNER/NAME", ExitStatus.USAGE
            )
        known = [one for one in before.values() if one.repo == target.repo and (not folder or one.local_dir == folder)]
        if target.revision is None and len({one.revision for one in known}) > 1:
            requirements |= {one.key: resolve.requirement_of(one) for one in known}
            continue
        known = [one for one in known if len(known) == 1 or one.revision == target.revision]
        old = known[0] if len(known) == 1 else None
        requirement = resolve.Requirement(
            target.repo,
            target.revision or (old.revision if old else repo_id.DEFAULT_REVISION),
            folder or (old.local_dir if old else None),
            tuple(arguments.include or (old.include if old else ())),
            tuple(arguments.exclude or (old.exclude if old else ())),
            held=old.commit if old and target.revision in (None, old.revision) else None,
        )
        if requirements.setdefault((requirement.repo, requirement.local_dir or ""), requirement) != requirement:
            raise LauncherError(
                f"{requirement.repo} is given with two revisions; only one can be pinned",
                f"start_app.py models lock {quoted(text_)}",
                ExitStatus.USAGE,
            )
    return list(requirements.values())


def _local_dir(given: str | None) -> str | None:
    if given is None:
        return None
    plain = given.removeprefix("./").rstrip("/")
    if not repo_id.is_local_dir(plain):
        raise LauncherError(
            f"--local-dir {given} is not a folder inside the app's folder",
            "--local-dir checkpoints",
            ExitStatus.USAGE,
        )
    return plain


def _without(repos: Sequence[str], before: Lock) -> Lock:
    kept = list(before)
    files = dict(before.files)
    for text_ in repos:
        if files.pop(text_, None):
            continue
        target = repo_id.target(text_)
        gone = [
            model
            for model in kept
            if target and model.repo == target.repo and target.revision in (None, model.revision, model.commit)
        ]
        if not gone:
            folders = [repo_id.folder(model.repo) for model in before]
            raise targets.unknown(text_, folders, "start_app.py models check", where=f"in {LOCKFILE}")
        kept = [one for one in kept if one not in gone]
    return Lock(kept, files, frozen=before.frozen)


def _moves(before: Sequence[LockedModel], after: Sequence[LockedModel]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the changes, as a line and for `--json`."""
    both = max(before, after, key=len)
    old, new = {_slot(one, both): one for one in before}, {_slot(one, both): one for one in after}
    for key in sorted({*old, *new}):
        was, now = old.get(key), new.get(key)
        if was and now and was.commit == now.commit and was.files == now.files and was.revision == now.revision:
            continue
        model = now or was
        assert model
        files = {
            path
            for path in {*(was.files if was else ()), *(now.files if now else ())}
            if _file_of(was, path) != _file_of(now, path)
        }
        grown = (now.size if now else 0) - (was.size if was else 0)
        count = f"{len(files)} {'file' if len(files) == 1 else 'files'}"
        sign = "+" if grown >= 0 else "-"
        steps = f"{was.commit[:7] if was else 'new'} → {now.commit[:7] if now else 'gone'}"
        line = f"{model.name} {model.revision}: {steps} ({count}, {sign}{text.size(abs(grown))})"
        yield (
            line,
            {
                "repo": model.repo,
                "local_dir": model.local_dir,
                "revision": model.revision,
                "before": was.commit if was else None,
                "after": now.commit if now else None,
                "files": sorted(files),
                "size_bytes": grown,
            },
        )


def _moved_files(before: Lock, after: Lock) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the changed single files, as a line and for `--json`."""
    for path in sorted({*before.files, *after.files}):
        was, now = before.files.get(path), after.files.get(path)
        if was != now:
            steps = f"{was.hash[:7] if was else 'new'} → {now.hash[:7] if now else 'gone'}"
            line = f"{path}: {steps}{f' ({text.size(now.size)})' if now else ''}"
            yield line, {"file": path, "before": was.hash if was else None, "after": now.hash if now else None}


def _instance(context: Context) -> weights.Instance:
    script = context.settings.script
    return weights.instance_of(observe(context.settings)) if script.exists() else weights.Instance()


def _file_of(model: LockedModel | None, path: str) -> object:
    return model.files.get(path) if model else None
