"""What mypy and pyright must infer from scopes and factories (O6): nothing here is run.

Both check this file in strict mode. The type of a factory follows from its batch function as that
of a `DataLoader` does: a mapping result gives `V | None`, unless `missing="raise"`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any

from typing_extensions import assert_type

from dataloader_cache import (
    ArgsLoaderFactory,
    AsyncCache,
    DataLoader,
    LoaderFactory,
    LoaderScope,
    dataloader,
    group_dataloader,
    per_event,
)


class User:
    """What is loaded."""

    id: int
    email: str
    author_id: int


class Currency:
    """The type of arguments."""


class AppContext:
    """The context of a scope."""

    tenant_id: str


class UserRef:
    """A key that has a cache key."""

    id: int


def ref_id(ref: UserRef) -> int:
    return ref.id


def tenant(context: AppContext) -> str:
    return context.tenant_id


def author_of(user: User) -> int:
    return user.author_id


def email_of(user: User) -> str:
    return user.email


# Batch functions of keys, of keys and context, and of more


async def to_list(keys: list[int]) -> list[User]:
    raise NotImplementedError


async def to_sequence(keys: Sequence[int]) -> Sequence[User]:
    raise NotImplementedError


async def to_optional_list(keys: list[int]) -> list[User | None]:
    raise NotImplementedError


async def to_dict(keys: list[int]) -> dict[int, User]:
    raise NotImplementedError


async def to_mapping(keys: list[int]) -> Mapping[int, User]:
    raise NotImplementedError


async def context_to_list(keys: list[int], context: AppContext) -> list[User]:
    raise NotImplementedError


async def context_to_dict(keys: list[int], context: AppContext) -> dict[int, User]:
    raise NotImplementedError


async def args_to_list(keys: list[int], currency: Currency) -> list[User]:
    raise NotImplementedError


async def args_to_dict(keys: list[int], currency: Currency) -> dict[int, User]:
    raise NotImplementedError


async def both_to_list(keys: list[int], context: AppContext, currency: Currency) -> list[User]:
    raise NotImplementedError


async def both_to_dict(keys: list[int], context: AppContext, currency: Currency) -> dict[int, User]:
    raise NotImplementedError


async def refs_to_list(keys: list[UserRef]) -> list[User]:
    raise NotImplementedError


async def refs_to_dict(keys: list[UserRef]) -> dict[int, User]:
    raise NotImplementedError


async def tenant_to_list(keys: list[int], tenant_id: str) -> list[User]:
    raise NotImplementedError


async def tenant_to_dict(keys: list[int], tenant_id: str) -> dict[int, User]:
    raise NotImplementedError


async def tenant_args_to_list(keys: list[int], tenant_id: str, currency: Currency) -> list[User]:
    raise NotImplementedError


async def tenant_args_to_dict(
    keys: list[int], tenant_id: str, currency: Currency
) -> dict[int, User]:
    raise NotImplementedError


# @dataloader


def a_bare_decorator_takes_the_type_of_its_function() -> None:
    assert_type(dataloader(to_list), LoaderFactory[int, User])
    assert_type(dataloader(to_sequence), LoaderFactory[int, User])
    assert_type(dataloader(to_optional_list), LoaderFactory[int, User | None])
    assert_type(dataloader(to_dict), LoaderFactory[int, User | None])
    assert_type(dataloader(to_mapping), LoaderFactory[int, User | None])


def the_context_is_no_part_of_the_type() -> None:
    assert_type(dataloader(context_to_list), LoaderFactory[int, User])
    assert_type(dataloader(context_to_dict), LoaderFactory[int, User | None])
    assert_type(dataloader()(context_to_list), LoaderFactory[int, User])
    assert_type(dataloader()(context_to_dict), LoaderFactory[int, User | None])
    assert_type(dataloader(missing="raise")(context_to_dict), LoaderFactory[int, User])


def options_leave_the_type_alone() -> None:
    assert_type(dataloader()(to_list), LoaderFactory[int, User])
    assert_type(dataloader()(to_dict), LoaderFactory[int, User | None])
    assert_type(dataloader(missing="none")(to_dict), LoaderFactory[int, User | None])
    assert_type(dataloader(max_batch_size=500)(to_dict), LoaderFactory[int, User | None])
    assert_type(
        dataloader(
            name="users",
            max_batch_size=None,
            cache=True,
            cache_key_fn=None,
            batch_window=0.01,
            cache_errors=True,
            max_concurrent_batches=1,
            limiter=asyncio.Semaphore(1),
            load_timeout=1,
        )(to_list),
        LoaderFactory[int, User],
    )


def missing_raise_takes_the_none_away() -> None:
    assert_type(dataloader(missing="raise")(to_dict), LoaderFactory[int, User])
    assert_type(dataloader(missing="raise")(to_mapping), LoaderFactory[int, User])
    assert_type(dataloader(missing="raise")(to_list), LoaderFactory[int, User])
    assert_type(dataloader(missing="raise", max_batch_size=500)(to_dict), LoaderFactory[int, User])


def a_cache_key_fn_keys_the_mapping_and_not_the_factory() -> None:
    assert_type(dataloader(cache_key_fn=ref_id)(refs_to_list), LoaderFactory[UserRef, User])
    assert_type(dataloader(cache_key_fn=ref_id)(refs_to_dict), LoaderFactory[UserRef, User | None])
    assert_type(
        dataloader(cache_key_fn=ref_id, missing="raise")(refs_to_dict),
        LoaderFactory[UserRef, User],
    )


# Declared as one does


@dataloader
async def users(ids: list[int], context: AppContext) -> dict[int, User]:
    raise NotImplementedError


@dataloader(missing="raise", max_batch_size=500)
async def strict_users(ids: list[int]) -> dict[int, User]:
    raise NotImplementedError


@dataloader
async def users_by_email(emails: list[str]) -> list[User]:
    raise NotImplementedError


@dataloader(args=Currency)
async def prices(ids: list[int], currency: Currency) -> dict[int, float]:
    raise NotImplementedError


@group_dataloader(by="author_id")
async def posts(author_ids: list[int]) -> list[User]:
    raise NotImplementedError


@dataloader.shared(ttl=30, maxsize=10_000, vary=tenant)
async def shared_users(ids: list[int], tenant_id: str) -> dict[int, User]:
    raise NotImplementedError


@dataloader.shared(ttl=300, public=True)
async def rates(codes: list[str]) -> list[float]:
    raise NotImplementedError


def declarations_have_their_types() -> None:
    assert_type(users, LoaderFactory[int, User | None])
    assert_type(strict_users, LoaderFactory[int, User])
    assert_type(users_by_email, LoaderFactory[str, User])
    assert_type(prices, ArgsLoaderFactory[int, Currency, float | None])
    assert_type(posts, LoaderFactory[int, list[User]])


# args=


def args_stand_between_key_and_value() -> None:
    assert_type(dataloader(args=Currency)(args_to_list), ArgsLoaderFactory[int, Currency, User])
    assert_type(
        dataloader(args=Currency)(args_to_dict), ArgsLoaderFactory[int, Currency, User | None]
    )
    assert_type(dataloader(args=Currency)(both_to_list), ArgsLoaderFactory[int, Currency, User])
    assert_type(
        dataloader(args=Currency)(both_to_dict), ArgsLoaderFactory[int, Currency, User | None]
    )
    assert_type(
        dataloader(args=Currency, missing="raise")(args_to_dict),
        ArgsLoaderFactory[int, Currency, User],
    )
    assert_type(
        dataloader(args=Currency, missing="raise", max_batch_size=10, name="prices")(both_to_dict),
        ArgsLoaderFactory[int, Currency, User],
    )


async def a_factory_with_args_takes_them_everywhere(currency: Currency) -> None:
    assert_type(prices.load(1, currency), asyncio.Future[float | None])
    assert_type(await prices.load_many([1], currency), list[float | None])
    assert_type(
        await prices.load_many([1], currency, return_exceptions=True),
        list[float | BaseException | None],
    )
    assert_type(prices.peek(1, currency), float | None)
    assert_type(prices.peek(1, currency, "absent"), float | str | None)
    assert_type(prices.prime(1, currency, 2.0), ArgsLoaderFactory[int, Currency, float | None])
    prices.prime(1, currency, ValueError(), force=True)
    prices.prime_many({1: 2.0}, currency).prime_many({1: None}, currency, force=True)
    prices.clear(1, currency).clear_many([1], currency).clear_all()
    assert_type(prices.name, str)


# Groups


def a_group_loader_gives_lists() -> None:
    assert_type(group_dataloader(by="author_id")(to_list), LoaderFactory[int, list[User]])
    assert_type(group_dataloader(by=author_of)(to_list), LoaderFactory[int, list[User]])
    assert_type(group_dataloader(by="author_id")(to_sequence), LoaderFactory[int, list[User]])
    assert_type(group_dataloader(by="author_id")(context_to_list), LoaderFactory[int, list[User]])
    assert_type(
        group_dataloader(by="author_id", name="posts", max_batch_size=10)(to_list),
        LoaderFactory[int, list[User]],
    )
    assert_type(
        group_dataloader(by="author_id", args=Currency)(args_to_list),
        ArgsLoaderFactory[int, Currency, list[User]],
    )
    assert_type(
        group_dataloader(by="author_id", args=Currency)(both_to_list),
        ArgsLoaderFactory[int, Currency, list[User]],
    )


# The methods


async def a_factory_has_the_methods_of_its_loader(user: User) -> None:
    assert_type(users.load(1), asyncio.Future[User | None])
    assert_type(await users.load(1), User | None)
    assert_type(await strict_users.load(1), User)
    assert_type(users.load_many([1, 2]), Awaitable[list[User | None]])
    assert_type(await strict_users.load_many(range(3)), list[User])
    assert_type(
        await strict_users.load_many([1], return_exceptions=True), list[User | BaseException]
    )
    assert_type(strict_users.peek(1), User | None)
    assert_type(strict_users.peek(1, user), User)
    assert_type(strict_users.peek(1, default="absent"), User | str)
    assert_type(strict_users.prime(1, user), LoaderFactory[int, User])
    assert_type(strict_users.prime(1, ValueError(), force=True), LoaderFactory[int, User])
    assert_type(strict_users.prime_many({1: user}, force=True), LoaderFactory[int, User])
    assert_type(strict_users.clear(1), LoaderFactory[int, User])
    assert_type(strict_users.clear_many([1]), LoaderFactory[int, User])
    assert_type(strict_users.clear_all().load(1), asyncio.Future[User])
    assert_type(users.name, str)
    users.prime(1, None)


async def several_loads_can_be_gathered() -> None:
    one, other = await asyncio.gather(users.load(1), strict_users.load(2))
    assert_type(one, User | None)
    assert_type(other, User)


def values_are_provided_to_other_factories() -> None:
    strict_users.provides(users_by_email, key=email_of)
    strict_users.provides(users_by_email, key=lambda user: user.email)
    # A value that is None is provided to nobody, so the key function never sees one.
    users.provides(users_by_email, key=email_of)
    users.provides(users_by_email, key=lambda user: user.email)
    # Of a group loader it is each row.
    posts.provides(users_by_email, key=email_of)
    posts.provides(users_by_email, key=lambda user: user.email)


# Shared factories


def a_shared_factory_is_a_factory() -> None:
    by_tenant: LoaderFactory[int, User] = dataloader.shared(ttl=30, vary=tenant)(tenant_to_list)
    optional: LoaderFactory[int, User | None] = dataloader.shared(ttl=30, vary=tenant)(
        tenant_to_dict
    )
    strict: LoaderFactory[int, User] = dataloader.shared(ttl=30, vary=tenant, missing="raise")(
        tenant_to_dict
    )
    keys_only: LoaderFactory[int, User] = dataloader.shared(ttl=None, vary=tenant)(to_list)
    by_lambda: LoaderFactory[int, User] = dataloader.shared(
        ttl=30, vary=lambda context: context.tenant_id
    )(tenant_to_list)
    public: LoaderFactory[int, User] = dataloader.shared(ttl=None, public=True)(to_list)
    public_dict: LoaderFactory[int, User | None] = dataloader.shared(ttl=1, public=True)(to_dict)
    with_args: ArgsLoaderFactory[int, Currency, User] = dataloader.shared(
        ttl=1, public=True, args=Currency
    )(args_to_list)
    with_both: ArgsLoaderFactory[int, Currency, User | None] = dataloader.shared(
        ttl=1, vary=tenant, args=Currency
    )(tenant_args_to_dict)
    del by_tenant, optional, strict, keys_only, by_lambda, public, public_dict, with_args, with_both


async def a_shared_factory_loads_what_its_function_returns() -> None:
    assert_type(await shared_users.load(1), User | None)
    assert_type(await rates.load("EUR"), float)
    assert_type(await rates.load_many(["EUR"]), list[float])
    assert_type(rates.peek("EUR", "absent"), float | str)
    assert_type(await rates.prime("EUR", 1.0).clear("USD").load("EUR"), float)
    listed = dataloader.shared(ttl=30, vary=tenant)(tenant_to_list)
    assert_type(await listed.load(1), User)
    strict = dataloader.shared(ttl=30, vary=tenant, missing="raise")(tenant_to_dict)
    assert_type(await strict.load(1), User)
    public = dataloader.shared(ttl=30, public=True)(to_dict)
    assert_type(await public.load(1), User | None)


async def a_shared_factory_with_args_takes_them(currency: Currency) -> None:
    listed = dataloader.shared(ttl=30, vary=tenant, args=Currency)(tenant_args_to_list)
    assert_type(await listed.load(1, currency), User)
    mapped = dataloader.shared(ttl=30, public=True, args=Currency)(args_to_dict)
    assert_type(await mapped.load(1, currency), User | None)
    strict = dataloader.shared(ttl=30, public=True, args=Currency, missing="raise")(args_to_dict)
    assert_type(await strict.load(1, currency), User)
    assert_type(strict.cache, AsyncCache)


async def a_shared_group_loader_gives_lists(currency: Currency) -> None:
    by_tenant = group_dataloader.shared(by="author_id", ttl=30, vary=tenant)(tenant_to_list)
    assert_type(await by_tenant.load(1), list[User])
    public = group_dataloader.shared(by=author_of, ttl=30, public=True)(to_list)
    assert_type(await public.load(1), list[User])
    with_args = group_dataloader.shared(by="author_id", ttl=30, public=True, args=Currency)(
        args_to_list
    )
    assert_type(await with_args.load(1, currency), list[User])
    assert_type(public.cache, AsyncCache)


def a_shared_factory_takes_the_options_of_a_cache() -> None:
    factory = dataloader.shared(
        ttl=30,
        maxsize=None,
        vary=tenant,
        stale_ttl=60,
        refresh_ahead=0.8,
        negative_ttl=5,
        ttl_jitter=0.1,
        eviction="s3fifo",
        name="users",
        max_batch_size=100,
        batch_window=0.005,
        max_concurrent_batches=4,
        limiter=asyncio.Semaphore(4),
        load_timeout=5,
    )(tenant_to_list)
    assert_type(factory.cache, AsyncCache)
    assert_type(len(factory.cache), int)


# Scopes


async def a_scope_is_entered_in_either_way(context: AppContext) -> None:
    with LoaderScope() as scope:
        assert_type(scope, LoaderScope)
    async with LoaderScope(context) as scope:
        assert_type(scope, LoaderScope)
    async with LoaderScope(context=context, limiter=asyncio.Semaphore(1)) as scope:
        scope.context = None
        assert_type(scope.context, Any)
        assert_type(scope.is_closed, bool)
        scope.reset()
        scope.activate()
        scope.deactivate()
        scope.close()
        await scope.aclose()


async def a_scope_gives_loaders(scope: LoaderScope, currency: Currency) -> None:
    assert_type(scope[users], DataLoader[int, User | None])
    assert_type(scope[strict_users], DataLoader[int, User])
    assert_type(scope[posts], DataLoader[int, list[User]])
    assert_type(scope[rates], DataLoader[str, float])
    assert_type(scope[prices](currency), DataLoader[int, float | None])
    assert_type(await scope[users].load(1), User | None)


def the_current_scope_may_have_a_default() -> None:
    assert_type(LoaderScope.current(), LoaderScope)
    assert_type(LoaderScope.current(None), LoaderScope | None)
    assert_type(LoaderScope.current("none"), LoaderScope | str)


async def a_factory_can_be_handed_on(factory: LoaderFactory[int, User]) -> None:
    assert_type(await factory.load(1), User)
    assert_type(LoaderScope.current()[factory], DataLoader[int, User])


# per_event


async def events() -> AsyncIterator[User]:
    raise NotImplementedError
    yield


async def events_keep_their_type(source: AsyncIterator[User]) -> None:
    async for event in per_event(source):
        assert_type(event, User)
    iterator = per_event(events())
    same: AsyncIterator[User] = iterator
    assert_type(await same.__anext__(), User)
    await iterator.aclose()
