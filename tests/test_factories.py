"""`@dataloader` and `@group_dataloader`: what they declare, refuse and hand on; O6 and O7."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import inspect
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from dataloader_cache import (
    ArgsLoaderFactory,
    DataLoader,
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
    LoaderClosedError,
    LoadTimeoutError,
    NoScopeError,
)
from dataloader_cache.testing import BatchRecorder, run_virtual

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever


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


def tenfold(plan: list[list[Any]], **options: Any) -> Any:
    """Declare a loader that adds each batch to `plan` and answers a key with ten times itself."""

    async def users(keys: list[Any]) -> list[Any]:
        plan.append(list(keys))
        await asyncio.sleep(0)
        return [key * 10 for key in keys]

    return dataloader(**options)(users)


class Broken(Exception):
    """What a batch fails with."""


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


@dataclasses.dataclass
class User:
    """A value of an entity loader."""

    id: int
    email: str | None


async def of_keys(keys: list[int]) -> list[int]:
    """Answer each key with itself."""
    return keys


async def of_keys_and_context(keys: list[int], context: Any) -> list[int]:
    return keys


async def of_keys_and_args(keys: list[int], args: Currency) -> list[int]:
    return keys


async def of_three(keys: list[int], context: Any, args: Currency) -> list[int]:
    return keys


async def of_four(keys: list[int], context: Any, args: Currency, more: Any) -> list[int]:
    return keys


async def of_nothing() -> list[int]:
    return []


async def of_keyword_only(keys: list[int], *, limit: int) -> list[int]:
    return keys


async def yielding(keys: list[int]) -> Any:
    for key in keys:
        yield key


def not_async(keys: list[int]) -> list[int]:
    return keys


# Declaring


@pytest.mark.parametrize(
    "declare",
    [
        pytest.param(dataloader, id="bare"),
        pytest.param(dataloader(), id="without options"),
        pytest.param(dataloader(max_batch_size=10), id="with options"),
    ],
)
async def test_a_factory_is_declared_with_and_without_parentheses(declare: Any):
    """`@dataloader`, `@dataloader()` and `@dataloader(...)` make the same kind of factory."""
    factory = declare(of_keys)
    assert isinstance(factory, LoaderFactory)
    async with LoaderScope():
        assert 1 == await within(factory.load(1))


def test_a_factory_keeps_what_the_function_says_of_itself():
    """A factory has the name, docstring, module and place of its function, and the function."""

    async def users(keys: list[int]) -> list[int]:
        """Load users by id."""
        return keys

    for factory in (dataloader(users), dataloader(name="people")(users)):
        assert "users" == factory.__name__
        assert "Load users by id." == factory.__doc__
        assert users.__qualname__ == factory.__qualname__
        assert __name__ == factory.__module__
        assert users is factory.__wrapped__


@pytest.mark.parametrize(
    "declare, function",
    [
        pytest.param(dataloader, of_keys, id="dataloader"),
        pytest.param(dataloader(args=Currency), of_keys_and_args, id="args"),
        pytest.param(group_dataloader(by="id"), of_keys, id="group"),
        pytest.param(group_dataloader(by="id", args=Currency), of_keys_and_args, id="group args"),
        pytest.param(dataloader.shared(ttl=1, public=True), of_keys, id="shared"),
        pytest.param(
            group_dataloader.shared(by="id", ttl=1, public=True), of_keys, id="shared group"
        ),
    ],
)
async def test_the_function_can_be_tested_by_itself(declare: Any, function: Any):
    """`load_fn` is the user's function as it was declared, for tests without a scope."""
    factory = declare(function)
    assert function is factory.load_fn
    assert function is factory.__wrapped__
    assert function.__name__ == factory.name


def test_a_factory_is_named_for_its_function():
    """The name is the function's, unless another is given."""
    assert "of_keys" == dataloader(of_keys).name
    assert "users" == dataloader(name="users")(of_keys).name
    assert "users" == dataloader(name="users", args=Currency)(of_keys_and_args).name
    assert "users" == group_dataloader(by="id", name="users")(of_keys).name


def test_a_factory_shows_its_name():
    """The repr of a factory tells which one it is."""
    assert "'users'" in repr(dataloader(name="users")(of_keys))
    assert "'users'" in repr(dataloader(name="users", args=Currency)(of_keys_and_args))


def test_a_factory_needs_no_evaluated_annotations():
    """Annotations that name nothing known at run time are never looked at."""

    async def users(keys: list[Nowhere], context: Elsewhere) -> dict[Nowhere, Elsewhere]:  # noqa: F821
        return {}

    assert "users" == dataloader(users).name


async def test_a_factory_may_be_declared_in_a_class():
    """A factory in a class body is the same factory for the class and its instances."""

    class Loaders:
        @dataloader
        async def users(keys: list[int]) -> list[int]:
            return [key * 10 for key in keys]

    async with LoaderScope():
        assert Loaders().users is Loaders.users
        assert [10, 20] == await outcomes(Loaders.users.load(1), Loaders().users.load(2))


async def test_a_bound_method_can_be_declared():
    """The batch function may be the method of a repository."""

    class Repository:
        async def users(self, keys: list[int], context: Any) -> list[Any]:
            return [(key, context) for key in keys]

    users = dataloader(Repository().users)
    assert "users" == users.name
    async with LoaderScope(context="request"):
        assert (1, "request") == await within(users.load(1))


async def test_the_context_may_have_a_default():
    """A context with a default is given where there is one, and asked for nowhere."""

    @dataloader
    async def users(keys: list[int], context: Any = "default") -> list[Any]:
        return [context for _ in keys]

    async with LoaderScope():
        assert "default" == await within(users.load(1))
    async with LoaderScope("request"):
        assert "request" == await within(users.load(1))


async def test_a_decorator_can_be_used_for_several_functions():
    """Options that are kept in a variable hold for each function that they decorate."""
    declare = dataloader(max_batch_size=1)
    shared = dataloader.shared(ttl=None, public=True, max_batch_size=1, maxsize=1)
    for decorate in (declare, shared):
        plan: list[Any] = []

        async def users(keys: list[int], plan: list[Any] = plan) -> list[int]:
            plan.append(("users", list(keys)))
            return keys

        async def posts(keys: list[int], plan: list[Any] = plan) -> list[int]:
            plan.append(("posts", list(keys)))
            return keys

        one, other = decorate(users), decorate(posts)
        assert ("users", "posts") == (one.name, other.name)
        async with LoaderScope():
            await within(one.load_many([1, 2]))
            await within(other.load_many([1, 2]))
        assert [("users", [1]), ("users", [2]), ("posts", [1]), ("posts", [2])] == plan
    assert one.cache is not other.cache
    assert (1, 1) == (len(one.cache), len(other.cache))


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda keys: keys, id="lambda"),
        pytest.param(not_async, id="sync"),
        pytest.param(yielding, id="async generator"),
    ],
)
@pytest.mark.parametrize(
    "declare",
    [
        pytest.param(dataloader, id="bare"),
        pytest.param(dataloader(max_batch_size=1), id="options"),
        pytest.param(group_dataloader(by="id"), id="group"),
        pytest.param(dataloader.shared(ttl=1, public=True), id="shared"),
    ],
)
def test_what_is_no_async_function_is_refused(declare: Any, function: Any):
    """A function that is not `async def` is refused at the declaration, saying so."""
    with pytest.raises(ConfigurationError, match="async"):
        declare(function)


