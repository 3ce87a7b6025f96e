"""`PrefetchingExecutionContext`: GraphQL execution in which a loaded value makes no task.

Use it by its public name, `dataloader_cache.integrations.strawberry.PrefetchingExecutionContext`.

Why the plain executor is dear. Where a resolver gives a future, graphql-core makes a coroutine
that waits for it, one around the field's object, one around the object's place in its list, and
a task for each item of the list: for a thousand loaded fields that is more work than all the
rest. Here such a field leaves a gap in the object, and the object, its list and whatever is
around them are completed as if nothing were missing: parts, which know what has gaps in them.
One coroutine at the outside waits for all the futures, fills each gap as soon as its value is
there, and takes on the gaps that are in that value. So loads are made when and in the order in
which they are made without this executor, batches are the same, and a slow load keeps nobody
waiting who would not wait for it anyway.

A part whose other fields or items are asynchronous in another way goes the ordinary way: each of
its gaps becomes the coroutine that graphql-core would have made. An error that a field of a type
without null hands to its parent takes the part with it, and what is still loaded in there is
cancelled, as graphql-core does.
"""

# graphql-core leaves out the type parameters of its own types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from __future__ import annotations

import functools
import inspect
import logging
import sys
from asyncio import (
    AbstractEventLoop,
    Future,
    Task,
    ensure_future,
    gather,
    get_running_loop,
    iscoroutine,
    isfuture,
    sleep,
)
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
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


# How many ticks an error stays with a part that waits for several values, before it cancels the
# other ones, and again after that.
_TICKS = 2


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
    comes to.
    """

    __slots__ = ("context", "field", "filling", "future", "is_completed", "key", "part", "path")

    part: _Part
    key: str | int
    filling: _Filling

    def __init__(self, field: _Field, path: Path, future: Future[Any], context: Any) -> None:
        self.field = field
        self.path = path
        self.future = future
        self.context = context
        self.is_completed = False

    def __call__(self, _: Future[Any]) -> None:
        """Tell who fills the gap that its value is there: the future calls this."""
        filling = self.filling
        filling.ready.append(self)
        if filling.waker is not None:
            filling.wake()


class _Part:
    """An object or a list of the response with gaps in it; lives until they are filled.

    `part` is the one around it, in which it stands at `key`; None for the outermost. The type, the
    field and the path are those of that place, and say what becomes of an error.
    """

    __slots__ = (
        "details",
        "is_failing",
        "is_null",
        "key",
        "part",
        "path",
        "return_type",
        "value",
        "width",
    )

    key: str | int
    return_type: GraphQLOutputType
    details: FieldDetailsList
    path: Path

    def __init__(self, value: Any) -> None:
        self.value: Any = value
        self.part: _Part | None = None
        self.is_failing = self.is_null = False
        # How many gaps and parts it had at first.
        self.width = 0

    def put(
        self,
        around: _Part,
        key: str | int,
        return_type: GraphQLOutputType,
        details: FieldDetailsList,
        path: Path,
    ) -> None:
        """Say where in which part this one stands."""
        around.width += 1
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


def _is_lost(part: _Part | None) -> bool:
    """Tell whether a part, or one around it, became null."""
    while part is not None:
        if part.is_null:
            return True
        part = part.part
    return False


_What: TypeAlias = "Callable[[_Part, Exception], Iterable[_Step]]"
_Step: TypeAlias = "tuple[int, _What, _Part, Exception]"
"""What is to be done in so many ticks, with a part and an error."""


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
        filling = _Filling(get_running_loop(), gaps)
        steps: list[_Step] = []
        try:
            while filling.pending or steps:
                ready = await filling.next_gaps(within_a_tick=bool(steps))
                filling.add(self._fill_all(ready, steps))
                if steps:
                    steps = [step for one in steps for step in self._go_on(*one)]
                    filling.drop_lost()
        except GeneratorExit:
            filling.cancel()
            raise
        except BaseException:
            # Cancelled too: whoever waits for this wants nothing of it any more.
            filling.cancel()
            await filling.end()
            raise
        await filling.end()
        return outermost.value

    def _fill_all(self, ready: list[_Gap], steps: list[_Step]) -> list[_Gap]:
        """Put values where gaps were, and give the gaps that are in these values."""
        gaps: list[_Gap] = []
        waiting: list[tuple[_Gap, Awaitable[Any]]] = []
        outer, self._gaps = self._gaps, gaps
        ready = ready[::-1]
        try:
            while ready:
                gap = ready.pop()
                known = len(gaps)
                try:
                    value = self._value_of(gap)
                except Exception as error:
                    steps.append((0, self._reach, gap.part, error))
                    continue
                if value.__class__ is _Part:
                    value.put(gap.part, gap.key, gap.field[0], gap.field[1], gap.path)
                    value = value.value
                elif self.is_awaitable(value):
                    waiting.append((gap, value))
                    continue
                gap.part.value[gap.key] = value
                if len(gaps) > known:
                    # What is there already comes before the next value, as in graphql-core: the
                    # loads that it makes may have to wait for those of the next value otherwise.
                    there = [gap for gap in gaps[known:] if gap.future.done()]
                    if there:
                        gaps[known:] = [gap for gap in gaps[known:] if not gap.future.done()]
                        ready += reversed(there)
        finally:
            self._host = None
            self._gaps = outer
        # After the loads of all values, which are made at once.
        for gap, awaitable in waiting:
            gap.future = _started(awaitable)
            gap.is_completed = True
            gaps.append(gap)
        return gaps

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

    # An error goes up from part to part, at the pace at which it does in graphql-core, since where
    # several meet, the first one is reported. There it takes some ticks to pass a part that waits
    # for several values: two until the others are cancelled, and two until the part around it
    # hears of it. It takes none to pass a part that waits for a single value.

    def _go_on(self, ticks: int, step: _What, part: _Part, error: Exception) -> Iterable[_Step]:
        """Do a step, if it is time, and give what follows from it."""
        return step(part, error) if ticks == 0 else ((ticks - 1, step, part, error),)

    def _reach(self, part: _Part, error: Exception) -> Iterable[_Step]:
        """Take a part with an error, unless another one was here before."""
        if part.is_failing or _is_lost(part.part):
            return ()
        part.is_failing = True
        if part.width == 1:
            part.is_null = True
            return self._leave(part, error)
        return ((_TICKS, self._cancel, part, error),)

    def _cancel(self, part: _Part, error: Exception) -> Iterable[_Step]:
        """Let nothing that is still going on in the part have a consequence."""
        if _is_lost(part.part):
            return ()
        part.is_null = True
        return ((_TICKS, self._leave, part, error),)

    def _leave(self, part: _Part, error: Exception) -> Iterable[_Step]:
        """Put null into the part's place, or go on with what is around it."""
        around = part.part
        if around is None:
            raise error
        if _is_lost(around):
            return ()
        try:
            self.handle_field_error(error, part.return_type, part.details, part.path)
        except Exception as located:
            return self._reach(around, located)
        around.value[part.key] = None
        return ()


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


