"""Loads that are shared, who owns them and what ends them: rules F1 to F9."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from dataloader_cache import AsyncCache, DataLoader
from dataloader_cache.errors import (
    BatchResultError,
    ConfigurationError,
    DataLoaderCacheError,
    LoadCancelledError,
    LoaderDeadlockError,
    LoadTimeoutError,
)
from dataloader_cache.testing import ManualClock, VirtualTimeLoop, run_virtual

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever
ABSENT = object()


async def ticks(count: int) -> None:
    """Let `count` turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(awaitable: Any) -> Any:
    """Wait for `awaitable`, but not for ever."""
    return await asyncio.wait_for(awaitable, GUARD)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until `condition` holds, also where that takes a batch window."""
    loop = asyncio.get_running_loop()
    end = loop.time() + GUARD
    while not condition():
        assert loop.time() < end, "not reached"
        await asyncio.sleep(0)


async def outcomes(*awaitables: Any) -> list[Any]:
    """Wait for all and give each one's value or error."""
    futures = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await asyncio.wait(futures, timeout=GUARD)
    assert all(future.done() for future in futures), "a caller hangs"
    assert not any(future.cancelled() for future in futures), "a caller was cancelled"
    return [future.exception() or future.result() for future in futures]


async def kinds(*awaitables: Any) -> list[type]:
    """Wait for all and give the type of each one's value or error."""
    return [type(outcome) for outcome in await outcomes(*awaitables)]


