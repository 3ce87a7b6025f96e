"""Turn verdicts into a page for the documentation, or into lines for a terminal."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from benchmarks.torture._contenders import CacheContender, Contender
from benchmarks.torture._row import CACHE_GROUP, OK, Row
from benchmarks.torture._run import N_A, Job

__all__ = ["Column", "as_markdown", "as_text", "columns_of", "heading"]

Verdicts = Mapping[Job, str]
Column = Contender | CacheContender

INTRODUCTION = """\
# The torture table

What becomes of the callers when something goes wrong. Each row does one thing to a loader, in a
process of its own with a fresh event loop; the same code runs against every library.

- **ok**: every caller got its value, or an error that is its own and says what is wrong.
- **hangs**: a caller still waits when everything is quiet. **spins**: it waits, and the loop
  never rests.
- **n/a**: the library has no such feature. Of async-cache the batched
  `get(key, batch_loader=...)` is tried, with `set` for `prime` and `delete` for `clear`.

Reproduce it with

```
pip install -e ".[bench]"
python -m benchmarks.torture --markdown docs/torture.md
```
"""

CACHES_INTRODUCTION = """\
The same for caches of results. One function that loads stands behind each: `get(key, loader)` where
the library has it (dataloader-cache, async-cache), otherwise a decorated function. aiocache is its
`cached_stampede`; cachetools has one `asyncio.Lock` around it, held while a value is loaded.
"""


def heading(contender: Column) -> str:
    """Name a column: the library, and the version that was tried."""
    return f"{contender.name} {contender.version}" if contender.version else contender.name


def columns_of(row: Row, contenders: Iterable[Column]) -> list[Column]:
    """Return the contenders that a row runs against: loaders, or caches."""
    return [each for each in contenders if each.is_of_caches == row.is_of_caches]


def as_markdown(rows: Sequence[Row], contenders: Sequence[Column], verdicts: Verdicts) -> str:
    """Render one table per group of rows, below the totals; the caches have their own."""
    loaders, caches = (
        [each for each in contenders if each.is_of_caches == is_of_caches]
        for is_of_caches in (False, True)
    )
    parts = [
        INTRODUCTION,
        f"Tried with {_interpreter()} and {', '.join(map(heading, loaders))}.\n",
        _totals([row for row in rows if not row.is_of_caches], loaders, verdicts),
    ]
    for group, members in groupby(rows, key=lambda row: row.group):
        of_group = list(members)
        parts.append(f"## {group}\n")
        if group == CACHE_GROUP:
            parts += [
                CACHES_INTRODUCTION,
                f"Tried with {', '.join(map(heading, caches))}.\n",
                _totals(of_group, caches, verdicts),
            ]
        columns = columns_of(of_group[0], contenders)
        libraries = [each.name for each in columns]
        body = [
            [row.did, *(_cell(verdicts[row.name, name]) for name in libraries)] for row in of_group
        ]
        parts.append(_table(["what was done", *libraries], body))
    return "\n".join(parts)


def as_text(row: Row, contenders: Sequence[Column], verdicts: Verdicts) -> str:
    """Render one row as its title and a line per library."""
    lines = [f"{row.name}: {row.did}"]
    lines += [
        f"    {each.name:<22} {verdicts[row.name, each.name]}"
        for each in columns_of(row, contenders)
    ]
    return "\n".join(lines)


def _totals(rows: Sequence[Row], columns: Sequence[Column], verdicts: Verdicts) -> str:
    totals = ["rows that are ok", *(_total(rows, each, verdicts) for each in columns)]
    return _table(["", *(each.name for each in columns)], [totals])


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _total(rows: Sequence[Row], contender: Column, verdicts: Verdicts) -> str:
    said = [verdicts[row.name, contender.name] for row in rows]
    return f"{said.count(OK)} of {len(said) - said.count(N_A)}"


def _cell(verdict: str) -> str:
    return verdict.replace("|", "\\|")


def _interpreter() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"
