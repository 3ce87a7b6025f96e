"""Schemas with loaded fields of every kind, data with errors everywhere, and queries of them.

All is made of numbers: the same number gives the same schema, data and query on every machine.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from types import ModuleType
from typing import Any

__all__ = ["Case", "Types", "make_case", "types_of", "world"]

# -- the data


def tried(function: Callable[[int], Any], key: int) -> Any:
    """Give what a function gives or raises: the errors of a batch are those of its keys."""
    try:
        return function(key)
    except Exception as error:
        return error


class World:
    """What the resolvers and batch functions of the running case see."""

    seed = 0
    bad = 0
    """How many values in a hundred are errors, missing or null where they must not be."""

    def mix(self, *parts: int) -> int:
        mixed = self.seed & 0xFFFFFFFF
        for part in parts:
            mixed = ((mixed ^ part) * 0x9E3779B1 + 0x85EBCA77) & 0xFFFFFFFF
            mixed ^= mixed >> 15
        return mixed

    def is_bad(self, *parts: int) -> bool:
        return self.mix(*parts, 77) % 100 < self.bad

    def lacks(self, parent: int, salt: int) -> bool:
        """Tell whether there is no key, or no value for it: seldom, where all is well."""
        return self.mix(parent, salt, 1) % (9 if self.bad else 40) == 0

    def key(self, parent: int, salt: int) -> int | None:
        """Give what a parent refers to: often the same as another parent does."""
        if self.lacks(parent, salt):
            return None
        if self.is_bad(parent, salt, 2):
            raise ValueError(f"no key {salt} of {parent}")
        return self.mix(parent, salt, 3) % 9

    def word(self, parent: int, salt: int, *, must: bool) -> str | None:
        if self.is_bad(parent, salt, 4):
            if self.mix(parent, salt, 5) % 2:
                raise ValueError(f"no word {salt} of {parent}")
            return None
        if not must and self.mix(parent, salt, 6) % 5 == 0:
            return None
        return f"word {parent} {salt}"

    def one(self, make: Callable[[int], Any], parent: int, salt: int, *, must: bool) -> Any:
        if self.is_bad(parent, salt, 7):
            if self.mix(parent, salt, 8) % 2:
                return ValueError(f"no one {salt} of {parent}")
            return None
        if not must and self.mix(parent, salt, 9) % 6 == 0:
            return None
        return make(self.mix(parent, salt, 10) % 9)

    def many(self, make: Callable[[int], Any], parent: int, salt: int, *, must: bool) -> list[Any]:
        count = self.mix(parent, salt, 11) % 5
        return [self.one(make, parent, salt * 31 + n, must=must) for n in range(count)]

    def lists(self, make: Callable[[int], Any], parent: int, salt: int, *, must: bool) -> list[Any]:
        count = self.mix(parent, salt, 12) % 4
        return [
            None
            if not must and self.mix(parent, salt, n, 13) % 6 == 0
            else self.many(make, parent, salt * 37 + n, must=must)
            for n in range(count)
        ]

    async def wait(self, parent: int, salt: int) -> None:
        """Wait for nothing, for a tick or two or for a while."""
        kind = self.mix(parent, salt, 14) % 5
        for _ in range(kind if kind < 3 else 0):
            await asyncio.sleep(0)
        if kind >= 3:
            await asyncio.sleep((kind - 2) / 100)

    async def answer(self, salt: int, keys: list[int], value: Callable[[int], Any]) -> list[Any]:
        """Answer a batch: late, and with some errors, or as a whole not.

        A database takes longer than a tick. Without a memo, or where batches end within the window
        of others, what is asked for how often would be decided by single ticks.
        """
        await asyncio.sleep((1 + salt % 3) / 100)
        if self.mix(salt, 15) % 100 < self.bad // 3:
            raise ValueError(f"no batch of {salt}")
        return [
            LookupError(f"key {key} of {salt}") if self.is_bad(key, salt, 16) else tried(value, key)
            for key in keys
        ]

    def allows(self, parent: int, salt: int) -> bool:
        return self.mix(parent, salt, 17) % 4 > 0


world = World()

# -- schemas

_HEAD = """
from __future__ import annotations
import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Any, Union
import strawberry
from strawberry.permission import BasePermission
from dataloader_cache import dataloader, group_dataloader
from dataloader_cache.integrations.strawberry import load_from
from tests.integrations.generated_cases import world

@dataclass(frozen=True)
class Page:
    first: int = 2
    skip: int = 0

class Soon(BasePermission):
    message = "not now"
    def has_permission(self, source, info, **kwargs):
        return world.allows(source.id, 1)

