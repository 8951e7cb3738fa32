"""Compare the local models with the mirror and the Hub, each asked separately, and reach a verdict in one word.

The official Hub outranks a mirror: a mirror can lag, and its API and its files can name different commits. A model that
no hub answers for is `unknown`, never good; the same holds for a commit without a known list of files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from . import hub, repo_id, subjects
from .endpoints import Endpoint, Endpoints
from .hub import Answer, Question
from .lockfile import LockedFile
from .subjects import Subject

Word = Literal[
    "up to date",
    "local behind",
    "mirror behind the Hub",
    "mirror inconsistent",
    "pinned elsewhere",
    "incomplete locally",
    "gone or renamed upstream",
    "gated, no access",
    "unreachable",
    "unknown",
    "not compared",
    "as pinned",
]
STALE = frozenset(("local behind", "incomplete locally", "gone or renamed upstream", "gated, no access"))
UNKNOWN = frozenset(("unreachable", "unknown"))
HEADINGS = ("MODEL", "REVISION", "LOCAL", "MIRROR", "HUB", "VERDICT")
DIGITS = 7


class Said(NamedTuple):
    """Hold one hub's answers about a model: from its API, and from a file of the same revision."""

    head: Answer
    file: Answer | None = None

    @property
    def inconsistent(self) -> bool:
        """Return whether the API and the files are at different commits."""
        return bool(self.file and self.file.commit and self.head.commit and self.file.commit != self.head.commit)

    @property
    def gated(self) -> bool:
        """Return whether the hub denies this user the files."""
        return bool(self.file and self.file.trouble == "gated") or self.head.trouble == "gated"


class Verdict(NamedTuple):
    """Hold the verdict on a model in one word, its evidence, and the details in words."""

    subject: Subject
    mirror: Said | None
    official: Said | None
    word: Word
    detail: str

    @property
    def stale(self) -> bool:
        """Return whether the user must act."""
        return self.word in STALE

    @property
    def unknown(self) -> bool:
        """Return whether a later check may know more."""
        return self.word in UNKNOWN


class _Told(NamedTuple):
    """Hold the answers about one subject: the date of its commit, and the files of this commit."""

    date: Answer = Answer()
    files: Mapping[str, LockedFile] | None = None


def run(
    chosen: Sequence[Subject], endpoints: Endpoints, environment: Mapping[str, str], timeout: float
) -> tuple[Verdict, ...]:
    """Ask both hubs about every subject at once, and return the verdicts; `timeout` is the seconds for each answer."""
    asked = [endpoints.official, *((endpoints.used,) if endpoints.mirrored else ())]
    questions = [
        Question(endpoint, kind, subject.repo, subject.revision, subject.file if kind == "file" else "")
        for subject in chosen
        for endpoint in asked
        for kind in (("head", "file") if subject.file else ("head",))
    ]
    answers = hub.ask(questions, environment, timeout)

    def said(subject: Subject, endpoint: Endpoint) -> Said:
        head = answers[Question(endpoint, "head", subject.repo, subject.revision)]
        file = Question(endpoint, "file", subject.repo, subject.revision, subject.file)
        return Said(head, answers[file] if subject.file else None)

    heard = [
        (subject, said(subject, endpoints.used) if endpoints.mirrored else None, said(subject, endpoints.official))
        for subject in chosen
    ]
    told = _more(heard, endpoints, environment, timeout)
    return tuple(_judge(*said, more) for said, more in zip(heard, told, strict=True))


def offline(chosen: Sequence[Subject]) -> tuple[Verdict, ...]:
    """Return the verdict from the disk alone."""
    return tuple(_offline(subject) for subject in chosen)


def _offline(subject: Subject) -> Verdict:
    problem = subject.problem or (subject.copy.doubt if subject.copy else "")
    if problem:
        return Verdict(subject, None, None, "incomplete locally", problem)
    detail = "which files it has is not known here" if subject.copy else subject.doubt or subject.part
    return Verdict(subject, None, None, "not compared", detail)


def _more(
    heard: Sequence[tuple[Subject, Said | None, Said]],
    endpoints: Endpoints,
    environment: Mapping[str, str],
    timeout: float,
) -> tuple[_Told, ...]:
    """Ask for the dates of local commits that are not the newest, and for the files of those that are."""
    dates: dict[int, Question] = {}
    trees: dict[int, list[Question]] = {}
    for number, (subject, mirror, official) in enumerate(heard):
        said = [(endpoints.official, official), *(((endpoints.used, mirror),) if mirror else ())]
        known = [(endpoint, report.head) for endpoint, report in said if report.head.commit]
        if known and subject.held and subject.held != known[0][1].commit:
            dates[number] = Question(known[0][0], "head", subject.repo, subject.held)
        elif known and subject.copy and not subject.problem:
            trees[number] = [Question(endpoint, "tree", subject.repo, subject.copy.commit) for endpoint, _ in known]
    listed = [question for questions in trees.values() for question in questions]
    answers = hub.ask((*dates.values(), *listed), environment, timeout)
    told = []
    for number, (subject, *_) in enumerate(heard):
        files = (answers[question].files for question in trees.get(number, ()))
        date = answers[dates[number]] if number in dates else Answer()
        told.append(_Told(date, next((listed for listed in files if _is_list_of(subject, listed)), None)))
    return tuple(told)


