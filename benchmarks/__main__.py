"""Measure every claim and print one table: `python -m benchmarks [SUITE…] [--quick] [--json]`.

stdout has the table or the JSON object, stderr what is being done. The table is Markdown, and README.md's is a copy of
its rows. Exit status: 0 every bar is met; 1 one is not, or
could not be measured; 2 usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import cache, launch, models, questions
from .measure import FULL, HEADINGS, NUMBERS, QUICK, BenchmarkError, Result, Say, Scale, machine

SUITES: Mapping[str, Callable[[Scale, Say], Iterator[Result]]] = {
    "launch": launch.results,
    "cache": cache.results,
    "models": models.results,
    "questions": questions.results,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what the README claims.")
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"what to measure: {', '.join(SUITES)} (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller tables: a look, no proof")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, every sample in it")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {unknown[0]!r}; there are: {', '.join(SUITES)}")
    # What was started must be ended on SIGTERM as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = machine()
    _say(_facts(before))
    try:
        results = [
            result
            for name in arguments.suites or SUITES
            for result in SUITES[name](QUICK if arguments.quick else FULL, _say)
        ]
    except BenchmarkError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    if arguments.json:
        print(
            json.dumps(
                {
                    "version": 1,
                    "quick": arguments.quick,
                    "machine": before,
                    "results": [result.document() for result in results],
                }
            )
        )
    else:
        print(table(results))
        print()
        print(_facts({**before, "load": f"{before['load']} to {machine()['load']}"}))
    return 0 if all(result.passed for result in results) else 1


def table(results: Sequence[Result]) -> str:
    """Return the results as one table; what is a number stands to the right."""
    rows = [HEADINGS, *(result.cells() for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [heading in NUMBERS for heading in HEADINGS]
    rule = [f"{'-' * (width - 1)}{':' if number else '-'}" for number, width in zip(right, widths, strict=True)]
    padded = [
        [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, number, width in zip(row, right, widths, strict=True)
        ]
        for row in (rows[0], rule, *rows[1:])
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def _facts(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
