"""DiffPure: what it promises, and what it does on the shipped classifier that encoding and decoding do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit.rendered import clips_of
from torch import Tensor

from bench import BenchError, Budget, ClipRandom, DefendedClassifier
from bench.data.procedural import render
from bench.defense.base import Purifier
from bench.defenses.diffpure import DiffPureDDIM, DiffPureDDPM, DiffPureFixed, DiffPureSDE
from bench.defenses.encode_decode import EncodeDecode
from bench.defenses.none import NoDefense
from bench.diffusion.backbones import BACKBONES, load_backbone
from bench.diffusion.sampling import noise_to
from bench.grids.grid import DatasetSection, Grid
from bench.plan.expand import make_plan
from bench.registry import ATTACKS, DEFENSES, Spec
from bench.weights.zoo import build_classifier, zoo_file


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gaussian_noise(sigma=0)", "sigma must be positive"),
        ("encode_decode(backbone='latent_tyny')", r"did you mean 'latent_tiny'\?"),
        ("diffpure_ddim(t_star=1000)", "timesteps up to 999"),
        ("diffpure_ddim(t_star=5, steps=6)", "ask for 1 to 5"),
        ("diffpure_ddpm(steps=2.5)", "steps must be a whole number"),
        ("diffpure_fixed(sampler='ode')", "sampler must be one of ddim, ddpm, sde"),
        ("diffpure_fixed(seed=-1)", "seed must be a whole number of at least 0"),
    ],
)
def test_refusals(text: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        DEFENSES.create(text)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("kind", [DiffPureDDIM, DiffPureDDPM])
def test_diffpure_keeps_shape_and_range_and_belongs_to_the_clip(kind: type[Purifier], backbone: str) -> None:
    defense = kind(backbone=backbone, t_star=60, steps=2)
    clips = clips_of(2, 4)
    with torch.no_grad():
        together = defense.purify(clips, ClipRandom([7, 8]))
        alone = defense.purify(clips[1:], ClipRandom([8]))
        other = defense.purify(clips[1:], ClipRandom([9]))
    assert together.shape == clips.shape
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
    torch.testing.assert_close(alone, together[1:], rtol=0, atol=1e-4)
    assert float((other - alone).abs().mean()) > 1e-4
    assert float((together - clips).abs().mean()) < 0.1  # the clip is still the clip


def test_ddpm_draws_at_every_step_and_ddim_once() -> None:
    """The streams differ after the same first draw."""
    clips = clips_of(1, 4)
    after = []
    for kind in (DiffPureDDIM, DiffPureDDPM):
        rng = ClipRandom([7])
        with torch.no_grad():
            kind(t_star=60, steps=2).purify(clips, rng)
        after.append(float(rng.uniform(1)))
    rng = ClipRandom([7])
    rng.normal(3, 4, 64, 64)
    assert after[0] == float(rng.clone().uniform(1))
    rng.normal(3, 4, 64, 64)
    rng.normal(3, 4, 64, 64)
    assert after[1] == float(rng.uniform(1))


@pytest.mark.parametrize(("sampler", "kind"), [("ddim", DiffPureDDIM), ("ddpm", DiffPureDDPM), ("sde", DiffPureSDE)])
def test_fixed_noise_is_the_same_for_every_clip_and_every_call(sampler: Any, kind: type[Any]) -> None:
    """It is the randomised purifier with the stream of one seed, whatever stream it is offered."""
    fixed, free = DiffPureFixed(sampler, seed=7, t_star=60, steps=2), kind(t_star=60, steps=2)
    assert not fixed.stochastic
    clips = clips_of(2, 4)
    with torch.no_grad():
        found = fixed.purify(clips, ClipRandom([1, 2]))
        assert torch.equal(found, fixed.purify(clips, ClipRandom([3, 4])))
        torch.testing.assert_close(found, free.purify(clips, ClipRandom([7, 7])), rtol=0, atol=0)
        assert not torch.equal(
            found, DiffPureFixed(sampler, seed=8, t_star=60, steps=2).purify(clips, ClipRandom([1, 2]))
        )
    usual = (
        kind(steps=1).times[0],
        [p.default for p in DEFENSES.get(f"diffpure_{sampler}").parameters if p.name == "steps"],
    )
    full = DiffPureFixed(sampler)
    assert (full.times[0], [len(full.times)]) == usual


@pytest.mark.parametrize("gradient", ["exact", "bpda"])
def test_gradients_reach_the_clip(gradient: str) -> None:
    model = build_classifier(Spec("slowfast_tiny"), zoo_file("slowfast_tiny", "motion12"))
    defended = DefendedClassifier(model, DiffPureDDIM(t_star=60, steps=2), gradient)
    x = clips_of(1).requires_grad_(True)
    (found,) = torch.autograd.grad(defended(x, ClipRandom([3])).square().sum(), x)
    assert torch.isfinite(found).all()
    assert float(found.abs().max()) > 0
    if gradient == "bpda":  # the classifier's gradient at the purified clip, passed on untouched
        with torch.no_grad():
            purified = DiffPureDDIM(t_star=60, steps=2).purify(x, ClipRandom([3]))
        y = purified.requires_grad_(True)
        (expected,) = torch.autograd.grad(model(y).square().sum(), y)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_the_weights_of_a_purifier_belong_to_its_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights under the same name are other cells."""
    grid = Grid(
        name="x",
        dataset=DatasetSection(name="motion12", clips=1),
        models=["slowfast_tiny"],
        defenses=["diffpure_ddim"],
        attacks=["clean"],
    )
    before = make_plan(grid).cells[-1]
    assert before.defense.label == "diffpure_ddim"

    def other(*asked: str) -> torch.nn.Module:
        backbone = load_backbone(*asked)
        with torch.no_grad():
            next(backbone.parameters()).add_(1)
        return backbone

    monkeypatch.setattr("bench.diffusion.purifier.load_backbone", other)
    assert make_plan(grid).cells[-1].id != before.id


