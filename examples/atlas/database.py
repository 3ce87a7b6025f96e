"""The connection to the database: SQLite in a file of the checkout, or PostgreSQL."""

import os
from pathlib import Path

from sqlalchemy import URL, AsyncAdaptedQueuePool, Connection, event, make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from examples.atlas.changes import Changes
from examples.atlas.tally import Tally

__all__ = ["Database", "Sessions", "database_url"]

Sessions = async_sessionmaker[AsyncSession]

DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}


class Database:
    """Own the engine: made once per process and event loop, closed by `dispose`.

    Attributes:
        changes: Which of its cities have just been written to.
        sessions: What makes sessions for no request in particular: to fill a shared cache, say.
        tally: What these have cost.
    """

    def __init__(self, url: URL) -> None:
        self.tally = Tally()
        self.changes = Changes()
        # A request with plain resolvers may have a thousand statements waiting for a connection.
        self.engine = create_async_engine(
            url,
            poolclass=AsyncAdaptedQueuePool,
            pool_size=8,
            max_overflow=0,
            pool_timeout=120,
            # Seconds; of SQLite for another process that fills the file, of asyncpg to connect.
            connect_args={"timeout": 60},
        )
        event.listen(self.engine.sync_engine, "before_cursor_execute", _count)
        self.sessions = self.counting(self.tally)

    def counting(self, tally: Tally) -> Sessions:
        """Return a maker of sessions whose statements `tally` counts.

        Open one session per statement: an `AsyncSession` is one conversation with the database,
        and loaders that share one interrupt each other.
        """
        return async_sessionmaker(
            self.engine.execution_options(tally=tally), expire_on_commit=False
        )

    async def dispose(self) -> None:
        """Close all connections."""
        await self.engine.dispose()


def _count(connection: Connection, *_: object) -> None:
    tally = connection.get_execution_options().get("tally")
    if isinstance(tally, Tally):
        tally.statements += 1


def database_url() -> URL:
    """Return the database that the environment names, with an asynchronous driver.

    `DATABASE_URL` may be `postgresql+asyncpg://…`, or `postgres://…` and `postgresql://…` as
    hosting services write it. Without it the atlas is a SQLite file in the folder `ATLAS_DIR`,
    which is `.atlas` in the checkout unless set.
    """
    url = os.environ.get("DATABASE_URL")
    if url:
        return with_driver(make_url(url))
    default = Path(__file__).resolve().parents[2] / ".atlas"
    folder = Path(os.environ.get("ATLAS_DIR") or default)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    return URL.create(DRIVERS["sqlite"], database=str(folder / "atlas.sqlite3"))


def with_driver(url: URL) -> URL:
    """Return `url` with the driver that the atlas uses for its kind of database."""
    url = url.set(drivername=DRIVERS.get(url.drivername, url.drivername))
    if url.drivername == DRIVERS["postgresql"] and "sslmode" in url.query:
        # asyncpg takes libpq's values, but under its own name.
        sslmode = url.query["sslmode"]
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": sslmode})
    return url
