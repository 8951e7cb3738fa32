"""`models.lock` pins an app's models: the commit of each, and the hash and size of each of its files.

A file of an unknown repo is pinned by its hash alone, under its path from the app's folder. Version 1 had no such
files; it is still read, and written as version 2.

The file is made to be committed: the same models give the same bytes, one line a file, so that a review shows every
change. It may come from elsewhere, so each path in it is checked not to lead out of the app's folder.
"""

from __future__ import annotations

import errno
import json
import os
import reprlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..errors import ExitStatus, LauncherError, quoted
from ..system import files
from . import LOCKFILE, repo_id

VERSION = 2
_VERSIONS = (1, VERSION)
MAX_BYTES = 1 << 25  # enough for a quarter of a million files
MOST_BYTES_OF_A_FILE = 1 << 63
_KEYS = frozenset(("version", "frozen", "models", "files"))
_MODEL_KEYS = frozenset(("repo", "revision", "commit", "local_dir", "include", "exclude", "files"))
_MOST_DIGITS = 640  # every Python converts this many digits quickly
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 100


class LockedFile(NamedTuple):
    """Hold the expected content of a file: bytes, and its sha256 (64 hex digits) or git's sha1 of it (40).

    `origin` is the source of a single file with another name: `REPO@COMMIT/PATH`; blank if unknown.
    """

    size: int
    hash: str
    origin: str = ""


class LockedModel(NamedTuple):
    """Hold one pinned model; `local_dir` is its folder in the app's, None if it is in the hub cache."""

    repo: str
    revision: str
    commit: str
    local_dir: str | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    files: Mapping[str, LockedFile]

    @property
    def key(self) -> tuple[str, str, str]:
        """Return the unique key of a model: its repo in a folder of the app's, or its revision in the cache."""
        return self.repo, self.local_dir or "", "" if self.local_dir else self.revision

    @property
    def name(self) -> str:
        """Return the readable name: the repo, with its own folder if it has one."""
        return f"{self.repo} in {self.local_dir}" if self.local_dir else self.repo

    @property
    def size(self) -> int:
        """Return the bytes of all its files."""
        return sum(file.size for file in self.files.values())


class Lock(tuple[LockedModel, ...]):
    """Hold the models of a lock file, and the single files that it pins, by their paths from the app's folder.

    A `frozen` lock was made from the disk: weights that it does not pin are refused.
    """

    files: Mapping[str, LockedFile]
    frozen: bool

    def __new__(
        cls, models: Iterable[LockedModel] = (), files: Mapping[str, LockedFile] = {}, *, frozen: bool = False
    ) -> Lock:
        """Return a lock with these."""
        lock = super().__new__(cls, tuple(models))
        lock.files = files
        lock.frozen = frozen
        return lock

    def __bool__(self) -> bool:
        """Return whether it pins anything."""
        return bool(len(self) or self.files)

    def replaced(self, models: Iterable[LockedModel]) -> Lock:
        """Return the lock with these models instead; a single file that belongs to one of them becomes its file."""
        after = tuple(models)
        theirs = {f"{one.local_dir}/{path}" for one in after if one.local_dir for path in one.files}
        files = {path: file for path, file in self.files.items() if path not in theirs}
        return Lock(after, files, frozen=self.frozen)


class _WrongError(Exception):
    """Hold a problem in the document and its place."""


def path_of(app_dir: Path) -> Path:
    """Return the path of an app's lock file."""
    return app_dir / LOCKFILE


def read(app_dir: Path) -> Lock | None:
    """Return an app's locked models, None without a `models.lock`.

    Raises LauncherError (78) for an empty or invalid file, with the place.
    """
    path = path_of(app_dir)
    try:
        data = files.read_regular(path, MAX_BYTES + 1, follow=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EISDIR, errno.ENXIO):
            raise _nonsense(path, "it is not a regular file") from None
        raise LauncherError(
            f"cannot read {path}: {(error.strerror or str(error)).lower()}", f"ls -l {quoted(path)}"
        ) from error
    try:
        return parse(data)
    except _WrongError as error:
        raise _nonsense(path, str(error)) from None


def write(app_dir: Path, models: Collection[LockedModel]) -> bool:
    """Write an app's lock file atomically; return whether that changed anything.

    Call it under the lock of a pull. Raises OSError, and LauncherError (2) for a lock that could not be read again: it
    must not replace a readable one. A link at its path is replaced, never followed: the folder may be another user's.
    """
    path = path_of(app_dir)
    data = dump(models)
    try:
        parse(data)
    except _WrongError as error:
        raise LauncherError(
            f"{path} is not written: {error}",
            "start_app.py models lock REPO --exclude GLOB leaves files out",
            ExitStatus.USAGE,
        ) from None
    if not differs(app_dir, models):
        return False
    folder = files.open_folder(app_dir, follow=True)
    try:
        files.write_whole(LOCKFILE, data, folder, durable=True, owner=os.fstat(folder))
    finally:
        os.close(folder)
    return True


