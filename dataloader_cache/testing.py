"""What tests of code that uses this library need: a recorder of batches, and virtual time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ._stats import batch_listeners

__all__ = ["BatchRecorder", "ManualClock", "VirtualTimeLoop", "run_virtual"]

_T = TypeVar("_T")

# Real seconds that a virtual-time loop waits for other threads when it has nothing to do.
_PATIENCE = 5.0


class BatchRecorder:
    """Record every batch that is sent, by any loader, while the recorder is entered.

    with BatchRecorder() as recorder:
        await schema.execute(query)
    assert recorder.plan == [("users", [1, 2, 3])]
    """

    def __init__(self) -> None:
        self._plan: list[tuple[str, list[Any]]] = []
        self._listener = self._record

    def _record(self, name: str, keys: list[Any]) -> None:
        self._plan.append((name, keys))

    @property
    def plan(self) -> list[tuple[str, list[Any]]]:
        """The batches so far, in the order in which they left: loader's name and keys."""
        return list(self._plan)

    def clear(self) -> None:
        """Forget the batches recorded so far."""
        self._plan.clear()

    def __enter__(self) -> BatchRecorder:
        batch_listeners.append(self._listener)
        return self

    def __exit__(self, *_: object) -> None:
        batch_listeners.remove(self._listener)


class ManualClock:
    """Be a clock that stands still until it is moved: `AsyncCache(clock=ManualClock())`."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def __call__(self) -> float:
        """Give the time, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock on."""
        if seconds < 0:
            raise ValueError(f"a clock can't go back, not by {seconds!r} seconds")
        self._now += seconds


class _VirtualSelector(selectors.DefaultSelector):
    """Let time pass on the loop instead of waiting."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if timeout is not None:
            self._advance(timeout)
            return events
        events = super().select(_PATIENCE)
        if not events:
            raise RuntimeError(
                "the virtual-time loop has nothing to run and no timer: what is awaited never comes"
            )
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Run timers in their order without waiting: `loop.time()` jumps to the next one.

    Where nothing is ready and no timer is set, a normal loop would wait for ever; this one gives
    other threads five real seconds and raises a RuntimeError then, so that a hang fails the test.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_VirtualSelector(self._pass_time))

    def time(self) -> float:
        """Give the virtual time, in seconds since the loop was made."""
        return self._now

    def _pass_time(self, seconds: float) -> None:
        self._now += seconds


def run_virtual(main: Callable[[], Coroutine[Any, Any, _T]] | Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine, or an async function without arguments, on a new `VirtualTimeLoop`.

    As `asyncio.run` does, it cancels the tasks that are left and shuts the loop down.
    """
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(main() if callable(main) else main)
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
