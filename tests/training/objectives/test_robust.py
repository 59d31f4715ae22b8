"""The objectives of the training family, each against its formula on a network with known answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import BenchError, Budget, ClipRandom, ClipRef, Dataset
from bench.grids.grid import Grid
from bench.models import robust
from bench.models.base import build_seeded
from bench.models.multibn import BRANCHES, Branches, MultiBN
from bench.models.resnet3d import ResNet3D
from bench.plan.expand import make_plan
from bench.records.identity import ComponentIdentity
from bench.registry import DEFENSES, MODELS
from bench.training.data import some_of, split_of
from bench.training.loop import TrainingState, export, train
from bench.training.objectives.classifier import Classification
from bench.training.objectives.robust import (
    AdversarialTraining,
    BranchTraining,
    SelectionTraining,
    SteepestDescent,
    Trades,
    budget_of,
    crafted,
    evaluating,
    gumbel_logits,
)
from bench.training.recipes import RECIPES, Recipe, objective_of
from bench.weights.files import load_checkpoint
from bench.weights.zoo import manifest, zoo_file

TINY: dict[str, Any] = {"width": 4, "blocks": (1,), "stem_kernel": (3, 3, 3), "stem_stride": (1, 2, 2)}


def network(classes: int = 3, seed: int = 0) -> ResNet3D:
    return build_seeded(lambda: ResNet3D(classes, **TINY), seed)


def tiny_model(num_classes: int = 12, seed: int = 0) -> ResNet3D:
    """A model for recipes, named ``tiny_model`` of this file."""
    return network(num_classes, seed)


def unnormalised(num_classes: int = 12) -> nn.Module:
    """A model without batch normalisation, named ``unnormalised`` of this file."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 64 * 64, num_classes))


def branched() -> MultiBN:
    return MultiBN(network(), network(len(BRANCHES), 1))


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(count, 3, 2, 16, 16, generator=generator), torch.arange(count) % 3


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def test_budgets_take_the_same_part_of_any_frame() -> None:
    assert (budget_of("roa", 112, 5).size, budget_of("af", 112, 5).size, budget_of("spa", 112, 5).size) == (30, 10, 100)
    assert (budget_of("roa", 64, 5).size, budget_of("af", 64, 5).size, budget_of("spa", 64, 5).size) == (17, 6, 33)
    assert budget_of("pgd", 64, 5).step_size == pytest.approx(1 / 255)
    assert budget_of("roa", 64, 5).step_size == pytest.approx(70 / 255)
    assert budget_of("roa", 64, 3).step_size == pytest.approx(350 / 255 / 3)
    assert str(budget_of("af", 64, 5, {"af": 2})).startswith("border 2 px")
    assert str(budget_of("pgd_l2", 112, 5)).startswith("l2 160")
    assert (budget_of("pgd_l2", 112, 5).step_size, budget_of("multav", 112, 5).step_size) == (1.0, 0.01)
    with pytest.raises(BenchError, match=r"Unknown attack 'rao' \(did you mean 'roa'\?\)"):
        budget_of("rao", 64, 5)


@pytest.mark.parametrize("name", ["pgd_l2", "multav"])
def test_attacks_of_the_networks_compared_with_oudefend(name: str) -> None:
    """Two unit steps of PGD-L2 from the clean clip, two hundredths of MultAV."""
    net, (clips, labels) = network(), batch()
    budget = budget_of(name, 16, 5)
    with evaluating(net):
        found = crafted(net, name, clips, labels, Budget(budget.norm, budget.size, 2, budget.step_size), rng())
    if name == "pgd_l2":
        assert ((found - clips).flatten(1).norm(dim=1) <= 2 + 1e-5).all()
        assert ((found - clips).flatten(1).norm(dim=1) > 0.5).all()
    else:
        inside = clips > 1 / 255
        ratio = (found / clips)[inside]
        assert 1.005 < float(ratio.max()) <= 1.01**2 + 1e-5
    assert not torch.equal(found, clips)


