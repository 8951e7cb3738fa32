"""Declare every command once: the parser, the help, the completion and docs/commands.md read this table.

A new command is one more `Command` in `_COMMANDS`: its name, its summary, its own options in groups, two examples. A
new option is declared in `options` first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..errors import ExitStatus
from . import options as own
from .options import Option
from .typed import LAUNCH


class Command(NamedTuple):
    """Hold one command: its name, its summary, its own options in groups, and examples without `start_app.py`.

    `repos` is the number of repos that can follow it, as in a regular expression: none, `*` or `+`; for one word of
    another kind, it is that word's name: `DIR`. `app_arguments` means that it passes the words after `--` to the app.
    `changes` means that it is recorded in the history. A hidden command is for programs: no help names it.
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
        """Yield the options of the command, the common ones last."""
        for group in (*self.groups.values(), *COMMON.values()):
            yield from group

    @property
    def usage(self) -> str:
        """Return the words that can follow `start_app.py`."""
        words = {"": "", "*": " [REPO...]", "+": " REPO..."}.get(self.repos, f" {self.repos}")
        return f"{self.name} [OPTIONS]{words}{' [-- APP ARGUMENTS]' if self.app_arguments else ''}"


COMMON: Mapping[str, tuple[Option, ...]] = {
    "which app": (own.APP_DIR, own.ENV_FILE, own.HOST, own.PORT, own.DEMO),
    "output": (own.JSON, own.QUIET, own.VERBOSE, own.VERSION, own.HELP),
}
_REMOVAL = (own.DRY_RUN, own.YES, own.FORCE)
_PRUNING = (own.OLDER_THAN, own.MAX_SIZE, own.KEEP, own.UNLOCKED)
_REPO_HELP = "REPO is owner/name, owner/name@revision, a commit, or a quoted glob such as 'owner/*'."

