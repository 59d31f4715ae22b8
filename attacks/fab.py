"""FAB: the nearest misclassified clip, by way of the boundary."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench import (
    Attack,
    AttackResult,
    BenchError,
    Budget,
    ClipRandom,
    Survivors,
    Target,
    at_least,
    fetch,
    register,
    upload,
)

# Keeps the share of two moves defined where both are zero.
_TINY = 1e-12


@register(
    "fab",
    source="Croce and Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack, ICML 2020 "
    "(arXiv 1907.02044); targeted as in AutoAttack, arXiv 2003.01690",
)
class FAB(Attack):
    """Fast adaptive boundary attack: minimises the distance instead of maximising a loss.

    Each step takes the classifier for linear, projects the iterate and the clean clip onto the nearest boundary inside
    the box (:func:`onto_plane`), and goes past a mixture of the two, ``1 - alpha`` to ``alpha``. Where that is
    misclassified it is kept if it is the closest so far, and the iterate is pulled back towards the clean clip. The
    steps count; the budget's size only decides at the end which clips are handed in: those whose closest misclassified
    clip lies within it. The others come back clean.

    The first start is the clean clip; later ones are random, within half the distance found so far, or half the size if
    that is less. A step costs two forward passes, one of them to see whether the new iterate is misclassified, and one
    backward pass per boundary that is looked at.

    Args:
        targeted: whether each step goes to the boundary of one given class, which changes from run to run, or of the
            nearest of all considered classes, which costs as many backward passes per step.
        targets: how many wrong classes are considered, the likeliest for the clean clip first; all, if fewer.
        keep: ``closest`` of all runs, or the ``first`` within the budget: enough to break a clip, and it leaves the
            batch.
        alpha_max: largest share of the clean clip's projection.
        eta: how far to go, in units of the way to the boundary.
        beta: share of the distance that is kept when pulled back.
    """

    decisive_only = True

    def __init__(
        self,
        targeted: bool = True,
        targets: int = 9,
        keep: Literal["closest", "first"] = "closest",
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
    ) -> None:
        at_least("targets", targets, 1)
        if keep not in ("closest", "first"):
            raise ValueError(f"keep must be closest or first, not {keep!r}")
        if not 0 <= alpha_max <= 1:
            raise ValueError(f"alpha_max must be between 0 and 1, not {alpha_max!r}")
        if not eta >= 1:
            raise ValueError(f"eta must be at least 1, not {eta!r}")
        if not 0 < beta < 1:
            raise ValueError(f"beta must be between 0 and 1, not {beta!r}")
        self.targeted, self.targets, self.keep = targeted, targets, keep
        self.alpha_max, self.eta, self.beta = alpha_max, eta, beta

    def passes(self, budget: Budget) -> tuple[int, int]:
        gradients = budget.steps * budget.restarts * self.targets
        steps = gradients if self.targeted else budget.steps * budget.restarts
        return 1 + 2 * steps, gradients

    def refuses(self, *, stochastic: bool, transfer: bool) -> str | None:
        if stochastic:
            return (
                "FAB walks along the boundary of a classifier, and a randomised defence has none that stands still: "
                "use eot around apgd, or autoattack with version='rand'."
            )
        if transfer:
            return (
                "FAB returns clips that barely fool the classifier it sees, which no other one would be fooled by: use "
                "apgd or pgd for gray-box and black-box clips."
            )
        return None

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        reason = self.refuses(stochastic=target.stochastic, transfer=not target.decisive)
        if reason:
            raise BenchError(reason)
        size = torch.as_tensor(budget.size, dtype=torch.float64).cpu().expand(len(clips))
        with torch.no_grad():
            answer = target.ask(clips)
        (failed,) = fetch(answer.decision.to(labels.device) != labels)
        closest = clips.clone()
        distance = torch.where(failed > 0, 0.0, float("inf")).double()  # a clip that is wrong as it is needs no change
        left = Survivors(clips, labels, budget, rng, rows=(failed == 0).nonzero()[:, 0])
        for classes in self._goals(answer.logits, labels):
            for restart in range(budget.restarts):
                if not len(left):
                    break
                x = left.clips
                if restart:
                    radius = torch.minimum(distance[left.rows], size[left.rows]) / 2
                    x = budget.geometry.random_start(x, radius, left.rng)
                for _ in range(budget.steps):
                    x = self._step(target, x, left, left.of(classes))
                    with torch.no_grad():
                        wrong = left.wrong(target.ask(x, left.rows).decision)
                    failed, far = fetch(wrong, budget.geometry.distance(x, left.clips))
                    closer = ((failed > 0) & (far < distance[left.rows])).nonzero()[:, 0]
                    if len(closer):
                        distance[left.rows[closer]] = far[closer]
                        here = upload(closer, x)
                        closest[left.here[here]] = x[here]
                    x = torch.where(_column(wrong), left.clips + self.beta * (x - left.clips), x)
                    if self.keep == "first":
                        x = x[left.drop(distance[left.rows] <= size[left.rows])]
                        if not len(left):
                            break
        return AttackResult(torch.where(_column(upload(distance <= size, clips)), closest, clips))

    def _goals(self, logits: Tensor, labels: Tensor) -> list[Tensor]:
        """Wrong classes that each run heads for, ``(B, m)``: one per run if targeted, else all in one run."""
        others = logits.scatter(1, labels[:, None], float("-inf"))
        likeliest = others.topk(min(self.targets, logits.shape[1] - 1), dim=1).indices
        return list(likeliest.split(1, dim=1)) if self.targeted else [likeliest]

    def _step(self, target: Target, x: Tensor, left: Survivors, classes: Tensor) -> Tensor:
        """The next iterate, before it is known whether it is misclassified."""
        norm = left.budget.norm
        gap, normal = _nearest_boundary(target, x, left.rows, left.labels, classes, norm)
        here, origin = x.flatten(1).double(), left.clips.flatten(1).double()
        # The boundary is where gap + <normal, z - x> = 0.
        move = onto_plane(here, normal, -gap, norm)
        from_origin = onto_plane(origin, normal, -gap - (normal * (origin - here)).sum(1), norm)
        near, far = _length(move, norm), _length(from_origin, norm)
        alpha = (near / (near + far).clamp_min(_TINY)).clamp(max=self.alpha_max)[:, None]
        mixed = (1 - alpha) * (here + self.eta * move) + alpha * (origin + self.eta * from_origin)
        return mixed.clamp(0, 1).to(x.dtype).view_as(x)


def onto_plane(points: Tensor, normal: Tensor, rise: Tensor, norm: str) -> Tensor:
    """The shortest moves that change ``<normal, point>`` by ``rise`` and stay in the unit box.

    Under a bound on the length of the move, every value goes the way that helps, as far as the bound or the box allows:
    all by the same amount ``level`` in linf, each by ``level * |normal|`` in l2; :func:`fill_level` finds the level.
    Where even the corner of the box is not enough, the move goes to that corner.

    Args:
        points: in ``[0, 1]``, ``float64 (B, N)``.
        normal: ``float64 (B, N)``.
        rise: ``float64 (B,)``, of either sign.
        norm: ``linf`` or ``l2``.

    Returns:
        ``float64 (B, N)``, zero where ``normal`` is.

    Source: Croce and Hein (arXiv 1907.02044), section 2.
    """
    pull = normal.abs()
    up = (normal > 0) == (rise[:, None] > 0)
    room = torch.where(pull > 0, torch.where(up, 1 - points, points), 0.0)
    speed = torch.ones_like(pull) if norm == "linf" else pull
    level = fill_level(pull, speed, room, rise.abs())[:, None]
    move = torch.minimum(level * speed, room)
    return torch.where(up, move, -move)


def fill_level(weight: Tensor, speed: Tensor, room: Tensor, amount: Tensor) -> Tensor:
    """The smallest ``level`` with ``sum(weight * min(level * speed, room)) = amount``.

    That sum is concave in the level and made of straight pieces, so Newton's method from below never overshoots, and is
    exact once it reaches the last piece: after three to ten rounds for the 200 000 values of a small clip, several
    times faster than sorting them.

    Args:
        weight, speed, room: not negative, ``float64 (B, N)``.
        amount: not negative, ``float64 (B,)``.

    Returns:
        ``float64 (B,)``; a level at which all room is used up where even that is not enough.
    """
    gain, whole = weight * speed, weight * room
    level = torch.zeros_like(amount)
    while True:
        moving = level[:, None] * speed < room
        slope, met = (gain * moving).sum(1), (whole * ~moving).sum(1)
        higher = torch.where(slope > 0, (amount - met) / slope, level)
        if not bool((higher > level).any()):
            return level
        level = torch.maximum(level, higher)


def _nearest_boundary(
    target: Target, x: Tensor, rows: Tensor, labels: Tensor, classes: Tensor, norm: str
) -> tuple[Tensor, Tensor]:
    """The boundary to one of ``classes (b, m)`` that is nearest to ``x`` if the classifier is linear.

    It asks for logits, not for :meth:`Target.gradient`, whose value may hold a second objective: the boundary is where
    the two logits are equal, nowhere else.

    Returns:
        The logit of that class minus the true one ``(b,)`` and the gradient of that ``(b, N)``, ``float64``.
    """
    x = x.detach().requires_grad_(True)
    logits = target(x, rows)
    gaps = logits.gather(1, classes) - logits.gather(1, labels[:, None])
    gap, normal = gaps.new_zeros(len(x)).double(), torch.zeros_like(x, dtype=torch.float64).flatten(1)
    nearest = torch.full_like(gap, float("inf"))
    for k in range(classes.shape[1]):
        (found,) = torch.autograd.grad(gaps[:, k].sum(), x, retain_graph=k + 1 < classes.shape[1])
        slope, height = found.flatten(1).double(), gaps[:, k].detach().double()
        # Distance to a hyperplane: by the dual norm of its normal.
        steepness = slope.abs().sum(1) if norm == "linf" else slope.norm(dim=1)
        distance = height.abs() / steepness.clamp_min(_TINY)
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        gap, normal = torch.where(closer, height, gap), torch.where(closer[:, None], slope, normal)
    return gap, normal


def _length(moves: Tensor, norm: str) -> Tensor:
    return moves.abs().amax(1) if norm == "linf" else moves.norm(dim=1)


def _column(values: Tensor) -> Tensor:
    """One value per clip ``(b,)``, shaped to meet clips ``(b, 3, T, H, W)``."""
    return values[:, None, None, None, None]
