"""Small components with known answers, named as ``kit.gray:Thing`` in the tests' grids.

The clips and the classifier are those of ``benchmarks/levels.py``: a linf perturbation below 0.1 changes no decision.
"""

from __future__ import annotations

from typing import Any

import torch
from levels import LEVELS, MARGIN, GrayClips, LevelClassifier, level_classifier  # noqa: F401 - kit.gray:...
from torch import Tensor, nn

from bench import Attack, AttackResult, Budget, ClipRandom, ClipRef, Purifier, RobustModel, Target
from bench.models.i3d import I3D


class Dozen(GrayClips):
    """A data set of twelve classes, of which the clips show three."""

    classes = tuple("abcdefghijkl")


class Still(GrayClips):
    """Clips of one frame."""

    def load(self, ref: ClipRef) -> Tensor:
        return super().load(ref)[:, :1]


class Long(GrayClips):
    """Clips of sixteen frames, long enough to be watched."""

    def load(self, ref: ClipRef) -> Tensor:
        return super().load(ref).repeat(1, 4, 1, 1)


def flow_i3d() -> nn.Module:
    """A network that takes flow, given to whoever has colours."""
    return I3D(3, channels=2)


def louder_classifier() -> nn.Module:
    """Another network with the decisions of :func:`level_classifier`."""
    return Doubled().wrap(LevelClassifier())


class Extremes(LevelClassifier):
    """Knows dark and bright alone: every medium clip is wrong, and no other."""

    def forward(self, clips: Tensor) -> Tensor:
        return super().forward(clips) - torch.tensor([0.0, 1e3, 0.0])


class Saturated(nn.Module):
    """The level classifier behind a softmax of logits a million times as large: zeros and a one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = level_classifier()

    def forward(self, clips: Tensor) -> Tensor:
        return (1e6 * self.net(clips)).softmax(1)


def saturated_classifier() -> nn.Module:
    """A network whose probabilities no loss moves."""
    return Saturated()


def not_a_model() -> str:
    return "a string"


class Measured(Purifier):
    """Does nothing, and measures how bright a clip is."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * 1

    def measure(self, clips: Tensor) -> Tensor:
        return clips.mean(dim=(1, 2, 3, 4))


class Identity(Purifier):
    """A purifier that does nothing, without saying so."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * 1


class Lighten(Purifier):
    """Adds a constant: breaks clean accuracy in a known way (every clip one level up).

    Args:
        by: what is added.
    """

    def __init__(self, by: float = 0.2) -> None:
        super().__init__()
        self.by = by

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return (clips + self.by).clamp(0, 1)


class Tiring(Purifier):
    """Gives up after it has been asked a few times: an answer that depends on the past."""

    asked = 0

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        self.asked += len(clips)
        return clips if self.asked <= 12 else 1 - clips


class Coin(Purifier):
    """Keeps or blackens each clip by a coin flip."""

    stochastic = True

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        keep = rng.uniform(1, device=clips.device) < 0.5
        return clips * keep[:, :, None, None, None]


class FailsOnBright(Purifier):
    """Raises when a batch holds a clip of the brightest class."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        if bool((clips.detach().mean(dim=(1, 2, 3, 4)) > 0.6).any()):
            raise ZeroDivisionError("too bright")
        return clips


class Exhausting(Purifier):
    """Finds no memory for a bright clip."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        if bool((clips.detach().mean(dim=(1, 2, 3, 4)) > 0.6).any()):
            raise MemoryError
        return clips * 1


class Pretending(Purifier):
    """Says that it is the undefended baseline."""

    identity = True

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips


class Leaving(Purifier):
    """Ends the program, as a script does that was not meant to be imported."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        raise SystemExit(0)


class Doubled(RobustModel):
    """A robust model: the same decisions with doubled logits."""

    def wrap(self, classifier: nn.Module) -> nn.Module:
        class Wrapped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = classifier

            def forward(self, clips: Tensor) -> Tensor:
                return 2 * self.inner(clips)

        return Wrapped()


