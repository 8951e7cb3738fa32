"""A value is checked before anything is stopped or deleted, and what is wrong with it is told with where it came from.

Every function here raises LauncherError for a value that cannot be: a usage error for a flag, else configuration.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..errors import ExitStatus, LauncherError, quoted
from ..ui import redact
from .paths import absolute, unexpanded
from .sources import Setting

_OTHER_SCRIPTS = ("app.py", "main.py", "gradio_app.py", "launch.py", "demo.py", "run.py")
_ENDPOINT = re.compile(
    r"https?://([A-Za-z0-9._~%!$&'()*+,;=:-]+@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(:[0-9]{1,5})?(/[^\s#?]*)?"
)
_NOTIFY_URL = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(:[0-9]{1,5})?([/?][!\"$-~]*)?"
)
_HOST = re.compile(r"[A-Za-z0-9._:%\[\]-]+")


def check_app_dir(app_dir: Path, setting: Setting) -> None:
    """Check that the app's folder is one."""
    try:
        what = "" if stat.S_ISDIR(os.stat(app_dir).st_mode) else "is not a folder"
    except PermissionError:
        what = "may not be entered"
    except OSError:
        what = "does not exist"
    if what:
        raise LauncherError(
            f"the app's folder {app_dir} {what} (APP_DIR, {setting.origin})",
            "start_app.py --app-dir DIR",
            setting.bad,
        )


def script(app_dir: Path, setting: Setting, launcher_folders: tuple[Path, ...]) -> Path:
    """Return the path of the app's script, which must be a readable file and not the launcher itself."""
    path = absolute(app_dir, setting.value)
    if any(os.path.realpath(path) == os.path.realpath(folder / "start_app.py") for folder in launcher_folders):
        raise LauncherError(
            f"{path} is the launcher itself (APP_SCRIPT, {setting.origin})", "APP_SCRIPT=webui.py", setting.bad
        )
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        raise LauncherError(
            f"{app_dir} may not be entered by this user", f"ls -ld {quoted(app_dir)}", setting.bad
        ) from None
    except OSError:
        mode = 0
    if stat.S_ISREG(mode) and os.access(path, os.R_OK):
        return path
    origin = "" if setting.level == "default" else f" (APP_SCRIPT, {setting.origin})"
    if stat.S_ISDIR(mode):
        what = f"{path} is a folder, not a script{origin}"
    elif stat.S_ISREG(mode):
        what = f"{path} is not readable"
    elif mode:
        what = f"{path} is not a regular file{origin}"
    elif os.path.islink(path):
        what = f"{path} is a dangling link"
    else:
        what = f"no {setting.value} in {app_dir}{origin}"
    present = next((name for name in _OTHER_SCRIPTS if os.path.isfile(app_dir / name)), None)
    hint = "start_app.py --app-dir DIR; APP_SCRIPT=app.py in .env for another script; start_app.py --demo to try it out"
    if present:
        line = f"APP_SCRIPT={quoted(present)} in {quoted(app_dir / '.env')}"
        hint = f"{quoted(present)} is there: set {line}, or start_app.py --app-dir DIR"
    raise LauncherError(what, hint)


def port(setting: Setting) -> int:
    """Return the port as a number."""
    text = setting.value.strip()
    if re.fullmatch("0{0,9}[0-9]{1,5}", text) and 0 < int(text) < 65536:
        return int(text)
    raise LauncherError(
        f"{redact.scrub(text)!r} is no port (GRADIO_SERVER_PORT, {setting.origin}): a port is a number from 1 to 65535",
        "start_app.py --port 7860" if setting.level == "flag" else "GRADIO_SERVER_PORT=7860, with nothing behind it",
        setting.bad,
    )


def option_name(setting: Setting, name: str) -> str | None:
    """Return the name of an option of the app, or None where the setting says `none`."""
    text = setting.value.strip()
    if text.lower() == "none":
        return None
    if re.fullmatch(r"--?[A-Za-z0-9][\w.-]*", text):
        return text
    raise LauncherError(
        f"{text!r} is no option name ({name}, {setting.origin})",
        f"{name}=--port, or {name}=none when the app takes it from the environment only",
        setting.bad,
    )


def split(args: Setting | None) -> tuple[str, ...]:
    """Return the app's arguments, split as a shell would."""
    if args is None:
        return ()
    try:
        return tuple(shlex.split(args.value))
    except ValueError as error:
        raise LauncherError(
            f"APP_ARGS cannot be split into arguments: {str(error).lower()} ({args.origin})",
            "quote as a shell would: APP_ARGS=\"--model_dir 'my models'\"",
            args.bad,
        ) from error


def option_value(argv: Sequence[str], flag: str) -> str | None:
    """Return what `--flag VALUE` or `--flag=VALUE` says in a command line; the last one counts, as in argparse."""
    value = None
    for position, argument in enumerate(argv):
        if argument == flag and position + 1 < len(argv):
            value = argv[position + 1]
        elif argument.startswith(flag + "="):
            value = argument[len(flag) + 1 :]
    return value


