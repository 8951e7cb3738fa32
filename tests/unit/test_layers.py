"""The arrows of the design point one way; what they promise is read from the code itself."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apps import ROOT, AppFolder, Processes, eventually, get, launcher, make_app

PACKAGE = ROOT / "launcher"
FILES = tuple(sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "demo" / "webui.py"))
# Each set may import what is in the sets below it: nothing above, and nothing beside.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"doctor"},
    {"launch", "demo"},
    {"operations"},
    {"context"},
    {"models"},
    {"cache", "instances", "app", "service"},
    {"config", "arguments"},
    {"scripts"},
    {"system", "ui"},
    {"errors", "__init__"},
)
DOMAINS = frozenset(("cache", "instances", "app", "service"))
# The child that speaks to hubs is a program of its own: it has a stdin, a stdout and an end.
WORKER = PACKAGE / "models" / "worker.py"
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]


def unit(path: Path) -> str:
    """Return the layer's member that a file belongs to: its module, or the folder it lies in."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every module that a file imports anywhere, in full and with its line."""
    package = ("launcher", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*base, *((node.module,) if node.module else ())))
            if name == "launcher":
                yield from ((f"launcher.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield name, node.lineno


def ours(path: Path) -> set[str]:
    return {name.split(".")[1] for name, _ in imported(path) if name.startswith("launcher.")} - {unit(path)}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_file_imports_only_what_lies_below_it(path: Path) -> None:
    rank = {name: number for number, names in enumerate(LAYERS) for name in names}
    here = unit(path)
    assert here in rank, f"{here} has no layer yet"
    assert not {name for name in ours(path) if name != "__version__" and rank[name] <= rank[here]}


@pytest.mark.parametrize("path", [path for path in FILES if unit(path) in DOMAINS], ids=str)
def test_the_domains_know_nothing_of_one_another(path: Path) -> None:
    assert not ours(path) & (DOMAINS - {unit(path)})


def test_only_the_entry_points_import_the_command_line() -> None:
    assert {unit(path) for path in FILES if "cli" in ours(path)} == {"__main__"}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_only_the_console_prints(path: Path) -> None:
    found = [
        (node.lineno, ast.unparse(node))
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input"))
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr", "sys.__stdout__"))
    ]
    if unit(path) == "cli":  # it makes the console from the streams, and never writes to them
        assert not [what for _, what in found if "print" in what]
        assert "sys.stdout.write" not in path.read_text()
    elif (
        unit(path) != "__main__" and path != WORKER
    ):  # that one refuses a system where the console cannot even be imported
        assert not found


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_only_the_edge_reads_the_environment_and_exits(path: Path) -> None:
    banned = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "sys.argv", "sys.exit", "os._exit"}
    found = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    if path.name in (
        "background.py",
        "detach.py",
    ):  # a forked child must end without what its parent has registered
        banned -= {"os._exit"}
    if unit(path) not in ("cli", "__main__", "demo") and path != WORKER:
        assert not found & banned


@pytest.mark.parametrize(
    ("package", "units"),
    [
        ("psutil", {"instances"}),
        ("dotenv", {"config"}),
        ("tqdm", {"ui"}),
        ("huggingface_hub", {"models"}),
        ("gradio", set()),
        ("requests", set()),
    ],
)
def test_each_library_has_one_door(package: str, units: set[str]) -> None:
    assert {unit(path) for path in FILES for name, _ in imported(path) if name.split(".")[0] == package} == units


def test_no_module_imports_a_library_when_it_is_imported_itself() -> None:
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                foreign = [name for name in names if name.split(".")[0] not in sys.stdlib_module_names]
                assert not foreign, (path, foreign)


HEAVY = (
    "huggingface_hub",
    "gradio",
    "ssl",
    "http.client",
    "urllib.request",
    "asyncio",
    "email",
    "unittest",
    "concurrent",
)


def _imports(text: str) -> set[str]:
    return {line.rsplit("|", 1)[1].strip() for line in text.splitlines() if line.startswith("import time:")}


def test_a_launch_that_replaces_an_instance_never_imports_huggingface_hub(app: AppFolder, processes: Processes) -> None:
    app.write_env("HF_HOME=cache_hub\nHF_ENDPOINT=https://hf-mirror.com\n")
    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    done = launcher(*app.arguments, "--", "--exit", "0", python=(sys.executable, "-X", "importtime"))
    assert done.status == 0, done.err
    assert f"terminated pid {old.pid}" in done.err
    names = _imports(done.err)
    assert {"launcher.launch.pipeline", "launcher.instances.stop", "psutil", "dotenv.parser"} <= names
    # Nobody has asked for a log or a webhook.
    services = {name for name in names if name.startswith("launcher.service.")}
    assert services == {"launcher.service.history", "launcher.service.outcomes"}
    assert not [name for name in names if name in HEAVY or name.startswith(("huggingface_hub", "gradio"))]


def test_a_launch_with_nothing_to_stop_imports_no_psutil(app: AppFolder, processes: Processes, tmp_path: Path) -> None:
    app.script.rename(app.path / "named_as_no_other.py")
    app.write_env("APP_SCRIPT=named_as_no_other.py\n")
    other = make_app(tmp_path / "other")
    (other.path / "server.py").write_text(other.script.read_text())
    running = processes.start((sys.executable, "server.py", "--port", str(other.port)), cwd=other.path)
    eventually(lambda: get(other.port), what=running.err)
    done = launcher(*app.arguments, "--", "--exit", "0", python=(sys.executable, "-X", "importtime"))
    assert done.status == 0, done.err
    names = _imports(done.err)
    assert {"launcher.instances.survey", "dotenv.parser"} <= names
    # dotenv's package imports the first two. The app has no models.lock, and no weights in folders of its own.
    assert not names & {"psutil", "logging", "tempfile", "launcher.models.lockfile", "launcher.models.weights"}


@pytest.mark.parametrize("arguments", [("--version",), ("--help",)])
def test_a_question_about_the_launcher_itself_imports_no_library_at_all(arguments: tuple[str, ...]) -> None:
    done = launcher(*arguments, python=(sys.executable, "-X", "importtime"))
    assert not _imports(done.err) & {
        "psutil",
        "dotenv",
        "launcher.launch.pipeline",
        "launcher.operations.instance",
        *HEAVY,
    }


@pytest.mark.parametrize("arguments", [("-n",), ("status",), ("stop",), ("--no-launch",), ("history",)])
def test_no_other_command_imports_huggingface_hub_either(app: AppFolder, arguments: tuple[str, ...]) -> None:
    done = launcher(*app.arguments, *arguments, python=(sys.executable, "-X", "importtime"))
    assert done.status == 0, done.err
    assert not [name for name in _imports(done.err) if name.startswith(("huggingface_hub", "gradio"))]
