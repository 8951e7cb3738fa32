"""From evidence to verdict: which of this app's processes is the instance on our port, and which are left alone.

`judge` is the whole rule, and it is pure. That a process runs this app at all (script and command) is proven before:
see `candidates`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from .app_arguments import Told

# "instance" and "loading" are ours on our port; "sibling" is ours elsewhere; "refused" and "other" are another user's,
# on our port and not; "hidden" is another user's that was told our port, of whose script only the name can be seen.
Standing = Literal["instance", "loading", "sibling", "refused", "other", "hidden"]


class Wanted(NamedTuple):
    """Hold the port of a launch; `chosen` says that somebody named it, so it is not merely the default."""

    port: int
    chosen: bool


class Evidence(NamedTuple):
    """Hold what is known of processes that run this app.

    `recorded`: the record in the instance lock that it holds says that a launcher started it for our port.
    `network`: it is in our network namespace. `listening` are the TCP ports that it serves there.
    """

    same_user: bool
    recorded: bool
    network: bool
    listening: frozenset[int]
    told: Told


class Verdict(NamedTuple):
    """Hold what processes that run this app are to us, and why."""

    standing: Standing
    reason: str

    @property
    def stale(self) -> bool:
        """Return whether a launch on our port replaces it."""
        return self.standing in ("instance", "loading")

    @property
    def blocks(self) -> bool:
        """Return whether it is another user's that keeps a launch from our port."""
        return self.standing in ("refused", "hidden")


def judge(evidence: Evidence, wanted: Wanted) -> Verdict:
    """Return what the evidence makes of processes that run this app: the first line that fits counts."""
    port, told, listening = wanted.port, evidence.told, evidence.listening
    if not evidence.network:
        reason = f"in another network, where port {port} is another one"
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
        return Verdict("loading", f"it was told {told.by} and does not listen yet")
    if told.port is not None:
        return Verdict("sibling", f"it was told {told.by}")
    if told.doubt:
        return Verdict("sibling", f"its port is unknown: {told.doubt}")
    if wanted.chosen:
        return Verdict("sibling", f"it was told no port, and this launch's port {port} is not the default")
    return Verdict("loading", f"it was told no port, and port {port} is the default")
