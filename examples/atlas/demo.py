"""Run three queries in four ways and compare what they cost: `python -m examples.atlas.demo`."""

from __future__ import annotations

import argparse
import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from examples.atlas.context import make_context
from examples.atlas.database import Database, database_url
from examples.atlas.fill import fill_with_progress
from examples.atlas.graph import SHARED
from examples.atlas.queries import QUERIES
from examples.atlas.schema import schema_for
from examples.atlas.ways import WAYS

__all__ = ["Cost", "compare", "demo", "main", "run"]

NAMES = {
    "plain": "plain resolvers",
    "strawberry": "strawberry.dataloader",
    "dataloader_cache": "dataloader_cache",
    "prefetching": "dataloader_cache, prefetching",
}

# Forth and back, so that no way always comes after the same one.
TURN = (
    *("plain", "strawberry", "dataloader_cache", "prefetching"),
    *("prefetching", "dataloader_cache", "strawberry"),
)

LAST_WORDS = """\
All four ways gave the same answer to each query. A range means that the number
differed from run to run; milliseconds are the median of runs taken in turns,
each with empty shared caches.

To ask queries of your own in GraphiQL, run `make serve` and open
http://127.0.0.1:8000/ in a browser.
"""


@dataclass(frozen=True)
class Cost:
    """Hold what one run of a query took, and what it answered."""

    statements: int
    batches: int
    milliseconds: float
    answer: dict[str, Any]


async def run(database: Database, way: str, query: str) -> Cost:
    """Execute the query as the first request of all, with nothing in the shared caches.

    Raises:
        RuntimeError: The answer has errors.
    """
    for factory in SHARED:
        await factory.cache.clear()
    database.tally.reset()
    context = make_context(database, way=way)
    start = perf_counter()
    result = await schema_for(way).execute(query, context_value=context)
    milliseconds = (perf_counter() - start) * 1000
    if result.errors or result.data is None:
        raise RuntimeError(f"the query failed: {result.errors}")
    # The database's own tally has what was loaded into shared caches.
    tallies = (context.tally, database.tally)
    return Cost(
        statements=sum(tally.statements for tally in tallies),
        batches=sum(tally.batches.total() for tally in tallies),
        milliseconds=milliseconds,
        answer=result.data,
    )


async def compare(database: Database, query: str, rounds: int) -> dict[str, list[Cost]]:
    """Run the query in every way, in turns, so that a slow moment of the machine meets them all.

    One more turn goes ahead and is not counted: it opens the connections and compiles the SQL.

    Raises:
        RuntimeError: Two answers differ.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in WAYS}
    expected: dict[str, Any] | None = None
    for turn in range(rounds + 1):
        for name in TURN:
            gc.collect()  # or one way would clear away what another one left
            cost = await run(database, name, query)
            expected = expected or cost.answer
            if cost.answer != expected:
                raise RuntimeError(f"{NAMES[name]} and {NAMES[TURN[0]]} gave different answers")
            if turn > 0:
                costs[name].append(cost)
    return costs


async def demo(console: Console, *, rounds: int = 3, min_population: int = 0) -> None:
    """Fill the atlas if needed, run the queries, and print what they cost."""
    database = Database(database_url())
    try:
        await fill_with_progress(database, console, min_population=min_population)
        costs = {}
        for title, query in track(
            QUERIES.items(), "Running the queries", console=console, transient=True
        ):
            costs[title] = await compare(database, query, rounds)
    finally:
        await database.dispose()
    console.print(table(costs))
    console.print(LAST_WORDS, highlight=False)


def table(costs_of_queries: dict[str, dict[str, list[Cost]]]) -> Table:
    """Draw one block of rows per query."""
    drawn = Table("", "SQL\nstatements", "batches", "ms", box=SIMPLE_HEAD, pad_edge=False)
    for column in drawn.columns[1:]:
        column.justify = "right"
    for title, costs in costs_of_queries.items():
        drawn.add_row(f"[bold]{title}")
        for name, runs in costs.items():
            drawn.add_row(
                f"  {NAMES[name]}",
                span([cost.statements for cost in runs]),
                "none" if name == "plain" else span([cost.batches for cost in runs]),
                f"{median(cost.milliseconds for cost in runs):,.0f}",
            )
        drawn.add_section()
    return drawn


def span(counts: Sequence[int]) -> str:
    """Write one number, or the lowest and the highest."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def main(arguments: list[str] | None = None) -> None:
    """Run the demo in the terminal."""
    parser = argparse.ArgumentParser(prog="python -m examples.atlas.demo", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often (default: 3)")
    parser.add_argument(
        "--min-population",
        type=int,
        default=0,
        metavar="PEOPLE",
        help="fill the atlas with capitals and larger cities only",
    )
    options = parser.parse_args(arguments)
    asyncio.run(demo(Console(), rounds=options.rounds, min_population=options.min_population))


if __name__ == "__main__":
    main()
