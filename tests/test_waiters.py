"""Who waits, who leaves, and that nobody hangs: rules W1 to W6."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import re
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from dataloader_cache import DataLoader
from dataloader_cache.errors import (
    LoadCancelledError,
    LoaderClosedError,
    LoaderDeadlockError,
    LoadTimeoutError,
    LoopError,
)
from dataloader_cache.testing import run_virtual

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever


async def ticks(count: int) -> None:
    """Let `count` turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(awaitable: Any) -> Any:
    """Wait for `awaitable`, but not for ever."""
    return await asyncio.wait_for(awaitable, GUARD)


async def until(condition: Callable[[], Any], limit: int = 500) -> int:
    """Count the ticks until `condition` holds."""
    for count in range(limit):
        if condition():
            return count
        await asyncio.sleep(0)
    pytest.fail(f"not reached within {limit} ticks")


async def outcomes(*futures: Any) -> list[Any]:
    """Wait for every future and give each one's value or error."""
    await asyncio.wait([asyncio.ensure_future(future) for future in futures], timeout=GUARD)
    assert all(future.done() for future in futures), "a waiter hangs"
    assert not any(future.cancelled() for future in futures), "a waiter was cancelled"
    return [future.exception() or future.result() for future in futures]


async def kinds(*futures: Any) -> list[type]:
    """Wait for every future and give the type of each one's value or error."""
    return [type(outcome) for outcome in await outcomes(*futures)]


def recording(plan: list[list[Any]], **options: Any) -> DataLoader[Any, Any]:
    """Make a loader that adds each batch to `plan` and answers a key with ten times itself."""

    async def load_fn(keys: list[Any]) -> list[Any]:
        plan.append(list(keys))
        return [key * 10 for key in keys]

    return DataLoader(load_fn, **options)


class Gate:
    """A batch function whose every call waits until the test answers it."""

    def __init__(self) -> None:
        self.plan: list[list[Any]] = []
        self.answers: list[asyncio.Future[Any]] = []
        self.cancelled = 0

    async def load_fn(self, keys: list[Any]) -> Any:
        self.plan.append(list(keys))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def running(self, count: int = 1) -> None:
        """Wait until `count` calls have been made."""
        await until(lambda: len(self.answers) >= count)


class Stubborn:
    """A batch function that swallows its cancellation until the test lets it end."""

    def __init__(self) -> None:
        self.plan: list[list[Any]] = []
        self.swallowed = 0
        self.release = asyncio.Event()
        self.ended = 0

    async def load_fn(self, keys: list[Any]) -> list[Any]:
        self.plan.append(list(keys))
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.swallowed += 1
                if self.swallowed == 5:  # a test that failed must still be able to end
                    raise
        self.ended += 1
        return ["stale" for _ in keys]

    async def running(self) -> None:
        """Wait until the batch function has been called."""
        await until(lambda: self.plan)


# W1: every caller has its own future


async def test_w1_pending_callers_hold_different_futures():
    """No two pending loads of one key share a future."""
    loader = recording([])

    futures = [loader.load(1) for _ in range(3)]

    assert 3 == len({id(future) for future in futures})
    assert all(isinstance(future, asyncio.Future) for future in futures)
    assert [10, 10, 10] == await outcomes(*futures)


@pytest.mark.parametrize("first", [0, 1, 2])
async def test_w1_cancelling_one_caller_before_dispatch_touches_no_other(first: int):
    """A caller that leaves an open batch leaves the others of its key their value."""
    plan: list[list[int]] = []
    loader = recording(plan)
    futures = [loader.load(1) for _ in range(3)]

    futures.pop(first).cancel()

    assert [10, 10] == await outcomes(*futures)
    assert [[1]] == plan


@pytest.mark.parametrize("first", [0, 1, 2])
async def test_w1_cancelling_one_caller_of_a_running_batch_touches_no_other(first: int):
    """A caller that leaves a running batch leaves the others of its key their value."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    futures = [loader.load(1) for _ in range(3)]
    await gate.running()

    futures.pop(first).cancel()
    await ticks(3)
    gate.answers[0].set_result([10])

    assert [10, 10] == await outcomes(*futures)
    assert 0 == gate.cancelled


async def test_w1_a_joiner_of_a_running_batch_has_its_own_future():
    """A caller that joins a running batch may leave without touching the first."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    first = loader.load(1)
    await gate.running()
    joiner = loader.load(1)
    last = loader.load(1)

    joiner.cancel()
    await ticks(2)
    gate.answers[0].set_result([10])

    assert [10, 10] == await outcomes(first, last)
    assert [[1]] == gate.plan


def test_w1_a_caller_that_times_out_touches_no_other():
    """When one of two callers of a key times out, the other has its value."""

    async def load_fn(keys: list[int]) -> list[int]:
        await asyncio.sleep(5)
        return [key * 10 for key in keys]

    loader = DataLoader(load_fn)

    async def main() -> list[Any]:
        return await asyncio.gather(
            asyncio.wait_for(loader.load(1), 1), loader.load(1), return_exceptions=True
        )

    impatient, patient = run_virtual(main)
    assert isinstance(impatient, asyncio.TimeoutError)
    assert 10 == patient


def test_w1_a_key_whose_caller_timed_out_is_not_poisoned():
    """A key that one caller gave up is loaded for the next."""

    async def load_fn(keys: list[int]) -> list[int]:
        await asyncio.sleep(5)
        return [key * 10 for key in keys]

    loader = DataLoader(load_fn)

    async def main() -> int:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loader.load(1), 1)
        return await loader.load(1)

    assert 10 == run_virtual(main)


async def test_w1_cancelling_the_task_of_one_caller_touches_no_other():
    """A cancelled task takes only its own wait with it."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)

    async def call() -> Any:
        return await loader.load(1)

    tasks = [asyncio.create_task(call()) for _ in range(2)]
    await gate.running()
    tasks[0].cancel()
    await ticks(3)
    gate.answers[0].set_result([10])

    assert 10 == await within(tasks[1])
    assert tasks[0].cancelled()


async def test_w1_load_and_load_many_of_one_key_do_not_share_a_fate():
    """Cancelling a `load_many` leaves a `load` of the same key alone, and the other way round."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    many = [asyncio.ensure_future(loader.load_many([1, 2])) for _ in range(2)]
    ones = [loader.load(1), loader.load(1)]
    await gate.running()

    many[0].cancel()
    ones[0].cancel()
    await ticks(3)
    gate.answers[0].set_result([10, 20])

    assert [[10, 20], 10] == await outcomes(many[1], ones[1])


async def test_w1_a_caller_that_leaves_as_the_batch_ends_touches_no_other():
    """Cancelling in the tick in which the batch function returns spoils nobody's value."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    futures = [loader.load(1), loader.load(1), loader.load(2)]
    await gate.running()

    gate.answers[0].set_result([10, 20])
    futures[0].cancel()

    assert [10, 20] == await outcomes(*futures[1:])


async def test_w1_a_waiter_that_someone_else_settled_spoils_nothing():
    """A batch gives everyone else their values when a caller has set its future itself."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    futures = [loader.load(1), loader.load(1), loader.load(2)]
    await gate.running()

    futures[0].set_result("mine")
    gate.answers[0].set_result([10, 20])

    assert ["mine", 10, 20] == await outcomes(*futures)


# W2: what nobody wants


async def test_w2_a_key_whose_caller_left_before_dispatch_is_not_asked_for():
    """A batch leaves without the keys that nobody waits for any more."""
    plan: list[list[int]] = []
    loader = recording(plan)
    futures = [loader.load(key) for key in (1, 2, 3)]

    futures.pop(1).cancel()

    assert [10, 30] == await outcomes(*futures)
    assert [[1, 3]] == plan


async def test_w2_a_key_with_one_caller_left_is_asked_for():
    """A key is asked for as long as one of its callers is left."""
    plan: list[list[int]] = []
    loader = recording(plan)
    futures = [loader.load(1) for _ in range(5)]

    for future in futures[:4]:
        future.cancel()

    assert [10] == await outcomes(futures[4])
    assert [[1]] == plan


async def test_w2_a_batch_with_no_key_left_is_not_sent():
    """When all callers of an open batch leave, the batch function is not called."""
    plan: list[list[int]] = []
    loader = recording(plan)
    futures = [loader.load(key) for key in (1, 2, 1)]

    for future in futures:
        future.cancel()
    await ticks(40)

    assert [] == plan


