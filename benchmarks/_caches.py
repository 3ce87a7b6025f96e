"""The caches to compare with: how each library gets, loads and decorates.

The libraries are imported by name, so a missing one costs a line in the report and nothing else.
What they return is `Any` here. Keys are strings, since some take nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from functools import partial, wraps
from importlib import import_module
from typing import Any

from benchmarks._peers import OURS

__all__ = [
    "CACHES",
    "FLOOR",
    "OURS",
    "AsyncFunction",
    "Cache",
    "CachePeer",
    "Load",
    "LoadMany",
    "ours",
]

FLOOR = "dict"

Load = Callable[[str], Coroutine[Any, Any, Any]]
LoadMany = Callable[[list[str]], Coroutine[Any, Any, Any]]
AsyncFunction = Callable[..., Awaitable[Any]]
Decorate = Callable[[Any], AsyncFunction]


@dataclass(frozen=True)
class Cache:
    """One cache of some library, before one function that loads.

    `get` looks a key up and may load nothing, `load` loads what is not there, `store` puts a value
    in, `delete` takes it out; `peek` is no coroutine. `batched` is a get before a function that
    loads many. None is what the library does not have.
    """

    get: Callable[[str], Awaitable[Any]]
    load: Callable[[str], Awaitable[Any]]
    peek: Callable[[str], Any] | None = None
    store: Callable[[str, object], Any] | None = None
    delete: Callable[[str], Any] | None = None
    batched: Callable[[str, LoadMany], Awaitable[Any]] | None = None


@dataclass(frozen=True)
class CachePeer:
    """One contender, with a bound of `maxsize` entries that live for `ttl` seconds, or for ever.

    `make` is called inside a running loop. `decorator` makes what decorates one async function;
    of a method, it leaves `self` out of the key where the library can. `is_bounded` is False for
    a cache that never evicts, `is_seen` False where memory is allocated out of tracemalloc's sight.
    """

    name: str
    distribution: str
    target: str
    make: Callable[[Load, int, float | None], Cache]
    decorator: Callable[[bool], Decorate]
    is_bounded: bool = True
    is_seen: bool = True
    needs: str = ""


def ours(
    load: Load, maxsize: int | None, ttl: float | None, eviction: Any = "lru", **options: Any
) -> Cache:
    """Make one of ours, with any of its options."""
    cache = import_module("dataloader_cache").AsyncCache(maxsize, ttl, eviction=eviction, **options)
    return Cache(
        cache.get,
        lambda key: cache.get(key, lambda: load(key)),
        cache.peek,
        cache.set,
        cache.delete,
        lambda key, load_many: cache.get(key, batch_loader=load_many),
    )


def _our_decorator(is_method: bool) -> Decorate:
    decorate: Decorate = import_module("dataloader_cache").AsyncLRU(
        maxsize=1000, skip_args=int(is_method)
    )
    return decorate


def _floor(load: Load, maxsize: int, ttl: float | None) -> Cache:
    data: dict[str, Any] = {}

    async def get(key: str) -> Any:
        return data[key]

    async def fill(key: str) -> Any:
        value = data[key] = await load(key)
        return value

    return Cache(get, fill, data.get, data.__setitem__)


def _floor_decorator(is_method: bool) -> Decorate:
    raise TypeError("a dict decorates nothing: it is the floor of `get` alone")


def _async_cache(load: Load, maxsize: int, ttl: float | None) -> Cache:
    cache = import_module("cache").AsyncCache(maxsize=maxsize, default_ttl=ttl)
    return Cache(
        cache.get,
        lambda key: cache.get(key, lambda: load(key)),
        store=cache.set,
        delete=cache.delete,
        batched=lambda key, load_many: cache.get(key, batch_loader=load_many),
    )


def _async_cache_decorator(is_method: bool) -> Decorate:
    decorate: Decorate = import_module("cache").AsyncLRU(maxsize=1000, skip_args=int(is_method))
    return decorate


def _async_lru(load: Load, maxsize: int, ttl: float | None) -> Cache:
    cached = import_module("async_lru").alru_cache(maxsize=maxsize, ttl=ttl)(load)
    return Cache(cached, cached, delete=cached.cache_invalidate)


def _async_lru_decorator(is_method: bool) -> Decorate:
    decorate: Decorate = import_module("async_lru").alru_cache(maxsize=1000)
    return decorate


def _set_up_cashews(maxsize: int) -> Any:
    """Make a cashews cache in memory."""
    cache = import_module("cashews").Cache()
    cache.setup("mem://", size=maxsize)
    return cache


def _cashews(load: Load, maxsize: int, ttl: float | None) -> Cache:
    cache = _set_up_cashews(maxsize)
    cached = cache(ttl=ttl, key="{key}")(load)
    return Cache(cache.get, cached, store=partial(cache.set, expire=ttl), delete=cache.delete)


def _cashews_decorator(is_method: bool) -> Decorate:
    cache = _set_up_cashews(1000)

    def decorate(function: Any) -> AsyncFunction:
        make_key = import_module("cashews").noself if is_method else _as_it_is
        return _as_async(make_key(cache)(ttl=None)(function))

    return decorate


def _as_it_is(decorator: Any) -> Any:
    return decorator


def _as_async(function: Any) -> AsyncFunction:
    decorated: AsyncFunction = function
    return decorated


def _aiocache(load: Load, maxsize: int, ttl: float | None) -> Cache:
    aiocache = import_module("aiocache")
    decorated = aiocache.cached_stampede(ttl=ttl, key_builder=lambda _, key: key)
    cached = decorated(load)
    cache = decorated.cache
    return Cache(cache.get, cached, store=partial(cache.set, ttl=ttl), delete=cache.delete)


def _aiocache_decorator(is_method: bool) -> Decorate:
    decorate: Decorate = import_module("aiocache").cached_stampede(noself=is_method)
    return decorate


class _LockedCache:
    """What people write around cachetools: one lock, held while a value is looked up or loaded."""

    def __init__(self, maxsize: int, ttl: float | None) -> None:
        cachetools = import_module("cachetools")
        self.data: Any = (
            cachetools.LRUCache(maxsize) if ttl is None else cachetools.TTLCache(maxsize, ttl)
        )
        self._lock = asyncio.Lock()

    async def get(self, key: Any, loader: Callable[[], Awaitable[Any]] | None = None) -> Any:
        async with self._lock:
            try:
                return self.data[key]
            except KeyError:
                if loader is None:
                    return None
                value = self.data[key] = await loader()
                return value


def _cachetools(load: Load, maxsize: int, ttl: float | None) -> Cache:
    cache = _LockedCache(maxsize, ttl)
    return Cache(
        cache.get,
        lambda key: cache.get(key, lambda: load(key)),
        cache.data.get,
        cache.data.__setitem__,
        lambda key: cache.data.pop(key, None),
    )


def _cachetools_decorator(is_method: bool) -> Decorate:
    cache = _LockedCache(1000, None)
    keys = import_module("cachetools.keys")
    key_of = keys.methodkey if is_method else keys.hashkey

    def decorate(function: Any) -> AsyncFunction:
        @wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await cache.get(key_of(*args, **kwargs), lambda: function(*args, **kwargs))

        return call

    return decorate


def _cachebox(load: Load, maxsize: int, ttl: float | None) -> Cache:
    cachebox = import_module("cachebox")
    data = cachebox.LRUCache(maxsize) if ttl is None else cachebox.TTLCache(maxsize, ttl)
    cached = cachebox.cached(data, key_maker=lambda key: key)(load)
    return Cache(cached, cached, data.get, data.insert, lambda key: data.pop(key, None))


def _cachebox_decorator(is_method: bool) -> Decorate:
    cachebox = import_module("cachebox")
    data = cachebox.LRUCache(1000)
    # A function in place of the cache is how `self` is left out of the key.
    decorate: Decorate = cachebox.cached((lambda _: data) if is_method else data)
    return decorate


def _memoize_of(maxsize: int, ttl: float | None) -> Any:
    """Make theine's decorator, which wants a timedelta."""
    return import_module("theine").Memoize(maxsize, None if ttl is None else timedelta(seconds=ttl))


