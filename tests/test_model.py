"""The memo held against a plain model of it: any operations in any order, rules D3 to M5.

The model is written from the rules, with a list of waiters for each key of each batch. Hypothesis
makes up programs; the machine runs each on a loader and on the model, and compares every future,
the memo and the batches after each tick. The batches leave when the machine says so and end when
and how it says, and every value has a version, so that a stale one shows.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import note, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dataloader_cache import DataLoader
from dataloader_cache.errors import BatchResultError, KeyNotFoundError, LoadCancelledError
from dataloader_cache.testing import BatchRecorder, VirtualTimeLoop

WINDOW = 1000.0  # virtual seconds, so that no batch leaves by itself

# Some keys are equal, and with the cache_key_fn more are.
KEYS = st.sampled_from([0, 1, 2, 3, 4, 5, 1.0, True])


def remainder(key: Any) -> str:
    """Serve as cache_key_fn: 0 and 4 are one key, and 1 and 5."""
    return f"k{int(key) % 4}"


ABSENT: Any = object()


# The model


class Wait:
    """What one caller waits for: `outcome` when it has come, by key while it has not."""

    def __init__(self, keys: list[Any], *, many: bool, return_exceptions: bool = False) -> None:
        self.keys = keys
        self.many = many
        self.return_exceptions = return_exceptions
        self.found: dict[Any, Any] = {}
        self.held_back = False  # a hit that waits for the open batch
        self.done = False
        self.cancelled = False
        self.outcome: Any = None

    def give(self, key: Any, value: Any) -> None:
        self.found[key] = value
        self.end_if_complete()

    def end_if_complete(self) -> None:
        if self.done or self.held_back or any(key not in self.found for key in self.keys):
            return
        self.done = True
        values = [self.found[key] for key in self.keys]
        errors = [value for value in values if isinstance(value, Error)]
        if self.many and (self.return_exceptions or not errors):
            self.outcome = values
        else:
            self.outcome = errors[0] if errors else values[0]

    def cancel(self) -> None:
        if not self.done:
            self.done = self.cancelled = True


@dataclass(frozen=True)
class Error:
    """An error in the model: a kind, and which one of it where it was made by the machine."""

    kind: type[BaseException]
    number: int | None = None

    def is_seen_in(self, error: object) -> bool:
        if type(error) is not self.kind:
            return False
        return self.number is None or self.number == error.args[0]


@dataclass(eq=False)
class Sent:
    """A batch of the model, open or running: cache key to key, and to waits."""

    originals: dict[Any, Any] = field(default_factory=dict)
    waits: dict[Any, list[Wait]] = field(default_factory=dict)
    hits: list[Wait] = field(default_factory=list)

    def conclude(self, results: dict[Any, Any]) -> None:
        for key, waits in self.waits.items():
            for wait in waits:
                wait.give(key, results[key])
        for wait in self.hits:
            wait.held_back = False
            wait.end_if_complete()


class Model:
    """A loader in which nothing takes time and nothing is clever."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.cache: bool = options["cache"]
        self.cache_errors: bool = options["cache_errors"]
        self.limit: int = options["max_batch_size"] or 10**9
        self.key_fn: Callable[[Any], Any] = options["cache_key_fn"] or (lambda key: key)
        self.memo: dict[Any, Any] = {}  # cache key to a Sent, an Error or a value
        self.open: Sent | None = None
        self.running: list[Sent] = []
        self.plan: list[list[Any]] = []
        self.loads = self.hits = 0

    def load(self, key: Any) -> Wait:
        cache_key = self.key_fn(key)
        wait = Wait([cache_key], many=False)
        self.loads += 1
        if not self.take_hit(cache_key, wait):
            self.enqueue(key, cache_key, wait)
        elif self.open is not None:
            self.hold_back(wait)
        wait.end_if_complete()
        return wait

    def load_many(self, keys: list[Any], return_exceptions: bool) -> Wait:
        distinct: dict[Any, Any] = {}
        for key in keys:
            distinct.setdefault(self.key_fn(key), key)
        cache_keys = [self.key_fn(key) for key in keys]
        wait = Wait(cache_keys, many=True, return_exceptions=return_exceptions)
        self.loads += len(keys)
        missed = {k: key for k, key in distinct.items() if not self.take_hit(k, wait)}
        # What is in flight is joined before anything is added, so that no batch fills up first.
        for cache_key in sorted(missed, key=lambda cache_key: cache_key not in self.memo):
            self.enqueue(missed[cache_key], cache_key, wait)
        if keys and not missed and self.open is not None:
            self.hold_back(wait)
        wait.end_if_complete()
        return wait

    def take_hit(self, cache_key: Any, wait: Wait) -> bool:
        entry = self.memo.get(cache_key, ABSENT)
        if entry is ABSENT or isinstance(entry, Sent):
            return False
        self.hits += 1
        wait.found[cache_key] = entry
        return True

    def hold_back(self, wait: Wait) -> None:
        assert self.open is not None
        wait.held_back = True
        self.open.hits.append(wait)

    def enqueue(self, key: Any, cache_key: Any, wait: Wait) -> None:
        flight = self.memo.get(cache_key)
        if flight is not None:
            flight.waits[cache_key].append(wait)
            return
        if self.open is None:
            self.open = Sent()
        batch = self.open
        batch.originals.setdefault(cache_key, key)
        batch.waits.setdefault(cache_key, []).append(wait)
        if self.cache:
            self.memo[cache_key] = batch
        if len(batch.waits) >= self.limit:
            self.send()

    def send(self) -> None:
        batch, self.open = self.open, None
        if batch is None:
            return
        for cache_key, waits in list(batch.waits.items()):
            if all(wait.done for wait in waits):
                del batch.waits[cache_key]
                self.forget_flight(cache_key, batch)
        if batch.waits:
            self.plan.append([batch.originals[cache_key] for cache_key in batch.waits])
            self.running.append(batch)
        else:
            batch.conclude({})

    def forget_flight(self, cache_key: Any, batch: Sent) -> None:
        if self.memo.get(cache_key) is batch:
            del self.memo[cache_key]

    def notice_desertions(self) -> None:
        for batch in list(self.running):
            if all(wait.done for waits in batch.waits.values() for wait in waits):
                self.finish(
                    batch, dict.fromkeys(batch.waits, Error(LoadCancelledError)), fails=True
                )

    def finish(self, batch: Sent, results: dict[Any, Any], *, fails: bool) -> None:
        self.running.remove(batch)
        for cache_key, value in results.items():
            if self.memo.get(cache_key) is not batch:
                continue
            if fails or (isinstance(value, Error) and not self.cache_errors):
                del self.memo[cache_key]
            else:
                self.memo[cache_key] = value
        batch.conclude(results)

    def clear(self, key: Any) -> None:
        self.memo.pop(self.key_fn(key), None)

    def clear_all(self) -> None:
        self.memo.clear()

    def prime(self, key: Any, value: Any, force: bool) -> None:
        cache_key = self.key_fn(key)
        entry = self.memo.get(cache_key, ABSENT)
        is_known = entry is not ABSENT and not isinstance(entry, Sent)
        if not self.cache or (is_known and not force):
            return
        self.memo[cache_key] = value
        if self.open is not None and cache_key in self.open.waits:
            for wait in self.open.waits.pop(cache_key):
                wait.give(cache_key, value)
            del self.open.originals[cache_key]
            if not self.open.waits:
                self.send()

    def peek(self, key: Any) -> Any:
        entry = self.memo.get(self.key_fn(key), ABSENT)
        return ABSENT if isinstance(entry, (Sent, Error)) else entry

    def close(self) -> None:
        for batch in [*self.running, *([self.open] if self.open else [])]:
            batch.conclude(dict.fromkeys(batch.waits, Error(LoadCancelledError)))
        self.memo.clear()
        self.open, self.running = None, []


