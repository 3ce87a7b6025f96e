"""`LoaderFactory`: a declared loader, of which each scope has its own.

A factory lives as long as the process and holds no keys and no values, but for the cache of a
shared one. Its methods are those of the current scope's loader.
"""

from __future__ import annotations

import asyncio
import functools
from asyncio import Future
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar, cast, overload
from weakref import WeakValueDictionary

from ._cache import AsyncCache
from ._loader import DataLoader, clears_of, is_idle, provide_from
from ._scope import LoaderScope, current_scope, scope_for
from ._sources import Source
from .errors import ConfigurationTypeError
from .typing import Limiter

__all__ = [
    "ArgsLoaderFactory",
    "ArgsLoaders",
    "LoaderFactory",
    "SharedArgsLoaderFactory",
    "SharedLoaderFactory",
]

K = TypeVar("K")
V = TypeVar("V")
A = TypeVar("A")
D = TypeVar("D")
E = TypeVar("E")
K2 = TypeVar("K2")
V2 = TypeVar("V2")
Self = TypeVar("Self", bound="LoaderFactory[Any, Any]")
SelfArgs = TypeVar("SelfArgs", bound="ArgsLoaderFactory[Any, Any, Any]")


class _Declaration:
    """What factories with and without args have in common."""

    def __init__(self, source: Source) -> None:
        self._source = source
        functools.update_wrapper(cast("Any", self), source.function.original, updated=())
        self.name = source.function.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @property
    def load_fn(self) -> Callable[..., Awaitable[Any]]:
        """The batch function as it was declared, to call in a unit test."""
        return self._source.function.original


