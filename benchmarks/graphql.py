"""What a loaded field costs in a GraphQL response, against a plain one and against other loaders.

    python -m benchmarks.graphql [--json] [--rounds N] [--loop asyncio|uvloop]

Every contender answers the same queries over the same data, from the text of the query to the
data of the answer, with batch functions that cost nothing. What is compared is the work of the
executor and the loaders: coroutines, tasks, ticks and bookkeeping.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import graphql
import strawberry

from benchmarks._measure import (
    LoopFactory,
    Samples,
    clock,
    in_fresh_loop,
    interleave,
    loop_factory,
    ratio,
    say,
)
from benchmarks._peers import ADAPTERS, OURS, installed
from benchmarks._report import Cell, Report, Row, Verdict, add_options
from dataloader_cache import dataloader
from dataloader_cache.integrations.strawberry import (
    DataLoaderExtension,
    PrefetchingExecutionContext,
    load_from,
)

__all__ = ["NOTES", "Settings", "contenders", "main", "measure", "report"]

CORE = "graphql-core"
PLAIN = "plain"
USUAL = "load_from"
_PEERS = ("aiodataloader", "strawberry")
_MOST_OF_PLAIN = 1.15
_MOST_OF_STRAWBERRY = 0.70

_COUNT = 10_000


@dataclass(frozen=True)
class Settings:
    """How much to measure; `budget` is how many seconds of samples a contender gets per query."""

    rounds: int = 21
    budget: float = 3.0
    fields: int = 1_000
    only: str = ""


# -- the data: each node refers to another one, to two and to ten


def _title(number: int) -> str:
    return f"node {number}"


def _one(number: int) -> int:
    # Another node on each of four levels.
    return (number + _COUNT // 4) % _COUNT


def _few(number: int) -> list[int]:
    return [(number * 2 + n) % _COUNT for n in range(2)]


def _many(number: int) -> list[int]:
    return [(number * 10 + n) % _COUNT for n in range(10)]


# -- plain: synchronous resolvers


@strawberry.type(name="Node")
class PlainNode:
    """A node whose resolvers have what they give at hand."""

    id: int
    title: str
    text: str

    @strawberry.field
    def one(self) -> PlainNode:
        return _PLAIN[_one(self.id)]

    @strawberry.field
    def few(self) -> list[PlainNode]:
        return [_PLAIN[number] for number in _few(self.id)]

    @strawberry.field
    def many(self) -> list[PlainNode]:
        return [_PLAIN[number] for number in _many(self.id)]


# -- ours: no resolvers


@dataloader
async def _ones(ids: list[int]) -> list[LoadedNode]:
    return [_LOADED[_one(number)] for number in ids]


@dataloader
async def _fews(ids: list[int]) -> list[list[LoadedNode]]:
    return [[_LOADED[number] for number in _few(key)] for key in ids]


@dataloader
async def _manies(ids: list[int]) -> list[list[LoadedNode]]:
    return [[_LOADED[number] for number in _many(key)] for key in ids]


@strawberry.type(name="Node")
class LoadedNode:
    """A node whose fields are loaded."""

    id: int
    title: str
    text: str
    one: LoadedNode = load_from(_ones, by="id")
    few: list[LoadedNode] = load_from(_fews, by="id")
    many: list[LoadedNode] = load_from(_manies, by="id")


# -- others: asynchronous resolvers that use a loader of the context


class _Loaders:
    """The loaders of a request, of any library whose DataLoader takes a batch function."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.one = make(self._load_one)
        self.few = make(self._load_few)
        self.many = make(self._load_many)

    @staticmethod
    async def _load_one(ids: list[int]) -> list[AwaitedNode]:
        return [_AWAITED[_one(number)] for number in ids]

    @staticmethod
    async def _load_few(ids: list[int]) -> list[list[AwaitedNode]]:
        return [[_AWAITED[number] for number in _few(key)] for key in ids]

    @staticmethod
    async def _load_many(ids: list[int]) -> list[list[AwaitedNode]]:
        return [[_AWAITED[number] for number in _many(key)] for key in ids]


_Info = strawberry.Info[_Loaders, None]


