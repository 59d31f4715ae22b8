"""Watches over what all cells of a run share: weights, and modes of this process that change numbers.

A defence or an attack that changes either spoils the figures of rows that have nothing to do with it. The guard takes
digests at the start, compares them after every batch, and puts back what was changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Odd multiplier of a linear congruential generator (Knuth, The Art of Computer Programming, vol. 2, table 3.3.4.1).
_FACTOR = 6364136223846793005


@dataclass(frozen=True)
class _Mode:
    """Something of this process that changes numbers: how it is read, and how it is set."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _set_torch(state: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _flag(module: Any, name: str) -> _Mode:
    return _Mode(f"{module.__name__}.{name}", lambda: getattr(module, name), lambda value: setattr(module, name, value))


def _set_numpy(value: tuple[Any, ...]) -> None:
    kind, words, *rest = value
    np.random.set_state((kind, np.frombuffer(words, dtype=np.uint32), *rest))


def _numpy_state() -> tuple[Any, ...]:
    kind, words, *rest = np.random.get_state(legacy=True)
    return (kind, np.asarray(words).tobytes(), *rest)


MODES: tuple[_Mode, ...] = (
    _Mode("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Mode("the default device", lambda: str(torch.get_default_device()), torch.set_default_device),
    _Mode("gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    _Mode("anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    _Mode(
        "deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _set_deterministic,
    ),
    _Mode("the precision of products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _Mode("the number of threads", torch.get_num_threads, torch.set_num_threads),
    *(_flag(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
    _Mode("torch's random state", lambda: torch.get_rng_state().numpy().tobytes(), _set_torch),
    _Mode("NumPy's random state", _numpy_state, _set_numpy),
    _Mode("Python's random state", random.getstate, random.setstate),
)


def _sum_of(tensor: Tensor) -> int:
    """A checksum of a tensor's bits that knows their order, the same on every device.

    In integers that wrap around: no order of addition changes it. It notices mistakes and tampering, but whoever knows
    it could forge it.
    """
    bits = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().contiguous().flatten()
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[bits.element_size()]
    words = bits.view(whole).long()
    total, at = 0, 0
    for part in words.split(1 << 22):  # by parts: eight bytes for each of a large network's would take its memory anew
        place = torch.arange(at, at + len(part), device=part.device)
        total = (total * 31 + int((part * (place * _FACTOR + 1)).sum())) & (2**64 - 1)
        at += len(part)
    return total


def digest_of(network: nn.Module) -> dict[str, tuple[Any, ...]]:
    """What a network computes with, by name: weights and buffers by checksum, layers by kind, mode and hooks."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        found[f"weights {name}"] = (tuple(tensor.shape), str(tensor.dtype), _sum_of(tensor))
    for name, layer in network.named_modules():
        found[f"layer {name}"] = (type(layer).__qualname__, layer.training, _hooks(layer), "forward" in vars(layer))
    return found


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _hooks(layer: nn.Module) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(getattr(layer, name)) for name in _HOOKS)


class _Watched:
    """A network as it was. ``keep`` also keeps its weights, so that they can be put back."""

    def __init__(self, network: nn.Module, keep: bool) -> None:
        self.network, self.digest = network, digest_of(network)
        self._kept = {n: t.detach().cpu().clone() for n, t in _tensors(network).items()} if keep else {}

    def changed(self) -> bool:
        """Whether anything that was there is another now; what came later (a cache, say) does not count."""
        now = digest_of(self.network)
        return any(now.get(name) != value for name, value in self.digest.items())

    def restore(self) -> None:
        """Puts weights, modes and hooks back, where the layers are still there."""
        tensors = _tensors(self.network)
        for name, kept in self._kept.items():
            if name in tensors and tensors[name].shape == kept.shape:
                tensors[name].data.copy_(kept)
        for name, layer in self.network.named_modules():
            known = self.digest.get(f"layer {name}")
            if known is None:
                continue
            _, layer.training, hooks, own = known
            for where, kept_hooks in zip(_HOOKS, hooks, strict=True):
                for key in [k for k in getattr(layer, where) if k not in kept_hooks]:
                    del getattr(layer, where)[key]
            if not own:
                vars(layer).pop("forward", None)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


class Guard:
    """Says whether anything that the cells of a run share was changed since it was made.

    Args:
        classifiers: the bare classifiers, by label. Their weights are kept and put back.
    """

    def __init__(self, classifiers: Mapping[str, nn.Module]) -> None:
        self._classifiers = {label: _Watched(network, keep=True) for label, network in classifiers.items()}
        self._defended: dict[int, _Watched] = {}
        self._modes = self._read()

    @staticmethod
    def _read() -> dict[str, Any]:
        return {mode.name: mode.read() for mode in MODES}

    def begin(self, networks: Iterable[nn.Module]) -> None:
        """Also watches over some networks, from now on; and takes the modes as they are now."""
        for network in networks:
            # The watched one is held, so no other object can get its number.
            self._defended.setdefault(id(network), _Watched(network, keep=False))
        self._modes = self._read()

    def complaint(self, networks: Iterable[nn.Module]) -> str | None:
        """What was changed since, in words; ``None`` if nothing was. Puts back what it can.

        Args:
            networks: of those given to :meth:`begin`, the ones that were at work.
        """
        changed = []
        for label, watched in self._classifiers.items():
            if watched.changed():
                changed.append(f"the weights of classifier {label}")
                watched.restore()
        now = self._read()
        for mode in MODES:
            if now[mode.name] != self._modes[mode.name]:
                changed.append(mode.name)
                mode.write(self._modes[mode.name])
        if not changed and any(self._defended[id(network)].changed() for network in networks):
            changed.append("its own weights")
        return ", ".join(changed) if changed else None
