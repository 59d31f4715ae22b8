"""A dry run names what breaks the contract, and accuses nobody who keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.commands import Answer

from bench.audit.contract import Inspection, inspect
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan

Write = Callable[..., Path]
Bench = Callable[..., Answer]


def inspected(gray_grid: Write, name: str) -> Inspection:
    changes = (
        ('"kit.gray:Identity"', f'"{name}"'),
        ("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[clean, adaptive]"),
        ("length: 6", "length: 3"),
        ("size: 0.15", "size: 0.12"),
    )
    return inspect(make_plan(read_grid(gray_grid(*changes))), name, torch.device("cpu"))


def verdicts(found: Inspection) -> set[tuple[str, str]]:
    return {(b.check, b.verdict) for b in found.breaches}


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("planted:DetachedGradient", "gradient"),
        ("planted:Rounding", "gradient"),
        ("planted:ReversedGradient", "exact gradient"),
        ("planted:ExplodingGradient", "gradient"),
        ("planted:SecretlyRandom", "hidden randomness"),
        ("planted:RandomElsewhere", "randomness"),
        ("planted:Remembering", "memory"),
        ("planted:Forgetful", "asking"),
        ("planted:Leaking", "batch"),
        ("kit.breaches:Misnamed", "identity"),
        ("planted:Adapting", "batch"),
        ("planted:AdaptingNetwork", "batch"),
        ("planted:ChangingModes", "meddling"),
        ("kit.breaches:Double", "dtype"),
        ("kit.breaches:Broken", "finite"),
        ("kit.breaches:Flat", "shape"),
        ("kit.breaches:Detached", "gradient"),
        ("kit.breaches:Seeding", "randomness"),
        ("kit.breaches:Halved", "exact gradient"),
    ],
)
def test_a_breach_is_refused(gray_grid: Write, name: str, check: str) -> None:
    found = inspected(gray_grid, name)
    assert found.refused
    assert (check, "refused") in verdicts(found)
    assert found.breaches[0].verdict == "refused"


@pytest.mark.parametrize(
    ("name", "noted"),
    [
        ("kit.breaches:InPlace", {"in place"}),
        ("kit.breaches:Beyond", {"range"}),
        ("kit.breaches:Humble", {"gradient", "randomness"}),
        ("kit.breaches:Honest", set()),
        ("kit.breaches:Wrapping", set()),
        ("kit.gray:Lighten", set()),
        ("median", set()),
    ],
)
def test_what_is_only_noted(gray_grid: Write, name: str, noted: set[str]) -> None:
    found = inspected(gray_grid, name)
    assert verdicts(found) == {(check, "noted") for check in noted}, found.breaches
    assert not found.refused


def test_the_moves_are_those_of_its_kind(gray_grid: Write) -> None:
    """Written down from the tables of docs/attacks.md: the plain climbs come first."""
    rough, drawn = (inspected(gray_grid, name).moves for name in ("jpeg", "kit.breaches:Honest"))
    assert rough[0] == ("pgd+bpda", 5, 4)  # 4 steps, and a last look
    assert [passes for move, *passes in rough if move.startswith("square(queries=200)+query")] == [[200, 0]]
    assert any("eot(" in move for move, *_ in drawn)


def test_the_command_prints_a_page_and_ends_with_what_it_found(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom bench import Purifier\n\n\n"
        "class Dark(Purifier):\n    def __init__(self, by: float = 0.9) -> None:\n"
        "        super().__init__()\n        self.by = by\n\n"
        "    def purify(self, clips, rng):\n        return clips * self.by\n\n\n"
        "class Drawn(Dark):\n    def purify(self, clips, rng):\n        return clips * (0.9 + 0.01 * torch.rand(1))\n"
    )
    kept = bench("check", "defense", f"{file}:Dark(by=0.8)")
    assert kept.code == 0, kept.err
    for words in ("Would be refused: nothing", "Noted: nothing", "pgd+exact: 11, 10", "One clip takes"):
        assert words in kept.out
    broken = bench("check", "defense", f"{file}:Drawn")
    assert broken.code == 1
    assert "randomness: It draws from the global generator of torch" in broken.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere.py:Dark",), "nowhere.py"),
        (("jpg",), "jpg"),
        (("none",), "none is the undefended row"),
        (("jpeg", "--weights", "w.pt"), "jpeg takes no parameter weights"),
    ],
)
def test_bad_input_is_one_sentence(bench: Bench, arguments: tuple[str, ...], says: str) -> None:
    answer = bench("check", "defense", *arguments)
    assert answer.code == 2
    assert says in answer.err
    assert answer.err.count("\n") == 1
