"""What loaders and caches count, and the listeners that see each batch as it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["CacheStats", "Histogram", "LoaderStats", "batch_listeners"]

_GROWTH = 1.1


@dataclass(frozen=True)
class LoaderStats:
    """Hold what one `DataLoader` has counted up to the moment it was asked.

    Attributes:
        loads: Keys asked for by `load` and `load_many`: hits, joins, and keys put in a batch.
        hits: Loads answered by the memo.
        joins: Loads that joined a flight which another load had started.
        batches: Batches sent to the batch function.
        keys: Keys sent, over all batches.
        errors: Keys settled with an error.
        cancelled: Loads whose caller went away before the key was settled.
        largest_batch: Keys in the largest batch sent.
    """

    loads: int = 0
    hits: int = 0
    joins: int = 0
    batches: int = 0
    keys: int = 0
    errors: int = 0
    cancelled: int = 0
    largest_batch: int = 0


batch_listeners: list[Callable[[str, list[Any]], None]] = []
"""Called with the loader's name and a list of the keys whenever a batch is sent."""


@dataclass(frozen=True)
class CacheStats:
    """Hold what one `AsyncCache` has counted since it was made or cleared.

    Attributes:
        hits: Calls answered by a fresh value.
        misses: Calls that did not find one, also those that joined a load or got a stale value.
        joins: Misses that joined a load in progress.
        loads: Calls of a loader or batch loader.
        load_errors: Keys whose load failed, or took too long.
        load_timeouts: Keys whose load exceeded `load_timeout`.
        stale_hits: Misses answered with an expired value.
        refreshes: Loads started for a key that had a fresh value.
        evictions: Entries that left by themselves: for room or for age.
        evicted_for_room: Entries that left because others needed their place.
        evicted_for_age: Entries that were freed after they had expired.
        size: Entries now.
        hit_rate: Hits over hits and misses; 0.0 before the first call.
        load_time_mean: Seconds a successful load took, on average.
        load_time_p50: Seconds that half of the loads took at most, to within a tenth.
        load_time_p99: Seconds that 99 of 100 loads took at most, to within a tenth.
    """

    hits: int = 0
    misses: int = 0
    joins: int = 0
    loads: int = 0
    load_errors: int = 0
    load_timeouts: int = 0
    stale_hits: int = 0
    refreshes: int = 0
    evictions: int = 0
    evicted_for_room: int = 0
    evicted_for_age: int = 0
    size: int = 0
    hit_rate: float = 0.0
    load_time_mean: float = 0.0
    load_time_p50: float = 0.0
    load_time_p99: float = 0.0


class Histogram:
    """Count durations in buckets that grow by a tenth each, for percentiles of any range."""

    __slots__ = ("_buckets", "_count", "_total")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._count = 0
        self._total = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        index = math.ceil(math.log(max(seconds, 1e-9), _GROWTH))
        self._buckets[index] = self._buckets.get(index, 0) + 1
        self._count += 1
        self._total += seconds

    def mean(self) -> float:
        """Give the average, 0.0 where nothing was counted."""
        return self._total / self._count if self._count else 0.0

    def percentile(self, share: float) -> float:
        """Give the upper end of the bucket that the `share`-th duration lies in."""
        left = share * self._count
        for index in sorted(self._buckets):
            left -= self._buckets[index]
            if left <= 0:
                return float(_GROWTH**index)
        return 0.0
