"""A result cache behind a loader's memo: `DataLoader(result_cache=cache)`."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from dataloader_cache import AsyncCache, DataLoader
from dataloader_cache.errors import (
    ConfigurationError,
    KeyNotFoundError,
    LoadCancelledError,
    LoaderClosedError,
    LoaderDeadlockError,
    LoadTimeoutError,
)
from dataloader_cache.testing import BatchRecorder, ManualClock, run_virtual

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever
ABSENT = object()


async def ticks(count: int) -> None:
    """Let `count` turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(awaitable: Any) -> Any:
    """Wait for `awaitable`, but not for ever."""
    return await asyncio.wait_for(awaitable, GUARD)


async def until(condition: Callable[[], Any], limit: int = 500) -> None:
    """Wait some ticks until `condition` holds."""
    for _ in range(limit):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail(f"not reached within {limit} ticks")


async def outcomes(*awaitables: Any) -> list[Any]:
    """Wait for all and give each one's value or error."""
    futures = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await asyncio.wait(futures, timeout=GUARD)
    assert all(future.done() for future in futures), "a caller hangs"
    assert not any(future.cancelled() for future in futures), "a caller was cancelled"
    return [future.exception() or future.result() for future in futures]


class Broken(Exception):
    """What a batch fails with."""


class Backend:
    """A batch function that records its batches and answers a key with ten times itself."""

    def __init__(self) -> None:
        self.plan: list[list[Any]] = []

    async def load_fn(self, keys: list[Any]) -> list[Any]:
        self.plan.append(list(keys))
        await asyncio.sleep(0)
        return [key * 10 for key in keys]


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

    def answer(self, number: int = 0) -> None:
        """Answer a call with ten times its keys."""
        self.answers[number].set_result([key * 10 for key in self.plan[number]])


# The order in which is asked


async def test_a_value_goes_to_both():
    """What a batch brings is in the memo and in the result cache."""
    cache = AsyncCache()
    backend = Backend()
    loader = DataLoader(backend.load_fn, result_cache=cache)

    assert [10, 20] == await within(loader.load_many([1, 2]))

    assert [10, 20] == [cache.peek(key) for key in (1, 2)]
    assert [10, 20] == [loader.peek(key) for key in (1, 2)]


@pytest.mark.parametrize("way", ["load", "load_many"])
async def test_the_memo_is_asked_first(way: str):
    """A key of the memo is answered with the memo's value, whatever the result cache has now."""
    cache = AsyncCache()
    loader = DataLoader(Backend().load_fn, result_cache=cache)
    await within(loader.load(1))

    cache.set(1, "newer")
    hits = cache.stats.hits

    found = await within(loader.load(1) if way == "load" else loader.load_many([1]))
    assert (10 if way == "load" else [10]) == found
    assert hits == cache.stats.hits


@pytest.mark.parametrize("way", ["load", "load_many"])
async def test_the_result_cache_is_asked_before_the_batch_function(way: str):
    """A key that the result cache has is not in any batch."""
    cache = AsyncCache()
    backend = Backend()
    cache.set(1, "cached")
    loader = DataLoader(backend.load_fn, result_cache=cache)

    if way == "load":
        assert "cached" == await within(loader.load(1))
    else:
        assert ["cached"] == await within(loader.load_many([1]))

    await ticks(20)
    assert [] == backend.plan
    assert "cached" == loader.peek(1)


@pytest.mark.parametrize("way", ["load", "load_many"])
async def test_the_rest_is_one_batch(way: str):
    """Keys that nobody has go to the batch function together, in first-load order."""
    cache = AsyncCache()
    backend = Backend()
    cache.set(2, "cached")
    cache.set(4, "cached")
    loader = DataLoader(backend.load_fn, result_cache=cache)
    keys = [5, 2, 3, 4, 1, 5]

    if way == "load":
        found = await outcomes(*map(loader.load, keys))
    else:
        found = await within(loader.load_many(keys))

    assert [50, "cached", 30, "cached", 10, 50] == found
    assert [[5, 3, 1]] == backend.plan


async def test_the_next_request_finds_what_this_one_loaded():
    """Loaders of different requests share results through their cache."""
    cache = AsyncCache()
    backend = Backend()

    for _ in range(3):
        loader = DataLoader(backend.load_fn, result_cache=cache)
        assert [10, 20] == await within(loader.load_many([1, 2]))

    assert [[1, 2]] == backend.plan


@pytest.mark.parametrize("way", ["load", "load_many"])
async def test_flights_of_other_requests_are_joined(way: str):
    """A key that another request's loader is loading is not loaded again."""
    cache = AsyncCache()
    first, second = Gate(), Backend()
    one = DataLoader(first.load_fn, result_cache=cache)
    other = DataLoader(second.load_fn, result_cache=cache)
    running = one.load(1)
    await first.running()

    if way == "load":
        joined: list[Any] = [other.load(1), other.load(2)]
    else:
        joined = [asyncio.ensure_future(other.load_many([1, 2]))]
    await until(lambda: second.plan)
    await ticks(5)
    first.answer()

    found = await outcomes(running, *joined)
    assert ([10, 10, 20] if way == "load" else [10, [10, 20]]) == found
    assert ([[1]], [[2]]) == (first.plan, second.plan)


