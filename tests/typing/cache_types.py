"""What mypy and pyright must infer from an `AsyncCache` and the decorators: nothing here is run.

Both check this file in strict mode.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from typing_extensions import assert_type

from dataloader_cache import AsyncCache, AsyncLRU, AsyncTTL, CacheStats, DataLoader, WarmupResult


class User:
    """What is loaded."""

    id: int


async def load_user() -> User:
    raise NotImplementedError


async def load_optional_user() -> User | None:
    raise NotImplementedError


def load_awaitable() -> Awaitable[User]:
    raise NotImplementedError


async def user_of(number: int) -> User:
    raise NotImplementedError


async def to_list(keys: list[int]) -> list[User]:
    raise NotImplementedError


async def to_tuple(keys: Sequence[int]) -> tuple[User, ...]:
    raise NotImplementedError


async def to_dict(keys: list[int]) -> dict[int, User]:
    raise NotImplementedError


async def to_mapping(keys: list[int]) -> Mapping[int, User]:
    raise NotImplementedError


cache = AsyncCache(maxsize=1000, default_ttl=300)


# get


async def get_with_a_loader_gives_its_value() -> None:
    assert_type(await cache.get("user", load_user), User)
    assert_type(await cache.get("user", loader=load_user), User)
    assert_type(await cache.get("user", loader=lambda: user_of(1)), User)
    assert_type(await cache.get("user", load_optional_user), User | None)
    assert_type(await cache.get("user", load_awaitable), User)
    assert_type(await cache.get("user", load_user, ttl=60, tags=("users",)), User)


async def get_with_a_batch_loader_gives_its_value() -> None:
    assert_type(await cache.get(1, batch_loader=to_list), User)
    assert_type(await cache.get(1, batch_loader=to_tuple), User)


async def get_with_a_mapping_gives_a_value_or_none() -> None:
    assert_type(await cache.get(1, batch_loader=to_dict), User | None)
    assert_type(await cache.get(1, batch_loader=to_mapping), User | None)


# get_many


async def get_many_gives_a_dict() -> None:
    assert_type(await cache.get_many([1, 2], to_list), dict[int, User])
    assert_type(await cache.get_many(range(2), batch_loader=to_list), dict[int, User])
    assert_type(await cache.get_many([1, 2], to_list, return_exceptions=False), dict[int, User])


async def get_many_of_a_mapping_gives_values_or_none() -> None:
    assert_type(await cache.get_many([1, 2], to_dict), dict[int, User | None])
    assert_type(await cache.get_many([1, 2], to_mapping), dict[int, User | None])


async def get_many_with_exceptions_gives_either() -> None:
    assert_type(
        await cache.get_many([1, 2], to_list, return_exceptions=True),
        dict[int, User | BaseException],
    )


# Everything else


async def changes_may_be_awaited_or_not() -> None:
    cache.set("user", User())
    cache.delete("user")
    cache.expire("user")
    cache.invalidate_tag("users")
    cache.clear()
    await cache.set("user", User(), ttl=None, tags=["users"])
    await cache.set("user", User(), ttl=lambda key, value: 60)
    await cache.delete("user")
    await cache.expire("user")
    await cache.invalidate_tag("users")
    await cache.clear()


async def refresh_gives_the_new_value() -> None:
    assert_type(await cache.refresh("user", load_user), User)


async def warmup_gives_a_result() -> None:
    result = await cache.warmup({"user:1": lambda: user_of(1), "user:2": load_user})
    assert_type(result, WarmupResult)
    await cache.warmup({"user": load_user}, concurrency=4)


async def metrics_have_types() -> None:
    assert_type(cache.stats, CacheStats)
    assert_type(cache.stats.hits, int)
    assert_type(cache.stats.hit_rate, float)
    assert_type(len(cache), int)
    assert_type("user" in cache, bool)
    await cache.aclose()
    await cache.aclose(wait=5)


# Decorators


@AsyncLRU(maxsize=128)
async def by_id(number: int, *, deep: bool = False) -> User:
    raise NotImplementedError


@AsyncTTL(time_to_live=60)
async def by_name(name: str, limit: int = 10) -> list[User]:
    raise NotImplementedError


@AsyncLRU()
async def of_any(*numbers: int) -> int:
    raise NotImplementedError


class Repository:
    """A class with cached methods."""

    @AsyncTTL(time_to_live=60, skip_args=1)
    async def find(self, number: int) -> User:
        raise NotImplementedError

    @staticmethod
    @AsyncLRU()
    async def count(kind: str) -> int:
        raise NotImplementedError


async def a_decorated_function_keeps_its_parameters_and_result() -> None:
    assert_type(await by_id(1), User)
    assert_type(await by_id(1, deep=True), User)
    assert_type(await by_id(number=1), User)
    assert_type(await by_name("a"), list[User])
    assert_type(await by_name("a", 5), list[User])
    assert_type(await of_any(1, 2, 3), int)


async def a_decorated_function_refuses_wrong_arguments() -> None:
    await by_id("1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await by_id()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await by_name("a", "b")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await of_any("1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def a_call_can_leave_the_cache_aside() -> None:
    assert_type(await by_id(1, use_cache=False), User)
    assert_type(await by_name("a", limit=5, use_cache=True), list[User])
    assert_type(await of_any(1, 2, use_cache=False), int)
    assert_type(await Repository().find(1, use_cache=False), User)
    assert_type(await Repository.find(Repository(), 1, use_cache=False), User)
    await by_id(1, use_cache="no")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def a_method_is_still_a_method() -> None:
    repository = Repository()
    assert_type(await repository.find(1), User)
    assert_type(await repository.find(number=1), User)
    assert_type(await Repository.find(repository, 1), User)
    assert_type(await Repository.count("users"), int)
    await repository.find("1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def a_decorated_function_has_its_cache() -> None:
    assert_type(by_id.cache, AsyncCache)
    by_id.invalidate_cache(1)
    by_id.invalidate_cache(number=1, deep=True)
    by_id.clear_cache()
    assert_type(by_id.get_metrics()["hits"], Any)
    Repository.find.invalidate_cache(Repository(), 1)
    Repository.find.clear_cache()


def a_decorated_function_is_a_callable() -> None:
    function: Callable[[int], Awaitable[User]] = by_id
    of_text: Callable[[str], Awaitable[User]] = by_id  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del function, of_text


# Behind a loader


def a_result_cache_changes_no_type() -> None:
    assert_type(DataLoader(to_list, result_cache=cache), DataLoader[int, User])
    assert_type(DataLoader(to_dict, result_cache=cache), DataLoader[int, User | None])
    assert_type(DataLoader(to_dict, missing="raise", result_cache=cache), DataLoader[int, User])
