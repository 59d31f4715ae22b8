"""Every registered defence is attacked and judged on a GPU by every gradient that it has, as on the CPU."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.cheap import DEFENSE_SETTINGS
from kit.networks import Smooth
from kit.pretend import assert_same
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import ClipRandom, DefendedClassifier, Purifier, cross_entropy
from bench.defense.defended import GRADIENTS, automatic, why_not
from bench.defense.trained import TrainedDefense, know_origin
from bench.registry import DEFENSES, Spec
from bench.weights.zoo import build_classifier, zoo_file

MODEL, DATASET = "resnet3d_tiny", "actions12"
# Other ways through a defence than its settings in the kit; by one gradient each.
MORE: list[tuple[str, dict[str, Any]]] = [
    ("color_jitter", {"space": "lab"}),
    ("color_jitter", {"space": "xyz"}),
    ("color_jitter", {"space": "yuv"}),
    ("diffpure_fixed", {"steps": 1, "backbone": "pixel_tiny", "sampler": "sde"}),
    ("ddim_inversion", {"steps": 1, "backbone": "image_tiny"}),
    ("encode_decode", {}),
    ("feature_denoising", {"variant": "spacetime"}),
    ("motion_consistency", {"steps": 1, "step": "tanh", "unroll": 1}),
    ("multibn", {"select": "physical"}),
    ("temporal_shuffle", {"variant": "chunks"}),
    ("videopure", {"steps": 1, "mode": "as_described", "carry": True}),
]
# Robust networks without shipped weights for this classifier.
UNSHIPPED = ["feature_denoising(variant='spacetime')"]
REGISTERED = [Spec(name, DEFENSE_SETTINGS.get(name, {})) for name in DEFENSES.names()]
CASES = [*REGISTERED, *(Spec(*more) for more in MORE)]


@lru_cache(maxsize=1)
def classifier() -> nn.Module:
    made = build_classifier(Spec(MODEL), zoo_file(MODEL, DATASET))
    know_origin(made, MODEL, DATASET)
    return made


def made(case: Spec, folder: Path) -> Any:
    defense = DEFENSES.create(case)
    if str(case) not in UNSHIPPED:
        return defense
    assert isinstance(defense, TrainedDefense)
    file = folder / "seeded.safetensors"
    save_file(
        {name: value.contiguous() for name, value in defense.network(copy.deepcopy(classifier())).state_dict().items()},
        file,
    )
    return DEFENSES.create(Spec(case.name, {**case.params, "weights": str(file)}))


def test_every_gradient_is_asked_for_somewhere() -> None:
    defenses = [DEFENSES.create(case) for case in CASES]
    known = set(GRADIENTS) - {"strongest"}  # each of its moves has one of the others
    assert {g for g in known for defense in defenses if why_not(defense, g) is None} == known


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_defence_is_attacked_and_judged_as_on_the_cpu(case: Spec, tmp_path: Path) -> None:
    small = isinstance(DEFENSES.create(case), Purifier)
    shape = (2, 3, 3, 8, 8) if small else (2, 3, 8, 16, 16)
    clips = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([1, 3])

    def run(device: torch.device) -> list[Tensor]:
        found = []
        defense = made(case, tmp_path)
        network = Smooth(3.0) if isinstance(defense, Purifier) else classifier()
        defended = DefendedClassifier(network, defense, automatic(defense)).to(device)
        x = clips.to(device)
        for gradient in GRADIENTS if case in REGISTERED else [automatic(defense)]:
            if why_not(defense, gradient) is not None:
                continue
            target = defended.target(ClipRandom([3, 4])).through(gradient)
            if gradient == "query":
                found.append(target.ask(x).logits)
            else:
                climb = target.gradient(x, None, labels.to(device), cross_entropy)
                found += [climb.value, climb.gradient]
        decision = defended.decide(x, ClipRandom([7, 8]))
        measured = defended.measure(x, decision.purified)
        return [*found, decision.purified, decision.logits.to(device), measured.to(device)]

    assert_same(run)
