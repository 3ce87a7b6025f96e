"""The README: its programs run and print what it says, and what it points to exists."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# ```python, with what may stand around it: what it needs and continues, and what it prints.
PROGRAM = re.compile(
    r"(?:^<!-- (?P<notes>[^>]*) -->\n)?"
    r"^```python\n(?P<code>.*?)^```\n"
    r"(?:\n(?:It prints\n\n)?```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)

# After the server of the README, since a server that runs for ever is no test: two requests to it.
TWO_REQUESTS = """
async def ask_twice() -> None:
    import httpx

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(2):
            answer = await client.post("/", json={"query": "{ books { author { name } } }"})
            print(answer.json()["data"]["books"][0])


asyncio.run(ask_twice())
"""

# Each row of "What happens when…", and the tests that hold it.
PINNED = {
    "two callers load one key at the same time": [
        "test_w1_pending_callers_hold_different_futures",
        "test_a_load_of_a_key_in_the_open_batch_is_a_join",
    ],
    "one of them times out or is cancelled": [
        "test_w1_a_caller_that_times_out_touches_no_other",
        "test_w1_cancelling_one_caller_of_a_running_batch_touches_no_other",
    ],
    "all callers of a key leave before its batch does": [
        "test_w2_a_key_whose_caller_left_before_dispatch_is_not_asked_for",
        "test_w2_a_batch_with_no_key_left_is_not_sent",
    ],
    "all callers of a running batch leave": [
        "test_w2_a_running_batch_without_waiters_is_cancelled"
    ],
    "more than `max_batch_size` keys are loaded": [
        "test_d3_a_full_batch_leaves_at_once",
        "test_d3_a_full_batch_is_followed_by_the_next",
    ],
    "the batch function raises": [
        "test_r4_every_key_gets_the_error_of_the_batch",
        "test_r4_a_failure_is_not_remembered",
    ],
    "an exception stands in a value's place": [
        "test_r2_an_exception_in_a_keys_place_is_that_keys_error",
        "test_r2_a_keys_error_is_not_remembered",
        "test_r2_a_keys_error_is_remembered_with_cache_errors",
    ],
    "the batch function returns `None`, a `str`, a set, a generator or a wrong number of values": [
        "test_r1_any_other_shape_is_a_batch_result_error",
        "test_r1_a_wrong_length_is_a_batch_result_error",
        "test_r1_nothing_of_a_wrong_result_is_remembered",
    ],
    "a mapping lacks a key": [
        "test_r3_a_missing_key_that_is_none_is_remembered",
        "test_r3_missing_raise_is_a_key_not_found_error_for_that_key_only",
    ],
    "a mapping has none of the keys, and its own are of another type": [
        "test_r1_a_mapping_by_keys_of_another_type_is_an_error"
    ],
    "the batch function raises `CancelledError`": [
        "test_r4_a_cancelled_error_of_the_batch_function_becomes_load_cancelled_error"
    ],
    "Ctrl-C or `SystemExit` comes in a batch function": [
        "test_r4_an_interrupt_settles_the_waiters_and_propagates"
    ],
    "a batch takes longer than `load_timeout`": [
        "test_w3_load_timeout_settles_the_waiters",
        "test_w3_a_batch_function_that_swallows_its_timeout_delays_nobody",
    ],
    "a batch function loads a key of its own batch": [
        "test_w4_a_batch_function_that_loads_its_own_key_is_told",
        "test_w4_the_error_comes_at_once",
        "test_w4_a_circle_of_two_loaders_is_told",
    ],
    "a batch function loads other keys, from its own loader or another": [
        "test_w4_recursion_over_other_keys_works",
        "test_d6_a_tree_of_parents_is_walked_with_a_limit_of_one",
        "test_d6_a_batch_function_may_use_a_loader_of_the_same_limiter",
    ],
    "a key is cleared while it is being loaded": [
        "test_m1_those_already_waiting_get_the_old_flights_result",
        "test_m2_an_old_flight_stores_nothing_after_a_clear",
    ],
    "a key is primed that has a value": [
        "test_m3_prime_keeps_an_existing_value",
        "test_m3_prime_by_force_replaces_an_existing_value",
    ],
    "a key is primed that waits in the open batch": [
        "test_m3_priming_a_key_of_an_open_batch_settles_its_waiters"
    ],
    "a key is primed whose batch is running": ["test_m3_priming_a_running_key_serves_later_loads"],
    "a key that is known is loaded while a batch is open": [
        "test_d5_a_hit_waits_for_the_open_batch_of_its_loader",
        "test_d5_a_hit_with_no_open_batch_is_done",
    ],
    "a key is `None`, or is not hashable": [
        "test_m4_none_is_no_key",
        "test_m4_an_unhashable_key_is_a_type_error",
    ],
    "one key of a `load_many` is such a key": [
        "test_m4_load_many_checks_all_keys_before_it_queues_any"
    ],
    "some keys of a `load_many` fail": [
        "test_m5_load_many_raises_the_first_error_in_key_order",
        "test_m5_load_many_raises_after_all_keys_have_settled",
    ],
    "`load` is called where no event loop runs, or on a second one": [
        "test_w6_a_load_outside_a_loop_says_what_to_do",
        "test_w6_a_second_loop_is_a_loop_error",
    ],
    "a batch fails and nobody awaits it": [
        "test_w5_a_failed_batch_that_nobody_awaits_makes_at_most_one_report"
    ],
    "the loader is dropped while a batch runs": [
        "test_w3_a_loader_that_nobody_holds_finishes_its_running_batch"
    ],
    "`asyncio.run` ends while a batch runs": ["test_w3_a_loop_that_ends_settles_every_waiter"],
    "the loader is closed with `aclose`": [
        "test_w3_aclose_settles_the_waiters_of_a_running_batch",
        "test_w3_a_load_after_aclose_is_a_loader_closed_error",
    ],
    "callers with different context variables share a batch": [
        "test_d7_callers_of_two_tenants_share_a_batch_without_a_leak"
    ],
    "a factory is used where no scope is open": [
        "test_o2_loading_outside_a_scope_says_how_to_open_one",
        "test_o2_every_method_needs_a_scope",
    ],
    "a task outlives its scope": [
        "test_o2_loading_in_a_closed_scope_says_that_it_was_closed",
        "test_o2_a_task_that_outlives_the_scope_may_open_its_own",
    ],
    "a scope ends while its loads run": [
        "test_o3_closing_cancels_a_running_batch",
        "test_o3_closing_settles_the_waiters_of_an_open_batch",
        "test_o3_a_shared_load_that_nobody_waits_for_is_kept",
    ],
    "two requests load the same key": [
        "test_o3_scopes_do_not_share_what_they_load",
        "test_o5_a_load_in_progress_is_joined_by_other_requests",
        "test_o5_a_fresh_scope_finds_what_another_has_loaded",
    ],
    "two tenants load the same key of a shared factory": [
        "test_o5_results_of_different_tenants_never_meet",
        "test_o5_batches_of_different_tenants_never_mix",
        "test_o5_flights_of_other_tenants_are_not_joined",
    ],
    "a shared load fails, or is denied": [
        "test_o5_a_failed_batch_is_not_remembered",
        "test_o5_a_denial_is_not_remembered",
    ],
    "a subscription has an event": [
        "test_every_event_reads_afresh",
        "test_what_the_generator_loaded_before_it_waited_is_forgotten",
    ],
    "a mutation's resolver has ended": [
        "test_the_payload_reads_what_the_mutation_wrote",
        "test_a_resolver_that_raises_is_one_that_wrote",
    ],
}

# Each row of "Wire it up", and the tests that use that line, over a real transport if it has one.
WIRED = {
    "Strawberry, on any server": ("test_strawberry_transports.py", "test_a_request_reads_afresh"),
    "Starlette, FastAPI": ("test_asgi.py", "test_each_request_reads_afresh"),
    "Litestar": ("test_asgi.py", "test_each_request_reads_afresh"),
    "Quart": ("test_asgi.py", "test_each_request_reads_afresh"),
    "one endpoint of FastAPI": ("test_fastapi.py", "test_an_endpoint_loads_in_batches"),
    "Django, async views": ("test_django.py", "test_an_async_view_loads_in_batches"),
    "anything else": ("test_scope.py", "test_the_context_is_the_second_parameter"),
    "events, anywhere": ("test_per_event.py", "test_every_event_is_read_fresh"),
}


@dataclass(frozen=True)
class Program:
    """One program of the README, with the blocks that it continues."""

    line: int
    code: str
    output: str | None
    needs: tuple[str, ...]

    @property
    def is_a_test_file(self) -> bool:
        return re.search(r"^def test_", self.code, re.MULTILINE) is not None


def read_programs(text: str) -> list[Program]:
    programs: list[Program] = []
    for found in PROGRAM.finditer(text):
        notes = [note.strip() for note in (found["notes"] or "").split(";")]
        needs = [note.removeprefix("needs:") for note in notes if note.startswith("needs:")]
        code = found["code"]
        if "continues" in notes:
            code = programs[-1].code + code
        names = tuple(name.strip() for name in ",".join(needs).split(",") if name.strip())
        line = text.count("\n", 0, found.start("code")) + 1
        programs.append(Program(line, code, found["output"], names))
    return programs


PROGRAMS = read_programs(README)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a reader would, in a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


async def rows_for(keys: list[int]) -> list[int]:
    return keys


def anchor(heading: str) -> str:
    """Give the fragment by which a heading is linked to."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def rows(heading: str) -> list[str]:
    """Give the first cells of the table under a heading."""
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\| *(.*?) *\|", section, re.MULTILINE)
    return [cell for cell in cells if cell.strip("-:")]


