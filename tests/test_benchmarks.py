"""The benchmarks: that they run and show every contender, and that what they compute is right."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import per_key, under_load
from benchmarks._measure import (
    Samples,
    against_fastest,
    in_fresh_loop,
    interleave,
    loop_factory,
    percentile,
    ratio,
)
from benchmarks._peers import ADAPTERS, OURS, Adapter, installed
from benchmarks._report import Cell, Report, Row, Verdict

ROOT = Path(__file__).parents[1]

has_graphql = pytest.mark.skipif(
    find_spec("graphql") is None, reason="graphql-core is not installed"
)

has_strawberry = pytest.mark.skipif(
    find_spec("strawberry") is None, reason="strawberry-graphql is not installed"
)

TINY_PER_KEY = "per_key.Settings(rounds=1, keys=20, cancelled=16, single_batches=2)"
TINY_UNDER_LOAD = (
    "under_load.Settings(rounds=1, requests=1, rates=(40,), seconds=0.2, grace=0.2, clients=2)"
)

TINY_SCOPES = "scopes.Settings(rounds=1, calls=10)"
TINY_CACHES = (
    "(per_hit.Settings(rounds=1, calls=10, callers=5),"
    " hit_ratio.Settings(requests=200, keys=20, shares=(0.1,)),"
    " memory.Settings(entries=20, peers=False))"
)


def run_command(*arguments: str) -> str:
    answer = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "" == answer.stderr
    assert 0 == answer.returncode
    return answer.stdout


def run_code(code: str) -> str:
    modules = "__main__ as everything, hit_ratio, memory, per_hit, per_key, scopes, under_load"
    head = f"import sys\nfrom benchmarks import {modules}\n"
    return run_command("-c", head + code)


def contenders() -> list[str]:
    return [adapter.name for adapter in installed()[0]]


def samples(*seconds: float) -> Samples:
    return Samples(list(seconds))


# -- the commands


def test_per_key_prints_every_contender_and_the_machine() -> None:
    """`python -m benchmarks.per_key` shows all contenders in all rows, machine and versions."""
    text = run_command(
        *["-m", "benchmarks.per_key", "--rounds", "2", "--keys", "20", "--cancelled", "16"]
    )

    lines = text.splitlines()
    assert lines[0].startswith("machine: ")
    assert lines[1].startswith("packages: ")
    head, _, *rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    assert contenders() == [name.strip() for name in head[2:-3]]
    assert 7 + 12 + 6 == len(rows)
    for row in rows:
        numbers = [cell.strip() for cell in row[2 : 2 + len(contenders())]]
        assert "-" not in numbers, row


def test_per_key_gives_json_with_every_sample() -> None:
    """`--json` holds the machine, the versions and each contender's samples of each row."""
    document = json.loads(
        run_command(
            *["-m", "benchmarks.per_key", "--json", "--rounds", "3", "--keys", "20"],
            *["--only", "gather"],
        )
    )

    assert {"cpu", "cores", "os", "python", "loop", "load"} == set(document["machine"])
    assert {adapter.distribution for adapter in ADAPTERS} < set(document["packages"])
    assert ["gather(*map(load, 20 keys))", "gather of 20 loads of one key"] == [
        row["work"] for row in document["rows"]
    ]
    for row in document["rows"]:
        assert set(contenders()) == set(row["results"])
        for result in row["results"].values():
            assert 3 == len(result["samples"])
            assert statistics.median(result["samples"]) == result["value"]


@has_graphql
def test_under_load_gives_every_contender_at_every_load() -> None:
    """`python -m benchmarks.under_load` has a number for all contenders in all rows."""
    document = json.loads(
        run_code(f"sys.exit(under_load.main(['--quick', '--json'], {TINY_UNDER_LOAD}))")
    )

    assert set(contenders()) == set(document["contenders"])
    assert 4 * 2 + 3 + 5 == len(document["rows"])
    for row in document["rows"]:
        if "40 req/s" not in row["work"] or row["unit"] != "batches per request":
            assert set(contenders()) == set(row["results"]), row["work"]
    for row in document["rows"]:
        if row["unit"] == "batches per request" and "lock" not in row["work"]:
            assert "5, the minimum" == row["verdict"]["target"]


