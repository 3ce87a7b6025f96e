"""One cache under several loops and threads, and how it ends: rules L1 to L3."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from dataloader_cache import AsyncCache, DataLoader
from dataloader_cache.errors import LoadCancelledError, LoaderClosedError
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
    """Wait until `condition` holds, which another thread may bring about."""
    end = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < end, "not reached"
        await asyncio.sleep(0)


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run `main` on a loop of its own, but not for ever."""

    async def bounded() -> Any:
        return await within(main())

    return asyncio.run(bounded())


class Threads:
    """Run functions in threads and give what they raised."""

    def __init__(self, *functions: Callable[[], Any]) -> None:
        self.errors: list[BaseException] = []
        self.threads = [
            threading.Thread(target=self.call, args=(function,), daemon=True)
            for function in functions
        ]
        for thread in self.threads:
            thread.start()

    def call(self, function: Callable[[], Any]) -> None:
        try:
            function()
        except BaseException as error:
            self.errors.append(error)

    def join(self) -> None:
        """Wait for all threads and raise the first error of one."""
        for thread in self.threads:
            thread.join(GUARD)
            assert not thread.is_alive(), "a thread hangs"
        if self.errors:
            raise self.errors[0]


class Counted:
    """A loader that counts its calls, and a batch function that records them."""

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


class Gate:
    """A loader whose every call waits until the test answers it."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[Any]] = []
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
        return await self.load()

    async def running(self, count: int = 1) -> None:
        """Wait until `count` calls have been made."""
        await until(lambda: len(self.answers) >= count)


class Thing:
    """A value that can be watched."""


# L1: several loops, one after another


def test_l1_unlike_peers_one_cache_serves_two_runs():
    """What was loaded in one `asyncio.run` is a hit in the next."""
    cache = AsyncCache(default_ttl=60)
    counted = Counted()

    async def main() -> list[Any]:
        return [
            await cache.get("a", counted.load),
            await cache.get(1, batch_loader=counted.many),
            await cache.get_many([2, 3], counted.many),
        ]

    for _ in range(3):
        assert ["value", 10, {2: 20, 3: 30}] == run(main)
    assert 1 == counted.count
    assert [[1], [2, 3]] == counted.plan


def test_l1_each_run_may_load():
    """Every loop has flights, batches, refreshes and warm-ups of its own."""
    cache = AsyncCache(default_ttl=60, load_timeout=10, max_concurrent_loads=2)
    counted = Counted()

    for number in range(3):

        async def main(number: int = number) -> None:
            key = number * 100
            assert ["value"] * 5 == await asyncio.gather(
                *(cache.get(f"a{number}", counted.load) for _ in range(5))
            )
            assert [key * 10, key * 10 + 10] == await asyncio.gather(
                *(cache.get(one, batch_loader=counted.many) for one in (key, key + 1))
            )
            assert "value" == await cache.refresh(f"a{number}", counted.load)
            assert [f"w{number}"] == (await cache.warmup({f"w{number}": counted.load})).loaded

        run(main)


@pytest.mark.parametrize("way", ["loader", "batch_loader", "get_many", "open batch"])
def test_l1_the_flights_of_a_run_that_ended_are_dropped(way: str):
    """A load that its loop's end cut off is started anew on the next loop."""
    cache = AsyncCache(max_concurrent_loads=1, batch_window=60 if way == "open batch" else 0.005)
    gate = Gate()
    counted = Counted()
    tasks: list[Any] = []

    async def first() -> None:
        match way:
            case "loader":
                get: Any = cache.get(1, gate.load)
            case "get_many":
                get = cache.get_many([1], gate.many)
            case _:
                get = cache.get(1, batch_loader=gate.many)
        tasks.append(asyncio.ensure_future(get))
        await (ticks(5) if way == "open batch" else gate.running())

    async def second() -> Any:
        return await cache.get(1, counted.load)

    run(first)
    tasks.clear()
    assert "value" == run(second)
    assert 1 == counted.count


