"""The quiet-tick pump: what decides when an open batch leaves.

Why ticks and not milliseconds. The loads of one level of a GraphQL query do not arrive in one
turn of the event loop: an executor makes no task where a selection has a single awaitable, a
permission check awaits once or twice first, so short branches run a few ticks ahead of long
ones. What is wanted is "nobody who is on the way to this batch will come any more", and what
tells it is a run of ticks in which no key came. A window in milliseconds measures something
else: on an idle loop it waits long after the last sibling has arrived, and on a busy loop one
tick lasts longer than the window, so that the window closes between siblings, which makes more
batches, which makes the loop busier still, until it collapses. Ticks stretch with the load.
Eight of them cost ten to thirty microseconds on an idle loop.

There is one pump per event loop. Each tick it looks once at every open batch of every loader,
compares the number of keys with that of the tick before, and calls itself again by `call_soon`
while any batch is open. It uses the public interface of asyncio only, so it does the same on
uvloop and with eager tasks. A loop's private list of ready callbacks would say "idle" more
exactly, but other loops have none, and beside a task that spins it never would say it.

The pump also owns the tasks of its loop's batches, and settles what is left when the loop shuts
down: it keeps one started asynchronous generator, which `loop.shutdown_asyncgens` closes, and
`asyncio.run` calls that before it closes the loop. Where a loop is closed without it, the next
loop's pump sees that and does the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from threading import Lock
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from ._slots import Slots

__all__ = ["MOST_TICKS", "QUIET_TICKS", "QUIET_TICKS_AFTER_WINDOW", "Pump", "Pumped", "pump_of"]

QUIET_TICKS = 8
QUIET_TICKS_AFTER_WINDOW = 4
MOST_TICKS = 256


class Pumped(Protocol):
    """An open batch as the pump sees it: `seen` to `ticks` are the pump's own to change."""

    is_open: bool
    patience: int
    seen: int
    quiet: int
    ticks: int

    def __len__(self) -> int:
        """Count the keys that the batch has."""
        ...

    def send(self) -> None:
        """Send the batch to its batch function."""

    def abandon(self) -> None:
        """Settle every waiter, because the event loop ends."""


class Pump:
    """Serve the open batches of one event loop, and hold its tasks, as long as the loop lives."""

    __slots__ = ("__weakref__", "_armed", "_closer", "_open", "live", "slots", "tasks")

    def __init__(self) -> None:
        self._open: list[Pumped] = []
        self._armed = False
        self.live: set[Pumped] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.slots = Slots(self.tasks)
        closer = self._until_shutdown()
        self._closer: AsyncGenerator[None, None] | None = closer
        # Started by hand, up to its yield, so that the loop's asyncgen hooks know it.
        try:
            closer.__anext__().send(None)
        except StopIteration:
            pass

    def add(self, batch: Pumped, patience: int) -> None:
        """Look at `batch` every tick from the next one on, until it leaves."""
        batch.patience = patience
        self._open.append(batch)
        if not self._armed:
            self._arm(asyncio.get_running_loop())

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        # The loop is handed on, since asking for it is dear before Python 3.12. The pump must not
        # hold it: a loop and its pump would keep each other for ever.
        self._armed = True
        loop.call_soon(self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        staying: list[Pumped] = []
        leaving: list[Pumped] = []
        for batch in self._open:
            if not batch.is_open:
                continue
            keys = len(batch)
            if keys == batch.seen:
                batch.quiet += 1
            else:
                batch.seen = keys
                batch.quiet = 0
            batch.ticks += 1
            if batch.quiet >= batch.patience or batch.ticks >= MOST_TICKS:
                leaving.append(batch)
            else:
                staying.append(batch)
        self._open = staying
        # Armed before anything is sent: with eager tasks, sending runs the user's function here.
        self._armed = False
        if staying:
            self._arm(loop)
        try:
            while leaving:
                leaving.pop(0).send()
        finally:
            for batch in leaving:
                self.add(batch, batch.patience)

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._closer = None
            self.abandon()

    def abandon(self) -> None:
        """Settle every waiter of every batch that is open or running."""
        for batch in list(self.live):
            batch.abandon()
        self._open.clear()


_pumps: WeakKeyDictionary[asyncio.AbstractEventLoop, Pump] = WeakKeyDictionary()
_pumps_lock = Lock()


def pump_of(loop: asyncio.AbstractEventLoop) -> Pump:
    """Give the pump of the running loop, made on first use.

    A pump whose batches wait refers to its loop, which would keep both for ever where the loop
    was closed without a shutdown, so each new pump first looks for such ones.
    """
    pump = _pumps.get(loop)
    if pump is None:
        with _pumps_lock:
            closed = [(other, left) for other, left in _pumps.items() if other.is_closed()]
            for other, _ in closed:
                del _pumps[other]
            pump = _pumps[loop] = Pump()
        for _, left in closed:
            left.abandon()
    return pump
