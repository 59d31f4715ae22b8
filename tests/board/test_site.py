"""The pages that are written."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from kit.commands import Answer
from kit.gray import GRAY_GRID
from kit.running import exported

from bench import BenchError
from bench.board.site import _as_script, build

Bench = Callable[..., Answer]

# A name that would be markup, an attribute and the end of a script.
EVIL = """<b onmouseover='x'>"&</script>"""


class Page(HTMLParser):
    """What a page refers to, and what it is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name in ("href", "src") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of a grid whose names are hostile, with clips."""
    folder = tmp_path_factory.mktemp("hostile")
    content = yaml.safe_load(GRAY_GRID)
    content["title"] = EVIL
    content["defenses"][1] = {"name": "kit.gray:Lighten", "label": EVIL}
    (folder / "gray.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    exported(folder / "gray.yaml", folder / "results", keep="all")
    build(folder / "results", folder / "site", clips=2)
    return folder / "site"


def pages(site: Path) -> dict[str, Page]:
    return {p.relative_to(site).as_posix(): Page(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}


def test_every_link_leads_to_a_file_of_the_site(site: Path) -> None:
    found = pages(site)
    assert {name.partition("/")[0] for name in found} == {
        *("index.html", "cost.html", "claims.html", "licences.html", "rows", "clips")
    }
    assert sum(name.startswith("clips/") for name in found) == 4
    for name, page in found.items():
        for link in page.links:
            if link == "data:,":  # no icon, and no request for one
                continue
            assert ":" not in link, f"{name} leaves the site: {link}"
            path = (site / name).parent / link.partition("#")[0]
            assert not link.partition("#")[0] or path.is_file(), f"{name}: {link}"
    reached, to_go = set[str](), ["index.html"]
    while to_go:
        name = to_go.pop()
        if name not in reached:
            reached.add(name)
            links = [((site / name).parent / link.partition("#")[0]).resolve() for link in found[name].links]
            to_go += [p.relative_to(site.resolve()).as_posix() for p in links if p.suffix == ".html"]
    assert reached == set(found)


def test_what_results_say_is_never_markup(site: Path) -> None:
    found = pages(site)
    rows = [page for name, page in found.items() if name.startswith("rows/") and EVIL in page.text]
    assert len(rows) == 1
    assert EVIL in found["index.html"].text
    for page in found.values():
        assert "onmouseover" not in page.attributes
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for data in re.findall(r"<script type=\"application/json\"[^>]*>(.*?)</script>", text, re.DOTALL):
            assert "<" not in data


def test_pages_say_what_was_measured(site: Path) -> None:
    front = (site / "index.html").read_text(encoding="utf-8")
    (row,) = re.findall(r"<tr[^>]*data-kind=\"measured\"[^>]*>(?:(?!</tr>).)*>none</a>.*?</tr>", front, re.DOTALL)
    cells = [
        re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", cell)).strip() for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)
    ]
    # Six clips, right without an attack and wrong under any; Wilson's intervals of 6 and 0 of 6.
    assert cells[3:6] == ["100.0 61–100", "0.0 0–39", "0.0 0–39"]
    assert "95 % interval 0 to 39" in row
    (page,) = (site / "rows").glob("gray--none*")
    text = html.unescape(page.read_text(encoding="utf-8"))
    for command in ("bench run --grid gray", 'bench verify gray --defense "none"', 'bench show "gray:none"'):
        assert command in text


def test_a_site_is_written_anew_and_nothing_else_is_removed(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    build(results, out)
    first = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    (out / "rows" / "old.html").write_text("old", encoding="utf-8")
    build(results, out)
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == first
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BenchError, match="holds something else than a site"):
        build(results, other)
    with pytest.raises(BenchError, match="is a file"):
        build(results, other / "mine.txt")
    assert (other / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_the_command(bench: Bench, results: Path, tmp_path: Path) -> None:
    answer = bench("board", "--results", results, "--out", tmp_path / "site")
    assert answer.code == 0
    assert (tmp_path / "site" / "index.html").is_file()
    assert re.search(r"rows, 2 clips; \d+ files, [\d.]+ MB", " ".join(answer.out.split()))
    answer = bench("board", "--results", tmp_path / "nowhere", "--out", tmp_path / "site")
    assert (answer.code, answer.err.count("Traceback")) == (2, 0)
    assert "There is no results folder" in answer.err


def test_another_form_of_the_table_library_is_refused() -> None:
    assert _as_script("var a=1;export{a as b,a as default};").count("window.DataTable = a") == 1
    with pytest.raises(BenchError, match="in a form that is not known"):
        _as_script("var a=1;module.exports = a;")