def test_l1_the_flights_of_a_loop_that_was_just_closed_are_dropped():
    """A loop that was closed with loads still pending leaves the next loop no trouble."""
    cache = AsyncCache(max_concurrent_loads=1)
    gate = Gate()
    counted = Counted()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"

    async def first() -> None:
        task = asyncio.ensure_future(cache.get(1, gate.load))
        other = asyncio.ensure_future(cache.get(2, batch_loader=gate.many))
        await gate.running()
        await ticks(3)
        del task, other

    async def second() -> list[Any]:
        return [
            await cache.get(1, counted.load),
            await cache.get(2, batch_loader=counted.many),
        ]

    loop.run_until_complete(first())
    loop.close()
    assert ["value", 20] == run(second)
    gate.answers.clear()
    gc.collect()
    assert ["value", 20] == [cache.peek(1), cache.peek(2)]


def test_l1_a_load_that_its_loops_end_cut_off_stores_nothing():
    """The end of a loop is no result."""
    cache = AsyncCache()
    gate = Gate()

    async def main() -> None:
        task = asyncio.ensure_future(cache.get("a", gate.load))
        await gate.running()
        del task

    run(main)

    assert 1 == gate.cancelled
    assert 0 == len(cache)


def test_l1_values_that_were_set_without_a_loop_are_served_on_one():
    """A cache may be made, filled, read and emptied before any loop runs, and after."""
    cache = AsyncCache(default_ttl=60)
    cache.set("a", 1)
    cache.set("b", 2, tags=["t"])
    cache.set("c", 3)
    cache.expire("c")
    assert 1 == cache.peek("a")
    cache.invalidate_tag("t")

    async def main() -> list[Any]:
        return [await cache.get(key) for key in "abc"]

    assert [1, None, None] == run(main)
    cache.delete("a")
    assert 0 == len(cache)
    cache.clear()


# L1: several loops at the same time


def test_l1_two_threads_load_one_key_each_on_its_own_loop():
    """Flights are per loop: two loops that want one key load it twice, and nobody hangs."""
    cache = AsyncCache()
    barrier = threading.Barrier(2, timeout=GUARD)
    loops: list[Any] = []

    async def load() -> str:
        loops.append(asyncio.get_running_loop())
        barrier.wait()  # holds up both loops until both load
        return "value"

    async def main() -> None:
        assert ["value"] * 5 == await asyncio.gather(*(cache.get("a", load) for _ in range(5)))

    Threads(lambda: run(main), lambda: run(main)).join()

    assert 2 == len(set(loops))
    assert "value" == cache.peek("a")


def test_l1_two_threads_batch_each_on_its_own_loop():
    """Keys of different loops never meet in a batch; each is sent on its own loop."""
    cache = AsyncCache(maxsize=None)
    plan: dict[Any, list[list[int]]] = {}

    async def many(keys: list[int]) -> list[int]:
        plan.setdefault(threading.get_ident(), []).append(list(keys))
        await asyncio.sleep(0)
        return [key * 10 for key in keys]

    barrier = threading.Barrier(4, timeout=GUARD)

    def thread(start: int) -> Callable[[], Any]:
        async def main() -> None:
            barrier.wait()
            keys = range(start, start + 20)
            assert [key * 10 for key in keys] == await asyncio.gather(
                *(cache.get(key, batch_loader=many) for key in keys)
            )

        return lambda: run(main)

    Threads(*(thread(start) for start in (0, 100, 200, 300))).join()

    assert 4 == len(plan)
    assert [[0, 100, 200, 300]] == [sorted(batches[0][0] for batches in plan.values())]
    assert all(len(batches) == 1 for batches in plan.values())


async def test_l1_what_another_thread_sets_is_served():
    """A value that was set in a thread without a loop is a hit on a loop."""
    cache = AsyncCache(default_ttl=60)

    await within(asyncio.to_thread(cache.set, "a", 1))

    assert 1 == await cache.get("a")


