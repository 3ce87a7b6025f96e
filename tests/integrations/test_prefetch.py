"""`PrefetchingExecutionContext`: what it saves, and that nothing else changes."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from dataloader_cache import dataloader, group_dataloader
from dataloader_cache.testing import BatchRecorder, VirtualTimeLoop, run_virtual

strawberry = pytest.importorskip("strawberry")

from strawberry.extensions import SchemaExtension  # noqa: E402
from strawberry.schema.config import StrawberryConfig  # noqa: E402

from dataloader_cache.integrations import _prefetch  # noqa: E402
from dataloader_cache.integrations.strawberry import (  # noqa: E402
    DataLoaderExtension,
    PrefetchingExecutionContext,
    load_from,
)

DATABASE_SECONDS = 0.01


@dataloader
async def users(ids: list[int]) -> dict[int, Any]:
    await asyncio.sleep(DATABASE_SECONDS)
    return {key: User(id=key, friend_id=key + 1) for key in ids if key < 1000}


@dataloader
async def slow_users(ids: list[int]) -> list[Any]:
    await asyncio.sleep(5 * DATABASE_SECONDS)
    return [User(id=key, friend_id=key + 1) for key in ids]


@dataloader(missing="raise")
async def sure_users(ids: list[int]) -> dict[int, Any]:
    await asyncio.sleep(DATABASE_SECONDS)
    return {key: User(id=key, friend_id=key + 1) for key in ids if key < 1000}


@group_dataloader(by="author_id")
async def posts_of(ids: list[int]) -> list[Any]:
    await asyncio.sleep(DATABASE_SECONDS)
    return [Post(id=10 * key + n, author_id=key) for key in ids for n in range(3)]


@strawberry.type
class User:
    id: int
    friend_id: strawberry.Private[int]
    friend: "User | None" = load_from(users, by="friend_id")
    posts: "list[Post]" = load_from(posts_of, by="id")


@strawberry.type
class Post:
    id: int
    author_id: strawberry.Private[int | None]
    author: User | None = load_from(users, by="author_id")
    slow_author: User | None = load_from(slow_users, by="author_id")
    sure_author: User = load_from(sure_users, by="author_id")

    @strawberry.field
    def future_author(self) -> User | None:
        return users.load(self.author_id)  # type: ignore[return-value]

    @strawberry.field
    async def length(self) -> int:
        await asyncio.sleep(DATABASE_SECONDS)
        return self.id

    @strawberry.field
    def answers(self) -> "list[Post]":
        return [Post(id=100 + self.id + n, author_id=50 + n) for n in range(2)]


@strawberry.type
class Query:
    @strawberry.field
    def posts(self, count: int = 3) -> list[Post | None]:
        return [Post(id=n, author_id=n) for n in range(count)]

    @strawberry.field
    def lost(self) -> list[Post | None]:
        return [Post(id=n, author_id=key) for n, key in enumerate((1, 5000, 2))]

    @strawberry.field
    def sure(self) -> list[Post]:
        return [Post(id=n, author_id=key) for n, key in enumerate((1, 5000, 2))]

    @strawberry.field
    def nested(self) -> list[list[Post] | None]:
        keys = ((1, 5000, 2), (5000, 3), (4, 5))
        return [[Post(id=n, author_id=key) for n, key in enumerate(each)] for each in keys]


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def events(self) -> AsyncGenerator[list[Post], None]:
        for n in range(2):
            yield [Post(id=n, author_id=n), Post(id=n + 1, author_id=n + 1)]


def make_schema(execution_context_class: Any, **options: Any) -> Any:
    return strawberry.Schema(
        Query,
        subscription=Subscription,
        extensions=[DataLoaderExtension, *options.pop("extensions", ())],
        execution_context_class=execution_context_class,
        **options,
    )


ORDINARY = make_schema(None)
PREFETCHING = make_schema(PrefetchingExecutionContext)


class Outcome:
    """What a query came to: the answer, the batches, the time it took and the tasks it made."""

    def __init__(self, schema: Any, query: str) -> None:
        self.tasks = 0
        self.seconds = 0.0
        with BatchRecorder() as recorder:
            result = run_virtual(lambda: self._run(schema, query))
        self.batches = recorder.plan
        self.data = result.data
        self.errors = [(error.message, error.path) for error in result.errors or ()]

    async def _run(self, schema: Any, query: str) -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.set_task_factory(self._count)
        begin = loop.time()
        try:
            return await schema.execute(query)
        finally:
            self.seconds = loop.time() - begin

    def _count(self, loop: Any, coroutine: Any, **options: Any) -> Any:
        self.tasks += 1
        return asyncio.Task(coroutine, loop=loop, **options)


def both(query: str) -> tuple[Outcome, Outcome]:
    return Outcome(ORDINARY, query), Outcome(PREFETCHING, query)


# -- what it saves


@pytest.mark.parametrize("field", ["author", "futureAuthor", "sureAuthor"])
def test_a_list_makes_no_task_for_each_item(field: str) -> None:
    """200 items with a loaded field make fewer than 20 tasks, where there were more than 200."""
    ordinary, prefetching = both(f"{{ posts(count: 200) {{ id {field} {{ id }} }} }}")

    assert prefetching.tasks < 20
    assert 200 < ordinary.tasks
    assert ordinary.data == prefetching.data


def test_lists_within_lists_make_no_tasks_either() -> None:
    """Nor do three levels of loaded lists and fields make a task for each item."""
    query = "{ posts(count: 20) { author { posts { author { friend { id } } } } } }"

    ordinary, prefetching = both(query)

    assert prefetching.tasks < 20
    assert 60 < ordinary.tasks
    assert ordinary.data == prefetching.data


def test_it_counts_what_only_lists_within_lists_have() -> None:
    """Fields of the items of a list that an item has at hand are loaded with those of the item."""
    query = "{ posts { author { id } answers { author { id } } } }"

    ordinary, prefetching = both(query)

    assert [("users", [0, 50, 51, 1, 2])] == ordinary.batches == prefetching.batches
    assert ordinary.data == prefetching.data


# -- levels stay parallel


@pytest.mark.parametrize(
    ("query", "round_trips"),
    [
        ("{ posts { author { friend { friend { id } } } } }", 3),
        ("{ posts { author { id } answers { author { friend { id } } } } }", 2),
        ("{ posts { slowAuthor { id } author { friend { friend { id } } } } }", 5),
        ("{ posts { slowAuthor { id } length author { friend { friend { id } } } } }", 5),
        ("{ posts { length author { posts { length author { id } } } } }", 3),
        ("{ a: posts { author { friend { id } } } b: posts(count: 5) { author { id } } }", 1),
        ("{ lost { author { id friend { id } } sureAuthor { friend { id } } } }", 2),
    ],
)
def test_no_query_takes_more_round_trips(query: str, round_trips: int) -> None:
    """A slow load keeps no other one waiting, at any level."""
    ordinary, prefetching = both(query)

    assert round_trips == round(ordinary.seconds / DATABASE_SECONDS)
    assert round_trips == round(prefetching.seconds / DATABASE_SECONDS)
    assert ordinary.batches == prefetching.batches
    assert ordinary.data == prefetching.data


# -- errors


def test_an_error_is_that_of_its_item() -> None:
    """A key that is not there makes its item null where that is allowed, and no other one."""
    ordinary, prefetching = both("{ lost { sureAuthor { id } } }")

    assert [None] == [item for item in prefetching.data["lost"] if item is None]
    assert [["lost", 1, "sureAuthor"]] == [path for _, path in prefetching.errors]
    assert ordinary.data == prefetching.data
    assert ordinary.errors == prefetching.errors


def test_an_error_goes_up_to_what_may_be_null() -> None:
    """Where nothing on the way may be null, the error takes the whole answer."""
    ordinary, prefetching = both("{ sure { sureAuthor { friend { id } } } }")

    assert prefetching.data is None
    assert [["sure", 1, "sureAuthor"]] == [path for _, path in prefetching.errors]
    assert ordinary.errors == prefetching.errors


@pytest.mark.parametrize(
    "query",
    [
        "{ sure { sureAuthor { friend { id } } answers { author { id } } } }",
        "{ sure { sureAuthor { posts { id } } slowAuthor { posts { id } } } }",
        "{ sure { sureAuthor { friend { id } } slowAuthor { friend { id } } } }",
        "{ sure { answers { sureAuthor { id } } sureAuthor { posts { id } } } }",
        "{ nested { author { posts { id } } sureAuthor { friend { id } } } }",
        "{ nested { author { id posts { id } } sureAuthor { posts { id } } } }",
        "{ sure { sureAuthor { id } } lost { sureAuthor { friend { id } } } }",
    ],
)
def test_what_is_lost_is_asked_for_as_long_as_it_is_otherwise(query: str) -> None:
    """An error cancels the loads of its part in time: no batch more leaves for them, none less."""
    ordinary, prefetching = both(query)

    assert ordinary.batches == prefetching.batches
    assert ordinary.errors == prefetching.errors
    assert ordinary.data == prefetching.data


@pytest.mark.parametrize(
    "query",
    [
        "{ a: sure { sureAuthor { posts { id } } } b: sure { sureAuthor { id } } }",
        "{ a: sure { sureAuthor { posts { sureAuthor { id } } } } b: sure { sureAuthor { id } } }",
        "{ a: sure { sureAuthor { friend { id } } } b: nested { sureAuthor { posts { id } } } }",
    ],
)
def test_of_several_errors_the_same_one_is_reported(query: str) -> None:
    """The error that is first at a parent is reported, and none that comes when that is null."""
    ordinary, prefetching = both(query)

    assert prefetching.errors
    assert ordinary.errors == prefetching.errors
    assert ordinary.batches == prefetching.batches


def test_values_are_taken_in_the_order_in_which_they_come() -> None:
    """Where two fields load the same keys, the loads of the next level are in the same order."""
    ordinary, prefetching = both(
        "{ nested { sureAuthor { id } } lost { sureAuthor { posts { id } } } }"
    )

    assert ("posts_of", [1, 2]) == prefetching.batches[1]
    assert ordinary.batches == prefetching.batches


def test_a_resolver_below_a_loaded_field_sees_the_task() -> None:
    """`current_task()` is that of the operation, in what is resolved when a value is there."""
    seen = set()

    @strawberry.type
    class Book:
        @strawberry.field
        def number(self) -> int:
            seen.add(asyncio.current_task())
            return 1

    @dataloader
    async def books(ids: list[int]) -> list[Any]:
        return [Book() for _ in ids]

    @strawberry.type
    class Root:
        @strawberry.field
        def here(self) -> int:
            seen.add(asyncio.current_task())
            return 1

        book: Book | None = load_from(books, by=lambda root: 1)

    schema = strawberry.Schema(
        Root,
        extensions=[DataLoaderExtension],
        execution_context_class=PrefetchingExecutionContext,
    )
    outcome = Outcome(schema, "{ here book { number } }")

    assert {"here": 1, "book": {"number": 1}} == outcome.data
    assert 1 == len(seen)
    assert None not in seen


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt])
def test_what_is_no_error_of_a_field_ends_the_operation(error: type[BaseException]) -> None:
    """A cancellation or an interrupt out of a resolver below a loaded field is raised."""

    @strawberry.type
    class Book:
        @strawberry.field
        def number(self) -> int:
            raise error

    @dataloader
    async def books(ids: list[int]) -> list[Any]:
        return [Book() for _ in ids]

    @strawberry.type
    class Root:
        book: Book | None = load_from(books, by=lambda root: 1)
        slow_user: User | None = load_from(slow_users, by=lambda root: 1)

    schema = strawberry.Schema(
        Root,
        extensions=[DataLoaderExtension],
        execution_context_class=PrefetchingExecutionContext,
    )

    with pytest.raises(error):
        Outcome(schema, "{ book { number } slowUser { id } }")


MARK: ContextVar[int | None] = ContextVar("MARK", default=None)


@dataloader
async def marked(ids: list[int]) -> list[Any]:
    return [Marked(id=key) for key in ids]


@strawberry.type
class Marked:
    id: int
    next: "Marked" = load_from(marked, by=lambda one: one.id + 100)

    @strawberry.field
    def mark(self) -> int:
        MARK.set(self.id)
        return self.id

    @strawberry.field
    def read(self) -> int | None:
        return MARK.get()

    @strawberry.field
    async def read_later(self) -> int | None:
        return MARK.get()


@pytest.mark.parametrize(
    "query",
    [
        "{ items { next { mark next { read } } } }",
        "{ items { next { mark next { id next { read } } next { id } } } }",
        "{ items { next { mark next { readLater } } } }",
        "{ items { next { mark readLater } } }",
        "{ items { next { read mark } } }",
        "{ items { mark next { read } } }",
    ],
)
def test_context_variables_are_those_of_the_place(query: str) -> None:
    """What a resolver sets is seen below it, and not beside it, where graphql-core has tasks."""

    @strawberry.type
    class Root:
        @strawberry.field
        def items(self) -> list[Marked]:
            return [Marked(id=n) for n in range(3)]

    def answer(execution_context_class: Any) -> Any:
        schema = strawberry.Schema(
            Root,
            extensions=[DataLoaderExtension],
            execution_context_class=execution_context_class,
        )
        return Outcome(schema, query).data

    assert answer(None) == answer(PrefetchingExecutionContext)


class Unusual(BaseException):
    """What is no error of a field either."""


@strawberry.type
class Tree:
    is_there: strawberry.Private[bool]
    error: strawberry.Private[type[BaseException]]

    @strawberry.field
    def tree(self) -> "Tree":
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if self.is_there:
            future.set_result(self)
        else:
            loop.call_soon(future.set_result, self)
        return future  # type: ignore[return-value]

    @strawberry.field
    def number(self) -> int:
        raise self.error


@pytest.mark.parametrize("error", [Unusual, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("query", ["{ tree { tree { number } } }", "{ tree { number } }"])
async def test_what_is_no_error_of_a_field_is_raised_once(
    error: type[BaseException], is_there: bool, query: str
) -> None:
    """It is raised where the operation is awaited, and nothing of it reaches the loop's handler."""
    schema = strawberry.Schema(Tree, execution_context_class=PrefetchingExecutionContext)
    root = Tree(is_there=is_there, error=error)
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))

    with pytest.raises(error):
        await asyncio.wait_for(schema.execute(query, root_value=root), 1)
    gc.collect()

    assert [] == reports


