"""VideoPure and the purifiers it compares with: against a plain computation, closed form, switches, gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit.diffusion import miniature
from kit.rendered import clips_of
from pipelines import SCHEDULE, save_modelscope
from straightforward import Straightforward
from torch import Tensor, nn

from bench import BenchError, ClipRandom, DefendedClassifier
from bench.defense.defended import UNASKED
from bench.defenses.ddim_inversion import DDIMInversion
from bench.defenses.diffpure import DiffPureDDIM, DiffPureDDPM, DiffPureSDE
from bench.defenses.videopure import VideoPure, latent_flow, log_variance, push_and_pull
from bench.diffusion.purifier import DiffusionPurifier
from bench.diffusion.sampling import denoise_ddpm, denoise_sde
from bench.diffusion.schedule import timesteps
from bench.flow.base import warp
from bench.registry import DEFENSES

DEFENCES: list[type[DiffusionPurifier]] = [DDIMInversion, DiffPureDDIM, DiffPureDDPM, DiffPureSDE, VideoPure]


@pytest.fixture(scope="module")
def modelscope(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random pipeline of toy width in ModelScope's layout."""
    return str(save_modelscope(tmp_path_factory.mktemp("modelscope") / "pipeline"))


@pytest.fixture(scope="module")
def plain(modelscope: str) -> Straightforward:
    backbone: Any = DDIMInversion("modelscope", weights=modelscope).backbone
    return Straightforward(backbone.autoencoder, backbone.denoiser, backbone.prompt, SCHEDULE)


# --- against the plain computation ---------------------------------------------------------------------------------


