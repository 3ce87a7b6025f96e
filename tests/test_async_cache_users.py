"""Programs written for async-cache 2.0.3: the import is changed, and nothing else.

The differences that the README's table lists are each a test at the end.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dataloader_cache import AsyncCache, AsyncLRU, AsyncTTL
from dataloader_cache.errors import BatchResultError
from dataloader_cache.testing import ManualClock, run_virtual

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever


async def within(awaitable: Any) -> Any:
    """Wait for `awaitable`, but not for ever."""
    return await asyncio.wait_for(awaitable, GUARD)


class Database:
    """What the programs ask."""

    def __init__(self) -> None:
        self.queries: list[Any] = []

    async def db_query(self, key: Any = "expensive") -> str:
        self.queries.append(key)
        await asyncio.sleep(0)
        return f"row {key}"


# Core usage


async def test_users_core_program():
    """The first program of the documentation: get with a loader, warm up, print metrics."""
    database = Database()
    db_query = database.db_query

    async def preload_hot() -> str:
        return "hot"

    cache = AsyncCache(maxsize=1000, default_ttl=300)  # TTL in seconds

    async def get_data(key):
        return await cache.get(
            key,
            loader=lambda: db_query(key),  # auto-caches on miss
        )

    # Warmup hot keys at startup
    await cache.warmup({"hot:key": lambda: preload_hot()})

    assert "hot" == await get_data("hot:key")
    assert ["row a", "row a", "row b"] == [await get_data(key) for key in ("a", "a", "b")]
    assert ["a", "b"] == database.queries
    metrics = cache.get_metrics()
    assert {"hits", "misses", "size", "hit_rate"} <= set(metrics)
    assert 3 == metrics["size"]
    # The warm-up of an absent key is a miss, as it was.
    assert (2, 3, 0.4) == (metrics["hits"], metrics["misses"], metrics["hit_rate"])


async def test_users_thundering_herd_program():
    """A hundred concurrent gets, one loader call."""
    database = Database()
    cache = AsyncCache()

    async def loader():
        return await database.db_query()  # expensive

    # 100 concurrent -> 1 loader call
    results = await asyncio.gather(*[cache.get("key", loader=loader) for _ in range(100)])

    assert ["row expensive"] * 100 == results
    assert ["expensive"] == database.queries
    assert (0, 100) == (cache.get_metrics()["hits"], cache.get_metrics()["misses"])


async def test_users_batching_program():
    """Two concurrent gets with one batch loader are one call of it."""
    calls: list[Any] = []
    cache = AsyncCache()

    async def db_batch_query(k):
        return k * 10

    async def batch_loader(keys):
        # one DB query for batch
        calls.append(list(keys))
        return {k: await db_batch_query(k) for k in keys}

    # auto-groups within 5ms window
    found = await asyncio.gather(
        cache.get(1, batch_loader=batch_loader),
        cache.get(2, batch_loader=batch_loader),
    )

    assert [10, 20] == found
    assert [[1, 2]] == calls


async def test_users_batch_loader_may_give_a_list():
    """A batch loader that returns values in key order is understood."""
    cache = AsyncCache()

    async def batch_loader(keys):
        return [k * 10 for k in keys]

    assert [10, 20] == await within(
        asyncio.gather(*(cache.get(key, None, batch_loader) for key in (1, 2)))
    )


async def test_users_batch_loader_may_lack_a_key():
    """A key that a batch loader's dict lacks is `None`."""
    cache = AsyncCache()

    async def batch_loader(keys):
        return {1: 10}

    assert [10, None] == await within(
        asyncio.gather(*(cache.get(key, batch_loader=batch_loader) for key in (1, 2)))
    )


async def test_users_warmup_program():
    """Warm-up fills what is absent and keeps what is there."""
    calls: list[Any] = []

    async def load_user(number):
        calls.append(number)
        return f"user {number}"

    async def load_config():
        calls.append("config")
        return "config"

    cache = AsyncCache()
    cache.set("user:1", "there")

    await cache.warmup(
        {
            "user:1": lambda: load_user(1),
            "config:global": lambda: load_config(),
        }
    )

    assert ["there", "config"] == [await cache.get(key) for key in ("user:1", "config:global")]
    assert ["config"] == calls


