"""Picture transforms as tensors against libraries frame by frame: largest difference, and CPU seconds a clip.

Run: ``python benchmarks/transforms.py`` (32 frames of 224x224, one thread). JPEG against Pillow, wavelets and
equalisation against scikit-image, the median against SciPy. The two are timed in turn, A B A B ..., so that the ratio
holds when the machine's speed drifts. With ``--device cuda``, ours runs there, and seconds are those of the clock:
the libraries' count the way to the CPU and back.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import median_filter
from skimage.exposure import equalize_hist
from skimage.restoration import denoise_wavelet
from torch import Tensor

from bench import ClipRandom
from bench.data.procedural import render
from bench.registry import DEFENSES

Picture = Callable[[np.ndarray], np.ndarray]
"""A frame ``(H, W, 3)`` in ``[0, 1]`` to another."""


def pillow(frame: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray((frame * 255 + 0.5).astype(np.uint8)).save(buffer, "JPEG", quality=75, subsampling="4:2:0")
    return np.asarray(Image.open(buffer), dtype=np.float32) / 255


def shrunk(wavelet: str) -> Picture:
    def work(frame: np.ndarray) -> np.ndarray:
        settings = {"sigma": 0.01, "wavelet": wavelet, "mode": "soft", "method": "BayesShrink", "rescale_sigma": True}
        shown: np.ndarray = denoise_wavelet(frame.astype(np.float64), convert2ycbcr=True, channel_axis=-1, **settings)
        return shown.clip(0, 1)

    return work


def by_channel(work: Picture) -> Picture:
    return lambda frame: np.stack([work(frame[..., c].astype(np.float64)) for c in range(3)], -1)


LIBRARIES: dict[str, Picture] = {
    "jpeg": pillow,
    "wavelet": shrunk("db1"),
    "wavelet(wavelet='db2')": shrunk("db2"),
    "equalize": by_channel(equalize_hist),
    "median(size=2)": lambda frame: median_filter(frame, (2, 2, 1), mode="nearest"),
    "median": lambda frame: median_filter(frame, (3, 3, 1), mode="nearest"),
}


def library(work: Picture, clips: Tensor) -> Tensor:
    frames = clips.cpu().permute(0, 2, 3, 4, 1).numpy()  # (B, T, H, W, 3)
    shown = np.stack([[work(frame) for frame in clip] for clip in frames]).astype(np.float32)
    return torch.from_numpy(shown).permute(0, 4, 1, 2, 3).to(clips.device)


def seconds(work: Callable[[], Tensor], device: str) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    begun = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rendered = [render("test", i, frames=chosen.frames, size=chosen.size).clip for i in range(chosen.clips)]
    clips = torch.stack(rendered).to(chosen.device)
    for name, work in LIBRARIES.items():
        defense = DEFENSES.create(name)

        def ours(defense: object = defense) -> Tensor:
            with torch.no_grad():
                return defense.purify(clips, ClipRandom(range(len(clips))))  # type: ignore[attr-defined, no-any-return]

        def theirs(work: Picture = work) -> Tensor:
            return library(work, clips)

        difference = float((ours() - theirs()).abs().max())  # and warm
        times = [(seconds(ours, chosen.device), seconds(theirs, chosen.device)) for _ in range(chosen.rounds)]
        mine, other = (statistics.median(t) / len(clips) for t in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        print(
            f"{name}: ours {mine:.4f} s per clip, library {other:.3f} s, ratio {ratio:.2f}; difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
