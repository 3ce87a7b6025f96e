"""The calls of `AsyncCache`: what each one does, refuses and counts."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import inspect
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dataloader_cache import AsyncCache, AsyncLRU, AsyncTTL, CacheStats, WarmupResult
from dataloader_cache.errors import (
    BatchResultError,
    ConfigurationError,
    DataLoaderCacheError,
)
from dataloader_cache.testing import ManualClock, run_virtual

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


def virtual(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run `main` in virtual time, but not for ever."""
    return run_virtual(lambda: asyncio.wait_for(main(), 100_000.0))


class Broken(Exception):
    """What a load fails with."""


class Source:
    """A backend that counts what it is asked."""

    def __init__(self, value: Any = "value") -> None:
        self.value = value
        self.count = 0
        self.plan: list[list[Any]] = []

    async def load(self) -> Any:
        self.count += 1
        await asyncio.sleep(0)
        return self.value

    async def many(self, keys: list[Any]) -> dict[Any, Any]:
        self.plan.append(list(keys))
        await asyncio.sleep(0)
        return {key: key * 10 for key in keys}

    async def fail(self) -> Any:
        self.count += 1
        raise Broken("down")


class Gate:
    """A loader whose every call waits until the test answers it."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[Any]] = []

    async def load(self) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        return await answer

    async def running(self, count: int = 1) -> None:
        """Wait until `count` calls have been made."""
        await until(lambda: len(self.answers) >= count)


# The programs that the documentation shows


async def test_program_a_value_is_loaded_once():
    """`get` with a loader loads once and then answers from memory."""
    queries: list[str] = []

    async def db_query(key: str) -> str:
        queries.append(key)
        return key.upper()

    key = "user:1"
    cache = AsyncCache(maxsize=1000, default_ttl=300)

    value = await cache.get(key, loader=lambda: db_query(key))
    again = await cache.get(key, loader=lambda: db_query(key))

    assert ("USER:1", "USER:1") == (value, again)
    assert ["user:1"] == queries


async def test_program_a_hundred_callers_are_one_load():
    """A hundred concurrent callers of one key make one load."""
    cache = AsyncCache(maxsize=1000, default_ttl=300)
    calls: list[int] = []

    async def loader() -> str:
        calls.append(1)
        await asyncio.sleep(0)
        return "value"

    found = await asyncio.gather(*[cache.get("key", loader=loader) for _ in range(100)])

    assert ["value"] * 100 == found
    assert [1] == calls


@pytest.mark.parametrize("shape", ["dict", "list"])
async def test_program_two_keys_are_one_batch(shape: str):
    """Two concurrent gets with one batch loader make one batch, which gives a dict or a list."""
    cache = AsyncCache(maxsize=1000, default_ttl=300)
    plan: list[list[int]] = []

    async def many(keys: list[int]) -> Any:
        plan.append(keys)
        found = {key: f"user {key}" for key in keys}
        return found if shape == "dict" else list(found.values())

    found = await asyncio.gather(cache.get(1, batch_loader=many), cache.get(2, batch_loader=many))

    assert ["user 1", "user 2"] == found
    assert [[1, 2]] == plan


async def test_program_warm_up():
    """`warmup` loads what the start of a service needs."""

    async def load_user(number: int) -> str:
        return f"user {number}"

    async def load_config() -> dict[str, int]:
        return {"answer": 42}

    cache = AsyncCache(maxsize=1000, default_ttl=300)

    await cache.warmup({"user:1": lambda: load_user(1), "config:global": load_config})

    assert "user 1" == await cache.get("user:1")
    assert {"answer": 42} == await cache.get("config:global")


async def test_program_metrics():
    """`get_metrics` has hits, misses, size and hit rate."""
    cache = AsyncCache(maxsize=1000, default_ttl=300)
    source = Source()
    for number in range(50):
        await within(cache.get(number, source.load))
    for _ in range(19):
        for number in range(50):
            await cache.get(number, source.load)

    metrics = cache.get_metrics()

    assert {"hits": 950, "misses": 50, "size": 50, "hit_rate": 0.95} == {
        name: metrics[name] for name in ("hits", "misses", "size", "hit_rate")
    }


async def test_program_set_delete_clear():
    """`set`, `delete` and `clear` work as they read."""
    cache = AsyncCache(maxsize=1000, default_ttl=300)

    await cache.set("key", "value", ttl=60)
    assert "value" == await cache.get("key")
    await cache.delete("key")
    assert None is await cache.get("key")
    await cache.set("key", "value", ttl=60)
    cache.clear()

    assert None is await cache.get("key")


async def test_program_decorators():
    """The two decorators cache a function and a method."""
    calls: list[Any] = []

    @AsyncLRU(maxsize=128)
    async def func(*args: int) -> int:
        calls.append(args)
        return sum(args)

    class Service:
        @AsyncTTL(time_to_live=60, skip_args=1)
        async def method(self, arg: int) -> int:
            calls.append(arg)
            return arg * 10

    service = Service()
    for _ in range(2):
        assert 6 == await func(1, 2, 3)
        assert 70 == await service.method(7)
    assert [(1, 2, 3), 7] == calls

    service.method.invalidate_cache(service, 7)
    assert 70 == await service.method(7)
    assert [(1, 2, 3), 7, 7] == calls
    assert 70 == await service.method(7, use_cache=False)
    assert [(1, 2, 3), 7, 7, 7] == calls
    assert 1 == service.method.get_metrics()["size"]


# Signatures


def test_the_signature_is_the_documented_one():
    """Names, order, kinds and defaults of the arguments are the documented ones."""
    parameters = inspect.signature(AsyncCache).parameters

    assert ["maxsize", "default_ttl"] == [
        name
        for name, parameter in parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    assert {
        "maxsize": 128,
        "default_ttl": None,
        "batch_window": 0.005,
        "max_batch_size": 100,
        "eviction": "lru",
        "ttl_jitter": 0.0,
        "negative_ttl": None,
        "stale_ttl": 0.0,
        "refresh_ahead": None,
        "retry_after": 1.0,
        "load_timeout": None,
        "soft_timeout": None,
        "max_concurrent_loads": None,
        "context": None,
        "tier": None,
        "name": None,
        "batch_window_ms": None,
    } == {name: parameter.default for name, parameter in parameters.items() if name != "clock"}


@pytest.mark.parametrize(
    "method, names",
    [
        ("get", ["key", "loader", "batch_loader", "ttl", "tags"]),
        ("get_many", ["keys", "batch_loader", "ttl", "tags", "return_exceptions"]),
        ("peek", ["key", "default"]),
        ("set", ["key", "value", "ttl", "tags"]),
        ("delete", ["key"]),
        ("expire", ["key"]),
        ("invalidate_tag", ["tag"]),
        ("clear", []),
        ("refresh", ["key", "loader", "ttl", "tags"]),
        ("get_metrics", []),
        ("aclose", ["wait"]),
    ],
)
def test_the_methods_take_the_documented_arguments(method: str, names: list[str]):
    """Every method has its arguments in the documented order."""
    assert names == list(inspect.signature(getattr(AsyncCache(), method)).parameters)


# get


async def test_get_without_a_loader_gives_what_is_there_or_none():
    """Without a loader a miss is `None`."""
    cache = AsyncCache()
    cache.set("a", 1)

    assert 1 == await cache.get("a")
    assert None is await cache.get("b")
    assert (1, 1) == (cache.stats.hits, cache.stats.misses)


async def test_get_without_a_loader_does_not_wait_for_a_flight():
    """Without a loader a key that is being loaded is a miss."""
    # reading: "a get without a loader is None on a miss", and this is one.
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()

    assert None is await within(cache.get("a"))

    gate.answers[0].set_result(1)
    assert 1 == await within(task)


async def test_get_takes_any_awaitable():
    """A loader may return a coroutine, a task, a future or an awaitable object."""
    cache = AsyncCache()
    loop = asyncio.get_running_loop()

    class Waiting:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "object"

    def future() -> asyncio.Future[str]:
        made: asyncio.Future[str] = loop.create_future()
        made.set_result("future")
        return made

    source = Source("coroutine")

    assert "object" == await within(cache.get("object", Waiting))
    assert "future" == await within(cache.get("future", future))
    assert "coroutine" == await within(cache.get("coroutine", source.load))
    source.value = "task"
    assert "task" == await within(cache.get("task", lambda: loop.create_task(source.load())))


# peek, len, in


async def test_peek_gives_what_is_there_without_counting():
    """`peek`, `in` and `len` count as neither hit nor miss."""
    cache = AsyncCache()
    cache.set("a", 1)

    assert 1 == cache.peek("a")
    assert None is cache.peek("b")
    assert "mine" == cache.peek("b", "mine")
    assert "mine" == cache.peek("b", default="mine")
    assert "a" in cache
    assert "b" not in cache
    assert 1 == len(cache)
    assert (0, 0) == (cache.stats.hits, cache.stats.misses)


async def test_an_empty_cache_is_not_asked_for_its_truth_by_the_library():
    """A cache with nothing in it is still a cache where one is passed."""
    cache = AsyncCache()

    assert 0 == len(cache)
    assert not hasattr(cache, "__bool__") or bool(cache)


# set, delete, expire, invalidate_tag, clear


OPERATIONS: dict[str, Callable[[AsyncCache], Any]] = {
    "set": lambda cache: cache.set("b", 2),
    "delete": lambda cache: cache.delete("a"),
    "expire": lambda cache: cache.expire("a"),
    "invalidate_tag": lambda cache: cache.invalidate_tag("t"),
    "clear": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_change_takes_effect_when_called(operation: str):
    """Without being awaited a change is there at once, and gives no warning."""
    cache = AsyncCache()
    cache.set("a", 1, tags=["t"])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OPERATIONS[operation](cache)
        found = sorted(key for key in "ab" if key in cache)
        gc.collect()

    assert (["a", "b"] if operation == "set" else []) == found


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_change_may_be_awaited(operation: str):
    """A change gives an awaitable that `await`, `gather` and `wait_for` take."""
    cache = AsyncCache()

    await OPERATIONS[operation](cache)
    await asyncio.gather(OPERATIONS[operation](cache), OPERATIONS[operation](cache))
    await within(OPERATIONS[operation](cache))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_change_needs_no_loop(operation: str):
    """A change works where no loop runs, without a warning."""
    cache = AsyncCache()
    cache.set("a", 1, tags=["t"])

    OPERATIONS[operation](cache)
    gc.collect()

    assert (operation == "set") is ("b" in cache)


async def test_deleting_an_absent_key_is_no_error():
    """`delete` and `expire` of an absent key and an unknown tag do nothing."""
    cache = AsyncCache()

    await cache.delete("absent")
    await cache.expire("absent")
    await cache.invalidate_tag("absent")
    await cache.clear()

    assert 0 == len(cache)


async def test_set_replaces():
    """The last value that was set is the value."""
    cache = AsyncCache()

    for value in (1, 2, 3):
        await cache.set("a", value)

    assert 3 == await cache.get("a")
    assert 1 == len(cache)


async def test_set_stores_the_very_object():
    """What is got is what was set, not a copy."""
    cache = AsyncCache()
    value = [1]

    await cache.set("a", value)

    assert value is await cache.get("a")


async def test_clear_forgets_all_and_resets_the_metrics():
    """After `clear` nothing is there and nothing has been counted."""
    cache = AsyncCache(maxsize=2)
    source = Source()
    for key in range(5):
        await within(cache.get(key, source.load))
    await cache.get(4)

    cache.clear()

    assert 0 == len(cache)
    assert AsyncCache().stats == cache.stats
    assert "value" == await within(cache.get(4, source.load))
    assert (0, 1) == (cache.stats.hits, cache.stats.misses)


# Tags


async def test_a_tag_takes_its_keys_and_no_others():
    """`invalidate_tag` removes every key that has the tag."""
    cache = AsyncCache()
    cache.set("a", 1, tags=["x", "y"])
    cache.set("b", 1, tags=("y",))
    cache.set("c", 1, tags={"z"})
    cache.set("d", 1)

    cache.invalidate_tag("y")

    assert ["c", "d"] == [key for key in "abcd" if key in cache]


async def test_every_way_in_takes_tags():
    """`get`, `get_many` and `refresh` store with tags, given or computed."""
    cache = AsyncCache()
    source = Source()
    await within(cache.get("a", source.load, tags=["t"]))
    await within(cache.get(1, batch_loader=source.many, tags=["t"]))
    await within(cache.get_many([2, 3], source.many, tags=lambda key, value: [value]))
    await within(cache.refresh("b", source.load, tags=["t"]))
    cache.set("c", "value", tags=lambda key, value: (key, value))

    cache.invalidate_tag("t")
    assert [2, 3, "c"] == [key for key in ("a", 1, 2, 3, "b", "c") if key in cache]
    cache.invalidate_tag(20)
    assert [3, "c"] == [key for key in (2, 3, "c") if key in cache]
    cache.invalidate_tag("value")
    assert [3] == [key for key in (2, 3, "c") if key in cache]


async def test_a_key_that_is_set_again_has_its_new_tags_only():
    """The tags of a value go with it."""
    cache = AsyncCache()
    cache.set("a", 1, tags=["old"])
    cache.set("a", 2, tags=["new"])

    cache.invalidate_tag("old")
    assert 2 == cache.peek("a")
    cache.invalidate_tag("new")

    assert "a" not in cache


async def test_a_key_that_was_deleted_has_no_tags():
    """A key that was deleted, or cleared, and set again does not have its old tags."""
    cache = AsyncCache()
    for remove in (cache.delete, lambda key: cache.clear()):
        cache.set("a", 1, tags=["t"])
        remove("a")
        cache.set("a", 2)
        cache.invalidate_tag("t")
        assert 2 == cache.peek("a")


async def test_a_key_that_was_evicted_has_no_tags():
    """A key that made room and came back does not have its old tags."""
    cache = AsyncCache(maxsize=1)
    cache.set("a", 1, tags=["t"])
    cache.set("b", 1)
    cache.set("a", 2)

    cache.invalidate_tag("t")

    assert 2 == cache.peek("a")


async def test_a_tag_function_that_fails_hangs_nobody():
    """A tag function that raises fails that load and nothing else."""
    # reading: what the function raises is the error of that key's load.
    cache = AsyncCache()
    source = Source()

    def tags(key: Any, value: Any) -> list[str]:
        raise Broken("no tags")

    for attempt in (
        lambda: cache.get("a", source.load, tags=tags),
        lambda: cache.get(1, batch_loader=source.many, tags=tags),
        lambda: cache.get_many([2], source.many, tags=tags),
        lambda: cache.set("b", 1, tags=tags),
    ):
        with pytest.raises(Broken):
            await within(attempt())
    assert 0 == len(cache)
    assert "value" == await within(cache.get("a", source.load))


async def test_an_unhashable_tag_hangs_nobody():
    """A tag that can't be one is an error of ours, and nothing is half stored."""
    cache = AsyncCache(name="users")
    source = Source()

    for attempt in (
        lambda: cache.set("a", 1, tags=[[]]),
        lambda: cache.get("a", source.load, tags=[[]]),
        lambda: cache.get_many(["a"], source.many, tags=lambda key, value: [[]]),
    ):
        with pytest.raises(TypeError):
            await within(attempt())
    assert 0 == len(cache)


