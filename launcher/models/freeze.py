"""Make a lock from the files on the disk, as `pip freeze` does: by repo if it is known, otherwise by file.

The repo of a file follows from the layout of a hub cache, from huggingface_hub's notes in a folder of the app's, or
from its hash in a commit's list of files. Every content is read before it is pinned.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..cache import completeness
from ..cache.completeness import Files
from ..cache.digests import GIT_SHA1, SHA256, Wanted, digests
from ..cache.memory import Memory
from ..cache.names import HASH
from ..errors import ExitStatus, LauncherError, quoted
from ..ui.console import Progress
from ..ui.text import some
from . import placement, repo_id
from .lockfile import LockedFile, LockedModel
from .placement import Place
from .subjects import Subject
from .versions import own_folders
from .weights import Library, flat_files, is_exempt, is_weights, name_of, repos_of_commits

Commit = tuple[str, str]
"""A repo and a commit of it."""
# No app loads these; a download of the whole repo brings them.
_OF_THE_WHOLE = frozenset((".gitattributes", "README.md"))


class Own(NamedTuple):
    """Hold the files in folders of the app's: their paths with their sizes, and huggingface_hub's notes about some.

    `noted` maps a file's path to its folder, its path in it, and its note.
    """

    sizes: Mapping[str, int]
    noted: Mapping[str, tuple[str, str, placement.Noted]]

    @property
    def commits(self) -> frozenset[str]:
        """Return the commits in the notes."""
        return frozenset(note.commit for _, _, note in self.noted.values())


def own_files(library: Library) -> Own:
    """Return the weights in the app's folders, and every file there that huggingface_hub has downloaded."""
    sizes: dict[str, int] = {}
    noted: dict[str, tuple[str, str, placement.Noted]] = {}
    has_notes: dict[str, bool] = {}
    app_dir = library.settings.app_dir
    for path, status in flat_files(own_folders(library.settings, library.lock), library.roots):
        base = next((b for b in _above(path) if has_notes.setdefault(b, _has_notes(b))), None)
        note = placement.noted_of(base, path[len(base) + 1 :]) if base else None
        if note and base:
            noted[path] = (base, path[len(base) + 1 :], note)
        if (note or is_weights(path)) and not is_exempt(name_of(path, app_dir), library.settings.unpinned):
            sizes[path] = status.st_size
    return Own(sizes, noted)


def _above(path: str) -> Iterator[str]:
    base = os.path.dirname(path)
    while len(base) > 1:
        yield base
        base = os.path.dirname(base)


def _has_notes(folder: str) -> bool:
    return os.path.isdir(f"{folder}/{placement.METADATA}")


def cached_model(subject: Subject, place: Place, library: Library, progress: Progress | None) -> LockedModel | None:
    """Return the present files of a cached commit, after reading every file; None without any file.

    Raises LauncherError: 65 for a file that contradicts its list or its name, 74 for an unreadable one.
    """
    if subject.local is None:
        return None
    base = place.base(subject.local)
    listed = completeness.tree(f"{place.path}/trees/{subject.local}.json")
    try:
        copy = completeness.copy_of(place.path, subject.local)
    except OSError as error:
        raise _unreadable(error) from error
    paths = [path for path in sorted(copy.files) if repo_id.is_path(path)]
    # A pin is known to be right too: a damaged file must not take its place.
    pinned = (m.files for m in library.lock if (m.repo, m.commit) == (subject.repo, subject.local))
    known = {path: file.hash for files in pinned for path, file in files.items()}
    known |= {path: hash_ for path, (hash_, _) in listed.items()}
    expected = {path: known.get(path) or _blob_of(place, f"{base}/{path}") for path in paths}
    read = _read([Wanted(f"{base}/{p}", expected[p] or SHA256) for p in paths], library.memories.cached, progress)
    files: dict[str, LockedFile] = {}
    for path in paths:
        digest = read[Wanted(f"{base}/{path}", expected[path] or SHA256)]
        if expected[path] and digest != expected[path]:
            if path in known or len(digest) == 64:
                raise _damaged(subject.repo, f"{base}/{path}")
            again = Wanted(f"{base}/{path}")  # a mirror's own ETag, which is not a hash
            digest = _read([again], library.memories.cached, progress)[again]
        files[path] = LockedFile(copy.files[path], digest)
    if not files:
        return None
    old = next((m for m in library.lock if m.key == (subject.repo, "", subject.revision)), None)
    include, exclude = (old.include, old.exclude) if old else (globs(files, listed), ())
    return LockedModel(subject.repo, subject.revision, subject.local, None, include, exclude, files)


