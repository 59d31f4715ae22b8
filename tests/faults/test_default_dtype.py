"""Code around may set another default dtype: no attack and no defence may depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from kit.cheap import DEFENSE_SETTINGS
from kit.gray import LEVELS, level_classifier
from torch import Tensor, nn

import bench
from bench import BenchError, Budget, ClipRandom, DefendedClassifier, Purifier
from bench.defense.trained import know_origin
from bench.registry import ATTACKS, DEFENSES, Spec
from bench.weights.zoo import build_classifier, zoo_file

MODEL, DATASET = "resnet3d_tiny", "actions12"
# Those that would take long, or cannot be made without parameters.
ATTACK_SETTINGS: dict[str, dict[str, Any]] = {
    "autoattack": {"queries": 8, "targets": 2, "confirm": 2, "draws": 2},
    "square": {"queries": 8},
    "rays": {"queries": 8},
    "vbad": {"queries": 8, "samples": 4},
    "astfocus": {"queries": 8, "samples": 4},
    "motion_i": {"lambdas": [0.0, 1.0]},
    "motion_ii": {"lambdas": [0.0, 10.0]},
    "joint_flow": {"mus": [1.0]},
    "adaptive": {"looks": 2},
}
# They need a network with branches, or learned weights of their own.
NOT_HERE = {"branches", "joint_selection", "af_universal", "torchattacks"}
UNSHIPPED = {"feature_denoising"}


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Net(nn.Module):
    """A smooth classifier of clips of any size, made under the usual default."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv3d(3, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = 30 * self.head(torch.tanh(4 * self.conv(clips)).mean(dim=(2, 3, 4)))
        return logits


def clips_of(count: int, frames: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, frames, size, size, generator=generator, dtype=torch.float32)


@pytest.mark.parametrize("name", sorted(set(ATTACKS.names()) - NOT_HERE))
def test_attacks_do_not_depend_on_the_default_dtype(name: str) -> None:
    spec = {"name": name, **ATTACK_SETTINGS.get(name, {})}
    attack = ATTACKS.create(spec)
    norm = attack.norms[0]
    size = {"rectangle": 4, "border": 1, "pixels": 6}.get(norm, 0.03)
    net, clips = Net(), clips_of(2, 4, 24)
    dtype = torch.bfloat16 if ord(name[-1]) % 2 else torch.float64
    labels = net(clips).argmax(1)
    budget, rng = Budget(norm, size, steps=2), [5, 6]
    plain = attack(net, clips, labels, budget, ClipRandom(rng))
    with default(dtype):
        other = ATTACKS.create(spec)(net, clips, labels, budget, ClipRandom(rng))
    assert other.clips.dtype == torch.float32
    assert torch.equal(plain.clips, other.clips)
    if plain.trace is not None:
        assert other.trace.dtype == torch.float32
        assert torch.equal(plain.trace.nan_to_num(), other.trace.nan_to_num())


@pytest.mark.parametrize("name", sorted(set(DEFENSES.names()) - UNSHIPPED))
def test_defences_do_not_depend_on_the_default_dtype(name: str) -> None:
    spec = {"name": name, **DEFENSE_SETTINGS.get(name, {})}
    weights = zoo_file(MODEL, DATASET)

    def slope() -> tuple[Tensor, Tensor]:
        defense = DEFENSES.create(spec)
        if isinstance(defense, Purifier):
            x = clips_of(1, 8, 16)
            return defense.purify(x, ClipRandom([3])), defense.bpda(x, ClipRandom([3]))
        classifier = build_classifier(Spec(MODEL), weights)
        know_origin(classifier, MODEL, DATASET)
        x = clips_of(1, 16, 64).requires_grad_(True)
        logits = DefendedClassifier(classifier, defense)(x, ClipRandom([3]))
        return logits.detach(), torch.autograd.grad(logits.sum(), x)[0]

    plain = slope()
    with default(torch.float64):
        other = slope()
    for one, another in zip(plain, other, strict=True):
        assert another.dtype == torch.float32
        assert torch.equal(one, another)


def test_evaluate_does_not_depend_on_the_default_dtype() -> None:
    model, clips = level_classifier(), torch.stack([torch.full((3, 4, 8, 8), level) for level in LEVELS])
    with default(torch.float64):
        frame = bench.evaluate(model, clips, [0, 1, 2], defense="bit_depth", budget={"size": 0.15}, verbose=False)
        assert torch.get_default_dtype() == torch.float64
    assert list(frame["status"]) == ["ok"] * 3
    assert frame["clean_correct"].all()
    assert not frame["correct"].any()


def test_weights_of_another_precision_are_named() -> None:
    clips = torch.stack([torch.full((3, 4, 8, 8), level) for level in LEVELS])
    with pytest.raises(BenchError, match=r"its weights torch\.float64: give model\.float\(\)"):
        bench.evaluate(Net().double(), clips, [0, 1, 2], verbose=False)
