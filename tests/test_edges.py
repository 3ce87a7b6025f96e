"""Corners that the tests of the rules pass by: reprs, strange keys and arguments, factories."""

from __future__ import annotations

import asyncio
import collections
import gc
import selectors
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NoReturn

import pytest

from dataloader_cache import AsyncCache, AsyncLRU, DataLoader, testing
from dataloader_cache._flight import Node, find_chain
from dataloader_cache._pump import QUIET_TICKS
from dataloader_cache.errors import ConfigurationError, LoadCancelledError, LoaderClosedError


async def echo(keys: list[Any]) -> list[Any]:
    return keys


class Quarrelsome:
    """A key that is equal to nothing, and raises TypeError when it is asked."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise TypeError("not comparable")


class Numbers(list[int]):
    """A list of another type."""


# An __eq__ alone makes a class unhashable, which is the point here.
class Point:  # noqa: PLW1641
    """Compared by value, and so not hashable."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.x == other.x


class Unstable(Point):
    """Says that it can be hashed, and can't."""

    def __hash__(self) -> int:
        raise TypeError("not now")


def test_a_loader_shows_its_name():
    """The repr of a loader names it."""
    assert "<DataLoader 'users'>" == repr(DataLoader(echo, name="users"))


def test_a_cache_shows_its_name_and_size():
    """The repr of a cache names it and counts its entries."""
    cache = AsyncCache(name="users")
    cache.set(1, 1)
    assert "<AsyncCache 'users' of 1 entries>" == repr(cache)


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_type_error_of_a_keys_own_is_not_renamed(is_open: bool):
    """A TypeError out of `__eq__` is no complaint about hashing."""
    loader: DataLoader[Any, Any] = DataLoader(echo)
    await loader.load(1)
    other = loader.load(2) if is_open else None

    with pytest.raises(TypeError, match="not comparable"):
        await loader.load(Quarrelsome())
    with pytest.raises(TypeError, match="not comparable"):
        await loader.load_many([1, Quarrelsome()])
    if other is not None:
        assert 2 == await other


async def test_a_type_error_of_a_keys_own_passes_through_a_cache():
    """A cache does not rename it either."""
    cache = AsyncCache()
    cache.set(1, 1)
    with pytest.raises(TypeError, match="not comparable"):
        await cache.get(Quarrelsome())


@pytest.mark.parametrize(
    ("first", "equal", "other"),
    [
        (bytearray(b"a"), bytearray(b"a"), bytearray(b"b")),
        (Numbers([1]), Numbers([1]), [1]),
        (Numbers([1]), Numbers([1]), Numbers([2])),
        (collections.Counter("a"), collections.Counter("a"), collections.Counter("b")),
        (Point(1), Point(1), Point(2)),
        (Unstable(1), Unstable(1), Point(1)),
    ],
    ids=["bytearray", "subclass", "items of a subclass", "counter", "equality", "unstable"],
)
async def test_arguments_are_compared_by_type_and_value(first: Any, equal: Any, other: Any):
    """Equal arguments of one type are one call, others are not."""
    calls: list[Any] = []

    @AsyncLRU()
    async def work(argument: Any) -> int:
        calls.append(argument)
        return len(calls)

    assert [1, 1, 2] == [await work(first), await work(equal), await work(other)]


def test_what_keeps_its_state_elsewhere_has_no_fields():
    """The kinds of key parts say what they are, for who looks into a cache."""
    from dataloader_cache._keys import freeze

    assert "(list, 1)" == repr(freeze([1]))


def test_more_arguments_can_not_be_left_out_than_there_are():
    """`skip_args` beyond the parameters is refused at decoration."""

    async def work(one: int) -> int:
        return one

    with pytest.raises(ConfigurationError, match="skip_args=2"):
        AsyncLRU(skip_args=2)(work)


@pytest.mark.parametrize("arguments", [{"ttl_jitter": 1.0}, {"refresh_ahead": 1.5}])
def test_a_share_of_one_or_more_is_refused(arguments: dict[str, Any]):
    """A TTL can't be spread by all of itself, nor refreshed after its end."""
    with pytest.raises(ConfigurationError, match="must be < 1"):
        AsyncCache(**arguments)


def test_a_recorder_can_start_over():
    """`clear` forgets the batches recorded so far."""

    async def main() -> list[Any]:
        with testing.BatchRecorder() as recorder:
            await DataLoader(echo).load(1)
            recorder.clear()
            await DataLoader(echo).load(2)
            return recorder.plan

    assert [("echo", [2])] == testing.run_virtual(main)


