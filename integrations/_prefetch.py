"""`PrefetchingExecutionContext`: GraphQL execution in which a loaded value makes no task.

Use it by its public name, `dataloader_cache.integrations.strawberry.PrefetchingExecutionContext`.

Why the plain executor is dear. Where a resolver gives a future, graphql-core makes a coroutine
that waits for it, one around the field's object, one around the object's place in its list, and
a task for each item of the list: for a thousand loaded fields that is more work than all the
rest. Here such a field leaves a gap in the object, and the object, its list and whatever is
around them are completed as if nothing were missing: parts, which know what has gaps in them.
One coroutine at the outside waits until the futures have filled all gaps, each as soon as its value
is there, and the gaps that are in these values. So loads are made when and in the order in which
they are made without this executor, batches are the same, and a slow load keeps nobody waiting who
would not wait for it anyway.

A part whose other fields or items are asynchronous in another way goes the ordinary way: each of
its gaps becomes the coroutine that graphql-core would have made. An error that a field of a type
without null hands to its parent takes the part with it, and what is still loaded in there is
cancelled, as graphql-core does and in the ticks in which it does: those decide which error is
reported, and what is still asked for.
"""

# graphql-core leaves out the type parameters of its own types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false
# The two classes of this module share what is theirs, and asyncio documents _enter_task and
# _leave_task, for those who run tasks their own way.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import functools
import inspect
import logging
import sys
from asyncio import (
    CancelledError,
    Future,
    Task,
    current_task,
    ensure_future,
    gather,
    get_running_loop,
    iscoroutine,
    isfuture,
)
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from enum import Enum, auto
from importlib.metadata import version
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from graphql.execution import Executor
from graphql.pyutils import Path, Undefined, gather_with_cancel
from graphql.type import (
    GraphQLField,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    get_named_type,
    is_abstract_type,
    is_object_type,
)
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from ._load_from import LoadedField

if TYPE_CHECKING:
    from graphql.execution.collect_fields import FieldDetailsList, GroupedFieldSet

__all__ = ["PrefetchingExecutionContext"]

# All that is used of graphql-core and Strawberry beyond what they document is named from here to
# _WHAT_IS_EXPECTED, besides Strawberry's own executor above. It was tested with graphql-core 3.3.0
# to 3.3.2 and strawberry 0.334.0 to 0.341.2.
_TESTED = "3.3"
_DEFINITION = "strawberry-definition"
_CONVERTER = "strawberry.schema.schema_converter"
_BASIC_RESOLVER = "_get_basic_result"
_OVERRIDDEN = (
    "execute_fields",
    "complete_iterable_value",
    "complete_awaitable_value",
    "build_per_event_executor",
)
_WHAT_IS_EXPECTED = {
    "execute_fields": "parent_type source_value path grouped_field_set position_context",
    "execute_field": "parent_type source field_details_list path position_context",
    "complete_value": "return_type field_details_list info path result position_context",
    "complete_awaitable_value": "return_type field_details_list info path result position_context",
    "complete_iterable_value": "item_type field_details_list info path items position_context",
    "complete_list_item_value": (
        "item complete_results item_type field_details_list info item_path position_context"
    ),
    "complete_awaitable_list_item_value": (
        "item item_type field_details_list info item_path position_context"
    ),
    "handle_field_error": "raw_error return_type field_details_list path",
    "get_stream_usage": "field_details_list path",
    "handle_stream": "index path iterator is_async stream_usage info item_type",
    "settle_in_background": "awaitables",
    "build_per_event_executor": "payload",
}

_log = logging.getLogger("dataloader_cache")

# What Path() does, without the Python function around it: there is one for every field and item.
_new_path: Callable[[tuple[Path | None, str | int, str | None]], Path] = functools.partial(
    tuple.__new__, Path
)


def _what_is_unexpected() -> str | None:
    """Say what the installed graphql-core has otherwise than this module needs it."""
    installed = version("graphql-core")
    if installed.split(".")[:2] != _TESTED.split("."):
        return f"it was tested with graphql-core {_TESTED}, and {installed} is installed"
    for name, parameters in _WHAT_IS_EXPECTED.items():
        method = getattr(Executor, name, None)
        found = "" if method is None else " ".join(list(inspect.signature(method).parameters)[1:])
        if found != parameters:
            return f"graphql-core {installed} has Executor.{name}({found})"
    return None


class _Field(NamedTuple):
    """What is the same for a field in all objects of a list."""

    return_type: GraphQLOutputType
    details: FieldDetailsList
    info: GraphQLResolveInfo[Any]


