"""Give every HTTP request of an ASGI application its own loaders.

    app.add_middleware(LoaderScopeMiddleware)                   # Starlette, FastAPI
    Litestar(..., middleware=[LoaderScopeMiddleware])
    app.asgi_app = LoaderScopeMiddleware(app.asgi_app)          # Quart

It needs no framework: any ASGI application can be wrapped.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from dataloader_cache import UNSET, LoaderScope
from dataloader_cache.errors import ConfigurationError
from dataloader_cache.typing import Limiter

__all__ = ["LoaderScopeMiddleware"]

# Any: what the servers and frameworks pass to each other has no common type but this.
_Scope: TypeAlias = MutableMapping[str, Any]
_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]
_App: TypeAlias = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class LoaderScopeMiddleware:
    """Open a scope for each HTTP request, and close it when the response has been sent.

    That includes streaming responses and background tasks. A websocket gets none, since what is
    remembered would grow old with it: open a scope for each message, or use `per_event`.
    A scope without a context gets that of a Strawberry operation in it.

    Batch functions see the context variables that are set where the scope is opened. So this
    middleware stands inside of those that set some, say for the user who is logged in.

    Args:
        app: The application to wrap.
        context: A function, or coroutine function, that makes the context of the request's loaders
            from its ASGI scope.
        limiter: A function that makes a limiter for the loaders of one request, for example
            `lambda: asyncio.Semaphore(1)`.

    Raises:
        ConfigurationError: The context or the limiter is no function.
    """

    def __init__(
        self,
        app: _App,
        context: Callable[[_Scope], object] | None = None,
        *,
        limiter: Callable[[], Limiter] | None = None,
    ) -> None:
        for name, given in (("context", context), ("limiter", limiter)):
            if given is not None and not callable(given):
                raise ConfigurationError(
                    f"{name} of LoaderScopeMiddleware must be a function that makes one for each "
                    f"request, got {given!r}, which all requests would share"
                )
        self._app = app
        self._context = context
        self._limiter = limiter

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context: object = UNSET
        if self._context is not None:
            context = self._context(scope)
            if inspect.isawaitable(context):
                context = await context
        limiter = self._limiter() if self._limiter is not None else None
        async with LoaderScope(context, limiter=limiter):
            await self._app(scope, receive, send)
