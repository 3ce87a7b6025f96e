"""The contenders: how each library makes a loader of a batch function.

The libraries are imported by name, so a missing one costs a line in the report and nothing else.
What they return is `Any` here and a `Loader` everywhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Protocol, TypeVar, overload

__all__ = [
    "ADAPTERS",
    "OURS",
    "Adapter",
    "BatchFunction",
    "Contender",
    "Loader",
    "installed",
    "version",
]

OURS = "ours"

BatchFunction = Callable[[list[Any]], Coroutine[Any, Any, list[Any]]]


class Loader(Protocol):
    """What every contender offers for one batch function."""

    def load(self, key: Any, /) -> Awaitable[Any]: ...

    def load_many(self, keys: Iterable[Any], /) -> Awaitable[list[Any]]: ...


class Contender(Protocol):
    """What the report says of a library; `target` is what it is made of, as `module.Class`."""

    @property
    def name(self) -> str: ...

    @property
    def distribution(self) -> str: ...

    @property
    def target(self) -> str: ...

    @property
    def needs(self) -> str: ...


C = TypeVar("C", bound=Contender)


@dataclass(frozen=True)
class Adapter:
    """One contender, made with its own defaults.

    `target` is what it is made of, as `module.Class`; `make` is called inside a running loop.
    `is_loader` says that the library is a DataLoader, so that it counts among "the fastest of"; a
    cache that can batch is shown beside them.
    """

    name: str
    distribution: str
    target: str
    make: Callable[[BatchFunction], Loader]
    is_loader: bool = True
    needs: str = ""


class _CacheAsLoader:
    """Give `AsyncCache.get(key, batch_loader=)` the two calls of a loader."""

    def __init__(self, cache: Any, batch_function: BatchFunction) -> None:
        self._get = cache.get
        self._batch_function = batch_function

    def load(self, key: Any, /) -> Awaitable[Any]:
        awaitable: Awaitable[Any] = self._get(key, batch_loader=self._batch_function)
        return awaitable

    def load_many(self, keys: Iterable[Any], /) -> Awaitable[list[Any]]:
        return asyncio.gather(*map(self.load, keys))


def _loader_of(module: str) -> Callable[[BatchFunction], Loader]:
    def make(batch_function: BatchFunction) -> Loader:
        loader: Loader = import_module(module).DataLoader(batch_function)
        return loader

    return make


def _async_cache(batch_function: BatchFunction) -> Loader:
    # Unbounded, so that it can hold what a loader holds; its batch window stays the default, 5 ms.
    cache = import_module("cache").AsyncCache(maxsize=None, max_batch_size=1_000_000)
    return _CacheAsLoader(cache, batch_function)


def _loader(name: str, distribution: str, module: str, needs: str = "") -> Adapter:
    return Adapter(name, distribution, f"{module}.DataLoader", _loader_of(module), needs=needs)


ADAPTERS: tuple[Adapter, ...] = (
    _loader(OURS, "dataloader-cache", "dataloader_cache"),
    _loader("aiodataloader", "aiodataloader", "aiodataloader"),
    _loader("strawberry", "strawberry-graphql", "strawberry.dataloader"),
    _loader("dloader", "dloader", "dloader", needs="Python 3.11 or newer"),
    Adapter("async-cache", "async-cache", "cache.AsyncCache", _async_cache, is_loader=False),
)


@overload
def installed() -> tuple[list[Adapter], list[str]]: ...
@overload
def installed(contenders: Iterable[C]) -> tuple[list[C], list[str]]: ...
def installed(
    contenders: Iterable[Contender] = ADAPTERS,
) -> tuple[list[Any], list[str]]:
    """Return the contenders that can be imported, and one line for each that cannot."""
    found: list[Contender] = []
    left_out: list[str] = []
    for adapter in contenders:
        module, _, attribute = adapter.target.rpartition(".")
        try:
            getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            needs = f"; it needs {adapter.needs}" if adapter.needs else ""
            left_out.append(f"left out: {adapter.name} ({error}{needs})")
        else:
            found.append(adapter)
    return found, left_out


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
