"""What a user's function returned, made into what its callers get."""

from __future__ import annotations

import asyncio
import reprlib
from asyncio import Future, InvalidStateError
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, cast

from ._arguments import with_article
from .errors import BatchResultError, KeyNotFoundError, LoadCancelledError

__all__ = [
    "as_error",
    "check_awaitable",
    "count",
    "deliver",
    "describe",
    "has_error",
    "is_error",
    "read_values",
]

_ABSENT: Any = object()


def has_error(values: Iterable[object]) -> bool:
    """Tell whether any value is an error: one pass in C, since a batch has few types."""
    return any(issubclass(kind, BaseException) for kind in set(map(type, values)))


def is_error(value: object) -> bool:
    """Tell an error from a value, by its type: a proxy's `__class__` may do or say anything."""
    return issubclass(type(value), BaseException)


def deliver(waiter: Future[Any], value: object, reported: set[int]) -> bool:
    """Settle `waiter` with a value or an error; tell whether it was still pending.

    Only the first error of a batch is left for asyncio to report when nobody retrieves it, so
    that a failed batch which nobody awaits makes one report and not one per key.
    """
    try:
        if is_error(value):
            waiter.set_exception(cast("BaseException", value))
            if reported:
                waiter.exception()
            else:
                reported.add(id(value))
        else:
            waiter.set_result(value)
    except InvalidStateError:
        return False
    except RuntimeError:
        # Its loop was closed: the waiter is settled, but who awaits it can't be woken any more.
        waiter.exception()
    return True


def as_error(error: BaseException, owner: str) -> BaseException:
    """Make of an error one that a future can carry without being taken for something else."""
    changed: Exception
    if isinstance(error, asyncio.CancelledError):
        changed = LoadCancelledError(
            f"the load of {owner} was cancelled from inside: its function gave a CancelledError, "
            f"as happens when something that it awaits is cancelled; load again, or catch that in "
            f"the function and raise an error that says what went wrong"
        )
    elif isinstance(error, StopIteration):
        changed = RuntimeError(f"a function of {owner} gave a StopIteration")
    else:
        return error
    changed.__cause__ = error
    return changed


def read_values(
    result: object, keys: Sequence[Hashable], owner: str, *, missing_raises: bool = False
) -> Sequence[Any]:
    """Put what a batch function returned in the order of the keys.

    Raises:
        BatchResultError: It is neither a mapping nor a sequence with one value per key.
    """
    values: Sequence[Any]
    if _is_mapping(result):
        absent = _ABSENT if missing_raises else None
        try:
            values = [result.get(key, absent) for key in keys]
        except Exception:
            # Once more, to tell which: a key that can't be looked up is no fault of the others.
            values = [_look_up(result, key, absent) for key in keys]
        if all(value is absent for value in values):
            _check_key_types(result, keys, owner)
        if not missing_raises:
            return values
        return [
            _not_found(key, owner) if value is _ABSENT else value
            for key, value in zip(keys, values)
        ]
    if _is_sequence(result):
        values = list(result)
    else:
        raise BatchResultError(
            f"batch function of {owner} returned {describe(result)} for "
            f"{count(len(keys), 'key')}; "
            f"return a sequence with one value per key, in key order, or a mapping"
        )
    if len(values) != len(keys):
        raise BatchResultError(
            f"batch function of {owner} returned {count(len(values), 'value')} for "
            f"{count(len(keys), 'key')}; "
            f"return one per key, in key order, or a mapping"
        )
    return values


def _look_up(result: Mapping[Any, Any], key: Hashable, absent: object) -> object:
    try:
        return result.get(key, absent)
    except Exception as error:
        return error


def _check_key_types(result: Mapping[Any, Any], keys: Sequence[Hashable], owner: str) -> None:
    """Refuse a mapping that can have none of the keys, as one by int of keys that are strings."""
    theirs = set(map(type, result))
    if theirs and keys and theirs.isdisjoint(map(type, keys)):
        raise BatchResultError(
            f"batch function of {owner} returned a mapping whose keys are of type "
            f"{_names(theirs)}, such as {reprlib.repr(next(iter(result)))}; it was asked for keys "
            f"of type {_names(set(map(type, keys)))}, such as {reprlib.repr(keys[0])}, and none is "
            f"in it; return a mapping by the keys that it gets"
        )


def _names(kinds: set[type]) -> str:
    return " and ".join(sorted(kind.__name__ for kind in kinds))


# Guards, because isinstance() alone leaves a checker with unknown item types.
def _is_mapping(result: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(result, Mapping)


def _is_sequence(result: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(result, Sequence) and not isinstance(
        result, (str, bytes, bytearray, memoryview)
    )


def check_awaitable(result: object, function: str, owner: str) -> None:
    """Refuse what a user's function returned if it can't be awaited."""
    if not hasattr(result, "__await__"):
        is_generator = hasattr(result, "__aiter__")
        advice = "return the values, don't yield them" if is_generator else "declare it 'async def'"
        raise BatchResultError(
            f"{function} of {owner} returned {describe(result)} and no awaitable; {advice}"
        )


def _not_found(key: Hashable, owner: str) -> KeyNotFoundError:
    return KeyNotFoundError(
        f"batch function of {owner} returned a mapping without key {key!r}; "
        f"return a value for it, or make the loader with missing='none'"
    )


def describe(value: object) -> str:
    """Name a value's type and show a bit of it."""
    return f"{with_article(type(value).__name__)} ({reprlib.repr(value)})"


def count(number: int, noun: str) -> str:
    """Say how many there are of what a noun names."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
