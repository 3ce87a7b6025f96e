"""What a key costs: loads, hits, waiters, cancellations, with batch functions that cost nothing.

python -m benchmarks.per_key [--json] [--rounds N] [--loop asyncio|uvloop]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks._measure import (
    LoopFactory,
    Samples,
    against_fastest,
    clock,
    in_fresh_loop,
    interleave,
    loop_factory,
    say,
)
from benchmarks._peers import ADAPTERS, OURS, Adapter, BatchFunction, Loader, installed
from benchmarks._report import Cell, Report, Row, Verdict, add_options

__all__ = ["Settings", "main", "measure"]

MakeLoader = Callable[[BatchFunction], Loader]
Work = Callable[[MakeLoader, int], Coroutine[Any, Any, float]]

LOADERS = tuple(adapter.name for adapter in ADAPTERS if adapter.is_loader and adapter.name != OURS)

# Strawberry takes this long to cancel the 8,000 loads of one running batch where ours must take no
# more than 30 ms. Times differ between machines, so the limit moves with strawberry's in this run.
_STRAWBERRY_SECONDS = 1.8
_LIMIT_SECONDS = 0.030
_LIMIT_LOADS = 8_000
# A quarter of the loads should take a quarter of the time; a sixteenth says that it is quadratic.
_LINEAR_GROWTH = 8.0
_TOO_SHORT_FOR_GROWTH = 0.001
_QUARTER = "ours, a quarter of the loads"


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    `budget` is how many seconds of samples a contender gets for one piece of work, `deadline` after
    how many seconds it is stopped cancelling one load per tick.
    """

    rounds: int = 15
    keys: int = 10_000
    cancelled: int = 8_000
    single_batches: int = 200
    budget: float = 3.0
    deadline: float = 5.0
    with_gc: bool = False
    only: str = ""


@dataclass(frozen=True)
class _Case:
    """One piece of work and what it must reach: `factor` times the fastest of `against`."""

    work: str
    run: Work
    count: int
    factor: float | None = None
    against: tuple[str, ...] = ()


async def _rows_for(keys: list[int]) -> list[int]:
    return list(keys)


async def _gather(make: MakeLoader, count: int) -> float:
    loader = make(_rows_for)
    keys = list(range(count))
    begin = clock()
    values = await asyncio.gather(*map(loader.load, keys))
    seconds = clock() - begin
    _check(values == keys)
    return seconds


async def _load_many(make: MakeLoader, count: int) -> float:
    loader = make(_rows_for)
    keys = list(range(count))
    begin = clock()
    values = await loader.load_many(keys)
    seconds = clock() - begin
    _check(values == keys)
    return seconds


async def _hit(make: MakeLoader, count: int) -> float:
    load = make(_rows_for).load
    await load(7)
    hits = range(count)
    begin = clock()
    for _ in hits:
        await load(7)
    seconds = clock() - begin
    _check(await load(7) == 7)
    return seconds


async def _first_hits_after_load(make: MakeLoader, count: int) -> float:
    loader = make(_rows_for)
    await asyncio.gather(*map(loader.load, range(count)))
    return await _await_each(loader, count)


async def _first_hits_after_load_many(make: MakeLoader, count: int) -> float:
    loader = make(_rows_for)
    await loader.load_many(range(count))
    return await _await_each(loader, count)


async def _await_each(loader: Loader, count: int) -> float:
    load = loader.load
    keys = range(count)
    begin = clock()
    for key in keys:
        await load(key)
    seconds = clock() - begin
    _check(await load(count - 1) == count - 1)
    return seconds


async def _same_key(make: MakeLoader, count: int) -> float:
    loader = make(_rows_for)
    same = [7] * count
    begin = clock()
    values = await asyncio.gather(*map(loader.load, same))
    seconds = clock() - begin
    _check(values == same)
    return seconds


async def _single_key_batches(make: MakeLoader, count: int) -> float:
    load = make(_rows_for).load
    keys = range(count)
    begin = clock()
    for key in keys:
        await load(key)
    return clock() - begin


def _check(right: bool) -> None:
    if not right:
        raise RuntimeError("a contender gave a wrong value, so its time means nothing")


