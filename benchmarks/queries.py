"""Clips that are left under the attacks that only ask, by budget and number of queries.

Run: ``python benchmarks/queries.py``. Each attack is given the first test clips of ``actions12`` that the undefended
classifier gets right, and as many queries as the column says; a clip that is broken leaves, so the queries it really
took are fewer. A clip counts as left if it is right once more in the end. ``noise`` asks nothing and is the control.
With ``--frames`` and ``--size`` the clips are smaller and nearer to the boundary, and a query is cheaper.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from bench import Budget, ClipRandom, Spec, Target
from bench.registry import ATTACKS, DATASETS
from bench.weights.zoo import build_classifier, zoo_file

ASKING = ("square", "rays", "vbad", "astfocus")


def right(model: nn.Module, count: int, frames: int, size: int) -> tuple[list[str], Tensor, Tensor]:
    """Ids, clips and classes of the first test clips that a classifier gets right."""
    data = DATASETS.create({"name": "actions12", "frames": frames, "size": size})
    ids: list[str] = []
    clips, labels = [], []
    for ref in data.refs():
        clip = data.load(ref)
        with torch.no_grad():
            if int(model(clip[None]).argmax()) == ref.label:
                ids, clips, labels = [*ids, ref.id], [*clips, clip], [*labels, ref.label]
        if len(ids) == count:
            break
    return ids, torch.stack(clips), torch.tensor(labels)


def measured(
    model: nn.Module, attack: Spec, ids: list[str], clips: Tensor, labels: Tensor, size: float
) -> tuple[int, float, float]:
    """Clips left, mean queries per clip, and seconds."""
    target, begun = Target.of(model, len(ids)), time.perf_counter()
    rng = ClipRandom.for_clips(ids, "queries", attack.name)
    found = ATTACKS.create(attack)(target, clips, labels, Budget("linf", size), rng).clips
    with torch.no_grad():
        left = int((model(found).argmax(1) == labels).sum())
    return left, float(target.forwards.double().mean()), time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nl_tiny")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=64, help="of a frame, in pixels")
    parser.add_argument("--budgets", type=int, nargs="+", default=[8, 16], help="linf, in 255ths")
    parser.add_argument("--queries", type=int, nargs="+", default=[500, 1000])
    parser.add_argument("--attacks", nargs="+", default=["noise", *ASKING], help="as in a grid")
    chosen = parser.parse_args()
    model = build_classifier(Spec(chosen.model), zoo_file(chosen.model, "actions12"))
    ids, clips, labels = right(model, chosen.clips, chosen.frames, chosen.size)
    print(
        f"{chosen.model}, {len(ids)} clips of {chosen.frames} frames of {chosen.size} x {chosen.size} pixels",
        flush=True,
    )
    print(f"{'attack':<44} {'linf':>6} {'queries':>8} {'left':>5} {'asked':>7} {'seconds':>8}", flush=True)
    for queries in chosen.queries:
        for budget in chosen.budgets:
            for text in chosen.attacks:
                spec = Spec.parse(text)
                if spec.name != "noise":
                    spec = Spec(spec.name, {**spec.params, "queries": queries})
                left, asked, seconds = measured(model, spec, ids, clips, labels, budget / 255)
                row = f"{text:<44} {f'{budget}/255':>6} {queries:>8} {left:>5} {asked:>7.0f} {seconds:>8.0f}"
                print(row, flush=True)


if __name__ == "__main__":
    main()
