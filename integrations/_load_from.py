"""`load_from`: a field of a Strawberry type that has no resolver, since a loader has its value.

Use it by its public name, `dataloader_cache.integrations.strawberry.load_from`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import operator
from asyncio import Future
from collections.abc import Awaitable, Callable, Sequence
from enum import EnumMeta
from functools import cached_property
from typing import Any, Protocol, TypeVar, cast, overload

from strawberry.exceptions import StrawberryException
from strawberry.extensions import FieldExtension
from strawberry.permission import BasePermission
from strawberry.relay import ConnectionExtension
from strawberry.types.arguments import StrawberryArgument
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.field import FieldType, StrawberryField
from strawberry.types.fields.resolver import StrawberryResolver
from strawberry.types.info import Info

from dataloader_cache import ArgsLoaderFactory, LoaderFactory
from dataloader_cache.errors import ConfigurationTypeError, ConfigurationValueError

__all__ = ["LoadedField", "load_from"]

K = TypeVar("K")
V = TypeVar("V")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)


class _MakesArgs(Protocol[A_co]):
    """What makes a loader's args of a field's arguments: a function, or the class of the args."""

    # Any: its parameters are the field's arguments, whichever these are.
    def __call__(self, *args: Any, **kwargs: Any) -> A_co: ...


# Any, for the parent: what declares a field can't name the type that is being declared.
@overload
def load_from(
    factory: LoaderFactory[K, V],
    *,
    by: str | Callable[[Any], K],
    args: None = ...,
    name: str | None = ...,
    description: str | None = ...,
    deprecation_reason: str | None = ...,
    permission_classes: Sequence[type[BasePermission]] = ...,
    directives: Sequence[object] = ...,
    extensions: Sequence[FieldExtension] = ...,
) -> V: ...
@overload
def load_from(
    factory: LoaderFactory[K, V],
    *,
    by: Callable[[Any], K | None],
    args: None = ...,
    name: str | None = ...,
    description: str | None = ...,
    deprecation_reason: str | None = ...,
    permission_classes: Sequence[type[BasePermission]] = ...,
    directives: Sequence[object] = ...,
    extensions: Sequence[FieldExtension] = ...,
) -> V | None: ...
@overload
def load_from(
    factory: ArgsLoaderFactory[K, A, V],
    *,
    by: str | Callable[[Any], K],
    args: _MakesArgs[A],
    name: str | None = ...,
    description: str | None = ...,
    deprecation_reason: str | None = ...,
    permission_classes: Sequence[type[BasePermission]] = ...,
    directives: Sequence[object] = ...,
    extensions: Sequence[FieldExtension] = ...,
) -> V: ...
@overload
def load_from(
    factory: ArgsLoaderFactory[K, A, V],
    *,
    by: Callable[[Any], K | None],
    args: _MakesArgs[A],
    name: str | None = ...,
    description: str | None = ...,
    deprecation_reason: str | None = ...,
    permission_classes: Sequence[type[BasePermission]] = ...,
    directives: Sequence[object] = ...,
    extensions: Sequence[FieldExtension] = ...,
) -> V | None: ...
def load_from(
    factory: LoaderFactory[Any, Any] | ArgsLoaderFactory[Any, Any, Any],
    *,
    by: str | Callable[[Any], Any],
    args: Callable[..., Any] | None = None,
    name: str | None = None,
    description: str | None = None,
    deprecation_reason: str | None = None,
    permission_classes: Sequence[type[BasePermission]] = (),
    directives: Sequence[object] = (),
    extensions: Sequence[FieldExtension] = (),
) -> Any:
    """Declare a field whose value a loader has; it needs no resolver.

        @strawberry.type
        class Post:
            id: int
            author_id: strawberry.Private[int]
            author: User | None = load_from(users, by="author_id")

    The annotation says what the field is in GraphQL, and type checkers hold it against what the
    factory's loader gives. A query that selects the field loads it in the current scope, as
    `await users.load(post.author_id)` would; an instance does not have it.

    Args:
        factory: The loader factory, made by `@dataloader` or `@group_dataloader`.
        by: Gives the key: the name of an attribute of the parent, or a function of the parent.
            Where the key is None the field is null, and nothing is loaded.
        args: For a factory with args: makes them of the field's arguments, which are its annotated
            parameters: `args=Page`, or a function that returns a `Page`.
        name: The field's name in GraphQL, if not made of the attribute's.
        description: What the schema says about the field.
        deprecation_reason: Why the field should no longer be used.
        permission_classes: Who may see the field; asked before anything is loaded.
        directives: Schema directives of the field.
        extensions: Field extensions, which get the loaded value.

    Raises:
        ConfigurationError: An argument is wrong. That the parent lacks the attribute is found
            when the schema is built.
    """
    source = _Source(factory, by, args)
    source.check_list(
        "permission_classes", permission_classes, _is_permission, "permission classes"
    )
    source.check_list("directives", directives, _is_directive, "instances of schema directives")
    source.check_list("extensions", extensions, _is_extension, "instances of field extensions")
    if any(isinstance(one, ConnectionExtension) for one in extensions):
        raise ConfigurationTypeError(
            f"{source.owner}: Strawberry's ConnectionExtension needs a resolver; write one under "
            f"`@relay.connection(...)`, an `async def` that returns `await "
            f"{factory.name}.load(...)`"
        )
    return LoadedField(
        source=source,
        graphql_name=name,
        description=description,
        deprecation_reason=deprecation_reason,
        permission_classes=list(permission_classes),
        directives=directives,
        extensions=list(extensions),
    )


def _is_permission(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BasePermission)


def _is_directive(value: object) -> bool:
    return not isinstance(value, type)


def _is_extension(value: object) -> bool:
    return isinstance(value, FieldExtension)


class _Source:
    """Where the value of a loaded field comes from; lives as long as the class it is declared in.

    It stands in the class in the field's place, to say what is wrong with reading it there.
    """

    def __init__(
        self,
        factory: LoaderFactory[Any, Any] | ArgsLoaderFactory[Any, Any, Any],
        by: str | Callable[[Any], Any],
        args: Callable[..., Any] | None,
    ) -> None:
        takes_args = isinstance(factory, ArgsLoaderFactory)
        is_factory = takes_args or isinstance(factory, LoaderFactory)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_factory:
            raise ConfigurationTypeError(
                f"load_from needs a loader factory, made by @dataloader or @group_dataloader; "
                f"got {factory!r}"
            )
        owner = f"load_from({factory.name})"
        if not (by.isidentifier() if isinstance(by, str) else callable(by)):
            raise ConfigurationTypeError(
                f"{owner}: by must be the name of an attribute or a function of the parent, "
                f"got {by!r}"
            )
        if callable(by) and not _takes_one(by):
            raise ConfigurationTypeError(
                f"{owner}: by must be a plain function of the parent alone, which gives the key; "
                f"got {by!r}"
            )
        if takes_args and not callable(args):
            raise ConfigurationTypeError(
                f"{owner}: the factory takes args; args must be their class, or a function that "
                f"makes them of the field's arguments; got {args!r}"
            )
        if inspect.iscoroutinefunction(args):
            raise ConfigurationTypeError(
                f"{owner}: args must be made by a plain function, not by an `async def`; "
                f"got {args!r}"
            )
        if not takes_args and args is not None:
            raise ConfigurationTypeError(
                f"{owner}: the factory takes no args, so args must be left out; got {args!r}"
            )
        self.factory = factory
        self.by = by
        self.args = args
        self.owner = owner
        self.name = self.place = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.place = f"{owner.__name__}.{name}: {self.owner}"

    def check_list(
        self,
        argument: str,
        given: Sequence[object],
        is_fitting: Callable[[object], bool],
        fitting: str,
    ) -> None:
        """Refuse what is no list, or has something in it that does not fit."""
        is_list = isinstance(given, Sequence)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_list or not all(map(is_fitting, given)):
            raise ConfigurationTypeError(
                f"{self.owner}: {argument} must be a list of {fitting}, got {given!r}"
            )

    def __repr__(self) -> str:
        return f"<loaded field {self.name!r}: {self.owner}>"

    def __get__(self, instance: object, owner: type) -> _Source:
        if instance is None:
            return self
        raise AttributeError(
            f"{owner.__name__}.{self.name} is a loaded field, which an instance does not have: a "
            f"query that selects it loads it; in Python use `await {self.factory.name}.load(...)`",
            name=self.name,
            obj=instance,
        )

    def load(self, key: object, arguments: dict[str, Any]) -> Future[Any] | None:
        """Load the value; None where there is no key."""
        if key is None:
            return None
        if self.args is None:
            return cast("LoaderFactory[Any, Any]", self.factory).load(key)
        factory = cast("ArgsLoaderFactory[Any, Any, Any]", self.factory)
        return factory.load(key, self.args(**arguments))

    async def load_later(self, key: object, arguments: dict[str, Any]) -> Any:
        """Load the value when it is awaited."""
        loading = self.load(key, arguments)
        return None if loading is None else await loading

    @cached_property
    def arguments(self) -> list[StrawberryArgument]:
        """The field's arguments: the parameters of what makes the args."""
        if self.args is None:
            return []
        if not _tells_parameters(self.args):
            type_ = getattr(self.args, "__name__", repr(self.args))
            raise FieldConfigurationError(
                f"{self.place}: the parameters of {type_} can't be the field's arguments; make "
                f"the args by a function that has annotated parameters: `def make_args(value: "
                f"{type_}) -> {type_}: return value`"
            )
        resolver = StrawberryResolver[Any](self.args)
        given = [one.name for one in resolver.reserved_parameters.values() if one is not None]
        # A resolver gets its Info by this name, so that no argument can have it.
        given += [one.python_name for one in resolver.arguments if one.python_name == "info"]
        if given:
            raise FieldConfigurationError(
                f"{self.place}: what makes the args gets the field's arguments and nothing else, "
                f"but it has a parameter {given[0]!r}; leave it out, or rename it if it is an "
                f"argument"
            )
        if dataclasses.is_dataclass(self.args):
            for field in dataclasses.fields(self.args):
                if field.default_factory is not dataclasses.MISSING:
                    raise FieldConfigurationError(
                        f"{self.place}: {field.name!r} of the args has a default_factory, which "
                        f"the schema can't show; give it a default, or make the args by a function"
                    )
        return resolver.arguments


