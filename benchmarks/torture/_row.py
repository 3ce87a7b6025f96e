"""What a row of the table is made of: the registry, and how a row watches a loader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.torture._contenders import CacheContender, Contender, Loader

__all__ = [
    "CACHE_GROUP",
    "GROUPS",
    "OK",
    "PATIENCE",
    "ROWS",
    "Outcome",
    "Row",
    "Source",
    "ask",
    "outcome",
    "outcomes",
    "row",
    "told",
]

OK = "ok"
PATIENCE = 1.0
"""Seconds of silence that count as a hang. No row works for longer than a tenth of it."""

Verdict = str | Awaitable[str]
C = TypeVar("C", Contender, CacheContender)


@dataclass(frozen=True)
class Row:
    """One row: what is done to a loader or a cache. Asynchronous rows get a fresh event loop."""

    name: str
    group: str
    did: str
    run: Callable[[Any], Verdict]
    timed: bool  # measures time, so it runs while nothing else does

    @property
    def is_of_caches(self) -> bool:
        """Whether it runs against `CacheContender`s, not against `Contender`s."""
        return self.group == CACHE_GROUP


ROWS: dict[str, Row] = {}
GROUPS = (
    "Callers that leave",
    "Batch functions that end badly",
    "`clear` and `prime`",
    "Sizes and windows",
    "Loaders that use loaders",
    "Contexts and loops",
    "GraphQL (Strawberry)",
    "Caches",
)
CACHE_GROUP = GROUPS[-1]
"""Its rows run against caches, which have other verbs than loaders."""


def row(
    group: str, did: str, *, timed: bool = False
) -> Callable[[Callable[[C], Verdict]], Callable[[C], Verdict]]:
    """Declare a row: `did` says what was done, the function returns what came of it."""

    def declare(run: Callable[[C], Verdict]) -> Callable[[C], Verdict]:
        name = run.__name__
        ROWS[name] = Row(name, group, did, run, timed)
        return run

    return declare


@dataclass(frozen=True)
class Outcome:
    """How one load ended."""

    state: str  # "value", "error", "cancelled", "hangs", "spins"
    value: object = None
    error: BaseException | None = None

    def __str__(self) -> str:
        if self.state == "value":
            return f"gets {self.value!r}"
        if self.state == "error":
            return f"gets {type(self.error).__name__}"
        if self.state == "cancelled":
            return "is cancelled"
        return self.state

    def found(self, value: object) -> bool:
        """Tell whether the load ended with this value."""
        return self.state == "value" and self.value == value

    def failed(self, *kinds: type[BaseException]) -> bool:
        """Tell whether the load ended with an error (of these kinds), not a cancellation."""
        return self.state == "error" and isinstance(self.error, kinds or BaseException)


def ask(loader: Loader, key: int) -> asyncio.Future[object]:
    """Call `load` as a caller who awaits later; a raising `load` gives a failed future."""
    try:
        return asyncio.ensure_future(loader.load(key))
    except Exception as error:
        failed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        return failed


async def outcome(load: Awaitable[object], patience: float = PATIENCE) -> Outcome:
    """Wait for the end of a load without ever cancelling it."""
    future = asyncio.ensure_future(load)
    busy = time.process_time()
    await asyncio.wait({future}, timeout=patience)
    if not future.done():
        # A waiting loop costs nothing, and one that never rests does, even on a busy machine.
        return Outcome("spins" if time.process_time() - busy > patience / 20 else "hangs")
    if future.cancelled():
        return Outcome("cancelled")
    error = future.exception()
    if isinstance(error, asyncio.CancelledError):  # who awaits it can't tell the difference
        return Outcome("cancelled")
    return Outcome("value", future.result()) if error is None else Outcome("error", error=error)


async def outcomes(loads: Iterable[Awaitable[object]]) -> list[Outcome]:
    """Wait for several loads at once."""
    return await asyncio.gather(*map(outcome, loads))


def told(*facts: str | None) -> str:
    """Join what went wrong; nothing at all is `ok`."""
    return "; ".join(fact for fact in facts if fact) or OK


class Source:
    """A well-behaved batch function: `v1` for 1. It records its calls and waits for its gate."""

    def __init__(self, *, closed: bool = False) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()
        self._called = asyncio.Event()
        if not closed:
            self.gate.set()

    async def load(self, keys: list[int]) -> object:
        """Answer one batch."""
        self.calls.append(list(keys))
        self._called.set()
        await self.gate.wait()
        return self.answer(keys)

    def answer(self, keys: list[int]) -> object:
        """Give the values; rows override this."""
        return [f"v{key}" for key in keys]

    async def called(self, times: int = 1, patience: float = PATIENCE) -> bool:
        """Wait until the batch function was called so often; False if it never was."""
        deadline = time.monotonic() + patience
        while len(self.calls) < times:
            self._called.clear()
            try:
                await asyncio.wait_for(self._called.wait(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                return False
        return True
