"""The life of a request, job or event, and of its loaders: O1 to O4, and D6 and D7 in a scope."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Context, ContextVar
from typing import Any

import pytest

from dataloader_cache import UNSET, DataLoader, LoaderScope, dataloader
from dataloader_cache.errors import (
    ConfigurationError,
    LoadCancelledError,
    LoaderClosedError,
    LoopError,
    NoScopeError,
)
from dataloader_cache.testing import BatchRecorder, run_virtual

GUARD = 20.0  # seconds; reached only where a test would otherwise hang for ever

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def ticks(count: int) -> None:
    """Let `count` turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(awaitable: Any) -> Any:
    """Wait for `awaitable`, but not for ever."""
    return await asyncio.wait_for(awaitable, GUARD)


async def until(condition: Callable[[], Any], limit: int = 500) -> None:
    """Wait some ticks until `condition` holds."""
    for _ in range(limit):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail(f"not reached within {limit} ticks")


async def outcomes(*awaitables: Any) -> list[Any]:
    """Wait for all and give each one's value or error."""
    futures = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await asyncio.wait(futures, timeout=GUARD)
    assert all(future.done() for future in futures), "a waiter hangs"
    assert not any(future.cancelled() for future in futures), "a waiter was cancelled"
    return [future.exception() or future.result() for future in futures]


async def take(iterator: AsyncIterator[Any]) -> Any:
    """Take the next event; for a task of its own."""
    return await anext(iterator)


def in_no_context(coroutine: Any) -> asyncio.Task[Any]:
    """Run a coroutine in a task that inherits no context variable."""
    return Context().run(asyncio.get_running_loop().create_task, coroutine)


def tenfold(plan: list[list[Any]], **options: Any) -> Any:
    """Declare a loader that adds each batch to `plan` and answers a key with ten times itself."""

    async def users(keys: list[Any]) -> list[Any]:
        plan.append(list(keys))
        await asyncio.sleep(0)
        return [key * 10 for key in keys]

    return dataloader(**options)(users)


class Broken(Exception):
    """What a body fails with."""


class Value:
    """A value that can be watched while it goes away."""


class Gate:
    """A batch function whose every call waits until the test answers it."""

    def __init__(self) -> None:
        self.plan: list[list[Any]] = []
        self.answers: list[asyncio.Future[Any]] = []
        self.cancelled = 0

    def declare(self, **options: Any) -> Any:
        """Declare a loader with this batch function."""

        async def users(keys: list[Any]) -> list[Any]:
            return await self.load_fn(keys)

        return dataloader(**options)(users)

    async def load_fn(self, keys: list[Any]) -> Any:
        self.plan.append(list(keys))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def running(self, count: int = 1) -> None:
        """Wait until `count` calls have been made."""
        await until(lambda: len(self.answers) >= count)

    def answer(self, number: int = 0) -> None:
        """Answer a call with ten times its keys."""
        self.answers[number].set_result([key * 10 for key in self.plan[number]])


class Session:
    """A limiter of one place, which knows how many were inside at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.inside = self.most = 0

    async def __aenter__(self) -> None:
        await self.lock.acquire()
        self.inside += 1

    async def __aexit__(self, *_: object) -> None:
        self.inside -= 1
        self.lock.release()


# The current scope


@pytest.mark.parametrize("kind", ["with", "async with"])
async def test_o3_an_entered_scope_is_current(kind: str):
    """A scope is the current one from its entry to its exit."""
    scope = LoaderScope()
    assert LoaderScope.current(None) is None
    if kind == "with":
        with scope as entered:
            assert scope is entered
            assert scope is LoaderScope.current()
    else:
        async with scope as entered:
            assert scope is entered
            assert scope is LoaderScope.current()
    assert LoaderScope.current(None) is None


def test_o2_current_without_a_scope_says_how_to_open_one():
    """Where no scope is open, `current()` raises an error that shows the remedy."""
    with pytest.raises(NoScopeError, match=r"LoaderScope\("):
        LoaderScope.current()


def test_o2_current_gives_its_default_without_a_scope():
    """`current(default)` raises nothing and gives the default, whatever it is."""
    assert LoaderScope.current(None) is None
    assert "none" == LoaderScope.current("none")


def test_o2_a_closed_scope_is_not_current():
    """The scope that was closed is not given as the current one, though its block goes on."""
    with LoaderScope() as scope:
        scope.close()
        assert LoaderScope.current(None) is None
        with pytest.raises(NoScopeError, match="closed"):
            LoaderScope.current()


@pytest.mark.parametrize("kind", ["with", "async with"])
async def test_o3_leaving_a_nested_scope_makes_the_outer_one_current_again(kind: str):
    """Scopes nest: the inner one hides the outer one, no longer than it is open."""
    with LoaderScope() as outer:
        if kind == "with":
            with LoaderScope() as inner:
                assert inner is LoaderScope.current()
        else:
            async with LoaderScope() as inner:
                assert inner is LoaderScope.current()
        assert outer is LoaderScope.current()
        assert (False, True) == (outer.is_closed, inner.is_closed)


async def test_o3_a_scope_that_was_closed_inside_is_left_all_the_same():
    """Leaving a scope that was closed before makes the outer one current again."""
    with LoaderScope() as outer:
        async with LoaderScope() as inner:
            await inner.aclose()
        assert outer is LoaderScope.current()


@pytest.mark.parametrize("kind", ["with", "async with"])
async def test_o3_leaving_closes(kind: str):
    """A scope is open inside its block and closed behind it."""
    scope = LoaderScope()
    if kind == "with":
        with scope:
            assert not scope.is_closed
    else:
        async with scope:
            assert not scope.is_closed
    assert scope.is_closed


@pytest.mark.parametrize("kind", ["with", "async with"])
async def test_o3_an_exception_leaves_the_scope_unchanged(kind: str):
    """What the block raises comes out as it is, and the scope is closed."""
    scope = LoaderScope()
    broken = Broken()
    with pytest.raises(Broken) as caught:
        if kind == "with":
            with scope:
                raise broken
        else:
            async with scope:
                raise broken
    assert broken is caught.value
    assert scope.is_closed
    assert LoaderScope.current(None) is None


@pytest.mark.parametrize("first", ["with", "async with"])
@pytest.mark.parametrize("second", ["with", "async with"])
async def test_a_scope_is_entered_once(first: str, second: str):
    """Entering a scope again, open or closed, is an error; the first entry goes on."""
    scope = LoaderScope()
    with contextlib.ExitStack() as plain:
        async with contextlib.AsyncExitStack() as stack:
            if first == "with":
                plain.enter_context(scope)
            else:
                await stack.enter_async_context(scope)
            with pytest.raises(NoScopeError):
                if second == "with":
                    scope.__enter__()
                else:
                    await scope.__aenter__()
            assert scope is LoaderScope.current()
            assert not scope.is_closed
    with pytest.raises(NoScopeError):
        if second == "with":
            scope.__enter__()
        else:
            await scope.__aenter__()
    assert LoaderScope.current(None) is None


async def test_a_scope_that_was_not_entered_has_no_loaders():
    """A scope gives loaders from its entry on, since batches run in the context of that."""
    users = tenfold([])
    scope = LoaderScope()
    with pytest.raises(NoScopeError, match="entered"):
        scope[users]
    async with scope:
        assert 10 == await within(scope[users].load(1))


async def test_a_scope_that_was_closed_before_is_not_entered():
    """A scope that was closed before it was entered is not opened any more."""
    scope = LoaderScope()
    scope.close()
    with pytest.raises(NoScopeError, match="closed"), scope:
        pass
    assert LoaderScope.current(None) is None


def test_a_scope_needs_no_loop_to_open():
    """A scope opened around `asyncio.run` serves the coroutines in it."""
    plan: list[list[int]] = []
    users = tenfold(plan)

    async def main() -> int:
        return await users.load(1)

    with LoaderScope():
        assert 10 == asyncio.run(main())
    assert [[1]] == plan


# Where a scope reaches: O2


async def test_o2_tasks_inherit_the_scope():
    """A task started in a scope loads through the scope's loaders, in the same batch."""
    plan: list[list[int]] = []
    users = tenfold(plan)

    async def load(key: int) -> int:
        return await users.load(key)

    async with LoaderScope():
        tasks = [asyncio.create_task(load(key)) for key in (1, 2, 1)]
        assert [10, 20, 10] == await outcomes(*tasks)
    assert [[1, 2]] == plan


