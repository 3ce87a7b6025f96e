"""`DataLoader`: loads made at about the same time become one call of a batch function."""

# A loader and the functions by which factories and scopes use it see into each other.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import reprlib
import sys
from asyncio import Future
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextvars import Context, copy_context
from functools import partial
from itertools import islice
from threading import get_ident
from typing import Any, Final, Generic, Literal, NoReturn, TypeVar, cast, overload

from ._arguments import check_count, check_kind, check_limiter, check_name, check_seconds
from ._batch import Batch, Fetch, Flight, GroupWaiter, LoaderState, Provide
from ._cache import AsyncCache, fetch_many
from ._flight import Node, current_node, enclosing, find_chain
from ._pump import QUIET_TICKS, Pump, pump_of
from ._results import as_error, deliver, is_error
from ._stats import LoaderStats
from .errors import (
    ConfigurationTypeError,
    ConfigurationValueError,
    LoaderClosedError,
    LoaderDeadlockError,
    LoopError,
)
from .typing import Limiter

__all__ = [
    "DataLoader",
    "clears_of",
    "close_all",
    "equip",
    "is_idle",
    "provide_from",
    "reset_all",
    "running_loop",
]

K = TypeVar("K")
V = TypeVar("V")
K_ = TypeVar("K_")
V_ = TypeVar("V_")
C = TypeVar("C", bound=Hashable)
D = TypeVar("D")
Self = TypeVar("Self", bound="DataLoader[Any, Any]")

# Older ones ask for the process' id in get_running_loop(): to compare threads costs a third of it.
_GETS_LOOP: Final = sys.version_info >= (3, 12)

_ABSENT: Final[Any] = object()

# How long aclose waits for functions that take their time over being cancelled.
_CLOSE_PATIENCE = 1.0


