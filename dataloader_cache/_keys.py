"""Cache keys made of a call's arguments: compared by value, as deep as they go."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Hashable
from typing import Any, Final

from ._arguments import with_article
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
# In place of a default: this parameter has none. Its type is none of PLAIN.
_REQUIRED: Final = _Kind("required")


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
    # Most tuples and lists hold plain values only, which can't hold the list: no need to walk.
    if (kind is tuple or kind is list) and PLAIN.issuperset(map(type, value)):
        return (_TUPLE if kind is tuple else _LIST, *value)
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
        raise TypeError(f"{with_article(kind.__name__)} has no fields to compare")
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


def _defaults(parameters: list[inspect.Parameter]) -> dict[str | int, Any]:
    return {
        # No keyword is a number, so none is taken for what goes by position only.
        number if p.kind is p.POSITIONAL_ONLY else p.name: (
            _REQUIRED if p.default is p.empty else p.default
        )
        for number, p in enumerate(parameters)
    }


class KeyMaker:
    """Make one key of each way to write the same call of a function.

    A function with a fixed set of parameters has a key with one part for each, in their order.
    What a call leaves to keywords and defaults is worked out once for each number of positional
    arguments, since binding a call to the signature costs ten times as much as a hit. Only what
    that can't say goes by the signature: variable arguments, and calls that don't fit.
    """

    __slots__ = ("_name", "_names", "_rests", "_signature", "skip", "tails")

    def __init__(self, function: Callable[..., Any], skip: int, owner: str) -> None:
        self._signature = inspect.signature(function)
        self._name = owner
        self.skip = skip
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
        self._names = [p.name for p in parameters[skip:]]
        # By the number of positional arguments: the parameters left, with their defaults.
        self._rests: dict[int, dict[str | int, Any]] = {}
        # The same, where only defaults are left: those.
        self.tails: dict[int, tuple[Any, ...]] = {}
        if not any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            for given in range(skip, len(positional) + 1):
                rest = self._rests[given] = _defaults(parameters[given:])
                if all(default is not _REQUIRED for default in rest.values()):
                    self.tails[given] = tuple(rest.values())

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """Give the key of a call.

        Raises:
            TypeError: The arguments don't fit the function, or one can't be compared.
        """
        rest = self._rests.get(len(args))
        if rest is None:
            return self._bind(args, kwargs)
        if kwargs:
            # The order is that of `rest`; what is longer has a keyword that does not fit.
            given: dict[Any, Any] = rest | kwargs
            if len(given) != len(rest):
                return self._bind(args, kwargs)
            rest = given
        own = args[self.skip :] if self.skip else args
        parts = (*own, *rest.values()) if rest else own
        for part in parts:
            if type(part) not in PLAIN:
                break
        else:
            return parts
        if rest and any(part is _REQUIRED for part in parts):
            return self._bind(args, kwargs)
        try:
            return tuple(map(freeze, parts))
        except TypeError:
            # Once more, to name the argument.
            return tuple(map(self._freeze, self._names, parts))

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        parts: list[Hashable] = []
        left = self.skip
        for name, value in bound.arguments.items():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                parts.append(tuple(self._freeze(name, item) for item in value[left:]))
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
