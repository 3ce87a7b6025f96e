"""`LoaderScope`: the life of one request, job or event, and of the loaders that it owns.

The current scope is a context variable, so tasks and `asyncio.to_thread` carry it. No token of
that variable is kept: a server may enter a scope in one task and leave it in another, and a
token is of use only where it was made.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Coroutine, Iterator
from collections.abc import Set as AbstractSet
from contextvars import Context, ContextVar, copy_context
from types import TracebackType
from typing import Any, Final, Generic, Protocol, TypeVar, cast, overload

from ._arguments import UNSET, check_limiter
from ._loader import DataLoader, close_all, reset_all, running_loop
from .errors import ConfigurationTypeError, NoScopeError
from .typing import Limiter

__all__ = ["Declared", "LoaderScope", "current_scope", "per_event", "scope_for"]

D = TypeVar("D")
E = TypeVar("E")
L_co = TypeVar("L_co", covariant=True)
Self = TypeVar("Self", bound="LoaderScope")

# How long the end of a scope waits for functions that take their time over being cancelled.
_PATIENCE = 1.0
_NO_TASKS: AbstractSet[asyncio.Task[Any]] = frozenset()

_HOW_TO_OPEN = (
    "open one: `async with LoaderScope():` around the work, or by your framework's integration: "
    "extensions=[DataLoaderExtension] in Strawberry, LoaderScopeMiddleware elsewhere; "
    "run_in_executor and new threads have none, so load first and pass them the values"
)


class Declared(Protocol[L_co]):
    """What can be looked up in a scope: a loader factory.

    It makes a loader, or something that holds loaders: it gives them with `own_loaders()`, and
    needs to hold those that do nothing no longer after `let_go()`.
    """

    def make(self, scope: LoaderScope) -> L_co:
        """Make what the scope keeps for the factory, on its first use."""
        ...


class LoaderScope:
    """Own the loaders of one request, job or event: they are made on first use, and end with it.

        async with LoaderScope(context=app_context):
            user = await users.load(1)      # users is a loader factory

    While it is entered it is the current scope, which factories use. Scopes nest. A scope is
    entered once, and works on one event loop.

    Args:
        context: What batch functions get as their second parameter, if they take one; it can be
            set later, until a loader that takes it is made. UNSET while there is none.
        limiter: An async context manager that each batch of the scope's request loaders runs in:
            `asyncio.Semaphore(1)` where they share one database session.

    Raises:
        ConfigurationError: `limiter` is no async context manager.
    """

    __slots__ = (
        "__weakref__",
        "_ending",
        "_was_entered",
        "context",
        "is_closed",
        "limiter",
        "loaders",
        "outer",
        "variables",
    )

    variables: Context
    """The context variables of where the scope was entered: batch functions see these."""

    def __init__(self, context: object = UNSET, *, limiter: Limiter | None = None) -> None:
        if limiter is not None:
            check_limiter("LoaderScope", limiter)
        # Any: each application has its own, and says in its batch functions what it is.
        self.context: Any = context
        self.loaders: dict[Declared[Any], Any] = {}
        self.outer: LoaderScope | None = None
        self._was_entered = False
        self._ending: set[asyncio.Task[Any]] | None = None
        self.limiter = limiter
        self.is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open" if self._was_entered else "new"
        return f"<LoaderScope {state}, {len(self.loaders)} loaders>"

    @overload
    @classmethod
    def current(cls) -> LoaderScope: ...
    @overload
    @classmethod
    def current(cls, default: D) -> LoaderScope | D: ...
    @classmethod
    def current(cls, default: object = UNSET) -> object:
        """Give the scope that is entered here, or else `default`.

        Raises:
            NoScopeError: There is none, or it was closed, and no `default` is given.
        """
        scope = _current.get()
        if scope is None or scope.is_closed:
            if default is not UNSET:
                return default
            raise _no_scope("there is no current scope", scope)
        return scope

    def __getitem__(self, factory: Declared[L_co]) -> L_co:
        """Give this scope's loader of a factory: the same one each time.

        Raises:
            NoScopeError: The scope was closed, or has no context and the factory takes one.
        """
        try:
            return cast("L_co", self.loaders[factory])
        except KeyError:
            pass
        self.check_open()
        make = getattr(factory, "make", None)
        if make is None:
            raise TypeError(f"a scope is looked up by loader factories, got {factory!r}")
        if not self._was_entered:
            raise NoScopeError("a LoaderScope must be entered first: `async with scope:`")
        made = self.loaders[factory] = make(self)
        return cast("L_co", made)

    # -- being the current one

    def __enter__(self: Self) -> Self:
        self._enter()
        return self

    async def __aenter__(self: Self) -> Self:
        self._enter()
        return self

    def _enter(self) -> None:
        if self._was_entered:
            raise NoScopeError("a LoaderScope is entered once; make a new one")
        self.check_open()
        self._was_entered = True
        current = _current.get()
        # A closed one is not kept: scopes that follow each other would all be.
        self.outer = _closed if current is not None and current.is_closed else current
        _current.set(self)
        self.variables = copy_context()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_here = self._leave()
        self._end()
        if not is_here and error is None:
            self._refuse_elsewhere()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_here = self._leave()
        tasks = self._end()
        if tasks:
            await asyncio.wait(tasks, timeout=_PATIENCE)
        if not is_here and error is None:
            self._refuse_elsewhere()

    def activate(self) -> None:
        """Become the current scope here, without a `with`, as often as wanted.

        For integrations, whose requests begin and end in different tasks: they call `close` or
        `aclose` at the end, and `deactivate` where the task goes on.

        Raises:
            NoScopeError: The scope was closed.
        """
        if not self._was_entered:
            self._enter()
        else:
            self.check_open()
            _current.set(self)

    def deactivate(self) -> None:
        """Make the scope around this one current again, if this one is the current one here."""
        if _current.get() is self:
            self._leave()

    def _leave(self) -> bool:
        """Make the scope around this one current, if this one or one inside it is current here."""
        scope = _current.get()
        while scope is not None and scope is not self:
            scope = scope.outer
        if scope is None:
            return False
        _current.set(self.outer)
        return True

    # -- its life

    def reset(self) -> None:
        """Forget everything in every loader; who waits for a load in progress gets its result.

        Loaders of shared factories ask `vary` again.
        """
        for made in list(self.loaders.values()):
            if not isinstance(made, DataLoader):
                made.let_go()
        reset_all(list(self._own_loaders()))

    def close(self) -> None:
        """End the scope and its loaders: who waits for them gets a `LoadCancelledError`.

        Batch functions that run are cancelled. Loads of shared factories go on. Twice is fine.
        """
        self._end()

    async def aclose(self) -> None:
        """Do as `close`, and wait up to a second for the cancelled functions to end."""
        tasks = self._end()
        if tasks:
            await asyncio.wait(tasks, timeout=_PATIENCE)

    def _end(self) -> AbstractSet[asyncio.Task[Any]]:
        """Close, and give the tasks of all functions that it has cancelled and that still run."""
        if not self.is_closed:
            self.is_closed = True
            if self._was_entered:
                # These name the current scope, and so would keep it alive in a circle.
                del self.variables
            if self.loaders:
                self._ending = close_all(list(self._own_loaders()))
                self.loaders = {}
                for task in self._ending:
                    # A task that has ended keeps its error, and with that its function's frame.
                    task.add_done_callback(self._ending.discard)
        return set(self._ending) if self._ending else _NO_TASKS

    def _own_loaders(self) -> Iterator[DataLoader[Any, Any]]:
        for made in list(self.loaders.values()):
            if isinstance(made, DataLoader):
                yield made
            else:
                yield from made.own_loaders()

    def check_open(self) -> None:
        """Raise `NoScopeError`, if the scope was closed."""
        if self.is_closed:
            raise _no_scope("this scope was closed", self)

    def _refuse_elsewhere(self) -> None:
        raise NoScopeError(
            "a LoaderScope was left where it is not the current one; an async generator must not "
            "open a scope around a yield: wrap the generator in per_event() instead"
        )


def scope_for(owner: str) -> LoaderScope:
    """Give the current scope to who needs one.

    Raises:
        NoScopeError: There is none, or it was closed.
    """
    scope = _current.get()
    if scope is None or scope.is_closed:
        raise _no_scope(f"{owner} was used where no scope is open", scope)
    return scope


_current: ContextVar[LoaderScope | None] = ContextVar("dataloader_cache.scope", default=None)
current_scope = _current.get


_closed: Final = LoaderScope()
_closed.close()


def _no_scope(what: str, scope: LoaderScope | None) -> NoScopeError:
    if scope is not None and scope.is_closed:
        return NoScopeError(
            f"{what}: the scope that was current here is closed; work that outlives its scope "
            f"must open one of its own: `async with LoaderScope():`"
        )
    return NoScopeError(f"{what}; {_HOW_TO_OPEN}")


class _PerEvent(Generic[E]):
    """Give each event a scope of its own; made by `per_event`."""

    def __init__(self, source: AsyncIterator[E]) -> None:
        self._source = source
        outer = LoaderScope.current(None)
        self._context = UNSET if outer is None else outer.context
        self._limiter = None if outer is None else outer.limiter
        self._scope: LoaderScope | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __del__(self) -> None:
        # A loop that was left by `break` or by an error drops this at once, where it stands. It
        # may also be found by a garbage collection anywhere, which is no place to settle futures.
        scope = self._scope
        if scope is not None and running_loop() is self._loop:
            scope.deactivate()
            scope.close()

    def __aiter__(self) -> _PerEvent[E]:
        return self

    def __anext__(self) -> Coroutine[Any, Any, E]:
        # The scope is made where the event is asked for, and by no coroutine: `wait_for` runs
        # that in a task of its own before Python 3.12, whose variables the caller does not see.
        self._loop = asyncio.get_running_loop()
        last = self._scope
        if last is not None:
            last.deactivate()
            last.close()
        scope = self._scope = LoaderScope(self._context, limiter=self._limiter)
        scope.activate()
        return self._take(scope, last)

    async def _take(self, scope: LoaderScope, last: LoaderScope | None) -> E:
        try:
            scope.activate()
            if last is not None:
                await last.aclose()
            event = await self._source.__anext__()
        except BaseException:
            await self._close()
            raise
        # What the source loaded before it waited for the event is of no use for it.
        scope.reset()
        return event

    async def aclose(self) -> None:
        """Close the source, if it can be closed, and the scope of the last event."""
        try:
            close = getattr(self._source, "aclose", None)
            if close is not None:
                await close()
        finally:
            await self._close()

    async def _close(self) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.deactivate()
            await scope.aclose()


def per_event(events: AsyncIterator[E]) -> _PerEvent[E]:
    """Iterate over events, with a fresh `LoaderScope` for each.

    The scope is current while the source makes the event and while the loop's body handles it,
    and is closed when the next one is asked for. What the source itself loaded before it waited
    is forgotten when the event is there. Context and limiter are those of the scope in which
    this is called.

        async for event in per_event(queue_of_events()):
            await handle(event, await users.load(event.user_id))

    Where `break` or an error ends the loop early, the last event's scope is closed too, but the
    source is not, as ever in Python: `async with contextlib.aclosing(per_event(...)) as events:`
    closes both.

    Raises:
        ConfigurationError: `events` is no async iterator.
    """
    if not hasattr(events, "__anext__"):
        if hasattr(events, "__aiter__"):
            events = cast("Any", events).__aiter__()
        else:
            is_function = inspect.isroutine(cast("object", events))
            hint = "; call it: per_event(function())" if is_function else ""
            raise ConfigurationTypeError(f"per_event needs an async iterator, got {events!r}{hint}")
    return _PerEvent(events)
