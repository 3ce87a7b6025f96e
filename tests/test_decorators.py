"""`AsyncLRU` and `AsyncTTL`: whose store, which key, and what a decorated function has."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime
import decimal
import enum
import functools
import gc
import inspect
import io
import itertools
import math
import os
import re
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from dataloader_cache import AsyncCache, AsyncLRU, AsyncTTL
from dataloader_cache._keys import freeze
from dataloader_cache.errors import (
    ConfigurationError,
    DataLoaderCacheError,
    LoaderDeadlockError,
)

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever
DECORATORS = [AsyncLRU, AsyncTTL]


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


class Broken(Exception):
    """What a function fails with."""


def counting(decorator: Any) -> tuple[Any, list[Any]]:
    """Make a decorated function of `x`, and the list of what it was called with."""
    calls: list[Any] = []

    @decorator
    async def function(x: Any) -> int:
        calls.append(x)
        return len(calls)

    return function, calls


class Gate:
    """A function whose every call waits until the test answers it."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[Any]] = []

    async def call(self) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        return await answer

    async def running(self, count: int = 1) -> None:
        """Wait until `count` calls have been made."""
        await until(lambda: len(self.answers) >= count)


# What a decorated function is


@pytest.mark.parametrize("decorator", DECORATORS)
async def test_a_decorated_function_is_called_once_for_each_key(decorator: Any):
    """A call whose arguments were seen before is answered from memory."""
    function, calls = counting(decorator())

    assert [1, 1, 2, 1] == [await function(x) for x in (7, 7, 8, 7)]
    assert [7, 8] == calls


@pytest.mark.parametrize("decorator", DECORATORS)
async def test_a_decorated_function_looks_like_the_function(decorator: Any):
    """Name, docstring, module, annotations and `__wrapped__` are the function's."""

    async def original(x: int, y: str = "") -> bool:
        """Say whether."""
        return True

    decorated = decorator()(original)

    assert "original" == decorated.__name__
    assert original.__qualname__ == decorated.__qualname__
    assert "Say whether." == decorated.__doc__
    assert __name__ == decorated.__module__
    assert original is decorated.__wrapped__
    assert inspect.signature(original) == inspect.signature(decorated)


@pytest.mark.parametrize("decorator", DECORATORS)
async def test_a_decorated_function_is_still_a_coroutine_function(decorator: Any):
    """Frameworks that ask whether to await a function are told the truth."""
    # reading: users expect of a decorated async function that it is one.
    function, _ = counting(decorator())

    assert inspect.iscoroutinefunction(function)


@pytest.mark.parametrize("decorator", DECORATORS)
async def test_a_decorated_function_shows_its_cache(decorator: Any):
    """`.cache` is the `AsyncCache` that has the function's results."""
    function, _ = counting(decorator())
    await function(1)

    assert isinstance(function.cache, AsyncCache)
    assert 1 == len(function.cache)
    assert function.cache.get_metrics() == function.get_metrics()


async def test_the_arguments_of_the_decorators_are_the_documented_ones():
    """`AsyncLRU(maxsize=128, skip_args=0)` and `AsyncTTL(time_to_live=60, maxsize=1024, …)`."""
    lru = inspect.signature(AsyncLRU).parameters
    ttl = inspect.signature(AsyncTTL).parameters

    assert [("maxsize", 128), ("skip_args", 0)] == [
        (name, parameter.default) for name, parameter in lru.items()
    ][:2]
    assert [("time_to_live", 60), ("maxsize", 1024), ("skip_args", 0)] == [
        (name, parameter.default) for name, parameter in ttl.items()
    ][:3]


async def test_the_arguments_of_the_decorators_may_be_positional():
    """Programs that pass `maxsize` and `skip_args` by position go on working."""
    function, calls = counting(AsyncLRU(1, 0))
    for x in (1, 2, 1):
        await function(x)
    assert [1, 2, 1] == calls

    function, calls = counting(AsyncTTL(60, 1, 1))
    for x in (1, 2, 1):
        await function(x)
    assert [1] == calls


# Each function has its own store


async def test_each_function_has_its_own_store():
    """One decorator object that is used twice makes two stores."""
    decorator = AsyncLRU(maxsize=2)
    one, one_calls = counting(decorator)
    two, two_calls = counting(decorator)

    for x in (1, 2):
        await one(x)
        await two(x)
    await two(3)
    await one(1)
    assert ([1, 2], [1, 2, 3]) == (one_calls, two_calls)
    two.clear_cache()
    await one(2)

    assert [1, 2] == one_calls
    assert one.cache is not two.cache
    assert (2, 2) == (one.get_metrics()["hits"], one.get_metrics()["misses"])


async def test_functions_of_one_name_do_not_mix():
    """Two functions with one qualified name have two stores."""

    def make(answer: str) -> Any:
        @AsyncTTL()
        async def function(x: int) -> str:
            return answer

        return function

    one, two = make("one"), make("two")

    assert ["one", "two", "one", "two"] == [await one(1), await two(1), await one(1), await two(1)]


# Room and time


async def test_lru_evicts_what_was_not_used_for_longest():
    """`maxsize` bounds the results that are kept, and a hit is a use."""
    function, calls = counting(AsyncLRU(maxsize=2))

    for x in (1, 2, 1, 3, 1, 2):
        await function(x)

    assert [1, 2, 3, 2] == calls
    assert 2 == len(function.cache)


