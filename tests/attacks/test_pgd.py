"""PGD against classifiers whose worst clip is known in closed form, and against torchattacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from kit.draws import draw, generator
from torch import Tensor, nn

from bench import Answer, AttackResult, BenchError, Budget, ClipRandom, DefendedClassifier, Purifier, Target
from bench.attacks.noise import UniformNoise
from bench.attacks.pgd import PGD

SHAPE = (3, 2, 4, 5)
N = 3 * 2 * 4 * 5
EPS = 4 / 255


class Linear(nn.Module):
    """``W flatten(x) + b``, summed row by row so that a clip's logits cannot depend on its batch."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        signs = torch.randint(0, 2, (classes, N), generator=generator(seed)) * 2.0 - 1.0
        # No weight difference is near zero, so no sign hangs on rounding.
        sizes = (1 + torch.arange(classes)[:, None]) * (0.5 + torch.rand(1, N, generator=generator(seed + 1)))
        self.weight = nn.Parameter(signs * sizes)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, clips: Tensor) -> Tensor:
        return (clips.flatten(1)[:, None] * self.weight).sum(-1) + self.bias


class Small(nn.Module):
    """A smooth classifier that is not linear."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv3d(3, 4, 3, padding=1), nn.Linear(4 * N // 3, classes)

    def forward(self, clips: Tensor) -> Tensor:
        return self.fc(torch.tanh(4 * self.conv(clips)).flatten(1))


class Watcher(nn.Module):
    """Notes every batch that the classifier sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[Tensor] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.seen.append(clips.detach().clone())
        return self.model(clips)


class Thresholds(nn.Module):
    """Two classes; clip ``i`` is flat gray ``0.2 + 0.2 i`` and is lost once its mean has risen by ``lost[i]``.

    It knows a clip by its gray and counts passes per clip by itself.
    """

    def __init__(self, lost: list[float]) -> None:
        super().__init__()
        self.lost = torch.tensor(lost)
        self.forwards, self.backwards = [0] * len(lost), [0] * len(lost)

    def clips(self) -> Tensor:
        gray = 0.2 + 0.2 * torch.arange(len(self.lost))
        return gray.reshape(-1, 1, 1, 1, 1).expand(-1, *SHAPE).clone()

    def forward(self, clips: Tensor) -> Tensor:
        level = clips.flatten(1).mean(1)
        ids = ((level.detach() - 0.2) / 0.2).round().long()
        for i in ids.tolist():
            self.forwards[i] += 1
        if clips.requires_grad:

            def count(gradient: Tensor) -> None:
                for i in ids.tolist():
                    self.backwards[i] += 1

            clips.register_hook(count)
        rise = level - (0.2 + 0.2 * ids)
        return torch.stack([torch.zeros_like(rise), 100 * (rise - self.lost[ids])], 1)


def attack(
    model: nn.Module | Target,
    clips: Tensor,
    labels: Tensor,
    budget: Budget,
    seeds: range | list[int] | None = None,
    **how: Any,
) -> Tensor:
    rng = ClipRandom(range(len(clips)) if seeds is None else seeds)
    return PGD(**how)(model, clips, labels, budget, rng).clips


def pull(model: Linear, labels: Tensor) -> Tensor:
    """Gradient of the margin of a two-class linear classifier: ``w_wrong - w_true`` per clip."""
    weight = model.weight.detach()
    return (weight[1 - labels] - weight[labels]).reshape(-1, *SHAPE)


