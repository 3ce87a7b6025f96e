"""Checks of arguments, made once, where an object is built."""

from __future__ import annotations

import math
import reprlib
from enum import Enum
from typing import Final

from .errors import ConfigurationTypeError, ConfigurationValueError

__all__ = [
    "UNSET",
    "Unset",
    "check_count",
    "check_kind",
    "check_limiter",
    "check_name",
    "check_seconds",
    "with_article",
]


class Unset(Enum):
    """Tell an argument that was not given from one that is None."""

    UNSET = "UNSET"


UNSET: Final = Unset.UNSET


def with_article(noun: str) -> str:
    """Put 'a' or 'an' before a noun, going by its first letter."""
    return f"an {noun}" if noun[:1] in "aeiouAEIOU" else f"a {noun}"


def check_name(owner: str, value: object) -> None:
    """Refuse a name that is neither a str nor None."""
    if value is not None and not isinstance(value, str):
        raise ConfigurationTypeError(f"name of {owner} must be a str or None, got {value!r}")


def check_kind(owner: str, argument: str, value: object, kind: type) -> None:
    """Refuse what is neither of a type nor None."""
    if value is not None and not isinstance(value, kind):
        raise ConfigurationTypeError(
            f"{owner}: {argument} must be {with_article(kind.__name__)}, "
            f"got {with_article(type(value).__name__)}: {reprlib.repr(value)}"
        )


def check_limiter(owner: str, value: object) -> None:
    """Refuse what is no async context manager."""
    kind = type(value)
    if not hasattr(kind, "__aenter__") or not hasattr(kind, "__aexit__"):
        raise ConfigurationTypeError(
            f"{owner}: limiter must be an async context manager, such as an "
            f"asyncio.Semaphore; got {value!r}"
        )


def check_count(owner: str, argument: str, value: object, *, zero: bool = False) -> None:
    """Refuse what is not an int of at least 1, or of at least 0 where `zero` allows it."""
    least = 0 if zero else 1
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationTypeError(
            f"{owner}: {argument} must be an int >= {least} or None, got {value!r}"
        )
    if value < least:
        raise ConfigurationValueError(
            f"{owner}: {argument} must be >= {least} or None, got {value!r}"
        )


def check_seconds(owner: str, argument: str, value: object, *, zero: bool) -> None:
    """Refuse what is not a finite number of seconds, positive, or 0 where `zero` allows it."""
    least = ">= 0" if zero else "> 0"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationTypeError(
            f"{owner}: {argument} must be a number of seconds {least} or None, got {value!r}"
        )
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ConfigurationValueError(
            f"{owner}: {argument} must be a finite number of seconds {least} or None, got {value!r}"
        )