class LoaderFactory(_Declaration, Generic[K, V]):
    """Declare a loader once, for the process; each `LoaderScope` makes its own on first use.

    It is made by `@dataloader` and `@group_dataloader`, and takes the decorated function's name:

        @dataloader
        async def users(ids: list[int], context: AppContext) -> dict[int, User]: ...

        async with LoaderScope(context=app_context):
            user = await users.load(1)

    Every method is that of the current scope's `DataLoader`, and raises `NoScopeError` where no
    scope is open. `scope[users]` is that loader.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._targets: list[tuple[LoaderFactory[Any, Any], Callable[[Any], Any]]] = []

    def make(self, scope: LoaderScope) -> DataLoader[K, V]:
        """Make the loader of a scope; `scope[factory]` calls this once."""
        loader = self._source.make(scope, (), self._source.limiters())
        if self._targets:
            self._hand_on(scope, loader)
        return loader

    def _loader(self) -> DataLoader[K, V]:
        scope = current_scope()
        # A closed scope has no loaders.
        loader = None if scope is None else scope.loaders.get(self)
        if loader is None:
            return scope_for(self._source.function.owner)[self]
        return cast("DataLoader[K, V]", loader)

    def load(self, key: K) -> Future[V]:
        """Load `key` with the current scope's loader: see `DataLoader.load`."""
        # As _loader() does it: this is the hot path, and a call less.
        scope = current_scope()
        loader = None if scope is None else scope.loaders.get(self)
        return self._loader().load(key) if loader is None else loader.load(key)

    @overload
    def load_many(
        self, keys: Iterable[K], *, return_exceptions: Literal[False] = ...
    ) -> Awaitable[list[V]]: ...
    @overload
    def load_many(
        self, keys: Iterable[K], *, return_exceptions: Literal[True]
    ) -> Awaitable[list[V | BaseException]]: ...
    @overload
    def load_many(
        self, keys: Iterable[K], *, return_exceptions: bool
    ) -> Awaitable[list[V]] | Awaitable[list[V | BaseException]]: ...
    def load_many(
        self, keys: Iterable[K], *, return_exceptions: bool = False
    ) -> Awaitable[list[V]] | Awaitable[list[V | BaseException]]:
        """Load several keys, as one future: see `DataLoader.load_many`."""
        return self._loader().load_many(keys, return_exceptions=return_exceptions)

    @overload
    def peek(self, key: K) -> V | None: ...
    @overload
    def peek(self, key: K, default: D) -> V | D: ...
    def peek(self, key: K, default: D | None = None) -> V | D | None:
        """Give what the current scope already has, or else `default`: see `DataLoader.peek`."""
        return self._loader().peek(key, default)

    def prime(self: Self, key: K, value: V | Exception, *, force: bool = False) -> Self:
        """Put a value into the current scope's loader, and only there."""
        self._loader().prime(key, value, force=force)
        return self

    def prime_many(self: Self, values: Mapping[K, V | Exception], *, force: bool = False) -> Self:
        """Prime each key of a mapping."""
        self._loader().prime_many(values, force=force)
        return self

    def clear(self: Self, key: K) -> Self:
        """Forget a key in the current scope; a shared factory forgets it in its cache too.

        In the cache it is forgotten for the scope's own value of `vary`.
        """
        self._loader().clear(key)
        return self

    def clear_many(self: Self, keys: Iterable[K]) -> Self:
        """Forget each of `keys`."""
        self._loader().clear_many(keys)
        return self

    def clear_all(self: Self) -> Self:
        """Forget every key in the current scope; the cache of a shared factory stays as it is."""
        self._loader().clear_all()
        return self

    # -- entities

    @overload
    def provides(
        self: LoaderFactory[Any, list[E]],
        other: LoaderFactory[K2, E] | LoaderFactory[K2, E | None],
        *,
        key: Callable[[E], K2 | None],
    ) -> None: ...
    @overload
    def provides(
        self: LoaderFactory[Any, E | None],
        other: LoaderFactory[K2, E] | LoaderFactory[K2, E | None],
        *,
        key: Callable[[E], K2 | None],
    ) -> None: ...
    @overload
    def provides(
        self: LoaderFactory[Any, E],
        other: LoaderFactory[K2, E] | LoaderFactory[K2, E | None],
        *,
        key: Callable[[E], K2 | None],
    ) -> None: ...
    # Any: the overloads say which value goes where.
    def provides(self, other: LoaderFactory[Any, Any], *, key: Callable[[Any], Any]) -> None:
        """Prime `other` with every value that this one loads, in the scope that loads it.

            users.provides(users_by_email, key=lambda user: user.email)

        A group factory provides each of its rows. Nothing is provided of None, nor where `key`
        gives None, nor over what is there, nor where a key of `other` was cleared while the
        value was being loaded. When `key` raises, the event loop's exception handler is told.

        Raises:
            ConfigurationError: `other` is no factory without args, or `key` no function.
        """
        owner = self._source.function.owner
        if not isinstance(other, LoaderFactory):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationTypeError(
                f"{owner}: provides needs a loader factory without args, got {other!r}"
            )
        if not callable(key):
            raise ConfigurationTypeError(f"{owner}: key must be a function of a value, got {key!r}")
        self._targets.append((other, key))

    def _hand_on(self, scope: LoaderScope, loader: DataLoader[K, V]) -> None:
        """Let the loader prime the others' loaders of its scope."""
        is_shared = self._source.cache is not None

        def start() -> Callable[[list[Any]], None]:
            targets = [
                (target, key)
                for other, key in self._targets
                if (target := _loader_in(scope, other)) is not None
            ]
            # A value from a cache may be older than any clear; one that is loaded now only than
            # those to come.
            since = [0 if is_shared else clears_of(target) for target, _ in targets]

            def end(values: list[Any]) -> None:
                for (target, key), before in zip(targets, since):
                    if clears_of(target) == before:
                        self._prime(target, key, values)

            return end

        provide_from(loader, start)

    def _prime(
        self, target: DataLoader[Any, Any], key: Callable[[Any], Any], values: list[Any]
    ) -> None:
        if self._source.grouping is not None:
            values = [row for rows in values for row in rows]
        try:
            keyed = [(key(value), value) for value in values if value is not None]
            target.prime_many({name: value for name, value in keyed if name is not None})
        except Exception as error:
            # The values are as good as without it; others have to load theirs, that is all.
            owner = self._source.function.owner
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{owner} can't provide its values to {target}", "exception": error}
            )


def _loader_in(scope: LoaderScope, factory: LoaderFactory[Any, Any]) -> DataLoader[Any, Any] | None:
    """Give a factory's loader, or None where it can't have one: without a context, say."""
    try:
        return scope[factory]
    except Exception:
        return None


class SharedLoaderFactory(LoaderFactory[K, V]):
    """A factory whose values live longer than a request: its cache is shared by all scopes.

    Keys, batches and values of different `vary` values never meet. Loads run in an empty
    context, and errors are not remembered.
    """

    @property
    def cache(self) -> AsyncCache:
        """The factory's cache: `users.cache.clear()` forgets everything of everybody.

        Its keys are made of the `vary` value, the args and the key, and are not for use.
        """
        return cast("AsyncCache", self._source.cache)


