"""A folder of components that are made up for one test."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from bench.registry import REGISTRIES, Registry

PACKAGE, GROUP = "roost_of_tests", "roost-of-tests.defenses"

PURIFIER = '''
from bench import Purifier, register

@register({name!r})
class {cls}(Purifier):
    """{doc}"""
    def purify(self, clips, rng):
        return clips
'''


class Roost:
    """A folder of components that lives for one test, and a registry of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / PACKAGE
        self.folder.mkdir()
        (self.folder / "__init__.py").touch()
        self.registry = Registry("defense", PACKAGE, GROUP)

    def renew(self) -> Registry:
        """What a new process would see."""
        importlib.invalidate_caches()
        for name in [m for m in sys.modules if m.partition(".")[0] in (PACKAGE, "acme")]:
            del sys.modules[name]
        self.registry = REGISTRIES["defense"] = Registry("defense", PACKAGE, GROUP)
        return self.registry

    def add(self, module: str, name: str, cls: str = "Made", doc: str = "Does nothing.") -> Path:
        path = self.folder / f"{module}.py"
        path.write_text(PURIFIER.format(name=name, cls=cls, doc=doc))
        return path

    def install(self, distribution: str, module: str, code: str, points: dict[str, str]) -> None:
        """Puts a distribution with entry points on the path."""
        (self.root / f"{module}.py").write_text(code)
        info = self.root / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
