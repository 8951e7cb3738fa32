"""Turn evidence into verdicts: which of this app's processes is the instance on our port, and which are skipped.

`judge` is the whole rule, and it is pure. `candidates` has proven before that a process runs this app (script and
command).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from .app_arguments import Told

# "instance" and "loading" are ours on our port; "sibling" is ours elsewhere; "refused" and "other" are another user's,
# on our port and elsewhere; "hidden" is another user's with our port in its arguments, of which only the script's name
# is visible.
Standing = Literal["instance", "loading", "sibling", "refused", "other", "hidden"]


class Wanted(NamedTuple):
    """Hold the port of a launch; `chosen` means that the user set it, so it is not the default."""

    port: int
    chosen: bool


class Evidence(NamedTuple):
    """Hold the facts about processes that run this app.

    `recorded`: the record in the instance lock that it holds says that a launcher started it for our port. `network`:
    it is in our network namespace. `listening` are the TCP ports that it serves there.
    """

    same_user: bool
    recorded: bool
    network: bool
    listening: frozenset[int]
    told: Told


class Verdict(NamedTuple):
    """Hold the verdict on processes that run this app, and the reason."""

    standing: Standing
    reason: str

    @property
    def stale(self) -> bool:
        """Return whether a launch on our port replaces it."""
        return self.standing in ("instance", "loading")

    @property
    def blocks(self) -> bool:
        """Return whether it is another user's and blocks a launch on our port."""
        return self.standing in ("refused", "hidden")


def judge(evidence: Evidence, wanted: Wanted) -> Verdict:
    """Return the verdict on processes that run this app: the first matching line counts."""
    port, told, listening = wanted.port, evidence.told, evidence.listening
    if not evidence.network:
        reason = f"in another network, which has its own port {port}"
        return Verdict("sibling" if evidence.same_user else "other", reason)
    if not evidence.same_user:
        if evidence.recorded or port in listening or told.port == port:
            return Verdict("refused", f"another user's, on port {port}")
        return Verdict("other", f"another user's, not known to be on port {port}")
    if evidence.recorded:
        return Verdict("instance", f"a launcher started it for port {port}")
    if port in listening:
        return Verdict("instance", f"it listens on port {port}")
    if listening:
        return Verdict("sibling", f"it listens on port {', '.join(map(str, sorted(listening)))}")
    if told.port == port:
        return Verdict("loading", f"it was started with {told.by} and does not listen yet")
    if told.port is not None:
        return Verdict("sibling", f"it was started with {told.by}")
    if told.doubt:
        return Verdict("sibling", f"its port is unknown: {told.doubt}")
    if wanted.chosen:
        return Verdict("sibling", f"it was started without a port, and this launch's port {port} is not the default")
    return Verdict("loading", f"it was started without a port, and port {port} is the default")