class Counting(Attack):
    """Returns the clips as they are and counts the clips it is run on."""

    clips_seen: list[int] = []  # noqa: RUF012 - shared on purpose
    shift = 0.0

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        type(self).clips_seen.append(len(clips))
        with torch.no_grad():
            target(clips)
        return AttackResult((clips + self.shift).clamp(0, 1))

    def passes(self, budget: Budget) -> tuple[int, int]:
        return 1, 0


class Cheater(Attack):
    """Breaks the rules in a way of choice.

    Args:
        how: ``budget``, ``range``, ``nan`` or ``shape``.
    """

    def __init__(self, how: str = "budget") -> None:
        self.how = how

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        cheats: dict[str, Any] = {
            "budget": lambda: clips + 0.25,
            "range": lambda: clips + 1,
            "nan": lambda: clips * float("nan"),
            "shape": lambda: clips[:, :, :2],
        }
        return AttackResult(cheats[self.how]())

    def passes(self, budget: Budget) -> tuple[int, int]:
        return 0, 0


class Reading(Counting):
    """Is told a file.

    Args:
        weights: the file.
    """

    def __init__(self, weights: str = "") -> None:
        self.weights = weights


TEXT = "not callable"


class TwoSided(nn.Module):
    """Class 1 above the middle gray, class 0 below: logits ``(50 - 100 m, 100 m - 50)``."""

    def forward(self, clips: Tensor) -> Tensor:
        level = 100 * (clips.mean(dim=(1, 2, 3, 4)) - 0.5)
        return torch.stack([-level, level, torch.full_like(level, -99.0)], 1)


class Negative(Purifier):
    """Shows the negative of every frame."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return 1 - clips


class NotFinite(Purifier):
    """Turns dark clips into not-a-number, which a careless classifier calls class 0."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        dark = clips.detach().mean(dim=(1, 2, 3, 4), keepdim=True) < 0.4
        return torch.where(dark, float("nan"), clips)


class Offset(RobustModel):
    """Wraps in place and counts how often it is asked to.

    Args:
        by: bias of the wrapping network; a buffer, so its weights differ with it.
    """

    wrapped: list[nn.Module] = []  # noqa: RUF012 - shared on purpose

    def __init__(self, by: float = 0.0) -> None:
        self.by = by

    def wrap(self, classifier: nn.Module) -> nn.Module:
        type(self).wrapped.append(classifier)
        for parameter in classifier.parameters():
            parameter.data.add_(self.by)
        return classifier


class Oscillating(nn.Module):
    """Right, wrong and right again as the mean level moves away from the middle gray, its loss ever rising."""

    def forward(self, clips: Tensor) -> Tensor:
        moved = 255 * (clips.mean(dim=(1, 2, 3, 4)) - 0.5).abs()
        margin = torch.where((moved > 1) & (moved < 2.7), -moved, 5 - moved)
        return torch.stack([margin, torch.zeros_like(margin), torch.full_like(margin, -99.0)], 1)


class PerFrame(nn.Module):
    """Forgets to average over time: logits ``(B, T, 3)``."""

    def forward(self, clips: Tensor) -> Tensor:
        return clips.mean(dim=(3, 4)).transpose(1, 2)


class NeedsBigFrames(nn.Module):
    """A network whose kernel is larger than the frames of the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 3, (1, 16, 16))

    def forward(self, clips: Tensor) -> Tensor:
        return self.conv(clips).mean(dim=(2, 3, 4))


def raises() -> nn.Module:
    raise FileNotFoundError("no weights.bin")


GRAY_GRID = """
title: Gray clips
dataset: {name: "kit.gray:GrayClips", length: 6}
models: ["kit.gray:level_classifier"]
defenses: [none, "kit.gray:Identity"]
budgets: [{norm: linf, size: 0.15, steps: 4}]
attacks: [clean, noise, PGD, PGD+BPDA, PGD+exact]
"""
