"""What holds for every registered defence: it does what the interface says and what it says of itself."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from kit.draws import draw
from kit.networks import Smooth
from planted import DetachedGradient, ReversedGradient, Rounding, Saturated
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import BenchError, ClipRandom, DefendedClassifier, Purifier, RobustModel
from bench.defense.trained import TrainedDefense, know_origin
from bench.defenses.color_jitter import ColorJitter
from bench.defenses.motion_consistency import MotionConsistency
from bench.defenses.videopure import VideoPure
from bench.records.identity import Gradient
from bench.registry import DEFENSES, Entry, Spec
from bench.weights.zoo import build_classifier, zoo_file

# A defence is tested with its defaults, unless it stands here: one that needs parameters, would take too many steps, or
# goes other ways with other settings.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "color_jitter": [{}, {"space": "xyz"}, {"space": "lab"}, {"space": "yuv"}],
    "ddim_inversion": [{"steps": 2, "backbone": "image_tiny"}],
    "diffpure_ddim": [{"steps": 1, "backbone": "latent_tiny"}],
    "diffpure_ddpm": [{"steps": 2}],
    "diffpure_fixed": [{"steps": 2}, {"steps": 2, "sampler": "sde"}],
    "diffpure_sde": [{"steps": 2}],
    "encode_decode": [{}, {"backbone": "pixel_tiny"}],
    "feature_denoising": [{}, {"variant": "b", "frames": 8}, {"variant": "spacetime"}],
    "motion_consistency": [{"steps": 2}, {"steps": 2, "step": "tanh", "unroll": 2}],
    "multibn": [{}, {"select": "physical"}],
    "oudefend": [{"stages": [3], "base_width": 4}],  # as shipped
    "trained_behind": [{"transform": "gaussian_blur"}],  # nothing stands in for it
    "temporal_shuffle": [{}, {"variant": "chunks"}],
    "videopure": [{"steps": 2}, {"steps": 2, "mode": "as_described", "carry": True}],
}
# Robust networks without shipped weights for this classifier and clips of these tests: they get seeded ones.
UNSHIPPED = {"feature_denoising(variant='b', frames=8)", "feature_denoising(variant='spacetime')"}
MODEL, DATASET = "resnet3d_tiny", "actions12"
# These take signs of differences of neighbouring frames: where the frames agree to the last digit, a sign may turn.
SIGNS = (VideoPure,)
# And these descend on the absolute value of such differences.
KINKS = (MotionConsistency,)


@dataclass(frozen=True)
class Case:
    """A registered defence and the settings it is tested with."""

    entry: Entry
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(Spec(self.entry.name, self.settings))

    def made(self, **more: Any) -> Purifier | RobustModel:
        """The defence.

        Raises:
            AssertionError: it cannot be made; the message says what to do.
        """
        try:
            made: Purifier | RobustModel = self.entry.create({**self.settings, **more})
        except BenchError as error:
            raise AssertionError(
                f"Defence {self.entry.name!r} cannot be made with {self.settings or 'its defaults'}: give it a line in "
                f"SETTINGS of {__name__}.py. ({error})"
            ) from error
        return made.eval() if isinstance(made, Purifier) else made


def sort_of(case: Case) -> type | None:
    """:class:`Purifier` or :class:`RobustModel`; ``None`` if it cannot be made, which is a test of its own."""
    try:
        made = case.made()
    except AssertionError:
        return None
    return Purifier if isinstance(made, Purifier) else RobustModel


CASES = [Case(entry, settings) for entry in DEFENSES for settings in SETTINGS.get(entry.name, [{}])]
PURIFIERS = [case for case in CASES if sort_of(case) is Purifier]
ROBUST = [case for case in CASES if sort_of(case) is RobustModel]


def test_no_defence_is_left_out() -> None:
    assert DEFENSES.broken == {}
    assert {case.entry.name for case in CASES} == set(DEFENSES.names()) >= {*SETTINGS}
    assert {str(case) for case in CASES} >= UNSHIPPED
    assert PURIFIERS
    assert ROBUST


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_defence_can_be_made(case: Case) -> None:
    made = case.made()
    assert isinstance(made, Purifier | RobustModel)
    if isinstance(made, Purifier):
        assert made.vote in ("plurality", "mean")


# --- clips, streams, processes -----------------------------------------------------------------------------------


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def waves(batch: int, frames: int, height: int, width: int, *, contrast: float, noise: float, seed: int = 0) -> Tensor:
    """Moving coloured waves about middle gray, ``float32 (B, 3, T, H, W)``, with uniform noise."""
    t, y, x = (torch.arange(n, dtype=torch.float32) for n in (frames, height, width))
    rate = 0.2 + 0.6 * draw(batch, 3, 3, 1, 1, 1, seed=seed)
    phase = 6 * draw(batch, 3, 1, 1, 1, seed=seed + 1)
    wave = rate[:, :, 0] * t[:, None, None] + rate[:, :, 1] * y[:, None] + rate[:, :, 2] * x
    grain = draw(batch, 3, frames, height, width, seed=seed + 2, low=-1)
    return 0.5 + contrast * (wave + phase).sin() + noise * grain


def scenes() -> Tensor:
    """Three unlike clips of 8 frames of 24x16: waves, waves with noise, and noise with black, white and gray parts."""
    clean = 0.6 * waves(1, 8, 24, 16, contrast=0.3, noise=0)  # darker than the others
    noisy = waves(1, 8, 24, 16, contrast=0.3, noise=0.1, seed=3)
    wild = draw(1, 3, 8, 24, 16, seed=6, low=-0.5, high=1.5).clamp(0, 1)
    wild[..., :4, :] = 0.0
    wild[..., 4:8, :] = 1.0
    wild[:, :, 3] = 0.5
    return torch.cat([clean, noisy, wild])


def interior() -> Tensor:
    """Two clips that keep away from 0 and 1, with neighbours that look alike and values that are all different."""
    return waves(2, 4, 8, 16, contrast=0.1, noise=0.01)


SEEDS = (11, 12, 13)
Process = Callable[[Tensor, ClipRandom], tuple[Tensor, ...]]


@lru_cache(maxsize=1)
def hooks(defense: Purifier) -> dict[str, Process]:
    """Everything that is asked of a purifier, where it has it; each returns a tuple of tensors."""

    def overridden(name: str) -> bool:
        return getattr(type(defense), name) is not getattr(Purifier, name)

    found: dict[str, Process] = {
        "purify": lambda clips, rng: (defense.purify(clips, rng),),
        "bpda": lambda clips, rng: (defense.bpda(clips, rng),),
    }
    if overridden("surrogate"):
        found["surrogate"] = lambda clips, rng: (defense.surrogate(clips, rng),)
    if overridden("lowpass"):
        found["lowpass"] = lambda clips, rng: (defense.lowpass(clips, rng),)
    if overridden("deviation"):
        found["deviation"] = defense.deviation
    if defense.measure(scenes()) is not None:
        found["measure"] = lambda clips, rng: (number(defense, clips),)
    return found


def number(defense: Purifier, clips: Tensor) -> Tensor:
    found = defense.measure(clips)
    assert found is not None, "measure gives a number for some clips and none for others"
    return found


def of_clips(found: Tensor, rows: Sequence[int]) -> Tensor:
    """What belongs to some clips of a batch: numbers, clips, or several candidates of each."""
    return found.index_select(1 if found.ndim == 6 else 0, torch.tensor(rows))


@lru_cache(maxsize=1)
def asked(defense: Purifier) -> dict[str, tuple[tuple[Tensor, ...], Tensor]]:
    """The answers to :func:`scenes`, and those clips afterwards."""
    found = {}
    for name, work in hooks(defense).items():
        clips = scenes()
        with torch.no_grad():
            found[name] = work(clips, ClipRandom(SEEDS)), clips
    return found


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def close(defense: Purifier, one: Tensor, other: Tensor) -> bool:
    """Whether two answers differ by no more than the order of sums explains."""
    far = (one - other).abs() > 1e-4
    return float(far.double().mean()) <= (1e-3 if isinstance(defense, SIGNS) else 0)


# --- checks of a purifier: each can fail, see the frauds below -----------------------------------------------------


def check_candidates(defense: Purifier) -> None:
    """Shape, type, range, finiteness."""
    clips = scenes()
    found = {name: answers for name, (answers, _) in asked(defense).items()}
    (purified,) = found["purify"]
    assert purified.ndim in (5, 6)
    assert purified.shape[-5:-3] == (3, 3), "not (B, 3, T, H, W) or (V, B, 3, T, H, W)"
    assert 0 not in purified.shape
    for name in {"purify", "bpda", "surrogate", "lowpass", "deviation"} & set(found):
        result = found[name][0]
        assert result.shape in (purified.shape, purified.shape[-5:]), f"{name} has another shape than purify"
        assert result.dtype == torch.float32
        assert torch.isfinite(result).all()
        assert float(result.min()) >= 0
        assert float(result.max()) <= 1
    if "deviation" in found:
        again, strays = found["deviation"]
        assert torch.equal(again, purified), "deviation must return what purify returns"
        assert strays.shape == (3,)
        assert torch.isfinite(strays).all()
    if "measure" in found:
        (size,) = found["measure"]
        assert size.shape == (3,)
        assert torch.isfinite(size).all()
    if defense.identity:
        assert torch.equal(purified, clips)
    one = defense.purify(clips[:1, :, ::2].transpose(3, 4), ClipRandom(SEEDS[:1]))
    assert one.shape[-5:-3] == (1, 3), "a single clip, shorter and not contiguous"


def global_states() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), (kind, np.asarray(keys).tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Python's, NumPy's and PyTorch's own generators start here; inside, nobody may draw from them."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = global_states()
        yield
        assert global_states() == before, "a global generator was used"
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


def check_stream(defense: Purifier) -> None:
    """Only the stream decides, and only if the defence says that it is stochastic; global generators are left alone."""
    clips = scenes()
    defense.purify(clips[2:], ClipRandom([7]))  # what else it is asked leaves no trace
    for name, work in hooks(defense).items():
        first, rng = asked(defense)[name][0], ClipRandom(SEEDS)
        with global_seed(1), torch.no_grad():
            again = work(clips, rng)
        assert same(first, again), f"{name} gives two answers to one question"
        leaf = clips[:1].requires_grad_(True)
        with global_seed(2):
            tracked = work(leaf, ClipRandom(SEEDS[:1]))
            slopes = [found.sum() for found in tracked if found.requires_grad]
            if slopes:  # nothing is drawn on the way back
                torch.autograd.grad(slopes, leaf)
        for plain, value in zip(first, tracked, strict=True):
            assert close(defense, value, of_clips(plain, [0])), f"{name} does something else when it is differentiated"
        if not defense.stochastic:
            assert torch.equal(rng.uniform(4), ClipRandom(SEEDS).uniform(4)), f"{name} draws"
            assert same(tracked, work(leaf, ClipRandom([21]))), f"{name} depends on the seed"
    if defense.stochastic:
        noisy = clips[1:2]  # whose frames are all different
        answers = [defense.purify(noisy, ClipRandom([seed])) for seed in range(4)]
        assert any(not torch.equal(answers[0], other) for other in answers[1:]), "the seed does not matter"


def check_input(defense: Purifier) -> None:
    """The clips given are not written to."""
    for name, (_, clips) in asked(defense).items():
        assert torch.equal(clips, scenes()), f"{name} writes to the clips"


def check_batch(defense: Purifier) -> None:
    """A clip's answer depends on its companions and its place no more than sums of floats do."""
    clips = scenes()
    with torch.no_grad():
        for name, work in hooks(defense).items():
            together = asked(defense)[name][0]
            for rows in ([1], [2, 0]):
                apart = work(clips[rows], ClipRandom([SEEDS[row] for row in rows]))
                for whole, part in zip(together, apart, strict=True):
                    assert close(defense, part, of_clips(whole, rows)), f"{name}: clips {rows} feel the batch"


