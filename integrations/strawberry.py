"""Give every GraphQL operation of a Strawberry schema its own loaders.

    schema = strawberry.Schema(Query, extensions=[DataLoaderExtension])

is the whole set-up, for every transport. What `@dataloader` made is then used as it is:

    @strawberry.field
    async def author(self) -> User | None:
        return await users.load(self.author_id)

Batch functions that ask for a context get `info.context`. Those who rather take their loaders from
there put no scope into it, since the context of a websocket is shared by all its operations. They
let it find the current one:

    class Context(BaseContext):
        @property
        def loaders(self) -> LoaderScope:
            return LoaderScope.current()

    await info.context.loaders[users].load(1)

and where the context is a dict, `{"loaders": LoaderScope.current}` does the same:
`info.context["loaders"]()[users].load(1)`.

A field that only loads needs no resolver:

    author: User | None = load_from(users, by="author_id")

and costs little more than a plain one with `execution_context_class=PrefetchingExecutionContext`.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from dataloader_cache import UNSET, LoaderScope
from dataloader_cache.errors import ConfigurationError
from dataloader_cache.typing import Limiter

try:
    from graphql import ExecutionResult
    from graphql.execution import (
        Executor,
        ExperimentalIncrementalExecutionResults,
        SubsequentIncrementalExecutionResult,
    )
    from strawberry.extensions import SchemaExtension
except ImportError as error:
    raise ImportError(
        "dataloader_cache.integrations.strawberry needs strawberry-graphql >= 0.334; "
        "install it with: pip install 'dataloader-cache[strawberry]'"
    ) from error

from ._load_from import load_from
from ._lost import close_when_lost
from ._prefetch import PrefetchingExecutionContext

if TYPE_CHECKING:
    from strawberry import Schema
    from strawberry.types import StreamExecutionResult

__all__ = ["DataLoaderExtension", "PrefetchingExecutionContext", "load_from"]

_T = TypeVar("_T")

_Result = ExecutionResult | ExperimentalIncrementalExecutionResults
_Frame = SubsequentIncrementalExecutionResult


class DataLoaderExtension(SchemaExtension):
    """Open a scope for each operation and close it when the operation has ended.

    An operation with `@defer` or `@stream` ends with its last frame, and a subscription when
    either side closes it. The scope is reset as soon as a subscription has an event and as soon as
    the resolver of a mutation's root field has ended, so that what is resolved then is read afresh.

    A scope that is open already, say `LoaderScopeMiddleware`'s, is used instead of an own one, and
    gets `info.context` as its context where it has none. A scope that another operation opened is
    not: what a resolver executes with `schema.execute` has its own loaders, and its own context.

    Pass the class, or a function that makes a new extension each time; one instance would be
    shared by operations that run at the same time.

    Args:
        limiter: A function of `info.context` that gives the limiter of the scope, for example
            `lambda context: context.limiter`, where all loaders use the context's one session.
            A scope that was open already keeps its own, and an operation that gets one of its
            own inside of it shares that limiter where there is no function.

    Raises:
        ConfigurationError: The limiter is no function, or one instance is used for several
            operations.
    """

    def __init__(self, *, limiter: Callable[[Any], Limiter] | None = None) -> None:
        super().__init__()
        if limiter is not None and not callable(limiter):
            raise ConfigurationError(
                "limiter of DataLoaderExtension must be a function of info.context that gives one "
                f"for each operation, got {limiter!r}, which all operations would share"
            )
        self._limiter = limiter
        self._scope: LoaderScope | None = None
        self._own: _OperationScope | None = None
        self._around: LoaderScope | None = None

    def on_operation(self) -> Iterator[None]:
        """Keep the scope open from before the document is parsed."""
        execution = self.execution_context
        self._refuse_to_be_shared()
        _prepare(execution.schema)
        scope = self._scope = _shared_scope(execution.context) or self._make_own(execution.context)
        self._resume(scope)
        to_be_continued = False
        try:
            yield
            # `Schema.execute` gives such a result away with most of its frames still to come; they
            # close the scope. `Schema.stream` has gone through them, and has the first one here.
            to_be_continued = isinstance(execution.result, ExperimentalIncrementalExecutionResults)
        finally:
            self._suspend()
            if self._own is not None and not to_be_continued:
                self._own.close()

    def on_execute(self) -> Iterator[None]:
        """Follow another extension that has replaced the context by now."""
        scope, context = self._scope, self.execution_context.context
        if scope is not None and scope.context is not context:
            if scope is self._own or _adopted.get(scope) == 1:
                scope.context = context
            elif scope in _adopted:
                # Other operations have loaders there, which see with the eyes of theirs.
                self._scope = self._make_own(context)
                self._scope.activate()
        yield

    def on_stream_result(self, result: StreamExecutionResult) -> Iterator[None]:
        """Leave the consumer's scope alone while it has the frame, in whatever task it goes on."""
        scope = self._scope
        if scope is None:
            yield
            return
        self._suspend()
        try:
            yield
        finally:
            self._resume(scope)

    def _make_own(self, context: object) -> LoaderScope:
        if self._limiter is not None:
            limiter: Limiter | None = self._limiter(context)
        else:
            around = LoaderScope.current(None)
            limiter = None if around is None else around.limiter
        self._own = _OperationScope(context, limiter=limiter)
        return self._own

    def _refuse_to_be_shared(self) -> None:
        extensions: tuple[object, ...] = self.execution_context.schema.extensions
        if self._scope is not None or any(self is extension for extension in extensions):
            raise ConfigurationError(
                "expected an own DataLoaderExtension for each operation, got one instance for "
                "several; pass the class, extensions=[DataLoaderExtension], or a function that "
                "makes a new one, extensions=[lambda: DataLoaderExtension(...)]"
            )

    def _resume(self, scope: LoaderScope) -> None:
        self._around = LoaderScope.current(None)
        if not scope.is_closed:
            scope.activate()

    def _suspend(self) -> None:
        _make_current(self._around)


