"""A schema with `DataLoaderExtension`, executed without a transport."""

import asyncio
import contextvars
import copy
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from dataloader_cache import LoaderScope, dataloader
from dataloader_cache.errors import ConfigurationError, LoopError
from dataloader_cache.testing import BatchRecorder

strawberry = pytest.importorskip("strawberry")

from strawberry.extensions import FieldExtension, SchemaExtension  # noqa: E402
from strawberry.permission import BasePermission  # noqa: E402
from strawberry.schema.config import StrawberryConfig  # noqa: E402
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext  # noqa: E402

from dataloader_cache.integrations.strawberry import DataLoaderExtension  # noqa: E402

# Eager tasks begin before whoever makes them goes on, so scopes meet in another order.
pytestmark = pytest.mark.loop_kinds("asyncio", "eager")

T = TypeVar("T")

NAMES: dict[int, str] = {}
ALL = "{ users { name } }"
DEFERRED = "{ users { id ... @defer { name } } }"
STREAMED = "{ users @stream(initialCount: 1) { name } }"
TICKS = "subscription { ticks { name } }"


@dataclass
class World:
    """What a test and the schema's resolvers share."""

    viewer: str = "nobody"
    scopes: list[LoaderScope] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    limiter: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    inner: Any = None
    loaders = property(lambda self: LoaderScope.current())

    def look(self) -> None:
        self.scopes.append(LoaderScope.current())


Info = strawberry.Info[World, None]


@dataloader
async def names(ids: list[int]) -> dict[int, str]:
    return {key: NAMES[key] for key in ids if key in NAMES}


@dataloader
async def greetings(ids: list[int], world: World) -> list[str]:
    return [f"{world.viewer} sees {NAMES[key]}" for key in ids]


@dataloader
async def slow(ids: list[int], world: World) -> list[int]:
    world.started.set()
    try:
        await world.go.wait()
    finally:
        world.closed.set()
    return ids


@dataloader
async def failing(ids: list[int]) -> list[str]:
    raise ValueError("the database is down")


@strawberry.type
class User:
    id: int

    @strawberry.field
    async def name(self) -> str | None:
        return await names.load(self.id)

    @strawberry.field
    async def greeting(self) -> str:
        return await greetings.load(self.id)

    @strawberry.field
    async def slow(self) -> int:
        return await slow.load(self.id)

    @strawberry.field
    async def required(self) -> str:
        return await failing.load(self.id)

    @strawberry.field
    def scope(self, info: Info) -> bool:
        info.context.look()
        return True

    @strawberry.field
    async def by_context(self, info: Info) -> str | None:
        return await info.context.loaders[names].load(self.id)


@strawberry.type
class Query:
    @strawberry.field
    def users(self) -> list[User]:
        return [User(id=1), User(id=2)]

    @strawberry.field
    def user(self, key: int = 1) -> User | None:
        return User(id=key)

    @strawberry.field
    def number(self, info: Info) -> int:
        info.context.look()
        return 1

    @strawberry.field
    def ahead(self) -> bool:
        slow.load(1).add_done_callback(lambda loading: loading.exception())
        return True

    @strawberry.field
    def future(self) -> str | None:
        return names.load(1)  # type: ignore[return-value]

    @strawberry.field
    async def inner(self, info: Info) -> str:
        await greetings.load(1)
        result = await info.schema.execute(
            "{ user { greeting scope } }", context_value=info.context.inner
        )
        info.context.look()
        return result.data["user"]["greeting"] if result.data else str(result.errors)


class Shout(FieldExtension):
    async def resolve_async(self, next_: Any, source: Any, info: Any, **kwargs: Any) -> Any:
        result = next_(source, info, **kwargs)
        return result if hasattr(result, "__aiter__") else await result


class Allowed(BasePermission):
    message = "mallory may not"

    async def has_permission(self, source: Any, info: Any, **kwargs: Any) -> bool:
        return info.context.viewer != "mallory"


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def rename(self, key: int, name: str) -> User:
        await names.load(key)
        NAMES[key] = name
        return User(id=key)

    @strawberry.mutation(permission_classes=[Allowed], extensions=[Shout()])
    async def rename_if_allowed(self, key: int, name: str) -> User:
        await names.load(key)
        NAMES[key] = name
        return User(id=key)

    @strawberry.mutation
    def rename_at_once(self, key: int, name: str) -> User:
        NAMES[key] = name
        return User(id=key)

    @strawberry.mutation
    async def rename_and_fail(self, key: int, name: str) -> User | None:
        await names.load(key)
        NAMES[key] = name
        raise ValueError("too late")

    @strawberry.mutation
    def rename_and_fail_at_once(self, key: int, name: str) -> User | None:
        NAMES[key] = name
        raise ValueError("too late")

    @strawberry.mutation
    async def read(self, key: int) -> str | None:
        return await names.load(key)


