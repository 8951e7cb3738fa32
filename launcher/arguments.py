"""The command line: one table of options, each with the commands it goes with.

Options stand before or after the command. Everything after `--` is the app's and is never looked at here.
"""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from . import __version__
from .errors import ExitStatus, LauncherError, quoted
from .ui.text import parsed_duration, parsed_size

LAUNCH = "launch"
COMMANDS = {
    LAUNCH: "restart the app (no command does this)",
    "status": "tell what runs on the port",
    "stop": "stop this app's instance",
    "wait": "return when the instance's page answers",
    "logs": "what the instance has printed; -f follows it",
    "history": "who did what to this app, and when",
    "unit": "print a systemd unit for this app",
    "cache list": "what is in the model cache, the largest first [REPO…]",
    "cache remove": "remove models or revisions: REPO, REPO@REVISION, a commit, a glob",
    "cache clear": "remove every model",
    "cache prune": "remove what nothing can load any more",
    "cache verify": "hash what is there, offline [REPO…]",
    "models check": "compare what is here with the mirror and the Hub [REPO…]",
    "models lock": "pin models in models.lock: REPO, REPO@REVISION; alone, resolve all anew",
    "models pull": "make the disk match models.lock [REPO…]",
}
# What these have done, or were refused, is told by `history`.
CHANGING = frozenset(
    (LAUNCH, "stop", "cache remove", "cache clear", "cache prune", "cache verify", "models lock", "models pull")
)
EVERY = frozenset(COMMANDS)
_WIDTH = 100
_LAUNCH = frozenset((LAUNCH,))
_UNIT = frozenset(("unit",))
_REMOVING = frozenset(("cache remove", "cache clear", "cache prune"))
_PRUNING = frozenset((LAUNCH, "cache prune"))
_VERIFY = frozenset(("cache verify",))
_LOCK = frozenset(("models lock",))
_ASKING = frozenset(("models check", "models lock", "models pull"))
# What may be said of some commands only, and is no command by itself.
_GROUPS = frozenset(name.partition(" ")[0] for name in COMMANDS if " " in name)
_NAMES_REPOS = frozenset(("cache list", "cache remove", "cache verify")) | _ASKING

EXAMPLES = """\
examples:
  start_app.py                          restart the app of this folder on port 7860
  start_app.py --port 7861              the same on another port; an instance on 7860 stays
  start_app.py -n -v                    show what would happen, and where each setting comes from
  start_app.py -- --fp16                everything after -- goes to the app
  start_app.py --clear-cache            the same with an empty model cache
  start_app.py --remove-model koge/v22  the same without one model
  start_app.py --force-refresh          the same with the newest commit of every model
  start_app.py models check             is it the newest one, by the mirror and by the Hub
  start_app.py models lock koge/v23     pin it in models.lock; --locked then starts with exactly that
  start_app.py cache list               which models are there, and what is wrong with them
  start_app.py --background             start it apart from this terminal; return when the page answers
  start_app.py logs -f                  what it prints; start_app.py history: who did what, and when
  start_app.py status                   what runs, and which cache and endpoint it uses
  start_app.py wait --timeout 600       until the page answers
  start_app.py unit                     a systemd unit that keeps it running
  start_app.py --demo                   try it all on a playground of its own
"""
EXIT_STATUSES = """\
exit status: 0 done; 2 usage; 65 a model or the cache fails verification; 69 the port or the instance is somebody
else's; 74 cannot read, write or delete; 75 try again; 77 not permitted; 78 configuration; 80 `models check` found
something stale; 130 interrupted; after exec, the app's own.
"""


class Option(NamedTuple):
    """Hold one option: its names, the commands it goes with, and what argparse needs."""

    names: tuple[str, ...]
    commands: frozenset[str]
    keywords: dict[str, Any]


