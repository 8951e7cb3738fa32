"""Refuse conflicting options before any work, and suggest the intended command."""

from __future__ import annotations

from ..errors import REPEAT, ExitStatus, LauncherError
from .typed import LAUNCH, Arguments


def refuse_contradictions(arguments: Arguments) -> None:
    """Refuse options that contradict each other, and options without an effect in this combination.

    Raises LauncherError (2).
    """
    if arguments.command == LAUNCH:
        _refuse_in_cache(arguments)
        _refuse_in_start(arguments)
    elif arguments.command == "rollback":
        _refuse_in_start(arguments)
    elif arguments.command == "models lock":
        _refuse_in_lock(arguments)
    elif arguments.command == "models check" and arguments.local_dir and len(arguments.repos) != 1:
        raise _refusal("--local-dir needs exactly one REPO", "start_app.py models check REPO --local-dir DIR")
    if arguments.supervisord and (arguments.template or arguments.user):
        raise _refusal(
            "--template and --user are for systemd and have no effect with --supervisord",
            "start_app.py unit --supervisord",
        )
    if arguments.follow and arguments.json:
        raise _refusal("-f prints the log as it grows, and --json prints it once", "start_app.py logs --json")
    if arguments.quiet and arguments.verbose:
        raise _refusal("-q and -v cannot be used together", f"start_app.py {arguments.command} --help")


def _refuse_in_cache(arguments: Arguments) -> None:
    if arguments.clear_cache and (arguments.prune_cache or arguments.remove_model):
        raise _refusal(
            "--clear-cache removes every model: --prune-cache and --remove-model have no effect with it",
            f"start_app.py --clear-cache{REPEAT}",
        )
    pulling = "--locked" if arguments.locked else "--force-refresh"
    if arguments.clear_cache and (arguments.locked or arguments.force_refresh):
        raise _refusal(
            f"--clear-cache would remove what {pulling} has just pulled",
            f"start_app.py {pulling} --prune-cache{REPEAT}",
        )
    if arguments.locked and arguments.force_refresh:
        raise _refusal(
            "--locked keeps the commits in models.lock, and --force-refresh replaces them",
            f"start_app.py models lock; start_app.py --locked{REPEAT}",
        )
    pruning = arguments.older_than is not None or arguments.max_size is not None or arguments.keep or arguments.unlocked
    if pruning and not arguments.prune_cache:
        raise _refusal(
            "--older-than, --max-size, --keep and --unlocked have no effect without --prune-cache",
            f"start_app.py --prune-cache{REPEAT}",
        )


def _refuse_in_start(arguments: Arguments) -> None:
    waiting = "--open" if arguments.open else "--timeout"
    if not arguments.background and (arguments.open or arguments.timeout is not None):
        value = "" if arguments.open else f" {arguments.timeout:g}"
        raise _refusal(
            f"{waiting} needs --background: in the foreground, the launcher becomes the app and cannot wait",
            f"start_app.py --background {waiting}{value}{REPEAT}; "
            f"in another terminal: start_app.py wait {waiting}{value}",
        )
    if arguments.no_launch and (arguments.background or arguments.log_file is not None):
        raise _refusal(
            "--background and --log-file have no effect with --no-launch", f"start_app.py --no-launch{REPEAT}"
        )
    if arguments.if_down and (arguments.no_launch or arguments.take_port):
        raise _refusal(
            "--if-down stops nothing and starts the app: --no-launch and --take-port have no effect with it",
            f"start_app.py --if-down{REPEAT}",
        )
    if arguments.log_file is not None and not arguments.log_file.strip(" /."):
        raise _refusal("--log-file needs the name of a file", f"start_app.py --log-file webui.log{REPEAT}")


def _refuse_in_lock(arguments: Arguments) -> None:
    details = arguments.local_dir or arguments.include or arguments.exclude
    if arguments.freeze and (details or arguments.remove):
        raise _refusal(
            "--freeze pins everything on the disk: no other option of models lock has an effect with it",
            "start_app.py models lock --freeze",
        )
    if arguments.remove and (details or not arguments.repos):
        raise _refusal(
            "--remove takes the models to remove from models.lock, and nothing else",
            "start_app.py models lock --remove REPO",
        )
    if details and len(arguments.repos) != 1:
        raise _refusal(
            "--local-dir, --include and --exclude need exactly one REPO",
            "start_app.py models lock REPO --local-dir DIR",
        )


def _refusal(message: str, hint: str) -> LauncherError:
    return LauncherError(message, hint, ExitStatus.USAGE)
