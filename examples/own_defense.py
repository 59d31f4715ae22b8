"""A defence of one's own, in a file of one's own, against attackers that know more and more of it.

Run: ``python examples/own_defense.py`` (seconds on one core). The data set and the classifier are shipped with the
package, so nothing is downloaded. A defence in a file of yours needs nothing else to be run from the command line::

    PYTHONPATH=examples bench run --defense own_defense:TemporalMean --clips 4 --steps 4
"""

from __future__ import annotations

import argparse

import pandas as pd
import torch
from torch import Tensor

import bench
from bench import ClipRandom, Purifier, register
from bench.registry import DATASETS, Spec
from bench.weights.zoo import build_classifier, zoo_file


# A purifier maps clips to clips. The base class has the rest: what of it attackers may differentiate, the draws of a
# randomised defence, the copy for each run. `register` gives it the name that grids and the command line use.
@register("temporal-mean")
class TemporalMean(Purifier):
    """Averages each frame with its neighbours in time; the clip's first frame follows its last.

    Args:
        reach: how many frames before and after take part, at least 1.
    """

    # Say what is true: autograd passes through an average, so attackers get its exact gradient.
    differentiable = True

    def __init__(self, reach: int = 1) -> None:
        super().__init__()
        if reach < 1:
            raise ValueError(f"reach must be at least 1, not {reach}")
        self.reach = reach

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:  # float32 (B, 3, T, H, W) in [0, 1]
        # A randomised defence would draw from rng, which has a stream per clip, and say `stochastic = True`.
        shifts = range(-self.reach, self.reach + 1)
        return torch.stack([clips.roll(shift, dims=2) for shift in shifts]).mean(0)


def some_clips(count: int) -> tuple[Tensor, Tensor]:
    """The first test clips of an embedded data set, ``(N, 3, T, H, W)``, and their labels; twelve show every class."""
    dataset = DATASETS.create(f"actions12(split='test', length={count})")
    refs = dataset.refs()
    return torch.stack([dataset.load(ref) for ref in refs]), torch.tensor([ref.label for ref in refs])


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluates a defence that is defined in this file.")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5, help="of the attack")
    options = parser.parse_args()

    clips, labels = some_clips(options.clips)
    classifier = build_classifier(Spec("nl_tiny"), zoo_file("nl_tiny", "actions12"))

    def evaluate(defense: str | Purifier, gradient: str) -> pd.DataFrame:
        budget = {"norm": "linf", "size": "4/255", "steps": options.steps}
        return bench.evaluate(
            classifier, clips, labels, defense=defense, attack="pgd", gradient=gradient, budget=budget, verbose=False
        )

    frames = {
        # Without a defence: the baseline.
        "none, attacked with its gradient": evaluate("none", "exact"),
        # Gray-box: the attacker knows the classifier and nothing of the defence, here an instance. It flatters.
        "temporal mean, gray-box": evaluate(TemporalMean(), "none"),
        # Adaptive: the attacker differentiates the defence too, here by its registered name. This one counts.
        "temporal mean, adaptive": evaluate("temporal-mean(reach=1)", "exact"),
    }
    print("Every clip before the adaptive attacker:\n")
    last = frames["temporal mean, adaptive"]
    print(last[["clip", "label", "clean_prediction", "prediction", "correct", "linf"]].to_string(index=False))
    print("\nAccuracy in percent:\n")
    shares = {
        name: {"clean": 100 * frame["clean_correct"].mean(), "attacked": 100 * frame["correct"].mean()}
        for name, frame in frames.items()
    }
    print(pd.DataFrame(shares).T.to_string(float_format="%.1f"))


if __name__ == "__main__":
    main()
