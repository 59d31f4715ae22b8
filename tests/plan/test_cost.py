"""What a plan costs, against closed forms, torchvision's published figures, and what really runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit.commands import Answer
from pipelines import save_modelscope
from torch import Tensor, nn

from bench import BenchError, ClipRandom
from bench.defense.defended import DefendedClassifier
from bench.grids.grid import override, read_grid
from bench.models.i3d import I3D, I3DFlow
from bench.models.nl import nl_r50
from bench.plan.cost import Accountant, Card, Figures, Meter, RowCost, card_of, cost_of
from bench.plan.expand import make_plan
from bench.registry import DEFENSES

TERA, GIB = 1e12, 2**30


def net() -> nn.Module:
    """Two convolutions and a linear layer, on clips of 8x16x16."""
    torch.manual_seed(0)
    layers = (nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 4, 3, stride=2, padding=1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4 * 4 * 8 * 8, 5)).eval().requires_grad_(False)


CONV = 2 * 27 * (3 * 8 * 8 * 16 * 16 + 8 * 4 * 4 * 8 * 8)  # two per multiplication: taps x in x out x positions
LINEAR = 2 * 4 * 4 * 8 * 8 * 5


def test_a_small_network_is_counted_in_closed_form() -> None:
    accountant = Accountant()
    defended = DefendedClassifier(net(), DEFENSES.create("none"))
    forward = accountant.measure(defended, (3, 8, 16, 16), None)
    assert forward.flops == {"fp32": CONV + LINEAR}
    both = accountant.measure(defended, (3, 8, 16, 16), "exact")
    assert both.total == 2 * (CONV + LINEAR)  # the gradient of the input alone costs what the answer does
    # On the way back both outputs of the first layers stay: the ReLU needs its own, and nothing else needs any.
    assert both.peak >= 4 * 8 * 8 * 16 * 16


def test_a_product_of_matrices_with_and_without_data_and_in_half_precision() -> None:
    for device in ("cpu", "meta"):
        with Meter() as meter:
            x = torch.empty(3, 5, device=device)
            y = x @ torch.empty(5, 7, device=device)
            held = meter.figures()
            del x
            rest = meter.figures()
        assert held.flops == {"fp32": 2 * 3 * 5 * 7}
        assert (held.peak, rest.kept) == (4 * (15 + 35 + 21), 4 * y.numel())
    with Meter() as meter:
        torch.empty(3, 5, device="meta", dtype=torch.half) @ torch.empty(5, 7, device="meta", dtype=torch.half)
    assert meter.figures().flops == {"fp16": 2 * 3 * 5 * 7}


def test_weights_and_input_are_no_memory_of_the_work() -> None:
    weight, x = torch.empty(100, 100), torch.empty(4, 100)
    with Meter() as meter:
        F.linear(x, weight)
    assert meter.figures().peak == 4 * 4 * 100


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11"])
def test_torchvisions_published_operations(name: str) -> None:
    """Its tables count multiply-adds in thousands of millions."""
    from torchvision.models import get_model, get_model_weights

    with torch.device("meta"):
        network = get_model(name).eval().requires_grad_(False)
    published = next(iter(get_model_weights(name))).meta["_ops"]
    found = Accountant().call(network, torch.empty(1, 3, 224, 224, device="meta"), False)
    assert found.total / 2e9 == pytest.approx(published, rel=2e-3)


def test_the_published_classifier() -> None:
    """Known figures of NL-R50 at 32x224x224: .107 TFLOP, .237 with the gradient, .76 GiB a clip."""
    with torch.device("meta"):
        network = nl_r50()
    defended, accountant = DefendedClassifier(network, DEFENSES.create("none")), Accountant()
    assert accountant.measure(defended, (3, 32, 224, 224), None).total / TERA == pytest.approx(0.107, abs=0.001)
    both = accountant.measure(defended, (3, 32, 224, 224), "exact")
    assert both.total / TERA == pytest.approx(0.237, abs=0.001)
    assert both.peak / GIB == pytest.approx(0.76, abs=0.05)


def really(defended: DefendedClassifier, clip: Tensor, gradient: Any) -> Figures:
    """What the same work takes where it is done, on data and without any call being stood in for."""
    view = defended.with_gradient(gradient or "none")
    with Meter() as meter, torch.set_grad_enabled(gradient is not None):
        x = clip.clone().requires_grad_(gradient is not None)
        logits = view(x, ClipRandom([0]))
        if gradient is not None:
            torch.autograd.grad(logits.sum(), x)
    return meter.figures()


@pytest.mark.parametrize(
    "defense",
    [
        "videopure(backbone='modelscope', weights=FOLDER, steps=2)",
        "diffpure_ddim(backbone='stable_diffusion', weights=OTHER, steps=2)",
        "motion_consistency(steps=2, pairs_at_once=2)",
        "wavelet",
        "temporal_shuffle",
    ],
)
def test_a_purifier_is_counted_as_it_runs(defense: str, tmp_path: Path) -> None:
    """Network calls are measured once and then counted; what really runs, on data, has the same operations."""
    from pipelines import save_stable_diffusion

    folders = {"FOLDER": save_modelscope, "OTHER": save_stable_diffusion}
    for word, save in folders.items():
        if word in defense:
            defense = defense.replace(word, repr(str(save(tmp_path / word))))
    clip = torch.rand(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Conv3d(3, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten()).eval()
    defended = DefendedClassifier(network, DEFENSES.create(defense), "none")
    accountant = Accountant()
    ways: list[Any] = [None, "bpda" if "wavelet" in defense else "exact"]
    for gradient in ways:
        found, true = accountant.measure(defended, tuple(clip.shape[1:]), gradient), really(defended, clip, gradient)
        # Attention is counted fused, whose way back computes scores once more.
        assert found.total == pytest.approx(true.total, rel=0.02), gradient
        assert found.peak == pytest.approx(true.peak, rel=0.4), gradient


def test_flow_is_counted_with_the_updates_it_makes() -> None:
    """Two updates for an answer, one or four for a gradient: networks are copied while they work."""
    from torchvision.models.optical_flow import raft_small

    from bench.flow.raft import Raft

    torch.manual_seed(0)
    clip = torch.rand(1, 3, 2, 128, 128)
    work = {}
    for updates in (1, 4):
        stream = I3DFlow(Raft(raft_small(), 2), I3D(5, channels=2), 20.0, updates, 1).eval()
        defended = DefendedClassifier(stream, DEFENSES.create("none"), "none")
        for gradient in (None, "exact"):
            found = Accountant().measure(defended, tuple(clip.shape[1:]), gradient).total  # type: ignore[arg-type]
            assert found == pytest.approx(really(defended, clip, gradient).total, rel=0.01)
            work[updates, gradient] = found
    assert work[1, None] == work[4, None]
    assert work[1, "exact"] < work[4, "exact"]


def test_a_plan_is_the_sum_of_its_attacks_and_judgements(
    gray_grid: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six clips, two rows, clean and PGD of four steps and a check, made once for both rows."""
    once, both = Figures({"fp32": 10}, 7), Figures({"fp32": 25}, 11)
    monkeypatch.setattr("bench.plan.cost._row", lambda _, m, d, *__: RowCost(m, d, once, {"exact": both}, 3))
    grid = gray_grid(("[clean, noise, PGD, PGD+BPDA, PGD+exact]", "[clean, noise, PGD]"), ("Identity", "Lighten"))
    plan = make_plan(read_grid(grid))
    cost = cost_of(plan)
    judged, attacked = 2 * 3 * 6 * 10, 6 * (1 * 10 + 4 * 25)
    assert cost.work.flops == {"fp32": judged + attacked}
    assert [row.defense for row in cost.rows] == ["none", "kit.gray:Lighten"]
    assert cost.memory == 11 + 3
    # Attacks have the grid's precision, the judge his own.
    coarse = cost_of(make_plan(override(read_grid(grid), precision="bf16")))
    assert coarse.work.flops == {"fp32": judged, "bf16": attacked}


