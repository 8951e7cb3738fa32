"""Record the outcome of each start of the app as soon as a process sees it, and report it in the history.

A launcher records what it starts, sees and stops; systemd runs a command of ours that records how its main process
ended. The next command notices an end that no process saw.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.settings import Settings
from ..context import Context
from ..errors import LauncherError
from ..instances import port
from ..instances.process import Process, look
from ..instances.proof import own_namespace, start_of
from ..instances.survey import Instance
from ..models import versions
from ..models.versions import Current
from ..service import history, outcomes
from ..service.outcomes import MOST_DOOMED, Attempt, By, End, LaunchSet, Outcomes, Pinned
from ..ui import text
from . import held

if TYPE_CHECKING:
    from ..models.lockfile import LockedModel

_UNKNOWN = "has ended, nobody saw how"
# Variables that supervisors set for their children; without them, the ancestors need no check.
_SIGNS = ("INVOCATION_ID", "SUPERVISOR_PROCESS_NAME", "pm_id", "SYSTEMD_EXEC_PID")
_MOST_LINE = 300
EXEC = "exec: "
"""The beginning of the last line that a launcher prints before it becomes the app."""
_PAGE_SECONDS = 1.0
PARKED_HINT = "start_app.py logs --lines 200; a start by hand always tries: start_app.py --background"
"""The hint when further unattended starts are refused."""


def by(context: Context) -> By:
    """Return who has called this launcher: a person, or a supervisor that restarts the app when it ends."""
    if context.arguments.if_down:
        return "if-down"
    environ = context.environ
    if environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
        return "unit"
    if not any(name in environ for name in _SIGNS):
        return "hand"
    from ..instances.supervisor import starter
    from ..instances.table import ProcessTable

    keeper = starter(os.getpid(), ProcessTable())
    if keeper is None or keeper.supervisor.name.startswith("pid 1"):
        return "hand"
    return "unit" if keeper.supervisor.is_unit else "supervisor"


def look_back(context: Context) -> Outcomes:
    """Return the known starts on the port, including an end that was not recorded yet."""
    settings = context.settings
    known = outcomes.read(settings.app_dir, settings.port)
    last = known.last
    if last is None or last.over or _lives(last, settings):
        return known
    if last.unit and last.unit == context.environ.get("INVOCATION_ID"):
        return known  # systemd knows how, and calls `ended` after this command of the same run of the unit
    boot_id, namespace = own_namespace()
    rebooted = bool(boot_id) and last.boot_id != boot_id
    if rebooted:
        end = End("ended with the machine", asked=True)
    elif last.pid_namespace != namespace and last.by != "hand":
        end = End("ended with its container", asked=True)  # a supervisor in it would have said how
    elif last.stage == "stopping":
        end = End("was stopped", asked=True)
    else:
        end = End(_UNKNOWN, line="" if _is_our_output(last.log) else last_line(last.log))
    return note_end(context, last, end)


def _is_our_output(log: str | None) -> bool:
    """Return whether we print into this file too: then its last line need not be the app's."""
    for stream in (1, 2):
        with suppress(OSError):
            if log and os.path.samestat(os.fstat(stream), os.stat(log)):
                return True
    return False


def known_of(context: Context) -> Outcomes:
    """Return the known starts on the port, with a key for digests, which is created once."""
    known = _change(context, lambda known: known)
    return known if known.key else known._replace(key=os.urandom(16).hex())


def note_start(context: Context, attempt: Attempt) -> None:
    """Record that this process is about to become the app."""
    own = attempt._replace(pid=os.getpid(), start=start_of(os.getpid()) or 0.0)
    _change(context, lambda known: outcomes.started(known, own))


def note_parked(context: Context) -> None:
    """Record that the history has the refused starts: one entry is enough."""
    _change(context, lambda known: known._replace(told_parked=True))


def note_own_end(context: Context, how: str) -> None:
    """Record why this process could not become the app."""
    last = outcomes.read(context.settings.app_dir, context.settings.port).last
    if last and _is(last, os.getpid(), start_of(os.getpid()) or 0.0):
        note_end(context, last, End(how))


def note_move(context: Context, pid: int, process: Process) -> None:
    """Record that the app has daemonized: the start with the pid `pid` continues as this process."""

    def move(known: Outcomes) -> Outcomes:
        if known.last is None or known.last.pid != pid:
            return known
        return known._replace(last=known.last._replace(pid=process.pid, start=process.start))

    _change(context, move)


