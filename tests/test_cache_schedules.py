"""Random programs over result caches, one task of each cancelled at some await: F1 to F9, W1, W3.

A schedule is a number. It makes up caches, tasks that use them in every way, and loaders that fail,
sleep, load from the caches, change them and take their cancellation badly, and it cancels a task at
a tick of its own. The loop's time is virtual, so a schedule takes milliseconds and is the same
every time. When all is quiet, nobody may hang, no task, flight or slot be left, and no report be
made twice; and at no moment may a value be there that is older than the last change of its key.

To run one alone, and see what it does: PYTHONPATH=. python tests/test_cache_schedules.py NUMBER
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from dataloader_cache import AsyncCache
from dataloader_cache._pump import pump_of
from dataloader_cache.errors import (
    BatchResultError,
    DataLoaderCacheError,
    LoadCancelledError,
    LoaderClosedError,
    LoaderDeadlockError,
    LoadTimeoutError,
)
from dataloader_cache.testing import VirtualTimeLoop

SCHEDULES = 5_000
CHUNK = 200
MOMENTS = 25  # schedules of one program, each of which cancels at another moment

MOST_LOADS = 40  # of one schedule; after that many the loaders behave
LONG = 1000.0  # virtual seconds in which everything ends
KEYS = range(4)


class Broken(Exception):
    """An error of one call of a loader, for one key or, with None, for all of them."""


class Value(NamedTuple):
    """What is loaded or set: whose it is, and the changes of its key that it has seen."""

    cache: str
    key: int
    number: int
    removals: int
    expiries: int
    taggings: int | None  # None: it has no tags


def tag_of(key: int) -> str:
    """Name the tag that a value of `key` has, unless it comes from a warm-up."""
    return f"tag {key % 2}"


def tag_by_value(key: int, value: object) -> list[str]:
    """Serve as a tag function."""
    return [tag_of(key)]


class Member:
    """A cache, with loaders that follow the dice and a count of what was changed."""

    def __init__(self, schedule: Schedule, name: str) -> None:
        self.schedule = schedule
        self.name = name
        self.is_closed = False
        self.removals: Counter[int] = Counter()
        self.expiries: Counter[int] = Counter()
        self.taggings: Counter[int] = Counter()
        dice = schedule.dice
        self.options: dict[str, Any] = {
            "maxsize": dice.choice([None, 128, 2, 1, 0]),
            "default_ttl": dice.choice([None, 0.02]),
            "stale_ttl": dice.choice([0.0, 0.03]),
            "refresh_ahead": dice.choice([None, 0.5]),
            "retry_after": dice.choice([0.0, 0.01]),
            "load_timeout": dice.choice([None, None, 0.005, 0.025]),
            "soft_timeout": dice.choice([None, 0, 0.01]),
            "max_concurrent_loads": dice.choice([None, 1, 1, 2]),
            "max_batch_size": dice.choice([None, 1, 2]),
            "batch_window": dice.choice([0, 0, 0.005]),
            "eviction": dice.choice(["lru", "s3fifo"]),
            "name": name,
        }
        self.cache = AsyncCache(clock=asyncio.get_running_loop().time, **self.options)

    def value(self, key: int, *, has_tags: bool = True) -> Value:
        """Make a value of `key` as it is now."""
        number = self.schedule.next_number()
        taggings = self.taggings[key] if has_tags else None
        return Value(self.name, key, number, self.removals[key], self.expiries[key], taggings)

    def loader(self, key: int, *, of_warmup: bool = False) -> Callable[[], Any]:
        """Make a loader whose value is as old as the call of the cache, or of it in a warm-up."""
        asked_for = None if of_warmup else self.value(key)

        async def load() -> Any:
            value = self.value(key, has_tags=False) if asked_for is None else asked_for
            number = await self.take_steps(f"{self.name}[{key}]")
            kind = self.schedule.dice.choice(["good"] * 6 + ["raise", "error", "cancel"])
            if number is None or kind == "good":
                return value
            if kind == "error":
                return Broken(self.name, number, key)
            raise asyncio.CancelledError if kind == "cancel" else Broken(self.name, number, None)

        return load

    async def load_many(self, keys: list[int]) -> Any:
        """Serve as one batch loader."""
        return await self.load_batch(keys)

    async def load_others(self, keys: list[int]) -> Any:
        """Serve as another one."""
        return await self.load_batch(keys)

    async def load_batch(self, keys: list[int]) -> Any:
        dice = self.schedule.dice
        values: dict[int, Any] = {key: self.value(key) for key in keys}
        number = await self.take_steps(f"{self.name}{keys}")
        if number is None:
            return values
        kind = dice.choice(["list"] * 5 + ["map", "errors", "raise", "cancel", "wrong"])
        if kind == "errors":
            for key in keys:
                if dice.random() < 0.5:
                    values[key] = Broken(self.name, number, key)
        elif kind == "wrong":
            return dice.choice([None, "no", [*values.values(), None], set(keys), 7])
        elif kind in ("raise", "cancel"):
            raise asyncio.CancelledError if kind == "cancel" else Broken(self.name, number, None)
        return values if kind == "map" else list(values.values())

    async def take_steps(self, name: str) -> int | None:
        """Do as a loader does; give the number of the call, or None if it has to be good."""
        schedule, dice = self.schedule, self.schedule.dice
        schedule.say(f"{name} is loaded")
        if schedule.loads >= MOST_LOADS:
            return None
        schedule.loads += 1
        number = schedule.next_number()
        patience = dice.choice([0, 0, 0, 1])
        for _ in range(dice.choice([0, 1, 1, 2, 3])):
            try:
                await self.take_a_step(dice)
            except asyncio.CancelledError:
                if not patience:
                    raise
                patience -= 1
                schedule.say(f"{name} swallows its cancellation")
            except (Broken, DataLoaderCacheError):
                if dice.random() < 0.3:
                    raise Broken(self.name, number, None) from None
        return number

    async def take_a_step(self, dice: random.Random) -> None:
        schedule = self.schedule
        kind = dice.choice(["tick", "tick", "sleep", "load", "load", "child", "change"])
        if kind == "tick":
            await asyncio.sleep(0)
        elif kind == "sleep":
            await asyncio.sleep(dice.choice([0.01, 0.02, 0.05]))
        elif kind == "load":
            await schedule.use(schedule.anyone(), dice.choice(READS))
        elif kind == "change":
            await schedule.use(schedule.anyone(), dice.choice(CHANGES))
        else:
            child = asyncio.create_task(schedule.try_to_use(schedule.anyone(), dice.choice(READS)))
            if dice.random() < 0.7:
                await child

    # What happened to the keys

    def note_removal(self, *keys: int) -> None:
        self.removals.update(keys)

    def seen_by(self, key: int) -> tuple[int, int]:
        """Give what a value for a caller who comes now must have seen, at the least."""
        return self.removals[key], self.taggings[key]

    def check(self, key: int, seen: tuple[int, int], outcome: Any) -> None:
        """Check that `outcome` is one that a caller may get who asked when this had been seen."""
        if isinstance(outcome, Broken):
            assert self.name == outcome.args[0], f"got the error of another cache: {outcome!r}"
            assert outcome.args[2] in (key, None), f"got the error of another key: {outcome!r}"
        elif isinstance(outcome, LoadTimeoutError):
            assert self.options["load_timeout"] is not None
        elif isinstance(outcome, LoaderClosedError):
            assert self.is_closed
        elif isinstance(outcome, BaseException):
            kinds = (BatchResultError, LoadCancelledError, LoaderDeadlockError)
            assert isinstance(outcome, kinds), f"got {outcome!r}"
        else:
            assert isinstance(outcome, Value), f"got {outcome!r}"
            assert (self.name, key) == (outcome.cache, outcome.key), f"got the value {outcome!r}"
            removals, taggings = seen
            assert removals <= outcome.removals, f"{outcome!r} was removed before it was asked for"
            if outcome.taggings is not None:
                assert taggings <= outcome.taggings, f"the tag of {outcome!r} was invalidated"

    def check_store(self) -> None:
        """Check that what is there is newer than every change of its key, and that it has room."""
        cache = self.cache
        assert self.options["maxsize"] is None or len(cache) <= self.options["maxsize"]
        for key in KEYS:
            value = cache.peek(key)
            if value is not None:
                self.check(key, self.seen_by(key), value)
                assert self.expiries[key] == value.expiries, f"{value!r} had expired"


READS = ["get", "get", "batch", "batch", "many", "many", "refresh", "look"]
CHANGES = ["set", "delete", "expire", "invalidate", "set", "delete", "expire", "clear"]


class Schedule:
    """One program of caches and tasks, and the moment at which it cancels one of them."""

    def __init__(self, number: int, say: Callable[[str], None] = lambda _: None) -> None:
        program, self.moment = divmod(number, MOMENTS)
        self.dice = random.Random(program)
        # What is cancelled has dice of its own, so that the program stays the same up to there.
        self.fate = random.Random(number)
        self.is_eager = sys.version_info >= (3, 12) and program % 3 == 0
        self.say = say
        self.loads = self.numbers = 0
        self.reports: list[dict[str, Any]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.members: list[Member] = []

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    def run(self) -> None:
        loop = VirtualTimeLoop()
        loop.set_exception_handler(lambda _, context: self.reports.append(context))
        loop.set_task_factory(self.make_task)
        try:
            loop.run_until_complete(self.main())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
        self.check_reports()

    def make_task(self, loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
        if self.is_eager and self.tasks:
            options.setdefault("eager_start", True)
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        self.tasks.append(task)
        return task

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        dice = self.dice
        self.members = [Member(self, name) for name in "ab"[: dice.choice([1, 1, 2])]]
        programs = [
            asyncio.create_task(self.work(), name=f"program {number}")
            for number in range(dice.choice([2, 3, 4, 5]))
        ]
        # First at every tick of the first moment, then at some ticks of the later ones.
        seconds, ticks = (
            (0.0, self.moment)
            if self.moment < 16
            else (0.01 * (1 + (self.moment - 16) % 3), 1 + 4 * ((self.moment - 16) // 3))
        )
        loop.call_later(seconds, self.cancel_after, ticks)
        await asyncio.wait(programs)
        await asyncio.sleep(LONG)
        self.check_quiet()
        for task in programs:
            if not task.cancelled():
                task.result()
        # A lost slot or a flight that was left would keep these waiting.
        self.loads = MOST_LOADS
        for member in self.members:
            if not member.is_closed:
                cache = member.cache
                await asyncio.gather(*(cache.refresh(key, member.loader(key)) for key in range(6)))
                await cache.get_many(range(6, 12), member.load_many)
                member.check_store()
            await member.cache.aclose()
        await asyncio.sleep(LONG)
        self.check_quiet()

    def cancel_after(self, ticks: int) -> None:
        if ticks:
            asyncio.get_running_loop().call_soon(self.cancel_after, ticks - 1)
            return
        # Any task but the first, which is main; loads as often as their callers.
        alive = [task for task in self.tasks[1:] if not task.done()]
        inner = [task for task in alive if not task.get_name().startswith("program")]
        victims = self.fate.choice([alive, inner]) or alive
        if victims and self.fate.random() < 0.9:
            victims = [self.fate.choice(victims)]
        for victim in victims:
            self.say(f"cancel {victim.get_name()}")
            victim.cancel()

    def check_quiet(self) -> None:
        """Check what must hold when nothing moves any more."""
        loop = asyncio.get_running_loop()
        assert [] == [task for task in self.tasks[1:] if not task.done()]
        pump = pump_of(loop)
        assert set() == pump.live
        assert set() == pump.tasks
        for member in self.members:
            member.check_store()
            local = member.cache._locals.get(loop)
            if local is not None:
                assert {} == local.flights
                assert {} == local.open
                assert 0 == len(local.queue)
                assert 0 == local.running, "a slot is lost"

    def check_reports(self) -> None:
        """Check that each load whose callers had all gone was reported once at most."""
        counts: Counter[object] = Counter()
        for report in self.reports:
            assert "failed when all its callers had gone" in report["message"], report
            error = report["exception"]
            counts[error.args[:2] if isinstance(error, Broken) else id(error)] += 1
        assert not counts or 1 == max(counts.values()), self.reports

    def anyone(self) -> Member:
        return self.dice.choice(self.members)

    async def work(self) -> None:
        for _ in range(self.dice.choice([1, 2, 3, 4])):
            kind = self.dice.choice(
                READS
                + CHANGES[: self.dice.choice([1, 4, 8])]
                + ["later", "wait_for", "wait_for", "warmup", "tick", "sleep"]
            )
            if self.dice.random() < 0.03:
                kind = "close"
            await self.try_to_use(self.anyone(), kind)

    async def try_to_use(self, member: Member, kind: str) -> None:
        try:
            await self.use(member, kind)
        except (Broken, DataLoaderCacheError, asyncio.TimeoutError) as error:
            self.say(f"came: {error!r}")

    async def use(self, member: Member, kind: str) -> None:
        """Do one thing with a cache."""
        dice, cache = self.dice, member.cache
        key = dice.choice(KEYS)
        task: Any = asyncio.current_task()
        self.say(f"{task.get_name()}: {kind} {member.name} {key}")
        if kind in CHANGES:
            self.change(member, kind, key)
        elif kind in READS:
            await self.read(member, kind, key)
        elif kind == "later":
            asking = asyncio.create_task(self.try_to_use(member, dice.choice(READS)))
            for _ in range(dice.randrange(15)):
                await asyncio.sleep(0)
            if dice.random() < 0.5:
                asking.cancel()
            await asyncio.wait([asking])
        elif kind == "wait_for":
            seconds = dice.choice([0, 0.001, 0.01, 0.03])
            await asyncio.wait_for(self.read(member, dice.choice(READS), key), seconds)
        elif kind == "warmup":
            await self.warm_up(member)
        elif kind == "tick":
            await asyncio.sleep(0)
        elif kind == "sleep":
            await asyncio.sleep(dice.choice([0.005, 0.01, 0.03]))
        elif kind == "close":
            member.is_closed = True
            await cache.aclose(dice.choice([0, 0.01]))
        for other in self.members:
            other.check_store()

    async def read(self, member: Member, kind: str, key: int) -> None:
        if kind == "many":
            await self.read_many(member)
            return
        dice, cache = self.dice, member.cache
        tags = dice.choice([[tag_of(key)], tag_by_value])
        seen = member.seen_by(key)
        try:
            if kind == "get":
                outcome = await cache.get(key, member.loader(key), tags=tags)
            elif kind == "batch":
                many = dice.choice([member.load_many, member.load_others])
                outcome = await cache.get(key, batch_loader=many, tags=tags)
            elif kind == "refresh":
                outcome = await cache.refresh(key, member.loader(key), tags=tags)
            else:
                outcome = await cache.get(key)
                if outcome is None:
                    return
        except Exception as error:
            member.check(key, seen, error)
            raise
        member.check(key, seen, outcome)

    async def read_many(self, member: Member) -> None:
        dice = self.dice
        keys = [dice.choice(KEYS) for _ in range(dice.randrange(6))]
        seen = {key: member.seen_by(key) for key in keys}
        many = dice.choice([member.load_many, member.load_others])
        return_exceptions = dice.random() < 0.5
        try:
            found = await member.cache.get_many(
                keys, many, tags=tag_by_value, return_exceptions=return_exceptions
            )
        except Broken as error:
            member.check(error.args[2], (0, 0), error)
            raise
        assert list(dict.fromkeys(keys)) == list(found)
        for key, outcome in found.items():
            member.check(key, seen[key], outcome)

    async def warm_up(self, member: Member) -> None:
        cache = member.cache
        loaders = {key: member.loader(key, of_warmup=True) for key in KEYS}
        absent = {key for key in KEYS if key not in cache}
        result = await cache.warmup(loaders, self.dice.choice([1, 2, 32]))
        assert absent == {*result.loaded, *result.failed}
        for key, error in result.failed.items():
            assert isinstance(key, int)
            member.check(key, (0, 0), error)

    def change(self, member: Member, kind: str, key: int) -> None:
        cache = member.cache
        if kind == "set":
            if not member.is_closed:
                member.note_removal(key)
                ttl = self.dice.choice([None, 0, 0.02])
                cache.set(key, member.value(key), ttl, tags=[tag_of(key)])
        elif kind == "delete":
            member.note_removal(key)
            cache.delete(key)
        elif kind == "expire":
            member.expiries[key] += 1
            cache.expire(key)
        elif kind == "invalidate":
            member.taggings.update(other for other in KEYS if tag_of(other) == tag_of(key))
            cache.invalidate_tag(tag_of(key))
        else:
            member.note_removal(*KEYS)
            cache.clear()


@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_nobody_hangs_and_nothing_old_is_kept_whatever_is_cancelled(first: int):
    """When all is quiet no caller waits, no task or slot is left, and every value is new enough."""
    for number in range(first, first + CHUNK):
        try:
            Schedule(number).run()
        except BaseException as error:
            raise AssertionError(
                f"schedule {number} failed: {error}\n"
                f"run it alone: PYTHONPATH=. python tests/test_cache_schedules.py {number}"
            ) from error


if __name__ == "__main__":
    Schedule(int(sys.argv[1]), print).run()
