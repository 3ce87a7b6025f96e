"""Cache keys made of a call's arguments: compared by value, as deep as they go."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Hashable
from typing import Any, Final

from .errors import ConfigurationTypeError

__all__ = ["PLAIN", "KeyMaker", "freeze"]

# Types whose values are their own keys.
PLAIN: Final[frozenset[type]] = frozenset(
    {int, str, float, bool, bytes, complex, type(None), type(...), type(NotImplemented)}
)
_BY_IDENTITY: Final = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
)


class _Kind:
    """Mark what a frozen value was made of; equal to nothing but itself."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


_OBJECT_EQ: Final[object] = object.__eq__

_LIST, _TUPLE, _SET, _DICT, _OBJECT, _BYTEARRAY, _PARTIAL = map(
    _Kind, ("list", "tuple", "set", "dict", "object", "bytearray", "partial")
)


class _ByIdentity:
    """Compare as the very same object, and keep it alive so that its place is not taken."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _type_of(value: object) -> type:
    return type(value)


def freeze(value: Any, inside: tuple[int, ...] = ()) -> Hashable:
    """Make a hashable of a value, equal for equal values of the same shape.

    Raises:
        TypeError: It can't be compared by value, or holds itself.
    """
    kind = _type_of(value)
    if kind in PLAIN:
        return value  # type: ignore[no-any-return]
    if isinstance(value, _BY_IDENTITY):
        return _ByIdentity(value)
    if id(value) in inside:
        raise TypeError("it holds itself")
    inside = (*inside, id(value))
    if kind is tuple:
        return (_TUPLE, *(freeze(item, inside) for item in value))
    if kind is list:
        return (_LIST, *(freeze(item, inside) for item in value))
    if kind is set or kind is frozenset:
        return (_SET, frozenset(freeze(item, inside) for item in value))
    if kind is dict:
        pairs = frozenset((freeze(k, inside), freeze(v, inside)) for k, v in value.items())
        return (_DICT, pairs)
    if kind is bytearray:
        return (_BYTEARRAY, bytes(value))
    if kind is functools.partial:
        parts = (value.func, value.args, value.keywords)
        return (_PARTIAL, *(freeze(part, inside) for part in parts))
    return _freeze_object(value, kind, inside)


def _freeze_object(value: Any, kind: type, inside: tuple[int, ...]) -> Hashable:
    if dataclasses.is_dataclass(value):
        names = [item.name for item in dataclasses.fields(value) if item.compare]
        return (_OBJECT, kind, *(freeze(getattr(value, name), inside) for name in names))
    if _OBJECT_EQ is not kind.__eq__:
        if kind.__hash__ is None:
            return _freeze_container(value, kind, inside)
        try:
            hash(value)
        except TypeError:
            return _freeze_container(value, kind, inside)
        return (kind, value)
    return _freeze_fields(value, kind, inside)


def _freeze_container(value: Any, kind: type, inside: tuple[int, ...]) -> Hashable:
    """Freeze a subclass of a builtin container by its type and items."""
    for base in (list, tuple, set, frozenset, dict):
        if isinstance(value, base):
            return (kind, freeze(base(value), inside))
    return _freeze_fields(value, kind, inside)


def _freeze_fields(value: Any, kind: type, inside: tuple[int, ...]) -> Hashable:
    names = _field_names(value, kind)
    if names is None:
        raise TypeError(f"a {kind.__name__} has no fields to compare")
    fields = ((name, freeze(getattr(value, name), inside)) for name in sorted(names))
    return (_OBJECT, kind, *fields)


def _field_names(value: Any, kind: type) -> list[str] | None:
    """Give the names of an object's own fields; None for what keeps its state elsewhere."""
    if kind.__module__ in ("builtins", "_asyncio", "_thread", "_io", "_contextvars"):
        return None
    slots = [
        name
        for base in kind.__mro__
        for name in _as_tuple(base.__dict__.get("__slots__", ()))
        if name not in ("__dict__", "__weakref__") and hasattr(value, name)
    ]
    has_fields = hasattr(value, "__dict__")
    if not has_fields and not slots:
        return None
    return [*(vars(value) if has_fields else ()), *slots]


def _as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


class KeyMaker:
    """Make one key of each way to write the same call of a function."""

    __slots__ = ("_name", "_positional", "_signature", "_skip", "_tails")

    def __init__(self, function: Callable[..., Any], skip: int, owner: str) -> None:
        self._signature = inspect.signature(function)
        self._skip = skip
        self._name = owner
        parameters = list(self._signature.parameters.values())
        if "use_cache" in self._signature.parameters:
            raise ConfigurationTypeError(
                f"{owner} has a parameter named 'use_cache', which is a keyword of cached calls; "
                f"rename it"
            )
        positional = [
            p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if skip > len(positional) and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            raise ConfigurationTypeError(
                f"{owner} has {len(positional)} positional parameters, fewer than skip_args={skip}"
            )
        # By the number of positional arguments given: the frozen defaults of those left out.
        self._tails: dict[int, tuple[Hashable, ...]] = {}
        if len(positional) == len(parameters):
            self._positional = len(positional)
            for given in range(skip, len(positional) + 1):
                rest = positional[given:]
                if all(type(p.default) in PLAIN for p in rest):
                    self._tails[given] = tuple(p.default for p in rest)

    @property
    def lone_is_key(self) -> bool:
        """Whether one plain positional argument, alone, is the whole of the key."""
        return self._skip == 0 and self._tails.get(1) == ()

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """Give the key of a call.

        Raises:
            TypeError: The arguments don't fit the function, or one can't be compared.
        """
        if not kwargs:
            tail = self._tails.get(len(args))
            if tail is not None:
                own = args[self._skip :] if self._skip else args
                if PLAIN.issuperset(map(type, own)):
                    return own + tail if tail else own
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        parts: list[Hashable] = []
        left = self._skip
        for name, value in bound.arguments.items():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                rest = value[left:]
                left = max(0, left - len(value))
                parts.append(tuple(self._freeze(name, item) for item in rest))
            elif kind is inspect.Parameter.VAR_KEYWORD:
                parts.append(frozenset((k, self._freeze(k, v)) for k, v in value.items()))
            elif left and kind is not inspect.Parameter.KEYWORD_ONLY:
                left -= 1
            else:
                parts.append(self._freeze(name, value))
        return tuple(parts)

    def _freeze(self, name: str, value: object) -> Hashable:
        try:
            return freeze(value)
        except TypeError as error:
            raise TypeError(
                f"{self._name}: argument {name!r} of type {type(value).__name__} can't be part of "
                f"a cache key: {error}; leave it out with skip_args, or pass key="
            ) from error
