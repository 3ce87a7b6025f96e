"""What mypy and pyright must refuse of a `DataLoader`: nothing here is run.

Every line that is wrong carries an ignore for each of the two, and an ignore that is not needed is
an error: so each line is held to be refused by both.
"""

from __future__ import annotations

from collections.abc import Iterator

from dataloader_cache import DataLoader


class User:
    """What is loaded."""

    id: int


async def to_list(keys: list[int]) -> list[User]:
    raise NotImplementedError


async def to_dict(keys: list[int]) -> dict[int, User]:
    raise NotImplementedError


async def to_dict_by_name(keys: list[int]) -> dict[str, User]:
    raise NotImplementedError


async def to_none(keys: list[int]) -> None:
    raise NotImplementedError


async def to_set(keys: list[int]) -> set[User]:
    raise NotImplementedError


async def to_generator(keys: list[int]) -> Iterator[User]:
    raise NotImplementedError


async def of_one_key(key: int) -> User:
    raise NotImplementedError


async def with_a_second_argument(keys: list[int], context: object) -> list[User]:
    raise NotImplementedError


def not_async(keys: list[int]) -> list[User]:
    raise NotImplementedError


def of_int(key: int) -> int:
    raise NotImplementedError


def two_arguments(key: int, other: int) -> int:
    raise NotImplementedError


def of_str(key: str) -> str:
    raise NotImplementedError


def a_batch_function_must_fit() -> None:
    DataLoader(to_none)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_set)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_generator)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(of_one_key)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(with_a_second_argument)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(not_async)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def a_mapping_result_is_not_without_none() -> None:
    loader: DataLoader[int, User] = DataLoader(to_dict)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    other: DataLoader[str, User] = DataLoader(to_list)  # type: ignore[arg-type, assignment]  # pyright: ignore[reportAssignmentType]
    print(loader, other)


def a_mapping_is_keyed_by_key_or_by_cache_key() -> None:
    DataLoader(to_dict_by_name)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_dict_by_name, missing="raise")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_dict_by_name, cache_key_fn=of_int)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]


def an_option_must_fit() -> None:
    DataLoader(to_list, missing="ignore")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_list, max_batch_size="2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_list, batch_window="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_list, limiter=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_list, load_timeout="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_list, name=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_list, cache_key_fn=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_list, cache_key_fn=two_arguments)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_list, cache_key_fn=of_str)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    DataLoader(to_list, batch_size=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    DataLoader(to_list, 10, True, str)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def a_key_must_fit(users: DataLoader[int, User], user: User) -> None:
    users.load("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.load(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await users.load_many(["1"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await users.load_many(1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    users.peek("1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    users.prime("1", user)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.clear("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.clear_many(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.prime_many({"1": user})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


def a_value_must_fit(users: DataLoader[int, User]) -> None:
    users.prime(1, "user")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.prime(1, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.prime(1, ValueError)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.prime(1, KeyboardInterrupt())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.prime_many({1: None})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


async def a_value_that_may_be_missing_is_tested_first() -> None:
    user = await DataLoader(to_dict).load(1)
    print(user.id)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]


def keyword_only_is_keyword_only(users: DataLoader[int, User], user: User) -> None:
    users.load_many([1], True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    users.prime(1, user, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    users.prime_many({1: user}, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def stats_are_frozen(users: DataLoader[int, User]) -> None:
    users.stats.loads = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    users.stats = users.stats  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
