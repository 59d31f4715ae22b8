"""The site in a real browser: what is clicked, what plays, and who can read it."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from kit.gray import GRAY_GRID
from kit.running import exported
from PIL import Image

from bench.board.site import build

NEEDED = (
    "asks a browser: pip install playwright axe-playwright-python, and apt-get install chromium, or elsewhere "
    "'playwright install chromium'"
)
FRAME = 1 / 8
# Frames of the clips here.
FRAMES = 16


def lacking(why: str) -> None:
    """Skips, but where a browser is promised."""
    if os.environ.get("BENCH_TEST_BROWSER") == "required":
        pytest.fail(f"{NEEDED} ({why})")
    pytest.skip(NEEDED)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        lacking(str(error))
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found)
        except Error as error:
            lacking(str(error).splitlines()[0])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seen")
    content = yaml.safe_load(GRAY_GRID)
    content["dataset"]["name"] = "kit.gray:Long"
    content["defenses"] = ["none", {"name": "kit.gray:Lighten", "label": "Lighten <b>\"'&"}, "kit.gray:Coin"]
    content["budgets"] = [{"norm": "linf", "size": size, "steps": 2} for size in (0.05, 0.15)]
    (folder / "gray.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    exported(folder / "gray.yaml", folder / "results", keep="all")
    build(folder / "results", folder / "site", clips=1)
    return folder / "site"


class Visit:
    """A page, and what went wrong on it."""

    def __init__(self, browser: Any, width: int = 1440, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        self.wrong: list[str] = []
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda r: self.wrong.append(r.url) if not r.url.startswith(("file:", "data:")) else 0)
        self.page.on("requestfailed", lambda r: self.wrong.append(f"{r.url}: {r.failure}"))

    def go(self, path: Path, fragment: str = "") -> Any:
        self.page.goto(path.as_uri() + fragment)
        return self.page

    def rows(self) -> list[list[str]]:
        """What the front shows, cell by cell."""
        script = "rows => rows.map(r => [...r.cells].map(c => c.innerText.replace(/\\s+/g, ' ').trim()))"
        shown: list[list[str]] = self.page.eval_on_selector_all("#front tbody tr", script)
        return shown

    def headings(self) -> list[str]:
        return [text.strip() for text in self.page.locator("#front thead th").all_inner_texts()]


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    made = Visit(browser)
    yield made
    made.page.close()
    assert made.wrong == []


def test_the_front_sorts_and_filters_and_has_addresses(visit: Visit, site: Path, browser: Any) -> None:
    page = visit.go(site / "index.html")
    page.wait_for_selector("#front[data-ready]")
    everything = visit.rows()
    measured = [row for row in everything if "measured" in row[0]]
    assert len(measured) == 6  # three defences under two budgets
    assert everything[:6] == measured  # and what papers print below them
    robust = [float(row[6].split()[0]) for row in measured]
    assert robust == sorted(robust, reverse=True)

    page.get_by_role("columnheader", name="Standard").click()
    standard = [float(row[4].split()[0]) for row in visit.rows()[:6]]
    assert standard in (sorted(standard), sorted(standard, reverse=True))
    assert all("measured" in row[0] for row in visit.rows()[:6])
    assert page.locator("th[aria-sort]").count() >= 1

    page.select_option("select[name=dataset]", label="kit.gray:Long(length=6)")
    page.get_by_label("Search").fill("Lighten")
    assert page.locator("#count").inner_text() == f"2 of {len(everything)} rows"
    page.get_by_text("Columns").click()
    page.locator("#columns").get_by_label("Threat").uncheck()
    page.locator("#columns").get_by_label("Union").check()
    headings, rows = visit.headings(), visit.rows()
    assert "Threat" not in headings
    assert "Union" in headings
    assert [row[0].split(" measured")[0] for row in rows] == ["Lighten <b>\"'&"] * 2

    again = Visit(browser)
    again.page.goto(page.url)
    again.page.wait_for_selector("#front[data-ready]")
    assert (again.headings(), again.rows()) == (headings, rows)
    again.page.get_by_role("button", name="Clear").click()
    assert len(again.rows()) == len(everything)
    assert again.wrong == []
    again.page.close()


def test_the_front_is_used_by_keyboard_alone(visit: Visit, site: Path) -> None:
    page = visit.go(site / "index.html")
    page.wait_for_selector("#front[data-ready]")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    before = visit.rows()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('th')?.innerText.trim()") == "Standard":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("th[data-name=Standard][aria-sort]")
    after = visit.rows()
    assert after != before
    assert sorted(after) == sorted(before)
    name = after[0][0].split(" measured")[0]
    page.get_by_role("link", name=name).first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/rows/*.html")
    assert name in page.locator("h1").inner_text()


def test_a_row_has_its_figures_drawn(visit: Visit, site: Path) -> None:
    page = visit.go(site / "index.html", "#q=Lighten&sort=Robust,asc")
    page.wait_for_selector("#front[data-ready]")
    page.locator("#front tbody a").first.click()
    page.wait_for_selector(".canvas svg.main-svg")
    titles = page.locator(".plot figcaption").all_inner_texts()
    assert titles[:3] == [
        *("Accuracy against size", "Losses of the attacks", "What breaks what: clips that both attacks break")
    ]
    assert page.locator(".canvas svg.main-svg").count() >= len(titles)
    # Two sizes: Standard, Robust* and Robust are a line of two points each.
    assert page.locator("#sizes .scatterlayer .trace").count() == 3
    assert page.locator("#sizes .scatterlayer .points path").count() == 6
    page.locator(".clips a").first.click()
    page.wait_for_url("**/clips/*.html")


def times(page: Any) -> list[float]:
    found: list[float] = page.eval_on_selector_all("video", "videos => videos.map(v => v.currentTime)")
    return found


def test_videos_play_in_step(visit: Visit, site: Path) -> None:
    (path,) = (p for p in (site / "clips").glob("*lighten*0.15*.html"))
    page = visit.go(path)
    page.wait_for_function("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
    names = page.eval_on_selector_all("video", "videos => videos.map(v => v.src.split('/').pop())")
    assert names == [
        f"{name}.mp4" for name in ("clean", "adversarial", "purified1", "difference", "flow-clean", "flow-adversarial")
    ]
    durations = page.eval_on_selector_all("video", "videos => videos.map(v => v.duration)")
    assert durations == [pytest.approx(FRAMES * FRAME, abs=0.01)] * len(names)

    page.get_by_label("loop").uncheck()
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('video').currentTime > 0.4")
    first = times(page)
    page.wait_for_function("document.querySelector('video').currentTime > 0.9")
    second = times(page)
    assert all(later > earlier for earlier, later in zip(first, second, strict=True))
    for seen in (first, second):
        assert max(seen) - min(seen) <= FRAME
    page.get_by_role("button", name="Pause").click()
    assert page.eval_on_selector_all("video", "videos => videos.every(v => v.paused)")

    page.get_by_label("Frame", exact=True).fill("5")
    assert times(page) == [pytest.approx(5.5 * FRAME)] * len(names)
    page.get_by_role("button", name="One frame on").click()
    assert times(page) == [pytest.approx(6.5 * FRAME)] * len(names)
    page.get_by_role("button", name="One frame back").click()
    page.get_by_role("button", name="One frame back").click()
    assert page.locator("output").inner_text() == "4"
    # What is shown is what was written: the attack moved a clip of one gray by 0.15 at most, and Lighten by 0.2.
    page.wait_for_function("[...document.querySelectorAll('video')].every(v => !v.seeking && v.readyState >= 2)")
    clean, adversarial, purified = (level(page.locator("video").nth(i).screenshot()) for i in range(3))
    assert abs(adversarial - clean) == pytest.approx(0.15, abs=0.02)
    assert purified - adversarial == pytest.approx(0.2, abs=0.02)


def level(picture: bytes) -> float:
    """How bright the middle of a picture is, in [0, 1]."""
    with Image.open(io.BytesIO(picture)) as image:
        values = np.asarray(image.convert("L"), dtype=float) / 255
    height, width = values.shape
    return float(values[height // 4 : -height // 4, width // 4 : -width // 4].mean())


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (360, "dark")])
def test_pages_are_accessible_and_fit_a_phone(browser: Any, site: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=NEEDED).Axe()
    rows, clips = sorted((site / "rows").glob("*.html")), sorted((site / "clips").glob("*.html"))
    visit = Visit(browser, width, color_scheme=scheme)
    for path in (site / "index.html", site / "cost.html", site / "claims.html", rows[0], clips[0]):
        page = visit.go(path, "#kind=measured")  # of the front, a few rows are as good as all
        page.wait_for_load_state("networkidle")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{path.name} is {wide} wide"
        found = axe.run(page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
        serious = {v["id"]: v["nodes"][0]["html"] for v in found if v["impact"] in ("serious", "critical")}
        assert serious == {}, path.name
    assert visit.wrong == []
    visit.page.close()
