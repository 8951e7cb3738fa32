"""Which process is the instance: the table itself, and then whole process tables against it.

The tables are made up, so that no luck decides what is on the machine: only the reading of /proc is replaced.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.instances import candidates, refusal, supervisor, survey
from launcher.instances.app_arguments import Told
from launcher.instances.candidates import App, Claim
from launcher.instances.command_line import ScriptArgument
from launcher.instances.family import Bounds, Family, Known
from launcher.instances.match import Evidence, Standing, Wanted, judge
from launcher.instances.process import Process
from launcher.instances.script import Entry, FileIdentity
from tests.support.fuzz import examples

NONE = Told()
OURS = Told(7860, "--port 7860")
OTHER = Told(7861, "-p 7861")
DOUBT = Told(doubt="WEBUI_PORT=7861 may be its port")
LOADING = Evidence(same_user=True, recorded=False, network=True, listening=frozenset(), told=NONE)
DEFAULT, CHOSEN = Wanted(7860, chosen=False), Wanted(7860, chosen=True)


@pytest.mark.parametrize(
    ("changes", "default", "chosen"),
    [
        ({"recorded": True, "told": OTHER, "listening": frozenset({7999})}, "instance", "instance"),
        ({"listening": frozenset({7860, 7861})}, "instance", "instance"),
        ({"listening": frozenset({7860}), "told": OTHER}, "instance", "instance"),
        ({"told": OURS}, "loading", "loading"),
        ({"told": OURS, "listening": frozenset({7861})}, "sibling", "sibling"),
        ({"told": OTHER}, "sibling", "sibling"),
        ({"listening": frozenset({7861})}, "sibling", "sibling"),
        ({"told": DOUBT}, "sibling", "sibling"),
        ({}, "loading", "sibling"),
        ({"network": False, "listening": frozenset({7860})}, "sibling", "sibling"),
        ({"network": False, "recorded": True}, "sibling", "sibling"),
        ({"same_user": False}, "other", "other"),
        ({"same_user": False, "told": DOUBT}, "other", "other"),
        ({"same_user": False, "told": OTHER, "listening": frozenset({7861})}, "other", "other"),
        ({"same_user": False, "told": OURS}, "refused", "refused"),
        ({"same_user": False, "listening": frozenset({7860})}, "refused", "refused"),
        ({"same_user": False, "recorded": True}, "refused", "refused"),
        ({"same_user": False, "network": False, "told": OURS}, "other", "other"),
    ],
)
def test_the_table(changes: dict[str, object], default: Standing, chosen: Standing) -> None:
    evidence = LOADING._replace(**changes)  # type: ignore[arg-type]
    assert (judge(evidence, DEFAULT).standing, judge(evidence, CHOSEN).standing) == (default, chosen)


def test_each_verdict_says_why() -> None:
    assert judge(LOADING._replace(told=OTHER), DEFAULT).reason == "it was started with -p 7861"
    assert judge(LOADING._replace(told=DOUBT), DEFAULT).reason == f"its port is unknown: {DOUBT.doubt}"
    assert "7860 is the default" in judge(LOADING, DEFAULT).reason
    assert "7860 is not the default" in judge(LOADING, CHOSEN).reason


APP = App((Entry("/app/webui.py", FileIdentity((1, 1), (1, 2))),), ("run",))
FILES = {"/app/webui.py": APP.entries[0].identity, "/other/webui.py": FileIdentity((1, 3), (1, 4))}
WORDS = ("run", "train", "--port", "7860", "7861", "-p7861", "--port=7860", "--por", "--share", "model.bin")
FIRST = 1 << 21  # pids that this process does not have


@dataclass(frozen=True)
class Row:
    """Hold one process of a made-up table; `parent` is the place of its parent among those before it, -1 for none."""

    parent: int
    own: bool
    python: bool
    file: str
    words: tuple[str, ...]
    environ: tuple[tuple[str, str], ...] | None
    listening: frozenset[int]
    network: bool

    @property
    def argv(self) -> tuple[str, ...]:
        return ("python" if self.python else "python-tail", self.file, *self.words)


@dataclass(frozen=True)
class World:
    """Hold a made-up process table, and what reads it in place of /proc and psutil."""

    rows: tuple[Row, ...]

    def row(self, pid: int) -> Row:
        return self.rows[pid - FIRST]

    def parent(self, pid: int) -> int:
        index = self.row(pid).parent
        return FIRST + index if index >= 0 else 1

    def command_lines(self) -> Iterator[tuple[int, bytes]]:
        for number, row in enumerate(self.rows):
            yield FIRST + number, b"".join(os.fsencode(word) + b"\0" for word in row.argv)

    def look(self, pid: int) -> Process | None:
        if not FIRST <= pid < FIRST + len(self.rows):
            return None
        row = self.row(pid)
        uid = os.geteuid() if row.own else os.geteuid() + 1
        return Process(pid, self.parent(pid), float(pid), uid, row.argv[0], "sleeping", row.argv, None)

    def lineage(self, pid: int) -> tuple[int, ...]:
        line = [pid]
        while FIRST <= line[-1] < FIRST + len(self.rows):
            line.append(self.parent(line[-1]))
        return tuple(line)

    def files_run(self, pid: int, argument: ScriptArgument) -> frozenset[FileIdentity]:
        return frozenset({FILES[argument.text]} if argument.text in FILES else ())

    def why_not(self, pid: int, argument: ScriptArgument, entries: Collection[Entry]) -> str | None:
        ours = [entry.identity for entry in entries]
        return None if not self.files_run(pid, argument).isdisjoint(ours) else "it runs another file"

    def environment(self, pid: int) -> dict[str, str] | None:
        environ = self.row(pid).environ if pid >= FIRST else ()
        return None if environ is None else dict(environ)

    def listening(self, pids: Sequence[int]) -> frozenset[int]:
        # Sockets of another network namespace are not seen from here.
        return frozenset(port for pid in pids if self.row(pid).network for port in self.row(pid).listening)

    def network(self, pid: int | None = None) -> str:
        return "net:[1]" if pid is None or self.row(pid).network else "net:[2]"

    def family(self, roots: Collection[int], table: object, bounds: Bounds, known: Known | None = None) -> Family:
        found: list[int] = []
        for number in range(len(self.rows)):
            pid = FIRST + number
            if pid not in roots and pid not in bounds.apart and self.parent(pid) in (*roots, *found):
                found.append(pid)
        return Family(tuple(process for pid in found if (process := self.look(pid))), ())

    def proven(self, pid: int, tree: Sequence[int], wanted: Wanted, recorded: int | None) -> bool:
        """Return whether the design allows to stop a process, with what hangs on it, as the instance on the port."""
        row = self.row(pid)
        if not (row.own and row.network):
            return False
        if recorded == pid:
            return True
        # Numbers and files are no commands, nor are the options that a launcher puts before one.
        words = list(row.words)
        while words and not words[0].isalpha() and words[0] != "--share":
            del words[: 2 if words[0] in ("--port", "--por") else 1]
        before = takewhile(lambda word: not word.startswith("-"), words)
        command = [word for word in before if word.isalpha()]
        if not row.python or row.file != "/app/webui.py" or command != ["run"]:
            return False
        listening = self.listening(tree)
        told = " ".join((*row.words, *(port for name, port in row.environ or () if name != "X")))
        unknown = row.environ is not None and "7861" not in told and not wanted.chosen
        return wanted.port in listening or (not listening and ("7860" in told or unknown))


environments = st.one_of(
    st.none(),
    st.lists(
        st.tuples(
            st.sampled_from(("GRADIO_SERVER_PORT", "PORT", "WEBUI_PORT", "X")), st.sampled_from(("7860", "7861"))
        ),
        max_size=2,
    ).map(tuple),
)
rows = st.builds(
    Row,
    parent=st.integers(-1, 5),
    own=st.sampled_from((True, True, True, False)),
    python=st.sampled_from((True, True, True, False)),
    file=st.sampled_from(("/app/webui.py", "/app/webui.py", "/other/webui.py", "-c")),
    words=st.one_of(
        st.just(("run",)),
        st.lists(st.sampled_from(WORDS), max_size=3).map(lambda words: ("run", *words)),
        st.lists(st.sampled_from(WORDS), max_size=4).map(tuple),
    ),
    environ=environments,
    listening=st.frozensets(st.sampled_from((7860, 7861)), max_size=1),
    network=st.sampled_from((True, True, True, False)),
)
worlds = st.lists(rows, min_size=1, max_size=7).map(
    lambda made: World(tuple(Row(**{**vars(row), "parent": min(row.parent, n - 1)}) for n, row in enumerate(made)))
)


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield monkeypatch


def looked_at(world: World, wanted: Wanted, recorded: int | None, monkeypatch: pytest.MonkeyPatch) -> survey.Survey:
    for name in ("command_lines", "look", "files_run", "why_not", "environment"):
        monkeypatch.setattr(candidates, name, getattr(world, name))
    monkeypatch.setattr(candidates, "is_python", lambda pid, argv: world.row(pid).python)
    monkeypatch.setattr(candidates, "names_file", lambda pid, word: word == "model.bin")
    monkeypatch.setattr(candidates, "start_of", float)
    for name in ("look", "lineage", "network"):
        monkeypatch.setattr(survey, name, getattr(world, name))
    monkeypatch.setattr(survey, "ProcessTable", lambda: SimpleNamespace(marked={}))
    monkeypatch.setattr(survey, "family", world.family)
    monkeypatch.setattr(survey, "inherited_marker", lambda pid, table, bounds: None)
    for name in ("supervisor", "shell_above"):
        monkeypatch.setattr(supervisor, name, lambda pid, table, own: None)
    monkeypatch.setattr(survey.ports, "listening", world.listening)
    monkeypatch.setattr(survey.ports, "listeners", lambda host, port, known: ())
    claim = Claim(recorded, float(recorded), wanted.port) if recorded is not None else None
    return survey.survey(APP, survey.Address(None, wanted, taken=False), claim)


@given(world=worlds, chosen=st.booleans(), recorded=st.one_of(st.none(), st.integers(0, 6)))
@examples(300)
def test_nothing_without_proof_is_ever_a_target(
    world: World, chosen: bool, recorded: int | None, patched: pytest.MonkeyPatch
) -> None:
    wanted = Wanted(7860, chosen)
    claimed = FIRST + recorded if recorded is not None and recorded < len(world.rows) else None
    seen = looked_at(world, wanted, claimed, patched)
    for process in refusal.targets(seen):
        instance = next(one for one in seen.stale if one.pid == process.pid)
        running = [(pid, world.row(pid)) for pid in (instance.pid, *instance.members)]
        assert any(world.proven(pid, instance.tree, wanted, claimed) for pid, _ in running), running
        assert all(instance.pid in world.lineage(pid) for pid in instance.members)
    # Each that runs the app is in one place, and no target is in another's tree.
    groups = (*seen.stale, *seen.siblings, *seen.others)
    members = [pid for one in groups for pid in (one.pid, *one.members)]
    assert len(members) == len(set(members))
    spared = {pid for one in (*seen.siblings, *seen.others) for pid in one.tree}
    assert spared.isdisjoint(pid for one in seen.stale for pid in one.tree)
    for pid, reason in seen.left:
        assert reason
        assert pid not in members


@given(world=worlds)
@examples(100)
def test_every_process_that_runs_the_app_is_judged_with_a_reason(world: World, patched: pytest.MonkeyPatch) -> None:
    seen = looked_at(world, Wanted(7860, chosen=False), None, patched)
    groups = (*seen.stale, *seen.siblings, *seen.others)
    judged = {pid for one in groups for pid in (one.pid, *one.members)}
    named = judged | {pid for pid, _ in seen.left}
    for number, row in enumerate(world.rows):
        if row.file == "/app/webui.py":
            assert FIRST + number in named
    assert all(one.verdict.reason for one in groups)
