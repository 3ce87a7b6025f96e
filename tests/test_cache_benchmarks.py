"""The benchmarks of caches: that they run for all contenders, and that what they say is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hit_ratio, memory, per_hit, soak
from benchmarks._caches import CACHES, FLOOR, CachePeer
from benchmarks._measure import Samples, in_fresh_loop, loop_factory
from benchmarks._peers import OURS, installed
from benchmarks._report import Verdict

ROOT = Path(__file__).parents[1]
PEERS = {peer.name: peer for peer in installed(CACHES)[0]}


def run_json(*arguments: str) -> Any:
    command = [sys.executable, "-m", *arguments, "--json"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "" == answer.stderr
    assert 0 == answer.returncode
    return json.loads(answer.stdout)


# -- the commands


def test_per_hit_gives_every_contender_that_has_the_call() -> None:
    """A row has a number for each library, unless the library has no such call."""
    document = run_json(*["benchmarks.per_hit", "--rounds", "2", "--calls", "10", "--callers", "5"])

    assert list(PEERS) == document["contenders"]
    assert 14 == len(document["rows"])
    assert {peer.distribution for peer in CACHES} < set(document["packages"])
    for row in document["rows"]:
        absent = set(PEERS) - set(row["results"])
        if row["work"].startswith("decorated"):
            assert {FLOOR} == absent
        elif "evicts" in row["work"]:
            assert {name for name, peer in PEERS.items() if not peer.is_bounded} == absent
        elif not row["work"].startswith("peek"):
            assert set() == absent, row["work"]
        for result in row["results"].values():
            assert 2 == len(result["samples"])


def test_memory_weighs_both_policies() -> None:
    """Entries of both policies are weighed, filled, replaced, and with refresh ahead."""
    document = run_json("benchmarks.memory", "--entries", "20")

    assert 2 * 3 == len(document["rows"])
    for row in document["rows"]:
        assert 0 < row["results"][OURS]["value"]
    assert set(PEERS) - {FLOOR} == set(document["rows"][0]["results"])


def test_the_soak_finds_the_cache_whole() -> None:
    """What comes back is right after thousands of operations, and from two threads."""
    document = run_json(
        *["benchmarks.soak", "--operations", "1000"],
        *["--threads", "2", "--threaded-operations", "400"],
    )

    flat, in_threads = document["rows"][:2], document["rows"][2:]
    assert [" 0 wrong"] * 2 == [row["verdict"]["measured"].split(",")[1] for row in flat]
    assert ["0 wrong"] * 2 == [row["verdict"]["measured"] for row in in_threads]


# -- the contenders


@pytest.mark.parametrize(
    "peer", [peer for name, peer in PEERS.items() if name != FLOOR], ids=lambda peer: peer.name
)
def test_a_contender_loads_once_and_then_hits(peer: CachePeer) -> None:
    """What is measured as a hit is one, in every library."""
    calls: list[str] = []

    async def load(key: str) -> str:
        calls.append(key)
        return f"v:{key}"

    async def work() -> list[Any]:
        cache = peer.make(load, 10, 60.0)
        return [await cache.load("a"), await cache.load("a"), await cache.get("a")]

    assert ["v:a"] * 3 == in_fresh_loop(loop_factory("asyncio"), work)
    assert ["a"] == calls


@pytest.mark.parametrize(
    "peer", [peer for name, peer in PEERS.items() if name != FLOOR], ids=lambda peer: peer.name
)
def test_a_decorated_function_runs_once(peer: CachePeer) -> None:
    """What is measured as a hit of a decorated function or method is one."""
    calls: list[object] = []

    async def function(key: str, limit: int = 10) -> str:
        calls.append((key, limit))
        return key

    class Repository:
        @peer.decorator(True)
        async def load(self, key: str) -> str:
            calls.append(key)
            return key

    async def work() -> list[Any]:
        decorated = peer.decorator(False)(function)
        load: Any = Repository().load
        values = [await decorated("a", limit=20), await decorated("a", limit=20)]
        return [*values, await load("b"), await load("b")]

    assert ["a", "a", "b", "b"] == in_fresh_loop(loop_factory("asyncio"), work)
    assert [("a", 20), "b"] == calls


# -- what is computed


def judged(work: str, **microseconds: float) -> Verdict:
    [case] = [case for case in per_hit._cases(per_hit.Settings()) if case.work == work]
    results = {name.replace("_", "-"): Samples([taken]) for name, taken in microseconds.items()}
    verdict = per_hit._verdict(case, results)
    assert verdict is not None
    return verdict


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the targets are for 3.11 and newer")
def test_a_hit_has_three_targets() -> None:
    """A hit is judged against two libraries and a coroutine around a dict: all must be met."""
    peers = {"async_cache": 8.0, "async_lru": 4.0}

    verdict = judged("hit: await get(key)", ours=2.0, dict=1.0, **peers)
    assert "≤ 0.25 x async-cache, ≤ 0.5 x async-lru, ≤ 2.5 x dict" == verdict.target
    assert "0.25 x async-cache, 0.50 x async-lru, 2.00 x dict" == verdict.measured
    assert "met" == verdict.text
    assert "NOT met" == judged("hit: await get(key)", ours=2.0, dict=0.7, **peers).text
    assert "-" == judged("hit: await get(key)", ours=2.0).text


def test_a_decorated_hit_has_two_targets() -> None:
    """A decorated function's hit is judged against two libraries, and a miss is not judged."""
    peers = {"async_cache": 10.0, "async_lru": 1.5}

    assert "met" == judged("decorated: f(str)", ours=1.2, **peers).text
    assert "NOT met" == judged("decorated: f(str)", ours=1.21, **peers).text
    assert "-" == judged("miss: await get(key, loader), TTL", ours=99, **peers).text


