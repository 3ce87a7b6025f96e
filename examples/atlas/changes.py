"""Who follows which city, to be told when it has changed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator

__all__ = ["Changes"]


class Changes:
    """Tell the followers of a city, in this process, that it has changed; lives with its database.

    What is told is that there is something new to read, and not what: each follower reads it with
    its own rights, and one that is slow skips what has been overwritten meanwhile.
    """

    def __init__(self) -> None:
        self._followers: defaultdict[int, set[asyncio.Event]] = defaultdict(set)

    def publish(self, city_id: int) -> None:
        """Tell them; call it after the commit, or they read what was there before."""
        for changed in self._followers.get(city_id, ()):
            changed.set()

    async def follow(self, city_id: int) -> AsyncGenerator[None, None]:
        """Give a first signal at once, and another one after each change."""
        changed = asyncio.Event()
        self._followers[city_id].add(changed)
        try:
            while True:
                yield
                await changed.wait()
                changed.clear()
        finally:
            self._followers[city_id].discard(changed)
            if not self._followers[city_id]:
                del self._followers[city_id]

    def followers(self, city_id: int) -> int:
        """Count those who follow a city."""
        return len(self._followers.get(city_id, ()))
