"""Which commit of a model a process uses is told by the files it has open or mapped, else by the record of its start.

A file that was mapped shows for as long as the process lives, even when it is gone from the disk by now.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..cache import layout, names, store
from ..cache.dirs import walk
from ..cache.entries import unescaped
from ..config.paths import HUB_ENTRY
from .versions import Current

_GONE = " (deleted)"


class InUse(NamedTuple):
    """Hold a model that a process uses: its commit, None where no commit has its files any more, and the evidence.

    `now` is the commit on the disk, which a restart would load; None where there is none any more.
    """

    repo: str
    commit: str | None
    evidence: Literal["mapped", "lock record"]
    file: str
    now: str | None

    @property
    def changed(self) -> bool:
        """Return whether the disk has changed since."""
        return self.now != self.commit

    def line(self, *, locked: bool = False) -> str:
        """Return the model as a line of `status`; a `locked` instance keeps its commit when it is restarted locked."""
        commit = self.commit[:7] if self.commit else "a commit that is not on the disk any more"
        how = f"mapped: {self.file}" if self.evidence == "mapped" else "on the disk when it started"
        if not self.changed:
            return f"{self.repo} @ {commit} ({how})"
        if self.now is None:
            then = "the disk has no commit of it any more"
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


def in_use(
    pids: Sequence[int], roots: Sequence[Path], recorded: Mapping[str, str], now: Sequence[Current]
) -> tuple[InUse, ...]:
    """Return the models that these processes use; `recorded` is what their instance was started with."""
    disk = {model.repo: model.commit for model in now}
    real = [os.path.realpath(root) for root in roots]
    mapped: dict[str, list[_Mapped]] = {}
    payloads: set[tuple[str, str]] = set()
    for pid in pids:
        for path in _files(pid):
            for root in real:
                if not path.startswith(f"{root}/"):
                    continue
                folder, _, rest = path[len(root) + 1 :].partition("/")
                if HUB_ENTRY.match(folder) and rest.startswith(("blobs/", "snapshots/")):
                    mapped.setdefault(names.name(folder), []).append(_Mapped(root, folder, rest))
                elif folder == store.FOLDER:
                    payloads.add((root, rest.rpartition("/")[2].removesuffix(_GONE)))
    for root, payload in payloads:
        for link in store.references(root, payload) or ():
            folder, _, rest = link.partition("/")
            mapped.setdefault(names.name(folder), []).append(_Mapped(root, folder, rest))
    models = [_by_files(repo, files, recorded.get(repo), disk.get(repo)) for repo, files in sorted(mapped.items())]
    models += [
        InUse(repo, commit, "lock record", "", disk.get(repo))
        for repo, commit in sorted(recorded.items())
        if repo not in mapped
    ]
    return tuple(sorted(models, key=lambda model: model.repo))


def _by_files(repo: str, files: Sequence[_Mapped], recorded: str | None, now: str | None) -> InUse:
    """Return the commit whose files these are; of several that have them all, the recorded, else the current one."""
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


def _files(pid: int) -> Iterator[str]:
    """Yield the files that a process has mapped or open, as its own mount namespace names them."""
    paths: set[str] = set()
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            for line in file:
                fields = line.split(None, 5)
                if len(fields) == 6 and fields[5].startswith(b"/"):
                    paths.add(os.fsdecode(unescaped(fields[5].rstrip(b"\n"))))
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                paths.add(os.readlink(f"/proc/{pid}/fd/{number}"))
            except OSError:
                continue
    except OSError:
        pass  # gone, another user's, or a system without /proc: then the record is all there is
    yield from sorted(paths)