class Numbers:
    """Be an async iterator that is no generator."""

    def __init__(self, world: World) -> None:
        self.left = 2
        self.world = world

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        self.world.seen.append(await names.load(1))
        NAMES[1] += "!"
        return 1

    async def aclose(self) -> None:
        self.world.closed.set()


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def ticks(self, info: Info) -> AsyncIterator[User]:
        try:
            for number in range(3):
                NAMES[1] = f"tick {number}"
                yield User(id=1)
        finally:
            info.context.closed.set()

    @strawberry.subscription
    async def loads_and_waits(self, info: Info) -> AsyncIterator[User]:
        world = info.context
        for _ in range(2):
            world.seen.append(await names.load(1))
            world.started.set()
            await world.go.wait()
            world.go.clear()
            yield User(id=1)

    @strawberry.subscription
    async def waits_and_loads(self, info: Info) -> AsyncIterator[User]:
        world = info.context
        while True:
            await world.go.wait()
            world.go.clear()
            world.seen.append(await names.load(1))
            yield User(id=1)

    @strawberry.subscription
    async def by_iterator(self, info: Info) -> AsyncIterator[User]:
        return (User(id=number) async for number in Numbers(info.context))

    @strawberry.subscription
    async def closing(self, info: Info) -> AsyncIterator[int]:
        return Numbers(info.context)

    @strawberry.subscription(permission_classes=[Allowed], extensions=[Shout()])
    async def guarded(self) -> AsyncIterator[User]:
        for number in range(2):
            NAMES[1] = f"guarded {number}"
            yield User(id=1)

    @strawberry.subscription
    async def breaking(self, info: Info) -> AsyncIterator[User]:
        info.context.look()
        yield User(id=1)
        raise ValueError("the broker is down")

    @strawberry.subscription
    async def hangs(self, info: Info) -> AsyncIterator[int]:
        info.context.look()
        yield await slow.load(1)


def make_schema(*extensions: Any) -> Any:
    return strawberry.Schema(
        Query,
        Mutation,
        Subscription,
        extensions=extensions or [DataLoaderExtension],
        config=StrawberryConfig(enable_experimental_incremental_execution=True),
    )


@pytest.fixture(autouse=True)
def rows() -> None:
    NAMES.clear()
    NAMES.update({1: "ann", 2: "bob"})


@pytest.fixture
def schema() -> Any:
    return make_schema()


@pytest.fixture
def batches() -> Iterator[BatchRecorder]:
    with BatchRecorder() as recorder:
        yield recorder


def data(result: Any) -> Any:
    assert None is result.errors
    return result.data


async def elsewhere(make: Callable[[], Awaitable[T]]) -> T:
    """Await in a task that begins with no context variables."""

    async def wait() -> T:
        return await make()

    return await contextvars.Context().run(asyncio.get_running_loop().create_task, wait())


async def frames_of(results: Any) -> list[Any]:
    """Pull each frame in another task."""

    async def pull() -> Any:
        return await anext(results, None)

    frames = []
    while (frame := await elsewhere(pull)) is not None:
        frames.append(frame)
    return frames


def increments(frames: list[Any]) -> list[Any]:
    found = []
    for frame in frames:
        for part in frame.incremental or ():
            formatted = part.formatted
            found += formatted["items"] if "items" in formatted else [formatted["data"]]
    return found


class TestAnOperation:
    async def test_loads_of_one_level_are_one_batch(self, schema: Any, batches: Any) -> None:
        """What the items of a list load leaves together."""
        result = await schema.execute(ALL, context_value=World())

        assert {"users": [{"name": "ann"}, {"name": "bob"}]} == data(result)
        assert [("names", [1, 2])] == batches.plan

    async def test_has_loaders_of_its_own(self, schema: Any, batches: Any) -> None:
        """What one operation has loaded the next one loads again."""
        await schema.execute(ALL, context_value=World())
        NAMES[1] = "eve"
        result = await schema.execute(ALL, context_value=World())

        assert {"users": [{"name": "eve"}, {"name": "bob"}]} == data(result)
        assert 2 * [("names", [1, 2])] == batches.plan

    async def test_gives_its_context_to_the_batch_functions(self, schema: Any) -> None:
        """A factory's second parameter is `info.context`."""
        query = "{ user { greeting } }"
        results = await asyncio.gather(
            *(schema.execute(query, context_value=World(viewer)) for viewer in ("ann", "bob"))
        )

        assert ["ann sees ann", "bob sees ann"] == [
            data(result)["user"]["greeting"] for result in results
        ]

    async def test_a_context_that_an_extension_replaces_is_the_one_that_counts(self) -> None:
        """What resolvers see as `info.context` is what batch functions get."""

        class LogsIn(SchemaExtension):
            def on_operation(self) -> Iterator[None]:
                self.execution_context.context = World("ann")
                yield

        schema = make_schema(DataLoaderExtension, LogsIn)
        result = await schema.execute("{ user { greeting } }", context_value=World())

        assert {"user": {"greeting": "ann sees ann"}} == data(result)

    async def test_ends_with_its_scope(self, schema: Any) -> None:
        """When the result is there the scope is closed, and no longer current."""
        world = World()
        await schema.execute("{ number }", context_value=world)

        assert [True] == [scope.is_closed for scope in world.scopes]
        assert None is LoaderScope.current(None)

    async def test_that_is_invalid_ends_with_its_scope(self) -> None:
        """A document that can't be executed leaves no scope behind."""
        scopes = []

        class Looks(SchemaExtension):
            def on_parse(self) -> Iterator[None]:
                scopes.append(LoaderScope.current())
                yield

        schema = make_schema(DataLoaderExtension, Looks)
        results = [await schema.execute(query) for query in ("{ nothing }", "{")]

        assert [True, True] == [bool(result.errors) for result in results]
        assert [True, True] == [scope.is_closed for scope in scopes]

    async def test_that_is_cancelled_leaves_nothing_running(self, schema: Any) -> None:
        """A batch function that only the operation waited for is cancelled with it."""
        world = World()
        before = asyncio.all_tasks()
        running = asyncio.create_task(
            schema.execute("{ user { slow scope } }", context_value=world)
        )
        await world.started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await world.closed.wait()
        rest = asyncio.all_tasks() - before
        if rest:
            await asyncio.wait(rest)

        assert [True] == [scope.is_closed for scope in world.scopes]

    async def test_a_failing_required_field_does_not_touch_another_branch(
        self, schema: Any
    ) -> None:
        """Where graphql-core cancels the siblings of an error, those who share a key wait on."""
        world = World()
        running = asyncio.create_task(
            schema.execute("{ a: user { required slow } b: user { slow } }", context_value=world)
        )
        await world.started.wait()
        world.go.set()
        result = await running

        assert {"a": None, "b": {"slow": 1}} == result.data
        assert [["a", "required"]] == [error.path for error in result.errors]