async def test_users_metrics_program():
    """The four numbers of the documentation are there under their names."""
    cache = AsyncCache()
    await cache.set("a", 1)
    for _ in range(19):
        await cache.get("a")
    await cache.get("b")

    metrics = cache.get_metrics()

    assert (19, 1, 1, 0.95) == (
        metrics["hits"],
        metrics["misses"],
        metrics["size"],
        metrics["hit_rate"],
    )
    assert 0.0 == AsyncCache().get_metrics()["hit_rate"]


async def test_users_invalidation_program():
    """`set` with a TTL, `delete` and `clear`, as the documentation has them."""
    cache = AsyncCache()

    await cache.set("key", "value", ttl=60)  # override
    assert "value" == await cache.get("key")
    await cache.delete("key")  # or func.invalidate_cache(args)
    assert None is await cache.get("key")
    cache.clear()

    assert 0 == cache.get_metrics()["misses"]


async def test_users_changes_need_no_await():
    """`set` and `delete` were plain functions: calls without `await` take effect."""
    cache = AsyncCache()

    cache.set("key", "value", ttl=60)
    cache.set("other", "value", 60)
    assert ["value", "value"] == [await cache.get("key"), await cache.get("other")]
    cache.delete("key")
    cache.delete("absent")

    assert None is await cache.get("key")


async def test_users_get_takes_its_arguments_by_position():
    """`get(key, loader, batch_loader, ttl)` keeps its order."""
    clock = ManualClock()
    cache = AsyncCache(128, 300, clock=clock)
    database = Database()

    assert "row a" == await cache.get("a", lambda: database.db_query("a"), None, 10)
    clock.advance(10)
    assert "row a" == await cache.get("a", lambda: database.db_query("a"), None, 10)

    assert ["a", "a"] == database.queries


async def test_users_get_without_a_loader_is_none():
    """A get of an absent key without a loader is `None` and a miss."""
    cache = AsyncCache()

    assert None is await cache.get("absent")
    assert 1 == cache.get_metrics()["misses"]


async def test_users_len_and_in():
    """`len(cache)` and `key in cache` work, and `in` sees no expired key."""
    clock = ManualClock()
    cache = AsyncCache(clock=clock)
    cache.set("a", 1, ttl=10)
    cache.set("b", 1)

    assert 2 == len(cache)
    assert "a" in cache
    clock.advance(10)
    assert "a" not in cache
    assert "b" in cache


async def test_users_maxsize_evicts_the_least_recently_used():
    """The third key of a cache for two takes the place of the one not read."""
    cache = AsyncCache(maxsize=2)
    cache.set("a", 1)
    cache.set("b", 1)
    await cache.get("a")
    cache.set("c", 1)

    assert [1, None, 1] == [await cache.get(key) for key in "abc"]


async def test_users_maxsize_none_is_unlimited():
    """`maxsize=None` keeps everything."""
    cache = AsyncCache(maxsize=None)
    for key in range(1_000):
        cache.set(key, key)

    assert 1_000 == cache.get_metrics()["size"]


def test_users_batch_window_ms_is_in_milliseconds():
    """`batch_window_ms=20` gathers for 20 milliseconds, `max_batch_size` cuts short."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[Any] = []
        cache = AsyncCache(maxsize=128, default_ttl=None, batch_window_ms=20, max_batch_size=3)

        async def batch_loader(keys):
            calls.append((round(loop.time(), 6), sorted(keys)))
            return {k: k for k in keys}

        async def get(key, start):
            await asyncio.sleep(start)
            return await cache.get(key, batch_loader=batch_loader)

        await asyncio.gather(
            *(get(key, start) for key, start in [(1, 0), (2, 0.019), (3, 0.1), (4, 0.1), (5, 0.1)])
        )
        assert [(0.02, [1, 2]), (0.1, [3, 4, 5])] == calls

    run_virtual(main)


async def test_users_errors_reach_the_caller():
    """A loader's error is raised, and the next get tries again."""
    cache = AsyncCache()

    async def broken():
        raise ValueError("down")

    with pytest.raises(ValueError, match="down"):
        await within(cache.get("a", loader=broken))

    database = Database()
    assert "row a" == await cache.get("a", loader=lambda: database.db_query("a"))


