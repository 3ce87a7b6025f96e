"""What is served when a value has grown old: rules S1 to S4."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dataloader_cache import AsyncCache
from dataloader_cache.errors import ConfigurationError, LoadTimeoutError
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


async def until(condition: Callable[[], Any], limit: int = 500) -> None:
    """Wait some ticks until `condition` holds."""
    for _ in range(limit):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail(f"not reached within {limit} ticks")


async def eventually(condition: Callable[[], Any]) -> None:
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
    """A backend that the test can make new, slow or broken."""

    def __init__(self, value: Any = "new") -> None:
        self.value = value
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.count = 0
        self.plan: list[list[Any]] = []

    async def load(self) -> Any:
        self.count += 1
        await self.answer()
        return self.value

    async def many(self, keys: list[Any]) -> list[Any]:
        self.plan.append(list(keys))
        await self.answer()
        return [self.value for _ in keys]

    async def answer(self) -> None:
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error

    @property
    def calls(self) -> int:
        return self.count + len(self.plan)


def stale_cache(clock: Callable[[], float], **options: Any) -> AsyncCache:
    """Make a cache with an old value of 'a' that expires at 10 and may be served until 20."""
    cache = AsyncCache(default_ttl=10, stale_ttl=10, clock=clock, **options)
    cache.set("a", "old")
    return cache


def ways(cache: AsyncCache, source: Source) -> dict[str, Callable[[], Any]]:
    """Give the ways in which one value can be got."""

    async def many() -> Any:
        return (await cache.get_many(["a"], source.many))["a"]

    return {
        "loader": lambda: cache.get("a", source.load),
        "batch_loader": lambda: cache.get("a", batch_loader=source.many),
        "get_many": many,
    }


WAYS = ["loader", "batch_loader", "get_many"]


# S1: a stale value instead of an error


@pytest.mark.parametrize("way", WAYS)
async def test_s1_a_stale_value_is_served_when_the_load_fails(way: str):
    """After its expiry a value answers for a load that fails."""
    clock = ManualClock()
    cache = stale_cache(clock)
    source = Source()
    source.error = Broken("down")
    clock.advance(15)

    assert "old" == await within(ways(cache, source)[way]())

    assert 1 == source.calls
    assert 1 == cache.stats.stale_hits
    assert 1 == cache.stats.load_errors


@pytest.mark.parametrize("way", WAYS)
async def test_s1_a_stale_value_is_not_served_when_the_load_works(way: str):
    """After its expiry a value is loaded again, and the new one is served."""
    clock = ManualClock()
    cache = stale_cache(clock)
    source = Source()
    clock.advance(15)

    assert "new" == await within(ways(cache, source)[way]())

    assert "new" == cache.peek("a")
    assert 0 == cache.stats.stale_hits


@pytest.mark.parametrize("way", WAYS)
async def test_s1_a_stale_value_is_served_until_stale_ttl_and_not_a_moment_longer(way: str):
    """Just before the end of its stale time a value is served; at that moment it is not."""
    clock = ManualClock()
    cache = stale_cache(clock, retry_after=0)
    source = Source()
    source.error = Broken("down")

    clock.advance(19.75)
    assert "old" == await within(ways(cache, source)[way]())
    clock.advance(0.25)
    with pytest.raises(Broken):
        await within(ways(cache, source)[way]())


async def test_s1_a_load_that_fails_after_the_stale_time_is_an_error():
    """What decides is when the load fails, not when it began."""
    clock = ManualClock()
    cache = stale_cache(clock)

    async def load() -> str:
        clock.advance(1)
        raise Broken("down")

    clock.advance(19.5)

    with pytest.raises(Broken):
        await within(cache.get("a", load))


async def test_s1_a_load_that_fails_as_the_stale_time_ends_is_an_error():
    """At that very moment it is over."""
    clock = ManualClock()
    cache = stale_cache(clock)
    clock.advance(15)

    async def fail() -> Any:
        clock.advance(5)
        raise Broken("down")

    with pytest.raises(Broken):
        await within(cache.get("a", fail))


async def test_s1_without_stale_ttl_a_failure_is_an_error():
    """By default nothing is served after its expiry."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, clock=clock)
    source = Source()
    source.error = Broken("down")
    cache.set("a", "old")
    clock.advance(10)

    with pytest.raises(Broken):
        await within(cache.get("a", source.load))