class Arguments(argparse.Namespace):
    """Hold the parsed command line, typed."""

    command: str = LAUNCH
    app_args: tuple[str, ...] = ()
    repos: tuple[str, ...] = ()
    app_dir: str | None
    env_file: str | None
    python: str | None
    host: str | None
    port: str | None
    take_port: bool
    stop_timeout: float
    timeout: float | None
    background: bool
    log_file: str | None
    open: bool
    follow: bool
    lines: int | None
    no_launch: bool
    clear_cache: bool
    prune_cache: bool
    remove_model: list[str] | None
    verify: bool
    force_refresh: bool
    locked: bool
    unlocked: bool
    local_dir: str | None
    include: list[str] | None
    exclude: list[str] | None
    remove: bool
    older_than: float | None
    max_size: int | None
    keep: list[str] | None
    force: bool
    yes: bool
    revisions: bool
    full: bool
    repair: bool
    dry_run: bool
    json: bool
    quiet: bool
    verbose: bool
    demo: bool
    help: bool
    version: bool
    pid: int | None
    template: bool
    user: bool
    print_completion: str | None


def _seconds(value: str) -> float:
    seconds = float(value)
    if not math.isfinite(seconds) or not 0 <= seconds <= 86400:
        raise ValueError(value)
    return seconds


