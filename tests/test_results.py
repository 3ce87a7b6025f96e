"""What a batch function may return, and what becomes of it: rules R1 to R4."""

from __future__ import annotations

import asyncio
import collections
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from dataloader_cache import DataLoader
from dataloader_cache.errors import (
    BatchResultError,
    DataLoaderCacheError,
    KeyNotFoundError,
    LoadCancelledError,
)

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever


async def ticks(count: int) -> None:
    """Let `count` turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(awaitable: Any) -> Any:
    """Wait for `awaitable`, but not for ever."""
    return await asyncio.wait_for(awaitable, GUARD)


async def outcomes(*futures: Any) -> list[Any]:
    """Wait for every future and give each one's value or error."""
    await asyncio.wait([asyncio.ensure_future(future) for future in futures], timeout=GUARD)
    assert all(future.done() for future in futures), "a waiter hangs"
    assert not any(future.cancelled() for future in futures), "a waiter was cancelled"
    return [future.exception() or future.result() for future in futures]


def answering(*results: Any, **options: Any) -> tuple[DataLoader[Any, Any], list[list[Any]]]:
    """Make a loader whose n-th batch returns the n-th of `results`, and the plan it fills.

    A function among the results is called with the keys.
    """
    plan: list[list[Any]] = []

    async def load_fn(keys: list[Any]) -> Any:
        result = results[len(plan)]
        plan.append(list(keys))
        return result(keys) if callable(result) else result

    return DataLoader(load_fn, **options), plan


def tenfold(keys: list[Any]) -> list[Any]:
    """Answer each key with ten times itself."""
    return [key * 10 for key in keys]


class Sequential(Sequence[Any]):
    """A sequence that is neither a list nor a tuple."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]


class Broken(Sequential):
    """A sequence that has a length and nothing else."""

    def __getitem__(self, index: Any) -> Any:
        raise ZeroDivisionError("broken")


class BrokenMapping(Mapping[Any, Any]):
    """A mapping that can't be read."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        raise ZeroDivisionError("broken")

    def __getitem__(self, key: Any) -> Any:
        raise ZeroDivisionError("broken")

    def __contains__(self, key: object) -> bool:
        raise ZeroDivisionError("broken")


# R1: the shape of a result


@pytest.mark.parametrize(
    "result",
    [
        pytest.param([10, 20], id="list"),
        pytest.param((10, 20), id="tuple"),
        pytest.param(range(10, 30, 10), id="range"),
        pytest.param(collections.deque([10, 20]), id="deque"),
        pytest.param(collections.UserList([10, 20]), id="UserList"),
        pytest.param(Sequential(10, 20), id="own-sequence"),
        pytest.param({2: 20, 1: 10}, id="dict"),
        pytest.param(types.MappingProxyType({1: 10, 2: 20}), id="MappingProxyType"),
        pytest.param(collections.UserDict({1: 10, 2: 20}), id="UserDict"),
        pytest.param(collections.ChainMap({1: 10}, {2: 20}), id="ChainMap"),
    ],
)
async def test_r1_a_sequence_or_a_mapping_is_a_result(result: Any):
    """Any `Sequence` of the keys' length and any `Mapping` by key give each key its value."""
    loader, plan = answering(result)

    assert [10, 20] == await outcomes(loader.load(1), loader.load(2))
    assert [[1, 2]] == plan


async def test_r1_a_mapping_is_read_by_key_and_not_by_position():
    """A `dict` result gives each key the value that stands under it, not the keys."""
    loader, _ = answering({2: "two", 1: "one", 3: "three"})

    assert ["one", "two"] == await outcomes(loader.load(1), loader.load(2))


async def test_r1_a_mapping_is_read_by_cache_key_where_there_is_a_cache_key_fn():
    """With a `cache_key_fn` a mapping result is keyed by cache key."""
    loader, plan = answering({"a": 1, "b": 2}, cache_key_fn=str.lower)

    assert [1, 2, 1] == await outcomes(loader.load("A"), loader.load("b"), loader.load("a"))
    assert [["A", "b"]] == plan