def virtual(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run `main` in virtual time, but not for ever."""
    return run_virtual(lambda: asyncio.wait_for(main(), 100_000.0))


class Broken(Exception):
    """What a load fails with."""


class Gate:
    """A loader, and a batch function, whose every call waits until the test answers it."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[Any]] = []
        self.plan: list[list[Any]] = []
        self.cancelled = 0

    async def load(self) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def many(self, keys: list[Any]) -> Any:
        self.plan.append(list(keys))
        return await self.load()

    async def running(self, count: int = 1) -> None:
        """Wait until `count` calls have been made."""
        await until(lambda: len(self.answers) >= count)


class Stubborn:
    """A loader that swallows its cancellation until the test lets it end."""

    def __init__(self, value: Any = "late") -> None:
        self.value = value
        self.count = 0
        self.swallowed = 0
        self.ended = 0
        self.release = asyncio.Event()

    async def load(self) -> Any:
        self.count += 1
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.swallowed += 1
                if self.swallowed == 5:  # a test that failed must still be able to end
                    raise
        self.ended += 1
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value

    async def many(self, keys: list[Any]) -> list[Any]:
        return [await self.load() for _ in keys]


class Counted:
    """A loader that counts its calls, and a batch function that records them."""

    def __init__(self, value: Any = "value") -> None:
        self.value = value
        self.count = 0
        self.plan: list[list[Any]] = []

    async def load(self) -> Any:
        self.count += 1
        return self.value

    async def many(self, keys: list[Any]) -> dict[Any, Any]:
        self.plan.append(list(keys))
        return {key: key * 10 for key in keys}


class Reports:
    """Count what reaches the loop's exception handler."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.messages.append(str(context))
        )

    async def collected(self) -> list[str]:
        """Collect garbage until nothing more can be reported."""
        for _ in range(3):
            gc.collect()
            await ticks(2)
        return self.messages


# F1: the cache owns the load


async def test_f1_a_hundred_callers_are_one_load():
    """A hundred concurrent misses of a key call its loader once."""
    cache = AsyncCache()
    gate = Gate()
    tasks = [asyncio.ensure_future(cache.get("a", gate.load)) for _ in range(100)]
    await gate.running()
    await ticks(5)
    gate.answers[0].set_result("value")

    assert ["value"] * 100 == await outcomes(*tasks)
    assert 1 == len(gate.answers)


@pytest.mark.parametrize("leaver", [0, 1, 2])
async def test_f1_unlike_peers_a_leader_that_is_cancelled_changes_nothing_for_the_others(
    leaver: int,
):
    """Whichever caller is cancelled, the load goes on and the others have its value."""
    cache = AsyncCache()
    gate = Gate()
    tasks = [asyncio.ensure_future(cache.get("a", gate.load)) for _ in range(3)]
    await gate.running()

    gone = tasks.pop(leaver)
    gone.cancel()
    await ticks(5)
    gate.answers[0].set_result("value")

    assert ["value", "value"] == await outcomes(*tasks)
    assert gone.cancelled()
    assert (1, 0) == (len(gate.answers), gate.cancelled)


async def test_f1_a_leader_that_is_cancelled_at_once_changes_nothing_for_the_others():
    """A leader that is cancelled before its loader ran leaves the others their load."""
    cache = AsyncCache()
    counted = Counted()
    tasks = [asyncio.ensure_future(cache.get("a", counted.load)) for _ in range(3)]
    await ticks(1)
    tasks[0].cancel()

    assert ["value", "value"] == await outcomes(*tasks[1:])
    assert 1 == counted.count


def test_f1_a_leader_that_times_out_changes_nothing_for_the_others():
    """When the first caller's own timeout ends, the others still have the value."""

    async def main() -> None:
        cache = AsyncCache()
        calls = []

        async def load() -> str:
            calls.append(1)
            await asyncio.sleep(5)
            return "value"

        impatient, patient = await asyncio.gather(
            asyncio.wait_for(cache.get("a", load), 1), cache.get("a", load), return_exceptions=True
        )
        assert isinstance(impatient, asyncio.TimeoutError)
        assert "value" == patient
        assert [1] == calls

    virtual(main)


async def test_f1_a_load_runs_in_a_task_of_its_own():
    """The loader's task is not its caller's, so it can't be cancelled with it."""
    cache = AsyncCache()

    async def load() -> Any:
        return asyncio.current_task()

    assert asyncio.current_task() is not await within(cache.get("a", load))


@pytest.mark.parametrize("way", ["loader", "batch_loader", "get_many"])
async def test_f1_a_caller_of_a_batch_that_is_cancelled_changes_nothing_for_the_others(way: str):
    """A caller that leaves a running batch leaves the others of it their values."""
    cache = AsyncCache()
    gate = Gate()

    def get() -> Any:
        match way:
            case "loader":
                return cache.get(1, gate.load)
            case "batch_loader":
                return cache.get(1, batch_loader=gate.many)
            case _:
                return cache.get_many([1], gate.many)

    tasks = [asyncio.ensure_future(get()) for _ in range(3)]
    await gate.running()
    tasks[0].cancel()
    await ticks(5)
    gate.answers[0].set_result(10 if way == "loader" else [10])

    value = {1: 10} if way == "get_many" else 10
    assert [value, value] == await outcomes(*tasks[1:])
    assert 0 == gate.cancelled
    assert 1 == len(gate.answers)


async def test_f1_a_load_is_held_while_it_runs():
    """Garbage collection in the middle of a load that nobody waits for does not end it."""
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()
    task.cancel()
    await ticks(2)
    del task
    gc.collect()
    gate.answers[0].set_result("value")
    gate.answers.clear()

    await until(lambda: cache.peek("a") == "value")


async def test_f1_loader_and_batch_loader_share_the_flight_of_a_key():
    """A key that is being loaded is joined, whatever it is loaded by."""
    cache = AsyncCache()
    gate = Gate()
    counted = Counted()
    first = asyncio.ensure_future(cache.get(1, gate.load))
    await gate.running()
    others = [
        asyncio.ensure_future(cache.get(1, batch_loader=counted.many)),
        asyncio.ensure_future(cache.get(1, counted.load)),
    ]
    many = asyncio.ensure_future(cache.get_many([1, 2], counted.many))
    await until(lambda: counted.plan)
    gate.answers[0].set_result("value")

    assert ["value"] * 3 == await outcomes(first, *others)
    assert {1: "value", 2: 20} == await within(many)
    assert [[2]] == counted.plan
    assert 0 == counted.count


async def test_f1_different_keys_are_loaded_at_the_same_time():
    """The flight of one key does not wait for another's."""
    cache = AsyncCache()
    gate = Gate()
    tasks = [asyncio.ensure_future(cache.get(key, gate.load)) for key in range(50)]

    await gate.running(50)
    for key in range(50):
        gate.answers[key].set_result(key)

    assert list(range(50)) == await outcomes(*tasks)


async def test_f1_a_caller_that_comes_as_the_load_ends_is_answered():
    """Whoever asks in the very tick in which a load ends starts no second one."""
    cache = AsyncCache()
    gate = Gate()
    tasks = [asyncio.ensure_future(cache.get("a", gate.load))]
    await gate.running()
    gate.answers[0].set_result("value")
    for _ in range(6):
        tasks.append(asyncio.ensure_future(cache.get("a", gate.load)))
        await ticks(1)

    assert ["value"] * 7 == await outcomes(*tasks)
    assert 1 == len(gate.answers)


# Debug mode keeps a traceback for each task, which takes its time whatever the cache does.
@pytest.mark.loop_kinds("asyncio", "uvloop", "eager")
@pytest.mark.parametrize("order", ["first", "last", "every second"])
async def test_f1_thousands_of_callers_leave_in_little_time(order: str):
    """Twenty thousand callers of one key that leave take no time that grows with their square."""
    cache = AsyncCache()
    gate = Gate()
    tasks = [asyncio.ensure_future(cache.get("a", gate.load)) for _ in range(20_000)]
    await gate.running()
    await ticks(3)
    leaving = {"first": tasks[:-1], "last": tasks[:0:-1], "every second": tasks[::2]}[order]
    begin = time.perf_counter()
    for task in leaving:
        task.cancel()
    await ticks(5)

    assert time.perf_counter() - begin < 10.0
    gate.answers[0].set_result("value")
    left = [task for task in tasks if not task.cancelled()]
    assert {"value"} == set(await outcomes(*left))


# F2: a load that nobody waits for


async def test_f2_when_all_callers_have_gone_the_load_is_stored():
    """A load goes on without callers, and its value is there for the next."""
    cache = AsyncCache()
    gate = Gate()
    tasks = [asyncio.ensure_future(cache.get("a", gate.load)) for _ in range(3)]
    await gate.running()
    for task in tasks:
        task.cancel()
    await ticks(5)
    assert 0 == gate.cancelled
    gate.answers[0].set_result("value")
    await until(lambda: cache.peek("a") == "value")

    assert "value" == await within(cache.get("a", gate.load))
    assert 1 == len(gate.answers)


async def test_f2_a_load_without_callers_can_be_joined():
    """A caller that comes after all others have gone joins their load."""
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()
    task.cancel()
    await ticks(5)
    joiner = asyncio.ensure_future(cache.get("a", gate.load))
    await ticks(5)
    gate.answers[0].set_result("value")

    assert ["value"] == await outcomes(joiner)
    assert 1 == len(gate.answers)


async def test_f2_a_batch_without_callers_is_stored():
    """A batch goes on without callers, too."""
    cache = AsyncCache()
    gate = Gate()
    tasks = [asyncio.ensure_future(cache.get(key, batch_loader=gate.many)) for key in (1, 2)]
    tasks.append(asyncio.ensure_future(cache.get_many([3], gate.many)))
    await gate.running()
    for task in tasks:
        task.cancel()
    await ticks(5)
    for answer, keys in zip(gate.answers, gate.plan):
        answer.set_result([key * 10 for key in keys])

    await until(lambda: {10, 20, 30} == {cache.peek(key) for key in (1, 2, 3)})
    assert 0 == gate.cancelled


def test_f2_a_load_without_callers_is_bounded_by_load_timeout():
    """A load that nobody waits for is cancelled when `load_timeout` ends."""

    async def main() -> None:
        Reports()
        cache = AsyncCache(load_timeout=5)
        gate = Gate()
        task = asyncio.ensure_future(cache.get("a", gate.load))
        await ticks(5)
        task.cancel()
        await asyncio.sleep(4.9)
        assert 0 == gate.cancelled
        await asyncio.sleep(0.2)
        assert 1 == gate.cancelled
        assert 1 == cache.stats.load_timeouts

    virtual(main)


async def fail() -> Any:
    """Fail after some ticks."""
    await ticks(5)
    raise Broken("down")


async def fail_many(keys: list[Any]) -> Any:
    """Fail after some ticks."""
    await ticks(5)
    raise Broken("down")


async def test_f2_an_abandoned_failing_load_is_not_reported_once_per_caller():
    """A failing load whose hundred callers have gone makes one report at most."""
    reports = Reports()
    cache = AsyncCache()
    tasks = [asyncio.ensure_future(cache.get("a", fail)) for _ in range(100)]
    await ticks(3)
    for task in tasks:
        task.cancel()
    del task
    tasks.clear()
    await until(lambda: cache.stats.load_errors)

    assert len(await reports.collected()) <= 1


async def test_f2_an_abandoned_failing_batch_is_not_reported_once_per_key():
    """A failing batch whose fifty callers have gone makes one report at most."""
    reports = Reports()
    cache = AsyncCache()
    tasks = [asyncio.ensure_future(cache.get(key, batch_loader=fail_many)) for key in range(50)]
    tasks.append(asyncio.ensure_future(cache.get_many(range(50, 100), fail_many)))
    await ticks(3)
    for task in tasks:
        task.cancel()
    del task
    tasks.clear()
    await until(lambda: cache.stats.load_errors)

    assert len(await reports.collected()) <= 1


async def test_f2_unlike_peers_a_failed_batch_with_one_result_awaited_makes_at_most_one_report():
    """Of fifty keys of a failed batch one is awaited: the other forty-nine are no reports."""
    reports = Reports()
    cache = AsyncCache()
    tasks = [asyncio.ensure_future(cache.get(key, batch_loader=fail_many)) for key in range(50)]
    await ticks(3)
    for task in tasks[1:]:
        task.cancel()

    assert [Broken] == await kinds(tasks[0])
    del task
    tasks.clear()
    assert len(await reports.collected()) <= 1


@pytest.mark.parametrize("way", ["loader", "batch_loader"])
async def test_f2_a_failure_that_nobody_waits_for_any_more_is_reported_once(way: str):
    """Whoever asked has gone, so the loop's exception handler is who is told."""
    reports = Reports()
    cache = AsyncCache()
    if way == "loader":
        tasks = [asyncio.ensure_future(cache.get("a", fail)) for _ in range(3)]
    else:
        tasks = [asyncio.ensure_future(cache.get(key, batch_loader=fail_many)) for key in range(3)]
    await ticks(3)
    for task in tasks:
        task.cancel()
    await until(lambda: cache.stats.load_errors)

    (report,) = await reports.collected()
    assert "a load of cache 'AsyncCache' failed when all its callers had gone" in report


async def test_f2_a_load_that_was_cancelled_after_its_callers_had_gone_is_not_reported():
    """Ending a load that nobody waits for is nobody's mistake."""
    reports = Reports()
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()
    task.cancel()
    await ticks(2)

    await cache.aclose()

    assert [] == await reports.collected()


async def test_f2_a_failure_that_its_callers_take_is_not_reported():
    """A failing load whose callers all take its error makes no report."""
    reports = Reports()
    cache = AsyncCache()

    assert [Broken] * 100 == await kinds(*(cache.get("a", fail) for _ in range(100)))
    assert [Broken] * 2 == await kinds(
        cache.get(1, batch_loader=fail_many), cache.get_many([2, 3], fail_many)
    )

    assert [] == await reports.collected()


# F3: load_timeout


def test_f3_load_timeout_raises_load_timeout_error_to_every_caller():
    """All callers of a load that takes too long get a `LoadTimeoutError` that names the cache."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache(load_timeout=3, name="users")
        gate = Gate()
        for error in await outcomes(*(cache.get("a", gate.load) for _ in range(3))):
            assert isinstance(error, LoadTimeoutError)
            assert isinstance(error, TimeoutError)
            assert "users" in str(error)
            assert "3" in str(error)
        assert 3.0 == pytest.approx(loop.time())
        assert 1 == gate.cancelled
        assert 1 == cache.stats.load_timeouts

    virtual(main)


@pytest.mark.parametrize("way", ["batch_loader", "get_many", "refresh", "warmup"])
def test_f3_load_timeout_holds_for_every_kind_of_load(way: str):
    """Batches, refreshes and warm-ups that take too long end like any load."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache(load_timeout=3)
        gate = Gate()
        match way:
            case "batch_loader":
                found = await outcomes(*(cache.get(key, batch_loader=gate.many) for key in (1, 2)))
            case "get_many":
                found = list(
                    (await cache.get_many([1, 2], gate.many, return_exceptions=True)).values()
                )
            case "refresh":
                found = await outcomes(cache.refresh(1, gate.load))
            case _:
                found = list((await cache.warmup({1: gate.load})).failed.values())
        assert found
        assert {LoadTimeoutError} == {type(error) for error in found}
        assert loop.time() <= 3.01
        assert 1 == gate.cancelled

    virtual(main)


def test_f3_load_timeout_counts_from_the_miss_and_includes_queueing():
    """A load that waited for its turn has only the rest of its time left."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache(load_timeout=6, max_concurrent_loads=1)

        async def load() -> str:
            await asyncio.sleep(4)
            return "value"

        async def get(key: str) -> tuple[str, float]:
            try:
                return await cache.get(key, load), loop.time()
            except LoadTimeoutError:
                return "timeout", loop.time()

        found = await asyncio.gather(get("a"), get("b"))
        assert [("value", 4.0), ("timeout", 6.0)] == [
            (value, round(when, 2)) for value, when in found
        ]

    virtual(main)


def test_f3_a_queued_load_whose_time_is_over_does_not_run():
    """The loader of a load that timed out while it waited for its turn is not called."""

    async def main() -> None:
        cache = AsyncCache(load_timeout=6, max_concurrent_loads=1)
        counted = Counted()

        async def slow() -> str:
            await asyncio.sleep(5)
            return "value"

        slots = [asyncio.ensure_future(cache.get(key, slow)) for key in ("a", "b")]
        queued = asyncio.ensure_future(cache.get("c", counted.load))
        assert [str, LoadTimeoutError, LoadTimeoutError] == await kinds(*slots, queued)
        await asyncio.sleep(50)
        assert 0 == counted.count

    virtual(main)


def test_f3_the_time_of_a_batch_includes_its_window():
    """The batch window is part of the time that a load may take."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache(load_timeout=3, batch_window=2)
        assert [LoadTimeoutError] == await kinds(cache.get(1, batch_loader=Gate().many))
        assert 3.0 == pytest.approx(loop.time())

    virtual(main)


def test_f3_a_batch_whose_time_is_over_in_its_window_takes_no_more_keys():
    """Later calls of its function make a batch of their own, and are answered."""

    async def main() -> None:
        cache = AsyncCache(load_timeout=1, batch_window=2)
        counted = Counted()
        assert [LoadTimeoutError] == await kinds(cache.get(1, batch_loader=counted.many))
        assert {2: 20} == await cache.get_many([2], counted.many)
        assert [[2]] == counted.plan

    virtual(main)


def test_f3_one_key_of_a_batch_is_over_time_alone():
    """Each key has the time from its own miss, and the batch goes on for who has some left."""

    async def main() -> None:
        cache = AsyncCache(load_timeout=3, batch_window=2)

        async def many(keys: list[int]) -> list[int]:
            await asyncio.sleep(2)
            return [key * 10 for key in keys]

        first = asyncio.ensure_future(cache.get(1, batch_loader=many))
        await asyncio.sleep(1.5)
        assert 20 == await cache.get(2, batch_loader=many)
        assert [LoadTimeoutError] == await kinds(first)

    virtual(main)


def test_f3_a_batch_that_is_over_time_leaves_the_next_one_open():
    """Whoever asks then joins the batch that gathers, and makes none beside it."""

    async def main() -> None:
        cache = AsyncCache(load_timeout=3, batch_window=2)
        plan: list[list[int]] = []

        async def many(keys: list[int]) -> list[int]:
            plan.append(keys)
            if keys == [1]:
                await asyncio.sleep(60)
            return keys

        first = asyncio.ensure_future(cache.get(1, batch_loader=many))
        await asyncio.sleep(2.5)
        second = asyncio.ensure_future(cache.get(2, batch_loader=many))
        assert [LoadTimeoutError] == await kinds(first)
        assert [2, 3] == await outcomes(second, cache.get(3, batch_loader=many))
        assert [[1], [2, 3]] == plan

    virtual(main)


def test_f3_a_stubborn_load_is_held_until_it_ends():
    """A task that goes on after its load was given up is not collected in the middle."""

    async def main() -> None:
        reports = Reports()
        cache = AsyncCache(load_timeout=1)

        async def load() -> Any:
            # Nothing but the task holds what it waits for.
            with suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()
            await asyncio.get_running_loop().create_future()

        assert [LoadTimeoutError] == await kinds(cache.get("a", load))
        await ticks(3)
        assert [] == await reports.collected()

    virtual(main)


def test_f3_a_stubborn_loads_late_result_is_not_looked_at():
    """What will not be stored has no TTL to work out."""

    async def main() -> None:
        cache = AsyncCache(load_timeout=1)
        stubborn = Stubborn()
        asked: list[Any] = []

        def ttl(key: Any, value: Any) -> float:
            asked.append(value)
            return 10.0

        assert [LoadTimeoutError] == await kinds(cache.get("a", stubborn.load, ttl=ttl))
        stubborn.release.set()
        await ticks(5)
        assert 1 == stubborn.ended
        assert [] == asked

    virtual(main)


def test_f3_a_joiner_shares_the_time_of_the_flight():
    """Who joins a load is not given more time than the load has."""
    # reading: a load has one miss that it counts from, the one that started it.

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache(load_timeout=6)
        gate = Gate()
        first = asyncio.ensure_future(cache.get("a", gate.load))
        await asyncio.sleep(4)
        assert [LoadTimeoutError] * 2 == await kinds(first, cache.get("a", gate.load))
        assert 6.0 == pytest.approx(loop.time())

    virtual(main)


@pytest.mark.parametrize("how", ["cancelled", "stubborn"])
def test_f3_a_timeout_frees_the_slot(how: str):
    """After a timeout the next load has the slot, also where the old one does not end."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache(load_timeout=3, max_concurrent_loads=1)
        stubborn = Stubborn()
        first = asyncio.ensure_future(
            cache.get("a", stubborn.load if how == "stubborn" else Gate().load)
        )
        await asyncio.sleep(2)
        counted = Counted()
        assert ["value"] == await outcomes(cache.get("b", counted.load))
        assert 3.0 <= loop.time() <= 3.01
        assert [LoadTimeoutError] == await kinds(first)
        # The late end of the stubborn load does not free a slot a second time.
        most = await most_at_once(cache, ["c", "d", "e"], lambda: stubborn.release.set())
        assert 1 == most

    virtual(main)


async def most_at_once(
    cache: AsyncCache, keys: list[Any], meanwhile: Callable[[], Any] = lambda: None
) -> int:
    """Load `keys` and give how many loads ran at the same time."""
    running = most = 0

    async def load() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        meanwhile()
        await ticks(10)
        running -= 1
        return "value"

    assert ["value"] * len(keys) == await outcomes(*(cache.get(key, load) for key in keys))
    return most


@pytest.mark.parametrize("way", ["loader", "batch_loader"])
def test_f3_a_stubborn_loads_late_result_is_not_stored(way: str):
    """What a load brings that swallowed its cancellation is not stored after its timeout."""

    async def main() -> None:
        Reports()
        cache = AsyncCache(load_timeout=3)
        stubborn = Stubborn()
        get = (
            cache.get("a", stubborn.load)
            if way == "loader"
            else cache.get("a", batch_loader=stubborn.many)
        )
        assert [LoadTimeoutError] == await kinds(get)
        await ticks(5)
        assert stubborn.swallowed >= 1
        stubborn.release.set()
        await ticks(10)
        assert 1 == stubborn.ended
        assert "a" not in cache
        assert "new" == await cache.get("a", Counted("new").load)

    virtual(main)


def test_f3_a_stubborn_loads_late_result_does_not_replace_a_newer_one():
    """The value that was loaded after a timeout stays, whatever the old load brings."""

    async def main() -> None:
        Reports()
        cache = AsyncCache(load_timeout=3)
        stubborn = Stubborn()
        assert [LoadTimeoutError] == await kinds(cache.get("a", stubborn.load))
        assert "new" == await cache.get("a", Counted("new").load)
        stubborn.release.set()
        await ticks(10)
        assert 1 == stubborn.ended
        assert "new" == cache.peek("a")

    virtual(main)


def test_f3_a_stubborn_load_does_not_end_its_successor():
    """A late end leaves the flight that was started after the timeout alone."""

    async def main() -> None:
        Reports()
        cache = AsyncCache(load_timeout=3)
        stubborn = Stubborn()
        gate = Gate()
        assert [LoadTimeoutError] == await kinds(cache.get("a", stubborn.load))
        second = asyncio.ensure_future(cache.get("a", gate.load))
        await ticks(5)
        stubborn.release.set()
        await ticks(10)
        third = asyncio.ensure_future(cache.get("a", gate.load))
        await ticks(5)
        assert 1 == len(gate.answers)
        gate.answers[0].set_result("new")
        assert ["new", "new"] == await outcomes(second, third)

    virtual(main)


def test_f3_a_stubborn_load_that_fails_late_makes_at_most_one_report():
    """The error of a load whose callers were told of a timeout is not theirs any more."""

    async def main() -> None:
        reports = Reports()
        cache = AsyncCache(load_timeout=3)
        stubborn = Stubborn(Broken("late"))
        assert [LoadTimeoutError] * 50 == await kinds(
            *(cache.get("a", stubborn.load) for _ in range(50))
        )
        await ticks(5)
        stubborn.release.set()
        await ticks(10)
        assert len(await reports.collected()) <= 1

    virtual(main)


def test_f3_after_a_timeout_the_key_is_loaded_again():
    """A timeout is not remembered, and the flight is not joined any more."""

    async def main() -> None:
        cache = AsyncCache(load_timeout=3)
        gate = Gate()
        for _ in range(2):
            assert [LoadTimeoutError] == await kinds(cache.get("a", gate.load))
        assert 2 == len(gate.answers)
        assert "value" == await cache.get("a", Counted().load)

    virtual(main)


async def test_f3_a_timeout_of_the_loaders_own_is_its_own_error():
    """A `TimeoutError` that the loader raises reaches the callers as it is."""
    cache = AsyncCache(load_timeout=60)

    async def load() -> Any:
        raise TimeoutError("of the database")

    (error,) = await outcomes(cache.get("a", load))

    assert TimeoutError is type(error)
    assert 0 == cache.stats.load_timeouts


def test_f3_a_load_in_time_leaves_no_timer_that_ends_another():
    """The timer of a load that ended in time touches no later load of the key."""

    async def main() -> None:
        cache = AsyncCache(load_timeout=5)
        assert "value" == await cache.get("a", Counted().load)
        cache.delete("a")
        await asyncio.sleep(3)
        gate = Gate()
        task = asyncio.ensure_future(cache.get("a", gate.load))
        await asyncio.sleep(4)
        gate.answers[0].set_result("second")
        assert ["second"] == await outcomes(task)

    virtual(main)


# F4: errors


async def test_f4_an_error_goes_to_all_callers_of_its_flight():
    """Every caller of a failing load has its error."""
    cache = AsyncCache()
    calls = []

    async def load() -> Any:
        calls.append(1)
        await ticks(5)
        raise Broken("down")

    found = await outcomes(*(cache.get("a", load) for _ in range(10)))

    assert {(Broken, "down")} == {(type(error), str(error)) for error in found}
    assert [1] == calls


@pytest.mark.parametrize("way", ["loader", "batch_loader", "get_many", "refresh"])
async def test_f4_an_error_is_never_stored(way: str):
    """After a failed load the next caller loads again."""
    cache = AsyncCache()
    calls = []

    async def load() -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise Broken("down")
        return "value"

    async def many(keys: list[Any]) -> Any:
        return {key: await load() for key in keys}

    def get() -> Any:
        match way:
            case "loader":
                return cache.get("a", load)
            case "batch_loader":
                return cache.get("a", batch_loader=many)
            case "get_many":
                return cache.get_many(["a"], many)
            case _:
                return cache.refresh("a", load)

    assert [Broken] == await kinds(get())
    assert 0 == len(cache)
    assert "a" not in cache
    assert (await outcomes(get()))[0] in ("value", {"a": "value"})


async def test_f4_unlike_peers_an_error_in_a_keys_place_is_raised_and_not_stored():
    """An exception among the values of a batch is raised to that key's callers only."""
    cache = AsyncCache()
    error = Broken("two")

    async def as_list(keys: list[int]) -> list[Any]:
        return [error if key == 2 else key * 10 for key in keys]

    async def as_dict(keys: list[int]) -> dict[int, Any]:
        return {key: error if key == 2 else key * 10 for key in keys}

    for many in (as_list, as_dict):
        cache.clear()
        assert [10, error, error, 30] == await outcomes(
            *(cache.get(key, batch_loader=many) for key in (1, 2, 2, 3))
        )
        assert [1, 3] == [key for key in (1, 2, 3) if key in cache]


async def test_f4_a_loader_that_raises_when_called_is_a_failed_load():
    """A function that raises before it returns an awaitable fails its callers and hangs nobody."""
    cache = AsyncCache()

    def load() -> Any:
        raise Broken("when called")

    def many(keys: list[Any]) -> Any:
        raise Broken("when called")

    assert [Broken] * 5 == await kinds(
        cache.get("a", load),
        cache.get("a", load),
        cache.get("b", batch_loader=many),
        cache.get("c", batch_loader=many),
        cache.get_many(["d"], many),
    )
    assert "value" == await within(cache.get("a", Counted().load))
    assert 0 == cache.stats.hits


class Own(BaseException):
    """A base exception of a user's own."""


@pytest.mark.parametrize("kind", [Own, GeneratorExit, StopIteration, StopAsyncIteration])
async def test_f4_a_strange_error_hangs_nobody(kind: type[BaseException]):
    """Whatever a loader raises, every caller is told, and the next one may try."""
    cache = AsyncCache()

    async def load() -> Any:
        await ticks(3)
        raise kind("strange")

    async def many(keys: list[Any]) -> Any:
        await ticks(3)
        raise kind("strange")

    found = await outcomes(
        cache.get("a", load), cache.get("a", load), cache.get("b", batch_loader=many)
    )

    assert all(isinstance(error, BaseException) for error in found)
    assert "value" == await within(cache.get("a", Counted().load))


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, GeneratorExit, Own])
async def test_f4_unlike_peers_a_strange_error_in_a_keys_place_hangs_nobody(
    kind: type[BaseException],
):
    """A batch that has a `StopIteration` among its values still answers everybody."""
    cache = AsyncCache()

    async def many(keys: list[int]) -> list[Any]:
        return [kind("strange") if key == 2 else key * 10 for key in keys]

    found = await outcomes(*(cache.get(key, batch_loader=many) for key in (1, 2, 3)))

    assert [10, 30] == [found[0], found[2]]
    assert isinstance(found[1], BaseException)
    assert [1, 3] == [key for key in (1, 2, 3) if key in cache]


