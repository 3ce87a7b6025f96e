"""The GraphQL schema: where queries begin."""

from __future__ import annotations

import strawberry
from sqlalchemy import select

from dataloader_cache.integrations.strawberry import DataLoaderExtension
from examples.atlas import graph, models
from examples.atlas.context import AtlasContext
from examples.atlas.graph import City, Continent, Country, First
from examples.atlas.tally import TallyExtension
from examples.atlas.ways import WayExtension

__all__ = ["schema"]

Info = strawberry.Info[AtlasContext, None]


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
    async def country(self, code: str) -> Country | None:
        return await graph.countries.load(code)

    @strawberry.field
    async def city(self, id: int) -> City | None:  # noqa: A002 - the name in GraphQL
        return await graph.cities.load(id)


schema = strawberry.Schema(
    Query,
    extensions=[TallyExtension, WayExtension, DataLoaderExtension],
)
