"""Run the tests of the core on every CPython from 3.10 up that this machine has.

Looks for `python3.X` on the PATH and in pyenv's folder, and takes the newest of each minor version
that really runs. Each gets an environment of its own under `.venv/`, kept until setup.cfg or
pyproject.toml changes. What is said on the command line goes to pytest.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 10)
PROBE = """
import platform, sys, venv, ensurepip
if platform.python_implementation() == "CPython":
    print(*sys.version_info[:3], sys.version_info.releaselevel)
"""

Version = tuple[int, int, int]


def main(arguments: list[str]) -> int:
    pythons = newest_of_each_minor()
    if not pythons:
        print("found no Python >= 3.10")
        return 1
    for version, python in pythons.items():
        print(f"{dotted(version)}: {python}", flush=True)
    # The installations share a build folder, so one after the other; the tests share nothing.
    ready = {version: prepare(environment(version), python) for version, python in pythons.items()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = dict(
            zip(ready, pool.map(partial(run, arguments), ready, ready.values()), strict=True)
        )
    print("\ntests of the core:")
    for version, outcome in outcomes.items():
        print(f"  Python {dotted(version)}: {outcome}")
    return 0 if set(outcomes.values()) == {"passed"} else 1


def newest_of_each_minor() -> dict[Version, Path]:
    found: dict[tuple[int, int], tuple[Version, Path]] = {}
    for python in dict.fromkeys(candidates()):
        version = probe(python)
        if version is None or version < OLDEST:
            continue
        minor = version[:2]
        if minor not in found or found[minor][0] < version:
            found[minor] = (version, python)
    return dict(sorted(found.values()))


def candidates() -> Iterator[Path]:
    yield Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from pyenv.glob("versions/3.*/bin/python3.*")
    for folder in os.get_exec_path():
        yield from Path(folder).glob("python3.*")


def probe(python: Path) -> Version | None:
    """Give the version of an interpreter that runs, is a released CPython and can make a venv."""
    if not python.name.removeprefix("python3.").isdigit() and python != Path(sys.executable):
        return None
    try:
        # A shim of pyenv is there for every version and runs only for the chosen ones.
        answer = subprocess.run(
            [python, "-c", PROBE], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    major, minor, micro, level = [*answer.stdout.split(), *[""] * 4][:4]
    return (int(major), int(minor), int(micro)) if level == "final" else None


def run(arguments: list[str], version: Version, ready: bool) -> str:
    if not ready:
        return "could not install what the tests need"
    command = [environment(version) / "bin" / "python", "-m", "pytest", "-q", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(f"\n=== Python {dotted(version)} ===\n{done.stdout}", flush=True)
    return "passed" if done.returncode == 0 else "FAILED"


def environment(version: Version) -> Path:
    return ROOT / ".venv" / dotted(version) / "core"


def prepare(folder: Path, python: Path) -> bool:
    ready = folder / ".ready"
    settings = [ROOT / "setup.cfg", ROOT / "pyproject.toml"]
    if ready.exists() and all(ready.stat().st_mtime > file.stat().st_mtime for file in settings):
        return True
    print(f"Making the environment {folder.relative_to(ROOT)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    if not (
        install(folder, "--editable", ".[test]")
        # uvloop has no wheel for a new Python at first; its tests are skipped there.
        or install(folder, "--editable", ".", *requirements_without("uvloop"))
    ):
        return False
    ready.touch()
    return True


def install(folder: Path, *what: str) -> bool:
    command = [folder / "bin" / "python", "-m", "pip", "install", "-qq", *what]
    variables = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode == 0


def requirements_without(name: str) -> list[str]:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = settings["options.extras_require"]["test"].split("\n")
    return [line for line in lines if line and not line.startswith(name)]


def dotted(version: Version) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
