"""Small components with known answers, named as ``helpers:Thing`` in the tests' grids.

The clips are uniform gray; the class is the level. The classifier's logits are linear in the mean level, so
the smallest linf perturbation that changes a decision is half the distance between levels: 0.1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench import Attack, AttackResult, Budget, ClipRandom, ClipRef, Dataset, Purifier, RobustModel, Target
from bench.dataset import MissingClip

LEVELS = (0.3, 0.5, 0.7)
MARGIN = 0.1


class GrayClips(Dataset):
    """Uniform clips.

    Args:
        length: number of clips.
        absent: index of a clip without a file, or -1.
        broken: index of a clip that cannot be read, or -1.
    """

    classes = ("dark", "medium", "bright")

    def __init__(self, length: int = 6, absent: int = -1, broken: int = -1) -> None:
        self.length, self.absent, self.broken = length, absent, broken

    def refs(self) -> list[ClipRef]:
        return [ClipRef(f"gray/{i}", i % 3) for i in range(self.length)]

    def load(self, ref: ClipRef) -> Tensor:
        index = int(ref.id.split("/")[1])
        if index == self.absent:
            raise MissingClip(f"no file for {ref.id}")
        if index == self.broken:
            raise OSError(f"{ref.id} is truncated")
        return torch.full((3, 4, 8, 8), LEVELS[ref.label])


class LevelClassifier(nn.Module):
    """Nearest level of the mean: ``-(m - level)^2`` up to a common term, hence linear in ``m``."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor(LEVELS))

    def forward(self, clips: Tensor) -> Tensor:
        level = clips.mean(dim=(1, 2, 3, 4))
        return 100 * (level[:, None] * self.levels - self.levels**2 / 2)


def level_classifier() -> nn.Module:
    return LevelClassifier()


def not_a_model() -> str:
    return "a string"


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

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        type(self).clips_seen.append(len(clips))
        with torch.no_grad():
            target(clips)
        return AttackResult(clips.clone())

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


TEXT = "not callable"
