"""Let one line say on which Python versions it can run, so that coverage asks for it only there.

`# pragma: py>=3.12` and `# pragma: py<3.12` leave a line, and the block that it opens, out of the
report of every interpreter that the condition excludes. Everywhere else it must be covered.
"""

from __future__ import annotations

import sys

import coverage
from coverage.plugin_support import Plugins
from coverage.types import TConfigurable

NEWEST_MINOR = 30


class VersionPragmas(coverage.CoveragePlugin):
    def configure(self, config: TConfigurable) -> None:
        here = sys.version_info.minor
        newer = "|".join(map(str, range(here + 1, NEWEST_MINOR)))
        not_newer = "|".join(map(str, range(here + 1)))
        self._add(
            config, "report:exclude_lines", rf"# pragma: py(>=3\.({newer})|<3\.({not_newer}))\b"
        )
        # Where the condition holds, its other side never runs.
        self._add(config, "report:partial_branches", r"# pragma: py(>=|<)3\.\d+\b")

    @staticmethod
    def _add(config: TConfigurable, option: str, pattern: str) -> None:
        patterns = config.get_option(option)
        assert isinstance(patterns, list)
        config.set_option(option, [*patterns, pattern])


def coverage_init(registry: Plugins, options: dict[str, str]) -> None:
    registry.add_configurer(VersionPragmas())
