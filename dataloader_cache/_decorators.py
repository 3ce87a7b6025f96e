"""`AsyncLRU` and `AsyncTTL`: an async function's results in a cache of its own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from ._arguments import check_count, check_seconds
from ._cache import ABSENT, AsyncCache, Done, hit, load_afresh
from ._keys import PLAIN, KeyMaker
from .errors import ConfigurationTypeError, ConfigurationValueError

__all__ = ["AsyncLRU", "AsyncTTL", "CachedFunction", "CachedMethod"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)


class CachedMethod(Protocol[P, R_co]):
    """A cached function that was got from an instance; its cache is the function's."""

    cache: AsyncCache

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...
    # Any: no type can be P and one keyword more.
    @overload
    def __call__(self, *args: Any, use_cache: bool, **kwargs: Any) -> Coroutine[Any, Any, R_co]: ...

    # Any: these take the instance too, whose type is gone here.
    def invalidate_cache(self, *args: Any, **kwargs: Any) -> Done:
        """Forget the result of a call with these arguments; the instance is the first."""
        ...

    def clear_cache(self) -> Done:
        """Forget all results, and set the counters to zero."""
        ...

    def get_metrics(self) -> dict[str, Any]:
        """Give the counters of the function's cache."""
        ...


class CachedFunction(Protocol[P, R_co]):
    """An async function with a cache of its own, which lives as long as the function."""

    cache: AsyncCache

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...
    # Any: no type can be P and one keyword more.
    @overload
    def __call__(self, *args: Any, use_cache: bool, **kwargs: Any) -> Coroutine[Any, Any, R_co]: ...

    @overload
    def __get__(self, instance: None, owner: type) -> CachedFunction[P, R_co]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type
    ) -> CachedMethod[Q, R]: ...

    def invalidate_cache(self, *args: P.args, **kwargs: P.kwargs) -> Done:
        """Forget the result of a call with these arguments; `self` is one of them."""
        ...

    def clear_cache(self) -> Done:
        """Forget all results, and set the counters to zero."""
        ...

    def get_metrics(self) -> dict[str, Any]:
        """Give the counters of the function's cache."""
        ...


class AsyncLRU:
    """Keep the results of the last `maxsize` different calls of an async function.

    Each decorated function has its own cache. Concurrent equal calls share one run. Arguments
    are compared by value, lists, dicts, sets and plain objects by what they hold; however a call
    is written (`f(1)`, `f(x=1)`), it is the same call. An error is not remembered.

        @AsyncLRU(maxsize=128)
        async def load_user(user_id: int) -> User: ...

        await load_user(1)
        await load_user(1, use_cache=False)     # run it, and store the result
        load_user.invalidate_cache(1)

    Args:
        maxsize: The most results; None is no bound.
        skip_args: How many leading arguments are no part of the key. With 1 a method leaves out
            `self`, so that all instances share results, and none is kept alive or compared.
        key: A function of the call's arguments that gives the key in place of all this.

    Raises:
        ConfigurationError: An argument is wrong, or the function is none that can be cached.
    """

    _time_to_live: float | None = None

    def __init__(
        self,
        maxsize: int | None = 128,
        skip_args: int = 0,
        *,
        key: Callable[..., Hashable] | None = None,
    ) -> None:
        owner = type(self).__name__
        self._refuse_function(maxsize)
        if maxsize is not None:
            check_count(owner, "maxsize", maxsize, zero=True)
        if isinstance(skip_args, bool) or not isinstance(skip_args, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationTypeError(f"{owner}: skip_args must be an int, got {skip_args!r}")
        if skip_args < 0:
            raise ConfigurationValueError(f"{owner}: skip_args must be >= 0, got {skip_args!r}")
        if key is not None and not callable(key):
            raise ConfigurationTypeError(f"{owner}: key must be a function, got {key!r}")
        self._maxsize = maxsize
        self._skip_args = skip_args
        self._key = key

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> CachedFunction[P, R]:
        """Wrap one async function."""
        if not inspect.iscoroutinefunction(inspect.unwrap(function)):
            raise ConfigurationTypeError(
                f"{type(self).__name__} decorates async functions, got {function!r}"
            )
        name = getattr(function, "__qualname__", repr(function))
        cache = AsyncCache(self._maxsize, self._time_to_live, name=name)
        make_key = KeyMaker(function, self._skip_args, f"cached function {name!r}")
        return cast("CachedFunction[P, R]", _wrap(function, cache, make_key, self._key))

    def _refuse_function(self, argument: object) -> None:
        # What a decorator without parentheses is given.
        if inspect.isroutine(argument):
            owner, function = type(self).__name__, getattr(argument, "__qualname__", argument)
            raise ConfigurationTypeError(
                f"{owner} is used with parentheses: write @{owner}() above {function!r}"
            )


class AsyncTTL(AsyncLRU):
    """Keep the results of an async function for `time_to_live` seconds.

    Otherwise as `AsyncLRU`: each function has its own cache, and so on.

    Args:
        time_to_live: Seconds that a result is fresh; None is for ever.
        maxsize: The most results; None is no bound.
        skip_args: How many leading arguments are no part of the key. With 1 a method leaves out
            `self`, so that all instances share results, and none is kept alive or compared.
        key: A function of the call's arguments that gives the key in place of all this.
    """

    def __init__(
        self,
        time_to_live: float | None = 60,
        maxsize: int | None = 1024,
        skip_args: int = 0,
        *,
        key: Callable[..., Hashable] | None = None,
    ) -> None:
        super().__init__(maxsize, skip_args, key=key)
        self._refuse_function(time_to_live)
        if time_to_live is not None:
            check_seconds("AsyncTTL", "time_to_live", time_to_live, zero=True)
        self._time_to_live = time_to_live


def _wrap(
    # Any: the caller gives its type, which a call by *args could not be checked against.
    function: Callable[..., Any],
    cache: AsyncCache,
    make_key: KeyMaker,
    given_key: Callable[..., Hashable] | None,
) -> Any:
    def key_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        return make_key(args, kwargs) if given_key is None else given_key(*args, **kwargs)

    # A function of its own: in `call`, a lambda would make cells of the arguments of every hit.
    def run(
        key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any], use_cache: bool
    ) -> Awaitable[Any]:
        def load() -> Any:
            return function(*args, **kwargs)

        return cache.get(key, load) if use_cache else load_afresh(cache, key, load)

    skip = make_key.skip
    tails: Mapping[int, tuple[Hashable, ...]] = make_key.tails if given_key is None else {}

    @functools.wraps(function)
    async def call(*args: Any, use_cache: bool = True, **kwargs: Any) -> Any:
        key: Hashable = None
        # Most calls give plain arguments by position: they, and the defaults of those left out,
        # are the key as they stand.
        tail = None if kwargs else tails.get(len(args))
        if tail is not None:
            own = args[skip:] + tail if skip or tail else args
            for value in own:
                if type(value) not in PLAIN:
                    break
            else:
                key = own
        if key is None:
            key = key_of(args, kwargs)
        if use_cache:
            value = hit(cache, key)
            if value is not ABSENT:
                return value
        return await run(key, args, kwargs, use_cache)

    def invalidate_cache(*args: Any, **kwargs: Any) -> Done:
        return cache.delete(key_of(args, kwargs))

    cached = cast("Any", call)
    cached.cache = cache
    cached.invalidate_cache = invalidate_cache
    cached.clear_cache = cache.clear
    cached.get_metrics = cache.get_metrics
    return cached
