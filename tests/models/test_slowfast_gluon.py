"""SlowFast in GluonCV's layout, against PyTorchVideo's network of the same architecture."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench import BenchError
from bench.models.slowfast_gluon import GluonSlowFast, slowfast_r50


def in_pytorchvideos_names(key: str) -> str:
    """``slow_res3.1.bn2.weight`` becomes ``blocks.2.multipathway_blocks.0.res_blocks.1.branch2.norm_b.weight``."""
    if key.startswith("fc."):
        return f"blocks.6.proj.{key.removeprefix('fc.')}"
    if match := re.match(r"(slow|fast)_(conv1|bn1)\.(.*)", key):
        part = "conv" if match[2] == "conv1" else "norm"
        return f"blocks.0.multipathway_blocks.{int(match[1] == 'fast')}.{part}.{match[3]}"
    if match := re.match(r"lateral_(p1|res(\d))\.([01])\.(.*)", key):
        part = ("conv_fast_to_slow", "norm")[int(match[3])]
        return f"blocks.{int(match[2] or 1) - 1}.multipathway_fusion.{part}.{match[4]}"
    match = re.match(r"(slow|fast)_res(\d)\.(\d+)\.(.*)", key)
    assert match is not None
    rest = match[4]
    rest = re.sub(r"^downsample\.0", "branch1_conv", rest)
    rest = re.sub(r"^downsample\.1", "branch1_norm", rest)
    rest = re.sub(r"^conv(\d)", lambda m: f"branch2.conv_{'abc'[int(m[1]) - 1]}", rest)
    rest = re.sub(r"^bn(\d)", lambda m: f"branch2.norm_{'abc'[int(m[1]) - 1]}", rest)
    pathway = int(match[1] == "fast")
    return f"blocks.{int(match[2]) - 1}.multipathway_blocks.{pathway}.res_blocks.{match[3]}.{rest}"


@pytest.fixture(scope="module")
def random_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = GluonSlowFast(7, width=16)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                tensor.normal_(0, 0.1)
    return model.state_dict()


@torch.no_grad()
def test_it_is_pytorchvideos_slowfast(random_state: dict[str, Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.models.slowfast import create_slowfast
    theirs = create_slowfast(
        slowfast_channel_reduction_ratio=(8,),
        slowfast_fusion_conv_kernel_size=(7, 1, 1),
        slowfast_fusion_conv_stride=(4, 1, 1),
        model_depth=50,
        model_num_class=7,
        stem_dim_outs=(16, 2),
        head_pool=nn.AdaptiveAvgPool3d,
    ).eval()
    theirs.load_state_dict({in_pytorchvideos_names(k): v for k, v in random_state.items()})
    model = GluonSlowFast(7, width=16).eval()
    model.load_state_dict(random_state)
    clips = torch.rand(2, 3, 8, 48, 40, generator=torch.Generator().manual_seed(0))
    normalised = (clips - model.mean) / model.std
    expected = theirs([normalised[:, :, ::4], normalised])
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(model(clips), expected, rtol=1e-4, atol=1e-5)


def test_shapes_of_the_published_network() -> None:
    """Fact: stage inputs of the slow pathway 80, 320, 640, 1280; 2304 features; no second names."""
    with torch.device("meta"):
        model = GluonSlowFast(400)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    for stage, inputs in zip(range(2, 6), (80, 320, 640, 1280), strict=True):
        assert shapes[f"slow_res{stage}.0.conv1.weight"][1] == inputs
    assert shapes["slow_res3.0.conv1.weight"][2] == 1
    assert shapes["slow_res4.0.conv1.weight"][2] == 3
    assert shapes["fast_res2.0.conv1.weight"] == (8, 8, 3, 1, 1)
    assert shapes["lateral_p1.0.weight"] == (16, 8, 7, 1, 1)
    assert shapes["lateral_res4.0.weight"] == (256, 128, 7, 1, 1)
    assert shapes["fc.weight"] == (400, 2304)


def test_checkpoints(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = GluonSlowFast(9).state_dict()
    torch.save({"state_dict": state}, tmp_path / "slowfast.pth")
    loaded = slowfast_r50(tmp_path / "slowfast.pth").state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state.items())
    with pytest.raises(BenchError, match="has 9 classes, not 101"):
        slowfast_r50(tmp_path / "slowfast.pth", 101)
    del state["fast_conv1.weight"]
    torch.save(state, tmp_path / "slowfast.pth")
    with pytest.raises(BenchError, match=r"missing keys: fast_conv1.weight"):
        slowfast_r50(tmp_path / "slowfast.pth")


def test_clip_lengths() -> None:
    with pytest.raises(BenchError, match="multiple of 4, not 6 frames"):
        GluonSlowFast(3, width=8).eval()(torch.rand(1, 3, 6, 32, 32))
    assert GluonSlowFast(3, alpha=8, taps=5, width=8).eval()(torch.rand(1, 3, 8, 32, 32)).shape == (1, 3)