# --- closed forms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["clean", "uniform", "gaussian"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_linf_reaches_the_corner(start: str, loss: str) -> None:
    model, clips, labels = Linear(2), draw(4, *SHAPE), torch.tensor([0, 1, 1, 0])
    clips[0, :, 0] = 0.0
    clips[1, :, 1] = 1.0  # values where the cube is in the way
    with torch.no_grad():
        model.weight.mul_(0.01)  # keeps cross-entropy away from saturation
    found = attack(model, clips, labels, Budget(size=EPS), start=start, loss=loss, keep="last")
    expected = (clips + EPS * pull(model, labels).sign()).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_linf_gains_eps_times_the_l1_norm() -> None:
    model, clips, labels = Linear(2), draw(2, *SHAPE, low=0.3, high=0.7), torch.tensor([0, 1])
    found = attack(model, clips, labels, Budget(size=0.1), loss="margin", keep="last")
    gain = (pull(model, labels).double() * (found - clips).double()).flatten(1).sum(1)
    torch.testing.assert_close(gain, 0.1 * pull(model, labels).double().abs().flatten(1).sum(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_l2_walks_along_the_gradient(loss: str) -> None:
    model, clips, labels = Linear(2), draw(3, *SHAPE, low=0.3, high=0.7), torch.tensor([0, 1, 0])
    with torch.no_grad():
        model.weight.mul_(0.01)
    found = attack(model, clips, labels, Budget("l2", 0.5), start="clean", loss=loss, keep="last")
    w = pull(model, labels)
    expected = clips + 0.5 * w / w.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_l2_from_a_random_start_gains_size_times_the_l2_norm() -> None:
    model, clips, labels = Linear(2), draw(3, *SHAPE, low=0.3, high=0.7), torch.tensor([0, 1, 0])
    budget = Budget("l2", 0.5, steps=60, step_size=0.1)
    found = attack(model, clips, labels, budget, loss="margin", keep="last")
    w = pull(model, labels).double()
    gain = (w * (found - clips).double()).flatten(1).sum(1)
    torch.testing.assert_close(gain, 0.5 * w.flatten(1).norm(dim=1), rtol=1e-4, atol=0)


def test_three_classes_take_the_nearest_boundary() -> None:
    """With the margin loss the step goes against the best wrong class only, whatever the third one does."""
    model, clips = Linear(3), draw(1, *SHAPE, low=0.3, high=0.7)
    logits = model(clips).detach()[0]
    with torch.no_grad():
        model.bias.copy_(torch.tensor([100.0, 90.0, -900.0]) - logits)  # class 0, runner-up 1, 2 out of reach
    found = attack(model, clips, torch.tensor([0]), Budget(size=EPS), loss="margin", keep="last")
    weight = model.weight.detach()
    expected = clips + EPS * (weight[1] - weight[0]).sign().reshape(clips.shape)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("goal", "rank"), [("runner_up", 1), ("least_likely", -1)])
def test_targeted_attack_reaches_its_class(goal: str, rank: int) -> None:
    model, clips = Linear(4), draw(6, *SHAPE, seed=4, low=0.3, high=0.7)
    clean = model(clips).detach().numpy()
    order = np.argsort(-clean, axis=1)
    labels = torch.from_numpy(order[:, 0].copy())
    target = Target.of(model, len(clips))
    found = attack(target, clips, labels, Budget(size=0.25, steps=20), loss="margin", target=goal)
    assert model(found).argmax(1).tolist() == order[:, rank].tolist()
    assert (target.forwards <= 1 + 20).all()
    assert (target.forwards >= 2).all()


@pytest.mark.parametrize(("goal", "aim"), [("runner_up", 2), ("least_likely", 1)])
def test_targeted_classes_leave_the_true_one_out(goal: str, aim: int) -> None:
    """The label is the class to leave, also where the classifier is already wrong: label 1 is ranked last here."""
    model = Linear(3)
    clips = torch.full((1, *SHAPE), 0.5)
    clean = model(clips).detach()[0]
    label = 0 if goal == "runner_up" else 2
    ranked = torch.tensor([3.0, 1.0, 2.0]) if goal == "runner_up" else torch.tensor([3.0, 2.0, 1.0])
    with torch.no_grad():
        model.bias.copy_(ranked * 10 - clean)
    found = attack(model, clips, torch.tensor([label]), Budget(size=0.3, steps=20), loss="margin", target=goal)
    assert int(model(found).argmax()) == aim


# --- torchattacks ---------------------------------------------------------------------------------------------


class From(PGD):
    """PGD from a given start."""

    def __init__(self, first: Tensor) -> None:
        super().__init__(keep="last")
        self.first = first

    def start(self, clips: Tensor, budget: Budget, rng: ClipRandom) -> Tensor:
        return self.first.clone()


@pytest.mark.parametrize("make", [lambda: Linear(3), Small])
@pytest.mark.parametrize("steps", [1, 7])
def test_linf_equals_torchattacks(make: Callable[[], nn.Module], steps: int) -> None:
    # In double precision: theirs loses the gradient of a confident prediction to single-precision rounding.
    model, clips, labels = make().eval().double(), draw(4, *SHAPE).double(), torch.tensor([0, 1, 2, 0])
    theirs = torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=steps, random_start=False)(clips, labels)
    budget = Budget(size=8 / 255, steps=steps, step_size=2 / 255)
    ours = attack(model, clips, labels, budget, start="clean", keep="last")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (ours - clips).abs().max() > 1.5 / 255


