"""The figures of the papers, drawn from stored results: which there are, what each shows, which grids make its data.

What a figure shows is known here only as far as the papers' text says it, and that text has no values of any: what is
drawn is measured here, and nothing is read off a published picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.errors import BenchError, nearest
from bench.records.results import result_files
from bench.report.plot import Data, Kind, figure_data
from bench.report.rows import find_rows


@dataclass(frozen=True)
class Paper:
    """Where a figure was published.

    Attributes:
        name: in short.
        source: authors, title, venue and year.
    """

    name: str
    source: str


VIDEOPURE = Paper(
    "VideoPure",
    "Jiang, Chen, Fu, Hong, Li and Zhang, VideoPure: Diffusion-based Adversarial Purification for Video Recognition, "
    "IEEE TCSVT 2025, arXiv 2501.14999",
)
MOTION = Paper(
    "Motion consistency",
    "Zhang, Mao, Yang and Vondrick, Adversarially Robust Video Perception by Seeing Motion, arXiv 2212.07815, 2022",
)
SLIDES = Paper("Lo and Patel", "Lo and Patel, slides on their defences of video recognition")


@dataclass(frozen=True)
class Made:
    """The grid that makes a figure's data in some size.

    Attributes:
        grid: its name.
        defense: label of the row that is drawn, with ``@MODEL`` where there are several; all if empty.
        attacks: labels of the attacks that are drawn; all if empty.
    """

    grid: str
    defense: str = ""
    attacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A figure of a paper.

    Attributes:
        name: by which it is asked for.
        paper: that prints it.
        number: as the paper counts it.
        shows: what is drawn, in words; empty where the text that is known here does not say it.
        kind, against: as :func:`bench.report.plot.figure_data` takes them.
        embedded, published: what makes the data in the embedded and in the published size.
        remark: what else should be known of it; one sentence.
    """

    name: str
    paper: Paper
    number: str
    shows: str = ""
    kind: Kind = "accuracy"
    against: str = ""
    embedded: Made | None = None
    published: Made | None = None
    remark: str = ""

    @property
    def known(self) -> bool:
        """Whether it is known here what it shows."""
        return bool(self.shows)

    @property
    def grids(self) -> tuple[Made, ...]:
        return tuple(made for made in (self.embedded, self.published) if made is not None)

    @property
    def head(self) -> str:
        """Its title: what it follows, and what it shows."""
        return f"After {self.paper.name}, {self.number}: {self.shows}"


_ADAPTIVE = ("PGD+BPDA as published", "PGD+exact")
_GRAY_AND_ADAPTIVE = ("PGD", *_ADAPTIVE)
FIGURES = (
    Published("videopure-2", VIDEOPURE, "Figure 2"),
    Published("videopure-3b", VIDEOPURE, "Figure 3b"),
    Published(
        "videopure-4",
        VIDEOPURE,
        "Figure 4",
        "accuracy against the steps of the attack",
        against="budget.steps",
        embedded=Made("embedded_steps", attacks=_ADAPTIVE),
        published=Made("videopure_figure4", attacks=_ADAPTIVE),
        remark="Which steps the paper takes is not known here, and PGD+exact is not in it.",
    ),
    Published(
        "videopure-5",
        VIDEOPURE,
        "Figure 5",
        "accuracy against the weight of the guidance",
        against="guidance",
        embedded=Made("embedded_guidance", attacks=_GRAY_AND_ADAPTIVE),
        published=Made("videopure_figure5", attacks=_GRAY_AND_ADAPTIVE),
        remark="Which weights the paper takes, and in which part of the figure, is not known here.",
    ),
    Published(
        "videopure-loss",
        VIDEOPURE,
        "Figure 4 or 5",
        "loss of the attack after each of its steps",
        "loss",
        embedded=Made("embedded_nl", attacks=("PGD+BPDA", "PGD+exact")),
        published=Made("videopure_table1_ucf101_nl", attacks=_ADAPTIVE),
        remark="In the paper this loss does not rise; in which of the two figures it stands is not known here.",
    ),
    Published(
        "videopure-6",
        VIDEOPURE,
        "Figure 6",
        "accuracy against t*, how far the clip is carried",
        against="t_star",
        embedded=Made("embedded_t_star", attacks=_GRAY_AND_ADAPTIVE),
        published=Made("videopure_figure6", attacks=_GRAY_AND_ADAPTIVE),
        remark="Which t* the paper takes, beside its own 6 steps, is not known here.",
    ),
    Published("videopure-7", VIDEOPURE, "Figure 7"),
    Published("motion-1", MOTION, "Figure 1"),
    Published("motion-4", MOTION, "Figure 4"),
    Published(
        "motion-5",
        MOTION,
        "Figure 5",
        "the motion-consistency loss of clean, attacked and defended clips",
        "measure",
        embedded=Made("embedded_motion", "Defended@flow_stream_tiny", ("PGD 8",)),
        published=Made("motion_table1_ucf101", "Defended", ("PGD 8/255",)),
        remark="In the paper, defended clips lie between clean and attacked ones; the attack is not known here.",
    ),
    Published("motion-6", MOTION, "Figure 6"),
    Published("motion-7", MOTION, "Figure 7"),
    Published("motion-8", MOTION, "Figure 8"),
    Published(
        "motion-9",
        MOTION,
        "Figure 9",
        "accuracy against the steps of the defence",
        against="defense.steps",
        embedded=Made("embedded_motion_steps"),
        published=Made("motion_figure9"),
        remark="Which attack and which steps the paper takes is not known here.",
    ),
    Published("slides-3", SLIDES, "Figure 3"),
    Published("slides-4", SLIDES, "Figure 4"),
    Published("slides-feature-error", SLIDES, "the figure of feature errors"),
)


