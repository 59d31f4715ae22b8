"""AutoAttack: several attacks in turn, each on the clips that the others have not broken."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from bench import (
    ATTACKS,
    Attack,
    AttackResult,
    BenchError,
    Best,
    Budget,
    ClipRandom,
    Looks,
    Part,
    Survivors,
    Target,
    Turn,
    at_least,
    in_turn,
    nearest,
    register,
)

_VERSIONS = {"standard": "apgd-ce, apgd-t, fab, square", "rand": "apgd-ce, apgd-dlr"}
# Classes that a part's loss compares.
_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}


@register(
    "autoattack",
    source="Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
    "Attacks, ICML 2020 (arXiv 2003.01690), section 5; their code for rand",
)
class AutoAttack(Attack):
    """Worst of an ensemble, per clip: AutoAttack for deterministic and (``rand``) for randomised defences.

    ``standard`` is APGD on the cross-entropy, APGD on the targeted ratio of logits, targeted FAB, and Square. ``rand``
    is APGD on the cross-entropy and on the ratio of logits, each climbing the expectation over ``draws`` of the defence
    (of its mean logits, where the authors' code averages gradients). The budget's steps are those of APGD and FAB, and
    its restarts those of every part; AutoAttack as published takes 100 and 1.

    A part runs on the clips that are still right. What that means depends on the target:

    - Where an answer is final, one look decides.
    - A randomised defence errs on some clips by luck. The authors' code asks it once after each part, never attacks a
      clip again that was wrong that once, and counts it as broken, so the more parts, the lower the figure, whatever
      they did. Here each part's clip is asked ``confirm`` times, the one that is most often wrong is kept (with equal
      rates the one of larger mean margin), and a clip is left in peace only if it was wrong every time.
    - Clips for transfer get every part. FAB's are no use elsewhere, and it is left out. Kept is the clip that fools
      the attacked classifier by the largest margin.

    Args:
        version: ``standard`` or ``rand``.
        parts: which attacks, in their order, instead of the version's: ``apgd-ce``, ``apgd-dlr``, ``apgd-t``, ``fab``
            and ``square``, separated by commas. In version ``rand`` the first three climb the expectation.
        queries: of Square.
        rescale: scale the schedule of Square's squares to its queries; AutoAttack as published does not.
        targets: target classes of ``apgd-t`` and ``fab``, the likeliest first; all there are, if fewer.
        draws: of the defence per look, in version ``rand``.
        confirm: how often a randomised defence is asked about each part's clip.
    """

    def __init__(
        self,
        version: Literal["standard", "rand"] = "standard",
        parts: str = "",
        queries: int = 5000,
        rescale: bool = False,
        targets: int = 9,
        draws: int = 20,
        confirm: int = 10,
    ) -> None:
        if version not in _VERSIONS:
            raise ValueError(f"version must be standard or rand, not {version!r}")
        for name, value in (("queries", queries), ("targets", targets), ("draws", draws), ("confirm", confirm)):
            at_least(name, value, 1)
        specs = {
            "apgd-ce": "apgd(loss='ce')",
            "apgd-dlr": "apgd(loss='dlr')",
            "apgd-t": f"apgd(loss='targeted-dlr', targets={targets})",
        }
        if version == "rand":
            specs = {k: f"eot(attack={spec!r}, draws={draws}, average='logits')" for k, spec in specs.items()}
        specs["fab"] = f"fab(targets={targets}, keep='first')"
        specs["square"] = f"square(queries={queries}, rescale={rescale})"
        self.names = [name.strip() for name in (parts or _VERSIONS[version]).split(",")]
        for name in self.names:
            if name not in specs:
                raise BenchError(f"AutoAttack has no part {name!r}{nearest(name, specs)}; parts: {', '.join(specs)}.")
        self.confirm = confirm
        self.parts = [specs[name] for name in self.names]
        self._attacks = self.components()
        self.decisive_only = "fab" in self.names

    def lighter(self) -> Attack:
        light = copy.copy(self)
        light._attacks = [attack.lighter() for attack in self._attacks]
        return light

    def components(self) -> list[Attack]:
        """Makes the attacks, in the order in which they run."""
        return [ATTACKS.create(part) for part in self.parts]

    def check(self, budget: Budget) -> None:
        super().check(budget)
        for attack in self._attacks:
            attack.check(budget)

    def passes(self, budget: Budget) -> tuple[int, int]:
        costs = [attack.passes(budget) for attack in self._attacks]
        looks = 1 if "fab" in self.names else self.confirm  # FAB never meets a target that is asked several times
        return 1 + sum(f + looks for f, _ in costs), sum(b for _, b in costs)

    def refuses(self, *, stochastic: bool, transfer: bool) -> str | None:
        if stochastic and "fab" in self.names:
            return (
                "AutoAttack's part fab needs a classifier that gives the same answer twice, which a randomised defence "
                "does not: use version='rand', or parts without fab."
            )
        if transfer and set(self.names) == {"fab"}:
            return "AutoAttack leaves fab out of clips for transfer, and has no other part here: name one, or use apgd."
        return None

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        reason = self.refuses(stochastic=target.stochastic, transfer=not target.decisive)
        if reason:
            raise BenchError(reason)
        with torch.no_grad():
            answer = target.ask(clips)
        self._check_classes(answer.logits.shape[1])
        right = (answer.decision.cpu() == labels.cpu()).nonzero()[:, 0]
        left = Survivors(clips, labels, budget, rng, rows=right if target.decisive else None)
        attacks = [a for n, a in zip(self.names, self._attacks, strict=True) if n != "fab" or target.decisive]
        looks = Looks(target, self.confirm if target.stochastic else 1)
        result = in_turn(left, [_turn(target, attack) for attack in attacks], looks, Best(clips, of_equals="earlier"))
        return AttackResult(result.clips)  # no trace: the parts climb different losses

    def _check_classes(self, classes: int) -> None:
        fit = [name for name in self.names if _CLASSES.get(name, 2) <= classes]
        unfit = next((name for name in self.names if name not in fit), None)
        if unfit is not None:
            raise BenchError(
                f"AutoAttack's part {unfit} compares the {_CLASSES[unfit]} largest logits, but the classifier has "
                f"{classes} classes: leave it out, with parts='{', '.join(fit) or 'apgd-ce'}'."
            )


def _turn(target: Target, attack: Attack) -> Turn:
    """One part, on the clips that are left."""
    return lambda left: attack(Part(target, left.rows), left.clips, left.labels, left.budget, left.rng)
