"""The network that was really pretrained, on pictures of known things."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from torch import Tensor

from bench import BenchError
from bench.data.base import Missing
from bench.registry import MODELS, Spec
from bench.weights.zoo import PACKAGED, build_classifier, find_weights

SPEC = Spec("efficientnet_lite0")
CATS = range(281, 286)  # ImageNet's five domestic cats
CUPS = (504, 967, 968)  # coffee mug, espresso, cup


def picture(name: str) -> Tensor:
    """One of scikit-image's own pictures as a frame ``(3, 224, 224)`` in ``[0, 1]``, its middle."""
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        square = min(image.size)
        left, top = ((side - square) // 2 for side in image.size)
        frame = image.convert("RGB").crop((left, top, left + square, top + square)).resize((224, 224))
    return torch.from_numpy(np.asarray(frame).copy()).permute(2, 0, 1) / 255


def test_it_knows_a_cat_and_a_cup() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'videorobustbench[pretrained]'")
    weights = find_weights(SPEC, "folder", None, None)
    if isinstance(weights, Missing):
        pytest.skip(weights.get)
    network = build_classifier(SPEC, weights)
    cat, cup = picture("chelsea.png"), picture("coffee.png")
    clips = torch.stack([torch.stack([cat, cat], 1), torch.stack([cup, cup], 1), torch.stack([cat, cup], 1)])
    with torch.no_grad():
        logits = network(clips)
    assert logits.shape == (3, 1000)
    assert int(logits[0].argmax()) in CATS
    assert int(logits[1].argmax()) in CUPS
    # Logits of frames are averaged.
    torch.testing.assert_close(logits[2], (logits[0] + logits[1]) / 2, rtol=1e-4, atol=1e-4)


def test_without_its_packages_a_sentence_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(BenchError, match=r"pip install 'videorobustbench\[pretrained\]'"):
        MODELS.create(SPEC)
    package, _, absent = PACKAGED[SPEC.name]
    monkeypatch.setitem(PACKAGED, SPEC.name, (f"no_{package}", "weights.pth", absent))
    missing = find_weights(SPEC, "folder", None, None)
    assert isinstance(missing, Missing)
    assert missing.get == "pip install 'videorobustbench[pretrained]'"
