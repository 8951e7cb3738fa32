"""Read how a script sets its port and address from its own code and that of the modules that it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from .candidates import Candidate
from .module import Launch, Module, Source, assigned, text
from .options import Option, options, subcommand, subparsers

_PORTS = (
    "port server_port gradio_port webui_port web_port ui_port listen_port http_port gradio_server_port app_port p"
    .split()
)  # fmt: skip
_HOSTS = (
    "host server_name server_host listen_host listen_address gradio_host hostname bind address addr ip server listen"
    .split()
)  # fmt: skip
_NO_PORTS = frozenset("api debug redis db database master vllm sglang backend controller worker mongo metrics".split())
_LIKELY_COMMANDS = ("webui", "ui", "web", "gradio", "serve", "server", "app", "demo", "gui", "launch", "start", "run")
_UVICORN_PORT = "8000"
_GRADIO = {"port": "GRADIO_SERVER_PORT", "host": "GRADIO_SERVER_NAME"}


class Way(NamedTuple):
    """Hold how a script sets its port, or its address.

    The source is an `option`, a `variable` of its own, its `code` (with the `value`), an `argument`, Gradio's own
    variable (`gradio`), or unknown. Otherwise `value` is its default, blank if that is Gradio's.
    """

    kind: Literal["option", "variable", "code", "argument", "gradio", "unknown"]
    option: Option | None = None
    variable: str = ""
    value: str = ""
    line: int = 0


class Reading(NamedTuple):
    """Hold the facts about a script: its port, its address, and its command that serves the page."""

    port: Way
    host: Way
    command: str = ""


def read_off(candidate: Candidate) -> Reading:
    """Return how a script sets its port and address."""
    declared = [option for module in candidate.modules for option in options(module)]
    launch = _launch(candidate)
    command = _command(candidate, declared)
    fitting = [option for option in declared if option.command in ("", command)]
    port = _way(launch, launch.port, fitting, candidate.modules, "port")
    if port.kind == "gradio" and launch.server:
        port = Way("code", value=_UVICORN_PORT, line=launch.line)
    return Reading(port, _way(launch, launch.host, fitting, candidate.modules, "host"), command)


def _launch(candidate: Candidate) -> Launch:
    """Return the call that says most about the port, among those in the file that opens the page."""
    opened = next(module for module in candidate.modules if module.path == candidate.launched_in)
    mounted = any(name.endswith("mount_gradio_app") for name in opened.imports) or b"mount_gradio_app" in _names(opened)
    launches = [launch for launch in opened.launches if bool(launch.server) == mounted] or list(opened.launches)
    return next((launch for launch in launches if launch.port), launches[0])


def _names(module: Module) -> frozenset[bytes]:
    return frozenset(node.attr.encode() for node in ast.walk(module.tree) if isinstance(node, ast.Attribute))


def _command(candidate: Candidate, declared: Sequence[Option]) -> str:
    functions = [launch.function for module in candidate.modules for launch in module.launches if launch.function]
    for module in candidate.modules:
        word = subcommand(module, functions)
        if word:
            return word
    words = [word for module in candidate.modules for word in subparsers(module)]
    with_port = [option.command for option in declared if option.command in words and _rank(option, _PORTS) is not None]
    likely = [word for word in _LIKELY_COMMANDS if word in words]
    return next((word for word in likely if word in with_port or not with_port), next(iter(with_port), ""))


def _way(
    launch: Launch, sources: Sequence[Source], declared: Sequence[Option], modules: Sequence[Module], what: str
) -> Way:
    """Return how a value reaches the call that opens the page."""
    names = _PORTS if what == "port" else _HOSTS
    taking = [option for option in declared if not option.switch]
    resolved = list(_resolved(sources, taking, modules))
    for kind in ("option", "variable", "argument"):
        for source, option in resolved:
            if source.kind == kind == "option" and option:
                if option.names:
                    return Way("option", option, value=option.default, line=option.line)
                return Way("argument", option, value=option.default, line=option.line)
            if source.kind == kind == "variable":
                default = next((one.text for one, _ in resolved if one.kind == "code"), source.default)
                if source.text == _GRADIO[what]:
                    return Way("gradio", value=default)
                return Way("variable", variable=source.text, value=default, line=launch.line)
            if source.kind == kind == "argument":
                return Way("argument", value=source.text, line=launch.line)
    if any(source.kind in ("option", "unknown") for source, _ in resolved):
        ranked = [(rank, option) for option in taking if option.names and (rank := _rank(option, names)) is not None]
        if ranked:
            option = min(ranked, key=lambda one: one[0])[1]
            return Way("option", option, value=option.default, line=option.line)
    code = next((source.text for source, _ in resolved if source.kind == "code"), "")
    if code:
        return Way("code", value=code, line=launch.line)
    return Way("unknown" if resolved else "gradio", line=launch.line)


def _resolved(
    sources: Sequence[Source], declared: Sequence[Option], modules: Sequence[Module]
) -> Iterator[tuple[Source, Option | None]]:
    """Yield the sources of a value; a name that is not an option may be assigned in another module."""
    for source in sources:
        if source.kind != "option":
            yield source, None
            continue
        option = next((option for option in declared if _sets(option, source.text)), None)
        given = None if option else _assigned(source.text, modules)
        if option is None and given is not None:
            yield given, None
        else:
            yield source, option


def _sets(option: Option, name: str) -> bool:
    return name in (option.sets, *(flag.lstrip("-").replace("-", "_") for flag in option.names))


def _assigned(name: str, modules: Sequence[Module]) -> Source | None:
    for module in modules:
        for value in assigned(module.tree).get(name, ()):
            literal = text(value)
            if literal is not None:
                return Source("code", literal)
    return None


def _rank(option: Option, names: Sequence[str]) -> int | None:
    """Return how likely an option of this name is the port or address of the page, None if it is not."""
    name = max((flag.lstrip("-") for flag in option.names), key=len, default="").lower().replace("-", "_")
    name = name.rpartition(".")[2]
    if name in names:
        return names.index(name)
    first, _, last = name.rpartition("_")
    return len(names) if last == names[0] and first and not _NO_PORTS & set(first.split("_")) else None
