"""What a purifying defence asks of a diffusion model, whatever its size and its library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.diffusion.replay import replayed
from bench.diffusion.schedule import scaled_linear
from bench.errors import BenchError
from bench.ranges import clip01


class DiffusionBackbone(nn.Module, ABC):
    """Base class: an encoder, a decoder and a noise predictor.

    Latents are ``(B, C, T, h, w)``, the layout of clips; a model of another layout permutes inside. Pixel-space models
    have clips scaled to ``[-1, 1]`` for latents. Subclasses implement :meth:`encode_frames` and :meth:`decode_frames`
    on frames in ``[-1, 1]`` (:meth:`encode` and :meth:`decode`, which bound the memory, follow from them) and
    :meth:`noise`. Gradients reach clips and latents, not weights: a training calls the networks themselves.

    Attributes:
        per_frame: whether :meth:`noise` treats every frame by itself (an image model) rather than the clip.
        pixel_space: whether encoding loses nothing.
        alphas_cumprod: levels of the training schedule, ``float64 (steps,)``, see :mod:`bench.diffusion.schedule`.
        clean_level: level at which a clean latent stands: where denoising ends and inversion begins. ModelScope and
            Stable Diffusion put it at the first timestep's; with 1 nothing of the noise is left.
        frames_at_once: most frames that are encoded or decoded together.
        size_multiple: frames must be a multiple of this many pixels high and wide.

    Args:
        alphas_cumprod: the schedule; that of ModelScope if not given.
        clean_level: see above; the level of timestep 0 if not given.
    """

    per_frame: ClassVar[bool] = False
    pixel_space: ClassVar[bool] = False
    frames_at_once: int = 64
    size_multiple: int = 1
    alphas_cumprod: Tensor

    def __init__(self, alphas_cumprod: Tensor | None = None, clean_level: float | None = None) -> None:
        super().__init__()
        levels = scaled_linear() if alphas_cumprod is None else alphas_cumprod.double()
        # A plain attribute: a buffer would be rounded with the weights by half() and float().
        self.alphas_cumprod = levels
        self.clean_level = float(levels[0]) if clean_level is None else clean_level
        # In a form that no conversion rounds, the schedule is part of what identifies a model's results.
        bits = torch.cat([levels, levels.new_tensor([self.clean_level])]).view(torch.int64)
        self.register_buffer("schedule_bits", bits, persistent=False)

    @abstractmethod
    def encode_frames(self, frames: Tensor) -> Tensor:
        """Frames ``(N, 3, H, W)`` in ``[-1, 1]`` to latents ``(N, C, h, w)``, deterministic."""

    @abstractmethod
    def decode_frames(self, latents: Tensor) -> Tensor:
        """Latents ``(N, C, h, w)`` to frames ``(N, 3, H, W)`` in about ``[-1, 1]``."""

    @abstractmethod
    def noise(self, latents: Tensor, t: Tensor) -> Tensor:
        """The noise in ``latents (B, C, T, h, w)`` at timesteps ``t``, ``int64 (B,)``."""

    def encode(self, clips: Tensor) -> Tensor:
        """Clips ``float32 (B, 3, T, H, W)`` in ``[0, 1]`` to latents ``(B, C, T, h, w)``; differentiable.

        Raises:
            BenchError: the input is not a batch of RGB clips, or of a frame size the model cannot take.
        """
        if clips.ndim != 5 or clips.shape[1] != 3:
            raise BenchError(f"A diffusion model takes clips of shape (B, 3, T, H, W), not {tuple(clips.shape)}.")
        height, width = clips.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise BenchError(
                f"{type(self).__name__} takes frames whose sides are multiples of {self.size_multiple} pixels, "
                f"not {height}x{width}."
            )
        return self._by_frames(self.encode_frames, 2 * clips - 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, C, T, h, w)`` to clips ``(B, 3, T, H, W)``, clamped to ``[0, 1]``; differentiable."""
        return clip01((self._by_frames(self.decode_frames, latents) + 1) / 2)

    def predict_noise(self, latents: Tensor, t: int | Tensor) -> Tensor:
        """The noise in latents.

        Args:
            latents: ``(B, C, T, h, w)``.
            t: timestep of the training schedule, ``0 .. steps - 1``: one for all clips, or ``int64 (B,)``.

        Returns:
            The shape of ``latents``.

        Raises:
            BenchError: a timestep is outside the schedule.
        """
        times = torch.as_tensor(t, device=latents.device)
        # One number is not asked back from the device, which would have to finish its work first.
        ends = (t, t) if isinstance(t, int) else (int(times.min()), int(times.max()))
        if times.is_floating_point() or ends[0] < 0 or ends[1] >= len(self.alphas_cumprod):
            raise BenchError(f"Timesteps are whole numbers from 0 to {len(self.alphas_cumprod) - 1}, not {t}.")
        return self.noise(latents, times.expand(len(latents)))

    def level(self, t: int) -> float:
        """``abar`` of a timestep; of a negative one, that of a clean latent."""
        return self.clean_level if t < 0 else float(self.alphas_cumprod[t])

    def _levels(self, t: Tensor, like: Tensor) -> Tensor:
        """``abar`` of the timesteps ``(B,)``, shaped to multiply ``like``."""
        levels = self.alphas_cumprod.to(like.device)[t].to(like.dtype)
        return levels.view(-1, *[1] * (like.ndim - 1))

    def _by_frames(self, work: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
        """Applies a function of frames to clips, a bounded number of frames at a time.

        With gradients, each part is computed again on the way back instead of keeping its activations. In pixel space
        there are none to keep.
        """
        frames = clips.transpose(1, 2)
        parts = frames.flatten(0, 1).split(self.frames_at_once)
        done = [work(part) if self.pixel_space else replayed(work, part) for part in parts]
        return torch.cat(done).unflatten(0, frames.shape[:2]).transpose(1, 2)
