"""What is typed is what is meant, wherever its parts stand; what cannot be read gets a command that helps."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.arguments import CHANGING, COMMANDS, LAUNCH, Arguments, parse, parser
from launcher.arguments.table import ALIASES, EXIT_STATUSES, FIRST_EXAMPLES, GROUPS, MOST_USED, OPTIONS, TABLE
from launcher.errors import REPEAT, ExitStatus, LauncherError
from launcher.ui.text import parsed_duration, parsed_size
from tests.support.apps import ROOT


def read(line: str) -> Arguments:
    return parse(shlex.split(line))


def refused(line: str) -> LauncherError:
    with pytest.raises(LauncherError) as caught:
        read(line)
    assert caught.value.status == ExitStatus.USAGE
    return caught.value


def hinted(hint: str | None) -> list[str]:
    """Return the commands in a hint: each ends where the next thing that the hint says begins."""
    return [text.strip() for text in re.findall(r"start_app\.py((?:(?!; ).)*)", (hint or "").replace(REPEAT, ""))]


@pytest.mark.parametrize("command", COMMANDS)
def test_options_stand_before_between_or_after_the_words_of_a_command(command: str) -> None:
    repos = {"": [], "DIR": ["/mnt/usb"]}.get(TABLE[command].repos, ["koge/v22", "koge/v23"])
    words = [*command.split(), *repos]
    options = ["--port", "7861", "-v"]
    for position in range(len(words) + 1):
        arguments = parse([*words[:position], *options, *words[position:]])
        assert arguments.command == command
        assert arguments.repos == tuple(repos)
        assert (arguments.port, arguments.verbose) == ("7861", True)


def test_the_launch_is_what_no_command_means_and_everything_after_two_dashes_is_the_apps() -> None:
    arguments = read("-p 7861 -- status --port 1 -- --help -h 'a b' ''")
    assert (arguments.command, arguments.port) == (LAUNCH, "7861")
    assert arguments.app_args == ("status", "--port", "1", "--", "--help", "-h", "a b", "")
    assert read("").command == LAUNCH
    assert read("launch --background").background


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("cache ls", "cache list"),
        ("cache rm koge/v22", "cache remove"),
        ("restart", LAUNCH),
        ("-v cache ls koge/v22", "cache list"),
        ("cache -v rm koge/v22", "cache remove"),
    ],
)
def test_a_short_name_is_the_command(line: str, command: str) -> None:
    assert read(line).command == command


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("-vn", {"verbose": True, "dry_run": True}),
        ("-vnp 7861", {"verbose": True, "port": "7861"}),
        ("-np7861", {"dry_run": True, "port": "7861"}),
        ("--port=7861", {"port": "7861"}),
        ("--port=", {"port": ""}),
        ("--remove-model a b -v", {"remove_model": ["a", "b"], "verbose": True}),
        ("--remove-model a --remove-model b", {"remove_model": ["a", "b"]}),
        ("--prune-cache --keep a --keep b", {"keep": ["a", "b"]}),
        ("cache prune --older-than 30d --max-size 50G", {"older_than": 2592000.0, "max_size": 50_000_000_000}),
        ("cache prune --max-size 0", {"max_size": 0}),
        ("models lock a --local-dir -", {"local_dir": "-"}),
        ("stop", {"stop_timeout": 10.0, "timeout": None, "dry_run": False}),
        ("wait --timeout 0.5 --pid 12", {"timeout": 0.5, "pid": 12}),
    ],
)
def test_an_option_has_its_value_and_every_other_one_its_default(line: str, values: dict[str, object]) -> None:
    arguments = read(line)
    assert {name: getattr(arguments, name) for name in values} == values
    assert set(vars(arguments)) <= set(Arguments.__annotations__)


@pytest.mark.parametrize("line", ["cache remove", "frob --version", "cache prune --frob", "--older-than 3", "-q -v"])
def test_a_question_for_the_version_is_answered_whatever_else_is_typed(line: str) -> None:
    assert read(f"{line} --version").version


NEAR = (
    ("prune", "did you mean cache prune?", "cache prune"),
    ("prune --older-than 30d", "did you mean cache prune?", "cache prune --older-than 30d"),
    ("prune cache", "did you mean cache prune?", "cache prune"),
    ("list", "did you mean cache list or models list?", "cache list"),
    ("ls", "did you mean cache list or models list?", "cache list"),
    ("rm koge/v22", "did you mean cache remove?", "cache remove koge/v22"),
    ("rm", "did you mean cache remove?", "cache remove REPO"),
    ("check koge/v22", "did you mean models check?", "models check koge/v22"),
    ("cache lst", "did you mean cache list?", "cache list"),
    ("cache pull", "did you mean models pull?", "models pull"),
    ("cache status", "did you mean status?", "status"),
    ("model check", "did you mean models check?", "models check"),
    ("cach", "did you mean cache?", "cache"),
    ("statsu --json", "did you mean status?", "status --json"),
    ("start --port 7861", "to restart the app, give no command:", "--port 7861"),
    ("kill", "did you mean stop?", "stop"),
    ("clear-cache", "did you mean --clear-cache?", "--clear-cache"),
    ("7861", "did you mean --port?", "--port 7861"),
    ("-port 7861", "did you mean --port?", "--port 7861"),
    ("status -port 7861", "did you mean --port?", "status --port 7861"),
    ("--prot 7861", "did you mean --port?", "--port 7861"),
    ("--prot=7861", "did you mean --port?", "--port 7861"),
    ("--server_port 7861", "did you mean --port?", "--port 7861"),
    ("--clear_cache", "did you mean --clear-cache?", "--clear-cache"),
    ("cache remove --dry-rn koge/v22", "did you mean --dry-run?", "cache remove koge/v22 --dry-run"),
    ("--stop", "did you mean stop?", "stop"),
    ("--prune", "did you mean cache prune?", "cache prune"),
    ("help prune", "did you mean cache prune?", "help cache prune"),
    ("status 7861", "", "status --port 7861"),
    ("cache clear koge/v22", "", "cache remove koge/v22"),
    ("cache --older-than 30d", "", "cache --help"),
    ("stop --port 70000", "", "stop --port 7860"),
    ("cache prune --older-than 30 --dry-run", "", "cache prune --older-than 30d --dry-run"),
    ("cache prune --max-size 50", "", "cache prune --max-size 50G"),
    ("--prune-cache --max-size=50", "", "--prune-cache --max-size 50G"),
    ("cache remove", "", "cache list"),
    ("stop -- --fp16", "", "stop"),
)


@pytest.mark.parametrize(("line", "words", "command"), NEAR, ids=[line for line, _, _ in NEAR])
def test_what_was_nearly_right_is_answered_with_the_command_that_is(line: str, words: str, command: str) -> None:
    hint = refused(line).hint
    assert (hint or "").startswith(words)
    assert hinted(hint)[0] == command


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cache prune --older-than 30", "--older-than: '30' has no unit: write a time span such as 30d"),
        ("cache prune --max-size 50", "--max-size: '50' has no unit: write a size such as 50G"),
        ("--port 70000", "--port: '70000' is not a valid port: a port is a number from 1 to 65535"),
        ("--port ７８６０", "--port: '７８６０' is not a valid port: a port is a number from 1 to 65535"),
        ("wait --pid 1e3", "--pid: '1e3' is not a process id"),
        ("logs --lines 1_0", "--lines: '1_0' is not a number of lines"),
        ("wait --timeout 1_0", "--timeout: '1_0' is not a number of seconds from 0 to 86400"),
        ("--print-completion fish", "argument --print-completion: invalid choice: 'fish'"),
        ("cache remove x --keep", "--keep does not go with cache remove, only with cache prune or launch"),
        ("cache prune --keep", "argument --keep: expected one argument"),
        ("--json=1", "argument --json: ignored explicit argument '1'"),
    ],
)
def test_a_bad_value_is_named_with_its_option(line: str, message: str) -> None:
    assert refused(line).message.startswith(message)


@pytest.mark.parametrize("text", ["30", "1.5", "007"])
def test_a_span_and_a_size_need_a_unit(text: str) -> None:
    for parsed, unit in ((parsed_duration, "d"), (parsed_size, "G")):
        with pytest.raises(ValueError, match=re.escape(text)):
            parsed(text)
        assert parsed(text + unit) > 0
    assert parsed_duration("0") == parsed_size("0") == parsed_size("0.0") == 0


# Words of command lines, right and wrong ones.
WORDS = (
    *COMMANDS, *ALIASES, *GROUPS, *OPTIONS, "help", "koge/v22", "koge/*", "--frob", "--fp16", "--prot", "-port", "-x",
    "prun", "statsu", "7861", "70000", "30", "30d", "--older-than=30", "--port=0", "-vn", "-np", "a b", "'", "--", "-",
)  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=5))
def test_whatever_is_typed_is_read_or_refused_with_commands_that_can_be_read(typed: list[str]) -> None:
    words = [word for some in typed for word in (some.split(" ") if some in COMMANDS else [some])]
    try:
        arguments = parse(words)
    except LauncherError as error:
        assert error.status == ExitStatus.USAGE
        commands = hinted(error.hint)
        assert commands, (words, error.message, error.hint)
        for command in commands:
            parse(shlex.split(command))
        return
    assert arguments.command in TABLE


@given(st.sampled_from(("stop", "status", "wait", "cache prune")), st.lists(st.sampled_from(WORDS), max_size=3))
def test_the_first_command_in_a_hint_starts_nothing_unless_that_was_typed(command: str, rest: list[str]) -> None:
    words = [*command.split(), *(word for word in rest if word not in ("--", "help"))]
    try:
        parse(words)
    except LauncherError as error:
        meant = parse(shlex.split(hinted(error.hint)[0]))
        assert meant.help or meant.version or meant.command != LAUNCH, (words, error.hint)


def literals() -> Iterator[str]:
    """Yield the texts of hints that the rules have, with a value in the place of each expression."""
    tree = ast.parse((ROOT / "launcher" / "arguments" / "rules.py").read_text())
    values = {
        "arguments.command": "status",
        "pulling": "--locked",
        "waiting": "--timeout",
        "value": " 5",
        "arguments.timeout": "5",
        "REPEAT": "",
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (
                part.value if isinstance(part, ast.Constant) else values[ast.unparse(part.value)]
                for part in node.values
                if isinstance(part, ast.Constant | ast.FormattedValue)
            )
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_command_that_a_rule_hints_is_one_that_can_be_read() -> None:
    commands = [command for text in literals() for command in hinted(text)]
    assert len(commands) > 8
    for command in commands:
        read(command)


def test_every_example_is_one_that_can_be_read_and_is_of_its_command() -> None:
    for name, command in TABLE.items():
        assert command.hidden or len(command.examples) == 2
        for words, _ in command.examples:
            assert read(words).command == name
    for words, _ in FIRST_EXAMPLES:
        read(words)


def test_the_parser_has_a_subparser_for_every_command_with_its_options_alone() -> None:
    whole = parser()
    for name, command in TABLE.items():
        repos = ["x"] if command.repos == "+" else []
        for option_name, option in OPTIONS.items():
            # A value that every kind of option can have.
            value = [v for v in ("bash", "30d", "50G", "5") if option.takes_value and takes(option.keywords, v)][:1]
            words = [*name.split(), *repos, option_name, *value]
            if option.names in {own.names for own in command.options}:
                whole.parse_args(words, Arguments())
            else:
                with pytest.raises(LauncherError, match="unrecognized arguments"):
                    whole.parse_args(words, Arguments())


def takes(keywords: object, value: str) -> bool:
    assert isinstance(keywords, dict)
    try:
        keywords.get("type", str)(value)
    except Exception:
        return False
    return value in keywords.get("choices", (value,))


def test_an_option_means_the_same_to_the_line_whatever_the_command_is() -> None:
    for command in TABLE.values():
        seen: set[str] = set()
        for option in command.options:
            for name in option.names:
                assert OPTIONS[name].names == option.names
                assert (OPTIONS[name].takes_value, OPTIONS[name].takes_values) == (
                    option.takes_value,
                    option.takes_values,
                )
            assert not seen & set(option.names), command.name
            seen |= set(option.names)
            assert option.names[-1].lstrip("-").replace("-", "_") in Arguments.__annotations__


def test_the_table_is_whole() -> None:
    assert set(EXIT_STATUSES) == set(ExitStatus)
    assert {name.partition(" ")[0] for name in COMMANDS if " " in name} == set(GROUPS)
    assert set(COMMANDS) > CHANGING
    assert len(MOST_USED) == 10
    assert all(option in (*TABLE[LAUNCH].options,) for option in MOST_USED)
    assert all(option.completes in ("", "dir", "file", "repo") for option in OPTIONS.values())
    modules = {path.stem for path in (ROOT / "launcher" / "commands").glob("*.py")}
    assert {name.replace(" ", "_") for name in TABLE} - modules == {"cache_clear", "cache_prune"}