@has_strawberry
def test_fields_of_graphql_are_measured_for_every_contender() -> None:
    """`python -m benchmarks.graphql` answers each query in all ways, with the same answer."""
    document = json.loads(
        run_command(*["-m", "benchmarks.graphql", "--json", "--rounds", "2", "--fields", "20"])
    )

    everyone = {OURS, "load_from", "plain", "graphql-core", "strawberry", "aiodataloader"}
    assert everyone >= set(document["contenders"]) >= {OURS, "load_from", "plain", "graphql-core"}
    assert 2 * 5 == len(document["rows"])
    for row in document["rows"]:
        assert set(document["contenders"]) == set(row["results"])
        assert "≤ 1.15 x plain, ≤ 0.7 x strawberry" == row["verdict"]["target"]


@has_strawberry
def test_all_benchmarks_are_run_by_one_command() -> None:
    """`python -m benchmarks` prints tables of loaders, fields, scopes, caches and policies."""
    text = run_code(
        f"sys.exit(everything.main([], {TINY_PER_KEY}, {TINY_UNDER_LOAD}, {TINY_CACHES},"
        f" {TINY_SCOPES}, fields=20))"
    )

    widths = {len(line) for line in text.splitlines() if line.startswith("|")}
    assert 5 == len(widths)
    assert "hit: await get(key)" in text
    assert "zipf, room for 2" in text
    assert "load_many(20 keys)" in text
    assert "40 req/s" in text
    assert "2 levels: 2 x 10" in text
    assert "open and close a scope" in text
    assert text.splitlines()[-1].startswith("targets: ")


def test_uvloop_is_named_in_the_report() -> None:
    """`--loop uvloop` measures on uvloop and says so."""
    pytest.importorskip("uvloop")
    text = run_command(
        *["-m", "benchmarks.per_key", "--loop", "uvloop", "--rounds", "1", "--keys", "20"],
        *["--only", "load_many(20"],
    )

    assert "; loop uvloop; " in text.splitlines()[0]


# -- what is computed


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A round that is slow for both contenders doesn't change their ratio."""
    assert 0.5 == ratio(samples(1, 2, 30), samples(2, 4, 60)).value
    found = ratio(samples(1, 2, 3, 4, 5), samples(1, 1, 1, 1, 1))
    assert (3, 2, 4) == (found.value, found.low, found.high)
    assert "3.00 (2.00-4.00)" == str(found)


def test_a_ratio_of_one_round_is_that_rounds() -> None:
    """With one round there is no spread to show."""
    assert "0.25 (0.25-0.25)" == str(ratio(samples(1), samples(4)))


def test_a_ratio_leaves_out_the_rounds_that_a_contender_sat_out() -> None:
    """A contender whose budget was used up is compared in the rounds that it took part in."""
    assert 0.1 == ratio(samples(1, 1, 7), samples(10, 10)).value


def test_the_fastest_is_found_round_by_round() -> None:
    """One lucky round makes nobody the fastest, and who was not measured doesn't count."""
    results = {
        "ours": samples(2, 4, 8),
        "lucky": samples(3, 6, 1),
        "fast": samples(1, 2, 4),
        "cache": samples(0.1, 0.1, 0.1),
        "absent": Samples(),
    }

    found = against_fastest(results, "ours", ("lucky", "fast", "absent", "unknown"))
    assert found is not None
    assert ("fast", 2.0) == (found[0], found[1].value)
    assert against_fastest(results, "ours", ("absent", "unknown")) is None


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1), (0.501, 51)]
)
def test_percentiles_are_values_that_occurred(share: float, expected: int) -> None:
    """A percentile is the smallest value that this share of the values doesn't exceed."""
    assert expected == percentile(list(range(100, 0, -1)), share)


def test_rounds_are_interleaved_in_changing_order() -> None:
    """Nobody is always first, and nobody always follows the same contender."""
    order: list[str] = []

    def sample(name: str) -> tuple[float, str]:
        order.append(name)
        return 1.0, ""

    results = interleave(["a", "b", "c"], sample, rounds=20, budget=30)

    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert 1 + 20 == len(rounds)
    assert {"abc", "acb", "bac", "bca", "cab", "cba"} == set(rounds)
    assert [1.0] * 20 == results["b"].seconds