async def test_two_requests_at_the_same_time_load_a_key_once():
    """Loaders of two requests whose batches leave together ask for a common key once."""
    cache = AsyncCache()
    backend = Backend()
    loaders = [DataLoader(backend.load_fn, result_cache=cache) for _ in range(2)]

    found = await within(asyncio.gather(*(loader.load_many([1, 2]) for loader in loaders)))

    assert [[10, 20], [10, 20]] == found
    assert [1, 2] == sorted(key for keys in backend.plan for key in keys)


async def test_a_flight_of_the_caches_own_is_joined():
    """A key that `cache.get` is loading is joined by a loader."""
    cache = AsyncCache()
    backend, gate = Backend(), Gate()
    task = asyncio.ensure_future(cache.get(1, lambda: gate.load_fn([1])))
    await gate.running()
    loader = DataLoader(backend.load_fn, result_cache=cache)
    futures = [loader.load(1), loader.load(2)]
    await until(lambda: backend.plan)
    gate.answers[0].set_result("got")

    assert ["got", "got", 20] == await outcomes(task, *futures)
    assert [[2]] == backend.plan


async def test_a_loaders_flight_is_joined_by_the_cache():
    """A key that a loader is loading is joined by `cache.get` and `get_many`."""
    cache = AsyncCache()
    gate, backend = Gate(), Backend()
    loader = DataLoader(gate.load_fn, result_cache=cache)
    future = loader.load(1)
    await gate.running()
    single = asyncio.ensure_future(cache.get(1, lambda: backend.load_fn([1])))
    many = asyncio.ensure_future(cache.get_many([1, 2], backend.load_fn))
    await until(lambda: backend.plan)
    await ticks(5)
    gate.answer()

    assert [10, 10, {1: 10, 2: 20}] == await outcomes(future, single, many)
    assert [[2]] == backend.plan


async def test_none_is_a_value():
    """A `None` that the result cache has is not loaded again."""
    cache = AsyncCache()
    backend = Backend()
    cache.set(1, None)
    loader = DataLoader(backend.load_fn, result_cache=cache)

    assert [None, None] == await outcomes(loader.load(1), loader.load(1))
    assert [] == backend.plan


async def test_a_missing_key_of_a_mapping_is_remembered_as_none():
    """A key that a mapping result lacks is `None` in both."""
    cache = AsyncCache()
    plan: list[list[int]] = []

    async def load_fn(keys: list[int]) -> dict[int, int]:
        plan.append(list(keys))
        return {1: 10}

    for _ in range(2):
        loader = DataLoader(load_fn, result_cache=cache)
        assert [10, None] == await within(loader.load_many([1, 2]))
    assert [[1, 2]] == plan


async def test_a_key_that_was_not_found_is_no_value():
    """With `missing="raise"` nothing of a missing key is stored."""
    cache = AsyncCache()

    async def load_fn(keys: list[int]) -> dict[int, int]:
        return {1: 10}

    loader = DataLoader(load_fn, missing="raise", result_cache=cache)

    found = await outcomes(loader.load(1), loader.load(2))

    assert 10 == found[0]
    assert isinstance(found[1], KeyNotFoundError)
    assert [1] == [key for key in (1, 2) if key in cache]


async def test_values_live_as_long_as_the_cache_says():
    """The cache's TTL ends a value for the next request; the memo keeps it for this one."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    backend = Backend()
    loader = DataLoader(backend.load_fn, result_cache=cache)
    await within(loader.load(1))

    clock.advance(10)
    assert 10 == await within(loader.load(1))
    assert [[1]] == backend.plan
    assert 10 == await within(DataLoader(backend.load_fn, result_cache=cache).load(1))
    assert [[1], [1]] == backend.plan


async def test_hits_and_misses_of_the_cache_are_counted():
    """Each key that the memo lacks is a hit or a miss of the result cache."""
    cache = AsyncCache()
    backend = Backend()
    cache.set(1, "cached")
    loader = DataLoader(backend.load_fn, result_cache=cache)

    await within(loader.load_many([1, 2, 3]))
    await within(loader.load_many([1, 2, 3]))

    assert (1, 2) == (cache.stats.hits, cache.stats.misses)


async def test_a_cache_that_keeps_nothing_is_no_hindrance():
    """With `maxsize=0` a loader works as without a result cache."""
    cache = AsyncCache(maxsize=0)
    backend = Backend()
    loader = DataLoader(backend.load_fn, result_cache=cache)

    assert [10, 20] == await within(loader.load_many([1, 2]))
    assert [10, 20] == await within(loader.load_many([1, 2]))
    assert [[1, 2]] == backend.plan


async def test_more_keys_than_the_cache_has_room_for_are_all_answered():
    """A batch larger than the result cache answers everybody."""
    cache = AsyncCache(maxsize=3)
    loader = DataLoader(Backend().load_fn, result_cache=cache)

    assert [key * 10 for key in range(50)] == await within(loader.load_many(range(50)))
    assert 3 == len(cache)


async def test_d7_a_batch_runs_in_the_context_in_which_the_loader_was_made():
    """Neither in the empty one of the cache's own loads nor in that of who asks."""
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: list[str] = []

    async def load_fn(keys: list[int]) -> list[int]:
        seen.append(tenant.get())
        return keys

    tenant.set("maker")
    loader = DataLoader(load_fn, result_cache=AsyncCache())
    tenant.set("caller")

    assert 1 == await within(loader.load(1))
    assert ["maker"] == seen


