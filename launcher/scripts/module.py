"""Read from one Python file whether it is a Gradio page, and how it sets its port and address.

The file is parsed and never run. Unclear values are omitted: nothing here is guessed.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from .folder import content

_BROWSERS = frozenset(("chromium", "firefox", "webkit", "pyppeteer"))
_SERVERS = frozenset(("uvicorn.run", "uvicorn.Config", "hypercorn.run", "waitress.serve"))
_PORT_KEYWORDS = ("server_port", "port")
_HOST_KEYWORDS = ("server_name", "host")
_DEEPEST = 8
# A chain such as `a.b.c…` is a tree as deep as it is long. With 100,000 links it overflows the stack of Python 3.10,
# where later versions raise RecursionError; no person's source file has this many of these signs.
_MOST_NESTED = 20_000
_NESTING = tuple(sign.encode() for sign in ".([+-*/%|&^")


# What a look at the bytes finds before a file is parsed: its imports, and whether it may say how a page is opened.
_IMPORT_LINE = rb"(?m)^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]*(\([^)]{0,4096}\)|[^\n#;]+)|import[ \t]+([^\n#;]+))"
_TELLING = rb"gradio|add_argument|click|typer|tyro|[fF]ire\b|DEFINE_|ArgumentParser|CLI\(|\bport\b|_port|port_|PORT"


class Glance(NamedTuple):
    """Hold what a look at a file tells: its imports as `Module` has them, and whether it is worth to be parsed."""

    imports: tuple[str, ...]
    telling: bool


def glance(data: bytes) -> Glance:
    """Return what a look at the bytes of a file tells; parsing it takes a hundred times as long."""
    names: dict[str, None] = {}
    for match in re.finditer(_IMPORT_LINE, data):
        base = (match[1] or b"").decode("utf-8", "replace")
        listed = (match[2] or match[3] or b"").strip(b"()").decode("utf-8", "replace")
        if base:
            names[base] = None
        for part in listed.replace("\\", " ").split(","):
            name = part.split("#")[0].split()[:1]
            if name:
                names[f"{base}{'' if not base or base.endswith('.') else '.'}{name[0]}"] = None
    return Glance(tuple(names), re.search(_TELLING, data) is not None)


class Source(NamedTuple):
    """Hold the source of a value: an option's name, an environment variable, a constant, an argument's number.

    `text` is the option's destination, the variable's name, the constant, or the number; `default` is the value of an
    unset variable.
    """

    kind: Literal["option", "variable", "code", "argument", "unknown"]
    text: str = ""
    default: str = ""


class Launch(NamedTuple):
    """Hold one call that opens a page, and the sources of its port and address, if given.

    `function` is the name of its function, blank at the top level. `server` is the server if it is not Gradio itself,
    such as `uvicorn.run`.
    """

    line: int
    port: tuple[Source, ...]
    host: tuple[Source, ...]
    function: str = ""
    server: str = ""


class Module(NamedTuple):
    """Hold the facts in one file.

    `imports` are dotted names, relative ones with their dots. `runs` means that it does something when it is run as a
    script.
    """

    path: Path
    tree: ast.Module
    gradio: bool
    imports: tuple[str, ...]
    launches: tuple[Launch, ...]
    runs: bool

    @property
    def relative(self) -> bool:
        """Return whether it imports from its own package, so that its path alone does not run."""
        return any(name.startswith(".") for name in self.imports)


def read(path: Path, data: bytes | None = None) -> Module | None:
    """Return the facts in a file, None if this interpreter cannot parse it."""
    tree = parsed(content(path) if data is None else data)
    if tree is None:
        return None
    imports = tuple(dict.fromkeys(_imports(tree)))
    gradio = any(name.lstrip(".").split(".")[0] == "gradio" for name in imports)
    return Module(path, tree, gradio, imports, tuple(sorted(_launches(tree))), _runs(tree))


def parsed(data: bytes) -> ast.Module | None:
    """Return the syntax tree of a source file, None if it is invalid."""
    if sys.version_info < (3, 11) and any(data.count(sign) > _MOST_NESTED for sign in _NESTING):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in another person's file
            return ast.parse(data)
    except (SyntaxError, ValueError, LookupError, RecursionError, MemoryError, OverflowError):
        return None


def dotted(node: ast.expr) -> str:
    """Return a name with its attributes, `os.environ.get`; blank for any other expression."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join((node.id, *reversed(parts)))


def keyword(call: ast.Call, *names: str) -> ast.expr | None:
    """Return the value of the first of these keywords in a call."""
    given = {word.arg: word.value for word in call.keywords if word.arg}
    return next((given[name] for name in names if name in given), None)