@pytest.mark.parametrize("function", [3, "users", None])
def test_what_is_no_function_is_refused(function: Any):
    """What can't be called is refused at the declaration."""
    with pytest.raises(ConfigurationError):
        dataloader()(function)


@pytest.mark.parametrize(
    "declare, function",
    [
        pytest.param(dataloader, of_nothing, id="none"),
        pytest.param(dataloader, of_three, id="three without args"),
        pytest.param(dataloader, of_keyword_only, id="a keyword that nobody gives"),
        pytest.param(dataloader(args=Currency), of_keys, id="args without a place"),
        pytest.param(dataloader(args=Currency), of_four, id="four"),
        pytest.param(group_dataloader(by="id"), of_three, id="group of three"),
        pytest.param(group_dataloader(by="id", args=Currency), of_keys, id="group without a place"),
        pytest.param(
            dataloader.shared(ttl=1, public=True), of_keys_and_context, id="public with a context"
        ),
        pytest.param(dataloader.shared(ttl=1, vary=str), of_three, id="vary of three"),
        pytest.param(dataloader.shared(ttl=1, vary=str, args=Currency), of_keys, id="vary, args"),
        pytest.param(
            dataloader.shared(ttl=1, public=True, args=Currency), of_three, id="public of three"
        ),
    ],
)
def test_a_function_of_other_parameters_is_refused(declare: Any, function: Any):
    """The parameters of a batch function are checked at the declaration; the error names it."""
    with pytest.raises(ConfigurationError, match=repr(function.__name__)):
        declare(function)


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_size": 0},
        {"max_batch_size": "2"},
        {"batch_window": -1},
        {"batch_window": "1"},
        {"missing": "ignore"},
        {"cache_key_fn": 3},
        {"max_concurrent_batches": 0},
        {"limiter": 3},
        {"load_timeout": 0},
        {"load_timeout": "1"},
        {"name": 3},
        {"args": "Currency"},
        {"args": EUR},
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_at_the_declaration(options: dict[str, Any]):
    """An option that can't work is refused where the factory is declared, not at the first load."""
    (option,) = options
    with pytest.raises(ConfigurationError, match=option):
        dataloader(**options)(of_keys_and_args if "args" in options else of_keys)


def test_options_are_keyword_only():
    """An option without its name is refused."""
    with pytest.raises(TypeError):
        dataloader(10)
    with pytest.raises(TypeError):
        dataloader(of_keys, 10)


@pytest.mark.parametrize(
    "declare, given, missing",
    [
        pytest.param(group_dataloader, of_keys, "by=", id="group"),
        pytest.param(group_dataloader, "author_id", "by=", id="group by place"),
        pytest.param(group_dataloader.shared, of_keys, "by=", id="shared group"),
        pytest.param(dataloader.shared, of_keys, "vary=", id="shared"),
    ],
)
def test_a_decorator_without_what_it_needs_says_so(declare: Any, given: Any, missing: str):
    """A decorator that stands without a call says which option it lacks."""
    with pytest.raises(ConfigurationError, match=missing):
        declare(given)


def test_an_unknown_option_is_refused():
    """A misspelled option is an error, and `result_cache` belongs to shared factories."""
    with pytest.raises(TypeError, match="batch_size"):
        dataloader(batch_size=10)
    with pytest.raises(TypeError, match="result_cache"):
        dataloader(result_cache=None)
    with pytest.raises(TypeError, match="missing"):
        group_dataloader.shared(by="id", ttl=1, public=True, missing="raise")


# The options of @dataloader


async def test_max_batch_size_limits_the_batches():
    """No batch has more than `max_batch_size` keys."""
    plan: list[list[int]] = []
    users = tenfold(plan, max_batch_size=2)
    async with LoaderScope():
        await within(users.load_many([1, 2, 3]))
    assert [[1, 2], [3]] == plan


async def test_cache_false_remembers_nothing():
    """With `cache=False` equal keys of one batch are asked once, and nothing is kept."""
    plan: list[list[int]] = []
    users = tenfold(plan, cache=False)
    async with LoaderScope():
        for _ in range(2):
            assert [10, 10] == await outcomes(users.load(1), users.load(1))
    assert [[1], [1]] == plan


async def test_cache_key_fn_makes_the_key():
    """Keys that are not hashable work with a function that makes one."""
    plan: list[list[Any]] = []

    @dataloader(cache_key_fn=tuple)
    async def users(keys: list[list[int]]) -> list[int]:
        plan.append(list(keys))
        return [sum(key) for key in keys]

    async with LoaderScope():
        assert [3, 3] == await outcomes(users.load([1, 2]), users.load([1, 2]))
    assert [[[1, 2]]] == plan


def test_batch_window_waits_from_the_first_key():
    """With a window in seconds loads that come within it are one batch."""
    plan: list[list[int]] = []
    users = tenfold(plan, batch_window=1.0)

    async def main() -> None:
        async with LoaderScope():
            waiting = [users.load(1)]
            for key in (2, 3):
                await asyncio.sleep(0.6)
                waiting.append(users.load(key))
            await asyncio.gather(*waiting)

    run_virtual(main)
    assert [[1, 2], [3]] == plan


@pytest.mark.parametrize("missing", ["none", "raise"])
async def test_missing_says_what_a_key_becomes_that_a_mapping_lacks(missing: str):
    """A key that a mapping lacks is None, or an error with `missing="raise"`."""

    @dataloader(missing=missing)
    async def users(keys: list[int]) -> dict[int, int]:
        return {1: 10}

    async with LoaderScope():
        one, other = await outcomes(users.load(1), users.load(2))
    assert 10 == one
    if missing == "none":
        assert other is None
    else:
        assert isinstance(other, KeyNotFoundError)
        assert "'users'" in str(other)


@pytest.mark.parametrize("cache_errors", [False, True])
async def test_cache_errors_remembers_a_key_s_error_in_the_scope(cache_errors: bool):
    """A key's own error is remembered for the rest of the scope if one asks for that."""
    plan: list[list[int]] = []

    @dataloader(cache_errors=cache_errors)
    async def users(keys: list[int]) -> list[Any]:
        plan.append(list(keys))
        return [Broken(key) for key in keys]

    for _ in range(2):
        async with LoaderScope():
            for _ in range(2):
                assert [Broken] == [type(error) for error in await outcomes(users.load(1))]
    assert [[1]] * (2 if cache_errors else 4) == plan


