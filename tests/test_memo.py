"""What a loader remembers, and what writes over what: rules M1 to M5."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dataloader_cache import DataLoader
from dataloader_cache.errors import LoadTimeoutError
from dataloader_cache.testing import run_virtual

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever


async def ticks(count: int) -> None:
    """Let `count` turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(awaitable: Any) -> Any:
    """Wait for `awaitable`, but not for ever."""
    return await asyncio.wait_for(awaitable, GUARD)


async def until(condition: Callable[[], Any], limit: int = 500) -> int:
    """Count the ticks until `condition` holds."""
    for count in range(limit):
        if condition():
            return count
        await asyncio.sleep(0)
    pytest.fail(f"not reached within {limit} ticks")


async def outcomes(*futures: Any) -> list[Any]:
    """Wait for every future and give each one's value or error."""
    await asyncio.wait([asyncio.ensure_future(future) for future in futures], timeout=GUARD)
    assert all(future.done() for future in futures), "a waiter hangs"
    assert not any(future.cancelled() for future in futures), "a waiter was cancelled"
    return [future.exception() or future.result() for future in futures]


def recording(plan: list[list[Any]], **options: Any) -> DataLoader[Any, Any]:
    """Make a loader that adds each batch to `plan` and answers a key with ten times itself."""

    async def load_fn(keys: list[Any]) -> list[Any]:
        plan.append(list(keys))
        return [key * 10 for key in keys]

    return DataLoader(load_fn, **options)


class Gate:
    """A batch function whose every call waits until the test answers it."""

    def __init__(self) -> None:
        self.plan: list[list[Any]] = []
        self.answers: list[asyncio.Future[Any]] = []
        self.cancelled = 0

    async def load_fn(self, keys: list[Any]) -> Any:
        self.plan.append(list(keys))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def running(self, count: int = 1) -> None:
        """Wait until `count` calls have been made."""
        await until(lambda: len(self.answers) >= count)


class Value:
    """A value that can be watched while it goes away."""


# M1: clear


def test_m1_clearing_an_absent_key_does_nothing():
    """`clear` of a key that was never loaded does not raise."""
    loader = recording([])

    loader.clear(1)
    loader.clear(1)
    loader.clear_many([1, 2])
    loader.clear_all()


def test_m1_clearing_returns_the_loader():
    """The clearing and priming methods can be chained."""
    loader = recording([])

    assert loader is loader.clear(1)
    assert loader is loader.clear_many([1, 2])
    assert loader is loader.clear_all()
    assert loader is loader.prime(1, 10)
    assert loader is loader.prime_many({2: 20})


async def test_m1_a_load_is_remembered():
    """A key is asked for once as long as its loader lives."""
    plan: list[list[int]] = []
    loader = recording(plan)

    for _ in range(3):
        assert [10, 20] == await outcomes(loader.load(1), loader.load(2))
    assert [[1, 2]] == plan


async def test_m1_a_cleared_key_is_asked_again():
    """After `clear` a key is loaded anew, the other keys are not."""
    plan: list[list[int]] = []
    loader = recording(plan)
    await within(loader.load_many([1, 2]))

    loader.clear(1)

    assert [10, 20] == await within(loader.load_many([1, 2]))
    assert [[1, 2], [1]] == plan


async def test_m1_clear_many_clears_each_key():
    """`clear_many` takes any iterable of keys and clears each of them."""
    plan: list[list[int]] = []
    loader = recording(plan)
    await within(loader.load_many([1, 2, 3]))

    loader.clear_many(key for key in (1, 3, 99))
    await within(loader.load_many([1, 2, 3]))

    assert [[1, 2, 3], [1, 3]] == plan


async def test_m1_clear_all_clears_every_key():
    """After `clear_all` every key is loaded anew."""
    plan: list[list[int]] = []
    loader = recording(plan)
    await within(loader.load_many([1, 2]))

    loader.clear_all()
    await within(loader.load_many([1, 2]))

    assert [[1, 2], [1, 2]] == plan


async def test_m1_clear_goes_by_cache_key():
    """`clear` clears every key that has the same cache key."""
    plan: list[list[str]] = []
    loader = recording(plan, cache_key_fn=str.lower)
    await within(loader.load_many(["a", "b"]))

    loader.clear("A").clear_many(["B"])
    await within(loader.load_many(["a", "b"]))

    assert [["a", "b"], ["a", "b"]] == plan


CLEARINGS = [
    pytest.param(lambda loader: loader.clear(1), id="clear"),
    pytest.param(lambda loader: loader.clear_many([1]), id="clear_many"),
    pytest.param(lambda loader: loader.clear_all(), id="clear_all"),
]


