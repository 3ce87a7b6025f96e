"""When a batch leaves, what it holds, and where it runs: rules D1 to D8."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections.abc import Callable
from typing import Any

import pytest

from dataloader_cache import DataLoader
from dataloader_cache.errors import ConfigurationError, LoadCancelledError, LoadTimeoutError
from dataloader_cache.testing import run_virtual

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


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


class Slot:
    """Count how many pieces of work are inside at one time."""

    def __init__(self) -> None:
        self.inside = 0
        self.peak = 0

    async def work(self, count: int = 3) -> None:
        self.inside += 1
        self.peak = max(self.peak, self.inside)
        await ticks(count)
        self.inside -= 1


# D1: quiet ticks


async def test_d1_loads_of_one_tick_leave_as_one_batch():
    """Loads made in one tick become one call of the batch function."""
    plan: list[list[int]] = []
    loader = recording(plan)

    values = await within(asyncio.gather(*map(loader.load, [1, 2, 3])))

    assert [10, 20, 30] == values
    assert [[1, 2, 3]] == plan


async def test_d1_a_load_after_eight_ticks_joins_the_open_batch():
    """A key that comes eight ticks after the last one still joins the batch."""
    plan: list[list[int]] = []
    loader = recording(plan)

    first = loader.load(1)
    await ticks(8)
    second = loader.load(2)

    assert [10, 20] == await within(asyncio.gather(first, second))
    assert [[1, 2]] == plan


async def test_d1_a_load_after_twenty_ticks_starts_a_batch_of_its_own():
    """A key that comes twenty ticks after the last one finds the batch gone."""
    plan: list[list[int]] = []
    loader = recording(plan)

    first = loader.load(1)
    await ticks(20)
    second = loader.load(2)

    assert [10, 20] == await within(asyncio.gather(first, second))
    assert [[1], [2]] == plan


async def test_d1_a_lone_key_leaves_after_about_nine_ticks():
    """A lone key waits for eight quiet ticks and no longer."""
    plan: list[list[int]] = []
    loader = recording(plan)

    future = loader.load(1)
    count = await until(lambda: plan)

    assert 8 <= count <= 12
    assert 10 == await within(future)


async def test_d1_each_new_key_starts_the_count_again():
    """Keys that come six ticks apart stay in one batch."""
    plan: list[list[int]] = []
    loader = recording(plan)

    futures = []
    for key in range(10):
        futures.append(loader.load(key))
        await ticks(6)

    assert [key * 10 for key in range(10)] == await within(asyncio.gather(*futures))
    assert [list(range(10))] == plan


async def test_d1_a_key_that_is_already_in_the_batch_does_not_hold_it_open():
    """A repeated load of a batch's own key is no new key and leaves the count alone."""
    plan: list[list[int]] = []
    loader = recording(plan)

    count = 0
    futures = [loader.load(1)]
    while not plan and count < 100:
        await asyncio.sleep(0)
        count += 1
        futures.append(loader.load(1))

    assert count <= 12
    assert {10} == set(await within(asyncio.gather(*futures)))
    assert [[1]] == plan


async def test_d1_hits_do_not_hold_the_batch_open():
    """A hit is no new key and leaves the count alone."""
    plan: list[list[int]] = []
    loader = recording(plan).prime(0, 0)

    count = 0
    future = loader.load(1)
    while not plan and count < 100:
        await asyncio.sleep(0)
        count += 1
        loader.load(0)

    assert count <= 12
    assert 10 == await within(future)


async def test_d1_a_batch_that_gets_a_key_every_tick_leaves_after_256_ticks():
    """A batch that never has a quiet tick leaves at the cap of 256 ticks."""
    plan: list[list[int]] = []
    loader = recording(plan)

    futures = []
    for key in range(300):
        futures.append(loader.load(key))
        await asyncio.sleep(0)

    assert [key * 10 for key in range(300)] == await within(asyncio.gather(*futures))
    assert 2 == len(plan)
    assert list(range(300)) == plan[0] + plan[1]
    assert 254 <= len(plan[0]) <= 259


async def test_d1_siblings_that_await_a_little_first_share_a_batch():
    """Siblings that await up to seven ticks before they load become one batch."""
    plan: list[list[int]] = []
    loader = recording(plan)

    async def sibling(key: int) -> int:
        await ticks(key)
        return await loader.load(key)

    values = await within(asyncio.gather(*map(sibling, range(8))))

    assert [key * 10 for key in range(8)] == values
    assert [list(range(8))] == [sorted(keys) for keys in plan]


async def test_d1_two_levels_of_uneven_branches_make_one_batch_each():
    """Follow-on loads of branches of different depth stay together."""
    users: list[list[int]] = []
    posts: list[list[int]] = []
    user_loader = recording(users)
    post_loader = recording(posts)

    async def branch(key: int) -> int:
        await ticks(key % 3)
        user = await user_loader.load(key)
        await ticks(key % 5)
        return await post_loader.load(user)

    values = await within(asyncio.gather(*map(branch, range(1, 7))))

    assert [key * 100 for key in range(1, 7)] == values
    assert [list(range(1, 7))] == [sorted(keys) for keys in users]
    assert [[key * 10 for key in range(1, 7)]] == [sorted(keys) for keys in posts]


async def test_d1_a_busy_loader_does_not_hold_another_loaders_batch():
    """Each open batch counts its own quiet ticks."""
    busy_plan: list[list[int]] = []
    plan: list[list[int]] = []
    busy = recording(busy_plan)
    lone = recording(plan)

    future = lone.load(1)
    futures = []
    for key in range(30):
        futures.append(busy.load(key))
        await asyncio.sleep(0)

    assert [[1]] == plan
    assert [] == busy_plan
    await within(asyncio.gather(future, *futures))
    assert [list(range(30))] == busy_plan


async def test_d1_a_task_that_spins_does_not_keep_a_batch_back():
    """A batch leaves although the loop is never idle."""
    plan: list[list[int]] = []
    loader = recording(plan)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    spinner = asyncio.create_task(spin())
    try:
        assert 10 == await within(loader.load(1))
    finally:
        spinner.cancel()
    assert [[1]] == plan