def attacked(net: nn.Module, names: list[str], clips: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The same attacks as the objective makes, with the same draws."""
    generator = rng()
    with evaluating(net):
        return {n: crafted(net, n, clips, labels, budget_of(n, 16, 2), generator) for n in names}


def each(net: nn.Module, parts: list[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropies ``(parts, B)`` of one pass in training mode over all parts together."""
    logits = net.train()(torch.cat(parts))
    return F.cross_entropy(logits, labels.repeat(len(parts)), reduction="none").view(len(parts), -1)


def test_one_attack_trains_on_attacked_clips_alone() -> None:
    net, (clips, labels) = network().train(), batch()
    found, figures = AdversarialTraining(attacks=["spa"], steps=2).loss(net, (clips, labels), rng())
    fresh = network()  # the pass above has moved the running statistics of the other
    parts = [attacked(fresh, ["spa"], clips, labels)["spa"]]
    torch.testing.assert_close(found, each(fresh, parts, labels).mean())
    assert set(figures) == {"spa"}
    assert net.training


def test_several_attacks_are_averaged_in_one_batch() -> None:
    net, (clips, labels) = network().train(), batch()
    found, figures = AdversarialTraining(True, attacks=["pgd", "roa"], steps=2).loss(net, (clips, labels), rng())
    fresh = network()
    parts = [clips, *attacked(fresh, ["pgd", "roa"], clips, labels).values()]
    torch.testing.assert_close(found, each(fresh, parts, labels).mean())
    assert set(figures) == {"clean", "pgd", "roa"}


def test_the_worst_of_each_clip_is_chosen_in_evaluation_mode_and_trained_on_alone() -> None:
    """What was not chosen leaves no trace, in the statistics of normalisation neither."""
    net, (clips, labels) = network(seed=5).train(), batch(12)
    made = AdversarialTraining(True, "max", attacks=["pgd", "roa"], steps=2)
    found, figures = made.loss(net, (clips, labels), rng())
    fresh = network(seed=5)
    pgd, roa = attacked(fresh, ["pgd", "roa"], clips, labels).values()
    with torch.no_grad():
        losses = torch.stack([F.cross_entropy(fresh.eval()(x), labels, reduction="none") for x in (pgd, roa)])
    chosen = torch.stack([roa[i] if losses[1, i] > losses[0, i] else pgd[i] for i in range(len(labels))])
    assert 0 < int((losses[1] > losses[0]).sum()) < len(labels)  # each is the worst of some clips
    torch.testing.assert_close(found, each(fresh, [clips, chosen], labels).mean())
    for (name, value), expected in zip(net.state_dict().items(), fresh.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)
    assert set(figures) == {"clean", "max"}


def test_behind_a_transform_the_network_sees_and_is_attacked_through_it() -> None:
    """Halftoned clips are black and white; their attack moves all the same, by the stand-in of what has no gradient."""
    net, (clips, labels) = network().train(), batch()
    made = AdversarialTraining(True, attacks=["pgd"], steps=2, behind="halftone")
    seen: list[Tensor] = []
    net.stem.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    found, _ = made.loss(net, (clips, labels), rng())
    assert all(part.flatten(0, 1).unique().numel() <= 6 for part in seen)  # black or white in each normalised channel
    fresh = network()
    with evaluating(fresh):
        through = made.facing(fresh, "pgd")
        moved = crafted(through, "pgd", clips, labels, budget_of("pgd", 16, 2), rng())
    assert 0 < float((moved - clips).abs().max()) <= 4 / 255 + 1e-6
    halftone = DEFENSES.create("halftone")
    shown = [halftone.purify(part, ClipRandom(range(len(part)))) for part in (clips, moved)]
    torch.testing.assert_close(found, each(fresh, shown, labels).mean())


def test_clean_clips_alone_are_standard_training() -> None:
    net, (clips, labels) = network().train(), batch()
    found, figures = AdversarialTraining(True, attacks=[]).loss(net, (clips, labels), rng())
    torch.testing.assert_close(found, F.cross_entropy(network().train()(clips), labels))
    assert set(figures) == {"clean"}


def published_trades(net: nn.Module, clips: Tensor, labels: Tensor, noise: Tensor, steps: int, size: float) -> Tensor:
    """The loss as its authors compute it: divergence raised in evaluation mode, then three passes in training mode."""
    divergence = nn.KLDivLoss(reduction="sum")
    step, x = size / steps * 1.25, clips + 0.001 * noise
    net.eval()
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        value = divergence(F.log_softmax(net(x), 1), F.softmax(net(clips), 1))
        (slope,) = torch.autograd.grad(value, x)
        x = torch.min(torch.max(x.detach() + step * slope.sign(), clips - size), clips + size).clamp(0, 1)
    net.train()
    natural = F.cross_entropy(net(clips), labels)
    robust_part = divergence(F.log_softmax(net(x), 1), F.softmax(net(clips), 1)) / len(clips)
    return natural + 6.0 * robust_part


def test_trades_is_the_published_loss_with_its_gradient_and_statistics() -> None:
    """Three steps go as far as the paper's five of a quarter of the ball: 1.25 times the ball over three."""
    net, (clips, labels) = network().double().train(), batch(6)
    clips = clips.double()  # steps are signs: in single precision, two ways to the same slope differ in a few
    noise = torch.randn(clips.shape, generator=rng()).double()
    loss, figures = Trades(beta=6.0, steps=3).loss(net, (clips, labels), rng())
    loss.backward()
    other = network().double()
    expected = published_trades(other, clips, labels, noise, 3, 4 / 255)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    for (name, value), running in zip(net.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(value, running, msg=name)
    assert set(figures) == {"clean", "pgd"}


def test_clips_of_trades_stay_in_the_ball_and_diverge() -> None:
    net, (clips, _) = network(), batch()
    with evaluating(net):
        moved = Trades(steps=3)._diverging(net, clips, rng())
        assert float((moved - clips).abs().max()) <= 4 / 255 + 1e-6
        before = clips + 0.001 * torch.randn(clips.shape, generator=rng())
        q0, q1, p = (net(x).double().softmax(1) for x in (before, moved, clips))
    assert (p * (p / q1).log()).sum() > (p * (p / q0).log()).sum()


class Bright(nn.Module):
    """Class 0 is dark: a rectangle, which may be white, raises the loss far more than 4/255 can."""

    def forward(self, clips: Tensor) -> Tensor:
        score = 5 * clips.mean((1, 2, 3, 4))
        return torch.stack([-score, score, torch.full_like(score, -9)], 1)


class Subtle(nn.Module):
    """Only a checkerboard of the finest kind counts, and grey the attacker must not paint."""

    def forward(self, clips: Tensor) -> Tensor:
        sign = torch.ones(16, 16)
        sign[::2, ::2] = sign[1::2, 1::2] = -1
        grey = (clips - 0.5).abs().lt(1e-6).double().flatten(1).sum(1)  # counts, without a gradient
        score = 0.01 * (clips * sign).flatten(1).sum(1) - grey
        return torch.stack([-score, score], 1)


def test_steepest_descent_takes_the_threat_that_hurts_most() -> None:
    made, (clips, _) = SteepestDescent(steps=4), batch()
    dark, labels = 0.2 * clips, torch.zeros(4, dtype=torch.int64)
    boxed, share = made.steepest(Bright(), dark, labels, rng())
    assert share == 1.0
    changed = (boxed != dark).any(1)
    side = budget_of("roa", 16, 4).size
    assert (changed.flatten(2).sum(2) == side**2).all()  # one square in every frame, drawn once and kept
    assert (boxed[changed[:, None].expand_as(boxed)] > 0.9).all()
    moved, share = made.steepest(Subtle(), clips, labels, rng())
    assert share == 0.0
    assert float((moved - clips).abs().max()) == pytest.approx(4 / 255, abs=1e-6)


def test_branches_are_trained_each_on_its_own_attack() -> None:
    net, (clips, labels) = MultiBN(network(), None, select="clean").train(), batch()
    found, figures = BranchTraining(steps=2).loss(net, (clips, labels), rng())
    net, generator = MultiBN(network(), None, select="clean"), rng()
    parts = [clips]
    with evaluating(net):
        for k, name in ((1, "pgd"), (2, "roa")):
            through = nn.Module()
            through.forward = lambda x, k=k: net.through(x, k)  # type: ignore[method-assign,misc,assignment]
            parts.append(crafted(through, name, clips, labels, budget_of(name, 16, 2), generator))
    logits = [net.train().through(x, k) for k, x in enumerate(parts)]
    expected = torch.stack([F.cross_entropy(z, labels) for z in logits]).mean()
    # The shortcuts' shared normalisation sees the whole batch; this small network has no shortcut with one.
    torch.testing.assert_close(found, expected)
    assert set(figures) == {"clean", "pgd", "roa"}


def test_before_there_is_a_selection_every_attack_faces_its_own_branch() -> None:
    made, net = BranchTraining(steps=2), MultiBN(network(), None, select="clean").eval()
    stem = net.classifier.get_submodule("stem.1")
    assert isinstance(stem, Branches)
    for k, branch in enumerate(stem.branches):
        nn.init.constant_(branch.weight, 1.0 + k)  # type: ignore[arg-type]
    clips, _ = batch()
    for attack, k in (("clean", 0), ("pgd", 1), ("spa", 1), ("roa", 2), ("af", 2)):
        assert torch.equal(made.facing(net, attack)(clips), net.through(clips, k))


def test_shared_normalisations_stay_as_they_are_in_the_second_stage() -> None:
    """In clips of one frame, too, whose networks have those of images."""

    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn1, self.downsample = nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3))

        def forward(self, clips: Tensor) -> Tensor:
            return (self.bn1(clips[:, :, 0]) + self.downsample(clips[:, :, 0])).mean((2, 3))

    net = MultiBN(Images(), network(len(BRANCHES), 1)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    SelectionTraining(steps=1).loss(net, batch(), rng())
    moved = {k for k, v in net.state_dict().items() if "running" in k and not torch.equal(v, before[k])}
    assert any("branches" in k for k in moved)
    assert not any("downsample" in k for k in moved)
    assert net.get_submodule("classifier.downsample.0").training


def test_a_flow_stream_keeps_its_estimator() -> None:
    net = AdversarialTraining(steps=1).build("flow_stream_tiny", "motion12")
    frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
    standard = Classification().build("flow_stream_tiny", "motion12")
    assert frozen == {n for n, p in standard.named_parameters() if not p.requires_grad}
    assert frozen


def test_some_clips_are_of_all_classes_alike() -> None:
    class ByClass(Dataset):
        classes = ("a", "b", "c", "d")

        def refs(self) -> list[ClipRef]:
            return [ClipRef(f"{label}/{i}", label) for label in range(4) for i in range(25)]

        def load(self, ref: ClipRef) -> Tensor:
            raise NotImplementedError

    assert sorted(r.label for r in some_of(ByClass(), 8)) == [0, 0, 1, 1, 2, 2, 3, 3]
    everything = some_of(ByClass(), 1000)
    assert sorted(everything, key=lambda r: r.id) == sorted(ByClass().refs(), key=lambda r: r.id)
    assert {r.label for r in everything[:20]} == {0, 1, 2, 3}
    assert [r.label for r in some_of(split_of("motion12", "test"), 4)] == [0, 1, 2, 3]


def test_the_selection_is_trained_with_the_classifier() -> None:
    net, (clips, labels) = branched().train(), batch()
    made = SelectionTraining(weight=0.7, steps=2)
    loss, figures = made.loss(net, (clips, labels), rng())
    plain, _ = SelectionTraining(weight=0.0, steps=2).loss(branched().train(), (clips, labels), rng())
    fresh = branched()
    parts = [clips, *attacked(fresh, ["pgd", "roa"], clips, labels).values()]
    selection = fresh.train().selection(torch.cat(parts))
    kinds = torch.arange(3).repeat_interleave(4)
    torch.testing.assert_close(loss - plain, 0.7 * F.cross_entropy(selection, kinds), rtol=1e-3, atol=1e-4)
    assert set(figures) == {"clean", "pgd", "roa", "selection"}
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_gumbel_softmax_draws_each_branch_as_often_as_the_softmax_weighs_it() -> None:
    """At a low temperature a draw is nearly one branch, and which one follows the softmax; at a high one, all alike."""
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(20000, 3)
    drawn = gumbel_logits(logits, 0.05, rng()).softmax(1)
    counts = torch.bincount(drawn.argmax(1), minlength=3) / len(drawn)
    torch.testing.assert_close(counts, logits[0].softmax(0), atol=0.015, rtol=0)
    assert float(drawn.amax(1).mean()) > 0.95
    even = gumbel_logits(logits, 1000.0, rng()).softmax(1)
    torch.testing.assert_close(even, torch.full_like(even, 1 / 3), atol=0.01, rtol=0)


def test_gumbel_softmax_takes_part_in_training_alone() -> None:
    """The loss moves, the selection's own part and the finished network do not."""
    clips, labels = batch()
    soft, figures = SelectionTraining(weight=0.0, steps=1).loss(branched().train(), (clips, labels), rng())
    net = branched().train()
    drawn, drawn_figures = SelectionTraining(weight=0.0, gumbel=1.0, steps=1).loss(net, (clips, labels), rng())
    assert float((drawn - soft).detach().abs()) > 1e-6
    assert drawn_figures["selection"] == figures["selection"]
    drawn.backward()
    assert net.selector is not None
    assert any(float(p.grad.abs().max()) > 0 for p in net.selector.parameters() if p.grad is not None)
    assert RECIPES["multibn_gumbel-published"].start_recipe == "multibn_branches-published"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Trades(attacks=["roa"]), "TRADES is defined in the linf ball of pgd"),
        (lambda: SteepestDescent(attacks=["pgd"]), "MSD is built for pgd and roa"),
        (lambda: BranchTraining(attacks=["pgd"]), "branches for clean clips, pgd and roa"),
        (lambda: SelectionTraining(attacks=["pgd"]), "branches for clean clips, pgd and roa"),
        (lambda: AdversarialTraining(combine="sum"), "combine must be avg or max"),  # type: ignore[arg-type]
        (lambda: AdversarialTraining(attacks=[]), "nothing to train on"),
        (lambda: AdversarialTraining(behind="gaussian_noise"), "gaussian_noise draws random numbers"),
        (lambda: AdversarialTraining(behind="multibn"), "multibn is no transform of clips"),
        (lambda: SelectionTraining(gumbel=-1.0), "gumbel must be a temperature"),
    ],
)
def test_bad_options(make: Any, says: str) -> None:
    with pytest.raises((ValueError, BenchError), match=says):
        make()


