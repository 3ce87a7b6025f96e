"""Callers that leave: timeouts, cancellations, and who else is hurt by them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
import weakref
from collections.abc import Callable

from benchmarks.torture._contenders import Contender, Loader, NotApplicableError
from benchmarks.torture._row import GROUPS, OK, Outcome, Source, ask, outcome, outcomes, row, told

__all__: list[str] = []

GROUP = GROUPS[0]
TICKS = 3


async def _ticks(count: int = TICKS) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _unserved(who: str, got: Outcome, value: object = "v1") -> str | None:
    return None if got.found(value) else f"{who} {got}"


@row(GROUP, "two tasks await `load(1)`; one times out")
async def waiter_times_out(contender: Contender) -> str:
    source = Source(closed=True)
    loader = contender.make(source.load)

    async def wait() -> object:
        return await loader.load(1)

    impatient, patient = asyncio.create_task(wait()), asyncio.create_task(wait())
    await source.called()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(impatient, 0.03)
    source.gate.set()
    other = await outcome(patient)
    later = await outcome(ask(loader, 1))
    return told(_unserved("the other", other), _unserved("every later load", later))


@row(GROUP, "one of three callers leaves before the batch does; then another key is loaded")
async def waiter_leaves_open_batch(contender: Contender) -> str:
    source = Source()
    loader = contender.make(source.load)
    loads = [ask(loader, key) for key in (1, 2, 3)]
    await asyncio.sleep(0)
    loads[1].cancel()
    others = await outcomes([loads[0], loads[2]])
    later = await outcome(ask(loader, 4))
    return told(
        *(
            _unserved("another", got, value)
            for got, value in zip(others, ("v1", "v3"), strict=True)
        ),
        _unserved("every later load", later, "v4"),
    )


@row(GROUP, "a key is cancelled and loaded again in the same tick, before its batch leaves")
async def reloaded_before_dispatch(contender: Contender) -> str:
    source = Source()
    loader = contender.make(source.load)
    ask(loader, 1).cancel()
    got = await outcome(ask(loader, 1))
    asked_twice = any(len(set(keys)) < len(keys) for keys in source.calls)
    return told(
        _unserved("the new load", got), "the batch asks for the key twice" if asked_twice else None
    )


@row(GROUP, "a key is cancelled and loaded again in the same tick, while its batch runs")
async def reloaded_while_running(contender: Contender) -> str:
    source = Source(closed=True)
    loader = contender.make(source.load)
    first = ask(loader, 1)
    await source.called()
    first.cancel()
    second = ask(loader, 1)
    await _ticks()
    source.gate.set()
    return told(_unserved("the new load", await outcome(second)))


@row(
    GROUP,
    "a key of a running batch is cancelled and loaded again; then its other keys are cancelled",
)
async def late_joiner(contender: Contender) -> str:
    source = Source(closed=True)
    loader = contender.make(source.load)
    first, second = ask(loader, 1), ask(loader, 2)
    await source.called()
    first.cancel()
    await _ticks()
    joiner = ask(loader, 1)
    await _ticks()
    second.cancel()
    await _ticks()
    source.gate.set()
    return told(_unserved("the late joiner", await outcome(joiner)))


class _Stubborn(Source):
    """A batch function that swallows its cancellation, as some drivers do."""

    async def load(self, keys: list[int]) -> object:
        try:
            return await super().load(keys)
        except asyncio.CancelledError:
            await self.gate.wait()
            return self.answer(keys)


@row(
    GROUP,
    "the only caller leaves, the batch function swallows its cancellation, the key is loaded again",
)
async def swallowed_cancellation(contender: Contender) -> str:
    source = _Stubborn(closed=True)
    loader = contender.make(source.load)
    first = ask(loader, 1)
    await source.called()
    first.cancel()
    await _ticks()
    second = ask(loader, 1)
    await _ticks()
    source.gate.set()
    return told(_unserved("the new load", await outcome(second)))


@row(GROUP, "`load_timeout` passes and the batch function swallows its cancellation")
async def swallowed_timeout(contender: Contender) -> str:
    source = _Stubborn(closed=True)
    loader = contender.make(source.load, load_timeout=0.03)
    first = await outcome(ask(loader, 1))
    source.gate.set()
    later = await outcome(ask(loader, 1))
    return told(
        None if first.failed(TimeoutError, asyncio.TimeoutError) else f"the caller {first}",
        _unserved("the next load", later),
    )


def _linear(seconds: Callable[[int], float]) -> float | None:
    """Return the seconds for 8,000 if they are more than linear, else None."""
    few, many = max(seconds(0), 0.002), seconds(1)
    return many if many > 0.25 and many > 8 * few else None


async def _cancel_all(contender: Contender, count: int, order: str, open_batch: bool) -> float:
    source = Source(closed=True)
    loader = contender.make(source.load, max_batch_size=count + 1)
    loads = [ask(loader, key) for key in range(1, count + 1)]
    if not open_batch:
        await source.called()
    if order == "last first":
        loads.reverse()
    elif order == "shuffled":
        random.Random(count).shuffle(loads)
    begun = time.process_time()
    for load in loads:
        load.cancel()
        if order == "one per tick":
            await asyncio.sleep(0)
    await _ticks()
    return time.process_time() - begun


@row(GROUP, "8,000 keys of one batch are cancelled, in any order", timed=True)
async def many_keys_cancelled(contender: Contender) -> str:
    for open_batch in (True, False):
        for order in ("first first", "last first", "shuffled", "one per tick"):
            took = [
                await _cancel_all(contender, count, order, open_batch) for count in (2_000, 8_000)
            ]
            slow = _linear(took.__getitem__)
            if slow is not None:
                return f"quadratic: the loop is blocked for {slow:.1f} s"
    return OK


@row(GROUP, "8,000 tasks wait for one key and leave one per tick; the last one stays", timed=True)
async def many_waiters_leave(contender: Contender) -> str:
    took: list[float] = []
    got = Outcome("hangs")
    for count in (2_000, 8_000):
        source = Source(closed=True)
        loader = contender.make(source.load, max_batch_size=count + 1)

        async def wait(loader: Loader = loader) -> object:
            return await loader.load(1)

        tasks = [asyncio.create_task(wait()) for _ in range(count)]
        await source.called()
        begun = time.process_time()
        for task in tasks[:-1]:
            task.cancel()
            await asyncio.sleep(0)
        took.append(time.process_time() - begun)
        source.gate.set()
        got = await outcome(tasks[-1])
    slow = _linear(took.__getitem__)
    return told(_unserved("the last", got), f"quadratic: {slow:.1f} s" if slow else None)


class _Parked(Source):
    """A batch function parked at a door that nobody holds but itself."""

    door: weakref.ref[asyncio.Future[None]] | None = None

    async def load(self, keys: list[int]) -> object:
        door = asyncio.get_running_loop().create_future()
        self.door = weakref.ref(door)
        self.calls.append(list(keys))
        self._called.set()
        await door
        return self.answer(keys)


async def _collected(contender: Contender, hold_the_loader: bool) -> str:
    source = _Parked()
    loader = contender.make(source.load)
    waiting = ask(loader, 1)
    await source.called()
    holder = [loader] if hold_the_loader else []
    del loader
    gc.collect()
    assert source.door is not None
    door = source.door()
    if door is not None:
        door.set_result(None)
    del door
    got = await outcome(waiting)
    holder.clear()
    return told(
        _unserved(
            "the batch is destroyed, the caller" if source.door() is None else "the caller", got
        )
    )


@row(GROUP, "garbage is collected while a batch runs")
async def collected(contender: Contender) -> str:
    return await _collected(contender, hold_the_loader=True)


@row(GROUP, "the loader is dropped and garbage is collected while a batch runs")
async def collected_without_loader(contender: Contender) -> str:
    return await _collected(contender, hold_the_loader=False)


@row(GROUP, "every task is cancelled, as at shutdown, again and again while a batch is on its way")
async def tasks_cancelled(contender: Contender) -> str:
    if contender.is_cache:  # its callers are tasks themselves
        raise NotApplicableError
    loader = contender.make(Source(closed=True).load)
    waiting = ask(loader, 1)
    for _ in range(20):  # one of them meets the batch's task before its first step
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
    got = await outcome(waiting)
    # Everything was cancelled, so a caller may be told that.
    return f"the caller {got}" if got.state in ("hangs", "spins", "value") else OK


@row(GROUP, "the loader is closed while a batch runs")
async def closed_while_running(contender: Contender) -> str:
    source = Source(closed=True)
    loader = contender.make(source.load)
    waiting = ask(loader, 1)
    await source.called()
    closing = await outcome(loader.close())
    if isinstance(closing.error, Exception):
        raise closing.error
    got = await outcome(waiting)
    source.gate.set()
    after = await outcome(ask(loader, 2))
    return told(
        None if got.failed() else f"its caller {got}",
        f"a later load {after}" if after.state in ("hangs", "spins", "cancelled") else None,
    )