# get_many


async def test_get_many_gives_a_dict_in_the_order_of_the_keys():
    """`get_many` answers every key, in order, once."""
    cache = AsyncCache()
    source = Source()
    cache.set(2, "there")

    found = await within(cache.get_many([3, 2, 1, 3], source.many))

    assert [(3, 30), (2, "there"), (1, 10)] == list(found.items())
    assert [[3, 1]] == source.plan


async def test_get_many_of_nothing_is_nothing():
    """No keys make no batch."""
    cache = AsyncCache()
    source = Source()

    assert {} == await within(cache.get_many([], source.many))
    assert [] == source.plan


async def test_get_many_takes_any_iterable():
    """Keys may come from a generator, a set or a dict."""
    cache = AsyncCache()
    source = Source()

    assert {1: 10, 2: 20} == await within(cache.get_many((key for key in (1, 2)), source.many))
    assert {3: 30} == await within(cache.get_many({3}, source.many))
    assert {4: 40} == await within(cache.get_many({4: "x"}, source.many))


async def test_get_many_raises_the_first_error_after_all_keys_have_settled():
    """Of several errors the first in key order is raised; the other keys are stored."""
    cache = AsyncCache()

    async def many(keys: list[int]) -> list[Any]:
        return [Broken(str(key)) if key in (2, 3) else key * 10 for key in keys]

    with pytest.raises(Broken, match="2"):
        await within(cache.get_many([1, 2, 3, 4], many))

    assert [1, 4] == [key for key in (1, 2, 3, 4) if key in cache]


