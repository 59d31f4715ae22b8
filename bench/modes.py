"""Modes of this process that the code around may have set, and on which nothing of ours may depend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
