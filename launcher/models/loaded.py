"""Find the commit of a model that a process uses: by its open and mapped files, or by the record of its start.

A mapped file is visible for as long as the process lives, even after it was deleted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..cache import layout, names, store
from ..cache.dirs import walk
from ..cache.entries import unescaped
from ..config.paths import HUB_ENTRY
from .lockfile import Lock
from .versions import Current

_GONE = " (deleted)"


class InUse(NamedTuple):
    """Hold a model that a process uses: its commit, None if no commit on the disk has its files, and the evidence.

    `now` is the commit on the disk, which a restart would load; None without one.
    """

    repo: str
    commit: str | None
    evidence: Literal["mapped", "lock record"]
    file: str
    now: str | None

    @property
    def changed(self) -> bool:
        """Return whether the disk has changed since the start."""
        return self.now != self.commit

    def line(self, *, locked: bool = False) -> str:
        """Return the model as a line of `status`; a `locked` instance keeps its commit after a locked restart."""
        commit = self.commit[:7] if self.commit else "a commit that is no longer on the disk"
        how = f"mapped: {self.file}" if self.evidence == "mapped" else "on the disk when it started"
        if not self.changed:
            return f"{self.repo} @ {commit} ({how})"
        if self.now is None:
            then = "the disk has no commit of it now"
        elif locked:
            then = f"the cache has {self.now[:7]}, which a restart without --locked loads"
        else:
            then = f"the disk has {self.now[:7]} now, which a restart loads"
        return f"{self.repo} @ {commit} ({how}); {then}"

    def document(self) -> Mapping[str, Any]:
        """Return it for `--json`."""
        return {
            "repo": self.repo,
            "commit": self.commit,
            "evidence": self.evidence,
            "on_disk": self.now,
            "changed": self.changed,
        }


class _Mapped(NamedTuple):
    root: str
    folder: str
    path: str


class Opened(NamedTuple):
    """Hold a file that a process has mapped or open: its path, its device and inode, and whether it was deleted."""

    path: str
    identity: tuple[int, int]
    gone: bool


def opened(pids: Sequence[int]) -> tuple[Opened, ...]:
    """Return the files that these processes have mapped or open, as far as this user may see them."""
    files: set[Opened] = set()
    for pid in pids:
        with suppress(OSError):  # it has ended, belongs to another user, or the system has no /proc
            files |= _mapped_files(pid)
            for number in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    path, status = os.readlink(f"/proc/{pid}/fd/{number}"), os.stat(f"/proc/{pid}/fd/{number}")
                    if path.startswith("/") and stat.S_ISREG(status.st_mode):
                        files.add(_opened(path, (status.st_dev, status.st_ino)))
    return tuple(sorted(files))


def _mapped_files(pid: int) -> set[Opened]:
    files = set()
    with open(f"/proc/{pid}/maps", "rb") as file:
        for line in file:
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[5].startswith(b"/"):
                major, _, minor = fields[3].partition(b":")
                identity = (os.makedev(int(major, 16), int(minor, 16)), int(fields[4]))
                files.add(_opened(os.fsdecode(unescaped(fields[5].rstrip(b"\n"))), identity))
    return files


def _opened(path: str, identity: tuple[int, int]) -> Opened:
    return Opened(path.removesuffix(_GONE), identity, path.endswith(_GONE))


def in_use(
    files: Sequence[Opened], roots: Sequence[Path], recorded: Mapping[str, str], now: Sequence[Current]
) -> tuple[InUse, ...]:
    """Return the models of these files; `recorded` are the models at the start of their instance."""
    disk = {one.repo: one.commit for one in now}
    mapped = _by_repo(files, roots)
    models = [_by_files(repo, files, recorded.get(repo), disk.get(repo)) for repo, files in sorted(mapped.items())]
    models += [
        InUse(repo, commit, "lock record", "", disk.get(repo))
        for repo, commit in sorted(recorded.items())
        if repo not in mapped
    ]
    return tuple(sorted(models, key=lambda model: model.repo))


def hidden(files: Sequence[Opened], roots: Sequence[Path], lock: Lock) -> tuple[str, ...]:
    """Return the files that a locked instance cannot see: of unpinned repos, or of other commits than the pinned ones.

    A locked launch replaces files of other commits than the pinned one.
    """
    unseen: set[str] = set()
    for repo, mapped in _by_repo(files, roots).items():
        models = [model for model in lock if model.repo == repo and not model.local_dir]
        if not models:
            unseen.add(repo)
            continue
        with suppress(OSError):
            read = layout.read(mapped[0].root, mapped[0].folder)
            blobs = {one.path.removeprefix("blobs/") for one in mapped if one.path.startswith("blobs/")}
            for model in models:
                missing = blobs - {file.hash for file in model.files.values()}
                own = next((one.blobs for one in read.revisions if one.commit == model.commit), frozenset())
                unseen.update(f"{repo}: {name}" for name in _names(read, {model.commit}, missing & own))
    return tuple(sorted(unseen))


def _by_repo(files: Sequence[Opened], roots: Sequence[Path]) -> Mapping[str, Sequence[_Mapped]]:
    """Return the files in hub caches, by repo."""
    real = [os.path.realpath(root) for root in roots]
    mapped: dict[str, list[_Mapped]] = {}
    payloads: set[tuple[str, str]] = set()
    for path in dict.fromkeys(file.path for file in files):
        for root in real:
            if not path.startswith(f"{root}/"):
                continue
            folder, _, rest = path[len(root) + 1 :].partition("/")
            if HUB_ENTRY.match(folder) and rest.startswith(("blobs/", "snapshots/")):
                mapped.setdefault(names.name(folder), []).append(_Mapped(root, folder, rest))
            elif folder == store.FOLDER:
                payloads.add((root, rest.rpartition("/")[2]))
    for root, payload in payloads:
        for link in store.references(root, payload) or ():
            folder, _, rest = link.partition("/")
            mapped.setdefault(names.name(folder), []).append(_Mapped(root, folder, rest))
    return mapped


def _by_files(repo: str, files: Sequence[_Mapped], recorded: str | None, now: str | None) -> InUse:
    """Return the commit of these files; if several commits have them all, prefer the recorded, then the current one."""
    blobs = {file.path.removeprefix("blobs/") for file in files if file.path.startswith("blobs/")}
    plain = {file.path.split("/")[1] for file in files if file.path.startswith("snapshots/")}
    try:
        read = layout.read(files[0].root, files[0].folder)
        commits = {r.commit for r in read.revisions if blobs <= r.blobs and (not plain or r.commit in plain)}
        name = next(iter(_names(read, commits, blobs | {file.path.rpartition("/")[2] for file in files})), "")
    except OSError:
        commits, name = set(), ""
    if not commits and plain and not blobs:
        commits = plain if len(plain) == 1 else set()
    commit = next((commit for commit in (recorded, now) if commit in commits), min(commits, default=None))
    return InUse(repo, commit, "mapped", name or files[0].path.rpartition("/")[2][:16], now)


def _names(repo: layout.Repo, commits: set[str], blobs: set[str]) -> Iterator[str]:
    for commit in sorted(commits):
        base = f"{repo.path}/snapshots/{commit}"
        for entry in walk(base):
            target = os.path.basename(os.readlink(entry.path)) if entry.is_symlink() else entry.name
            if target in blobs:
                yield os.path.relpath(entry.path, base)
