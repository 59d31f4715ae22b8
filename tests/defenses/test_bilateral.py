"""The bilateral filter against the plain loop."""

from __future__ import annotations

import math

import numpy as np
from kit.draws import draw
from kit.pictures import apply


def test_bilateral_is_the_plain_loop() -> None:
    clips = draw(1, 3, 2, 6, 7) * 0.3
    found = apply("bilateral(size=3, sigma_color='25/255', sigma_space=1.5)", clips)
    for t in range(2):
        frame = clips[0, :, t].double().numpy()
        for i, j in np.ndindex(6, 7):
            total, weights = np.zeros(3), 0.0
            for di, dj in np.ndindex(3, 3):
                near = frame[:, min(max(i + di - 1, 0), 5), min(max(j + dj - 1, 0), 6)]
                far, unlike = (di - 1) ** 2 + (dj - 1) ** 2, np.abs(near - frame[:, i, j]).sum()
                weight = math.exp(-far / (2 * 1.5**2) - unlike**2 / (2 * (25 / 255) ** 2))
                total, weights = total + weight * near, weights + weight
            np.testing.assert_allclose(found[0, :, t, i, j].numpy(), total / weights, rtol=0, atol=1e-6)