@strawberry.type(name="Node")
class AwaitedNode:
    """A node whose resolvers wait for a loader."""

    id: int
    title: str
    text: str

    @strawberry.field
    async def one(self, info: _Info) -> AwaitedNode:
        node: AwaitedNode = await info.context.one.load(self.id)
        return node

    @strawberry.field
    async def few(self, info: _Info) -> list[AwaitedNode]:
        nodes: list[AwaitedNode] = await info.context.few.load(self.id)
        return nodes

    @strawberry.field
    async def many(self, info: _Info) -> list[AwaitedNode]:
        nodes: list[AwaitedNode] = await info.context.many.load(self.id)
        return nodes


def _nodes(make: Callable[..., Any]) -> list[Any]:
    return [make(id=n, title=_title(n), text=f"text of {n}") for n in range(_COUNT)]


_PLAIN: list[PlainNode] = _nodes(PlainNode)
_LOADED: list[LoadedNode] = _nodes(LoadedNode)
_AWAITED: list[AwaitedNode] = _nodes(AwaitedNode)


@strawberry.type(name="Query")
class _PlainQuery:
    @strawberry.field
    def nodes(self, count: int) -> list[PlainNode]:
        return _PLAIN[:count]


@strawberry.type(name="Query")
class _LoadedQuery:
    @strawberry.field
    def nodes(self, count: int) -> list[LoadedNode]:
        return _LOADED[:count]


@strawberry.type(name="Query")
class _AwaitedQuery:
    @strawberry.field
    def nodes(self, count: int) -> list[AwaitedNode]:
        return _AWAITED[:count]


def _core_schema() -> graphql.GraphQLSchema:
    """Make the plain schema without Strawberry."""
    field, many = graphql.GraphQLField, graphql.GraphQLList
    integer, text = graphql.GraphQLNonNull(graphql.GraphQLInt), graphql.GraphQLString

    def of(numbers: Callable[[int], list[int]]) -> Callable[..., list[PlainNode]]:
        return lambda node, _info: [_PLAIN[number] for number in numbers(node.id)]

    node = graphql.GraphQLObjectType(
        "Node",
        lambda: {
            "id": field(integer),
            "title": field(graphql.GraphQLNonNull(text)),
            "text": field(graphql.GraphQLNonNull(text)),
            "one": field(known, resolve=lambda node, _info: _PLAIN[_one(node.id)]),
            "few": field(graphql.GraphQLNonNull(many(known)), resolve=of(_few)),
            "many": field(graphql.GraphQLNonNull(many(known)), resolve=of(_many)),
        },
    )
    known = graphql.GraphQLNonNull(node)
    nodes = field(
        graphql.GraphQLNonNull(many(known)),
        args={"count": graphql.GraphQLArgument(integer)},
        resolve=lambda _root, _info, count: _PLAIN[:count],
    )
    return graphql.GraphQLSchema(graphql.GraphQLObjectType("Query", {"nodes": nodes}))


Answer = Callable[[str], Awaitable[Any]]


def _by_strawberry(schema: strawberry.Schema, make_loader: Callable[[Any], Any] | None) -> Answer:
    async def answer(query: str) -> Any:
        context = None if make_loader is None else _Loaders(make_loader)
        return await schema.execute(query, context_value=context)

    return answer


async def _by_core(schema: graphql.GraphQLSchema, query: str) -> Any:
    return await graphql.graphql(schema, query)


def contenders() -> dict[str, Answer]:
    """Make what answers queries: ours first, then those without loaders, then other loaders."""
    prefetching = strawberry.Schema(
        _LoadedQuery,
        extensions=[DataLoaderExtension],
        execution_context_class=PrefetchingExecutionContext,
    )
    usual = strawberry.Schema(_LoadedQuery, extensions=[DataLoaderExtension])
    found: dict[str, Answer] = {
        OURS: _by_strawberry(prefetching, None),
        USUAL: _by_strawberry(usual, None),
        CORE: partial(_by_core, _core_schema()),
        PLAIN: _by_strawberry(strawberry.Schema(_PlainQuery), None),
    }
    awaiting = strawberry.Schema(_AwaitedQuery)
    for adapter in installed()[0]:
        if adapter.name in _PEERS:
            library = import_module(adapter.target.rpartition(".")[0])
            found[adapter.name] = _by_strawberry(awaiting, library.DataLoader)
    return found


