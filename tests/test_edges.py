"""Corners that the tests of the rules pass by: reprs, strange keys and arguments, factories."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dataloader_cache import AsyncCache, AsyncLRU, DataLoader, testing
from dataloader_cache.errors import ConfigurationError


async def echo(keys: list[Any]) -> list[Any]:
    return keys


class Quarrelsome:
    """A key that is equal to nothing, and raises TypeError when it is asked."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise TypeError("not comparable")


class Numbers(list[int]):
    """A list of another type."""


# An __eq__ alone makes a class unhashable, which is the point here.
class Point:  # noqa: PLW1641
    """Compared by value, and so not hashable."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.x == other.x


class Unstable(Point):
    """Says that it can be hashed, and can't."""

    def __hash__(self) -> int:
        raise TypeError("not now")


def test_a_loader_shows_its_name():
    """The repr of a loader names it."""
    assert "<DataLoader 'users'>" == repr(DataLoader(echo, name="users"))


def test_a_cache_shows_its_name_and_size():
    """The repr of a cache names it and counts its entries."""
    cache = AsyncCache(name="users")
    cache.set(1, 1)
    assert "<AsyncCache 'users' of 1 entries>" == repr(cache)


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_type_error_of_a_keys_own_is_not_renamed(is_open: bool):
    """A TypeError out of `__eq__` is no complaint about hashing."""
    loader: DataLoader[Any, Any] = DataLoader(echo)
    await loader.load(1)
    other = loader.load(2) if is_open else None

    with pytest.raises(TypeError, match="not comparable"):
        await loader.load(Quarrelsome())
    with pytest.raises(TypeError, match="not comparable"):
        await loader.load_many([1, Quarrelsome()])
    if other is not None:
        assert 2 == await other


async def test_a_type_error_of_a_keys_own_passes_through_a_cache():
    """A cache does not rename it either."""
    cache = AsyncCache()
    cache.set(1, 1)
    with pytest.raises(TypeError, match="not comparable"):
        await cache.get(Quarrelsome())


@pytest.mark.parametrize(
    ("first", "equal", "other"),
    [
        (bytearray(b"a"), bytearray(b"a"), bytearray(b"b")),
        (Numbers([1]), Numbers([1]), [1]),
        (Point(1), Point(1), Point(2)),
        (Unstable(1), Unstable(1), Point(1)),
    ],
    ids=["bytearray", "subclass", "equality", "unstable"],
)
async def test_arguments_are_compared_by_type_and_value(first: Any, equal: Any, other: Any):
    """Equal arguments of one type are one call, others are not."""
    calls: list[Any] = []

    @AsyncLRU()
    async def work(argument: Any) -> int:
        calls.append(argument)
        return len(calls)

    assert [1, 1, 2] == [await work(first), await work(equal), await work(other)]


def test_what_keeps_its_state_elsewhere_has_no_fields():
    """The kinds of key parts say what they are, for who looks into a cache."""
    from dataloader_cache._keys import freeze

    assert "(list, 1)" == repr(freeze([1]))


def test_more_arguments_can_not_be_left_out_than_there_are():
    """`skip_args` beyond the parameters is refused at decoration."""

    async def work(one: int) -> int:
        return one

    with pytest.raises(ConfigurationError, match="skip_args=2"):
        AsyncLRU(skip_args=2)(work)


@pytest.mark.parametrize("arguments", [{"ttl_jitter": 1.0}, {"refresh_ahead": 1.5}])
def test_a_share_of_one_or_more_is_refused(arguments: dict[str, Any]):
    """A TTL can't be spread by all of itself, nor refreshed after its end."""
    with pytest.raises(ConfigurationError, match="must be < 1"):
        AsyncCache(**arguments)


def test_a_recorder_can_start_over():
    """`clear` forgets the batches recorded so far."""

    async def main() -> list[Any]:
        with testing.BatchRecorder() as recorder:
            await DataLoader(echo).load(1)
            recorder.clear()
            await DataLoader(echo).load(2)
            return recorder.plan

    assert [("echo", [2])] == testing.run_virtual(main)


def test_a_clock_does_not_go_back():
    """A manual clock refuses to be moved back."""
    with pytest.raises(ValueError, match="-1"):
        testing.ManualClock().advance(-1)


def test_waiting_for_nothing_is_an_error_in_virtual_time(monkeypatch: pytest.MonkeyPatch):
    """A virtual-time loop with nothing to run raises instead of hanging."""
    monkeypatch.setattr(testing, "_PATIENCE", 0.0)

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="never comes"):
        testing.run_virtual(main)


@pytest.mark.loop_kinds("asyncio")
async def test_a_task_factory_that_raises_hangs_nobody():
    """The error of a task factory reaches those who wait for the task."""
    loop = asyncio.get_running_loop()
    users: DataLoader[int, int] = DataLoader(echo)
    cache = AsyncCache()

    def refuse(loop: Any, coroutine: Any, **_: Any) -> Any:
        if "_run" in coroutine.__qualname__:
            raise MemoryError("no room for a task")
        return asyncio.Task(coroutine, loop=loop)

    async def load() -> int:
        return 1

    loop.set_task_factory(refuse)
    try:
        with pytest.raises(MemoryError):
            await users.load(1)
        with pytest.raises(MemoryError):
            await cache.get("a", load)
    finally:
        loop.set_task_factory(None)
