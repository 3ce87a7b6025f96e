"""When which key expires, in buckets of one second, so that a sweep looks at no other key."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Iterator

__all__ = ["ExpiryBuckets"]


class ExpiryBuckets:
    """Name the keys whose time may be over.

    A key whose time has changed, or that was taken out, stays in its old bucket; who asks
    compares. So that such leftovers stay fewer than the keys, `is_untidy` says when to rebuild.
    """

    __slots__ = ("_buckets", "_count", "_seconds")

    def __init__(self) -> None:
        self._buckets: dict[int, list[Hashable]] = {}
        self._seconds: list[int] = []
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def add(self, key: Hashable, moment: float) -> None:
        """Put a key into the bucket of the next full second at or after `moment`."""
        second = math.ceil(moment)
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = []
            heapq.heappush(self._seconds, second)
        bucket.append(key)
        self._count += 1

    def first_end(self) -> float:
        """Give the moment at which the first bucket is over."""
        return float(self._seconds[0])

    def take_due(self, now: float, most: int) -> Iterator[Hashable]:
        """Take out keys of the buckets that are over, at most so many."""
        while most > 0 and self._seconds and now >= self.first_end():
            bucket = self._buckets[self._seconds[0]]
            while bucket and most > 0:
                most -= 1
                self._count -= 1
                yield bucket.pop()
            if not bucket:
                del self._buckets[heapq.heappop(self._seconds)]

    def is_untidy(self, live: int) -> bool:
        """Tell whether most of what stands here is left over."""
        return self._count > 2 * live + 64

    def rebuild(self, moments: Iterable[tuple[Hashable, float]]) -> None:
        """Start anew with these keys and moments."""
        self.clear()
        for key, moment in moments:
            self.add(key, moment)

    def clear(self) -> None:
        """Forget every key."""
        self._buckets.clear()
        self._seconds.clear()
        self._count = 0
