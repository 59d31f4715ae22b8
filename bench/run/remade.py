"""The networks of a stored cell, made again from what the cell says of them, and asked as the judge asked them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Purified:
    """What a defence makes of a clip now.

    Attributes:
        candidates: ``float32 (V, 3, T, H, W)``; none of a defence that changes no clip.
        logits: ``(V, K)``, of each.
        remark: where the defence is not the one that was measured, in words.
    """

    candidates: Tensor
    logits: Tensor
    remark: str = ""

    @property
    def answers(self) -> tuple[int, ...]:
        """The class that each candidate is given."""
        return tuple(self.logits.argmax(-1).tolist())


@dataclass(frozen=True)
class Remade:
    """The networks of a cell.

    Attributes:
        classifier: without a defence.
        defended: behind the one of the cell.
        remark: where the defence is not the one that was measured, in words.
    """

    classifier: Component[nn.Module]
    defended: DefendedClassifier
    remark: str = ""


def remade(settings: CellIdentity, data_root: Path | None = None) -> Remade:
    """Makes the networks of a cell.

    Raises:
        BenchError: the classifier or the defence cannot be made here, or the classifier is not the one that was
            measured.
    """
    made = make_component(Spec(settings.defense.name, settings.defense.params), DEFENSES)
    classifier = remade_classifier(settings, data_root)
    defense, defended = defend(classifier, made)
    return Remade(classifier, defended, _differs(defense.identity, settings.defense))


def purified(made: Remade, settings: CellIdentity, clip: str, shown: Tensor) -> Purified:
    """What the defence of a cell makes of a clip, on the CPU, with the draws of its judge's first pass.

    Args:
        made: the cell's networks.
        settings: of the cell.
        clip: id of the clip, which seeds a randomised defence.
        shown: the clip that is purified, ``float32 (3, T, H, W)`` in [0, 1].
    """
    defended = made.defended
    if defended.purifier is None or defended.purifier.identity:
        return Purified(shown.new_empty(0, *shown.shape), shown.new_empty(0, 1))
    with torch.no_grad():
        rng = ClipRandom.for_clips([clip], "judge", judge_stream(settings))
        candidates = defended.candidates(shown[None], rng)[:, 0]
        logits = defended.classifier(candidates.clone())  # which may work in place
    return Purified(candidates, logits, made.remark)


def remade_classifier(settings: CellIdentity, data_root: Path | None = None) -> Component[nn.Module]:
    """The classifier of a cell, in evaluation mode and without weight gradients.

    Raises:
        BenchError: its weights are not here, or are others than those that were measured.
    """
    spec = Spec(settings.model.name, settings.model.params)
    weights = find_weights(spec, settings.dataset.name, None, data_root)
    if isinstance(weights, Missing):
        raise BenchError(f"The weights of {spec} are not here: {weights}")
    network = build_classifier(spec, weights)
    if fingerprint(network) != settings.model.weights:
        raise BenchError(f"The weights of {spec} are not those that were measured.")
    return Component(str(spec), network, settings.model)


def judge_stream(settings: CellIdentity) -> str:
    """What seeds the defence when a cell is judged (:attr:`bench.plan.cells.Cell.judge_stream`), from what is stored of
    the cell."""
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


def _differs(here: ComponentIdentity, measured: ComponentIdentity) -> str:
    """Why a defence is not the one that was measured."""
    if (here.code, here.weights, here.files) == (measured.code, measured.weights, measured.files):
        return ""
    return "The defence was changed since it was measured: what it makes of the clip is shown as it is now."