def test_a_clock_does_not_go_back():
    """A manual clock refuses to be moved back."""
    with pytest.raises(ValueError, match="-1"):
        testing.ManualClock().advance(-1)


def test_waiting_for_nothing_is_an_error_in_virtual_time(monkeypatch: pytest.MonkeyPatch):
    """A virtual-time loop with nothing to run raises instead of hanging."""
    monkeypatch.setattr(testing, "_PATIENCE", 0.0)

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="never comes"):
        testing.run_virtual(main)


@pytest.mark.loop_kinds("asyncio")
async def test_a_task_factory_that_raises_hangs_nobody():
    """The error of a task factory reaches those who wait for the task."""
    loop = asyncio.get_running_loop()
    users: DataLoader[int, int] = DataLoader(echo)
    cache = AsyncCache()

    def refuse(loop: Any, coroutine: Any, **_: Any) -> Any:
        if "_run" in coroutine.__qualname__:
            raise MemoryError("no room for a task")
        return asyncio.Task(coroutine, loop=loop)

    async def load() -> int:
        return 1

    loop.set_task_factory(refuse)
    try:
        with pytest.raises(MemoryError):
            await users.load(1)
        with pytest.raises(MemoryError):
            await cache.get("a", load)
    finally:
        loop.set_task_factory(None)


# What interrupts, refuses or leaves at the worst time