async def test_o2_to_thread_carries_the_scope():
    """A function that `asyncio.to_thread` runs is in its caller's scope."""
    users = tenfold([])
    async with LoaderScope() as scope:
        await within(users.load(1))
        assert scope is await asyncio.to_thread(LoaderScope.current)
        assert 10 == await asyncio.to_thread(users.peek, 1)


async def test_o2_run_in_executor_does_not_carry_the_scope():
    """A function that `run_in_executor` runs is in no scope."""
    users = tenfold([])
    async with LoaderScope():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, LoaderScope.current, None) is None
        with pytest.raises(NoScopeError):
            await loop.run_in_executor(None, users.peek, 1)


async def test_o2_another_context_has_no_scope():
    """A task that does not inherit the context is in no scope."""

    async def current() -> Any:
        return LoaderScope.current(None)

    async with LoaderScope():
        assert await in_no_context(current()) is None


async def test_o2_loading_outside_a_scope_says_how_to_open_one():
    """The error of a load outside a scope names the loader and the remedy."""
    users = tenfold([])
    with pytest.raises(NoScopeError, match=r"'users'.*LoaderScope\("):
        users.load(1)


async def test_o2_loading_in_a_closed_scope_says_that_it_was_closed():
    """A task that outlives its scope is told that the scope was closed, and loads nothing."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    go = asyncio.Event()

    async def late() -> int:
        await go.wait()
        return await users.load(1)

    async with LoaderScope():
        task = asyncio.create_task(late())
        await ticks(3)
    go.set()

    (error,) = await outcomes(task)
    assert isinstance(error, NoScopeError)
    assert "'users'" in str(error)
    assert "closed" in str(error)
    assert [] == plan


async def test_o2_a_task_that_outlives_an_inner_scope_does_not_fall_back():
    """A closed scope is not replaced by the one around it, which has another life."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    go = asyncio.Event()

    async def late() -> int:
        await go.wait()
        return await users.load(1)

    async with LoaderScope():
        async with LoaderScope():
            task = asyncio.create_task(late())
            await ticks(3)
        go.set()
        assert [NoScopeError] == [type(error) for error in await outcomes(task)]
    assert [] == plan


async def test_o2_a_task_that_outlives_the_scope_may_open_its_own():
    """A task of a closed scope loads in a scope that it opens itself."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    go = asyncio.Event()

    async def late() -> int:
        await go.wait()
        async with LoaderScope():
            return await users.load(1)

    async with LoaderScope():
        task = asyncio.create_task(late())
        await ticks(3)
    go.set()

    assert [10] == await outcomes(task)


async def test_o2_a_task_that_outlives_the_scope_is_where_it_was_after_its_own():
    """Behind a scope that a late task has opened, its old scope is still closed and none other."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    go = asyncio.Event()

    async def late() -> int:
        await go.wait()
        async with LoaderScope():
            pass
        return await users.load(1)

    async with LoaderScope():
        async with LoaderScope():
            task = asyncio.create_task(late())
            await ticks(3)
        go.set()
        (error,) = await outcomes(task)
    assert isinstance(error, NoScopeError)
    assert "closed" in str(error)
    assert [] == plan


# Loaders of a scope


async def test_o1_loaders_are_made_on_first_use():
    """Opening a scope makes no loader; the first load makes the one that it needs."""

    def loaders() -> int:
        # By type(): a proxy among the objects may say anything of its class.
        return sum(issubclass(type(thing), DataLoader) for thing in gc.get_objects())

    users = tenfold([])
    tenfold([])
    gc.collect()
    before = loaders()
    async with LoaderScope():
        assert before == loaders()
        waiting = users.load(1)
        assert before + 1 == loaders()
        await within(waiting)


async def test_a_scope_gives_the_same_loader_each_time():
    """`scope[users]` is the DataLoader that `users.load` uses: one memo, one batch."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    async with LoaderScope() as scope:
        loader = scope[users]
        assert isinstance(loader, DataLoader)
        assert [10, 20] == await outcomes(users.load(1), loader.load(2))
        assert loader is scope[users]
        assert 10 == loader.peek(1)
    assert [[1, 2]] == plan


async def test_each_factory_has_a_loader_of_its_own():
    """Two factories of one function and one name share no memo and no batch."""
    plan: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        plan.append(list(keys))
        return keys

    one, other = dataloader(load_fn), dataloader(load_fn)
    async with LoaderScope() as scope:
        await outcomes(one.load(1), other.load(1))
        assert scope[one] is not scope[other]
    assert [[1], [1]] == plan


@pytest.mark.parametrize("key", ["users", 1, None, dataloader])
async def test_a_scope_has_loaders_of_factories_only(key: Any):
    """What is no factory has no loader: a TypeError says what came."""
    with LoaderScope() as scope, pytest.raises(TypeError, match="loader factor"):
        scope[key]


async def test_o3_scopes_do_not_share_what_they_load():
    """What one scope has loaded the next one asks for again."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    for _ in range(2):
        async with LoaderScope():
            assert [10, 10] == [await users.load(1), await users.load(1)]
    assert [[1], [1]] == plan


async def test_o3_batches_of_different_scopes_never_mix():
    """Loads of two requests in the same tick are two batches."""
    plan: list[list[int]] = []
    users = tenfold(plan)

    async def request(*keys: int) -> list[int]:
        async with LoaderScope():
            return await users.load_many(keys)

    assert [[10, 20], [20, 30]] == await outcomes(request(1, 2), request(2, 3))
    assert [[1, 2], [2, 3]] == plan