async def test_none_is_no_bound():
    """`maxsize=None` keeps everything."""
    function, _ = counting(AsyncLRU(maxsize=None))

    for x in range(1_000):
        await function(x)

    assert 1_000 == function.get_metrics()["size"]


async def test_ttl_ends():
    """After `time_to_live` a function is called again."""
    function, calls = counting(AsyncTTL(time_to_live=0.002))
    await function(1)
    end = time.monotonic() + 0.002
    while time.monotonic() < end:
        pass

    await function(1)

    assert [1, 1] == calls


@pytest.mark.parametrize("decorator", [AsyncTTL(time_to_live=None), AsyncTTL(3600), AsyncLRU()])
async def test_ttl_has_not_ended(decorator: Any):
    """Before its time is over, and where there is none, a result is kept."""
    function, calls = counting(decorator)

    await function(1)
    await function(1)

    assert [1] == calls


async def test_ttl_of_zero_keeps_nothing():
    """`time_to_live=0` shares running calls and keeps nothing."""
    function, calls = counting(AsyncTTL(time_to_live=0))

    await within(asyncio.gather(function(1), function(1)))
    await function(1)

    assert [1, 1] == calls


@pytest.mark.parametrize(
    "make",
    [
        lambda: AsyncTTL(time_to_live=-1),
        lambda: AsyncTTL(time_to_live="60"),  # type: ignore[arg-type]
        lambda: AsyncTTL(maxsize=-1),
        lambda: AsyncLRU(maxsize=-1),
        lambda: AsyncLRU(maxsize="10"),  # type: ignore[arg-type]
        lambda: AsyncLRU(skip_args=-1),
        lambda: AsyncLRU(skip_args="self"),  # type: ignore[arg-type]
        lambda: AsyncLRU(skip_args=True),
        lambda: AsyncLRU(key=5),  # type: ignore[arg-type]
    ],
)
def test_arguments_that_can_not_work_are_refused(make: Callable[[], Any]):
    """A wrong argument is a `ConfigurationError` at decoration, not later."""

    async def function(x: int) -> int:
        return x

    with pytest.raises(ConfigurationError):
        make()(function)


@pytest.mark.parametrize("decorator", DECORATORS)
def test_a_decorator_without_its_parentheses_is_refused(decorator: Any):
    """`@AsyncLRU` for `@AsyncLRU()` is told at decoration, with what to write."""

    async def function(x: int) -> int:
        return x

    with pytest.raises(ConfigurationError, match=rf"@{decorator.__name__}\(\) above '.*function'"):
        decorator(function)


@pytest.mark.parametrize("value", [None, 5, "function"])
def test_what_is_no_function_is_refused(value: Any):
    """Only what can be called can be decorated."""
    with pytest.raises(ConfigurationError):
        AsyncLRU()(value)


async def test_a_function_that_is_not_async_is_told():
    """A function that returns no awaitable is an error of ours that names it."""

    def not_async(x: int) -> int:
        return x

    with pytest.raises(DataLoaderCacheError, match="not_async"):
        await within(AsyncLRU()(not_async)(1))  # type: ignore[arg-type, type-var]


# Calls


async def test_a_hundred_calls_are_one():
    """Concurrent calls with the same arguments share one."""
    gate = Gate()

    @AsyncLRU()
    async def function(x: int) -> Any:
        return await gate.call()

    tasks = [asyncio.ensure_future(function(1)) for _ in range(100)]
    await gate.running()
    await ticks(3)
    tasks[0].cancel()
    gate.answers[0].set_result("value")

    assert ["value"] * 99 == await within(asyncio.gather(*tasks[1:]))
    assert 1 == len(gate.answers)


async def test_errors_are_not_kept():
    """A function that fails is called again."""
    calls: list[int] = []

    @AsyncLRU()
    async def function(x: int) -> str:
        calls.append(x)
        if len(calls) == 1:
            raise Broken("down")
        return "value"

    with pytest.raises(Broken):
        await function(1)

    assert "value" == await function(1)


async def test_none_is_kept():
    """A `None` is a result."""
    calls: list[int] = []

    @AsyncLRU()
    async def function(x: int) -> None:
        calls.append(x)

    await function(1)
    await function(1)

    assert [1] == calls


async def test_a_function_may_call_itself():
    """Recursion over other arguments works."""
    calls: list[int] = []

    @AsyncLRU(maxsize=None)
    async def fibonacci(number: int) -> int:
        calls.append(number)
        if number < 2:
            return number
        return await fibonacci(number - 1) + await fibonacci(number - 2)

    assert 55 == await within(fibonacci(10))
    assert list(range(11)) == sorted(calls)


async def test_a_function_that_waits_for_itself_is_told():
    """Recursion over the same arguments is a `LoaderDeadlockError` that names the function."""

    @AsyncLRU()
    async def endless(number: int) -> int:
        return await endless(number)

    with pytest.raises(LoaderDeadlockError, match="endless"):
        await within(endless(1))


async def test_a_call_sees_nothing_of_its_callers_context():
    """A result that all share is computed in nobody's context."""
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")

    @AsyncLRU()
    async def function() -> str:
        return tenant.get()

    tenant.set("alice")

    assert "nobody" == await function()


async def test_a_decorated_function_serves_several_loops():
    """A result of one `asyncio.run` is a hit in the next."""
    function, calls = counting(AsyncTTL())

    def run() -> int:
        return asyncio.run(within(function(1)))

    assert [1, 1] == [await asyncio.to_thread(run), await asyncio.to_thread(run)]
    assert 1 == await function(1)
    assert [1] == calls


