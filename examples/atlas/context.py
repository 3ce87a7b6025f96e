"""What resolvers reach through `info.context`: the loaders of this request, and who asks."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from examples.atlas import loaders
from examples.atlas.database import Database, Sessions
from examples.atlas.tally import Tally
from examples.atlas.ways import Loading, Way

__all__ = ["AtlasContext", "Loaders", "make_context"]

K = TypeVar("K")
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class Loaders:
    """Hold the loaders of one request.

    They are made anew for each: what a loader remembers would be stale in the next request, and
    may not be meant for whoever sends it.
    """

    def __init__(self, sessions: Sessions, way: Way, tally: Tally) -> None:
        def make(load_fn: _LoadFunction[K, V]) -> Loading[K, V]:
            return way(tally.counted(load_fn.__name__, partial(load_fn, sessions)))

        self.continents = make(loaders.continents)
        self.countries = make(loaders.countries)
        self.currencies = make(loaders.currencies)
        self.time_zones = make(loaders.time_zones)
        self.capitals = make(loaders.capitals)
        self.countries_of_continents = make(loaders.countries_of_continents)
        self.countries_of_currencies = make(loaders.countries_of_currencies)
        self.neighbours = make(loaders.neighbours)
        self.largest_cities = make(loaders.largest_cities)


@dataclass(frozen=True)
class AtlasContext:
    """Be `info.context`: made for one request by `make_context`, and gone with it."""

    sessions: Sessions
    loaders: Loaders
    tally: Tally
    guest: bool = False


def make_context(database: Database, way: Way, *, guest: bool = False) -> AtlasContext:
    """Return the context of one request, which loads in the given way."""
    tally = Tally()
    sessions = database.sessions(tally)
    return AtlasContext(sessions, Loaders(sessions, way, tally), tally, guest)


class _LoadFunction(Protocol[K, V_co]):
    """A batch function of `loaders.py`, which wants its sessions."""

    __name__: str

    def __call__(self, sessions: Sessions, keys: list[K], /) -> Awaitable[Sequence[V_co]]: ...
