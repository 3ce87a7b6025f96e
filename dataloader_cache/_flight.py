"""The wait-for graph: which running load waits for which other, to find deadlocks.

A node stands for one call of a user's function (a batch function). A load made in a context
inherited from that function adds an edge from the function's node to the node that the load
waits for. An edge lives as long as its waiter is pending. A load that would close a cycle is
refused, so the graph has none (Holt, "Some Deadlock Properties of Computer Systems", 1972).
"""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Collection, Container, Iterator
from contextvars import ContextVar
from itertools import islice
from typing import Any

__all__ = ["Node", "current_node", "enclosing", "find_chain"]

_PRUNE_FROM = 16
# How many other keys of a batch a deadlock's chain names.
_SHOWN = 3


class Node:
    """Stand for one call of a user's function in the wait-for graph.

    `is_settled` says that nobody waits for it any more, `has_ended` that its function has
    returned; a function may go on for a while after its waiters were settled, and load in its
    clean-up. `keys` are those of the call, if they are known, until it is settled: contexts that
    outlive the call keep the node alive, and it must keep alive neither keys nor values then.
    """

    __slots__ = ("_prune_at", "_waits", "blocked_on", "has_ended", "is_settled", "keys", "name")

    def __init__(self, name: str, keys: Collection[object] = ()) -> None:
        self.name = name
        self.keys = keys
        self.is_settled = False
        self.has_ended = False
        self.blocked_on: object | None = None
        self._waits: dict[Node, list[tuple[Future[Any], object]]] = {}
        self._prune_at = _PRUNE_FROM

    def add_edge(self, target: Node, waiter: Future[Any], key: object) -> None:
        """Add an edge to `target` that lives until `waiter` is done."""
        waits = self._waits
        if len(waits) >= self._prune_at:
            # A function that loads one key after the other leaves a dead edge behind each time.
            for other in [node for node in waits if node.is_settled]:
                del waits[other]
            self._prune_at = max(_PRUNE_FROM, 2 * len(waits))
        waits.setdefault(target, []).append((waiter, key))

    def label(self, key: object) -> str:
        """Name a key of the call, and those beside it: who waits for one waits for all."""
        others = [repr(other) for other in islice(self.keys, _SHOWN + 2) if other != key]
        if not others:
            return f"{self.name}[{key!r}]"
        shown = ", ".join(others[:_SHOWN])
        more = len(self.keys) - 1 - _SHOWN
        rest = f" and {more} more" if more > 0 else ""
        return f"{self.name}[{key!r}, in a batch with {shown}{rest}]"

    def edges(self) -> Iterator[tuple[Node, object]]:
        """Give each node that this one waits for now, with a key that it waits for there."""
        settled: list[Node] = []
        try:
            for target, waiters in self._waits.items():
                if target.is_settled:
                    settled.append(target)
                    continue
                for waiter, key in waiters:
                    if not waiter.done():
                        yield target, key
                        break
        finally:
            # Passed over once each, so that a node with many edges is not slow to look at.
            for target in settled:
                self._waits.pop(target, None)

    def first_waited_for(self, wanted: Container[Node]) -> Node | None:
        """Give the nearest wanted node that this one waits for, directly or through others."""
        reached: set[Node] = {self}
        queue: deque[Node] = deque([self])
        while queue:
            for neighbour, _ in queue.popleft().edges():
                if neighbour in wanted:
                    return neighbour
                if neighbour not in reached:
                    reached.add(neighbour)
                    queue.append(neighbour)
        return None


current_node: ContextVar[Node | None] = ContextVar("dataloader_cache_node", default=None)


def enclosing() -> Node | None:
    """Give the node of the running function in whose context this code runs, if any."""
    node = current_node.get()
    return None if node is None or node.has_ended else node


def find_chain(source: Node, target: Node, key: object) -> str | None:
    """Describe the chain from `target` over `key` of `source` back to `target`, if there is one."""
    if source is target:
        return f"{target.label(key)} -> {target.name}[{key!r}]"
    reached: dict[Node, tuple[Node | None, object]] = {source: (None, key)}
    stack = [source]
    while stack:
        node = stack.pop()
        for neighbour, wanted in node.edges():
            if neighbour in reached:
                continue
            reached[neighbour] = (node, wanted)
            if neighbour is target:
                return _describe(reached, target)
            stack.append(neighbour)
    return None


def _describe(reached: dict[Node, tuple[Node | None, object]], target: Node) -> str:
    steps = [f"{target.name}[{reached[target][1]!r}]"]
    node: Node | None = target
    while node is not None:
        before, key = reached[node]
        steps.append(node.label(key))
        node = before
    return " -> ".join([steps[1], *reversed(steps[2:]), steps[0]])