def _is_list_of(subject: Subject, listed: Mapping[str, LockedFile] | None) -> bool:
    """Return whether this can be the list of the local commit's files: a list without any of them is another one's."""
    here = subject.copy.files if subject.copy else {}
    return listed is not None and (not here or not listed.keys().isdisjoint(here))


def _judge(subject: Subject, mirror: Said | None, official: Said, told: _Told) -> Verdict:
    word, detail = _word(subject, mirror, official, told)
    name = next((said.head.repo for said in (official, mirror) if said and said.head.repo), None)
    if name and name != subject.repo:
        detail = f"{detail}; it is called {name} there" if detail else f"it is called {name} there"
    return Verdict(subject, mirror, official, word, detail)


def _word(subject: Subject, mirror: Said | None, official: Said, told: _Told) -> tuple[Word, str]:
    if subject.problem:
        return "incomplete locally", subject.problem
    if official.head.trouble in ("gone", "no revision"):
        return "gone or renamed upstream", f"the Hub: {official.head.text}"
    if official.gated:
        return "gated, no access", "the Hub does not give this user its files: is HF_TOKEN set?"
    believed = next((said for said in (official, mirror) if said and said.head.commit), None)
    if believed is None:
        if subject.copy and subject.copy.doubt:
            return "incomplete locally", subject.copy.doubt
        return "unreachable", "; ".join(
            f"{name}: {said.head.text}" for name, said in (("the Hub", official), ("the mirror", mirror)) if said
        )
    if subject.held != believed.head.commit:
        return _differing(subject, believed, is_official=believed is official, dated=told.date)
    part = subject.part
    if subject.copy:
        if told.files is None:
            doubt = subject.copy.doubt
            return ("incomplete locally", doubt) if doubt else ("unknown", "no hub tells which files it has")
        listed = {path: (file.hash, file.size) for path, file in told.files.items()}
        problem = subjects.missing(subject.copy, listed)
        if problem:
            return "incomplete locally", problem
        part = subjects.part_of(subject.copy, listed)
    if subject.doubt:
        return "unknown", subject.doubt
    if subject.pinned and subject.pinned != subject.held:
        return "pinned elsewhere", f"what is pinned is {subject.pinned[:DIGITS]}"
    return _up_to_date(mirror, official, believed, part, subject.held)


def _up_to_date(mirror: Said | None, official: Said, believed: Said, part: str, held: str | None) -> tuple[Word, str]:
    """Return the verdict on a local commit that is the newest; the details are about the hubs."""
    if mirror and mirror.inconsistent:
        assert mirror.file
        assert mirror.head.commit
        api, files = mirror.head.commit[:DIGITS], str(mirror.file.commit)[:DIGITS]
        return "mirror inconsistent", f"its API says {api}, its files are {files}: a pull by commit is not affected"
    if mirror and believed is official and mirror.head.commit and mirror.head.commit != held:
        return "mirror behind the Hub", f"it says {_dated(mirror.head.commit, mirror.head.date)}"
    if mirror and believed is official and not mirror.head.commit:
        return "up to date", f"the mirror does not answer for it: {mirror.head.text}"
    if mirror and mirror.file and not mirror.file.commit:
        return "up to date", f"the mirror does not serve its files: {mirror.file.text}"
    if believed is mirror:
        return "up to date", f"with the mirror; the Hub: {official.head.text}"
    return "up to date", part


def _differing(subject: Subject, believed: Said, *, is_official: bool, dated: Answer) -> tuple[Word, str]:
    """Return the verdict on a local commit that differs from the hub's; with only a mirror, the dates decide."""
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
            "here: cannot tell which one is behind without the Hub"
        )
    return "local behind", both + also


def rows(verdicts: Sequence[Verdict], *, mirrored: bool) -> list[tuple[str, ...]]:
    """Return the table, headings first; without a mirror it omits that column."""
    table: list[tuple[str, ...]] = [HEADINGS]
    for verdict in verdicts:
        subject = verdict.subject
        detail = f": {verdict.detail}" if verdict.detail else ""
        table.append(
            (
                subject.name,
                _short(subject.revision) if repo_id.COMMIT.fullmatch(subject.revision) else subject.revision,
                _short(subject.local),
                _cell(verdict.mirror),
                _cell(verdict.official),
                f"{verdict.word}{detail}",
            )
        )
    return table if mirrored else [(*row[:3], *row[4:]) for row in table]


def document(verdict: Verdict) -> Mapping[str, Any]:
    """Return a verdict for `--json`."""
    subject = verdict.subject
    return {
        "repo": subject.repo,
        "name": subject.name,
        "revision": subject.revision,
        "local": subject.local,
        "pinned": subject.pinned,
        "mirror": _said_document(verdict.mirror),
        "hub": _said_document(verdict.official),
        "verdict": verdict.word,
        "stale": verdict.stale,
        "detail": verdict.detail or None,
        "missing_files": list(subject.missing),
        "extra_files": list(subject.extra),
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