async def test_max_batch_size_still_holds():
    """The loader's own bound on its batches is kept."""
    cache = AsyncCache(maxsize=None)
    backend = Backend()
    loader = DataLoader(backend.load_fn, max_batch_size=4, result_cache=cache)

    assert [key * 10 for key in range(10)] == await within(loader.load_many(range(10)))
    assert [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] == backend.plan


async def test_a_cache_key_function_makes_the_key_of_both():
    """Keys that are not hashable are known to the result cache by their cache key."""
    cache = AsyncCache()
    plan: list[list[list[int]]] = []

    async def load_fn(keys: list[list[int]]) -> list[int]:
        plan.append(list(keys))
        return [sum(key) for key in keys]

    for _ in range(2):
        loader = DataLoader(load_fn, cache_key_fn=tuple, result_cache=cache)
        assert [3, 7] == await within(loader.load_many([[1, 2], [3, 4]]))

    assert [[[1, 2], [3, 4]]] == plan
    assert 3 == cache.peek((1, 2))


# The window


def test_the_quiet_ticks_are_the_window_that_rules():
    """The loader's batch leaves after its quiet ticks: the cache's window adds no time."""

    async def main() -> None:
        cache = AsyncCache(batch_window=60)
        backend = Backend()
        loader = DataLoader(backend.load_fn, result_cache=cache)
        assert [10, 20] == await loader.load_many([1, 2])
        assert 30 == await loader.load(3)
        assert 0.0 == asyncio.get_running_loop().time()
        assert [[1, 2], [3]] == backend.plan

    run_virtual(main)


