"""A fresh scope for every event of an async iterator: `per_event`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from dataloader_cache import UNSET, LoaderScope, dataloader, per_event
from dataloader_cache.errors import LoadCancelledError, NoScopeError

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever

user_name: ContextVar[str] = ContextVar("user_name", default="nobody")


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
    assert all(future.done() for future in futures), "a waiter hangs"
    assert not any(future.cancelled() for future in futures), "a waiter was cancelled"
    return [future.exception() or future.result() for future in futures]


async def take(iterator: AsyncIterator[Any]) -> Any:
    """Take the next event; for a task of its own."""
    return await anext(iterator)


def tenfold(plan: list[list[Any]], **options: Any) -> Any:
    """Declare a loader that adds each batch to `plan` and answers a key with ten times itself."""

    async def users(keys: list[Any]) -> list[Any]:
        plan.append(list(keys))
        await asyncio.sleep(0)
        return [key * 10 for key in keys]

    return dataloader(**options)(users)


async def numbers(*values: int) -> AsyncIterator[int]:
    for value in values:
        await asyncio.sleep(0)
        yield value


class Broken(Exception):
    """What a source fails with."""


class Value:
    """A value that can be watched while it goes away."""


async def test_the_events_come_as_they_are():
    """The iterator gives the events of its source, in their order, and ends with it."""
    assert [1, 2, 3] == [event async for event in per_event(numbers(1, 2, 3))]
    assert [] == [event async for event in per_event(numbers())]


async def test_every_event_has_a_fresh_scope():
    """Each event is handled in a scope of its own, which is closed when the next one is taken."""
    scopes: list[LoaderScope] = []
    async for _ in per_event(numbers(1, 2, 3)):
        assert all(scope.is_closed for scope in scopes)
        scopes.append(LoaderScope.current())
        assert not scopes[-1].is_closed
    assert 3 == len(set(map(id, scopes)))
    assert all(scope.is_closed for scope in scopes)


async def test_the_last_scope_is_left_at_the_end():
    """Behind the last event the scope from before is the current one again."""
    async for _ in per_event(numbers(1)):
        pass
    assert LoaderScope.current(None) is None
    async with LoaderScope() as outer:
        async for _ in per_event(numbers(1)):
            assert outer is not LoaderScope.current()
        assert outer is LoaderScope.current()
        assert not outer.is_closed


async def test_every_event_is_read_fresh():
    """What one event has loaded the next one asks for again."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    async for _ in per_event(numbers(1, 2)):
        assert [10, 10] == [await users.load(7) // 7, await users.load(1)]
    assert [[7], [1], [7], [1]] == plan


async def test_the_source_makes_an_event_in_the_scope_of_the_event():
    """While the source makes an event, the event's scope is current for it too."""
    made_in: list[LoaderScope] = []

    async def events() -> AsyncIterator[int]:
        for number in range(3):
            made_in.append(LoaderScope.current())
            await asyncio.sleep(0)
            assert made_in[-1] is LoaderScope.current()
            yield number

    handled_in = [LoaderScope.current() async for _ in per_event(events())]
    assert handled_in == made_in


async def test_what_the_source_has_loaded_is_read_again_for_the_event():
    """The scope is reset when the event is there: what was read while waiting may be old."""
    plan: list[list[int]] = []
    users = tenfold(plan)

    async def events() -> AsyncIterator[int]:
        yield await users.load(1)
        yield await users.load(2)

    async for event in per_event(events()):
        assert users.peek(event // 10) is None
        assert event == await users.load(event // 10)
    assert [[1], [1], [2], [2]] == plan


async def test_the_source_reads_fresh_after_each_event():
    """What the consumer has loaded for one event the source asks for again for the next."""
    plan: list[list[int]] = []
    users = tenfold(plan)

    async def events() -> AsyncIterator[int]:
        for _ in range(2):
            yield await users.load(1)

    async for _ in per_event(events()):
        await users.load(1)
    assert [[1], [1], [1], [1]] == plan


async def test_the_context_and_the_limiter_are_those_of_the_scope_around():
    """Each event's scope has the context and limiter of the one in which `per_event` was called."""
    seen: list[Any] = []
    semaphore = asyncio.Semaphore(1)

    @dataloader
    async def users(keys: list[int], context: Any) -> list[int]:
        seen.append((context, semaphore.locked()))
        return keys

    async with LoaderScope(context="socket", limiter=semaphore):
        events = per_event(numbers(1, 2))
    async with LoaderScope(context="another"):
        async for event in events:
            assert "socket" == LoaderScope.current().context
            await users.load(event)
    assert [("socket", True)] * 2 == seen


async def test_no_scope_around_is_needed():
    """Without a scope around, an event's scope has no context and no limiter."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    async for event in per_event(numbers(1)):
        assert LoaderScope.current().context is UNSET
        assert 10 == await users.load(event)


async def test_a_context_may_be_set_for_one_event():
    """A context that is set for one event is not that of the next."""
    seen: list[Any] = []
    async with LoaderScope(context="socket"):
        async for event in per_event(numbers(1, 2)):
            seen.append(LoaderScope.current().context)
            LoaderScope.current().context = f"event {event}"
    assert ["socket", "socket"] == seen


async def test_each_event_may_be_taken_in_a_task_of_its_own():
    """In whatever task an event is taken, its scope is current there and for the source."""
    made_in: list[LoaderScope] = []
    plan: list[list[int]] = []
    users = tenfold(plan)

    async def events() -> AsyncIterator[int]:
        for number in (1, 2, 3):
            await users.load(0)
            made_in.append(LoaderScope.current())
            yield number

    async def handle(iterator: AsyncIterator[int]) -> tuple[int, LoaderScope]:
        event = await anext(iterator)
        assert event * 10 == await users.load(event)
        return event, LoaderScope.current()

    iterator = per_event(events())
    handled = [await asyncio.create_task(handle(iterator)) for _ in range(3)]
    assert [(number, scope) for number, scope in zip((1, 2, 3), made_in)] == handled
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)
    assert all(scope.is_closed for scope in made_in)
    assert LoaderScope.current(None) is None
    assert [[0], [1], [0], [2], [0], [3]] == plan


async def test_an_event_may_be_waited_for_with_a_timeout():
    """Who takes an event with `wait_for` handles it in its scope, and reads afresh each time."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    made_in: list[LoaderScope] = []

    async def events() -> AsyncIterator[int]:
        for number in (1, 2):
            made_in.append(LoaderScope.current())
            yield number

    async with LoaderScope() as outer:
        iterator = per_event(events())
        for _ in range(2):
            await asyncio.wait_for(anext(iterator), 20)
            assert made_in[-1] is LoaderScope.current()
            await users.load(7)
        await iterator.aclose()
        assert outer is LoaderScope.current()
    assert [[7], [7]] == plan


async def test_the_variables_of_the_consumer_reach_the_batches():
    """A batch for an event sees the context variables of where the event was taken."""
    seen: list[str] = []

    @dataloader
    async def users(keys: list[int]) -> list[int]:
        seen.append(user_name.get())
        return keys

    user_name.set("ann")
    async for event in per_event(numbers(1, 2)):
        await users.load(event)
    assert ["ann", "ann"] == seen


async def test_aclose_closes_the_source_and_the_scope():
    """Closing the iterator ends its source and closes the scope of the last event."""
    ended: list[Any] = []

    async def events() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    iterator = per_event(events())
    assert 1 == await anext(iterator)
    scope = LoaderScope.current()
    await within(iterator.aclose())
    assert [True] == ended
    assert scope.is_closed
    assert LoaderScope.current(None) is None
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)
    await within(iterator.aclose())


async def test_aclose_before_the_first_event_is_fine():
    """An iterator that was never asked for an event closes without a scope."""
    iterator = per_event(numbers(1))
    await within(iterator.aclose())
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)
    assert LoaderScope.current(None) is None


async def test_aclosing_leaves_a_loop_that_breaks():
    """A loop that breaks in the middle leaves no scope behind, with `aclosing` around it."""
    async with contextlib.aclosing(per_event(numbers(1, 2, 3))) as events:
        async for event in events:
            scope = LoaderScope.current()
            if event == 2:
                break
    assert scope.is_closed
    assert LoaderScope.current(None) is None


async def test_a_source_that_fails_closes_the_scope():
    """What the source raises comes out, and the scope from before is current again."""
    scopes: list[LoaderScope] = []

    async def events() -> AsyncIterator[int]:
        scopes.append(LoaderScope.current())
        yield 1
        scopes.append(LoaderScope.current())
        raise Broken

    iterator = per_event(events())
    assert 1 == await anext(iterator)
    with pytest.raises(Broken):
        await anext(iterator)
    assert [True, True] == [scope.is_closed for scope in scopes]
    assert LoaderScope.current(None) is None
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)