_COMMANDS = (
    Command(
        LAUNCH,
        "restart the app (same as no command)",
        {
            "stop": (own.TAKE_PORT, own.STOP_TIMEOUT),
            "start": (
                own.PYTHON,
                own.BACKGROUND,
                own.timeout("how long --background waits for the page (default: 600)"),
                own.OPEN_IN_BACKGROUND,
                own.LOG_FILE,
                own.NO_LAUNCH,
                own.IF_DOWN,
                own.NO_ROLLBACK,
            ),
            "models": (
                own.FORCE_REFRESH,
                own.LOCKED,
                own.NO_WARM,
                own.VERIFY,
                own.CLEAR_CACHE,
                own.REMOVE_MODEL,
                own.PRUNE_CACHE,
            ),
            "with --prune-cache": _PRUNING,
            "safety": (own.DRY_RUN, own.YES, own.FORCE_IN_LAUNCH),
            "shell": (own.COMPLETION,),
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
        {"stop": (own.STOP_TIMEOUT, own.DRY_RUN)},
        (
            ("stop", "stop the instance on port 7860; exit 0 if none runs"),
            ("stop --dry-run", "print which processes would be stopped"),
        ),
        changes=True,
    ),
    Command(
        "wait",
        "wait until the instance's page answers",
        {"wait": (own.timeout("how long to wait for the page (default: 600)"), own.PID, own.OPEN)},
        (
            ("wait --timeout 60", "wait for at most a minute"),
            ("wait --open", "open a browser when the page answers"),
        ),
    ),
    Command(
        "logs",
        "print what the instance has printed",
        {"lines": (own.FOLLOW, own.LINES)},
        (
            ("logs -f", "print the last 50 lines, then new output"),
            ("logs --lines 200", "print the last 200 lines"),
        ),
    ),
    Command(
        "history",
        "show who did what to this app, and when",
        {"lines": (own.LINES,)},
        (
            ("history", "show the last 50 entries"),
            ("history --lines 10 --json", "the last ten, for a script"),
        ),
    ),
    Command(
        "doctor",
        "find what is wrong or odd, and the command that helps",
        {"doctor": (own.REPORT, own.timeout("how long the checks may take together (default: 2.2)"))},
        (
            ("doctor", "exit 0 if nothing is wrong; what is only odd does not count"),
            ("doctor --report", "print Markdown for a bug report, secrets masked"),
        ),
    ),
    Command(
        "rollback",
        "go back to the last models and arguments that ran well",
        {
            "stop": (own.TAKE_PORT, own.STOP_TIMEOUT),
            "start": (
                own.BACKGROUND,
                own.timeout("how long --background waits for the page (default: 600)"),
                own.OPEN_IN_BACKGROUND,
                own.LOG_FILE,
                own.DRY_RUN,
            ),
        },
        (
            ("rollback --dry-run", "show what would be started"),
            ("rollback --background", "start it, and return when its page answers"),
        ),
        changes=True,
    ),
    Command(
        "init",
        "write this app's settings into .env, each with its reason",
        {"safety": (own.DRY_RUN, own.YES_TO_LINES)},
        (
            ("init", "show the lines, and ask before they are written"),
            ("init --yes", "write them without a question, for a script"),
        ),
        details="It reads the running instance, start scripts and the app's code, and runs none. Lines in .env stay.",
        changes=True,
    ),
    Command(
        "unit",
        "print a unit for systemd or supervisord that keeps this app running",
        {"unit": (own.TEMPLATE, own.USER, own.SUPERVISORD, own.PYTHON, own.LOCKED)},
        (
            ("unit", "print the unit, and the commands that install it"),
            ("unit --user -- --fp16", "the same for systemctl --user; the app gets --fp16"),
        ),
        app_arguments=True,
    ),
    Command(
        "cache list",
        "list the models in the cache, the largest first",
        {"list": (own.REVISIONS,)},
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
        {"what to remove": (own.FILE,), "safety": _REMOVAL},
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
        {"verify": (own.FULL, own.REPAIR), "safety": _REMOVAL},
        (
            ("cache verify", "exit 65 if a file is damaged"),
            ("cache verify --repair koge/voices", "download the damaged files of one model again"),
        ),
        repos="*",
        details=_REPO_HELP,
        changes=True,
    ),
    Command(
        "cache move",
        "move the cache to another folder or disk, and set HF_HUB_CACHE in .env",
        {"safety": (own.DRY_RUN, own.YES)},
        (
            ("cache move --dry-run /mnt/models", "show what would be copied, and whether there is room"),
            ("cache move /mnt/models", "copy, compare, switch .env, then remove the old cache"),
        ),
        repos="DIR",
        details="DIR must be empty or new. HF_HOME and its token stay. After an interruption, run the same command.",
        changes=True,
    ),
    Command(
        "models list",
        "list every weights file that the app can load, and its origin",
        {},
        (
            ("models list", "name the file, its repo and commit, and whether the instance has loaded it"),
            ("models list --json", "the same for a script"),
        ),
    ),
    Command(
        "models check",
        "compare the local models with the mirror and the Hub",
        {
            "check": (own.LOCAL_DIR,),
            "hub": (own.timeout("how long to wait for each answer of a hub (default: 10)"),),
        },
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
            "lock": (own.LOCAL_DIR, own.INCLUDE, own.EXCLUDE, own.REMOVE, own.FREEZE, own.DRY_RUN),
            "hub": (own.timeout("how long to wait for each answer of a hub (default: 10)"),),
        },
        (
            ("models lock koge/voices --local-dir checkpoints --exclude '*.md'", "pin files that are in a folder"),
            ("models lock --freeze", "pin every weights file on the disk, with or without a hub"),
        ),
        repos="*",
        changes=True,
    ),
    Command(
        "models pull",
        "download what models.lock pins; without a lock, the newest commit of every model",
        {"pull": (own.DRY_RUN, own.timeout("how long a download can stall before it fails (default: 60)"))},
        (
            ("models pull --dry-run", "show what would be downloaded"),
            ("models pull koge/voices", "download one model"),
        ),
        repos="*",
        changes=True,
    ),
    Command(
        "models export",
        "copy what models.lock pins into a folder, for a machine without a network",
        {"export": (own.DRY_RUN,)},
        (
            ("models export /mnt/usb/models", "write every pinned file, and models.lock"),
            ("models export -n /mnt/usb/models", "show how much that would be"),
        ),
        repos="DIR",
        details="On that machine, set HF_ENDPOINT_FALLBACK=DIR in .env: models pull takes the files from DIR.",
    ),
    Command("ended", "note how the main process of the unit has ended, for ExecStopPost=", {}, (), hidden=True),
    Command("cache names", "print the names of the cached repos, for completion", {}, (), hidden=True),
)
TABLE: Mapping[str, Command] = {command.name: command for command in _COMMANDS}
# The list for a command line with only one of these words.
GROUPS: Mapping[str, str] = {
    "cache": "models in the cache",
    "models": "models.lock and the hubs",
}
# For the last word of a command.
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
# The commands of the first screen.
MOST_USED = (
    own.APP_DIR, own.PORT, own.TAKE_PORT, own.BACKGROUND, own.DRY_RUN, own.CLEAR_CACHE, own.FORCE_REFRESH, own.LOCKED,
    own.JSON, own.VERBOSE,
)  # fmt: skip
FIRST_EXAMPLES = (
    ("", "restart the app in this folder"),
    ("--dry-run -v", "show what would happen, and why"),
    ("-- --fp16", "everything after -- goes to the app"),
    ("--background", "start it, and return when its page answers"),
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