@dataclass(frozen=True)
class _Cancelling:
    """Cancel many loads: of which batch, of how many keys, in which order and at what pace."""

    running: bool
    one_key: bool
    order: str
    one_per_tick: bool

    @property
    def work(self) -> str:
        batch = "running" if self.running else "open"
        of = "one key" if self.one_key else "one batch"
        pace = "one per tick" if self.one_per_tick else "at once"
        return f"of {of}, {batch}, {self.order}, {pace}"

    async def run(
        self, make: MakeLoader, count: int, deadline: float, *, look_after: bool
    ) -> tuple[float, str]:
        """Return the seconds until all bookkeeping of the cancellations is done, and a remark.

        With `look_after` another key is loaded afterwards, to see whether the loader still works.
        """
        started, gate = asyncio.Event(), asyncio.Event()

        async def rows_for(keys: list[int]) -> list[int]:
            started.set()
            await gate.wait()
            return list(keys)

        loader = make(rows_for)
        waiters: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(loader.load(0 if self.one_key else key)) for key in range(count)
        ]
        if self.running:
            await asyncio.wait_for(started.wait(), 10)
        _put_in_order(waiters, self.order)
        begin = clock()
        if self.one_per_tick:
            remark = await _cancel_one_per_tick(waiters, time.monotonic() + deadline)
        else:
            remark = ""
            for waiter in waiters:
                waiter.cancel()
        for _ in range(20):  # more ticks than any contender's callbacks and batch window take
            await asyncio.sleep(0)
        seconds = clock() - begin
        gate.set()
        if look_after and not remark:
            remark = await _afterwards(loader, count + 1)
        return seconds, remark


async def _cancel_one_per_tick(waiters: Sequence[asyncio.Future[Any]], end: float) -> str:
    for waiter in waiters:
        waiter.cancel()
        await asyncio.sleep(0)
        if time.monotonic() > end:
            return "was cut off at the deadline"
    return ""


async def _afterwards(loader: Loader, other_key: int) -> str:
    try:
        await asyncio.wait_for(asyncio.ensure_future(loader.load(other_key)), 0.2)
    except asyncio.TimeoutError:
        return "never answers a load of another key afterwards"
    except asyncio.CancelledError:
        return "cancels a load of another key afterwards"
    return ""


def _put_in_order(waiters: list[asyncio.Future[Any]], order: str) -> None:
    if order == "LIFO":
        waiters.reverse()
    elif order == "random":
        random.Random(8).shuffle(waiters)


def _cases(settings: Settings) -> list[_Case]:
    keys = settings.keys
    return [
        _Case(f"gather(*map(load, {keys:,} keys))", _gather, keys, 1.0, LOADERS),
        _Case(f"load_many({keys:,} keys)", _load_many, keys, 0.25, LOADERS),
        _Case("hit: await load(done key)", _hit, keys, 1.2, ("aiodataloader",)),
        _Case("first hit of each key after load", _first_hits_after_load, keys),
        _Case("first hit of each key after load_many", _first_hits_after_load_many, keys),
        _Case(f"gather of {keys:,} loads of one key", _same_key, keys),
        _Case("batch of a single key", _single_key_batches, settings.single_batches),
    ]


def _cancellings() -> list[_Cancelling]:
    orders = ("FIFO", "LIFO", "random")
    running = [
        _Cancelling(True, one_key, order, one_per_tick)
        for one_key in (False, True)
        for one_per_tick in (False, True)
        for order in orders
    ]
    # An open batch leaves after a few ticks, so its loads cannot be cancelled one per tick.
    still_open = [
        _Cancelling(False, one_key, order, False) for one_key in (False, True) for order in orders
    ]
    return running + still_open


def measure(adapters: Sequence[Adapter], factory: LoopFactory, settings: Settings) -> list[Row]:
    """Measure every case for every contender."""
    makers = {adapter.name: adapter.make for adapter in adapters}
    rows = [
        _measure_case(case, makers, factory, settings)
        for case in _cases(settings)
        if settings.only in case.work
    ]
    rows += _measure_cancellings(makers, factory, settings)
    say("")
    return rows


def _measure_cancellings(
    makers: Mapping[str, MakeLoader], factory: LoopFactory, settings: Settings
) -> list[Row]:
    wanted = [one for one in _cancellings() if settings.only in _cancelled_work(one, settings)]
    if not wanted:
        return []
    results = {one: _measure_cancelling(one, makers, factory, settings) for one in wanted}
    ticks = statistics.median(
        in_fresh_loop(factory, lambda: _ticks_alone(settings.cancelled))
        for _ in range(settings.rounds)
    )
    limit = _limit(results, settings)
    rows: list[Row] = []
    for one, found in results.items():
        quarter = found.pop(_QUARTER, None)
        verdict = None
        if quarter is not None:
            allowance = ticks if one.one_per_tick else 0.0
            verdict = _cancelled_verdict(found[OURS], quarter, limit, allowance)
        rows.append(Row(_cancelled_work(one, settings), "ms", _cells(found, 1e3), verdict))
    return rows


async def _ticks_alone(count: int) -> float:
    begin = clock()
    for _ in range(count):
        await asyncio.sleep(0)
    return clock() - begin


def _cancelled_work(cancelling: _Cancelling, settings: Settings) -> str:
    return f"cancel {settings.cancelled:,} loads {cancelling.work}"


def _measure_case(
    case: _Case, makers: Mapping[str, MakeLoader], factory: LoopFactory, settings: Settings
) -> Row:
    say(case.work)

    def sample(name: str) -> tuple[float, str]:
        return in_fresh_loop(factory, lambda: case.run(makers[name], case.count)), ""

    results = interleave(
        list(makers),
        sample,
        rounds=settings.rounds,
        budget=settings.budget,
        with_gc=settings.with_gc,
    )
    return Row(case.work, "µs per key", _cells(results, 1e6 / case.count), _verdict(case, results))


