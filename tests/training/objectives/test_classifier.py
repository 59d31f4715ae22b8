"""What the manifest says about a classifier, checked on one whose margins are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bench import ClipRef, Dataset
from bench.records.metrics import wilson
from bench.training.objectives.classifier import Classification, LooksClassification

CLIPS = 200


class Margins(Dataset):
    """The first frame of the clips ``2 i`` and ``2 i + 1`` is redder than 0.5 by ``(i + 1/2) / 200`` of 8/255; all are
    of class 1. Every second clip is measured."""

    classes = ("pale", "red")

    def __init__(self, split: str) -> None:
        assert split == "test"

    def refs(self) -> list[ClipRef]:
        return [ClipRef(str(i), 1) for i in range(2 * CLIPS)]

    def load(self, ref: ClipRef) -> Tensor:
        clip = torch.full((3, 4, 2, 2), 0.1)
        clip[0, 0] = 0.5 + (int(ref.id) // 2 + 0.5) / CLIPS * 8 / 255
        return clip


class FirstFrame(nn.Module):
    """Says red if the first frame is, on average, redder than 0.5."""

    def forward(self, clips: Tensor) -> Tensor:
        score = clips[:, 0, 0].mean(dim=(1, 2)) - 0.5
        return torch.stack([-score, score], 1)


@pytest.fixture
def objective(monkeypatch: pytest.MonkeyPatch) -> Classification:
    monkeypatch.setattr(Classification, "clean_clips", CLIPS)
    return Classification()


def test_measured_figures(objective: Classification) -> None:
    figures = objective.measure(FirstFrame(), f"{__name__}:Margins", torch.device("cpu"))
    assert list(figures) == ["clean", "random_order", "pgd10_linf_4_255", "budget_5_to_9_percent"]
    assert figures["clean"]["accuracy"] == 100
    # Right as often as the first frame stays first: one time in four.
    assert figures["random_order"]["accuracy"] == pytest.approx(25, abs=3 * 100 * math.sqrt(0.25 * 0.75 / CLIPS))
    # A linear score falls by the radius: half of the margins are below 4/255.
    assert figures["pgd10_linf_4_255"]["accuracy"] == 50
    # 4 leaves 50 %, 10 nothing, 7 leaves 12.5, 8.5 nothing, 7.75 leaves 3 and 7.375 the 7.8 % that are sought.
    survivors = sum((i + 0.5) / CLIPS * 8 >= 7.375 for i in range(CLIPS))
    assert figures["budget_5_to_9_percent"]["size_255"] == 7.375
    for name, hits in (("budget_5_to_9_percent", survivors), ("pgd10_linf_4_255", 100), ("clean", 200)):
        assert figures[name]["clips"] == CLIPS
        assert figures[name]["accuracy"] == 100 * hits / CLIPS
        assert figures[name]["interval"] == pytest.approx([100 * v for v in wilson(hits, CLIPS)], abs=0.006)


def test_no_budget_is_better_than_a_wrong_one(objective: Classification, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classification, "trials", 3)
    figures = objective.measure(FirstFrame(), f"{__name__}:Margins", torch.device("cpu"))
    assert figures["budget_5_to_9_percent"] is None


def test_looks_recipe_reorders_frames_and_takes_colours_away() -> None:
    """The network records what it is shown: for each clip its frames in some order, in colour or in gray, with the
    announced probabilities, the same for the same generator."""
    clips = torch.rand(200, 3, 16, 1, 1, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(200, dtype=torch.long)
    shown: list[Tensor] = []

    class Recorder(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            if self.training:
                shown.append(clips)
            return clips[:, :2, 0, 0, 0]

    objective = LooksClassification(mixed=0.25, gray=0.4)
    losses = [objective.loss(Recorder(), (clips, labels), torch.Generator().manual_seed(s))[0] for s in (0, 0, 1)]
    assert torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])
    assert losses[0] == losses[1] != losses[2]
    reordered, gray = [], []
    for clip, seen in zip(clips, shown[0], strict=True):
        gray.append(bool((seen == seen[:1]).all()))
        whole = clip.mean(dim=0, keepdim=True).expand_as(clip) if gray[-1] else clip
        # Whole frames move: the order that sorts one colour of both sorts all of them.
        ours, theirs = (c[:, c[0, :, 0, 0].argsort()] for c in (seen, whole))
        torch.testing.assert_close(ours, theirs)
        reordered.append(not torch.allclose(seen, whole))
    for happened, chance in ((reordered, objective.mixed), (gray, objective.gray)):
        assert sum(happened) / 200 == pytest.approx(chance, abs=3 * (chance * (1 - chance) / 200) ** 0.5)


def test_looks_recipe_moves_every_second_clip_against_its_label() -> None:
    """A network whose first logit is the sum of a clip: such a clip of class 0 gets darker, of class 1 brighter."""
    shown: list[Tensor] = []

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(0.01))

        def forward(self, clips: Tensor) -> Tensor:
            if self.training:
                shown.append(clips.detach())
            score = self.gain * clips.sum(dim=(1, 2, 3, 4))
            return torch.stack([score, -score], 1)

    clips = torch.full((4, 3, 1, 2, 2), 0.5)
    clips[0, :, :, 0, 0] = 0.0  # cannot get darker
    network, objective = Sum(), LooksClassification(mixed=0, gray=0, step=1 / 255)
    loss, _ = objective.loss(network, (clips, torch.tensor([0, 0, 1, 1])), torch.Generator().manual_seed(0))
    step = torch.tensor([-objective.step, 0.0, objective.step, 0.0]).view(4, 1, 1, 1, 1)
    torch.testing.assert_close(shown[0], (clips + step).clamp(0, 1))
    assert network.training
    # The step itself leaves no gradient behind.
    loss.backward()
    found, network.gain.grad = network.gain.grad, None
    nn.functional.cross_entropy(network(shown[0]), torch.tensor([0, 0, 1, 1])).backward()
    torch.testing.assert_close(found, network.gain.grad)
