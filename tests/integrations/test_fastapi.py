"""`LoaderScopeDep` and `loader_scope`, in FastAPI on a real socket."""

# No postponed annotations: FastAPI looks their names up among those of the module only.

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest

from dataloader_cache import LoaderScope, dataloader
from dataloader_cache.errors import ConfigurationError, LoopError
from dataloader_cache.testing import BatchRecorder

pytest.importorskip("fastapi")

from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

from dataloader_cache.integrations.fastapi import LoaderScopeDep, loader_scope


@dataloader
async def names(ids: list[int]) -> dict[int, str]:
    return {1: "ann", 2: "bob"}


@dataloader
async def viewers(ids: list[int], viewer: str) -> list[str]:
    return [viewer for _ in ids]


async def get_viewer(request: Request) -> str:
    return request.headers["viewer"]


gates: list[asyncio.Semaphore] = []


def new_gate() -> asyncio.Semaphore:
    gates.append(asyncio.Semaphore(1))
    return gates[-1]


ViewerScope = Annotated[LoaderScope, Depends(loader_scope(get_viewer))]
LimitedScope = Annotated[LoaderScope, Depends(loader_scope(limiter=new_gate))]


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()


@pytest.fixture
def get(app: FastAPI, serve: Any, http: Any) -> Any:
    """Ask the application's one endpoint, and wait until its request has ended."""

    async def get(**headers: str) -> Any:
        server = serve(app)
        answer = await http.get(server.url, headers=headers)
        await server.stop()
        assert 200 == answer.status_code, answer.text
        return answer.json() if "json" in answer.headers["content-type"] else answer.text

    return get


async def test_an_endpoint_loads_in_batches(app: FastAPI, get: Any) -> None:
    """Through the factory, or through the scope that is the parameter."""

    @app.get("/")
    async def endpoint(scope: LoaderScopeDep) -> list[str | None]:
        return await asyncio.gather(names.load(1), scope[names].load(2))

    with BatchRecorder() as batches:
        assert ["ann", "bob"] == await get()
    assert [("names", [1, 2])] == batches.plan


async def test_the_scope_gets_what_a_dependency_gives_as_context(app: FastAPI, get: Any) -> None:
    """`loader_scope` takes any dependency for it."""

    @app.get("/")
    async def endpoint(scope: ViewerScope) -> str:
        return await viewers.load(1)

    assert "ann" == await get(viewer="ann")


async def test_the_scope_gets_a_limiter_of_its_own(app: FastAPI, get: Any) -> None:
    """The function that makes limiters is called for each request."""
    gates.clear()

    @app.get("/")
    async def endpoint(scope: LimitedScope) -> str | None:
        return await names.load(1)

    assert "ann" == await get()
    assert 1 == len(gates)


async def test_what_an_endpoint_depends_on_has_the_same_scope(app: FastAPI, get: Any) -> None:
    """One request, one scope, however many ask for it."""

    async def current(scope: LoaderScopeDep) -> LoaderScope:
        return scope

    @app.get("/")
    async def endpoint(
        scope: LoaderScopeDep, other: Annotated[LoaderScope, Depends(current)]
    ) -> bool:
        return scope is other is LoaderScope.current()

    assert await get()


async def test_the_scope_is_open_until_the_response_is_streamed(app: FastAPI, get: Any) -> None:
    """A body that loads while it is sent finds the scope open, and it is closed then."""
    scopes = []

    @app.get("/")
    async def endpoint(scope: LoaderScopeDep) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for key in (1, 2):
                yield str(await names.load(key))

        scopes.append(scope)
        return StreamingResponse(body(), media_type="text/plain")

    assert "annbob" == await get()
    assert [True] == [scope.is_closed for scope in scopes]


async def test_a_plain_endpoint_can_not_load(app: FastAPI, get: Any) -> None:
    """It runs in a thread without an event loop, and the error says so."""

    @app.get("/")
    def endpoint(scope: LoaderScopeDep) -> str:
        with pytest.raises(LoopError) as caught:
            names.load(1)
        return str(caught.value)

    assert (
        "loader 'names' was used where no event loop runs; make the endpoint, view or "
        "function that loads an `async def`, and start a program with asyncio.run(main())"
    ) == await get()


async def test_a_websocket_is_refused(app: FastAPI, serve: Any) -> None:
    """It lives too long for one scope, and the error says what to do."""
    websockets = pytest.importorskip("websockets")
    errors = []

    @app.websocket("/")
    async def endpoint(socket: WebSocket, scope: LoaderScopeDep) -> None:
        pytest.fail("it has a scope")

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            errors.append(str(error))
            raise

    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws://{serve(noting).address}/")

    assert [
        "the dependency on a loader scope is for HTTP endpoints, got a websocket, which would "
        "keep its loaders' values as long as it is open; open a scope for each message: "
        "`with LoaderScope(context):`"
    ] == errors


def test_a_limiter_that_all_requests_would_share_is_refused() -> None:
    """The limiter is a function, which is called for each request."""
    with pytest.raises(ConfigurationError) as caught:
        loader_scope(limiter=asyncio.Semaphore(1))  # type: ignore[arg-type]

    assert str(caught.value).startswith(
        "limiter of loader_scope must be a function that makes one for each request, got <asyncio."
    )
