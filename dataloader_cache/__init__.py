"""Batch loading and result caching for GraphQL servers and any other asyncio program."""

from ._arguments import UNSET
from ._cache import AsyncCache, WarmupResult
from ._declare import dataloader, group_dataloader
from ._decorators import AsyncLRU, AsyncTTL
from ._factory import (
    ArgsLoaderFactory,
    ArgsLoaders,
    LoaderFactory,
    SharedArgsLoaderFactory,
    SharedLoaderFactory,
)
from ._loader import DataLoader
from ._scope import LoaderScope, per_event
from ._stats import CacheStats, LoaderStats

__all__ = [
    "UNSET",
    "ArgsLoaderFactory",
    "ArgsLoaders",
    "AsyncCache",
    "AsyncLRU",
    "AsyncTTL",
    "CacheStats",
    "DataLoader",
    "LoaderFactory",
    "LoaderScope",
    "LoaderStats",
    "SharedArgsLoaderFactory",
    "SharedLoaderFactory",
    "WarmupResult",
    "__version__",
    "dataloader",
    "group_dataloader",
    "per_event",
]

__version__ = "0.1.0"
