"""What is in the distributions, and that the settings say everything once."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import dataloader_cache

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCE = {".git", ".venv", ".atlas", ".hypothesis", "build", "dist", "__pycache__"}


def settings() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def modules() -> list[str]:
    """Give every module that has to be installed."""
    core = [f"dataloader_cache/{path.name}" for path in (ROOT / "dataloader_cache").glob("*.py")]
    outer = [
        f"dataloader_cache/{path.relative_to(ROOT)}"
        for path in (ROOT / "integrations").glob("*.py")
    ]
    return sorted(path.replace(os.sep, "/") for path in core + outer)


def dotted(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def test_the_changelog_begins_with_the_version() -> None:
    """The newest entry of the changelog is about the version that the package has."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)

    assert dataloader_cache.__version__ == entries[0]


def test_the_version_stands_in_one_place() -> None:
    """The metadata takes the version from the package."""
    assert settings()["metadata"]["version"] == "attr: dataloader_cache.__version__"


def test_every_folder_with_modules_is_listed() -> None:
    """Packages are listed one by one, so a new folder has to be added."""
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "integrations").rglob("*.py")}
    folders |= {
        path.parent.relative_to(ROOT)
        for path in (ROOT / "dataloader_cache").rglob("*.py")
        if "integrations" not in path.parts
    }
    expected = {
        ".".join(folder.parts).replace("integrations", "dataloader_cache.integrations")
        for folder in folders
    }

    assert expected == set(settings()["options"]["packages"].split())


def test_a_development_checkout_finds_the_integrations() -> None:
    """The symlink inside the package leads to the folder at the top."""
    link = ROOT / "dataloader_cache" / "integrations"

    assert os.path.samefile(link, ROOT / "integrations")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution of a copy of the checkout, and the wheel from that."""
    folder = tmp_path_factory.mktemp("build")
    return build(copy_of_checkout(folder))


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    return next(distributions.glob("*.whl"))


def copy_of_checkout(folder: Path) -> Path:
    # A copy, so that what an earlier build left behind is not in the way, nor what this one leaves.
    checkout = folder / "checkout"
    ignore = shutil.ignore_patterns(*NOT_SOURCE, ".*_cache", "*.egg-info")
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=ignore)
    return checkout


def build(checkout: Path, *options: str) -> Path:
    out = checkout.parent / "dist"
    run(sys.executable, "-m", "build", *options, "--outdir", out, checkout)
    return out


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if ".dist-info/" not in name)


@pytest.mark.wheel
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every module and the typing mark are in it; `integrations` is not at its top level."""
    assert sorted([*modules(), "dataloader_cache/py.typed"]) == contents(wheel)


@pytest.mark.wheel
def test_the_source_distribution_holds_what_a_build_needs(distributions: Path) -> None:
    """Settings, licence and modules are in it, those of the integrations where they stand."""
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {
        name.replace("dataloader_cache/integrations/", "integrations/") for name in modules()
    }

    assert set() == {"LICENSE", "README.md", "pyproject.toml", "setup.cfg", *sources} - names


@pytest.mark.wheel
def test_every_module_of_the_installed_wheel_can_be_imported(wheel: Path, tmp_path: Path) -> None:
    """A clean environment far from the checkout needs the wheel, and an extra per integration."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    names = [name.removesuffix(".__init__") for name in map(dotted, modules())]
    core = [name for name in names if not name.startswith("dataloader_cache.integrations.")]

    run(python, "-m", "pip", "install", "--quiet", "--no-index", wheel)
    run(python, "-I", "-W", "error", "-c", f"import {', '.join(core)}", cwd=tmp_path)

    # Each integration has an extra of its own name; what is private is part of one.
    own = (name.rpartition(".")[2] for name in set(names) - set(core))
    extras = sorted(name for name in own if not name.startswith("_"))
    if extras:
        run(python, "-m", "pip", "install", "--quiet", f"{wheel}[{','.join(extras)}]")
        run(python, "-I", "-c", f"import {', '.join(names)}", cwd=tmp_path)

    answer = run(
        python,
        "-I",
        "-c",
        "import dataloader_cache, importlib.metadata, importlib.util\n"
        "print(dataloader_cache.__file__)\n"
        "print(importlib.metadata.version('dataloader-cache'))\n"
        "print(importlib.util.find_spec('integrations'))",
        cwd=tmp_path,
    ).splitlines()
    assert Path(answer[0]).is_relative_to(tmp_path)
    assert [dataloader_cache.__version__, "None"] == answer[1:]


@pytest.mark.wheel
def test_a_checkout_without_symlinks_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """Where git writes the symlink as a text file, what is built is the same."""
    checkout = copy_of_checkout(tmp_path)
    link = checkout / "dataloader_cache" / "integrations"
    target = os.readlink(link)
    link.unlink()
    link.write_text(target)

    other = next(build(checkout, "--wheel").glob("*.whl"))

    assert contents(wheel) == contents(other)