async def test_r1_a_mapping_serves_unhashable_keys_by_their_cache_keys():
    """A mapping result works for keys that can't be dict keys themselves."""
    loader, plan = answering({(1, 2): "x"}, cache_key_fn=tuple)

    assert ["x"] == await outcomes(loader.load([1, 2]))
    assert [[[1, 2]]] == plan


async def test_r1_falsy_values_are_values():
    """`None`, `0`, `""`, `[]` and `False` are values and are remembered."""
    falsy = [None, 0, "", [], False]
    loader, plan = answering(falsy)

    for _ in range(2):
        assert falsy == await within(loader.load_many(range(5)))
    assert [[0, 1, 2, 3, 4]] == plan


async def test_r1_an_empty_mapping_is_a_result():
    """An empty mapping is a result without any of the keys."""
    loader, _ = answering({})

    assert [None, None] == await outcomes(loader.load(1), loader.load(2))


def generator(keys: list[Any]) -> Any:
    return (key for key in keys)


async def async_generator(keys: list[Any]) -> Any:
    for key in keys:
        yield key


WRONG_SHAPES = [
    pytest.param(None, "None", id="None"),
    pytest.param("ab", "str", id="str"),
    pytest.param(b"ab", "bytes", id="bytes"),
    # reading: bytearray and memoryview are bytes by another name.
    pytest.param(bytearray(b"ab"), "bytearray", id="bytearray"),
    pytest.param({10, 20}, "set", id="set"),
    pytest.param(frozenset({10, 20}), "frozenset", id="frozenset"),
    pytest.param(generator, "generator", id="generator"),
    pytest.param({1: 10, 2: 20}.values(), "dict_values", id="dict-values"),
    pytest.param(iter([10, 20]), "iterator", id="iterator"),
    pytest.param(42, "int", id="int"),
    pytest.param(object(), "object", id="object"),
]


@pytest.mark.parametrize("result, came", WRONG_SHAPES)
async def test_r1_any_other_shape_is_a_batch_result_error(result: Any, came: str):
    """A result that is no sequence and no mapping is an error for every key, saying what came."""
    loader, _ = answering(result, name="users")

    for error in await outcomes(loader.load(1), loader.load(2)):
        assert isinstance(error, BatchResultError)
        assert isinstance(error, TypeError)
        assert "loader 'users'" in str(error)
        assert came in str(error)
        assert "mapping" in str(error)


@pytest.mark.parametrize(
    "result, came",
    [
        pytest.param([], "0 values for 2 keys", id="none"),
        pytest.param([10], "1 values? for 2 keys", id="short"),
        pytest.param([10, 20, 30], "3 values for 2 keys", id="long"),
        pytest.param((), "0 values for 2 keys", id="empty-tuple"),
    ],
)
async def test_r1_a_wrong_length_is_a_batch_result_error(result: Any, came: str):
    """A sequence that is too short or too long is an error for every key, naming both counts."""
    loader, _ = answering(result, name="users")

    futures = [loader.load(1), loader.load(2)]
    for future in futures:
        with pytest.raises(BatchResultError, match=came) as caught:
            await within(future)
        assert "loader 'users'" in str(caught.value)


async def test_r1_the_text_says_what_to_return():
    """The error says that a value per key, in key order, or a mapping is wanted."""
    loader, _ = answering([1, 2], name="users")

    with pytest.raises(BatchResultError) as caught:
        await within(loader.load_many([1, 2, 3]))
    assert (
        "batch function of loader 'users' returned 2 values for 3 keys; "
        "return one per key, in key order, or a mapping"
    ) in str(caught.value)


@pytest.mark.parametrize("result", [*(p.values[0] for p in WRONG_SHAPES), [], [1, 2, 3]])
async def test_r1_nothing_of_a_wrong_result_is_remembered(result: Any):
    """After a wrong result the next load asks again, also with `cache_errors=True`."""
    loader, plan = answering(result, tenfold, cache_errors=True)

    await outcomes(loader.load(1), loader.load(2))

    assert ["absent", "absent"] == [loader.peek(key, "absent") for key in (1, 2)]
    assert [10, 20] == await outcomes(loader.load(1), loader.load(2))
    assert [[1, 2], [1, 2]] == plan


