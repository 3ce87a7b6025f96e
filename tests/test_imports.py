"""Who may import whom, and that the core needs nothing beyond the standard library."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "dataloader_cache"

# Left never imports right. Modules of one row don't import each other, but for those of the row
# marked so, which may as long as they make no circle.
ORDER = [
    {"errors", "typing"},
    {
        "_arguments",
        "_expiry",
        "_flight",
        "_function",
        "_keys",
        "_pump",
        "_results",
        "_slots",
        "_stats",
        "_store",
    },
    {"_cache", "_batch"},
    {"_loader", "_decorators"},
    {"_scope"},
    {"_sources"},
    {"_factory"},
    {"_declarations"},
    {"_declare"},
    {"__init__"},
]
MAY_MEET = ORDER[1]
# For users' tests: it may import the whole core, and nothing of the core imports it.
ASIDE = {"testing"}
PUBLIC = {"__init__", "errors", "typing", "testing"}

CORE = {path.stem: path for path in sorted((ROOT / PACKAGE).glob("*.py"))}
INTEGRATIONS = {path.stem: path for path in sorted((ROOT / "integrations").glob("*.py"))}


def imported(path: Path, package: str) -> Iterator[str]:
    """Give the full name of every module that the file imports, wherever in it that is.

    `from package import name` gives `package.name`, since the name may be a module.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def core_imports(path: Path, package: str = PACKAGE) -> set[str]:
    """Give the modules of the core that the file imports, without their package's name."""
    found = set()
    for name in imported(path, package):
        parts = name.split(".")
        if parts[0] == PACKAGE:
            below = parts[1] if len(parts) > 1 else ""
            found.add(below if below in CORE or below == "integrations" else "__init__")
    return found


def test_every_module_of_the_core_has_a_place_in_the_order() -> None:
    """A new module is written down in the order before it is used."""
    assert set().union(*ORDER, ASIDE) >= set(CORE)


@pytest.mark.parametrize("module", sorted(set(CORE) - ASIDE))
def test_left_never_imports_right(module: str) -> None:
    """A module of the core imports only what stands to its left."""
    place = next(number for number, row in enumerate(ORDER) if module in row)
    allowed = set().union(*ORDER[:place])
    if ORDER[place] is MAY_MEET:
        allowed |= MAY_MEET

    assert core_imports(CORE[module]) - allowed == set()


def test_modules_that_may_meet_make_no_circle() -> None:
    """Imports between modules of one row can be put in an order too."""
    graph = {module: core_imports(CORE[module]) & MAY_MEET for module in MAY_MEET & set(CORE)}

    TopologicalSorter(graph).prepare()


def test_testing_imports_the_core_only() -> None:
    """What helps users' tests knows no integration."""
    assert core_imports(CORE["testing"]) <= set().union(*ORDER)


@pytest.mark.parametrize("module", sorted(INTEGRATIONS))
def test_integrations_use_public_names_only(module: str) -> None:
    """An integration imports what its users could import too."""
    found = core_imports(INTEGRATIONS[module], f"{PACKAGE}.integrations")

    assert found <= PUBLIC | {"integrations"}


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_imports_the_standard_library_only(module: str) -> None:
    """No module of the core names a third-party package, not even inside a function."""
    roots = {name.split(".")[0] for name in imported(CORE[module], PACKAGE)}

    # Type checkers bring typing_extensions along; at run time nothing imports it, as the next test
    # sees.
    assert roots - sys.stdlib_module_names - {PACKAGE, "typing_extensions"} == set()


def test_importing_the_package_loads_no_third_party_module() -> None:
    """`import dataloader_cache` costs the standard library and nothing else."""
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "before = set(sys.modules)\n"
        f"import {PACKAGE}, {PACKAGE}.errors, {PACKAGE}.typing, {PACKAGE}.testing\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        f"print(*sorted(loaded - sys.stdlib_module_names - {{{PACKAGE!r}}}))\n"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        # Coverage would measure the new process too, and -I hides its plugin.
        env={name: value for name, value in os.environ.items() if "COVERAGE" not in name},
    )

    assert (done.stdout.strip(), done.stderr) == ("", "")


def declared(module: str) -> list[str]:
    """Give `__all__` of a module, which has to be a plain list in its text."""
    for node in ast.parse(CORE[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            value: list[str] = ast.literal_eval(node.value)
            return value
    pytest.fail(f"{module} has no __all__")


def defined(module: str) -> set[str]:
    """Give the names without an underscore that the module defines at its top level.

    For `__init__` these are the names that it imports from its own package.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(CORE[module].read_text(encoding="utf-8"))):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.ImportFrom) and module == "__init__" and node.level:
            names.update(alias.asname or alias.name for alias in node.names)
    at_top = vars(importlib.import_module(full_name(module)))
    return {name for name in names if not name.startswith("_") and name in at_top}


def full_name(module: str) -> str:
    return PACKAGE if module == "__init__" else f"{PACKAGE}.{module}"


@pytest.mark.parametrize("module", sorted(CORE))
def test_all_names_what_is_there(module: str) -> None:
    """Each name of `__all__` exists, once."""
    names = declared(module)
    there = vars(importlib.import_module(full_name(module)))

    assert [] == [name for name in names if name not in there]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("module", sorted(PUBLIC & set(CORE)))
def test_all_names_everything_public(module: str) -> None:
    """A public module hides nothing behind a name that looks public, but for type variables."""
    there = vars(importlib.import_module(full_name(module)))
    public = {name for name in defined(module) if type(there[name]).__name__ != "TypeVar"}

    assert set() == public - set(declared(module))
