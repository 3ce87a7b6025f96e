"""Batch functions that end badly: wrong shapes, odd exceptions, errors that stay."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Callable

from benchmarks.torture._contenders import BatchFunction, Contender, NotApplicableError
from benchmarks.torture._row import (
    GROUPS,
    OK,
    PATIENCE,
    Outcome,
    Source,
    ask,
    outcome,
    outcomes,
    row,
    told,
)

__all__: list[str] = []

GROUP = GROUPS[1]


def _answering(answer: Callable[[list[int]], object]) -> BatchFunction:
    async def batch(keys: list[int]) -> object:
        await asyncio.sleep(0)
        return answer(keys)

    return batch


async def _three(contender: Contender, batch: BatchFunction) -> list[Outcome]:
    loader = contender.make(batch)
    loads = [ask(loader, key) for key in (1, 2, 3)]
    return await outcomes(loads)


def _unsettled(outcomes: list[Outcome]) -> str:
    """Name the worst that happened to the callers of a failed batch; an error each is right."""
    for state, said in (
        ("spins", "spins"),
        ("hangs", "hangs"),
        ("cancelled", "the callers are cancelled"),
    ):
        count = sum(got.state == state for got in outcomes)
        if count:
            return (
                said
                if count == len(outcomes) or state == "cancelled"
                else f"{count} of {len(outcomes)} callers hang"
            )
    values = [got.value for got in outcomes if got.state == "value"]
    return f"hands out {values}" if values else OK


@row(GROUP, "the batch function raises `CancelledError`")
async def raises_cancelled_error(contender: Contender) -> str:
    async def batch(keys: list[int]) -> object:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    return _unsettled(await _three(contender, batch))


@row(GROUP, "the batch function raises a `BaseException` that is no `Exception`")
async def raises_base_exception(contender: Contender) -> str:
    class Exit(BaseException):
        pass

    async def batch(keys: list[int]) -> object:
        await asyncio.sleep(0)
        raise Exit

    return _unsettled(await _three(contender, batch))


@row(GROUP, "the batch function raises `SystemExit`; its callers clean up after it")
def raises_system_exit(contender: Contender) -> str:
    async def batch(keys: list[int]) -> object:
        await asyncio.sleep(0)
        raise SystemExit

    loads: list[asyncio.Future[object]] = []

    async def main() -> None:
        loader = contender.make(batch)
        loads.extend(ask(loader, key) for key in (1, 2, 3))
        await asyncio.wait(loads)

    async def clean_up() -> list[Outcome]:
        return await outcomes(loads)

    loop = asyncio.new_event_loop()
    propagated = False
    try:
        loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
    except SystemExit:
        propagated = True
    except asyncio.TimeoutError:
        pass
    verdict = _unsettled(loop.run_until_complete(clean_up()))
    return told(None if propagated else "the exit is swallowed", None if verdict == OK else verdict)


@row(GROUP, "the batch function raises when it is called, before it gives an awaitable")
async def raises_when_called(contender: Contender) -> str:
    async def batch(keys: list[int], database: object) -> object:
        return keys

    # The usual way to this: a `partial` that forgets an argument.
    return _unsettled(await _three(contender, functools.partial(batch)))  # pyright: ignore[reportArgumentType]


@row(GROUP, "the batch function clears its list of keys, and answers rightly")
async def clears_its_keys(contender: Contender) -> str:
    def answer(keys: list[int]) -> object:
        values = [f"v{key}" for key in keys]
        keys.clear()
        return values

    got = await _three(contender, _answering(answer))
    if [each.value for each in got] == ["v1", "v2", "v3"]:
        return OK
    return "hangs" if got[0].state == "hangs" else f"every caller {got[0]}"


@row(GROUP, "a `StopIteration` stands in the place of one value")
async def stop_iteration_value(contender: Contender) -> str:
    got = await _three(contender, _answering(lambda keys: ["v1", StopIteration(), "v3"]))
    hanging = sum(each.state == "hangs" for each in got)
    if hanging:
        return f"{hanging} of 3 callers hang"
    if got[1].state == "value":
        return "the exception is handed out as a value"
    return told(
        *(
            f"another caller {each}"
            for each, value in ((got[0], "v1"), (got[2], "v3"))
            if not each.found(value)
        )
    )


@row(GROUP, "an `Exception` stands in the place of one value")
async def per_key_error(contender: Contender) -> str:
    got = await _three(contender, _answering(lambda keys: ["v1", ValueError("no 2"), "v3"]))
    if got[1].state == "value":
        return "the exception is handed out, and cached, as a value"
    return told(
        *(
            f"another caller {each}"
            for each, value in ((got[0], "v1"), (got[2], "v3"))
            if not each.found(value)
        )
    )


async def _then_works(
    contender: Contender, broken: Callable[[list[int]], object]
) -> tuple[Outcome, Outcome]:
    class Flaky(Source):
        def answer(self, keys: list[int]) -> object:
            return broken(keys) if len(self.calls) == 1 else super().answer(keys)

    loader = contender.make(Flaky().load)
    return await outcome(ask(loader, 1)), await outcome(ask(loader, 1))


@row(GROUP, "a batch fails once; the key is loaded again")
async def fails_once(contender: Contender) -> str:
    def broken(keys: list[int]) -> object:
        raise ConnectionError

    _, again = await _then_works(contender, broken)
    return OK if again.found("v1") else "the error is replayed for ever"


@row(GROUP, "a key has an error once; it is loaded again")
async def key_fails_once(contender: Contender) -> str:
    _, again = await _then_works(contender, lambda keys: [ConnectionError()])
    if again.found("v1"):
        return OK
    return (
        "the error is replayed for ever"
        if again.failed()
        else "the exception stays cached as a value"
    )


def _refused_or(outcomes: list[Outcome], said: str) -> str:
    return said if all(got.state == "value" for got in outcomes) else _unsettled(outcomes)


@row(GROUP, "the batch function returns a dict")
async def returns_dict(contender: Contender) -> str:
    got = await _three(
        contender, _answering(lambda keys: {key: f"v{key}" for key in reversed(keys)})
    )
    values = [each.value for each in got]
    if values == ["v1", "v2", "v3"]:
        return OK
    return _refused_or(
        got,
        "the keys are handed out as values" if set(values) == {1, 2, 3} else f"hands out {values}",
    )


@row(GROUP, "the batch function returns a `str`")
async def returns_str(contender: Contender) -> str:
    got = await _three(contender, _answering(lambda keys: "abc"))
    return _refused_or(got, "its characters are handed out as values")


@row(GROUP, "the batch function returns a set")
async def returns_set(contender: Contender) -> str:
    got = await _three(contender, _answering(lambda keys: {f"v{key}" for key in keys}))
    return _refused_or(got, "values in an arbitrary order")


@row(GROUP, "the batch function returns `None`")
async def returns_none(contender: Contender) -> str:
    return _unsettled(await _three(contender, _answering(lambda keys: None)))


@row(GROUP, "the batch function returns one value too few")
async def returns_too_few(contender: Contender) -> str:
    class Short(Source):
        def answer(self, keys: list[int]) -> object:
            values = [f"v{key}" for key in keys]
            return values[:-1] if len(self.calls) == 1 else values

    loader = contender.make(Short().load)
    loads = [ask(loader, key) for key in (1, 2, 3)]
    got = await outcomes(loads)
    if got[2].found(None):
        again = await outcome(ask(loader, 3))
        return "`None` is handed out" + (" and cached" if again.found(None) else "")
    return _unsettled(got)


@row(GROUP, "the batch function returns one value too many")
async def returns_too_many(contender: Contender) -> str:
    got = await _three(contender, _answering(lambda keys: ["v0", *(f"v{key}" for key in keys)]))
    return _refused_or(got, "every caller gets its neighbour's value")


@row(GROUP, "a batch of 50 fails; the result of one is awaited")
async def reports_of_a_failed_batch(contender: Contender) -> str:
    if contender.is_cache:  # its `get` is a coroutine: what nobody awaits does not run
        raise NotApplicableError
    reports: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))

    async def batch(keys: list[int]) -> object:
        await asyncio.sleep(0)
        raise ConnectionError

    loader = contender.make(batch)
    loads = [ask(loader, key) for key in range(1, 51)]
    await outcome(loads[0])
    loads.clear()
    del loader
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0)
    return OK if len(reports) <= 1 else f"{len(reports)} reports in the loop's exception handler"
