"""Bytes and seconds that an adversarial clip takes in the bank, by attack and norm.

Run: ``python benchmarks/bank.py``, on embedded clips under the attacks of their classifier. ``--frames FOLDER`` takes
clips of 32 frames of 224 x 224 pixels from folders of frames as ``ucf101`` reads them, and climbs a small network of
random weights, for want of one that is trained and as quick. Clips that are ``shared`` take every step, as they are to
meet other defences; the others are left where they first succeed, which may be near a random start. Seconds are those
of the processor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bench import Budget, ClipRandom, DefendedClassifier, Spec
from bench.defenses.none import NoDefense
from bench.registry import ATTACKS, DATASETS
from bench.run.coding import decode, encode
from bench.weights.zoo import build_classifier, zoo_file

ATTACKED = (
    ("noise", Budget("linf", 4 / 255), True),
    ("fgsm", Budget("linf", 4 / 255), True),
    ("pgd", Budget("linf", 4 / 255, steps=10), True),
    ("pgd", Budget("linf", 4 / 255, steps=10), False),
    ("pgd", Budget("linf", 8 / 255, steps=10), True),
    ("pgd(protocol='videopure')", Budget("linf", 4 / 255, steps=10), True),
    ("apgd", Budget("linf", 4 / 255, steps=10), True),
    ("square", Budget("linf", 4 / 255, steps=20), True),
    ("pgd", Budget("l2", 2.0, steps=10), True),
    ("one_frame", Budget("one-frame", 8 / 255, steps=10), True),
    ("roa", Budget("rectangle", 16, steps=10), True),
)


def small_network() -> nn.Module:
    """A network of random weights that takes clips of any size."""
    torch.manual_seed(0)
    layers = (nn.Conv3d(3, 8, (3, 7, 7), (2, 4, 4)), nn.ReLU(), nn.Conv3d(8, 16, 3, 2), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(4), nn.Flatten(), nn.Linear(16 * 64, 101)).eval()


def real_clips(folder: Path, count: int) -> tuple[nn.Module, list[str], Tensor, Tensor]:
    data = DATASETS.create({"name": "ucf101", "root": folder, "frames": 32})
    refs = data.refs()[:count]
    clips = torch.stack([data.load(ref) for ref in refs])
    model = small_network()
    return model, [r.id for r in refs], clips, model(clips).argmax(1).detach()


def embedded_clips(count: int) -> tuple[nn.Module, list[str], Tensor, Tensor]:
    data = DATASETS.create({"name": "actions12"})
    refs = data.refs()[:count]
    labels = torch.tensor([r.label for r in refs])
    clips = torch.stack([data.load(ref) for ref in refs])
    return build_classifier(Spec("nl_tiny"), zoo_file("nl_tiny", "actions12")), [r.id for r in refs], clips, labels


def row(clean: Tensor, adversarial: Tensor) -> tuple[float, float, float]:
    """Bytes and seconds to encode and to decode, a clip; and what comes back is what went in."""
    begun = time.process_time()
    coded = [encode(c, a) for c, a in zip(clean, adversarial, strict=True)]
    between = time.process_time()
    back = [decode(code, c) for code, c in zip(coded, clean, strict=True)]
    ended = time.process_time()
    assert all(torch.equal(b.view(torch.int32), a.view(torch.int32)) for b, a in zip(back, adversarial, strict=True))
    return sum(map(len, coded)) / len(coded), (between - begun) / len(coded), (ended - between) / len(coded)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=Path, help="folder of folders of frames")
    parser.add_argument("--attacks", nargs="+", help="only these, as above")
    chosen = parser.parse_args(arguments)
    model, ids, clips, labels = (
        real_clips(chosen.frames, chosen.clips) if chosen.frames else embedded_clips(chosen.clips)
    )
    raw, defended = 4 * clips[0].numel(), DefendedClassifier(model, NoDefense(), "exact")
    print(f"{len(ids)} clips of shape {tuple(clips.shape[1:])}, {raw} bytes each as float32", flush=True)
    print(f"{'attack':<34} {'budget':<26} {'bytes':>9} {'ratio':>6} {'encode s':>9} {'decode s':>9}", flush=True)
    for text, budget, shared in ATTACKED:
        spec = Spec.parse(text)
        if chosen.attacks and spec.name not in chosen.attacks:
            continue
        rng = ClipRandom.for_clips(ids, "bank", text)
        target = defended.target(rng, transfer=shared)
        found = ATTACKS.create(spec)(target, clips, labels, budget, rng).clips.detach()
        size, there, back = row(clips, found)
        label = f"{text}, shared" if shared else text
        print(f"{label:<34} {budget!s:<26} {size:>9.0f} {raw / size:>6.1f} {there:>9.3f} {back:>9.3f}", flush=True)


if __name__ == "__main__":
    main()