async def test_o3_a_nested_scope_shares_nothing_with_the_outer_one():
    """Loaders of the inner scope are other ones than those of the outer scope."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    async with LoaderScope() as outer:
        await within(users.load(1))
        async with LoaderScope() as inner:
            assert inner[users] is not outer[users]
            waiting = users.load(1)
            explicit = outer[users].load(2)
            assert [10, 20] == await outcomes(waiting, explicit)
        assert [10, 20] == [users.peek(1), users.peek(2)]
    assert [[1], [1], [2]] == plan


async def test_a_nested_scope_has_its_own_context():
    """The context of the outer scope is not that of the inner one."""
    with LoaderScope(context="outer"), LoaderScope() as inner:
        assert inner.context is UNSET


async def test_a_recorder_names_the_loaders():
    """A recorded plan has the factories' names, and each scope's batches in their order."""
    users, teams = tenfold([]), tenfold([], name="teams")
    with BatchRecorder() as recorder:
        async with LoaderScope():
            await outcomes(users.load(1), teams.load(7), users.load(2))
        async with LoaderScope():
            await within(users.load(1))
    assert [("users", [1, 2]), ("teams", [7]), ("users", [1])] == recorder.plan


# The context


def test_the_context_is_unset_until_it_is_given():
    """A scope without a context has UNSET there, which is not None."""
    assert LoaderScope().context is UNSET
    assert LoaderScope(None).context is None
    assert "request" == LoaderScope("request").context
    assert "request" == LoaderScope(context="request").context


async def test_the_context_is_the_second_parameter():
    """A batch function of two parameters gets the keys and its scope's context."""
    seen: list[Any] = []

    @dataloader
    async def users(keys: list[int], context: Any) -> list[int]:
        seen.append(context)
        return keys

    request = object()
    async with LoaderScope(context=request):
        await within(users.load(1))
    async with LoaderScope(context=None):
        await within(users.load(1))
    assert [request, None] == seen


async def test_a_context_may_be_set_later():
    """A context that is set after the scope was opened is what factories get."""
    seen: list[Any] = []

    @dataloader
    async def users(keys: list[int], context: Any) -> list[int]:
        seen.append(context)
        return keys

    async with LoaderScope() as scope:
        scope.context = "set later"
        assert "set later" == scope.context
        await within(users.load(1))
    assert ["set later"] == seen


async def test_a_context_that_is_unset_is_asked_for():
    """A loader that takes the context, in a scope without one, says how to give it."""

    @dataloader
    async def users(keys: list[int], context: Any) -> list[int]:
        return keys

    async with LoaderScope():
        with pytest.raises(NoScopeError, match=r"'users'.*LoaderScope\(context="):
            await within(users.load(1))


async def test_a_context_that_was_missing_can_still_be_given():
    """A load that failed for want of a context works once there is one."""

    @dataloader
    async def users(keys: list[int], context: Any) -> list[Any]:
        return [(key, context) for key in keys]

    async with LoaderScope() as scope:
        with pytest.raises(NoScopeError):
            await within(users.load(1))
        scope.context = "request"
        assert (1, "request") == await within(users.load(1))


# Context variables: D7


async def test_d7_a_batch_sees_the_variables_of_where_the_scope_was_entered():
    """Whoever loads, and wherever the loader is first used, the scope's entry counts."""
    seen: list[str] = []

    @dataloader
    async def users(keys: list[int]) -> list[int]:
        seen.append(tenant.get())
        return keys

    async def load(key: int, name: str) -> None:
        tenant.set(name)
        await users.load(key)

    tenant.set("made")
    scope = LoaderScope()
    tenant.set("entered")
    async with scope:
        tenant.set("inside")
        await within(asyncio.gather(load(1, "ann"), load(2, "ben")))
        await load(3, "cid")
    assert ["entered", "entered"] == seen


async def test_d7_a_loader_of_the_outer_scope_runs_where_that_was_entered():
    """An explicit load on the outer scope, from the inner one, runs in the outer one's context."""
    seen: list[Any] = []

    @dataloader
    async def users(keys: list[int]) -> list[int]:
        seen.append((tenant.get(), LoaderScope.current(None)))
        return keys

    tenant.set("outer")
    async with LoaderScope() as outer:
        tenant.set("inner")
        async with LoaderScope() as inner:
            await within(outer[users].load(1))
            await within(users.load(1))
    assert [("outer", outer), ("inner", inner)] == seen


async def test_d7_what_a_batch_sets_reaches_no_other_batch():
    """Each batch runs in a copy of its own."""
    seen: list[str] = []

    @dataloader
    async def users(keys: list[int]) -> list[int]:
        seen.append(tenant.get())
        tenant.set("set by a batch")
        return keys

    async with LoaderScope():
        await within(users.load(1))
        await within(users.load(2))
        assert "nobody" == tenant.get()
    assert ["nobody", "nobody"] == seen


async def test_d7_a_scope_is_current_in_its_batches():
    """A batch function is in the scope of its loader, also when it is called from elsewhere."""
    seen: list[Any] = []

    @dataloader
    async def users(keys: list[int]) -> list[int]:
        seen.append(LoaderScope.current(None))
        return keys

    async def load(scope: LoaderScope) -> None:
        await scope[users].load(1)

    async with LoaderScope() as scope:
        await within(in_no_context(load(scope)))
    assert [scope] == seen


# Loaders that use loaders


async def test_a_batch_function_loads_through_other_factories_of_its_scope():
    """What a batch function loads is batched, and remembered for the whole scope."""
    plan: list[list[int]] = []
    users = tenfold(plan)

    @dataloader
    async def posts(keys: list[int]) -> list[int]:
        return [value + 1 for value in await users.load_many([key % 2 for key in keys])]

    async with LoaderScope():
        assert [11, 1, 11] == await outcomes(*map(posts.load, [1, 2, 3]))
        assert 10 == users.peek(1)
        assert [10, 20] == await outcomes(users.load(1), users.load(2))
    assert [[1, 0], [2]] == plan