def test_linf_equals_torchattacks_from_a_random_start() -> None:
    model, clips, labels = Small().eval(), draw(4, *SHAPE), torch.tensor([0, 1, 2, 0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        theirs = torchattacks.PGD(model, eps=8 / 255, alpha=1 / 255, steps=6, random_start=True)(clips, labels)
        torch.manual_seed(9)
        first = (clips + torch.empty_like(clips).uniform_(-8 / 255, 8 / 255)).clamp(0, 1)
    ours = From(first)(model, clips, labels, Budget(size=8 / 255, steps=6, step_size=1 / 255)).clips
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_l2_equals_torchattacks() -> None:
    """Their l2 attack takes images only, so it is given the frames of a clip as channels."""
    model, clips, labels = Small().eval(), draw(4, *SHAPE), torch.tensor([0, 1, 2, 0])

    class OnImages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            return self.model(images.unflatten(1, SHAPE[:2]))

    theirs = torchattacks.PGDL2(OnImages(), eps=0.7, alpha=0.2, steps=6, random_start=False)
    ours = attack(model, clips, labels, Budget("l2", 0.7, 6, 0.2), start="clean", keep="last")
    torch.testing.assert_close(ours.flatten(1, 2), theirs(clips.flatten(1, 2), labels), rtol=0, atol=1e-5)


# --- passes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "restarts"),
    [({}, 1), ({}, 3), ({"keep": "last"}, 1), ({"keep": "last"}, 3), ({"protocol": "videopure"}, 1)],
)
def test_unbroken_clip_costs_exactly_what_is_promised(how: dict[str, Any], restarts: int) -> None:
    model = Thresholds([0.5, 0.5])
    target, budget = Target.of(model, 2), Budget(size=EPS, steps=5, restarts=restarts)
    attack(target, model.clips(), torch.tensor([0, 0]), budget, **how)
    worst = how.get("keep") is None and "protocol" not in how
    assert model.forwards == [5 * restarts + (restarts - 1 if worst else 0)] * 2
    assert model.backwards == [5 * restarts] * 2
    assert target.forwards.tolist() == model.forwards
    assert target.backwards.tolist() == model.backwards
    # Clips for transfer cost the most: every last iterate is looked at too.
    elsewhere = Target(lambda x, rows: model(x), 2, transfer=True)
    attack(elsewhere, model.clips(), torch.tensor([0, 0]), budget, **how)
    assert PGD(**how).passes(budget) == (int(elsewhere.forwards[0]), int(elsewhere.backwards[0]))
    assert elsewhere.forwards.tolist() == [5 * restarts + (restarts if worst else 0)] * 2


def test_choosing_a_target_class_costs_one_forward_pass() -> None:
    model, clips, labels = Watcher(Linear(3)), draw(2, *SHAPE, low=0.4, high=0.6), torch.tensor([0, 0])
    target, budget = Target.of(model, 2), Budget(size=1e-6, steps=4)  # too small to reach any class
    attack(target, clips, labels, budget, target="least_likely", keep="last")
    assert len(model.seen) == 5
    assert torch.equal(model.seen[0], clips)
    assert (target.forwards.tolist(), target.backwards.tolist()) == ([5, 5], [4, 4])
    assert PGD(target="least_likely", keep="last").passes(budget) == (5, 4)


def test_broken_clips_leave_the_batch() -> None:
    # Each step raises the mean by eps / 4: 0, .25, .5, .75, 1 eps are the iterates that are looked at.
    model = Thresholds([-1.0, 0.4 * EPS, 2 * EPS, 0.9 * EPS])
    clips, labels = model.clips(), torch.zeros(4, dtype=torch.int64)
    target = Target.of(model, 4)
    result = PGD(start="clean")(target, clips, labels, Budget(size=EPS, steps=10))
    assert model.forwards == [1, 3, 10, 5]
    assert model.backwards == [1, 3, 10, 5]
    assert target.forwards.tolist() == model.forwards
    assert target.backwards.tolist() == model.backwards
    rise = (result.clips - clips).flatten(1)
    for i, share in enumerate([0.0, 0.5, 1.0, 1.0]):
        torch.testing.assert_close(rise[i], torch.full((N,), share * EPS), rtol=0, atol=1e-6)
    assert model(result.clips).argmax(1).tolist() == [1, 1, 0, 1]
    assert result.trace is not None
    assert (~result.trace.isnan()).sum(0).tolist() == [1, 3, 10, 5]


def test_keep_last_goes_on_after_a_clip_is_broken() -> None:
    model = Thresholds([-1.0, 0.4 * EPS])
    found = attack(
        model,
        model.clips(),
        torch.tensor([0, 0]),
        Budget(size=EPS),
        start="clean",
        loss="margin",
        keep="last",
    )
    torch.testing.assert_close(found, model.clips() + EPS, rtol=0, atol=1e-6)
    assert model.forwards == [10, 10]


def test_restarts_are_spent_on_unbroken_clips_only() -> None:
    # The third clip is lost by the very last iterate, which only the check between restarts can see.
    model = Thresholds([0.35 * EPS, 0.5, 0.95 * EPS])
    clips, target = model.clips(), Target.of(model, 3)
    budget = Budget(size=EPS, steps=10, step_size=EPS / 10, restarts=2)
    result = PGD(start="clean")(target, clips, torch.zeros(3, dtype=torch.int64), budget)
    assert model.forwards == [5, 21, 11]
    assert model.backwards == [5, 20, 10]
    assert target.forwards.tolist() == model.forwards
    assert target.backwards.tolist() == model.backwards
    assert model(result.clips).argmax(1).tolist() == [1, 0, 1]
    torch.testing.assert_close(result.clips[2], clips[2] + EPS, rtol=0, atol=1e-6)


def test_each_restart_has_its_own_start() -> None:
    model = Watcher(Linear(2))
    clips, labels = draw(1, *SHAPE), model.model(draw(1, *SHAPE)).argmax(1)
    attack(model, clips, labels, Budget(size=1e-4, steps=2, restarts=3), keep="last")
    starts = [model.seen[0], model.seen[2], model.seen[4]]
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])


