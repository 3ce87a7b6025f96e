"""The stores of a result cache: bounded maps that know which entry has to go next.

Pure data structures: no clock, no loop, no lock. Who changes a store holds the cache's lock;
reading `data[key]` needs none.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

__all__ = ["Entry", "LruStore", "S3FifoStore", "Store"]

# The share of the room that new entries have, and the most that hits count (Yang et al. 2023).
_SMALL_SHARE = 10
_MOST_USES = 3


class Entry:
    """Hold one value with its times, in seconds of the cache's clock.

    `fresh_until` is the moment up to which a hit needs nothing but the value: it is before
    `expires_at` where hits near the end start a refresh.
    """

    __slots__ = ("expires_at", "fresh_until", "tags", "value")

    def __init__(
        self, value: object, fresh_until: float, expires_at: float, tags: tuple[Hashable, ...]
    ) -> None:
        self.value: Any = value
        self.fresh_until = fresh_until
        self.expires_at = expires_at
        self.tags = tags


class Store(Protocol):
    """A map of at most `maxsize` entries."""

    data: dict[Any, Any]

    @property
    def touch(self) -> Callable[[Any], None] | None:
        """Note a hit of a key; a KeyError tells that another thread took the entry out.

        None where a hit is noted by adding one to its entry's `uses`, without a call.
        """
        ...

    def put(
        self,
        key: Hashable,
        value: object,
        fresh_until: float,
        expires_at: float,
        tags: tuple[Hashable, ...],
    ) -> Sequence[tuple[Hashable, Entry]]:
        """Add an entry for a key that has none; give the entries that had to go for it."""
        ...

    def remove(self, key: Hashable) -> Entry | None:
        """Take out an entry."""

    def clear(self) -> None:
        """Take out all."""


class LruStore:
    """Keep the entries that were used last; evict the least recently used one."""

    def __init__(self, maxsize: int | None) -> None:
        self._ordered: OrderedDict[Any, Entry] = OrderedDict()
        self.data: dict[Any, Any] = self._ordered
        # The method itself, since one of our own around it would cost as much again.
        self.touch: Callable[[Any], None] = self._ordered.move_to_end
        self._maxsize = maxsize

    def put(
        self,
        key: Hashable,
        value: object,
        fresh_until: float,
        expires_at: float,
        tags: tuple[Hashable, ...],
    ) -> Sequence[tuple[Hashable, Entry]]:
        """Add an entry for a key that has none; give the entries that had to go for it."""
        evicted: list[tuple[Hashable, Entry]] = []
        if self._maxsize is not None:
            while len(self._ordered) >= self._maxsize:
                evicted.append(self._ordered.popitem(last=False))
        self._ordered[key] = Entry(value, fresh_until, expires_at, tags)
        return evicted

    def remove(self, key: Hashable) -> Entry | None:
        """Take out an entry."""
        return self._ordered.pop(key, None)

    def clear(self) -> None:
        """Take out all."""
        self._ordered.clear()


class _QueuedEntry(Entry):
    """Stand in one of two queues; `is_live` is False once it was taken out."""

    __slots__ = ("is_live", "is_main", "key", "uses")

    def __init__(
        self,
        value: object,
        fresh_until: float,
        expires_at: float,
        tags: tuple[Hashable, ...],
        key: Hashable,
        is_main: bool,
    ) -> None:
        super().__init__(value, fresh_until, expires_at, tags)
        self.key = key
        self.uses = 0
        self.is_main = is_main
        self.is_live = True


class S3FifoStore:
    """Keep what is used more than once; let what is used once pass through a small queue.

    S3-FIFO: Yang, Zhang, Qiu, Yue, Vinayak: "FIFO queues are all you need for cache eviction",
    SOSP 2023, algorithm 1. A hit only counts; nothing moves until there has to be room. How
    many hits count at most is seen to then as well, so that a hit costs next to nothing.
    """

    touch = None

    def __init__(self, maxsize: int | None) -> None:
        self.data: dict[Any, Any] = {}
        self._maxsize = maxsize
        self._small: deque[_QueuedEntry] = deque()
        self._main: deque[_QueuedEntry] = deque()
        self._live_small = 0
        self._live_main = 0
        # Keys that left the small queue unused; they go straight to the main one next time.
        self._ghosts: OrderedDict[Hashable, None] = OrderedDict()

    def put(
        self,
        key: Hashable,
        value: object,
        fresh_until: float,
        expires_at: float,
        tags: tuple[Hashable, ...],
    ) -> Sequence[tuple[Hashable, Entry]]:
        """Add an entry for a key that has none; give the entries that had to go for it."""
        evicted: list[tuple[Hashable, Entry]] = []
        if self._maxsize is not None:
            while len(self.data) >= self._maxsize:
                gone = self._evict(self._maxsize)
                evicted.append((gone.key, gone))
        is_main = key in self._ghosts
        if is_main:
            del self._ghosts[key]
        entry = _QueuedEntry(value, fresh_until, expires_at, tags, key, is_main)
        self._enqueue(entry)
        self.data[key] = entry
        return evicted

    def remove(self, key: Hashable) -> Entry | None:
        """Take out an entry."""
        entry: _QueuedEntry | None = self.data.pop(key, None)
        if entry is not None:
            # It may stay in its queue for a while, but not with the value. Readers take the value
            # before the times, so none of them takes this None for a fresh one.
            entry.is_live = False
            entry.fresh_until = entry.expires_at = float("-inf")
            entry.value = None
            if self._maxsize is not None:
                self._drop_dead(entry)
        return entry

    def clear(self) -> None:
        """Take out all."""
        self.data.clear()
        self._small.clear()
        self._main.clear()
        self._ghosts.clear()
        self._live_small = self._live_main = 0

    def _enqueue(self, entry: _QueuedEntry) -> None:
        if self._maxsize is None:
            return
        if entry.is_main:
            self._main.append(entry)
            self._live_main += 1
        else:
            self._small.append(entry)
            self._live_small += 1

    def _evict(self, maxsize: int) -> _QueuedEntry:
        while True:
            # Where the main queue is empty, the small one has all there is.
            if self._live_small * _SMALL_SHARE >= maxsize:
                entry = self._next(self._small)
                self._live_small -= 1
                if entry.uses > 1:
                    entry.uses = 0
                    entry.is_main = True
                    self._enqueue(entry)
                    continue
                self._ghosts[entry.key] = None
                # As many as the main queue has room for.
                if len(self._ghosts) > maxsize - maxsize // _SMALL_SHARE:
                    self._ghosts.popitem(last=False)
            else:
                entry = self._next(self._main)
                self._live_main -= 1
                if entry.uses:
                    entry.uses = min(entry.uses, _MOST_USES) - 1
                    self._enqueue(entry)
                    continue
            del self.data[entry.key]
            return entry

    @staticmethod
    def _next(queue: deque[_QueuedEntry]) -> _QueuedEntry:
        while True:
            entry = queue.popleft()
            if entry.is_live:
                return entry

    def _drop_dead(self, entry: _QueuedEntry) -> None:
        if entry.is_main:
            self._live_main -= 1
        else:
            self._live_small -= 1
        # What was taken out stays in its queue until it comes to its end; not for ever, though.
        if len(self._small) > 2 * self._live_small + 16:
            self._small = deque(entry for entry in self._small if entry.is_live)
        if len(self._main) > 2 * self._live_main + 16:
            self._main = deque(entry for entry in self._main if entry.is_live)