def _told_port(argv: Sequence[str], flag: str) -> str | None:
    # argparse takes any beginning of a long option for it: --por 9999 is --port 9999.
    for length in range(len(flag), 2, -1):
        value = option_value(argv, flag[:length])
        if value is not None and (length == len(flag) or value.isdecimal()):
            return value
    return None


def refuse_other_port(
    port: int, flag: str | None, args: Setting | None, split: tuple[str, ...], rest: tuple[str, ...]
) -> None:
    """Check that the app is told no other port: it would obey the last one, while the launcher proves its own free."""
    for arguments, where, status in (
        (rest, "after --", ExitStatus.USAGE),
        (split, f"APP_ARGS, {args.origin}" if args else "", args.bad if args else ExitStatus.CONFIG),
    ):
        value = _told_port(arguments, flag) if flag else None
        if value is not None and value != str(port):
            raise LauncherError(
                f"the app would be told {flag} {redact.scrub(value)} ({where}), but the launcher's port is {port}",
                f"start_app.py --port {quoted(value)}, or GRADIO_SERVER_PORT={quoted(value)} in .env",
                status,
            )


def check_host(setting: Setting) -> None:
    """Check that this can be a host name or an address."""
    value = setting.value
    if not _HOST.fullmatch(value) or (value.count(":") == 1 and "[" not in value):
        raise LauncherError(
            f"{redact.scrub(setting.value)!r} is no host name or address (GRADIO_SERVER_NAME, {setting.origin})",
            "start_app.py --host 0.0.0.0 for every interface, --host 127.0.0.1 for this machine only",
            setting.bad,
        )


def check_endpoint(name: str, setting: Setting) -> None:
    """Check that this is the http(s) address of a hub, with nothing behind it."""
    match = _ENDPOINT.fullmatch(setting.value)
    if match and (match[4] is None or 0 < int(match[4][1:]) < 65536):
        return
    # Whatever stands before an @ may be a password, however the rest is mistyped.
    before, at, after = setting.value.rpartition("@")
    shown = f"{redact.MASK}@{after}" if at else before + after
    hint = f"{name}=https://hf-mirror.com"
    if re.search(r"\s|#", setting.value):
        hint += " with nothing after it on the line"
        if setting.level == "environment":
            hint += "; systemd's EnvironmentFile= keeps comments: let start_app.py read the file itself with --env-file"
    raise LauncherError(f"{redact.scrub(shown)!r} is no http(s) address ({name}, {setting.origin})", hint, setting.bad)


def check_endpoints(name: str, setting: Setting) -> None:
    """Check that this is a list of such addresses, divided by commas or blanks."""
    for value in setting.value.replace(",", " ").split():
        check_endpoint(name, Setting(value, setting.origin, setting.level))


def check_notify_url(setting: Setting) -> None:
    """Check that this is an http(s) address; it is a secret, so it is not told how it reads."""
    match = _NOTIFY_URL.fullmatch(setting.value)
    if not match or (match[3] and not 0 < int(match[3][1:]) < 65536):
        raise LauncherError(
            f"APP_NOTIFY_URL is no http(s) address ({setting.origin}); it is a secret and not shown",
            "APP_NOTIFY_URL=https://HOST/PATH as the chat gave it, with nothing after it on the line",
            setting.bad,
        )


def yes_or_no(name: str, setting: Setting) -> bool:
    """Return what a switch says, in the words that huggingface_hub knows for one."""
    text = setting.value.strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise LauncherError(f"{setting.value!r} is neither yes nor no ({name}, {setting.origin})", f"{name}=1", setting.bad)


def check_folder(name: str, setting: Setting) -> None:
    """Check that this is a folder, or can become one."""
    path = setting.value
    if os.path.isdir(path):
        return
    what = None
    if os.path.lexists(path):
        what = "is a dangling link" if os.path.islink(path) and not os.path.exists(path) else "is not a folder"
    else:
        parent = os.path.dirname(path)
        while not os.path.lexists(parent):
            parent = os.path.dirname(parent)
        if not os.path.isdir(parent):
            what = f"cannot be made: {parent} is not a folder"
    if what:
        raise LauncherError(f"{path} {what} ({name}, {setting.origin})", f"set {name} to a folder, or unset it")


def refuse_broken_lines(path: Path, unparsable: Mapping[int, tuple[str, ...]], names: Collection[str]) -> None:
    """Check that no line of `.env` that cannot be parsed was meant to set one of these: the app would use another."""
    for line, words in unparsable.items():
        meant = next((word for word in words if word in names), None)
        if meant:
            raise LauncherError(
                f"{path} line {line} is about {meant}, but it is not {meant}=VALUE",
                f"write it as {meant}=VALUE, with every quote closed",
            )


def refuse_unset_variable(name: str, setting: Setting) -> None:
    """Check that a path has no `$NAME` left in it: it would become a folder of that name."""
    left = unexpanded(setting.value)
    if left:
        raise LauncherError(
            f"{left} is not set, and {name} needs it ({setting.origin})",
            f"set it, or write {name} in full",
            setting.bad,
        )