async def test_max_concurrent_batches_counts_per_scope():
    """So many batches of one scope's loader run at a time; other scopes have their own count."""
    inside: list[int] = []
    most: list[int] = []
    go = asyncio.Event()

    @dataloader(max_batch_size=1, max_concurrent_batches=2)
    async def users(keys: list[int]) -> list[int]:
        inside.append(keys[0])
        most.append(len(inside))
        await go.wait()
        inside.remove(keys[0])
        return keys

    async def request() -> None:
        async with LoaderScope():
            await users.load_many(range(6))

    requests = asyncio.gather(request(), request())
    await until(lambda: len(most) >= 4)
    await ticks(30)
    assert 4 == max(most)
    go.set()
    await within(requests)
    assert 12 == len(most)


async def test_a_limiter_is_shared_by_all_scopes():
    """A factory's own limiter counts over all scopes."""
    limiter = asyncio.Semaphore(1)
    inside = most = 0

    @dataloader(limiter=limiter)
    async def users(keys: list[int]) -> list[int]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await ticks(5)
        inside -= 1
        return keys

    async def request() -> None:
        async with LoaderScope():
            await users.load(1)

    await within(asyncio.gather(request(), request(), request()))
    assert 1 == most


def test_load_timeout_ends_a_load():
    """A batch that takes longer than `load_timeout` fails with an error that names the loader."""

    @dataloader(load_timeout=1.0)
    async def users(keys: list[int]) -> list[int]:
        await asyncio.sleep(5)
        return keys

    async def main() -> Any:
        async with LoaderScope():
            return await outcomes(users.load(1))

    (error,) = run_virtual(main)
    assert isinstance(error, LoadTimeoutError)
    assert "'users'" in str(error)


async def test_the_name_is_that_of_errors_and_recorders():
    """A factory's name stands in its errors and in recorded plans."""

    @dataloader(name="people")
    async def users(keys: list[int]) -> Any:
        return None

    with BatchRecorder() as recorder:
        async with LoaderScope() as scope:
            with pytest.raises(BatchResultError, match="'people'"):
                await within(users.load(1))
            assert "'people'" in repr(scope[users])
    assert [("people", [1])] == recorder.plan


async def test_a_batch_that_nobody_awaits_is_reported_with_the_loader_s_name():
    """A failed batch makes one report, with an error that names the factory."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    @dataloader
    async def users(keys: list[int]) -> Any:
        return "wrong"

    async with LoaderScope():
        for key in range(20):
            users.load(key)
        await ticks(30)
    assert ["'users'" in str(report["exception"]) for report in reports] == [True]


# The methods

CALLS: dict[str, Callable[[Any], Any]] = {
    "load": lambda users: users.load(1),
    "load_many": lambda users: users.load_many([1]),
    "peek": lambda users: users.peek(1),
    "peek with default": lambda users: users.peek(1, "absent"),
    "prime": lambda users: users.prime(1, 10),
    "prime_many": lambda users: users.prime_many({1: 10}),
    "clear": lambda users: users.clear(1),
    "clear_many": lambda users: users.clear_many([1]),
    "clear_all": lambda users: users.clear_all(),
}

ARGS_CALLS: dict[str, Callable[[Any], Any]] = {
    "load": lambda prices: prices.load(1, EUR),
    "load_many": lambda prices: prices.load_many([1], EUR),
    "peek": lambda prices: prices.peek(1, EUR),
    "peek with default": lambda prices: prices.peek(1, EUR, "absent"),
    "prime": lambda prices: prices.prime(1, EUR, 10),
    "prime_many": lambda prices: prices.prime_many({1: 10}, EUR),
    "clear": lambda prices: prices.clear(1, EUR),
    "clear_many": lambda prices: prices.clear_many([1], EUR),
    "clear_all": lambda prices: prices.clear_all(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_o2_every_method_needs_a_scope(call: str):
    """Outside a scope each method raises at once, and names loader and remedy."""
    users = dataloader(name="users")(of_keys)
    with pytest.raises(NoScopeError, match=r"'users'.*LoaderScope\("):
        CALLS[call](users)


@pytest.mark.parametrize("call", ARGS_CALLS)
async def test_o2_every_method_with_args_needs_a_scope(call: str):
    """Outside a scope each method of a factory with arguments raises at once."""
    prices = dataloader(name="prices", args=Currency)(of_keys_and_args)
    with pytest.raises(NoScopeError, match=r"'prices'.*LoaderScope\("):
        ARGS_CALLS[call](prices)


@pytest.mark.parametrize("call", CALLS)
def test_o2_without_a_loop_the_scope_is_missed_first(call: str):
    """Outside a scope and a loop the error is about the scope: that is to be opened first."""
    with pytest.raises(NoScopeError):
        CALLS[call](dataloader(of_keys))


async def test_o6_load_gives_a_future():
    """`load` is what `DataLoader.load` is: a future of one's own, sent with the open batch."""
    users = tenfold([])
    async with LoaderScope():
        one, other = users.load(1), users.load(1)
        assert isinstance(one, asyncio.Future)
        one.cancel()
        assert 10 == await within(other)


async def test_o6_load_many_queues_when_called():
    """`load_many` joins the open batch when it is called, and gives values in key order."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    async with LoaderScope():
        many, one = users.load_many(iter([2, 1, 2])), users.load(3)
        assert [[20, 10, 20], 30] == await outcomes(many, one)
    assert [[2, 1, 3]] == plan


async def test_o6_load_many_may_give_errors_in_their_places():
    """With `return_exceptions=True` errors are values, else the first one is raised."""

    @dataloader
    async def users(keys: list[int]) -> list[Any]:
        return [Broken(key) if key % 2 else key for key in keys]

    async with LoaderScope():
        found = await within(users.load_many([0, 1, 2], return_exceptions=True))
        assert [0, Broken, 2] == [type(v) if isinstance(v, Broken) else v for v in found]
        with pytest.raises(Broken):
            await within(users.load_many([0, 1, 2]))


async def test_o6_peek_gives_what_is_there():
    """`peek` gives a value that was loaded, or else its default, and loads nothing."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    async with LoaderScope():
        assert users.peek(1) is None
        assert "absent" == users.peek(1, "absent")
        await within(users.load(1))
        assert [10, 10] == [users.peek(1), users.peek(1, default="absent")]
    assert [[1]] == plan


