"""The package as it is once installed, as a folder of links to the files of the working tree.

``attacks/``, ``datasets/`` and ``defenses/`` stand beside ``bench/`` and are installed under it. Tools that read source
text, as mypy and the documentation do, find them only there, and do not follow an editable install. Which file goes
where is setuptools' own answer, so nothing here changes when packages are added or moved.

Run: ``python tools/package_tree.py FOLDER`` and read ``FOLDER``; what it held is replaced.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

from setuptools import Distribution
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[1]


def modules() -> dict[str, Path]:
    """Every module of the package: ``{bench.attacks.pgd: .../attacks/pgd.py}``; packages have their ``__init__``."""
    with contextlib.chdir(ROOT):  # setuptools reads the project it stands in
        distribution = Distribution({"script_name": "setup.py"})
        distribution.parse_config_files()
        command = build_py(distribution)
        command.ensure_finalized()
        return {f"{package}.{name}": ROOT / file for package, name, file in command.find_all_modules()}


def main(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    for name, file in modules().items():
        link = folder.joinpath(*name.split(".")).with_suffix(".py")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
