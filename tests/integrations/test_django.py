"""Async views of Django, on a real socket, with its ORM."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from dataloader_cache import LoaderScope, dataloader
from dataloader_cache.errors import ConfigurationError, LoopError
from dataloader_cache.testing import BatchRecorder

pytest.importorskip("django")

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import sync_only_middleware
from django.views import View

from dataloader_cache.integrations.django import LoaderScopeMiddleware, loader_scope

MIDDLEWARE = "dataloader_cache.integrations.django.LoaderScopeMiddleware"


@dataloader
async def names(ids: list[int]) -> dict[int, str]:
    return {1: "ann", 2: "bob"}


@dataloader
async def viewers(ids: list[int], request: HttpRequest) -> list[str]:
    return [request.headers["viewer"] for _ in ids]


async def both(request: HttpRequest) -> JsonResponse:
    return JsonResponse(await asyncio.gather(names.load(1), names.load(2)), safe=False)


async def viewer(request: HttpRequest) -> HttpResponse:
    return HttpResponse(await viewers.load(1))


class Both(View):
    async def get(self, request: HttpRequest) -> JsonResponse:
        return await both(request)


class OfRequests(LoaderScopeMiddleware):
    def get_context(self, request: HttpRequest) -> HttpRequest:
        return request


class Limited(LoaderScopeMiddleware):
    gates: list[asyncio.Semaphore] = []

    def get_limiter(self, request: HttpRequest) -> asyncio.Semaphore:
        self.gates.append(asyncio.Semaphore(1))
        return self.gates[-1]


@sync_only_middleware
def synchronous(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    return lambda request: get_response(request)


@pytest.fixture
def get(django_app: Any, serve: Any, http: Any) -> Any:
    """Ask one view, and wait until its request has ended."""

    async def get(view: Any, *middleware: str, **headers: str) -> Any:
        server = serve(django_app(path("", view), middleware=list(middleware)))
        answer = await http.get(server.url, headers=headers)
        await server.stop()
        assert 200 == answer.status_code, answer.text
        return answer.json() if "json" in answer.headers["content-type"] else answer.text

    return get


@pytest.mark.parametrize("view", [both, Both.as_view()])
@pytest.mark.parametrize("way", ["middleware", "decorator", "called decorator"])
async def test_an_async_view_loads_in_batches(get: Any, view: Any, way: str) -> None:
    """A function or a class, in the middleware or decorated."""
    if way != "middleware":
        view = loader_scope(view) if way == "decorator" else loader_scope()(view)
    with BatchRecorder() as batches:
        answer = await get(view, *([MIDDLEWARE] if way == "middleware" else []))

    assert ["ann", "bob"] == answer
    assert [("names", [1, 2])] == batches.plan


async def test_the_orm_is_asked_once_for_a_batch(
    get: Any, django_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch function of the async ORM makes one query of many keys."""
    from asgiref.sync import sync_to_async
    from django.db import connection, models
    from django.db.backends.utils import CursorWrapper

    class Author(models.Model):
        name = models.CharField(max_length=20)

        class Meta:
            app_label = "tests"

    def create() -> None:
        with connection.schema_editor() as editor:
            editor.create_model(Author)
        Author.objects.bulk_create([Author(name="ann"), Author(name="bob")])
        connection.close()

    statements = []
    execute = CursorWrapper.execute

    def noting(self: Any, sql: str, params: Any = None) -> Any:
        statements.append(sql)
        return execute(self, sql, params)

    @dataloader
    async def authors(ids: list[int]) -> dict[int, Author]:
        return {author.pk: author async for author in Author.objects.filter(pk__in=ids)}

    @loader_scope
    async def view(request: HttpRequest) -> JsonResponse:
        found = await asyncio.gather(*map(authors.load, (2, 1, 3)))
        return JsonResponse([author and author.name for author in found], safe=False)

    await sync_to_async(create)()
    monkeypatch.setattr(CursorWrapper, "execute", noting)

    assert ["bob", "ann", None] == await get(view)
    assert 1 == len([sql for sql in statements if sql.startswith("SELECT")])


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_scope_gets_a_context_of_the_request(get: Any, is_async: bool) -> None:
    """The decorator takes a function, or a coroutine function, that makes it."""

    def context(request: HttpRequest) -> HttpRequest:
        return request

    async def context_async(request: HttpRequest) -> HttpRequest:
        return request

    view = loader_scope(context=context_async if is_async else context)(viewer)

    assert "ann" == await get(view, viewer="ann")


async def test_a_subclass_gives_the_context(get: Any) -> None:
    """What loaders see is what `get_context` makes of the request."""
    assert "ann" == await get(viewer, f"{__name__}.OfRequests", viewer="ann")


async def test_a_subclass_gives_the_limiter(get: Any) -> None:
    """A limiter is made for each request."""
    Limited.gates.clear()
    await get(both, f"{__name__}.Limited")

    assert 1 == len(Limited.gates)


