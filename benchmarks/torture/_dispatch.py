"""Batches that depend on one another, on their size, on a loop and on a context."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from benchmarks.torture._contenders import Contender, Loader, NotApplicableError
from benchmarks.torture._row import GROUPS, OK, Outcome, Source, ask, outcome, outcomes, row, told

__all__: list[str] = []

SIZES, NESTED, CONTEXTS = GROUPS[3:6]


async def _limited(contender: Contender, limit: object) -> str:
    source = Source()
    try:
        loader = contender.make(source.load, max_batch_size=limit)
    except (TypeError, ValueError):
        return OK
    loads = [ask(loader, key) for key in range(1, 6)]
    for got in await outcomes(loads):
        if got.state == "spins":
            return "spins for ever"
        if got.state == "hangs":
            return "hangs"
        if got.failed():
            return f"{type(got.error).__name__} at a load"
    sizes = {len(keys) for keys in source.calls}
    return "no limit at all" if sizes == {5} else f"batches of {', '.join(map(str, sorted(sizes)))}"


@row(SIZES, "`max_batch_size=0`")
async def max_batch_size_zero(contender: Contender) -> str:
    return await _limited(contender, 0)


@row(SIZES, "`max_batch_size=-1`")
async def max_batch_size_negative(contender: Contender) -> str:
    return await _limited(contender, -1)


@row(SIZES, '`max_batch_size="2"`')
async def max_batch_size_text(contender: Contender) -> str:
    return await _limited(contender, "2")


@row(SIZES, "a lone key waits for its window beside a busy task", timed=True)
async def lone_key(contender: Contender) -> str:
    ticks = 0

    async def spin() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    source = Source()
    loader = contender.make(source.load)
    spinning = asyncio.create_task(spin())
    await asyncio.sleep(0.001)
    before = ticks
    load = ask(loader, 1)
    while not source.calls and ticks < 1_000_000:  # noqa: ASYNC110  (ticks are what is counted)
        await asyncio.sleep(0)
    waited = ticks - before
    spinning.cancel()
    await outcome(load)
    if waited < 20:
        return OK
    return f"waits {waited} ticks" if waited < 100 else "waits for a timer of milliseconds"


@row(SIZES, "two batch functions of 100 ms are used at once")
async def two_batch_functions(contender: Contender) -> str:
    running: set[str] = set()
    most = 0

    async def run(name: str) -> None:
        nonlocal most
        running.add(name)
        most = max(most, len(running))
        await asyncio.sleep(0.1)
        running.discard(name)

    async def one(keys: list[int]) -> object:
        await run("one")
        return keys

    async def other(keys: list[int]) -> object:
        await run("other")
        return keys

    first, second = contender.pair(one, other)
    got = await outcomes([ask(first, 1), ask(second, 101)])
    return told(
        *(f"a caller {each}" for each in got if each.state != "value"),
        "they run one after the other" if most < 2 else None,
    )


@row(NESTED, "a batch function loads from another loader")
async def loads_from_another(contender: Contender) -> str:
    async def users(keys: list[int]) -> object:
        return [await posts.load(100 + key) for key in keys]

    loader, posts = contender.pair(users, Source().load)
    got = await outcome(ask(loader, 1))
    return told(None if got.found("v101") else str(got))


@row(NESTED, "a batch function loads its own keys: `[await loader.load(k) for k in keys]`")
async def loads_its_own_key(contender: Contender) -> str:
    async def batch(keys: list[int]) -> object:
        return [await loader.load(key) for key in keys]

    loader = contender.make(batch)
    got = await outcome(ask(loader, 1))
    return told(None if got.failed() else str(got))


@row(NESTED, "two loaders load each other's keys in a circle")
async def loads_in_a_circle(contender: Contender) -> str:
    async def there(keys: list[int]) -> object:
        return [await second.load(100 + key) for key in keys]

    async def back(keys: list[int]) -> object:
        return [await first.load(key - 100) for key in keys]

    first, second = contender.pair(there, back)
    got = await outcome(ask(first, 1))
    return told(None if got.failed() else str(got))


async def _tree(make: Contender, **options: object) -> str:
    async def path_of(key: int) -> str:
        return f"{await loader.load(key // 2)}/{key}" if key > 1 else "1"

    async def batch(keys: list[int]) -> object:
        return await asyncio.gather(*map(path_of, keys))

    loader: Loader = make.make(batch, **options)
    loads = [ask(loader, 5), ask(loader, 6)]
    got = await outcomes(loads)
    paths = ("1/2/5", "1/3/6")
    return told(
        next(
            (str(each) for each, path in zip(got, paths, strict=True) if not each.found(path)), None
        )
    )


@row(NESTED, "a tree's batch function loads the parents of its keys from itself")
async def loads_parents(contender: Contender) -> str:
    return await _tree(contender)


@row(NESTED, "the same, when no more than one batch may run at a time")
async def loads_parents_one_at_a_time(contender: Contender) -> str:
    return await _tree(contender, max_concurrent_batches=1)


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def _as(who: str, loader: Loader, key: int) -> object:
    tenant.set(who)
    return await loader.load(key)


@row(CONTEXTS, "two callers with contexts of their own share a batch")
async def two_contexts(contender: Contender) -> str:
    seen: list[str] = []

    async def batch(keys: list[int]) -> object:
        seen.append(tenant.get())
        return keys

    loader = contender.make(batch)
    alice = asyncio.create_task(_as("alice", loader, 1))
    mallory = asyncio.create_task(_as("mallory", loader, 2))
    await outcome(alice)
    await outcome(mallory)
    return (
        "it runs as the first caller, for both"
        if seen == ["alice"]
        else OK
        if seen == ["nobody"]
        else f"runs as {seen}"
    )


async def _rows_of_the_tenant(keys: list[int]) -> object:
    return [f"row {key} of alice" if tenant.get() == "alice" else PermissionError() for key in keys]


@row(
    CONTEXTS,
    "a loader for the whole process authorises in its batch function; another user loads later",
)
async def authorises_then_another(contender: Contender) -> str:
    loader = contender.make(_rows_of_the_tenant)
    await outcome(asyncio.create_task(_as("alice", loader, 1)))
    mallory = await outcome(asyncio.create_task(_as("mallory", loader, 1)))
    return "mallory gets alice's row" if mallory.found("row 1 of alice") else OK


@row(CONTEXTS, "the same with the cache off; another user loads in the same tick")
async def authorises_for_two(contender: Contender) -> str:
    loader = contender.make(_rows_of_the_tenant, cache=False)
    loads = [asyncio.create_task(_as(who, loader, 1)) for who in ("alice", "mallory")]
    got = await outcomes(loads)
    return "mallory gets alice's row" if got[1].found("row 1 of alice") else OK


@row(CONTEXTS, "one loader is used in two `asyncio.run`, one after the other")
def two_runs(contender: Contender) -> str:
    async def batch(keys: list[int]) -> object:
        await asyncio.sleep(0.02)
        return keys

    loader = contender.make(batch)

    async def load(key: int) -> object:
        return await loader.load(key)

    async def main(*keys: int) -> list[Outcome]:
        loads = []
        for key in keys:  # the second is asked for while the batch of the first runs
            loads.append(asyncio.create_task(load(key)))
            await asyncio.sleep(0.01)
        return await outcomes(loads)

    for run, keys in (("even in the first", (1, 2)), ("in the second", (3, 4))):
        for got in asyncio.run(main(*keys)):
            text = str(got.error)
            if got.failed() and "loader" in text and "loop" in text:
                continue  # it says what is wrong, and nobody waits
            if got.state != "value":
                return f"{run}: " + (
                    f"{type(got.error).__name__} “{_shortened(text)}”" if got.error else got.state
                )
    return OK


def _shortened(text: str) -> str:
    for phrase in ("different loop", "different event loop", "loop is closed"):
        if phrase in text:
            return f"… {phrase}"
    return text[:60]


@row(CONTEXTS, "`load` is called where no event loop runs")
def without_a_loop(contender: Contender) -> str:
    if contender.is_cache:  # its `get` is a coroutine, which does nothing yet
        raise NotApplicableError
    loader = contender.make(Source().load)
    try:
        loader.load(1)
    except RuntimeError:
        return OK
    return "it returns a future that nothing will ever settle"
