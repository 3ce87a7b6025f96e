"""The command ``python -m benchmarks.torture``; ``--help`` has its options."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.torture._contenders import CACHES, CONTENDERS, OURS
from benchmarks.torture._render import Column, as_markdown, as_text, columns_of
from benchmarks.torture._row import OK, Row
from benchmarks.torture._run import N_A, Job, all_rows, run

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows asked for; return 1 if ours broke in one of them."""
    arguments = _parser().parse_args(argv)
    rows = [row for row in all_rows() if not arguments.only or row.name in arguments.only]
    columns: list[Column] = [*CONTENDERS.values(), *CACHES.values()]
    contenders = [
        each
        for each in columns
        if (not arguments.library or each.name in arguments.library) and _is_there(each)
    ]
    verdicts = _verdicts(rows, contenders, arguments.jobs)
    if arguments.json:
        json.dump(_as_json(rows, contenders, verdicts), sys.stdout, indent=1)
        print()
    elif arguments.markdown is None:
        print("\n".join(as_text(row, contenders, verdicts) for row in rows))
    if arguments.markdown is not None:
        arguments.markdown.write_text(as_markdown(rows, contenders, verdicts), encoding="utf-8")
    return int(
        any(
            verdict not in (OK, N_A) for (_, name), verdict in verdicts.items() if name == OURS.name
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument(
        "--only",
        metavar="ROW",
        action="append",
        choices=[row.name for row in all_rows()],
        help="run this row only; repeatable",
    )
    parser.add_argument(
        "--library",
        metavar="NAME",
        action="append",
        choices=[*dict.fromkeys([*CONTENDERS, *CACHES])],
        help="repeatable",
    )
    parser.add_argument(
        "--markdown", metavar="FILE", type=Path, help="write the page for the documentation"
    )
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    # Most of the time is spent waiting for loads that hang.
    parser.add_argument(
        "--jobs", type=int, default=2 * (os.cpu_count() or 1), help="processes at a time"
    )
    return parser


def _is_there(contender: Column) -> bool:
    if contender.name == OURS.name or contender.version:
        return True
    print(f"left out: {contender.name} is not installed", file=sys.stderr)
    return False


def _verdicts(rows: Sequence[Row], contenders: Sequence[Column], parallel: int) -> dict[Job, str]:
    jobs = [(row.name, contender.name) for row in rows for contender in columns_of(row, contenders)]
    verdicts: dict[Job, str] = {}
    for job, verdict in run(jobs, parallel):
        verdicts[job] = verdict
        if sys.stderr.isatty():
            print(f"\r{len(verdicts)} of {len(jobs)}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return verdicts


def _as_json(
    rows: Sequence[Row], contenders: Sequence[Column], verdicts: dict[Job, str]
) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "versions": {each.name: each.version for each in contenders},
        "rows": [
            {
                "row": row.name,
                "group": row.group,
                "did": row.did,
                "verdicts": {
                    each.name: verdicts[row.name, each.name] for each in columns_of(row, contenders)
                },
            }
            for row in rows
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