def test_hours_follow_the_precision() -> None:
    """A card does half precision at another rate, and TensorFloat-32; what has a precision of its own keeps it."""
    card = Card(fp32=10, tf32=50, half=100, memory=80)
    one, two = Figures({"fp32": 10**13}), Figures({"fp16": 10**13, "fp32": 10**13})
    assert one.seconds(card) == pytest.approx(1 / 0.35)
    assert two.seconds(card) == pytest.approx(1.1 / 0.35)
    assert two.computed("tf32").seconds(card) == pytest.approx(0.3 / 0.35)
    assert two.computed("bf16").seconds(card) == pytest.approx(0.2 / 0.35)
    with pytest.raises(BenchError, match="did you mean 'a100'"):
        card_of("a10")


def test_a_dry_run_prints_operations_memory_and_hours(bench: Callable[..., Answer], tmp_path: Path) -> None:
    arguments = ("run", "--dry-run", "--results", tmp_path / "r", "--clips", 2, "--attack", "PGD", "--defense", "jpeg")
    answer = bench(*arguments, "--card", "a100")
    assert answer.code == 0, answer.err
    for word in ("TFLOP", "GiB a clip", "on one a100", "clips at once fit"):
        assert word in answer.out, word
    refused = bench(*arguments, "--card", "a1000")
    assert refused.code == 2
    assert "There is no card 'a1000'" in refused.err
