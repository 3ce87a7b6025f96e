"""Servers on real sockets, and the clients of the GraphQL protocols."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no log record of an error hold what a test has dropped."""
    for name in ("strawberry.execution", "strawberry.ws.task", "uvicorn.error", "django.request"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)


class Server:
    """Serve one ASGI application in this loop, on a free port."""

    def __init__(self, app: Any, listening: socket.socket, **options: Any) -> None:
        uvicorn = pytest.importorskip("uvicorn")

        class Server(uvicorn.Server):  # type: ignore[misc, name-defined]
            """Stop at once, where uvicorn's looks ten times a second whether it should."""

            def __init__(self, config: Any) -> None:
                super().__init__(config)
                self.stopping = asyncio.Event()

            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield  # they are pytest's

            async def main_loop(self) -> None:
                await self.on_tick(0)
                await self.stopping.wait()

        options = {"lifespan": "off", "timeout_graceful_shutdown": 5, **options}
        self._server = Server(uvicorn.Config(app, log_config=None, access_log=False, **options))
        self._listening = listening
        self._running = asyncio.create_task(self._server.serve(sockets=[listening]))
        self.address = f"127.0.0.1:{listening.getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def stop(self) -> None:
        """Wait until every request and socket has been served to its end."""
        self._server.stopping.set()
        await self._running


Serve = Callable[..., Server]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers that stop when the test ends."""
    async with AsyncExitStack() as stack:

        def start(app: Any, **options: Any) -> Server:
            # It listens before the server runs, so that nobody has to wait until it does.
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            server = Server(app, listening, **options)
            stack.push_async_callback(server.stop)
            return server

        yield start


class GraphQLClient:
    """Speak to one GraphQL endpoint, as one user."""

    def __init__(self, http: Any, address: str, path: str, headers: dict[str, str]) -> None:
        self._http = http
        self._url = f"http://{address}{path}"
        self._socket_url = f"ws://{address}{path}"
        self._headers = headers

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Send one operation, and give its answer."""
        answer: dict[str, Any] = await self._post({"query": query, "variables": variables})
        return answer

    async def ask_all(self, *queries: str) -> list[dict[str, Any]]:
        """Send several operations in one request."""
        answers: list[dict[str, Any]] = await self._post([{"query": query} for query in queries])
        return answers

    async def _post(self, body: Any) -> Any:
        response = await self._http.post(self._url, json=body, headers=self._headers)
        assert (200, None) == (response.status_code, None), response.text
        return response.json()

    @asynccontextmanager
    async def stream(self, query: str, accept: str) -> AsyncIterator[AsyncIterator[Any]]:
        """Send one operation, and give the parts of its answer as they come."""
        headers = {"accept": accept, **self._headers}
        body = {"query": query}
        async with self._http.stream("POST", self._url, json=body, headers=headers) as response:

            async def parts() -> AsyncIterator[Any]:
                async for line in response.aiter_lines():
                    text = line.removeprefix("data: ").strip()
                    if text.startswith("{") and text != "{}":
                        yield json.loads(text)

            yield parts()

    @asynccontextmanager
    async def connect(self, protocol: str = "graphql-transport-ws") -> AsyncIterator[GraphQLSocket]:
        """Open a websocket."""
        websockets = pytest.importorskip("websockets")
        async with websockets.connect(
            self._socket_url, subprotocols=[protocol], additional_headers=self._headers
        ) as connection:
            socket = GraphQLSocket(connection, protocol)
            await socket.begin()
            try:
                yield socket
            finally:
                await socket.end()


class GraphQLSocket:
    """Speak graphql-transport-ws, or the older graphql-ws."""

    def __init__(self, connection: Any, protocol: str) -> None:
        self._connection = connection
        is_new = protocol == "graphql-transport-ws"
        self._start, self._stop = ("subscribe", "complete") if is_new else ("start", "stop")
        self._ids = map(str, itertools.count())
        self._operations: dict[str, asyncio.Queue[Any]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        await self._send(type="connection_init", payload={})
        assert "connection_ack" == json.loads(await self._connection.recv())["type"]
        self._reading = asyncio.create_task(self._read())

    async def end(self) -> None:
        await self._connection.close()
        if self._reading is not None:
            await self._reading

    async def start(self, query: str) -> SocketOperation:
        id_ = next(self._ids)
        messages = self._operations[id_] = asyncio.Queue()
        await self._send(type=self._start, id=id_, payload={"query": query})
        return SocketOperation(messages, lambda: self._send(type=self._stop, id=id_))

    async def _send(self, **message: Any) -> None:
        await self._connection.send(json.dumps(message))

    async def _read(self) -> None:
        async for text in self._connection:
            message = json.loads(text)
            if "id" in message:
                self._operations[message["id"]].put_nowait(message)
        for messages in self._operations.values():
            messages.put_nowait({"type": "complete"})


class SocketOperation:
    """Be one operation on a websocket: an iterator of its results."""

    def __init__(self, messages: asyncio.Queue[Any], stop: Callable[[], Awaitable[None]]) -> None:
        self._messages = messages
        self.stop = stop

    def __aiter__(self) -> SocketOperation:
        return self

    async def __anext__(self) -> Any:
        message = await self._messages.get()
        if message["type"] == "complete":
            raise StopAsyncIteration
        return message["payload"]


Client = Callable[..., GraphQLClient]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Make clients of a server's GraphQL endpoint; keywords are headers."""
    httpx = pytest.importorskip("httpx")
    async with httpx.AsyncClient(timeout=30) as http:

        def make(server: Server, path: str = "/graphql", **headers: str) -> GraphQLClient:
            return GraphQLClient(http, server.address, path, headers)

        yield make


@pytest.fixture
async def http() -> AsyncIterator[Any]:
    """Give a plain HTTP client."""
    httpx = pytest.importorskip("httpx")
    async with httpx.AsyncClient(timeout=30) as http:
        yield http


@pytest.fixture(scope="session")
def django_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Configure Django, which knows one configuration per process."""
    django = pytest.importorskip("django")
    from django.conf import settings

    file = tmp_path_factory.mktemp("django") / "db.sqlite3"
    settings.configure(
        SECRET_KEY="of the tests",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=(),
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(file)}},
    )
    django.setup()


@pytest.fixture
def django_app(django_settings: None) -> Iterator[Callable[..., Any]]:
    """Make the ASGI application of some URL patterns and middleware."""
    from django.core.handlers.asgi import ASGIHandler
    from django.test import override_settings

    with ExitStack() as stack:

        def make(*patterns: Any, middleware: list[str] | None = None) -> Any:
            changed = override_settings(ROOT_URLCONF=patterns, MIDDLEWARE=middleware or [])
            stack.enter_context(changed)
            return ASGIHandler()

        yield make