@pytest.mark.parametrize("way", ["loader", "batch_loader", "get_many", "refresh"])
async def test_f4_unlike_peers_a_cancelled_error_of_the_loaders_own_is_a_load_cancelled_error(
    way: str,
):
    """A loader that raises `CancelledError` does not look like its callers' cancellation."""
    cache = AsyncCache(name="users")

    async def load() -> Any:
        await ticks(2)
        raise asyncio.CancelledError

    async def many(keys: list[Any]) -> Any:
        return await load()

    def get() -> Any:
        match way:
            case "loader":
                return cache.get("a", load)
            case "batch_loader":
                return cache.get("a", batch_loader=many)
            case "get_many":
                return cache.get_many(["a"], many)
            case _:
                return cache.refresh("a", load)

    for error in await outcomes(get(), get()):
        assert isinstance(error, LoadCancelledError)
        assert "users" in str(error)
    assert "value" == await within(cache.get("a", Counted().load))


async def test_f4_a_cancelled_error_in_a_keys_place_is_a_load_cancelled_error():
    """A `CancelledError` among the values of a batch does not cancel its callers."""
    cache = AsyncCache()

    async def many(keys: list[int]) -> list[Any]:
        return [asyncio.CancelledError() if key == 2 else key for key in keys]

    found = await outcomes(*(cache.get(key, batch_loader=many) for key in (1, 2)))

    assert 1 == found[0]
    assert isinstance(found[1], LoadCancelledError)


@pytest.mark.loop_kinds("asyncio", "debug", "uvloop")  # an eager task has no time before that
async def test_f4_a_load_that_is_cancelled_before_its_first_step_is_a_load_cancelled_error():
    """None of its body runs, and its callers are settled all the same."""
    cache = AsyncCache()
    counted = Counted()
    before = asyncio.all_tasks()
    asking = asyncio.ensure_future(cache.get("a", counted.load))
    while not (loads := asyncio.all_tasks() - before - {asking}):
        await ticks(1)
    for load in loads:
        load.cancel()

    assert [LoadCancelledError] == await kinds(asking)
    assert 0 == counted.count


class Interrupted(BaseException):
    """What a function of a call may raise, and `except Exception` does not catch."""


