"""The original adversarial framing: one border around all clips and frames."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bench import Attack, AttackResult, BenchError, Budget, ClipRandom, Target, register
from bench.models.robust import entry_name
from bench.threat.framing import UniversalFraming, framed
from bench.weights.files import load_checkpoint, load_strictly
from bench.weights.zoo import zoo_file

_WIDEST = 4  # for which there are recipes


@register("af_universal", source="Zajac et al., Adversarial Framing for Image and Video Classification, AAAI 2019")
class UniversalFramingAttack(Attack):
    """Shrinks every clip and puts a border around it, the same for all clips and frames.

    The border is learned on training clips of the undefended classifier (``bench train --recipe framing_4``) and costs
    nothing to apply, so that against a defence it is an attack that transfers. Zajac et al. let the frames grow by the
    border; here, as with their option to keep the size, the clip shrinks.

    Args:
        framing: registered model whose learned border is shipped, a file of ``bench train``, or ``black`` or ``random``
            (uniform values, drawn for each clip, the same in all frames), the paper's two baselines.
        dataset: that the border was learned on.
    """

    norms = ("framing",)
    uses_model = False

    def __init__(self, framing: str = "resnet3d_tiny", dataset: str = "actions12") -> None:
        self.framing, self.dataset = framing, dataset
        self.learned = framing not in ("black", "random")
        widths = range(1, _WIDEST + 1) if self.learned else ()
        self.files = tuple(file for width in widths if (file := self._file(width)) is not None)

    def passes(self, budget: Budget) -> tuple[int, int]:
        return 0, 0

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        if isinstance(budget.size, Tensor) or budget.size != int(budget.size):
            raise BenchError(f"The size of a framing is a whole number of pixels for all clips, not {budget.size}.")
        width = int(budget.size)
        if width == 0:
            return AttackResult(clips.clone())
        if self.framing == "black":
            return AttackResult(framed(clips, torch.zeros_like(clips), width))
        if self.framing == "random":
            return AttackResult(framed(clips, rng.uniform(3, 1, *clips.shape[3:], device=clips.device), width))
        return AttackResult(self._learned(width, *clips.shape[3:]).to(clips.device).frame(clips))

    def _file(self, width: int) -> Path | None:
        """The learned border: the file that was given, or a shipped one."""
        if not self.framing.replace("_", "").isalnum():
            return Path(self.framing)
        return zoo_file(entry_name(self.framing, f"framing_{width}"), self.dataset)

    @torch.no_grad()
    def _learned(self, width: int, height: int, breadth: int) -> UniversalFraming:
        file = self._file(width)
        if file is None:
            raise BenchError(
                f"No framing {width} pixels wide is shipped for {self.framing} on {self.dataset}: train it with bench "
                f"train --model {self.framing} --dataset {self.dataset} --recipe framing_{width}, and give the file "
                "with framing=."
            )
        border = UniversalFraming(None, width, height, breadth)
        load_strictly(border, load_checkpoint(file), file)
        if int(border.width) != width:
            raise BenchError(
                f"The framing {file} is {int(border.width)} pixels wide, and the budget's size is {width}."
            )
        return border.requires_grad_(False)