async def test_w2_a_load_many_that_is_cancelled_before_dispatch_is_not_asked_for():
    """The keys of a cancelled `load_many` leave the open batch, unless others want them."""
    plan: list[list[int]] = []
    loader = recording(plan)
    many = asyncio.ensure_future(loader.load_many([1, 2, 3]))
    one = loader.load(2)

    many.cancel()

    assert [20] == await outcomes(one)
    assert [[2]] == plan


async def test_w2_a_key_that_is_cancelled_and_loaded_again_in_one_tick_is_loaded():
    """A key that is given up and wanted again in the same tick is asked for once."""
    plan: list[list[int]] = []
    loader = recording(plan)

    loader.load(1).cancel()
    future = loader.load(1)

    assert [10] == await outcomes(future)
    assert [[1]] == plan


async def test_w2_a_key_of_many_that_is_cancelled_and_loaded_again_is_loaded():
    """The other keys of the batch stay in it when one is given up and wanted again."""
    plan: list[list[int]] = []
    loader = recording(plan)
    futures = [loader.load(key) for key in (1, 2, 3)]

    futures[1].cancel()
    futures[1] = loader.load(2)

    assert [10, 20, 30] == await outcomes(*futures)
    assert [[1, 2, 3]] == [sorted(keys) for keys in plan]


@pytest.mark.parametrize("pause", range(1, 14))
async def test_w2_a_key_that_is_cancelled_and_loaded_again_later_is_loaded(pause: int):
    """A key that is given up and wanted again some ticks later has its value."""
    loader = recording([])
    other = loader.load(2)

    loader.load(1).cancel()
    await ticks(pause)
    future = loader.load(1)

    assert [20, 10] == await outcomes(other, future)


async def test_w2_a_running_batch_without_waiters_is_cancelled():
    """When the last caller of a running batch leaves, its batch function is cancelled."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    futures = [loader.load(1), loader.load(1), loader.load(2)]
    await gate.running()

    for count, future in enumerate(futures):
        assert 0 == gate.cancelled, f"cancelled after {count} of 3 callers left"
        future.cancel()
        await ticks(3)

    assert 1 == gate.cancelled


async def test_w2_a_running_batch_of_a_cancelled_load_many_is_cancelled():
    """When a `load_many` is cancelled, the running batch that only it wants is cancelled."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, max_batch_size=2)
    many = asyncio.ensure_future(loader.load_many([1, 2, 3]))
    one = loader.load(3)
    await gate.running(2)

    many.cancel()
    await until(lambda: gate.cancelled)
    await ticks(3)
    gate.answers[1].set_result([30])

    assert [30] == await outcomes(one)
    assert 1 == gate.cancelled


async def test_w2_a_late_joiner_keeps_a_half_deserted_batch():
    """A caller that joins a running batch keeps it when all its first callers leave."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    first, second = loader.load(1), loader.load(2)
    await gate.running()

    first.cancel()
    await ticks(3)
    joiner = loader.load(1)
    second.cancel()
    await ticks(10)
    assert 0 == gate.cancelled
    gate.answers[0].set_result([10, 20])

    assert [10] == await outcomes(joiner)
    assert [[1, 2]] == gate.plan


async def test_w2_a_late_joiner_of_the_other_key_keeps_a_half_deserted_batch():
    """A caller that joins the key that still has a caller keeps the batch as well."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    first, second = loader.load(1), loader.load(2)
    await gate.running()

    second.cancel()
    await ticks(3)
    joiner = loader.load(1)
    first.cancel()
    await ticks(10)
    assert 0 == gate.cancelled
    gate.answers[0].set_result([10, 20])

    assert [10] == await outcomes(joiner)


async def test_w2_a_late_joiner_that_leaves_too_deserts_the_batch():
    """A batch that a late joiner kept is cancelled when the joiner leaves."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    first, second = loader.load(1), loader.load(2)
    await gate.running()
    first.cancel()
    await ticks(3)
    joiner = loader.load(1)
    second.cancel()
    await ticks(3)

    joiner.cancel()
    await until(lambda: gate.cancelled)

    assert [[1, 2]] == gate.plan


async def test_w2_a_load_many_that_joins_keeps_a_half_deserted_batch():
    """A `load_many` that joins a running batch keeps it too."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    first, second = loader.load(1), loader.load(2)
    await gate.running()
    first.cancel()
    await ticks(3)
    joiner = asyncio.ensure_future(loader.load_many([2, 1]))
    second.cancel()
    await ticks(10)
    gate.answers[0].set_result([10, 20])

    assert [[20, 10]] == await outcomes(joiner)


@pytest.mark.parametrize("pause", range(4))
async def test_w2_a_load_beside_the_desertion_of_its_key_has_its_value(pause: int):
    """A load right after the last caller left is served, by the old batch or by a new one."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    first = loader.load(1)
    await gate.running()

    first.cancel()
    await ticks(pause)
    future = loader.load(1)
    await ticks(40)
    for answer in gate.answers:
        if not answer.done():
            answer.set_result([10])

    assert [10] == await outcomes(future)


async def test_w2_a_key_of_a_deserted_batch_is_asked_again():
    """After a running batch was cancelled for want of waiters its keys are loaded anew."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    loader_future = loader.load(1)
    await gate.running()
    loader_future.cancel()
    await until(lambda: gate.cancelled)
    await ticks(3)

    future = loader.load(1)
    await gate.running(2)
    gate.answers[1].set_result([10])

    assert [10] == await outcomes(future)
    assert [[1], [1]] == gate.plan


async def test_w2_what_a_deserted_batch_still_brings_is_not_stored():
    """A batch function that swallows its cancellation stores nothing."""
    stubborn = Stubborn()
    loader = DataLoader(stubborn.load_fn)
    future = loader.load(1)
    await stubborn.running()
    future.cancel()
    await until(lambda: stubborn.swallowed)
    stubborn.release.set()
    await until(lambda: stubborn.ended)
    await ticks(5)

    assert "absent" == loader.peek(1, "absent")


async def test_w2_a_load_beside_a_batch_that_swallowed_its_cancellation_is_a_new_one():
    """A deserted batch is not joined, however long it goes on."""
    stubborn = Stubborn()
    plan: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[Any]:
        plan.append(list(keys))
        if len(plan) == 1:
            return await stubborn.load_fn(keys)
        return ["fresh" for _ in keys]

    loader = DataLoader(load_fn)
    future = loader.load(1)
    await stubborn.running()
    future.cancel()
    await until(lambda: stubborn.swallowed)

    assert ["fresh"] == await outcomes(loader.load(1))
    stubborn.release.set()
    await until(lambda: stubborn.ended)
    await ticks(5)
    assert "fresh" == loader.peek(1)
    assert [[1], [1]] == plan


async def test_w2_deserting_a_batch_deserts_the_batches_that_it_waits_for():
    """A cancelled batch function leaves what it waited for, which is cancelled in turn."""
    gate = Gate()
    inner = DataLoader(gate.load_fn)

    async def load_fn(keys: list[int]) -> Any:
        return await inner.load_many(keys)

    future = DataLoader(load_fn).load(1)
    await gate.running()
    future.cancel()
    await until(lambda: gate.cancelled)

    assert [[1]] == gate.plan


async def test_w2_dispatch_of_a_batch_that_nobody_wants_sends_nothing():
    """`dispatch()` right after the last caller left sends no batch."""
    plan: list[list[int]] = []
    loader = recording(plan)

    loader.load(1).cancel()
    loader.dispatch()
    await ticks(20)

    assert [] == plan


COUNT = 8_000
# Where leaving costs O(n) this takes seconds; it is linear and takes a fraction of one.
SECONDS = 2.0


def in_order(order: str, futures: list[Any]) -> list[Any]:
    """Put the futures in the order in which they leave."""
    if order == "lifo":
        return futures[::-1]
    if order == "random":
        return random.Random(2).sample(futures, len(futures))
    return futures


