"""Clips as files that a browser shows: a video that plays everywhere, and a strip of frames that has lost nothing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.utils import flow_to_image

from bench.flow.estimators import load_flow

FRAMES_PER_SECOND = 8
# Small frames are shown large: an encoder leaves less of what changes from pixel to pixel in small ones.
_LEAST_SIDE = 192

Frames = NDArray[np.uint8]


def as_frames(clip: Tensor) -> Frames:
    """A clip ``(3, T, H, W)`` with values in [0, 1] as frames ``(T, H, W, 3)`` of 8 bits; what leaves the range, or is
    not finite, is put to its end."""
    values = clip.detach().cpu().nan_to_num().clamp(0, 1).mul(255).round()
    return np.ascontiguousarray(values.numpy().astype(np.uint8).transpose(1, 2, 3, 0))


@torch.no_grad()
def flows(clips: Tensor) -> list[Frames]:
    """Optical flow of clips ``(B, 3, T, H, W)`` in the colours of the wheel, each ``(T, H, W, 3)``: hue is direction,
    and full colour the fastest motion in any of the clips. The last frame is there twice, so that there are as many.

    The shipped estimator sees it. Source of the colours: Baker, Scharstein, Lewis, Roth, Black and Szeliski, A Database
    and Evaluation Methodology for Optical Flow, IJCV 2011.
    """
    if clips.shape[2] < 2:
        return []
    height, width = clips.shape[-2:]
    # The estimator halves frames a few times.
    padded = torch.nn.functional.pad(clips.nan_to_num().flatten(1, 2), (0, -width % 8, 0, -height % 8), "replicate")
    flow = load_flow().clip_flow(padded.unflatten(1, clips.shape[1:3]))[..., :height, :width]
    flow = torch.cat([flow, flow[:, :, -1:]], dim=2)
    pictures = flow_to_image(flow.transpose(1, 2).flatten(0, 1)).permute(0, 2, 3, 1)
    return [np.ascontiguousarray(clip.numpy()) for clip in pictures.unflatten(0, (len(clips), -1))]


def wheel(side: int = 96) -> Frames:
    """The colours of :func:`flows` by direction and speed, ``(1, side, side, 3)``: a disc on white."""
    x = torch.linspace(-1, 1, side)
    flow = torch.stack([x.expand(side, side), x[:, None].expand(side, side)])
    outside = flow.norm(dim=0) > 1
    picture = flow_to_image(flow.masked_fill(outside, 0.0)).permute(1, 2, 0)
    return np.ascontiguousarray(picture.masked_fill(outside[..., None], 255).numpy()[None])


def write_video(path: Path, frames: Frames) -> None:
    """Writes frames ``(T, H, W, 3)`` as H.264 in MP4, which Chromium, Firefox and Safari play; the same frames are the
    same bytes.

    Each frame can be jumped to: all are whole. Colours are halved in both directions, as browsers want it, after frames
    were enlarged by a whole number.
    """
    enlarged = _enlarged(frames)
    height, width = enlarged.shape[1:3]
    with av.open(str(path), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = width - width % 2, height - height % 2, "yuv420p"
        stream.codec_context.gop_size = 1
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, FRAMES_PER_SECOND)
        stream.options = {"crf": "12", "preset": "medium", "x264-params": "threads=1"}
        for image in enlarged[:, : stream.height, : stream.width]:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _enlarged(frames: Frames) -> Frames:
    times = max(1, -(-_LEAST_SIDE // min(frames.shape[1:3])))
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def write_strip(path: Path, frames: Frames) -> None:
    """Writes all frames side by side as PNG, 8 bits a value and nothing lost."""
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(path, optimize=True)