async def test_s1_all_callers_of_a_failed_flight_get_the_stale_value():
    """A hundred callers of one failing load are all served the stale value."""
    clock = ManualClock()
    cache = stale_cache(clock)
    source = Source()
    source.error = Broken("down")
    clock.advance(15)

    found = await within(asyncio.gather(*(cache.get("a", source.load) for _ in range(100))))

    assert ["old"] * 100 == found
    assert 1 == source.count


async def test_s1_a_stale_none_is_served():
    """A stale `None` is a value like any other."""
    clock = ManualClock()
    cache = stale_cache(clock)
    cache.set("a", None)
    source = Source()
    source.error = Broken("down")
    clock.advance(15)

    assert None is await within(cache.get("a", source.load))


async def test_s1_a_get_without_a_loader_is_never_stale():
    """Without a loader a stale key is a miss; nor do `peek` and `in` see it."""
    clock = ManualClock()
    cache = stale_cache(clock)
    clock.advance(15)

    assert None is await cache.get("a")
    assert ABSENT is cache.peek("a", ABSENT)
    assert "a" not in cache
    assert (0, 1, 0) == (cache.stats.hits, cache.stats.misses, cache.stats.stale_hits)


async def test_s1_a_get_without_a_loader_is_not_stale_during_retry_after_either():
    """Not even after a failed refresh is a stale value given to a `get` without a loader."""
    clock = ManualClock()
    cache = stale_cache(clock)
    source = Source()
    source.error = Broken("down")
    clock.advance(15)
    await within(cache.get("a", source.load))

    assert None is await cache.get("a")


async def test_s1_in_a_batch_only_the_keys_with_a_stale_value_are_served():
    """A failing batch serves stale values where there are some, and errors where not."""
    clock = ManualClock()
    cache = stale_cache(clock)
    source = Source()
    source.error = Broken("down")
    clock.advance(15)

    found = await within(cache.get_many(["a", "b"], source.many, return_exceptions=True))

    assert "old" == found["a"]
    assert isinstance(found["b"], Broken)


async def test_s1_an_error_in_a_keys_place_is_a_failed_load():
    """An exception for one key of a batch lets that key's stale value be served."""
    clock = ManualClock()
    cache = stale_cache(clock)
    source = Source(Broken("row"))
    clock.advance(15)

    assert "old" == await within(cache.get("a", batch_loader=source.many))


def test_s1_a_load_that_times_out_is_a_failed_load():
    """When `load_timeout` ends a load, the stale value is served."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = stale_cache(loop.time, load_timeout=2)
        source = Source()
        source.seconds = 1_000
        await asyncio.sleep(15)
        assert "old" == await cache.get("a", source.load)
        assert 17.0 == pytest.approx(loop.time())

    virtual(main)


def test_s1_a_slow_load_is_answered_by_the_stale_value_after_soft_timeout():
    """When a load exceeds `soft_timeout` its callers have the stale value, and it goes on."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = stale_cache(loop.time, soft_timeout=1)
        source = Source()
        source.seconds = 3
        await asyncio.sleep(15)
        assert "old" == await cache.get("a", source.load)
        assert 16.0 == pytest.approx(loop.time())
        await asyncio.sleep(3)
        assert "new" == cache.peek("a")
        assert 1 == source.count
        assert 1 == cache.stats.stale_hits

    virtual(main)


def test_s1_a_value_that_was_set_during_a_slow_load_is_no_stale_hit():
    """Who waits when `soft_timeout` ends gets what was set meanwhile, and that is fresh."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = stale_cache(loop.time, soft_timeout=1)
        source = Source()
        source.seconds = 3
        await asyncio.sleep(15)
        waiting = asyncio.ensure_future(cache.get("a", source.load))
        await asyncio.sleep(0.5)
        cache.set("a", "set")
        assert "set" == await waiting
        assert 16.0 == pytest.approx(loop.time())
        assert 0 == cache.stats.stale_hits

    virtual(main)


@pytest.mark.parametrize("way", WAYS)
def test_s1_soft_timeout_holds_for_every_way_to_get(way: str):
    """Batches that exceed `soft_timeout` are answered by stale values, too."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = stale_cache(loop.time, soft_timeout=1)
        source = Source()
        source.seconds = 3
        await asyncio.sleep(15)
        assert "old" == await ways(cache, source)[way]()
        assert 15.9 < loop.time() < 16.1
        await asyncio.sleep(4)
        assert "new" == cache.peek("a")

    virtual(main)