def test_every_recipe_of_the_family_makes_its_objective() -> None:
    family = [r for r in RECIPES.values() if objective_of(r).kind == "robust"]
    # short and published ones, three that have no other form, five behind transforms for clips and pictures, and of the
    # 28 networks compared with OUDefend the 24 that are not among them
    assert len(family) == 2 * 15 + 3 + 2 * 5 + 24
    published = RECIPES["avg-published"]
    assert (published.steps, published.batch, published.lr, published.optimiser) == (35760, 4, 5e-4, "sgd")
    assert published.options["steps"] == 5
    assert RECIPES["multibn-published"].start_recipe == "multibn_branches-published"


def recipe(**changes: Any) -> Recipe:
    options = {"attacks": ["spa"], "steps": 1}
    small = {"options": options, "steps": 4, "batch": 3, "warmup": 1, "validate": 2}
    return Recipe("try", "adversarial", **{**small, **changes})


def run(
    work: Path, what: Recipe, stop: int | None = None, start: Path | None = None, new_head: bool = False
) -> nn.Module:
    class Stop(Exception):
        pass

    def report(state: TrainingState) -> None:
        if state.step == stop and not math.isnan(state.loss):
            raise Stop

    try:
        return train(
            f"{__name__}:tiny_model",
            "motion12",
            what,
            seed=0,
            work=work,
            device=torch.device("cpu"),
            report=report,
            save_every=2,
            start=start,
            new_head=new_head,
        )
    except Stop:
        return nn.Module()


