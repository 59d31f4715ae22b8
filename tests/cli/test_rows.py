"""``bench show GRID:DEFENCE``: a row of results, clip by clip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.commands import Answer

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
    right = {clip: sum(bool(cells[clip].get("correct")) for cells in by_attack.values()) for clip in by_attack["PGD"]}
    assert [line["clip"] for line in lines] == sorted(right, key=lambda clip: (right[clip], clip))
    for line in lines:
        for cell in line["attacks"]:
            if cell["attack"] in by_attack:
                assert cell["correct"] == bool(by_attack[cell["attack"]][line["clip"]].get("correct"))


def test_the_table_and_one_clip(bench: Callable[..., Answer]) -> None:
    table = bench("show", "demo:jpeg", *HOW)
    assert "demo:jpeg@nl_tiny: 12 clips" in table.out
    outcome = stored("jpeg", "PGD")["test-00000"]
    one = bench("show", "demo:jpeg", "--clip", "test-00000", *HOW)
    (line,) = [line for line in one.out.splitlines() if line.strip().startswith("PGD")]
    assert f" {outcome['prediction']}" in line
    assert "4" in line  # linf, in 255ths
    assert f"{outcome['forwards']} + {outcome['backwards']}" in line


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