async def test_r1_an_async_generator_function_is_a_batch_result_error():
    """A batch function that yields instead of returning is told so."""
    loader: DataLoader[int, int] = DataLoader(async_generator, name="users")

    with pytest.raises(BatchResultError, match="loader 'users'"):
        await within(loader.load(1))


async def test_r1_a_batch_function_that_is_not_async_is_a_batch_result_error():
    """A plain function that returns its values without an awaitable is told so."""
    # reading: a result that can't be awaited is a wrong shape, whatever it holds.

    def load_fn(keys: list[int]) -> Any:
        return keys

    loader: DataLoader[int, int] = DataLoader(load_fn, name="users")

    for error in await outcomes(loader.load(1), loader.load(2)):
        assert isinstance(error, BatchResultError)
        assert "loader 'users'" in str(error)
        assert "list" in str(error)


@pytest.mark.parametrize("kind", ["coroutine", "future", "task", "object"])
async def test_r1_a_plain_function_may_return_any_awaitable(kind: str):
    """A batch function need not be a coroutine function, only return an awaitable."""

    async def answer(keys: list[int]) -> list[int]:
        return tenfold(keys)

    class Answer:
        def __init__(self, keys: list[int]) -> None:
            self.keys = keys

        def __await__(self) -> Any:
            return answer(self.keys).__await__()

    def load_fn(keys: list[int]) -> Any:
        if kind == "coroutine":
            return answer(keys)
        if kind == "future":
            future = asyncio.get_running_loop().create_future()
            future.set_result(tenfold(keys))
            return future
        if kind == "task":
            return asyncio.ensure_future(answer(keys))
        return Answer(keys)

    loader: DataLoader[int, int] = DataLoader(load_fn)

    assert [10, 20] == await outcomes(loader.load(1), loader.load(2))


@pytest.mark.parametrize("result", [Broken(1, 2), BrokenMapping()])
async def test_r1_a_result_that_can_not_be_read_hangs_nobody(result: Any):
    """A result whose reading raises is an error for every key and is not remembered."""
    loader, plan = answering(result, tenfold)

    for error in await outcomes(loader.load(1), loader.load(2)):
        assert isinstance(error, (ZeroDivisionError, BatchResultError))
    assert [10, 20] == await outcomes(loader.load(1), loader.load(2))
    assert [[1, 2], [1, 2]] == plan


async def test_r1_one_batch_of_many_may_be_wrong():
    """A wrong result is the error of its own batch's keys only."""
    loader, plan = answering(None, tenfold, max_batch_size=2)

    results = await within(loader.load_many([1, 2, 3, 4], return_exceptions=True))

    assert [BatchResultError, BatchResultError, int, int] == [type(result) for result in results]
    assert [30, 40] == results[2:]
    assert [[1, 2], [3, 4]] == plan


# R2: an error in a key's place


@pytest.mark.parametrize("shape", ["list", "dict"])
async def test_r2_an_exception_in_a_keys_place_is_that_keys_error(shape: str):
    """An exception among the values is raised to that key's waiters only."""
    error = ValueError("two")
    loader, plan = answering([10, error, 30] if shape == "list" else {1: 10, 2: error, 3: 30})

    futures = [loader.load(key) for key in (1, 2, 3, 2)]

    assert [10, error, 30, error] == await outcomes(*futures)
    assert [[1, 2, 3]] == plan


async def test_r2_a_keys_error_is_not_remembered():
    """A key that failed is asked again, the others of its batch are not."""
    loader, plan = answering([10, ValueError("two")], tenfold)

    await outcomes(loader.load(1), loader.load(2))

    assert [10, 20] == await outcomes(loader.load(1), loader.load(2))
    assert [[1, 2], [2]] == plan


