"""A classifier of one's own: a small network, trained here in seconds, then attacked with and without a defence.

Run: ``python examples/own_classifier.py``. Any ``torch.nn.Module`` that maps clips in ``[0, 1]`` to logits will do in
its place: `bench.evaluate` never looks inside. The clips here are rendered on demand; of clips of your own, hand over
one tensor and their labels.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bench
from bench.registry import DATASETS


class SmallNet(nn.Module):
    """Three convolutions in space and time: clips ``(B, 3, T, H, W)`` to logits ``(B, 12)``."""

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in [(3, 16), (16, 32), (32, 32)]:
            layers += [nn.Conv3d(before, after, 3, stride=2, padding=1), nn.BatchNorm3d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(32, classes)

    def forward(self, clips: Tensor) -> Tensor:
        # Normalise in here: attackers and defences work on intensities in [0, 1], and budgets are in that unit.
        return self.head(self.features((clips - 0.5) / 0.25).amax(dim=(2, 3, 4)))


def clips_of(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Small clips of twelve kinds of motion, ``float32 (N, 3, 8, 32, 32)``, and their labels ``(N,)``."""
    dataset = DATASETS.create(f"actions12(split={split!r}, frames=8, size=32, length={count})")
    refs = dataset.refs()
    return torch.stack([dataset.load(ref) for ref in refs]), torch.tensor([ref.label for ref in refs])


def train(model: nn.Module, clips: Tensor, labels: Tensor, epochs: int) -> None:
    """Plain training: nothing in it makes the network robust."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(clips)).split(24):
            optimizer.zero_grad()
            F.cross_entropy(model(clips[rows]), labels[rows]).backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a small classifier and measures how robust it is.")
    parser.add_argument("--train-clips", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--clips", type=int, default=24, help="test clips; the classes take turns")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = SmallNet()
    train(model, *clips_of("train", options.train_clips), options.epochs)

    clips, labels = clips_of("test", options.clips)
    budget = bench.Budget(size=4 / 255, steps=10)
    for title, gradient in [
        # The attacker has the classifier and does not know of the defence: gray-box, the column Robust* of tables.
        ("Gray-box", "none"),
        # The attacker also has the defence. JPEG has no derivative, so it is replaced by the identity on the way back
        # (BPDA; Athalye et al., ICML 2018). `auto` would choose the same, and the exact gradient where there is one.
        ("Adaptive", "bpda"),
    ]:
        print(f"\n{title}:\n")
        frame = bench.evaluate(model, clips, labels, defense="jpeg", attack="pgd", gradient=gradient, budget=budget)
        # One row per clip: whatever a table hides is in here.
        broken = frame[frame["clean_correct"] & ~frame["correct"]]
        print(f"{len(broken)} of {int(frame['clean_correct'].sum())} clips that were right are broken.")


if __name__ == "__main__":
    main()
