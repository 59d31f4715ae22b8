"""RAFT on a clip: every frame encoded once, against torchvision's network called pair by pair.

Run: ``python benchmarks/flow.py`` (RAFT-small, 16 frames of 224x224), ``--frames 64 --network raft_large`` for the
published size. Both compute the flows that the motion consistency defence asks for: each frame to the next, each frame
to the one before, and the first frame to every later one. Weights are random, the same for both. Each runs in a
process of its own, so that the peak memory is its own; the two are timed in turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
from rich.progress import track
from torch import Tensor
from torchvision.models import get_model

from bench.flow.raft import Raft

Pairs = Sequence[tuple[int, int]]


def pairs_of(frames: int) -> list[tuple[int, int]]:
    """Forward, backward and long-range pairs of a clip."""
    forward = [(t, t + 1) for t in range(frames - 1)]
    return forward + [(b, a) for a, b in forward] + [(0, t) for t in range(2, frames)]


def once_per_frame(raft: Raft, frames: Tensor, pairs: Pairs, chunk: int) -> Tensor:
    """Features of every frame once, matched chunk by chunk."""
    features = [torch.cat(parts) for parts in zip(*(raft.features(f) for f in frames.split(chunk)), strict=True)]
    found = []
    for first in range(0, len(pairs), chunk):
        one, other = zip(*pairs[first : first + chunk], strict=True)
        found.append(raft.match(tuple(f[list(one)] for f in features), tuple(f[list(other)] for f in features)))
    return torch.cat(found)


def pair_by_pair(raft: Raft, frames: Tensor, pairs: Pairs, chunk: int) -> Tensor:
    """torchvision's call on as many pairs at once; it returns every update in full size, the last is wanted."""
    found = []
    for first in range(0, len(pairs), chunk):
        one, other = zip(*pairs[first : first + chunk], strict=True)
        images = (2 * frames[list(one)] - 1, 2 * frames[list(other)] - 1)
        found.append(raft.network(*images, num_flow_updates=raft.updates)[-1])
    return torch.cat(found)


WAYS = {"once per frame": once_per_frame, "pair by pair": pair_by_pair}


def work(way: str, network: str, frames: int, size: int, updates: int, chunk: int) -> dict[str, float]:
    """One way, in this process: seconds, peak memory in MiB above what was there before, and a sample of the flow."""
    torch.manual_seed(0)
    raft = Raft(get_model(network, weights=None), updates).eval().requires_grad_(False)
    clip = torch.rand(frames, 3, size, size, generator=torch.Generator().manual_seed(1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    with torch.no_grad():
        flow = WAYS[way](raft, clip, pairs_of(frames), chunk)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "MiB": (peak - before) / 1024, "sum": float(flow.double().abs().sum())}


def largest_difference(network: str, frames: int, size: int, updates: int, chunk: int) -> tuple[float, float]:
    """Largest difference between the two ways, and the largest flow, in pixels."""
    torch.manual_seed(0)
    raft = Raft(get_model(network, weights=None), updates).eval().requires_grad_(False)
    clip = torch.rand(frames, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, other = (run(raft, clip, pairs_of(frames), chunk) for run in WAYS.values())
    return float((one - other).abs().max()), float(other.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("raft_small", "raft_large"), default="raft_small")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--chunk", type=int, default=4, help="pairs that go through the network together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    settings = (chosen.network, chosen.frames, chosen.size, chosen.updates, chosen.chunk)
    if chosen.way:
        print(json.dumps(work(chosen.way, *settings)))
        return
    times: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in track(range(chosen.rounds), description="timing"):
        for way, found in times.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(
        f"{chosen.network}, {chosen.frames} frames of {chosen.size}x{chosen.size}, {len(pairs_of(chosen.frames))} pairs"
    )
    for what in ("seconds", "MiB"):
        ours, theirs = ([f[what] for f in times[way]] for way in WAYS)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            f"{what}: once per frame {statistics.median(ours):.1f}, pair by pair {statistics.median(theirs):.1f}, "
            f"ratio {ratio:.3f}"
        )
    difference, largest = largest_difference(*settings)
    print(f"largest difference {difference:.2g} pixels of {largest:.3g}")


if __name__ == "__main__":
    main()
