"""Training classifiers, and measuring them: accuracy, frames in random order, PGD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.attack.base import Attack
from bench.data.base import ClipRef, Dataset
from bench.errors import BenchError
from bench.models.flow_stream import FlowStream
from bench.records.metrics import wilson
from bench.registry import ATTACKS, DATASETS, MODELS, Spec
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget
from bench.training.data import check_classes, some_of, split_of
from bench.training.objective import Objective
from bench.weights.zoo import build_classifier

_CHUNK = 25


def proportion(hits: int, total: int) -> dict[str, Any]:
    """A measured accuracy for the manifest: per cent, 95 % Wilson interval, number of clips."""
    low, high = wilson(hits, total)
    return {
        "accuracy": round(100 * hits / total, 2),
        "interval": [round(100 * low, 2), round(100 * high, 2)],
        "clips": total,
    }


def labelled(data: Dataset, refs: Sequence[ClipRef]) -> tuple[Tensor, Tensor]:
    """Clips ``(B, 3, T, H, W)`` and their labels ``(B,)``."""
    return torch.stack([data.load(r) for r in refs]), torch.tensor([r.label for r in refs])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    return float((logits.detach().argmax(1) == labels).float().mean())


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Loss and share of right answers."""
    return F.cross_entropy(logits, labels), {"accuracy": accuracy(logits, labels)}


@torch.no_grad()
def _hits(network: nn.Module, clips: Tensor, labels: Tensor) -> int:
    """Clips classified rightly."""
    return int((network(clips).argmax(1) == labels).sum())


class Classification(Objective):
    """Cross-entropy on clean clips.

    Attributes:
        clean_clips, attacked_clips: test clips of the measured figures.
        left_percent: per cent of clips that the recorded budget should leave right.
        trials: budgets tried at most to find it.
    """

    kind = "classifier"
    clean_clips: ClassVar[int] = 1000
    attacked_clips: ClassVar[int] = 200
    left_percent: ClassVar[tuple[float, float]] = (5.0, 9.0)
    trials: ClassVar[int] = 8

    def build(self, model: str, dataset: str, seed: int = 0) -> nn.Module:
        spec = Spec.parse(model)
        takes = {p.name for p in MODELS.get(spec.name).parameters}
        classes = getattr(DATASETS.get(Spec.parse(dataset).name).factory, "classes", ())
        known = {"seed": seed, **({"num_classes": len(classes)} if classes else {})}
        spec = Spec(spec.name, {**{k: v for k, v in known.items() if k in takes}, **spec.params})
        network = build_classifier(spec, None).train().requires_grad_(True)
        # Parts that bring weights of their own, such as the flow estimator of a flow-stream classifier.
        for name in getattr(network, "frozen", ()):
            network.get_submodule(name).eval().requires_grad_(False)
        return network

    def read(self, path: Path, model: str) -> Mapping[str, Tensor]:
        """A factory that knows published layouts reads the file itself, with the classes that are in it."""
        spec = Spec.parse(model)
        if all(p.name != "checkpoint" for p in MODELS.get(spec.name).parameters):
            return super().read(path, model)
        params = {k: v for k, v in spec.params.items() if k != "num_classes"}
        return build_classifier(Spec(spec.name, params), path).state_dict()

    def inspect(self, data: Dataset) -> None:
        check_classes(data)

    def batch(self, data: Dataset, refs: Sequence[ClipRef]) -> tuple[Tensor, ...]:
        return labelled(data, refs)

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        return cross_entropy(network(batch[0]), batch[1])

    def measure(self, network: nn.Module, dataset: str, device: torch.device) -> dict[str, Any]:
        """Accuracy on clean clips, on the same with their frames in random order, under PGD-10 at linf 4/255, and the
        budget at which PGD-10 leaves 5 to 9 %."""
        data = split_of(dataset, "test")
        clean = some_of(data, self.clean_clips)
        right = shuffled = 0
        for start in range(0, len(clean), _CHUNK):
            clips, labels = labelled(data, clean[start : start + _CHUNK])
            order = ClipRandom.for_clips([r.id for r in clean[start : start + _CHUNK]], "order")
            mixed = torch.stack([c[:, o] for c, o in zip(clips, order.permutation(clips.shape[2]), strict=True)])
            right += _hits(network, clips.to(device), labels.to(device))
            shuffled += _hits(network, mixed.to(device), labels.to(device))
        attacked = some_of(data, self.attacked_clips)
        standard = self._survivors(network, data, attacked, 4 / 255, device)
        return {
            "clean": proportion(right, len(clean)),
            "random_order": proportion(shuffled, len(clean)),
            "pgd10_linf_4_255": proportion(standard, len(attacked)),
            "budget_5_to_9_percent": self._budget(network, data, attacked, standard, device),
        }

    def _survivors(
        self,
        network: nn.Module,
        data: Dataset,
        refs: Sequence[ClipRef],
        size: float,
        device: torch.device,
        enough: float = float("inf"),
    ) -> int:
        """Clips that survive PGD-10 in an linf ball of radius ``size``; stops once there are more than ``enough``."""
        attack: Attack = ATTACKS.create("pgd")
        survived = 0
        for start in range(0, len(refs), _CHUNK):
            chunk = refs[start : start + _CHUNK]
            clips, labels = (t.to(device) for t in labelled(data, chunk))
            rng = ClipRandom.for_clips([r.id for r in chunk], "measure")
            survived += _hits(
                network, attack(network, clips, labels, Budget("linf", size, steps=10), rng).clips, labels
            )
            if survived > enough:
                break
        return survived

    def _budget(
        self, network: nn.Module, data: Dataset, refs: Sequence[ClipRef], at_four: int, device: torch.device
    ) -> dict[str, Any] | None:
        """Bisects the radius, in 1/255, until PGD-10 leaves 5 to 9 % of the clips. It is chosen on the clips it is
        reported for, which the interval does not know.

        Returns:
            The figure and its radius; ``None`` if no tried radius does.
        """
        low, high = (percent / 100 * len(refs) for percent in self.left_percent)
        weak, strong, radius, survived = 0.0, 16.0, 4.0, at_four
        for _ in range(self.trials):
            if low <= survived <= high:
                break
            weak, strong = (radius, strong) if survived > high else (weak, radius)
            radius = (weak + strong) / 2
            survived = self._survivors(network, data, refs, radius / 255, device, enough=high)
        return {"size_255": radius, **proportion(survived, len(refs))} if low <= survived <= high else None