async def test_l1_a_value_of_one_loop_is_a_hit_on_another_that_runs():
    """A loop in another thread finds what this one has loaded."""
    cache = AsyncCache(default_ttl=60)
    counted = Counted()
    await within(cache.get("a", counted.load))

    async def main() -> Any:
        return await cache.get("a", counted.load)

    assert "value" == await within(asyncio.to_thread(run, main))
    assert 1 == counted.count


@pytest.mark.parametrize("operation", ["set", "delete", "expire", "clear", "tag"])
async def test_l1_another_thread_overtakes_a_load(operation: str):
    """An invalidation in one thread keeps an older load of another's loop from being stored."""
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get("a", gate.load, tags=["t"]))
    await gate.running()

    match operation:
        case "set":
            await asyncio.to_thread(cache.set, "a", "newest")
        case "delete":
            await asyncio.to_thread(cache.delete, "a")
        case "expire":
            await asyncio.to_thread(cache.expire, "a")
        case "clear":
            await asyncio.to_thread(cache.clear)
        case _:
            await asyncio.to_thread(cache.invalidate_tag, "t")
    gate.answers[0].set_result("old")

    assert "old" == await within(task)
    await ticks(5)
    assert ("newest" if operation == "set" else None) == cache.peek("a")


async def test_l1_callers_after_another_threads_invalidation_start_a_new_load():
    """A key that another thread deleted is loaded anew, and the older load is not joined."""
    cache = AsyncCache()
    gate = Gate()
    older = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()
    await asyncio.to_thread(cache.delete, "a")

    newer = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running(2)
    gate.answers[1].set_result("new")
    gate.answers[0].set_result("old")

    assert ["old", "new"] == [await within(older), await within(newer)]
    assert "new" == cache.peek("a")


def test_l1_the_end_of_one_loop_leaves_anothers_loads_alone():
    """A loop that is closed while another one loads takes nothing with it."""
    cache = AsyncCache()
    gate = Gate()
    other = Gate()

    async def short() -> None:
        task = asyncio.ensure_future(cache.get("a", other.load))
        await other.running()
        del task

    async def main() -> None:
        task = asyncio.ensure_future(cache.get("a", gate.load))
        await gate.running()
        await asyncio.to_thread(run, short)
        gate.answers[0].set_result("value")
        assert "value" == await task

    run(main)
    assert "value" == cache.peek("a")


@pytest.fixture
def restless() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
def test_l1_four_threads_with_a_loop_each_break_nothing(eviction: str):
    """Forty thousand random operations of four loops: right values, the bound kept, no error."""
    cache = AsyncCache(
        maxsize=30,
        default_ttl=0.01,
        stale_ttl=0.01,
        refresh_ahead=0.5,
        batch_window=0,
        eviction=eviction,
    )

    async def many(keys: list[int]) -> list[int]:
        await asyncio.sleep(0)
        return [key * 10 for key in keys]

    def loader(key: int) -> Callable[[], Coroutine[Any, Any, int]]:
        async def load() -> int:
            await asyncio.sleep(0)
            return key * 10

        return load

    def thread(seed: int) -> Callable[[], Any]:
        chance = random.Random(seed)

        async def one() -> None:
            for _ in range(1_000):
                key = chance.randrange(90)
                match chance.randrange(10):
                    case 0:
                        cache.set(key, key * 10, tags=[key % 3])
                    case 1:
                        cache.delete(key)
                    case 2:
                        cache.expire(key)
                    case 3 if chance.random() < 0.1:
                        cache.clear()
                    case 4 if chance.random() < 0.3:
                        cache.invalidate_tag(key % 3)
                    case 5:
                        assert cache.peek(key) in (None, key * 10)
                    case 6:
                        keys = [key, key + 1, key + 2]
                        assert {k: k * 10 for k in keys} == await cache.get_many(keys, many)
                    case 7:
                        assert key * 10 == await cache.get(key, batch_loader=many)
                    case _:
                        assert key * 10 == await cache.get(key, loader(key))
                assert len(cache) <= 30

        async def main() -> None:
            await asyncio.gather(*(one() for _ in range(10)))

        return lambda: run(main)

    Threads(*(thread(seed) for seed in range(4))).join()

    assert len(cache) <= 30
    assert len(cache) == cache.stats.size


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
def test_l1_hits_of_what_another_thread_evicts_break_nothing(eviction: str):
    """Reading keys that other threads set, delete and evict gives their values, or nothing."""
    cache = AsyncCache(maxsize=4, eviction=eviction)
    done = threading.Event()

    def write(start: int) -> Callable[[], Any]:
        def work() -> None:
            try:
                for number in range(start, start + 15_000):
                    key = number % 8
                    cache.set(key, key * 10)
                    if number % 3 == 0:
                        cache.delete((key + 1) % 8)
            finally:
                done.set()

        return work

    async def load(key: int) -> int:
        return key * 10

    async def main() -> None:
        while not done.is_set():
            for key in range(8):
                assert cache.peek(key, ABSENT) in (ABSENT, key * 10)
                assert key * 10 == await cache.get(key, lambda key=key: load(key))

    Threads(write(0), write(3), lambda: run(main), lambda: run(main)).join()

    assert len(cache) <= 4


