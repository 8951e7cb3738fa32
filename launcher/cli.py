"""The edge: the only reader of argv and the environment, and the only catcher of errors.

Commands return reports; this module shows them as text or as one JSON object.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TextIO

from .arguments import CHANGING, LAUNCHING, Arguments, parse
from .config import settings
from .config.paths import current_folder
from .context import Context, Report
from .errors import ExitStatus, LauncherError, quoted
from .system import marker, requirements
from .ui import invocation, text
from .ui.console import Console
from .ui.invocation import Invocation

# These commands need no script: a cache can be freed before the app exists, and init finds the script.
_WITHOUT_SCRIPT = ("cache ", "models ", "history", "init", "ended")
# It reports what makes the other commands refuse.
_TOLERANT = "doctor"
# These only show something, and show it with an invalid setting that they do not need.
_NEEDS = {"status": settings.INSTANCE_NAMES, "logs": settings.INSTANCE_NAMES, "history": ("APP_DIR",)}
# One module serves all removals: only the plan differs.
_MODULES = {"cache clear": "cache_remove", "cache prune": "cache_remove"}


def main(argv: Sequence[str] | None = None, launcher_file: str | None = None) -> int:
    """Run one command and return its exit status; a launch does not return, because the process becomes the app.

    `launcher_file` is the called `start_app.py`, as it was named.
    """
    os.environ.pop(marker.NAME, None)  # our children do not belong to the instance that called us
    words = tuple(sys.argv[1:] if argv is None else argv)
    program = invocation.program(launcher_file, sys.argv[0])
    called = Invocation(program, invocation.typed(words), launcher_file, words, partial(_repeated, words))
    console = _console(words)._replace(invocation=called)
    try:
        arguments = parse(words)
        console = console._replace(invocation=called._replace(options=_options(arguments)))
        console = console._replace(
            quiet=arguments.quiet,
            verbose=arguments.verbose,
            as_json=arguments.json,
            report=_reporter(os.environ) if arguments.command in LAUNCHING and not arguments.dry_run else None,
        )
        status = _run(arguments, console)
        console.flush()
        return status
    except LauncherError as error:
        console.error(error)
        return _flushed(console, error.status)
    except KeyboardInterrupt:
        _flushed(console, ExitStatus.INTERRUPTED)
        raise  # the entry reports it once, even if another interrupt follows
    except BrokenPipeError:
        _abandon_stdout()  # the reader of stdout has closed it
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


def _run(arguments: Arguments, console: Console) -> int:
    launcher_file = console.invocation.launcher_file
    folders = _folders(launcher_file)
    program = console.invocation.program
    name = "python -m launcher" if program.endswith("-m launcher") else program.rpartition("/")[2].rpartition(" ")[2]
    if arguments.help or arguments.version:
        from .commands import help as helping

        console.text(
            helping.version(name, arguments.verbose) if arguments.version else helping.text(arguments.topic, name)
        )
        return ExitStatus.DONE
    if arguments.print_completion:
        from .commands import completion

        console.text(completion.script(arguments.print_completion))
        return ExitStatus.DONE
    tolerant = arguments.command == _TOLERANT
    if not tolerant:
        app_dirs = (Path(arguments.app_dir),) if arguments.app_dir else (Path(), *folders)
        requirements.check(app_dirs, console.invocation.again())
    environ: Mapping[str, str] = dict(os.environ)
    if arguments.demo:
        from .commands import demo

        environ = demo.enter(arguments, environ, console)
    searched = () if arguments.demo else folders
    call = settings.Call(_cwd(tolerant), searched, arguments.env_file, arguments.app_args)
    problems: tuple[LauncherError, ...] = ()
    if tolerant:
        from .config import lenient

        loaded, problems = lenient.load(_flags(arguments), environ, call)
    else:
        loaded = _loaded(arguments, environ, call, console)
        _warn(loaded, arguments.command, console)
    context = Context(arguments, loaded, environ, console, lambda report: _show(report, console), problems)
    report = _reported(context)
    _show(report, console)
    return report.status


def _cwd(tolerant: bool) -> Path:
    try:
        return current_folder()
    except LauncherError:
        if tolerant:  # it is one of the findings
            return Path(os.sep)
        raise


def _warn(loaded: settings.Settings, command: str, console: Console) -> None:
    """Show what is odd in the settings."""
    for warning in loaded.warnings:
        console.warn(warning)
    if loaded.foreign is not None and (command in CHANGING or command.startswith("models ")):
        owner = text.user(loaded.foreign)
        console.say(
            f"{loaded.env_file} belongs to {owner}: for you, it sets no token, runs no code and allows no removal"
        )
        console.hint(f"start_app.py {shlex.join(('--env-file', str(loaded.env_file)))} trusts it")


def _loaded(
    arguments: Arguments, environ: Mapping[str, str], call: settings.Call, console: Console
) -> settings.Settings:
    """Return the settings; a command that only shows something ignores invalid ones that it does not need."""
    flags, needs_script = _flags(arguments), not arguments.command.startswith(_WITHOUT_SCRIPT)
    try:
        return settings.load(flags, environ, call, needs_script=needs_script)
    except LauncherError:
        if arguments.command not in _NEEDS:
            raise
    from .config import lenient

    needs = _NEEDS[arguments.command]
    loaded, problems = lenient.load_needed(flags, environ, call, needs, needs_script=needs_script)
    for problem in problems:
        console.warn(f"ignored: {problem.message}")
    return loaded


def _reported(context: Context) -> Report:
    """Run the command; record its refusal in the history if it changes something; a launch does that itself."""
    command = context.arguments.command
    if command in LAUNCHING or command.startswith("cache "):
        gc.disable()  # there are few cycles, and searching many objects for them takes long
    module = _MODULES.get(command, command.replace(" ", "_"))
    run: Callable[[Context], Report] = importlib.import_module(f".commands.{module}", __package__).run
    if command in LAUNCHING or context.arguments.dry_run or command not in CHANGING:
        return run(context)
    from .service import history

    with history.refusals(context.settings, command):
        return run(context)


def _show(report: Report, console: Console) -> None:
    """Show a report: the only place that turns one into text or JSON."""
    if console.as_json:
        document = report.document()
        if document is not None:
            told = console.problem(report.problem) if report.problem else {}
            console.json({**told, **document})
    else:
        for line in report.lines():
            console.out(line)
    if report.problem:
        console.tell_error(report.problem)
    elif report.hint:
        console.hint(report.hint)


def _reporter(environ: Mapping[str, str]) -> Callable[[str], None] | None:
    """Return the reporter of progress to systemd, if it listens."""
    if "NOTIFY_SOCKET" not in environ:
        return None
    from .service.sd_notify import reporter

    return reporter(environ)


def _options(arguments: Arguments) -> tuple[tuple[str, str], ...]:
    """Return the given options for the app and the port, as they would be typed again."""
    given = (("--app-dir", arguments.app_dir), ("--env-file", arguments.env_file), ("--port", arguments.port))
    demo = (("--demo", "--demo"),) if arguments.demo else ()
    return (*demo, *((name, shlex.join((name, value))) for name, value in given if value))


def _repeated(words: Sequence[str], options: str) -> str:
    from .arguments.repeated import repeated  # few hints need it

    return repeated(words, options)


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


def _console(words: Sequence[str]) -> Console:
    # Errors of the command line itself must already respect these options.
    ours = invocation.own_words(words)
    for stream in (sys.stdout, sys.stderr):
        _make_safe(stream, "backslashreplace")
    _make_safe(sys.stdin, "surrogateescape")  # a person may type any bytes
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    coloured = [stream is not None and stream.isatty() and not plain for stream in (sys.stdout, sys.stderr)]
    return Console(
        stdout=sys.stdout,
        stderr=sys.stderr,
        stdin=sys.stdin,
        quiet="-q" in ours or "--quiet" in ours,
        verbose="-v" in ours or "--verbose" in ours,
        as_json="--json" in ours,
        colour=coloured[1],
        colour_out=coloured[0],
    )


def _make_safe(stream: TextIO | None, errors: str) -> None:
    # A path may contain letters that the terminal's encoding lacks.
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure:
        with suppress(OSError):  # a stream that our caller has read from stays as it is
            reconfigure(errors=errors)


def _flushed(console: Console, status: ExitStatus) -> ExitStatus:
    try:
        console.flush()
    except OSError:
        _abandon_stdout()
    return status


def _abandon_stdout() -> None:
    # Python flushes stdout again at exit, and would complain about the same broken pipe.
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass  # stdout is already closed


def _reason(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    return f"cannot read or write{where}: {(error.strerror or str(error)).lower()}"


def _space_hint(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "ulimit -n 1024"
    path = quoted(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) and error.filename else "."
    return f"df -h {path}; ls -ld {path}"
