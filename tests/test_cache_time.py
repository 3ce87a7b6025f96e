"""How long a result cache keeps what it has, and how much: rules T1 to T9."""

from __future__ import annotations

import asyncio
import gc
import inspect
import random
import threading
import time
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dataloader_cache import AsyncCache
from dataloader_cache._cache import ABSENT as NO_HIT
from dataloader_cache._cache import hit
from dataloader_cache._expiry import ExpiryBuckets
from dataloader_cache._store import S3FifoStore
from dataloader_cache.errors import ConfigurationError, DataLoaderCacheError
from dataloader_cache.testing import ManualClock, VirtualTimeLoop, run_virtual

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever
ABSENT = object()
POLICIES = ["lru", "s3fifo"]


async def within(awaitable: Any) -> Any:
    """Wait for `awaitable`, but not for ever."""
    return await asyncio.wait_for(awaitable, GUARD)


def virtual(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run `main` in virtual time, but not for ever; no callback may fail meanwhile."""

    async def watched() -> Any:
        reports: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        result = await asyncio.wait_for(main(), 100_000.0)
        assert [] == reports
        return result

    return run_virtual(watched)


class Calls:
    """Make loaders that count their calls and answer with what the test says."""

    def __init__(self, value: Any = "value") -> None:
        self.value = value
        self.count = 0
        self.plan: list[list[Any]] = []

    async def load(self) -> Any:
        self.count += 1
        return self.value

    async def many(self, keys: list[Any]) -> list[Any]:
        self.plan.append(list(keys))
        return [self.value for _ in keys]


class Thing:
    """A value that can be watched."""


def there(cache: AsyncCache, *keys: Any) -> list[Any]:
    """Give those of `keys` that the cache has."""
    return [key for key in keys if cache.peek(key, ABSENT) is not ABSENT]


class WatchedLoop(VirtualTimeLoop):
    """A virtual-time loop that knows which of its timers are still to come, and may be late."""

    def __init__(self) -> None:
        self.late = 0.0
        self.handles: list[asyncio.TimerHandle] = []
        super().__init__()

    def time(self) -> float:
        return super().time() + self.late

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = super().call_at(when, callback, *args, context=context)
        self.handles.append(handle)
        return handle

    def timers(self) -> list[asyncio.TimerHandle]:
        """Give the timers that are neither cancelled nor due."""
        self.handles = [
            handle
            for handle in self.handles
            if not handle.cancelled() and handle.when() > self.time()
        ]
        return self.handles


def run_watched(main: Callable[[WatchedLoop], Coroutine[Any, Any, Any]]) -> Any:
    """Run `main` on a `WatchedLoop`."""
    loop = WatchedLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()


# T1: one clock, and what it decides


async def test_t1_a_value_is_served_until_its_ttl_has_passed():
    """A value is there until just before its time, and gone at that very moment."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    cache.set("a", 1)

    clock.advance(9.75)
    assert 1 == await cache.get("a")
    clock.advance(0.25)
    assert None is await cache.get("a")


@pytest.mark.parametrize("start", [-1_000.0, -10.0, 0.0, 1e9])
async def test_t1_the_clock_may_start_anywhere(start: float):
    """Where a monotonic clock begins says nothing about what has expired."""
    clock = ManualClock()
    cache = AsyncCache(maxsize=None, clock=lambda: start + clock())
    cache.set("short", 1, ttl=10)
    cache.set("for ever", 2)

    clock.advance(9.75)
    assert ["short", "for ever"] == there(cache, "short", "for ever")
    clock.advance(0.25)
    assert ["for ever"] == there(cache, "short", "for ever")


async def test_t1_the_short_way_to_a_hit_ends_at_the_same_moment():
    """Decorated functions and shared loaders look a value up without a coroutine."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    cache.set("a", 1)

    clock.advance(9.75)
    assert 1 == hit(cache, "a")
    clock.advance(0.25)
    assert NO_HIT is hit(cache, "a")


async def test_t1_the_ttl_counts_from_the_end_of_the_load():
    """The time that a load takes is not taken from the life of its value."""
    clock = ManualClock()
    cache = AsyncCache(clock=clock)

    async def load() -> str:
        clock.advance(50)
        return "value"

    assert "value" == await within(cache.get("a", load, ttl=10))
    clock.advance(9.75)
    assert ["a"] == there(cache, "a")
    clock.advance(0.25)
    assert [] == there(cache, "a")


async def test_t1_the_ttl_of_a_batch_counts_from_its_end():
    """The time that a batch takes is not taken from the lives of its values."""
    clock = ManualClock()
    cache = AsyncCache(clock=clock)

    async def many(keys: list[int]) -> list[int]:
        clock.advance(50)
        return keys

    assert {1: 1, 2: 2} == await within(cache.get_many([1, 2], many, ttl=10))
    clock.advance(9.75)
    assert [1, 2] == there(cache, 1, 2)
    clock.advance(0.25)
    assert [] == there(cache, 1, 2)


async def test_t1_a_hit_does_not_prolong_a_life():
    """Reading a value again and again does not keep it."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    cache.set("a", 1)

    for _ in range(9):
        clock.advance(1)
        assert 1 == await cache.get("a")
    clock.advance(1)

    assert None is await cache.get("a")


async def test_t1_setting_a_key_again_begins_a_new_life():
    """A later `set` decides how long the key lives, be it longer or shorter."""
    clock = ManualClock()
    cache = AsyncCache(clock=clock)
    for key in ("longer", "shorter", "for ever"):
        cache.set(key, 1, ttl=10)
    clock.advance(5)
    cache.set("longer", 2, ttl=10)
    cache.set("shorter", 2, ttl=1)
    cache.set("for ever", 2, ttl=None)

    clock.advance(1)
    assert ["longer", "for ever"] == there(cache, "longer", "shorter", "for ever")
    clock.advance(8)
    assert ["longer", "for ever"] == there(cache, "longer", "shorter", "for ever")
    clock.advance(1)
    assert ["for ever"] == there(cache, "longer", "shorter", "for ever")


async def test_t1_an_expired_value_is_loaded_again():
    """A get after the end of a value's life loads a new one, which lives its own life."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    calls = Calls()

    for _ in range(3):
        assert "value" == await within(cache.get("a", calls.load))
        clock.advance(9)
        assert "value" == await within(cache.get("a", calls.load))
        clock.advance(1)

    assert 3 == calls.count


async def test_t1_an_expired_value_is_nowhere_to_be_seen():
    """What has expired is neither `in` the cache, nor given by `peek` or `get_many`."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    calls = Calls("new")
    cache.set("a", "old")
    clock.advance(10)

    assert "a" not in cache
    assert None is cache.peek("a")
    assert "mine" == cache.peek("a", "mine")
    assert {"a": "new"} == await within(cache.get_many(["a"], calls.many))


def test_t1_the_default_clock_is_monotonic():
    """A change of the wall clock expires nothing: the default clock is `time.monotonic`."""
    assert time.monotonic is inspect.signature(AsyncCache).parameters["clock"].default


def test_t1_expiry_follows_the_clock_and_not_the_loop():
    """A loop whose time flies expires nothing where the injected clock stands still."""

    async def main() -> None:
        clock = ManualClock()
        cache = AsyncCache(default_ttl=10, clock=clock)
        cache.set("a", 1)
        await asyncio.sleep(1_000)
        assert 1 == await cache.get("a")
        clock.advance(10)
        assert "a" not in cache

    virtual(main)


# T2: what a TTL may be


async def test_t2_none_is_for_ever():
    """`ttl=None` is for ever, also where there is a default."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    calls = Calls()
    cache.set("set", 1, ttl=None)
    await within(cache.get("got", calls.load, ttl=None))
    await within(cache.get_many(["many"], calls.many, ttl=None))

    clock.advance(1e9)

    assert ["set", "got", "many"] == there(cache, "set", "got", "many")


async def test_t2_a_ttl_that_is_not_given_is_the_default():
    """Where no TTL is given, `default_ttl` is the TTL."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    calls = Calls()
    cache.set("set", 1)
    await within(cache.get("got", calls.load))
    await within(cache.get("batched", batch_loader=calls.many))
    await within(cache.get_many(["many"], calls.many))
    await within(cache.refresh("refreshed", calls.load))
    await within(cache.warmup({"warm": calls.load}))
    keys = ["set", "got", "batched", "many", "refreshed", "warm"]

    clock.advance(9)
    assert keys == there(cache, *keys)
    clock.advance(1)
    assert [] == there(cache, *keys)


async def test_t2_no_default_is_for_ever():
    """Without a `default_ttl` values live for ever."""
    clock = ManualClock()
    cache = AsyncCache(clock=clock)
    cache.set("a", 1)

    clock.advance(1e9)

    assert ["a"] == there(cache, "a")


@pytest.mark.parametrize("ttl", [0, 0.0])
async def test_t2_zero_stores_nothing(ttl: float):
    """`ttl=0` answers the callers and stores nothing, in whatever way it comes in."""
    clock = ManualClock()
    cache = AsyncCache(clock=clock)
    calls = Calls()

    cache.set("set", 1, ttl=ttl)
    assert "value" == await within(cache.get("got", calls.load, ttl=ttl))
    assert "value" == await within(cache.get("batched", batch_loader=calls.many, ttl=ttl))
    assert {"many": "value"} == await within(cache.get_many(["many"], calls.many, ttl=ttl))
    assert "value" == await within(cache.refresh("fresh", calls.load, ttl=ttl))

    assert [] == there(cache, "set", "got", "batched", "many", "fresh")
    assert 0 == len(cache)


async def test_t2_a_default_of_zero_stores_nothing():
    """`default_ttl=0` shares flights and stores nothing."""
    cache = AsyncCache(default_ttl=0)
    calls = Calls()

    for _ in range(2):
        assert ["value"] * 3 == await within(
            asyncio.gather(*(cache.get("a", calls.load) for _ in range(3)))
        )

    assert 2 == calls.count
    assert 0 == len(cache)


async def test_t2_setting_with_zero_leaves_no_older_value():
    """`set` with `ttl=0` does not leave the value that it replaces."""
    # reading: `set` replaces what was there, and then stores nothing.
    cache = AsyncCache()
    cache.set("a", "old")

    cache.set("a", "new", ttl=0)

    assert [] == there(cache, "a")


def check_error(error: BaseException, *parts: str) -> None:
    """Check that an error is one of ours and names what it is about."""
    assert isinstance(error, DataLoaderCacheError)
    for part in parts:
        assert part in str(error)


async def test_t2_a_negative_ttl_is_an_error():
    """A negative TTL is a `ValueError` that names the cache, and stores nothing."""
    cache = AsyncCache(name="users")
    calls = Calls()

    for attempt in (
        lambda: cache.set("a", 1, ttl=-1),
        lambda: cache.get("a", calls.load, ttl=-0.5),
        lambda: cache.get("a", batch_loader=calls.many, ttl=-1),
        lambda: cache.get_many(["a"], calls.many, ttl=-1),
        lambda: cache.refresh("a", calls.load, ttl=-1),
    ):
        with pytest.raises(ValueError, match="ttl") as caught:
            await within(attempt())
        check_error(caught.value, "users", "-")
    assert 0 == len(cache)
    assert 0 == calls.count
    assert [] == calls.plan


@pytest.mark.parametrize("ttl", ["60", [], float("nan"), object()])
async def test_t2_a_ttl_that_is_no_time_is_an_error(ttl: Any):
    """A TTL that is not a number of seconds is an error of ours, and stores nothing."""
    cache = AsyncCache(name="users")
    calls = Calls()

    for attempt in (
        lambda: cache.set("a", 1, ttl=ttl),
        lambda: cache.get("a", calls.load, ttl=ttl),
        lambda: cache.get_many(["a"], calls.many, ttl=ttl),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            await within(attempt())
        check_error(caught.value, "users", "ttl")
    assert 0 == len(cache)


async def test_t2_a_ttl_may_be_a_function_of_key_and_value():
    """`ttl` may be computed from the key and the value that was loaded."""
    clock = ManualClock()
    cache = AsyncCache(clock=clock)

    async def many(keys: list[int]) -> list[int]:
        return [key * 10 for key in keys]

    def ttl(key: int, value: int) -> float | None:
        assert value == key * 10
        return {10: 0, 20: 5, 30: 10}.get(value)

    assert {1: 10, 2: 20, 3: 30, 4: 40} == await within(cache.get_many([1, 2, 3, 4], many, ttl=ttl))
    assert [2, 3, 4] == there(cache, 1, 2, 3, 4)
    clock.advance(5)
    assert [3, 4] == there(cache, 1, 2, 3, 4)
    clock.advance(5)
    assert [4] == there(cache, 1, 2, 3, 4)


async def test_t2_a_ttl_function_serves_set_get_and_refresh_too():
    """`set`, `get` and `refresh` take a function for a TTL like `get_many`."""
    clock = ManualClock()
    cache = AsyncCache(clock=clock)
    calls = Calls(7)

    cache.set("set", 7, ttl=lambda key, value: value)
    await within(cache.get("got", calls.load, ttl=lambda key, value: value))
    await within(cache.refresh("fresh", calls.load, ttl=lambda key, value: value))

    clock.advance(6.5)
    assert ["set", "got", "fresh"] == there(cache, "set", "got", "fresh")
    clock.advance(0.5)
    assert [] == there(cache, "set", "got", "fresh")


async def test_t2_a_ttl_function_that_fails_hangs_nobody():
    """A TTL function that raises fails the callers of that flight only."""
    # reading: what the function raises is the error of that load.
    cache = AsyncCache()
    calls = Calls()

    def ttl(key: str, value: str) -> float:
        raise LookupError("no ttl")

    found = await within(
        asyncio.gather(
            *(cache.get("a", calls.load, ttl=ttl) for _ in range(2)), return_exceptions=True
        )
    )

    assert [LookupError, LookupError] == [type(error) for error in found]
    assert 0 == len(cache)
    assert "value" == await within(cache.get("a", calls.load))


async def test_t2_a_ttl_function_that_gives_a_negative_time_hangs_nobody():
    """A negative TTL out of a function is the same error as one that is given."""
    cache = AsyncCache(name="users")
    calls = Calls()

    with pytest.raises(ValueError, match="ttl") as caught:
        await within(cache.get("a", calls.load, ttl=lambda key, value: -1))

    check_error(caught.value, "users")
    assert 0 == len(cache)


async def test_t2_a_ttl_function_that_fails_for_one_key_leaves_the_others():
    """In a batch only the key whose TTL function raises has an error."""
    cache = AsyncCache()
    calls = Calls()

    def ttl(key: int, value: str) -> float:
        return {1: 10.0, 3: 10.0}[key]

    found = await within(cache.get_many([1, 2, 3], calls.many, ttl=ttl, return_exceptions=True))

    assert ["value", "value"] == [found[1], found[3]]
    assert isinstance(found[2], KeyError)
    assert [1, 3] == there(cache, 1, 2, 3)


async def test_t2_calls_of_one_batch_keep_their_own_ttls():
    """Callers that share a batch each decide how long their key lives."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=30, clock=clock)
    calls = Calls()

    await within(
        asyncio.gather(
            cache.get(1, batch_loader=calls.many, ttl=10),
            cache.get(2, batch_loader=calls.many, ttl=20),
            cache.get(3, batch_loader=calls.many),
            cache.get(4, batch_loader=calls.many, ttl=None),
        )
    )

    assert [[1, 2, 3, 4]] == calls.plan
    lives = []
    for _ in range(4):
        lives.append(there(cache, 1, 2, 3, 4))
        clock.advance(10)
    assert [[1, 2, 3, 4], [2, 3, 4], [3, 4], [4]] == lives


async def test_t2_a_ttl_of_a_million_years_is_one():
    """A TTL longer than any timer of a loop can wait is kept as it is."""
    clock = ManualClock()
    cache = AsyncCache(clock=clock)

    cache.set("a", 1, ttl=3e13)
    await asyncio.sleep(0)

    clock.advance(1e12)
    assert ["a"] == there(cache, "a")


async def test_t2_a_ttl_shorter_than_any_tick_is_one():
    """A TTL of a nanosecond is over after a nanosecond."""
    clock = ManualClock()
    cache = AsyncCache(clock=clock)
    cache.set("a", 1, ttl=1e-9)

    assert ["a"] == there(cache, "a")
    clock.advance(1e-9)
    assert [] == there(cache, "a")


# T3: room


@pytest.mark.parametrize("eviction", POLICIES)
async def test_t3_none_is_unbounded(eviction: str):
    """`maxsize=None` keeps everything."""
    cache = AsyncCache(maxsize=None, eviction=eviction)

    for key in range(10_000):
        cache.set(key, key)

    assert 10_000 == len(cache)
    assert 0 == cache.stats.evictions


@pytest.mark.parametrize("eviction", POLICIES)
async def test_t3_zero_stores_nothing(eviction: str):
    """`maxsize=0` answers and shares flights, and stores nothing."""
    cache = AsyncCache(maxsize=0, eviction=eviction)
    calls = Calls()

    cache.set("a", 1)
    for _ in range(2):
        assert ["value"] * 3 == await within(
            asyncio.gather(*(cache.get("a", calls.load) for _ in range(3)))
        )
    assert {1: "value", 2: "value"} == await within(cache.get_many([1, 2], calls.many))

    assert 2 == calls.count
    assert 0 == len(cache)
    assert "a" not in cache


@pytest.mark.parametrize("eviction", POLICIES)
@pytest.mark.parametrize("maxsize", [1, 2, 3, 10, 11])
async def test_t3_the_bound_holds_at_every_moment(maxsize: int, eviction: str):
    """After no operation does a cache hold more than its `maxsize`."""
    cache = AsyncCache(maxsize=maxsize, eviction=eviction, default_ttl=50, clock=ManualClock())
    calls = Calls()
    chance = random.Random(maxsize)

    for _ in range(600):
        key = chance.randrange(3 * maxsize)
        match chance.randrange(5):
            case 0:
                cache.set(key, key)
            case 1:
                await within(cache.get(key, calls.load))
            case 2:
                cache.delete(key)
            case 3:
                await within(cache.get(key))
            case _:
                await within(cache.get_many([key, key + 1, key + 2], calls.many))
        assert len(cache) <= maxsize
        assert len(cache) == len(there(cache, *range(3 * maxsize + 2)))


@pytest.mark.parametrize("eviction", POLICIES)
async def test_t3_the_bound_holds_while_a_batch_is_stored(eviction: str):
    """A batch of more keys than there is room for answers them all and keeps the bound."""
    cache = AsyncCache(maxsize=10, eviction=eviction)
    seen: list[int] = []

    async def many(keys: list[int]) -> list[int]:
        return keys

    def ttl(key: int, value: int) -> None:
        seen.append(len(cache))

    found = await within(cache.get_many(range(50), many, ttl=ttl))

    assert {key: key for key in range(50)} == found
    assert max(seen) <= 10
    assert 10 == len(cache)


@pytest.mark.parametrize("eviction", POLICIES)
@pytest.mark.parametrize("maxsize", [1, 2, 5, 20])
async def test_t3_what_was_just_set_is_there(maxsize: int, eviction: str):
    """The newest value is never the one that makes room."""
    cache = AsyncCache(maxsize=maxsize, eviction=eviction)

    for key in range(100):
        cache.set(key, key)
        assert key == cache.peek(key)
    assert maxsize == len(cache)


@pytest.mark.parametrize("eviction", POLICIES)
async def test_t3_replacing_a_value_evicts_nothing(eviction: str):
    """A key that is there already needs no room."""
    cache = AsyncCache(maxsize=3, eviction=eviction)
    for key in "abc":
        cache.set(key, 1)

    for number in range(10):
        for key in "abc":
            cache.set(key, number)

    assert ["a", "b", "c"] == there(cache, "a", "b", "c")
    assert 0 == cache.stats.evictions


@pytest.mark.parametrize("eviction", POLICIES)
async def test_t3_what_is_deleted_leaves_its_room(eviction: str):
    """A deleted key makes room for another without an eviction."""
    cache = AsyncCache(maxsize=3, eviction=eviction)
    for key in "abc":
        cache.set(key, 1)

    for old, new in ("ad", "be", "cf"):
        cache.delete(old)
        cache.set(new, 1)

    assert ["d", "e", "f"] == there(cache, *"abcdef")
    assert 0 == cache.stats.evictions


@pytest.mark.parametrize("eviction", POLICIES)
async def test_t3_what_was_evicted_is_freed(eviction: str):
    """Nothing holds a value that made room for others."""
    cache = AsyncCache(maxsize=5, eviction=eviction)
    things = [Thing() for _ in range(20)]
    watched = [weakref.ref(thing) for thing in things]
    for number in range(20):
        cache.set(number, things[number])
    things.clear()
    gc.collect()

    assert 5 == sum(ref() is not None for ref in watched)


@pytest.mark.parametrize("eviction", POLICIES)
async def test_t3_evictions_for_room_are_counted(eviction: str):
    """What made room for others is counted apart from what grew old."""
    cache = AsyncCache(maxsize=5, eviction=eviction)

    for key in range(20):
        cache.set(key, key)

    assert (15, 0, 15) == (
        cache.stats.evicted_for_room,
        cache.stats.evicted_for_age,
        cache.stats.evictions,
    )


class Key:
    """A key, or a tag, that can be watched."""


def alive(watched: list[weakref.ref[Any]]) -> int:
    """Count what has not been freed."""
    gc.collect()
    return sum(ref() is not None for ref in watched)


@pytest.mark.parametrize("eviction", POLICIES)
async def test_t3_keys_and_tags_that_are_gone_are_not_held(eviction: str):
    """What 2,000 keys leave behind in a cache for ten is a few tens of keys and of tags."""
    cache = AsyncCache(maxsize=10, eviction=eviction)
    keys: list[weakref.ref[Any]] = []
    tags: list[weakref.ref[Any]] = []
    for number in range(2_000):
        key, tag = Key(), Key()
        keys.append(weakref.ref(key))
        tags.append(weakref.ref(tag))
        cache.set(key, number, tags=[tag])
        if number % 3 == 0:
            cache.delete(key)
        elif number % 7 == 0:
            cache.set(key, number)
        elif number % 11 == 0:
            cache.invalidate_tag(tag)
        elif number % 13 == 0:
            cache.expire(key)
    del key, tag

    # s3fifo remembers the keys of about as many entries as it has, and tidies its queues later.
    assert alive(keys) <= 40
    assert alive(tags) <= 30
    cache.clear()
    assert 0 == alive(tags)
    assert 0 == alive(keys)


@pytest.mark.parametrize("maxsize", [1_000, None])
@pytest.mark.parametrize("eviction", POLICIES)
async def test_t3_keys_that_were_deleted_before_room_was_short_are_not_held(
    eviction: str, maxsize: int | None
):
    """A cache that never evicts forgets what was deleted all the same."""
    cache = AsyncCache(maxsize=maxsize, eviction=eviction)
    watched: list[weakref.ref[Any]] = []
    for _ in range(500):
        key = Key()
        watched.append(weakref.ref(key))
        cache.set(key, 1)
        cache.delete(key)
    del key

    assert alive(watched) < 40


async def test_t3_keys_that_came_back_and_were_deleted_are_not_held():
    """The same holds of keys that `s3fifo` had in its main queue, which none of these evicts."""
    cache = AsyncCache(maxsize=10, eviction="s3fifo")
    watched: list[weakref.ref[Any]] = []
    for number in range(10):
        cache.set(number, number)
    for number in range(500):
        key = Key()
        watched.append(weakref.ref(key))
        cache.set(key, 1)
        for other in range(10):
            cache.set((number, other), 1)
        # It comes back, and its place is the main queue.
        cache.set(key, 2)
        cache.delete(key)
        cache.set((number, "more"), 1)
    del key

    assert alive(watched) < 40


async def test_t3_invalidations_and_failures_leave_nothing_behind():
    """Neither deleting absent keys nor failed loads of many keys make a cache grow."""
    cache = AsyncCache(stale_ttl=10, retry_after=1_000)
    watched: list[weakref.ref[Any]] = []

    async def fail() -> Any:
        raise ValueError("down")

    for number in range(300):
        key = Key()
        watched.append(weakref.ref(key))
        match number % 4:
            case 0:
                cache.delete(key)
            case 1:
                cache.expire(key)
            case 2:
                cache.invalidate_tag(key)
            case _:
                with pytest.raises(ValueError, match="down"):
                    await within(cache.get(key, fail))
    del key
    for _ in range(5):
        await asyncio.sleep(0)

    assert alive(watched) <= 1


async def test_t3_what_was_invalidated_while_a_load_flew_is_not_held_after_it():
    """The log of invalidations goes with the last load that needs it."""
    cache = AsyncCache()
    answer = asyncio.Event()

    async def load() -> str:
        await answer.wait()
        return "value"

    task = asyncio.ensure_future(cache.get("a", load))
    for _ in range(5):
        await asyncio.sleep(0)
    watched: list[weakref.ref[Any]] = []
    for number in range(300):
        key = Key()
        watched.append(weakref.ref(key))
        if number % 2:
            cache.delete(key)
        else:
            cache.invalidate_tag(key)
    del key
    answer.set()
    assert "value" == await within(task)
    for _ in range(5):
        await asyncio.sleep(0)

    assert alive(watched) <= 1


class Puts:
    """An `S3FifoStore` of ten, and the keys that had to go from it."""

    def __init__(self) -> None:
        self.store = S3FifoStore(10)
        self.gone: list[Any] = []

    def clear(self) -> None:
        """Begin anew."""
        self.store.clear()
        self.gone.clear()

    def put(self, *keys: Any) -> None:
        for key in keys:
            self.gone += [evicted for evicted, _ in self.store.put(key, key, 0.0, 0.0, ())]

    def use(self, *keys: Any, times: int) -> None:
        for key in keys:
            self.store.data[key].uses += times


@pytest.mark.parametrize("times", [0, 1, 2, 3, 4, 100])
def test_t5_s3fifo_keeps_an_entry_for_three_rounds_of_its_queue_at_most(times: int):
    """Each use is a round in the main queue; more than three count as three."""
    puts = Puts()
    # What was in its queues before counts for nothing.
    puts.put(*range(20), 10, 15)
    puts.clear()
    puts.put(*range(10))
    puts.use(*range(10), times=2)
    puts.put(10)
    # They all moved to the main queue and left their uses behind: the first had to go.
    assert [0] == puts.gone

    puts.use(1, times=times)
    for key in range(10, 60):
        # What is new moves to the end of the main queue, so that its first has to go.
        puts.use(key, times=2)
        puts.put(key + 1)

    assert 1 + 9 * min(times, 3) == puts.gone.index(1)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_t5_s3fifo_moves_what_was_used_twice_to_its_main_queue(times: int):
    """One use in the small queue is not enough to stay."""
    puts = Puts()
    puts.put(*range(10))
    puts.use(0, times=times)

    puts.put(10)

    assert [0 if times < 2 else 1] == puts.gone


@pytest.mark.parametrize(("key", "is_known"), [(1, False), (2, True), (9, True)])
def test_t5_s3fifo_remembers_as_many_keys_as_its_main_queue_has_room_for(key: int, is_known: bool):
    """Of the keys that went unused it knows the last nine again, each of them once."""
    puts = Puts()
    puts.put(*range(20))
    assert list(range(10)) == puts.gone

    # The tenth is the one that makes room for it now.
    puts.put(key)
    assert is_known == puts.store.data[key].is_main
    puts.store.remove(key)
    puts.put(key)

    assert not puts.store.data[key].is_main


def test_t5_s3fifo_counts_what_was_removed_once():
    """After many have gone and others come, the oldest that is left makes room."""
    puts = Puts()
    puts.put(*range(10))
    for key in range(1, 10):
        puts.store.remove(key)
        puts.store.remove(key)
    puts.put(*range(10, 19))
    assert [] == puts.gone

    puts.put(19)

    assert [0] == puts.gone


@pytest.mark.parametrize("eviction", POLICIES)
async def test_t5_a_late_hit_is_a_use(eviction: str):
    """A hit in the part of a life in which refreshes start counts as every hit does."""
    clock = ManualClock()
    cache = AsyncCache(maxsize=2, default_ttl=10, refresh_ahead=0.5, eviction=eviction, clock=clock)
    cache.set("a", 1)
    cache.set("b", 1)
    clock.advance(6)
    for _ in range(2):
        await cache.get("a")

    cache.set("c", 1)

    assert ["a", "c"] == there(cache, "a", "b", "c")


@pytest.mark.parametrize("eviction", POLICIES)
async def test_t5_the_short_way_to_a_hit_is_a_use(eviction: str):
    """It counts for eviction as `get` does."""
    cache = AsyncCache(maxsize=2, eviction=eviction)
    cache.set("a", 1)
    cache.set("b", 1)
    assert [1, 1] == [hit(cache, "a") for _ in range(2)]

    cache.set("c", 1)

    assert ["a", "c"] == there(cache, "a", "b", "c")
    assert 2 == cache.stats.hits


# T4: expired entries are freed


@pytest.mark.parametrize("maxsize", [None, 200])
@pytest.mark.parametrize("eviction", POLICIES)
def test_t4_expired_entries_are_freed_without_being_read(eviction: str, maxsize: int | None):
    """Within about two seconds of its end a value is freed, though nobody asks for it."""

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        cache = AsyncCache(maxsize=maxsize, eviction=eviction, clock=clock)
        things = [Thing() for _ in range(100)]
        watched = [weakref.ref(thing) for thing in things]
        for number in range(100):
            cache.set(number, things[number], ttl=1 + number / 10)
        things.clear()

        await asyncio.sleep(6)
        gc.collect()
        # Those of more than 6 seconds live; those of less than 4 are gone.
        assert all(ref() is None for ref in watched[:30])
        assert all(ref() is not None for ref in watched[51:])
        await asyncio.sleep(8)
        gc.collect()
        assert [] == [ref for ref in watched if ref() is not None]
        assert 0 == len(cache)
        assert 100 == cache.stats.evicted_for_age

    virtual(main)


def test_t4_many_entries_that_expire_together_are_all_freed():
    """A bounded sweep is also done with 20,000 entries that end in the same moment."""

    async def main() -> None:
        cache = AsyncCache(maxsize=None, clock=asyncio.get_running_loop().time)
        for key in range(20_000):
            cache.set(key, key, ttl=3)
        await asyncio.sleep(6)
        assert 0 == len(cache)

    virtual(main)


def test_t4_a_sweep_frees_so_many_entries_and_lets_others_run():
    """Where very many end at once, the loop turns between a thousand and the next thousand."""

    async def main() -> None:
        clock = ManualClock()
        cache = AsyncCache(maxsize=None, clock=clock)
        for key in range(3_500):
            cache.set(key, key, ttl=3)
        clock.advance(3)
        # The sweep comes after a second.
        await asyncio.sleep(1)
        sizes = {3_500}
        for _ in range(10):
            sizes.add(len(cache))
            await asyncio.sleep(0)
        assert {3_500, 2_500, 1_500, 500, 0} == sizes

    virtual(main)


def default_clock(monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> Any:
    """Let the cache take the virtual time for the clock that it has by default."""
    clock = loop.time
    monkeypatch.setattr("dataloader_cache._cache.time", types.SimpleNamespace(monotonic=clock))
    return clock


def test_t4_the_default_clock_lets_the_sweep_sleep(monkeypatch: pytest.MonkeyPatch):
    """A clock that can't jump says when the first entry ends: nobody is woken before that."""

    async def main(loop: WatchedLoop) -> None:
        cache = AsyncCache(clock=default_clock(monkeypatch, loop))
        cache.set("a", 1, ttl=1_000)
        assert [1_000.0] == [timer.when() for timer in loop.timers()]
        await asyncio.sleep(1_001)
        assert 0 == len(cache)
        assert [] == loop.timers()

    run_watched(main)


@pytest.mark.parametrize("where", ["on its loop", "on another thread"])
def test_t4_a_short_life_is_not_kept_by_a_long_one(monkeypatch: pytest.MonkeyPatch, where: str):
    """An entry that ends before the one that the sweep sleeps for is freed in its own time."""

    async def main(loop: WatchedLoop) -> None:
        cache = AsyncCache(clock=default_clock(monkeypatch, loop))
        cache.set("long", 1, ttl=1_000)
        await asyncio.sleep(0.5)

        def add() -> None:
            cache.set("short", 1, ttl=10)
            cache.set("shorter", 1, ttl=2)

        if where == "on its loop":
            add()
        else:
            # Not awaited, since virtual time would pass meanwhile.
            thread = threading.Thread(target=add)
            thread.start()
            thread.join()
        await asyncio.sleep(3)
        assert 2 == len(cache)
        await asyncio.sleep(9)
        assert 1 == len(cache)
        assert [1_000.0] == [timer.when() for timer in loop.timers()]

    run_watched(main)


def test_t4_the_sweep_leaves_what_is_alive():
    """A sweep frees neither what lives longer nor what lives for ever."""

    async def main() -> None:
        cache = AsyncCache(clock=asyncio.get_running_loop().time)
        cache.set("short", 1, ttl=1)
        cache.set("long", 1, ttl=100)
        cache.set("for ever", 1)
        await asyncio.sleep(50)
        assert ["long", "for ever"] == there(cache, "short", "long", "for ever")
        assert 2 == len(cache)

    virtual(main)


@pytest.mark.parametrize("later", [100, None])
def test_t4_unlike_peers_an_old_timer_does_not_delete_a_newer_value(later: float | None):
    """A key that was set again with a longer life is not freed at the end of the shorter one."""

    async def main() -> None:
        cache = AsyncCache(clock=asyncio.get_running_loop().time)
        cache.set("again", "old", ttl=2)
        cache.set("deleted first", "old", ttl=2)
        await asyncio.sleep(1)
        cache.set("again", "new", ttl=later)
        cache.delete("deleted first")
        cache.set("deleted first", "new", ttl=later)
        await asyncio.sleep(20)
        assert "new" == cache.peek("again")
        assert "new" == cache.peek("deleted first")

    virtual(main)


def test_t4_there_is_one_timer_at_most():
    """A thousand entries of a thousand lives need one timer."""

    async def main(loop: WatchedLoop) -> None:
        cache = AsyncCache(maxsize=None, clock=loop.time)
        most = 0
        for key in range(1_000):
            cache.set(key, key, ttl=1 + key % 37)
            most = max(most, len(loop.timers()))
        assert most == 1
        for _ in range(20):
            await asyncio.sleep(1)
            assert len(loop.timers()) <= 1

    run_watched(main)


def test_t4_there_is_no_timer_where_no_entry_has_a_ttl():
    """A cache of values that live for ever sets no timer."""

    async def main(loop: WatchedLoop) -> None:
        cache = AsyncCache(clock=loop.time)
        calls = Calls()
        cache.set("a", 1)
        await cache.get("b", calls.load)
        await cache.get_many([1, 2], calls.many)
        cache.delete("a")
        assert [] == loop.timers()

    run_watched(main)


@pytest.mark.parametrize("how", ["expired", "deleted", "cleared", "replaced", "evicted"])
def test_t4_the_timer_ends_with_the_last_entry_that_has_a_ttl(how: str):
    """When no entry with a TTL is left, no timer is left after a few seconds."""

    async def main(loop: WatchedLoop) -> None:
        cache = AsyncCache(maxsize=1, clock=loop.time)
        cache.set("a", 1, ttl=1 if how == "expired" else 1_000)
        match how:
            case "deleted":
                cache.delete("a")
            case "cleared":
                cache.clear()
            case "replaced":
                cache.set("a", 1, ttl=None)
            case "evicted":
                cache.set("b", 1, ttl=None)
        await asyncio.sleep(2_000)
        assert [] == loop.timers()

    run_watched(main)


def test_t4_an_idle_loop_sweeps_by_the_injected_clock():
    """A sweep frees what the injected clock says has expired."""
    # reading: about two seconds of the loop after the clock has passed the end.

    async def main() -> None:
        clock = ManualClock()
        cache = AsyncCache(clock=clock)
        cache.set("a", 1, ttl=10)
        await asyncio.sleep(60)
        assert 1 == len(cache)
        clock.advance(10)
        await asyncio.sleep(3)
        assert 0 == len(cache)

    virtual(main)


@pytest.mark.parametrize("how", ["set", "miss", "hit", "get_many"])
def test_t4_what_was_set_without_a_loop_is_swept_on_a_loop(how: str):
    """Entries that were set before any loop ran are freed once a loop uses the cache."""
    # reading: the first call on a loop, whichever it is, arms the sweep.
    clock = ManualClock()
    cache = AsyncCache(clock=clock)
    calls = Calls()
    cache.set("a", 1, ttl=1)
    cache.set("hit", 1)

    async def main() -> None:
        match how:
            case "set":
                cache.set("b", 1)
            case "miss":
                await cache.get("b", calls.load)
            case "hit":
                await cache.get("hit")
            case _:
                await cache.get_many(["b"], calls.many)
        clock.advance(1)
        await asyncio.sleep(3)
        assert [] == there(cache, "a")
        assert 1 == cache.stats.evicted_for_age

    virtual(main)


def test_t4_the_sweep_goes_on_when_its_loop_was_closed():
    """A timer that died with its loop is set again on the next."""
    clock = ManualClock()
    cache = AsyncCache(clock=clock)

    async def first() -> None:
        cache.set("a", 1, ttl=10)

    async def second() -> None:
        cache.set("b", 1, ttl=10)
        clock.advance(10)
        await asyncio.sleep(13)
        assert 0 == len(cache)

    virtual(first)
    virtual(second)


def test_t4_a_dropped_cache_is_not_kept_alive_by_its_sweep_timer():
    """A cache that nobody holds is collected while its timer waits, and its values with it."""

    async def main(loop: WatchedLoop) -> None:
        cache = AsyncCache(clock=loop.time)
        thing = Thing()
        watched = [weakref.ref(cache), weakref.ref(thing)]
        cache.set("a", thing, ttl=1_000)
        del cache, thing
        gc.collect()
        assert [None, None] == [ref() for ref in watched]
        await asyncio.sleep(2_000)
        assert [] == loop.timers()

    run_watched(main)


def test_t4_a_stale_fallback_is_freed_at_the_end_of_its_stale_time():
    """What `stale_ttl` keeps after expiry is freed when that is over, too."""

    async def main() -> None:
        cache = AsyncCache(default_ttl=5, stale_ttl=20, clock=asyncio.get_running_loop().time)
        thing = Thing()
        watched = weakref.ref(thing)
        cache.set("a", thing)
        del thing
        await asyncio.sleep(20)
        gc.collect()
        assert watched() is not None
        await asyncio.sleep(8)
        gc.collect()
        assert watched() is None

    virtual(main)


def test_t4_an_expired_fallback_that_had_no_ttl_is_freed():
    """`expire` gives what would have lived for ever an end, and that needs a sweep."""

    async def main() -> None:
        cache = AsyncCache(stale_ttl=20, clock=asyncio.get_running_loop().time)
        cache.set("a", 1)
        cache.expire("a")
        await asyncio.sleep(19)
        assert 1 == len(cache)
        await asyncio.sleep(4)
        assert 0 == len(cache)

    virtual(main)


class Twin:
    """A key that is equal to all of its kind, and can be watched."""

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Twin)


def test_t4_tidying_forgets_no_end():
    """What lives on is freed in its time, also where the ends of others were tidied away."""

    async def main() -> None:
        cache = AsyncCache(stale_ttl=5, clock=asyncio.get_running_loop().time)
        cache.set("for ever", 1)
        for key in range(10):
            cache.set(key, key, ttl=20)
        for _ in range(500):
            cache.set("again", 1, ttl=10)
        await asyncio.sleep(14)
        assert 12 == len(cache)
        await asyncio.sleep(3)
        assert 11 == len(cache)
        await asyncio.sleep(7)
        assert 11 == len(cache)
        await asyncio.sleep(3)
        assert ["for ever"] == list(cache._data)

    virtual(main)


async def test_t4_setting_a_key_again_and_again_leaves_little_behind():
    """The ends that a key no longer has are tidied away, and the keys in them."""
    cache = AsyncCache(default_ttl=1_000, clock=ManualClock())
    watched: list[weakref.ref[Any]] = []
    for _ in range(1_000):
        key = Twin()
        watched.append(weakref.ref(key))
        cache.set(key, 1)
    del key

    assert alive(watched) < 100


async def test_t4_clearing_forgets_keys_whose_time_was_not_over():
    """What the cache remembers of keys, to free or to load them again later, goes with them."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, stale_ttl=1_000, clock=clock)

    async def fail() -> Any:
        raise ValueError("down")

    key = Key()
    watched = weakref.ref(key)
    cache.set(key, "old")
    clock.advance(15)
    assert "old" == await cache.get(key, fail)
    # The load's task ends.
    await asyncio.sleep(0)
    del key
    assert 1 == alive([watched])

    cache.clear()

    assert 0 == alive([watched])


def test_t4_clearing_ends_the_timer():
    """A cache without entries has no timer left."""

    async def main(loop: WatchedLoop) -> None:
        cache = AsyncCache(clock=loop.time)
        cache.set("a", 1, ttl=1_000)
        cache.clear()
        assert [] == loop.timers()
        cache.set("b", 1)
        assert [] == loop.timers()

    run_watched(main)


def test_t4_the_ends_of_keys_are_tidied_when_most_are_left_over():
    """Sixty-four, and twice as many as there are keys, may be left over."""
    buckets = ExpiryBuckets()
    for key in range(10):
        buckets.add(key, 0.5)
    assert [9, 8, 7] == list(buckets.take_due(1.0, 3))
    assert 7 == len(list(buckets.take_due(1.0, 10)))
    for key in range(74):
        buckets.add(key, 5.0)
    assert not buckets.is_untidy(5)
    buckets.add(74, 5.0)
    assert buckets.is_untidy(5)
    buckets.rebuild([(key, 6.5) for key in range(64)])
    assert not buckets.is_untidy(0)
    buckets.add(64, 7.0)
    assert buckets.is_untidy(0)
    assert list(range(64, -1, -1)) == list(buckets.take_due(7.0, 100))
    assert not buckets


async def test_t4_setting_with_a_ttl_leaves_nothing_behind_on_a_real_loop():
    """A timer that still waits when its loop is closed makes no report and no warning."""
    cache = AsyncCache(default_ttl=60)

    cache.set("a", 1)

    assert 1 == await cache.get("a")


# T5: who makes room


async def test_t5_lru_evicts_what_was_not_used_for_longest():
    """Of three keys the one that was not read since makes room."""
    cache = AsyncCache(maxsize=3)
    for key in "abc":
        cache.set(key, key)
    await cache.get("a")
    await cache.get("b")

    cache.set("d", "d")

    assert ["a", "b", "d"] == there(cache, *"abcd")


async def test_t5_setting_a_key_again_is_a_use():
    """A key that was set again is not the next to make room."""
    cache = AsyncCache(maxsize=3)
    for key in "abc":
        cache.set(key, 1)
    cache.set("a", 2)

    cache.set("d", 1)

    assert ["a", "c", "d"] == there(cache, *"abcd")


async def test_t5_a_hit_of_get_many_is_a_use():
    """A key that `get_many` found is not the next to make room."""
    cache = AsyncCache(maxsize=3)
    calls = Calls()
    for key in "abc":
        cache.set(key, 1)
    await within(cache.get_many(["a"], calls.many))

    cache.set("d", 1)

    assert ["a", "c", "d"] == there(cache, *"abcd")


async def test_t5_unlike_peers_a_ttl_does_not_turn_lru_into_fifo():
    """With TTLs, too, the least recently used makes room, not the oldest."""
    cache = AsyncCache(maxsize=3, default_ttl=100, clock=ManualClock())
    for key in "abc":
        cache.set(key, key)
    await cache.get("a")

    cache.set("d", "d")

    assert ["a", "c", "d"] == there(cache, *"abcd")


@pytest.mark.parametrize("seed", range(5))
async def test_t5_lru_is_the_textbooks(seed: int):
    """Over 2,000 random operations an LRU cache has exactly the keys that the textbook's has."""
    chance = random.Random(seed)
    cache = AsyncCache(maxsize=7, eviction="lru")
    model: OrderedDict[int, int] = OrderedDict()

    for number in range(2_000):
        key = chance.randrange(20)
        match chance.randrange(4):
            case 0:
                cache.set(key, number)
                model[key] = number
                model.move_to_end(key)
                if len(model) > 7:
                    model.popitem(last=False)
            case 1:
                cache.delete(key)
                model.pop(key, None)
            case _:
                if key in model:
                    model.move_to_end(key)
                assert model.get(key) == await cache.get(key)
        assert sorted(model) == there(cache, *range(20))


@pytest.mark.parametrize("eviction", POLICIES)
@pytest.mark.parametrize("seed", range(5))
async def test_t5_no_policy_ever_gives_another_value(seed: int, eviction: str):
    """Over 3,000 random operations a key has its last value or none."""
    chance = random.Random(seed)
    clock = ManualClock()
    cache = AsyncCache(maxsize=8, eviction=eviction, clock=clock)
    model: dict[int, tuple[int, float]] = {}

    for number in range(3_000):
        key = chance.randrange(24)
        match chance.randrange(6):
            case 0:
                ttl = chance.choice([1, 2, 5, 1_000_000])
                cache.set(key, number, ttl=ttl)
                model[key] = (number, clock() + ttl)
            case 1:
                cache.delete(key)
                model.pop(key, None)
            case 2:
                clock.advance(chance.choice([0, 0.5, 1]))
            case 3 if chance.random() < 0.02:
                cache.clear()
                model.clear()
            case _:
                value = await cache.get(key)
                last, ends = model.get(key, (None, 0.0))
                assert value is None or (value == last and clock() < ends)
        assert len(cache) <= 8


async def test_t5_s3fifo_keeps_what_is_used_through_a_scan():
    """Keys that are read often survive a long scan of keys that are read once."""
    cache = AsyncCache(maxsize=100, eviction="s3fifo")
    hot = range(50)
    for key in hot:
        cache.set(key, key)
    for _ in range(3):
        for key in hot:
            await cache.get(key)

    for key in range(1_000, 3_000):
        cache.set(key, key)

    assert list(hot) == there(cache, *hot)


async def test_t5_lru_does_not():
    """The default policy loses them: the two policies are two."""
    cache = AsyncCache(maxsize=100)
    hot = range(50)
    for key in hot:
        cache.set(key, key)
        await cache.get(key)

    for key in range(1_000, 3_000):
        cache.set(key, key)

    assert [] == there(cache, *hot)


class S3Fifo:
    """The algorithm as its paper has it (Yang et al., SOSP 2023, algorithm 1)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.small_size = max(1, size // 10)
        self.main_size = size - self.small_size
        self.small: deque[int] = deque()
        self.main: deque[int] = deque()
        self.ghost: OrderedDict[int, None] = OrderedDict()
        self.freq: dict[int, int] = {}

    def request(self, key: int) -> bool:
        """Say whether `key` was there, and have it there afterwards."""
        if key in self.freq:
            self.freq[key] = min(self.freq[key] + 1, 3)
            return True
        while len(self.small) + len(self.main) >= self.size:
            if len(self.small) >= self.small_size:
                self.evict_small()
            else:
                self.evict_main()
        if key in self.ghost:
            del self.ghost[key]
            self.main.append(key)
        else:
            self.small.append(key)
        self.freq[key] = 0
        return False

    def evict_small(self) -> None:
        while self.small:
            key = self.small.popleft()
            if self.freq[key] > 1:
                self.main.append(key)
                self.freq[key] = 0
                if len(self.main) > self.main_size:
                    self.evict_main()
                continue
            del self.freq[key]
            self.ghost[key] = None
            if len(self.ghost) > self.main_size:
                self.ghost.popitem(last=False)
            return

    def evict_main(self) -> None:
        while self.main:
            key = self.main.popleft()
            if self.freq[key] == 0:
                del self.freq[key]
                return
            self.freq[key] -= 1
            self.main.append(key)


def zipf(chance: random.Random, keys: int, count: int) -> list[int]:
    weights = [1 / (rank + 1) for rank in range(keys)]
    return chance.choices(range(keys), weights, k=count)


def scans(chance: random.Random, keys: int, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        found += zipf(chance, keys, 500)
        found += range(10_000 + len(found), 10_000 + len(found) + 200)
    return found


def shifting(chance: random.Random, keys: int, count: int) -> list[int]:
    return [key + number // 2_000 * 37 for number, key in enumerate(zipf(chance, keys, count))]


@pytest.mark.parametrize("workload", [zipf, scans, shifting], ids=lambda given: given.__name__)
@pytest.mark.parametrize("maxsize", [50, 200])
@pytest.mark.loop_kinds("asyncio")
async def test_t5_s3fifo_hits_as_often_as_its_paper_says(workload: Any, maxsize: int):
    """The hit ratio of `s3fifo` is within a point of the paper's algorithm."""
    requests = workload(random.Random(3), 2_000, 20_000)
    cache = AsyncCache(maxsize=maxsize, eviction="s3fifo")
    model = S3Fifo(maxsize)
    hits = 0

    for key in requests:
        if await cache.get(key) is None:
            cache.set(key, 1)
        hits += model.request(key)

    ours, theirs = cache.stats.hits / len(requests), hits / len(requests)
    assert ours >= theirs - 0.01


@pytest.mark.loop_kinds("asyncio")
async def test_t5_s3fifo_hits_more_often_than_lru_under_scans():
    """On a workload of hot keys and scans `s3fifo` has the better hit ratio."""
    requests = scans(random.Random(3), 2_000, 20_000)
    hits = {}
    for eviction in POLICIES:
        cache = AsyncCache(maxsize=100, eviction=eviction)
        for key in requests:
            if await cache.get(key) is None:
                cache.set(key, 1)
        hits[eviction] = cache.stats.hits

    assert hits["s3fifo"] > hits["lru"]


def test_t5_another_policy_is_an_error():
    """A policy that there is not is a `ConfigurationError` that names those that there are."""
    with pytest.raises(ConfigurationError) as caught:
        AsyncCache(eviction="fifo", name="users")  # type: ignore[arg-type]

    check_error(caught.value, "users", "eviction", "lru", "s3fifo", "fifo")


# T6: falsy values


FALSY: list[Any] = [None, 0, 0.0, "", b"", False, [], {}, set(), ()]


@pytest.mark.parametrize("value", FALSY, ids=repr)
async def test_t6_a_falsy_value_is_a_value(value: Any):
    """`None` and all that is false are remembered, and not asked for again."""
    cache = AsyncCache()
    calls = Calls(value)

    for _ in range(2):
        assert value == await within(cache.get("got", calls.load))
        assert value == await within(cache.get("batched", batch_loader=calls.many))
        assert {"many": value} == await within(cache.get_many(["many"], calls.many))

    assert 1 == calls.count
    assert [["batched"], ["many"]] == calls.plan
    assert 3 == cache.stats.hits


@pytest.mark.parametrize("value", FALSY, ids=repr)
async def test_t6_a_falsy_value_that_was_set_is_a_value(value: Any):
    """`None` and all that is false can be set, peeked and found by `in`."""
    cache = AsyncCache()

    cache.set("a", value)

    assert value is cache.peek("a", ABSENT)
    assert "a" in cache
    assert value is await cache.get("a")
    assert 1 == cache.stats.hits


async def test_t6_a_stored_none_is_a_hit_also_without_a_loader():
    """A `get` without a loader counts a stored `None` as a hit and an absent key as a miss."""
    cache = AsyncCache()
    cache.set("none", None)

    assert None is await cache.get("none")
    assert None is await cache.get("absent")

    assert (1, 1) == (cache.stats.hits, cache.stats.misses)


# T7: the TTL of None


async def test_t7_negative_ttl_is_the_ttl_of_none():
    """A `None` that was loaded lives `negative_ttl`; other values, false ones too, the default."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=60, negative_ttl=5, clock=clock)
    for key, value in (("none", None), ("zero", 0), ("text", "")):
        await within(cache.get(key, Calls(value).load))
    cache.set("set", None)
    await within(cache.get("batched", batch_loader=Calls(None).many))
    await within(cache.get_many(["many"], Calls(None).many))
    keys = ["none", "zero", "text", "set", "batched", "many"]

    clock.advance(4.5)
    assert keys == there(cache, *keys)
    clock.advance(0.5)
    assert ["zero", "text"] == there(cache, *keys)
    clock.advance(55)
    assert [] == there(cache, *keys)


async def test_t7_a_ttl_that_is_given_with_the_call_rules():
    """`negative_ttl` gives way to the TTL of the call, also to `None` for ever."""
    clock = ManualClock()
    cache = AsyncCache(negative_ttl=5, clock=clock)
    calls = Calls(None)
    await within(cache.get("given", calls.load, ttl=20))
    await within(cache.get("for ever", calls.load, ttl=None))
    cache.set("set", None, ttl=20)
    cache.set("computed", None, ttl=lambda key, value: 20)

    clock.advance(19)
    assert ["given", "for ever", "set", "computed"] == there(
        cache, "given", "for ever", "set", "computed"
    )
    clock.advance(1)
    assert ["for ever"] == there(cache, "given", "for ever", "set", "computed")


async def test_t7_a_negative_ttl_of_zero_stores_no_none():
    """With `negative_ttl=0` a `None` is answered and not stored."""
    cache = AsyncCache(negative_ttl=0)
    calls = Calls(None)

    for _ in range(2):
        assert None is await within(cache.get("a", calls.load))

    assert 2 == calls.count
    assert 0 == len(cache)


async def test_t7_without_a_negative_ttl_none_lives_like_any_value():
    """Where no `negative_ttl` is given, the default is the TTL of `None`, too."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    await within(cache.get("a", Calls(None).load))

    clock.advance(9)
    assert ["a"] == there(cache, "a")
    clock.advance(1)
    assert [] == there(cache, "a")


async def test_t7_a_key_that_a_mapping_lacks_lives_negative_ttl():
    """The `None` of a key that a batch function did not find is a `None`."""
    clock = ManualClock()
    cache = AsyncCache(negative_ttl=5, clock=clock)

    async def many(keys: list[int]) -> dict[int, str]:
        return {1: "one"}

    assert {1: "one", 2: None} == await within(cache.get_many([1, 2], many))
    assert [1, 2] == there(cache, 1, 2)
    clock.advance(5)
    assert [1] == there(cache, 1, 2)


# T8: spread


async def test_t8_jitter_spreads_the_ends():
    """`ttl_jitter=0.1` spreads lives of 100 seconds from 90 to 110, to both sides."""
    clock = ManualClock()
    cache = AsyncCache(maxsize=None, default_ttl=100, ttl_jitter=0.1, clock=clock)
    for key in range(1_000):
        cache.set(key, key)

    def left() -> int:
        return len(there(cache, *range(1_000)))

    clock.advance(89.9)
    assert 1_000 == left()
    clock.advance(10.1)
    assert 350 < left() < 650
    clock.advance(10.1)
    assert 0 == left()


async def test_t8_jitter_spreads_the_values_of_one_batch():
    """The values of one batch don't all end at once."""
    clock = ManualClock()
    cache = AsyncCache(maxsize=None, default_ttl=100, ttl_jitter=0.1, clock=clock)
    await within(cache.get_many(range(300), Calls().many))

    clock.advance(100)

    assert 50 < len(there(cache, *range(300))) < 250


async def test_t8_a_ttl_of_the_call_is_spread_too():
    """Jitter spreads every TTL, wherever it comes from."""
    clock = ManualClock()
    cache = AsyncCache(maxsize=None, ttl_jitter=0.1, clock=clock)
    for key in range(300):
        cache.set(key, key, ttl=100)

    clock.advance(100)

    assert 50 < len(there(cache, *range(300))) < 250


async def test_t8_jitter_leaves_for_ever_and_zero_alone():
    """What lives for ever, or not at all, is not spread."""
    clock = ManualClock()
    cache = AsyncCache(ttl_jitter=0.5, clock=clock)
    cache.set("for ever", 1)
    cache.set("never", 1, ttl=0)

    clock.advance(1e9)

    assert ["for ever"] == there(cache, "for ever", "never")


@pytest.mark.parametrize("jitter", [-0.1, 1.5, "0.1", float("nan"), None])
def test_t8_a_jitter_that_can_not_be_is_an_error(jitter: Any):
    """A jitter that would make negative lives, or is no number, is a `ConfigurationError`."""
    with pytest.raises(ConfigurationError) as caught:
        AsyncCache(ttl_jitter=jitter, name="users")

    check_error(caught.value, "users", "ttl_jitter")


# T9: equal keys


async def test_t9_equal_keys_are_one_key():
    """`1`, `1.0` and `True` are one key for `set`, `get`, `peek`, `in`, `len` and `delete`."""
    cache = AsyncCache()
    cache.set(1, "one")

    assert "one" == await cache.get(1.0)
    assert "one" == cache.peek(True)
    assert True in cache
    cache.set(1.0, "other")
    assert 1 == len(cache)
    assert "other" == cache.peek(1)
    cache.delete(True)
    assert 0 == len(cache)


async def test_t9_equal_keys_share_a_flight():
    """Callers of equal keys are answered by one load."""
    cache = AsyncCache()
    calls = Calls()

    found = await within(asyncio.gather(*(cache.get(key, calls.load) for key in (1, 1.0, True))))

    assert ["value"] * 3 == found
    assert 1 == calls.count


async def test_t9_equal_keys_are_asked_once_in_a_batch():
    """A batch function sees the first of several equal keys."""
    cache = AsyncCache()
    calls = Calls()

    found = await within(
        asyncio.gather(*(cache.get(key, batch_loader=calls.many) for key in (1, 1.0, True, 2)))
    )

    assert ["value"] * 4 == found
    assert [[1, 2]] == calls.plan
    assert {3: "value"} == await within(cache.get_many([3, 3.0], calls.many))
    assert [[1, 2], [3]] == calls.plan
