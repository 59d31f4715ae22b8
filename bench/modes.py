"""Modes of this process that the code around may have set, and on which nothing of ours may depend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

from bench.errors import BenchError

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "tf32", "bf16"]
"""In which numbers networks compute: ``float32``; ``float32`` whose products are rounded to TensorFloat-32 (10 bits of
mantissa) where the device can; or ``bfloat16`` by PyTorch's automatic mixed precision."""


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Tensors whose dtype nobody names are float32 inside, as networks that take clips have to be."""
    import torch  # the registry, which lists names in no time, uses this

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_precision(precision: str, device: str | None = None) -> None:
    """Raises :class:`BenchError` if there is no such precision, or not on a kind of device, ``cpu`` or ``cuda``."""
    if precision not in get_args(Precision):
        raise BenchError(f"Unknown precision {precision!r}: choose fp32, tf32 or bf16.")
    if precision == "tf32" and device == "cpu":
        raise BenchError("tf32 is a way of NVIDIA GPUs to multiply: on a CPU choose fp32 or bf16.")


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Networks compute in that precision inside; tensors that are made stay ``float32``.

    In ``fp32`` nothing is rounded to TensorFloat-32, which PyTorch does in convolutions unless it is told not to, and
    automatic mixed precision that the caller may have set is off.
    """
    import torch

    matrices, convolutions = torch.get_float32_matmul_precision(), _convolutions()
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        # The flag, and not the words for one kind of operation each, which PyTorch refuses to read as a flag again.
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(matrices)
        for owner, name, before in convolutions:
            setattr(owner, name, before)


def _convolutions() -> list[tuple[Any, str, Any]]:
    """How cuDNN multiplies ``float32``, and where that is said: by a flag or, where somebody has set single kinds of
    operations (PyTorch 2.9 and later), so that the flag cannot be read, by words."""
    import torch

    cudnn: Any = torch.backends.cudnn

    try:
        return [(cudnn, "allow_tf32", cudnn.allow_tf32)]
    except RuntimeError:
        return [(part, "fp32_precision", part.fp32_precision) for part in (cudnn.conv, cudnn.rnn)]