async def test_get_many_gives_errors_in_their_places_when_asked():
    """With `return_exceptions=True` errors stand among the values."""
    cache = AsyncCache()
    error = Broken("2")

    async def many(keys: list[int]) -> list[Any]:
        return [error if key == 2 else key * 10 for key in keys]

    assert {1: 10, 2: error, 3: 30} == await within(
        cache.get_many([1, 2, 3], many, return_exceptions=True)
    )


async def test_get_many_waits_for_the_others_when_a_joined_flight_fails():
    """An error of a key that was joined comes when the rest has settled."""
    cache = AsyncCache()
    gate = Gate()
    source = Source()
    single = asyncio.ensure_future(cache.get(1, gate.load))
    await gate.running()
    many = asyncio.ensure_future(cache.get_many([1, 2], source.many, return_exceptions=True))
    await until(lambda: source.plan)
    gate.answers[0].set_exception(Broken("joined"))

    found = await within(many)

    assert isinstance(found[1], Broken)
    assert 20 == found[2]
    with pytest.raises(Broken):
        await within(single)


async def test_refresh_joins_no_load_that_began_before_it():
    """A load that a miss started may read what was there before the caller's change."""
    cache = AsyncCache()
    gate = asyncio.Event()

    async def slow() -> Any:
        await gate.wait()
        return "old"

    missing = asyncio.ensure_future(cache.get("a", slow))
    await ticks(3)
    assert "value" == await within(cache.refresh("a", Source().load))
    gate.set()

    assert "old" == await within(missing)
    assert "value" == cache.peek("a")
    assert (2, 0) == (cache.stats.loads, cache.stats.joins)


