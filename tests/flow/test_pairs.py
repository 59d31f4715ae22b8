"""Flow of pairs of frames, a few at a time: the same values and gradients as all at once, with less kept."""

from __future__ import annotations

import pytest
import torch
from kit.double import draw
from kit.flows import miniature, raft_network
from torch import Tensor

from bench import BenchError
from bench.flow.base import FlowEstimator
from bench.flow.pairs import clip_flow, encode, flow_of_pairs
from bench.flow.raft import Raft
from bench.models.flow_stream import FlowStream, flow_stream_tiny

PAIRS = [(0, 1), (1, 2), (2, 1), (0, 3), (3, 0)]


def loose(flow: FlowEstimator, frames: Tensor) -> Tensor:
    """Every pair by itself."""
    return torch.cat([flow(frames[a : a + 1], frames[b : b + 1]) for a, b in PAIRS])


@pytest.mark.parametrize("at_once", [0, 1, 2, 3, 9])
def test_values_and_gradients_are_those_of_single_pairs(at_once: int) -> None:
    flow = miniature()
    x, y = draw(4, 3, 8, 8).requires_grad_(True), draw(4, 3, 8, 8).requires_grad_(True)
    found, expected = flow_of_pairs(flow, x, PAIRS, at_once), loose(flow, y)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    (here,), (there,) = (
        torch.autograd.grad((found * weight).sum(), x),
        torch.autograd.grad((expected * weight).sum(), y),
    )
    torch.testing.assert_close(here, there, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_flow_of_clips_does_not_depend_on_how_many_pairs_go_together(at_once: int) -> None:
    flow, clips = miniature(), draw(2, 3, 5, 8, 8)
    torch.testing.assert_close(clip_flow(flow, clips, at_once), flow.clip_flow(clips), rtol=1e-9, atol=1e-10)
    with pytest.raises(BenchError, match="at least two frames"):
        clip_flow(flow, clips[:, :, :1], at_once)


def kept(flow: FlowEstimator, clips: Tensor, at_once: int) -> int:
    """Numbers that the graph of the flow keeps."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = clip_flow(flow, clips.requires_grad_(True), at_once)
    assert found.requires_grad
    return sum(seen.values())


def test_the_graph_keeps_frames_and_features_alone() -> None:
    flow = miniature()
    few, many = (kept(flow, draw(1, 3, frames, 16, 16), 2) for frames in (5, 9))
    assert kept(flow, draw(1, 3, 9, 16, 16), 0) > 3 * many
    features = sum(f[0].numel() for f in encode(flow, draw(1, 3, 16, 16)))
    # What a further frame costs: itself, its features, and their places in the concatenation.
    assert (many - few) / 4 <= 2 * (features + 3 * 16 * 16)


def test_raft_gives_torchvisions_flows_for_every_kind_of_pair() -> None:
    """To the last bits of single precision: forward, backward and long-range pairs, twelve updates."""
    raft, frames = Raft(raft_network(), 12).eval(), draw(4, 3, 128, 136).float()
    with torch.no_grad():
        found = flow_of_pairs(raft, frames, PAIRS, 2)
        first, second = ([pair[k] for pair in PAIRS] for k in range(2))
        images = (2 * frames[first] - 1, 2 * frames[second] - 1)
        expected = raft.network(*images, num_flow_updates=raft.updates)[-1]
    assert float((found - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


def test_a_classifier_of_flow_answers_alike_with_little_memory() -> None:
    whole = flow_stream_tiny().eval()
    assert isinstance(whole, FlowStream)
    x = draw(1, 3, 6, 64, 64).float()
    answers = []
    for at_once in (0, 2):
        whole.pairs_at_once = at_once
        clips = x.clone().requires_grad_(True)
        logits = whole(clips)
        answers.append((logits.detach(), *torch.autograd.grad(logits[:, 0].sum(), clips)))
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
