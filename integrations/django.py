"""Give every request to async views of Django its own loaders.

For all of them, in the settings:

    MIDDLEWARE = [..., "dataloader_cache.integrations.django.LoaderScopeMiddleware"]

or for one:

    @loader_scope
    async def posts(request: HttpRequest) -> HttpResponse: ...

A view that is a plain `def` has no event loop to load on; its loads raise `LoopError`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar, overload

from dataloader_cache import UNSET, LoaderScope
from dataloader_cache.errors import ConfigurationError
from dataloader_cache.typing import Limiter

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django.http import HttpRequest, StreamingHttpResponse
    from django.http.response import HttpResponseBase
except ImportError as error:
    raise ImportError(
        "dataloader_cache.integrations.django needs django >= 4.2; "
        "install it with: pip install 'dataloader-cache[django]'"
    ) from error

from ._lost import close_when_lost

__all__ = ["LoaderScopeMiddleware", "loader_scope"]

_Response: TypeAlias = Awaitable[HttpResponseBase]
# Any: a view takes what its URL pattern gives it.
_View = TypeVar("_View", bound=Callable[..., Any])


class LoaderScopeMiddleware:
    """Open a scope for each request, and close it when the response has been sent.

    That includes streaming responses whose content is an async iterator. A scope without a context
    gets that of a Strawberry operation in it; a subclass may give another.

    It is asynchronous only, so that scopes are closed where their loads run: in a stack of
    synchronous middleware and views Django starts an event loop around it.
    """

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], _Response]) -> None:
        self._get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer one request."""
        context = await _maybe_await(self.get_context(request))
        scope = LoaderScope(context, limiter=self.get_limiter(request))
        return await _answer(scope, lambda: self._get_response(request))

    def get_context(self, request: HttpRequest) -> object:
        """Give the context of the request's loaders, or an awaitable of it."""
        return UNSET

    def get_limiter(self, request: HttpRequest) -> Limiter | None:
        """Give a limiter for the request's loaders."""
        return None


@overload
def loader_scope(view: _View, /) -> _View: ...
@overload
def loader_scope(
    *,
    context: Callable[[HttpRequest], object] | None = None,
    limiter: Callable[[], Limiter] | None = None,
) -> Callable[[_View], _View]: ...
def loader_scope(
    view: Any = None,
    /,
    *,
    context: Callable[[HttpRequest], object] | None = None,
    limiter: Callable[[], Limiter] | None = None,
) -> Any:
    """Open a scope for each request to this async view, and close it when the answer is sent.

    Args:
        view: An `async def` view, or `as_view()` of a class with async handlers.
        context: A function, or coroutine function, of the request that makes the context of its
            loaders.
        limiter: A function that makes a limiter for the loaders of one request.

    Raises:
        ConfigurationError: The view is not async, or the context or the limiter is no function.
    """
    for name, given in (("context", context), ("limiter", limiter)):
        if given is not None and not callable(given):
            raise ConfigurationError(
                f"{name} of loader_scope must be a function that makes one for each request, got "
                f"{given!r}, which all requests would share"
            )
    if view is None:
        return functools.partial(_in_scope, context=context, limiter=limiter)
    return _in_scope(view, context=context, limiter=limiter)


def _in_scope(
    view: Callable[..., _Response],
    *,
    context: Callable[[HttpRequest], object] | None,
    limiter: Callable[[], Limiter] | None,
) -> Callable[..., _Response]:
    # Not that of `inspect`, which before 3.12 does not know the marked ones, as `as_view()` has.
    if not iscoroutinefunction(view):  # pyright: ignore[reportDeprecated]
        name = getattr(view, "__qualname__", repr(view))
        raise ConfigurationError(
            f"loader_scope is for async views, got {name}; make it an `async def`, since loads "
            "need an event loop"
        )

    @functools.wraps(view)
    async def view_in_scope(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        scope = LoaderScope(
            await _maybe_await(context(request)) if context is not None else UNSET,
            limiter=limiter() if limiter is not None else None,
        )
        return await _answer(scope, lambda: view(request, *args, **kwargs))

    return view_in_scope


async def _maybe_await(context: object) -> object:
    return await context if inspect.isawaitable(context) else context


async def _answer(scope: LoaderScope, respond: Callable[[], _Response]) -> HttpResponseBase:
    """Answer in the scope, and close it; a response still to be streamed closes it at its end."""
    streamed = False
    scope.activate()
    try:
        response = await respond()
        if isinstance(response, StreamingHttpResponse):
            content = response.streaming_content
            if isinstance(content, AsyncIterator):
                parts = _parts(content, scope)
                close_when_lost(parts, scope)
                response.streaming_content = parts
                streamed = True
        return response
    finally:
        scope.deactivate()
        if not streamed:
            await scope.aclose()


async def _parts(content: AsyncIterator[bytes], scope: LoaderScope) -> AsyncGenerator[bytes, None]:
    try:
        while True:
            # Made current for each part, as the server may pull them in any task.
            scope.activate()
            try:
                part = await anext(content, None)
            finally:
                scope.deactivate()
            if part is None:
                return
            yield part
    finally:
        await scope.aclose()