class DataLoader(Generic[K, V]):
    """Gather the keys of `load` calls into batches, and remember what was loaded.

    Make one loader per request (or job, or test): its memo lives as long as the loader, and a
    batch function sees the context variables of where the loader was made. It works on the
    event loop of its first load and is not for use from several threads.

        async def load_users(ids: list[int]) -> dict[int, User]:
            rows = await db.fetch("SELECT * FROM users WHERE id = ANY($1)", ids)
            return {row.id: row for row in rows}

        users = DataLoader(load_users)
        ann, ben = await asyncio.gather(users.load(1), users.load(2))    # one query

    A subclass may define `async def load_fn(self, keys)` instead of passing a function.

    Args:
        load_fn: The batch function. It gets a list of distinct keys, in the order of their first
            loads, and returns a sequence with one value per key, in key order, or a mapping. An
            exception in a value's place is raised to that key's callers only.
        max_batch_size: The most keys of one batch. A full batch leaves at once.
        cache: Whether values are remembered. With False only equal keys of one open batch are
            asked for once.
        cache_key_fn: Makes the hashable key that the memo goes by. A mapping result is then by
            this key.
        batch_window: None lets a batch leave after 8 ticks of the event loop without a new key,
            or 256 ticks in all. A number is a wait in seconds from the batch's first key, and
            for 4 such ticks after it, for loaders that gather across requests.
        missing: What a key becomes that a mapping result lacks: `None`, or a `KeyNotFoundError`
            with "raise".
        result_cache: A cache behind the memo, which lives longer than the loader. A batch asks
            it first, joins the loads that other loaders have in progress there, and calls the
            batch function for the rest.
        cache_errors: Whether an error in a value's place is remembered. The error of a whole
            batch never is.
        max_concurrent_batches: The most batches of this loader that run at a time.
        limiter: An async context manager that each batch runs in, such as an `asyncio.Semaphore`
            shared by all loaders of one database session. A batch that the holder of a slot
            waits for runs inside that slot.
        load_timeout: Seconds from when a batch leaves, waiting for the limiter included, after
            which its callers get a `LoadTimeoutError`.
        name: What errors and reports call the loader. By default the name of the function, or
            of the subclass that defines it.

    Raises:
        ConfigurationError: An argument is wrong; it is a TypeError or a ValueError too.
    """

    __slots__ = (
        "__weakref__",
        "_batch_window",
        "_cache_key_fn",
        "_closed",
        "_forget_behind",
        "_here",
        "_is_plain",
        "_limit",
        "_loop",
        "_memo",
        "_new_future",
        "_probe",
        "_pump",
        "_put_behind",
        "_recall",
        "_renew",
        "_state",
        "_thread",
    )

    _loop: asyncio.AbstractEventLoop | None
    _new_future: Callable[[], Future[Any]]
    _probe: Callable[[], object]
    _pump: Pump

    # Type variables of their own, since an overload that says what `self` becomes may not use
    # the class's. A mapping is by cache key where there is a cache_key_fn.
    @overload
    def __init__(
        self: DataLoader[K_, V_],
        load_fn: Callable[[list[K_]], Awaitable[Mapping[C, V_ | BaseException]]],
        max_batch_size: int | None = ...,
        cache: bool = ...,
        *,
        cache_key_fn: Callable[[K_], C],
        batch_window: float | None = ...,
        missing: Literal["raise"],
        result_cache: AsyncCache | None = ...,
        cache_errors: bool = ...,
        max_concurrent_batches: int | None = ...,
        limiter: Limiter | None = ...,
        load_timeout: float | None = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: DataLoader[K_, V_ | None],
        load_fn: Callable[[list[K_]], Awaitable[Mapping[C, V_ | BaseException]]],
        max_batch_size: int | None = ...,
        cache: bool = ...,
        *,
        cache_key_fn: Callable[[K_], C],
        batch_window: float | None = ...,
        missing: Literal["none"] = ...,
        result_cache: AsyncCache | None = ...,
        cache_errors: bool = ...,
        max_concurrent_batches: int | None = ...,
        limiter: Limiter | None = ...,
        load_timeout: float | None = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: DataLoader[K_, V_],
        load_fn: Callable[[list[K_]], Awaitable[Mapping[K_, V_ | BaseException]]],
        max_batch_size: int | None = ...,
        cache: bool = ...,
        *,
        cache_key_fn: None = ...,
        batch_window: float | None = ...,
        missing: Literal["raise"],
        result_cache: AsyncCache | None = ...,
        cache_errors: bool = ...,
        max_concurrent_batches: int | None = ...,
        limiter: Limiter | None = ...,
        load_timeout: float | None = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: DataLoader[K_, V_ | None],
        load_fn: Callable[[list[K_]], Awaitable[Mapping[K_, V_ | BaseException]]],
        max_batch_size: int | None = ...,
        cache: bool = ...,
        *,
        cache_key_fn: None = ...,
        batch_window: float | None = ...,
        missing: Literal["none"] = ...,
        result_cache: AsyncCache | None = ...,
        cache_errors: bool = ...,
        max_concurrent_batches: int | None = ...,
        limiter: Limiter | None = ...,
        load_timeout: float | None = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: DataLoader[K_, V_],
        load_fn: Callable[[list[K_]], Awaitable[Sequence[V_ | BaseException]]],
        max_batch_size: int | None = ...,
        cache: bool = ...,
        *,
        cache_key_fn: Callable[[K_], Hashable] | None = ...,
        batch_window: float | None = ...,
        missing: Literal["none", "raise"] = ...,
        result_cache: AsyncCache | None = ...,
        cache_errors: bool = ...,
        max_concurrent_batches: int | None = ...,
        limiter: Limiter | None = ...,
        load_timeout: float | None = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        load_fn: None = ...,
        max_batch_size: int | None = ...,
        cache: bool = ...,
        *,
        cache_key_fn: Callable[[Any], Hashable] | None = ...,
        batch_window: float | None = ...,
        missing: Literal["none", "raise"] = ...,
        result_cache: AsyncCache | None = ...,
        cache_errors: bool = ...,
        max_concurrent_batches: int | None = ...,
        limiter: Limiter | None = ...,
        load_timeout: float | None = ...,
        name: str | None = ...,
    ) -> None: ...
    def __init__(
        self,
        # Any: the overloads above say what is accepted; no one type covers them.
        load_fn: Callable[[list[Any]], Awaitable[Any]] | None = None,
        max_batch_size: int | None = None,
        cache: bool = True,
        *,
        cache_key_fn: Callable[[Any], Hashable] | None = None,
        batch_window: float | None = None,
        missing: Literal["none", "raise"] = "none",
        result_cache: AsyncCache | None = None,
        cache_errors: bool = False,
        max_concurrent_batches: int | None = None,
        limiter: Limiter | None = None,
        load_timeout: float | None = None,
        name: str | None = None,
    ) -> None:
        check_name("a loader", name)
        if load_fn is None:
            load_fn = getattr(self, "load_fn", None)
            label = name or type(self).__name__
        else:
            label = name or _name_of(load_fn)
        owner = f"loader {label!r}"
        if type(self) is not DataLoader:
            options = {"max_batch_size": max_batch_size, "cache": cache, "batch": True}
            _refuse_attributes(type(self), options, owner)
        if load_fn is None and hasattr(type(self), "batch_load_fn"):
            raise ConfigurationTypeError(
                f"{owner}: {type(self).__name__} defines batch_load_fn, but the method is named "
                f"load_fn here; rename it"
            )
        if not callable(load_fn):
            raise ConfigurationTypeError(
                f"{owner}: load_fn must be an async function that takes a list of keys, or a "
                f"method of a subclass; got {load_fn!r}"
            )
        if max_batch_size is not None:
            check_count(owner, "max_batch_size", max_batch_size)
        if max_concurrent_batches is not None:
            check_count(owner, "max_concurrent_batches", max_concurrent_batches)
        if batch_window is not None:
            check_seconds(owner, "batch_window", batch_window, zero=True)
        if load_timeout is not None:
            check_seconds(owner, "load_timeout", load_timeout, zero=False)
        if cache_key_fn is not None and not callable(cache_key_fn):
            raise ConfigurationTypeError(
                f"{owner}: cache_key_fn must be a function of one key, got {cache_key_fn!r}"
            )
        if missing not in ("none", "raise"):
            raise ConfigurationValueError(
                f"{owner}: missing must be 'none' or 'raise', got {missing!r}"
            )
        check_kind(owner, "result_cache", result_cache, AsyncCache)
        limiters: tuple[Limiter, ...] = ()
        if limiter is not None:
            check_limiter(owner, limiter)
            limiters = (limiter,)
        if max_concurrent_batches is not None:
            limiters = (*limiters, asyncio.Semaphore(max_concurrent_batches))
        self._state = LoaderState(
            name=label,
            load_fn=load_fn,
            context=copy_context(),
            limiters=limiters,
            load_timeout=load_timeout,
            cache=cache,
            cache_errors=cache_errors,
            missing_raises=missing == "raise",
            fetch=None if result_cache is None else partial(fetch_many, result_cache),
        )
        self._memo = self._state.memo
        self._recall = self._memo.get
        # What stands behind the memo: how to forget a key and to put one there.
        self._forget_behind: Callable[[Hashable], object] | None = None
        self._put_behind: Callable[[Hashable, object], object] | None = None
        # What a reset finds out anew.
        self._renew: Callable[[], None] | None = None
        if result_cache is not None:
            self._forget_behind = result_cache.delete
            self._put_behind = result_cache.set
        self._cache_key_fn = cache_key_fn
        self._batch_window = batch_window
        self._limit = sys.maxsize if max_batch_size is None else max_batch_size
        # Nothing to do for a key but to put it into the open batch and into the memo.
        self._is_plain = cache and cache_key_fn is None and max_batch_size is None
        self._closed = False
        self._loop = None
        self._probe = _never
        self._here: object = True
        self._thread = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.name!r}>"

    # -- loading

    def load(self, key: K) -> Future[V]:
        """Give the value of `key`, loading it with the open batch if it is not known.

        Each caller of a load in progress has a future of its own: cancelling it, or timing out,
        touches nobody else. When all callers of a batch have gone, its function is cancelled.

        Raises:
            TypeError: The key is None, or not hashable and there is no `cache_key_fn`.
            LoopError: No event loop is running, or not the one of the loader's first load.
            LoaderClosedError: The loader was closed.

        The future raises what the batch function raised, or put in the value's place; and
        BatchResultError, KeyNotFoundError, LoadTimeoutError, LoadCancelledError or
        LoaderDeadlockError as their descriptions say.
        """
        state = self._state
        cache_key: Any = key if self._cache_key_fn is None else self._cache_key_of(key)
        batch = state.open
        # By a name of its own, since to call an attribute is to look for a method first.
        probe = self._probe
        entry: Flight | Future[Any] | None
        if batch is None:
            try:
                entry = self._memo[cache_key]
            except KeyError:
                entry = None
            except TypeError:
                self._refuse_unhashable(key, cache_key)
                raise
            if entry.__class__ is Future:
                try:
                    if probe() is self._here:
                        state.hits += 1
                        # The class test narrows no types, and cast() would be the dearest step.
                        return entry  # pyright: ignore[reportReturnType]
                except RuntimeError:
                    pass  # No loop runs, as is said below.
            elif isinstance(entry, Flight) and self._is_here():
                known = self._first_hit(cache_key, entry)
                if known is not None:
                    return known
        else:
            try:
                entry = self._memo.get(cache_key)
            except TypeError:
                self._refuse_unhashable(key, cache_key)
                raise
            # Code inside a batch function takes the long way round.
            try:
                is_new = (
                    entry is None
                    and key is not None
                    and probe() is self._here
                    and (_GETS_LOOP or self._thread == get_ident())
                    and current_node.get() is None
                )
            except RuntimeError:
                is_new = False  # No loop runs, as is said below.
            if is_new:
                new_future = self._new_future
                waiter = new_future()
                try:
                    if self._is_plain and batch.waiters.setdefault(cache_key, waiter) is waiter:
                        self._memo[cache_key] = batch.flight
                    else:
                        self._queue(batch, key, cache_key, waiter)
                except BaseException:
                    # The caller gets this error and no waiter, so nobody waits.
                    waiter.cancel()
                    raise
                return waiter
        return self._load_anew(key, cache_key, entry)

    def _is_here(self) -> bool:
        """Tell whether the loader's loop runs, in this thread."""
        try:
            is_running = self._probe() is self._here
        except RuntimeError:
            return False
        return is_running and (_GETS_LOOP or self._thread == get_ident())

    def _first_hit(self, cache_key: Hashable, flight: Flight) -> Future[Any] | None:
        """Give the done future of a value that came with others, and put it into the memo."""
        results = flight.results
        if results is None:
            return None
        value = results.get(cache_key, _ABSENT)
        if value is _ABSENT or is_error(value):
            return None
        new_future = self._new_future
        known = new_future()
        known.set_result(value)
        self._memo[cache_key] = known
        self._state.hits += 1
        return known

    def _queue(self, batch: Batch, key: K, cache_key: Hashable, waiter: Future[Any]) -> None:
        """Put a key that the memo lacks into the open batch."""
        waiters = batch.waiters
        if waiters.setdefault(cache_key, waiter) is not waiter:
            # Cleared since, or a loader without memo: asked for once all the same.
            batch.join(cache_key, waiter)
        elif batch.originals is not None:
            batch.originals[cache_key] = key
        if self._state.cache:
            self._memo[cache_key] = batch.flight
        if len(waiters) >= self._limit:
            batch.send()

    def _load_anew(
        self, key: K, cache_key: Hashable, entry: Flight | Future[Any] | None
    ) -> Future[V]:
        if key is None:
            self._refuse_none()
        loop = self._enter()
        node = enclosing()
        waiter: Future[Any]
        if _is_left_over(entry, cache_key):
            entry = None
        if entry is None:
            batch = self._state.open or self._open(loop)
            waiter = self._new_future()
            if node is not None:
                node.add_edge(batch.node, waiter, cache_key)
            try:
                self._queue(batch, key, cache_key, waiter)
            except BaseException:
                waiter.cancel()
                raise
            return waiter
        if isinstance(entry, Flight) and entry.batch is not None:
            batch = entry.batch
            waiter = self._new_future()
            error = self._add_edge(node, batch, waiter, cache_key)
            if error is None:
                batch.join(cache_key, waiter)
            else:
                waiter.set_exception(error)
            return waiter
        self._state.hits += 1
        known = self._known(cache_key, entry)
        open_batch = self._state.open
        # Inside a batch function a hit never waits, since that batch may wait for this function.
        if open_batch is None or node is not None:
            return known
        waiter = self._new_future()
        open_batch.hits.append((waiter, _outcome(known, cache_key)))
        return waiter

    def _known(self, cache_key: Hashable, entry: Flight | Future[Any]) -> Future[Any]:
        """Give the done future of a value in the memo, made on its first hit."""
        if not isinstance(entry, Flight):
            return entry
        known = self._new_future()
        deliver(known, _outcome(entry, cache_key), set())
        self._state.memo[cache_key] = known
        return known

    @overload
    def load_many(
        self, keys: Iterable[K], *, return_exceptions: Literal[False] = ...
    ) -> Awaitable[list[V]]: ...
    @overload
    def load_many(
        self, keys: Iterable[K], *, return_exceptions: Literal[True]
    ) -> Awaitable[list[V | BaseException]]: ...
    @overload
    def load_many(
        self, keys: Iterable[K], *, return_exceptions: bool
    ) -> Awaitable[list[V]] | Awaitable[list[V | BaseException]]: ...
    def load_many(
        self, keys: Iterable[K], *, return_exceptions: bool = False
    ) -> Awaitable[list[V]] | Awaitable[list[V | BaseException]]:
        """Give the values of `keys` in their order, as one future.

        The keys are checked first and queued when this is called, all or none. The first error
        in key order is raised after all keys have settled; with `return_exceptions=True` errors
        stand in their keys' places.

        Raises:
            TypeError: `keys` is not iterable, or a key is one that `load` refuses.
            LoopError: As for `load`.
            LoaderClosedError: The loader was closed.
        """
        cache_keys, distinct = self._check_keys(keys)
        loop = self._enter()
        state = self._state
        node = enclosing()
        group = GroupWaiter(loop, cache_keys, distinct, return_exceptions)
        state.joins += len(cache_keys) - len(distinct)
        fresh = distinct
        try:
            if not state.memo.keys().isdisjoint(distinct):
                fresh = self._gather_known(group, node)
            self._queue_group(group, fresh, loop, node)
        except BaseException:
            group.cancel()
            raise
        group.is_queueing = False
        if cache_keys and not group.parts and state.open is not None and node is None:
            # All are hits: they are answered together with the open batch, as one hit is.
            state.open.groups[group] = None
            group.parts[state.open] = set()
        group.end_if_complete(set())
        return group

    def _check_keys(self, keys: Iterable[K]) -> tuple[list[Hashable], dict[Hashable, Any]]:
        """Give all cache keys, and the distinct ones with the key of each one's first load."""
        originals = self._listed("load_many", keys)
        if self._cache_key_fn is None:
            cache_keys = cast("list[Hashable]", originals)
        else:
            cache_keys = [self._cache_key_of(key) for key in originals]
        distinct: dict[Hashable, Any] = {}
        try:
            if self._cache_key_fn is None:
                distinct = dict.fromkeys(cache_keys)
            else:
                for key, cache_key in zip(originals, cache_keys):
                    distinct.setdefault(cache_key, key)
        except TypeError:
            for key, cache_key in zip(originals, cache_keys):
                self._refuse_unhashable(key, cache_key)
            raise
        if self._cache_key_fn is None and None in distinct:
            self._refuse_none()
        return cache_keys, distinct

    def _gather_known(self, group: GroupWaiter, node: Node | None) -> dict[Hashable, Any]:
        """Take hits and join flights; give the keys that are neither."""
        fresh: dict[Hashable, Any] = {}
        refused: dict[Batch, LoaderDeadlockError | None] = {}
        for cache_key, key in group.distinct.items():
            entry = self._recall(cache_key)
            if entry is None or _is_left_over(entry, cache_key):
                fresh[cache_key] = key
            elif isinstance(entry, Flight) and entry.batch is not None:
                batch = entry.batch
                if batch not in refused:
                    refused[batch] = self._add_edge(node, batch, group, cache_key)
                error = refused[batch]
                if error is None:
                    batch.join_group(cache_key, group)
                else:
                    group.found[cache_key] = error
            else:
                self._state.hits += 1
                group.found[cache_key] = _outcome(entry, cache_key)
        return fresh

    def _queue_group(
        self,
        group: GroupWaiter,
        fresh: dict[Hashable, Any],
        loop: asyncio.AbstractEventLoop,
        node: Node | None,
    ) -> None:
        state = self._state
        rest = iter(fresh.items())
        left = len(fresh)
        while left:
            batch = state.open or self._open(loop)
            room = self._limit - len(batch.waiters)
            part = fresh if left == len(fresh) <= room else dict(islice(rest, room))
            left -= len(part)
            if node is not None:
                node.add_edge(batch.node, group, next(iter(part)))
            if state.cache:
                state.memo.update(dict.fromkeys(part, batch.flight))
            batch.add_group(group, part)
            if len(batch.waiters) >= self._limit:
                batch.send()

    def _add_edge(
        self, node: Node | None, batch: Batch, waiter: Future[Any], key: Hashable
    ) -> LoaderDeadlockError | None:
        """Let the enclosing function wait for a flight, unless that waits for the function."""
        if node is None:
            return None
        chain = find_chain(batch.node, node, key)
        if chain is not None:
            return LoaderDeadlockError(
                f"loader {self._state.name!r} would wait for itself: {chain}; a batch function "
                f"can't load a key of its own batch, so have it find that value itself"
            )
        node.add_edge(batch.node, waiter, key)
        self._pump.slots.match()
        return None

    # -- the memo

    @overload
    def peek(self, key: K) -> V | None: ...
    @overload
    def peek(self, key: K, default: D) -> V | D: ...
    def peek(self, key: K, default: D | None = None) -> V | D | None:
        """Give the value of `key` if the memo has it now, or else `default`.

        It loads nothing, waits for nothing and works without an event loop. A load in progress
        and a remembered error count as absent.
        """
        cache_key = self._memo_key(key)
        entry = self._recall(cache_key)
        if entry is None or _is_pending(entry) or _is_left_over(entry, cache_key):
            return default
        outcome = _outcome(entry, cache_key)
        return default if is_error(outcome) else cast("V", outcome)

    def prime(self: Self, key: K, value: V | Exception, *, force: bool = False) -> Self:
        """Put a value, or the error that loading `key` should raise, into the memo.

        What is there stays, unless `force`. Those who wait for the key in an open batch get the
        value, and the key is not asked for; those of a running batch get the batch's. A value
        goes to the result cache too. With `cache=False` this does nothing. It needs no loop.
        """
        # Before it becomes the key of a mapping, whose own error would be less clear.
        self._memo_key(key)
        return self.prime_many({key: value}, force=force)

    def prime_many(self: Self, values: Mapping[K, V | Exception], *, force: bool = False) -> Self:
        """Prime each key of a mapping; all keys are checked before any is primed."""
        state = self._state
        check_kind(f"loader {state.name!r}", "values", values, Mapping)
        primed = {self._memo_key(key): value for key, value in values.items()}
        if not state.cache:
            return self
        for cache_key, value in primed.items():
            entry = self._recall(cache_key)
            is_absent = entry is None or _is_pending(entry) or _is_left_over(entry, cache_key)
            if not is_absent and not force:
                continue
            outcome: object = value
            if is_error(value):
                outcome = as_error(cast("Exception", value), f"loader {state.name!r}")
            state.epoch += 1
            state.memo[cache_key] = Flight(None, {cache_key: outcome})
            if self._put_behind is not None and not is_error(outcome):
                self._put_behind(cache_key, outcome)
            if state.open is not None and cache_key in state.open.waiters:
                state.open.supply(cache_key, outcome)
        return self

    def clear(self: Self, key: K) -> Self:
        """Forget `key`, if it is known, here and in the result cache: a later load asks anew.

        Those who wait for a load in progress still get its result; later ones don't.
        """
        self._forget(self._memo_key(key))
        return self

    def clear_many(self: Self, keys: Iterable[K]) -> Self:
        """Forget each of `keys`; all are checked before any is forgotten."""
        for cache_key in [self._memo_key(key) for key in self._listed("clear_many", keys)]:
            self._forget(cache_key)
        return self

    def _forget(self, cache_key: Hashable) -> None:
        state = self._state
        state.clears += 1
        if self._forget_behind is not None:
            self._forget_behind(cache_key)
        entry = state.memo.pop(cache_key, None)
        if entry is not None or not state.cache:
            state.epoch += 1
        if isinstance(entry, Flight) and entry.results is not None:
            # The flight may stay in the memo for other keys, but not with this value.
            entry.results.pop(cache_key, None)

    def clear_all(self: Self) -> Self:
        """Forget every key, but not those of the result cache; else as `clear`."""
        self._state.clears += 1
        self._reset()
        return self

    def _reset(self) -> None:
        self._state.epoch += 1
        self._state.memo.clear()

    # -- the loader's life

    def dispatch(self) -> None:
        """Send the open batch now, if there is one, instead of when its window ends.

        Raises:
            LoopError: There is one, and its event loop is not running.
        """
        if self._state.open is not None:
            self._enter()
            self._state.open.send()

    @property
    def stats(self) -> LoaderStats:
        """What the loader has counted so far: a snapshot."""
        state = self._state
        queued = state.queued + (0 if state.open is None else len(state.open.waiters))
        return LoaderStats(
            loads=state.hits + state.joins + queued,
            hits=state.hits,
            joins=state.joins,
            batches=state.batches,
            keys=state.keys,
            errors=state.errors,
            cancelled=state.cancelled,
            largest_batch=state.largest_batch,
        )

    async def aclose(self) -> None:
        """End the loader: cancel what runs, and settle all waiters with `LoadCancelledError`.

        It waits up to a second for those functions to end, so that what they use can be closed
        next. Afterwards `load` and `load_many` raise `LoaderClosedError`. Closing twice is fine.
        """
        tasks = self._close()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_PATIENCE)

    def _close(self) -> set[asyncio.Task[Any]]:
        """Close, and give the tasks of the functions that were cancelled and can be waited for."""
        self._closed = True
        self._probe = _never
        self._reset()
        if self._loop is None:
            return set()
        tasks = {batch.task for batch in self._state.running}
        self._abandon()
        if not tasks or self._loop is not running_loop():
            return set()
        return cast("set[asyncio.Task[Any]]", tasks - {None, asyncio.current_task()})

    def _abandon(self) -> None:
        for batch in list(self._state.running):
            batch.abandon()
        if self._state.open is not None:
            self._state.open.abandon()

    def _open(self, loop: asyncio.AbstractEventLoop) -> Batch:
        originals: dict[Hashable, Any] | None = None if self._cache_key_fn is None else {}
        batch = self._state.open = Batch(self._state, self._pump, loop, originals)
        if self._batch_window is None:
            self._pump.add(batch, QUIET_TICKS)
        else:
            batch.wait(self._batch_window)
        return batch

    def _enter(self) -> asyncio.AbstractEventLoop:
        """Check that a load may be made here, and tie the loader to the loop of its first one."""
        name = self._state.name
        if self._closed:
            raise LoaderClosedError(f"loader {name!r} was closed; make a new one")
        loop = running_loop()
        if loop is not self._loop or loop is None:
            if self._loop is not None and self._loop.is_closed():
                self._abandon()
            if loop is None:
                raise LoopError(
                    f"loader {name!r} was used where no event loop runs; make the endpoint, view "
                    f"or function that loads an `async def`, and start a program with "
                    f"asyncio.run(main())"
                )
            if self._loop is not None:
                raise LoopError(
                    f"loader {name!r} belongs to another event loop, that of its first load; "
                    f"make one loader per loop, best one per request; where a factory is used, "
                    f"open a scope per loop"
                )
            self._loop = loop
            self._pump = pump_of(loop)
            self._probe, self._here = _prober(loop)
            self._new_future = _future_maker(loop)
        self._thread = get_ident()
        return loop

    # -- keys

    def _listed(self, method: str, keys: Iterable[K]) -> list[K]:
        try:
            return list(keys)
        except TypeError as error:
            raise TypeError(
                f"loader {self._state.name!r}: {method} needs an iterable of keys: {error}"
            ) from error

    def _memo_key(self, key: K) -> Hashable:
        if key is None:
            self._refuse_none()
        cache_key: Any = key if self._cache_key_fn is None else self._cache_key_of(key)
        self._refuse_unhashable(key, cache_key)
        return cast("Hashable", cache_key)

    def _cache_key_of(self, key: K) -> Any:
        if key is None:
            self._refuse_none()
        assert self._cache_key_fn is not None
        return self._cache_key_fn(key)

    def _refuse_none(self) -> NoReturn:
        raise TypeError(f"loader {self._state.name!r} was given None as a key; leave it out")

    def _refuse_unhashable(self, key: object, cache_key: object) -> None:
        """Raise, if the cache key can't be hashed; errors of another origin are not ours."""
        try:
            hash(cache_key)
        except TypeError as error:
            what = "key" if self._cache_key_fn is None else "cache_key_fn gave a cache key"
            is_many = self._cache_key_fn is None and type(key) in (list, set)
            advice = "; if it holds several keys, use load_many" if is_many else ""
            raise TypeError(
                f"loader {self._state.name!r}: {what} of type {type(cache_key).__name__} "
                f"for key {reprlib.repr(key)}, which is not hashable; pass a cache_key_fn that "
                f"makes a hashable key of it{advice}"
            ) from error


