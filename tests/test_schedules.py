"""Random programs over several loaders, one task of each cancelled at some await: W2, W3, D6, D7.

A schedule is a number. It makes up loaders of two tenants, tasks that use them in every way, and
batch functions that fail, sleep, load from other loaders and take their cancellation badly, and it
cancels a task at a tick of its own. The loop's time is virtual, so a schedule takes milliseconds
and is the same every time. When all is quiet, no waiter may be pending, no task left, no slot of a
limiter lost, and nobody may have got a value that is not his.

To run one alone, and see what it does: PYTHONPATH=. python tests/test_schedules.py NUMBER
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from dataloader_cache import DataLoader
from dataloader_cache._pump import pump_of
from dataloader_cache.errors import (
    BatchResultError,
    DataLoaderCacheError,
    KeyNotFoundError,
    LoadCancelledError,
    LoaderDeadlockError,
    LoadTimeoutError,
)
from dataloader_cache.testing import VirtualTimeLoop

SCHEDULES = 10_000
CHUNK = 200
MOMENTS = 25  # schedules of one program, each of which cancels at another moment

MOST_BATCHES = 40  # of one schedule; after that many the batch functions behave
LONG = 1000.0  # virtual seconds in which everything ends

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


class OfKey(Exception):
    """An error that belongs to one key of one loader."""


class OfBatch(Exception):
    """An error that belongs to a loader."""


class Limit:
    """A limiter that knows who is inside."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.semaphore = asyncio.Semaphore(size)
        self.inside = self.most = 0

    async def __aenter__(self) -> None:
        await self.semaphore.acquire()
        self.inside += 1
        self.most = max(self.most, self.inside)

    async def __aexit__(self, *_: object) -> None:
        self.inside -= 1
        self.semaphore.release()