async def test_a_decorated_function_that_is_dropped_is_collected():
    """A function that nobody holds goes, with its store and its sweep."""
    function, _ = counting(AsyncTTL())
    await function(1)
    watched = weakref.ref(function.cache)

    del function
    await ticks(3)
    gc.collect()

    assert None is watched()


# invalidate_cache, clear_cache, get_metrics


async def defaults(decorator: Any) -> tuple[Any, list[Any]]:
    """Make a decorated function with every kind of argument."""
    calls: list[Any] = []

    @decorator
    async def function(x: int, y: int = 2, *, z: int = 3) -> int:
        calls.append((x, y, z))
        return len(calls)

    return function, calls


SAME_CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((), {"x": 1}),
    ((1, 2), {}),
    ((1,), {"y": 2}),
    ((), {"x": 1, "y": 2}),
    ((), {"y": 2, "x": 1}),
    ((1,), {"z": 3}),
    ((1, 2), {"z": 3}),
    ((), {"z": 3, "y": 2, "x": 1}),
]


@pytest.mark.parametrize("args, kwargs", SAME_CALLS, ids=repr)
async def test_the_same_call_written_in_another_way_is_one_key(
    args: tuple[Any, ...], kwargs: dict[str, Any]
):
    """Positions, keywords, their order, and defaults given or left out make no difference."""
    function, calls = await defaults(AsyncLRU())

    await function(1)
    await function(*args, **kwargs)

    assert [(1, 2, 3)] == calls
    assert 1 == function.get_metrics()["size"]


@pytest.mark.parametrize("args, kwargs", SAME_CALLS, ids=repr)
async def test_invalidate_cache_takes_the_arguments_of_the_call(
    args: tuple[Any, ...], kwargs: dict[str, Any]
):
    """`invalidate_cache` finds the result, in whatever way its arguments are written."""
    function, calls = await defaults(AsyncLRU())
    await function(1)
    await function(5)

    function.invalidate_cache(*args, **kwargs)
    await function(1)
    await function(5)

    assert [(1, 2, 3), (5, 2, 3), (1, 2, 3)] == calls


async def test_other_arguments_are_another_key():
    """Whatever differs in an argument is another call."""
    function, calls = await defaults(AsyncLRU())

    for args, kwargs in [
        ((1,), {}),
        ((2,), {}),
        ((1, 3), {}),
        ((1,), {"z": 4}),
        ((1, 3), {"z": 4}),
    ]:
        await function(*args, **kwargs)

    assert 5 == len(calls)


async def test_variable_arguments_are_compared_in_order_and_by_name():
    """`*args` count by position, `**kwargs` by name and not by order."""
    calls: list[Any] = []

    @AsyncLRU()
    async def function(*args: Any, **kwargs: Any) -> int:
        calls.append((args, kwargs))
        return len(calls)

    assert [1, 2, 3, 4, 5, 5, 6, 7] == [
        await function(),
        await function(1),
        await function(1, 2),
        await function(2, 1),
        await function(a=1, b=2),
        await function(b=2, a=1),
        await function(a=2, b=1),
        await function(("a", 1), ("b", 2)),
    ]
    function.invalidate_cache(b=2, a=1)
    assert 8 == await function(a=1, b=2)


async def test_positional_only_and_keyword_only_arguments_are_no_trap():
    """A positional-only name that also comes as a keyword is two things."""
    calls: list[Any] = []

    @AsyncLRU()
    async def function(x: int, /, *, y: int = 1, **rest: int) -> int:
        calls.append((x, y, rest))
        return len(calls)

    assert [1, 2, 3, 1] == [
        await function(1),
        await function(1, x=1),
        await function(1, x=2),
        await function(1, y=1),
    ]


@pytest.mark.parametrize(
    "args, kwargs", [((), {}), ((1, 2, 3), {}), ((1,), {"w": 1}), ((1,), {"x": 1})]
)
async def test_a_call_that_does_not_fit_is_a_type_error(
    args: tuple[Any, ...], kwargs: dict[str, Any]
):
    """Missing, surplus and unknown arguments are what they are without a decorator."""
    function, calls = await defaults(AsyncLRU())

    with pytest.raises(TypeError):
        await function(*args, **kwargs)
    with pytest.raises(TypeError):
        function.invalidate_cache(*args, **kwargs)

    assert [] == calls
    assert 1 == await function(1)


async def positional_only(x: Any, y: Any = 2, /, z: Any = 3) -> Any:
    return (x, y, z)


async def keyword_only(x: Any, *, y: Any, z: Any = (4, 5)) -> Any:
    return (x, y, z)


async def all_optional(x: Any = 1, y: Any = None, z: Any = "") -> Any:
    return (x, y, z)


async def variable(x: Any, *rest: Any, y: Any = 2) -> Any:
    return (x, rest, y)


async def named(x: Any, /, **rest: Any) -> Any:
    return (x, sorted(rest.items()))


def refusal(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    """Say why a call does not fit; None where it does, as in 3.13.0 for x=1 of (x, /, **rest)."""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return None


VALUES = [0, None, (1, 2), [1, 2], [1, [2]], {1: [2]}]
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (values[:count], dict(zip(names, values[count:])))
    for values in itertools.permutations(VALUES, 3)
    for count in range(4)
    for given in range(4 - count)
    for names in itertools.permutations("xyz", given)
]


