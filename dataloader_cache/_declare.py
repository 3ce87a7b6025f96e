"""The decorators `dataloader` and `group_dataloader`, and what they accept.

The overloads say to type checkers what each combination of options declares.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from ._arguments import UNSET, Unset, check_name
from ._cache import AsyncCache
from ._declarations import (
    Declares,
    DeclaresArgs,
    DeclaresByCacheKey,
    DeclaresFound,
    DeclaresFoundArgs,
    DeclaresFoundByCacheKey,
    GroupOptions,
    Groups,
    GroupsArgs,
    GroupsPublic,
    GroupsPublicArgs,
    GroupsVary,
    GroupsVaryArgs,
    List,
    Map,
    Request,
    RequestOptions,
    SharedOptions,
    Shares,
    SharesArgs,
    SharesFound,
    SharesFoundArgs,
    SharesPublic,
    SharesPublicArgs,
    SharesPublicFound,
    SharesPublicFoundArgs,
)
from ._factory import (
    ArgsLoaderFactory,
    LoaderFactory,
    SharedArgsLoaderFactory,
    SharedLoaderFactory,
)
from ._function import BatchFunction, Grouping
from ._sources import RequestSource, SharedSource
from .errors import ConfigurationTypeError

if TYPE_CHECKING:
    # Type checkers bring it along; it is in typing from Python 3.11 on only.
    from typing_extensions import Unpack

__all__ = ["dataloader", "group_dataloader"]

K = TypeVar("K")
V = TypeVar("V")
A = TypeVar("A", bound=Hashable)
W = TypeVar("W", bound=Hashable)


class _Dataloader:
    """Declare a batch function as a `LoaderFactory`, which gives each scope a loader of its own.

        @dataloader
        async def users(ids: list[int], context: AppContext) -> dict[int, User]: ...

        @dataloader(missing="raise", max_batch_size=500)
        async def accounts(ids: list[int]) -> dict[int, Account]: ...

        async with LoaderScope(context=app_context):
            user = await users.load(1)

    The function may have a second parameter, which gets the scope's context. The options are those
    of `DataLoader` but `result_cache`, and `args`: the type of arguments besides the key, which the
    function gets last; `prices.load(7, EUR)` then loads for these args. Several arguments are the
    fields of a frozen dataclass. `dataloader.shared` puts a cache behind it.
    """

    @overload
    def __call__(self, function: Request[K, Map[K, V]], /) -> LoaderFactory[K, V | None]: ...
    @overload
    def __call__(self, function: Request[K, List[V]], /) -> LoaderFactory[K, V]: ...
    @overload
    def __call__(
        self,
        *,
        missing: Literal["none"] = ...,
        cache_key_fn: None = ...,
        args: None = ...,
        **options: Unpack[RequestOptions],
    ) -> Declares: ...
    @overload
    def __call__(
        self,
        *,
        missing: Literal["raise"],
        cache_key_fn: None = ...,
        args: None = ...,
        **options: Unpack[RequestOptions],
    ) -> DeclaresFound: ...
    @overload
    def __call__(
        self,
        *,
        cache_key_fn: Callable[[Any], Hashable],
        missing: Literal["none"] = ...,
        args: None = ...,
        **options: Unpack[RequestOptions],
    ) -> DeclaresByCacheKey: ...
    @overload
    def __call__(
        self,
        *,
        cache_key_fn: Callable[[Any], Hashable],
        missing: Literal["raise"],
        args: None = ...,
        **options: Unpack[RequestOptions],
    ) -> DeclaresFoundByCacheKey: ...
    @overload
    def __call__(
        self,
        *,
        args: type[A],
        missing: Literal["none"] = ...,
        cache_key_fn: Callable[[Any], Hashable] | None = ...,
        **options: Unpack[RequestOptions],
    ) -> DeclaresArgs[A]: ...
    @overload
    def __call__(
        self,
        *,
        args: type[A],
        missing: Literal["raise"],
        cache_key_fn: Callable[[Any], Hashable] | None = ...,
        **options: Unpack[RequestOptions],
    ) -> DeclaresFoundArgs[A]: ...
    # Any: the overloads say what goes in and what comes out.
    def __call__(self, function: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Declare a loader: its batch function becomes a factory of that name."""
        return _declare(UNSET, function, _REQUEST_OPTIONS, options)

    @overload
    def shared(
        self,
        *,
        ttl: float | None,
        vary: Callable[[Any], W],
        args: None = ...,
        missing: Literal["none"] = ...,
        **options: Unpack[SharedOptions],
    ) -> Shares[W]: ...
    @overload
    def shared(
        self,
        *,
        ttl: float | None,
        vary: Callable[[Any], W],
        args: None = ...,
        missing: Literal["raise"],
        **options: Unpack[SharedOptions],
    ) -> SharesFound[W]: ...
    @overload
    def shared(
        self,
        *,
        ttl: float | None,
        vary: Callable[[Any], W],
        args: type[A],
        missing: Literal["none"] = ...,
        **options: Unpack[SharedOptions],
    ) -> SharesArgs[W, A]: ...
    @overload
    def shared(
        self,
        *,
        ttl: float | None,
        vary: Callable[[Any], W],
        args: type[A],
        missing: Literal["raise"],
        **options: Unpack[SharedOptions],
    ) -> SharesFoundArgs[W, A]: ...
    @overload
    def shared(
        self,
        *,
        ttl: float | None,
        public: Literal[True],
        args: None = ...,
        missing: Literal["none"] = ...,
        **options: Unpack[SharedOptions],
    ) -> SharesPublic: ...
    @overload
    def shared(
        self,
        *,
        ttl: float | None,
        public: Literal[True],
        args: None = ...,
        missing: Literal["raise"],
        **options: Unpack[SharedOptions],
    ) -> SharesPublicFound: ...
    @overload
    def shared(
        self,
        *,
        ttl: float | None,
        public: Literal[True],
        args: type[A],
        missing: Literal["none"] = ...,
        **options: Unpack[SharedOptions],
    ) -> SharesPublicArgs[A]: ...
    @overload
    def shared(
        self,
        *,
        ttl: float | None,
        public: Literal[True],
        args: type[A],
        missing: Literal["raise"],
        **options: Unpack[SharedOptions],
    ) -> SharesPublicFoundArgs[A]: ...
    # Any: the overloads say what goes in and what comes out.
    def shared(self, _function: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Declare a loader whose values live longer than a request, in a cache of their own.

        Nothing leaks between requests: loads run in an empty context, and the function gets the
        value of `vary` and not the scope's context.

            @dataloader.shared(ttl=30, maxsize=10_000, vary=tenant)
            async def users(ids: list[int], tenant_id: str) -> dict[int, User]: ...

        Args:
            ttl: Seconds that a value is fresh; None is for ever.
            vary: Gives what the values depend on, of the scope's context: the tenant, the user's
                permissions. Scopes share keys, batches and values where it is equal.
            public: True says that the values are the same for everybody.
            **options: `maxsize` (1024), `stale_ttl`, `refresh_ahead`, `negative_ttl`,
                `ttl_jitter`, `eviction` and `clock` of `AsyncCache`, and those of `dataloader`
                but `cache` and `cache_errors`.

        Raises:
            ConfigurationError: Neither or both of `vary` and `public` are given, or another
                argument is wrong.
        """
        return _declare(UNSET, _function, _SHARED_OPTIONS, options, is_shared=True)


class _GroupDataloader:
    """Declare a batch function that returns flat rows; each key's value is the list of its rows.

        @group_dataloader(by="author_id")
        async def posts(author_ids: list[int]) -> list[Post]: ...

        theirs = await posts.load(author.id)     # [] where there is none

    `by` is an attribute of a row, an item of a row that is a mapping, or a function of a row. Rows
    that belong to no key of the batch are left out. The other options are those of `dataloader`
    but `missing` and `cache_errors`.
    """

    @overload
    def __call__(
        self,
        *,
        by: str | Callable[[Any], Hashable],
        args: None = ...,
        cache_key_fn: Callable[[Any], Hashable] | None = ...,
        **options: Unpack[GroupOptions],
    ) -> Groups: ...
    @overload
    def __call__(
        self,
        *,
        by: str | Callable[[Any], Hashable],
        args: type[A],
        cache_key_fn: Callable[[Any], Hashable] | None = ...,
        **options: Unpack[GroupOptions],
    ) -> GroupsArgs[A]: ...
    # Any: the overloads say what goes in and what comes out.
    def __call__(
        self,
        _function: Callable[..., Any] | None = None,
        *,
        by: str | Callable[[Any], Hashable] | Unset = UNSET,
        **options: Any,
    ) -> Any:
        """Declare a loader of lists: `by` tells which key a row belongs to."""
        _check_grouping("group_dataloader", by)
        return _declare(by, _function, _GROUP_OPTIONS, options)

    @overload
    def shared(
        self,
        *,
        by: str | Callable[[Any], Hashable],
        ttl: float | None,
        vary: Callable[[Any], W],
        args: None = ...,
        **options: Unpack[SharedOptions],
    ) -> GroupsVary[W]: ...
    @overload
    def shared(
        self,
        *,
        by: str | Callable[[Any], Hashable],
        ttl: float | None,
        vary: Callable[[Any], W],
        args: type[A],
        **options: Unpack[SharedOptions],
    ) -> GroupsVaryArgs[W, A]: ...
    @overload
    def shared(
        self,
        *,
        by: str | Callable[[Any], Hashable],
        ttl: float | None,
        public: Literal[True],
        args: None = ...,
        **options: Unpack[SharedOptions],
    ) -> GroupsPublic: ...
    @overload
    def shared(
        self,
        *,
        by: str | Callable[[Any], Hashable],
        ttl: float | None,
        public: Literal[True],
        args: type[A],
        **options: Unpack[SharedOptions],
    ) -> GroupsPublicArgs[A]: ...
    def shared(
        self,
        _function: Callable[..., Any] | None = None,
        *,
        by: str | Callable[[Any], Hashable] | Unset = UNSET,
        **options: Any,
    ) -> Any:
        """Declare a loader whose values live longer than a request, in a cache of their own.

        Nothing leaks between requests: loads run in an empty context, and the function gets the
        value of `vary` and not the scope's context.

            @group_dataloader.shared(by="author_id", ttl=30, maxsize=10_000, vary=tenant)
            async def posts(author_ids: list[int], tenant_id: str) -> list[Post]: ...

        Args:
            by: What tells the key of a row: as for `group_dataloader`.
            ttl: Seconds that a value is fresh; None is for ever.
            vary: Gives what the values depend on, of the scope's context: the tenant, the user's
                permissions. Scopes share keys, batches and values where it is equal.
            public: True says that the values are the same for everybody.
            **options: `maxsize` (1024), `stale_ttl`, `refresh_ahead`, `negative_ttl`,
                `ttl_jitter`, `eviction` and `clock` of `AsyncCache`, and those of
                `group_dataloader` but `cache`.

        Raises:
            ConfigurationError: Neither or both of `vary` and `public` are given, or another
                argument is wrong.
        """
        _check_grouping("group_dataloader.shared", by)
        return _declare(by, _function, _SHARED_GROUP_OPTIONS, options, is_shared=True)


# `help()` shows the docstrings of their classes; this one is for editors.
dataloader: Final = _Dataloader()
"""Declare a batch function as a `LoaderFactory`, which gives each scope a loader of its own."""

group_dataloader: Final = _GroupDataloader()
"""Declare a batch function that returns flat rows; each key's value is the list of its rows."""

_LOADER_OPTIONS: Final = frozenset(
    {
        "args",
        "batch_window",
        "cache_key_fn",
        "limiter",
        "load_timeout",
        "max_batch_size",
        "max_concurrent_batches",
        "name",
    }
)
_GROUP_OPTIONS: Final = _LOADER_OPTIONS | {"cache"}
_REQUEST_OPTIONS: Final = _GROUP_OPTIONS | {"cache_errors", "missing"}
_CACHE_OPTIONS: Final = frozenset(
    {"clock", "eviction", "maxsize", "negative_ttl", "refresh_ahead", "stale_ttl", "ttl_jitter"}
)
_SHARED_GROUP_OPTIONS: Final = _LOADER_OPTIONS | _CACHE_OPTIONS | {"public", "ttl", "vary"}
_SHARED_OPTIONS: Final = _SHARED_GROUP_OPTIONS | {"missing"}


def _declare(
    by: str | Callable[[Any], Hashable] | Unset,
    function: Callable[..., Any] | None,
    known: frozenset[str],
    options: dict[str, Any],
    *,
    is_shared: bool = False,
) -> Any:
    """Make a factory of a function, or the decorator that does."""
    what = "dataloader" if by is UNSET else "group_dataloader"
    what = f"{what}.shared" if is_shared else what
    if function is not None and not callable(function):
        raise ConfigurationTypeError(
            f"@{what} needs an async function of a list of keys, got {function!r}; options are "
            f"given by name"
        )
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ConfigurationTypeError(
            f"@{what} has no option {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    args = options.pop("args", None)
    if args is not None and not isinstance(args, type):
        raise ConfigurationTypeError(
            f"@{what}: args must be a type, got {args!r}; for several arguments make a frozen "
            f"dataclass of them"
        )
    check_name(f"@{what}", options.get("name"))
    if is_shared:
        _check_sharing(what, options)

    def declare(function: Callable[..., Any]) -> Any:
        return _make(function, by, args, dict(options), is_shared=is_shared)

    return declare if function is None else declare(function)


def _check_grouping(what: str, by: object) -> None:
    if by is UNSET:
        raise ConfigurationTypeError(
            f"@{what} must say which key a row belongs to: by=, the name of an attribute or a "
            f"function of a row"
        )


def _check_sharing(what: str, options: dict[str, Any]) -> None:
    vary = options.get("vary")
    public = options.setdefault("public", False)
    if public not in (True, False):
        raise ConfigurationTypeError(f"@{what}: public must be True, got {public!r}")
    if (vary is None) is (not public):
        raise ConfigurationTypeError(
            f"@{what} must say what its values depend on: vary=, a function of the scope's "
            f"context, or public=True where they are the same for everybody; "
            f"got {'neither' if vary is None else 'both'}"
        )
    if vary is not None and not callable(vary):
        raise ConfigurationTypeError(
            f"@{what}: vary must be a function of the scope's context, got {vary!r}"
        )
    if "ttl" not in options:
        raise ConfigurationTypeError(
            f"@{what} must say how long its values are fresh: ttl= in seconds, None for ever"
        )


def _make(
    function: Callable[..., Any],
    by: str | Callable[[Any], Hashable] | Unset,
    args: type | None,
    options: dict[str, Any],
    *,
    is_shared: bool,
) -> Any:
    second = "context" if not is_shared else None if options["public"] else "vary value"
    batch = BatchFunction(function, options.pop("name", None), second, args)
    grouping = None if isinstance(by, Unset) else Grouping(by, batch.owner)
    if not is_shared:
        source = RequestSource(batch, grouping, options)
        kind: type[Any] = LoaderFactory if args is None else ArgsLoaderFactory
        return kind(source)
    of_cache = {name: options.pop(name) for name in sorted(_CACHE_OPTIONS & options.keys())}
    cache = AsyncCache(
        of_cache.pop("maxsize", 1024), options.pop("ttl"), name=batch.name, **of_cache
    )
    vary = options.pop("vary", None)
    del options["public"]
    shared = SharedSource(batch, grouping, options, vary, cache)
    kind = SharedLoaderFactory if args is None else SharedArgsLoaderFactory
    return kind(shared)