@pytest.mark.parametrize("gap", range(8))
async def test_loads_a_few_ticks_apart_are_one_batch(gap: int):
    """What the quiet ticks gather without a result cache they gather with one."""
    cache = AsyncCache()
    backend = Backend()
    for key in range(0, 12, 3):
        cache.set(key, "cached")
    loader = DataLoader(backend.load_fn, result_cache=cache)
    futures = []
    for key in range(12):
        futures.append(loader.load(key))
        if key % 3:
            await ticks(gap // 2)

    await outcomes(*futures)

    assert [[key for key in range(12) if key % 3]] == backend.plan


@pytest.mark.parametrize("cached", [False, True])
async def test_a_batch_leaves_in_the_same_tick_with_and_without_a_cache(cached: bool):
    """A result cache does not make a batch wait longer, within a few ticks."""
    # reading: asking memory costs no ticks to speak of.
    counts = []
    for cache in (None, AsyncCache()):
        backend = Backend()
        loader = DataLoader(backend.load_fn, result_cache=cache)
        loader.load(1)
        count = 0
        while not backend.plan:
            await asyncio.sleep(0)
            count += 1
            assert count < 100
        counts.append(count)
        await ticks(10)

    assert counts[1] <= counts[0] + 3


async def test_follow_on_loads_stay_together():
    """Loads that follow cached and loaded keys of one level are one batch of the next level."""
    cache = AsyncCache()
    backend = Backend()
    cache.set(1, 10)
    users = DataLoader(backend.load_fn, result_cache=cache)
    posts = Backend()
    post_loader = DataLoader(posts.load_fn)

    async def branch(key: int) -> Any:
        return await post_loader.load(await users.load(key))

    assert [100, 200, 300] == await within(asyncio.gather(*map(branch, (1, 2, 3))))
    assert [[2, 3]] == backend.plan
    assert [[10, 20, 30]] == posts.plan


# clear and prime


@pytest.mark.parametrize("how", ["clear", "clear_many"])
async def test_clear_reaches_both(how: str):
    """A key that was cleared is loaded again, by this request and the next."""
    cache = AsyncCache()
    backend = Backend()
    loader = DataLoader(backend.load_fn, result_cache=cache)
    await within(loader.load_many([1, 2]))

    if how == "clear":
        loader.clear(1)
    else:
        loader.clear_many([1])

    assert [2] == [key for key in (1, 2) if key in cache]
    await within(loader.load_many([1, 2]))
    assert [[1, 2], [1]] == backend.plan


async def test_clear_of_what_only_the_cache_has_reaches_it():
    """A key that this loader never saw is cleared from the result cache all the same."""
    cache = AsyncCache()
    cache.set(1, "cached")
    loader = DataLoader(Backend().load_fn, result_cache=cache)

    loader.clear(1)

    assert 1 not in cache
    assert 10 == await within(loader.load(1))


async def test_clear_of_an_absent_key_is_no_error():
    """Neither the memo nor the result cache minds."""
    loader = DataLoader(Backend().load_fn, result_cache=AsyncCache())

    assert loader is loader.clear("absent")


def test_clear_and_prime_work_without_a_loop():
    """Both reach the result cache where no loop runs."""
    cache = AsyncCache()
    loader = DataLoader(Backend().load_fn, result_cache=cache)

    loader.prime(1, 11)
    assert 11 == cache.peek(1)
    loader.clear(1)

    assert 1 not in cache


@pytest.mark.parametrize("how", ["prime", "prime_many"])
async def test_prime_writes_both(how: str):
    """A primed value is the next request's, too."""
    cache = AsyncCache()
    backend = Backend()
    loader = DataLoader(backend.load_fn, result_cache=cache)

    if how == "prime":
        loader.prime(1, "primed")
    else:
        loader.prime_many({1: "primed"})

    assert "primed" == cache.peek(1)
    assert "primed" == await within(loader.load(1))
    assert "primed" == await within(DataLoader(backend.load_fn, result_cache=cache).load(1))
    assert [] == backend.plan


async def test_prime_with_force_writes_over_both():
    """`force=True` replaces what is there in the memo and in the result cache."""
    cache = AsyncCache()
    loader = DataLoader(Backend().load_fn, result_cache=cache)
    await within(loader.load(1))

    loader.prime(1, "forced", force=True)

    assert "forced" == cache.peek(1)
    assert "forced" == await within(loader.load(1))


async def test_prime_without_force_keeps_what_the_memo_has():
    """A value that was loaded is not primed over, in neither."""
    cache = AsyncCache()
    loader = DataLoader(Backend().load_fn, result_cache=cache)
    await within(loader.load(1))

    loader.prime(1, "primed")

    assert 10 == cache.peek(1)
    assert 10 == await within(loader.load(1))


async def test_a_primed_error_stays_in_the_memo():
    """Errors are not remembered beyond the request."""
    cache = AsyncCache()
    backend = Backend()
    loader = DataLoader(backend.load_fn, result_cache=cache)

    loader.prime(1, Broken("primed"))

    assert 1 not in cache
    assert isinstance((await outcomes(loader.load(1)))[0], Broken)
    assert 10 == await within(DataLoader(backend.load_fn, result_cache=cache).load(1))


# Errors


async def test_a_failed_batch_is_not_stored():
    """After a failure the result cache has nothing, and the next load tries again."""
    cache = AsyncCache()
    plan: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        plan.append(list(keys))
        if len(plan) == 1:
            raise Broken("down")
        return [key * 10 for key in keys]

    loader = DataLoader(load_fn, result_cache=cache)
    found = await outcomes(loader.load(1), loader.load(2))
    assert [Broken, Broken] == [type(error) for error in found]
    assert 0 == len(cache)

    assert [10, 20] == await within(loader.load_many([1, 2]))


@pytest.mark.parametrize("cache_errors", [False, True])
async def test_an_error_in_a_keys_place_is_not_stored(cache_errors: bool):
    """A key's error stays out of the result cache, also where the memo remembers it."""
    cache = AsyncCache()

    async def load_fn(keys: list[int]) -> list[Any]:
        return [Broken(str(key)) if key == 2 else key * 10 for key in keys]

    loader: DataLoader[int, Any] = DataLoader(
        load_fn, cache_errors=cache_errors, result_cache=cache
    )

    found = await outcomes(*map(loader.load, (1, 2, 3)))

    assert [10, 30] == [found[0], found[2]]
    assert isinstance(found[1], Broken)
    assert [1, 3] == [key for key in (1, 2, 3) if key in cache]


@pytest.mark.parametrize(
    "result", [None, "ab", {1, 2}, [10]], ids=lambda result: type(result).__name__
)
async def test_a_wrong_shape_is_not_stored(result: Any):
    """Nothing of a wrong result reaches the result cache."""
    cache = AsyncCache()

    async def load_fn(keys: list[int]) -> Any:
        return result

    loader: DataLoader[int, Any] = DataLoader(load_fn, result_cache=cache)

    found = await outcomes(loader.load(1), loader.load(2))

    assert all(isinstance(error, TypeError) for error in found)
    assert 0 == len(cache)


async def test_the_error_of_a_joined_flight_reaches_those_who_joined():
    """Who waits for another request's batch has its error, and may try again."""
    cache = AsyncCache()
    gate, backend = Gate(), Backend()
    one = DataLoader(gate.load_fn, result_cache=cache)
    other = DataLoader(backend.load_fn, result_cache=cache)
    first = one.load(1)
    await gate.running()
    joined = [other.load(1), other.load(2)]
    await until(lambda: backend.plan)
    gate.answers[0].set_exception(Broken("down"))

    found = await outcomes(first, *joined)

    assert [Broken, Broken, int] == [type(outcome) for outcome in found]
    assert 10 == await within(other.load(1))


# Who leaves


async def test_a_running_batch_without_waiters_is_not_cancelled():
    """A batch whose result the cache will keep goes on without waiters."""
    cache = AsyncCache()
    gate = Gate()
    loader = DataLoader(gate.load_fn, result_cache=cache)
    futures = [loader.load(1), loader.load(2)]
    await gate.running()
    for future in futures:
        future.cancel()
    await ticks(5)
    assert 0 == gate.cancelled
    gate.answer()
    await until(lambda: cache.peek(1) == 10)

    assert 20 == cache.peek(2)
    assert [10, 20] == await within(
        DataLoader(Backend().load_fn, result_cache=cache).load_many([1, 2])
    )


async def test_a_load_many_that_was_cancelled_leaves_its_batch_running():
    """The same holds for a `load_many`."""
    cache = AsyncCache()
    gate = Gate()
    loader = DataLoader(gate.load_fn, result_cache=cache)
    task = asyncio.ensure_future(loader.load_many([1, 2]))
    await gate.running()
    task.cancel()
    await ticks(5)
    assert 0 == gate.cancelled
    gate.answer()

    await until(lambda: cache.peek(2) == 20)


async def test_a_key_whose_waiters_left_before_dispatch_is_not_asked_for():
    """A result cache does not make a loader ask for what nobody wants."""
    cache = AsyncCache()
    backend = Backend()
    loader = DataLoader(backend.load_fn, result_cache=cache)
    futures = [loader.load(key) for key in (1, 2, 3)]

    futures.pop(1).cancel()

    assert [10, 30] == await outcomes(*futures)
    assert [[1, 3]] == backend.plan


async def test_who_joined_keeps_its_value_when_the_first_leaves():
    """A flight that another request joined is not its first request's to end."""
    cache = AsyncCache()
    gate = Gate()
    one = DataLoader(gate.load_fn, result_cache=cache)
    other = DataLoader(Backend().load_fn, result_cache=cache)
    first = one.load(1)
    await gate.running()
    joined = other.load(1)
    await ticks(20)
    first.cancel()
    await ticks(5)
    gate.answer()

    assert [10] == await outcomes(joined)


async def test_who_joined_leaves_without_touching_the_first():
    """A joiner that is cancelled takes nothing with it."""
    cache = AsyncCache()
    gate = Gate()
    one = DataLoader(gate.load_fn, result_cache=cache)
    other = DataLoader(Backend().load_fn, result_cache=cache)
    first = one.load(1)
    await gate.running()
    joined = other.load(1)
    await ticks(20)
    joined.cancel()
    await ticks(5)
    gate.answer()

    assert [10] == await outcomes(first)
    assert 10 == cache.peek(1)


async def test_nobody_hangs_when_the_first_request_is_closed():
    """A joiner of a loader that is closed is settled, one way or another."""
    cache = AsyncCache()
    gate = Gate()
    one = DataLoader(gate.load_fn, result_cache=cache)
    other = DataLoader(Backend().load_fn, result_cache=cache)
    first = one.load(1)
    await gate.running()
    joined = other.load(1)
    await ticks(20)

    await within(one.aclose())
    if not gate.answers[0].done():
        gate.answer()

    found = await outcomes(first, joined)
    assert isinstance(found[0], (LoadCancelledError, LoaderClosedError))
    assert found[1] == 10 or isinstance(found[1], LoadCancelledError)
    assert 10 == await within(DataLoader(Backend().load_fn, result_cache=cache).load(1))


async def test_nobody_hangs_when_the_cache_is_closed():
    """A loader whose result cache is closed settles its waiters."""
    cache = AsyncCache()
    gate = Gate()
    loader = DataLoader(gate.load_fn, result_cache=cache)
    running = loader.load(1)
    await gate.running()
    queued = loader.load(2)

    await within(cache.aclose())
    await ticks(20)
    for number, answer in enumerate(gate.answers):
        if not answer.done():
            gate.answer(number)

    await asyncio.wait([running, queued], timeout=GUARD)
    assert running.done()
    assert queued.done()
    for future in (running, queued):
        assert not future.cancelled()
        future.exception()


# What was invalidated meanwhile


@pytest.mark.parametrize("how", ["delete", "expire", "clear", "set", "loader.clear"])
async def test_a_batch_that_was_overtaken_is_not_stored(how: str):
    """What was invalidated while a batch ran is not stored by it; its waiters have their values."""
    cache = AsyncCache()
    gate = Gate()
    loader = DataLoader(gate.load_fn, result_cache=cache)
    futures = [loader.load(1), loader.load(2)]
    await gate.running()

    match how:
        case "delete":
            cache.delete(1)
        case "expire":
            cache.expire(1)
        case "clear":
            cache.clear()
        case "set":
            cache.set(1, "newest")
        case _:
            loader.clear(1)
    gate.answer()

    assert [10, 20] == await outcomes(*futures)
    assert ("newest" if how == "set" else None) == cache.peek(1)
    assert (None if how == "clear" else 20) == cache.peek(2)


async def test_an_older_batch_does_not_write_over_a_prime():
    """A value that was primed while its key's batch ran stays in both."""
    cache = AsyncCache()
    gate = Gate()
    loader = DataLoader(gate.load_fn, result_cache=cache)
    future = loader.load(1)
    await gate.running()
    loader.prime(1, "primed", force=True)
    gate.answer()

    await outcomes(future)

    assert "primed" == cache.peek(1)
    assert "primed" == await within(loader.load(1))


async def test_after_clear_an_older_batch_is_not_joined():
    """A load after `clear` starts a new flight, in the memo and behind it."""
    cache = AsyncCache()
    gate = Gate()
    loader = DataLoader(gate.load_fn, result_cache=cache)
    older = loader.load(1)
    await gate.running()
    loader.clear(1)
    newer = loader.load(1)
    await gate.running(2)
    gate.answers[1].set_result(["new"])
    await ticks(5)
    gate.answers[0].set_result(["old"])

    assert ["old", "new"] == await outcomes(older, newer)
    assert "new" == cache.peek(1)


async def test_another_requests_load_after_a_delete_is_a_new_flight():
    """A loader does not join a flight that an invalidation detached."""
    cache = AsyncCache()
    gate, backend = Gate(), Backend()
    one = DataLoader(gate.load_fn, result_cache=cache)
    other = DataLoader(backend.load_fn, result_cache=cache)
    first = one.load(1)
    await gate.running()
    cache.delete(1)

    assert 10 == await within(other.load(1))
    assert [[1]] == backend.plan
    gate.answers[0].set_result(["old"])
    assert ["old"] == await outcomes(first)
    assert 10 == cache.peek(1)


# Cycles


async def test_a_batch_that_waits_for_itself_through_the_cache_is_told():
    """A circle that passes through a result cache is a `LoaderDeadlockError`."""
    cache = AsyncCache()

    async def load_fn(keys: list[int]) -> list[Any]:
        return [await DataLoader(load_fn, result_cache=cache).load(key) for key in keys]

    found = await outcomes(DataLoader(load_fn, result_cache=cache).load(1))

    assert [LoaderDeadlockError] == [type(error) for error in found]


async def test_a_batch_that_gets_its_own_key_from_the_cache_is_told():
    """A batch function that asks the result cache for the key it is loading is told."""
    cache = AsyncCache()
    backend = Backend()

    async def load_fn(keys: list[int]) -> list[Any]:
        return [await cache.get(key, batch_loader=backend.load_fn) for key in keys]

    found = await outcomes(DataLoader(load_fn, result_cache=cache).load(1))

    assert [LoaderDeadlockError] == [type(error) for error in found]


async def test_a_circle_of_a_loader_and_a_load_of_the_cache_is_told():
    """Loader → cache → loader from two roots ends for both."""
    cache = AsyncCache()
    begun = asyncio.Event()

    async def load_fn(keys: list[int]) -> list[Any]:
        begun.set()
        await ticks(20)
        return [await cache.get("report", load_report) for _ in keys]

    async def load_report() -> Any:
        await begun.wait()
        return await DataLoader(load_fn, result_cache=cache).load(1)

    loader = DataLoader(load_fn, result_cache=cache)

    found = await outcomes(loader.load(1), cache.get("report", load_report))

    assert [LoaderDeadlockError] * 2 == [type(error) for error in found]


async def test_loaders_over_other_keys_of_one_cache_work():
    """A tree whose parents are loaded by its children's batch is no circle."""
    cache = AsyncCache(maxsize=None)

    async def load_fn(keys: list[int]) -> list[int]:
        parents = await loader.load_many([key // 2 for key in keys if key > 1])
        return [len(parents) for _ in keys]

    loader: DataLoader[int, int] = DataLoader(load_fn, result_cache=cache)

    assert [0, 1] == await within(loader.load_many([1])) + [await within(loader.load(9))]


# Limits and times


async def test_a_flight_that_waits_for_the_slot_of_who_joins_it_passes():
    """A batch that is queued for a slot runs when the slot's holder comes to wait for its key."""
    limiter = asyncio.Semaphore(1)
    cache = AsyncCache()
    begun, go = asyncio.Event(), asyncio.Event()
    queued, unlimited = Backend(), Backend()
    one = DataLoader(queued.load_fn, limiter=limiter, result_cache=cache)
    other = DataLoader(unlimited.load_fn, result_cache=cache)

    async def holds_the_slot(keys: list[int]) -> list[Any]:
        begun.set()
        await go.wait()
        return [await other.load(1) for _ in keys]

    holder = DataLoader(holds_the_slot, limiter=limiter)
    held = holder.load("report")
    await within(begun.wait())
    waiting = one.load(1)
    await ticks(40)
    go.set()

    assert [10, 10] == await outcomes(held, waiting)
    assert [[1]] == queued.plan + unlimited.plan
    await ticks(5)
    assert not limiter.locked()


async def test_a_get_of_the_holder_of_a_slot_passes_a_queued_batch():
    """The same holds where the holder asks the cache itself."""
    limiter = asyncio.Semaphore(1)
    cache = AsyncCache()
    begun, go = asyncio.Event(), asyncio.Event()
    queued, direct = Backend(), Backend()
    one = DataLoader(queued.load_fn, limiter=limiter, result_cache=cache)

    async def holds_the_slot(keys: list[int]) -> list[Any]:
        begun.set()
        await go.wait()
        return [await cache.get(1, batch_loader=direct.load_fn) for _ in keys]

    holder = DataLoader(holds_the_slot, limiter=limiter)
    held = holder.load("report")
    await within(begun.wait())
    waiting = one.load(1)
    await ticks(40)
    go.set()

    assert [10, 10] == await outcomes(held, waiting)
    assert [[1]] == queued.plan + direct.plan


async def test_a_batch_may_get_other_keys_of_a_cache_with_one_slot():
    """A loader's batch does not wait for the slot that it takes itself."""
    cache = AsyncCache(max_concurrent_loads=1)
    backend = Backend()

    async def load_fn(keys: list[int]) -> list[Any]:
        found = await cache.get_many([key + 100 for key in keys], backend.load_fn)
        return list(found.values())

    loader = DataLoader(load_fn, result_cache=cache)

    assert [1_010, 1_020] == await within(loader.load_many([1, 2]))


async def test_max_concurrent_batches_holds():
    """A loader's own limit is kept, and all its batches are answered."""
    cache = AsyncCache(maxsize=None)
    running = most = 0

    async def load_fn(keys: list[int]) -> list[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await ticks(3)
        running -= 1
        return [key * 10 for key in keys]

    loader = DataLoader(load_fn, max_batch_size=2, max_concurrent_batches=2, result_cache=cache)

    assert [key * 10 for key in range(12)] == await within(loader.load_many(range(12)))
    assert 2 == most


def test_load_timeout_holds_for_who_joined():
    """A loader's own `load_timeout` ends its wait for another request's batch, not that batch."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache()

        async def slow(keys: list[int]) -> list[int]:
            await asyncio.sleep(5)
            return [key * 10 for key in keys]

        patient = DataLoader(slow, result_cache=cache)
        impatient = DataLoader(slow, load_timeout=1, result_cache=cache)
        first = patient.load(1)
        await asyncio.sleep(0.5)
        (error,) = await outcomes(impatient.load(1))
        assert isinstance(error, LoadTimeoutError)
        assert 1.5 == pytest.approx(loop.time())
        assert [10] == await outcomes(first)
        assert 10 == cache.peek(1)

    run_virtual(main)


def test_a_batch_that_timed_out_is_not_stored():
    """What a stubborn batch brings after its loader's `load_timeout` reaches no cache."""

    async def main() -> None:
        cache = AsyncCache()
        release = asyncio.Event()

        async def stubborn(keys: list[int]) -> list[str]:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return ["late" for _ in keys]

        loader = DataLoader(stubborn, load_timeout=1, result_cache=cache)
        (error,) = await outcomes(loader.load(1))
        assert isinstance(error, LoadTimeoutError)
        release.set()
        await ticks(10)
        assert 1 not in cache
        assert 10 == await DataLoader(Backend().load_fn, result_cache=cache).load(1)

    run_virtual(main)


def test_after_a_timeout_another_request_does_not_join_the_old_batch():
    """A key whose batch timed out, and will not end, is loaded anew by the next request."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache()
        release = asyncio.Event()

        async def stubborn(keys: list[int]) -> list[str]:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return ["late" for _ in keys]

        loader = DataLoader(stubborn, load_timeout=1, result_cache=cache)
        (error,) = await outcomes(loader.load(1))
        assert isinstance(error, LoadTimeoutError)
        assert [10] == await outcomes(DataLoader(Backend().load_fn, result_cache=cache).load(1))
        assert 1.0 == pytest.approx(loop.time())
        release.set()
        await ticks(10)
        assert 10 == cache.peek(1)

    run_virtual(main)


# Freshness


async def test_a_stale_value_is_served_when_the_batch_fails():
    """`stale_ttl` of the result cache holds for loaders, too."""
    # reading: S1 says "when the new load fails", whoever loads.
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, stale_ttl=10, clock=clock)
    cache.set(1, "old")
    clock.advance(15)

    async def load_fn(keys: list[int]) -> list[int]:
        raise Broken("down")

    found = await outcomes(*map(DataLoader(load_fn, result_cache=cache).load, (1, 2)))

    assert "old" == found[0]
    assert isinstance(found[1], Broken)


async def test_a_hit_late_in_a_values_life_refreshes_it():
    """`refresh_ahead` of the result cache holds for hits of loaders, in one batch."""
    # reading: a hit is a hit, and the loader's batch function is what loads.
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, refresh_ahead=0.8, clock=clock)
    backend = Backend()
    for key in (1, 2, 3):
        cache.set(key, "old")
    clock.advance(8)

    loader = DataLoader(backend.load_fn, result_cache=cache)
    assert ["old"] * 3 == await within(loader.load_many([1, 2, 3]))
    end = asyncio.get_running_loop().time() + GUARD
    while cache.peek(3) != 30:
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0)

    assert [[1, 2, 3]] == backend.plan


# Who is no longer there


async def test_a_loader_that_is_dropped_while_its_batch_runs_hangs_nobody():
    """A batch whose loader nobody holds any more is stored and answers who joined."""
    cache = AsyncCache()
    gate = Gate()
    other = DataLoader(Backend().load_fn, result_cache=cache)
    loader = DataLoader(gate.load_fn, result_cache=cache)
    first = loader.load(1)
    await gate.running()
    joined = other.load(1)
    await ticks(20)
    first.cancel()
    del loader, first
    gc.collect()
    await ticks(3)
    gate.answer()

    assert [10] == await outcomes(joined)
    assert 10 == cache.peek(1)


async def test_an_abandoned_batch_that_fails_makes_at_most_one_report():
    """Fifty loads that were given up are not fifty reports of their batch's failure."""
    messages: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: messages.append(str(context))
    )
    cache = AsyncCache()
    gate = Gate()
    loader = DataLoader(gate.load_fn, result_cache=cache)
    futures = [loader.load(key) for key in range(50)]
    await gate.running()
    for future in futures:
        future.cancel()
    del future
    futures.clear()
    await ticks(3)
    gate.answers.pop().set_exception(Broken("down"))
    await ticks(10)
    gc.collect()
    await ticks(3)

    assert len(messages) <= 1


def test_a_request_on_a_later_loop_finds_values_and_no_dead_flights():
    """Flights of a loop that ended are not joined by a loader on the next; values are found."""
    cache = AsyncCache()
    gate, backend = Gate(), Backend()

    async def first() -> None:
        await within(DataLoader(backend.load_fn, result_cache=cache).load(1))
        future = DataLoader(gate.load_fn, result_cache=cache).load(2)
        await gate.running()
        del future

    async def second() -> Any:
        return await within(DataLoader(backend.load_fn, result_cache=cache).load_many([1, 2]))

    asyncio.run(first())
    assert [10, 20] == asyncio.run(second())
    assert [[1], [2]] == backend.plan


# Seen from outside


async def test_a_recorder_sees_what_the_batch_function_is_asked():
    """Batches are recorded with the keys that nobody had; a batch of hits is none."""
    # reading: a batch is "the keys gathered for one call of a batch function".
    cache = AsyncCache()
    cache.set(2, "cached")
    loader = DataLoader(Backend().load_fn, name="users", result_cache=cache)

    with BatchRecorder() as recorder:
        await within(loader.load_many([1, 2, 3]))
        await within(loader.load_many([1, 2, 3]))
        await within(DataLoader(Backend().load_fn, result_cache=cache).load_many([1, 2, 3]))

    assert [("users", [1, 3])] == recorder.plan
    assert (1, 2) == (loader.stats.batches, loader.stats.keys)


# Bad input


@pytest.mark.parametrize("value", [{}, 5, "cache", AsyncCache])
def test_what_is_no_cache_is_refused(value: Any):
    """A result cache is an `AsyncCache`; anything else is a `ConfigurationError`."""
    with pytest.raises(ConfigurationError, match="result_cache") as caught:
        DataLoader(Backend().load_fn, name="users", result_cache=value)

    assert isinstance(caught.value, TypeError)
    assert "users" in str(caught.value)


async def test_an_empty_cache_is_a_cache():
    """A cache with nothing in it, which is false where `len` decides, is used."""
    cache = AsyncCache()

    await within(DataLoader(Backend().load_fn, result_cache=cache).load(1))

    assert 1 == len(cache)
