"""Non-local means against the plain loop."""

from __future__ import annotations

import math

import numpy as np
from kit.draws import draw
from kit.pictures import apply


def test_nonlocal_means_is_the_plain_loop() -> None:
    clips = 0.5 + 0.1 * draw(1, 3, 1, 7, 6)
    found = apply("nonlocal_means(window=5, patch=3, strength='10/255')", clips)
    frame = np.pad(clips[0, :, 0].double().numpy(), ((0, 0), (3, 3), (3, 3)), mode="edge")
    for i, j in np.ndindex(7, 6):
        total, weights = np.zeros(3), 0.0
        for k, m in np.ndindex(5, 5):
            row, column = i + 1 + k, j + 1 + m  # of the other pixel; this one is at i + 3, j + 3
            here = frame[:, i + 2 : i + 5, j + 2 : j + 5]
            there = frame[:, row - 1 : row + 2, column - 1 : column + 2]
            weight = math.exp(-((here - there) ** 2).mean() / (10 / 255) ** 2)
            total, weights = total + weight * frame[:, row, column], weights + weight
        np.testing.assert_allclose(found[0, :, 0, i, j].numpy(), total / weights, rtol=0, atol=1e-6)