@pytest.mark.parametrize("argument", ["ttl", "tags"])
async def test_f4_a_base_exception_of_a_function_of_the_call_reaches_its_caller(argument: str):
    """It is treated as one of the loader's own."""
    cache = AsyncCache()

    def interrupt(key: Any, value: Any) -> Any:
        raise Interrupted

    get: Any = cache.get
    assert [Interrupted] == await kinds(get("a", Counted().load, **{argument: interrupt}))
    assert 0 == len(cache)


async def test_f4_an_error_of_one_key_is_not_anothers():
    """Flights of different keys fail apart."""
    cache = AsyncCache()

    found = await kinds(cache.get("a", fail), cache.get("b", Counted().load))

    assert [Broken, str] == found


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("way", ["loader", "batch_loader", "ttl"])
def test_f4_an_interrupt_settles_the_callers_and_propagates(way: str, kind: type[BaseException]):
    """`KeyboardInterrupt` and `SystemExit` end the loop; nobody is left waiting."""
    # reading: what R4 says of a batch function of a loader holds here, too.
    cache = AsyncCache()
    loop = asyncio.new_event_loop()
    tasks: list[asyncio.Task[Any]] = []

    async def load() -> Any:
        await ticks(3)
        raise kind("stop")

    async def many(keys: list[Any]) -> Any:
        return await load()

    def ttl(key: Any, value: Any) -> float:
        raise kind("stop")

    def get() -> Any:
        match way:
            case "loader":
                return cache.get("a", load)
            case "batch_loader":
                return cache.get("a", batch_loader=many)
            case _:
                return cache.get("a", Counted().load, ttl=ttl)

    async def main() -> None:
        tasks.extend(asyncio.ensure_future(get()) for _ in range(2))
        await asyncio.sleep(GUARD)

    async def settled() -> list[Any]:
        return await outcomes(*tasks)

    try:
        with pytest.raises(kind):
            loop.run_until_complete(main())
        found = loop.run_until_complete(settled())
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    finally:
        loop.close()

    assert [LoadCancelledError] * 2 == [type(error) for error in found]


# F5: what was invalidated meanwhile


OPERATIONS: dict[str, Callable[[AsyncCache, Any], Any]] = {
    "set": lambda cache, key: cache.set(key, "newest"),
    "delete": lambda cache, key: cache.delete(key),
    "expire": lambda cache, key: cache.expire(key),
    "clear": lambda cache, key: cache.clear(),
    "invalidate_tag": lambda cache, key: cache.invalidate_tag("t"),
}


@pytest.mark.parametrize("way", ["loader", "batch_loader", "get_many"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_f5_unlike_peers_a_result_that_was_invalidated_in_flight_is_not_stored(
    operation: str, way: str
):
    """A load that an invalidation overtook answers its callers and stores nothing."""
    cache = AsyncCache()
    gate = Gate()
    match way:
        case "loader":
            get: Any = cache.get(1, gate.load, tags=["t"])
        case "batch_loader":
            get = cache.get(1, batch_loader=gate.many, tags=["t"])
        case _:
            get = cache.get_many([1], gate.many, tags=["t"])
    task = asyncio.ensure_future(get)
    await gate.running()

    OPERATIONS[operation](cache, 1)
    await ticks(3)
    gate.answers[0].set_result("old" if way == "loader" else ["old"])

    assert (await outcomes(task))[0] in ("old", {1: "old"})
    await ticks(5)
    assert ("newest" if operation == "set" else None) == cache.peek(1)
    assert (1 if operation == "set" else 0) == len(cache)


@pytest.mark.parametrize("operation", ["delete", "expire", "clear", "invalidate_tag"])
@pytest.mark.parametrize("first", ["old", "new"])
async def test_f5_callers_after_an_invalidation_start_a_new_load(operation: str, first: str):
    """A later caller does not join the overtaken load; the newer one is stored, in either order."""
    cache = AsyncCache()
    gate = Gate()
    older = asyncio.ensure_future(cache.get(1, gate.load, tags=["t"]))
    await gate.running()
    OPERATIONS[operation](cache, 1)
    newer = asyncio.ensure_future(cache.get(1, gate.load, tags=["t"]))
    await gate.running(2)

    order = [(0, "old"), (1, "new")]
    for number, value in order if first == "old" else reversed(order):
        gate.answers[number].set_result(value)
        await ticks(5)

    assert ["old", "new"] == await outcomes(older, newer)
    assert "new" == cache.peek(1)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("outcome", ["value", "error"])
async def test_f5_the_end_of_an_overtaken_load_leaves_its_successor_alone(
    operation: str, outcome: str
):
    """Neither the value nor the failure of an overtaken load ends the newer flight or value."""
    cache = AsyncCache()
    gate = Gate()
    older = asyncio.ensure_future(cache.get(1, gate.load, tags=["t"]))
    await gate.running()
    OPERATIONS[operation](cache, 1)
    newer = asyncio.ensure_future(cache.get(1, gate.load, tags=["t"]))
    await ticks(5)
    if outcome == "value":
        gate.answers[0].set_result("old")
    else:
        gate.answers[0].set_exception(Broken("old"))
    await outcomes(older)
    last = asyncio.ensure_future(cache.get(1, gate.load, tags=["t"]))
    await ticks(5)

    if operation == "set":
        assert ["newest", "newest"] == await outcomes(newer, last)
        assert 1 == len(gate.answers)
    else:
        assert 2 == len(gate.answers)
        gate.answers[1].set_result("new")
        assert ["new", "new"] == await outcomes(newer, last)
        assert "new" == cache.peek(1)


async def test_f5_an_explicit_set_is_not_undone_by_an_older_load():
    """The value of a `set` is served at once and stays, though an older load ends later."""
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()

    cache.set("a", "newest")
    assert "newest" == await within(cache.get("a", gate.load))
    gate.answers[0].set_result("old")
    await outcomes(task)
    await ticks(5)

    assert "newest" == await within(cache.get("a", gate.load))
    assert 1 == len(gate.answers)


async def test_f5_an_explicit_set_of_nothing_is_not_undone_either():
    """A `set` with `ttl=0` overtakes a load like any other."""
    # reading: it stores nothing, and it is a `set`.
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()

    cache.set("a", "newest", ttl=0)
    gate.answers[0].set_result("old")
    await outcomes(task)
    await ticks(5)

    assert "a" not in cache


async def test_f5_a_set_is_not_undone_by_a_load_that_waited_for_its_turn():
    """A load that was queued when a key was set does not write over it."""
    cache = AsyncCache(max_concurrent_loads=1)
    gate = Gate()
    first = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()
    queued = asyncio.ensure_future(cache.get("b", Counted("old").load))
    await ticks(5)

    cache.set("b", "newest")
    gate.answers[0].set_result("value")
    await outcomes(first, queued)
    await ticks(5)

    assert "newest" == cache.peek("b")


async def test_f5_a_set_is_not_undone_by_a_batch_that_had_not_left():
    """A key that was set while its batch was open keeps what was set."""
    cache = AsyncCache()
    counted = Counted()
    tasks = [asyncio.ensure_future(cache.get(key, batch_loader=counted.many)) for key in (1, 2)]
    await ticks(3)

    cache.set(1, "newest")
    found = await outcomes(*tasks)

    assert found[0] in ("newest", 10)
    assert 20 == found[1]
    assert ["newest", 20] == [cache.peek(1), cache.peek(2)]


async def test_f5_a_key_that_was_invalidated_in_the_window_of_its_batch_is_asked_for_again():
    """Who asked before has the older value, and who asks then has one that was loaded since."""
    cache = AsyncCache()
    gate = Gate()
    first = asyncio.ensure_future(cache.get(1, batch_loader=gate.many))
    await ticks(2)
    cache.delete(1)
    second = asyncio.ensure_future(cache.get(1, batch_loader=gate.many))
    await gate.running(2)
    assert [[1], [1]] == gate.plan
    gate.answers[1].set_result(["newer"])
    assert ["newer"] == await outcomes(second)
    gate.answers[0].set_result(["older"])

    assert ["older"] == await outcomes(first)
    assert "newer" == cache.peek(1)


async def test_f5_one_key_of_a_batch_is_invalidated_alone():
    """Deleting one key of a running batch does not keep the others from being stored."""
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get_many([1, 2, 3], gate.many))
    await gate.running()

    cache.delete(2)
    gate.answers[0].set_result([10, 20, 30])

    assert {1: 10, 2: 20, 3: 30} == await within(task)
    assert [10, None, 30] == [cache.peek(key) for key in (1, 2, 3)]


@pytest.mark.parametrize("way", ["loader", "batch_loader", "get_many", "refresh", "warmup"])
async def test_f5_a_delete_overtakes_every_kind_of_load(way: str):
    """Whatever loads a key, nothing of it is stored after the key was deleted."""
    cache = AsyncCache()
    gate = Gate()
    match way:
        case "loader":
            get: Any = cache.get(1, gate.load)
        case "batch_loader":
            get = cache.get(1, batch_loader=gate.many)
        case "get_many":
            get = cache.get_many([1], gate.many)
        case "refresh":
            get = cache.refresh(1, gate.load)
        case _:
            get = cache.warmup({1: gate.load})
    task = asyncio.ensure_future(get)
    await gate.running()

    cache.delete(1)
    gate.answers[0].set_result([10] if gate.plan else 10)
    await outcomes(task)
    await ticks(5)

    assert 1 not in cache


@pytest.mark.parametrize("tags", ["given", "computed"])
async def test_f5_a_tag_that_is_invalidated_while_its_load_is_in_flight(tags: str):
    """A load is not stored if one of its tags was invalidated since it started, known or not."""
    cache = AsyncCache()
    gate = Gate()
    given: Any = ["t", "u"] if tags == "given" else lambda key, value: ["t", "u"]
    single = asyncio.ensure_future(cache.get("a", gate.load, tags=given))
    await gate.running()
    batch = asyncio.ensure_future(cache.get_many(["b"], gate.many, tags=given))
    await gate.running(2)

    cache.invalidate_tag("u")
    gate.answers[0].set_result("old")
    gate.answers[1].set_result(["old"])

    assert ["old", {"b": "old"}] == await outcomes(single, batch)
    await ticks(5)
    assert 0 == len(cache)
    assert "new" == await within(cache.get("a", Counted("new").load, tags=given))
    assert "new" == cache.peek("a")


async def test_f5_a_tag_that_is_computed_from_the_value_decides_for_each_key():
    """Of a batch only those values are not stored whose own tags were invalidated."""
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(
        cache.get_many([1, 2, 3], gate.many, tags=lambda key, value: [f"author:{value}"])
    )
    await gate.running()

    cache.invalidate_tag("author:x")
    gate.answers[0].set_result(["x", "y", "x"])
    await within(task)

    assert [None, "y", None] == [cache.peek(key) for key in (1, 2, 3)]


async def test_f5_a_tag_of_the_value_that_is_there_overtakes_a_load_without_it():
    """The key is invalidated then, whatever tags its new value would have."""
    cache = AsyncCache()
    gate = Gate()
    cache.set("a", "old", tags=["t"])
    refreshing = asyncio.ensure_future(cache.refresh("a", gate.load))
    await gate.running()

    cache.invalidate_tag("t")
    gate.answers[0].set_result("new")

    assert ["new"] == await outcomes(refreshing)
    assert "a" not in cache


@pytest.mark.parametrize("invalidated", ["t", "u"])
async def test_f5_tags_may_come_from_an_iterator(invalidated: str):
    """They are read once, when the load starts, and hold while it is in flight and after it."""
    cache = AsyncCache()
    gate = Gate()
    asking = asyncio.ensure_future(cache.get("a", gate.load, tags=iter(["t", "u"])))
    await gate.running()
    cache.invalidate_tag("other")
    gate.answers[0].set_result("value")
    assert ["value"] == await outcomes(asking)

    assert "a" in cache
    cache.invalidate_tag(invalidated)
    assert "a" not in cache


async def test_f5_every_key_of_get_many_has_the_tags_of_an_iterator():
    """The first key does not take them from the others."""
    cache = AsyncCache()
    await cache.get_many([1, 2, 3], Counted().many, tags=iter(["t"]))
    assert 3 == len(cache)

    cache.invalidate_tag("t")

    assert 0 == len(cache)


async def test_f5_another_tag_is_no_hindrance():
    """Invalidating a tag that a load does not have leaves it to be stored."""
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get("a", gate.load, tags=["t"]))
    await gate.running()

    cache.invalidate_tag("other")
    cache.delete("other")
    gate.answers[0].set_result("value")
    await outcomes(task)

    assert "value" == cache.peek("a")


