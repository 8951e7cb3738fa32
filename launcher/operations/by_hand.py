"""Find an instance that a person started by hand: its command line and environment show how the app is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..instances import port
from ..instances.command_line import ScriptArgument, has_python_name, script_argument
from ..instances.process import environment, look
from ..instances.proof import command_lines, current_folder, owner_of, words
from ..instances.script import is_python, own_script
from ..system import marker

_TELLING = (
    "HF_", "HUGGING", "TRANSFORMERS_", "DIFFUSERS_", "GRADIO_", "CUDA_", "HIP_", "ROCR_", "TORCH_", "PYTORCH_",
    "MODELSCOPE_", "USE_MODELSCOPE", "COMMANDLINE_ARGS", "TOKENIZERS_", "OMP_NUM_THREADS", "XDG_CACHE_HOME",
)  # fmt: skip
# The launcher sets these itself.
_GIVEN = ("GRADIO_SERVER_PORT", "GRADIO_SERVER_NAME")


def is_telling(name: str) -> bool:
    """Return whether a variable affects how an app runs: its models, its devices, its hub."""
    return name.startswith(_TELLING) and name not in _GIVEN


class Started(NamedTuple):
    """Hold a running app: its script, its environment, its folder and its listening ports."""

    pid: int
    python: str
    argument: ScriptArgument
    environment: Mapping[str, str]
    folder: Path
    ports: frozenset[int]


def started(app_dir: Path) -> Started | None:
    """Return the app of this folder that a person started by hand and that serves a port, the oldest first."""
    root = os.path.realpath(app_dir)
    running = [one for pid, line in command_lines() if (one := _app(pid, words(line), root))]
    return min(running, key=lambda one: one.pid, default=None)


def _app(pid: int, argv: tuple[str, ...], root: str) -> Started | None:
    if pid == os.getpid() or not argv or not has_python_name(argv[0]) or owner_of(pid) != os.geteuid():
        return None
    argument = script_argument(argv)
    process = look(pid) if argument and is_python(pid, argv) else None
    folder = current_folder(pid)
    if argument is None or process is None or folder is None or process.argv != argv:
        return None
    script = own_script(process)
    inside = f"{root}{os.sep}"
    if not (script or f"{folder}/").startswith(inside) and folder != root:
        return None
    variables = environment(pid)
    ports = port.listening((pid,))
    if variables is None or marker.NAME in variables or not ports:
        return None
    return Started(pid, argv[0], argument, variables, Path(folder), ports)