@pytest.mark.loop_kinds("asyncio")
@pytest.mark.parametrize("skip", [0, 1], ids=["all arguments", "without the first"])
@pytest.mark.parametrize("function", [positional_only, keyword_only, all_optional, variable, named])
async def test_calls_are_told_apart_as_the_signature_tells(function: Any, skip: int):
    """However a call is written: it fits or is a TypeError, and is the same as another or not."""
    signature = inspect.signature(function)
    cached = AsyncLRU(maxsize=None, skip_args=skip)(function)
    distinct: list[Any] = []

    for args, kwargs in CALLS:
        try:
            expected = await function(*args, **kwargs)
        except TypeError:
            reason = refusal(signature, args, kwargs)
            if reason is not None:
                with pytest.raises(TypeError, match=re.escape(reason)):
                    await cached(*args, **kwargs)
            continue
        found = await cached(*args, **kwargs)
        assert expected[skip:] == found[skip:]
        if expected[skip:] not in distinct:
            distinct.append(expected[skip:])

    assert len(distinct) == cached.get_metrics()["size"]


async def test_a_default_that_is_changed_is_another_key():
    """A default that is a list is compared by what it holds at the time of the call."""
    shared = [1]

    @AsyncLRU()
    async def function(x: int, y: list[int] = shared) -> list[int]:
        return [x, *y]

    assert [7, 1] == await function(7)
    shared.append(2)
    assert [7, 1, 2] == await function(7)
    assert [7, 1] == await function(7, [1])


async def test_defaults_of_any_kind_are_no_trap():
    """A default that compares like no other value is neither compared nor asked for its truth."""

    class Array:  # noqa: PLW1641
        def __init__(self) -> None:
            self.items = (1, 2)

        def __eq__(self, other: object) -> Any:
            raise ValueError("the truth value of an array is ambiguous")

    @AsyncLRU()
    async def function(x: int, y: Any, z: Any = Array(), *, w: Any = ()) -> int:  # noqa: B008
        return x

    assert 1 == await function(1, 2)
    assert 1 == await function(1, y=2)
    assert 1 == function.get_metrics()["hits"]
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        await function(1, w=2)


async def test_invalidate_cache_of_a_call_that_was_never_made_is_no_error():
    """`invalidate_cache` of what is not there does nothing."""
    function, calls = counting(AsyncLRU())

    function.invalidate_cache(1)

    assert [] == calls


async def test_invalidate_cache_overtakes_a_running_call():
    """A result that was invalidated while it was computed is not kept."""
    gate = Gate()

    @AsyncLRU()
    async def function(x: int) -> Any:
        return await gate.call()

    older = asyncio.ensure_future(function(1))
    await gate.running()
    function.invalidate_cache(1)
    newer = asyncio.ensure_future(function(1))
    await gate.running(2)
    gate.answers[1].set_result("new")
    gate.answers[0].set_result("old")

    assert ["old", "new"] == await within(asyncio.gather(older, newer))
    assert "new" == await function(1)


@pytest.mark.parametrize("decorator", DECORATORS)
async def test_clear_cache_forgets_all(decorator: Any):
    """After `clear_cache` every call is a new one, and nothing has been counted."""
    function, calls = counting(decorator())
    for x in (1, 2):
        await function(x)

    function.clear_cache()

    assert 0 == function.get_metrics()["misses"]
    for x in (1, 2):
        await function(x)
    assert [1, 2, 1, 2] == calls


@pytest.mark.parametrize("decorator", DECORATORS)
async def test_invalidate_and_clear_give_no_warning(decorator: Any):
    """Both take effect when called, and need not be awaited."""
    function, calls = counting(decorator())
    await function(1)
    function.invalidate_cache(1)
    await function(1)
    function.clear_cache()
    gc.collect()
    await function(1)

    assert [1, 1, 1] == calls


@pytest.mark.parametrize("decorator", DECORATORS)
async def test_get_metrics_are_the_functions_own(decorator: Any):
    """`get_metrics` has all that a cache's metrics have."""
    function, _ = counting(decorator())
    for x in (1, 1, 1, 2):
        await function(x)

    metrics = function.get_metrics()

    assert (2, 2, 2, 0.5, 2) == tuple(
        metrics[name] for name in ("hits", "misses", "size", "hit_rate", "loads")
    )
    assert set(AsyncCache().get_metrics()) == set(metrics)


# use_cache=False


async def test_use_cache_false_calls_afresh_and_keeps_the_result():
    """`use_cache=False` calls the function whatever is there, and others get the new result."""
    function, calls = counting(AsyncLRU())

    assert [1, 2, 2] == [
        await function(7),
        await function(7, use_cache=False),
        await function(7),
    ]
    assert [7, 7] == calls


async def test_use_cache_true_is_a_call_like_any_other():
    """`use_cache=True` is the default."""
    function, calls = counting(AsyncLRU())

    await function(7)
    await function(7, use_cache=True)

    assert [7] == calls


async def test_use_cache_is_no_part_of_the_key_and_not_passed_on():
    """A function with `**kwargs` does not see `use_cache`."""
    calls: list[dict[str, Any]] = []

    @AsyncLRU()
    async def function(**kwargs: Any) -> int:
        calls.append(kwargs)
        return len(calls)

    assert [1, 1] == [await function(a=1, use_cache=False), await function(a=1)]
    assert [{"a": 1}] == calls