class LoadedField(StrawberryField):
    """A field without resolver, that its source loads."""

    # Any: the options are those of StrawberryField, and its __copy__ passes them all.
    def __init__(self, *, source: _Source | None = None, **options: Any) -> None:
        if source is not None:
            # What dataclasses puts into the class, in the field's place.
            options["default"] = source
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType]
        self.source = cast("_Source", self.default)  # pyright: ignore[reportUnknownMemberType]
        # The value is none of the instance's own.
        self.init = self.repr = self.compare = False

    @property
    def is_basic_field(self) -> bool:
        """Whether the resolver needs neither arguments nor an Info."""
        return not self.extensions and self.source.args is None

    @cached_property
    def is_async(self) -> bool:
        """Whether there are field extensions to wait for: those want the value, not a future."""
        extensions = [one for one in self.extensions if one.has_resolver]
        return bool(extensions) and all(one.supports_async for one in extensions)

    @property
    def arguments(self) -> list[StrawberryArgument]:
        """The field's arguments in GraphQL."""
        if self._arguments is None:
            self._arguments = list(self.source.arguments)
        return self._arguments

    @arguments.setter
    def arguments(self, value: list[StrawberryArgument]) -> None:
        self._arguments = value

    def get_result(
        self, source: Any, info: Info | None, args: list[Any], kwargs: Any
    ) -> Awaitable[Any] | Any:
        """Load the value for one parent."""
        by = self.source.by
        key = self.default_resolver(source, by) if isinstance(by, str) else by(source)
        return (self.source.load_later if self.is_async else self.source.load)(key, kwargs)

    def loads(self) -> Callable[[Any], Future[Any] | None]:
        """Give what loads the value for a parent, as the resolver of a basic field does."""
        by, load = self.source.by, cast("LoaderFactory[Any, Any]", self.source.factory).load
        get_key: Callable[[Any], Any]
        if not isinstance(by, str):
            get_key = by
        elif self.default_resolver is getattr:
            get_key = operator.attrgetter(by)
        else:
            get_key = functools.partial(_swapped, self.default_resolver, by)

        def load_for(parent: Any) -> Future[Any] | None:
            key = get_key(parent)
            return None if key is None else load(key)

        return load_for

    def resolve_type(
        self, *, type_definition: StrawberryObjectDefinition | None = None
    ) -> FieldType:
        """Give the field's type; a schema that is being built says of which type it is a field."""
        if type_definition is not None:
            self._check(type_definition)
        return super().resolve_type(type_definition=type_definition)

    def _check(self, parent: StrawberryObjectDefinition) -> None:
        by = self.source.by
        owner = f"{parent.origin.__name__}.{self.python_name}: {self.source.owner}"
        if parent.is_input:
            raise FieldConfigurationError(f"{owner} can't be a field of an input type")
        # An interface never resolves; those who implement it have the field too, and are checked.
        if not isinstance(by, str) or parent.is_interface:
            return
        if not _has_attribute(parent.origin, by):
            advice = (
                f"declare it, as `{by}: strawberry.Private[...]` if it is none of the schema's, or "
                f"give a function of the parent"
            )
            if similar := difflib.get_close_matches(by, _attributes(parent.origin), n=1):
                advice = f"did you mean {similar[0]!r}? If not, {advice}"
            raise FieldConfigurationError(
                f"{owner} is by {by!r}, an attribute that {parent.origin.__name__} lacks; {advice}"
            )
        found = getattr(parent.origin, by, None)
        # To inspect a `cached_property` is a routine too, but it can't be called.
        if isinstance(found, _Source) or (inspect.isroutine(found) and callable(found)):
            kind = "a loaded field" if isinstance(found, _Source) else "a method or resolver"
            raise FieldConfigurationError(
                f"{owner} is by {by!r}, which is {kind} of {parent.origin.__name__} and has no "
                f"value that could be a key; give another attribute, or a function of the parent"
            )


