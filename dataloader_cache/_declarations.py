"""What type checkers are told about declarations, and nothing else.

Which parameters a batch function may have, and what its result makes of the values' type: a
mapping may lack a key, so its values may be None, but not with `missing="raise"`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, overload

from ._factory import (
    ArgsLoaderFactory,
    LoaderFactory,
    SharedArgsLoaderFactory,
    SharedLoaderFactory,
)
from .typing import Limiter

__all__ = [
    "Declares",
    "DeclaresArgs",
    "DeclaresByCacheKey",
    "DeclaresFound",
    "DeclaresFoundArgs",
    "DeclaresFoundByCacheKey",
    "GroupOptions",
    "Groups",
    "GroupsArgs",
    "GroupsPublic",
    "GroupsPublicArgs",
    "GroupsVary",
    "GroupsVaryArgs",
    "List",
    "Map",
    "Request",
    "RequestOptions",
    "SharedOptions",
    "Shares",
    "SharesArgs",
    "SharesFound",
    "SharesFoundArgs",
    "SharesPublic",
    "SharesPublicArgs",
    "SharesPublicFound",
    "SharesPublicFoundArgs",
]

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")
A = TypeVar("A", bound=Hashable)
B = TypeVar("B")
W = TypeVar("W", bound=Hashable)
W_co = TypeVar("W_co", covariant=True)

# What a batch function takes: the keys, then what its factory has for it. Any is the scope's
# context, whose type only the application knows.
Request: TypeAlias = Callable[[list[K]], Awaitable[R]] | Callable[[list[K], Any], Awaitable[R]]
RequestArgs: TypeAlias = (
    Callable[[list[K], A], Awaitable[R]] | Callable[[list[K], Any, A], Awaitable[R]]
)
Public: TypeAlias = Callable[[list[K]], Awaitable[R]]
PublicArgs: TypeAlias = Callable[[list[K], A], Awaitable[R]]
Vary: TypeAlias = Callable[[list[K]], Awaitable[R]] | Callable[[list[K], W], Awaitable[R]]
VaryArgs: TypeAlias = Callable[[list[K], A], Awaitable[R]] | Callable[[list[K], W, A], Awaitable[R]]

# What it returns. With a cache_key_fn a mapping is by whatever that gives.
Map: TypeAlias = Mapping[K, V | BaseException]
List: TypeAlias = Sequence[V | BaseException]


class _LoaderOptions(TypedDict, total=False):
    max_batch_size: int | None
    batch_window: float | None
    max_concurrent_batches: int | None
    limiter: Limiter | None
    load_timeout: float | None
    name: str | None


class GroupOptions(_LoaderOptions, total=False):
    """What `group_dataloader` takes besides `by`, `args` and `cache_key_fn`: as `DataLoader`."""

    cache: bool


class RequestOptions(GroupOptions, total=False):
    """What `dataloader` takes besides `args`, `missing` and `cache_key_fn`: as `DataLoader`."""

    cache_errors: bool


class SharedOptions(_LoaderOptions, total=False):
    """What shared factories take besides those that decide types: as `AsyncCache`, `DataLoader`."""

    cache_key_fn: Callable[[Any], Hashable] | None
    maxsize: int | None
    stale_ttl: float
    refresh_ahead: float | None
    negative_ttl: float | None
    ttl_jitter: float
    eviction: Literal["lru", "s3fifo"]
    clock: Callable[[], float]


class Declares(Protocol):
    @overload
    def __call__(self, function: Request[K, Map[K, V]], /) -> LoaderFactory[K, V | None]: ...
    @overload
    def __call__(self, function: Request[K, List[V]], /) -> LoaderFactory[K, V]: ...


class DeclaresFound(Protocol):
    @overload
    def __call__(self, function: Request[K, Map[K, V]], /) -> LoaderFactory[K, V]: ...
    @overload
    def __call__(self, function: Request[K, List[V]], /) -> LoaderFactory[K, V]: ...


class DeclaresByCacheKey(Protocol):
    @overload
    def __call__(self, function: Request[K, Map[Any, V]], /) -> LoaderFactory[K, V | None]: ...
    @overload
    def __call__(self, function: Request[K, List[V]], /) -> LoaderFactory[K, V]: ...


class DeclaresFoundByCacheKey(Protocol):
    @overload
    def __call__(self, function: Request[K, Map[Any, V]], /) -> LoaderFactory[K, V]: ...
    @overload
    def __call__(self, function: Request[K, List[V]], /) -> LoaderFactory[K, V]: ...


class DeclaresArgs(Protocol[B]):
    @overload
    def __call__(
        self, function: RequestArgs[K, B, Map[Any, V]], /
    ) -> ArgsLoaderFactory[K, B, V | None]: ...
    @overload
    def __call__(self, function: RequestArgs[K, B, List[V]], /) -> ArgsLoaderFactory[K, B, V]: ...


class DeclaresFoundArgs(Protocol[B]):
    @overload
    def __call__(
        self, function: RequestArgs[K, B, Map[Any, V]], /
    ) -> ArgsLoaderFactory[K, B, V]: ...
    @overload
    def __call__(self, function: RequestArgs[K, B, List[V]], /) -> ArgsLoaderFactory[K, B, V]: ...


class SharesPublic(Protocol):
    @overload
    def __call__(self, function: Public[K, Map[Any, V]], /) -> SharedLoaderFactory[K, V | None]: ...
    @overload
    def __call__(self, function: Public[K, List[V]], /) -> SharedLoaderFactory[K, V]: ...


class SharesPublicFound(Protocol):
    @overload
    def __call__(self, function: Public[K, Map[Any, V]], /) -> SharedLoaderFactory[K, V]: ...
    @overload
    def __call__(self, function: Public[K, List[V]], /) -> SharedLoaderFactory[K, V]: ...


class SharesPublicArgs(Protocol[B]):
    @overload
    def __call__(
        self, function: PublicArgs[K, B, Map[Any, V]], /
    ) -> SharedArgsLoaderFactory[K, B, V | None]: ...
    @overload
    def __call__(
        self, function: PublicArgs[K, B, List[V]], /
    ) -> SharedArgsLoaderFactory[K, B, V]: ...


class SharesPublicFoundArgs(Protocol[B]):
    @overload
    def __call__(
        self, function: PublicArgs[K, B, Map[Any, V]], /
    ) -> SharedArgsLoaderFactory[K, B, V]: ...
    @overload
    def __call__(
        self, function: PublicArgs[K, B, List[V]], /
    ) -> SharedArgsLoaderFactory[K, B, V]: ...


class Shares(Protocol[W_co]):
    @overload
    def __call__(
        self, function: Vary[K, Map[Any, V], W_co], /
    ) -> SharedLoaderFactory[K, V | None]: ...
    @overload
    def __call__(self, function: Vary[K, List[V], W_co], /) -> SharedLoaderFactory[K, V]: ...


class SharesFound(Protocol[W_co]):
    @overload
    def __call__(self, function: Vary[K, Map[Any, V], W_co], /) -> SharedLoaderFactory[K, V]: ...
    @overload
    def __call__(self, function: Vary[K, List[V], W_co], /) -> SharedLoaderFactory[K, V]: ...


class SharesArgs(Protocol[W_co, B]):
    @overload
    def __call__(
        self, function: VaryArgs[K, B, Map[Any, V], W_co], /
    ) -> SharedArgsLoaderFactory[K, B, V | None]: ...
    @overload
    def __call__(
        self, function: VaryArgs[K, B, List[V], W_co], /
    ) -> SharedArgsLoaderFactory[K, B, V]: ...


class SharesFoundArgs(Protocol[W_co, B]):
    @overload
    def __call__(
        self, function: VaryArgs[K, B, Map[Any, V], W_co], /
    ) -> SharedArgsLoaderFactory[K, B, V]: ...
    @overload
    def __call__(
        self, function: VaryArgs[K, B, List[V], W_co], /
    ) -> SharedArgsLoaderFactory[K, B, V]: ...


class Groups(Protocol):
    def __call__(self, function: Request[K, Iterable[V]], /) -> LoaderFactory[K, list[V]]: ...


class GroupsArgs(Protocol[B]):
    def __call__(
        self, function: RequestArgs[K, B, Iterable[V]], /
    ) -> ArgsLoaderFactory[K, B, list[V]]: ...


class GroupsPublic(Protocol):
    def __call__(self, function: Public[K, Iterable[V]], /) -> SharedLoaderFactory[K, list[V]]: ...


class GroupsPublicArgs(Protocol[B]):
    def __call__(
        self, function: PublicArgs[K, B, Iterable[V]], /
    ) -> SharedArgsLoaderFactory[K, B, list[V]]: ...


class GroupsVary(Protocol[W_co]):
    def __call__(
        self, function: Vary[K, Iterable[V], W_co], /
    ) -> SharedLoaderFactory[K, list[V]]: ...


class GroupsVaryArgs(Protocol[W_co, B]):
    def __call__(
        self, function: VaryArgs[K, B, Iterable[V], W_co], /
    ) -> SharedArgsLoaderFactory[K, B, list[V]]: ...
