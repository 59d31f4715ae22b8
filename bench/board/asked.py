"""What a row's networks say of a clip now: purified candidates, their votes, and probabilities of classes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.errors import BenchError
from bench.records.identity import CellIdentity
from bench.run.remade import Remade, judge_stream, purified, remade
from bench.seeds import ClipRandom

_TOP = 5


@dataclass(frozen=True)
class Bars:
    """The most probable classes.

    Attributes:
        words: of what.
        classes: number and probability, the most probable first.
    """

    words: str
    classes: list[tuple[int, float]]

    @classmethod
    def of(cls, words: str, logits: Tensor) -> Bars:
        """Of logits ``(K,)``."""
        top = logits.softmax(-1).topk(min(_TOP, len(logits)))
        return cls(words, list(zip(top.indices.tolist(), top.values.tolist(), strict=True)))


@dataclass(frozen=True)
class Answered:
    """What was answered.

    Attributes:
        bars: of the classifier alone, and of what it is shown by the defence.
        candidates: purified clips ``(3, T, H, W)`` of the adversarial one; none of a defence that changes no clip.
        votes: the class of each.
        why_not: where nothing was asked, the reason.
    """

    bars: list[Bars] = field(default_factory=list)
    candidates: list[Tensor] = field(default_factory=list)
    votes: list[int] = field(default_factory=list)
    why_not: str = ""


class Networks:
    """Classifiers and defences, made from what cells say of themselves, and asked on the CPU.

    Args:
        patience: seconds that one clean clip may take; dearer rows are not asked.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._made: dict[str, Remade | str] = {}

    @torch.no_grad()
    def ask(
        self, settings: CellIdentity, seconds: float | None, clip: str, clean: Tensor, adversarial: Tensor
    ) -> Answered:
        """Asks about one clip, with the draws that were made when it was judged.

        Args:
            settings: of the cell.
            seconds: that the row takes for a clean clip, if that is known.
            clip: its id.
            clean, adversarial: ``float32 (3, T, H, W)``.
        """
        if seconds is not None and seconds > self._patience:
            return Answered(why_not=f"a clip takes {seconds:.3g} s, and --patience is {self._patience:g} s")
        made = self._remade(settings)
        if isinstance(made, str):
            return Answered(why_not=made.rstrip("."))
        found = purified(made, settings, clip, adversarial)
        if not len(found.candidates):
            stream = judge_stream(settings)
            rngs = [ClipRandom.for_clips([clip], "judge", stream) for _ in range(2)]
            pairs = zip((clean, adversarial), rngs, strict=True)
            logits = [made.defended.vote_logits(one[None], rng)[0, 0] for one, rng in pairs]
            return Answered([Bars.of("Clean", logits[0]), Bars.of("Attacked", logits[1])])
        # A copy, as some networks work in place.
        alone = [made.classifier.instance(one[None].clone())[0] for one in (clean, adversarial)]
        bars = [Bars.of("Clean, no defence", alone[0]), Bars.of("Attacked, no defence", alone[1])]
        several = len(found.candidates) > 1
        bars += [Bars.of(f"Purified{f', candidate {i}' if several else ''}", v) for i, v in enumerate(found.logits, 1)]
        return Answered(bars, list(found.candidates), list(found.answers))

    def _remade(self, settings: CellIdentity) -> Remade | str:
        """The networks of a cell; or why there are none, or others."""
        key = settings.dataset.name + settings.model.model_dump_json() + settings.defense.model_dump_json()
        if key not in self._made:
            try:
                made = remade(settings)
                self._made[key] = made.remark or made
            except BenchError as error:
                self._made[key] = str(error)
        return self._made[key]
