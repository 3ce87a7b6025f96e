"""Where the loaders of a factory come from: of one request, or shared by all of them.

A scope's loader of a shared factory is an ordinary one, whose misses go on to a hub: a loader
that all scopes of an event loop have in common for the same value of `vary` and `args`. The hub
has no memo of its own; behind it is the factory's cache. It runs in an empty context, so nothing
of any request is there to be seen by its batch function.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextvars import Context
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

from ._arguments import UNSET
from ._batch import Fetch
from ._cache import ABSENT, AsyncCache, hit
from ._function import BatchFunction, Grouping
from ._loader import DataLoader, change_fetch, equip, renew_with
from ._results import read_values
from ._scope import LoaderScope
from .errors import NoScopeError
from .typing import Limiter

__all__ = ["RequestSource", "SharedSource", "Source"]

# Any, throughout: keys and values are of the types that the declaration checks.
_Loader = DataLoader[Any, Any]
_LoadFn = Callable[[list[Any]], Awaitable[Any]]


class Source(ABC):
    """Make the loaders of one factory.

    Args:
        function: The batch function.
        grouping: How its rows become lists, for a group factory.
        options: Those of `DataLoader`.

    Raises:
        ConfigurationError: An option is wrong.
    """

    def __init__(
        self,
        function: BatchFunction,
        grouping: Grouping | None,
        options: Mapping[str, Any],
        cache: AsyncCache | None = None,
    ) -> None:
        self.cache = cache
        self.function = function
        self.grouping = grouping
        self.options: dict[str, Any] = {**options, "name": function.name}
        # A loader that nobody uses, because it says what is wrong with the options.
        DataLoader(function.original, **self.options)

    def limiters(self) -> tuple[Limiter, ...]:
        """Make the limiters that the loaders of one scope for all args share."""
        return ()

    @abstractmethod
    def make(
        self, scope: LoaderScope, args: tuple[object, ...], limiters: tuple[Limiter, ...]
    ) -> _Loader:
        """Make the loader of one scope, for these args if the factory has some."""

    def _bind(self, second: tuple[object, ...], args: tuple[object, ...]) -> _LoadFn:
        load_fn = self.function.bind(second, args)
        if self.grouping is None:
            return load_fn
        return self.grouping.wrap(load_fn, self.function.name, self.options.get("cache_key_fn"))

    def _need_context(self, scope: LoaderScope, what: str) -> Any:
        context = scope.context
        if context is UNSET:
            raise NoScopeError(
                f"{self.function.owner}: {what} takes the scope's context, and the scope has "
                f"none; open it with LoaderScope(context=...), or give the integration that opens "
                f"it a function that makes one"
            )
        return context


class RequestSource(Source):
    """Make loaders that belong to one request, see its context, and end with it."""

    def limiters(self) -> tuple[Limiter, ...]:
        """Make the semaphore of `max_concurrent_batches`."""
        most = self.options.get("max_concurrent_batches")
        return () if most is None else (asyncio.Semaphore(most),)

    def make(
        self, scope: LoaderScope, args: tuple[object, ...], limiters: tuple[Limiter, ...]
    ) -> _Loader:
        """Make the loader of one scope."""
        second: tuple[object, ...] = ()
        function = self.function
        if function.takes_second and (function.needs_second or scope.context is not UNSET):
            second = (self._need_context(scope, "its batch function"),)
        if scope.limiter is not None:
            limiters = (scope.limiter, *limiters)
        options: dict[str, Any] = {**self.options, "max_concurrent_batches": None}
        loader = DataLoader(self._bind(second, args), **options)
        return equip(loader, context=scope.variables, limiters=limiters)


class SharedSource(Source):
    """Make loaders with a cache behind them that all scopes share, for the same `vary` value.

    Args:
        vary: Gives what the values depend on, of a scope's context; None where on nothing.
        cache: The factory's cache.
    """

    def __init__(
        self,
        function: BatchFunction,
        grouping: Grouping | None,
        options: Mapping[str, Any],
        vary: Callable[[Any], Hashable] | None,
        cache: AsyncCache,
    ) -> None:
        super().__init__(function, grouping, options, cache)
        self._shared_cache = cache
        self._vary = vary
        self._lock = Lock()
        self._hubs: WeakKeyDictionary[
            asyncio.AbstractEventLoop, WeakValueDictionary[Hashable, _Loader]
        ] = WeakKeyDictionary()
        # Weak on both sides: a semaphore knows its loop, and the hubs that use it hold it.
        self._limits: WeakKeyDictionary[asyncio.AbstractEventLoop, ref[asyncio.Semaphore]] = (
            WeakKeyDictionary()
        )
        self._cache_key_fn: Callable[[Any], Hashable] | None = options.get("cache_key_fn")
        self._missing_raises = options.get("missing") == "raise"

    def make(
        self, scope: LoaderScope, args: tuple[object, ...], limiters: tuple[Limiter, ...]
    ) -> _Loader:
        """Make the loader of one scope, which asks the cache and then the hub."""
        context = None if self._vary is None else self._need_context(scope, "vary")
        home, load_fn = self._at_home(context, args)
        refusal: Exception | None = None

        def forget(cache_key: Hashable) -> None:
            if refusal is not None:
                raise refusal
            self._shared_cache.delete((home, cache_key))

        loader = DataLoader(
            self.function.original, cache_key_fn=self._cache_key_fn, name=self.function.name
        )
        equip(loader, context=Context(), fetch=self._fetch_from(home, load_fn), forget=forget)

        def renew() -> None:
            # What vary goes by may be another by now: who is logged in, after a mutation.
            nonlocal home, refusal
            before, was_refused = home, refusal is not None
            refusal = None
            try:
                home, load_fn = self._at_home(context, args)
            except Exception as error:
                refusal = error
                change_fetch(loader, _refuse_with(error))
                return
            if was_refused or home != before:
                change_fetch(loader, self._fetch_from(home, load_fn))

        if self._vary is not None:
            renew_with(loader, renew)
        return loader

    def _fetch_from(self, home: tuple[Hashable, ...], load_fn: _LoadFn) -> Fetch:
        """Make what asks the cache, and the hub for the rest."""

        async def fetch(
            cache_keys: list[Hashable], originals: list[Any], *_: object
        ) -> dict[Hashable, Any]:
            found = {key: hit(self._shared_cache, (home, key)) for key in cache_keys}
            missing = {
                cache_key: key
                for cache_key, key in zip(cache_keys, originals)
                if found[cache_key] is ABSENT
            }
            if missing:
                hub = self._hub(home, load_fn)
                loaded = await hub.load_many(missing.values(), return_exceptions=True)
                found.update(zip(missing, loaded))
            if self.grouping is not None:
                # Who changes the list that it got changes nobody else's.
                found = {key: _copied(rows) for key, rows in found.items()}
            return found

        return fetch

    def _at_home(
        self, context: Any, args: tuple[object, ...]
    ) -> tuple[tuple[Hashable, ...], _LoadFn]:
        """Give what the values depend on besides the key, and the batch function for that."""
        vary: tuple[Hashable, ...] = ()
        if self._vary is not None:
            vary = (self._vary(context),)
            _check_hashable(vary[0], f"{self.function.owner}: vary gave a value")
        second = vary if self.function.takes_second else ()
        return (*vary, *args), self._bind(second, args)

    def _hub(self, home: tuple[Hashable, ...], load_fn: _LoadFn) -> _Loader:
        loop = asyncio.get_running_loop()
        with self._lock:
            hubs = self._hubs.setdefault(loop, WeakValueDictionary())
        # One loop is one thread, so what belongs to a loop needs no lock.
        hub = hubs.get(home)
        if hub is None:
            hub = hubs[home] = self._make_hub(loop, home, load_fn)
        return hub

    def _make_hub(
        self, loop: asyncio.AbstractEventLoop, home: tuple[Hashable, ...], load_fn: _LoadFn
    ) -> _Loader:
        cache_key_fn = self._cache_key_fn
        owner = f"loader {self.function.name!r}"

        def home_key(key: Any) -> Hashable:
            return (home, key if cache_key_fn is None else cache_key_fn(key))

        async def load(keys: list[Any]) -> Any:
            # In key order, since a mapping is by the user's keys and the hub has longer ones.
            own = list(keys) if cache_key_fn is None else [cache_key_fn(key) for key in keys]
            result = await load_fn(keys)
            return read_values(result, own, owner, missing_raises=self._missing_raises)

        options: dict[str, Any] = {
            **self.options,
            "cache_key_fn": home_key,
            "cache": False,
            "result_cache": self._shared_cache,
        }
        limit = options.pop("max_concurrent_batches", None)
        limiters: tuple[Limiter, ...] = ()
        if limit is not None:
            # The limit is the factory's, for all its hubs on this loop.
            known = self._limits.get(loop)
            semaphore = None if known is None else known()
            if semaphore is None:
                semaphore = asyncio.Semaphore(limit)
                self._limits[loop] = ref(semaphore)
            limiters = (semaphore,)
        return equip(DataLoader(load, **options), context=Context(), limiters=limiters)


def _refuse_with(error: Exception) -> Fetch:
    async def fetch(*_: object) -> dict[Hashable, Any]:
        raise error

    return fetch


def _copied(rows: Any) -> Any:
    """Copy a list; what else there is, is an error."""
    return rows.copy() if type(rows) is list else rows  # pyright: ignore[reportUnknownVariableType]


def _check_hashable(value: object, what: str) -> None:
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(
            f"{what} of type {type(value).__name__}, which is not hashable: {value!r}; "
            f"give a str, a number or a tuple of these"
        ) from error