def equip(
    loader: DataLoader[K, V],
    *,
    context: Context,
    limiters: tuple[Limiter, ...] = (),
    fetch: Fetch | None = None,
    forget: Callable[[Hashable], object] | None = None,
) -> DataLoader[K, V]:
    """Give a new loader what a factory adds to it: nothing that users could pass."""
    state = loader._state
    state.context = context
    # The same limiter twice would wait for itself.
    own = [limiter for limiter in state.limiters if all(limiter is not one for one in limiters)]
    state.limiters = (*limiters, *own)
    if fetch is not None:
        state.fetch = fetch
    loader._forget_behind = forget or loader._forget_behind
    return loader


def renew_with(loader: DataLoader[Any, Any], renew: Callable[[], None]) -> None:
    """Have something done at each reset."""
    loader._renew = renew


def change_fetch(loader: DataLoader[Any, Any], fetch: Fetch) -> None:
    """Ask another way from now on; a batch that is open leaves, and asks as it would have."""
    state = loader._state
    state.fetch = fetch
    if state.open is not None:
        state.open.send()


def provide_from(loader: DataLoader[Any, Any], provide: Provide) -> None:
    """Let something know the values that the loader gets, from now on."""
    loader._state.provide = provide


def clears_of(loader: DataLoader[Any, Any]) -> int:
    """Count how often keys were cleared: what a value that is older than that may not pass."""
    return loader._state.clears