def text(node: ast.expr | None) -> str | None:
    """Return a constant string or number as text, None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int) and not isinstance(node.value, bool):
        return str(node.value) if not isinstance(node.value, int) or abs(node.value) < 1 << 31 else None
    return None


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (f"{base}{'' if base.endswith('.') else '.'}{alias.name}" for alias in node.names)


def _runs(tree: ast.Module) -> bool:
    """Return whether a file does something when it is run: it has a main guard, or calls something at its top level."""
    for node in tree.body:
        if isinstance(node, ast.If) and any(_is_main(name) for name in ast.walk(node.test)):
            return True
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            return True
        if isinstance(node, ast.With | ast.Try | ast.If | ast.For | ast.While) and any(
            isinstance(inner, ast.Call) and _opens_page(inner) for inner in ast.walk(node)
        ):
            return True
    return False


def _is_main(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "__name__"


def _opens_page(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Attribute) and call.func.attr == "launch":
        return not _BROWSERS & set(dotted(call.func).split("."))
    return dotted(call.func) in _SERVERS


def _launches(tree: ast.Module) -> Iterator[Launch]:
    values: Mapping[str, Sequence[ast.expr]] | None = None
    for function, call in _calls(tree):
        if not _opens_page(call):
            continue
        values = values or assigned(tree)
        port, host = keyword(call, *_PORT_KEYWORDS), keyword(call, *_HOST_KEYWORDS)
        yield Launch(
            call.lineno,
            tuple(dict.fromkeys(_sources(port, values))) if port else _starred(call, values, _PORT_KEYWORDS),
            tuple(dict.fromkeys(_sources(host, values))) if host else _starred(call, values, _HOST_KEYWORDS),
            function,
            dotted(call.func) if dotted(call.func) in _SERVERS else "",
        )


def _calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call with the name of its outermost function."""
    pending: list[tuple[ast.AST, str]] = [(tree, "")]
    while pending:
        node, function = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not function:
            function = node.name
        if isinstance(node, ast.Call):
            yield function, node
        pending += [(child, function) for child in ast.iter_child_nodes(node)]


def _starred(call: ast.Call, values: Mapping[str, Sequence[ast.expr]], names: Sequence[str]) -> tuple[Source, ...]:
    """Return the source of a keyword that a call may get in a `**kwargs`."""
    starred = [word.value for word in call.keywords if word.arg is None]
    if not starred:
        return ()
    for node in starred:
        for value in (node, *values.get(dotted(node), ())):
            for name, inner in _items(value):
                if name in names:
                    return tuple(dict.fromkeys(_sources(inner, values)))
        for name in names:
            inside = values.get(f"{dotted(node)}[{name}]", ())
            if inside:
                return tuple(dict.fromkeys(source for value in inside for source in _sources(value, values)))
    return (Source("unknown"),)


def _items(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None and (name := text(key)):
                yield name, value
    elif isinstance(node, ast.Call) and dotted(node.func) == "dict":
        yield from ((word.arg, word.value) for word in node.keywords if word.arg)


def assigned(tree: ast.Module) -> Mapping[str, Sequence[ast.expr]]:
    """Return every value that a file assigns to a name, an attribute or an item `name[key]`."""
    values: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        targets: Sequence[ast.expr] = ()
        value: ast.expr | None = None
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            targets, value = (node.target,), node.value
        elif isinstance(node, ast.For):
            targets, value = (node.target,), node.iter
        for target in targets if value is not None else ():
            assert value is not None
            name = dotted(target)
            if isinstance(target, ast.Subscript):
                name = f"{dotted(target.value)}[{text(target.slice)}]"
            if name:
                values.setdefault(name, []).append(value)
    return values


def _sources(node: ast.expr, values: Mapping[str, Sequence[ast.expr]], depth: int = 0) -> Iterator[Source]:
    """Yield the possible sources of an expression's value."""
    if depth > _DEEPEST:
        yield Source("unknown")
        return
    if (literal := text(node)) is not None:
        yield Source("code", literal)
    elif isinstance(node, ast.Constant):
        return  # None: not given
    elif (variable := environment_variable(node)) is not None:
        yield variable
    elif isinstance(node, ast.BoolOp):
        for inner in node.values:
            yield from _sources(inner, values, depth + 1)
    elif isinstance(node, ast.IfExp):
        yield from _sources(node.body, values, depth + 1)
        yield from _sources(node.orelse, values, depth + 1)
    elif isinstance(node, ast.BinOp):
        yield from _sources(node.left, values, depth + 1)
    elif isinstance(node, ast.Subscript):
        yield from _of_item(node)
    elif isinstance(node, ast.Call):
        inner_values = [*node.args] if dotted(node.func) in ("int", "str", "range", "max", "min") else []
        if not inner_values:
            yield Source("unknown")
        for inner in inner_values[:1]:
            yield from _sources(inner, values, depth + 1)
    elif isinstance(node, ast.Name):
        given = [value for value in values.get(node.id, ()) if value is not node]
        if not given:
            yield Source("option", node.id)  # a function's parameter, as in click, typer and tyro
        for value in given:
            yield from _sources(value, values, depth + 1)
    elif isinstance(node, ast.Attribute):
        yield Source("option", node.attr)
    else:
        yield Source("unknown")


def _of_item(node: ast.Subscript) -> Iterator[Source]:
    key = text(node.slice)
    if dotted(node.value) == "sys.argv" and key is not None and key.isdecimal():
        yield Source("argument", key)
    elif key is not None:
        yield Source("option", key)  # vars(args)["port"], config["port"]
    else:
        yield Source("unknown")


def environment_variable(node: ast.expr) -> Source | None:
    """Return the environment variable that an expression reads, or None."""
    if isinstance(node, ast.Subscript) and dotted(node.value) in ("os.environ", "environ"):
        name = text(node.slice)
        return Source("variable", name) if name else None
    if not isinstance(node, ast.Call) or not node.args:
        return None
    if dotted(node.func) in ("os.environ.get", "os.getenv", "environ.get", "getenv"):
        name = text(node.args[0])
        default = text(node.args[1]) if len(node.args) > 1 else text(keyword(node, "default"))
        return Source("variable", name, default or "") if name else None
    return None
