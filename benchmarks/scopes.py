"""What scopes, factories and the Strawberry extension cost, against doing without them.

python -m benchmarks.scopes [--json] [--rounds N] [--loop asyncio|uvloop]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from benchmarks._caches import CACHES
from benchmarks._measure import LoopFactory, Samples, clock, in_fresh_loop, interleave, ratio, say
from benchmarks._measure import loop_factory as loop_named
from benchmarks._peers import OURS
from benchmarks._report import Cell, Report, Row, Verdict, add_options
from dataloader_cache import DataLoader, LoaderScope, dataloader

__all__ = ["COLUMNS", "NOTES", "Settings", "main", "measure"]

WITHOUT = "without"
HOOK = "resolve hook"
COLUMNS = (OURS, WITHOUT, HOOK)

_MOST_FOR_A_SCOPE = 2_000.0
_MOST_FOR_THE_EXTENSION = 1.01
_FIELDS = 3_000


_Way = Callable[[int], Coroutine[Any, Any, float]]


@dataclass(frozen=True)
class Settings:
    """How much to measure; `budget` is how many seconds of samples a contender gets for a row."""

    rounds: int = 25
    calls: int = 5_000
    budget: float = 3.0


@dataclass(frozen=True)
class _Case:
    """One piece of work: with what we add, and without it."""

    work: str
    ways: Mapping[str, _Way]
    count: int
    unit: str = "ns each"
    scale: float = 1e9
    judge: Callable[[Mapping[str, Samples], float], Verdict] | None = None


@dataloader
async def _users(ids: list[int]) -> list[int]:
    return ids


@dataloader.shared(ttl=None, public=True)
async def _countries(ids: list[int]) -> list[int]:
    return ids


async def _load(ids: list[int]) -> list[int]:
    return ids


async def _open_scopes(count: int) -> float:
    begin = clock()
    for _ in range(count):
        async with LoaderScope():
            pass
    return clock() - begin


async def _make_dicts(count: int) -> float:
    begin = clock()
    for _ in range(count):
        _make_dict()
    return clock() - begin


def _make_dict() -> dict[str, object]:
    return {}


async def _look_up(count: int) -> float:
    async with LoaderScope():
        return await _hits(_users.load, count)


async def _have(count: int) -> float:
    return await _hits(DataLoader(_load).load, count)


async def _hits(load: Callable[[int], Awaitable[int]], count: int) -> float:
    await load(1)
    await load(1)
    begin = clock()
    for _ in range(count):
        await load(1)
    return clock() - begin


async def _first_loads(count: int) -> float:
    begin = clock()
    for _ in range(count):
        async with LoaderScope():
            await _users.load(1)
    return clock() - begin


async def _first_loads_by_hand(count: int) -> float:
    begin = clock()
    for _ in range(count):
        await DataLoader(_load).load(1)
    return clock() - begin


async def _shared_hits(count: int) -> float:
    async with LoaderScope():
        await _countries.load(1)
    begin = clock()
    for _ in range(count):
        async with LoaderScope():
            await _countries.load(1)
    return clock() - begin


def _judge_scope(found: Mapping[str, Samples], scale: float) -> Verdict:
    taken = found[OURS].median * scale
    return Verdict(f"≤ {_MOST_FOR_A_SCOPE:,.0f} ns", f"{taken:,.0f} ns", taken <= _MOST_FOR_A_SCOPE)


def _judge_extension(found: Mapping[str, Samples], _: float) -> Verdict:
    more = ratio(found[OURS], found[WITHOUT])
    met = more.value <= _MOST_FOR_THE_EXTENSION
    return Verdict(f"≤ {_MOST_FOR_THE_EXTENSION} x {WITHOUT}", f"{more.value:.3f} x", met)


def _cases(settings: Settings) -> list[_Case]:
    calls = settings.calls
    cases = [
        _Case(
            "open and close a scope",
            {OURS: _open_scopes, WITHOUT: _make_dicts},
            calls,
            judge=_judge_scope,
        ),
        _Case("a hit by factory, by loader", {OURS: _look_up, WITHOUT: _have}, calls),
        _Case(
            "a scope, one load, one batch",
            {OURS: _first_loads, WITHOUT: _first_loads_by_hand},
            calls // 10,
        ),
        _Case("a scope, one hit of a shared factory", {OURS: _shared_hits}, calls // 10),
    ]
    if find_spec("dataloader_cache.integrations.strawberry") is not None:
        from benchmarks._extension import queries

        ways: dict[str, _Way] = dict(zip(COLUMNS, queries(_FIELDS)))
        work = f"a query of {_FIELDS:,} fields that loads nothing"
        cases.append(_Case(work, ways, 1, "ms each", 1e3, _judge_extension))
    return cases


def measure(factory: LoopFactory, settings: Settings) -> list[Row]:
    """Measure every case, each of its ways in turn."""
    rows = [_measure_case(case, factory, settings) for case in _cases(settings)]
    say("")
    return rows


def _measure_case(case: _Case, factory: LoopFactory, settings: Settings) -> Row:
    say(case.work)
    count = max(1, case.count)

    def sample(name: str) -> tuple[float, str]:
        return in_fresh_loop(factory, lambda: case.ways[name](count)), ""

    found = interleave(list(case.ways), sample, rounds=settings.rounds, budget=settings.budget)
    scale = case.scale / count
    cells = {
        name: Cell(each.median * scale, "", tuple(one * scale for one in each.seconds))
        for name, each in found.items()
    }
    verdict = None if case.judge is None else case.judge(found, scale)
    return Row(case.work, case.unit, cells, verdict, digits=0 if case.scale == 1e9 else 2)


NOTES = (
    "A number is processor time, the median of interleaved rounds. Without: an empty dict per "
    "request; a loader made by hand; a schema without the extension. The resolve hook is an "
    "extension that does nothing in `resolve`.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its report and return the exit status."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scopes", description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=defaults.rounds)
    parser.add_argument("--calls", type=int, default=defaults.calls)
    options = parser.parse_args(arguments)
    settings = Settings(rounds=options.rounds, calls=options.calls)
    rows = measure(loop_named(options.loop), settings)
    report = Report(options.loop, COLUMNS, [], rows, list(NOTES), known=CACHES[:1])
    return report.finish(options)


if __name__ == "__main__":
    sys.exit(main())