@torch.no_grad()
def test_videopure_as_published_is_the_plain_computation(modelscope: str, plain: Straightforward) -> None:
    defense = VideoPure("modelscope", weights=modelscope)
    clips = clips_of(2, 4)
    found = defense.purify(clips, ClipRandom([0, 1]))
    assert found.shape == (7, *clips.shape)
    assert defense.flow is not None
    flow = defense.flow.clip_flow(clips).transpose(1, 2)
    for i in range(2):
        expected = plain.videopure(clips[i], flow[i])
        assert float((expected[0] - expected[-1]).abs().max()) > 0.1
        torch.testing.assert_close(found[:, i], expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_the_baselines_are_the_plain_computation(modelscope: str, plain: Straightforward) -> None:
    clip = clips_of(1, 4)
    rng = ClipRandom([5])
    noises = [rng.normal(4, 4, 8, 8) for _ in range(102)]
    for kind, expected in (
        (DDIMInversion, plain.ddim_inversion(clip[0])),
        (DiffPureDDIM, plain.diffpure_ddim(clip[0], noises[0])),
        (DiffPureDDPM, plain.diffpure_ddpm(clip[0], noises)),
    ):
        found = kind("modelscope", weights=modelscope).purify(clip, ClipRandom([5]))
        torch.testing.assert_close(found[0], expected, rtol=0, atol=2e-4)


@torch.no_grad()
def test_the_sde_agrees_with_ddpm_at_small_steps() -> None:
    """Both discretise the same process: over single timesteps they differ by the order of a step."""
    backbone = DiffPureDDPM(steps=2).backbone
    noisy = ClipRandom([3]).normal(3, 2, 16, 16) * 0.3
    found = [sampler(backbone, noisy, timesteps(60, 60), ClipRandom([4])) for sampler in (denoise_sde, denoise_ddpm)]
    assert float((found[0] - found[1]).square().mean()) < 0.02 * float((found[1] - noisy).square().mean())


# --- the optimisation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detach", [True, False])
def test_the_closed_form_is_the_autograd_step(detach: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    estimate, encoded = torch.randn(2, 2, 3, 5, 6, 7, generator=generator, dtype=torch.float64)
    flow = 2 * torch.randn(2, 2, 4, 6, 7, generator=generator, dtype=torch.float64)
    leaf = estimate.clone().requires_grad_(True)
    objective = 0.0
    for b in range(2):  # clip by clip, pair by pair, as the paper writes it
        objective = objective + 800 * F.mse_loss(leaf[b], encoded[b])
        for i in range(4):
            later = leaf[b, :, i + 1].detach() if detach else leaf[b, :, i + 1]
            moved = warp(later[None], flow[b, :, i][None])[0]
            objective = objective - 5 * (moved - leaf[b, :, i]).abs().mean()
    (expected,) = torch.autograd.grad(objective, leaf)
    found = push_and_pull(estimate, encoded, flow, 800, 5, detach=detach)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_constants_of_the_paper(modelscope: str) -> None:
    """At 32 frames of 4x28x28 latents: the multiples k of the push and tau of the pull (six timesteps each)."""
    defense = VideoPure("modelscope", weights=modelscope)
    targets = [*defense.times[1:], -1]
    found = []
    for t, target in zip(defense.times, targets, strict=True):
        gain = defense._size(t, target) / defense.backbone.level(t)
        found.append((log_variance(defense.backbone, t, target), gain * 1600 / 100352, gain * 5 / 3136))
    variances, pushes, pulls = zip(*found, strict=True)
    assert variances == pytest.approx([-3.893, -4.045, -4.250, -4.607, -6.464, -7.760], abs=1e-3)
    assert pushes == pytest.approx([0.278, 0.281, 0.288, 0.306, 0.421, 0.496], abs=6e-4)
    assert pulls == pytest.approx([0.028, 0.028, 0.029, 0.031, 0.042, 0.050], abs=6e-4)


def test_the_push_has_those_multiples(modelscope: str) -> None:
    """In numbers: an estimate at distance 1 from the encoded clip moves on by k."""
    defense = VideoPure("modelscope", weights=modelscope)
    estimate, gain = torch.ones(1, 4, 32, 28, 28), defense._size(101, 81) / defense.backbone.level(101)
    moved = defense._step(estimate, torch.zeros_like(estimate), None, gain)
    torch.testing.assert_close(moved, torch.full_like(moved, 1.278), rtol=0, atol=5e-4)


def test_described_variances_are_of_single_timesteps() -> None:
    """``log((1 - abar_{t-1}) / (1 - abar_t) * beta_t)``, from the betas themselves."""
    defense = VideoPure(mode="as_described")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    abar = torch.cumprod(1 - betas, 0)
    expected = math.log(float((1 - abar[100]) / (1 - abar[101]) * betas[101]))
    assert defense._size(101, 81) == pytest.approx(-4 * expected)


def test_flow_of_latents_is_smaller_in_both_senses() -> None:
    flow = torch.full((1, 2, 3, 16, 32), 8.0)
    small = latent_flow(flow, 4, 4)
    assert small.shape == (1, 2, 3, 4, 4)
    torch.testing.assert_close(small[:, 0], torch.full((1, 3, 4, 4), 1.0))
    torch.testing.assert_close(small[:, 1], torch.full((1, 3, 4, 4), 2.0))


# --- switches --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def purified(**switches: Any) -> Tensor:
    found: Tensor = VideoPure(steps=3, **switches).purify(clips_of(1, 4), ClipRandom([0]))
    return found


def test_without_its_three_parts_it_is_ddim_inversion() -> None:
    found = purified(share_first=False, optimise=False, candidate=0)
    with torch.no_grad():
        expected = DDIMInversion(steps=3).purify(clips_of(1, 4), ClipRandom([0]))
    assert torch.equal(found, expected)
    assert not torch.equal(purified(optimise=False, candidate=0), expected)


def test_a_candidate_is_one_of_the_votes_counted_from_the_last() -> None:
    votes = purified()
    assert votes.shape == (4, 1, 3, 4, 64, 64)
    for k in range(4):
        torch.testing.assert_close(purified(candidate=k), votes[3 - k], rtol=0, atol=1e-6)
    assert float((votes[0] - votes[3]).abs().max()) > 1e-3


def test_every_switch_changes_the_votes() -> None:
    base = purified(flow="flow_tiny")
    for switch in (
        {"share_first": False},
        {"optimise": False},
        {"carry": True},
        {"spatial": 0.0},
        {"temporal": 0.0},
        {"guidance": 1.0},
        {"mode": "as_described"},
        {"t_star": 61},
    ):
        assert float((purified(**switch) - base).abs().max()) > 1e-5, switch
    torch.testing.assert_close(purified(guidance=0.0)[:3], purified(optimise=False)[:3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["as_published", "as_described"])
def test_without_push_and_pull_the_last_vote_is_the_final_latent(mode: str) -> None:
    """A step of length zero moves nothing, whatever the formula that gives its direction."""
    still = purified(mode=mode, spatial=0.0, temporal=0.0)
    torch.testing.assert_close(still, purified(optimise=False), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["as_published", "as_described"])
def test_the_last_vote_is_a_step_of_the_final_latent_by_autograd(mode: Any) -> None:
    """``z' = z - a_s sigma^2 dL/dz`` (Algorithm 1, line 13), from the losses.

    Described, they are of the latent itself, both frames of a pair move and the variance is of one timestep. Published,
    they are of the estimate that belongs to a latent of t = 1 with the noise found there.
    """
    defense = miniature(VideoPure(mode=mode))
    generator = torch.Generator().manual_seed(4)
    z, noise, encoded = torch.randn(3, 1, 4, 3, 5, 6, generator=generator, dtype=torch.float64)
    flow = torch.randn(1, 2, 2, 5, 6, generator=generator, dtype=torch.float64)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    a0, a1 = torch.cumprod(1 - betas, 0)[:2]
    leaf = z.clone().requires_grad_(True)
    published = mode == "as_published"
    seen = (leaf - (1 - a1).sqrt() * noise) / a1.sqrt() if published else leaf
    objective = 800 * F.mse_loss(seen, encoded)
    for i in range(2):
        later = seen[:, :, i + 1].detach() if published else seen[:, :, i + 1]
        objective = objective - 5 * (warp(later, flow[:, :, i]) - seen[:, :, i]).abs().mean()
    (gradient,) = torch.autograd.grad(objective, leaf)
    variance = (1 - a0) / (1 - a1) * (1 - a1 / a0)  # t = 1 strides to the clean level, which is a0: one timestep
    expected = z - 4 * variance.log() * gradient
    torch.testing.assert_close(defense._last(z, noise, encoded, flow, 1), expected, rtol=1e-9, atol=1e-9)


def test_the_last_vote_is_no_estimate_of_the_clean_latent() -> None:
    """Taking one of the moved latent, as of all other votes, would be ``v`` with ``last = sqrt(a) v + sqrt(1 - a) e``.

    Between the two lies ``sqrt(1 - a) e`` and more, which is seen.
    """
    defense = miniature(VideoPure(temporal=0.0))
    generator = torch.Generator().manual_seed(5)
    z, noise, encoded = torch.randn(3, 1, 4, 3, 5, 6, generator=generator, dtype=torch.float64)
    level = defense.backbone.level(1)
    found = defense._last(z, noise, encoded, None, 1)
    clean = (z - math.sqrt(1 - level) * noise) / math.sqrt(level)
    push = -4 * log_variance(defense.backbone, 1, -1) / level * 1600 / z.numel()
    estimate = clean + push * (clean - encoded)
    torch.testing.assert_close(found, math.sqrt(level) * estimate + math.sqrt(1 - level) * noise, rtol=0, atol=1e-12)
    assert float((found - estimate).abs().max()) > 0.1


def test_candidates_vote_as_asked() -> None:
    class Bright(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            level = clips.mean(dim=(1, 2, 3, 4))
            return 9 * torch.stack([level, 1 - level], 1)

    clips = clips_of(1, 4)
    for vote, expected in (("plurality", 1), ("mean", 0)):
        defense = VideoPure(steps=3, vote=vote)
        # One white candidate and three that are a little darker than gray: sure of 0 once, of 1 three times a little.
        levels = (1.0, 0.49, 0.49, 0.49)
        defense.purify = lambda c, _, v=levels: torch.stack([torch.full_like(c, x) for x in v])
        decision = DefendedClassifier(Bright(), defense).decide(clips, ClipRandom([0]))
        assert decision.votes[:, 0].tolist() == [0, 1, 1, 1]
        assert decision.prediction.tolist() == [expected]


@pytest.mark.parametrize(("level", "made"), [(0.5, 3), (None, 4)])
@torch.no_grad()
def test_the_judge_makes_no_more_candidates_than_decide(level: float | None, made: int) -> None:
    """Of 4 with 3 steps up and 3 down: three that agree, or two by two."""

    class Watch(nn.Module):
        answers = 0

        def forward(self, clips: Tensor) -> Tensor:
            self.answers += len(clips)
            first = self.answers % 2 == 0 if level is None else True
            return torch.tensor([[1.0, 0.0] if first else [0.0, 1.0]]).expand(len(clips), 2)

    defense, network, clips = VideoPure(steps=3), Watch(), clips_of(1, 4)
    calls: list[int] = []
    noise = defense.backbone.noise
    defense.backbone.noise = lambda *given: calls.append(1) or noise(*given)  # type: ignore[func-returns-value]
    decision = DefendedClassifier(network, defense).decide(clips, ClipRandom([0]))
    assert network.answers == made
    assert len(calls) == 3 + min(made, 3)
    assert decision.votes[:, 0].tolist() == ([0, 0, 0, UNASKED] if level else [1, 0, 1, 0])
    assert decision.prediction.tolist() == [0]
    torch.testing.assert_close(decision.purified[0], defense.purify(clips, ClipRandom([0]))[0])


@pytest.mark.parametrize("mode", ["as_published", "as_described"])
def test_raft_is_asked_as_the_mode_says(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten updates, as the authors; frames in [0, 1] only as published."""
    asked: list[Any] = []
    monkeypatch.setattr("bench.defenses.videopure.load_flow", lambda *a, **k: asked.append((a, k)))
    VideoPure(mode=mode, flow="raft_large", flow_weights="C_T_V1")
    assert asked == [(("raft_large", "C_T_V1"), {"updates": 10, "unit_range": mode == "as_published"})]
    VideoPure(mode=mode, temporal=0.0)  # nobody looks at the flow
    assert len(asked) == 1


def test_clips_keep_to_themselves() -> None:
    with torch.no_grad():
        together = VideoPure(steps=2).purify(clips_of(2, 4), ClipRandom([0, 1]))
        alone = VideoPure(steps=2).purify(clips_of(2, 4)[1:], ClipRandom([1]))
    # A sign may turn where neighbouring frames agree to the last digit.
    apart = (together[:, 1:] - alone).abs() > 1e-4
    assert float(apart.double().mean()) < 1e-3


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("videopure(mode='published')", "mode must be as_published or as_described"),
        ("videopure(vote='soft')", "vote must be plurality or mean"),
        ("videopure(candidate=7)", "must be at most 6"),
        ("videopure(spatial=-1.0)", "must not be negative"),
        ("videopure(flow='raft_tiny')", "no RAFT 'tiny'"),
        ("videopure(weights='somewhere')", "leave 'weights' and 'precision' out"),
        ("videopure(precision='fp8')", "no precision 'fp8'"),
        ("videopure(backbone='modelscope', weights='/nowhere')", "needs files that are not here:\n  - .*, /nowhere"),
        ("ddim_inversion(backbone='guided_diffusion')", "no usual place on a hub"),
    ],
)
def test_refusals(text: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        DEFENSES.create(text)


# --- gradients -------------------------------------------------------------------------------------------------------


def slopes(defense: Any, frames: int = 3) -> tuple[float, float]:
    """Directional derivative of a random function of all candidates: by autograd, and by central differences."""
    generator = torch.Generator().manual_seed(2)
    clips = 0.2 + 0.6 * torch.rand(2, 3, frames, 8, 8, generator=generator, dtype=torch.float64)
    direction = torch.randn(clips.shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(9, *clips.shape, generator=generator, dtype=torch.float64)

    def value(x: Tensor) -> Tensor:
        found = defense.purify(x, ClipRandom([3, 4]))
        found = found if found.ndim == 6 else found[None]
        return (found.square() * weight[: len(found)]).sum()

    x = clips.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(x), x)
    step = 1e-7
    with torch.no_grad():
        difference = value(clips + step * direction) - value(clips - step * direction)
    return float((gradient * direction).sum()), float(difference) / (2 * step)


SWITCHES: list[dict[str, Any]] = [
    {},
    {"mode": "as_described"},
    {"mode": "as_described", "carry": True},
    {"carry": True, "share_first": False},
    {"candidate": 1, "temporal": 0.0},
    {"optimise": False},
]


@pytest.mark.parametrize("switches", SWITCHES)
def test_the_exact_gradient_of_videopure_is_exact(switches: dict[str, Any]) -> None:
    defense = miniature(VideoPure(steps=3, temporal=switches.pop("temporal", 200.0), **switches))
    found, expected = slopes(defense)
    assert abs(expected) > 1e-3
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", DEFENCES[:4])
def test_the_exact_gradient_of_the_baselines_is_exact(kind: type[DiffusionPurifier]) -> None:
    found, expected = slopes(miniature(kind(steps=4)))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", DEFENCES)
def test_recomputed_states_are_the_stored_ones_bit_for_bit(kind: type[DiffusionPurifier]) -> None:
    """The network is asked once forward and once on the way back, in reverse, and answers the same."""
    defense = miniature(kind(steps=4)).float()
    x = clips_of(2, 3, 16).requires_grad_(True)
    value = defense.purify(x, ClipRandom([3, 4])).square().sum()
    forward = list(defense.backbone.called)
    defense.backbone.called.clear()
    torch.autograd.grad(value, x)
    again = defense.backbone.called
    assert len(again) == len(forward)
    left = list(forward)
    for state in again:
        match = next(i for i, known in enumerate(left) if torch.equal(known, state))
        del left[match]
    assert not left


@pytest.mark.parametrize("kind", DEFENCES)
def test_memory_does_not_grow_with_the_steps(kind: type[DiffusionPurifier]) -> None:
    """What the graph keeps per step are a few latents, never a network's activations."""

    def kept(steps: int) -> int:
        defense = miniature(kind(steps=steps)).float()
        x = clips_of(1, 4, 32).requires_grad_(True)
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            latents = defense.backbone.encode(x)
            found = defense.purify_latents(latents, x, timesteps(101, steps), ClipRandom([3]))
        assert found[0].requires_grad
        return sum(storages.values()) // (latents.numel() * 4)

    assert kept(12) - kept(4) <= 8 * 6


@pytest.mark.parametrize("kind", DEFENCES)
@pytest.mark.parametrize("gradient", ["exact", "bpda", "bpda-negated", "surrogate"])
def test_every_gradient_reaches_the_clip(kind: type[DiffusionPurifier], gradient: str) -> None:
    class Corner(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            return torch.stack([clips.flatten(1).square().mean(1), clips[:, 0].flatten(1).mean(1)], 1)

    defended = DefendedClassifier(Corner(), miniature(kind(steps=4)).float(), gradient)
    x = clips_of(2, 3, 16).requires_grad_(True)
    (found,) = torch.autograd.grad(defended(x, ClipRandom([0, 1])).log_softmax(-1)[:, 0].sum(), x)
    assert found.shape == x.shape
    assert torch.isfinite(found).all()
    assert float(found.flatten(1).abs().amax(1).min()) > 0


def test_the_surrogate_asks_the_network_less() -> None:
    for kind in (DDIMInversion, DiffPureDDIM, DiffPureDDPM, VideoPure):
        defense = miniature(kind(steps=6)).float()
        calls = []
        for process in (defense.purify, defense.surrogate):
            defense.backbone.called.clear()
            with torch.no_grad():
                process(clips_of(1, 3, 16), ClipRandom([0]))
            calls.append(len(defense.backbone.called))
        assert calls[0] == 3 * calls[1]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bit for bit means the same order of additions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_shipped_file_is_discovered_with_its_documentation() -> None:
    entry = DEFENSES.get("videopure")
    assert Path(entry.origin.rpartition(":")[0]).name == "videopure.py"
    assert all(p.help for p in entry.parameters)