def test_s1_a_load_within_soft_timeout_is_waited_for():
    """A load that ends before `soft_timeout` gives its own value."""

    async def main() -> None:
        cache = stale_cache(asyncio.get_running_loop().time, soft_timeout=1)
        source = Source()
        source.seconds = 0.5
        await asyncio.sleep(15)
        assert "new" == await cache.get("a", source.load)

    virtual(main)


class Key:
    """A key that can be watched."""


def test_s1_a_load_within_soft_timeout_leaves_no_timer():
    """Nothing holds its key for the rest of that time."""

    async def main() -> None:
        clock = ManualClock()
        cache = AsyncCache(stale_ttl=10, soft_timeout=1_000, clock=clock)
        key = Key()
        watched = weakref.ref(key)
        cache.set(key, "old", ttl=5)
        clock.advance(5)
        assert "new" == await cache.get(key, Source().load)
        cache.clear()
        await ticks(2)
        del key
        gc.collect()
        assert watched() is None

    virtual(main)


def test_s1_soft_timeout_without_a_stale_value_waits():
    """Where there is nothing to serve, a slow load is waited for."""

    async def main() -> None:
        cache = AsyncCache(soft_timeout=1, stale_ttl=10)
        source = Source()
        source.seconds = 5
        assert "new" == await cache.get("b", source.load)

    virtual(main)


def test_s1_soft_timeout_serves_nothing_past_stale_ttl():
    """A `soft_timeout` that ends after the stale time serves nothing: the load is waited for."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = stale_cache(loop.time, soft_timeout=1)
        source = Source()
        source.seconds = 5
        await asyncio.sleep(19.5)
        assert "new" == await cache.get("a", source.load)
        assert 24.5 == pytest.approx(loop.time())

    virtual(main)


def test_s1_each_caller_has_its_own_soft_timeout():
    """A caller that joins a slow load later is served the stale value no later than the first."""
    # reading: whoever joins a load that exceeded `soft_timeout` may be answered at once, or
    # after a `soft_timeout` of its own.

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = stale_cache(loop.time, soft_timeout=1)
        source = Source()
        source.seconds = 4
        await asyncio.sleep(11)
        assert "old" == await cache.get("a", source.load)
        assert "old" == await cache.get("a", source.load)
        assert loop.time() <= 13.1
        assert 1 == source.count

    virtual(main)


def test_s1_who_joins_before_soft_timeout_is_served_with_the_others():
    """A load in time would have a newer value for all of them."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = stale_cache(loop.time, soft_timeout=1)
        source = Source()
        source.seconds = 4
        await asyncio.sleep(11)
        first = asyncio.ensure_future(cache.get("a", source.load))
        await asyncio.sleep(0.5)
        assert "old" == await cache.get("a", source.load)
        assert 12.0 == pytest.approx(loop.time())
        assert "old" == await first

    virtual(main)


def test_s1_who_joins_a_slow_load_past_stale_ttl_waits_for_it():
    """That others were served a stale value before does not make it live longer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = stale_cache(loop.time, soft_timeout=1)
        source = Source()
        source.seconds = 4
        await asyncio.sleep(18)
        assert "old" == await cache.get("a", source.load)
        await asyncio.sleep(1.5)
        assert "new" == await cache.get("a", source.load)
        assert 22.0 == pytest.approx(loop.time())

    virtual(main)


@pytest.mark.parametrize("how", ["too old", "deleted"])
def test_s1_soft_timeout_serves_nothing_that_is_not_there_any_more(how: str):
    """What ended, or was deleted, while its callers waited is not served, and they wait on."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reports: list[Any] = []
        loop.set_exception_handler(lambda _, context: reports.append(context))
        clock = ManualClock()
        cache = stale_cache(clock, soft_timeout=0.1)
        source = Source()
        source.seconds = 2
        clock.advance(19.5)
        asking = asyncio.ensure_future(cache.get("a", source.load))
        await ticks(2)
        if how == "deleted":
            cache.delete("a")
        else:
            clock.advance(0.5)
        assert "new" == await asking
        assert 2.0 == pytest.approx(loop.time())
        assert 0 == cache.stats.stale_hits
        assert [] == reports

    virtual(main)


