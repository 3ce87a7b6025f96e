"""What a call of a cache costs: hits, misses, callers of one key, eviction, with loads at no cost.

python -m benchmarks.per_hit [--json] [--rounds N] [--loop asyncio|uvloop]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks._caches import CACHES, FLOOR, Cache, CachePeer, ours
from benchmarks._measure import LoopFactory, Samples, clock, in_fresh_loop, interleave, ratio, say
from benchmarks._measure import loop_factory as loop_named
from benchmarks._peers import OURS, installed
from benchmarks._report import Cell, Report, Row, Verdict, add_options

__all__ = ["NOTES", "Settings", "main", "measure"]

Sample = Callable[[CachePeer, int], Coroutine[Any, Any, "float | None"]]

_TTL = 300.0
_HOT_KEYS = 128

# DESIGN's targets, as a factor of what another contender takes.
_GET_LIMITS = {"async-cache": 0.25, "async-lru": 0.5, FLOOR: 2.5}
_DECORATOR_LIMITS = {"async-lru": 0.8, "async-cache": 0.12}


@dataclass(frozen=True)
class Settings:
    """How much to measure; `budget` is how many seconds of samples a contender gets for a row."""

    rounds: int = 15
    calls: int = 10_000
    callers: int = 1_000
    budget: float = 3.0
    with_gc: bool = False
    only: str = ""


@dataclass(frozen=True)
class _Case:
    """One piece of work, and what it may take: so many times what each of `limits` takes."""

    work: str
    run: Sample
    count: int
    limits: Mapping[str, float]
    since: tuple[int, int] = (3, 10)


async def _value_of(key: str) -> str:
    return key


def _make(peer: CachePeer, maxsize: int, ttl: float | None, eviction: str) -> Cache:
    if peer.name == OURS:
        return ours(_value_of, maxsize, ttl, eviction)
    return peer.make(_value_of, maxsize, ttl)


def _keys(count: int, distinct: int = _HOT_KEYS) -> list[str]:
    # Made of parts, as real keys are: nobody finds them by identity alone before they are hashed.
    return [f"user:{number * 7919 % distinct}" for number in range(count)]


async def _get(peer: CachePeer, count: int, *, ttl: float | None, eviction: str = "lru") -> float:
    cache = _make(peer, 1000, ttl, eviction)
    keys = _keys(count)
    for key in set(keys):
        await cache.load(key)
    get = cache.get
    begin = clock()
    for key in keys:
        await get(key)
    seconds = clock() - begin
    _check(await get(keys[-1]) == keys[-1])
    return seconds


async def _peek(peer: CachePeer, count: int) -> float | None:
    cache = _make(peer, 1000, _TTL, "lru")
    peek = cache.peek
    if peek is None:
        return None
    keys = _keys(count)
    for key in set(keys):
        await cache.load(key)
    begin = clock()
    for key in keys:
        peek(key)
    return clock() - begin


async def _load_row(key: str) -> str:
    return key


async def _load_pair(kind: str, number: int) -> tuple[str, int]:
    return kind, number


async def _load_page(key: str, limit: int = 10) -> tuple[str, int]:
    return key, limit


async def _load_point(point: tuple[int, int]) -> tuple[int, int]:
    return point


class _Repository:
    async def load(self, key: str) -> str:
        return key


_Call = Callable[[Any, str], Awaitable[Any]]


async def _decorated(
    peer: CachePeer, count: int, *, function: Any, arguments: Sequence[Any], keyword: str = ""
) -> float | None:
    if peer.name == FLOOR:
        return None
    call = peer.decorator(False)(function)
    if keyword:
        return await _decorated_by_keyword(call, count, arguments, keyword)
    await call(*arguments)
    calls = range(count)
    if len(arguments) == 2:
        first, second = arguments
        begin = clock()
        for _ in calls:
            await call(first, second)
        seconds = clock() - begin
    else:
        [first] = arguments
        begin = clock()
        for _ in calls:
            await call(first)
        seconds = clock() - begin
    return seconds


async def _decorated_by_keyword(
    call: Any, count: int, arguments: Sequence[Any], keyword: str
) -> float:
    _check(keyword == "limit")
    [first, second] = arguments
    await call(first, limit=second)
    calls = range(count)
    begin = clock()
    for _ in calls:
        await call(first, limit=second)
    return clock() - begin


async def _decorated_method(peer: CachePeer, count: int) -> float | None:
    if peer.name == FLOOR:
        return None

    class Repository:
        load = peer.decorator(True)(_Repository.load)

    repository: Any = Repository()
    await repository.load("user:1")
    calls = range(count)
    begin = clock()
    for _ in calls:
        await repository.load("user:1")
    return clock() - begin


async def _miss(peer: CachePeer, count: int) -> float:
    load = _make(peer, 10 * count, _TTL, "lru").load
    keys = _keys(count, count)
    begin = clock()
    for key in keys:
        await load(key)
    seconds = clock() - begin
    _check(await load(keys[-1]) == keys[-1])
    return seconds


async def _same_key(peer: CachePeer, count: int) -> float:
    load = _make(peer, 1000, _TTL, "lru").load
    same = ["user:1"] * count
    begin = clock()
    values = await asyncio.gather(*map(load, same))
    seconds = clock() - begin
    _check(values == same)
    return seconds


async def _churn(peer: CachePeer, count: int, *, eviction: str) -> float | None:
    if not peer.is_bounded:
        return None
    load = _make(peer, 100, None, eviction).load
    for number in range(200):
        await load(f"old:{number}")
    keys = _keys(count, count)
    begin = clock()
    for key in keys:
        await load(key)
    return clock() - begin


def _check(right: bool) -> None:
    if not right:
        raise RuntimeError("a contender gave a wrong value, so its time means nothing")


def _cases(settings: Settings) -> list[_Case]:
    calls = settings.calls
    misses = max(1, calls // 5)
    fast = (3, 11)
    no_limits: dict[str, float] = {}
    decorated = partial(partial, _decorated)
    return [
        _Case("hit: await get(key)", partial(_get, ttl=None), calls, _GET_LIMITS, fast),
        _Case("hit: await get(key), TTL", partial(_get, ttl=_TTL), calls, _GET_LIMITS, fast),
        _Case(
            "hit: await get(key), TTL, s3fifo",
            partial(_get, ttl=_TTL, eviction="s3fifo"),
            calls,
            _GET_LIMITS,
            fast,
        ),
        _Case("peek(key), TTL", _peek, calls, no_limits),
        _Case(
            "decorated: f(str)",
            decorated(function=_load_row, arguments=("user:1",)),
            calls,
            _DECORATOR_LIMITS,
        ),
        _Case(
            "decorated: f(str, int)",
            decorated(function=_load_pair, arguments=("user", 1)),
            calls,
            _DECORATOR_LIMITS,
        ),
        _Case("decorated: method(str), without self", _decorated_method, calls, no_limits),
        _Case(
            "decorated: f(str, limit=int)",
            decorated(function=_load_page, arguments=("user:1", 20), keyword="limit"),
            calls,
            no_limits,
        ),
        _Case(
            "decorated: f(str), a default left out",
            decorated(function=_load_page, arguments=("user:1",)),
            calls,
            no_limits,
        ),
        _Case(
            "decorated: f(tuple)",
            decorated(function=_load_point, arguments=((1, 2),)),
            calls,
            no_limits,
        ),
        _Case("miss: await get(key, loader), TTL", _miss, misses, no_limits),
        _Case(
            f"gather of {settings.callers:,} callers of one key",
            _same_key,
            settings.callers,
            no_limits,
        ),
        _Case("miss that evicts", partial(_churn, eviction="lru"), misses, no_limits),
        _Case("miss that evicts, s3fifo", partial(_churn, eviction="s3fifo"), misses, no_limits),
    ]


def measure(peers: Sequence[CachePeer], factory: LoopFactory, settings: Settings) -> list[Row]:
    """Measure every case for every contender that has such a call."""
    by_name = {peer.name: peer for peer in peers}
    rows = [
        _measure_case(case, by_name, factory, settings)
        for case in _cases(settings)
        if settings.only in case.work
    ]
    say("")
    return rows


def _measure_case(
    case: _Case, peers: Mapping[str, CachePeer], factory: LoopFactory, settings: Settings
) -> Row:
    say(case.work)

    def sample(name: str, count: int = case.count) -> tuple[float, str]:
        seconds = in_fresh_loop(factory, lambda: case.run(peers[name], count))
        return (-1.0 if seconds is None else seconds), ""

    able = [name for name in peers if sample(name, 1)[0] >= 0]
    results = interleave(
        able, sample, rounds=settings.rounds, budget=settings.budget, with_gc=settings.with_gc
    )
    scale = 1e9 / case.count
    cells = {
        name: Cell(found.median * scale, "", tuple(each * scale for each in found.seconds))
        for name, found in results.items()
    }
    return Row(case.work, "ns per call", cells, _verdict(case, results), digits=0)


def _verdict(case: _Case, results: Mapping[str, Samples]) -> Verdict | None:
    if OURS not in results:
        return None
    names = case.limits or [name for name in ("async-cache", "async-lru") if name in results]
    found = {name: ratio(results[OURS], results[name]) for name in names if name in results}
    measured = ", ".join(f"{each.value:.2f} x {name}" for name, each in found.items()) or "-"
    target = ", ".join(f"≤ {limit:g} x {name}" for name, limit in case.limits.items())
    met = None
    if found and case.limits and sys.version_info >= case.since:
        met = all(each.value <= case.limits[name] for name, each in found.items())
    return Verdict(target, measured, met)


NOTES = (
    "A number is processor time, the median of interleaved rounds; `measured` is the median of the "
    f"rounds' ratios. `{FLOOR}` is a coroutine around a dict: no bound, no time, nothing shared. "
    "Where a library has no coroutine that gets, its decorated function of one argument is called.",
    "`get` hits are judged on Python 3.11 and newer. async-lru keeps `self` in the key, theine is "
    "given a function that makes the key of a method. A load that costs nothing is timed with each "
    "miss: in a task of the cache's own for ours and async-lru, in the caller's for the others.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its report and return the exit status."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.per_hit", description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=defaults.rounds)
    parser.add_argument("--calls", type=int, default=defaults.calls)
    parser.add_argument("--callers", type=int, default=defaults.callers)
    parser.add_argument(
        "--gc", action="store_true", help="leave the garbage collector on while measuring"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="measure only what has this in its name"
    )
    options = parser.parse_args(arguments)
    settings = Settings(
        rounds=options.rounds,
        calls=options.calls,
        callers=options.callers,
        with_gc=options.gc,
        only=options.only,
    )
    peers, left_out = installed(CACHES)
    rows = measure(peers, loop_named(options.loop), settings)
    names = [peer.name for peer in peers]
    report = Report(options.loop, names, left_out, rows, list(NOTES), known=CACHES)
    return report.finish(options)


if __name__ == "__main__":
    sys.exit(main())
