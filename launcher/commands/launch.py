"""The launch as a command: the plan shown, or applied up to the exec, here or in a session of its own.

In the background the launcher stays only until the page answers. Whatever happens to it meanwhile, the app goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..app.exec import execute
from ..config.settings import Settings
from ..errors import ExitStatus, LauncherError
from ..instances.stop import stopped_document
from ..launch import pipeline
from ..launch.model_step import ModelStep
from ..launch.plan import handoff_document, origins, shown
from ..operations.readiness import open_page
from ..service import history
from ..ui import text

if TYPE_CHECKING:
    from ..app import logs
    from ..arguments import Arguments
    from ..launch.cache_step import Cleaning
    from ..launch.plan import LaunchPlan, Prepared
    from ..operations.readiness import Ready
    from ..service.notify import Event
    from ..ui.console import Console

_TAIL_LINES = 20
_LONGEST = 500


def run(
    arguments: Arguments, found: Settings, environ: Mapping[str, str], console: Console, cwd: Path, python: str
) -> int:
    """Launch, or show what a launch would do; in the foreground it does not return, it becomes the app.

    `python` is the launcher's own interpreter.
    """
    target = _log_target(arguments, found, cwd)
    models = ModelStep(arguments, found, environ, console)
    cleaning = _cleaning(arguments, found, environ, console)
    if arguments.dry_run:
        plan = pipeline.plan(
            found,
            environ,
            python,
            take_port=arguments.take_port,
            no_launch=arguments.no_launch,
            cleaning=cleaning,
            models=models,
            check=lambda: _check(arguments, environ, target),
        )
        shown = target.places[0] if target else None
        return _show_plan(plan._replace(log=shown, background=arguments.background), console)
    pid: int | None = None
    log: Path | None = None
    try:
        with _refusals(found, environ):
            _check(arguments, environ, target)
            if arguments.no_launch:
                return _stop_only(arguments, found, console, models, cleaning)
            if console.verbose:
                for line in origins(found):
                    console.detail(line)
            prepared = pipeline.prepare(
                found,
                environ,
                python,
                take_port=arguments.take_port,
                stop_timeout=arguments.stop_timeout,
                say=console.say,
                detail=console.detail,
                cleaning=cleaning,
                models=models,
            )
            log, output = target.open() if target else (None, None)
            documents = handoff_document(prepared, models, cleaning)
            if not arguments.background:
                _become(prepared, found, environ, console, documents, log, output)
            assert log is not None and output is not None
            from ..app import background

            # An interruption between the two would leave an app of which nobody was told.
            with background.shielded():
                pid = _spawn(prepared, found, environ, console, log, output)
        return _see_it_ready(arguments, found, environ, console, pid, log, documents, python)
    except KeyboardInterrupt:
        if pid is not None:
            console.warn(f"left running: pid {pid}, log {log}")
        raise


def _become(
    prepared: Prepared,
    found: Settings,
    environ: Mapping[str, str],
    console: Console,
    document: Mapping[str, Any],
    log: Path | None,
    output: int | None,
) -> NoReturn:
    pipeline.record(prepared, found, console.say, log)
    _tell_start(prepared, found, environ, os.getpid(), f"exec, log {log}" if log else "exec")
    if console.as_json:
        console.json({**document, "pid": os.getpid(), "log": str(log) if log else None})
    if log:
        console.say(f"log: {log}")
    console.say(f"exec: {shown(prepared.command)}")
    _flush(console)
    if output is None:
        execute(prepared.command)
    kept = {stream: os.dup(stream) for stream in (1, 2) if _is_open(stream)}
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    try:
        execute(prepared.command)
    except LauncherError:
        for stream, copy in kept.items():
            os.dup2(copy, stream)  # the user is told, not the log
        raise


def _spawn(
    prepared: Prepared, found: Settings, environ: Mapping[str, str], console: Console, log: Path, output: int
) -> int:
    from ..app import background

    _flush(console)
    pid = background.spawn(
        lambda: pipeline.record(prepared, found, console.say, log),
        lambda: execute(prepared.command),
        output,
        (prepared.lock.descriptor,),
    )
    os.close(output)
    prepared.lock.close()
    prepared.launch_lock.close()
    _tell_start(prepared, found, environ, pid, f"in the background, log {log}")
    console.say(f"background: pid {pid}, {shown(prepared.command)}")
    return pid


def _see_it_ready(
    arguments: Arguments,
    found: Settings,
    environ: Mapping[str, str],
    console: Console,
    pid: int,
    log: Path,
    document: Mapping[str, Any],
    python: str,
) -> int:
    from ..app import background
    from ..operations import readiness

    seconds = readiness.DEFAULT_SECONDS if arguments.timeout is None else arguments.timeout
    try:
        ready = _await(found, console, pid, log, seconds)
    except LauncherError as error:
        console.warn(f"left running: pid {pid}, log {log}")
        _tell_end(found, environ, "fail", "failed", pid, error.message)
        raise
    if ready is None:
        end = background.told_end(background.ended(pid))
        _tell_end(found, environ, "fail", "failed", pid, f"{end} before its page answered")
        from ..app import logs

        for line in logs.tail(log, _TAIL_LINES):
            console.warn(f"| {line[:_LONGEST]}")
        raise LauncherError(
            f"the app {end} before its page answered: pid {pid}, log {log}", _hint(end), ExitStatus.RETRY
        )
    _tell_end(found, environ, "ready", "ready", pid, f"{ready.page.url} answers after {ready.seconds:.1f} s")
    console.say(f"ready: pid {pid} answers at {ready.page.url} ({ready.seconds:.1f} s)")
    console.say(f"log: {log}")
    if console.as_json:
        shown = {"url": ready.page.url, "status": ready.page.status, "seconds": round(ready.seconds, 3)}
        console.json({**document, "pid": pid, **shown, "log": str(log)})
    if arguments.open:
        open_page(ready.page.url, console, python)
    return ExitStatus.DONE


def _await(found: Settings, console: Console, pid: int, log: Path, seconds: float) -> Ready | None:
    import time

    from ..app import logs
    from ..operations import readiness

    begun = time.monotonic()
    with console.live() as show:

        def tick() -> None:
            if show:
                last = "".join(logs.tail(log, 1))
                show(f"loading: {text.duration(time.monotonic() - begun)}  {last}")

        return readiness.wait_for_child(found, pid, seconds, tick)


def _hint(end: str) -> str:
    killed = "; the kernel kills what takes too much memory: dmesg | tail" if end.endswith("SIGKILL") else ""
    return f"start_app.py logs --lines 200{killed}"


def _stop_only(
    arguments: Arguments, found: Settings, console: Console, models: ModelStep, cleaning: Cleaning | None
) -> int:
    stopped = pipeline.stop_only(
        found,
        take_port=arguments.take_port,
        stop_timeout=arguments.stop_timeout,
        say=console.say,
        detail=console.detail,
        cleaning=cleaning,
        models=models,
    )
    if console.as_json:
        console.json(
            {
                "stopped": [stopped_document(one) for one in stopped],
                "launched": False,
                "cache": cleaning.done if cleaning else [],
            }
        )
    console.say(f"not launched: port {found.port} is free")
    return ExitStatus.DONE


def _cleaning(arguments: Arguments, found: Settings, environ: Mapping[str, str], console: Console) -> Cleaning | None:
    if not (arguments.clear_cache or arguments.remove_model or arguments.prune_cache or arguments.verify):
        return None
    from ..launch.cache_step import Cleaning  # most launches remove nothing

    return Cleaning(arguments, found, environ, console)


def _log_target(arguments: Arguments, found: Settings, cwd: Path) -> logs.Target | None:
    if arguments.log_file is None and not arguments.background:
        return None
    from ..app import logs

    return logs.target(found.app_dir, found.script, found.port, arguments.log_file, cwd)


def _check(arguments: Arguments, environ: Mapping[str, str], target: logs.Target | None) -> None:
    """Refuse a background that would end with the launcher, and a log that cannot be."""
    if arguments.background and os.getpid() == 1:
        raise LauncherError(
            "--background as pid 1: the container would end with the launcher, and the app with it",
            "start_app.py, in the foreground, under an init such as tini",
            ExitStatus.USAGE,
        )
    if arguments.background and environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
        raise LauncherError(
            "--background in a systemd unit: systemd would stop the app when the launcher ends",
            "ExecStart= without --background; systemd has it in the background already",
            ExitStatus.USAGE,
        )
    if target:
        target.check()


def _show_plan(plan: LaunchPlan, console: Console) -> int:
    if console.as_json:
        refused = plan.refused
        problem = (
            {"error": refused.message, "hint": refused.hint, "exit_status": int(refused.status)} if refused else {}
        )
        console.json({**plan.document(), "error": None, "hint": None, "exit_status": 0, **problem})
    else:
        for line in (*plan.lines(), *(plan.details() if console.verbose else ())):
            console.out(line)
    if plan.refused is None:
        return ExitStatus.DONE
    console.tell_error(plan.refused)
    return plan.refused.status


@contextmanager
def _refusals(found: Settings, environ: Mapping[str, str]) -> Iterator[None]:
    """Tell the history and the webhook what keeps the app from being started."""
    try:
        with history.refusals(found, "launch"):
            yield
    except LauncherError as error:
        _notify(found, environ, "refused", error.message)
        raise


def _tell_start(prepared: Prepared, found: Settings, environ: Mapping[str, str], pid: int, how: str) -> None:
    commits = [f"{repo} @ {commit[:7]}" for repo, commit in prepared.commits.items()]
    models = f"; {text.some(commits, 3)}" if commits else ""
    history.record(found, "start", f"pid {pid}, {shown(prepared.command)}{models}", how)
    _notify(found, environ, "started", f"pid {pid}{models}")


def _tell_end(
    found: Settings, environ: Mapping[str, str], action: history.Action, event: Event, pid: int, how: str
) -> None:
    history.record(found, action, f"pid {pid}", how)
    _notify(found, environ, event, f"pid {pid}, {how}")


def _notify(found: Settings, environ: Mapping[str, str], event: Event, what: str) -> None:
    if found.notify_url:
        from ..service import notify

        notify.notify(found, environ, event, what)


def _flush(console: Console) -> None:
    try:
        console.flush()
    except OSError:
        pass  # the old instance is stopped already: a reader who has gone must not leave the user without an app


def _is_open(stream: int) -> bool:
    try:
        os.fstat(stream)
    except OSError:
        return False
    return True