@pytest.mark.usefixtures("restless")
def test_l1_the_bound_holds_under_another_threads_eyes():
    """A thread that only looks never sees more entries than there may be."""
    cache = AsyncCache(maxsize=10)
    most: list[int] = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], len(cache))

    def write(start: int) -> Callable[[], Any]:
        def work() -> None:
            for key in range(start, start + 20_000):
                cache.set(key, key)

        return work

    watcher = Threads(watch)
    try:
        Threads(write(0), write(100_000)).join()
    finally:
        done.set()
    watcher.join()

    assert most[0] <= 10


def test_l1_metrics_of_several_threads_add_up():
    """Hits and misses of four loops are all counted."""
    cache = AsyncCache(maxsize=None)
    cache.set("hit", 1)

    async def main() -> None:
        for number in range(2_000):
            await cache.get("hit")
            await cache.get(number + 10)

    Threads(*([lambda: run(main)] * 4)).join()

    assert (8_000, 8_000) == (cache.stats.hits, cache.stats.misses)


# L2: the hit path


class Slow:
    """A key whose comparison waits until the test lets it go on."""

    def __init__(self) -> None:
        self.comparing = threading.Event()
        self.release = threading.Event()

    def __hash__(self) -> int:
        return 42

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        self.comparing.set()
        self.release.wait(5.0)
        return True


async def test_l2_a_hit_takes_no_lock():
    """While a thread is held up in the middle of a `set`, hits go on."""
    cache = AsyncCache(default_ttl=60)
    cache.set("a", 1)
    slow = Slow()
    cache.set(slow, 1)
    other = Slow()
    other.comparing, other.release = slow.comparing, slow.release
    writer = Threads(lambda: cache.set(other, 2))

    try:
        assert await asyncio.to_thread(slow.comparing.wait, GUARD)
        begin = time.monotonic()
        for _ in range(100):
            assert 1 == await cache.get("a")
            assert 1 == cache.peek("a")
        assert time.monotonic() - begin < 4.0, "a hit waited for the writer"
    finally:
        slow.release.set()
    writer.join()


@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
async def test_l2_a_hit_does_not_suspend(eviction: str):
    """A hit is answered without a turn of the loop."""
    cache = AsyncCache(default_ttl=60, eviction=eviction)
    counted = Counted()
    cache.set("a", 1)
    others: list[int] = []
    asyncio.get_running_loop().call_soon(others.append, 1)

    for _ in range(10):
        assert 1 == await cache.get("a")
        assert 1 == await cache.get("a", counted.load)
        assert 1 == await cache.get("a", batch_loader=counted.many)
        assert {"a": 1} == await cache.get_many(["a"], counted.many)

    assert [] == others


