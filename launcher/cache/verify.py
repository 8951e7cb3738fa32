r"""A blob's name is its hash, so a cache of every version can be verified offline.

64 hex digits are the sha256 of the content, 40 the sha1 of git's `blob <size>\0` and the content. Some mirrors send an
ETag of their own instead, often of 40 digits too: if a list of the commit's files is known, its hashes count. Without
one, such a name counts as a hash if another file of the repo matches its own name. On systems without links, the files
are in the snapshot itself, and only a list has their hashes.
"""

from __future__ import annotations

import mmap
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Literal, NamedTuple

from ..system.files import content_hash
from ..ui.console import Progress
from .completeness import Files, tree
from .dirs import open_to_read, walk
from .layout import Repo
from .lists import Lists, links_of
from .memory import Memory, line_of, settled
from .names import HASH
from .snapshots import Revision

Verdict = Literal["ok", "corrupt", "size differs", "missing", "incomplete", "unverifiable"]

_BLOCK = 2 << 20
_NO_HASH = "its hash is not known offline: this cache has no links, and no list of its files"
_FOREIGN = "it is not huggingface_hub's"


class Candidate(NamedTuple):
    """Hold a file to verify: the paths of its repo and its own, its revisions, and its expected hash in hex.

    `blob` is blank for a plain file in a snapshot, and `name` is its name there. Without `expected`, `why` gives the
    known facts. `doubtful` means that the hash comes only from the blob's name, which may not be a hash. An
    `incomplete` candidate is a snapshot with a missing file whose name is unknown.
    """

    repo: str
    path: str
    blob: str
    commits: tuple[str, ...]
    expected: str | None
    why: str = ""
    name: str = ""

    @property
    def shown(self) -> str:
        """Return its name for a progress bar: its own name, or its repo's folder."""
        return self.name or self.folder

    missing: bool = False
    denied: bool = False
    doubtful: bool = False
    incomplete: bool = False

    @property
    def folder(self) -> str:
        """Return the name of its repo's folder."""
        return os.path.basename(self.repo)


class Checked(NamedTuple):
    """Hold the verdict on one file; `remembered` means that it was not read again, `denied` that it is unreadable."""

    candidate: Candidate
    verdict: Verdict
    why: str
    size: int
    remembered: bool = False
    denied: bool = False

    @property
    def damaged(self) -> bool:
        """Return whether the file differs from the hub's."""
        return self.verdict in ("corrupt", "size differs", "missing")

    @property
    def fails(self) -> bool:
        """Return whether it makes the cache differ from the hub: a damaged file, or an incomplete snapshot."""
        return self.damaged or self.verdict == "incomplete"


