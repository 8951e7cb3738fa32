"""How many examples a property gets: its own number in a normal run, fifty times that in a long one.

`HYPOTHESIS_PROFILE=long pytest -k fuzz` looks for new faults; what it finds becomes a test that needs no luck.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from dotenv.main import DotEnv
from hypothesis import Phase, settings
from hypothesis import strategies as st

USUAL = 100
"""The examples of the default profile, against which a property's own number is measured."""
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)


def examples(count: int, *, shrink: bool = True) -> settings:
    """Return the loaded profile's settings with this many examples, or as many times more as the profile says.

    Without `shrink` a failure is told as it was found: where examples are processes, a smaller one takes minutes.
    """
    loaded = settings()
    number = max(1, count * loaded.max_examples // USUAL)
    return settings(max_examples=number, phases=loaded.phases if shrink else UNSHRUNK)


def json_values(odd: Sequence[Any], leaves: int) -> st.SearchStrategy[Any]:
    """Return what may stand anywhere in a document: small values of every kind, and some that are `odd` there."""
    plain = (st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
    return st.recursive(
        st.one_of(*plain, st.sampled_from(odd)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
        max_leaves=leaves,
    )


_COMMENT_ONLY = r"=[^\S\r\n]+#"
_READS_COMMENTS = DotEnv(None, stream=io.StringIO("A= # c")).dict()["A"] == "# c"


def dotenv_agrees(text: str) -> bool:
    """Tell whether the installed python-dotenv reads a text as we do: old ones read `NAME= # c` as the value `# c`."""
    return not (_READS_COMMENTS and re.search(_COMMENT_ONLY, text))
