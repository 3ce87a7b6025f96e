"""A real GraphQL schema over a simulated database, with branches as uneven as an application's.

A request asks for 6 users, their posts (1 to 3 each), each post's author and comments (1 to 3), and
each comment's author. graphql-core makes no task where a list or selection has one awaitable, so
short branches run ahead of long ones by a tick or two a level. Five batches are the minimum: users,
posts, authors of posts, comments, authors of comments.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, NamedTuple

from graphql import (
    GraphQLField,
    GraphQLInt,
    GraphQLList,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLSchema,
    GraphQLString,
    execute,
    parse,
    validate,
)

from benchmarks._peers import BatchFunction, Loader

__all__ = ["MINIMUM_BATCHES", "SCENARIOS", "Request"]

MINIMUM_BATCHES = 5
SCENARIOS = ("nested", "sleep0", "1slow", "lock")

_USERS = 6
_DATABASE_SECONDS = 0.002
_POSTS_OF_USER, _COMMENTS_OF_POST, _POST_AUTHOR, _COMMENT_AUTHOR = range(4)


class User(NamedTuple):
    id: int
    name: str


class Post(NamedTuple):
    id: int
    author_id: int


class Comment(NamedTuple):
    id: int
    author_id: int


class Request:
    """One GraphQL request: its loaders, its data and what its resolvers wait for before they load.

    `seed` decides how long each list is and which siblings are slow, so that all contenders get
    equal requests. `client_seconds` is what the database client's own work takes of the processor,
    per batch.
    """

    def __init__(
        self,
        make: Callable[[BatchFunction], Loader],
        scenario: str,
        seed: int,
        client_seconds: float,
    ) -> None:
        self.seed = seed
        self.batches = 0
        self._client_seconds = client_seconds
        self._lock = asyncio.Lock()
        self.check = self._checks()[scenario]
        self.users = make(self._batch_function(self._user))
        self.posts = make(self._batch_function(self._posts_of))
        self.comments = make(self._batch_function(self._comments_of))

    async def execute(self) -> int:
        """Answer the request and return how many batches it took."""
        answer = execute(_SCHEMA, _DOCUMENT, context_value=self)
        if isawaitable(answer):
            answer = await answer
        if answer.errors:
            raise answer.errors[0]
        return self.batches

    def _batch_function(self, row_for: Callable[[int], Any]) -> BatchFunction:
        async def batch_function(keys: list[Any]) -> list[Any]:
            self.batches += 1
            _keep_busy(self._client_seconds)
            await asyncio.sleep(_DATABASE_SECONDS)
            return [row_for(key) for key in keys]

        return batch_function

    def _user(self, user_id: int) -> User:
        return User(user_id, f"user {user_id}")

    def _posts_of(self, user_id: int) -> list[Post]:
        count = 1 + _mix(self.seed, user_id, _POSTS_OF_USER) % 3
        return [Post(user_id * 10 + i, 100 + (user_id * 3 + i) % 7) for i in range(count)]

    def _comments_of(self, post_id: int) -> list[Comment]:
        count = 1 + _mix(self.seed, post_id, _COMMENTS_OF_POST) % 3
        return [Comment(post_id * 10 + i, 200 + (post_id * 3 + i) % 11) for i in range(count)]

    def _checks(self) -> dict[str, Callable[[int, int], Awaitable[None]]]:
        async def nested(_parent: int, _field: int) -> None:
            """Load at once."""

        async def sleep0(parent: int, field: int) -> None:
            """Check a permission, which takes up to 4 ticks."""
            for _ in range(_mix(self.seed, parent, 10 + field) % 5):
                await asyncio.sleep(0)

        async def one_slow(parent: int, field: int) -> None:
            """Let one sibling in four await six times."""
            if _mix(self.seed, parent, 10 + field) % 4 == 0:
                for _ in range(6):
                    await asyncio.sleep(0)

        async def lock(_parent: int, _field: int) -> None:
            """Share a lock with the siblings, as all do that use one connection."""
            async with self._lock:
                await asyncio.sleep(0)

        return dict(zip(SCENARIOS, (nested, sleep0, one_slow, lock), strict=True))


def _mix(seed: int, key: int, salt: int) -> int:
    """Return a number that looks random and is the same everywhere, at next to no cost."""
    mixed = (seed * 0x9E3779B1 + key * 0x85EBCA77 + salt * 0xC2B2AE3D) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 15) * 0x2C1B3C6D) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 12) * 0x297A2D39) & 0xFFFFFFFF
    return mixed ^ mixed >> 15


def _keep_busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def _users(_root: None, info: GraphQLResolveInfo[Request]) -> list[User]:
    request = info.context
    return await request.users.load_many(range(_USERS))


async def _posts(user: User, info: GraphQLResolveInfo[Request]) -> list[Post]:
    request = info.context
    await request.check(user.id, _POSTS_OF_USER)
    posts: list[Post] = await request.posts.load(user.id)
    return posts


async def _post_author(post: Post, info: GraphQLResolveInfo[Request]) -> User:
    request = info.context
    await request.check(post.id, _POST_AUTHOR)
    author: User = await request.users.load(post.author_id)
    return author


async def _comments(post: Post, info: GraphQLResolveInfo[Request]) -> list[Comment]:
    request = info.context
    await request.check(post.id, _COMMENTS_OF_POST)
    comments: list[Comment] = await request.comments.load(post.id)
    return comments


async def _comment_author(comment: Comment, info: GraphQLResolveInfo[Request]) -> User:
    request = info.context
    await request.check(comment.id, _COMMENT_AUTHOR)
    author: User = await request.users.load(comment.author_id)
    return author


def _schema() -> GraphQLSchema:
    user = GraphQLObjectType(
        "User",
        lambda: {
            "id": GraphQLField(GraphQLInt),
            "name": GraphQLField(GraphQLString),
            "posts": GraphQLField(GraphQLList(post), resolve=_posts),
        },
    )
    post = GraphQLObjectType(
        "Post",
        lambda: {
            "id": GraphQLField(GraphQLInt),
            "author": GraphQLField(user, resolve=_post_author),
            "comments": GraphQLField(GraphQLList(comment), resolve=_comments),
        },
    )
    comment = GraphQLObjectType(
        "Comment",
        lambda: {
            "id": GraphQLField(GraphQLInt),
            "author": GraphQLField(user, resolve=_comment_author),
        },
    )
    return GraphQLSchema(
        GraphQLObjectType("Query", {"users": GraphQLField(GraphQLList(user), resolve=_users)})
    )


_SCHEMA = _schema()
_DOCUMENT = parse("{ users { name posts { id author { name } comments { id author { name } } } } }")
if _errors := validate(_SCHEMA, _DOCUMENT):
    raise _errors[0]
