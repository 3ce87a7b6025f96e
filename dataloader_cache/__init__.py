"""Batch loading and result caching for GraphQL servers and any other asyncio program."""

from ._arguments import UNSET
from ._cache import AsyncCache, WarmupResult
from ._decorators import AsyncLRU, AsyncTTL
from ._loader import DataLoader
from ._stats import CacheStats, LoaderStats

__all__ = [
    "UNSET",
    "AsyncCache",
    "AsyncLRU",
    "AsyncTTL",
    "CacheStats",
    "DataLoader",
    "LoaderStats",
    "WarmupResult",
    "__version__",
]

__version__ = "0.1.0"
