"""What resolvers and batch functions know of the request: its sessions, and who asks."""

from __future__ import annotations

from dataclasses import dataclass

from examples.atlas.database import Database, Sessions
from examples.atlas.tally import Tally

__all__ = ["AtlasContext", "make_context"]


@dataclass(frozen=True)
class AtlasContext:
    """Be `info.context`, and the second parameter of batch functions; lives for one request.

    No loaders are in here: `DataLoaderExtension` opens a scope for each operation, and the
    factories in `graph.py` find theirs in it.
    """

    database: Database
    sessions: Sessions
    tally: Tally
    way: str = "dataloader_cache"
    guest: bool = False


def make_context(
    database: Database, *, way: str = "dataloader_cache", guest: bool = False
) -> AtlasContext:
    """Return the context of one request, which loads in the given one of `ways.WAYS`."""
    tally = Tally()
    return AtlasContext(database, database.counting(tally), tally, way, guest)
