"""actions12: the motions of motion12, each with a look of its own."""

from __future__ import annotations

from bench import register
from bench.data.procedural import ProceduralDataset


@register(
    "actions12",
    source="VideoRobustBench's own; rendered clips with known flow as in Dosovitskiy et al., FlowNet: Learning Optical "
    "Flow with Convolutional Networks, ICCV 2015; looks that betray the class as in Li, Li and Vasconcelos, RESOUND: "
    "Towards Action Recognition without Representation Bias, ECCV 2018",
)
class Actions12(ProceduralDataset):
    """Procedural clips whose class is the motion, and whose looks mostly betray it, as a scene betrays an action.

    Motions, labels and splits are those of motion12. Each class has a typical outline, palette and background;
    nine clips in ten look typical, each of the others looks like another class and needs its motion to be
    recognised. Frames in random order therefore leave most of the answer in the picture, as on real actions.

    Args:
        split: ``train``, ``val`` or ``test``; the splits share no clip.
        frames: clip length, at least 2.
        size: side of the square frames in pixels, at least 16.
        length: number of clips in the split.
    """

    recipe = "actions12"
