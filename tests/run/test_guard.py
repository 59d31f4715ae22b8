"""The guard: what a cell may not change is noticed, charged to whoever did it, and put back."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.gray import level_classifier
from kit.running import run, run_plan
from torch import nn

from bench import BenchError
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.run.guard import Guard, digest_of

Write = Callable[..., Path]


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4)).eval()


def swap_two_weights(net: nn.Sequential) -> None:
    net[0].weight.data = net[0].weight.data.flip(0)


CHANGES: dict[str, Callable[[nn.Sequential], Any]] = {
    "weights": lambda net: net[0].weight.data.add_(0.1),
    "order of weights": swap_two_weights,
    "one bit": lambda net: net[0].bias.data.view(torch.int32)[0].bitwise_xor_(1),
    "buffer": lambda net: net[1].running_mean.add_(1),
    "mode": lambda net: net[1].train(),
    "hook": lambda net: net[0].register_forward_hook(lambda *_: None),
    "forward": lambda net: setattr(net[0], "forward", lambda x: x),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_is_changed_of_a_classifier_is_noticed_and_put_back(what: str) -> None:
    net = network()
    guard = Guard({"net": net})
    before = digest_of(net)
    assert guard.complaint([]) is None
    CHANGES[what](net)
    assert guard.complaint([]) == "the weights of classifier net"
    assert digest_of(net) == before
    assert guard.complaint([]) is None


def test_the_digest_is_of_values_and_their_places_whatever_the_type() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex128):
        net = nn.Module()
        net.register_buffer("b", torch.tensor([0, 1, 1], dtype=dtype))
        net.register_buffer("empty", torch.zeros(0))
        same, before = digest_of(net), digest_of(net)
        net.b.copy_(torch.tensor([1, 0, 1], dtype=dtype))
        assert same == before != digest_of(net), dtype


def test_a_defence_may_load_later_but_not_change_what_it_has() -> None:
    guard, net = Guard({}), network()
    guard.begin([net])
    net.register_buffer("late", torch.zeros(2))
    assert guard.complaint([net]) is None
    net[0].weight.data.zero_()
    assert guard.complaint([net]) == "its own weights"
    assert guard.complaint([]) is None  # another one is at work


MODES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "the default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "gradient mode": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "anomaly detection": (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
    "deterministic algorithms": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        torch.are_deterministic_algorithms_enabled,
    ),
    "the precision of products": (
        lambda: torch.set_float32_matmul_precision("medium"),
        torch.get_float32_matmul_precision,
    ),
    "torch.backends.cudnn.enabled": (
        lambda: setattr(torch.backends.cudnn, "enabled", False),
        lambda: torch.backends.cudnn.enabled,
    ),
    "torch's random state": (lambda: torch.rand(1), lambda: torch.get_rng_state().tolist()),
    "NumPy's random state": (lambda: np.random.rand(), lambda: np.random.get_state(legacy=False)["state"]["pos"]),
    "Python's random state": (random.random, random.getstate),
}


@pytest.mark.parametrize("name", MODES)
def test_modes_of_the_process_are_noticed_and_put_back(name: str) -> None:
    change, read = MODES[name]
    guard, before = Guard({}), read()
    change()
    assert read() != before
    assert guard.complaint([]) == name
    assert read() == before
    assert guard.complaint([]) is None


def with_fraud(gray_grid: Write, name: str) -> Path:
    return gray_grid(('"kit.gray:Identity"', f'"planted:{name}"'), ("size: 0.15", "size: 0.12"))


@pytest.mark.parametrize(
    ("fraud", "what"),
    [
        ("Scrambling", "the weights of classifier kit.gray:level_classifier"),
        ("ChangingModes", "the default dtype"),
        ("RandomElsewhere", "torch's random state"),
    ],
)
def test_a_meddling_defence_fails_and_the_row_beside_it_stays_right(
    gray_grid: Write, tmp_path: Path, fraud: str, what: str
) -> None:
    honest = run(gray_grid(("size: 0.15", "size: 0.12"), name="honest"), tmp_path / "a")
    found = run(with_fraud(gray_grid, fraud), tmp_path / "b", control=2)
    for (defense, attack), result in found.items():
        if defense == "none":
            beside = honest["none", attack]
            assert [o.model_dump(exclude={"seconds"}) for o in result.outcomes] == [
                o.model_dump(exclude={"seconds"}) for o in beside.outcomes
            ]
        else:
            assert result.score.failed == 6
            (sentence,) = {str(o.error) for o in result.outcomes}
            assert sentence.startswith(f"while defence planted:{fraud} on kit.gray:level_classifier, {attack} was at")
            assert what in sentence
            assert all(o.prediction is None and not o.correct for o in result.outcomes)
    assert torch.get_default_dtype() == torch.float32


def test_a_classifier_that_was_changed_before_the_run_is_refused(gray_grid: Write, tmp_path: Path) -> None:
    plan = make_plan(read_grid(gray_grid()))
    next(plan.cells[0].model.instance.parameters()).data.add_(1)
    words = r"not those that were loaded: one of the defences \(none, kit.gray:Identity\)"
    with pytest.raises(BenchError, match=words):
        run_plan(plan, tmp_path)


def test_the_known_classifier_is_left_alone_by_an_honest_run(gray_grid: Write, tmp_path: Path) -> None:
    plan = make_plan(read_grid(gray_grid()))
    results = run_plan(plan, tmp_path, control=2)
    assert all(r.score.failed == 0 for r in results)
    assert digest_of(plan.cells[0].model.instance) == digest_of(level_classifier().eval())
