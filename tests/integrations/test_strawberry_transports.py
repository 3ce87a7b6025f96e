"""A schema with `DataLoaderExtension`, over every transport that Strawberry speaks."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dataloader_cache import LoaderScope, dataloader
from dataloader_cache.testing import BatchRecorder

strawberry = pytest.importorskip("strawberry")

from strawberry.schema.config import StrawberryConfig  # noqa: E402
from strawberry.subscriptions import (  # noqa: E402
    GRAPHQL_SSE_PROTOCOL,
    GRAPHQL_TRANSPORT_WS_PROTOCOL,
    GRAPHQL_WS_PROTOCOL,
    MULTIPART_SUBSCRIPTION_PROTOCOL,
)

from dataloader_cache.integrations.asgi import LoaderScopeMiddleware  # noqa: E402
from dataloader_cache.integrations.strawberry import DataLoaderExtension  # noqa: E402

MULTIPART = "multipart/mixed"
MULTIPART_SUBSCRIPTION = "multipart/mixed;boundary=graphql;subscriptionSpec=1.0"
SSE = "text/event-stream"
SOCKETS = [GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_WS_PROTOCOL]
PROTOCOLS = [*SOCKETS, GRAPHQL_SSE_PROTOCOL, MULTIPART_SUBSCRIPTION_PROTOCOL]

ALL = "{ users { name } }"
RENAME = 'mutation { rename(key: 1, name: "eve") { name } }'
DEFERRED = "{ users { id ... @defer { name } } }"
STREAMED = "{ users @stream(initialCount: 1) { name } }"
TICKS = "subscription { ticks { name } }"
WAITING = "subscription { waiting { name } }"

NAMES: dict[int, str] = {}


class World:
    """What the test and the resolvers share."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.ended = asyncio.Event()
        self.changed = asyncio.Condition()
        self.scopes: list[LoaderScope] = []
        self.closed: list[str] = []

    async def rename(self, name: str) -> None:
        NAMES[1] = name
        async with self.changed:
            self.changed.notify_all()


world: World


@dataloader
async def names(ids: list[int]) -> dict[int, str]:
    return {key: NAMES[key] for key in ids}


@dataloader
async def slow(ids: list[int]) -> list[int]:
    world.started.set()
    try:
        await world.go.wait()
    finally:
        world.ended.set()
    return ids


@dataloader
async def viewers(ids: list[int], context: dict[str, Any]) -> list[str]:
    return [context["request"].headers["viewer"] for _ in ids]


@strawberry.type
class User:
    id: int

    @strawberry.field
    async def name(self) -> str:
        world.scopes.append(LoaderScope.current())
        return await names.load(self.id)  # type: ignore[return-value]

    @strawberry.field
    async def slow(self) -> int:
        world.scopes.append(LoaderScope.current())
        return await slow.load(self.id)

    @strawberry.field
    async def viewer(self) -> str:
        return await viewers.load(self.id)


@strawberry.type
class Query:
    @strawberry.field
    def users(self) -> list[User]:
        return [User(id=1), User(id=2)]

    @strawberry.field
    def user(self) -> User:
        return User(id=1)


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def rename(self, key: int, name: str) -> User:
        await names.load(key)
        NAMES[key] = name
        return User(id=key)


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def ticks(self) -> AsyncIterator[User]:
        for number in range(3):
            await names.load(1)
            NAMES[1] = f"tick {number}"
            yield User(id=1)

    @strawberry.subscription
    async def waiting(self) -> AsyncIterator[User]:
        """Yield at once, and then after each change."""
        try:
            async with world.changed:
                while True:
                    await names.load(1)
                    yield User(id=1)
                    await world.changed.wait()
        finally:
            world.closed.append("waiting")
            world.ended.set()


schema = strawberry.Schema(
    Query,
    Mutation,
    Subscription,
    extensions=[DataLoaderExtension],
    config=StrawberryConfig(
        enable_experimental_incremental_execution=True, batching_config={"max_operations": 10}
    ),
)


@pytest.fixture(autouse=True)
async def rows() -> None:
    global world  # noqa: PLW0603 - resolvers find it here, whatever their transport
    world = World()
    NAMES.clear()
    NAMES.update({1: "ann", 2: "bob"})


@pytest.fixture
def batches() -> Iterator[BatchRecorder]:
    with BatchRecorder() as recorder:
        yield recorder


