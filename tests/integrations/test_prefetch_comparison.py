"""The answer with `PrefetchingExecutionContext` is that without it, over thousands of cases.

A case is a schema, data with errors in it, and an operation with its variables, all made of
numbers. It is executed in virtual time, with and without the executor, and compared:

- the data, with the order of its keys;
- message and path of each error;
- the batches: what was asked for, of which loader, in how many batches and at what time;
- how long it took.

The executor does what graphql-core does in the same ticks of the event loop, and most cases are the
same to the letter. Few are left in which ticks differ: an object that has a coroutine too is
completed by a task, which begins a tick later before Python 3.12 and ends a tick later, and a list
that needs no task is complete sooner. That matters where errors make a parent null: where several
meet, any of them may be the one that is reported, and what was still to be loaded for the parent
may be loaded or not, which the specification of GraphQL leaves open. So errors that made a parent
null are compared by that parent, and batches and time only where there are none; all else is
compared to the letter, and how many cases are not the same to the letter is limited. Of what is
asked for at the same time, the executor may make fewer batches, and never more.

A run is of 2,000 cases, and one of as many as wanted, from a first one on, is

    python -m tests.integrations.test_prefetch_comparison 100000 [first case] [--strict]

which compares with no allowance where it is strict: all errors, batches by time and loader, their
number, and the time.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import logging
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dataloader_cache.testing import BatchRecorder, VirtualTimeLoop

strawberry = pytest.importorskip("strawberry")

from graphql import parse, validate  # noqa: E402
from strawberry.extensions import DisableValidation, ParserCache  # noqa: E402
from strawberry.schema.config import StrawberryConfig  # noqa: E402

from dataloader_cache.integrations.strawberry import (  # noqa: E402
    DataLoaderExtension,
    PrefetchingExecutionContext,
)
from tests.integrations.generated_cases import Case, make_case, types_of, world  # noqa: E402

CASES = 2_000
SCHEMAS = 50
CASES_PER_SCHEMA = 200

# A hit waits for the open batch of its loader, and a load joins the batch that is open; so it
# matters which comes first. Before Python 3.12, where a task can't begin at once, that is another
# one in about one case of 100,000.
DIFFER_IN_TICKS: set[str] = set()
if sys.version_info < (3, 12):
    DIFFER_IN_TICKS = {"batches", "number of batches", "time"}

Path = tuple[str | int, ...]


class Counting(PrefetchingExecutionContext):
    """Count the fields whose values were filled in."""

    filled = 0

    def _value_of(self, gap: Any) -> Any:
        Counting.filled += 1
        return super()._value_of(gap)


class TimedRecorder(BatchRecorder):
    """Record when each batch was sent."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.batches: list[tuple[float, str, list[Any]]] = []
        self._loop = loop
        self._begin = loop.time()

    @property
    def seconds(self) -> float:
        return round(self._loop.time() - self._begin, 6)

    def _record(self, name: str, keys: list[Any]) -> None:
        self.batches.append((self.seconds, name, keys))


@dataclass
class Outcome:
    """What a case came to.

    There is one piece of data for each event of a subscription, and for any other operation one.
    Errors have the number of their event, a message and a path.
    """

    data: list[Any]
    errors: list[tuple[int, str, Path]]
    extra: list[Any]
    """What deferred parts have, in their own order of keys, and which parts failed as a whole."""
    batches: list[tuple[float, str, list[Any]]]
    seconds: float

    def own_errors(self) -> list[tuple[int, str, Path]]:
        """Give the errors of places that are null because of them, and of nothing around them."""
        return sorted(
            (error for error in self.errors if self._null_at(error) == error[2]), key=repr
        )

    def lost_parents(self) -> set[tuple[int, Path]]:
        """Give the places that are null because of errors below them."""
        places = ((error, self._null_at(error)) for error in self.errors)
        return {(error[0], place) for error, place in places if place != error[2]}

    def _null_at(self, error: tuple[int, str, Path]) -> Path:
        event, _, path = error
        value = self.data[event]
        for depth, key in enumerate(path):
            if value is None:
                return path[:depth]
            try:
                value = value[key]
            except (KeyError, IndexError):  # a part that was to be deferred or streamed
                return path[:depth]
        return path

    def sent(self) -> dict[tuple[float, str], list[Any]]:
        """Give the keys that each loader asked for at a time."""
        found: dict[tuple[float, str], list[Any]] = {}
        for seconds, name, keys in self.batches:
            found[seconds, name] = sorted([*found.get((seconds, name), ()), *keys])
        return found


