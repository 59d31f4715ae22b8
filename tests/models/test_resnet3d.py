"""The 3D ResNet against torchvision's."""

from __future__ import annotations

import warnings

import torch

from bench.models.resnet3d import ResNet3D
from bench.registry import MODELS


def test_r3d_18_is_the_network_of_torchvision() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchvision.models.video import r3d_18
    with torch.device("meta"):
        ours, theirs = MODELS.create("r3d_18"), r3d_18()
    shapes = [{k: tuple(v.shape) for k, v in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) == 33_371_472  # as published


def test_resnet_computes_what_torchvision_computes() -> None:
    """At an eighth of the width: torchvision's own stages, narrowed by slicing, on the same weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchvision.models.video.resnet import BasicBlock, Conv3DSimple, VideoResNet

    class Narrow(VideoResNet):
        def _make_layer(self, block, conv, planes, blocks, stride=1):  # type: ignore[no-untyped-def]
            self.inplanes = min(self.inplanes, planes // 8 if stride == 1 else planes // 16)
            return super()._make_layer(block, conv, planes // 8, blocks, stride)

    def stem() -> torch.nn.Sequential:
        conv = torch.nn.Conv3d(3, 8, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        return torch.nn.Sequential(conv, torch.nn.BatchNorm3d(8), torch.nn.ReLU())

    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = Narrow(BasicBlock, [Conv3DSimple] * 4, [2, 2, 2, 2], stem)
        theirs.fc = torch.nn.Linear(64, 9)
        ours = ResNet3D(9, width=8)
    ours.load_state_dict(theirs.state_dict())
    clips = torch.rand(2, 3, 9, 40, 36, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours.eval().logits(clips), theirs.eval()(clips))
