"""Give an endpoint of FastAPI its own loaders.

    @app.get("/posts")
    async def posts(scope: LoaderScopeDep) -> list[Post]:
        authors = await users.load_many([1, 2])

For all endpoints at once there is `dataloader_cache.integrations.asgi`. Strawberry's
`GraphQLRouter` needs neither: `DataLoaderExtension` does all.
"""

# No postponed annotations: FastAPI looks their names up among those of the module only.

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypeAlias

from dataloader_cache import UNSET, LoaderScope
from dataloader_cache.errors import ConfigurationError
from dataloader_cache.typing import Limiter

try:
    from fastapi import Depends
    from fastapi.requests import HTTPConnection
except ImportError as error:
    raise ImportError(
        "dataloader_cache.integrations.fastapi needs fastapi >= 0.118; "
        "install it with: pip install 'dataloader-cache[fastapi]'"
    ) from error

__all__ = ["LoaderScopeDep", "loader_scope"]


def _no_context() -> object:
    return UNSET


def loader_scope(
    get_context: Callable[..., Any] = _no_context,
    *,
    limiter: Callable[[], Limiter] | None = None,
) -> Callable[..., AsyncIterator[LoaderScope]]:
    """Make a dependency that opens a scope, and closes it when the response has been sent.

        Scope = Annotated[LoaderScope, Depends(loader_scope(get_context))]

        @app.get("/posts")
        async def posts(scope: Scope) -> list[Post]: ...

    Name it once, as here: each call makes another dependency, with a scope of its own. It refuses
    websockets, since what is remembered would grow old with them: open a scope for each message.

    Args:
        get_context: A dependency itself; what it gives is the context of the request's loaders.
        limiter: A function that makes a limiter for the loaders of one request, for example
            `lambda: asyncio.Semaphore(1)`.

    Raises:
        ConfigurationError: The limiter is no function.
    """
    if limiter is not None and not callable(limiter):
        raise ConfigurationError(
            "limiter of loader_scope must be a function that makes one for each request, got "
            f"{limiter!r}, which all requests would share"
        )

    async def open_scope(
        connection: HTTPConnection, context: Annotated[Any, Depends(get_context)]
    ) -> AsyncIterator[LoaderScope]:
        if connection.scope["type"] != "http":
            raise ConfigurationError(
                "the dependency on a loader scope is for HTTP endpoints, got a "
                f"{connection.scope['type']}, which would keep its loaders' values as long as it "
                "is open; open a scope for each message: `with LoaderScope(context):`"
            )
        async with LoaderScope(context, limiter=limiter() if limiter is not None else None) as it:
            yield it

    return open_scope


LoaderScopeDep: TypeAlias = Annotated[LoaderScope, Depends(loader_scope())]
"""The type of an endpoint's parameter that gets a scope without a context."""