async def ticks(count: int) -> None:
    """Let `count` turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


def nothing() -> None:
    pass


class Touchy:
    """A key that does something, once, when it is hashed after some `patience`."""

    def __init__(self) -> None:
        self.when_hashed: Callable[[], object] = nothing
        self.patience = 0

    def __hash__(self) -> int:
        self.patience -= 1
        if self.patience < 0:
            act, self.when_hashed = self.when_hashed, nothing
            act()
        return 1


def raising(error: BaseException) -> Callable[[], NoReturn]:
    """Make a function that raises `error`."""

    def function() -> NoReturn:
        raise error

    return function


def recording(plan: list[list[Any]], **options: Any) -> DataLoader[Any, Any]:
    """Make a loader that adds each batch to `plan` and answers a key with itself."""

    async def load_fn(keys: list[Any]) -> list[Any]:
        plan.append(list(keys))
        return keys

    return DataLoader(load_fn, **options)


class Interrupted:
    """Run steps on a loop that an interrupt may leave, as a program does that goes on after it."""

    def __init__(self) -> None:
        self.loop = testing.VirtualTimeLoop()

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        """Give what the step returned, or the kind of interrupt that came out of the loop."""
        try:
            return self.loop.run_until_complete(step)
        except (KeyboardInterrupt, SystemExit) as error:
            return type(error)

    def __enter__(self) -> Interrupted:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_a_batch_leaves_comes_once_and_hangs_nobody(kind: type[BaseException]):
    """It goes to who runs the loop; the waiters get a `LoadCancelledError`, others their values."""
    plan: list[list[Any]] = []
    struck, other = recording([], name="users"), recording(plan)
    key = Touchy()
    waiters: list[asyncio.Future[Any]] = []

    async def begin() -> None:
        waiters.extend([struck.load(key), struck.load(2), other.load(3)])
        # A key whose caller has gone is looked up when the batch leaves.
        waiters[0].cancel()
        key.when_hashed = raising(kind())
        await ticks(40)

    async def go_on() -> list[Any]:
        with pytest.raises(LoadCancelledError, match=f"{kind.__name__} ended .* 'users'"):
            await waiters[1]
        return [await waiters[2], await struck.load(4)]

    with Interrupted() as program:
        assert kind is program.run(begin())
        assert [3, 4] == program.run(go_on())
    assert [[3]] == plan


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_a_task_is_made_comes_once_and_hangs_nobody(kind: type[BaseException]):
    """A task factory that is interrupted leaves waiters settled and the loader usable."""
    loader = recording([], name="users")
    waiters: list[asyncio.Future[Any]] = []
    interrupts: list[BaseException] = []

    def factory(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        if interrupts:
            raise interrupts.pop()
        return asyncio.Task(coroutine, loop=loop, **options)

    async def begin() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        waiters.extend([loader.load(1), loader.load(1)])
        interrupts.append(kind())
        await ticks(40)

    async def go_on() -> Any:
        for waiter in waiters:
            with pytest.raises(LoadCancelledError, match=f"{kind.__name__} ended .* 'users'"):
                await waiter
        return await loader.load(1)

    with Interrupted() as program:
        assert kind is program.run(begin())
        assert 1 == program.run(go_on())


@pytest.mark.parametrize("patience", [0, 1])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_waiters_are_settled_comes_once_and_hangs_nobody(
    kind: type[BaseException], patience: int
):
    """Whoever had no value yet gets a `LoadCancelledError`."""
    key = Touchy()

    async def load_fn(keys: list[Any]) -> list[Any]:
        # The first time when results are put in order, the second when waiters get them.
        key.patience = patience
        key.when_hashed = raising(kind())
        return keys

    loader = DataLoader(load_fn, name="users")
    waiters: list[asyncio.Future[Any]] = []

    async def begin() -> None:
        # Two callers of one key: the values are looked up by key.
        waiters.extend([loader.load(key), loader.load(2), loader.load(2), loader.load(3)])
        await ticks(40)

    async def go_on() -> list[Any]:
        return await asyncio.gather(*waiters, return_exceptions=True)

    with Interrupted() as program:
        assert kind is program.run(begin())
        found = program.run(go_on())
    assert [LoadCancelledError] * 4 == [type(error) for error in found]
    assert {f"{kind.__name__} ended the load of loader 'users'"} == set(map(str, found))


# Batches that leave at odd times


async def test_a_batch_that_leaves_while_another_does_is_sent_once():
    """What a key does when it is looked up may send a batch that leaves in the same tick."""
    plan: list[list[Any]] = []
    loader, other = recording([]), recording(plan)
    key = Touchy()
    loader.load(key).cancel()
    waiters = [loader.load(2), other.load(3)]
    key.when_hashed = other.dispatch

    assert [2, 3] == await asyncio.gather(*waiters)
    await ticks(20)
    assert [[3]] == plan
    assert (1, 1) == (other.stats.batches, other.stats.loads)


async def test_a_load_that_failed_does_not_split_the_next_batch():
    """The batch that it left empty ends without a trace, while the next one gathers its keys."""
    plan: list[list[Any]] = []
    loader = recording(plan)
    key = Touchy()
    # The memo looks it up first, and then the batch takes it.
    key.patience, key.when_hashed = 1, raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        loader.load(key)
    await ticks(QUIET_TICKS - 2)
    first = loader.load_many([1])
    await ticks(4)
    second = loader.load(2)

    assert [[1], 2] == [await first, await second]
    assert [[1, 2]] == plan


def own_tasks(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop, **options)


def test_a_loader_closed_before_its_function_was_called_does_not_call_it():
    """Where a task factory puts the call off by a tick, closing in that tick is in time."""
    plan: list[list[Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(own_tasks)
        loader = recording(plan, max_batch_size=1)
        waiter = loader.load(1)
        await loader.aclose()
        with pytest.raises(LoadCancelledError):
            await waiter
        await ticks(5)

    testing.run_virtual(main)
    assert [] == plan


async def test_a_key_that_could_not_be_forgotten_is_asked_again():
    """A failed batch is not remembered, though a key kept it from tidying up."""
    key = Touchy()
    plan: list[list[Any]] = []

    async def load_fn(keys: list[Any]) -> list[Any]:
        plan.append(list(keys))
        if len(plan) == 1:
            # Looked up to settle its callers, and again to be forgotten.
            key.patience, key.when_hashed = 1, raising(ZeroDivisionError())
            raise ValueError("at first")
        return keys

    loader = DataLoader(load_fn)
    with pytest.raises(ValueError, match="at first"):
        await loader.load(key)

    assert key.when_hashed is nothing
    assert key is await loader.load(key)
    assert [[key], [key]] == plan


class Parting:
    """A value that loads something when it is freed, and notes how that went."""

    def __init__(self, loader: DataLoader[Any, Any], notes: list[Any]) -> None:
        self.loader = loader
        self.notes = notes

    def __del__(self) -> None:
        try:
            self.notes.append(self.loader.load(3))
        except LoaderClosedError as error:
            self.notes.append(str(error))


async def test_a_load_from_a_finalizer_of_a_closing_loader_is_refused():
    """Closing frees the values, and what they load then is not queued any more."""
    notes: list[Any] = []

    async def load_fn(keys: list[int]) -> list[Any]:
        return [Parting(loader, notes) for _ in keys]

    loader = DataLoader(load_fn, name="users")
    await loader.load(1)
    await ticks(1)
    waiter = loader.load(2)
    await loader.aclose()

    assert ["loader 'users' was closed; make a new one"] == notes
    with pytest.raises(LoadCancelledError):
        await waiter


@pytest.mark.parametrize("cache_key_fn", [None, str])
async def test_none_is_no_key_for_any_method(cache_key_fn: Any):
    """Loading, priming or forgetting None is refused before `cache_key_fn` sees it."""
    loader: DataLoader[Any, Any] = DataLoader(echo, cache_key_fn=cache_key_fn, name="users")
    refusal = "loader 'users' was given None as a key; leave it out"
    for use in (
        lambda: loader.load(None),
        lambda: loader.load_many([1, None]),
        lambda: loader.prime(None, 1),
        lambda: loader.prime_many({1: 1, None: 1}),
    ):
        with pytest.raises(TypeError) as caught:
            use()
        assert refusal == str(caught.value)
    assert 0 == loader.stats.loads
    assert loader.peek(1) is None


class OwnFuture(asyncio.Future[Any]):
    """The future of a loop that has its own kind."""


def test_a_loop_with_futures_of_its_own_kind_gives_those():
    """A caller gets the loop's kind of future, for a miss and for a hit, and loads work."""

    class OwnLoop(testing.VirtualTimeLoop):
        def create_future(self) -> asyncio.Future[Any]:
            return OwnFuture(loop=self)

    async def main() -> None:
        loader: DataLoader[int, int] = DataLoader(echo)
        for _ in range(3):
            waiters = [loader.load(1), loader.load(2)]
            assert [OwnFuture] * 2 == [type(waiter) for waiter in waiters]
            assert [1, 2] == [await waiter for waiter in waiters]
        assert (6, 4) == (loader.stats.loads, loader.stats.hits)

    loop = OwnLoop()
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def test_virtual_time_waits_for_other_threads(monkeypatch: pytest.MonkeyPatch):
    """A loop with nothing else to do takes what a thread brings, and no time has passed."""
    may_come = threading.Event()
    select = selectors.DefaultSelector.select

    def selecting(self: Any, timeout: float | None = None) -> Any:
        if timeout:
            may_come.set()
        return select(self, timeout)

    async def main() -> tuple[bool, float]:
        loop = asyncio.get_running_loop()
        came = await loop.run_in_executor(None, may_come.wait, 60.0)
        await loop.shutdown_default_executor()
        return came, loop.time()

    monkeypatch.setattr(selectors.DefaultSelector, "select", selecting)
    assert (True, 0.0) == testing.run_virtual(main)


