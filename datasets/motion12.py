"""motion12: twelve classes defined by motion alone."""

from __future__ import annotations

from bench import register
from bench.data.procedural import ProceduralDataset


@register(
    "motion12",
    source="VideoRobustBench's own; rendered clips with known flow as in Dosovitskiy et al., FlowNet: Learning Optical "
    "Flow with Convolutional Networks, ICCV 2015",
)
class Motion12(ProceduralDataset):
    """Procedural clips of a textured sprite whose motion is its class; appearance says nothing about it.

    Clips are rendered on demand, deterministic by (split, index), with ground-truth optical flow
    (:func:`bench.data.procedural.render`). Labels cycle, so every block of 12 clips is balanced.

    Args:
        split: ``train``, ``val`` or ``test``; the splits share no clip.
        frames: clip length, at least 2.
        size: side of the square frames in pixels, at least 16.
        length: number of clips in the split.
    """

    recipe = "motion12"