async def test_use_cache_false_joins_no_call():
    """A call without the cache runs beside one that runs, and beside another of its kind."""
    gate = Gate()

    @AsyncLRU()
    async def function(x: int) -> Any:
        return await gate.call()

    tasks = [
        asyncio.ensure_future(function(1)),
        asyncio.ensure_future(function(1, use_cache=False)),
        asyncio.ensure_future(function(1, use_cache=False)),
    ]
    await gate.running(3)
    for number in range(3):
        gate.answers[number].set_result(number)

    assert [0, 1, 2] == await within(asyncio.gather(*tasks))


async def test_use_cache_false_that_fails_keeps_the_old_result():
    """A failure is raised, and the result that was there stays."""
    calls: list[int] = []

    @AsyncLRU()
    async def function(x: int) -> str:
        calls.append(x)
        if len(calls) == 2:
            raise Broken("down")
        return f"value {len(calls)}"

    await function(1)
    with pytest.raises(Broken):
        await function(1, use_cache=False)

    assert "value 1" == await function(1)
    assert "value 3" == await function(1, use_cache=False)


async def test_use_cache_false_leaves_the_old_result_while_it_runs():
    """Until the new result is there, others have the old one."""
    gate = Gate()

    @AsyncLRU()
    async def function(x: int) -> Any:
        return await gate.call()

    first = asyncio.ensure_future(function(1))
    await gate.running()
    gate.answers[0].set_result("old")
    await within(first)
    fresh = asyncio.ensure_future(function(1, use_cache=False))
    await gate.running(2)

    assert "old" == await within(function(1))
    gate.answers[1].set_result("new")
    assert "new" == await within(fresh)
    assert "new" == await within(function(1))


async def test_use_cache_false_is_not_undone_by_an_older_call():
    """An ordinary call that began earlier and ends later does not write over the fresh result."""
    gate = Gate()

    @AsyncLRU()
    async def function(x: int) -> Any:
        return await gate.call()

    older = asyncio.ensure_future(function(1))
    await gate.running()
    fresh = asyncio.ensure_future(function(1, use_cache=False))
    await gate.running(2)
    gate.answers[1].set_result("fresh")
    assert "fresh" == await within(fresh)
    gate.answers[0].set_result("old")
    assert "old" == await within(older)
    await ticks(3)

    assert "fresh" == await within(function(1))


async def test_use_cache_false_that_was_overtaken_is_not_kept():
    """A fresh result that was invalidated while it was computed is not kept either."""
    gate = Gate()

    @AsyncLRU()
    async def function(x: int) -> Any:
        return await gate.call()

    task = asyncio.ensure_future(function(1, use_cache=False))
    await gate.running()
    function.invalidate_cache(1)
    gate.answers[0].set_result("overtaken")

    assert "overtaken" == await within(task)
    assert 0 == function.get_metrics()["size"]


@pytest.mark.parametrize("decorator", DECORATORS)
def test_a_function_with_a_parameter_use_cache_is_refused(decorator: Any):
    """A function that has a `use_cache` of its own can't be decorated, and is told so."""

    async def function(x: int, use_cache: bool = True) -> int:
        return x

    async def keyword_only(x: int, *, use_cache: bool) -> int:
        return x

    for refused in (function, keyword_only):
        with pytest.raises(ConfigurationError, match="use_cache") as caught:
            decorator()(refused)
        assert refused.__name__ in str(caught.value)


# Arguments by value