def test_memory_is_judged_in_bytes() -> None:
    """A full cache has a limit; one whose entries were replaced is shown."""
    cells = {OURS: memory.Cell(200.0)}

    verdicts = [memory._row("work", cells, limit).verdict for limit in (200, 199, None)]
    assert ["met", "NOT met", "-"] == [each.text for each in verdicts if each is not None]


def test_the_optimum_is_the_best_that_a_cache_can_do() -> None:
    """Belady keeps what comes back first: by hand, and never worse than the policies."""
    assert 2 == hit_ratio.belady([1, 2, 3, 1, 2, 4, 1], 2)
    for requests in hit_ratio.workloads(hit_ratio.Settings(2000, 100)).values():
        for policy in (hit_ratio.lru, hit_ratio.s3fifo):
            assert policy(requests, 10) <= hit_ratio.belady(requests, 10)


def test_lru_and_s3fifo_differ_where_they_should() -> None:
    """A scan empties an LRU; S3-FIFO keeps what was used more than once."""
    hot = [1, 2] * 10
    requests = [*hot, *range(100, 120), *hot]

    assert 18 + 18 == hit_ratio.lru(requests, 10)
    assert 18 + 20 == hit_ratio.s3fifo(requests, 10)


def test_our_policies_are_those_of_the_literature() -> None:
    """Ours hits as often as the reference LRU, and within a point of the paper's S3-FIFO."""
    rows = hit_ratio.measure(hit_ratio.Settings(requests=20_000, keys=2_000))

    assert 4 * 2 == len(rows)
    assert ["met"] * 8 == [row.verdict.text for row in rows if row.verdict is not None]


def test_workloads_are_the_same_in_every_run() -> None:
    """The seed is fixed, and each workload has as many requests as were asked for."""
    settings = hit_ratio.Settings(1000, 100)
    made = hit_ratio.workloads(settings)

    assert made == hit_ratio.workloads(settings)
    assert ["zipf", "scan", "loop", "shifting"] == list(made)
    assert [1000] * 4 == [len(requests) for requests in made.values()]


def test_memory_that_grows_is_not_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soak's target is missed by a cache that takes more and more, or gives a wrong value."""
    settings, factory = soak.Settings(operations=8), loop_factory("asyncio")

    def verdict_of(taken: list[float], wrong: int) -> str:
        async def soaked(*_: object) -> tuple[list[float], int]:
            return taken, wrong

        monkeypatch.setattr(soak, "_soak", soaked)
        verdict = soak._soak_row("lru", factory, settings).verdict
        return "" if verdict is None else verdict.text

    assert "met" == verdict_of([1e6, 1.2e6, 1.1e6, 1.25e6, 1.1e6, 1e6, 1e6, 1e6], 0)
    assert "NOT met" == verdict_of([1e6, 1.2e6, 1.3e6, 1.4e6, 1.5e6, 1.6e6, 1.7e6, 1.8e6], 0)
    assert "NOT met" == verdict_of([1e6] * 8, 1)
