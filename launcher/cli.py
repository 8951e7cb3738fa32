"""The edge: the only reader of argv and the environment, and the only catcher of errors.

Commands return values; this module shows them as text or as one JSON object.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from . import contradictions
from .arguments import CHANGING, LAUNCH, Arguments, help_text, parse, version_text
from .config import settings
from .errors import ExitStatus, LauncherError
from .system import requirements
from .ui import invocation as called
from .ui.console import Console

DEMO_FOLDER = "start_app_demo"


def main(argv: Sequence[str] | None = None, launcher_file: str | None = None) -> int:
    """Run one command and return its exit status; a launch does not return, it becomes the app.

    `launcher_file` is the `start_app.py` that was called, as it was called.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    console = _console(words)._replace(program=called.program(launcher_file, sys.argv[0]), context=called.typed(words))
    try:
        arguments = parse(words)
        console = console._replace(context=_context(arguments))
        contradictions.refuse(arguments)
        console = console._replace(
            quiet=arguments.quiet,
            verbose=arguments.verbose,
            as_json=arguments.json,
            report=_report(os.environ) if arguments.command == LAUNCH and not arguments.dry_run else None,
        )
        status = _run(arguments, words, console, launcher_file)
        console.flush()
        return status
    except LauncherError as error:
        console.error(error)
        return _flushed(console, error.status)
    except KeyboardInterrupt:
        console.warn("interrupted")
        return _flushed(console, ExitStatus.INTERRUPTED)
    except BrokenPipeError:
        _abandon_stdout()  # the reader of stdout has had enough
        return ExitStatus.IO
    except ImportError as error:
        console.error(requirements.missing(requirements.REQUIREMENTS.values(), f"not usable ({error})"))
        return _flushed(console, ExitStatus.CONFIG)
    except OSError as error:
        console.error(LauncherError(_reason(error), _space_hint(error), ExitStatus.IO))
        return _flushed(console, ExitStatus.IO)
    except Exception:
        import traceback

        console.warn("this is a bug in start_app.py; nothing below is your fault, please report it:")
        for line in traceback.format_exc().splitlines():
            console.warn(line)
        return _flushed(console, ExitStatus.BUG)


def _run(arguments: Arguments, words: Sequence[str], console: Console, launcher_file: str | None) -> int:
    folders = _folders(launcher_file)
    name = console.program.rpartition("/")[2].rpartition(" ")[2]
    if arguments.help:
        console.text(help_text(name))
        return ExitStatus.DONE
    if arguments.version:
        console.text(version_text(name))
        return ExitStatus.DONE
    if arguments.print_completion:
        from .commands import completion

        console.text(completion.script(arguments.print_completion, name))
        return ExitStatus.DONE
    app_dirs = (Path(arguments.app_dir),) if arguments.app_dir else (Path(), *folders)
    requirements.check(app_dirs, called.again(launcher_file, words))
    environ: Mapping[str, str] = dict(os.environ)
    if arguments.demo:
        environ = _enter_demo(arguments, environ, console)
    found = settings.load(
        _flags(arguments),
        environ,
        cwd=_current_folder(),
        launcher_folders=() if arguments.demo else folders,
        env_file_flag=arguments.env_file,
        app_args=arguments.app_args,
        needs_script=not arguments.command.startswith(("cache ", "models ", "history")),
    )
    for warning in found.warnings:
        console.warn(warning)
    if arguments.command == LAUNCH:
        return _launch(arguments, found, environ, console)
    if arguments.command == "status":
        return _status(found, environ, console)
    if arguments.command == "wait":
        return _wait(arguments, found, environ, console)
    if arguments.command == "unit":
        from .commands import unit

        return unit.run(arguments, found, environ, console, launcher_file)
    if arguments.command in ("logs", "history"):
        from .commands import logs

        return logs.run(arguments, found, console)
    if arguments.dry_run or arguments.command not in CHANGING:
        return _other(arguments, found, environ, console)
    from .service import history

    with history.refusals(found, arguments.command):
        return _other(arguments, found, environ, console)