class ArgsLoaders(Generic[K, A, V]):
    """The loaders of one scope for a factory with args: one for each value of them."""

    def __init__(self, source: Source, scope: LoaderScope) -> None:
        self._source = source
        self._scope = scope
        self._limiters: tuple[Limiter, ...] = source.limiters()
        self._loaders: dict[A, DataLoader[K, V]] = {}
        # Those from before a reset, as long as somebody else holds them.
        self._released: WeakValueDictionary[A, DataLoader[K, V]] = WeakValueDictionary()

    def __call__(self, args: A) -> DataLoader[K, V]:
        """Give the loader for these args: the same one for equal args.

        Raises:
            TypeError: They are not of the declared type, or not hashable.
        """
        try:
            loader = self._loaders.get(args)
        except TypeError as error:
            raise TypeError(
                f"{self._source.function.owner} was given args of type {type(args).__name__}, "
                f"which are not hashable: {args!r}; use a frozen dataclass"
            ) from error
        if loader is None:
            expected = cast("type", self._source.function.args)
            if not isinstance(args, expected):
                raise TypeError(
                    f"{self._source.function.owner} takes args of type {expected.__name__}, "
                    f"got {args!r}"
                )
            self._scope.check_open()
            loader = self._released.pop(args, None)
            if loader is None:
                loader = self._source.make(self._scope, (args,), self._limiters)
            self._loaders[args] = loader
        return loader

    def own_loaders(self) -> list[DataLoader[K, V]]:
        """Give the loaders that there are now."""
        return [*self._loaders.values(), *self._released.values()]

    def let_go(self) -> None:
        """Hold no loader that does nothing: each event of a long scope may come with other args."""
        for args in [args for args, loader in self._loaders.items() if is_idle(loader)]:
            self._released[args] = self._loaders.pop(args)


class ArgsLoaderFactory(_Declaration, Generic[K, A, V]):
    """Declare a loader whose values depend on arguments besides the key.

        @dataloader(args=Currency)
        async def prices(ids: list[int], currency: Currency) -> dict[int, Decimal]: ...

        price = await prices.load(7, EUR)

    The keys of each value of the args make a batch of their own, in the same window. Every
    method is that of the loader which the current scope has for these args, `scope[prices](EUR)`.
    """

    def make(self, scope: LoaderScope) -> ArgsLoaders[K, A, V]:
        """Make the loaders of a scope; `scope[factory]` calls this once."""
        return ArgsLoaders(self._source, scope)

    def _loaders(self) -> ArgsLoaders[K, A, V]:
        return scope_for(self._source.function.owner)[self]

    def load(self, key: K, args: A) -> Future[V]:
        """Load `key` for these args: see `DataLoader.load`."""
        return self._loaders()(args).load(key)

    @overload
    def load_many(
        self, keys: Iterable[K], args: A, *, return_exceptions: Literal[False] = ...
    ) -> Awaitable[list[V]]: ...
    @overload
    def load_many(
        self, keys: Iterable[K], args: A, *, return_exceptions: Literal[True]
    ) -> Awaitable[list[V | BaseException]]: ...
    @overload
    def load_many(
        self, keys: Iterable[K], args: A, *, return_exceptions: bool
    ) -> Awaitable[list[V]] | Awaitable[list[V | BaseException]]: ...
    def load_many(
        self, keys: Iterable[K], args: A, *, return_exceptions: bool = False
    ) -> Awaitable[list[V]] | Awaitable[list[V | BaseException]]:
        """Load several keys for the same args, as one future: see `DataLoader.load_many`."""
        loader = self._loaders()(args)
        return loader.load_many(keys, return_exceptions=return_exceptions)

    @overload
    def peek(self, key: K, args: A) -> V | None: ...
    @overload
    def peek(self, key: K, args: A, default: D) -> V | D: ...
    def peek(self, key: K, args: A, default: D | None = None) -> V | D | None:
        """Give what the current scope already has, or else `default`."""
        return self._loaders()(args).peek(key, default)

    def prime(
        self: SelfArgs, key: K, args: A, value: V | Exception, *, force: bool = False
    ) -> SelfArgs:
        """Put a value into the current scope's loader for these args."""
        self._loaders()(args).prime(key, value, force=force)
        return self

    def prime_many(
        self: SelfArgs, values: Mapping[K, V | Exception], args: A, *, force: bool = False
    ) -> SelfArgs:
        """Prime each key of a mapping."""
        self._loaders()(args).prime_many(values, force=force)
        return self

    def clear(self: SelfArgs, key: K, args: A) -> SelfArgs:
        """Forget a key for these args; a shared factory forgets it in its cache too."""
        self._loaders()(args).clear(key)
        return self

    def clear_many(self: SelfArgs, keys: Iterable[K], args: A) -> SelfArgs:
        """Forget each of `keys` for these args."""
        self._loaders()(args).clear_many(keys)
        return self

    def clear_all(self: SelfArgs) -> SelfArgs:
        """Forget every key of all args in the current scope."""
        for loader in self._loaders().own_loaders():
            loader.clear_all()
        return self


class SharedArgsLoaderFactory(ArgsLoaderFactory[K, A, V]):
    """A factory with args whose values live longer than a request: see `SharedLoaderFactory`."""

    @property
    def cache(self) -> AsyncCache:
        """The factory's cache; `prices.cache.clear()` forgets everything of everybody."""
        return cast("AsyncCache", self._source.cache)
