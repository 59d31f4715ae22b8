"""Square Attack: random search with squares, by scores alone."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Literal

import torch
from torch import Tensor

from bench import Attack, AttackResult, Best, Budget, ClipRandom, Survivors, Target, at_least, fetch, loss_of, register

# Of 10 000 steps, those after which the share of the squares is halved.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TRACE_POINTS = 100


@register(
    "square",
    source="Andriushchenko, Croce, Flammarion and Hein, Square Attack: A Query-efficient Black-box Adversarial Attack "
    "via Random Search, ECCV 2020",
)
class Square(Attack):
    """Random search: a square of new colour is tried at a random place, and kept if the loss rises.

    No gradient is taken, so a defence that hides its gradients gains nothing: where this attack does better than the
    gradient attacks, those have failed. On a clip a square is a place in the picture. By default it spans all frames,
    with one colour for all of them, so that a clip of one frame is attacked exactly as a picture is. In linf each value
    in the square is moved to the edge of the ball, by one sign per colour, from a start of vertical stripes. In l2 the
    square is a pair of opposite bumps that takes over the length of a second square, which is emptied; the start is
    tiled with such pairs.

    ``queries`` counts all forward passes of a start, the first included; the budget's steps are not used, its restarts
    are. Squares shrink on the paper's schedule of 10 000 steps, by default scaled to the number of queries.

    A misclassified candidate is final on a decisive target. Clips made for transfer go on to the last query for a
    larger loss. On a stochastic target a candidate's success is never believed and no clip leaves; whether the loss
    rises is then decided by one draw each, so luck is kept along with merit and the clip that is returned may be worse
    than it looked.

    Non-square pictures and ones of fewer than five pixels have no place in the paper; there a square is at most as wide
    as the shorter side. Squares may touch the lower and the right edge, as in the paper (in the released code, never).

    Args:
        queries: forward passes of a start; 5000 as in AutoAttack.
        p_init: share of the picture that the first squares cover.
        loss: ``margin``, ``ce`` or ``dlr``.
        span: ``clip``, all frames, or ``frame``: each square lies in one random frame.
        rescale: scale the schedule to the number of queries, so that squares end as small as the paper's; if not, the
            halvings come at the paper's own steps, and a short search ends among larger squares, as in AutoAttack.
    """

    def __init__(
        self,
        queries: int = 5000,
        p_init: float = 0.8,
        loss: str = "margin",
        span: Literal["clip", "frame"] = "clip",
        rescale: bool = True,
    ) -> None:
        at_least("queries", queries, 2, ", one for the start and one to search")
        if not 0 < p_init <= 1:
            raise ValueError(f"p_init must lie in (0, 1], not {p_init!r}")
        if span not in ("clip", "frame"):
            raise ValueError(f"span must be clip or frame, not {span!r}")
        self.queries, self.p_init, self.span, self.rescale = queries, p_init, span, rescale
        self._loss = loss_of(loss)

    def passes(self, budget: Budget) -> tuple[int, int]:
        return self.queries * budget.restarts, 0

    @torch.no_grad()
    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        points = min(_TRACE_POINTS, self.queries)
        trace = torch.full((points * budget.restarts, len(clips)), float("nan"), dtype=torch.float32)
        best, left = Best(clips, of_equals="earlier"), Survivors(clips, labels, budget, rng)
        for restart in range(budget.restarts):
            search = Best(clips, of_equals="earlier")
            for query in range(self.queries):
                candidates = self._candidates(search, left, query)
                answer = target.ask(candidates, left.rows)
                score, broken = fetch(self._loss(answer.logits, left.labels), left.wrong(answer.decision))
                search.keep(candidates, score, broken * (not target.stochastic), left.rows)
                seen = restart * points + query * points // self.queries
                trace[seen, left.rows] = search.score[left.rows].float()
                if target.decisive and bool(broken.any()):
                    best.join(search, left.rows[broken > 0])
                    left.drop(broken > 0)
                    if not len(left):
                        return AttackResult(best.clips, trace)
            best.join(search, left.rows)
        return AttackResult(best.clips, trace)

    def _candidates(self, search: Best, left: Survivors, query: int) -> Tensor:
        """What is tried next: the start, then one change of the best so far."""
        linf, clips = left.budget.norm == "linf", left.clips
        size = torch.as_tensor(left.budget.size, dtype=clips.dtype, device=clips.device).reshape(-1, 1, 1, 1, 1)
        if query == 0:
            return (_stripes if linf else _tiles)(clips, size, left.rng)
        change = _recolour if linf else _move
        return change(left.of(search.clips), clips, size, self.share(query - 1), self.span, left.rng)

    def share(self, step: int) -> float:
        """Share of the picture that a square covers, at a step of the search counted from 0."""
        of_ten_thousand = step * 10_000 // (self.queries - 1) if self.rescale else step
        return self.p_init * 0.5 ** bisect_left(_HALVINGS, of_ten_thousand)


def _signs(draws: Tensor) -> Tensor:
    """Uniform numbers in ``[0, 1)`` to -1 or 1, of the same shape."""
    return torch.where(draws < 0.5, -1.0, 1.0).to(draws)


def _squares(draws: Tensor, side: int, clips: Tensor, span: str) -> tuple[Tensor, Tensor, Tensor]:
    """A square in each clip.

    Args:
        draws: ``(b, 3)``, uniform: row, column and, where squares lie in one frame, the frame.
        side: of the square, in pixels.

    Returns:
        ``bool (b, 1, T, H, W)``, what is inside, and the coordinates of each pixel in its square, ``int64 (b, H, 1)``
        and ``(b, 1, W)``, which mean nothing outside.
    """
    frames, height, width = clips.shape[2:]
    free = torch.tensor([height - side + 1, width - side + 1, frames], device=draws.device)
    top, left, frame = (draws.double() * free).long().unbind(1)
    y = torch.arange(height, device=draws.device) - top[:, None]
    x = torch.arange(width, device=draws.device) - left[:, None]
    t = torch.arange(frames, device=draws.device) == frame[:, None]
    inside = ((y >= 0) & (y < side))[:, :, None] & ((x >= 0) & (x < side))[:, None]
    within = (t if span == "frame" else torch.ones_like(t))[:, None, :, None, None]
    return inside[:, None, None] & within, y[:, :, None], x[:, None]


def _stripes(clips: Tensor, size: Tensor, random: ClipRandom) -> Tensor:
    """The linf start: each column of the picture moves up or down, colour by colour."""
    signs = _signs(random.uniform(3, clips.shape[-1], device=clips.device)).to(clips.dtype)
    return (clips + size * signs[:, :, None, None]).clamp(0, 1)


def _recolour(best: Tensor, clips: Tensor, size: Tensor, share: float, span: str, random: ClipRandom) -> Tensor:
    """The linf candidate: the values in a square go to one edge of the ball, colour by colour."""
    height, width = clips.shape[-2:]
    side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
    draws = random.uniform(6, device=clips.device)
    inside, _, _ = _squares(draws[:, :3], side, clips, span)
    signs = _signs(draws[:, 3:]).to(clips.dtype)[:, :, None, None, None]
    return torch.where(inside, (clips + size * signs).clamp(0, 1), best)


def _length(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    return values.square().sum(dims, keepdim=True).sqrt()


def _scaled(clips: Tensor, delta: Tensor, size: Tensor) -> Tensor:
    """Adds a perturbation, brought to the length of the budget."""
    return (clips + delta * (size / (_length(delta, (1, 2, 3, 4)) + 1e-12))).clamp(0, 1)


def bumps(side: int) -> Tensor:
    """Two opposite bumps side by side in a square, ``(2, side, side)``: above one another, and the transpose.

    A bump is highest in its centre: the sum of ``1 / (k + 1)^2`` over all rings ``k`` from the pixel's own, in the
    maximum norm, to the outermost. Each has the same length, as in the released code, and the pair length 1.
    """

    def bump(height: int, width: int) -> Tensor:
        y = (torch.arange(height) - height // 2).abs()
        x = (torch.arange(width) - width // 2).abs()
        rings = 1 / torch.arange(1, max(height, width) // 2 + 2).double().square()
        values = rings.flip(0).cumsum(0).flip(0)[torch.maximum(y[:, None], x)]
        return values / values.norm()

    pair = torch.cat([bump(side // 2, side), -bump(side - side // 2, side)]) if side > 1 else -torch.ones(1, 1)
    pair = pair / pair.norm()
    return torch.stack([pair, pair.T])


def _tiles(clips: Tensor, size: Tensor, random: ClipRandom) -> Tensor:
    """The l2 start: five by five pairs of bumps, turned and signed at random."""
    height, width = clips.shape[-2:]
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    draws = random.uniform(down, across, 4, device=clips.device)
    pairs = bumps(side).to(clips)[(draws[..., 0] > 0.5).long()]
    tiles = pairs[:, :, :, None] * _signs(draws[..., 1:]).to(clips.dtype)[..., None, None]
    top, left = (height - down * side) // 2, (width - across * side) // 2
    delta = torch.zeros_like(clips)
    picture = tiles.permute(0, 3, 1, 4, 2, 5).reshape(len(clips), 3, 1, down * side, across * side)
    delta[..., top : top + down * side, left : left + across * side] = picture
    return _scaled(clips, delta, size)


def _move(best: Tensor, clips: Tensor, size: Tensor, share: float, span: str, random: ClipRandom) -> Tensor:
    """The l2 candidate: one square takes over the length of another, and gets a pair of bumps (Algorithm 3)."""
    height, width = clips.shape[-2:]
    side = max(round(math.sqrt(share * height * width)), 3)
    side = min(side + 1 - side % 2, height, width)
    draws = random.uniform(10, device=clips.device)
    filled, y, x = _squares(draws[:, :3], side, clips, span)
    emptied, _, _ = _squares(draws[:, 3:6], side, clips, span)
    turned = (draws[:, 6] > 0.5).long()[:, None, None]
    pair = bumps(side).to(clips)[turned, y.clamp(0, side - 1), x.clamp(0, side - 1)][:, None, None] * filled
    signs = _signs(draws[:, 7:]).to(clips.dtype)[:, :, None, None, None]

    delta, each = best - clips, (2, 3, 4)  # lengths are those of each colour
    old = delta * filled
    new = signs * pair / _length(pair, each) + old / (_length(old, each) + 1e-12)
    unused = (size.square() - _length(delta, (1, 2, 3, 4)).square()).clamp_min(0)
    length = (unused / 3 + _length(delta * (filled | emptied), each).square()).sqrt()
    new = new / (_length(new, each) + 1e-12) * length
    return _scaled(clips, torch.where(filled, new, delta.masked_fill(emptied, 0)), size)