async def test_o6_prime_puts_a_value_into_the_scope():
    """A primed value is not asked for; one that is there stays, unless forced."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    async with LoaderScope():
        users.prime(1, "one").prime(1, "two").prime_many({2: "two", 1: "three"})
        assert ["one", "two"] == await outcomes(users.load(1), users.load(2))
        users.prime(1, "forced", force=True).prime_many({2: "forced"}, force=True)
        assert ["forced", "forced"] == await outcomes(users.load(1), users.load(2))
    async with LoaderScope():
        assert 10 == await within(users.load(1))
    assert [[1]] == plan


async def test_o6_prime_takes_an_error():
    """A primed error is raised to those who load the key."""
    users = tenfold([])
    async with LoaderScope():
        users.prime(1, Broken())
        with pytest.raises(Broken):
            await within(users.load(1))


async def test_o6_clear_forgets_keys():
    """`clear`, `clear_many` and `clear_all` forget as they say, in the current scope."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    keys = [1, 2, 3, 4]

    def known() -> list[int]:
        return [key for key in keys if users.peek(key) is not None]

    async with LoaderScope():
        await within(users.load_many(keys))
        async with LoaderScope():
            users.clear_all()
        assert [1, 2, 3, 4] == known()
        users.clear(1)
        assert [2, 3, 4] == known()
        users.clear_many([2, 3])
        assert [4] == known()
        users.clear_all()
        assert [] == known()


async def test_o6_what_changes_a_loader_can_be_chained():
    """`prime` and `clear` in all their forms return the factory."""
    users = dataloader(of_keys)
    prices = dataloader(args=Currency)(of_keys_and_args)
    async with LoaderScope():
        for call in ("prime", "prime_many", "clear", "clear_many", "clear_all"):
            assert users is CALLS[call](users)
            assert prices is ARGS_CALLS[call](prices)


async def test_m4_keys_are_checked():
    """None and what is not hashable are no keys; the error names the loader."""
    users = dataloader(name="users")(of_keys)
    async with LoaderScope():
        for key in (None, [1]):
            with pytest.raises(TypeError, match="'users'"):
                users.load(key)


def test_request_factories_have_no_cache():
    """`cache` is an attribute of shared factories only."""
    assert not hasattr(dataloader(of_keys), "cache")
    assert not hasattr(dataloader(args=Currency)(of_keys_and_args), "cache")
    assert not hasattr(group_dataloader(by="id")(of_keys), "cache")


# Arguments


def priced(plan: list[Any], **options: Any) -> Any:
    """Declare a loader with arguments that adds each batch and its arguments to `plan`."""

    async def prices(keys: list[int], currency: Currency) -> list[str]:
        plan.append((list(keys), currency))
        return [f"{key} {currency.code}" for key in keys]

    return dataloader(args=Currency, **options)(prices)


async def test_o6_each_distinct_args_is_a_batch_of_its_own():
    """Keys are batched by arguments, equal ones together, in one window."""
    plan: list[Any] = []
    prices = priced(plan)
    async with LoaderScope():
        found = await outcomes(
            prices.load(1, EUR),
            prices.load(1, USD),
            prices.load(2, Currency("EUR")),
            prices.load(1, EUR),
        )
    assert ["1 EUR", "1 USD", "2 EUR", "1 EUR"] == found
    assert [([1, 2], EUR), ([1], USD)] == plan


async def test_o6_args_are_remembered_apart():
    """A key that was loaded with some arguments is not known with others."""
    plan: list[Any] = []
    prices = priced(plan)
    async with LoaderScope():
        await within(prices.load(1, EUR))
        assert ("1 EUR", None) == (prices.peek(1, EUR), prices.peek(1, USD))
        assert "absent" == prices.peek(1, USD, "absent")
        assert ["1 EUR", "1 USD"] == await outcomes(prices.load(1, EUR), prices.load(1, USD))
    assert [([1], EUR), ([1], USD)] == plan


async def test_o6_load_many_has_one_args_for_all_keys():
    """`load_many(keys, args)` is one batch, with errors in their places if one likes."""
    plan: list[Any] = []
    prices = priced(plan)
    async with LoaderScope():
        assert ["1 EUR", "2 EUR"] == await within(prices.load_many([1, 2], EUR))
        prices.prime(3, EUR, Broken())
        with pytest.raises(Broken):
            await within(prices.load_many([1, 3], EUR))
        found = await within(prices.load_many([1, 3], EUR, return_exceptions=True))
        assert ["1 EUR", Broken] == [found[0], type(found[1])]
    assert [([1, 2], EUR)] == plan


async def test_o6_args_come_after_the_context():
    """A function of three parameters gets keys, context and arguments."""
    seen: list[Any] = []

    @dataloader(args=Currency)
    async def prices(keys: list[int], context: Any, currency: Currency) -> list[int]:
        seen.append((list(keys), context, currency))
        return keys

    async with LoaderScope(context="request"):
        await within(prices.load(1, EUR))
    assert [([1], "request", EUR)] == seen


async def test_o6_a_function_of_keys_and_args_needs_no_context():
    """With two parameters the second one is the arguments, whatever the scope's context is."""
    plan: list[Any] = []
    prices = priced(plan)
    async with LoaderScope():
        assert "1 EUR" == await within(prices.load(1, EUR))
    async with LoaderScope(context=USD):
        assert "1 EUR" == await within(prices.load(1, EUR))


async def test_o6_priming_and_clearing_go_by_args():
    """What is primed or cleared with some arguments leaves the others alone."""
    plan: list[Any] = []
    prices = priced(plan)
    async with LoaderScope():
        prices.prime(1, EUR, "primed").prime_many({2: "primed"}, EUR).prime(1, USD, "primed")
        assert ["primed"] * 2 == await within(prices.load_many([1, 2], EUR))
        prices.prime(1, EUR, "again").prime_many({2: "again"}, EUR)
        assert ["primed"] * 2 == await within(prices.load_many([1, 2], EUR))
        prices.prime(1, EUR, "forced", force=True).prime_many({2: "forced"}, EUR, force=True)
        assert ["forced"] * 2 == await within(prices.load_many([1, 2], EUR))
        prices.clear(1, EUR)
        assert (None, "forced", "primed") == (
            prices.peek(1, EUR),
            prices.peek(2, EUR),
            prices.peek(1, USD),
        )
        prices.clear_many([1, 2], EUR)
        assert (None, "primed") == (prices.peek(2, EUR), prices.peek(1, USD))
        prices.prime(3, EUR, "primed").clear_all()
        assert (None, None) == (prices.peek(3, EUR), prices.peek(1, USD))
    assert [] == plan


async def test_o6_a_scope_gives_the_loader_of_the_args():
    """`scope[prices](EUR)` is the DataLoader that `prices.load(key, EUR)` uses."""
    plan: list[Any] = []
    prices = priced(plan)
    async with LoaderScope() as scope:
        loader = scope[prices](EUR)
        assert isinstance(loader, DataLoader)
        assert loader is scope[prices](Currency("EUR"))
        assert loader is not scope[prices](USD)
        found = await outcomes(loader.load(1), prices.load(2, EUR))
    assert ["1 EUR", "2 EUR"] == found
    assert [([1, 2], EUR)] == plan