async def test_the_decorator_takes_a_limiter(get: Any) -> None:
    """A limiter is made for each request."""
    gates = []

    def limiter() -> asyncio.Semaphore:
        gates.append(asyncio.Semaphore(1))
        return gates[-1]

    await get(loader_scope(limiter=limiter)(both))

    assert 1 == len(gates)


@pytest.mark.parametrize("order", [1, -1])
async def test_a_stack_with_synchronous_middleware_works(get: Any, order: int) -> None:
    """Django changes between threads and the loop, and the scope goes along."""
    assert ["ann", "bob"] == await get(both, *[MIDDLEWARE, f"{__name__}.synchronous"][::order])


async def test_a_plain_view_can_not_load(get: Any) -> None:
    """It runs in a thread without an event loop, and the error says so."""

    def view(request: HttpRequest) -> HttpResponse:
        with pytest.raises(LoopError) as caught:
            names.load(1)
        return HttpResponse(str(caught.value))

    assert (
        "loader 'names' was used where no event loop runs; make the endpoint, view or "
        "function that loads an `async def`, and start a program with asyncio.run(main())"
    ) == await get(view, MIDDLEWARE)


async def test_wsgi_serves_async_views(django_settings: None, http: Any) -> None:
    """Django runs a loop for each request, and the scope ends on it."""
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import override_settings

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    settings = override_settings(ROOT_URLCONF=(path("", both),), MIDDLEWARE=[MIDDLEWARE])
    with settings, make_server("127.0.0.1", 0, WSGIHandler(), handler_class=Quiet) as server:
        for _ in range(2):
            serving = asyncio.create_task(asyncio.to_thread(server.handle_request))
            answer = await http.get(
                f"http://127.0.0.1:{server.server_port}", headers={"connection": "close"}
            )
            await serving

            assert ["ann", "bob"] == answer.json()


def test_a_plain_view_can_not_be_decorated() -> None:
    """The decorator is for async views, and says so where it is used."""

    def posts(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    with pytest.raises(ConfigurationError) as caught:
        loader_scope(posts)

    assert (
        "loader_scope is for async views, got test_a_plain_view_can_not_be_decorated.<locals>."
        "posts; make it an `async def`, since loads need an event loop"
    ) == str(caught.value)


@pytest.mark.parametrize("name", ["context", "limiter"])
def test_what_all_requests_would_share_is_refused(name: str) -> None:
    """The decorator takes functions, which it calls for each request."""

    async def posts(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    with pytest.raises(ConfigurationError) as caught:
        loader_scope(**{name: 7})(posts)  # type: ignore[arg-type]

    assert (
        f"{name} of loader_scope must be a function that makes one for each request, "
        "got 7, which all requests would share"
    ) == str(caught.value)


async def test_the_scope_is_closed_with_the_response(get: Any) -> None:
    """A response that is no stream ends it at once, and so does an error."""
    scopes = []

    @loader_scope
    async def failing(request: HttpRequest) -> HttpResponse:
        scopes.append(LoaderScope.current())
        raise ValueError("no")

    async def view(request: HttpRequest) -> HttpResponse:
        scopes.append(LoaderScope.current())
        with pytest.raises(ValueError, match="no"):
            await failing(request)
        return HttpResponse()

    await get(view, MIDDLEWARE)

    assert [True, True] == [scope.is_closed for scope in scopes]


@pytest.mark.parametrize("way", ["middleware", "decorator"])
async def test_the_scope_is_open_until_the_response_is_streamed(get: Any, way: str) -> None:
    """A body that loads while it is sent finds the scope open, and it is closed then."""
    scopes = []

    async def body() -> AsyncIterator[str]:
        for key in (1, 2):
            scopes.append(LoaderScope.current())
            yield str(await names.load(key))

    async def view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(body(), content_type="text/plain")

    if way == "middleware":
        assert "annbob" == await get(view, MIDDLEWARE)
    else:
        assert "annbob" == await get(loader_scope(view))
    assert [True, True] == [scope.is_closed for scope in scopes]


async def test_a_client_that_leaves_ends_what_the_response_loads(
    django_app: Any, serve: Any, http: Any
) -> None:
    """A load that only the stream waited for is cancelled."""
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

    async def view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(body())

    server = serve(django_app(path("", view), middleware=[MIDDLEWARE]))
    async with http.stream("GET", server.url) as response:
        await anext(response.aiter_text())
        await started.wait()

    assert await ended.wait()


async def test_a_response_that_nobody_streams_ends_what_its_view_loads(django_app: Any) -> None:
    """A client that leaves before the first part, or a 304 in its place, closes the scope."""
    started, ended = asyncio.Event(), asyncio.Event()

    @dataloader
    async def slow(ids: list[int]) -> list[str]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return []

    async def body(loading: Awaitable[str]) -> AsyncIterator[str]:
        yield await loading

    @loader_scope
    async def view(request: HttpRequest) -> StreamingHttpResponse:
        loading = slow.load(1)
        loading.add_done_callback(lambda loading: loading.exception())
        await started.wait()
        return StreamingHttpResponse(body(loading))

    django_app()
    await view(HttpRequest())
    gc.collect()

    assert await asyncio.wait_for(ended.wait(), 20)
