"""The error tree, and what the constructor refuses."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import pytest

from dataloader_cache import DataLoader, errors
from dataloader_cache.errors import (
    BatchResultError,
    ConfigurationError,
    DataLoaderCacheError,
    KeyNotFoundError,
    LoadCancelledError,
    LoaderClosedError,
    LoaderDeadlockError,
    LoadTimeoutError,
    LoopError,
    NoScopeError,
)

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever


async def within(awaitable: Any) -> Any:
    """Wait for `awaitable`, but not for ever."""
    return await asyncio.wait_for(awaitable, GUARD)


async def load_fn(keys: list[Any]) -> list[Any]:
    """Answer each key with itself."""
    return keys


TREE = [
    (ConfigurationError, ()),
    (NoScopeError, (RuntimeError,)),
    (LoopError, (RuntimeError,)),
    (LoaderClosedError, (RuntimeError,)),
    (BatchResultError, (TypeError,)),
    (KeyNotFoundError, (LookupError,)),
    (LoadTimeoutError, (TimeoutError,)),
    (LoadCancelledError, ()),
    (LoaderDeadlockError, (RuntimeError,)),
]


@pytest.mark.parametrize("error, bases", TREE)
def test_every_error_is_a_data_loader_cache_error(error: type, bases: tuple[type, ...]):
    """Every error of the library is a `DataLoaderCacheError` and the builtin that fits."""
    for base in (DataLoaderCacheError, *bases):
        assert issubclass(error, base)


def test_data_loader_cache_error_is_an_exception():
    """The root of the tree is an ordinary `Exception`."""
    assert (Exception,) == DataLoaderCacheError.__bases__


def test_load_cancelled_error_is_no_cancelled_error():
    """A load that was cancelled from inside is not mistaken for its caller's cancellation."""
    assert not issubclass(LoadCancelledError, asyncio.CancelledError)


def test_key_not_found_error_is_no_key_error():
    """A missing key's text is not shown in quotes, as a `KeyError`'s is."""
    # reading: the tree says LookupError; a KeyError would show `repr()` of its message.
    assert "no such key" == str(KeyNotFoundError("no such key"))


@pytest.mark.parametrize("error", [error for error, _ in TREE])
def test_every_error_is_public(error: type):
    """`dataloader_cache.errors.__all__` has every error of the tree."""
    assert error.__name__ in errors.__all__
    assert "DataLoaderCacheError" in errors.__all__


BAD_VALUES = [
    pytest.param({"max_batch_size": 0}, "0", id="max_batch_size=0"),
    pytest.param({"max_batch_size": -1}, "-1", id="max_batch_size=-1"),
    pytest.param({"batch_window": -0.5}, "-0.5", id="batch_window=-0.5"),
    pytest.param({"batch_window": float("nan")}, "nan", id="batch_window=nan"),
    pytest.param({"missing": "ignore"}, "ignore", id="missing=ignore"),
    pytest.param({"missing": ""}, "''", id="missing=empty"),
    pytest.param({"max_concurrent_batches": 0}, "0", id="max_concurrent_batches=0"),
    pytest.param({"max_concurrent_batches": -3}, "-3", id="max_concurrent_batches=-3"),
    pytest.param({"load_timeout": -1}, "-1", id="load_timeout=-1"),
    pytest.param({"load_timeout": float("nan")}, "nan", id="load_timeout=nan"),
]

BAD_TYPES = [
    pytest.param({"max_batch_size": "2"}, "'2'", id="max_batch_size=str"),
    pytest.param({"max_batch_size": 2.5}, "2.5", id="max_batch_size=float"),
    pytest.param({"batch_window": "1"}, "'1'", id="batch_window=str"),
    pytest.param({"cache_key_fn": 3}, "3", id="cache_key_fn=int"),
    pytest.param({"cache_key_fn": "id"}, "'id'", id="cache_key_fn=str"),
    pytest.param({"max_concurrent_batches": "1"}, "'1'", id="max_concurrent_batches=str"),
    pytest.param({"max_concurrent_batches": 1.5}, "1.5", id="max_concurrent_batches=float"),
    pytest.param({"limiter": 1}, "1", id="limiter=int"),
    pytest.param({"limiter": threading.Lock()}, "lock", id="limiter=sync-lock"),
    pytest.param({"limiter": asyncio.Semaphore}, "Semaphore", id="limiter=class"),
    pytest.param({"load_timeout": "1"}, "'1'", id="load_timeout=str"),
    pytest.param({"name": 3}, "3", id="name=int"),
]