# Decorators


async def test_users_decorator_program():
    """`AsyncLRU` and `AsyncTTL` on a function and on a method."""
    calls: list[Any] = []

    @AsyncLRU(maxsize=128)
    async def func(*args):
        calls.append(args)
        return args

    class Service:
        @AsyncTTL(time_to_live=60, skip_args=1)  # e.g. skip 'self'
        async def method(self, arg):
            calls.append(arg)
            return arg

    for _ in range(2):
        assert (1, 2) == await func(1, 2)
        assert 5 == await Service().method(5)

    assert [(1, 2), 5] == calls


@pytest.mark.parametrize("make", [lambda: AsyncLRU(), lambda: AsyncTTL()], ids=["lru", "ttl"])
async def test_users_decorated_functions_have_what_they_had(make: Callable[[], Any]):
    """`invalidate_cache`, `clear_cache`, `get_metrics` and `use_cache=False` are there."""
    calls: list[Any] = []

    @make()
    async def func(a, b=0):
        calls.append((a, b))
        return len(calls)

    assert [1, 1] == [await func(1), await func(1)]
    func.invalidate_cache(1)
    assert 2 == await func(1)
    assert 3 == await func(1, use_cache=False)
    assert 3 == await func(1)
    func.clear_cache()
    assert 4 == await func(1)
    metrics = func.get_metrics()
    assert (0, 1, 1) == (metrics["hits"], metrics["misses"], metrics["size"])


async def test_users_use_cache_false_counts_as_a_miss():
    """A forced reload was counted as a miss, and is."""

    @AsyncLRU()
    async def func(a):
        return a

    await func(1)
    await func(1, use_cache=False)
    await func(1)

    assert (1, 2) == (func.get_metrics()["hits"], func.get_metrics()["misses"])


async def test_users_lists_dicts_and_objects_may_be_arguments():
    """Arguments that are not hashable are compared by value."""
    calls: list[Any] = []

    class Filter:
        def __init__(self, name):
            self.name = name

    @AsyncLRU(maxsize=128)
    async def func(a, **options):
        calls.append(a)
        return len(calls)

    for _ in range(2):
        await func([1, 2], where={"a": [1]})
        await func({"x": 1}, where={1, 2})
        await func(Filter("me"))

    assert 3 == len(calls)


@pytest.mark.parametrize("time_to_live", [None, 60])
async def test_users_time_to_live_may_be_none(time_to_live: int | None):
    """`AsyncTTL(time_to_live=None)` never expires."""
    calls: list[Any] = []

    @AsyncTTL(time_to_live=time_to_live, maxsize=None)
    async def func(a):
        calls.append(a)
        return a

    await func(1)
    await func(1)

    assert [1] == calls


def test_users_may_make_all_of_it_without_a_loop():
    """Caches and decorated functions are made at import, before any loop runs."""
    cache = AsyncCache(maxsize=1000, default_ttl=300)

    @AsyncLRU(maxsize=128)
    async def func(a):
        return a

    async def main() -> list[Any]:
        database = Database()
        return [await func(1), await cache.get("a", loader=lambda: database.db_query("a"))]

    for _ in range(2):
        assert [1, "row a"] == asyncio.run(main())


# The differences


