"""The batch functions: each answers all its keys, in their order, with one SQL statement.

They are plain functions of a session maker and a list of keys, so that they can be tried without
a server, and so that anything which calls batch functions can call them.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from sqlalchemy import func, select

from examples.atlas.database import Sessions
from examples.atlas.models import (
    Capital,
    City,
    Continent,
    Country,
    Currency,
    Neighbour,
    TimeZone,
)

__all__ = [
    "CitiesKey",
    "capitals",
    "continents",
    "countries",
    "countries_of_continents",
    "countries_of_currencies",
    "currencies",
    "largest_cities",
    "neighbours",
    "time_zones",
]

K = TypeVar("K")
V = TypeVar("V")


class CitiesKey(NamedTuple):
    """Ask for the `limit` largest cities of a country."""

    country_code: str
    limit: int


async def continents(sessions: Sessions, codes: list[str]) -> list[Continent | None]:
    """Load continents by code."""
    async with sessions() as session:
        rows = await session.scalars(select(Continent).where(Continent.code.in_(codes)))
        return list(map({row.code: row for row in rows}.get, codes))


async def countries(sessions: Sessions, codes: list[str]) -> list[Country | None]:
    """Load countries by code."""
    async with sessions() as session:
        rows = await session.scalars(select(Country).where(Country.code.in_(codes)))
        return list(map({row.code: row for row in rows}.get, codes))


async def currencies(sessions: Sessions, codes: list[str]) -> list[Currency | None]:
    """Load currencies by code."""
    async with sessions() as session:
        rows = await session.scalars(select(Currency).where(Currency.code.in_(codes)))
        return list(map({row.code: row for row in rows}.get, codes))


async def time_zones(sessions: Sessions, ids: list[int]) -> list[TimeZone | None]:
    """Load time zones by id."""
    async with sessions() as session:
        rows = await session.scalars(select(TimeZone).where(TimeZone.id.in_(ids)))
        return list(map({row.id: row for row in rows}.get, ids))


async def capitals(sessions: Sessions, country_codes: list[str]) -> list[City | None]:
    """Load the capital of each country, or `None` where it has none."""
    query = (
        select(City)
        .join(Capital, Capital.city_id == City.id)
        .where(Capital.country_code.in_(country_codes))
    )
    async with sessions() as session:
        rows = await session.scalars(query)
        return list(map({row.country_code: row for row in rows}.get, country_codes))


async def countries_of_continents(sessions: Sessions, codes: list[str]) -> list[list[Country]]:
    """Load the countries of each continent, by code."""
    query = select(Country).where(Country.continent_code.in_(codes)).order_by(Country.code)
    async with sessions() as session:
        rows = await session.scalars(query)
        return _grouped(codes, ((row.continent_code, row) for row in rows))


async def countries_of_currencies(sessions: Sessions, codes: list[str]) -> list[list[Country]]:
    """Load the countries that pay in each currency, by code."""
    query = select(Country).where(Country.currency_code.in_(codes)).order_by(Country.code)
    async with sessions() as session:
        rows = await session.scalars(query)
        return _grouped(codes, ((row.currency_code, row) for row in rows))


async def neighbours(sessions: Sessions, country_codes: list[str]) -> list[list[Country]]:
    """Load the neighbours of each country, by code."""
    query = (
        select(Neighbour.country_code, Country)
        .join(Country, Country.code == Neighbour.neighbour_code)
        .where(Neighbour.country_code.in_(country_codes))
        .order_by(Country.code)
    )
    async with sessions() as session:
        rows = await session.execute(query)
        return _grouped(country_codes, ((code, row) for code, row in rows))


async def largest_cities(sessions: Sessions, keys: list[CitiesKey]) -> list[list[City]]:
    """Load the largest cities of each country, the largest first.

    A `LIMIT` would hold for the batch as a whole, and leave the second country with none. Ranking
    the cities within their country limits each country alone; where the keys of a batch have
    different limits, the database ranks to the largest of them.
    """
    rank = func.row_number().over(
        partition_by=City.country_code, order_by=(City.population.desc(), City.id)
    )
    ranked = (
        select(City.id, rank.label("rank"))
        .where(City.country_code.in_({key.country_code for key in keys}))
        .subquery()
    )
    query = (
        select(City)
        .join(ranked, ranked.c.id == City.id)
        .where(ranked.c.rank <= max(key.limit for key in keys))
        .order_by(ranked.c.rank)
    )
    async with sessions() as session:
        rows = await session.scalars(query)
        cities = defaultdict[str, list[City]](list)
        for row in rows:
            cities[row.country_code].append(row)
        return [cities[key.country_code][: key.limit] for key in keys]


def _grouped(keys: list[K], pairs: Iterable[tuple[K | None, V]]) -> list[list[V]]:
    groups = defaultdict[K | None, list[V]](list)
    for key, value in pairs:
        groups[key].append(value)
    return [groups[key] for key in keys]
