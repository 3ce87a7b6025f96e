"""Run every async test of the core on each kind of event loop that this Python has.

`@pytest.mark.loop_kinds("asyncio", "debug")` narrows one test, class or module to some of them. The
tests of integrations and examples are about other things and run on plain asyncio, unless they are
marked too.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from pytest_timeout import Settings

try:
    import uvloop
except ImportError:  # Windows, and interpreters that it has no wheel for yet
    uvloop = None

ON_ONE_LOOP = {"integrations", "examples"}

# Deadlines measure the machine. In CI the examples are the same every time, so that a change is
# judged by what it does and not by luck; everywhere else they are new.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

reports: list[dict[str, Any]] = []
"""What the running test's loop told its exception handler."""


class DebugLoop(asyncio.SelectorEventLoop):
    """Stay in debug mode: the runner that drives the tests would turn it off."""

    def __init__(self) -> None:
        super().__init__()
        self.set_debug(True)
        # A busy machine is not a finding.
        self.slow_callback_duration = 60.0

    def set_debug(self, enabled: bool) -> None:
        super().set_debug(True)


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


LOOP_KINDS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "debug": DebugLoop,
}
if uvloop is not None:
    LOOP_KINDS["uvloop"] = uvloop.new_event_loop
if sys.version_info >= (3, 12):
    LOOP_KINDS["eager"] = eager_loop

KNOWN_KINDS = {"asyncio", "uvloop", "debug", "eager"}


class LoopFactory:
    """Make loops of one kind that note what they report to their exception handler."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self) -> asyncio.AbstractEventLoop:
        if self.kind not in LOOP_KINDS:
            pytest.skip(f"this Python has no {self.kind!r} loop")
        loop = LOOP_KINDS[self.kind]()
        loop.set_exception_handler(note)
        return loop


def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    reports.append(context)
    loop.default_exception_handler(context)


def pytest_report_header() -> str:
    return f"loop kinds: {', '.join(LOOP_KINDS)}"


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    marker = item.get_closest_marker("loop_kinds")
    if marker is not None:
        wanted = marker.args
        unknown = sorted(set(wanted) - KNOWN_KINDS)
        if unknown or not wanted:
            raise pytest.UsageError(
                f"{item.nodeid}: loop_kinds{wanted!r} must name some of {sorted(KNOWN_KINDS)}"
            )
    elif ON_ONE_LOOP.intersection(item.path.relative_to(Path(__file__).parent).parts[:1]):
        wanted = ("asyncio",)
    else:
        wanted = tuple(LOOP_KINDS)
    # Where none of them exists the test still runs, to say that it is skipped.
    known = [kind for kind in wanted if kind in LOOP_KINDS] or wanted
    return {kind: LoopFactory(kind) for kind in known}


def pytest_collection_finish() -> None:
    # Many tests collect garbage: what pytest and the imports hold need not be searched each time.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    # Closing the loop waits for its tasks, and pytest-timeout stops its clock where a test fails.
    timer = item.config.pluginmanager.hook
    timer.pytest_timeout_cancel_timer(item=item)
    timer.pytest_timeout_set_timer(item=item, settings=Settings(60.0, "thread", False, False))
    try:
        return (yield)
    finally:
        timer.pytest_timeout_cancel_timer(item=item)


@pytest.fixture(autouse=True)
def no_unexpected_reports() -> Iterator[None]:
    """Fail a test whose loop reported an error that nobody took.

    A test that expects one sets its own exception handler. This is set up before the test's loop,
    so it looks after that one has been closed.
    """
    reports.clear()
    yield
    gc.collect(1)
    found, reports[:] = list(reports), []
    if found:
        pytest.fail(f"the loop's exception handler was called: {found}")