def find_figure(name: str) -> Published:
    """A figure by its name.

    Raises:
        BenchError: there is none of this name, or it is not known what it shows.
    """
    found = next((figure for figure in FIGURES if figure.name == name.casefold()), None)
    if found is None:
        known = [figure.name for figure in FIGURES]
        raise BenchError(f"No figure is called {name!r}{nearest(name, known)}: 'bench figure' lists them.")
    if not found.known:
        raise BenchError(
            f"What {found.number} of {found.paper.name} shows is not known here, so it is not drawn: 'bench figure' "
            "lists those that are."
        )
    return found


def stored(figure: Published, results: Path = Path("results")) -> list[Made]:
    """The grids of a figure that have rows in a folder of results, embedded before published."""
    return [made for made in figure.grids if result_files(results / made.grid)]


def published_data(
    name: str,
    grid: str = "",
    *,
    attacks: Sequence[str] = (),
    results: Path = Path("results"),
    names: Callable[[str], Sequence[str]] = lambda _: (),
) -> Data:
    """What a figure of a paper shows, as it was measured here.

    Args:
        name: of the figure.
        grid: the one to draw, any of the figure's, a run of it with other clips or seeds (``demo-clips6``), or another
            with the same defences; if not given, the first of the figure's that has results.
        attacks: labels; those of the figure if not given.
        results: folder of the grids' folders.
        names: of a registered data set's classes.

    Raises:
        BenchError: there is no such figure, nobody has measured it, or as :func:`bench.report.plot.figure_data`.
    """
    figure = find_figure(name)
    made = _chosen(figure, grid, results)
    row = f"{made.grid}:{made.defense}" if made.defense else made.grid
    wanted, lacking = (attacks, []) if attacks else _there(made, row, results)
    data = figure_data(row, kind=figure.kind, against=figure.against, attacks=wanted, results=results, names=names)
    remarks = [remark for remark in (figure.remark, *data.remarks) if remark]
    if lacking:
        remarks.append(f"Not there yet: {', '.join(lacking)}; 'bench run --grid {made.grid}' makes them.")
    return replace(data, title=f"{figure.head}\n{data.title}", remarks=tuple(remarks))


def _there(made: Made, row: str, results: Path) -> tuple[list[str], list[str]]:
    """The attacks that a figure draws, those that are stored and those that are not, as of a run that was stopped.

    Raises:
        BenchError: none is stored.
    """
    labels = {cell.attack for found in find_rows(row, results) for cell in found.cells}
    there = [attack for attack in made.attacks if attack in labels]
    if made.attacks and not there:
        raise BenchError(
            f"{row} has no results of {' or '.join(made.attacks)} in {results}: 'bench run --grid {made.grid}' makes "
            "them, or choose attacks with --attack."
        )
    return there, [attack for attack in made.attacks if attack not in labels]


def _chosen(figure: Published, grid: str, results: Path) -> Made:
    there = stored(figure, results)
    if not grid:
        if there:
            return there[0]
        commands = " or ".join(f"'bench run --grid {made.grid}'" for made in figure.grids)
        raise BenchError(f"There are no results in {results} to draw {figure.name} from: {commands} makes them.")
    of_figure = next((made for made in figure.grids if grid.partition("-")[0] == made.grid), None)
    if of_figure is None:
        return replace(figure.grids[0], grid=grid, attacks=())
    if grid == of_figure.grid and of_figure not in there:
        raise BenchError(f"There are no results of {grid} in {results}: 'bench run --grid {grid}' makes them.")
    return replace(of_figure, grid=grid)
