"""What a row's networks say of a clip now: purified candidates, their votes, and probabilities of classes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bench.data.base import Missing
from bench.defense.defended import DefendedClassifier
from bench.errors import BenchError
from bench.plan.cells import Component, stream_of
from bench.plan.components import defend, make_component
from bench.records.identity import CellIdentity, ComponentIdentity
from bench.registry import DEFENSES, Spec
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget
from bench.weights.files import fingerprint
from bench.weights.zoo import build_classifier, find_weights

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
        self._made: dict[str, DefendedClassifier | str] = {}
        self._classifiers: dict[str, Component[nn.Module] | str] = {}

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
        defended = self._defended(settings)
        if isinstance(defended, str):
            return Answered(why_not=defended)
        stream = judge_stream(settings)

        def rng() -> ClipRandom:
            return ClipRandom.for_clips([clip], "judge", stream)

        both = torch.stack([clean, adversarial])
        if defended.purifier is None or defended.purifier.identity:
            logits = [defended.vote_logits(one[None], rng())[0, 0] for one in both]
            return Answered([Bars.of("Clean", logits[0]), Bars.of("Attacked", logits[1])])
        bare = self._classifier(settings)
        assert not isinstance(bare, str)
        alone = [bare.instance(one[None])[0] for one in both]
        bars = [Bars.of("Clean, no defence", alone[0]), Bars.of("Attacked, no defence", alone[1])]
        candidates = defended.candidates(both[1:], rng())[:, 0]
        votes = defended.vote_logits(both[1:], rng())[:, 0]
        several = len(votes) > 1
        bars += [Bars.of(f"Purified{f', candidate {i}' if several else ''}", v) for i, v in enumerate(votes, 1)]
        return Answered(bars, list(candidates), votes.argmax(-1).tolist())

    def _classifier(self, settings: CellIdentity) -> Component[nn.Module] | str:
        key = settings.model.model_dump_json() + settings.dataset.name
        if key not in self._classifiers:
            try:
                spec = Spec(settings.model.name, settings.model.params)
                weights = find_weights(spec, settings.dataset.name, None, None)
                if isinstance(weights, Missing):
                    raise BenchError(f"there is no {weights.what} here")
                network = build_classifier(spec, weights)
                if fingerprint(network) != settings.model.weights:
                    raise BenchError("its weights are not those that were measured")
                self._classifiers[key] = Component(str(spec), network.eval().requires_grad_(False), settings.model)
            except BenchError as error:
                self._classifiers[key] = f"the classifier cannot be made here: {error}"
        return self._classifiers[key]

    def _defended(self, settings: CellIdentity) -> DefendedClassifier | str:
        model = self._classifier(settings)
        if isinstance(model, str):
            return model
        key = settings.model.model_dump_json() + settings.defense.model_dump_json()
        if key not in self._made:
            try:
                made = make_component(Spec(settings.defense.name, settings.defense.params), DEFENSES)
                defense, defended = defend(model, made)
                other = _differs(defense.identity, settings.defense)
                self._made[key] = other or defended
            except BenchError as error:
                self._made[key] = f"the defence cannot be made here: {error}"
        return self._made[key]


def _differs(here: ComponentIdentity, measured: ComponentIdentity) -> str:
    """Why a defence is not the one that was measured."""
    if (here.code, here.weights, here.files) == (measured.code, measured.weights, measured.files):
        return ""
    return "the defence was changed since it was measured"


def judge_stream(settings: CellIdentity) -> str:
    """What seeds the defence when a cell is judged, from what is stored of it."""
    budget = settings.budget
    return stream_of(
        {
            "dataset": settings.dataset.stream(),
            "model": settings.model.stream(),
            "defense": settings.defense.stream(),
            "attack": settings.attack.stream() if settings.attack is not None else None,
            "budget": Budget(**budget.model_dump(exclude={"code"})).settings() if budget is not None else None,
            "source": settings.source.stream() if settings.source is not None else None,
            "knowledge": settings.knowledge,
            "gradient": settings.gradient,
            "seed": settings.seed,
        }
    )
