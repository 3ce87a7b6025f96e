"""The types that users meet in signatures, and the protocols that they may implement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, TypeVar

__all__ = ["CacheKeyFn", "Limiter", "MappingLoadFn", "SequenceLoadFn"]

_K = TypeVar("_K")
_V = TypeVar("_V")

SequenceLoadFn: TypeAlias = Callable[[list[_K]], Awaitable[Sequence[_V | BaseException]]]
"""A batch function that returns one value, or one error, for each key in key order."""

MappingLoadFn: TypeAlias = Callable[[list[_K]], Awaitable[Mapping[_K, _V | BaseException]]]
"""A batch function that returns a mapping from key to value or error."""

CacheKeyFn: TypeAlias = Callable[[_K], Hashable]
"""What makes a hashable key of one that is not, or that should count as equal to another."""

# Any: what a limiter gives on entry is never looked at, and __aexit__'s result neither.
Limiter: TypeAlias = AbstractAsyncContextManager[Any, Any]
"""Any async context manager that can be entered many times: `asyncio.Semaphore`, `asyncio.Lock`."""