def test_a_slow_contender_sits_out_when_its_budget_is_used_up() -> None:
    """A quadratic contender can't take minutes, and the others get all their rounds."""
    results = interleave(
        ["slow", "fast"],
        lambda name: (2.0, "is slow") if name == "slow" else (0.1, ""),
        rounds=5,
        budget=3.0,
    )

    assert ([2.0, 2.0], "is slow") == (results["slow"].seconds, results["slow"].remark)
    assert [0.1] * 5 == results["fast"].seconds


def test_a_loop_is_left_clean_whatever_a_contender_leaves_behind() -> None:
    """Tasks that a contender leaves are ended before its loop is closed."""
    left: list[asyncio.Task[None]] = []

    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    async def failing() -> None:
        raise ValueError

    async def work() -> int:
        left.extend(asyncio.ensure_future(one()) for one in (forever, failing))
        await asyncio.sleep(0)
        return 7

    assert 7 == in_fresh_loop(loop_factory("asyncio"), work)
    assert [True, True] == [task.done() for task in left]


def per_key_verdict(case: str, **results: Samples) -> Verdict:
    [found] = [one for one in per_key._cases(per_key.Settings()) if case in one.work]
    verdict = per_key._verdict(found, results)
    assert verdict is not None
    return verdict


def test_a_gather_is_judged_against_the_fastest_loader() -> None:
    """A cache that batches is no loader, however fast it is."""
    results = {"aiodataloader": samples(2, 2), "dloader": samples(1, 1)}

    verdict = per_key_verdict("gather(*map", ours=samples(1, 1), **results)
    assert ("≤ 1 x the fastest loader", "met") == (verdict.target, verdict.text)
    assert "1.00 (1.00-1.00) x dloader" == verdict.measured
    verdict = per_key_verdict("gather(*map", ours=samples(1.1, 1.1), **results)
    assert "NOT met" == verdict.text
    verdict = per_key_verdict("gather(*map", ours=samples(9), **{"async-cache": samples(1)})
    assert ("-", "-") == (verdict.measured, verdict.text)


def test_load_many_is_judged_at_a_quarter() -> None:
    """`load_many` must cost a quarter of what the fastest loader's costs."""
    peers = {"strawberry": samples(4)}

    assert "met" == per_key_verdict("load_many(10", ours=samples(1), **peers).text
    assert "NOT met" == per_key_verdict("load_many(10", ours=samples(1.01), **peers).text


def test_a_hit_is_judged_against_aiodataloader_only() -> None:
    """A hit is compared with aiodataloader's, also where another loader is faster."""
    peers = {"aiodataloader": samples(10), "strawberry": samples(1)}

    verdict = per_key_verdict("hit: ", ours=samples(12), **peers)
    assert ("≤ 1.2 x aiodataloader", "met") == (verdict.target, verdict.text)
    assert "NOT met" == per_key_verdict("hit: ", ours=samples(12.1), **peers).text


def test_without_ours_nothing_is_judged() -> None:
    """The peers can be measured alone."""
    [case] = [one for one in per_key._cases(per_key.Settings()) if "hit: " in one.work]

    assert per_key._verdict(case, {"aiodataloader": samples(1)}) is None


@pytest.mark.parametrize(
    ("whole", "quarter", "limit", "ticks", "expected"),
    [
        (0.020, 0.005, 0.030, 0.0, "met"),
        (0.031, 0.008, 0.030, 0.0, "NOT met"),
        (0.031, 0.008, 0.030, 0.020, "met"),
        (0.020, 0.00125, 0.030, 0.0, "NOT met"),
        (0.0008, 0.00005, 0.030, 0.0, "met"),
    ],
    ids=["linear", "too slow", "ticks allowed for", "quadratic", "too short to tell"],
)
def test_cancelling_must_be_linear_and_quick(
    whole: float, quarter: float, limit: float, ticks: float, expected: str
) -> None:
    """Four times the loads may not take sixteen times the time, nor more than the limit."""
    verdict = per_key._cancelled_verdict(samples(whole), samples(quarter), limit, ticks)

    assert expected == verdict.text