async def test_l2_what_a_cache_returns_is_awaited_without_a_turn_of_the_loop():
    """There is nothing to wait for in a cache without a tier."""
    cache = AsyncCache()
    others: list[int] = []
    asyncio.get_running_loop().call_soon(others.append, 1)

    await cache.set("a", 1)
    await cache.delete("a")
    await cache.clear()

    assert [] == others


def test_l2_hits_take_the_short_way_again_once_a_loop_sweeps():
    """Only the first call on a loop sees to the sweep that could not be armed without one."""
    cache = AsyncCache(default_ttl=60)
    cache.set("a", 1)
    assert {} == cache._fast

    async def main() -> None:
        assert 1 == await cache.get("a")
        assert cache._fast is cache._data

    asyncio.run(main())


# L3: the end of a cache


async def test_l3_a_cache_that_nobody_holds_is_collected():
    """A dropped cache is collected with its values."""
    cache = AsyncCache()
    thing = Thing()
    watched = [weakref.ref(cache), weakref.ref(thing)]
    cache.set("a", thing)

    del cache, thing
    gc.collect()

    assert [None, None] == [ref() for ref in watched]


async def test_l3_a_cache_with_timers_is_collected():
    """Neither a sweep timer nor a load's timer that ended holds a dropped cache."""
    cache = AsyncCache(
        default_ttl=1_000, load_timeout=1_000, stale_ttl=1_000, soft_timeout=500, refresh_ahead=0.5
    )
    counted = Counted(Thing())
    await within(cache.get("a", counted.load))
    await within(cache.get(1, batch_loader=counted.many))
    await within(cache.warmup({"w": counted.load}))
    watched = [weakref.ref(cache), weakref.ref(counted.value)]

    del cache, counted
    await ticks(3)
    gc.collect()

    assert [None, None] == [ref() for ref in watched]


async def test_l3_a_cache_whose_loads_failed_is_collected():
    """The errors of a dropped cache do not hold it."""
    cache = AsyncCache()

    async def load() -> Any:
        raise ValueError("down")

    with pytest.raises(ValueError, match="down"):
        await within(cache.get("a", load))
    watched = weakref.ref(cache)

    del cache
    await ticks(3)
    gc.collect()

    assert None is watched()


async def test_l3_a_cache_is_collected_after_its_last_load():
    """A load that nobody waits for ends, and then holds its dropped cache no longer."""
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()
    task.cancel()
    await ticks(2)
    watched = weakref.ref(cache)

    del cache, task
    gate.answers[0].set_result("value")
    await ticks(10)
    gc.collect()

    assert None is watched()


def test_l3_a_cache_that_served_other_loops_is_collected():
    """Loops that were closed don't hold a cache, nor it them."""
    cache = AsyncCache(default_ttl=1_000, max_concurrent_loads=2)
    counted = Counted()
    loops: list[weakref.ref[Any]] = []

    async def main(cache: AsyncCache) -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await cache.get(len(loops), counted.load)
        await cache.get(-len(loops), batch_loader=counted.many)

    for _ in range(3):
        asyncio.run(within(main(cache)))
    gc.collect()
    # The newest may be held until another comes.
    assert [None, None] == [ref() for ref in loops[:2]]
    watched = weakref.ref(cache)

    del cache
    gc.collect()

    assert None is watched()


@pytest.mark.parametrize("limit", [None, 1])
async def test_l3_the_loop_holds_no_load_that_has_ended(limit: int | None):
    """However it was asked for, and whether there was anything to load or not."""
    cache = AsyncCache(max_concurrent_loads=limit)
    counted = Counted()
    loader: DataLoader[Any, Any] = DataLoader(counted.many, result_cache=cache)

    async def fail() -> Any:
        raise ZeroDivisionError

    await cache.get("a", counted.load)
    await cache.get(1, batch_loader=counted.many)
    await cache.get_many([2, 3], counted.many)
    await cache.refresh("a", counted.load)
    with pytest.raises(ZeroDivisionError):
        await cache.get("b", fail)
    # One batch that the cache has all values for, and one for which it has none.
    await asyncio.gather(loader.load(1), loader.load(2))
    await asyncio.gather(loader.load(8), loader.load(9))
    await ticks(3)

    local = cache._local()
    assert (set(), set()) == (local.pump.live, local.pump.tasks)
    assert ({}, {}, 0) == (local.flights, local.open, local.running)


