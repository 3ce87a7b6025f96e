"""Caches of results: who shares a load, what is stored, and how long it stays."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from inspect import isawaitable
from typing import Any

from benchmarks.torture._contenders import CacheContender, NotApplicableError
from benchmarks.torture._row import (
    CACHE_GROUP,
    OK,
    PATIENCE,
    Outcome,
    outcome,
    outcomes,
    row,
    told,
)

__all__: list[str] = []

GROUP = CACHE_GROUP
_TTL = 0.1
_TIME_TO_FREE = 3.0
_BRIEFLY = 0.02


class _Source:
    """A function that loads `v1`, then `v2`, and so on. It waits for its gate."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.called = asyncio.Event()

    async def load(self, key: str) -> object:
        self.calls += 1
        value = f"v{self.calls}"
        self.called.set()
        await self.gate.wait()
        return value


def _ask(get: Callable[[Any], Awaitable[Any]], key: object) -> asyncio.Future[Any]:
    async def caller() -> Any:
        return await get(key)

    return asyncio.ensure_future(caller())


async def _under_way(source: _Source) -> None:
    await asyncio.wait_for(source.called.wait(), PATIENCE)
    await asyncio.sleep(_BRIEFLY)  # the others have found the load, or wait for its lock


async def _do(change: Callable[..., Any] | None, *arguments: object) -> None:
    if change is None:
        raise NotApplicableError
    done = change(*arguments)
    if isawaitable(done):
        await done


def _who(name: str, got: Outcome, *values: object) -> str | None:
    is_right = got.state == "value" and (not values or got.value in values)
    return None if is_right else f"{name} {got}"


async def _leaving(contender: CacheContender, leaving: slice) -> str:
    source = _Source()
    cache = contender.make(source.load)
    callers = [_ask(cache.load, "a") for _ in range(3)]
    await _under_way(source)
    gone = callers[leaving]
    for caller in gone:
        caller.cancel()
    await asyncio.wait(gone, timeout=_BRIEFLY)
    source.gate.set()
    stayed = await outcomes(caller for caller in callers if caller not in gone)
    bad = next((said for got in stayed if (said := _who("another", got))), None)
    later = await outcome(_ask(cache.load, "a"))
    return told(bad, _who("a later caller", later))


@row(GROUP, "three callers wait for a load; the first one, who started it, leaves")
async def cache_leader_leaves(contender: CacheContender) -> str:
    return await _leaving(contender, slice(0, 1))


@row(GROUP, "three callers wait for a load; the second one leaves")
async def cache_waiter_leaves(contender: CacheContender) -> str:
    return await _leaving(contender, slice(1, 2))


@row(GROUP, "all three leave; the key is asked for again")
async def cache_all_leave(contender: CacheContender) -> str:
    return await _leaving(contender, slice(0, 3))


@row(GROUP, "100 callers ask for one key at once")
async def cache_stampede(contender: CacheContender) -> str:
    source = _Source()
    cache = contender.make(source.load)
    callers = [_ask(cache.load, "a") for _ in range(100)]
    await _under_way(source)
    source.gate.set()
    got = await outcomes(callers)
    bad = next((said for each in got if (said := _who("a caller", each))), None)
    return told(bad, None if source.calls == 1 else f"{source.calls} loads")


@row(GROUP, "a load fails while three callers wait; the key is asked for again")
async def cache_fails_once(contender: CacheContender) -> str:
    calls = 0
    gate = asyncio.Event()

    async def load(key: str) -> object:
        nonlocal calls
        calls += 1
        await gate.wait()
        if calls == 1:
            raise ConnectionError
        return "value"

    cache = contender.make(load)
    callers = [_ask(cache.load, "a") for _ in range(3)]
    await asyncio.sleep(_BRIEFLY)
    gate.set()
    got = await outcomes(callers)
    # A cache that loads again for those who wait does no harm.
    bad = [each for each in got if not (each.failed(ConnectionError) or each.found("value"))]
    later = await outcome(_ask(cache.load, "a"))
    return told(*{f"a caller {each}" for each in bad}, _who("a later caller", later, "value"))