@pytest.mark.loop_kinds("asyncio", "uvloop")
@pytest.mark.parametrize("order", ["fifo", "lifo", "random"])
@pytest.mark.parametrize("same", [True, False], ids=["one-key", "many-keys"])
async def test_w2_many_callers_of_a_running_batch_may_leave_one_per_tick(order: str, same: bool):
    """8,000 callers of one key, or of one batch, leave in linear time, in any order."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    futures = [loader.load(0 if same else key) for key in range(COUNT)]
    await gate.running()

    start = time.process_time()
    for future in in_order(order, futures):
        assert 0 == gate.cancelled
        future.cancel()
        await asyncio.sleep(0)
    await until(lambda: gate.cancelled)

    assert time.process_time() - start < SECONDS
    assert 1 == gate.cancelled


@pytest.mark.loop_kinds("asyncio", "uvloop")
@pytest.mark.parametrize("order", ["fifo", "lifo", "random"])
@pytest.mark.parametrize("same", [True, False], ids=["one-key", "many-keys"])
async def test_w2_many_callers_of_an_open_batch_may_leave_at_once(order: str, same: bool):
    """8,000 callers leave an open batch in one tick, in linear time, in any order."""
    plan: list[list[int]] = []
    loader = recording(plan)
    stays = loader.load(-1)
    futures = [loader.load(0 if same else key) for key in range(COUNT)]

    start = time.process_time()
    for future in in_order(order, futures):
        future.cancel()
    value = await within(stays)

    assert time.process_time() - start < SECONDS
    assert -10 == value
    assert [[-1]] == plan


@pytest.mark.parametrize("order", ["fifo", "lifo", "random"])
@pytest.mark.parametrize("same", [True, False], ids=["one-key", "many-keys"])
def test_w2_many_callers_of_an_open_batch_may_leave_one_per_tick(order: str, same: bool):
    """8,000 callers leave an open batch one per tick, in linear time, in any order."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=60.0)

    async def main() -> float:
        stays = loader.load(-1)
        futures = [loader.load(0 if same else key) for key in range(COUNT)]
        start = time.process_time()
        for future in in_order(order, futures):
            future.cancel()
            await asyncio.sleep(0)
        assert -10 == await stays
        return time.process_time() - start

    assert run_virtual(main) < SECONDS
    assert [[-1]] == plan


async def test_w2_the_last_of_many_callers_keeps_the_batch():
    """A batch runs on for one caller out of a thousand, whichever it is."""
    rng = random.Random(3)
    for _ in range(5):
        gate = Gate()
        loader = DataLoader(gate.load_fn)
        futures = [loader.load(key % 10) for key in range(1_000)]
        await gate.running()
        last = rng.randrange(1_000)
        for index in rng.sample(range(1_000), 1_000):
            if index != last:
                futures[index].cancel()
        await ticks(5)
        assert 0 == gate.cancelled
        gate.answers[0].set_result(list(range(10)))

        assert [last % 10] == await outcomes(futures[last])


# W3: nobody ever hangs


class Own(BaseException):
    """A base exception of a user's own."""


def raising(error: BaseException) -> Callable[[list[Any]], Any]:
    async def load_fn(keys: list[Any]) -> Any:
        await asyncio.sleep(0)
        raise error

    return load_fn


def raising_when_called(error: BaseException) -> Callable[[list[Any]], Any]:
    def load_fn(keys: list[Any]) -> Any:
        raise error

    return load_fn


def returning(result: Any) -> Callable[[list[Any]], Any]:
    async def load_fn(keys: list[Any]) -> Any:
        return result

    return load_fn


async def clearing(keys: list[Any]) -> Any:
    keys.clear()
    return keys


async def cancelling_itself(keys: list[Any]) -> Any:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
    return keys


def closing(keys: list[Any]) -> Any:
    async def load_fn() -> Any:
        return keys

    coroutine = load_fn()
    coroutine.close()
    return coroutine


@pytest.mark.parametrize(
    "load_fn",
    [
        pytest.param(raising(ValueError("x")), id="raises"),
        pytest.param(raising(asyncio.CancelledError()), id="raises-CancelledError"),
        pytest.param(raising(GeneratorExit()), id="raises-GeneratorExit"),
        pytest.param(raising(Own()), id="raises-BaseException"),
        pytest.param(raising(asyncio.InvalidStateError()), id="raises-InvalidStateError"),
        pytest.param(raising_when_called(ValueError("x")), id="raises-when-called"),
        pytest.param(raising_when_called(asyncio.CancelledError()), id="cancelled-when-called"),
        pytest.param(raising_when_called(StopIteration()), id="StopIteration-when-called"),
        pytest.param(raising_when_called(GeneratorExit()), id="GeneratorExit-when-called"),
        pytest.param(raising_when_called(Own()), id="BaseException-when-called"),
        pytest.param(lambda keys: keys, id="not-awaitable"),
        pytest.param(lambda keys: None, id="not-awaitable-None"),
        pytest.param(lambda: None, id="wrong-signature"),
        pytest.param(closing, id="closed-coroutine"),
        pytest.param(clearing, id="clears-its-keys"),
        pytest.param(cancelling_itself, id="cancels-its-own-task"),
        pytest.param(returning(None), id="None"),
        pytest.param(returning("ab"), id="str"),
        pytest.param(returning([]), id="short"),
        pytest.param(returning([1, 2, 3]), id="long"),
        pytest.param(returning([StopIteration(), 2]), id="StopIteration-value"),
        pytest.param(returning([asyncio.CancelledError(), 2]), id="CancelledError-value"),
        pytest.param(returning([KeyboardInterrupt(), 2]), id="KeyboardInterrupt-value"),
        pytest.param(returning([GeneratorExit(), 2]), id="GeneratorExit-value"),
    ],
)
@pytest.mark.parametrize("size", [None, 1])
async def test_w3_whatever_way_a_batch_ends_every_waiter_is_settled(
    load_fn: Callable[[list[Any]], Any], size: int | None
):
    """Each strange end of a batch function settles `load`, `load_many` and hits alike."""
    loader: DataLoader[Any, Any] = DataLoader(load_fn, size).prime(0, 0)

    many = asyncio.ensure_future(loader.load_many([1, 2]))
    collected = asyncio.ensure_future(loader.load_many([2, 1], return_exceptions=True))
    futures = [loader.load(1), loader.load(2), loader.load(0)]

    await asyncio.wait([*futures, many, collected], timeout=GUARD)
    assert [True] * 5 == [future.done() for future in [*futures, many, collected]]
    assert [False] * 5 == [future.cancelled() for future in [*futures, many, collected]]
    assert 0 == futures[2].result()
    assert collected.exception() is None
    for future in (*futures, many):
        future.exception()


async def test_w3_a_batch_task_that_is_cancelled_before_it_begins_settles_its_waiters():
    """Someone who cancels every task of the loop, also one not yet begun, hangs nobody."""
    loader = recording([])
    mine = asyncio.all_tasks()

    futures = [loader.load(1), loader.load(2)]
    for _ in range(40):
        for task in asyncio.all_tasks() - mine:
            task.cancel()
        await asyncio.sleep(0)

    assert [True, True] == [future.done() for future in futures]
    for outcome in await outcomes(*futures):
        assert outcome in (10, 20) or isinstance(outcome, LoadCancelledError)


