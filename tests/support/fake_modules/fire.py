"""The part of fire that makes options of a function's parameters."""

import argparse
import inspect


def Fire(function):  # noqa: N802
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name, parameter in inspect.signature(function).parameters.items():
        parser.add_argument("--" + name, type=type(parameter.default), default=parameter.default)
    return function(**vars(parser.parse_args()))