@pytest.mark.parametrize("field", ["stop", "stopAndFail", "stop author { id }"])
@pytest.mark.parametrize("loaded", ["author", "futureAuthor"])
async def test_a_resolver_may_cancel_the_operation(field: str, loaded: str) -> None:
    """A resolver below a loaded field may cancel what it is a part of; no load is left of it."""
    operations: list[asyncio.Future[Any]] = []

    @strawberry.type
    class Reply(Post):
        @strawberry.field
        def stop(self) -> int:
            return operations[0].cancel()

        @strawberry.field
        def stop_and_fail(self) -> int:
            operations[0].cancel()
            raise ValueError

    @dataloader
    async def replies(ids: list[int]) -> list[Any]:
        return [Reply(id=key, author_id=key) for key in ids]

    @strawberry.type
    class Parent:
        id: int
        reply: Reply = load_from(replies, by="id")

    @strawberry.type
    class Root:
        @strawberry.field
        def parents(self) -> list[Parent]:
            return [Parent(id=n) for n in range(3)]

    schema = strawberry.Schema(
        Root,
        extensions=[DataLoaderExtension],
        execution_context_class=PrefetchingExecutionContext,
    )
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    query = f"{{ parents {{ reply {{ {loaded} {{ id }} {field} }} }} }}"

    with BatchRecorder() as recorder:
        operations.append(asyncio.ensure_future(schema.execute(query)))
        with pytest.raises(asyncio.CancelledError):
            await operations[0]
        for _ in range(20):
            await asyncio.sleep(0)
    gc.collect()

    assert [("replies", [0, 1, 2])] == recorder.plan
    assert [] == reports
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_a_resolver_may_give_another_field_its_value() -> None:
    """A value that comes while others are taken is not taken for the last one."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(3)]

    @strawberry.type
    class Leaf:
        number: int

    @strawberry.type
    class Inner:
        id: strawberry.Private[int]

        @strawberry.field
        def leaf(self) -> Leaf:
            if self.id:
                futures[self.id - 1].set_result(Leaf(number=self.id - 1))
            if self.id == 2:
                loop.call_later(DATABASE_SECONDS, futures[2].set_result, Leaf(number=2))
            return futures[self.id]  # type: ignore[return-value]

    @strawberry.type
    class Node:
        id: strawberry.Private[int]

        @strawberry.field
        def inner(self) -> Inner:
            future: asyncio.Future[Any] = loop.create_future()
            future.set_result(Inner(id=self.id))
            return future  # type: ignore[return-value]

    @strawberry.type
    class Root:
        @strawberry.field
        def nodes(self) -> list[Node]:
            return [Node(id=n) for n in range(3)]

    schema = strawberry.Schema(Root, execution_context_class=PrefetchingExecutionContext)
    result = await schema.execute("{ nodes { inner { leaf { number } } } }")

    assert [0, 1, 2] == [node["inner"]["leaf"]["number"] for node in result.data["nodes"]]


async def test_a_cancelled_query_asks_for_nothing_any_more() -> None:
    """Cancelling the operation cancels the loads that it waits for."""
    with BatchRecorder() as recorder:
        task = asyncio.ensure_future(PREFETCHING.execute("{ posts { author { id } } }"))
        for _ in range(4):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(20):
            await asyncio.sleep(0)

    assert [] == recorder.plan


def test_a_future_of_another_loop_is_an_error_of_its_field() -> None:
    """A future that can't be awaited here is told apart, and nobody waits for it for ever."""
    other = asyncio.new_event_loop()
    future: Any = other.create_future()

    @strawberry.type
    class Wrong:
        @strawberry.field
        def number(self) -> int | None:
            return future  # type: ignore[no-any-return]

    @strawberry.type
    class Root:
        @strawberry.field
        def wrong(self) -> list[Wrong]:
            return [Wrong()]

    schema = strawberry.Schema(Root, execution_context_class=PrefetchingExecutionContext)
    outcome = Outcome(schema, "{ wrong { number } }")
    other.close()

    assert {"wrong": [{"number": None}]} == outcome.data
    assert ["wrong", 0, "number"] == outcome.errors[0][1]
    assert "attached to a different loop" in outcome.errors[0][0]


