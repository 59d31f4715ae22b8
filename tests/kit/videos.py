"""Small videos for tests of data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def write_video(
    path: Path,
    frames: Iterable[np.ndarray[Any, Any]],
    width: int = 64,
    height: int = 48,
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Writes frames ``(H, W, 3)`` as a video, in the container that the file's name asks for.

    Args:
        pixels: the format in which they are coded.
        times: of the frames, in milliseconds; 25 in a second if not given.
        options: of the encoder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Bit-exact: a Matroska file would get a random number otherwise.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(
            codec, rate=25, options=dict({"qmin": "1", "qmax": "2"} if options is None else options)
        )
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def moving(count: int, width: int = 64, height: int = 48) -> list[np.ndarray[Any, Any]]:
    """Frames of which no two are alike: blocks of random colours that move to the right, three pixels at a time."""
    blocks = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    picture = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
    return [np.roll(picture, 3 * i, axis=1) for i in range(count)]