def note_ready(context: Context, process: Process, *, at_once: bool = True) -> bool:
    """Record that the page of the last start has answered, if this process is that start: its set is good now.

    `at_once`: it has answered just now, so the models are still those that the app has loaded. Returns whether this was
    not recorded before.
    """
    settings = context.settings
    last = outcomes.read(settings.app_dir, settings.port).last
    if last is None or last.over or last.seen or not _is(last, process.pid, process.start):
        return False
    ran = _now(context, last.ran) if at_once and not last.rollback else last.ran
    _change(
        context,
        lambda known: outcomes.ready(known, ran) if known.last and known.last.is_process(*last[:2]) else known,
        durable=True,
    )
    _drop_kept(context)
    return True


def _drop_kept(context: Context) -> None:
    """Remove the replaced files of switches, now that the new ones have been used successfully."""
    from ..models import kept, lockfile, switch
    from . import pull as pulling

    app_dir = context.settings.app_dir
    own = {model.local_dir for one in outcomes.good_sets(app_dir) for model in lockfile.remembered(one.folders)}
    with suppress(LauncherError):
        own |= {model.local_dir for model in context.lockfile or ()}
    folders = [str(app_dir / folder) for folder in own if folder and kept.is_there(str(app_dir / folder))]
    if not folders:
        return
    with suppress(LauncherError), pulling.pull_lock(context):
        for folder in folders:
            switch.drop_kept(folder)


def see_page(context: Context, instances: Iterable[Instance]) -> None:
    """Record that the page of the last start answers, if it is one of these instances and not yet recorded."""
    settings = context.settings
    last = outcomes.read(settings.app_dir, settings.port).last
    if last is None or last.over or last.seen:
        return
    instance = next((one for one in instances if last.pid in one.tree), None)
    addresses = port.addresses(instance.tree).get(settings.port, ()) if instance else ()
    if not addresses:
        return
    from ..app import page as pages

    page = pages.page(pages.host_to_ask(settings.host, addresses), settings.port, _PAGE_SECONDS)
    process = look(last.pid)
    if page and page.ready and process:
        note_ready(context, process, at_once=False)


def note_stopping(context: Context, pids: Collection[int]) -> None:
    """Record that these processes are about to be stopped; call it before the first signal."""
    last = outcomes.read(context.settings.app_dir, context.settings.port).last
    if last is None or last.over or last.pid not in pids or not _is(last, last.pid, start_of(last.pid) or 0.0):
        return
    _change(
        context,
        lambda known: outcomes.stopping(known) if known.last and known.last.is_process(*last[:2]) else known,
    )


def note_end_of(context: Context, pid: int, end: End, wish: str | None = None) -> Outcomes:
    """Record how the start with this pid has ended, if it is the last one."""
    known = outcomes.read(context.settings.app_dir, context.settings.port)
    if known.last and (known.last.pid, known.last.boot_id) == (pid, own_namespace()[0]):
        return note_end(context, known.last, end, wish)
    return known


def note_end(context: Context, attempt: Attempt, end: End, wish: str | None = None) -> Outcomes:
    """Record how a start has ended, and add an unrequested end to the history."""
    end = end._replace(line=text.clean(end.line.strip())[:_MOST_LINE])
    told: list[Attempt] = []

    def change(known: Outcomes) -> Outcomes:
        told.clear()
        if known.last is None or not known.last.is_process(attempt.pid, attempt.start):
            return known
        after = outcomes.ended(known, end, wish)
        if after.last and not known.last.over:
            told.append(after.last)
        return after

    known = _change(context, change)
    for one in told:
        if one.stage == "ended":
            history.record(context.settings, "death" if one.seen else "fail", f"pid {one.pid}", told_end(one))
    return known


def note_unit_end(context: Context) -> None:
    """Record how the main process of our unit has ended, from the facts that systemd passes to an `ExecStopPost=`."""
    settings, environ = context.settings, context.environ
    last = outcomes.read(settings.app_dir, settings.port).last
    invocation = environ.get("INVOCATION_ID", "")
    if last is None or not invocation or last.unit != invocation:
        return
    from ..app.background import told_end as in_words
    from ..service import journal

    status = journal.status_of(environ)
    asked = journal.was_asked(environ)
    line = last_line(last.log) or ("" if asked else journal.last_line(last.pid, invocation, EXEC))
    how = f"{in_words(status)}{journal.more(environ)}"
    known = note_end(context, last, End(how, status, line, asked))
    if known.last and known.last.stage == "stopped" and not last.over:
        history.record(settings, "stop", f"pid {last.pid}", f"{how}, by systemd")


