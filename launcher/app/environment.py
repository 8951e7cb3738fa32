"""Build the environment of the app."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping

from ..config.settings import Settings
from ..config.sources import blank_counts
from .packages import version

LOOPBACK = ("localhost", "127.0.0.1")
_EVERY = ("0.0.0.0", "::")
_IMPORTS_GRADIO = rb"(?m)^\s*(?:import|from)\s+gradio\b"
_PROXY_NAMES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def app_environment_of(settings: Settings, environ: Mapping[str, str], interpreter: str) -> Mapping[str, str]:
    """Return the environment of the app: settings over the process environment, its virtual environment active."""
    environment = {name: value for name, value in environ.items() if value.strip() or blank_counts(name, value)}
    environment.update((name, setting.value) for name, setting in settings.variables.items())
    environment["GRADIO_SERVER_PORT"] = str(settings.port)
    if settings.host:
        environment["GRADIO_SERVER_NAME"] = settings.host
        if settings.host_flag and host_argument(settings) != settings.host:
            del environment["GRADIO_SERVER_NAME"]  # Gradio fails with any form of an IPv6 address there
    environment.update(dict.fromkeys(settings.form.port_variables, str(settings.port)))
    if settings.host:
        environment.update(dict.fromkeys(settings.form.host_variables, settings.host))
    environment["PWD"] = str(settings.app_dir)
    environment.setdefault("PYTHONUNBUFFERED", "1")
    _activate(environment, interpreter)
    _spare_loopback_the_proxy(environment, settings.host)
    return {name: value for name, value in environment.items() if name not in settings.form.unset}


def host_argument(settings: Settings) -> str | None:
    """Return the address in the form of the app's own option: Gradio puts it into a URL and needs brackets for IPv6.

    In Gradio 5.45, http_server.py removes the brackets before it binds.
    """
    host = settings.host
    if host is None or ":" not in host:
        return host
    try:
        script = settings.script.read_bytes()
    except OSError:
        return host
    return f"[{host}]" if re.search(_IMPORTS_GRADIO, script) else host


def proxy_problem(environment: Mapping[str, str], interpreter: str) -> str | None:
    """Return why the proxy of this environment prevents httpx, and so Gradio, from starting, and a hint."""
    for name in _PROXY_NAMES:
        if not environment.get(name, "").lower().startswith("socks"):
            continue
        httpx = version(interpreter, "httpx")
        if httpx and not version(interpreter, "socksio"):
            return (
                f"{name} is a SOCKS proxy, and httpx {httpx} of the app's environment needs socksio for it: "
                f"{interpreter} -m pip install 'httpx[socks]'"
            )
    return None


def environment_of(interpreter: str) -> str | None:
    """Return the folder of the virtual or conda environment of an interpreter, None without one."""
    prefix = os.path.dirname(os.path.dirname(interpreter))
    is_one = os.path.isfile(os.path.join(prefix, "pyvenv.cfg")) or os.path.isdir(os.path.join(prefix, "conda-meta"))
    return prefix if is_one else None


def _activate(environment: MutableMapping[str, str], interpreter: str) -> None:
    """Do the same as sourcing `bin/activate`, so that tools of the environment (ninja, ffmpeg) are on PATH.

    Deactivate another active environment first, as its `deactivate` would: its tools would run the wrong Python.
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


def _spare_loopback_the_proxy(environment: MutableMapping[str, str], host: str | None) -> None:
    """Bypass the proxy for Gradio's own check of its page, which otherwise fails: "When localhost is not accessible".

    An IPv6 address is added only if the app listens on one: old versions of httpx (0.24.0) fail on it.
    """
    if not any(name in environment for name in _PROXY_NAMES):
        return
    spared = (*LOOPBACK, *((host,) if host and host not in _EVERY else ()), *(("::1",) if host == "::" else ()))
    lower, upper = environment.get("no_proxy"), environment.get("NO_PROXY")
    for name, value in (("no_proxy", lower or upper or ""), ("NO_PROXY", upper or lower or "")):
        present = [part.strip() for part in value.split(",") if part.strip()]
        if "*" not in present:
            environment[name] = ",".join((*present, *(name for name in dict.fromkeys(spared) if name not in present)))
        else:
            environment[name] = value