def test_stochastic_target_makes_every_clip_take_every_step() -> None:
    model = Thresholds([-1.0, 0.5])
    target = Target(lambda clips, rows: model(clips), 2, stochastic=True)
    budget = Budget(size=EPS, steps=4, restarts=2)
    result = PGD(start="clean")(target, model.clips(), torch.tensor([0, 0]), budget)
    assert model.forwards == [8, 8]
    assert model.backwards == [8, 8]
    # One lucky draw proves nothing, so the broken clip went on to the edge of its ball like the other one.
    torch.testing.assert_close(result.clips, model.clips() + EPS, rtol=0, atol=1e-6)


def test_clips_for_transfer_climb_on_and_the_highest_broken_iterate_is_returned() -> None:
    class Steps(nn.Module):
        """Lost from 0.2 eps on, most of all between 0.4 and 0.6 eps."""

        def forward(self, clips: Tensor) -> Tensor:
            rise = clips.flatten(1).mean(1) - 0.5
            height = torch.where(rise > 0.2 * EPS, 1.0, -1.0) + ((rise > 0.4 * EPS) & (rise < 0.6 * EPS)).float()
            return torch.stack([torch.zeros_like(rise), height + rise], 1)

    clips, labels = torch.full((1, *SHAPE), 0.5), torch.tensor([0])
    for transfer, share, passes in ((False, 0.25, (2, 2)), (True, 0.5, (22, 20))):
        target = Target(lambda x, rows: Steps()(x), 1, transfer=transfer)
        found = attack(target, clips, labels, Budget(size=EPS, restarts=2), start="clean")
        torch.testing.assert_close(found, clips + share * EPS, rtol=0, atol=1e-6)
        assert (int(target.forwards), int(target.backwards)) == passes


def test_unbroken_clips_for_transfer_are_last_iterates() -> None:
    model = Thresholds([0.5, 0.4 * EPS])
    target = Target(lambda x, rows: model(x), 2, transfer=True)
    found = attack(target, model.clips(), torch.tensor([0, 0]), Budget(size=EPS, steps=10), start="clean")
    torch.testing.assert_close(found, model.clips() + EPS, rtol=0, atol=1e-6)
    assert model.forwards == [11, 11]