@pytest.mark.parametrize("args", ["EUR", None, 1, Currency])
async def test_o6_args_must_be_of_the_declared_type(args: Any):
    """Arguments of another type are a TypeError that names the loader and the type."""
    prices = priced([])
    async with LoaderScope() as scope:
        for use in (
            lambda: prices.load(1, args),
            lambda: prices.load_many([1], args),
            lambda: prices.peek(1, args),
            lambda: prices.prime(1, args, "x"),
            lambda: prices.clear(1, args),
            lambda: scope[prices](args),
        ):
            with pytest.raises(TypeError, match=r"'prices'.*Currency"):
                use()


async def test_o6_args_may_be_of_a_subclass():
    """An instance of a subclass is an instance of the declared type."""

    class Coin(Currency):
        """A kind of currency."""

    plan: list[Any] = []
    prices = priced(plan)
    async with LoaderScope():
        assert "1 EUR" == await within(prices.load(1, Coin("EUR")))


async def test_o6_args_must_be_hashable():
    """Arguments that can't be hashed are a TypeError that names the loader."""

    @dataloader(args=list)
    async def prices(keys: list[int], args: list[int]) -> list[int]:
        return keys

    async with LoaderScope():
        with pytest.raises(TypeError, match=r"'prices'.*hashable"):
            prices.load(1, [2])


async def test_o6_args_keep_the_options():
    """The options of a factory hold for the loader of each arguments."""
    plan: list[Any] = []
    prices = priced(plan, max_batch_size=1, name="amounts")
    with BatchRecorder() as recorder:
        async with LoaderScope():
            await outcomes(prices.load_many([1, 2], EUR), prices.load(3, USD))
    assert [([1], EUR), ([2], EUR), ([3], USD)] == sorted(plan, key=lambda entry: entry[0])
    assert {"amounts"} == {name[:7] for name, _ in recorder.plan}


async def test_o6_max_concurrent_batches_counts_over_all_args():
    """The batches of one scope's loader are limited together, whatever their arguments."""
    inside = most = 0

    @dataloader(args=Currency, max_concurrent_batches=1)
    async def prices(keys: list[int], currency: Currency) -> list[int]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await ticks(5)
        inside -= 1
        return keys

    async with LoaderScope():
        await outcomes(prices.load(1, EUR), prices.load(1, USD))
    assert 1 == most


async def test_o6_scopes_do_not_share_loaders_with_args():
    """What one scope has loaded with arguments the next one asks for again."""
    plan: list[Any] = []
    prices = priced(plan)
    for _ in range(2):
        async with LoaderScope():
            await within(prices.load(1, EUR))
    assert [([1], EUR)] * 2 == plan


async def test_reset_reaches_loaders_with_args():
    """`reset` forgets what was loaded with every arguments."""
    plan: list[Any] = []
    prices = priced(plan)
    async with LoaderScope() as scope:
        await outcomes(prices.load(1, EUR), prices.load(1, USD))
        scope.reset()
        assert (None, None) == (prices.peek(1, EUR), prices.peek(1, USD))


async def test_reset_frees_the_loaders_of_args():
    """A scope that lives long keeps no loader for arguments that come only once."""
    prices = priced([])
    async with LoaderScope() as scope:
        loaders: weakref.WeakSet[Any] = weakref.WeakSet()
        for number in range(20):
            currency = Currency(str(number))
            await within(prices.load(1, currency))
            loaders.add(scope[prices](currency))
            scope.reset()
        await ticks(3)
        gc.collect()
        assert 0 == len(loaders)


async def test_a_loader_with_args_that_is_held_over_a_reset_stays_the_scope_s():
    """Who took the loader of some arguments before a reset has the one that the scope uses."""
    prices = priced([])
    async with LoaderScope() as scope:
        loader = scope[prices](EUR)
        scope.reset()
        await within(loader.load(1))
        assert loader is scope[prices](EUR)
        scope.reset()
    with pytest.raises(LoaderClosedError):
        await within(loader.load(2))


async def test_a_loader_with_args_that_runs_during_a_reset_ends_with_the_scope():
    """A batch that was in progress at a reset is cancelled when the scope is closed."""
    plan: list[str] = []

    @dataloader(args=Currency)
    async def prices(ids: list[int], currency: Currency) -> list[int]:
        plan.append("started")
        try:
            await asyncio.Event().wait()
        finally:
            plan.append("ended")
        return ids

    async with LoaderScope() as scope:
        waiter = prices.load(1, EUR)
        await until(lambda: plan)
        scope.reset()
    assert [LoadCancelledError] == [type(one) for one in await outcomes(waiter)]
    assert ["started", "ended"] == plan


def test_a_factory_with_args_is_of_its_own_class():
    """Factories with and without arguments are told apart by their classes."""
    assert isinstance(priced([]), ArgsLoaderFactory)
    assert not isinstance(priced([]), LoaderFactory)
    assert not isinstance(dataloader(of_keys), ArgsLoaderFactory)


# Groups


def grouped(rows: Any, plan: list[list[Any]] | None = None, **options: Any) -> Any:
    """Declare a group loader of posts that answers with `rows`, and adds its batches to `plan`."""

    async def posts(keys: list[Any]) -> Any:
        if plan is not None:
            plan.append(list(keys))
        return rows

    return group_dataloader(**{"by": "author_id", **options})(posts)


async def test_o6_a_group_loader_sorts_flat_rows_by_key():
    """Each key gets its rows in the order in which they came; a key without rows gets []."""
    rows = [Post(5, 1), Post(4, 2), Post(3, 1)]
    plan: list[list[int]] = []
    posts = grouped(rows, plan)
    async with LoaderScope():
        found = await outcomes(posts.load(1), posts.load(2), posts.load(3))
    assert [[rows[0], rows[2]], [rows[1]], []] == found
    assert [[1, 2, 3]] == plan


@pytest.mark.parametrize(
    "by, rows",
    [
        pytest.param("author_id", [{"author_id": 1}, {"author_id": 2}], id="mappings"),
        pytest.param(lambda row: row[0], [(1, "a"), (2, "b")], id="function"),
        pytest.param("author_id", ({"author_id": 1}, Post(1, 2)), id="a tuple of both kinds"),
    ],
)
async def test_o6_by_is_an_attribute_a_mapping_s_key_or_a_function(by: Any, rows: Any):
    """Rows may be objects, mappings, or whatever a function can read."""
    posts = grouped(rows, by=by)
    async with LoaderScope():
        assert [[rows[0]], [rows[1]]] == await outcomes(posts.load(1), posts.load(2))


async def test_o6_keys_without_rows_get_lists_of_their_own():
    """The empty lists of two keys are two lists."""
    posts = grouped([])
    async with LoaderScope():
        one, other = await outcomes(posts.load(1), posts.load(2))
        one.append("mine")
    assert (["mine"], []) == (one, other)


