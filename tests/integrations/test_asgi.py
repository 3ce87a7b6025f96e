"""`LoaderScopeMiddleware`, around real frameworks on a real socket."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dataloader_cache import LoaderScope, dataloader
from dataloader_cache.errors import ConfigurationError, LoopError
from dataloader_cache.integrations.asgi import LoaderScopeMiddleware
from dataloader_cache.testing import BatchRecorder

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

NAMES: dict[int, str] = {}


@dataloader
async def names(ids: list[int]) -> dict[int, str]:
    return {key: NAMES[key] for key in ids}


@dataloader
async def viewers(ids: list[int], viewer: str) -> list[str]:
    return [viewer for _ in ids]


@pytest.fixture(autouse=True)
def rows() -> None:
    NAMES.clear()
    NAMES.update({1: "ann", 2: "bob"})


@pytest.fixture
def batches() -> Iterator[BatchRecorder]:
    with BatchRecorder() as recorder:
        yield recorder


async def both() -> list[str | None]:
    return await asyncio.gather(names.load(1), names.load(2))


def starlette() -> Any:
    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse(await both())

    return Starlette(
        routes=[Route("/names", endpoint)], middleware=[Middleware(LoaderScopeMiddleware)]
    )


def fastapi() -> Any:
    pytest.importorskip("fastapi")
    from fastapi import FastAPI

    app = FastAPI()
    app.get("/names")(both)
    app.add_middleware(LoaderScopeMiddleware)
    return app


def litestar() -> Any:
    pytest.importorskip("litestar")
    from litestar import Litestar, get

    return Litestar([get("/names")(both)], middleware=[LoaderScopeMiddleware])


def quart() -> Any:
    pytest.importorskip("quart")
    from quart import Quart

    app = Quart("tests", root_path="/")

    @app.get("/names")
    async def endpoint() -> Any:
        return await both()

    app.asgi_app = LoaderScopeMiddleware(app.asgi_app)
    return app


@pytest.mark.parametrize("make", [starlette, fastapi, litestar, quart])
class TestEachFramework:
    async def test_an_endpoint_loads_in_batches(
        self, make: Any, serve: Any, http: Any, batches: Any
    ) -> None:
        """The endpoint needs nothing but the factory."""
        answer = await http.get(f"{serve(make()).url}/names")

        assert ["ann", "bob"] == answer.json()
        assert [("names", [1, 2])] == batches.plan

    async def test_each_request_reads_afresh(self, make: Any, serve: Any, http: Any) -> None:
        """Nothing is left from the request before, on the same connection."""
        url = f"{serve(make()).url}/names"
        await http.get(url)
        NAMES[1] = "eve"

        assert ["eve", "bob"] == (await http.get(url)).json()


class TestARequest:
    @pytest.fixture
    def scopes(self) -> list[LoaderScope]:
        return []

    @pytest.fixture
    def get(self, serve: Any, http: Any) -> Any:
        """Ask an application of one endpoint, which stands in the middleware."""

        async def get(endpoint: Any, *arguments: Any, headers: Any = None, **options: Any) -> Any:
            app = Starlette(routes=[Route("/", endpoint)])
            server = serve(LoaderScopeMiddleware(app, *arguments, **options))
            answer = await http.get(server.url, headers=headers)
            await server.stop()
            return answer

        return get

    async def test_has_its_scope_until_its_response_is_streamed(
        self, get: Any, scopes: list[LoaderScope]
    ) -> None:
        """A body that loads while it is sent finds the scope open."""

        async def body() -> AsyncIterator[str]:
            for key in (1, 2):
                scopes.append(LoaderScope.current())
                yield await names.load(key)

        async def endpoint(request: Request) -> StreamingResponse:
            return StreamingResponse(body())

        assert "annbob" == (await get(endpoint)).text
        assert [True, True] == [scope.is_closed for scope in scopes]

    async def test_has_its_scope_until_its_background_tasks_have_run(self, get: Any) -> None:
        """What is done after the response may load too."""
        seen = []

        async def background() -> None:
            seen.append(await names.load(1))

        async def endpoint(request: Request) -> PlainTextResponse:
            return PlainTextResponse("", background=BackgroundTask(background))

        await get(endpoint)

        assert ["ann"] == seen

    async def test_that_fails_closes_its_scope(self, get: Any, scopes: list[LoaderScope]) -> None:
        """An error in the endpoint ends the request, and with it the scope."""

        async def endpoint(request: Request) -> PlainTextResponse:
            scopes.append(LoaderScope.current())
            raise ValueError("no")

        assert 500 == (await get(endpoint)).status_code
        assert [True] == [scope.is_closed for scope in scopes]

    async def test_whose_client_leaves_ends_what_it_loads(self, serve: Any, http: Any) -> None:
        """A load that only the response waited for is cancelled."""
        started, ended = asyncio.Event(), asyncio.Event()

        @dataloader
        async def slow(ids: list[int]) -> list[str]:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return []

        async def body() -> AsyncIterator[str]:
            yield "begin"
            yield await slow.load(1)

        async def endpoint(request: Request) -> StreamingResponse:
            return StreamingResponse(body())

        app = Starlette(routes=[Route("/", endpoint)])
        async with http.stream("GET", serve(LoaderScopeMiddleware(app)).url) as response:
            await anext(response.aiter_text())
            await started.wait()

        assert await ended.wait()

    @pytest.mark.parametrize("is_async", [False, True])
    async def test_gets_the_context_that_is_made_of_it(self, get: Any, is_async: bool) -> None:
        """A function of the ASGI scope, or a coroutine function, says what loaders see."""

        def viewer(scope: Any) -> str:
            return Request(scope).headers["viewer"]

        async def viewer_async(scope: Any) -> str:
            return viewer(scope)

        async def endpoint(request: Request) -> PlainTextResponse:
            return PlainTextResponse(await viewers.load(1))

        context = viewer_async if is_async else viewer

        assert "ann" == (await get(endpoint, context, headers={"viewer": "ann"})).text

    async def test_gets_a_limiter_of_its_own(self, get: Any) -> None:
        """The function that makes limiters is called for each request."""
        made = []

        def limiter() -> asyncio.Semaphore:
            made.append(asyncio.Semaphore(1))
            return made[-1]

        async def endpoint(request: Request) -> PlainTextResponse:
            return PlainTextResponse(await names.load(1))

        assert "ann" == (await get(endpoint, limiter=limiter)).text
        assert 1 == len(made)

    async def test_to_a_plain_function_can_not_load(self, get: Any) -> None:
        """It runs in a thread without an event loop, and the error says so."""

        def endpoint(request: Request) -> PlainTextResponse:
            with pytest.raises(LoopError) as caught:
                names.load(1)
            return PlainTextResponse(str(caught.value))

        assert (
            "loader 'names' was used where no event loop runs; make the endpoint, view or "
            "function that loads an `async def`, and start a program with asyncio.run(main())"
        ) == (await get(endpoint)).text


async def test_a_websocket_has_no_scope(serve: Any) -> None:
    """It lives too long for one."""
    websockets = pytest.importorskip("websockets")

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(str(LoaderScope.current(None)))
        await socket.close()

    app = LoaderScopeMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]))
    async with websockets.connect(f"ws://{serve(app).address}/") as connection:
        assert "None" == await connection.recv()


async def test_the_lifespan_has_no_scope(serve: Any, http: Any) -> None:
    """What starts with the server lives as long as the server."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while scope["type"] == "lifespan":
            kind = (await receive())["type"]
            seen.append((kind, LoaderScope.current(None)))
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return

    await serve(LoaderScopeMiddleware(app), lifespan="on").stop()

    assert [("lifespan.startup", None), ("lifespan.shutdown", None)] == seen


@pytest.mark.parametrize("name", ["context", "limiter"])
def test_what_all_requests_would_share_is_refused(name: str) -> None:
    """The middleware takes functions, which it calls for each request."""
    with pytest.raises(ConfigurationError) as caught:
        LoaderScopeMiddleware(starlette(), **{name: 7})  # type: ignore[arg-type]

    assert (
        f"{name} of LoaderScopeMiddleware must be a function that makes one for each request, "
        "got 7, which all requests would share"
    ) == str(caught.value)
