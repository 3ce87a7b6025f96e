"""What it cost: SQL statements and calls of batch functions, of one request or of all of them."""

import functools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

from strawberry.extensions import SchemaExtension

__all__ = ["Tally", "TallyExtension", "counted"]

# Any: whatever the function takes and gives is left as it is.
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


@dataclass
class Tally:
    """Count for one request, or for what a database does for no request in particular."""

    statements: int = 0
    batches: Counter[str] = field(default_factory=Counter)

    def reset(self) -> None:
        """Count from zero again."""
        self.statements = 0
        self.batches.clear()


class Tallied(Protocol):
    @property
    def tally(self) -> Tally: ...


def counted(load_fn: F) -> F:
    """Count each call of a batch function in the tally of its second argument."""

    @functools.wraps(load_fn)
    async def load(keys: list[Any], source: Tallied, *args: object) -> Any:
        source.tally.batches[load_fn.__name__] += 1
        return await load_fn(keys, source, *args)

    return cast("F", load)


class TallyExtension(SchemaExtension):
    """Add the tally to the `extensions` of each answer, where GraphiQL shows it.

    It is that of the context: of one request, or of one websocket so far. Loads of shared caches
    are not in it. They are made for everybody, and the database's own tally has them.
    """

    def get_results(self) -> dict[str, Any]:
        tally: Tally = self.execution_context.context.tally
        return {"atlas": {"statements": tally.statements, "batches": dict(tally.batches)}}