async def test_r2_a_keys_error_is_remembered_with_cache_errors():
    """With `cache_errors=True` a key's error is raised again without asking."""
    error = ValueError("two")
    loader, plan = answering([10, error], cache_errors=True)

    for _ in range(3):
        assert [10, error] == await outcomes(loader.load(1), loader.load(2))
    assert [[1, 2]] == plan


async def test_r2_a_remembered_error_is_forgotten_by_clear():
    """`clear` forgets a remembered error like a value."""
    loader, plan = answering([ValueError("one")], tenfold, cache_errors=True)
    await outcomes(loader.load(1))

    loader.clear(1)

    assert [10] == await outcomes(loader.load(1))
    assert [[1], [1]] == plan


async def test_r2_a_remembered_error_does_not_stay_when_primed_by_force():
    """`prime(force=True)` puts a value in a remembered error's place."""
    loader, plan = answering([ValueError("one")], cache_errors=True)
    await outcomes(loader.load(1))

    loader.prime(1, 11, force=True)

    assert [11] == await outcomes(loader.load(1))
    assert [[1]] == plan


@pytest.mark.parametrize("cache_errors", [False, True])
async def test_r2_the_failure_of_the_whole_batch_is_never_remembered(cache_errors: bool):
    """`cache_errors` is about a key's own error, not about a batch that failed."""
    calls = 0

    async def load_fn(keys: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionError("down")
        return tenfold(keys)

    loader = DataLoader(load_fn, cache_errors=cache_errors)

    assert [ConnectionError] == [type(error) for error in await outcomes(loader.load(1))]
    assert [10] == await outcomes(loader.load(1))


class Own(BaseException):
    """A base exception of a user's own."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, Own])
async def test_r2_a_base_exception_in_a_keys_place_is_that_keys_error(kind: type[BaseException]):
    """A `BaseException` instance among the values is raised, never handed out as a value."""
    error = kind("two")
    loader, _ = answering([10, error, 30])

    assert [10, error, 30] == await outcomes(*map(loader.load, (1, 2, 3)))


async def test_r2_a_cancelled_error_in_a_keys_place_becomes_load_cancelled_error():
    """A `CancelledError` among the values does not cancel the key's waiter."""
    loader, _ = answering([10, asyncio.CancelledError(), 30], name="users")

    values = await outcomes(*map(loader.load, (1, 2, 3)))

    assert [10, 30] == [values[0], values[2]]
    assert isinstance(values[1], LoadCancelledError)
    assert "users" in str(values[1])


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
async def test_r2_a_stop_iteration_in_a_keys_place_hangs_nobody(kind: type[Exception]):
    """A `StopIteration`, which no future takes, still reaches its key's waiter as an error."""
    # reading: what can't be raised out of a coroutine is the cause of what is (PEP 479).
    error = kind("two")
    loader, _ = answering([10, error, 30])

    values = await outcomes(*map(loader.load, (1, 2, 3)))

    assert [10, 30] == [values[0], values[2]]
    assert isinstance(values[1], Exception)
    assert error in (values[1], values[1].__cause__)


async def test_r2_a_stop_iteration_is_an_error_for_load_many_too():
    """`load_many` puts a `StopIteration` value in its place as an error, or raises it."""
    loader, _ = answering([10, StopIteration("two")], [10, StopIteration("two")])

    values = await within(loader.load_many([1, 2], return_exceptions=True))
    assert 10 == values[0]
    assert isinstance(values[1], Exception)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        await within(loader.load_many([1, 2]))
    assert not isinstance(caught.value, asyncio.TimeoutError)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt("x"), asyncio.CancelledError("x"), StopIteration("x"), Own("x")]
)
async def test_r2_strange_errors_of_a_key_are_remembered_with_cache_errors(error: BaseException):
    """With `cache_errors=True` an error of any kind is raised again without asking."""
    loader, plan = answering([error], cache_errors=True)

    first = await outcomes(loader.load(1))
    second = await outcomes(loader.load(1))

    assert [type(first[0])] == [type(second[0])]
    assert isinstance(second[0], BaseException)
    assert [[1]] == plan


