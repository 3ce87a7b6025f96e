"""Results shared between requests, and what may never be: `@dataloader.shared`, rule O5."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from dataloader_cache import (
    ArgsLoaderFactory,
    AsyncCache,
    LoaderFactory,
    LoaderScope,
    dataloader,
    group_dataloader,
)
from dataloader_cache.errors import (
    BatchResultError,
    ConfigurationError,
    KeyNotFoundError,
    LoadCancelledError,
    LoadTimeoutError,
    NoScopeError,
)
from dataloader_cache.testing import BatchRecorder, ManualClock, run_virtual

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


class Broken(Exception):
    """What a batch fails with."""


class Value:
    """A value that can be watched while it goes away."""


class Request:
    """The context of a scope: whose request it is."""

    def __init__(self, tenant: Any) -> None:
        self.tenant = tenant


def tenant_of(request: Request) -> Any:
    return request.tenant


@dataclasses.dataclass(frozen=True)
class Currency:
    """The type of arguments."""

    code: str


EUR, USD = Currency("EUR"), Currency("USD")


@dataclasses.dataclass
class Post:
    """A row of a group loader."""

    id: int
    author_id: Any


def public(plan: list[list[Any]], **options: Any) -> Any:
    """Declare a public loader that adds each batch to `plan` and answers with ten times a key."""

    async def rates(keys: list[Any]) -> list[Any]:
        plan.append(list(keys))
        await asyncio.sleep(0)
        return [key * 10 for key in keys]

    return dataloader.shared(**{"ttl": None, "public": True, **options})(rates)


def varying(plan: list[Any], **options: Any) -> Any:
    """Declare a loader per tenant that answers a key with (tenant, key)."""

    async def users(keys: list[Any], tenant: Any) -> list[Any]:
        plan.append((tenant, list(keys)))
        await asyncio.sleep(0)
        return [(tenant, key) for key in keys]

    return dataloader.shared(**{"ttl": None, "vary": tenant_of, **options})(users)


def declare_halves(plan: list[list[Any]]) -> Any:
    """Declare a loader of a request's own that others provide values to."""

    @dataloader
    async def halves(keys: list[int]) -> list[str]:
        plan.append(list(keys))
        return [f"half {key}" for key in keys]

    return halves


async def request(factory: Any, *keys: Any, tenant: Any = "a") -> list[Any]:
    """Load keys in a scope of one's own."""
    async with LoaderScope(Request(tenant)):
        return await within(factory.load_many(keys))


def clock_of(factory: Any) -> ManualClock:
    """Let the entries of a factory's cache grow old by hand."""
    clock = factory.cache._clock = ManualClock()
    return clock


class Gate:
    """A batch function whose every call waits until the test answers it."""

    def __init__(self) -> None:
        self.plan: list[list[Any]] = []
        self.answers: list[asyncio.Future[Any]] = []
        self.cancelled = 0

    def public(self, **options: Any) -> Any:
        """Declare a public loader with this batch function."""

        async def rates(keys: list[Any]) -> list[Any]:
            return await self.load_fn(keys)

        return dataloader.shared(**{"ttl": None, "public": True, **options})(rates)

    async def load_fn(self, keys: list[Any]) -> Any:
        self.plan.append(list(keys))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def running(self, count: int = 1) -> None:
        """Wait until `count` calls have been made."""
        await until(lambda: len(self.answers) >= count)

    def answer(self, number: int = 0) -> None:
        """Answer a call with ten times its keys."""
        self.answers[number].set_result([key * 10 for key in self.plan[number]])


# Declaring


async def of_keys(keys: list[int]) -> list[int]:
    return keys


async def of_keys_and_tenant(keys: list[int], tenant: str) -> list[int]:
    return keys


@pytest.mark.parametrize(
    "shared",
    [
        pytest.param(dataloader.shared, id="dataloader"),
        pytest.param(functools.partial(group_dataloader.shared, by="id"), id="group"),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="neither"),
        pytest.param({"public": False}, id="public=False"),
        pytest.param({"vary": None}, id="vary=None"),
        pytest.param({"vary": tenant_of, "public": True}, id="both"),
    ],
)
def test_o5_exactly_one_of_vary_and_public_is_said(shared: Any, options: dict[str, Any]):
    """A shared loader that says neither what it depends on nor that it is public is refused."""
    with pytest.raises(ConfigurationError) as caught:
        shared(ttl=30, **options)(of_keys)
    assert "vary" in str(caught.value)
    assert "public" in str(caught.value)


def test_o5_public_false_may_stand_beside_vary():
    """`public=False` says no more than leaving it out."""
    assert "of_keys" == dataloader.shared(ttl=1, vary=tenant_of, public=False)(of_keys).name


@pytest.mark.parametrize("vary", [3, "tenant", True])
def test_o5_vary_must_be_a_function(vary: Any):
    """What a result depends on is a function of the context; anything else is refused."""
    with pytest.raises(ConfigurationError, match="vary"):
        dataloader.shared(ttl=1, vary=vary)(of_keys)


def test_o5_the_time_to_live_is_required():
    """A shared loader says how long its results live; None is for ever."""
    with pytest.raises(TypeError, match="ttl"):
        dataloader.shared(public=True)(of_keys)
    with pytest.raises(TypeError, match="ttl"):
        group_dataloader.shared(by="id", public=True)(of_keys)


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": -1},
        {"ttl": "30"},
        {"maxsize": -1},
        {"maxsize": "10"},
        {"stale_ttl": -1},
        {"refresh_ahead": 2},
        {"negative_ttl": -1},
        {"ttl_jitter": 2},
        {"eviction": "fifo"},
        {"max_batch_size": 0},
        {"batch_window": -1},
        {"load_timeout": 0},
        {"missing": "ignore"},
        {"limiter": 3},
        {"name": 3},
        {"args": "Currency"},
    ],
    ids=str,
)
def test_o5_a_wrong_option_is_refused_at_the_declaration(options: dict[str, Any]):
    """An option that can't work is refused where the factory is declared."""
    (option,) = options
    with pytest.raises(ConfigurationError, match=option):
        dataloader.shared(**{"ttl": 30, "public": True, **options})(of_keys)


def test_o5_a_shared_loader_always_remembers():
    """`cache=` is no option of a shared loader."""
    with pytest.raises(TypeError, match="cache"):
        dataloader.shared(ttl=30, public=True, cache=False)


def test_o5_a_shared_factory_has_its_cache():
    """`cache` is the result cache of all requests, named for the factory."""
    rates = public([], name="rates", maxsize=3)
    assert isinstance(rates, LoaderFactory)
    assert isinstance(rates.cache, AsyncCache)
    assert rates.cache is rates.cache
    assert 0 == len(rates.cache)


def test_o5_each_factory_has_a_cache_of_its_own():
    """Two factories share no results, also with one function and one name."""
    one = dataloader.shared(ttl=1, public=True)(of_keys)
    other = dataloader.shared(ttl=1, public=True)(of_keys)
    assert one.cache is not other.cache


# What is shared


