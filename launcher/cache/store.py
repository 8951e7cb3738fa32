"""The shared blob store of huggingface_hub 1.32 and later: a payload is removed only if no repo can link to it.

A payload is `<root>/blobs/<2 hex>/<64 hex>`. A `.refs` file next to it lists the repo blobs that link to it, one a
line; it is a hint, so each is checked on the disk. Every process that publishes, links or removes a payload holds the
flock on its `.lock`. The rules are those of huggingface_hub's `utils/_shared_blobs.py`; older versions ignore the
store.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress

from ..config.paths import HUB_ENTRY
from ..system.files import lock_within, open_folder, open_regular, read_regular

FOLDER = "blobs"
MARKER = ".huggingface-shared-blobs"
_MARKED = b"1\n"
LOCK_SECONDS = 5.0
_MOST_BYTES = 1 << 26
_PAYLOAD = re.compile(r"[0-9a-f]{64}")
_FAST = re.compile(r"\.\./\.\./blobs/[0-9a-f]{2}/([0-9a-f]{64})")


def is_store(root: str) -> bool:
    """Return whether the root has a shared store in the one known format: a real folder with a real marker."""
    folder = f"{root}/{FOLDER}"
    try:
        return stat.S_ISDIR(os.lstat(folder).st_mode) and read_regular(f"{folder}/{MARKER}", 16) == _MARKED
    except OSError:
        return False


def path_of(root: str, payload: str) -> str:
    """Return the path of a payload."""
    return within(f"{root}/{FOLDER}", payload)


def within(folder: str, payload: str) -> str:
    """Return the path of a payload in this store folder."""
    return f"{folder}/{payload[:2]}/{payload}"


def path_below(payload: str) -> str:
    """Return the path of a payload, relative to the root."""
    return within(FOLDER, payload)


def blobs_of(root: str, folder: str) -> Iterator[tuple[str, str]]:
    """Yield a repo's blobs that are links to payloads, named as in the hint, each with its payload.

    Raises OSError if the links cannot be read.
    """
    path = f"{root}/{folder}/{FOLDER}"
    try:
        listing = os.scandir(path)
    except FileNotFoundError:
        if os.path.islink(path) or os.path.islink(f"{root}/{folder}"):
            raise  # its disk is not mounted
        return
    with listing:
        for entry in listing:
            if entry.is_symlink():
                payload = target(root, path, os.readlink(entry.path))
                if payload:
                    yield f"{folder}/{FOLDER}/{entry.name}", payload


def target(root: str, folder: str, text: str) -> str | None:
    """Return the payload that a link in `folder` names; None if it leads elsewhere."""
    fast = _FAST.fullmatch(text)
    if fast:
        return fast[1]
    path = os.path.normpath(os.path.join(folder, text))
    name = os.path.basename(path)
    return name if _PAYLOAD.fullmatch(name) and path == path_of(root, name) else None


def linked(root: str, folders: Iterable[str]) -> frozenset[str] | None:
    """Return every payload that these repos link to on the disk: the hint does not list links of a copied folder.

    Return None if the links of any repo are unreadable.
    """
    try:
        return frozenset(payload for folder in folders for _, payload in blobs_of(root, folder))
    except OSError:
        return None


def payloads(root: str, only: Collection[str] | None = None) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every payload in the store, or the existing ones of `only`, with its stat."""
    for payload in _names(root) if only is None else only:
        try:
            status = os.lstat(path_of(root, payload))
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield payload, status


def _names(root: str) -> Iterator[str]:
    for names in _folders(root):
        yield from (name for name in names if _PAYLOAD.fullmatch(name))


def _folders(root: str) -> Iterator[frozenset[str]]:
    if not is_store(root):
        return
    for prefix in os.listdir(f"{root}/{FOLDER}"):
        if len(prefix) == 2:
            try:
                names = os.listdir(f"{root}/{FOLDER}/{prefix}")
            except OSError:
                continue
            yield frozenset(name for name in names if name.startswith(prefix))


def references(root: str, payload: str) -> frozenset[str] | None:
    """Return the repo blobs (`models--a--b/blobs/<name>`) that link to a payload; None if they cannot be determined."""
    try:
        lines = read_regular(f"{path_of(root, payload)}.refs", _MOST_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    blobs = set()
    for line in lines:
        parts = line.split("/")
        if len(parts) != 3 or parts[1] != FOLDER or not HUB_ENTRY.match(parts[0]) or parts[2] in ("", ".", ".."):
            continue
        if "\0" in line:
            continue
        try:
            text = os.readlink(f"{root}/{line}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno == errno.EINVAL:  # it exists and is not a link: a blob of the repo's own
                continue
            return None
        if target(root, f"{root}/{parts[0]}/{FOLDER}", text) == payload:
            blobs.add(line)
    return frozenset(blobs)


@contextmanager
def locked(parent: int, payload: str, patience: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock of a payload in the folder `parent` as huggingface_hub does, without following a planted link.

    A lock file that this call created is removed again. Raises OSError if the lock is not free; a holder keeps it only
    for the time of a rename.
    """
    name, made = f"{payload}.lock", True
    try:
        descriptor = open_regular(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=parent)
    except FileExistsError:
        descriptor, made = open_regular(name, os.O_WRONLY, dir_fd=parent), False
    try:
        if not lock_within(descriptor, patience):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        yield
        if made:
            with suppress(OSError):
                os.unlink(name, dir_fd=parent)
    finally:
        os.close(descriptor)


def dismantle(root: int) -> None:
    """Remove a store, below an open root, that contains only its marker, empty folders and locks without a payload.

    Raises OSError if it contains anything else; then it stays a store.
    """
    folder = open_folder(FOLDER, dir_fd=root)
    try:
        names = os.listdir(folder)
        if not names:  # a run was killed after it removed the marker
            os.rmdir(FOLDER, dir_fd=root)
            return
        for prefix in names if read_regular(MARKER, 16, dir_fd=folder) == _MARKED else ():
            if len(prefix) == 2:
                _drop_locks(folder, prefix)
                with suppress(OSError):
                    os.rmdir(prefix, dir_fd=folder)
        if os.listdir(folder) != [MARKER]:
            return
        os.unlink(MARKER, dir_fd=folder)
        try:
            os.rmdir(FOLDER, dir_fd=root)
        except OSError:
            # A download has begun meanwhile, and without the marker no download would use this store again.
            with open(open_regular(MARKER, os.O_WRONLY | os.O_CREAT, dir_fd=folder), "wb") as file:
                file.write(_MARKED)
            raise
    finally:
        os.close(folder)


def _drop_locks(folder: int, prefix: str) -> None:
    with suppress(OSError):
        inner = open_folder(prefix, dir_fd=folder)
        try:
            names = frozenset(os.listdir(inner))
            for name in names:
                payload = name.removesuffix(".lock").removesuffix(".refs")
                if name.endswith((".lock", ".refs")) and _PAYLOAD.fullmatch(payload) and payload not in names:
                    with suppress(OSError), locked(inner, payload, 0):
                        os.unlink(name, dir_fd=inner)
        finally:
            os.close(inner)
