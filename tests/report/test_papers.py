"""The papers' tables on the leaderboard: all of them, every figure, from the files alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bench import BenchError
from bench.report.leaderboard import make_leaderboard
from bench.report.papers import paper_sections
from bench.report.reported import Reported, shipped_folder

FILES = sorted(shipped_folder().glob("*.csv"))


def tables(lines: list[str]) -> list[list[list[str]]]:
    """The Markdown tables, as rows of cells; the first row is the header."""
    found: list[list[list[str]]] = []
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            if not line.startswith("| ---"):
                found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_all_files_are_there() -> None:
    assert len(FILES) == 31
    text = "\n".join(paper_sections(shipped_folder()))
    assert [path.name for path in FILES if f"(results/reported/{path.name})" not in text] == []
    assert [line for line in text.splitlines() if line.startswith("### ")] == [
        "### VideoPure",
        "### Motion consistency",
        "### MultiBN",
        "### MultAV",
        "### OUDefend",
        "### Adversarial framing",
        "### Halftoning",
        "### Obfuscated gradients",
    ]
    assert text.index("videopure_table2.csv") < text.index("videopure_table10.csv")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_figure_of_a_file_is_printed_as_often_as_it_is_there(path: Path, tmp_path: Path) -> None:
    (tmp_path / path.name).write_bytes(path.read_bytes())
    drawn = tables(paper_sections(tmp_path))
    assert all(len(line) == len(table[0]) for table in drawn for line in table)
    cells = [cell.rstrip("†‡§¶") for table in drawn for line in table[1:] for cell in line]
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figures = [row.get("accuracy", row.get("value", "")) for row in rows]
    for figure in set(figures) - {""}:
        assert cells.count(figure) >= figures.count(figure), figure
    assert all(";" not in cell for cell in cells)  # no two figures in one place


def test_figures_stand_where_the_paper_has_them() -> None:
    """VideoPure, Tables IV, VII, XI; motion, Table 1; framing: width 4; the preprint of MultiBN: its first table."""
    sections: dict[str, list[str]] = {}
    caption = ""
    for text in paper_sections(shipped_folder()):
        caption = text if text.startswith("*Reported*") else caption
        sections.setdefault(caption, []).append(text)

    def line(file: str, *start: str, of: str = "") -> list[str]:
        found = [
            row
            for caption, lines in sections.items()
            if f"`{file}`" in caption and of in caption
            for table in tables(lines)
            for row in table
            if row[: len(start)] == list(start)
        ]
        assert len(found) == 1, found
        return found[0][len(start) :]

    assert line("videopure_table4.csv", "1", "1", "1") == ["96.0", "94.1", "100"]
    assert line("videopure_table7.csv", "3") == ["96.0", "92.1", "100"]
    assert line("videopure_table11.csv", "Diffpure_DDPM", "16") == ["2.0", "67.3", "32.7"]
    assert line("motion_table1.csv", "PGD eps=8", of="HMDB-51") == ["7.9", "7.7", "53.9"]
    assert line("adv_framing_ucf101.csv", "4") == ["", "79.74", "84.59", "2.05"]
    assert line("multibn_v1_preprint_tables.csv", "AVG", of="T1")[:2] == ["70.7", "36.2"]
    assert line("multav_ucf101.csv", "None") == ["76.90", "7.19", "2.67", "2.30", "0.26", "4.02"]


def test_replaced_figures_say_what_the_slide_prints() -> None:
    """Three figures of OUDefend contradict their own average on the slide; those of the preprint are shown."""
    lines = paper_sections(shipped_folder())
    of_file = lines[next(i for i, line in enumerate(lines) if "`oudefend_ucf101.csv`" in line) :]
    (table, *_) = tables(of_file)
    ours, madry = (next(i for i, head in enumerate(table[0]) if name in head) for name in ("OUDefend", "Madry AT"))
    figures = {line[0]: (line[madry], line[ours]) for line in table[1:]}
    assert figures["AF"] == ("74.81†", "81.76‡")
    assert figures["SPA"][1] == "56.25§"
    notes = [line for line in of_file if line[:1] in "†‡§" and line]
    assert [line[:30] for line in notes[:3]] == [
        "† The slide prints 55.99; slid",
        "‡ The slide prints 56.25; slid",
        "§ The slide prints 56.29; slid",
    ]


def test_a_replaced_figure_is_remarked_beside_measured_ones() -> None:
    from bench.records.description import ReportedSection

    section = ReportedSection(
        file="oudefend_ucf101.csv", model="m", defenses={"ours": "OUDefend"}, attacks={"AF": "AF", "ROA": "ROA"}
    )
    remarks = Reported(section, shipped_folder()).remarks("ours", ["AF", "ROA", "PGD"])
    assert set(remarks) == {"AF"}
    assert remarks["AF"].startswith("the slide prints 56.25; slide value inconsistent")


def test_files_of_unknown_papers_and_layouts(tmp_path: Path) -> None:
    (tmp_path / "new_table.csv").write_text("dataset,defense,attack,accuracy\nS,a,X*,1\nS,a,X*,2\nS,b,X*,3\n")
    (tmp_path / "words.csv").write_text("defense,remark\na,b\n")
    text = "\n".join(paper_sections(tmp_path))
    assert "### Others" in text
    assert "| a | 1; 2 |" in text  # what nothing tells apart
    assert r"X\*" in text
    assert "`words.csv`](results/reported/words.csv) holds no figures." in text
    assert paper_sections(tmp_path / "nothing") == []


def test_the_leaderboard_has_them(results: Path) -> None:
    import shutil

    shutil.copytree(shipped_folder(), results / "reported")
    text = make_leaderboard(results)
    assert "\n".join(paper_sections(results / "reported")).rstrip() in text
    (results / "reported" / "motion_table6.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BenchError, match=r"motion_table6\.csv"):
        make_leaderboard(results)
