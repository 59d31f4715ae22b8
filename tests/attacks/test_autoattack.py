"""AutoAttack: which part runs on which clip, what counts as a success, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.draws import draw
from kit.gray import Coin, Identity, level_classifier
from kit.networks import Wavy
from torch import Tensor, nn

from bench import Attack, AttackResult, BenchError, Budget, ClipRandom, Target, evaluate
from bench.attacks.autoattack import AutoAttack
from bench.registry import ATTACKS
from bench.run.judge import violation

SHAPE = (3, 2, 4, 5)
few = settings(max_examples=12, deadline=None, derandomize=True, database=None)
QUICK = {"queries": 12, "targets": 2, "draws": 2, "confirm": 3}


class Shift(Attack):
    """Adds a constant to clips whose first value is above a bound, and notes what it is given.

    Args:
        by: what is added.
        above: the bound.
    """

    def __init__(self, by: float, above: float = -1.0) -> None:
        self.by, self.above = by, above
        self.clips: list[Tensor] = []
        self.drawn: list[Tensor] = []
        self.sizes: list[Any] = []

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        self.clips.append(clips.clone())
        self.drawn.append(rng.uniform(1)[:, 0])
        self.sizes.append(budget.size)
        with torch.no_grad():
            target(clips)
            target(clips[-1:], torch.tensor([len(clips) - 1]))  # the last clip of its batch, once more
        chosen = (clips[:, 0, 0, 0, 0] > self.above).to(clips)[:, None, None, None, None]
        return AttackResult((clips + self.by * chosen).clamp(0, 1))

    def passes(self, budget: Budget) -> tuple[int, int]:
        return 2, 0


class Scripted(AutoAttack):
    """AutoAttack with given parts, which the names only count."""

    def __init__(self, *attacks: Attack, names: str = "", **how: Any) -> None:
        self.given = list(attacks)
        super().__init__(parts=names or ", ".join(["apgd-ce"] * len(attacks)), **how)

    def components(self) -> list[Attack]:
        return self.given


def gray(*levels: float) -> Tensor:
    return torch.tensor(levels).reshape(-1, 1, 1, 1, 1).expand(-1, *SHAPE).clone()


def risen(clips: Tensor) -> Tensor:
    """How far flat clips of 0.1, 0.2, ... have moved away from that."""
    level = clips.flatten(1).mean(1)
    return level - (level * 10).round() / 10


def logits_of(margin: Tensor) -> Tensor:
    """Two classes; class 1 is ahead by ``margin (b,)``."""
    return torch.stack([torch.zeros_like(margin), margin], 1)


# --- what it consists of --------------------------------------------------------------------------------------


def test_the_parts_are_those_of_the_paper() -> None:
    standard = ATTACKS.create("autoattack")
    assert standard.parts == [
        "apgd(loss='ce')",
        "apgd(loss='targeted-dlr', targets=9)",
        "fab(targets=9, keep='first')",
        "square(queries=5000, rescale=False)",
    ]
    names = [type(part).__name__ for part in standard.components()]
    assert names == ["APGD", "APGD", "FAB", "Square"]
    rand = ATTACKS.create("autoattack(version='rand')")
    assert rand.parts == [
        "eot(attack=\"apgd(loss='ce')\", draws=20, average='logits')",
        "eot(attack=\"apgd(loss='dlr')\", draws=20, average='logits')",
    ]
    assert [(type(p).__name__, p.draws, p.attack.loss) for p in rand.components()] == [
        ("EOT", 20, "ce"),
        ("EOT", 20, "dlr"),
    ]
    chosen = ATTACKS.create({"name": "autoattack", "parts": "square,  apgd-t", "queries": 7, "targets": 3})
    assert chosen.parts == ["square(queries=7, rescale=False)", "apgd(loss='targeted-dlr', targets=3)"]
    assert ATTACKS.get("autoattack").source


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"version": "plus"}, r"version must be standard or rand, not 'plus'"),
        ({"parts": "apgd-ce, fab-t"}, r"no part 'fab-t' \(did you mean 'fab'\?\); parts: apgd-ce, .*square"),
        ({"queries": 0}, r"queries must be a whole number of at least 1"),
        ({"targets": 0}, r"targets must be"),
        ({"draws": 0}, r"draws must be"),
        ({"confirm": 1.5}, r"confirm must be"),
    ],
)
def test_impossible_options_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        ATTACKS.create({"name": "autoattack", **how})


def test_one_part_alone_is_that_attack() -> None:
    model = Wavy(5, steepness=2.0)
    clips = draw(4, *SHAPE)
    labels = model(clips).detach().argmax(1)
    budget = Budget(size=0.03, steps=5)
    for parts, alone in (("apgd-ce", "apgd"), ("square", "square(queries=12, rescale=False)")):
        whole = AutoAttack(parts=parts, queries=12)(model, clips, labels, budget).clips
        assert torch.equal(whole, ATTACKS.create(alone)(model, clips, labels, budget).clips)


def test_a_part_that_cannot_take_the_budget_says_so_first() -> None:
    class OnlyLinf(Shift):
        norms = ("linf",)

    with pytest.raises(BenchError, match="OnlyLinf takes linf budgets, not l2"):
        Scripted(Shift(0.1), OnlyLinf(0.1)).check(Budget("l2"))


# --- one after another ----------------------------------------------------------------------------------------


def test_a_part_runs_on_the_clips_that_are_left() -> None:
    """Clip 0 is wrong as it is, 1 is lost to the first part, 2 to the second, 3 to none, 4 to the third."""
    offset = torch.tensor([0.01, -0.005, -0.015, -0.5, -0.025])
    rows_seen: list[list[int]] = []

    def look(x: Tensor, rows: Tensor) -> Tensor:
        rows_seen.append(rows.tolist())
        return logits_of(risen(x) + offset[rows])

    clips = gray(0.1, 0.2, 0.3, 0.4, 0.5)
    sizes = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    parts = [Shift(0.01), Shift(0.02), Shift(0.03), Shift(-0.01)]
    target, rng = Target(look, 5), ClipRandom([1, 2, 3, 4, 5])
    copy = rng.clone()
    streams = torch.cat([copy.uniform(1) for _ in range(4)], 1)  # what the streams give to each part, clip by clip
    result = Scripted(*parts)(target, clips, torch.zeros(5, dtype=torch.int64), Budget("linf", sizes), rng)
    torch.testing.assert_close(
        risen(result.clips)[[0, 1, 2, 4]], torch.tensor([0.0, 0.01, 0.02, 0.03]), rtol=0, atol=1e-6
    )
    assert float(risen(result.clips)[3]) == pytest.approx(0.03, abs=1e-6)  # never broken: the largest margin
    assert result.trace is None
    left = [[1, 2, 3, 4], [2, 3, 4], [3, 4], [3]]
    for k, (part, rows) in enumerate(zip(parts, left, strict=True)):
        assert torch.equal(part.clips[0], clips[rows])
        assert torch.equal(part.sizes[0], sizes[rows])
        assert torch.equal(part.drawn[0], torch.stack([streams[r, k] for r in rows]))
    # Each part asks about its clips and about the last of them again; then one look decides.
    expected = [[0, 1, 2, 3, 4], *(seen for rows in left for seen in (rows, rows[-1:], rows))]
    assert rows_seen == expected
    assert target.forwards.tolist() == [sum(seen.count(r) for seen in expected) for r in range(5)]


def test_standard_breaks_whatever_its_parts_break_and_a_lone_clip_will_do() -> None:
    model = Wavy(5, steepness=2.0)
    clips = draw(6, *SHAPE, seed=3)
    labels = model(clips).detach().argmax(1)
    budget = Budget(size=0.012, steps=5)
    whole = AutoAttack(**QUICK)(model, clips, labels, budget).clips
    lost = model(whole).argmax(1) != labels
    # FAB draws no random numbers, so it does within the ensemble what it does alone.
    for alone in ("apgd(loss='ce')", "fab(targets=2)"):
        broken = model(ATTACKS.create(alone)(model, clips, labels, budget).clips).argmax(1) != labels
        assert 0 < int(broken.sum()) < 6
        assert (lost | ~broken).all()
    for i in range(6):
        one = AutoAttack(**QUICK)(model, clips[i : i + 1], labels[i : i + 1], budget, ClipRandom([i])).clips
        assert torch.equal(one[0], whole[i])


# --- randomised targets ---------------------------------------------------------------------------------------


class Dice:
    """Errs with a probability that depends on the clip, by a generator of its own."""

    def __init__(self, chance: Any, seed: int = 0) -> None:
        self.chance, self.generator = chance, torch.Generator().manual_seed(seed)

    def __call__(self, clips: Tensor, rows: Tensor | None = None) -> Tensor:
        wrong = torch.rand(len(clips), generator=self.generator) < self.chance(clips)
        # The logits keep a gradient, and give nothing else away.
        return logits_of(torch.where(wrong, 1.0, -1.0) + 0 * clips.flatten(1).sum(1))

    def accuracy(self, clips: Tensor, draws: int = 10) -> float:
        return float(torch.stack([self(clips).argmax(1) == 0 for _ in range(draws)]).double().mean())


def test_luck_is_not_robustness_lost() -> None:
    """A classifier that errs on 20 % of all looks whatever it is shown is right on 80 %, not on the 55 % or so that are
    left when every lucky look of every part counts, as in the public code."""
    dice = Dice(lambda clips: torch.full((len(clips),), 0.2))
    clips, labels = gray(*[0.5] * 120), torch.zeros(120, dtype=torch.int64)
    attack = AutoAttack("rand", parts="apgd-ce, apgd-ce", draws=3)
    budget = Budget(size=0.05, steps=3)
    target = Target(dice, 120, stochastic=True)
    found = attack(target, clips, labels, budget).clips
    assert dice.accuracy(found) == pytest.approx(0.8, abs=0.05)
    # No clip was given up for lost after a lucky look.
    assert set(target.forwards.tolist()) == {attack.passes(budget)[0]}

    class Pictures(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([dice(images[:, :, None]), torch.full((len(images), 2), -5.0)], 1)

    theirs = torchattacks.AutoAttack(Pictures(), eps=0.05, version="rand", seed=0)
    tally = theirs._autoattack
    tally._accumulate_multi_atk_records, tally._multi_atk_records = True, [0.0, 0.0, 0.0]
    theirs(clips[:, :, 0], labels)
    assert tally._multi_atk_records[-1] / 120 < 0.7


def test_a_lucky_look_does_not_spare_a_clip_the_next_part() -> None:
    """Only the second part hurts. Were one wrong answer in five enough, a fifth of the clips would never meet it."""
    dice = Dice(lambda clips: torch.where(risen(clips) > 0.01, 1.0, 0.2))
    clips, labels = gray(*[0.5] * 60), torch.zeros(60, dtype=torch.int64)
    parts = [Shift(0.0), Shift(0.02), Shift(0.0)]
    found = Scripted(*parts)(Target(dice, 60, stochastic=True), clips, labels, Budget(size=0.05)).clips
    assert dice.accuracy(found) == 0
    assert len(parts[1].clips[0]) == 60
    assert not parts[2].clips  # wrong ten times out of ten: enough


@pytest.mark.parametrize("order", [(0.02, 0.04), (0.04, 0.02)])
def test_the_clip_that_is_most_often_wrong_is_kept(order: tuple[float, float]) -> None:
    dice = Dice(lambda clips: torch.where(risen(clips) > 0.03, 0.8, 0.2))
    clips, labels = gray(*[0.5] * 40), torch.zeros(40, dtype=torch.int64)
    target = Target(dice, 40, stochastic=True)
    found = Scripted(*map(Shift, order), confirm=30)(target, clips, labels, Budget(size=0.05)).clips
    assert (risen(found) > 0.03).all()


def test_equal_error_rates_are_told_apart_by_the_margin() -> None:
    clips, labels = gray(0.5, 0.5), torch.zeros(2, dtype=torch.int64)
    for order in ((0.02, 0.04), (0.04, 0.02)):
        target = Target(lambda x, rows: logits_of(risen(x) - 1), 2, stochastic=True)
        found = Scripted(*map(Shift, order))(target, clips, labels, Budget(size=0.05)).clips
        torch.testing.assert_close(found, clips + 0.04, rtol=0, atol=1e-6)


def test_fab_cannot_be_a_part_there() -> None:
    target = Target(lambda x, rows: logits_of(risen(x)), 1, stochastic=True)
    with pytest.raises(
        BenchError, match=r"^AutoAttack's part fab needs .* use version='rand', or parts without fab\.$"
    ):
        AutoAttack()(target, gray(0.5), torch.tensor([0]), Budget())
    assert target.forwards.tolist() == [0]
    for attack, kind, refused in (
        (AutoAttack(), {"stochastic": True, "transfer": False}, True),
        (AutoAttack(), {"stochastic": False, "transfer": True}, False),
        (AutoAttack(), {"stochastic": False, "transfer": False}, False),
        (AutoAttack("rand"), {"stochastic": True, "transfer": False}, False),
        (AutoAttack(parts="fab"), {"stochastic": False, "transfer": True}, True),
    ):
        assert bool(attack.refuses(**kind)) is refused


# --- transfer -------------------------------------------------------------------------------------------------


def test_for_transfer_every_part_runs_but_fab_and_the_largest_margin_is_kept() -> None:
    """Wrong between 0.015 and 0.035, by less the farther: neither the last nor the farthest is the one to keep."""

    def look(x: Tensor, rows: Tensor) -> Tensor:
        far = risen(x)
        return logits_of(torch.where((far > 0.015) & (far < 0.035), 0.1 - far, far - 1))

    clips, labels = gray(0.3, 0.5), torch.zeros(2, dtype=torch.int64)
    parts = [Shift(0.01), Shift(0.02), Shift(0.04), Shift(0.03), Shift(0.045)]
    attack = Scripted(*parts, names="apgd-ce, apgd-t, fab, square, apgd-ce")
    attack._check_classes = lambda classes: None  # type: ignore[method-assign]
    found = attack(Target(look, 2, transfer=True), clips, labels, Budget(size=0.1)).clips
    torch.testing.assert_close(found, clips + 0.02, rtol=0, atol=1e-6)
    assert [len(part.clips) for part in parts] == [1, 1, 0, 1, 1]
    assert all(len(part.clips[0]) == 2 for part in parts if part.clips)


# --- passes ---------------------------------------------------------------------------------------------------


def stubborn(x: Tensor, rows: Tensor) -> Tensor:
    """Five classes, the first far ahead; the others differ so that losses have gradients."""
    level = x.flatten(1).mean(1)
    return torch.stack([100 + 0 * level, *(k * level for k in range(4))], 1)


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({}, {}),
        ({"version": "rand"}, {"stochastic": True}),
        ({"parts": "apgd-dlr, square"}, {"stochastic": True}),
        ({"parts": "fab"}, {}),
    ],
)
def test_an_unbroken_clip_costs_exactly_what_is_promised(how: dict[str, Any], kind: dict[str, bool]) -> None:
    counted = [0, 0]

    def look(x: Tensor, rows: Tensor) -> Tensor:
        counted[0] += int((rows == 0).sum())
        if x.requires_grad:
            mine = int((rows == 0).sum())
            x.register_hook(lambda gradient: counted.__setitem__(1, counted[1] + mine))
        return stubborn(x, rows)

    attack, budget = AutoAttack(**QUICK, **how), Budget(size=0.05, steps=4, restarts=2)
    target = Target(look, 2, **kind)
    attack(target, gray(0.4, 0.6), torch.tensor([0, 0]), budget)
    promised = attack.passes(budget)
    assert tuple(counted) == promised
    assert target.forwards.tolist() == [promised[0]] * 2
    assert target.backwards.tolist() == [promised[1]] * 2


def test_passes_by_hand() -> None:
    budget = Budget(steps=10, restarts=2)
    apgd, targeted, fab = 10 * 2, 10 * 2 * 9, 10 * 2 * 9
    forwards = 1 + 11 * 2 + 1 + (11 * 2 * 9 + 1) + 1 + (1 + 2 * fab) + 1 + 5000 * 2 + 1
    assert AutoAttack().passes(budget) == (forwards, apgd + targeted + fab)
    # Averaged logits of 20 draws, 5 at once: another forward pass for each backward pass.
    assert AutoAttack("rand").passes(budget) == (1 + 2 * (20 * (11 * 2 + apgd) + 10), 2 * 20 * apgd)


# --- any clip, any budget -------------------------------------------------------------------------------------


@few
@given(st.data())
def test_it_stays_inside_every_budget(data: st.DataObject) -> None:
    batch, *shape = (data.draw(st.integers(1, n)) for n in (3, 3, 6, 6))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    norm = data.draw(st.sampled_from(["linf", "l2"]))
    size = data.draw(st.floats(0, 0.3 if norm == "linf" else 2.0))
    kind = data.draw(st.sampled_from(["decisive", "transfer", "stochastic"]))
    how = {"version": "rand"} if kind == "stochastic" else {}
    clips = draw(batch, 3, *shape, seed=batch, low=-0.3, high=1.3).clamp(0, 1).to(dtype)
    model = Wavy(4)
    labels = model(clips).detach().argmax(1)
    target = Target(lambda x, rows: model(x), batch, stochastic=kind == "stochastic", transfer=kind == "transfer")
    attack, budget = AutoAttack(**QUICK, **how), Budget(norm, size, data.draw(st.integers(1, 3)))
    found = attack(target, clips, labels, budget).clips
    assert (found.dtype, found.shape) == (dtype, clips.shape)
    assert [violation(c, f, budget) for c, f in zip(clips, found, strict=True)] == [None] * batch
    forwards, backwards = attack.passes(budget)
    assert int(target.forwards.max()) <= forwards
    assert int(target.backwards.max()) <= backwards


def test_rand_on_a_deterministic_classifier_asks_once() -> None:
    model = Wavy(4, steepness=2.0)
    clips = draw(3, *SHAPE)
    labels = model(clips).detach().argmax(1)
    once, plain = Target.of(model, 3), Target.of(model, 3)
    budget = Budget(size=0.01, steps=3)
    found = AutoAttack("rand")(once, clips, labels, budget).clips
    other = AutoAttack(parts="apgd-ce, apgd-dlr")(plain, clips, labels, budget).clips
    assert torch.equal(found, other)
    assert torch.equal(once.forwards, plain.forwards)


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "classes", "message"),
    [
        ({}, 3, r"part apgd-t compares the 4 .* has 3 classes: leave it out, with parts='apgd-ce, fab, square'\.$"),
        ({"version": "rand"}, 2, r"part apgd-dlr compares the 3 .* has 2 classes: leave it out, with parts='apgd-ce'"),
        ({"parts": "apgd-t"}, 2, r"with parts='apgd-ce'\.$"),
    ],
)
def test_too_few_classes_are_one_sentence_and_cost_one_pass(how: dict[str, Any], classes: int, message: str) -> None:
    target = Target.of(Wavy(classes), 2)
    with pytest.raises(BenchError, match=message):
        AutoAttack(**how)(target, draw(2, *SHAPE), torch.tensor([0, 1]), Budget())
    assert target.forwards.tolist() == [1, 1]
    assert target.backwards.tolist() == [0, 0]


# --- in the house ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("defense", [Identity(), Coin()])
def test_it_runs_behind_a_defence_and_the_judge_accepts_it(defense: Any) -> None:
    clips, labels = gray(0.3, 0.5, 0.7), [0, 1, 2]
    version = "rand" if defense.stochastic else "standard"
    attack = AutoAttack(version, "apgd-ce, square", queries=30, rescale=True, draws=5)
    budget = {"norm": "linf", "size": 0.15, "steps": 5}
    frame = evaluate(
        level_classifier(), clips, labels, defense=defense, attack=attack, budget=budget, device="cpu", verbose=False
    )
    assert frame["status"].tolist() == ["ok"] * 3
    # Half the distance between two levels is 0.1, so all is lost; a coin that blackens the clip helps only the dark.
    assert not frame["correct"].iloc[1:].any()
