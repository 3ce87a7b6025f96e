"""Batches per request and response times of a GraphQL server: idle, under load, at capacity.

    python -m benchmarks.under_load [--quick] [--json] [--loop asyncio|uvloop]

One request at a time shows how well a batch window gathers uneven branches. Under load a turn of
the loop takes longer, and a window that looks at the clock, or at too few ticks, closes between
siblings: more batches, more load, collapse.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import statistics
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec

from benchmarks._measure import LoopFactory, in_fresh_loop, in_turn, loop_factory, percentile, say
from benchmarks._peers import OURS, Adapter, installed
from benchmarks._report import Cell, Report, Row, Verdict, add_options

__all__ = ["Settings", "arrivals", "main", "measure"]

_CLIENT_SECONDS = 0.0004
_SCENARIO_UNDER_LOAD = "sleep0"
# Siblings that take turns at a lock come many ticks apart: five batches are not asked for there.
_SCENARIOS_WITHOUT_TARGET = ("lock",)


@dataclass(frozen=True)
class Settings:
    """How much to measure. A run takes requests for `seconds` and ends `grace` seconds later."""

    rounds: int = 3
    requests: int = 24
    rates: tuple[int, ...] = (40, 90, 120)
    seconds: float = 5.0
    grace: float = 3.0
    clients: int = 32


QUICK = Settings(requests=12, seconds=2.0, grace=1.5)


@dataclass
class Answers:
    """What one contender did with the requests of one load.

    `waited` is for how long the requests had waited that were not answered at the cut-off.
    """

    batches: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    errors: int = 0
    elapsed: float = 0.0
    processor: float = 0.0


Rounds = list[Answers]
"""What one contender did, a round each."""

Handler = Callable[[int], Awaitable[int]]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return when requests of a Poisson process arrive; the same for the same seed."""
    generator = random.Random(seed)
    moments: list[float] = []
    moment = generator.expovariate(rate)
    while moment < seconds:
        moments.append(moment)
        moment += generator.expovariate(rate)
    return moments


async def _one_at_a_time(handle: Handler, requests: int) -> Answers:
    answers = Answers()
    for number in range(requests):
        await _answer(handle, number, time.perf_counter(), answers)
    return answers


async def _random_arrivals(
    handle: Handler, moments: Sequence[float], seconds: float, grace: float
) -> Answers:
    """Send requests when they are due, ready or not, and time each from when it was due."""
    answers = Answers()
    begin = time.perf_counter()
    running: dict[asyncio.Task[None], float] = {}
    for number, moment in enumerate(moments):
        wait = begin + moment - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        due = begin + moment
        running[asyncio.ensure_future(_answer(handle, number, due, answers))] = due
        if time.perf_counter() - begin > seconds + grace:
            break
    await _wait(running, begin + seconds + grace - time.perf_counter())
    answers.elapsed = time.perf_counter() - begin
    never_sent = [begin + moment for moment in moments[len(running) :]]
    not_answered = {task: due for task, due in running.items() if not task.done()}
    now = time.perf_counter()
    answers.waited += [now - due for due in [*not_answered.values(), *never_sent]]
    await _end(not_answered)
    return answers


async def _wait(tasks: Collection[asyncio.Task[None]], seconds: float) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, seconds))


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await _wait(tasks, 1.0)


async def _closed_loop(handle: Handler, clients: int, seconds: float) -> Answers:
    """Let every client send its next request as soon as the last one is answered."""
    answers = Answers()
    begin = time.perf_counter()
    numbers = iter(range(sys.maxsize))

    async def client() -> None:
        while time.perf_counter() - begin < seconds:
            await _answer(handle, next(numbers), time.perf_counter(), answers)

    processor = time.process_time()
    tasks = [asyncio.ensure_future(client()) for _ in range(clients)]
    await _wait(tasks, 2 * seconds + 1)
    answers.processor = time.process_time() - processor
    answers.elapsed = time.perf_counter() - begin
    stuck = [task for task in tasks if not task.done()]
    answers.waited += [answers.elapsed - seconds] * len(stuck)
    await _end(stuck)
    return answers