async def test_o6_no_rows_at_all_are_no_error():
    """A batch without any row gives every key []."""
    posts = grouped([])
    async with LoaderScope():
        assert [[], []] == await within(posts.load_many(["a", "b"]))


async def test_o6_rows_that_nobody_asked_for_are_left_out():
    """A row whose key is not in the batch is given to nobody."""
    rows = [Post(1, 1), Post(2, 99), Post(3, None)]
    posts = grouped(rows)
    async with LoaderScope():
        assert [[rows[0]], []] == await outcomes(posts.load(1), posts.load(2))
        assert posts.peek(99) is None


async def test_o6_rows_of_other_keys_of_the_same_type_are_no_error():
    """Where no row fits but the types agree, every key gets []."""
    posts = grouped([Post(1, 99)])
    async with LoaderScope():
        assert [[], []] == await within(posts.load_many([1, 2]))


@pytest.mark.parametrize(
    "keys, value, names",
    [
        pytest.param([1, 2], "1", ["int", "str"], id="int and str"),
        pytest.param([str(uuid.UUID(int=1))], uuid.UUID(int=1), ["str", "UUID"], id="str and UUID"),
    ],
)
async def test_o6_rows_of_which_none_fits_the_keys_type_are_an_error(
    keys: list[Any], value: Any, names: list[str]
):
    """Keys of one type and rows of another are an error that names the loader and both types."""
    posts = grouped([Post(1, value)])
    async with LoaderScope():
        for error in await within(posts.load_many(keys, return_exceptions=True)):
            assert isinstance(error, BatchResultError)
            for name in ["'posts'", *names]:
                assert name in str(error)


@pytest.mark.parametrize("by", ["author_id", hash], ids=["attribute", "function"])
@pytest.mark.parametrize(
    "rows", [None, "ab", b"ab", {1: []}, 3], ids=["None", "str", "bytes", "dict", "int"]
)
async def test_r1_what_is_no_sequence_of_rows_is_an_error(rows: Any, by: Any):
    """A group function that returns anything but rows gets every key a BatchResultError."""
    posts = grouped(rows, by=by)
    async with LoaderScope():
        for error in await outcomes(posts.load(1), posts.load(2)):
            assert isinstance(error, BatchResultError)
            assert "'posts'" in str(error)


@pytest.mark.parametrize("row", [Post(1, 1), {"author_id": 1}], ids=["object", "mapping"])
async def test_r1_a_row_without_the_attribute_is_an_error_that_names_it(row: Any):
    """A misspelled `by` is named, with the loader."""
    posts = grouped([row], by="author")
    async with LoaderScope():
        (error,) = await outcomes(posts.load(1))
    assert isinstance(error, BatchResultError)
    assert "'posts'" in str(error)
    assert "'author'" in str(error)


async def test_r4_a_group_function_that_raises_is_asked_again():
    """The error of a group function goes to every key, and nothing is remembered."""
    calls = 0

    @group_dataloader(by="author_id")
    async def posts(keys: list[int]) -> list[Post]:
        nonlocal calls
        calls += 1
        raise Broken

    async with LoaderScope():
        for _ in range(2):
            errors = await outcomes(posts.load(1), posts.load(2))
            assert [Broken, Broken] == [type(error) for error in errors]
    assert 2 == calls


async def test_o6_a_group_loader_takes_context_and_args():
    """A group function has the same further parameters as any other."""
    seen: list[Any] = []

    @group_dataloader(by="author_id", args=Currency)
    async def posts(keys: list[int], context: Any, args: Currency) -> list[Post]:
        seen.append((list(keys), context, args))
        return [Post(key, key) for key in keys]

    @group_dataloader(by="author_id", args=Currency)
    async def drafts(keys: list[int], args: Currency) -> list[Post]:
        seen.append((list(keys), args))
        return [Post(key, key) for key in keys]

    async with LoaderScope(context="request") as scope:
        assert [Post(1, 1)] == await within(posts.load(1, EUR))
        assert [Post(1, 1)] == await within(drafts.load(1, EUR))
        assert [Post(1, 1)] == scope[drafts](EUR).peek(1)
    assert [([1], "request", EUR), ([1], EUR)] == seen


async def test_o6_a_group_loader_takes_the_options():
    """The options of `@dataloader` are those of `@group_dataloader` too."""
    plan: list[list[int]] = []
    posts = grouped([], plan, max_batch_size=1, name="articles")
    with BatchRecorder() as recorder:
        async with LoaderScope():
            await within(posts.load_many([1, 2]))
    assert [("articles", [1]), ("articles", [2])] == recorder.plan


async def test_o6_a_group_loader_groups_by_cache_key():
    """With a `cache_key_fn` rows go to the key with which they have that in common."""
    plan: list[list[Any]] = []
    rows = [Post(1, "Ann"), Post(2, "BEN"), Post(3, "ann")]
    posts = grouped(rows, plan, cache_key_fn=str.lower)
    async with LoaderScope():
        found = await outcomes(posts.load("ANN"), posts.load("ann"), posts.load("ben"))
    assert [[rows[0], rows[2]], [rows[0], rows[2]], [rows[1]]] == found
    assert [["ANN", "ben"]] == plan


async def test_d4_a_group_function_that_mutates_its_list_hurts_nobody():
    """The keys that rows are grouped by are the loader's own."""

    @group_dataloader(by="author_id")
    async def posts(keys: list[int]) -> list[Post]:
        rows = [Post(key, key) for key in keys]
        keys.clear()
        return rows

    async with LoaderScope():
        assert [[Post(1, 1)], [Post(2, 2)]] == await within(posts.load_many([1, 2]))


@pytest.mark.parametrize("by", [3, None, ["author_id"]])
def test_o6_by_must_be_a_name_or_a_function(by: Any):
    """Anything else is refused at the declaration."""
    with pytest.raises(ConfigurationError, match="by"):
        group_dataloader(by=by)(of_keys)


def test_o6_by_is_required():
    """A group loader without `by` is refused at the declaration."""
    with pytest.raises(TypeError):
        group_dataloader()(of_keys)
    with pytest.raises(TypeError):
        group_dataloader(of_keys)


# Entities: O7


def people(plan: list[Any]) -> tuple[Any, Any]:
    """Declare loaders of users by id and by e-mail address."""
    rows = {1: User(1, "ann@x"), 2: User(2, "ben@x"), 3: User(3, None)}

    @dataloader
    async def users(keys: list[int]) -> dict[int, User]:
        plan.append(list(keys))
        return {key: rows[key] for key in keys if key in rows}

    @dataloader
    async def users_by_email(keys: list[str]) -> dict[str, User]:
        plan.append(list(keys))
        return {row.email: row for row in rows.values() if row.email in keys}

    return users, users_by_email