async def test_o5_a_fresh_scope_finds_what_another_has_loaded():
    """A result is loaded once for all requests."""
    plan: list[list[int]] = []
    rates = public(plan)
    for _ in range(3):
        assert [10, 20] == await request(rates, 1, 2)
    assert [[1, 2]] == plan
    assert 2 == len(rates.cache)


async def test_o5_only_what_is_missing_is_asked_for():
    """Of a batch only the keys that no request has loaded go to the batch function."""
    plan: list[list[int]] = []
    rates = public(plan)
    await request(rates, 2)
    assert [10, 20, 30] == await request(rates, 1, 2, 3)
    assert [[2], [1, 3]] == plan


async def test_o5_a_result_is_remembered_by_the_request_too():
    """A request sees one result for a key, whatever happens to the cache meanwhile."""
    plan: list[list[int]] = []
    rates = public(plan)
    async with LoaderScope():
        assert 10 == await within(rates.load(1))
        rates.cache.clear()
        assert 10 == await within(rates.load(1))
        assert 10 == rates.peek(1)
    assert [[1]] == plan


async def test_o5_a_load_in_progress_is_joined_by_other_requests():
    """A key that one request is loading the others don't load again."""
    gate = Gate()
    rates = gate.public()
    first = asyncio.create_task(request(rates, 1))
    await gate.running()
    others = [asyncio.create_task(request(rates, 1)) for _ in range(3)]
    await ticks(30)
    gate.answer()
    assert [[10]] * 4 == await outcomes(first, *others)
    assert [[1]] == gate.plan


async def test_o3_shared_loads_of_several_scopes_are_one_batch():
    """Keys that several requests load at about the same time go to the batch function together."""
    plan: list[list[int]] = []
    rates = public(plan)
    found = await outcomes(request(rates, 1, 2), request(rates, 2, 3), request(rates, 4))
    assert [[10, 20], [20, 30], [40]] == found
    assert [[1, 2, 3, 4]] == plan


async def test_o3_shared_batches_are_recorded_under_the_factory_s_name():
    """A recorder sees the one batch that was sent for several requests."""
    rates = public([])
    with BatchRecorder() as recorder:
        await outcomes(request(rates, 1, 2), request(rates, 2, 3))
        await request(rates, 1)
    assert [("rates", [1, 2, 3])] == recorder.plan


async def test_o3_max_batch_size_holds_across_scopes():
    """No batch has more than `max_batch_size` keys, whoever wants them."""
    plan: list[list[int]] = []
    rates = public(plan, max_batch_size=2)
    await outcomes(request(rates, 1, 2, 3), request(rates, 4, 5), request(rates, 6))
    assert 2 == max(map(len, plan))
    assert [1, 2, 3, 4, 5, 6] == sorted(key for batch in plan for key in batch)


def test_o3_a_window_in_seconds_gathers_across_requests():
    """With `batch_window` requests that come within it are one batch."""
    plan: list[list[int]] = []
    rates = public(plan, batch_window=1.0)

    async def main() -> None:
        tasks = []
        for key in (1, 2, 3):
            tasks.append(asyncio.create_task(request(rates, key)))
            await asyncio.sleep(0.3)
        await asyncio.gather(*tasks)

    run_virtual(main)
    assert [[1, 2, 3]] == plan


def test_o3_a_hit_does_not_wait_for_the_window_in_seconds():
    """A request that finds a result in the cache has it without the shared batch's window."""
    rates = public([], batch_window=1.0)

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        times = []
        for keys in ([1], [1], [1, 2]):
            began = loop.time()
            await request(rates, *keys)
            times.append(loop.time() - began)
        return times

    assert [1.0, 0.0, 1.0] == run_virtual(main)


async def test_o5_a_shared_loader_needs_a_scope():
    """Also what is public is loaded in a scope, which remembers it for the request."""
    rates = public([])
    with pytest.raises(NoScopeError, match="'rates'"):
        rates.load(1)


# What is kept apart: vary


async def test_o5_results_of_different_tenants_never_meet():
    """A result is found again by requests with an equal `vary` value only."""
    plan: list[Any] = []
    users = varying(plan)
    for tenant in ("a", "b", "a", "b"):
        assert [(tenant, 1)] == await request(users, 1, tenant=tenant)
    assert [("a", [1]), ("b", [1])] == plan


async def test_o5_batches_of_different_tenants_never_mix():
    """Loads of one tenant are one batch across requests, those of another tenant another."""
    plan: list[Any] = []
    users = varying(plan)
    found = await outcomes(
        request(users, 1, 2, tenant="a"),
        request(users, 1, 3, tenant="b"),
        request(users, 2, 4, tenant="a"),
    )
    assert [[("a", 1), ("a", 2)], [("b", 1), ("b", 3)], [("a", 2), ("a", 4)]] == found
    assert [("a", [1, 2, 4]), ("b", [1, 3])] == sorted(plan)


async def test_o5_flights_of_other_tenants_are_not_joined():
    """A key that is being loaded for one tenant is loaded for the other one too."""
    running: list[Any] = []
    go = asyncio.Event()

    @dataloader.shared(ttl=None, vary=tenant_of)
    async def users(keys: list[int], tenant: str) -> list[Any]:
        running.append((tenant, keys))
        await go.wait()
        return [(tenant, key) for key in keys]

    first = asyncio.create_task(request(users, 1, tenant="a"))
    await until(lambda: running)
    second = asyncio.create_task(request(users, 1, tenant="b"))
    await until(lambda: len(running) == 2)
    go.set()
    assert [[("a", 1)], [("b", 1)]] == await outcomes(first, second)
    assert [("a", [1]), ("b", [1])] == running


@pytest.mark.parametrize(
    "one, other",
    [
        pytest.param(("ab", "c"), ("a", "bc"), id="strings"),
        pytest.param((("a", "b"), "c"), ("a", ("b", "c")), id="tuples"),
        pytest.param((None, ("a", 1)), ("a", 1), id="None and a pair"),
        pytest.param((1, 2), (2, 1), id="the other way round"),
        pytest.param(("1", 1), (1, "1"), id="types"),
    ],
)
async def test_o5_no_key_of_one_tenant_looks_like_another_s(one: Any, other: Any):
    """Tenant and key are not put together in a way that another pair could give too."""
    plan: list[Any] = []
    users = varying(plan)
    for tenant, key in (one, other, one, other):
        assert [(tenant, key)] == await request(users, key, tenant=tenant)
    assert 2 == len(plan)


async def test_o5_none_is_a_tenant_like_any_other():
    """A `vary` value of None shares with None only."""
    plan: list[Any] = []
    users = varying(plan)
    for tenant in (None, "a", None):
        assert [(tenant, 1)] == await request(users, 1, tenant=tenant)
    assert [(None, [1]), ("a", [1])] == plan


async def test_o5_equal_values_are_the_same_tenant():
    """`vary` values go by equality and not by identity."""
    plan: list[Any] = []
    users = varying(plan)
    await request(users, 1, tenant=("a", "b"))
    await request(users, 1, tenant=tuple("ab"))
    assert [(("a", "b"), [1])] == plan


async def test_o5_the_second_parameter_is_the_value_and_not_the_context():
    """A shared batch function gets what `vary` gave, and nothing of the request."""
    plan: list[Any] = []
    users = varying(plan)
    await request(users, 1, tenant="a")
    assert [("a", [1])] == plan
    assert type(plan[0][0]) is str


