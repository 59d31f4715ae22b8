"""What makes a classifier of the benchmark out of any network: sampling, resizing, normalising, another layout."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import BenchError, nearest
from bench.models.resnet2d import over_frames

LAYOUTS = ("BCTHW", "BTCHW", "frames", "pathways")
OUTPUTS = ("logits", "probabilities")


class Wrapped(nn.Module):
    """A network that takes clips ``float32 (B, 3, T, H, W)`` in ``[0, 1]``, whatever the one inside takes.

    Frames are sampled first: ``frames`` of them, evenly spread from the first to the last, repeated if the clip has
    fewer. A clip whose height and width are ``size`` is taken as it is; the shorter side of another is resized to
    ``resize`` and its middle cut out. Then colours are normalised. Gradients pass through all of it.

    Args:
        network: the one inside; its state dict is what a checkpoint holds.
        mean, std: per channel, RGB, in units of ``[0, 1]`` intensities.
        size: side that the network wants, or height and width, in pixels; any if not given.
        resize: the shorter side before the cut, or both sides; ``size`` if not given.
        frames: that the network wants; any if not given.
        layout: ``BCTHW``, ``BTCHW``, ``frames`` (an image network, asked about each frame; logits are averaged) or
            ``pathways`` (a list of a slow and a fast clip).
        output: ``logits``, or ``probabilities``, whose logarithm is taken.
        alpha: frame-rate ratio of the pathways.
        interpolation: ``bilinear`` or ``bicubic``.
        antialias: whether resizing to fewer pixels smooths first.
        keyword: name under which the network takes the clip; by position if empty.

    Raises:
        BenchError: a setting means nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        size: int | Sequence[int] | None = None,
        resize: int | Sequence[int] | None = None,
        frames: int | None = None,
        layout: str = "BCTHW",
        output: str = "logits",
        alpha: int = 4,
        interpolation: str = "bilinear",
        antialias: bool = True,
        keyword: str = "",
    ) -> None:
        super().__init__()
        for what, given, known in (
            ("layout", layout, LAYOUTS),
            ("output", output, OUTPUTS),
            ("interpolation", interpolation, ("bilinear", "bicubic")),
        ):
            if given not in known:
                raise BenchError(f"wrap: {what} must be one of {', '.join(known)}, not {given!r}.")
        if frames is not None and (not isinstance(frames, int) or frames < 1):
            raise BenchError(f"wrap: frames must be a positive whole number, not {frames!r}.")
        self.network = network
        self.register_buffer("mean", _channels("mean", mean), persistent=False)
        self.register_buffer("std", _channels("std", std), persistent=False)
        if not bool((self.std > 0).all()):
            raise BenchError(f"wrap: std must be positive, not {std!r}.")
        self.size, self.resize = _sides("size", size), _sides("resize", resize, shorter=True) or _sides("size", size)
        self.frames, self.layout, self.output, self.alpha = frames, layout, output, alpha
        self.interpolation, self.antialias, self.keyword = interpolation, antialias, keyword

    @property
    def wrapped_network(self) -> nn.Module:
        """The network whose weights a checkpoint holds."""
        return self.network

    def prepared(self, clips: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` in ``[0, 1]`` as the network wants them, ``(B, 3, T', H', W')``."""
        if clips.ndim != 5 or clips.shape[1] != 3:
            raise BenchError(f"A classifier takes clips of shape (B, 3, T, H, W), not {tuple(clips.shape)}.")
        if self.frames is not None and clips.shape[2] != self.frames:
            clips = clips.index_select(2, _spread(clips.shape[2], self.frames, clips.device))
        if self.size is not None and tuple(clips.shape[3:]) != self.size:
            clips = self._cut(clips)
        return (clips - self.mean) / self.std

    def _cut(self, clips: Tensor) -> Tensor:
        assert self.size is not None
        assert self.resize is not None
        batch, colours, time, height, width = clips.shape
        if len(self.resize) == 1:  # the longer side is rounded down, as torchvision does
            side, least = self.resize[0], min(height, width)
            sides = (int(side * height / least), int(side * width / least))
        else:
            sides = (self.resize[0], self.resize[1])
        images = clips.transpose(1, 2).reshape(batch * time, colours, height, width)
        if sides != (height, width):
            images = functional.interpolate(images, sides, mode=self.interpolation, antialias=self.antialias)
        top, left = (round((have - want) / 2) for have, want in zip(sides, self.size, strict=True))
        images = images[:, :, top : top + self.size[0], left : left + self.size[1]]
        return images.reshape(batch, time, colours, *self.size).transpose(1, 2)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``float32 (B, 3, T, H, W)`` in ``[0, 1]`` to logits ``(B, K)``."""
        shown = self.prepared(clips)
        if self.layout == "frames":
            return over_frames(self._asked, shown)
        if self.layout == "pathways":
            time = shown.shape[2]
            slow = torch.linspace(0, time - 1, time // self.alpha, device=shown.device).long()
            return self._asked([shown.index_select(2, slow), shown])
        return self._asked(shown.transpose(1, 2) if self.layout == "BTCHW" else shown)

    def _asked(self, shown: Tensor | list[Tensor]) -> Tensor:
        answer: Any = self.network(**{self.keyword: shown}) if self.keyword else self.network(shown)
        if isinstance(answer, Mapping) or hasattr(answer, "logits"):
            answer = answer["logits"] if isinstance(answer, Mapping) else answer.logits
        elif isinstance(answer, tuple | list):
            answer = answer[0]
        if not isinstance(answer, Tensor):
            raise BenchError(f"The network puts out a {type(answer).__name__}, and no tensor of logits.")
        return answer.clamp_min(1e-12).log() if self.output == "probabilities" else answer


def _spread(have: int, want: int, device: torch.device) -> Tensor:
    return torch.linspace(0, have - 1, want, device=device).round().long()


def _channels(what: str, values: Any) -> Tensor:
    try:
        found = torch.tensor([float(v) for v in values])
    except (TypeError, ValueError) as error:
        raise BenchError(f"wrap: {what} must be three numbers, not {values!r}.") from error
    if len(found) != 3:
        raise BenchError(f"wrap: {what} must be three numbers, not {values!r}.")
    return found.view(1, 3, 1, 1, 1)


def _sides(what: str, value: Any, *, shorter: bool = False) -> tuple[int, ...] | None:
    """Height and width; of one number a square, or itself alone where it means the shorter side."""
    if value is None:
        return None
    sides = list(value) if isinstance(value, list | tuple) else [value] if shorter else [value, value]
    if len(sides) > 2 or not sides or any(not isinstance(s, int) or s < 1 for s in sides):
        raise BenchError(f"wrap: {what} must be a positive whole number or two, not {value!r}.")
    return tuple(sides) if shorter or len(sides) == 2 else (sides[0], sides[0])


SETTINGS = tuple(p for p in inspect.signature(Wrapped).parameters if p != "network")


def wrap(network: Any, settings: Any) -> Wrapped:
    """A network with settings of :class:`Wrapped`; of one that is wrapped, only those that are given change.

    Raises:
        BenchError: it is no network, or there is no such setting.
    """
    if not isinstance(network, nn.Module):
        raise BenchError(f"wrap: a torch.nn.Module is wrapped, and not a {type(network).__name__}.")
    if not isinstance(settings, Mapping):
        raise BenchError(f"wrap: settings are written {{mean: ..., std: ..., size: ...}}, not {settings!r}.")
    for key in settings:
        if key not in SETTINGS:
            raise BenchError(
                f"wrap: there is no setting {key!r}{nearest(key, SETTINGS)}; settings: {', '.join(SETTINGS)}."
            )
    if not isinstance(network, Wrapped):
        return Wrapped(network, **settings)
    known = {name: getattr(network, name) for name in SETTINGS}
    known |= {name: known[name].flatten().tolist() for name in ("mean", "std")}
    if "size" in settings:
        known["resize"] = None
    return Wrapped(network.network, **{**known, **settings})


Factory = Callable[..., Wrapped]