class _Filling:
    """Know which gaps of a part are still to be filled, and which can be by now."""

    def __init__(self, loop: AbstractEventLoop, gaps: list[_Gap]) -> None:
        self._loop = loop
        # Those whose values are there, in the order in which they came.
        self.ready: list[_Gap] = []
        self.waker: Future[None] | None = None
        self._left: list[Future[Any]] = []
        # A set in the order in which they came up.
        self.pending: dict[_Gap, None] = {}
        self.add(gaps)

    def add(self, gaps: list[_Gap]) -> None:
        """Wait for some more."""
        for gap in gaps:
            gap.filling = self
            self.pending[gap] = None
            future = gap.future
            if future.done():
                self.ready.append(gap)
                continue
            if future.get_loop() is not self._loop:
                # A task that awaits it is told what is wrong; a callback would be called elsewhere.
                future = gap.future = ensure_future(_awaited(future))
            future.add_done_callback(gap)

    def wake(self) -> None:
        """Let who waits for values go on."""
        waker, self.waker = self.waker, None
        if waker is not None and not waker.done():
            waker.set_result(None)

    async def next_gaps(self, *, within_a_tick: bool) -> list[_Gap]:
        """Wait for values, and give the gaps which these are for."""
        if within_a_tick:
            await sleep(0)
        elif not self.ready:
            self.waker = self._loop.create_future()
            await self.waker
        ready, self.ready = self.ready, []
        forget = self.pending.pop
        return [gap for gap in ready if forget(gap, False) is None]

    def drop_lost(self) -> None:
        """Cancel what is loaded for parts that became null."""
        for gap in [gap for gap in self.pending if _is_lost(gap.part)]:
            del self.pending[gap]
            self._cancel(gap)

    def cancel(self) -> None:
        """Cancel all that is left."""
        while self.pending:
            self._cancel(self.pending.popitem()[0])

    async def end(self) -> None:
        """Wait for what was cancelled, which may take its time."""
        if self._left:
            await gather(*self._left, return_exceptions=True)

    def _cancel(self, gap: _Gap) -> None:
        future = gap.future
        if not future.cancel():
            if not future.cancelled():
                future.exception()  # Marks it as seen.
        elif gap.is_completed:
            self._left.append(future)


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
