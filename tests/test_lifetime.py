"""How long things live: garbage collection in mid-flight, loops that close, and what is freed.

Nothing here may hang or warn: W3. And nothing may outlive its use: a loader is made per request,
so what one leaves behind for the garbage collector, or for ever, is paid for with every request.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from dataloader_cache import DataLoader
from dataloader_cache._pump import pump_of
from dataloader_cache.errors import DataLoaderCacheError, LoadCancelledError, LoopError
from dataloader_cache.testing import VirtualTimeLoop

try:
    import uvloop
except ImportError:
    uvloop = None

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever

NEW_LOOPS: list[Any] = [asyncio.new_event_loop, VirtualTimeLoop]
if uvloop is not None:
    NEW_LOOPS.append(uvloop.new_event_loop)

any_loop = pytest.mark.parametrize("new_loop", NEW_LOOPS, ids=lambda new_loop: new_loop.__module__)


class Value:
    """A value that can be watched while it goes away."""


class Watch:
    """Weak references, and how many of them still refer to something."""

    def __init__(self) -> None:
        self.references: list[weakref.ref[Any]] = []

    def add(self, thing: Any) -> Any:
        self.references.append(weakref.ref(thing))
        return thing

    def alive(self) -> list[Any]:
        return [reference() for reference in self.references if reference() is not None]


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Let reference counts alone free things."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def gc_all_the_time() -> Iterator[None]:
    """Let the garbage collector run after every few allocations."""
    thresholds = gc.get_threshold()
    gc.set_threshold(5, 1, 1)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


async def ticks(count: int) -> None:
    """Let `count` turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(awaitable: Any) -> Any:
    """Wait for `awaitable`, but not for ever."""
    return await asyncio.wait_for(awaitable, GUARD)


async def tenfold(keys: list[int]) -> list[int]:
    await asyncio.sleep(0)
    return [key * 10 for key in keys]


async def for_ever(keys: list[int]) -> list[int]:
    await asyncio.get_running_loop().create_future()
    return keys


def run_on(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Awaitable[Any]) -> Any:
    """Do what asyncio.run does, on a loop of a given kind."""
    loop = new_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


# Garbage collection in mid-flight


async def test_a_dropped_loader_still_answers_its_waiters():
    """The garbage collector takes no loader away from under an open or running batch."""

    async def load_fn(keys: list[int]) -> list[int]:
        gc.collect()
        await asyncio.sleep(0)
        gc.collect()
        return [key * 10 for key in keys]

    loader = DataLoader(load_fn)
    one, many = loader.load(1), loader.load_many([1, 2])
    del loader, load_fn
    gc.collect()
    await ticks(3)
    gc.collect()
    assert [10, [10, 20]] == [await within(one), await within(many)]


async def test_a_batch_that_nobody_holds_is_run_to_its_end():
    """What is loaded and dropped is loaded all the same, and freed after that."""
    asked: list[list[int]] = []
    watch = Watch()

    async def load_fn(keys: list[int]) -> list[Any]:
        asked.append(keys)
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0)
        return [watch.add(Value()) for _ in keys]

    loader = watch.add(DataLoader(load_fn))
    loader.load(1)
    loader.load_many([2, 3])
    del loader
    gc.collect()
    await ticks(30)
    assert [[1, 2, 3]] == asked
    assert 4 == len(watch.references)
    gc.collect()
    assert [] == watch.alive()


async def test_a_queueing_batch_that_nobody_holds_gets_its_turn():
    """A batch that waits for its limiter is held by nobody but the library."""
    asked: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        asked.append(list(keys))
        gc.collect()
        return await tenfold(keys)

    limiter = asyncio.Semaphore(1)
    await limiter.acquire()
    DataLoader(load_fn, limiter=limiter).load(1)
    DataLoader(load_fn, limiter=limiter, batch_window=0.0).load_many([2, 3])
    await ticks(30)
    gc.collect()
    assert [] == asked
    limiter.release()
    await ticks(60)
    gc.collect()
    assert [[1], [2, 3]] == sorted(asked)
    assert not limiter.locked()