def test_clips_for_transfer_are_broken_wherever_any_iterate_is() -> None:
    """The loss rises to the end, but the last iterate is right again: it must not be handed over unseen."""

    class Band(nn.Module):
        """Class 1 while the mean has risen by 0.3 to 0.9 eps, else class 0, ever less surely."""

        def forward(self, clips: Tensor) -> Tensor:
            rise = (clips.flatten(1).mean(1) - 0.5) / EPS
            lost = (rise > 0.3) & (rise < 0.9)
            return torch.stack([-rise + torch.where(lost, 0.0, 5.0), torch.zeros_like(rise)], 1)

    clips, labels = torch.full((1, *SHAPE), 0.5), torch.tensor([0])
    for steps in (1, 2, 3, 4, 5):
        target = Target(lambda x, rows: Band()(x), 1, transfer=True)
        budget = Budget(size=EPS, steps=steps, step_size=0.25 * EPS)
        found = attack(target, clips, labels, budget, start="clean")
        broken = int(Band()(found).argmax(1)) == 1
        assert broken is (steps >= 2), steps  # iterates stand at 0.25, 0.5, 0.75, 1 and 1 eps


def test_of_several_restarts_on_a_random_target_the_strongest_is_kept() -> None:
    """The start decides everything: three starts, and the loss says which of them is best."""

    class Sum(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            level = clips.flatten(1).mean(1)
            return torch.stack([torch.zeros_like(level), level * 0 + clips[:, 0, 0, 0, 0].detach()], 1)

    clips, labels = torch.full((3, *SHAPE), 0.5), torch.tensor([0, 0, 0])
    budget = Budget(size=EPS, steps=2, restarts=3)
    rng = ClipRandom([1, 2, 3])
    starts = torch.stack([budget.geometry.random_start(clips, EPS, rng) for _ in range(3)])
    expected = starts[starts[:, :, 0, 0, 0, 0].argmax(0), torch.arange(3)]
    for how in ({}, {"keep": "last"}):
        target = Target(lambda x, rows: Sum()(x) + 0 * x.sum(), 3, stochastic=True)
        found = PGD(**how)(target, clips, labels, budget, ClipRandom([1, 2, 3])).clips
        torch.testing.assert_close(found, expected, rtol=0, atol=0)  # the gradient is zero: a start stays put


@pytest.mark.parametrize(("how", "decisive"), [({}, True), ({"transfer": True}, False), ({"stochastic": True}, False)])
def test_only_the_last_word_is_decisive(how: dict[str, bool], decisive: bool) -> None:
    assert Target(lambda x, rows: x, 1, **how).decisive is decisive


@pytest.mark.parametrize("transfer", [False, True])
def test_double_precision_is_kept(transfer: bool) -> None:
    model, clips, labels = Linear(2).double(), draw(3, *SHAPE).double(), torch.tensor([0, 1, 0])
    target = Target(lambda x, rows: model(x), 3, transfer=transfer)
    found = attack(target, clips, labels, Budget(size=EPS, restarts=2), loss="margin")
    assert found.dtype == torch.float64
    assert (found - clips).abs().max() <= EPS + 1e-12


def test_target_passes_the_rows_of_the_batch() -> None:
    model = Thresholds([-1.0, 0.4 * EPS, 0.5])
    rows: list[list[int]] = []

    def function(clips: Tensor, which: Tensor) -> Tensor:
        rows.append(which.tolist())
        return model(clips)

    attack(Target(function, 3), model.clips(), torch.zeros(3, dtype=torch.int64), Budget(steps=5), start="clean")
    assert rows == [[0, 1, 2], [1, 2], [2], [2], [2]]  # step length eps / 2


# --- what comes out -------------------------------------------------------------------------------------------


def test_worst_iterate_is_misclassified_and_last_need_not_be() -> None:
    """Cross-entropy ascent jumps over a narrow band of wrong answers; the kept iterate lies inside it."""

    class Band(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            rise = clips.flatten(1).mean(1) - 0.5
            inside = (rise > 0.4 * EPS) & (rise < 0.6 * EPS)
            return torch.stack([torch.zeros_like(rise), torch.where(inside, 1.0, -1.0) + rise], 1)

    clips, labels = torch.full((1, *SHAPE), 0.5), torch.tensor([0])
    worst = attack(Band(), clips, labels, Budget(size=EPS), start="clean")
    last = attack(Band(), clips, labels, Budget(size=EPS), start="clean", keep="last")
    assert Band()(worst).argmax(1).tolist() == [1]
    assert Band()(last).argmax(1).tolist() == [0]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_clip_stays_in_its_own_ball(norm: str) -> None:
    model, clips, labels = Linear(2), draw(4, *SHAPE), torch.tensor([0, 1, 0, 1])
    sizes = torch.tensor([0.0, 0.01, 0.1, 0.3])
    found = attack(model, clips, labels, Budget(norm, sizes, steps=5), keep="last")
    delta = (found - clips).double().flatten(1)
    reached = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert (reached <= sizes * (1 + 1e-5) + 1e-6).all()
    assert (reached >= 0.9 * sizes).all()
    for i in range(4):
        alone = attack(
            model,
            clips[i : i + 1],
            labels[i : i + 1],
            Budget(norm, float(sizes[i]), steps=5),
            [i],
            keep="last",
        )
        torch.testing.assert_close(found[i : i + 1], alone, rtol=0, atol=1e-6)


def test_clips_keep_their_own_size_when_others_leave() -> None:
    model = Thresholds([0.4 * EPS, 1.2 * EPS, 0.5, 0.5])
    sizes = torch.tensor([1.0, 2.0, 3.0, 0.0]) * EPS
    target = Target.of(model, 4)
    budget = Budget(size=sizes, steps=10, restarts=2)
    found = attack(target, model.clips(), torch.zeros(4, dtype=torch.int64), budget, start="clean")
    assert model.forwards == [3, 4, 21, 21]
    for i, rise in enumerate([0.5, 1.5, 3.0, 0.0]):
        torch.testing.assert_close(found[i], model.clips()[i] + rise * EPS, rtol=0, atol=1e-6)


def test_restarts_start_in_the_ball_of_the_clip() -> None:
    model = Thresholds([-1.0, 0.5, 0.5])
    clips, sizes = model.clips(), torch.tensor([0.01, 0.0, 0.05])
    watched = Watcher(model)
    attack(watched, clips, torch.zeros(3, dtype=torch.int64), Budget(size=sizes, steps=2, restarts=2), start="uniform")
    first, again = watched.seen[0], watched.seen[3]  # two steps and a check in between
    assert (len(first), len(again)) == (3, 2)
    for start, left, size in ((first, clips, sizes), (again, clips[1:], sizes[1:])):
        reached = (start - left).abs().flatten(1).amax(1)
        assert (reached <= size + 1e-6).all()
        assert (reached >= 0.9 * size).all()
    assert not torch.equal(first[2], again[1])


@pytest.mark.parametrize("start", ["uniform", "gaussian", "clean"])
@pytest.mark.parametrize("keep", ["worst", "last"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_result_does_not_depend_on_the_batch(start: str, keep: str, norm: str) -> None:
    if (start, norm) == ("gaussian", "l2"):
        with pytest.raises(BenchError, match="defined for linf"):
            PGD(start="gaussian").check(Budget("l2"))
        return
    model, clips, labels = Linear(3), draw(3, *SHAPE), torch.tensor([0, 1, 2])
    budget = Budget(norm, 0.02 if norm == "linf" else 0.3, steps=4, restarts=2)
    together = attack(model, clips, labels, budget, [5, 6, 7], start=start, keep=keep)
    for i in range(3):
        alone = attack(model, clips[i : i + 1], labels[i : i + 1], budget, [5 + i], start=start, keep=keep)
        assert torch.equal(together[i : i + 1], alone)


def test_result_depends_on_the_seed_alone() -> None:
    model, clips = Linear(2), draw(2, *SHAPE)
    labels = model(clips).argmax(1)
    budget = Budget(size=EPS, steps=2, step_size=1e-4)
    first = attack(model, clips, labels, budget, [1, 2])
    torch.manual_seed(123)
    assert torch.equal(first, attack(model, clips, labels, budget, [1, 2]))
    assert not torch.equal(first, attack(model, clips, labels, budget, [3, 4]))


def test_weights_take_no_gradient() -> None:
    model, clips, labels = Small(), draw(2, *SHAPE), torch.tensor([0, 1])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = attack(model, clips, labels, Budget(restarts=2))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not found.requires_grad


def test_input_is_left_alone() -> None:
    model, clips, labels = Linear(2), draw(2, *SHAPE), torch.tensor([0, 1])
    before = clips.clone()
    attack(model, clips, labels, Budget())
    assert torch.equal(clips, before)
    assert clips.grad is None


def test_trace_is_the_loss_at_each_iterate() -> None:
    model, clips, labels = Watcher(Linear(3)), draw(2, *SHAPE), torch.tensor([0, 2])
    result = PGD(keep="last")(model, clips, labels, Budget(steps=3, restarts=2))
    seen = torch.stack(model.seen).double()
    logits = seen.flatten(2) @ model.model.weight.detach().double().T
    expected = logits.logsumexp(2) - torch.stack([logits[:, 0, 0], logits[:, 1, 2]], 1)
    assert result.trace is not None
    assert result.trace.shape == (6, 2)
    torch.testing.assert_close(result.trace.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [5, 10, 40])
def test_default_step_is_two_and_a_half_radii_over_all_steps(steps: int) -> None:
    model = Watcher(Linear(2))
    clips, labels = torch.full((1, *SHAPE), 0.5), torch.tensor([0])
    attack(model, clips, labels, Budget(size=0.1, steps=steps), start="clean", keep="last")
    first = (model.seen[1] - model.seen[0]).abs()
    torch.testing.assert_close(first, torch.full_like(first, 0.25 / steps), rtol=1e-4, atol=0)


# --- the published protocol -----------------------------------------------------------------------------------


def test_videopure_protocol_starts_gaussian_and_outside_the_ball() -> None:
    model = Watcher(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 16 * 16, 2)))
    clips, labels = torch.full((1, 3, 8, 16, 16), 0.5), torch.tensor([0])
    found = attack(model, clips, labels, Budget(size=EPS), protocol="videopure")
    noise = (model.seen[0] - clips).flatten()
    assert float((noise.abs() > EPS).float().mean()) == pytest.approx(0.3173, abs=0.02)
    assert float(noise.std()) == pytest.approx(EPS, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=0.05 * EPS)
    for iterate in [*model.seen[1:], found]:
        assert float((iterate - clips).abs().max()) <= EPS + 1e-6
    assert len(model.seen) == 10


def test_videopure_protocol_steps_2_255_and_returns_the_last_iterate() -> None:
    # 8 steps of 2/255 cannot cross a ball of 20/255, so the start and the step length both show in the result.
    size = 20 / 255
    model = Watcher(Linear(2))
    clips, labels = draw(2, *SHAPE), torch.tensor([0, 1])
    found = attack(model, clips, labels, Budget(size=size, steps=8), protocol="videopure")
    sign = pull(model.model, labels).sign()
    x = model.seen[0]
    assert not torch.equal(x, clips)
    for step in range(8):
        torch.testing.assert_close(model.seen[step], x, rtol=0, atol=1e-6)
        x = (clips + (x + 2 / 255 * sign - clips).clamp(-size, size)).clamp(0, 1)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-6)
    own_step = attack(model.model, clips, labels, Budget(size=size, steps=1, step_size=0.5), protocol="videopure")
    torch.testing.assert_close(own_step, (clips + size * sign).clamp(0, 1), rtol=0, atol=1e-6)


def test_videopure_protocol_does_not_stop_early() -> None:
    model = Thresholds([-1.0])
    found = attack(model, model.clips(), torch.tensor([0]), Budget(size=EPS), loss="margin", protocol="videopure")
    assert model.forwards == [10]
    torch.testing.assert_close(found, model.clips() + EPS, rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", [{"protocol": "best"}, {"start": "zero"}, {"keep": "best"}, {"target": "random"}])
def test_unknown_options_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(how))} must be .*, not '{next(iter(how.values()))}'"):
        PGD(**how)


