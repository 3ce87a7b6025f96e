"""The GraphQL schema, written once: no resolver knows in which way it loads."""

from __future__ import annotations

from typing import Annotated

import strawberry
from sqlalchemy import select

from examples.atlas import models
from examples.atlas.context import AtlasContext
from examples.atlas.loaders import CitiesKey
from examples.atlas.permissions import MembersOnly
from examples.atlas.tally import TallyExtension

__all__ = ["schema"]

Info = strawberry.Info[AtlasContext, None]
First = Annotated[int, strawberry.argument(description="How many at most, the largest first.")]


@strawberry.type
class Continent:
    code: str
    name: str

    @staticmethod
    def of(row: models.Continent) -> Continent:
        return Continent(code=row.code, name=row.name)

    @strawberry.field
    async def countries(self, info: Info) -> list[Country]:
        rows = await info.context.loaders.countries_of_continents.load(self.code)
        return list(map(Country.of, rows))


@strawberry.type
class Country:
    code: str
    name: str
    population: int
    continent_code: strawberry.Private[str]
    currency_code: strawberry.Private[str | None]

    @staticmethod
    def of(row: models.Country) -> Country:
        return Country(
            code=row.code,
            name=row.name,
            population=row.population,
            continent_code=row.continent_code,
            currency_code=row.currency_code,
        )

    @strawberry.field
    async def continent(self, info: Info) -> Continent | None:
        row = await info.context.loaders.continents.load(self.continent_code)
        return Continent.of(row) if row else None

    @strawberry.field(permission_classes=[MembersOnly])  # type: ignore[untyped-decorator]
    async def currency(self, info: Info) -> Currency | None:
        if self.currency_code is None:
            return None
        row = await info.context.loaders.currencies.load(self.currency_code)
        return Currency.of(row) if row else None

    @strawberry.field
    async def capital(self, info: Info) -> City | None:
        row = await info.context.loaders.capitals.load(self.code)
        return City.of(row) if row else None

    @strawberry.field
    async def neighbours(self, info: Info) -> list[Country]:
        rows = await info.context.loaders.neighbours.load(self.code)
        return list(map(Country.of, rows))

    @strawberry.field
    async def largest_cities(self, info: Info, first: First = 5) -> list[City]:
        rows = await info.context.loaders.largest_cities.load(CitiesKey(self.code, max(first, 0)))
        return list(map(City.of, rows))


@strawberry.type
class Currency:
    code: str
    name: str

    @staticmethod
    def of(row: models.Currency) -> Currency:
        return Currency(code=row.code, name=row.name)

    @strawberry.field
    async def countries(self, info: Info) -> list[Country]:
        rows = await info.context.loaders.countries_of_currencies.load(self.code)
        return list(map(Country.of, rows))


@strawberry.type
class City:
    id: int
    name: str
    population: int
    latitude: float
    longitude: float
    country_code: strawberry.Private[str]
    time_zone_id: strawberry.Private[int]

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

    @strawberry.field
    async def country(self, info: Info) -> Country | None:
        row = await info.context.loaders.countries.load(self.country_code)
        return Country.of(row) if row else None

    @strawberry.field(permission_classes=[MembersOnly])  # type: ignore[untyped-decorator]
    async def time_zone(self, info: Info) -> TimeZone | None:
        row = await info.context.loaders.time_zones.load(self.time_zone_id)
        return TimeZone(name=row.name) if row else None


@strawberry.type
class TimeZone:
    name: str


@strawberry.type
class Query:
    @strawberry.field
    async def continents(self, info: Info) -> list[Continent]:
        query = select(models.Continent).order_by(models.Continent.code)
        async with info.context.sessions() as session:
            return list(map(Continent.of, await session.scalars(query)))

    @strawberry.field
    async def countries(self, info: Info, first: First = 250) -> list[Country]:
        query = (
            select(models.Country)
            .order_by(models.Country.population.desc(), models.Country.code)
            .limit(max(first, 0))
        )
        async with info.context.sessions() as session:
            return list(map(Country.of, await session.scalars(query)))

    @strawberry.field
    async def country(self, info: Info, code: str) -> Country | None:
        row = await info.context.loaders.countries.load(code)
        return Country.of(row) if row else None


schema = strawberry.Schema(Query, extensions=[TallyExtension])
