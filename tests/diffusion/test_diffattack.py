"""The gradient ``diffattack``: the trajectory's deviation by hand, its gradient by differences, and who has one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit.diffusion import miniature
from torch import Tensor, nn

from bench import BenchError, Budget, ClipRandom, DefendedClassifier
from bench.attack.losses import cross_entropy
from bench.defense.defended import why_not
from bench.defenses.ddim_inversion import DDIMInversion
from bench.defenses.diffpure import DiffPureDDIM, DiffPureDDPM, DiffPureSDE
from bench.defenses.jpeg import JPEG
from bench.defenses.videopure import VideoPure
from bench.diffusion.purifier import DiffusionPurifier
from bench.registry import ATTACKS

KINDS: list[type[DiffusionPurifier]] = [DDIMInversion, DiffPureDDIM, DiffPureDDPM, DiffPureSDE, VideoPure]


class Corner(nn.Module):
    def forward(self, clips: Tensor) -> Tensor:
        return torch.stack([clips.flatten(1).square().mean(1), clips[:, 0].flatten(1).mean(1)], 1)


def clips_of(count: int) -> Tensor:
    return 0.2 + 0.6 * torch.rand(count, 3, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@torch.no_grad()
def test_deviation_of_ddim_by_hand() -> None:
    """The same noise at every level on the way up, DDIM on the way down, mean squared differences, averaged."""
    defense: Any = miniature(DiffPureDDIM(steps=3))
    clips, backbone = clips_of(2), defense.backbone
    purified, found = defense.deviation(clips, ClipRandom([3, 4]))
    torch.testing.assert_close(purified, defense.purify(clips, ClipRandom([3, 4])), rtol=0, atol=0)

    z0 = backbone.encode(clips)
    noise = ClipRandom([3, 4]).normal(*z0.shape[1:]).double()
    abar = [float(backbone.alphas_cumprod[t]) for t in (101, 51, 1)]
    up = [a**0.5 * z0 + (1 - a) ** 0.5 * noise for a in abar]
    z, expected = up[0], torch.zeros(2, dtype=torch.float64)
    for i, t in enumerate((101, 51, 1)):
        e = backbone.predict_noise(z, t)
        clean = (z - (1 - abar[i]) ** 0.5 * e) / abar[i] ** 0.5
        after = abar[i + 1] if i < 2 else float(backbone.level(-1))
        z = after**0.5 * clean + (1 - after) ** 0.5 * e
        truth = up[i + 1] if i < 2 else z0
        expected += (z - truth).square().flatten(1).mean(1) / 3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_objective_and_gradient_are_those_of_loss_plus_deviation(kind: type[DiffusionPurifier]) -> None:
    defended = DefendedClassifier(Corner(), miniature(kind(steps=3)), "diffattack").double()
    x, labels = clips_of(2), torch.tensor([0, 1])
    value, gradient, _ = defended.target(ClipRandom([3, 4])).gradient(x, None, labels, cross_entropy)

    def objective(at: Tensor) -> Tensor:
        with torch.no_grad():
            purified, deviation = defended.defense.deviation(at, ClipRandom([3, 4]))  # type: ignore[union-attr]
            candidates = purified if purified.ndim == 6 else purified[None]
            logits = defended.pool(defended._classify(candidates, ClipRandom([3, 4])))
            loss = nn.functional.cross_entropy(logits, labels, reduction="none")
            return loss + deviation

    torch.testing.assert_close(value, objective(x), rtol=1e-9, atol=1e-12)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    step = 1e-6
    slope = (objective(x + step * direction) - objective(x - step * direction)).sum() / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-4)
    plain = defended.with_gradient("exact").target(ClipRandom([3, 4])).gradient(x, None, labels, cross_entropy)
    assert (value > plain[0]).all()
    assert not torch.equal(gradient, plain[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_that_of_the_defence(kind: type[DiffusionPurifier]) -> None:
    defended = DefendedClassifier(Corner(), miniature(kind(steps=3)), "diffattack").double()
    x = clips_of(2)
    target = defended.target(ClipRandom([3, 4]))
    logits = target(x.clone().requires_grad_(True))
    torch.testing.assert_close(logits.detach(), defended(x, ClipRandom([3, 4])).detach(), rtol=0, atol=0)


def test_attacks_climb_the_deviation_where_the_loss_is_flat() -> None:
    """A classifier without a gradient: PGD then raises the deviation, and with ``exact`` does not move beyond it."""

    class Flat(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0]]).double().repeat(len(clips), 1) + 0 * clips.flatten(1).sum(1, keepdim=True)

    defense: Any = miniature(DDIMInversion(steps=3))
    x, labels = clips_of(2), torch.tensor([0, 0])
    bent = {}
    for gradient in ("diffattack", "exact"):
        target = DefendedClassifier(Flat(), defense, gradient).double().target(ClipRandom([3, 4]))
        found = ATTACKS.create("i_fgsm")(target, x, labels, Budget(size=0.05, steps=5)).clips
        with torch.no_grad():
            bent[gradient] = defense.deviation(found, ClipRandom([3, 4]))[1]
    with torch.no_grad():
        clean = defense.deviation(x, ClipRandom([3, 4]))[1]
    assert (bent["diffattack"] > 1.05 * clean).all()
    torch.testing.assert_close(bent["exact"], clean, rtol=0, atol=1e-12)


def test_who_has_no_trajectory_says_so() -> None:
    assert why_not(DiffPureDDIM(), "diffattack") is None
    assert "no denoising trajectory" in str(why_not(VideoPurelyNot(), "diffattack"))
    with pytest.raises(BenchError, match="JPEG has no diffattack gradient because part of it is not differentiable"):
        DefendedClassifier(Corner(), JPEG(), "diffattack")


class VideoPurelyNot(DiffPureDDIM):
    """A diffusion purifier that forgot its trajectory."""

    from bench.defense.base import Purifier as _Base

    deviation = _Base.deviation