async def test_f5_a_tag_that_was_invalidated_before_is_no_hindrance():
    """Only what was invalidated since a load started keeps it from being stored."""
    cache = AsyncCache()
    gate = Gate()
    other = asyncio.ensure_future(cache.get("other", gate.load))
    await gate.running()
    cache.invalidate_tag("t")
    task = asyncio.ensure_future(cache.get("a", Counted().load, tags=lambda key, value: ["t"]))

    assert ["value"] == await outcomes(task)
    assert "value" == cache.peek("a")
    gate.answers[0].set_result(1)
    await outcomes(other)


async def test_f5_a_joiner_with_other_tags_hangs_nobody():
    """A caller that joins a flight with tags of its own gets the flight's value."""
    cache = AsyncCache()
    gate = Gate()
    first = asyncio.ensure_future(cache.get("a", gate.load, tags=["t"]))
    await gate.running()
    second = asyncio.ensure_future(cache.get("a", gate.load, tags=["u"]))
    await ticks(3)
    gate.answers[0].set_result("value")

    assert ["value", "value"] == await outcomes(first, second)
    cache.invalidate_tag("t")
    assert "a" not in cache


async def test_f5_invalidating_many_times_hangs_nobody():
    """Whoever waits for an overtaken load gets its value, through any number of successors."""
    cache = AsyncCache()
    gate = Gate()
    tasks = []
    for number in range(1, 6):
        tasks.append(asyncio.ensure_future(cache.get("a", gate.load)))
        await gate.running(number)
        cache.delete("a")
    for number in range(5):
        gate.answers[number].set_result(number)

    assert list(range(5)) == await outcomes(*tasks)
    await ticks(5)
    assert "a" not in cache


# F6: cycles


def check_deadlock(error: Any, *parts: str) -> None:
    """Check that an error is the one of a cycle, and names `parts`."""
    assert isinstance(error, LoaderDeadlockError)
    for part in parts:
        assert part in str(error)


async def test_f6_a_load_that_waits_for_its_own_key_is_told():
    """A loader that gets its own key has a `LoaderDeadlockError` that names the chain."""
    cache = AsyncCache(name="users")

    async def load() -> Any:
        return await cache.get("alice", load)

    (error,) = await outcomes(cache.get("alice", load))

    check_deadlock(error, "users", "alice")
    assert 0 == len(cache)


async def test_f6_unlike_peers_a_batch_that_waits_for_its_own_key_is_told():
    """`async def many(keys): return [await cache.get(k, batch_loader=many) for k in keys]`."""
    cache = AsyncCache(name="users")

    async def many(keys: list[int]) -> list[Any]:
        return [await cache.get(key, batch_loader=many) for key in keys]

    for error in await outcomes(*(cache.get(key, batch_loader=many) for key in (1, 2))):
        check_deadlock(error, "users")


async def test_f6_get_many_inside_its_own_batch_is_told():
    """A batch function that calls `get_many` for its own keys is told, too."""
    cache = AsyncCache(name="users")

    async def many(keys: list[int]) -> Any:
        return await cache.get_many(keys, many)

    (error,) = await outcomes(cache.get_many([1, 2], many))

    check_deadlock(error, "users")


async def test_f6_a_circle_of_one_root_is_told():
    """A → B → A from one root ends with an error for the load that closes the circle."""
    cache = AsyncCache()
    told: list[Any] = []

    async def load_a() -> Any:
        return await cache.get("b", load_b)

    async def load_b() -> Any:
        try:
            return await cache.get("a", load_a)
        except LoaderDeadlockError as error:
            told.append(error)
            raise

    (error,) = await outcomes(cache.get("a", load_a))

    check_deadlock(error, "'a'", "'b'")
    assert 1 == len(told)


async def test_f6_a_circle_of_two_roots_is_told():
    """A → B → A, where A and B were asked for apart, ends for both callers."""
    cache = AsyncCache()
    both = asyncio.Event()
    started: list[str] = []

    def loader(mine: str, other: str) -> Any:
        async def load() -> Any:
            started.append(mine)
            if len(started) == 2:
                both.set()
            await both.wait()
            return await cache.get(other, loader(other, mine))

        return load

    found = await outcomes(cache.get("a", loader("a", "b")), cache.get("b", loader("b", "a")))

    for error in found:
        check_deadlock(error)
    assert ["a", "b"] == sorted(started)
    assert "value" == await within(cache.get("a", Counted().load))


async def test_f6_a_load_that_takes_the_error_of_a_circle_goes_on():
    """The load that closes a circle may do without; nobody else has an error then."""
    cache = AsyncCache()

    async def load_a() -> Any:
        return "a and " + await cache.get("b", load_b)

    async def load_b() -> Any:
        try:
            return await cache.get("a", load_a)
        except LoaderDeadlockError:
            return "b alone"

    assert ["a and b alone"] == await outcomes(cache.get("a", load_a))
    assert "b alone" == cache.peek("b")


async def test_f6_a_circle_of_three_roots_through_batches_is_told():
    """A circle of three batches that were sent apart is found."""
    cache = AsyncCache()
    started: list[int] = []

    def many_of(number: int) -> Any:
        async def many(keys: list[int]) -> Any:
            started.append(number)
            while len(started) < 3:
                await asyncio.sleep(0)
            other = (number + 1) % 3
            return [await cache.get(other, batch_loader=functions[other])]

        return many

    functions = [many_of(number) for number in range(3)]

    found = await outcomes(
        *(cache.get(number, batch_loader=functions[number]) for number in range(3))
    )

    assert [LoaderDeadlockError] * 3 == [type(error) for error in found]


async def test_f6_a_circle_through_two_caches_is_told():
    """A circle is one also where its loads belong to different caches."""
    # reading: there is one wait-for graph, not one for each cache.
    users = AsyncCache(name="users")
    posts = AsyncCache(name="posts")

    async def load_user() -> Any:
        return await posts.get(1, load_post)

    async def load_post() -> Any:
        return await users.get(1, load_user)

    (error,) = await outcomes(users.get(1, load_user))

    check_deadlock(error, "users", "posts")


async def test_f6_a_circle_through_a_task_that_the_load_waits_for_is_told():
    """A load that waits for its own key in a task of its own is told as well."""
    cache = AsyncCache()

    async def load() -> Any:
        found = await asyncio.gather(
            cache.get("b", Counted().load), asyncio.ensure_future(cache.get("a", load))
        )
        return found[1]

    assert [LoaderDeadlockError] == await kinds(cache.get("a", load))


async def test_f6_a_circle_through_a_joiner_is_told():
    """A second caller of a circle's flight hangs no more than the first."""
    cache = AsyncCache()

    async def load_a() -> Any:
        await ticks(3)
        return await cache.get("b", load_b)

    async def load_b() -> Any:
        await ticks(3)
        return await cache.get("a", load_a)

    found = await kinds(
        *(
            cache.get(key, load)
            for key, load in [("a", load_a), ("b", load_b), ("a", load_a), ("b", load_b)]
        )
    )

    assert [LoaderDeadlockError] * 4 == found


async def test_f6_recursion_over_other_keys_works():
    """A load that needs other keys is no circle, however they meet."""
    cache = AsyncCache(maxsize=None)
    calls: list[int] = []

    def fibonacci(number: int) -> Any:
        async def load() -> int:
            calls.append(number)
            if number < 2:
                return number
            one, two = await asyncio.gather(
                cache.get(number - 1, fibonacci(number - 1)),
                cache.get(number - 2, fibonacci(number - 2)),
            )
            return one + two

        return load

    assert [832_040] == await outcomes(cache.get(30, fibonacci(30)))
    assert list(range(31)) == sorted(calls)


async def test_f6_a_diamond_is_no_circle():
    """A → B and C → D: two ways to one key are not a circle."""
    cache = AsyncCache()
    gate = Gate()

    async def load_a() -> Any:
        return await asyncio.gather(cache.get("b", load_d), cache.get("c", load_d))

    async def load_d() -> Any:
        return await cache.get("d", gate.load)

    task = asyncio.ensure_future(cache.get("a", load_a))
    await gate.running()
    await ticks(5)
    gate.answers[0].set_result("value")

    assert [["value", "value"]] == await outcomes(task)


def test_f6_a_wait_that_was_given_up_makes_no_false_circle():
    """A load that no longer waits for another may be waited for by it."""

    async def main() -> None:
        cache = AsyncCache()

        async def load_a() -> Any:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(cache.get("b", load_b), 1)
            await asyncio.sleep(5)
            return "a"

        async def load_b() -> Any:
            await asyncio.sleep(3)
            return "b after " + await cache.get("a", load_a)

        assert "a" == await cache.get("a", load_a)
        assert "b after a" == await cache.get("b", load_b)

    virtual(main)


async def test_f6_a_task_that_outlives_its_load_may_get_its_key():
    """A background task of a finished load is no part of it any more."""
    cache = AsyncCache()
    tasks: list[asyncio.Task[Any]] = []
    finished = asyncio.Event()

    async def background() -> Any:
        await finished.wait()
        cache.delete("a")
        return await cache.get("a", Counted("second").load)

    async def load() -> Any:
        tasks.append(asyncio.ensure_future(background()))  # type: ignore[arg-type]
        return "first"

    assert ["first"] == await outcomes(cache.get("a", load))
    finished.set()
    assert ["second"] == await outcomes(*tasks)


async def test_f6_a_hit_on_the_loads_own_key_is_a_hit():
    """A refresh whose loader reads the value that is there is no circle."""
    cache = AsyncCache()
    cache.set("count", 1)

    async def load() -> Any:
        return 1 + await cache.get("count", load)

    assert 2 == await within(cache.refresh("count", load))
    assert 2 == cache.peek("count")