@pytest.fixture(scope="module")
def attacked() -> tuple[torch.nn.Module, Tensor, Tensor, Tensor]:
    """A shipped classifier, 24 clips, their labels, and the clips under gray-box PGD-10, linf 4/255.

    As in every table, the attack takes all its steps: clips that barely fool the bare classifier prove nothing.
    """
    model = build_classifier(Spec("nl_tiny"), zoo_file("nl_tiny", "actions12"))
    rendered = [render("test", i, recipe="actions12") for i in range(1200, 1224)]
    clips, labels = torch.stack([r.clip for r in rendered]), torch.tensor([r.label for r in rendered])
    target = DefendedClassifier(model, NoDefense()).target(ClipRandom(range(24)), transfer=True)
    budget = Budget("linf", 4 / 255, steps=10)
    return model, clips, labels, ATTACKS.create("pgd")(target, clips, labels, budget, ClipRandom(range(24))).clips


def right(model: torch.nn.Module, defense: Purifier, clips: Tensor, labels: Tensor) -> float:
    defended = DefendedClassifier(model, defense, "bpda")
    return float((defended.decide(clips, ClipRandom(range(24))).prediction == labels).float().mean())


@pytest.mark.slow
def test_the_shipped_purifier_restores_attacked_clips_and_keeps_clean_ones_right(attacked: Any) -> None:
    model, clips, labels, adversarial = attacked
    assert right(model, NoDefense(), adversarial, labels) <= 0.25
    defense = DiffPureDDPM(steps=3)
    assert right(model, defense, clips, labels) >= 0.8
    assert right(model, defense, adversarial, labels) >= 0.4
    with torch.no_grad():
        purified = defense.purify(adversarial, ClipRandom(range(24)))
        backbone, rng = defense.backbone, ClipRandom(range(24))
        noisy = backbone.decode(noise_to(backbone, backbone.encode(adversarial), defense.times[0], rng))
    assert (purified - clips).square().mean() < 0.2 * (noisy - clips).square().mean()


@pytest.mark.slow
def test_encoding_and_decoding_alone_cure_little(attacked: Any) -> None:
    """So what a latent purifier restores is the diffusion's doing; clean clips come through."""
    model, clips, labels, adversarial = attacked
    assert right(model, EncodeDecode(), adversarial, labels) <= right(model, NoDefense(), adversarial, labels) + 0.2
    assert right(model, EncodeDecode(), clips, labels) >= 0.9