def test_s1_every_stale_value_that_is_served_is_counted():
    """After `soft_timeout`, beside a load that exceeded it, after a failure, and after that."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = stale_cache(loop.time, soft_timeout=1, retry_after=2)
        source = Source()
        source.seconds = 3
        source.error = Broken("down")
        counts: list[int] = []
        await asyncio.sleep(11)
        # The load fails at 14, and the next may start at 16.
        for seconds in (0, 3, 0.5):
            await asyncio.sleep(seconds)
            assert "old" == await cache.get("a", source.load)
            counts.append(cache.stats.stale_hits)
            if not seconds:
                assert "old" == await cache.get("a", source.load)
                counts.append(cache.stats.stale_hits)
        assert [1, 2, 3, 4] == counts
        assert 1 == source.count

    virtual(main)


def test_s1_a_value_is_stale_from_the_moment_it_expires():
    """At that very moment it is not fresh any more, also where `soft_timeout` serves it."""

    async def main() -> None:
        clock = ManualClock()
        cache = stale_cache(clock, soft_timeout=1)
        source = Source()
        source.seconds = 3
        clock.advance(10)
        assert "old" == await cache.get("a", source.load)
        assert (0, 1, 1) == (cache.stats.hits, cache.stats.misses, cache.stats.stale_hits)

    virtual(main)


async def collected_reports(do: Callable[[], Any]) -> list[str]:
    """Give what the loop's exception handler was told during and after `do`."""
    messages: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: messages.append(str(context))
    )
    await do()
    for _ in range(3):
        gc.collect()
        await ticks(2)
    return messages


def test_s1_a_slow_load_that_fails_after_its_callers_were_served_makes_at_most_one_report():
    """A hundred callers that took the stale value don't make a hundred reports of the failure."""

    async def main() -> None:
        cache = stale_cache(asyncio.get_running_loop().time, soft_timeout=1)
        source = Source()
        source.seconds = 3
        source.error = Broken("down")

        async def do() -> None:
            await asyncio.sleep(11)
            found = await asyncio.gather(*(cache.get("a", source.load) for _ in range(100)))
            assert ["old"] * 100 == found
            await asyncio.sleep(5)

        assert len(await collected_reports(do)) <= 1

    virtual(main)


@pytest.mark.parametrize("way", WAYS)
async def test_s1_a_failed_refresh_waits_retry_after_before_the_next(way: str):
    """For `retry_after` after a failure the stale value is served without another load."""
    clock = ManualClock()
    cache = stale_cache(clock, retry_after=1.0)
    source = Source()
    source.error = Broken("down")
    get = ways(cache, source)[way]

    clock.advance(15)
    assert "old" == await within(get())
    clock.advance(0.75)
    assert "old" == await within(get())
    assert 1 == source.calls
    clock.advance(0.25)
    assert "old" == await within(get())
    assert 2 == source.calls
    clock.advance(1)
    source.error = None
    assert "new" == await within(get())


async def test_s1_retry_after_does_not_serve_past_stale_ttl():
    """A failed refresh just before the end of the stale time doesn't prolong it."""
    clock = ManualClock()
    cache = stale_cache(clock, retry_after=5.0)
    source = Source()
    source.error = Broken("down")

    clock.advance(19.5)
    assert "old" == await within(cache.get("a", source.load))
    clock.advance(0.5)
    with pytest.raises(Broken):
        await within(cache.get("a", source.load))
    source.error = None
    assert "new" == await within(cache.get("a", source.load))


async def test_s1_a_failure_with_nothing_to_serve_does_not_wait():
    """Where there is no stale value, every get tries again: errors are not stored."""
    cache = AsyncCache(stale_ttl=10, retry_after=60)
    source = Source()
    source.error = Broken("down")

    for _ in range(3):
        with pytest.raises(Broken):
            await within(cache.get("b", source.load))

    assert 3 == source.count


async def test_s1_setting_the_key_ends_the_wait():
    """A value that was set after a failed refresh is a fresh one."""
    clock = ManualClock()
    cache = stale_cache(clock, retry_after=5.0)
    source = Source()
    source.error = Broken("down")
    clock.advance(15)
    await within(cache.get("a", source.load))

    cache.set("a", "newest")

    assert "newest" == await within(cache.get("a", source.load))
    clock.advance(10)
    assert "newest" == await within(cache.get("a", source.load))
    assert 2 == source.count


async def test_s1_an_explicit_refresh_does_not_wait_for_retry_after():
    """`refresh` loads now, also just after a failure, and raises its own error."""
    clock = ManualClock()
    cache = stale_cache(clock, retry_after=60.0)
    source = Source()
    source.error = Broken("down")
    clock.advance(15)
    await within(cache.get("a", source.load))

    with pytest.raises(Broken):
        await within(cache.refresh("a", source.load))
    source.error = None

    assert "new" == await within(cache.refresh("a", source.load))
    assert "new" == cache.peek("a")