def text_of(value: Any, case: Case) -> str:
    """Give data as text, which tells the order of keys.

    Parts that were deferred are put in in the order in which they come, which is of no interest.
    """
    return json.dumps(value, sort_keys=case.is_incremental)


def errors_of(errors: Iterable[Any] | None, event: int = 0) -> list[tuple[int, str, Path]]:
    return [(event, error.message, tuple(error.path or ())) for error in errors or ()]


@functools.lru_cache(maxsize=2 * SCHEMAS)
def schemas(number: int, is_incremental: bool) -> tuple[Any, Any]:
    """Make a schema that executes as usual, and one with the executor."""
    module = types_of(number).module
    options: dict[str, Any] = {
        "mutation": module.Mutation,
        "subscription": module.Subscription,
        "types": module.KINDS,
        "config": StrawberryConfig(enable_experimental_incremental_execution=is_incremental),
    }
    # Validating takes longer than all the rest, so it is done for some cases only.
    options["extensions"] = [DataLoaderExtension, DisableValidation, ParserCache]
    usual = strawberry.Schema(module.Query, **options)
    return usual, strawberry.Schema(module.Query, execution_context_class=Counting, **options)


class Comparison:
    """Execute cases on a loop of virtual time, and say what is different."""

    def __init__(self, *, is_strict: bool = False) -> None:
        self.is_strict = is_strict
        self.loop = VirtualTimeLoop()
        # What is lost at the end of an operation says so here; graphql-core does it too.
        self.loop.set_exception_handler(lambda loop, context: None)
        self.counts: Counter[str] = Counter()

    def compare(self, case: Case) -> dict[str, str]:
        """Execute a case both ways, and give what differs and how."""
        usual, prefetching = schemas(case.schema, case.is_incremental)
        expected = self._outcome(usual, case)
        Counting.filled = 0
        found = self._outcome(prefetching, case)
        lost = expected.lost_parents()
        if self.counts["cases"] % 50 == 0:
            invalid = validate(usual._schema, parse(case.query))
            assert not invalid, f"{invalid}\n{case}"
            gc.collect()
        self.counts["cases"] += 1
        self.counts[case.operation] += 1
        self.counts["with @defer or @stream"] += case.is_incremental
        self.counts["with errors"] += bool(expected.errors)
        self.counts["with lost parents"] += bool(lost)
        self.counts["of nothing but null"] += expected.data == [None]
        self.counts["prefetched"] += Counting.filled > 0
        self.counts["fields prefetched"] += Counting.filled
        self.counts["other error of a lost parent"] += expected.errors != found.errors
        self.counts["other batches for a lost parent"] += expected.sent() != found.sent()
        self.counts["sooner"] += found.seconds < expected.seconds
        self.counts["later, with lost parents"] += found.seconds > expected.seconds and bool(lost)
        spared = 0 if lost else len(expected.batches) - len(found.batches)
        self.counts["batches spared"] += max(0, spared)
        is_identical = expected == found and json.dumps(expected.data) == json.dumps(found.data)
        self.counts["identical to the letter"] += is_identical
        pairs: list[tuple[str, Any, Any]] = [
            ("data", text_of(expected.data, case), text_of(found.data, case)),
            ("deferred parts", expected.extra, found.extra),
        ]
        if self.is_strict:
            pairs += [
                ("errors", sorted(expected.errors, key=repr), sorted(found.errors, key=repr)),
                ("batches", expected.sent(), found.sent()),
                ("number of batches", len(expected.batches), len(found.batches)),
                ("time", expected.seconds, found.seconds),
            ]
        else:
            pairs += [
                ("own errors", expected.own_errors(), found.own_errors()),
                ("lost parents", lost, found.lost_parents()),
                ("batches", lost or expected.sent(), lost or found.sent()),
                ("number of batches", 0, min(0, spared)),
                ("time", 0.0, 0.0 if lost else max(0.0, found.seconds - expected.seconds)),
            ]
        differences = {
            what: f"{what} differs:\n{one}\n{other}" for what, one, other in pairs if one != other
        }
        self.counts.update(f"other {what}" for what in differences)
        return differences

    def _outcome(self, schema: Any, case: Case) -> Outcome:
        world.seed, world.bad = case.world, case.bad
        recorder = TimedRecorder(self.loop)
        with recorder:
            outcome = self.loop.run_until_complete(_execute(schema, case))
        outcome.batches, outcome.seconds = recorder.batches, recorder.seconds
        if asyncio.all_tasks(self.loop):
            self.loop.run_until_complete(asyncio.sleep(1))
        return outcome


