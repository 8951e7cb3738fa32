"""The shared blob store of huggingface_hub 1.32 and later: a payload goes only when no repo can still link to it.

A payload is `<root>/blobs/<2 hex>/<64 hex>`, with `.refs` beside it: a hint that lists the repo blobs which link to
it, one a line, each to be checked against the disk. Whoever publishes, links or removes one holds the flock on its
`.lock`. The rules are those of huggingface_hub's `utils/_shared_blobs.py`; older versions know nothing of the store.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from ..config.paths import HUB_ENTRY
from ..system import files

FOLDER = "blobs"
_MARKER = ".huggingface-shared-blobs"
_MARKED = b"1\n"
LOCK_SECONDS = 5.0
_PAYLOAD = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{2}")
_OWN = re.compile(r"[0-9a-f]{64}(\..+)?", re.DOTALL)
_FAST = re.compile(r"\.\./\.\./blobs/[0-9a-f]{2}/([0-9a-f]{64})")


def is_store(root: str) -> bool:
    """Return whether the root has a shared store in the one format that is known: real folder, real marker."""
    return is_marked(f"{root}/{FOLDER}")


def is_marked(folder: str) -> bool:
    """Return whether this folder is a shared store, wherever it lies."""
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return False
        return files.read_regular(f"{folder}/{_MARKER}", 16) == _MARKED
    except OSError:
        return False


def path_of(root: str, payload: str) -> str:
    """Return where a payload lies."""
    return within(f"{root}/{FOLDER}", payload)


def within(folder: str, payload: str) -> str:
    """Return where a payload lies in a store that is this folder."""
    return f"{folder}/{payload[:2]}/{payload}"


def path_below(payload: str) -> str:
    """Return where a payload lies, as seen from the root."""
    return within(FOLDER, payload)


def links_of(root: str, folder: str) -> Iterator[str]:
    """Yield the payloads that a repo's blobs link to, those that are missing among them."""
    yield from (payload for _, payload in blobs_of(root, folder))


def blobs_of(root: str, folder: str) -> Iterator[tuple[str, str]]:
    """Yield a repo's blobs that are links to payloads, as the hint names them, each with its payload."""
    path = f"{root}/{folder}/{FOLDER}"
    try:
        names = os.listdir(path)
    except OSError:
        return
    for name in names:
        try:
            payload = target(root, path, os.readlink(f"{path}/{name}"))
        except OSError:
            continue  # a blob of its own
        if payload:
            yield f"{folder}/{FOLDER}/{name}", payload


def target(root: str, folder: str, text: str) -> str | None:
    """Return the payload that a link in `folder` names, or None where it leads elsewhere."""
    fast = _FAST.fullmatch(text)
    if fast:
        return fast[1]
    path = os.path.normpath(os.path.join(folder, text))
    name = os.path.basename(path)
    return name if _PAYLOAD.fullmatch(name) and path == path_of(root, name) else None


def linked(root: str, folders: Iterable[str]) -> frozenset[str]:
    """Return every payload that these repos really link to: the hint knows nothing of a folder that was copied."""
    return frozenset(payload for folder in folders for payload in links_of(root, folder))


def sizes(root: str, only: Collection[str] | None = None) -> Iterator[tuple[str, int]]:
    """Yield every payload in the store, or those of `only` that are there, with its bytes."""
    for payload in _names(root) if only is None else only:
        try:
            status = os.lstat(path_of(root, payload))
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield payload, status.st_size


def widowed(root: str) -> Iterator[str]:
    """Yield the payloads that are gone, and of which only the hint is left."""
    for names in _folders(root):
        for name in names:
            payload = name.removesuffix(".refs")
            if payload != name and _PAYLOAD.fullmatch(payload) and payload not in names:
                yield payload


def has_strangers(root: str) -> bool:
    """Return whether anything lies in the store that is not huggingface_hub's."""
    for prefix in os.listdir(f"{root}/{FOLDER}"):
        path = f"{root}/{FOLDER}/{prefix}"
        if prefix.startswith(_MARKER):
            continue
        if not _PREFIX.fullmatch(prefix) or os.path.islink(path) or not os.path.isdir(path):
            return True
        if not all(_OWN.fullmatch(name) and name.startswith(prefix) for name in os.listdir(path)):
            return True
    return False


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
    """Return the repo blobs (`models--a--b/blobs/<name>`) that link to a payload, or None where that is unknowable."""
    path = f"{path_of(root, payload)}.refs"
    try:
        with open(files.open_regular(path), "rb") as file:
            lines = file.read().decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = set()
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
            if error.errno == errno.EINVAL:  # it is there and no link: a blob of the repo's own
                continue
            return None
        if target(root, f"{root}/{parts[0]}/{FOLDER}", text) == payload:
            found.add(line)
    return frozenset(found)


@contextmanager
def locked(parent: int, payload: str, patience: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock of a payload in the folder `parent` as huggingface_hub does; a planted link is not followed.

    Raises OSError where it cannot be had; whoever holds it does so for the time of a rename.
    """
    descriptor = files.open_regular(f"{payload}.lock", os.O_WRONLY | os.O_CREAT, 0o666, dir_fd=parent)
    try:
        if not files.lock_within(descriptor, patience):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        yield
    finally:
        os.close(descriptor)