async def test_f6_a_load_that_sets_its_own_key_may_get_it():
    """A load whose key was set by itself finds that value."""
    cache = AsyncCache()

    async def load() -> Any:
        cache.set("a", "mine")
        return await cache.get("a", load)

    assert ["mine"] == await outcomes(cache.get("a", load))
    assert "mine" == cache.peek("a")


@pytest.mark.parametrize("options", [{}, {"max_concurrent_loads": 1}])
async def test_f6_a_chain_may_be_long(options: dict[str, Any]):
    """A chain of 1,000 loads that wait for one another is no deep recursion and no circle."""
    cache = AsyncCache(maxsize=None, **options)

    def loader(number: int) -> Any:
        async def load() -> int:
            await asyncio.sleep(0)
            return 1 + await cache.get(number - 1, loader(number - 1)) if number else 0

        return load

    assert 1_000 == await asyncio.wait_for(cache.get(1_000, loader(1_000)), 3 * GUARD)


async def test_f6_a_long_circle_is_told():
    """A circle of 300 loads is found."""
    cache = AsyncCache(maxsize=None)

    def loader(number: int) -> Any:
        async def load() -> Any:
            await asyncio.sleep(0)
            other = (number + 1) % 300
            return await cache.get(other, loader(other))

        return load

    with pytest.raises(LoaderDeadlockError):
        await within(cache.get(0, loader(0)))


async def test_f6_a_circle_through_a_loader_is_told():
    """Cache → `DataLoader` → cache is a circle, from one root and from two."""
    cache = AsyncCache()
    begun = asyncio.Event()

    async def load() -> Any:
        begun.set()
        return await loader.load(1)

    async def load_fn(keys: list[int]) -> list[Any]:
        await begun.wait()
        return [await cache.get("a", load) for _ in keys]

    loader: DataLoader[int, Any] = DataLoader(load_fn)
    assert [LoaderDeadlockError] == await kinds(cache.get("a", load))

    begun.clear()
    assert [LoaderDeadlockError] * 2 == await kinds(loader.load(1), cache.get("a", load))


async def test_f6_a_circle_of_refreshes_is_told():
    """A refresh whose loader refreshes its own key is told."""
    cache = AsyncCache()
    cache.set("a", "old")

    async def load() -> Any:
        return await cache.refresh("a", load)

    assert [LoaderDeadlockError] == await kinds(cache.refresh("a", load))
    assert "old" == cache.peek("a")


# F7: contexts


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


class Witness:
    """A loader that remembers whose request it saw, when called and while it ran."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def load(self) -> Any:
        self.seen.append(tenant.get())
        return self.run()

    async def run(self) -> str:
        self.seen.append(tenant.get())
        await asyncio.sleep(0)
        self.seen.append(tenant.get())
        tenant.set("somebody else")
        return tenant.get()

    def many(self, keys: list[Any]) -> Any:
        self.seen.append(tenant.get())
        return self.run_many(keys)

    async def run_many(self, keys: list[Any]) -> list[Any]:
        return [await self.run() for _ in keys]


LOADS: dict[str, Callable[[AsyncCache, Witness, str], Any]] = {
    "loader": lambda cache, witness, key: cache.get(key, witness.load),
    "batch_loader": lambda cache, witness, key: cache.get(key, batch_loader=witness.many),
    "get_many": lambda cache, witness, key: cache.get_many([key], witness.many),
    "refresh": lambda cache, witness, key: cache.refresh(key, witness.load),
    "warmup": lambda cache, witness, key: cache.warmup({key: witness.load}),
}


@pytest.mark.parametrize("way", LOADS)
async def test_f7_unlike_peers_a_load_sees_nothing_of_its_caller(way: str):
    """No load runs in its caller's context, neither when called nor while it runs."""
    witness = Witness()
    cache = AsyncCache()

    tenant.set("alice")
    await within(LOADS[way](cache, witness, "a"))

    assert ["nobody"] * 3 == witness.seen[:3]
    assert "alice" == tenant.get()


@pytest.mark.parametrize("way", LOADS)
async def test_f7_a_cache_that_was_made_inside_a_request_sees_nothing_of_it(way: str):
    """A cache that is made lazily does not keep the request that made it."""
    tenant.set("alice")
    cache = AsyncCache()
    witness = Witness()

    await within(LOADS[way](cache, witness, "a"))

    assert ["nobody"] * 3 == witness.seen[:3]


@pytest.mark.parametrize("way", LOADS)
async def test_f7_each_flight_has_a_copy_of_the_empty_context(way: str):
    """What one load sets is not seen by the next."""
    cache = AsyncCache()
    witness = Witness()

    await within(LOADS[way](cache, witness, "a"))
    await within(LOADS[way](cache, witness, "b"))

    assert "somebody else" not in witness.seen


@pytest.mark.parametrize("way", LOADS)
async def test_f7_loads_run_in_a_copy_of_the_given_context(way: str):
    """With `context=` loads see that context, and change a copy of it."""
    context = contextvars.copy_context()
    context.run(tenant.set, "service")
    cache = AsyncCache(context=context)
    witness = Witness()

    tenant.set("alice")
    await within(LOADS[way](cache, witness, "a"))
    await within(LOADS[way](cache, witness, "b"))

    assert {"service"} == set(witness.seen)
    assert "service" == context.run(tenant.get)


async def test_f7_a_given_context_that_is_empty_is_used():
    """An empty context, which is false, is a context like any other."""
    cache = AsyncCache(context=contextvars.Context())
    witness = Witness()

    tenant.set("alice")
    await within(cache.get("a", witness.load))

    assert ["nobody"] * 3 == witness.seen


async def test_f7_what_is_set_in_the_given_context_later_is_seen():
    """The copy is made for each flight, not when the cache is made."""
    context = contextvars.copy_context()
    cache = AsyncCache(context=context)
    witness = Witness()
    context.run(tenant.set, "service")

    await within(cache.get("a", witness.load))

    assert ["service"] * 3 == witness.seen


async def test_f7_a_load_of_a_load_sees_nothing_of_either():
    """A load that another one starts runs in an empty context, too."""
    cache = AsyncCache()
    witness = Witness()

    async def load() -> Any:
        tenant.set("outer load")
        return await cache.get("inner", witness.load)

    tenant.set("alice")
    await within(cache.get("outer", load))

    assert ["nobody"] * 3 == witness.seen


def test_f7_a_context_that_is_none_is_an_error():
    """What is not a `contextvars.Context` is a `ConfigurationError`."""
    with pytest.raises(ConfigurationError, match="context") as caught:
        AsyncCache(context="request", name="users")  # type: ignore[arg-type]

    assert "users" in str(caught.value)


# F8: batches


async def test_f8_concurrent_gets_with_one_batch_function_are_one_batch():
    """Keys that are asked for together go to the batch function together, in order, as a list."""
    cache = AsyncCache()
    kinds_seen: list[type] = []
    plan: list[list[int]] = []

    async def many(keys: list[int]) -> list[int]:
        kinds_seen.append(type(keys))
        plan.append(list(keys))
        return [key * 10 for key in keys]

    found = await outcomes(*(cache.get(key, batch_loader=many) for key in (3, 1, 2)))

    assert [30, 10, 20] == found
    assert [[3, 1, 2]] == plan
    assert [list] == kinds_seen


async def test_f8_keys_are_distinct():
    """A key that many ask for is in its batch once."""
    cache = AsyncCache()
    counted = Counted()

    found = await outcomes(*(cache.get(key, batch_loader=counted.many) for key in (1, 2, 1, 1, 2)))

    assert [10, 20, 10, 10, 20] == found
    assert [[1, 2]] == counted.plan


async def test_f8_two_batch_functions_are_two_batches():
    """Keys of different batch functions never meet, and a fresh lambda never shares."""
    cache = AsyncCache()
    one, two = Counted(), Counted()

    found = await outcomes(
        cache.get(1, batch_loader=lambda keys: one.many(keys)),
        cache.get(2, batch_loader=lambda keys: one.many(keys)),
        cache.get(3, batch_loader=two.many),
    )

    assert [10, 20, 30] == found
    assert [[1], [2]] == sorted(one.plan)
    assert [[3]] == two.plan


async def times(plan: list[tuple[float, list[int]]], cache: AsyncCache, starts: dict[int, float]):
    """Get each key at its time, and note when which batch is sent."""
    loop = asyncio.get_running_loop()
    begin = loop.time()

    async def many(keys: list[int]) -> list[int]:
        plan.append((round(loop.time() - begin, 6), list(keys)))
        return keys

    async def get(key: int, start: float) -> Any:
        await asyncio.sleep(start)
        return await cache.get(key, batch_loader=many)

    await asyncio.gather(*(get(key, start) for key, start in starts.items()))


@pytest.mark.parametrize(
    "options, seconds",
    [({}, 0.005), ({"batch_window": 2.0}, 2.0), ({"batch_window_ms": 100}, 0.1)],
)
def test_f8_the_window_counts_from_the_first_key(options: dict[str, Any], seconds: float):
    """A batch leaves when its window ends, however lately its last key came."""

    async def main() -> None:
        cache = AsyncCache(**options)
        plan: list[tuple[float, list[int]]] = []
        shares = {1: 0.0, 2: 0.5, 3: 0.9, 4: 1.5, 5: 2.4, 6: 3.0}
        await times(plan, cache, {key: share * seconds for key, share in shares.items()})
        assert [
            (pytest.approx(seconds), [1, 2, 3]),
            (pytest.approx(2.5 * seconds), [4, 5]),
            (pytest.approx(4 * seconds), [6]),
        ] == plan

    virtual(main)


def test_f8_a_window_of_zero_still_gathers():
    """Without a wait, a batch leaves after its quiet ticks and has all that came at once."""

    async def main() -> None:
        cache = AsyncCache(batch_window=0)
        counted = Counted()
        await outcomes(*(cache.get(key, batch_loader=counted.many) for key in range(5)))
        assert [[0, 1, 2, 3, 4]] == counted.plan
        assert 0.0 == asyncio.get_running_loop().time()

    virtual(main)


class LateLoop(VirtualTimeLoop):
    """A virtual-time loop that a callback can hold up."""

    def __init__(self) -> None:
        self.late = 0.0
        super().__init__()

    def time(self) -> float:
        return super().time() + self.late


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_f8_a_late_loop_does_not_split_a_batch_window(gap: int):
    """A loop that was busy beyond the window leaves siblings four quiet ticks to come in."""
    loop = LateLoop()

    async def main() -> None:
        cache = AsyncCache()
        counted = Counted()
        tasks = [asyncio.ensure_future(cache.get(1, batch_loader=counted.many))]
        await ticks(1)
        loop.late += 0.1
        for key in (2, 3, 4):
            await ticks(gap)
            tasks.append(asyncio.ensure_future(cache.get(key, batch_loader=counted.many)))
        assert [10, 20, 30, 40] == await outcomes(*tasks)
        assert [[1, 2, 3, 4]] == counted.plan

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_f8_a_batch_leaves_four_quiet_ticks_after_its_window():
    """Nobody waits longer than that for siblings which don't come."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache(batch_window=1)
        counted = Counted()
        asking = asyncio.ensure_future(cache.get(1, batch_loader=counted.many))
        await ticks(1)
        await asyncio.sleep(1)
        count = 0
        while not counted.plan:
            await asyncio.sleep(0)
            count += 1
        # The window was over a tick before this woke up, and the batch's task needs one to begin.
        assert (1.0, 4) == (loop.time(), count)
        assert 10 == await asking

    virtual(main)


def test_f8_a_full_batch_leaves_at_once():
    """`max_batch_size` distinct keys don't wait for the window."""

    async def main() -> None:
        cache = AsyncCache(max_batch_size=2, batch_window=5)
        plan: list[tuple[float, list[int]]] = []
        await times(plan, cache, dict.fromkeys(range(5), 0.0))
        assert [(0.0, [0, 1]), (0.0, [2, 3]), (pytest.approx(5.0), [4])] == plan

    virtual(main)


