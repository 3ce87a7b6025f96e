"""The types of the graph, and the loaders that make them.

They stand in one module because they need each other: a type names the loaders that follow its
keys, and a loader makes instances of the type. Each batch function is one SQL statement.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated

import strawberry
from sqlalchemy import func, select

from dataloader_cache import dataloader, group_dataloader
from dataloader_cache.integrations.strawberry import load_from
from examples.atlas import models
from examples.atlas.context import AtlasContext
from examples.atlas.database import Database
from examples.atlas.permissions import MembersOnly
from examples.atlas.tally import counted

__all__ = [
    "SHARED",
    "City",
    "Continent",
    "Country",
    "Currency",
    "First",
    "Largest",
    "TimeZone",
    "capitals",
    "cities",
    "continents",
    "countries",
    "countries_of_continents",
    "countries_of_currencies",
    "currencies",
    "largest_cities_of_countries",
    "neighbours_of_countries",
    "time_zones",
]

First = Annotated[int, strawberry.argument(description="How many at most, the largest first.")]

AN_HOUR = 3600.0


@dataloader
@counted
async def continents(codes: list[str], context: AtlasContext) -> dict[str, Continent]:
    """Load continents by code."""
    query = select(models.Continent).where(models.Continent.code.in_(codes))
    async with context.sessions() as session:
        return {row.code: Continent.of(row) for row in await session.scalars(query)}


@dataloader
@counted
async def countries(codes: list[str], context: AtlasContext) -> dict[str, Country]:
    """Load countries by code."""
    query = select(models.Country).where(models.Country.code.in_(codes))
    async with context.sessions() as session:
        return {row.code: Country.of(row) for row in await session.scalars(query)}


@dataloader
@counted
async def cities(ids: list[int], context: AtlasContext) -> dict[int, City]:
    """Load cities by id."""
    query = select(models.City).where(models.City.id.in_(ids))
    async with context.sessions() as session:
        return {row.id: City.of(row) for row in await session.scalars(query)}


@dataloader
@counted
async def capitals(country_codes: list[str], context: AtlasContext) -> dict[str, City]:
    """Load the capital of each country."""
    query = (
        select(models.City)
        .join(models.Capital, models.Capital.city_id == models.City.id)
        .where(models.Capital.country_code.in_(country_codes))
    )
    async with context.sessions() as session:
        return {row.country_code: City.of(row) for row in await session.scalars(query)}


@group_dataloader(by="continent_code")
@counted
async def countries_of_continents(codes: list[str], context: AtlasContext) -> list[Country]:
    """Load the countries of each continent, by code."""
    query = (
        select(models.Country)
        .where(models.Country.continent_code.in_(codes))
        .order_by(models.Country.code)
    )
    async with context.sessions() as session:
        return list(map(Country.of, await session.scalars(query)))


@group_dataloader(by="currency_code")
@counted
async def countries_of_currencies(codes: list[str], context: AtlasContext) -> list[Country]:
    """Load the countries that pay in each currency, by code."""
    query = (
        select(models.Country)
        .where(models.Country.currency_code.in_(codes))
        .order_by(models.Country.code)
    )
    async with context.sessions() as session:
        return list(map(Country.of, await session.scalars(query)))


@dataloader
@counted
async def neighbours_of_countries(codes: list[str], context: AtlasContext) -> list[list[Country]]:
    """Load the neighbours of each country, by code.

    A country is the neighbour of several, so no attribute of it could say of which: this is no
    `@group_dataloader`.
    """
    query = (
        select(models.Neighbour.country_code, models.Country)
        .join(models.Country, models.Country.code == models.Neighbour.neighbour_code)
        .where(models.Neighbour.country_code.in_(codes))
        .order_by(models.Country.code)
    )
    neighbours = defaultdict[str, list[Country]](list)
    async with context.sessions() as session:
        for code, row in await session.execute(query):
            neighbours[code].append(Country.of(row))
    return [neighbours[code] for code in codes]


@dataclass(frozen=True)
class Largest:
    """Ask for the `first` largest cities of each country."""

    first: int


def largest(first: First = 5) -> Largest:
    """Make the args of the field's argument."""
    return Largest(max(first, 0))