async def test_r2_peek_does_not_hand_out_a_remembered_error_as_a_value():
    """`peek` of a key whose error is remembered never returns the exception as data."""
    # reading: `peek` has "only what is already there"; an error is no value, so the default.
    loader, _ = answering([ValueError("one")], cache_errors=True)
    await outcomes(loader.load(1))

    assert "absent" == loader.peek(1, "absent")


async def test_r2_an_exception_class_is_a_value():
    """Only instances of exceptions are errors; a class is a value like any other."""
    loader, _ = answering([ValueError])

    assert [ValueError] == await outcomes(loader.load(1))


# R3: keys that a mapping lacks


async def test_r3_a_key_that_a_mapping_lacks_is_none():
    """A key without an entry in a mapping result is `None`."""
    loader, _ = answering({1: 10})

    assert [10, None] == await outcomes(loader.load(1), loader.load(2))


async def test_r3_a_missing_key_that_is_none_is_remembered():
    """The `None` of a missing key is a value: it is not asked again."""
    loader, plan = answering({})

    assert [None] == await outcomes(loader.load(1))
    assert [None] == await outcomes(loader.load(1))
    assert [[1]] == plan


async def test_r3_missing_raise_is_a_key_not_found_error_for_that_key_only():
    """With `missing="raise"` a missing key fails and the others have their values."""
    loader, _ = answering({1: 10, 3: 30}, missing="raise", name="users")

    values = await outcomes(*map(loader.load, (1, 22, 3)))

    assert [10, 30] == [values[0], values[2]]
    assert isinstance(values[1], KeyNotFoundError)
    assert isinstance(values[1], LookupError)
    assert "users" in str(values[1])
    assert "22" in str(values[1])


async def test_r3_missing_raise_names_the_key_as_the_caller_gave_it():
    """The error of a missing key shows the key itself, quoted as Python shows it."""
    loader, _ = answering({}, missing="raise")

    with pytest.raises(KeyNotFoundError, match="'alice'"):
        await within(loader.load("alice"))


async def test_r3_missing_raise_with_a_cache_key_fn_looks_under_the_cache_key():
    """With `missing="raise"` a key is missing when its cache key is."""
    loader, _ = answering({"a": 1}, missing="raise", cache_key_fn=str.lower)

    values = await outcomes(loader.load("A"), loader.load("B"))

    assert 1 == values[0]
    assert isinstance(values[1], KeyNotFoundError)


async def test_r3_a_key_not_found_is_not_remembered():
    """A key that was missing is asked again."""
    loader, plan = answering({}, {1: 10}, missing="raise")

    assert [KeyNotFoundError] == [type(error) for error in await outcomes(loader.load(1))]
    assert [10] == await outcomes(loader.load(1))
    assert [[1], [1]] == plan


async def test_r3_a_key_not_found_is_remembered_with_cache_errors():
    """With `cache_errors=True` a missing key is a per-key error like any other."""
    # reading: R3 makes it an error "for that key only", so R2's `cache_errors` covers it.
    loader, plan = answering({}, missing="raise", cache_errors=True)

    for _ in range(2):
        assert [KeyNotFoundError] == [type(error) for error in await outcomes(loader.load(1))]
    assert [[1]] == plan


async def test_r3_a_none_that_stands_in_the_mapping_is_not_missing():
    """With `missing="raise"` a key whose entry is `None` is `None`."""
    loader, _ = answering({1: None}, missing="raise")

    assert [None] == await outcomes(loader.load(1))


async def test_r3_a_none_in_a_sequence_is_not_missing():
    """With `missing="raise"` a `None` in a sequence result is a value."""
    loader, _ = answering([None], missing="raise")

    assert [None] == await outcomes(loader.load(1))


async def test_r3_asking_a_mapping_adds_nothing_to_it():
    """A missing key does not grow a `defaultdict` that the batch function keeps."""
    kept: collections.defaultdict[int, list[int]] = collections.defaultdict(list)
    kept[1].append(10)
    loader, _ = answering(kept)

    await outcomes(loader.load(1), loader.load(2))

    assert [1] == list(kept)


# R4: the batch function raises