def check_measure(defense: Purifier) -> None:
    """What is measured is what the purifier lowers."""
    if "measure" not in hooks(defense):
        return
    damaged = waves(3, 6, 16, 16, contrast=0.3, noise=0.05)
    found = defense.purify(damaged, ClipRandom(SEEDS))
    assert found.ndim == 5
    assert float(number(defense, found).mean()) < float(number(defense, damaged).mean())


# --- gradients ---------------------------------------------------------------------------------------------------


def slopes_agree(function: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether autograd has the derivative of a scalar function: that of central differences, and not zero.

    In two random directions, at whichever of several step sizes the difference quotient is good: large ones meet
    kinks and jumps (a clamp, a median, a sign that turns), small ones round off. A wrong derivative is wrong at all.
    In double precision the best quotients are good to 1e-6 or better. In single precision, the function, a sum of
    thousands of numbers, is known to about 1e-5, which a step of 3e-3 turns into 3e-3, to be compared with a derivative
    of about 10 or more; the curvature adds about as much.
    """
    steps, tolerance = ((1e-5, 1e-7, 1e-9, 1e-10), 1e-4) if x.dtype == torch.float64 else ((1e-2, 3e-3, 1e-3), 2e-2)
    leaf = x.clone().requires_grad_(True)
    value = function(leaf)
    if not value.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(value, leaf)
    if not gradient.any() or not torch.isfinite(gradient).all():
        return False

    @torch.no_grad()
    def error(direction: Tensor, step: float) -> float:
        ahead, behind = x + step * direction, x - step * direction
        quotient = (function(ahead).double() - function(behind).double()) / (2 * step)
        return abs(float(quotient - (gradient * direction).sum()))

    # The derivative in a normal direction has the gradient's length for its standard deviation.
    size = float(gradient.norm())
    directions = [normal(*x.shape, seed=seed).to(x.dtype) for seed in (1, 2)]
    return all(any(error(d, step) < tolerance * size for step in steps) for d in directions)


def functional(found: Sequence[Tensor]) -> Tensor:
    """A smooth, nonlinear function of what belongs to the first clip: of all its values, candidates and numbers."""
    total = found[0].new_zeros(())
    for k, values in enumerate(found):
        first = of_clips(values, [0])
        total = total + (normal(*first.shape, seed=40 + k).to(first) * (3 * first).sin()).sum()
    return total


def in_its_precision(defense: Purifier) -> tuple[Purifier, Tensor]:
    """The defence and clips in double precision, or in single precision where it insists on that."""
    double, clips = copy.deepcopy(defense).double(), interior()
    try:
        found = double.purify(clips.double(), ClipRandom(SEEDS[:2]))
    except RuntimeError:  # PyTorch's word for numbers of two kinds
        return defense, clips
    return (double, clips.double()) if found.dtype == torch.float64 else (defense, clips)


def check_exact_gradient(defense: Purifier) -> None:
    """There is one if and only if the defence says so; what ``diffattack`` differentiates likewise."""
    ready, clips = in_its_precision(defense)
    seeds = SEEDS[:2]

    def agree(work: Process) -> bool:
        return slopes_agree(lambda x: functional(work(x, ClipRandom(seeds))), clips)

    right = agree(lambda x, rng: (ready.purify(x, rng),))
    assert right == defense.differentiable, "autograd and finite differences say otherwise"
    if not defense.differentiable:
        for refused in ("exact", "diffattack"):
            with pytest.raises(BenchError, match=f"no {refused} gradient"):
                DefendedClassifier(Smooth(), defense, refused)
        return
    if "deviation" in hooks(defense):
        assert agree(lambda x, rng: ready.deviation(x, rng)[1:])
    leaf = clips.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(functional((ready.purify(leaf, ClipRandom(seeds)),)), leaf)
    assert not gradient[1].any(), "the gradient of one clip's answer reaches another clip"


def letterboxed() -> Tensor:
    """Like :func:`interior`, with black bars above and below and saturated pixels between them."""
    clips = waves(2, 4, 16, 16, contrast=0.1, noise=0.01)
    clips[..., :3, :] = 0.0
    clips[..., -3:, :] = 0.0
    clips[..., 6:9, 4:9] = 1.0
    return clips


def peppered() -> Tensor:
    """Like :func:`interior`, with black and saturated pixels here and there, in other places in every frame."""
    clips, drawn = waves(2, 4, 16, 16, contrast=0.1, noise=0.01), draw(2, 3, 4, 16, 16, seed=9)
    return clips.masked_fill(drawn < 0.02, 0.0).masked_fill(drawn > 0.98, 1.0)


def check_ends(defense: Purifier) -> None:
    """What is black or saturated can only move inwards: there the gradient is the slope on that side, and not zero."""
    if not defense.differentiable or (isinstance(defense, ColorJitter) and defense.space == "hsv"):
        return  # black has no hue, and what its colour becomes jumps
    ready, middle = in_its_precision(defense)
    # A loss with a kink where frames agree has no slope in a flat bar.
    clips = (peppered() if isinstance(defense, KINKS) else letterboxed()).to(middle.dtype)
    seeds = SEEDS[:2]
    tolerance, steps = (1e-4, (1e-5, 1e-6, 1e-7, 1e-8)) if clips.dtype == torch.float64 else (2e-2, (1e-2, 3e-3, 1e-3))

    def value(x: Tensor) -> Tensor:
        return functional((ready.purify(x, ClipRandom(seeds)),))

    leaf = clips.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    black, white = (clips[:1] == 0), (clips[:1] == 1)
    for seed, ends in ((1, black), (2, white), (3, black | white)):
        # One pace for what is black in a plane, and one for what is saturated: a median chooses among equals.
        pace = normal(2, *clips[:1, :, :, :1, :1].shape, seed=seed).abs().to(clips)
        inwards = torch.zeros_like(clips)
        inwards[:1] = (pace[0] * black - pace[1] * white) * ends
        size = float(gradient[:1][ends].norm())
        with torch.no_grad():
            quotients = [(value(clips + step * inwards) - value(clips)) / step for step in steps]
        # Unless the draw has pushed all of it beyond the range, from where a small step does not bring it back.
        assert size > 0 or not any(quotients), "what is black or saturated has no gradient"
        slope = float((gradient * inwards).sum())
        assert min(abs(float(q) - slope) for q in quotients) <= tolerance * size, "another slope inwards"


def check_stand_ins(defense: Purifier) -> None:
    """The gradient of BPDA and ``surrogate`` is the classifier's at the purified clips, through what stands in."""
    clips, seeds, labels = interior(), SEEDS[:2], torch.tensor([1, 3])
    net = Smooth().eval().requires_grad_(False)
    candidates = defense.purify(clips, ClipRandom(seeds)).detach()
    votes = candidates.ndim == 6
    candidates = (candidates if votes else candidates[None]).requires_grad_(True)
    shares = torch.stack([net(c).softmax(-1) for c in candidates]).mean(0)
    (at_candidates,) = torch.autograd.grad(shares.log()[range(2), labels].sum(), candidates)
    standing: list[tuple[Gradient, str]] = [("bpda", "bpda"), ("surrogate", "surrogate"), ("bpda-lowpass", "lowpass")]
    for name, hook in standing:
        if hook not in hooks(defense):
            with pytest.raises(BenchError, match=r"no cheaper process|no filter"):
                DefendedClassifier(net, defense, name)
            continue
        leaf = clips.clone().requires_grad_(True)
        stand_in = getattr(defense, hook)(leaf, ClipRandom(seeds))
        assert stand_in.requires_grad, f"{hook} cuts the graph"
        upstream = at_candidates if stand_in.ndim == 6 else at_candidates.sum(0)
        (expected,) = torch.autograd.grad(stand_in, leaf, upstream)

        leaf = clips.clone().requires_grad_(True)
        logits = DefendedClassifier(net, defense, name)(leaf, ClipRandom(seeds))
        (found,) = torch.autograd.grad(logits.log_softmax(-1)[range(2), labels].sum(), leaf)
        assert found.shape == clips.shape
        assert torch.isfinite(found).all()
        assert found.flatten(1).any(1).all()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


Check = Callable[[Purifier], None]
CHECKS: list[Check] = [
    check_candidates,
    check_stream,
    check_input,
    check_batch,
    check_measure,
    check_exact_gradient,
    check_ends,
    check_stand_ins,
]


@pytest.fixture(scope="module", params=PURIFIERS, ids=str)
def purifier(request: pytest.FixtureRequest) -> Purifier:
    made = request.param.made()
    assert isinstance(made, Purifier)
    return made


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_purifier_is_what_it_says(purifier: Purifier, check: Check) -> None:
    check(purifier)


# --- robust networks ---------------------------------------------------------------------------------------------


def classifier() -> nn.Module:
    made = build_classifier(Spec(MODEL), zoo_file(MODEL, DATASET))
    know_origin(made, MODEL, DATASET)
    return made


def parts(network: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights and buffers."""
    return {name: t.detach().clone() for name, t in [*network.named_parameters(), *network.named_buffers()]}


def alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def seeded_weights(defense: TrainedDefense) -> dict[str, Tensor]:
    """Weights of a network that has none: the classifier's, each moved a little, so that zeros are not zero."""
    state = defense.network(classifier()).state_dict()
    for k, (name, value) in enumerate(sorted(state.items())):
        if value.is_floating_point() and "running" not in name:
            state[name] = value + 0.02 * normal(*value.shape, seed=k).to(value)
    return {name: value.contiguous() for name, value in state.items()}


def logits_of(defended: DefendedClassifier, clips: Tensor) -> Tensor:
    return defended(clips, ClipRandom(range(len(clips))))


def check_classifier(robust: RobustModel) -> None:
    """The classifier given stays what it is, and the robust one is another."""
    given = classifier()
    before, answer = parts(given), given(scenes())
    defended = DefendedClassifier(given, robust)
    assert not torch.allclose(logits_of(defended, scenes()), answer)  # it is another classifier
    assert alike(parts(given), before)
    assert torch.equal(given(scenes()), answer)
    assert not given.training


def check_evaluation_mode(robust: RobustModel) -> None:
    """Logits with a gradient, from a network in evaluation mode that its answers do not change."""
    clips = scenes().requires_grad_(True)
    defended = DefendedClassifier(classifier(), robust)
    before = parts(defended)
    logits = logits_of(defended, clips)
    assert logits.shape == (3, 12)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert not any(module.training for module in defended.modules())
    assert not any(parameter.requires_grad for parameter in defended.parameters())
    (gradient,) = torch.autograd.grad(logits.log_softmax(1)[:, 0].sum(), clips)
    assert torch.isfinite(gradient).all()
    assert gradient.flatten(1).any(1).all()
    assert alike(parts(defended), before)  # no running mean has moved
    assert torch.equal(clips.detach(), scenes())
    with pytest.raises(BenchError, match="use exact"):
        defended.with_gradient("surrogate")


def check_draws(robust: RobustModel) -> None:
    """The same network is made every time, and none draws that does not say so."""
    made, answers = [], []
    for seed in (1, 2):
        with global_seed(seed):
            made.append(DefendedClassifier(classifier(), robust))
            if not robust.stochastic:
                answers.append(logits_of(made[-1], scenes()))
    assert alike(*(parts(network) for network in made))
    if robust.stochastic:
        assert not torch.equal(logits_of(made[0], scenes()), logits_of(made[0], scenes()))
    else:
        assert torch.equal(*answers)
        assert torch.equal(logits_of(made[0], scenes()), answers[0])  # the second one shares nothing with it


def check_one_by_one(robust: RobustModel) -> None:
    """A clip's logits do not depend on its companions or its place."""
    defended = DefendedClassifier(classifier(), robust)
    together = logits_of(defended, scenes())
    for rows in ([0], [1], [2], [2, 1, 0], [1, 2]):
        torch.testing.assert_close(logits_of(defended, scenes()[rows]), together[rows], rtol=1e-4, atol=1e-4)


def check_derivative(robust: RobustModel) -> None:
    """It is differentiable as it is: nothing stands in."""
    defended = DefendedClassifier(classifier(), robust).double()
    clips = waves(2, 8, 16, 16, contrast=0.2, noise=0.05).double()

    def value(x: Tensor) -> Tensor:
        return functional([logits_of(defended, x) / 3])

    assert slopes_agree(value, clips)
    leaf = clips.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    assert not gradient[1].any()


@pytest.fixture(scope="module", params=ROBUST, ids=str)
def robust(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RobustModel:
    case: Case = request.param
    made = case.made()
    if str(case) in UNSHIPPED:
        assert isinstance(made, TrainedDefense)
        file = tmp_path_factory.mktemp("weights") / "seeded.safetensors"
        save_file(seeded_weights(made), file)
        made = case.made(weights=str(file))
    assert isinstance(made, RobustModel)
    try:
        made.wrap(classifier())
    except BenchError as error:
        raise AssertionError(
            f"Defence {case} cannot wrap {MODEL}, trained on {DATASET}: give {case.entry.name!r} settings in SETTINGS "
            f"of {__name__}.py for which weights are shipped, or put the case in UNSHIPPED. ({error})"
        ) from error
    return made


RobustCheck = Callable[[RobustModel], None]
ROBUST_CHECKS: list[RobustCheck] = [
    check_classifier,
    check_evaluation_mode,
    check_draws,
    check_one_by_one,
    check_derivative,
]


@pytest.mark.parametrize("check", ROBUST_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_robust_model_is_what_it_says(robust: RobustModel, check: RobustCheck) -> None:
    check(robust)


# --- what the checks find out -------------------------------------------------------------------------------------


class Dim(Purifier):
    """An honest one: darkens a little."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * 0.9


class Bright(Purifier):
    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * 1.1


class Thin(Purifier):
    """Puts the candidates behind the clips."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return torch.stack([clips, clips], 1)


class InDouble(Purifier):
    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips.double()


class Hidden(Purifier):
    """Is stochastic and does not say so."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * rng.uniform(1, 1, 1, 1)


class Drawing(Purifier):
    """Draws and makes nothing of it."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        rng.integers(2)
        return clips * 0.9


class Pretending(Dim):
    stochastic = True


class Aging(Purifier):
    """Is darker every time."""

    asked = 0

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        self.asked += 1
        return clips / self.asked


class TwoFaced(Purifier):
    """Does less when it is attacked."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * (0.9 if clips.requires_grad else 0.8)


class Global(Purifier):
    """Draws from a generator that belongs to everybody.

    Args:
        which: ``torch``, ``numpy`` or ``python``.
    """

    stochastic = True

    def __init__(self, which: str) -> None:
        super().__init__()
        self.which = which

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        drawn = {"torch": lambda: float(torch.rand(())), "numpy": np.random.rand, "python": random.random}
        return clips * drawn[self.which]()


class GlobalWayBack(Dim):
    """Draws only where nobody looks, in its stand-in."""

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * torch.rand(())


class InPlace(Purifier):
    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips.mul_(0.9)


class Companions(Purifier):
    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return (clips + clips.mean(0)) / 2


class Places(Purifier):
    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * torch.linspace(1, 0.5, 3)[: len(clips), None, None, None, None]


class OneDraw(Purifier):
    """All clips get what the first one drew."""

    stochastic = True

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * rng.uniform(1, 1, 1, 1)[:1]


class Worse(Purifier):
    """Measures what it raises."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return (clips + 1) / 2

    def measure(self, clips: Tensor) -> Tensor:
        return clips.mean(dim=(1, 2, 3, 4))


class OneNumber(Dim):
    """Measures a batch instead of clips."""

    def measure(self, clips: Tensor) -> Tensor:
        return clips.mean()


class Modest(Dim):
    """Could be differentiated and denies it."""

    differentiable = False


class HalfGradient(Purifier):
    """The derivative of half of what it does."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips.square() / 2 + clips.detach().square() / 2


class WayAround(Rounding):
    """Rounds, and passes the gradient straight through."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips + (super().purify(clips, rng) - clips).detach()


class DeadEnds(Purifier):
    """Has no gradient where a clip is black or saturated."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips.clamp(0, 1)


class DeadWhite(Purifier):
    """Lets what is black move, and not what is saturated."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips.clamp(-1, 1)


class DeadStandIn(Dim):
    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips.detach()


class SinglePrecision(Purifier):
    """An honest one that cannot be put in double precision.

    Args:
        honest: whether it is.
    """

    def __init__(self, honest: bool = True) -> None:
        super().__init__()
        self.honest = honest
        self.weight = torch.eye(3)[:, :, None, None, None] * 0.9  # no buffer: it stays as it is

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        found = torch.conv3d(clips, self.weight)
        return found if self.honest else found.square() / 2 + found.detach().square() / 2


class Nothing(RobustModel):
    """Gives back what it was given."""

    def wrap(self, classifier: nn.Module) -> nn.Module:
        return classifier


class Around(RobustModel):
    """Puts a layer of a kind of choice behind the classifier.

    Args:
        layer: makes it.
    """

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        self.layer = layer

    def wrap(self, classifier: nn.Module) -> nn.Module:
        return nn.Sequential(classifier, self.layer())


class Counting(nn.Module):
    """Remembers how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        self.get_buffer("asked").add_(1)
        return 2 * logits


class Dropping(nn.Module):
    """Drops logits in evaluation mode, too."""

    def forward(self, logits: Tensor) -> Tensor:
        return nn.functional.dropout(logits, training=True)


class Centred(nn.Module):
    """Takes the mean of the batch away."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits - logits.mean(0)


class HalfSquare(nn.Module):
    """With the derivative of half of what it does."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.square() / 2 + logits.detach().square() / 2


ROBUST_FRAUDS: list[tuple[RobustCheck, RobustModel]] = [
    (check_classifier, Nothing()),
    (check_evaluation_mode, Around(Counting)),
    (check_draws, Around(Dropping)),
    (check_draws, Around(lambda: nn.Linear(12, 12))),  # whose weights were never the same
    (check_one_by_one, Around(Centred)),
    (check_derivative, Around(HalfSquare)),
    (check_derivative, Around(Centred)),
    (check_derivative, Saturated()),
]


@pytest.mark.parametrize(("check", "fraud"), ROBUST_FRAUDS)
def test_robust_frauds_are_found_out(check: RobustCheck, fraud: RobustModel) -> None:
    with pytest.raises(AssertionError):
        check(fraud)


FRAUDS: list[tuple[Check, Purifier]] = [
    (check_candidates, Bright()),
    (check_candidates, Thin()),
    (check_candidates, InDouble()),
    (check_candidates, OneNumber()),
    (check_stream, Hidden()),
    (check_stream, Drawing()),
    (check_stream, Pretending()),
    (check_stream, Aging()),
    (check_stream, TwoFaced()),
    (check_stream, Global("torch")),
    (check_stream, Global("numpy")),
    (check_stream, Global("python")),
    (check_stream, GlobalWayBack()),
    (check_input, InPlace()),
    (check_batch, Companions()),
    (check_batch, Places()),
    (check_batch, OneDraw()),
    (check_measure, Worse()),
    (check_exact_gradient, DetachedGradient()),
    (check_exact_gradient, Rounding()),
    (check_exact_gradient, ReversedGradient()),
    (check_exact_gradient, Modest()),
    (check_exact_gradient, HalfGradient()),
    (check_exact_gradient, WayAround()),
    (check_exact_gradient, Companions()),
    (check_exact_gradient, SinglePrecision(honest=False)),
    (check_ends, DeadEnds()),
    (check_ends, DeadWhite()),
    (check_stand_ins, DeadStandIn()),
]


@pytest.mark.parametrize(
    ("check", "fraud"), FRAUDS, ids=lambda v: v.__name__ if hasattr(v, "__name__") else type(v).__name__
)
def test_frauds_are_found_out(check: Check, fraud: Purifier) -> None:
    with pytest.raises(AssertionError):
        check(fraud)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("honest", [Dim(), SinglePrecision()])
def test_honest_ones_are_not_accused(check: Check, honest: Purifier) -> None:
    check(honest)


def test_a_new_defence_that_needs_parameters_is_told_where_to_give_them() -> None:
    case = Case(Entry("fresh", Global, "defense", "", "fresh.py:1"))
    assert sort_of(case) is None
    with pytest.raises(AssertionError, match=r"'fresh' cannot be made with its defaults: give it a line in SETTINGS"):
        case.made()
    assert isinstance(Case(case.entry, {"which": "torch"}).made(), Global)