def test_the_limit_of_cancelling_moves_with_the_machine() -> None:
    """30 ms are for a machine on which strawberry takes 1.8 s; other sizes count per load."""
    fifo = per_key._Cancelling(True, False, "FIFO", False)
    measured = {fifo: {"strawberry": samples(3.6)}}

    assert pytest.approx(0.060) == per_key._limit(measured, per_key.Settings())
    assert pytest.approx(0.030) == per_key._limit({}, per_key.Settings())
    assert pytest.approx(0.003) == per_key._limit(measured, per_key.Settings(cancelled=800))


def test_arrivals_are_random_seeded_and_at_the_rate() -> None:
    """All contenders get the same arrivals, as many per second as asked for."""
    moments = under_load.arrivals(90, 100.0, seed=1)

    assert moments == under_load.arrivals(90, 100.0, seed=1)
    assert moments != under_load.arrivals(90, 100.0, seed=2)
    assert 8500 < len(moments) < 9500
    assert sorted(moments) == moments
    assert moments[-1] < 100.0
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert pytest.approx(1 / 90, rel=0.05) == statistics.stdev(gaps)


def batches_row(*batches: int, errors: int = 0, has_target: bool = True) -> Row:
    pytest.importorskip("graphql")
    answers = under_load.Answers(batches=list(batches), errors=errors)
    return under_load._batches_row("work", {OURS: [answers]}, has_target=has_target)


@pytest.mark.parametrize(
    ("batches", "errors", "expected"),
    [((5, 5, 5), 0, "met"), ((5, 6), 0, "NOT met"), ((5, 5), 1, "NOT met")],
    ids=["the minimum", "more", "an error"],
)
def test_the_minimum_of_batches_is_five(
    batches: tuple[int, ...], errors: int, expected: str
) -> None:
    """Ours takes five batches per request, and answers every one."""
    row = batches_row(*batches, errors=errors)

    assert row.verdict is not None
    assert expected == row.verdict.text
    assert statistics.fmean(batches) == row.cells[OURS].value


def test_a_scenario_without_target_is_not_judged() -> None:
    """Siblings that take turns at a lock are shown and not judged."""
    verdict = batches_row(5, 9, has_target=False).verdict

    assert verdict is not None
    assert ("1 of 2 requests took more", "-") == (verdict.measured, verdict.text)


def test_a_percentile_is_marked_where_the_cut_off_hides_it() -> None:
    """A request that was cut off took at least as long as it waited."""
    answers = under_load.Answers(seconds=[0.010, 0.020], waited=[2.0])

    median = under_load._percentile_row("work", {OURS: [answers]}, 0.5).cells[OURS]
    assert (20, "") == (median.value, median.mark)
    highest = under_load._percentile_row("work", {OURS: [answers]}, 0.99).cells[OURS]
    assert (2000, "≥") == (highest.value, highest.mark)


@has_graphql
def test_requests_that_get_no_answer_are_cut_off() -> None:
    """A contender that hangs is counted, and the next one gets its turn."""

    async def hang(number: int) -> int:
        if number % 2:
            await asyncio.get_running_loop().create_future()
        return 5

    answers = in_fresh_loop(
        loop_factory("asyncio"),
        lambda: under_load._random_arrivals(hang, [0.0, 0.001, 0.002, 0.003], 0.01, 0.02),
    )

    assert [5, 5] == answers.batches
    assert 2 == len(answers.waited)
    assert all(waited > 0.01 for waited in answers.waited)


