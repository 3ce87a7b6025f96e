"""A large query that uses no loader: with the extension, without, and with a `resolve` hook."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import strawberry
from strawberry.extensions import SchemaExtension

from benchmarks._measure import clock
from dataloader_cache.integrations.strawberry import DataLoaderExtension

__all__ = ["queries"]

_WIDTH = 10


@strawberry.type
class _Item:
    f0: int = 0
    f1: int = 1
    f2: int = 2
    f3: int = 3
    f4: int = 4
    f5: int = 5
    f6: int = 6
    f7: int = 7
    f8: int = 8
    f9: int = 9


class _Hook(SchemaExtension):
    # Any: values of all types pass through here.
    def resolve(
        self, _next: Callable[..., Any], root: Any, info: Any, *args: str, **kwargs: Any
    ) -> Any:
        return _next(root, info, *args, **kwargs)


def queries(fields: int) -> list[Callable[[int], Coroutine[Any, Any, float]]]:
    """Make the three ways to run a query of about so many fields."""

    @strawberry.type
    class Query:
        @strawberry.field
        def items(self) -> list[_Item]:
            return [_Item() for _ in range(fields // _WIDTH)]

    return [
        _runner(strawberry.Schema(Query, extensions=extensions))
        for extensions in ([DataLoaderExtension], [], [_Hook])
    ]


def _runner(schema: strawberry.Schema) -> Callable[[int], Coroutine[Any, Any, float]]:
    query = "{ items { " + " ".join(f"f{number}" for number in range(_WIDTH)) + " } }"

    async def run(count: int) -> float:
        begin = clock()
        answers = [await schema.execute(query) for _ in range(count)]
        seconds = clock() - begin
        for answer in answers:
            if answer.errors:
                raise RuntimeError(f"the query failed, so its time means nothing: {answer.errors}")
        return seconds

    return run
