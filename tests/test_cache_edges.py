"""Corners of the result cache that the tests of the rules pass by."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dataloader_cache import AsyncCache, AsyncLRU, DataLoader
from dataloader_cache._cache import _sweep
from dataloader_cache.errors import ConfigurationError, LoadCancelledError
from dataloader_cache.testing import ManualClock, run_virtual


async def one() -> int:
    return 1


async def echo(keys: list[Any]) -> list[Any]:
    return keys


async def ticks(count: int) -> None:
    """Let `count` turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


def plain_tasks(loop: Any, coroutine: Any, **options: Any) -> Any:
    """Serve as a task factory that does as the loop does without one."""
    return asyncio.Task(coroutine, loop=loop, **options)


# Where loads begin


@pytest.mark.loop_kinds("asyncio", "debug", "uvloop")
async def test_with_a_task_factory_a_load_starts_after_the_call_that_misses():
    """An eager task would run the loader inside that call, so its task is made a tick later."""
    loop = asyncio.get_running_loop()
    made: list[str] = []

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        made.append(coroutine.__qualname__)
        return plain_tasks(loop, coroutine, **options)

    cache = AsyncCache()
    asking = asyncio.ensure_future(cache.get("a", one))
    loop.set_task_factory(factory)
    await ticks(1)
    assert [] == made
    assert 1 == await asking
    loop.set_task_factory(None)
    assert ["_Load._run"] == made
    assert 1 == cache.stats.loads


@pytest.mark.loop_kinds("asyncio", "debug", "uvloop")
async def test_a_load_that_is_cancelled_before_its_task_is_made_never_runs():
    """What was settled by `aclose` in the tick of its miss asks nobody."""
    calls: list[int] = []

    async def load() -> int:
        calls.append(1)
        return 1

    cache = AsyncCache()
    asyncio.get_running_loop().set_task_factory(plain_tasks)
    asking = asyncio.ensure_future(cache.get("a", load))
    await ticks(1)
    await cache.aclose()
    with pytest.raises(LoadCancelledError):
        await asking
    await ticks(5)
    assert [] == calls
    assert 0 == cache.stats.loads


@pytest.mark.loop_kinds("asyncio", "debug")
async def test_a_load_whose_task_can_not_be_made_frees_its_slot():
    """The error of a task factory is the load's own, and the next load takes its turn."""

    def refuse(loop: Any, coroutine: Any, **options: Any) -> Any:
        if coroutine.__qualname__ == "_Load._run":
            raise MemoryError("no room for a task")
        return plain_tasks(loop, coroutine, **options)

    cache = AsyncCache(max_concurrent_loads=1)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(refuse)
    with pytest.raises(MemoryError, match="no room for a task"):
        await cache.get("a", one)
    loop.set_task_factory(None)
    assert 1 == await asyncio.wait_for(cache.get("a", one), 5)
    assert (2, 1) == (cache.stats.loads, cache.stats.load_errors)


class Own(BaseException):
    """A base exception of a user's own."""


@pytest.mark.parametrize("kind", [Own, GeneratorExit])
async def test_a_base_exception_of_a_loader_reaches_its_callers_as_it_is(kind: Any):
    """It ends the load, and no other error is told in its place."""
    error = kind("strange")

    async def load() -> None:
        await ticks(1)
        raise error

    cache = AsyncCache()
    gets = [cache.get("a", load), cache.get("a", load)]
    assert [error, error] == await asyncio.gather(*gets, return_exceptions=True)


async def test_a_loaders_own_cancellation_is_named_and_kept_as_the_cause():
    """The caller hears that the load was cancelled from inside, and by which error."""
    error = asyncio.CancelledError("mine")

    async def load() -> None:
        raise error

    with pytest.raises(LoadCancelledError, match="the load of cache 'users' was cancelled from in"):
        await AsyncCache(name="users").get("a", load)
    with pytest.raises(LoadCancelledError) as caught:
        await AsyncCache().get("a", load)
    assert error is caught.value.__cause__


# Arguments


async def test_without_max_batch_size_a_batch_has_any_number_of_keys():
    """With None, five hundred keys are one batch."""
    batches: list[int] = []

    async def load_many(keys: list[int]) -> list[int]:
        batches.append(len(keys))
        return keys

    cache = AsyncCache(None, max_batch_size=None)
    await cache.get_many(range(500), load_many)
    assert [500] == batches


def test_a_tier_is_refused():
    """There is none in this version, so one that is passed in is no silent nothing."""
    tier: Any = {}
    with pytest.raises(ConfigurationError, match="cache 'users': tier must be None"):
        AsyncCache(name="users", tier=tier)