@pytest.mark.parametrize("clear", CLEARINGS)
async def test_m1_those_already_waiting_get_the_old_flights_result(clear: Callable[[Any], Any]):
    """A `clear` beside a running batch starts a new flight for later loads only."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    early = loader.load(1)
    await gate.running()

    clear(loader)
    late = loader.load(1)
    await gate.running(2)
    gate.answers[1].set_result(["new"])
    await ticks(3)
    gate.answers[0].set_result(["old"])

    assert ["old", "new"] == await outcomes(early, late)
    assert "new" == await within(loader.load(1))
    assert [[1], [1]] == gate.plan


@pytest.mark.parametrize("clear", CLEARINGS)
async def test_m1_clearing_an_open_batch_loses_nobody(clear: Callable[[Any], Any]):
    """Those who wait for an open batch are served after a `clear`, and so are later ones."""
    # reading: whether the later load shares the open batch or gets one of its own is open;
    # either way no batch has a key twice.
    plan: list[list[int]] = []
    loader = recording(plan)
    early = [loader.load(1), loader.load(2)]

    clear(loader)
    late = [loader.load(1), loader.load(2)]

    assert [10, 20, 10, 20] == await outcomes(*early, *late)
    assert [len(set(keys)) for keys in plan] == [len(keys) for keys in plan]
    assert {1, 2} == {key for keys in plan for key in keys}


@pytest.mark.parametrize("clear", CLEARINGS)
async def test_m1_a_load_after_a_clear_is_remembered(clear: Callable[[Any], Any]):
    """What was loaded after a `clear` of an open batch is remembered."""
    plan: list[list[int]] = []
    loader = recording(plan)
    early = loader.load(1)
    clear(loader)
    late = loader.load(1)
    await outcomes(early, late)
    asked = len(plan)

    assert 10 == await within(loader.load(1))
    assert asked == len(plan)


async def test_m1_clear_after_clear_and_load_beside_an_open_batch():
    """Clearing again and again while a batch is open leaves everyone served."""
    loader = recording([])
    futures = []
    for _ in range(5):
        futures.append(loader.load(1))
        loader.clear(1)
        await asyncio.sleep(0)

    assert [10] * 5 == await outcomes(*futures)


async def test_m1_a_cancelled_load_after_a_clear_leaves_the_first_alone():
    """The two flights of a key that was cleared in between have waiters of their own."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    early = loader.load(1)
    await gate.running()
    loader.clear(1)
    late = loader.load(1)
    await gate.running(2)

    late.cancel()
    await until(lambda: gate.cancelled)
    gate.answers[0].set_result(["old"])

    assert ["old"] == await outcomes(early)
    assert 1 == gate.cancelled


@pytest.mark.parametrize("clear", CLEARINGS)
async def test_m1_a_cleared_value_is_released(clear: Callable[[Any], Any]):
    """Nothing in the loader holds a value that was cleared."""

    async def load_fn(keys: list[int]) -> list[Value]:
        return [Value() for _ in keys]

    loader = DataLoader(load_fn)
    value = weakref.ref(await within(loader.load(1)))
    many = weakref.ref((await within(loader.load_many([1])))[0])
    assert value() is many() is not None

    clear(loader)
    await ticks(12)
    gc.collect()

    assert value() is None


async def test_m1_a_primed_value_is_released_by_clear():
    """Nothing in the loader holds a primed value that was cleared."""
    loader = recording([])
    primed = Value()
    value = weakref.ref(primed)
    loader.prime(1, primed)
    assert primed is await within(loader.load(1))
    del primed

    loader.clear(1)
    await ticks(3)
    gc.collect()

    assert value() is None


async def test_m1_a_value_that_was_cleared_beside_its_batch_is_released():
    """A running batch whose keys were cleared keeps no value when it is over."""

    gate = Gate()
    loader = DataLoader(gate.load_fn)
    future = loader.load(1)
    await gate.running()
    loader.clear(1)
    gate.answers[0].set_result([Value()])
    value = weakref.ref(await within(future))
    del future
    gate.answers.clear()
    await ticks(12)
    gc.collect()

    assert value() is None


# M2: generations


async def settle(answer: asyncio.Future[Any], how: str, keys: int = 1) -> None:
    """End a gated batch in one of the ways in which a batch ends, and let it take effect."""
    if how == "success":
        answer.set_result(["old"] * keys)
    elif how == "failure":
        answer.set_exception(ValueError("old"))
    elif how == "key error":
        answer.set_result([ValueError("old")] * keys)
    elif how == "cancelled":
        answer.cancel()
    elif how == "bad result":
        answer.set_result(None)
    await ticks(5)


ENDS = ["success", "failure", "key error", "cancelled", "bad result"]


@pytest.mark.parametrize("cache_errors", [False, True])
@pytest.mark.parametrize("how", ENDS)
async def test_m2_an_old_flight_stores_nothing_after_a_clear(how: str, cache_errors: bool):
    """A flight that began before a `clear` leaves nothing in the memo, however it ends."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, cache_errors=cache_errors)
    early = loader.load(1)
    await gate.running()

    loader.clear(1)
    await settle(gate.answers[0], how)
    await outcomes(early)

    assert "absent" == loader.peek(1, "absent")
    late = loader.load(1)
    await gate.running(2)
    gate.answers[1].set_result(["new"])
    assert ["new"] == await outcomes(late)


@pytest.mark.parametrize("cache_errors", [False, True])
@pytest.mark.parametrize("how", ENDS)
async def test_m2_an_old_flight_does_not_touch_what_was_primed(how: str, cache_errors: bool):
    """A flight that ends after `clear` and `prime` neither writes over nor evicts the value."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, cache_errors=cache_errors)
    early = loader.load(1)
    await gate.running()

    loader.clear(1).prime(1, "primed")
    await settle(gate.answers[0], how)
    await outcomes(early)

    assert "primed" == loader.peek(1)
    assert "primed" == await within(loader.load(1))
    assert [[1]] == gate.plan


