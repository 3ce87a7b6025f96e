"""What mypy and pyright must infer from `load_from`: nothing here is run.

Both check this file in strict mode. The value type of the factory is the type of the field, and a
key that may be None makes it optional.
"""

from __future__ import annotations

from dataclasses import dataclass

import strawberry
from typing_extensions import assert_type

from dataloader_cache import dataloader, group_dataloader
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


@dataloader
async def names(ids: list[int]) -> list[str]:
    raise NotImplementedError


@dataloader.shared(ttl=30, public=True)
async def shared_names(ids: list[int]) -> list[str]:
    raise NotImplementedError


@group_dataloader(by="author_id")
async def posts_of(ids: list[int]) -> list[Post]:
    raise NotImplementedError


@group_dataloader(by="author_id", args=Page)
async def pages_of(ids: list[int], page: Page) -> list[Post]:
    raise NotImplementedError


def page_of(first: int, after: str | None = None) -> Page:
    raise NotImplementedError


def id_of_editor(post: Post) -> int | None:
    return post.editor_id


def id_of_author(post: Post) -> int:
    return post.author_id


@strawberry.type
class User:
    """A type whose fields are lists."""

    id: int
    name: str = load_from(names, by="id")
    nickname: str | None = load_from(shared_names, by="id")
    posts: list[Post] = load_from(posts_of, by="id")
    pages: list[Post] = load_from(pages_of, by="id", args=Page)
    others: list[Post] = load_from(pages_of, by="id", args=page_of)


@strawberry.type
class Post:
    """A type with fields that may be null, and one that may not."""

    id: int
    author_id: strawberry.Private[int]
    editor_id: strawberry.Private[int | None]
    author: User | None = load_from(users, by="author_id")
    sure_author: User = load_from(sure_users, by=id_of_author)
    any_author: User = load_from(sure_users, by=lambda post: post.author_id)
    editor: User | None = load_from(sure_users, by=id_of_editor)
    described: User | None = load_from(
        users,
        by="author_id",
        name="writer",
        description="Who wrote it.",
        deprecation_reason="Ask for the author.",
        permission_classes=[],
        directives=(),
        extensions=(),
    )


assert_type(load_from(users, by="author_id"), User | None)
assert_type(load_from(users, by=id_of_editor), User | None)
assert_type(load_from(sure_users, by="author_id"), User)
assert_type(load_from(sure_users, by=id_of_author), User)
assert_type(load_from(sure_users, by=id_of_editor), User | None)
assert_type(load_from(shared_names, by="id"), str)
assert_type(load_from(posts_of, by="id"), list[Post])
assert_type(load_from(pages_of, by="id", args=Page), list[Post])
assert_type(load_from(pages_of, by=id_of_editor, args=page_of), list[Post] | None)