def test_an_interrupted_training_ends_as_an_uninterrupted_one_and_keeps_the_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unions = iter([0.5, 0.25, 0.5, 0.25])
    monkeypatch.setattr(AdversarialTraining, "validate", lambda *_: {"val_union": next(unions)})
    whole = run(tmp_path / "whole", recipe())
    run(tmp_path / "parts", recipe(), stop=3)
    resumed = run(tmp_path / "parts", recipe())
    early = run(tmp_path / "early", recipe(validate=None), stop=None)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    # The look after step 2 was better than that after step 4, so these are not the last weights.
    assert any(
        not torch.equal(a, b) for a, b in zip(whole.state_dict().values(), early.state_dict().values(), strict=True)
    )
    text = (tmp_path / "whole" / "curve.csv").read_text(encoding="utf-8").splitlines()
    assert "val_union" in text[0]
    assert [line.split(",")[text[0].split(",").index("val_union")] for line in text[1:]] == [
        "nan",
        "0.5",
        "nan",
        "0.25",
    ]


def test_validation_looks_at_the_split_val_and_leaves_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = AdversarialTraining(attacks=["spa"], steps=1)
    monkeypatch.setattr(AdversarialTraining, "valid_clips", 3)
    net = network(12).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    figures = made.validate(net, "motion12", torch.device("cpu"))
    assert set(figures) == {"val_clean", "val_spa", "val_union"}
    assert figures["val_union"] <= min(figures["val_clean"], figures["val_spa"])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