@pytest.mark.parametrize("how", ENDS)
async def test_m2_an_old_flight_does_not_touch_a_primed_error(how: str):
    """A flight that ends after an error was primed leaves the error in place."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    early = loader.load(1)
    await gate.running()

    loader.prime(1, KeyError("primed"))
    await settle(gate.answers[0], how)
    await outcomes(early)

    with pytest.raises(KeyError, match="primed"):
        await within(loader.load(1))
    assert [[1]] == gate.plan


@pytest.mark.parametrize("cache_errors", [False, True])
@pytest.mark.parametrize("how", ENDS)
async def test_m2_an_old_flight_does_not_evict_a_newer_flight(how: str, cache_errors: bool):
    """A flight that ends beside a newer one leaves the newer one to be joined."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, cache_errors=cache_errors)
    early = loader.load(1)
    await gate.running()
    loader.clear(1)
    late = loader.load(1)
    await gate.running(2)

    await settle(gate.answers[0], how)
    joiner = loader.load(1)
    await ticks(20)
    gate.answers[1].set_result(["new"])

    await outcomes(early)
    assert ["new", "new"] == await outcomes(late, joiner)
    assert [[1], [1]] == gate.plan


@pytest.mark.parametrize("how", ENDS)
async def test_m2_an_old_flight_does_not_evict_a_newer_flight_in_an_open_batch(how: str):
    """A flight that ends while a newer one has not left yet leaves it to be joined."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    early = loader.load(1)
    await gate.running()
    loader.clear(1)
    late = loader.load(1)

    await settle(gate.answers[0], how)
    joiner = loader.load(1)
    await gate.running(2)
    gate.answers[1].set_result(["new"])

    await outcomes(early)
    assert ["new", "new"] == await outcomes(late, joiner)
    assert [[1], [1]] == gate.plan


@pytest.mark.parametrize("cache_errors", [False, True])
@pytest.mark.parametrize("how", ENDS)
async def test_m2_an_old_flight_does_not_touch_a_newer_value(how: str, cache_errors: bool):
    """A flight that ends after a newer one leaves the newer value in place."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, cache_errors=cache_errors)
    early = loader.load(1)
    await gate.running()
    loader.clear(1)
    late = loader.load(1)
    await gate.running(2)
    gate.answers[1].set_result(["new"])
    assert ["new"] == await outcomes(late)

    await settle(gate.answers[0], how)
    await outcomes(early)

    assert "new" == loader.peek(1)
    assert [[1], [1]] == gate.plan


@pytest.mark.parametrize("how", ENDS)
async def test_m2_clear_all_is_a_clear_of_every_flight(how: str):
    """A flight that began before `clear_all` leaves nothing, and touches no newer value."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    early = [loader.load(1), loader.load(2)]
    await gate.running()

    loader.clear_all().prime(2, "primed")
    await settle(gate.answers[0], how, keys=2)
    await outcomes(*early)

    assert ["absent", "primed"] == [loader.peek(key, "absent") for key in (1, 2)]


@pytest.mark.parametrize("how", ENDS)
async def test_m2_only_the_cleared_key_of_a_batch_is_new(how: str):
    """A `clear` of one key of a running batch leaves its other keys to it."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    early = [loader.load(1), loader.load(2)]
    await gate.running()

    loader.clear(1)
    joiner = loader.load(2)
    await settle(gate.answers[0], how, keys=2)
    await outcomes(*early, joiner)

    assert [[1, 2]] == gate.plan
    assert "absent" == loader.peek(1, "absent")
    assert ("old" if how == "success" else "absent") == loader.peek(2, "absent")


async def test_m2_prime_by_force_is_not_written_over_by_a_running_batch():
    """`prime(force=True)` beside a running batch outlives the batch."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    early = loader.load(1)
    await gate.running()

    loader.prime(1, "primed", force=True)
    await settle(gate.answers[0], "success")

    assert ["old"] == await outcomes(early)
    assert "primed" == await within(loader.load(1))


async def test_m2_clear_after_prime_beside_a_running_batch_forgets_both():
    """After prime and clear beside a running batch neither value is remembered."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    early = loader.load(1)
    await gate.running()

    loader.prime(1, "primed").clear(1)
    await settle(gate.answers[0], "success")

    assert ["old"] == await outcomes(early)
    assert "absent" == loader.peek(1, "absent")


@pytest.mark.parametrize("how", ["success", "failure"])
async def test_m2_a_deserted_flight_does_not_touch_a_newer_one(how: str):
    """A batch function that swallowed its cancellation neither writes over nor evicts."""
    plan: list[list[int]] = []
    swallowed, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def load_fn(keys: list[int]) -> list[str]:
        plan.append(list(keys))
        if len(plan) > 1:
            return ["new" for _ in keys]
        try:
            await release.wait()
        except asyncio.CancelledError:
            swallowed.set()
            await release.wait()
        ended.set()
        if how == "failure":
            raise ValueError("old")
        return ["old" for _ in keys]

    loader = DataLoader(load_fn)
    first = loader.load(1)
    await until(lambda: plan)
    first.cancel()
    await within(swallowed.wait())
    assert ["new"] == await outcomes(loader.load(1))
    release.set()
    await within(ended.wait())
    await ticks(5)

    assert "new" == loader.peek(1)
    assert "new" == await within(loader.load(1))
    assert [[1], [1]] == plan