def own_models(
    own: Own, library: Library, repos: Mapping[str, str], trees: Mapping[Commit, Files], read: Mapping[Wanted, str]
) -> tuple[tuple[LockedModel, ...], Mapping[str, LockedFile]]:
    """Return the models of the files in the app's folders, and the files whose repo is unknown.

    `repos` maps commits to repos, `trees` holds the files of commits, and `read` the digests of the files.
    """
    app_dir = str(library.settings.app_dir)
    digest = {path: read[Wanted(path)] for path in own.sizes if Wanted(path) in read}
    grouped: dict[tuple[str, str, str], dict[str, LockedFile]] = {}
    taken: set[str] = set()
    renamed: dict[str, str] = {}
    for path, (base, inner, note) in own.noted.items():
        repo = repos.get(note.commit)
        is_it = digest_like(read, path, note.etag) == note.etag
        if repo and is_it and path in own.sizes and _is_below(base, app_dir) and repo_id.is_path(inner):
            grouped.setdefault((repo, note.commit, base), {})[inner] = LockedFile(own.sizes[path], note.etag)
            taken.add(path)
            renamed[path] = f"{repo}@{note.commit}/{inner}"
    by_hash: dict[str, list[tuple[Commit, str]]] = {}
    for key, listed in trees.items():
        for inner, (hash_, _) in listed.items():
            by_hash.setdefault(hash_, []).append((key, inner))
    for path in sorted(digest.keys() - taken):
        matches = by_hash.get(digest[path], [])
        for (repo, commit), inner in matches:
            base = path[: -len(inner) - 1]
            if path.endswith(f"/{inner}") and _is_below(base, app_dir):
                grouped.setdefault((repo, commit, base), {})[inner] = LockedFile(own.sizes[path], digest[path])
        if matches:
            (repo, commit), inner = matches[0]
            renamed[path] = f"{repo}@{commit}/{inner}"
    models = tuple(_models(grouped, library, trees, app_dir))
    pinned = {f"{app_dir}/{model.local_dir}/{path}" for model in models for path in model.files}
    single = {
        name_of(path, library.settings.app_dir): LockedFile(own.sizes[path], digest[path], renamed.get(path, ""))
        for path in digest
        if path not in pinned and is_weights(path)
    }
    return models, single


def _models(
    grouped: Mapping[tuple[str, str, str], Mapping[str, LockedFile]],
    library: Library,
    trees: Mapping[Commit, Files],
    app_dir: str,
) -> Iterator[LockedModel]:
    """Yield one model for each repo in a folder, at the commit of most of its files; each file has one model."""
    pinned: set[str] = set()
    seen: set[tuple[str, str]] = set()
    counts = Counter({key: len(files) for key, files in grouped.items()})
    for (repo, commit, base), _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        files = {path: f for path, f in grouped[repo, commit, base].items() if f"{base}/{path}" not in pinned}
        if not files or (repo, base) in seen:
            continue
        listed = trees.get((repo, commit), {})
        for path, (hash_, size) in listed.items():
            full = f"{base}/{path}"
            if path not in files and full not in pinned and _has(full, hash_, size, library):
                files[path] = LockedFile(size, hash_)
        seen.add((repo, base))
        pinned.update(f"{base}/{path}" for path in files)
        local_dir = base[len(app_dir) + 1 :]
        old = next((m for m in library.lock if (m.repo, m.local_dir) == (repo, local_dir)), None)
        include, exclude = (old.include, old.exclude) if old and old.commit == commit else (globs(files, listed), ())
        revision = old.revision if old and not repo_id.COMMIT.fullmatch(old.revision) else repo_id.DEFAULT_REVISION
        yield LockedModel(repo, revision, commit, local_dir, include, exclude, dict(sorted(files.items())))