async def _answer(handle: Handler, number: int, due: float, answers: Answers) -> None:
    try:
        batches = await handle(number)
    except Exception:  # not CancelledError: a request that is cut off is counted there
        answers.errors += 1
        return
    answers.seconds.append(time.perf_counter() - due)
    answers.batches.append(batches)


def measure(adapters: Sequence[Adapter], factory: LoopFactory, settings: Settings) -> list[Row]:
    """Measure every scenario and load for every contender, in interleaved rounds."""
    with warnings.catch_warnings():
        # A request that is cut off leaves coroutines that nobody awaits any more.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        rows = _measure(adapters, factory, settings)
        gc.collect()
    say("")
    return rows


def _measure(adapters: Sequence[Adapter], factory: LoopFactory, settings: Settings) -> list[Row]:
    from benchmarks._schema import SCENARIOS  # graphql-core may be absent

    rows: list[Row] = []
    for scenario in SCENARIOS:
        say(f"one request at a time, {scenario}")
        results = _one_request(adapters, factory, scenario, settings)
        has_target = scenario not in _SCENARIOS_WITHOUT_TARGET
        rows += [
            _batches_row(f"one request, {scenario}", results, has_target=has_target),
            _percentile_row(f"one request, {scenario}", results, 0.5),
        ]
    for rate in settings.rates:
        say(f"{rate} requests per second")
        results = _under_arrivals(adapters, factory, rate, settings)
        work = f"{rate} req/s, {_SCENARIO_UNDER_LOAD}"
        rows += [
            _batches_row(work, results, has_target=True),
            _percentile_row(work, results, 0.5),
            _percentile_row(work, results, 0.99),
        ]
    say(f"{settings.clients} clients")
    results = _at_capacity(adapters, factory, settings)
    work = f"{settings.clients} clients, {_SCENARIO_UNDER_LOAD}"
    rows += [
        _batches_row(work, results, has_target=True),
        _percentile_row(work, results, 0.5),
        _percentile_row(work, results, 0.99),
        _rate_row(work, results),
        _processor_row(work, results),
    ]
    return rows


def _one_request(
    adapters: Sequence[Adapter], factory: LoopFactory, scenario: str, settings: Settings
) -> dict[str, Rounds]:
    def run(adapter: Adapter, _round: int) -> Answers:
        handle = _handler(adapter, scenario, 0.0)
        return in_fresh_loop(factory, lambda: _one_at_a_time(handle, settings.requests))

    return _interleaved(adapters, run, settings.rounds)


def _under_arrivals(
    adapters: Sequence[Adapter], factory: LoopFactory, rate: int, settings: Settings
) -> dict[str, Rounds]:
    def run(adapter: Adapter, round_number: int) -> Answers:
        handle = _handler(adapter, _SCENARIO_UNDER_LOAD, _CLIENT_SECONDS)
        moments = arrivals(rate, settings.seconds, seed=round_number)
        return in_fresh_loop(
            factory, lambda: _random_arrivals(handle, moments, settings.seconds, settings.grace)
        )

    return _interleaved(adapters, run, settings.rounds)


def _at_capacity(
    adapters: Sequence[Adapter], factory: LoopFactory, settings: Settings
) -> dict[str, Rounds]:
    def run(adapter: Adapter, _round: int) -> Answers:
        handle = _handler(adapter, _SCENARIO_UNDER_LOAD, _CLIENT_SECONDS)
        return in_fresh_loop(
            factory, lambda: _closed_loop(handle, settings.clients, settings.seconds / 2)
        )

    return _interleaved(adapters, run, settings.rounds)


def _handler(adapter: Adapter, scenario: str, client_seconds: float) -> Handler:
    from benchmarks._schema import Request

    request = partial(Request, adapter.make, scenario, client_seconds=client_seconds)
    return lambda number: request(seed=number).execute()