@pytest.mark.parametrize("how", ["delete", "set", "tag", "evict"])
async def test_a_tag_that_is_named_twice_is_one_tag(how: str):
    """A value with a repeated tag goes like any other, and its tag with it."""
    cache = AsyncCache(1)
    cache.set("a", 1, tags=["red", "red"])
    if how == "delete":
        cache.delete("a")
    elif how == "set":
        cache.set("a", 2)
    elif how == "tag":
        cache.invalidate_tag("red")
    else:
        cache.set("b", 2)
    assert {} == cache._tagged
    assert (2 if how == "set" else None) == cache.peek("a")


async def test_a_type_error_of_the_clock_is_not_taken_for_one_of_the_key():
    """Only a key that can't be hashed is told so; another TypeError is raised as it is."""
    clock: Any = ManualClock()
    cache = AsyncCache(clock=lambda: clock())
    cache.set("a", 1, ttl=5)
    clock = None
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        await cache.get("a")


# Ends


async def test_get_many_can_be_cancelled_where_some_keys_were_hits():
    """What was found at once has no future to be cancelled, and the others' loads go on."""
    gate = asyncio.Event()

    async def load_many(keys: list[Any]) -> list[Any]:
        await gate.wait()
        return keys

    cache = AsyncCache()
    cache.set(1, "set")
    asking = asyncio.ensure_future(cache.get_many([1, 2], load_many))
    await ticks(5)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    gate.set()
    assert {1: "set", 2: 2} == await cache.get_many([1, 2], load_many)
    assert 1 == cache.stats.loads