async def test_s1_a_new_value_begins_a_new_stale_time():
    """A value that was loaded after expiry has its own life and its own stale time."""
    clock = ManualClock()
    cache = stale_cache(clock)
    source = Source()
    clock.advance(15)
    await within(cache.get("a", source.load))
    source.error = Broken("down")

    clock.advance(19)
    assert "new" == await within(cache.get("a", source.load))
    clock.advance(1)
    with pytest.raises(Broken):
        await within(cache.get("a", source.load))


async def test_s1_a_cancelled_caller_of_a_stale_key_is_cancelled():
    """The stale value is no answer to a caller's own cancellation."""
    clock = ManualClock()
    cache = stale_cache(clock)
    answer = asyncio.Event()

    async def load() -> str:
        await answer.wait()
        return "new"

    clock.advance(15)
    task = asyncio.ensure_future(cache.get("a", load))
    await ticks(5)
    task.cancel()
    await asyncio.wait([task], timeout=GUARD)

    assert task.cancelled()
    answer.set()
    await until(lambda: cache.peek("a") == "new")


async def test_s1_a_misused_loader_is_not_hidden_by_a_stale_value():
    """A loader that can't be called is the caller's mistake, stale value or not."""
    clock = ManualClock()
    cache = stale_cache(clock, name="users")
    clock.advance(15)

    with pytest.raises(TypeError, match="users"):
        await within(cache.get("a", "no loader"))  # type: ignore[arg-type]


# S2: refresh ahead


def fresh_cache(clock: Callable[[], float], **options: Any) -> AsyncCache:
    """Make a cache with an old value of 'a' that is refreshed from 8 on and expires at 10."""
    options = {"default_ttl": 10, "refresh_ahead": 0.8, **options}
    cache = AsyncCache(clock=clock, **options)
    cache.set("a", "old")
    return cache


async def test_s2_a_hit_before_the_share_of_the_ttl_refreshes_nothing():
    """Before 80 % of the TTL a hit is a hit."""
    clock = ManualClock()
    cache = fresh_cache(clock)
    source = Source()

    clock.advance(7.75)
    assert "old" == await within(cache.get("a", source.load))
    await ticks(5)

    assert 0 == source.count


@pytest.mark.parametrize("way", WAYS)
async def test_s2_a_hit_from_the_share_on_refreshes_and_is_answered_at_once(way: str):
    """From 80 % of the TTL on a hit has the old value without waiting, and the next the new."""
    clock = ManualClock()
    cache = fresh_cache(clock)
    source = Source()
    get = ways(cache, source)[way]
    release = asyncio.Event()
    answer = source.answer

    async def slow() -> None:
        await release.wait()
        await answer()

    source.answer = slow  # type: ignore[method-assign]
    clock.advance(8)

    assert "old" == await within(get())
    release.set()
    await eventually(lambda: cache.peek("a") == "new")

    assert 1 == source.calls
    assert 1 == cache.stats.refreshes
    assert (1, 0) == (cache.stats.hits, cache.stats.misses)


async def test_s2_a_hundred_hits_start_one_refresh():
    """While a refresh runs, further hits are answered and start no other."""
    clock = ManualClock()
    cache = fresh_cache(clock)
    source = Source()
    clock.advance(8)

    found = await within(asyncio.gather(*(cache.get("a", source.load) for _ in range(100))))
    await until(lambda: cache.peek("a") == "new")

    assert ["old"] * 100 == found
    assert 1 == source.count


async def test_s2_a_refreshed_value_lives_its_own_life():
    """The TTL of a refreshed value counts from its own load."""
    clock = ManualClock()
    cache = fresh_cache(clock)
    source = Source()
    clock.advance(8)
    await within(cache.get("a", source.load))
    await until(lambda: cache.peek("a") == "new")

    clock.advance(7.75)
    await within(cache.get("a", source.load))
    await ticks(5)
    assert 1 == source.count
    clock.advance(0.25)
    await within(cache.get("a", source.load))
    await until(lambda: source.count == 2)


async def test_s2_a_refresh_keeps_the_ttl_of_its_call():
    """A background refresh stores with the TTL of the get that started it."""
    clock = ManualClock()
    cache = fresh_cache(clock)
    source = Source()
    clock.advance(8)
    await within(cache.get("a", source.load, ttl=100))
    await until(lambda: cache.peek("a") == "new")

    clock.advance(79)

    assert "new" == cache.peek("a")