class LooksClassification(Classification):
    """Cross-entropy, with the frames of some clips in random order, the colour of some taken away, and every second one
    moved a little against its label.

    *Order.* Where looks mostly betray the class and motion always does, a small network that has found the motion gains
    little from the looks and ignores them. Networks for real actions do not: they lose a few per cent on frames in
    random order (VideoPure, Table I, "Temporal Shuffle"). Clips without motion teach the looks.

    *Colour.* Of the looks, the hue is learned first. A network that sees hue alone is attacked in the chroma, which
    JPEG keeps at half the resolution, and JPEG would pass for a defence. Clips without colour teach the outline and
    the background.

    *Step.* Some tiny networks break at half the budget that published classifiers break at, and no purifier can be
    measured on a network that is hopelessly lost. One small signed gradient step (Goodfellow et al., ICLR 2015,
    section 6) makes up for it.

    Args:
        mixed: probability that a clip's frames are put in random order.
        gray: probability that a clip's colours are replaced by their mean.
        step: of every second clip, in linf.
    """

    def __init__(self, mixed: float, gray: float, step: float = 0.0) -> None:
        self.mixed, self.gray, self.step = mixed, gray, step

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        clips, labels = batch
        chance = torch.rand(2, len(clips), generator=generator)
        shown = []
        for clip, mix, fade in zip(clips, chance[0] < self.mixed, chance[1] < self.gray, strict=True):
            if mix:
                clip = clip[:, torch.randperm(clip.shape[1], generator=generator)]
            if fade:
                clip = clip.mean(dim=0, keepdim=True).expand_as(clip)
            shown.append(clip)
        clips = torch.stack(shown)
        if self.step:
            clips[::2] = self._moved(network, clips[::2], labels[::2])
        return cross_entropy(network(clips), labels)

    def _moved(self, network: nn.Module, clips: Tensor, labels: Tensor) -> Tensor:
        """Clips one signed gradient step away; the network is left as it was."""
        mode, clips = network.training, clips.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(network.eval()(clips), labels), clips)
        network.train(mode)
        return (clips.detach() + self.step * gradient.sign()).clamp(0, 1)


class FlowStreamClassification(Classification):
    """Cross-entropy on clean clips for a flow-stream classifier, whose frozen estimator costs ten times what its 3D
    network costs: the flow of each training clip is estimated once and kept while there is room. It is attacked on
    fewer clips than the others.

    Args:
        keep: gigabytes of flow that are kept; what is beyond is estimated anew each time.
    """

    attacked_clips: ClassVar[int] = 40

    def __init__(self, keep: float = 4.0) -> None:
        self._room = keep * 1e9
        self._kept: dict[str, Tensor] = {}
        self._network: FlowStream | None = None

    def build(self, model: str, dataset: str, seed: int = 0) -> nn.Module:
        network = super().build(model, dataset, seed)
        if not isinstance(network, FlowStream):
            raise BenchError(
                f"This recipe trains flow-stream classifiers, which {model!r} is not: take another recipe."
            )
        self._network = network
        return network

    @torch.no_grad()
    def batch(self, data: Dataset, refs: Sequence[ClipRef]) -> tuple[Tensor, ...]:
        assert self._network is not None  # the loop builds first
        new = [r for r in refs if r.id not in self._kept]
        flows = {r.id: self._kept[r.id] for r in refs if r.id in self._kept}
        if new:
            clips, _ = labelled(data, new)
            device = next(self._network.parameters()).device
            for ref, flow in zip(new, self._network.scaled_flow(clips.to(device)).cpu().half(), strict=True):
                flows[ref.id] = flow
                if flow.nbytes <= self._room:
                    self._kept[ref.id] = flow
                    self._room -= flow.nbytes
        return torch.stack([flows[r.id].float() for r in refs]), torch.tensor([r.label for r in refs])

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        assert isinstance(network, FlowStream)
        return cross_entropy(network.stream.logits(batch[0]), batch[1])