def test_aclose_passes_over_loops_that_were_closed():
    """A loop that ended in the middle of a load is no hindrance to closing on another."""
    cache = AsyncCache()
    reports: list[Any] = []

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        assert 1 == await cache.get("b", one)
        # Ended without shutdown_asyncgens, after which nothing would be left of its loads.
        other = asyncio.SelectorEventLoop()
        other.set_exception_handler(lambda _, context: reports.append(context))
        task = await asyncio.to_thread(leave_a_load, other)
        await cache.aclose()
        assert 0 == len(cache)
        assert not task.done()

    def leave_a_load(loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        task = loop.create_task(cache.get("a", never))
        for _ in range(3):
            loop.call_soon(loop.stop)
            loop.run_forever()
        loop.close()
        return task

    asyncio.run(main())
    gc.collect()
    # The tasks that were cut off, as asyncio sees it.
    assert {"Task was destroyed but it is pending!"} >= {report["message"] for report in reports}


async def test_a_sweep_that_comes_when_its_cache_has_gone_does_nothing():
    """Another thread may drop the cache after the timer has fired."""
    cache = AsyncCache()
    reference = weakref.ref(cache)
    del cache
    gc.collect()
    assert reference() is None
    _sweep(reference)


async def test_closing_a_loader_leaves_the_load_that_others_joined():
    """Its batch goes on in the cache, for the loader of another request and for the next ones."""
    gate = asyncio.Event()

    async def load_many(keys: list[int]) -> list[int]:
        await gate.wait()
        return [key * 10 for key in keys]

    cache = AsyncCache()
    first, second = (DataLoader(load_many, result_cache=cache) for _ in range(2))
    left = first.load(1)
    await ticks(20)
    joined = second.load(1)
    await ticks(20)
    await first.aclose()
    gate.set()
    assert 10 == await asyncio.wait_for(joined, 5)
    assert 10 == cache.peek(1)
    assert 1 == cache.stats.loads
    with pytest.raises(LoadCancelledError):
        await left
    await second.aclose()


# Decorators


async def test_arguments_without_any_field_are_refused():
    """What has neither attributes nor slots could only be compared by where it stands."""

    class Nothing:
        __slots__ = ()

    @AsyncLRU()
    async def work(argument: object) -> int:
        return 1

    with pytest.raises(TypeError, match="argument 'argument' of type Nothing .* no fields"):
        await work(Nothing())


@pytest.mark.parametrize(
    "change",
    [lambda function: function.invalidate_cache(1), lambda function: function.clear_cache()],
    ids=["invalidate_cache", "clear_cache"],
)
async def test_a_decorated_functions_changes_may_be_awaited_or_left(
    change: Callable[[Any], Awaitable[None]],
):
    """They take effect when called, and return something to await that has nothing to wait for."""
    calls: list[int] = []

    @AsyncLRU()
    async def work(number: int) -> int:
        calls.append(number)
        return number

    await work(1)
    waiting = change(work)
    assert 0 == len(work.cache)
    await work(1)
    assert [1, 1] == calls
    # Awaited late it undoes nothing, and left alone it gives no warning.
    assert await waiting is None
    assert 1 == len(work.cache)
    change(work)
    assert 0 == len(work.cache)


# Batch loaders


class Source:
    """Something with a method that loads many."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def many(self, keys: list[int]) -> list[int]:
        self.batches.append(list(keys))
        return keys


async def test_two_accesses_of_one_method_share_a_batch():
    """A bound method is made anew at each access, and is the same batch loader all the same."""
    cache, source = AsyncCache(), Source()
    assert source.many is not source.many
    gets = [cache.get(key, batch_loader=source.many) for key in (1, 2)]
    assert [1, 2] == await asyncio.gather(*gets)
    assert [[1, 2]] == source.batches


async def test_the_open_batch_of_a_method_leaves_with_get_many_of_another_access():
    """`get_many` knows the method again, too."""
    cache, source = AsyncCache(batch_window=60.0), Source()
    asking = asyncio.ensure_future(cache.get(1, batch_loader=source.many))
    await ticks(1)
    assert {2: 2} == await asyncio.wait_for(cache.get_many([2], source.many), 5)
    assert 1 == await asking
    assert [[1, 2]] == source.batches


async def test_methods_of_two_instances_do_not_share_a_batch():
    """Each instance is asked for its own keys."""
    cache, source, other = AsyncCache(), Source(), Source()
    gets = [
        cache.get(1, batch_loader=source.many),
        cache.get(2, batch_loader=other.many),
        cache.get(3, batch_loader=source.many),
    ]
    assert [1, 2, 3] == await asyncio.gather(*gets)
    assert ([[1, 3]], [[2]]) == (source.batches, other.batches)


async def test_two_methods_of_one_instance_do_not_share_a_batch():
    """A method is known by its instance and its function."""

    class Two(Source):
        async def others(self, keys: list[int]) -> list[int]:
            self.batches.append([-key for key in keys])
            return keys

    cache, source = AsyncCache(), Two()
    gets = [cache.get(1, batch_loader=source.many), cache.get(2, batch_loader=source.others)]
    assert [1, 2] == await asyncio.gather(*gets)
    assert [[-2], [1]] == sorted(source.batches)


# Keys that are not to be trusted


class Moody:
    """A key whose __hash__ raises after it has been called a number of times."""

    def __init__(self, patience: int = 10**6) -> None:
        self.patience = patience

    def __hash__(self) -> int:
        self.patience -= 1
        if self.patience < 0:
            raise ZeroDivisionError
        return 7


class Quarrelsome:
    """A key that has the hash of others and raises when it is compared, if it `is_angry`."""

    is_angry = False

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        if self.is_angry:
            raise ZeroDivisionError
        return self is other


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
async def test_a_key_that_raises_while_its_batch_settles_leaves_the_others_alone(fails: bool):
    """Its own caller gets the error, the others get what was loaded for them."""
    key = Moody()

    async def load_many(keys: list[Any]) -> list[Any]:
        key.patience = 0
        if fails:
            raise ValueError
        return [str(type(key)) if isinstance(key, Moody) else key for key in keys]

    cache = AsyncCache(max_concurrent_loads=1)
    gets = [cache.get(each, batch_loader=load_many) for each in (1, key, 2)]
    found = await asyncio.wait_for(asyncio.gather(*gets, return_exceptions=True), 5)
    kinds = [ValueError] * 3 if fails else [int, ZeroDivisionError, int]
    assert kinds == [type(outcome) for outcome in found]
    assert (0 if fails else 2) == len(cache)
    assert 3 == await asyncio.wait_for(cache.get(3, batch_loader=echo), 5)


async def test_a_key_that_can_not_be_compared_while_its_batch_settles_leaves_the_others_alone():
    """The same holds for `__eq__`, which the keys with its hash meet."""
    first, angry = Quarrelsome(), Quarrelsome()

    async def load_many(keys: list[Any]) -> list[Any]:
        angry.is_angry = first.is_angry = True
        return [1, 2, 3]

    cache = AsyncCache()
    gets = [cache.get(each, batch_loader=load_many) for each in (first, angry, "other")]
    found = await asyncio.wait_for(asyncio.gather(*gets, return_exceptions=True), 5)
    assert [int, ZeroDivisionError, int] == [type(outcome) for outcome in found]
    assert 3 == cache.peek("other")


async def test_a_key_that_can_not_be_looked_up_in_a_mapping_leaves_the_others_alone():
    """Nor does one fail the batch that meets its like in a mapping result only."""
    angry = Quarrelsome()

    async def load_many(keys: list[Any]) -> dict[Any, int]:
        angry.is_angry = True
        return {7: 70, "other": 3}

    cache = AsyncCache()
    gets = [cache.get(each, batch_loader=load_many) for each in (angry, "other")]
    found = await asyncio.wait_for(asyncio.gather(*gets, return_exceptions=True), 5)
    assert [ZeroDivisionError, int] == [type(outcome) for outcome in found]
    assert 3 == cache.peek("other")


async def test_get_many_gives_the_error_of_a_key_that_can_not_be_compared_in_its_place():
    """A key that raises when it meets one in the cache is an error like another."""
    cache, angry = AsyncCache(), Quarrelsome()
    cache.set(7, "seven")
    angry.is_angry = True
    keys: list[Any] = ["a", angry, "b"]
    found = await cache.get_many(keys, echo, return_exceptions=True)
    assert ["a", ZeroDivisionError, "b"] == [
        type(value) if isinstance(value, Exception) else value for value in found.values()
    ]
    with pytest.raises(ZeroDivisionError):
        await cache.get_many(["c", angry, "d"], echo)
    assert ["c", "d"] == [cache.peek("c"), cache.peek("d")]


async def use_with_a_moody_key(cache: AsyncCache, way: str, key: Any, fails: bool) -> list[Any]:
    async def load_many(keys: list[Any]) -> list[Any]:
        await asyncio.sleep(0)
        if fails:
            raise ValueError
        return [2 if each == 2 else "moody" for each in keys]

    async def load() -> str:
        return (await load_many([key]))[0]

    if way == "batch":
        asked = [cache.get(2, batch_loader=load_many), cache.get(key, batch_loader=load_many)]
        asked.append(cache.get(key, batch_loader=load_many))
    elif way == "many":
        asked = [cache.get(2, batch_loader=load_many), cache.get_many([key, 3], load_many)]
    elif way == "refresh":
        asked = [cache.get(2, batch_loader=load_many), cache.refresh(key, load)]
    else:
        asked = [cache.get(2, batch_loader=load_many), cache.get(key, load), cache.get(key, load)]
    tasks = [asyncio.ensure_future(each) for each in asked]
    _, pending = await asyncio.wait(tasks, timeout=20)
    assert set() == pending
    return [task.exception() or task.result() for task in tasks]


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
@pytest.mark.parametrize("way", ["batch", "many", "refresh", "loader"])
@pytest.mark.loop_kinds("asyncio", "uvloop", "eager")
async def test_a_key_that_raises_when_it_is_hashed_hangs_nobody(way: str, fails: bool):
    """Whenever a key begins to raise, everybody is settled, and the cache works on with it."""
    loop = asyncio.get_running_loop()
    # A get() that raised has left a load without callers, which reports its failure.
    loop.set_exception_handler(lambda *_: None)
    for patience in range(1, 40):
        key = Moody(patience)
        cache = AsyncCache(batch_window=0, max_concurrent_loads=1, load_timeout=10)
        neighbour, *_ = await use_with_a_moody_key(cache, way, key, fails)
        assert isinstance(neighbour, ValueError) if fails else 2 == neighbour
        await ticks(20)
        local = cache._locals[loop]
        assert set() == local.pump.live
        assert 0 == local.running
        key.patience = 10**6
        assert "moody" == (await use_with_a_moody_key(cache, way, key, False))[1] or way == "many"
        assert "moody" == cache.peek(key)


async def test_a_key_that_raised_when_its_refresh_failed_is_refreshed_again():
    """The flight that could not be taken out for it is over, and in nobody's way."""
    clock, key = ManualClock(), Moody()
    cache = AsyncCache(default_ttl=10, refresh_ahead=0.5, clock=clock)
    cache.set(key, "old")
    clock.advance(6)

    async def fail() -> Any:
        key.patience = 0
        raise ValueError

    async def load() -> str:
        return "new"

    assert "old" == await cache.get(key, fail)
    await ticks(3)
    assert key.patience < 0
    key.patience = 10**6
    assert "old" == await cache.get(key, load)
    await ticks(3)
    assert "new" == cache.peek(key)


def test_a_key_that_raises_when_its_time_is_over_does_not_end_the_sweep():
    """The next value with a TTL is freed in time all the same."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reports: list[Any] = []
        loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))
        cache, key = AsyncCache(clock=loop.time), Moody()
        cache.set(key, 1, ttl=1)
        key.patience = 0
        await asyncio.sleep(5)
        assert [ZeroDivisionError] == list(map(type, reports))
        cache.set("b", 1, ttl=1)
        await asyncio.sleep(5)
        assert 1 == len(cache)

    run_virtual(main)


async def test_a_key_that_raises_does_not_keep_the_cache_from_being_cleared():
    """`clear` needs to know no key."""
    gate = asyncio.Event()

    async def load() -> int:
        await gate.wait()
        return 1

    cache, key = AsyncCache(), Moody()
    asking = [asyncio.ensure_future(cache.get(each, load)) for each in (key, "b")]
    await ticks(3)
    key.patience = 0
    cache.clear()
    key.patience = 10**6
    gate.set()
    assert [1, 1] == await asyncio.gather(*asking)
    assert 0 == len(cache)