async def _changed_in_flight(
    contender: CacheContender, change: str, *arguments: object
) -> tuple[Outcome, Outcome]:
    source = _Source()
    cache = contender.make(source.load)
    first = _ask(cache.load, "a")
    await _under_way(source)
    await _do(getattr(cache, change), "a", *arguments)
    source.gate.set()
    return await outcome(first), await outcome(_ask(cache.load, "a"))


@row(GROUP, "a key is deleted while its load is in flight; it is asked for again later")
async def cache_deleted_in_flight(contender: CacheContender) -> str:
    first, later = await _changed_in_flight(contender, "delete")
    if later.found("v1"):
        return "the stale value is stored and served"
    return told(_who("the first caller", first), _who("a later caller", later, "v2"))


@row(GROUP, "a key is set while its load is in flight; it is asked for later")
async def cache_set_in_flight(contender: CacheContender) -> str:
    first, later = await _changed_in_flight(contender, "store", "set")
    if later.found("v1"):
        return "the older load undoes the set"
    return told(_who("the first caller", first), _who("a later caller", later, "set"))


@row(GROUP, "one cache is used in two `asyncio.run`, one after the other, two callers a key")
def cache_in_two_loops(contender: CacheContender) -> str:
    async def load(key: str) -> object:
        await asyncio.sleep(_BRIEFLY)
        return f"v:{key}"

    made: list[Any] = []

    async def work() -> str:
        if not made:
            made.append(contender.make(load))
        keys = ["a", "a", f"b{len(made)}", f"b{len(made)}"]
        got = await outcomes(_ask(made[0].load, key) for key in keys)
        made.append(None)
        return told(
            *{f"a caller {each}" for each, key in zip(got, keys) if not each.found(f"v:{key}")}
        )

    first, second = asyncio.run(work()), asyncio.run(work())
    return told(
        f"in the first: {first}" if first != OK else None,
        f"in the second: {second}" if second != OK else None,
    )


@row(GROUP, "a loop is stopped and closed while a load runs; the key is asked for in another loop")
def cache_after_a_loop(contender: CacheContender) -> str:
    made: list[Any] = []
    callers: list[object] = []  # what is collected is closed, and gives its locks back

    async def load(key: str) -> object:
        if len(made) == 1:
            await asyncio.sleep(60)
        return "value"

    async def leave() -> None:
        made.append(contender.make(load))
        caller = _ask(made[0].load, "a")
        callers.append(caller)
        await asyncio.wait([caller], timeout=_BRIEFLY)

    async def come() -> str:
        made.append(None)
        return told(_who("the caller", await outcome(_ask(made[0].load, "a")), "value"))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()  # with its tasks as they are, unlike `asyncio.run`
    return asyncio.run(come())


@row(GROUP, "a load gives `None`; the key is asked for again")
async def cache_of_none(contender: CacheContender) -> str:
    calls = 0

    async def load(key: str) -> object:
        nonlocal calls
        calls += 1
        return None

    cache = contender.make(load)
    got = [await outcome(_ask(cache.load, "a")) for _ in range(2)]
    bad = next((said for each in got if (said := _who("a caller", each, None))), None)
    return told(bad, None if calls == 1 else "`None` is never cached")


class _Value:
    pass


@row(GROUP, "100 values expire and nobody asks for them again; after 3 s")
async def cache_holds_expired(contender: CacheContender) -> str:
    values: weakref.WeakSet[_Value] = weakref.WeakSet()

    async def load(key: str) -> object:
        value = _Value()
        values.add(value)
        return value

    cache = contender.make(load, _TTL)
    for number in range(100):
        await cache.load(f"key:{number}")
    end = asyncio.get_running_loop().time() + _TTL + _TIME_TO_FREE
    while asyncio.get_running_loop().time() < end:
        await asyncio.sleep(_TTL)
        gc.collect()
        if not values:
            return OK
    return f"{len(values)} are still held"


_user: ContextVar[str] = ContextVar("_user", default="nobody")


