"""Which moves meet which defence, that nobody can shorten their list, and what identifies them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from kit.gray import Doubled, Identity, level_classifier
from kit.running import run
from kit.selection import Selecting
from torch import Tensor

from bench import BenchError, Budget, ClipRandom, Purifier, RobustModel, evaluate
from bench.attack.known import BRANCHING, DENOISER, NETWORK, RANDOM, RANDOM_DENOISER, ROUGH, SMOOTH, moves_against
from bench.attack.moves import Moves
from bench.grids.grid import AttackSection, read_grid
from bench.plan.components import make_component
from bench.plan.expand import make_plan
from bench.plan.moves import arm, kind_of
from bench.registry import ATTACKS, DEFENSES, Spec

Write = Callable[..., Path]
ALL = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"


@pytest.mark.parametrize(
    ("defense", "kind"),
    [
        ("none", NETWORK),
        ("kit.gray:Doubled", NETWORK),
        ("kit.gray:Identity", SMOOTH),
        ("jpeg", ROUGH),
        ("temporal_shuffle", RANDOM),
        ("diffpure_ddim(steps=2)", RANDOM_DENOISER),
        ("ddim_inversion(steps=2)", DENOISER),
    ],
)
def test_a_defence_says_of_which_kind_it_is(defense: str, kind: object) -> None:
    assert kind_of(DEFENSES.create(defense), level_classifier()) is kind


def test_a_network_that_chooses_branches_is_attacked_branch_by_branch() -> None:
    assert kind_of(Doubled(), Selecting()) is BRANCHING
    assert any(move.attack.startswith("branches") for move in moves_against(BRANCHING, Budget()))


class Generous(Identity):
    """Its author knows an attack that hurts it."""

    moves: ClassVar[Sequence[str]] = ("pgd(start='clean')+exact",)


class Broken(Identity):
    """Its author's move does not exist for it."""

    moves: ClassVar[Sequence[str]] = ("pgd+surrogate",)


class Silent(Identity):
    """Its author would rather have no list."""

    moves: ClassVar[Sequence[str]] = ()


def armed(defense: Purifier | RobustModel, spec: str = "adaptive") -> Moves:
    attack = arm(make_component(Spec.parse(spec), ATTACKS), defense, level_classifier(), Budget()).instance
    assert isinstance(attack, Moves)
    return attack


def test_an_author_and_a_grid_add_to_the_list_and_take_nothing_from_it() -> None:
    known = armed(Identity()).moves
    assert armed(Silent()).moves == known
    assert [str(m) for m in armed(Generous()).moves] == [*map(str, known), "pgd(start='clean')+exact"]
    assert [str(m) for m in armed(Silent(), "adaptive(extra=['fgsm+bpda'])").moves] == [*map(str, known), "fgsm+bpda"]


def test_a_move_that_does_not_exist_stops_the_run_and_shortens_no_list() -> None:
    with pytest.raises(BenchError, match=r"move pgd\+surrogate against Broken does not exist: Broken has no cheaper"):
        armed(Broken())


def test_moves_identify_a_cell_and_seed_it_by_name_alone(gray_grid: Write) -> None:
    def cells(attack: str) -> dict[str, tuple[str, str]]:
        plan = make_plan(read_grid(gray_grid((ALL, f"[{attack}]"))))
        return {c.defense.label: (c.id, c.unit.attack_stream) for c in plan.cells if c.unit}

    plain, more = cells("adaptive"), cells("{attack: adaptive, extra: no}".replace(", extra: no", ""))
    assert plain == more  # written in two ways
    added = cells("""{attack: "adaptive(extra=['fgsm+exact'])"}""")
    assert not set(plain.values()) & set(added.values())
    assert plain["none"] != plain["kit.gray:Identity"]


def test_adaptive_is_a_column_of_its_own_that_no_other_attack_of_the_row_beats(
    gray_grid: Write, tmp_path: Path
) -> None:
    """A budget between the margin of the outermost classes, .1, and what a coin or BPDA alone could do."""
    path = gray_grid((ALL, "[noise, PGD, PGD+BPDA, adaptive]"), ("size: 0.15", "size: 0.12"))
    cells = run(path, tmp_path / "s")
    for defense in ("none", "kit.gray:Identity"):
        headline = cells[defense, "adaptive"]
        assert (headline.knowledge, headline.gradient) == ("adaptive", "strongest")
        assert all(headline.score.correct <= c.score.correct for (d, _), c in cells.items() if d == defense)
        assert headline.score.correct == 0


class Halved(Purifier):
    """Drops every other frame: the identity cannot stand for it, and its stand-in can."""

    differentiable = False

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips[:, :, ::2].detach()

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips[:, :, ::2]


def test_rows_of_every_kind_have_the_column(gray_grid: Write, tmp_path: Path) -> None:
    """A robust model, and a purifier for which one of the moves does not exist."""
    path = gray_grid((ALL, "[clean, adaptive]"), ('"kit.gray:Identity"', f'"kit.gray:Doubled", "{__name__}:Halved"'))
    cells = run(path, tmp_path / "s")
    for defense in ("kit.gray:Doubled", f"{__name__}:Halved"):
        assert cells[defense, "clean"].score.correct == 6
        assert cells[defense, "adaptive"].score.correct == 0


def test_adaptive_brings_its_own_gradients(gray_grid: Write) -> None:
    assert AttackSection.read("adaptive").gradient == "strongest"
    for entry in (
        "adaptive+bpda",
        {"attack": "adaptive", "gradient": "exact"},
        {"attack": "pgd", "gradient": "strongest"},
    ):
        with pytest.raises(BenchError, match="write adaptive alone, or another"):
            AttackSection.read(entry)


def test_a_threat_without_a_list_is_refused(gray_grid: Write) -> None:
    path = gray_grid((ALL, "[clean, {attack: adaptive, budget: {norm: framing, size: 1}}]"))
    with pytest.raises(BenchError, match=r"Adaptive takes linf or .* budgets, not framing"):
        make_plan(read_grid(path))


def test_evaluate_takes_it_for_ones_own_classifier_and_defence() -> None:
    clips = torch.stack([torch.full((3, 4, 8, 8), level) for level in (0.3, 0.5, 0.7)])
    how = {"budget": {"size": 0.12, "steps": 3}, "device": "cpu", "verbose": False}
    for defense in ("none", Identity()):
        frame = evaluate(level_classifier(), clips, [0, 1, 2], defense=defense, attack="adaptive", **how)  # type: ignore[arg-type]
        assert frame["correct"].sum() == 0
    with pytest.raises(BenchError, match="takes gradients of its own, not 'bpda'"):
        evaluate(level_classifier(), clips, [0, 1, 2], attack="adaptive", gradient="bpda", **how)  # type: ignore[arg-type]