def _interleaved(
    adapters: Sequence[Adapter], run: Callable[[Adapter, int], Answers], rounds: int
) -> dict[str, Rounds]:
    results: dict[str, Rounds] = {adapter.name: [] for adapter in adapters}
    for round_number in range(rounds):
        for adapter in in_turn(adapters, round_number):
            gc.collect()
            results[adapter.name].append(run(adapter, round_number))
    return results


def _batches_row(work: str, results: dict[str, Rounds], *, has_target: bool) -> Row:
    from benchmarks._schema import MINIMUM_BATCHES

    batches = {name: [n for one in rounds for n in one.batches] for name, rounds in results.items()}
    cells = {
        name: Cell(statistics.fmean(found), "", tuple(found), _remark(results[name]))
        for name, found in batches.items()
        if found
    }
    verdict = None
    if OURS in cells:
        over = sum(1 for n in batches[OURS] if n > MINIMUM_BATCHES)
        measured = f"{over} of {len(batches[OURS])} requests took more"
        errors = sum(one.errors for one in results[OURS])
        met = cells[OURS].value < MINIMUM_BATCHES + 0.05 and not errors
        target = f"{MINIMUM_BATCHES}, the minimum" if has_target else ""
        verdict = Verdict(target, measured, met if has_target else None)
    return Row(work, "batches per request", cells, verdict, digits=1)


def _remark(rounds: Rounds) -> str:
    unanswered = sum(len(one.waited) for one in rounds)
    errors = sum(one.errors for one in rounds)
    parts: list[str] = []
    if unanswered:
        parts.append(f"leaves {unanswered} requests unanswered at the cut-off")
    if errors:
        parts.append(f"answers {errors} requests with an error")
    return " and ".join(parts)


def _percentile_row(work: str, results: dict[str, Rounds], share: float) -> Row:
    """Take the percentile of each round and show the median of them."""
    cells: dict[str, Cell] = {}
    for name, rounds in results.items():
        values = [
            percentile([*one.seconds, *one.waited], share)
            for one in rounds
            if one.seconds or one.waited
        ]
        if values:
            value = statistics.median(values)
            is_bound = any(waited <= value for one in rounds for waited in one.waited)
            samples = tuple(seconds * 1e3 for seconds in values)
            cells[name] = Cell(value * 1e3, "≥" if is_bound else "", samples)
    return Row(work, f"ms, p{share * 100:.0f}", cells, digits=1)


def _rate_row(work: str, results: dict[str, Rounds]) -> Row:
    rates = {
        name: tuple(len(one.batches) / one.elapsed for one in rounds)
        for name, rounds in results.items()
    }
    cells = {name: Cell(statistics.median(found), "", found) for name, found in rates.items()}
    return Row(work, "requests per second", cells, digits=0)


def _processor_row(work: str, results: dict[str, Rounds]) -> Row:
    """Show what a request takes of the processor: other work on the machine does not change it."""
    costs = {
        name: tuple(one.processor / len(one.batches) * 1e3 for one in rounds if one.batches)
        for name, rounds in results.items()
    }
    cells = {
        name: Cell(statistics.median(found), "", found) for name, found in costs.items() if found
    }
    return Row(work, "ms of processor per request", cells)


NOTES = (
    "Requests are graphql-core queries over a database of 2 ms a batch; under load each batch also "
    "takes 0.4 ms of processor, as a client library does. Arrivals are random, seeded and equal "
    "for all; a request is timed from when it was due.",
)


def main(arguments: Sequence[str] | None = None, quick: Settings = QUICK) -> int:
    """Run the benchmark, print its report and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.under_load", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    add_options(parser)
    options = parser.parse_args(arguments)
    if find_spec("graphql") is None:
        parser.error("graphql-core is not installed; the `bench` extra brings it")
    adapters, left_out = installed()
    rows = measure(adapters, loop_factory(options.loop), quick if options.quick else Settings())
    report = Report(
        options.loop, [adapter.name for adapter in adapters], left_out, rows, list(NOTES)
    )
    return report.finish(options)


if __name__ == "__main__":
    sys.exit(main())