def test_a_robust_network_starts_from_weights_of_the_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdversarialTraining, "validate", lambda *_: {})
    monkeypatch.setattr(AdversarialTraining, "measure", lambda *_: {"clean": 1.0})
    plain = run(tmp_path / "plain", recipe(lr=1e-3))
    first = export(
        plain,
        f"{__name__}:tiny_model",
        "motion12",
        recipe(),
        seed=0,
        seconds=1.0,
        out=tmp_path / "zoo",
        device=torch.device("cpu"),
    )
    assert first["model"] == f"{__name__}:tiny_model_try"
    assert first["base"] == f"{__name__}:tiny_model"
    assert json.loads((tmp_path / "zoo" / "manifest.json").read_text())
    (file,) = (tmp_path / "zoo").glob("*.safetensors")
    by_hand = {"selector": "none", "select": "lp"}
    options = {"attacks": ["spa"], "steps": 1, "architecture": "multibn", "architecture_options": by_hand}
    still = run(tmp_path / "next", recipe(options=options, lr=1e-12, steps=1, validate=None), start=file)
    known, found = load_checkpoint(file), still.state_dict()
    for k in range(len(BRANCHES)):
        torch.testing.assert_close(found[f"classifier.stem.1.branches.{k}.weight"], known["stem.1.weight"].float())
    torch.testing.assert_close(found["classifier.fc.weight"], known["fc.weight"].float(), rtol=0, atol=1e-6)