class _OperationScope(LoaderScope):
    """Live for one operation, which nothing but that operation may use."""

    __slots__ = ()


# Scopes that were open without a context, and have got that of the first operation in them, with
# how many operations have used them.
_adopted: WeakKeyDictionary[LoaderScope, int] = WeakKeyDictionary()


def _shared_scope(context: object) -> LoaderScope | None:
    """Give the scope that is open already, if an operation with this context may use it."""
    scope = LoaderScope.current(None)
    if scope is None or isinstance(scope, _OperationScope):
        return None
    if scope.context is UNSET:
        scope.context = context
        _adopted[scope] = 1
    elif scope in _adopted:
        if scope.context is not context:
            # Another operation's: its loaders see with the eyes of somebody else.
            return None
        _adopted[scope] += 1
    return scope


@contextmanager
def _current(scope: LoaderScope) -> Generator[None, None, None]:
    """Make the scope current here for a while, unless it has been closed."""
    around = LoaderScope.current(None)
    if not scope.is_closed:
        scope.activate()
    try:
        yield
    finally:
        _make_current(around)


def _make_current(scope: LoaderScope | None) -> None:
    """Make this scope, or none, the current one here.

    To deactivate another one would lead back to where that was first entered, which may have been
    in another task.
    """
    if scope is not None and not scope.is_closed:
        scope.activate()
        return
    while (current := LoaderScope.current(None)) is not None:
        current.deactivate()


# --- What is changed in a schema, once -----------------------------------------------------------

_MARK = "dataloader_cache"
_preparing = threading.Lock()


def _prepare(schema: Schema) -> None:
    """Wrap the root fields of mutations and subscriptions, at the schema's first operation.

    The mark stands where graphql-core lets users put what they want. So it lives as long as the
    schema, and a copy of the schema has the mark together with the wrapped fields. The class that
    executes belongs to each copy.
    """
    # Strawberry has no public name for it.
    graphql_schema = schema._schema  # pyright: ignore[reportPrivateUsage]
    marks = graphql_schema.extensions
    if _MARK in marks and not _loses_scope(schema):
        return
    with _preparing:
        if _loses_scope(schema):
            executor_class = _executor_class(schema)
            schema.execution_context_class = type(
                executor_class.__name__, (_KeepsScopeForFrames, executor_class), {}
            )
        if _MARK in marks:
            return
        mutation, subscription = graphql_schema.mutation_type, graphql_schema.subscription_type
        for field in mutation.fields.values() if mutation is not None else ():
            if field.resolve is not None:
                field.resolve = _reset_after(field.resolve)
        for field in subscription.fields.values() if subscription is not None else ():
            if field.subscribe is not None:
                field.subscribe = _reset_with_each_event(field.subscribe)
        marks[_MARK] = True


def _executor_class(schema: Schema) -> type[Executor[Any]]:
    return cast(
        "type[Executor[Any]]",
        schema.execution_context_class,  # pyright: ignore[reportUnknownMemberType]
    )


