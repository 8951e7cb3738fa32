"""A secret is never shown: not in a message, a plan, a lock file or `--json`.

Names give most secrets away (`HF_TOKEN`, `--auth`); the rest is known by its form (`hf_…`, `user:password@host`).
When in doubt, the value is masked: a masked port is a nuisance, a printed token is a leak.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MASK = "***"

_SECRET_NAME = re.compile(
    r"token(?!s|i[sz])|secret|passw|passphrase|pwd$|api[-_]?key|access[-_]?key|private[-_]?key|credential|cookie|webhook"
    r"|notify[-_]?url|(^|[-_])auth($|[-_])|(^|[-_])(key|pass|pw)$",
    re.IGNORECASE,
)
_LOCATION_NAME = re.compile(r"[-_](path|file|dir)$", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{16,}"  # with a dash it is an organisation: hf-internal-testing
    r"|(?<![A-Za-z0-9])(?:gh[pousr]|github_pat|glpat|xox[abprs])[_-][A-Za-z0-9_-]{16,}"
    r"|(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{16,}"
    r"|(?<![A-Za-z0-9])AKIA[0-9A-Z]{16}"
    r"|(?<=[Bb]earer )[^\s\"']+"
)
# A password may hold an unescaped `/` or `@`, and a proxy may be written without its scheme.
_URL_CREDENTIALS = re.compile(r"(?<=://)(?:[^/\s:@]*:\S*|[^/\s]+)@|(?<![^\s='\"])[^\s/:@='\"]+:[^\s/]*@(?=[\w\[])")
_URL_QUERY = re.compile(r"([?&][^=&\s]*(?:token|secret|key|sign|passw)[^=&\s]*=)[^&\s]+", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"""(?<![\w-])([A-Za-z_]\w*)=((?:'[^']*'|"[^"]*"|\\.|[^\s;&|])+)""")
_AUTHORIZATION = re.compile(r"(authorization:\s*(?:\w+\s+)?)[^\s'\"]+", re.IGNORECASE)
_OPTION = re.compile(r"""(?<![^\s'"])(--?[A-Za-z][\w-]*)(=|\s+(?!-))((?:'[^']*'|"[^"]*"|\\.|\S)+)""")


def is_secret_name(name: str) -> bool:
    """Tell whether a variable or option of this name is likely to hold a secret."""
    return bool(_SECRET_NAME.search(name)) and not _LOCATION_NAME.search(name)


def value(name: str, text: str) -> str:
    """Return `text` as it may be shown beside `name`."""
    return MASK if text and is_secret_name(name) else scrub(text)


def scrub(text: str) -> str:
    """Mask whatever has the form of a secret within any text."""
    text = _URL_CREDENTIALS.sub(MASK + "@", text)
    text = _URL_QUERY.sub(r"\1" + MASK, text)
    text = _ASSIGNMENT.sub(lambda found: f"{found[1]}={MASK}" if is_secret_name(found[1]) else found[0], text)
    text = _AUTHORIZATION.sub(r"\1" + MASK, text)
    text = _OPTION.sub(lambda found: found[1] + found[2] + MASK if is_secret_name(found[1]) else found[0], text)
    return _SECRET_TEXT.sub(MASK, text)


def arguments(argv: Iterable[str]) -> tuple[str, ...]:
    """Return a command line as it may be shown: `--auth user:pw` and `--hf-token=…` lose their values."""
    return tuple(_arguments(argv))


def _arguments(argv: Iterable[str]) -> Iterator[str]:
    masked_next = False
    for argument in argv:
        option, equals, _ = argument.partition("=")
        is_option = option.startswith("-")
        if masked_next and not is_option:
            yield MASK
        elif is_secret_name(option.lstrip("-")) and equals:
            yield f"{option}={MASK}"
        else:
            yield scrub(argument)
        masked_next = is_option and not equals and is_secret_name(option.lstrip("-"))