@pytest.mark.loop_kinds("asyncio", "uvloop", "eager")
async def test_collecting_all_the_time_changes_nothing():
    """The garbage collector may run at any allocation."""
    inner = DataLoader(tenfold, max_concurrent_batches=1, max_batch_size=3)

    async def load_fn(keys: list[int]) -> Any:
        values = await inner.load_many(keys)
        return {key: value + 1 for key, value in zip(keys, values) if key != 5}

    with gc_all_the_time():
        outer = DataLoader(load_fn, missing="raise")
        waiters = [outer.load(key) for key in range(8)]
        waiters[2].cancel()
        found = await within(asyncio.gather(*waiters, return_exceptions=True))
    assert [1, 11, None, 31, 41, None, 61, 71] == [
        None if isinstance(value, BaseException) else value for value in found
    ]


# What is freed, and when


async def plain(loader: DataLoader[int, Any]) -> None:
    await loader.load(1)


async def gathered(loader: DataLoader[int, Any]) -> None:
    await asyncio.gather(*map(loader.load, range(5)))


async def many(loader: DataLoader[int, Any]) -> None:
    await loader.load_many([1, 2, 1, 3])


async def many_twice(loader: DataLoader[int, Any]) -> None:
    await asyncio.gather(loader.load_many([1, 2]), loader.load_many([2, 3]), loader.load(2))


async def hit(loader: DataLoader[int, Any]) -> None:
    await loader.load_many([1, 2])
    await asyncio.gather(loader.load(1), loader.load(3), loader.load_many([1, 2]))
    await loader.load(2)


async def joined(loader: DataLoader[int, Any]) -> None:
    await asyncio.gather(loader.load(1), loader.load(1), loader.load(2))


async def primed(loader: DataLoader[int, Any]) -> None:
    waiters = [loader.load(1), loader.load_many([1, 2])]
    loader.prime(1, Value())
    await asyncio.gather(*waiters)


async def cleared(loader: DataLoader[int, Any]) -> None:
    waiter = loader.load(1)
    loader.clear(1)
    await asyncio.gather(waiter, loader.load(1))
    loader.clear_all()
    await loader.load(1)


async def left(loader: DataLoader[int, Any]) -> None:
    waiters = [loader.load(1), loader.load(2), loader.load(2)]
    waiters[0].cancel()
    await waiters[2]


async def deserted(loader: DataLoader[int, Any]) -> None:
    waiters: list[Any] = [loader.load(1), loader.load_many([2, 3])]
    await ticks(12)
    for waiter in waiters:
        waiter.cancel()
    await ticks(3)


async def closed(loader: DataLoader[int, Any]) -> None:
    waiter = loader.load(1)
    await loader.aclose()
    assert isinstance(waiter.exception(), LoadCancelledError)


USES = [
    plain, gathered, many, many_twice, hit, joined, primed, cleared, left, deserted, closed,
]  # fmt: skip

OPTIONS: list[dict[str, Any]] = [
    {},
    {"cache": False},
    {"max_batch_size": 1},
    {"max_concurrent_batches": 1},
    {"load_timeout": 100.0},
    {"batch_window": 0.0, "cache_key_fn": str},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "default")
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
@pytest.mark.loop_kinds("asyncio", "uvloop", "eager")
async def test_a_loader_and_its_values_are_freed_without_the_garbage_collector(
    use: Callable[[Any], Awaitable[None]], options: dict[str, Any]
):
    """When a request is over, its loader and its values are gone at once."""
    watch = Watch()

    async def load_fn(keys: list[int]) -> list[Any]:
        await asyncio.sleep(0)
        return [watch.add(Value()) for _ in keys]

    with without_gc():
        loader = watch.add(DataLoader(load_fn, **options))
        await within(use(loader))
        del loader
        await ticks(5)
        assert [] == watch.alive()


async def fail(watch: Watch, keys: list[int]) -> Any:
    big = watch.add(Value())
    await asyncio.sleep(0)
    raise ValueError(len(keys), big is None)


async def fail_by_key(watch: Watch, keys: list[int]) -> Any:
    watch.add(keys_of := Value())
    return [ValueError(keys_of is None) for _ in keys]


