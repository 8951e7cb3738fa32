"""The environment that the app gets."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from ..config.settings import Settings
from ..config.sources import blank_counts

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PROXY_NAMES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def app_environment_of(settings: Settings, environ: Mapping[str, str], interpreter: str) -> Mapping[str, str]:
    """Return the environment of the app: settings over the process environment, its virtual environment active."""
    environment = {name: value for name, value in environ.items() if value.strip() or blank_counts(name, value)}
    environment.update((name, setting.value) for name, setting in settings.variables.items())
    environment["GRADIO_SERVER_PORT"] = str(settings.port)
    if settings.host:
        environment["GRADIO_SERVER_NAME"] = settings.host
    environment["PWD"] = str(settings.app_dir)
    environment.setdefault("PYTHONUNBUFFERED", "1")
    _activate(environment, interpreter)
    _spare_loopback_the_proxy(environment)
    return environment


def _activate(environment: MutableMapping[str, str], interpreter: str) -> None:
    """Do what sourcing `bin/activate` does, so that tools of the environment (ninja, ffmpeg) are on PATH.

    Another environment that was active is left first, as its `deactivate` would: its tools would run the wrong Python.
    """
    bin_folder = os.path.dirname(interpreter)
    prefix = os.path.dirname(bin_folder)
    path = environment.get("PATH", os.defpath).split(os.pathsep)
    active = environment.get("VIRTUAL_ENV")
    if active and os.path.realpath(active) != os.path.realpath(prefix):
        del environment["VIRTUAL_ENV"]
        path = [folder for folder in path if folder != os.path.join(active, "bin")]
    is_venv = os.path.isfile(os.path.join(prefix, "pyvenv.cfg"))
    is_conda = os.path.isdir(os.path.join(prefix, "conda-meta"))
    if is_venv or is_conda:
        environment["VIRTUAL_ENV" if is_venv else "CONDA_PREFIX"] = prefix
        environment.pop("PYTHONHOME", None)
        path = [bin_folder, *(folder for folder in path if folder != bin_folder)]
    environment["PATH"] = os.pathsep.join(path)


def _spare_loopback_the_proxy(environment: MutableMapping[str, str]) -> None:
    """Keep Gradio's own check of its page off the proxy: it dies with "When localhost is not accessible" otherwise."""
    if not any(name in environment for name in _PROXY_NAMES):
        return
    lower, upper = environment.get("no_proxy"), environment.get("NO_PROXY")
    for name, value in (("no_proxy", lower or upper or ""), ("NO_PROXY", upper or lower or "")):
        present = [host.strip() for host in value.split(",") if host.strip()]
        if "*" not in present:
            environment[name] = ",".join((*present, *(host for host in LOOPBACK if host not in present)))
        else:
            environment[name] = value
