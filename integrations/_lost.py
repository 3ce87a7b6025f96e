"""Close the scope of a response that nobody has begun to read.

A generator that was never started runs none of its code when it is closed or lost, so what it
would do at its end is done here.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator
from typing import Any

from dataloader_cache import LoaderScope

__all__ = ["close_when_lost"]


def close_when_lost(parts: AsyncGenerator[Any, Any], scope: LoaderScope) -> None:
    """Close the scope, in the running loop, when the generator is gone and hasn't done so."""
    # A weak reference, since the scope's variables may lead to the generator.
    loop = asyncio.get_running_loop()
    weakref.finalize(parts, _close_soon, loop, weakref.ref(scope)).atexit = False


def _close_soon(loop: asyncio.AbstractEventLoop, reference: weakref.ref[LoaderScope]) -> None:
    scope = reference()
    # The collector runs in any thread.
    if scope is not None and not scope.is_closed and not loop.is_closed():
        loop.call_soon_threadsafe(scope.close)