class Later(BasePermission):
    message = "not later"
    async def has_permission(self, source, info, **kwargs):
        await world.wait(source.id, 2)
        return world.allows(source.id, 2)

class Keys:
    k0 = property(lambda self: world.key(self.id, 0))
    k1 = property(lambda self: world.key(self.id, 1))
    k2 = property(lambda self: world.key(self.id, 2))
    k3 = property(lambda self: world.key(self.id, 3))
    k4 = property(lambda self: world.key(self.id, 4))

@strawberry.interface
class Node:
    id: int

def make_any(key):
    return KINDS[world.mix(key, 18) % len(KINDS)](id=key)
"""

_SHAPES = ("{} | None", "{}", "list[{}]", "list[{} | None] | None", "list[list[{}] | None]")
# A root that may not be null makes many answers nothing but null.
_ROOT_SHAPES = ("{} | None", "{}", "list[{} | None] | None", "list[list[{} | None]] | None")
_ARGUMENTS = ("Page", "slow_page")


@dataclass(frozen=True)
class _Field:
    """A field as a query sees it; `of` is the name of its type, or None for a leaf."""

    name: str
    of: str | None
    depth: int = 0
    takes_page: bool = False


@dataclass(frozen=True)
class Types:
    """The types of a schema: the source, the root types, and the fields of each type."""

    source: str
    module: ModuleType
    fields: dict[str, list[_Field]]
    objects: list[str]


class _Writer:
    """Write the source of a schema."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.lines = [_HEAD]
        self.fields: dict[str, list[_Field]] = {}
        self.objects = [f"T{n}" for n in range(self.random.randint(2, 4))]
        self.any_types = [*self.objects, "Node", "Either"]
        self.salt = 0

    def write(self) -> str:
        for name in self.any_types:
            self._loaders(name)
        self._leaf_loader()
        for name in self.objects:
            self._object(name)
        members = ", ".join(self.objects[:2])
        self.lines.append(f"KINDS = [{', '.join(self.objects)}]")
        self.lines.append(f"PAIR = [{members}]")
        self.lines.append(
            f'Either = Annotated[Union[{members}], strawberry.union("Either")]\n'
            "def make_Either(key):\n    return PAIR[world.mix(key, 19) % 2](id=key)\n"
            "make_Node = make_any"
        )
        self.fields["Node"] = [_Field("id", None)]
        self.fields["Either"] = []
        self._root("Query", 6)
        self._root("Mutation", 4)
        self._subscription()
        return "\n".join(self.lines)

    def _next(self) -> int:
        self.salt += 1
        return self.salt

    def _options(self) -> str:
        options = [
            self.random.choice(["", "", 'missing="raise"']),
            self.random.choice(["", "", "", "cache_errors=True"]),
            self.random.choice(["", "", "", "max_batch_size=2"]),
        ]
        return ", ".join(filter(None, options))

    def _loaders(self, name: str) -> None:
        for kind in ("one", "many", "lists"):
            salt = self._next()
            value = {
                "one": f"make_{name}(key)",
                "many": f"world.many(make_{name}, key, {salt}, must=key % 3 > 0)",
                "lists": f"world.lists(make_{name}, key, {salt}, must=key % 3 > 0)",
            }[kind]
            self.lines.append(
                f"@dataloader({self._options()})\n"
                f"async def {kind}_{name}(keys: list[int]) -> dict[int, Any]:\n"
                f"    found = await world.answer({salt}, keys, lambda key: {value})\n"
                f"    return {{k: v for k, v in zip(keys, found) if not world.lacks(k, {salt})}}\n"
            )
        if name in self.objects:
            salt = self._next()
            self.lines.append(f"def make_{name}(key):\n    return {name}(id=key)")
            self.lines.append(
                '@group_dataloader(by="owner", args=Page)\n'
                f"async def pages_{name}(keys: list[int], page: Page) -> list[Any]:\n"
                f"    await world.answer({salt}, keys, lambda key: None)\n"
                f"    return [{name}(id=key + n, owner=key) for n in range(page.first)"
                " for key in keys]\n"
            )

    def _leaf_loader(self) -> None:
        self.lines.append(
            f"@dataloader({self._options()})\n"
            "async def words(keys: list[int]) -> list[Any]:\n"
            "    return await world.answer(99, keys,"
            " lambda key: world.word(key, 99, must=key % 2))\n"
            "def slow_page(first: int = 1) -> Page:\n"
            '    if first == 3:\n        raise ValueError("no page of 3")\n'
            "    return Page(first=first)\n"
        )

    def _object(self, name: str) -> None:
        base = "(Node, Keys)" if self.random.random() < 0.8 else "(Keys)"
        self.lines.append(f"@strawberry.type\nclass {name}{base}:\n    id: int")
        self.lines.append("    owner: strawberry.Private[int] = 0")
        self.fields[name] = [_Field("id", None)]
        self._some_fields(name, self.random.randint(6, 9))

    def _root(self, name: str, count: int) -> None:
        self.lines.append(f"@strawberry.type\nclass {name}(Keys):\n    id: strawberry.Private[int]")
        self.fields[name] = []
        self._some_fields(name, count)
        self._field(name, "plain", "list[{}]", self.random.choice(self.objects))

    def _subscription(self) -> None:
        kind = self.random.choice(self.objects)
        self.lines.append(
            "@strawberry.type\nclass Subscription:\n"
            "    @strawberry.subscription\n"
            f"    async def events(self) -> AsyncGenerator[list[{kind}], None]:\n"
            "        for n in range(2):\n"
            "            await asyncio.sleep(0)\n"
            f"            yield world.many(make_{kind}, n, 55, must=True)\n"
        )
        self.fields["Subscription"] = [_Field("events", kind, 1)]

    def _some_fields(self, owner: str, count: int) -> None:
        kinds = ["load"] * 9 + ["args"] * 2 + ["permission", "plain", "plain", "plain"]
        kinds += ["future", "async", "async_load", "word", "loaded_word", "loaded_word"]
        for _ in range(count):
            shape = self.random.choice(_SHAPES if owner in self.objects else _ROOT_SHAPES)
            of = self.random.choice([*self.objects, *self.any_types])
            self._field(owner, self.random.choice(kinds), shape, of)

    def _field(self, owner: str, kind: str, shape: str, of: str) -> None:
        salt = self._next()
        key = f"k{self.random.randrange(5)}"
        by = self.random.choice([f'"{key}"', f"lambda parent: parent.{key}"])
        name = f"{kind.split('_', maxsplit=1)[0]}{salt}"
        depth = shape.count("list")
        must = "|" not in shape.rpartition("{}")[2].partition("]")[0]
        loader = ("one", "many", "lists")[depth] + f"_{of}"
        annotation = shape.format(of)
        takes_page = False
        add = self.lines.append
        if kind in ("word", "loaded_word"):
            depth, of = 0, ""
            annotation = self.random.choice(["str", "str | None"])
        if kind == "loaded_word":
            add(f"    {name}: {annotation} = load_from(words, by={by})")
        elif kind == "word":
            add(f"    @strawberry.field\n    def {name}(self) -> {annotation}:")
            add(f"        return world.word(self.id, {salt}, must={annotation == 'str'})")
        elif kind == "load":
            add(f"    {name}: {annotation} = load_from({loader}, by={by})")
        elif kind == "args":
            of, depth, takes_page = self.random.choice(self.objects), 1, True
            args = self.random.choice(_ARGUMENTS)
            add(f"    {name}: list[{of}] = load_from(pages_{of}, by={by}, args={args})")
        elif kind == "permission":
            who = self.random.choice(["Soon", "Later"])
            add(
                f"    {name}: {annotation} = "
                f"load_from({loader}, by={by}, permission_classes=[{who}])"
            )
        elif kind == "future":
            add(f"    @strawberry.field\n    def {name}(self) -> {annotation}:")
            add(f"        key = self.{key}")
            add(f"        return None if key is None else {loader}.load(key)")
        elif kind == "async_load":
            add(f"    @strawberry.field\n    async def {name}(self) -> {annotation}:")
            add(f"        await world.wait(self.id, {salt})")
            add(f"        return None if self.{key} is None else await {loader}.load(self.{key})")
        else:
            is_async = kind == "async"
            add("    @strawberry.field")
            add(f"    {'async ' * is_async}def {name}(self) -> {annotation}:")
            if is_async:
                add(f"        await world.wait(self.id, {salt})")
            what = ("one", "many", "lists")[depth]
            add(f"        return world.{what}(make_{of}, self.id, {salt}, must={must})")
        self.fields[owner].append(_Field(name, of or None, depth, takes_page))


