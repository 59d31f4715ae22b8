"""The shipped weights are what the manifest says, and good enough to mean something."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import torch

from bench import BenchError, Budget, ClipRandom
from bench.models.checkpoints import build_classifier, manifest, sha256_of, zoo_file
from bench.procedural import render
from bench.registry import ATTACKS, Spec

MODELS = ["nl_tiny", "slowfast_tiny"]


def test_every_file_matches_the_manifest_and_all_are_small() -> None:
    folder = Path(str(resources.files("bench.zoo")))
    files = {p.name: p for p in folder.glob("*.safetensors")}
    entries = manifest()
    assert set(files) == set(entries)
    assert {e["model"] for e in entries.values()} == set(MODELS)
    for name, entry in entries.items():
        assert entry["sha256"] == sha256_of(files[name])
        assert entry["command"].startswith(f"bench train --model {entry['model']} --dataset {entry['dataset']}")
    assert sum(p.stat().st_size for p in files.values()) < 40e6


@pytest.mark.parametrize("name", MODELS)
def test_shipped_classifiers_are_right_on_clean_clips_and_wrong_under_pgd(name: str) -> None:
    """At least 97 % on held-out clips; at most 10 % under undefended PGD-10, linf 4/255; noise does nothing."""
    model = build_classifier(Spec(name), zoo_file(name, "motion12"))
    rendered = [render("test", i) for i in range(1000, 1216)]  # beyond the clips of the manifest's own figure
    clips, labels = torch.stack([r.clip for r in rendered]), torch.tensor([r.label for r in rendered])
    with torch.no_grad():
        right = torch.cat([model(chunk).argmax(1) for chunk in clips.split(24)]) == labels
    assert right.float().mean() >= 0.97
    few, answers = clips[:24], labels[:24]
    budget, rng = Budget("linf", 4 / 255, steps=10), ClipRandom(range(24))
    for attack, low, high in (("pgd", 0.0, 0.10), ("noise", 0.95, 1.0)):
        adversarial = ATTACKS.create(attack)(model, few, answers, budget, rng).clips
        with torch.no_grad():
            kept = float((model(adversarial).argmax(1) == answers).float().mean())
        assert low <= kept <= high, attack


def test_slowfast_says_which_clip_lengths_it_takes() -> None:
    model = build_classifier(Spec("slowfast_tiny"), None)
    with pytest.raises(BenchError, match="multiple of 4, not 6"):
        model(torch.rand(1, 3, 6, 32, 32))
