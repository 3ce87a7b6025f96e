"""How everything here is measured: a fresh loop per sample, interleaved rounds, medians, ratios."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

__all__ = [
    "LOOPS",
    "LoopFactory",
    "Ratio",
    "Samples",
    "against_fastest",
    "clock",
    "in_fresh_loop",
    "in_turn",
    "interleave",
    "loop_factory",
    "percentile",
    "ratio",
    "say",
]

T = TypeVar("T")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

LOOPS = ("asyncio", "uvloop")
_SECONDS_TO_END_LEFTOVERS = 1.0

# Processor time leaves out what other programs take while they have the core. Windows counts it in
# steps of 16 ms, too coarse for a sample.
clock = time.perf_counter if sys.platform == "win32" else time.process_time


@dataclass
class Samples:
    """The seconds that one contender took for one piece of work, a sample a round.

    `remark` is what the reader must know of it: that it passed its deadline, say.
    """

    seconds: list[float] = field(default_factory=list)
    remark: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """Ours over another's: the median and the quartiles of the rounds' ratios."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


def loop_factory(name: str) -> LoopFactory:
    """Return what makes an event loop of this name; `ImportError` if it is not installed."""
    if name == "uvloop":
        factory: LoopFactory = import_module("uvloop").new_event_loop
        return factory
    return asyncio.new_event_loop


def in_fresh_loop(factory: LoopFactory, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run one sample in a loop of its own, and end what the contender leaves behind.

    A contender that leaves tasks or raises in a callback is measured all the same: how it fails is
    the torture table's business, so the loop's exception handler is silent here.
    """
    loop = factory()
    loop.set_exception_handler(lambda _loop, _context: None)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(work())
    finally:
        try:
            leftovers = asyncio.all_tasks(loop)
            for task in leftovers:
                task.cancel()
            if leftovers:
                loop.run_until_complete(asyncio.wait(leftovers, timeout=_SECONDS_TO_END_LEFTOVERS))
            for task in leftovers:
                if task.done() and not task.cancelled():
                    task.exception()  # marks it as seen
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def interleave(
    contenders: Sequence[str],
    sample: Callable[[str], tuple[float, str]],
    *,
    rounds: int,
    budget: float,
    warm_up: bool = True,
    with_gc: bool = False,
) -> dict[str, Samples]:
    """Take a sample of each contender per round, and return them all.

    Other work on the machine and a processor that changes its speed then touch every contender
    alike, and so does the order, which is new in each round: who always follows the same
    contender inherits its caches and its freed memory, which was seen to be worth 5 %. The
    collector runs before each sample and, unless `with_gc`, not during it. A contender that has
    used up `budget` seconds sits out the remaining rounds.
    """
    gc.collect()
    gc.freeze()  # what is there already need not be looked at before each sample
    try:
        return _interleave(contenders, sample, rounds, budget, warm_up, with_gc)
    finally:
        gc.unfreeze()


def _interleave(
    contenders: Sequence[str],
    sample: Callable[[str], tuple[float, str]],
    rounds: int,
    budget: float,
    warm_up: bool,
    with_gc: bool,
) -> dict[str, Samples]:
    if warm_up:
        for name in contenders:
            sample(name)
    results = {name: Samples() for name in contenders}
    for round_number in range(rounds):
        for name in in_turn(contenders, round_number):
            taken = results[name]
            if taken.seconds and sum(taken.seconds) >= budget:
                continue
            gc.collect()
            if not with_gc:
                gc.disable()
            try:
                seconds, remark = sample(name)
            finally:
                gc.enable()
            taken.seconds.append(seconds)
            taken.remark = taken.remark or remark
    return results


def in_turn(contenders: Sequence[T], round_number: int) -> list[T]:
    """Return the contenders in the order of this round: at random, but the same in every run."""
    return random.Random(round_number).sample(contenders, len(contenders))


def ratio(ours: Samples, other: Samples) -> Ratio:
    """Compare the samples of each round with each other, so that a slow minute touches both."""
    rounds = zip(ours.seconds, other.seconds, strict=False)
    paired = [mine / theirs for mine, theirs in rounds]
    if len(paired) == 1:
        return Ratio(paired[0], paired[0], paired[0])
    low, value, high = statistics.quantiles(paired, n=4, method="inclusive")
    return Ratio(value, low, high)


def against_fastest(
    results: Mapping[str, Samples], ours: str, names: Iterable[str]
) -> tuple[str, Ratio] | None:
    """Return which of `names` ours compares worst with, and how; None if none was measured.

    Comparing round by round tells who is fastest when medians don't: a contender that was lucky
    with the moments of its samples makes no difference.
    """
    ratios = {
        name: ratio(results[ours], results[name])
        for name in names
        if name in results and results[name].seconds
    }
    return max(ratios.items(), key=lambda item: item[1].value, default=None)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * round(share * 1000) // 1000))
    return ordered[rank - 1]


def say(text: str) -> None:
    """Tell a person who waits how far it is; a pipe is told nothing."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