async def test_w3_a_batch_task_that_is_cancelled_from_outside_settles_its_waiters():
    """Someone who cancels a running batch's task gives its waiters a `LoadCancelledError`."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    mine = asyncio.all_tasks()
    futures = [loader.load(1), loader.load(2)]
    await gate.running()

    for task in asyncio.all_tasks() - mine:
        task.cancel()

    assert [LoadCancelledError] * 2 == await kinds(*futures)


async def test_w3_a_loader_that_nobody_holds_finishes_its_open_batch():
    """Dropping a loader and collecting garbage before dispatch hangs nobody."""
    plan: list[list[int]] = []
    loader = recording(plan)
    futures = [loader.load(1), loader.load(2)]

    del loader
    gc.collect()

    assert [10, 20] == await outcomes(*futures)
    assert [[1, 2]] == plan


async def test_w3_a_loader_that_nobody_holds_finishes_its_running_batch():
    """Garbage collection while a batch runs takes nothing that the batch needs."""
    gate_of: list[weakref.ref[asyncio.Future[Any]]] = []

    def start() -> list[asyncio.Future[Any]]:
        async def load_fn(keys: list[int]) -> Any:
            # Only the frame of this coroutine holds the future that it waits for.
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            gate_of.append(weakref.ref(answer))
            return await answer

        loader = DataLoader(load_fn)
        return [loader.load(1), loader.load(2)]

    futures = start()
    await until(lambda: gate_of)
    await ticks(3)
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0)
    answer = gate_of[0]()
    assert answer is not None, "the batch was collected while it ran"
    answer.set_result([10, 20])

    assert [10, 20] == await outcomes(*futures)


async def test_w3_a_batch_that_nobody_holds_and_nobody_awaits_by_name_finishes():
    """A task that awaits a load of a dropped loader is woken, after any collection."""
    release = asyncio.Event()

    async def load_fn(keys: list[int]) -> list[int]:
        await release.wait()
        return keys

    async def call() -> int:
        return await DataLoader(load_fn).load(1)

    task = asyncio.create_task(call())
    for _ in range(4):
        await ticks(5)
        gc.collect()
    release.set()

    assert 1 == await within(task)


async def test_w3_an_idle_loader_is_collected():
    """Nothing holds a loader whose batches are over, not even its loop's pump."""

    async def use() -> weakref.ref[Any]:
        loader = recording([])
        await loader.load(1)
        await loader.load_many([2, 3])
        return weakref.ref(loader)

    loader = await within(use())
    await ticks(15)
    gc.collect()

    assert loader() is None


def test_w3_load_timeout_settles_the_waiters():
    """A batch that takes longer than `load_timeout` is a `LoadTimeoutError` for every key."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, load_timeout=1.5, name="users")

    async def main() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        many = asyncio.ensure_future(loader.load_many([1, 2]))
        for error in await outcomes(loader.load(1), loader.load(1), many):
            assert isinstance(error, LoadTimeoutError)
            assert isinstance(error, TimeoutError)
            assert "users" in str(error)
            assert "1.5" in str(error)
        return loop.time() - start

    assert pytest.approx(1.5, abs=0.01) == run_virtual(main)


def test_w3_load_timeout_cancels_the_batch_function():
    """A batch function that ran out of time is cancelled, once its waiters are settled."""
    seen: list[bool] = []
    futures: list[asyncio.Future[Any]] = []

    async def load_fn(keys: list[int]) -> Any:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            seen.extend(future.done() for future in futures)
            raise

    loader: DataLoader[int, int] = DataLoader(load_fn, load_timeout=1.0)

    async def main() -> None:
        futures.extend([loader.load(1), loader.load(2)])
        await outcomes(*futures)
        await ticks(3)

    run_virtual(main)
    assert [True, True] == seen


def test_w3_load_timeout_counts_from_dispatch():
    """The time that a batch was open does not count."""

    async def load_fn(keys: list[int]) -> list[int]:
        await asyncio.sleep(0.8)
        return keys

    loader = DataLoader(load_fn, load_timeout=1.0, batch_window=5.0)

    async def main() -> int:
        return await loader.load(1)

    assert 1 == run_virtual(main)


def test_w3_load_timeout_includes_waiting_for_a_limiter():
    """A batch that gets no slot in time is a `LoadTimeoutError` and is never asked for."""
    plan: list[list[int]] = []

    async def main() -> tuple[float, bool]:
        limiter = asyncio.Semaphore(1)
        loader = recording(plan, limiter=limiter, load_timeout=1.0)
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with limiter:
            with pytest.raises(LoadTimeoutError):
                await loader.load(1)
            waited = loop.time() - start
        await ticks(5)
        assert [] == plan
        assert 20 == await loader.load(2)
        await ticks(5)
        return waited, limiter.locked()

    waited, locked = run_virtual(main)
    assert pytest.approx(1.0, abs=0.01) == waited
    assert not locked
    assert [[2]] == plan


def test_w3_load_timeout_includes_waiting_for_max_concurrent_batches():
    """A batch that queues behind its own loader's batches runs out of time there."""

    async def load_fn(keys: list[int]) -> list[int]:
        await asyncio.sleep(0.8)
        return keys

    loader = DataLoader(load_fn, max_batch_size=1, max_concurrent_batches=1, load_timeout=1.0)

    async def main() -> list[type]:
        return await kinds(loader.load(1), loader.load(2), loader.load(3))

    assert [int, LoadTimeoutError, LoadTimeoutError] == run_virtual(main)


def test_w3_a_batch_function_that_swallows_its_timeout_delays_nobody():
    """`load_timeout` settles the waiters on time although the batch function goes on."""

    async def main() -> float:
        stubborn = Stubborn()
        loader = DataLoader(stubborn.load_fn, load_timeout=1.0)
        loop = asyncio.get_running_loop()
        start = loop.time()
        with pytest.raises(LoadTimeoutError):
            await loader.load(1)
        waited = loop.time() - start
        await ticks(5)
        stubborn.release.set()
        await until(lambda: stubborn.ended)
        await ticks(5)
        assert "absent" == loader.peek(1, "absent")
        return waited

    assert pytest.approx(1.0, abs=0.01) == run_virtual(main)


def test_w3_after_a_timeout_the_key_is_asked_again():
    """A timeout is not remembered, and the late value does not disturb the new load."""
    delays = iter([5.0, 0.5])
    plan: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[str]:
        plan.append(list(keys))
        number = len(plan)
        end = asyncio.get_running_loop().time() + next(delays)
        while (left := end - asyncio.get_running_loop().time()) > 1e-6:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(left)
        return [f"batch {number}" for _ in keys]

    loader = DataLoader(load_fn, load_timeout=1.0, cache_errors=True)

    async def main() -> None:
        with pytest.raises(LoadTimeoutError):
            await loader.load(1)
        assert "batch 2" == await loader.load(1)
        await asyncio.sleep(10)
        assert "batch 2" == await loader.load(1)

    run_virtual(main)
    assert [[1], [1]] == plan


def test_w3_a_batch_that_is_in_time_has_no_timeout():
    """`load_timeout` changes nothing for a batch that ends in time."""

    async def load_fn(keys: list[int]) -> list[int]:
        await asyncio.sleep(0.9)
        return keys

    loader = DataLoader(load_fn, load_timeout=1.0)

    async def main() -> None:
        assert 1 == await loader.load(1)
        await asyncio.sleep(10)
        assert 1 == await loader.load(1)
        assert 2 == await loader.load(2)

    run_virtual(main)


async def test_w3_aclose_settles_the_waiters_of_an_open_batch():
    """Closing a loader gives those who wait for its open batch a `LoadCancelledError`."""
    # reading: what O3 says of a scope holds for `aclose`: LoadCancelledError for its waiters.
    plan: list[list[int]] = []
    loader = recording(plan, name="users")
    futures = [loader.load(1), loader.load(1), loader.load(2)]
    many = asyncio.ensure_future(loader.load_many([2, 3]))

    await within(loader.aclose())

    for error in await outcomes(*futures, many):
        assert isinstance(error, LoadCancelledError)
        assert "users" in str(error)
    await ticks(20)
    assert [] == plan


async def test_w3_aclose_settles_the_waiters_of_a_running_batch():
    """Closing a loader cancels its running batches and settles their waiters."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, max_batch_size=2)
    futures = [loader.load(key) for key in range(4)]
    await gate.running(2)

    await within(loader.aclose())

    assert [LoadCancelledError] * 4 == await kinds(*futures)
    await ticks(3)
    assert 2 == gate.cancelled


async def test_w3_aclose_settles_the_waiters_of_a_queued_batch():
    """Closing a loader takes its batches out of a limiter's queue."""
    limiter = asyncio.Semaphore(1)
    plan: list[list[int]] = []
    loader = recording(plan, limiter=limiter)
    async with limiter:
        future = loader.load(1)
        await ticks(20)
        await within(loader.aclose())
        assert [LoadCancelledError] == await kinds(future)
    await ticks(20)

    assert [] == plan
    assert not limiter.locked()