# Slots


class Turnstile:
    """A limiter that lets one batch in at a time, and counts."""

    def __init__(self) -> None:
        self.semaphore = asyncio.Semaphore(1)
        self.entered = self.left = self.refusals = 0
        self.when_entered: Callable[[], object] = nothing

    async def __aenter__(self) -> None:
        while True:
            try:
                await self.semaphore.acquire()
                break
            except asyncio.CancelledError:
                # Stubborn: it does not give up its place in the queue.
                self.refusals += 1
        self.entered += 1
        await asyncio.sleep(0)
        self.when_entered()

    async def __aexit__(self, *_: object) -> None:
        self.semaphore.release()
        self.left += 1


async def test_a_slot_that_comes_as_its_batch_ends_is_given_back():
    """A caller that leaves just when its batch is let in takes no slot with it."""
    plan: list[list[Any]] = []
    turnstile = Turnstile()
    loader = recording(plan, limiter=turnstile)
    waiter = loader.load(1)
    turnstile.when_entered = waiter.cancel
    await ticks(30)
    turnstile.when_entered = nothing

    assert waiter.cancelled()
    assert ([], 1, 1) == (plan, turnstile.entered, turnstile.left)
    assert 2 == await loader.load(2)
    assert [[2]] == plan


async def test_a_limiter_that_does_not_stop_queueing_gets_its_slot_back_at_once():
    """What is let in for a batch that has gone calls nothing, and reports nothing."""
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    plan: list[list[Any]] = []
    turnstile = Turnstile()
    loader = recording(plan, limiter=turnstile)
    async with turnstile:
        waiter = loader.load(1)
        await ticks(30)
        waiter.cancel()
        await ticks(5)
        assert (1, 1) == (turnstile.refusals, turnstile.entered)

    assert 2 == await loader.load(2)
    await ticks(5)
    assert [[2]] == plan
    assert (3, 3) == (turnstile.entered, turnstile.left)
    assert [] == reports


