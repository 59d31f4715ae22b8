"""Takes the pictures of docs/board.md: pages of a site that bench board wrote, on a desk and on a telephone.

python tools/board_pictures.py SITE docs
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SIZES = ((1440, 900), (360, 780))


def main() -> None:
    """Opens each page at each width, and writes what is seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--row", default="", help="part of the name of the row to show; the first if not given")
    parser.add_argument("--only", nargs="*", default=["front", "row", "clip"])
    said = parser.parse_args()
    pages = {
        "front": said.site / "index.html",
        "row": next(iter(sorted((said.site / "rows").glob(f"*{said.row}*.html"))), None),
        "clip": next(iter(sorted((said.site / "clips").glob(f"*{said.row}*.html"))), None),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for width, height in SIZES:
            page = browser.new_page(viewport={"width": width, "height": height})
            for name in said.only:
                path = pages[name]
                if path is None:
                    raise SystemExit(f"{said.site} has no {name}.")
                page.goto(path.resolve().as_uri())
                page.wait_for_load_state("networkidle")
                page.wait_for_timeout(500)  # figures are drawn, and first frames decoded
                with Image.open(io.BytesIO(page.screenshot())) as shot:
                    file = said.to / f"board-{name}-{width}.png"
                    shot.convert("RGB").quantize(128).save(file, optimize=True)
                print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
