"""Users and tenants at the same time, over real HTTP and real websockets: nothing crosses.

The requests of a test meet in their resolvers, so that all of them are in progress before one goes
on, and what they load stands in the same ticks.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest

from dataloader_cache import AsyncCache, AsyncLRU, AsyncTTL, dataloader
from dataloader_cache.testing import BatchRecorder

strawberry = pytest.importorskip("strawberry")
pytest.importorskip("starlette")

from strawberry.asgi import GraphQL  # noqa: E402
from strawberry.schema.config import StrawberryConfig  # noqa: E402

from dataloader_cache.integrations.asgi import LoaderScopeMiddleware  # noqa: E402
from dataloader_cache.integrations.strawberry import DataLoaderExtension  # noqa: E402

PEOPLE = [("ann", "red"), ("bob", "blue"), ("eve", "red"), ("mia", "blue")]

current_user: ContextVar[str] = ContextVar("current_user", default="nobody")


@dataclass
class Viewer:
    """Be the context of a request."""

    user: str
    tenant: str


class World:
    """What is stored, and who may see it."""

    def __init__(self) -> None:
        self.rows = {
            (tenant, key): f"{tenant} {key}" for tenant in ("red", "blue") for key in (1, 2)
        }
        self.granted = {("ann", 1), ("bob", 2), ("eve", 2), ("mia", 1)}
        self.arrived = 0
        self.all_here = asyncio.Event()
        self.version = 0
        self.changed = asyncio.Condition()
        self.lazy: AsyncCache[Any, str] | None = None

    async def meet(self) -> None:
        """Go on when everybody is here."""
        self.arrived += 1
        if self.arrived % len(PEOPLE) == 0:
            self.all_here.set()
            self.all_here = asyncio.Event()
        else:
            await self.all_here.wait()

    async def write(self, rows: dict[tuple[str, int], str]) -> None:
        """Change rows from outside, and tell the subscriptions."""
        self.rows.update(rows)
        shared_rows.cache.clear()
        self.version += 1
        async with self.changed:
            self.changed.notify_all()


world: World


@dataloader
async def rows(keys: list[int], viewer: Viewer) -> list[str | Exception]:
    return [
        f"{viewer.user} {world.rows[viewer.tenant, key]}"
        if (viewer.user, key) in world.granted
        else PermissionError(f"{viewer.user} may not see {key}")
        for key in keys
    ]


@dataloader
async def variables(keys: list[int]) -> list[str]:
    return [current_user.get() for _ in keys]


def tenant(viewer: Viewer) -> str:
    return viewer.tenant


@dataloader.shared(ttl=60, maxsize=100, vary=tenant)
async def shared_rows(keys: list[int], tenant: str) -> list[str | Exception]:
    return [
        world.rows[tenant, key]
        if (tenant, key) in world.rows
        else LookupError(f"{tenant} has no {key}")
        for key in keys
    ]


@dataloader.shared(ttl=60, public=True)
async def shared_variables(keys: list[int]) -> list[str]:
    return [current_user.get() for _ in keys]


@AsyncLRU(maxsize=100)
async def lru_row(tenant: str, key: int) -> str:
    return f"{world.rows[tenant, key]} for {current_user.get()}"


@AsyncTTL(time_to_live=60, maxsize=100)
async def ttl_row(tenant: str, key: int) -> str:
    return f"{world.rows[tenant, key]} for {current_user.get()}"


async def lazy_row(tenant: str, key: int) -> str:
    if world.lazy is None:
        world.lazy = AsyncCache(maxsize=100)

    async def load() -> str:
        return f"{world.rows[tenant, key]} for {current_user.get()}"

    return await world.lazy.get((tenant, key), load)


Info = strawberry.Info[Viewer, None]


@strawberry.type
class Query:
    @strawberry.field
    async def row(self, key: int) -> str:
        await world.meet()
        return await rows.load(key)

    @strawberry.field
    async def variable(self) -> str:
        await world.meet()
        return await variables.load(1)

    @strawberry.field
    async def shared_row(self, key: int) -> str:
        await world.meet()
        return await shared_rows.load(key)

    @strawberry.field
    async def shared_variable(self) -> str:
        await world.meet()
        return await shared_variables.load(1)

    @strawberry.field
    async def lru_row(self, info: Info, key: int) -> str:
        await world.meet()
        return await lru_row(info.context.tenant, key)

    @strawberry.field
    async def ttl_row(self, info: Info, key: int) -> str:
        await world.meet()
        return await ttl_row(info.context.tenant, key)

    @strawberry.field
    async def lazy_row(self, info: Info, key: int) -> str:
        await world.meet()
        return await lazy_row(info.context.tenant, key)


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def write(self, info: Info, key: int, text: str) -> Query:
        tenant = info.context.tenant
        await shared_rows.load(key)
        world.rows[tenant, key] = text
        shared_rows.clear(key)
        lru_row.invalidate_cache(tenant, key)
        ttl_row.invalidate_cache(tenant, key)
        return Query()


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def events(self, info: Info) -> AsyncIterator[Query]:
        for version in (1, 2):
            async with world.changed:
                await world.changed.wait_for(lambda: world.version == version)  # noqa: B023
            yield Query()


schema = strawberry.Schema(
    Query,
    Mutation,
    Subscription,
    extensions=[DataLoaderExtension],
    config=StrawberryConfig(batching_config={"max_operations": 10}),
)


class Endpoint(GraphQL[Viewer, None]):
    """Make the context of a request from its headers."""

    async def get_context(self, request: Any, response: Any) -> Viewer:
        return Viewer(request.headers["user"], request.headers["tenant"])


def make_app(*, middleware: bool = False) -> Any:
    """Put the endpoint behind a middleware that sets the user, as authentication would."""
    endpoint: Any = Endpoint(schema)
    app = LoaderScopeMiddleware(endpoint) if middleware else endpoint

    async def authenticated(scope: Any, receive: Any, send: Any) -> None:
        current_user.set(dict(scope["headers"])[b"user"].decode())
        await app(scope, receive, send)

    return authenticated


Ask = Callable[[str], Awaitable[list[Any]]]


@pytest.fixture(autouse=True)
async def fresh() -> None:
    global world  # noqa: PLW0603 - resolvers find it here
    world = World()
    shared_rows.cache.clear()
    shared_variables.cache.clear()
    lru_row.clear_cache()
    ttl_row.clear_cache()


@pytest.fixture(params=["HTTP", "HTTP with the middleware", "websocket"])
async def ask(request: pytest.FixtureRequest, serve: Any, client: Any) -> AsyncIterator[Ask]:
    """Ask the same as everybody at once, and give the answers, one for each."""
    server = serve(make_app(middleware="middleware" in request.param))
    people = [client(server, user=user, tenant=tenant) for user, tenant in PEOPLE]
    if request.param != "websocket":

        async def ask(query: str) -> list[Any]:
            return await asyncio.gather(*(person.ask(query) for person in people))

        yield ask
        return

    sockets = [person.connect() for person in people]
    open_sockets = [await socket.__aenter__() for socket in sockets]

    async def ask_sockets(query: str) -> list[Any]:
        operations = [await socket.start(query) for socket in open_sockets]
        return await asyncio.gather(*(anext(operation) for operation in operations))

    yield ask_sockets
    for socket in sockets:
        await socket.__aexit__(None, None, None)


def values(answers: list[Any]) -> list[Any]:
    """Give the one field of each answer, or its error."""
    return [
        answer["errors"][0]["message"]
        if answer.get("errors")
        else next(iter(answer["data"].values()))
        for answer in answers
    ]


class TestLoadersOfARequest:
    async def test_values_and_denials_are_each_users_own(self, ask: Ask) -> None:
        """The same key at the same time is a value for one and a denial for another."""
        for _ in range(2):
            assert [
                "ann red 1",
                "bob may not see 1",
                "eve may not see 1",
                "mia blue 1",
            ] == values(await ask("{ row(key: 1) }"))

    async def test_a_denial_ends_with_its_request(self, ask: Ask) -> None:
        """Who was denied a key gets it as soon as it is granted, and only they."""
        await ask("{ row(key: 1) }")
        world.granted = {("bob", 1)}

        assert [
            "ann may not see 1",
            "bob blue 1",
            "eve may not see 1",
            "mia may not see 1",
        ] == values(await ask("{ row(key: 1) }"))

    async def test_each_has_its_own_batch(self, ask: Ask) -> None:
        """Keys of different requests never meet."""
        with BatchRecorder() as batches:
            await ask("{ row(key: 1) }")

        assert 4 * [("rows", [1])] == batches.plan

    async def test_context_variables_are_those_of_the_request(self, ask: Ask) -> None:
        """A batch function sees the variables of its own request."""
        assert ["ann", "bob", "eve", "mia"] == values(await ask("{ variable }"))


class TestSharedLoaders:
    async def test_values_are_each_tenants_own(self, ask: Ask) -> None:
        """`vary` keeps tenants apart in memory and while they load."""
        for _ in range(2):
            assert ["red 1", "blue 1", "red 1", "blue 1"] == values(
                await ask("{ sharedRow(key: 1) }")
            )

    async def test_batches_are_each_tenants_own(self, ask: Ask) -> None:
        """Users of one tenant load together, and tenants never."""
        with BatchRecorder() as batches:
            await ask("{ sharedRow(key: 1) }")
            await ask("{ sharedRow(key: 1) }")

        assert 2 * [("shared_rows", [1])] == batches.plan

    async def test_errors_are_each_tenants_own(self, ask: Ask) -> None:
        """What one tenant lacks another may have, and it is not remembered."""
        world.rows["blue", 3] = "blue 3"
        assert ["red has no 3", "blue 3", "red has no 3", "blue 3"] == values(
            await ask("{ sharedRow(key: 3) }")
        )
        world.rows["red", 3] = "red 3"

        assert ["red 3", "blue 3", "red 3", "blue 3"] == values(await ask("{ sharedRow(key: 3) }"))

    async def test_context_variables_are_nobodys(self, ask: Ask) -> None:
        """What is shared sees no request's variables."""
        assert 4 * ["nobody"] == values(await ask("{ sharedVariable }"))


