"""Slots of a limiter, and lending them to the batches that their holders wait for.

With a limit of 1, a batch function that loads through a loader with the same limiter would wait
for a batch that waits for its slot. So a batch that the holder of a slot waits for, directly or
through other batches and slots, runs inside that slot: the holder lends it. A slot is lent to
one batch at a time, since what a limiter protects (a database session, say) is still used by
one batch at a time then. A slot goes back to its limiter when its holder and its guest are done.

A limiter is entered and left by a task of its own (a keeper), because many context managers
insist on being left by the task that entered them, and because a batch that is lent a slot
must be able to stop queueing for one of its own.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ._flight import Node
from .errors import LoadCancelledError
from .typing import Limiter

__all__ = ["Slot", "Slots"]


class Slot:
    """Hold one place in a limiter, owned (`lender` is None) or lent by the slot of another node."""

    __slots__ = ("guest", "left", "lender", "limiter", "node", "released")

    def __init__(self, node: Node, limiter: Limiter, lender: Slot | None) -> None:
        self.node = node
        self.limiter = limiter
        self.lender = lender
        self.guest: Slot | None = None
        self.released = False
        self.left: asyncio.Future[None] | None = None


class _Request:
    """Wait for a slot: of the limiter, or one that is lent, whichever comes first."""

    __slots__ = ("keeper", "limiter", "node", "ready")

    def __init__(self, node: Node, limiter: Limiter, ready: asyncio.Future[Slot]) -> None:
        self.node = node
        self.limiter = limiter
        self.ready = ready
        self.keeper: asyncio.Task[None] | None = None


class Slots:
    """Know every slot held on one event loop, and who queues for one."""

    __slots__ = ("_held", "_requests", "_tasks")

    def __init__(self, tasks: set[asyncio.Task[Any]]) -> None:
        # In the order in which they were taken; a dict, to take one out at no cost.
        self._held: dict[Slot, None] = {}
        # By limiter (its id, while somebody queues for it), first come first.
        self._requests: dict[int, dict[Node, _Request]] = {}
        self._tasks = tasks

    async def acquire(self, node: Node, limiter: Limiter) -> Slot:
        """Wait for a slot of `limiter`; on cancellation nothing is held and nothing queues.

        Raises:
            LoadCancelledError: The limiter was cancelled from inside.
            BaseException: Whatever entering the limiter raises.
        """
        loop = asyncio.get_running_loop()
        request = _Request(node, limiter, loop.create_future())
        node.blocked_on = limiter
        self._requests.setdefault(id(limiter), {})[node] = request
        self.match()
        if request.ready.done():
            return request.ready.result()
        keeper = request.keeper = loop.create_task(self._keep(request))
        self._tasks.add(keeper)
        keeper.add_done_callback(lambda task: self._on_kept(request, task))
        try:
            return await request.ready
        except BaseException:
            self._withdraw(request)
            if not request.ready.cancelled() and request.ready.exception() is None:
                self.release(request.ready.result())
            else:
                keeper.cancel()
                # Those behind it in the queue may be stuck, and had no turn while it was first.
                self.match()
            raise

    def _withdraw(self, request: _Request) -> None:
        queue = self._requests.get(id(request.limiter), {})
        if queue.pop(request.node, None) is not None:
            request.node.blocked_on = None
            if not queue:
                del self._requests[id(request.limiter)]

    def release(self, slot: Slot) -> None:
        """Give a slot back as soon as it has no guest; never waits."""
        slot.released = True
        ended: Slot | None = slot
        while ended is not None and ended.released and ended.guest is None:
            del self._held[ended]
            if ended.left is not None and not ended.left.done():
                ended.left.set_result(None)
            if ended.lender is not None:
                ended.lender.guest = None
            ended = ended.lender
        self.match()

    def match(self) -> None:
        """Lend slots to the queueing batches that their holders have come to wait for.

        Where that leaves batches of which none can go on (two loaders with one slot each, whose
        functions load from each other), one more is let in by whoever holds a slot it needs.
        """
        if not self._requests:
            return
        # The latest slot first: in a deep recursion it is the one right above the request.
        for slot in list(reversed(self._held)):
            queue = self._requests.get(id(slot.limiter))
            if queue is None or slot.guest is not None:
                continue
            wanted = slot.node.first_waited_for(queue)
            if wanted is not None:
                self._lend(queue[wanted], slot)
            if not self._requests:
                return
        for queue in list(self._requests.values()):
            request = next(iter(queue.values()))
            if self._is_stuck(request.node):
                self._lend(request, self._idle_slot(request.limiter))

    def _lend(self, request: _Request, lender: Slot) -> None:
        if request.ready.done():
            # Its batch was cancelled in this tick, and comes to withdraw it in the next.
            return
        lender.guest = self._seat(request, lender)
        if request.keeper is not None:
            request.keeper.cancel()

    def _idle_slot(self, limiter: Limiter) -> Slot:
        """Give the latest slot without a guest; where any is held, a last guest has none."""
        return next(
            slot for slot in reversed(self._held) if slot.limiter is limiter and slot.guest is None
        )

    def _is_stuck(self, node: Node) -> bool:
        """Tell whether nothing that `node` needs, over waits and slots, runs by itself.

        A queueing node is stuck only behind a slot that somebody holds.
        """
        reached = {node}
        stack = [node]
        while stack:
            current = stack.pop()
            if current.blocked_on is None:
                needed = [target for target, _ in current.edges()]
            else:
                needed = [
                    slot.node
                    for slot in self._held
                    if slot.limiter is current.blocked_on and not slot.released
                ]
            if not needed:
                # It runs, or waits for a slot that nobody here holds.
                return False
            for other in needed:
                if other not in reached:
                    reached.add(other)
                    stack.append(other)
        return True

    def _seat(self, request: _Request, lender: Slot | None) -> Slot:
        slot = Slot(request.node, request.limiter, lender)
        self._held[slot] = None
        self._withdraw(request)
        request.ready.set_result(slot)
        return slot

    async def _keep(self, request: _Request) -> None:
        async with request.limiter:
            if request.ready.done():
                return
            slot = self._seat(request, None)
            slot.left = asyncio.get_running_loop().create_future()
            await slot.left

    def _on_kept(self, request: _Request, keeper: asyncio.Task[None]) -> None:
        self._tasks.discard(keeper)
        error = None if keeper.cancelled() else keeper.exception()
        if not request.ready.done():
            request.ready.set_exception(
                error
                if isinstance(error, Exception)
                else LoadCancelledError(
                    f"loader {request.node.name!r} was cancelled while it waited for its limiter"
                )
            )
        elif error is not None:
            keeper.get_loop().call_exception_handler(
                {
                    "message": f"limiter of loader {request.node.name!r} failed on leaving",
                    "exception": error,
                    "task": keeper,
                }
            )
