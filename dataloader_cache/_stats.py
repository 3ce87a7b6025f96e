"""What loaders count, and the listeners that see each batch as it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["LoaderStats", "batch_listeners"]


@dataclass(frozen=True)
class LoaderStats:
    """Hold what one `DataLoader` has counted up to the moment it was asked.

    Attributes:
        loads: Keys asked for by `load` and `load_many`: hits, joins, and keys put in a batch.
        hits: Loads answered by the memo.
        joins: Loads that joined a flight which another load had started.
        batches: Batches sent to the batch function.
        keys: Keys sent, over all batches.
        errors: Keys settled with an error.
        cancelled: Loads whose caller went away before the key was settled.
        largest_batch: Keys in the largest batch sent.
    """

    loads: int = 0
    hits: int = 0
    joins: int = 0
    batches: int = 0
    keys: int = 0
    errors: int = 0
    cancelled: int = 0
    largest_batch: int = 0


batch_listeners: list[Callable[[str, list[Any]], None]] = []
"""Called with the loader's name and a list of the keys whenever a batch is sent."""