def test_w3_a_batch_function_that_swallows_its_cancellation_does_not_hold_aclose():
    """A batch function that goes on keeps no waiter, and `aclose` for a few seconds at most."""
    # reading: `aclose` may give a cancelled batch function some time to end, but not for ever.

    async def main() -> float:
        loop = asyncio.get_running_loop()
        stubborn = Stubborn()
        loader = DataLoader(stubborn.load_fn)
        future = loader.load(1)
        await stubborn.running()
        start = loop.time()
        closing_task = asyncio.ensure_future(loader.aclose())
        assert [LoadCancelledError] == await kinds(future)
        assert 0.0 == loop.time() - start
        await asyncio.wait_for(closing_task, 60)
        waited = loop.time() - start
        assert 0 == stubborn.ended
        stubborn.release.set()
        await until(lambda: stubborn.ended)
        await ticks(3)
        return waited

    assert run_virtual(main) <= 5.0


async def test_w3_a_load_after_aclose_is_a_loader_closed_error():
    """After `aclose`, `load` and `load_many` raise `LoaderClosedError` when called."""
    loader = recording([], name="users")
    await within(loader.load(1))
    await within(loader.aclose())

    for key in (1, 2):  # a remembered key and a new one
        with pytest.raises(LoaderClosedError, match="users"):
            loader.load(key)
        with pytest.raises(LoaderClosedError, match="users"):
            loader.load_many([key])


async def test_w3_aclose_may_be_called_again():
    """Closing a closed loader does nothing."""
    loader = recording([])

    await within(loader.aclose())
    await within(loader.aclose())


async def test_w3_aclose_may_be_called_twice_at_once():
    """Two who close one loader at the same time both return."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    future = loader.load(1)
    await gate.running()

    await within(asyncio.gather(loader.aclose(), loader.aclose()))

    assert [LoadCancelledError] == await kinds(future)


async def test_w3_a_batch_function_may_close_its_own_loader():
    """`aclose` called from inside a batch function does not wait for itself."""
    loader: DataLoader[int, int]

    async def load_fn(keys: list[int]) -> list[int]:
        await loader.aclose()
        return keys

    loader = DataLoader(load_fn)
    future = loader.load(1)

    await asyncio.wait([future], timeout=GUARD)
    assert future.done()
    assert not future.cancelled()
    future.exception()
    with pytest.raises(LoaderClosedError):
        loader.load(2)


async def test_w3_aclose_leaves_other_loaders_alone():
    """Closing one loader does not stop the batches of another."""
    closed, loader = recording([]), recording([])
    lost, future = closed.load(1), loader.load(1)

    await within(closed.aclose())

    assert [LoadCancelledError, int] == await kinds(lost, future)


async def test_w3_dispatch_after_aclose_is_harmless():
    """A closed loader has nothing to send."""
    loader = recording([])
    await within(loader.aclose())

    loader.dispatch()


def test_w3_a_loop_that_ends_settles_every_waiter():
    """After `asyncio.run` no waiter of an open, running or queued batch is pending."""
    futures: dict[str, asyncio.Future[Any]] = {}

    async def main() -> None:
        limiter = asyncio.Semaphore(1)
        gate = Gate()
        running = DataLoader(gate.load_fn, limiter=limiter).prime(0, 0)
        queued = recording([], limiter=limiter)
        opened = recording([]).prime(0, 0)
        windowed = recording([], batch_window=60.0)
        futures["running"] = running.load(1)
        futures["running, hit"] = running.load(0)
        await gate.running()
        futures["queued"] = queued.load(1)
        await ticks(20)
        futures["window"] = windowed.load(1)
        futures["open"] = opened.load(1)
        futures["open, second caller"] = opened.load(1)
        futures["open, hit"] = opened.load(0)
        futures["open, load_many"] = asyncio.ensure_future(opened.load_many([1, 2]))

    asyncio.run(main())

    assert dict.fromkeys(futures, True) == {name: f.done() for name, f in futures.items()}


def test_w3_a_loop_that_ends_right_after_a_load_settles_it():
    """A load made in the last step before `asyncio.run` ends is not left pending."""
    futures: list[asyncio.Future[Any]] = []
    loader = recording([])

    async def main() -> None:
        futures.append(loader.load(1))
        futures.append(loader.load(2))

    asyncio.run(main())

    assert [True, True] == [future.done() for future in futures]


def test_w3_a_loop_that_ends_settles_the_batch_of_a_stubborn_function():
    """A batch function that swallows its cancellation once leaves nobody pending."""
    futures: list[asyncio.Future[Any]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return keys

    async def main() -> None:
        futures.append(DataLoader(load_fn).load(1))
        await ticks(20)

    asyncio.run(main())

    assert [True] == [future.done() for future in futures]


def test_w3_a_loop_that_ends_destroys_no_task(caplog: pytest.LogCaptureFixture):
    """Ending a loop with two batches in flight makes no report beyond W5's one per batch."""

    async def main() -> None:
        gate = Gate()
        loader = DataLoader(gate.load_fn)
        loader.load(1)
        await gate.running()
        loader.load(2)

    asyncio.run(main())
    gc.collect()

    messages = [record.getMessage() for record in caplog.records]
    assert [] == [message for message in messages if "destroyed" in message]
    assert len(messages) <= 2


def test_w3_a_loop_that_was_closed_without_ceremony_is_a_loop_error_later():
    """After a bare `loop.close()` a later load on a new loop is a clear `LoopError`."""
    plan: list[list[int]] = []
    loader = recording(plan, name="users")

    async def leave() -> None:
        loader.load(1)

    async def later() -> None:
        for key in (1, 2):
            with pytest.raises(LoopError, match="users"):
                loader.load(key)
            with pytest.raises(LoopError, match="users"):
                loader.load_many([key])

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    gc.collect()

    asyncio.run(later())
    assert [] == plan


def test_w3_clearing_and_priming_after_the_loop_is_closed_is_harmless():
    """The memo may be cleared and primed when the loop of its waiters is gone."""
    loader = recording([])
    futures: list[asyncio.Future[Any]] = []

    async def leave() -> None:
        futures.append(loader.load(1))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()

    loader.prime(1, 11).clear(1).clear_all()
    assert "absent" == loader.peek(1, "absent")


# W4: a load that waits for itself


async def test_w4_a_batch_function_that_loads_its_own_key_is_told():
    """A load of a batch's own key from inside it is a `LoaderDeadlockError`."""

    async def load_fn(keys: list[int]) -> list[int]:
        return [await loader.load(key) for key in keys]

    loader: DataLoader[int, int] = DataLoader(load_fn, name="users")

    with pytest.raises(LoaderDeadlockError) as caught:
        await within(loader.load(17))
    assert isinstance(caught.value, RuntimeError)
    assert "users" in str(caught.value)
    assert "17" in str(caught.value)


OWN_BATCH = "a batch function can't load a key of its own batch, so have it find that value itself"


async def chain_of(waiter: Any) -> str:
    """Give the chain that a deadlock's message names, without what stands around it."""
    with pytest.raises(LoaderDeadlockError) as caught:
        await within(waiter)
    start, _, rest = str(caught.value).partition(" would wait for itself: ")
    chain, _, advice = rest.partition("; ")
    assert ("loader 'users'", OWN_BATCH) == (start, advice)
    return chain


@pytest.mark.parametrize(
    ("keys", "wanted", "chain"),
    [
        ([1], 1, "users[1] -> users[1]"),
        ([1, 2], 2, "users[2, in a batch with 1] -> users[2]"),
        ([1, 2, 3, 4], 2, "users[2, in a batch with 1, 3, 4] -> users[2]"),
        ([1, 2, 3, 4, 5], 4, "users[4, in a batch with 1, 2, 3 and 1 more] -> users[4]"),
        (list(range(100)), 99, "users[99, in a batch with 0, 1, 2 and 96 more] -> users[99]"),
    ],
)
@pytest.mark.parametrize("is_many", [False, True], ids=["load", "load_many"])
async def test_w4_the_error_says_which_keys_were_in_one_batch(
    keys: list[int], wanted: int, chain: str, is_many: bool
):
    """Where a key waits for another of its batch, the chain shows both and says why."""

    async def load_fn(keys: list[int]) -> Any:
        return await loader.load_many([wanted]) if is_many else [await loader.load(wanted)]

    loader: DataLoader[int, int] = DataLoader(load_fn, name="users")

    assert chain == await chain_of(loader.load_many(keys))


