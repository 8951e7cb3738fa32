"""Which file a process runs, looked up through that process's own eyes.

A container's `/app/webui.py` is another file than ours of the same name, so paths are looked up under the process's
own root and current folder, link by link: the kernel would follow an absolute link into *our* root.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import NamedTuple

from .match import ScriptArgument, is_python, script_argument
from .process import Process, environment
from .proof import DELETED, LINUX, current_folder

_MAX_LINKS = 40  # as in the kernel, path_resolution(7)


class FileIdentity(NamedTuple):
    """Hold which file a script is, and in which folder: a hard-linked copy of a checkout is another checkout."""

    file: tuple[int, int]
    folder: tuple[int, int]


def own_file(path: str) -> FileIdentity | None:
    """Return the identity of a file by our own eyes, links resolved."""
    real = os.path.realpath(path)
    try:
        file, folder = os.stat(real), os.stat(os.path.dirname(real))
    except OSError:
        return None
    return FileIdentity((file.st_dev, file.st_ino), (folder.st_dev, folder.st_ino))


def files_run(pid: int, argument: ScriptArgument) -> tuple[FileIdentity, ...]:
    """Return the files that a process's script argument can mean, by that process's own eyes.

    Raises PermissionError when its folder may not be looked at.
    """
    return _files_in(pid, argument, argument.folders((environment(pid) or {}) if argument.kind == "module" else {}))


def _files_in(pid: int, argument: ScriptArgument, folders: Iterable[str]) -> tuple[FileIdentity, ...]:
    # Of a module, the first folder that has it counts, and in that a package goes before a file.
    for folder in folders:
        paths = [os.path.join(folder, path) for path in argument.paths()]
        found = {path: there for path in paths if (there := _look_up(pid, path) or _in_replaced_folder(pid, path))}
        if argument.kind == "script":
            return tuple(found.values())
        package, module, main = paths
        if found:
            return tuple(found[path] for path in ((main,) if package in found else (module, main)) if path in found)
    return ()


def own_script(process: Process) -> str | None:
    """Return the file that a Python runs, links resolved, where we see the same file systems as it does."""
    folder = current_folder(process.pid)
    python = is_python(process.exe or "".join(process.argv[:1]))
    if folder is None or not python or not same_mount_namespace(process.pid):
        return None
    argument = script_argument(process.argv)
    paths = (os.path.realpath(os.path.join(folder, path)) for path in (argument.paths() if argument else ()))
    return next((path for path in paths if os.path.isfile(path)), None)


def contradicted(pid: int, argument: ScriptArgument, identity: FileIdentity) -> bool:
    """Return whether the folder that a process was started in, by its `PWD`, names another file of the same name.

    A process that changed its folder since would otherwise be taken for the app of the folder it went to.
    """
    variables = environment(pid) or {}
    folder = variables.get("PWD", "")
    if not os.path.isabs(folder) or os.path.isabs(argument.text):
        return False
    folders = argument.folders(variables if argument.kind == "module" else {})
    others = _files_in(pid, argument, [os.path.join(folder, one) for one in folders])
    return bool(others) and identity not in others


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
    root = f"/proc/{pid}/root"
    try:
        final = _resolve(root, root if path.startswith("/") else f"/proc/{pid}/cwd", path)
        file, folder_stat = os.stat(final), os.stat(os.path.dirname(final))
    except PermissionError:
        raise
    except OSError:
        return None
    return FileIdentity((file.st_dev, file.st_ino), (folder_stat.st_dev, folder_stat.st_ino))


def _resolve(root: str, start: str, path: str) -> str:
    # path_resolution(7) within another process's root: what os.path.realpath does, and openat2's RESOLVE_IN_ROOT.
    base, below, links = start, list[str](), 0
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
        if target.startswith("/"):
            base, below = root, []
        pending.extend(target.split("/")[::-1])
    return "/".join((base, *below))


def _in_replaced_folder(pid: int, path: str) -> FileIdentity | None:
    """Return the file that stands today where a process was started, when its folder was deleted and made anew."""
    folder = current_folder(pid)
    if folder is None or not folder.endswith(DELETED) or os.path.isabs(path) or not same_mount_namespace(pid):
        return None
    if os.path.lexists(folder):
        return None  # a folder that really has this name
    return own_file(os.path.join(folder.removesuffix(DELETED), path))
