"""What the endpoints answer, and how it is put together from what the loaders give."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pydantic import BaseModel

from examples.atlas import graph

__all__ = ["City", "Country", "city_of", "countries_of", "country_of"]


class City(BaseModel):
    id: int
    name: str
    population: int
    time_zone: str | None


class Country(BaseModel):
    code: str
    name: str
    population: int
    currency: str | None
    capital: City | None
    neighbours: list[str]


async def city_of(city: graph.City) -> City:
    zone = await graph.time_zones.load(city.time_zone_id)
    return City(
        id=city.id,
        name=city.name,
        population=city.population,
        time_zone=zone.name if zone else None,
    )


async def country_of(country: graph.Country) -> Country:
    """Load what belongs to one country, all at the same time."""
    currency, capital, neighbours = await asyncio.gather(
        currency_of(country), capital_of(country), graph.neighbours_of_countries.load(country.code)
    )
    return Country(
        code=country.code,
        name=country.name,
        population=country.population,
        currency=currency,
        capital=capital,
        neighbours=[neighbour.name for neighbour in neighbours],
    )


async def countries_of(countries: Iterable[graph.Country]) -> list[Country]:
    """Do the same for several; however many they are, it costs as many statements as for one."""
    return await asyncio.gather(*map(country_of, countries))


async def currency_of(country: graph.Country) -> str | None:
    if country.currency_code is None:
        return None
    currency = await graph.currencies.load(country.currency_code)
    return currency.name if currency else None


async def capital_of(country: graph.Country) -> City | None:
    capital = await graph.capitals.load(country.code)
    return await city_of(capital) if capital else None
