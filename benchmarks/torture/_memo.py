"""The memo against loads in flight: `clear`, `prime`, and who may write last."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from benchmarks.torture._contenders import Contender, NotApplicableError
from benchmarks.torture._row import GROUPS, OK, Source, ask, outcome, row, told

__all__: list[str] = []

GROUP = GROUPS[2]


class _Gated(Source):
    """A batch function with a gate and an answer of its own for each call."""

    def __init__(self, *answers: object) -> None:
        super().__init__()
        self.answers = answers
        self.gates = [asyncio.Event() for _ in answers]

    async def load(self, keys: list[int]) -> object:
        call = len(self.calls)
        self.calls.append(list(keys))
        self._called.set()
        if call >= len(self.answers):
            return self.answer(keys)
        await self.gates[call].wait()
        answer = self.answers[call]
        if isinstance(answer, Exception):
            raise answer
        return [answer] * len(keys)


@row(GROUP, "a key that was never loaded is cleared")
async def clears_absent(contender: Contender) -> str:
    loader = contender.make(Source().load)
    try:
        loader.clear(1)
    except Exception as error:
        return type(error).__name__
    return OK


@row(GROUP, "a key is cleared while its load is in flight; it is loaded again later")
async def cleared_in_flight(contender: Contender) -> str:
    source = _Gated("old")
    loader = contender.make(source.load)
    first = ask(loader, 1)
    await source.called()
    loader.clear(1)
    source.gates[0].set()
    await outcome(first)
    later = await outcome(ask(loader, 1))
    if later.found("v1"):
        return OK
    return (
        "the stale value is stored and served" if later.found("old") else f"the later load {later}"
    )


@row(GROUP, "a key is cleared and loaded again while its older load runs")
async def reloaded_in_flight(contender: Contender) -> str:
    source = _Gated("old")
    loader = contender.make(source.load)
    first = ask(loader, 1)
    await source.called()
    loader.clear(1)
    second = ask(loader, 1)
    await source.called(2, 0.1)
    source.gates[0].set()
    got = [await outcome(first), await outcome(second), await outcome(ask(loader, 1))]
    return told(
        None if got[0].state == "value" else f"the first caller {got[0]}",
        None
        if got[1].found("v1")
        else "the new load gets the stale value"
        if got[1].found("old")
        else f"the new load {got[1]}",
        None
        if got[2].found("v1") or not got[1].found("v1")
        else "the stale value overwrites the new one",
    )


@row(GROUP, "a key is cleared and loaded again; then its older batch fails")
async def older_failure_and_newer_load(contender: Contender) -> str:
    source = _Gated(ConnectionError(), "new")
    loader = contender.make(source.load)
    first = ask(loader, 1)
    await source.called()
    loader.clear(1)
    second = ask(loader, 1)
    await source.called(2, 0.1)
    source.gates[0].set()
    await outcome(first)
    third = ask(loader, 1)
    await source.called(3, 0.1)
    source.gates[1].set()
    got = [await outcome(second), await outcome(third)]
    wrong = [each for each in got if not each.found("new")]
    if any(each.failed() for each in wrong):
        return "the newer load gets the older error"
    if len(source.calls) > 2:
        return "the newer load is evicted, the key asked for a third time"
    return told(*(f"a newer load {each}" for each in wrong))


async def _primed_over(contender: Contender, older: object) -> str:
    source = _Gated(older)
    loader = contender.make(source.load)
    first = ask(loader, 1)
    await source.called()
    loader.clear(1)
    loader.prime(1, "primed")
    source.gates[0].set()
    await outcome(first)
    later = await outcome(ask(loader, 1))
    if later.found("primed"):
        return OK
    if later.found("v1"):
        return "the primed value is evicted"
    return (
        "the older value overwrites the primed one"
        if later.found(older)
        else f"a later load {later}"
    )


@row(GROUP, "a key is cleared and primed while its older batch runs, which then fails")
async def older_failure_and_primed(contender: Contender) -> str:
    return await _primed_over(contender, ConnectionError())


@row(GROUP, "a key is cleared and primed while its older batch runs, which then succeeds")
async def older_success_and_primed(contender: Contender) -> str:
    return await _primed_over(contender, "old")


@row(GROUP, "an `Exception` is primed, then loaded")
async def primes_an_error(contender: Contender) -> str:
    if contender.is_cache:  # a cache's `set` promises nothing else
        raise NotApplicableError
    loader = contender.make(Source().load)
    loader.prime(1, ValueError())
    got = await outcome(ask(loader, 1))
    if got.failed(ValueError):
        return OK
    return "the exception is handed out as a value" if got.state == "value" else f"the load {got}"


@row(GROUP, "a key is primed while a `load_many` that holds it waits for its batch")
async def primes_inside_load_many(contender: Contender) -> str:
    source = Source()
    loader = contender.make(source.load)
    many = asyncio.ensure_future(loader.load_many([1, 2]))
    loader.prime(2, "primed")
    got = await outcome(many)
    if got.found(["v1", "primed"]):
        return OK if source.calls == [[1]] else "the primed key is asked for all the same"
    return "the primed value is ignored" if got.found(["v1", "v2"]) else f"the load {got}"


@row(GROUP, "`load_many` is given an unhashable key after a good one")
async def unhashable_in_load_many(contender: Contender) -> str:
    source = Source()
    loader = contender.make(source.load)
    try:
        got = await outcome(loader.load_many([1, cast("Any", []), 3]))
    except TypeError:
        pass
    else:
        if not got.failed(TypeError):
            return f"the load {got}"
    await source.called(1, 0.05)
    return "the call fails, and the keys before are loaded for nobody" if source.calls else OK


@row(GROUP, "a finished key is loaded while a batch is open that then fails")
async def hit_beside_a_failure(contender: Contender) -> str:
    source = _Gated("v1", ConnectionError())
    for gate in source.gates:
        gate.set()
    loader = contender.make(source.load)
    await outcome(ask(loader, 1))
    other = ask(loader, 2)
    hit = ask(loader, 1)
    got = await outcome(hit)
    await outcome(other)
    return told(None if got.found("v1") else f"the hit {got}")


@row(GROUP, "a finished key is loaded while a batch is open whose only caller then leaves")
async def hit_beside_an_emptied_batch(contender: Contender) -> str:
    loader = contender.make(Source().load)
    await outcome(ask(loader, 1))
    other = ask(loader, 2)
    hit = ask(loader, 1)
    other.cancel()
    got = await outcome(hit)
    return told(None if got.found("v1") else f"the hit {got}")
