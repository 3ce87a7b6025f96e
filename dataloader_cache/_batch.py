"""One batch: the keys gathered for one call of a batch function, and those who wait for them.

A batch is open while it gathers keys, runs while its function does, and is settled after that,
once, whatever happens. The memo holds its flight for each of its keys. A flight that has ended
holds the results, so that settling need not write into the memo key by key, and an older batch
can neither write over nor evict what a later `clear`, `prime` or load put there: its results
are found only where the memo still names its flight.
"""

from __future__ import annotations

import asyncio
from asyncio import Future, InvalidStateError
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from itertools import chain
from typing import Any, TypeAlias

from ._flight import Node, current_node
from ._pump import QUIET_TICKS_AFTER_WINDOW, Pump
from ._results import as_error, check_awaitable, count, deliver, has_error, is_error, read_values
from ._slots import Slot
from ._stats import batch_listeners
from .errors import LoadCancelledError, LoadTimeoutError
from .typing import Limiter

__all__ = ["Batch", "Fetch", "Flight", "GroupWaiter", "LoaderState"]


class Flight:
    """Stand in the memo for a load in progress, and for its results after it.

    Until the batch is settled `results` is None; from then on `batch` is None, so that a memo
    keeps values alive and nothing else.
    """

    __slots__ = ("batch", "results")

    def __init__(self, batch: Batch | None, results: dict[Hashable, Any] | None = None) -> None:
        self.batch = batch
        self.results = results


# Any: a result cache holds values of all kinds.
Fetch: TypeAlias = Callable[
    [
        list[Hashable],
        list[Any],
        Callable[[list[Hashable]], Awaitable[Sequence[Any]]],
        Context,
        Callable[[], bool],
    ],
    Awaitable[Mapping[Hashable, Any]],
]
"""Gets values from a result cache: by cache keys, the keys themselves, a function for those that
it lacks, the context of that, and a function that tells whether its time was over when it is
cancelled."""

Provide: TypeAlias = Callable[[], Callable[[list[Any]], None]]
"""Called when a load starts, gives what is called with the values that it brought."""

_Memo: TypeAlias = "dict[Hashable, Flight | Future[Any]]"


class LoaderState:
    """Hold what a loader shares with its batches, and live as long as any of them.

    `epoch` is the generation: it moves whenever something takes a key out of the memo or puts a
    value there, so a batch that finds it unmoved may write all its results with one call.
    """

    __slots__ = (
        "batches",
        "cache",
        "cache_errors",
        "cancelled",
        "clears",
        "context",
        "epoch",
        "errors",
        "fetch",
        "hits",
        "joins",
        "keys",
        "largest_batch",
        "limiters",
        "load_fn",
        "load_timeout",
        "memo",
        "missing_raises",
        "name",
        "open",
        "provide",
        "queued",
        "running",
    )

    def __init__(
        self,
        *,
        name: str,
        load_fn: Callable[[list[Any]], Awaitable[Any]],
        context: Context,
        limiters: tuple[Limiter, ...],
        load_timeout: float | None,
        cache: bool,
        cache_errors: bool,
        missing_raises: bool,
        fetch: Fetch | None,
    ) -> None:
        self.name = name
        self.load_fn = load_fn
        self.context = context
        self.limiters = limiters
        self.load_timeout = load_timeout
        self.cache = cache
        self.cache_errors = cache_errors
        self.missing_raises = missing_raises
        self.fetch = fetch
        self.memo: _Memo = {}
        self.provide: Provide | None = None
        self.epoch = 0
        # How often the user cleared a key: values that were loaded before are not handed on.
        self.clears = 0
        self.open: Batch | None = None
        self.running: set[Batch] = set()
        self.hits = self.joins = self.queued = 0
        self.batches = self.keys = self.largest_batch = 0
        self.errors = self.cancelled = 0


