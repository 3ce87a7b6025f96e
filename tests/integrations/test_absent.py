"""An integration without its framework."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "package", "requirement"),
    [
        ("strawberry", "graphql", "strawberry-graphql >= 0.334"),
        ("fastapi", "fastapi", "fastapi >= 0.118"),
        ("django", "django.http", "django >= 4.2"),
    ],
)
def test_the_error_says_what_to_install(
    name: str, package: str, requirement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing it where the framework is absent names the extra."""
    module = f"dataloader_cache.integrations.{name}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ImportError) as caught:
        importlib.import_module(module)

    assert (
        f"{module} needs {requirement}; install it with: pip install 'dataloader-cache[{name}]'"
    ) == str(caught.value)