def differs(app_dir: Path, models: Iterable[LockedModel]) -> bool:
    """Return whether the lock file differs from the one for these models."""
    path = path_of(app_dir)
    try:
        return path.is_symlink() or path.read_bytes() != dump(models)
    except FileNotFoundError:
        return True


def dump(models: Iterable[LockedModel]) -> bytes:
    """Return a lock file's bytes, which depend only on the models."""
    lock = models if isinstance(models, Lock) else Lock(models)
    blocks = ",\n".join(_block(model) for model in sorted(lock, key=lambda model: model.key))
    members = [f'"version": {VERSION}']
    if lock.frozen:
        members.append('"frozen": true')
    members.append(f'"models": [\n{blocks}\n  ]' if blocks else '"models": []')
    if lock.files:
        members.append(f'"files": {{\n{_file_lines(lock.files, 4)}\n  }}')
    return ("{\n  " + ",\n  ".join(members) + "\n}\n").encode()


def parse(data: bytes) -> Lock:
    """Return the models in a lock file's bytes; raise an exception that names the invalid place."""
    if len(data) > MAX_BYTES:
        raise _WrongError(f"it is larger than {MAX_BYTES} bytes")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_int=_number)
    except UnicodeDecodeError as error:
        raise _WrongError(f"line {data[: error.start].count(10) + 1} is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        conflict = " (it contains merge conflict markers)" if b"<<<<<<< " in data else ""
        raise _WrongError(f"line {error.lineno} is not JSON: {error.msg.lower()}{conflict}") from None
    except RecursionError:
        raise _WrongError("it is nested too deeply") from None
    if not isinstance(document, dict) or not isinstance(document.get("models"), list):
        raise _WrongError('it is not {"version": 2, "models": […]}')
    version, frozen = document.get("version"), document.get("frozen", False)
    if type(version) is not int or version not in _VERSIONS:
        raise _WrongError(f"its version is {_shown(version)}, and this launcher knows versions 1 and {VERSION}")
    _refuse_unknown_keys(document, _KEYS if version == VERSION else _KEYS - {"frozen", "files"}, "")
    if type(frozen) is not bool:
        _refuse("frozen", frozen, "neither true nor false")
    models = tuple(_model(entry, f"models[{number}]") for number, entry in enumerate(document["models"]))
    keys: set[tuple[str, str, str]] = set()
    for model in models:
        if model.key in keys:
            raise _WrongError(f"{model.name} is in it twice")
        keys.add(model.key)
    return Lock(sorted(models, key=lambda model: model.key), _single_files(document), frozen=frozen)


def _single_files(document: Mapping[str, Any]) -> Mapping[str, LockedFile]:
    entries = document.get("files", {})
    if not isinstance(entries, dict):
        raise _WrongError("files is not an object")
    for path in entries:
        # A folder from a setting may be outside the app's: its files are only read, never written.
        if not repo_id.is_path(path.removeprefix("/")) or path.partition("/")[0].startswith("."):
            raise _WrongError(f"files[{_shown(path)}] is not the path of a file")
    return {path: _single_file(path, entry) for path, entry in sorted(entries.items())}


def _single_file(path: str, entry: Any) -> LockedFile:
    origin = entry.get("origin", "") if isinstance(entry, dict) else ""
    repo, _, rest = str(origin).partition("@")
    commit, _, name = rest.partition("/")
    if origin and not (
        isinstance(origin, str) and repo_id.is_name(repo) and repo_id.COMMIT.fullmatch(commit) and repo_id.is_path(name)
    ):
        _refuse(f"files[{_shown(path)}].origin", origin, "not REPO@COMMIT/PATH")
    plain = {key: value for key, value in entry.items() if key != "origin"} if isinstance(entry, dict) else entry
    return _file(path, plain, "files")._replace(origin=origin)


def remembered(text: str) -> Lock:
    """Return the models of a lock that the launcher has kept; none if the text is invalid."""
    try:
        return parse(text.encode()) if text else Lock()
    except _WrongError:
        return Lock()


def _nonsense(path: Path, problem: str) -> LauncherError:
    return LauncherError(
        f"{path}: {problem}",
        f"git checkout {quoted(path.name)} restores it; without git, start_app.py models lock REPO creates a new one",
        ExitStatus.CONFIG,
    )


def _block(model: LockedModel) -> str:
    fields = [("repo", model.repo), ("revision", model.revision), ("commit", model.commit)]
    lines = [f"      {_json(key)}: {_json(value)}" for key, value in fields]
    if model.local_dir:
        lines.append(f'      "local_dir": {_json(model.local_dir)}')
    for key, globs in (("include", model.include), ("exclude", model.exclude)):
        if globs:
            lines.append(f"      {_json(key)}: {_json(list(globs))}")
    files = _file_lines(model.files, 8)
    lines.append(f'      "files": {{\n{files}\n      }}' if files else '      "files": {}')
    return "    {\n" + ",\n".join(lines) + "\n    }"


def _file_lines(entries: Mapping[str, LockedFile], indent: int) -> str:
    return ",\n".join(f"{' ' * indent}{_json(path)}: {_file_text(file)}" for path, file in sorted(entries.items()))


def _file_text(file: LockedFile) -> str:
    kind = "sha256" if len(file.hash) == 64 else "git_sha1"
    origin = f', "origin": {_json(file.origin)}' if file.origin else ""
    return f'{{"size": {file.size}, "{kind}": "{file.hash}"{origin}}}'


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise _WrongError(f"it holds a number of {len(text)} digits")
    return int(text)


def _shown(value: object) -> str:
    """Return a value for a message, shortened if it is long or deep."""
    return _SHORT.repr(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names: set[str] = set()
        twice = next(key for key, _ in pairs if key in names or names.add(key))  # type: ignore[func-returns-value]
        raise _WrongError(f"{_shown(twice)} is in one object twice")
    return members


def _model(entry: Any, where: str) -> LockedModel:
    if not isinstance(entry, dict):
        raise _WrongError(f"{where} is not an object")
    _refuse_unknown_keys(entry, _MODEL_KEYS, where)
    repo = _text(entry, "repo", where)
    if not repo_id.is_name(repo):
        _refuse(f"{where}.repo", repo, "not the name of a repo")
    where = f"{where} ({repo})"
    revision, commit = _text(entry, "revision", where), _text(entry, "commit", where)
    if not repo_id.is_revision(revision):
        _refuse(f"{where}.revision", revision, "not a branch, tag or commit")
    if not repo_id.COMMIT.fullmatch(commit):
        _refuse(f"{where}.commit", commit, "not a commit, which has 40 hex digits")
    if repo_id.COMMIT.fullmatch(revision) and revision != commit:
        _refuse(f"{where}.commit", commit, f"not the commit that is the revision, {revision}")
    local_dir = entry.get("local_dir")
    if local_dir is not None and (not isinstance(local_dir, str) or not repo_id.is_local_dir(local_dir)):
        _refuse(f"{where}.local_dir", local_dir, "not a folder below the app's")
    files = entry.get("files")
    if not isinstance(files, dict):
        raise _WrongError(f"{where}.files is not an object")
    hidden = next((path for path in files if local_dir and path.startswith(".cache/")), None)
    if hidden:
        raise _WrongError(f"{where}.files[{_shown(hidden)}] is in huggingface_hub's own metadata folder")
    return LockedModel(
        repo,
        revision,
        commit,
        local_dir,
        _globs(entry, "include", where),
        _globs(entry, "exclude", where),
        _files(files, f"{where}.files"),
    )


def _files(entries: Mapping[str, Any], where: str) -> Mapping[str, LockedFile]:
    # A lock of thousands of files is read at every launch, so check all paths at once, and each file briefly.
    if not repo_id.are_paths(entries):
        wrong = next(path for path in sorted(entries) if not repo_id.is_path(path))
        raise _WrongError(f"{where}[{_shown(wrong)}] is not a path below a folder")
    return {path: _file(path, entry, where) for path, entry in sorted(entries.items())}


def _file(path: str, entry: Any, where: str) -> LockedFile:
    if not isinstance(entry, dict) or len(entry) != 2:
        raise _WrongError(f"{where}[{_shown(path)}] is not a size and a hash")
    size, sha256 = entry.get("size"), entry.get("sha256")
    if type(size) is not int or not 0 <= size < MOST_BYTES_OF_A_FILE:
        _refuse(f"{where}[{_shown(path)}].size", size, "not a number of bytes")
    if isinstance(sha256, str) and repo_id.SHA256.fullmatch(sha256):
        return LockedFile(size, sha256)
    sha1 = entry.get("git_sha1")
    if isinstance(sha1, str) and repo_id.COMMIT.fullmatch(sha1):
        return LockedFile(size, sha1)
    raise _WrongError(f"{where}[{_shown(path)}] has neither a sha256 of 64 hex digits nor a git_sha1 of 40")


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise _WrongError(f"{where} has no {key}" if key not in entry else f"{where}.{key} is not text")
    return value


def _globs(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = entry.get(key, [])
    if not isinstance(value, list) or not all(isinstance(glob, str) and glob and glob.isprintable() for glob in value):
        raise _WrongError(f"{where}.{key} is not a list of globs")
    return tuple(value)


def _refuse_unknown_keys(entry: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    strange = sorted(entry.keys() - known)
    if strange:
        key = strange[0] if strange[0].isidentifier() and len(strange[0]) < _SHORT.maxstring else _shown(strange[0])
        raise _WrongError(f"{where}{'.' if where else ''}{key} is not a key of models.lock")


def _refuse(where: str, value: object, problem: str) -> NoReturn:
    raise _WrongError(f"{where}: {_shown(value)} is {problem}")
