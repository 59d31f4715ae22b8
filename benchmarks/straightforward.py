"""The four purifiers of VideoPure computed the plain way: one clip, doubled prompts, frame by frame, autograd.

An independent computation to hold ours against, in values and in time. It takes diffusers' schedulers for the steps,
and shares nothing with the package but the weights and the flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

TIMES = (101, 81, 61, 41, 21, 1)


class Straightforward:
    """The networks of a text-to-video pipeline and the steps that VideoPure's four purifiers are made of.

    Args:
        autoencoder, denoiser: diffusers' networks.
        prompt: embedding of the empty prompt, ``(1, tokens, width)``.
        schedule: configuration of the scheduler.
    """

    def __init__(self, autoencoder: Any, denoiser: Any, prompt: Tensor, schedule: dict[str, Any]) -> None:
        self.autoencoder, self.denoiser, self.prompt = autoencoder, denoiser, prompt
        self.ddim = DDIMScheduler(**schedule)
        self.ddim.set_timesteps(50)
        # Without the offset, or the step from t=1 would go to -1 instead of 0.
        self.ddpm = DDPMScheduler(
            **{k: v for k, v in schedule.items() if k not in ("set_alpha_to_one", "steps_offset")}
        )
        self.ddpm.set_timesteps(1000)
        self.abar = self.ddim.alphas_cumprod

    def encode(self, clip: Tensor) -> Tensor:
        """``(3, T, H, W)`` to ``(1, 4, T, h, w)``, one frame at a time."""
        codes = [self.autoencoder.encode(2 * f[None] - 1).latent_dist.mean for f in clip.unbind(1)]
        return torch.stack(codes, 2) * 0.18215

    def decode(self, latents: Tensor) -> Tensor:
        """``(1, 4, T, h, w)`` to ``(3, T, H, W)``, one frame at a time."""
        frames = [self.autoencoder.decode(f / 0.18215).sample[0] for f in latents.unbind(2)]
        return (torch.stack(frames, 1) * 0.5 + 0.5).clamp(0, 1)

    def noise(self, z: Tensor, t: int, guidance: float) -> Tensor:
        """Classifier-free guidance with two empty prompts."""
        both = self.denoiser(torch.cat([z, z]), t, encoder_hidden_states=torch.cat([self.prompt] * 2)).sample
        plain, prompted = both.chunk(2)
        return plain + guidance * (prompted - plain)

    def invert(self, z: Tensor, *, share_first: bool) -> Tensor:
        before = self.ddim.final_alpha_cumprod
        for t in reversed(TIMES):
            e = self.noise(z, t, 7.5)
            if share_first:
                e = e[:, :, :1].repeat(1, 1, e.shape[2], 1, 1)
            after = self.abar[t]
            z = after.sqrt() * (z - (1 - before).sqrt() * e) / before.sqrt() + (1 - after).sqrt() * e
            before = after
        return z

    def ddim_inversion(self, clip: Tensor) -> Tensor:
        z = self.invert(self.encode(clip), share_first=False)
        for t in TIMES:
            z = self.ddim.step(self.noise(z, t, 9.0), t, z).prev_sample
        return self.decode(z)

    def diffpure_ddim(self, clip: Tensor, noise: Tensor) -> Tensor:
        z = self.ddim.add_noise(self.encode(clip), noise, torch.tensor([101]))
        for t in TIMES:
            z = self.ddim.step(self.noise(z, t, 9.0), t, z).prev_sample
        return self.decode(z)

    def diffpure_ddpm(self, clip: Tensor, noises: Sequence[Tensor]) -> Tensor:
        """``noises``: one for the start and one for each of the 101 steps."""
        fresh = iter(noises)
        z = self.ddpm.add_noise(self.encode(clip), next(fresh), torch.tensor([101]))
        for t in range(101, 0, -1):
            drawn = next(fresh)
            with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, d=drawn, **__: d):
                z = self.ddpm.step(self.noise(z, t, 9.0), t, z).prev_sample
        return self.decode(z)

    def videopure(self, clip: Tensor, flow: Tensor) -> Tensor:
        """The seven candidates ``(7, 3, T, H, W)`` of the authors' code; ``flow (T-1, 2, H, W)``."""
        z0 = self.encode(clip)
        small = F.interpolate(flow, scale_factor=1 / 8, mode="bilinear", align_corners=False) / 8
        z = self.invert(z0, share_first=True)
        votes = []
        for t in TIMES:
            e = self.noise(z, t, 9.0)
            votes.append(self.estimate(self.moved(z, e, t, z0, small), e, t))
            z = self.ddim.step(e, t, z).prev_sample
        votes.append(self.moved(z, e, 1, z0, small))  # moved as a latent of t=1, with its noise, and decoded as it is
        return torch.stack([self.decode(v) for v in votes])

    def estimate(self, z: Tensor, e: Tensor, t: int) -> Tensor:
        """The clean latent that belongs to a latent of timestep ``t`` whose noise is ``e``."""
        return (z - (1 - self.abar[t]).sqrt() * e) / self.abar[t].sqrt()

    def moved(self, z: Tensor, e: Tensor, t: int, z0: Tensor, flow: Tensor) -> Tensor:
        """``z' = z - a_s sigma_t^2 dL/dz``, a_s = -4: one step of the latent against the losses of its estimate."""
        a, before = self.abar[t], self.abar[t - 20] if t > 20 else self.ddim.final_alpha_cumprod
        sigma2 = ((1 - before) / (1 - a) * (1 - a / before)).clamp(min=1e-20).log()
        with torch.enable_grad():
            leaf = z.detach().clone().requires_grad_(True)
            estimate = self.estimate(leaf, e, t)
            frames = estimate[0].transpose(0, 1)
            temporal = sum(
                (self.warped(frames[i + 1].detach(), flow[i]) - frames[i]).abs().mean() for i in range(len(flow))
            )
            loss = 5 * temporal - 800 * F.mse_loss(estimate, z0)
            (gradient,) = torch.autograd.grad(loss, leaf)
        return z + 4 * sigma2 * gradient

    @staticmethod
    def warped(frame: Tensor, flow: Tensor) -> Tensor:
        """``frame (C, h, w)`` looked up at ``p + flow(p)``, bilinear, zero outside, pixel by pixel."""
        _, height, width = frame.shape
        padded = F.pad(frame, (1, 1, 1, 1))
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        px = (x + flow[0]).clamp(-1, width) + 1
        py = (y + flow[1]).clamp(-1, height) + 1
        left, top = px.floor().clamp(max=width).long(), py.floor().clamp(max=height).long()
        fx, fy = px - left, py - top
        found = torch.zeros_like(frame)
        for right, share_x in ((0, 1 - fx), (1, fx)):
            for below, share_y in ((0, 1 - fy), (1, fy)):
                found += padded[:, top + below, left + right] * share_x * share_y
        return found