async def test_o7_a_loaded_value_primes_the_other_factory():
    """What one factory has loaded the other one of the scope does not ask for."""
    plan: list[Any] = []
    users, users_by_email = people(plan)
    users.provides(users_by_email, key=lambda user: user.email)
    async with LoaderScope():
        ann, ben = await within(users.load_many([1, 2]))
        found = await outcomes(users_by_email.load("ann@x"), users_by_email.load("ben@x"))
        assert ann is found[0]
        assert ben is found[1]
    async with LoaderScope():
        assert "ann@x" == (await within(users_by_email.load("ann@x"))).email
    assert [[1, 2], ["ann@x"]] == plan


async def test_o7_nothing_is_provided_without_being_declared():
    """Without `provides`, factories of the same rows know nothing of each other."""
    plan: list[Any] = []
    users, users_by_email = people(plan)
    async with LoaderScope():
        await within(users.load(1))
        await within(users_by_email.load("ann@x"))
    assert [[1], ["ann@x"]] == plan


async def test_o7_each_may_provide_the_other():
    """Two factories may provide each other."""
    plan: list[Any] = []
    users, users_by_email = people(plan)
    users.provides(users_by_email, key=lambda user: user.email)
    users_by_email.provides(users, key=lambda user: user.id)
    async with LoaderScope():
        await within(users_by_email.load("ann@x"))
        await within(users.load_many([1, 2]))
        await within(users_by_email.load("ben@x"))
    assert [["ann@x"], [2]] == plan


async def test_o7_none_and_errors_are_not_provided():
    """A missing value primes nothing, nor does one without a key for the other factory."""
    plan: list[Any] = []
    users, users_by_email = people(plan)
    users.provides(users_by_email, key=lambda user: user.email)
    async with LoaderScope():
        user, missing = await within(users.load_many([3, 4]))
        assert (3, None) == (user.id, missing)
        assert users_by_email.peek("ann@x") is None

    @dataloader
    async def failing(keys: list[int]) -> list[Any]:
        return [Broken() for _ in keys]

    asked: list[Any] = []
    failing.provides(users_by_email, key=asked.append)
    async with LoaderScope():
        with pytest.raises(Broken):
            await within(failing.load(1))
    assert [] == asked


async def test_o7_a_value_that_is_there_stays():
    """What the other factory has loaded or been primed with is not replaced."""
    plan: list[Any] = []
    users, users_by_email = people(plan)
    users.provides(users_by_email, key=lambda user: user.email)
    newer = User(1, "ann@x")
    async with LoaderScope():
        users_by_email.prime("ann@x", newer)
        assert newer is not await within(users.load(1))
        assert newer is await within(users_by_email.load("ann@x"))


async def test_o7_a_group_loader_provides_each_row():
    """Every row of a group loader is a value of the other factory."""
    plan: list[list[int]] = []
    rows = [Post(10, 1), Post(11, 1), Post(12, 2)]
    posts_of = grouped(rows)
    posts = tenfold(plan)
    posts_of.provides(posts, key=lambda post: post.id)
    async with LoaderScope():
        await within(posts_of.load_many([1, 2]))
        found = await within(posts.load_many([10, 11, 12]))
        assert all(one is other for one, other in zip(rows, found))
    assert [] == plan


async def test_o7_values_are_provided_to_several_factories():
    """One factory may provide many."""
    plan: list[Any] = []
    users, users_by_email = people(plan)
    names = tenfold(plan)
    users.provides(users_by_email, key=lambda user: user.email)
    users.provides(names, key=lambda user: f"user {user.id}")
    async with LoaderScope():
        ann = await within(users.load(1))
        assert [ann, ann] == await outcomes(users_by_email.load("ann@x"), names.load("user 1"))
    assert [[1]] == plan


async def test_o7_values_are_provided_to_their_own_scope():
    """A value is given to the factory of the scope that loaded it, also from another scope."""
    plan: list[Any] = []
    users, users_by_email = people(plan)
    users.provides(users_by_email, key=lambda user: user.email)
    async with LoaderScope() as outer, LoaderScope():
        await within(outer[users].load(1))
        assert users_by_email.peek("ann@x") is None
        assert "ann@x" == outer[users_by_email].peek("ann@x").email


@pytest.mark.parametrize("way", ["clear", "clear_many", "clear_all"])
async def test_o7_what_was_cleared_meanwhile_is_not_provided(way: str):
    """A value that was read before its key was cleared elsewhere does not come back."""
    plan: list[Any] = []
    go = asyncio.Event()
    _, users_by_email = people(plan)

    @dataloader
    async def slow(keys: list[int]) -> dict[int, User]:
        plan.append("slow")
        rows = {key: User(key, "ann@x") for key in keys}
        await go.wait()
        return rows

    slow.provides(users_by_email, key=lambda user: user.email)
    async with LoaderScope():
        waiting = slow.load(1)
        await until(lambda: plan)
        if way == "clear":
            users_by_email.clear("ann@x")
        elif way == "clear_many":
            users_by_email.clear_many(["ann@x"])
        else:
            users_by_email.clear_all()
        go.set()
        await within(waiting)
        assert users_by_email.peek("ann@x") is None
        await within(users_by_email.load("ann@x"))
    assert ["slow", ["ann@x"]] == plan


@pytest.mark.parametrize("way", ["clear", "reset", "prime"])
async def test_o7_what_was_forgotten_by_its_own_loader_is_not_provided(way: str):
    """A value that its own loader must not remember any more is not given to others either."""
    plan: list[Any] = []
    go = asyncio.Event()
    _, users_by_email = people(plan)

    @dataloader
    async def slow(keys: list[int]) -> dict[int, User]:
        plan.append("slow")
        rows = {key: User(key, "ann@x") for key in keys}
        await go.wait()
        return rows

    slow.provides(users_by_email, key=lambda user: user.email)
    async with LoaderScope() as scope:
        waiting = slow.load(1)
        await until(lambda: plan)
        if way == "clear":
            slow.clear(1)
        elif way == "reset":
            scope.reset()
        else:
            slow.prime(1, User(1, "newer@x"))
        go.set()
        assert "ann@x" == (await within(waiting)).email
        assert users_by_email.peek("ann@x") is None


async def test_o7_values_are_provided_again_after_a_reset():
    """A scope that was reset, for a new event perhaps, provides as a new one does."""
    plan: list[Any] = []
    users, users_by_email = people(plan)
    users.provides(users_by_email, key=lambda user: user.email)
    async with LoaderScope() as scope:
        await within(users.load(1))
        users_by_email.clear("ann@x")
        scope.reset()
        await within(users.load(1))
        await within(users_by_email.load("ann@x"))
    assert [[1], [1]] == plan