@pytest.mark.parametrize(
    "program", [pytest.param(program, id=f"line{program.line}") for program in PROGRAMS]
)
def test_every_program_of_the_readme_runs(program: Program, tmp_path: Path):
    """A program that is copied from the README runs, and prints what the README says."""
    for name in program.needs:
        pytest.importorskip(name)
    file = tmp_path / "test_program.py"
    file.write_text(program.code, encoding="utf-8")
    if program.is_a_test_file:
        # The plugin would warn that nothing is set for it, which is about this folder only.
        plugins = ("-p", "no:asyncio", "-p", "no:cacheprovider")
        done = run(tmp_path, "-m", "pytest", *plugins, "-q", str(file))
    else:
        done = run(tmp_path, "-W", "error", str(file))

    assert (0, "") == (done.returncode, done.stderr), done.stdout
    if program.output is not None:
        assert program.output == done.stdout


def test_the_server_of_the_readme_makes_loaders_for_each_request(tmp_path: Path):
    """Two requests to the README's server ask twice, each for all authors at once."""
    for name in ("strawberry", "starlette", "httpx"):
        pytest.importorskip(name)
    [program] = [program for program in PROGRAMS if "starlette" in program.needs]
    file = tmp_path / "books.py"
    file.write_text(program.code.replace("__main__", "books") + TWO_REQUESTS, encoding="utf-8")
    done = run(tmp_path, "-W", "error", str(file))

    assert (0, "") == (done.returncode, done.stderr)
    once = "one query for authors [1, 2]\n{'author': {'name': 'Le Guin'}}\n"
    assert 2 * once == done.stdout


