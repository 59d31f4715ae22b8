"""Finds the pages of the documentation site (hooks of MkDocs, see ``mkdocs.yml``).

The site has the repository's own layout, so relative links that work where the repository is browsed work in it too:
the README is its home, the guides stay under ``docs/``, and any other file that a page links to comes along. The
reference has a page for each public module of the package; a link to a module's file leads there.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
TREE = ROOT / "build" / "package"
PACKAGE = "bench"
BESIDE = ("leaderboard.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")

# The target of a Markdown link or picture that is relative, without its anchor.
_TARGET = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])[^)#\s]+")

_reference: dict[str, str] = {}
"""Pages of the reference by the file of their module, both relative to the root."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lays out the package where mkdocstrings looks for it."""
    subprocess.run([sys.executable, str(ROOT / "tools" / "package_tree.py"), str(TREE)], check=True)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of ``docs/`` by those of the whole site, and writes the navigation."""
    guides = []
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
        if file.is_documentation_page():
            guides.append(f"docs/{file.src_uri}")
    public = {}
    for link in sorted(TREE.rglob("*.py")):
        name = ".".join(link.relative_to(TREE).with_suffix("").parts).removesuffix(".__init__")
        if not any(part.startswith("_") for part in name.split(".")):
            public[name] = link.resolve().relative_to(ROOT).as_posix()
    _reference.clear()
    for name, path in public.items():
        place = name.replace(".", "/") + ("/index.md" if path.endswith("/__init__.py") else ".md")
        _reference[path] = f"reference/{place}"
        text = f"---\ntitle: {name}\n---\n\n::: {name}\n"
        files.append(File.generated(config, _reference[path], content=text))
    for path in _with_linked("README.md", *guides, *BESIDE):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    config.nav = [
        {"Home": "README.md"},
        {"Guides": sorted(guides)},
        *BESIDE,
        {"Reference": _chapter(PACKAGE, {name: _reference[path] for name, path in public.items()})},
    ]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to the files of modules into links to their pages of the reference."""
    here = posixpath.dirname(page.file.src_uri)

    def lead(match: re.Match[str]) -> str:
        found = _reference.get(_resolved(here, match[0]))
        return posixpath.relpath(found, here or ".") if found else match[0]

    return _TARGET.sub(lead, markdown)


def _resolved(folder: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(folder, target))


def _with_linked(*pages: str) -> Iterator[str]:
    """The pages, and every other file of the repository that they link to, directly or by way of a page."""
    left, seen = list(pages), set(pages)
    while left:
        path = left.pop(0)
        yield path
        if not path.endswith(".md"):
            continue
        for target in _TARGET.findall((ROOT / path).read_text(encoding="utf-8")):
            found = _resolved(posixpath.dirname(path), target)
            inside = not found.startswith("..") and (ROOT / found).is_file()
            if inside and found not in seen and found not in _reference:
                seen.add(found)
                left.append(found)


def _chapter(package: str, pages: dict[str, str]) -> Sequence[Any]:
    """Navigation of a package: its own page, its modules, then the packages in it."""
    inside = [name for name in pages if name.rpartition(".")[0] == package]
    inside.sort(key=lambda name: (pages[name].endswith("/index.md"), name))
    return [pages[package]] + [
        {name.rpartition(".")[2]: _chapter(name, pages) if pages[name].endswith("/index.md") else pages[name]}
        for name in inside
    ]