@pytest.mark.parametrize("ticks", range(0, 60, 3))
def test_a_query_cancelled_at_any_time_leaves_nothing_behind(ticks: int) -> None:
    """Whenever it is cancelled, the operation ends at once and all its tasks end with it."""

    async def cancel_after(ticks: int) -> set[Any]:
        query = "{ posts { length author { posts { author { friend { id } } length } } } }"
        task = asyncio.ensure_future(PREFETCHING.execute(query))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(1)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert set() == run_virtual(lambda: cancel_after(ticks))


async def test_each_of_many_items_may_fail() -> None:
    """Of 3,000 items 2,000 are null, with an error for each."""
    query = "{ posts(count: 3000) { sureAuthor { id } } }"

    result = await PREFETCHING.execute(query)

    assert 2000 == len(result.errors)
    assert 1000 == sum(post is not None for post in result.data["posts"])


# -- with other ways of execution


async def test_errors_one_after_the_other_do_not_look_at_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error in each of 300 items, one in a tick, makes nobody go through all items each time."""
    entered = 0
    enter = _prefetch._Filling._enter

    def count(*args: Any) -> None:
        nonlocal entered
        entered += 1
        enter(*args)

    monkeypatch.setattr(_prefetch._Filling, "_enter", count)
    loop = asyncio.get_running_loop()

    def after(ticks: int, value: Any) -> Any:
        future: asyncio.Future[Any] = loop.create_future()

        def step(ticks: int) -> None:
            if ticks:
                loop.call_soon(step, ticks - 1)
            elif not future.done():
                if isinstance(value, Exception):
                    future.set_exception(value)
                else:
                    future.set_result(value)

        loop.call_soon(step, ticks)
        return future

    @strawberry.type
    class Inner:
        @strawberry.field
        def number(self) -> int:
            return after(1000, 1)  # type: ignore[no-any-return]

    @strawberry.type
    class Item:
        ticks: strawberry.Private[int]

        @strawberry.field
        def number(self) -> int:
            return after(self.ticks, ValueError("lost"))  # type: ignore[no-any-return]

        @strawberry.field
        def inner(self) -> Inner:
            return after(self.ticks, Inner())  # type: ignore[no-any-return]

    @strawberry.type
    class Root:
        @strawberry.field
        def items(self) -> list[Item | None]:
            return [Item(ticks=n) for n in range(300)]

    schema = strawberry.Schema(Root, execution_context_class=PrefetchingExecutionContext)
    result = await schema.execute("{ items { inner { number } number } }")

    assert 300 == len(result.errors or ())
    assert entered < 300 * 10


async def test_deferred_and_streamed_parts_are_the_same() -> None:
    """Each frame of @defer and @stream has what it has without the executor."""
    config = StrawberryConfig(enable_experimental_incremental_execution=True)
    query = """{ posts(count: 4) @stream(initialCount: 2) {
        author { id } ... @defer { slowAuthor { friend { id } } }
    } }"""
    frames = []
    for execution_context_class in (None, PrefetchingExecutionContext):
        result = await make_schema(execution_context_class, config=config).execute(query)
        rest = [part async for part in result.subsequent_results]
        items = [item for part in rest for item in part.incremental or ()]
        frames.append((result.initial_result.data, sorted(map(str, items))))

    assert 4 + 2 == len(frames[0][1])
    assert frames[0] == frames[1]


async def test_an_event_is_not_kept_by_its_subscription() -> None:
    """What an event was is let go with the next one, though the subscription goes on."""
    seen: list[weakref.ref[Post]] = []

    @strawberry.type
    class Events:
        @strawberry.subscription
        async def posts(self) -> AsyncGenerator[Post, None]:
            for number in range(4):
                post = Post(id=number, author_id=number)
                seen.append(weakref.ref(post))
                yield post
                del post

    schema = strawberry.Schema(
        Query,
        subscription=Events,
        extensions=[DataLoaderExtension],
        execution_context_class=PrefetchingExecutionContext,
    )
    answers = await schema.subscribe("subscription { posts { author { id } } }")
    for _ in range(3):
        await anext(answers)
    gc.collect()

    assert [None, None] == [each() for each in seen[:2]]
    await answers.aclose()


async def test_each_event_of_a_subscription_is_prefetched() -> None:
    """A subscription's events have their loaded fields, a batch for each event."""
    events = []
    with BatchRecorder() as recorder:
        async for result in await PREFETCHING.subscribe(
            "subscription { events { author { id } } }"
        ):
            events.append([post["author"]["id"] for post in result.data["events"]])

    assert [[0, 1], [1, 2]] == events
    assert [("users", [0, 1]), ("users", [1, 2])] == recorder.plan