async def test_joining_a_refresh_is_counted():
    """Who joins a refresh that runs is a join, and no refresh of its own."""
    cache = AsyncCache()
    source = Source()
    cache.set("a", "there")

    await within(asyncio.gather(*(cache.refresh("a", source.load) for _ in range(3))))

    assert (1, 2, 1) == (cache.stats.refreshes, cache.stats.joins, cache.stats.loads)


async def test_options_that_may_be_zero():
    """Zero is a time like others where it has a meaning: none at all, or at once."""
    cache = AsyncCache(
        default_ttl=0,
        batch_window=0,
        ttl_jitter=0,
        negative_ttl=0,
        stale_ttl=0,
        retry_after=0,
        soft_timeout=0,
        batch_window_ms=0,
    )
    assert 0 == len(cache)


async def test_get_many_counts_each_key():
    """Every distinct key of a `get_many` is a hit or a miss."""
    # reading: a key that is given twice is one key.
    cache = AsyncCache()
    source = Source()
    cache.set(1, "there")

    await within(cache.get_many([1, 2, 3, 3], source.many))

    assert (1, 2, 1) == (cache.stats.hits, cache.stats.misses, cache.stats.loads)


# warmup


async def test_warmup_reports_what_it_loaded_and_what_failed():
    """One failure stops nothing: the result names both sorts of keys."""
    cache = AsyncCache()
    source = Source()

    result = await within(cache.warmup({"a": source.load, "b": source.fail, "c": source.load}))

    assert isinstance(result, WarmupResult)
    assert ["a", "c"] == sorted(result.loaded)
    assert {"b": Broken} == {key: type(error) for key, error in result.failed.items()}
    assert ["a", "c"] == [key for key in "abc" if key in cache]


async def test_warmup_leaves_what_is_there():
    """A key that is there is not loaded again, and not reported as loaded."""
    cache = AsyncCache()
    source = Source()
    cache.set("a", "there")
    cache.set("none", None)

    result = await within(cache.warmup({"a": source.load, "none": source.load, "b": source.load}))

    assert ["b"] == list(result.loaded)
    assert {} == result.failed
    assert ["there", None, "value"] == [cache.peek(key) for key in ("a", "none", "b")]
    assert 1 == source.count