class Plain:
    """An object that is nothing but its fields."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Other(Plain):
    """The same fields, another type."""


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass
class Pixel:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Any


@dataclasses.dataclass(slots=True)
class Slotted:
    x: Any


class WithSlots:
    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def named(x: int) -> int:
    return x


def closure(value: int) -> Callable[[], int]:
    return lambda: value


EQUAL: list[tuple[str, Callable[[], Any]]] = [
    ("list", lambda: [1, 2]),
    ("nested list", lambda: [1, [2, [3]]]),
    ("tuple with a list", lambda: (1, [2])),
    ("dict", lambda: {"a": 1, "b": [2]}),
    ("nested dict", lambda: {"a": {"b": {"c": [1]}}}),
    ("dict with keys of two types", lambda: {1: "a", "b": 2, None: 3}),
    ("set", lambda: {1, 2, 3}),
    ("set of two types", lambda: {1, "a", None, (2, 3)}),
    ("frozenset", lambda: frozenset({1, 2})),
    ("list of sets", lambda: [{1}, {2}]),
    ("empty list", list),
    ("empty dict", dict),
    ("empty set", set),
    ("text", lambda: str(b"ab", "ascii")),
    ("bytes", lambda: bytes([1, 2])),
    ("plain object", lambda: Plain(x=1, y=[2])),
    ("plain object of objects", lambda: Plain(x=Plain(y={1: [2]}))),
    ("dataclass", lambda: Point(1, [2])),
    ("dataclass of a dataclass", lambda: Point(Point(1), {"a": Point(2)})),
    ("frozen dataclass", lambda: Frozen([1])),
    ("dataclass with slots", lambda: Slotted([1])),
    ("object with slots", lambda: WithSlots([1])),
    ("enum member", lambda: Colour.RED),
    ("uuid", lambda: uuid.UUID(int=5)),
    ("decimal", lambda: decimal.Decimal("1.5")),
    ("datetime", lambda: datetime.datetime(2020, 1, 2, 3)),
    ("range", lambda: range(5)),
    ("list of dataclasses", lambda: [Point(1), Point(2)]),
    ("function", lambda: named),
    ("builtin", lambda: len),
    ("class", lambda: Plain),
    ("module", lambda: math),
]


@pytest.mark.parametrize("make", [make for _, make in EQUAL], ids=[name for name, _ in EQUAL])
async def test_equal_arguments_are_one_key(make: Callable[[], Any]):
    """Arguments that are made apart and have one value are one key, for calls and invalidation."""
    function, _ = counting(AsyncLRU())

    assert [1, 1] == [await function(make()), await function(make())]
    function.invalidate_cache(make())
    assert 2 == await function(make())


async def test_dicts_and_sets_have_no_order():
    """The order in which a dict or a set was filled makes no difference."""
    function, calls = counting(AsyncLRU())

    await function({"a": 1, "b": 2})
    await function({"b": 2, "a": 1})
    await function({8, 0, 16})
    await function({16, 8, 0})

    assert 2 == len(calls)


def same_name() -> tuple[Any, Any]:
    """Make two classes that share a qualified name."""

    def make() -> Any:
        class Local:
            def __init__(self) -> None:
                self.x = 1

        return Local

    return make(), make()


DIFFERENT: list[tuple[str, list[Any]]] = [
    ("list, tuple, set, frozenset-free", [[1, 2], (1, 2), {1, 2}]),
    ("nested list and tuple", [([1],), ((1,),), [[1]], [(1,)]]),
    ("list and tuple in a dict", [{"a": [1]}, {"a": (1,)}]),
    ("list and tuple in a dataclass", [Point([1]), Point((1,))]),
    ("empty ones", [[], (), {}, set(), "", None, b""]),
    ("dict and its items", [{"a": 1}, [("a", 1)], (("a", 1),), {("a", 1)}]),
    ("dict and its keys", [{"a": None}, ["a"], {"a"}, ("a",)]),
    ("numbers and text", [1, "1", b"1", [1], (1,), {1}]),
    ("text and its letters", ["ab", ["a", "b"], ("a", "b")]),
    ("dataclasses of two types", [Point(1), Pixel(1), (1, 0), {"x": 1, "y": 0}]),
    ("dataclasses of other fields", [Point(1), Point(2), Point(1, 1)]),
    ("objects of two types", [Plain(x=1), Other(x=1), {"x": 1}]),
    ("objects of other fields", [Plain(x=1), Plain(x=2), Plain(y=1), Plain()]),
    ("slots", [WithSlots(1), WithSlots(2)]),
    ("slotted dataclasses", [Slotted(1), Slotted(2)]),
    ("classes of one name", [make() for make in same_name()]),
    ("enum members", [Colour.RED, Colour.BLUE]),
    ("order of a list", [[1, 2], [2, 1]]),
    ("lists of other depth", [[[1]], [1], [[[1]]]]),
    ("a class and its object", [Plain, Plain()]),
]


@pytest.mark.parametrize(
    "values", [values for _, values in DIFFERENT], ids=[name for name, _ in DIFFERENT]
)
async def test_different_arguments_are_different_keys(values: list[Any]):
    """No two of these are one key."""
    function, _ = counting(AsyncLRU())

    found = [await function(value) for value in values]

    assert list(range(1, len(values) + 1)) == found
    assert found == [await function(value) for value in values]


IDENTITIES: list[tuple[str, Callable[[], list[Any]]]] = [
    ("lambdas", lambda: [lambda: 1, lambda: 1]),
    ("closures", lambda: [closure(1), closure(2)]),
    ("functions", lambda: [named, closure]),
    ("builtins", lambda: [len, abs]),
    ("classes", lambda: [int, str, Plain, Other]),
    ("classes of one name", lambda: list(same_name())),
    ("modules", lambda: [math, os]),
    ("functions in a list", lambda: [[len], [abs]]),
    ("lambdas in a dict", lambda: [{"f": lambda: 1}, {"f": lambda: 1}]),
    ("functions in a dataclass", lambda: [Point(len), Point(abs)]),
    ("methods of builtins", lambda: ["a".upper, "a".lower]),
]


@pytest.mark.parametrize(
    "make", [make for _, make in IDENTITIES], ids=[name for name, _ in IDENTITIES]
)
async def test_functions_as_arguments_are_not_all_equal(make: Callable[[], list[Any]]):
    """Functions, classes and modules are themselves and nothing else."""
    function, _ = counting(AsyncLRU())
    values = make()

    found = [await function(value) for value in values]

    assert list(range(1, len(values) + 1)) == found


@pytest.mark.parametrize(
    "one, two",
    [
        (functools.partial(named, 1), functools.partial(named, 2)),
        (Plain(x=1).__eq__, Plain(x=2).__eq__),
        (Point(1).__repr__, Point(2).__repr__),
        ([1].append, [2].append),
        (property(named), property(closure)),
    ],
    ids=["partial", "method wrapper", "bound method", "builtin method", "property"],
)
async def test_what_hides_its_state_is_never_taken_for_equal(one: Any, two: Any):
    """Objects that differ in what can't be seen are two keys, or none at all."""
    # reading: compared rightly or refused; taking two of them for one would be a wrong answer.
    function, calls = counting(AsyncLRU())

    for value in (one, two):
        try:
            await function(value)
        except TypeError:
            calls.append(value)

    assert 2 == len(calls)


async def test_a_function_is_not_its_number():
    """What stands for a function in a key is like nothing but itself."""
    function, calls = counting(AsyncLRU())

    for value in (named, id(named), named, id(named)):
        await function(value)

    assert [named, id(named)] == calls
    assert freeze(len) != freeze(max)