async def test_o5_the_second_parameter_may_be_left_out():
    """A function of keys only still keeps the results of different values apart."""
    plan: list[list[int]] = []

    @dataloader.shared(ttl=None, vary=tenant_of)
    async def users(keys: list[int]) -> list[int]:
        plan.append(list(keys))
        return keys

    for tenant in ("a", "b", "a"):
        await request(users, 1, tenant=tenant)
    await outcomes(request(users, 2, tenant="a"), request(users, 3, tenant="b"))
    assert [[1], [1], [2], [3]] == plan


async def test_o5_a_value_that_can_t_be_hashed_is_refused():
    """A `vary` function that gives a list is told so, with the loader's name."""
    users = varying([])
    async with LoaderScope(Request(["a"])):
        with pytest.raises(TypeError, match=r"'users'.*hashable"):
            await within(users.load(1))


async def test_o5_what_vary_raises_comes_out():
    """An error of the `vary` function is the load's error, and loads nothing."""
    plan: list[Any] = []

    def refuse(_: Request) -> str:
        raise PermissionError("no tenant")

    users = varying(plan, vary=refuse)
    async with LoaderScope(Request("a")):
        with pytest.raises(PermissionError, match="no tenant"):
            await within(users.load(1))
    assert [] == plan


async def test_o5_a_context_that_is_unset_is_asked_for():
    """A loader that varies, in a scope without a context, says how to give one."""
    users = varying([])
    async with LoaderScope():
        with pytest.raises(NoScopeError, match=r"'users'.*LoaderScope\(context="):
            await within(users.load(1))


async def test_o5_a_public_loader_needs_no_context():
    """What depends on nothing is loaded the same in scopes with and without a context."""
    plan: list[list[int]] = []
    rates = public(plan)
    async with LoaderScope():
        assert 10 == await within(rates.load(1))
    assert [10] == await request(rates, 1)
    assert [[1]] == plan


async def test_o5_vary_is_not_asked_in_a_request_that_loads_nothing():
    """Opening a scope, or loading something else, computes no `vary` value."""
    asked: list[Any] = []

    def vary(request: Request) -> Any:
        asked.append(request)
        return request.tenant

    users, rates = varying([], vary=vary), public([])
    await request(rates, 1)
    assert [] == asked
    await request(users, 1)
    assert 1 == len(asked)


async def test_o5_vary_is_asked_again_after_a_reset():
    """A request whose tenant changed is served as the new tenant from its next reset on."""
    plan: list[Any] = []
    users, asker = varying(plan), Request("a")
    async with LoaderScope(asker) as scope:
        before = await within(users.load(1))
        asker.tenant = "b"
        scope.reset()
        after = await within(users.load(1))
    assert (("a", 1), ("b", 1)) == (before, after)
    assert [("a", [1]), ("b", [1])] == plan


async def test_o5_vary_is_asked_again_for_loaders_with_args():
    """A loader of some arguments serves the new tenant too, whoever still holds it."""
    asker = Request("a")

    @dataloader.shared(ttl=None, vary=tenant_of, args=Currency)
    async def prices(keys: list[int], tenant: str, currency: Currency) -> list[Any]:
        return [(tenant, key) for key in keys]

    async with LoaderScope(asker) as scope:
        loader = scope[prices](EUR)
        asker.tenant = "b"
        scope.reset()
        assert ("b", 1) == await within(loader.load(1))


async def test_o5_a_clear_after_a_reset_is_for_the_new_tenant():
    """`clear` reaches the values that the request would be served now, and no others."""
    plan: list[Any] = []
    users, asker = varying(plan), Request("a")
    async with LoaderScope(asker) as scope:
        await within(users.load(1))
        await request(users, 1, tenant="b")
        asker.tenant = "b"
        scope.reset()
        users.clear(1)
    await request(users, 1, tenant="a")
    await request(users, 1, tenant="b")
    assert [("a", [1]), ("b", [1]), ("b", [1])] == plan


async def test_o5_what_vary_raises_at_a_reset_is_the_error_of_later_loads():
    """A request that lost its tenant is served nothing, until a reset at which it has one."""
    plan: list[Any] = []
    users = varying(plan, vary=lambda asker: asker.tenants.pop(0))
    asker = Request(None)
    asker.tenants = ["a"]  # type: ignore[attr-defined]
    async with LoaderScope(asker) as scope:
        await within(users.load(1))
        scope.reset()
        with pytest.raises(IndexError):
            await within(users.load(1))
        with pytest.raises(IndexError):
            users.clear(1)
        asker.tenants = ["c"]  # type: ignore[attr-defined]
        scope.reset()
        assert ("c", 1) == await within(users.load(1))
    assert [("a", [1]), ("c", [1])] == plan


# No leak: contexts


@pytest.mark.parametrize("kind", ["public", "vary"])
async def test_o5_shared_loads_run_in_an_empty_context(kind: str):
    """No variable of any caller reaches a shared batch function, and the scope doesn't either."""
    user_name.set("set before the declaration")
    seen: list[Any] = []

    async def load_fn(keys: list[int]) -> list[int]:
        seen.append((user_name.get(), LoaderScope.current(None)))
        await asyncio.sleep(0)
        seen.append((user_name.get(), LoaderScope.current(None)))
        return keys

    options: Any = {"public": True} if kind == "public" else {"vary": tenant_of}
    users = dataloader.shared(ttl=None, **options)(load_fn)

    async def load(name: str, key: int) -> None:
        user_name.set(name)
        async with LoaderScope(Request("a")):
            user_name.set(f"{name} inside")
            await users.load(key)

    await within(asyncio.gather(load("ann", 1), load("ben", 2)))
    await within(load("cid", 3))
    assert [("nobody", None)] * 4 == seen


async def test_o5_what_a_shared_load_sets_reaches_nobody():
    """A variable that a shared batch function sets is seen by no other load and no caller."""
    seen: list[str] = []

    @dataloader.shared(ttl=None, public=True)
    async def rates(keys: list[int]) -> list[int]:
        seen.append(user_name.get())
        user_name.set("set by a load")
        return keys

    await request(rates, 1)
    await request(rates, 2)
    assert ["nobody", "nobody"] == seen
    assert "nobody" == user_name.get()


async def test_o5_a_shared_load_is_in_no_scope():
    """A shared batch function can't reach the loaders of the request that happened to ask."""

    @dataloader
    async def users(keys: list[int], context: Any) -> list[Any]:
        return [context for _ in keys]

    @dataloader.shared(ttl=None, public=True)
    async def rates(keys: list[int]) -> list[Any]:
        return await users.load_many(keys)

    async with LoaderScope(context="secret"):
        (error,) = await outcomes(rates.load(1))
    assert isinstance(error, NoScopeError)
    assert 0 == len(rates.cache)


async def test_o5_vary_runs_in_the_request():
    """The `vary` function itself may look at its request's variables: it shares nothing."""
    plan: list[Any] = []
    users = varying(plan, vary=lambda _: user_name.get())

    async def load(name: str) -> None:
        user_name.set(name)
        await request(users, 1)

    await within(asyncio.gather(load("ann"), load("ben")))
    assert [("ann", [1]), ("ben", [1])] == sorted(plan)