async def test_warmup_loads_expired_keys():
    """What has expired is not there."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    source = Source()
    cache.set("a", "old")
    clock.advance(10)

    assert ["a"] == list((await within(cache.warmup({"a": source.load}))).loaded)
    assert "value" == cache.peek("a")


async def test_warmup_of_nothing_is_nothing():
    """No keys are no work."""
    result = await within(AsyncCache().warmup({}))

    assert ([], {}) == (list(result.loaded), result.failed)


@pytest.mark.parametrize("concurrency, expected", [(None, 32), (1, 1), (3, 3)])
async def test_warmup_loads_no_more_at_once_than_told(concurrency: int | None, expected: int):
    """`concurrency` bounds the loads of a warm-up, to 32 by default."""
    cache = AsyncCache(maxsize=None)
    running = most = 0

    async def load() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await ticks(5)
        running -= 1
        return 1

    loaders = dict.fromkeys(range(70), load)
    options = {} if concurrency is None else {"concurrency": concurrency}
    result = await within(cache.warmup(loaders, **options))

    assert 70 == len(result.loaded)
    assert expected == most


async def test_warmup_joins_what_is_in_flight():
    """A key that is being loaded is not loaded twice."""
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()
    warm = asyncio.ensure_future(cache.warmup({"a": gate.load}))
    await ticks(5)
    gate.answers[0].set_result("value")

    await within(warm)

    assert "value" == await within(task)
    assert 1 == len(gate.answers)


async def test_warmup_that_is_cancelled_leaves_the_cache_usable():
    """A warm-up that was given up spoils no key."""
    cache = AsyncCache()
    gate = Gate()
    warm = asyncio.ensure_future(cache.warmup(dict.fromkeys("abc", gate.load), concurrency=2))
    await gate.running(2)
    warm.cancel()
    await asyncio.wait([warm], timeout=GUARD)
    assert warm.cancelled()

    source = Source()
    assert "value" == await within(cache.get("c", source.load))
    for answer in gate.answers:
        answer.set_result("warm")
    assert "warm" == await within(cache.get("a", source.load))


async def test_warmup_of_a_misused_loader_stops_nothing():
    """A loader that can't be called is that key's failure."""
    # reading: "one failure stops nothing", whatever it is.
    cache = AsyncCache(name="users")
    source = Source()

    result = await within(cache.warmup({"a": "no loader", "b": source.load}))  # type: ignore[dict-item]

    assert ["b"] == list(result.loaded)
    assert isinstance(result.failed["a"], DataLoaderCacheError)


@pytest.mark.parametrize("concurrency", [0, -1, "2", 1.5])
async def test_warmup_refuses_a_concurrency_that_can_not_be(concurrency: Any):
    """A number of loads below one is an error that names the cache."""
    cache = AsyncCache(name="users")

    with pytest.raises((TypeError, ValueError), match="concurrency") as caught:
        await within(cache.warmup({"a": Source().load}, concurrency=concurrency))

    assert "users" in str(caught.value)


# refresh


async def test_refresh_loads_afresh():
    """`refresh` loads although the key is there, stores and returns the new value."""
    cache = AsyncCache()
    source = Source("new")
    cache.set("a", "old")

    assert "new" == await within(cache.refresh("a", source.load))
    assert "new" == cache.peek("a")
    assert 1 == cache.stats.refreshes


async def test_refresh_of_an_absent_key_loads_it():
    """`refresh` needs nothing to be there."""
    cache = AsyncCache()

    assert "value" == await within(cache.refresh("a", Source().load))
    assert "value" == cache.peek("a")


async def test_refresh_leaves_the_old_value_until_the_new_one_is_there():
    """While a refresh runs, gets have the old value."""
    cache = AsyncCache()
    gate = Gate()
    cache.set("a", "old")
    task = asyncio.ensure_future(cache.refresh("a", gate.load))
    await gate.running()

    assert "old" == await within(cache.get("a", gate.load))
    gate.answers[0].set_result("new")

    assert "new" == await within(task)
    assert "new" == await within(cache.get("a", gate.load))


async def test_refresh_that_fails_keeps_the_old_value():
    """A failed refresh raises, and the old value stays."""
    cache = AsyncCache()
    cache.set("a", "old")

    with pytest.raises(Broken):
        await within(cache.refresh("a", Source().fail))

    assert "old" == cache.peek("a")


async def test_refresh_joins_a_running_refresh():
    """Ten who refresh a key at the same time make one load."""
    cache = AsyncCache()
    source = Source("new")
    cache.set("a", "old")

    found = await within(asyncio.gather(*(cache.refresh("a", source.load) for _ in range(10))))

    assert ["new"] * 10 == found
    assert 1 == source.count


async def test_refresh_whose_caller_leaves_goes_on():
    """A refresh that nobody waits for any more is stored."""
    cache = AsyncCache()
    gate = Gate()
    cache.set("a", "old")
    task = asyncio.ensure_future(cache.refresh("a", gate.load))
    await gate.running()
    task.cancel()
    await ticks(3)
    gate.answers[0].set_result("new")

    await until(lambda: cache.peek("a") == "new")


async def test_refresh_takes_a_ttl():
    """The refreshed value lives as long as the call says."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    await within(cache.refresh("a", Source().load, ttl=100))

    clock.advance(99)
    assert "a" in cache
    clock.advance(1)
    assert "a" not in cache


