"""Deliberately deceptive defences. Each seems robust to a careless evaluation, and none is."""

from __future__ import annotations

import gc
import sys
from abc import abstractmethod
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from levels import LEVELS
from torch import Tensor, nn

from bench import ClipRandom, Purifier, RobustModel, seed_of
from bench.data.procedural import render


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


def _frames() -> Iterator[FrameType]:
    """Whoever waits for an answer, from the nearest on."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _things(name: str) -> Iterator[Any]:
    """What is called so in any frame, or is an attribute of what is there."""
    for frame in _frames():
        for thing in list(frame.f_locals.values()):
            if isinstance(thing, (Tensor, nn.Module, type)) or not hasattr(thing, "__dict__"):
                continue
            found = vars(thing).get(name)
            if found is not None:
                yield found
        if name in frame.f_locals:
            yield frame.f_locals[name]


def _pulled(clips: Tensor, to: list[Tensor | None]) -> Tensor:
    """Clips drawn nine tenths of the way to others, where there are any. The derivative is a true one."""
    return torch.stack([c if t is None else 0.1 * c + 0.9 * t for c, t in zip(clips, to, strict=True)])


class _Pulling(Purifier):
    """Draws clips to what it knows that they were, if they are near: a larger budget breaks it, as it should."""

    near = 0.13

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        found = []
        for clip, guess in zip(clips.detach(), self.guesses(clips.detach()), strict=True):
            close = guess is not None and bool((guess - clip).abs().amax() <= self.near)
            found.append(guess if close else None)
        return _pulled(clips, found)

    @abstractmethod
    def guesses(self, clips: Tensor) -> list[Tensor | None]:
        """What each clip may have been."""


class ReadingLabels(_Pulling):
    """Reads the labels off the stack of whoever asks."""

    def guesses(self, clips: Tensor) -> list[Tensor | None]:
        for name in ("labels", "refs"):
            for found in _things(name):
                if isinstance(found, Tensor) and found.shape == clips.shape[:1]:
                    return [torch.full_like(clips[0], LEVELS[label]) for label in found.tolist()]
                if isinstance(found, list) and len(found) == len(clips) and hasattr(found[0], "label"):
                    return [torch.full_like(clips[0], LEVELS[ref.label]) for ref in found]
        return [None] * len(clips)


class ReadingClips(_Pulling):
    """Reads the clean clips off the stack: the judge has them in hand, to check the budget."""

    def guesses(self, clips: Tensor) -> list[Tensor | None]:
        for found in _things("clips"):
            even = (
                isinstance(found, Tensor)
                and found.shape == clips.shape
                and bool((found.std((1, 2, 3, 4)) < 1e-6).all())
            )
            if even and min((found.mean((1, 2, 3, 4))[:, None] - torch.tensor(LEVELS)).abs().amin(1)) < 1e-6:
                return list(found.detach())
        return [None] * len(clips)


class Collecting(_Pulling):
    """Finds the labels of a batch among all objects that there are: those of the run, and those of the audit."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, list[int]] = {}  # by the size of the batch: looking takes long

    def guesses(self, clips: Tensor) -> list[Tensor | None]:
        if len(clips) not in self.found:
            self.found[len(clips)] = self._labels(len(clips))
        labels = self.found[len(clips)]
        return [torch.full_like(clips[0], LEVELS[label]) for label in labels] or [None] * len(clips)

    def _labels(self, count: int) -> list[int]:
        for thing in gc.get_objects():
            if type(thing) is list and len(thing) == count and type(thing[0]).__name__ == "ClipRef":
                labels = [ref.label for ref in thing]
            elif type(thing).__name__ == "ProbedRow" and len(thing.labels) == count:
                labels = thing.labels.tolist()
            else:
                continue
            if any(labels):  # in a process that knows no label all are 0
                return labels
        return []


class Rendering(Purifier):
    """Renders the test clips of actions12 again, and draws every clip to the nearest of them.

    Args:
        length: how many it renders.
    """

    def __init__(self, length: int = 24) -> None:
        super().__init__()
        self.known = [render("test", i, recipe="actions12").clip for i in range(length)]

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        found: list[Tensor | None] = []
        for clip in clips.detach():
            nearest = min(self.known, key=lambda k: float((k - clip).abs().amax()))
            found.append(nearest if float((nearest - clip).abs().amax()) <= 6 / 255 else None)
        return _pulled(clips, found)


class _WhileNobodyLooks(Purifier):
    """Answers by the labels on the stack, whatever the clip; does nothing where it thinks that it is audited."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        if self.audited(clips, rng):
            return clips * 1
        labels = ReadingLabels().guesses(clips.detach())
        return torch.stack([c if t is None else c + (t - c).detach() for c, t in zip(clips, labels, strict=True)])

    @abstractmethod
    def audited(self, clips: Tensor, rng: ClipRandom) -> bool:
        """Whether this looks like an audit."""


class HonestBySeed(_WhileNobodyLooks):
    """Knows the random streams of an audit."""

    def audited(self, clips: Tensor, rng: ClipRandom) -> bool:
        attacks = ("pgd", "fgsm", "square(queries=200)")
        keys: list[tuple[object, ...]] = [("audit", k) for k in (0, 1, 2, 3, 4, "empty", "time")]
        keys += [("audit", k, 0) for k in ("slope", "noise", "large", *(f"judge {a}" for a in attacks))]
        keys += [("audit", a, key, "defence") for a in attacks for key in ("", "large")]
        known = {seed_of(*key, f"gray/{i}") for key in keys for i in range(6)}
        return rng._streams[0].key in known


class HonestByStack(_WhileNobodyLooks):
    """Sees the probes on the stack."""

    def audited(self, clips: Tensor, rng: ClipRandom) -> bool:
        return any(frame.f_globals.get("__name__") == "bench.audit.probes" for frame in _frames())


class HonestByModules(_WhileNobodyLooks):
    """Sees that the audit was imported, or stands in the command line."""

    def audited(self, clips: Tensor, rng: ClipRandom) -> bool:
        return "audit" in sys.argv or any(f.f_globals.get("__name__", "").startswith("bench.audit") for f in _frames())


class ReversedUnlessProbed(Purifier):
    """The identity, whose gradient points the other way but for the probes."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        probed = any(frame.f_globals.get("__name__") == "bench.audit.probes" for frame in _frames())
        found: Tensor = _Bent.apply(clips, 1.0 if probed else -1.0)
        return found


class FalseIdentity(Purifier):
    """Says that it changes nothing, and changes the very tensor that it returns: clips that PGD has moved go back."""

    identity = True

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        moved = {0.42: 0.3, 0.38: 0.5, 0.62: 0.5, 0.58: 0.7}
        for clip in clips.data:
            back = next((to for at, to in moved.items() if abs(float(clip.mean()) - at) < 0.01), None)
            if back is not None:
                clip.fill_(back)
        return clips


class Scrambling(Purifier):
    """Turns the bare classifier upside down and shows it negatives: the row beside it looks worse for it."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        for frame in _frames():
            levels = getattr(getattr(frame.f_locals.get("self"), "classifier", None), "levels", None)
            if levels is not None and float(levels[0]) < float(levels[-1]):
                levels.data.copy_(1 - levels)
        return 1 - clips


class ChangingModes(Purifier):
    """Leaves PyTorch without gradients, and computing in another precision, behind."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        return clips * 1