async def test_extensions_that_watch_resolvers_see_every_field() -> None:
    """A schema extension with a `resolve` hook is called for loaded fields too."""
    seen = []

    class Watch(SchemaExtension):
        def resolve(self, next_: Callable[..., Any], root: Any, info: Any, **kwargs: Any) -> Any:
            seen.append(info.field_name)
            return next_(root, info, **kwargs)

    schema = make_schema(PrefetchingExecutionContext, extensions=[Watch])

    result = await schema.execute("{ posts(count: 2) { author { id } } }")

    assert [{"author": {"id": 0}}, {"author": {"id": 1}}] == result.data["posts"]
    assert 2 == seen.count("author")


async def test_a_wrapped_resolver_is_called() -> None:
    """What somebody puts around a field's resolver is not passed by."""
    schema = make_schema(PrefetchingExecutionContext)
    field = schema._schema.get_type("Post").fields["author"]
    resolve: Callable[..., Awaitable[Any]] = field.resolve
    called = []

    def wrapped(source: Any, info: Any) -> Any:
        called.append(source.id)
        return resolve(source, info)

    field.resolve = wrapped

    await schema.execute("{ posts { author { id } } }")

    assert [0, 1, 2] == called


def test_items_that_are_awaitable_themselves_are_the_same() -> None:
    """A list may hold posts and coroutines of posts, and their fields are loaded together."""

    async def late(number: int) -> Post:
        return Post(id=number, author_id=number)

    @strawberry.type
    class Root:
        @strawberry.field
        def posts(self) -> list[Post]:
            found: Any = [Post(id=1, author_id=1), late(2), Post(id=3, author_id=3), late(4)]
            return found

    schema = strawberry.Schema(
        Root,
        extensions=[DataLoaderExtension],
        execution_context_class=PrefetchingExecutionContext,
    )
    outcome = Outcome(schema, "{ posts { author { id } } }")

    assert [{"author": {"id": n}} for n in (1, 2, 3, 4)] == outcome.data["posts"]
    assert [("users", [1, 3, 2, 4])] == outcome.batches