async def test_loads_that_an_event_leaves_behind_are_cancelled_with_the_next():
    """Taking the next event closes the scope of the last one, with what still runs in it."""
    running = asyncio.Event()
    cancelled: list[bool] = []

    @dataloader
    async def users(keys: list[int]) -> list[int]:
        running.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.append(True)
        return keys

    iterator = per_event(numbers(1, 2))
    await anext(iterator)
    waiting = users.load(1)
    await running.wait()
    await anext(iterator)
    assert [LoadCancelledError] == [type(error) for error in await outcomes(waiting)]
    await until(lambda: cancelled)
    await iterator.aclose()


async def test_a_task_of_an_event_does_not_load_in_the_next_one():
    """A task that outlives its event is told that its scope was closed."""
    users = tenfold([])
    go = asyncio.Event()

    async def late() -> int:
        await go.wait()
        return await users.load(1)

    iterator = per_event(numbers(1, 2))
    await anext(iterator)
    task = asyncio.create_task(late())
    await ticks(3)
    await anext(iterator)
    go.set()
    assert [NoScopeError] == [type(error) for error in await outcomes(task)]
    await iterator.aclose()


async def test_cancelling_who_waits_for_an_event_leaves_nothing_behind():
    """A consumer that is cancelled while the source works ends the source and its loads."""
    scopes: list[LoaderScope] = []
    ended: list[type] = []

    @dataloader
    async def users(keys: list[int]) -> list[int]:
        await asyncio.get_running_loop().create_future()
        return keys

    async def events() -> AsyncIterator[int]:
        scopes.append(LoaderScope.current())
        try:
            yield await users.load(1)
        except BaseException as error:
            ended.append(type(error))
            raise

    before = asyncio.all_tasks()
    iterator = per_event(events())
    task = asyncio.create_task(take(iterator))
    await ticks(30)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert [asyncio.CancelledError] == ended
    await within(iterator.aclose())
    await ticks(5)
    assert scopes[0].is_closed
    assert before == asyncio.all_tasks()


