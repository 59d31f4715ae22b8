"""``bench show GRID:DEFENCE``: a row of results, clip by clip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.cells import cell
from kit.commands import Answer
from kit.running import exported

from bench.report.clips import clips_of
from bench.report.rows import NamedRow

RESULTS = Path(__file__).parents[2] / "results"
HOW = ("--results", RESULTS)


def stored(defense: str, attack: str) -> dict[str, dict[str, object]]:
    (path,) = RESULTS.glob(f"demo/nl_tiny--{defense}--{attack}*.json")
    return {outcome["clip"]: outcome for outcome in json.loads(path.read_text())["outcomes"]}


def test_the_hardest_clips_come_first(bench: Callable[..., Answer]) -> None:
    done = bench("show", "demo:jpeg", "--json", *HOW)
    assert done.code == 0, done.err
    lines = json.loads(done.out)
    by_attack = {attack: stored("jpeg", attack) for attack in ("noise", "PGD", "adaptive")}
    attacks = [by_attack["PGD"], by_attack["adaptive"]]  # noise is none
    right = {clip: sum(bool(cells[clip].get("correct")) for cells in attacks) for clip in by_attack["PGD"]}
    assert [line["clip"] for line in lines] == sorted(right, key=lambda clip: (right[clip], clip))
    for line in lines:
        for shown in line["attacks"]:
            if shown["attack"] in by_attack:
                assert shown["correct"] == bool(by_attack[shown["attack"]][line["clip"]].get("correct"))


def test_noise_is_no_attack() -> None:
    """As in the column Mean: a clip that noise alone breaks is no harder than one that nothing breaks."""
    clean, noise = cell("d", "clean", "clean", "1111"), cell("d", "noise", "noise", "0111")
    cells = [clean, noise, cell("d", "PGD", "gray-box", "1011")]
    lines = clips_of(NamedRow("grid", "m", "d", tuple(cells)))
    assert [(line.clip, line.standing) for line in lines] == [("1", 0.0), ("0", 1.0), ("2", 1.0), ("3", 1.0)]
    (bare, *_) = clips_of(NamedRow("grid", "m", "d", tuple(cells[:2])))
    assert (bare.clip, bare.standing) == ("0", 0.5)


def test_the_table_and_one_clip(bench: Callable[..., Answer]) -> None:
    table = bench("show", "demo:jpeg", *HOW)
    assert "demo:jpeg@nl_tiny: 12 clips" in table.out
    outcome = stored("jpeg", "PGD")["test-00000"]
    one = bench("show", "demo:jpeg", "--clip", "test-00000", *HOW)
    (line,) = [line for line in one.out.splitlines() if line.strip().startswith("PGD")]
    assert f" {outcome['prediction']}" in line
    assert "4" in line  # linf, in 255ths
    assert f"{outcome['forwards']} + {outcome['backwards']}" in line


def test_a_clip_under_several_budgets_names_each(
    bench: Callable[..., Answer], gray_grid: Callable[..., Path], tmp_path: Path
) -> None:
    """A gray clip of one level moves by as much as the budget lets it."""
    budgets = ("{norm: linf, size: 0.15, steps: 4}", "{size: 4/255, steps: 2}, {size: 8/255, steps: 2}")
    exported(gray_grid(budgets, ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[clean, PGD]")), tmp_path / "results")
    shown = bench("show", "gray:none", "--clip", "gray/0", "--results", tmp_path / "results")
    assert shown.code == 0, shown.err
    lines = [line.split() for line in shown.out.splitlines() if "PGD" in line or line.strip().startswith("linf")]
    named = {" ".join(budget): cells for cells, budget in zip(lines[::2], lines[1::2], strict=True)}
    moved = {budget: (attack, linf) for budget, (attack, _, linf, *_) in named.items()}
    assert moved == {"linf 4/255, 2 steps": ("PGD", "4"), "linf 8/255, 2 steps": ("PGD", "8")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("demo:jpge",), "did you mean 'jpeg'"),
        (("demo:jpeg", "--clip", "test-99999"), "has no clip 'test-99999'"),
        (("jpeg", "--clip", "test-00000"), "--clip is of a row of results"),
    ],
)
def test_what_is_not_there_is_said(bench: Callable[..., Answer], arguments: tuple[str, ...], says: str) -> None:
    refused = bench("show", *arguments, *HOW)
    assert refused.code == 2
    assert says in refused.err


def test_components_are_shown_as_before(bench: Callable[..., Answer]) -> None:
    assert "(defense)" in bench("show", "jpeg", *HOW).out
    assert "title:" in bench("show", "demo", *HOW).out