async def fail_by_shape(watch: Watch, keys: list[int]) -> Any:
    return watch.add(Value())


@pytest.mark.parametrize("how", [fail, fail_by_key, fail_by_shape], ids=lambda how: how.__name__)
@pytest.mark.parametrize("is_many", [False, True], ids=["load", "load_many"])
@pytest.mark.loop_kinds("asyncio", "uvloop", "eager")
async def test_what_a_failed_batch_function_held_is_freed_without_the_garbage_collector(
    how: Callable[[Watch, list[int]], Any], is_many: bool
):
    """An error's traceback holds the function's variables, so nothing may keep the error."""
    watch = Watch()

    async def load_fn(keys: list[int]) -> Any:
        return await how(watch, keys)

    async def use(loader: DataLoader[int, Any]) -> None:
        with contextlib.suppress(ValueError, DataLoaderCacheError):
            await (loader.load_many([1, 2]) if is_many else loader.load(1))

    with without_gc():
        loader = DataLoader(load_fn)
        await within(use(loader))
        await ticks(5)
        assert 1 == len(watch.references)
        assert [] == watch.alive()


@pytest.mark.loop_kinds("asyncio", "uvloop", "eager")
async def test_a_finished_batch_frees_its_keys():
    """With a cache_key_fn the memo goes by the cache keys, and the keys are let go."""
    watch = Watch()
    loader: DataLoader[Any, Any] = DataLoader(tenfold_of_any, cache_key_fn=lambda key: 1)
    with without_gc():
        await within(loader.load(watch.add(Value())))
        await ticks(5)
        assert [] == watch.alive()
    assert 10 == await loader.load(Value())


async def tenfold_of_any(keys: list[Any]) -> list[int]:
    return [10 for _ in keys]


@pytest.mark.loop_kinds("asyncio", "uvloop", "eager")
async def test_a_cleared_value_is_freed_though_its_neighbours_stay():
    """Values of one batch are remembered together, and forgotten one by one."""
    watch = Watch()

    async def load_fn(keys: list[int]) -> list[Any]:
        return [watch.add(Value()) for _ in keys]

    with without_gc():
        loader = DataLoader(load_fn)
        await within(loader.load_many([1, 2, 3]))
        await ticks(3)
        assert 3 == len(watch.alive())
        loader.clear(1)
        assert 2 == len(watch.alive())
        loader.clear_many([2, 3])
        assert [] == watch.alive()


# What is not to be trusted


