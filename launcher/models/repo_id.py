"""A repo has one readable name (`koge/voices`, `datasets/koge/voices`) and one folder name in a hub cache."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from ..cache.names import name as name_of_folder

TYPES = {"datasets": "dataset", "spaces": "space", "kernels": "kernel"}
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
DEFAULT_REVISION = "main"
# https://huggingface.co/docs/huggingface_hub/package_reference/utilities: validate_repo_id
_NAME = r"(?a)(?:(?:datasets|spaces|kernels)/)?(?:\w(?:[\w.-]*\w)?/)?\w(?:[\w.-]{0,94}\w)?"
# `models--owner--name` is a folder name, so it is limited to NAME_MAX bytes.
_LONGEST_NAME = 255 - len("models----")
# The names that git accepts for a branch or tag, except those that lead out of a folder.
_REVISION = r"[\w][\w./+@=-]{0,199}"
_LONGEST_PATH = 1024
_NO_PARTS = frozenset(("", ".", ".."))
# The app's environments and caches; its state folder and git's are hidden.
_NO_LOCAL_DIRS = frozenset(("venv", "env", "cache_hub", "launcher", "node_modules"))
_VERSION = r"(?i)(?:[-_.]?v\.?\d+(?:[._-]\d+)*|[-_]\d+(?:[._]\d+)*)$"


class Target(NamedTuple):
    """Hold a repo and the requested revision, None for the default or the previous one."""

    repo: str
    revision: str | None


def is_name(text: str) -> bool:
    """Return whether this is a valid name of a repo, and of a folder."""
    return (
        len(text) <= _LONGEST_NAME
        and bool(re.fullmatch(_NAME, text))
        and "--" not in text
        and ".." not in text
        and not text.endswith(".git")
    )


def is_revision(text: str) -> bool:
    """Return whether this is a valid branch, tag or commit."""
    return bool(re.fullmatch(_REVISION, text)) and is_path(text)


def is_path(text: str) -> bool:
    """Return whether this is a valid path of a file in a repo: one that does not lead out of a folder."""
    return len(text) < _LONGEST_PATH and _is_path(text)


def are_paths(texts: Collection[str]) -> bool:
    """Return whether each of these is a valid path of a file in a repo, with one check for all of them."""
    # No valid path has an empty part, so joined texts are one valid path, except for its length.
    return not texts or (max(map(len, texts)) < _LONGEST_PATH and _is_path("/".join(texts)))


def is_local_dir(text: str) -> bool:
    """Return whether this can be a model's folder below the app's: not hidden, not an environment, not a cache."""
    parts = text.split("/")
    return is_path(text) and not any(part.startswith(".") for part in parts) and parts[0] not in _NO_LOCAL_DIRS


def target(text: str) -> Target | None:
    """Return the meaning of `REPO`, `REPO@REVISION` or the name of a repo's folder; None if it has none."""
    repo, at, revision = text.partition("@")
    for prefix in ("models", *TYPES):
        if repo.startswith(f"{prefix}--"):
            repo = name_of_folder(repo)
    if not is_name(repo) or (at and not is_revision(revision)):
        return None
    return Target(repo, revision or None)


def folder(repo: str) -> str:
    """Return the name of a repo's folder in a hub cache."""
    kind, identifier = kind_and_id(repo)
    return f"{kind}s--{identifier.replace('/', '--')}"


def kind_and_id(repo: str) -> tuple[str, str]:
    """Return a repo's type and id in huggingface_hub's form."""
    prefix, _, rest = repo.partition("/")
    return (TYPES[prefix], rest) if prefix in TYPES and rest else ("model", repo)


def wanted(paths: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> Iterator[str]:
    """Yield the paths that match any glob of `include`, or all without globs, and none of `exclude`.

    This follows `allow_patterns` and `ignore_patterns` of huggingface_hub: a star also matches slashes, and a folder
    all its files.
    """
    for path in paths:
        if (not include or _fits(path, include)) and not _fits(path, exclude):
            yield path


def _is_path(text: str) -> bool:
    return _is_shown(text) and "\\" not in text and _NO_PARTS.isdisjoint(text.split("/"))


def _is_shown(text: str) -> bool:
    """Return whether a text has no control characters; file names often have no-break and ideographic spaces."""
    if text.isprintable():
        return True
    import unicodedata

    return "".join(character for character in text if unicodedata.category(character) != "Zs").isprintable()


def _fits(path: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, f"{glob}*" if glob.endswith("/") else glob) for glob in globs)


def traps(chosen: Collection[str], cached: Iterable[str]) -> Iterator[str]:
    """Yield repos that are easily confused: one without a version next to versioned ones, two versions of one family.

    Only families of the `chosen` repos count. An app whose code names the other repo loads that one.
    """
    families: dict[str, set[str]] = {}
    for repo in {*chosen, *cached}:
        families.setdefault(_family(repo), set()).add(repo)
    for family in sorted({_family(repo) for repo in chosen}):
        versions = sorted(families[family] - {family})
        if family in families[family] and versions:
            yield f"{family} names no version, and {', '.join(versions)} is there too: does the app load the right one?"
        elif len(versions) > 1:
            yield f"{len(versions)} versions of {family} are there: {', '.join(versions)}; check which the app loads"


def _family(repo: str) -> str:
    return re.sub(_VERSION, "", repo) or repo
