"""The range of clips, and how a gradient passes its ends."""

from __future__ import annotations

import torch
from torch import Tensor

# Sums of shares that make one come to one but for this many units in the last place.
_ROUNDING = 16


def clip01(values: Tensor) -> Tensor:
    """Values cut off at 0 and 1, with gradient 1 on the closed interval and 0 outside.

    ``clamp`` gives 0 and 1 themselves the gradient 0, so that whatever is black or saturated (letterbox bars, a clip at
    the end of its budget) would send none, although it can move inwards. What is outside by no more than rounding, as
    the mean of equal ones may be, counts as inside.

    Args:
        values: of any shape, floating point.

    Returns:
        What ``values.clamp(0, 1)`` returns.
    """
    cut = values.clamp(0, 1)
    if not (torch.is_grad_enabled() and values.requires_grad):
        return cut
    near = _ROUNDING * torch.finfo(values.dtype).eps
    inside = (values >= -near) & (values <= 1 + near)
    # The cut values on both sides: only the gradient chooses.
    return cut.detach() + torch.where(inside, values - values.detach(), 0)