class TestDecoratedCaches:
    @pytest.mark.parametrize("field", ["lruRow", "ttlRow", "lazyRow"])
    async def test_values_are_those_of_the_arguments_and_no_request(
        self, ask: Ask, field: str
    ) -> None:
        """A value is the same whoever asked first, also in a cache that was made just then."""
        expected = ["red 1 for nobody", "blue 1 for nobody"]
        for _ in range(2):
            assert 2 * expected == values(await ask(f"{{ {field}(key: 1) }}"))

    @pytest.mark.parametrize("field", ["lruRow", "ttlRow", "lazyRow"])
    async def test_errors_are_those_of_the_arguments(self, ask: Ask, field: str) -> None:
        """What one tenant lacks another may have, and it is not remembered."""
        world.rows["blue", 3] = "blue 3"
        blue = "blue 3 for nobody"
        before = values(await ask(f"{{ {field}(key: 3) }}"))
        world.rows["red", 3] = "red 3"

        assert 2 * ["('red', 3)", blue] == before
        assert 2 * ["red 3 for nobody", blue] == values(await ask(f"{{ {field}(key: 3) }}"))


class TestMutations:
    @pytest.mark.parametrize("field", ["sharedRow", "lruRow", "ttlRow"])
    async def test_touch_their_own_tenant_only(
        self, serve: Any, client: Any, ask: Ask, field: str
    ) -> None:
        """What one writes its tenant reads at once, and no other tenant ever."""
        query = f"{{ {field}(key: 1) }}"
        before = values(await ask(query))
        ann = client(serve(make_app()), user="ann", tenant="red")
        await ann.ask('mutation { write(key: 1, text: "new") { __typename } }')
        after = values(await ask(query))

        assert [text.replace("red 1", "new") for text in before] == after
        assert before != after

    async def test_of_all_at_once_stay_apart(self, ask: Ask) -> None:
        """Each payload shows what its own tenant has."""
        answers = await ask(
            'mutation { write(key: 1, text: "new") { row(key: 1) sharedRow(key: 1) variable } }'
        )

        assert [
            {"row": "ann new", "sharedRow": "new", "variable": "ann"},
            None,
            None,
            {"row": "mia new", "sharedRow": "new", "variable": "mia"},
        ] == [answer["data"] and answer["data"]["write"] for answer in answers]


class TestSubscriptions:
    async def test_events_are_each_users_own(self, serve: Any, client: Any) -> None:
        """The same subscription on two sockets, twice on each, in every event."""
        server = serve(make_app())
        ann = client(server, user="ann", tenant="red")
        mia = client(server, user="mia", tenant="blue")
        query = "subscription { events { row(key: 1) sharedRow(key: 1) variable } }"
        seen = []
        async with ann.connect() as first, mia.connect() as second:
            operations = [await socket.start(query) for socket in (first, second, first, second)]
            for text in ("old", "new"):
                await world.write({("red", 1): f"red {text}", ("blue", 1): f"blue {text}"})
                events = [(await anext(operation))["data"]["events"] for operation in operations]
                seen.append([[*event.values()] for event in events])

        anns = [[f"ann red {text}", f"red {text}", "ann"] for text in ("old", "new")]
        mias = [[f"mia blue {text}", f"blue {text}", "mia"] for text in ("old", "new")]
        assert [2 * [anns[0], mias[0]], 2 * [anns[1], mias[1]]] == seen