@pytest.mark.loop_kinds("asyncio")
async def test_d1_one_pump_serves_all_open_batches(monkeypatch: pytest.MonkeyPatch):
    """A hundred open batches cost one scheduled callback per tick."""
    loop = asyncio.get_running_loop()
    loaders = [recording([]) for _ in range(100)]
    scheduled = 0
    call_soon = loop.call_soon

    def counting(*args: Any, **kwargs: Any) -> asyncio.Handle:
        nonlocal scheduled
        scheduled += 1
        return call_soon(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon", counting)
    futures = [loader.load(1) for loader in loaders]
    await ticks(5)
    counted = scheduled
    monkeypatch.undo()

    assert counted <= 20  # 5 for this coroutine, about 6 for the pump
    assert [10] * 100 == await within(asyncio.gather(*futures))


@pytest.mark.loop_kinds("asyncio")
async def test_d1_an_idle_pump_schedules_nothing(monkeypatch: pytest.MonkeyPatch):
    """With no open batch the pump costs no callback."""
    loop = asyncio.get_running_loop()
    loader = recording([])
    assert 10 == await within(loader.load(1))
    await ticks(5)
    scheduled = 0
    call_soon = loop.call_soon

    def counting(*args: Any, **kwargs: Any) -> asyncio.Handle:
        nonlocal scheduled
        scheduled += 1
        return call_soon(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon", counting)
    await ticks(10)
    counted = scheduled
    monkeypatch.undo()

    assert 10 == counted  # those of this coroutine


@pytest.mark.loop_kinds("asyncio")
async def test_d1_the_clock_plays_no_part(monkeypatch: pytest.MonkeyPatch):
    """Siblings stay together although every tick takes longer than any sensible window."""
    plan: list[list[int]] = []
    loader = recording(plan)
    now = time.monotonic()

    def jumping() -> float:
        nonlocal now
        now += 1.0
        return now

    async def sibling(key: int) -> int:
        await ticks(key)
        return await loader.load(key)

    with monkeypatch.context() as patch:
        for clock in ("monotonic", "perf_counter", "time"):
            patch.setattr(time, clock, jumping)
        tasks = [asyncio.create_task(sibling(key)) for key in range(0, 30, 5)]
        await ticks(60)

    assert all(task.done() for task in tasks)
    assert [list(range(0, 30, 5))] == plan


async def test_d1_dispatch_sends_the_open_batch_now():
    """`dispatch()` does not wait for a quiet tick."""
    plan: list[list[int]] = []
    loader = recording(plan)

    futures = [loader.load(1), loader.load(2)]
    loader.dispatch()

    assert await until(lambda: plan) <= 2
    assert [10, 20] == await within(asyncio.gather(*futures))
    assert [[1, 2]] == plan


async def test_d1_dispatch_with_nothing_open_does_nothing():
    """`dispatch()` without an open batch is harmless, also a second time."""
    plan: list[list[int]] = []
    loader = recording(plan)

    loader.dispatch()
    future = loader.load(1)
    loader.dispatch()
    loader.dispatch()

    assert 10 == await within(future)
    assert [[1]] == plan


async def test_d1_a_load_after_dispatch_opens_a_new_batch():
    """A batch that was sent takes no further keys."""
    plan: list[list[int]] = []
    loader = recording(plan)

    first = loader.load(1)
    loader.dispatch()
    second = loader.load(2)

    assert [10, 20] == await within(asyncio.gather(first, second))
    assert [[1], [2]] == plan


async def test_d1_a_batch_function_that_raises_when_called_leaves_the_pump_running():
    """One loader's broken batch function does not keep another's batch from leaving."""
    plan: list[list[int]] = []

    def broken(keys: list[int]) -> Any:
        raise ValueError("broken")

    bad: DataLoader[int, int] = DataLoader(broken)
    good = recording(plan)
    failing = [bad.load(1)]
    future = good.load(1)
    failing.append(bad.load(2))

    assert 10 == await within(future)
    results = await within(asyncio.gather(*failing, return_exceptions=True))
    assert [ValueError, ValueError] == [type(result) for result in results]


def test_d1_each_loop_has_a_pump_of_its_own():
    """A loop that was closed with an open batch does not stop the next loop's batches."""
    plan: list[list[int]] = []
    left_behind = []

    async def leave() -> None:
        left_behind.append(recording([]).load(1))

    async def load() -> int:
        return await within(recording(plan).load(2))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()

    assert 20 == asyncio.run(load())
    assert [[2]] == plan


# D2: a window in seconds


def test_d2_a_window_gathers_keys_for_its_seconds():
    """A batch with a window of 0.1 s takes the keys of that time and leaves when it ends."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=0.1)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        first = loader.load(1)
        await asyncio.sleep(0.06)
        second = loader.load(2)
        assert [10, 20] == await asyncio.gather(first, second)
        return loop.time() - start

    assert pytest.approx(0.1, abs=0.001) == run_virtual(main)
    assert [[1, 2]] == plan


def test_d2_the_window_counts_from_the_first_key():
    """A later key does not make the window longer."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=0.1)

    async def main() -> None:
        futures = []
        for key in (1, 2, 3):
            futures.append(loader.load(key))
            await asyncio.sleep(0.06)
        assert [10, 20, 30] == await asyncio.gather(*futures)

    run_virtual(main)
    assert [[1, 2], [3]] == plan


def test_d2_every_batch_has_a_window_of_its_own():
    """The second batch waits its full window from its own first key."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=0.1)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        await loader.load(1)
        await asyncio.sleep(0.03)
        start = loop.time()
        await loader.load(2)
        return loop.time() - start

    assert pytest.approx(0.1, abs=0.001) == run_virtual(main)
    assert [[1], [2]] == plan


def test_d2_a_batch_that_left_full_does_not_shorten_the_next_window():
    """The timer of a batch that left early does not send the batch after it."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=0.1, max_batch_size=2)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(loader.load(1), loader.load(2))
        assert 0.0 == loop.time() - start
        await asyncio.sleep(0.06)
        await loader.load(3)
        return loop.time() - start

    assert pytest.approx(0.16, abs=0.001) == run_virtual(main)
    assert [[1, 2], [3]] == plan


def test_d2_a_key_within_the_quiet_ticks_after_the_window_joins():
    """When the window ends the batch still takes the keys of the next ticks."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=0.1)

    async def main() -> None:
        first = loader.load(1)
        await asyncio.sleep(0.1)  # wakes one tick after its timer, and the batch's, is due
        await ticks(2)
        second = loader.load(2)
        await asyncio.gather(first, second)

    run_virtual(main)
    assert [[1, 2]] == plan


def test_d2_a_key_long_after_the_window_does_not_join():
    """Twenty ticks after its window the batch has left."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=0.1)

    async def main() -> None:
        first = loader.load(1)
        await asyncio.sleep(0.1)
        await ticks(20)
        second = loader.load(2)
        await asyncio.gather(first, second)

    run_virtual(main)
    assert [[1], [2]] == plan


def test_d2_a_late_loop_splits_nothing():
    """Loads that were due while the loop stood still share one batch."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=0.1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        time_of_loop = loop.time

        async def sibling(key: int, delay: float) -> int:
            await asyncio.sleep(delay)
            await ticks(key % 3)
            return await loader.load(key)

        first = loader.load(0)
        tasks = [asyncio.create_task(sibling(key, key * 0.05)) for key in range(1, 8)]
        await ticks(2)
        # What a callback that blocks for a second does to the loop's clock.
        loop.time = lambda: time_of_loop() + 1.0
        await asyncio.gather(first, *tasks)

    run_virtual(main)
    assert [list(range(8))] == [sorted(keys) for keys in plan]


def test_d2_dispatch_ends_the_window():
    """`dispatch()` sends a batch that is waiting for its seconds."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=60.0)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        future = loader.load(1)
        loader.dispatch()
        assert 10 == await future
        return loop.time() - start

    assert 0.0 == run_virtual(main)
    assert [[1]] == plan


def test_d2_a_window_of_zero_is_a_window():
    """`batch_window=0` sends a batch without any time passing."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=0)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert [10, 20] == await asyncio.gather(loader.load(1), loader.load(2))
        return loop.time() - start

    assert pytest.approx(0.0, abs=0.001) == run_virtual(main)
    assert [[1, 2]] == plan


def test_d2_a_window_whose_keys_were_all_cancelled_sends_nothing():
    """A window that ends with no key left makes no batch, and the loader works on."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=0.1)

    async def main() -> None:
        loader.load(1).cancel()
        await asyncio.sleep(1.0)
        assert [] == plan
        assert 20 == await loader.load(2)

    run_virtual(main)
    assert [[2]] == plan


# D3: full batches


async def test_d3_a_full_batch_is_followed_by_the_next():
    """Keys beyond `max_batch_size` go to the next batch."""
    plan: list[list[int]] = []
    loader = recording(plan, max_batch_size=2)

    values = await within(asyncio.gather(*map(loader.load, range(5))))

    assert [0, 10, 20, 30, 40] == values
    assert [[0, 1], [2, 3], [4]] == plan


async def test_d3_load_many_is_split_into_full_batches():
    """One `load_many` over many batches gives its values in key order."""
    plan: list[list[int]] = []
    loader = recording(plan, max_batch_size=2)

    assert [0, 10, 20, 30, 40] == await within(loader.load_many(range(5)))
    assert [[0, 1], [2, 3], [4]] == plan


async def test_d3_load_many_fills_the_open_batch_first():
    """`load_many` tops up the batch that is open before it opens another."""
    plan: list[list[int]] = []
    loader = recording(plan, max_batch_size=3)

    first = loader.load(0)
    many = loader.load_many([1, 2, 3, 4])

    assert 0 == await within(first)
    assert [10, 20, 30, 40] == await within(many)
    assert [[0, 1, 2], [3, 4]] == plan


async def test_d3_a_full_batch_leaves_at_once():
    """A full batch does not wait for quiet ticks."""
    plan: list[list[int]] = []
    loader = recording(plan, max_batch_size=2)

    futures = [loader.load(1), loader.load(2)]

    assert await until(lambda: plan) <= 2
    assert [10, 20] == await within(asyncio.gather(*futures))


def test_d3_a_full_batch_leaves_before_its_window_ends():
    """A full batch does not wait for its window in seconds."""
    plan: list[list[int]] = []
    loader = recording(plan, max_batch_size=2, batch_window=60.0)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await loader.load_many([1, 2])
        return loop.time() - start

    assert 0.0 == run_virtual(main)
    assert [[1, 2]] == plan


async def test_d3_equal_keys_count_once():
    """Only distinct keys fill a batch."""
    plan: list[list[int]] = []
    loader = recording(plan, max_batch_size=2)

    values = await within(asyncio.gather(*map(loader.load, [1, 1, 1, 2, 1, 3])))

    assert [10, 10, 10, 20, 10, 30] == values
    assert [[1, 2], [3]] == plan


async def test_d3_keys_with_one_cache_key_count_once():
    """Distinct means distinct by cache key."""
    plan: list[list[str]] = []
    loader = recording(plan, max_batch_size=2, cache_key_fn=str.lower)

    await within(asyncio.gather(*map(loader.load, ["a", "A", "b", "B", "c"])))

    assert [["a", "b"], ["c"]] == plan


async def test_d3_hits_do_not_fill_a_batch():
    """A key that the memo holds takes no place in a batch."""
    plan: list[list[int]] = []
    loader = recording(plan, max_batch_size=2).prime(0, 0)

    assert [0, 10, 0, 20] == await within(loader.load_many([0, 1, 0, 2]))
    assert [[1, 2]] == plan


async def test_d3_batches_of_one_key():
    """`max_batch_size=1` sends each key by itself, in order."""
    plan: list[list[int]] = []
    loader = recording(plan, max_batch_size=1)

    values = await within(asyncio.gather(*map(loader.load, [3, 1, 2])))

    assert [30, 10, 20] == values
    assert [[3], [1], [2]] == plan


async def test_d3_a_deserted_key_never_makes_a_batch_too_large():
    """No batch is larger than `max_batch_size` when a deserted key is wanted again."""
    plan: list[list[int]] = []
    loader = recording(plan, max_batch_size=2)

    loader.load(1).cancel()
    futures = [loader.load(key) for key in (2, 1, 3)]

    assert [20, 10, 30] == await within(asyncio.gather(*futures))
    assert [1, 2, 3] == sorted(key for keys in plan for key in keys)
    assert max(map(len, plan)) <= 2


@pytest.mark.parametrize("size", [0, -1])
def test_d3_a_batch_size_below_one_is_refused(size: int):
    """A `max_batch_size` below one is a `ConfigurationError` that is a `ValueError`."""
    with pytest.raises(ConfigurationError, match=f"max_batch_size.*{size}") as caught:
        recording([], max_batch_size=size)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("size", ["2", 2.5, 2.0, [2]])
def test_d3_a_batch_size_that_is_no_int_is_refused(size: object):
    """A `max_batch_size` that is no int is a `ConfigurationError` that is a `TypeError`."""
    with pytest.raises(ConfigurationError, match="max_batch_size") as caught:
        recording([], max_batch_size=size)
    assert isinstance(caught.value, TypeError)


# D4: the list of keys


async def test_d4_keys_stand_in_the_order_of_their_first_load():
    """The batch function gets the keys in first-load order."""
    plan: list[list[int]] = []
    loader = recording(plan)

    await within(asyncio.gather(*map(loader.load, [3, 1, 3, 2, 1])))

    assert [[3, 1, 2]] == plan


async def test_d4_load_and_load_many_share_one_order():
    """Keys of `load` and of `load_many` stand in one batch, in the order they came."""
    plan: list[list[int]] = []
    loader = recording(plan)

    await within(asyncio.gather(loader.load(2), loader.load_many([1, 2, 4]), loader.load(3)))

    assert [[2, 1, 4, 3]] == plan


async def test_d4_the_keys_are_a_list():
    """The batch function gets a `list`."""
    types: list[type] = []

    async def load_fn(keys: list[int]) -> list[int]:
        types.append(type(keys))
        return keys

    loader = DataLoader(load_fn)
    assert 1 == await within(loader.load(1))
    assert [2, 3] == await within(loader.load_many((2, 3)))
    assert [list, list] == types


async def test_d4_each_key_is_asked_under_the_object_that_was_loaded_first():
    """With a `cache_key_fn` the batch function gets the first original of equal keys."""
    plan: list[list[str]] = []
    loader = recording(plan, cache_key_fn=str.lower)

    values = await within(asyncio.gather(*map(loader.load, ["B", "a", "b", "A"])))

    assert ["B" * 10, "a" * 10, "B" * 10, "a" * 10] == values
    assert [["B", "a"]] == plan


@pytest.mark.parametrize(
    "mutate",
    [
        pytest.param(lambda keys: keys.clear(), id="clear"),
        pytest.param(lambda keys: keys.pop(), id="pop"),
        pytest.param(lambda keys: keys.append(99), id="append"),
        pytest.param(lambda keys: keys.reverse(), id="reverse"),
        pytest.param(lambda keys: keys.__setitem__(slice(None), [[]]), id="replace"),
    ],
)
async def test_d4_a_batch_function_may_spoil_its_list(mutate: Callable[[list[int]], Any]):
    """A batch function that changes its list of keys hurts nobody."""

    async def load_fn(keys: list[int]) -> list[int]:
        values = [key * 10 for key in keys]
        mutate(keys)
        await ticks(2)
        return values

    loader = DataLoader(load_fn)
    values = await within(asyncio.gather(loader.load(1), loader.load(2), loader.load_many([2, 3])))

    assert [10, 20, [20, 30]] == values
    assert [10, 20, 30] == [loader.peek(key) for key in (1, 2, 3)]


async def test_d4_a_mapping_result_is_read_by_the_keys_that_were_asked():
    """A cleared list of keys does not hide the values of a mapping result."""

    async def load_fn(keys: list[int]) -> dict[int, int]:
        values = {key: key * 10 for key in keys}
        keys.clear()
        return values

    assert [10, 20] == await within(DataLoader(load_fn).load_many([1, 2]))


async def test_d4_a_batch_function_that_returns_its_own_list_may_change_it_later():
    """What happens to the returned list after the batch changes no remembered value."""
    kept: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        kept.append(keys)
        return keys

    loader = DataLoader(load_fn)
    assert [1, 2] == await within(loader.load_many([1, 2]))
    kept[0][:] = [7, 8]

    assert [1, 2] == await within(loader.load_many([1, 2]))


# D5: hits resolve with the open batch


async def test_d5_a_hit_with_no_open_batch_is_done():
    """With no open batch a hit is a future that is already done."""
    loader = recording([])
    await within(loader.load(1))

    hit = loader.load(1)

    assert hit.done()
    assert 10 == hit.result()


async def test_d5_a_hit_waits_for_the_open_batch_of_its_loader():
    """While a batch is open a hit is pending, and resolves with the batch."""
    gate = Gate()
    loader = DataLoader(gate.load_fn).prime(1, 10)

    other = loader.load(2)
    hit = loader.load(1)
    assert not hit.done()
    await until(lambda: gate.answers)
    assert not hit.done()
    gate.answers[0].set_result([20])

    assert [20, 10] == await within(asyncio.gather(other, hit))
    assert [[2]] == gate.plan


async def test_d5_follow_on_loads_of_a_hit_and_of_a_miss_share_a_batch():
    """What a hit leads to is loaded together with what its batch leads to."""
    gate = Gate()
    loader = DataLoader(gate.load_fn).prime(1, 10)

    async def follow(key: int) -> Any:
        return await loader.load(await loader.load(key))

    tasks = [asyncio.create_task(follow(key)) for key in (2, 1)]
    await until(lambda: gate.answers)
    await ticks(30)
    gate.answers[0].set_result([20])
    await until(lambda: len(gate.answers) == 2)
    gate.answers[1].set_result(["twenty", "ten"])

    assert ["twenty", "ten"] == await within(asyncio.gather(*tasks))
    assert [[2], [20, 10]] == gate.plan


async def test_d5_a_hit_beside_a_running_batch_is_done():
    """A batch that has left holds back no hit."""
    gate = Gate()
    loader = DataLoader(gate.load_fn).prime(1, 10)

    other = loader.load(2)
    await until(lambda: gate.answers)
    hit = loader.load(1)

    assert hit.done()
    gate.answers[0].set_result([20])
    assert 20 == await within(other)


async def test_d5_another_loaders_open_batch_holds_back_no_hit():
    """A hit waits for the open batch of its own loader only."""
    loader = recording([]).prime(1, 10)
    other = recording([])

    future = other.load(1)

    assert loader.load(1).done()
    assert 10 == await within(future)


async def test_d5_a_hit_that_waits_for_a_batch_that_fails_has_its_value():
    """The failure of the open batch is not the hit's failure."""

    async def load_fn(keys: list[int]) -> list[int]:
        raise ValueError("failed")

    loader = DataLoader(load_fn).prime(1, 10)
    other = loader.load(2)
    hit = loader.load(1)

    assert 10 == await within(hit)
    with pytest.raises(ValueError, match="failed"):
        await within(other)


async def test_d5_a_hit_that_waits_for_a_batch_with_a_bad_result_has_its_value():
    """A bad result of the open batch is not the hit's failure."""

    async def load_fn(keys: list[int]) -> Any:
        return None

    loader: DataLoader[int, int] = DataLoader(load_fn).prime(1, 10)
    other = loader.load(2)
    hit = loader.load(1)

    assert 10 == await within(hit)
    with pytest.raises(TypeError):
        await within(other)


async def test_d5_a_hit_that_waits_for_a_batch_that_empties_has_its_value():
    """A hit is not left behind when all keys of the open batch are cancelled."""
    plan: list[list[int]] = []
    loader = recording(plan).prime(1, 10)

    other = loader.load(2)
    hit = loader.load(1)
    other.cancel()

    assert 10 == await within(hit)
    assert [] == plan


async def test_d5_a_hit_that_waits_for_a_batch_that_is_primed_away_has_its_value():
    """A hit is not left behind when the last key of the open batch is primed."""
    plan: list[list[int]] = []
    loader = recording(plan).prime(1, 10)

    other = loader.load(2)
    hit = loader.load(1)
    loader.prime(2, 22)

    assert [22, 10] == await within(asyncio.gather(other, hit))
    assert [] == plan


async def test_d5_a_hit_that_waits_for_a_batch_that_is_deserted_has_its_value():
    """A hit is not left behind when a running batch is cancelled for want of waiters."""
    gate = Gate()
    loader = DataLoader(gate.load_fn).prime(1, 10)

    other = loader.load(2)
    hit = loader.load(1)
    await until(lambda: gate.answers)
    other.cancel()

    assert 10 == await within(hit)
    await until(lambda: gate.cancelled)


def test_d5_a_hit_that_waits_for_a_batch_that_times_out_has_its_value():
    """The timeout of the open batch is not the hit's failure."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, load_timeout=1.0).prime(1, 10)

    async def main() -> None:
        other = loader.load(2)
        hit = loader.load(1)
        assert 10 == await hit
        with pytest.raises(LoadTimeoutError):
            await other

    run_virtual(main)


async def test_d5_a_hit_that_waits_for_a_batch_when_the_loader_closes_has_its_value():
    """`aclose` settles a waiting hit with the value that it has."""
    # reading: a hit has its value already, so closing settles it with that, not with an error.
    loader = recording([]).prime(1, 10)
    other = loader.load(2)
    hit = loader.load(1)

    await within(loader.aclose())

    assert 10 == await within(hit)
    with pytest.raises(LoadCancelledError):
        await within(other)


async def test_d5_a_cancelled_hit_disturbs_nothing():
    """A hit that is cancelled while it waits leaves the batch and other hits alone."""
    plan: list[list[int]] = []
    loader = recording(plan).prime(1, 10)

    other = loader.load(2)
    cancelled = loader.load(1)
    hit = loader.load(1)
    assert cancelled is not hit
    cancelled.cancel()

    assert [20, 10] == await within(asyncio.gather(other, hit))
    assert 10 == await within(loader.load(1))
    assert [[2]] == plan


async def test_d5_a_hit_keeps_the_value_it_was_promised():
    """A value that is cleared and primed anew while a hit waits is not the hit's value."""
    loader = recording([]).prime(1, "old")

    other = loader.load(2)
    hit = loader.load(1)
    loader.clear(1).prime(1, "new")

    assert [20, "old"] == await within(asyncio.gather(other, hit))
    assert "new" == await within(loader.load(1))


async def test_d5_a_hit_on_an_error_waits_too():
    """A remembered error is a hit like any other: it comes with the open batch."""
    loader = recording([]).prime(1, ValueError("primed"))

    other = loader.load(2)
    hit = loader.load(1)
    assert not hit.done()

    assert 20 == await within(other)
    with pytest.raises(ValueError, match="primed"):
        await within(hit)


async def test_d5_load_many_of_hits_resolves_with_the_open_batch():
    """A `load_many` that finds everything in the memo comes with the open batch."""
    gate = Gate()
    loader = DataLoader(gate.load_fn).prime_many({1: 10, 2: 20})

    other = loader.load(3)
    many = asyncio.ensure_future(loader.load_many([1, 2]))
    await until(lambda: gate.answers)
    await ticks(3)
    assert not many.done()
    gate.answers[0].set_result([30])

    assert [[10, 20], 30] == await within(asyncio.gather(many, other))
    assert [[3]] == gate.plan


async def test_d5_load_many_of_hits_and_misses_with_no_open_batch():
    """A `load_many` of hits and misses asks for the misses only."""
    plan: list[list[int]] = []
    loader = recording(plan).prime_many({1: 11, 3: 33})

    assert [11, 20, 33, 40] == await within(loader.load_many([1, 2, 3, 4]))
    assert [[2, 4]] == plan


async def test_d5_a_hit_waits_for_the_batch_that_was_open_when_it_came():
    """When the open batch fills up and leaves, its hits leave with it and with no later one."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, max_batch_size=2).prime(0, 0)

    futures = [loader.load(1)]
    hit = loader.load(0)
    futures += [loader.load(2), loader.load(3)]
    await until(lambda: len(gate.answers) == 2)
    gate.answers[0].set_result([10, 20])

    assert 0 == await within(hit)
    gate.answers[1].set_result([30])
    assert [10, 20, 30] == await within(asyncio.gather(*futures))


# D6: who waits for whom


async def test_d6_batches_of_two_loaders_run_at_the_same_time():
    """Two loaders in flight never wait for each other."""
    running = 0
    both = asyncio.Event()

    async def load_fn(keys: list[int]) -> list[int]:
        nonlocal running
        running += 1
        if running == 2:
            both.set()
        await both.wait()
        return keys

    left, right = DataLoader(load_fn), DataLoader(load_fn)

    assert [1, 1] == await within(asyncio.gather(left.load(1), right.load(1)))


async def test_d6_two_batches_of_one_loader_run_at_the_same_time():
    """Without a limit the batches of one loader never wait for each other."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, max_batch_size=1)

    futures = [loader.load(1), loader.load(2)]
    await until(lambda: len(gate.answers) == 2)
    gate.answers[1].set_result([20])
    gate.answers[0].set_result([10])

    assert [10, 20] == await within(asyncio.gather(*futures))


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_d6_no_more_batches_than_the_limit_run_at_one_time(limit: int):
    """`max_concurrent_batches` bounds the batches that run, and all of them run."""
    slot = Slot()

    async def load_fn(keys: list[int]) -> list[int]:
        await slot.work()
        return keys

    loader = DataLoader(load_fn, max_batch_size=1, max_concurrent_batches=limit)

    assert list(range(10)) == await within(loader.load_many(range(10)))
    assert limit == slot.peak


async def test_d6_loaders_that_share_a_limiter_take_turns():
    """Batches of two loaders with `limiter=asyncio.Semaphore(1)` never overlap."""
    slot = Slot()
    limiter = asyncio.Semaphore(1)

    async def load_fn(keys: list[int]) -> list[int]:
        await slot.work()
        return keys

    loaders = [DataLoader(load_fn, limiter=limiter) for _ in range(5)]

    values = await within(asyncio.gather(*(loader.load(1) for loader in loaders)))

    assert [1] * 5 == values
    assert 1 == slot.peak
    assert not limiter.locked()


async def test_d6_a_limiter_may_be_any_async_context_manager():
    """A limiter is entered and left once per batch, and needs no more than those two."""
    events: list[str] = []

    class Limiter:
        async def __aenter__(self) -> None:
            events.append("enter")

        async def __aexit__(self, *exc: object) -> None:
            events.append("exit")

    async def load_fn(keys: list[int]) -> list[int]:
        events.append("batch")
        return keys

    loader = DataLoader(load_fn, limiter=Limiter())
    await within(loader.load_many([1, 2]))
    await within(loader.load(3))
    await ticks(3)

    assert ["enter", "batch", "exit"] * 2 == events


async def test_d6_a_limiter_and_a_limit_both_hold():
    """A loader with both a limiter and `max_concurrent_batches` keeps both."""
    own, shared = Slot(), Slot()
    limiter = asyncio.Semaphore(2)

    async def limited(keys: list[int]) -> list[int]:
        await asyncio.gather(own.work(), shared.work())
        return keys

    async def free(keys: list[int]) -> list[int]:
        await shared.work()
        return keys

    one = DataLoader(limited, max_batch_size=1, limiter=limiter, max_concurrent_batches=1)
    two = DataLoader(free, max_batch_size=1, limiter=limiter)

    await within(asyncio.gather(one.load_many(range(5)), two.load_many(range(5))))

    assert 1 == own.peak
    assert 2 == shared.peak


@pytest.mark.parametrize("depth", [3, 30])
async def test_d6_a_tree_of_parents_is_walked_with_a_limit_of_one(depth: int):
    """A batch function that loads its keys' parents works with `max_concurrent_batches=1`."""

    async def path(keys: list[int]) -> list[list[int]]:
        paths = []
        for key in keys:
            above = await loader.load(key - 1) if key else []
            paths.append([*above, key])
        return paths

    loader: DataLoader[int, list[int]] = DataLoader(path, max_concurrent_batches=1)

    assert list(range(depth + 1)) == await within(loader.load(depth))


async def test_d6_a_tree_of_parents_is_walked_with_load_many():
    """Recursion by `load_many` works with `max_concurrent_batches=1` too."""

    async def depth(keys: list[int]) -> list[int]:
        above = await loader.load_many([key // 2 for key in keys if key])
        depths = iter(above)
        return [next(depths) + 1 if key else 0 for key in keys]

    loader: DataLoader[int, int] = DataLoader(depth, max_concurrent_batches=1)

    assert [4, 4] == await within(loader.load_many([8, 9]))


async def test_d6_a_batch_function_may_use_a_loader_of_the_same_limiter():
    """With `Semaphore(1)` shared, one loader's batch function loads from the other."""
    limiter = asyncio.Semaphore(1)
    plan: list[list[int]] = []
    inner = recording(plan, limiter=limiter)

    async def load_fn(keys: list[int]) -> list[int]:
        return await inner.load_many(keys)

    outer = DataLoader(load_fn, limiter=limiter)

    assert [10, 20] == await within(asyncio.gather(outer.load(1), outer.load(2)))
    assert [[1, 2]] == plan
    assert not limiter.locked()


async def test_d6_a_lock_that_is_not_reentrant_is_entered_once_by_a_nested_batch():
    """A nested batch runs inside the slot of its holder instead of taking another."""
    entered = 0

    class Limiter:
        def __init__(self) -> None:
            self.lock = asyncio.Lock()

        async def __aenter__(self) -> None:
            nonlocal entered
            entered += 1
            await self.lock.acquire()

        async def __aexit__(self, *exc: object) -> None:
            self.lock.release()

    limiter = Limiter()
    leaf = recording([], limiter=limiter)

    async def middle_fn(keys: list[int]) -> list[int]:
        return await leaf.load_many(keys)

    middle = DataLoader(middle_fn, limiter=limiter)

    async def root_fn(keys: list[int]) -> list[int]:
        return await middle.load_many(keys)

    root = DataLoader(root_fn, limiter=limiter)

    assert 10 == await within(root.load(1))
    assert 1 == entered
    await ticks(3)
    assert not limiter.lock.locked()


async def test_d6_two_children_in_one_slot_take_turns():
    """Two batches that one holder waits for do not run at the same time in its slot."""
    limiter = asyncio.Semaphore(1)
    slot = Slot()

    async def leaf(keys: list[int]) -> list[int]:
        await slot.work()
        return keys

    left, right = DataLoader(leaf, limiter=limiter), DataLoader(leaf, limiter=limiter)

    async def both(keys: list[int]) -> list[list[int]]:
        return [await asyncio.gather(left.load(key), right.load(key)) for key in keys]

    root = DataLoader(both, limiter=limiter)

    assert [1, 1] == await within(root.load(1))
    assert 1 == slot.peak


async def test_d6_two_child_batches_of_one_loader_take_turns():
    """Two batches of one loader that the holder waits for take turns in its slot."""
    slot = Slot()

    async def load_fn(keys: list[int]) -> list[int]:
        if keys == [0]:
            return [sum(await loader.load_many([1, 2, 3]))]
        await slot.work()
        return keys

    loader: DataLoader[int, int] = DataLoader(load_fn, max_batch_size=1, max_concurrent_batches=1)

    assert 6 == await within(loader.load(0))
    assert 1 == slot.peak


async def test_d6_children_of_children_take_turns():
    """However deep the nesting, one slot never holds two batches at work."""
    limiter = asyncio.Semaphore(1)
    slot = Slot()

    async def walk(keys: list[int]) -> list[int]:
        await slot.work()
        below = [
            await asyncio.gather(*(tree.load(k * 3 + n) for n in (1, 2, 3))) if k < 5 else []
            for k in keys
        ]
        await slot.work()
        return [1 + sum(values) for values in below]

    tree: DataLoader[int, int] = DataLoader(walk, max_batch_size=1, limiter=limiter)

    # Nodes 0 to 4 have three children each.
    assert 16 == await within(tree.load(0))
    assert 1 == slot.peak
    await ticks(3)
    assert not limiter.locked()


async def test_d6_an_outsider_does_not_run_inside_a_slot():
    """A batch that the holder does not wait for waits until the slot is free."""
    limiter = asyncio.Semaphore(1)
    slot = Slot()
    order: list[str] = []

    def working(label: str) -> Callable[[list[int]], Any]:
        async def load_fn(keys: list[int]) -> list[int]:
            await slot.work()
            order.append(label)
            return keys

        return load_fn

    child = DataLoader(working("child"), limiter=limiter)
    outsider = DataLoader(working("outsider"), limiter=limiter)
    started = asyncio.Event()

    async def parent_fn(keys: list[int]) -> list[int]:
        started.set()
        await slot.work(20)
        await child.load_many(keys)
        await slot.work(20)
        order.append("parent")
        return keys

    parent = DataLoader(parent_fn, limiter=limiter)
    first = parent.load(1)
    await within(started.wait())
    second = outsider.load(1)

    assert [1, 1] == await within(asyncio.gather(first, second))
    assert ["child", "parent", "outsider"] == order
    assert 1 == slot.peak


async def test_d6_a_queued_batch_that_the_holder_joins_runs_in_its_slot():
    """A batch that queues for a slot runs in it when the holder comes to wait for it."""
    limiter = asyncio.Semaphore(1)
    plan: list[list[int]] = []
    inner = recording(plan, limiter=limiter)
    started, go = asyncio.Event(), asyncio.Event()

    async def load_fn(keys: list[int]) -> list[int]:
        started.set()
        await go.wait()
        return await inner.load_many(keys)

    outer = DataLoader(load_fn, limiter=limiter)
    first = outer.load(7)
    await within(started.wait())
    second = inner.load(7)
    await ticks(30)
    assert [] == plan
    go.set()

    assert [70, 70] == await within(asyncio.gather(first, second))
    assert [[7]] == plan


async def test_d6_a_queued_batch_of_the_same_loader_that_the_holder_joins_runs_in_its_slot():
    """With a limit of one, a holder may come to wait for its own loader's queued batch."""
    started, go = asyncio.Event(), asyncio.Event()
    plan: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        plan.append(keys)
        if keys == [1]:
            started.set()
            await go.wait()
            return [await loader.load(2)]
        return keys

    loader: DataLoader[int, int] = DataLoader(load_fn, max_concurrent_batches=1)
    first = loader.load(1)
    await within(started.wait())
    second = loader.load(2)
    await ticks(30)
    assert [[1]] == plan
    go.set()

    assert [2, 2] == await within(asyncio.gather(first, second))


async def test_d6_a_batch_queued_behind_others_is_reached_by_its_holder():
    """A holder that joins the last of many queued batches does not wait for the others."""
    limiter = asyncio.Semaphore(1)
    plan: list[list[int]] = []
    queued = recording(plan, limiter=limiter, max_batch_size=1)
    started, go = asyncio.Event(), asyncio.Event()

    async def load_fn(keys: list[int]) -> list[int]:
        started.set()
        await go.wait()
        return [await queued.load(5) for _ in keys]

    outer = DataLoader(load_fn, limiter=limiter)
    first = outer.load(0)
    await within(started.wait())
    rest = [queued.load(key) for key in range(1, 6)]
    await ticks(30)
    assert [] == plan
    go.set()

    assert 50 == await within(first)
    assert [10, 20, 30, 40, 50] == await within(asyncio.gather(*rest))
    assert [1, 2, 3, 4, 5] == sorted(key for keys in plan for key in keys)
    await ticks(3)
    assert not limiter.locked()


async def test_d6_two_loaders_with_a_limit_of_one_each_may_call_each_other():
    """Mutual recursion works when each loader runs one batch at a time."""

    async def even_fn(keys: list[int]) -> list[int]:
        return [await odd.load(key - 1) + 1 if key else 0 for key in keys]

    async def odd_fn(keys: list[int]) -> list[int]:
        return [await even.load(key - 1) + 1 for key in keys]

    even: DataLoader[int, int] = DataLoader(even_fn, max_concurrent_batches=1)
    odd: DataLoader[int, int] = DataLoader(odd_fn, max_concurrent_batches=1)

    assert 10 == await within(even.load(10))


async def test_d6_two_roots_that_cross_two_limits_do_not_hang():
    """Two holders that each wait for a batch queued behind the other both finish."""
    left_started, right_started = asyncio.Event(), asyncio.Event()

    async def left_fn(keys: list[int]) -> list[int]:
        if keys == [1]:
            left_started.set()
            await right_started.wait()
            return await right.load_many([2])
        return keys

    async def right_fn(keys: list[int]) -> list[int]:
        if keys == [1]:
            right_started.set()
            await left_started.wait()
            return await left.load_many([2])
        return keys

    left: DataLoader[int, int] = DataLoader(left_fn, max_concurrent_batches=1)
    right: DataLoader[int, int] = DataLoader(right_fn, max_concurrent_batches=1)

    # reading: "a batch that the holder of a slot waits for" includes waiting through others.
    assert [2, 2] == await within(asyncio.gather(left.load(1), right.load(1)))


async def test_d6_a_slot_is_free_again_after_a_failure():
    """A batch that fails, or that nests one that fails, gives its slot back."""
    limiter = asyncio.Semaphore(1)

    async def failing(keys: list[int]) -> list[int]:
        raise ValueError("failed")

    inner = DataLoader(failing, limiter=limiter)

    async def nesting(keys: list[int]) -> list[int]:
        return await inner.load_many(keys)

    outer = DataLoader(nesting, limiter=limiter)
    with pytest.raises(ValueError, match="failed"):
        await within(outer.load(1))
    await ticks(3)

    assert not limiter.locked()
    assert 10 == await within(recording([], limiter=limiter).load(1))


async def test_d6_a_slot_is_free_again_after_a_desertion():
    """A running batch that is cancelled for want of waiters gives its slot back."""
    limiter = asyncio.Semaphore(1)
    gate = Gate()
    future = DataLoader(gate.load_fn, limiter=limiter).load(1)
    await until(lambda: gate.answers)
    future.cancel()
    await until(lambda: gate.cancelled)
    await ticks(3)

    assert not limiter.locked()


async def test_d6_a_deserted_batch_leaves_the_queue():
    """A batch that is deserted while it queues is never asked for and takes no slot."""
    limiter = asyncio.Semaphore(1)
    plan: list[list[int]] = []
    loader = recording(plan, limiter=limiter)

    async with limiter:
        deserted = loader.load(1)
        await ticks(20)
        deserted.cancel()
        await ticks(5)
        future = loader.load(2)
        await ticks(20)

    assert 20 == await within(future)
    assert [[2]] == plan
    await ticks(3)
    assert not limiter.locked()


async def test_d6_a_limiter_that_fails_fails_the_batch():
    """What a limiter raises on entry is raised to every waiter, and is not remembered."""
    broken = True

    class Limiter:
        async def __aenter__(self) -> None:
            if broken:
                raise ConnectionError("no slot")

        async def __aexit__(self, *exc: object) -> None:
            return None

    plan: list[list[int]] = []
    loader = recording(plan, limiter=Limiter())
    results = await within(loader.load_many([1, 2], return_exceptions=True))
    broken = False

    assert [ConnectionError, ConnectionError] == [type(result) for result in results]
    assert 10 == await within(loader.load(1))
    assert [[1]] == plan


async def test_d6_a_limiter_that_fails_on_exit_leaves_nobody_waiting():
    """A limiter that raises on exit hangs no waiter; whom it is reported to is left open."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: None)

    class Limiter:
        async def __aenter__(self) -> None:
            return None

        async def __aexit__(self, *exc: object) -> None:
            raise ConnectionError("lost")

    loader = recording([], limiter=Limiter())
    futures = [loader.load(1), loader.load(2)]

    await within(asyncio.wait(futures))
    assert all(future.done() for future in futures)
    for future in futures:
        assert future.exception() is None or isinstance(future.exception(), ConnectionError)


async def test_d6_a_limiter_that_swallows_an_error_leaves_nobody_waiting():
    """A limiter whose exit returns true does not hide a failure from the waiters."""

    class Limiter:
        async def __aenter__(self) -> None:
            return None

        async def __aexit__(self, *exc: object) -> bool:
            return True

    async def load_fn(keys: list[int]) -> list[int]:
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        await within(DataLoader(load_fn, limiter=Limiter()).load(1))


# D7: the context of a batch


def in_context(value: str, make: Callable[[], Any]) -> Any:
    """Call `make` in a context in which `tenant` is `value`."""

    def call() -> Any:
        tenant.set(value)
        return make()

    return contextvars.copy_context().run(call)


async def test_d7_a_batch_runs_in_the_context_in_which_the_loader_was_made():
    """The batch function sees the maker's context and not its caller's."""
    seen: list[str] = []

    async def load_fn(keys: list[int]) -> list[int]:
        seen.append(tenant.get())
        await asyncio.sleep(0)
        seen.append(tenant.get())
        return keys

    loader = in_context("maker", lambda: DataLoader(load_fn))

    assert 1 == await within(in_context("caller", lambda: asyncio.ensure_future(loader.load(1))))
    assert ["maker", "maker"] == seen


@pytest.mark.parametrize("size", [None, 1])
async def test_d7_callers_of_two_tenants_share_a_batch_without_a_leak(size: int | None):
    """Neither the first nor the last caller's context reaches the batch function."""
    seen: list[str] = []

    async def load_fn(keys: list[int]) -> list[int]:
        seen.append(tenant.get())
        return keys

    loader = in_context("maker", lambda: DataLoader(load_fn, size))

    async def call(name: str, key: int) -> int:
        tenant.set(name)
        return await loader.load(key)

    tasks = [asyncio.create_task(call("alice", 1)), asyncio.create_task(call("mallory", 2))]

    assert [1, 2] == await within(asyncio.gather(*tasks))
    assert {"maker"} == set(seen)


async def test_d7_dispatch_does_not_lend_its_callers_context():
    """A batch that `dispatch()` sends runs in the maker's context too."""
    seen: list[str] = []

    async def load_fn(keys: list[int]) -> list[int]:
        seen.append(tenant.get())
        return keys

    loader = in_context("maker", lambda: DataLoader(load_fn))
    future = in_context("caller", lambda: loader.load(1))
    in_context("dispatcher", loader.dispatch)

    assert 1 == await within(future)
    assert ["maker"] == seen


async def test_d7_a_loader_made_in_an_empty_context_stays_in_one():
    """An empty `contextvars.Context` is a context, although it is falsy."""
    seen: list[str] = []

    async def load_fn(keys: list[int]) -> list[int]:
        seen.append(tenant.get())
        return keys

    loader = contextvars.Context().run(lambda: DataLoader(load_fn))
    future = in_context("caller", lambda: loader.load(1))

    assert 1 == await within(future)
    assert ["nobody"] == seen


async def test_d7_a_later_change_in_the_makers_context_is_not_seen():
    """The context is the one of the moment in which the loader was made."""
    seen: list[str] = []

    async def load_fn(keys: list[int]) -> list[int]:
        seen.append(tenant.get())
        return keys

    async def make_and_load() -> int:
        tenant.set("then")
        loader = DataLoader(load_fn)
        tenant.set("later")
        return await loader.load(1)

    assert 1 == await within(asyncio.create_task(make_and_load()))
    assert ["then"] == seen


async def test_d7_each_batch_runs_in_a_copy():
    """What one batch sets in its context neither the next batch nor the caller sees."""
    seen: list[str] = []

    async def load_fn(keys: list[int]) -> list[int]:
        seen.append(tenant.get())
        tenant.set(f"batch {keys}")
        return keys

    loader = in_context("maker", lambda: DataLoader(load_fn))
    await within(loader.load(1))
    await within(loader.load(2))

    assert ["maker", "maker"] == seen
    assert "nobody" == tenant.get()


async def test_d7_a_batch_of_a_batch_runs_in_its_own_makers_context():
    """A batch that another batch leads to does not inherit that one's context."""
    seen: list[str] = []

    async def inner_fn(keys: list[int]) -> list[int]:
        seen.append(tenant.get())
        return keys

    inner = in_context("inner maker", lambda: DataLoader(inner_fn))

    async def outer_fn(keys: list[int]) -> list[int]:
        seen.append(tenant.get())
        return await inner.load_many(keys)

    outer = in_context("outer maker", lambda: DataLoader(outer_fn))

    assert 1 == await within(outer.load(1))
    assert ["outer maker", "inner maker"] == seen


async def test_d7_a_plain_function_that_returns_an_awaitable_is_called_in_the_context():
    """Also the part of a batch function before its first await sees the maker's context."""
    seen: list[str] = []

    async def answer(keys: list[int]) -> list[int]:
        return keys

    def load_fn(keys: list[int]) -> Any:
        seen.append(tenant.get())
        return answer(keys)

    loader = in_context("maker", lambda: DataLoader(load_fn))
    future = in_context("caller", lambda: loader.load(1))

    assert 1 == await within(future)
    assert ["maker"] == seen


async def test_d7_the_callers_own_context_is_untouched():
    """A caller finds its own context after its load as before it."""
    loader = in_context("maker", lambda: recording([]))

    async def call() -> str:
        tenant.set("caller")
        await loader.load(1)
        return tenant.get()

    assert "caller" == await within(asyncio.create_task(call()))


# D8: cache=False


async def test_d8_nothing_is_remembered_after_the_batch():
    """Without a cache the same key is asked in every batch."""
    plan: list[list[int]] = []
    loader = recording(plan, cache=False)

    assert 10 == await within(loader.load(1))
    assert 10 == await within(loader.load(1))
    assert [[1], [1]] == plan
    assert "absent" == loader.peek(1, "absent")


async def test_d8_equal_keys_of_one_batch_are_asked_once():
    """Without a cache a batch still holds distinct keys."""
    plan: list[list[int]] = []
    loader = recording(plan, cache=False)

    values = await within(asyncio.gather(loader.load(1), loader.load(1), loader.load_many([1, 1])))

    assert [10, 10, [10, 10]] == values
    assert [[1]] == plan


async def test_d8_equal_keys_over_full_batches_are_asked_once_per_batch():
    """Without a cache a key that is in a batch that has left is asked again."""
    plan: list[list[int]] = []
    loader = recording(plan, cache=False, max_batch_size=2)

    assert [10, 20, 10, 30] == await within(asyncio.gather(*map(loader.load, [1, 2, 1, 3])))
    assert [[1, 2], [1, 3]] == plan


async def test_d8_a_running_batch_is_not_joined():
    """Without a cache a load beside a running batch asks afresh."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, cache=False)

    first = loader.load(1)
    await until(lambda: len(gate.answers) == 1)
    second = loader.load(1)
    await until(lambda: len(gate.answers) == 2)
    gate.answers[1].set_result(["new"])
    gate.answers[0].set_result(["old"])

    assert ["old", "new"] == await within(asyncio.gather(first, second))
    assert [[1], [1]] == gate.plan


async def test_d8_prime_does_nothing():
    """Without a cache a primed value is forgotten at once."""
    plan: list[list[int]] = []
    loader = recording(plan, cache=False)

    assert loader is loader.prime(1, 99)
    assert loader is loader.prime(1, 99, force=True)
    assert loader is loader.prime_many({1: 99})

    assert "absent" == loader.peek(1, "absent")
    assert 10 == await within(loader.load(1))
    assert [[1]] == plan


async def test_d8_prime_settles_no_waiter():
    """Without a cache priming a key of the open batch leaves the batch alone."""
    plan: list[list[int]] = []
    loader = recording(plan, cache=False)

    future = loader.load(1)
    loader.prime(1, 99)

    assert 10 == await within(future)
    assert [[1]] == plan


async def test_d8_errors_are_not_remembered_either():
    """Without a cache `cache_errors=True` remembers nothing."""
    plan: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[Any]:
        plan.append(list(keys))
        return [ValueError(len(plan)) for _ in keys]

    loader: DataLoader[int, Any] = DataLoader(load_fn, cache=False, cache_errors=True)
    for count in ("1", "2"):
        with pytest.raises(ValueError, match=count):
            await within(loader.load(1))
    assert [[1], [1]] == plan


async def test_d8_clear_is_harmless():
    """Without a cache the clearing methods do nothing and return the loader."""
    loader = recording([], cache=False)
    future = loader.load(1)

    assert loader is loader.clear(1).clear_many([1, 2]).clear_all()
    assert 10 == await within(future)


async def test_d8_cache_is_the_third_positional_parameter():
    """`DataLoader(load_fn, max_batch_size, cache)` takes strawberry's three in its order."""
    plan: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        plan.append(list(keys))
        return keys

    loader = DataLoader(load_fn, 2, False)
    await within(loader.load_many([1, 2, 3]))
    await within(loader.load(1))

    assert [[1, 2], [3], [1]] == plan


# How a batch function may be given


async def test_d4_a_partial_or_a_callable_object_may_be_the_batch_function():
    """A batch function without a `__name__` is called like any other."""

    async def times(factor: int, keys: list[int]) -> list[int]:
        return [key * factor for key in keys]

    class Times:
        async def __call__(self, keys: list[int]) -> list[int]:
            return await times(100, keys)

    assert 10 == await within(DataLoader(functools.partial(times, 10)).load(1))
    assert 100 == await within(DataLoader(Times()).load(1))
