"""Probes: what is asked again, and of whom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import Budget
from bench.audit import probes
from bench.defense.defended import DefendedClassifier
from bench.faults import MachineFault
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.registry import DEFENSES

Write = Callable[..., Path]


def probed(gray_grid: Write, norm: str = "linf", defense: str = "kit.gray:Identity") -> probes.ProbedRow:
    path = gray_grid(('"kit.gray:Identity"', f'"{defense}"'), ("norm: linf", f"norm: {norm}"))
    plan = make_plan(read_grid(path))
    cell = next(c for c in plan.cells if c.defense.label == defense)
    refs = plan.refs
    return probes.ProbedRow(
        lambda: cell.defended,
        torch.stack([plan.dataset.load(r) for r in refs]),
        [r.id for r in refs],
        torch.tensor([r.label for r in refs]),
        "exact",
        Budget(norm, 0.12, steps=4),
    )


def test_a_benchmark_that_masks_something_by_itself(gray_grid: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = probed(gray_grid)
    assert probes.an_empty_defence_changes_nothing(asked) is None
    # What does nothing is taken for something that dims the clip.
    monkeypatch.setattr(probes._Wrapper, "purify", lambda self, clips, rng: 0.9 * clips)
    finding = probes.an_empty_defence_changes_nothing(asked)
    assert finding is not None
    assert (finding.severity, finding.check) == ("fault", "empty defence")
    assert finding.clips


def test_a_machine_that_fails_under_a_probe_is_no_finding(gray_grid: Write) -> None:
    with pytest.raises(MachineFault, match=r"could not be run \(there is not enough memory\)"):
        probes.probe(probed(gray_grid, defense="kit.gray:Exhausting"))


class Narrow(torch.nn.Module):
    """A classifier by brightness that has memory for so many clips at once, and keeps count."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.batches = most, list[int]()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(clips))
        if len(clips) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        bright = clips.mean(dim=(1, 2, 3, 4))
        return torch.stack([bright, 1 - bright], 1) * 10


@pytest.mark.parametrize("most", [1, 2, 3])
def test_where_memory_is_lacking_fewer_clips_are_asked_at_once(most: int) -> None:
    def row(network: torch.nn.Module) -> probes.ProbedRow:
        clips = torch.linspace(0.3, 0.7, 7).view(7, 1, 1, 1, 1).expand(7, 3, 2, 4, 4).contiguous()
        defended = DefendedClassifier(network, DEFENSES.create("none"), "exact")
        labels = (clips.mean(dim=(1, 2, 3, 4)) < 0.5).long()
        return probes.ProbedRow(
            lambda: defended, clips, list("abcdefg"), labels, "exact", Budget("linf", 0.05, steps=2)
        )

    narrow = Narrow(most)
    asked, expected = row(narrow), row(Narrow(99))
    assert probes.probe(asked) == probes.probe(expected)
    assert torch.equal(asked.attacked("pgd", asked.budget), expected.attacked("pgd", asked.budget))
    assert asked.room.clips == {1: 1, 2: 1, 3: 3}[most]  # 7, 3, 1
    # The room stays as small: of more clips there is nothing after the first tries.
    tries = [i for i, size in enumerate(narrow.batches) if size > most and size != 2]
    assert len(tries) <= 2


@pytest.mark.parametrize(
    ("half", "whole", "twice", "under_noise", "checks"),
    [
        ([0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1.0] * 6, set()),
        ([1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1.0] * 6, {"budget"}),
        ([0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1.0] * 6, {"budget"}),
        ([0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0.0, 1.0, 0.4, 1.0, 1.0, 1.0], {"noise"}),
    ],
)
def test_size_and_noise_asked_again(
    gray_grid: Write,
    monkeypatch: pytest.MonkeyPatch,
    half: list[int],
    whole: list[int],
    twice: list[int],
    under_noise: list[float],
    checks: set[str],
) -> None:
    by_size = {0.06: half, 0.12: whole, 0.24: twice}

    def broken_by(self: probes.ProbedRow, attack: str, budget: Budget, gradient: str | None = None) -> torch.Tensor:
        return torch.tensor(by_size[round(float(budget.size), 6)], dtype=torch.bool)

    monkeypatch.setattr(probes.ProbedRow, "broken_by", broken_by)
    monkeypatch.setattr(probes.ProbedRow, "accuracies", lambda *_: torch.tensor(under_noise))
    findings = probes.size_and_noise_are_what_they_seem(probed(gray_grid))
    assert {f.check for f in findings} == checks
    if checks == {"noise"}:
        assert findings[0].clips == ["gray/2"]  # the first is broken by the attack, too


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_whatever_the_norm_everything_must_fall_to_a_large_budget(gray_grid: Write, norm: str) -> None:
    finding = probes.everything_falls_to_a_large_budget(probed(gray_grid, norm, "planted:Rounding"))
    assert finding is not None
    assert "6 of 6 clips are right at 64/255" in finding.message
    assert probes.everything_falls_to_a_large_budget(probed(gray_grid, norm)) is None