class Named:
    """An object with one slot, whose name stands there by itself."""

    __slots__ = "value"  # noqa: PLC0205

    def __init__(self, value: Any) -> None:
        self.value = value


class Loose:
    """An object with slots of every kind; one of them may be empty."""

    __slots__ = ("__dict__", "__weakref__", "empty", "value")

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclasses.dataclass
class Remembering:
    x: int
    seen: list[int] = dataclasses.field(default_factory=list[int], compare=False)


async def test_the_slots_of_an_object_are_its_fields():
    """Also a single one, an empty one, and beside a dict; a weak reference is none of them."""
    function, calls = counting(AsyncLRU())
    values = [Named(1), Named(2), Named(1), Loose(1), Loose(2), Loose(1), Loose(1), Loose(1)]
    reference = weakref.ref(values[5])
    values[6].more = 1
    values[7].empty = 1

    found = [await function(value) for value in values]

    assert [1, 2, 1, 3, 4, 3, 5, 6] == found
    assert 6 == len(calls)
    assert reference() is values[5]


async def test_a_field_that_a_dataclass_does_not_compare_is_no_part_of_the_key():
    """A dataclass says what makes two of its kind equal."""
    function, calls = counting(AsyncLRU())

    assert [1, 1, 2] == [await function(Remembering(*given)) for given in ((1,), (1, [2]), (2,))]
    assert 2 == len(calls)


async def test_a_function_that_is_gone_is_not_taken_for_a_new_one():
    """A new function in an old one's place in memory is another key."""
    function, calls = counting(AsyncLRU(maxsize=None))

    for number in range(200):
        await function(closure(number))

    assert 200 == len(calls)


async def test_a_list_that_is_changed_after_the_call_does_not_change_the_key():
    """The key is what the arguments were when the call was made."""
    function, _ = counting(AsyncLRU())
    values = [1, [2]]

    assert 1 == await function(values)
    values[1].append(3)  # type: ignore[attr-defined]
    assert 2 == await function(values)

    assert 1 == await function([1, [2]])
    assert 2 == await function([1, [2, 3]])


async def test_an_object_that_is_changed_after_the_call_is_another_key():
    """An object has the fields that it has when the call is made."""
    function, _ = counting(AsyncLRU())
    point, plain = Point(1), Plain(x=[1])

    assert [1, 2] == [await function(point), await function(plain)]
    point.x = 2
    plain.x.append(2)

    assert [3, 4] == [await function(point), await function(plain)]
    assert [1, 2] == [await function(Point(1)), await function(Plain(x=[1]))]


async def test_a_list_that_is_changed_while_the_call_runs_does_not_change_the_key():
    """What the function itself does to its argument does not change the key."""

    @AsyncLRU()
    async def function(values: list[int]) -> int:
        values.append(len(values))
        return len(values)

    assert [2, 2] == [await function([0]), await function([0])]
    assert 1 == function.get_metrics()["size"]


async def test_equal_numbers_are_one_key():
    """`1`, `1.0` and `True` are equal, as they are for a cache."""
    # reading: T9 holds for arguments, too.
    function, calls = counting(AsyncLRU())

    for x in (1, 1.0, True):
        await function(x)

    assert [1] == calls


async def generator() -> Any:
    yield 1


INCOMPARABLE: list[tuple[str, Callable[[], Any]]] = [
    ("bare object", object),
    ("open generator", lambda: (x for x in ())),
    ("open async generator", generator),
    ("list iterator", lambda: iter([1])),
    ("text stream", lambda: io.StringIO("a")),
    ("iterator of a module", lambda: itertools.count(1)),
    ("lock", threading.Lock),
    ("bare object in a list", lambda: [1, object()]),
    ("bare object in a dict", lambda: {"a": object()}),
    ("bare object in a set", lambda: {object()}),
    ("bare object in a tuple", lambda: (1, (2, object()))),
    ("generator in a dataclass", lambda: Point(x for x in ())),
    ("bare object in an object", lambda: Plain(x=object())),
]


@pytest.mark.parametrize(
    "make", [make for _, make in INCOMPARABLE], ids=[name for name, _ in INCOMPARABLE]
)
async def test_what_can_not_be_compared_is_a_type_error(make: Callable[[], Any]):
    """A `TypeError` names the argument, and the function is not called."""
    calls: list[Any] = []

    @AsyncLRU()
    async def function(first: int, awkward: Any) -> int:
        calls.append(awkward)
        return 1

    for attempt in (
        lambda: function(1, make()),
        lambda: function(1, awkward=make()),
        lambda: function.invalidate_cache(1, make()),
    ):
        with pytest.raises(TypeError, match="awkward"):
            await within(attempt())

    assert [] == calls
    assert 0 == function.get_metrics()["size"]


async def test_a_list_that_contains_itself_does_not_end_the_world():
    """A circle among the arguments is a `TypeError` that names the argument."""
    # reading: it can't be compared.
    function, calls = counting(AsyncLRU())
    circle: list[Any] = []
    circle.append(circle)

    with pytest.raises(TypeError, match="x"):
        await within(function(circle))

    assert [] == calls


# key=


async def test_key_overrides():
    """`key=` makes the key of a call from its arguments."""
    calls: list[Any] = []

    @AsyncLRU(key=lambda x, y=0: x % 10)
    async def function(x: int, y: Any = 0) -> int:
        calls.append(x)
        return len(calls)

    assert [1, 1, 2] == [await function(1), await function(11, object()), await function(2)]
    function.invalidate_cache(21)
    assert 3 == await function(31)


