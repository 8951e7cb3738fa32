"""Options that cannot go together are refused before any work, with the command that was probably meant."""

from __future__ import annotations

from .arguments import LAUNCH, Arguments
from .errors import ExitStatus, LauncherError


def refuse(arguments: Arguments) -> None:
    """Refuse options that say the opposite of one another, or nothing beside one another.

    Raises LauncherError (2).
    """
    if arguments.clear_cache and (arguments.prune_cache or arguments.remove_model):
        raise LauncherError(
            "--clear-cache removes every model: --prune-cache and --remove-model say nothing beside it",
            "start_app.py --clear-cache",
            ExitStatus.USAGE,
        )
    if arguments.clear_cache and (arguments.locked or arguments.force_refresh):
        asked = "--locked" if arguments.locked else "--force-refresh"
        raise LauncherError(
            f"--clear-cache would remove what {asked} has just pulled",
            f"start_app.py {asked} --prune-cache",
            ExitStatus.USAGE,
        )
    if arguments.locked and arguments.force_refresh:
        raise LauncherError(
            "--locked keeps to models.lock, and --force-refresh goes beyond it",
            "start_app.py models lock, then start_app.py --locked",
            ExitStatus.USAGE,
        )
    _refuse_in_lock(arguments)
    _refuse_in_service(arguments)
    pruning = arguments.older_than is not None or arguments.max_size is not None or arguments.keep or arguments.unlocked
    if arguments.command == LAUNCH and pruning and not arguments.prune_cache:
        raise LauncherError(
            "--older-than, --max-size, --keep and --unlocked say how to prune, but nothing is to be pruned",
            "start_app.py --prune-cache",
            ExitStatus.USAGE,
        )
    if arguments.quiet and arguments.verbose:
        raise LauncherError("-q and -v cannot be used together", "start_app.py --help", ExitStatus.USAGE)


def _refuse_in_lock(arguments: Arguments) -> None:
    details = arguments.local_dir or arguments.include or arguments.exclude
    if arguments.remove and (details or not arguments.repos):
        raise LauncherError(
            "--remove takes just the models that are to be taken out",
            "start_app.py models lock --remove REPO",
            ExitStatus.USAGE,
        )
    if details and len(arguments.repos) != 1:
        raise LauncherError(
            "--local-dir, --include and --exclude are about one model",
            "start_app.py models lock REPO --local-dir DIR",
            ExitStatus.USAGE,
        )


def _refuse_in_service(arguments: Arguments) -> None:
    if arguments.command == LAUNCH and not arguments.background:
        for name, given in (("--open", arguments.open), ("--timeout", arguments.timeout is not None)):
            if given:
                raise LauncherError(
                    f"{name} is about waiting for the page, and a launcher in the foreground becomes the app",
                    f"start_app.py --background {name}; start_app.py wait {name} in another terminal",
                    ExitStatus.USAGE,
                )
    if arguments.no_launch and (arguments.background or arguments.log_file is not None):
        raise LauncherError(
            "--no-launch starts nothing: --background and --log-file say nothing beside it",
            "start_app.py --no-launch",
            ExitStatus.USAGE,
        )
    if arguments.log_file is not None and not arguments.log_file.strip(" /."):
        raise LauncherError(
            "--log-file wants the name of a file", "start_app.py --log-file webui.log", ExitStatus.USAGE
        )
    if arguments.follow and arguments.json:
        raise LauncherError(
            "-f shows the log as it comes, and --json shows it once", "start_app.py logs --json", ExitStatus.USAGE
        )