def test_m2_a_flight_that_timed_out_does_not_touch_a_primed_value():
    """A batch that ran out of time and ends later leaves the primed value in place."""

    async def load_fn(keys: list[int]) -> list[str]:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            await asyncio.sleep(5)
        return ["old" for _ in keys]

    loader = DataLoader(load_fn, load_timeout=1.0)

    async def main() -> str:
        with pytest.raises(LoadTimeoutError):
            await loader.load(1)
        loader.prime(1, "primed")
        await asyncio.sleep(20)
        return await loader.load(1)

    assert "primed" == run_virtual(main)


# M3: prime


async def test_m3_a_primed_value_is_not_asked_for():
    """A primed key is served from the memo."""
    plan: list[list[int]] = []
    loader = recording(plan).prime(1, 11)

    assert 11 == await within(loader.load(1))
    assert [] == plan


async def test_m3_prime_keeps_an_existing_value():
    """A value that is there already is not written over by `prime`."""
    loader = recording([])
    await within(loader.load(1))

    loader.prime(1, 11).prime(2, 22).prime(2, 222)

    assert [10, 22] == await within(loader.load_many([1, 2]))


async def test_m3_prime_by_force_replaces_an_existing_value():
    """With `force=True` the primed value takes the place of the one that is there."""
    loader = recording([])
    await within(loader.load(1))

    loader.prime(1, 11, force=True).prime(2, 22).prime(2, 222, force=True)

    assert [11, 222] == await within(loader.load_many([1, 2]))


@pytest.mark.parametrize("value", [None, 0, "", False, []])
async def test_m3_a_falsy_value_may_be_primed(value: Any):
    """`None` and other falsy values are values: they are served, and kept."""
    plan: list[list[int]] = []
    loader = recording(plan).prime(1, value).prime(1, "second")

    assert value == await within(loader.load(1))
    assert value == loader.peek(1, "absent")
    assert [] == plan


async def test_m3_prime_many_primes_each_key():
    """`prime_many` takes a mapping and keeps what is there, unless forced."""
    plan: list[list[int]] = []
    loader = recording(plan).prime(1, 11)

    loader.prime_many({1: 111, 2: 222})
    assert [11, 222] == await within(loader.load_many([1, 2]))
    loader.prime_many({1: 1111, 2: 2222}, force=True)
    assert [1111, 2222] == await within(loader.load_many([1, 2]))
    assert [] == plan


async def test_m3_prime_goes_by_cache_key():
    """A primed value serves every key that has the same cache key."""
    plan: list[list[str]] = []
    loader = recording(plan, cache_key_fn=str.lower).prime("A", 1)

    assert 1 == await within(loader.load("a"))
    assert 1 == loader.peek("A")
    assert [] == plan


async def test_m3_a_primed_exception_is_that_keys_error():
    """A primed `Exception` is raised to those who load the key."""
    plan: list[list[int]] = []
    loader = recording(plan).prime(1, ValueError("primed"))

    for _ in range(2):
        with pytest.raises(ValueError, match="primed"):
            await within(loader.load(1))
    assert [] == plan


async def test_m3_a_primed_exception_stands_in_its_place_in_load_many():
    """`load_many` treats a primed error like one that came from a batch."""
    error = ValueError("primed")
    loader = recording([]).prime(2, error)

    assert [10, error, 30] == await within(loader.load_many([1, 2, 3], return_exceptions=True))
    with pytest.raises(ValueError, match="primed"):
        await within(loader.load_many([1, 2, 3]))


async def test_m3_a_primed_error_keeps_its_place_until_it_is_forced_out():
    """A primed error is an existing entry for a later `prime`, and gives way to force."""
    # reading: "an existing value" includes a primed error.
    loader = recording([]).prime(1, ValueError("primed")).prime(1, 11)
    with pytest.raises(ValueError, match="primed"):
        await within(loader.load(1))

    loader.prime(1, 11, force=True)

    assert 11 == await within(loader.load(1))


async def test_m3_a_primed_error_that_nobody_loads_is_silent():
    """A primed error that is never loaded reaches no exception handler."""
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    loader = recording([])
    for key in range(10):
        loader.prime(key, ValueError(key))
    loader.clear(3).prime(4, ValueError("again"), force=True)
    del loader
    gc.collect()
    await ticks(2)

    assert [] == reports


async def test_m3_a_primed_error_that_settles_nobody_is_silent():
    """An error primed for a key whose only caller has left reaches no exception handler."""
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    loader = recording([])
    loader.load(1).cancel()
    loader.prime(1, ValueError("primed"))
    await ticks(12)
    del loader
    gc.collect()
    await ticks(2)

    assert [] == reports


async def test_m3_priming_a_key_of_an_open_batch_settles_its_waiters():
    """A key that is primed before its batch left is taken out of the batch."""
    plan: list[list[int]] = []
    loader = recording(plan)
    futures = [loader.load(1), loader.load(2), loader.load(1)]

    loader.prime(1, 11)

    assert [11, 20, 11] == await outcomes(*futures)
    assert [[2]] == plan


async def test_m3_priming_a_key_of_an_open_batch_settles_its_waiters_at_once():
    """The waiters of a primed key do not wait for the batch that it was in."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    one, two = loader.load(1), loader.load(2)

    loader.prime(1, 11)
    await ticks(2)

    assert one.done()
    assert not two.done()
    await gate.running()
    gate.answers[0].set_result([20])
    assert [11, 20] == await outcomes(one, two)


async def test_m3_priming_an_error_for_a_key_of_an_open_batch_settles_its_waiters():
    """An error that is primed before its key's batch left is raised to its waiters."""
    plan: list[list[int]] = []
    error = ValueError("primed")
    loader = recording(plan)
    futures = [loader.load(1), loader.load(2), loader.load(1)]

    loader.prime(1, error)

    assert [error, 20, error] == await outcomes(*futures)
    assert [error] == await outcomes(loader.load(1))
    assert [[2]] == plan