def test_keys_are_found_as_resolvers_find_them() -> None:
    """The schema's own way to read an attribute and functions of the parent give keys too."""

    @strawberry.type
    class Letter:
        author_id: strawberry.Private[int | None]
        author: User | None = load_from(users, by="author_id")
        other: User | None = load_from(users, by=lambda letter: 7)

    @strawberry.type
    class Root:
        @strawberry.field
        def letters(self) -> list[Letter]:
            found: Any = [{"author_id": 1}, {"author_id": None}]
            return found

    schema = strawberry.Schema(
        Root,
        extensions=[DataLoaderExtension],
        execution_context_class=PrefetchingExecutionContext,
        config=StrawberryConfig(default_resolver=dict.__getitem__),
    )
    outcome = Outcome(schema, "{ letters { author { __typename } other { __typename } } }")

    there = {"__typename": "User"}
    assert [{"author": there, "other": there}, {"author": None, "other": there}] == (
        outcome.data["letters"]
    )
    assert [("users", [1, 7])] == outcome.batches


# -- another graphql-core


def test_what_is_unexpected_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of graphql-core with other parameters is found, and so is another version."""
    assert _prefetch._what_is_unexpected() is None

    with monkeypatch.context() as patch:
        patch.setattr(_prefetch.Executor, "execute_fields", lambda self, other: None)
        assert (_prefetch._what_is_unexpected() or "").endswith(
            "has Executor.execute_fields(other)"
        )
    with monkeypatch.context() as patch:
        patch.setattr(_prefetch, "version", lambda name: "4.0.1")
        assert "it was tested with graphql-core 3.3, and 4.0.1 is installed" == (
            _prefetch._what_is_unexpected()
        )


def test_the_ordinary_way_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has one warning, however many operations are executed."""
    monkeypatch.setattr(_prefetch, "_unexpected", "it is another one")
    _prefetch._warn_once.cache_clear()

    with caplog.at_level(logging.WARNING, "dataloader_cache"):
        for _ in range(2):
            Outcome(PREFETCHING, "{ posts { id } }")
    _prefetch._warn_once.cache_clear()

    assert [
        "PrefetchingExecutionContext leaves every field to graphql-core: it is another one"
    ] == [record.getMessage() for record in caplog.records]
