"""One failing GraphQL field, and the branches that wait for the same key."""

import asyncio
from typing import Any

from benchmarks.torture._contenders import Contender, NotApplicableError
from benchmarks.torture._row import GROUPS, Source, outcome, row, told

__all__: list[str] = []

GROUP = GROUPS[6]


def _schema() -> Any:
    """Build a schema whose `left` fails while `left` and `right` wait for key 1."""
    try:
        import strawberry
    except ImportError:
        raise NotApplicableError from None

    async def load(info: Any) -> str:
        value = await info.context["loader"].load(1)
        return str(value)

    @strawberry.type
    class Left:
        @strawberry.field
        async def item(self, info: strawberry.Info) -> str:
            return await load(info)

        @strawberry.field
        async def broken(self, info: strawberry.Info) -> str:
            await info.context["fail"].wait()
            raise ValueError("broken")

    @strawberry.type
    class Right:
        @strawberry.field
        async def item(self, info: strawberry.Info, late: bool = False) -> str:
            if late:
                await info.context["late"].wait()
            return await load(info)

    @strawberry.type
    class Query:
        @strawberry.field
        async def left(self) -> Left | None:
            return Left()

        @strawberry.field
        async def right(self) -> Right | None:
            return Right()

    return strawberry.Schema(Query)


async def _executed(contender: Contender, query: str) -> str:
    schema = _schema()
    source = Source(closed=True)
    loader = contender.make(source.load)
    fail, late = asyncio.Event(), asyncio.Event()
    context = {"loader": loader, "fail": fail, "late": late}
    executing = asyncio.ensure_future(schema.execute(query, context_value=context))
    await source.called()
    for event in (fail, late, source.gate):
        event.set()
        for _ in range(50):  # ticks enough for a failure to reach the root, or a load its batch
            await asyncio.sleep(0)
    got = await outcome(executing)
    if got.state == "cancelled":
        return "`schema.execute` raises `CancelledError`"
    if got.state != "value":
        return f"`schema.execute` {got}"
    result: Any = got.value
    if result.data is None:
        return f"no data; errors: {[str(error) for error in result.errors]}"
    return told(
        None
        if result.data == {"left": None, "right": {"item": "v1", "again": "v1"}}
        else f"the unrelated branch: {result.data}"
    )


@row(GROUP, "a non-null field fails while an unrelated branch waits for the same key")
async def field_fails_while_another_waits(contender: Contender) -> str:
    return await _executed(contender, "{ left { item broken } right { item again: item } }")


@row(GROUP, "a non-null field fails; an unrelated, slower branch then loads the same key")
async def field_fails_before_another_loads(contender: Contender) -> str:
    return await _executed(
        contender, "{ left { item broken } right { item(late: true) again: item(late: true) } }"
    )
