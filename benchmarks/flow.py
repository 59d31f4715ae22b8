"""RAFT on a clip: every frame encoded once, against torchvision's network called pair by pair.

Run: ``python benchmarks/flow.py`` (RAFT-small, 16 frames of 224x224), ``--frames 64 --network raft_large`` for the
published size, ``--constraints forward`` for neighbours alone (Table 6 of arXiv 2212.07815), ``--gradient
--updates 2`` with the gradient to the frames. The pairs are those that the defence compares: each frame with the next,
with the one before, and with that half a clip later. Weights are random, the same for both. Each runs in a process of
its own, so that the peak memory is its own; the two are timed in turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import cast

import torch
from rich.progress import track
from torch import Tensor
from torchvision.models import get_model

from bench.flow.base import FlowEstimator
from bench.flow.losses import CONSTRAINTS, MotionLoss
from bench.flow.pairs import flow_of_pairs
from bench.flow.raft import Raft

Pairs = Sequence[tuple[int, int]]


def pairs_of(frames: int, constraints: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs that the defence compares."""
    # Which pairs there are has nothing to do with the network.
    loss = MotionLoss(cast(FlowEstimator, None), constraints)
    return [(pair.first, pair.second) for pair in loss.pairs(frames)]


def pair_by_pair(raft: Raft, frames: Tensor, pairs: Pairs, chunk: int) -> Tensor:
    """torchvision's call on as many pairs at once; it returns every update in full size, the last is wanted."""
    found = []
    for first in range(0, len(pairs), chunk):
        one, other = zip(*pairs[first : first + chunk], strict=True)
        images = (2 * frames[list(one)] - 1, 2 * frames[list(other)] - 1)
        found.append(raft.network(*images, num_flow_updates=raft.updates)[-1])
    return torch.cat(found)


WAYS: dict[str, Callable[[Raft, Tensor, Pairs, int], Tensor]] = {
    "once per frame": flow_of_pairs,
    "pair by pair": pair_by_pair,
}


def problem(chosen: argparse.Namespace) -> tuple[Raft, Tensor, Pairs]:
    """The network, the frames and the pairs, the same for both ways."""
    torch.manual_seed(0)
    raft = Raft(get_model(chosen.network, weights=None), chosen.updates).eval().requires_grad_(False)
    frames = torch.rand(chosen.frames, 3, chosen.size, chosen.size, generator=torch.Generator().manual_seed(1))
    return raft, frames, pairs_of(chosen.frames, chosen.constraints)


def work(chosen: argparse.Namespace) -> dict[str, float]:
    """One way, in this process: seconds, and peak memory in MiB above what was there before."""
    raft, frames, pairs = problem(chosen)
    frames.requires_grad_(chosen.gradient)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    with torch.set_grad_enabled(chosen.gradient):
        flow = WAYS[chosen.way](raft, frames, pairs, chosen.chunk)
        if chosen.gradient:
            torch.autograd.grad(flow.square().mean(), frames)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "MiB": (peak - before) / 1024}


@torch.no_grad()
def largest_difference(chosen: argparse.Namespace) -> tuple[float, float]:
    """Largest difference between the two ways, and the largest flow, in pixels."""
    one, other = (run(*problem(chosen), chosen.chunk) for run in WAYS.values())
    return float((one - other).abs().max()), float(other.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("raft_small", "raft_large"), default="raft_small")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--chunk", type=int, default=4, help="pairs that go through the network together")
    parser.add_argument("--constraints", nargs="+", default=list(CONSTRAINTS), choices=CONSTRAINTS)
    parser.add_argument("--gradient", action="store_true", help="and the gradient of the flow to the frames")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.way:
        print(json.dumps(work(chosen)))
        return
    times: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in track(range(chosen.rounds), description="timing"):
        for way, found in times.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    pairs = len(pairs_of(chosen.frames, chosen.constraints))
    size, gradient = f"{chosen.size}x{chosen.size}", ", with gradient" if chosen.gradient else ""
    print(f"{chosen.network}, {chosen.frames} frames of {size}, {pairs} pairs, {chosen.updates} updates{gradient}")
    for what in ("seconds", "MiB"):
        ours, theirs = ([f[what] for f in times[way]] for way in WAYS)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            f"{what}: once per frame {statistics.median(ours):.1f}, pair by pair {statistics.median(theirs):.1f}, "
            f"ratio {ratio:.3f}"
        )
    difference, largest = largest_difference(chosen)
    print(f"largest difference {difference:.2g} pixels of {largest:.3g}")


if __name__ == "__main__":
    main()