def test_the_readme_has_programs():
    """The pattern that finds the programs has found every Python block there is."""
    assert README.count("```python") == len(PROGRAMS) > 3


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "examples/README.md"])
def test_what_is_linked_to_exists(name: str):
    """Every link to a file, and every link to a heading of the same page, has a target."""
    text = (ROOT / name).read_text(encoding="utf-8")
    anchors = {anchor(found) for found in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    folder = (ROOT / name).parent
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            is_there = target[1:] in anchors
        else:
            is_there = "://" in target or (folder / target.split("#")[0]).exists()
        if not is_there:
            broken.append(target)

    assert [] == broken


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "examples/README.md"])
def test_every_make_target_that_is_named_exists(name: str):
    """Whoever types a `make` command of the documentation finds it in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|\$ (?:\S+=\S+ )*)make ([a-z][a-z-]*)", text))

    assert set() == named - targets


def test_every_module_that_is_run_exists():
    """Each `python -m` command of the README names a module of the checkout."""
    missing = []
    for module in re.findall(r"python -m ((?:benchmarks|examples)[\w.]*)", README):
        path = ROOT.joinpath(*module.split("."))
        if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists():
            missing.append(module)

    assert [] == missing


@pytest.mark.loop_kinds("asyncio")
@pytest.mark.parametrize("library", ["dataloader_cache", "strawberry.dataloader"])
async def test_a_lone_key_takes_the_ticks_that_the_readme_says(library: str):
    """The price of the quiet ticks for a lone key is the one that the README names."""
    found = re.search(r"It takes (\d+) ticks[^.]*?`strawberry\.dataloader` takes (\d+)", README)
    assert found is not None
    said = dict(zip(["dataloader_cache", "strawberry.dataloader"], map(int, found.groups())))
    loader = pytest.importorskip(library).DataLoader(rows_for)
    ticks = 0

    async def count() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    assert 1 == await loader.load(1)
    counting.cancel()

    assert said[library] == ticks


def test_every_row_of_what_happens_when_is_held_by_a_test():
    """What the README says happens is what tests say, row by row."""
    functions = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }

    assert list(PINNED) == rows("What happens when…")
    assert [] == [name for names in PINNED.values() for name in names if name not in functions]


def test_every_line_that_wires_a_framework_is_tested():
    """What the README says to write for a framework is what a test writes."""
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}

    assert ["framework", *WIRED] == rows("Wire it up")
    for file, name in WIRED.values():
        assert f"def {name}(" in files[file].read_text(encoding="utf-8")