def _theine(load: Load, maxsize: int, ttl: float | None) -> Cache:
    memoize = _memoize_of(maxsize, ttl)
    cached = memoize(load)
    cached.key(lambda key: key)
    return Cache(cached, cached, memoize.cache.get, delete=memoize.cache.delete)


def _theine_decorator(is_method: bool) -> Decorate:
    memoize = _memoize_of(1000, None)

    def decorate(function: Any) -> AsyncFunction:
        decorated: Any = memoize(function)
        if is_method:
            decorated.key(lambda self, *args: args)
        return _as_async(decorated)

    return decorate


CACHES: tuple[CachePeer, ...] = (
    CachePeer(OURS, "dataloader-cache", "dataloader_cache.AsyncCache", ours, _our_decorator),
    CachePeer(
        "async-cache", "async-cache", "cache.AsyncCache", _async_cache, _async_cache_decorator
    ),
    CachePeer("async-lru", "async-lru", "async_lru.alru_cache", _async_lru, _async_lru_decorator),
    CachePeer("cashews", "cashews", "cashews.Cache", _cashews, _cashews_decorator),
    CachePeer(
        "aiocache",
        "aiocache",
        "aiocache.cached_stampede",
        _aiocache,
        _aiocache_decorator,
        is_bounded=False,
    ),
    CachePeer(
        "cachetools + lock",
        "cachetools",
        "cachetools.TTLCache",
        _cachetools,
        _cachetools_decorator,
    ),
    CachePeer(
        "cachebox",
        "cachebox",
        "cachebox.TTLCache",
        _cachebox,
        _cachebox_decorator,
        is_seen=False,
    ),
    CachePeer("theine", "theine", "theine.Memoize", _theine, _theine_decorator, is_seen=False),
    CachePeer(
        FLOOR, "dataloader-cache", "builtins.dict", _floor, _floor_decorator, is_bounded=False
    ),
)
