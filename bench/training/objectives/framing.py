"""Learning a universal framing: the classifier stays as it is, the border around its clips is trained against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.robust import entry_name
from bench.registry import Spec
from bench.seeds import ClipRandom
from bench.threat.framing import UniversalFraming, framed
from bench.training.data import some_of, split_of
from bench.training.objectives.classifier import Classification, accuracy, labelled, proportion
from bench.weights.files import load_checkpoint, load_strictly
from bench.weights.zoo import zoo_file


class FramingObjective(Classification):
    """Maximises the mean cross-entropy of framed training clips.

    Source: Zajac et al., Adversarial Framing for Image and Video Classification, AAAI 2019.

    The classifier is the shipped one, or the one whose weights the training is told to start from.

    Args:
        width: of the border, in pixels.
    """

    kind = "framing"
    test_clips: ClassVar[int] = 200

    def __init__(self, width: int = 4) -> None:
        self.width = width

    def build(self, model: str, dataset: str, seed: int = 0) -> nn.Module:
        classifier = super().build(model, dataset, seed).eval().requires_grad_(False)
        shipped = zoo_file(Spec.parse(model).name, Spec.parse(dataset).name)
        if shipped is not None:
            load_strictly(classifier, load_checkpoint(shipped), shipped)
        data = split_of(dataset, "train")
        height, breadth = data.load(data.refs()[0]).shape[2:]
        return UniversalFraming(classifier, self.width, height, breadth)

    def adopt(self, network: nn.Module, state: Mapping[str, Tensor], path: Any, model: str, dataset: str) -> None:
        (classifier,) = cast(UniversalFraming, network)._classifier
        assert classifier is not None
        load_strictly(classifier, state, path)

    def entry(self, model: str, recipe: str) -> dict[str, Any]:
        return {
            "model": entry_name(model, recipe),
            "base": model,
            "source": "Zajac et al., Adversarial Framing for Image and Video Classification, AAAI 2019",
        }

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        clips, labels = batch
        logits = network(clips)
        return -F.cross_entropy(logits, labels), {"accuracy": accuracy(logits, labels)}

    @torch.no_grad()
    def measure(self, network: nn.Module, dataset: str, device: torch.device) -> dict[str, Any]:
        """Accuracy of the classifier on test clips as they are, and with this border, a black one and random ones."""
        border = cast(UniversalFraming, network)
        (classifier,) = border._classifier
        assert classifier is not None
        data = split_of(dataset, "test")
        hits = dict.fromkeys(("clean", "black", "random", "learned"), 0)
        refs = some_of(data, self.test_clips)
        classifier.to(device)
        for start in range(0, len(refs), 25):
            chunk = refs[start : start + 25]
            clips, labels = (t.to(device) for t in labelled(data, chunk))
            noise = ClipRandom.for_clips([r.id for r in chunk], "measure").uniform(3, 1, *clips.shape[3:])
            shown = {
                "clean": clips,
                "black": framed(clips, torch.zeros_like(clips), self.width),
                "random": framed(clips, noise.to(device), self.width),
                "learned": border.frame(clips),
            }
            for name, part in shown.items():
                hits[name] += int((classifier(part).argmax(1) == labels).sum())
        return {name: proportion(hit, len(refs)) for name, hit in hits.items()}
