"""The three ways of loading that the atlas compares.

Each takes the same batch functions, so that they differ in one thing only: which keys they put
into one call.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

import strawberry.dataloader

import dataloader_cache

__all__ = ["WAYS", "BatchFunction", "Loading", "Way"]

K = TypeVar("K")
V = TypeVar("V")
K_contra = TypeVar("K_contra", contravariant=True)
V_co = TypeVar("V_co", covariant=True)

BatchFunction = Callable[[list[K]], Awaitable[Sequence[V]]]


class Loading(Protocol[K_contra, V_co]):
    """What resolvers see of a way of loading; lives as long as the request."""

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


def with_dataloader_cache(load_fn: BatchFunction[K, V], /) -> Loading[K, V]:
    return dataloader_cache.DataLoader(load_fn)


WAYS: dict[str, Way] = {
    "plain": plain,
    "strawberry": with_strawberry,
    "dataloader_cache": with_dataloader_cache,
}