def _has(path: str, expected: str, size: int, library: Library) -> bool:
    """Return whether a small file next to the weights matches the list of the commit's files."""
    try:
        if os.stat(path).st_size != size:
            return False
    except OSError:
        return False
    wanted = Wanted(path, expected)
    return _read([wanted], library.memories.local, None)[wanted] == expected


def read_own(own: Own, library: Library, progress: Progress | None) -> Mapping[Wanted, str]:
    """Read the app's own files, the largest first; compare a note with git's hash by a hash of that form.

    Raises LauncherError (74, or 75 for a file that changes meanwhile).
    """
    wanted = []
    for path in sorted(own.sizes, key=lambda path: -own.sizes[path]):
        is_git = path in own.noted and len(own.noted[path][2].etag) == len(GIT_SHA1)
        wanted += [Wanted(path, GIT_SHA1)] if is_git else []
        wanted += [Wanted(path)] if is_weights(path) or not is_git else []
    read = dict(_read(wanted, library.memories.local, progress))
    for path, (_, _, note) in own.noted.items():
        git = read.get(Wanted(path, GIT_SHA1))
        if git:
            read[Wanted(path, note.etag)] = git
    return read


def digest_like(read: Mapping[Wanted, str], path: str, etag: str) -> str | None:
    """Return the digest of a file in the form of a noted hash."""
    return read.get(Wanted(path, etag if len(etag) == len(GIT_SHA1) else SHA256))


def known_trees(library: Library) -> Mapping[Commit, Files]:
    """Return the lists of files of commits that are known without a hub: from the lock and from the caches."""
    trees: dict[Commit, Files] = {}
    for commit, repo in repos_of_commits(library.roots, library.lock, library.settings.app_dir).items():
        for root in library.roots:
            listed = completeness.tree(f"{root}/{repo_id.folder(repo)}/trees/{commit}.json")
            if listed:
                trees[repo, commit] = listed
    for model in library.lock:
        files = {path: (file.hash, file.size) for path, file in model.files.items()}
        trees.setdefault((model.repo, model.commit), files)
    return trees


def _read(wanted: Sequence[Wanted], memory: Memory, progress: Progress | None) -> Mapping[Wanted, str]:
    try:
        return digests(wanted, memory, progress)
    except BlockingIOError as error:
        raise LauncherError(
            f"{os.fsdecode(error.filename)} changed while it was read",
            "start_app.py models lock --freeze, once no process writes to it",
            ExitStatus.RETRY,
        ) from error
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> LauncherError:
    where = os.fsdecode(error.filename) if error.filename else "a model"
    return LauncherError(
        f"cannot read {where}: {(error.strerror or str(error)).lower()}", f"ls -l {quoted(where)}", ExitStatus.IO
    )


def _damaged(repo: str, path: str) -> LauncherError:
    return LauncherError(
        f"{path} is damaged: its content is not what the Hub had; nothing was pinned",
        f"start_app.py cache verify --repair {quoted(repo)}",
        ExitStatus.DAMAGED,
    )


def _blob_of(place: Place, path: str) -> str:
    blob = placement.own_blob(place, path)
    return blob if blob and HASH.fullmatch(blob) else ""


def globs(files: Iterable[str], listed: Files) -> tuple[str, ...]:
    """Return the wanted files of a repo: all of them, or only the present ones if it was downloaded in part.

    Otherwise a later `models lock` would pin all files of a large repo although the app needs only some.
    """
    here = frozenset(files)
    if here.issuperset(listed) if listed else _OF_THE_WHOLE & here:
        return ()
    return tuple(glob.escape(path) for path in sorted(here))


def _is_below(base: str, app_dir: str) -> bool:
    return base.startswith(f"{app_dir}/") and repo_id.is_local_dir(base[len(app_dir) + 1 :])


def told(files: Mapping[str, LockedFile]) -> str:
    """Return in words which files are pinned only by their hash; blank without any."""
    unknown = sorted(path for path, file in files.items() if not file.origin)
    return f"pinned by hash alone, no repo is known to have it: {some(unknown, 5)}" if unknown else ""