def _queries(fields: int) -> dict[str, str]:
    """Give the queries; each has that many loaded fields in its innermost level, or in all."""
    shapes = {
        "1 level, wide: {n} items": "one {{ id {others} }}",
        "2 levels: {tenth} x 10": "many {{ {others} one {{ id {others} }} }}",
        "2 levels, narrow: {half} x 2": "few {{ {others} one {{ id {others} }} }}",
        "3 levels: {hundredth} x 10 x 10": "many {{ {others} many {{ {others} one {{ id }} }} }}",
        "4 levels of one: {fourth} items": "one {{ one {{ one {{ one {{ id {others} }} }} }} }}",
    }
    divisors = {"n": 1, "half": 2, "fourth": 4, "tenth": 10, "hundredth": 100}
    counts = {name: max(1, fields // divisor) for name, divisor in divisors.items()}
    queries: dict[str, str] = {}
    for others in ("", "title text"):
        for shape, selection in shapes.items():
            name = next(name for name in counts if f"{{{name}}}" in shape)
            body = f"{others} {selection.format(others=others)}"
            title = shape.format(**counts) + (", other fields" if others else "")
            queries[title] = f"{{ nodes(count: {counts[name]}) {{ {body} }} }}"
    return queries


def measure(factory: LoopFactory, settings: Settings) -> list[Row]:
    """Measure every query for every contender."""
    answers = contenders()
    rows = [
        _measure_query(title, query, answers, factory, settings)
        for title, query in _queries(settings.fields).items()
        if settings.only in title
    ]
    say("")
    return rows


def _measure_query(
    title: str,
    query: str,
    answers: dict[str, Answer],
    factory: LoopFactory,
    settings: Settings,
) -> Row:
    say(title)
    expected = in_fresh_loop(factory, lambda: _answer(answers[PLAIN], query))[1]

    def sample(name: str) -> tuple[float, str]:
        seconds, data = in_fresh_loop(factory, lambda: _answer(answers[name], query))
        if data != expected:
            raise RuntimeError(f"{name} gave another answer to {query}, so its time means nothing")
        return seconds, ""

    results = interleave(
        list(answers), sample, rounds=settings.rounds, budget=settings.budget, with_gc=False
    )
    cells = {
        name: Cell(
            samples.median * 1e3, samples=tuple(seconds * 1e3 for seconds in samples.seconds)
        )
        for name, samples in results.items()
    }
    return Row(title, "ms", cells, _verdict(results), digits=1)


async def _answer(answer: Answer, query: str) -> tuple[float, Any]:
    begin = clock()
    result = await answer(query)
    seconds = clock() - begin
    if result.errors:
        raise result.errors[0]
    return seconds, result.data


def _verdict(results: dict[str, Samples]) -> Verdict:
    limits = {PLAIN: _MOST_OF_PLAIN, "strawberry": _MOST_OF_STRAWBERRY}
    found = {
        name: ratio(results[OURS], results[name])
        for name in limits
        if name in results and results[name].seconds
    }
    return Verdict(
        ", ".join(f"≤ {limit:g} x {name}" for name, limit in limits.items()),
        ", ".join(f"{measured} x {name}" for name, measured in found.items()),
        all(measured.value <= limits[name] for name, measured in found.items()),
    )


NOTES = (
    "A number is the processor time of one response, the median of interleaved rounds; `measured` "
    "is the median of the rounds' ratios, with their quartiles in brackets.",
    "`ours` is load_from with PrefetchingExecutionContext, `load_from` is without it; `plain` has "
    "synchronous resolvers and no loader, and `graphql-core` is the same without Strawberry. The "
    "others load in asynchronous resolvers.",
)


def report(loop: str, settings: Settings) -> Report:
    """Measure, and put the rows under their contenders."""
    rows = measure(loop_factory(loop), settings)
    names = [name for name in contenders() if any(name in row.cells for row in rows)]
    left_out = [line for line in installed()[1] if any(peer in line for peer in _PEERS)]
    known = [adapter for adapter in ADAPTERS if adapter.name in (OURS, *_PEERS)]
    return Report(loop, names, left_out, rows, list(NOTES), known=known)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its report and return the exit status."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graphql", description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=defaults.rounds)
    parser.add_argument("--fields", type=int, default=defaults.fields)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="measure only what has this in its name"
    )
    options = parser.parse_args(arguments)
    settings = Settings(rounds=options.rounds, fields=options.fields, only=options.only)
    return report(options.loop, settings).finish(options)


if __name__ == "__main__":
    sys.exit(main())
