"""What one request cost: its SQL statements and its batches."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from strawberry.extensions import SchemaExtension

__all__ = ["Tally", "TallyExtension"]

K = TypeVar("K")
V = TypeVar("V")


@dataclass
class Tally:
    """Count for one request; its sessions and its loaders write here."""

    statements: int = 0
    batches: Counter[str] = field(default_factory=Counter)

    def counted(
        self, name: str, load_fn: Callable[[list[K]], Awaitable[Sequence[V]]]
    ) -> Callable[[list[K]], Awaitable[Sequence[V]]]:
        """Return `load_fn`, with each call of it counted under `name`."""

        async def load(keys: list[K]) -> Sequence[V]:
            self.batches[name] += 1
            return await load_fn(keys)

        load.__name__ = name  # what the errors of a loader call it
        return load


class TallyExtension(SchemaExtension):
    """Add the tally to the `extensions` of each answer, where GraphiQL shows it."""

    def get_results(self) -> dict[str, Any]:
        tally: Tally = self.execution_context.context.tally
        return {"atlas": {"statements": tally.statements, "batches": dict(tally.batches)}}
