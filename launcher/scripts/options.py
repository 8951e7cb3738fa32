"""Find the options and commands that a Python file declares with argparse, click, typer, tyro, fire and others.

Only literal declarations count. `--server_port` and `--server-port` are spelled as their library spells them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .module import Module, dotted, keyword, text

_FLAG_ACTIONS = ("store_true", "store_false", "store_const", "count", "BooleanOptionalAction")
_DATA_PARSERS = ("HfArgumentParser", "ArgumentParser.from_dataclass")
_DEEPEST = 2
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Option(NamedTuple):
    """Hold one option: its spellings, its destination, its default in the code, and its command.

    A positional argument has no spelling. `switch` means that it takes no value.
    """

    names: tuple[str, ...]
    sets: str
    default: str = ""
    switch: bool = False
    command: str = ""
    line: int = 0

    @property
    def name(self) -> str:
        """Return the spelling to use: a long one before a short one."""
        return next((name for name in self.names if name.startswith("--")), self.names[0] if self.names else "")


def options(module: Module) -> tuple[Option, ...]:
    """Return the options that a file declares, in the order of its lines."""
    tree = module.tree
    functions, classes = _defined(tree)
    parsers = _subparsers(tree)
    declared: list[Option] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            declared += _of_call(node, functions, classes, parsers)
    for name, command in commands(module).items():
        if name not in functions:
            continue
        function = functions[name]
        declared += _clicked(function, command)
        if "typer" in {name.split(".")[0] for name in module.imports}:
            declared += _typed(function, command)
    return tuple(sorted(dict.fromkeys(declared), key=lambda option: option.line))


def commands(module: Module) -> Mapping[str, str]:
    """Return the functions that are commands, each with its word, blank if it needs none."""
    named: dict[str, tuple[str, str]] = {}
    functions, _ = _defined(module.tree)
    for function in functions.values():
        for decorator in function.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            owner, _, kind = dotted(called).rpartition(".")
            if kind in ("command", "group", "callback"):
                given = _command_name(decorator) or function.name.replace("_", "-")
                alone = owner in ("click", "typer", "") or kind != "command"
                named[function.name] = (owner, "" if alone else given)
    typer_apps = {owner for owner, _ in named.values() if owner not in functions}
    single = {owner for owner in typer_apps if [one for one, _ in named.values()].count(owner) == 1}
    words = {function: "" if owner in single else word for function, (owner, word) in named.items()}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and dotted(node.func) == "typer.run" and node.args:
            words[dotted(node.args[0])] = ""
    return words


def subcommand(module: Module, launching: Sequence[str]) -> str:
    """Return the word of the command that calls one of these functions; blank if it needs none."""
    calls = _call_graph(module.tree)
    for function, word in commands(module).items():
        if word and _reaches(function, launching, calls):
            return word
    parsers = _subparsers(module.tree)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "set_defaults":
            word = parsers.get(dotted(node.func.value), "")
            targets = [dotted(value.value) for value in node.keywords]
            if word and any(_reaches(target, launching, calls) for target in targets if target):
                return word
    return ""


def subparsers(module: Module) -> Sequence[str]:
    """Return the words of argparse's subparsers in a file."""
    return tuple(dict.fromkeys(_subparsers(module.tree).values()))


def command_words(module: Module) -> frozenset[str]:
    """Return every word of a command in a file: of argparse's subparsers, with aliases, and of click and typer."""
    words = {word for word in commands(module).values() if word}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_parser":
            aliases = keyword(node, "aliases")
            named = [*node.args[:1], *(aliases.elts if isinstance(aliases, ast.List | ast.Tuple) else ())]
            words.update(word for value in named if (word := text(value)))
    return frozenset(words)


def _command_name(decorator: ast.expr) -> str:
    if not isinstance(decorator, ast.Call):
        return ""
    first = text(decorator.args[0]) if decorator.args else None
    return first or text(keyword(decorator, "name")) or ""


