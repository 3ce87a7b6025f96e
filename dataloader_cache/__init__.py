"""Batch loading and result caching for GraphQL servers and any other asyncio program."""

from ._loader import DataLoader
from ._stats import LoaderStats

__all__ = ["DataLoader", "LoaderStats", "__version__"]

__version__ = "0.1.0"