async def test_l3_a_load_does_not_hold_what_it_has_waited_for():
    """One that gets many keys, one after the other, keeps alive a few of their values at most."""
    cache = AsyncCache(maxsize=0)
    watched: list[weakref.ref[Any]] = []

    async def part() -> Any:
        thing = Thing()
        watched.append(weakref.ref(thing))
        return thing

    async def whole() -> int:
        for number in range(200):
            await cache.get(number, part)
        gc.collect()
        return sum(ref() is not None for ref in watched)

    assert await cache.get("whole", whole) < 50


async def test_l3_a_cache_starts_no_thread():
    """Expiry needs no thread."""
    before = threading.active_count()
    cache = AsyncCache(default_ttl=1)
    for key in range(100):
        cache.set(key, key)

    assert before == threading.active_count()


@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
async def test_l3_values_that_are_gone_are_not_held(eviction: str):
    """Nothing holds a value that was deleted, replaced, removed by its tag or cleared."""
    cache = AsyncCache(eviction=eviction)
    things = [Thing() for _ in range(4)]
    watched = [weakref.ref(thing) for thing in things]
    for number, thing in enumerate(things):
        cache.set(number, thing, tags=[f"t{number}"])
    del thing
    things.clear()

    cache.delete(0)
    cache.set(1, "other")
    cache.invalidate_tag("t2")
    gc.collect()
    assert [None, None, None] == [ref() for ref in watched[:3]]
    cache.clear()
    gc.collect()

    assert None is watched[3]()


async def test_l3_a_value_is_not_held_by_its_load():
    """After a load the cache holds its value, and nothing else does."""
    cache = AsyncCache()

    async def load() -> Thing:
        return Thing()

    watched = weakref.ref(await within(cache.get("a", load)))
    await ticks(3)
    gc.collect()
    assert watched() is not None

    cache.delete("a")
    gc.collect()

    assert None is watched()


# No user code under a lock


class Finalised:
    """A value that touches its cache when it goes."""

    def __init__(self, cache: AsyncCache, key: Any) -> None:
        self.cache = cache
        self.key = key

    def __del__(self) -> None:
        self.cache.delete(("other", self.key))
        self.cache.peek(("other", self.key))
        self.cache.invalidate_tag("t")
        self.cache.set(("gone", self.key), 1)


@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
def test_l2_a_value_that_touches_its_cache_when_it_goes_hangs_nobody(eviction: str):
    """A value's `__del__` may call the cache, whatever it was that freed the value."""
    clock = ManualClock()
    cache = AsyncCache(maxsize=3, eviction=eviction, clock=clock)

    def work() -> None:
        for number in range(20):
            cache.set(number, Finalised(cache, number), ttl=10)  # evicts
        cache.set("a", Finalised(cache, "a"))
        cache.set("a", Finalised(cache, "a2"))  # replaces
        cache.delete("a")
        cache.set("b", Finalised(cache, "b"), tags=["x"])
        cache.invalidate_tag("x")
        cache.set("c", Finalised(cache, "c"), ttl=1)
        clock.advance(100)
        cache.peek("c")
        cache.set("d", Finalised(cache, "d"))
        cache.clear()

    Threads(work).join()

    assert len(cache) <= 3


