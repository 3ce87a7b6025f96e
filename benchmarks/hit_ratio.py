"""How many requests find their value: both eviction policies on generated workloads.

python -m benchmarks.hit_ratio [--json] [--requests N]

Beside them: a reference LRU, a transcription of S3-FIFO as its authors give it, and the optimum,
which knows the future (Belady). The workloads are the same in every run.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from typing import Any

from benchmarks._caches import CACHES
from benchmarks._measure import say
from benchmarks._peers import OURS
from benchmarks._report import Cell, Report, Row, Verdict, add_options

__all__ = [
    "COLUMNS",
    "NOTES",
    "Settings",
    "belady",
    "lru",
    "main",
    "measure",
    "s3fifo",
    "workloads",
]

OUR_LRU, OUR_S3FIFO = f"{OURS}, lru", f"{OURS}, s3fifo"
COLUMNS = (OUR_LRU, "LRU", OUR_S3FIFO, "S3-FIFO", "optimum")

_POINTS = 1.0
_SEED = 20231023


@dataclass(frozen=True)
class Settings:
    """How many requests, to how many keys; each cache has room for `shares` of the keys."""

    requests: int = 100_000
    keys: int = 2_000
    shares: tuple[float, ...] = (0.01, 0.1)


def workloads(settings: Settings) -> dict[str, list[int]]:
    """Make the requests of every workload."""
    zipf = _zipf(settings.keys, 1.0)
    random_ = random.Random(_SEED)
    count = settings.requests
    return {
        "zipf": [zipf(random_) for _ in range(count)],
        "scan": _with_scans(zipf, random_, settings),
        "loop": _loops(zipf, random_, settings),
        "shifting": _shifting(zipf, random_, settings),
    }


def _zipf(keys: int, skew: float) -> Callable[[random.Random], int]:
    """Draw keys of which the n-th is asked for 1/n^skew times as often as the first."""
    upto = list(accumulate(1 / rank**skew for rank in range(1, keys + 1)))
    return lambda source: bisect_left(upto, source.random() * upto[-1])


def _with_scans(
    zipf: Callable[[random.Random], int], source: random.Random, settings: Settings
) -> list[int]:
    """Read, in long runs, keys that nobody asks for again: a fifth of the requests."""
    once = settings.keys
    length = max(1, settings.keys // 5)
    requests: list[int] = []
    while len(requests) < settings.requests:
        requests += [zipf(source) for _ in range(4 * length)]
        requests += range(once, once + length)
        once += length
    return requests[: settings.requests]


def _loops(
    zipf: Callable[[random.Random], int], source: random.Random, settings: Settings
) -> list[int]:
    """Go round a circle somewhat larger than the larger cache with every second request."""
    length = max(1, round(1.2 * settings.keys * max(settings.shares)))
    return [
        settings.keys + number // 2 % length if number % 2 else zipf(source)
        for number in range(settings.requests)
    ]


def _shifting(
    zipf: Callable[[random.Random], int], source: random.Random, settings: Settings
) -> list[int]:
    """Change what is popular ten times."""
    period = max(1, settings.requests // 10)
    return [
        (zipf(source) + number // period * settings.keys // 10) % settings.keys
        for number in range(settings.requests)
    ]


def lru(requests: Sequence[int], maxsize: int) -> int:
    """Count the hits of a cache that evicts what was used the longest time ago."""
    cached: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in requests:
        if key in cached:
            hits += 1
            cached.move_to_end(key)
            continue
        if len(cached) >= maxsize:
            cached.popitem(last=False)
        cached[key] = None
    return hits


def belady(requests: Sequence[int], maxsize: int) -> int:
    """Count the hits of a cache that evicts what is asked for again last."""
    never = len(requests)
    following = [never] * len(requests)
    seen: dict[int, int] = {}
    for moment in range(len(requests) - 1, -1, -1):
        following[moment] = seen.get(requests[moment], never)
        seen[requests[moment]] = moment
    cached: dict[int, int] = {}
    furthest: list[tuple[int, int]] = []
    hits = 0
    for moment, key in enumerate(requests):
        if key in cached:
            hits += 1
        elif len(cached) >= maxsize:
            while True:
                when, candidate = heapq.heappop(furthest)
                if cached.get(candidate) == -when:
                    del cached[candidate]
                    break
        cached[key] = following[moment]
        heapq.heappush(furthest, (-following[moment], key))
    return hits


class _Paper:
    """S3-FIFO, algorithm 1 of Yang et al., "FIFO queues are all you need for cache eviction".

    Its names and its steps: small queue S, main queue M, ghost queue G. G holds as many keys as M
    holds entries.
    """

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.small_size = max(1, maxsize // 10)
        self.ghost_size = max(1, maxsize - self.small_size)
        self.small: deque[int] = deque()
        self.main: deque[int] = deque()
        self.ghost: OrderedDict[int, None] = OrderedDict()
        self.freq: dict[int, int] = {}

    def read(self, key: int) -> bool:
        if key in self.freq:
            self.freq[key] = min(self.freq[key] + 1, 3)
            return True
        self.insert(key)
        return False

    def insert(self, key: int) -> None:
        while len(self.freq) >= self.maxsize:
            self.evict()
        if key in self.ghost:
            del self.ghost[key]
            self.main.appendleft(key)
        else:
            self.small.appendleft(key)
        self.freq[key] = 0

    def evict(self) -> None:
        if len(self.small) >= self.small_size or not self.main:
            self.evict_small()
        else:
            self.evict_main()

    def evict_small(self) -> None:
        evicted = False
        while not evicted and self.small:
            key = self.small.pop()
            if self.freq[key] > 1:
                self.main.appendleft(key)
                self.freq[key] = 0
            else:
                self.ghost[key] = None
                if len(self.ghost) > self.ghost_size:
                    self.ghost.popitem(last=False)
                del self.freq[key]
                evicted = True

    def evict_main(self) -> None:
        evicted = False
        while not evicted and self.main:
            key = self.main.pop()
            if self.freq[key] > 0:
                self.main.appendleft(key)
                self.freq[key] -= 1
            else:
                del self.freq[key]
                evicted = True


def s3fifo(requests: Sequence[int], maxsize: int) -> int:
    """Count the hits of the paper's algorithm."""
    paper = _Paper(maxsize)
    return sum(map(paper.read, requests))