async def test_difference_ttl_none_is_for_ever():
    """`get(ttl=None)` is for ever; in async-cache it was the default TTL."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    database = Database()
    await cache.get("a", loader=lambda: database.db_query("a"), ttl=None)

    clock.advance(1_000_000)

    assert "a" in cache


async def test_difference_a_short_list_is_an_error():
    """A batch loader that returns too few values fails; in async-cache the rest was `None`."""
    cache = AsyncCache()

    async def batch_loader(keys):
        return [10]

    found = await within(
        asyncio.gather(
            *(cache.get(key, batch_loader=batch_loader) for key in (1, 2)), return_exceptions=True
        )
    )

    assert [BatchResultError] * 2 == [type(error) for error in found]
    assert 0 == len(cache)


async def test_difference_an_error_among_the_values_is_raised():
    """A key's exception is raised to its callers; in async-cache it was stored as a value."""
    cache = AsyncCache()

    async def batch_loader(keys):
        return {key: ValueError(key) if key == 2 else key for key in keys}

    found = await within(
        asyncio.gather(
            *(cache.get(key, batch_loader=batch_loader) for key in (1, 2)), return_exceptions=True
        )
    )

    assert 1 == found[0]
    assert isinstance(found[1], ValueError)
    assert 2 not in cache


async def test_difference_one_decorator_object_gives_each_function_its_own_store():
    """Two functions under one decorator object no longer share room and metrics."""
    decorator = AsyncLRU(maxsize=1)

    @decorator
    async def one(a):
        return a

    @decorator
    async def two(a):
        return a

    await one(1)
    await two(1)
    await one(1)

    assert (1, 0) == (one.get_metrics()["hits"], two.get_metrics()["hits"])


async def test_difference_a_list_and_a_tuple_differ():
    """`f([1])` and `f((1,))` are two calls; in async-cache they were one."""
    calls: list[Any] = []

    @AsyncLRU()
    async def func(a):
        calls.append(a)

    await func([1])
    await func((1,))

    assert [[1], (1,)] == calls


def test_difference_the_key_module_is_not_public():
    """There is no `dataloader_cache.key`."""
    assert None is importlib.util.find_spec("dataloader_cache.key")


# What both do in the same way


def programs() -> dict[str, Callable[[Any], Coroutine[Any, Any, Any]]]:
    """Give programs that are run against both libraries."""

    async def herd(library: Any) -> Any:
        cache = library.AsyncCache(maxsize=10, default_ttl=60)
        database = Database()
        found = await asyncio.gather(
            *(cache.get("a", loader=lambda: database.db_query("a")) for _ in range(10))
        )
        metrics = cache.get_metrics()
        return found, database.queries, [metrics[name] for name in ("hits", "misses", "size")]

    async def batch(library: Any) -> Any:
        cache = library.AsyncCache(batch_window_ms=1)
        calls: list[Any] = []

        async def many(keys: list[Any]) -> dict[Any, Any]:
            calls.append(list(keys))
            return {key: str(key) for key in keys if key != 3}

        found = [
            await asyncio.gather(*(cache.get(key, batch_loader=many) for key in (1, 2, 3)))
            for _ in range(2)
        ]
        return found, calls

    async def decorated(library: Any) -> Any:
        calls: list[Any] = []

        @library.AsyncTTL(time_to_live=60, maxsize=2)
        async def func(a: int, b: int = 0) -> int:
            calls.append((a, b))
            return a + b

        for a in (1, 1, 2, 3, 1):
            await func(a)
        func.invalidate_cache(3)
        await func(3)
        await func(3, use_cache=False)
        metrics = func.get_metrics()
        return calls, [metrics[name] for name in ("hits", "misses", "size", "hit_rate")]

    return {"herd": herd, "batch": batch, "decorated": decorated}


@pytest.mark.skipif(
    importlib.util.find_spec("cache") is None, reason="async-cache is not installed"
)
@pytest.mark.parametrize("name", programs())
async def test_both_libraries_do_the_same(name: str):
    """A program that avoids the listed differences has the same outcome with either library."""
    if name == "decorated" and sys.version_info < (3, 11):
        pytest.skip("async-cache 2.0.3 raises KeyError from invalidate_cache on Python 3.10")
    theirs = importlib.import_module("cache")
    ours = importlib.import_module("dataloader_cache")
    program = programs()[name]

    assert await within(program(theirs)) == await within(program(ours))
