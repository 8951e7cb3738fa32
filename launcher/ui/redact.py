"""Never show a secret: not in a message, a plan, a lock file, the history or `--json`.

Names identify most secrets (`HF_TOKEN`, `--auth`, `"api_key":`); the rest have a known form (`hf_…`, a JWT,
`user:password@host`, a webhook). When in doubt the value is masked: a masked port is a nuisance, a printed token is a
leak.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

MASK = "***"

# Names are split into words: `hf-tokens`, `AccountKey` and `X_API_KEY` all end with a secret word.
_WORDS = r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+"
_SECRET_WORDS = frozenset(
    "auth authorization bearer cookie cookies credential credentials jwt key keys oauth pass passcode passphrase "
    "password passwords passwd pat pw pwd sas secret secrets session sid sig signature token tokens webhook".split()
)
# Secret words without a boundary: HFTOKEN, apikey, dbpassword. A tokenizer is not a token.
_WITHIN = r"token(?!s$|i[sz]|$)|\w+tokens?$|secret|passw|passphrase|api_?key|access_?key|credential|webhook"
# These count only as the last word: `key_frames` is not a key. A last word for a place or a size is harmless.
_LAST_ONLY = frozenset(("key", "keys", "pass", "pat", "sas", "sid", "sig", "session", "tokens"))
_PLACES = frozenset(("path", "file", "dir", "name", "url", "endpoint", "type", "length", "count", "limit", "size"))
_COUNTED = frozenset(("max", "min", "new", "num", "n", "total"))
_NUMBER = r"(?i)[\d.,]+|true|false|yes|no|on|off|none"
# Not even a number of one digit is a secret: HF_HUB_DISABLE_IMPLICIT_TOKEN=1 is a line to paste.
_SWITCH = r"(?i)[01]|true|false|yes|no|on|off"

# Secrets with a known form, whatever their name.
_FORM_STARTS = ("hf_", "api_org_", "gh", "github", "glpat", "xox", "sk-", "KIA", "SIA", "eyJ", "earer ")
_FORMS = (
    r"(?<![A-Za-z0-9])(?:"
    r"(?:hf|api_org)_(?:oauth_|jwt_)?[A-Za-z0-9]{16,}"  # with a dash it is an organisation: hf-internal-testing
    r"|(?:gh[pousr]|github_pat|glpat|xox[abprs])[_-][A-Za-z0-9_-]{16,}"
    r"|sk-[A-Za-z0-9_-]{16,}"
    r"|A(?:KIA|SIA)[0-9A-Z]{16}"
    r"|eyJ[\w-]{8,}\.[\w-]+\.[\w-]+"  # a JWT, whose header begins with {"
    r")|(?<=[Bb]earer )[^\s\"']+"
)
# A password may contain an unescaped `/` or `@`, and a proxy may have no scheme.
_USERINFO = r"(?<=://)(?:[^/\s:@]*:\S*|[^/\s]+)@|(?<![^\s='\"])[^\s/:@='\"]+:[^\s/]*@(?=[\w\[])"
# The address of a webhook lets anyone post there: Slack, Feishu, Lark, Discord, Teams, WeCom, Telegram.
_WEBHOOK = (
    r"(?i)(://(?:hooks\.slack\.com/|[^/\s'\"]+/(?:[^\s'\"?]*/)?(?:hook|webhook|webhooks|webhookb2)/"
    r"|api\.telegram\.org/bot))[^\s'\"]+"
)
_QUERY = r"([?&;])([\w.%-]+)=([^&\s'\"]+)"
_ASSIGNMENT = r"""(?<![\w-])([A-Za-z_][\w.-]*)=((?:'[^']*'|"[^"]*"|\\.|[^\s;&|])+)"""
_JSON = r"""((['"])([\w.-]+)\2\s*:\s*)("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,'"{}\[\]]+)"""
_HEADER = r"(?i)\b((?:[a-z]+-)+[a-z]+|authorization|cookie)(:\s*(?:(?:basic|bearer|digest|token)\s+)?)([^\s'\"]+)"
_OPTION = r"""(?<![^\s'"])(--?[A-Za-z][\w-]*)(=|\s+(?!-))((?:'[^']*'|"[^"]*"|\\.|\S)+)"""

# `--auth` takes several pairs; the first is already masked.
_PAIRS = r"(auth\s+\*\*\*)(?:\s+[^\s:'\"-][^\s:]*:\S+)+"


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Return whether the value of a variable, option, header or JSON key with this name is probably a secret."""
    words = [word.lower() for word in re.findall(_WORDS, name)]
    if not words or words[-1] in _PLACES - {"url"}:
        return False
    if words[-1] == "url":
        return bool({"webhook", "notify"} & set(words))
    if words[-1] == "tokens" and not _COUNTED.isdisjoint(words):
        return False
    if words[-1] in _SECRET_WORDS or any(word in _SECRET_WORDS - _LAST_ONLY for word in words):
        return True
    return any(re.search(_WITHIN, word) for word in words)


def is_secret(name: str, text: str) -> bool:
    """Return whether the value of a name must be masked; a switch and a number of tokens are not secret."""
    if not text or not is_secret_name(name) or re.fullmatch(_SWITCH, text):
        return False
    return not (name.lower().endswith("tokens") and re.fullmatch(_NUMBER, text))


def value(name: str, text: str) -> str:
    """Return `text`, masked if its name or form requires it."""
    return MASK if is_secret(name, text) else scrub(text)


def scrub(text: str) -> str:
    """Mask every part of a text that has the form of a secret."""
    for signs, pattern, masked in _TABLE:
        for sign in signs:
            if sign in text:  # most texts have no secret, and patterns are compiled on first use
                text = re.sub(pattern, masked, text)
                break
    return text


def arguments(argv: Iterable[str]) -> tuple[str, ...]:
    """Return a command line for display: `--auth user:pw` and `--hf-token=…` lose their values."""
    return tuple(_arguments(argv))


def _arguments(argv: Iterable[str]) -> Iterator[str]:
    before = ""  # the option of the next word
    for argument in argv:
        option, equals, text = argument.partition("=")
        if option.startswith("-") and len(option) > 1:
            before = "" if equals else option
            yield f"{option}={_of_option(option, text)}" if equals else scrub(argument)
        else:
            yield _of_option(before, argument)
            if not (is_secret_name(before) and before.endswith(("s", "auth"))):  # --auth a:b c:d takes several
                before = ""


def _of_option(option: str, text: str) -> str:
    """Return the value of an option for display.

    `-p` is a port for some programs and a password for others, `-u` is a user name, for curl with a password.
    """
    if is_secret(option, text):
        return MASK
    if option == "-p" and not (text.isdecimal() or text.lstrip("'\"").startswith(("/", "./", "../", "~"))):
        return MASK
    if option in ("-u", "--user", "--proxy-user", "-U") and ":" in text:
        return f"{text.partition(':')[0]}:{MASK}"
    return scrub(text)


def _query(at: re.Match[str]) -> str:
    # In a signed URL: sig, X-Amz-Signature, X-Amz-Credential, Signature, sign of DingTalk.
    secret = is_secret_name(at[2]) or at[2].lower().startswith("sign")
    return f"{at[1]}{at[2]}={MASK if secret else at[3]}"


def _assignment(at: re.Match[str]) -> str:
    return f"{at[1]}={MASK}" if is_secret(at[1], at[2]) else at[0]


def _json(at: re.Match[str]) -> str:
    quote = at[4][0] if at[4][0] in "'\"" else ""
    return f"{at[1]}{quote}{MASK}{quote}" if is_secret(at[3], at[4].strip("'\"")) else at[0]


def _header(at: re.Match[str]) -> str:
    return at[1] + at[2] + MASK if is_secret(at[1], at[3]) else at[0]


def _option(at: re.Match[str]) -> str:
    return at[1] + at[2] + _of_option(at[1], at[3])


# One table of forms: required characters, the pattern, and the replacement.
_TABLE: tuple[tuple[tuple[str, ...], str, str | Callable[[re.Match[str]], str]], ...] = (
    (("@",), _USERINFO, MASK + "@"),
    (("://",), _WEBHOOK, rf"\1{MASK}"),
    (("?", "&"), _QUERY, _query),
    (("=",), _ASSIGNMENT, _assignment),
    (("':", '":', "' :", '" :'), _JSON, _json),
    ((":",), _HEADER, _header),
    (("-",), _OPTION, _option),
    (("auth",), _PAIRS, rf"\1 {MASK}"),
    (_FORM_STARTS, _FORMS, MASK),
)