def perfect_loader(batch_function: Any) -> Any:
    """Gather for 50 ticks: no sibling of the schema comes later than that."""

    class Loader:
        def __init__(self) -> None:
            self.waiting: dict[int, asyncio.Future[Any]] = {}
            self.tasks: list[asyncio.Task[None]] = []

        def load(self, key: int) -> asyncio.Future[Any]:
            if not self.waiting:
                self.tasks.append(asyncio.ensure_future(self.leave()))
            return self.waiting.setdefault(key, asyncio.get_running_loop().create_future())

        def load_many(self, keys: Any) -> Any:
            return asyncio.gather(*map(self.load, keys))

        async def leave(self) -> None:
            for _ in range(50):
                await asyncio.sleep(0)
            waiting, self.waiting = self.waiting, {}
            values = await batch_function(list(waiting))
            for waiter, value in zip(waiting.values(), values, strict=True):
                waiter.set_result(value)

    return Loader()


@has_graphql
def test_five_batches_are_enough_in_every_scenario() -> None:
    """With a window that no sibling misses, every request of every scenario takes five."""
    from benchmarks._schema import MINIMUM_BATCHES, SCENARIOS, Request

    async def work() -> list[int]:
        requests = [
            Request(perfect_loader, scenario, seed, 0.0)
            for scenario in SCENARIOS
            for seed in range(5)
        ]
        return list(await asyncio.gather(*[request.execute() for request in requests]))

    assert {MINIMUM_BATCHES} == set(in_fresh_loop(loop_factory("asyncio"), work))


# -- what is shown


def test_a_contender_that_is_not_installed_is_left_out_with_a_line() -> None:
    """A missing library, or a module without the class, costs a line that says why."""
    missing = Adapter("absent", "absent", "no_such_module.DataLoader", perfect_loader)
    without = Adapter("partly", "partly", "asyncio.DataLoader", perfect_loader, needs="luck")

    found, left_out = installed([missing, without])

    assert [] == found
    assert [
        "left out: absent (No module named 'no_such_module')",
        "left out: partly (module 'asyncio' has no attribute 'DataLoader'; it needs luck)",
    ] == left_out


def report() -> Report:
    rows = [
        Row("one", "ms", {OURS: Cell(1234.5), "peer": Cell(2, "≥", (), "is late")}, Verdict("≤ 1")),
        Row("two", "ms", {OURS: Cell(1)}, Verdict("≤ 1", "2.00", False), digits=0),
        Row("three", "ms", {"peer": Cell(3, "", (), "is late")}, Verdict("≤ 1", "1.00", True)),
    ]
    return Report("asyncio", [OURS, "peer"], ["left out: other (why)"], rows, ["A note."])


def test_the_table_is_aligned_markdown() -> None:
    """The report has a row per piece of work, a column per contender, and the verdicts."""
    machine, packages, left_out, _, *rest = str(report()).splitlines()

    assert machine.startswith("machine: ")
    assert packages.startswith("packages: dataloader-cache ")
    assert "left out: other (why)" == left_out
    assert [
        "| work  | unit |     ours |  peer | measured | target | verdict |",
        "| ----- | ---- | -------: | ----: | -------- | ------ | ------- |",
        "| one   | ms   | 1,234.50 | ≥2.00 | -        | ≤ 1    | -       |",
        "| two   | ms   |        1 |     - | 2.00     | ≤ 1    | NOT met |",
        "| three | ms   |        - |  3.00 | 1.00     | ≤ 1    | met     |",
        "",
        "peer is late: one and 1 more",
        "A note.",
        "targets: 1 met, 1 NOT met",
    ] == rest


def test_a_missed_target_changes_the_exit_status_only_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A busy machine can miss a target, so that fails a run only with `--strict`."""
    monkeypatch.setattr(per_key, "measure", lambda *_: report().rows)

    assert 0 == per_key.main([])
    assert 1 == per_key.main(["--strict"])
    capsys.readouterr()
    assert 0 == per_key.main(["--json"])
    assert ["two"] == json.loads(capsys.readouterr().out)["missed"]


def test_scopes_are_measured_with_and_without() -> None:
    """Each way of a row gives a number, and what is without scopes gives one to compare with."""
    command = ["-m", "benchmarks.scopes", "--rounds", "1", "--calls", "10", "--json"]
    document = json.loads(run_command(*command))

    assert ["ours", "without", "resolve hook"] == document["contenders"]
    assert [2, 2, 2, 1, 3] == [len(row["results"]) for row in document["rows"]]
    assert all(0 < each["value"] for row in document["rows"] for each in row["results"].values())
