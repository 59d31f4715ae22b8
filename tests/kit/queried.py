"""Classifiers that an attack may only ask, and what it asks them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench import Attack, Budget, ClipRandom, Spec, Target, margin
from bench.registry import DATASETS
from bench.weights.zoo import build_classifier, zoo_file

Curve = Callable[[Tensor], Tensor]


class Two(nn.Module):
    """Two classes; the second leads by ``<weight, clip> + lead``, and by what a curve adds.

    Notes what it is asked, and refuses to be differentiated.
    """

    def __init__(self, weight: Tensor, lead: float, curve: Curve | None = None) -> None:
        super().__init__()
        self.weight, self.lead, self.curve = weight.double(), lead, curve
        self.seen: list[Tensor] = []

    def score(self, clips: Tensor) -> Tensor:
        linear = (clips.double() * self.weight).flatten(1).sum(1) + self.lead
        return linear if self.curve is None else linear + self.curve(clips.double())

    def forward(self, clips: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.seen.append(clips.clone())
        score = self.score(clips)
        return torch.stack([-score / 2, score / 2], 1)


def target_of(model: nn.Module, count: int, kind: str) -> Target:
    """A ``decisive``, ``stochastic`` or ``transfer`` target."""
    return Target(lambda x, rows: model(x), count, **({} if kind == "decisive" else {kind: True}))


def zeros(count: int) -> Tensor:
    """The first class, for so many clips."""
    return torch.zeros(count, dtype=torch.int64)


def shipped(name: str) -> nn.Module:
    """A classifier of the zoo, for ``actions12``."""
    return build_classifier(Spec(name), zoo_file(name, "actions12"))


def close_calls(model: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    """Of the first 24 small test clips of ``actions12`` those that are right by the smallest margin, and their classes.

    They have 8 frames of 32 by 32 pixels, so that a query takes milliseconds.
    """
    data = DATASETS.create({"name": "actions12", "frames": 8, "size": 32})
    refs = data.refs()[:24]
    clips, labels = torch.stack([data.load(r) for r in refs]), torch.tensor([r.label for r in refs])
    with torch.no_grad():
        logits = model(clips)
    ahead = -margin(logits, labels)
    nearest = ahead.masked_fill(ahead <= 0, torch.inf).argsort()[:count]
    assert (ahead[nearest] > 0).all()
    return clips[nearest], labels[nearest]


@torch.no_grad()
def left_of_close_calls(attack: Attack) -> int:
    """How many of four :func:`close_calls` of ``nl_tiny`` an attack leaves right at linf 8/255."""
    model = shipped("nl_tiny")
    clips, labels = close_calls(model, 4)
    found = attack(model, clips, labels, Budget("linf", 8 / 255), ClipRandom(range(4))).clips
    return int((model(found).argmax(1) == labels).sum())
