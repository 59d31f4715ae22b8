"""What a classifier is beyond its answers: whether they are drawn, and whether the other clips of a batch matter."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Nature:
    """How a network has to be asked.

    Attributes:
        random: its answers are drawn, from the global generators of PyTorch, NumPy or Python. It is asked clip by clip,
            each with these seeded by the clip's own stream.
        alone: a clip's answer depends on the others in its batch, or it takes one clip at a time. It is asked so.
    """

    random: bool = False
    alone: bool = False

    @property
    def one_by_one(self) -> bool:
        return self.random or self.alone


PLAIN = Nature()


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Seeds the global generators, and puts them back as they were afterwards."""
    python, numbers = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
