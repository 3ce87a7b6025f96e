"""The torture table: our column is `ok` throughout, and the peers' columns tell the truth."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.torture._contenders import CONTENDERS, OURS
from benchmarks.torture._render import as_markdown
from benchmarks.torture._row import Row
from benchmarks.torture._run import all_rows

ROOT = Path(__file__).parents[1]
ROWS = all_rows()

# With these versions each of these was also seen outside this table.
TRIED = {
    "aiodataloader": "0.4.3",
    "strawberry.dataloader": "0.341.2",
    "dloader": "2025.7",
    "async-cache": "2.0.3",
}
KNOWN = [
    ("waiter_times_out", "aiodataloader", "the other is cancelled; every later load is cancelled"),
    ("waiter_times_out", "strawberry.dataloader", "the other is cancelled"),
    ("waiter_times_out", "dloader", "the other is cancelled"),
    ("waiter_leaves_open_batch", "async-cache", "another hangs; every later load hangs"),
    ("collected", "aiodataloader", "the batch is destroyed, the caller hangs"),
    ("raises_cancelled_error", "aiodataloader", "hangs"),
    ("raises_cancelled_error", "strawberry.dataloader", "hangs"),
    ("fails_once", "strawberry.dataloader", "the error is replayed for ever"),
    ("fails_once", "aiodataloader", "ok"),
    ("returns_dict", "dloader", "the keys are handed out as values"),
    ("returns_too_few", "async-cache", "`None` is handed out and cached"),
    ("clears_absent", "strawberry.dataloader", "KeyError"),
    ("max_batch_size_zero", "dloader", "spins for ever"),
    ("loads_from_another", "async-cache", "hangs"),
    ("loads_parents_one_at_a_time", "dloader", "n/a"),
    (
        "field_fails_while_another_waits",
        "strawberry.dataloader",
        "`schema.execute` raises `CancelledError`",
    ),
]


@cache
def _judged(libraries: tuple[str, ...], rows: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """Run the command once, as its users do, and return the verdicts."""
    chosen = [f"--library={name}" for name in libraries] + [f"--only={name}" for name in rows]
    command = [sys.executable, "-m", "benchmarks.torture", "--json", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    page: dict[str, Any] = json.loads(done.stdout)
    return {
        (row["row"], name): verdict
        for row in page["rows"]
        for name, verdict in row["verdicts"].items()
    }


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_ours_is_ok(row: Row) -> None:
    """Our loader comes out of every row with each caller served."""
    verdict = _judged((OURS.name,), ())[row.name, OURS.name]
    if "n/a" == verdict and "Strawberry" in row.group and find_spec("strawberry") is None:
        pytest.skip("strawberry is not installed")
    assert "ok" == verdict, row.did


@pytest.mark.parametrize(("row", "library", "verdict"), KNOWN)
def test_peers_break_where_they_are_known_to(row: str, library: str, verdict: str) -> None:
    """What is known of a peer's release is what its column says."""
    if CONTENDERS[library].version != TRIED[library]:
        pytest.skip(f"{library} {TRIED[library]} is not installed")
    rows, libraries = (_distinct([case[column] for case in KNOWN]) for column in (0, 1))
    assert verdict == _judged(libraries, rows)[row, library]


def test_every_row_has_a_place_in_the_rendered_table() -> None:
    """The page in the documentation has every row, under its group."""
    page = (ROOT / "docs" / "torture.md").read_text(encoding="utf-8")
    absent = [row.did for row in ROWS if f"\n| {row.did} | " not in page]
    assert [] == absent
    assert [] == [row.group for row in ROWS if f"\n## {row.group}\n" not in page]


def test_the_page_counts_what_applies() -> None:
    """A feature that a library lacks counts neither for it nor against it."""
    rows, said = ROWS[:3], ("ok", "n/a", "hangs")
    verdicts = {(row.name, OURS.name): verdict for row, verdict in zip(rows, said, strict=True)}
    page = as_markdown(rows, [OURS], verdicts)
    assert "| rows that are ok | 1 of 2 |" in page