async def test_m3_priming_every_key_of_an_open_batch_sends_nothing():
    """A batch whose keys were all primed is not sent."""
    plan: list[list[int]] = []
    loader = recording(plan)
    futures = [loader.load(1), loader.load(2)]

    loader.prime_many({1: 11, 2: 22})
    await ticks(40)

    assert [11, 22] == await outcomes(*futures)
    assert [] == plan


async def test_m3_priming_a_key_of_a_pending_load_many_gives_it_that_value():
    """A `load_many` takes a value primed before dispatch and asks for the rest."""
    plan: list[list[int]] = []
    loader = recording(plan)
    many = loader.load_many([1, 2, 3])

    loader.prime(2, 22)

    assert [10, 22, 30] == await within(many)
    assert [[1, 3]] == plan


async def test_m3_priming_an_error_for_a_key_of_a_pending_load_many():
    """A `load_many` raises an error primed before dispatch, after the rest has settled."""
    plan: list[list[int]] = []
    loader = recording(plan)
    many = loader.load_many([1, 2, 3])
    collected = loader.load_many([1, 2, 3], return_exceptions=True)

    loader.prime(2, ValueError("primed"))

    with pytest.raises(ValueError, match="primed"):
        await within(many)
    assert [10, ValueError, 30] == [
        type(value) if isinstance(value, Exception) else value for value in await within(collected)
    ]
    assert [[1, 3]] == plan


def test_m3_priming_every_key_of_a_pending_load_many_settles_it_at_once():
    """A `load_many` with nothing left to ask does not wait for a long window to end."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=3600.0)

    async def main() -> tuple[list[int], float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        many = asyncio.ensure_future(loader.load_many([1, 2, 1]))
        await ticks(3)
        loader.prime_many({2: 22, 1: 11})
        return await many, loop.time() - start

    assert ([11, 22, 11], 0.0) == run_virtual(main)
    assert [] == plan


def test_m3_priming_every_key_of_a_long_window_lets_its_hits_go():
    """A hit that waits for an open batch goes when priming leaves the batch empty."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=3600.0).prime(0, 0)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        futures = [loader.load(1), loader.load(0)]
        many = asyncio.ensure_future(loader.load_many([0, 1]))
        await ticks(3)
        loader.prime(1, 11)
        assert [11, 0, [0, 11]] == await outcomes(*futures, many)
        return loop.time() - start

    assert 0.0 == run_virtual(main)
    assert [] == plan


def test_m3_a_load_after_priming_emptied_a_long_window_is_asked_for():
    """A batch that priming emptied leaves the loader working."""
    plan: list[list[int]] = []
    loader = recording(plan, batch_window=5.0)

    async def main() -> list[int]:
        first = loader.load(1)
        loader.prime(1, 11)
        second = loader.load(2)
        return await asyncio.gather(first, second)

    assert [11, 20] == run_virtual(main)
    assert [[2]] == plan


async def test_m3_priming_a_running_key_serves_later_loads():
    """A value primed beside a running batch is for later loads; the waiters get theirs."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    early = [loader.load(1), loader.load(2)]
    many = asyncio.ensure_future(loader.load_many([2, 1]))
    await gate.running()

    loader.prime(1, "primed")
    late = loader.load(1)
    assert late.done()
    assert "primed" == late.result()
    gate.answers[0].set_result(["one", "two"])

    assert ["one", "two", ["two", "one"]] == await outcomes(*early, many)
    assert ["primed", "two"] == await within(loader.load_many([1, 2]))
    assert [[1, 2]] == gate.plan


async def test_m3_priming_a_running_key_does_not_cancel_its_batch():
    """A running batch goes on for its waiters when all its keys are primed."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    future = loader.load(1)
    await gate.running()

    loader.prime(1, "primed")
    await ticks(10)
    assert 0 == gate.cancelled
    gate.answers[0].set_result(["one"])

    assert ["one"] == await outcomes(future)


async def test_m3_a_joiner_of_a_running_batch_waits_on_after_a_prime():
    """Priming beside a running batch takes nothing from those who joined it before."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    first = loader.load(1)
    await gate.running()
    joiner = loader.load(1)

    loader.prime(1, "primed")
    first.cancel()
    await ticks(3)
    assert 0 == gate.cancelled
    gate.answers[0].set_result(["one"])

    assert ["one"] == await outcomes(joiner)


async def test_m3_a_primed_key_frees_its_place_in_the_batch():
    """A key that was primed away is not in the batch that leaves, whatever its size."""
    plan: list[list[int]] = []
    loader = recording(plan, max_batch_size=2)
    first = loader.load(1)

    loader.prime(1, 11)
    rest = [loader.load(2), loader.load(3)]

    assert [11, 20, 30] == await outcomes(first, *rest)
    assert [2, 3] == [key for keys in plan for key in keys]


async def test_m3_a_key_that_was_primed_and_cleared_in_one_tick_is_asked_for():
    """Priming settles who waits; a clear after it sends later loads to the batch function."""
    plan: list[list[int]] = []
    loader = recording(plan)
    early = loader.load(1)

    loader.prime(1, 11).clear(1)
    late = loader.load(1)

    assert [11, 10] == await outcomes(early, late)
    assert [[1]] == plan


async def test_m3_a_batch_function_may_prime_other_loaders_keys():
    """A batch function that primes another loader's open keys settles them."""
    plan: list[list[int]] = []
    by_name = recording(plan, batch_window=3600.0)

    async def load_fn(keys: list[int]) -> list[int]:
        for key in keys:
            by_name.prime(key, key * 100)
        return keys

    by_id = DataLoader(load_fn)

    assert [1, 100] == await outcomes(by_id.load(1), by_name.load(1))
    assert [] == plan