def test_f8_max_batch_size_counts_distinct_keys():
    """Many callers of one key don't fill a batch."""

    async def main() -> None:
        cache = AsyncCache(max_batch_size=2, batch_window=5)
        counted = Counted()
        keys = [1, 1, 1, 1, 2]
        await outcomes(*(cache.get(key, batch_loader=counted.many) for key in keys))
        assert [[1, 2]] == counted.plan

    virtual(main)


async def test_f8_get_many_is_split_by_max_batch_size():
    """A `get_many` of more keys than fit is sent in several batches, and answered whole."""
    cache = AsyncCache(maxsize=None, max_batch_size=100)
    counted = Counted()

    found = await within(cache.get_many(range(250), counted.many))

    assert {key: key * 10 for key in range(250)} == found
    assert [100, 100, 50] == [len(keys) for keys in counted.plan]
    assert list(range(250)) == [key for keys in counted.plan for key in keys]


def test_f8_get_many_is_sent_at_once_with_the_open_batch():
    """`get_many` does not wait for the window, and takes along the keys that do."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache(batch_window=60)
        counted = Counted()
        single = asyncio.ensure_future(cache.get(1, batch_loader=counted.many))
        await ticks(2)
        assert {2: 20, 3: 30} == await cache.get_many([2, 3], counted.many)
        assert [10] == await outcomes(single)
        assert [[1, 2, 3]] == counted.plan
        assert 0.0 == loop.time()

    virtual(main)


async def test_f8_get_many_asks_for_what_is_missing_only():
    """`get_many` gives what is there, joins what is in flight and asks for the rest."""
    cache = AsyncCache()
    gate = Gate()
    counted = Counted()
    cache.set(1, "there")
    flight = asyncio.ensure_future(cache.get(2, gate.load))
    await gate.running()

    many = asyncio.ensure_future(cache.get_many([1, 2, 3, 4], counted.many))
    await until(lambda: counted.plan)
    gate.answers[0].set_result("joined")

    assert {1: "there", 2: "joined", 3: 30, 4: 40} == await within(many)
    assert [[3, 4]] == counted.plan
    await outcomes(flight)


def test_f8_unlike_peers_two_batch_functions_never_wait_for_each_other():
    """Two batch functions of 100 ms take 100 ms together."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache()

        def slow() -> Any:
            async def many(keys: list[int]) -> list[int]:
                await asyncio.sleep(0.1)
                return keys

            return many

        await asyncio.gather(*(cache.get(key, batch_loader=slow()) for key in range(5)))
        assert loop.time() <= 0.11

    virtual(main)


def test_f8_batches_of_one_function_never_wait_for_each_other():
    """Three full batches of 100 ms take 100 ms together."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache(max_batch_size=2)

        async def many(keys: list[int]) -> list[int]:
            await asyncio.sleep(0.1)
            return keys

        await cache.get_many(range(6), many)
        assert loop.time() <= 0.11

    virtual(main)


async def test_f8_unlike_peers_a_batch_function_may_batch():
    """No lock is held while a batch function runs: it may get other keys by itself."""
    cache = AsyncCache()
    plan: list[list[int]] = []

    async def many(keys: list[int]) -> list[int]:
        plan.append(list(keys))
        parents = [key // 2 for key in keys if key > 1]
        await asyncio.gather(*(cache.get(key, batch_loader=many) for key in parents))
        return [key * 10 for key in keys]

    assert [80, 90] == await outcomes(*(cache.get(key, batch_loader=many) for key in (8, 9)))
    assert [[8, 9], [4], [2], [1]] == plan


async def test_f8_a_batch_function_may_call_the_cache():
    """A batch function may set, delete, clear and read without waiting for itself."""
    cache = AsyncCache()

    async def many(keys: list[int]) -> list[int]:
        await cache.set("other", 1)
        await cache.delete("other")
        await cache.invalidate_tag("t")
        await cache.get("absent")
        await cache.clear()
        return keys

    assert [1, 2] == await outcomes(*(cache.get(key, batch_loader=many) for key in (1, 2)))


async def test_f8_unlike_peers_one_caller_cancelled_inside_the_window_breaks_nothing():
    """After a caller left in the window, its batch and all later ones are answered."""
    cache = AsyncCache()
    counted = Counted()
    tasks = [asyncio.ensure_future(cache.get(key, batch_loader=counted.many)) for key in (1, 2, 3)]
    await ticks(2)
    for leaver in (0, 1):
        tasks[leaver].cancel()

    assert [30] == await outcomes(tasks[2])
    assert [40, 50] == await outcomes(
        *(cache.get(key, batch_loader=counted.many) for key in (4, 5))
    )


async def test_f8_all_callers_cancelled_inside_the_window_break_nothing():
    """After all callers left in the window, later ones are answered."""
    cache = AsyncCache()
    counted = Counted()
    tasks = [asyncio.ensure_future(cache.get(key, batch_loader=counted.many)) for key in (1, 2)]
    await ticks(2)
    for task in tasks:
        task.cancel()
    await ticks(2)

    assert [10, 30] == await outcomes(
        *(cache.get(key, batch_loader=counted.many) for key in (1, 3))
    )


async def test_f8_one_batchs_failure_leaves_the_window_working():
    """After a batch failed, the next one is gathered and sent as ever."""
    cache = AsyncCache()
    counted = Counted()
    plan: list[list[int]] = []

    async def many(keys: list[int]) -> Any:
        plan.append(list(keys))
        if len(plan) == 1:
            raise Broken("down")
        return await counted.many(keys)

    assert [Broken, Broken] == await kinds(*(cache.get(key, batch_loader=many) for key in (1, 2)))
    assert [10, 20, 30] == await outcomes(*(cache.get(key, batch_loader=many) for key in (1, 2, 3)))
    assert [[1, 2], [1, 2, 3]] == plan


async def test_f8_one_functions_failure_leaves_another_alone():
    """Two batch functions of one window fail apart."""
    cache = AsyncCache()

    found = await kinds(
        cache.get(1, batch_loader=fail_many), cache.get(2, batch_loader=Counted().many)
    )

    assert [Broken, int] == found


async def test_f8_a_batch_function_that_changes_its_list_hurts_nobody():
    """The list of keys is the batch function's to keep, clear or sort."""
    cache = AsyncCache()

    async def clears(keys: list[int]) -> dict[int, int]:
        found = {key: key * 10 for key in keys}
        keys.clear()
        return found

    async def pops(keys: list[int]) -> list[int]:
        found = [key * 10 for key in keys]
        keys.pop()
        return found

    for many in (clears, pops):
        cache.clear()
        assert [10, 20, 30] == await outcomes(
            *(cache.get(key, batch_loader=many) for key in (1, 2, 3))
        )


@pytest.mark.parametrize(
    "result",
    [None, "ab", b"ab", {10, 20}, (x for x in (10, 20)), 7, [10], [10, 20, 30], object()],
    ids=lambda result: type(result).__name__,
)
async def test_f8_unlike_peers_a_wrong_shape_is_an_error_for_every_key(result: Any):
    """What is neither a sequence of one value per key nor a mapping is a `BatchResultError`."""
    cache = AsyncCache(name="users")

    async def many(keys: list[int]) -> Any:
        return result

    for error in await outcomes(*(cache.get(key, batch_loader=many) for key in (1, 2))):
        assert isinstance(error, BatchResultError)
        assert "users" in str(error)
    assert 0 == len(cache)
    assert [10, 20] == await outcomes(
        *(cache.get(key, batch_loader=Counted().many) for key in (1, 2))
    )


async def test_f8_unlike_peers_a_short_list_is_an_error_that_says_so():
    """A short list is no `None` for the rest: the error has both lengths."""
    cache = AsyncCache(name="users")

    async def many(keys: list[int]) -> list[int]:
        return [10, 20]

    (error,) = await outcomes(cache.get_many([1, 2, 3], many))

    assert isinstance(error, BatchResultError)
    for part in ("users", "2", "3"):
        assert part in str(error)
    assert 0 == len(cache)


async def test_f8_a_tuple_is_a_sequence():
    """Any sequence of the right length will do."""
    cache = AsyncCache()

    async def many(keys: list[int]) -> tuple[int, ...]:
        return tuple(key * 10 for key in keys)

    assert {1: 10, 2: 20} == await within(cache.get_many([1, 2], many))


async def test_f8_a_key_that_a_mapping_lacks_is_none():
    """A key that was not found is `None`, and that is remembered."""
    cache = AsyncCache()
    plan: list[list[int]] = []

    async def many(keys: list[int]) -> dict[int, int]:
        plan.append(list(keys))
        return {1: 10}

    for _ in range(2):
        assert [10, None] == await outcomes(*(cache.get(key, batch_loader=many) for key in (1, 2)))
    assert [[1, 2]] == plan
    assert 2 in cache


async def test_f8_what_was_not_asked_for_is_not_stored():
    """Keys that a mapping has beyond those of its batch are left out."""
    # reading: a batch function answers its keys; what else it brings was not asked for.
    cache = AsyncCache()

    async def many(keys: list[int]) -> dict[int, int]:
        return {1: 10, 2: 20, 99: 990}

    assert {1: 10} == await within(cache.get_many([1], many))
    assert 1 == len(cache)


async def test_f8_a_key_that_is_loaded_again_while_its_batch_fails_is_answered():
    """Whoever comes as a batch fails has either its error or a new load, and does not hang."""
    cache = AsyncCache()
    gate = Gate()
    tasks = [asyncio.ensure_future(cache.get(1, batch_loader=gate.many))]
    await gate.running()
    gate.answers[0].set_exception(Broken("down"))
    counted = Counted()
    for _ in range(5):
        tasks.append(asyncio.ensure_future(cache.get(1, batch_loader=counted.many)))
        await ticks(1)

    found = await outcomes(*tasks)

    assert all(outcome == 10 or isinstance(outcome, Broken) for outcome in found)
    assert 10 == found[-1]


# F9: the number of loads


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_f9_no_more_loads_run_than_allowed(limit: int):
    """`max_concurrent_loads` bounds what runs at the same time, and uses it all."""
    cache = AsyncCache(max_concurrent_loads=limit)

    assert limit == await most_at_once(cache, list(range(12)))
    assert limit == await most_at_once(cache, list(range(12, 24)))


async def test_f9_batches_count_as_loads():
    """A batch takes one slot, however many keys it has."""
    cache = AsyncCache(max_concurrent_loads=1, max_batch_size=2)
    gate = Gate()
    task = asyncio.ensure_future(cache.get_many(range(6), gate.many))
    for number in range(3):
        await gate.running(number + 1)
        await ticks(10)
        assert number + 1 == len(gate.answers)
        gate.answers[number].set_result([0, 0])

    assert dict.fromkeys(range(6), 0) == await within(task)


