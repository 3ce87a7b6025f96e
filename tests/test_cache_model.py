"""The result cache held against a plain model of it: any operations in any order, T1 to S4.

The model is written from the rules: a dict of entries, a list of timers, and loads with a list of
waits for each key. Hypothesis makes up programs; the machine runs each on a cache and on the model
and compares every caller, every call of a loader, every counter and what is stored. Loads end when
and how the machine says, time passes when it says, and every value is another one, so that a stale
or an overtaken one shows. With "lru" the model knows what is evicted, too.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import note, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dataloader_cache import AsyncCache
from dataloader_cache.errors import (
    BatchResultError,
    ConfigurationValueError,
    LoadCancelledError,
    LoadTimeoutError,
)
from dataloader_cache.testing import ManualClock, VirtualTimeLoop

ABSENT: Any = object()
FOR_EVER = float("inf")
WINDOW = 0.125
SETTLING = 7  # ticks after which nothing moves: a load ends, the next starts, callers wake up

KEYS = st.sampled_from([0, 1, 2, 3, 1.0, True])
TAGS = ["red", "blue"]


def by_parity(key: Any, value: Any) -> list[str]:
    """Serve as a tag function: even keys are red, odd ones are blue."""
    return [TAGS[int(key) % 2]]


def two_seconds(key: Any, value: Any) -> float:
    """Serve as a TTL function."""
    return 2.0


def less_than_nothing(key: Any, value: Any) -> float:
    """Serve as a TTL function that is wrong, so that the load fails when it has ended."""
    return -1.0


# The model


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
class Wait:
    """What one caller waits for: `outcome` when it has come."""

    keys: list[Any]
    many: bool = False
    return_exceptions: bool = False
    found: dict[Any, Any] = field(default_factory=dict)
    done: bool = False
    cancelled: bool = False
    # A caller of get_many lets go of its keys one tick after it was cancelled.
    left: bool = False
    outcome: Any = None

    def waits_for(self, key: Any) -> bool:
        return not self.left and key not in self.found

    def give(self, key: Any, value: Any) -> None:
        self.found[key] = value
        if self.done or any(key not in self.found for key in self.keys):
            return
        self.done = True
        errors = [self.found[key] for key in self.keys if isinstance(self.found[key], Error)]
        if self.many and (self.return_exceptions or not errors):
            self.outcome = {key: self.found[key] for key in self.keys}
        else:
            self.outcome = errors[0] if errors else self.found[self.keys[0]]


@dataclass
class Held:
    """A stored value."""

    value: Any
    fresh_until: float
    expires_at: float
    tags: list[str]


@dataclass(eq=False)
class Load:
    """A call of a loader or batch loader: open, queueing, running or over."""

    name: str
    is_open: bool = False
    has_slot: bool = False
    is_over: bool = False
    was_reported: bool = False
    flights: dict[Any, Flight] = field(default_factory=dict)


@dataclass(eq=False)
class Flight:
    """One key of a load."""

    key: Any
    load: Load
    ttl: Any
    tags: Any
    waits: list[Wait] = field(default_factory=list)
    is_detached: bool = False
    is_over: bool = False
    is_forced: bool = False
    is_soft: bool = False
    has_soft_timer: bool = False
    suspects: set[str] = field(default_factory=set)


COUNTERS = [
    "hits",
    "misses",
    "joins",
    "loads",
    "load_errors",
    "load_timeouts",
    "stale_hits",
    "refreshes",
    "evicted_for_room",
    "evicted_for_age",
]


class Model:
    """A cache in which nothing takes time and nothing is clever."""

    def __init__(self, options: dict[str, Any], puts: deque[tuple[Any, list[Any]]]) -> None:
        self.options = options
        self.maxsize: int | None = options["maxsize"]
        self.stale_ttl: float = options["stale_ttl"]
        self.entries: dict[Any, Held] = {}  # the least recently used one first
        self.retry_at: dict[Any, float] = {}
        self.flights: dict[Any, Flight] = {}
        self.open: dict[str, Load] = {}
        self.queue: list[Load] = []
        self.running = 0
        self.plan: list[Load] = []
        self.timers: list[tuple[float, Flight | None, Callable[[], None]]] = []
        self.now = self.loop_time = 0.0
        self.reports = 0
        self.counts = dict.fromkeys(COUNTERS, 0)
        # What the cache says that it evicted, in the order in which it stored.
        self.puts = puts

    # Callers

    def get(self, wait: Wait, key: Any, name: str | None, ttl: Any, tags: Any) -> None:
        entry = self.entries.get(key)
        if entry is not None and self.now < entry.expires_at:
            self.use(key)
            self.counts["hits"] += 1
            is_late = self.now >= max(entry.fresh_until, self.retry_at.get(key, 0.0))
            if name is not None and is_late and key not in self.flights:
                self.counts["refreshes"] += 1
                self.start(key, name, ttl, tags)
            wait.give(key, entry.value)
            return
        self.counts["misses"] += 1
        stale = None
        if entry is not None:
            if self.is_dead(entry):
                self.age_out(key)
            else:
                stale = entry
        if name is None:
            wait.give(key, None)
        elif stale is not None and self.now < self.retry_at.get(key, 0.0):
            self.counts["stale_hits"] += 1
            wait.give(key, stale.value)
        else:
            self.join_or_load(wait, key, name, ttl, tags, stale)

    def join_or_load(
        self, wait: Wait, key: Any, name: str, ttl: Any, tags: Any, stale: Held | None
    ) -> None:
        flight = self.flights.get(key)
        if flight is None or flight.suspects:
            flight = self.start(key, name, ttl, tags)
        else:
            self.counts["joins"] += 1
            if flight.is_soft and stale is not None:
                self.counts["stale_hits"] += 1
                wait.give(key, stale.value)
                return
        flight.waits.append(wait)
        soft_timeout = self.options["soft_timeout"]
        if stale is not None and soft_timeout is not None and not flight.has_soft_timer:
            flight.has_soft_timer = True
            self.add_timer(soft_timeout, flight, lambda: self.soften(flight))

    def get_many(self, wait: Wait, keys: list[Any], name: str, ttl: Any, tags: Any) -> None:
        for key in dict.fromkeys(keys):
            self.get(wait, key, name, ttl, tags)
        if name in self.open:
            self.send(self.open[name])
        if not keys:
            wait.done, wait.outcome = True, {}

    def refresh(self, wait: Wait, key: Any, name: str, ttl: Any, tags: Any) -> None:
        flight = self.flights.get(key)
        if flight is not None and flight.is_forced and not flight.suspects:
            self.counts["joins"] += 1
        else:
            if self.peek(key) is not ABSENT:
                self.counts["refreshes"] += 1
            flight = self.start(key, name, ttl, tags)
            flight.is_forced = True
        flight.waits.append(wait)

    def peek(self, key: Any) -> Any:
        entry = self.entries.get(key)
        return entry.value if entry is not None and self.now < entry.expires_at else ABSENT

    # Loads

    def start(self, key: Any, name: str, ttl: Any, tags: Any) -> Flight:
        load = Load(name)
        if name.startswith("batch"):
            load = self.open.get(name, load)
            if key in load.flights:
                self.send(load)
                load = Load(name)
        flight = self.flights[key] = load.flights[key] = Flight(key, load, ttl, tags)
        if self.options["load_timeout"] is not None:
            self.add_timer(self.options["load_timeout"], flight, lambda: self.time_out(flight))
        if not name.startswith("batch"):
            self.launch(load)
            return flight
        if not load.is_open:
            load.is_open = True
            self.open[name] = load
            self.add_timer(WINDOW, None, lambda: self.send(load))
        if len(load.flights) == self.options["max_batch_size"]:
            self.send(load)
        return flight

    def add_timer(self, seconds: float, flight: Flight | None, action: Callable[[], None]) -> None:
        self.timers.append((self.loop_time + seconds, flight, action))

    def pass_time(self, until: float) -> None:
        due = sorted((t for t in self.timers if t[0] <= until), key=lambda timer: timer[0])
        self.timers = [timer for timer in self.timers if timer[0] > until]
        for _, flight, action in due:
            if flight is None or not flight.is_over:
                action()

    def send(self, load: Load) -> None:
        if load.is_open:
            load.is_open = False
            del self.open[load.name]
            self.launch(load)

    def launch(self, load: Load) -> None:
        most = self.options["max_concurrent_loads"]
        if most is not None and self.running >= most:
            self.queue.append(load)
            return
        load.has_slot = True
        self.running += 1
        self.counts["loads"] += 1
        self.plan.append(load)

    def end(self, load: Load, results: dict[Any, Any]) -> None:
        """End a load with a value or an error for each key."""
        for key, value in results.items():
            flight = load.flights[key]
            if isinstance(value, Error):
                self.crash(flight, value)
            else:
                self.land(flight, value)
        self.give_up(load)

    def give_up(self, load: Load) -> None:
        if load.is_over:
            return
        load.is_over = True
        if load.is_open:
            load.is_open = False
            del self.open[load.name]
        if load in self.queue:
            self.queue.remove(load)
        if load.has_slot:
            self.running -= 1
            most = self.options["max_concurrent_loads"] or FOR_EVER
            while self.queue and self.running < most:
                self.launch(self.queue.pop(0))

    def land(self, flight: Flight, value: Any) -> None:
        if flight.is_over:
            return
        if flight.ttl is less_than_nothing:
            self.crash(flight, Error(ConfigurationValueError))
            return
        seconds, tags = self.terms(flight.key, value, flight.ttl, flight.tags)
        if self.flights.get(flight.key) is flight:
            del self.flights[flight.key]
            if not flight.is_detached and flight.suspects.isdisjoint(tags):
                self.write(flight.key, value, seconds, tags)
        self.settle(flight, value)

    def crash(self, flight: Flight, error: Error) -> None:
        if flight.is_over:
            return
        self.counts["load_errors"] += 1
        if self.flights.get(flight.key) is flight:
            del self.flights[flight.key]
            entry = self.entries.get(flight.key)
            if entry is not None:
                self.retry_at[flight.key] = self.now + self.options["retry_after"]
                if not flight.is_forced and not self.is_dead(entry):
                    self.counts["stale_hits"] += self.settle(flight, entry.value)
                    return
        had_waits = bool(flight.waits)
        is_news = error.kind is not LoadCancelledError and not flight.load.was_reported
        if self.settle(flight, error) == 0 and had_waits and is_news:
            flight.load.was_reported = True
            self.reports += 1

    def settle(self, flight: Flight, outcome: Any) -> int:
        flight.is_over = True
        return self.hand_out(flight, outcome)

    def hand_out(self, flight: Flight, outcome: Any) -> int:
        waiting = [wait for wait in flight.waits if wait.waits_for(flight.key)]
        flight.waits = []
        for wait in waiting:
            wait.give(flight.key, outcome)
        return len(waiting)

    def time_out(self, flight: Flight) -> None:
        self.counts["load_timeouts"] += 1
        self.crash(flight, Error(LoadTimeoutError))
        if all(other.is_over for other in flight.load.flights.values()):
            self.give_up(flight.load)

    def soften(self, flight: Flight) -> None:
        entry = self.entries.get(flight.key)
        if entry is not None and not self.is_dead(entry):
            flight.is_soft = True
            served = self.hand_out(flight, entry.value)
            if self.now >= entry.expires_at:
                self.counts["stale_hits"] += served

    # The store

    def is_dead(self, entry: Held) -> bool:
        return self.now >= entry.expires_at + self.stale_ttl

    def use(self, key: Any) -> None:
        if self.options["eviction"] == "lru":
            self.entries[key] = self.entries.pop(key)

    def terms(self, key: Any, value: Any, ttl: Any, tags: Any) -> tuple[float | None, list[str]]:
        seconds: float | None = self.options["default_ttl"]
        if value is None and self.options["negative_ttl"] is not None:
            seconds = self.options["negative_ttl"]
        if ttl is not ABSENT:
            seconds = ttl(key, value) if callable(ttl) else ttl
        return seconds, list(tags(key, value) if callable(tags) else tags)

    def write(self, key: Any, value: Any, seconds: float | None, tags: list[str]) -> None:
        self.remove(key)
        if self.maxsize == 0 or seconds == 0:
            return
        stored, evicted = self.puts.popleft()
        assert key == stored
        excess = 0 if self.maxsize is None else max(0, len(self.entries) - self.maxsize + 1)
        if self.options["eviction"] == "lru":
            assert list(self.entries)[:excess] == evicted
        assert excess == len(set(evicted) & set(self.entries)) == len(evicted)
        self.counts["evicted_for_room"] += excess
        for other in evicted:
            self.remove(other)
        life = FOR_EVER if seconds is None else seconds
        share = self.options["refresh_ahead"] or 1
        self.entries[key] = Held(value, self.now + life * share, self.now + life, tags)

    def remove(self, key: Any) -> None:
        self.entries.pop(key, None)
        self.retry_at.pop(key, None)

    def age_out(self, key: Any) -> None:
        self.counts["evicted_for_age"] += 1
        self.remove(key)

    def notice_what_was_freed(self, keys: set[Any]) -> None:
        """Forget entries that are over and that the cache has freed; when it does is its own."""
        for key in self.entries.keys() - keys:
            assert self.is_dead(self.entries[key]), f"{key} was freed too early"
            self.age_out(key)

    # Changes

    def detach(self, key: Any) -> None:
        flight = self.flights.pop(key, None)
        if flight is not None:
            flight.is_detached = True

    def set(self, key: Any, value: Any, ttl: Any, tags: Any) -> None:
        self.detach(key)
        self.write(key, value, *self.terms(key, value, ttl, tags))

    def delete(self, key: Any) -> None:
        self.detach(key)
        self.remove(key)

    def expire(self, key: Any) -> None:
        self.detach(key)
        entry = self.entries.get(key)
        if entry is not None and self.now < entry.expires_at:
            entry.fresh_until = entry.expires_at = self.now
            self.retry_at.pop(key, None)
            if self.stale_ttl == 0:
                self.remove(key)

    def invalidate_tag(self, tag: str) -> None:
        for key, entry in list(self.entries.items()):
            if tag in entry.tags:
                self.delete(key)
        for flight in list(self.flights.values()):
            if callable(flight.tags):
                flight.suspects.add(tag)
            elif tag in flight.tags:
                self.detach(flight.key)

    def clear(self) -> None:
        for key in list(self.flights):
            self.detach(key)
        self.entries.clear()
        self.retry_at.clear()
        self.counts = dict.fromkeys(COUNTERS, 0)


# The machine


class Failure(Exception):
    """An error that the machine makes, with a number of its own."""


class OrderedTimeLoop(VirtualTimeLoop):
    """Fire timers of one moment in the order in which they were set, each in a tick of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.count = itertools.count(1)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        later = when + next(self.count) * 2.0**-20
        return super().call_at(later, callback, *args, context=context)

    def run_until(self, moment: float) -> None:
        super().call_at(moment, self.stop)
        self.run_forever()