# peek


async def test_m3_peek_gives_only_what_is_there():
    """`peek` gives a remembered value, and the default for everything else."""
    gate = Gate()
    loader = DataLoader(gate.load_fn)
    assert loader.peek(1) is None
    assert "absent" == loader.peek(1, "absent")
    future = loader.load(1)
    assert "absent" == loader.peek(1, "absent")  # open
    await gate.running()
    assert "absent" == loader.peek(1, "absent")  # running
    gate.answers[0].set_result([10])
    await outcomes(future)

    assert 10 == loader.peek(1, "absent")


async def test_m3_peek_asks_for_nothing():
    """`peek` of an absent key starts no load."""
    plan: list[list[int]] = []
    loader = recording(plan)

    loader.peek(1)
    await ticks(20)

    assert [] == plan


def test_m3_peek_of_a_primed_error_is_the_default():
    """`peek` never hands an error out as a value."""
    loader = recording([]).prime(1, ValueError("primed"))

    assert "absent" == loader.peek(1, "absent")


# M4: keys


async def test_m4_none_is_no_key():
    """`load(None)` is a `TypeError` that names the loader."""
    plan: list[list[int]] = []
    loader = recording(plan, name="users")

    with pytest.raises(TypeError, match="users"):
        loader.load(None)
    await ticks(20)

    assert [] == plan


@pytest.mark.parametrize("key", [0, "", 0.0, False, (), frozenset(), b""])
async def test_m4_a_falsy_key_is_a_key(key: Any):
    """`0` and `""` are keys like any other."""
    plan: list[list[Any]] = []

    async def load_fn(keys: list[Any]) -> list[Any]:
        plan.append(list(keys))
        return [("value", key) for key in keys]

    loader = DataLoader(load_fn)

    assert ("value", key) == await within(loader.load(key))
    assert ("value", key) == loader.peek(key)
    assert [[key]] == plan


async def test_m4_equal_keys_are_one_key():
    """`0`, `0.0` and `False` are one key, asked for as it came first."""
    plan: list[list[Any]] = []
    loader = recording(plan)

    values = await outcomes(*map(loader.load, (0, 0.0, False, 1, True)))

    assert [0, 0, 0, 10, 10] == values
    assert [["0", "1"]] == [[repr(key) for key in keys] for keys in plan]


@pytest.mark.parametrize(
    "key, kind", [([1], "list"), ({1: 2}, "dict"), ({1}, "set"), (([1],), "tuple")]
)
async def test_m4_an_unhashable_key_is_a_type_error(key: Any, kind: str):
    """A key that can't be hashed is a `TypeError` naming the loader and the key's type."""
    plan: list[list[Any]] = []
    loader = recording(plan, name="users")

    with pytest.raises(TypeError, match=f"users.*{kind}|{kind}.*users"):
        loader.load(key)
    with pytest.raises(TypeError, match=f"users.*{kind}|{kind}.*users"):
        loader.load_many([key])
    await ticks(20)

    assert [] == plan


async def test_m4_an_unhashable_key_does_not_spoil_the_open_batch():
    """The keys that wait already are served after a bad one."""
    plan: list[list[Any]] = []
    loader = recording(plan)
    future = loader.load(1)

    with pytest.raises(TypeError):
        loader.load([2])

    assert [10] == await outcomes(future)
    assert [[1]] == plan


async def test_m4_a_cache_key_fn_makes_unhashable_keys_possible():
    """With a `cache_key_fn` the batch function gets the unhashable originals."""
    plan: list[list[list[int]]] = []

    async def load_fn(keys: list[list[int]]) -> list[int]:
        plan.append(list(keys))
        return [sum(key) for key in keys]

    loader: DataLoader[list[int], int] = DataLoader(load_fn, cache_key_fn=tuple)

    assert [3, 7, 3] == await within(loader.load_many([[1, 2], [3, 4], [1, 2]]))
    assert 3 == await within(loader.load([1, 2]))
    assert [[[1, 2], [3, 4]]] == plan


async def test_m4_an_unhashable_cache_key_is_a_type_error():
    """A `cache_key_fn` that returns what can't be hashed is named in a `TypeError`."""
    loader: DataLoader[Any, Any] = recording([], cache_key_fn=lambda key: [key], name="users")

    with pytest.raises(TypeError, match="users.*list|list.*users"):
        loader.load(1)


async def test_m4_an_error_of_the_cache_key_fn_is_raised_to_its_caller():
    """What a `cache_key_fn` raises comes out of `load` and queues nothing."""
    plan: list[list[Any]] = []
    loader = recording(plan, cache_key_fn=lambda key: key.lower())

    with pytest.raises(AttributeError):
        loader.load(1)
    with pytest.raises(AttributeError):
        loader.load_many(["a", 1])
    await ticks(20)

    assert [] == plan