@pytest.mark.parametrize("decorator", DECORATORS)
async def test_key_takes_what_can_not_be_compared(decorator: Any):
    """With a `key=` arguments need not be comparable."""
    function, _ = counting(decorator(key=lambda x: "one"))

    assert [1, 1] == [await function(object()), await function(object())]


# skip_args


class Service:
    """An object with a cached method."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.Lock()

    @AsyncLRU(skip_args=1)
    async def shared(self, x: int, y: int = 2) -> tuple[int, int, int]:
        return self.number, x, y

    @AsyncLRU()
    async def own(self, x: int) -> int:
        return x


@pytest.fixture(autouse=True)
def forget() -> None:
    Service.shared.clear_cache()


async def test_skip_args_leaves_out_self():
    """With `skip_args=1` all instances share the results of a method."""
    one, two = Service(1), Service(2)

    assert [(1, 7, 2)] * 3 == [await one.shared(7), await two.shared(7), await two.shared(x=7)]
    assert (2, 8, 2) == await two.shared(8)


async def test_invalidate_cache_takes_self_like_the_call():
    """`invalidate_cache` of a method takes the same arguments as the call, `self` too."""
    one, two = Service(1), Service(2)
    await one.shared(7)

    Service.shared.invalidate_cache(one, 7)
    assert (2, 7, 2) == await two.shared(7)
    two.shared.invalidate_cache(two, 7, y=2)
    assert (1, 7, 2) == await one.shared(7)


async def test_a_method_takes_use_cache():
    """`use_cache=False` works on a method."""
    one, two = Service(1), Service(2)
    await one.shared(7)

    assert (2, 7, 2) == await two.shared(7, use_cache=False)
    assert (2, 7, 2) == await one.shared(7)


async def test_without_skip_args_self_is_an_argument():
    """Where `self` can't be compared, a method is told to skip it."""
    with pytest.raises(TypeError, match="self"):
        await within(Service(1).own(7))


async def test_without_skip_args_self_counts_by_its_fields():
    """Two instances with the same fields share, and others don't."""
    calls: list[Any] = []

    class Adder:
        def __init__(self, number: int) -> None:
            self.number = number

        @AsyncLRU()
        async def add(self, x: int) -> int:
            calls.append((self.number, x))
            return self.number + x

    assert [2, 2, 3] == [await Adder(1).add(1), await Adder(1).add(1), await Adder(2).add(1)]
    assert [(1, 1), (2, 1)] == calls


async def test_skip_args_leaves_out_the_first_of_variable_arguments():
    """Those that were given, if any; a keyword is never among them."""
    calls: list[Any] = []

    @AsyncLRU(skip_args=1)
    async def function(*args: Any, x: int = 0) -> int:
        calls.append((args, x))
        return len(calls)

    assert [1, 1, 2, 3] == [await function(*args) for args in ((1, 2), (9, 2), (1, 3), (1, 2, 2))]
    assert [4, 4] == [await function(), await function(1)]
    assert [5, 6, 5] == [await function(x=1), await function(x=2), await function(7, x=1)]


async def test_a_store_may_have_no_room():
    """`maxsize=0` keeps nothing, but concurrent equal calls are one run all the same."""
    calls: list[int] = []

    @AsyncLRU(maxsize=0)
    async def function(x: int) -> int:
        calls.append(x)
        return x

    assert [1, 1] == await asyncio.gather(function(1), function(1))
    assert 1 == await function(1)
    assert [1, 1] == calls


async def test_skip_args_leaves_out_as_many_as_told():
    """`skip_args=2` leaves out the first two."""
    calls: list[Any] = []

    @AsyncLRU(skip_args=2)
    async def function(session: Any, tracer: Any, x: int) -> int:
        calls.append(x)
        return x

    assert [1, 1, 2] == [
        await function(object(), object(), 1),
        await function(object(), object(), 1),
        await function(object(), object(), 2),
    ]
    assert [1, 2] == calls


async def test_skip_args_does_not_keep_self_alive():
    """A method's store does not hold the instance that it skipped."""

    class Short:
        @AsyncLRU(skip_args=1)
        async def method(self, x: int) -> int:
            return x

    short = Short()
    watched = weakref.ref(short)
    await short.method(1)

    del short
    await ticks(3)
    gc.collect()

    assert None is watched()


@pytest.mark.parametrize("decorator", DECORATORS)
def test_the_docstring_says_why_one_skips_self(decorator: Any):
    """The docstring says what `skip_args` is for, or points to the one that does."""
    text = " ".join(filter(None, [decorator.__doc__, decorator.__init__.__doc__]))
    if decorator is AsyncTTL and "AsyncLRU" in text:
        text += AsyncLRU.__doc__ or ""

    assert "skip_args" in text
    assert "self" in text


async def test_static_and_class_methods_can_be_cached():
    """The decorators go under `staticmethod` and `classmethod`."""
    calls: list[Any] = []

    class Tools:
        @staticmethod
        @AsyncLRU()
        async def double(x: int) -> int:
            calls.append(x)
            return 2 * x

        @classmethod
        @AsyncLRU()
        async def name(cls, x: int) -> str:
            calls.append(x)
            return f"{cls.__name__} {x}"

    assert [2, 2] == [await Tools.double(1), await Tools().double(1)]
    assert ["Tools 1", "Tools 1"] == [await Tools.name(1), await Tools().name(1)]
    assert [1, 1] == calls
