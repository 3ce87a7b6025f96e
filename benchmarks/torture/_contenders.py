"""Give every library the same four verbs, so that one row runs against all of them.

What a library returns and accepts is its own affair; this is the only module of the
package where that is `Any`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from benchmarks import _caches
from benchmarks._peers import version

__all__ = [
    "CACHES",
    "CONTENDERS",
    "OURS",
    "BatchFunction",
    "CacheContender",
    "Contender",
    "Loader",
    "NotApplicableError",
]

# A batch function may be wrong on purpose, so its result is anything.
BatchFunction = Callable[[list[int]], Awaitable[object]]


class NotApplicableError(Exception):
    """The library has no such feature."""


class Loader(Protocol):
    """One loader of some library, living as long as the row that made it."""

    def load(self, key: int) -> Awaitable[object]: ...
    def load_many(self, keys: list[int]) -> Awaitable[list[object]]: ...
    def prime(self, key: int, value: object) -> None: ...
    def clear(self, key: int) -> None: ...
    async def close(self) -> None: ...


class _Ours:
    def __init__(self, batch: BatchFunction, **options: Any) -> None:
        self._loader: Any = import_module("dataloader_cache").DataLoader(batch, **options)

    def load(self, key: int) -> Awaitable[Any]:
        loaded: Awaitable[Any] = self._loader.load(key)
        return loaded

    def load_many(self, keys: list[int]) -> Awaitable[list[Any]]:
        loaded: Awaitable[list[Any]] = self._loader.load_many(keys)
        return loaded

    def prime(self, key: int, value: object) -> None:
        self._loader.prime(key, value)

    def clear(self, key: int) -> None:
        self._loader.clear(key)

    async def close(self) -> None:
        await self._loader.aclose()


class _Peer(_Ours):
    """A peer's loader: same verbs, fewer options."""

    module = ""

    def __init__(
        self,
        batch: BatchFunction,
        *,
        max_batch_size: Any = None,
        cache: bool = True,
        **options: Any,
    ) -> None:
        if options:
            raise NotApplicableError
        loader_class = import_module(self.module).DataLoader
        self._loader = loader_class(batch, max_batch_size=max_batch_size, cache=cache)

    async def close(self) -> None:
        raise NotApplicableError


class _Aiodataloader(_Peer):
    module = "aiodataloader"


class _Strawberry(_Peer):
    module = "strawberry.dataloader"


class _Dloader(_Peer):
    module = "dloader"

    async def close(self) -> None:
        await self._loader.shutdown()


class _AsyncCache:
    """`AsyncCache.get(key, batch_loader=...)`, the batched half of async-cache."""

    def __init__(
        self,
        batch: BatchFunction,
        *,
        max_batch_size: Any = None,
        cache: bool = True,
        beside: _AsyncCache | None = None,
        **options: Any,
    ) -> None:
        if options or not cache:
            raise NotApplicableError
        self._batch = batch
        if beside is not None:
            self._cache: Any = beside._cache
            return
        limit = {} if max_batch_size is None else {"max_batch_size": max_batch_size}
        self._cache = import_module("cache").AsyncCache(maxsize=10_000, **limit)

    def load(self, key: int) -> Awaitable[Any]:
        got: Awaitable[Any] = self._cache.get(key, batch_loader=self._batch)
        return got

    def load_many(self, keys: list[int]) -> Awaitable[list[Any]]:
        raise NotApplicableError

    def prime(self, key: int, value: object) -> None:
        self._cache.set(key, value)

    def clear(self, key: int) -> None:
        self._cache.delete(key)

    async def close(self) -> None:
        raise NotApplicableError


@dataclass(frozen=True)
class Contender:
    """One column of the table."""

    name: str
    make: Callable[..., Loader]
    is_cache: bool = False  # `load` is a coroutine, `prime` is a cache's `set`

    def pair(self, first: BatchFunction, second: BatchFunction) -> tuple[Loader, Loader]:
        """Make two loaders that live side by side, as one application would have them."""
        one = self.make(first)
        return one, self.make(second, beside=one) if self.is_cache else self.make(second)

    @property
    def is_of_caches(self) -> bool:
        """Whether it is a column of the caches' table."""
        return False

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        return version("strawberry-graphql" if self.name.startswith("strawberry") else self.name)


@dataclass(frozen=True)
class CacheContender:
    """One column of the caches' table."""

    name: str
    peer: _caches.CachePeer

    def make(
        self, load: _caches.Load, ttl: float | None = None, maxsize: int = 100
    ) -> _caches.Cache:
        """Make a cache before a function that loads."""
        return self.peer.make(load, maxsize, ttl)

    def decorate(self, function: Any) -> _caches.AsyncFunction:
        """Cache what an async function returns."""
        return self.peer.decorator(False)(function)

    @property
    def is_of_caches(self) -> bool:
        """Whether it is a column of the caches' table."""
        return True

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        return version(self.peer.distribution)


OURS = Contender("dataloader-cache", _Ours)
CONTENDERS = {
    contender.name: contender
    for contender in (
        OURS,
        Contender("aiodataloader", _Aiodataloader),
        Contender("strawberry.dataloader", _Strawberry),
        Contender("dloader", _Dloader),
        Contender("async-cache", _AsyncCache, is_cache=True),
    )
}
CACHES = {
    contender.name: contender
    for contender in (
        CacheContender(OURS.name if peer.name == _caches.OURS else peer.name, peer)
        for peer in _caches.CACHES
        if peer.name != _caches.FLOOR
    )
}