@pytest.mark.parametrize("when", ["called", "awaited", "later"])
async def test_r4_every_key_gets_the_error_of_the_batch(when: str):
    """What the batch function raises, whenever it does, every waiter of the batch gets."""
    error = ValueError("failed")

    async def later(keys: list[int]) -> list[int]:
        await ticks(3 if when == "later" else 0)
        raise error

    def load_fn(keys: list[int]) -> Any:
        if when == "called":
            raise error
        return later(keys)

    loader: DataLoader[int, int] = DataLoader(load_fn)

    assert [error] * 3 == await outcomes(loader.load(1), loader.load(2), loader.load(1))


async def test_r4_a_failure_is_not_remembered():
    """After a failure the next load tries again."""
    calls: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        calls.append(list(keys))
        if len(calls) == 1:
            raise ValueError("failed")
        return tenfold(keys)

    loader = DataLoader(load_fn)
    failed = await outcomes(loader.load(1), loader.load(2))

    assert [ValueError, ValueError] == [type(error) for error in failed]
    assert "absent" == loader.peek(1, "absent")
    assert [10, 20] == await outcomes(loader.load(1), loader.load(2))
    assert [[1, 2], [1, 2]] == calls


async def test_r4_a_waiter_may_try_again_as_soon_as_it_failed():
    """A load in the very step in which the failure arrives starts a new batch."""
    calls = 0

    async def load_fn(keys: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("failed")
        return tenfold(keys)

    loader = DataLoader(load_fn)

    async def stubborn(key: int) -> int:
        try:
            return await loader.load(key)
        except ValueError:
            return await loader.load(key)

    assert [10, 10, 20] == await within(asyncio.gather(*map(stubborn, (1, 1, 2))))
    assert 2 == calls


async def test_r4_a_cancelled_error_of_the_batch_function_becomes_load_cancelled_error():
    """A batch function that raises `CancelledError` cancels nobody."""

    async def load_fn(keys: list[int]) -> list[int]:
        raise asyncio.CancelledError

    loader = DataLoader(load_fn, name="users")

    for error in await outcomes(loader.load(1), loader.load(2)):
        assert isinstance(error, LoadCancelledError)
        assert isinstance(error, DataLoaderCacheError)
        assert not isinstance(error, asyncio.CancelledError)
        assert isinstance(error.__cause__, asyncio.CancelledError)
        assert (
            "the load of loader 'users' was cancelled from inside: its function gave a "
            "CancelledError, as happens when something that it awaits is cancelled; load again, "
            "or catch that in the function and raise an error that says what went wrong"
        ) == str(error)


async def test_r4_a_cancelled_error_raised_when_called_becomes_load_cancelled_error():
    """A plain batch function that raises `CancelledError` cancels nobody either."""

    def load_fn(keys: list[int]) -> Any:
        raise asyncio.CancelledError

    loader: DataLoader[int, int] = DataLoader(load_fn)

    results = await outcomes(loader.load(1), loader.load(2))
    assert [LoadCancelledError] * 2 == [type(error) for error in results]


async def test_r4_a_batch_function_that_awaits_a_cancelled_future_cancels_nobody():
    """A cancellation from inside the batch function is a `LoadCancelledError` outside."""

    async def load_fn(keys: list[int]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future

    loader: DataLoader[int, int] = DataLoader(load_fn)

    results = await outcomes(loader.load(1))
    assert [LoadCancelledError] == [type(error) for error in results]


async def test_r4_a_cancelled_batch_is_not_remembered():
    """After a `CancelledError` from inside the next load tries again."""
    calls = 0

    async def load_fn(keys: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError
        return tenfold(keys)

    loader = DataLoader(load_fn, cache_errors=True)
    await outcomes(loader.load(1))

    assert [10] == await outcomes(loader.load(1))


async def test_r4_load_many_raises_load_cancelled_error_and_is_not_cancelled():
    """`load_many` over a batch that cancelled itself fails like `load`."""

    async def load_fn(keys: list[int]) -> list[int]:
        raise asyncio.CancelledError

    with pytest.raises(LoadCancelledError):
        await within(DataLoader(load_fn).load_many([1, 2]))


@pytest.mark.parametrize("kind", [GeneratorExit, Own, StopAsyncIteration])
async def test_r4_any_base_exception_settles_every_waiter(kind: type[BaseException]):
    """A batch function that raises a strange exception leaves nobody waiting."""

    async def load_fn(keys: list[int]) -> list[int]:
        await asyncio.sleep(0)
        raise kind("strange")

    loader = DataLoader(load_fn)

    for error in await outcomes(loader.load(1), loader.load(2)):
        assert isinstance(error, kind)


async def test_r4_a_stop_iteration_raised_when_called_settles_every_waiter():
    """A plain batch function that raises `StopIteration` leaves nobody waiting."""

    def load_fn(keys: list[int]) -> Any:
        return next(iter(()))

    loader: DataLoader[int, int] = DataLoader(load_fn)

    for error in await outcomes(loader.load(1), loader.load(2)):
        assert isinstance(error, Exception)


FATAL = [KeyboardInterrupt, SystemExit]


def run_until_fatal(
    make: Callable[[], list[asyncio.Future[Any]]], kind: type[BaseException]
) -> tuple[asyncio.AbstractEventLoop, list[asyncio.Future[Any]]]:
    """Run `make` on a loop of its own until an exception of `kind` comes out of the loop."""
    loop = asyncio.new_event_loop()
    futures: list[asyncio.Future[Any]] = []

    async def main() -> None:
        futures.extend(make())
        await ticks(100)

    with pytest.raises(kind):
        loop.run_until_complete(main())
    return loop, futures


def finish(loop: asyncio.AbstractEventLoop) -> None:
    """Let what is left on the loop end, and close it."""

    async def rest() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop.run_until_complete(rest())
    loop.close()


@pytest.mark.parametrize("when", ["called", "awaited"])
@pytest.mark.parametrize("kind", FATAL)
def test_r4_an_interrupt_settles_the_waiters_and_propagates(kind: type[BaseException], when: str):
    """`KeyboardInterrupt` and `SystemExit` leave the loop; the waiters are settled by then."""

    async def later(keys: list[int]) -> list[int]:
        await asyncio.sleep(0)
        raise kind

    def load_fn(keys: list[int]) -> Any:
        if when == "called":
            raise kind
        return later(keys)

    loader: DataLoader[int, int] = DataLoader(load_fn, name="users")
    loop, futures = run_until_fatal(lambda: [loader.load(1), loader.load(2), loader.load(1)], kind)

    assert [True] * 3 == [future.done() for future in futures]
    for future in futures:
        assert isinstance(future.exception(), LoadCancelledError)
        assert "users" in str(future.exception())
    finish(loop)


@pytest.mark.parametrize("kind", FATAL)
def test_r4_an_interrupt_settles_a_load_many(kind: type[BaseException]):
    """`load_many` gets the `LoadCancelledError` of an interrupt like `load`."""

    async def load_fn(keys: list[int]) -> list[int]:
        raise kind

    loader = DataLoader(load_fn)
    loop, futures = run_until_fatal(lambda: [asyncio.ensure_future(loader.load_many([1, 2]))], kind)
    loop.run_until_complete(ticks(5))

    assert isinstance(futures[0].exception(), LoadCancelledError)
    finish(loop)


@pytest.mark.parametrize("kind", FATAL)
def test_r4_an_interrupt_leaves_other_loaders_of_the_loop_working(kind: type[BaseException]):
    """A loop that is run again after an interrupt still sends the other open batches."""

    async def load_fn(keys: list[int]) -> list[int]:
        raise kind

    async def good_fn(keys: list[int]) -> list[int]:
        return tenfold(keys)

    bad, good = DataLoader(load_fn), DataLoader(good_fn)
    loop, futures = run_until_fatal(lambda: [bad.load(1), good.load(1)], kind)

    async def again() -> list[int]:
        return [await within(futures[1]), await within(good.load(2))]

    assert [10, 20] == loop.run_until_complete(again())
    assert isinstance(futures[0].exception(), LoadCancelledError)
    finish(loop)


@pytest.mark.parametrize("kind", FATAL)
def test_r4_an_interrupt_is_not_remembered(kind: type[BaseException]):
    """The loader that was interrupted loads again when its loop runs again."""
    calls = 0

    async def load_fn(keys: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise kind
        return tenfold(keys)

    loader = DataLoader(load_fn, cache_errors=True)
    loop, futures = run_until_fatal(lambda: [loader.load(1)], kind)

    async def again() -> int:
        return await within(loader.load(1))

    assert 10 == loop.run_until_complete(again())
    assert isinstance(futures[0].exception(), LoadCancelledError)
    finish(loop)


# A subclass


async def test_r1_a_subclass_may_define_its_batch_function():
    """`async def load_fn(self, keys)` in a subclass is the batch function."""

    class Users(DataLoader[int, str]):
        prefix = "user"

        async def load_fn(self, keys: list[int]) -> list[str]:
            return [f"{self.prefix} {key}" for key in keys]

    assert ["user 1", "user 2"] == await within(Users().load_many([1, 2]))


async def test_r1_a_subclass_takes_the_options_of_the_loader():
    """A subclass passes its options on, and its batches obey them."""
    plan: list[list[int]] = []

    class Users(DataLoader[int, int]):
        async def load_fn(self, keys: list[int]) -> list[int]:
            plan.append(list(keys))
            return keys

    await within(Users(max_batch_size=2).load_many([1, 2, 3]))

    assert [[1, 2], [3]] == plan


async def test_r1_a_subclass_may_keep_state_of_its_own():
    """A subclass with its own `__init__` calls the loader's with options only."""

    class Users(DataLoader[int, str]):
        def __init__(self, greeting: str) -> None:
            super().__init__(max_batch_size=1)
            self.greeting = greeting

        async def load_fn(self, keys: list[int]) -> list[str]:
            return [f"{self.greeting} {key}" for key in keys]

    assert "hello 1" == await within(Users("hello").load(1))


async def test_r1_a_mapping_by_keys_of_another_type_is_an_error():
    """A mapping by int has none of the keys that are strings, and says so instead of None."""

    async def load_names(ids: list[Any]) -> dict[int, str]:
        return {1: "ann", 2: "ben"}

    loader = DataLoader(load_names)

    with pytest.raises(BatchResultError) as caught:
        await loader.load("1")
    assert (
        "batch function of loader 'load_names' returned a mapping whose keys are of type int, "
        "such as 1; it was asked for keys of type str, such as '1', and none is in it; return a "
        "mapping by the keys that it gets"
    ) == str(caught.value)


@pytest.mark.parametrize("missing", ["none", "raise"])
async def test_r3_a_mapping_that_has_other_keys_of_the_same_type_lacks_the_key(missing: Any):
    """A key is absent where others of its type are there, or nothing is."""

    async def load_names(ids: list[Any]) -> dict[int, str]:
        return {} if ids == ["1"] else {1: "ann"}

    loader = DataLoader(load_names, missing=missing)

    found = [*await asyncio.gather(loader.load(7), return_exceptions=True)]
    found += await asyncio.gather(loader.load("1"), return_exceptions=True)

    expected = type(None) if missing == "none" else KeyNotFoundError
    assert [expected, expected] == [type(value) for value in found]


class Wary:
    """A key that is equal to nothing, and raises when it meets another that has its hash."""

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("not comparable")


@pytest.mark.parametrize("missing", ["none", "raise"])
async def test_r2_a_key_that_can_not_be_looked_up_in_a_mapping_fails_alone(missing: Any):
    """Its own caller gets the error of its `__eq__`, the others what the mapping has for them."""
    loader, plan = answering({1: "one", 7: "seven"}, missing=missing)
    wary = Wary()

    found = await outcomes(loader.load(1), loader.load(wary), loader.load(2))

    absent = type(None) if missing == "none" else KeyNotFoundError
    assert [str, ZeroDivisionError, absent] == [type(value) for value in found]
    assert [[1, wary, 2]] == plan