@pytest.mark.parametrize("options, came", BAD_VALUES)
def test_a_bad_value_is_a_configuration_error_and_a_value_error(options: Any, came: str):
    """An option out of range is refused at construction, saying which one and what came."""
    (option,) = options
    with pytest.raises(ConfigurationError) as caught:
        DataLoader(load_fn, **options)
    assert isinstance(caught.value, ValueError)
    assert option in str(caught.value)
    assert came in str(caught.value)


@pytest.mark.parametrize("options, came", BAD_TYPES)
def test_a_bad_type_is_a_configuration_error_and_a_type_error(options: Any, came: str):
    """An option of a wrong type is refused at construction, saying which one and what came."""
    (option,) = options
    with pytest.raises(ConfigurationError) as caught:
        DataLoader(load_fn, **options)
    assert isinstance(caught.value, TypeError)
    assert option in str(caught.value)
    assert came in str(caught.value)


def test_a_configuration_error_names_the_loader():
    """A refused option is said to be that of the loader by name."""
    with pytest.raises(ConfigurationError, match="'users'"):
        DataLoader(load_fn, max_batch_size=0, name="users")
    with pytest.raises(ConfigurationError, match="'load_fn'"):
        DataLoader(load_fn, max_batch_size=0)


@pytest.mark.parametrize("not_callable", [3, "users", [load_fn]])
def test_a_batch_function_that_can_not_be_called_is_refused(not_callable: Any):
    """A `load_fn` that is not callable is a `ConfigurationError` that is a `TypeError`."""
    with pytest.raises(ConfigurationError, match="load_fn") as caught:
        DataLoader(not_callable)
    assert isinstance(caught.value, TypeError)
    assert type(not_callable).__name__ in str(caught.value)


def test_a_coroutine_instead_of_a_batch_function_is_refused():
    """A `load_fn` that was called instead of passed is a `ConfigurationError`."""
    coroutine = load_fn([])
    with pytest.raises(ConfigurationError, match="load_fn.*coroutine"):
        DataLoader(coroutine)
    coroutine.close()


def test_a_loader_without_a_batch_function_is_refused():
    """A `DataLoader()` with no `load_fn`, neither given nor defined, says what to do."""
    with pytest.raises(ConfigurationError, match="load_fn") as caught:
        DataLoader()
    assert isinstance(caught.value, TypeError)


def test_a_subclass_without_a_batch_function_is_refused():
    """A subclass that defines no `load_fn` and gets none is named in the error."""

    class Users(DataLoader[int, str]):
        pass

    with pytest.raises(ConfigurationError, match="Users.*load_fn|load_fn.*Users") as caught:
        Users()
    assert isinstance(caught.value, TypeError)


def test_a_subclass_in_the_style_of_aiodataloader_is_told_the_name_of_its_method():
    """A subclass that defines `batch_load_fn` learns that the method is `load_fn` here."""

    class Users(DataLoader[int, str]):
        async def batch_load_fn(self, keys: list[int]) -> Any:
            return keys

    with pytest.raises(ConfigurationError) as caught:
        Users()
    assert (
        "loader 'Users': Users defines batch_load_fn, but the method is named load_fn here; "
        "rename it"
    ) == str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(Users(load_fn), Users)