# The machine


class Failure(Exception):
    """An error that the machine makes, with a number of its own."""


OPERATIONS = st.one_of(
    st.tuples(st.just("load"), KEYS),
    st.tuples(st.just("load_many"), st.lists(KEYS, max_size=5), st.booleans()),
    st.tuples(st.just("clear"), KEYS),
    st.tuples(st.just("clear_all")),
    st.tuples(st.just("prime"), KEYS, st.booleans(), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("cancel_all")),
    st.tuples(st.just("dispatch")),
)

GOOD = ["list", "tuple", "mapping", "lacking"]
ENDS = st.sampled_from([*GOOD, *GOOD, "raise", "cancel", "none", "short"])
# Which keys of a batch come with an error: often none.
BAD = st.just([False] * 6) | st.lists(st.booleans(), min_size=6, max_size=6)


class MemoMachine(RuleBasedStateMachine):
    """Do the same to a loader and to the model."""

    @initialize(
        cache=st.booleans() | st.just(True),
        cache_errors=st.booleans(),
        max_batch_size=st.sampled_from([None, None, 1, 2, 3]),
        by_remainder=st.booleans(),
        missing=st.sampled_from(["none", "raise"]),
    )
    def start(
        self,
        cache: bool,
        cache_errors: bool,
        max_batch_size: int | None,
        by_remainder: bool,
        missing: Any,
    ) -> None:
        options: dict[str, Any] = {
            "cache": cache,
            "cache_errors": cache_errors,
            "max_batch_size": max_batch_size,
            "cache_key_fn": remainder if by_remainder else None,
        }
        self.missing = missing
        self.loop = VirtualTimeLoop()
        self.reports: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.reports.append(context))
        self.recorder = BatchRecorder()
        self.recorder.__enter__()
        self.gates: list[asyncio.Future[Callable[[], Any]]] = []
        self.numbers = itertools.count()
        self.pairs: list[tuple[Any, Wait]] = []
        self.model = Model(options)
        self.started: dict[int, Sent] = {}
        self.loader: DataLoader[Any, Any] = DataLoader(
            self.load_fn, batch_window=WINDOW, missing=missing, **options
        )

    async def load_fn(self, keys: list[Any]) -> Any:
        gate: asyncio.Future[Callable[[], Any]] = self.loop.create_future()
        self.gates.append(gate)
        keys.clear()
        return (await gate)()

    def tick(self, action: Callable[[], None] = lambda: None) -> None:
        """Run one turn of the event loop, with `action` as the last thing in it."""
        errors: list[BaseException] = []

        def act() -> None:
            self.model.notice_desertions()
            try:
                action()
            except BaseException as error:
                errors.append(error)

        self.loop.call_soon(act)
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        if errors:
            raise errors[0]

    def perform(self, operation: tuple[Any, ...]) -> None:
        name, *arguments = operation
        getattr(self, f"do_{name}")(*arguments)

    def do_load(self, key: Any) -> None:
        self.pairs.append((self.loader.load(key), self.model.load(key)))

    def do_load_many(self, keys: list[Any], return_exceptions: bool) -> None:
        waiter = self.loader.load_many(keys, return_exceptions=return_exceptions)
        self.pairs.append((waiter, self.model.load_many(keys, return_exceptions)))

    def do_clear(self, key: Any) -> None:
        self.loader.clear(key)
        self.model.clear(key)

    def do_clear_all(self) -> None:
        self.loader.clear_all()
        self.model.clear_all()

    def do_prime(self, key: Any, is_error: bool, force: bool) -> None:
        number = next(self.numbers)
        value = f"primed {number}"
        self.loader.prime(key, Failure(number) if is_error else value, force=force)
        self.model.prime(key, Error(Failure, number) if is_error else value, force)

    def do_cancel(self, index: int) -> None:
        pending = [pair for pair in self.pairs if not pair[1].done]
        if pending:
            waiter, wait = pending[index % len(pending)]
            waiter.cancel()
            wait.cancel()

    def do_cancel_all(self) -> None:
        for waiter, wait in self.pairs:
            if not wait.done:
                waiter.cancel()
                wait.cancel()

    def do_dispatch(self) -> None:
        self.loader.dispatch()
        self.model.send()

    @rule(operation=OPERATIONS)
    def one(self, operation: tuple[Any, ...]) -> None:
        self.tick(lambda: self.perform(operation))

    @rule(operations=st.lists(OPERATIONS, min_size=2, max_size=6))
    def several_in_one_tick(self, operations: list[tuple[Any, ...]]) -> None:
        self.tick(lambda: [self.perform(operation) for operation in operations] and None)

    @rule(keys=st.lists(KEYS, min_size=1, max_size=6))
    def several_loads(self, keys: list[Any]) -> None:
        self.tick(lambda: [self.do_load(key) for key in keys] and None)

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4), leaving=st.sets(st.integers(0, 3)))
    def a_batch_of_its_own_that_some_leave(self, keys: list[Any], leaving: set[int]) -> None:
        self.tick(self.do_dispatch)
        self.tick(lambda: [self.do_load(key) for key in keys] and self.do_dispatch())
        pairs = self.pairs[-len(keys) :]
        self.tick()

        def leave() -> None:
            for index, (waiter, wait) in enumerate(pairs):
                if index in leaving and not wait.done:
                    waiter.cancel()
                    wait.cancel()

        self.tick(leave)

    @rule()
    def idle(self) -> None:
        self.tick()

    @precondition(lambda self: self.model.open is not None)
    @rule()
    def window_ends(self) -> None:
        async def wait() -> None:
            await asyncio.sleep(WINDOW)
            for _ in range(6):
                await asyncio.sleep(0)

        self.tick()
        self.loop.run_until_complete(wait())
        self.model.send()

    @precondition(lambda self: self.model.running)
    @rule(index=st.integers(0, 5), end=ENDS, bad=BAD)
    def finish(self, index: int, end: str, bad: list[bool]) -> None:
        self.tick()
        self.tick()
        running = self.model.running
        if not running:
            return
        batch = running[index % len(running)]
        # Gates are made in the order in which batches leave; those of deserted ones are cancelled.
        gate = [gate for gate in self.gates if not gate.done()][index % len(running)]
        result, results, fails = self.make_result(list(batch.waits), end, bad)
        note(f"batch of {list(batch.waits)} ends: {end} {results}")
        gate.set_result(result)
        self.tick()
        self.model.finish(batch, results, fails=fails)

    def make_result(
        self, keys: list[Any], end: str, bad: list[bool]
    ) -> tuple[Callable[[], Any], dict[Any, Any], bool]:
        """Give what the batch function returns, the model's results, and whether all failed."""
        number = next(self.numbers)
        if end == "raise":
            return raising(Failure(number)), dict.fromkeys(keys, Error(Failure, number)), True
        if end == "cancel":
            error = asyncio.CancelledError()
            return raising(error), dict.fromkeys(keys, Error(LoadCancelledError)), True
        if end == "none":
            return lambda: None, dict.fromkeys(keys, Error(BatchResultError)), True
        if end == "short":
            return (
                lambda: [number] * (len(keys) - 1),
                dict.fromkeys(keys, Error(BatchResultError)),
                True,
            )
        results: dict[Any, Any] = {}
        values: dict[Any, Any] = {}
        for key, is_bad in zip(keys, bad):
            results[key] = Error(Failure, number) if is_bad else f"loaded {number} for {key}"
            values[key] = Failure(number) if is_bad else results[key]
        if end == "list":
            return lambda: list(values.values()), results, False
        if end == "tuple":
            return lambda: tuple(values.values()), results, False
        if end == "lacking":
            for key, is_bad in zip(keys, bad):
                if is_bad:
                    del values[key]
                    is_error = self.missing == "raise"
                    results[key] = Error(KeyNotFoundError) if is_error else None
        return lambda: values, results, False

    @invariant()
    def every_future_is_as_in_the_model(self) -> None:
        for waiter, wait in getattr(self, "pairs", ()):
            assert wait.done == waiter.done(), (waiter, wait.keys)
            assert wait.cancelled == waiter.cancelled(), (waiter, wait.keys)
            if wait.done and not wait.cancelled:
                assert_same(wait.outcome, waiter.exception() or waiter.result())

    @invariant()
    def every_batch_is_as_in_the_model(self) -> None:
        if hasattr(self, "model"):
            assert self.model.plan == [keys for _, keys in self.recorder.plan]
            stats = self.loader.stats
            assert len(self.model.plan) == stats.batches
            assert sum(map(len, self.model.plan)) == stats.keys
            assert self.model.loads == stats.loads
            assert self.model.hits == stats.hits
            assert [] == self.reports

    @invariant()
    def the_memo_is_as_in_the_model(self) -> None:
        if hasattr(self, "model"):
            for key in range(6):
                assert self.model.peek(key) == self.loader.peek(key, ABSENT)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.tick()
            self.tick()
            self.loop.run_until_complete(self.loader.aclose())
            self.model.close()
            assert all(wait.done for _, wait in self.pairs)
            self.every_future_is_as_in_the_model()
            for _ in range(5):
                self.tick()
            assert set() == asyncio.all_tasks(self.loop)
            assert [] == self.reports
        finally:
            self.recorder.__exit__()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


