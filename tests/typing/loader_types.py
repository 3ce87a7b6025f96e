"""What mypy and pyright must infer from a `DataLoader`: nothing here is run.

Both check this file in strict mode. R3: a sequence result gives `DataLoader[K, V]`, a mapping
result `DataLoader[K, V | None]`, and `missing="raise"` takes the `None` away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from typing_extensions import assert_type

from dataloader_cache import DataLoader, LoaderStats


class User:
    """What is loaded."""

    id: int


class UserRef:
    """A key that has a cache key."""

    id: int


def ref_id(ref: UserRef) -> int:
    return ref.id


def list_to_tuple(key: list[int]) -> tuple[int, ...]:
    return tuple(key)


# Batch functions


async def to_list(keys: list[int]) -> list[User]:
    raise NotImplementedError


async def to_tuple(keys: list[int]) -> tuple[User, ...]:
    raise NotImplementedError


async def to_sequence(keys: Sequence[int]) -> Sequence[User]:
    raise NotImplementedError


async def to_optional_list(keys: list[int]) -> list[User | None]:
    raise NotImplementedError


async def to_dict(keys: list[int]) -> dict[int, User]:
    raise NotImplementedError


async def to_mapping(keys: Iterable[int]) -> Mapping[int, User]:
    raise NotImplementedError


async def to_optional_dict(keys: list[int]) -> dict[int, User | None]:
    raise NotImplementedError


async def refs_to_list(keys: list[UserRef]) -> list[User]:
    raise NotImplementedError


async def refs_to_dict(keys: list[UserRef]) -> dict[int, User]:
    raise NotImplementedError


async def lists_to_dict(keys: list[list[int]]) -> dict[tuple[int, ...], str]:
    raise NotImplementedError


def to_awaitable(keys: list[int]) -> Awaitable[list[User]]:
    raise NotImplementedError


class Repository:
    """An object whose bound method is a batch function."""

    async def users(self, keys: list[int]) -> dict[int, User]:
        raise NotImplementedError


# R3: the type of a loader follows from its batch function


def a_sequence_result_gives_its_values() -> None:
    assert_type(DataLoader(to_list), DataLoader[int, User])
    assert_type(DataLoader(to_tuple), DataLoader[int, User])
    assert_type(DataLoader(to_sequence), DataLoader[int, User])
    assert_type(DataLoader(to_optional_list), DataLoader[int, User | None])
    assert_type(DataLoader(to_awaitable), DataLoader[int, User])


def a_mapping_result_gives_its_values_or_none() -> None:
    assert_type(DataLoader(to_dict), DataLoader[int, User | None])
    assert_type(DataLoader(to_mapping), DataLoader[int, User | None])
    assert_type(DataLoader(to_optional_dict), DataLoader[int, User | None])
    assert_type(DataLoader(Repository().users), DataLoader[int, User | None])


def missing_none_is_the_default() -> None:
    assert_type(DataLoader(to_dict, missing="none"), DataLoader[int, User | None])
    assert_type(DataLoader(to_list, missing="none"), DataLoader[int, User])


def missing_raise_takes_the_none_away() -> None:
    assert_type(DataLoader(to_dict, missing="raise"), DataLoader[int, User])
    assert_type(DataLoader(to_mapping, missing="raise"), DataLoader[int, User])
    assert_type(DataLoader(to_list, missing="raise"), DataLoader[int, User])
    assert_type(DataLoader(Repository().users, missing="raise"), DataLoader[int, User])


def missing_raise_keeps_a_none_that_is_a_value() -> None:
    assert_type(DataLoader(to_optional_dict, missing="raise"), DataLoader[int, User | None])
    assert_type(DataLoader(to_optional_list, missing="raise"), DataLoader[int, User | None])


def a_cache_key_fn_keys_the_mapping_and_not_the_loader() -> None:
    assert_type(DataLoader(refs_to_list, cache_key_fn=ref_id), DataLoader[UserRef, User])
    assert_type(DataLoader(refs_to_dict, cache_key_fn=ref_id), DataLoader[UserRef, User | None])
    assert_type(
        DataLoader(refs_to_dict, cache_key_fn=ref_id, missing="raise"), DataLoader[UserRef, User]
    )
    assert_type(
        DataLoader(refs_to_dict, cache_key_fn=ref_id, missing="none"),
        DataLoader[UserRef, User | None],
    )
    assert_type(
        DataLoader(lists_to_dict, cache_key_fn=list_to_tuple), DataLoader[list[int], str | None]
    )
    assert_type(
        DataLoader(refs_to_dict, cache_key_fn=lambda ref: ref.id), DataLoader[UserRef, User | None]
    )


def the_other_options_leave_the_type_alone() -> None:
    assert_type(DataLoader(to_list, 100, True), DataLoader[int, User])
    assert_type(DataLoader(to_list, max_batch_size=100, cache=False), DataLoader[int, User])
    assert_type(DataLoader(to_dict, 100, missing="raise", name="users"), DataLoader[int, User])
    assert_type(
        DataLoader(
            to_dict,
            max_batch_size=None,
            cache=True,
            cache_key_fn=None,
            batch_window=0.01,
            result_cache=None,
            cache_errors=True,
            max_concurrent_batches=1,
            limiter=asyncio.Semaphore(1),
            load_timeout=1,
            name=None,
        ),
        DataLoader[int, User | None],
    )
    assert_type(DataLoader(to_list, limiter=asyncio.Lock(), batch_window=1), DataLoader[int, User])


def a_declared_type_is_taken() -> None:
    by_list: DataLoader[int, User] = DataLoader(to_list)
    by_dict: DataLoader[int, User | None] = DataLoader(to_dict)
    strict: DataLoader[int, User] = DataLoader(to_dict, missing="raise")
    assert_type(by_list, DataLoader[int, User])
    assert_type(by_dict, DataLoader[int, User | None])
    assert_type(strict, DataLoader[int, User])


def a_batch_function_may_be_any_callable(
    load_fn: Callable[[list[str]], Awaitable[list[bytes]]],
) -> None:
    assert_type(DataLoader(load_fn), DataLoader[str, bytes])


# The methods


async def load_is_a_future(users: DataLoader[int, User]) -> None:
    assert_type(users.load(1), asyncio.Future[User])
    assert_type(await users.load(1), User)
    one, other = await asyncio.gather(users.load(1), users.load(2))
    assert_type(one, User)
    assert_type(other, User)


async def load_of_a_mapping_may_be_none() -> None:
    assert_type(await DataLoader(to_dict).load(1), User | None)
    assert_type(await DataLoader(to_dict, missing="raise").load(1), User)


async def load_many_gives_a_list(users: DataLoader[int, User]) -> None:
    assert_type(users.load_many([1, 2]), Awaitable[list[User]])
    assert_type(await users.load_many([1, 2]), list[User])
    assert_type(await users.load_many((1, 2), return_exceptions=False), list[User])
    assert_type(await users.load_many(key for key in range(3)), list[User])
    assert_type(await users.load_many({1, 2}), list[User])
    assert_type(await DataLoader(to_dict).load_many([1]), list[User | None])


async def load_many_may_give_errors(users: DataLoader[int, User]) -> None:
    # reading: R2 lets any BaseException instance stand in a key's place, as asyncio.gather does.
    assert_type(await users.load_many([1], return_exceptions=True), list[User | BaseException])


def peek_gives_the_value_or_the_default(users: DataLoader[int, User], user: User) -> None:
    assert_type(users.peek(1), User | None)
    assert_type(users.peek(1, None), User | None)
    assert_type(users.peek(1, user), User)
    assert_type(users.peek(1, "absent"), User | str)
    assert_type(users.peek(1, default=0), User | int)


def priming_takes_a_value_or_an_error(users: DataLoader[int, User], user: User) -> None:
    assert_type(users.prime(1, user), DataLoader[int, User])
    assert_type(users.prime(1, ValueError("no")), DataLoader[int, User])
    assert_type(users.prime(1, user, force=True), DataLoader[int, User])
    assert_type(users.prime_many({1: user}), DataLoader[int, User])
    assert_type(users.prime_many({1: user}, force=True), DataLoader[int, User])
    DataLoader(to_dict).prime(1, None)


def clearing_can_be_chained(users: DataLoader[int, User]) -> None:
    assert_type(users.clear(1), DataLoader[int, User])
    assert_type(users.clear_many([1, 2]), DataLoader[int, User])
    assert_type(users.clear_many(range(3)), DataLoader[int, User])
    assert_type(users.clear_all(), DataLoader[int, User])
    assert_type(users.clear(1).clear_all().load(1), asyncio.Future[User])


def stats_are_numbers(users: DataLoader[int, User]) -> None:
    assert_type(users.stats, LoaderStats)
    assert_type(users.stats.loads, int)
    assert_type(users.stats.hits, int)
    assert_type(users.stats.joins, int)
    assert_type(users.stats.batches, int)
    assert_type(users.stats.keys, int)
    assert_type(users.stats.errors, int)
    assert_type(users.stats.cancelled, int)
    assert_type(users.stats.largest_batch, int)


async def any_loader_can_be_sent_and_closed(loader: DataLoader[Any, Any]) -> None:
    loader.dispatch()
    await loader.aclose()


# Subclasses


class Users(DataLoader[int, User]):
    """A loader with its batch function inside."""

    async def load_fn(self, keys: list[int]) -> list[User]:
        raise NotImplementedError


class OptionalUsers(DataLoader[int, User | None]):
    """A loader whose batch function gives a mapping."""

    async def load_fn(self, keys: list[int]) -> dict[int, User]:
        raise NotImplementedError


class Settings(DataLoader[str, str]):
    """A loader with a constructor of its own."""

    def __init__(self, prefix: str) -> None:
        super().__init__(max_batch_size=10, name=prefix)
        self.prefix = prefix

    async def load_fn(self, keys: list[str]) -> list[str]:
        return [self.prefix + key for key in keys]


async def a_subclass_has_the_types_of_its_base() -> None:
    assert_type(await Users().load(1), User)
    assert_type(await Users(max_batch_size=10, cache=False).load_many([1]), list[User])
    assert_type(await OptionalUsers().load(1), User | None)
    assert_type(await Settings("x").load("a"), str)


def a_subclass_stays_itself_in_a_chain(user: User) -> None:
    assert_type(Users().prime(1, user), Users)
    assert_type(Users().prime_many({1: user}).clear(1).clear_many([1]).clear_all(), Users)


def a_subclass_is_a_loader() -> None:
    users: DataLoader[int, User] = Users()
    assert_type(users.load(1), asyncio.Future[User])