def _count(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or len(value) > 9:
        raise ValueError(value)
    return int(value)


def _pid(value: str) -> int:
    pid = int(value)
    if not 0 < pid < 1 << 31:
        raise ValueError(value)
    return pid


def _duration(value: str) -> float:
    return parsed_duration(value)


def _size(value: str) -> int:
    return parsed_size(value)


_pid.__name__ = "process id"
_duration.__name__ = "time span such as 30d"
_size.__name__ = "size such as 50G"
_count.__name__ = "number of lines"
_seconds.__name__ = "number of seconds"  # argparse shows it: invalid number of seconds value: 'x'


def _option(*names: str, commands: frozenset[str] = EVERY, **keywords: Any) -> Option:
    return Option(names, commands, keywords)


OPTIONS = (
    _option("--app-dir", metavar="DIR", help="the app's folder (APP_DIR; default: where start_app.py lies, or here)"),
    _option("--env-file", metavar="FILE", help="the .env to read (default: the one in the app's folder)"),
    _option(
        "--python",
        metavar="PATH",
        commands=_LAUNCH | _UNIT,
        help="the app's interpreter or its environment (APP_PYTHON)",
    ),
    _option("--host", help="the address the app listens on (GRADIO_SERVER_NAME)"),
    _option("-p", "--port", help="the app's port (GRADIO_SERVER_PORT; default: 7860)"),
    _option("--take-port", commands=_LAUNCH, action="store_true", help="stop whoever of this user holds the port"),
    _option(
        "--stop-timeout",
        commands=frozenset((LAUNCH, "stop")),
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="how long SIGTERM may take before SIGKILL (default: 10)",
    ),
    _option(
        "--timeout",
        commands=frozenset((LAUNCH, "wait")) | _ASKING,
        metavar="SECONDS",
        type=_seconds,
        help="how long to wait for the page (default: 600), for a hub's answer (10), or until a pull's next bytes (60)",
    ),
    _option(
        "--background",
        commands=_LAUNCH,
        action="store_true",
        help="start it apart from this terminal, and return when its page answers",
    ),
    _option(
        "--log-file",
        commands=_LAUNCH,
        metavar="FILE",
        help="where its output goes, a new file each time (with --background: .start_app/logs/ unless said)",
    ),
    _option(
        "--open",
        commands=frozenset((LAUNCH, "wait")),
        action="store_true",
        help="open a browser when the page answers, with --background or wait",
    ),
    _option("-f", "--follow", commands=frozenset(("logs",)), action="store_true", help="show what comes, too"),
    _option(
        "--lines",
        commands=frozenset(("logs", "history")),
        metavar="N",
        type=_count,
        help="how many of the last lines (default: 50)",
    ),
    _option(
        "--pid",
        commands=frozenset(("wait",)),
        metavar="PID",
        type=_pid,
        help="wait for the page of this very process (default: MAINPID, which systemd sets)",
    ),
    _option(
        "--template", commands=_UNIT, action="store_true", help="a unit for several instances, named by their port"
    ),
    _option("--user", commands=_UNIT, action="store_true", help="a unit for systemctl --user"),
    _option("--no-launch", commands=_LAUNCH, action="store_true", help="do all but start the app"),
    _option("--clear-cache", commands=_LAUNCH, action="store_true", help="start with an empty model cache"),
    _option("--prune-cache", commands=_LAUNCH, action="store_true", help="first remove what nothing can load any more"),
    _option(
        "--remove-model",
        commands=_LAUNCH,
        metavar="REPO",
        action="extend",
        nargs="+",
        help="first remove these models",
    ),
    _option("--verify", commands=_LAUNCH, action="store_true", help="first verify the cache; damage stops nothing"),
    _option(
        "--force-refresh",
        commands=_LAUNCH,
        action="store_true",
        help="first pull the newest commit of every model, while the old instance serves",
    ),
    _option(
        "--locked",
        commands=_LAUNCH | _UNIT,
        action="store_true",
        help="start with exactly what models.lock pins (APP_LOCKED)",
    ),
    _option(
        "--older-than",
        commands=_PRUNING,
        metavar="SPAN",
        type=_duration,
        help="prune what is unused for so long: 30d",
    ),
    _option(
        "--max-size", commands=_PRUNING, metavar="SIZE", type=_size, help="prune the least used, down to this: 50G"
    ),
    _option("--keep", commands=_PRUNING, metavar="REPO", action="append", help="never prune this one"),
    _option("--unlocked", commands=_PRUNING, action="store_true", help="prune what models.lock does not name"),
    _option("--local-dir", commands=_LOCK, metavar="DIR", help="the model lies in this folder of the app's"),
    _option("--include", commands=_LOCK, metavar="GLOB", action="append", help="pin only files that fit"),
    _option("--exclude", commands=_LOCK, metavar="GLOB", action="append", help="do not pin files that fit"),
    _option("--remove", commands=_LOCK, action="store_true", help="take these models out of models.lock"),
    _option("--force", commands=_REMOVING | _VERIFY | _LAUNCH, action="store_true", help="remove even what is in use"),
    _option(
        "-y",
        "--yes",
        commands=_REMOVING | _VERIFY | _LAUNCH,
        action="store_true",
        help="also from a cache that others share",
    ),
    _option("--revisions", commands=frozenset(("cache list",)), action="store_true", help="a line for each revision"),
    _option("--full", commands=_VERIFY, action="store_true", help="read again what is remembered as whole"),
    _option("--repair", commands=_VERIFY, action="store_true", help="remove what is damaged, to be downloaded anew"),
    _option(
        "-n",
        "--dry-run",
        commands=_REMOVING | _VERIFY | frozenset((LAUNCH, "stop", "models lock", "models pull")),
        action="store_true",
        help="show it, change nothing",
    ),
    _option("--demo", action="store_true", help="work on a playground, made in ./start_app_demo unless --app-dir says"),
    _option("--json", action="store_true", help="one JSON object on stdout"),
    _option("-q", "--quiet", action="store_true", help="errors and warnings only"),
    _option("-v", "--verbose", action="store_true", help="where settings come from, and who was left alone and why"),
    _option(
        "--print-completion",
        commands=_LAUNCH,
        choices=("bash", "zsh"),
        help="show the script that completes commands and options in this shell",
    ),
    _option("--version", action="store_true", help="show the version"),
    _option("-h", "--help", action="store_true", help="show this help"),
)


class _Parser(argparse.ArgumentParser):
    def _get_formatter(self) -> argparse.HelpFormatter:
        # Every option is tried on a formatter, which would ask for the terminal's width, and import shutil for that.
        return argparse.HelpFormatter(self.prog, width=_WIDTH)

    def error(self, message: str) -> NoReturn:
        raise LauncherError(message, "start_app.py --help", ExitStatus.USAGE)


def parse(argv: Sequence[str]) -> Arguments:
    """Read a command line.

    Raises LauncherError with status USAGE; an option that is not ours is named, with the way to hand it to the app.
    """
    split = list(argv).index("--") if "--" in argv else len(argv)
    ours, theirs = list(argv[:split]), tuple(argv[split + 1 :])
    arguments, rest = _parser().parse_known_args(ours, Arguments())
    arguments.command, arguments.repos = _command(rest)
    arguments.app_args = theirs
    _refuse_misplaced(arguments, ours)
    if theirs and arguments.command not in (LAUNCH, "unit"):
        raise LauncherError(
            f"{arguments.command} takes no arguments for the app", "start_app.py -- ARGUMENTS", ExitStatus.USAGE
        )
    return arguments


def _command(rest: list[str]) -> tuple[str, tuple[str, ...]]:
    """Return the command that these words are, and the repos that follow it."""
    words = [word for word in rest if not word.startswith("-") or word == "-"]
    grouped = bool(words) and words[0] in _GROUPS
    name = " ".join(words[: 2 if grouped else 1]) or LAUNCH
    if grouped and name not in COMMANDS:
        ways = ", ".join(command for command in COMMANDS if command.startswith(f"{words[0]} "))
        first = ways.partition(",")[0]
        what = f"unknown command {name!r}" if len(words) > 1 else f"{name} alone is no command"
        raise LauncherError(what, f"start_app.py {first}; {ways}", ExitStatus.USAGE)
    repos = tuple(words[len(name.split()) :]) if words else ()
    if grouped and name not in _NAMES_REPOS and repos:
        raise LauncherError(
            f"{name} takes the whole cache, not {' '.join(repos)}",
            f"start_app.py cache remove {shlex.join(repos)}",
            ExitStatus.USAGE,
        )
    if name not in _NAMES_REPOS:
        _refuse_unknown(rest if not grouped else [word for word in rest if word not in words[:2]])
        if len(words) > len(name.split()):
            raise LauncherError(
                f"one command at a time: {' '.join(rest)}", "the app's own arguments go after --", ExitStatus.USAGE
            )
        return name, ()
    _refuse_unknown([word for word in rest if word not in words])
    if name == "cache remove" and not repos:
        raise LauncherError("cache remove wants to know what", "start_app.py cache list", ExitStatus.USAGE)
    return name, repos


def help_text(program: str) -> str:
    """Return the help: examples first, then commands, options and exit statuses."""
    commands = "\n".join(f"  {name:<22}{what}" for name, what in COMMANDS.items())
    options = _parser().format_help().partition("options:\n")[2]
    head = f"usage: {program} [COMMAND] [OPTIONS] [-- APP ARGUMENTS]"
    examples = EXAMPLES.replace("start_app.py", program)
    return f"{head}\n\n{examples}\ncommands:\n{commands}\n\noptions:\n{options}\n{EXIT_STATUSES}"


def version_text(program: str) -> str:
    """Return the version line."""
    return f"{program} {__version__}"


def _parser() -> _Parser:
    parser = _Parser(prog="start_app.py", add_help=False, allow_abbrev=False)
    for option in OPTIONS:
        parser.add_argument(*option.names, **option.keywords)
    return parser


def _refuse_unknown(rest: list[str]) -> None:
    for position, word in enumerate(rest):
        if word.startswith("-") and word != "-":
            after = rest[position + 1 : position + 2]
            value = [w for w in after if not w.startswith("-") and w not in COMMANDS]
            shown = " ".join(("start_app.py --", word, *value))
            raise LauncherError(
                f"unknown option {word}",
                f"{_meant(word)}if it is the app's own, put it after --: {shown}",
                ExitStatus.USAGE,
            )
        if word not in COMMANDS:
            raise LauncherError(
                f"unknown command {word!r}",
                f"{_meant(word)}commands: {', '.join(COMMANDS)}; the app's own arguments go after --: "
                f"start_app.py -- {quoted(word)}",
                ExitStatus.USAGE,
            )


def _meant(word: str) -> str:
    """Return the guess that a hint begins with, or nothing."""
    import difflib

    bare = word.lstrip("-").partition("=")[0]
    if bare in ("start", "restart", "run"):
        return "to restart the app, give no command: start_app.py; "
    if bare in COMMANDS:
        return f"did you mean the command {bare}? "
    names = [name for option in OPTIONS for name in option.names if name.startswith("--")]
    close = difflib.get_close_matches(f"--{bare}" if word.startswith("-") else bare, (*names, *COMMANDS), 1, 0.75)
    return f"did you mean {close[0]}? " if close else ""


def _refuse_misplaced(arguments: Arguments, ours: list[str]) -> None:
    given = {word.partition("=")[0] for word in ours}
    for option in OPTIONS:
        name = option.names[-1]
        # Of short options in one word, `-vn`, only the parsed value tells.
        changed = getattr(arguments, name.lstrip("-").replace("-", "_")) not in (
            None,
            False,
            option.keywords.get("default"),
        )
        if (changed or not given.isdisjoint(option.names)) and arguments.command not in option.commands:
            places = " or ".join(sorted(option.commands))
            raise LauncherError(
                f"{name} does not go with {arguments.command}, only with {places}",
                f"start_app.py {arguments.command} --help",
                ExitStatus.USAGE,
            )