def raising(error: BaseException) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise error

    return raise_it


def assert_same(expected: Any, found: Any) -> None:
    if isinstance(expected, list):
        assert isinstance(found, list)
        assert len(expected) == len(found)
        for one, other in zip(expected, found):
            assert_same(one, other)
    elif isinstance(expected, Error):
        assert expected.is_seen_in(found), (expected, found)
    else:
        assert expected == found


@pytest.mark.timeout(300)
def test_the_memo_does_what_the_model_does():
    """Whatever is done in whatever order, a loader answers as the model does."""
    machine = MemoMachine.TestCase
    machine.settings = settings(max_examples=300, stateful_step_count=40)
    machine().runTest()


@pytest.mark.parametrize("waiting", range(5))
@pytest.mark.parametrize("more", range(8))
async def test_a_load_many_that_fills_the_open_batch_goes_on_in_the_next(waiting: int, more: int):
    """However full the open batch is, each key is asked once and no batch is too large."""
    batches: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        batches.append(list(keys))
        return keys

    loader = DataLoader(load_fn, max_batch_size=4)
    waiters = [loader.load(key) for key in range(waiting)]
    keys = list(range(100, 100 + more))
    assert keys == await loader.load_many(keys)
    await asyncio.gather(*waiters)
    asked = [*range(waiting), *keys]
    assert [asked[start : start + 4] for start in range(0, len(asked), 4)] == batches


async def test_a_key_whose_caller_left_a_running_batch_is_remembered():
    """The batch ran for others, and what it brought for the key is a value like any other."""
    batches: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        batches.append(list(keys))
        left.cancel()
        await asyncio.sleep(0)
        return [key * 10 for key in keys]

    loader = DataLoader(load_fn)
    left, stayed = loader.load(1), loader.load(2)
    assert 20 == await stayed
    assert left.cancelled()
    assert 10 == loader.peek(1)
    assert 10 == await loader.load(1)
    assert [10, 20] == await loader.load_many([1, 2])
    assert [[1, 2]] == batches


async def test_hits_on_one_value_share_one_future():
    """A done future may be shared, so that a hit costs none."""

    async def load_fn(keys: list[int]) -> list[int]:
        return keys

    loader = DataLoader(load_fn)
    assert [1, 2] == await loader.load_many([1, 2])
    assert loader.load(1) is loader.load(1)
    assert loader.load(1) is not loader.load(2)