class Moody:
    """A key whose __hash__ raises after it has been called a number of times."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def __hash__(self) -> int:
        self.patience -= 1
        if self.patience < 0:
            raise ZeroDivisionError
        return 7


class Shy:
    """A value that raises when it is asked what it is, as proxies do that stand for nothing."""

    is_shy = True  # pytest asks as well, when a test fails

    @property
    def __class__(self) -> Any:
        if Shy.is_shy:
            raise ZeroDivisionError
        return Shy


async def use_with_a_moody_key(kind: str, key: Any, loader: DataLoader[Any, Any]) -> list[Any]:
    waiters: list[Any] = []
    with contextlib.suppress(ZeroDivisionError):
        if kind == "leave":
            waiters.append(loader.load(key))
            waiters[0].cancel()
            waiters.append(loader.load(2))
        elif kind == "join":
            waiters.append(loader.load(2))
            waiters.append(loader.load(key))
            waiters.append(loader.load(key))
        elif kind == "many":
            waiters.append(loader.load(2))
            waiters.append(loader.load_many([key, 3]))
        elif kind == "clear":
            waiters.append(loader.load(key))
            waiters.append(loader.load(2))
            loader.clear(2)
            await ticks(12)
            loader.clear_all()
    return waiters


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
@pytest.mark.parametrize("kind", ["leave", "join", "many", "clear"])
@pytest.mark.loop_kinds("asyncio", "uvloop", "eager")
async def test_a_key_that_raises_when_it_is_hashed_hangs_nobody(kind: str, fails: bool):
    """Whenever a key begins to raise, its neighbours are settled, and the loader works on."""
    # A load() that raised has given nobody a future that its error could be taken from.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    for patience in range(1, 20):

        async def load_fn(keys: list[Any]) -> list[Any]:
            await asyncio.sleep(0)
            if fails and any(isinstance(key, Moody) for key in keys):
                raise ValueError
            return list(keys)

        key = Moody(patience)
        loader: DataLoader[Any, Any] = DataLoader(load_fn, cache_errors=True)
        waiters = await use_with_a_moody_key(kind, key, loader)
        if waiters:
            _, pending = await asyncio.wait(waiters, timeout=GUARD)
            assert set() == pending
            for waiter in waiters:
                if not waiter.cancelled():
                    waiter.exception()
        await ticks(20)
        assert set() == pump_of(asyncio.get_running_loop()).live
        key.patience = 10**6
        assert loader.peek(key, None) in (key, None)
        for _ in range(2):
            with contextlib.suppress(ValueError):
                assert [key, 2] == await within(loader.load_many([key, 2]))
        if not fails:
            assert key is await within(loader.load(key))
        assert 2 == await within(loader.clear_all().load(2))


@pytest.mark.parametrize("beside", [None, ValueError("of a key")], ids=["alone", "with an error"])
async def test_a_value_that_raises_when_it_is_looked_at_is_a_value(beside: Any):
    """What a value says that it is plays no part."""
    value = Shy()

    async def load_fn(keys: list[int]) -> list[Any]:
        return [value if key < 9 else beside for key in keys]

    Shy.is_shy = True
    try:
        loader = DataLoader(load_fn)
        waiters: list[Any] = [loader.load(1), loader.load(2), loader.load(1)]
        waiters += [loader.load_many([1, 2]), loader.load(9)]
        _, pending = await asyncio.wait(waiters, timeout=GUARD)
        hits = [await loader.load(1), loader.peek(2), loader.prime(5, value).peek(5)]
    finally:
        Shy.is_shy = False
    assert set() == pending
    *found, of_nine = [waiter.exception() or waiter.result() for waiter in waiters]
    assert [value, value, value, [value, value], beside] == [*found, of_nine]
    assert [value] * 3 == hits


def test_a_loop_that_takes_no_task_hangs_nobody():
    """Where the batch can't be started, its waiters get the reason, and the next batch starts."""
    refusals = [RuntimeError("no more tasks"), RuntimeError("none at all")]

    class FullLoop(VirtualTimeLoop):
        def create_task(self, coro: Any, **options: Any) -> Any:
            if options.get("name", "").startswith("batch of") and refusals:
                raise refusals.pop()
            return super().create_task(coro, **options)

    async def main() -> None:
        loader = DataLoader(tenfold)
        for text in ("none at all", "no more tasks"):
            waiters: list[Any] = [loader.load(1), loader.load_many([1, 2])]
            found = await within(asyncio.gather(*waiters, return_exceptions=True))
            assert [text, text] == [str(error) for error in found]
        assert [10, 20] == await within(loader.load_many([1, 2]))
        assert set() == pump_of(asyncio.get_running_loop()).live

    run_on(FullLoop, main())