async def test_any_async_iterator_can_be_the_source():
    """The source need be no generator: an object with `__anext__` will do, and one to iterate."""

    class Source:
        def __init__(self) -> None:
            self.left = [1, 2]

        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            assert LoaderScope.current(None) is not None
            return self.left.pop(0)

    class Channel:
        def __aiter__(self) -> Source:
            return Source()

    assert [1, 2] == [event async for event in per_event(Source())]
    assert [1, 2] == [event async for event in per_event(Channel())]
    iterator = per_event(Source())
    await anext(iterator)
    await within(iterator.aclose())
    assert LoaderScope.current(None) is None


@pytest.mark.parametrize(
    "source, hint", [([1, 2], r"2\]$"), (None, "None$"), (numbers, r"; call it: .*\(\)\)$")]
)
def test_what_is_no_async_iterator_is_refused(source: Any, hint: str):
    """A list, or the function in place of its result, is refused at once."""
    with pytest.raises(TypeError, match=hint):
        per_event(source)


async def test_two_streams_at_once_have_scopes_of_their_own():
    """Streams that two tasks read at the same time never share a scope or a batch."""
    plan: list[list[int]] = []
    users = tenfold(plan)

    async def stream(*keys: int) -> list[LoaderScope]:
        scopes = []
        async for event in per_event(numbers(*keys)):
            scopes.append(LoaderScope.current())
            assert event * 10 == await users.load(event)
            assert scopes[-1] is LoaderScope.current()
        return scopes

    one, other = await outcomes(stream(1, 2), stream(1, 2))
    assert 4 == len({id(scope) for scope in [*one, *other]})
    assert [[1], [1], [2], [2]] == sorted(plan)


async def test_streams_may_be_nested():
    """Inside one stream's event another stream can be read; the event's scope comes back."""
    async for _ in per_event(numbers(1, 2)):
        scope = LoaderScope.current()
        async for _ in per_event(numbers(1, 2)):
            assert scope is not LoaderScope.current()
        assert scope is LoaderScope.current()
        assert not scope.is_closed
    assert LoaderScope.current(None) is None


async def test_a_long_stream_keeps_nothing_of_old_events():
    """Of all events but the last, values and scopes are freed."""
    alive: list[weakref.ref[Any]] = []

    @dataloader
    async def users(keys: list[int]) -> list[Any]:
        values = [Value() for _ in keys]
        alive.extend(map(weakref.ref, values))
        return values

    async with contextlib.aclosing(per_event(numbers(*range(20)))) as events:
        async for event in events:
            await users.load(event)
            gc.collect()
            assert 1 >= sum(reference() is not None for reference in alive[:-1])
    assert 20 == len(alive)


@pytest.mark.parametrize("way", ["break", "error"])
async def test_a_loop_that_is_left_early_leaves_its_scope(way: str):
    """Behind a loop that ends in the middle the scope around it is current, and its own closed."""
    with LoaderScope() as around:
        with contextlib.suppress(Broken):
            async for _ in per_event(numbers(1, 2, 3)):
                scope = LoaderScope.current()
                if way == "break":
                    break
                raise Broken
        assert scope.is_closed
        assert LoaderScope.current() is around


def test_a_stream_that_is_lost_with_its_loop_makes_no_noise():
    """What is collected where no loop runs is left as it is."""

    async def main() -> Any:
        stream = per_event(numbers(1, 2))
        await anext(stream)
        return stream, LoaderScope.current()

    stream, scope = asyncio.run(main())
    del stream
    gc.collect()
    assert not scope.is_closed
