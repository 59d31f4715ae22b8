"""Defences that break a clause of the contract each, and some that keep it."""

from __future__ import annotations

import torch

from bench import ClipRandom, Purifier, RobustModel


class InPlace(Purifier):
    """Darkens the very clips that it is handed."""

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        return clips.mul_(0.9)


class Beyond(Purifier):
    """Raises contrast and leaves [0, 1]."""

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        return (clips - 0.5) * 4 + 0.5


class Double(Purifier):
    """Returns another type."""

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        return clips.double()


class Broken(Purifier):
    """Not a number where it is bright."""

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        return clips + (clips > 0.6) * float("nan")


class Flat(Purifier):
    """Loses the frames."""

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        return clips.mean(2)


class Detached(Purifier):
    """Says nothing of its gradient, and has none."""

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        return clips.detach() * 0.5


class Humble(Purifier):
    """Is differentiable and random, it says, the wrong way round."""

    differentiable = False
    stochastic = True

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        return clips * 0.9


class Seeding(Purifier):
    """Draws from the generator of the whole process, and hides it by seeding it."""

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        torch.manual_seed(0)
        return (clips + 0.01 * torch.randn(clips.shape[1:])).clamp(0, 1)


class Halved(Purifier):
    """A gradient that is twice too long."""

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        return 2 * clips - clips.detach() * 1.5


class Misnamed(Purifier):
    """Says that it changes nothing."""

    identity = True

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        return clips * 0.9


class Honest(Purifier):
    """Keeps the contract, with noise of its rng."""

    stochastic = True

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        return (clips + 0.02 * rng.normal(*clips.shape[1:], device=clips.device)).clamp(0, 1)


class Wrapping(RobustModel):
    """Keeps the contract of a network."""

    def wrap(self, classifier: torch.nn.Module) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Identity(), classifier)
