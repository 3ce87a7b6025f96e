"""Turn verdicts into a page for the documentation, or into lines for a terminal."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from itertools import groupby

from benchmarks.torture._contenders import Contender
from benchmarks.torture._row import OK, Row
from benchmarks.torture._run import N_A, Job

__all__ = ["as_markdown", "as_text", "heading"]

Verdicts = Mapping[Job, str]

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


def heading(contender: Contender) -> str:
    """Name a column: the library, and the version that was tried."""
    return f"{contender.name} {contender.version}" if contender.version else contender.name


def as_markdown(rows: Sequence[Row], contenders: Sequence[Contender], verdicts: Verdicts) -> str:
    """Render one table per group of rows, below the totals."""
    libraries = [each.name for each in contenders]
    totals = ["rows that are ok", *(_total(rows, each, verdicts) for each in contenders)]
    parts = [
        INTRODUCTION,
        f"Tried with {_interpreter()} and {', '.join(map(heading, contenders))}.\n",
        _table(["", *libraries], [totals]),
    ]
    for group, members in groupby(rows, key=lambda row: row.group):
        body = [
            [row.did, *(_cell(verdicts[row.name, name]) for name in libraries)] for row in members
        ]
        parts += [f"## {group}\n", _table(["what was done", *libraries], body)]
    return "\n".join(parts)


def as_text(row: Row, contenders: Sequence[Contender], verdicts: Verdicts) -> str:
    """Render one row as its title and a line per library."""
    lines = [f"{row.name}: {row.did}"]
    lines += [f"    {each.name:<22} {verdicts[row.name, each.name]}" for each in contenders]
    return "\n".join(lines)


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _total(rows: Sequence[Row], contender: Contender, verdicts: Verdicts) -> str:
    said = [verdicts[row.name, contender.name] for row in rows]
    return f"{said.count(OK)} of {len(said) - said.count(N_A)}"


def _cell(verdict: str) -> str:
    return verdict.replace("|", "\\|")


def _interpreter() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"