async def _execute(schema: Any, case: Case) -> Outcome:
    outcome = Outcome([], [], [], [], 0.0)
    if case.operation == "subscription":
        events = await schema.subscribe(case.query)
        async for event in events:
            outcome.errors += errors_of(event.errors, len(outcome.data))
            outcome.data.append(event.data)
        return outcome
    root = types_of(case.schema).module.Query(id=1)
    result = await schema.execute(case.query, variable_values=case.variables, root_value=root)
    first = getattr(result, "initial_result", result)
    outcome.data.append(first.data)
    outcome.errors += errors_of(first.errors)
    if first is not result:
        await _take_frames(result, outcome)
    return outcome


async def _take_frames(result: Any, outcome: Outcome) -> None:
    """Put what frames bring into the data, as a client does."""
    places = {pending.id: list(pending.path) for pending in result.initial_result.pending}
    async for frame in result.subsequent_results:
        places.update((pending.id, list(pending.path)) for pending in frame.pending or ())
        for part in frame.incremental or ():
            outcome.errors += errors_of(part.errors)
            place: Any = outcome.data[0]
            for key in [*places[part.id], *(part.sub_path or ())]:
                place = place[key]
            if getattr(part, "items", None) is not None:
                place.extend(part.items)
            else:
                outcome.extra.append((places[part.id], json.dumps(part.data)))
                place.update(part.data)
        for completed in frame.completed or ():
            if completed.errors:
                outcome.errors += errors_of(completed.errors)
                outcome.extra.append((places[completed.id], None))
    outcome.extra.sort(key=repr)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the many errors of the cases out of the log.

    Coroutines that were cancelled before they began are warned of, with the executor and without.
    The collector shall find them here, where warnings can be ignored.
    """
    logger = logging.getLogger("strawberry.execution")
    was_disabled, logger.disabled = logger.disabled, True
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
        logger.disabled = was_disabled


@pytest.mark.timeout(600)
def test_the_answer_is_the_same() -> None:
    """2,000 generated cases have the same answer and batches, and most are prefetched."""
    comparison = Comparison()
    by_ticks: list[int] = []

    # What fails is a case of its own, as good as any smaller number would give.
    @settings(
        max_examples=CASES,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**64 - 1))
    def compare(number: int) -> None:
        case = make_case(number % SCHEMAS, number)
        differences = comparison.compare(case)
        if differences and differences.keys() <= DIFFER_IN_TICKS:
            by_ticks.append(number)
        else:
            assert not differences, f"{case}\n" + "\n".join(differences.values())

    with quiet():
        compare()
    comparison.loop.close()

    assert len(by_ticks) <= 1, by_ticks
    counts = comparison.counts
    assert counts["cases"] >= CASES
    assert counts["prefetched"] > counts["cases"] / 2
    assert counts["identical to the letter"] > 0.985 * counts["cases"]
    for kind in ("query", "mutation", "subscription", "with @defer or @stream", "with errors"):
        assert counts[kind] > counts["cases"] / 20, kind


def main() -> int:
    """Compare as many cases as the command asks for, and show those that differ."""
    numbers = [int(argument) for argument in sys.argv[1:] if argument != "--strict"]
    count, first = numbers[0], numbers[1] if numbers[1:] else 0
    comparison = Comparison(is_strict="--strict" in sys.argv)
    begin = time.monotonic()
    different = 0
    with quiet():
        for number in range(first, first + count):
            # One schema after the other, so that few have to be kept.
            case = make_case(number // CASES_PER_SCHEMA, number)
            differences = comparison.compare(case)
            if differences:
                different += 1
                print(f"case {number}: {case}", *differences.values(), "", sep="\n", flush=True)
            if number % 5_000 == 4_999:
                print(f"{number + 1 - first:,} cases, {different} differ", flush=True)
    print(f"{time.monotonic() - begin:.0f} seconds", dict(comparison.counts), sep="\n")
    print(f"{different} of {count:,} cases differ")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
