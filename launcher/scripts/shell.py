"""Read the exports and the final command of an app's start scripts (`run.sh`, `webui.sh`, `start_*.sh`).

They are never run. A value that only a shell could compute is omitted, and so is an export under a condition. The last
assignment of a name counts.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from .folder import content

_MOST_BYTES = 1 << 17
_MOST_SCRIPTS = 20
_LONGEST_LINE = 10_000  # a longer one is data, and patterns take long on it
_FIRST = ("start_app", "webui-user", "webui", "start", "run", "launch")
_WORDS_BEFORE = ("exec", "nohup", "time", "setsid", "then", "do", "else", "{", "(", "!", "env", "command")
_OPENING, _CLOSING = ("if", "case", "for", "while", "until", "{"), ("fi", "esac", "done", "}")
_TESTS = ("[", "[[", "test", "command", "!")
_EXPORTING = ("export", "declare", "typeset")
_ASSIGNMENT = r"([A-Za-z_]\w*)=(.*)"
_HERE = "\0here\0"
# The spellings of "the folder of this script".
_FOLDERS = (
    r"\$\(\s*cd\s+[^()]*\$\([^()]*\)[^()]*pwd[^()]*\)|\$\(\s*dirname\s[^()]*(?:\([^()]*\)[^()]*)?\)|`dirname [^`]*`"
    r"|\$\(pwd(?: -P)?\)|`pwd`|\$\{?PWD\}?"
)
_PYTHON = r"(python|pypy)[0-9.]*"
_VARIABLE = r"\$(?:(\w+)|\{(\w+)(?::?[-=]([^{}]*))?\})"
_REDIRECTION = r"\d*(>>?|<|>&|&>)"


class StartScript(NamedTuple):
    """Hold the facts in a start script.

    `exports` are variables with their values, `words` the command that starts a Python (from the Python's own words
    on), `before` the words before it, such as numactl. `python` is the interpreter or environment that it names.
    `unknown` are names of values that only a shell can compute, or that it exports under a condition. `nested` means
    that the command is in a branch too.
    """

    path: Path
    exports: Mapping[str, str]
    words: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    python: str = ""
    unknown: tuple[str, ...] = ()
    nested: bool = False


def read_all(app_dir: Path) -> tuple[StartScript, ...]:
    """Return the start scripts of a folder, those with a typical name first."""
    try:
        names = [name for name in os.listdir(app_dir) if name.endswith((".sh", ".bash"))]
    except OSError:
        return ()
    ranked = sorted(names, key=lambda name: (_rank(name), name))[:_MOST_SCRIPTS]
    root = os.path.realpath(app_dir)
    paths = [app_dir / name for name in ranked if os.path.realpath(app_dir / name).startswith(root + os.sep)]
    return tuple(script for path in paths if (script := read(path)))


def read(path: Path) -> StartScript | None:
    """Return the facts in one start script, None if it cannot be read as text."""
    data = content(path)
    if not data or len(data) > _MOST_BYTES or b"\0" in data:
        return None
    return _Reader(path).read(data.decode("utf-8", "replace"))


def is_start_script(path: Path) -> bool:
    """Return whether a script is called like one that starts an app."""
    return _rank(path.name) < len(_FIRST)


def _rank(name: str) -> int:
    stem = name.partition(".")[0]
    return next((number for number, first in enumerate(_FIRST) if stem.startswith(first)), len(_FIRST))


class _Reader:
    """Read a script line by line, with the variables known so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        self._exports: dict[str, str] = {}
        self._unknown: dict[str, None] = {}
        self._command: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._python = ""
        self._folder = str(path.parent)
        self._depth = 0
        self._nested = False

    def read(self, text: str) -> StartScript:
        """Return the facts in the text."""
        tested = False
        for words in _commands(text):
            self._depth += words[0] in _OPENING or words[-1:] == ["{"]
            self._depth = max(0, self._depth - (words[0] in _CLOSING))
            conditional = words[0] in _EXPORTING or re.fullmatch(_ASSIGNMENT, words[-1])
            if not (tested and conditional):  # `[ -d lib ] && export …`
                self._take(words)
            tested = words[0] in _TESTS
        before, command = self._command
        unknown = tuple(self._unknown)
        return StartScript(self._path, self._exports, command, before, self._python, unknown, self._nested)

    def _take(self, words: list[str]) -> None:
        local: dict[str, str] = {}
        begin = 0
        for begin, word in enumerate((*words, "")):  # the blank is after the last word
            if match := re.fullmatch(_ASSIGNMENT, word, re.DOTALL):
                value = self._expanded(match[2])
                if value is not None and not (self._depth and begin == len(words) - 1 and match[1] in self._known):
                    local[match[1]] = value  # of what is set under a condition, the value before counts
            elif word in _WORDS_BEFORE:
                self._exports.update(local)
            else:
                break
        words = words[begin:]
        if not words:
            self._known.update(local)
            self._exports.update((name, value) for name, value in local.items() if name in self._exports)
            return
        if words[0] in _EXPORTING:
            self._export(words[1:])
        elif words[0] == "unset":
            for name in words[1:]:
                self._exports.pop(name, None)
        elif words[0] == "cd":
            folder = self._expanded(words[1]) if len(words) > 1 else None
            self._folder = os.path.normpath(os.path.join(self._folder, folder)) if folder else self._folder
        elif words[0] in ("source", ".") and len(words) > 1 and words[1].endswith("/bin/activate"):
            path = self._expanded(words[1])
            self._python = self._in_app(os.path.dirname(os.path.dirname(path))) if path else self._python
        elif words[0] in ("conda", "mamba", "micromamba") and words[1:2] == ["activate"] and len(words) > 2:
            self._python = _conda(words[2]) or self._python
        else:
            self._start(words, local)

    def _export(self, words: list[str]) -> None:
        for word in words:
            name, equals, value = word.partition("=")
            if self._depth:
                self._unknown[name] = None
                continue
            expanded = self._expanded(value) if equals else self._known.get(name)
            if expanded is None:
                self._unknown[name] = None
            elif re.fullmatch(r"[A-Za-z_]\w*", name):
                self._exports[name] = self._known[name] = expanded

    def _start(self, words: list[str], local: Mapping[str, str]) -> None:
        """Note a command that starts a Python; the last one of a script counts."""
        at = next((number for number, word in enumerate(words) if _starts_python(word, words[number + 1 :])), None)
        if at is None:
            return
        known = [self._expanded(word) for word in words]
        kept: list[str] = []
        for word in known[at:]:
            if word is None and kept and kept[-1].startswith("-"):
                kept.pop()  # an option whose value only a shell can know
            elif word:
                kept.append(word)
        if not kept or (len(kept) < 2 and not kept[0].endswith(".py")):
            return
        if self._command[1] and self._depth and not self._nested:
            return  # one that is run in any case says more
        self._exports.update(local)
        self._nested = self._depth > 0
        self._command = tuple(word for word in known[:at] if word), tuple(kept)
        if os.sep in kept[0] and not kept[0].endswith(".py"):
            self._python = self._in_app(kept[0])

    def _in_app(self, path: str) -> str:
        """Return a path relative to the app's folder if it is inside it."""
        full = os.path.normpath(os.path.join(self._folder, path))
        return full.removeprefix(f"{self._path.parent}{os.sep}")

    def _expanded(self, word: str) -> str | None:
        """Return a word with known variables expanded, None if only a shell can expand it."""
        missing = False

        def known(match: re.Match[str]) -> str:
            nonlocal missing
            variable, default = match[1] or match[2], match[3]
            value = self._known.get(variable)
            if value is None and variable == "HOME":
                value = os.path.expanduser("~")
            if value is None:
                missing = missing or default is None
            return re.sub(_VARIABLE, known, default or "") if value is None else value

        if re.fullmatch(r"\$[@*1-9]|\$\{[1-9]\}|\$\{[@*][^}]*\}", word):
            return ""  # the script's own arguments
        text = re.sub(_VARIABLE, known, word.replace(_HERE, self._folder))
        if missing or "$" in text or "`" in text:
            return None
        return os.path.expanduser(text) if text.startswith("~/") else text


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the simple commands of a script without redirections; here-documents are skipped."""
    end = ""
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        if end:
            end = "" if line.strip() == end else end
            continue
        if len(line) > _LONGEST_LINE:
            continue
        match = re.search(r"<<-?\s*['\"]?(\w+)", line)
        end = match[1] if match else ""
        lexer = shlex.shlex(re.sub(_FOLDERS, _HERE, line), posix=True, punctuation_chars=";&|()<>")
        lexer.whitespace_split, lexer.commenters = True, ""
        try:
            tokens = list(lexer)
        except ValueError:
            continue  # a quote that continues in the next line
        yield from _simple(tokens)


def _simple(tokens: list[str]) -> Iterator[list[str]]:
    words: list[str] = []
    skip = False
    for token in tokens:
        if skip:
            skip = False
        elif token.startswith("#"):
            break
        elif token and set(token) <= set(";&|()"):
            yield from (words,) if words else ()
            words = []
        elif re.fullmatch(_REDIRECTION, token) or (token and set(token) <= set("<>&")):
            if words and words[-1].isdecimal() and len(words[-1]) == 1:
                words.pop()  # the 2 of `2>`
            skip = True
        else:
            words.append(token)
    yield from (words,) if words else ()


def _starts_python(word: str, rest: list[str]) -> bool:
    name = os.path.basename(word)
    if re.fullmatch(_PYTHON, name) or re.fullmatch(r"\$\{?(PYTHON|PYTHON_CMD|python_cmd|PYTHON_BIN)\w*\}?", word):
        return any(one.endswith(".py") or one == "-m" for one in rest)
    if name == "uv" and rest[:1] == ["run"]:
        return True
    return word.endswith(".py")


def _conda(name: str) -> str:
    """Return the folder of a conda environment; blank if it is in none of the usual places."""
    if os.sep in name:
        return name
    homes = ("miniconda3", "anaconda3", "miniforge3", "mambaforge", ".conda", "micromamba")
    places = [os.path.expanduser(f"~/{home}/envs") for home in homes]
    folders = (os.path.join(place, name) for place in (*places, "/opt/conda/envs", "/root/miniconda3/envs"))
    return next((folder for folder in folders if os.path.isdir(folder)), "")
