"""Which model runs is told beside what the mirror and the Hub say, each asked for itself, and judged in words.

The official Hub is believed before a mirror: a mirror can lag, and its API and its files can name different commits.
What nobody answers for is told as such and never taken for good.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..cache import entries, layout
from ..cache import names as naming
from ..cache.names import PIN
from ..cache.roots import Root
from . import hub, placement, repo_id
from .endpoints import Endpoints
from .hub import Answer, Question
from .lockfile import LockedModel
from .placement import OnDisk, Place

Verdict = Literal[
    "up to date",
    "local behind",
    "mirror behind the Hub",
    "mirror inconsistent",
    "pinned elsewhere",
    "incomplete locally",
    "gone or renamed upstream",
    "gated, no access",
    "unreachable",
    "not compared",
]
STALE = frozenset(("local behind", "incomplete locally", "gone or renamed upstream", "gated, no access"))
HEADINGS = ("MODEL", "REVISION", "LOCAL", "MIRROR", "HUB", "VERDICT")
DIGITS = 7


class Subject(NamedTuple):
    """Hold a model to be checked: what its revision is here, what the lock pins, and a file of it to ask for."""

    name: str
    repo: str
    revision: str
    local: str | None
    wrong: str
    pinned: str | None
    file: str
    downloaded: float | None

    @property
    def held(self) -> str | None:
        """Return the commit that is compared: the one on the disk, else the one that is pinned."""
        return self.local or self.pinned


class Said(NamedTuple):
    """Hold what one hub says of a model: its API, and a file of the same revision."""

    head: Answer
    file: Answer | None = None

    @property
    def inconsistent(self) -> bool:
        """Return whether the API and the files are of different commits."""
        return bool(self.file and self.file.commit and self.head.commit and self.file.commit != self.head.commit)

    @property
    def gated(self) -> bool:
        """Return whether the files are kept from this user."""
        return bool(self.file and self.file.trouble == "gated") or self.head.trouble == "gated"


class Judged(NamedTuple):
    """Hold the verdict on a model, what it rests on, and the date of the local commit where a hub knows it."""

    subject: Subject
    mirror: Said | None
    official: Said | None
    verdict: Verdict
    detail: str

    @property
    def stale(self) -> bool:
        """Return whether something must be done about it."""
        return self.verdict in STALE


def locked_subjects(
    models: Sequence[LockedModel], roots: Sequence[Root], app_dir: Path
) -> tuple[tuple[Subject, ...], bool]:
    """Return the locked models to be checked, and whether any of them is on this machine at all."""
    found = [(model, placement.on_disk(model, placement.place_of(model, roots, app_dir))) for model in models]
    there = any(one.commit for _, one in found)
    return tuple(_locked_subject(model, one, there) for model, one in found), there


def _locked_subject(model: LockedModel, one: OnDisk, there: bool) -> Subject:
    wrong = one.wrong if there else ""
    file = next(iter(model.files), "")
    return Subject(model.name, model.repo, model.revision, one.commit, wrong, model.commit, file, None)


def cached_subjects(roots: Sequence[Root]) -> tuple[Subject, ...]:
    """Return every cached repo to be checked, by its `main`, else its first ref, else its commit."""
    found: dict[str, Subject] = {}
    for root in roots:
        for folder in entries.contents(root.real).entries:
            repo = naming.name(folder)
            # A download to a folder of its own leaves a ref in the cache, and nothing that it leads to.
            parts = (f"{root.real}/{folder}/{part}" for part in ("snapshots", "blobs"))
            if repo not in found and repo_id.is_name(repo) and any(map(os.path.isdir, parts)):
                found[repo] = cached_subject(repo, Place(root, f"{root.real}/{folder}"))
    return tuple(found[repo] for repo in sorted(found))


def cached_subject(repo: str, place: Place, wanted: str | None = None) -> Subject:
    """Return a cached repo to be checked, by the revision that is `wanted`, or by the one that its refs suggest."""
    assert place.root
    try:
        read = layout.read(place.root.real, os.path.basename(place.path))
    except OSError:
        return Subject(repo, repo, repo_id.DEFAULT_REVISION, None, "it cannot be read", None, "", None)
    pinned = next((one.commit for one in read.revisions if one.pinned), None)
    refs = sorted(ref for one in read.revisions for ref in one.refs if ref != PIN)
    if wanted:
        revision = wanted
    elif (
        repo_id.DEFAULT_REVISION in refs or repo_id.DEFAULT_REVISION in read.broken_refs or not (refs or read.revisions)
    ):
        revision = repo_id.DEFAULT_REVISION
    else:
        revision = refs[0] if refs else read.revisions[0].commit
    own = next((one for one in read.revisions if revision in (*one.refs, one.commit)), None)
    if own is None:
        return Subject(repo, repo, revision, None, "no snapshot of it", pinned, "", None)
    base = place.base(own.commit)
    wrong = placement.dangling(place, own.commit)
    file = next((f"{path}" for path in _files(base)), "")
    return Subject(repo, repo, revision, own.commit, wrong, pinned, file, own.modified)


def _files(base: str) -> list[str]:
    for folder, _, listed in os.walk(base):
        for name in sorted(listed):
            return [os.path.relpath(f"{folder}/{name}", base)]
    return []


def run(
    subjects: Sequence[Subject], endpoints: Endpoints, environment: Mapping[str, str], timeout: float
) -> tuple[Judged, ...]:
    """Ask both hubs about every subject, all at once, and judge; `timeout` seconds is the time for each answer."""
    asked = [endpoints.official, *((endpoints.used,) if endpoints.mirrored else ())]
    questions = [
        Question(endpoint, what, subject.repo, subject.revision, subject.file if what == "file" else "")
        for subject in subjects
        for endpoint in asked
        for what in (("head", "file") if subject.file else ("head",))
    ]
    answers = hub.ask(questions, environment, timeout)

    def said(subject: Subject, endpoint: Any) -> Said:
        head = answers[Question(endpoint, "head", subject.repo, subject.revision)]
        file = Question(endpoint, "file", subject.repo, subject.revision, subject.file)
        return Said(head, answers[file] if subject.file else None)

    pairs = [
        (
            subject,
            said(subject, endpoints.used) if endpoints.mirrored else None,
            said(subject, endpoints.official),
        )
        for subject in subjects
    ]
    dates = _dates(pairs, endpoints, environment, timeout)
    return tuple(judge(subject, mirror, official, dates.get(subject, Answer())) for subject, mirror, official in pairs)


def offline(subjects: Sequence[Subject]) -> tuple[Judged, ...]:
    """Judge by what is on the disk alone."""
    return tuple(
        Judged(one, None, None, "incomplete locally" if one.wrong else "not compared", one.wrong) for one in subjects
    )


def _dates(
    pairs: Sequence[tuple[Subject, Said | None, Said]],
    endpoints: Endpoints,
    environment: Mapping[str, str],
    timeout: float,
) -> Mapping[Subject, Answer]:
    """Ask of when the local commits are that are not the newest."""
    wanted: dict[Subject, Question] = {}
    for subject, mirror, official in pairs:
        heads = [(endpoints.official, official), *(((endpoints.used, mirror),) if mirror else ())]
        known = next(((endpoint, one) for endpoint, one in heads if one.head.commit), None)
        if known and subject.held and subject.held != known[1].head.commit:
            wanted[subject] = Question(known[0], "head", subject.repo, subject.held)
    answers = hub.ask(tuple(wanted.values()), environment, timeout)
    return {subject: answers[question] for subject, question in wanted.items()}


def judge(subject: Subject, mirror: Said | None, official: Said | None, dated: Answer) -> Judged:
    """Return the verdict; `dated` is what the hub that is believed says of the local commit."""
    verdict, detail = _judged(subject, mirror, official, dated)
    return Judged(subject, mirror, official, verdict, detail)


def _judged(subject: Subject, mirror: Said | None, official: Said | None, dated: Answer) -> tuple[Verdict, str]:
    if subject.wrong:
        return "incomplete locally", subject.wrong
    if official:
        head = official.head
        if head.trouble in ("gone", "no revision"):
            return "gone or renamed upstream", f"the Hub: {head.text}"
        if official.gated:
            return "gated, no access", "the Hub keeps its files from this user: is HF_TOKEN set?"
        if head.repo and head.repo != subject.repo:
            return "gone or renamed upstream", f"it is called {head.repo} there"
    believed = next((one for one in (official, mirror) if one and one.head.commit), None)
    if believed is None:
        return "unreachable", "; ".join(
            f"{name}: {one.head.text}" for name, one in (("the Hub", official), ("the mirror", mirror)) if one
        )
    if subject.held != believed.head.commit:
        return _differing(subject, believed, is_official=believed is official, dated=dated)
    if subject.pinned and subject.pinned != subject.held:
        return "pinned elsewhere", f"what is pinned is {subject.pinned[:DIGITS]}"
    if mirror and mirror.inconsistent:
        assert mirror.file
        assert mirror.head.commit
        api, files = mirror.head.commit[:DIGITS], str(mirror.file.commit)[:DIGITS]
        return "mirror inconsistent", f"its API says {api}, its files are {files}: pull by commit is immune"
    if mirror and believed is official and mirror.head.commit and mirror.head.commit != subject.held:
        return "mirror behind the Hub", f"it says {_dated(mirror.head.commit, mirror.head.date)}"
    if mirror and believed is official and not mirror.head.commit:
        return "up to date", f"the mirror does not answer for it: {mirror.head.text}"
    if official and believed is mirror:
        return "up to date", f"with the mirror; the Hub: {official.head.text}"
    return "up to date", ""


def _differing(subject: Subject, believed: Said, *, is_official: bool, dated: Answer) -> tuple[Verdict, str]:
    """Judge a local commit that is not what a hub says; of a mirror alone, only the dates tell who is behind."""
    assert subject.held
    head = believed.head
    assert head.commit
    both = f"{_dated(subject.held, dated.date)}, {_dated(head.commit, head.date)} upstream"
    pinned = subject.pinned and subject.pinned not in (subject.held, head.commit)
    also = f"; what is pinned is {str(subject.pinned)[:DIGITS]}" if pinned else ""
    if is_official:
        return "local behind", both + also
    if dated.date is not None and head.date is not None and dated.date > head.date:
        return "mirror behind the Hub", f"it says {_dated(head.commit, head.date)}, older than what is here"
    if dated.commit is None:
        return "unreachable", (
            f"the mirror says {_dated(head.commit, head.date)} and does not know {subject.held[:DIGITS]}, which is "
            "here: who of them is behind, only the Hub could tell"
        )
    return "local behind", both + also


def rows(judged: Sequence[Judged], *, mirrored: bool) -> list[tuple[str, ...]]:
    """Return the table, headings first; without a mirror it has no column."""
    found: list[tuple[str, ...]] = [HEADINGS]
    for one in judged:
        subject = one.subject
        detail = f": {one.detail}" if one.detail else ""
        found.append(
            (
                subject.name,
                _short(subject.revision) if repo_id.COMMIT.fullmatch(subject.revision) else subject.revision,
                _short(subject.local),
                _cell(one.mirror),
                _cell(one.official),
                f"{one.verdict}{detail}",
            )
        )
    return found if mirrored else [(*row[:3], *row[4:]) for row in found]


def document(one: Judged) -> Mapping[str, Any]:
    """Return a verdict for `--json`."""
    subject = one.subject
    return {
        "repo": subject.repo,
        "name": subject.name,
        "revision": subject.revision,
        "local": subject.local,
        "pinned": subject.pinned,
        "mirror": _said_document(one.mirror),
        "hub": _said_document(one.official),
        "verdict": one.verdict,
        "stale": one.stale,
        "detail": one.detail or None,
    }


def _said_document(said: Said | None) -> Mapping[str, Any] | None:
    if said is None:
        return None
    return {
        "commit": said.head.commit,
        "date": _date(said.head.date) if said.head.date is not None else None,
        "files_commit": said.file.commit if said.file else None,
        "error": said.head.text or (said.file.text if said.file else "") or None,
    }


def _cell(said: Said | None) -> str:
    if said is None:
        return "-"
    if said.head.commit is None:
        return said.head.trouble or "-"
    if said.inconsistent:
        assert said.file
        return f"{_short(said.head.commit)}/{_short(said.file.commit)}"
    return _short(said.head.commit)


def _short(commit: str | None) -> str:
    return commit[:DIGITS] if commit else "-"


def _dated(commit: str, date: float | None) -> str:
    return f"{commit[:DIGITS]} of {_date(date)}" if date is not None else commit[:DIGITS]


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))
