"""The ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL

from examples.atlas.context import AtlasContext, make_context
from examples.atlas.database import Database
from examples.atlas.fill import fill_with_progress
from examples.atlas.schema import schema_for

__all__ = ["make_app"]


class AtlasGraphQL(GraphQL[AtlasContext, None]):
    """Serve the schema, and GraphiQL to browsers; every connection gets its own context."""

    def __init__(self, database: Database, way: str) -> None:
        super().__init__(schema_for(way))
        self._database = database
        self._way = way

    async def get_context(
        self, request: Request | WebSocket, response: Response | WebSocket
    ) -> AtlasContext:
        guest = request.headers.get("x-atlas-viewer") == "guest"
        return make_context(self._database, way=self._way, guest=guest)


def make_app(database: Database, way: str = "prefetching", *, min_population: int = 0) -> Starlette:
    """Return the application, which fills the database when it starts and closes it when it ends.

    Args:
        database: Where the atlas is; made for this application alone.
        way: How resolvers load: one of `ways.WAYS`.
        min_population: As for `read_dataset`.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            await fill_with_progress(database, Console(stderr=True), min_population=min_population)
            yield
        finally:
            await database.dispose()

    return Starlette(routes=[Mount("/", AtlasGraphQL(database, way))], lifespan=lifespan)
