"""Every command and every option, declared once: the parser, the help, the completion and docs/commands.md read this.

A new command is one more `Command` in `_COMMANDS`: its name, its summary, its own options in groups, two examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import ExitStatus
from . import typed
from .typed import LAUNCH


class Option(NamedTuple):
    """Hold one option: its names, what argparse needs, and what a shell completes its value with.

    `completes` is `dir`, `file`, `repo` or nothing; `choices` of argparse are completed as they are.
    """

    names: tuple[str, ...]
    keywords: Mapping[str, Any]
    completes: str = ""

    @property
    def takes_value(self) -> bool:
        """Return whether a value follows the option."""
        return self.keywords.get("action") in (None, "append", "extend")

    @property
    def takes_values(self) -> bool:
        """Return whether several values follow the option."""
        return "nargs" in self.keywords

    @property
    def help(self) -> str:
        """Return what the option does."""
        text: str = self.keywords["help"]
        return text

    @property
    def label(self) -> str:
        """Return the option as help shows it: `-p, --port PORT`."""
        names = ", ".join(self.names)
        if not self.takes_value:
            return names
        metavar = self.keywords.get("metavar") or "|".join(self.keywords["choices"])
        return f"{names} {metavar}{'...' if self.takes_values else ''}"


class Command(NamedTuple):
    """Hold one command: its name, what it does, its own options in groups, and examples of what follows `start_app.py`.

    `repos` is how many repos can follow it, as in a regular expression: none, `*` or `+`. `app_arguments` is whether
    it hands what follows `--` to the app. `changes` is whether the history has what it did. A hidden command is for
    programs: no help names it.
    """

    name: str
    summary: str
    groups: Mapping[str, tuple[Option, ...]]
    examples: tuple[tuple[str, str], ...]
    repos: str = ""
    app_arguments: bool = False
    details: str = ""
    changes: bool = False
    hidden: bool = False

    @property
    def options(self) -> Iterator[Option]:
        """Yield the options that go with the command, the common ones last."""
        for group in (*self.groups.values(), *COMMON.values()):
            yield from group

    @property
    def usage(self) -> str:
        """Return what can follow `start_app.py`."""
        words = {"": "", "*": " [REPO...]", "+": " REPO..."}[self.repos]
        return f"{self.name} [OPTIONS]{words}{' [-- APP ARGUMENTS]' if self.app_arguments else ''}"


def _option(*names: str, completes: str = "", **keywords: Any) -> Option:
    return Option(names, keywords, completes)


def _flag(*names: str, help: str) -> Option:  # noqa: A002  # argparse's own word
    return Option(names, {"action": "store_true", "help": help})


def _timeout(text: str) -> Option:
    return _option("--timeout", metavar="SECONDS", type=typed.seconds, help=text)


# Which app
_APP_DIR = _option(
    "--app-dir", metavar="DIR", completes="dir", help="the app's folder (APP_DIR; default: where start_app.py is)"
)
_ENV_FILE = _option("--env-file", metavar="FILE", completes="file", help="read FILE instead of .env in that folder")
_HOST = _option("--host", metavar="HOST", help="the address that the app listens on (GRADIO_SERVER_NAME)")
_PORT = _option("-p", "--port", metavar="PORT", type=typed.port, help="the app's port (default: 7860)")
_DEMO = _flag("--demo", help="use the demo app in ./start_app_demo or in --app-dir")
# Output
_JSON = _flag("--json", help="print one JSON object on stdout")
_QUIET = _flag("-q", "--quiet", help="print only errors and warnings")
_VERBOSE = _flag("-v", "--verbose", help="also print where settings come from")
_VERSION = _flag("--version", help="show the version; with -v also those of Python and the libraries")
_HELP = _flag("-h", "--help", help="show this help")
_COMPLETION = _option(
    "--print-completion", metavar="SHELL", choices=("bash", "zsh"), help="print the completion script for bash or zsh"
)
# Stop and start
_TAKE_PORT = _flag("--take-port", help="stop whatever holds the port, if it is your own process")
_STOP_TIMEOUT = _option(
    "--stop-timeout",
    metavar="SECONDS",
    type=typed.seconds,
    help="how long to wait after SIGTERM before SIGKILL (default: 10)",
)
_PYTHON = _option(
    "--python", metavar="PATH", completes="file", help="the app's interpreter or virtual environment (APP_PYTHON)"
)
_BACKGROUND = _flag("--background", help="detach from the terminal; return when the page answers")
_LOG_FILE = _option(
    "--log-file",
    metavar="FILE",
    completes="file",
    help="write the app's output to FILE, replaced at each start (default with --background: in .start_app/logs/)",
)
_OPEN = _flag("--open", help="open a browser when the page answers")
_NO_LAUNCH = _flag("--no-launch", help="do everything except start the app")
_DRY_RUN = _flag("-n", "--dry-run", help="print what would happen and change nothing")
# Models of a launch
_CLEAR_CACHE = _flag("--clear-cache", help="start with an empty model cache")
_PRUNE_CACHE = _flag("--prune-cache", help="first remove unreferenced revisions and partial downloads")
_REMOVE_MODEL = _option(
    "--remove-model",
    metavar="REPO",
    action="extend",
    nargs="+",
    completes="repo",
    help="first remove these models from the cache",
)
_VERIFY = _flag("--verify", help="verify the cache first; if a file is damaged, exit 65 and keep the old instance")
_FORCE_REFRESH = _flag("--force-refresh", help="first pull the newest commit of every model")
_LOCKED = _flag("--locked", help="start with exactly the commits in models.lock")
# The cache
_OLDER_THAN = _option(
    "--older-than",
    metavar="SPAN",
    type=typed.span,
    help="also remove revisions unused for this long, such as 30d; units: m, h, d, w",
)
_MAX_SIZE = _option(
    "--max-size",
    metavar="SIZE",
    type=typed.size,
    help="also remove the least recently used revisions until the cache fits SIZE, such as 50G; units: B, K, M, G, T",
)
_KEEP = _option("--keep", metavar="REPO", action="append", completes="repo", help="never remove REPO; can be repeated")
_UNLOCKED = _flag("--unlocked", help="also remove everything that models.lock does not pin")
_FORCE = _flag("--force", help="also remove files that another process reads or downloads")
_YES = _flag("-y", "--yes", help="do not ask before removing from a cache that other programs share")
_REVISIONS = _flag("--revisions", help="print one line for each revision")
_FULL = _flag("--full", help="read every file again, also those verified before")
_REPAIR = _flag("--repair", help="remove damaged files and download them again")
# models.lock
_LOCAL_DIR = _option(
    "--local-dir", metavar="DIR", completes="dir", help="the folder of the app that the model's files are in"
)
_INCLUDE = _option("--include", metavar="GLOB", action="append", help="pin only matching files; can be repeated")
_EXCLUDE = _option("--exclude", metavar="GLOB", action="append", help="do not pin matching files; can be repeated")
_REMOVE = _flag("--remove", help="remove these models from models.lock")
# The service
_FOLLOW = _flag("-f", "--follow", help="keep printing new output")
_LINES = _option("--lines", metavar="N", type=typed.count, help="how many of the last lines to print (default: 50)")
_PID = _option(
    "--pid", metavar="PID", type=typed.pid, help="wait for the page of this process (default: MAINPID, set by systemd)"
)
_TEMPLATE = _flag("--template", help="print a unit for several instances, each named by its port")
_USER = _flag("--user", help="print a unit for systemctl --user")

COMMON: Mapping[str, tuple[Option, ...]] = {
    "which app": (_APP_DIR, _ENV_FILE, _HOST, _PORT, _DEMO),
    "output": (_JSON, _QUIET, _VERBOSE, _VERSION, _HELP),
}
_REMOVAL = (_DRY_RUN, _YES, _FORCE)
_PRUNING = (_OLDER_THAN, _MAX_SIZE, _KEEP, _UNLOCKED)
_REPO_HELP = "REPO is owner/name, owner/name@revision, a commit, or a quoted glob such as 'owner/*'."

_COMMANDS = (
    Command(
        LAUNCH,
        "restart the app (same as no command)",
        {
            "stop": (_TAKE_PORT, _STOP_TIMEOUT),
            "start": (
                _PYTHON,
                _BACKGROUND,
                _timeout("how long --background waits for the page (default: 600)"),
                _OPEN._replace(keywords={**_OPEN.keywords, "help": "with --background: open a browser at the end"}),
                _LOG_FILE,
                _NO_LAUNCH,
            ),
            "models": (_FORCE_REFRESH, _LOCKED, _VERIFY, _CLEAR_CACHE, _REMOVE_MODEL, _PRUNE_CACHE),
            "with --prune-cache": _PRUNING,
            "safety": _REMOVAL,
            "shell": (_COMPLETION,),
        },
        (
            ("--dry-run -v", "show what would happen, and where each setting comes from"),
            ("--port 7861 -- --fp16", "start on another port; everything after -- goes to the app"),
        ),
        app_arguments=True,
        changes=True,
    ),
    Command(
        "status",
        "show what runs on the port, and which cache and models it uses",
        {},
        (
            ("status", "show the instance on port 7860"),
            ("status --port 7861 --json", "the same for another port, for a script"),
        ),
    ),
    Command(
        "stop",
        "stop this app's instance",
        {"stop": (_STOP_TIMEOUT, _DRY_RUN)},
        (
            ("stop", "stop the instance on port 7860; exit 0 if none runs"),
            ("stop --dry-run", "print which processes would be stopped"),
        ),
        changes=True,
    ),
    Command(
        "wait",
        "wait until the instance's page answers",
        {"wait": (_timeout("how long to wait for the page (default: 600)"), _PID, _OPEN)},
        (
            ("wait --timeout 60", "wait for at most a minute"),
            ("wait --open", "open a browser when the page answers"),
        ),
    ),
    Command(
        "logs",
        "print what the instance has printed",
        {"lines": (_FOLLOW, _LINES)},
        (
            ("logs -f", "print the last 50 lines, then new output"),
            ("logs --lines 200", "print the last 200 lines"),
        ),
    ),
    Command(
        "history",
        "show who did what to this app, and when",
        {"lines": (_LINES,)},
        (
            ("history", "show the last 50 entries"),
            ("history --lines 10 --json", "the last ten, for a script"),
        ),
    ),
    Command(
        "unit",
        "print a systemd unit that keeps this app running",
        {"unit": (_TEMPLATE, _USER, _PYTHON, _LOCKED)},
        (
            ("unit", "print the unit, and the commands that install it"),
            ("unit --user -- --fp16", "the same for systemctl --user; the app gets --fp16"),
        ),
        app_arguments=True,
    ),
    Command(
        "cache list",
        "list the models in the cache, the largest first",
        {"list": (_REVISIONS,)},
        (
            ("cache list", "list every model, and what is wrong with it"),
            ("cache list --revisions 'koge/*'", "one line for each revision of some models"),
        ),
        repos="*",
        details=_REPO_HELP,
    ),
    Command(
        "cache remove",
        "remove models or revisions",
        {"safety": _REMOVAL},
        (
            ("cache remove --dry-run koge/voices", "show what would be removed, and how much space that frees"),
            ("cache remove koge/voices@v1 'old/*'", "remove one revision, and every model of an owner"),
        ),
        repos="+",
        details=_REPO_HELP,
        changes=True,
    ),
    Command(
        "cache clear",
        "remove every model",
        {"safety": _REMOVAL},
        (
            ("cache clear --dry-run", "show what would be removed"),
            ("cache clear --yes", "remove everything without a question"),
        ),
        changes=True,
    ),
    Command(
        "cache prune",
        "remove unreferenced revisions and partial downloads",
        {"what to remove": _PRUNING, "safety": _REMOVAL},
        (
            ("cache prune --dry-run", "show what would be removed, and how much space that frees"),
            ("cache prune --older-than 30d --max-size 50G", "also remove what was not used lately, down to 50 GB"),
        ),
        changes=True,
    ),
    Command(
        "cache verify",
        "check every file against its hash, offline",
        {"verify": (_FULL, _REPAIR), "safety": _REMOVAL},
        (
            ("cache verify", "exit 65 if a file is damaged"),
            ("cache verify --repair koge/voices", "download the damaged files of one model again"),
        ),
        repos="*",
        details=_REPO_HELP,
        changes=True,
    ),
    Command(
        "models check",
        "compare the local models with the mirror and the Hub",
        {"hub": (_timeout("how long to wait for each answer of a hub (default: 10)"),)},
        (
            ("models check", "exit 80 if a model is out of date"),
            ("models check koge/voices --json", "check one model, for a script"),
        ),
        repos="*",
    ),
    Command(
        "models lock",
        "pin models in models.lock; without REPO, pin the newest commit of every model in it",
        {
            "lock": (_LOCAL_DIR, _INCLUDE, _EXCLUDE, _REMOVE, _DRY_RUN),
            "hub": (_timeout("how long to wait for each answer of a hub (default: 10)"),),
        },
        (
            ("models lock koge/voices@v2", "pin one revision of a model"),
            ("models lock koge/voices --local-dir checkpoints --exclude '*.md'", "pin files that are in a folder"),
        ),
        repos="*",
        changes=True,
    ),
    Command(
        "models pull",
        "download what models.lock pins; without a lock, the newest commit of every model",
        {"pull": (_DRY_RUN, _timeout("how long a download can stall before it fails (default: 60)"))},
        (
            ("models pull --dry-run", "show what would be downloaded"),
            ("models pull koge/voices", "download one model"),
        ),
        repos="*",
        changes=True,
    ),
    Command("cache names", "print the names of the cached repos, for completion", {}, (), hidden=True),
)
TABLE: Mapping[str, Command] = {command.name: command for command in _COMMANDS}
# What a command line with one of these words alone lists.
GROUPS: Mapping[str, str] = {
    "cache": "models in the cache",
    "models": "models.lock and the hubs",
}
# Of the last word of a command.
ALIASES: Mapping[str, str] = {"ls": "list", "rm": "remove", "restart": LAUNCH}
COMMANDS: Mapping[str, str] = {command.name: command.summary for command in _COMMANDS if not command.hidden}
CHANGING = frozenset(command.name for command in _COMMANDS if command.changes)
OPTIONS: Mapping[str, Option] = {
    name: option
    for groups in (COMMON, *(command.groups for command in _COMMANDS))
    for options in groups.values()
    for option in options
    for name in option.names
}
# What the first screen shows.
MOST_USED = (
    _APP_DIR, _PORT, _TAKE_PORT, _BACKGROUND, _DRY_RUN, _CLEAR_CACHE, _FORCE_REFRESH, _LOCKED, _JSON, _VERBOSE,
)  # fmt: skip
FIRST_EXAMPLES = (
    ("", "restart the app in this folder"),
    ("--dry-run -v", "show what would happen, and why"),
    ("-- --fp16", "everything after -- goes to the app"),
    ("--background", "start it, and return when its page answers"),
    ("cache prune", "free disk space"),
)
EXIT_STATUSES: Mapping[ExitStatus, str] = {
    ExitStatus.DONE: "done",
    ExitStatus.BUG: "bug",
    ExitStatus.USAGE: "usage",
    ExitStatus.DAMAGED: "verification failed",
    ExitStatus.TAKEN: "the port or the instance is somebody else's",
    ExitStatus.IO: "cannot read, write or delete",
    ExitStatus.RETRY: "try again",
    ExitStatus.DENIED: "not permitted",
    ExitStatus.CONFIG: "configuration",
    ExitStatus.STALE: "a model is out of date",
    ExitStatus.INTERRUPTED: "interrupted",
}


def listed() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield (command, option names, help) for every option of every command that help shows."""
    for name in COMMANDS:
        for option in TABLE[name].options:
            yield name, option.names, option.help