TTLS = st.sampled_from([ABSENT, ABSENT, None, 0, 1.0, 4.0, two_seconds])
LOAD_TTLS = TTLS | st.just(less_than_nothing)
SOME_TAGS = st.sampled_from([(), (), ("red",), ("red", "blue"), by_parity])
BATCHES = st.sampled_from(["batch A", "batch B"])

SECONDS = st.sampled_from([0.125, 0.5, 0.5, 1.0, 1.0, 2.0, 4.0])
WAYS = st.sampled_from([None, "single", "single", "stubborn", "batch A", "batch B"])
GETS = st.tuples(st.just("get"), KEYS, WAYS, LOAD_TTLS, SOME_TAGS)
SETS = st.tuples(st.just("set"), KEYS, st.booleans(), TTLS, SOME_TAGS)
CHANGES = st.one_of(
    SETS,
    SETS,
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("expire"), KEYS),
    st.tuples(st.just("expire"), KEYS),
    st.tuples(st.just("invalidate_tag"), st.sampled_from(TAGS)),
)
# Which keys of a batch come with an error: often none.
BAD = st.just([False] * 4) | st.lists(st.booleans(), min_size=4, max_size=4)
ENDS = st.sampled_from(["good", "good", "good", "none", "mapping", "raise", "cancel", "short"])
FINISH = st.tuples(st.just("finish"), st.integers(0, 5), ENDS, BAD)
OPERATIONS = st.one_of(
    GETS,
    GETS,
    GETS,
    st.tuples(
        st.just("get_many"),
        st.lists(KEYS, max_size=4),
        BATCHES,
        LOAD_TTLS,
        SOME_TAGS,
        st.booleans(),
    ),
    st.tuples(st.just("refresh"), KEYS, LOAD_TTLS, SOME_TAGS),
    CHANGES,
    st.tuples(st.just("cancel"), st.integers(0, 10)),
    FINISH,
    FINISH,
)