async def test_joining_a_queued_batch_in_the_tick_of_its_cancellation_is_harmless():
    """The joiner is told that the load was cancelled, and the slots stay in order."""
    limiter = asyncio.Semaphore(1)
    inner = recording([], limiter=limiter, name="inner")
    started, go = asyncio.Event(), asyncio.Event()

    async def load_fn(keys: list[int]) -> list[int]:
        started.set()
        await go.wait()
        (task,) = [t for t in asyncio.all_tasks() if t.get_name() == "batch of inner"]
        task.cancel()
        return await inner.load_many(keys)

    outer = DataLoader(load_fn, limiter=limiter)
    first = outer.load(1)
    await started.wait()
    second = inner.load(1)
    await ticks(20)
    go.set()

    found = await asyncio.gather(first, second, return_exceptions=True)
    assert [LoadCancelledError] * 2 == [type(error) for error in found]
    assert 2 == await inner.load(2)
    await ticks(3)
    assert not limiter.locked()


class Counted(Node):
    """A node that counts how often its edges are followed."""

    __slots__ = ("visits",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.visits = 0

    def edges(self) -> Iterator[tuple[Node, object]]:
        self.visits += 1
        return super().edges()


@pytest.mark.parametrize("find", ["a chain", "a slot"])
@pytest.mark.loop_kinds("asyncio")
async def test_many_ways_to_one_load_are_followed_once(find: str):
    """Twenty diamonds in a row have a million ways through them, and 61 nodes."""
    waiter = asyncio.get_running_loop().create_future()
    top = here = Counted("top")
    nodes = [top]
    for _ in range(20):
        below = Counted("below")
        for name in ("left", "right"):
            side = Counted(name)
            here.add_edge(side, waiter, 1)
            side.add_edge(below, waiter, 1)
            nodes.append(side)
        nodes.append(below)
        here = below

    if find == "a chain":
        assert find_chain(top, Node("elsewhere"), 1) is None
    else:
        assert top.first_waited_for({}) is None
    assert [1] * 61 == [node.visits for node in nodes]


async def test_batches_that_leave_two_queues_at_once_leave_nobody_stuck():
    """Two holders that wait for each other's queue are let on behind what was cancelled there."""
    left, right = asyncio.Semaphore(1), asyncio.Semaphore(1)
    gone = [recording([], limiter=left), recording([], limiter=right)]
    behind_left, behind_right = recording([], limiter=left), recording([], limiter=right)
    go_left, go_right = asyncio.Event(), asyncio.Event()

    async def left_fn(keys: list[int]) -> list[int]:
        await go_left.wait()
        return await behind_right.load_many(keys)

    async def right_fn(keys: list[int]) -> list[int]:
        await go_right.wait()
        return await behind_left.load_many(keys)

    waiters = [
        DataLoader(left_fn, limiter=left).load(1),
        DataLoader(right_fn, limiter=right).load(1),
    ]
    await ticks(20)
    deserters = [loader.load(1) for loader in gone]
    await ticks(20)
    waiters.append(behind_right.load(1))
    await ticks(20)
    go_right.set()
    await ticks(20)
    # In one tick the first of both queues are cancelled, and then the circle of holders closes.
    for deserter in deserters:
        deserter.cancel()
    go_left.set()

    assert [1, 1, 1] == await asyncio.wait_for(asyncio.gather(*waiters), 20)
    await ticks(3)
    assert (False, False) == (left.locked(), right.locked())


async def test_a_task_that_outlives_its_batch_keeps_no_keys_alive():
    """What a batch function leaves running holds its place in the chain, not what was asked."""
    go = asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []

    async def load_fn(keys: list[Any]) -> list[int]:
        tasks.append(asyncio.create_task(go.wait()))
        return [1 for _ in keys]

    key = Touchy()
    watch = weakref.ref(key)
    assert 1 == await DataLoader(load_fn).load(key)
    del key
    await ticks(3)
    gc.collect()

    assert watch() is None
    go.set()
    assert [True] == await asyncio.gather(*tasks)
