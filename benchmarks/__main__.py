"""Run all benchmarks and print one table.

    python -m benchmarks [--full] [--json] [--strict] [--loop asyncio|uvloop]

It takes a few minutes; `--full` takes more rounds and longer runs. A missed target changes the exit
status only with `--strict`, since a busy machine can miss one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from benchmarks import per_key, under_load
from benchmarks._measure import loop_factory
from benchmarks._peers import installed
from benchmarks._report import Report, add_options

__all__ = ["main"]

_QUICK_PER_KEY = per_key.Settings(rounds=9, budget=1.5)


def main(
    arguments: Sequence[str] | None = None,
    quick_per_key: per_key.Settings = _QUICK_PER_KEY,
    quick_under_load: under_load.Settings = under_load.QUICK,
) -> int:
    """Run all benchmarks, print their report and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="more rounds and longer runs")
    add_options(parser)
    options = parser.parse_args(arguments)
    adapters, left_out = installed()
    factory = loop_factory(options.loop)
    report = Report(options.loop, [adapter.name for adapter in adapters], left_out)
    for_keys = per_key.Settings() if options.full else quick_per_key
    report.rows += per_key.measure(adapters, factory, for_keys)
    report.notes += per_key.NOTES
    if find_spec("graphql") is None:
        report.notes.append(
            "left out: batches per request and under load (graphql-core is not installed)"
        )
    else:
        for_load = under_load.Settings() if options.full else quick_under_load
        report.rows += under_load.measure(adapters, factory, for_load)
        report.notes += under_load.NOTES
    return report.finish(options)


if __name__ == "__main__":
    sys.exit(main())
