"""RAFT for clips: torchvision's network, asked frame by frame instead of pair by pair.

Source: Teed and Deng, RAFT: Recurrent All-Pairs Field Transforms for Optical Flow, ECCV 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.optical_flow.raft import RAFT, make_coords_grid, upsample_flow

from bench.data.base import Missing
from bench.errors import BenchError, nearest
from bench.flow.base import Features, FlowEstimator
from bench.weights.files import load_checkpoint, load_strictly
from bench.weights.places import MissingFiles, torchvision_file

SIZES: tuple[str, ...] = ("large", "small")

_LEAST_SIDE = 128
"""Four levels of correlation need 16 positions at an eighth of the resolution."""


class Raft(FlowEstimator):
    """RAFT on clips.

    Each frame passes the feature and the context encoder once, whatever the number of its pairs. What the recurrent
    unit makes of the context, a third of its convolutions, is the same in all updates of a pair and computed once, and
    only the last of the updates is brought to full resolution. Apart from that it computes what torchvision's network
    computes; its *gradient* is another one: torchvision, and the papers that use RAFT, detach the places between
    updates, which steadies training, and here nothing is detached, as an attacker wants the whole derivative. Frames
    are padded to multiples of 8 by their edges; frames with a side under 128 pixels are enlarged first and the flow is
    scaled back.

    Args:
        network: torchvision's ``raft_large`` or ``raft_small``.
        updates: of the flow, 12 in torchvision, 10 in VideoPure's code.
        unit_range: feeds frames in ``[0, 1]`` where the network expects ``[-1, 1]``, as VideoPure's code does.
    """

    def __init__(self, network: RAFT, updates: int = 12, unit_range: bool = False) -> None:
        super().__init__()
        if updates < 1:
            raise BenchError(f"RAFT needs at least one update, not {updates}.")
        self.network: Any = network  # its parts are untyped
        self.updates, self.unit_range = updates, unit_range

    def features(self, frames: Tensor) -> Features:
        height, width = frames.shape[-2:]
        enlarged = _enlarged(height, width)
        if enlarged != (height, width):
            frames = F.interpolate(frames, size=enlarged, mode="bilinear", align_corners=False)
        frames = frames if self.unit_range else 2 * frames - 1
        down, right = -enlarged[0] % 8, -enlarged[1] % 8
        # Centred, as RAFT's own evaluation code pads.
        frames = F.pad(frames, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")
        size = frames.new_empty(len(frames), 0, height, width)  # no values: its shape is all there is to know
        return self.network.feature_encoder(frames), self.network.context_encoder(frames), size

    def _units(self) -> list[tuple[Any, Any, Any]]:
        """The convolutions of the recurrent units, each over hidden state, context and motion, in this order: of the
        update, the reset and the candidate gate."""
        block = self.network.update_block.recurrent_block
        # The second "unit" of the small network is a function that passes the state on.
        units = [unit for unit in (block.convgru1, block.convgru2) if isinstance(unit, nn.Module)]
        return [(unit.convz, unit.convr, unit.convq) for unit in units]

    def match(self, first: Features, second: Features) -> Tensor:
        (features, context, size), (other, _, _) = first, second
        network, (batch, _, rows, columns) = self.network, features.shape
        network.corr_block.build_pyramid(features, other)
        block = network.update_block
        kept = block.hidden_state_size
        hidden, context = context[:, :kept].tanh(), context[:, kept:].relu()
        of_context = [self._of_context(gate, context) for unit in self._units() for gate in unit]
        start = make_coords_grid(batch, rows, columns).to(features)
        places = start
        for _ in range(self.updates):
            # torchvision detaches the places here, which steadies training; an attacker wants the whole derivative.
            scores = network.corr_block.index_pyramid(centroids_coords=places)
            motion = block.motion_encoder(places - start, scores)
            hidden = self._remembered(hidden, motion, of_context)
            places = places + block.flow_head(hidden)
        network.corr_block.corr_pyramid = []  # or the module keeps the volumes, and their graph, until the next call
        mask = None if network.mask_predictor is None else network.mask_predictor(hidden)
        return self._full_size(upsample_flow(places - start, mask), *size.shape[-2:])

    def _remembered(self, hidden: Tensor, motion: Tensor, of_context: Sequence[Tensor]) -> Tensor:
        """The hidden state after the recurrent units have seen the motion."""
        for k, gates in enumerate(self._units()):
            context = of_context[3 * k : 3 * k + 3]
            seen = torch.cat([hidden, motion], 1)
            update = self._convolved(gates[0], seen, context[0]).sigmoid()
            reset = self._convolved(gates[1], seen, context[1]).sigmoid()
            candidate = self._convolved(gates[2], torch.cat([reset * hidden, motion], 1), context[2]).tanh()
            hidden = (1 - update) * hidden + update * candidate
        return hidden

    @staticmethod
    def _of_context(gate: Any, context: Tensor) -> Tensor:
        """What a gate makes of the context, between hidden state and motion."""
        begin = gate.out_channels  # as many as the hidden state has
        weight = gate.weight[:, begin : begin + context.shape[1]]
        return F.conv2d(context, weight, gate.bias, padding=gate.padding)

    @staticmethod
    def _convolved(gate: Any, seen: Tensor, of_context: Tensor) -> Tensor:
        """What a gate makes of hidden state and motion, and has made of the context between them."""
        kept, moved = gate.out_channels, seen.shape[1] - gate.out_channels
        weight = torch.cat([gate.weight[:, :kept], gate.weight[:, -moved:]], 1)
        return F.conv2d(seen, weight, padding=gate.padding) + of_context

    @staticmethod
    def _full_size(flow: Tensor, height: int, width: int) -> Tensor:
        """Flow of the padded frames to flow of the frames as they came."""
        enlarged = _enlarged(height, width)
        top, left = (-enlarged[0] % 8) // 2, (-enlarged[1] % 8) // 2
        flow = flow[..., top : top + enlarged[0], left : left + enlarged[1]]
        if enlarged != (height, width):
            flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
            flow = flow * flow.new_tensor([width / enlarged[1], height / enlarged[0]])[:, None, None]
        return flow


def _enlarged(height: int, width: int) -> tuple[int, int]:
    """The frame size at which the network works, before padding."""
    factor = max(1.0, _LEAST_SIDE / min(height, width))
    return math.ceil(height * factor), math.ceil(width * factor)


def load_raft(
    size: str = "large",
    weights: str | Path | None = None,
    updates: int = 12,
    unit_range: bool = False,
) -> Raft:
    """torchvision's RAFT with published weights, in evaluation mode and without weight gradients.

    Args:
        size: ``large`` or ``small``.
        weights: a checkpoint in torchvision's layout, or the name of one of torchvision's own, see
            :func:`find_raft`; if not given ``C_T_V1``, ported from the weights that RAFT's authors trained on
            FlyingThings3D.
        updates, unit_range: see :class:`Raft`.

    Raises:
        BenchError: unknown size or weights, a file that does not fit, or that is not on this machine.
    """
    file = find_raft(size, weights)
    if isinstance(file, Missing):
        raise MissingFiles([file])
    network = get_model(f"raft_{size}", weights=None)
    load_strictly(network, load_checkpoint(file), file)
    return Raft(network, updates, unit_range).eval().requires_grad_(False)


def find_raft(size: str = "large", weights: str | Path | None = None) -> Path | Missing:
    """Where RAFT's weights lie. Nothing is downloaded: that is done by ``bench fetch``.

    Args:
        size, weights: see :func:`load_raft`.

    Raises:
        BenchError: unknown size or weights.
    """
    if size not in SIZES:
        raise BenchError(f"There is no RAFT {size!r}{nearest(size, SIZES)}: choose large or small.")
    if weights and Path(weights).is_file():
        return Path(weights)
    return torchvision_file(f"raft_{size}", str(weights or "C_T_V1"))
