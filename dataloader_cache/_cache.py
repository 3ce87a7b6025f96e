"""`AsyncCache`: a TTL/LRU result cache in which concurrent misses of a key share one load.

Locks: what changes the store, the tag index or a registry of flights holds the cache's lock, for
a few lines and never while a user's function runs. Reading takes none. Flights belong to a loop;
the values are shared by all loops and threads.
"""

# A load and its cache are two halves of one thing, and see into each other.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import random
import reprlib
import time
import weakref
from asyncio import Future
from collections import deque
from collections.abc import (
    Awaitable,
    Callable,
    Generator,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from contextvars import Context
from dataclasses import asdict, dataclass, field
from threading import RLock
from types import MethodType
from typing import Any, Final, Literal, NoReturn, TypeAlias, TypeVar, cast, overload

from ._arguments import UNSET, Unset, check_count, check_kind, check_name, check_seconds
from ._expiry import ExpiryBuckets
from ._flight import Node, current_node, enclosing, find_chain
from ._pump import QUIET_TICKS_AFTER_WINDOW, Pump, pump_of
from ._results import as_error, check_awaitable, deliver, describe, is_error, read_values
from ._stats import CacheStats, Histogram
from ._store import Entry, LruStore, S3FifoStore, Store
from .errors import (
    ConfigurationTypeError,
    ConfigurationValueError,
    LoadCancelledError,
    LoaderClosedError,
    LoaderDeadlockError,
    LoadTimeoutError,
)

__all__ = ["ABSENT", "AsyncCache", "Done", "WarmupResult", "fetch_many", "hit", "load_afresh"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
D = TypeVar("D")

# Any in the two below: a cache holds values of all kinds; each call's own loader types its result.
_Loader: TypeAlias = Callable[[], Awaitable[Any]]
_BatchLoader: TypeAlias = Callable[[list[Any]], Awaitable[Any]]
_Ttl: TypeAlias = "float | Unset | Callable[[Any, Any], float | Unset | None] | None"
_Tags: TypeAlias = "Iterable[Hashable] | Callable[[Any, Any], Iterable[Hashable]]"

_FOR_EVER: Final = float("inf")
_AT_ONCE: Final = float("-inf")
_NO_TAGS: tuple[Hashable, ...] = ()
_SWEEP_MOST = 1000
_SWEEP_PAUSE = 1.0


ABSENT: Final[Any] = object()


class Done:
    """Be awaitable, with nothing to wait for: what changes of a cache without a tier return."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        """Return at once."""
        return
        yield


_DONE: Final = Done()


@dataclass(frozen=True)
class WarmupResult:
    """Tell what `AsyncCache.warmup` did: the keys it loaded, and the error of each that failed."""

    loaded: list[Hashable] = field(default_factory=list[Hashable])
    failed: dict[Hashable, BaseException] = field(default_factory=dict[Hashable, BaseException])


class _Flight:
    """One load in progress for one key; shared by all who want that key on this loop."""

    __slots__ = (
        "has_soft_timer",
        "is_done",
        "is_forced",
        "is_soft",
        "key",
        "load",
        "suspects",
        "tags",
        "timers",
        "ttl",
        "waiters",
    )

    def __init__(self, key: Hashable, ttl: _Ttl, tags: _Tags) -> None:
        self.key = key
        self.ttl = ttl
        self.tags: _Tags = tags if callable(tags) else tuple(tags)
        self.waiters: list[Future[Any]] = []
        self.timers: list[asyncio.TimerHandle] = []
        self.load: _Load
        # Tags invalidated meanwhile: what the value's own are is known when it is there.
        self.suspects: set[Hashable] = set()
        self.is_done = False
        # A refresh that was asked for: its failure is not covered up by an old value.
        self.is_forced = False
        # It took longer than soft_timeout: who comes now gets the old value at once.
        self.is_soft = False
        self.has_soft_timer = False


class _Local:
    """What a cache has on one event loop: flights, open batches, and the queue for its loads."""

    __slots__ = ("flights", "loop", "open", "pump", "queue", "running")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.pump: Pump = pump_of(loop)
        self.flights: dict[Hashable, _Flight] = {}
        self.open: dict[Hashable, _Load] = {}
        self.queue: deque[_Load] = deque()
        self.running = 0

    def joinable(self, key: Hashable) -> _Flight | None:
        """Give the flight that who wants the key now may join."""
        flight = self.flights.get(key)
        return None if flight is None or flight.suspects or flight.is_done else flight


class _Load:
    """One call of a loader or batch loader, in a task that the cache owns."""

    __slots__ = (
        "_cache",
        "_handle",
        "_local",
        "context",
        "flights",
        "function",
        "has_slot",
        "is_batch",
        "is_open",
        "is_over",
        "limit",
        "node",
        "passes",
        "patience",
        "quiet",
        "seen",
        "task",
        "ticks",
        "was_reported",
    )

    def __init__(
        self,
        cache: AsyncCache,
        local: _Local,
        function: Callable[..., Any],
        flights: dict[Hashable, _Flight],
        *,
        is_batch: bool,
    ) -> None:
        self._cache = cache
        self._local = local
        self.function = function
        self.is_batch = is_batch
        self.is_open = is_batch
        self.flights = flights
        self.node = Node(cache._name)
        self.patience = self.seen = self.quiet = self.ticks = 0
        self.has_slot = False
        # A running load needs it, so it must not queue behind that load.
        self.passes = enclosing() is not None
        self.limit: int | None
        self.context = cache._context
        self.is_over = False
        self.was_reported = False
        self._handle: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        local.pump.live.add(self)

    def __len__(self) -> int:
        return len(self.flights)

    def open(self, limit: int | None) -> None:
        """Let calls with the same function join, up to so many keys."""
        self.limit = limit
        self._local.open[_identity(self.function)] = self

    def wait(self, seconds: float) -> None:
        """Gather keys for `seconds`, and after that until a few ticks were quiet."""
        self._handle = self._local.loop.call_later(seconds, self._end_window)

    def _end_window(self) -> None:
        self.seen = len(self.flights)
        self._local.pump.add(self, QUIET_TICKS_AFTER_WINDOW)

    def send(self) -> None:
        """Start an open batch."""
        if self.is_open:
            self._close()
            if self.flights:
                self.start()
            else:
                self._end()

    def _close(self) -> None:
        self.is_open = False
        if self._handle is not None:
            self._handle.cancel()
        self._local.open.pop(_identity(self.function), None)

    def let_pass(self) -> None:
        """Start at once if it queues, because a running load waits for it."""
        self.passes = True
        if self in self._local.queue:
            self._local.queue.remove(self)
            self.start()

    def start(self) -> None:
        """Run, or queue where the cache runs as many loads as it may."""
        most = self._cache._max_concurrent_loads
        if most is not None and not self.passes:
            if self._local.running >= most:
                self._local.queue.append(self)
                return
            self.has_slot = True
            self._local.running += 1
        if self._local.loop.get_task_factory() is None:
            self._launch()
        else:
            # An eager task would run the loader here, inside the call that misses.
            self._local.loop.call_soon(self._launch)

    def _launch(self) -> None:
        if self.is_over:
            return
        self._cache._loads += 1
        running = self._run(list(self.flights))
        try:
            task = self.context.copy().run(
                self._local.loop.create_task, running, name=f"load of {self._cache._name}"
            )
        except Exception as error:
            running.close()
            self._fail(error)
            return
        self.task = task
        self._local.pump.tasks.add(task)
        task.add_done_callback(self._on_task_done)

    async def _run(self, keys: list[Hashable]) -> None:
        current_node.set(self.node)
        owner = self._cache._owner
        began = self._local.loop.time()
        task = asyncio.current_task()
        try:
            if self.is_batch:
                awaitable = self.function(list(keys))
                check_awaitable(awaitable, "batch_loader", owner)
                values = read_values(await awaitable, keys, owner)
            else:
                awaitable = self.function()
                check_awaitable(awaitable, "loader", owner)
                values = [await awaitable]
            self._cache._load_times.add(self._local.loop.time() - began)
            self._settle(values)
        except asyncio.CancelledError as error:
            self._fail(as_error(error, owner))
            raise
        except Exception as error:
            self._fail(as_error(error, owner))
        except BaseException as error:
            is_thrown_away = isinstance(error, GeneratorExit) and task is not asyncio.current_task(
                self._local.loop
            )
            if is_thrown_away or isinstance(error, (KeyboardInterrupt, SystemExit)):
                kind = type(error).__name__
                self._fail(LoadCancelledError(f"{kind} ended a load of {owner}"))
                raise
            self._fail(error)
        finally:
            self.node.has_ended = True
            # A cancelled task keeps its error, and with that this frame: no circle here.
            del task
            self._end()

    def _settle(self, values: Sequence[Any]) -> None:
        # In the order of the keys that were asked for, and without looking one up.
        for flight, value in zip(self.flights.values(), values):
            if is_error(value):
                self._cache._crash(self._local, flight, as_error(value, self._cache._owner))
            else:
                self._cache._land(self._local, flight, value)

    def _fail(self, error: BaseException) -> None:
        for flight in list(self.flights.values()):
            self._cache._crash(self._local, flight, error)
        self._end()

    def _end(self) -> None:
        """Give back the slot and be over, once."""
        if self.is_over:
            return
        self.is_over = True
        self.node.is_settled = True
        local = self._local
        local.pump.live.discard(self)
        if self.has_slot:
            local.running -= 1
            most = cast("int", self._cache._max_concurrent_loads)
            while local.queue and local.running < most:
                local.queue.popleft().start()
        local.pump.slots.match()

    def cancel_if_deserted(self) -> None:
        """End, when every flight was settled by its timeout."""
        if all(flight.is_done for flight in self.flights.values()):
            self._give_up()

    def _give_up(self) -> None:
        if self.is_open:
            self._close()
        if self in self._local.queue:
            self._local.queue.remove(self)
        self._end()
        if self.task is not None and not self._local.loop.is_closed():
            self.task.cancel()

    def abandon(self) -> None:
        """Settle every waiter with `LoadCancelledError`, and cancel the function if it runs."""
        error = LoadCancelledError(f"a load of {self._cache._owner} was cancelled")
        for flight in list(self.flights.values()):
            self._cache._crash(self._local, flight, error)
        self._give_up()

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._local.pump.tasks.discard(task)
        if task.cancelled():
            # Maybe before its first step, so that none of its body ran.
            self.abandon()
        else:
            # Taken, since an interrupt is no report of asyncio's: it reaches who runs the loop.
            task.exception()


class AsyncCache:
    """Keep the results of loads, and load each missing key once however many ask for it.

    It lives as long as the process, and serves several event loops. A load runs in a task that
    the cache owns and in a context of its own, so the first caller's cancellation or context
    variables touch nobody else.

        cache = AsyncCache(maxsize=1000, default_ttl=300)
        user = await cache.get(user_id, loader=lambda: fetch_user(user_id))

    Args:
        maxsize: The most entries; None is no bound, 0 stores nothing.
        default_ttl: Seconds that a value is fresh from the end of its load; None is for ever.
        batch_window: Seconds for which a batch gathers keys, from its first key.
        max_batch_size: The most keys of one batch.
        eviction: "lru", or "s3fifo", which keeps the better entries on most loads.
        ttl_jitter: Spreads each TTL by so much of it, up or down: 0.1 is ±10 %.
        negative_ttl: The TTL of None, where a call gives none.
        stale_ttl: Seconds after expiry in which a value may stand in for a failed or slow load.
        refresh_ahead: The part of its TTL after which a hit starts a refresh: 0.8 is 80 %.
        retry_after: Seconds that a failed refresh waits for the next one.
        load_timeout: Seconds from the miss after which its callers get a LoadTimeoutError.
        soft_timeout: Seconds from the miss after which a stale value, if any, is served.
        max_concurrent_loads: The most loads at a time on one event loop.
        context: The context that loads run in a copy of; by default an empty one.
        tier: Reserved for a shared store behind this one.
        name: What errors and reports call the cache.
        clock: Gives seconds that never go back; decides expiry. Timers use the event loop.
        batch_window_ms: The same as `batch_window`, in milliseconds.

    Raises:
        ConfigurationError: An argument is wrong; it is a TypeError or a ValueError too.
    """

    # What a hit reads: slots are found sooner than the items of a dict as big as a cache's is.
    __slots__ = ("__dict__", "__weakref__", "_clock", "_fast", "_hits", "_touch")

    def __init__(
        self,
        maxsize: int | None = 128,
        default_ttl: float | None = None,
        *,
        batch_window: float = 0.005,
        max_batch_size: int | None = 100,
        eviction: Literal["lru", "s3fifo"] = "lru",
        ttl_jitter: float = 0.0,
        negative_ttl: float | None = None,
        stale_ttl: float = 0.0,
        refresh_ahead: float | None = None,
        retry_after: float = 1.0,
        load_timeout: float | None = None,
        soft_timeout: float | None = None,
        max_concurrent_loads: int | None = None,
        context: Context | None = None,
        tier: None = None,
        name: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        batch_window_ms: float | None = None,
    ) -> None:
        check_name("a cache", name)
        self._name = name or type(self).__name__
        owner = self._owner = f"cache {self._name!r}"
        if maxsize is not None:
            check_count(owner, "maxsize", maxsize, zero=True)
        if batch_window_ms is not None:
            check_seconds(owner, "batch_window_ms", batch_window_ms, zero=True)
            batch_window = batch_window_ms / 1000
        for argument, seconds, zero in (
            ("default_ttl", default_ttl, True),
            ("negative_ttl", negative_ttl, True),
            ("refresh_ahead", refresh_ahead, False),
            ("load_timeout", load_timeout, False),
            ("soft_timeout", soft_timeout, True),
        ):
            if seconds is not None:
                check_seconds(owner, argument, seconds, zero=zero)
        check_seconds(owner, "batch_window", batch_window, zero=True)
        check_seconds(owner, "ttl_jitter", ttl_jitter, zero=True)
        check_seconds(owner, "stale_ttl", stale_ttl, zero=True)
        check_seconds(owner, "retry_after", retry_after, zero=True)
        for argument, share in (("ttl_jitter", ttl_jitter), ("refresh_ahead", refresh_ahead)):
            if share is not None and share >= 1:
                raise ConfigurationValueError(f"{owner}: {argument} must be < 1, got {share!r}")
        if max_batch_size is not None:
            check_count(owner, "max_batch_size", max_batch_size)
        if max_concurrent_loads is not None:
            check_count(owner, "max_concurrent_loads", max_concurrent_loads)
        if eviction not in ("lru", "s3fifo"):
            raise ConfigurationValueError(
                f"{owner}: eviction must be 'lru' or 's3fifo', got {eviction!r}"
            )
        if not callable(clock):
            raise ConfigurationTypeError(f"{owner}: clock must be a function, got {clock!r}")
        check_kind(owner, "context", context, Context)
        if tier is not None:
            raise ConfigurationTypeError(f"{owner}: tier must be None in this version")
        self._maxsize = maxsize
        self._default_ttl = default_ttl
        self._batch_window = batch_window
        self._max_batch_size = max_batch_size
        self._ttl_jitter = ttl_jitter
        self._negative_ttl = negative_ttl
        self._stale_ttl = stale_ttl
        self._refresh_ahead = refresh_ahead
        self._retry_after = retry_after
        self._load_timeout = load_timeout
        self._soft_timeout = soft_timeout
        self._max_concurrent_loads = max_concurrent_loads
        self._context = Context() if context is None else context
        self._clock = clock
        self._store: Store = LruStore(maxsize) if eviction == "lru" else S3FifoStore(maxsize)
        self._data: dict[Any, Entry] = self._store.data
        # What hits are looked up in: empty while no sweep could be armed for want of a loop, so
        # that the first call on one takes the long way round. Any: only some have `uses`.
        self._fast: dict[Any, Any] = self._data
        self._touch: Callable[[Any], None] | None = self._store.touch
        self._tagged: dict[Hashable, set[Hashable]] = {}
        self._retry_at: dict[Hashable, float] = {}
        self._expiry = ExpiryBuckets()
        self._locals: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Local] = (
            weakref.WeakKeyDictionary()
        )
        # Re-entrant, because a key's __eq__ or __hash__ may come back to this cache.
        self._lock = RLock()
        self._closed = False
        # The loop and timer of the next sweep, and the end that it waits for.
        self._sweeper: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle, float] | None = None
        self._forget_counts()

    def _forget_counts(self) -> None:
        self._hits = self._misses = self._joins = 0
        self._loads = self._load_errors = self._load_timeouts = 0
        self._stale_hits = self._refreshes = 0
        self._evicted_for_room = self._evicted_for_age = 0
        self._load_times = Histogram()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r} of {len(self._data)} entries>"

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: Hashable) -> bool:
        return self._fresh(key) is not None

    # -- reading

    @overload
    async def get(
        self,
        key: Hashable,
        loader: Callable[[], Awaitable[V]],
        batch_loader: None = ...,
        ttl: _Ttl = ...,
        tags: _Tags = ...,
    ) -> V: ...
    @overload
    async def get(
        self,
        key: K,
        loader: None = ...,
        *,
        batch_loader: Callable[[list[K]], Awaitable[Mapping[K, V | BaseException]]],
        ttl: _Ttl = ...,
        tags: _Tags = ...,
    ) -> V | None: ...
    @overload
    async def get(
        self,
        key: K,
        loader: None = ...,
        *,
        batch_loader: Callable[[list[K]], Awaitable[Sequence[V | BaseException]]],
        ttl: _Ttl = ...,
        tags: _Tags = ...,
    ) -> V: ...
    # Any: without a loader, nothing says of what type the value is.
    @overload
    async def get(
        self,
        key: Hashable,
        loader: None = ...,
        batch_loader: None = ...,
        ttl: _Ttl = ...,
        tags: _Tags = ...,
    ) -> Any: ...
    async def get(
        self,
        key: Hashable,
        loader: _Loader | None = None,
        batch_loader: _BatchLoader | None = None,
        ttl: _Ttl = UNSET,
        tags: _Tags = _NO_TAGS,
    ) -> Any:
        """Give the value of `key`, loading it if there is no fresh one.

        Concurrent misses share one load. Cancelling a caller changes nothing for the others; when
        all have gone, the load still ends and its value is stored. Without a loader a miss is
        None. Concurrent calls with the same `batch_loader` (the same object) form one batch.

        Args:
            key: Any hashable; equal keys are one key.
            loader: An async function without arguments.
            batch_loader: An async function of a list of keys; see `DataLoader`'s `load_fn`.
            ttl: Seconds the value will be fresh, None for ever, 0 not stored; or a function of
                key and value that gives them.
            tags: Names for `invalidate_tag`, or a function of key and value that gives them.

        Raises:
            ConfigurationError: An argument is wrong, or both loaders are given.
            LoadTimeoutError: `load_timeout` is over.
            LoadCancelledError: The load was cancelled from inside.
            LoaderDeadlockError: This load would wait for itself.
            LoaderClosedError: The cache was closed.
            BatchResultError: A loader gave something of a wrong shape.
            Exception: Whatever the loader raises; it is not stored.
        """
        try:
            entry = self._fast[key]
            # The value before its time: another thread that takes the entry out goes the other way.
            value = entry.value
            fresh_until = entry.fresh_until
            # By a name of their own, since to call an attribute is to look for a method first.
            clock = self._clock
            if fresh_until is _FOR_EVER or clock() < fresh_until:
                touch = self._touch
                if touch is None:
                    entry.uses += 1
                else:
                    touch(key)
                self._hits += 1
                return value
        except KeyError:
            pass
        except TypeError:
            self._refuse_unhashable(key)
            raise
        found = self._find(key, loader, batch_loader, ttl, tags)
        return await found if isinstance(found, Future) else found[0]

    def _find(
        self,
        key: Hashable,
        loader: _Loader | None,
        batch_loader: _BatchLoader | None,
        ttl: _Ttl,
        tags: _Tags,
    ) -> Future[Any] | tuple[Any]:
        """Give the value in a tuple, or the future of who waits for it."""
        self._check_call(key, loader, batch_loader, ttl, tags)
        function = loader or batch_loader
        now = self._clock()
        entry = self._data.get(key)
        # Before the times, as in `get`.
        value = None if entry is None else entry.value
        if entry is not None and now < entry.expires_at:
            self._hit_late(key, entry, now, function, batch_loader, ttl, tags)
            return (value,)
        self._misses += 1
        stale = entry if entry is not None and now < entry.expires_at + self._stale_ttl else None
        if stale is None and entry is not None:
            with self._lock:
                self._age_out(key, now)
        if function is None:
            return (None,)
        if stale is not None and now < self._retry_at.get(key, now):
            self._stale_hits += 1
            return (value,)
        local = self._local()
        flight = local.joinable(key)
        if flight is None:
            flight = self._start(local, key, function, batch_loader, ttl, tags)
        else:
            self._joins += 1
            if flight.is_soft and stale is not None:
                self._stale_hits += 1
                return (value,)
        waiter = self._wait(local, flight)
        if stale is not None and self._soft_timeout is not None and not flight.has_soft_timer:
            flight.has_soft_timer = True
            handle = local.loop.call_later(self._soft_timeout, self._soften, flight)
            flight.timers.append(handle)
        return waiter

    def _hit_late(
        self,
        key: Hashable,
        # Any, as in `_fast`.
        entry: Any,
        now: float,
        function: Callable[..., Any] | None,
        batch_loader: _BatchLoader | None,
        ttl: _Ttl,
        tags: _Tags,
    ) -> None:
        """See to a hit that has more to do: start a refresh, or the sweep that was put off."""
        with self._lock:
            if self._touch is None:
                entry.uses += 1
            elif self._data.get(key) is entry:
                self._touch(key)
            self._arm()
        may_refresh = now >= entry.fresh_until and now >= self._retry_at.get(key, now)
        if function is not None and may_refresh:
            local = self._local()
            running = local.flights.get(key)
            if running is None or running.is_done:
                self._refreshes += 1
                self._start(local, key, function, batch_loader, ttl, tags)
        self._hits += 1

    def _start(
        self,
        local: _Local,
        key: Hashable,
        function: Callable[..., Any],
        batch_loader: _BatchLoader | None,
        ttl: _Ttl,
        tags: _Tags,
    ) -> _Flight:
        """Register a new flight for a key in place of any older one, and get it under way."""
        flight = _Flight(key, ttl, tags)
        with self._lock:
            local.flights[key] = flight
            self._arm()
        if self._load_timeout is not None:
            handle = local.loop.call_later(self._load_timeout, self._expire_load, local, flight)
            flight.timers.append(handle)
        try:
            if batch_loader is None:
                load = flight.load = _Load(self, local, function, {key: flight}, is_batch=False)
                load.start()
            else:
                self._join_batch(local, flight, batch_loader)
        except BaseException:
            # A key that raises in __hash__ or __eq__: nothing will end this flight any more.
            self._settle(flight, None)
            raise
        return flight

    def _join_batch(self, local: _Local, flight: _Flight, function: _BatchLoader) -> None:
        """Put a flight into the open batch of a function, or into a new one."""
        batch = local.open.get(_identity(function))
        if batch is not None and flight.key in batch.flights:
            # Invalidated since: the batch has not left, but its flight for the key has no future.
            batch.send()
            batch = None
        if batch is None:
            batch = _Load(self, local, function, {}, is_batch=True)
            batch.open(self._max_batch_size)
            batch.wait(self._batch_window)
        flight.load = batch
        batch.flights[flight.key] = flight
        if batch.limit is not None and len(batch.flights) >= batch.limit:
            batch.send()

    def _wait(self, local: _Local, flight: _Flight) -> Future[Any]:
        """Add a waiter; refuse it where the enclosing load would wait for itself."""
        waiter: Future[Any] = local.loop.create_future()
        node = enclosing()
        if node is not None:
            chain = find_chain(flight.load.node, node, flight.key)
            if chain is not None:
                raise LoaderDeadlockError(
                    f"a load of {self._owner} would wait for itself: {chain}; a loader can't get "
                    f"a key that waits for it"
                )
            node.add_edge(flight.load.node, waiter, flight.key)
            flight.load.let_pass()
            local.pump.slots.match()
        flight.waiters.append(waiter)
        return waiter

    # -- what becomes of a load

    def _land(self, local: _Local, flight: _Flight, value: object) -> None:
        """Store the result of a flight, if nothing was invalidated since, and hand it out."""
        if flight.is_done:
            return
        try:
            seconds, tags = self._terms(flight.key, value, flight.ttl, flight.tags)
            with self._lock:
                if local.flights.get(flight.key) is flight:
                    del local.flights[flight.key]
                    if flight.suspects.isdisjoint(tags):
                        self._write(flight.key, value, seconds, tags)
        except Exception as error:
            # Also of a key that raises in __hash__ or __eq__: the others of its batch go on.
            self._crash(local, flight, error)
        else:
            self._settle(flight, value)

    def _crash(self, local: _Local, flight: _Flight, error: BaseException) -> None:
        """Hand out the error of a flight, or the stale value that may stand in for it."""
        if flight.is_done:
            return
        self._load_errors += 1
        stale: tuple[Any] | None = None
        # A key that raises in __hash__ or __eq__ stays: a flight that is done is joined by nobody.
        with suppress(Exception):
            stale = self._unregister(local, flight)
        if stale is not None:
            self._stale_hits += sum(not waiter.done() for waiter in flight.waiters)
            self._settle(flight, stale[0])
            return
        had_waiters = bool(flight.waiters)
        is_news = had_waiters and not isinstance(error, LoadCancelledError)
        if self._settle(flight, error) == 0 and is_news and not flight.load.was_reported:
            flight.load.was_reported = True
            local.loop.call_exception_handler(
                {
                    "message": f"a load of {self._owner} failed when all its callers had gone",
                    "exception": error,
                }
            )

    def _unregister(self, local: _Local, flight: _Flight) -> tuple[Any] | None:
        """Take out a flight that failed; give the stale value that may stand in for its own."""
        with self._lock:
            if local.flights.get(flight.key) is not flight:
                return None
            del local.flights[flight.key]
            entry = self._data.get(flight.key)
            if entry is None:
                return None
            now = self._clock()
            self._retry_at[flight.key] = now + self._retry_after
            may_stand_in = not flight.is_forced and now < entry.expires_at + self._stale_ttl
            return (entry.value,) if may_stand_in else None

    @staticmethod
    def _settle(flight: _Flight, outcome: object) -> int:
        """Settle the waiters; give how many were still there."""
        flight.is_done = True
        for handle in flight.timers:
            handle.cancel()
        reported: set[int] = set()
        waiters, flight.waiters = flight.waiters, []
        return sum(deliver(waiter, outcome, reported) for waiter in waiters)

    def _expire_load(self, local: _Local, flight: _Flight) -> None:
        self._load_timeouts += 1
        self._crash(
            local,
            flight,
            LoadTimeoutError(
                f"{self._owner} got no value for key {reprlib.repr(flight.key)} within "
                f"load_timeout={self._load_timeout} seconds"
            ),
        )
        flight.load.cancel_if_deserted()

    def _soften(self, flight: _Flight) -> None:
        """Serve the stale value, or what was set since, to those who wait; the load goes on."""
        entry = self._data.get(flight.key)
        now = self._clock()
        # Before the times, as in `get`.
        value = None if entry is None else entry.value
        if entry is not None and now < entry.expires_at + self._stale_ttl:
            flight.is_soft = True
            waiters, flight.waiters = flight.waiters, []
            served = sum(deliver(waiter, value, set()) for waiter in waiters)
            if now >= entry.expires_at:
                self._stale_hits += served

    # -- the store, with the lock held

    def _terms(
        self, key: Hashable, value: object, ttl: _Ttl, tags: _Tags
    ) -> tuple[float | None, tuple[Hashable, ...]]:
        """Work out TTL and tags of a value; no lock is held, since both may be functions."""
        seconds: float | Unset | None = ttl(key, value) if callable(ttl) else ttl
        if seconds is UNSET:
            seconds = self._default_ttl
            if value is None and self._negative_ttl is not None:
                seconds = self._negative_ttl
        if seconds is not None:
            check_seconds(self._owner, "ttl", seconds, zero=True)
        names = tuple(tags(key, value) if callable(tags) else tags)
        for name in names:
            self._refuse_unhashable(name)
        return seconds, names

    def _write(
        self, key: Hashable, value: object, seconds: float | None, tags: tuple[Hashable, ...]
    ) -> None:
        self._remove(key)
        if self._maxsize == 0 or seconds == 0:
            return
        expires_at = fresh_until = _FOR_EVER
        if seconds is not None:
            if self._ttl_jitter:
                # Not for secrets: it only keeps values from expiring all at once.
                seconds *= 1 + random.uniform(-self._ttl_jitter, self._ttl_jitter)
            now = self._clock()
            expires_at = fresh_until = now + seconds
            if self._refresh_ahead is not None:
                fresh_until = now + seconds * self._refresh_ahead
        for evicted, entry in self._store.put(key, value, fresh_until, expires_at, tags):
            self._evicted_for_room += 1
            self._unlink(evicted, entry)
        for tag in tags:
            self._tagged.setdefault(tag, set()).add(key)
        if expires_at is not _FOR_EVER:
            self._expiry.add(key, expires_at + self._stale_ttl)
            if self._expiry.is_untidy(len(self._data)):
                # Not the ordered dict's own walk, which a hit on another thread would end.
                entries: Iterable[tuple[Any, Entry]] = dict[Any, Entry].items(self._data)
                self._expiry.rebuild(
                    (other, entry.expires_at + self._stale_ttl)
                    for other, entry in entries
                    if entry.expires_at is not _FOR_EVER
                )
        self._arm()

    def _remove(self, key: Hashable) -> None:
        entry = self._store.remove(key)
        if entry is not None:
            self._unlink(key, entry)

    def _unlink(self, key: Hashable, entry: Entry) -> None:
        self._retry_at.pop(key, None)
        for tag in entry.tags:
            keys = self._tagged.get(tag)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._tagged[tag]

    def _detach(self, key: Hashable) -> None:
        """Take the flights of a key out of the registers: what they bring is not stored."""
        for local in self._locals.values():
            local.flights.pop(key, None)

    # -- freeing what has expired

    def _arm(self) -> None:
        """See to it that a sweep comes, now or with the next call on a loop that runs."""
        if self._sweeper is not None:
            loop, handle, end = self._sweeper
            if loop.is_running():
                if self._expiry and self._expiry.first_end() < end:
                    # The timer sleeps past this one's end, maybe on the loop of another thread.
                    self._sweeper = (loop, handle, _AT_ONCE)
                    reference: weakref.ref[AsyncCache] = weakref.ref(self)
                    # It may be closed this moment; the next call arms another then.
                    with suppress(RuntimeError):
                        loop.call_soon_threadsafe(_sweep, reference)
                return
            handle.cancel()
            self._sweeper = None
        if self._expiry:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self._fast = {}
                return
            if self._clock is time.monotonic:
                # A clock that was passed in may jump; this one tells how long nothing is to do.
                end = self._expiry.first_end()
                self._arm_in(loop, max(_SWEEP_PAUSE, end - self._clock()), end)
            else:
                self._arm_in(loop, _SWEEP_PAUSE, _AT_ONCE)
        self._fast = self._data

    def _age_out(self, key: Hashable, now: float) -> None:
        entry = self._data.get(key)
        if entry is not None and now >= entry.expires_at + self._stale_ttl:
            self._evicted_for_age += 1
            self._remove(key)

    def _arm_in(self, loop: asyncio.AbstractEventLoop, pause: float, end: float) -> None:
        # The timer knows the cache weakly, and is cancelled with it.
        handles: list[asyncio.TimerHandle] = []
        reference: weakref.ref[AsyncCache] = weakref.ref(self, lambda _: handles[0].cancel())
        handles.append(loop.call_later(pause, _sweep, reference))
        self._sweeper = (loop, handles[0], end)

    def _sweep(self) -> None:
        with self._lock:
            now = self._clock()
            # First, so that after a key that raises in __hash__ the next write arms another.
            self._disarm()
            for key in list(self._expiry.take_due(now, _SWEEP_MOST)):
                self._age_out(key, now)
            if self._expiry and now >= self._expiry.first_end():
                self._arm_in(asyncio.get_running_loop(), 0.0, _AT_ONCE)
            else:
                self._arm()

    def _disarm(self) -> None:
        if self._sweeper is not None:
            self._sweeper[1].cancel()
            self._sweeper = None

    # -- changing

    def set(self, key: Hashable, value: object, ttl: _Ttl = UNSET, tags: _Tags = _NO_TAGS) -> Done:
        """Store a value now; a load of the key in progress will not be stored over it.

        Needs no event loop. What it returns may be awaited or left.

        Raises:
            ConfigurationError: `ttl` or `tags` is wrong.
            LoaderClosedError: The cache was closed.
        """
        self._check_call(key, None, None, ttl, tags)
        seconds, names = self._terms(key, value, ttl, tags)
        with self._lock:
            self._detach(key)
            self._write(key, value, seconds, names)
        return _DONE

    def delete(self, key: Hashable) -> Done:
        """Remove a key now, if it is there; a load in progress will not be stored."""
        self._refuse_unhashable(key)
        with self._lock:
            self._detach(key)
            self._remove(key)
        return _DONE

    def expire(self, key: Hashable) -> Done:
        """End a value's time now, but keep it as a fallback for `stale_ttl` seconds."""
        self._refuse_unhashable(key)
        with self._lock:
            self._detach(key)
            entry = self._data.get(key)
            now = self._clock()
            if entry is not None and self._stale_ttl > 0 and now < entry.expires_at:
                entry.fresh_until = entry.expires_at = now
                self._retry_at.pop(key, None)
                self._expiry.add(key, now + self._stale_ttl)
                self._arm()
            elif entry is not None and now < entry.expires_at:
                self._remove(key)
        return _DONE

    def invalidate_tag(self, tag: Hashable) -> Done:
        """Remove every value with this tag now; loads in progress with it are not stored."""
        with self._lock:
            for key in list(self._tagged.get(tag, ())):
                self._detach(key)
                self._remove(key)
            for local in self._locals.values():
                for flight in list(local.flights.values()):
                    if callable(flight.tags):
                        flight.suspects.add(tag)
                    elif tag in flight.tags:
                        self._detach(flight.key)
        return _DONE

    def clear(self) -> Done:
        """Remove every value, detach every load in progress, and set the counters to zero."""
        with self._lock:
            for local in self._locals.values():
                local.flights.clear()
            self._store.clear()
            self._tagged.clear()
            self._retry_at.clear()
            self._expiry.clear()
            self._disarm()
            self._forget_counts()
        return _DONE

    # -- many keys, and keys ahead of time

    @overload
    async def get_many(
        self,
        keys: Iterable[K],
        batch_loader: Callable[[list[K]], Awaitable[Mapping[K, V | BaseException]]],
        ttl: _Ttl = ...,
        tags: _Tags = ...,
        *,
        return_exceptions: Literal[False] = ...,
    ) -> dict[K, V | None]: ...
    @overload
    async def get_many(
        self,
        keys: Iterable[K],
        batch_loader: Callable[[list[K]], Awaitable[Mapping[K, V | BaseException]]],
        ttl: _Ttl = ...,
        tags: _Tags = ...,
        *,
        return_exceptions: bool,
    ) -> dict[K, V | BaseException | None]: ...
    @overload
    async def get_many(
        self,
        keys: Iterable[K],
        batch_loader: Callable[[list[K]], Awaitable[Sequence[V | BaseException]]],
        ttl: _Ttl = ...,
        tags: _Tags = ...,
        *,
        return_exceptions: Literal[False] = ...,
    ) -> dict[K, V]: ...
    @overload
    async def get_many(
        self,
        keys: Iterable[K],
        batch_loader: Callable[[list[K]], Awaitable[Sequence[V | BaseException]]],
        ttl: _Ttl = ...,
        tags: _Tags = ...,
        *,
        return_exceptions: bool,
    ) -> dict[K, V | BaseException]: ...
    async def get_many(
        self,
        keys: Iterable[K],
        batch_loader: _BatchLoader,
        ttl: _Ttl = UNSET,
        tags: _Tags = _NO_TAGS,
        *,
        return_exceptions: bool = False,
    ) -> dict[K, Any]:
        """Give the values of `keys` by key; what is missing is loaded at once, in batches.

        A batch of the same `batch_loader` that is open leaves with it. The first error in key
        order is raised when all have settled, or stands in its key's place.
        """
        wanted = list(keys)
        self._refuse_missing("batch_loader", batch_loader)
        for key in wanted:
            self._check_call(key, None, batch_loader, ttl, tags)
        if not callable(tags):
            # Each key takes them all, also out of an iterator.
            tags = tuple(tags)
        values = await self._gather(wanted, batch_loader, ttl, tags)
        if not return_exceptions:
            for value in values.values():
                if is_error(value):
                    raise value
        return values

    async def _gather(
        self, keys: list[K], batch_loader: _BatchLoader, ttl: _Ttl, tags: _Tags
    ) -> dict[K, Any]:
        """Look up keys, send what is missing with the open batch, and wait for every outcome."""
        found: dict[K, Future[Any] | tuple[Any]] = {}
        try:
            for key in keys:
                if key not in found:
                    found[key] = self._lookup(key, batch_loader, ttl, tags)
            batch = self._local().open.get(_identity(batch_loader))
            if batch is not None:
                batch.send()
            for key, item in found.items():
                if isinstance(item, Future):
                    # Replacing a value is no change to a dict that is being walked.
                    found[key] = (await _outcome(item),)
        except BaseException:
            for item in found.values():
                if isinstance(item, Future):
                    item.cancel()
            raise
        return {key: cast("tuple[Any]", item)[0] for key, item in found.items()}

    def _lookup(
        self, key: Hashable, batch_loader: _BatchLoader, ttl: _Ttl, tags: _Tags
    ) -> Future[Any] | tuple[Any]:
        try:
            return self._find(key, None, batch_loader, ttl, tags)
        except Exception as error:
            # A deadlock, or a key that raises in __hash__ or __eq__: the others go on.
            return (error,)

    async def warmup(
        self, loaders: Mapping[Hashable, _Loader], concurrency: int = 32
    ) -> WarmupResult:
        """Load the keys of a mapping from key to loader, so many at a time.

        What is there stays. A failure stops nothing: it stands in the result.
        """
        check_count(self._owner, "concurrency", concurrency)
        check_kind(self._owner, "loaders", loaders, Mapping)
        if self._closed:
            self._refuse_closed()
        result = WarmupResult()
        rest = iter([(key, loader) for key, loader in loaders.items() if key not in self])

        async def work() -> None:
            for key, loader in rest:
                try:
                    await self.get(key, loader=loader)
                except Exception as error:
                    result.failed[key] = error
                else:
                    result.loaded.append(key)

        workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, len(loaders)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        return result

    async def refresh(
        self,
        key: Hashable,
        loader: Callable[[], Awaitable[V]],
        ttl: _Ttl = UNSET,
        tags: _Tags = _NO_TAGS,
    ) -> V:
        """Load `key` now, whatever is there, and give the new value.

        A refresh of the key that runs is joined. When it fails the old value stays, and the
        error is raised.
        """
        value: V = await self._load_afresh(key, loader, ttl, tags, joins=True)
        return value

    async def _load_afresh(
        self, key: Hashable, loader: _Loader, ttl: _Ttl, tags: _Tags, *, joins: bool
    ) -> Any:
        self._refuse_missing("loader", loader)
        self._check_call(key, loader, None, ttl, tags)
        if not joins:
            self._misses += 1
        local = self._local()
        flight = local.joinable(key)
        if flight is None or not (joins and flight.is_forced):
            if self._fresh(key) is not None:
                self._refreshes += 1
            flight = self._start(local, key, loader, None, ttl, tags)
            flight.is_forced = True
        else:
            self._joins += 1
        return await self._wait(local, flight)

    # -- looking

    @overload
    def peek(self, key: Hashable) -> Any: ...
    @overload
    def peek(self, key: Hashable, default: D) -> Any | D: ...
    def peek(self, key: Hashable, default: object = None) -> Any:
        """Give the fresh value of `key` or else `default`; counts nothing, loads nothing."""
        fresh = self._fresh(key)
        return default if fresh is None else fresh[0]

    def _fresh(self, key: Hashable) -> tuple[Any] | None:
        self._refuse_unhashable(key)
        entry = self._data.get(key)
        if entry is None:
            return None
        # Before the times, as in `get`.
        value = entry.value
        return (value,) if self._clock() < entry.expires_at else None

    @property
    def stats(self) -> CacheStats:
        """What the cache has counted so far: a snapshot."""
        calls = self._hits + self._misses
        return CacheStats(
            hits=self._hits,
            misses=self._misses,
            joins=self._joins,
            loads=self._loads,
            load_errors=self._load_errors,
            load_timeouts=self._load_timeouts,
            stale_hits=self._stale_hits,
            refreshes=self._refreshes,
            evictions=self._evicted_for_room + self._evicted_for_age,
            evicted_for_room=self._evicted_for_room,
            evicted_for_age=self._evicted_for_age,
            size=len(self._data),
            hit_rate=self._hits / calls if calls else 0.0,
            load_time_mean=self._load_times.mean(),
            load_time_p50=self._load_times.percentile(0.5),
            load_time_p99=self._load_times.percentile(0.99),
        )

    def get_metrics(self) -> dict[str, Any]:
        """Give `stats` as a dict: 'hits', 'misses', 'size', 'hit_rate' and the rest."""
        return asdict(self.stats)

    async def aclose(self, wait: float = 0.0) -> None:
        """End the cache: let its loads on this loop run for `wait` seconds, cancel what is left.

        Callers that still wait get a LoadCancelledError. Afterwards `get` and `set` raise
        LoaderClosedError. Closing twice is fine.
        """
        check_seconds(self._owner, "wait", wait, zero=True)
        self._closed = True
        here = self._local()
        loads = {flight.load for flight in here.flights.values()}
        tasks = {load.task for load in loads} - {None, asyncio.current_task()}
        if tasks and wait:
            await asyncio.wait(cast("set[asyncio.Task[None]]", tasks), timeout=wait)
        with self._lock:
            everywhere = list(self._locals.values())
        for local in everywhere:
            for load in {flight.load for flight in list(local.flights.values())}:
                if local is here:
                    load.abandon()
                elif not local.loop.is_closed():
                    local.loop.call_soon_threadsafe(load.abandon)
        self.clear()

    # -- checks

    def _local(self) -> _Local:
        loop = asyncio.get_running_loop()
        local = self._locals.get(loop)
        if local is None:
            with self._lock:
                for closed in [other for other in self._locals if other.is_closed()]:
                    del self._locals[closed]
                local = self._locals[loop] = _Local(loop)
        return local

    def _check_call(
        self, key: Hashable, loader: object, batch_loader: object, ttl: _Ttl, tags: object
    ) -> None:
        if self._closed:
            self._refuse_closed()
        self._refuse_unhashable(key)
        if loader is not None and batch_loader is not None:
            raise ConfigurationTypeError(
                f"{self._owner}: give loader or batch_loader for key {reprlib.repr(key)}, not both"
            )
        for argument, function in (("loader", loader), ("batch_loader", batch_loader)):
            if function is not None and not callable(function):
                raise ConfigurationTypeError(
                    f"{self._owner}: {argument} must be an async function, got {describe(function)}"
                )
        if ttl is not None and ttl is not UNSET and not callable(ttl):
            check_seconds(self._owner, "ttl", ttl, zero=True)
        if isinstance(tags, str) or not (callable(tags) or isinstance(tags, Iterable)):
            raise ConfigurationTypeError(
                f"{self._owner}: tags must be several names, or a function, got {tags!r}"
            )

    def _refuse_closed(self) -> NoReturn:
        raise LoaderClosedError(f"{self._owner} was closed; make a new one")

    def _refuse_missing(self, argument: str, function: object) -> None:
        if function is None:
            raise ConfigurationTypeError(
                f"{self._owner}: {argument} must be an async function, got None"
            )

    def _refuse_unhashable(self, key: object) -> None:
        try:
            hash(key)
        except TypeError as error:
            raise ConfigurationTypeError(
                f"{self._owner} was given a key of type {type(key).__name__}, which is not "
                f"hashable: {reprlib.repr(key)}; make a str or a tuple of it"
            ) from error


def _identity(function: object) -> Hashable:
    """Name a function for as long as somebody holds it; a method is made anew at each use."""
    if isinstance(function, MethodType):
        return (id(function.__self__), id(function.__func__))
    return id(function)


async def _outcome(waiter: Future[Any]) -> Any:
    """Wait until a future is done, and give its value or its error."""
    if not waiter.done():
        await asyncio.wait([waiter])
    error = waiter.exception()
    return waiter.result() if error is None else error


def _sweep(reference: weakref.ref[AsyncCache]) -> None:
    cache = reference()
    if cache is not None:
        cache._sweep()


def hit(cache: AsyncCache, key: Hashable) -> Any:
    """Do what `cache.get` does on a hit, without a coroutine; ABSENT where there is more to do."""
    try:
        entry = cache._fast[key]
        value = entry.value
        fresh_until = entry.fresh_until
        clock = cache._clock
        if fresh_until is _FOR_EVER or clock() < fresh_until:
            touch = cache._touch
            if touch is None:
                entry.uses += 1
            else:
                touch(key)
            cache._hits += 1
            return value
    except KeyError:
        pass
    return ABSENT


async def fetch_many(
    cache: AsyncCache,
    keys: list[Hashable],
    originals: list[Any],
    batch_function: Callable[[list[Hashable]], Awaitable[Sequence[Any]]],
    context: Context,
    has_expired: Callable[[], bool],
) -> dict[Hashable, Any]:
    """Get keys for a batch of a loader: one batch for what is missing, run in its context.

    It goes on when the loader is closed, since others may have joined; not after a timeout.
    """
    load = _Load(cache, cache._local(), batch_function, {}, is_batch=True)
    load.context = context
    load.open(None)
    try:
        return await cache._gather(keys, batch_function, UNSET, _NO_TAGS)
    except asyncio.CancelledError:
        if has_expired():
            load.abandon()
        raise
    finally:
        load.send()


def load_afresh(cache: AsyncCache, key: Hashable, loader: _Loader) -> Awaitable[Any]:
    """Load a key whatever is there, joining no flight, and store the value."""
    return cache._load_afresh(key, loader, UNSET, _NO_TAGS, joins=False)
