"""The GraphQL schema: where queries begin, what can be written, and what can be followed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import strawberry
from graphql.execution import Executor
from sqlalchemy import select

from dataloader_cache.integrations.strawberry import (
    DataLoaderExtension,
    PrefetchingExecutionContext,
)
from examples.atlas import graph, models
from examples.atlas.context import AtlasContext
from examples.atlas.graph import City, Continent, Country, First
from examples.atlas.permissions import MembersOnly
from examples.atlas.tally import TallyExtension
from examples.atlas.ways import WayExtension
from examples.atlas.writing import set_population

__all__ = ["schema", "schema_for"]

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


@strawberry.type
class PopulationSet:
    """What a change has done."""

    city_id: strawberry.Private[int]
    previous_population: int

    @strawberry.field(description="The city as it is now.")  # type: ignore[untyped-decorator]
    async def city(self) -> City | None:
        return await graph.cities.load(self.city_id)


@strawberry.type
class Mutation:
    @strawberry.mutation(permission_classes=[MembersOnly])  # type: ignore[untyped-decorator]
    async def set_population(self, info: Info, city_id: int, population: int) -> PopulationSet:
        # Loaded before the change. The payload reads the city anew all the same, because
        # DataLoaderExtension forgets what was loaded when a mutation has ended.
        city = await graph.cities.load(city_id)
        if city is None:
            raise ValueError(f"there is no city with the id {city_id}")
        await set_population(info.context, city_id, population)
        return PopulationSet(city_id=city_id, previous_population=city.population)


@strawberry.type
class Subscription:
    @strawberry.subscription(  # type: ignore[untyped-decorator]
        description="The city as it is now, and after each change of it."
    )
    async def city(
        self,
        info: Info,
        id: int,  # noqa: A002 - the name in GraphQL
    ) -> AsyncGenerator[City | None, None]:
        # Nothing here forgets what the last event loaded: DataLoaderExtension does.
        async with aclosing(info.context.database.changes.follow(id)) as signals:
            async for _ in signals:
                yield await graph.cities.load(id)


def make_schema(executor: type[Executor[Any]] | None = None) -> strawberry.Schema:
    return strawberry.Schema(
        Query,
        Mutation,
        Subscription,
        extensions=[TallyExtension, WayExtension, DataLoaderExtension],
        execution_context_class=executor,
    )


schema = make_schema()
prefetching_schema = make_schema(PrefetchingExecutionContext)


def schema_for(way: str) -> strawberry.Schema:
    """Return the schema for one of `ways.WAYS`: the same one, but for who executes it."""
    return prefetching_schema if way == "prefetching" else schema