@group_dataloader(by="country_code", args=Largest)
@counted
async def largest_cities_of_countries(
    codes: list[str], context: AtlasContext, args: Largest
) -> list[City]:
    """Load the largest cities of each country, the largest first.

    A `LIMIT` would hold for the batch as a whole, and leave the second country with none. Ranking
    the cities within their country limits each country alone.
    """
    rank = func.row_number().over(
        partition_by=models.City.country_code,
        order_by=(models.City.population.desc(), models.City.id),
    )
    ranked = (
        select(models.City.id, rank.label("rank"))
        .where(models.City.country_code.in_(codes))
        .subquery()
    )
    query = (
        select(models.City)
        .join(ranked, ranked.c.id == models.City.id)
        .where(ranked.c.rank <= args.first)
        .order_by(ranked.c.rank)
    )
    async with context.sessions() as session:
        return list(map(City.of, await session.scalars(query)))


def database_of(context: AtlasContext) -> Database:
    """Say what reference data depend on: the database that they come from, and not who asks."""
    return context.database


@dataloader.shared(ttl=AN_HOUR, vary=database_of)
@counted
async def currencies(codes: list[str], database: Database) -> dict[str, Currency]:
    """Load currencies by code, for all requests."""
    query = select(models.Currency).where(models.Currency.code.in_(codes))
    async with database.sessions() as session:
        return {row.code: Currency.of(row) for row in await session.scalars(query)}


@dataloader.shared(ttl=AN_HOUR, vary=database_of)
@counted
async def time_zones(ids: list[int], database: Database) -> dict[int, TimeZone]:
    """Load time zones by id, for all requests."""
    query = select(models.TimeZone).where(models.TimeZone.id.in_(ids))
    async with database.sessions() as session:
        return {row.id: TimeZone.of(row) for row in await session.scalars(query)}


SHARED = (currencies, time_zones)
"""What stays in memory from one request to the next."""


@strawberry.type
class Continent:
    code: str
    name: str
    countries: list[Country] = load_from(countries_of_continents, by="code")

    @staticmethod
    def of(row: models.Continent) -> Continent:
        return Continent(code=row.code, name=row.name)


@strawberry.type
class Country:
    code: str
    name: str
    population: int
    continent_code: strawberry.Private[str]
    currency_code: strawberry.Private[str | None]
    continent: Continent | None = load_from(continents, by="continent_code")
    currency: Currency | None = load_from(
        currencies, by="currency_code", permission_classes=[MembersOnly]
    )
    capital: City | None = load_from(capitals, by="code")
    neighbours: list[Country] = load_from(neighbours_of_countries, by="code")
    largest_cities: list[City] = load_from(largest_cities_of_countries, by="code", args=largest)

    @staticmethod
    def of(row: models.Country) -> Country:
        return Country(
            code=row.code,
            name=row.name,
            population=row.population,
            continent_code=row.continent_code,
            currency_code=row.currency_code,
        )


@strawberry.type
class Currency:
    code: str
    name: str
    countries: list[Country] = load_from(countries_of_currencies, by="code")

    @staticmethod
    def of(row: models.Currency) -> Currency:
        return Currency(code=row.code, name=row.name)


@strawberry.type
class City:
    id: int
    name: str
    population: int
    latitude: float
    longitude: float
    country_code: strawberry.Private[str]
    time_zone_id: strawberry.Private[int]
    country: Country | None = load_from(countries, by="country_code")
    time_zone: TimeZone | None = load_from(
        time_zones, by="time_zone_id", permission_classes=[MembersOnly]
    )

    @staticmethod
    def of(row: models.City) -> City:
        return City(
            id=row.id,
            name=row.name,
            population=row.population,
            latitude=row.latitude,
            longitude=row.longitude,
            country_code=row.country_code,
            time_zone_id=row.time_zone_id,
        )


@strawberry.type
class TimeZone:
    name: str

    @staticmethod
    def of(row: models.TimeZone) -> TimeZone:
        return TimeZone(name=row.name)
