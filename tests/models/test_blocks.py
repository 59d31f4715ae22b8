"""OUDefend and feature denoising: shapes, sizes and attention written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import BenchError
from bench.models.blocks import FeatureDenoising, OUDefend, insert
from bench.models.resnet3d import ResNet3D
from bench.models.robust import feature_denoising, oudefend

Place = tuple[int, int, int]  # frame, row, column


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network() -> ResNet3D:
    torch.manual_seed(0)
    return ResNet3D(5, width=4, blocks=(1, 1, 1), stem_kernel=(3, 3, 3), stem_stride=(1, 2, 2)).eval()


def test_oudefend_has_the_size_of_the_published_block() -> None:
    """0.22 M parameters at width 8 behind the third stage of a 3D ResNet-18; 15 would give the paper's 0.6 M."""
    count = {w: sum(p.numel() for p in OUDefend(256, w).parameters()) for w in (8, 15)}
    assert round(count[8] / 1e6, 2) == 0.22
    assert round(count[15] / 1e6, 2) == 0.61
    # counted by hand: 1x1x1 convolutions, then 3x3x3 ones
    points = 256 * 8 + 32 * 32 + 16 * 16 + 8 * 8 + 8 * 256 + 256 * 256
    cubes = 27 * (2 * (8 * 16 + 16 * 32 + 32 * 64) + 2 * 8 * 16)
    assert count[8] == points + cubes


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(3, 7, 7), (1, 5, 6), (2, 8, 8)])
def test_oudefend_keeps_any_shape_and_never_mixes_clips(depth: int, size: tuple[int, int, int]) -> None:
    block = OUDefend(6, 2, depth)
    x = features(2, 6, *size)
    found = block(x)
    assert found.shape == x.shape
    torch.testing.assert_close(block(x[1:]), found[1:])
    assert (found >= 0).all()


def test_oudefend_looks_at_enlarged_and_reduced_features() -> None:
    seen: list[tuple[int, ...]] = []
    block = OUDefend(6, 2, 2)
    for name, module in block.named_modules():
        if isinstance(module, nn.Conv3d) and ("code" in name or "under" in name):
            module.register_forward_hook(lambda m, i, o, name=name: seen.append((name, *o.shape[1:])))  # type: ignore[misc]
    block(features(1, 6, 3, 4, 4))
    assert seen == [
        ("over_encode.0", 4, 3, 4, 4),
        ("over_encode.1", 8, 3, 8, 8),
        ("over_encode.2", 16, 3, 16, 16),
        ("over_decode.0", 8, 3, 32, 32),
        ("over_decode.1", 4, 3, 16, 16),
        ("over_decode.2", 2, 3, 8, 8),
        ("under_encode.0", 4, 3, 4, 4),
        ("under_encode.1", 8, 3, 2, 2),
        ("under_decode.0", 4, 3, 1, 1),
        ("under_decode.1", 2, 3, 2, 2),
        ("under_out", 2, 3, 4, 4),
    ]


def attended(
    block: FeatureDenoising, x: Tensor, positions: list[tuple[int, int, int]], at: tuple[int, int, int]
) -> Tensor:
    """The mixture ``y`` at one position, by the formula."""

    def embed(layers: nn.ModuleList, p: Place) -> Tensor:
        layer = layers[p[0]] if len(layers) > 1 else layers[0]
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        return layer.weight[:, :, 0, 0] @ x[0][:, p[0], p[1], p[2]] + layer.bias

    theta = embed(block.theta, at)
    scores = torch.stack([theta @ embed(block.phi, p) for p in positions]) / block.inner**0.5
    values = torch.stack([x[0][:, p[0], p[1], p[2]] for p in positions])
    return scores.softmax(0) @ values