class FieldConfigurationError(StrawberryException, ConfigurationValueError):
    """A ConfigurationError that Strawberry lets through, and does not wrap into one of its own."""

    @cached_property
    def exception_source(self) -> None:
        """The place in the source, which Strawberry would show if it were known."""


def _swapped(function: Callable[[Any, str], object], name: str, parent: object) -> object:
    return function(parent, name)


def _takes_one(function: Callable[..., object]) -> bool:
    """Whether a function can be called with the parent, and gives a key that can be used."""
    if inspect.iscoroutinefunction(function):
        return False
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # some of those that are written in C do not tell
        pass
    return True


def _tells_parameters(makes_args: Callable[..., object]) -> bool:
    """Whether what makes the args says which arguments it takes, as `int` and enums do not."""
    if isinstance(makes_args, EnumMeta) or getattr(makes_args, "__module__", "") == "builtins":
        return False
    try:
        inspect.signature(makes_args)
    except ValueError:
        return False
    return True


def _attributes(cls: type) -> list[str]:
    """Name what the constructor of a type sets: the attributes of all its instances."""
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _has_attribute(cls: type, name: str) -> bool:
    if hasattr(cls, name) or hasattr(cls, "__getattr__"):
        return True
    return any(name in inspect.get_annotations(base) for base in cls.__mro__)