async def test_d6_a_recursion_works_with_a_limit_of_one():
    """A loader that loads its keys' parents through itself runs them inside its own slot."""
    plan: list[list[int]] = []
    session = Session()

    @dataloader
    async def depth(keys: list[int]) -> list[int]:
        assert 1 == session.inside
        plan.append(list(keys))
        parents = [key // 2 for key in keys if key]
        above = dict(zip(parents, await depth.load_many(parents)))
        return [above[key // 2] + 1 if key else 0 for key in keys]

    async with LoaderScope(limiter=session):
        assert [4, 4] == await outcomes(depth.load(8), depth.load(9))
    assert [[8, 9], [4], [2], [1], [0]] == plan
    assert 0 == session.inside


async def test_d6_loaders_that_use_each_other_work_with_a_limit_of_one():
    """With `Semaphore(1)` a batch that the holder of the slot waits for runs in that slot."""
    users = tenfold([])

    @dataloader
    async def teams(keys: list[int]) -> list[int]:
        return [sum(await users.load_many([key, key + 1])) for key in keys]

    @dataloader
    async def posts(keys: list[int]) -> list[int]:
        return await teams.load_many(keys)

    async with LoaderScope(limiter=asyncio.Semaphore(1)):
        found = await outcomes(posts.load(1), teams.load(2), users.load(3))
    assert [30, 50, 30] == found


# The limiter: O4


async def measured(scope_limiter: Any, **options: Any) -> int:
    """Load through three factories at once, and tell how many batches ran at a time."""
    inside = most = 0

    def declare(name: str) -> Any:
        async def load_fn(keys: list[int]) -> list[int]:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await ticks(5)
            inside -= 1
            return keys

        return dataloader(name=name, **options)(load_fn)

    factories = [declare(name) for name in ("users", "posts", "teams")]
    async with LoaderScope(limiter=scope_limiter):
        assert [1, 1, 1] == await outcomes(*(factory.load(1) for factory in factories))
    return most


async def test_o4_a_limiter_of_one_serialises_all_loaders_of_the_scope():
    """With a limit of one no two batches of a scope run at a time, whichever their loaders."""
    assert 3 == await measured(None)
    assert 2 == await measured(asyncio.Semaphore(2))
    assert 1 == await measured(asyncio.Semaphore(1))
    assert 1 == await measured(asyncio.Lock())


async def test_o4_the_factory_s_own_limiter_counts_too():
    """A batch runs inside both limiters, the factory's own and the scope's."""
    assert 1 == await measured(asyncio.Semaphore(2), limiter=asyncio.Semaphore(1))
    assert 1 == await measured(asyncio.Semaphore(1), limiter=asyncio.Semaphore(2))


async def test_o4_the_same_limiter_for_both_is_taken_once():
    """A batch takes one slot of a limiter, also where factory and scope have the same one."""
    semaphore = asyncio.Semaphore(2)
    gate = Gate()
    users, posts = gate.declare(limiter=semaphore), gate.declare(limiter=semaphore)
    async with LoaderScope(limiter=semaphore):
        first = users.load(1)
        await gate.running(1)
        await ticks(5)
        second = posts.load(2)
        await gate.running(2)
        gate.answer(0)
        gate.answer(1)
        assert [10, 20] == await outcomes(first, second)
    await until(lambda: not semaphore.locked())


async def test_o4_scopes_with_limiters_of_their_own_do_not_wait_for_each_other():
    """A request that holds its session's slot keeps no other request waiting."""
    gate = Gate()
    users = gate.declare()

    async def request(key: int) -> int:
        async with LoaderScope(limiter=asyncio.Semaphore(1)):
            return await users.load(key)

    first, second = asyncio.create_task(request(1)), asyncio.create_task(request(2))
    await gate.running(2)
    gate.answer(1)
    assert [20] == await outcomes(second)
    assert not first.done()
    gate.answer(0)
    assert [10] == await outcomes(first)


async def test_o4_a_closed_scope_gives_its_slot_back():
    """Neither the running batch of a closed scope nor one that queued keeps a slot."""
    gate = Gate()
    users, posts = gate.declare(), gate.declare(name="posts")
    session = Session()
    async with LoaderScope(limiter=session):
        waiting = [users.load(1), posts.load(2)]
        await gate.running(1)
        assert 1 == session.inside
    await outcomes(*waiting)
    await until(lambda: session.inside == 0)
    assert [[1]] == gate.plan
    async with LoaderScope(limiter=session):
        again = users.load(3)
        await gate.running(2)
        gate.answer(1)
        assert [30] == await outcomes(again)


@pytest.mark.parametrize("limiter", [1, threading.Lock(), asyncio.Semaphore, "session"])
def test_o4_what_is_no_async_context_manager_is_refused(limiter: Any):
    """A limiter that can't be entered is refused where the scope is made."""
    with pytest.raises(ConfigurationError, match="limiter"):
        LoaderScope(limiter=limiter)


# Closing: O3


@pytest.mark.parametrize("kind", ["with", "async with", "close", "aclose"])
async def test_o3_closing_settles_the_waiters_of_an_open_batch(kind: str):
    """A batch that has not left is never sent, and its waiters get LoadCancelledError."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    if kind == "with":
        with LoaderScope():
            waiting = [users.load(1), users.load(1), users.load_many([1, 2])]
    elif kind == "async with":
        async with LoaderScope():
            waiting = [users.load(1), users.load(1), users.load_many([1, 2])]
    else:
        async with LoaderScope() as scope:
            waiting = [users.load(1), users.load(1), users.load_many([1, 2])]
            if kind == "close":
                scope.close()
            else:
                await scope.aclose()
            assert all(waiter.done() for waiter in waiting)

    assert all(waiter.done() for waiter in waiting)
    assert [LoadCancelledError] * 3 == [type(error) for error in await outcomes(*waiting)]
    await ticks(20)
    assert [] == plan


@pytest.mark.parametrize("kind", ["with", "async with", "close", "aclose"])
async def test_o3_closing_cancels_a_running_batch(kind: str):
    """A running batch function is cancelled, and its waiters get LoadCancelledError."""
    gate = Gate()
    users = gate.declare()
    if kind == "with":
        with LoaderScope():
            waiting = [users.load(1), users.load_many([1, 2])]
            await gate.running()
    elif kind == "async with":
        async with LoaderScope():
            waiting = [users.load(1), users.load_many([1, 2])]
            await gate.running()
    else:
        async with LoaderScope() as scope:
            waiting = [users.load(1), users.load_many([1, 2])]
            await gate.running()
            if kind == "close":
                scope.close()
            else:
                await scope.aclose()

    assert all(waiter.done() for waiter in waiting)
    errors = await outcomes(*waiting)
    assert [LoadCancelledError] * 2 == [type(error) for error in errors]
    assert all("'users'" in str(error) for error in errors)
    await until(lambda: gate.cancelled)
    assert ([[1, 2]], 1) == (gate.plan, gate.cancelled)


async def test_o3_closing_settles_a_batch_that_queues_for_the_limiter():
    """A batch that waits for its slot is never run, and its waiters get LoadCancelledError."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    semaphore = asyncio.Semaphore(1)
    await semaphore.acquire()
    async with LoaderScope(limiter=semaphore):
        waiting = users.load(1)
        await ticks(20)
        assert not waiting.done()
    semaphore.release()
    assert [LoadCancelledError] == [type(error) for error in await outcomes(waiting)]
    await ticks(20)
    assert [] == plan
    assert not semaphore.locked()


async def test_o3_closing_ends_a_batch_that_waits_for_another():
    """A batch function that waits for another loader of the scope is cancelled with it."""
    gate = Gate()
    users = gate.declare()
    ended: list[type] = []

    @dataloader
    async def posts(keys: list[int]) -> list[int]:
        try:
            return await users.load_many(keys)
        except BaseException as error:
            ended.append(type(error))
            raise

    async with LoaderScope():
        waiting = posts.load(1)
        await gate.running()
    assert [LoadCancelledError] == [type(error) for error in await outcomes(waiting)]
    assert 1 == gate.cancelled
    assert 1 == len(ended)
    assert ended[0] in (asyncio.CancelledError, LoadCancelledError)


async def test_o3_closing_one_scope_leaves_the_batches_of_others_alone():
    """Each scope cancels its own flights only, nested or beside."""
    gate = Gate()
    users = gate.declare()
    async with LoaderScope():
        outer = users.load(1)
        await gate.running(1)
        async with LoaderScope():
            inner = users.load(1)
            await gate.running(2)
        assert [LoadCancelledError] == [type(error) for error in await outcomes(inner)]
        gate.answer(0)
        assert [10] == await outcomes(outer)
    assert 1 == gate.cancelled


async def test_o3_what_was_loaded_before_stays_with_its_caller():
    """A waiter that has its value keeps it when the scope closes."""
    users = tenfold([])
    async with LoaderScope():
        waiting = users.load(1)
        await until(waiting.done)
    assert 10 == waiting.result()


@pytest.mark.parametrize("kind", ["with", "async with"])
async def test_o3_a_body_that_fails_closes_its_batches(kind: str):
    """A block that raises cancels what it has left running."""
    gate = Gate()
    users = gate.declare()
    waiting: list[Any] = []
    with pytest.raises(Broken):
        if kind == "with":
            with LoaderScope():
                waiting.append(users.load(1))
                await gate.running()
                raise Broken
        else:
            async with LoaderScope():
                waiting.append(users.load(1))
                await gate.running()
                raise Broken
    assert [LoadCancelledError] == [type(error) for error in await outcomes(*waiting)]
    await until(lambda: gate.cancelled)


async def test_o3_waiters_that_nobody_awaits_make_no_more_than_one_report():
    """Closing over a batch of which no result is awaited is reported once at most."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    users = tenfold([])
    async with LoaderScope():
        for key in range(50):
            users.load(key)
    gc.collect()
    await ticks(3)
    assert 1 >= len(reports)


async def test_o3_waiters_that_have_gone_make_no_report():
    """Closing over loads whose callers were cancelled reports nothing."""
    gate = Gate()
    users = gate.declare()
    async with LoaderScope():
        waiting = [users.load(key) for key in range(5)]
        await gate.running()
        waiting += [users.load(key) for key in range(5, 10)]
        for waiter in waiting:
            waiter.cancel()
    # The fixture no_unexpected_reports looks.
    await until(lambda: gate.cancelled)


async def test_closing_twice_is_fine():
    """A scope can be closed as often as one likes, in either way."""
    async with LoaderScope() as scope:
        scope.close()
        scope.close()
        await within(scope.aclose())
        assert scope.is_closed
    await within(scope.aclose())


def test_a_scope_closes_without_a_loop():
    """Where nothing runs, closing needs no event loop."""
    scope = LoaderScope()
    scope.close()
    assert scope.is_closed


async def test_a_closed_scope_gives_no_loader():
    """`scope[users]` of a closed scope raises, for loaders that it had and for new ones."""
    users, posts = tenfold([]), tenfold([], name="posts")
    async with LoaderScope() as scope:
        await within(users.load(1))
    for factory in (users, posts):
        with pytest.raises(NoScopeError, match="closed"):
            scope[factory]


async def test_a_loader_of_a_closed_scope_is_closed():
    """A loader that somebody has kept loads nothing when its scope is closed."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    async with LoaderScope() as scope:
        loader = scope[users]
        await within(loader.load(1))
    for key in (1, 2):
        with pytest.raises(LoaderClosedError, match="'users'"):
            loader.load(key)
    assert [[1]] == plan


async def test_a_closed_scope_makes_no_loader_for_new_args():
    """What `scope[factory]` gave for a factory with args gives nothing once the scope is closed."""

    @dataloader(args=str)
    async def prices(keys: list[int], args: str) -> list[int]:
        return keys

    async with LoaderScope() as scope:
        loaders = scope[prices]
        await within(loaders("EUR").load(1))
    for args in ("EUR", "USD"):
        with pytest.raises((NoScopeError, LoaderClosedError), match="closed"):
            loaders(args).load(2)


async def test_a_batch_function_that_is_cancelled_by_closing_loads_no_more():
    """What a batch function tries to load while its scope closes is refused, and does not hang."""
    gate = Gate()
    users = gate.declare()
    errors: list[Exception] = []

    @dataloader
    async def posts(keys: list[int]) -> list[int]:
        try:
            return await gate.load_fn(keys)
        finally:
            try:
                await users.load(7)
            except Exception as error:
                errors.append(error)

    async with LoaderScope():
        waiting = posts.load(1)
        await gate.running()
    await outcomes(waiting)
    assert [NoScopeError] == [type(error) for error in errors]
    assert [[1]] == gate.plan


@pytest.mark.parametrize("way", ["close", "aclose"])
async def test_a_batch_function_may_close_its_own_scope(way: str):
    """Closing from inside a batch of the scope hangs neither the batch nor its waiters."""

    @dataloader
    async def users(keys: list[int]) -> list[int]:
        if way == "close":
            LoaderScope.current().close()
        else:
            await LoaderScope.current().aclose()
        return keys

    async with LoaderScope():
        assert [LoadCancelledError] == [type(error) for error in await outcomes(users.load(1))]


# Waiting for the end of what was cancelled


class Leisurely:
    """A batch function that takes some ticks over its cancellation."""

    def __init__(self) -> None:
        self.ended = False
        self.started = asyncio.Event()

    async def load_fn(self, keys: list[int]) -> list[int]:
        self.started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await ticks(5)
            self.ended = True
        return keys


@pytest.mark.parametrize("kind", ["async with", "aclose"])
async def test_o3_an_async_exit_waits_for_what_it_has_cancelled(kind: str):
    """Behind `async with` and `aclose()` no batch function of the scope runs any more."""
    function = Leisurely()
    users = dataloader(function.load_fn)
    async with LoaderScope() as scope:
        waiting = users.load(1)
        await within(function.started.wait())
        if kind == "aclose":
            await within(scope.aclose())
            assert function.ended
    assert function.ended
    await outcomes(waiting)


async def test_o3_an_async_exit_waits_for_what_close_has_cancelled():
    """`async with` waits for the batch functions, also when the scope was closed before."""
    function = Leisurely()
    users = dataloader(function.load_fn)
    async with LoaderScope() as scope:
        waiting = users.load(1)
        await within(function.started.wait())
        scope.close()
        assert not function.ended
    ended = function.ended
    await outcomes(waiting)
    assert ended


@pytest.mark.parametrize("kind", ["with", "close"])
async def test_o3_a_plain_exit_does_not_wait(kind: str):
    """Behind `with` and `close()` a batch function may still be taking its leave."""
    function = Leisurely()
    users = dataloader(function.load_fn)
    with LoaderScope() as scope:
        waiting = users.load(1)
        await within(function.started.wait())
        if kind == "close":
            scope.close()
    assert not function.ended
    await outcomes(waiting)
    await until(lambda: function.ended)


def test_o3_an_async_exit_waits_for_about_a_second_at_most():
    """A batch function that ignores its cancellation holds the exit up no longer than that."""

    async def main() -> tuple[float, Any]:
        loop = asyncio.get_running_loop()
        running, free = asyncio.Event(), asyncio.Event()

        @dataloader
        async def users(keys: list[int]) -> list[int]:
            running.set()
            while not free.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await free.wait()
            return keys

        @dataloader
        async def posts(keys: list[int]) -> list[int]:
            return await users.load_fn(keys)

        async with LoaderScope():
            waiting = [users.load(1), posts.load(1)]
            await running.wait()
            began = loop.time()
        took = loop.time() - began
        free.set()
        return took, await outcomes(*waiting)

    took, errors = run_virtual(main)
    assert 0.5 <= took <= 1.5
    assert [LoadCancelledError] * 2 == [type(error) for error in errors]


async def test_o3_cancelling_the_exit_leaves_the_scope_closed():
    """A task that is cancelled while it waits at the exit ends at once, with its scope closed."""
    free = asyncio.Event()
    running = asyncio.Event()
    scope = LoaderScope()
    waiting: list[Any] = []

    @dataloader
    async def users(keys: list[int]) -> list[int]:
        running.set()
        while not free.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await free.wait()
        return keys

    async def body() -> None:
        async with scope:
            waiting.append(users.load(1))
            await running.wait()

    task = asyncio.create_task(body())
    await until(lambda: scope.is_closed)
    await ticks(3)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task], timeout=0.5)
    assert task.cancelled()
    assert [LoadCancelledError] == [type(error) for error in await outcomes(*waiting)]
    free.set()
    await ticks(5)


async def test_o3_a_body_cancelled_at_any_await_leaves_nothing_behind():
    """Wherever a body is cancelled, its scopes are closed, and no task, slot or waiter is left."""
    users = tenfold([])

    @dataloader
    async def posts(keys: list[int]) -> list[int]:
        return await users.load_many(keys)

    was_cancelled: list[bool] = []
    for moment in range(150):
        session = Session()
        scopes: list[LoaderScope] = []
        waiters: list[Any] = []

        async def body(session: Session, scopes: list[LoaderScope], waiters: list[Any]) -> None:
            async with LoaderScope(limiter=session) as outer:
                scopes.append(outer)
                waiters.append(posts.load(1))
                await waiters[-1]
                async with LoaderScope() as inner:
                    scopes.append(inner)
                    waiters.append(users.load_many([1, 2]))
                    waiters.append(outer[users].load(3))
                    await waiters[-2]
                with LoaderScope() as inner:
                    scopes.append(inner)
                    waiters.append(posts.load(5))
                    await waiters[-1]
                await waiters[-2]
            assert LoaderScope.current(None) is None

        before = asyncio.all_tasks()
        task = asyncio.create_task(body(session, scopes, waiters))
        await ticks(moment)
        task.cancel()
        await asyncio.wait([task], timeout=GUARD)
        was_cancelled.append(task.cancelled())
        if not task.cancelled():
            task.result()
        await ticks(20)
        assert all(scope.is_closed for scope in scopes), moment
        assert all(waiter.done() for waiter in waiters), moment
        for waiter in waiters:
            if not waiter.cancelled():
                waiter.exception()
        assert before == asyncio.all_tasks(), moment
        assert not session.lock.locked(), moment
    assert (True, False) == (was_cancelled[0], was_cancelled[-1])


# Leaving in another context


async def test_o2_a_scope_around_a_yield_is_refused_when_it_is_left_in_another_context():
    """An async generator that opens a scope around a yield is told to use `per_event`."""
    scopes: list[LoaderScope] = []

    async def events() -> AsyncIterator[int]:
        async with LoaderScope() as scope:
            scopes.append(scope)
            yield 1

    iterator = events()
    assert 1 == await asyncio.create_task(take(iterator))
    with pytest.raises(NoScopeError, match="per_event"):
        await asyncio.create_task(take(iterator))
    assert scopes[0].is_closed


async def test_o2_a_plain_with_around_a_yield_is_refused_too():
    """A scope entered by `with` notices as well that it is left in another context."""

    async def events() -> AsyncIterator[int]:
        with LoaderScope():
            yield 1

    iterator = events()
    assert 1 == await asyncio.create_task(take(iterator))
    with pytest.raises(NoScopeError, match="per_event"):
        await asyncio.create_task(take(iterator))


@pytest.mark.parametrize("kind", ["with", "async with"])
async def test_o2_an_exception_on_its_way_is_not_replaced(kind: str):
    """A scope left in another context by an exception lets that exception out."""
    scopes: list[LoaderScope] = []

    async def events() -> AsyncIterator[int]:
        if kind == "with":
            with LoaderScope() as scope:
                scopes.append(scope)
                yield 1
                raise Broken
        async with LoaderScope() as scope:
            scopes.append(scope)
            yield 1
            raise Broken

    iterator = events()
    await asyncio.create_task(take(iterator))
    with pytest.raises(Broken):
        await asyncio.create_task(take(iterator))
    assert scopes[0].is_closed


async def test_o2_leaving_in_another_context_cancels_what_runs():
    """Batches of a scope that is left in another context are settled like any other's."""
    gate = Gate()
    users = gate.declare()
    waiting: list[Any] = []

    async def events() -> AsyncIterator[int]:
        async with LoaderScope():
            waiting.append(users.load(1))
            await gate.running()
            yield 1

    iterator = events()
    await asyncio.create_task(take(iterator))
    with pytest.raises(NoScopeError):
        await asyncio.create_task(take(iterator))
    assert [LoadCancelledError] == [type(error) for error in await outcomes(*waiting)]
    await until(lambda: gate.cancelled)


async def test_o2_leaving_in_another_context_leaves_its_current_scope_alone():
    """The scope of the context in which a foreign scope is left stays current there."""

    async def events() -> AsyncIterator[int]:
        async with LoaderScope():
            yield 1

    iterator = events()
    await asyncio.create_task(take(iterator))
    async with LoaderScope() as scope:
        with pytest.raises(NoScopeError):
            await anext(iterator)
        assert scope is LoaderScope.current()


# Reset


async def test_reset_forgets_what_every_loader_has():
    """After `reset` each loader of the scope asks anew; the loaders stay the same."""
    plan: list[list[int]] = []
    other_plan: list[list[int]] = []
    users, posts = tenfold(plan), tenfold(other_plan, name="posts")
    async with LoaderScope() as scope:
        loader = scope[users]
        for _ in range(2):
            assert [10, 20] == await outcomes(users.load(1), posts.load(2))
            scope.reset()
            assert [None, None] == [users.peek(1), posts.peek(2)]
        assert loader is scope[users]
    assert ([[1], [1]], [[2], [2]]) == (plan, other_plan)


async def test_reset_forgets_what_was_primed():
    """A primed value is gone after `reset`."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    async with LoaderScope() as scope:
        users.prime(1, "primed")
        scope.reset()
        assert 10 == await within(users.load(1))
    assert [[1]] == plan


async def test_reset_keeps_the_waiters_of_a_running_batch():
    """Those who wait get their values; who loads later starts anew, and that is remembered."""
    gate = Gate()
    users = gate.declare()
    async with LoaderScope() as scope:
        before = [users.load(1), users.load_many([1, 2])]
        await gate.running(1)
        scope.reset()
        after = users.load(1)
        await gate.running(2)
        gate.answers[1].set_result(["new"])
        assert ["new"] == await outcomes(after)
        gate.answers[0].set_result(["old", "old"])
        assert ["old", ["old", "old"]] == await outcomes(*before)
        assert ("new", None) == (users.peek(1), users.peek(2))
    assert ([[1, 2], [1]], 0) == (gate.plan, gate.cancelled)


async def test_reset_keeps_the_waiters_of_an_open_batch():
    """Those who wait for a batch that has not left get their values all the same."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    async with LoaderScope() as scope:
        waiting = [users.load(1), users.load(2)]
        scope.reset()
        assert [10, 20] == await outcomes(*waiting)
    assert [1, 2] == sorted({key for batch in plan for key in batch})


async def test_reset_leaves_other_scopes_alone():
    """A reset reaches no loader of another scope."""
    users = tenfold([])
    async with LoaderScope():
        await within(users.load(1))
        async with LoaderScope() as inner:
            inner.reset()
        assert 10 == users.peek(1)


async def test_reset_keeps_the_context_and_the_limiter():
    """A scope that was reset is as it was opened."""
    session = Session()
    seen: list[Any] = []

    @dataloader
    async def users(keys: list[int], context: Any) -> list[int]:
        seen.append((context, session.inside))
        return keys

    async with LoaderScope(context="request", limiter=session) as scope:
        scope.reset()
        await within(users.load(1))
        scope.reset()
        await within(users.load(1))
    assert [("request", 1)] * 2 == seen


# Activating: for integrations


async def test_activate_makes_a_scope_current_without_a_block():
    """An activated scope is the current one until it is deactivated."""
    users = tenfold([])
    scope = LoaderScope()
    scope.activate()
    assert scope is LoaderScope.current()
    assert 10 == await within(users.load(1))
    scope.deactivate()
    assert LoaderScope.current(None) is None
    assert not scope.is_closed
    scope.close()


async def test_activate_works_in_any_context_as_often_as_wanted():
    """A scope can be made current in one task after the other, with one memo for all."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    scope = LoaderScope()

    async def step() -> Any:
        before = LoaderScope.current(None)
        scope.activate()
        scope.activate()
        return before, await users.load(1), LoaderScope.current()

    for _ in range(3):
        assert (None, 10, scope) == await within(in_no_context(step()))
    assert LoaderScope.current(None) is None
    assert [[1]] == plan
    await scope.aclose()


async def test_deactivate_restores_the_scope_that_was_current():
    """Deactivating makes the scope current that was so at the first activation."""
    scope = LoaderScope()
    with LoaderScope() as outer:
        scope.activate()
        scope.activate()
        assert scope is LoaderScope.current()
        scope.deactivate()
        assert outer is LoaderScope.current()
    scope.close()


async def test_deactivate_does_nothing_where_another_scope_is_current():
    """Deactivating a scope that is not the current one changes nothing."""
    scope = LoaderScope()
    scope.deactivate()
    assert LoaderScope.current(None) is None
    scope.activate()
    with LoaderScope() as inner:
        scope.deactivate()
        assert inner is LoaderScope.current()
    scope.deactivate()
    assert LoaderScope.current(None) is None
    scope.close()


async def test_a_deactivated_scope_can_be_activated_again():
    """What a scope has loaded is still there when it is current again."""
    plan: list[list[int]] = []
    users = tenfold(plan)
    scope = LoaderScope()
    for _ in range(2):
        scope.activate()
        assert 10 == await within(users.load(1))
        scope.deactivate()
        with pytest.raises(NoScopeError):
            users.load(1)
    assert [[1]] == plan
    scope.close()


async def test_a_closed_scope_is_not_activated():
    """Activating a closed scope is an error."""
    scope = LoaderScope()
    scope.activate()
    scope.close()
    with pytest.raises(NoScopeError, match="closed"):
        scope.activate()
    scope.deactivate()


async def test_a_closed_scope_can_be_deactivated():
    """Closing and deactivating may come in either order."""
    with LoaderScope() as outer:
        scope = LoaderScope()
        scope.activate()
        scope.close()
        assert LoaderScope.current(None) is None
        scope.deactivate()
        assert outer is LoaderScope.current()


@pytest.mark.parametrize("state", ["open", "closed"])
async def test_a_scope_can_be_left_where_another_one_was_not_deactivated(state: str):
    """Who activates a scope need not deactivate it for the scope around it to be left."""
    inner = LoaderScope()
    with LoaderScope() as outer:
        async with LoaderScope() as middle:
            inner.activate()
            if state == "closed":
                inner.close()
        assert outer is LoaderScope.current()
    assert middle.is_closed
    assert LoaderScope.current(None) is None
    inner.close()


async def test_closing_an_activated_scope_cancels_what_runs():
    """A scope that was never entered by a block is closed like any other."""
    gate = Gate()
    users = gate.declare()
    scope = LoaderScope()
    scope.activate()
    waiting = users.load(1)
    await gate.running()
    await within(scope.aclose())
    scope.deactivate()
    assert [LoadCancelledError] == [type(error) for error in await outcomes(waiting)]
    assert 1 == gate.cancelled


async def test_d7_an_activated_scope_runs_its_batches_where_it_was_first_activated():
    """Later activations elsewhere change the context of no batch, nor of a loader made then."""
    seen: list[tuple[str, str]] = []

    def declare(name: str) -> Any:
        async def load_fn(keys: list[int]) -> list[int]:
            seen.append((name, tenant.get()))
            return keys

        return dataloader(name=name)(load_fn)

    async def step(name: str, *factories: Any) -> None:
        tenant.set(name)
        scope.activate()
        for number, factory in enumerate(factories):
            await factory.load((name, number))

    users, posts = declare("users"), declare("posts")
    scope = LoaderScope()
    await within(in_no_context(step("first", users)))
    await within(in_no_context(step("second", users, posts)))
    assert [("users", "first"), ("users", "first"), ("posts", "first")] == seen
    await scope.aclose()


# Loops and threads


def test_scopes_of_two_threads_never_mix():
    """Two loops in two threads load through the same factory, each in its own scope."""
    both_run = threading.Barrier(2)
    seen: list[tuple[int, list[int]]] = []

    @dataloader
    async def users(keys: list[int], number: int) -> list[int]:
        seen.append((number, list(keys)))
        both_run.wait(GUARD)
        return [key * number for key in keys]

    results: dict[int, Any] = {}

    async def main(number: int) -> list[int]:
        async with LoaderScope(context=number):
            return await within(asyncio.gather(users.load(1), users.load(2)))

    def run(number: int) -> None:
        results[number] = asyncio.run(main(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in (10, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {10: [10, 20], 100: [100, 200]} == results
    assert [(10, [1, 2]), (100, [1, 2])] == sorted(seen)


def test_w6_one_scope_does_not_serve_one_loop_after_the_other():
    """A loader of a scope belongs to the loop of its first load; another one is told so."""
    users = tenfold([])

    async def main() -> int:
        return await users.load(1)

    async def other() -> int:
        return await users.load(2)

    with LoaderScope():
        assert 10 == asyncio.run(main())
        with pytest.raises(LoopError, match="'users'"):
            asyncio.run(other())


def test_a_scope_can_be_closed_when_its_loop_is():
    """A scope around `asyncio.run` closes over what that has left behind."""
    gate = Gate()
    users = gate.declare()
    waiting: list[Any] = []

    async def main() -> None:
        waiting.append(users.load(1))
        await gate.running()
        waiting[0].cancel()

    with LoaderScope() as scope:
        asyncio.run(main())
    assert scope.is_closed
    assert 1 == gate.cancelled


def test_one_factory_serves_one_loop_after_the_other():
    """A factory belongs to no loop; each `asyncio.run` has scopes of its own."""
    plan: list[list[int]] = []
    users = tenfold(plan)

    async def main() -> int:
        async with LoaderScope():
            return await users.load(1)

    assert [10, 10] == [asyncio.run(main()), asyncio.run(main())]
    assert [[1], [1]] == plan


# What is left behind


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Let reference counts alone free things."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Watch:
    """Weak references, and how many of them still refer to something."""

    def __init__(self) -> None:
        self.references: list[weakref.ref[Any]] = []

    def add(self, thing: Any) -> Any:
        self.references.append(weakref.ref(thing))
        return thing

    def alive(self) -> list[Any]:
        return [reference() for reference in self.references if reference() is not None]


@pytest.mark.parametrize("kind", ["with", "async with"])
async def test_a_closed_scope_leaves_nothing_to_the_garbage_collector(kind: str):
    """The context, the loaders and the values of a scope go with it, by reference counts alone."""
    watch = Watch()

    @dataloader
    async def users(keys: list[int], context: Any) -> list[Any]:
        return [watch.add(Value()) for _ in keys]

    async def request() -> None:
        scope = LoaderScope(context=watch.add(Value()))
        if kind == "with":
            with scope:
                watch.add(scope[users])
                await users.load_many([1, 2])
        else:
            async with scope:
                watch.add(scope[users])
                await users.load_many([1, 2])

    with without_gc():
        await asyncio.create_task(request())
        await ticks(3)
        assert 4 == len(watch.references)
        assert [] == watch.alive()


async def test_a_scope_that_closes_over_running_batches_is_freed():
    """What a cancelled batch function and its waiters held is not kept."""
    watch = Watch()

    @dataloader
    async def users(keys: list[int], context: Any) -> list[Any]:
        held = watch.add(Value())
        await asyncio.get_running_loop().create_future()
        return [held]

    async def request() -> None:
        async with LoaderScope(context=watch.add(Value())) as scope:
            watch.add(scope[users])
            waiting = users.load(1)
            await until(lambda: len(watch.references) == 3)
        await outcomes(waiting)

    await asyncio.create_task(request())
    await ticks(5)
    gc.collect()
    assert [] == watch.alive()


async def test_a_closed_scope_that_a_task_still_inherits_holds_no_values():
    """A task that lives on keeps no value alive that its request has loaded."""
    watch = Watch()
    go = asyncio.Event()

    @dataloader
    async def users(keys: list[int]) -> list[Any]:
        return [watch.add(Value()) for _ in keys]

    async def request() -> asyncio.Task[Any]:
        async with LoaderScope():
            await users.load_many([1, 2])
            return asyncio.create_task(go.wait())

    background = await asyncio.create_task(request())
    await ticks(3)
    gc.collect()
    assert [] == watch.alive()
    go.set()
    await background


async def test_a_closed_scope_that_a_task_still_inherits_holds_no_cancelled_function():
    """A task that lives on keeps alive nothing of the functions that a closing has cancelled."""
    watch = Watch()
    go = asyncio.Event()

    @dataloader
    async def users(keys: list[int], context: Any) -> list[Any]:
        held = watch.add(Value())
        await asyncio.get_running_loop().create_future()
        return [held]

    async def request() -> asyncio.Task[Any]:
        async with LoaderScope(context=None):
            waiting = users.load(1)
            await until(lambda: watch.references)
            background = asyncio.create_task(go.wait())
        await outcomes(waiting)
        return background

    background = await asyncio.create_task(request())
    await ticks(5)
    gc.collect()
    assert [] == watch.alive()
    go.set()
    await background


async def test_reset_frees_what_was_loaded():
    """A scope that lives long holds nothing from before its last reset."""
    watch = Watch()

    @dataloader
    async def users(keys: list[int]) -> list[Any]:
        return [watch.add(Value()) for _ in keys]

    async with LoaderScope() as scope:
        for _ in range(10):
            await users.load_many([1, 2])
            scope.reset()
        await ticks(3)
        gc.collect()
        assert (20, []) == (len(watch.references), watch.alive())


async def test_scopes_that_follow_each_other_do_not_hold_each_other():
    """Scopes that are activated one after the other and closed don't add up."""
    watch = Watch()

    async def worker() -> None:
        for _ in range(20):
            scope = LoaderScope(context=watch.add(Value()))
            scope.activate()
            scope.close()
            del scope
        gc.collect()
        assert 1 >= len(watch.alive())

    await in_no_context(worker())


async def test_a_scope_that_nobody_closes_is_collected():
    """A scope that is dropped without being closed goes away with its loaders."""
    watch = Watch()

    @dataloader
    async def users(keys: list[int]) -> list[Any]:
        return [watch.add(Value()) for _ in keys]

    async def request() -> None:
        scope = LoaderScope(context=watch.add(Value()))
        scope.activate()
        await users.load(1)

    await in_no_context(request())
    await ticks(3)
    gc.collect()
    assert [] == watch.alive()