async def test_s2_a_hit_without_a_loader_refreshes_nothing():
    """Without a loader there is nothing to refresh with."""
    clock = ManualClock()
    cache = fresh_cache(clock)
    clock.advance(8)

    assert "old" == await within(cache.get("a"))
    await ticks(5)

    assert 0 == cache.stats.refreshes


async def test_s2_what_lives_for_ever_is_not_refreshed():
    """A value without a TTL has no share of it."""
    clock = ManualClock()
    cache = fresh_cache(clock, default_ttl=None)
    source = Source()
    clock.advance(1e9)

    assert "old" == await within(cache.get("a", source.load))
    await ticks(5)

    assert 0 == source.count


async def test_s2_peek_and_in_refresh_nothing():
    """Looking is no hit."""
    clock = ManualClock()
    cache = fresh_cache(clock)
    clock.advance(9)

    assert "old" == cache.peek("a")
    assert "a" in cache
    await ticks(5)

    assert 0 == cache.stats.refreshes


async def test_s2_a_failed_refresh_leaves_the_value_and_makes_no_report():
    """A background refresh that fails takes nothing from anybody before the value expires."""
    clock = ManualClock()
    cache = fresh_cache(clock)
    source = Source()
    source.error = Broken("down")
    clock.advance(8)

    async def do() -> None:
        found = await within(asyncio.gather(*(cache.get("a", source.load) for _ in range(10))))
        assert ["old"] * 10 == found
        await until(lambda: source.count == 1)
        await ticks(10)

    # Nobody misses anything yet, and who does later gets an error of its own.
    assert [] == await collected_reports(do)
    assert "old" == cache.peek("a")
    assert 1 == cache.stats.load_errors


async def test_s2_a_failed_refresh_waits_retry_after_before_the_next():
    """After a background refresh failed, hits start no other before `retry_after`."""
    clock = ManualClock()
    cache = fresh_cache(clock, retry_after=1.0)
    source = Source()
    source.error = Broken("down")
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    clock.advance(8)
    await within(cache.get("a", source.load))
    await until(lambda: source.count == 1)
    await ticks(10)
    clock.advance(0.75)
    await within(cache.get("a", source.load))
    await ticks(10)
    assert 1 == source.count
    clock.advance(0.25)
    await within(cache.get("a", source.load))
    await until(lambda: source.count == 2)


async def test_s2_a_new_value_does_not_wait_for_what_failed_before_it():
    """`retry_after` is about the value whose refresh failed, and goes with it."""
    clock = ManualClock()
    cache = fresh_cache(clock, retry_after=1_000.0)
    source = Source()
    source.error = Broken("down")
    clock.advance(8)
    await within(cache.get("a", source.load))
    await until(lambda: cache.stats.load_errors == 1)

    cache.set("a", "set")
    clock.advance(8)
    source.error = None
    assert "set" == await within(cache.get("a", source.load))
    await until(lambda: cache.peek("a") == "new")


async def test_s2_a_failed_refresh_does_not_keep_an_expired_value():
    """`retry_after` of a failed background refresh serves nothing after expiry."""
    clock = ManualClock()
    cache = fresh_cache(clock, retry_after=60.0)
    source = Source()
    source.error = Broken("down")
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    clock.advance(9)
    await within(cache.get("a", source.load))
    await until(lambda: source.count == 1)
    await ticks(10)

    clock.advance(1)
    source.error = None

    assert "new" == await within(cache.get("a", source.load))