# --- The same endpoint in several frameworks -----------------------------------------------------


def asgi(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("starlette")
    from strawberry.asgi import GraphQL

    return GraphQL(schema, subscription_protocols=PROTOCOLS)


def middleware(request: pytest.FixtureRequest) -> Any:
    return LoaderScopeMiddleware(asgi(request))


def fastapi(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("fastapi")
    from fastapi import FastAPI
    from strawberry.fastapi import GraphQLRouter

    app = FastAPI()
    router = GraphQLRouter(schema, subscription_protocols=PROTOCOLS)
    app.include_router(router, prefix="/graphql")
    return app


def litestar(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("litestar")
    from litestar import Litestar
    from strawberry.litestar import make_graphql_controller

    controller = make_graphql_controller(schema, path="/graphql", subscription_protocols=PROTOCOLS)
    return Litestar([controller])


def quart(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("quart")
    from quart import Quart
    from strawberry.quart.views import GraphQLView

    app = Quart("tests", root_path=str(Path(__file__).parent))
    view = GraphQLView.as_view("graphql", schema=schema, subscription_protocols=PROTOCOLS)
    app.add_url_rule("/graphql", view_func=view, methods=["GET", "POST"])
    return app


def django(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("django")
    from django.urls import path
    from strawberry.django.views import AsyncGraphQLView

    view = AsyncGraphQLView.as_view(schema=schema, subscription_protocols=PROTOCOLS)
    return request.getfixturevalue("django_app")(path("graphql", view))


def channels(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("channels")
    request.getfixturevalue("django_settings")
    from strawberry.channels import GraphQLProtocolTypeRouter

    return GraphQLProtocolTypeRouter(schema, url_pattern="^graphql")


def flask(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("flask")
    from asgiref.wsgi import WsgiToAsgi
    from flask import Flask
    from strawberry.flask.views import AsyncGraphQLView

    app = Flask("tests", root_path=str(Path(__file__).parent))
    view = AsyncGraphQLView.as_view("graphql", schema=schema)
    app.add_url_rule("/graphql", view_func=view, methods=["GET", "POST"])
    return WsgiToAsgi(app)


class AiohttpServer:
    """Serve the endpoint by aiohttp, which speaks no ASGI."""

    def __init__(self) -> None:
        web = pytest.importorskip("aiohttp.web")
        from strawberry.aiohttp.views import GraphQLView

        app = web.Application()
        view = GraphQLView(schema=schema, subscription_protocols=PROTOCOLS)
        app.router.add_route("*", "/graphql", view)
        self._runner = web.AppRunner(app)
        self._site = web.TCPSite

    async def start(self) -> None:
        await self._runner.setup()
        await self._site(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0]
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        await self._runner.cleanup()


def aiohttp(request: pytest.FixtureRequest) -> Any:
    return AiohttpServer()


SERVERS = [asgi, fastapi, django]
# Flask answers at once. What Channels has for HTTP knows no subscriptions.
EVENT_SERVERS = [*SERVERS, middleware, litestar, quart, aiohttp]
FRAME_SERVERS = [*EVENT_SERVERS, channels]
ALL_SERVERS = [*FRAME_SERVERS, flask]
SOCKET_SERVERS = [asgi, fastapi, channels, aiohttp]


@pytest.fixture
async def server(request: pytest.FixtureRequest, serve: Any) -> AsyncIterator[Any]:
    app = request.param(request)
    if not isinstance(app, AiohttpServer):
        yield serve(app)
        return
    await app.start()
    yield app
    await app.stop()


@pytest.fixture
def graphql(client: Any, server: Any) -> Any:
    return client(server, viewer="ann")


# Strawberry has yet to name its dependencies as Litestar 3 will want it.
pytestmark = pytest.mark.filterwarnings("ignore:.*Inferred dependency field")


def each(apps: list[Any]) -> Any:
    return pytest.mark.parametrize("server", apps, indirect=True)


def names_in(parts: list[Any]) -> list[Any]:
    """Give the names in the increments of a multipart response."""
    found = []
    for part in parts:
        for increment in part.get("incremental", ()):
            found += increment["items"] if "items" in increment else [increment["data"]]
    return [item["name"] for item in found]


class TestHTTP:
    @each(ALL_SERVERS)
    async def test_a_query_is_one_batch_per_level(self, graphql: Any, batches: Any) -> None:
        """What the items of a list load leaves together."""
        answer = await graphql.ask(ALL)

        assert {"users": [{"name": "ann"}, {"name": "bob"}]} == answer["data"]
        assert [("names", [1, 2])] == batches.plan

    @each(SERVERS)
    async def test_a_request_reads_afresh(self, graphql: Any) -> None:
        """Nothing is left from the request before, on the same connection."""
        before = await graphql.ask(ALL)
        NAMES[1] = "eve"
        after = await graphql.ask(ALL)

        assert ["ann", "eve"] == [answer["data"]["users"][0]["name"] for answer in (before, after)]

    @each(SERVERS)
    async def test_a_mutations_payload_reads_what_it_wrote(self, graphql: Any) -> None:
        """What its resolver had loaded is forgotten."""
        assert {"rename": {"name": "eve"}} == (await graphql.ask(RENAME))["data"]

    @each(ALL_SERVERS)
    async def test_batch_functions_see_the_request(self, graphql: Any) -> None:
        """The context that the framework's view makes is theirs."""
        assert {"user": {"viewer": "ann"}} == (await graphql.ask("{ user { viewer } }"))["data"]

    @each(SERVERS)
    async def test_a_batch_of_operations_is_answered(self, graphql: Any) -> None:
        """Several operations in one request get the answers that each would have got alone."""
        answers = await graphql.ask_all(ALL, "{ user { viewer } }", ALL)

        users = {"users": [{"name": "ann"}, {"name": "bob"}]}
        assert [users, {"user": {"viewer": "ann"}}, users] == [one["data"] for one in answers]

    @each(FRAME_SERVERS)
    @pytest.mark.parametrize(
        ("query", "expected"), [(DEFERRED, ["ann", "bob"]), (STREAMED, ["bob"])]
    )
    async def test_frames_are_resolved(self, graphql: Any, query: str, expected: list[str]) -> None:
        """Loads of `@defer` and `@stream` work although the operation has returned."""
        async with graphql.stream(query, MULTIPART) as parts:
            assert expected == names_in([part async for part in parts])

    @each(SERVERS)
    async def test_deferred_fragments_are_one_batch(self, graphql: Any, batches: Any) -> None:
        """What the items of a list defer leaves together."""
        async with graphql.stream(DEFERRED, MULTIPART) as parts:
            async for _ in parts:
                pass

        assert [("names", [1, 2])] == batches.plan

    @each(SERVERS)
    async def test_a_client_that_leaves_between_frames_ends_the_operation(
        self, server: Any, graphql: Any
    ) -> None:
        """What its frames were still loading is cancelled."""
        query = "{ user { ... @defer { id } ... @defer { slow } } }"
        async with graphql.stream(query, MULTIPART) as parts:
            await anext(parts)
            await world.started.wait()
        await world.ended.wait()
        await server.stop()

        assert [True] == [scope.is_closed for scope in world.scopes]

    @each(EVENT_SERVERS)
    @pytest.mark.parametrize("accept", [SSE, MULTIPART_SUBSCRIPTION])
    async def test_every_event_reads_afresh(self, graphql: Any, accept: str) -> None:
        """Subscriptions over plain HTTP, as server-sent events or as a multipart response."""
        async with graphql.stream(TICKS, accept) as parts:
            seen = [payload(part)["data"]["ticks"]["name"] async for part in parts]

        assert ["tick 0", "tick 1", "tick 2"] == seen

    @each(SERVERS)
    @pytest.mark.parametrize("accept", [SSE, MULTIPART_SUBSCRIPTION])
    async def test_a_client_that_leaves_ends_its_subscription(
        self, server: Any, graphql: Any, accept: str
    ) -> None:
        """The generator is closed, and with it the scope."""
        async with graphql.stream(WAITING, accept) as parts:
            await anext(parts)
        await world.ended.wait()
        await server.stop()

        assert ["waiting"] == world.closed
        assert [True] == [scope.is_closed for scope in world.scopes]


def payload(part: dict[str, Any]) -> dict[str, Any]:
    return part.get("payload", part)


@each([middleware])
async def test_the_operations_of_a_request_share_the_middlewares_scope(
    graphql: Any, batches: Any
) -> None:
    """An HTTP batch loads together where the scope is the request's."""
    await graphql.ask_all(ALL, ALL, "{ user { viewer } }")

    assert [("names", [1, 2]), ("viewers", [1])] == sorted(batches.plan)


@pytest.mark.parametrize("protocol", SOCKETS)
class TestWebSockets:
    @each([*SOCKET_SERVERS, litestar])
    async def test_every_event_reads_afresh(self, graphql: Any, protocol: str) -> None:
        """Also those of a generator that loads before it yields."""
        async with graphql.connect(protocol) as socket:
            ticks = await socket.start(TICKS)
            seen = [part["data"]["ticks"]["name"] async for part in ticks]

        assert ["tick 0", "tick 1", "tick 2"] == seen

    @each(SOCKET_SERVERS)
    async def test_what_a_generator_loaded_before_it_waited_is_forgotten(
        self, graphql: Any, protocol: str
    ) -> None:
        """An event shows what is there when it comes."""
        async with graphql.connect(protocol) as socket:
            waiting = await socket.start(WAITING)
            seen = [name_in(await anext(waiting))]
            for name in ("eve", "mia"):
                await world.rename(name)
                seen.append(name_in(await anext(waiting)))

        assert ["ann", "eve", "mia"] == seen

    @each(SOCKET_SERVERS)
    async def test_operations_at_the_same_time_have_loaders_of_their_own(
        self, graphql: Any, protocol: str
    ) -> None:
        """One socket, several operations: each in a scope of its own."""
        async with graphql.connect(protocol) as socket:
            operations = [await socket.start(WAITING) for _ in range(3)]
            for operation in operations:
                await anext(operation)
            await world.rename("eve")
            seen = [name_in(await anext(operation)) for operation in operations]

        assert 3 * ["eve"] == seen
        assert 3 == len({id(scope) for scope in world.scopes})

    @each(SOCKET_SERVERS)
    async def test_an_operation_after_a_closed_one_reads_afresh(
        self, graphql: Any, protocol: str
    ) -> None:
        """A socket keeps nothing of the operations that it has seen."""
        async with graphql.connect(protocol) as socket:
            first = await socket.start(WAITING)
            seen = [name_in(await anext(first))]
            await first.stop()
            await world.ended.wait()
            NAMES[1] = "eve"
            seen.append(name_in(await anext(await socket.start(WAITING))))

        assert ["ann", "eve"] == seen

    @each(SOCKET_SERVERS)
    async def test_a_client_that_unsubscribes_closes_the_generator(
        self, server: Any, graphql: Any, protocol: str
    ) -> None:
        """The end reaches the source of the events, and closes the scope."""
        async with graphql.connect(protocol) as socket:
            waiting = await socket.start(WAITING)
            await anext(waiting)
            await waiting.stop()
            await world.ended.wait()
        await server.stop()

        assert ["waiting"] == world.closed
        assert [True] == [scope.is_closed for scope in world.scopes]

    @each(SOCKET_SERVERS)
    async def test_a_client_that_goes_away_closes_the_generators(
        self, server: Any, graphql: Any, protocol: str
    ) -> None:
        """Closing the socket ends all its operations."""
        async with graphql.connect(protocol) as socket:
            for _ in range(2):
                await anext(await socket.start(WAITING))
        await server.stop()

        assert ["waiting", "waiting"] == world.closed
        assert [True, True] == [scope.is_closed for scope in world.scopes]

    @each(SOCKET_SERVERS)
    async def test_a_client_that_goes_away_in_the_middle_leaves_nothing_running(
        self, server: Any, graphql: Any, protocol: str
    ) -> None:
        """A load that only its event waited for is cancelled."""
        async with graphql.connect(protocol) as socket:
            await socket.start("subscription { ticks { slow } }")
            await world.started.wait()
        await world.ended.wait()
        await server.stop()

        assert [True] == [scope.is_closed for scope in world.scopes]


def name_in(part: dict[str, Any]) -> Any:
    return part["data"]["waiting"]["name"]


@each(SOCKET_SERVERS)
async def test_queries_and_mutations_over_a_websocket_read_afresh(graphql: Any) -> None:
    """graphql-transport-ws serves all operations, each with loaders of its own."""
    async with graphql.connect() as socket:
        answers = [await anext(await socket.start(query)) for query in (ALL, RENAME, ALL)]

    assert [
        {"users": [{"name": "ann"}, {"name": "bob"}]},
        {"rename": {"name": "eve"}},
        {"users": [{"name": "eve"}, {"name": "bob"}]},
    ] == [answer["data"] for answer in answers]
