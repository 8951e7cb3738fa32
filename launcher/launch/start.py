"""Start the app: the launcher becomes it, or starts it in a session of its own and waits for its page.

In the background the launcher stays only until the page answers. If the launcher is killed, the app continues.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..app.exec import execute
from ..config.paths import current_folder
from ..context import Answer, Context, Report
from ..errors import ExitStatus, LauncherError, quoted
from ..operations import outcome
from ..operations.held import Started, last_record, write_record
from ..service import history
from ..service.outcomes import End
from ..system import marker
from ..ui import text
from .clash import refuse_clash
from .plan import Prepared, shown

if TYPE_CHECKING:
    from ..app import logs
    from ..app.command import Command
    from ..app.logs import Staged
    from ..app.rehearsal import Placeholder
    from ..operations.instance import Observed
    from ..operations.readiness import Ready
    from ..service.notify import Event

_TAIL_LINES = 20
_LONGEST = 500


class FailedStartError(LauncherError):
    """Signal that the app has ended before its page answered."""


class StartStep:
    """Hold how the app is started, and the place of its output."""

    def __init__(self, context: Context, command: Callable[[], Command], wish: Callable[[], str]) -> None:
        self._context = context
        self._command = command
        self._wish = wish
        self._target = _log_target(context)
        self._placeholder: Placeholder | None = None
        self._staged: Staged | None = None
        self.log = self._target.places[0] if self._target else None

    def check(self, observe: Callable[[], Observed]) -> None:  # noqa: ARG002
        """Refuse a background that would end with the launcher, a log file that cannot be written, and a hidden module.

        Raises LauncherError (2, 74 for the log, 78 for the module).
        """
        refuse_clash(self._context.settings, self._context.python)
        background, environ = self._context.arguments.background, self._context.environ
        if background and os.getpid() == 1:
            raise LauncherError(
                "--background as pid 1: the container would end with the launcher, and the app with it",
                "start_app.py, in the foreground, under an init such as tini",
                ExitStatus.USAGE,
            )
        if background and environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
            raise LauncherError(
                "--background in a systemd unit: systemd would stop the app when the launcher ends",
                "remove --background from ExecStart=: systemd runs the app in the background already",
                ExitStatus.USAGE,
            )
        if background:
            self._check_starter()
        if self._target:
            self._target.check()

    def _check_starter(self) -> None:
        """Refuse a background that ends with the process that started the launcher; warn if a script may continue."""
        from ..instances.supervisor import starter
        from ..instances.table import ProcessTable

        keeper = starter(os.getpid(), ProcessTable())
        if keeper is None:
            self._warn_of_logout()
            return
        name = keeper.supervisor.name
        if keeper.supervisor.is_unit:
            problem = f"systemd would stop the app when {name} ends"
            hint = "start_app.py unit prints a unit that starts it without --background"
        elif name.startswith("pid 1"):
            waited = "the script that runs this" if keeper.by_script else "the launcher"
            problem = f"the app would end with the container when {waited} ends: {name}, waits for it"
            hint = "start_app.py without --background, as the last command of the container"
        else:
            problem = f"{name} would start the launcher again when it ends, and that stops the app"
            hint = "start_app.py without --background"
        if not keeper.by_script:
            raise LauncherError(f"--background: {problem}", hint, ExitStatus.USAGE)
        self._context.console.warn(f"warning: {problem}")
        self._context.console.warn(self._context.console.hinted(f"hint: {hint}"))

    def _warn_of_logout(self) -> None:
        from ..instances.login import ends_at_logout
        from ..instances.process import cgroup

        user = text.user(os.geteuid())
        problem = ends_at_logout(cgroup(os.getpid()), user)
        if problem:
            console = self._context.console
            console.warn(f"warning: the app would end when {user} logs out: {problem}")
            hint = f"loginctl enable-linger {quoted(user)}; start_app.py unit --user prints a unit that keeps running"
            console.warn(console.hinted(f"hint: {hint}"))

    def prepare(self) -> None:
        """Do nothing: the start acquires its resources right before the stop."""

    def rehearse(self) -> None:
        """Rehearse the start: run the app's own Python, create its log, and in the background reserve a process slot.

        Raises LauncherError: 78 if the app's Python or the script cannot run, 75 if no process can be started, 74 if no
        log can be created.
        """
        from ..app import rehearsal

        context = self._context
        if context.arguments.no_launch:
            return
        origins = {name: setting.origin for name, setting in context.settings.variables.items()}
        placeholder = rehearsal.rehearse(self._command(), origins)
        if context.arguments.background:
            # Import the modules of the start while it may still fail.
            from ..app import background  # noqa: F401
            from ..operations import readiness  # noqa: F401

            if placeholder is None:
                raise _no_process()
            self._placeholder = placeholder
        elif placeholder:
            placeholder.close()
        else:
            context.console.detail("not rehearsed: no process can be started; the launcher itself becomes the app")
        if self._target:
            self._staged = self._target.stage()

    def apply(self, changed: bool) -> bool:  # noqa: ARG002
        """Do nothing to the disk."""
        return False

    def close(self) -> None:
        """Release the resources of the start."""
        if self._placeholder:
            self._placeholder.close()
            self._placeholder = None
        if self._staged:
            self._staged.discard()
            self._staged = None

    def lines(self) -> Iterable[str]:
        """Return nothing: the plan itself shows the command."""
        return ()

    def document(self) -> Sequence[Mapping[str, Any]]:
        """Return nothing: the plan itself shows the command."""
        return ()

    def open_log(self) -> int | None:
        """Open the log file, if there is to be one, and return its descriptor.

        Raises LauncherError (74).
        """
        if self._target is None:
            return None
        staged, self._staged = self._staged, None
        self.log, output = (staged or self._target.stage()).commit()
        return output

    def become(self, prepared: Prepared, output: int | None, release: Callable[[], None]) -> NoReturn:
        """Replace the launcher by the app, with its output in `output`, if given.

        `release` is called right before the exec: it lets signals through, and raises Interrupted if one is pending.
        """
        context, log = self._context, self.log
        console = context.console
        self._record(prepared)
        _report_start(context, prepared, os.getpid(), f"exec, log {log}" if log else "exec")
        if context.arguments.json:
            context.show(Answer(data={**prepared.document(), "pid": os.getpid(), "log": str(log) if log else None}))
        if log:
            console.say(f"log: {log}")
        console.say(f"{outcome.EXEC}{shown(prepared.command)}")
        _flush(context)
        if prepared.attempt.by != "hand" and "NOTIFY_SOCKET" not in context.environ:
            self._watch()  # in a unit of ours, `wait` does this
        release()
        if output is None:
            self._execute(prepared)
        kept = {stream: os.dup(stream) for stream in (1, 2) if _is_open(stream)}
        for stream in (1, 2):
            os.dup2(output, stream)
        os.close(output)
        try:
            self._execute(prepared)
        except LauncherError:
            for stream, copy in kept.items():
                os.dup2(copy, stream)  # the message is for the user, not for the log
            raise

    def _watch(self) -> None:
        """Make another process watch for the page, because the supervisor does not check it."""
        from ..operations import watch
        from ..system.detach import beside

        context, pid = self._context, os.getpid()
        try:
            beside(lambda: watch.until_ready(context, pid))
        except OSError as error:
            context.console.detail(f"no process watches for the page: {error.strerror}")

    def _execute(self, prepared: Prepared) -> NoReturn:
        """Become the app, or record why that failed."""
        try:
            execute(prepared.command)
        except LauncherError as error:
            outcome.note_own_end(self._context, error.message)
            raise

    def spawn(self, prepared: Prepared, output: int) -> int:
        """Start the app in a session of its own and return its pid; call it shielded."""
        from ..app import background

        _flush(self._context)
        self.close()  # the app takes the reserved process slot
        pid = background.spawn(
            lambda: self._record(prepared),
            lambda: self._execute(prepared),
            output,
            (prepared.lock.descriptor,),
        )
        os.close(output)
        prepared.lock.close()
        prepared.launch_lock.close()
        _report_start(self._context, prepared, pid, f"in the background, log {self.log}")
        self._context.console.say(f"background: pid {pid}, {shown(prepared.command)}")
        return pid

    def see_ready(self, prepared: Prepared, pid: int) -> Report:
        """Wait until the page answers.

        Raises FailedStartError (75) if the app ends first, LauncherError (75) after `--timeout`.
        """
        from ..app import background, logs

        context, console, log = self._context, self._context.console, self.log
        assert log
        try:
            ready = _await(context, pid, log)
        except LauncherError as error:
            console.warn(f"left running: pid {pid}, log {log}")
            _report_end(context, ("fail", "failed"), pid, error.message)
            raise
        if ready is None:
            status = background.ended(pid)
            end = background.told_end(status)
            outcome.note_end_of(context, pid, End(end, status, outcome.last_line(str(log))), self._wish())
            notify(context, "failed", f"pid {pid}, {end} before its page answered")
            for line in logs.tail(log, _TAIL_LINES):
                console.warn(f"| {line[:_LONGEST]}")
            raise FailedStartError(
                f"the app {end} before its page answered: pid {pid}, log {log}", _hint(end), ExitStatus.RETRY
            )
        if ready.process.pid != pid:
            outcome.note_move(context, pid, ready.process)
        outcome.note_ready(context, ready.process)
        _report_end(context, ("ready", "ready"), pid, f"{ready.page.url} answers after {ready.seconds:.1f} s")
        console.say(ready.line())
        if ready.warning:
            console.warn(f"note: {ready.warning}")
        console.say(f"log: {log}")
        if context.arguments.open:
            from ..operations.readiness import open_page

            open_page(ready.page.url, context)
        answer = {"url": ready.page.url, "status": ready.page.status, "seconds": round(ready.seconds, 3)}
        return Answer(data={**prepared.document(), "pid": pid, **answer, "log": str(log)})

    def _record(self, prepared: Prepared) -> None:
        """Write this process into the instance lock, and keep the lock across the following exec."""
        mark = marker.parse(prepared.command.environment.get(marker.NAME))
        token = mark.token if mark else None
        weights = prepared.models.stamps()
        started = Started(prepared.command.argv, prepared.commits, prepared.models.locked, self.log, token, weights)
        write_record(prepared.lock, self._context, started)
        log = str(self.log) if self.log else _output_file()
        outcome.note_start(self._context, prepared.attempt._replace(log=log))
        prepared.lock.keep_across_exec()


def _output_file() -> str | None:
    """Return the file of the app's output, if the caller of the launcher redirects it to one."""
    for stream in (2, 1):
        try:
            path = os.readlink(f"/proc/self/fd/{stream}")
            if stat.S_ISREG(os.fstat(stream).st_mode) and os.path.isabs(path):
                return path
        except OSError:
            continue
    return None


