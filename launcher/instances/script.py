"""Find the file that a process runs, as that process sees it.

A container's `/app/webui.py` is another file than ours of the same name, so paths are resolved under the process's own
root and current folder, link by link: the kernel would follow an absolute link into *our* root.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from ..system.programs import installed_folders, is_python_program
from .command_line import ScriptArgument, has_python_name, script_argument
from .process import Process, environment
from .proof import DELETED, LINUX, age, arguments, current_folder, executable, start_of

_TWO_FOLDERS = "its current folder and the one it was started in name different scripts"
_PROC_SELF = "[0-9]+(/task/[0-9]+)?"
_MAGIC = "cwd|root|exe|fd/[0-9]+"
_CLOCK_SECONDS = 0.1  # the start of a process has the resolution of a tick, the time of a file that of a jiffy
_MAX_LINKS = 40  # as in the kernel, path_resolution(7)


class FileIdentity(NamedTuple):
    """Hold the identity of a script and its folder: a hard-linked copy of a checkout is another checkout."""

    file: tuple[int, int]
    folder: tuple[int, int]


def own_file(path: str) -> FileIdentity | None:
    """Return the identity of a file as the launcher sees it, links resolved."""
    real = os.path.realpath(path)
    try:
        file, folder = os.stat(real), os.stat(os.path.dirname(real))
    except OSError:
        return None
    return FileIdentity((file.st_dev, file.st_ino), (folder.st_dev, folder.st_ino))


class Entry(NamedTuple):
    """Hold a file that starts the app: its absolute path as it was named, links kept, and its identity."""

    path: str
    identity: FileIdentity


def why_not(pid: int, argument: ScriptArgument, entries: Collection[Entry]) -> str | None:
    """Return why the script of a process is not one of these files, or None if it provably is.

    The path is resolved as that process sees it. Raises PermissionError if its folder is not accessible.
    """
    identities = [entry.identity for entry in entries]
    here = files_run(pid, argument)
    before = _files_at_start(pid, argument)
    if not here.isdisjoint(identities):
        # Otherwise a process that changed its folder would count as the app of the new folder.
        return None if not before or not before.isdisjoint(identities) else _TWO_FOLDERS
    if before.isdisjoint(identities) or argument.kind == "module":
        return "it runs another file"
    # It was started in the folder of its PWD, and is in another one now.
    folder = current_folder(pid)
    if folder and not here and not folder.endswith(DELETED):
        return None
    return None if folder and _through_a_moved_link(pid, argument, entries) else _TWO_FOLDERS


def files_run(pid: int, argument: ScriptArgument) -> frozenset[FileIdentity]:
    """Return the files that a process's script argument means in its current folder, as that process sees them.

    Raises PermissionError if its folder is not accessible.
    """
    if argument.kind == "script":
        return _files_in(pid, argument, argument.folders({}))
    variables = environment(pid) or {}
    return _files_in(pid, argument, chain(argument.folders(variables), _installed(pid, variables)))


def _installed(pid: int, variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the package folders of a process's Python, as far as its paths mean the same here."""
    if not same_mount_namespace(pid):
        return
    program, words = executable(pid), arguments(pid)
    for path in (*words[:1], program or ""):
        if os.path.isabs(path):
            yield from installed_folders(os.path.dirname(os.path.dirname(path)))
    if os.path.isabs(variables.get("VIRTUAL_ENV", "")):
        yield from installed_folders(variables["VIRTUAL_ENV"])


def names_file(pid: int, word: str) -> bool:
    """Return whether a word is the path of a regular file, as a process sees it."""
    folders = ("", (environment(pid) or {}).get("PWD", ""))
    return any(_is_regular(pid, os.path.join(folder, word)) for folder in folders)


def is_python(pid: int, argv: Sequence[str]) -> bool:
    """Return whether a process is a Python, by its executable's name and content.

    If the executable is hidden, as another user's is, the name in its command line decides.
    """
    program = executable(pid)
    if program is None:
        return has_python_name(argv[0] if argv else None)
    if not has_python_name(program):
        return False
    try:
        return "graalpy" in program or is_python_program(f"/proc/{pid}/exe" if LINUX else program)
    except OSError:
        return True


def _files_at_start(pid: int, argument: ScriptArgument) -> frozenset[FileIdentity]:
    """Return the files that a relative script argument meant in the folder of a process's `PWD`."""
    variables = environment(pid) or {}
    start = variables.get("PWD", "")
    if not os.path.isabs(start) or os.path.isabs(argument.text):
        return frozenset()
    folders = argument.folders(variables if argument.kind == "module" else {})
    return _files_in(pid, argument, [os.path.join(start, folder) for folder in folders])


