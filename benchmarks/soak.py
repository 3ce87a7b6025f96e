"""Use one cache for very long: its memory must stay flat, and four threads must find it whole.

    python -m benchmarks.soak [--operations N] [--threads N] [--threaded-operations N]

Not a part of `python -m benchmarks`: ten million operations take minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from benchmarks._caches import CACHES
from benchmarks._measure import LoopFactory, in_fresh_loop, loop_factory, say
from benchmarks._peers import OURS
from benchmarks._report import Cell, Report, Row, Verdict, add_options

__all__ = ["NOTES", "Settings", "main", "measure"]

_MAXSIZE = 1000
_KEYS = 5000
_TTL = 0.5
# What may come and go with the sweep, with ghosts and with the loop's own buffers.
_MOST_GROWTH = 1.1
_SEED = 7
_SECONDS_UNTIL_HUNG = 30.0


@dataclass(frozen=True)
class Settings:
    """How many operations: of one loop, whose memory is looked at `looks` times, and of threads."""

    operations: int = 10_000_000
    threads: int = 4
    threaded_operations: int = 1_000_000
    looks: int = 20


class _User:
    """Do one operation after another, chosen at random, and check what comes back."""

    def __init__(self, cache: Any, seed: int) -> None:
        self._cache = cache
        self._random = random.Random(seed)
        self.wrong = self.done = 0
        self._operations: list[Callable[[int], Awaitable[None]]] = [
            *[self._get] * 60,
            *[self._get_batched] * 2,
            *[self._get_many] * 2,
            *[self._set] * 10,
            *[self._delete] * 5,
            *[self._expire] * 3,
            *[self._tag] * 3,
            *[self._fail] * 5,
            *[self._leave] * 5,
            *[self._together] * 5,
        ]

    async def work(self, operations: int) -> None:
        """Do so many operations."""
        for _ in range(operations):
            number = int(_KEYS * self._random.random() ** 3)
            await self._random.choice(self._operations)(number)
            self.done += 1

    def _check(self, number: int, value: object) -> None:
        self.wrong += value != (number, "value")

    @staticmethod
    async def _load(number: int) -> object:
        return number, "value"

    @staticmethod
    async def _load_many(numbers: list[int]) -> list[object]:
        return [(number, "value") for number in numbers]

    async def _get(self, number: int) -> None:
        self._check(number, await self._cache.get(number, lambda: self._load(number)))

    async def _get_batched(self, number: int) -> None:
        value = await self._cache.get(number, batch_loader=self._load_many)
        self._check(number, value)

    async def _get_many(self, number: int) -> None:
        wanted = range(number, number + 5)
        for key, value in (await self._cache.get_many(wanted, self._load_many)).items():
            self._check(key, value)

    async def _set(self, number: int) -> None:
        self._cache.set(number, (number, "value"), tags=(number % 7,))

    async def _delete(self, number: int) -> None:
        self._cache.delete(number)

    async def _expire(self, number: int) -> None:
        self._cache.expire(number)

    async def _tag(self, number: int) -> None:
        if self._random.random() < 0.01:
            self._cache.invalidate_tag(number % 7)

    async def _fail(self, number: int) -> None:
        async def load() -> object:
            raise ConnectionError

        self._cache.delete(number)
        try:
            self._check(number, await self._cache.get(number, load))
        except ConnectionError:
            return

    async def _leave(self, number: int) -> None:
        task = asyncio.ensure_future(self._get(number))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def _together(self, number: int) -> None:
        await asyncio.gather(*(self._get(number) for _ in range(5)))


def _make(eviction: str) -> Any:
    return import_module("dataloader_cache").AsyncCache(
        _MAXSIZE, _TTL, eviction=eviction, stale_ttl=0.2, refresh_ahead=0.8, batch_window=0.0
    )


async def _soak(eviction: str, settings: Settings) -> tuple[list[float], int]:
    """Give the bytes in use after each part of the operations, and how many values were wrong."""
    cache = _make(eviction)
    user = _User(cache, _SEED)
    part = max(1, settings.operations // settings.looks)
    taken: list[float] = []
    tracemalloc.start()
    try:
        for look in range(settings.looks):
            await user.work(part)
            gc.collect()
            taken.append(tracemalloc.get_traced_memory()[0])
            say(f"{eviction}: {(look + 1) * part:,} operations, {taken[-1] / 1e6:.2f} MB")
    finally:
        tracemalloc.stop()
    return taken, user.wrong + (len(cache) > _MAXSIZE)


def _soak_row(eviction: str, factory: LoopFactory, settings: Settings) -> Row:
    taken, wrong = in_fresh_loop(factory, lambda: _soak(eviction, settings))
    # What was there when the cache had been full for a while, and the most after that.
    early = max(taken[: max(1, len(taken) // 4)])
    growth = max(taken) / early
    verdict = Verdict(
        f"≤ {_MOST_GROWTH:g} x a quarter's, no wrong value",
        f"{growth:.2f} x, {wrong} wrong",
        growth <= _MOST_GROWTH and not wrong,
    )
    cell = Cell(taken[-1] / 1e6, "", tuple(each / 1e6 for each in taken))
    return Row(f"{settings.operations:,} operations, {eviction}", "MB", {OURS: cell}, verdict)


def _in_threads(eviction: str, factory: LoopFactory, settings: Settings) -> tuple[int, list[str]]:
    """Let threads, with a loop each, use one cache; give the wrong values and the errors."""
    cache = _make(eviction)
    users = [_User(cache, seed) for seed in range(settings.threads)]
    errors: list[str] = []
    sizes: list[int] = []

    def run(user: _User) -> None:
        try:
            in_fresh_loop(
                factory, lambda: user.work(settings.threaded_operations // settings.threads)
            )
        except BaseException as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=run, args=(user,), daemon=True) for user in users]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # hand over in the middle of things, as often as it goes
    try:
        for thread in threads:
            thread.start()
        done, since = -1, time.monotonic()
        while any(thread.is_alive() for thread in threads):
            sizes.append(len(cache))
            time.sleep(0.05)
            before, done = done, sum(user.done for user in users)
            say(f"{eviction}, threads: {done:,} operations")
            if done != before:
                since = time.monotonic()
            elif time.monotonic() - since > _SECONDS_UNTIL_HUNG:
                errors.append(f"a caller hangs after {done:,} operations")
                break
    finally:
        sys.setswitchinterval(interval)
    if max(sizes, default=0) > _MAXSIZE:
        errors.append(f"{max(sizes)} entries where {_MAXSIZE} are the most")
    return sum(user.wrong for user in users), errors


def _threads_row(eviction: str, factory: LoopFactory, settings: Settings) -> Row:
    begin = time.perf_counter()
    wrong, errors = _in_threads(eviction, factory, settings)
    seconds = time.perf_counter() - begin
    work = f"{settings.threaded_operations:,} operations, {settings.threads} threads, {eviction}"
    measured = "; ".join([f"{wrong} wrong", *errors])
    verdict = Verdict("no wrong value, no error", measured, not wrong and not errors)
    return Row(work, "s", {OURS: Cell(seconds)}, verdict)


def measure(factory: LoopFactory, settings: Settings) -> list[Row]:
    """Use a cache of each policy for long, and then from several threads."""
    rows = [_soak_row(eviction, factory, settings) for eviction in ("lru", "s3fifo")]
    rows += [_threads_row(eviction, factory, settings) for eviction in ("lru", "s3fifo")]
    say("")
    return rows


NOTES = (
    "MB are those that tracemalloc counts at the end; the target compares the most in the whole "
    "run with the most in its first quarter.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak, print its report and return the exit status."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    add_options(parser)
    parser.add_argument("--operations", type=int, default=defaults.operations)
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parser.add_argument("--threaded-operations", type=int, default=defaults.threaded_operations)
    options = parser.parse_args(arguments)
    settings = Settings(options.operations, options.threads, options.threaded_operations)
    rows = measure(loop_factory(options.loop), settings)
    report = Report(options.loop, [OURS], [], rows, list(NOTES), known=CACHES[:1])
    return report.finish(options)


if __name__ == "__main__":
    sys.exit(main())