class TestSetUp:
    async def test_a_function_may_make_the_extension(self, batches: Any) -> None:
        """A lambda serves where the extension has arguments."""
        schema = make_schema(lambda: DataLoaderExtension())
        await asyncio.gather(*(schema.execute(ALL, context_value=World()) for _ in range(2)))

        assert 2 * [("names", [1, 2])] == batches.plan

    @pytest.mark.filterwarnings("ignore:Passing an extension instance:DeprecationWarning")
    async def test_an_instance_is_refused(self) -> None:
        """One extension for all operations is an error that says what to pass."""
        schema = make_schema(DataLoaderExtension())
        result = await schema.execute(ALL)

        assert (
            "expected an own DataLoaderExtension for each operation, got one instance for "
            "several; pass the class, extensions=[DataLoaderExtension], or a function that "
            "makes a new one, extensions=[lambda: DataLoaderExtension(...)]"
        ) == str(result.errors[0])
        assert ConfigurationError is type(result.errors[0].original_error)

    async def test_a_function_that_gives_the_same_instance_is_refused(self) -> None:
        """An extension serves one operation."""
        extension = DataLoaderExtension()
        schema = make_schema(lambda: extension)
        await schema.execute(ALL, context_value=World())
        result = await schema.execute(ALL, context_value=World())

        assert ConfigurationError is type(result.errors[0].original_error)

    def test_a_limiter_that_all_operations_would_share_is_refused(self) -> None:
        """The limiter is a function, which is called for each operation."""
        with pytest.raises(ConfigurationError) as caught:
            DataLoaderExtension(limiter=7)  # type: ignore[arg-type]

        assert (
            "limiter of DataLoaderExtension must be a function of info.context that gives one for "
            "each operation, got 7, which all operations would share"
        ) == str(caught.value)

    async def test_a_schema_is_changed_once(self, schema: Any) -> None:
        """The second operation finds the schema as the first has left it."""

        def functions() -> list[Any]:
            graphql = schema._schema
            return [
                graphql.mutation_type.fields["rename"].resolve,
                graphql.subscription_type.fields["ticks"].subscribe,
                schema.execution_context_class,
            ]

        untouched = functions()
        await schema.execute(ALL, context_value=World())
        first = functions()
        await schema.execute(ALL, context_value=World())

        assert first == functions()
        assert [] == [function for function in untouched if function in first]

    def test_threads_that_begin_together_change_a_schema_once(self, schema: Any) -> None:
        """The first operations of several threads don't wrap a field twice."""
        resolver = schema._schema.mutation_type.fields["rename"].resolve
        barrier = threading.Barrier(8)

        def execute() -> None:
            barrier.wait()
            schema.execute_sync("{ users { id } }")

        threads = [threading.Thread(target=execute) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        wrapped = schema._schema.mutation_type.fields["rename"].resolve
        assert resolver is wrapped.__wrapped__

    async def test_a_schema_that_nobody_holds_is_collected(self) -> None:
        """Nothing of ours keeps a schema alive."""
        schema = make_schema()
        await schema.execute(ALL, context_value=World())
        gone = weakref.ref(schema._schema)
        del schema
        gc.collect()

        assert None is gone()

    async def test_an_executor_of_ones_own_is_kept(self) -> None:
        """What the schema was told to execute with still does it."""
        built = []

        class Executor(StrawberryGraphQLCoreExecutionContext):
            def build_resolve_info(self, *args: Any) -> Any:
                built.append(args[0])
                return super().build_resolve_info(*args)

        schema = strawberry.Schema(
            Query,
            extensions=[DataLoaderExtension],
            execution_context_class=Executor,
            config=StrawberryConfig(enable_experimental_incremental_execution=True),
        )
        result = await schema.execute(DEFERRED, context_value=World())

        assert [{"name": "ann"}, {"name": "bob"}] == increments(
            await frames_of(result.subsequent_results)
        )
        assert built

    async def test_copies_of_a_schema_are_served_alike(self, schema: Any) -> None:
        """A copy that was made before the first operation resolves its frames too."""
        for one in (schema, copy.copy(schema)):
            result = await one.execute(DEFERRED, context_value=World())

            assert [{"name": "ann"}, {"name": "bob"}] == increments(
                await frames_of(result.subsequent_results)
            )

    async def test_a_schema_of_queries_alone_is_served(self, batches: Any) -> None:
        """Mutations and subscriptions may be absent."""
        schema = strawberry.Schema(Query, extensions=[DataLoaderExtension])
        await schema.execute(ALL, context_value=World())

        assert [("names", [1, 2])] == batches.plan


class TestTheScopeInTheContext:
    async def test_a_property_finds_the_loaders_of_each_operation(self, schema: Any) -> None:
        """A context that many operations share leads each to its own scope."""
        world = World()
        query = "{ user { byContext } }"
        first = await schema.execute(query, context_value=world)
        NAMES[1] = "eve"
        second = await schema.execute(query, context_value=world)

        assert ["ann", "eve"] == [data(one)["user"]["byContext"] for one in (first, second)]

    async def test_a_dict_may_hold_the_way_to_the_scope(self) -> None:
        """`LoaderScope.current` in a dict gives the scope of each operation."""

        @strawberry.type
        class ByDict:
            @strawberry.field
            async def name(self, info: strawberry.Info) -> str | None:
                return await info.context["loaders"]()[names].load(1)

        schema = strawberry.Schema(ByDict, extensions=[DataLoaderExtension])
        context = {"loaders": LoaderScope.current}

        assert {"name": "ann"} == data(await schema.execute("{ name }", context_value=context))


class TestAnOpenScope:
    async def test_is_used(self, schema: Any) -> None:
        """What an operation loads in a scope that was open stays there."""
        async with LoaderScope(World()) as scope:
            await schema.execute(ALL, context_value=World())

            assert "ann" == scope[names].peek(1)

    async def test_without_a_context_gets_that_of_the_operation(self, schema: Any) -> None:
        """A middleware that knows no context leaves it to the operation."""
        world = World("ann")
        async with LoaderScope() as scope:
            result = await schema.execute("{ user { greeting } }", context_value=world)

            assert {"user": {"greeting": "ann sees ann"}} == data(result)
            assert world is scope.context

    async def test_keeps_the_context_that_it_has(self, schema: Any) -> None:
        """Who opened the scope has said what batch functions get."""
        async with LoaderScope(World("ann")):
            result = await schema.execute("{ user { greeting } }", context_value=World("bob"))

        assert {"user": {"greeting": "ann sees ann"}} == data(result)

    async def test_is_shared_by_operations_with_one_context(
        self, schema: Any, batches: Any
    ) -> None:
        """The operations of an HTTP batch load together."""
        world = World()
        async with LoaderScope():
            await asyncio.gather(*(schema.execute(ALL, context_value=world) for _ in range(3)))

        assert [("names", [1, 2])] == batches.plan

    async def test_is_not_shared_by_operations_with_other_contexts(self, schema: Any) -> None:
        """A scope that has got the context of one operation serves no other one's."""
        query = "{ user { greeting } }"
        async with LoaderScope() as scope:
            results = await asyncio.gather(
                *(schema.execute(query, context_value=World(viewer)) for viewer in ("ann", "bob"))
            )

            assert ["ann sees ann", "bob sees ann"] == [
                data(result)["user"]["greeting"] for result in results
            ]
            assert "ann" == scope.context.viewer

    async def test_is_not_shared_by_operations_that_replace_their_context(self) -> None:
        """Each operation of an HTTP batch is served as whom its own extensions say."""

        class LogsIn(SchemaExtension):
            async def on_operation(self) -> AsyncIterator[None]:
                await asyncio.sleep(0)  # so that both have found the open scope
                viewer = self.execution_context.operation_name
                self.execution_context.context = World(viewer)
                yield

        schema = make_schema(DataLoaderExtension, LogsIn)
        query = "query ann { user { greeting } } query bob { user { greeting } }"
        world = World()
        async with LoaderScope():
            results = await asyncio.gather(
                *(
                    schema.execute(query, context_value=world, operation_name=viewer)
                    for viewer in ("ann", "bob")
                )
            )

        assert ["ann sees ann", "bob sees ann"] == [
            data(result)["user"]["greeting"] for result in results
        ]

    async def test_with_a_context_of_one_operation_limits_the_others_too(self, schema: Any) -> None:
        """An operation that can't use a scope shares its limiter: the request has one session."""
        limiter = asyncio.Semaphore(1)
        async with LoaderScope(limiter=limiter):
            await schema.execute(ALL, context_value=World())
            world = World()
            await schema.execute("{ number }", context_value=world)

        assert [limiter] == [scope.limiter for scope in world.scopes]

    async def test_stays_open(self, schema: Any) -> None:
        """Who opened a scope closes it."""
        async with LoaderScope() as scope:
            await schema.execute(ALL, context_value=World())

            assert scope is LoaderScope.current()

    async def test_of_another_operation_is_not_used(self, schema: Any) -> None:
        """What a resolver executes has its own loaders and its own context."""
        world = World("ann", inner=World("bob"))
        result = await schema.execute("{ inner number }", context_value=world)

        assert {"inner": "bob sees ann", "number": 1} == data(result)
        assert 1 == len({*map(id, world.scopes)})
        assert world.scopes[0] is not world.inner.scopes[0]

    async def test_that_an_operation_uses_is_not_its_inner_ones(self, schema: Any) -> None:
        """An inner operation with another context has its own loaders there too."""
        world = World("ann", inner=World("bob"))
        async with LoaderScope() as scope:
            result = await schema.execute("{ inner }", context_value=world)

            assert {"inner": "bob sees ann"} == data(result)
            assert [scope] == world.scopes
            assert [True] == [inner.is_closed for inner in world.inner.scopes]

    async def test_that_was_closed_is_not_used(self, schema: Any) -> None:
        """A task that outlives its scope gets new ones for its operations."""
        begin = asyncio.Event()

        async def late() -> Any:
            await begin.wait()
            return await schema.execute(ALL, context_value=World())

        async with LoaderScope():
            task = asyncio.create_task(late())
        begin.set()

        assert {"users": [{"name": "ann"}, {"name": "bob"}]} == data(await task)


class TestMutations:
    @pytest.mark.parametrize("field", ["rename", "renameIfAllowed", "renameAtOnce"])
    async def test_the_payload_reads_what_the_mutation_wrote(self, schema: Any, field: str) -> None:
        """What the resolver loaded before it wrote is forgotten."""
        query = f'mutation {{ {field}(key: 1, name: "eve") {{ name }} }}'
        result = await schema.execute(query, context_value=World())

        assert {field: {"name": "eve"}} == data(result)

    @pytest.mark.parametrize("field", ["renameAndFail", "renameAndFailAtOnce"])
    async def test_a_resolver_that_raises_is_one_that_wrote(self, schema: Any, field: str) -> None:
        """The next root field reads afresh after one that failed."""
        result = await schema.execute(
            f'mutation {{ read(key: 1) {field}(key: 1, name: "eve") {{ name }} '
            "then: read(key: 1) }",
            context_value=World(),
        )

        assert {"read": "ann", field: None, "then": "eve"} == result.data

    async def test_each_root_field_sees_what_the_one_before_wrote(self, schema: Any) -> None:
        """Mutations of one operation run one after the other, and so do their reads."""
        result = await schema.execute(
            'mutation { a: rename(key: 1, name: "b") { name } '
            'b: rename(key: 1, name: "c") { name } }',
            context_value=World(),
        )

        assert {"a": {"name": "b"}, "b": {"name": "c"}} == data(result)

    async def test_the_payload_is_loaded_in_one_batch(self, schema: Any, batches: Any) -> None:
        """The scope is reset once, before the sub-selection."""
        query = 'mutation { renameAtOnce(key: 1, name: "eve") { name again: name } }'
        await schema.execute(query, context_value=World())

        assert [("names", [1])] == batches.plan

    async def test_in_an_open_scope_reset_that_one(self, schema: Any) -> None:
        """What was loaded before the mutation is forgotten by whoever opened the scope."""
        query = 'mutation { renameAtOnce(key: 1, name: "eve") { id } }'
        async with LoaderScope(World()):
            assert "ann" == await names.load(1)
            await schema.execute(query, context_value=World())

            assert "eve" == await names.load(1)


class TestFrames:
    @pytest.mark.parametrize(
        ("query", "expected", "plan"),
        [
            (DEFERRED, [{"name": "ann"}, {"name": "bob"}], [("names", [1, 2])]),
            (STREAMED, [{"name": "bob"}], [("names", [1]), ("names", [2])]),
        ],
    )
    async def test_come_after_execute_has_returned(
        self, schema: Any, batches: Any, query: str, expected: list[Any], plan: list[Any]
    ) -> None:
        """Each may be pulled in another task, with a context that knows no scope."""
        result = await schema.execute(query, context_value=World())

        assert expected == increments(await frames_of(result.subsequent_results))
        assert plan == batches.plan

    async def test_of_a_stream_come_in_any_task_too(self, schema: Any, batches: Any) -> None:
        """`Schema.stream` serves them in the same way."""
        stream = await schema.stream(DEFERRED, context_value=World())

        _, *frames = await frames_of(stream)

        assert [{"name": "ann"}, {"name": "bob"}] == increments(frames)
        assert [("names", [1, 2])] == batches.plan

    async def test_the_last_one_closes_the_scope(self, schema: Any) -> None:
        """The scope is open until no frame is left."""
        world = World()
        query = "{ number users { ... @defer { name } } }"
        result = await schema.execute(query, context_value=world)
        (scope,) = world.scopes
        before = scope.is_closed
        await frames_of(result.subsequent_results)

        assert (False, True) == (before, scope.is_closed)

    async def test_closing_their_iterator_closes_the_scope(self, schema: Any) -> None:
        """A client that goes away leaves nothing running."""
        world = World()
        query = "{ number user { ... @defer { id } ... @defer { slow } } }"
        result = await schema.execute(query, context_value=world)
        await anext(result.subsequent_results)
        await world.started.wait()
        await result.subsequent_results.aclose()
        await world.closed.wait()

        assert [True] == [scope.is_closed for scope in world.scopes]

    async def test_losing_their_iterator_closes_the_scope(self, schema: Any) -> None:
        """A server that drops a response in the middle leaves nothing running."""
        world = World()
        query = "{ number user { ... @defer { id } ... @defer { slow } } }"
        result = await schema.execute(query, context_value=world)
        await anext(result.subsequent_results)
        await world.started.wait()
        del result
        gc.collect()
        await world.closed.wait()

        assert [True] == [scope.is_closed for scope in world.scopes]

    @pytest.mark.parametrize("is_closed", [True, False])
    async def test_an_iterator_that_was_never_begun_closes_the_scope(
        self, schema: Any, is_closed: bool
    ) -> None:
        """A client that goes away before the second frame leaves nothing running."""
        world = World()
        query = "{ number ahead ... @defer { user { id } } }"
        result = await schema.execute(query, context_value=world)
        await world.started.wait()
        if is_closed:
            await result.subsequent_results.aclose()
        del result
        gc.collect()
        await world.closed.wait()

        assert [True] == [scope.is_closed for scope in world.scopes]

    async def test_cancelling_one_closes_the_scope(self, schema: Any) -> None:
        """A frame that is given up is the last."""
        world = World()
        query = "{ number user { ... @defer { slow } } }"
        result = await schema.execute(query, context_value=world)
        pull = asyncio.ensure_future(anext(result.subsequent_results))
        await world.started.wait()
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        await world.closed.wait()

        assert [True] == [scope.is_closed for scope in world.scopes]

    async def test_closing_a_stream_at_its_first_closes_the_scope(self, schema: Any) -> None:
        """A stream that is closed before its frames are pulled is over."""
        world = World()
        stream = await schema.stream(
            "{ number users { ... @defer { name } } }", context_value=world
        )
        await anext(stream)
        await stream.aclose()

        assert [True] == [scope.is_closed for scope in world.scopes]

    async def test_leave_the_scope_of_their_consumer_alone(self, schema: Any) -> None:
        """Between two frames the current scope is what it was."""
        result = await schema.execute(DEFERRED, context_value=World())
        seen = [LoaderScope.current(None)]
        async for _ in result.subsequent_results:
            seen.append(LoaderScope.current(None))

        assert [None, None] == seen

    async def test_in_an_open_scope_leave_it_open(self, schema: Any) -> None:
        """Who opened a scope closes it, after the frames."""
        async with LoaderScope() as scope:
            result = await schema.execute(DEFERRED, context_value=World())
            frames = await frames_of(result.subsequent_results)

            assert [{"name": "ann"}, {"name": "bob"}] == increments(frames)
            assert not scope.is_closed


class TestSubscriptions:
    @pytest.mark.parametrize(
        ("field", "expected"),
        [
            ("ticks", ["tick 0", "tick 1", "tick 2"]),
            ("byIterator", ["ann!", "ann!!"]),
            ("guarded", ["guarded 0", "guarded 1"]),
        ],
    )
    async def test_every_event_reads_afresh(
        self, schema: Any, field: str, expected: list[str]
    ) -> None:
        """Whatever kind of resolver it comes from, and whatever stands around that."""
        query = f"subscription {{ {field} {{ name }} }}"
        stream = await schema.subscribe(query, context_value=World())

        assert expected == [data(result)[field]["name"] async for result in stream]

    async def test_each_event_may_be_taken_in_another_task(self, schema: Any) -> None:
        """A task that knows no scope gets the event, read afresh."""
        stream = await schema.subscribe(TICKS, context_value=World())

        results = await frames_of(stream)

        assert ["tick 0", "tick 1", "tick 2"] == [data(one)["ticks"]["name"] for one in results]

    async def test_what_the_generator_loaded_before_it_waited_is_forgotten(
        self, schema: Any
    ) -> None:
        """A value read before the event is not what the event is resolved with."""
        world = World()
        stream = await schema.subscribe(
            "subscription { loadsAndWaits { name } }", context_value=world
        )
        names_seen = []
        for name in ("eve", "mia"):
            taking = asyncio.ensure_future(anext(stream))
            await world.started.wait()
            world.started.clear()
            NAMES[1] = name
            world.go.set()
            names_seen.append(data(await taking)["loadsAndWaits"]["name"])
        await stream.aclose()

        assert ["eve", "mia"] == names_seen
        assert ["ann", "eve"] == world.seen

    async def test_what_an_event_loaded_the_generator_does_not_see(self, schema: Any) -> None:
        """The source of events reads afresh as well."""
        world = World()
        stream = await schema.subscribe(
            "subscription { waitsAndLoads { name } }", context_value=world
        )
        for name in ("eve", "mia"):
            NAMES[1] = name
            world.go.set()
            await anext(stream)
        await stream.aclose()

        assert ["eve", "mia"] == world.seen

    async def test_one_task_may_consume_two(self, schema: Any) -> None:
        """Taken in turns, each has its own loaders and its own context."""
        query = "subscription { ticks { greeting } }"
        streams = [
            await schema.subscribe(query, context_value=World(viewer)) for viewer in ("ann", "bob")
        ]
        seen = []
        for _ in range(2):
            for stream in streams:
                seen.append(data(await anext(stream))["ticks"]["greeting"])
        for stream in streams:
            await stream.aclose()

        assert [
            "ann sees tick 0",
            "bob sees tick 0",
            "ann sees tick 1",
            "bob sees tick 1",
        ] == seen
        assert None is LoaderScope.current(None)

    async def test_leave_the_scope_of_their_consumer_alone(self, schema: Any) -> None:
        """Between two events the current scope is what it was."""
        seen = []
        stream = await schema.subscribe(TICKS, context_value=World())
        await anext(stream)
        async with LoaderScope() as scope:
            async for _ in stream:
                seen.append(LoaderScope.current(None))

        assert [scope, scope] == seen

    async def test_closing_one_closes_its_generator(self, schema: Any) -> None:
        """A client that unsubscribes ends the source."""
        world = World()
        stream = await schema.subscribe(TICKS, context_value=world)
        await anext(stream)
        await stream.aclose()

        assert world.closed.is_set()

    async def test_closing_one_closes_an_iterator_that_is_no_generator(self, schema: Any) -> None:
        """`aclose` reaches what can be closed."""
        world = World()
        stream = await schema.subscribe("subscription { closing }", context_value=world)
        await anext(stream)
        await stream.aclose()

        assert world.closed.is_set()

    async def test_closing_one_in_another_task_closes_its_scope(self, schema: Any) -> None:
        """The end may come from anywhere."""
        world = World()
        stream = await schema.subscribe("subscription { breaking { scope } }", context_value=world)
        await anext(stream)
        await elsewhere(stream.aclose)

        assert [True, True] == [scope.is_closed for scope in world.scopes]
        assert None is LoaderScope.current(None)

    async def test_losing_one_closes_its_generator_and_its_scope(self, schema: Any) -> None:
        """A consumer that drops it in the middle leaves nothing open."""
        world = World()
        stream = await schema.subscribe("subscription { ticks { scope } }", context_value=world)
        await anext(stream)
        before = asyncio.all_tasks()
        del stream
        gc.collect()
        await world.closed.wait()
        rest = asyncio.all_tasks() - before
        if rest:
            await asyncio.wait(rest)

        assert [True] == [scope.is_closed for scope in world.scopes]

    async def test_inside_of_an_operation_has_loaders_of_its_own(self, schema: Any) -> None:
        """What a resolver subscribes to sees its own context, whichever task takes the events."""
        seen = []

        @strawberry.type
        class Outer:
            @strawberry.field
            async def inner(self) -> str:
                query = "subscription { ticks { greeting } }"
                stream = await schema.subscribe(query, context_value=World("bob"))
                for take in (lambda pull: pull(), elsewhere, lambda pull: pull()):
                    result = await take(lambda: anext(stream))
                    seen.append((data(result)["ticks"]["greeting"], LoaderScope.current()))
                await stream.aclose()
                return await greetings.load(1)

        outer = strawberry.Schema(Outer, extensions=[DataLoaderExtension])
        result = await outer.execute("{ inner }", context_value=World("ann"))

        assert {"inner": "ann sees tick 2"} == data(result)
        assert [f"bob sees tick {number}" for number in range(3)] == [text for text, _ in seen]
        assert 1 == len({id(scope) for _, scope in seen})

    async def test_an_error_of_the_source_ends_the_scope(self, schema: Any) -> None:
        """A source that raises is over."""
        world = World()
        stream = await schema.subscribe("subscription { breaking { name } }", context_value=world)
        results = [result async for result in stream]

        assert ["the broker is down"] == [str(error) for error in results[-1].errors]
        assert [True] == [scope.is_closed for scope in world.scopes]

    async def test_a_permission_that_is_denied_is_an_error(self, schema: Any) -> None:
        """What is no stream of events reaches graphql-core as it is."""
        stream = await schema.subscribe(
            "subscription { guarded { name } }", context_value=World("mallory")
        )
        (result,) = [result async for result in stream]

        assert ["mallory may not"] == [error.message for error in result.errors]

    async def test_a_cancelled_one_leaves_nothing_running(self, schema: Any) -> None:
        """A batch function that the source waited for is cancelled with it."""
        world = World()
        stream = await schema.subscribe("subscription { hangs }", context_value=world)
        taking = asyncio.ensure_future(anext(stream))
        await world.started.wait()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await world.closed.wait()

        assert [True] == [scope.is_closed for scope in world.scopes]

    async def test_loaders_made_with_the_context_are_stale_no_more(self, schema: Any) -> None:
        """One context for all events, as a websocket has it, does not keep what they load."""
        world = World()
        query = "subscription { ticks { byContext } }"
        stream = await schema.subscribe(query, context_value=world)

        assert ["tick 0", "tick 1", "tick 2"] == [
            data(result)["ticks"]["byContext"] async for result in stream
        ]

    async def test_in_an_open_scope_read_afresh_too(self, schema: Any) -> None:
        """A scope that was open is reset with each event."""
        async with LoaderScope() as scope:
            stream = await schema.subscribe(TICKS, context_value=World())
            seen = [data(result)["ticks"]["name"] async for result in stream]

            assert ["tick 0", "tick 1", "tick 2"] == seen
            assert not scope.is_closed


class TestWithoutALoop:
    def test_what_loads_nothing_is_executed(self, schema: Any) -> None:
        """`execute_sync` has a scope like any operation."""
        world = World()
        result = schema.execute_sync("{ users { id } number }", context_value=world)

        assert {"users": [{"id": 1}, {"id": 2}], "number": 1} == data(result)
        assert [True] == [scope.is_closed for scope in world.scopes]

    def test_a_load_says_what_to_do(self, schema: Any) -> None:
        """Without a running loop a load is an error, and no hang."""
        result = schema.execute_sync("{ future }", context_value=World())
        (error,) = result.errors

        assert LoopError is type(error.original_error)
        assert (
            "loader 'names' was used where no event loop runs; make the endpoint, view or "
            "function that loads an `async def`, and start a program with asyncio.run(main())"
        ) == error.message

    async def test_a_load_in_a_worker_thread_says_what_to_do(self, schema: Any) -> None:
        """A plain `def` endpoint is run in a thread without a loop."""
        result = await asyncio.to_thread(schema.execute_sync, "{ future }", context_value=World())

        assert LoopError is type(result.errors[0].original_error)

    @pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
    async def test_a_load_beside_a_running_loop_leaves_nothing_behind(self, schema: Any) -> None:
        """`execute_sync` can't wait for a load, and what has begun is given up."""
        # Closing an operation may report a load that nobody waits for.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        before = asyncio.all_tasks()
        result = schema.execute_sync("{ future }", context_value=World())
        rest = asyncio.all_tasks() - before
        if rest:
            await asyncio.wait(rest)
        messages = [error.message for error in result.errors]
        # With the coroutines of graphql-core that Strawberry has given up.
        del result
        gc.collect()

        assert ["GraphQL execution failed to complete synchronously."] == messages


class TestALimiter:
    async def test_is_made_from_the_context(self) -> None:
        """All loaders of an operation go through the limiter of its context."""

        class Gate:
            entered = 0

            async def __aenter__(self) -> None:
                self.entered += 1

            async def __aexit__(self, *_: object) -> None:
                pass

        world = World()
        gate = world.inner = Gate()
        schema = make_schema(lambda: DataLoaderExtension(limiter=lambda context: context.inner))
        await schema.execute("{ users { name greeting } }", context_value=world)

        assert 2 == gate.entered

    async def test_lets_one_session_serve_two_loaders(self) -> None:
        """An `AsyncSession` refuses what happens at the same time; a limiter of 1 prevents it."""
        pytest.importorskip("aiosqlite")
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

        async def ask(session: AsyncSession, keys: list[int]) -> list[int]:
            await session.execute(text("SELECT 1"))
            return keys

        @dataloader
        async def first(keys: list[int], world: World) -> list[int]:
            return await ask(world.inner, keys)

        @dataloader
        async def second(keys: list[int], world: World) -> list[int]:
            return await ask(world.inner, keys)

        @strawberry.type
        class Both:
            @strawberry.field
            async def first(self) -> int:
                return await first.load(1)

            @strawberry.field
            async def second(self) -> int:
                return await second.load(2)

        schema = strawberry.Schema(
            Both,
            extensions=[lambda: DataLoaderExtension(limiter=lambda world: world.limiter)],
        )
        engine = create_async_engine("sqlite+aiosqlite://")
        for _ in range(20):
            async with AsyncSession(engine) as session:
                world = World(inner=session)
                result = await schema.execute("{ first second }", context_value=world)
            assert {"first": 1, "second": 2} == data(result)
        await engine.dispose()