def _through_a_moved_link(pid: int, argument: ScriptArgument, entries: Collection[Entry]) -> bool:
    """Return whether a process was started through the same path as ours, and a link in it was changed since.

    Releases are often installed like this: `current` led to the process's folder, and now leads to a new one.
    """
    start, folder = (environment(pid) or {}).get("PWD", ""), (current_folder(pid) or "").removesuffix(DELETED)
    path = os.path.normpath(os.path.join(start, argument.text))
    beside = os.path.dirname(folder) == os.path.dirname(os.path.realpath(start)) and same_mount_namespace(pid)
    began = start_of(pid)
    if not beside or began is None or all(os.path.normpath(entry.path) != path for entry in entries):
        return False
    parts = start.split("/")
    return any(_moved_since("/".join(parts[:number]), age(began)) for number in range(2, len(parts) + 1))


def _moved_since(path: str, seconds: float) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) and time.time() - status.st_ctime < seconds - _CLOCK_SECONDS


def _files_in(pid: int, argument: ScriptArgument, folders: Iterable[str]) -> frozenset[FileIdentity]:
    # The first folder with the module counts, and there a package comes before a file.
    for folder in folders:
        paths = [os.path.join(folder, path) for path in argument.paths()]
        files = {
            path: identity for path in paths if (identity := _look_up(pid, path) or _in_replaced_folder(pid, path))
        }
        if argument.kind == "script":
            return frozenset(files.values())
        package, module, main = paths
        if files:
            return frozenset(files[path] for path in ((main,) if package in files else (module, main)) if path in files)
    return frozenset()


def own_script(process: Process) -> str | None:
    """Return the file that a Python runs, links resolved, if we see the same file systems as it does."""
    folder = current_folder(process.pid)
    if folder is None or not is_python(process.pid, process.argv) or not same_mount_namespace(process.pid):
        return None
    argument = script_argument(process.argv)
    paths = (os.path.realpath(os.path.join(folder, path)) for path in (argument.paths() if argument else ()))
    return next((path for path in paths if os.path.isfile(path)), None)


def same_mount_namespace(pid: int) -> bool:
    """Return whether a process surely sees the same file systems under the same names as we do."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt") and os.path.samestat(
            os.stat(f"/proc/{pid}/root"), os.stat("/")
        )
    except OSError:
        return not LINUX


def _look_up(pid: int, path: str) -> FileIdentity | None:
    if not LINUX:
        folder = current_folder(pid)
        return own_file(os.path.join(folder, path)) if folder else None
    try:
        final = _resolve(pid, path)
        file = os.stat(final)
        if final.startswith(f"/proc/{pid}/fd/"):  # an open file has a folder only while its name exists
            final = _resolve(pid, os.readlink(final))
            if not os.path.samestat(os.stat(final), file):
                return None
        folder_stat = os.stat(os.path.dirname(final))
    except PermissionError:
        raise
    except OSError:
        return None
    return FileIdentity((file.st_dev, file.st_ino), (folder_stat.st_dev, folder_stat.st_ino))


def _is_regular(pid: int, path: str) -> bool:
    folder = current_folder(pid) if not LINUX else None
    try:
        return stat.S_ISREG(os.stat(_resolve(pid, path) if LINUX else os.path.join(folder or "", path)).st_mode)
    except OSError:
        return False


def _resolve(pid: int, path: str) -> str:
    # path_resolution(7) within another process's root: the same as os.path.realpath, and openat2's RESOLVE_IN_ROOT.
    root, itself = f"/proc/{pid}/root", f"/proc/{pid}"
    base, below, links = root if path.startswith("/") else f"{itself}/cwd", list[str](), 0
    pending = path.split("/")[::-1]
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if below:
                below.pop()
            elif base != root and not os.path.samestat(os.stat(base), os.stat(root)):
                base += "/.."
            continue
        here = "/".join((base, *below, part))
        if base == itself and re.fullmatch(_MAGIC, "/".join((*below, part))):
            base, below = here, []  # only the kernel can follow it: proc_pid_fd(5)
            continue
        try:
            target = os.readlink(here)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            below.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), here)
        if part in ("self", "thread-self") and re.fullmatch(_PROC_SELF, target):
            base, below = itself, []  # of /proc: for us it leads to the launcher
            continue
        if target.startswith("/"):
            base, below = root, []
        pending.extend(target.split("/")[::-1])
    return "/".join((base, *below))


def _in_replaced_folder(pid: int, path: str) -> FileIdentity | None:
    """Return the file at the place where a process was started, if its folder was deleted and created again."""
    folder = current_folder(pid)
    if folder is None or not folder.endswith(DELETED) or os.path.isabs(path) or not same_mount_namespace(pid):
        return None
    if os.path.lexists(folder):
        return None  # a folder that really has this name
    return own_file(os.path.join(folder.removesuffix(DELETED), path))