async def test_w4_the_error_says_which_keys_of_a_longer_circle_were_in_one_batch():
    """A circle may go in by one key of a batch and out by another; the chain shows both."""

    async def users_fn(keys: list[str]) -> list[Any]:
        return [await books.load("Emma") if key == "ben" else key for key in keys]

    async def books_fn(keys: list[str]) -> list[Any]:
        return await users.load_many(["ann" for _ in keys])

    users: DataLoader[str, Any] = DataLoader(users_fn, name="users")
    books: DataLoader[str, Any] = DataLoader(books_fn, name="books")

    assert "books['Emma'] -> users['ann', in a batch with 'ben'] -> books['Emma']" == (
        await chain_of(users.load_many(["ann", "ben"]))
    )


async def test_w4_the_error_comes_at_once():
    """The deadlock is found when the load is made, within a tick or two."""
    seen: list[Any] = []

    async def load_fn(keys: list[int]) -> list[int]:
        task = asyncio.ensure_future(catch(keys[0]))
        await ticks(3)
        seen.append(task.done() and task.result())
        return keys

    async def catch(key: int) -> type | None:
        try:
            await loader.load(key)
        except LoaderDeadlockError as error:
            return type(error)
        return None

    loader: DataLoader[int, int] = DataLoader(load_fn)

    assert 1 == await within(loader.load(1))
    assert [LoaderDeadlockError] == seen


async def test_w4_a_batch_function_may_catch_the_error():
    """A batch function that catches the deadlock answers as usual."""

    async def load_fn(keys: list[int]) -> list[str]:
        with pytest.raises(LoaderDeadlockError):
            await loader.load(keys[0])
        return [f"value {key}" for key in keys]

    loader: DataLoader[int, str] = DataLoader(load_fn)

    assert ["value 1", "value 2"] == await outcomes(loader.load(1), loader.load(2))


async def test_w4_another_key_of_ones_own_batch_is_a_deadlock_too():
    """A batch waits for itself when one of its keys needs another of its keys."""

    async def load_fn(keys: list[int]) -> list[int]:
        return [await loader.load(2) if key == 1 else key for key in keys]

    loader: DataLoader[int, int] = DataLoader(load_fn)

    assert [LoaderDeadlockError] * 2 == await kinds(loader.load(1), loader.load(2))


@pytest.mark.parametrize("own", [[1], [2, 1], [1, 1], [3, 2, 1]])
async def test_w4_load_many_of_an_own_key_is_a_deadlock(own: list[int]):
    """`load_many` with a batch's own key among others is a `LoaderDeadlockError`."""

    async def load_fn(keys: list[int]) -> list[int]:
        if 1 in keys:
            await loader.load_many(own)
        return keys

    loader: DataLoader[int, int] = DataLoader(load_fn)

    assert [LoaderDeadlockError] == await kinds(loader.load(1))


async def test_w4_load_many_puts_the_error_in_its_place():
    """With `return_exceptions=True` only the key that closes the circle fails."""
    # reading: M5 wins: the deadlock of one key is an error that stands in its place.
    seen: list[Any] = []

    async def load_fn(keys: list[int]) -> list[int]:
        if 1 in keys:
            seen.extend(await loader.load_many([2, 1], return_exceptions=True))
        return keys

    loader: DataLoader[int, int] = DataLoader(load_fn)

    assert 1 == await within(loader.load(1))
    assert [2, LoaderDeadlockError] == [seen[0], type(seen[1])]


async def test_w4_a_circle_of_two_loaders_is_told():
    """A circle through a second loader names both loaders and both keys."""

    async def authors_fn(keys: list[int]) -> list[int]:
        return await books.load_many([22 for _ in keys])

    async def books_fn(keys: list[int]) -> list[int]:
        return [await authors.load(11) for _ in keys]

    authors: DataLoader[int, int] = DataLoader(authors_fn, name="authors")
    books: DataLoader[int, int] = DataLoader(books_fn, name="books")

    with pytest.raises(LoaderDeadlockError) as caught:
        await within(authors.load(11))
    for part in ("authors", "11", "books", "22"):
        assert part in str(caught.value)


async def test_w4_a_circle_of_three_loaders_is_told():
    """A circle through three loaders names all of them."""
    loaders: dict[str, DataLoader[int, int]] = {}

    def leading_to(name: str) -> Callable[[list[int]], Any]:
        async def load_fn(keys: list[int]) -> list[int]:
            return [await loaders[name].load(key) for key in keys]

        return load_fn

    loaders["one"] = DataLoader(leading_to("two"), name="one")
    loaders["two"] = DataLoader(leading_to("three"), name="two")
    loaders["three"] = DataLoader(leading_to("one"), name="three")

    with pytest.raises(
        LoaderDeadlockError, match="one.*two.*three|two.*three.*one|three.*one.*two"
    ):
        await within(loaders["one"].load(5))


async def test_w4_a_circle_that_two_roots_close_is_told():
    """Two loads begun apart that come to wait for each other do not hang."""
    left_started, right_started = asyncio.Event(), asyncio.Event()

    async def left_fn(keys: list[int]) -> list[int]:
        left_started.set()
        await right_started.wait()
        return await right.load_many(keys)

    async def right_fn(keys: list[int]) -> list[int]:
        right_started.set()
        await left_started.wait()
        return await left.load_many(keys)

    left: DataLoader[int, int] = DataLoader(left_fn, name="left")
    right: DataLoader[int, int] = DataLoader(right_fn, name="right")

    assert [LoaderDeadlockError] * 2 == await kinds(left.load(1), right.load(1))


async def test_w4_a_circle_of_two_batches_of_one_loader_is_told():
    """Keys of one loader that need each other, in two batches, do not hang."""

    async def load_fn(keys: list[int]) -> list[int]:
        return [await loader.load(3 - key) for key in keys]

    loader: DataLoader[int, int] = DataLoader(load_fn, name="users")

    with pytest.raises(LoaderDeadlockError) as caught:
        await within(loader.load(1))
    for part in ("users", "1", "2"):
        assert part in str(caught.value)


@pytest.mark.parametrize("options", [{"max_concurrent_batches": 1}, {"max_batch_size": 1}])
async def test_w4_a_circle_is_told_under_limits_too(options: dict[str, Any]):
    """A circle is found when slots or batch sizes shape the batches."""

    async def load_fn(keys: list[int]) -> list[int]:
        return [await loader.load((key + 1) % 3) for key in keys]

    loader: DataLoader[int, int] = DataLoader(load_fn, **options)

    with pytest.raises(LoaderDeadlockError):
        await within(loader.load(0))


async def test_w4_a_circle_through_tasks_and_wait_for_is_told():
    """Tasks that a batch function makes inherit its place in the chain."""

    async def inner_fn(keys: list[int]) -> list[int]:
        return await asyncio.gather(*(asyncio.create_task(again(key)) for key in keys))

    async def again(key: int) -> int:
        return await asyncio.wait_for(outer.load(key), GUARD)

    async def outer_fn(keys: list[int]) -> list[int]:
        return await asyncio.gather(*(asyncio.wait_for(inner.load(key), GUARD) for key in keys))

    inner: DataLoader[int, int] = DataLoader(inner_fn)
    outer: DataLoader[int, int] = DataLoader(outer_fn)

    with pytest.raises(LoaderDeadlockError):
        await within(outer.load(1))


async def test_w4_the_circle_is_told_to_everyone_in_its_batch():
    """Who shares a batch with a circle gets its error and does not hang."""

    async def outer_fn(keys: list[int]) -> list[int]:
        return await inner.load_many(keys)

    async def inner_fn(keys: list[int]) -> list[int]:
        return [await outer.load(1) for _ in keys]

    outer: DataLoader[int, int] = DataLoader(outer_fn)
    inner: DataLoader[int, int] = DataLoader(inner_fn)

    assert [LoaderDeadlockError] * 3 == await kinds(outer.load(1), outer.load(2), inner.load(3))