@functools.lru_cache(maxsize=64)
def types_of(seed: int) -> Types:
    """Make the types of a schema."""
    writer = _Writer(seed)
    source = writer.write()
    module = ModuleType(f"generated_schema_{seed}")
    sys.modules[module.__name__] = module
    exec(compile(source, f"<{module.__name__}>", "exec"), module.__dict__)
    return Types(source, module, writer.fields, writer.objects)


# -- queries


@dataclass(frozen=True)
class Case:
    """What is executed, over which schema and data."""

    schema: int
    world: int
    bad: int
    operation: str
    query: str
    variables: dict[str, Any]
    is_incremental: bool

    def __str__(self) -> str:
        return (
            f"schema {self.schema}, world {self.world}, bad {self.bad}, "
            f"variables {self.variables}\n{self.query}"
        )


class _Query:
    """Write a query of a schema."""

    def __init__(self, types: Types, random: Random, is_incremental: bool, size: int) -> None:
        self.types = types
        self.random = random
        self.is_incremental = is_incremental
        self.left = size
        self.fragments: list[str] = []
        self.aliases = 0
        self.has_variables = True
        self.variables: dict[str, Any] = {"yes": True, "no": False}
        self.variables["maybe"] = random.random() < 0.5
        self.variables["first"] = random.randint(1, 3)

    def write(self, operation: str) -> str:
        root = operation.capitalize()
        self.has_variables = operation != "subscription"
        body = self._selection(root, 0, is_root=True)
        head = "$yes: Boolean!, $no: Boolean!, $maybe: Boolean!"
        # A variable that is not used would make the query invalid.
        if "$first" in body or any("$first" in fragment for fragment in self.fragments):
            head += ", $first: Int!"
        use = "a: __typename @include(if: $yes) @skip(if: $no) b: __typename @skip(if: $maybe)"
        if operation == "subscription":
            return f"subscription {body}\n" + "\n".join(self.fragments)
        return f"{operation} Q({head}) {{ {use} {body[1:-1]} }}\n" + "\n".join(self.fragments)

    def _selection(self, kind: str, depth: int, *, is_root: bool = False) -> str:
        random = self.random
        fields = self.types.fields[kind]
        parts: list[str] = []
        if kind in ("Node", "Either"):
            parts.append("__typename")
            objects = self.types.objects[:2] if kind == "Either" else self._implementers()
            for name in objects:
                if random.random() < 0.7:
                    parts.append(f"... on {name} {self._selection(name, depth + 1)}")
            if kind == "Node":
                parts.append("id")
            return "{ " + " ".join(parts) + " }"
        count = 1 if kind == "Subscription" else random.randint(1, 5)
        for _ in range(count):
            self.left -= 1
            field = random.choice(fields)
            parts.append(self._field(field, depth, is_root=is_root, kind=kind))
        parts = [part for part in parts if part]
        if not parts:
            parts = ["__typename"]
        return "{ " + " ".join(parts) + " }"

    def _implementers(self) -> list[str]:
        module = self.types.module
        return [
            name for name in self.types.objects if issubclass(getattr(module, name), module.Node)
        ]

    def _field(self, field: _Field, depth: int, *, is_root: bool, kind: str) -> str:
        random = self.random
        if field.of is not None and (depth > 4 or self.left < 0):
            return ""
        is_plain = kind == "Subscription"
        text = field.name
        if field.takes_page:
            first = random.choice(["", "(first: $first)", "(first: 1)", "(first: 3)"])
            text += first if self.has_variables else ""
        if not is_plain and (text != field.name or random.random() < 0.35):
            self.aliases += 1
            text = f"x{self.aliases}: {text}"
        if self.has_variables and random.random() < 0.15:
            which = random.choice(["@include(if: $maybe)", "@skip(if: $no)", "@skip(if: $maybe)"])
            text += " " + which
        if self.is_incremental and field.depth and not is_plain and random.random() < 0.25:
            if not text.startswith("x"):
                self.aliases += 1
                text = f"x{self.aliases}: {text}"
            text += f" @stream(initialCount: {random.randint(0, 2)})"
        if field.of is not None:
            text += " " + self._selection(field.of, depth + 1)
        if is_plain or kind in ("Node", "Either"):
            return text
        roll = random.random()
        if roll < 0.12:
            defer = " @defer" if self._may_defer(is_root) else ""
            return f"... on {kind}{defer} {{ {text} }}"
        if roll < 0.2:
            name = f"F{len(self.fragments)}"
            self.fragments.append(f"fragment {name} on {kind} {{ {text} }}")
            defer = " @defer" if self._may_defer(is_root) else ""
            return f"...{name}{defer}"
        return text

    def _may_defer(self, is_root: bool) -> bool:
        return self.is_incremental and self.random.random() < 0.6


def make_case(schema: int, seed: int) -> Case:
    """Make one case over a schema."""
    random = Random(seed)
    types = types_of(schema)
    operation = random.choice(["query"] * 8 + ["mutation", "subscription"])
    is_incremental = operation == "query" and random.random() < 0.2
    query = _Query(types, random, is_incremental, random.choice([8, 16, 24]))
    text = query.write(operation)
    return Case(
        schema=schema,
        world=random.getrandbits(32),
        bad=random.choice([0, 0, 0, 2, 8, 25]),
        operation=operation,
        query=text,
        variables={} if operation == "subscription" else query.variables,
        is_incremental=is_incremental,
    )