@row(GROUP, "a load reads a context variable that two callers have set, each to their name")
async def cache_leaks_context(contender: CacheContender) -> str:
    gate = asyncio.Event()

    async def load(key: str) -> object:
        await gate.wait()
        return _user.get()

    cache = contender.make(load)

    def ask_as(user: str) -> asyncio.Future[Any]:
        context = copy_context()
        context.run(_user.set, user)
        return context.run(_ask, cache.load, "a")

    callers = [ask_as(user) for user in ("alice", "mallory")]
    await asyncio.sleep(_BRIEFLY)
    gate.set()
    got = await outcomes(callers)
    if got[1].found("alice"):
        return "mallory gets what was loaded as alice"
    return told(*(_who("a caller", each, "nobody") for each in got))


@row(GROUP, "a load asks for its own key")
async def cache_recursion(contender: CacheContender) -> str:
    async def load(key: str) -> object:
        return await cache.load(key)

    cache = contender.make(load)
    got = await outcome(_ask(cache.load, "a"))
    return OK if got.failed() and not got.failed(RecursionError) else f"the caller {got}"


@row(GROUP, "the loads of two keys ask for each other, from two callers at once")
async def cache_circle(contender: CacheContender) -> str:
    other = {"a": "b", "b": "a"}

    async def load(key: str) -> object:
        await asyncio.sleep(_BRIEFLY)
        return await cache.load(other[key])

    cache = contender.make(load)
    got = await outcomes([_ask(cache.load, "a"), _ask(cache.load, "b")])
    bad = [each for each in got if not each.failed() or each.failed(RecursionError)]
    return told(*{f"a caller {each}" for each in bad})


async def _called_with(contender: CacheContender, *arguments: object) -> tuple[list[Outcome], int]:
    calls = 0

    async def function(argument: object) -> object:
        nonlocal calls
        calls += 1
        return f"v{calls}"

    decorated = contender.decorate(function)
    return [await outcome(_ask(decorated, each)) for each in arguments], calls


@row(GROUP, "a decorated function is called with a list, twice")
async def cache_of_a_list(contender: CacheContender) -> str:
    got, calls = await _called_with(contender, [1, 2], [1, 2])
    bad = next((said for each in got if (said := _who("the caller", each))), None)
    return told(bad, None if bad or calls == 1 else "it is run twice")


@row(GROUP, "a decorated function is called with two different functions")
async def cache_of_functions(contender: CacheContender) -> str:
    got, _ = await _called_with(contender, lambda: 1, lambda: 2)
    if got[1].found("v1"):
        return "the second call gets the first one's value"
    return told(_who("the first call", got[0], "v1"), _who("the second call", got[1], "v2"))


@row(GROUP, "a batch has an `Exception` in the place of one value; the key is asked for again")
async def cache_stores_an_error(contender: CacheContender) -> str:
    calls = 0

    async def load_many(keys: list[str]) -> object:
        nonlocal calls
        calls += 1
        return [ConnectionError() if calls == 1 else "value" for _ in keys]

    first, later = await _batched(contender, load_many)
    if later.state == "value" and isinstance(later.value, ConnectionError):
        return "the exception is handed out, and cached, as a value"
    return told(
        None if first.failed(ConnectionError) else f"the first caller {first}",
        _who("a later caller", later, "value"),
    )


@row(GROUP, "a batch has one value too few; the key is asked for again")
async def cache_stores_a_gap(contender: CacheContender) -> str:
    calls = 0

    async def load_many(keys: list[str]) -> object:
        nonlocal calls
        calls += 1
        return [] if calls == 1 else ["value" for _ in keys]

    first, later = await _batched(contender, load_many)
    if later.found(None):
        return "`None` is handed out and cached"
    return told(
        None if first.failed() else f"the first caller {first}",
        _who("a later caller", later, "value"),
    )


async def _batched(
    contender: CacheContender, load_many: Callable[[list[str]], Any]
) -> tuple[Outcome, Outcome]:
    async def load(key: str) -> object:
        return None

    batched = contender.make(load).batched
    if batched is None:
        raise NotApplicableError

    def get(key: Any) -> Awaitable[Any]:
        return batched(key, load_many)

    return await outcome(_ask(get, "a")), await outcome(_ask(get, "a"))