@pytest.mark.parametrize("operation", ["set", "delete", "expire", "clear"])
async def test_refresh_that_was_overtaken_is_not_stored(operation: str):
    """A change that was made while a refresh ran is not undone by it."""
    cache = AsyncCache()
    gate = Gate()
    cache.set("a", "old")
    task = asyncio.ensure_future(cache.refresh("a", gate.load))
    await gate.running()
    match operation:
        case "set":
            cache.set("a", "newest")
        case "delete":
            cache.delete("a")
        case "expire":
            cache.expire("a")
        case _:
            cache.clear()
    gate.answers[0].set_result("overtaken")

    assert "overtaken" == await within(task)
    await ticks(3)
    assert ("newest" if operation == "set" else None) == cache.peek("a")


# Metrics


async def test_stats_of_a_new_cache_are_all_zero():
    """Nothing has been counted yet, and no division by zero."""
    stats = AsyncCache().stats

    assert {0} == set(dataclasses.asdict(stats).values())


def test_load_times_are_summed_up():
    """Their mean, the time that half of them did not exceed, and that all but one in a hundred."""

    async def main() -> None:
        cache = AsyncCache()
        for key, seconds in enumerate((1, 10, 10, 10, 100)):
            await cache.get(key, lambda seconds=seconds: asyncio.sleep(seconds, "value"))
        stats = cache.stats
        assert 26.2 == pytest.approx(stats.load_time_mean)
        assert 10 == pytest.approx(stats.load_time_p50, rel=0.3)
        assert 100 == pytest.approx(stats.load_time_p99, rel=0.3)

    virtual(main)


async def test_get_metrics_is_stats_as_a_dict():
    """`get_metrics()` has the fields of `stats`, and each call gives a dict of its own."""
    cache = AsyncCache()
    await within(cache.get("a", Source().load))

    metrics = cache.get_metrics()

    assert {
        "hits",
        "misses",
        "joins",
        "loads",
        "load_errors",
        "load_timeouts",
        "stale_hits",
        "refreshes",
        "evictions",
        "evicted_for_room",
        "evicted_for_age",
        "size",
        "hit_rate",
        "load_time_mean",
        "load_time_p50",
        "load_time_p99",
    } <= set(metrics)
    assert dataclasses.asdict(cache.stats) == metrics
    metrics["hits"] = 99
    assert 0 == cache.get_metrics()["hits"]


async def test_stats_is_a_frozen_snapshot():
    """`stats` can't be changed and doesn't change."""
    cache = AsyncCache()
    before = cache.stats
    await within(cache.get("a", Source().load))

    assert isinstance(before, CacheStats)
    assert 0 == before.misses
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.hits = 1  # type: ignore[misc]


async def test_every_caller_that_finds_nothing_is_a_miss():
    """A hundred concurrent callers are a hundred misses, ninety-nine joins and one load."""
    cache = AsyncCache()
    source = Source()

    await within(asyncio.gather(*(cache.get("a", source.load) for _ in range(100))))
    await cache.get("a")
    stats = cache.stats

    assert (1, 100, 99, 1) == (stats.hits, stats.misses, stats.joins, stats.loads)
    assert 1 / 101 == pytest.approx(stats.hit_rate)


async def test_joins_of_a_batch_are_counted():
    """Who asks for a key that a batch already has joins it."""
    cache = AsyncCache()
    source = Source()

    await within(
        asyncio.gather(*(cache.get(key, batch_loader=source.many) for key in (1, 1, 1, 2)))
    )

    assert (0, 4, 2) == (cache.stats.hits, cache.stats.misses, cache.stats.joins)


async def test_a_failed_load_is_a_load_error():
    """Loads that failed are counted, once for each load."""
    cache = AsyncCache()
    source = Source()

    await within(
        asyncio.gather(*(cache.get("a", source.fail) for _ in range(3)), return_exceptions=True)
    )

    stats = cache.stats
    assert (1, 1, 0) == (stats.loads, stats.load_errors, stats.load_timeouts)


def test_a_load_that_timed_out_is_a_load_timeout():
    """Timeouts are counted apart."""

    async def main() -> None:
        cache = AsyncCache(load_timeout=1)
        gate = Gate()
        await asyncio.gather(cache.get("a", gate.load), return_exceptions=True)
        assert 1 == cache.stats.load_timeouts

    virtual(main)


def test_load_times_are_in_seconds():
    """Mean and percentiles of the load time tell how long loads took."""

    async def main() -> None:
        cache = AsyncCache(maxsize=None, clock=asyncio.get_running_loop().time)

        def loader(seconds: float) -> Any:
            async def load() -> str:
                await asyncio.sleep(seconds)
                return "value"

            return load

        for key in range(98):
            await cache.get(key, loader(1.0))
        for key in ("slow", "slower"):
            await cache.get(key, loader(51.0))
        stats = cache.stats
        assert 2.0 == pytest.approx(stats.load_time_mean, rel=0.05)
        # reading: a small histogram may be off by a bucket, which is no more than a factor of two.
        assert 0.5 <= stats.load_time_p50 <= 2.0
        assert 25.0 <= stats.load_time_p99 <= 102.0

    virtual(main)