def _defined(tree: ast.Module) -> tuple[Mapping[str, Function], Mapping[str, ast.ClassDef]]:
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return functions, {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _call_graph(tree: ast.Module) -> Mapping[str, frozenset[str]]:
    functions, _ = _defined(tree)
    return {
        name: frozenset(
            dotted(node.func).rpartition(".")[2] for node in ast.walk(function) if isinstance(node, ast.Call)
        )
        for name, function in functions.items()
    }


def _reaches(function: str, targets: Sequence[str], calls: Mapping[str, frozenset[str]]) -> bool:
    pending, seen = [function], {function}
    while pending:
        name = pending.pop()
        if name in targets:
            return True
        new = calls.get(name, frozenset()) - seen
        seen |= new
        pending += new
    return False


def _subparsers(tree: ast.Module) -> Mapping[str, str]:
    """Return the names that parsers of commands are assigned to, each with the command's word."""
    parsers = {}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        call = node.value
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_parser" and call.args:
            word = text(call.args[0])
            parsers.update({dotted(target): word for target in node.targets if word and dotted(target)})
    return parsers


def _of_call(
    call: ast.Call, functions: Mapping[str, Function], classes: Mapping[str, ast.ClassDef], parsers: Mapping[str, str]
) -> Iterator[Option]:
    name = dotted(call.func)
    last = call.func.attr if isinstance(call.func, ast.Attribute) else name
    if last == "add_argument":
        owner = dotted(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        yield from _argument(call, parsers.get(owner, ""))
    elif last.startswith("DEFINE_") and call.args and (given := text(call.args[0])):
        default = text(call.args[1]) if len(call.args) > 1 else None
        yield Option((f"--{given}",), given, default or "", last in ("DEFINE_bool", "DEFINE_boolean"), "", call.lineno)
    elif name in ("tyro.cli", "jsonargparse.CLI", "CLI", "fire.Fire", "Fire") and call.args:
        target = dotted(call.args[0])
        dashes = name == "tyro.cli"
        if target in functions:
            yield from _parameters(functions[target], dashes)
        elif target in classes:
            yield from _fields(classes[target], classes, dashes)
    elif last in _DATA_PARSERS and call.args:
        given_classes = call.args[0].elts if isinstance(call.args[0], ast.Tuple | ast.List) else call.args[:1]
        for one in given_classes:
            if dotted(one) in classes:
                yield from _fields(classes[dotted(one)], classes, dashes=False)


def _argument(call: ast.Call, command: str) -> Iterator[Option]:
    names = [name for argument in call.args if (name := text(argument))]
    if not names:
        return
    action = keyword(call, "action")
    switch = (text(action) or dotted(action).rpartition(".")[2] if action else "") in _FLAG_ACTIONS
    flags = tuple(name for name in names if name.startswith("-"))
    long = next((name for name in flags if name.startswith("--")), names[0])
    sets = text(keyword(call, "dest")) or long.lstrip("-").replace("-", "_")
    yield Option(flags, sets, text(keyword(call, "default")) or "", switch, command, call.lineno)


def _clicked(function: Function, command: str) -> Iterator[Option]:
    """Yield the options from click's decorators of a function."""
    for decorator in function.decorator_list:
        if not isinstance(decorator, ast.Call):
            continue
        kind = dotted(decorator.func).rpartition(".")[2]
        given = [name for argument in decorator.args if (name := text(argument))]
        if kind not in ("option", "argument") or not given:
            continue
        flags = tuple(name for name in given if name.startswith("-"))
        plain = next((name for name in given if not name.startswith("-")), "")
        long = max(flags, key=len, default="")
        sets = plain or long.lstrip("-").partition("/")[0].replace("-", "_")
        is_flag = keyword(decorator, "is_flag")
        switch = "/" in "".join(flags) or (isinstance(is_flag, ast.Constant) and is_flag.value is True)
        yield Option(flags, sets, text(keyword(decorator, "default")) or "", switch, command, decorator.lineno)


def _typed(function: Function, command: str) -> Iterator[Option]:
    """Yield the options that typer creates from a function's parameters."""
    for name, annotation, default in _arguments_of(function):
        declared = _typers(default) or _typers(annotation)
        given = declared.args if declared else []
        flags = tuple(flag for argument in given if (flag := text(argument)) and flag.startswith("-"))
        value = text(given[0]) if given and declared is default else text(default)
        positional = default is None or (declared is not None and dotted(declared.func).endswith("Argument"))
        if declared is not None and dotted(declared.func).endswith("Option"):
            positional = False
        switch = _is_bool(annotation) or "/" in "".join(flags)
        names = () if positional else flags or (f"--{name.replace('_', '-')}",)
        yield Option(
            names, name, "" if (value or "").startswith("-") else value or "", switch, command, function.lineno
        )


def _typers(node: ast.expr | None) -> ast.Call | None:
    """Return the `typer.Option(…)` in a default, or in an annotation `Annotated[int, typer.Option(…)]`."""
    for inner in ast.walk(node) if node is not None else ():
        if isinstance(inner, ast.Call) and dotted(inner.func).rpartition(".")[2] in ("Option", "Argument"):
            return inner
    return None


def _parameters(function: Function, dashes: bool) -> Iterator[Option]:
    for name, annotation, default in _arguments_of(function):
        spelled = name.replace("_", "-") if dashes else name
        yield Option((f"--{spelled}",), name, text(default) or "", _is_bool(annotation), "", function.lineno)


def _fields(
    cls: ast.ClassDef, classes: Mapping[str, ast.ClassDef], dashes: bool, prefix: str = "", depth: int = 0
) -> Iterator[Option]:
    """Yield the options of a data class; a field of another data class adds that class's fields after its own name."""
    for node in cls.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        name = node.target.id
        spelled = prefix + (name.replace("_", "-") if dashes else name)
        inner = dotted(node.annotation)
        if inner in classes and depth < _DEEPEST:
            yield from _fields(classes[inner], classes, dashes, f"{spelled}.", depth + 1)
            continue
        value = node.value
        if isinstance(value, ast.Call):  # field(default=7860)
            value = keyword(value, "default")
        yield Option((f"--{spelled}",), name, text(value) or "", _is_bool(node.annotation), "", node.lineno)


def _arguments_of(function: Function) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    plain = [*function.args.posonlyargs, *function.args.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(function.args.defaults)) + [*function.args.defaults]
    both = [*zip(plain, defaults, strict=True), *zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)]
    yield from ((argument.arg, argument.annotation, default) for argument, default in both)


def _is_bool(annotation: ast.expr | None) -> bool:
    if isinstance(annotation, ast.Subscript) and dotted(annotation.value).endswith("Annotated"):
        inner = annotation.slice
        annotation = inner.elts[0] if isinstance(inner, ast.Tuple) and inner.elts else inner
    return annotation is not None and dotted(annotation) == "bool"