def _other(arguments: Arguments, found: settings.Settings, environ: Mapping[str, str], console: Console) -> int:
    if arguments.command == "stop":
        return _stop(arguments, found, console)
    if arguments.command.startswith("cache "):
        return _cache(arguments, found, environ, console)
    from .commands import models_lock

    return models_lock.run(arguments, found, environ, console)


def _launch(arguments: Arguments, found: settings.Settings, environ: Mapping[str, str], console: Console) -> int:
    _collect_no_garbage()
    if os.getpid() == 1 and not (arguments.dry_run or arguments.no_launch or arguments.background):
        status = _stay_above(console)
        if status is not None:
            return status
    from .commands.launch import run

    cwd = _current_folder() if arguments.log_file else found.app_dir
    return run(arguments, found, environ, console, cwd, sys.executable)


def _stay_above(console: Console) -> int | None:
    """Let the launch go on in a child; return None there, and in pid 1 the status to end with."""
    from .app import init

    console.warn("the launcher is pid 1, where signals get lost and nobody collects what ends: it stays above the app")
    console.warn(f"hint: an init of its own is the better one: {init.ADVICE}")
    console.flush()
    return init.stand_above()


def _cache(arguments: Arguments, found: settings.Settings, environ: Mapping[str, str], console: Console) -> int:
    _collect_no_garbage()
    from .cache.roots import roots
    from .operations import removal

    present = roots(found, settings.app_environment(found, environ))
    if arguments.command == "cache verify":
        from .operations import verification

        return verification.verify(arguments, found, present, console, environ)
    return removal.run(arguments, found, present, console, environ.get("HOME"))


def _collect_no_garbage() -> None:
    """Keep Python from looking for cycles: there are none worth it, and among many objects that takes long."""
    import gc

    gc.disable()


def _status(found: settings.Settings, environ: Mapping[str, str], console: Console) -> int:
    from .commands.status import status
    from .operations.instance import no_instances

    result = status(found, environ)
    if console.as_json:
        console.json(result.document())
    else:
        console.facts(result.facts())
    for line in no_instances(result.observed):
        console.detail(line)
    return ExitStatus.DONE


def _stop(arguments: Arguments, found: settings.Settings, console: Console) -> int:
    from .instances.stop import stopped_document
    from .operations.instance import left_alone, observe, stop_instance

    if arguments.dry_run:
        return _show_stop(found, console)
    stopped = stop_instance(found, arguments.stop_timeout, console.say)
    if not stopped:
        console.say(f"not running: no instance of {found.script} on port {found.port}")
        for line in left_alone(observe(found)):
            console.say(line)
    if console.as_json:
        console.json({"stopped": [stopped_document(one) for one in stopped]})
    return ExitStatus.DONE


def _show_stop(found: settings.Settings, console: Console) -> int:
    from .instances.describe import describe, process_document
    from .operations.instance import observe

    observed = observe(found)
    refused = observed.instance_refusal()
    if refused:
        raise refused
    if console.as_json:
        console.json({"terminate": [process_document(i.process) for i in observed.survey.stale]})
        return ExitStatus.DONE
    for instance in observed.survey.stale:
        console.out(f"would terminate {describe(instance.process)}")
    if not observed.survey.stale:
        console.out(f"not running: no instance of {found.script} on port {found.port}")
    return ExitStatus.DONE


def _wait(arguments: Arguments, found: settings.Settings, environ: Mapping[str, str], console: Console) -> int:
    from .instances.describe import process_document
    from .operations import readiness

    seconds = readiness.DEFAULT_SECONDS if arguments.timeout is None else arguments.timeout
    pid = readiness.main_pid(arguments.pid, environ)
    ready = readiness.wait(found, seconds) if pid is None else readiness.wait_for(pid, found, seconds)
    # Only now: why a launch has failed is for the launcher itself to tell.
    console = console._replace(report=_report(environ))
    console.say(f"ready: pid {ready.process.pid} answers at {ready.page.url} ({ready.seconds:.1f} s)")
    if console.as_json:
        console.json(
            {
                "instance": process_document(ready.process),
                "url": ready.page.url,
                "status": ready.page.status,
                "seconds": round(ready.seconds, 3),
            }
        )
    if arguments.open:
        from .operations.readiness import open_page

        open_page(ready.page.url, console, sys.executable)
    return ExitStatus.DONE


