"""How many clips an audit asks at once: as many as there is room for, like a run."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from bench.faults import Failure

T = TypeVar("T")


@dataclass
class Room:
    """Clips for which there is room, as far as is known. Where memory is lacking it halves, and stays so.

    Attributes:
        clips: at least 1.
    """

    clips: int

    def each(self, count: int, work: Callable[[slice], T]) -> list[T]:
        """What ``work`` makes of all of ``count`` clips, in portions for which there is room.

        Args:
            work: is given which clips; its answers must not depend on the others.

        Raises:
            Exception: what ``work`` raises, of too little memory only if one clip alone is too many.
        """
        found: list[T] = []
        done = 0
        while done < count:
            which = slice(done, min(done + self.clips, count))
            try:
                found.append(work(which))
                done = which.stop
                continue
            except Exception as error:
                size = which.stop - done
                if size == 1 or not Failure.of(error).memory:
                    raise
            # Out of the except block: its traceback would keep the tensors of the failed portion alive.
            self.clips = size // 2
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return found
