"""The tree that mypy and the documentation read: every module of the package, where Python would import it from."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("attacks", "bench", "datasets", "defenses", "results/reported")


def test_the_tree_is_the_installed_package(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bench").mkdir(parents=True)
    (tree / "bench" / "gone.py").touch()  # of an earlier tree
    subprocess.run([sys.executable, str(ROOT / "tools" / "package_tree.py"), str(tree)], check=True, cwd=tmp_path)
    found = sorted(tree.rglob("*.py"))
    assert {file.resolve() for file in found} == {file for name in FOLDERS for file in (ROOT / name).rglob("*.py")}
    for file in found:
        name = ".".join(file.relative_to(tree).with_suffix("").parts).removesuffix(".__init__")
        spec = importlib.util.find_spec(name)
        assert spec is not None, name
        assert spec.origin is not None, name
        assert Path(spec.origin).read_bytes() == file.read_bytes()