def told_parked(known: Outcomes) -> str:
    """Return in words that further unattended starts are refused; blank if they are not."""
    if known.doomed < MOST_DOOMED:
        return ""
    failed = text.count(known.doomed, "unattended start")
    return f"the last {failed} failed, so further ones are refused until something changes or a start by hand is ready"


def told_end(attempt: Attempt) -> str:
    """Return in words how a start has ended: the end, and the last line of its log."""
    how, comma, more = attempt.how.partition(", ")
    before = "" if attempt.seen else " before its page answered"
    line = f"; last line: {attempt.line}" if attempt.line else ""
    return f"{how}{before}{comma}{more}{line}"


def start_document(attempt: Attempt | None) -> Mapping[str, Any] | None:
    """Return a start for `--json`."""
    if attempt is None:
        return None
    return {
        "pid": attempt.pid,
        "at": attempt.at,
        "by": attempt.by,
        "rollback": attempt.rollback,
        "ready": attempt.seen,
        "ended": attempt.stage == "ended",
        "stopped": attempt.stage in ("stopping", "stopped"),
        "how": attempt.how or None,
        "last_line": attempt.line or None,
        "ended_at": attempt.ended_at or None,
        **set_document(attempt.ran),
    }


def set_document(ran: LaunchSet) -> Mapping[str, Any]:
    """Return the set of a start for `--json`."""
    return {
        "argv": list(ran.argv),
        "models": [{"repo": one.repo, "revision": one.revision, "commit": one.commit} for one in ran.models],
        "since": ran.at,
    }


def last_line(log: str | None) -> str:
    """Return the last line of a log that has text; blank without one."""
    if log is None:
        return ""
    from ..app import logs

    path = Path(log)
    lines = logs.tail(path, 5) if logs.is_log(path) else ()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def cached_models(models: Iterable[Current]) -> tuple[Pinned, ...]:
    """Return the models among these that are in a hub cache."""
    return tuple(Pinned(*one) for one in models if os.path.isdir(f"{one.path}/snapshots/{one.commit}"))


def models_in_folders(models: Iterable[Current], lock: Iterable[LockedModel]) -> str:
    """Return the text of a lock with those models in folders of the app's that match `lock`."""
    commits = {(one.repo, one.path): one.commit for one in models}
    exact = [
        model
        for model in lock
        if model.local_dir
        and any(repo == model.repo and commit == model.commit for (repo, _), commit in commits.items())
    ]
    return lock_text(exact) if exact else ""


def lock_text(lock: Iterable[LockedModel] | None) -> str:
    """Return the content of a lock as one text."""
    from ..models import lockfile

    return lockfile.dump(lock or ()).decode()


def _now(context: Context, ran: LaunchSet) -> LaunchSet:
    """Return the set of a start with the models that it has loaded: an unlocked app may have fetched others."""
    from ..cache.roots import folders

    if ran.locked:
        return ran
    roots = (Path(os.path.dirname(model.path)) for model in ran.models)
    paths = tuple(dict.fromkeys((*folders(context.environment, context.settings.app_dir), *roots)))
    try:
        lock = context.lockfile
    except LauncherError:
        lock = None
    models = versions.current(paths, context.settings.app_dir, lock)
    return ran._replace(models=cached_models(models if lock is None else versions.loadable(paths, models)))


def _lives(attempt: Attempt, settings: Settings) -> bool:
    """Return whether the process of a start still exists; one that is invisible from here may have let go its lock."""
    boot_id, namespace = own_namespace()
    if boot_id and attempt.boot_id != boot_id:
        return False
    if attempt.pid_namespace != namespace:
        return not held.has_let_go(settings, (attempt.pid, attempt.start, attempt.boot_id, attempt.pid_namespace))
    if start_of(attempt.pid) != attempt.start:
        return False
    process = look(attempt.pid)
    return process is not None and process.start == attempt.start and not process.gone


def _is(attempt: Attempt, pid: int, start: float) -> bool:
    return attempt.is_process(pid, start) and (attempt.boot_id, attempt.pid_namespace) == own_namespace()


def _change(context: Context, how: Callable[[Outcomes], Outcomes], *, durable: bool = False) -> Outcomes:
    settings = context.settings
    try:
        return outcomes.change(settings.app_dir, settings.port, how, durable=durable)
    except OSError as error:
        context.console.detail(f"cannot note what became of this start: {error.strerror}")
        return how(outcomes.read(settings.app_dir, settings.port))