class _LoadedField(NamedTuple):
    """A selected field that `load_from` declared, and whose resolver need not be called.

    `field` is None where graphql-core's information on the field has to say in which object it is.
    """

    definition: GraphQLField
    details: FieldDetailsList
    field: _Field | None
    load: Callable[[Any], Future[Any] | None]


class _Gap:
    """A field whose value is not there yet; lives until it is.

    `future` gives the value that the resolver gave, or, where `is_completed`, what completing it
    comes to. Nobody hears of it before the tick `start`. `follower` is the gap that came up next.
    `variables` is where the context variables are that its resolvers set and those below see.
    """

    __slots__ = (
        "context",
        "field",
        "filling",
        "follower",
        "future",
        "is_cancelled",
        "is_completed",
        "key",
        "part",
        "path",
        "start",
        "variables",
    )

    part: _Part
    key: str | int
    filling: _Filling
    start: int
    variables: Context

    def __init__(self, field: _Field, path: Path, future: Future[Any], context: Any) -> None:
        self.field = field
        self.path = path
        self.future = future
        self.context = context
        self.is_cancelled = self.is_completed = False
        self.follower: _Gap | None = None

    def completed_by(self, future: Future[Any]) -> _Gap:
        """Give the gap that is here until the value that came is completed."""
        gap = _Gap(self.field, self.path, future, self.context)
        gap.part = self.part
        gap.key = self.key
        gap.is_completed = True
        return gap

    def __call__(self, _: Future[Any]) -> None:
        """Tell who fills the gap that its value is there: the future calls this."""
        self.filling.hear(self)


class _Cancelled(Enum):
    """How a child ended that was cancelled."""

    YES = auto()


_CANCELLED = _Cancelled.YES
# How something ended: with an error, cancelled, or with a value.
_Outcome: TypeAlias = "Exception | _Cancelled | None"
# Before Python 3.12 gathering what has ended takes as long as gathering what has not.
_TICKS_TO_GATHER_NOTHING = 0 if sys.version_info >= (3, 12) else 2


class _State(Enum):
    """Where a part that waits for several values is, on the way that graphql-core's gather goes."""

    OPEN = auto()
    # It was cancelled together with what is around it, and waits for the first value that says so.
    CANCELLED = auto()
    # There is an error: the gather hears of it in the next tick, who awaits it a tick later.
    FAILED = auto()
    TOLD = auto()
    # The other values were cancelled, and all of them have to end.
    WAITING = auto()
    ENDED = auto()


class _Part:
    """An object or a list of the response with gaps in it; lives until they are filled.

    `part` is the one around it, in which it stands at `key`; None for the outermost. The type, the
    field and the path are those of that place, and say what becomes of an error.
    """

    __slots__ = (
        "details",
        "error",
        "is_cancelled",
        "is_value",
        "key",
        "part",
        "path",
        "return_type",
        "state",
        "undone",
        "value",
        "width",
    )

    key: str | int
    return_type: GraphQLOutputType
    details: FieldDetailsList
    path: Path
    error: Exception

    def __init__(self, value: Any) -> None:
        self.value: Any = value
        self.part: _Part | None = None
        # How many gaps and parts it had at first.
        self.width = 0
        self.state = _State.OPEN
        # How many of them are not done, from when these are cancelled.
        self.undone = 0
        # Whether it is the outermost, or came where a gap was.
        self.is_cancelled = self.is_value = False

    def put(
        self,
        around: _Part,
        key: str | int,
        return_type: GraphQLOutputType,
        details: FieldDetailsList,
        path: Path,
    ) -> None:
        """Say where in which part this one stands."""
        self.part = around
        self.key = key
        self.return_type = return_type
        self.details = details
        self.path = path


def _load_of(definition: GraphQLField) -> Callable[[Any], Future[Any] | None] | None:
    """Give what loads the field's value for a parent, if its resolver does that and nothing else.

    It does more where there are arguments, permissions, extensions or exception handlers, and
    where somebody wrapped it.
    """
    field = definition.extensions.get(_DEFINITION)
    resolve = definition.resolve
    if (
        isinstance(field, LoadedField)
        and field.is_basic_field
        and isinstance(resolve, FunctionType)
        and resolve.__code__.co_name == _BASIC_RESOLVER
        and resolve.__globals__.get("__name__") == _CONVERTER
    ):
        return field.loads()
    return None


