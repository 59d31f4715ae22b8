"""RAFT on clips: torchvision's flows, in fewer passes; any frame size; exact gradients; clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kit.flows import raft_network
from torch import Tensor

from bench import BenchError
from bench.flow.estimators import load_flow
from bench.flow.raft import Raft


def clip_of(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", ["large", "small"])
@pytest.mark.parametrize("unit_range", [False, True])
def test_flows_are_those_of_torchvisions_pairwise_call(size: str, unit_range: bool) -> None:
    net = raft_network(size)
    clips = clip_of(2, 3, 3, 128, 136)
    shown = clips if unit_range else 2 * clips - 1
    with torch.no_grad():
        found = Raft(net, 3, unit_range).clip_flow(clips)
        pairs = [net(shown[:, :, i], shown[:, :, i + 1], num_flow_updates=3)[-1] for i in range(2)]
    expected = torch.stack(pairs, 2)
    assert float(expected.abs().max()) > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_each_frame_is_encoded_once_and_only_the_last_flow_enlarged() -> None:
    net, seen = raft_network("large"), {"features": 0, "context": 0, "masks": 0}
    net.feature_encoder.register_forward_pre_hook(lambda _, x: seen.update(features=seen["features"] + len(x[0])))
    net.context_encoder.register_forward_pre_hook(lambda _, x: seen.update(context=seen["context"] + len(x[0])))
    net.mask_predictor.register_forward_pre_hook(lambda *_: seen.update(masks=seen["masks"] + 1))
    with torch.no_grad():
        Raft(net, 4).clip_flow(clip_of(1, 3, 5, 128, 128))
    assert seen == {"features": 5, "context": 5, "masks": 1}
    assert net.corr_block.corr_pyramid == []


@pytest.mark.parametrize("shape", [(64, 64), (130, 150), (40, 200)])
def test_any_frame_size(shape: tuple[int, int]) -> None:
    """Small frames are enlarged and the flow scaled back: the same picture, twice as large, moves twice as far."""
    raft = Raft(raft_network(), 2).eval()
    clips = clip_of(1, 3, 2, *shape)
    with torch.no_grad():
        flow = raft.clip_flow(clips)
        assert flow.shape == (1, 2, 1, *shape)
        assert torch.isfinite(flow).all()
        if shape == (64, 64):
            large = torch.nn.functional.interpolate(clips[0].transpose(0, 1), scale_factor=2, mode="bilinear")
            twice = raft.clip_flow(large.transpose(0, 1)[None])[0]
            halved = torch.nn.functional.avg_pool2d(twice.transpose(0, 1), 2).transpose(0, 1) / 2
            torch.testing.assert_close(flow[0], halved, rtol=1e-3, atol=1e-4)


def test_padding_leaves_the_picture_in_its_place() -> None:
    """Padded by hand as RAFT's evaluation does, torchvision's network gives the same flow after cutting."""
    net, clips = raft_network(), clip_of(1, 3, 2, 132, 141)
    padded = torch.nn.functional.pad(2 * clips[0].transpose(0, 1) - 1, (1, 2, 2, 2), mode="replicate")
    with torch.no_grad():
        expected = net(padded[:1], padded[1:], num_flow_updates=2)[-1][..., 2:-2, 1:-2]
        found = Raft(net, 2).clip_flow(clips)[:, :, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_the_gradient_is_exact_through_the_places_of_the_updates() -> None:
    """Against finite differences in double precision; torchvision itself cuts this path."""
    raft = Raft(raft_network(), 2).eval().requires_grad_(False).double()
    generator = torch.Generator().manual_seed(1)
    clips = clip_of(1, 3, 2, 128, 128).double()
    direction = torch.randn(clips.shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(1, 2, 1, 128, 128, generator=generator, dtype=torch.float64)
    x = clips.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((raft.clip_flow(x) * weight).sum(), x)
    step = 1e-8  # small enough to cross no kink of a ReLU
    with torch.no_grad():
        ends = [(raft.clip_flow(clips + s * step * direction) * weight).sum() for s in (1, -1)]
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-4)


def test_weights_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "raft.pth"
    torch.save(raft_network().state_dict(), file)
    clips = clip_of(1, 3, 2, 128, 128)
    with torch.no_grad():
        found = load_flow("raft_small", file, updates=2).clip_flow(clips)
        torch.testing.assert_close(found, Raft(raft_network(), 2).clip_flow(clips))
    with pytest.raises(BenchError, match="not for RAFT: missing keys"):
        load_flow("raft_large", file)


@pytest.mark.parametrize(
    ("name", "weights", "why"),
    [
        ("raft_medium", "", "no RAFT 'medium'"),
        ("raft_large", "C_T_V9", r"torchvision has no raft_large weights of that name \(did you mean 'C_T_V"),
        ("tiny", "file.pth", "shipped with its weights"),
    ],
)
def test_refusals(name: str, weights: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        load_flow(name, weights)


def test_weights_that_are_not_here_are_named_and_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BenchError, match=r"C_T_V1 of raft_large .*\n +get it: +bench fetch raft_large-C_T_V1"):
        load_flow("raft_large")


def test_no_update_is_refused() -> None:
    with pytest.raises(BenchError, match="at least one update"):
        Raft(raft_network(), 0)