class Member:
    """A loader of one tenant, with a batch function that follows the dice."""

    def __init__(self, schedule: Schedule, owner: str, number: int) -> None:
        self.schedule = schedule
        self.owner = owner
        self.name = f"{owner}{number}"
        self.is_closed = False
        dice = schedule.dice
        self.options: dict[str, Any] = {
            "max_batch_size": dice.choice([None, None, 1, 2, 3]),
            "cache": dice.random() < 0.8,
            "cache_errors": dice.random() < 0.3,
            "batch_window": dice.choice([None, None, None, 0.0, 0.015]),
            "missing": dice.choice(["none", "raise"]),
            "limiter": dice.choice([None, *schedule.limits, *schedule.limits]),
            "max_concurrent_batches": dice.choice([None, None, 1, 2]),
            "load_timeout": dice.choice([None, None, 0.005, 0.025]),
            "name": self.name,
        }
        context = copy_context()
        context.run(tenant.set, owner)
        self.loader: DataLoader[int, Any] = context.run(DataLoader, self.load_fn, **self.options)

    def value(self, key: int) -> tuple[Any, ...]:
        return (self.owner, self.name, key)

    async def load_fn(self, keys: list[int]) -> Any:
        schedule, dice = self.schedule, self.schedule.dice
        schedule.say(f"{self.name} is asked for {keys}")
        assert self.owner == tenant.get(), "a batch runs in another tenant's context"
        asked = list(keys)
        if schedule.batches >= MOST_BATCHES:
            return [self.value(key) for key in asked]
        schedule.batches += 1
        patience = dice.choice([0, 0, 0, 1])
        for _ in range(dice.choice([0, 1, 1, 2, 3])):
            try:
                await self.take_a_step(dice)
            except asyncio.CancelledError:
                if not patience:
                    raise
                patience -= 1
                schedule.say(f"{self.name} swallows its cancellation")
            except (OfKey, OfBatch, DataLoaderCacheError) as error:
                if dice.random() < 0.3:
                    raise OfBatch(self.name) from error
        if dice.random() < 0.1:
            keys.clear()
        return self.answer(asked, dice)

    async def take_a_step(self, dice: random.Random) -> None:
        schedule = self.schedule
        kind = dice.choice(
            ["tick", "tick", "sleep", "load", "load", "many", "child", "memo", "end"]
        )
        if kind == "tick":
            await asyncio.sleep(0)
        elif kind == "sleep":
            await asyncio.sleep(dice.choice([0.01, 0.02, 0.05]))
        elif kind == "load":
            await schedule.use(schedule.anyone(self.owner), "load")
        elif kind == "many":
            await schedule.use(schedule.anyone(self.owner), "many")
        elif kind == "child":
            other = schedule.anyone(self.owner)
            child = asyncio.create_task(schedule.try_to_use(other, "load"))
            if dice.random() < 0.7:
                await child
        elif kind == "memo":
            await schedule.use(schedule.anyone(self.owner), dice.choice(["prime", "clear", "send"]))
        elif dice.random() < 0.1:
            await schedule.use(schedule.anyone(self.owner), "close")

    def answer(self, keys: list[int], dice: random.Random) -> Any:
        kind = dice.choice(["list"] * 6 + ["map", "lacking", "errors", "fail", "cancel", "wrong"])
        values: dict[int, Any] = {key: self.value(key) for key in keys}
        if kind == "errors":
            values = {
                key: OfKey(self.name, key) if dice.random() < 0.5 else value
                for key, value in values.items()
            }
        elif kind == "lacking":
            return {key: value for key, value in values.items() if dice.random() < 0.5}
        elif kind == "fail":
            raise OfBatch(self.name)
        elif kind == "cancel":
            raise asyncio.CancelledError
        elif kind == "wrong":
            return dice.choice([None, "no", [*values.values(), None], set(keys), 7])
        return values if kind == "map" else list(values.values())

    def check(self, key: int, outcome: Any) -> None:
        """Check that `outcome` is one that a load of `key` may have."""
        if isinstance(outcome, OfKey):
            assert outcome.args == (self.name, key), f"got the error of another key: {outcome!r}"
        elif isinstance(outcome, OfBatch):
            assert outcome.args == (self.name,), f"got the error of another loader: {outcome!r}"
        elif isinstance(outcome, LoadTimeoutError):
            assert self.options["load_timeout"] is not None
        elif isinstance(outcome, KeyNotFoundError):
            assert self.options["missing"] == "raise"
        elif isinstance(outcome, BaseException):
            kinds = (BatchResultError, LoadCancelledError, LoaderDeadlockError)
            assert isinstance(outcome, kinds), f"got {outcome!r}"
        else:
            allowed = [self.value(key), ("primed", *self.value(key))]
            if self.options["missing"] == "none":
                allowed.append(None)
            assert outcome in allowed, f"{self.name} gave {outcome!r} for {key}"


