"""The part of tyro that makes options of a function's parameters or of a data class's fields."""

import argparse
import dataclasses
import inspect


def _fields(of, prefix=""):
    if not dataclasses.is_dataclass(of):
        for name, parameter in inspect.signature(of).parameters.items():
            yield prefix + name, type(parameter.default), parameter.default
        return
    for field in dataclasses.fields(of):
        if field.default_factory is not dataclasses.MISSING:
            yield from _fields(field.default_factory, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, type(field.default), field.default


def cli(of):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name, kind, default in _fields(of):
        parser.add_argument("--" + name.replace("_", "-"), dest=name, type=kind, default=default)
    values = vars(parser.parse_args())
    if not dataclasses.is_dataclass(of):
        return of(**values)
    made = of()
    for name, value in values.items():
        *parents, last = name.split(".")
        target = made
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, value)
    return made
