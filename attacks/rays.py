"""RayS: the distance to the boundary along a ray of signs, by hard decisions alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench import Attack, AttackResult, BenchError, Budget, ClipRandom, Survivors, Target, at_least, register


@register(
    "rays",
    source="Chen and Gu, RayS: A Ray Searching Method for Hard-label Adversarial Attack, KDD 2020, hierarchical ray "
    "search",
)
class RayS(Attack):
    """Looks for the direction of plus and minus one in which the decision changes soonest.

    Only the decisions of the classifier are used: neither gradients nor scores, so nothing that a defence does to
    either can hide a weakness from it. The signs of ever smaller blocks of the flattened clip are flipped, one after
    the other: all values, halves, quarters. A flip is tried at the best radius known; only where the clip is wrong
    there too, a binary search finds how much nearer the boundary is, and the flip stays. Nothing is random.

    Queries go outside the budget, to find a direction; what is returned does not. On a decisive target a clip leaves
    as soon as a query within the budget is misclassified. Any other clip is returned at the edge of its budget, along
    its best direction, for the judge to look at. Clips made for transfer use up their queries, the last one to see
    whether the clip at the edge is wrong as well; if it is not, the one at the boundary is returned. On a stochastic
    target the radius is guesswork, and the clip at the edge is returned.

    Args:
        queries: forward passes for each clip; the paper allows 10 000. The budget's steps are not used.
        tolerance: of the binary search, in intensity units. The paper's 1e-3 is a Euclidean length, which is
            ``1e-3 / sqrt(N)`` for ``N`` values.
    """

    norms = ("linf",)

    def __init__(self, queries: int = 5000, tolerance: float = 1e-5) -> None:
        at_least("queries", queries, 2)
        if not tolerance > 0:
            raise ValueError(f"tolerance must be positive, not {tolerance!r}")
        self.queries, self.tolerance = queries, tolerance

    def check(self, budget: Budget) -> None:
        super().check(budget)
        if budget.restarts > 1:
            raise BenchError(f"Nothing about RayS is random: it takes 1 restart, not {budget.restarts}.")

    def passes(self, budget: Budget) -> tuple[int, int]:
        return self.queries, 0

    @torch.no_grad()
    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        size = torch.as_tensor(budget.size, dtype=torch.float64).cpu().expand(len(clips))
        transfer = not (target.decisive or target.stochastic)
        rays, best = _Rays(clips), clips.clone()
        left = Survivors(clips, labels, budget, rng)
        searches = self.queries - transfer
        for query in range(searches):
            radius, signs = rays.ask(left.rows)
            points = _along(left.clips, signs, radius)
            wrong = left.wrong(target.ask(points, left.rows).decision).cpu()
            rays.learn(left.rows, signs, radius, wrong, self.tolerance if query < searches - 1 else math.inf)
            if target.decisive:
                done = wrong & (radius <= size[left.rows])
                best[left.rows[done]] = points[done]
                left.drop(done)
                if not len(left):
                    return AttackResult(best)
        best[left.rows] = _along(left.clips, rays.signs[left.rows], size[left.rows])
        if transfer:
            right = target.ask(best).decision.cpu() == labels.cpu()
            nearer = right & (rays.radius <= size)
            best[nearer] = _along(clips[nearer], rays.signs[nearer], rays.radius[nearer])
        return AttackResult(best)


def _along(clips: Tensor, signs: Tensor, radius: Tensor) -> Tensor:
    """Clips moved by a radius ``(b,)`` along signs ``(b, N)``."""
    step = radius.to(clips)[:, None] * signs.to(clips.dtype)
    return (clips + step.reshape(clips.shape)).clamp(0, 1)


class _Rays:
    """Where the search of each clip stands; each goes at its own pace.

    Attributes:
        signs: ``int8 (B, N)``, the best direction.
        radius: ``float64 (B,)``, the smallest one found wrong along it, at first infinite.
    """

    def __init__(self, clips: Tensor) -> None:
        batch, self._values = len(clips), clips[0].numel()
        self.signs = torch.ones(batch, self._values, dtype=torch.int8, device=clips.device)
        self.radius = torch.full((batch,), math.inf, dtype=torch.float64)
        # The block whose flip is tried, and whether its binary search has begun, between these radii.
        self._level, self._block = torch.zeros(2, batch, dtype=torch.int64)
        self._searching = torch.zeros(batch, dtype=torch.bool)
        self._low, self._high = torch.zeros(2, batch, dtype=torch.float64)

    def ask(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The next query of some clips: its radius ``(b,)`` and signs ``(b, N)``."""
        middle = (self._low[rows] + self._high[rows]) / 2
        # At a radius of 1 every value has come to 0 or 1.
        radius = middle.where(self._searching[rows], self.radius[rows].clamp_max(1))
        width = self._width(rows)
        begin = (self._block[rows] * width)[:, None].to(self.signs.device)
        place = torch.arange(self._values, device=self.signs.device)
        flipped = (place >= begin) & (place < begin + width[:, None].to(self.signs.device))
        return radius, torch.where(flipped, -self.signs[rows], self.signs[rows])

    def learn(self, rows: Tensor, signs: Tensor, radius: Tensor, wrong: Tensor, tolerance: float) -> None:
        """Takes the decisions on the last query of some clips in, and goes on to the next."""
        searching = self._searching[rows]
        self._low[rows] = self._low[rows].where(searching & wrong, radius.where(searching, 0.0))
        self._high[rows] = radius.where(wrong, self._high[rows])
        searching = searching | wrong
        found = searching & (self._high[rows] - self._low[rows] <= tolerance)
        nearer = rows[found & (self._high[rows] < self.radius[rows])]
        self.signs[nearer] = signs[torch.isin(rows, nearer)]
        self.radius[nearer] = self._high[nearer]
        self._searching[rows] = searching & ~found
        over = rows[found | ~searching]
        self._block[over] += 1
        deeper = over[self._block[over] * self._width(over) >= self._values]
        self._level[deeper] += 1
        self._block[deeper] = 0

    def _width(self, rows: Tensor) -> Tensor:
        """Values in one block, ``int64 (b,)``: the clip is cut into ``2 ** level`` of them, down to single values."""
        pieces = 2 ** self._level[rows].clamp_max(62)
        return (self._values + pieces - 1) // pieces