class Held:
    """A loader whose every call waits until the test lets it go."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[Any]] = []

    async def load(self) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        return await answer


@pytest.mark.parametrize("how", ["set", "delete", "expire", "clear", "tag"])
async def test_s2_a_refresh_that_was_overtaken_is_not_stored(how: str):
    """What a background refresh brings is not stored after an invalidation."""
    clock = ManualClock()
    cache = fresh_cache(clock)
    cache.set("a", "old", tags=["t"])
    held = Held()
    clock.advance(8)
    await within(cache.get("a", held.load, tags=["t"]))
    await until(lambda: held.answers)

    match how:
        case "set":
            cache.set("a", "newest")
        case "delete":
            cache.delete("a")
        case "expire":
            cache.expire("a")
        case "clear":
            cache.clear()
        case _:
            cache.invalidate_tag("t")
    held.answers[0].set_result("overtaken")
    await ticks(10)

    assert ("newest" if how == "set" else None) == cache.peek("a")


async def test_s2_a_value_that_expires_during_its_refresh_is_waited_for():
    """A get after expiry joins the refresh that runs, and starts no second load."""
    clock = ManualClock()
    cache = fresh_cache(clock)
    held = Held()
    clock.advance(9)
    assert "old" == await within(cache.get("a", held.load))
    await until(lambda: held.answers)
    clock.advance(1)

    task = asyncio.ensure_future(cache.get("a", held.load))
    await ticks(5)
    held.answers[0].set_result("new")

    assert "new" == await within(task)
    assert 1 == len(held.answers)


async def test_s2_a_refresh_runs_in_no_callers_context():
    """A background refresh sees nothing of the request whose hit started it."""
    clock = ManualClock()
    cache = fresh_cache(clock)
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
    seen: list[str] = []

    async def load() -> str:
        seen.append(tenant.get())
        return "new"

    clock.advance(8)
    tenant.set("alice")
    await within(cache.get("a", load))
    await until(lambda: seen)

    assert ["nobody"] == seen


def test_s2_a_refresh_that_takes_too_long_is_ended_by_load_timeout():
    """A background refresh that hangs is cancelled, and the next hit after that may try again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        cache = fresh_cache(loop.time, default_ttl=100, load_timeout=5, retry_after=1)
        source = Source()
        source.seconds = 1_000
        await asyncio.sleep(80)
        assert "old" == await cache.get("a", source.load)
        await asyncio.sleep(7)
        source.seconds = 0
        assert "old" == await cache.get("a", source.load)
        await asyncio.sleep(1)
        assert "new" == cache.peek("a")
        assert 1 == cache.stats.load_timeouts

    virtual(main)


@pytest.mark.parametrize("share", [-0.5, 0, 1.5, "0.8", float("nan"), True])
def test_s2_a_share_that_can_not_be_is_an_error(share: Any):
    """A `refresh_ahead` that is no share of a TTL is a `ConfigurationError`."""
    with pytest.raises(ConfigurationError) as caught:
        AsyncCache(refresh_ahead=share, name="users")

    assert "users" in str(caught.value)
    assert "refresh_ahead" in str(caught.value)


# S3: refreshes are batched


async def test_s3_refreshes_of_a_batch_loader_are_batched():
    """Hits of ten keys that are due are refreshed by one batch."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, refresh_ahead=0.8, clock=clock)
    source = Source()
    for key in range(10):
        cache.set(key, "old")
    clock.advance(8)

    found = await within(
        asyncio.gather(*(cache.get(key, batch_loader=source.many) for key in range(10)))
    )
    assert ["old"] * 10 == found
    await eventually(lambda: cache.peek(9) == "new")

    assert [list(range(10))] == source.plan


async def test_s3_refreshes_of_get_many_are_batched():
    """A `get_many` whose keys are all due refreshes them by one batch."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, refresh_ahead=0.8, clock=clock)
    source = Source()
    for key in range(10):
        cache.set(key, "old")
    clock.advance(8)

    assert dict.fromkeys(range(10), "old") == await within(cache.get_many(range(10), source.many))
    await eventually(lambda: cache.peek(9) == "new")

    assert [list(range(10))] == source.plan


# S4: removal and expiry


async def test_s4_a_deleted_value_is_no_fallback():
    """After `delete` a failing load is an error."""
    cache = stale_cache(ManualClock())
    source = Source()
    source.error = Broken("down")

    cache.delete("a")

    with pytest.raises(Broken):
        await within(cache.get("a", source.load))


async def test_s4_a_stale_value_that_is_deleted_is_no_fallback():
    """`delete` also takes away what is kept as a fallback."""
    clock = ManualClock()
    cache = stale_cache(clock)
    source = Source()
    source.error = Broken("down")
    clock.advance(15)

    cache.delete("a")

    with pytest.raises(Broken):
        await within(cache.get("a", source.load))


async def test_s4_an_expired_value_is_a_fallback():
    """After `expire` a key is loaded again, and its old value serves where that fails."""
    cache = stale_cache(ManualClock(), retry_after=0)
    source = Source()
    source.error = Broken("down")

    cache.expire("a")

    assert "a" not in cache
    assert ABSENT is cache.peek("a", ABSENT)
    assert None is await cache.get("a")
    assert "old" == await within(cache.get("a", source.load))
    source.error = None
    assert "new" == await within(cache.get("a", source.load))