async def test_o7_values_beside_an_error_are_provided():
    """An error in one key's place keeps no other key's value from being provided."""
    plan: list[Any] = []
    _, users_by_email = people(plan)

    @dataloader
    async def some(keys: list[int]) -> list[Any]:
        return [User(key, "ann@x") if key == 1 else Broken() for key in keys]

    some.provides(users_by_email, key=lambda user: user.email)
    async with LoaderScope():
        ann, error = await within(some.load_many([1, 2], return_exceptions=True))
        assert isinstance(error, Broken)
        assert ann is await within(users_by_email.load("ann@x"))
    assert [] == plan


@pytest.mark.parametrize("options", [{"cache_errors": True}, {"cache": False}], ids=str)
async def test_o7_errors_are_never_provided(options: dict[str, Any]):
    """No key function sees an error, also where errors are remembered, or nothing is."""
    _, users_by_email = people([])
    asked: list[Any] = []

    @dataloader(**options)
    async def some(keys: list[int]) -> list[Any]:
        return [User(key, None) if key == 1 else Broken() for key in keys]

    def key(value: Any) -> None:
        asked.append(value)

    some.provides(users_by_email, key=key)
    async with LoaderScope():
        await within(some.load_many([1, 2], return_exceptions=True))
    assert [User(1, None)] == asked


@pytest.mark.parametrize("way", ["clear", "clear_all", "reset"])
async def test_o7_a_loader_without_memo_provides_nothing_that_it_was_to_forget(way: str):
    """A value that was read before its loader was cleared is not provided, memo or not."""
    plan: list[Any] = []
    go = asyncio.Event()
    _, users_by_email = people(plan)

    @dataloader(cache=False)
    async def slow(keys: list[int]) -> list[User]:
        plan.append("slow")
        rows = [User(key, "ann@x") for key in keys]
        await go.wait()
        return rows

    slow.provides(users_by_email, key=lambda user: user.email)
    async with LoaderScope() as scope:
        waiting = slow.load(1)
        await until(lambda: plan)
        if way == "clear":
            slow.clear(1)
        elif way == "clear_all":
            slow.clear_all()
        else:
            scope.reset()
        go.set()
        await within(waiting)
        assert users_by_email.peek("ann@x") is None


async def test_o7_a_loader_without_memo_provides_too():
    """What a loader does not remember itself it can still provide."""
    plan: list[Any] = []
    _, users_by_email = people(plan)

    @dataloader(cache=False)
    async def fresh(keys: list[int]) -> list[User]:
        return [User(key, "ann@x") for key in keys]

    fresh.provides(users_by_email, key=lambda user: user.email)
    async with LoaderScope():
        ann = await within(fresh.load(1))
        assert ann is await within(users_by_email.load("ann@x"))
    assert [] == plan


@pytest.mark.parametrize("keys", ["raises", "is not hashable"])
async def test_o7_a_value_that_can_t_be_provided_is_reported(keys: str):
    """When the key function fails, its loader's callers get their values all the same."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    users, users_by_email = people([])

    def key(user: User) -> Any:
        if keys == "raises":
            raise Broken
        return [user.email]

    users.provides(users_by_email, key=key)
    async with LoaderScope():
        assert [1, 2] == [user.id for user in await within(users.load_many([1, 2]))]
    (report,) = reports
    assert (Broken if keys == "raises" else TypeError) is type(report["exception"])
    assert "'users'" in report["message"]


async def test_o7_a_factory_that_has_no_loader_here_is_left_out():
    """A factory that can't be used in a scope for want of a context stops no other one's load."""
    users, _ = people([])

    @dataloader
    async def with_context(keys: list[str], context: Any) -> list[Any]:
        return keys

    users.provides(with_context, key=lambda user: user.email)
    async with LoaderScope():
        assert 1 == (await within(users.load(1))).id


@pytest.mark.parametrize("other", [None, of_keys, "users"])
def test_o7_values_are_provided_to_factories_only(other: Any):
    """What is no factory is refused where it is declared."""
    users, _ = people([])
    with pytest.raises(ConfigurationError):
        users.provides(other, key=lambda user: user.id)


def test_o7_the_key_must_be_a_function():
    """A key that can't be called is refused where it is declared."""
    users, users_by_email = people([])
    with pytest.raises(ConfigurationError, match="key"):
        users.provides(users_by_email, key=3)


def test_the_public_functions_have_docstrings():
    """Each public name explains itself, and shows how it is used."""
    for thing in (LoaderScope, LoaderFactory, ArgsLoaderFactory, dataloader, group_dataloader):
        assert (inspect.getdoc(thing) or "").strip()


async def test_o6_args_are_known_by_their_annotation():
    """A function that is annotated so may take the args before the context."""

    @dataloader(args=Currency)
    async def rows(ids: list[int], currency: Currency, context: str) -> list[str]:
        return [f"{number} {currency.code} {context}" for number in ids]

    async with LoaderScope(context="here"):
        assert "1 EUR here" == await rows.load(1, Currency("EUR"))


def test_a_class_is_not_a_batch_function():
    """A class is refused where it is declared, since calling it gives nothing to await."""

    class Users:
        """Anything that can be called."""

        def __init__(self, ids: list[int]) -> None: ...

    with pytest.raises(ConfigurationError, match="'Users': expected an async function"):
        dataloader(Users)


def test_a_function_of_self_is_not_a_batch_function():
    """A factory that is declared in a class is no method: nothing would give it an instance."""
    with pytest.raises(ConfigurationError, match="'load' must take the keys first, got 'self'"):

        class Users:
            @dataloader
            async def load(self, ids: list[int]) -> list[int]:
                return ids


def test_a_plain_method_is_not_a_batch_function():
    """A bound method is looked at as the function that it is."""

    class Users:
        def load(self, ids: list[int]) -> list[int]:
            return ids

    with pytest.raises(ConfigurationError, match="'load' must be an async function"):
        dataloader(Users().load)


async def test_a_partial_function_is_declared_by_the_name_of_the_whole():
    """Arguments may be given to a batch function before it is declared."""

    async def doubled(factor: int, ids: list[int]) -> list[int]:
        return [factor * number for number in ids]

    factory = dataloader(functools.partial(doubled, 2))

    async with LoaderScope():
        assert "doubled" == factory.name
        assert 6 == await factory.load(3)


async def test_a_function_without_a_signature_takes_the_keys():
    """What can't be looked into is called with the keys alone."""

    class Opaque:
        __signature__ = "none that inspect can read"

        async def __call__(self, ids: list[int]) -> list[int]:
            return ids

    factory = dataloader(name="opaque")(Opaque())

    async with LoaderScope(context="not for it"):
        assert 3 == await factory.load(3)


def test_a_scope_shows_whether_it_is_open():
    """A scope says what state it is in and how many loaders it has."""
    scope = LoaderScope()
    shown = [repr(scope)]
    with scope:
        shown.append(repr(scope))
    shown.append(repr(scope))

    assert [
        "<LoaderScope new, 0 loaders>",
        "<LoaderScope open, 0 loaders>",
        "<LoaderScope closed, 0 loaders>",
    ] == shown
