"""`load_from`: what its fields are in a schema, and what they give."""

import dataclasses
import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

import pytest

from dataloader_cache import LoaderScope, dataloader, group_dataloader
from dataloader_cache.errors import ConfigurationError, ConfigurationTypeError
from dataloader_cache.testing import BatchRecorder

strawberry = pytest.importorskip("strawberry")

from strawberry import relay  # noqa: E402
from strawberry.extensions import FieldExtension  # noqa: E402
from strawberry.permission import BasePermission  # noqa: E402
from strawberry.schema.config import StrawberryConfig  # noqa: E402
from strawberry.schema_directive import Location  # noqa: E402
from strawberry.types.field import StrawberryField  # noqa: E402

from dataloader_cache.integrations.strawberry import (  # noqa: E402
    DataLoaderExtension,
    load_from,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Page:
    first: int = 2
    newest_first: bool = False


@strawberry.enum
class Order(Enum):
    UP = "up"
    DOWN = "down"


@strawberry.input
class Slice:
    start: int
    stop: int = 5


@dataloader
async def names(ids: list[int]) -> dict[int, str]:
    return {key: f"user {key}" for key in ids if key < 100}


@dataloader
async def users(ids: list[int]) -> dict[int, Any]:
    return {key: User(id=key) for key in ids if key < 100}


@dataloader(missing="raise", name="sure_users")
async def sure_users(ids: list[int]) -> dict[int, Any]:
    return {key: User(id=key) for key in ids if key < 100}


@group_dataloader(by="author_id", args=Page)
async def pages_of(ids: list[int], page: Page) -> list[Any]:
    numbers = range(page.first)
    ordered = reversed(numbers) if page.newest_first else numbers
    return [Post(id=10 * key + n, author_id=key) for n in ordered for key in ids]


@strawberry.type
class User:
    id: int
    name: str | None = load_from(names, by="id")
    posts: list["Post"] = load_from(pages_of, by="id", args=Page)


@strawberry.type
class Post:
    id: int
    author_id: strawberry.Private[int | None]
    author: User | None = load_from(users, by="author_id")


async def key_later(post: Any) -> int:
    return 1


def schema_of(*fields: tuple[str, Any, Any], **options: Any) -> Any:
    """Make a schema whose query has these fields: name, type, and value or loaded field."""
    namespace: dict[str, Any] = {"__annotations__": {name: kind for name, kind, _ in fields}}
    for name, _, value in fields:
        is_field = isinstance(value, StrawberryField)
        namespace[name] = value if is_field else giving(value)
    query = strawberry.type(type("Query", (), namespace))
    return strawberry.Schema(query, extensions=[DataLoaderExtension], **options)


def giving(value: object) -> Any:
    return strawberry.field(resolver=lambda: value)


def posts_by(*authors: int | None) -> Any:
    posts = [Post(id=index, author_id=author) for index, author in enumerate(authors)]
    return schema_of(("posts", list[Post], posts))


async def data_of(schema: Any, query: str, **options: Any) -> Any:
    result = await schema.execute(query, **options)
    assert result.errors is None, result.errors
    return result.data


async def errors_of(schema: Any, query: str, **options: Any) -> list[str]:
    result = await schema.execute(query, **options)
    return [error.message for error in result.errors or ()]


# -- what is loaded


async def test_it_gives_what_the_loader_gives() -> None:
    """The field of each parent has the value that the loader has for the parent's key."""
    data = await data_of(posts_by(1, 2, 200), "{ posts { author { name } } }")

    assert [
        {"author": {"name": "user 1"}},
        {"author": {"name": "user 2"}},
        {"author": None},
    ] == data["posts"]


async def test_the_parents_of_a_list_make_one_batch() -> None:
    """The keys of all items of a list are asked for at once."""
    with BatchRecorder() as recorder:
        await data_of(posts_by(1, 2, 1), "{ posts { author { id } } }")

    assert [("users", [1, 2])] == recorder.plan


async def test_it_is_null_where_there_is_no_key() -> None:
    """A parent whose attribute is None has null there, and asks for nothing."""
    with BatchRecorder() as recorder:
        data = await data_of(posts_by(None), "{ posts { author { id } } }")

    assert {"posts": [{"author": None}]} == data
    assert [] == recorder.plan


async def test_by_may_be_a_function_of_the_parent() -> None:
    """`by=` takes a function, which gets the parent."""

    @strawberry.type
    class Halved:
        number: int
        user: User | None = load_from(users, by=lambda halved: halved.number // 2)

    schema = schema_of(("halved", Halved, Halved(number=14)))

    assert {"halved": {"user": {"id": 7}}} == await data_of(schema, "{ halved { user { id } } }")


async def test_by_may_be_a_function_that_does_not_tell_its_parameters() -> None:
    """Python knows no signature of an `attrgetter`."""
    schema = schema_of(
        ("post", Post, giving(Post(id=1, author_id=2))),
        ("me", User | None, load_from(users, by=operator.attrgetter("real"))),
    )

    assert {"me": {"name": "user 3"}} == await data_of(schema, "{ me { name } }", root_value=3)


async def test_by_goes_by_the_resolver_of_the_schema() -> None:
    """A schema whose objects are dicts finds the key in the dict."""
    posts: Any = [{"id": 0, "author_id": 3}]
    config = StrawberryConfig(default_resolver=dict.__getitem__)
    schema = schema_of(("posts", list[Post], posts), config=config)

    data = await data_of(schema, "{ posts { author { __typename } } }")

    assert {"posts": [{"author": {"__typename": "User"}}]} == data


async def test_a_missing_value_is_an_error_of_its_own_field() -> None:
    """With missing="raise" a parent whose key is not there gets an error, and others don't."""

    @strawberry.type
    class Comment:
        user_id: int
        user: User | None = load_from(sure_users, by="user_id")

    schema = schema_of(
        ("comments", list[Comment], [Comment(user_id=1)]),
        ("lost", Comment, Comment(user_id=100)),
    )

    result = await schema.execute("{ comments { user { id } } lost { user { id } } }")

    assert {"comments": [{"user": {"id": 1}}], "lost": {"user": None}} == result.data
    assert [["lost", "user"]] == [error.path for error in result.errors or ()]


async def test_without_a_scope_it_says_how_to_open_one() -> None:
    """Without extension and without scope, the field's error is that of the factory."""

    @strawberry.type
    class Query:
        user_id: int = 1
        user: User | None = load_from(users, by="user_id")

    messages = await errors_of(strawberry.Schema(Query), "{ user { id } }")
    assert [] != messages

    async with LoaderScope():
        result = await strawberry.Schema(Query).execute("{ user { id } }", root_value=Query())

    assert {"user": {"id": 1}} == result.data


# -- arguments


async def test_the_fields_arguments_make_the_args() -> None:
    """The parameters of the class of the args are the field's arguments."""
    schema = posts_by(3)
    query = "{ posts { author { posts(first: 3, newestFirst: true) { id } } } }"

    data = await data_of(schema, query)

    assert [{"id": 32}, {"id": 31}, {"id": 30}] == data["posts"][0]["author"]["posts"]


async def test_arguments_have_the_defaults_of_the_args() -> None:
    """An argument that the query leaves out has the default that the args have."""
    data = await data_of(posts_by(3), "{ posts { author { posts { id } } } }")

    assert [{"id": 30}, {"id": 31}] == data["posts"][0]["author"]["posts"]


def test_the_schema_shows_the_arguments() -> None:
    """Names, types and defaults of the arguments are those of the parameters."""
    text = posts_by(3).as_str()

    assert "posts(first: Int! = 2, newestFirst: Boolean! = false): [Post!]!" in text


async def test_a_function_may_make_the_args() -> None:
    """`args=` takes a function, whose annotated parameters are the field's arguments."""

    def one_page(part: Slice, order: Order = Order.UP) -> Page:
        return Page(part.stop - part.start, order is Order.DOWN)

    @strawberry.type
    class Author:
        id: int
        posts: list[Post] = load_from(pages_of, by="id", args=one_page)

    schema = schema_of(("author", Author, Author(id=4)))
    query = "{ author { posts(part: {start: 3}, order: DOWN) { id } } }"

    assert {"author": {"posts": [{"id": 41}, {"id": 40}]}} == await data_of(schema, query)


async def test_equal_arguments_make_one_batch() -> None:
    """Each value of the args has a batch of its own, whatever the fields are called."""
    query = """{ posts { author {
        posts { id }  same: posts(first: 2) { id }  one: posts(first: 1) { id }
    } } }"""

    with BatchRecorder() as recorder:
        await data_of(posts_by(1, 2), query)

    assert [("users", [1, 2]), ("pages_of", [1, 2]), ("pages_of", [1, 2])] == recorder.plan


# -- what it is in a schema


def test_it_has_what_any_field_has() -> None:
    """Name, description, deprecation and directives are in the schema."""

    @strawberry.schema_directive(locations=[Location.FIELD_DEFINITION])
    class Costly:
        points: int

    @strawberry.type
    class Comment:
        user_id: strawberry.Private[int]
        user: User | None = load_from(
            users,
            by="user_id",
            name="writer",
            description="Who wrote it.",
            deprecation_reason="Ask for the post.",
            directives=[Costly(points=3)],
        )

    text = schema_of(("comment", Comment, None)).as_str()

    assert '"""Who wrote it."""' in text
    assert 'writer: User @costly(points: 3) @deprecated(reason: "Ask for the post.")' in text
    assert "userId" not in text


async def test_permissions_are_asked_before_anything_is_loaded() -> None:
    """Who may not see the field gets an error, and no batch is sent for that parent."""

    class IsOdd(BasePermission):
        message = "not for you"

        async def has_permission(self, source: Any, info: Any, **kwargs: Any) -> bool:
            return source.user_id % 2 == 1

    @strawberry.type
    class Comment:
        user_id: strawberry.Private[int]
        user: User | None = load_from(users, by="user_id", permission_classes=[IsOdd])

    schema = schema_of(
        (
            "comments",
            list[Comment],
            [Comment(user_id=n) for n in (1, 2, 3)],
        )
    )

    with BatchRecorder() as recorder:
        result = await schema.execute("{ comments { user { id } } }")

    assert [{"user": {"id": 1}}, {"user": None}, {"user": {"id": 3}}] == result.data["comments"]
    assert ["not for you"] == [error.message for error in result.errors]
    assert [("users", [1, 3])] == recorder.plan


async def test_permissions_that_are_not_asynchronous_work_too() -> None:
    """A `def has_permission` guards a loaded field as well."""

    class Never(BasePermission):
        message = "not for you"

        def has_permission(self, source: Any, info: Any, **kwargs: Any) -> bool:
            return False

    @strawberry.type
    class Comment:
        user_id: int
        user: User | None = load_from(users, by="user_id", permission_classes=[Never])

    schema = schema_of(("comment", Comment, Comment(user_id=1)))

    assert ["not for you"] == await errors_of(schema, "{ comment { user { id } } }")


async def test_an_extension_gets_the_loaded_value() -> None:
    """A field extension sees the value and not a future of it."""

    class Shout(FieldExtension):
        async def resolve_async(self, next_: Any, source: Any, info: Any, **kwargs: Any) -> Any:
            return str(await next_(source, info, **kwargs)).upper()

    @strawberry.type
    class Comment:
        user_id: int | None
        name: str | None = load_from(names, by="user_id", extensions=[Shout()])

    schema = schema_of(
        ("one", Comment, Comment(user_id=1)), ("none", Comment, Comment(user_id=None))
    )

    data = await data_of(schema, "{ one { name } none { name } }")

    assert {"one": {"name": "USER 1"}, "none": {"name": "NONE"}} == data


async def test_those_who_implement_an_interface_have_its_field() -> None:
    """An interface may declare the field, and need not have the attribute itself."""

    @strawberry.interface
    class Written:
        author: User | None = load_from(users, by="author_id")

    @strawberry.type
    class Letter(Written):
        author_id: strawberry.Private[int]

    schema = schema_of(("written", Written, Letter(author_id=5)), types=[Letter])

    assert {"written": {"author": {"id": 5}}} == await data_of(
        schema, "{ written { author { id } } }"
    )


async def test_a_generic_type_may_have_one() -> None:
    """The field works in each of a generic type's concrete types, also with the type variable."""

    @strawberry.type
    class Box(Generic[T]):
        item: T
        owner_id: strawberry.Private[int]
        owner: User | None = load_from(users, by="owner_id")
        same: T | None = load_from(users, by="owner_id")

    schema = schema_of(
        ("box", Box[User], Box(item=User(id=0), owner_id=6)),
    )

    data = await data_of(schema, "{ box { owner { id } same { id } } }")

    assert {"box": {"owner": {"id": 6}, "same": {"id": 6}}} == data


async def test_a_subclass_has_the_fields_of_its_base() -> None:
    """A type that extends another has its loaded fields."""

    @strawberry.type
    class LongPost(Post):
        length: int = 9

    schema = schema_of(("post", LongPost, LongPost(id=1, author_id=8)))

    assert {"post": {"author": {"id": 8}}} == await data_of(schema, "{ post { author { id } } }")


async def test_the_root_may_have_one() -> None:
    """A field of the query may be loaded by a function of the root value."""
    schema = schema_of(("me", User | None, load_from(users, by=lambda root: 9)))

    assert {"me": {"id": 9}} == await data_of(schema, "{ me { id } }")


async def test_federation_entities_have_them() -> None:
    """An entity that another service refers to loads its field."""

    @strawberry.federation.type(keys=["id"])
    class Product:
        id: strawberry.ID
        owner_id: strawberry.Private[int]
        owner: User | None = load_from(users, by="owner_id")

        @classmethod
        def resolve_reference(cls, **key: str) -> Any:
            return cls(id=strawberry.ID(key["id"]), owner_id=int(key["id"]))

    @strawberry.type
    class Query:
        product: Product | None = None

    schema = strawberry.federation.Schema(Query, extensions=[DataLoaderExtension])
    query = """query($of: [_Any!]!) {
        _entities(representations: $of) { ... on Product { owner { id } } }
    }"""

    data = await data_of(
        schema,
        query,
        variable_values={"of": [{"__typename": "Product", "id": str(n)} for n in (3, 4)]},
    )

    assert {"_entities": [{"owner": {"id": 3}}, {"owner": {"id": 4}}]} == data


async def test_relay_nodes_and_connections_have_them() -> None:
    """The nodes of a connection load their fields in one batch."""

    @strawberry.type
    class Article(relay.Node):
        id: relay.NodeID[int]
        author: User | None = load_from(users, by="id")

        @classmethod
        def resolve_nodes(
            cls, *, info: Any = None, node_ids: Iterable[str], required: bool = False
        ) -> Any:
            return [cls(id=int(key)) for key in node_ids]

    @strawberry.type
    class Query:
        node: relay.Node = relay.node()

        @relay.connection(relay.ListConnection[Article])
        def articles(self) -> Iterable[Article]:
            return [Article(id=1), Article(id=2)]

    # Strawberry finds a connection's type by the name that the module has for it.
    schema = strawberry.Schema(Query, extensions=[DataLoaderExtension])
    key = relay.to_base64("Article", 7)

    with BatchRecorder() as recorder:
        data = await data_of(
            schema,
            f"{{ articles {{ edges {{ node {{ author {{ id }} }} }} }} "
            f'node(id: "{key}") {{ ... on Article {{ author {{ id }} }} }} }}',
        )

    assert [1, 2] == [edge["node"]["author"]["id"] for edge in data["articles"]["edges"]]
    assert {"author": {"id": 7}} == data["node"]
    assert ["users"] == [name for name, _ in recorder.plan]


# -- instances


def test_an_instance_says_that_it_is_a_loaded_field() -> None:
    """Reading the field of an instance says what it is and what to do."""
    post = Post(id=1, author_id=2)

    with pytest.raises(
        AttributeError,
        match=r"^Post\.author is a loaded field, which an instance does not have: a query that "
        r"selects it loads it; in Python use `await users\.load\(\.\.\.\)`$",
    ):
        _ = post.author


def test_the_class_shows_what_the_field_is() -> None:
    """Reading the field of the class gives something that says what it is."""
    assert "<loaded field 'author': load_from(users)>" == repr(Post.author)


def test_an_instance_is_made_shown_and_compared_without_it() -> None:
    """The field is none of those that make an instance."""
    post = Post(id=1, author_id=2)

    assert Post(id=1, author_id=2) == post
    assert repr(post).endswith("Post(id=1, author_id=2)")
    assert Post(id=3, author_id=2) == dataclasses.replace(post, id=3)
    assert not hasattr(post, "author")


# -- what is wrong


def test_an_attribute_that_the_type_lacks_is_found_when_the_schema_is_built() -> None:
    """The error names the field, the loader and the attribute, and says what to do."""

    @strawberry.type
    class Comment:
        user: User | None = load_from(users, by="user_id")

    with pytest.raises(
        ConfigurationError,
        match=r"^Comment\.user: load_from\(users\) is by 'user_id', an attribute that Comment "
        r"lacks; declare it, as `user_id: strawberry\.Private\[\.\.\.\]` if it is none of the "
        r"schema's, or give a function of the parent$",
    ):
        schema_of(("comment", Comment, None))


@pytest.mark.parametrize("by", ["usr_id", "userId"])
def test_a_misspelled_attribute_is_told_from_one_that_is_missing(by: str) -> None:
    """Where an attribute has a similar name, the error asks whether it was meant."""

    @strawberry.type
    class Comment:
        user_id: strawberry.Private[int]
        user: User | None = load_from(users, by=by)

    with pytest.raises(
        ConfigurationError,
        match=rf"^Comment\.user: load_from\(users\) is by '{by}', an attribute that Comment lacks; "
        rf"did you mean 'user_id'\? If not, declare it, as `{by}: strawberry\.Private\[",
    ):
        schema_of(("comment", Comment, None))


@pytest.mark.parametrize(
    ("by", "kind"), [("writer", "a loaded field"), ("number", "a method or resolver")]
)
def test_an_attribute_that_is_no_value_is_refused(by: str, kind: str) -> None:
    """Neither another loaded field nor a resolver can be the key."""

    @strawberry.type
    class Comment:
        writer: User | None = load_from(users, by=lambda comment: 1)
        user: User | None = load_from(users, by=by)

        @strawberry.field
        def number(self) -> int:
            return 1

    with pytest.raises(
        ConfigurationError, match=rf"^Comment\.user: .* is by '{by}', which is {kind} of Comment"
    ):
        schema_of(("comment", Comment, None))


@pytest.mark.parametrize("how", ["property", "cached", "class", "slot", "getattr", "mixin"])
def test_an_attribute_may_be_of_any_kind(how: str) -> None:
    """Properties, class attributes, annotations of any base and `__getattr__` are found."""

    class Mixin:
        if how == "property":
            user_id = property(lambda self: 1)
        elif how == "cached":
            user_id = functools.cached_property(lambda self: 1)
        elif how == "class":
            user_id = 1
        elif how == "slot":
            __slots__ = ("user_id",)
        elif how == "mixin":
            user_id: int
        else:

            def __getattr__(self, name: str) -> int:
                return 1

    @strawberry.type
    class Comment(Mixin):
        user: User | None = load_from(users, by="user_id")

    assert "user: User" in schema_of(("comment", Comment, None)).as_str()


def test_an_input_type_has_no_loaded_fields() -> None:
    """What a client sends can't be loaded."""

    @strawberry.input
    class Wrong:
        user_id: int
        user: User | None = load_from(users, by="user_id")

    def resolve(wrong: Wrong) -> int:
        return 1

    with pytest.raises(
        ConfigurationError, match=r"^Wrong\.user: load_from\(users\) can't be a field of an input"
    ):
        schema_of(("number", int, strawberry.field(resolver=resolve)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((len, {"by": "id"}), "load_from needs a loader factory, made by @dataloader or"),
        ((users, {"by": 3}), "load_from(users): by must be the name of an attribute or a"),
        (
            (users, {"by": "id", "permission_classes": BasePermission}),
            "load_from(users): permission_classes must be a list of permission classes, got <class",
        ),
        (
            (users, {"by": "id", "permission_classes": ["IsOdd"]}),
            "load_from(users): permission_classes must be a list of permission classes, got ['",
        ),
        (
            (users, {"by": "id", "directives": 5}),
            "load_from(users): directives must be a list of instances of schema directives, got 5",
        ),
        (
            (users, {"by": "id", "extensions": [FieldExtension]}),
            "load_from(users): extensions must be a list of instances of field extensions, got [<",
        ),
        ((users, {"by": "author.id"}), "load_from(users): by must be the name of an attribute"),
        ((users, {"by": lambda: 1}), "load_from(users): by must be a plain function of the parent"),
        ((users, {"by": lambda post, info: 1}), "load_from(users): by must be a plain function"),
        ((users, {"by": key_later}), "load_from(users): by must be a plain function of the parent"),
        ((users, {"by": "id", "args": Page}), "load_from(users): the factory takes no args"),
        ((pages_of, {"by": "id"}), "load_from(pages_of): the factory takes args; args must be"),
        ((pages_of, {"by": "id", "args": 3}), "load_from(pages_of): the factory takes args"),
        (
            (pages_of, {"by": "id", "args": key_later}),
            "load_from(pages_of): args must be made by a",
        ),
    ],
)
def test_a_wrong_argument_is_found_at_once(arguments: Any, message: str) -> None:
    """`load_from` itself refuses what can be seen to be wrong."""
    factory, options = arguments

    with pytest.raises(ConfigurationTypeError) as caught:
        load_from(factory, **options)

    assert str(caught.value).startswith(message)


def test_a_connection_is_left_to_a_resolver() -> None:
    """Strawberry's extension would fail with an assertion of its own, without a word."""
    with pytest.raises(
        ConfigurationTypeError,
        match=r"^load_from\(users\): Strawberry's ConnectionExtension needs a resolver; write one "
        r"under `@relay\.connection\(\.\.\.\)`, an `async def` that returns `await "
        r"users\.load\(\.\.\.\)`$",
    ):
        load_from(users, by="id", extensions=[relay.ConnectionExtension()])


def with_info(info: strawberry.Info) -> Page:
    return Page()


def with_self(self: object, first: int = 2) -> Page:
    return Page(first)


def with_argument(info: int = 2) -> Page:
    return Page(info)


@pytest.mark.parametrize(
    ("args", "name"), [(with_info, "info"), (with_self, "self"), (with_argument, "info")]
)
def test_what_makes_the_args_gets_nothing_but_arguments(args: Any, name: str) -> None:
    """A parameter that Strawberry would fill in is refused when the schema is built."""

    @strawberry.type
    class Author:
        id: int
        posts: list[Post] = load_from(pages_of, by="id", args=args)

    with pytest.raises(
        ConfigurationError,
        match=r"^Author\.posts: load_from\(pages_of\): what makes the args gets the field's "
        rf"arguments and nothing else, but it has a parameter '{name}'; leave it out, or "
        r"rename it if it is an argument$",
    ):
        schema_of(("author", Author, None))


@pytest.mark.parametrize("type_", [str, int, Order])
def test_args_of_a_type_that_tells_no_parameters_are_made_by_a_function(type_: Any) -> None:
    """The error says how such a function is written, and one that is so written works."""

    @group_dataloader(by="author_id", args=type_)
    async def found(ids: list[int], what: Any) -> list[Any]:
        return []

    def make_args(value: Any) -> Any:
        return value

    make_args.__annotations__ = {"value": type_, "return": type_}

    def schema(args: Any) -> Any:
        @strawberry.type
        class Author:
            id: int
            posts: list[Post] = load_from(found, by="id", args=args)

        return schema_of(("author", Author, None))

    name = type_.__name__
    with pytest.raises(
        ConfigurationError,
        match=rf"^Author\.posts: load_from\(found\): the parameters of {name} can't be the field's "
        rf"arguments; make the args by a function that has annotated parameters: `def "
        rf"make_args\(value: {name}\) -> {name}: return value`$",
    ):
        schema(type_)

    assert "posts(value: " in schema(make_args).as_str()


def test_args_whose_default_can_not_be_shown_are_refused() -> None:
    """A default that is made anew each time has no place in a schema."""

    @dataclass(frozen=True)
    class Filter:
        words: list[str] = dataclasses.field(default_factory=list)

    @group_dataloader(by="author_id", args=Filter)
    async def filtered(ids: list[int], words: Filter) -> list[Any]:
        return []

    @strawberry.type
    class Author:
        id: int
        posts: list[Post] = load_from(filtered, by="id", args=Filter)

    with pytest.raises(ConfigurationError, match=r"'words' of the args has a default_factory"):
        schema_of(("author", Author, None))
