"""Reading weights safely, and saying clearly what does not fit."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.weights.reading import read_plain, some, state_dict_of

_HALF = (torch.float16, torch.bfloat16)
# Far more than any data set of videos has; a final layer of more is none, and takes all memory.
_MOST_CLASSES = 50_000


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """Reads a flat state dict from ``.safetensors`` or, without running any code, from a PyTorch file.

    What training scripts wrap around it, and put before its names, is removed: :func:`state_dict_of`.

    Warns:
        UserWarning: the weights are of half precision, and nothing beside them says so.

    Raises:
        BenchError: the file is absent, unreadable, unsafe, or holds no state dict, or one that nobody can use.
    """
    return load_with_arch(path)[0]


def load_with_arch(path: Path) -> tuple[dict[str, Tensor], str]:
    """As :func:`load_checkpoint`, with the ``arch`` that stands beside ``state_dict``: the network's name, or empty."""
    state, arch = state_dict_of(read_plain(path), path)
    half = sorted({str(v.dtype).removeprefix("torch.") for v in state.values() if v.dtype in _HALF})
    # A folder with a manifest is what `bench train` makes, which says there that it writes half precision.
    if half and not (path.parent / "manifest.json").is_file():
        warnings.warn(
            f"The checkpoint {path} holds weights of half precision ({', '.join(half)}); they are converted to that of "
            "the network, float32 unless it says otherwise.",
            stacklevel=2,
        )
    return state, arch


def rows_of(state: Mapping[str, Tensor], key: str, otherwise: int, path: Path) -> int:
    """Classes that a checkpoint's final layer has, for a network that is to be made for it.

    Args:
        key: of the layer's weights.
        otherwise: the number if they are not there; loading says so later.

    Raises:
        BenchError: no classifier has so many, or it is no layer at all.
    """
    if key not in state:
        return otherwise
    weight = state[key]
    if weight.ndim < 1 or not 0 < len(weight) <= _MOST_CLASSES:
        raise BenchError(
            f"The checkpoint {path} is of no classifier: its {key} has the shape {tuple(weight.shape)}, and one row "
            f"per class, at most {_MOST_CLASSES}, is expected."
        )
    return len(weight)


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads a state dict that must fit exactly; counters of batch norm may be absent (old PyTorch).

    Floats of another precision are converted; nothing else is.

    Raises:
        BenchError: names the first missing, unexpected, differently shaped or otherwise stored keys.
    """
    own = network.state_dict()
    missing = {k for k in own.keys() - state.keys() if not k.endswith("num_batches_tracked")}
    unexpected = state.keys() - own.keys()
    shapes = {k for k in own.keys() & state.keys() if own[k].shape != state[k].shape}
    kinds = {k for k in own.keys() & state.keys() - shapes if not _means_the_same(state[k], own[k].dtype)}
    problems = []
    if missing:
        problems.append(f"missing keys: {some(missing)}")
    if unexpected:
        problems.append(f"unexpected keys: {some(unexpected)}")
    if shapes:
        problems.append(
            "other shapes: "
            + some(f"{k} (file {tuple(state[k].shape)}, network {tuple(own[k].shape)})" for k in shapes)
        )
    if kinds:
        listed = (f"{k} (file {state[k].dtype}, network {own[k].dtype})" for k in kinds)
        problems.append(f"other numbers, which would be loaded unscaled or rounded: {some(listed)}")
    if problems:
        raise BenchError(
            f"The checkpoint {path} is not for {type(network).__name__}: {'; '.join(problems)}. "
            f"{_advice(own, state, bool(kinds))}"
        )
    network.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=False)


def _means_the_same(stored: Tensor, wanted: torch.dtype) -> bool:
    """Whether stored values are still what they were in another dtype, up to the precision of floats."""
    if stored.dtype == wanted:
        return True
    if wanted.is_floating_point:
        # Large doubles have no float32.
        return stored.is_floating_point() and torch.equal(stored.to(wanted).isinf(), stored.isinf())
    return torch.equal(stored.to(wanted).to(stored.dtype), stored)  # counters may have become floats


def _advice(own: Mapping[str, Tensor], state: Mapping[str, Tensor], other_numbers: bool) -> str:
    if other_numbers:
        return "Give the float weights of this architecture."
    first = {key.partition(".")[0] for key in state}
    if len(first) == 1 and {key.partition(".")[2] for key in state} >= {k for k in own if "num_batches" not in k}:
        (prefix,) = first
        return f"All its names begin with '{prefix}.': save the weights of model.{prefix} alone."
    return "Give the checkpoint of this architecture."


def fingerprint(network: nn.Module) -> str:
    """Digest of all parameters and buffers, those that checkpoints leave out included: two classifiers with other
    weights or other normalisation are never confused."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*network.named_parameters(), *network.named_buffers()]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