class Schedule:
    """One program of loaders and tasks, and the moment at which it cancels one of them."""

    def __init__(self, number: int, say: Callable[[str], None] = lambda _: None) -> None:
        program, self.moment = divmod(number, MOMENTS)
        self.dice = random.Random(program)
        # What is cancelled has dice of its own, so that the program stays the same up to there.
        self.fate = random.Random(number)
        self.is_eager = sys.version_info >= (3, 12) and program % 3 == 0
        self.say = say
        self.batches = 0
        self.reports: list[dict[str, Any]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.waiters: list[tuple[asyncio.Future[Any], Callable[[Any], None]]] = []

    def run(self) -> None:
        loop = VirtualTimeLoop()
        loop.set_exception_handler(lambda _, context: self.reports.append(context))
        loop.set_task_factory(self.make_task)
        try:
            loop.run_until_complete(self.main())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
        assert [] == self.reports

    def make_task(self, loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
        if self.is_eager and self.tasks:
            options.setdefault("eager_start", True)
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        self.tasks.append(task)
        return task

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        dice = self.dice
        self.limits = [Limit(dice.choice([1, 1, 2])) for _ in range(dice.choice([1, 2]))]
        self.members = [
            Member(self, owner, number)
            for owner in ("a", "b")
            for number in range(dice.choice([1, 2, 2, 3]))
        ]
        programs = [
            asyncio.create_task(self.work(dice.choice("ab")), name=f"program {number}")
            for number in range(dice.choice([2, 3, 4, 5]))
        ]
        # First at every tick of the first moment, then at some ticks of the later ones.
        seconds, ticks = (
            (0.0, self.moment)
            if self.moment < 16
            else (
                0.01 * (1 + (self.moment - 16) % 3),
                1 + 4 * ((self.moment - 16) // 3),
            )
        )
        loop.call_later(seconds, self.cancel_after, ticks)
        await asyncio.wait(programs)
        await asyncio.sleep(LONG)
        self.check_quiet(asyncio.current_task())
        for task in programs:
            if not task.cancelled():
                task.result()
        for member in self.members:
            if not member.is_closed:
                # A lost slot or a flight left in the memo would keep these waiting.
                self.batches = MOST_BATCHES
                values = await member.loader.clear_all().load_many(range(5))
                assert [member.value(key) for key in range(5)] == values
            await member.loader.aclose()
        await asyncio.sleep(LONG)
        self.check_quiet(asyncio.current_task())

    def cancel_after(self, ticks: int) -> None:
        if ticks:
            asyncio.get_running_loop().call_soon(self.cancel_after, ticks - 1)
            return
        # Any task but the first, which is main; batches and keepers as often as their callers.
        alive = [task for task in self.tasks[1:] if not task.done()]
        inner = [task for task in alive if not task.get_name().startswith("program")]
        victims = self.fate.choice([alive, inner]) or alive
        if victims and self.fate.random() < 0.9:
            victims = [self.fate.choice(victims)]
        for victim in victims:
            self.say(f"cancel {victim.get_name()}")
            victim.cancel()

    def check_quiet(self, main: Any) -> None:
        """Check what must hold when nothing moves any more."""
        for waiter, check in self.waiters:
            assert waiter.done(), f"a waiter hangs: {waiter!r}"
            if not waiter.cancelled():
                check(waiter.exception() or waiter.result())
        assert {main} == asyncio.all_tasks()
        pump = pump_of(asyncio.get_running_loop())
        assert set() == pump.live
        assert set() == pump.tasks
        for limit in self.limits:
            assert 0 == limit.inside
            assert limit.size == limit.semaphore._value
            assert limit.most <= limit.size

    def anyone(self, owner: str) -> Member:
        return self.dice.choice([member for member in self.members if member.owner == owner])

    async def work(self, owner: str) -> None:
        tenant.set("caller")
        for _ in range(self.dice.choice([1, 2, 3, 4])):
            kind = self.dice.choice(
                ["load"] * 3
                + ["later", "many", "many", "wait_for", "wait_for", "forget", "leave"]
                + ["prime", "clear", "send", "tick", "sleep", "all"]
            )
            if self.dice.random() < 0.03:
                kind = "close"
            await self.try_to_use(self.anyone(owner), kind)
            assert "caller" == tenant.get()

    async def try_to_use(self, member: Member, kind: str) -> None:
        try:
            await self.use(member, kind)
        except (OfKey, OfBatch, DataLoaderCacheError, asyncio.TimeoutError) as error:
            self.say(f"came: {error!r}")

    def load(self, member: Member, key: int) -> asyncio.Future[Any]:
        waiter = member.loader.load(key)
        self.waiters.append((waiter, lambda outcome: member.check(key, outcome)))
        return waiter

    def load_many(self, member: Member, keys: list[int]) -> Any:
        return_exceptions = self.dice.random() < 0.5
        waiter: Any = member.loader.load_many(keys, return_exceptions=return_exceptions)

        def check(outcome: Any) -> None:
            if isinstance(outcome, OfKey):
                assert any(outcome.args == (member.name, key) for key in keys)
            elif isinstance(outcome, BaseException):
                member.check(-1, outcome)
            else:
                assert len(keys) == len(outcome)
                for key, value in zip(keys, outcome):
                    member.check(key, value)

        self.waiters.append((waiter, check))
        return waiter

    async def use(self, member: Member, kind: str) -> None:
        """Do one thing with a loader."""
        dice, loader = self.dice, member.loader
        key = dice.randrange(4)
        self.say(f"{asyncio.current_task().get_name()}: {kind} {member.name} {key}")
        if kind == "load":
            await self.load(member, key)
        elif kind == "later":
            waiter = self.load(member, key)
            for _ in range(dice.randrange(15)):
                await asyncio.sleep(0)
            await waiter
        elif kind == "many":
            await self.load_many(member, [dice.randrange(5) for _ in range(dice.randrange(6))])
        elif kind == "wait_for":
            seconds = dice.choice([0, 0.001, 0.01, 0.03])
            is_many = dice.random() < 0.3
            waiter = self.load_many(member, [key, 4]) if is_many else self.load(member, key)
            await asyncio.wait_for(waiter, seconds)
        elif kind == "forget":
            self.load(member, key)
        elif kind == "leave":
            waiter = self.load(member, key)
            for _ in range(dice.randrange(15)):
                await asyncio.sleep(0)
            waiter.cancel()
            if dice.random() < 0.5:
                self.load(member, key)
        elif kind == "all":
            team = [other for other in self.members if other.owner == member.owner]
            await asyncio.wait([self.load(other, key) for other in team])
        elif kind == "prime":
            is_error = dice.random() < 0.2
            value = OfKey(member.name, key) if is_error else ("primed", *member.value(key))
            loader.prime(key, value, force=dice.random() < 0.5)
        elif kind == "clear":
            loader.clear(key) if dice.random() < 0.7 else loader.clear_all()
        elif kind == "send":
            loader.dispatch()
        elif kind == "tick":
            await asyncio.sleep(0)
        elif kind == "sleep":
            await asyncio.sleep(dice.choice([0.005, 0.01, 0.03]))
        elif kind == "close":
            member.is_closed = True
            await loader.aclose()


@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_nobody_hangs_whatever_is_cancelled(first: int):
    """When all is quiet no waiter is pending, no task is left and no slot is lost."""
    for number in range(first, first + CHUNK):
        try:
            Schedule(number).run()
        except BaseException as error:
            raise AssertionError(
                f"schedule {number} failed: {error}\n"
                f"run it alone: PYTHONPATH=. python tests/test_schedules.py {number}"
            ) from error


# What the schedules showed, by itself


async def ticks(count: int) -> None:
    """Let `count` turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_queueing_batch_whose_task_is_being_cancelled_is_lent_no_slot():
    """For one tick a cancelled batch still queues: its holder's load must not fail for that."""
    limiter = asyncio.Semaphore(1)
    start = asyncio.Event()

    async def load_inner(keys: list[int]) -> list[int]:
        return keys

    async def load_outer(keys: list[int]) -> list[Any]:
        await start.wait()
        return await inner.load_many(keys, return_exceptions=True)

    inner = DataLoader(load_inner, limiter=limiter, name="inner")
    outer = DataLoader(load_outer, limiter=limiter, name="outer")
    waiter = outer.load(1)
    await ticks(20)
    queueing = inner.load(1)
    await ticks(20)
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == "batch of inner"]
    start.set()
    task.cancel()
    for future in (waiter, queueing):
        with pytest.raises(LoadCancelledError):
            await asyncio.wait_for(future, 5)
    assert 2 == await asyncio.wait_for(inner.load(2), 5)
    await ticks(5)
    assert not limiter.locked()


async def test_a_clean_up_that_loads_after_its_waiters_were_settled_gets_its_own_slot():
    """A function that was cancelled still holds its slot, and lends it to what it waits for."""
    limiter = asyncio.Semaphore(1)
    cleaned: list[int] = []

    async def load_inner(keys: list[int]) -> list[int]:
        return keys

    async def load_outer(keys: list[int]) -> list[int]:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cleaned.append(await inner.load(1))
            raise
        return keys

    inner = DataLoader(load_inner, limiter=limiter)
    waiter = DataLoader(load_outer, limiter=limiter).load(1)
    await ticks(20)
    waiter.cancel()
    assert 2 == await asyncio.wait_for(inner.load(2), 5)
    await ticks(5)
    assert [1] == cleaned
    assert not limiter.locked()


async def test_a_hit_inside_a_batch_function_never_waits_for_an_open_batch():
    """The open batch may need the slot of that very function, or be long in its window."""
    found: list[Any] = []

    async def load_inner(keys: list[int]) -> list[int]:
        return keys

    async def load_outer(keys: list[int]) -> list[int]:
        hits: list[Any] = [inner.load(1), inner.load_many([1, 1]), inner.load(2)]
        found.extend(hit.done() for hit in hits)
        hits.pop().cancel()
        found.extend([await hit for hit in hits])
        return keys

    inner = DataLoader(load_inner, batch_window=1000.0).prime(1, 10)
    waiting = inner.load(3)
    assert 1 == await asyncio.wait_for(DataLoader(load_outer).load(1), 5)
    assert [True, True, False, 10, [10, 10]] == found
    assert not waiting.done()
    waiting.cancel()
    await inner.aclose()


@pytest.mark.loop_kinds("asyncio", "uvloop", "debug")
async def test_a_prime_does_not_hold_the_open_batch_open():
    """A key that is taken out of a batch is no news to the pump, and one that comes then is."""
    asked: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        asked.append(list(keys))
        return keys

    async def ticks_until_asked(action: Callable[[DataLoader[int, int]], Any]) -> int:
        loader = DataLoader(load_fn)
        waiters = [loader.load(1), loader.load(2)]
        await ticks(6)
        action(loader)
        asked.clear()
        count = 0
        while not asked:
            await asyncio.sleep(0)
            count += 1
        await asyncio.wait(waiters)
        return count

    plain = await ticks_until_asked(lambda loader: None)
    assert plain == await ticks_until_asked(lambda loader: loader.prime(1, 10))
    later = await ticks_until_asked(lambda loader: loader.load(3))
    assert plain < later
    assert later == await ticks_until_asked(lambda loader: loader.prime(1, 10).load(3))


async def test_a_batch_that_left_the_queue_of_a_limiter_leaves_no_task_behind():
    """Nothing goes on queueing for a batch that nobody waits for, while the limiter is held."""
    limiter = asyncio.Semaphore(1)
    await limiter.acquire()

    async def load_fn(keys: list[int]) -> list[int]:
        return keys

    loader = DataLoader(load_fn, limiter=limiter)
    before = asyncio.all_tasks()
    waiters: list[Any] = [loader.load(1), loader.load_many([1, 2])]
    await ticks(20)
    assert len(before) < len(asyncio.all_tasks())
    for waiter in waiters:
        waiter.cancel()
    await ticks(10)
    assert before == asyncio.all_tasks()
    limiter.release()
    assert 3 == await asyncio.wait_for(loader.load(3), 5)


def test_an_interrupt_while_batches_leave_keeps_the_others():
    """A batch that leaves in the same tick as one that stops the loop leaves when it goes on."""
    interrupts = [KeyboardInterrupt()]

    class InterruptedLoop(VirtualTimeLoop):
        def create_task(self, coro: Any, **options: Any) -> Any:
            if options.get("name", "").startswith("batch of") and interrupts:
                raise interrupts.pop()
            return super().create_task(coro, **options)

    async def load_fn(keys: list[int]) -> list[int]:
        return keys

    async def main() -> list[Any]:
        loaders = [DataLoader(load_fn) for _ in range(3)]
        waiters = [loader.load(1) for loader in loaders]
        return await asyncio.gather(*waiters, return_exceptions=True)

    loop = InterruptedLoop()
    try:
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        first, second, third = loop.run_until_complete(task)
        assert isinstance(first, BaseException)
        assert [1, 1] == [second, third]
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def test_a_window_that_ends_waits_four_quiet_ticks_and_no_more():
    """The keys that came within the window are no news when it ends."""
    asked: list[list[int]] = []

    async def load_fn(keys: list[int]) -> list[int]:
        asked.append(list(keys))
        return keys

    async def main() -> int:
        waiter = DataLoader(load_fn, batch_window=1.0).load(1)
        await asyncio.sleep(1.0)
        count = 0
        while not asked:
            await asyncio.sleep(0)
            count += 1
        await waiter
        return count

    loop = VirtualTimeLoop()
    try:
        assert 4 == loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


if __name__ == "__main__":
    Schedule(int(sys.argv[1]), print).run()