async def test_evictions_are_counted_by_reason():
    """What made room and what grew old add up to the evictions."""
    clock = ManualClock()
    cache = AsyncCache(maxsize=2, clock=clock)
    for key in range(5):
        cache.set(key, key, ttl=10)
    clock.advance(10)
    await cache.get(4)
    cache.set("x", 1)
    cache.set("y", 1)
    cache.set("z", 1)
    stats = cache.stats

    assert stats.evictions == stats.evicted_for_room + stats.evicted_for_age
    assert stats.evicted_for_age >= 1
    assert stats.evicted_for_room >= 4
    assert stats.size == len(cache) == 2


async def test_what_was_removed_on_purpose_is_no_eviction():
    """`delete`, `invalidate_tag` and `set` evict nothing."""
    cache = AsyncCache()
    cache.set("a", 1, tags=["t"])
    cache.set("b", 1)
    cache.set("b", 2)
    cache.delete("b")
    cache.invalidate_tag("t")

    assert 0 == cache.stats.evictions


# Bad input


def check_error(error: BaseException, *parts: str) -> None:
    """Check that an error is one of ours, names what it is about and says what to do."""
    assert isinstance(error, DataLoaderCacheError)
    for part in parts:
        assert part in str(error), str(error)


@pytest.mark.parametrize(
    "argument, value, kind",
    [
        ("maxsize", -1, ValueError),
        ("maxsize", "10", TypeError),
        ("maxsize", 1.5, TypeError),
        ("maxsize", True, TypeError),
        ("default_ttl", -1, ValueError),
        ("default_ttl", "60", TypeError),
        ("default_ttl", float("nan"), ValueError),
        ("batch_window", -0.1, ValueError),
        ("batch_window", "1", TypeError),
        ("batch_window_ms", -1, ValueError),
        ("batch_window_ms", "5", TypeError),
        ("max_batch_size", 0, ValueError),
        ("max_batch_size", -1, ValueError),
        ("max_batch_size", "2", TypeError),
        ("eviction", "fifo", ValueError),
        ("ttl_jitter", -0.1, ValueError),
        ("negative_ttl", -1, ValueError),
        ("negative_ttl", "1", TypeError),
        ("stale_ttl", -1, ValueError),
        ("stale_ttl", "1", TypeError),
        ("refresh_ahead", 1.5, ValueError),
        ("retry_after", -1, ValueError),
        ("retry_after", "1", TypeError),
        ("load_timeout", -1, ValueError),
        ("load_timeout", 0, ValueError),
        ("load_timeout", "1", TypeError),
        ("soft_timeout", -1, ValueError),
        ("soft_timeout", "1", TypeError),
        ("max_concurrent_loads", 0, ValueError),
        ("max_concurrent_loads", "1", TypeError),
        ("context", {}, TypeError),
        ("clock", 5, TypeError),
    ],
)
def test_an_argument_that_can_not_work_is_refused(argument: str, value: Any, kind: type[Exception]):
    """A `ConfigurationError` names the cache, the argument and what came."""
    options: dict[str, Any] = {"name": "users", argument: value}

    with pytest.raises(ConfigurationError) as caught:
        AsyncCache(**options)

    assert isinstance(caught.value, kind)
    check_error(caught.value, "users", argument)
    assert repr(value) in str(caught.value) or type(value).__name__ in str(caught.value)


@pytest.mark.parametrize("make", [AsyncCache, AsyncLRU])
@pytest.mark.parametrize("maxsize", [-1, "10"])
def test_a_wrong_maxsize_is_told_that_0_will_do(make: Any, maxsize: Any):
    """0 stores nothing, and so it is in the message."""
    with pytest.raises(ConfigurationError, match=">= 0 or None"):
        make(maxsize)


def test_a_name_that_is_no_text_is_refused():
    """The name of a cache is a str."""
    with pytest.raises(ConfigurationError, match="name"):
        AsyncCache(name=5)  # type: ignore[arg-type]


class Guarded:
    """A cache with one value, one flight and a name, for mistakes to be made with."""

    def __init__(self) -> None:
        self.cache = AsyncCache(name="users")
        self.cache.set("there", 1)
        self.gate = Gate()
        self.flight = asyncio.ensure_future(self.cache.get("flying", self.gate.load))

    async def check(self, *keys: Any) -> None:
        """Check that nothing was lost."""
        assert 1 == await self.cache.get("there")
        await self.gate.running()
        self.gate.answers[0].set_result("flown")
        assert "flown" == await within(self.flight)
        source = Source()
        for key in keys:
            assert key not in self.cache
            assert "value" == await within(self.cache.get(key, source.load))


@pytest.mark.parametrize(
    "loader", ["text", 5, ["x"], object()], ids=lambda value: type(value).__name__
)
async def test_a_loader_that_is_not_callable_is_an_error(loader: Any):
    """What can't be called is no loader, and the error says what came."""
    guarded = Guarded()
    cache = guarded.cache

    for attempt in (
        lambda: cache.get("a", loader),
        lambda: cache.get("a", batch_loader=loader),
        lambda: cache.get_many(["a"], loader),
        lambda: cache.refresh("a", loader),
    ):
        with pytest.raises(TypeError) as caught:
            await within(attempt())
        check_error(caught.value, "users", "loader", type(loader).__name__)
    await guarded.check("a")