def _our_hits(eviction: str) -> Callable[[Sequence[int], int], int]:
    def count(requests: Sequence[int], maxsize: int) -> int:
        cache: Any = import_module("dataloader_cache").AsyncCache(maxsize, eviction=eviction)
        hits = 0
        for key in requests:
            if _is_hit(cache, key):
                hits += 1
            else:
                cache.set(key, key)
        return hits

    return count


def _is_hit(cache: Any, key: int) -> bool:
    """Get a key without an event loop: a hit of `get` waits for nothing, nor does a miss."""
    getting = cache.get(key)
    try:
        getting.send(None)
    except StopIteration as done:
        return done.value is not None
    raise RuntimeError("a get without a loader waited for something")


_CONTENDERS: dict[str, Callable[[Sequence[int], int], int]] = {
    OUR_LRU: _our_hits("lru"),
    "LRU": lru,
    OUR_S3FIFO: _our_hits("s3fifo"),
    "S3-FIFO": s3fifo,
    "optimum": belady,
}


def measure(settings: Settings) -> list[Row]:
    """Count the hits of every policy on every workload, for every size of the cache."""
    return list(_rows(settings))


def _rows(settings: Settings) -> Iterator[Row]:
    for name, requests in workloads(settings).items():
        for share in settings.shares:
            maxsize = max(1, round(settings.keys * share))
            work = f"{name}, room for {maxsize:,} of {settings.keys:,} keys"
            say(work)
            found = {
                column: 100 * hits_of(requests, maxsize) / len(requests)
                for column, hits_of in _CONTENDERS.items()
            }
            cells = {column: Cell(points) for column, points in found.items()}
            yield Row(work, "% hits", cells, _verdict(found), digits=1)
    say("")


def _verdict(found: dict[str, float]) -> Verdict:
    of_lru = found[OUR_LRU] - found["LRU"]
    of_s3fifo = found[OUR_S3FIFO] - found["S3-FIFO"]
    return Verdict(
        f"LRU's; within {_POINTS:g} point of S3-FIFO's",
        f"{of_lru:+.2f}, {of_s3fifo:+.2f} points",
        of_lru == 0 and abs(of_s3fifo) <= _POINTS,
    )


NOTES = (
    "`S3-FIFO` is a transcription of algorithm 1 of its paper, `optimum` knows the future. "
    "Workloads: Zipf with skew 1; the same with runs of keys that are asked for once; with every "
    "second request round a circle larger than the cache; with other keys popular every tenth.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its report and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hit_ratio", description=__doc__)
    add_options(parser)
    parser.add_argument("--requests", type=int, default=Settings().requests)
    options = parser.parse_args(arguments)
    rows = measure(Settings(requests=options.requests))
    known = CACHES[:1]
    return Report(options.loop, COLUMNS, [], rows, list(NOTES), known=known).finish(options)


if __name__ == "__main__":
    sys.exit(main())
