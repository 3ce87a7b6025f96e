"""One table for everything measured: a row per piece of work, a column per contender."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from benchmarks._machine import machine, machine_line, packages, packages_line
from benchmarks._measure import LOOPS
from benchmarks._peers import ADAPTERS, Contender

__all__ = ["Cell", "Report", "Row", "Verdict", "add_options"]


@dataclass(frozen=True)
class Cell:
    """One number of one contender. `mark` stands before it, as `≥` where it was cut off."""

    value: float
    mark: str = ""
    samples: tuple[float, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class Verdict:
    """What was to be reached and whether it was; `met` is None where nothing could be compared."""

    target: str
    measured: str = "-"
    met: bool | None = None

    @property
    def text(self) -> str:
        return "-" if self.met is None else "met" if self.met else "NOT met"


@dataclass(frozen=True)
class Row:
    """One piece of work, measured for every contender; `digits` are those after the point."""

    work: str
    unit: str
    cells: Mapping[str, Cell]
    verdict: Verdict | None = None
    digits: int = 2


@dataclass
class Report:
    """The rows of one or more benchmarks, and what they were measured on."""

    loop: str
    contenders: Sequence[str]
    left_out: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: Sequence[Contender] = ADAPTERS

    @property
    def missed(self) -> list[Row]:
        return [row for row in self.rows if row.verdict is not None and row.verdict.met is False]

    def __str__(self) -> str:
        head = [machine_line(self.loop), packages_line(self.known), *self.left_out]
        judged = [row for row in self.rows if row.verdict and row.verdict.met is not None]
        met = len(judged) - len(self.missed)
        summary = f"targets: {met} met, {len(self.missed)} NOT met"
        if not judged:
            summary = "targets: none could be compared"
        return "\n".join([*head, "", *self._table(), "", *self._remarks(), *self.notes, summary])

    def as_json(self) -> str:
        """Return the same, machine-readable, with every sample."""
        rows = [
            {
                "work": row.work,
                "unit": row.unit,
                "results": {name: asdict(cell) for name, cell in row.cells.items()},
                "verdict": None if row.verdict is None else asdict(row.verdict),
            }
            for row in self.rows
        ]
        document = {
            "machine": machine(self.loop),
            "packages": packages(self.known),
            "contenders": list(self.contenders),
            "left_out": list(self.left_out),
            "rows": rows,
            "notes": self.notes,
            "missed": [row.work for row in self.missed],
        }
        return json.dumps(document, indent=2, ensure_ascii=False)

    def finish(self, options: argparse.Namespace) -> int:
        """Print the report as the options of `add_options` ask for it; return the exit status."""
        print(self.as_json() if options.json else self)
        return 1 if options.strict and self.missed else 0

    def _table(self) -> list[str]:
        head = ["work", "unit", *self.contenders, "measured", "target", "verdict"]
        lines = [[row.work, row.unit, *self._numbers(row), *_judgement(row)] for row in self.rows]
        widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
        numeric = range(2, 2 + len(self.contenders))
        rule = [
            "-" * (width - 1) + ":" if i in numeric else "-" * width
            for i, width in enumerate(widths)
        ]

        def padded(line: Sequence[str]) -> str:
            cells = [
                text.rjust(width) if i in numeric else text.ljust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            return f"| {' | '.join(cells)} |"

        return [padded(head), padded(rule), *map(padded, lines)]

    def _numbers(self, row: Row) -> list[str]:
        found = [row.cells.get(name) for name in self.contenders]
        return [
            "-" if cell is None else f"{cell.mark}{cell.value:,.{row.digits}f}" for cell in found
        ]

    def _remarks(self) -> list[str]:
        said: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            for name, cell in row.cells.items():
                if cell.remark:
                    said.setdefault((name, cell.remark), []).append(row.work)
        return [
            f"{name} {remark}: {works[0]}" + (f" and {len(works) - 1} more" if works[1:] else "")
            for (name, remark), works in said.items()
        ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark's command the options that all of them share."""
    parser.add_argument("--json", action="store_true", help="print JSON with every sample")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])


def _judgement(row: Row) -> list[str]:
    if row.verdict is None:
        return ["", "", ""]
    return [row.verdict.measured, row.verdict.target, row.verdict.text]