def _looks_at_info(return_type: GraphQLOutputType) -> bool:
    """Tell whether a type may ask in which object a value stands, to find out its own type."""
    named = get_named_type(return_type)
    return is_abstract_type(named) or (is_object_type(named) and named.is_type_of is not None)


class PrefetchingExecutionContext(StrawberryGraphQLCoreExecutionContext):
    """Execute an operation without a task for each loaded field; lives as long as the operation.

        schema = strawberry.Schema(
            Query,
            extensions=[DataLoaderExtension],
            execution_context_class=PrefetchingExecutionContext,
        )

    The response is the same as without it, and so are the batches. It serves all fields whose
    resolvers give a future and no coroutine: those made by `load_from`, and `def` resolvers that
    return `users.load(...)`. An object with another field that is asynchronous, an `async def`
    resolver or an asynchronous permission, is executed as without it.

    Where the installed graphql-core is not as expected everything is, and a warning in the log of
    the logger "dataloader_cache" says so, once.
    """

    _gaps: list[_Gap]
    _host: Path | None

    # Any: what Strawberry and graphql-core pass is theirs.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _warn_once()
        # The gaps of what is executed at the moment, in the order in which they came up.
        self._gaps = []
        # The place that is executed at the moment by who can take gaps from there. It is the
        # very object, and who sees it forgets it, so nobody else can be meant.
        self._host = None
        self._known_fields: dict[
            tuple[GraphQLObjectType, int], tuple[GroupedFieldSet, dict[str, _LoadedField]]
        ] = {}
        manager = self.middleware_manager
        self._may_shorten = self.abort_signal is None and not (manager and manager.middlewares)

    def build_per_event_executor(self, payload: Any) -> Any:
        """Make the executor of a subscription's event, which keeps nothing of those before."""
        executor: Any = super().build_per_event_executor(payload)
        executor._gaps = []
        executor._host = None
        executor._known_fields = {}
        return executor

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: GroupedFieldSet,
        position_context: Any,
    ) -> Any:
        """Execute the fields of an object; give it, or it as a part, or an awaitable of it."""
        is_hosted = path is not None and path is self._host
        outer = self._gaps
        gaps = outer if is_hosted else []
        self._gaps = gaps
        first = len(gaps)
        results: dict[str, Any] = {}
        result: Any
        part: _Part | None = None
        asynchronous: list[str] = []
        typename = parent_type.name
        loaded_fields = self._loaded_fields(parent_type, grouped_field_set)
        try:
            for name, details in grouped_field_set.items():
                field_path = _new_path((path, name, typename))
                loaded = loaded_fields.get(name)
                if loaded is None:
                    self._host = field_path
                    result = self.execute_field(
                        parent_type, source_value, details, field_path, position_context
                    )
                else:
                    result = self._load_field(
                        parent_type, source_value, loaded, field_path, position_context
                    )
                kind = result.__class__
                if kind is _Gap:
                    if part is None:
                        part = _Part(results)
                    part.width += 1
                    result.part = part
                    result.key = name
                    results[name] = None
                    gaps.append(result)
                elif kind is _Part:
                    if part is None:
                        part = _Part(results)
                    field = self.schema.get_field(parent_type, details[0].node.name.value)
                    assert field is not None
                    part.width += 1
                    result.put(part, name, field.type, details, field_path)
                    results[name] = result.value
                elif result is not Undefined:
                    results[name] = result
                    if self.is_awaitable(result):
                        asynchronous.append(name)
        except Exception:
            awaitables = self._take_back(part, gaps, first)
            awaitables.update((name, results[name]) for name in asynchronous)
            if awaitables:
                self.settle_in_background([awaitables[key] for key in results if key in awaitables])
            raise
        finally:
            self._host = None
            self._gaps = outer
        if part is None:
            return self._with_awaited(results, asynchronous) if asynchronous else results
        if asynchronous:
            awaitables = self._take_back(part, gaps, first)
            results.update(awaitables)
            return self._with_awaited(
                results, [key for key in results if key in awaitables or key in asynchronous]
            )
        return part if is_hosted else self._fill(part, gaps)

    def complete_iterable_value(
        self,
        item_type: GraphQLOutputType,
        field_details_list: FieldDetailsList,
        info: GraphQLResolveInfo[Any],
        path: Path,
        items: Iterable[Any],
        position_context: Any,
    ) -> Any:
        """Complete a list; give it, or it as a part, or an awaitable of it."""
        is_hosted = path is self._host
        outer = self._gaps
        gaps = outer if is_hosted else []
        self._gaps = gaps
        first = len(gaps)
        results: list[Any] = []
        part: _Part | None = None
        asynchronous: list[int] = []
        is_awaitable = self.is_awaitable
        complete_list_item_value = self.complete_list_item_value
        stream_usage = self.get_stream_usage(field_details_list, path)
        iterator = iter(items)
        index = 0
        try:
            while True:
                if (
                    stream_usage
                    and index == stream_usage.initial_count
                    and self.handle_stream(
                        index, path, iterator, False, stream_usage, info, item_type
                    )
                ):
                    break
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                self._host = item_path = _new_path((path, index, None))
                if is_awaitable(item):
                    results.append(
                        self.complete_awaitable_list_item_value(
                            item, item_type, field_details_list, info, item_path, position_context
                        )
                    )
                    asynchronous.append(index)
                elif complete_list_item_value(
                    item, results, item_type, field_details_list, info, item_path, position_context
                ):
                    asynchronous.append(index)
                elif results[index].__class__ is _Part:
                    if part is None:
                        part = _Part(results)
                    child = results[index]
                    part.width += 1
                    child.put(part, index, item_type, field_details_list, item_path)
                    results[index] = child.value
                index += 1
        except Exception:
            awaitables = self._take_back(part, gaps, first)
            awaitables.update((index, results[index]) for index in asynchronous)
            found = [awaitables[key] for key in sorted(awaitables)]
            # What it holds is lost with the list; another error of it would be none of the answer.
            with suppress(Exception):
                found.extend(item for item in iterator if is_awaitable(item))
            if found:
                self.settle_in_background(found)
            raise
        finally:
            self._host = None
            self._gaps = outer
        if part is None:
            return self._with_awaited(results, asynchronous) if asynchronous else results
        if asynchronous:
            awaitables = self._take_back(part, gaps, first)
            for key, awaitable in awaitables.items():
                results[key] = awaitable
            return self._with_awaited(results, sorted([*awaitables, *asynchronous]))
        return part if is_hosted else self._fill(part, gaps)

    def complete_awaitable_value(
        self,
        return_type: GraphQLOutputType,
        field_details_list: FieldDetailsList,
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> Any:
        """Leave a gap for the value of a future, where somebody can take it."""
        if path is self._host and isfuture(result) and self.abort_signal is None:
            field = _Field(return_type, field_details_list, info)
            return _Gap(field, path, result, position_context)
        return super().complete_awaitable_value(
            return_type, field_details_list, info, path, result, position_context
        )

    # -- fields of `load_from`, without their resolvers

    def _loaded_fields(
        self, parent_type: GraphQLObjectType, grouped_field_set: GroupedFieldSet
    ) -> dict[str, _LoadedField]:
        """Give those of an object's selected fields whose resolvers need not be called."""
        # By identity, as graphql-core does: it has one such dict for all objects of a list. It is
        # kept with what was found, so that no other one can be taken for it.
        key = (parent_type, id(grouped_field_set))
        known = self._known_fields.get(key)
        if known is None:
            found = self._find_loaded_fields(parent_type, grouped_field_set)
            known = self._known_fields[key] = (grouped_field_set, found)
        return known[1]

    def _find_loaded_fields(
        self, parent_type: GraphQLObjectType, grouped_field_set: GroupedFieldSet
    ) -> dict[str, _LoadedField]:
        found: dict[str, _LoadedField] = {}
        if not self._may_shorten:
            return found
        for name, details in grouped_field_set.items():
            definition = self.schema.get_field(parent_type, details[0].node.name.value)
            load = None if definition is None else _load_of(definition)
            if definition is not None and load is not None:
                field = None
                if not _looks_at_info(definition.type):
                    nodes = [one.node for one in details]
                    # The path is that of no object; what is built is only for messages.
                    info = self.build_resolve_info(
                        definition, nodes, parent_type, Path(None, name, parent_type.name)
                    )
                    field = _Field(definition.type, details, info)
                found[name] = _LoadedField(definition, details, field, load)
        return found

    def _load_field(
        self,
        parent_type: GraphQLObjectType,
        source: Any,
        loaded: _LoadedField,
        path: Path,
        position_context: Any,
    ) -> Any:
        """Do what `execute_field` does, for such a field."""
        definition, details, field, load = loaded
        try:
            if field is None:
                nodes = [one.node for one in details]
                info = self.build_resolve_info(definition, nodes, parent_type, path)
                field = _Field(definition.type, details, info)
            future = load(source)
            if future is not None:
                return _Gap(field, path, future, position_context)
            return self.complete_value(*field, path, None, position_context)
        except Exception as raw_error:
            self.handle_field_error(raw_error, definition.type, details, path)
            return None

    # -- the ordinary way

    def _take_back(self, part: _Part | None, gaps: list[_Gap], first: int) -> dict[Any, Any]:
        """Give the awaitables that stand for what has gaps, by key, and forget those gaps."""
        own: dict[_Gap | _Part, list[_Gap]] = {}
        for gap in gaps[first:]:
            child: _Gap | _Part = gap
            while child.part is not part:
                assert child.part is not None
                child = child.part
            own.setdefault(child, []).append(gap)
        del gaps[first:]
        return {child.key: self._await_child(child, own[child]) for child in own}

    def _await_child(self, child: _Gap | _Part, gaps: list[_Gap]) -> Awaitable[Any]:
        if isinstance(child, _Part):
            return self._await_part(child, gaps)
        return super().complete_awaitable_value(
            *child.field, child.path, child.future, child.context
        )

    async def _await_part(self, part: _Part, gaps: list[_Gap]) -> Any:
        part.part = None
        try:
            return await self._fill(part, gaps)
        except Exception as raw_error:
            self.handle_field_error(raw_error, part.return_type, part.details, part.path)
            return None

    @staticmethod
    async def _with_awaited(results: Any, keys: list[Any]) -> Any:
        if len(keys) == 1:
            results[keys[0]] = await results[keys[0]]
        else:
            values = await gather_with_cancel(*(results[key] for key in keys))
            for key, value in zip(keys, values):
                results[key] = value
        return results

    # -- filling gaps

    async def _fill(self, outermost: _Part, gaps: list[_Gap]) -> Any:
        """Wait until no gap is left in a part, and give its value."""
        filling = _Filling(self, outermost, gaps)
        try:
            await filling
        except GeneratorExit:
            filling.abandon()
            raise
        except BaseException:
            # Cancelled too: whoever waits for this wants nothing of it any more.
            await filling.end()
            raise
        return outermost.value

    def _value_of(self, gap: _Gap) -> Any:
        """Complete the value of a gap; give it, or it as a part, or an awaitable of it."""
        return_type, details, info = gap.field
        try:
            value = gap.future.result()
            if gap.is_completed:
                return value
            self._host = gap.path
            return self.complete_value(return_type, details, info, gap.path, value, gap.context)
        except Exception as raw_error:
            self.handle_field_error(raw_error, return_type, details, gap.path)
            return None

    def _leave(self, part: _Part, error: Exception) -> Exception | None:
        """Put null into the part's place; give the error if it goes on to what is around it."""
        assert part.part is not None
        try:
            self.handle_field_error(error, part.return_type, part.details, part.path)
        except Exception as located:
            return located
        part.part.value[part.key] = None
        return None


async def _awaited(future: Future[Any]) -> Any:
    return await future


if sys.version_info >= (3, 12):

    def _started(awaitable: Awaitable[Any]) -> Future[Any]:
        """Run a coroutine, and begin now, as graphql-core does: it may have loads to make."""
        if iscoroutine(awaitable):
            return Task(awaitable, loop=get_running_loop(), eager_start=True)
        return ensure_future(awaitable)

else:

    def _started(awaitable: Awaitable[Any]) -> Future[Any]:
        """Run a coroutine, from the next tick on: before Python 3.12 it can't be sooner."""
        return ensure_future(awaitable)


class _Filling(Future[Any]):
    """Fill the gaps of a part, and be done when none is left.

    Values are taken in the ticks, and in the order, in which the tasks of graphql-core would take
    them: by the futures themselves, and not by a task that they have to wake first. An error goes
    up from part to part as it does there, since it matters when: another error of the same parent
    may be reported first, and loads that are cancelled in time are not asked for. To pass a part
    that waits for a single value takes no time. One that waits for several has a gather there and
    a task for each value, which hear of things a tick later each: a part is in one of the states
    of such a gather.
    """

    def __init__(
        self, executor: PrefetchingExecutionContext, outermost: _Part, gaps: list[_Gap]
    ) -> None:
        super().__init__(loop=get_running_loop())
        self._executor = executor
        self._task = current_task()
        self._wakers: list[tuple[Callable[[_Filling], object], Context]] = []
        # What is not done, in the order in which it came up: gaps, and parts that end.
        self._pending: dict[_Gap | _Part, None] = {}
        self._tree: dict[_Part, dict[_Gap | _Part, None]] | None = None
        self._left: list[Future[Any]] = []
        # Ticks are counted as long as somebody has to start in a later one.
        self._now = self._last = 0
        self._is_counting = False
        self._later: dict[int, list[_Gap | _Part]] = {}
        self._newest: _Gap | None = None
        # Those that called, and how many others are sure to call in this tick.
        self._called: list[_Gap] = []
        self._calls = 0
        # Futures call here, and each value is completed in a context of its own, as in a task.
        self._context = copy_context()
        for gap in gaps:
            gap.variables = copy_context()
        outermost.is_value = True
        self._add(gaps)

    def add_done_callback(
        self, fn: Callable[[_Filling], object], /, *, context: Context | None = None
    ) -> None:
        """Let the task that waits for this go on in the tick in which it is done."""
        self._wakers.append((fn, context or copy_context()))

    def cancel(self, msg: Any = None) -> bool:
        """Cancel all that is loaded, as the task that waits for this is cancelled."""
        self.abandon()
        is_cancelled = super().cancel(msg)
        self._loop.call_soon(self._wake)
        return is_cancelled

    def abandon(self) -> None:
        """Cancel all that is left, and take nothing any more."""
        pending = list(self._pending)
        self._pending.clear()
        self._tree = None
        for child in pending:
            if isinstance(child, _Gap):
                self._cancel_future(child)

    async def end(self) -> None:
        """Wait for what was cancelled, which may take its time."""
        self.abandon()
        if self._left:
            await gather(*self._left, return_exceptions=True)

    def _wake(self) -> None:
        wakers, self._wakers = self._wakers, []
        for wake, context in wakers:
            context.run(wake, self)

    # -- values

    def hear(self, gap: _Gap) -> None:
        """Take what a future has, together with what others have: its callback calls this.

        A batch has many values, and their futures call this one after the other. The last of those
        that are sure to call takes them all, in the order in which they called.
        """
        called = self._called
        called.append(gap)
        if not self._calls:
            self._calls = self._calls_to_come(gap)
        self._calls -= 1
        if not self._calls:
            self._called = []
            self._take_as_task(called)

    def _calls_to_come(self, gap: _Gap) -> int:
        pending, field, now = self._pending, gap.field, self._now
        calls = 1
        follower = gap.follower
        while (
            follower is not None
            and follower.field is field
            and follower.future.done()
            and follower.start <= now
            and follower in pending
        ):
            calls += 1
            follower = follower.follower
        return calls

    def _take_as_task(self, children: Sequence[_Gap | _Part]) -> None:
        """Take values as the task that waits for all does, which resolvers may ask for."""
        task = self._task
        if task is None:
            self._take(children)
        else:
            loop = self._loop
            _enter_task(loop, task)
            try:
                self._take(children)
            finally:
                _leave_task(loop, task)
        if self.done():
            self._wake()

    def _take(self, children: Sequence[_Gap | _Part]) -> None:
        """Put values where gaps were, and wait for the gaps that are in these values."""
        pending = self._pending
        executor = self._executor
        value_of, is_awaitable = executor._value_of, executor.is_awaitable
        gaps: list[_Gap] = []
        known = 0
        outer, executor._gaps = executor._gaps, gaps
        try:
            for child in children:
                if child not in pending:
                    if isinstance(child, _Gap) and not child.future.cancelled():
                        child.future.exception()  # Marks it as seen.
                    continue
                if child.is_cancelled:
                    self._settle(child, _CANCELLED)
                    continue
                assert isinstance(child, _Gap)
                if child.start > self._now:
                    self._later.setdefault(child.start, []).append(child)
                    continue
                try:
                    variables = child.variables
                    value = variables.run(value_of, child)
                except Exception as error:
                    del gaps[known:]
                    self._settle(child, error)
                    continue
                # It is not there where a resolver cancelled the operation.
                pending.pop(child, None)
                if self._tree is not None:
                    self._tree[child.part].pop(child, None)
                child.follower = None
                if value.__class__ is _Part:
                    value.put(child.part, child.key, child.field[0], child.field[1], child.path)
                    value.is_value = True
                    value = value.value
                if is_awaitable(value):
                    gaps.append(child.completed_by(variables.run(_started, value)))
                else:
                    child.part.value[child.key] = value
                if len(gaps) == known + 1:
                    # The task of a value that waits for a single one goes on with it.
                    gaps[known].variables = variables
                elif len(gaps) > known:
                    for gap in gaps[known:]:
                        gap.variables = variables.copy()
                if self.done():
                    continue
                if len(gaps) == known + 1 and gaps[known].future.done():
                    # What is there already comes before the next value.
                    self._add(gaps)
                    gaps.clear()
                known = len(gaps)
            if self.done():
                pending.update(dict.fromkeys(gaps))
                self.abandon()
            elif gaps:
                self._add(gaps)
            elif not pending:
                self.set_result(None)
        except BaseException as error:
            pending.update(dict.fromkeys(gaps))
            self._break_off(error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                # As a task does: these end the loop, too.
                self._loop.call_soon(self._wake)
                raise
        finally:
            executor._host = None
            executor._gaps = outer

    def _break_off(self, error: BaseException) -> None:
        """End with what is no error of a field, as the task that waits for this does."""
        self.abandon()
        if self.done():
            return
        if isinstance(error, CancelledError):
            super().cancel(*error.args[:1])
        else:
            self.set_exception(error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                self.exception()  # Marks it as seen: it is raised at once.

    def _add(self, gaps: list[_Gap]) -> None:
        """Wait for gaps that are in values, or in what there was at first."""
        now = self._now
        pending = self._pending
        # All of them at first: a value that is there already must not be taken for the last one.
        pending.update(dict.fromkeys(gaps))
        if self._tree is not None:
            for gap in gaps:
                self._enter(gap, self._tree)
        newest = self._newest
        beside: _Part | None = None
        start_beside = start = now
        for gap in gaps:
            if gap not in pending:
                continue  # Taking one that is there ended it all.
            gap.filling = self
            if newest is not None:
                newest.follower = gap
            newest = gap
            # Each part that waits for several values has tasks of its own, which start a tick
            # later than what they are made by.
            part = gap.part
            if gap.is_completed:
                start = now
            elif part.is_value:
                start = now + (part.width > 1)
            else:
                if part.part is not beside:
                    beside = part.part
                    start_beside = self._start_in(beside)
                start = start_beside + (part.width > 1)
            gap.start = start
            future = gap.future
            if not future.done():
                if future.get_loop() is not self._loop:
                    # A task that awaits it is told what is wrong; a callback would be called
                    # elsewhere.
                    future = gap.future = ensure_future(_awaited(future))
                future.add_done_callback(gap, context=self._context)
            elif start > now:
                self._later.setdefault(start, []).append(gap)
            else:
                self._newest = newest
                self._take((gap,))
                newest = self._newest
            if start > self._last:
                self._last = start
                if not self._is_counting:
                    self._is_counting = True
                    self._loop.call_soon(self._count)
        self._newest = newest

    def _start_in(self, part: _Part | None) -> int:
        start = self._now
        while part is not None:
            if part.width > 1:
                start += 1
            if part.is_value:
                break
            part = part.part
        return start

    def _count(self) -> None:
        """Count a tick, and take what is due in it."""
        self._now += 1
        if self._now < self._last:
            self._loop.call_soon(self._count)
        else:
            self._is_counting = False
        due = self._later.pop(self._now, None)
        if due is not None:
            self._take_as_task(due)

    # -- errors

    def _settle(self, child: _Gap | _Part, outcome: _Outcome) -> None:
        """Tell what is around a child how it ended."""
        if child not in self._pending:
            return  # A resolver cancelled the operation.
        del self._pending[child]
        part: _Part | None = child.part
        while part is not None and part.width == 1:
            if isinstance(outcome, Exception) and part.part is not None:
                outcome = self._executor._leave(part, outcome)
            part = part.part
        if part is None:
            if isinstance(outcome, Exception):
                self._fail(outcome)
        else:
            self._settle_one_of(part, outcome)

    def _settle_one_of(self, part: _Part, outcome: _Outcome) -> None:
        part.undone -= 1
        if part.state is _State.WAITING:
            if not part.undone:
                self._in_ticks(2, self._go_up, part)
        elif part.state is _State.OPEN or part.state is _State.CANCELLED:
            if isinstance(outcome, Exception):
                part.error = outcome
                part.state = _State.FAILED
                self._hold(part)
                self._in_ticks(1, self._tell, part)
            elif part.state is _State.CANCELLED and (outcome is _CANCELLED or not part.undone):
                part.state = _State.ENDED
                part.is_cancelled = True
                self._hold(part)
                self._in_ticks(2, self._go_up, part)

    def _fail(self, error: Exception) -> None:
        self.abandon()
        self.set_exception(error)

    def _tell(self, part: _Part) -> None:
        part.state = _State.TOLD
        self._in_ticks(1, self._cancel_others, part)

    def _cancel_others(self, part: _Part) -> None:
        """Cancel all that a part with an error waits for, and wait until that has ended."""
        others = self._undone(part)
        part.undone = len(others)
        part.state = _State.WAITING
        for child in others:
            self._cancel(child)
        if part.is_cancelled:
            self._go_up(part)
        elif not others:
            self._in_ticks(_TICKS_TO_GATHER_NOTHING, self._go_up, part)

    def _go_up(self, part: _Part) -> None:
        """Put null into the part's place, or go on with what is around it."""
        part.state = _State.ENDED
        if part.is_cancelled:
            self._settle(part, _CANCELLED)
        elif part.part is None:
            self._fail(part.error)
        else:
            self._settle(part, self._executor._leave(part, part.error))
        if not self._pending and not self.done():
            self.set_result(None)
        if self.done():
            self._wake()

    def _in_ticks(self, ticks: int, go_on: Callable[[_Part], None], part: _Part) -> None:
        if part not in self._pending:
            return
        if ticks == 0:
            go_on(part)
        else:
            self._loop.call_soon(self._in_ticks, ticks - 1, go_on, part)

    # -- cancelling

    def _cancel(self, child: _Gap | _Part) -> None:
        """Cancel what a part waits for, as the tasks are that would wait for it there."""
        start = self._start_of(child)
        if start > self._now:
            # A task that did not start yet has nothing to cancel: its loads are asked for.
            for each in self._beneath(child):
                del self._pending[each]
            if isinstance(child, _Part):
                child.state = _State.ENDED
            child.is_cancelled = True
            self._hold(child)
            self._later.setdefault(start, []).append(child)
        elif isinstance(child, _Gap):
            child.is_cancelled = True
            child.future.cancel()
        elif child.width == 1:
            for each in self._undone(child):
                self._cancel(each)
        elif child.state is _State.OPEN or child.state is _State.FAILED:
            others = self._undone(child)
            if child.state is _State.OPEN:
                child.state = _State.CANCELLED
                child.undone = len(others)
            elif not others:
                child.is_cancelled = True
            for each in others:
                self._cancel(each)
        else:
            child.is_cancelled = True

    def _cancel_future(self, gap: _Gap) -> None:
        future = gap.future
        if not future.cancel():
            if not future.cancelled():
                future.exception()  # Marks it as seen.
        elif gap.is_completed:
            self._left.append(future)

    # What is undone is known by the gaps that are; it is looked for where there is an error, and
    # from the first one on it is kept, since there may be one in each of many items.

    def _hold(self, child: _Gap | _Part) -> None:
        """Let something count as not done."""
        self._pending[child] = None
        if self._tree is not None:
            self._enter(child, self._tree)

    def _enter(self, child: _Gap | _Part, tree: dict[_Part, dict[_Gap | _Part, None]]) -> None:
        part = child.part
        while part is not None:
            children = tree.setdefault(part, {})
            if child in children:
                return
            children[child] = None
            child, part = part, part.part

    def _undone(self, part: _Part) -> list[_Gap | _Part]:
        """Give the children of a part that are not done."""
        if self._tree is None:
            self._tree = {}
            for child in self._pending:
                self._enter(child, self._tree)
        return [child for child in self._tree.get(part, ()) if self._is_undone(child)]

    def _is_undone(self, child: _Gap | _Part) -> bool:
        if child in self._pending:
            return True
        return (
            isinstance(child, _Part)
            and child.state is not _State.ENDED
            and bool(self._undone(child))
        )

    def _beneath(self, child: _Gap | _Part) -> list[_Gap | _Part]:
        """Give what is not done in a child, and it itself, if it is one of these."""
        found = [child] if child in self._pending else []
        if isinstance(child, _Part):
            for each in self._undone(child):
                found += self._beneath(each)
        return found

    def _start_of(self, child: _Gap | _Part) -> int:
        """Give the tick in which the task starts that would wait for a child."""
        ticks = 0
        while isinstance(child, _Part):
            ticks += child.width > 1
            undone = self._undone(child)
            if child in self._pending or not undone:
                return self._now
            child = undone[0]
        return child.start - ticks


_unexpected = _what_is_unexpected()
if _unexpected is not None:  # pragma: no cover - this needs another graphql-core
    for _name in _OVERRIDDEN:
        delattr(PrefetchingExecutionContext, _name)


@functools.cache
def _warn_once() -> None:
    if _unexpected is not None:
        _log.warning(
            "PrefetchingExecutionContext leaves every field to graphql-core: %s", _unexpected
        )