async def test_w4_a_deadlock_is_not_remembered():
    """After a deadlock the key is asked again."""
    calls = 0

    async def load_fn(keys: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            await loader.load(keys[0])
        return keys

    loader: DataLoader[int, int] = DataLoader(load_fn, cache_errors=True)

    assert [LoaderDeadlockError] == await kinds(loader.load(1))
    assert [1] == await outcomes(loader.load(1))


async def test_w4_recursion_over_other_keys_works():
    """A tree is walked to its root by a batch function that loads its keys' parents."""

    async def path(keys: list[int]) -> list[list[int]]:
        above = await loader.load_many([key // 2 for key in keys if key > 1])
        parents = iter(above)
        return [[*next(parents), key] if key > 1 else [key] for key in keys]

    loader: DataLoader[int, list[int]] = DataLoader(path)

    assert [[1, 2, 4, 8], [1, 2, 4, 9]] == await outcomes(loader.load(8), loader.load(9))


async def test_w4_two_ways_to_one_key_are_no_circle():
    """A diamond, where two loaders need the same third one, works."""
    plan: list[list[int]] = []
    bottom = recording(plan)

    async def side_fn(keys: list[int]) -> list[int]:
        return await bottom.load_many(keys)

    left, right = DataLoader(side_fn), DataLoader(side_fn)

    async def top_fn(keys: list[int]) -> list[Any]:
        return await asyncio.gather(*(asyncio.gather(left.load(k), right.load(k)) for k in keys))

    assert [10, 10] == await within(DataLoader(top_fn).load(1))
    assert [[1]] == plan


async def test_w4_an_own_key_that_was_primed_is_no_circle():
    """A batch function may prime its key and load it: that waits for nothing."""

    async def load_fn(keys: list[int]) -> list[int]:
        for key in keys:
            loader.prime(key, key * 10)
        return [await loader.load(key) for key in keys]

    loader: DataLoader[int, int] = DataLoader(load_fn)

    assert [10, 20] == await outcomes(loader.load(1), loader.load(2))


async def test_w4_a_key_that_others_wait_for_is_no_circle():
    """A batch function may wait for a key that a stranger loads."""
    gate = Gate()
    inner = DataLoader(gate.load_fn)

    async def load_fn(keys: list[int]) -> Any:
        return await inner.load_many(keys)

    outer: DataLoader[int, int] = DataLoader(load_fn)
    stranger = inner.load(1)
    await gate.running()
    future = outer.load(1)
    await ticks(20)
    gate.answers[0].set_result([10])

    assert [10, 10] == await outcomes(stranger, future)
    assert [[1]] == gate.plan


@pytest.mark.parametrize("how", ["timeout", "cancel", "load_many"])
def test_w4_a_wait_that_was_given_up_closes_no_circle(how: str):
    """The edge of a wait that timed out or was cancelled is gone."""
    turn: list[asyncio.Event] = []

    async def outer_fn(keys: list[int]) -> list[str]:
        if how == "timeout":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(inner.load(2), 1)
        elif how == "load_many":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(inner.load_many([2]), 1)
        else:
            waiter = inner.load(2)
            await asyncio.sleep(1)
            waiter.cancel()
        turn[0].set()
        await asyncio.sleep(1)
        return ["outer" for _ in keys]

    async def inner_fn(keys: list[int]) -> list[str]:
        await turn[0].wait()
        return [await outer.load(1) for _ in keys]

    outer: DataLoader[int, str] = DataLoader(outer_fn)
    inner: DataLoader[int, str] = DataLoader(inner_fn)

    async def main() -> list[Any]:
        turn.append(asyncio.Event())
        return await outcomes(outer.load(1), inner.load(2))

    assert ["outer", "outer"] == run_virtual(main)


async def test_w4_one_of_two_waits_that_was_given_up_leaves_the_other():
    """A circle is told while a second wait of the same batch keeps its edge alive."""

    async def outer_fn(keys: list[int]) -> list[int]:
        inner.load(2).cancel()
        return [await inner.load(2) for _ in keys]

    async def inner_fn(keys: list[int]) -> list[int]:
        return [await outer.load(1) for _ in keys]

    outer: DataLoader[int, int] = DataLoader(outer_fn)
    inner: DataLoader[int, int] = DataLoader(inner_fn)

    with pytest.raises(LoaderDeadlockError):
        await within(outer.load(1))


async def test_w4_a_task_that_outlives_its_batch_may_load_freely():
    """A background task of a finished batch may load the batch's own keys."""
    tasks: list[asyncio.Task[Any]] = []
    finished = asyncio.Event()
    plan: list[list[int]] = []

    async def background(key: int) -> list[Any]:
        await finished.wait()
        values = [await loader.load(key)]
        loader.clear(key)
        values.append(await loader.load(key))
        values.append(await loader.load_many([key, key + 1]))
        return values

    async def load_fn(keys: list[int]) -> list[int]:
        plan.append(list(keys))
        if len(plan) == 1:
            tasks.append(asyncio.create_task(background(keys[0])))
        return [key * 10 for key in keys]

    loader: DataLoader[int, int] = DataLoader(load_fn)
    assert 10 == await within(loader.load(1))
    finished.set()

    assert [10, 10, [10, 20]] == await within(tasks[0])
    assert [[1], [1], [2]] == plan


async def test_w4_a_task_that_outlives_a_limited_batch_takes_a_slot_of_its_own():
    """A background task of a finished batch no longer runs in that batch's slot."""
    limiter = asyncio.Semaphore(1)
    tasks: list[asyncio.Task[Any]] = []
    finished = asyncio.Event()
    plan: list[list[int]] = []
    other = recording(plan, limiter=limiter)

    async def background() -> Any:
        await finished.wait()
        return await other.load(1)

    async def load_fn(keys: list[int]) -> list[int]:
        tasks.append(asyncio.create_task(background()))
        return keys

    await within(DataLoader(load_fn, limiter=limiter).load(1))
    await ticks(5)
    async with limiter:
        finished.set()
        await ticks(40)
        assert [] == plan

    assert 10 == await within(tasks[0])
    await ticks(3)
    assert not limiter.locked()


async def test_w4_a_chain_may_be_long():
    """A chain of 1,500 batches that wait for one another is no deep recursion."""

    async def load_fn(keys: list[int]) -> list[int]:
        return [1 + await loader.load(key - 1) if key else 0 for key in keys]

    loader: DataLoader[int, int] = DataLoader(load_fn)

    assert 1_500 == await asyncio.wait_for(loader.load(1_500), 3 * GUARD)


async def test_w4_a_long_circle_is_told():
    """A circle of 300 batches is found, and does not hang."""

    async def load_fn(keys: list[int]) -> list[int]:
        return [await loader.load((key + 1) % 300) for key in keys]

    loader: DataLoader[int, int] = DataLoader(load_fn)

    with pytest.raises(LoaderDeadlockError):
        await within(loader.load(0))


@pytest.mark.parametrize("depth", [10, 300])
async def test_w4_a_chain_of_full_batches_is_no_deep_recursion(depth: int):
    """A chain of batches that leave at once works, also where tasks start eagerly."""

    async def load_fn(keys: list[int]) -> list[int]:
        return [1 + await loader.load(key - 1) if key else 0 for key in keys]

    loader: DataLoader[int, int] = DataLoader(load_fn, max_batch_size=1)

    assert depth == await within(loader.load(depth))


# W5: reports


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


async def failing(keys: list[int]) -> list[int]:
    """Fail."""
    raise ValueError("failed")


async def test_w5_a_failed_batch_that_nobody_awaits_makes_at_most_one_report():
    """Fifty loads of one failed batch, none awaited, are reported once at most."""
    reports = Reports()
    loader = DataLoader(failing)

    futures = [loader.load(key) for key in range(50)]
    await asyncio.wait(futures, timeout=GUARD)
    del futures
    messages = await reports.collected()

    assert len(messages) <= 1


async def test_w5_a_failed_batch_of_which_one_result_is_awaited_makes_at_most_one_report():
    """Fifty loads of one failed batch, one awaited, are reported once at most."""
    reports = Reports()
    loader = DataLoader(failing)

    futures = [loader.load(key) for key in range(50)]
    with pytest.raises(ValueError, match="failed"):
        await within(futures[20])
    del futures
    messages = await reports.collected()

    assert len(messages) <= 1


async def test_w5_a_failed_batch_that_is_awaited_makes_no_report():
    """A failed batch whose results are all awaited is not reported."""
    reports = Reports()
    loader = DataLoader(failing)

    futures = [loader.load(key) for key in range(50)]
    await within(asyncio.gather(*futures, return_exceptions=True))
    del futures

    assert [] == await reports.collected()


async def test_w5_many_callers_of_one_key_make_at_most_one_report():
    """Fifty callers of one key that failed, none of whom awaits, are reported once at most."""
    reports = Reports()
    loader = DataLoader(failing)

    futures = [loader.load(1) for _ in range(50)]
    await asyncio.wait(futures, timeout=GUARD)
    del futures
    messages = await reports.collected()

    assert len(messages) <= 1


async def test_w5_a_load_many_that_nobody_awaits_makes_at_most_one_report():
    """A `load_many` of fifty keys that failed and was dropped is reported once at most."""
    reports = Reports()
    loader = DataLoader(failing)

    many = loader.load_many(range(50))
    await ticks(40)
    del many
    messages = await reports.collected()

    assert len(messages) <= 1


async def test_w5_a_batch_of_errors_that_nobody_awaits_makes_at_most_one_report():
    """Fifty per-key errors of one batch, none awaited, are not fifty reports."""
    # reading: a batch all of whose keys failed one by one is a failed batch, too.
    reports = Reports()

    async def load_fn(keys: list[int]) -> list[Any]:
        return [ValueError(key) for key in keys]

    loader: DataLoader[int, Any] = DataLoader(load_fn)
    futures = [loader.load(key) for key in range(50)]
    await asyncio.wait(futures, timeout=GUARD)
    del futures
    messages = await reports.collected()

    assert len(messages) <= 1


async def test_w5_remembered_errors_that_nobody_awaits_make_at_most_one_report():
    """What `cache_errors=True` remembers is not reported a second time when it goes."""
    reports = Reports()

    async def load_fn(keys: list[int]) -> list[Any]:
        return [ValueError(key) for key in keys]

    loader: DataLoader[int, Any] = DataLoader(load_fn, cache_errors=True)
    await within(loader.load_many(range(50), return_exceptions=True))
    loader.clear_all()
    del loader

    assert [] == await reports.collected()


async def test_w5_a_deserted_batch_that_fails_is_not_reported():
    """What a batch that nobody waits for raises on its way out concerns nobody."""
    # reading: "at most one" allows this one report; the loader has no reason to make it.
    reports = Reports()

    async def load_fn(keys: list[int]) -> list[int]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("on its way out") from None
        return keys

    loader = DataLoader(load_fn)
    future = loader.load(1)
    await ticks(20)
    future.cancel()
    await ticks(5)
    del loader, future

    assert len(await reports.collected()) <= 1


async def test_w5_cancelled_waiters_are_not_reported():
    """Callers that left before the batch failed make no report."""
    reports = Reports()
    loader = DataLoader(failing)

    futures = [loader.load(key) for key in range(50)]
    for future in futures[1:]:
        future.cancel()
    with pytest.raises(ValueError, match="failed"):
        await within(futures[0])
    del futures

    assert [] == await reports.collected()


async def test_w5_closing_makes_no_more_than_one_report():
    """Fifty loads that `aclose` settled and nobody awaits are reported once at most."""
    reports = Reports()
    loader = recording([])

    futures = [loader.load(key) for key in range(50)]
    await within(loader.aclose())
    del futures

    assert len(await reports.collected()) <= 1


# W6: loops


ADVICE = r"(?i)\b(make|create|use|call|load|await|run|one)\b"


def check_advice(error: BaseException, *parts: str) -> None:
    """Check that a `LoopError` names its loader and says what to do."""
    assert isinstance(error, RuntimeError)
    for part in ("users", "loop", *parts):
        assert part in str(error)
    assert re.search(ADVICE, str(error)), str(error)
    assert len(str(error)) > 60, f"no room for advice: {error}"


@pytest.fixture(params=[False, True], ids=["asks the loop", "gets the loop"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for the running loop in the way of old Pythons, and in that of new ones."""
    monkeypatch.setattr("dataloader_cache._loader._GETS_LOOP", request.param)


both_ways = pytest.mark.usefixtures("way")


@both_ways
def test_w6_a_load_outside_a_loop_says_what_to_do():
    """`load` and `load_many` without a running loop are a `LoopError` with advice."""
    plan: list[list[int]] = []
    loader = recording(plan, name="users")

    with pytest.raises(LoopError) as caught:
        loader.load(1)
    check_advice(caught.value)
    with pytest.raises(LoopError) as caught:
        loader.load_many([1])
    check_advice(caught.value)
    assert [] == plan


@both_ways
def test_w6_a_load_outside_a_loop_leaves_the_loader_usable():
    """A load that failed for want of a loop binds the loader to nothing."""
    plan: list[list[int]] = []
    loader = recording(plan)
    with pytest.raises(LoopError):
        loader.load(1)

    async def main() -> int:
        return await within(loader.load(1))

    assert 10 == asyncio.run(main())
    assert [[1]] == plan


@both_ways
def test_w6_a_hit_outside_a_loop_is_a_loop_error():
    """A remembered value does not make up for a loop that is missing or finished."""
    loader = recording([], name="users").prime(2, 20)
    with pytest.raises(LoopError) as caught:
        loader.load(2)
    check_advice(caught.value)

    async def main() -> int:
        return await within(loader.load(1))

    assert 10 == asyncio.run(main())
    for key in (1, 2):
        with pytest.raises(LoopError) as caught:
            loader.load(key)
        check_advice(caught.value)


@both_ways
def test_w6_a_second_loop_is_a_loop_error():
    """A loader that served one `asyncio.run` does not serve the next, and says so."""
    loader = recording([], name="users")

    async def first() -> int:
        return await within(loader.load(1))

    async def second() -> None:
        for key in (2, 1):  # a new key and a remembered one
            with pytest.raises(LoopError) as caught:
                loader.load(key)
            check_advice(caught.value)
            with pytest.raises(LoopError) as caught:
                loader.load_many([key])
            check_advice(caught.value)

    assert 10 == asyncio.run(first())
    asyncio.run(second())


@both_ways
def test_w6_a_loader_made_outside_a_loop_serves_the_first_loop_it_meets():
    """A loader may be made, primed, read and cleared before any loop runs."""
    plan: list[list[int]] = []
    loader = recording(plan).prime(1, 11).prime(2, 22)
    assert 11 == loader.peek(1)
    loader.clear(2)
    loader.dispatch()

    async def main() -> list[int]:
        return await within(loader.load_many([1, 2]))

    assert [11, 20] == asyncio.run(main())
    assert [[2]] == plan


@both_ways
async def test_w6_a_load_on_another_threads_loop_is_a_loop_error():
    """A loader in use on one loop refuses a load from a loop in another thread."""
    loader = recording([], name="users")
    await within(loader.load(1))
    errors: list[BaseException] = []

    async def miss() -> None:
        try:
            await loader.load(2)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=lambda: asyncio.run(miss()))
    thread.start()
    thread.join(GUARD)

    assert [LoopError] == [type(error) for error in errors]
    check_advice(errors[0])


@both_ways
async def test_w6_a_load_in_a_thread_without_a_loop_is_a_loop_error():
    """A load from `asyncio.to_thread` is a `LoopError`, and the loop's own loads go on."""
    loader = recording([], name="users")
    future = loader.load(1)

    def call() -> None:
        loader.load(2)

    with pytest.raises(LoopError) as caught:
        await within(asyncio.to_thread(call))
    check_advice(caught.value)
    assert 10 == await within(future)


@both_ways
async def test_w6_a_first_hit_in_another_thread_is_a_loop_error():
    """A value that came with many is refused to another thread, as a miss is."""
    loader = recording([], name="users")
    await within(loader.load_many([1, 2]))

    with pytest.raises(LoopError) as caught:
        await within(asyncio.to_thread(loader.load, 1))
    check_advice(caught.value)
    assert 10 == await within(loader.load(1))


@both_ways
def test_w6_a_load_while_the_loop_stands_still_is_a_loop_error():
    """A loop that was stopped with an open batch may go on, but nothing is loaded meanwhile."""
    plan: list[list[int]] = []
    loader = recording(plan, name="users")

    async def first() -> list[Any]:
        return [loader.load(1)]

    async def second(futures: list[Any]) -> list[Any]:
        return await within(asyncio.gather(*futures, loader.load(2)))

    loop = asyncio.new_event_loop()
    try:
        futures = loop.run_until_complete(first())
        with pytest.raises(LoopError) as caught:
            loader.load(2)
        assert [10, 20] == loop.run_until_complete(second(futures))
    finally:
        loop.close()
    check_advice(caught.value)
    assert [[1, 2]] == plan
