"""The loop shared by attacks that estimate a gradient from queries."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.attack.base import Attack, AttackResult
from bench.attack.best import Best
from bench.attack.goals import Goal, aim_at, check_goal
from bench.attack.gradient import Run
from bench.attack.losses import loss_of
from bench.attack.survivors import Survivors, fetch
from bench.attack.target import Answer, Target
from bench.errors import at_least
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget


@dataclass(frozen=True)
class Subspace:
    """The directions in which clips are searched: a pattern cut into cells, each of which moves as one.

    Attributes:
        pattern: ``(b, 1 or 3, T, H, W)``, what a coordinate of 1 everywhere adds to each clip.
        cells: ``(1 or 3, T, h, w)``, coordinates of one clip; a frame is cut into ``h`` by ``w`` cells as even as its
            pixels allow.
    """

    pattern: Tensor
    cells: tuple[int, ...]

    def select(self, where: Tensor) -> Subspace:
        """That of some of the clips, ``int64 (c,)``."""
        return Subspace(self.pattern[where.to(self.pattern.device)], self.cells)

    def lift(self, coordinates: Tensor) -> Tensor:
        """Coordinates ``(b, *cells)`` to changes of the clips, ``(b, 3, T, H, W)`` or broadcasting to it."""
        height, width = self.pattern.shape[-2:]
        for dim, size in ((3, height), (4, width)):
            if coordinates.shape[dim] != size:
                cell = torch.arange(size, device=coordinates.device) * coordinates.shape[dim] // size
                coordinates = coordinates.index_select(dim, cell)
        return coordinates.to(self.pattern.dtype) * self.pattern


def ranks(values: Tensor) -> Tensor:
    """Values ``(n, b)`` to the share of the others that are smaller, in ``[0, 1]``; equal ones share their places."""
    below, equal = (values[:, None] > values).double().sum(1), (values[:, None] == values).double().sum(1)
    return (below + (equal - 1) / 2) / max(len(values) - 1, 1)


@dataclass
class _Search:
    """Where one start stands; kept for the whole batch, as clips may leave at any query.

    Attributes:
        x: the iterates, ``(B, 3, T, H, W)``.
        step: ``float64 (B,)``, length of the next step; it is halved where the loss has stopped rising.
        floor: ``float64 (B,)``, the shortest.
        losses: of each look so far, ``float64 (B,)``; not-a-number of clips that have left.
        since: ``int64 (B,)``, the first look after the last halving.
    """

    x: Tensor
    step: Tensor
    floor: Tensor
    losses: list[Tensor]
    since: Tensor

    def note(self, rows: Tensor, loss: Tensor, patience: int) -> None:
        """Takes the loss of a look in, ``float64 (b,)`` on the CPU."""
        seen = torch.full((len(self.x),), float("nan"), dtype=torch.float64)
        seen[rows] = loss
        self.losses.append(seen)
        last = len(self.losses) - 1
        if last + 1 >= patience:
            stuck = (seen <= self.losses[last + 1 - patience]) & (last - self.since >= patience - 1)
            self.step = torch.where(stuck, torch.maximum(self.step / 2, self.floor), self.step)
            self.since = torch.where(stuck, last + 1, self.since)


class SampledAttack(Attack):
    """Natural evolution strategies: the loss is asked at random points around the iterate, and a step follows.

    The clip ``x`` is moved in a :class:`Subspace`, which a subclass chooses anew before each step. Its slope along the
    coordinates is estimated from ``n`` points in pairs ``x + s u`` and ``x - s u``, ``u`` standard normal:
    ``sum(w_i u_i) / (n s)``, with the rank of each loss among the ``n`` as its weight ``w_i``, or the loss itself
    (Ilyas, Engstrom, Athalye and Lin, Black-box Adversarial Attacks with Limited Queries and Information, ICML 2018).
    Then every coordinate takes a step of one length in the sign of its slope, the clip is projected, and a query looks
    at it. Ranks make the estimate blind to the scale of the loss; where it is flat they are equal, and nothing moves.

    Every query lies in the budget: the points are projected like the iterates, so that each is a clip that an attacker
    may hand in. On a decisive target a clip leaves with the first query that is misclassified. Otherwise the query of
    the highest loss is returned, a misclassified one if there is any; clips for transfer go on to the last one. On a
    stochastic target no success is believed: of several starts the last iterate of the one with the highest mean loss
    over the second half of its looks is returned.

    Args:
        queries: forward passes of a start. A look at the start, then rounds of ``samples`` points and a look; the last
            round is shorter. Up to two queries may stay over. The budget's steps are not used, its restarts are.
        samples: points of one estimate, an even number.
        sigma: how far the points lie, in intensity units per unit of the subspace's pattern.
        loss: ``ce``, ``margin`` or ``dlr``.
        target: nothing for an untargeted attack, or the class to reach: ``runner_up`` or ``least_likely`` by the
            clean logits, for which a query more is asked.
        ranked: whether ranks weigh the points, or the losses themselves.

    Attributes:
        strides: longest and shortest step, in radii of the budget; a ``step_size`` of the budget stands for the
            longest.
        patience: looks within which the loss must rise for the step not to be halved.
    """

    norms = ("linf",)
    strides: ClassVar[tuple[float, float]]
    patience: ClassVar[int] = 20

    def __init__(
        self,
        queries: int,
        samples: int,
        sigma: float,
        loss: str,
        target: Goal | None,
        ranked: bool,
    ) -> None:
        at_least("queries", queries, 4, ", two to look and two to estimate")
        at_least("samples", samples, 2)
        if samples % 2:
            raise ValueError(f"samples come in pairs: they must be even, not {samples}")
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, not {sigma!r}")
        check_goal(target)
        self.queries, self.samples, self.sigma, self.target, self.ranked = queries, samples, sigma, target, ranked
        self._loss = loss_of(loss)

    def prepare(self, run: Run) -> object:
        """What one start needs before its first query, see :attr:`Run.kept`; nothing by default."""

    def start(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        """The first iterate; the clean clip by default."""
        return clips.clone()

    @abstractmethod
    def subspace(self, run: Run, iterates: Tensor, left: Survivors, aim: Tensor) -> Subspace:
        """Where the next step of the clips that are left is searched.

        Args:
            iterates: ``(b, 3, T, H, W)``.
            aim: ``(b,)``, the classes that they are to leave (untargeted) or to reach.
        """

    def learn(self, run: Run, answer: Answer, left: Survivors, aim: Tensor) -> None:
        """Takes in what a look at the clips that are left has answered; nothing by default."""

    def rounds(self) -> list[int]:
        """Pairs of points in each round of a start."""
        left, pairs = self.queries - 1, []
        while left >= 3:
            pairs.append(min(self.samples // 2, (left - 1) // 2))
            left -= 2 * pairs[-1] + 1
        return pairs

    def passes(self, budget: Budget) -> tuple[int, int]:
        spent = 1 + sum(2 * pairs + 1 for pairs in self.rounds())
        return spent * budget.restarts + (self.target is not None), 0

    @torch.no_grad()
    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        run = Run(target=target, clips=clips, labels=labels, budget=budget, rng=rng)
        aim = aim_at(target, clips, labels, self.target)
        best, left, traces = Best(clips, of_equals="earlier"), Survivors(clips, labels, budget, rng), []
        for run.restart in range(budget.restarts):
            if not len(left):
                break
            run.kept = self.prepare(run)
            search = self._begin(run, left)
            trace = torch.full((len(self.rounds()) + 1, len(clips)), float("nan"), dtype=torch.float32)
            traces.append(trace)
            self._search(run, search, best, left, aim)
            trace[: len(search.losses)] = torch.stack(search.losses).float()
            if target.stochastic:
                late = torch.stack(search.losses[len(search.losses) // 2 :]).mean(0)
                best.keep(search.x, late, torch.zeros_like(late, dtype=torch.bool))
        return AttackResult(best.clips, torch.cat(traces))

    def _begin(self, run: Run, left: Survivors) -> _Search:
        x = run.clips.clone()
        x[left.here] = self.start(left.clips, left.budget, left.rng)
        size = torch.as_tensor(run.budget.size, dtype=torch.float64).cpu().expand(len(x))
        longest, shortest = self.strides
        step = size * longest if run.budget.step_size is None else torch.full_like(size, run.budget.step_size)
        since = torch.zeros(len(x), dtype=torch.int64)
        return _Search(x, step, step * (shortest / longest), [], since)

    def _search(self, run: Run, search: _Search, best: Best, left: Survivors, aim: Tensor) -> None:
        """One start, until its queries are spent or no clip is left."""
        self._look(run, search, best, left, aim)
        for pairs in self.rounds():
            if not len(left):
                return
            before = left.rows
            space = self.subspace(run, left.of(search.x), left, left.of(aim))
            slope = self._slope(run, search, best, left, aim, space, pairs)
            if not len(left):
                return
            here = torch.searchsorted(before, left.rows)
            step = search.step[left.rows].to(run.clips).reshape(-1, 1, 1, 1, 1)
            moved = left.of(search.x) + step * space.select(here).lift(slope.sign())
            search.x[left.here] = left.project(moved)
            self._look(run, search, best, left, aim)

    def _slope(
        self, run: Run, search: _Search, best: Best, left: Survivors, aim: Tensor, space: Subspace, pairs: int
    ) -> Tensor:
        """Estimates the slope along the coordinates of the clips that are left afterwards: ``float64 (b, *cells)``."""
        before = left.rows
        values = torch.full((2 * pairs, len(before)), float("nan"), dtype=torch.float64)
        noises = []
        for pair in range(pairs):
            here = torch.searchsorted(before, left.rows)
            noise = torch.zeros(len(before), *space.cells, device=run.clips.device, dtype=torch.float32)
            noise[here.to(noise.device)] = left.rng.normal(*space.cells, device=run.clips.device)
            noises.append(noise)
            for side, sign in enumerate((1, -1)):
                here = torch.searchsorted(before, left.rows)
                drawn = noise if len(here) == len(noise) else noise[here.to(noise.device)]
                points = left.project(left.of(search.x) + sign * self.sigma * space.select(here).lift(drawn))
                values[2 * pair + side, here] = self._ask(run, points, best, left, aim)[1]
                if not len(left):
                    return values  # nothing is left to climb
        here = torch.searchsorted(before, left.rows)
        values = values[:, here]
        weights = (ranks(values) if self.ranked else values).to(run.clips.device)
        slope = torch.zeros(len(here), *space.cells, dtype=torch.float64, device=run.clips.device)
        for pair, noise in enumerate(noises):
            weight = weights[2 * pair] - weights[2 * pair + 1]
            slope += weight.reshape(-1, 1, 1, 1, 1) * noise[here.to(noise.device)]
        return slope / (2 * pairs * self.sigma)

    def _look(self, run: Run, search: _Search, best: Best, left: Survivors, aim: Tensor) -> None:
        """Asks about the iterates, and lets those learn that have a use for it."""
        rows = left.rows
        answer, value = self._ask(run, left.of(search.x), best, left, aim)
        search.note(rows, value, self.patience)
        if len(left):
            stay = torch.searchsorted(rows, left.rows).to(answer.logits.device)
            kept = Answer(answer.logits[stay], answer.decision[stay.to(answer.decision.device)])
            self.learn(run, kept, left, left.of(aim))

    def _ask(self, run: Run, points: Tensor, best: Best, left: Survivors, aim: Tensor) -> tuple[Answer, Tensor]:
        """One query of each clip that is left: the answer and the loss, ``float64 (b,)`` on the CPU. Broken clips
        leave."""
        wanted = left.of(aim)
        answer = run.target.ask(points, left.rows)
        hit = answer.decision.to(wanted.device) == wanted
        value, broken = fetch(self._value(answer.logits, wanted), hit if self.target else ~hit)
        if not run.target.stochastic:
            best.keep(points, value, broken, left.rows)
        if run.target.decisive:
            left.drop(broken > 0)
        return answer, value

    def _value(self, logits: Tensor, aim: Tensor) -> Tensor:
        """What is climbed, ``(b,)``: the loss, or its negative towards a class."""
        return (1.0 if self.target is None else -1.0) * self._loss(logits, aim)
