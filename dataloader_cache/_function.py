"""What a declared batch function takes after its keys, found once, where it is declared."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import Any, TypeGuard

from ._results import check_awaitable, count, describe
from .errors import BatchResultError, ConfigurationTypeError

__all__ = ["BatchFunction", "Grouping"]

# Any, throughout: keys, rows and values are of the types that the declaration checks.
_LoadFn = Callable[[list[Any]], Awaitable[Any]]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class BatchFunction:
    """A batch function as the user wrote it, with what it is called with besides the keys.

    Args:
        function: The user's function: of the keys, then `second` if it wants it, then the args
            if the factory has some.
        second: What the second parameter is called in messages; None where there is none.
        args: The type of the args, or None.

    Raises:
        ConfigurationError: It is not an async function, or takes other parameters.
    """

    def __init__(
        self, function: Callable[..., Any], name: str | None, second: str | None, args: type | None
    ) -> None:
        self.original = function
        self.name = name or _name_of(function)
        self.owner = f"loader factory {self.name!r}"
        self.args = args
        if isinstance(function, type) or not callable(function):
            raise ConfigurationTypeError(
                f"{self.owner}: expected an async function of a list of keys, got {function!r}"
            )
        bare = inspect.unwrap(function)
        while isinstance(bare, functools.partial):
            bare = inspect.unwrap(bare.func)
        if inspect.ismethod(bare):
            bare = bare.__func__
        if inspect.isfunction(bare) and not inspect.iscoroutinefunction(bare):
            is_generator = inspect.isasyncgenfunction(bare) or inspect.isgeneratorfunction(bare)
            advice = "return the values, don't yield them" if is_generator else "use 'async def'"
            raise ConfigurationTypeError(f"{self.owner} must be an async function; {advice}")
        self._read_parameters(second)

    def _read_parameters(self, second: str | None) -> None:
        try:
            parameters = list(inspect.signature(self.original).parameters.values())
        except (TypeError, ValueError):
            # Made in C, say: it takes the keys alone.
            parameters = [inspect.Parameter("keys", inspect.Parameter.POSITIONAL_ONLY)]
        positional = [item for item in parameters if item.kind in _POSITIONAL]
        if positional and positional[0].name in ("self", "cls"):
            raise ConfigurationTypeError(
                f"{self.owner} must take the keys first, got {positional[0].name!r}; a factory is "
                f"no method: declare it outside of the class"
            )
        least = 1 if self.args is None else 2
        most = least + (second is not None)
        needed = [item for item in parameters if item.default is item.empty]
        surplus = [
            item.name
            for item in needed
            if item.kind is item.KEYWORD_ONLY or item in positional[most:]
        ]
        if surplus or len(positional) < least:
            wanted = ["keys"]
            if second is not None:
                wanted.append(f"[{second}]")
            if self.args is not None:
                wanted.append("args")
            advice = ""
            if surplus and second != "context":
                advice = "; a shared loader gets no context, but what vary= makes of it"
            raise ConfigurationTypeError(
                f"{self.owner} must take ({', '.join(wanted)}), got "
                f"({', '.join(str(item) for item in parameters)}){advice}"
            )
        self.takes_second = len(positional) >= most and second is not None
        self.needs_second = False
        self._is_swapped = False
        if self.takes_second:
            place = 1
            if self.args is not None and _is_of(positional[1], self.args):
                self._is_swapped = not _is_of(positional[2], self.args)
                place = 2 if self._is_swapped else 1
            self.needs_second = positional[place].default is inspect.Parameter.empty

    def bind(self, second: tuple[object, ...], args: tuple[object, ...]) -> _LoadFn:
        """Make it a function of the keys alone."""
        function = self.original
        rest = (*args, *second) if self._is_swapped else (*second, *args)
        if not rest:
            return function

        async def load(keys: list[Any]) -> Any:
            result = function(keys, *rest)
            check_awaitable(result, "batch function", f"loader {self.name!r}")
            return await result

        return load


class Grouping:
    """Turn the flat rows of a batch function into one list for each key.

    Args:
        by: What tells the key of a row: an attribute, an item of rows that are mappings, or a
            function of the row.
    """

    def __init__(self, by: str | Callable[[Any], Hashable], owner: str) -> None:
        if not isinstance(by, str) and not callable(by):
            raise ConfigurationTypeError(
                f"{owner}: by must be the name of an attribute or a function of a row, got {by!r}"
            )
        self._by = by

    def wrap(
        self, load_fn: _LoadFn, name: str, cache_key_fn: Callable[[Any], Hashable] | None
    ) -> _LoadFn:
        """Make a batch function that gives lists of one that gives rows."""
        owner = f"loader {name!r}"

        async def load(keys: list[Any]) -> list[list[Any]]:
            result = load_fn(list(keys))
            check_awaitable(result, "batch function", owner)
            rows = await result
            if not _are_rows(rows):
                raise BatchResultError(
                    f"batch function of {owner} returned {describe(rows)}; a group loader's "
                    f"returns flat rows, which it groups by {self._by!r}"
                )
            return self._group(rows, keys, owner, cache_key_fn)

        return load

    def _group(
        self,
        rows: Iterable[Any],
        keys: list[Any],
        owner: str,
        cache_key_fn: Callable[[Any], Hashable] | None,
    ) -> list[list[Any]]:
        own = keys if cache_key_fn is None else [cache_key_fn(key) for key in keys]
        groups: dict[Hashable, list[Any]] = {key: [] for key in own}
        strange: Hashable = None
        strangers = 0
        for row in rows:
            key = self._key_of(row, owner)
            if cache_key_fn is not None:
                key = cache_key_fn(key)
            group = groups.get(key)
            if group is not None:
                group.append(row)
            else:
                strange = key
                strangers += 1
        if strangers and not any(groups.values()) and type(strange) not in map(type, own):
            raise BatchResultError(
                f"batch function of {owner} returned {count(strangers, 'row')}, and "
                f"by={self._by!r} gives none of the keys asked for: it gives {strange!r}, a "
                f"{type(strange).__name__}, where the keys are of type {type(own[0]).__name__}"
            )
        return list(groups.values())

    def _key_of(self, row: Any, owner: str) -> Hashable:
        by = self._by
        if not isinstance(by, str):
            return by(row)
        try:
            found: Hashable = row[by] if _is_mapping(row) else getattr(row, by)
            return found
        except (AttributeError, KeyError) as error:
            raise BatchResultError(
                f"batch function of {owner} returned a row without {by!r}: {describe(row)}; "
                f"name the attribute that holds the key in by="
            ) from error


# Guards, because isinstance() alone leaves a checker with unknown item types.
def _are_rows(result: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(result, Iterable) and not isinstance(result, (str, bytes, Mapping))


def _is_mapping(row: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(row, Mapping)


def _name_of(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _is_of(parameter: inspect.Parameter, kind: type) -> bool:
    """Tell whether a parameter is annotated with a type, or with its name."""
    return parameter.annotation is kind or parameter.annotation == kind.__name__
