"""The flickering attack: the colours of whole frames are shifted, a little and smoothly in time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench import Attack, AttackResult, BenchError, Best, Budget, ClipRandom, Survivors, Target, fetch, register

_LEARNING_RATE = 5e-4
# Of Adam (Kingma and Ba, ICLR 2015).
_DECAY, _SQUARE_DECAY, _TINY = 0.9, 0.999, 1e-8


def thickness(offsets: Tensor) -> Tensor:
    """Mean size of the offsets ``(B, 3, T, 1, 1)`` in percent of the range of values, ``(B,)``."""
    return 100 * offsets.abs().mean((1, 2, 3, 4))


def roughness(offsets: Tensor) -> Tensor:
    """Mean change of the offsets ``(B, 3, T, 1, 1)`` from frame to frame, the first following the last; in percent."""
    return 100 * (offsets - offsets.roll(1, 2)).abs().mean((1, 2, 3, 4))


def regulariser(offsets: Tensor, beta1: float, beta2: float) -> Tensor:
    """How much and how abruptly the colours change (Pony, Naeh and Mannor, CVPR 2021, thickness and roughness).

    Args:
        offsets: ``(B, 3, T, 1, 1)``.
        beta1: weight of the mean square of the offsets.
        beta2: weight of the mean squares of their first and second differences in time, which is circular.

    Returns:
        ``(B,)``.
    """
    before, after = offsets.roll(1, 2), offsets.roll(-1, 2)
    terms = (
        beta1 * offsets.square() + beta2 * (offsets - before).square() + beta2 * (after - 2 * offsets + before).square()
    )
    return terms.mean((1, 2, 3, 4))


def adversarial_loss(logits: Tensor, labels: Tensor, kind: str, margin: float) -> Tensor:
    """What is minimised beside the regulariser: ``(b, K)`` and ``(b,)`` to ``float64 (b,)``, see :class:`Flicker`."""
    logits = logits.double()
    probability = logits.softmax(1)
    here = labels[:, None]
    true = probability.gather(1, here)[:, 0]
    if kind == "ce":
        return -(1 - true + 1e-6).log()
    scores, gap = probability, torch.full_like(true, margin)
    if kind == "logit-margin":
        # The gap between two logits at which their probabilities differ by the margin.
        scores, gap = logits, (margin / (1e-5 + true.detach())).log1p()
    lead = scores.gather(1, here)[:, 0] - scores.scatter(1, here, float("-inf")).amax(1) + gap
    # Linear far from success, quadratic within the margin, flat beyond it.
    return torch.minimum(lead.square() / gap, lead).clamp_min(0)


@register(
    "flicker",
    source="Pony, Naeh and Mannor, Over-the-Air Adversarial Flickering Attacks Against Video Recognition Networks, "
    "CVPR 2021, and the authors' released code",
)
class Flicker(Attack):
    """One colour offset per frame, found by Adam: the weakest and smoothest flicker that fools the classifier.

    Minimised is ``adversarial + strength * regulariser``, over offsets that start at zero, are added to every pixel of
    their frame, are kept within the budget (``norm: flicker``) and clamped with the clip to ``[0, 1]``. The settings
    are those of the authors' code, which leaves two to us (``docs/decisions.md``): offsets in units of ``[0, 1]``,
    where a learning rate of 5e-4 equals that of the original in ``[-1, 1]``; and a hard bound on the steps, for which
    300 are recommended, where the released loop runs until it succeeds. Adam moves an offset by
    about the learning rate in each step (the budget's ``step_size``, if it has one), so ten steps reach 1.3/255: give
    this attack steps of its own.

    The aim is the weakest flicker, so a first success is not the end. On a decisive target a clip takes all steps, and
    of all misclassified iterates the one with the lowest regulariser is returned; with ``stop`` the clip leaves with
    the first. One that is wrong without any flicker leaves in any case. Of clips made for transfer the iterate with the
    lowest adversarial loss is returned, misclassified ones first and of equals the later one, since a defence would
    undo the weakest flicker. On a stochastic target it is the last iterate: one draw proves nothing.

    Against a very confident classifier the gradient of a probability is zero or lost beside that of the regulariser,
    and ``margin``, the authors' first choice, and ``ce`` stall: ``logit-margin`` does not. The trace is the objective,
    with the sign that makes it rise.

    Args:
        loss: ``margin``, between probabilities: with the lead ``s`` of the true class over the best wrong one, plus
            ``margin``, it is ``s``, or ``s^2 / margin`` where that is less, or 0 for ``s < 0``. ``logit-margin``, our
            default: the same between logits, whose margin ``log(1 + margin / p)`` is held constant in the gradient.
            ``ce``: ``-log(1 - p)``, with ``p`` the probability of the true class.
        margin: by how much the wrong class shall lead.
        strength: weight of the regulariser (lambda). The original's offsets, in units of ``[-1, 1]``, are numbers twice
            as large as ours, so that its 1 is our 4.
        beta1: share of thickness, the mean square of the offsets.
        beta2: share of roughness, the mean squares of their first and second circular differences in time.
        stop: let a clip leave with its first success.
    """

    norms = ("flicker",)

    def __init__(
        self,
        loss: Literal["margin", "logit-margin", "ce"] = "logit-margin",
        margin: float = 0.05,
        strength: float = 1.0,
        beta1: float = 0.5,
        beta2: float = 0.5,
        stop: bool = False,
    ) -> None:
        if loss not in ("margin", "logit-margin", "ce"):
            raise ValueError(f"loss must be margin, logit-margin or ce, not {loss!r}")
        if not margin > 0:
            raise ValueError(f"margin must be positive, not {margin!r}")
        if not (strength >= 0 and beta1 >= 0 and beta2 >= 0):
            raise ValueError(f"strength, beta1 and beta2 must not be negative, not {strength}, {beta1}, {beta2}")
        self.loss, self.margin, self.stop = loss, margin, stop
        self.strength, self.beta1, self.beta2 = strength, beta1, beta2

    def check(self, budget: Budget) -> None:
        super().check(budget)
        if budget.restarts > 1:
            raise BenchError(
                f"Nothing about the flickering attack is random: it takes 1 restart, not {budget.restarts}."
            )

    def passes(self, budget: Budget) -> tuple[int, int]:
        return budget.steps + 1, budget.steps

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        trace = torch.full((budget.steps, len(clips)), float("nan"), dtype=torch.float32)
        rate = _LEARNING_RATE if budget.step_size is None else budget.step_size
        most = torch.as_tensor(budget.size, dtype=clips.dtype, device=clips.device).expand(len(clips))
        most = most[:, None, None, None, None]
        offsets, mean, square = (clips.new_zeros(*clips.shape[:3], 1, 1) for _ in range(3))  # the last two are Adam's
        best, left = Best(clips), Survivors(clips, labels, budget, rng)

        def objective(logits: Tensor, classes: Tensor) -> Tensor:
            return -adversarial_loss(logits, classes, self.loss, self.margin)

        for step in range(budget.steps):
            rows, here = left.rows, left.here
            shifted = left.clips + left.of(offsets)
            value, gradient, decision = target.gradient(shifted.clamp(0, 1), rows, left.labels, objective)
            penalty, slope = self._penalty(left.of(offsets))
            wrong = left.wrong(decision)
            loss, price, score, failed = fetch(value, penalty, _score(target, value, penalty, wrong), wrong)
            trace[step, rows] = (loss - price).float()
            if not target.stochastic:
                best.keep(shifted.clamp(0, 1), score, failed, rows)
            # A saturated pixel does not move with its frame. One exactly at an end does: else black would stay black.
            slope = slope - (gradient * ((shifted >= 0) & (shifted <= 1))).sum((3, 4), keepdim=True)
            mean[here] = _DECAY * left.of(mean) + (1 - _DECAY) * slope
            square[here] = _SQUARE_DECAY * left.of(square) + (1 - _SQUARE_DECAY) * slope.square()
            # Both averages start at zero, and are too small at first.
            unbiased = left.of(mean) / (1 - _DECAY ** (step + 1))
            spread = (left.of(square) / (1 - _SQUARE_DECAY ** (step + 1))).sqrt()
            reach = left.of(most)
            offsets[here] = (left.of(offsets) - rate * unbiased / (spread + _TINY)).clamp(-reach, reach)
            if target.decisive:
                left.drop((failed > 0) & (self.stop | (price == 0)))
                if not len(left):
                    return AttackResult(best.clips, trace)
        moved = (left.clips + left.of(offsets)).clamp(0, 1)
        if target.stochastic:
            return AttackResult(moved, trace)
        with torch.no_grad():
            answer = target.ask(moved, left.rows)
        value, wrong = objective(answer.logits, left.labels), left.wrong(answer.decision)
        penalty, _ = self._penalty(left.of(offsets))
        best.keep(moved, _score(target, value, penalty, wrong), wrong, left.rows)
        return AttackResult(best.clips, trace)

    def _penalty(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted regulariser, ``float64 (b,)``, and its gradient, the shape of the offsets."""
        with torch.enable_grad():
            x = offsets.detach().double().requires_grad_(True)
            penalty = self.strength * regulariser(x, self.beta1, self.beta2)
            (slope,) = torch.autograd.grad(penalty.sum(), x)
        return penalty.detach(), slope.to(offsets.dtype)


def _score(target: Target, value: Tensor, penalty: Tensor, wrong: Tensor) -> Tensor:
    """How good an iterate is, ``(b,)``: a misclassified one is the better the lower its penalty, and of others the last
    one is kept; of clips made for transfer that with the highest objective is."""
    return -penalty.where(wrong, 0.0) if target.decisive else value
