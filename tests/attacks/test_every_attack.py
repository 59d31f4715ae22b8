"""What holds for every registered attack: its clips obey the budget, its passes are those it announced."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.networks import Scaled, Smooth
from kit.selection import Selecting
from torch import Tensor, nn

from bench import Attack, BenchError, Budget, ClipRandom, Target
from bench.registry import ATTACKS
from bench.run.judge import violation

few = settings(max_examples=4, deadline=None, derandomize=True, database=None)

# Those that need more than a classifier, or would take thousands of queries.
SETTINGS = {
    "autoattack": {"queries": 12, "targets": 2, "confirm": 2, "draws": 2},
    "eot": {"draws": 2},
    "smoothed": {"copies": 2},
    "square": {"queries": 12},
    "rays": {"queries": 12},
    "vbad": {"queries": 12, "samples": 4},
    "astfocus": {"queries": 12, "samples": 4},
    "motion_i": {"lambdas": [0.0, 1.0]},
    "motion_ii": {"lambdas": [0.0, 10.0]},
    "joint_flow": {"mus": [0.0, 1.0]},
    "joint_selection": {},
    "adaptive": {"looks": 2},
    "branches": {},
}
# A learned border belongs to a classifier and a data set, another library's attacks are many: tests of their own.
ELSEWHERE = {"af_universal", "torchattacks"}
SIZES: dict[str, list[float]] = {
    "linf": [0.004, 0.1, 0.5],
    "l2": [0.05, 1.0, 20.0],
    "one-frame": [0.01, 0.3],
    "flicker": [0.01, 0.4],
    "rectangle": [1, 5, 9],
    "border": [1, 3],
    "pixels": [1, 40],
    "framing": [1, 3],
    "mult-linf": [0.02, 0.4],
    "mult-l2": [0.05, 2.0],
}


def made(name: str) -> Attack:
    return cast(Attack, ATTACKS.create({"name": name, **SETTINGS.get(name, {})}))


def takes(name: str, norm: str) -> bool:
    """Some attacks run others, which take fewer budgets than they do."""
    try:
        made(name).check(Budget(norm, SIZES[norm][0], steps=2))
    except BenchError:
        return False
    return True


NAMES = sorted(set(ATTACKS.names()) - ELSEWHERE)
COMBINATIONS = [(name, norm) for name in NAMES for norm in made(name).norms if takes(name, norm)]


def target_of(kind: str, dtype: torch.dtype, selects: bool, count: int) -> Target:
    """``decisive``, ``stochastic`` or ``transfer``."""
    net: Any = Selecting() if selects else Smooth().to(dtype)
    noise = torch.Generator().manual_seed(3)

    def look(x: Tensor, rows: Tensor, then: Any = None) -> Tensor:
        if kind == "stochastic":
            x = x + 0.01 * torch.randn(x.shape, generator=noise, dtype=x.dtype)
        found: Tensor = net(x if then is None else then(x))
        return found

    ways = (
        {"selection": net.selection, "views": dict.fromkeys(("frozen", "even", "clean", "lp", "physical"), net.forward)}
        if selects
        else {}
    )
    return Target(look, count, stochastic=kind == "stochastic", transfer=kind == "transfer", **ways)


def test_no_attack_is_left_out() -> None:
    assert set(ATTACKS.names()) == {name for name, _ in COMBINATIONS} | ELSEWHERE
    assert set(SIZES) - {norm for _, norm in COMBINATIONS} == {"framing"}  # the learned border's own


@pytest.mark.parametrize(("name", "norm"), COMBINATIONS)
@few
@given(data=st.data())
def test_clips_obey_the_budget_and_passes_are_as_announced(name: str, norm: str, data: st.DataObject) -> None:
    attack = made(name)
    kinds = [
        kind
        for kind in ("decisive", "stochastic", "transfer")
        if attack.refuses(stochastic=kind == "stochastic", transfer=kind == "transfer") is None
    ]
    kind = data.draw(st.sampled_from(kinds))
    size = data.draw(st.sampled_from(SIZES[norm]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    frames, height, width = data.draw(st.sampled_from([(4, 32, 32), (3, 24, 40)]))
    selects = name in ("joint_selection", "branches")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    clips = torch.rand(2, 3, frames, height, width, generator=generator, dtype=dtype)
    clips[0, :, 0, :4] = data.draw(st.sampled_from([0.0, 0.5, 1.0]))  # black and white stay in range
    target = target_of(kind, dtype, selects, 2)
    labels = target_of("decisive", dtype, selects, 2)(clips).argmax(1)
    budget = Budget(norm, size, steps=2)
    before = clips.clone()
    found = attack(target, clips, labels, budget, ClipRandom([5, 6])).clips
    assert torch.equal(clips, before)
    for clean, adversarial in zip(clips, found, strict=True):
        assert violation(clean, adversarial, budget) is None
    forwards, backwards = attack.passes(budget)
    assert int(target.forwards.max()) <= forwards
    assert int(target.backwards.max()) <= backwards


# Of attacks that climb a second objective too, the run without it.
ALONE: dict[str, dict[str, Any]] = {
    "motion_i": {"lambdas": [0.0]},
    "motion_ii": {"lambdas": [0.0]},
    "joint_flow": {"mus": [0.0]},
    "joint_selection": {"weights": [0.0]},
    "square": {"queries": 60},
    "flicker": {"strength": 0.01},
}
NARROW = {"linf": 0.004, "l2": 0.2, "one-frame": 0.02, "flicker": 0.01, "rectangle": 4, "border": 1, "pixels": 6}
NARROW |= {"mult-linf": 0.01, "mult-l2": 0.2}
# Those that need more to break a clip: their mean over shifts is not of this clip alone, or they have few queries.
MORE = {"tt": 8, "tt_mi": 8, "square": 5, "vbad": 60, "astfocus": 60}


@pytest.mark.parametrize(("name", "norm"), [(n, norm) for n, norm in COMBINATIONS if made(n).uses_model])
def test_no_attack_leaves_more_of_a_classifier_that_is_a_thousand_times_as_sure(name: str, norm: str) -> None:
    """Decisions do not depend on the scale of logits, so what is left of them must not either."""
    attack = ATTACKS.create({"name": name, **SETTINGS.get(name, {}), **ALONE.get(name, {})})
    clips = torch.rand(8, 3, 4, 24, 24, generator=torch.Generator().manual_seed(1))
    net: Any = Selecting() if name in ("joint_selection", "branches") else Smooth()
    with torch.no_grad():
        logits = net(clips)
        middle = 0.0 if isinstance(net, Selecting) else logits.mean(0)  # else all clips were of one class, far off
        labels = (logits - middle).argmax(1)
    left = []
    for scale in (1.0, 2.0**10, 2.0**17):  # powers of two round nothing
        sure = Scaled(net, scale, middle)

        def look(x: Tensor, rows: Tensor, then: Any = None, sure: nn.Module = sure) -> Tensor:
            found: Tensor = sure(x if then is None else then(x))
            return found

        ways: dict[str, Any] = {}
        if isinstance(net, Selecting):
            views = dict.fromkeys(("frozen", "even", "clean", "lp", "physical"), sure.forward)
            ways = {"selection": net.selection, "views": views}
        size = MORE.get(name, 1) * NARROW[norm]
        budget = Budget(norm, size, steps=5, step_size=0.01 if norm == "flicker" else None)
        found = attack(Target(look, 8, **ways), clips, labels, budget, ClipRandom(range(8))).clips
        with torch.no_grad():
            left.append(int((sure(found).argmax(1) == labels).sum()))
    assert left[0] < 8
    assert max(left) == left[0]