@pytest.mark.parametrize("bad", [None, [2]])
async def test_m4_load_many_checks_all_keys_before_it_queues_any(bad: Any):
    """A bad key anywhere in a `load_many` is raised at the call, and nothing is asked."""
    plan: list[list[Any]] = []
    loader = recording(plan, name="users", max_batch_size=1)

    with pytest.raises(TypeError, match="users"):
        loader.load_many([1, bad, 3])
    with pytest.raises(TypeError, match="users"):
        loader.load_many([1, bad, 3], return_exceptions=True)
    await ticks(20)

    assert [] == plan


async def test_m4_load_many_queues_nothing_when_its_keys_end_in_an_error():
    """An iterable that raises half-way leaves nothing in the open batch."""
    plan: list[list[int]] = []
    loader = recording(plan)

    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("half-way")

    with pytest.raises(LookupError, match="half-way"):
        loader.load_many(broken())
    await ticks(20)

    assert [] == plan


# M5: load_many


async def test_m5_load_many_gives_the_values_in_key_order():
    """`load_many` gives one value per key, in the order of its keys, repeats included."""
    plan: list[list[int]] = []
    loader = recording(plan)

    assert [30, 10, 30, 20, 10] == await within(loader.load_many([3, 1, 3, 2, 1]))
    assert [[3, 1, 2]] == plan


@pytest.mark.parametrize("keys", [(1, 2), range(1, 3), {1: "a", 2: "b"}, {1: 0, 2: 0}.keys()])
async def test_m5_load_many_takes_any_iterable(keys: Any):
    """`load_many` takes a tuple, a range, a dict or its keys."""
    plan: list[list[int]] = []

    assert [10, 20] == await within(recording(plan).load_many(keys))
    assert [[1, 2]] == plan


async def test_m5_load_many_takes_a_generator():
    """`load_many` takes a generator and reads it once, when called."""
    plan: list[list[int]] = []
    read: list[int] = []

    def keys() -> Iterator[int]:
        for key in (1, 2, 3):
            read.append(key)
            yield key

    many = recording(plan).load_many(keys())
    assert [1, 2, 3] == read

    assert [10, 20, 30] == await within(many)
    assert [[1, 2, 3]] == plan


async def test_m5_load_many_of_nothing_is_an_empty_list():
    """`load_many([])` is `[]` and asks for nothing, with or without an open batch."""
    plan: list[list[int]] = []
    loader = recording(plan)

    assert [] == await within(loader.load_many([]))
    assert [] == await within(loader.load_many([], return_exceptions=True))
    future = loader.load(1)
    assert [] == await within(loader.load_many(()))
    assert [10] == await outcomes(future)
    assert [[1]] == plan


async def test_m5_load_many_of_what_is_no_iterable_is_a_type_error():
    """A single key given to `load_many` is a `TypeError`."""
    with pytest.raises(TypeError):
        recording([]).load_many(1)


async def test_m5_load_many_queues_when_called():
    """A `load_many` that is awaited later is in the batch of the moment it was called."""
    plan: list[list[int]] = []
    loader = recording(plan)

    many = loader.load_many([1, 2])
    future = loader.load(3)
    assert 30 == await within(future)

    assert [[1, 2, 3]] == plan
    assert [10, 20] == await within(many)


async def test_m5_a_load_many_that_is_not_awaited_is_loaded():
    """A `load_many` that nobody awaits fills the memo and gives no warning."""
    plan: list[list[int]] = []
    loader = recording(plan)

    many = loader.load_many([1, 2])
    await ticks(20)

    assert [[1, 2]] == plan
    assert [10, 20] == [loader.peek(key) for key in (1, 2)]
    del many
    gc.collect()


async def test_m5_load_many_joins_the_flights_of_its_keys():
    """`load_many` takes hits, open, running and new keys together."""
    gate = Gate()
    loader = DataLoader(gate.load_fn).prime(1, "hit")
    running = loader.load(2)
    await gate.running()
    opened = loader.load(3)
    many = asyncio.ensure_future(loader.load_many([4, 3, 2, 1]))
    await gate.running(2)
    gate.answers[1].set_result(["open", "new"])
    await ticks(3)
    assert not many.done()
    gate.answers[0].set_result(["running"])

    assert ["new", "open", "running", "hit"] == await within(many)
    assert ["running", "open"] == await outcomes(running, opened)
    assert [[2], [3, 4]] == gate.plan


