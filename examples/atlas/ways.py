"""The ways of loading that the atlas compares.

Resolvers ask the factories in `graph.py`, and a factory asks the scope that is open for a loader.
So another way of loading is a scope that gives other loaders, and schema, resolvers and batch
functions stay the same: the ways differ only in which keys they put into one call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import strawberry.dataloader
from strawberry.extensions import SchemaExtension

from dataloader_cache import (
    ArgsLoaderFactory,
    LoaderFactory,
    LoaderScope,
    SharedLoaderFactory,
)
from examples.atlas import graph
from examples.atlas.context import AtlasContext

__all__ = ["WAYS", "BatchFunction", "Loading", "Way", "WayExtension"]

K = TypeVar("K")
V = TypeVar("V")
K_contra = TypeVar("K_contra", contravariant=True)
V_co = TypeVar("V_co", covariant=True)

BatchFunction = Callable[[list[K]], Awaitable[Sequence[V]]]


class Loading(Protocol[K_contra, V_co]):
    """What a factory sees of a way of loading; lives as long as the request."""

    def load(self, key: K_contra, /) -> Awaitable[V_co]: ...


class Way(Protocol):
    def __call__(self, load_fn: BatchFunction[K, V], /) -> Loading[K, V]: ...


class Direct(Generic[K, V]):
    """Ask for each key by itself, as a resolver without loaders does."""

    def __init__(self, load_fn: BatchFunction[K, V]) -> None:
        self._load_fn = load_fn

    async def load(self, key: K, /) -> V:
        [value] = await self._load_fn([key])
        return value


def plain(load_fn: BatchFunction[K, V], /) -> Loading[K, V]:
    return Direct(load_fn)


def with_strawberry(load_fn: BatchFunction[K, V], /) -> Loading[K, V]:
    return strawberry.dataloader.DataLoader(load_fn)


# None is ours: nothing to be done. The last one executes queries in another way too: schema.py.
WAYS: dict[str, Way | None] = {
    "plain": plain,
    "strawberry": with_strawberry,
    "dataloader_cache": None,
    "prefetching": None,
}


class WayExtension(SchemaExtension):
    """Load in the way that the context names. To stand before `DataLoaderExtension`."""

    def on_operation(self) -> Iterator[None]:
        context: AtlasContext = self.execution_context.context
        way = WAYS[context.way]
        if way is None:
            yield
            return
        scope = OtherScope(context, way)
        scope.activate()
        try:
            yield
        finally:
            scope.deactivate()
            scope.close()


# Any, below: which types belong together, the factories know.
Factory = LoaderFactory[Any, Any] | ArgsLoaderFactory[Any, Any, Any]


class OtherScope(LoaderScope):
    """Be a scope whose loaders are made in another way than ours."""

    def __init__(self, context: AtlasContext, way: Way) -> None:
        super().__init__(context)
        self._way = way
        self._others: dict[Hashable, Loading[Any, Any]] = {}

    def __getitem__(self, factory: Any) -> Any:
        if isinstance(factory, ArgsLoaderFactory):
            return lambda args: self._loader(factory, args)
        return self._loader(factory)

    def reset(self) -> None:
        self._others.clear()

    def _loader(self, factory: Factory, *args: Hashable) -> Loading[Any, Any]:
        key = (factory, *args)
        if key not in self._others:
            self._others[key] = self._way(in_key_order(factory, self.context, *args))
        return self._others[key]


# What rows are grouped by: the batch functions of groups give flat rows.
BY: dict[Factory, str] = {
    graph.countries_of_continents: "continent_code",
    graph.countries_of_currencies: "currency_code",
    graph.largest_cities_of_countries: "country_code",
}


def in_key_order(
    factory: Factory, context: AtlasContext, *args: object
) -> BatchFunction[Any, object]:
    """Return the factory's batch function as other loaders want it: one value for each key."""
    source = context.database if isinstance(factory, SharedLoaderFactory) else context
    by = BY.get(factory)

    async def load(keys: list[Any]) -> Sequence[object]:
        found = await factory.load_fn(keys, source, *args)
        if by is not None:
            groups = defaultdict[Any, list[object]](list)
            for row in found:
                groups[getattr(row, by)].append(row)
            return [groups[key] for key in keys]
        if isinstance(found, Mapping):
            return [found.get(key) for key in keys]
        values: Sequence[object] = found
        return values

    return load