def reset_all(loaders: Iterable[DataLoader[Any, Any]]) -> None:
    """Forget every key of several loaders."""
    for loader in loaders:
        loader._reset()
        loader._state.clears = 0
        if loader._renew is not None:
            loader._renew()


def is_idle(loader: DataLoader[Any, Any]) -> bool:
    """Tell whether the loader has neither an open nor a running batch."""
    return loader._state.open is None and not loader._state.running


def close_all(loaders: Iterable[DataLoader[Any, Any]]) -> set[asyncio.Task[Any]]:
    """Close several loaders at once, and give the tasks that can be waited for."""
    return {task for loader in loaders for task in loader._close()}


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Give the running event loop, if one runs here."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _refuse_attributes(kind: type, options: Mapping[str, object], owner: str) -> None:
    """Refuse a subclass whose class attributes say other than its options, as nobody reads them."""
    for name, given in options.items():
        value: object = getattr(kind, name, given)
        # What is a method, a property or the like has a meaning of its own.
        if value == given or callable(value) or hasattr(value, "__get__"):
            continue
        advice = f"pass {name}={value!r} to __init__"
        if name == "batch":
            advice = "pass max_batch_size=1 to __init__ to send each key alone"
        raise ConfigurationTypeError(
            f"{owner}: class attribute {name} = {value!r} of {kind.__name__} is no option and "
            f"would be ignored; remove it and {advice}"
        )


