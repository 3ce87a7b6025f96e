"""Who may see what."""

import asyncio
from typing import Any

import strawberry
from strawberry.permission import BasePermission

from examples.atlas.context import AtlasContext

__all__ = ["MembersOnly"]


class MembersOnly(BasePermission):
    """Refuse guests, after asking for each object or for a mutation.

    A real check asks a cache or a policy service, and is answered sooner for some objects than
    for others. Here it waits for zero to four ticks of the event loop, so that the loads behind it
    start unevenly.
    """

    message = "Only members may see this."

    async def has_permission(
        self, source: Any, info: strawberry.Info[AtlasContext, None], **kwargs: Any
    ) -> bool:
        for _ in range(len(getattr(source, "name", "")) % 5):
            await asyncio.sleep(0)
        return not info.context.guest