async def test_m5_load_many_raises_the_first_error_in_key_order():
    """Of several errors `load_many` raises that of the first key, not the first to come."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, max_batch_size=1)
    many = asyncio.ensure_future(loader.load_many([1, 2, 3]))
    await gate.running(3)

    gate.answers[2].set_exception(ValueError("third"))
    await ticks(3)
    gate.answers[1].set_exception(ValueError("second"))
    await ticks(3)
    assert not many.done()
    gate.answers[0].set_result([10])

    with pytest.raises(ValueError, match="second"):
        await within(many)


async def test_m5_load_many_raises_after_all_keys_have_settled():
    """An early error of the first key does not end `load_many` while others are loading."""
    gate = Gate()
    loader = DataLoader(gate.load_fn, max_batch_size=1)
    many = asyncio.ensure_future(loader.load_many([1, 2]))
    await gate.running(2)

    gate.answers[0].set_exception(ValueError("first"))
    await ticks(10)
    assert not many.done()
    gate.answers[1].set_result([20])

    with pytest.raises(ValueError, match="first"):
        await within(many)
    assert 20 == loader.peek(2)


async def test_m5_load_many_raises_per_key_errors_in_key_order():
    """Per-key errors of one batch are raised in the order of the keys of the call."""

    async def load_fn(keys: list[int]) -> list[Any]:
        return [ValueError(f"key {key}") if key > 1 else key for key in keys]

    loader: DataLoader[int, Any] = DataLoader(load_fn)
    early = loader.load(3)

    with pytest.raises(ValueError, match="key 2"):
        await within(loader.load_many([1, 2, 3]))
    with pytest.raises(ValueError, match="key 3"):
        await within(early)


async def test_m5_return_exceptions_puts_errors_in_their_places():
    """With `return_exceptions=True` the list holds values and errors, repeats included."""

    async def load_fn(keys: list[int]) -> list[Any]:
        return [ValueError(f"key {key}") if key > 1 else key for key in keys]

    loader: DataLoader[int, Any] = DataLoader(load_fn)

    values = await within(loader.load_many([2, 1, 3, 2], return_exceptions=True))

    assert ["key 2", 1, "key 3", "key 2"] == [
        str(value) if isinstance(value, ValueError) else value for value in values
    ]


async def test_m5_return_exceptions_covers_the_failure_of_a_batch():
    """With `return_exceptions=True` a failed batch is an error in each of its places."""
    error = ValueError("failed")
    gate = Gate()
    loader = DataLoader(gate.load_fn, max_batch_size=2)
    many = asyncio.ensure_future(loader.load_many([1, 2, 3], return_exceptions=True))
    await gate.running(2)
    gate.answers[0].set_exception(error)
    gate.answers[1].set_result([30])

    assert [error, error, 30] == await within(many)


async def test_m5_return_exceptions_is_keyword_only():
    """`return_exceptions` must be named."""
    with pytest.raises(TypeError):
        recording([]).load_many([1], True)


async def test_m5_several_load_many_share_a_batch():
    """Calls of `load_many` at about the same time become one batch of distinct keys."""
    plan: list[list[int]] = []
    loader = recording(plan)

    values = await within(asyncio.gather(loader.load_many([1, 2]), loader.load_many([2, 3])))

    assert [[10, 20], [20, 30]] == values
    assert [[1, 2, 3]] == plan


async def test_m5_the_list_belongs_to_its_caller():
    """A caller that changes the list it got changes nobody else's."""
    loader = recording([])
    first, second = await within(asyncio.gather(loader.load_many([1]), loader.load_many([1])))

    first.append("mine")

    assert [10] == second
    assert [10] == await within(loader.load_many([1]))


@pytest.mark.loop_kinds("asyncio")
async def test_m5_load_many_costs_no_future_per_key():
    """A `load_many` of a thousand keys makes a handful of futures."""

    def futures() -> int:
        return sum(isinstance(thing, asyncio.Future) for thing in gc.get_objects())

    gate = Gate()
    loader = DataLoader(gate.load_fn)
    gc.collect()
    before = futures()

    many = asyncio.ensure_future(loader.load_many(range(1_000)))
    pending = futures() - before
    await gate.running()
    running = futures() - before
    gate.answers[0].set_result(list(range(1_000)))

    assert list(range(1_000)) == await within(many)
    assert pending < 20
    assert running < 20


@pytest.mark.parametrize("method", ["load", "peek", "clear"])
def test_m4_none_is_no_key_for_any_method(method: str):
    """What `load` refuses is refused by what reads and clears the memo, with the same error."""
    loader = recording([], name="users")

    with pytest.raises(TypeError) as caught:
        getattr(loader, method)(None)
    assert "loader 'users' was given None as a key; leave it out" == str(caught.value)


def test_m4_clear_many_clears_nothing_where_it_refuses_a_key():
    """`clear_many` checks all of its keys before it clears any of them."""
    loader = recording([], name="users").prime(1, 10)

    with pytest.raises(TypeError, match="None as a key"):
        loader.clear_many([1, None])
    assert 10 == loader.peek(1)


def test_m4_clear_many_of_what_is_no_iterable_names_the_loader():
    """`clear_many(5)` says what it needs, as `load_many(5)` does."""
    loader = recording([], name="users")
    number: Any = 5

    with pytest.raises(TypeError) as caught:
        loader.clear_many(number)
    assert (
        "loader 'users': clear_many needs an iterable of keys: 'int' object is not iterable"
    ) == str(caught.value)


@pytest.mark.parametrize("key", [[1, 2], {1, 2}], ids=["list", "set"])
def test_m4_a_list_of_keys_is_told_of_load_many(key: Any):
    """Who gives `load` several keys at once learns which method takes them."""
    loader = recording([], name="users")

    with pytest.raises(TypeError, match="if it holds several keys, use load_many$"):
        loader.load(key)


def test_m4_an_unhashable_key_that_is_no_list_is_not_told_of_load_many():
    """A dict is one key, and so is what a `cache_key_fn` was given."""
    key: Any = {"id": 1}
    keyed = recording([], cache_key_fn=lambda key: key)

    for loader, wrong in ((recording([]), key), (keyed, [1])):
        with pytest.raises(TypeError, match="makes a hashable key of it$"):
            loader.peek(wrong)