def test_a_head_for_other_classes_starts_afresh_and_nothing_else(tmp_path: Path) -> None:
    """As from weights of Kinetics, in the published layout."""
    other = network(400, seed=3)
    wrapped = {"arch": "tiny", "state_dict": {f"module.{k}": v for k, v in other.state_dict().items()}}
    torch.save(wrapped, tmp_path / "kinetics.pth")
    what = recipe(steps=1, lr=1e-12, validate=None)
    found = run(tmp_path / "run", what, start=tmp_path / "kinetics.pth", new_head=True).state_dict()
    assert found["fc.weight"].shape == (12, 4)
    torch.testing.assert_close(found["stem.0.weight"], other.state_dict()["stem.0.weight"], rtol=0, atol=1e-6)
    with pytest.raises(BenchError, match="other shapes"):
        run(tmp_path / "again", what, start=tmp_path / "kinetics.pth")
    torch.save(ResNet3D(400, **{**TINY, "width": 8}).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(BenchError, match=r"differs from .* in more than its final layer"):
        run(tmp_path / "wide", what, start=tmp_path / "wide.pth", new_head=True)


def test_a_recipe_that_needs_normalisation_says_so(tmp_path: Path) -> None:
    what = Recipe("try", "multibn branches", {"steps": 1}, steps=1, batch=2)
    with pytest.raises(BenchError, match="MultiBN needs batch normalisation"):
        train(
            f"{__name__}:unnormalised",
            "motion12",
            what,
            seed=0,
            work=tmp_path,
            device=torch.device("cpu"),
            report=lambda _: None,
        )


def test_other_options_in_the_manifest_are_another_identity_with_the_same_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = next(e for e in manifest().values() if e["model"] == "resnet3d_tiny_multibn")
    monkeypatch.setattr(MODELS, "_entries", {e.name: e for e in MODELS})
    grid = Grid.model_validate(
        {
            "name": "one",
            "title": "one",
            "dataset": {"name": entry["dataset"], "clips": 1},
            "models": [entry["model"]],
            "defenses": ["none"],
            "attacks": ["clean"],
            "budgets": [{"norm": "linf", "size": "4/255", "steps": 1}],
        }
    )

    def identity(select: str) -> ComponentIdentity:
        options = {**entry["architecture_options"], "select": select}
        robust._registered({**entry, "architecture_options": options})
        return make_plan(grid, checkpoint=zoo_file(entry["model"], entry["dataset"])).cells[0].model.identity

    soft, again, clean = identity("soft"), identity("soft"), identity("clean")
    assert soft == again
    assert soft.weights == clean.weights
    assert soft != clean
    assert soft.stream() == clean.stream()
