"""The application: endpoints that load by key, in a scope for each request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Request
from rich.console import Console

from dataloader_cache.integrations.fastapi import loader_scope
from examples.atlas import graph
from examples.atlas.context import AtlasContext, make_context
from examples.atlas.database import Database
from examples.atlas.fill import fill_with_progress
from examples.atlas.writing import set_population
from examples.rest.answers import City, Country, city_of, countries_of, country_of

__all__ = ["make_app"]

T = TypeVar("T")


async def get_context(request: Request) -> AtlasContext:
    """Make the context of this request; FastAPI does it once, whoever asks."""
    database: Database = request.app.state.database
    return make_context(database, guest=request.headers.get("x-atlas-viewer") == "guest")


Context = Annotated[AtlasContext, Depends(get_context)]

# The one line that gives every endpoint its loaders.
router = APIRouter(dependencies=[Depends(loader_scope(get_context))])


@router.get("/countries")
async def read_countries(continent: str) -> list[Country]:
    """Show the countries of a continent, each with its currency, capital and neighbours."""
    return await countries_of(await graph.countries_of_continents.load(continent))


@router.get("/countries/{code}")
async def read_country(code: str) -> Country:
    """Show one country."""
    return await country_of(found(await graph.countries.load(code)))


@router.get("/countries/{code}/cities")
async def read_cities(code: str, first: int = 5) -> list[City]:
    """Show the largest cities of a country, the largest first."""
    largest = graph.Largest(max(first, 0))
    cities = await graph.largest_cities_of_countries.load(code, largest)
    return await asyncio.gather(*map(city_of, cities))


@router.get("/cities/{id}")
async def read_city(id: int) -> City:  # noqa: A002 - the name in the path
    """Show one city."""
    return await city_of(found(await graph.cities.load(id)))


@router.get("/cities/{id}/country")
async def read_country_of_city(id: int) -> Country:  # noqa: A002 - the name in the path
    """Show the country that a city lies in."""
    city = found(await graph.cities.load(id))
    return await country_of(found(await graph.countries.load(city.country_code)))


@router.put("/cities/{id}/population")
async def write_population(
    id: int,  # noqa: A002 - the name in the path
    population: Annotated[int, Body(ge=0)],
    context: Context,
) -> City:
    """Change the population of a city, and show the city as it is now."""
    if context.guest:
        raise HTTPException(403, "Only members may write this.")
    found(await graph.cities.load(id))
    await set_population(context, id, population)
    graph.cities.clear(id)  # it was loaded before the change
    return await city_of(found(await graph.cities.load(id)))


def found(value: T | None) -> T:
    """Return what was loaded, or answer that there is nothing."""
    if value is None:
        raise HTTPException(404)
    return value


def make_app(database: Database, *, min_population: int = 0) -> FastAPI:
    """Return the application, which fills the database when it starts and closes it when it ends.

    Args:
        database: Where the atlas is; made for this application alone.
        min_population: As for `read_dataset`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await fill_with_progress(database, Console(stderr=True), min_population=min_population)
            yield
        finally:
            await database.dispose()

    app = FastAPI(title="Atlas", lifespan=lifespan)
    app.state.database = database
    app.include_router(router)
    return app
