"""Declare every option once; `table` lists the options of each command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from . import typed


class Option(NamedTuple):
    """Hold one option: its names, its argparse declaration, and the kind of its value for shell completion.

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
        """Return the description of the option."""
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


def _option(*names: str, completes: str = "", **keywords: Any) -> Option:
    return Option(names, keywords, completes)


def _flag(*names: str, help: str) -> Option:  # noqa: A002  # argparse's own word
    return Option(names, {"action": "store_true", "help": help})


def timeout(text: str) -> Option:
    """Return `--timeout`, with the help of one command: each waits for something else."""
    return _option("--timeout", metavar="SECONDS", type=typed.seconds, help=text)


# App
APP_DIR = _option(
    "--app-dir", metavar="DIR", completes="dir", help="the app's folder (APP_DIR; default: where start_app.py is)"
)
ENV_FILE = _option("--env-file", metavar="FILE", completes="file", help="read FILE instead of .env in that folder")
HOST = _option("--host", metavar="HOST", help="the address that the app listens on (GRADIO_SERVER_NAME)")
PORT = _option("-p", "--port", metavar="PORT", type=typed.port, help="the app's port (default: 7860)")
DEMO = _flag("--demo", help="use the demo app in ./start_app_demo or in --app-dir")
# Output
JSON = _flag("--json", help="print one JSON object on stdout")
QUIET = _flag("-q", "--quiet", help="print only errors and warnings")
VERBOSE = _flag("-v", "--verbose", help="also print where settings come from")
VERSION = _flag("--version", help="show the version; with -v also those of Python and the libraries")
HELP = _flag("-h", "--help", help="show this help")
COMPLETION = _option(
    "--print-completion", metavar="SHELL", choices=("bash", "zsh"), help="print the completion script for bash or zsh"
)
# Stop and start
TAKE_PORT = _flag("--take-port", help="stop whatever holds the port, if it is your own process")
STOP_TIMEOUT = _option(
    "--stop-timeout",
    metavar="SECONDS",
    type=typed.seconds,
    help="how long to wait after SIGTERM before SIGKILL (default: 10)",
)
PYTHON = _option(
    "--python", metavar="PATH", completes="file", help="the app's interpreter or virtual environment (APP_PYTHON)"
)
BACKGROUND = _flag("--background", help="detach from the terminal; return when the page answers")
LOG_FILE = _option(
    "--log-file",
    metavar="FILE",
    completes="file",
    help="write the app's output to FILE, replaced at each start (default with --background: in .start_app/logs/)",
)
OPEN = _flag("--open", help="open a browser when the page answers")
OPEN_IN_BACKGROUND = _flag("--open", help="with --background: open a browser at the end")
NO_LAUNCH = _flag("--no-launch", help="do everything except start the app")
DRY_RUN = _flag("-n", "--dry-run", help="print what would happen and change nothing")
IF_DOWN = _flag("--if-down", help="start only if no instance runs; for cron")
NO_ROLLBACK = _flag("--no-rollback", help="if the app does not come up, do not start the last good set instead")
# Models of a launch
CLEAR_CACHE = _flag("--clear-cache", help="start with an empty model cache")
PRUNE_CACHE = _flag("--prune-cache", help="first remove unreferenced revisions and partial downloads")
REMOVE_MODEL = _option(
    "--remove-model",
    metavar="REPO",
    action="extend",
    nargs="+",
    completes="repo",
    help="first remove these models from the cache",
)
VERIFY = _flag("--verify", help="verify the cache first; if a file is damaged, exit 65 and keep the old instance")
FORCE_REFRESH = _flag("--force-refresh", help="first pull the newest commit of every model")
LOCKED = _flag("--locked", help="start with exactly the commits in models.lock")
NO_WARM = _flag("--no-warm", help="do not read the models into memory before the old instance is stopped")
# Cache
OLDER_THAN = _option(
    "--older-than",
    metavar="SPAN",
    type=typed.span,
    help="also remove revisions unused for this long, such as 30d; units: m, h, d, w",
)
MAX_SIZE = _option(
    "--max-size",
    metavar="SIZE",
    type=typed.size,
    help="also remove the least recently used revisions until the cache fits SIZE, such as 50G; units: B, K, M, G, T",
)
KEEP = _option("--keep", metavar="REPO", action="append", completes="repo", help="never remove REPO; can be repeated")
UNLOCKED = _flag("--unlocked", help="also remove everything that models.lock does not pin")
FORCE = _flag("--force", help="also remove files that another process reads or downloads")
FORCE_IN_LAUNCH = _flag(
    "--force", help="remove files in use too; with --locked, start even if the instance uses models that are not pinned"
)
YES = _flag("-y", "--yes", help="do not ask before removing from a cache that other programs share")
YES_TO_LINES = _flag("-y", "--yes", help="write the lines without a question")
FILE = _option(
    "--file", metavar="GLOB", action="append", help="remove only matching files of these models; can be repeated"
)
REVISIONS = _flag("--revisions", help="print one line for each revision")
FULL = _flag("--full", help="read every file again, also those verified before")
REPAIR = _flag("--repair", help="remove damaged files and download them again")
REPORT = _flag("--report", help="print Markdown for a bug report, with every fact and no secret")
# models.lock
LOCAL_DIR = _option(
    "--local-dir", metavar="DIR", completes="dir", help="the folder with the model's files, inside the app's folder"
)
INCLUDE = _option("--include", metavar="GLOB", action="append", help="pin only matching files; can be repeated")
EXCLUDE = _option("--exclude", metavar="GLOB", action="append", help="do not pin matching files; can be repeated")
REMOVE = _flag("--remove", help="remove these models from models.lock")
FREEZE = _flag("--freeze", help="pin what is on the disk; REPO names a repo that files of unknown origin may come from")
# Service
FOLLOW = _flag("-f", "--follow", help="keep printing new output")
LINES = _option("--lines", metavar="N", type=typed.count, help="how many of the last lines to print (default: 50)")
PID = _option(
    "--pid", metavar="PID", type=typed.pid, help="wait for the page of this process (default: MAINPID, set by systemd)"
)
TEMPLATE = _flag("--template", help="print a unit for several instances, each named by its port")
SUPERVISORD = _flag("--supervisord", help="print a program section for supervisord instead")
USER = _flag("--user", help="print a unit for systemctl --user")