@pytest.mark.parametrize("variant", ["a", "b", "spacetime"])
def test_denoising_is_the_formula(variant: Any) -> None:
    torch.manual_seed(1)
    block = FeatureDenoising(4, variant, 2, zero_init=False).double()
    for p in (*block.theta.parameters(), *block.phi.parameters()):
        nn.init.normal_(p)  # so that attention is far from even
    x = features(1, 4, 2, 2, 3, seed=2).double()
    found = block(x)
    everywhere = [(t, i, j) for t in range(2) for i in range(2) for j in range(3)]
    for at in everywhere:
        positions = everywhere if variant == "spacetime" else [p for p in everywhere if p[0] == at[0]]
        mixed = attended(block, x, positions, at)
        assert block.out.bias is not None
        expected = x[0][:, at[0], at[1], at[2]] + block.out.weight[:, :, 0, 0, 0] @ mixed + block.out.bias
        expected = expected.relu() if variant == "a" else expected
        torch.testing.assert_close(found[0][:, at[0], at[1], at[2]], expected)


def test_a_block_that_starts_at_zero_leaves_a_pretrained_network_as_it_is() -> None:
    x = torch.rand(2, 3, 4, 16, 16)
    plain = network()(x)
    for variant in ("a", "b", "spacetime"):
        assert torch.equal(feature_denoising(network(), variant=variant, frames=4)(x), plain)


def test_blocks_stand_behind_the_stages_they_are_for() -> None:
    assert [n for n, m in feature_denoising(network()).named_modules() if isinstance(m, FeatureDenoising)] == [
        "layer1.defence",
        "layer2.defence",
        "layer3.defence",
    ]
    for stages, depths in (((), {"layer1": 3, "layer2": 2, "layer3": 1}), ((3,), {"layer3": 1}), ((2,), {"layer2": 2})):
        net = oudefend(network(), 0, stages, 2)
        blocks = {n: m for n, m in net.named_modules() if isinstance(m, OUDefend)}
        assert {n.removesuffix(".defence"): len(m.under_encode) for n, m in blocks.items()} == depths
        with torch.no_grad():
            assert net(torch.rand(1, 3, 4, 16, 16)).shape == (1, 5)


def test_oudefend_behind_every_stage_has_the_size_of_the_published_draft() -> None:
    """At width 8, 1.14 M parameters more behind all four stages of a 3D ResNet-18, whose channels double."""
    channels = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
    net = oudefend(ResNet3D(5, width=64, blocks=(1, 1, 1, 1), stem_stride=(1, 8, 8)))
    blocks = {n.removesuffix(".defence"): m for n, m in net.named_modules() if isinstance(m, OUDefend)}
    assert {n: m.reduce.in_channels for n, m in blocks.items()} == channels
    assert [len(m.under_encode) for m in blocks.values()] == [3, 2, 1, 0]
    assert round(sum(p.numel() for m in blocks.values() for p in m.parameters()) / 1e6, 2) == 1.14


def test_what_is_added_depends_on_the_seed_alone() -> None:
    one, two, other = (
        oudefend(network(), seed, [3]).state_dict()["layer3.defence.reduce.weight"] for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_bad_input() -> None:
    with pytest.raises(BenchError, match="embeddings for 2 frames of features, and there are 3"):
        FeatureDenoising(4, "b", 2)(features(1, 4, 3, 2, 2))
    with pytest.raises(BenchError, match="has no stage 'layer9': it has layer1, layer2, layer3"):
        insert(network(), ["layer9"], lambda c, t: nn.Identity(), torch.rand(1, 3, 4, 16, 16))
    with pytest.raises(BenchError, match="Conv3d has no stages named layer1"):
        oudefend(nn.Conv3d(3, 3, 1))
    with pytest.raises(BenchError, match="has no stage 'layer4': it has layer1, layer2, layer3"):
        oudefend(network(), stages=[4])
    with pytest.raises(ValueError, match="variant must be a, b or spacetime"):
        FeatureDenoising(4, "c")  # type: ignore[arg-type]
