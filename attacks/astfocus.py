"""AstFocus: a gradient is estimated by queries in key frames and key regions, which are searched along with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench import Answer, Run, SampledAttack, Subspace, Survivors, margin, register

_PLACES = 7  # along each side of a frame, for the region
_TRIES = 10


@register(
    "astfocus",
    source="Wei, Wang and Yan, Efficient Robustness Assessment via Adversarial Spatial-Temporal Focus on Videos, IEEE "
    "TPAMI 2023",
)
class AstFocus(SampledAttack):
    """Moves the values of one region in each of some frames at a time; two agents learn which frames and which regions.

    Each round, one agent picks the key frames, a coin for each, and the other a square region in each of them, one of 7
    by 7 places. Natural evolution strategies estimate the slope of every value in there from queries in pairs
    (:class:`SampledAttack`), and the clip takes a step in its sign. What the next look has gained rewards both agents,
    and the one for frames is also to pick about half of them. Agents learn from nothing but the queries on one clip.

    Chosen over the heuristic attack of the same group (Wei et al., AAAI 2020), which shortens the way to the boundary
    in the mean absolute change: that bounds no single value, and a clip that obeys a linf budget is only reached by
    luck. AstFocus is made for a linf budget.

    As published: the clean start, 60 queries for an estimate at ``sigma`` 1e-3, ranks as weights, regions 0.58 of the
    frame wide (65 of 112 pixels), between an eighth and five eighths of the frames (2 to 10 of 16; half of them at
    random, if ten draws give no such number), steps of 0.6 of the budget, halved down to 0.048, and the rewards: the
    relative gain of ``exp(p)``, ``p`` the probability of the best wrong class less that of the true one, above a
    running baseline, and for frames a fifth of that less ``0.8 ((n - T / 2) / T)^2``.

    Ours: an agent is a table of preferences for the clip, and each learns by the plain policy gradient. The published
    ones are recurrent networks over features of ImageNet networks with a critic each; within the attack on one clip
    those features never change, so what their policies can come to is a table. Two rewards of theirs have no place
    here: how well the key frames represent the others, and the score of an object detector in the region, neither of
    which the queries say anything about. ``docs/decisions.md`` has the list.

    Args:
        queries: forward passes of a start, see :class:`SampledAttack`.
        samples: queries for an estimate.
        sigma: how far they lie from the iterate, in intensity units.
        region: side of a region, as a share of the frame's.
        rate: of the agents' learning.
        loss: ``ce``, ``margin`` or ``dlr``.
        target: nothing, ``runner_up`` or ``least_likely``: the class to reach.
        ranked: whether ranks weigh the queries, or the losses themselves.
    """

    strides = (0.6, 0.048)

    def __init__(
        self,
        queries: int = 5000,
        samples: int = 60,
        sigma: float = 1e-3,
        region: float = 0.58,
        rate: float = 1.0,
        loss: str = "margin",
        target: Literal["runner_up", "least_likely"] | None = None,
        ranked: bool = True,
    ) -> None:
        super().__init__(queries, samples, sigma, loss, target, ranked)
        if not 0 < region <= 1:
            raise ValueError(f"region must lie in (0, 1], not {region!r}")
        if not rate >= 0:
            raise ValueError(f"rate must not be negative, not {rate!r}")
        self.region, self.rate = region, rate

    def prepare(self, run: Run) -> Agents:
        return Agents.new(len(run.clips), run.clips.shape[2])

    def subspace(self, run: Run, iterates: Tensor, left: Survivors, aim: Tensor) -> Subspace:
        frames, places = run.kept.act(left)
        pattern = focus(frames, places, self.region, *iterates.shape[3:])
        return Subspace(pattern.to(iterates), (3, *iterates.shape[2:]))

    def learn(self, run: Run, answer: Answer, left: Survivors, aim: Tensor) -> None:
        ahead = margin(answer.logits.double().softmax(1), aim)
        run.kept.learn(left.rows, (-ahead if self.target else ahead).exp().cpu(), self.rate)


def focus(frames: Tensor, places: Tensor, share: float, height: int, width: int) -> Tensor:
    """Where clips may change: 1 in the region of each key frame, 0 elsewhere.

    Args:
        frames: ``bool (b, T)``, the key frames.
        places: ``int64 (b, T)``, of the region in each frame, counted along the rows of a grid of 7 by 7.
        share: side of a region, as a share of the frame's.

    Returns:
        ``float32 (b, 1, T, height, width)``.
    """

    def inside(place: Tensor, size: int) -> Tensor:
        side = max(1, round(share * size))
        begin = (place * (size - side) // (_PLACES - 1))[..., None]
        pixel = torch.arange(size)
        return (pixel >= begin) & (pixel < begin + side)

    rows, columns = inside(places // _PLACES, height), inside(places % _PLACES, width)
    region = rows[..., :, None] & columns[..., None, :]
    return (region & frames[..., None, None])[:, None].float()


@dataclass
class Agents:
    """The two agents of each clip, and what they have done last; on the CPU, for the whole batch.

    Attributes:
        frames: ``float64 (B, T)``, log odds that a frame is a key frame.
        regions: ``float64 (B, T, 49)``, log weights of the places.
        key, place: what was done last, ``bool (B, T)`` and ``int64 (B, T)``.
        standing: ``float64 (B,)``, ``exp(p)`` at the last look; not-a-number before the first.
        baseline, total: ``float64 (B,)``, the running baseline of the rewards, and their sum.
        count: ``int64 (B,)``, how many there were.
    """

    frames: Tensor
    regions: Tensor
    key: Tensor
    place: Tensor
    standing: Tensor
    baseline: Tensor
    total: Tensor
    count: Tensor

    @classmethod
    def new(cls, batch: int, frames: int) -> Agents:
        """Agents that prefer nothing."""
        chosen = torch.zeros(2, batch, frames, dtype=torch.int64)
        numbers = torch.zeros(3, batch, dtype=torch.float64)
        return cls(
            frames=torch.zeros(batch, frames, dtype=torch.float64),
            regions=torch.zeros(batch, frames, _PLACES**2, dtype=torch.float64),
            key=chosen[0].bool(),
            place=chosen[1],
            standing=numbers[0] + math.nan,
            baseline=numbers[1],
            total=numbers[2],
            count=torch.zeros(batch, dtype=torch.int64),
        )

    def act(self, left: Survivors) -> tuple[Tensor, Tensor]:
        """Key frames ``bool (b, T)`` and the place of the region in each frame, ``int64 (b, T)``, of some clips."""
        rows, rng = left.rows, left.rng
        count = self.frames.shape[1]
        fewest = max(1, round(count / 8))
        most = max(fewest, round(count * 5 / 8))
        draws = rng.uniform(_TRIES, count) < self.frames[rows].sigmoid()[:, None]
        fits = (draws.sum(2) >= fewest) & (draws.sum(2) <= most)
        first = draws[torch.arange(len(rows)), fits.int().argmax(1)]
        half = rng.permutation(count) < max(1, count // 2)
        self.key[rows] = torch.where(fits.any(1, keepdim=True), first, half)
        # The largest of the log weights plus Gumbel noise is a draw from them.
        noise = rng.uniform(*self.regions.shape[1:]).double().clamp_min(1e-300)
        self.place[rows] = (self.regions[rows] - (-noise.log()).log()).argmax(2)
        return self.key[rows], self.place[rows]

    def learn(self, rows: Tensor, standing: Tensor, rate: float) -> None:
        """Rewards the last choice for some clips ``(b,)`` by what ``exp(p)`` has become."""
        reward = standing / self.standing[rows] - 1
        self.standing[rows] = standing
        acted = ~reward.isnan()
        rows, reward = rows[acted], reward[acted]
        self.count[rows] += 1
        self.total[rows] += reward
        self.baseline[rows] = 0.9 * self.baseline[rows] + 0.1 * self.total[rows] / self.count[rows]
        gain = reward - self.baseline[rows]
        key, count = self.key[rows].double(), self.frames.shape[1]
        much = ((key.sum(1) - count / 2) / count).square()
        for_frames = 0.2 * gain - 0.8 * much
        self.frames[rows] += rate * for_frames[:, None] * (key - self.frames[rows].sigmoid())
        chosen = torch.nn.functional.one_hot(self.place[rows], _PLACES**2).double()
        # A region of another frame than a key frame has done nothing.
        slope = (chosen - self.regions[rows].softmax(2)) * key[..., None]
        self.regions[rows] += rate * gain[:, None, None] * slope
