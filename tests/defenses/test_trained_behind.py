"""The transform and the network behind it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench import Behind, BenchError, ClipRandom, DefendedClassifier
from bench.defense.trained import know_origin
from bench.registry import DEFENSES, Spec
from bench.weights.zoo import build_classifier, zoo_file

MODEL, DATASET = "resnet3d_tiny", "actions12"


def classifier(model: str = MODEL) -> nn.Module:
    made = build_classifier(Spec(model), zoo_file(model, DATASET))
    know_origin(made, MODEL, DATASET)
    return made


@pytest.mark.parametrize("transform", ["halftone", "jpeg(quality=30)", "gaussian_blur"])
def test_clips_go_through_the_transform_and_then_the_trained_network(transform: str) -> None:
    clips = torch.rand(2, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    defended = DefendedClassifier(classifier(), DEFENSES.create({"name": "trained_behind", "transform": transform}))
    shown = DEFENSES.create(transform).purify(clips, ClipRandom(range(2)))
    torch.testing.assert_close(defended(clips, ClipRandom(range(2))), classifier(f"{MODEL}_at_pgd")(shown))


def test_what_has_no_gradient_gets_that_of_its_stand_in() -> None:
    """Halftoning forward, the identity backward: the gradient of the network at the halftoned clip."""
    clips = torch.rand(1, 3, 2, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_(True)

    class Sum(nn.Module):
        def forward(self, seen: torch.Tensor) -> torch.Tensor:
            return torch.stack([(seen**3).flatten(1).sum(1), seen.flatten(1).sum(1)], 1)

    halftone = DEFENSES.create("halftone")
    Behind(halftone, Sum())(clips)[:, 0].sum().backward()
    black_and_white = halftone.purify(clips.detach(), ClipRandom([0]))
    assert black_and_white.unique().tolist() == [0.0, 1.0]
    torch.testing.assert_close(clips.grad, 3 * black_and_white**2)


def test_bad_input() -> None:
    with pytest.raises(BenchError, match="random_noise draws random numbers"):
        DEFENSES.create({"name": "trained_behind", "transform": "random_noise"})
    with pytest.raises(BenchError, match="multibn is no transform of clips"):
        DEFENSES.create({"name": "trained_behind", "transform": "multibn"})
