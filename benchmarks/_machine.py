"""What the numbers were measured on: without it, nobody can compare them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks._peers import ADAPTERS, OURS, Contender, installed, version

__all__ = ["machine", "machine_line", "packages", "packages_line"]

_BESIDE_THE_CONTENDERS = ("graphql-core", "uvloop")


def machine(loop: str) -> dict[str, str | int]:
    """Describe the processor, the system, the interpreter and the event loop."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "loop": loop,
        "load": _load_average(),
    }


def machine_line(loop: str) -> str:
    """Return the machine as one line of the report."""
    facts = machine(loop)
    return (
        f"machine: {facts['cpu']}, {facts['cores']} cores; {facts['os']}; {facts['python']}; "
        f"loop {facts['loop']}; load average {facts['load']}"
    )


def packages(contenders: Iterable[Contender] = ADAPTERS) -> dict[str, str | None]:
    """Return the version of every contender and of what they run on; None is not installed."""
    found: dict[str, str | None] = {}
    for contender in contenders:
        number = version(contender.distribution)
        if number is None and contender.name == OURS and installed([contender])[0]:
            number = "(this checkout)"
        found.setdefault(contender.distribution, number)
    return found | {name: version(name) for name in _BESIDE_THE_CONTENDERS}


def packages_line(contenders: Iterable[Contender] = ADAPTERS) -> str:
    """Return the versions as one line of the report."""
    return "packages: " + ", ".join(
        f"{name} {number or 'not installed'}" for name, number in packages(contenders).items()
    )


def _load_average() -> str:
    """Return how busy the machine was in the last minute; Windows does not say."""
    if sys.platform == "win32":
        return "unknown"
    return f"{os.getloadavg()[0]:.2f}"


def _cpu_model() -> str:
    if platform.system() == "Darwin":
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        return answer.stdout.strip() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        return (
            _model_name(cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines())
            or platform.machine()
        )
    return platform.processor() or platform.machine()


def _model_name(lines: Iterable[str]) -> str | None:
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return None
