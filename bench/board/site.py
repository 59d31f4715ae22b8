"""Writes the site: files that a browser opens from a disk as well as from a server."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import bench
from bench.board.asked import Networks
from bench.board.clips import Kept, Shown
from bench.board.entries import Entry, Figure, measured, unique
from bench.board.plots import cost_plot, plots_of
from bench.board.published import claims, reported
from bench.board.video import FRAMES_PER_SECOND, as_frames, wheel, write_strip
from bench.errors import BenchError
from bench.files import replacing
from bench.records.outcome import Outcome
from bench.records.provenance import listed
from bench.records.results import CellResult
from bench.report.grids import all_grids
from bench.report.submitted import sorted_out
from bench.report.tables import duration, flaws, percent

COLUMNS = (
    *("Defence", "Classifier", "Data set", "Threat", "Standard", "Robust*", "Robust", "Audit", "Worst attack"),
    *("Union", "Seconds", "Clips", "Says", "Grid"),
)
PAGES = (("index.html", "Leaderboard"), ("cost.html", "Cost"), ("claims.html", "Reported and measured"))
# What the site brings along: by file, the package that carries it and where, and where its licence is there.
_PARTS = {
    "plotly.min.js": ("plotly", "plotly/package_data/plotly.min.js"),
    "datatables.css": ("itables", "itables/html/dt_bundle.css"),
    "datatables.js": ("itables", "itables/html/dt_bundle.js"),
}
_MARK = ".bench-board"


@dataclass(frozen=True)
class Built:
    """What was written: the front, and how many rows, pages of clips, files and bytes."""

    front: Path
    entries: int
    clips: int
    files: int
    bytes: int


def build(
    results: Path,
    out: Path,
    *,
    clips: int = 1,
    patience: float = 2.0,
    working_on: Callable[[str, float], None] = lambda what, share: None,
) -> Built:
    """Writes the whole site into a folder, in place of what an earlier one left there.

    Args:
        results: folder of results.
        out: is made; if it is there, it must be empty or an earlier site.
        clips: of each row, at most, that get a page, where the adversarial clip is kept.
        patience: seconds that one clip may take a row's networks, which are asked about what is shown; dearer ones are
            not asked.
        working_on: is told what is done, and the share of rows that are.

    Raises:
        BenchError: the folder is something else, the results cannot be read, or a package is missing.
    """
    _clear(out)
    entries = unique([*measured(all_grids(results)), *reported()])
    kept = Kept(results, Networks(patience))
    try:
        site = _Site(out, entries, sorted_out(results)[1])
        site.static()
        site.front()
        rows = [entry for entry in entries if entry.kind != "reported"]
        for done, entry in enumerate(rows):
            working_on(f"{entry.grid}: {entry.defense}", done / len(rows))
            site.row(entry, kept.of(entry, clips))
    except OSError as error:
        raise BenchError(f"Cannot write the site to {out}: {error.strerror or error}.") from error
    finally:
        kept.close()
    written = [path for path in out.rglob("*") if path.is_file()]
    return Built(
        out / "index.html", len(entries), site.clip_pages, len(written), sum(path.stat().st_size for path in written)
    )


def _clear(out: Path) -> None:
    """Removes an earlier site, and nothing else."""
    if out.exists() and not out.is_dir():
        raise BenchError(f"{out} is a file: choose another --out.")
    if out.is_dir() and any(out.iterdir()):
        if not (out / _MARK).is_file():
            raise BenchError(f"{out} holds something else than a site of bench board: choose another --out.")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / _MARK).write_text("bench board writes this folder anew\n", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"Cannot write the site to {out}: {error.strerror or error}.") from error


class _Site:
    """Writes pages."""

    def __init__(self, out: Path, entries: Sequence[Entry], left_out: dict[str, str]) -> None:
        try:
            from jinja2 import Environment, PackageLoader, StrictUndefined
        except ImportError as error:
            raise _missing("jinja2") from error
        # Everything from results is escaped, wherever it came from.
        self._pages = Environment(
            loader=PackageLoader("bench.board"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.globals |= {"version": bench.__version__, "pages": PAGES, "seconds": duration, "losses": _losses}
        self._out, self._entries, self._left_out = out, entries, left_out
        self.clip_pages = 0

    def _write(self, name: str, template: str, **values: Any) -> None:
        path = self._out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        root = "../" * name.count("/")
        text = self._pages.get_template(template).render(root=root, here=name, **{"clips": [], **values})
        with replacing(path, durable=False) as partial:
            partial.write_text(text, encoding="utf-8")

    def static(self) -> None:
        """What all pages share, and the licences of what others wrote."""
        place = self._out / "static"
        place.mkdir(parents=True, exist_ok=True)
        for file in resources.files("bench.board").joinpath("static").iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        write_strip(place / "wheel.png", wheel())
        for name, (package, inside) in _PARTS.items():
            text = _file_of(package, inside).read_bytes()
            (place / name).write_bytes(_as_script(text.decode()).encode() if name == "datatables.js" else text)
        licences = {package: _licence(package) for package in dict.fromkeys(p for p, _ in _PARTS.values())}
        self._write("licences.html", "licences.html.j2", licences=licences)

    def front(self) -> None:
        """The pages about all rows."""
        shown = [e for e in self._entries if any(e.figures.values())]
        order = sorted(shown, key=lambda e: -(e.adaptive.value if e.adaptive else -1.0))
        filters = [
            ("dataset", "Data set", sorted({e.dataset for e in shown})),
            ("model", "Classifier", sorted({e.model for e in shown})),
            ("threat", "Threat", sorted({e.threat for e in shown if e.threat})),
            ("knowledge", "Attacker knows", ["adaptive", "gray-box"]),
            ("grade", "Audit", sorted({e.letter for e in shown})),
            ("kind", "Says", [k for k in ("measured", "submitted", "reported") if any(e.kind == k for e in shown)]),
        ]
        self._write(
            "index.html",
            "index.html.j2",
            entries=order,
            filters=filters,
            columns=COLUMNS,
            left_out=self._left_out,
        )
        plot = cost_plot(shown)
        self._write("cost.html", "cost.html.j2", plots=[plot] if plot is not None else [])
        found = claims(self._entries)
        parts = [
            ("On the paper's clips and network", "", [c for c in found if c.same]),
            (
                "On embedded clips, which stand for the paper's",
                "Other clips and a small network: figures need not agree, but what breaks a defence there and not "
                "here, or here and not there, is worth a look.",
                [c for c in found if not c.same],
            ),
        ]
        self._write("claims.html", "claims.html.j2", claims=found, parts=parts)

    def row(self, entry: Entry, clips: Sequence[Shown]) -> None:
        """The page of a row, and those of its clips."""
        assert entry.row is not None
        siblings = [
            e
            for e in self._entries
            if e.key != entry.key
            and e.grid_tables is entry.grid_tables
            and (e.dataset, e.model, e.defense) == (entry.dataset, entry.model, entry.defense)
        ]
        names = clips[0].names if clips else ()
        attacks = [_attack(entry, cell) for cell in entry.cells]
        self._write(
            f"rows/{entry.key}.html",
            "row.html.j2",
            e=entry,
            key=[
                ("Standard", entry.standard),
                ("Robust*", entry.gray),
                ("Robust", entry.adaptive),
                ("Union", entry.union),
            ],
            clips_of=entry.standard.clips if entry.standard is not None else 0,
            attacks=attacks,
            reported=any(a["reported"] for a in attacks),
            absent=[f"{label}: {s.reason}" for label, s in entry.row.absent.items()],
            audit=entry.audit,
            clips=clips,
            clip_pages={c.clip: c.key for c in clips},
            plots=plots_of(entry, siblings, names),
            commands=_commands(entry),
            provenance=listed({p for cell in entry.cells for p in cell.provenance}),
        )
        for shown in clips:
            self._clip(shown)

    def _clip(self, shown: Shown) -> None:
        folder = self._out / "clips" / shown.key
        parts = shown.write(folder)
        middle = as_frames(shown.adversarial)[shown.adversarial.shape[1] // 2]
        write_strip(folder / "thumb.png", middle[None])
        self._write(
            f"clips/{shown.key}.html",
            "clip.html.j2",
            c=shown,
            e=shown.entry,
            parts=parts,
            rate=FRAMES_PER_SECOND,
            unattacked=[c.attack for c in shown.entry.cells if c.knowledge == "clean"],
        )
        self.clip_pages += 1


def _attack(entry: Entry, cell: CellResult) -> dict[str, Any]:
    spent = [o for o in cell.outcomes if o.status == "ok"]
    printed = entry.row.reported.get(cell.attack) if entry.row is not None else None
    return {
        "label": cell.attack,
        "knowledge": cell.knowledge,
        "gradient": "" if cell.gradient == "none" else cell.gradient,
        "figure": Figure.of(cell.score),
        "forwards": _mean(o.forwards for o in spent),
        "backwards": _mean(o.backwards for o in spent),
        "flaws": flaws(cell.score),
        "reported": percent(printed) if printed is not None else "",
    }


def _mean(values: Iterable[int]) -> str:
    known = list(values)
    return f"{sum(known) / len(known):.1f}" if known else "–"


def _losses(outcome: Outcome) -> str:
    known = [loss for loss in outcome.trace if loss is not None]
    return f"{known[0]:.3g} to {known[-1]:.3g}" if known else "–"


def _commands(entry: Entry) -> list[str]:
    """What makes the row again, and what puts it to the test."""
    quoted = f'"{entry.grid}:{entry.defense}"'
    undefended = entry.cells[0].settings.defense.name == "none"
    if entry.kind == "submitted":
        folder = (
            next(
                (one.folder for label, (one, _) in entry.grid_tables.joined.items() if label == entry.defense),
                entry.grid_tables.alone.folder if entry.grid_tables.alone is not None else Path(),
            )
            if entry.grid_tables is not None
            else Path()
        )
        return [f"bench verify {folder.as_posix()}", f'bench show "{folder.as_posix()}/{entry.grid}:{entry.defense}"']
    return [
        f"bench run --grid {entry.grid}",
        f'bench verify {entry.grid} --defense "{entry.defense}"',
        f"bench audit {entry.grid}{'' if undefended else chr(32) + '--clips 8'}",
        f"bench show {quoted}",
        *([] if undefended else [f'bench compare "{entry.grid}:none" {quoted}']),
    ]


_EXPORTS = re.compile(r"export\s*\{([^}]*)\}\s*;?\s*")


def _as_script(module: str) -> str:
    """The bundle of DataTables as a plain script: browsers load no module from a disk.

    Raises:
        BenchError: it is built otherwise than those that are known.
    """
    found = _EXPORTS.findall(module)
    names = dict(re.findall(r"([\w$]+) as (\w+)", found[0])) if len(found) == 1 else {}
    table = next((inner for inner, outer in names.items() if outer == "default"), None)
    if table is None:
        raise BenchError("This release of itables brings DataTables in a form that is not known: install itables 2.9.")
    return f"(() => {{{_EXPORTS.sub('', module)}\nwindow.DataTable = {table};}})();\n"


def _file_of(package: str, inside: str) -> Path:
    try:
        path = Path(str(metadata.distribution(package).locate_file(inside)))
    except metadata.PackageNotFoundError as error:
        raise _missing(package) from error
    if not path.is_file():
        raise BenchError(f"This release of {package} has no {inside}: install another one.")
    return path


def _missing(package: str) -> BenchError:
    return BenchError(f"The board needs {package}: pip install 'videorobustbench[board]'.")


def _licence(package: str) -> str:
    files = metadata.files(package) or []
    texts = [Path(str(file.locate())) for file in files if re.search(r"licen[cs]e", file.name, re.IGNORECASE)]
    inside = [path for path in texts if ".dist-info" in str(path) and path.is_file()]
    return "\n\n".join(path.read_text(encoding="utf-8") for path in inside) or metadata.metadata(package)["License"]
