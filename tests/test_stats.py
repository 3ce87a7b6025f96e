"""What `DataLoader.stats` counts."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from dataloader_cache import DataLoader, LoaderStats

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever

# reading: a load is one key asked of the loader, by `load` or in a `load_many`, repeats included;
# it is a hit (found in the memo), a join (found in flight, in an open or in a running batch), or
# neither (a miss). A key is one that was sent to the batch function, an error is such a key that
# ended in an error, and `cancelled` counts callers that left before they were served.


async def ticks(count: int) -> None:
    """Let `count` turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(awaitable: Any) -> Any:
    """Wait for `awaitable`, but not for ever."""
    return await asyncio.wait_for(awaitable, GUARD)


def tenfold(**options: Any) -> DataLoader[int, int]:
    """Make a loader that answers a key with ten times itself."""

    async def load_fn(keys: list[int]) -> list[int]:
        return [key * 10 for key in keys]

    return DataLoader(load_fn, **options)


def counts(loader: DataLoader[Any, Any]) -> dict[str, int]:
    """Give the counters that are not zero."""
    return {name: n for name, n in dataclasses.asdict(loader.stats).items() if n}


def test_stats_begin_at_zero():
    """A new loader has counted nothing."""
    assert {
        "loads": 0,
        "hits": 0,
        "joins": 0,
        "batches": 0,
        "keys": 0,
        "errors": 0,
        "cancelled": 0,
        "largest_batch": 0,
    } == dataclasses.asdict(tenfold().stats)


def test_stats_are_a_loader_stats():
    """`stats` is a `LoaderStats` and can be compared with one."""
    stats = tenfold().stats

    assert isinstance(stats, LoaderStats)
    assert tenfold().stats == stats