async def test_f9_a_load_that_a_load_starts_passes():
    """With one slot a load may still load what it needs, five deep."""
    cache = AsyncCache(max_concurrent_loads=1)

    def loader(depth: int) -> Any:
        async def load() -> int:
            return 1 + await cache.get(depth - 1, loader(depth - 1)) if depth else 0

        return load

    assert [5] == await outcomes(cache.get(5, loader(5)))


async def test_f9_batches_that_a_load_starts_pass():
    """With one slot a load may still batch what it needs."""
    cache = AsyncCache(max_concurrent_loads=1)
    counted = Counted()

    async def load() -> Any:
        one = await asyncio.gather(*(cache.get(key, batch_loader=counted.many) for key in (1, 2)))
        return one, await cache.get_many([3], counted.many)

    assert [([10, 20], {3: 30})] == await outcomes(cache.get("a", load))


@pytest.mark.parametrize("way", ["loader", "batch_loader", "get_many"])
async def test_f9_a_nested_load_that_waits_for_one_queued_behind_the_limit(way: str):
    """A load that a running load waits for passes the limit, though somebody else queued it."""
    cache = AsyncCache(max_concurrent_loads=1)
    counted = Counted(10)
    begun, go = asyncio.Event(), asyncio.Event()

    def queued() -> Any:
        match way:
            case "loader":
                return cache.get(1, counted.load)
            case "batch_loader":
                return cache.get(1, batch_loader=counted.many)
            case _:
                return cache.get_many([1], counted.many)

    async def load() -> Any:
        begun.set()
        await go.wait()
        return await cache.get(1, counted.load)

    first = asyncio.ensure_future(cache.get("a", load))
    await begun.wait()
    outsider = asyncio.ensure_future(queued())
    if way == "batch_loader":
        loop = asyncio.get_running_loop()
        window = loop.time() + 0.02
        await until(lambda: loop.time() > window)
    await ticks(10)
    assert (0, []) == (counted.count, counted.plan)
    go.set()

    found = await outcomes(first, outsider)
    assert 10 == found[0]
    assert found[1] in (10, {1: 10})


async def test_f9_an_outsider_that_joins_a_nested_batch_does_not_queue_it():
    """The load that holds the only slot waits for that batch."""
    cache = AsyncCache(max_concurrent_loads=1)
    counted = Counted()

    async def load() -> Any:
        return await cache.get(1, batch_loader=counted.many)

    nested = asyncio.ensure_future(cache.get("a", load))
    await ticks(5)
    outsider = asyncio.ensure_future(cache.get(2, batch_loader=counted.many))

    assert [10, 20] == await outcomes(nested, outsider)
    assert [[1, 2]] == counted.plan


async def test_f9_a_load_that_passes_the_queue_runs_once():
    """It has left the queue, so the next slot that is free is not for it."""
    cache = AsyncCache(max_concurrent_loads=2)
    gates = [Gate(), Gate(), Gate()]

    async def load() -> Any:
        answer = await gates[0].load()
        return answer, await cache.get("b", gates[2].load)

    tasks = [asyncio.ensure_future(cache.get("a", load))]
    tasks += [asyncio.ensure_future(cache.get("c", gates[1].load))]
    await gates[1].running()
    tasks += [asyncio.ensure_future(cache.get("b", gates[2].load))]
    await ticks(3)
    assert [] == gates[2].answers
    gates[0].answers[0].set_result("first")
    await gates[2].running()
    gates[1].answers[0].set_result("other")
    await ticks(5)
    assert 1 == len(gates[2].answers)
    gates[2].answers[0].set_result("passed")

    assert [("first", "passed"), "other", "passed"] == await outcomes(*tasks)
    assert 2 == await most_at_once(cache, [1, 2, 3])


async def test_f9_a_chain_of_queued_loads_passes():
    """What a queued load needs that is queued itself passes, too."""
    cache = AsyncCache(max_concurrent_loads=1)
    begun, go = asyncio.Event(), asyncio.Event()

    async def load_a() -> Any:
        begun.set()
        await go.wait()
        return "a" + await cache.get("b", load_b)

    async def load_b() -> Any:
        return "b" + await cache.get("c", load_c)

    async def load_c() -> Any:
        return "c"

    tasks = [asyncio.ensure_future(cache.get("a", load_a))]
    await begun.wait()
    tasks += [asyncio.ensure_future(cache.get("c", load_c))]
    await ticks(3)
    tasks += [asyncio.ensure_future(cache.get("b", load_b))]
    await ticks(3)
    go.set()

    assert ["abc", "c", "bc"] == await outcomes(*tasks)
    assert 1 == await most_at_once(cache, [1, 2, 3])


async def test_f9_a_queued_load_of_a_nested_task_passes():
    """A load that starts its loads in tasks of its own does not wait for itself."""
    cache = AsyncCache(max_concurrent_loads=1)

    async def load() -> Any:
        tasks = [asyncio.ensure_future(cache.get(key, Counted(key).load)) for key in (1, 2, 3)]
        return await asyncio.gather(*tasks)

    assert [[1, 2, 3]] == await outcomes(cache.get("a", load))


@pytest.mark.parametrize("how", ["value", "error", "cancelled error", "raises when called"])
async def test_f9_however_a_load_ends_its_slot_is_free(how: str):
    """The slot of a load that ended, in whatever way, goes to the next."""
    cache = AsyncCache(max_concurrent_loads=1)

    async def load() -> Any:
        await ticks(2)
        match how:
            case "error":
                raise Broken("down")
            case "cancelled error":
                raise asyncio.CancelledError
        return "value"

    def called() -> Any:
        raise Broken("down")

    for key in range(5):
        await outcomes(cache.get(key, called if how == "raises when called" else load))

    assert 1 == await most_at_once(cache, ["a", "b", "c"])


async def test_f9_a_queued_load_whose_callers_have_gone_leaves_the_slot_usable():
    """Callers that leave the queue take no slot with them."""
    cache = AsyncCache(max_concurrent_loads=1)
    gate = Gate()
    first = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()
    queued = [asyncio.ensure_future(cache.get(key, Counted().load)) for key in range(5)]
    await ticks(3)
    for task in queued:
        task.cancel()
    await ticks(3)
    gate.answers[0].set_result(1)
    await outcomes(first)

    assert 1 == await most_at_once(cache, ["b", "c", "d"])


async def test_f9_a_detached_load_keeps_its_slot_until_it_ends():
    """An invalidation does not let more loads run than allowed."""
    cache = AsyncCache(max_concurrent_loads=1)
    gate = Gate()
    older = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()
    cache.delete("a")
    newer = asyncio.ensure_future(cache.get("a", gate.load))
    await ticks(10)
    assert 1 == len(gate.answers)
    gate.answers[0].set_result("old")
    await gate.running(2)
    gate.answers[1].set_result("new")

    assert ["old", "new"] == await outcomes(older, newer)


async def test_f9_queued_loads_run_in_the_order_of_their_misses():
    """Nobody overtakes in the queue for slots."""
    cache = AsyncCache(max_concurrent_loads=1)
    order: list[int] = []

    def loader(key: int) -> Any:
        async def load() -> int:
            order.append(key)
            await ticks(2)
            return key

        return load

    await outcomes(*(cache.get(key, loader(key)) for key in range(10)))

    assert list(range(10)) == order


async def test_f9_a_task_that_outlives_its_load_takes_a_slot_of_its_own():
    """A background task of a load that ended does not pass the limit any more."""
    cache = AsyncCache(max_concurrent_loads=1)
    gate = Gate()
    tasks: list[asyncio.Task[Any]] = []
    finished = asyncio.Event()

    async def background() -> Any:
        await finished.wait()
        return await cache.get("c", gate.load)

    async def load() -> Any:
        tasks.append(asyncio.ensure_future(background()))  # type: ignore[arg-type]
        return "a"

    await outcomes(cache.get("a", load))
    second = asyncio.ensure_future(cache.get("b", gate.load))
    await gate.running()
    finished.set()
    await ticks(20)
    assert 1 == len(gate.answers)
    gate.answers[0].set_result("b")
    await gate.running(2)
    gate.answers[1].set_result("c")

    assert ["b", "c"] == await outcomes(second, *tasks)


async def test_f9_a_load_that_a_loader_of_a_load_starts_passes():
    """Cache → `DataLoader` → cache over other keys works with one slot."""
    cache = AsyncCache(max_concurrent_loads=1)

    async def load() -> Any:
        return await loader.load(1)

    async def load_fn(keys: list[int]) -> list[Any]:
        return [await cache.get("b", Counted("b").load) for _ in keys]

    loader: DataLoader[int, Any] = DataLoader(load_fn)

    assert ["b"] == await outcomes(cache.get("a", load))


async def test_f9_a_batch_that_a_load_of_a_batch_waits_for_runs_inside_its_slot():
    """`DataLoader` → cache → `DataLoader` works where both loaders share a limiter of one."""
    limiter = asyncio.Semaphore(1)
    cache = AsyncCache()
    inner: DataLoader[int, int] = DataLoader(Counted().many, limiter=limiter)

    async def load() -> Any:
        return await inner.load(7)

    async def load_fn(keys: list[int]) -> list[Any]:
        return [await cache.get("a", load) for _ in keys]

    outer: DataLoader[int, Any] = DataLoader(load_fn, limiter=limiter)

    assert [70] == await outcomes(outer.load(1))
    await ticks(5)
    assert not limiter.locked()


async def test_f9_background_refreshes_keep_the_limit():
    """Refreshes count as loads."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, refresh_ahead=0.5, max_concurrent_loads=2, clock=clock)
    gate = Gate()
    for key in range(6):
        cache.set(key, "old")
    clock.advance(5)
    for key in range(6):
        await cache.get(key, gate.load)
    for number in range(6):
        await gate.running(number + 1)
        await ticks(5)
        assert len(gate.answers) <= number + 2
        gate.answers[number].set_result("new")

    await until(lambda: ["new"] * 6 == [cache.peek(key) for key in range(6)])


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2", True])
def test_f9_a_limit_that_can_not_be_is_an_error(limit: Any):
    """A limit that is no number of loads is a `ConfigurationError`."""
    with pytest.raises(ConfigurationError) as caught:
        AsyncCache(max_concurrent_loads=limit, name="users")

    assert isinstance(caught.value, DataLoaderCacheError)
    assert "users" in str(caught.value)
    assert "max_concurrent_loads" in str(caught.value)


def test_f9_load_timeouts_of_a_full_queue_settle_everybody():
    """Fifty loads behind a slot that never frees itself are all told in time."""

    async def main() -> None:
        cache = AsyncCache(max_concurrent_loads=1, load_timeout=5, clock=ManualClock())
        gate = Gate()
        found = await outcomes(*(cache.get(key, gate.load) for key in range(50)))
        assert {LoadTimeoutError} == {type(error) for error in found}
        assert asyncio.get_running_loop().time() <= 5.01
        assert 1 == await most_at_once(cache, ["a", "b", "c"])

    virtual(main)