@pytest.mark.parametrize(
    "name, value, advice",
    [
        ("max_batch_size", 50, "pass max_batch_size=50 to __init__"),
        ("cache", False, "pass cache=False to __init__"),
        ("batch", False, "pass max_batch_size=1 to __init__ to send each key alone"),
    ],
)
def test_a_class_attribute_in_the_style_of_aiodataloader_is_refused(
    name: str, value: Any, advice: str
):
    """A class attribute that would be an option elsewhere is not ignored without a word."""
    users = type("Users", (DataLoader,), {"load_fn": staticmethod(load_fn), name: value})

    with pytest.raises(ConfigurationError) as caught:
        users()
    assert (
        f"loader 'Users': class attribute {name} = {value!r} of Users is no option and would be "
        f"ignored; remove it and {advice}"
    ) == str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_a_class_attribute_with_a_meaning_of_its_own_is_left_alone():
    """What says the same as the options, a method and a property are no options by mistake."""

    class Users(DataLoader[int, int]):
        max_batch_size = 50
        batch = True

        def __init__(self) -> None:
            super().__init__(load_fn, max_batch_size=self.max_batch_size)

        @property
        def cache(self) -> str:
            return "mine"

    class Teams(DataLoader[int, int]):
        def cache(self) -> str:
            return "mine"

    assert "mine" == Users().cache
    assert "mine" == Teams(load_fn).cache()


def test_options_after_the_third_are_keyword_only():
    """`cache_key_fn` and what follows must be named."""
    with pytest.raises(TypeError):
        DataLoader(load_fn, None, True, str)


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_size": None},
        {"max_batch_size": 1},
        {"batch_window": None},
        {"batch_window": 0},
        {"batch_window": 1},
        {"batch_window": 0.5},
        {"missing": "none"},
        {"missing": "raise"},
        {"max_concurrent_batches": 1},
        {"limiter": None},
        {"load_timeout": 1},
        {"load_timeout": 0.5},
        {"name": None},
        {"name": "users"},
        {"cache_key_fn": None},
        {"cache_key_fn": str},
        {"cache_errors": True},
        {"cache": False},
        {"result_cache": None},
    ],
)
def test_a_good_option_is_taken(options: Any):
    """Every documented value of an option builds a loader, outside a loop too."""
    DataLoader(load_fn, **options)


# The loader's name, as its errors show it


async def failure_of(loader: DataLoader[Any, Any]) -> str:
    """Give the text of the error of a loader whose batch function returns `None`."""
    with pytest.raises(BatchResultError) as caught:
        await within(loader.load(1))
    return str(caught.value)


async def broken_users(keys: list[Any]) -> Any:
    """Return what no batch function may."""
    return None


async def test_a_loader_has_the_name_of_its_batch_function():
    """Without `name=` a loader is called what its batch function is called."""
    assert "loader 'broken_users'" in await failure_of(DataLoader(broken_users))


async def test_a_loader_has_the_name_that_it_was_given():
    """With `name=` a loader is called that."""
    assert "loader 'users'" in await failure_of(DataLoader(broken_users, name="users"))


async def test_a_subclass_gives_its_loaders_its_name():
    """A loader whose class defines `load_fn` is called what its class is called."""

    class Users(DataLoader[int, str]):
        async def load_fn(self, keys: list[int]) -> Any:
            return None

    assert "loader 'Users'" in await failure_of(Users())
    assert "loader 'people'" in await failure_of(Users(name="people"))


async def test_a_batch_function_without_a_name_has_some_name():
    """A partial or a callable object has an error text like any other batch function."""

    class Users:
        async def __call__(self, keys: list[int]) -> Any:
            return None

    async def partly(_: int, keys: list[int]) -> Any:
        return None

    assert "loader '" in await failure_of(DataLoader(Users()))
    assert "loader '" in await failure_of(DataLoader(functools.partial(partly, 1)))


# What the texts say


async def test_a_text_says_an_before_a_vowel():
    """A type is named with the article that it has."""

    async def users(keys: list[int]) -> Any:
        return 3

    assert "returned an int (3) for 1 key; " in await failure_of(DataLoader(users))
    wrong: Any = 3
    with pytest.raises(ConfigurationError, match="must be an AsyncCache, got an int: 3"):
        DataLoader(users, result_cache=wrong)


async def test_a_text_counts_one_and_many():
    """One key is no keys, and one value no values."""

    async def users(keys: list[int]) -> list[int]:
        return keys[1:]

    loader: DataLoader[int, int] = DataLoader(users)
    assert "returned 0 values for 1 key; " in await failure_of(loader)
    with pytest.raises(BatchResultError, match="returned 1 value for 2 keys; "):
        await within(loader.load_many([1, 2]))