def test_l2_functions_of_the_call_may_touch_the_cache():
    """TTL and tag functions run without a lock: they may call the cache."""
    cache = AsyncCache(name="users")

    def ttl(key: Any, value: Any) -> float:
        cache.set("from ttl", 1)
        cache.delete("absent")
        return 10

    def tags(key: Any, value: Any) -> list[str]:
        cache.set("from tags", 1)
        cache.invalidate_tag("absent")
        return ["t"]

    async def main() -> None:
        counted = Counted()
        cache.set("set", 1, ttl=ttl, tags=tags)
        await cache.get("got", counted.load, ttl=ttl, tags=tags)
        await cache.get_many([1, 2], counted.many, ttl=ttl, tags=tags)

    Threads(lambda: run(main)).join()

    assert [1, "value", 10, 20] == [cache.peek(key) for key in ("set", "got", 1, 2)]
    assert [1, 1] == [cache.peek(key) for key in ("from ttl", "from tags")]


# aclose


@pytest.mark.parametrize("way", ["loader", "batch_loader", "get_many", "open batch", "queued"])
async def test_aclose_settles_everybody(way: str):
    """Closing a cache cancels its loads and settles who waits for them."""
    cache = AsyncCache(
        name="users",
        max_concurrent_loads=1 if way == "queued" else None,
        batch_window=60 if way == "open batch" else 0.005,
    )
    gate = Gate()
    match way:
        case "loader" | "queued":
            gets: list[Any] = [cache.get("a", gate.load), cache.get("a", gate.load)]
        case "get_many":
            gets = [cache.get_many(["a"], gate.many), cache.get_many(["a", "b"], gate.many)]
        case _:
            gets = [cache.get("a", batch_loader=gate.many), cache.get("b", batch_loader=gate.many)]
    if way == "queued":
        gets.append(cache.get("b", gate.load))
    tasks = [asyncio.ensure_future(get) for get in gets]
    await (ticks(5) if way == "open batch" else gate.running())
    await ticks(3)

    await within(cache.aclose())

    await asyncio.wait(tasks, timeout=GUARD)
    for task in tasks:
        assert not task.cancelled()
        assert isinstance(task.exception(), (LoadCancelledError, LoaderClosedError))
        assert "users" in str(task.exception())
    await ticks(3)
    assert gate.cancelled == len(gate.answers)
    assert "a" not in cache


async def test_aclose_makes_everything_else_a_loader_closed_error():
    """After `aclose` nothing can be got, set, refreshed or warmed, not even what was there."""
    cache = AsyncCache(name="users")
    counted = Counted()
    cache.set("a", 1)
    await within(cache.aclose())

    for attempt in (
        lambda: cache.get("a"),
        lambda: cache.get("a", counted.load),
        lambda: cache.get("b", counted.load),
        lambda: cache.get("b", batch_loader=counted.many),
        lambda: cache.get_many(["a", "b"], counted.many),
        lambda: cache.set("a", 2),
        lambda: cache.refresh("a", counted.load),
        lambda: cache.warmup({"c": counted.load}),
    ):
        with pytest.raises(LoaderClosedError, match="users"):
            await within(attempt())
    assert 0 == counted.count


async def test_aclose_may_be_called_again():
    """Closing a closed cache does nothing, and two may close it at the same time."""
    cache = AsyncCache()
    gate = Gate()
    task = asyncio.ensure_future(cache.get("a", gate.load))
    await gate.running()

    await within(asyncio.gather(cache.aclose(), cache.aclose()))
    await within(cache.aclose())

    await asyncio.wait([task], timeout=GUARD)
    assert isinstance(task.exception(), (LoadCancelledError, LoaderClosedError))