class GroupWaiter(Future[list[Any]]):
    """Wait for many keys with one future: what `load_many` returns.

    `parts` says which keys each unsettled batch owes; None stands for every key of the group.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        cache_keys: list[Hashable],
        distinct: dict[Hashable, Any],
        return_exceptions: bool,
    ) -> None:
        super().__init__(loop=loop)
        self.cache_keys = cache_keys
        self.distinct = distinct
        self.return_exceptions = return_exceptions
        self.found: dict[Hashable, Any] = {}
        self.parts: dict[Batch, set[Hashable] | None] = {}
        self.is_queueing = True

    def owed_by(self, batch: Batch) -> int:
        """Count the keys that `batch` owes."""
        part = self.parts.get(batch, ())
        return len(self.distinct if part is None else part)

    def supply(self, batch: Batch, cache_key: Hashable, value: object) -> bool:
        """Take a primed value for a key of an open batch; tell whether the batch owes no more."""
        part = self.parts[batch]
        if part is None:
            part = self.parts[batch] = set(self.distinct)
        part.discard(cache_key)
        self.found[cache_key] = value
        if part:
            return False
        del self.parts[batch]
        self.end_if_complete(set())
        return True

    def settle(self, batch: Batch, results: dict[Hashable, Any], reported: set[int]) -> None:
        """Take what `batch` owed."""
        part = self.parts.pop(batch)
        if part is not None:
            self.found.update((key, results[key]) for key in part)
        elif len(results) == len(self.cache_keys) == len(self.distinct):
            # The batch was this group's alone, so its values stand in the group's order.
            self._deliver(list(results.values()), reported)
            return
        else:
            self.found.update((key, results[key]) for key in self.distinct)
        self.end_if_complete(reported)

    def end_if_complete(self, reported: set[int]) -> None:
        """Finish, when no batch owes anything any more."""
        if not self.parts and not self.is_queueing and not self.done():
            self._deliver(list(map(self.found.__getitem__, self.cache_keys)), reported)

    def _deliver(self, values: list[Any], reported: set[int]) -> None:
        self.found = {}
        if not self.return_exceptions and has_error(values):
            first = next(filter(is_error, values))
            deliver(self, first, reported)
        else:
            deliver(self, values, reported)


class Batch:
    """Gather keys, call the batch function, settle the waiters."""

    __slots__ = (
        "_crowd",
        "_epoch",
        "_fetch",
        "_handle",
        "_provide",
        "_pump",
        "_scanned",
        "_state",
        "extras",
        "flight",
        "group_keys",
        "groups",
        "has_expired",
        "hits",
        "is_open",
        "loop",
        "node",
        "originals",
        "patience",
        "quiet",
        "seen",
        "task",
        "ticks",
        "waiters",
    )

    def __init__(
        self,
        state: LoaderState,
        pump: Pump,
        loop: asyncio.AbstractEventLoop,
        originals: dict[Hashable, Any] | None,
    ) -> None:
        self._state = state
        self._pump = pump
        self._epoch = state.epoch
        # Its own, since the loader may ask elsewhere before the batch leaves.
        self._fetch = state.fetch
        self.loop = loop
        self.is_open = True
        self.flight = Flight(self)
        # Cache key to the waiter of its first load, in the order of the first loads.
        self.waiters: dict[Hashable, Future[Any]] = {}
        self.node = Node(state.name, self.waiters)
        # Cache key to key, where the two differ.
        self.originals = originals
        # Cache key to the waiters of all its later loads.
        self.extras: dict[Hashable, list[Future[Any]]] = {}
        self.groups: dict[GroupWaiter, None] = {}
        # How many of the first loads are a group's.
        self.group_keys = 0
        # Memo hits that are to be answered together with this batch.
        self.hits: list[tuple[Future[Any], object]] = []
        self.has_expired = False
        self.patience = self.seen = self.quiet = self.ticks = 0
        self._crowd: list[Future[Any]] = []
        self._scanned = 0
        self._provide: Callable[[list[Any]], None] | None = None
        self._handle: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        pump.live.add(self)

    def __len__(self) -> int:
        return len(self.waiters)

    def wait(self, seconds: float) -> None:
        """Stay open for `seconds`, and after that until a few ticks were quiet."""
        self._handle = self.loop.call_later(seconds, self._end_window)

    def _end_window(self) -> None:
        self._handle = None
        self.seen = len(self.waiters)
        self._pump.add(self, QUIET_TICKS_AFTER_WINDOW)

    def join(self, cache_key: Hashable, waiter: Future[Any]) -> None:
        """Add one more waiter of a key that the batch has."""
        self._state.joins += 1
        self.extras.setdefault(cache_key, []).append(waiter)
        if not self.is_open:
            self._crowd.append(waiter)

    def join_group(self, cache_key: Hashable, group: GroupWaiter) -> None:
        """Let a group wait for one more key that the batch has."""
        part = group.parts.get(self)
        if part is None:
            part = group.parts[self] = set()
            self.groups[group] = None
        part.add(cache_key)
        self.join(cache_key, group)

    def add_group(self, group: GroupWaiter, part: dict[Hashable, Any]) -> None:
        """Add keys that a group is the first to load, at least from the memo's point of view."""
        waiters = self.waiters
        if not waiters.keys().isdisjoint(part):
            # Cleared since, or a loader without memo: asked for once all the same.
            for cache_key in [key for key in part if key in waiters]:
                self.join_group(cache_key, group)
            part = {key: value for key, value in part.items() if key not in waiters}
        waiters.update(dict.fromkeys(part, group))
        self.group_keys += len(part)
        if self.originals is not None:
            self.originals.update(part)
        owed = group.parts.get(self)
        if owed is not None:
            owed.update(part)
        else:
            self.groups[group] = None
            group.parts[self] = None if len(part) == len(group.distinct) else set(part)

    def supply(self, cache_key: Hashable, value: object) -> None:
        """Settle the waiters of a key of the open batch with `value`, and don't ask for it."""
        first = self.waiters.pop(cache_key)
        self._state.queued += 1
        self.seen -= 1
        self.group_keys -= isinstance(first, GroupWaiter)
        reported: set[int] = set()
        for waiter in (first, *self.extras.pop(cache_key, ())):
            if not isinstance(waiter, GroupWaiter):
                deliver(waiter, value, reported)
            elif waiter.supply(self, cache_key, value):
                del self.groups[waiter]
        if not self.waiters:
            self.send()

    def send(self) -> None:
        """Call the batch function, if any key still has a waiter."""
        if not self.is_open:
            return
        self._close()
        try:
            self._start()
        except BaseException as error:
            # A key that can't be hashed any more, a loop that takes no task: the waiters know.
            self._fail(self._told(error))
            if not isinstance(error, Exception):
                raise

    def _start(self) -> None:
        state = self._state
        self._drop_deserted()
        cache_keys = list(self.waiters)
        if not cache_keys:
            self._conclude({})
            return
        state.running.add(self)
        if self._fetch is None:
            self._count(cache_keys)
        if state.provide is not None:
            self._provide = state.provide()
        self._crowd = list(self.waiters.values())
        for joined in self.extras.values():
            self._crowd.extend(joined)
        self._watch_next()
        if state.load_timeout is not None:
            self._handle = self.loop.call_later(state.load_timeout, self._expire)
        if self.loop.get_task_factory() is None:
            self._launch(cache_keys)
        else:
            # An eager task would run the function here, inside the load() that filled the batch,
            # and a recursion of full batches would be one of Python's stack.
            self.loop.call_soon(self._launch, cache_keys)

    def _count(self, cache_keys: list[Hashable]) -> None:
        state = self._state
        state.batches += 1
        state.keys += len(cache_keys)
        state.largest_batch = max(state.largest_batch, len(cache_keys))
        for listener in batch_listeners:
            listener(state.name, self._keys_of(cache_keys))

    def _keys_of(self, cache_keys: list[Hashable]) -> list[Any]:
        originals = self.originals
        return list(cache_keys) if originals is None else [originals[key] for key in cache_keys]

    def _launch(self, cache_keys: list[Hashable]) -> None:
        if self.flight.results is not None:
            return
        state = self._state
        running = self._run(cache_keys)
        try:
            # Not create_task(context=...), which 3.10 lacks: a task copies the context it is made
            # in. It is made in a copy, since an eager task may come back here before this ends.
            task = state.context.copy().run(
                self.loop.create_task, running, name=f"batch of {state.name}"
            )
        except BaseException as error:
            running.close()
            self._fail(self._told(error))
            if not isinstance(error, Exception):
                raise
            return
        self.task = task
        self._pump.tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _close(self) -> None:
        self.is_open = False
        self._state.queued += len(self.waiters)
        if self._state.open is self:
            self._state.open = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _drop_deserted(self) -> None:
        """Take out the keys whose waiters have all gone: one pass, when the batch leaves."""
        only_groups = self.group_keys == len(self.waiters)
        watched = self.groups if only_groups else self.waiters.values()
        # A list and not any(): in this, the hot path, the generator would cost twice as much.
        if not [waiter for waiter in watched if waiter.done()]:
            return
        for cache_key in [key for key, waiter in self.waiters.items() if waiter.done()]:
            joined = self.extras.get(cache_key, ())
            if all(waiter.done() for waiter in joined):
                self._drop(cache_key, self.waiters.pop(cache_key), *joined)

    def _drop(self, cache_key: Hashable, *waiters: Future[Any]) -> None:
        state = self._state
        is_group = [isinstance(waiter, GroupWaiter) for waiter in waiters]
        self.group_keys -= is_group[0]
        state.cancelled += is_group.count(False)
        if state.memo.get(cache_key) is self.flight:
            del state.memo[cache_key]

    async def _run(self, cache_keys: list[Hashable]) -> None:
        current_node.set(self.node)
        state = self._state
        owner = f"loader {state.name!r}"
        task = asyncio.current_task()
        lasting: set[int] | None = None
        try:
            if self._fetch is None:
                values = await self._ask(cache_keys)
            else:
                lasting = set()
                values = await self._get_behind(self._fetch, cache_keys, lasting)
        except asyncio.CancelledError as error:
            self._fail(as_error(error, owner))
            raise
        except Exception as error:
            self._fail(as_error(error, owner))
        except BaseException as error:
            is_thrown_away = isinstance(error, GeneratorExit) and task is not asyncio.current_task(
                self.loop
            )
            if is_thrown_away or isinstance(error, (KeyboardInterrupt, SystemExit)):
                self._fail(self._told(error))
                raise
            self._fail(error)
        else:
            self._succeed(cache_keys, values, lasting)
        finally:
            self.node.has_ended = True
            # A cancelled task keeps its error, and with that this frame: no circle here.
            del task

    async def _ask(self, cache_keys: list[Hashable]) -> Sequence[Any]:
        """Call the batch function, inside its limiters, and put its result in order."""
        state = self._state
        owner = f"loader {state.name!r}"
        node = current_node.get() or self.node
        slots: list[Slot] = []
        try:
            for limiter in state.limiters:
                slot = await self._pump.slots.acquire(node, limiter)
                slots.append(slot)
            # A list of its own: the function may change it, and the loader needs its keys.
            awaitable = state.load_fn(self._keys_of(cache_keys))
            check_awaitable(awaitable, "batch function", owner)
            result = await awaitable
            return read_values(result, cache_keys, owner, missing_raises=state.missing_raises)
        finally:
            for slot in reversed(slots):
                self._pump.slots.release(slot)

    async def _get_behind(
        self, fetch: Fetch, cache_keys: list[Hashable], lasting: set[int]
    ) -> Sequence[Any]:
        """Ask the result cache, which calls the batch function for what it lacks.

        `lasting` gets the ids of the errors that stood in a value's place: the memo may keep
        those, but no error of a whole batch.
        """
        owner = f"loader {self._state.name!r}"

        async def ask(missing: list[Hashable]) -> Sequence[Any]:
            self._count(missing)
            values = await self._ask(missing)
            if has_error(values):
                values = [as_error(v, owner) if is_error(v) else v for v in values]
                lasting.update(id(value) for value in values if is_error(value))
            return values

        originals = self._keys_of(cache_keys)
        found = await fetch(
            cache_keys, originals, ask, self._state.context, lambda: self.has_expired
        )
        return [found[key] for key in cache_keys]

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._pump.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # Nothing is left to settle but where a task was cancelled before its first step, which
        # runs none of its body, or where a key raised while results were put in order.
        if error is None:
            self.abandon()
        else:
            self._end(self._told(error))

    def _watch_next(self, _: Future[Any] | None = None) -> None:
        """Watch one waiter that is still there; when there is none, cancel the load.

        The scan only moves forward, so all cancellations of a batch together cost one pass, in
        whatever order they come.
        """
        if self.flight.results is not None:
            return
        crowd = self._crowd
        while self._scanned < len(crowd):
            waiter = crowd[self._scanned]
            if not waiter.done():
                waiter.add_done_callback(self._watch_next)
                return
            self._scanned += 1
        if self._fetch is not None:
            # The result cache will keep what comes.
            return
        error = LoadCancelledError(f"nobody waits for the load of loader {self._state.name!r}")
        self._end(error, counted=False)

    def _told(self, error: BaseException) -> Exception:
        """Make of an error that is not the function's own what the waiters are told.

        An interrupt goes to who runs the loop: a waiter that held it would raise it once more.
        """
        if isinstance(error, Exception):
            return error
        kind = type(error).__name__
        return LoadCancelledError(f"{kind} ended the load of loader {self._state.name!r}")

    def _expire(self) -> None:
        state = self._state
        self.has_expired = True
        self._end(
            LoadTimeoutError(
                f"loader {state.name!r} got no result for a batch of "
                f"{count(len(self.waiters), 'key')} within "
                f"load_timeout={state.load_timeout} seconds"
            )
        )

    def abandon(self) -> None:
        """Settle every waiter with `LoadCancelledError`, and cancel the function if it runs."""
        self._end(
            LoadCancelledError(
                f"the load of loader {self._state.name!r} was cancelled: the loader or its scope "
                f"was closed, or its event loop ended"
            )
        )

    def _end(self, error: BaseException, *, counted: bool = True) -> None:
        # The waiters first: the function may swallow its cancellation.
        task = self.task
        self._fail(error, counted=counted)
        if task is not None and not self.loop.is_closed():
            task.cancel()

    def _fail(self, error: BaseException, *, counted: bool = True) -> None:
        """Settle every key with `error` and remember nothing, unless settled already."""
        if self.flight.results is not None:
            return
        if self.is_open:
            self._close()
        if counted:
            self._state.errors += len(self.waiters)
        failed = list(self.waiters)
        self._conclude(dict.fromkeys(self.waiters, error), kept={})
        # A key that raises in __hash__ or __eq__ stays: a flight without results counts as none.
        with suppress(Exception):
            self._forget(failed)

    def _forget(self, cache_keys: Iterable[Hashable]) -> None:
        memo = self._state.memo
        for cache_key in cache_keys:
            if memo.get(cache_key) is self.flight:
                del memo[cache_key]

    def _succeed(
        self, cache_keys: list[Hashable], values: Sequence[Any], lasting: set[int] | None
    ) -> None:
        state = self._state
        if self.flight.results is not None:
            return
        if has_error(values):
            owner = f"loader {state.name!r}"
            values = [as_error(v, owner) if is_error(v) else v for v in values]
            results = dict(zip(cache_keys, values))
            failed = [key for key, value in results.items() if is_error(value)]
            state.errors += len(failed)
            if state.cache_errors:
                failed = [
                    k for k in failed if lasting is not None and id(results[k]) not in lasting
                ]
            self._forget(failed)
            self._hand_on(cache_keys, values)
            self._conclude(results)
            return
        self._hand_on(cache_keys, values)
        if self.extras or self.groups or state.epoch != self._epoch:
            self._conclude(dict(zip(cache_keys, values)))
        else:
            self._conclude_plain(cache_keys, values)

    def _hand_on(self, cache_keys: list[Hashable], values: Sequence[Any]) -> None:
        """Let others have the values that were not forgotten in the meantime."""
        if self._provide is None:
            return
        state = self._state
        memo = state.memo if state.cache else None
        if memo is None and state.epoch != self._epoch:
            return
        provided = [
            value
            for cache_key, value in zip(cache_keys, values)
            if (memo is None or memo.get(cache_key) is self.flight) and not is_error(value)
        ]
        self._provide(provided)

    def _conclude_plain(self, cache_keys: list[Hashable], values: Sequence[Any]) -> None:
        """Settle a batch in which each key has one waiter and a value: the common case, fast."""
        state = self._state
        waiters, self.waiters = self.waiters, {}
        gone = 0
        for waiter, value in zip(waiters.values(), values):
            try:
                waiter.set_result(value)
            except InvalidStateError:
                gone += 1
        state.cancelled += gone
        if gone:
            # The memo must not get a cancelled future; it keeps the flight with the results.
            self._conclude(dict(zip(cache_keys, values)))
        else:
            if state.cache:
                # A done future may be shared, so one call puts them all in the flight's place.
                state.memo.update(waiters)
            self._conclude({})

    def _conclude(
        self, results: dict[Hashable, Any], kept: dict[Hashable, Any] | None = None
    ) -> None:
        """Settle all who wait, for whatever it is, and keep nothing but the results."""
        self.flight.results = results if kept is None else kept
        self.flight.batch = None
        self.node.is_settled = True
        self.node.keys = ()
        if self._handle is not None:
            self._handle.cancel()
        self._pump.live.discard(self)
        self._state.running.discard(self)
        try:
            self._settle_all(results)
        except BaseException as error:
            # Keys that raise in __hash__ or __eq__ can do so at any time.
            self._settle_rest(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self.waiters = {}
            self.extras = {}
            self.groups = {}
            self.hits = []
            self._crowd = []
            self._handle = self.task = None
            self._pump.slots.match()

    def _settle_all(self, results: dict[Hashable, Any]) -> None:
        state = self._state
        reported: set[int] = set()
        if len(self.waiters) != self.group_keys:
            for cache_key, waiter in self.waiters.items():
                self._settle_one(waiter, results[cache_key], reported)
        for cache_key, joined in self.extras.items():
            if cache_key in results:
                for waiter in joined:
                    self._settle_one(waiter, results[cache_key], reported)
        for group in self.groups:
            if group.cancelled():
                state.cancelled += group.owed_by(self)
            else:
                group.settle(self, results, reported)
        for waiter, value in self.hits:
            deliver(waiter, value, reported)

    def _settle_rest(self, error: BaseException) -> None:
        """Settle whoever is left, without looking at a key."""
        reported: set[int] = set()
        error = as_error(self._told(error), f"loader {self._state.name!r}")
        for waiter in (
            *self.waiters.values(),
            *chain.from_iterable(self.extras.values()),
            *self.groups,
            *(waiter for waiter, _ in self.hits),
        ):
            deliver(waiter, error, reported)

    def _settle_one(self, waiter: Future[Any], value: object, reported: set[int]) -> None:
        if waiter.__class__ is not GroupWaiter and not deliver(waiter, value, reported):
            self._state.cancelled += 1