def test_a_task_factory_that_refuses_hangs_nobody():
    """A task factory's error goes to the waiters of the batch."""
    refusals: list[Exception] = []

    def make_task(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
        if refusals:
            raise refusals.pop()
        return asyncio.Task(coro, loop=loop, **options)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(make_task)
        loader = DataLoader(tenfold)
        refusals.append(RuntimeError("no more tasks"))
        waiters: list[Any] = [loader.load(1), loader.load_many([1, 2])]
        _, pending = await asyncio.wait(waiters, timeout=GUARD)
        assert set() == pending
        assert ["no more tasks"] * 2 == [str(waiter.exception()) for waiter in waiters]
        assert [10, 20] == await loader.load_many([1, 2])

    run_on(VirtualTimeLoop, main())


class ErrorList(ValueError):
    """An error that is false where it is empty."""

    def __len__(self) -> int:
        return 0


async def test_an_error_may_be_false():
    """An error is told from a value by its type, not by its truth."""

    async def load_fn(keys: list[int]) -> list[Any]:
        return [ErrorList() for _ in keys]

    loader = DataLoader(load_fn, cache_errors=True)
    for _ in range(3):
        with pytest.raises(ErrorList):
            await loader.load(1)
    assert "absent" == loader.peek(1, "absent")
    [error] = await loader.load_many([1], return_exceptions=True)
    assert isinstance(error, ErrorList)
    waiting = loader.load(2)
    held_back = loader.load(1)
    for waiter in (waiting, held_back):
        with pytest.raises(ErrorList):
            await within(waiter)


# What does not grow


async def one_request(number: int, limiter: asyncio.Semaphore) -> None:
    async def load_fn(keys: list[int]) -> list[Any]:
        if number % 5 == 0:
            raise ValueError(number)
        return [ValueError(key) if key == 3 else key for key in keys]

    async def outer_fn(keys: list[int]) -> list[Any]:
        return await inner.load_many(keys, return_exceptions=True)

    inner = DataLoader(load_fn, limiter=limiter, load_timeout=1000.0)
    outer = DataLoader(outer_fn, limiter=limiter)
    waiters: list[Any] = [outer.load(1), outer.load(2), outer.load_many([2, 3]), inner.load(4)]
    waiters[number % 4].cancel()
    await asyncio.wait(waiters)
    for waiter in waiters:
        if not waiter.cancelled():
            waiter.exception()
    inner.prime(7, number).clear(7)


@any_loop
def test_ten_thousand_requests_leave_nothing_behind(new_loop: Any):
    """The process is as large after 10,000 requests as before."""

    async def main() -> None:
        limiter = asyncio.Semaphore(2)
        await asyncio.gather(*(one_request(number, limiter) for number in range(500)))
        sizes: list[int] = []
        for start in range(0, 10_000, 20):
            requests = (one_request(number, limiter) for number in range(start, start + 20))
            await asyncio.gather(*requests)
            if start in (2000, 9980):
                await ticks(10)
                gc.collect()
                sizes.append(len(gc.get_objects()))
        # Not one object for ten requests.
        assert sizes[1] - sizes[0] < 800
        pump = pump_of(asyncio.get_running_loop())
        assert set() == pump.live
        assert set() == pump.tasks
        assert 2 == limiter._value

    run_on(new_loop, main())


@pytest.mark.loop_kinds("asyncio")
async def test_a_loader_that_is_cleared_does_not_grow():
    """A loader that lives long and is cleared keeps nothing of what it loaded."""
    loader = DataLoader(tenfold, cache_errors=True)
    sizes: list[int] = []
    for _ in range(3):
        for number in range(300):
            await loader.load_many(range(number, number + 5))
            loader.prime(-1, number, force=True)
            loader.clear_many([number, number + 1])
            loader.clear_all()
        gc.collect()
        sizes.append(len(gc.get_objects()))
    assert abs(sizes[2] - sizes[1]) < 50


@pytest.mark.loop_kinds("asyncio")
async def test_a_batch_function_that_loads_for_long_does_not_grow():
    """The edges of loads that are over are let go while the function still runs."""
    sizes: list[int] = []
    inner = DataLoader(tenfold, cache=False)

    async def load_fn(keys: list[int]) -> list[int]:
        for number in range(601):
            await inner.load(number)
            if number % 300 == 0:
                gc.collect()
                sizes.append(len(gc.get_objects()))
        return keys

    assert 1 == await within(DataLoader(load_fn).load(1))
    assert sizes[2] - sizes[1] < 200


# Loops that end


@any_loop
@pytest.mark.parametrize("when", ["open", "in a window", "running", "queueing"])
def test_a_loop_that_ends_in_mid_flight_settles_every_waiter(new_loop: Any, when: str):
    """Whoever still waits when the loop shuts down gets LoadCancelledError."""
    waiters: list[Any] = []

    async def main() -> None:
        options: dict[str, Any] = {}
        if when == "in a window":
            options["batch_window"] = 1000.0
        elif when == "queueing":
            options["limiter"] = asyncio.Semaphore(0)
        loader = DataLoader(for_ever, **options)
        waiters.extend([loader.load(1), loader.load(1), loader.load_many([1, 2])])
        await ticks(0 if when == "open" else 20)

    run_on(new_loop, main())
    assert [LoadCancelledError] * 3 == [type(waiter.exception()) for waiter in waiters]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@any_loop
@pytest.mark.parametrize("when", ["open", "in a window", "running", "queueing"])
def test_a_loop_that_is_just_closed_is_cleaned_up_after_by_the_next(new_loop: Any, when: str):
    """What a loop that is closed without a shutdown leaves, the next loop's first load ends."""
    waiters: list[Any] = []
    watch = Watch()

    def leave_a_loop_behind() -> None:
        async def main() -> None:
            options: dict[str, Any] = {}
            if when == "in a window":
                options["batch_window"] = 1000.0
            elif when == "queueing":
                options["limiter"] = asyncio.Semaphore(0)
            loader = watch.add(DataLoader(for_ever, **options))
            waiters.extend([loader.load(1), loader.load_many([1, 2])])
            await ticks(0 if when == "open" else 20)

        loop = watch.add(new_loop())
        loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"
        loop.run_until_complete(main())
        loop.close()

    leave_a_loop_behind()
    gc.collect()
    assert [False, False] == [waiter.done() for waiter in waiters]
    assert 10 == run_on(new_loop, load_one())
    assert [LoadCancelledError] * 2 == [type(waiter.exception()) for waiter in waiters]
    waiters.clear()
    for _ in range(3):
        gc.collect()
    assert [] == watch.alive()


async def load_one() -> int:
    return await DataLoader(tenfold).load(1)


@any_loop
def test_a_hundred_loops_one_after_the_other_leave_no_pump_behind(new_loop: Any):
    """A pump lives no longer than its loop."""
    from dataloader_cache._pump import _pumps

    gc.collect()
    run_on(new_loop, load_one())
    gc.collect()
    before = len(_pumps)
    for _ in range(100):
        assert 10 == run_on(new_loop, load_one())
    gc.collect()
    assert len(_pumps) <= before + 1


@any_loop
def test_a_loader_of_a_loop_that_has_ended_says_so(new_loop: Any):
    """A loader that outlives its loop raises LoopError, also for what it knows."""
    loader = DataLoader(tenfold)

    async def load(key: int) -> int:
        return await within(loader.load(key))

    assert 10 == run_on(new_loop, load(1))
    with pytest.raises(LoopError):
        run_on(new_loop, load(2))
    with pytest.raises(LoopError):
        loader.load(1)
    assert 10 == loader.peek(1)
    run_on(new_loop, loader.aclose())


@any_loop
def test_a_load_in_the_last_moments_of_a_loop_is_answered(new_loop: Any):
    """An asynchronous generator that is closed at shutdown may still load in its clean-up."""
    found: list[Any] = []

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            try:
                found.append(await DataLoader(tenfold).load(1))
            except LoadCancelledError as error:
                found.append(error)

    async def main() -> None:
        generators.append(numbers())
        assert 1 == await generators[0].__anext__()
        assert 20 == await DataLoader(tenfold).load(2)

    generators: list[Any] = []
    run_on(new_loop, main())
    assert 1 == len(found)
    assert [10] == found or isinstance(found[0], LoadCancelledError)


@any_loop
def test_each_thread_has_a_loop_of_its_own(new_loop: Any):
    """Loops in several threads share nothing and disturb nobody."""
    found: dict[int, Any] = {}
    barrier = threading.Barrier(6)

    async def main(number: int) -> list[Any]:
        limiter = asyncio.Semaphore(1)
        values: list[Any] = []
        for start in range(0, 200, 10):
            loader = DataLoader(tenfold, limiter=limiter, max_batch_size=4)
            keys = range(number * 1000 + start, number * 1000 + start + 10)
            values += await asyncio.gather(*map(loader.load, keys))
        return values

    def run(number: int) -> None:
        barrier.wait()
        for _ in range(3):
            found[number] = run_on(new_loop, main(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(GUARD * 3)
    finally:
        sys.setswitchinterval(interval)
    expected = {n: [key * 10 for key in range(n * 1000, n * 1000 + 200)] for n in range(6)}
    assert expected == found