def test_stats_are_frozen():
    """A snapshot can't be changed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        tenfold().stats.loads = 1


async def test_a_snapshot_stays_as_it_was_taken():
    """A snapshot does not count on."""
    loader = tenfold()
    before = loader.stats
    await within(loader.load(1))

    assert (0, 1) == (before.loads, loader.stats.loads)


async def test_a_batch_of_three_keys():
    """Three distinct loads of one batch are three loads, three keys and one batch."""
    loader = tenfold()
    await within(asyncio.gather(*map(loader.load, (1, 2, 3))))

    assert {"loads": 3, "batches": 1, "keys": 3, "largest_batch": 3} == counts(loader)


async def test_a_hit_is_counted():
    """A load that the memo answers is a hit."""
    loader = tenfold()
    await within(loader.load(1))
    await within(loader.load(1))

    assert {"loads": 2, "hits": 1, "batches": 1, "keys": 1, "largest_batch": 1} == counts(loader)


async def test_a_hit_beside_an_open_batch_is_a_hit():
    """A hit that resolves with the open batch is a hit and no join."""
    loader = tenfold().prime(1, 11)
    await within(asyncio.gather(loader.load(2), loader.load(1)))

    assert {"loads": 2, "hits": 1, "batches": 1, "keys": 1, "largest_batch": 1} == counts(loader)


async def test_a_load_of_a_primed_key_is_a_hit():
    """A primed value is found in the memo like a loaded one."""
    loader = tenfold().prime(1, 11)
    await within(loader.load(1))

    assert {"loads": 1, "hits": 1} == counts(loader)


async def test_a_load_of_a_key_in_the_open_batch_is_a_join():
    """A load that finds its key in the open batch is a join."""
    loader = tenfold()
    await within(asyncio.gather(loader.load(1), loader.load(1), loader.load(1)))

    assert {"loads": 3, "joins": 2, "batches": 1, "keys": 1, "largest_batch": 1} == counts(loader)


async def test_a_load_of_a_key_in_a_running_batch_is_a_join():
    """A load that finds its key in a running batch is a join."""
    release = asyncio.Event()

    async def load_fn(keys: list[int]) -> list[int]:
        await release.wait()
        return keys

    loader = DataLoader(load_fn)
    first = loader.load(1)
    await ticks(20)
    second = loader.load(1)
    release.set()
    await within(asyncio.gather(first, second))

    assert {"loads": 2, "joins": 1, "batches": 1, "keys": 1, "largest_batch": 1} == counts(loader)


async def test_load_many_counts_each_of_its_keys():
    """`load_many` counts like a load of each of its keys."""
    loader = tenfold().prime(9, 90)
    await within(loader.load_many([1, 2, 9]))

    assert {"loads": 3, "hits": 1, "batches": 1, "keys": 2, "largest_batch": 2} == counts(loader)


async def test_a_repeated_key_of_load_many_is_a_join():
    """A key that stands twice in one `load_many` is two loads and one join."""
    loader = tenfold()
    await within(loader.load_many([1, 2, 1]))

    assert {"loads": 3, "joins": 1, "batches": 1, "keys": 2, "largest_batch": 2} == counts(loader)


async def test_the_largest_batch_is_the_largest_so_far():
    """`largest_batch` keeps the size of the largest batch, not of the last."""
    loader = tenfold(max_batch_size=3)
    await within(loader.load_many(range(4)))
    await within(loader.load(9))

    assert {"loads": 5, "batches": 3, "keys": 5, "largest_batch": 3} == counts(loader)


async def test_an_error_of_a_key_is_counted():
    """A key that ends in an error is one error."""

    async def load_fn(keys: list[int]) -> list[Any]:
        return [ValueError(key) if key == 2 else key for key in keys]

    loader: DataLoader[int, Any] = DataLoader(load_fn)
    await within(loader.load_many([1, 2, 3], return_exceptions=True))

    assert {"loads": 3, "batches": 1, "keys": 3, "errors": 1, "largest_batch": 3} == counts(loader)


async def test_a_failed_batch_of_one_key_is_one_error():
    """A batch of one key that fails is one error."""

    async def load_fn(keys: list[int]) -> list[int]:
        raise ValueError("failed")

    loader = DataLoader(load_fn)
    with pytest.raises(ValueError, match="failed"):
        await within(loader.load(1))

    assert {"loads": 1, "batches": 1, "keys": 1, "errors": 1, "largest_batch": 1} == counts(loader)


async def test_a_failed_batch_is_an_error_for_each_of_its_keys():
    """A batch of three keys that fails is three errors."""

    async def load_fn(keys: list[int]) -> list[int]:
        raise ValueError("failed")

    loader = DataLoader(load_fn)
    await within(loader.load_many([1, 2, 3], return_exceptions=True))

    assert {"loads": 3, "batches": 1, "keys": 3, "errors": 3, "largest_batch": 3} == counts(loader)


async def test_a_caller_that_leaves_an_open_batch_is_counted():
    """A caller that left before dispatch is one cancelled load, and its key was not sent."""
    loader = tenfold()
    loader.load(1).cancel()
    await within(loader.load(2))
    await ticks(20)

    assert {
        "loads": 2,
        "batches": 1,
        "keys": 1,
        "cancelled": 1,
        "largest_batch": 1,
    } == counts(loader)


async def test_a_caller_that_leaves_a_running_batch_is_counted():
    """A caller that left a running batch is one cancelled load."""
    release = asyncio.Event()

    async def load_fn(keys: list[int]) -> list[int]:
        await release.wait()
        return keys

    loader = DataLoader(load_fn)
    first, second = loader.load(1), loader.load(2)
    await ticks(20)
    first.cancel()
    await ticks(3)
    release.set()
    await within(second)

    assert {
        "loads": 2,
        "batches": 1,
        "keys": 2,
        "cancelled": 1,
        "largest_batch": 2,
    } == counts(loader)


async def test_a_batch_that_was_not_sent_is_not_counted():
    """A batch that all callers left counts as no batch and no key."""
    loader = tenfold()
    loader.load(1).cancel()
    await ticks(20)

    assert (1, 0, 0, 0) == (
        loader.stats.loads,
        loader.stats.batches,
        loader.stats.keys,
        loader.stats.largest_batch,
    )


async def test_a_key_that_was_primed_away_is_not_counted_as_sent():
    """A key that was primed before its batch left is a load and no key of a batch."""
    loader = tenfold()
    futures = [loader.load(1), loader.load(2)]
    loader.prime(1, 11)
    await within(asyncio.gather(*futures))

    assert {"loads": 2, "batches": 1, "keys": 1, "largest_batch": 1} == counts(loader)


async def test_without_a_cache_there_are_no_hits():
    """With `cache=False` equal keys of one batch are joins, and later ones are asked again."""
    loader = tenfold(cache=False)
    await within(asyncio.gather(loader.load(1), loader.load(1)))
    await within(loader.load(1))

    assert {"loads": 3, "joins": 1, "batches": 2, "keys": 2, "largest_batch": 1} == counts(loader)


async def test_a_load_that_is_refused_is_not_counted():
    """A bad key raises before anything is counted."""
    loader: DataLoader[Any, Any] = tenfold()
    for bad in (None, [1]):
        with pytest.raises(TypeError):
            loader.load(bad)
        with pytest.raises(TypeError):
            loader.load_many([1, bad])

    assert {} == counts(loader)


async def test_peek_is_not_counted():
    """`peek` is neither a load nor a hit."""
    loader = tenfold().prime(1, 11)
    loader.peek(1)
    loader.peek(2)

    assert {} == counts(loader)


async def test_clearing_resets_no_counter():
    """The counters go on counting over `clear_all`."""
    loader = tenfold()
    await within(loader.load(1))
    loader.clear_all()
    await within(loader.load(1))

    assert {"loads": 2, "batches": 2, "keys": 2, "largest_batch": 1} == counts(loader)