async def test_a_coroutine_in_a_loaders_place_is_an_error():
    """`loader=fetch()` for `loader=fetch` is told, and the coroutine is not lost silently."""
    guarded = Guarded()
    coroutine = Source().load()

    with pytest.raises(TypeError) as caught:
        await within(guarded.cache.get("a", coroutine))  # type: ignore[arg-type]

    check_error(caught.value, "users", "loader", "coroutine")
    coroutine.close()
    await guarded.check("a")


@pytest.mark.parametrize("value", [None, 5, "text", [1]], ids=repr)
async def test_a_loader_that_returns_no_awaitable_is_an_error(value: Any):
    """A function that is not async is told to every caller of its flight."""
    guarded = Guarded()
    cache = guarded.cache

    for attempt in (
        lambda: cache.get("a", lambda: value),
        lambda: cache.get("a", batch_loader=lambda keys: value),
        lambda: cache.get_many(["a"], lambda keys: value),
        lambda: cache.refresh("a", lambda: value),
    ):
        found = await asyncio.gather(within(attempt()), within(attempt()), return_exceptions=True)
        for error in found:
            assert isinstance(error, TypeError)
            check_error(error, "users", "awaitable", type(value).__name__)
    await guarded.check("a")


async def test_an_async_generator_in_a_loaders_place_is_an_error():
    """An async function with a `yield` returns no awaitable."""
    guarded = Guarded()

    async def load() -> Any:
        yield 1

    with pytest.raises(TypeError) as caught:
        await within(guarded.cache.get("a", load))

    check_error(caught.value, "users", "awaitable", "async_generator")
    await guarded.check("a")


async def test_both_loaders_at_once_are_an_error():
    """A `get` takes one of the two loaders."""
    guarded = Guarded()
    source = Source()

    with pytest.raises((TypeError, ValueError)) as caught:
        await within(guarded.cache.get("a", source.load, source.many))

    check_error(caught.value, "users", "loader", "batch_loader")
    assert 0 == source.count
    await guarded.check("a")


@pytest.mark.parametrize("key", [[], {}, set()], ids=repr)
async def test_an_unhashable_key_is_an_error(key: Any):
    """A key that can't be one is a `TypeError` that names the cache and the key's type."""
    guarded = Guarded()
    cache = guarded.cache
    source = Source()

    for attempt in (
        lambda: cache.get(key),
        lambda: cache.get(key, source.load),
        lambda: cache.get(key, batch_loader=source.many),
        lambda: cache.get_many([1, key], source.many),
        lambda: cache.set(key, 1),
        lambda: cache.delete(key),
        lambda: cache.expire(key),
        lambda: cache.peek(key),
        lambda: key in cache,
        lambda: cache.refresh(key, source.load),
    ):
        with pytest.raises(TypeError) as caught:
            await within(attempt())
        check_error(caught.value, "users", type(key).__name__)
    await ticks(20)
    assert [] == source.plan
    assert 0 == source.count
    await guarded.check()


async def test_an_unhashable_key_of_warmup_leaves_nothing_running():
    """`warmup` needs a mapping; anything else is an error of ours."""
    guarded = Guarded()

    with pytest.raises(TypeError) as caught:
        await within(guarded.cache.warmup([("a", Source().load)]))  # type: ignore[arg-type]

    check_error(caught.value, "users", "list")
    await guarded.check("a")


async def test_get_many_without_a_batch_loader_is_an_error():
    """`get_many` needs a batch loader."""
    guarded = Guarded()

    with pytest.raises(TypeError) as caught:
        await within(guarded.cache.get_many(["a"], None))  # type: ignore[arg-type]

    check_error(caught.value, "users", "batch_loader")
    await guarded.check("a")


async def test_refresh_without_a_loader_is_an_error():
    """`refresh` needs a loader."""
    guarded = Guarded()

    with pytest.raises(TypeError) as caught:
        await within(guarded.cache.refresh("a", None))  # type: ignore[arg-type]

    check_error(caught.value, "users", "loader")
    await guarded.check("a")


async def test_a_wrong_shape_loses_nothing():
    """A batch function that returns nonsense spoils no other key."""
    guarded = Guarded()

    async def many(keys: list[str]) -> Any:
        return "ab"

    found = await within(guarded.cache.get_many(["a", "b"], many, return_exceptions=True))

    for error in found.values():
        assert isinstance(error, BatchResultError)
        check_error(error, "users", "str")
    await guarded.check("a", "b")


@pytest.mark.parametrize("tags", [5, object()], ids=lambda value: type(value).__name__)
async def test_tags_that_are_none_are_an_error(tags: Any):
    """Tags that can't be iterated are an error of ours."""
    guarded = Guarded()
    cache = guarded.cache

    for attempt in (
        lambda: cache.set("a", 1, tags=tags),
        lambda: cache.get("a", Source().load, tags=tags),
    ):
        with pytest.raises(TypeError) as caught:
            await within(attempt())
        check_error(caught.value, "users", "tags")
    await guarded.check("a")


async def test_errors_of_a_cache_without_a_name_can_be_read():
    """A cache that has no name is still called something."""
    with pytest.raises(TypeError) as caught:
        await within(AsyncCache().get("a", 5))  # type: ignore[arg-type]

    check_error(caught.value, "loader")
    assert "None" not in str(caught.value)


async def test_a_cache_can_be_told_from_its_repr():
    """The repr has the name, for logs and debuggers."""
    assert "users" in repr(AsyncCache(name="users"))
