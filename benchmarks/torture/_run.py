"""Run each row against each library in a process of its own, which can be killed.

A row may hang, spin without ever yielding, block its loop or end the interpreter: none of
that reaches the next row. Processes are forked from one server that has imported every
library, where the platform can fork; elsewhere they are spawned, which takes longer.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import cast

from benchmarks.torture import _caches, _dispatch, _graphql, _memo, _results, _waiters
from benchmarks.torture._contenders import CACHES, CONTENDERS, NotApplicableError
from benchmarks.torture._row import GROUPS, ROWS, Row

__all__ = ["N_A", "Job", "all_rows", "run"]

N_A = "n/a"
_MODULES = (_waiters, _results, _memo, _dispatch, _graphql, _caches)
_DECLARED_IN = {module.__name__ for module in _MODULES}
DEADLINE = 15.0
"""Seconds until a process is killed: only a row that never yields to its loop gets there."""

Context = ForkServerContext | SpawnContext
Job = tuple[str, str]
"""The names of a row and of a library."""


def all_rows() -> list[Row]:
    """Return the rows of the table, in its order."""
    declared = [row for row in ROWS.values() if row.run.__module__ in _DECLARED_IN]
    return sorted(declared, key=lambda row: GROUPS.index(row.group))


def run(jobs: Sequence[Job], parallel: int) -> Iterator[tuple[Job, str]]:
    """Yield the verdict of each job as it comes; rows that measure time run one by one, last."""
    context = _context()
    yield from _run([job for job in jobs if not ROWS[job[0]].timed], parallel, context)
    yield from _run([job for job in jobs if ROWS[job[0]].timed], 1, context)


def _context() -> Context:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    peers = [
        "dataloader_cache",
        "aiodataloader",
        "strawberry",
        "strawberry.dataloader",
        "dloader",
        "cache",
        "async_lru",
        "cashews",
        "aiocache",
        "cachetools",
        "cachebox",  # not theine, which starts a thread when it is imported
    ]
    context.set_forkserver_preload([__name__, *peers])
    return context


def _run(jobs: Sequence[Job], parallel: int, context: Context) -> Iterator[tuple[Job, str]]:
    waiting = list(reversed(jobs))
    running: dict[Connection, tuple[Job, BaseProcess, float]] = {}
    while waiting or running:
        while waiting and len(running) < parallel:
            job = waiting.pop()
            receiver, sender = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_judge, args=(sender, *job), daemon=True)
            process.start()
            sender.close()
            running[receiver] = job, process, time.monotonic() + DEADLINE
        ready = wait(list(running), timeout=0.2)
        for receiver, (job, process, deadline) in list(running.items()):
            if receiver in ready:
                verdict = _received(receiver)
            elif time.monotonic() > deadline:
                verdict = "never yields to the loop; killed"
            else:
                continue
            del running[receiver]
            receiver.close()
            process.kill()
            process.join()
            yield job, verdict


def _received(receiver: Connection) -> str:
    try:
        return str(receiver.recv())
    except EOFError:
        return "the process died"


def _judge(sender: Connection, row: str, contender: str) -> None:
    """Run one row in this process, say its verdict and leave without any cleaning up."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    logging.disable()
    warnings.simplefilter("ignore")
    try:
        verdict = _verdict(row, contender)
    except NotApplicableError:
        verdict = N_A
    except asyncio.CancelledError:
        verdict = "is cancelled"
    except BaseException as error:  # whatever a library lets through is its verdict
        verdict = f"{type(error).__name__}: {error}"[:80]
    sender.send(verdict)
    sender.close()
    os._exit(0)


def _verdict(row: str, contender: str) -> str:
    columns = CACHES if ROWS[row].is_of_caches else CONTENDERS
    judged = ROWS[row].run(columns[contender])
    if isinstance(judged, str):
        return judged
    assert inspect.iscoroutine(judged)
    return cast("str", asyncio.new_event_loop().run_until_complete(judged))