class Verification:
    """Verify files with all cores; an interrupted run keeps its results so far."""

    def __init__(self, memory: Memory, *, full: bool = False, keep_whole: bool = False) -> None:
        self.memory = memory
        self.checked: list[Checked] = []
        self.whole = self.remembered = self.bytes = self.read_bytes = 0
        self._full = full
        self._keep_whole = keep_whole
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._sizes: dict[str, dict[str, int]] = {}
        self._named_by_hash: set[str] = set()
        self._guard = threading.Lock()

    def run(self, candidates: Iterable[Candidate], progress: Progress | None = None) -> None:
        """Verify every candidate; several threads report their progress, one at a time."""
        work: queue.Queue[Candidate | None] = queue.Queue(256)
        threads = [threading.Thread(target=self._work, args=(work, progress), daemon=True) for _ in range(cores())]
        started = False
        try:
            for candidate in candidates:
                if not self._needs_reading(candidate, progress):
                    continue
                if not started:
                    started = True
                    for thread in threads:
                        thread.start()
                self._put(work, candidate)
            for _ in threads if started else ():
                self._put(work, None)
            for thread in threads if started else ():
                thread.join()
        except BaseException:
            self._stop.set()
            raise
        if self._error:
            raise self._error
        self.checked = [self._settled(checked) for checked in self.checked]

    def _settled(self, checked: Checked) -> Checked:
        """Return the verdict on a file whose name may not be a hash, after the other files of its repo are verified."""
        candidate = checked.candidate
        if not (candidate.doubtful and checked.damaged) or candidate.repo in self._named_by_hash:
            return checked
        why = "its name may be a mirror's own ETag, not a hash, and no list of its commit's files is known"
        return checked._replace(verdict="unverifiable", why=why)

    def _put(self, work: queue.Queue[Candidate | None], task: Candidate | None) -> None:
        while not self._stop.is_set():
            try:
                work.put(task, timeout=0.2)
            except queue.Full:
                continue
            return

    def _needs_reading(self, candidate: Candidate, progress: Progress | None) -> bool:
        """Return whether a file must be read; note the verdict on any other file."""
        if candidate.why:
            verdict: Verdict = "missing" if candidate.missing else "unverifiable"
            verdict = "incomplete" if candidate.incomplete else verdict
            self._note(Checked(candidate, verdict, candidate.why, 0, denied=candidate.denied))
            return False
        try:
            status = os.stat(candidate.path)
        except OSError as error:
            self._note(_unreadable(candidate, error))
            return False
        if not stat.S_ISREG(status.st_mode):
            self._note(Checked(candidate, "unverifiable", "it is not a regular file", 0))
            return False
        if not self._full and self.memory.knows(line_of(status, candidate.expected or "")):
            self._note(Checked(candidate, "ok", "", status.st_size, remembered=True))
            if progress:
                with self._guard:
                    progress(status.st_size, candidate.shown)
            return False
        return True

    def _work(
        self,
        work: queue.Queue[Candidate | None],
        progress: Progress | None,
    ) -> None:
        block = buffer()

        reading = ""

        def proceed(count: int) -> bool:
            with self._guard:
                self.read_bytes += count
                if progress:
                    progress(count, reading)
            return not self._stop.is_set()

        while not self._stop.is_set():
            task = work.get()
            if task is None:
                return
            reading = task.shown
            try:
                checked = self._check(task, block, proceed)
            except OSError as error:
                checked = _unreadable(task, error)
            except Exception as error:
                self._error = error  # a file that nothing has read must not count as intact
                self._stop.set()
                return
            if checked:
                self._note(checked)

    def _check(self, candidate: Candidate, block: memoryview, proceed: Callable[[int], bool]) -> Checked | None:
        assert candidate.expected
        began = time.time()
        descriptor = open_to_read(candidate.path)
        contradicted = False
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                return Checked(candidate, "unverifiable", "it is not a regular file", 0)
            digest = content_hash(descriptor, candidate.expected, buffer=block, proceed=proceed)
            if digest != candidate.expected and candidate.blob != candidate.expected and HASH.fullmatch(candidate.blob):
                os.lseek(descriptor, 0, os.SEEK_SET)
                contradicted = candidate.blob == content_hash(descriptor, candidate.blob, buffer=block, proceed=proceed)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if digest is None:
            return None
        line = line_of(after, candidate.expected)
        if line != line_of(before, candidate.expected):
            return Checked(candidate, "unverifiable", "it changed while it was read", after.st_size)
        if digest == candidate.expected:
            if settled(after, began):
                with self._guard:
                    self.memory.remember(line)
            return Checked(candidate, "ok", "", after.st_size)
        if contradicted:
            why = f"its hash matches its name, but the list of its commit's files has {candidate.expected[:12]} instead"
            return Checked(candidate, "unverifiable", why, after.st_size)
        with self._guard:
            self.memory.forget(line)
        known = self._known_size(candidate)
        if known is not None and known != after.st_size:
            return Checked(candidate, "size differs", f"{after.st_size} bytes instead of {known}", after.st_size)
        return Checked(candidate, "corrupt", f"its content has the hash {digest}", after.st_size)

    def _known_size(self, candidate: Candidate) -> int | None:
        for commit in candidate.commits:
            path = f"{candidate.repo}/trees/{commit}.json"
            with self._guard:
                if path not in self._sizes:
                    self._sizes[path] = dict(tree(path).values())
                size = self._sizes[path].get(candidate.expected or "")
            if size is not None:
                return size
        return None

    def _note(self, checked: Checked) -> None:
        with self._guard:
            self.bytes += checked.size
            self.remembered += checked.remembered
            if checked.verdict == "ok":
                if checked.candidate.doubtful:
                    self._named_by_hash.add(checked.candidate.repo)
                self.whole += 1
                if not self._keep_whole:
                    return
            self.checked.append(checked)


