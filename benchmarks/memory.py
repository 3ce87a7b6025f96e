"""What a cached entry takes beside its key and value, in a full cache whose entries have a TTL.

python -m benchmarks.memory [--json] [--entries N] [--loop asyncio|uvloop]
"""

from __future__ import annotations

import argparse
import gc
import sys
import tracemalloc
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import Any

from benchmarks._caches import CACHES, FLOOR, Cache, CachePeer, ours
from benchmarks._measure import LoopFactory, in_fresh_loop, loop_factory, say
from benchmarks._peers import OURS, installed
from benchmarks._report import Cell, Report, Row, Verdict, add_options

__all__ = ["NOTES", "Settings", "main", "measure"]

Make = Callable[[int], Cache]

_TTL = 3600.0
_MOST_BYTES = 200
_MOST_BYTES_WITH_REFRESH = 220
_UNSEEN = "allocates out of sight of tracemalloc, so it takes more than is shown"


@dataclass(frozen=True)
class Settings:
    """How much to measure. `turnover` is how often all entries are replaced by others.

    `peers` says whether to measure the other libraries too, which takes minutes.
    """

    entries: int = 100_000
    turnover: int = 2
    peers: bool = True


async def _value_of(key: str) -> str:
    return key


async def _fill(make: Make, settings: Settings, replaced: int) -> float:
    """Give the bytes per entry of a cache that was filled, and whose entries were replaced."""
    entries = settings.entries
    keys = [f"user:{number}" for number in range(entries * (1 + replaced))]
    cache = make(entries)
    gc.collect()
    tracemalloc.start()
    try:
        for key in keys:
            # The key is the value, so that neither counts.
            done = cache.load(key) if cache.store is None else cache.store(key, key)
            if isawaitable(done):
                await done
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / entries
    finally:
        tracemalloc.stop()


def _our_makers(**options: Any) -> dict[str, Make]:
    return {
        "lru": lambda size: ours(_value_of, size, _TTL, "lru", **options),
        "s3fifo": lambda size: ours(_value_of, size, _TTL, "s3fifo", **options),
    }


def _theirs(peer: CachePeer, maxsize: int) -> Cache:
    return peer.make(_value_of, maxsize, _TTL)


def measure(peers: Sequence[CachePeer], factory: LoopFactory, settings: Settings) -> list[Row]:
    """Measure what an entry takes in each cache; the peers have no second policy."""
    others = [peer for peer in peers if settings.peers and peer.name not in (OURS, FLOOR)]
    has_ours = any(peer.name == OURS for peer in peers)

    def weigh(make: Make, replaced: int) -> float:
        work: Callable[[], Coroutine[Any, Any, float]] = partial(_fill, make, settings, replaced)
        return in_fresh_loop(factory, work)

    rows: list[Row] = []
    for policy in ("lru", "s3fifo"):
        for replaced in (0, settings.turnover):
            work = f"entry with TTL, {policy}" + (f", after {replaced} x as many" * (replaced > 0))
            say(work)
            cells: dict[str, Cell] = {}
            if has_ours:
                cells[OURS] = Cell(weigh(_our_makers()[policy], replaced))
            if policy == "lru" and not replaced:
                for peer in others:
                    mark, remark = ("", "") if peer.is_seen else (">", _UNSEEN)
                    found = weigh(partial(_theirs, peer), replaced)
                    cells[peer.name] = Cell(found, mark, (), remark)
            rows.append(_row(work, cells, None if replaced else _MOST_BYTES))
        work = f"entry with TTL and refresh ahead, {policy}"
        if has_ours:
            found = weigh(_our_makers(refresh_ahead=0.8)[policy], 0)
            rows.append(_row(work, {OURS: Cell(found)}, _MOST_BYTES_WITH_REFRESH))
    say("")
    return rows


def _row(work: str, cells: dict[str, Cell], limit: int | None) -> Row:
    verdict = None
    if OURS in cells:
        taken = cells[OURS].value
        verdict = Verdict("", f"{taken:.0f} bytes")
        if limit is not None:
            verdict = Verdict(f"≤ {limit} bytes", f"{taken:.0f} bytes", taken <= limit)
    return Row(work, "bytes", cells, verdict, digits=0)


NOTES = (
    "Bytes are those that tracemalloc counts per entry of a full cache, over its key and value. "
    "`after 2 x as many`: and then all entries were replaced twice; s3fifo remembers keys.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its report and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    add_options(parser)
    parser.add_argument("--entries", type=int, default=Settings().entries)
    options = parser.parse_args(arguments)
    peers, left_out = installed(CACHES)
    settings = Settings(entries=options.entries)
    rows = measure(peers, loop_factory(options.loop), settings)
    names = [peer.name for peer in peers if peer.name != FLOOR]
    report = Report(options.loop, names, left_out, rows, list(NOTES), known=CACHES)
    return report.finish(options)


if __name__ == "__main__":
    sys.exit(main())
