"""Check settings before anything is stopped or deleted. An error names the value and its source.

Every function raises LauncherError for an invalid value: 2 for a flag, else 78.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..errors import REPEAT, ExitStatus, LauncherError, quoted
from ..ui import redact, text
from . import form
from .paths import absolute, fallbacks, is_folder, unexpanded
from .sources import Setting

_OTHER_SCRIPTS = ("app.py", "gradio_app.py", "launch.py", "demo.py")
_NAMED_AT_MOST = 3
_ENDPOINT = r"https?://([A-Za-z0-9._~%!$&'()*+,;=:-]+@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(:[0-9]{1,5})?(/[^\s#?]*)?"
_NOTIFY_URL = r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(:[0-9]{1,5})?([/?][!\"$-~]*)?"
# Opening and closing: plain, typographic (English, German, French), full-width.
_QUOTES = (('"', '"'), ("'", "'"), ("“”„‟", "“”‟"), ("‘’‚‛", "‘’‛"), ("«»", "«»"), ("＂", "＂"), ("＇", "＇"))
_TYPOGRAPHIC = frozenset("“”„‟‘’‚‛«»＂＇")
_DASHES = "–—―－−"
# Settings that contain words for a shell or for an app.
_FREE = ("APP_ARGS", "APP_COMMAND", "APP_PREFIX", "APP_PRESTART")
# Settings whose form is checked separately.
_FORMAL = frozenset(
    "GRADIO_SERVER_PORT GRADIO_SERVER_NAME APP_PORT_FLAG APP_HOST_FLAG APP_PORT_ENV APP_HOST_ENV APP_UNSET APP_LOCKED "
    "APP_NOTIFY_URL HF_ENDPOINT "
    "HF_OFFICIAL_ENDPOINT".split()
)
_SHELL = r"[;&|]\s*(?:export\s+)?[A-Za-z_]\w*=|\$\(|`"
_WINDOWS_PATH = r"[A-Za-z]:[\\/\x00-\x1f]|\\\\"
_HOST = r"[A-Za-z0-9._:%-]+"


def is_quoted(value: str) -> bool:
    """Return whether a value has quotes around it, plain or typographic."""
    text = value.strip()
    return len(text) > 1 and any(text[0] in opening and text[-1] in closing for opening, closing in _QUOTES)


def check_spelling(name: str, setting: Setting) -> None:
    """Check that a value has no leftovers of a container engine, Windows or a word processor."""
    value = setting.value.strip()
    problem = hint = None
    if name not in _FREE and name not in _FORMAL and os.path.exists(setting.value):
        return  # a folder may have any name
    if name not in (*_FREE, "APP_NOTIFY_URL") and re.match(_WINDOWS_PATH, value):
        problem, hint = "is a path of Windows", f"{name}=/PATH"
        if value[0] != "\\":
            mounted = f"/mnt/{value[0].lower()}/" + re.sub(r"[\\/]+", "/", value[3:])
            hint = f"{name}={quoted(mounted)} under WSL"
    elif "\r" in setting.value or (name not in _FREE and any(ord(letter) < 32 for letter in value)):
        problem = "has a line end or another control character in it"
        hint = "sed -i 's/\\r$//' FILE, for a file with the line ends of Windows"
    elif is_quoted(value) and (name not in _FREE or _is_one_word(value)):
        problem = "has quotes around it"
        hint = f"write {name}=VALUE without quotes; in an env file for containers they are a part of the value"
    elif value[0] in _TYPOGRAPHIC or value[-1] in _TYPOGRAPHIC:
        problem, hint = "begins or ends with a typographic quote", f"write {name}=VALUE without it"
    elif name in _FORMAL:
        return  # the check of its form reports any other problem
    elif value[0] == "#" or _has_comment(name, setting):
        problem = "has a comment in it"
        hint = f"{name}=VALUE with nothing after it; systemd's EnvironmentFile= and containers' env files keep comments"
    elif name not in ("APP_ARGS", "APP_PRESTART") and re.search(_SHELL, value):
        problem = "is more than a value, and no shell interprets it"
        hint = f"write {name}=VALUE on a line of its own, and the output of a command in full"
    if problem:
        shown = "" if name == "APP_NOTIFY_URL" else f" {redact.scrub(text.clean(value))}"
        raise LauncherError(f"{name}{shown} {problem} ({setting.origin})", hint, setting.bad)


def _has_comment(name: str, setting: Setting) -> bool:
    """Return whether a value from the environment ends in a comment; dotenv removes it, other tools do not."""
    if setting.level != "environment" or not re.search(r"\s#", setting.value):
        return False
    if name in _FREE:
        return "#" in setting.value.split()
    return not os.path.exists(setting.value)


def _is_one_word(args: str) -> bool:
    """Return whether quotes around several arguments make them one."""
    try:
        words = shlex.split(args)
    except ValueError:
        return True
    return args.strip()[0] in _TYPOGRAPHIC or (len(words) == 1 and " " in words[0])


def check_app_dir(app_dir: Path, setting: Setting) -> None:
    """Check that the app's folder is a folder."""
    try:
        problem = "" if stat.S_ISDIR(os.stat(app_dir).st_mode) else "is not a folder"
    except PermissionError:
        problem = "may not be entered"
    except OSError:
        problem = "does not exist"
    if problem:
        raise LauncherError(
            f"the app's folder {app_dir} {problem} (APP_DIR, {setting.origin})",
            f"start_app.py --app-dir DIR{REPEAT}",
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
        problem = f"{path} is a folder, not a script{origin}"
    elif stat.S_ISREG(mode):
        problem = f"{path} is not readable"
    elif mode:
        problem = f"{path} is not a regular file{origin}"
    elif os.path.islink(path):
        problem = f"{path} is a dangling link"
    else:
        problem = f"no {setting.value} in {app_dir}{origin}"
    raise LauncherError(problem, _other_script(app_dir))


def _other_script(app_dir: Path) -> str:
    """Return the hint for a folder without the script: the likely scripts in it."""
    from ..scripts.candidates import Folder

    folder = Folder(app_dir)
    named = folder.candidates[:_NAMED_AT_MOST]
    if named:
        entries = [quoted(f"APP_SCRIPT={folder.entry(candidate.path)}") for candidate in named]
        first = f"start_app.py init writes {entries[0]} into {quoted(app_dir / '.env')}"
        line = f"{first}; {quoted(named[0].path.name)} {named[0].reason}"
        return f"{line}; also possible: {' '.join(entries[1:])}" if entries[1:] else line
    present = next((name for name in _OTHER_SCRIPTS if os.path.isfile(app_dir / name)), None)
    if present:
        line = f"APP_SCRIPT={quoted(present)} in {quoted(app_dir / '.env')}"
        return f"{quoted(present)} is there: set {line}, or start_app.py --app-dir DIR"
    return "start_app.py --app-dir DIR; APP_SCRIPT=app.py in .env for another script; start_app.py --demo to try it out"


def port(setting: Setting) -> int:
    """Return the port as a number."""
    try:
        return text.parsed_port(setting.value)
    except ValueError:
        raise LauncherError(
            f"{redact.scrub(setting.value.strip())!r} is not a valid port (GRADIO_SERVER_PORT, {setting.origin}): "
            "a port is a number from 1 to 65535",
            "GRADIO_SERVER_PORT=7860, with nothing after it on the line",
            setting.bad,
        ) from None


def split(args: Setting | None) -> tuple[str, ...]:
    """Return the app's arguments, split as a shell would."""
    if args is None:
        return ()
    words = form.split(args, "APP_ARGS")
    for word in words:
        if word[0:1] in (*_DASHES, *_TYPOGRAPHIC) and len(word) > 1:
            raise LauncherError(
                f"{redact.scrub(word)} in APP_ARGS begins with a {word[0]}, which is neither a hyphen nor a quote"
                f" ({args.origin})",
                "write it with a plain - or plain quotes",
                args.bad,
            )
    return words


def listed(setting: Setting | None, name: str) -> tuple[str, ...]:
    """Return the parts of a list that is separated by blanks, commas or colons, except within quotes.

    Raises LauncherError for an unclosed quote.
    """
    if setting is None:
        return ()
    words = shlex.shlex(setting.value, posix=True, punctuation_chars=False)
    words.whitespace, words.whitespace_split, words.commenters = " \t\n,:", True, ""
    try:
        return tuple(words)
    except ValueError as error:
        raise LauncherError(
            f"{name} cannot be split: {str(error).lower()} ({setting.origin})", f"{name}=one:another", setting.bad
        ) from error


def option_value(argv: Sequence[str], flag: str) -> str | None:
    """Return the value of `--flag VALUE` or `--flag=VALUE` in a command line; the last one counts, as in argparse."""
    value = None
    for position, argument in enumerate(argv):
        if argument == flag and position + 1 < len(argv):
            value = argv[position + 1]
        elif argument.startswith(flag + "="):
            value = argument[len(flag) + 1 :]
    return value


def _told_port(argv: Sequence[str], flag: str) -> str | None:
    # argparse accepts any prefix of a long option: --por 9999 is --port 9999.
    for length in range(len(flag), 2, -1):
        value = option_value(argv, flag[:length])
        if value is not None and (length == len(flag) or value.isdecimal()):
            return value
    return None


def refuse_other_port(
    port: int, flags: Sequence[str], args: Setting | None, split: tuple[str, ...], rest: tuple[str, ...]
) -> None:
    """Check that APP_ARGS sets no other port: the app would use that one, while the launcher checks its own."""
    for arguments, where, status in (
        (rest, "after --", ExitStatus.USAGE),
        (split, f"APP_ARGS, {args.origin}" if args else "", args.bad if args else ExitStatus.CONFIG),
    ):
        for flag in flags:
            value = _told_port(arguments, flag.rstrip("="))
            if value is not None and value != str(port):
                raise LauncherError(
                    f"the app would get {flag} {redact.scrub(value)} ({where}), but the launcher's port is {port}",
                    f"start_app.py --port {quoted(value)}{REPEAT}, or GRADIO_SERVER_PORT={quoted(value)} in .env",
                    status,
                )


def check_host(setting: Setting) -> None:
    """Check that this is a valid host name or address."""
    value = setting.value
    bare = value[1:-1] if value[:1] == "[" and value[-1:] == "]" and ":" in value else value
    if not re.fullmatch(_HOST, bare) or (":" in bare and not _is_ipv6(bare)):
        raise LauncherError(
            f"{redact.scrub(setting.value)!r} is not a host name or address (GRADIO_SERVER_NAME, {setting.origin})",
            f"for every interface: start_app.py --host 0.0.0.0{REPEAT}; "
            f"for this machine only: start_app.py --host 127.0.0.1{REPEAT}",
            setting.bad,
        )


def _is_ipv6(text: str) -> bool:
    import socket  # few settings have such an address, and every command reads the settings

    try:
        socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True


def check_endpoint(name: str, setting: Setting) -> None:
    """Check that this is the http(s) address of a hub, without a query or fragment."""
    match = re.fullmatch(_ENDPOINT, setting.value)
    if match and (match[4] is None or 0 < int(match[4][1:]) < 65536):
        return
    # The part before an @ may be a password, even in a mistyped URL.
    before, at, after = setting.value.rpartition("@")
    shown = f"{redact.MASK}@{after}" if at else before + after
    hint = f"{name}=https://hf-mirror.com"
    if re.search(r"\s|#", setting.value):
        hint += " with nothing after it on the line"
        if setting.level == "environment":
            hint += "; systemd's EnvironmentFile= keeps comments: let start_app.py read the file itself with --env-file"
    raise LauncherError(
        f"{redact.scrub(shown)!r} is not an http(s) address ({name}, {setting.origin})", hint, setting.bad
    )


def check_endpoints(name: str, setting: Setting) -> None:
    """Check that this is a list of such addresses and of folders with models, separated by commas or blanks."""
    for value in fallbacks(setting.value):
        if not is_folder(value):
            check_endpoint(name, Setting(value, setting.origin, setting.level))


def check_notify_url(setting: Setting) -> None:
    """Check that this is an http(s) address. It is a secret, so the error does not show it."""
    match = re.fullmatch(_NOTIFY_URL, setting.value)
    if not match or (match[3] and not 0 < int(match[3][1:]) < 65536):
        raise LauncherError(
            f"APP_NOTIFY_URL is not an http(s) address ({setting.origin}); it is a secret and not shown",
            "APP_NOTIFY_URL=https://HOST/PATH as the chat service shows it, with nothing after it on the line",
            setting.bad,
        )


def yes_or_no(name: str, setting: Setting) -> bool:
    """Return the value of a switch, in the words that huggingface_hub accepts."""
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
    problem = None
    if os.path.lexists(path):
        problem = "is a dangling link" if os.path.islink(path) and not os.path.exists(path) else "is not a folder"
    else:
        parent = os.path.dirname(path)
        while not os.path.lexists(parent):
            parent = os.path.dirname(parent)
        if not os.path.isdir(parent):
            problem = f"cannot be made: {parent} is not a folder"
    if problem:
        raise LauncherError(f"{path} {problem} ({name}, {setting.origin})", f"set {name} to a folder, or unset it")


def refuse_broken_lines(path: Path, unparsable: Mapping[int, tuple[str, ...]], names: Collection[str]) -> None:
    """Check that no unparseable line of `.env` seems to set one of these: the app would use another value."""
    for line, words in unparsable.items():
        meant = next((word for word in words if word in names), None)
        if meant:
            raise LauncherError(
                f"{path} line {line} is about {meant}, but it is not {meant}=VALUE",
                f"write it as {meant}=VALUE, with every quote closed",
            )


def refuse_unset_variable(name: str, setting: Setting) -> None:
    """Check that a path contains no `$NAME`: it would become a folder of that name."""
    left = unexpanded(setting.value)
    if left:
        raise LauncherError(
            f"{left} is not set, and {name} needs it ({setting.origin})",
            f"set it, or write {name} in full",
            setting.bad,
        )