def _loses_scope(schema: Schema) -> bool:
    """Tell whether there may be frames, and an executor that resolves them in no scope."""
    return schema.config.enable_experimental_incremental_execution and not issubclass(
        _executor_class(schema), _KeepsScopeForFrames
    )


def _reset_after(resolve: Callable[..., Any]) -> Callable[..., Any]:
    """Reset the scope when the resolver has ended, before its sub-selection is resolved."""

    async def ended(result: Awaitable[_T], scope: LoaderScope) -> _T:
        try:
            return await result
        finally:
            scope.reset()

    @functools.wraps(resolve)
    def resolve_and_reset(*args: Any, **kwargs: Any) -> Any:
        scope = LoaderScope.current(None)
        if scope is None:
            return resolve(*args, **kwargs)
        try:
            result = resolve(*args, **kwargs)
        except BaseException:
            scope.reset()
            raise
        if inspect.isawaitable(result):
            return ended(result, scope)
        scope.reset()
        return result

    return resolve_and_reset


def _reset_with_each_event(subscribe: Callable[..., Any]) -> Callable[..., Any]:
    """Reset the operation's scope when an event is there, before it is resolved."""

    def watched(source: Any, scope: LoaderScope) -> Any:
        # What is no stream of events, an error for example, graphql-core has to judge.
        return _Events(source, scope) if hasattr(source, "__aiter__") else source

    async def awaited(source: Awaitable[Any], scope: LoaderScope) -> Any:
        return watched(await source, scope)

    @functools.wraps(subscribe)
    def subscribe_and_reset(*args: Any, **kwargs: Any) -> Any:
        source = subscribe(*args, **kwargs)
        scope = LoaderScope.current(None)
        if scope is None:
            return source
        return awaited(source, scope) if inspect.isawaitable(source) else watched(source, scope)

    return subscribe_and_reset


class _Events(AsyncIterator[Any]):
    """Take events from a source, each in the operation's scope and with nothing remembered.

    The scope is made current each time, as each event may be taken in another task, and again
    when the event is there, as a generator that opened a scope of its own has left that behind.
    It is reset before the source goes on, which shall not see what was loaded for the last event,
    and after, since what the source loaded before it began to wait may be old by now.
    """

    def __init__(self, source: Any, scope: LoaderScope) -> None:
        self._source: AsyncIterator[Any] = aiter(source)
        self._scope = scope

    async def __anext__(self) -> Any:
        scope = self._scope
        self._begin(scope)
        try:
            return await anext(self._source)
        finally:
            self._begin(scope)

    async def aclose(self) -> None:
        """Close the source, if it is of those that can be closed."""
        aclose = getattr(self._source, "aclose", None)
        if aclose is not None:
            await aclose()

    @staticmethod
    def _begin(scope: LoaderScope) -> None:
        if not scope.is_closed:
            scope.activate()
            scope.reset()


class _KeepsScopeForFrames(Executor[Any]):
    """Resolve the frames of `@defer` and `@stream` in the scope of their operation.

    `Schema.execute` returns before they are pulled, and they may be pulled in any task. The result
    that it returns can't be exchanged from an extension, but the executor makes it.
    """

    def execute_operation(self, serially: bool | None = None) -> Any:
        result: Any = super().execute_operation(serially)
        if inspect.isawaitable(result):
            return self._await_result(result)
        return _with_scope(result)

    @staticmethod
    async def _await_result(result: Awaitable[_Result]) -> _Result:
        return _with_scope(await result)


def _with_scope(result: _Result) -> _Result:
    scope = LoaderScope.current(None)
    if scope is None or not isinstance(result, ExperimentalIncrementalExecutionResults):
        return result
    frames = _frames(result.subsequent_results, scope)
    if isinstance(scope, _OperationScope):
        close_when_lost(frames, scope)
    return result._replace(subsequent_results=frames)


# A generator, and no class as `_Events` is: the loop closes the one that its consumer has lost.
async def _frames(
    frames: AsyncGenerator[_Frame, None], scope: LoaderScope
) -> AsyncGenerator[_Frame, None]:
    try:
        while True:
            with _current(scope):
                frame = await anext(frames, None)
            if frame is None:
                return
            yield frame
    finally:
        try:
            with _current(scope):
                await frames.aclose()
        finally:
            if isinstance(scope, _OperationScope):
                scope.close()