def _never() -> bool:
    return False


def _prober(loop: asyncio.AbstractEventLoop) -> tuple[Callable[[], object], object]:
    """Give what to call at each load, and what that gives while the loop runs.

    The first answers for the thread as well; where it is too dear, a hit does without that.
    """
    if _GETS_LOOP:
        return asyncio.get_running_loop, loop
    return loop.is_running, True


def _name_of(load_fn: object) -> str:
    while isinstance(load_fn, partial):
        load_fn = load_fn.func
    return str(getattr(load_fn, "__name__", type(load_fn).__name__))


def _future_maker(loop: asyncio.AbstractEventLoop) -> Callable[[], Future[Any]]:
    """Give the fastest way to make the loop's kind of future."""
    # loop.create_future() is a Python function around this in asyncio; a loop may have its own.
    if type(loop.create_future()) is not Future:
        return loop.create_future
    return cast("Callable[[], Future[Any]]", partial(Future, loop=loop))


def _is_pending(entry: Flight | Future[Any]) -> bool:
    return isinstance(entry, Flight) and entry.results is None


def _is_left_over(entry: Flight | Future[Any] | None, cache_key: Hashable) -> bool:
    """Tell whether a failed batch could not take its flight out of the memo.

    That takes a key which raised in `__hash__` or `__eq__` just then.
    """
    return (
        isinstance(entry, Flight) and entry.results is not None and cache_key not in entry.results
    )


def _outcome(entry: Flight | Future[Any], cache_key: Hashable) -> object:
    """Give the value, or the error, of a memo entry that is not pending."""
    if isinstance(entry, Flight):
        assert entry.results is not None
        return entry.results[cache_key]
    error = entry.exception()
    return entry.result() if error is None else error
