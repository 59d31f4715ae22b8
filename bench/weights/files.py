"""Reading weights safely, and saying clearly what does not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.errors import BenchError

# What reading a file that is no checkpoint raises; the unpickler trips over garbage in many ways.
UNREADABLE = (
    SafetensorError,
    UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    IndexError,
    KeyError,
    AttributeError,
    TypeError,
)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """Reads a flat state dict from ``.safetensors`` or, without running any code, from a PyTorch file.

    A ``{'state_dict': ...}`` wrapper and ``module.`` prefixes (of data-parallel training) are removed.

    Raises:
        BenchError: the file is absent, unreadable, unsafe, or holds no state dict.
    """
    return load_with_arch(path)[0]


def load_with_arch(path: Path) -> tuple[dict[str, Tensor], str]:
    """As :func:`load_checkpoint`, with the ``arch`` that stands beside ``state_dict``: the network's name, or empty."""
    if not path.is_file():
        raise BenchError(f"There is no checkpoint at {path}; check the path given with --checkpoint.")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BenchError(
            f"Cannot read the checkpoint {path}: {reason} (only safetensors files and PyTorch files of "
            "plain tensors are loaded)."
        ) from error
    arch = ""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        arch, content = str(content.get("arch") or ""), content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise BenchError(f"The checkpoint {path} holds no state dict: expected parameter names and tensors.")
    return {str(k).removeprefix("module."): v for k, v in content.items()}, arch


def _some(keys: Iterable[str], limit: int = 5) -> str:
    listed = sorted(keys)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads a state dict that must fit exactly; counters of batch norm may be absent (old PyTorch).

    Raises:
        BenchError: names the first missing, unexpected or differently shaped keys.
    """
    own = network.state_dict()
    missing = {k for k in own.keys() - state.keys() if not k.endswith("num_batches_tracked")}
    unexpected = state.keys() - own.keys()
    shapes = {k for k in own.keys() & state.keys() if own[k].shape != state[k].shape}
    problems = []
    if missing:
        problems.append(f"missing keys: {_some(missing)}")
    if unexpected:
        problems.append(f"unexpected keys: {_some(unexpected)}")
    if shapes:
        problems.append(
            "other shapes: "
            + _some(f"{k} (file {tuple(state[k].shape)}, network {tuple(own[k].shape)})" for k in shapes)
        )
    if problems:
        raise BenchError(
            f"The checkpoint {path} is not for {type(network).__name__}: {'; '.join(problems)}. "
            "Give the checkpoint of this architecture."
        )
    network.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=False)


def fingerprint(network: nn.Module) -> str:
    """Digest of all parameters and buffers, those that checkpoints leave out included: two classifiers with other
    weights or other normalisation are never confused."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*network.named_parameters(), *network.named_buffers()]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