def _enter_demo(arguments: Arguments, environ: Mapping[str, str], console: Console) -> Mapping[str, str]:
    """Make the playground where a launch needs it, and leave out what the shell says of the user's own app."""
    from . import demo

    folder = _current_folder() / (arguments.app_dir or DEMO_FOLDER)
    arguments.app_dir = str(folder)
    if arguments.command == LAUNCH and not arguments.dry_run:
        if importlib.util.find_spec("gradio") is None:
            raise requirements.missing(["gradio>=5"], "not installed, and the demo is a Gradio page,")
        made = demo.make_playground(folder)
        console.say(f"demo: {'made' if made else 'using'} {folder}")
    elif not folder.is_dir():
        raise LauncherError(f"there is no playground in {folder}", "start_app.py --demo makes and launches it")
    # Gradio was found in the launcher's own environment: one that the shell has active need not have it.
    left_out = ("HF_", "HUGGINGFACE_", "APP_", "VIRTUAL_ENV", "CONDA_PREFIX")
    return {name: value for name, value in environ.items() if not name.startswith(left_out)}


def _report(environ: Mapping[str, str]) -> Callable[[str], None] | None:
    """Return what tells systemd how it goes, where it listens."""
    if "NOTIFY_SOCKET" not in environ:
        return None
    from .service.sd_notify import reporter

    return reporter(environ)


def _context(arguments: Arguments) -> tuple[tuple[str, str], ...]:
    """Return the given options that say which app and port are meant, as they would be typed again."""
    given = (("--app-dir", arguments.app_dir), ("--env-file", arguments.env_file), ("--port", arguments.port))
    demo = (("--demo", "--demo"),) if arguments.demo else ()
    return (*demo, *((name, shlex.join((name, value))) for name, value in given if value))


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise LauncherError("the current folder is no longer there", "cd to a folder that is, and try again") from error


def _flags(arguments: Arguments) -> Mapping[str, str]:
    given = {
        "APP_DIR": arguments.app_dir,
        "APP_PYTHON": arguments.python,
        "GRADIO_SERVER_PORT": arguments.port,
        "GRADIO_SERVER_NAME": arguments.host,
        "APP_LOCKED": "1" if arguments.locked else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _folders(launcher_file: str | None) -> tuple[Path, ...]:
    if launcher_file is None:
        return ()
    called, real = os.path.abspath(launcher_file), os.path.realpath(launcher_file)
    return tuple(dict.fromkeys(Path(path).parent for path in (called, real)))


def _console(words: list[str]) -> Console:
    # Errors of the command line itself must obey these already.
    ours = words[: words.index("--")] if "--" in words else words
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            _make_safe(stream)
    colour = sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return Console(
        stdout=sys.stdout,
        stderr=sys.stderr,
        stdin=sys.stdin,
        quiet="-q" in ours or "--quiet" in ours,
        verbose="-v" in ours or "--verbose" in ours,
        as_json="--json" in ours,
        colour=colour and os.environ.get("TERM") != "dumb",
    )


def _make_safe(stream: TextIO) -> None:
    # A path may hold letters that the terminal's encoding lacks.
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="backslashreplace")


def _flushed(console: Console, status: ExitStatus) -> ExitStatus:
    try:
        console.flush()
    except OSError:
        _abandon_stdout()
    return status


def _abandon_stdout() -> None:
    # Python flushes stdout once more at exit, and would complain about the same broken pipe.
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass  # there is no stdout to give up


def _reason(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    return f"cannot read or write{where}: {(error.strerror or str(error)).lower()}"


def _space_hint(error: OSError) -> str:
    return f"df -h {error.filename or '.'}; ls -ld {error.filename or '.'}"
