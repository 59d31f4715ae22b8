"""Questions to a bare classifier before the work: whether it fits, and what it is beyond its answers.

Whoever asks a network by itself asks it here: it gets a copy of the clips, and the random generators are put back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.base import ClipRef, Dataset, MissingClip
from bench.defense.nature import PLAIN, Nature, drawing_from
from bench.errors import BenchError
from bench.modes import computing

# Logits of unit length that differ by more than this are different answers (AutoAttack's threshold).
_SAME = 1e-4


@torch.no_grad()
def ask(network: nn.Module, clips: Tensor, device: torch.device, seed: int = 0) -> Any:
    """What a network answers to clips ``(B, 3, T, H, W)``, whatever that is; it may work in place on its copy.

    Args:
        seed: of the global random generators, from which a network may draw.
    """
    with drawing_from(seed), computing("fp32", device):
        return network.to(device)(clips.clone().to(device))


def first_clip(dataset: Dataset, refs: Iterable[ClipRef]) -> Tensor | None:
    """The first clip that can be read, ``(3, T, H, W)``; of the others, the outcomes say why they cannot."""
    for ref in refs:
        try:
            return dataset.load(ref)
        except (BenchError, MissingClip, OSError, RuntimeError, ValueError):
            continue
    return None


def nature_of(network: nn.Module, clip: Tensor, device: torch.device) -> Nature:
    """What a classifier shows to be when it is asked about one clip twice, and once beside another one.

    A network that says ``stochastic = True`` is believed. Others are put in evaluation mode; their buffers are put
    back. Of one that raises, or answers no logits, nothing is said here: :func:`check` says what is wrong with it.

    Args:
        clip: ``(3, T, H, W)``.
    """
    if getattr(network, "stochastic", False) is True:
        return Nature(random=True)
    network.eval()
    kept = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        first, second = (_logits(network, clip[None], device, seed) for seed in (0, 1))
        if first is None or second is None:
            return PLAIN
        if not same_answers(first, second):
            return Nature(random=True)
        both = _logits(network, torch.stack([clip, 1 - clip]), device, 0)
        return Nature(alone=both is None or not same_answers(first, both[:1]))
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


def _logits(network: nn.Module, clips: Tensor, device: torch.device, seed: int) -> Tensor | None:
    try:
        answer = ask(network, clips, device, seed)
    except Exception:  # noqa: BLE001 - whatever it is, `check` or the outcomes have it
        return None
    fits = isinstance(answer, Tensor) and answer.ndim == 2 and len(answer) == len(clips)
    return answer.detach().double().cpu() if fits else None


def same_answers(one: Tensor, other: Tensor) -> bool:
    """Whether logits ``(b, K)`` are the same up to rounding; infinities must be in the same places."""
    if not torch.equal(one.isfinite(), other.isfinite()):
        return False
    one, other = (x.nan_to_num(0.0, 0.0, 0.0) for x in (one, other))
    one, other = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-12) for x in (one, other))
    return bool(((one - other).abs() <= _SAME).all())


def in_words(label: str, network: nn.Module, nature: Nature) -> list[str]:
    """What to say of a classifier that is not what networks are taken for; nothing of one that says so itself."""
    if nature.random and getattr(network, "stochastic", False) is not True:
        return [
            f"{label}: the network answers the same clip differently when it is asked again (dropout that is always "
            "on?) and does not say so. It is treated as random: asked clip by clip, on draws that the seed decides, "
            "and several times when it is judged. Write stochastic = True in its class, or make it deterministic."
        ]
    if nature.alone:
        return [
            f"{label}: the answer to a clip depends on the other clips of its batch (normalisation layers without "
            "running statistics?), or it takes one at a time. Every clip is asked alone, as by a batch size of 1."
        ]
    return []


def check(network: nn.Module, label: str, clip: Tensor, device: torch.device, needed: int, classes: int) -> None:
    """Asks a classifier once, so that a misfit is one sentence before the work and not an error per clip.

    Args:
        label: what to call the classifier.
        clip: ``(3, T, H, W)``.
        needed: number of classes that the labels of the clips need.
        classes: number of classes of the data set; 0 if nobody knows.

    Raises:
        BenchError: it raises, returns no logits ``(1, K)`` of at least two classes, or has too few. More are allowed:
            the published classifiers of UCF-101 have 400.
    """
    try:
        logits = ask(network, clip[None], device)
    except Exception as error:
        raise BenchError(
            f"Classifier {label} cannot take clips of shape {(1, *clip.shape)}: {type(error).__name__}: {error}"
            f"{_precision(network)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1 or not logits.is_floating_point():
        returned = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        if isinstance(logits, Tensor) and not logits.is_floating_point():
            returned += f" of {logits.dtype}"
        raise BenchError(
            f"Classifier {label} must return logits of shape (1, K) for one clip, but returned {returned}."
        )
    if logits.shape[1] < 2:
        raise BenchError(
            f"Classifier {label} returns one number per clip, and logits are one per class: if it is z, the log-odds "
            "of class 1 before a sigmoid, return torch.cat([-z, z], 1) / 2."
        )
    if logits.shape[1] < needed:
        raise BenchError(
            f"Classifier {label} has {logits.shape[1]} classes, but the labels go up to {needed - 1}: give labels "
            f"in 0 .. {logits.shape[1] - 1}, or a classifier of this data set."
        )
    if logits.shape[1] < classes:
        raise BenchError(
            f"Classifier {label} has {logits.shape[1]} classes, but the data set has {classes}: give a classifier, "
            "or a checkpoint, of this data set."
        )


def _precision(network: nn.Module) -> str:
    """What to do about weights of another precision than the clips have, if there are any."""
    others = {str(p.dtype) for p in network.parameters() if p.is_floating_point() and p.dtype != torch.float32}
    if not others:
        return ""
    return f" (clips are float32, its weights {', '.join(sorted(others))}: give model.float(), or convert them inside)"