# --- input errors and noise -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clips", "labels", "message"),
    [
        (torch.rand(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), r"shape \(B, 3, T, H, W\)"),
        (torch.rand(2, 4, 2, 4, 4), torch.zeros(2, dtype=torch.int64), r"shape \(B, 3, T, H, W\)"),
        (
            torch.zeros(2, 3, 2, 4, 4, dtype=torch.uint8),
            torch.zeros(2, dtype=torch.int64),
            r"floats .* torch\.uint8",
        ),
        (
            torch.full((2, 3, 2, 4, 4), 128.0),
            torch.zeros(2, dtype=torch.int64),
            r"divide 8-bit frames by 255",
        ),
        (torch.full((2, 3, 2, 4, 4), -0.01), torch.zeros(2, dtype=torch.int64), r"\[0, 1\]"),
        (torch.full((2, 3, 2, 4, 4), float("nan")), torch.zeros(2, dtype=torch.int64), r"finite"),
        (torch.rand(2, 3, 2, 4, 4), torch.zeros(3, dtype=torch.int64), r"one per clip: there are 2 clips"),
        (torch.rand(2, 3, 2, 4, 4), torch.zeros(2, 1, dtype=torch.int64), r"one per clip: there are 2 clips"),
    ],
)
def test_wrong_input_is_refused(clips: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        UniformNoise()(nn.Identity(), clips, labels)


def test_wrong_norm_is_refused() -> None:
    class OnlyL2(PGD):
        norms = ("l2",)

    with pytest.raises(BenchError, match="OnlyL2 takes l2 budgets, not linf"):
        OnlyL2()(Linear(2), draw(1, *SHAPE), torch.tensor([0]), Budget("linf"))


def test_defaults_are_a_linf_budget_and_seeds_from_zero() -> None:
    clips, labels = draw(3, *SHAPE), torch.tensor([0, 1, 0])
    given = UniformNoise()(Linear(2), clips, labels, Budget("linf", 4 / 255), ClipRandom([0, 1, 2])).clips
    assert torch.equal(UniformNoise()(Linear(2), clips, labels).clips, given)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_never_asks_the_model_and_fills_the_ball(norm: str) -> None:
    class Mute(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            raise AssertionError("the classifier was asked")

    clips, budget = draw(8, *SHAPE, low=0.4, high=0.6), Budget(norm, 0.1)
    target = Target.of(Mute(), 8)
    result = UniformNoise()(target, clips, torch.zeros(8, dtype=torch.int64), budget)
    assert isinstance(result, AttackResult)
    delta = (result.clips - clips).double().flatten(1)
    reached = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert (reached <= 0.1 + 1e-6).all()
    assert (reached > 0.09).all()  # in 120 dimensions nearly all of the ball is near its surface
    assert len({tuple(row) for row in delta.tolist()}) == 8
    assert UniformNoise().passes(budget) == (0, 0)
    assert target.forwards.sum() == 0
    assert not UniformNoise.uses_model


class Doubles(Purifier):
    """Three candidates, each a multiple of the clip."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return torch.stack([clips * k for k in (0.05, 0.5, 1.0)])


def voted(labels: Tensor, clips: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    """One step of 2/255 against three votes: the clips, and their logits' gradients by hand, ``(3, B, ...)``."""
    model = Small()
    target = DefendedClassifier(model, Doubles(), "bpda").target(ClipRandom(range(len(clips))))
    attack = PGD(protocol="videopure", start="clean", **how)
    moved = attack(target, clips, labels, Budget(size=1.0, steps=1)).clips
    each = torch.stack([clips * k for k in (0.05, 0.5, 1.0)]).requires_grad_(True)
    loss = sum(torch.nn.functional.cross_entropy(model(v), labels, reduction="sum") for v in each)
    (gradient,) = torch.autograd.grad(loss, each)
    return moved, gradient


def test_published_protocol_climbs_the_mean_of_the_candidates_cross_entropies() -> None:
    clips = draw(2, *SHAPE, seed=5)
    labels = Small()(clips).argmax(1)
    moved, each = voted(labels, clips)
    # Identity BPDA: the gradients at the candidates are added up (released code: mean over axis 0, then the sign).
    assert torch.equal(moved, (clips + 2 / 255 * each.sum(0).sign()).clamp(0, 1))
    assert not torch.equal(moved, voted(labels, clips, votes="pooled")[0])


def test_candidates_that_are_lost_already_take_no_more_of_the_budget() -> None:
    """Two votes of a linear classifier: the one beyond ``enough`` has no part in the step."""
    weights = draw(2, *SHAPE, seed=3) - 0.5
    leads = torch.tensor([1.0, -1.0])  # the first candidate is lost by 1, the second right by 1

    def look(clips: Tensor, rows: Tensor) -> Answer:
        scores = (clips[None] * weights[:, None]).flatten(2).sum(2) - (0.5 * weights).flatten(1).sum(1)[:, None]
        votes = torch.stack([torch.zeros_like(scores), scores + leads[:, None]], -1)
        return Answer(votes.mean(0), torch.zeros(len(clips), dtype=torch.int64), votes=votes)

    clips, labels = torch.full((1, *SHAPE), 0.5), torch.tensor([0])
    attack = PGD(loss="margin", start="clean", votes="each", enough=0.1)
    moved = attack(Target(look, 1), clips, labels, Budget(size=0.001, steps=1, step_size=0.001)).clips
    assert torch.allclose((moved - clips)[0].sign(), weights[1].sign())
    both = PGD(loss="margin", start="clean", votes="each")
    moved = both(Target(look, 1), clips, labels, Budget(size=0.001, steps=1, step_size=0.001)).clips
    assert torch.allclose((moved - clips)[0].sign(), weights.sum(0).sign())


def test_enough_belongs_to_single_votes() -> None:
    with pytest.raises(ValueError, match="say votes=each"):
        PGD(enough=0.1)