def buffer() -> memoryview:
    """Return a block of memory to read files into."""
    block = mmap.mmap(-1, _BLOCK)
    with suppress(AttributeError, OSError):  # with huge pages, reading takes an eighth less time
        block.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(block)


def candidates(repos: Iterable[Repo], pinned: Mapping[str, Mapping[str, Files]] | None = None) -> Iterator[Candidate]:
    """Yield every file of the repos, the largest of each repo first, and shared files once.

    `pinned` lists known files of commits, by repo folder and commit: all of them must exist.
    """
    yielded: set[tuple[tuple[int, int], str]] = set()
    for repo in repos:
        lists = Lists(repo, (pinned or {}).get(repo.folder, {}))
        for blob in sorted(repo.blobs.values(), key=lambda blob: -blob.size):
            commits = commits_of(repo, blob.name)
            expected, doubtful = lists.expected(blob.name, commits)
            if blob.shared and expected:
                if (blob.identity, expected) in yielded:
                    continue
                yielded.add((blob.identity, expected))
            why = "" if expected else "its name is not a hash"
            path = f"{repo.path}/blobs/{blob.name}"
            yield Candidate(repo.path, path, blob.name, commits, expected, why, doubtful=doubtful)
        for revision in repo.revisions:
            snapshot = f"{repo.path}/snapshots/{revision.commit}"
            commits = (revision.commit,)
            for name in revision.dangling:
                why = "the blob it links to is missing"
                yield Candidate(repo.path, f"{snapshot}/{name}", "", commits, None, why, name, missing=True)
            for name in lists.missing(revision):
                why = f"the list of the files of {revision.commit[:7]} has it"
                yield Candidate(repo.path, f"{snapshot}/{name}", "", commits, None, why, name, missing=True)
            if doubt := lists.doubt(revision):
                name = revision.commit[:7]
                yield Candidate(repo.path, snapshot, "", commits, None, doubt, name, incomplete=True)
            for name in revision.outside:
                why = "it is a link that leads out of the cache"
                yield Candidate(repo.path, f"{snapshot}/{name}", "", commits, None, why, name)
            if revision.plain_files or revision.foreign:
                yield from _plain(repo, revision, lists.of(revision.commit))


def unreadable(path: str, why: str) -> Candidate:
    """Return the candidate for a whole repo that cannot be read."""
    return Candidate(path, path, "", (), None, f"it cannot be read: {why}", denied=True)


def commits_of(repo: Repo, blob: str) -> tuple[str, ...]:
    """Return the revisions that link to a blob."""
    return tuple(revision.commit for revision in repo.revisions if blob in revision.blobs)


class Names:
    """Find the readable names of files in their revisions: `config.json`."""

    def __init__(self) -> None:
        self._snapshots: dict[str, Mapping[str, list[str]]] = {}

    def of(self, candidate: Candidate) -> tuple[str, ...]:
        """Return the names of a file; none for a blob without a revision."""
        if not candidate.blob:
            return (candidate.name,) if candidate.name else ()
        snapshots = (f"{candidate.repo}/snapshots/{commit}" for commit in candidate.commits)
        links = (self._links(snapshot).get(candidate.blob, ()) for snapshot in snapshots)
        return tuple(sorted({name for names in links for name in names}))

    def _links(self, snapshot: str) -> Mapping[str, list[str]]:
        if snapshot not in self._snapshots:
            self._snapshots[snapshot] = links_of(snapshot)
        return self._snapshots[snapshot]


def _plain(repo: Repo, revision: Revision, listed: Files) -> Iterator[Candidate]:
    snapshot = f"{repo.path}/snapshots/{revision.commit}"
    for entry in walk(snapshot):
        if not entry.is_symlink():
            name = entry.path[len(snapshot) + 1 :]
            known = listed.get(name)
            unknown = _FOREIGN if name in revision.foreign else _NO_HASH
            why = "" if known else unknown
            expected = known[0] if known else None
            yield Candidate(repo.path, entry.path, "", (revision.commit,), expected, why, name)


def _unreadable(candidate: Candidate, error: OSError) -> Checked:
    if isinstance(error, FileNotFoundError):
        return Checked(candidate, "unverifiable", "it was removed meanwhile", 0)
    return Checked(candidate, "unverifiable", (error.strerror or str(error)).lower(), 0, denied=True)


def cores() -> int:
    """Return how many threads read at once."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