def _no_process() -> LauncherError:
    user = text.user(os.geteuid())
    return LauncherError(
        f"no process can be started: the limit of user {user}, of this container or of the memory is reached",
        f"ulimit -u; ps -L -u {user} --no-headers | wc -l; cat /sys/fs/cgroup/pids.max",
        ExitStatus.RETRY,
    )


def notify(context: Context, event: Event, message: str) -> None:
    """Send an event to the webhook, if the settings name one."""
    if context.settings.notify_url:
        from ..service import notify

        notify.notify(context.settings, context.environ, event, message)


def _log_target(context: Context) -> logs.Target | None:
    arguments, settings = context.arguments, context.settings
    if arguments.log_file is None and not arguments.background:
        return None
    from ..app import logs

    cwd = current_folder() if arguments.log_file else settings.app_dir
    record = last_record(settings) if arguments.log_file else None
    last = record.log if record else None
    return logs.target(settings, arguments.log_file, cwd, last)


def _await(context: Context, pid: int, log: Path) -> Ready | None:
    from ..app import logs
    from ..operations.readiness import wait_for_child

    begun = time.monotonic()
    with context.console.live() as show:

        def tick() -> None:
            if show:
                last = "".join(logs.tail(log, 1))
                show(f"loading: {text.duration(time.monotonic() - begun)}  {last}")

        return wait_for_child(context, pid, tick)


def _report_start(context: Context, prepared: Prepared, pid: int, how: str) -> None:
    commits = [f"{repo} @ {commit[:7]}" for repo, commit in prepared.commits.items()]
    models = f"; {text.some(commits, 3)}" if commits else ""
    action: history.Action = "rollback" if prepared.attempt.rollback else "start"
    history.record(context.settings, action, f"pid {pid}, {shown(prepared.command)}{models}", how)
    notify(context, "started", f"pid {pid}{models}")


def _report_end(context: Context, kind: tuple[history.Action, Event], pid: int, how: str) -> None:
    history.record(context.settings, kind[0], f"pid {pid}", how)
    notify(context, kind[1], f"pid {pid}, {how}")


def _flush(context: Context) -> None:
    try:
        context.console.flush()
    except OSError:
        pass  # the old instance is already stopped: a closed stdout must not leave the user without an app


def _hint(end: str) -> str:
    killed = "; if it ran out of memory, the kernel says so: dmesg | tail" if end.endswith("SIGKILL") else ""
    return f"start_app.py logs --lines 200{killed}"


def _is_open(stream: int) -> bool:
    try:
        os.fstat(stream)
    except OSError:
        return False
    return True
