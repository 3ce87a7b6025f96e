"""What mypy and pyright must infer from the integrations: nothing here is run.

Both check this file in strict mode. A dependency of FastAPI is the scope, a decorated view of
Django keeps its type, and a schema takes the extension as a class or made by a function.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import strawberry
from django.http import HttpRequest, HttpResponse
from fastapi import Depends, Request
from strawberry.schema import BaseSchema
from typing_extensions import assert_type

from dataloader_cache import DataLoader, LoaderScope, dataloader
from dataloader_cache.integrations.asgi import LoaderScopeMiddleware
from dataloader_cache.integrations.django import loader_scope as django_loader_scope
from dataloader_cache.integrations.fastapi import LoaderScopeDep, loader_scope
from dataloader_cache.integrations.strawberry import DataLoaderExtension


@dataloader
async def names(ids: list[int]) -> dict[int, str]:
    raise NotImplementedError


async def get_user(request: Request) -> str:
    raise NotImplementedError


UserScope = Annotated[LoaderScope, Depends(loader_scope(get_user))]


async def endpoint(scope: LoaderScopeDep, user_scope: UserScope) -> None:
    assert_type(scope, LoaderScope)
    assert_type(user_scope, LoaderScope)
    assert_type(user_scope[names], DataLoader[int, str | None])


@django_loader_scope
async def view(request: HttpRequest, key: int) -> HttpResponse:
    raise NotImplementedError


@django_loader_scope(context=lambda request: request.headers, limiter=lambda: asyncio.Semaphore(1))
async def view_with_context(request: HttpRequest) -> HttpResponse:
    raise NotImplementedError


async def views(request: HttpRequest) -> None:
    assert_type(await view(request, key=1), HttpResponse)
    assert_type(await view_with_context(request), HttpResponse)


@strawberry.type
class Query:
    number: int


def schemas() -> list[BaseSchema]:
    return [
        strawberry.Schema(Query, extensions=[DataLoaderExtension]),
        strawberry.Schema(
            Query, extensions=[lambda: DataLoaderExtension(limiter=lambda context: context.gate)]
        ),
    ]


async def application(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


async def context_of(scope: Any) -> object:
    raise NotImplementedError


def middleware() -> list[LoaderScopeMiddleware]:
    return [
        LoaderScopeMiddleware(application),
        LoaderScopeMiddleware(application, context_of, limiter=lambda: asyncio.Semaphore(1)),
    ]