def _measure_cancelling(
    cancelling: _Cancelling,
    makers: Mapping[str, MakeLoader],
    factory: LoopFactory,
    settings: Settings,
) -> dict[str, Samples]:
    """Measure all contenders, and ours once more with a quarter of the loads."""
    say(_cancelled_work(cancelling, settings))
    work = {name: (make, settings.cancelled) for name, make in makers.items()}
    if OURS in makers:
        work[_QUARTER] = makers[OURS], settings.cancelled // 4
    looked_after: set[str] = set()

    def sample(name: str) -> tuple[float, str]:
        look_after = name not in looked_after
        looked_after.add(name)
        run = partial(cancelling.run, *work[name], settings.deadline, look_after=look_after)
        return in_fresh_loop(factory, run)

    return interleave(
        list(work),
        sample,
        rounds=min(settings.rounds, 5),
        budget=settings.budget / 3,
        warm_up=False,
        with_gc=settings.with_gc,
    )


def _cells(results: Mapping[str, Samples], scale: float) -> dict[str, Cell]:
    return {
        name: Cell(
            samples.median * scale,
            "≥" if "deadline" in samples.remark else "",
            tuple(seconds * scale for seconds in samples.seconds),
            samples.remark,
        )
        for name, samples in results.items()
    }


def _verdict(case: _Case, results: Mapping[str, Samples]) -> Verdict | None:
    if OURS not in results:
        return None
    found = against_fastest(results, OURS, case.against or LOADERS)
    text = f"{found[1]} x {found[0]}" if found else "-"
    if case.factor is None:
        return Verdict("", text)
    whom = case.against[0] if len(case.against) == 1 else "the fastest loader"
    target = f"≤ {case.factor:g} x {whom}"
    return Verdict(target, text, None if found is None else found[1].value <= case.factor)


def _limit(cancelled: Mapping[_Cancelling, Mapping[str, Samples]], settings: Settings) -> float:
    strawberry = cancelled.get(_Cancelling(True, False, "FIFO", False), {}).get("strawberry")
    if settings.cancelled == _LIMIT_LOADS and strawberry is not None:
        return _LIMIT_SECONDS * strawberry.median / _STRAWBERRY_SECONDS
    return _LIMIT_SECONDS * settings.cancelled / _LIMIT_LOADS


def _cancelled_verdict(whole: Samples, quarter: Samples, limit: float, ticks: float) -> Verdict:
    """Judge ours; `ticks` is what the loop takes for as many ticks with nothing in them."""
    # The quickest samples: whatever else a machine does makes a sample longer, never shorter.
    growth = min(whole.seconds) / min(quarter.seconds)
    is_linear = growth <= _LINEAR_GROWTH or whole.median < _TOO_SHORT_FOR_GROWTH
    allowance = f" + {ticks * 1e3:.0f} of ticks" if ticks else ""
    return Verdict(
        f"linear, ≤ {limit * 1e3:.0f}{allowance} ms",
        f"{whole.median * 1e3:.1f} ms; 4 x the loads, {growth:.1f} x the time",
        is_linear and whole.median <= limit + ticks and not whole.remark,
    )


NOTES = (
    "A number is processor time, the median of interleaved rounds. `measured` is the median of the "
    "rounds' ratios, ours over the fastest DataLoader, with their quartiles in brackets.",
    "async-cache is shown beside the loaders: a get is a coroutine, so a gather makes a task of "
    "each. Its batch window of 5 ms takes no processor time, so it is not in these numbers.",
    "The peers hand every caller of one key the same future, so cancelling one caller cancels all "
    "of them, at no cost; ours cancels one. The limit of 30 ms is for a machine on which "
    "strawberry takes 1.8 s and moves with what it takes here; where one load is cancelled per "
    "tick, the ticks alone are allowed for.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its report and return the exit status."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.per_key", description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=defaults.rounds)
    parser.add_argument("--keys", type=int, default=defaults.keys)
    parser.add_argument(
        "--cancelled", type=int, default=defaults.cancelled, help="how many loads to cancel"
    )
    parser.add_argument(
        "--gc", action="store_true", help="leave the garbage collector on while measuring"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="measure only what has this in its name"
    )
    options = parser.parse_args(arguments)
    settings = Settings(
        rounds=options.rounds,
        keys=options.keys,
        cancelled=options.cancelled,
        single_batches=min(defaults.single_batches, options.keys),
        with_gc=options.gc,
        only=options.only,
    )
    adapters, left_out = installed()
    rows = measure(adapters, loop_factory(options.loop), settings)
    report = Report(
        options.loop, [adapter.name for adapter in adapters], left_out, rows, list(NOTES)
    )
    return report.finish(options)


if __name__ == "__main__":
    sys.exit(main())