class CacheMachine(RuleBasedStateMachine):
    """Do the same to a cache and to the model."""

    eviction: Any

    @initialize(
        maxsize=st.sampled_from([None, 0, 1, 2, 3, 3]),
        default_ttl=st.sampled_from([None, 2.0, 4.0]),
        negative_ttl=st.sampled_from([None, 0, 1.0]),
        stale_ttl=st.sampled_from([2.0, 0.0, 2.0]),
        refresh_ahead=st.sampled_from([None, 0.5]),
        retry_after=st.sampled_from([0.0, 1.0]),
        load_timeout=st.sampled_from([None, None, 3.0]),
        soft_timeout=st.sampled_from([None, 0, 0.5, 0.5]),
        max_concurrent_loads=st.sampled_from([None, None, 1, 2]),
        max_batch_size=st.sampled_from([None, 1, 2]),
    )
    def start(self, **options: Any) -> None:
        options["eviction"] = self.eviction
        self.loop = OrderedTimeLoop()
        self.reports: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.reports.append(context))
        self.errors: list[BaseException] = []
        self.numbers = itertools.count()
        self.pairs: list[tuple[asyncio.Task[Any], Wait]] = []
        self.calls: list[tuple[str, list[Any], asyncio.Future[Callable[[], Any]]]] = []
        self.stubborn: list[asyncio.Future[Callable[[], Any]]] = []
        self.coming: list[Callable[[], None]] = []
        self.puts: deque[tuple[Any, list[Any]]] = deque()
        self.clock = ManualClock()
        self.cache = AsyncCache(clock=self.clock, batch_window=WINDOW, **options)
        self.model = Model(options, self.puts)
        self.watch_the_store()

    def watch_the_store(self) -> None:
        store = self.cache._store
        put = store.put

        def put_and_tell(key: Any, *rest: Any) -> Any:
            evicted = put(key, *rest)
            assert self.model.maxsize is None or len(store.data) <= self.model.maxsize
            self.puts.append((key, [other for other, _ in evicted]))
            return evicted

        store.put = put_and_tell  # type: ignore[method-assign]

    # What the loaders do

    async def call(self, name: str, keys: list[Any]) -> Any:
        asked = list(keys)
        keys.clear()
        gate: asyncio.Future[Callable[[], Any]] = self.loop.create_future()
        self.calls.append((name, asked, gate))
        try:
            end = await gate
        except asyncio.CancelledError:
            if not name.startswith("stubborn"):
                raise
            gate = self.loop.create_future()
            self.stubborn.append(gate)
            end = await gate
        return end()

    async def batch_a(self, keys: list[Any]) -> Any:
        return await self.call("batch A", keys)

    async def batch_b(self, keys: list[Any]) -> Any:
        return await self.call("batch B", keys)

    def batch_loader(self, name: str) -> Any:
        return self.batch_a if name == "batch A" else self.batch_b

    # How the machine moves

    def soon(self, action: Callable[[], None]) -> None:
        def act() -> None:
            try:
                action()
            except BaseException as error:
                self.errors.append(error)

        self.loop.call_soon(act)

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        if self.errors:
            raise self.errors[0]

    def perform(self, operations: list[tuple[Any, ...]]) -> None:
        """Do these in one tick, and whatever follows from it in the next ones."""
        self.model.loop_time = self.loop.time()
        begun = len(self.model.plan)
        for name, *arguments in operations:
            getattr(self, f"do_{name}")(*arguments)
        assert begun == len(self.model.plan)
        self.tick()
        for action in self.coming:
            self.soon(action)
        self.coming.clear()
        self.tick(SETTLING)

    def ask(self, wait: Wait, asking: Any, action: Callable[[], None]) -> None:
        def begin() -> None:
            self.pairs.append((task, wait))
            action()

        self.soon(begin)
        task = self.loop.create_task(asking)

    def do_get(self, key: Any, way: str | None, ttl: Any, tags: Any) -> None:
        wait = Wait([key])
        asked = {"tags": tags} | ({} if ttl is ABSENT else {"ttl": ttl})
        if way is None:
            self.ask(wait, self.cache.get(key), lambda: self.model.get(wait, key, None, ttl, tags))
            return
        name = way
        if way.startswith("batch"):
            asked["batch_loader"] = self.batch_loader(way)
        else:
            name = f"{way} {next(self.numbers)}"
            asked["loader"] = lambda: self.call(name, [key])
        self.ask(
            wait, self.cache.get(key, **asked), lambda: self.model.get(wait, key, name, ttl, tags)
        )

    def do_get_many(
        self, keys: list[Any], name: str, ttl: Any, tags: Any, return_exceptions: bool
    ) -> None:
        wait = Wait(keys, many=True, return_exceptions=return_exceptions)
        asked = {"tags": tags} | ({} if ttl is ABSENT else {"ttl": ttl})
        asking = self.cache.get_many(
            keys, self.batch_loader(name), return_exceptions=return_exceptions, **asked
        )
        self.ask(wait, asking, lambda: self.model.get_many(wait, keys, name, ttl, tags))

    def do_refresh(self, key: Any, ttl: Any, tags: Any) -> None:
        wait = Wait([key])
        name = f"refresh {next(self.numbers)}"
        asked = {"tags": tags} | ({} if ttl is ABSENT else {"ttl": ttl})
        asking = self.cache.refresh(key, lambda: self.call(name, [key]), **asked)
        self.ask(wait, asking, lambda: self.model.refresh(wait, key, name, ttl, tags))

    def do_set(self, key: Any, is_none: bool, ttl: Any, tags: Any) -> None:
        value = None if is_none else f"set {next(self.numbers)}"
        asked = {"tags": tags} | ({} if ttl is ABSENT else {"ttl": ttl})
        self.soon(lambda: self.cache.set(key, value, **asked) and None)
        self.soon(lambda: self.model.set(key, value, ttl, tags))

    def do_delete(self, key: Any) -> None:
        self.soon(lambda: self.cache.delete(key) and None)
        self.soon(lambda: self.model.delete(key))

    def do_expire(self, key: Any) -> None:
        self.soon(lambda: self.cache.expire(key) and None)
        self.soon(lambda: self.model.expire(key))

    def do_invalidate_tag(self, tag: str) -> None:
        self.soon(lambda: self.cache.invalidate_tag(tag) and None)
        self.soon(lambda: self.model.invalidate_tag(tag))

    def do_clear(self) -> None:
        self.soon(lambda: self.cache.clear() and None)
        self.soon(self.model.clear)

    def do_cancel(self, index: int) -> None:
        def cancel() -> None:
            pending = [pair for pair in self.pairs if not pair[1].done]
            if not pending:
                return
            task, wait = pending[index % len(pending)]
            task.cancel()
            wait.done = wait.cancelled = True
            if wait.many:
                self.coming.append(lambda: setattr(wait, "left", True))
            else:
                wait.left = True

        self.soon(cancel)

    def do_finish(self, index: int, end: str, bad: list[bool]) -> None:
        def finish() -> None:
            running = [
                (load, gate)
                for load, (_, _, gate) in zip(self.model.plan, self.calls)
                if not gate.done()
            ]
            if not running:
                return
            load, gate = running[index % len(running)]
            result, results = self.make_result(load, end, bad)
            note(f"{load.name} ends: {results}")
            gate.set_result(result)
            self.coming.append(lambda: self.model.end(load, results))

        self.soon(finish)

    def make_result(
        self, load: Load, end: str, bad: list[bool]
    ) -> tuple[Callable[[], Any], dict[Any, Any]]:
        """Give what the loader returns, and a value or an error for each key."""
        keys = list(load.flights)
        number = next(self.numbers)
        if end == "raise":
            return raising(Failure(number)), dict.fromkeys(keys, Error(Failure, number))
        if end == "cancel":
            error = asyncio.CancelledError()
            return raising(error), dict.fromkeys(keys, Error(LoadCancelledError))
        is_batch = load.name.startswith("batch")
        if end == "short" and is_batch:
            return lambda: [number] * (len(keys) + 1), dict.fromkeys(keys, Error(BatchResultError))
        results: dict[Any, Any] = {}
        values: dict[Any, Any] = {}
        for key, is_bad in zip(keys, bad):
            results[key] = Error(Failure, number) if is_bad else f"loaded {number} for {key}"
            values[key] = Failure(number) if is_bad else results[key]
            if end == "none" and not is_bad:
                results[key] = values[key] = None
        if end == "mapping" and is_batch:
            for key, is_bad in zip(keys, bad):
                if is_bad:
                    del values[key]
                    results[key] = None
            return lambda: values, results
        if not is_batch:
            return lambda: values[keys[0]], results
        return lambda: list(values.values()), results

    # The rules

    @rule(operation=OPERATIONS)
    def one(self, operation: tuple[Any, ...]) -> None:
        self.perform([operation])

    @rule(operations=st.lists(OPERATIONS, min_size=2, max_size=6))
    def several_in_one_tick(self, operations: list[tuple[Any, ...]]) -> None:
        self.perform(operations)

    @rule(keys=st.lists(KEYS, min_size=2, max_size=5), way=st.sampled_from([None, "single"]))
    def several_gets(self, keys: list[Any], way: str | None) -> None:
        self.perform([("get", key, way, ABSENT, ()) for key in keys])

    @rule(get=GETS, change=CHANGES, finish=FINISH)
    def a_load_that_is_overtaken(self, get: Any, change: Any, finish: Any) -> None:
        self.perform([get])
        self.perform([change, finish])

    @rule(key=KEYS, tag=st.sampled_from(TAGS), finish=FINISH)
    def a_tag_is_invalidated_in_flight(self, key: Any, tag: str, finish: Any) -> None:
        self.perform([("get", key, "single", ABSENT, by_parity)])
        self.perform([("invalidate_tag", tag)])
        self.perform([finish])

    @rule(get=GETS, change=CHANGES, seconds=SECONDS)
    def a_value_grows_old(self, get: Any, change: Any, seconds: float) -> None:
        self.perform([("set", get[1], False, 1.0, ())])
        self.time_passes(1.0)
        self.perform([get])
        self.perform([change])
        self.time_passes(seconds)

    @rule(key=KEYS, way=WAYS, seconds=SECONDS)
    def a_value_is_refreshed_ahead(self, key: Any, way: str | None, seconds: float) -> None:
        self.perform([("set", key, False, 2.0, ())])
        self.time_passes(1.0)
        self.perform([("get", key, way, ABSENT, ())])
        self.time_passes(seconds)

    @rule(chance=st.integers(0, 5))
    def clear(self, chance: int) -> None:
        if not chance:
            self.perform([("clear",)])

    @precondition(lambda self: any(not gate.done() for _, _, gate in self.calls))
    @rule(finish=FINISH)
    def finish(self, finish: Any) -> None:
        self.perform([finish])

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        until = self.loop.time() + seconds
        self.clock.advance(seconds)
        self.model.now += seconds
        # The timers of this moment come a little later, each at a time of its own.
        self.loop.run_until(until + 2.0**-6)
        self.tick(SETTLING)
        self.model.notice_what_was_freed(set(self.cache._data))
        self.model.pass_time(until)

    @precondition(lambda self: self.stubborn)
    @rule()
    def a_stubborn_load_ends(self) -> None:
        self.stubborn.pop(0).set_result(lambda: "too late")
        self.tick(SETTLING)

    # What must hold

    @invariant()
    def every_caller_is_as_in_the_model(self) -> None:
        for task, wait in getattr(self, "pairs", ()):
            assert wait.done == task.done(), (task, wait)
            assert wait.cancelled == task.cancelled(), (task, wait)
            if wait.done and not wait.cancelled:
                assert_same(wait.outcome, task.exception() or task.result())

    @invariant()
    def every_load_is_as_in_the_model(self) -> None:
        if hasattr(self, "model"):
            expected = [(load.name, list(load.flights)) for load in self.model.plan]
            assert expected == [(name, keys) for name, keys, _ in self.calls]
            for load, (_, _, gate) in zip(self.model.plan, self.calls):
                assert load.is_over == gate.done()
            assert self.model.reports == len(self.reports), self.reports

    @invariant()
    def the_store_is_as_in_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        model, cache = self.model, self.cache
        assert not self.puts, "something was stored that should not be"
        assert set(model.entries) == set(cache._data)
        for key in range(4):
            assert model.peek(key) == cache.peek(key, ABSENT)
        for entry in model.entries.values():
            assert model.now < entry.expires_at + model.stale_ttl + 2.0, "not freed in time"
        assert model.retry_at == cache._retry_at
        keys_by_tag: dict[str, set[Any]] = {}
        for key, entry in model.entries.items():
            for tag in entry.tags:
                keys_by_tag.setdefault(tag, set()).add(key)
        assert keys_by_tag == cache._tagged

    @invariant()
    def every_counter_is_as_in_the_model(self) -> None:
        if hasattr(self, "model"):
            metrics = self.cache.get_metrics()
            assert self.model.counts == {name: metrics[name] for name in COUNTERS}
            assert len(self.model.entries) == metrics["size"] == len(self.cache)
            counts = self.model.counts
            assert counts["evicted_for_room"] + counts["evicted_for_age"] == metrics["evictions"]

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            while any(not gate.done() for _, _, gate in self.calls) or self.model.open:
                self.perform([("finish", 0, "good", [False] * 4)])
                self.time_passes(WINDOW)
            while self.stubborn:
                self.a_stubborn_load_ends()
            assert all(wait.done for _, wait in self.pairs)
            self.every_caller_is_as_in_the_model()
            self.every_load_is_as_in_the_model()
            assert set() == asyncio.all_tasks(self.loop)
            assert {} == self.model.flights
            for local in self.cache._locals.values():
                assert {} == local.flights == local.open
                assert 0 == local.running == len(local.queue)
                assert set() == local.pump.live
        finally:
            for _, _, gate in self.calls:
                gate.cancel()
            self.loop.run_until_complete(self.cache.aclose())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


class LruMachine(CacheMachine):
    """The least recently used entry goes."""

    eviction = "lru"


class S3FifoMachine(CacheMachine):
    """The cache says which entry goes."""

    eviction = "s3fifo"


def raising(error: BaseException) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise error

    return raise_it


def assert_same(expected: Any, found: Any) -> None:
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert list(expected) == list(found)
        for key, value in expected.items():
            assert_same(value, found[key])
    elif isinstance(expected, Error):
        assert expected.is_seen_in(found), (expected, found)
    else:
        assert expected == found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("machine", [LruMachine, S3FifoMachine])
def test_the_cache_does_what_the_model_does(machine: type[CacheMachine]):
    """Whatever is done in whatever order, a cache answers, loads and counts as the model does."""
    case = machine.TestCase
    case.settings = settings(max_examples=150, stateful_step_count=40)
    case().runTest()
