"""What mypy and pyright must refuse of `load_from`: nothing here is run.

Every line that is wrong carries an ignore for each of the two, and an ignore that is not needed is
an error: so each line is held to be refused by both.
"""

from __future__ import annotations

from dataclasses import dataclass

import strawberry

from dataloader_cache import DataLoader, dataloader, group_dataloader
from dataloader_cache.integrations.strawberry import load_from


@dataclass(frozen=True)
class Page:
    """The type of arguments."""

    first: int = 10


@dataloader
async def users(ids: list[int]) -> dict[int, User]:
    raise NotImplementedError


@dataloader(missing="raise")
async def sure_users(ids: list[int]) -> dict[int, User]:
    raise NotImplementedError


@group_dataloader(by="author_id", args=Page)
async def pages_of(ids: list[int], page: Page) -> list[Post]:
    raise NotImplementedError


def email_of(post: Post) -> str:
    raise NotImplementedError


def id_of_editor(post: Post) -> int | None:
    raise NotImplementedError


def currency(code: str) -> str:
    raise NotImplementedError


@strawberry.type
class User:
    """What is loaded."""

    id: int


@strawberry.type
class Post:
    """A type whose fields are declared wrongly."""

    id: int
    a: User = load_from(users, by="id")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    b: str | None = load_from(users, by="id")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    c: User = load_from(sure_users, by=id_of_editor)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    d: list[User] = load_from(pages_of, by="id", args=Page)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    e: Post | None = load_from(pages_of, by="id", args=Page)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def the_key_must_fit() -> None:
    load_from(users, by=email_of)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    load_from(users, by=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def the_args_must_fit() -> None:
    load_from(pages_of, by="id")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    load_from(users, by="id", args=Page)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    load_from(pages_of, by="id", args=currency)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    load_from(pages_of, by="id", args=Page())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


def the_factory_must_be_one(loader: DataLoader[int, User]) -> None:
    load_from(loader, by="id")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    load_from(len, by="id")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def an_option_must_fit() -> None:
    load_from(users)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    load_from(users, "id")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    load_from(users, by="id", name=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    load_from(users, by="id", permission_classes=[int])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
    load_from(users, by="id", default=None)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
