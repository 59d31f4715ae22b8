"""Random flow networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models.optical_flow import raft_large, raft_small

from bench.flow.tiny import TinyFlow

BUILD = {"large": raft_large, "small": raft_small}


def miniature(seed: int = 1) -> TinyFlow:
    """A random flow network, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = TinyFlow(fine=4, coarse=4, width=4, reach_fine=1, reach_coarse=1)
        for parameter in flow.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.3)
    return flow.eval().requires_grad_(False).double()


def raft_network(size: str = "small") -> Any:
    """torchvision's RAFT, ``large`` or ``small``, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BUILD[size]().eval()
