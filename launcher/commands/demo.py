"""`--demo`: work on a playground in place of the user's app."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..arguments import LAUNCH, Arguments
from ..config.paths import current_folder
from ..demo import HUB, hub, make_playground, refuse_foreign
from ..errors import LauncherError
from ..system import requirements
from ..ui.console import Console

DEMO_FOLDER = "start_app_demo"
# The Hub of the playground ends by itself; the next command that needs it starts it again.
_IDLE_SECONDS = 30
_START_SECONDS = 20
_ASKS = ("models check", "models lock", "models pull", "cache verify", "rollback", "doctor")
_PORT = re.compile(r"^HF_OFFICIAL_ENDPOINT=http://127\.0\.0\.1:(\d+)$", re.MULTILINE)


def enter(arguments: Arguments, environ: Mapping[str, str], console: Console) -> Mapping[str, str]:
    """Create the playground if a launch needs it, and return the environment without the user's own app in it.

    Raises LauncherError (78) if Gradio or the playground is missing.
    """
    folder = current_folder() / (arguments.app_dir or DEMO_FOLDER)
    arguments.app_dir = str(folder)
    if arguments.command == LAUNCH and not arguments.dry_run:
        if importlib.util.find_spec("gradio") is None:
            raise requirements.missing(["gradio>=5"], "not installed, and the demo is a Gradio page,")
        made = make_playground(folder)
        console.say(f"demo: {'made' if made else 'using'} {folder}")
    elif not folder.is_dir():
        raise LauncherError(f"there is no demo in {folder}", "start_app.py --demo makes and starts it")
    else:
        refuse_foreign(folder)
    if arguments.command in _ASKS or arguments.force_refresh or arguments.locked:
        _serve(folder, console)
    # The launcher's own environment has Gradio; the active environment of the shell may not have it.
    left_out = ("HF_", "HUGGINGFACE_", "APP_", "VIRTUAL_ENV", "CONDA_PREFIX")
    return {name: value for name, value in environ.items() if not name.startswith(left_out)}


def _serve(folder: Path, console: Console) -> None:
    """Start the playground's own Hub unless it runs; without it, hubs are merely unreachable."""
    try:
        port = _PORT.search((folder / ".env").read_text())
    except (OSError, ValueError):
        return
    if port is None or not (folder / HUB / "index.json").is_file():
        return
    command = (sys.executable, "-I", hub.__file__, str(folder / HUB), port[1], str(_IDLE_SECONDS))
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_START_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        console.warn(f"the demo's Hub does not start: {error}")
        return
    if done.returncode not in (0, hub.TAKEN):
        console.warn(f"the demo's Hub does not start: exit status {done.returncode}")