async def test_s4_the_stale_time_of_an_expired_value_begins_with_expire():
    """`expire` ends a life early: its stale time counts from then."""
    # reading: "for that long after expiry", and this is its expiry.
    clock = ManualClock()
    cache = AsyncCache(default_ttl=100, stale_ttl=10, retry_after=0, clock=clock)
    source = Source()
    source.error = Broken("down")
    cache.set("a", "old")
    clock.advance(50)
    cache.expire("a")

    clock.advance(9.75)
    assert "old" == await within(cache.get("a", source.load))
    clock.advance(0.25)
    with pytest.raises(Broken):
        await within(cache.get("a", source.load))


async def test_s4_expiring_what_lives_for_ever_begins_its_stale_time():
    """A value without a TTL can be expired, too, and is a fallback for `stale_ttl`."""
    clock = ManualClock()
    cache = AsyncCache(stale_ttl=10, retry_after=0, clock=clock)
    source = Source()
    source.error = Broken("down")
    cache.set("a", "old")
    clock.advance(1_000)
    cache.expire("a")

    clock.advance(9.75)
    assert "old" == await within(cache.get("a", source.load))
    clock.advance(0.25)
    with pytest.raises(Broken):
        await within(cache.get("a", source.load))


async def test_s4_expiring_again_prolongs_nothing():
    """`expire` of a value that has expired does not begin its stale time anew."""
    clock = ManualClock()
    cache = stale_cache(clock, retry_after=0)
    source = Source()
    source.error = Broken("down")
    clock.advance(15)
    cache.expire("a")

    clock.advance(4.75)
    assert "old" == await within(cache.get("a", source.load))
    cache.expire("a")
    clock.advance(0.25)
    with pytest.raises(Broken):
        await within(cache.get("a", source.load))


async def test_s4_expiring_ends_the_wait_for_the_next_load():
    """Who expires a value wants a new one, though a refresh has failed a moment ago."""
    clock = ManualClock()
    cache = AsyncCache(default_ttl=10, stale_ttl=10, refresh_ahead=0.5, retry_after=60, clock=clock)
    source = Source()
    source.error = Broken("down")
    cache.set("a", "old")
    clock.advance(6)
    await within(cache.get("a", source.load))
    await until(lambda: cache.stats.load_errors)

    cache.expire("a")
    source.error = None

    assert "new" == await within(cache.get("a", source.load))


async def test_s4_without_stale_ttl_expire_removes():
    """Where nothing is served stale, an expired value is gone."""
    cache = AsyncCache()
    source = Source()
    source.error = Broken("down")
    cache.set("a", "old")

    cache.expire("a")

    assert "a" not in cache
    with pytest.raises(Broken):
        await within(cache.get("a", source.load))


async def test_s4_expiring_an_absent_key_is_no_error():
    """`expire` of a key that is not there does nothing."""
    cache = AsyncCache(stale_ttl=10)

    await cache.expire("absent")

    assert 0 == len(cache)


@pytest.mark.parametrize("how", ["clear", "tag"])
async def test_s4_clear_and_tags_leave_no_fallback(how: str):
    """What `clear` and `invalidate_tag` took away is served by nothing."""
    # reading: they remove, as `delete` does; only `expire` keeps a fallback.
    cache = stale_cache(ManualClock())
    cache.set("a", "old", tags=["t"])
    source = Source()
    source.error = Broken("down")

    if how == "clear":
        cache.clear()
    else:
        cache.invalidate_tag("t")

    with pytest.raises(Broken):
        await within(cache.get("a", source.load))


async def test_s4_a_value_that_was_invalidated_is_not_brought_back_by_a_load_timeout():
    """Nothing stale is served after `delete`, also where a flight of before still runs."""
    clock = ManualClock()
    cache = stale_cache(clock)
    held = Held()
    clock.advance(15)
    task = asyncio.ensure_future(cache.get("a", held.load))
    await until(lambda: held.answers)

    cache.delete("a")
    held.answers[0].set_exception(Broken("down"))

    with pytest.raises(Broken):
        await within(task)


def test_s4_load_timeout_without_a_fallback_is_an_error():
    """After `delete` a load that times out is a `LoadTimeoutError`."""

    async def main() -> None:
        cache = stale_cache(asyncio.get_running_loop().time, load_timeout=1, soft_timeout=0.5)
        source = Source()
        source.seconds = 100
        cache.delete("a")
        with pytest.raises(LoadTimeoutError):
            await cache.get("a", source.load)

    virtual(main)
