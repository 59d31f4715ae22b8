"""Deliberately deceptive defences. Each seems robust to a careless evaluation, and none is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench import ClipRandom, Purifier, RobustModel


class DetachedGradient(Purifier):
    """Cuts the graph and says it is differentiable."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips.detach() * 1


class Rounding(Purifier):
    """Rounds to 64 levels and says it is differentiable: its gradient is zero everywhere."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return (clips * 64).round() / 64


class Saturated(RobustModel):
    """Returns probabilities so confident that every loss on them is flat."""

    def wrap(self, classifier: nn.Module) -> nn.Module:
        return nn.Sequential(classifier, _Sharp())


class _Sharp(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return (1000 * logits.double()).softmax(1).float()


class _Bent(torch.autograd.Function):
    """The identity with a gradient of one's choice."""

    @staticmethod
    def forward(ctx: Any, clips: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return clips.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * grads[0], None


class ReversedGradient(Purifier):
    """The identity, whose gradient points the other way."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        found: Tensor = _Bent.apply(clips, -1.0)
        return found


class ExplodingGradient(Purifier):
    """The identity, whose gradient is not finite."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        found: Tensor = _Bent.apply(clips, float("inf"))
        return found * 1


class SecretlyRandom(Purifier):
    """Blackens one clip in four at random and says it is deterministic: attacks stop at the first lucky draw."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        keep = rng.uniform(1, device=clips.device) < 0.75
        return clips * keep[:, :, None, None, None]


class RandomElsewhere(Purifier):
    """Draws from PyTorch's own generator, so that no answer can be repeated."""

    stochastic = True

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * (torch.rand(len(clips), 1, 1, 1, 1) < 0.75)


class Remembering(Purifier):
    """Answers clips near one that it has seen before with what it has seen before: the clean clip, which comes
    first."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        found = []
        for clip in clips:
            near = next((s for s in self.seen if bool((s - clip).abs().amax() <= 0.13)), None)
            if near is None:
                self.seen.append(clip.detach().clone())
            # Straight through: the gradient is there, and useless.
            found.append(clip if near is None else clip + (near - clip).detach())
        return torch.stack(found)


class Adapting(Purifier):
    """Takes a gradient step of its own while it answers."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        with torch.enable_grad():
            x = clips.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad((x - x.mean()).square().sum(), x)
        return clips - 0.01 * gradient


class AdaptingNetwork(RobustModel):
    """The same, as a network."""

    def wrap(self, classifier: nn.Module) -> nn.Module:
        return nn.Sequential(_Step(), classifier)


class _Step(nn.Module):
    def forward(self, clips: Tensor) -> Tensor:
        return Adapting().purify(clips, ClipRandom(range(len(clips))))


class Forgetful(Purifier):
    """Cannot take a second look at what it was shown: raises something that is no ``RuntimeError``."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        if bool((clips.mean((1, 2, 3, 4)) % 0.1 > 0.02).any()):
            raise IndexError("list index out of range")
        return clips * 1


class Leaking(Purifier):
    """Subtracts what the clips of a batch have in common: a clip is answered by its neighbours."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return (clips + 0.4 * (clips.mean() - 0.5)).clamp(0, 1)