def test_aclose_waits_for_running_loads_as_long_as_it_is_told():
    """`wait=` lets loads finish that do so in time, and cancels the rest then."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache()

        def loader(seconds: float) -> Any:
            async def load() -> str:
                await asyncio.sleep(seconds)
                return "value"

            return load

        short = asyncio.ensure_future(cache.get("short", loader(2)))
        long = asyncio.ensure_future(cache.get("long", loader(100)))
        await ticks(5)
        await cache.aclose(wait=5)
        assert 5.0 == pytest.approx(loop.time())
        assert "value" == await short
        with pytest.raises((LoadCancelledError, LoaderClosedError)):
            await long

    run_virtual(main)


def test_aclose_does_not_wait_if_it_is_not_told_to():
    """By default what runs is cancelled at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache()
        task = asyncio.ensure_future(cache.get("a", lambda: asyncio.sleep(60)))
        await ticks(5)
        await cache.aclose()
        assert 0.0 == loop.time()
        with pytest.raises(LoadCancelledError):
            await task

    run_virtual(main)


async def test_aclose_with_nothing_to_wait_for_does_not_wait():
    """A cache without loads closes, however long it may take."""
    await asyncio.wait_for(AsyncCache().aclose(wait=60), GUARD)


def test_aclose_waits_no_longer_than_the_last_load():
    """With nothing left to wait for, `aclose` returns at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cache = AsyncCache(default_ttl=60)

        async def load() -> str:
            await asyncio.sleep(2)
            return "value"

        task = asyncio.ensure_future(cache.get("a", load))
        await ticks(5)
        await cache.aclose(wait=60)
        assert 2.0 == pytest.approx(loop.time())
        assert "value" == await task

    run_virtual(main)


def test_aclose_is_not_held_up_by_a_stubborn_load():
    """A load that swallows its cancellation holds neither its callers nor `aclose` for long."""
    # reading: some seconds may be given to a cancelled load to end, but not for ever.

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        cache = AsyncCache()
        release = asyncio.Event()

        async def load() -> str:
            for _ in range(3):
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return "late"

        task = asyncio.ensure_future(cache.get("a", load))
        await ticks(5)
        await asyncio.wait_for(cache.aclose(), 60)
        assert loop.time() <= 5.0
        with pytest.raises((LoadCancelledError, LoaderClosedError)):
            await task
        release.set()
        await ticks(5)

    run_virtual(main)


async def test_aclose_inside_a_load_does_not_wait_for_itself():
    """A loader may close its own cache."""
    cache = AsyncCache()

    async def load() -> str:
        await cache.aclose()
        return "value"

    task = asyncio.ensure_future(cache.get("a", load))
    await asyncio.wait([task], timeout=GUARD)

    assert task.done()
    assert not task.cancelled()
    task.exception()


def test_aclose_leaves_no_timer():
    """A closed cache sweeps no more: an idle loop is idle."""

    async def main() -> None:
        cache = AsyncCache(default_ttl=1_000, clock=ManualClock())
        cache.set("a", 1)
        await cache.aclose()

    run_virtual(main)


def test_aclose_settles_those_who_wait_on_another_loop():
    """Closing a cache on one loop settles the callers of another, and hangs neither."""
    cache = AsyncCache()
    gate = Gate()
    found: list[Any] = []

    async def waits() -> None:
        tasks = [
            asyncio.ensure_future(cache.get("a", gate.load)),
            asyncio.ensure_future(cache.get("a", gate.load)),
        ]
        await asyncio.wait(tasks, timeout=GUARD)
        found.extend(task.exception() for task in tasks if task.done() and not task.cancelled())

    waiting = Threads(lambda: run(waits))
    end = time.monotonic() + GUARD
    while not gate.answers:
        assert time.monotonic() < end

    run(cache.aclose)
    waiting.join()

    assert 2 == len(found)
    assert all(isinstance(error, (LoadCancelledError, LoaderClosedError)) for error in found)


@pytest.mark.parametrize("wait", [-1, "5", float("nan")])
async def test_aclose_refuses_a_time_that_is_none(wait: Any):
    """A `wait` that is no number of seconds is an error, and closes nothing."""
    cache = AsyncCache(name="users")

    with pytest.raises((TypeError, ValueError), match="users"):
        await within(cache.aclose(wait=wait))

    await cache.set("a", 1)
    assert 1 == await cache.get("a")
