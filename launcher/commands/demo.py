"""`--demo`: work on a playground in place of the user's app."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from ..arguments import LAUNCH, Arguments
from ..config.paths import current_folder
from ..demo import make_playground, refuse_foreign
from ..errors import LauncherError
from ..system import requirements
from ..ui.console import Console

DEMO_FOLDER = "start_app_demo"


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
    # The launcher's own environment has Gradio; the active environment of the shell may not have it.
    left_out = ("HF_", "HUGGINGFACE_", "APP_", "VIRTUAL_ENV", "CONDA_PREFIX")
    return {name: value for name, value in environ.items() if not name.startswith(left_out)}
