"""What mypy and pyright must refuse of scopes and factories: nothing here is run.

Every line that is wrong carries an ignore for each of the two, and an ignore that is not needed is
an error: so each line is held to be refused by both.
"""

from __future__ import annotations

from dataloader_cache import (
    ArgsLoaderFactory,
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


class Currency:
    """The type of arguments."""


class AppContext:
    """The context of a scope."""

    tenant_id: str


def tenant(context: AppContext) -> str:
    return context.tenant_id


def email_of(user: User) -> str:
    return user.email


def number_of(user: User) -> int:
    return user.id


@dataloader
async def users(ids: list[int], context: AppContext) -> dict[int, User]:
    raise NotImplementedError


@dataloader
async def listed_users(ids: list[int]) -> list[User]:
    raise NotImplementedError


@dataloader
async def users_by_email(emails: list[str]) -> list[User]:
    raise NotImplementedError


@dataloader(args=Currency)
async def prices(ids: list[int], currency: Currency) -> list[float]:
    raise NotImplementedError


@group_dataloader(by="author_id")
async def posts(author_ids: list[int]) -> list[User]:
    raise NotImplementedError


@dataloader.shared(ttl=30, vary=tenant)
async def shared_users(ids: list[int], tenant_id: str) -> dict[int, User]:
    raise NotImplementedError


@dataloader.shared(ttl=30, public=True)
async def rates(codes: list[str]) -> list[float]:
    raise NotImplementedError


async def to_list(keys: list[int]) -> list[User]:
    raise NotImplementedError


async def to_dict(keys: list[int]) -> dict[int, User]:
    raise NotImplementedError


async def to_none(keys: list[int]) -> None:
    raise NotImplementedError


async def of_one_key(key: int) -> User:
    raise NotImplementedError


async def of_context(keys: list[int], context: AppContext) -> list[User]:
    raise NotImplementedError


async def of_context_to_dict(keys: list[int], context: AppContext) -> dict[int, User]:
    raise NotImplementedError


async def of_args(keys: list[int], currency: Currency) -> list[User]:
    raise NotImplementedError


async def of_three(keys: list[int], context: AppContext, currency: Currency) -> list[User]:
    raise NotImplementedError


def not_async(keys: list[int]) -> list[User]:
    raise NotImplementedError


async def a_key_must_fit(user: User, currency: Currency) -> None:
    users.load("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.load(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await users.load_many(["1"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    users.peek("1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    users.prime("1", user)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.prime_many({"1": user})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    users.clear("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users.clear_many(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users_by_email.load(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    posts.load("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    prices.load("1", currency)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shared_users.load("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    rates.load(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def args_must_fit(currency: Currency) -> None:
    prices.load(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    prices.load(1, "EUR")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    prices.load(1, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await prices.load_many([1])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await prices.load_many([1], "EUR")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    prices.peek(1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    prices.prime(1, 2.0)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    prices.clear(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    users.load(1, currency)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def a_value_must_fit(user: User, currency: Currency) -> None:
    listed_users.prime(1, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    listed_users.prime(1, "user")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    listed_users.prime(1, user, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    posts.prime(1, user)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    prices.prime(1, currency, "2.0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def a_value_that_may_be_missing_is_tested_first() -> None:
    user = await users.load(1)
    print(user.id)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    shared = await shared_users.load(1)
    print(shared.id)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]


def a_mapping_result_is_not_without_none() -> None:
    factory: LoaderFactory[int, User] = dataloader(to_dict)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    shared: LoaderFactory[int, User] = dataloader.shared(ttl=1, public=True)(to_dict)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(factory, shared)


def a_batch_function_must_fit() -> None:
    dataloader(to_none)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader(of_one_key)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader(not_async)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader(of_three)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader()(not_async)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader(args=Currency)(to_list)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    group_dataloader(by="id")(not_async)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def args_must_be_of_the_declared_type() -> None:
    factory: ArgsLoaderFactory[int, str, User] = dataloader(args=Currency)(of_args)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    dataloader(args=str)(of_args)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader(args="Currency")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    print(factory)


def an_option_must_fit() -> None:
    dataloader(max_batch_size="2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    dataloader(missing="ignore")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader(batch_size=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    dataloader(10)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader(limiter=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    group_dataloader()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    group_dataloader(by=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    group_dataloader(to_list)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def exactly_one_of_vary_and_public_is_said() -> None:
    dataloader.shared(ttl=30)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    dataloader.shared(ttl=30, public=False)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    dataloader.shared(ttl=30, vary=tenant, public=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    group_dataloader.shared(by="id", ttl=30)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    group_dataloader.shared(by="id", ttl=30, vary=tenant, public=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def a_shared_loader_says_how_long_its_results_live() -> None:
    dataloader.shared(public=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    dataloader.shared(vary=tenant)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    dataloader.shared(ttl="30", public=True)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    dataloader.shared(ttl=30, public=True, cache=False)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def a_shared_loader_gets_no_context() -> None:
    dataloader.shared(ttl=30, vary=tenant)(of_context)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader.shared(ttl=30, vary=tenant)(of_context_to_dict)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader.shared(ttl=30, vary=tenant, missing="raise")(of_context_to_dict)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader.shared(ttl=30, public=True)(of_context)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader.shared(ttl=30, public=True)(of_context_to_dict)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dataloader.shared(ttl=30, vary=tenant, args=Currency)(of_three)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    group_dataloader.shared(by="id", ttl=30, vary=tenant)(of_context)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    group_dataloader.shared(by="id", ttl=30, public=True)(of_context)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def vary_is_a_function_of_the_context() -> None:
    dataloader.shared(ttl=30, vary="tenant")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def a_request_factory_has_no_cache() -> None:
    print(users.cache)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
    print(prices.cache)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]


def what_is_provided_must_fit() -> None:
    listed_users.provides(users_by_email, key=number_of)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    listed_users.provides(to_list, key=email_of)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    listed_users.provides(users_by_email)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    users_by_email.provides(rates, key=number_of)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def a_scope_gives_loaders_of_factories_only(scope: LoaderScope) -> None:
    scope["users"]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    scope[to_list]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    scope[prices].load(1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    scope[prices]("EUR")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scope[users].load("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_scope_must_be_made_right() -> None:
    LoaderScope(limiter=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LoaderScope(1, 2)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]


def events_are_asynchronous(source: list[int]) -> None:
    per_event(source)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
