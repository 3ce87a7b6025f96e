"""Run all benchmarks: tables of loaders, GraphQL fields, scopes, caches and eviction policies.

    python -m benchmarks [--full] [--json] [--strict] [--loop asyncio|uvloop]

It takes a few minutes; `--full` takes more rounds and longer runs, and weighs every cache, not
ours alone. `python -m benchmarks.soak` uses a cache for very long and is run by itself. A missed
target changes the exit status only with `--strict`, since a busy machine can miss one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from benchmarks import hit_ratio, memory, per_hit, per_key, scopes, under_load
from benchmarks._caches import CACHES
from benchmarks._measure import LoopFactory, loop_factory
from benchmarks._peers import installed
from benchmarks._report import Report, Row, add_options

__all__ = ["main"]

_QUICK_PER_KEY = per_key.Settings(rounds=9, budget=1.5)
_QUICK_SCOPES = scopes.Settings(rounds=15, budget=1.0)
_QUICK_CACHES = (
    per_hit.Settings(rounds=7, calls=5_000, budget=0.3),
    hit_ratio.Settings(requests=50_000),
    memory.Settings(peers=False),
)
_FULL_CACHES = (per_hit.Settings(), hit_ratio.Settings(), memory.Settings())
_CachesSettings = tuple[per_hit.Settings, hit_ratio.Settings, memory.Settings]


def main(
    arguments: Sequence[str] | None = None,
    quick_per_key: per_key.Settings = _QUICK_PER_KEY,
    quick_under_load: under_load.Settings = under_load.QUICK,
    quick_caches: _CachesSettings = _QUICK_CACHES,
    quick_scopes: scopes.Settings = _QUICK_SCOPES,
    fields: int = 1_000,
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
    caches = _of_caches(options.loop, factory, _FULL_CACHES if options.full else quick_caches)
    ratios = _of_policies(options.loop, _FULL_CACHES[1] if options.full else quick_caches[1])
    of_scopes = _of_scopes(options.loop, scopes.Settings() if options.full else quick_scopes)
    reports = {"loaders": report}
    if find_spec("strawberry") is None:
        report.notes.append("left out: fields of GraphQL (strawberry-graphql is not installed)")
    else:
        reports["graphql"] = _of_graphql(options.loop, fields, is_full=options.full)
    reports |= {"scopes": of_scopes, "caches": caches, "policies": ratios}
    if options.json:
        documents = {name: json.loads(each.as_json()) for name, each in reports.items()}
        print(json.dumps(documents, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(map(str, reports.values())))
    return int(options.strict and any(each.missed for each in reports.values()))


def _of_graphql(loop: str, fields: int, *, is_full: bool) -> Report:
    from benchmarks import graphql  # it needs what it measures

    rounds = 15 if is_full else 7
    return graphql.report(loop, graphql.Settings(rounds=rounds, fields=fields))


def _of_scopes(loop: str, settings: scopes.Settings) -> Report:
    rows = scopes.measure(loop_factory(loop), settings)
    return Report(loop, scopes.COLUMNS, [], rows, list(scopes.NOTES), known=CACHES[:1])


def _of_caches(loop: str, factory: LoopFactory, settings: _CachesSettings) -> Report:
    peers, left_out = installed(CACHES)
    rows: list[Row] = per_hit.measure(peers, factory, settings[0])
    rows += memory.measure(peers, factory, settings[2])
    notes = [*per_hit.NOTES, *memory.NOTES]
    return Report(loop, [peer.name for peer in peers], left_out, rows, notes, known=CACHES)


def _of_policies(loop: str, settings: hit_ratio.Settings) -> Report:
    rows = hit_ratio.measure(settings)
    return Report(loop, hit_ratio.COLUMNS, [], rows, list(hit_ratio.NOTES), known=CACHES[:1])


if __name__ == "__main__":
    sys.exit(main())