# No leak: errors and denials


async def test_o5_a_failed_batch_is_not_remembered():
    """The error of a batch goes to those who waited; the next request asks anew."""
    calls = 0

    @dataloader.shared(ttl=None, public=True)
    async def rates(keys: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Broken
        return keys

    with pytest.raises(Broken):
        await request(rates, 1)
    assert 0 == len(rates.cache)
    assert [1] == await request(rates, 1)
    assert 2 == calls


async def test_o5_a_denial_is_not_remembered():
    """A key's own error is raised to its callers, and asked again; its neighbours are kept."""
    plan: list[Any] = []

    @dataloader.shared(ttl=None, vary=tenant_of)
    async def users(keys: list[int], tenant: str) -> list[Any]:
        plan.append(list(keys))
        return [PermissionError(key) if key == 2 else key for key in keys]

    for _ in range(2):
        async with LoaderScope(Request("a")):
            one, two = await within(users.load_many([1, 2], return_exceptions=True))
            assert (1, PermissionError) == (one, type(two))
    assert [[1, 2], [2]] == plan
    assert 1 == len(users.cache)


async def test_o5_a_denial_is_not_remembered_within_the_request_either():
    """A key's error is asked for again by the same request too."""
    plan: list[Any] = []

    @dataloader.shared(ttl=None, public=True)
    async def users(keys: list[int]) -> list[Any]:
        plan.append(list(keys))
        return [PermissionError(key) for key in keys]

    async with LoaderScope():
        for _ in range(2):
            (error,) = await outcomes(users.load(1))
            assert isinstance(error, PermissionError)
    assert [[1], [1]] == plan


@pytest.mark.parametrize("result", [None, "ab", [1]], ids=repr)
async def test_o5_a_wrong_result_is_not_remembered(result: Any):
    """A batch that makes no sense is an error for its callers only."""
    answers = [result, {1: 10, 2: 20}]

    @dataloader.shared(ttl=None, public=True)
    async def rates(keys: list[int]) -> Any:
        return answers.pop(0)

    with pytest.raises(BatchResultError, match="'rates'"):
        await request(rates, 1, 2)
    assert 0 == len(rates.cache)
    assert [10, 20] == await request(rates, 1, 2)


async def test_o5_a_missing_value_is_remembered_as_none():
    """None is a value: a key that a mapping lacks is not asked for by every request."""
    plan: list[list[int]] = []

    @dataloader.shared(ttl=None, public=True)
    async def users(keys: list[int]) -> dict[int, int]:
        plan.append(list(keys))
        return {}

    assert [[None], [None]] == [await request(users, 1), await request(users, 1)]
    assert [[1]] == plan


async def test_o5_a_missing_value_that_raises_is_not_remembered():
    """With `missing="raise"` an absent key is an error, and is asked for again."""
    plan: list[list[int]] = []

    @dataloader.shared(ttl=None, public=True, missing="raise")
    async def users(keys: list[int]) -> dict[int, int]:
        plan.append(list(keys))
        return {}

    for _ in range(2):
        with pytest.raises(KeyNotFoundError, match="'users'"):
            await request(users, 1)
    assert ([[1], [1]], 0) == (plan, len(users.cache))


# Time and room


async def test_o5_a_result_lives_for_its_ttl():
    """A result is served until it has been there for `ttl` seconds."""
    plan: list[list[int]] = []
    rates = public(plan, ttl=30)
    clock = clock_of(rates)
    await request(rates, 1)
    clock.advance(29.9)
    await request(rates, 1)
    assert [[1]] == plan
    clock.advance(0.1)
    await request(rates, 1)
    assert [[1], [1]] == plan


async def test_o5_a_ttl_of_none_is_for_ever():
    """With `ttl=None` a result lives as long as there is room for it."""
    plan: list[list[int]] = []
    rates = public(plan, ttl=None)
    clock = clock_of(rates)
    await request(rates, 1)
    clock.advance(1e9)
    await request(rates, 1)
    assert [[1]] == plan


async def test_o5_a_ttl_of_zero_shares_what_is_in_progress_only():
    """With `ttl=0` nothing is kept, but loads at the same time are still one."""
    plan: list[list[int]] = []
    rates = public(plan, ttl=0)
    assert [[10], [10]] == await outcomes(request(rates, 1), request(rates, 1))
    assert [10] == await request(rates, 1)
    assert ([[1], [1]], 0) == (plan, len(rates.cache))


async def test_o5_an_expired_result_does_not_change_within_a_request():
    """A request that has seen a result keeps it, though it expires meanwhile."""
    plan: list[list[int]] = []
    rates = public(plan, ttl=30)
    clock = clock_of(rates)
    async with LoaderScope():
        await within(rates.load(1))
        clock.advance(60)
        assert 10 == await within(rates.load(1))
    assert [[1]] == plan


async def test_o5_maxsize_bounds_the_whole_factory():
    """All tenants together have so many results, not each of them."""
    plan: list[Any] = []
    users = varying(plan, maxsize=3)
    for tenant in ("a", "b", "c", "d"):
        await request(users, 1, 2, tenant=tenant)
        assert 3 >= len(users.cache)
    assert 3 == len(users.cache)
    plan.clear()
    await request(users, 1, 2, tenant="d")
    assert [] == plan


async def test_o5_maxsize_bounds_all_args_together():
    """Results with different arguments share the factory's room."""
    plan: list[Any] = []

    @dataloader.shared(ttl=None, maxsize=3, public=True, args=Currency)
    async def prices(keys: list[int], currency: Currency) -> list[int]:
        plan.append(list(keys))
        return keys

    async with LoaderScope():
        for code in ("EUR", "USD", "GBP"):
            await within(prices.load_many([1, 2], Currency(code)))
    assert 3 == len(prices.cache)


async def test_o5_maxsize_is_1024_where_nothing_is_said():
    """A shared factory is bounded also where nobody thought of it."""
    rates = public([])
    await request(rates, *range(1100))
    assert 1024 == len(rates.cache)


async def test_o5_a_value_of_none_may_have_a_ttl_of_its_own():
    """`negative_ttl` says how long an absence is believed."""
    plan: list[list[int]] = []

    @dataloader.shared(ttl=30, negative_ttl=5, public=True)
    async def users(keys: list[int]) -> dict[int, int]:
        plan.append(list(keys))
        return {1: 10}

    clock = clock_of(users)
    await request(users, 1, 2)
    clock.advance(6)
    assert [10, None] == await request(users, 1, 2)
    assert [[1, 2], [2]] == plan


async def test_o5_an_old_result_may_cover_for_a_failed_load():
    """Within `stale_ttl` after its expiry a result is served when the new load fails."""
    is_up = True

    @dataloader.shared(ttl=30, stale_ttl=60, public=True)
    async def rates(keys: list[int]) -> list[int]:
        if not is_up:
            raise Broken
        return keys

    clock = clock_of(rates)
    await request(rates, 1)
    is_up = False
    clock.advance(31)
    assert [1] == await request(rates, 1)
    clock.advance(60)
    with pytest.raises(Broken):
        await request(rates, 1)


async def test_o5_an_old_result_covers_for_its_own_tenant_only():
    """A tenant whose load fails is not served the old result of another one."""
    is_up = True

    @dataloader.shared(ttl=30, stale_ttl=60, vary=tenant_of)
    async def users(keys: list[int], tenant: str) -> list[Any]:
        if not is_up:
            raise Broken
        return [(tenant, key) for key in keys]

    clock = clock_of(users)
    await request(users, 1, tenant="a")
    is_up = False
    clock.advance(31)
    with pytest.raises(Broken):
        await request(users, 1, tenant="b")
    assert [("a", 1)] == await request(users, 1, tenant="a")


@pytest.mark.parametrize("kind", ["public", "vary"])
async def test_o5_a_result_may_be_refreshed_ahead(kind: str):
    """With `refresh_ahead` a hit late in a result's life is served at once and loads anew."""
    seen: list[Any] = []

    async def users(keys: list[int], tenant: Any = None) -> list[Any]:
        seen.append((tenant, list(keys), user_name.get(), LoaderScope.current(None)))
        return [len(seen) for _ in keys]

    async def rates(keys: list[int]) -> list[Any]:
        return await users(keys)

    if kind == "public":
        factory: Any = dataloader.shared(ttl=30, refresh_ahead=0.5, public=True)(rates)
    else:

        @dataloader.shared(ttl=30, refresh_ahead=0.5, vary=tenant_of)
        async def factory(keys: list[int], tenant: str) -> list[Any]:
            return await users(keys, tenant)

    clock = clock_of(factory)
    user_name.set("ann")
    await request(factory, 1)
    clock.advance(20)
    assert [1] == await request(factory, 1)
    await until(lambda: len(seen) == 2)
    await ticks(5)
    assert [2] == await request(factory, 1)
    clock.advance(14)
    assert [2] == await request(factory, 1)
    expected = (None if kind == "public" else "a", [1], "nobody", None)
    assert [expected] * 2 == seen


# Writing: prime, clear, provides


async def test_o5_prime_writes_the_request_s_memo_only():
    """What a request primes no other request sees."""
    plan: list[Any] = []
    users = varying(plan)
    async with LoaderScope(Request("a")):
        users.prime(1, "mine").prime_many({2: "mine"})
        assert ["mine", "mine"] == await within(users.load_many([1, 2]))
    assert 0 == len(users.cache)
    assert [("a", 1), ("a", 2)] == await request(users, 1, 2)
    assert [("a", [1, 2])] == plan


async def test_o5_a_forced_prime_does_not_reach_the_cache_either():
    """A request may replace what it has loaded; the others still get what was loaded."""
    plan: list[Any] = []
    users = varying(plan)
    async with LoaderScope(Request("a")):
        await within(users.load(1))
        users.prime(1, "mine", force=True)
        assert "mine" == await within(users.load(1))
    assert [("a", 1)] == await request(users, 1)
    assert [("a", [1])] == plan


async def test_o5_a_prime_during_a_load_does_not_reach_other_requests():
    """A key primed while it is being loaded is stored as it was loaded."""
    gate = Gate()
    rates = gate.public()
    async with LoaderScope():
        waiting = rates.load(1)
        await gate.running()
        rates.prime(1, "mine")
        gate.answer()
        assert [10] == await outcomes(waiting)
        assert "mine" == await within(rates.load(1))
    assert [10] == await request(rates, 1)
    assert [[1]] == gate.plan


async def test_o5_a_prime_before_a_batch_leaves_does_not_reach_other_requests():
    """A primed value settles the waiters of its own request, not those who share the batch."""
    plan: list[list[int]] = []
    rates = public(plan)
    primed: list[Any] = []

    async def priming() -> list[Any]:
        async with LoaderScope():
            waiting = rates.load(1)
            rates.prime(1, "mine")
            primed.append("mine")
            return [await waiting, await rates.load(1)]

    found = await outcomes(request(rates, 1), priming(), request(rates, 1))
    assert [[10], ["mine", "mine"], [10]] == found
    assert [10] == await request(rates, 1)


@pytest.mark.parametrize("way", ["clear", "clear_many"])
async def test_o5_clear_reaches_the_memo_and_the_cache(way: str):
    """A cleared key is asked for again, by this request and by others."""
    plan: list[Any] = []
    users = varying(plan)
    await request(users, 1, 2)
    async with LoaderScope(Request("a")):
        await within(users.load_many([1, 2]))
        if way == "clear":
            assert users is users.clear(1)
        else:
            assert users is users.clear_many([1])
        await within(users.load_many([1, 2]))
    await request(users, 1, 2)
    assert [("a", [1, 2]), ("a", [1])] == plan


async def test_o5_clear_works_in_a_request_that_has_not_loaded():
    """A request, of a mutation perhaps, clears what others have loaded, of its tenant only."""
    plan: list[Any] = []
    users = varying(plan)
    for tenant in ("a", "b"):
        await request(users, 1, tenant=tenant)
    async with LoaderScope(Request("a")):
        users.clear(1)
    for tenant in ("a", "b"):
        await request(users, 1, tenant=tenant)
    assert [("a", [1]), ("b", [1]), ("a", [1])] == plan


async def test_o5_a_load_that_was_running_when_its_key_was_cleared_is_not_kept():
    """What was read before a change is not served after it; those who waited get it."""
    gate = Gate()
    rates = gate.public()
    before = asyncio.create_task(request(rates, 1))
    await gate.running(1)
    async with LoaderScope():
        rates.clear(1)
    after = asyncio.create_task(request(rates, 1))
    await gate.running(2)
    gate.answers[0].set_result(["old"])
    assert [["old"]] == await outcomes(before)
    gate.answers[1].set_result(["new"])
    assert [["new"]] == await outcomes(after)
    assert ["new"] == await request(rates, 1)
    assert [[1], [1]] == gate.plan


async def test_o5_clear_all_forgets_the_memo_only():
    """`clear_all` is for the request; what is shared stays."""
    plan: list[Any] = []
    users = varying(plan)
    async with LoaderScope(Request("a")):
        await within(users.load(1))
        assert users is users.clear_all()
        assert users.peek(1) is None
        assert ("a", 1) == await within(users.load(1))
    assert ([("a", [1])], 1) == (plan, len(users.cache))


async def test_o5_reset_forgets_the_memo_only():
    """A scope's `reset` does not throw away what all requests share."""
    plan: list[Any] = []
    users = varying(plan)
    async with LoaderScope(Request("a")) as scope:
        await within(users.load(1))
        users.prime(2, "mine")
        scope.reset()
        assert [("a", 1), ("a", 2)] == await within(users.load_many([1, 2]))
    assert [("a", [1]), ("a", [2])] == plan


async def test_o5_the_cache_can_be_cleared():
    """`users.cache.clear()` is for everybody: every tenant's results are gone."""
    plan: list[Any] = []
    users = varying(plan)
    for _ in range(2):
        await outcomes(request(users, 1, tenant="a"), request(users, 1, tenant="b"))
        users.cache.clear()
        assert 0 == len(users.cache)
    assert [("a", [1]), ("a", [1]), ("b", [1]), ("b", [1])] == sorted(plan)


async def test_o5_provides_writes_the_request_s_memo_only():
    """A value that another factory provides is served to its request, and shared with nobody."""
    plan: list[Any] = []
    shared = varying(plan)

    @dataloader
    async def rows(keys: list[int]) -> list[str]:
        return [f"row {key}" for key in keys]

    rows.provides(shared, key=lambda row: int(row[4:]))
    async with LoaderScope(Request("a")):
        await within(rows.load(1))
        assert "row 1" == await within(shared.load(1))
    assert 0 == len(shared.cache)
    assert [("a", 1)] == await request(shared, 1)
    assert [("a", [1])] == plan


async def test_o7_a_shared_value_is_provided_whether_or_not_it_was_in_the_cache():
    """What a request gets from a shared factory primes the other one, loaded or found."""
    plan: list[Any] = []
    shared = public(plan)

    @dataloader
    async def halves(keys: list[int]) -> list[int]:
        plan.append(("halves", list(keys)))
        return keys

    shared.provides(halves, key=lambda value: value // 2)
    for _ in range(2):
        async with LoaderScope():
            await within(shared.load(1))
            assert 10 == await within(halves.load(5))
    assert [[1]] == plan


async def test_o7_a_value_from_the_cache_does_not_come_back_after_a_clear():
    """What was read before a clear, and found in the cache after it, is not provided."""
    plan: list[Any] = []
    shared = public([])
    halves = declare_halves(plan)
    shared.provides(halves, key=lambda value: value // 2)
    await request(shared, 1)
    async with LoaderScope():
        halves.clear(5)
        await within(shared.load(1))
        assert halves.peek(5) is None
        assert "half 5" == await within(halves.load(5))
    assert [[5]] == plan


async def test_o7_a_value_from_the_cache_is_provided_after_a_reset():
    """A scope that was reset, for a new event perhaps, provides what is in a cache as a new one."""
    plan: list[Any] = []
    shared = public([])
    halves = declare_halves(plan)
    shared.provides(halves, key=lambda value: value // 2)
    async with LoaderScope() as scope:
        halves.clear(5)
        scope.reset()
        await within(shared.load(1))
        assert 10 == await within(halves.load(5))
    assert [] == plan


# A request that goes away


async def test_o3_a_scope_that_closes_settles_its_waiters_and_no_one_else_s():
    """A request that ends while a shared load runs leaves that to the others."""
    gate = Gate()
    rates = gate.public()
    async with LoaderScope():
        gone = [rates.load(1), rates.load_many([1, 2])]
        await gate.running()
        other = asyncio.create_task(request(rates, 1, 2))
        await ticks(30)
    assert [LoadCancelledError] * 2 == [type(error) for error in await outcomes(*gone)]
    gate.answer()
    assert [[10, 20]] == await outcomes(other)
    assert ([[1, 2]], 0) == (gate.plan, gate.cancelled)


async def test_o3_a_shared_load_that_nobody_waits_for_is_kept():
    """A request that ends while its shared load runs leaves the result to the next one."""
    gate = Gate()
    rates = gate.public()
    async with LoaderScope():
        gone = rates.load(1)
        await gate.running()
    await outcomes(gone)
    gate.answer()
    await until(lambda: len(rates.cache) == 1)
    assert [10] == await request(rates, 1)
    assert ([[1]], 0) == (gate.plan, gate.cancelled)


async def test_o3_an_exit_does_not_wait_for_shared_loads():
    """What goes on for others, or for the cache, holds up no request's end."""
    gate = Gate()
    rates = gate.public()
    loop = asyncio.get_running_loop()
    async with LoaderScope():
        gone = rates.load(1)
        await gate.running()
        began = loop.time()
    assert 0.5 > loop.time() - began
    assert not gate.answers[0].done()
    await outcomes(gone)
    gate.answer()
    await until(lambda: len(rates.cache) == 1)


async def test_o3_a_scope_that_closes_before_a_shared_batch_leaves_takes_its_keys_along():
    """Keys that only a closed scope wanted are not asked for; those of others are."""
    plan: list[list[int]] = []
    rates = public(plan)
    other = asyncio.create_task(request(rates, 1))
    async with LoaderScope():
        gone = rates.load_many([1, 2])
    assert [LoadCancelledError] == [type(error) for error in await outcomes(gone)]
    assert [[10]] == await outcomes(other)
    assert [[1]] == plan


async def test_w1_a_cancelled_request_takes_nobody_along():
    """Cancelling the request that started a shared load changes nothing for those who joined."""
    gate = Gate()
    rates = gate.public()
    first = asyncio.create_task(request(rates, 1))
    await gate.running()
    others = [asyncio.create_task(request(rates, 1)) for _ in range(2)]
    await ticks(30)
    first.cancel()
    await asyncio.wait([first])
    gate.answer()
    assert [[10], [10]] == await outcomes(*others)
    assert [[1]] == gate.plan


async def test_w1_a_request_cancelled_at_any_await_takes_nobody_along():
    """Wherever a request is cancelled, others get their values, each key loaded once a tenant."""
    before = asyncio.all_tasks()
    was_cancelled: list[bool] = []
    for moment in range(60):
        plan: list[Any] = []
        users = varying(plan, max_concurrent_batches=1)
        victim = asyncio.create_task(request(users, 1, 2))
        await ticks(moment % 3)
        other = asyncio.create_task(request(users, 2, 3))
        stranger = asyncio.create_task(request(users, 1, tenant="b"))
        await ticks(moment)
        victim.cancel()
        found = await outcomes(other, stranger)
        await asyncio.wait([victim])
        was_cancelled.append(victim.cancelled())
        assert [[("a", 2), ("a", 3)], [("b", 1)]] == found, moment
        await ticks(40)
        assert before == asyncio.all_tasks(), moment
        asked = sorted((tenant, key) for tenant, keys in plan for key in keys)
        assert asked in ([("a", 1), ("a", 2), ("a", 3), ("b", 1)], [("a", 2), ("a", 3), ("b", 1)])
        assert len(asked) == len(users.cache), moment
    assert (True, False) == (was_cancelled[0], was_cancelled[-1])


def test_load_timeout_ends_a_shared_load():
    """A shared load that takes too long fails for all, and is not stored."""

    @dataloader.shared(ttl=None, public=True, load_timeout=1.0)
    async def rates(keys: list[int]) -> list[int]:
        await asyncio.sleep(5)
        return keys

    async def main() -> list[Any]:
        found = await outcomes(request(rates, 1), request(rates, 1))
        await asyncio.sleep(10)
        return found

    assert [LoadTimeoutError] * 2 == [type(error) for error in run_virtual(main)]
    assert 0 == len(rates.cache)


@pytest.mark.parametrize("option", ["limiter", "max_concurrent_batches"])
async def test_d6_limits_hold_for_all_tenants_together(option: str):
    """A shared factory's limit counts over all requests and `vary` values."""
    inside = most = 0
    options: dict[str, Any] = {option: asyncio.Semaphore(1) if option == "limiter" else 1}

    @dataloader.shared(ttl=None, vary=tenant_of, **options)
    async def users(keys: list[int], tenant: str) -> list[int]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await ticks(5)
        inside -= 1
        return keys

    await outcomes(*(request(users, 1, tenant=tenant) for tenant in "abc"))
    assert 1 == most


async def test_d6_a_request_loader_may_load_what_is_shared_with_a_limit_of_one():
    """A batch that holds the scope's only slot can wait for a shared load."""
    rates = public([])

    @dataloader
    async def prices(keys: list[int]) -> list[int]:
        return await rates.load_many(keys)

    async with LoaderScope(limiter=asyncio.Semaphore(1)):
        assert [10, 20] == await outcomes(prices.load(1), prices.load(2))


async def test_w4_a_shared_load_that_waits_for_itself_is_refused():
    """A shared batch function that opens a scope to load its own key does not hang."""

    @dataloader.shared(ttl=None, public=True)
    async def rates(keys: list[int]) -> list[int]:
        async with LoaderScope():
            return await rates.load_many(keys)

    async with LoaderScope():
        (error,) = await outcomes(rates.load(1))
    assert isinstance(error, RuntimeError)
    assert "rates" in str(error)


# Arguments and groups


async def test_o6_a_shared_loader_with_args():
    """Results and batches go by arguments as they go by tenant."""
    plan: list[Any] = []

    @dataloader.shared(ttl=None, vary=tenant_of, args=Currency)
    async def prices(keys: list[int], tenant: str, currency: Currency) -> list[str]:
        plan.append((tenant, currency.code, list(keys)))
        return [f"{tenant} {key} {currency.code}" for key in keys]

    assert isinstance(prices, ArgsLoaderFactory)

    async def price(tenant: str, key: int, currency: Currency) -> str:
        async with LoaderScope(Request(tenant)):
            return await prices.load(key, currency)

    for _ in range(2):
        found = await outcomes(
            price("a", 1, EUR), price("a", 2, EUR), price("a", 1, USD), price("b", 1, EUR)
        )
        assert ["a 1 EUR", "a 2 EUR", "a 1 USD", "b 1 EUR"] == found
    assert [("a", "EUR", [1, 2]), ("a", "USD", [1]), ("b", "EUR", [1])] == sorted(plan)
    assert 4 == len(prices.cache)


async def test_o6_a_public_loader_with_args():
    """A public function of two parameters gets keys and arguments."""
    plan: list[Any] = []

    @dataloader.shared(ttl=None, public=True, args=Currency)
    async def prices(keys: list[int], currency: Currency) -> list[str]:
        plan.append((list(keys), currency))
        return [f"{key} {currency.code}" for key in keys]

    for _ in range(2):
        async with LoaderScope() as scope:
            assert "1 EUR" == await within(prices.load(1, EUR))
            assert "1 USD" == await within(scope[prices](USD).load(1))
    assert [([1], EUR), ([1], USD)] == plan


async def test_o6_clearing_goes_by_args():
    """A key cleared with some arguments stays known with others, in memo and cache."""
    plan: list[Any] = []

    @dataloader.shared(ttl=None, public=True, args=Currency)
    async def prices(keys: list[int], currency: Currency) -> list[str]:
        plan.append((list(keys), currency))
        return [f"{key} {currency.code}" for key in keys]

    for _ in range(2):
        async with LoaderScope():
            await outcomes(prices.load(1, EUR), prices.load(1, USD))
            prices.clear(1, EUR)
            prices.clear_all()
    assert [([1], EUR), ([1], USD), ([1], EUR)] == plan
    assert 1 == len(prices.cache)


async def test_o6_a_shared_group_loader():
    """Lists of rows are shared like any value, the empty one too."""
    plan: list[Any] = []
    rows = [Post(10, 1), Post(11, 1)]

    @group_dataloader.shared(by="author_id", ttl=None, vary=tenant_of)
    async def posts(keys: list[int], tenant: str) -> list[Post]:
        plan.append((tenant, list(keys)))
        return rows

    for _ in range(2):
        assert [rows, []] == await request(posts, 1, 2)
    assert [("a", [1, 2])] == plan
    assert 2 == len(posts.cache)


async def test_o6_a_shared_group_loader_with_args():
    """A public group function of two parameters gets keys and arguments."""
    plan: list[Any] = []

    @group_dataloader.shared(by="author_id", ttl=None, public=True, args=Currency)
    async def posts(keys: list[int], args: Currency) -> list[Post]:
        plan.append((list(keys), args))
        return [Post(key, key) for key in keys]

    for _ in range(2):
        async with LoaderScope():
            assert [Post(1, 1)] == await within(posts.load(1, EUR))
    assert [([1], EUR)] == plan


async def test_cache_key_fn_makes_the_key_of_the_cache_too():
    """Keys that are not hashable are shared by the key that the function makes."""
    plan: list[Any] = []

    @dataloader.shared(ttl=None, public=True, cache_key_fn=tuple)
    async def sums(keys: list[list[int]]) -> list[int]:
        plan.append(list(keys))
        return [sum(key) for key in keys]

    for _ in range(2):
        assert [3] == await request(sums, [1, 2])
    assert [[[1, 2]]] == plan
    async with LoaderScope():
        sums.clear([1, 2])
    assert 0 == len(sums.cache)


@pytest.mark.parametrize("missing", ["none", "raise"])
async def test_a_mapping_of_a_shared_loader_is_by_cache_key(missing: str):
    """With a `cache_key_fn` a shared batch function's mapping is by what that gives."""

    @dataloader.shared(ttl=None, public=True, cache_key_fn=str.lower, missing=missing)
    async def users(keys: list[str]) -> dict[str, str]:
        return {key.lower(): f"user {key}" for key in keys if key != "Cid"}

    for _ in range(2):
        async with LoaderScope():
            ann, ben, cid = await within(
                users.load_many(["Ann", "ben", "Cid"], return_exceptions=True)
            )
            assert ("user Ann", "user ben") == (ann, ben)
            assert cid is None if missing == "none" else isinstance(cid, KeyNotFoundError)


# Memory


class Watch:
    """Weak references, and how many of them still refer to something."""

    def __init__(self) -> None:
        self.references: list[weakref.ref[Any]] = []

    def add(self, thing: Any) -> Any:
        self.references.append(weakref.ref(thing))
        return thing

    def alive(self) -> list[Any]:
        return [reference() for reference in self.references if reference() is not None]


class Tenant:
    """A `vary` value that can be watched while it goes away."""


async def test_o5_tenants_are_freed_with_their_results():
    """What is kept of `vary` values is bounded by `maxsize`, however many there are."""
    watch = Watch()

    @dataloader.shared(ttl=None, maxsize=3, vary=tenant_of)
    async def users(keys: list[int], tenant: Tenant) -> list[Any]:
        return keys

    for _ in range(50):
        await request(users, 1, tenant=watch.add(Tenant()))
    await ticks(3)
    gc.collect()
    assert 3 >= len(watch.alive())
    users.cache.clear()
    await ticks(3)
    gc.collect()
    assert [] == watch.alive()


@pytest.mark.parametrize("way", ["failed", "ttl=0", "cleared", "primed", "peeked", "closed"])
async def test_o5_tenants_without_results_are_freed(way: str):
    """A `vary` value of which the cache has nothing is kept by nobody."""
    watch = Watch()

    @dataloader.shared(ttl=0 if way == "ttl=0" else None, vary=tenant_of)
    async def users(keys: list[int], tenant: Tenant) -> list[Any]:
        if way == "failed":
            raise Broken
        return keys

    async def use() -> None:
        async with LoaderScope(Request(watch.add(Tenant()))):
            if way == "primed":
                users.prime(1, 1)
            elif way == "peeked":
                users.peek(1)
            elif way == "closed":
                waiting = users.load(1)
            else:
                try:
                    await within(users.load(1))
                except Broken:
                    assert "failed" == way
                if way == "cleared":
                    users.clear(1)
        if way == "closed":
            assert [LoadCancelledError] == [type(error) for error in await outcomes(waiting)]

    for _ in range(10):
        await asyncio.create_task(use())
    await ticks(20)
    gc.collect()
    assert 10 == len(watch.references)
    assert [] == watch.alive()


async def test_o5_the_cache_keeps_no_request_alive():
    """What has loaded a result is freed, though the result stays."""
    watch = Watch()
    users = varying([])

    async def use() -> None:
        async with LoaderScope(watch.add(Request("a"))) as scope:
            watch.add(scope[users])
            await users.load_many([1, 2])

    await asyncio.create_task(use())
    await ticks(3)
    gc.collect()
    assert (2, []) == (len(watch.references), watch.alive())
    assert 2 == len(users.cache)


async def test_o5_values_are_freed_when_they_are_evicted():
    """A value that the cache has put out for room is kept by nobody."""
    watch = Watch()

    @dataloader.shared(ttl=None, maxsize=2, public=True)
    async def values(keys: list[int]) -> list[Any]:
        return [watch.add(Value()) for _ in keys]

    for key in range(10):
        await asyncio.create_task(request(values, key))
    await ticks(3)
    gc.collect()
    assert 2 == len(watch.alive())


# Loops and threads


def test_l1_results_outlive_their_loop():
    """What one `asyncio.run` has loaded the next one finds."""
    plan: list[Any] = []
    users = varying(plan)
    for _ in range(3):
        assert [("a", 1)] == asyncio.run(request(users, 1))
    assert [("a", [1])] == plan


def test_l1_a_load_that_its_loop_left_unfinished_is_started_anew():
    """A loop that ends while a shared load runs leaves nothing that the next one waits for."""
    calls: list[str] = []

    @dataloader.shared(ttl=None, vary=tenant_of)
    async def users(keys: list[int], tenant: str) -> list[int]:
        calls.append(tenant)
        if len(calls) == 1:
            await asyncio.get_running_loop().create_future()
        return keys

    async def left() -> None:
        async with LoaderScope(Request("a")):
            waiting = users.load(1)
            await until(lambda: calls)
            waiting.cancel()

    asyncio.run(left())
    assert [1] == asyncio.run(request(users, 1))
    assert ["a", "a"] == calls


@pytest.mark.parametrize(
    "options", [{}, {"max_concurrent_batches": 1}], ids=["plain", "max_concurrent_batches"]
)
def test_l1_a_shared_factory_keeps_no_closed_loop(options: dict[str, Any]):
    """Of the loops on which a factory was used, no more than the last one is kept alive."""
    watch = Watch()
    users = varying([], **options)

    async def main(number: int) -> None:
        await outcomes(*(request(users, number, tenant=tenant) for tenant in "abc"))

    for number in range(5):
        loop = watch.add(asyncio.new_event_loop())
        loop.run_until_complete(main(number))
        loop.close()
        del loop
    gc.collect()
    assert 1 >= len(watch.alive())


def test_l1_threads_share_results_and_nothing_else():
    """Loops in several threads load for themselves at the same time, and share what they got."""
    both_run = threading.Barrier(2)
    plan: list[Any] = []

    @dataloader.shared(ttl=None, vary=tenant_of)
    async def users(keys: list[int], tenant: str) -> list[Any]:
        plan.append((tenant, list(keys)))
        if 0 not in keys:
            both_run.wait(GUARD)
        return [(tenant, key) for key in keys]

    found: dict[int, Any] = {}

    def run(number: int) -> None:
        found[number] = asyncio.run(request(users, number, number + 1))

    asyncio.run(request(users, 0, 2))
    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {1: [("a", 1), ("a", 2)], 2: [("a", 2), ("a", 3)]} == found
    assert [("a", [0, 2]), ("a", [1]), ("a", [3])] == sorted(plan)
    assert 4 == len(users.cache)


async def test_o5_a_request_may_change_its_list_of_rows():
    """The list of a shared group loader is each request's own."""

    @group_dataloader.shared(by="author_id", ttl=60, public=True)
    async def posts_of(ids: list[int]) -> list[dict[str, int]]:
        return [{"author_id": number} for number in ids]

    async with LoaderScope():
        (await posts_of.load(1)).append({"author_id": 404})
        first = await posts_of.load(1)
    async with LoaderScope():
        second = await posts_of.load(1)

    assert [{"author_id": 1}, {"author_id": 404}] == first
    assert [{"author_id": 1}] == second


async def test_o5_the_clock_can_be_a_manual_one():
    """A test moves the time of a shared factory as that of any cache."""
    clock = ManualClock()
    asked: list[list[int]] = []

    @dataloader.shared(ttl=60, public=True, clock=clock)
    async def numbers(ids: list[int]) -> list[int]:
        asked.append(ids)
        return ids

    for seconds in (0, 59, 1):
        clock.advance(seconds)
        async with LoaderScope():
            await numbers.load(1)

    assert [[1], [1]] == asked


def test_o5_public_is_true_or_false():
    """What is said to be public is not guessed from another value."""
    with pytest.raises(ConfigurationError, match="public must be True, got 'yes'"):
        dataloader.shared(ttl=1, public="yes")


async def test_o5_what_was_asked_for_before_a_reset_is_asked_as_then():
    """A batch that is open at a reset belongs to whom vary gave before, and takes no later key."""

    class Session:
        tenant = "acme"

    def tenant_of(session: Session) -> str:
        return session.tenant

    asked: list[tuple[str, list[int]]] = []

    @dataloader.shared(ttl=60, vary=tenant_of)
    async def rows(ids: list[int], tenant: str) -> list[str]:
        asked.append((tenant, ids))
        return [f"{tenant} {number}" for number in ids]

    session = Session()
    async with LoaderScope(context=session) as scope:
        before = rows.load(1)
        session.tenant = "initech"
        scope.reset()
        after = rows.load(1)

        assert ["acme 1", "initech 1"] == [await before, await after]
    assert [("acme", [1]), ("initech", [1])] == asked


async def test_o5_a_result_that_is_used_outlives_those_that_are_not():
    """With S3-FIFO a hit counts: what is asked for again stays, what came once makes room."""
    asked: list[int] = []

    @dataloader.shared(ttl=None, public=True, maxsize=10, eviction="s3fifo")
    async def numbers(ids: list[int]) -> list[int]:
        asked.extend(ids)
        return ids

    for number in (0, 0, 0, *range(1, 20), 0, 1):
        async with LoaderScope():
            assert number == await numbers.load(number)

    assert [*range(20), 1] == asked
